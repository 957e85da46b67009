//! Model files that are truncated while mapped.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::Command;

use bitnet_core::{ComputeContext, HybridMemoryPool, Isa, ThreadPool};
use bitnet_inference::{
    Checkpoint, CheckpointError, Engine, ForwardError, HeadPrecision, Input, Logits, Model, Plan,
    PlanOptions, watch_mapped_files,
};

/// Variable with the file of the child process.
const FILE: &str = "BITNET_TEST_SHRINKING_FILE";
const TOLD: i32 = 7;

fn copy(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/storyteller");
    let path = folder.join("model.gguf");
    std::fs::copy(source.join("storyteller.gguf"), &path).unwrap();
    path
}

fn shorten(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(1 << 20).unwrap();
}

fn load(checkpoint: &Checkpoint, head: HeadPrecision) -> Result<Model, CheckpointError> {
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(2));
    let ctx = &mut ComputeContext::new(Isa::best(), &mut threads);
    Model::load(checkpoint, &pool, ctx, head, |_, _| ())
}

/// Not a test: the child process that accesses the missing part.
#[test]
#[expect(clippy::print_stdout, reason = "what the other test reads")]
fn child() {
    let Some(path) = std::env::var_os(FILE).map(PathBuf::from) else {
        return;
    };
    watch_mapped_files(|path| {
        println!("{} is too short", path.display());
        std::process::exit(TOLD);
    })
    .unwrap();
    // Other mappings, and a dropped one, must not be reported.
    let other = tempfile::tempdir().unwrap();
    let _other = Checkpoint::open(&copy(other.path())).unwrap();
    drop(Checkpoint::open(&copy(other.path())).unwrap());
    let checkpoint = Checkpoint::open(&path).unwrap();
    shorten(&path);
    let loaded = load(&checkpoint, HeadPrecision::Int8);
    panic!("loaded: {}", loaded.is_ok());
}

#[test]
fn the_program_is_told_which_file_is_too_short_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = copy(folder.path());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(FILE, &path)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(TOLD), "{output:?}");
    assert!(
        stdout.contains(&format!("{} is too short\n", path.display())),
        "{stdout}"
    );
}

#[test]
fn a_file_that_was_changed_is_an_error_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = copy(folder.path());
    let checkpoint = Checkpoint::open(&path).unwrap();
    let options = PlanOptions {
        n_threads: Some(2),
        ..PlanOptions::default()
    };
    let plan = Plan::new(checkpoint.config(), options).unwrap();
    let model = load(&checkpoint, HeadPrecision::Exact).unwrap();
    let mut engine = Engine::new(model.into(), plan).unwrap();
    let mut run = || {
        let input = Input {
            sequence: 0,
            tokens: &[1, 2, 3],
            logits: Logits::Last,
        };
        engine.forward(&[input], |_, _, _| ())
    };
    assert_eq!(run(), Ok(()));
    // Replacing the file by another of the same name is allowed.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::rename(&path, folder.path().join("old.gguf")).unwrap();
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(run(), Ok(()));
    shorten(&folder.path().join("old.gguf"));
    let file = path.display().to_string();
    assert_eq!(run(), Err(ForwardError::Changed { file }));
}
