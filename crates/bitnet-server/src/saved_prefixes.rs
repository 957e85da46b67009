//! Prefixes that outlive the process: read when a prompt begins with one, and written while
//! nothing is computed.

use std::time::{Duration, Instant};

use bitnet_inference::{Engine, PageStore, Scheduler};

use crate::metrics::Metrics;
use crate::model::{ModelFacts, PrefixFolder};

/// The end of a server, or of a model, waits at most so long for its prefixes.
const LAST_SAVE: Duration = Duration::from_secs(10);

/// The saved prefixes of one model.
#[derive(Debug)]
pub struct SavedPrefixes {
    store: PageStore,
    /// Whether there may be something to save.
    has_more: bool,
}

impl SavedPrefixes {
    /// Opens the folder of a model; logs why it cannot be opened.
    pub fn open(folder: &PrefixFolder, facts: &ModelFacts, engine: &Engine) -> Option<Self> {
        // What is computed may change while the weights do not.
        let identity = format!("{} {}", folder.weights, facts.fingerprint);
        match PageStore::open(&folder.path, folder.max_bytes, &identity, engine) {
            Ok(store) => Some(Self {
                store,
                has_more: false,
            }),
            Err(error) => {
                let folder = folder.path.display();
                tracing::error!(%error, %folder, "prefixes are not saved");
                None
            }
        }
    }

    /// Makes the saved prefix of a prompt one that the scheduler keeps, if it is longer than
    /// what the engine has.
    pub fn restore(
        &mut self,
        engine: &mut Engine,
        scheduler: &mut Scheduler,
        metrics: &Metrics,
        prompt: &[u32],
    ) {
        let restored = loop {
            match self.store.restore(engine, prompt) {
                // Without room for it, the prompt is computed.
                Err(_) if !scheduler.evict(engine) => return,
                Err(_) => {}
                Ok(restored) => break restored,
            }
        };
        for note in self.store.take_notes() {
            tracing::warn!("{note}");
        }
        if let Some(restored) = restored {
            metrics.restored_pages.inc_by(restored.n_pages as u64);
            scheduler.keep(engine, restored.sequence);
        }
    }

    /// Returns whether there may be something to save.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Tells that there are other prefixes than before.
    pub fn changed(&mut self) {
        self.has_more = true;
    }

    /// Writes a page of these sequences, of the last ones first.
    pub fn save_one(&mut self, engine: &mut Engine, cached: &[usize], metrics: &Metrics) {
        let newest_first: Vec<usize> = cached.iter().rev().copied().collect();
        self.has_more = match self.store.save_one(engine, &newest_first) {
            Ok(was_written) => {
                metrics.saved_pages.inc_by(was_written.into());
                was_written
            }
            Err(error) => {
                tracing::error!(%error, "prefixes cannot be saved");
                false
            }
        };
    }

    /// Writes all pages of these sequences that have no file, as far as there is time.
    pub fn save_all(&mut self, engine: &mut Engine, cached: &[usize], metrics: &Metrics) {
        let start = Instant::now();
        while self.has_more && start.elapsed() < LAST_SAVE {
            self.save_one(engine, cached, metrics);
        }
    }
}
