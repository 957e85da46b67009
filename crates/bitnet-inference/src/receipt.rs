//! Receipts: what a text was computed from, so that anybody who has the weights can compute it
//! again, on any machine.

use std::fmt::Write;
use std::ops::ControlFlow;

use bitnet_core::KvPrecision;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::constraint::Constraint;
use crate::engine::Engine;
use crate::format::checkpoint::Checkpoint;
use crate::generate::{
    Event, FinishReason, GenerateError, GenerateOptions, Generation, generate_within,
};
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
    /// The [`content_hash`] of the model.
    pub weights: String,
    head: Head,
    kv: Kv,
    /// Positions of the context.
    pub context: usize,
    /// The sampling parameters with the seed.
    pub sampling: SamplerOptions,
    /// The schema that the text follows.
    pub json_schema: Option<Value>,
    /// The prompt, BOS included.
    pub prompt_ids: Vec<u32>,
    /// The tokens of the text.
    pub ids: Vec<u32>,
    end: End,
    /// SHA-256 of the receipt without this field, in hexadecimal digits.
    digest: String,
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
    /// Returns the receipt of a generation of an engine with this output matrix, and of a model
    /// with this [`content_hash`].
    pub fn new(
        engine: &Engine,
        head: HeadPrecision,
        weights: String,
        options: &GenerateOptions<'_>,
        json_schema: Option<Value>,
        generation: &Generation,
    ) -> Self {
        let plan = engine.plan();
        let mut receipt = Self {
            version: VERSION,
            weights,
            head: match head {
                HeadPrecision::Exact | HeadPrecision::ExactTopK => Head::Exact,
                HeadPrecision::Int8 => Head::Int8,
            },
            kv: match plan.kv_precision {
                KvPrecision::F32 => Kv::F32,
                KvPrecision::F16 => Kv::F16,
                KvPrecision::Int8 => Kv::Int8,
            },
            context: plan.context_len,
            sampling: options.sampling,
            json_schema,
            prompt_ids: options.prompt.to_vec(),
            ids: generation.ids.clone(),
            end: match generation.finish_reason {
                FinishReason::Eos => End::Eos,
                FinishReason::Length | FinishReason::Stop => End::Cut,
            },
            digest: String::new(),
        };
        receipt.digest = receipt.computed_digest();
        receipt
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
            digest: String::new(),
            ..self.clone()
        };
        hex(&Sha256::digest(without.to_json()))
    }

    /// Computes the text again, with the constraint of [`json_schema`](Self::json_schema), until
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
        let mut ids = self.prompt_ids.iter().chain(&self.ids);
        if let Some(&id) = ids.find(|id| **id as usize >= vocab_size) {
            return Err(ReceiptError::Token { id, vocab_size });
        }
        let is_whole = self.end == End::Eos;
        let options = GenerateOptions {
            sampling: self.sampling,
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
