//! The models of `serve`: from `-m` to their names, and to what loads them.

use std::cell::Cell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use bitnet_inference::Checkpoint;
use bitnet_server::{MemoryTaken, ModelLoadError, ModelSource, PrefixFolder, ServedModel};

use super::served_model::{ServedModelArgs, memory_limit};
use crate::error::UsageError;
use crate::memory::parse_bytes;
use crate::model::{BUILTIN, LayoutArg, ModelArg};
use crate::pulled::models_in;
use crate::ui::{Ui, Verbosity};

/// Arguments that select the models of a server.
#[derive(Debug, clap::Args)]
pub struct ServedModelsArg {
    /// A model or a folder of models, with a name for the API; may be given several times
    #[arg(
        short,
        long,
        value_name = "[NAME=]MODEL",
        default_value = BUILTIN,
        help_heading = "Model",
        value_hint = clap::ValueHint::AnyPath
    )]
    model: Vec<OsString>,
    #[command(flatten)]
    layout: LayoutArg,
}

/// Arguments that select where the beginnings of texts are saved.
#[derive(Debug, clap::Args)]
pub struct CacheArgs {
    /// Folder that keeps the beginnings of texts for the next run
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    cache_dir: Option<PathBuf>,
    /// Maximum size of that folder
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "4GiB",
        value_parser = parse_bytes,
        requires = "cache_dir"
    )]
    cache_size: usize,
}

impl CacheArgs {
    /// Makes the folder, and checks that files can be written there.
    pub fn prepare(&self) -> anyhow::Result<()> {
        let Some(folder) = &self.cache_dir else {
            return Ok(());
        };
        let made = std::fs::create_dir_all(folder);
        made.and_then(|()| tempfile::tempfile_in(folder).map(drop))
            .with_context(|| format!("failed to write into {}", folder.display()))
    }

    /// Returns where the beginnings of texts of a model are saved.
    fn folder_of(&self, checkpoint: &Checkpoint) -> Option<PrefixFolder> {
        let path = self.cache_dir.clone()?;
        Some(PrefixFolder {
            path,
            max_bytes: self.cache_size as u64,
            weights: format!("{:032x}", checkpoint.stored_hash()),
        })
    }
}

/// A model with its name in the API.
#[derive(Debug)]
pub struct NamedModel {
    pub name: String,
    pub model: ModelArg,
}

impl ServedModelsArg {
    /// Returns the models, at least one, each with a name of its own.
    ///
    /// # Errors
    ///
    /// Returns an error if two have the same name, a name is not for one model, or several
    /// would have their KV precision chosen.
    pub fn named(&self, args: &ServedModelArgs, ui: &Ui) -> Result<Vec<NamedModel>, UsageError> {
        let mut all: Vec<NamedModel> = Vec::new();
        for given in &self.model {
            let (name, model) = split(given)?;
            if let (Some(name), Some(alias)) = (&name, &args.alias) {
                let message = format!("--alias {alias} names a model that is named {name} already");
                return Err(UsageError(message));
            }
            let inside = models_in(Path::new(&model), ui);
            match (name, inside.len()) {
                (Some(name), 2..) => {
                    return Err(UsageError(format!(
                        "{name}= names one model, but {} has {}",
                        Path::new(&model).display(),
                        inside.len()
                    )));
                }
                (None, 2..) => {
                    let paths = inside.into_iter().map(OsString::from);
                    all.extend(paths.map(|path| self.model(None, path, args)));
                }
                (name, _) => all.push(self.model(name, model, args)),
            }
        }
        if let (Some(alias), 2..) = (&args.alias, all.len()) {
            return Err(UsageError(format!(
                "--alias {alias} names one model, but there are {}; \
                 `-m NAME=MODEL` names each",
                all.len()
            )));
        }
        if args.has_auto_kv() && all.len() > 1 {
            let message = "--kv auto depends on the memory that other models leave, and answers \
                           must not: with several models, give f16 or int8";
            return Err(UsageError(message.to_owned()));
        }
        let mut seen = std::collections::HashMap::new();
        for named in &all {
            if let Some(other) = seen.insert(&named.name, &named.model) {
                return Err(UsageError(format!(
                    "{} and {} have the same name, {:?}; `-m NAME=MODEL` gives another",
                    other.name(),
                    named.model.name(),
                    named.name
                )));
            }
        }
        Ok(all)
    }

    fn model(&self, name: Option<String>, model: OsString, args: &ServedModelArgs) -> NamedModel {
        let model = ModelArg {
            model,
            layout: self.layout.clone(),
        };
        NamedModel {
            name: name.unwrap_or_else(|| args.name_of(&model)),
            model,
        }
    }
}

/// Splits `NAME=MODEL`; what is the path of a file has no name.
fn split(given: &OsString) -> Result<(Option<String>, OsString), UsageError> {
    match given.to_str().and_then(|text| text.split_once('=')) {
        Some((name, model)) if !Path::new(given).exists() => {
            if name.is_empty() || model.is_empty() {
                let message = format!("`-m {}`, expected NAME=MODEL", given.display());
                return Err(UsageError(message));
            }
            Ok((Some(name.to_owned()), model.into()))
        }
        _ => Ok((None, given.clone())),
    }
}

impl NamedModel {
    /// Returns what loads the model when a request asks for it.
    pub fn source<'a>(
        &'a self,
        args: &'a ServedModelArgs,
        cache: &'a CacheArgs,
        ui: &'a Ui,
    ) -> ModelSource<'a> {
        let quiet = Ui::new(Verbosity::Quiet);
        let was_loaded = Cell::new(false);
        let load = move |others| {
            // What there is to note is noted once.
            let ui = if was_loaded.replace(true) { &quiet } else { ui };
            let checkpoint = self.model.open(ui);
            checkpoint
                .and_then(|checkpoint| self.load(args, cache, &Arc::new(checkpoint), others, ui))
                .map_err(|error| load_error(&error))
        };
        ModelSource {
            name: self.name.clone(),
            load: Box::new(load),
        }
    }

    /// Loads the model beside others.
    pub fn load(
        &self,
        args: &ServedModelArgs,
        cache: &CacheArgs,
        checkpoint: &Arc<Checkpoint>,
        others: MemoryTaken,
        ui: &Ui,
    ) -> anyhow::Result<ServedModel> {
        Ok(ServedModel {
            prefix_folder: cache.folder_of(checkpoint),
            ..args.load(&self.name, &self.model, checkpoint, others, ui)?
        })
    }
}

fn load_error(error: &anyhow::Error) -> ModelLoadError {
    let message = format!("{error:#}");
    match memory_limit(error) {
        Some(limit) => ModelLoadError::Memory {
            needed: limit.estimate.total(),
            left: limit.limit,
            message,
        },
        None => ModelLoadError::Model(message),
    }
}
