//! The store on a PostgreSQL server, shared by the machines of a team.
//!
//! The tables lie in the first schema of the connection's `search_path`; one schema
//! is the store of one workspace. Each record is added in one transaction and by
//! its name, so a connection that breaks leaves no half record, and adding it again
//! over a new connection is safe.

mod migrations;

use std::cell::RefCell;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::str;
use std::time::Duration;

use ::postgres::config::{Host, SslMode};
use ::postgres::error::{DbError, Severity};
use ::postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use ::postgres::{Client, Config, Error, GenericClient, NoTls};
use bytes::BytesMut;
use migrations::MIGRATIONS;

use super::StoreError;
use super::sql::{Database, Each, Row, Session, Value, Work, steps_after};

/// How long a server may take to answer a call, if the URL does not say.
const CONNECT: Duration = Duration::from_secs(10);

/// Two programs that open an empty schema at once must not both make the tables.
const MIGRATION_LOCK: i64 = 0x504c_5344;

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
    fn with(
        &self,
        mut work: impl FnMut(&mut Client) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut client = self.client.borrow_mut();
        match work(&mut client) {
            Err(error) if client.is_closed() || is_last(&error) => {
                *client = connect(&self.config, &self.server)?;
                work(&mut client)
            }
            other => other,
        }
    }
}

/// Whether an error is the last word of a connection: it closes a little later.
fn is_last(error: &StoreError) -> bool {
    let StoreError::Server { source, .. } = error else {
        return false;
    };
    let error = source.downcast_ref().and_then(Error::as_db_error);
    let severity = error.and_then(DbError::parsed_severity);
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
    // Without a look first, everyone who only reads would need the right to create.
    let is_there = client
        .query_one("SELECT to_regclass('palisade_schema') IS NOT NULL", &[])
        .map_err(failed)?;
    if is_there.get(0) {
        let version = version(client).map_err(failed)?;
        if steps_after(version, &MIGRATIONS, server)?.is_empty() {
            return Ok(());
        }
    }
    let mut transaction = client.transaction().map_err(failed)?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK])
        .map_err(failed)?;
    transaction
        .batch_execute("CREATE TABLE IF NOT EXISTS palisade_schema (version INTEGER NOT NULL)")
        .map_err(failed)?;
    let version = version(&mut transaction).map_err(failed)?;
    for step in steps_after(version, &MIGRATIONS, server)? {
        transaction.batch_execute(step).map_err(failed)?;
    }
    transaction
        .batch_execute(&format!(
            "DELETE FROM palisade_schema; INSERT INTO palisade_schema VALUES ({})",
            MIGRATIONS.len()
        ))
        .map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// How many steps the schema has taken.
fn version(client: &mut impl GenericClient) -> Result<i64, Error> {
    let sql = "SELECT coalesce(max(version), 0) FROM palisade_schema";
    Ok(client.query_one(sql, &[])?.get::<_, i32>(0).into())
}

/// A connection to the server of that name, or a transaction on one.
struct OnServer<'a, C>(&'a str, &'a mut C);

impl<C: GenericClient> Session for OnServer<'_, C> {
    fn query(&mut self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), StoreError> {
        let failed = |source| failed(self.0, source);
        let as_param = |value| value as &(dyn ToSql + Sync);
        let values: Vec<_> = values.iter().map(as_param).collect();
        for row in self.1.query(&numbered(sql), &values).map_err(failed)? {
            let values = (0..row.len()).map(|column| row.try_get(column));
            let values = values.collect::<Result<_, _>>();
            each(&mut Row::new(values.map_err(failed)?))?;
        }
        Ok(())
    }
}

/// Writes each `?` as PostgreSQL does: `$1`, `$2` and so on.
fn numbered(sql: &str) -> String {
    let mut parts = sql.split('?');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for (number, part) in (1..).zip(parts) {
        // Writing to a string cannot fail.
        let _ = write!(text, "${number}{part}");
    }
    text
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) if *ty == Type::BOOL => (*number != 0).to_sql(ty, out),
            Self::Int(number) => number.to_sql(ty, out),
            Self::Real(number) => number.to_sql(ty, out),
            // Text and bytes are sent alike.
            Self::Text(text) => text.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        <Self as FromSql<'_>>::accepts(ty)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value<'a> {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        match *ty {
            Type::BOOL => bool::from_sql(ty, raw).map(Self::from),
            Type::INT8 => i64::from_sql(ty, raw).map(Self::from),
            Type::FLOAT8 => f64::from_sql(ty, raw).map(Self::from),
            _ => Ok(Self::Text(str::from_utf8(raw)?)),
        }
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(ty: &Type) -> bool {
        let known = [
            Type::BOOL,
            Type::INT8,
            Type::FLOAT8,
            Type::TEXT,
            Type::BYTEA,
        ];
        known.contains(ty)
    }
}

impl Database for PostgresStore {
    fn read(&self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), StoreError> {
        // A connection that breaks has returned no row yet: all are fetched before the first
        // is read.
        self.with(|client| OnServer(&self.server, client).query(sql, values, each))
    }

    fn write(&mut self, work: Work<'_>) -> Result<(), StoreError> {
        let failed = |source| failed(&self.server, source);
        self.with(|client| {
            let mut transaction = client.transaction().map_err(failed)?;
            work(&mut OnServer(&self.server, &mut transaction))?;
            transaction.commit().map_err(failed)
        })
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
