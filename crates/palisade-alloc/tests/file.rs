//! What a program writes at its end.

use std::path::PathBuf;
use std::process::Command;

/// The counts that the example writes after so many allocations of its own.
fn counts(times: u64) -> (u64, u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("counts.json");
    let status = Command::new(example())
        .arg(times.to_string())
        .env(palisade_alloc::FILE_VARIABLE, &file)
        .status();
    assert!(status.expect("it runs").success());
    let text = std::fs::read(&file).expect("written");
    let counts: serde_json::Value = serde_json::from_slice(&text).expect("is JSON");
    let number = |key: &str| counts[key].as_u64().expect("a number");
    (number("allocations"), number("bytes"))
}

/// Cargo builds examples before it runs tests, into a folder beside theirs.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("it has a path");
    let folder = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("a folder");
    let name = format!("allocates{}", std::env::consts::EXE_SUFFIX);
    folder.join("examples").join(name)
}

#[test]
fn the_counts_are_exact_and_written_at_the_end() {
    let (none, no_bytes) = counts(0);
    let (many, bytes) = counts(1000);
    // The argument is longer by three bytes, wherever it is copied.
    assert_eq!(many - none, 1000);
    assert!(
        (100_000..100_200).contains(&(bytes - no_bytes)),
        "{bytes} {no_bytes}"
    );
}
