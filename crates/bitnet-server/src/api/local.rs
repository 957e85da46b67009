//! Texts for the program that contains the server: with their tokens, and without documents.

use std::sync::Arc;

use bitnet_inference::{FinishReason, LogitsProcessor, TaskUsage};
use serde_json::Value;

use super::fields::Fields;
use super::generation::GeneratedText;
use super::receipts::Receipts;
use super::reply::AskedTexts;
use super::{Asked, aside, completions};
use crate::app::{App, Client};
use crate::error::ApiError;
use crate::job::{JobEvent, TextEvent};
use crate::model::ModelFacts;
use crate::response_cache::TextEvents;

/// What happened to a text.
#[derive(Clone, Debug, Default)]
pub struct LocalText {
    /// Index of the text: prompt by prompt.
    pub index: usize,
    /// The text that is certain with the tokens.
    pub text: String,
    /// New tokens.
    pub tokens: Vec<u32>,
    /// The log-probabilities of the prompt's tokens from the second on, if they were asked
    /// for, and whether each is that of the most likely token.
    pub prompt_logprobs: Vec<(f32, bool)>,
    /// Of the last piece.
    pub end: Option<LocalEnd>,
}

/// How a text ended.
#[derive(Clone, Debug)]
pub struct LocalEnd {
    /// Why.
    pub reason: FinishReason,
    /// Its tokens.
    pub usage: TaskUsage,
    /// The seed of its request.
    pub seed: u64,
    /// An object with the digest of the receipt, and the receipt if it was asked for. A text
    /// whose logits were processed has none: nobody could compute it again.
    pub receipt: Value,
}

/// The texts of a request.
pub struct LocalTexts {
    events: TextEvents,
    receipts: Option<Receipts>,
    /// The tokens of each text.
    tokens: Vec<Vec<u32>>,
    n_left: usize,
    seed: u64,
}

impl LocalTexts {
    /// Asks with the document of a completion.
    pub async fn ask(
        app: &Arc<App>,
        model: &Arc<ModelFacts>,
        body: &str,
        processor: Option<Box<dyn LogitsProcessor>>,
    ) -> Result<Self, ApiError> {
        let asked = Asked {
            model: Arc::clone(model),
            client: Client(0),
            fields: Fields::parse(body.as_bytes(), app.options.lenient)?,
        };
        let defaults = model.defaults;
        let asked = aside(move || completions::read(asked, defaults)).await?;
        let AskedTexts { generation, .. } = asked;
        let n_texts = generation.prompts.len() * generation.n;
        if generation.best_of > generation.n {
            let message = "best_of is for /v1/completions: pieces of texts cannot be ranked";
            return Err(ApiError::field("best_of", message));
        }
        if processor.is_some() && n_texts != 1 {
            let message = format!("a logits processor is for one text, not for {n_texts}");
            return Err(ApiError::invalid(message));
        }
        let receipts = match processor {
            None => Some(Receipts::of(app, model, &generation).await?),
            Some(_) => None,
        };
        let seed = generation.sampling.options.seed;
        let events = generation.submit_processed(app, model, Client(0), processor);
        Ok(Self {
            events: events.await?,
            receipts,
            tokens: vec![Vec::new(); n_texts],
            n_left: n_texts,
            seed,
        })
    }

    /// Waits for what happens next; `None` if all texts have ended.
    pub async fn next(&mut self) -> Result<Option<LocalText>, ApiError> {
        while self.n_left > 0 {
            let event = self.events.next().await;
            let JobEvent { index, event } = event.ok_or_else(ApiError::ending)?;
            if matches!(event, TextEvent::Accepted) {
                continue;
            }
            let mut happened = GeneratedText::default();
            happened.add(event)?;
            let text = self.text(index, happened);
            self.n_left -= usize::from(text.end.is_some());
            return Ok(Some(text));
        }
        Ok(None)
    }

    fn text(&mut self, index: usize, happened: GeneratedText) -> LocalText {
        let tokens = &mut self.tokens[index];
        tokens.extend_from_slice(&happened.tokens);
        let is_first = |token: u32, top: &[(u32, f32)]| top.first().is_some_and(|t| t.0 == token);
        let scores = happened.prompt_logprobs.iter();
        let receipts = &self.receipts;
        let end = happened.reason.map(|reason| LocalEnd {
            reason,
            usage: happened.usage,
            seed: self.seed,
            receipt: (receipts.as_ref())
                .and_then(|receipts| receipts.receipt(index, tokens, reason))
                .map_or(Value::Null, |receipt| {
                    let mut document = Value::Object(serde_json::Map::new());
                    receipt.add_to(&mut document);
                    document
                }),
        });
        LocalText {
            index,
            text: happened.text,
            tokens: happened.tokens,
            prompt_logprobs: scores
                .map(|scored| (scored.logprob, is_first(scored.token, &scored.top)))
                .collect(),
            end,
        }
    }
}
