//! The messages of a chat, from the API's form to that of templates.

use serde_json::{Map, Value, json};

use super::tools;
use crate::error::ApiError;

/// Reads a message: its role, its text or parts of text, and the calls of tools in it.
pub fn read(index: usize, fields: Map<String, Value>, with_tools: bool) -> Result<Value, ApiError> {
    let mut message = Message {
        index,
        fields,
        with_tools,
    };
    let role = message.take_role()?;
    let calls = message.take_calls(role)?;
    let content = message.take_content(calls.is_some())?;
    let mut read = json!({"role": role, "content": content});
    if let Some(calls) = calls {
        read["tool_calls"] = calls;
    }
    if role == "tool"
        && let Some(id @ Value::String(_)) = message.fields.remove("tool_call_id")
    {
        read["tool_call_id"] = id;
    }
    message.finish()?;
    Ok(read)
}

/// The fields of a message that have not been taken yet.
struct Message {
    index: usize,
    fields: Map<String, Value>,
    with_tools: bool,
}

impl Message {
    /// Returns an error about a field, whose full name comes first.
    fn wrong(&self, field: &str, what: impl std::fmt::Display) -> ApiError {
        let name = format!("messages[{}].{field}", self.index);
        let message = format!("{name} {what}");
        ApiError::field(name, message)
    }

    fn take_role(&mut self) -> Result<&'static str, ApiError> {
        let Some(Value::String(role)) = self.fields.remove("role") else {
            return Err(self.wrong("role", "is missing, expected a string"));
        };
        match role.as_str() {
            // The new name of instructions.
            "system" | "developer" => Ok("system"),
            "user" => Ok("user"),
            "assistant" => Ok("assistant"),
            "tool" if self.with_tools => Ok("tool"),
            "tool" | "function" => {
                let what = format!("is {role:?}, but the model has no tools");
                Err(self.wrong("role", what))
            }
            _ => {
                let what = format!("is {role:?}, expected system, developer, user or assistant");
                Err(self.wrong("role", what))
            }
        }
    }

    /// Takes the calls of tools in a message of the assistant.
    fn take_calls(&mut self, role: &str) -> Result<Option<Value>, ApiError> {
        let may_call = self.with_tools && role == "assistant";
        match self.fields.get("tool_calls") {
            Some(calls) if may_call && !calls.is_null() && *calls != json!([]) => {
                let expected = "is wrong, expected a list of {\"id\": …, \"type\": \"function\", \
                                \"function\": {\"name\": …, \"arguments\": JSON as a text}}";
                let calls = tools::read_calls(calls);
                let calls = calls.ok_or_else(|| self.wrong("tool_calls", expected))?;
                self.fields.remove("tool_calls");
                Ok(Some(calls))
            }
            _ => Ok(None),
        }
    }

    /// Takes the text; a message of calls needs none.
    fn take_content(&mut self, has_calls: bool) -> Result<String, ApiError> {
        match self.fields.remove("content") {
            Some(Value::String(text)) => Ok(text),
            Some(Value::Array(parts)) => parts.iter().map(|part| self.text_of(part)).collect(),
            None | Some(Value::Null) if has_calls => Ok(String::new()),
            _ => Err(self.wrong("content", format!("is missing, expected {CONTENT}"))),
        }
    }

    /// Returns the text of a part of a message.
    fn text_of(&self, part: &Value) -> Result<String, ApiError> {
        match (&part["type"], &part["text"]) {
            (Value::String(kind), Value::String(text)) if kind == "text" => {
                match unknown_field(part) {
                    None => Ok(text.clone()),
                    Some(field) => {
                        let what = format!("has a part with {field:?}, which is not supported");
                        Err(self.wrong("content", what))
                    }
                }
            }
            (Value::String(kind), _) if kind != "text" => {
                let what = format!("has a part of type {kind:?}, but the model reads text alone");
                Err(self.wrong("content", what))
            }
            _ => Err(self.wrong("content", format!("is wrong, expected {CONTENT}"))),
        }
    }

    /// Refuses what was not taken.
    fn finish(mut self) -> Result<(), ApiError> {
        // Templates of text models have no place for the name of an author.
        if self.fields.get("name").is_some_and(Value::is_string) {
            self.fields.remove("name");
        }
        self.fields
            .retain(|_, value| !value.is_null() && *value != json!([]));
        match self.fields.keys().next() {
            Some(field) => Err(self.wrong(field, "is not supported")),
            None => Ok(()),
        }
    }
}

const CONTENT: &str = "a text, or a list of {\"type\": \"text\", \"text\": …}";

/// Returns the name of a field that a part of text does not have.
fn unknown_field(part: &Value) -> Option<&String> {
    let fields = part.as_object()?.iter();
    let given = fields.filter(|(_, value)| !value.is_null());
    let mut names = given.map(|(name, _)| name);
    names.find(|name| !matches!(name.as_str(), "type" | "text"))
}
