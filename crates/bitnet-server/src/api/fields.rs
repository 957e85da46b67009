//! The fields of a request. Each is used, known to have no effect, or refused by name.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::error::ApiError;

#[cfg(test)]
thread_local! {
    /// The names that were asked for on this thread.
    pub static ASKED: std::cell::RefCell<std::collections::BTreeSet<String>> =
        const { std::cell::RefCell::new(std::collections::BTreeSet::new()) };
}

/// The fields that have not been taken yet.
#[derive(Clone, Debug)]
pub struct Fields {
    left: Map<String, Value>,
    /// Unknown fields, and those that cannot be honoured, are ignored and listed.
    lenient: bool,
    ignored: Vec<String>,
    /// What comes before the names here in those of the request: empty, or `options.`.
    path: String,
}

impl Fields {
    /// Parses a body.
    pub fn parse(body: &[u8], lenient: bool) -> Result<Self, ApiError> {
        let value = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("the body is not JSON: {error}")))?;
        match value {
            Value::Object(left) => Ok(Self {
                left,
                lenient,
                ignored: Vec::new(),
                path: String::new(),
            }),
            _ => Err(ApiError::invalid("the body is not a JSON object")),
        }
    }

    pub fn is_lenient(&self) -> bool {
        self.lenient
    }

    /// Returns a field that has not been taken yet.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.left.get(name)
    }

    fn remove(&mut self, name: &str) -> Option<Value> {
        #[cfg(test)]
        ASKED.with_borrow_mut(|asked| asked.insert(format!("{}{name}", self.path)));
        self.left.remove(name)
    }

    /// Takes a field; `null` counts as absent.
    pub fn take<T: DeserializeOwned>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, ApiError> {
        match self.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match serde_json::from_value(value.clone())
                .or_else(|_| serde_json::from_value(whole(value.clone())))
            {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(ApiError::field(
                    name,
                    format!("{name} is {}, expected {expected}", short(&value)),
                )),
            },
        }
    }

    /// Takes a field that must be there.
    pub fn need<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Result<T, ApiError> {
        let value = self.take(name, expected)?;
        value
            .ok_or_else(|| ApiError::field(name, format!("{name} is missing, expected {expected}")))
    }

    /// Takes the first of several names of a field. The others have no effect beside it.
    pub fn take_any<T: DeserializeOwned>(
        &mut self,
        names: &[&'static str],
        expected: &str,
    ) -> Result<Option<(&'static str, T)>, ApiError> {
        let mut found = None;
        for &name in names {
            match self.take(name, expected)? {
                Some(_) if found.is_some() => self.ignore(name),
                Some(value) => found = Some((name, value)),
                None => {}
            }
        }
        Ok(found)
    }

    /// Takes fields that never have an effect here.
    pub fn without_effect(&mut self, names: &[&str]) {
        for name in names {
            self.hint(name, &[]);
        }
    }

    /// Takes a field without an effect here, and lists it unless its value asks for what
    /// happens anyway.
    pub fn hint(&mut self, name: &str, honoured: &[Value]) {
        let value = self.remove(name).map(whole);
        if value.is_some_and(|value| !value.is_null() && !honoured.contains(&value)) {
            self.ignore(name);
        }
    }

    /// Lists a field as ignored.
    pub fn ignore(&mut self, name: &str) {
        let name = format!("{}{name}", self.path);
        if !self.ignored.contains(&name) {
            self.ignored.push(name);
        }
    }

    /// Reads an object within the request, whose fields are used, listed or refused as those
    /// of the request. `name` is that of the object, as in `messages[1]`; fields are listed
    /// without the index.
    pub fn inside<T>(
        &mut self,
        name: &str,
        object: Map<String, Value>,
        read: impl FnOnce(&mut Self) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let list = name.split('[').next().unwrap_or(name);
        let mut inner = Self {
            left: object,
            lenient: self.lenient,
            ignored: Vec::new(),
            path: format!("{}{list}.", self.path),
        };
        let value = read(&mut inner).map_err(|error| error.inside(name))?;
        for listed in inner.finish().map_err(|error| error.inside(name))? {
            if !self.ignored.contains(&listed) {
                self.ignored.push(listed);
            }
        }
        Ok(value)
    }

    /// Refuses a field, unless its value is one that asks for nothing.
    pub fn refuse(
        &mut self,
        name: &'static str,
        harmless: &[Value],
        why: &str,
    ) -> Result<(), ApiError> {
        match self.remove(name).map(whole) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if harmless.contains(&value) => Ok(()),
            Some(_) if self.lenient => {
                self.ignore(name);
                Ok(())
            }
            Some(_) => Err(
                ApiError::field(name, format!("{name} is not supported: {why}"))
                    .with_code("unsupported_parameter"),
            ),
        }
    }

    /// Refuses what was not taken. Returns the names of the fields without effect.
    pub fn finish(mut self) -> Result<Vec<String>, ApiError> {
        self.left.retain(|_, value| !value.is_null());
        if let Some(name) = self.left.keys().next()
            && !self.lenient
        {
            return Err(
                ApiError::field(name, format!("the field {name:?} is unknown"))
                    .with_code("unknown_parameter"),
            );
        }
        for name in std::mem::take(&mut self.left).keys() {
            self.ignore(name);
        }
        // A name is shown in a header.
        self.ignored
            .retain(|name| name.chars().all(|c| c.is_ascii_graphic()));
        self.ignored.truncate(64);
        Ok(self.ignored)
    }
}

/// An object. The fields of a struct alone could also come from a list.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Map::deserialize(deserializer)?;
        let read = serde_json::from_value(Value::Object(object));
        read.map(Self).map_err(D::Error::custom)
    }
}

/// Writes numbers such as 2.0 as integers: to JSON they are the same.
pub fn whole(value: Value) -> Value {
    let (least, end) = (i64::MIN as f64, u64::MAX as f64);
    match value {
        Value::Number(number) if number.is_f64() => match number.as_f64() {
            Some(x) if x.fract() == 0.0 && (0.0..end).contains(&x) => (x as u64).into(),
            // The least itself may be a smaller number that was rounded.
            Some(x) if x.fract() == 0.0 && least < x && x < 0.0 => (x as i64).into(),
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(whole).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields.map(|(name, value)| (name, whole(value))).collect()
        }
        value => value,
    }
}

/// Returns a value as a message shows it.
pub fn short(value: &Value) -> String {
    const MAX: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: &Value, lenient: bool) -> Fields {
        Fields::parse(value.to_string().as_bytes(), lenient).unwrap()
    }

    #[test]
    fn what_is_unknown_is_refused_by_name_or_listed() {
        let body = json!({"a": 1, "b": null, "c": 2});
        let mut strict = fields(&body, false);
        assert_eq!(strict.take("a", "a number").unwrap(), Some(1));
        let error = strict.finish().unwrap_err();
        assert_eq!(error.body.param.as_deref(), Some("c"));
        let mut lenient = fields(&body, true);
        lenient.without_effect(&["a", "b"]);
        assert_eq!(lenient.finish().unwrap(), ["a", "c"]);
    }

    #[test]
    fn a_wrong_type_is_named_with_the_value() {
        let mut fields = fields(&json!({"n": "two", "m": null}), false);
        assert_eq!(fields.take::<u32>("m", "a number").unwrap(), None);
        let error = fields.take::<u32>("n", "a number from 1 on").unwrap_err();
        assert_eq!(
            error.body.message,
            "n is \"two\", expected a number from 1 on"
        );
        assert_eq!(error.body.param.as_deref(), Some("n"));
    }

    #[test]
    fn whole_numbers_may_have_a_point() {
        let mut fields = fields(
            &json!({"a": [2.0, 3], "b": -1.0, "c": 1.5, "d": 1e30}),
            false,
        );
        assert_eq!(fields.take("a", "numbers").unwrap(), Some(vec![2, 3]));
        assert_eq!(fields.take("b", "a number").unwrap(), Some(-1));
        assert!(fields.take::<i64>("c", "a number").is_err());
        assert!(fields.take::<u64>("d", "a number").is_err());
    }

    #[test]
    fn lists_are_no_objects() {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Point {
            x: u32,
        }
        let mut fields = fields(&json!({"a": {"x": 1}, "b": [1], "c": {"y": 1}}), false);
        let a: Option<Object<Point>> = fields.take("a", "a point").unwrap();
        assert_eq!(a.unwrap().0.x, 1);
        for name in ["b", "c"] {
            assert!(fields.take::<Object<Point>>(name, "a point").is_err());
        }
    }

    #[test]
    fn objects_within_follow_the_same_rules() {
        let part = |value: Value| match value {
            Value::Object(part) => part,
            other => panic!("{other}"),
        };
        let read = |fields: &mut Fields, value: Value| {
            fields.inside("parts[1]", part(value), |part| {
                part.without_effect(&["hint"]);
                part.need::<String>("text", "a text")
            })
        };
        let mut strict = fields(&json!({}), false);
        let known = json!({"text": "a", "hint": 1});
        for _ in 0..2 {
            assert_eq!(read(&mut strict, known.clone()).unwrap(), "a");
        }
        for (wrong, param) in [
            (json!({"text": 1}), "parts[1].text"),
            (json!({"text": "a", "x": 1}), "parts[1].x"),
        ] {
            let error = read(&mut strict, wrong).unwrap_err();
            assert_eq!(error.body.param.as_deref(), Some(param));
        }
        assert_eq!(strict.finish().unwrap(), ["parts.hint"]);
        let mut lenient = fields(&json!({}), true);
        read(&mut lenient, json!({"text": "a", "x": 1})).unwrap();
        assert_eq!(lenient.finish().unwrap(), ["parts.x"]);
    }

    #[test]
    fn bodies_that_are_no_objects_are_refused() {
        for body in ["", "[]", "1", "{", "{\"a\":1}x", "\u{feff}{}"] {
            assert!(Fields::parse(body.as_bytes(), true).is_err(), "{body}");
        }
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        let deep = format!("{{\"a\":{deep}}}");
        assert!(Fields::parse(deep.as_bytes(), true).is_err());
    }
}
