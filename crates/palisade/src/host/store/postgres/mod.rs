//! The store on a PostgreSQL server, shared by the machines of a team.
//!
//! The tables lie in the first schema of the connection's `search_path`; one schema
//! is the store of one workspace. Each record is added in one transaction and by
//! its name, so a connection that breaks leaves no half record, and adding it again
//! over a new connection is safe.

mod speed;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use ::postgres::config::{Host, SslMode};
use ::postgres::error::{DbError, Severity};
use ::postgres::types::ToSql;
use ::postgres::{Client, Config, Error, NoTls, Row, Transaction};

use super::{Store, StoreError, WHOLE, parse_test, read_json, value};
use crate::flaky::{QuarantineEntry, TreeTally};
use crate::observation::{Environment, Millis, Observation, Outcome, Purpose, Run, Subject};
use crate::record::{BaselineMark, Incident, JournalEntry, Milestone, Record};
use crate::speed::{Calibration, SpeedRun};
use crate::test_id::TestId;

/// How long a server may take to answer a call, if the URL does not say.
const CONNECT: Duration = Duration::from_secs(10);

/// Two programs that open an empty schema at once must not both make the tables.
const MIGRATION_LOCK: i64 = 0x504c_5344;

/// The steps from an empty schema to the present one. A step is never changed once
/// it was released; `palisade_schema` counts the steps that were taken.
///
/// A message may hold zero bytes, which PostgreSQL's text cannot.
const MIGRATIONS: [&str; 5] = [TESTS, speed::TABLES, INCIDENTS, JOURNAL, speed::SNAPSHOTS];

/// The first step of the schema.
const TESTS: &str = "
    CREATE TABLE palisade_runs (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        started_ms BIGINT NOT NULL,
        finished_ms BIGINT NOT NULL,
        purpose TEXT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty BOOLEAN NOT NULL,
        checkout BOOLEAN NOT NULL,
        branch TEXT,
        toolchain TEXT NOT NULL,
        machine TEXT NOT NULL,
        lockfile TEXT NOT NULL,
        config TEXT NOT NULL,
        scope TEXT NOT NULL,
        complete BOOLEAN NOT NULL
    );
    CREATE INDEX ON palisade_runs (tree);
    CREATE INDEX ON palisade_runs (started_ms);
    CREATE TABLE palisade_tests (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    );
    CREATE TABLE palisade_observations (
        run BIGINT NOT NULL REFERENCES palisade_runs (seq),
        place BIGINT NOT NULL,
        test BIGINT NOT NULL REFERENCES palisade_tests (seq),
        outcome TEXT NOT NULL,
        duration_ms DOUBLE PRECISION,
        body TEXT,
        message BYTEA,
        PRIMARY KEY (run, place)
    );
    CREATE INDEX ON palisade_observations (test);
    CREATE TABLE palisade_baselines (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        recorded_ms BIGINT NOT NULL,
        branch TEXT NOT NULL,
        run TEXT NOT NULL
    );
    CREATE TABLE palisade_quarantine (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        at_ms BIGINT NOT NULL,
        test TEXT NOT NULL,
        event TEXT NOT NULL
    );
";

/// The third step of the schema.
const INCIDENTS: &str = "
    CREATE TABLE palisade_incidents (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        closed_ms BIGINT NOT NULL,
        incident TEXT NOT NULL
    );
";

/// The fourth step of the schema.
const JOURNAL: &str = "
    CREATE TABLE palisade_journal (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        at_ms BIGINT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        event TEXT NOT NULL
    );
";

/// The store of one workspace in a schema of a PostgreSQL database.
pub struct PostgresStore {
    /// The server as people call it, without a password.
    server: String,
    config: Config,
    client: RefCell<Client>,
}

impl PostgresStore {
    /// Connects to the server that a URL names, and makes the tables if they are
    /// missing.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let mut config: Config = url.parse().map_err(|source| StoreError::Connect {
            server: "the server that the URL names".to_owned(),
            source: Box::new(source),
        })?;
        if config.get_application_name().is_none() {
            config.application_name("cargo palisade");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        let server = name(&config);
        if config.get_ssl_mode() != SslMode::Disable && leaves_the_machine(&config) {
            return Err(StoreError::Unencrypted { server });
        }
        let mut client = connect(&config, &server)?;
        prepare(&mut client, &server)?;
        Ok(Self {
            server,
            config,
            client: RefCell::new(client),
        })
    }

    /// Works on the connection. One that broke meanwhile, as it may while tests run
    /// for long, is made anew once.
    fn with<T>(&self, work: impl Fn(&mut Client) -> Result<T, Error>) -> Result<T, StoreError> {
        let mut client = self.client.borrow_mut();
        let result = match work(&mut client) {
            Err(error) if client.is_closed() || is_last(&error) => {
                *client = connect(&self.config, &self.server)?;
                work(&mut client)
            }
            other => other,
        };
        result.map_err(|source| failed(&self.server, source))
    }

    fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        self.with(|client| client.query(sql, values))
    }

    /// Reads the runs that a condition selects, with their observations.
    fn select_runs(
        &self,
        condition: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Run>, StoreError> {
        let sql = format!(
            "SELECT seq, id, started_ms, finished_ms, purpose, tree, commit_id, dirty, branch,
             toolchain, machine, lockfile, config, scope, complete, checkout
             FROM palisade_runs {condition}"
        );
        let mut runs = Vec::new();
        for row in self.query(&sql, values)? {
            let mut run = read_run(&row)?;
            run.observations = self.observations(row.get(0))?;
            runs.push(run);
        }
        Ok(runs)
    }

    fn observations(&self, run: i64) -> Result<Vec<Observation>, StoreError> {
        let sql = "SELECT name, outcome, duration_ms, body, message FROM palisade_observations o
                   JOIN palisade_tests t ON t.seq = o.test WHERE run = $1 ORDER BY place";
        let rows = self.query(sql, &[&run])?;
        let read = |row: Row| {
            let outcome: &str = row.get(1);
            let message: Option<Vec<u8>> = row.get(4);
            Ok(Observation {
                test: parse_test(row.get(0))?,
                outcome: Outcome::from_word(outcome).ok_or_else(|| value("outcome", outcome))?,
                duration_ms: row.get(2),
                body: row.get(3),
                message: message.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            })
        };
        rows.into_iter().map(read).collect()
    }
}

/// Whether an error is the last word of a connection: it closes a little later.
fn is_last(error: &Error) -> bool {
    let severity = error.as_db_error().and_then(DbError::parsed_severity);
    matches!(severity, Some(Severity::Fatal | Severity::Panic))
}

/// The server as people call it: everything but the password.
fn name(config: &Config) -> String {
    let mut name = String::from("postgres://");
    // Writing to a string cannot fail.
    if let Some(user) = config.get_user() {
        let _ = write!(name, "{user}@");
    }
    let ports = config.get_ports();
    let hosts = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(n, host)| match host {
            // One port may stand for all hosts.
            Host::Tcp(host) => match ports.get(n).or(ports.first()) {
                Some(port) => format!("{host}:{port}"),
                None => host.clone(),
            },
            #[cfg(unix)]
            Host::Unix(folder) => folder.display().to_string(),
        });
    name.push_str(&hosts.collect::<Vec<_>>().join(","));
    if let Some(database) = config.get_dbname() {
        let _ = write!(name, "/{database}");
    }
    name
}

/// Whether what is said to the server can be heard outside of this machine.
fn leaves_the_machine(config: &Config) -> bool {
    config.get_hosts().iter().any(|host| match host {
        Host::Tcp(host) => {
            let is_loopback = |ip: std::net::IpAddr| ip.is_loopback();
            host != "localhost" && !host.parse().is_ok_and(is_loopback)
        }
        #[cfg(unix)]
        Host::Unix(_) => false,
    })
}

fn connect(config: &Config, server: &str) -> Result<Client, StoreError> {
    let connect_error = |source| StoreError::Connect {
        server: server.to_owned(),
        source: Box::new(source),
    };
    let mut client = config.connect(NoTls).map_err(connect_error)?;
    // A lock that another program never frees must not stop this one for ever.
    client
        .batch_execute("SET lock_timeout = '20s'; SET client_min_messages = warning")
        .map_err(connect_error)?;
    Ok(client)
}

fn failed(server: &str, source: Error) -> StoreError {
    StoreError::Server {
        server: server.to_owned(),
        source: Box::new(source),
    }
}

/// Brings the schema to its present version.
fn prepare(client: &mut Client, server: &str) -> Result<(), StoreError> {
    let failed = |source| failed(server, source);
    let known = MIGRATIONS.len() as u32;
    let check = |found: i32| {
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        if found > known {
            let store = server.to_owned();
            return Err(StoreError::TooNew {
                store,
                found,
                known,
            });
        }
        Ok(found)
    };
    // Without a look first, everyone who only reads would need the right to create.
    let is_there = client
        .query_one("SELECT to_regclass('palisade_schema') IS NOT NULL", &[])
        .map_err(failed)?;
    if is_there.get(0) && check(version(client).map_err(failed)?)? == known {
        return Ok(());
    }
    let mut transaction = client.transaction().map_err(failed)?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK])
        .map_err(failed)?;
    transaction
        .batch_execute("CREATE TABLE IF NOT EXISTS palisade_schema (version INTEGER NOT NULL)")
        .map_err(failed)?;
    let found = check(version(&mut transaction).map_err(failed)?)?;
    for step in MIGRATIONS.iter().skip(found as usize) {
        transaction.batch_execute(step).map_err(failed)?;
    }
    transaction
        .batch_execute(&format!(
            "DELETE FROM palisade_schema; INSERT INTO palisade_schema VALUES ({known})"
        ))
        .map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// How many steps the schema has taken.
fn version(client: &mut impl ::postgres::GenericClient) -> Result<i32, Error> {
    let sql = "SELECT coalesce(max(version), 0) FROM palisade_schema";
    Ok(client.query_one(sql, &[])?.get(0))
}

fn read_run(row: &Row) -> Result<Run, StoreError> {
    let (purpose, scope): (&str, &str) = (row.get(4), row.get(13));
    Ok(Run {
        id: row.get(1),
        started_ms: row.get(2),
        finished_ms: row.get(3),
        purpose: Purpose::from_word(purpose).ok_or_else(|| value("runs.purpose", purpose))?,
        subject: Subject {
            tree: row.get(5),
            commit: row.get(6),
            dirty: row.get(7),
            checkout: row.get(15),
            branch: row.get(8),
        },
        environment: Environment {
            toolchain: row.get(9),
            machine: row.get(10),
            lockfile: row.get(11),
            config: row.get(12),
        },
        scope: read_json("runs.scope", scope)?,
        complete: row.get(14),
        observations: Vec::new(),
    })
}

fn read_baseline(row: &Row) -> BaselineMark {
    BaselineMark {
        id: row.get(0),
        recorded_ms: row.get(1),
        branch: row.get(2),
        run: row.get(3),
    }
}

fn insert_run(transaction: &mut Transaction<'_>, run: &Run, scope: &str) -> Result<(), Error> {
    let (subject, environment) = (&run.subject, &run.environment);
    let inserted = transaction.query_opt(
        "INSERT INTO palisade_runs (id, started_ms, finished_ms, purpose, tree, commit_id, dirty,
         branch, toolchain, machine, lockfile, config, scope, complete, checkout)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
         ON CONFLICT (id) DO NOTHING RETURNING seq",
        &[
            &run.id,
            &run.started_ms,
            &run.finished_ms,
            &run.purpose.as_str(),
            &subject.tree,
            &subject.commit,
            &subject.dirty,
            &subject.branch,
            &environment.toolchain,
            &environment.machine,
            &environment.lockfile,
            &environment.config,
            &scope,
            &run.complete,
            &subject.checkout,
        ],
    )?;
    let Some(inserted) = inserted else {
        return Ok(());
    };
    let seq: i64 = inserted.get(0);
    let seen = &run.observations;
    let names: Vec<String> = seen.iter().map(|seen| seen.test.to_string()).collect();
    let outcomes: Vec<&str> = seen.iter().map(|seen| seen.outcome.as_str()).collect();
    let durations: Vec<Option<f64>> = seen.iter().map(|seen| seen.duration_ms).collect();
    let bodies: Vec<Option<&str>> = seen.iter().map(|seen| seen.body.as_deref()).collect();
    let message = |seen: &Observation| seen.message.as_ref().map(|text| text.as_bytes().to_vec());
    let messages: Vec<Option<Vec<u8>>> = seen.iter().map(message).collect();
    // In order, so that two writers of the same new names wait for each other in
    // one direction only.
    transaction.execute(
        "INSERT INTO palisade_tests (name)
         SELECT DISTINCT name COLLATE \"C\" AS name FROM unnest($1::text[]) AS new (name)
         WHERE NOT EXISTS (SELECT FROM palisade_tests t WHERE t.name = new.name)
         ORDER BY name ON CONFLICT DO NOTHING",
        &[&names],
    )?;
    transaction.execute(
        "INSERT INTO palisade_observations (run, place, test, outcome, duration_ms, body, message)
         SELECT $1, place, t.seq, outcome, duration_ms, body, message
         FROM unnest($2::text[], $3::text[], $4::float8[], $5::text[], $6::bytea[])
         WITH ORDINALITY AS o (name, outcome, duration_ms, body, message, place)
         JOIN palisade_tests t USING (name)",
        &[&seq, &names, &outcomes, &durations, &bodies, &messages],
    )?;
    Ok(())
}

fn insert(client: &mut Client, record: &Record, json: &str) -> Result<(), Error> {
    let mut transaction = client.transaction()?;
    match record {
        Record::Run(run) => insert_run(&mut transaction, run, json)?,
        Record::Baseline(mark) => drop(transaction.execute(
            "INSERT INTO palisade_baselines (id, recorded_ms, branch, run)
             VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING",
            &[&mark.id, &mark.recorded_ms, &mark.branch, &mark.run],
        )?),
        Record::Quarantine(entry) => drop(transaction.execute(
            "INSERT INTO palisade_quarantine (id, at_ms, test, event)
             VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING",
            &[&entry.id, &entry.at_ms, &entry.test.to_string(), &json],
        )?),
        Record::Speed(run) => speed::insert_run(&mut transaction, run, json)?,
        Record::Calibration(found) => speed::insert_calibration(&mut transaction, found, json)?,
        Record::Milestone(milestone) => {
            speed::insert_milestone(&mut transaction, milestone, json)?;
        }
        Record::Incident(incident) => drop(transaction.execute(
            "INSERT INTO palisade_incidents (id, closed_ms, incident) VALUES ($1, $2, $3)
             ON CONFLICT (id) DO NOTHING",
            &[&incident.id, &incident.closed_ms.unwrap_or(0), &json],
        )?),
        Record::Journal(entry) => drop(transaction.execute(
            "INSERT INTO palisade_journal (id, at_ms, tree, commit_id, event)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO NOTHING",
            &[&entry.id, &entry.at_ms, &entry.tree, &entry.commit, &json],
        )?),
    }
    transaction.commit()
}

impl Store for PostgresStore {
    fn add(&mut self, record: &Record) -> Result<(), StoreError> {
        let json = super::open_part(record)?;
        self.with(|client| insert(client, record, &json))
    }

    fn runs_of(&self, tree: &str, environment: &Environment) -> Result<Vec<Run>, StoreError> {
        let Environment {
            toolchain,
            machine,
            lockfile,
            config,
        } = environment;
        self.select_runs(
            "WHERE tree = $1 AND toolchain = $2 AND machine = $3 AND lockfile = $4
             AND config = $5 AND complete ORDER BY started_ms DESC, seq DESC",
            &[&tree, toolchain, machine, lockfile, config],
        )
    }

    fn recent_runs(&self, limit: u32) -> Result<Vec<Run>, StoreError> {
        self.select_runs(
            "WHERE purpose = 'tests' ORDER BY started_ms DESC, seq DESC LIMIT $1",
            &[&i64::from(limit)],
        )
    }

    fn runs_since(&self, since: Millis) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM palisade_runs
                   WHERE purpose = 'tests' AND complete AND started_ms > $1";
        let row = self.with(|client| client.query_one(sql, &[&since]))?;
        Ok(row.get::<_, i64>(0) as u64)
    }

    fn whole_run(&self) -> Result<Option<Run>, StoreError> {
        let condition = "WHERE purpose = 'tests' AND complete AND scope = $1
                         ORDER BY started_ms DESC, seq DESC LIMIT 1";
        Ok(self.select_runs(condition, &[&WHOLE])?.pop())
    }

    fn run(&self, id: &str) -> Result<Option<Run>, StoreError> {
        Ok(self.select_runs("WHERE id = $1", &[&id])?.pop())
    }

    fn baseline(&self, branch: &str) -> Result<Option<BaselineMark>, StoreError> {
        let sql = "SELECT id, recorded_ms, branch, run FROM palisade_baselines WHERE branch = $1
                   ORDER BY recorded_ms DESC, seq DESC LIMIT 1";
        let row = self.with(|client| client.query_opt(sql, &[&branch]))?;
        Ok(row.as_ref().map(read_baseline))
    }

    fn tallies(&self, test: Option<&TestId>) -> Result<Vec<TreeTally>, StoreError> {
        // The commit is that of the latest failure, or of the latest sight when there
        // is none. Names are sorted by their bytes, as everywhere else.
        let sql = "SELECT name, tree,
                   (array_agg(commit_id ORDER BY outcome <> 'pass' DESC, started_ms DESC,
                              commit_id DESC))[1],
                   count(*) FILTER (WHERE outcome = 'pass'),
                   count(*) FILTER (WHERE outcome <> 'pass'),
                   max(started_ms),
                   coalesce(max(started_ms) FILTER (WHERE outcome <> 'pass'), 0)
                   FROM palisade_observations o
                   JOIN palisade_runs r ON r.seq = o.run
                   JOIN palisade_tests t ON t.seq = o.test
                   WHERE outcome <> 'ignored' AND ($1::text IS NULL OR name = $1)
                   GROUP BY t.seq, name, tree, checkout, toolchain, machine, lockfile, config
                   ORDER BY name COLLATE \"C\", max(started_ms)";
        let rows = self.query(sql, &[&test.map(ToString::to_string)])?;
        let read = |row: Row| {
            Ok(TreeTally {
                test: parse_test(row.get(0))?,
                tree: row.get(1),
                commit: row.get(2),
                passes: row.get::<_, i64>(3) as u32,
                failures: row.get::<_, i64>(4) as u32,
                last_ms: row.get(5),
                last_failure_ms: row.get(6),
            })
        };
        rows.into_iter().map(read).collect()
    }

    fn failed_on(&self, tree: &str) -> Result<BTreeSet<TestId>, StoreError> {
        let sql = "SELECT DISTINCT name FROM palisade_observations o
                   JOIN palisade_runs r ON r.seq = o.run
                   JOIN palisade_tests t ON t.seq = o.test
                   WHERE tree = $1 AND outcome IN ('fail', 'timed_out')";
        let rows = self.query(sql, &[&tree])?;
        rows.iter().map(|row| parse_test(row.get(0))).collect()
    }

    fn outcomes_since(&self, test: &TestId, since: Millis) -> Result<Vec<bool>, StoreError> {
        let sql = "SELECT outcome = 'pass' FROM palisade_observations o
                   JOIN palisade_runs r ON r.seq = o.run
                   JOIN palisade_tests t ON t.seq = o.test
                   WHERE name = $1 AND outcome <> 'ignored' AND started_ms >= $2
                   ORDER BY started_ms, r.seq, place";
        let rows = self.query(sql, &[&test.to_string(), &since])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn quarantine_entries(&self) -> Result<Vec<QuarantineEntry>, StoreError> {
        let sql = "SELECT id, at_ms, test, event FROM palisade_quarantine ORDER BY at_ms, seq";
        let read = |row: Row| {
            Ok(QuarantineEntry {
                id: row.get(0),
                at_ms: row.get(1),
                test: parse_test(row.get(2))?,
                event: read_json("quarantine.event", row.get(3))?,
            })
        };
        self.query(sql, &[])?.into_iter().map(read).collect()
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
        let sql = "SELECT incident FROM palisade_incidents ORDER BY closed_ms, seq";
        let read = |row: Row| read_json("incidents.incident", row.get(0));
        self.query(sql, &[])?.into_iter().map(read).collect()
    }

    fn journal(&self) -> Result<Vec<JournalEntry>, StoreError> {
        let sql = "SELECT id, at_ms, tree, commit_id, event FROM palisade_journal
                   ORDER BY at_ms, seq";
        let read = |row: Row| {
            Ok(JournalEntry {
                id: row.get(0),
                at_ms: row.get(1),
                tree: row.get(2),
                commit: row.get(3),
                event: read_json("journal.event", row.get(4))?,
            })
        };
        self.query(sql, &[])?.into_iter().map(read).collect()
    }

    fn for_each(
        &self,
        each: &mut dyn FnMut(Record) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // One run at a time: together they may not fit into memory.
        for row in self.query("SELECT id FROM palisade_runs ORDER BY seq", &[])? {
            if let Some(run) = self.run(row.get(0))? {
                each(Record::Run(run))?;
            }
        }
        let sql = "SELECT id, recorded_ms, branch, run FROM palisade_baselines ORDER BY seq";
        for row in self.query(sql, &[])? {
            each(Record::Baseline(read_baseline(&row)))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Config {
        url.parse().expect("a URL")
    }

    #[test]
    fn a_server_is_named_without_its_password() {
        for (url, expected) in [
            (
                "postgres://ada:secret@db.example.org:5433/guard",
                "postgres://ada@db.example.org:5433/guard",
            ),
            ("postgresql://localhost", "postgres://localhost:5432"),
            (
                "postgres://ada@/guard?host=/run/postgresql",
                "postgres://ada@/run/postgresql/guard",
            ),
        ] {
            assert_eq!(name(&config(url)), expected);
        }
    }

    #[test]
    fn nothing_leaves_the_machine_in_the_clear_unless_the_url_says_so() {
        for (url, leaves) in [
            ("postgres://localhost/x", false),
            ("postgres://127.0.0.1/x", false),
            ("postgres://[::1]/x", false),
            ("postgres:///x?host=/run/postgresql", false),
            ("postgres://db.example.org/x", true),
            ("postgres://10.0.0.1/x", true),
        ] {
            assert_eq!(leaves_the_machine(&config(url)), leaves, "{url}");
        }
        let error = PostgresStore::open("postgres://ada:secret@192.0.2.1/x").err();
        let text = error.expect("refused").to_string();
        assert!(
            text.contains("ada@192.0.2.1") && !text.contains("secret"),
            "{text}"
        );
    }
}
