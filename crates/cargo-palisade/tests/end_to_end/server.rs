//! A store on a PostgreSQL server, shared by several clones.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::fixture::{Answer, Fixture, answer};

/// The URL of a server that nothing else uses; `scripts/test-postgres.sh` starts one.
fn url() -> String {
    std::env::var("PALISADE_TEST_POSTGRES").expect("PALISADE_TEST_POSTGRES is a server's URL")
}

#[test]
#[ignore = "scripts/test-postgres.sh starts the server it needs"]
fn a_clone_reuses_what_another_one_measured() {
    let fixture = Fixture::new();
    fixture.git(&["clone", "--quiet", ".", "../clone"]);
    let palisade = |dir: &str, args: &[&str]| -> Answer {
        let mut command = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        command.current_dir(fixture.root().join(dir));
        command.args(args).env("PALISADE_STORE", url());
        answer(command)
    };
    // A run that is killed leaves nothing that counts.
    std::fs::remove_dir_all(fixture.root().join("target")).expect("removed");
    let mut killed = fixture.command(env!("CARGO_BIN_EXE_cargo-palisade"));
    killed.args(["test"]).env("PALISADE_STORE", url());
    killed.stdout(Stdio::null()).stderr(Stdio::null());
    let mut killed = killed.spawn().expect("it starts");
    let started = Instant::now();
    while !fixture.root().join("target").exists() {
        assert!(
            started.elapsed() < Duration::from_mins(1),
            "nothing is built"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    killed.kill().expect("it is killed");
    killed.wait().expect("it ends");
    let exported = palisade(".", &["store", "export"]);
    assert_eq!(
        (exported.code, exported.out.as_str()),
        (0, ""),
        "{}",
        exported.err
    );

    let recorded = palisade(".", &["baseline", "record"]);
    assert_eq!(recorded.code, 0, "{}{}", recorded.out, recorded.err);
    let lib = fixture.root().join("../clone/gamma/src/lib.rs");
    let text = std::fs::read_to_string(&lib).expect("read");
    std::fs::write(&lib, text.replace("    1\n", "    2\n")).expect("written");
    let found = palisade("../clone", &["check"]);
    assert_eq!(found.code, 1, "{}{}", found.out, found.err);
    assert!(
        found.out.contains("REGRESSION gamma/lib/tests::is_one"),
        "{}",
        found.out
    );
    assert!(found.out.contains("stored run"), "{}", found.out);
    assert!(!fixture.root().join(".palisade").exists());
    assert!(!fixture.root().join("../clone/.palisade").exists());
}

#[test]
#[ignore = "scripts/test-postgres.sh starts the server it needs"]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let fixture = Fixture::new();
    let url = "postgres://ada:secret@/guard?host=/nowhere";
    let found = fixture.palisade(&["check", "--store", url]);
    assert_eq!(found.code, 3, "{}", found.err);
    let error = "error: failed to connect to postgres://ada@/nowhere/guard: ";
    assert!(found.err.starts_with(error), "{}", found.err);
    assert!(
        found.err.contains("hint: psql with the same URL"),
        "{}",
        found.err
    );
    assert!(!found.err.contains("secret"), "{}", found.err);
}
