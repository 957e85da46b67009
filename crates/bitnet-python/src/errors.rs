//! The exceptions of `bitnet_rust.errors`, from the library's errors.

use bitnet_cli::Failure;
use bitnet_inference::{ForwardError, SequenceError, TokenizerError};
use bitnet_server::{LocalError, LocalStartError, RequestError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Returns an exception of this class of `bitnet_rust.errors`, with these attributes.
fn exception(
    py: Python<'_>,
    class: &str,
    message: &str,
    attributes: &[(&str, Option<&str>)],
) -> PyErr {
    let made = || {
        let class = py.import("bitnet_rust.errors")?.getattr(class)?;
        let given = PyDict::new(py);
        for (name, value) in attributes {
            given.set_item(name, value)?;
        }
        class.call((message,), Some(&given))
    };
    made().map_or_else(|error| error, PyErr::from_value)
}

/// Returns the exception of a model that cannot be loaded.
pub fn load_failed(py: Python<'_>, failure: &Failure) -> PyErr {
    let class = if failure.is_usage {
        "ModelOptionError"
    } else {
        "ModelError"
    };
    exception(
        py,
        class,
        &failure.message,
        &[("hint", failure.hint.as_deref())],
    )
}

/// Returns the exception of a model that cannot answer.
pub fn start_failed(py: Python<'_>, error: &LocalStartError) -> PyErr {
    let cause = std::error::Error::source(error);
    let message = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    exception(py, "ModelError", &message, &[])
}

/// Returns the exception of a text that has no tokens.
pub fn not_tokenized(py: Python<'_>, error: &TokenizerError) -> PyErr {
    exception(py, "RequestError", &error.to_string(), &[])
}

/// Returns the exception of a request that is wrong.
pub fn invalid(py: Python<'_>, message: &str) -> PyErr {
    exception(py, "RequestError", message, &[])
}

/// Returns the exception of a model that was closed.
pub fn closed(py: Python<'_>) -> PyErr {
    exception(py, "ClosedError", &LocalError::Closed.to_string(), &[])
}

/// Returns the exception of a request.
pub fn failed(py: Python<'_>, error: &LocalError) -> PyErr {
    if let LocalError::Request(RequestError {
        status,
        message,
        param,
        code,
    }) = error
    {
        let class = match (status, code.as_deref()) {
            (_, Some("context_length_exceeded")) => "ContextLengthError",
            (429, _) => "QueueFullError",
            (500.., _) => "ComputeError",
            _ => "RequestError",
        };
        let attributes = [("param", param.as_deref()), ("code", code.as_deref())];
        return exception(py, class, message, &attributes);
    }
    let class = match error {
        LocalError::Closed => "ClosedError",
        LocalError::Sequence(SequenceError::ContextFull { .. })
        | LocalError::Forward(ForwardError::ContextFull { .. }) => "ContextLengthError",
        LocalError::Sequence(_)
        | LocalError::SequencePages { .. }
        | LocalError::TooManySequences { .. }
        | LocalError::Forward(ForwardError::Grow(_)) => "CacheFullError",
        LocalError::Truncate { .. } | LocalError::Forward(ForwardError::Token { .. }) => {
            "RequestError"
        }
        _ => "ComputeError",
    };
    exception(py, class, &error.to_string(), &[])
}
