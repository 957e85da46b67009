//! The receipts of texts: what each was computed from, for `bitnet verify`.

use std::ops::ControlFlow;
use std::sync::Arc;

use bitnet_inference::{FinishReason, Receipt, ReceiptRequest, content_hash};
use serde::Serialize;
use serde_json::Value;

use super::aside;
use super::fields::Fields;
use super::generation::Generation;
use crate::app::App;
use crate::error::ApiError;
use crate::model::ModelFacts;

/// What a reply says about how a text was computed.
#[derive(Clone, Debug, Serialize)]
pub struct TextReceipt {
    /// The digest of the receipt.
    receipt_digest: String,
    /// The receipt, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
}

impl TextReceipt {
    /// Adds the fields to a document.
    pub fn add_to(&self, document: &mut Value) {
        let fields = serde_json::to_value(self).expect("receipts have string keys");
        for (name, value) in fields.as_object().into_iter().flatten() {
            document[name] = value.clone();
        }
    }
}

/// Takes whether receipts are wanted, and not their digests alone.
pub fn take(fields: &mut Fields) -> Result<bool, ApiError> {
    Ok(fields.take("receipt", "true or false")?.unwrap_or(false))
}

/// Makes the receipts of the texts of a request.
#[derive(Debug)]
pub struct Receipts {
    model: Arc<ModelFacts>,
    /// What each text was asked with.
    requests: Vec<ReceiptRequest>,
    /// The hash of the weights, if whole receipts are wanted.
    weights: Option<String>,
}

impl Receipts {
    /// Returns the receipts of a generation. If they are wanted as a whole, the weights are
    /// hashed at the first time.
    pub async fn of(
        app: &App,
        model: &Arc<ModelFacts>,
        generation: &Generation,
    ) -> Result<Self, ApiError> {
        let weights = if generation.receipt {
            if model.receipt.is_none() {
                return Err(ApiError::invalid(
                    "receipt: the model is on a GPU, and what that computes is not the same on \
                     other machines",
                ));
            }
            Some(weights(app, model).await?)
        } else {
            None
        };
        Ok(Self {
            model: Arc::clone(model),
            requests: generation.receipt_requests(),
            weights,
        })
    }

    /// Returns the receipt of the text with this index, unless it is computed on a GPU.
    pub fn receipt(
        &self,
        index: usize,
        tokens: &[u32],
        reason: FinishReason,
    ) -> Option<TextReceipt> {
        let request = self.requests[index].clone();
        let receipt = Receipt::new(self.model.receipt?, request, tokens.to_vec(), reason);
        Some(TextReceipt {
            receipt_digest: receipt.digest().to_owned(),
            receipt: (self.weights.clone()).map(|weights| receipt.with_weights(weights)),
        })
    }
}

/// Returns the hash of the weights.
async fn weights(app: &App, model: &Arc<ModelFacts>) -> Result<String, ApiError> {
    if let Some(hash) = model.weights_hash.get() {
        return Ok(hash.clone());
    }
    // Others wait for the same hash: threads are left to read requests.
    let leave = app.leave_to_compile().await;
    let model = Arc::clone(model);
    aside(move || {
        let _leave = leave;
        let go_on = |_, _| ControlFlow::Continue(());
        let hash = model.weights_hash.get_or_init(|| {
            let hash = content_hash(&model.checkpoint, go_on);
            hash.expect("nothing cancels it")
        });
        Ok(hash.clone())
    })
    .await
}
