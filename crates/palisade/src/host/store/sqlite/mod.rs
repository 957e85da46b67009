//! The store as a SQLite file.

mod migrations;

use std::fs;
use std::path::{Path, PathBuf};
use std::str;
use std::thread;
use std::time::{Duration, Instant};

use migrations::MIGRATIONS;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, ToSql, TransactionBehavior, params_from_iter};

use super::StoreError;
use super::sql::{Database, Each, Row, Session, Value, Work, steps_after};

/// Marks the file as ours: "PLSD" as a number.
const APPLICATION_ID: i32 = 0x504c_5344;

/// How long a writer waits for another one.
const BUSY: Duration = Duration::from_secs(20);

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
        if application != i64::from(APPLICATION_ID) && (tables > 0 || version > 0) {
            return Err(StoreError::Foreign { path });
        }
        if steps_after(version, &MIGRATIONS, path.display())?.is_empty() {
            return Ok(());
        }
        self.write_ahead().map_err(classify)?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(classify)?;
        // Another process may have done it between the look and the lock.
        let version = transaction
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(classify)?;
        for step in steps_after(version, &MIGRATIONS, path.display())? {
            transaction.execute_batch(step).map_err(classify)?;
        }
        transaction
            .pragma_update(None, "application_id", APPLICATION_ID)
            .and_then(|()| transaction.pragma_update(None, "user_version", MIGRATIONS.len() as u32))
            .and_then(|()| transaction.commit())
            .map_err(classify)
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

/// A connection to the file at a path, or a transaction on one.
struct OnFile<'a>(&'a Path, &'a Connection);

impl Session for OnFile<'_> {
    fn query(&mut self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), StoreError> {
        let Self(path, connection) = *self;
        let classify = |error| classify(path, error);
        let mut statement = connection.prepare_cached(sql).map_err(classify)?;
        let columns = statement.column_count();
        let rows = statement.query(params_from_iter(values));
        let mut rows = rows.map_err(classify)?;
        while let Some(row) = rows.next().map_err(classify)? {
            let value = |column| read(column, row.get_ref(column)?);
            let values = (0..columns).map(value).collect::<Result<_, _>>();
            each(&mut Row::new(values.map_err(classify)?))?;
        }
        Ok(())
    }
}

fn read(column: usize, value: ValueRef<'_>) -> rusqlite::Result<Value<'_>> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            let text = str::from_utf8(bytes);
            Value::Text(text.map_err(|error| rusqlite::Error::Utf8Error(column, error))?)
        }
    })
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(number),
            Self::Real(number) => ValueRef::Real(number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

impl Database for SqliteStore {
    fn read(&self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), StoreError> {
        OnFile(&self.path, &self.connection).query(sql, values, each)
    }

    fn write(&mut self, work: Work<'_>) -> Result<(), StoreError> {
        let path = self.path.as_path();
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| classify(path, error))?;
        work(&mut OnFile(path, &transaction))?;
        transaction.commit().map_err(|error| classify(path, error))
    }
}
