//! The promises of the memory: atomic, append-only, idempotent, shared by several
//! writers, and never read wrongly.

use std::collections::BTreeSet;
use std::path::Path;

use palisade::identity::{TargetKind, TestId};
use palisade::record::{
    BaselineMark, Environment, Observation, Outcome, Purpose, QuarantineEntry, QuarantineEvent,
    Record, Run, Scope, Subject,
};
use palisade::store::{SqliteStore, Store, StoreError, export, import};

fn test(name: &str) -> TestId {
    TestId::new("a", TargetKind::Lib, "", name)
}

fn environment() -> Environment {
    Environment {
        toolchain: "rustc 1".to_owned(),
        machine: "linux".to_owned(),
        lockfile: "l".to_owned(),
        config: "c".to_owned(),
    }
}

fn run(id: &str, tree: &str, at: i64, outcomes: &[(&str, Outcome)]) -> Run {
    let observations = outcomes.iter().map(|(name, outcome)| Observation {
        test: test(name),
        outcome: *outcome,
        duration_ms: Some(1.5),
        body: Some("b".to_owned()),
        message: None,
    });
    Run {
        id: id.to_owned(),
        started_ms: at,
        finished_ms: at + 10,
        purpose: Purpose::Tests,
        subject: Subject {
            tree: tree.to_owned(),
            commit: format!("commit {id}"),
            dirty: false,
            checkout: false,
            branch: Some("main".to_owned()),
        },
        environment: environment(),
        scope: Scope::Workspace,
        complete: true,
        observations: observations.collect(),
    }
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path).expect("opens")
}

fn lines(store: &dyn Store) -> Vec<String> {
    let mut text = Vec::new();
    export(store, &mut text).expect("exports");
    let text = String::from_utf8(text).expect("is text");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn records_come_back_as_they_were() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("memory/store.sqlite");
    let mut store = open(&path);
    let mut first = run(
        "r1",
        "t1",
        1,
        &[("x", Outcome::Pass), ("y", Outcome::TimedOut)],
    );
    first.scope = Scope::Tests(BTreeSet::from([test("x"), test("y")]));
    first.purpose = Purpose::Stress;
    first.observations[1].message = Some("late \u{0}\u{1F600}".to_owned());
    store.add(&Record::Run(first.clone())).expect("added");
    drop(store);
    let store = open(&path);
    assert_eq!(store.run("r1").expect("read"), Some(first));
    assert_eq!(store.run("r2").expect("read"), None);
    let ignored = std::fs::read_to_string(dir.path().join("memory/.gitignore"));
    assert_eq!(ignored.expect("written"), "*\n");
}

#[test]
fn only_complete_runs_of_the_same_tree_and_environment_stand_for_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = open(&dir.path().join("s"));
    let mut incomplete = run("r1", "t", 1, &[]);
    incomplete.complete = false;
    let mut elsewhere = run("r2", "t", 2, &[]);
    elsewhere.environment.machine = "other".to_owned();
    let runs = [
        incomplete,
        elsewhere,
        run("r3", "u", 3, &[]),
        run("r4", "t", 4, &[]),
        run("r5", "t", 5, &[]),
    ];
    for run in runs {
        store.add(&Record::Run(run)).expect("added");
    }
    let found = store.runs_of("t", &environment()).expect("read");
    let ids: Vec<_> = found.iter().map(|run| run.id.as_str()).collect();
    assert_eq!(ids, ["r5", "r4"]);
}

#[test]
fn adding_twice_is_adding_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = open(&dir.path().join("s"));
    let record = Record::Run(run("r1", "t", 1, &[("x", Outcome::Pass)]));
    store.add(&record).expect("added");
    store.add(&record).expect("added");
    let tallies = store.tallies(None).expect("read");
    assert_eq!((tallies.len(), tallies[0].passes), (1, 1));
}

#[test]
fn tallies_keep_trees_apart_and_name_the_failing_commit() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = open(&dir.path().join("s"));
    for run in [
        run(
            "r1",
            "t",
            1,
            &[("x", Outcome::Fail), ("y", Outcome::Ignored)],
        ),
        run("r2", "t", 2, &[("x", Outcome::Pass)]),
        run("r3", "u", 3, &[("x", Outcome::Pass)]),
    ] {
        store.add(&Record::Run(run)).expect("added");
    }
    let tallies = store.tallies(Some(&test("x"))).expect("read");
    let seen: Vec<_> = tallies
        .iter()
        .map(|t| (t.tree.as_str(), t.failures, t.passes))
        .collect();
    assert_eq!(seen, [("t", 1, 1), ("u", 0, 1)]);
    assert_eq!(tallies[0].commit, "commit r1");
    assert_eq!((tallies[0].last_failure_ms, tallies[0].last_ms), (1, 2));
    assert_eq!(tallies[1].last_failure_ms, 0);
    assert!(store.tallies(Some(&test("y"))).expect("read").is_empty());
    let outcomes = store.outcomes_since(&test("x"), 2).expect("read");
    assert_eq!(outcomes, [true, true]);
}

#[test]
fn tallies_keep_environments_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = open(&dir.path().join("s"));
    let pass = run("r1", "t", 1, &[("x", Outcome::Pass)]);
    let mut elsewhere = run("r2", "t", 2, &[("x", Outcome::Fail)]);
    elsewhere.environment.machine = "other".to_owned();
    let mut checkout = run("r3", "t", 3, &[("x", Outcome::Fail)]);
    checkout.subject.checkout = true;
    for run in [pass, elsewhere, checkout] {
        store.add(&Record::Run(run)).expect("added");
    }
    let tallies = store.tallies(None).expect("read");
    let seen: Vec<_> = tallies.iter().map(|t| (t.failures, t.passes)).collect();
    assert_eq!(seen, [(0, 1), (1, 0), (1, 0)]);
}

#[test]
fn an_export_makes_the_same_store_elsewhere() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = open(&dir.path().join("s"));
    let records = [
        Record::Run(run("r1", "t", 1, &[("x", Outcome::Pass)])),
        Record::Run(run("r2", "t", 2, &[("x", Outcome::Fail)])),
        Record::Baseline(BaselineMark {
            id: "b1".to_owned(),
            recorded_ms: 3,
            branch: "main".to_owned(),
            run: "r1".to_owned(),
        }),
        Record::Quarantine(QuarantineEntry {
            id: "q1".to_owned(),
            at_ms: 4,
            test: test("x"),
            event: QuarantineEvent::Released {
                reason: "repaired".to_owned(),
            },
        }),
    ];
    for record in &records {
        store.add(record).expect("added");
    }
    let exported = lines(&store);
    assert_eq!(exported.len(), 4);
    let mut other = open(&dir.path().join("other"));
    for _ in 0..2 {
        let read = import(&mut other, exported.join("\n").as_bytes()).expect("imports");
        assert_eq!(read, 4);
    }
    assert_eq!(lines(&other), exported);
    let mark = other.baseline("main").expect("read").expect("is there");
    assert_eq!(mark.run, "r1");
    let error = import(&mut other, "\n{\"record\":\"run\"}".as_bytes()).expect_err("not a run");
    assert!(matches!(error, StoreError::Line { line: 2, .. }));
}

#[test]
fn a_store_of_each_version_is_read() {
    // Written by that version; a new schema adds its own, and this one stays.
    let versions = [(
        include_str!("data/store-1.sql"),
        include_str!("data/store-1.jsonl"),
    )];
    for (schema, records) in versions {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        let connection = rusqlite::Connection::open(&path).expect("opens");
        connection.execute_batch(schema).expect("is SQL");
        drop(connection);
        let expected: Vec<&str> = records.lines().collect();
        assert_eq!(lines(&open(&path)), expected);
    }
}

#[test]
fn several_writers_lose_nothing() {
    const WRITERS: usize = 4;
    const RUNS: usize = 25;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("memory/store.sqlite");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let path = &path;
            scope.spawn(move || {
                let mut store = open(path);
                for number in 0..RUNS {
                    let id = format!("{writer}-{number}");
                    let seen = [("x", Outcome::Pass), ("y", Outcome::Fail)];
                    store
                        .add(&Record::Run(run(&id, "t", 1, &seen)))
                        .expect("added");
                }
            });
        }
    });
    let tallies = open(&path).tallies(None).expect("read");
    let expected = (WRITERS * RUNS) as u32;
    assert_eq!(
        (tallies[0].passes, tallies[1].failures),
        (expected, expected)
    );
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("s");
    std::fs::write(
        &path,
        "this is not a database, and longer than a header: ".repeat(40),
    )
    .expect("written");
    let error = SqliteStore::open(&path).expect_err("no database");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");

    let path = dir.path().join("foreign");
    let connection = rusqlite::Connection::open(&path).expect("opens");
    connection
        .execute_batch("CREATE TABLE notes (text TEXT)")
        .expect("created");
    drop(connection);
    let error = SqliteStore::open(&path).expect_err("another program's");
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");

    let path = dir.path().join("new");
    drop(open(&path));
    let connection = rusqlite::Connection::open(&path).expect("opens");
    connection
        .pragma_update(None, "user_version", 99)
        .expect("set");
    drop(connection);
    let error = SqliteStore::open(&path).expect_err("from the future");
    assert!(
        matches!(error, StoreError::TooNew { found: 99, .. }),
        "{error:?}"
    );
}

#[test]
fn a_damaged_store_is_an_error_and_no_wrong_answer() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("s");
    let mut store = open(&path);
    for number in 0..50 {
        let record = Record::Run(run(
            &format!("r{number}"),
            "t",
            number,
            &[("x", Outcome::Pass)],
        ));
        store.add(&record).expect("added");
    }
    // Closing writes the log back into the file.
    drop(store);
    let mut bytes = std::fs::read(&path).expect("read");
    let start = bytes.len() / 4;
    let end = bytes.len() * 3 / 4;
    bytes[start..end].fill(0xa5);
    std::fs::write(&path, bytes).expect("written");
    let answer = SqliteStore::open(&path).and_then(|store| store.tallies(None));
    assert!(
        matches!(answer, Err(StoreError::Damaged { .. })),
        "{answer:?}"
    );
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let error = SqliteStore::open(&file.join("store.sqlite")).expect_err("no folder");
    assert!(error.to_string().contains("file"), "{error}");
}
