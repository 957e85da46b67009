//! The promises of the store: atomic, append-only, idempotent, shared by several
//! writers, and never read wrongly. The same tests run on a SQLite file and on a
//! PostgreSQL server; `scripts/test-postgres.sh` starts the server.

use std::collections::BTreeSet;
use std::path::Path;

use palisade::flaky::{QuarantineEntry, QuarantineEvent};
use palisade::host::store::{SqliteStore, Store, StoreError, export, import};
use palisade::observation::{Environment, Observation, Outcome, Purpose, Run, Subject};
use palisade::record::{BaselineMark, Record};
use palisade::scope::Scope;
use palisade::speed::{Fingerprint, Measure, Measurement, SpeedPurpose, SpeedRun};
use palisade::test_id::{TargetKind, TestId};

/// A place where a store is kept; it is gone when this is dropped.
trait Place: Sync {
    /// A place that is empty.
    fn new() -> Self;
    /// Opens the store; each call opens the same.
    fn open(&self) -> Box<dyn Store>;
}

/// A SQLite file.
struct File(tempfile::TempDir);

impl Place for File {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn open(&self) -> Box<dyn Store> {
        let path = self.0.path().join("kept/store.sqlite");
        palisade::host::store::open(path.as_os_str()).expect("opens")
    }
}

/// Makes each test one for every kind of place.
macro_rules! in_every_place {
    ($($test:ident)*) => {
        mod sqlite {
            $(#[test] fn $test() { super::$test::<super::File>(); })*
        }
        #[cfg(feature = "postgres")]
        mod postgres {
            $(
                #[test]
                #[ignore = "scripts/test-postgres.sh starts the server it needs"]
                fn $test() { super::$test::<super::server::Schema>(); }
            )*
        }
    };
}

in_every_place! {
    records_come_back_as_they_were
    only_complete_runs_of_the_same_tree_and_environment_stand_for_it
    adding_twice_is_adding_once
    runs_are_found_by_their_time
    the_newest_baseline_of_a_branch_counts
    tallies_keep_trees_apart_and_name_the_failing_commit
    tallies_keep_environments_apart
    records_of_each_version_are_read
    measurements_come_back_from_a_time_on
    an_export_makes_the_same_store_elsewhere
    several_writers_lose_nothing
}

/// A store as each version of the schema wrote it, and its records. A new schema adds
/// its own, and these stay.
const VERSIONS: [(&str, &str); 6] = [
    (
        include_str!("data/store-1.sql"),
        include_str!("data/store-1.jsonl"),
    ),
    (
        include_str!("data/store-2.sql"),
        include_str!("data/store-2.jsonl"),
    ),
    (
        include_str!("data/store-3.sql"),
        include_str!("data/store-3.jsonl"),
    ),
    (
        include_str!("data/store-4.sql"),
        include_str!("data/store-4.jsonl"),
    ),
    (
        include_str!("data/store-5.sql"),
        include_str!("data/store-5.jsonl"),
    ),
    // The same records in other tables.
    (
        include_str!("data/store-6.sql"),
        include_str!("data/store-5.jsonl"),
    ),
];

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

/// Adds a run of which only the time matters.
fn add_at(store: &mut dyn Store, id: &str, at: i64) {
    let run = run(id, "t", at, &[("x", Outcome::Pass)]);
    store.add(&Record::Run(run)).expect("added");
}

fn lines(store: &dyn Store) -> Vec<String> {
    let mut text = Vec::new();
    export(store, &mut text).expect("exports");
    let text = String::from_utf8(text).expect("is text");
    text.lines().map(str::to_owned).collect()
}

fn records_come_back_as_they_were<P: Place>() {
    let place = P::new();
    let mut store = place.open();
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
    "r2".clone_into(&mut first.id);
    first.subject.branch = None;
    first.observations[0].duration_ms = None;
    first.observations[0].body = None;
    store.add(&Record::Run(first.clone())).expect("added");
    drop(store);
    let store = place.open();
    assert_eq!(store.run("r2").expect("read").as_ref(), Some(&first));
    let second = store.run("r1").expect("read").expect("is there");
    assert_eq!(second.observations[1], first.observations[1]);
    assert_eq!(store.run("r3").expect("read"), None);
}

fn runs_are_found_by_their_time<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    for (id, at) in [("r1", 10), ("r3", 30), ("r2", 20)] {
        add_at(store.as_mut(), id, at);
    }
    let mut other = run("r4", "t", 40, &[]);
    other.purpose = Purpose::Rerun;
    store.add(&Record::Run(other)).expect("added");
    let recent = store.recent_runs(2).expect("read");
    let ids: Vec<_> = recent.iter().map(|run| run.id.as_str()).collect();
    assert_eq!(ids, ["r3", "r2"]);
    let mut part = run("r5", "t", 50, &[]);
    part.scope = Scope::Packages(["a".to_owned()].into());
    store.add(&Record::Run(part)).expect("added");
    let whole = store.whole_run().expect("read").expect("is there");
    assert_eq!(whole.id, "r3");
    for (since, expected) in [(0, 4), (10, 3), (50, 0)] {
        assert_eq!(store.runs_since(since).expect("read"), expected, "{since}");
    }
}

fn the_newest_baseline_of_a_branch_counts<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    for (id, branch, at) in [("b1", "main", 2), ("b2", "main", 1), ("b3", "side", 3)] {
        let mark = BaselineMark {
            id: id.to_owned(),
            recorded_ms: at,
            branch: branch.to_owned(),
            run: format!("run of {id}"),
        };
        store.add(&Record::Baseline(mark)).expect("added");
    }
    let found = |branch| {
        let mark = store.baseline(branch).expect("read");
        mark.map(|mark| mark.id)
    };
    assert_eq!(found("main").as_deref(), Some("b1"));
    assert_eq!(found("side").as_deref(), Some("b3"));
    assert_eq!(found("none"), None);
}

fn records_of_each_version_are_read<P: Place>() {
    for (_, records) in VERSIONS {
        let place = P::new();
        let mut store = place.open();
        import(store.as_mut(), records.as_bytes()).expect("imports");
        let expected: Vec<&str> = records.lines().collect();
        assert_eq!(lines(store.as_ref()), expected);
    }
}

fn measurements_come_back_from_a_time_on<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let speed_run = |id: &str, at| SpeedRun {
        id: id.to_owned(),
        comparison_id: "s".to_owned(),
        started_ms: at,
        finished_ms: at + 1,
        purpose: SpeedPurpose::Comparison,
        subject: run(id, "t", at, &[]).subject,
        fingerprint: Fingerprint([("cores".to_owned(), "2".to_owned())].into()),
        measurements: vec![
            Measurement {
                benchmark: "sort/1k".to_owned(),
                measure: Measure::Time,
                values: vec![0.1, 1e9 / 3.0, f64::MIN_POSITIVE],
            },
            Measurement {
                benchmark: "sort/1k".to_owned(),
                measure: Measure::PeakMemory,
                values: Vec::new(),
            },
        ],
    };
    for (id, at) in [("r2", 2), ("r1", 1), ("r3", 3)] {
        store.add(&Record::Speed(speed_run(id, at))).expect("added");
    }
    store
        .add(&Record::Speed(speed_run("r3", 3)))
        .expect("added");
    let found = store.speed_runs(2).expect("read");
    assert_eq!(found, [speed_run("r2", 2), speed_run("r3", 3)]);
    assert_eq!(store.recent_runs(9).expect("read"), []);
}

#[test]
fn a_new_folder_is_ignored_by_git() {
    let place = File::new();
    drop(place.open());
    let ignored = std::fs::read_to_string(place.0.path().join("kept/.gitignore"));
    assert_eq!(ignored.expect("written"), "*\n");
}

fn only_complete_runs_of_the_same_tree_and_environment_stand_for_it<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let mut incomplete = run("r1", "t", 1, &[]);
    incomplete.complete = false;
    let mut elsewhere = run("r2", "t", 2, &[]);
    "other".clone_into(&mut elsewhere.environment.machine);
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

fn adding_twice_is_adding_once<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let record = Record::Run(run("r1", "t", 1, &[("x", Outcome::Pass)]));
    store.add(&record).expect("added");
    store.add(&record).expect("added");
    let tallies = store.tallies(None).expect("read");
    assert_eq!((tallies.len(), tallies[0].passes), (1, 1));
}

fn tallies_keep_trees_apart_and_name_the_failing_commit<P: Place>() {
    let place = P::new();
    let mut store = place.open();
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
    // In any run of a tree, whatever came after.
    assert_eq!(store.failed_on("t").expect("read"), [test("x")].into());
    assert!(store.failed_on("u").expect("read").is_empty());
}

fn tallies_keep_environments_apart<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let pass = run("r1", "t", 1, &[("x", Outcome::Pass)]);
    let mut elsewhere = run("r2", "t", 2, &[("x", Outcome::Fail)]);
    "other".clone_into(&mut elsewhere.environment.machine);
    let mut checkout = run("r3", "t", 3, &[("x", Outcome::Fail)]);
    checkout.subject.checkout = true;
    for run in [pass, elsewhere, checkout] {
        store.add(&Record::Run(run)).expect("added");
    }
    let tallies = store.tallies(None).expect("read");
    let seen: Vec<_> = tallies.iter().map(|t| (t.failures, t.passes)).collect();
    assert_eq!(seen, [(0, 1), (1, 0), (1, 0)]);
}

fn an_export_makes_the_same_store_elsewhere<P: Place>() {
    let (place, elsewhere) = (P::new(), P::new());
    let mut store = place.open();
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
    let exported = lines(store.as_ref());
    assert_eq!(exported.len(), 4);
    let mut other = elsewhere.open();
    for _ in 0..2 {
        let read = import(other.as_mut(), exported.join("\n").as_bytes()).expect("imports");
        assert_eq!(read, 4);
    }
    assert_eq!(lines(other.as_ref()), exported);
    let mark = other.baseline("main").expect("read").expect("is there");
    assert_eq!(mark.run, "r1");
    let error = import(other.as_mut(), "\n{\"record\":\"run\"}".as_bytes()).expect_err("not a run");
    assert!(matches!(error, StoreError::Line { line: 2, .. }));
}

#[test]
fn a_store_of_each_version_is_read() {
    for (schema, records) in VERSIONS {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        let connection = rusqlite::Connection::open(&path).expect("opens");
        connection.execute_batch(schema).expect("is SQL");
        drop(connection);
        let expected: Vec<&str> = records.lines().collect();
        let mut store = open(&path);
        assert_eq!(lines(&store), expected);
        // They are known by their names, too.
        import(&mut store, records.as_bytes()).expect("imports");
        assert_eq!(lines(&store), expected);
    }
}

fn several_writers_lose_nothing<P: Place>() {
    const WRITERS: usize = 4;
    const RUNS: usize = 25;
    let place = P::new();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let place = &place;
            scope.spawn(move || {
                // The first ones also make the tables, at the same time.
                let mut store = place.open();
                for number in 0..RUNS {
                    let id = format!("{writer}-{number}");
                    // In either order: neither may wait for the other.
                    let mut seen = [("x", Outcome::Pass), ("y", Outcome::Fail)];
                    seen.rotate_left(writer % 2);
                    store
                        .add(&Record::Run(run(&id, "t", 1, &seen)))
                        .expect("added");
                }
            });
        }
    });
    let tallies = place.open().tallies(None).expect("read");
    let expected = (WRITERS * RUNS) as u32;
    assert_eq!(
        (tallies[0].passes, tallies[1].failures),
        (expected, expected)
    );
}

/// What one sees of a file that another is making must not look like a file of
/// another program.
#[test]
fn many_make_one_store_at_the_same_time() {
    for _ in 0..30 {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("kept/store.sqlite");
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    drop(open(&path));
                });
            }
        });
    }
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
    let names: Vec<String> = (0..40).map(|number| format!("x{number}")).collect();
    let seen: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), Outcome::Pass))
        .collect();
    for number in 0..50 {
        let run = run(&format!("r{number}"), "t", number, &seen);
        store.add(&Record::Run(run)).expect("added");
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

#[test]
fn a_place_of_another_kind_is_refused() {
    let check = |place: &str, expected: &str| {
        let error = palisade::host::store::open(place.as_ref())
            .err()
            .expect("refused");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    };
    check("mysql://ada:secret@host/x", "open the store mysql://…");
    if cfg!(not(feature = "postgres")) {
        let expected = "this build keeps its store in files only";
        check("postgres://ada:secret@host/x", expected);
    }
}

/// What only a server can go through.
#[cfg(feature = "postgres")]
mod server {
    use std::time::Duration;

    use postgres::{Client, NoTls};

    use super::{Place, add_at, lines};
    use palisade::host::store::{Store, StoreError, import};

    /// Where the server is; `scripts/test-postgres.sh` sets it.
    fn url() -> String {
        std::env::var("PALISADE_TEST_POSTGRES")
            .expect("PALISADE_TEST_POSTGRES is the URL of a server, with a `?` in it")
    }

    /// A schema of its own.
    pub struct Schema(String);

    impl Schema {
        fn client(&self) -> Client {
            let mut client = Client::connect(&url(), NoTls).expect("connects");
            let path = format!("SET search_path = {}", self.0);
            client.batch_execute(&path).expect("is there");
            client
        }

        /// Ends the connections that are in this schema or wait for a lock there.
        fn end_connections(&self, client: &mut Client) -> u64 {
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE application_name = $1 AND pid <> pg_backend_pid()";
            client.execute(sql, &[&self.0]).expect("may end them")
        }
    }

    impl Place for Schema {
        fn new() -> Self {
            let mut client = Client::connect(&url(), NoTls).expect("connects");
            let name = format!("test_{}", uuid::Uuid::new_v4().simple());
            let create = format!("CREATE SCHEMA {name}");
            client.batch_execute(&create).expect("created");
            Self(name)
        }

        fn open(&self) -> Box<dyn Store> {
            let (url, name) = (url(), &self.0);
            let url = format!("{url}&options=-csearch_path%3D{name}&application_name={name}");
            palisade::host::store::open(url.as_ref()).expect("opens")
        }
    }

    impl Drop for Schema {
        fn drop(&mut self) {
            let drop = format!("DROP SCHEMA {} CASCADE", self.0);
            // What a failed test leaves behind goes with the server.
            let _ = self.client().batch_execute(&drop);
        }
    }

    #[test]
    #[ignore = "scripts/test-postgres.sh starts the server it needs"]
    fn a_schema_of_a_newer_version_is_refused() {
        let place = Schema::new();
        drop(place.open());
        let newer = "UPDATE palisade_schema SET version = 99";
        place.client().batch_execute(newer).expect("set");
        let url = format!("{}&options=-csearch_path%3D{}", url(), place.0);
        let error = palisade::host::store::open(url.as_ref())
            .err()
            .expect("refused");
        assert!(
            matches!(error, StoreError::TooNew { found: 99, .. }),
            "{error:?}"
        );
    }

    #[test]
    #[ignore = "scripts/test-postgres.sh starts the server it needs"]
    fn a_schema_of_an_earlier_version_is_read() {
        let place = Schema::new();
        let schema = include_str!("data/store-5-postgres.sql");
        place.client().batch_execute(schema).expect("is SQL");
        let records = include_str!("data/store-5.jsonl");
        let expected: Vec<&str> = records.lines().collect();
        let mut store = place.open();
        assert_eq!(lines(store.as_ref()), expected);
        import(store.as_mut(), records.as_bytes()).expect("imports");
        assert_eq!(lines(store.as_ref()), expected);
    }

    #[test]
    #[ignore = "scripts/test-postgres.sh starts the server it needs"]
    fn a_connection_that_breaks_between_two_records_is_made_anew() {
        let place = Schema::new();
        let mut store = place.open();
        add_at(store.as_mut(), "r1", 1);
        assert_eq!(place.end_connections(&mut place.client()), 1);
        add_at(store.as_mut(), "r2", 2);
        assert_eq!(place.end_connections(&mut place.client()), 1);
        assert_eq!(lines(store.as_ref()).len(), 2);
    }

    #[test]
    #[ignore = "scripts/test-postgres.sh starts the server it needs"]
    fn a_record_whose_connection_breaks_half_way_is_there_once_and_whole() {
        let place = Schema::new();
        let mut store = place.open();
        let (mut holder, mut watcher) = (place.client(), place.client());
        let mut lock = holder.transaction().expect("begins");
        // The run's row can be written, its observations cannot.
        lock.batch_execute("LOCK TABLE palisade_observations IN SHARE MODE")
            .expect("locked");
        std::thread::scope(|scope| {
            let place = &place;
            scope.spawn(move || {
                // The connection is the thread's own: a store is not shared.
                let mut store = place.open();
                add_at(store.as_mut(), "r1", 1);
            });
            let waiting = "SELECT count(*) FROM pg_stat_activity
                           WHERE application_name = $1 AND wait_event_type = 'Lock'";
            let mut wait = || {
                for _ in 0..500 {
                    let row = watcher.query_one(waiting, &[&place.0]).expect("read");
                    if row.get::<_, i64>(0) > 0 {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                panic!("nobody waits for the lock");
            };
            wait();
            place.end_connections(&mut place.client());
            wait();
            let seen = "SELECT count(*) FROM palisade_runs";
            let row = lock.query_one(seen, &[]).expect("read");
            assert_eq!(row.get::<_, i64>(0), 0, "half a run is seen");
            lock.commit().expect("unlocked");
        });
        add_at(store.as_mut(), "r1", 1);
        let run = store.run("r1").expect("read").expect("is there");
        assert_eq!(run.observations.len(), 1);
        assert_eq!(lines(store.as_ref()).len(), 1);
    }
}
