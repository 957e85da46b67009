//! The records in the tables of a database: runs of tests with a row for each test, which
//! are asked for by test and by tree, and all others as documents, lines of an export that
//! are asked for by their kind and time.

use std::collections::{BTreeSet, HashMap};

use serde::de::DeserializeOwned;

use super::sql::{Database, FromValue, Row, Session, Value};
use super::{Store, StoreError, value};
use crate::flaky::{QuarantineEntry, TreeTally};
use crate::observation::{Environment, Millis, Observation, Outcome, Purpose, Run, Subject};
use crate::record::{BaselineMark, Incident, JournalEntry, Milestone, Record};
use crate::speed::{Calibration, SpeedRun};
use crate::test_id::TestId;

/// The kinds of documents, as `Record` writes them, in the order of an export.
const KINDS: [&str; 7] = [
    "baseline",
    "quarantine",
    "speed",
    "calibration",
    "milestone",
    "incident",
    "journal",
];

/// How the schema writes the scope of a run of all tests.
const WHOLE: &str = "\"workspace\"";

/// How many rows one statement inserts: a server far away answers each statement late, and
/// SQLite allows 32766 values.
const ROWS: usize = 1000;

fn json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Copy(error.into()))
}

fn read_json<T: DeserializeOwned>(column: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| value(column, text))
}

fn parse_test(name: &str) -> Result<TestId, StoreError> {
    name.parse().map_err(|_| value("tests.name", name))
}

/// Reads a row of one column.
fn only<T: for<'a> FromValue<'a>>(row: &mut Row<'_>) -> Result<T, StoreError> {
    row.take()
}

fn read_run(row: &mut Row<'_>) -> Result<Run, StoreError> {
    let read_purpose = |word| Purpose::from_word(word).ok_or_else(|| value("runs.purpose", word));
    // In the order of the columns.
    Ok(Run {
        id: row.take()?,
        started_ms: row.take()?,
        finished_ms: row.take()?,
        purpose: read_purpose(row.take()?)?,
        subject: Subject {
            tree: row.take()?,
            commit: row.take()?,
            dirty: row.take()?,
            checkout: row.take()?,
            branch: row.take()?,
        },
        environment: Environment {
            toolchain: row.take()?,
            machine: row.take()?,
            lockfile: row.take()?,
            config: row.take()?,
        },
        scope: read_json("runs.scope", row.take()?)?,
        complete: row.take()?,
        observations: Vec::new(),
    })
}

fn read_observation(row: &mut Row<'_>) -> Result<Observation, StoreError> {
    let read_outcome = |word| Outcome::from_word(word).ok_or_else(|| value("outcome", word));
    Ok(Observation {
        test: parse_test(row.take()?)?,
        outcome: read_outcome(row.take()?)?,
        duration_ms: row.take()?,
        body: row.take()?,
        message: row.take()?,
    })
}

fn read_tally(row: &mut Row<'_>) -> Result<TreeTally, StoreError> {
    Ok(TreeTally {
        test: parse_test(row.take()?)?,
        tree: row.take()?,
        passes: row.take()?,
        failures: row.take()?,
        commit: row.take()?,
        last_ms: row.take()?,
        last_failure_ms: row.take()?,
    })
}

fn insert_run(session: &mut dyn Session, run: &Run, scope: &str) -> Result<(), StoreError> {
    let (subject, environment) = (&run.subject, &run.environment);
    let mut seq: Option<i64> = None;
    session.query(
        "INSERT INTO palisade_runs
             (id, started_ms, finished_ms, purpose, tree, commit_id, dirty, checkout, branch,
              toolchain, machine, lockfile, config, scope, complete)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO NOTHING RETURNING seq",
        &[
            Value::from(&run.id),
            run.started_ms.into(),
            run.finished_ms.into(),
            run.purpose.as_str().into(),
            Value::from(&subject.tree),
            Value::from(&subject.commit),
            subject.dirty.into(),
            subject.checkout.into(),
            subject.branch.as_deref().into(),
            Value::from(&environment.toolchain),
            Value::from(&environment.machine),
            Value::from(&environment.lockfile),
            Value::from(&environment.config),
            scope.into(),
            run.complete.into(),
        ],
        &mut |row| row.take().map(|number| seq = Some(number)),
    )?;
    let Some(seq) = seq else {
        return Ok(());
    };
    let seen = &run.observations;
    let names: Vec<String> = seen.iter().map(|seen| seen.test.to_string()).collect();
    let numbers = test_numbers(session, &names)?;
    let rows = (1_i64..)
        .zip(seen)
        .zip(&names)
        .map(|((place, seen), name)| {
            [
                seq.into(),
                place.into(),
                numbers.get(name).copied().into(),
                seen.outcome.as_str().into(),
                seen.duration_ms.into(),
                seen.body.as_deref().into(),
                seen.message.as_deref().into(),
            ]
        });
    let into = "palisade_observations (run, place, test, outcome, duration_ms, body, message)";
    insert(session, into, &rows.collect::<Vec<_>>())
}

/// The numbers of tests; those that have none yet are given one.
fn test_numbers(
    session: &mut dyn Session,
    names: &[String],
) -> Result<HashMap<String, i64>, StoreError> {
    let mut numbers = HashMap::new();
    // In order, so that two writers of the same new names wait for each other in one
    // direction only.
    let names: BTreeSet<&String> = names.iter().collect();
    let mut missing: Vec<[Value<'_>; 1]> = names.into_iter().map(|name| [name.into()]).collect();
    find_numbers(session, &missing, &mut numbers)?;
    missing.retain(|[name]| !matches!(name, Value::Text(name) if numbers.contains_key(*name)));
    insert(session, "palisade_tests (name)", &missing)?;
    find_numbers(session, &missing, &mut numbers)?;
    Ok(numbers)
}

fn find_numbers(
    session: &mut dyn Session,
    names: &[[Value<'_>; 1]],
    numbers: &mut HashMap<String, i64>,
) -> Result<(), StoreError> {
    for some in names.chunks(ROWS) {
        let places = vec!["?"; some.len()].join(", ");
        let sql = format!("SELECT name, seq FROM palisade_tests WHERE name IN ({places})");
        session.query(&sql, some.as_flattened(), &mut |row| {
            numbers.insert(row.take()?, row.take()?);
            Ok(())
        })?;
    }
    Ok(())
}

/// Inserts rows, except for those that are there already.
fn insert<const N: usize>(
    session: &mut dyn Session,
    into: &str,
    rows: &[[Value<'_>; N]],
) -> Result<(), StoreError> {
    let row = format!("({})", ["?"; N].join(", "));
    for some in rows.chunks(ROWS) {
        let places = vec![row.as_str(); some.len()].join(", ");
        let sql = format!("INSERT INTO {into} VALUES {places} ON CONFLICT DO NOTHING");
        session.execute(&sql, some.as_flattened())?;
    }
    Ok(())
}

fn rows<T>(
    store: &impl Database,
    sql: &str,
    values: &[Value<'_>],
    read: impl Fn(&mut Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::new();
    store.read(sql, values, &mut |row| read(row).map(|row| found.push(row)))?;
    Ok(found)
}

/// Reads the runs that a condition selects, with their observations.
fn runs(
    store: &impl Database,
    condition: &str,
    values: &[Value<'_>],
) -> Result<Vec<Run>, StoreError> {
    let sql = format!(
        "SELECT seq, id, started_ms, finished_ms, purpose, tree, commit_id, dirty, checkout, branch,
                toolchain, machine, lockfile, config, scope, complete
         FROM palisade_runs {condition}"
    );
    let found = rows(store, &sql, values, |row| Ok((row.take()?, read_run(row)?)))?;
    let with_observations = |(seq, run): (i64, Run)| {
        let sql = "SELECT name, outcome, duration_ms, body, message FROM palisade_observations
                   JOIN palisade_tests ON palisade_tests.seq = test
                   WHERE run = ? ORDER BY place";
        let observations = rows(store, sql, &[seq.into()], read_observation)?;
        Ok(Run {
            observations,
            ..run
        })
    };
    found.into_iter().map(with_observations).collect()
}

/// Reads the documents of a kind from a time on, oldest first.
fn documents<T: DeserializeOwned>(
    store: &impl Database,
    kind: &str,
    since: Millis,
) -> Result<Vec<T>, StoreError> {
    let sql = "SELECT json FROM palisade_documents WHERE kind = ? AND at_ms >= ?
               ORDER BY at_ms, seq";
    rows(store, sql, &[kind.into(), since.into()], |row| {
        read_json("documents.json", row.take()?)
    })
}

impl<D: Database> Store for D {
    fn add(&mut self, record: &Record) -> Result<(), StoreError> {
        let (kind, id, at_ms) = match record {
            Record::Run(run) => {
                let scope = json(&run.scope)?;
                return self.write(&mut |session| insert_run(session, run, &scope));
            }
            Record::Baseline(mark) => ("baseline", &mark.id, mark.recorded_ms),
            Record::Quarantine(entry) => ("quarantine", &entry.id, entry.at_ms),
            Record::Speed(run) => ("speed", &run.id, run.started_ms),
            Record::Calibration(found) => ("calibration", &found.id, found.at_ms),
            Record::Milestone(milestone) => ("milestone", &milestone.id, milestone.set_ms),
            Record::Incident(incident) => {
                ("incident", &incident.id, incident.closed_ms.unwrap_or(0))
            }
            Record::Journal(entry) => ("journal", &entry.id, entry.at_ms),
        };
        let json = json(record)?;
        let row = [kind.into(), id.into(), at_ms.into(), Value::from(&json)];
        let into = "palisade_documents (kind, id, at_ms, json)";
        self.write(&mut |session| insert(session, into, &[row]))
    }

    fn runs_of(&self, tree: &str, environment: &Environment) -> Result<Vec<Run>, StoreError> {
        runs(
            self,
            "WHERE tree = ? AND toolchain = ? AND machine = ? AND lockfile = ? AND config = ?
             AND complete ORDER BY started_ms DESC, seq DESC",
            &[
                tree.into(),
                Value::from(&environment.toolchain),
                Value::from(&environment.machine),
                Value::from(&environment.lockfile),
                Value::from(&environment.config),
            ],
        )
    }

    fn recent_runs(&self, limit: u32) -> Result<Vec<Run>, StoreError> {
        let condition = "WHERE purpose = 'tests' ORDER BY started_ms DESC, seq DESC LIMIT ?";
        runs(self, condition, &[i64::from(limit).into()])
    }

    fn runs_since(&self, since: Millis) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM palisade_runs
                   WHERE purpose = 'tests' AND complete AND started_ms > ?";
        let counts: Vec<u32> = rows(self, sql, &[since.into()], only)?;
        Ok(counts.into_iter().map(u64::from).sum())
    }

    fn whole_run(&self) -> Result<Option<Run>, StoreError> {
        let condition = "WHERE purpose = 'tests' AND complete AND scope = ?
                         ORDER BY started_ms DESC, seq DESC LIMIT 1";
        Ok(runs(self, condition, &[WHOLE.into()])?.pop())
    }

    fn run(&self, id: &str) -> Result<Option<Run>, StoreError> {
        Ok(runs(self, "WHERE id = ?", &[id.into()])?.pop())
    }

    fn baseline(&self, branch: &str) -> Result<Option<BaselineMark>, StoreError> {
        let marks: Vec<BaselineMark> = documents(self, "baseline", Millis::MIN)?;
        Ok(marks.into_iter().rfind(|mark| mark.branch == branch))
    }

    fn tallies(&self, test: Option<&TestId>) -> Result<Vec<TreeTally>, StoreError> {
        let name = test.map(ToString::to_string);
        let only = name.as_ref().map_or(
            "",
            |_| "AND test = (SELECT seq FROM palisade_tests WHERE name = ?)",
        );
        // Runs of equal code and environment are of one state. A run's age is its place
        // among all runs, so the largest age of several names one of them. The commit is
        // that of the latest failure, or of the latest sight when there is none.
        let sql = format!(
            "WITH aged AS (
                 SELECT seq, tree, commit_id, started_ms,
                        row_number() OVER (ORDER BY started_ms, commit_id) AS age,
                        min(seq) OVER (PARTITION BY tree, checkout, toolchain, machine, lockfile,
                                       config) AS state
                 FROM palisade_runs
             ), counted AS (
                 SELECT test,
                        count(*) FILTER (WHERE outcome = 'pass') AS passes,
                        count(*) FILTER (WHERE outcome <> 'pass') AS failures,
                        max(age) AS latest_age,
                        max(age) FILTER (WHERE outcome <> 'pass') AS failure_age
                 FROM palisade_observations JOIN aged ON aged.seq = run
                 WHERE outcome <> 'ignored' {only}
                 GROUP BY test, state
             )
             SELECT name, latest.tree, passes, failures,
                    coalesce(failure.commit_id, latest.commit_id),
                    latest.started_ms, coalesce(failure.started_ms, 0)
             FROM counted
             JOIN palisade_tests ON palisade_tests.seq = test
             JOIN aged AS latest ON latest.age = latest_age
             LEFT JOIN aged AS failure ON failure.age = failure_age
             ORDER BY name, latest_age"
        );
        let values: Vec<Value<'_>> = name.iter().map(Value::from).collect();
        rows(self, &sql, &values, read_tally)
    }

    fn failed_on(&self, tree: &str) -> Result<BTreeSet<TestId>, StoreError> {
        let sql = "SELECT DISTINCT name FROM palisade_observations
                   JOIN palisade_runs ON palisade_runs.seq = run
                   JOIN palisade_tests ON palisade_tests.seq = test
                   WHERE tree = ? AND outcome IN ('fail', 'timed_out')";
        let names = rows(self, sql, &[tree.into()], |row| parse_test(row.take()?))?;
        Ok(names.into_iter().collect())
    }

    fn outcomes_since(&self, test: &TestId, since: Millis) -> Result<Vec<bool>, StoreError> {
        let sql = "SELECT outcome = 'pass' FROM palisade_observations
                   JOIN palisade_runs ON palisade_runs.seq = run
                   JOIN palisade_tests ON palisade_tests.seq = test
                   WHERE name = ? AND outcome <> 'ignored' AND started_ms >= ?
                   ORDER BY started_ms, run, place";
        let name = test.to_string();
        rows(self, sql, &[Value::from(&name), since.into()], |row| {
            row.take()
        })
    }

    fn quarantine_entries(&self) -> Result<Vec<QuarantineEntry>, StoreError> {
        documents(self, "quarantine", Millis::MIN)
    }

    fn speed_runs(&self, since: Millis) -> Result<Vec<SpeedRun>, StoreError> {
        documents(self, "speed", since)
    }

    fn calibrations(&self) -> Result<Vec<Calibration>, StoreError> {
        documents(self, "calibration", Millis::MIN)
    }

    fn milestones(&self) -> Result<Vec<Milestone>, StoreError> {
        documents(self, "milestone", Millis::MIN)
    }

    fn incidents(&self) -> Result<Vec<Incident>, StoreError> {
        documents(self, "incident", Millis::MIN)
    }

    fn journal(&self) -> Result<Vec<JournalEntry>, StoreError> {
        documents(self, "journal", Millis::MIN)
    }

    fn for_each(
        &self,
        each: &mut dyn FnMut(Record) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let sql = "SELECT id FROM palisade_runs ORDER BY seq";
        let ids: Vec<String> = rows(self, sql, &[], only)?;
        // One run at a time: together they may not fit into memory.
        for id in ids {
            self.run(&id)?
                .map_or(Ok(()), |run| each(Record::Run(run)))?;
        }
        for kind in KINDS {
            documents(self, kind, Millis::MIN)?
                .into_iter()
                .try_for_each(&mut *each)?;
        }
        Ok(())
    }
}
