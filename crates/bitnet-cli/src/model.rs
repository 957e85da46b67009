//! From `-m` and related options to a loaded model.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bitnet_core::{
    ComputeContext, HybridMemoryPool, Isa, IsaError, KvPrecision, TernaryLayout, ThreadPool,
};
use bitnet_inference::{
    ChatOptions, ChatTemplate, Checkpoint, CheckpointError, Device, DeviceError, DeviceKind,
    Engine, HeadPrecision, I2SLayout, LoadTarget, Model, Note, Packing, Plan, PlanError,
    PlanOptions, TemplateOrigin, Tokenizer, WeightCache,
};
use bitnet_server::MemoryTaken;
use clap::{Args, ValueEnum};
use indicatif::HumanBytes;

use crate::device::{ChosenDevice, DeviceArg};
use crate::error::{Interrupted, NoChatTemplate, UsageError};
use crate::input::read_text;
use crate::memory::{self, MemoryWatch, parse_bytes};
use crate::pulled::{model_in, pulled};
use crate::ui::Ui;
use crate::weight_cache::{self, WeightCacheArg};
use crate::windows_names::refuse_device;

pub const BUILTIN: &str = "builtin";

/// Arguments that select a model.
#[derive(Clone, Debug, Args)]
pub struct ModelArg {
    /// A GGUF file or a HuggingFace folder
    #[arg(
        short,
        long,
        value_name = "MODEL",
        default_value = BUILTIN,
        help_heading = "Model",
        value_hint = clap::ValueHint::AnyPath
    )]
    pub model: OsString,
    #[command(flatten)]
    pub layout: LayoutArg,
}

/// Rarely needed options: the layout of I2_S weights, and the revision of a hub
/// repository. Hidden in the help; messages name them where they are needed.
#[derive(Clone, Debug, Default, Args)]
pub struct LayoutArg {
    /// Revision of a model of a hub, as in `-m OWNER/NAME@REVISION`
    #[arg(long, value_name = "REVISION", hide = true)]
    pub revision: Option<String>,
    /// Layout of I2_S weights, which files do not specify: canonical, neon or rows4
    #[arg(long, value_enum, value_name = "LAYOUT", hide = true)]
    pub i2s_layout: Option<I2SLayoutName>,
}

/// `--i2s-layout`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum I2SLayoutName {
    Canonical,
    Neon,
    Rows4,
}

impl LayoutArg {
    /// Sets the requested I2_S layout, or warns if another one seems likely.
    fn apply(&self, checkpoint: &mut Checkpoint, ui: &Ui) -> Result<(), CheckpointError> {
        match self.i2s_layout {
            Some(name) => checkpoint.set_i2s_layout(match name {
                I2SLayoutName::Canonical => I2SLayout::Canonical,
                I2SLayoutName::Neon => I2SLayout::Neon,
                I2SLayoutName::Rows4 => I2SLayout::Rows4,
            })?,
            None => {
                if let Some(layout) = checkpoint.better_i2s_layout() {
                    ui.note(&format!(
                        "warning: the I2_S weights look as if they were in another layout; \
                         try `--i2s-layout {}`",
                        layout.name()
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Arguments that select a model and how it runs.
#[derive(Clone, Debug, Args)]
pub struct RunModelArgs {
    #[command(flatten)]
    pub model: ModelArg,
    #[command(flatten)]
    pub threads: ThreadsArg,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub cache: WeightCacheArg,
}

/// The argument for the number of threads.
#[derive(Clone, Copy, Debug, Args)]
pub struct ThreadsArg {
    /// Threads [default: as many as the system offers]
    #[arg(
        short,
        long,
        value_name = "N",
        help_heading = "Model",
        allow_negative_numbers = true
    )]
    pub threads: Option<usize>,
}

/// Arguments that select the device, kernel, precision and memory limit.
#[derive(Clone, Debug, Args)]
pub struct ComputeArgs {
    /// Device: auto, cpu, vulkan, metal or dx12
    #[arg(
        long,
        default_value = "auto",
        value_name = "KIND",
        help_heading = "Model"
    )]
    pub device: DeviceArg,
    /// CPU kernel, such as avx2 [default: the best]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub kernel: Option<String>,
    /// Pin each thread to a processor
    #[arg(long, help_heading = "Model")]
    pub pin: bool,
    /// Weights packed in 2.0 or 1.6 bits
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        value_name = "BITS",
        hide_possible_values = true,
        help_heading = "Model"
    )]
    pub weight_bits: WeightBitsArg,
    /// Output matrix: exact or int8
    #[arg(
        long,
        value_enum,
        default_value = "int8",
        value_name = "TYPE",
        hide_possible_values = true,
        help_heading = "Model"
    )]
    pub head: HeadArg,
    /// Keys and values: auto, f32, f16, or int8 for long contexts
    #[arg(
        long,
        value_enum,
        default_value = "f16",
        value_name = "TYPE",
        hide_possible_values = true,
        help_heading = "Model"
    )]
    pub kv: KvArg,
    /// Maximum memory use; --gpu-memory-limit: of a GPU
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, help_heading = "Model")]
    pub memory_limit: Option<usize>,
    /// Maximum use of a GPU's memory [default: that of --memory-limit]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, hide = true)]
    pub gpu_memory_limit: Option<usize>,
}

/// `--weight-bits`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightBitsArg {
    Auto,
    #[value(name = "2.0")]
    TwoBits,
    #[value(name = "1.6")]
    Base3,
}

/// `--head`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeadArg {
    Exact,
    Int8,
}

impl HeadArg {
    /// Returns the precision for commands that need all logits.
    pub fn for_all(self) -> HeadPrecision {
        match self {
            Self::Exact => HeadPrecision::Exact,
            Self::Int8 => HeadPrecision::Int8,
        }
    }

    /// Returns the precision for commands that need only the largest logits.
    pub fn for_largest(self) -> HeadPrecision {
        match self {
            Self::Exact => HeadPrecision::ExactTopK,
            Self::Int8 => HeadPrecision::Int8,
        }
    }
}

/// `--kv`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvArg {
    /// F16, or int8 if that exceeds the memory limit.
    Auto,
    F32,
    F16,
    Int8,
}

impl From<KvArg> for KvPrecision {
    fn from(kv: KvArg) -> Self {
        match kv {
            KvArg::F32 => Self::F32,
            KvArg::Auto | KvArg::F16 => Self::F16,
            KvArg::Int8 => Self::Int8,
        }
    }
}

impl From<KvPrecision> for KvArg {
    fn from(kv: KvPrecision) -> Self {
        match kv {
            KvPrecision::F32 => Self::F32,
            KvPrecision::F16 => Self::F16,
            KvPrecision::Int8 => Self::Int8,
        }
    }
}

/// Arguments that select the chat template.
#[derive(Clone, Debug, Args)]
pub struct ChatTemplateArg {
    /// Chat template: a name, a file, or Jinja text [default: the model's]
    #[arg(long, value_name = "TEMPLATE")]
    pub chat_template: Option<OsString>,
    /// Variables for the chat template, such as '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON", value_parser = parse_variables)]
    pub chat_template_kwargs: Option<Variables>,
    /// Let messages contain control tokens, such as <|im_end|>, which are text otherwise
    #[arg(long)]
    pub parse_special: bool,
}

/// `--chat-template-kwargs`
type Variables = serde_json::Map<String, serde_json::Value>;

fn parse_variables(text: &str) -> Result<Variables, String> {
    let expected = "expected a JSON object such as {\"enable_thinking\": false}";
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(variables)) => Ok(variables),
        Ok(_) => Err(format!("{expected}, found another JSON value")),
        Err(error) => Err(format!("{expected}: {error}")),
    }
}

/// A loaded model with its engine and its loading time.
#[derive(Debug)]
pub struct LoadedModel {
    pub engine: Engine,
    pub load_time: Duration,
    memory: MemoryWatch,
    cache: Option<WeightCache>,
}

impl ModelArg {
    /// Returns whether this is the built-in model.
    pub fn is_builtin(&self) -> bool {
        self.model == BUILTIN
    }

    /// Opens the model's file without reading its weights, and prints its notes.
    pub fn open(&self, ui: &Ui) -> anyhow::Result<Checkpoint> {
        let checkpoint = self.open_quietly(ui)?;
        say(checkpoint.notes(), ui);
        Ok(checkpoint)
    }

    /// Checks that the model's file is there.
    pub fn find(&self, ui: &Ui) -> anyhow::Result<()> {
        let revision = self.layout.revision.as_deref();
        let path = Path::new(&self.model);
        if self.is_builtin() || path.exists() || pulled(&self.model, revision, ui)?.is_some() {
            return Ok(());
        }
        self.open_quietly(ui).map(drop)
    }

    /// Opens the model's file without reading its weights.
    pub fn open_quietly(&self, ui: &Ui) -> anyhow::Result<Checkpoint> {
        let revision = self.layout.revision.as_deref();
        if self.is_builtin() && revision.is_none() {
            return open_builtin(ui);
        }
        let mut path = PathBuf::from(&self.model);
        refuse_device(&path)?;
        if (revision.is_some() || !path.exists())
            && let Some(pulled) = pulled(&self.model, revision, ui)?
        {
            path = pulled;
        } else if let Some(model) = model_in(&path, ui) {
            path = model;
        }
        let mut checkpoint = Checkpoint::open(&path).with_context(|| self.failed())?;
        let applied = self.layout.apply(&mut checkpoint, ui);
        applied.with_context(|| self.failed())?;
        Ok(checkpoint)
    }

    /// Reads the model's tokenizer, and prints its notes.
    pub fn tokenizer(&self, checkpoint: &Checkpoint, ui: &Ui) -> anyhow::Result<Tokenizer> {
        let tokenizer = Tokenizer::from_checkpoint(checkpoint)
            .with_context(|| format!("failed to read the tokenizer of {}", self.name()))?;
        for note in tokenizer.notes() {
            ui.note(&format!("note: {note}"));
        }
        Ok(tokenizer)
    }

    /// Returns the model's name as messages and documents show it.
    pub fn name(&self) -> Cow<'_, str> {
        self.model.to_string_lossy()
    }

    fn failed(&self) -> String {
        format!("failed to load {}", self.name())
    }
}

/// Prints the notes of a model.
fn say(notes: &[Note], ui: &Ui) {
    for note in notes {
        let kind = if note.is_warning() { "warning" } else { "note" };
        ui.note(&format!("{kind}: {note}"));
    }
}

#[cfg(feature = "builtin-model")]
#[expect(clippy::unnecessary_wraps, reason = "fails without the feature")]
fn open_builtin(ui: &Ui) -> anyhow::Result<Checkpoint> {
    ui.note(
        "note: this is the built-in demo model, a small storyteller; \
         for a real one: -m FILE.gguf or -m FOLDER",
    );
    Ok(bitnet_inference::builtin::open())
}

#[cfg(not(feature = "builtin-model"))]
fn open_builtin(_: &Ui) -> anyhow::Result<Checkpoint> {
    Err(crate::error::UsageError(
        "this build has no built-in model (feature `builtin-model`); name one with -m".to_owned(),
    )
    .into())
}

impl ChatTemplateArg {
    /// Returns the template's variables besides the messages.
    pub fn options(&self) -> Result<ChatOptions, UsageError> {
        let now = chrono::Local::now();
        let mut options = ChatOptions::new(now.into());
        options.utc_offset = now.offset().local_minus_utc();
        options.parse_special = self.parse_special;
        let variables = self.chat_template_kwargs.clone().unwrap_or_default();
        (options.with_variables(variables))
            .map_err(|error| UsageError(format!("--chat-template-kwargs: {error}")))
    }

    /// Returns the requested template, or the model's by default.
    pub fn resolve(
        &self,
        model: &ModelArg,
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
        ui: &Ui,
    ) -> anyhow::Result<ChatTemplate> {
        let template = match &self.chat_template {
            Some(given) => {
                let text = given.to_string_lossy();
                if text.contains("{{") || text.contains("{%") {
                    ChatTemplate::parse(&text, tokenizer)?
                } else if let Some(template) = ChatTemplate::named(&text, tokenizer) {
                    template
                } else if Path::new(given).is_file() {
                    let source = read_text(given.as_ref())?;
                    ChatTemplate::parse(&source, tokenizer).with_context(|| format!("in {text}"))?
                } else {
                    let names: Vec<_> = ChatTemplate::names().collect();
                    return Err(UsageError(format!(
                        "there is no chat template {text:?}, expected a file, Jinja text, or one \
                         of {}",
                        names.join(", ")
                    ))
                    .into());
                }
            }
            None => ChatTemplate::of_model(checkpoint, tokenizer)
                .with_context(|| model.failed())?
                .ok_or_else(|| NoChatTemplate {
                    model: model.name().into_owned(),
                })?,
        };
        if template.origin() == TemplateOrigin::Corrected {
            ui.note(
                "note: the chat template in this file is known to be wrong and was replaced; \
                 `--chat-template` selects another",
            );
        }
        Ok(template)
    }
}

impl ComputeArgs {
    /// Returns the device that was asked for, or the fastest one for a model.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not there, or cannot compute with the other options.
    pub fn choose_device(
        &self,
        checkpoint: &Checkpoint,
        n_threads: Option<usize>,
    ) -> Result<ChosenDevice, DeviceError> {
        let DeviceArg::Kind { kind, adapter } = &self.device else {
            return Ok(self.fastest_device(checkpoint, n_threads));
        };
        if *kind != DeviceKind::Cpu {
            if self.head == HeadArg::Exact {
                return Err(DeviceError::Head);
            }
            if KvPrecision::from(self.kv) != KvPrecision::F16 {
                return Err(DeviceError::KvPrecision);
            }
        }
        Ok(ChosenDevice {
            device: Device::open(*kind, adapter.as_deref())?,
            why: "as requested".to_owned(),
        })
    }

    fn fastest_device(&self, checkpoint: &Checkpoint, n_threads: Option<usize>) -> ChosenDevice {
        let config = checkpoint.config();
        let cpu_only = [
            (config.dense_linears, "the model has dense linear layers"),
            (
                self.head == HeadArg::Exact,
                "only the CPU has `--head exact`",
            ),
            (
                KvPrecision::from(self.kv) != KvPrecision::F16,
                "only the CPU has other `--kv` than f16",
            ),
            (self.kernel.is_some(), "`--kernel` is one of the CPU"),
        ];
        if let Some((_, why)) = cpu_only.into_iter().find(|(is_so, _)| *is_so) {
            return ChosenDevice {
                device: Device::Cpu,
                why: why.to_owned(),
            };
        }
        let n_bytes = config.n_linear_weights() / 4 + config.vocab_size * config.hidden_dim;
        let n_threads = n_threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let fastest = Device::fastest(n_bytes, config.n_layers, n_threads.clamp(1, 64));
        ChosenDevice {
            device: fastest.device,
            why: format!("the fastest: {}", fastest.reason),
        }
    }

    /// Returns these arguments with the CPU as the device, which `what` needs, and why.
    ///
    /// # Errors
    ///
    /// Returns an error if another device was asked for.
    pub fn on_cpu(&self, what: &str, why: &str) -> Result<Self, UsageError> {
        if self.device != DeviceArg::Auto && self.device != DeviceArg::CPU {
            return Err(UsageError(format!("{what} needs `--device cpu`: {why}")));
        }
        Ok(Self {
            device: DeviceArg::CPU,
            ..self.clone()
        })
    }

    /// Returns the requested instruction set, if any.
    pub fn isa(&self) -> Result<Option<Isa>, IsaError> {
        self.kernel.as_deref().map(Isa::named).transpose()
    }

    /// Returns the packing of weights for this instruction set.
    pub fn packing(&self, isa: Isa, head: HeadPrecision) -> Result<Packing, UsageError> {
        let layout = match self.weight_bits {
            WeightBitsArg::Auto => None,
            WeightBitsArg::TwoBits => Some(TernaryLayout::TwoBits),
            WeightBitsArg::Base3 => Some(TernaryLayout::Base3),
        };
        match layout {
            Some(layout) if !TernaryLayout::available(isa).any(|l| l == layout) => {
                Err(UsageError(format!(
                    "kernel {isa} has no instructions for {layout} weights, expected `--weight-bits \
                     2.0`"
                )))
            }
            layout => Ok(Packing {
                layout,
                ..head.into()
            }),
        }
    }

    /// Returns a plan for these sizes within the memory limit.
    pub fn plan(
        &self,
        device: &Device,
        checkpoint: &Checkpoint,
        head: HeadPrecision,
        sizes: PlanOptions,
    ) -> anyhow::Result<Plan> {
        self.plan_beside(MemoryTaken::default(), device, checkpoint, head, sizes)
    }

    /// Returns a plan for these sizes within the memory that other models leave.
    pub fn plan_beside(
        &self,
        others: MemoryTaken,
        device: &Device,
        checkpoint: &Checkpoint,
        head: HeadPrecision,
        sizes: PlanOptions,
    ) -> anyhow::Result<Plan> {
        let options = PlanOptions {
            device: device.kind(),
            isa: self.isa()?,
            pinned: self.pin,
            kv_precision: self.kv.into(),
            ..sizes
        };
        let planned = self.plan_with(others, checkpoint, head, options);
        let is_too_large =
            |error: &anyhow::Error| matches!(error.downcast_ref(), Some(PlanError::MemoryLimit(_)));
        match planned {
            Err(error)
                if self.kv == KvArg::Auto
                    && options.device == DeviceKind::Cpu
                    && is_too_large(&error) =>
            {
                let options = PlanOptions {
                    kv_precision: KvPrecision::Int8,
                    ..options
                };
                self.plan_with(others, checkpoint, head, options)
            }
            planned => planned,
        }
    }

    fn plan_with(
        &self,
        others: MemoryTaken,
        checkpoint: &Checkpoint,
        head: HeadPrecision,
        options: PlanOptions,
    ) -> anyhow::Result<Plan> {
        let plan = |limit| match limit {
            Some(limit) => Plan::within(limit, checkpoint, head, options),
            None => Plan::new(checkpoint.config(), options),
        };
        if options.device != DeviceKind::Cpu {
            let limit = self.gpu_memory_limit.or(self.memory_limit);
            return Ok(plan(limit.map(|n| n.saturating_sub(others.planned)))?);
        }
        memory::plan_within(self.memory_limit, others, plan)
    }
}

impl LoadedModel {
    /// Saves the packed weights in the cache, if they do not come from there.
    ///
    /// # Errors
    ///
    /// Returns an error if the user interrupts it.
    pub fn keep_weights(&self, ui: &Ui) -> Result<(), Interrupted> {
        match &self.cache {
            Some(cache) => weight_cache::save(cache, self.engine.model(), ui),
            None => Ok(()),
        }
    }

    /// Prints the memory use by category.
    pub fn show_memory(&mut self, ui: &Ui) {
        let usage = self.engine.kv_usage();
        ui.detail(&format!(
            "KV cache: {} of {} pages, {}, room for {} more tokens in them",
            usage.pages,
            usage.max_pages,
            HumanBytes((usage.pages * usage.page_bytes) as u64),
            usage.unused_positions,
        ));
        let report = self.memory.report(self.engine.model().pool());
        for line in report.lines() {
            ui.detail(&line);
        }
    }
}

impl RunModelArgs {
    /// Plans, loads the weights and creates an engine.
    pub fn load(
        &self,
        checkpoint: &Checkpoint,
        context_len: Option<usize>,
        head: HeadPrecision,
        ui: &Ui,
    ) -> anyhow::Result<LoadedModel> {
        let sizes = PlanOptions {
            n_threads: self.threads.threads,
            context_len,
            ..PlanOptions::default()
        };
        let device = self
            .compute
            .choose_device(checkpoint, self.threads.threads)?;
        let plan = self.compute.plan(&device.device, checkpoint, head, sizes)?;
        self.load_as_planned(checkpoint, &device, plan, head, ui)
    }

    /// Loads the weights and creates an engine for a plan.
    pub fn load_as_planned(
        &self,
        checkpoint: &Checkpoint,
        chosen: &ChosenDevice,
        plan: Plan,
        head: HeadPrecision,
        ui: &Ui,
    ) -> anyhow::Result<LoadedModel> {
        let start = Instant::now();
        let mut progress = ui.progress("loading");
        let memory = MemoryWatch::begin();
        let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(plan.n_threads));
        let isa = plan.isa;
        let packing = self.compute.packing(isa, head)?;
        let cache = if self.model.is_builtin() {
            // It has no file.
            None
        } else {
            self.cache.open(ui)?
        };
        let target = LoadTarget {
            device: &chosen.device,
            context_len: plan.context_len,
            cache: cache.as_ref(),
        };
        let model = Model::load_on(
            target,
            checkpoint,
            &pool,
            &mut ComputeContext::new(isa, &mut threads),
            packing,
            |done, total| {
                progress.set(done, total);
            },
        )
        .with_context(|| self.model.failed())?;
        drop((progress, threads));
        say(model.notes(), ui);
        ui.detail(&chosen.describe());
        ui.detail(&format!(
            "plan: kernel {}, {} threads{}, context {}, passes of {} tokens, {} head",
            plan.isa,
            plan.n_threads,
            if plan.pinned { ", pinned" } else { "" },
            plan.context_len,
            plan.batch_tokens,
            match head {
                HeadPrecision::Exact => "exact",
                HeadPrecision::ExactTopK => "screened exact",
                HeadPrecision::Int8 => "int8",
            }
        ));
        ui.detail(&format!(
            "memory: {} weights{}, ternary ones in {}, up to {} KV cache in {}, {} scratch",
            HumanBytes(model.n_bytes() as u64),
            if model.is_from_cache() {
                " mapped from the cache"
            } else {
                ""
            },
            model.layout(),
            HumanBytes(plan.kv_bytes as u64),
            match plan.kv_precision {
                KvPrecision::F32 => "f32",
                KvPrecision::F16 => "f16",
                KvPrecision::Int8 => "int8",
            },
            HumanBytes(plan.scratch_bytes as u64),
        ));
        let engine = Engine::new(Arc::new(model), plan)?;
        let load_time = start.elapsed();
        ui.detail(&format!("loaded in {:.3} s", load_time.as_secs_f64()));
        Ok(LoadedModel {
            engine,
            load_time,
            memory,
            cache,
        })
    }
}
