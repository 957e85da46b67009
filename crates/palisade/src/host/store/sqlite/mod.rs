//! The store as a SQLite file.

mod speed;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, Transaction, params};

use super::{Store, StoreError, WHOLE, open_part, parse_test, read_json, value};
use crate::flaky::{QuarantineEntry, TreeTally};
use crate::observation::{Environment, Millis, Observation, Outcome, Purpose, Run, Subject};
use crate::record::{BaselineMark, Incident, JournalEntry, Milestone, Record};
use crate::scope::Scope;
use crate::speed::{Calibration, SpeedRun};
use crate::test_id::TestId;

/// Marks the file as ours: "PLSD" as a number.
const APPLICATION_ID: i32 = 0x504c_5344;

/// How long a writer waits for another one.
const BUSY: Duration = Duration::from_secs(20);

/// The steps from an empty file to the present schema. A step is never changed
/// once it was released; the file's `user_version` counts the steps it has taken.
const MIGRATIONS: [&str; 5] = [TESTS, speed::TABLES, INCIDENTS, JOURNAL, speed::SNAPSHOTS];

/// The first step of the schema.
const TESTS: &str = "
    CREATE TABLE runs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        started_ms INTEGER NOT NULL,
        finished_ms INTEGER NOT NULL,
        purpose TEXT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty INTEGER NOT NULL,
        checkout INTEGER NOT NULL,
        branch TEXT,
        toolchain TEXT NOT NULL,
        machine TEXT NOT NULL,
        lockfile TEXT NOT NULL,
        config TEXT NOT NULL,
        scope TEXT NOT NULL,
        complete INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX runs_by_tree ON runs (tree);
    CREATE TABLE tests (
        seq INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    ) STRICT;
    CREATE TABLE observations (
        run INTEGER NOT NULL REFERENCES runs (seq),
        test INTEGER NOT NULL REFERENCES tests (seq),
        outcome TEXT NOT NULL,
        duration_ms REAL,
        body TEXT,
        message TEXT
    ) STRICT;
    CREATE INDEX observations_by_run ON observations (run);
    CREATE INDEX observations_by_test ON observations (test);
    CREATE TABLE baselines (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        recorded_ms INTEGER NOT NULL,
        branch TEXT NOT NULL,
        run TEXT NOT NULL
    ) STRICT;
    CREATE TABLE quarantine (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        at_ms INTEGER NOT NULL,
        test TEXT NOT NULL,
        event TEXT NOT NULL
    ) STRICT;
";

/// The third step of the schema.
const INCIDENTS: &str = "
    CREATE TABLE incidents (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        closed_ms INTEGER NOT NULL,
        incident TEXT NOT NULL
    ) STRICT;
";

/// The fourth step of the schema.
const JOURNAL: &str = "
    CREATE TABLE journal (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        at_ms INTEGER NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        event TEXT NOT NULL
    ) STRICT;
";

/// The store of one workspace in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    connection: Connection,
}

impl SqliteStore {
    /// Opens the file at `path`, and makes it and its folder if they are missing.
    /// A new folder tells git to ignore it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            let ignore = folder.join(".gitignore");
            fs::create_dir_all(folder)
                .and_then(|()| fs::write(&ignore, "*\n"))
                .map_err(|source| StoreError::Create {
                    path: folder.to_owned(),
                    source,
                })?;
        }
        let connection = Connection::open(path).map_err(|e| classify(path, e))?;
        let mut store = Self {
            path: path.to_owned(),
            connection,
        };
        store.prepare()?;
        Ok(store)
    }

    fn prepare(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        let classify = |error| classify(&path, error);
        self.connection.busy_timeout(BUSY).map_err(classify)?;
        let (version, application, tables) = self.marks().map_err(classify)?;
        let known = MIGRATIONS.len() as u32;
        let found = u32::try_from(version).unwrap_or(u32::MAX);
        if application != i64::from(APPLICATION_ID) && (tables > 0 || version > 0) {
            return Err(StoreError::Foreign { path });
        }
        if found > known {
            let store = path.display().to_string();
            return Err(StoreError::TooNew {
                store,
                found,
                known,
            });
        }
        if found == known {
            return Ok(());
        }
        self.write_ahead().map_err(classify)?;
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(classify)?;
        migrate(&transaction).map_err(classify)?;
        transaction.commit().map_err(classify)
    }

    /// Sets the file to a write-ahead log, which lets readers go on while one
    /// writes. Some file systems cannot do it; SQLite then keeps its rollback
    /// journal, which is slower and as safe.
    fn write_ahead(&self) -> rusqlite::Result<()> {
        let began = Instant::now();
        loop {
            // SQLite does not wait by itself here where two do this at once.
            match self.connection.pragma_update(None, "journal_mode", "WAL") {
                Err(error)
                    if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                        && began.elapsed() < BUSY =>
                {
                    thread::sleep(Duration::from_millis(5));
                }
                done => return done,
            }
        }
    }

    /// The file's `user_version`, its `application_id`, and how many tables and
    /// indexes it has: of one moment, as another process may be making them.
    fn marks(&mut self) -> rusqlite::Result<(i64, i64, i64)> {
        let moment = self.connection.transaction()?;
        let number = |name| moment.pragma_query_value(None, name, |row| row.get(0));
        let tables =
            moment.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((number("user_version")?, number("application_id")?, tables))
    }

    fn error(&self, error: rusqlite::Error) -> StoreError {
        classify(&self.path, error)
    }

    /// Reads the runs that a condition selects, with their observations.
    fn select_runs(
        &self,
        condition: &str,
        values: impl rusqlite::Params,
    ) -> Result<Vec<Run>, StoreError> {
        let sql = format!(
            "SELECT seq, id, started_ms, finished_ms, purpose, tree, commit_id, dirty, branch,
             toolchain, machine, lockfile, config, scope, complete, checkout FROM runs {condition}"
        );
        let mut statement = self.connection.prepare(&sql).map_err(|e| self.error(e))?;
        let rows = statement.query_map(values, |row| Ok((row.get(0)?, read_run(row)?)));
        let rows = rows.map_err(|e| self.error(e))?;
        let mut runs = Vec::new();
        for row in rows {
            let (seq, run) = row.map_err(|e| self.error(e))?;
            let mut run = run?;
            run.observations = self.observations(seq)?;
            runs.push(run);
        }
        Ok(runs)
    }

    fn observations(&self, run: i64) -> Result<Vec<Observation>, StoreError> {
        let sql = "SELECT name, outcome, duration_ms, body, message FROM observations
                   JOIN tests ON tests.seq = observations.test WHERE run = ?1
                   ORDER BY observations.rowid";
        let mut statement = self
            .connection
            .prepare_cached(sql)
            .map_err(|e| self.error(e))?;
        let rows = statement.query_map([run], |row| {
            let (name, outcome): (String, String) = (row.get(0)?, row.get(1)?);
            let rest = (row.get(2)?, row.get(3)?, row.get(4)?);
            Ok((name, outcome, rest))
        });
        let rows = rows.map_err(|e| self.error(e))?;
        let mut observations = Vec::new();
        for row in rows {
            let (name, outcome, (duration_ms, body, message)) = row.map_err(|e| self.error(e))?;
            observations.push(Observation {
                test: parse_test(&name)?,
                outcome: Outcome::from_word(&outcome).ok_or_else(|| value("outcome", &outcome))?,
                duration_ms,
                body,
                message,
            });
        }
        Ok(observations)
    }
}

fn migrate(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    // Another process may have done it between the look and the lock.
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for step in MIGRATIONS.iter().skip(version as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as u32)
}

fn classify(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { path, source }
        }
        _ => StoreError::Database { path, source },
    }
}

fn read_run(row: &Row<'_>) -> rusqlite::Result<Result<Run, StoreError>> {
    let purpose: String = row.get(4)?;
    let scope: String = row.get(13)?;
    let run = Run {
        id: row.get(1)?,
        started_ms: row.get(2)?,
        finished_ms: row.get(3)?,
        purpose: Purpose::Tests,
        subject: Subject {
            tree: row.get(5)?,
            commit: row.get(6)?,
            dirty: row.get(7)?,
            checkout: row.get(15)?,
            branch: row.get(8)?,
        },
        environment: Environment {
            toolchain: row.get(9)?,
            machine: row.get(10)?,
            lockfile: row.get(11)?,
            config: row.get(12)?,
        },
        scope: Scope::Workspace,
        complete: row.get(14)?,
        observations: Vec::new(),
    };
    let read = || {
        let scope = read_json("runs.scope", &scope)?;
        let purpose =
            Purpose::from_word(&purpose).ok_or_else(|| value("runs.purpose", &purpose))?;
        Ok(Run {
            purpose,
            scope,
            ..run
        })
    };
    Ok(read())
}

fn insert_run(transaction: &Transaction<'_>, run: &Run, scope: &str) -> rusqlite::Result<()> {
    let inserted = transaction.execute(
        "INSERT OR IGNORE INTO runs (id, started_ms, finished_ms, purpose, tree, commit_id, dirty,
         branch, toolchain, machine, lockfile, config, scope, complete,
         checkout)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        params![
            run.id,
            run.started_ms,
            run.finished_ms,
            run.purpose.as_str(),
            run.subject.tree,
            run.subject.commit,
            run.subject.dirty,
            run.subject.branch,
            run.environment.toolchain,
            run.environment.machine,
            run.environment.lockfile,
            run.environment.config,
            scope,
            run.complete,
            run.subject.checkout
        ],
    )?;
    if inserted == 0 {
        return Ok(());
    }
    let seq = transaction.last_insert_rowid();
    let mut test = transaction.prepare("INSERT OR IGNORE INTO tests (name) VALUES (?1)")?;
    let mut observation = transaction.prepare(
        "INSERT INTO observations (run, test, outcome, duration_ms, body, message)
         VALUES (?1, (SELECT seq FROM tests WHERE name = ?2), ?3, ?4, ?5, ?6)",
    )?;
    for seen in &run.observations {
        let name = seen.test.to_string();
        test.execute([&name])?;
        let outcome = seen.outcome.as_str();
        let values = params![
            seq,
            name,
            outcome,
            seen.duration_ms,
            seen.body,
            seen.message
        ];
        observation.execute(values)?;
    }
    Ok(())
}

fn insert(transaction: &Transaction<'_>, record: &Record, json: &str) -> rusqlite::Result<()> {
    match record {
        Record::Run(run) => insert_run(transaction, run, json),
        Record::Baseline(mark) => transaction
            .execute(
                "INSERT OR IGNORE INTO baselines (id, recorded_ms, branch, run)
                 VALUES (?1, ?2, ?3, ?4)",
                params![mark.id, mark.recorded_ms, mark.branch, mark.run],
            )
            .map(drop),
        Record::Quarantine(entry) => transaction
            .execute(
                "INSERT OR IGNORE INTO quarantine (id, at_ms, test, event)
                 VALUES (?1, ?2, ?3, ?4)",
                params![entry.id, entry.at_ms, entry.test.to_string(), json],
            )
            .map(drop),
        Record::Speed(run) => speed::insert_run(transaction, run, json),
        Record::Calibration(found) => speed::insert_calibration(transaction, found, json),
        Record::Milestone(milestone) => speed::insert_milestone(transaction, milestone, json),
        Record::Incident(incident) => transaction
            .execute(
                "INSERT OR IGNORE INTO incidents (id, closed_ms, incident) VALUES (?1, ?2, ?3)",
                params![incident.id, incident.closed_ms.unwrap_or(0), json],
            )
            .map(drop),
        Record::Journal(entry) => transaction
            .execute(
                "INSERT OR IGNORE INTO journal (id, at_ms, tree, commit_id, event)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![entry.id, entry.at_ms, entry.tree, entry.commit, json],
            )
            .map(drop),
    }
}

impl Store for SqliteStore {
    fn add(&mut self, record: &Record) -> Result<(), StoreError> {
        let json = open_part(record)?;
        let path = self.path.clone();
        let classify = |error| classify(&path, error);
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(classify)?;
        insert(&transaction, record, &json).map_err(classify)?;
        transaction.commit().map_err(classify)
    }

    fn runs_of(&self, tree: &str, environment: &Environment) -> Result<Vec<Run>, StoreError> {
        let Environment {
            toolchain,
            machine,
            lockfile,
            config,
        } = environment;
        self.select_runs(
            "WHERE tree = ?1 AND toolchain = ?2 AND machine = ?3 AND lockfile = ?4
             AND config = ?5 AND complete = 1 ORDER BY started_ms DESC, seq DESC",
            params![tree, toolchain, machine, lockfile, config],
        )
    }

    fn recent_runs(&self, limit: u32) -> Result<Vec<Run>, StoreError> {
        self.select_runs(
            "WHERE purpose = 'tests' ORDER BY started_ms DESC, seq DESC LIMIT ?1",
            [limit],
        )
    }

    fn runs_since(&self, since: Millis) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM runs
                   WHERE purpose = 'tests' AND complete = 1 AND started_ms > ?1";
        let count = |row: &Row<'_>| row.get::<_, i64>(0);
        let count = self.connection.query_row(sql, [since], count);
        Ok(count.map_err(|e| self.error(e))? as u64)
    }

    fn whole_run(&self) -> Result<Option<Run>, StoreError> {
        let condition = "WHERE purpose = 'tests' AND complete = 1 AND scope = ?1
                         ORDER BY started_ms DESC, seq DESC LIMIT 1";
        Ok(self.select_runs(condition, [WHOLE])?.pop())
    }

    fn run(&self, id: &str) -> Result<Option<Run>, StoreError> {
        Ok(self.select_runs("WHERE id = ?1", [id])?.pop())
    }

    fn baseline(&self, branch: &str) -> Result<Option<BaselineMark>, StoreError> {
        self.connection
            .query_row(
                "SELECT id, recorded_ms, branch, run FROM baselines WHERE branch = ?1
                 ORDER BY recorded_ms DESC, seq DESC LIMIT 1",
                [branch],
                read_baseline,
            )
            .optional()
            .map_err(|e| self.error(e))
    }

    fn tallies(&self, test: Option<&TestId>) -> Result<Vec<TreeTally>, StoreError> {
        // The commit is that of the latest failure, or of the latest sight when there
        // is none: it is picked as a text that begins with the time.
        let sql = "SELECT name, tree,
                   substr(max(printf('%020d', started_ms + (outcome <> 'pass') * (1 << 50))
                              || commit_id), 21),
                   sum(outcome = 'pass'), sum(outcome IN ('fail', 'timed_out')),
                   max(started_ms + (outcome <> 'pass') * (1 << 50)), max(started_ms)
                   FROM observations JOIN runs ON runs.seq = observations.run
                   JOIN tests ON tests.seq = observations.test
                   WHERE outcome <> 'ignored' AND (?1 IS NULL OR name = ?1)
                   GROUP BY tests.seq, tree, checkout, toolchain, machine, lockfile, config
                   ORDER BY name, max(started_ms)";
        let mut statement = self.connection.prepare(sql).map_err(|e| self.error(e))?;
        let rows = statement.query_map([test.map(ToString::to_string)], |row| {
            let name: String = row.get(0)?;
            let failure: i64 = row.get(5)?;
            let tally = |test| {
                Ok(TreeTally {
                    test,
                    tree: row.get(1)?,
                    commit: row.get(2)?,
                    passes: row.get(3)?,
                    failures: row.get(4)?,
                    last_ms: row.get(6)?,
                    last_failure_ms: if failure >= 1 << 50 {
                        failure - (1 << 50)
                    } else {
                        0
                    },
                })
            };
            parse_test(&name)
                .map(tally)
                .map_or_else(|e| Ok(Err(e)), |t| t.map(Ok))
        });
        let rows = rows.map_err(|e| self.error(e))?;
        rows.map(|row| row.map_err(|e| self.error(e))?).collect()
    }

    fn failed_on(&self, tree: &str) -> Result<BTreeSet<TestId>, StoreError> {
        let sql = "SELECT DISTINCT name FROM observations
                   JOIN runs ON runs.seq = observations.run
                   JOIN tests ON tests.seq = observations.test
                   WHERE tree = ?1 AND outcome IN ('fail', 'timed_out')";
        let mut statement = self.connection.prepare(sql).map_err(|e| self.error(e))?;
        let names = statement.query_map([tree], |row| row.get::<_, String>(0));
        let names = names.map_err(|e| self.error(e))?;
        names
            .map(|name| parse_test(&name.map_err(|e| self.error(e))?))
            .collect()
    }

    fn outcomes_since(&self, test: &TestId, since: Millis) -> Result<Vec<bool>, StoreError> {
        let sql = "SELECT outcome = 'pass' FROM observations
                   JOIN runs ON runs.seq = observations.run
                   JOIN tests ON tests.seq = observations.test
                   WHERE name = ?1 AND outcome <> 'ignored' AND started_ms >= ?2
                   ORDER BY started_ms, observations.rowid";
        let mut statement = self.connection.prepare(sql).map_err(|e| self.error(e))?;
        let rows = statement.query_map(params![test.to_string(), since], |row| row.get(0));
        let rows = rows.and_then(Iterator::collect);
        rows.map_err(|e| self.error(e))
    }

    fn quarantine_entries(&self) -> Result<Vec<QuarantineEntry>, StoreError> {
        let sql = "SELECT id, at_ms, test, event FROM quarantine ORDER BY at_ms, seq";
        let mut statement = self.connection.prepare(sql).map_err(|e| self.error(e))?;
        let rows = statement.query_map([], |row| {
            let (test, event): (String, String) = (row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, row.get(1)?, test, event))
        });
        let rows = rows.map_err(|e| self.error(e))?;
        let read = |row: rusqlite::Result<(String, Millis, String, String)>| {
            let (id, at_ms, test, event) = row.map_err(|e| self.error(e))?;
            Ok(QuarantineEntry {
                id,
                at_ms,
                test: parse_test(&test)?,
                event: read_json("quarantine.event", &event)?,
            })
        };
        rows.map(read).collect()
    }

    fn speed_runs(&self, since: Millis) -> Result<Vec<SpeedRun>, StoreError> {
        self.select_speed_runs(since)
    }

    fn calibrations(&self) -> Result<Vec<Calibration>, StoreError> {
        self.select_calibrations()
    }

    fn milestones(&self) -> Result<Vec<Milestone>, StoreError> {
        self.select_milestones()
    }

    fn incidents(&self) -> Result<Vec<Incident>, StoreError> {
        let sql = "SELECT incident FROM incidents ORDER BY closed_ms, seq";
        let mut statement = self.connection.prepare(sql).map_err(|e| self.error(e))?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0));
        let read = |row: rusqlite::Result<String>| {
            read_json("incidents.incident", &row.map_err(|e| self.error(e))?)
        };
        rows.map_err(|e| self.error(e))?.map(read).collect()
    }

    fn journal(&self) -> Result<Vec<JournalEntry>, StoreError> {
        let sql = "SELECT id, at_ms, tree, commit_id, event FROM journal ORDER BY at_ms, seq";
        let mut statement = self.connection.prepare(sql).map_err(|e| self.error(e))?;
        let rows = statement.query_map([], |row| {
            let (tree, commit): (String, String) = (row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, row.get(1)?, tree, commit, row.get(4)?))
        });
        let read = |row: rusqlite::Result<(String, Millis, String, String, String)>| {
            let (id, at_ms, tree, commit, event) = row.map_err(|e| self.error(e))?;
            Ok(JournalEntry {
                id,
                at_ms,
                tree,
                commit,
                event: read_json("journal.event", &event)?,
            })
        };
        rows.map_err(|e| self.error(e))?.map(read).collect()
    }

    fn for_each(
        &self,
        each: &mut dyn FnMut(Record) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut ids = self
            .connection
            .prepare("SELECT id FROM runs ORDER BY seq")
            .map_err(|e| self.error(e))?;
        let ids = ids.query_map([], |row| row.get::<_, String>(0));
        let ids = ids.and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>);
        // One run at a time: together they may not fit into memory.
        for id in ids.map_err(|e| self.error(e))? {
            if let Some(run) = self.run(&id)? {
                each(Record::Run(run))?;
            }
        }
        let mut marks = self
            .connection
            .prepare("SELECT id, recorded_ms, branch, run FROM baselines ORDER BY seq")
            .map_err(|e| self.error(e))?;
        let marks = marks.query_map([], read_baseline);
        for mark in marks.map_err(|e| self.error(e))? {
            each(Record::Baseline(mark.map_err(|e| self.error(e))?))?;
        }
        for entry in self.quarantine_entries()? {
            each(Record::Quarantine(entry))?;
        }
        for run in self.speed_runs(Millis::MIN)? {
            each(Record::Speed(run))?;
        }
        for calibration in self.calibrations()? {
            each(Record::Calibration(calibration))?;
        }
        for milestone in self.milestones()? {
            each(Record::Milestone(milestone))?;
        }
        for incident in self.incidents()? {
            each(Record::Incident(Box::new(incident)))?;
        }
        for entry in self.journal()? {
            each(Record::Journal(entry))?;
        }
        Ok(())
    }
}

fn read_baseline(row: &Row<'_>) -> rusqlite::Result<BaselineMark> {
    Ok(BaselineMark {
        id: row.get(0)?,
        recorded_ms: row.get(1)?,
        branch: row.get(2)?,
        run: row.get(3)?,
    })
}
