//! The tables of speed and memory.

use ::postgres::{Error, Row, Transaction};

use super::PostgresStore;
use crate::host::store::{StoreError, read_json, value};
use crate::observation::{Millis, Subject};
use crate::record::Milestone;
use crate::speed::{Calibration, Measure, Measurement, SpeedPurpose, SpeedRun};

/// The second step of the schema.
pub(super) const TABLES: &str = "
    CREATE TABLE palisade_speed_runs (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        session TEXT NOT NULL,
        started_ms BIGINT NOT NULL,
        finished_ms BIGINT NOT NULL,
        purpose TEXT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty BOOLEAN NOT NULL,
        checkout BOOLEAN NOT NULL,
        branch TEXT,
        fingerprint TEXT NOT NULL
    );
    CREATE INDEX ON palisade_speed_runs (started_ms);
    CREATE TABLE palisade_measurements (
        run BIGINT NOT NULL REFERENCES palisade_speed_runs (seq),
        place BIGINT NOT NULL,
        benchmark TEXT NOT NULL,
        measure TEXT NOT NULL,
        launches DOUBLE PRECISION[] NOT NULL,
        PRIMARY KEY (run, place)
    );
    CREATE TABLE palisade_calibrations (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        at_ms BIGINT NOT NULL,
        fingerprint TEXT NOT NULL,
        found TEXT NOT NULL
    );
    CREATE TABLE palisade_milestones (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        set_ms BIGINT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty BOOLEAN NOT NULL,
        checkout BOOLEAN NOT NULL,
        branch TEXT
    );
";

/// The fifth step of the schema.
pub(super) const SNAPSHOTS: &str = "ALTER TABLE palisade_milestones ADD COLUMN snapshot TEXT;";

pub(super) fn insert_run(
    transaction: &mut Transaction<'_>,
    run: &SpeedRun,
    fingerprint: &str,
) -> Result<(), Error> {
    let subject = &run.subject;
    let inserted = transaction.query_opt(
        "INSERT INTO palisade_speed_runs (id, session, started_ms, finished_ms, purpose, tree,
         commit_id, dirty, checkout, branch, fingerprint)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (id) DO NOTHING RETURNING seq",
        &[
            &run.id,
            &run.comparison_id,
            &run.started_ms,
            &run.finished_ms,
            &run.purpose.as_str(),
            &subject.tree,
            &subject.commit,
            &subject.dirty,
            &subject.checkout,
            &subject.branch,
            &fingerprint,
        ],
    )?;
    let Some(inserted) = inserted else {
        return Ok(());
    };
    let seq: i64 = inserted.get(0);
    let statement = transaction.prepare(
        "INSERT INTO palisade_measurements (run, place, benchmark, measure, launches)
         VALUES ($1, $2, $3, $4, $5)",
    )?;
    for (place, seen) in (1_i64..).zip(&run.measurements) {
        let (benchmark, measure) = (&seen.benchmark, seen.measure.as_str());
        transaction.execute(
            &statement,
            &[&seq, &place, benchmark, &measure, &seen.values],
        )?;
    }
    Ok(())
}

pub(super) fn insert_calibration(
    transaction: &mut Transaction<'_>,
    calibration: &Calibration,
    json: &str,
) -> Result<(), Error> {
    let fingerprint = calibration.fingerprint.to_string();
    transaction
        .execute(
            "INSERT INTO palisade_calibrations (id, at_ms, fingerprint, found)
             VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING",
            &[&calibration.id, &calibration.at_ms, &fingerprint, &json],
        )
        .map(drop)
}

pub(super) fn insert_milestone(
    transaction: &mut Transaction<'_>,
    milestone: &Milestone,
    snapshot: &str,
) -> Result<(), Error> {
    let subject = &milestone.subject;
    transaction
        .execute(
            "INSERT INTO palisade_milestones (id, name, set_ms, tree, commit_id, dirty, checkout,
             branch, snapshot) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (id) DO NOTHING",
            &[
                &milestone.id,
                &milestone.name,
                &milestone.set_ms,
                &subject.tree,
                &subject.commit,
                &subject.dirty,
                &subject.checkout,
                &subject.branch,
                &snapshot,
            ],
        )
        .map(drop)
}

fn read_subject(row: &Row) -> Subject {
    Subject {
        tree: row.get("tree"),
        commit: row.get("commit_id"),
        dirty: row.get("dirty"),
        checkout: row.get("checkout"),
        branch: row.get("branch"),
    }
}

impl PostgresStore {
    pub(super) fn select_speed_runs(&self, since: Millis) -> Result<Vec<SpeedRun>, StoreError> {
        let sql = "SELECT * FROM palisade_speed_runs WHERE started_ms >= $1
                   ORDER BY started_ms, seq";
        let read = |row: Row| {
            let (purpose, fingerprint): (&str, &str) = (row.get("purpose"), row.get("fingerprint"));
            Ok(SpeedRun {
                id: row.get("id"),
                comparison_id: row.get("session"),
                started_ms: row.get("started_ms"),
                finished_ms: row.get("finished_ms"),
                purpose: SpeedPurpose::from_word(purpose)
                    .ok_or_else(|| value("speed_runs.purpose", purpose))?,
                subject: read_subject(&row),
                fingerprint: read_json("speed_runs.fingerprint", fingerprint)?,
                measurements: self.measurements(row.get("seq"))?,
            })
        };
        self.query(sql, &[&since])?.into_iter().map(read).collect()
    }

    fn measurements(&self, run: i64) -> Result<Vec<Measurement>, StoreError> {
        let sql = "SELECT benchmark, measure, launches FROM palisade_measurements
                   WHERE run = $1 ORDER BY place";
        let read = |row: Row| {
            let measure: &str = row.get(1);
            Ok(Measurement {
                benchmark: row.get(0),
                measure: Measure::from_word(measure)
                    .ok_or_else(|| value("measurements.measure", measure))?,
                values: row.get(2),
            })
        };
        self.query(sql, &[&run])?.into_iter().map(read).collect()
    }

    pub(super) fn select_calibrations(&self) -> Result<Vec<Calibration>, StoreError> {
        let sql = "SELECT found FROM palisade_calibrations ORDER BY at_ms, seq";
        let read = |row: Row| read_json("calibrations.found", row.get(0));
        self.query(sql, &[])?.into_iter().map(read).collect()
    }

    pub(super) fn select_milestones(&self) -> Result<Vec<Milestone>, StoreError> {
        let sql = "SELECT * FROM palisade_milestones ORDER BY set_ms, seq";
        let read = |row: Row| {
            let snapshot: Option<String> = row.get("snapshot");
            let snapshot = snapshot.map(|json| read_json("milestones.snapshot", &json));
            Ok(Milestone {
                id: row.get("id"),
                name: row.get("name"),
                set_ms: row.get("set_ms"),
                subject: read_subject(&row),
                snapshot: snapshot.transpose()?.flatten(),
            })
        };
        self.query(sql, &[])?.into_iter().map(read).collect()
    }
}
