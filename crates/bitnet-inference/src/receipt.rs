//! Receipts: what a text was computed from, so that anybody who has the weights can compute it
//! again, on any machine.

use std::fmt::Write;
use std::ops::ControlFlow;

use bitnet_core::KvPrecision;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::constraint::{Constraint, Grammar};
use crate::device::DeviceKind;
use crate::engine::Engine;
use crate::format::checkpoint::Checkpoint;
use crate::generate::{Event, FinishReason, GenerateError, GenerateOptions, generate_within};
use crate::model::HeadPrecision;
use crate::sampler::SamplerOptions;
use crate::validate::validate;

/// The version of the format.
const VERSION: u32 = 1;

/// Everything that the tokens of a text depend on, and the tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    version: u32,
    /// The [`content_hash`] of the model; empty if it is not known.
    pub weights: String,
    head: Head,
    kv: Kv,
    /// Positions of the context.
    pub context: usize,
    /// The sampling parameters with the seed, which is 0 if sampling is greedy.
    pub sampling: SamplerOptions,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// What the text follows.
    pub grammar: Option<Grammar>,
    /// The prompt, BOS included.
    pub prompt_ids: Vec<u32>,
    /// The tokens of the text.
    pub ids: Vec<u32>,
    end: End,
    /// SHA-256 of the receipt without this field and the weights, in hexadecimal digits.
    ///
    /// Without the weights, a server can say it of every text without hashing them. Who
    /// names other weights is found out when the text is computed again.
    digest: String,
}

/// An engine, as far as tokens depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptEngine {
    /// The precision of the output matrix.
    pub head: HeadPrecision,
    /// The precision of keys and values.
    pub kv: KvPrecision,
    /// Positions of the context.
    pub context: usize,
}

impl ReceiptEngine {
    /// Returns what tokens depend on in an engine; `None` if it computes on a GPU, whose
    /// floats are its own.
    pub fn of(engine: &Engine) -> Option<Self> {
        let plan = engine.plan();
        (plan.device == DeviceKind::Cpu).then(|| Self {
            head: engine.model().head_precision(),
            kv: plan.kv_precision,
            context: plan.context_len,
        })
    }
}

/// A text that was asked for.
#[derive(Clone, Debug)]
pub struct ReceiptRequest {
    /// The prompt, BOS included.
    pub prompt: Vec<u32>,
    /// The sampling parameters.
    pub sampling: SamplerOptions,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// What the text follows.
    pub grammar: Option<Grammar>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Head {
    Exact,
    Int8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kv {
    F32,
    F16,
    Int8,
}

/// Why the text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum End {
    /// The model ended it.
    Eos,
    /// A limit or the user ended it: more tokens could have followed.
    Cut,
}

/// Why a receipt cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// It is not in the form of a receipt.
    #[error("this is no receipt")]
    Json(#[from] serde_json::Error),
    /// It has another version.
    #[error("the receipt has version {0}, expected {VERSION}")]
    Version(u32),
    /// It is not as it was written.
    #[error("the receipt was changed: its digest is {found}, expected {expected}")]
    Digest {
        /// The digest in the receipt.
        found: String,
        /// That of its content.
        expected: String,
    },
    /// A token is not in the vocabulary of the model.
    #[error("the receipt has the token {id}, but the model has {vocab_size} tokens")]
    Token {
        /// The token.
        id: u32,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// The text cannot be computed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

/// What came of computing a text again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every token is the same, and so is the end.
    Equal,
    /// The texts differ from a token on.
    Different {
        /// Its index in the text.
        index: usize,
        /// The token of the receipt; `None` if its text ends here.
        receipt: Option<u32>,
        /// The token that was computed; `None` if the text ends here.
        computed: Option<u32>,
    },
}

impl Receipt {
    /// Returns the receipt of a text that an engine computed: of its tokens, and of why it
    /// ended after them. The hash of the weights is empty.
    pub fn new(
        engine: ReceiptEngine,
        request: ReceiptRequest,
        ids: Vec<u32>,
        end: FinishReason,
    ) -> Self {
        let mut receipt = Self {
            version: VERSION,
            weights: String::new(),
            head: match engine.head {
                HeadPrecision::Exact | HeadPrecision::ExactTopK => Head::Exact,
                HeadPrecision::Int8 => Head::Int8,
            },
            kv: match engine.kv {
                KvPrecision::F32 => Kv::F32,
                KvPrecision::F16 => Kv::F16,
                KvPrecision::Int8 => Kv::Int8,
            },
            context: engine.context,
            sampling: SamplerOptions {
                // It decides nothing then: the same request has the same digest.
                seed: if request.sampling.is_greedy() {
                    0
                } else {
                    request.sampling.seed
                },
                ..request.sampling
            },
            logit_bias: request.logit_bias,
            grammar: request.grammar,
            prompt_ids: request.prompt,
            ids,
            end: match end {
                FinishReason::Eos => End::Eos,
                FinishReason::Length | FinishReason::Stop => End::Cut,
            },
            digest: String::new(),
        };
        receipt.digest = receipt.computed_digest();
        receipt
    }

    /// Returns the receipt with the [`content_hash`] of the model.
    #[must_use]
    pub fn with_weights(self, weights: String) -> Self {
        Self { weights, ..self }
    }

    /// Returns the digest.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Reads a receipt.
    ///
    /// # Errors
    ///
    /// Returns an error if it is none, has another version, or was changed.
    pub fn from_json(json: &[u8]) -> Result<Self, ReceiptError> {
        let receipt: Self = serde_json::from_slice(json)?;
        if receipt.version != VERSION {
            return Err(ReceiptError::Version(receipt.version));
        }
        let expected = receipt.computed_digest();
        if receipt.digest != expected {
            let found = receipt.digest;
            return Err(ReceiptError::Digest { found, expected });
        }
        Ok(receipt)
    }

    /// Returns the receipt as a JSON document.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("receipts have string keys")
    }

    /// Returns the precision of the output matrix that is needed to compute the text again.
    pub fn head(&self) -> HeadPrecision {
        match self.head {
            Head::Exact => HeadPrecision::ExactTopK,
            Head::Int8 => HeadPrecision::Int8,
        }
    }

    /// Returns the precision of keys and values that is needed to compute the text again.
    pub fn kv_precision(&self) -> KvPrecision {
        match self.kv {
            Kv::F32 => KvPrecision::F32,
            Kv::F16 => KvPrecision::F16,
            Kv::Int8 => KvPrecision::Int8,
        }
    }

    fn computed_digest(&self) -> String {
        let without = Self {
            weights: String::new(),
            digest: String::new(),
            ..self.clone()
        };
        hex(&Sha256::digest(without.to_json()))
    }

    /// Computes the text again, within the constraint of its [`grammar`](Self::grammar), until
    /// a token differs. The engine must have this precision of the output matrix, keys and
    /// values, and this context; that the weights are the same is for the caller to check.
    ///
    /// # Errors
    ///
    /// Returns an error if the text cannot be computed.
    pub fn verify(
        &self,
        engine: &mut Engine,
        constraint: Option<Box<dyn Constraint>>,
        is_eog: impl Fn(u32) -> bool,
        mut on_token: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Verdict>, ReceiptError> {
        let vocab_size = engine.model().config().vocab_size;
        let biased = self.logit_bias.iter().map(|(id, _)| id);
        let mut ids = self.prompt_ids.iter().chain(&self.ids).chain(biased);
        if let Some(&id) = ids.find(|id| **id as usize >= vocab_size) {
            return Err(ReceiptError::Token { id, vocab_size });
        }
        let is_whole = self.end == End::Eos;
        let options = GenerateOptions {
            sampling: self.sampling,
            logit_bias: &self.logit_bias,
            ..GenerateOptions::new(&self.prompt_ids, self.ids.len() + usize::from(is_whole))
        };
        let (mut n_equal, mut different, mut is_stopped) = (0, None, false);
        let generation = generate_within(engine, &options, constraint, is_eog, |event| {
            let Event::Token(computed) = event else {
                return ControlFlow::Continue(());
            };
            let receipt = self.ids.get(n_equal).copied();
            if receipt != Some(computed) {
                different = Some(Verdict::Different {
                    index: n_equal,
                    receipt,
                    computed: Some(computed),
                });
                return ControlFlow::Break(());
            }
            n_equal += 1;
            let next = on_token(n_equal);
            is_stopped = next.is_break();
            next
        })?;
        if is_stopped {
            return Ok(None);
        }
        let ends_early = n_equal < self.ids.len();
        let ends_else = is_whole && generation.finish_reason != FinishReason::Eos;
        Ok(Some(match different {
            Some(different) => different,
            None if ends_early || ends_else => Verdict::Different {
                index: n_equal,
                receipt: self.ids.get(n_equal).copied(),
                computed: None,
            },
            None => Verdict::Equal,
        }))
    }
}

/// Returns SHA-256 of the weights in hexadecimal digits, the same for every file of the same
/// model (see [`validate`]); `None` if `progress` cancelled it.
pub fn content_hash(
    checkpoint: &Checkpoint,
    progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Option<String> {
    let mut hasher = Sha256::new();
    validate(checkpoint, |bytes| hasher.update(bytes), progress)?;
    Some(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}
