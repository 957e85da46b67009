//! The tables of speed and memory.

use rusqlite::{Row, Transaction, params};

use super::{SqliteStore, value};
use crate::host::store::{StoreError, read_json};
use crate::observation::{Millis, Subject};
use crate::record::Milestone;
use crate::speed::{Calibration, Fingerprint, Measure, Measurement, SpeedPurpose, SpeedRun};

/// The second step of the schema.
pub(super) const TABLES: &str = "
    CREATE TABLE speed_runs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        session TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        finished_ms INTEGER NOT NULL,
        purpose TEXT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty INTEGER NOT NULL,
        checkout INTEGER NOT NULL,
        branch TEXT,
        fingerprint TEXT NOT NULL
    ) STRICT;
    CREATE INDEX speed_runs_by_time ON speed_runs (started_ms);
    CREATE TABLE measurements (
        run INTEGER NOT NULL REFERENCES speed_runs (seq),
        benchmark TEXT NOT NULL,
        measure TEXT NOT NULL,
        launches TEXT NOT NULL
    ) STRICT;
    CREATE INDEX measurements_by_run ON measurements (run);
    CREATE TABLE calibrations (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        at_ms INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        found TEXT NOT NULL
    ) STRICT;
    CREATE TABLE milestones (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        set_ms INTEGER NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty INTEGER NOT NULL,
        checkout INTEGER NOT NULL,
        branch TEXT
    ) STRICT;
";

/// The fifth step of the schema.
pub(super) const SNAPSHOTS: &str = "ALTER TABLE milestones ADD COLUMN snapshot TEXT;";

pub(super) fn insert_run(
    transaction: &Transaction<'_>,
    run: &SpeedRun,
    fingerprint: &str,
) -> rusqlite::Result<()> {
    let inserted = transaction.execute(
        "INSERT OR IGNORE INTO speed_runs (id, session, started_ms, finished_ms, purpose, tree,
         commit_id, dirty, checkout, branch, fingerprint)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            run.id,
            run.comparison_id,
            run.started_ms,
            run.finished_ms,
            run.purpose.as_str(),
            run.subject.tree,
            run.subject.commit,
            run.subject.dirty,
            run.subject.checkout,
            run.subject.branch,
            fingerprint
        ],
    )?;
    if inserted == 0 {
        return Ok(());
    }
    let seq = transaction.last_insert_rowid();
    let mut statement = transaction.prepare(
        "INSERT INTO measurements (run, benchmark, measure, launches) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for seen in &run.measurements {
        let launches = serde_json::Value::from(seen.values.clone()).to_string();
        let measure = seen.measure.as_str();
        statement.execute(params![seq, seen.benchmark, measure, launches])?;
    }
    Ok(())
}

pub(super) fn insert_calibration(
    transaction: &Transaction<'_>,
    calibration: &Calibration,
    json: &str,
) -> rusqlite::Result<()> {
    let fingerprint = calibration.fingerprint.to_string();
    transaction
        .execute(
            "INSERT OR IGNORE INTO calibrations (id, at_ms, fingerprint, found)
             VALUES (?1, ?2, ?3, ?4)",
            params![calibration.id, calibration.at_ms, fingerprint, json],
        )
        .map(drop)
}

pub(super) fn insert_milestone(
    transaction: &Transaction<'_>,
    milestone: &Milestone,
    snapshot: &str,
) -> rusqlite::Result<()> {
    let subject = &milestone.subject;
    transaction
        .execute(
            "INSERT OR IGNORE INTO milestones (id, name, set_ms, tree, commit_id, dirty, checkout,
             branch, snapshot) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                milestone.id,
                milestone.name,
                milestone.set_ms,
                subject.tree,
                subject.commit,
                subject.dirty,
                subject.checkout,
                subject.branch,
                snapshot
            ],
        )
        .map(drop)
}

fn read_subject(row: &Row<'_>) -> rusqlite::Result<Subject> {
    Ok(Subject {
        tree: row.get("tree")?,
        commit: row.get("commit_id")?,
        dirty: row.get("dirty")?,
        checkout: row.get("checkout")?,
        branch: row.get("branch")?,
    })
}

impl SqliteStore {
    pub(super) fn select_speed_runs(&self, since: Millis) -> Result<Vec<SpeedRun>, StoreError> {
        let sql = "SELECT * FROM speed_runs WHERE started_ms >= ?1 ORDER BY started_ms, seq";
        let mut statement = self.connection.prepare(sql).map_err(|e| self.error(e))?;
        let rows = statement.query_map([since], |row| {
            let words: (String, String) = (row.get("purpose")?, row.get("fingerprint")?);
            let run = SpeedRun {
                id: row.get("id")?,
                comparison_id: row.get("session")?,
                started_ms: row.get("started_ms")?,
                finished_ms: row.get("finished_ms")?,
                purpose: SpeedPurpose::Series,
                subject: read_subject(row)?,
                fingerprint: Fingerprint::default(),
                measurements: Vec::new(),
            };
            Ok((row.get::<_, i64>("seq")?, run, words))
        });
        let read = |row: rusqlite::Result<(i64, SpeedRun, (String, String))>| {
            let (seq, run, (purpose, fingerprint)) = row.map_err(|e| self.error(e))?;
            Ok(SpeedRun {
                purpose: SpeedPurpose::from_word(&purpose)
                    .ok_or_else(|| value("speed_runs.purpose", &purpose))?,
                fingerprint: read_json("speed_runs.fingerprint", &fingerprint)?,
                measurements: self.measurements(seq)?,
                ..run
            })
        };
        rows.map_err(|e| self.error(e))?.map(read).collect()
    }

    fn measurements(&self, run: i64) -> Result<Vec<Measurement>, StoreError> {
        let sql = "SELECT benchmark, measure, launches FROM measurements WHERE run = ?1
                   ORDER BY rowid";
        let mut statement = self
            .connection
            .prepare_cached(sql)
            .map_err(|e| self.error(e))?;
        let rows = statement.query_map([run], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let read = |row: rusqlite::Result<(String, String, String)>| {
            let (benchmark, measure, launches) = row.map_err(|e| self.error(e))?;
            Ok(Measurement {
                benchmark,
                measure: Measure::from_word(&measure)
                    .ok_or_else(|| value("measurements.measure", &measure))?,
                values: read_json("measurements.launches", &launches)?,
            })
        };
        rows.map_err(|e| self.error(e))?.map(read).collect()
    }

    pub(super) fn select_calibrations(&self) -> Result<Vec<Calibration>, StoreError> {
        let sql = "SELECT found FROM calibrations ORDER BY at_ms, seq";
        let mut statement = self.connection.prepare(sql).map_err(|e| self.error(e))?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0));
        let read = |row: rusqlite::Result<String>| {
            read_json("calibrations.found", &row.map_err(|e| self.error(e))?)
        };
        rows.map_err(|e| self.error(e))?.map(read).collect()
    }

    pub(super) fn select_milestones(&self) -> Result<Vec<Milestone>, StoreError> {
        let sql = "SELECT * FROM milestones ORDER BY set_ms, seq";
        let mut statement = self.connection.prepare(sql).map_err(|e| self.error(e))?;
        let rows = statement.query_map([], |row| {
            let milestone = Milestone {
                id: row.get("id")?,
                name: row.get("name")?,
                set_ms: row.get("set_ms")?,
                subject: read_subject(row)?,
                snapshot: None,
            };
            Ok((milestone, row.get::<_, Option<String>>("snapshot")?))
        });
        let read = |row: rusqlite::Result<(Milestone, Option<String>)>| {
            let (milestone, snapshot) = row.map_err(|e| self.error(e))?;
            let snapshot = snapshot.map(|json| read_json("milestones.snapshot", &json));
            Ok(Milestone {
                snapshot: snapshot.transpose()?.flatten(),
                ..milestone
            })
        };
        rows.map_err(|e| self.error(e))?.map(read).collect()
    }
}
