//! Bodies of requests and responses.

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::error::ApiError;
use crate::options::Limits;

/// Reads a body within the limits of size and time.
pub async fn read_body(limits: Limits, request: Request) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("the body is larger than {} bytes", limits.body);
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            message,
        )
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limits.body) {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), limits.body).collect();
    match tokio::time::timeout(limits.receive, body).await {
        Err(_) => {
            let seconds = limits.receive.as_secs();
            let message = format!("the body did not arrive within {seconds} s");
            let status = StatusCode::REQUEST_TIMEOUT;
            Err(ApiError::new(status, "invalid_request_error", message))
        }
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::invalid(format!(
            "the body cannot be read: {error}"
        ))),
    }
}

/// Returns a JSON document.
pub fn json(status: StatusCode, document: String) -> Response {
    let kind = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, kind)], document).into_response()
}
