//! Chat templates: from conversations to prompts.
//!
//! A chat template is a Jinja program that comes with a model and renders a conversation
//! in the format of the model's training. The environment is that of `transformers`:
//! trimmed blocks, Python's string methods, and `raise_exception`, `strftime_now` and
//! `tojson`.
//!
//! Templates are untrusted. A fuel limit bounds time, memory and output, a recursion limit
//! bounds the depth, and a template has access to the conversation only. Messages are
//! untrusted, too: they never become control tokens.

mod control;
mod source;

use std::fmt::Write;
use std::io;
use std::time::SystemTime;

use chrono::format::{Fixed, Item, StrftimeItems};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Serde, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, context, filters};
use minijinja_contrib::pycompat;
use serde::{Deserialize, Serialize};
use serde_json::Map;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use self::control::{ControlTokens, Marks};
use crate::format::checkpoint::{Checkpoint, Origin};
use crate::spec::family::BITNET_B158;
use crate::tokenizer::{self, Tokenizer, TokenizerError};

/// Limit of instructions, and of blocks of 64 bytes, per rendering: about a second. A
/// conversation of a hundred messages takes some thousands.
const FUEL: u64 = 2_000_000;
/// Limit of nested calls, safe for a small stack.
const RECURSION: usize = 100;
/// Maximum template length in bytes; published ones have up to 20 kB.
const MAX_SOURCE: usize = 1 << 20;

/// Maximum length in bytes of a value as JSON.
const MAX_JSON: usize = 1 << 24;

/// The built-in templates, by name.
const NAMED: [(&str, &str); 4] = [
    // microsoft/bitnet-b1.58-2B-4T, as its authors describe it. The published one
    // has a space after `Assistant:`, which belongs to the answer's first token.
    (
        BITNET,
        "{% for message in messages %}\
         {% if loop.first %}{{ bos_token }}{% endif %}\
         {{ message.role | capitalize }}: {{ message.content | trim }}<|eot_id|>\
         {% endfor %}\
         {% if add_generation_prompt %}Assistant:{% endif %}",
    ),
    (
        "chatml",
        "{% for message in messages %}\
         {{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    (
        "falcon3",
        "{% for message in messages %}\
         {{ '<|' + message.role + '|>\\n' + message.content }}\
         {{ eos_token if message.role == 'assistant' }}\
         {{ '\\n' if not loop.last or message.role != 'assistant' }}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ),
    (
        "llama3",
        "{% for message in messages %}\
         {% if loop.first %}{{ bos_token }}{% endif %}\
         {{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}\
         {{ message.content | trim }}<|eot_id|>\
         {% endfor %}\
         {% if add_generation_prompt %}\
         {{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\
         {% endif %}",
    ),
];
const BITNET: &str = "bitnet";
/// Identifies the template of the first published GGUF of BitNet b1.58 2B-4T, which
/// ignores system messages and ends the text before the answer.
const WRONG_BITNET: &str = "BITNETAssistant";

/// The author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The system message.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// A message, serialized as in the JSON of chat services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The text.
    pub content: String,
}

impl Message {
    /// Returns a message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// The origin of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateOrigin {
    /// The model's files.
    Model,
    /// Built in, replacing one in the model's files that is known to be wrong.
    Corrected,
    /// Built in, selected by this name.
    Named(&'static str),
    /// The caller.
    Given,
}

/// The variables of a template besides the messages, and how its text is tokenized.
#[derive(Clone, Debug)]
pub struct ChatOptions {
    /// Whether to append the generation prompt.
    pub answer: bool,
    /// The time, for `strftime_now`.
    pub now: SystemTime,
    /// The offset of local time from UTC in seconds. `strftime_now` is local time.
    pub utc_offset: i32,
    /// Whether control tokens in messages are recognized. The author of a message can then
    /// end it and forge others.
    pub parse_special: bool,
    variables: Map<String, serde_json::Value>,
}

impl ChatOptions {
    /// Returns options with a generation prompt, this time in UTC, and messages as text.
    pub fn new(now: SystemTime) -> Self {
        Self {
            answer: true,
            now,
            utc_offset: 0,
            parse_special: false,
            variables: Map::new(),
        }
    }

    /// Adds variables, such as `enable_thinking`; one that is there already is replaced. As in
    /// `transformers`, they may replace `bos_token`, `eos_token`, `tools` and `documents`. They
    /// are trusted: control tokens in them are recognized.
    ///
    /// # Errors
    ///
    /// Returns an error if one is named `messages` or `add_generation_prompt`, which are
    /// reserved.
    pub fn with_variables(
        mut self,
        variables: Map<String, serde_json::Value>,
    ) -> Result<Self, ChatError> {
        if let Some(name) = RESERVED
            .into_iter()
            .find(|name| variables.contains_key(*name))
        {
            return Err(ChatError::Reserved { name });
        }
        self.variables.extend(variables);
        Ok(self)
    }

    /// Returns the local time, or UTC if that is out of range.
    fn local_time(&self) -> NaiveDateTime {
        let utc = DateTime::<Utc>::from(self.now).naive_utc();
        let offset = TimeDelta::seconds(i64::from(self.utc_offset));
        utc.checked_add_signed(offset).unwrap_or(utc)
    }
}

/// Reserved template variables.
const RESERVED: [&str; 2] = ["messages", "add_generation_prompt"];

/// The prompt of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The rendered text.
    pub text: String,
    /// Its tokens. They may differ from the tokens of `text` alone, which does not
    /// distinguish messages from the template's text.
    pub ids: Vec<u32>,
}

/// Renders conversations in the format of a model's training.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    origin: TemplateOrigin,
    /// The text of the tokens that begin and end a text, or nothing.
    bos: String,
    eos: String,
    control: ControlTokens,
}

impl ChatTemplate {
    /// Returns the template of a model; `None` if it has none.
    ///
    /// # Errors
    ///
    /// Returns an error if the template cannot be read or parsed, or exceeds a limit.
    pub fn of_model(
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, ChatError> {
        let source = match checkpoint.origin() {
            Origin::Gguf(gguf) => (gguf.string(tokenizer::gguf::CHAT_TEMPLATE))
                .map_err(TokenizerError::from)?
                .map(str::to_owned),
            Origin::HuggingFace(folder) => tokenizer::chat_template(folder)?,
        };
        let Some(source) = source else {
            return Ok(None);
        };
        if checkpoint.config().family == &BITNET_B158 && source.contains(WRONG_BITNET) {
            let (_, source) = NAMED[0];
            return Self::new(source, TemplateOrigin::Corrected, tokenizer).map(Some);
        }
        Self::new(&source, TemplateOrigin::Model, tokenizer).map(Some)
    }

    /// Returns a built-in template by name; `None` if it is not one of [`names`](Self::names).
    pub fn named(name: &str, tokenizer: &Tokenizer) -> Option<Self> {
        let (name, source) = NAMED.into_iter().find(|(known, _)| *known == name)?;
        let template = Self::new(source, TemplateOrigin::Named(name), tokenizer);
        Some(template.expect("the templates of the program are well-formed"))
    }

    /// Returns the template with this source.
    ///
    /// # Errors
    ///
    /// Returns an error if the template cannot be parsed, or exceeds a limit.
    pub fn parse(source: &str, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        Self::new(source, TemplateOrigin::Given, tokenizer)
    }

    /// Returns the names of the built-in templates.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED.into_iter().map(|(name, _)| name)
    }

    fn new(source: &str, origin: TemplateOrigin, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        if source.len() > MAX_SOURCE {
            return Err(ChatError::TooLong {
                n_bytes: source.len(),
                limit: MAX_SOURCE,
            });
        }
        let known = source::without_generation(source);
        source::check_nesting(&known)?;
        let mut environment = environment();
        environment
            .add_template_owned(NAME, known.into_owned())
            .map_err(|source| ChatError::Syntax { source })?;
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.inner().id_to_token(id));
        Ok(Self {
            environment,
            source: source.to_owned(),
            origin,
            bos: text(tokenizer.bos()).unwrap_or_default(),
            eos: text(tokenizer.eos()).unwrap_or_default(),
            control: ControlTokens::new(tokenizer)?,
        })
    }

    /// Returns the Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the origin of the template.
    pub fn origin(&self) -> TemplateOrigin {
        self.origin
    }

    /// Renders a conversation as text.
    ///
    /// # Errors
    ///
    /// [`ChatError::Render`] if the template rejects the conversation, fails, or exceeds
    /// a limit.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, ChatError> {
        self.render_as(messages, None, options)
    }

    /// Renders messages and tools of any form.
    fn render_as(
        &self,
        messages: &(impl Serialize + ?Sized),
        tools: Option<&[serde_json::Value]>,
        options: &ChatOptions,
    ) -> Result<String, ChatError> {
        let template = (self.environment.get_template(NAME)).expect("`new` has added it");
        let now = options.local_time();
        let strftime_now = move |format: &str| strftime(now, format);
        let defaults = context! {
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => tools.map(Serde),
            documents => (),
            strftime_now => Value::from_function(strftime_now),
        };
        template
            .render(context! {
                messages => Serde(messages),
                add_generation_prompt => options.answer,
                ..context! { ..Value::from(Serde(&options.variables)), ..defaults },
            })
            .map_err(|source| ChatError::Render { source })
    }

    /// Renders a conversation and returns its text and tokens. BOS is included if the
    /// template writes it.
    ///
    /// Messages remain text unless `parse_special` is set: `<|im_end|>` in a message does not
    /// end it. If no message contains a control token, the tokens are those of the rendered
    /// text ([`Tokenizer::encode_without_bos`]).
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render); or if the rendered text cannot be tokenized, or the
    /// messages contain every character usable as a mark.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<ChatPrompt, ChatError> {
        let as_json = |message| serde_json::to_value(message).expect("two strings");
        let messages: Vec<_> = messages.iter().map(as_json).collect();
        self.encode_json(tokenizer, &messages, None, options)
    }

    /// The same as [`encode`](Self::encode), with messages as JSON objects, which may have
    /// what some templates read besides role and content, such as `tool_calls`; and with
    /// tools, if there are any. No text in them becomes a control token.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn encode_json(
        &self,
        tokenizer: &Tokenizer,
        messages: &[serde_json::Value],
        tools: Option<&[serde_json::Value]>,
        options: &ChatOptions,
    ) -> Result<ChatPrompt, ChatError> {
        if !options.parse_special {
            let variables = serde_json::to_string(&options.variables).unwrap_or_default();
            let mut said = Vec::new();
            for value in messages.iter().chain(tools.unwrap_or_default()) {
                texts_of(value, &mut said);
            }
            let written = [&self.source, &self.bos, &self.eos, &variables];
            let all = said
                .into_iter()
                .chain(written.into_iter().map(String::as_str));
            let marks = Marks::unused_in(all).ok_or(ChatError::NoMarks)?;
            let mark = |values: &[serde_json::Value]| {
                let mut values = values.to_vec();
                for value in &mut values {
                    map_texts(value, &|text| self.control.mark(text, marks));
                }
                values
            };
            let (marked, marked_tools) = (mark(messages), tools.map(mark));
            if marked != messages || marked_tools.as_deref() != tools {
                let text = self.render_as(&marked, marked_tools.as_deref(), options)?;
                let text = self.control.mark_written(&text, marks);
                let ids = self.control.encode(tokenizer, &text, marks);
                return Ok(ChatPrompt {
                    ids: ids.map_err(ChatError::Encode)?,
                    text: text.replace(marks.open, ""),
                });
            }
        }
        let text = self.render_as(messages, tools, options)?;
        let ids = tokenizer
            .encode_without_bos(&text)
            .map_err(ChatError::Encode)?;
        Ok(ChatPrompt { text, ids })
    }
}

/// Collects the texts in a JSON value, names of fields included.
fn texts_of<'v>(value: &'v serde_json::Value, texts: &mut Vec<&'v str>) {
    match value {
        serde_json::Value::String(text) => texts.push(text),
        serde_json::Value::Array(values) => values.iter().for_each(|v| texts_of(v, texts)),
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                texts.push(name);
                texts_of(value, texts);
            }
        }
        _ => {}
    }
}

/// Replaces the texts in a JSON value, and the names of fields.
fn map_texts(value: &mut serde_json::Value, map: &impl Fn(&str) -> String) {
    match value {
        serde_json::Value::String(text) => *text = map(text),
        serde_json::Value::Array(values) => values.iter_mut().for_each(|v| map_texts(v, map)),
        serde_json::Value::Object(fields) => {
            *fields = std::mem::take(fields)
                .into_iter()
                .map(|(name, mut value)| {
                    map_texts(&mut value, map);
                    (map(&name), value)
                })
                .collect();
        }
        _ => {}
    }
}

/// The template's name in errors.
const NAME: &str = "chat template";

/// Returns a Jinja environment configured as in `transformers`.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the delimiters are Jinja's own"),
    );
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_unknown_method_callback(|state, value, method, args| {
        if method == "format" && !has_ascii_keys(value, '{', '[', ']') {
            return Err(key_error());
        }
        pycompat::unknown_method_callback(state, value, method, args)
    });
    // Templates test tools and contents; Python's `None` is not iterable.
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && value.try_iter().is_ok()
    });
    environment.add_test("sequence", |value: &Value| {
        use minijinja::value::ValueKind::{Map, Seq, String};
        value.is_undefined() || matches!(value.kind(), Map | Seq | String)
    });
    environment.add_filter("format", format);
    environment.add_function("raise_exception", |message: &str| {
        Err::<(), _>(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
    });
    environment.add_filter("tojson", to_json);
    environment
}

/// The filter `format`.
fn format(
    state: &mut State,
    value: &Value,
    arguments: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    if !has_ascii_keys(value, '%', '(', ')') {
        return Err(key_error());
    }
    filters::format(state, value, arguments)
}

/// Returns whether the keys in a format, such as `name` in `%(name)s` and `{0[name]}`, are
/// ASCII: `minijinja` 3.1 panics on others. A key is the text between `open` and `close`
/// after `start`.
fn has_ascii_keys(format: &Value, start: char, open: char, close: char) -> bool {
    let text = format.as_str().unwrap_or_default();
    let mut has_started = false;
    let mut in_key = false;
    text.chars().all(|c| {
        if in_key {
            in_key = c != close;
            return c.is_ascii();
        }
        in_key = has_started && c == open;
        // A field of `str.format` ends at its brace; after a percent sign, a key follows
        // immediately or not at all.
        has_started = c == start || (has_started && start == '{' && c != '}');
        true
    })
}

fn key_error() -> Error {
    let message = "keys of a format are ASCII here";
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Formats a local time as `datetime.now().strftime` does.
fn strftime(now: NaiveDateTime, format: &str) -> Result<String, Error> {
    // Python's naive time has no zone and formats it as an empty string.
    let has_value = |item: &Item<'_>| {
        !matches!(
            item,
            Item::Fixed(Fixed::TimezoneName | Fixed::TimezoneOffset)
        )
    };
    let items = StrftimeItems::new(format).filter(has_value);
    let mut text = String::new();
    write!(text, "{}", now.format_with_items(items)).map_err(|_| {
        let message = format!("{format:?} is not a format of strftime_now");
        Error::new(ErrorKind::InvalidOperation, message)
    })?;
    Ok(text)
}

/// Writes a value as Python's `json.dumps(ensure_ascii=False)` does; the filter of
/// the same name in Jinja is made for HTML.
#[expect(clippy::needless_pass_by_value, reason = "as a filter takes it")]
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // The other arguments of `json.dumps` have no effect that templates rely on.
    for ignored in ["ensure_ascii", "sort_keys", "separators"] {
        let _ = options.get::<Option<Value>>(ignored);
    }
    options.assert_all_used()?;
    let mut text = Limited(Vec::new());
    let written = match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut text, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut text, OneLine)),
    };
    written.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(String::from_utf8(text.0).expect("JSON is UTF-8"))
}

/// A buffer of at most [`MAX_JSON`] bytes: a small value can expand to a long text, and
/// fuel is consumed only after rendering it.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_JSON {
            return Err(io::Error::other(format!("more than {MAX_JSON} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// JSON on one line with spaces, as Python writes it.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// An error of rendering a conversation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The file that holds the template cannot be read.
    #[error(transparent)]
    Read(#[from] TokenizerError),
    /// The template is too long.
    #[error("the chat template has {n_bytes} bytes, more than {limit}")]
    TooLong {
        /// Its length.
        n_bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The template nests too deeply.
    #[error("the chat template nests too deep in line {line}")]
    TooDeep {
        /// The line.
        line: usize,
    },
    /// The template is not valid Jinja.
    #[error("the chat template is not well-formed")]
    Syntax {
        /// What is wrong with it.
        source: Error,
    },
    /// A reserved variable was set.
    #[error("the variable {name:?} of chat templates is the conversation's own")]
    Reserved {
        /// Its name.
        name: &'static str,
    },
    /// The messages contain all characters usable as marks.
    #[error("the messages have every noncharacter and every private character")]
    NoMarks,
    /// The rendered text cannot be tokenized.
    #[error(transparent)]
    Encode(TokenizerError),
    /// The template rejects the conversation, or fails.
    #[error("the chat template fails")]
    Render {
        /// The cause.
        source: Error,
    },
}
