//! The model that answers requests, and what holds where they say nothing.

use std::path::Path;
use std::sync::Arc;

use bitnet_core::KvPage;
use bitnet_inference::{
    Checkpoint, Device, HeadPrecision, MemoryLimitError, Plan, PlanError, PlanOptions,
};
use bitnet_server::{MemoryTaken, RequestDefaults, ServedModel, ServerOptions};

use super::generation::{SamplingArgs, SpeculationArgs, parse_count_or_all};
use crate::error::NoChatTemplate;
use crate::model::{ChatTemplateArg, ComputeArgs, KvArg, ModelArg, RunModelArgs, ThreadsArg};
use crate::ui::Ui;
use crate::weight_cache::WeightCacheArg;

/// Sequences that keep the prefixes of finished texts.
const N_CACHED: usize = 32;

/// Arguments of commands that answer requests, besides those that select models.
#[derive(Debug, clap::Args)]
pub struct ServedModelArgs {
    #[command(flatten)]
    threads: ThreadsArg,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    cache: WeightCacheArg,
    /// Context length of each request [default: model's, up to 4096]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    context: Option<usize>,
    /// Texts generated at the same time
    #[arg(long, value_name = "N", default_value = "8", value_parser = parse_parallel)]
    parallel: usize,
    /// Name of the model in the API [default: its file's]
    #[arg(long, value_name = "NAME")]
    pub alias: Option<String>,
    /// Ignore fields that are unknown or cannot be honoured, and list them in `bitnet-ignored`
    #[arg(long)]
    lenient: bool,
    /// Maximum tokens of a text; -1: no limit [default: completions 16, chats no limit]
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        value_parser = parse_count_or_all,
        allow_negative_numbers = true
    )]
    max_tokens: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    speculation: SpeculationArgs,
    #[command(flatten)]
    template: ChatTemplateArg,
}

fn parse_parallel(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1024) => Ok(n),
        _ => Err("expected a number from 1 to 1024".to_owned()),
    }
}

impl ServedModelArgs {
    /// Validates the arguments as far as possible without a model.
    pub fn validate(&self) -> anyhow::Result<()> {
        Ok(self.sampling.validate()?)
    }

    /// Returns the options of requests; the others have their defaults.
    pub fn options(&self) -> ServerOptions {
        ServerOptions {
            max_running: self.parallel,
            speculate: self.speculation.is_on(),
            lenient: self.lenient,
            ..ServerOptions::default()
        }
    }

    /// Loads a model under a name, beside others.
    pub fn load(
        &self,
        name: &str,
        model: &ModelArg,
        checkpoint: &Arc<Checkpoint>,
        others: MemoryTaken,
        ui: &Ui,
    ) -> anyhow::Result<ServedModel> {
        let tokenizer = model.tokenizer(checkpoint, ui)?;
        let template = match self.template.resolve(model, checkpoint, &tokenizer, ui) {
            Ok(template) => Some(template),
            Err(error) if error.is::<NoChatTemplate>() => {
                ui.note("note: the model has no chat template; it continues texts");
                None
            }
            Err(error) => return Err(error),
        };
        let head = self.compute.head.for_largest();
        let device = (self.compute).choose_device(checkpoint, self.threads.threads)?;
        let plan = self.plan(&device.device, checkpoint, head, others)?;
        let run = RunModelArgs {
            model: model.clone(),
            threads: self.threads,
            compute: self.compute.clone(),
            cache: self.cache,
        };
        let loaded = run.load_as_planned(checkpoint, &device, plan, head, ui)?;
        loaded.keep_weights(ui)?;
        let tensors = checkpoint.tensors();
        Ok(ServedModel {
            name: name.to_owned(),
            is_builtin: model.is_builtin(),
            checkpoint: Arc::clone(checkpoint),
            engine: loaded.engine,
            tokenizer: Arc::new(tokenizer),
            template,
            chat_options: self.template.options()?,
            defaults: RequestDefaults {
                sampling: self.sampling.options(checkpoint, ui),
                seed: self.sampling.seed(),
                max_tokens: self.max_tokens,
            },
            prefix_folder: None,
            n_parameters: tensors.iter().map(|t| t.n_rows * t.n_cols).sum(),
        })
    }

    /// Returns a plan with KV pages for as many full contexts as fit into memory, at most
    /// one per text: requests share them.
    fn plan(
        &self,
        device: &Device,
        checkpoint: &Checkpoint,
        head: HeadPrecision,
        others: MemoryTaken,
    ) -> anyhow::Result<Plan> {
        let mut n_contexts = self.parallel;
        loop {
            let one = PlanOptions {
                n_threads: self.threads.threads,
                context_len: self.context,
                ..PlanOptions::default()
            };
            let context_len = Plan::new(checkpoint.config(), one)?.context_len;
            let sizes = PlanOptions {
                n_sequences: Some(self.parallel + N_CACHED),
                kv_pages: Some(n_contexts * context_len.div_ceil(KvPage::POSITIONS)),
                ..one
            };
            let plan = self
                .compute
                .plan_beside(others, device, checkpoint, head, sizes);
            match plan {
                Err(error) if n_contexts > 1 && is_memory_limit(&error) => n_contexts /= 2,
                plan => return plan,
            }
        }
    }

    /// Returns whether the precision of keys and values follows from the memory.
    pub fn has_auto_kv(&self) -> bool {
        self.compute.kv == KvArg::Auto
    }

    /// Returns the name of a model in the API: the alias, or that of its file.
    pub fn name_of(&self, model: &ModelArg) -> String {
        if let Some(alias) = &self.alias {
            return alias.clone();
        }
        let name = model.name();
        let path = Path::new(&*name);
        let is_file = path.extension().is_some_and(|end| end == "gguf");
        let last = if is_file {
            path.file_stem()
        } else {
            path.file_name()
        };
        last.map_or_else(
            || name.to_string(),
            |last| last.to_string_lossy().into_owned(),
        )
    }
}

fn is_memory_limit(error: &anyhow::Error) -> bool {
    memory_limit(error).is_some()
}

/// Returns the error of a model that exceeds the memory limit, if this is one.
pub fn memory_limit(error: &anyhow::Error) -> Option<&MemoryLimitError> {
    let mut causes = error.chain();
    causes.find_map(|cause| match cause.downcast_ref() {
        Some(PlanError::MemoryLimit(error)) => Some(&**error),
        _ => None,
    })
}
