//! The model that a server serves.

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bitnet_inference::{
    ChatOptions, ChatTemplate, Checkpoint, Engine, ForwardError, GrammarCompiler, GrammarError,
    Input, Logits, ReceiptEngine, Tokenizer,
};

use crate::job::Command;
use crate::options::RequestDefaults;

/// A model with all that requests need. The engine has more sequences than texts are
/// generated at the same time: the others keep prefixes.
#[derive(Debug)]
pub struct ServedModel {
    /// The name in `/v1/models`.
    pub name: String,
    /// Whether it is the built-in one.
    pub is_builtin: bool,
    /// Its files, whose weights a receipt names.
    pub checkpoint: Arc<Checkpoint>,
    /// Its engine.
    pub engine: Engine,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template, if it has one.
    pub template: Option<ChatTemplate>,
    /// What the template gets besides the messages, unless a request says otherwise. The
    /// time is that of the request.
    pub chat_options: ChatOptions,
    /// What holds where a request says nothing.
    pub defaults: RequestDefaults,
    /// Where prefixes of its texts are saved, if they are.
    pub prefix_folder: Option<PrefixFolder>,
    /// Number of weights.
    pub n_parameters: usize,
}

/// Where prefixes of a model's texts are saved.
#[derive(Clone, Debug)]
pub struct PrefixFolder {
    /// The folder, which models may share.
    pub path: PathBuf,
    /// Maximum bytes of its files.
    pub max_bytes: u64,
    /// What identifies the weights, such as their hash.
    pub weights: String,
}

/// What requests need of a model, without the engine.
#[derive(Debug)]
pub struct ModelFacts {
    pub name: String,
    pub is_builtin: bool,
    pub tokenizer: Arc<Tokenizer>,
    pub template: Option<ChatTemplate>,
    pub chat_options: ChatOptions,
    pub defaults: RequestDefaults,
    /// The way to its worker, which ends when nobody has one.
    pub commands: Sender<Command>,
    pub fingerprint: String,
    pub checkpoint: Arc<Checkpoint>,
    /// The hash of the weights, once a receipt was asked for.
    pub weights_hash: OnceLock<String>,
    /// What receipts say of the engine; `None` on a GPU.
    pub receipt: Option<ReceiptEngine>,
    pub family: &'static str,
    pub context_len: usize,
    pub vocab_size: usize,
    pub n_parameters: usize,
    pub weight_bytes: usize,
    pub hidden_dim: usize,
    pub grammars: Result<GrammarCompiler, GrammarError>,
    /// The time of every request, instead of the clock's.
    pub time: Option<SystemTime>,
    /// Unix time in seconds.
    pub loaded_at: u64,
}

/// What lists tell of a model, also when it is not loaded any more.
#[derive(Clone, Debug)]
pub struct About {
    /// Whether it is the built-in one.
    pub is_builtin: bool,
    /// A hash of what it computes, `system_fingerprint` in the API.
    pub fingerprint: String,
    /// The name of its family.
    pub family: &'static str,
    /// Positions per text.
    pub context_len: usize,
    /// Number of tokens that it has rows for.
    pub vocab_size: usize,
    /// Number of weights.
    pub n_parameters: usize,
    /// Bytes of the weights in memory.
    pub weight_bytes: usize,
    /// Whether it has a chat template.
    pub has_template: bool,
    /// Whether the template has tools.
    pub has_tools: bool,
    /// Unix time in seconds.
    pub loaded_at: u64,
}

/// What a call of a tool begins with in an answer.
pub const TOOL_CALL: &str = "<tool_call>";

impl ModelFacts {
    /// Returns the time of a request that is read now.
    pub fn now(&self) -> SystemTime {
        self.time.unwrap_or_else(SystemTime::now)
    }

    /// Returns [`now`](Self::now) as Unix time in seconds.
    pub fn unix_time(&self) -> u64 {
        self.unix_millis() / 1000
    }

    /// Returns [`now`](Self::now) as Unix time in milliseconds.
    pub fn unix_millis(&self) -> u64 {
        unix_millis(self.now())
    }

    /// Returns what lists tell of the model.
    pub fn about(&self) -> About {
        About {
            is_builtin: self.is_builtin,
            fingerprint: self.fingerprint.clone(),
            family: self.family,
            context_len: self.context_len,
            vocab_size: self.vocab_size,
            n_parameters: self.n_parameters,
            weight_bytes: self.weight_bytes,
            has_template: self.template.is_some(),
            has_tools: self.has_tools(),
            loaded_at: self.loaded_at,
        }
    }

    /// Returns whether the chat template has tools, in the form whose calls are known.
    pub fn has_tools(&self) -> bool {
        let source = self
            .template
            .as_ref()
            .map_or("", |template| template.source());
        source.contains("tools") && source.contains(TOOL_CALL)
    }
}

impl ServedModel {
    /// Splits the model into its engine and the rest, whose worker takes `commands`.
    pub(crate) fn split(
        mut self,
        time: Option<SystemTime>,
        commands: Sender<Command>,
    ) -> Result<(Engine, ModelFacts), ForwardError> {
        let fingerprint = fingerprint(&mut self.engine, &self.tokenizer)?;
        let model = self.engine.model();
        let config = model.config();
        let facts = ModelFacts {
            name: self.name,
            is_builtin: self.is_builtin,
            template: self.template,
            chat_options: self.chat_options,
            defaults: self.defaults,
            commands,
            fingerprint,
            checkpoint: self.checkpoint,
            weights_hash: OnceLock::new(),
            receipt: ReceiptEngine::of(&self.engine),
            family: config.family.name(),
            context_len: self.engine.plan().context_len,
            vocab_size: config.vocab_size,
            n_parameters: self.n_parameters,
            weight_bytes: model.n_bytes(),
            hidden_dim: config.hidden_dim,
            grammars: GrammarCompiler::new(Arc::clone(&self.tokenizer), config.vocab_size),
            tokenizer: self.tokenizer,
            time,
            loaded_at: unix_millis(time.unwrap_or_else(SystemTime::now)) / 1000,
        };
        Ok((self.engine, facts))
    }
}

fn unix_millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Returns a hash of what the model computes from its first tokens, and of its vocabulary:
/// the same on every machine, and another one if weights, format or arithmetic change.
fn fingerprint(engine: &mut Engine, tokenizer: &Tokenizer) -> Result<String, ForwardError> {
    let vocab_size = engine.model().config().vocab_size as u32;
    let mut hash = Fnv::new();
    let tokens: Vec<u32> = (0..vocab_size.min(4)).collect();
    let input = Input {
        sequence: 0,
        tokens: &tokens[..tokens.len().min(engine.plan().context_len)],
        logits: Logits::Last,
    };
    engine.forward(&[input], |_, _, logits| {
        for logit in logits {
            hash.add(&logit.to_bits().to_le_bytes());
        }
    })?;
    engine.truncate(0, 0);
    for id in 0..vocab_size {
        hash.add(&tokenizer.bytes(id));
        hash.add(&[0xff]);
    }
    Ok(format!("bitnet-{:016x}", hash.0))
}

/// The hash FNV-1a of 64 bits: stable, unlike that of the standard library.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
