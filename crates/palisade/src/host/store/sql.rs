//! What the store needs of a database. Its statements are written for all of them.

use std::fmt::Display;

use super::StoreError;

/// A value that a statement takes or a row holds; a truth value is 0 or 1.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(&'a str),
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for Value<'_> {
    fn from(is_true: bool) -> Self {
        Self::Int(is_true.into())
    }
}

impl From<f64> for Value<'_> {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What the value of a column is read as.
pub(super) trait FromValue<'a>: Sized {
    fn from_value(value: Value<'a>) -> Option<Self>;
}

/// Implements [`FromValue`] for types that one kind of value is read as.
macro_rules! from_value {
    ($($kind:ident($value:ident) => $type:ty: $read:expr;)*) => {
        $(impl<'a> FromValue<'a> for $type {
            fn from_value(value: Value<'a>) -> Option<Self> {
                match value {
                    Value::$kind($value) => $read,
                    _ => None,
                }
            }
        })*
    };
}

from_value! {
    Int(number) => i64: Some(number);
    Int(number) => u32: number.try_into().ok();
    Int(number) => bool: Some(number != 0);
    Real(number) => f64: Some(number);
    Text(text) => &'a str: Some(text);
    Text(text) => String: Some(text.to_owned());
}

impl<'a, T: FromValue<'a>> FromValue<'a> for Option<T> {
    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// The values of a row, taken from left to right.
pub(super) struct Row<'a>(std::vec::IntoIter<Value<'a>>);

impl<'a> Row<'a> {
    pub(super) fn new(values: Vec<Value<'a>>) -> Self {
        Self(values.into_iter())
    }

    /// The next value.
    pub(super) fn take<T: FromValue<'a>>(&mut self) -> Result<T, StoreError> {
        let value = self.0.next().unwrap_or(Value::Null);
        T::from_value(value)
            .ok_or_else(|| super::value("a column of another type", &format!("{value:?}")))
    }
}

/// What is done with each row.
pub(super) type Each<'a> = &'a mut dyn FnMut(&mut Row<'_>) -> Result<(), StoreError>;

/// What is done in a transaction.
pub(super) type Work<'a> = &'a mut dyn FnMut(&mut dyn Session) -> Result<(), StoreError>;

/// A connection, or a transaction on one.
pub(super) trait Session {
    /// Runs a statement, in which each `?` stands for the next value.
    fn query(&mut self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), StoreError>;

    /// Runs a statement that returns no rows.
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(), StoreError> {
        self.query(sql, values, &mut |_| Ok(()))
    }
}

/// A database with the present schema.
pub(super) trait Database {
    /// Reads rows; see [`Session::query`].
    fn read(&self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), StoreError>;

    /// Does all of the work or nothing; again from its beginning where a connection broke.
    fn write(&mut self, work: Work<'_>) -> Result<(), StoreError>;
}

/// The steps that a schema has yet to take, of which it has taken as many as `version` says.
pub(super) fn steps_after(
    version: i64,
    steps: &'static [&'static str],
    store: impl Display,
) -> Result<&'static [&'static str], StoreError> {
    let left = usize::try_from(version).ok().and_then(|n| steps.get(n..));
    left.ok_or_else(|| StoreError::TooNew {
        store: store.to_string(),
        found: u32::try_from(version).unwrap_or(u32::MAX),
        known: steps.len() as u32,
    })
}
