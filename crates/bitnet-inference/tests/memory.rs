//! Memory use: accounting compared with the resident set, allocation failures, and leaks.
//! Only Linux reports enough.
#![cfg(all(feature = "builtin-model", target_os = "linux"))]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitnet_core::memory::Category;
use bitnet_core::{ComputeContext, HybridMemoryPool, Isa, KvPrecision, ThreadPool, machine};
use bitnet_inference::{
    Checkpoint, CheckpointError, Engine, ForwardError, HeadPrecision, Input, Logits, Model, Plan,
    PlanError, PlanOptions, SequenceError, Tokenizer, builtin,
};

/// Serializes the tests, since they measure the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn models(name: &str) -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    models.join(name)
}

const N_THREADS: usize = 2;

/// Loads and plans; all allocations are in `pool`.
fn load(
    checkpoint: &Checkpoint,
    pool: &HybridMemoryPool,
    head: HeadPrecision,
) -> Result<Model, CheckpointError> {
    let threads = &mut ThreadPool::new(N_THREADS);
    let ctx = &mut ComputeContext::new(Isa::best(), threads);
    Model::load(checkpoint, pool, ctx, head, |_, _| ())
}

fn plan(model: &Model, context_len: usize, kv_precision: KvPrecision) -> Plan {
    let options = PlanOptions {
        n_threads: Some(N_THREADS),
        context_len: Some(context_len),
        kv_precision,
        ..PlanOptions::default()
    };
    Plan::new(model.config(), options).unwrap()
}

fn prompt(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| i * 61 % 8000).collect()
}

/// Continues sequence 0 with tokens and returns the most likely next one.
fn next(engine: &mut Engine, tokens: &[u32]) -> Result<u32, ForwardError> {
    let input = Input {
        sequence: 0,
        tokens,
        logits: Logits::Last,
    };
    let mut likeliest = 0;
    engine.forward(&[input], |_, _, logits| {
        let largest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        likeliest = largest.expect("there are tokens") as u32;
    })?;
    Ok(likeliest)
}

/// Prefills 100 tokens and decodes 200, crossing two page boundaries. If a step fails,
/// calls `on_error` and retries it.
fn write(engine: &mut Engine, mut on_error: impl FnMut(ForwardError)) -> Vec<u32> {
    let mut step = |engine: &mut Engine, tokens: &[u32]| {
        let len = engine.len(0);
        next(engine, tokens).unwrap_or_else(|error| {
            assert_eq!(engine.len(0), len, "nothing has changed");
            on_error(error);
            next(engine, tokens).expect("only one allocation fails")
        })
    };
    engine.truncate(0, 0);
    let mut ids = vec![step(engine, &prompt(100))];
    while ids.len() < 200 {
        let id = step(engine, &ids[ids.len() - 1..]);
        ids.push(id);
    }
    ids
}

#[test]
fn whichever_allocation_fails_there_is_an_error_and_all_goes_on() {
    let _alone = alone();
    let checkpoint = Checkpoint::open(&models("storyteller-tiny")).unwrap();
    for (head, kv) in [
        (HeadPrecision::Int8, KvPrecision::Int8),
        (HeadPrecision::ExactTopK, KvPrecision::F16),
    ] {
        let pool = HybridMemoryPool::new();
        let expected = {
            let model = load(&checkpoint, &pool, head).unwrap();
            let plan = plan(&model, 300, kv);
            let mut engine = Engine::new(Arc::new(model), plan).unwrap();
            write(&mut engine, |error| panic!("{error}"))
        };

        let mut n_load = 0;
        let model = loop {
            pool.fail_nth(n_load);
            match (load(&checkpoint, &pool, head), pool.end_fault()) {
                (Ok(model), false) => break Arc::new(model),
                (Err(CheckpointError::Memory(_)), true) => {}
                (loaded, failed) => panic!("allocation {n_load}: {:?}, {failed}", loaded.err()),
            }
            assert_eq!(pool.usage().total.current, 0, "allocation {n_load}");
            n_load += 1;
        };

        let with_model = pool.usage().total.current;
        let plan = plan(&model, 300, kv);
        let mut n_engine = 0;
        let mut engine = loop {
            pool.fail_nth(n_engine);
            match (Engine::new(Arc::clone(&model), plan), pool.end_fault()) {
                (Ok(engine), false) => break engine,
                (Err(PlanError::Memory { .. }), true) => {}
                (made, failed) => panic!("allocation {n_engine}: {:?}, {failed}", made.err()),
            }
            assert_eq!(pool.usage().total.current, with_model, "{n_engine}");
            n_engine += 1;
        };

        let mut n_decode = 0;
        loop {
            pool.fail_nth(n_decode);
            let mut n_errors = 0;
            let ids = write(&mut engine, |error| {
                let is_memory = matches!(error, ForwardError::Grow(SequenceError::Memory(_)));
                assert!(is_memory, "{error}");
                n_errors += 1;
            });
            assert!(ids == expected, "after allocation {n_decode} failed");
            assert_eq!(n_errors, usize::from(pool.end_fault()));
            if n_errors == 0 {
                break;
            }
            n_decode += 1;
        }
        // All kinds of allocations were covered: weights and norms, buffers, three pages.
        assert!(n_load > 40 && n_engine > 15, "{n_load}, {n_engine}");
        assert!(n_decode >= 3, "{n_decode}");
    }
}

/// Loads, runs and drops a model.
fn live_once() {
    let checkpoint = builtin::open();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let pool = HybridMemoryPool::new();
    let model = load(&checkpoint, &pool, HeadPrecision::Int8).unwrap();
    let plan = plan(&model, 200, KvPrecision::F16);
    let mut engine = Engine::new(Arc::new(model), plan).unwrap();
    let ids = tokenizer.encode("Once upon a time there was a").unwrap();
    next(&mut engine, &ids).unwrap();
}

/// Returns the growth of the resident set in bytes over `n_cycles` of loading and dropping,
/// after a few warm-up cycles.
fn grown_by(n_cycles: usize) -> isize {
    let resident = || machine::resident_memory().expect("Linux says") as isize;
    for _ in 0..10 {
        live_once();
    }
    let before = resident();
    for _ in 0..n_cycles {
        live_once();
    }
    resident() - before
}

const MEBIBYTE: isize = 1 << 20;

#[test]
fn models_that_come_and_go_leave_nothing() {
    let _alone = alone();
    // The allocator may take or give back some once, because of other tests, but a leak is there
    // every time.
    let mut grown = Vec::new();
    while grown
        .last()
        .is_none_or(|grown: &isize| grown.abs() > MEBIBYTE)
    {
        assert!(grown.len() < 3, "{grown:?} bytes in 40 cycles each");
        grown.push(grown_by(40));
    }
}

#[test]
#[ignore = "takes minutes; run by hand for the figure in docs/memory.md"]
#[expect(clippy::print_stdout, reason = "the figure of the page")]
fn a_thousand_models_that_come_and_go_leave_nothing() {
    let _alone = alone();
    let grown = grown_by(1000);
    println!("{grown} bytes in 1000 cycles");
    assert!(grown.abs() <= MEBIBYTE, "{grown} bytes in 1000 cycles");
}

/// Loads a model from a file, fills its buffers, and compares the peak resident set with
/// the sum of the initial resident set, the peak of the accounting, the pool's reserve, and
/// file pages.
#[expect(clippy::print_stdout, reason = "the figures of the page")]
fn check_agreement(path: &Path, head: HeadPrecision) {
    let checkpoint = Checkpoint::open(path).unwrap();
    machine::reset_peak_memory();
    let before = machine::resident_memory().expect("Linux says");
    let files = || machine::resident_file_memory().expect("Linux says");
    let files_before = files();
    let pool = HybridMemoryPool::new();
    let model = load(&checkpoint, &pool, head).unwrap();
    let plan = plan(&model, 1024, KvPrecision::F16);
    let mut engine = Engine::new(Arc::new(model), plan).unwrap();
    let input = Input {
        sequence: 0,
        tokens: &prompt(1024),
        logits: Logits::All,
    };
    engine.forward(&[input], |_, _, _| ()).unwrap();

    let usage = pool.usage();
    // The mapped file is part of the resident file pages.
    let in_file = usage.of(Category::MappedFile);
    let counted = usage.total.peak - in_file.peak;
    let reserve = usage.mapped - (usage.total.current - in_file.current);
    let expected = before + counted + files() - files_before;
    let taken = machine::peak_resident_memory().expect("Linux says");
    let what = format!(
        "{head:?}: taken {taken}, expected {expected} and some of the reserve of {reserve}: \
         before {before}, counted {counted}, files {files_before} to {}",
        files()
    );
    println!("{what}");
    // Part of the pool's reserve is backed by huge pages.
    let (least, most) = (expected as f64 * 0.95, (expected + reserve) as f64 * 1.05);
    assert!((least..=most).contains(&(taken as f64)), "{what}");
}

#[test]
fn a_long_text_does_not_keep_the_embedding_in_memory() {
    let _alone = alone();
    let path = models("storyteller").join("storyteller.gguf");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let pool = HybridMemoryPool::new();
    let model = load(&checkpoint, &pool, HeadPrecision::Int8).unwrap();
    let config = model.config().clone();
    let plan = plan(&model, 1024, KvPrecision::F16);
    let mut engine = Engine::new(Arc::new(model), plan).unwrap();
    let files = || machine::resident_file_memory().expect("Linux says");
    // What a pass reads of the program is in memory, too.
    next(&mut engine, &[1]).unwrap();
    let before = files();
    // From everywhere in the embedding.
    let tokens: Vec<u32> = (0..1023)
        .map(|i| i * config.vocab_size as u32 / 1023)
        .collect();
    next(&mut engine, &tokens).unwrap();
    let grown = files().saturating_sub(before);
    let embedding = 2 * config.vocab_size * config.hidden_dim;
    assert!(
        grown <= embedding / 2,
        "{grown} bytes of {embedding} are in memory"
    );
}

#[test]
fn what_is_counted_is_what_the_system_sees() {
    let _alone = alone();
    let path = models("storyteller").join("storyteller.gguf");
    for head in [HeadPrecision::Int8, HeadPrecision::Exact] {
        check_agreement(&path, head);
    }
}

/// Needs a large file: `BITNET_LARGE_MODEL=FILE`.
#[test]
#[ignore = "needs a file of a gigabyte, named by BITNET_LARGE_MODEL"]
fn what_is_counted_of_a_large_model_is_what_the_system_sees() {
    let _alone = alone();
    let path = std::env::var_os("BITNET_LARGE_MODEL").expect("BITNET_LARGE_MODEL names a file");
    check_agreement(path.as_ref(), HeadPrecision::Int8);
}
