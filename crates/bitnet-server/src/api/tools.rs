//! Tools: what a model may call, and the calls in its text.
//!
//! A call is a JSON object `{"name": …, "arguments": …}` between `<tool_call>` and
//! `</tool_call>`, as Qwen's and Hermes' templates teach it.

use bitnet_inference::Grammar;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::error::ApiError;
use crate::model::{ModelFacts, TOOL_CALL as OPEN};

const CLOSE: &str = "</tool_call>";

/// Tools in the form of chats.
const DEFINITIONS: &str = "a list of {\"type\": \"function\", \"function\": {\"name\": …}}";

/// Maximum number of tools.
const MAX_TOOLS: usize = 128;

/// The tools of a request.
#[derive(Debug, Default)]
pub struct Tools {
    /// As the template gets them; empty if the model may call none.
    pub definitions: Vec<Value>,
    /// What a call must look like, if one is required.
    pub grammar: Option<Grammar>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolCall {
    /// Number of the call in its message; only in streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    pub id: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub function: CalledFunction,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CalledFunction {
    pub name: String,
    /// A JSON document.
    pub arguments: String,
}

impl CalledFunction {
    /// Returns the arguments as an object, for APIs that have no text of it.
    pub fn object(&self) -> Value {
        serde_json::from_str(&self.arguments).unwrap_or_else(|_| json!({}))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tool {
    #[serde(rename = "type")]
    kind: String,
    function: Function,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    name: String,
    #[serde(rename = "description")]
    _description: Option<String>,
    parameters: Option<Value>,
    /// Arguments are always followed to the letter where a call is required.
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

/// Which tools a text may call, or must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    None,
    Auto,
    Any,
    Named(String),
}

/// The same in the form of chats.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ToolChoice {
    Mode(String),
    Named {
        #[serde(rename = "type")]
        kind: String,
        function: NamedFunction,
    },
}

#[derive(Debug, Deserialize)]
struct NamedFunction {
    name: String,
}

/// Takes `tools` and `tool_choice`.
pub fn take(fields: &mut Fields, model: &ModelFacts) -> Result<Tools, ApiError> {
    if !are_known(fields, model)? {
        let none = [json!("none"), json!("auto")];
        fields.refuse("tool_choice", &none, UNKNOWN)?;
        return Ok(Tools::default());
    }
    let definitions = take_definitions(fields)?;
    let expected = "\"none\", \"auto\", \"required\", or a function of tools";
    let choice = match fields.take("tool_choice", expected)? {
        None => Choice::Auto,
        Some(ToolChoice::Mode(mode)) => match mode.as_str() {
            "none" => Choice::None,
            "auto" => Choice::Auto,
            "required" => Choice::Any,
            _ => return Err(wrong_choice(expected)),
        },
        Some(ToolChoice::Named { kind, function }) if kind == "function" => {
            Choice::Named(function.name)
        }
        Some(ToolChoice::Named { .. }) => return Err(wrong_choice(expected)),
    };
    choose(definitions, &choice)
}

/// Why a model has no tools.
pub const UNKNOWN: &str =
    "the model's chat template has no tools, or calls them in an unknown form";

/// Returns whether the model has tools. If not, refuses `tools`.
pub fn are_known(fields: &mut Fields, model: &ModelFacts) -> Result<bool, ApiError> {
    let known = model.has_tools();
    if !known {
        fields.refuse("tools", &[json!([])], UNKNOWN)?;
    }
    Ok(known)
}

/// Takes `tools` in the form of chats.
pub fn take_definitions(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    Ok(fields.take("tools", DEFINITIONS)?.unwrap_or_default())
}

/// Returns the definition of a function in the form of chats, which templates read.
pub fn definition(name: &str, description: Option<String>, parameters: Option<Value>) -> Value {
    let mut function = json!({"name": name});
    if let Some(description) = description {
        function["description"] = description.into();
    }
    if let Some(parameters) = parameters {
        function["parameters"] = parameters;
    }
    json!({"type": "function", "function": function})
}

/// Returns the tools of a request: what its template gets, and what a call must look like.
pub fn choose(definitions: Vec<Value>, choice: &Choice) -> Result<Tools, ApiError> {
    let mut functions = Vec::with_capacity(definitions.len());
    for (i, definition) in definitions.iter().enumerate() {
        match Tool::deserialize(definition) {
            Ok(tool) if tool.kind == "function" => functions.push(tool.function),
            Ok(_) | Err(_) => {
                let message = format!("tools[{i}] is wrong, expected {DEFINITIONS}");
                return Err(ApiError::field("tools", message));
            }
        }
    }
    if functions.len() > MAX_TOOLS {
        let n = functions.len();
        let message = format!("tools has {n} tools, expected at most {MAX_TOOLS}");
        return Err(ApiError::field("tools", message));
    }
    let required: Vec<&Function> = match choice {
        Choice::None => return Ok(Tools::default()),
        Choice::Auto => Vec::new(),
        Choice::Any if functions.is_empty() => {
            return Err(wrong_choice("tools to choose from"));
        }
        Choice::Any => functions.iter().collect(),
        Choice::Named(name) => {
            let named = functions.iter().find(|known| known.name == *name);
            vec![named.ok_or_else(|| wrong_choice("a function of tools"))?]
        }
    };
    Ok(Tools {
        grammar: (!required.is_empty()).then(|| call_of(&required)),
        definitions,
    })
}

/// Returns the error of a `tool_choice` that cannot be followed.
pub fn wrong_choice(expected: &str) -> ApiError {
    let message = format!("tool_choice is wrong, expected {expected}");
    ApiError::field("tool_choice", message)
}

/// Returns the grammar of a call of one of these functions.
fn call_of(functions: &[&Function]) -> Grammar {
    let schemas = functions.iter().map(|function| {
        let any = json!({"type": "object"});
        let parameters = function.parameters.clone().unwrap_or(any);
        json!({
            "type": "object",
            "properties": {"name": {"const": function.name}, "arguments": parameters},
            "required": ["name", "arguments"],
            "additionalProperties": false,
            "x-guidance": {"whitespace_flexible": false},
        })
    });
    let calls: Vec<String> = schemas.map(|schema| format!("%json {schema}")).collect();
    Grammar::Lark(format!(
        "start: \"{OPEN}\\n\" call \"\\n{CLOSE}\"\ncall: {}",
        calls.join(" | ")
    ))
}

/// Checks the calls in a message of the assistant, and returns them as templates read them:
/// arguments as JSON and not as its text.
pub fn read_calls(calls: &Value) -> Option<Value> {
    let calls = calls.as_array()?.iter().map(|call| {
        let function = &call["function"];
        let arguments: Value = serde_json::from_str(function["arguments"].as_str()?).ok()?;
        let name = function["name"].as_str()?;
        Some(json!({
            "type": "function",
            "id": call["id"].as_str()?,
            "function": {"name": name, "arguments": arguments},
        }))
    });
    calls.collect::<Option<Vec<_>>>().map(Value::Array)
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Text(String),
    Call(CalledFunction),
}

/// Separates the calls of tools from the text of an answer, whatever pieces it comes in.
#[derive(Clone, Debug)]
pub struct CallFinder {
    /// Whether there may be calls; else all is text.
    looks: bool,
    /// What may be the beginning of a call, or is one that is not complete.
    held: String,
    has_calls: bool,
}

impl CallFinder {
    pub fn new(looks: bool) -> Self {
        Self {
            looks,
            held: String::new(),
            has_calls: false,
        }
    }

    /// Returns whether there was a call.
    pub fn has_calls(&self) -> bool {
        self.has_calls
    }

    /// Takes the next piece of a text, and returns what is certain: all if it is the last.
    pub fn next(&mut self, text: &str, is_last: bool) -> Vec<Piece> {
        let mut pieces = self.push(text);
        if is_last {
            add_text(&mut pieces, std::mem::take(&mut self.held));
        }
        pieces
    }

    fn push(&mut self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if !self.looks {
            add_text(&mut pieces, text.to_owned());
            return pieces;
        }
        self.held += text;
        loop {
            let Some(start) = self.held.find(OPEN) else {
                let keep = partial_open(&self.held);
                let rest = self.held.split_off(self.held.len() - keep);
                add_text(&mut pieces, std::mem::replace(&mut self.held, rest));
                return pieces;
            };
            let Some(length) = self.held[start..].find(CLOSE) else {
                let rest = self.held.split_off(start);
                add_text(&mut pieces, std::mem::replace(&mut self.held, rest));
                return pieces;
            };
            let end = start + length + CLOSE.len();
            let rest = self.held.split_off(end);
            let text = std::mem::replace(&mut self.held, rest);
            match read_call(&text[start + OPEN.len()..end - CLOSE.len()]) {
                Some(call) => {
                    self.has_calls = true;
                    add_text(&mut pieces, text[..start].to_owned());
                    pieces.push(Piece::Call(call));
                }
                // The model meant something else: it is text.
                None => add_text(&mut pieces, text),
            }
        }
    }
}

fn add_text(pieces: &mut Vec<Piece>, text: String) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}

/// Returns how many bytes at the end of a text may begin a call.
fn partial_open(text: &str) -> usize {
    let lengths = (1..OPEN.len()).rev();
    let mut lengths = lengths.filter(|&n| text.ends_with(&OPEN[..n]));
    lengths.next().unwrap_or(0)
}

fn read_call(text: &str) -> Option<CalledFunction> {
    let mut call: Map<String, Value> = serde_json::from_str(text).ok()?;
    let Some(Value::String(name)) = call.remove("name") else {
        return None;
    };
    let arguments = call.remove("arguments").unwrap_or_else(|| json!({}));
    Some(CalledFunction {
        name,
        arguments: arguments.to_string(),
    })
}

/// Returns the pieces of a text that comes in parts, with neighbouring texts joined.
#[cfg(any(test, fuzzing))]
pub fn pieces<'a>(parts: impl IntoIterator<Item = &'a str>) -> Vec<Piece> {
    let mut finder = CallFinder::new(true);
    let parts = parts.into_iter();
    let mut pieces: Vec<Piece> = parts.flat_map(|part| finder.next(part, false)).collect();
    pieces.extend(finder.next("", true));
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (joined.last_mut(), piece) {
            (Some(Piece::Text(before)), Piece::Text(text)) => *before += &text,
            (_, piece) => joined.push(piece),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_whatever_pieces_a_text_comes_in() {
        let text = "Let me see. <tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n\
                    </tool_call>\n<tool_call>{\"name\": \"now\"}</tool_call> <tool";
        let call = |name: &str, arguments: &str| {
            Piece::Call(CalledFunction {
                name: name.to_owned(),
                arguments: arguments.to_owned(),
            })
        };
        let expected = [
            Piece::Text("Let me see. ".to_owned()),
            call("add", "{\"a\":1}"),
            Piece::Text("\n".to_owned()),
            call("now", "{}"),
            Piece::Text(" <tool".to_owned()),
        ];
        assert_eq!(pieces([text]), expected);
        let letters: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(pieces(letters.iter().map(String::as_str)), expected);
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for text in [
            "<tool_call>not JSON</tool_call>",
            "<tool_call>{\"name\": \"a\"}",
            "a < b",
        ] {
            assert_eq!(pieces([text]), [Piece::Text(text.to_owned())]);
        }
    }
}
