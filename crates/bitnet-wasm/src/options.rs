//! The options of a model and of a request, as JSON.

use bitnet_core::KvPrecision;
use bitnet_inference::{
    Grammar, HeadPrecision, MIN_TEMPERATURE, PlanOptions, SamplerOptions, SamplingDefaults,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::failure::{Code, Failure};

/// Texts that are computed at the same time; more wait.
pub(crate) const MAX_RUNNING: usize = 4;

/// Reads options.
///
/// # Errors
///
/// Returns an error if one has the wrong type, or its name is unknown.
pub fn read<T: DeserializeOwned>(json: &str) -> Result<T, Failure> {
    serde_json::from_str(json).map_err(|error| {
        let message = error.to_string();
        // The place is one in a document that the caller never saw.
        let message = message.split(" at line ").next().unwrap_or_default();
        Failure::new(Code::BadArgument, message)
    })
}

/// Options of a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelOptions {
    /// Positions of a text, prompt included; by default those of the model, at most 4096.
    pub context_length: Option<usize>,
    /// The precision of the output matrix.
    #[serde(default)]
    pub head: Head,
    /// The precision of keys and values.
    #[serde(default)]
    pub kv: Kv,
    /// Number of threads, the calling one included.
    pub threads: usize,
    /// Maximum bytes of the memory of the module.
    pub memory_limit: f64,
}

/// `head`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// As stored.
    Exact,
    /// Int8.
    #[default]
    Int8,
}

/// `kv`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kv {
    /// Float, 32 bits.
    F32,
    /// Float, 16 bits.
    #[default]
    F16,
    /// Integers of 8 bits.
    Int8,
}

impl ModelOptions {
    /// Returns the precision of the output matrix. The exact one gets its int8 copy, as in the
    /// program.
    pub(crate) fn head(&self) -> HeadPrecision {
        match self.head {
            Head::Exact => HeadPrecision::ExactTopK,
            Head::Int8 => HeadPrecision::Int8,
        }
    }

    /// Returns the options of a plan for one text at a time.
    pub(crate) fn plan(&self) -> PlanOptions {
        PlanOptions {
            n_threads: Some(self.threads),
            context_len: self.context_length,
            kv_precision: match self.kv {
                Kv::F32 => KvPrecision::F32,
                Kv::F16 => KvPrecision::F16,
                Kv::Int8 => KvPrecision::Int8,
            },
            ..PlanOptions::default()
        }
    }
}

/// A prompt.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// A text, to which BOS is added.
    Text(String),
    /// Tokens, BOS included.
    Ids(Vec<u32>),
}

/// Options of a text.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TextOptions {
    /// Maximum number of tokens; by default 128.
    pub max_tokens: Option<usize>,
    /// See [`SamplerOptions`], whose names the next ones have. By default what the model
    /// recommends.
    pub temperature: Option<f32>,
    /// 0 keeps all.
    pub top_k: Option<usize>,
    /// A sum of probabilities.
    pub top_p: Option<f32>,
    /// A relative probability.
    pub min_p: Option<f32>,
    /// 1 changes nothing.
    pub repeat_penalty: Option<f32>,
    /// 0 changes nothing.
    pub presence_penalty: Option<f32>,
    /// 0 changes nothing.
    pub frequency_penalty: Option<f32>,
    /// Tokens that penalties look back at.
    pub penalty_window: Option<usize>,
    /// The seed, a number below 2^64 as text.
    pub seed: String,
    /// Texts that end the text without being part of it.
    #[serde(default)]
    pub stop: Vec<String>,
    /// A JSON schema that the text follows.
    pub json_schema: Option<Value>,
    /// A regular expression that it follows.
    pub regex: Option<String>,
    /// A Lark grammar that it follows.
    pub grammar: Option<String>,
    /// Whether tokens are drafted from what the text repeats; by default they are.
    pub speculate: Option<bool>,
    /// Of a chat: tools for the template.
    pub tools: Option<Vec<Value>>,
    /// Of a chat: the name of a built-in template, or the source of one. By default the
    /// model's.
    pub template: Option<String>,
    /// Of a chat: variables of the template.
    #[serde(default)]
    pub variables: Map<String, Value>,
}

impl TextOptions {
    /// Returns the sampling parameters, as the program takes them from its arguments.
    ///
    /// # Errors
    ///
    /// Returns an error if the seed is not a number.
    pub(crate) fn sampling(&self, model: &SamplingDefaults) -> Result<SamplerOptions, Failure> {
        let is_greedy = self.temperature.is_some_and(|t| t < MIN_TEMPERATURE);
        let default = if is_greedy {
            // Greedy decoding was requested, so the model's penalties do not apply.
            SamplingDefaults::default().options()
        } else {
            model.options()
        };
        let seed = self.seed.parse().map_err(|_| {
            let message = format!("seed is {:?}, expected an integer below 2^64", self.seed);
            Failure::new(Code::BadArgument, message)
        })?;
        Ok(SamplerOptions {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            penalty_window: self.penalty_window.unwrap_or(default.penalty_window),
            seed,
        })
    }

    /// Returns what the text follows.
    ///
    /// # Errors
    ///
    /// Returns an error if it would have to follow several.
    pub(crate) fn grammar(&self) -> Result<Option<Grammar>, Failure> {
        let given = [
            self.json_schema.clone().map(Grammar::JsonSchema),
            self.regex.clone().map(Grammar::Regex),
            self.grammar.clone().map(Grammar::Lark),
        ];
        let mut given = given.into_iter().flatten();
        let grammar = given.next();
        if given.next().is_some() {
            let message = "expected one of jsonSchema, regex and grammar, found several";
            return Err(Failure::new(Code::BadArgument, message));
        }
        Ok(grammar)
    }
}
