//! The models of a server: which there are, which are loaded, and who waits for one.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitnet_core::HybridMemoryPool;
use bitnet_core::memory::Category;
use tokio::sync::oneshot;

use crate::error::ApiError;
use crate::job::Command;
use crate::model::{About, ModelFacts, ServedModel};

/// A model that failed to load is not tried again within this time.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// The models of a server, in the order of their names on the command line.
#[derive(Debug)]
pub struct Models {
    names: Vec<String>,
    inner: Mutex<Inner>,
    loader: Sender<LoaderCommand>,
}

/// What the thread that loads models is asked for.
#[derive(Debug)]
pub enum LoaderCommand {
    /// Load the model with this index.
    Load(usize),
    /// A worker has ended.
    Ended(u64),
    /// Look at the state of the server again.
    Wake,
}

#[derive(Debug)]
struct Inner {
    slots: Vec<Slot>,
    /// Number of times that a model was asked for.
    n_asked: u64,
    /// Whether no model will be loaded any more.
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Slot {
    state: State,
    /// Of the last time that it was loaded.
    about: Option<About>,
    /// The value of [`Inner::n_asked`] when it was asked for last.
    asked: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Unloaded,
    Loading {
        waiting: Vec<oneshot::Sender<Result<Arc<ModelFacts>, ApiError>>>,
    },
    Loaded(Loaded),
    Failed {
        error: ApiError,
        until: Instant,
    },
}

/// A loaded model.
#[derive(Debug)]
pub struct Loaded {
    /// Each request holds a reference: a model with no other one than this is idle.
    pub facts: Arc<ModelFacts>,
    pub memory: ModelMemory,
    /// The number of its worker.
    pub worker: u64,
}

/// The memory of a loaded model.
#[derive(Clone, Debug)]
pub struct ModelMemory {
    /// Bytes with all pages of its KV cache.
    pub planned: usize,
    /// Where its bytes come from.
    pub pool: HybridMemoryPool,
}

impl ModelMemory {
    /// Returns the memory of a model.
    pub fn of(model: &ServedModel) -> Self {
        let (plan, weights) = (model.engine.plan(), model.engine.model());
        Self {
            planned: weights.n_bytes() + plan.kv_bytes + plan.scratch_bytes,
            pool: weights.pool().clone(),
        }
    }
}

/// The memory of the loaded models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryTaken {
    /// Number of models.
    pub n_models: usize,
    /// Bytes that they need at most, with all pages of their KV caches.
    pub planned: usize,
    /// Bytes of these that are allocated already.
    pub allocated: usize,
}

/// What lists tell of a model.
#[derive(Debug)]
pub struct Listed<'a> {
    pub name: &'a str,
    pub status: Status,
    /// `None` if it was never loaded.
    pub about: Option<About>,
}

/// Whether a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Unloaded,
    Loading,
    Loaded,
    Failed,
}

impl Models {
    /// Returns models of which none is loaded.
    pub fn new(names: Vec<String>, loader: Sender<LoaderCommand>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                slots: names.iter().map(|_| Slot::default()).collect(),
                n_asked: 0,
                is_closed: false,
            }),
            names,
            loader,
        }
    }

    /// Returns one model, which is loaded and stays so.
    pub fn one(facts: ModelFacts, memory: ModelMemory) -> Self {
        let (loader, _) = std::sync::mpsc::channel();
        let models = Self::new(vec![facts.name.clone()], loader);
        let loaded = Loaded {
            facts: Arc::new(facts),
            memory,
            worker: 0,
        };
        models.set(0, Ok(loaded));
        models
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the names of all models.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the index of the model with this name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// Returns the error of a request for a model that is not there; `what` is wrong.
    pub fn not_found(&self, what: &str) -> ApiError {
        let names: Vec<_> = self.names.iter().map(|name| format!("{name:?}")).collect();
        let message = format!("{what}, this server has {}", names.join(", "));
        ApiError::not_found(message).with_code("model_not_found")
    }

    /// Returns a model, and loads it first if it is not loaded. It stays loaded at least as
    /// long as it is referred to.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be loaded, or the server ends.
    pub async fn get(&self, index: usize) -> Result<Arc<ModelFacts>, ApiError> {
        let loaded = {
            let mut inner = self.lock();
            if inner.is_closed {
                return Err(ApiError::ending());
            }
            inner.n_asked += 1;
            let asked = inner.n_asked;
            let slot = &mut inner.slots[index];
            slot.asked = asked;
            let (sender, loaded) = oneshot::channel();
            match &mut slot.state {
                State::Loaded(loaded) => return Ok(Arc::clone(&loaded.facts)),
                State::Failed { error, until } if Instant::now() < *until => {
                    return Err(error.clone());
                }
                State::Loading { waiting } => waiting.push(sender),
                State::Unloaded | State::Failed { .. } => {
                    slot.state = State::Loading {
                        waiting: vec![sender],
                    };
                    // It listens until `close`.
                    let _ = self.loader.send(LoaderCommand::Load(index));
                }
            }
            loaded
        };
        loaded.await.unwrap_or_else(|_| Err(ApiError::ending()))
    }

    /// Makes a loaded model known, or why it cannot be loaded, to those who wait for it.
    pub fn set(&self, index: usize, loaded: Result<Loaded, LoadFailure>) {
        let mut inner = self.lock();
        let slot = &mut inner.slots[index];
        let (state, answer) = match loaded {
            Ok(loaded) => {
                slot.about = Some(loaded.facts.about());
                let facts = Arc::clone(&loaded.facts);
                (State::Loaded(loaded), Ok(facts))
            }
            Err(LoadFailure::Memory(error)) => (State::Unloaded, Err(error)),
            Err(LoadFailure::Model(error)) => {
                let failed = State::Failed {
                    error: error.clone(),
                    until: Instant::now() + RETRY_PAUSE,
                };
                (failed, Err(error))
            }
        };
        if let State::Loading { waiting } = std::mem::replace(&mut slot.state, state) {
            for sender in waiting {
                // Whoever has gone does not wait any more.
                let _ = sender.send(answer.clone());
            }
        }
    }

    /// Unloads the idle model that was not asked for longest, and returns what is left of it.
    pub fn unload_one(&self) -> Option<Loaded> {
        let mut inner = self.lock();
        let idle = inner.slots.iter_mut().filter(|slot| slot.is_idle());
        let slot = idle.min_by_key(|slot| slot.asked)?;
        match std::mem::take(&mut slot.state) {
            State::Loaded(loaded) => Some(loaded),
            _ => unreachable!("only loaded models are idle"),
        }
    }

    /// Returns the bytes that idle models need at most.
    pub fn idle_bytes(&self) -> usize {
        let inner = self.lock();
        let idle = inner.slots.iter().filter(|slot| slot.is_idle());
        idle.filter_map(Slot::loaded)
            .map(|l| l.memory.planned)
            .sum()
    }

    /// Returns the memory of the loaded models.
    pub fn memory(&self) -> MemoryTaken {
        let inner = self.lock();
        let mut taken = MemoryTaken::default();
        for loaded in inner.slots.iter().filter_map(Slot::loaded) {
            let usage = loaded.memory.pool.usage();
            let files = usage.of(Category::MappedFile).current;
            taken.n_models += 1;
            taken.planned += loaded.memory.planned;
            taken.allocated += usage.total.current.saturating_sub(files);
        }
        taken
    }

    /// Returns what lists tell of each model.
    pub fn list(&self) -> Vec<Listed<'_>> {
        let inner = self.lock();
        let named = self.names.iter().zip(&inner.slots);
        let listed = named.map(|(name, slot)| Listed {
            name,
            status: slot.status(),
            about: slot.about.clone(),
        });
        listed.collect()
    }

    /// Returns whether one of them has tools, as far as they were loaded.
    pub fn have_tools(&self) -> bool {
        let inner = self.lock();
        let mut known = inner.slots.iter().filter_map(|slot| slot.about.as_ref());
        known.any(|about| about.has_tools)
    }

    /// Has workers and loader look at the state of the server.
    pub fn wake(&self) {
        let _ = self.loader.send(LoaderCommand::Wake);
        for loaded in self.lock().slots.iter().filter_map(Slot::loaded) {
            // If the worker has ended, there is nobody to wake.
            let _ = loaded.facts.commands.send(Command::Wake);
        }
    }

    /// Loads nothing any more.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.is_closed = true;
        for slot in &mut inner.slots {
            if matches!(slot.state, State::Loading { .. }) {
                slot.state = State::Unloaded;
            }
        }
        drop(inner);
        self.wake();
    }
}

/// The error of a model that is not loaded.
#[derive(Debug)]
pub enum LoadFailure {
    /// It does not fit now.
    Memory(ApiError),
    /// It is wrong.
    Model(ApiError),
}

impl Slot {
    fn loaded(&self) -> Option<&Loaded> {
        match &self.state {
            State::Loaded(loaded) => Some(loaded),
            _ => None,
        }
    }

    /// Returns whether it is loaded, and no request refers to it: none can begin to without
    /// the lock.
    fn is_idle(&self) -> bool {
        self.loaded()
            .is_some_and(|loaded| Arc::strong_count(&loaded.facts) == 1)
    }

    fn status(&self) -> Status {
        match self.state {
            State::Unloaded => Status::Unloaded,
            State::Loading { .. } => Status::Loading,
            State::Loaded(_) => Status::Loaded,
            State::Failed { .. } => Status::Failed,
        }
    }
}
