#![cfg_attr(feature = "builtin-model", doc = include_str!("../README.md"))]
//!
//! # From file to text
//!
//! ```text
//! path ──► Checkpoint ──► Model ──► Plan, Engine ──► logits ──► Sampler ──► text
//!          format/        model/    plan, engine,               sampler,    tokenizer/
//!                                   forward, kv_cache           generate
//! ```
//!
//! A [`Checkpoint`] is a validated GGUF file or HuggingFace folder; only the weight values
//! are not checked. [`Model::load`] packs the weights into the memory layout of the kernels.
//! An [`Engine`] runs a model as configured by a [`Plan`]. The library never prints and does
//! not access the terminal.
//!
//! The same model and tokens give bit-identical logits on every CPU, for any number of
//! threads, any split of the prompt into batches, and any other sequences in the batch.
//!
//! `wasm32-unknown-unknown` has one thread, no files and no clock: the model comes from
//! `builtin`, and the final crate selects a `getrandom` backend, see `examples/wasm.rs`.
#![deny(unsafe_code)]

#[cfg(feature = "builtin-model")]
pub mod builtin;
mod cache_folder;
mod chat;
mod chooser;
mod clock;
mod constraint;
pub mod convert;
mod device;
mod engine;
mod format;
mod forward;
mod generate;
#[cfg(feature = "grammar")]
mod grammar;
mod header_estimate;
mod kv_cache;
mod logits;
mod logits_processor;
mod logprobs;
mod memory_estimate;
mod model;
mod moving_average;
mod note;
mod page_store;
mod pass;
mod perplexity;
mod plan;
mod receipt;
mod sampler;
mod sampling_defaults;
mod scheduler;
mod spec;
mod speculation;
mod stop;
mod token_set;
mod tokenizer;
mod validate;
mod weight_cache;

pub use bitnet_quant::{DenseType, TernaryType};
pub use chat::{ChatError, ChatOptions, ChatPrompt, ChatTemplate, Message, Role, TemplateOrigin};
pub use constraint::{Constraint, ConstraintError, Grammar};
pub use device::{Adapter, Device, DeviceError, DeviceInfo, DeviceKind, FastestDevice, Unusable};
pub use engine::{Engine, ForwardError, Input, LoadError};
pub use format::checkpoint::{Checkpoint, CheckpointError};
pub use format::gguf;
pub use format::i2s_layout::I2SLayout;
#[cfg(unix)]
pub use format::mapping::watch_mapped_files;
pub use format::tensor::{Encoding, StoredTensor};
pub use generate::{
    Event, FinishReason, GenerateError, GenerateOptions, Generation, generate, generate_within,
};
#[cfg(feature = "grammar")]
pub use grammar::{CompiledGrammar, GrammarCompiler, GrammarError};
pub use header_estimate::header_estimate;
pub use kv_cache::{KvUsage, SequenceError, SequenceHandle};
pub use logits::Logits;
pub use logits_processor::{LogitsProcessor, LogitsProcessorError};
pub use logprobs::TokenLogprobs;
pub use memory_estimate::{MemoryEstimate, MemoryLimitError, MemoryOptions};
pub use model::skipping::{Share, Skipped};
pub use model::{HeadPrecision, LoadTarget, Model, ModelError, Packing};
pub use note::Note;
pub use page_store::{PageStore, Restored};
pub use perplexity::{Perplexity, PerplexityError, perplexity};
pub use plan::{Plan, PlanError, PlanOptions};
pub use receipt::{Receipt, ReceiptEngine, ReceiptError, ReceiptRequest, Verdict, content_hash};
pub use sampler::{MIN_TEMPERATURE, REPEAT_WINDOW, Sampler, SamplerError, SamplerOptions};
pub use sampling_defaults::SamplingDefaults;
pub use scheduler::{
    GenerationTask, PrefillBudget, Scheduler, SchedulerCounts, SchedulerOptions, StepEngine,
    StepLimits, StepReport, Task, TaskError, TaskEvent, TaskId, TaskUsage, Work,
};
pub use spec::config::{Activation, ActivationPrecision, Config, ConfigError, Pooling};
pub use spec::family::Family;
pub use spec::multipliers::Multipliers;
pub use spec::rope::{Rope, RopeScaling};
pub use spec::sliding::SlidingWindow;
pub use speculation::DraftCost;
pub use stop::{EmptyStopError, StopMatcher, StopSequences};
pub use token_set::TokenSet;
pub use tokenizer::{TextStream, Tokenizer, TokenizerError, TokenizerNote};
pub use validate::{WeightError, validate};
pub use weight_cache::{CachedWeights, Saved, WeightCache, WeightCacheLimits};
