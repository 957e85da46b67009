//! Saved prefixes: pages of the KV cache in a folder, which another process can go on from.
//!
//! Each page of 128 positions is a file, whose name stands for the model and all tokens up to
//! its last one. So prompts that begin alike share files, and several processes and models may
//! share a folder. A file is complete when it gets its name, and is checked when it is read.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;

use bitnet_core::KvPage;
use twox_hash::XxHash3_128;

use crate::cache_folder::CacheFolder;
use crate::engine::Engine;
use crate::kv_cache::SequenceError;
use crate::kv_cache::page_file::{PageFileError, PageHead, file_len};

/// Prefixes with fewer pages are not worth a file.
const MIN_PAGES: usize = 2;
/// Changes whenever other bits are computed or stored for the same model.
const VERSION: u32 = 1;

/// A folder of saved pages, for the engine of one model.
#[derive(Debug)]
pub struct PageStore {
    folder: CacheFolder,
    model: u128,
    /// Files that are damaged, or may be; they are written again.
    damaged: HashSet<u128>,
    /// What nobody was told yet.
    notes: Vec<String>,
}

/// A prefix that was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The sequence that has it. Its owner finishes it.
    pub sequence: usize,
    /// The pages that were read.
    pub n_pages: usize,
}

impl PageStore {
    /// Opens a folder, and makes it if there is none. `weights` identifies what the engine
    /// computes with: equal texts mean equal keys and values.
    ///
    /// `max_bytes` limits all files of pages in the folder; those not used for longest are
    /// removed first.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be made or read.
    pub fn open(folder: &Path, max_bytes: u64, weights: &str, engine: &Engine) -> io::Result<Self> {
        let model = format!(
            "{VERSION} {} {weights} {:?} {}",
            env!("CARGO_PKG_VERSION"),
            engine.model().config(),
            engine.kv_identity(),
        );
        Ok(Self {
            folder: CacheFolder::open(folder, "kv", max_bytes)?,
            model: XxHash3_128::oneshot(model.as_bytes()),
            damaged: HashSet::new(),
            notes: Vec::new(),
        })
    }

    /// Writes the first page of these sequences that has no file yet. Returns whether there
    /// was one.
    ///
    /// # Errors
    ///
    /// Returns an error if the page cannot be written; there is no file of it then.
    pub fn save_one(&mut self, engine: &mut Engine, sequences: &[usize]) -> io::Result<bool> {
        if file_len(engine.kv_usage().page_bytes) > self.folder.max_bytes() {
            return Ok(false);
        }
        for &sequence in sequences {
            let tokens = engine.tokens(sequence).to_vec();
            let chain = self.chain(&tokens);
            if chain.len() < MIN_PAGES {
                continue;
            }
            let missing = |id: &u128| self.damaged.contains(id) || !self.folder.file(*id).exists();
            let Some(index) = chain.iter().position(|(id, _)| missing(id)) else {
                continue;
            };
            let (id, head) = chain[index];
            let page = engine.kv_page(sequence, index);
            let file = head.file(&page.map_err(io::Error::other)?);
            let n_bytes = file.len() as u64;
            self.folder.make(id, n_bytes, |new| new.write_all(&file))?;
            self.folder.touch(chain[..=index].iter().map(|(id, _)| *id));
            self.damaged.remove(&id);
            return Ok(true);
        }
        Ok(false)
    }

    /// Starts a sequence of the pages that a prompt begins with, if more of them have a file
    /// than the engine has already.
    ///
    /// # Errors
    ///
    /// Returns an error if no sequence or too few pages are free. Damaged files are none:
    /// [`notes`](Self::take_notes) has them.
    pub fn restore(
        &mut self,
        engine: &mut Engine,
        prompt: &[u32],
    ) -> Result<Option<Restored>, SequenceError> {
        // The last token is always computed.
        let chain = self.chain(&prompt[..prompt.len().saturating_sub(1)]);
        let n_whole = chain.len();
        let whole = &prompt[..n_whole * KvPage::POSITIONS];
        let n_known = engine.kv.n_pages_of(whole);
        let is_there =
            |(id, _): &(u128, _)| !self.damaged.contains(id) && self.folder.file(*id).exists();
        let n_files = chain[n_known..].iter().take_while(|page| is_there(page));
        let n_pages = n_known + n_files.count();
        if n_pages == n_known || n_pages > engine.plan().context_len / KvPage::POSITIONS {
            return Ok(None);
        }
        let mut failed = None;
        let mut n_read = 0;
        let tokens = &whole[..n_pages * KvPage::POSITIONS];
        let page_bytes = engine.kv_usage().page_bytes;
        let restored = engine.kv.restore(tokens, |index| {
            let (id, head) = chain[index];
            match head.read(&self.folder.file(id), page_bytes) {
                Ok(page) => {
                    n_read += 1;
                    Some(page)
                }
                Err(error) => {
                    failed = Some(error);
                    None
                }
            }
        });
        if let Some(error) = failed {
            let ids = chain[n_known + n_read..].iter().map(|(id, _)| *id);
            self.note(&ids.collect::<Vec<_>>(), &error);
        }
        self.folder
            .touch(chain[..n_known + n_read].iter().map(|(id, _)| *id));
        Ok(restored?.map(|sequence| Restored {
            sequence,
            n_pages: n_read,
        }))
    }

    /// Takes the notes about files that were not used.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Notes why the first of these files is not used. Those behind it are written again with
    /// it: nobody has read them, and what damaged one may have damaged all.
    fn note(&mut self, ids: &[u128], error: &PageFileError) {
        let path = self.folder.file(ids[0]);
        if matches!(error, PageFileError::Read(error) if error.kind() == io::ErrorKind::NotFound) {
            // Another process has removed it.
            return;
        }
        self.notes
            .push(format!("{}: {error}; ignored", path.display()));
        self.damaged.extend(ids);
    }

    /// Returns the whole pages of these tokens, with their identifiers.
    fn chain<'a>(&self, tokens: &'a [u32]) -> Vec<(u128, PageHead<'a>)> {
        let mut parent = 0;
        let pages = tokens.as_chunks::<{ KvPage::POSITIONS }>().0.iter();
        let page = |tokens: &'a [u32; KvPage::POSITIONS]| {
            let head = PageHead {
                model: self.model,
                parent,
                tokens,
            };
            parent = head.id();
            (parent, head)
        };
        pages.map(page).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Arc;

    use bitnet_core::{ComputeContext, HybridMemoryPool, KvPrecision, ThreadPool};

    use super::*;
    use crate::engine::Input;
    use crate::format::checkpoint::Checkpoint;
    use crate::logits::Logits;
    use crate::model::{Model, Packing};
    use crate::plan::{Plan, PlanOptions};

    const PAGE: usize = KvPage::POSITIONS;

    struct Models {
        checkpoint: Checkpoint,
        model: Arc<Model>,
    }

    impl Models {
        fn new() -> Self {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/storyteller-tiny");
            let checkpoint = Checkpoint::open(Path::new(folder)).unwrap();
            let plan = Plan::new(checkpoint.config(), PlanOptions::default()).unwrap();
            let threads = &mut ThreadPool::new(1);
            let ctx = &mut ComputeContext::new(plan.isa, threads);
            let pool = HybridMemoryPool::new();
            let model = Model::load(&checkpoint, &pool, ctx, Packing::default(), |_, _| ());
            Self {
                model: Arc::new(model.unwrap()),
                checkpoint,
            }
        }

        fn engine(&self, kv_precision: KvPrecision, n_sequences: usize) -> Engine {
            let options = PlanOptions {
                n_threads: Some(1),
                n_sequences: Some(n_sequences),
                kv_precision,
                ..PlanOptions::default()
            };
            let plan = Plan::new(self.checkpoint.config(), options).unwrap();
            Engine::new(Arc::clone(&self.model), plan).unwrap()
        }
    }

    fn prompt(seed: u32, len: usize) -> Vec<u32> {
        (0..len as u32)
            .map(|i| (i * 37 + seed * 101 + 5) % 2000)
            .collect()
    }

    /// Computes what is missing of a prompt, and returns its last logits, and how many tokens
    /// the engine had.
    fn compute(engine: &mut Engine, prompt: &[u32]) -> (usize, Vec<u32>, usize) {
        let handle = engine.start(prompt, prompt.len()).unwrap();
        let mut bits = Vec::new();
        let input = Input {
            sequence: handle.sequence,
            tokens: &prompt[handle.n_reused..],
            logits: Logits::Last,
        };
        let on_logits = |_, _, logits: &[f32]| bits.extend(logits.iter().map(|x| x.to_bits()));
        engine.forward(&[input], on_logits).unwrap();
        (handle.sequence, bits, handle.n_reused)
    }

    fn save(store: &mut PageStore, engine: &mut Engine, sequences: &[usize]) -> usize {
        let mut n_saved = 0;
        while store.save_one(engine, sequences).unwrap() {
            n_saved += 1;
        }
        n_saved
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    const LIMIT: u64 = 1 << 30;

    #[test]
    fn a_restored_prefix_gives_the_same_bits() {
        let models = Models::new();
        let folder = tempfile::tempdir().unwrap();
        let prompt = prompt(0, 3 * PAGE + 40);
        for precision in [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8] {
            let mut first = models.engine(precision, 3);
            let (sequence, expected, n_reused) = compute(&mut first, &prompt);
            assert_eq!(n_reused, 0);
            let mut store = PageStore::open(folder.path(), LIMIT, "a", &first).unwrap();
            assert_eq!(save(&mut store, &mut first, &[sequence]), 3);

            let mut second = models.engine(precision, 3);
            let mut store = PageStore::open(folder.path(), LIMIT, "a", &second).unwrap();
            let restored = store.restore(&mut second, &prompt).unwrap().unwrap();
            assert_eq!(restored.n_pages, 3);
            let (_, bits, n_reused) = compute(&mut second, &prompt);
            assert_eq!((bits, n_reused), (expected, 3 * PAGE), "{precision:?}");
            // It has them now.
            assert_eq!(store.restore(&mut second, &prompt).unwrap(), None);
            assert_eq!(save(&mut store, &mut second, &[restored.sequence]), 0);
            assert_eq!(store.take_notes(), [""; 0]);
        }
        // Those of one precision are nothing to another.
        assert_eq!(files(folder.path()).len(), 9);
    }

    #[test]
    fn pages_are_of_one_model_and_version_alone() {
        let models = Models::new();
        let folder = tempfile::tempdir().unwrap();
        let mut engine = models.engine(KvPrecision::F16, 3);
        let prompt = prompt(0, 2 * PAGE + 1);
        let (sequence, ..) = compute(&mut engine, &prompt);
        let mut store = PageStore::open(folder.path(), LIMIT, "a", &engine).unwrap();
        assert_eq!(save(&mut store, &mut engine, &[sequence]), 2);
        let mut other = models.engine(KvPrecision::F16, 3);
        let mut store = PageStore::open(folder.path(), LIMIT, "b", &other).unwrap();
        assert_eq!(store.restore(&mut other, &prompt).unwrap(), None);
        // Under the name of one of its own, it is refused.
        let mut foreign = models.engine(KvPrecision::F16, 3);
        let (sequence, ..) = compute(&mut foreign, &prompt);
        assert_eq!(save(&mut store, &mut foreign, &[sequence]), 2);
        let all = files(folder.path());
        let one = fs::read(&all[0]).unwrap();
        for path in &all {
            fs::write(path, &one).unwrap();
        }
        let restored = store.restore(&mut other, &prompt).unwrap();
        assert!(restored.is_none_or(|restored| restored.n_pages == 1));
        assert!(store.take_notes()[0].contains("a page of something else"));
    }

    #[test]
    fn prompts_share_files_and_the_pages_that_the_engine_has() {
        let models = Models::new();
        let folder = tempfile::tempdir().unwrap();
        let mut engine = models.engine(KvPrecision::F16, 4);
        let long = prompt(0, 4 * PAGE + 1);
        let mut other = long.clone();
        other[3 * PAGE] += 1;
        let sequences = [&long, &other].map(|prompt| compute(&mut engine, prompt).0);
        let mut store = PageStore::open(folder.path(), LIMIT, "a", &engine).unwrap();
        assert_eq!(save(&mut store, &mut engine, &sequences), 5);

        let mut engine = models.engine(KvPrecision::F16, 4);
        let restored = store.restore(&mut engine, &long).unwrap().unwrap();
        assert_eq!(restored.n_pages, 4);
        let restored = store.restore(&mut engine, &other).unwrap().unwrap();
        assert_eq!(restored.n_pages, 1);
        assert_eq!(engine.kv_usage().pages, 5);
        // The tokens of a page that is not whole have no file.
        let (_, _, n_reused) = compute(&mut engine, &other[..4 * PAGE]);
        assert_eq!(n_reused, 4 * PAGE - 1);
        let error = store.restore(&mut engine, &prompt(1, 10)).unwrap();
        assert_eq!(error, None);
    }

    #[test]
    fn what_does_not_fit_disturbs_nothing() {
        let models = Models::new();
        let folder = tempfile::tempdir().unwrap();
        let mut engine = models.engine(KvPrecision::F16, 1);
        let saved = prompt(0, 2 * PAGE + 1);
        let (sequence, ..) = compute(&mut engine, &saved);
        let mut store = PageStore::open(folder.path(), LIMIT, "a", &engine).unwrap();
        save(&mut store, &mut engine, &[sequence]);
        engine.finish(sequence);
        let (sequence, ..) = compute(&mut engine, &prompt(1, 20));
        assert!(store.restore(&mut engine, &saved).is_err());
        assert_eq!(engine.len(sequence), 20);
        engine.finish(sequence);
        assert_eq!(engine.kv_usage().pages, 0);
        assert!(store.restore(&mut engine, &saved).unwrap().is_some());
    }

    #[test]
    fn damaged_files_are_noted_once_never_used_and_written_again() {
        let models = Models::new();
        let folder = tempfile::tempdir().unwrap();
        let prompt = prompt(0, 2 * PAGE + 1);
        let mut engine = models.engine(KvPrecision::F16, 3);
        let (sequence, expected, _) = compute(&mut engine, &prompt);
        let mut store = PageStore::open(folder.path(), LIMIT, "a", &engine).unwrap();
        save(&mut store, &mut engine, &[sequence]);
        let path =
            |store: &PageStore, index: usize| store.folder.file(store.chain(&prompt)[index].0);
        let whole = fs::read(path(&store, 1)).unwrap();
        let mut random = 1_u64;
        let mut below = |n: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % n
        };
        for round in 0..60 {
            let mut file = whole.clone();
            match round % 3 {
                0 => file.truncate(below(whole.len())),
                1 => file[below(whole.len())] ^= 1 << below(8),
                _ => file.extend([0; 16]),
            }
            fs::write(path(&store, 1), &file).unwrap();
            let mut engine = models.engine(KvPrecision::F16, 3);
            let restored = store.restore(&mut engine, &prompt).unwrap().unwrap();
            assert_eq!(restored.n_pages, 1);
            let notes = store.take_notes();
            assert!(
                notes.len() == 1 && notes[0].contains("ignored"),
                "{notes:?}"
            );
            assert_eq!(store.restore(&mut engine, &prompt).unwrap(), None);
            assert_eq!(store.take_notes(), [""; 0]);
            if round % 20 == 0 {
                let (sequence, bits, n_reused) = compute(&mut engine, &prompt);
                assert_eq!((&bits, n_reused), (&expected, PAGE));
                assert_eq!(save(&mut store, &mut engine, &[sequence]), 1);
                assert_eq!(fs::read(path(&store, 1)).unwrap(), whole);
            }
            store.damaged.clear();
        }
    }

    #[test]
    fn the_files_not_used_for_longest_make_room() {
        let models = Models::new();
        let folder = tempfile::tempdir().unwrap();
        let mut engine = models.engine(KvPrecision::F16, 6);
        let len = file_len(engine.kv_usage().page_bytes);
        let mut store = PageStore::open(folder.path(), 4 * len, "a", &engine).unwrap();
        // Not a page, so nothing to remove.
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let prompts = [0, 1, 2].map(|seed| prompt(seed, 2 * PAGE + 1));
        let sequences = prompts
            .each_ref()
            .map(|prompt| compute(&mut engine, prompt).0);
        assert_eq!(save(&mut store, &mut engine, &sequences[..1]), 2);
        assert_eq!(save(&mut store, &mut engine, &sequences[1..2]), 2);
        let mut fresh = models.engine(KvPrecision::F16, 6);
        assert!(store.restore(&mut fresh, &prompts[0]).unwrap().is_some());
        assert_eq!(save(&mut store, &mut engine, &sequences[2..]), 2);
        let mut fresh = models.engine(KvPrecision::F16, 6);
        let n_pages = prompts.each_ref().map(|prompt| {
            let restored = store.restore(&mut fresh, prompt).unwrap();
            restored.map(|restored| restored.n_pages)
        });
        assert_eq!(n_pages, [Some(2), None, Some(2)]);
        assert_eq!(files(folder.path()).len(), 5);
        // The end of a prefix goes before its beginning.
        let more = compute(&mut fresh, &prompt(3, 2 * PAGE + 1)).0;
        assert!(store.save_one(&mut fresh, &[more]).unwrap());
        let mut fresh = models.engine(KvPrecision::F16, 6);
        let restored = store.restore(&mut fresh, &prompts[0]).unwrap().unwrap();
        assert_eq!(restored.n_pages, 1);
        let mut none = PageStore::open(folder.path(), len - 1, "a", &engine).unwrap();
        assert!(!none.save_one(&mut engine, &[more]).unwrap());
    }

    #[test]
    fn short_prefixes_have_no_file() {
        let models = Models::new();
        let folder = tempfile::tempdir().unwrap();
        let mut engine = models.engine(KvPrecision::F16, 2);
        let (sequence, ..) = compute(&mut engine, &prompt(0, 2 * PAGE - 1));
        let inner = folder.path().join("made/for/it");
        let mut store = PageStore::open(&inner, LIMIT, "a", &engine).unwrap();
        assert_eq!(save(&mut store, &mut engine, &[sequence]), 0);
        assert!(files(&inner).is_empty());
    }
}
