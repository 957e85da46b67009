//! Loads models when they are asked for, and unloads idle ones that were not asked for longest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::app::App;
use crate::error::ApiError;
use crate::model::ServedModel;
use crate::models::{LoadFailure, Loaded, LoaderCommand, MemoryTaken, ModelMemory, Models};
use crate::saved_prefixes::SavedPrefixes;
use crate::{job, worker};

/// A model that is loaded when it is asked for.
pub struct ModelSource<'a> {
    /// The name in the API.
    pub name: String,
    /// Loads the model within the memory that the loaded ones leave.
    pub load: Box<dyn Fn(MemoryTaken) -> Result<ServedModel, ModelLoadError> + 'a>,
}

/// Why a model is not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelLoadError {
    /// It does not fit into the memory that is left.
    #[error("{message}")]
    Memory {
        /// Bytes that it needs at least.
        needed: usize,
        /// Bytes that are left.
        left: usize,
        /// The reason, with all numbers.
        message: String,
    },
    /// It cannot be loaded.
    #[error("{0}")]
    Model(String),
}

/// Serves models until the server is asked to end. `first` is loaded already, and the first
/// one of `sources` if there are any. Returns whether every job was done.
pub fn run(
    app: &Arc<App>,
    first: ServedModel,
    sources: &[ModelSource<'_>],
    on_ready: impl FnOnce(),
) -> bool {
    let (sender, commands) = std::sync::mpsc::channel();
    let names = sources.iter().map(|source| source.name.clone());
    let names = match sources {
        [] => vec![first.name.clone()],
        _ => names.collect(),
    };
    let models = Models::new(names, sender.clone());
    let mut loader = Loader {
        app,
        sources,
        commands,
        sender,
        workers: HashMap::new(),
        n_started: 0,
        was_drained: true,
    };
    let name = first.name.clone();
    match loader.start(first) {
        Ok(loaded) => models.set(0, Ok(loaded)),
        Err(error) => {
            tracing::error!(
                model = name,
                error = error.body.message,
                "the model cannot be served"
            );
            return false;
        }
    }
    app.metrics.loaded(&name);
    let models = app.set_models(models);
    on_ready();
    while !app.is_draining() {
        match loader.commands.recv() {
            Ok(LoaderCommand::Load(index)) => loader.load(models, index),
            Ok(LoaderCommand::Ended(worker)) => loader.join(worker),
            Ok(LoaderCommand::Wake) => {}
            // The models have the other end.
            Err(_) => break,
        }
    }
    models.close();
    let workers: Vec<u64> = loader.workers.keys().copied().collect();
    for worker in workers {
        loader.join(worker);
    }
    loader.was_drained
}

struct Loader<'a> {
    app: &'a Arc<App>,
    sources: &'a [ModelSource<'a>],
    commands: Receiver<LoaderCommand>,
    sender: Sender<LoaderCommand>,
    workers: HashMap<u64, JoinHandle<bool>>,
    n_started: u64,
    was_drained: bool,
}

/// Tells that a worker has ended, also if it panics.
struct TellEnd {
    worker: u64,
    loader: Sender<LoaderCommand>,
}

impl Drop for TellEnd {
    fn drop(&mut self) {
        // Without a loader nobody needs to know.
        let _ = self.loader.send(LoaderCommand::Ended(self.worker));
    }
}

impl Loader<'_> {
    /// Loads a model, and makes it known.
    fn load(&mut self, models: &Models, index: usize) {
        let name = &self.sources[index].name;
        let start = Instant::now();
        let loaded = self.load_fitting(models, index);
        match &loaded {
            Ok(loaded) => {
                self.app.metrics.loaded(name);
                let (ms, bytes) = (start.elapsed().as_millis() as u64, loaded.memory.planned);
                tracing::info!(model = name, ms, bytes, "model loaded");
            }
            Err(LoadFailure::Memory(error) | LoadFailure::Model(error)) => {
                self.app.metrics.failed_to_load(name);
                tracing::error!(model = name, error = error.body.message, "model not loaded");
            }
        }
        models.set(index, loaded);
    }

    /// Loads a model, and unloads idle ones first if it fits without them.
    fn load_fitting(&mut self, models: &Models, index: usize) -> Result<Loaded, LoadFailure> {
        let source = &self.sources[index];
        loop {
            match (source.load)(models.memory()) {
                Ok(model) => return self.start(model).map_err(LoadFailure::Model),
                Err(ModelLoadError::Memory {
                    needed,
                    left,
                    message,
                }) => {
                    let may_fit = needed <= left.saturating_add(models.idle_bytes());
                    if !may_fit || !self.unload_one(models) {
                        let busy = models.memory().n_models;
                        return Err(LoadFailure::Memory(ApiError::no_memory(
                            &source.name,
                            &message,
                            busy,
                        )));
                    }
                }
                Err(ModelLoadError::Model(message)) => {
                    let error = ApiError::not_loaded(&source.name, &message);
                    return Err(LoadFailure::Model(error));
                }
            }
        }
    }

    /// Unloads an idle model, and returns whether there was one.
    fn unload_one(&mut self, models: &Models) -> bool {
        let Some(unloaded) = models.unload_one() else {
            return false;
        };
        let Loaded { facts, worker, .. } = unloaded;
        let name = facts.name.clone();
        // The worker ends when nobody can ask it any more; its engine with it.
        drop((facts, unloaded.memory));
        self.join(worker);
        self.app.metrics.unloaded(&name);
        tracing::info!(model = name, "model unloaded");
        true
    }

    /// Starts the worker of a model.
    fn start(&mut self, model: ServedModel) -> Result<Loaded, ApiError> {
        let name = model.name.clone();
        let memory = ModelMemory::of(&model);
        let folder = model.prefix_folder.clone();
        let (sender, commands) = job::channel();
        let split = model.split(self.app.options.time, sender);
        let (engine, facts) =
            split.map_err(|error| ApiError::not_loaded(&name, &error.to_string()))?;
        let worker = self.n_started;
        self.n_started += 1;
        let end = TellEnd {
            worker,
            loader: self.sender.clone(),
        };
        let (app, tokenizer) = (Arc::clone(self.app), Arc::clone(&facts.tokenizer));
        let prefixes = folder.and_then(|folder| SavedPrefixes::open(&folder, &facts, &engine));
        let thread = std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || {
                let _end = end;
                worker::run(&app, engine, &tokenizer, prefixes, &commands)
            })
            .map_err(|error| ApiError::not_loaded(&name, &error.to_string()))?;
        self.workers.insert(worker, thread);
        Ok(Loaded {
            facts: Arc::new(facts),
            memory,
            worker,
        })
    }

    /// Waits for the end of a worker. Its panic ends the server.
    fn join(&mut self, worker: u64) {
        if let Some(thread) = self.workers.remove(&worker) {
            match thread.join() {
                Ok(was_drained) => self.was_drained &= was_drained,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    }
}
