//! Anthropic's `/v1/messages` and `/v1/messages/count_tokens`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bitnet_inference::{FinishReason, Grammar, TaskUsage};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::generation::{GeneratedText, Generation};
use super::reply::{
    AskedTexts, Part, Parts, ReplyForm, Step, StreamWriter, parts_of, write_named_event,
};
use super::sampling::Sampling;
use super::tools::{self, CalledFunction, Choice, Tools};
use super::{Asked, aside, asked, chat, check_model, document, new_id, receipts, sampling};
use crate::app::App;
use crate::error::{ApiError, ErrorForm};
use crate::model::ModelFacts;
use crate::options::RequestDefaults;

/// How Anthropic's coding client begins its system prompt: with a line that changes from
/// request to request. Nothing behind it could be shared.
const BILLING: &str = "x-anthropic-billing-header:";

pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let asked = asked(&app, request).await?;
    let (client, model) = (asked.client, Arc::clone(&asked.model));
    let defaults = model.defaults;
    let asked = aside(move || read(asked, defaults)).await?;
    asked.answer(&app, &model, client).await
}

pub async fn count(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let asked = asked(&app, request).await?;
    aside(move || count_of(asked)).await
}

/// Answers `/v1/messages/count_tokens`.
pub(super) fn count_of(asked: Asked) -> Result<Response, ApiError> {
    let Asked {
        model, mut fields, ..
    } = asked;
    check_model(&model, &mut fields)?;
    let prompt = take_prompt(&mut fields, &model)?;
    let ignored = fields.finish()?;
    let reply = json!({"input_tokens": prompt.ids.len()});
    Ok(document(&reply, &ignored))
}

pub(super) fn read(asked: Asked, defaults: RequestDefaults) -> Result<AskedTexts<Reply>, ApiError> {
    let Asked {
        model, mut fields, ..
    } = asked;
    check_model(&model, &mut fields)?;
    let max_tokens = fields.need("max_tokens", "a number of tokens")?;
    let stream = fields.take("stream", "true or false")?.unwrap_or(false);
    let Prompt {
        ids,
        grammar,
        with_tools,
    } = take_prompt(&mut fields, &model)?;
    fields.refuse("container", &[], "this server runs no code")?;
    fields.refuse("mcp_servers", &[json!([])], "this server calls nobody")?;
    take_context_management(&mut fields)?;
    fields.hint("service_tier", &[json!("auto"), json!("standard_only")]);
    fields.without_effect(&["metadata", "inference_geo", "diagnostics"]);
    let receipt = receipts::take(&mut fields)?;
    let sampling = Sampling {
        stops: sampling::stops(&mut fields, "stop_sequences")?,
        grammar,
        ..sampling::options(&mut fields, defaults)?
    };
    let reply = Reply {
        model,
        id: new_id("msg"),
        seed: sampling.options.seed,
        n_prompt: ids.len(),
        max_tokens,
        with_tools,
        ignored: fields.finish()?,
    };
    let mut generation = Generation::one("messages", ids, Some(max_tokens), sampling, None);
    generation.receipt = receipt;
    Ok(AskedTexts {
        generation,
        reply,
        stream,
    })
}

/// Takes `context_management`: there are no thoughts to clear, and nothing else is cut.
fn take_context_management(fields: &mut Fields) -> Result<(), ApiError> {
    const NAME: &str = "context_management";
    let management: Option<Map<String, Value>> = fields.take(NAME, "an object")?;
    fields.inside(NAME, management.unwrap_or_default(), |management| {
        let edits: Vec<Value> = management.take("edits", "a list")?.unwrap_or_default();
        for edit in edits {
            let kind = edit["type"].as_str().unwrap_or_default();
            if !kind.starts_with("clear_thinking_") {
                let message = format!("edits has the type {kind:?}, but no prompt is cut here");
                return Err(ApiError::field("edits", message));
            }
            management.ignore("edits");
        }
        Ok(())
    })
}

/// What the fields of both endpoints say.
struct Prompt {
    ids: Vec<u32>,
    grammar: Option<Grammar>,
    with_tools: bool,
}

fn take_prompt(fields: &mut Fields, model: &ModelFacts) -> Result<Prompt, ApiError> {
    let tools = take_tools(fields, model)?;
    let messages = take_messages(fields, model.has_tools())?;
    // Nothing thinks here, nor waits for a cache, nor is faster if asked.
    fields.hint("thinking", &[json!({"type": "disabled"})]);
    fields.hint("speed", &[json!("standard")]);
    fields.without_effect(&["cache_control", "user_profile_id", "workspace_id"]);
    let mut grammar = take_output_config(fields)?;
    if grammar.is_some() && tools.grammar.is_some() {
        let message = "tool_choice requires a call, so output_config may not limit the text";
        return Err(ApiError::field("tool_choice", message));
    }
    let prompt = chat::render(model, &messages, &tools, &chat::options_now(model))?;
    let with_tools = !tools.definitions.is_empty();
    grammar = grammar.or(tools.grammar);
    Ok(Prompt {
        ids: prompt.ids,
        grammar,
        with_tools,
    })
}

/// Takes the schema that the text shall follow.
fn take_output_config(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    #[derive(Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
    enum Format {
        JsonSchema { schema: Map<String, Value> },
    }
    let expected = "an object of format and effort";
    let Some(config) = fields.take("output_config", expected)? else {
        return Ok(None);
    };
    fields.inside("output_config", config, |config| {
        config.without_effect(&["effort"]);
        let expected = "{\"type\": \"json_schema\", \"schema\": …}";
        let format = config.take("format", expected)?;
        Ok(format.map(|Format::JsonSchema { schema }| Grammar::JsonSchema(schema.into())))
    })
}

/// Takes `tools` and `tool_choice`.
fn take_tools(fields: &mut Fields, model: &ModelFacts) -> Result<Tools, ApiError> {
    if !tools::are_known(fields, model)? {
        let none = [json!({"type": "none"}), json!({"type": "auto"})];
        fields.refuse("tool_choice", &none, tools::UNKNOWN)?;
        return Ok(Tools::default());
    }
    let expected = "a list of {\"name\": …, \"input_schema\": …}";
    let tools: Vec<Map<String, Value>> = fields.take("tools", expected)?.unwrap_or_default();
    let mut definitions = Vec::with_capacity(tools.len());
    for (i, tool) in tools.into_iter().enumerate() {
        definitions.push(fields.inside(&format!("tools[{i}]"), tool, read_tool)?);
    }
    let expected = "an object with a type";
    let choice = match fields.take("tool_choice", expected)? {
        Some(choice) => fields.inside("tool_choice", choice, read_choice)?,
        None => Choice::Auto,
    };
    tools::choose(definitions, &choice)
}

fn read_tool(tool: &mut Fields) -> Result<Value, ApiError> {
    let custom = [json!("custom")];
    tool.refuse("type", &custom, "this server has no tools of its own")?;
    let name: String = tool.need("name", "a string")?;
    let description = tool.take("description", "a string")?;
    let schema = tool.need::<Map<_, _>>("input_schema", "a JSON schema")?;
    // Arguments always follow their schema where a call is required.
    let _strict: Option<bool> = tool.take("strict", "true or false")?;
    tool.refuse("defer_loading", &[json!(false)], "all tools are loaded")?;
    let direct = [json!(["direct"])];
    tool.refuse("allowed_callers", &direct, "this server runs no code")?;
    tool.without_effect(&["cache_control", "eager_input_streaming", "input_examples"]);
    Ok(tools::definition(&name, description, Some(schema.into())))
}

fn read_choice(choice: &mut Fields) -> Result<Choice, ApiError> {
    let expected = "\"auto\", \"any\", \"tool\" or \"none\"";
    let kind: String = choice.need("type", expected)?;
    let read = match kind.as_str() {
        "none" => Choice::None,
        "auto" => Choice::Auto,
        "any" => Choice::Any,
        "tool" => Choice::Named(choice.need("name", "the name of a tool")?),
        _ => {
            let message = format!("type is {kind:?}, expected {expected}");
            return Err(ApiError::field("type", message));
        }
    };
    let parallel = json!(false);
    match read {
        // A call that is required is one.
        Choice::Any | Choice::Named(_) => {
            choice.hint("disable_parallel_tool_use", &[parallel, json!(true)]);
        }
        Choice::None | Choice::Auto => choice.hint("disable_parallel_tool_use", &[parallel]),
    }
    Ok(read)
}

/// A text, or a list of blocks.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Blocks(Vec<Map<String, Value>>),
}

const CONTENT: &str = "a text, or a list of blocks such as {\"type\": \"text\", \"text\": …}";

/// Takes `system` and `messages`, and returns messages as templates read them.
fn take_messages(fields: &mut Fields, with_tools: bool) -> Result<Vec<Value>, ApiError> {
    let mut read = Vec::new();
    if let Some(system) = take_system(fields)? {
        read.push(json!({"role": "system", "content": system}));
    }
    let expected = "a list of messages such as {\"role\": \"user\", \"content\": \"…\"}";
    let messages: Vec<Map<String, Value>> = fields.need("messages", expected)?;
    if messages.is_empty() {
        return Err(ApiError::field("messages", "messages is empty"));
    }
    for (i, message) in messages.into_iter().enumerate() {
        fields.inside(&format!("messages[{i}]"), message, |message| {
            read_message(message, with_tools, &mut read)
        })?;
    }
    if read.last().is_some_and(|last| last["role"] == "assistant") {
        let message = "messages ends with one of the assistant, but its template ends each \
                       message: an answer cannot be begun";
        return Err(ApiError::field("messages", message));
    }
    Ok(read)
}

/// Takes the system prompt, without the line that changes from request to request.
fn take_system(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let mut texts = match fields.take("system", CONTENT)? {
        None => return Ok(None),
        Some(Content::Text(text)) => vec![text],
        Some(Content::Blocks(blocks)) => {
            let blocks = blocks.into_iter().enumerate();
            let texts =
                blocks.map(|(i, block)| fields.inside(&format!("system[{i}]"), block, take_text));
            texts.collect::<Result<_, _>>()?
        }
    };
    for text in &mut texts {
        if text.starts_with(BILLING) {
            let end = text.find('\n').map_or(text.len(), |end| end + 1);
            text.drain(..end);
            fields.ignore(&format!("system.{}", BILLING.trim_end_matches(':')));
        }
    }
    texts.retain(|text| !text.is_empty());
    Ok((!texts.is_empty()).then(|| texts.join("\n")))
}

/// Takes the text of a block that must be one of text.
fn take_text(block: &mut Fields) -> Result<String, ApiError> {
    match take_kind(block)? {
        kind if kind == "text" => take_text_fields(block),
        kind => Err(unknown_kind(&kind, "texts alone")),
    }
}

fn take_kind(block: &mut Fields) -> Result<String, ApiError> {
    block.without_effect(&["cache_control"]);
    block.need("type", "a string")
}

fn take_text_fields(block: &mut Fields) -> Result<String, ApiError> {
    block.hint("citations", &[json!([])]);
    block.need("text", "a text")
}

fn unknown_kind(kind: &str, reads: &str) -> ApiError {
    let message = format!("type is {kind:?}, but the model reads {reads} here");
    ApiError::field("type", message)
}

enum Block {
    Text(String),
    /// A call, as templates read it.
    Call(Value),
    /// A message of a tool.
    Result(Value),
}

fn take_block(block: &mut Fields, with_tools: bool) -> Result<Block, ApiError> {
    let kind = take_kind(block)?;
    match kind.as_str() {
        "text" => Ok(Block::Text(take_text_fields(block)?)),
        "tool_use" if with_tools => {
            let id: String = block.need("id", "a string")?;
            let name: String = block.need("name", "a string")?;
            let input: Map<String, Value> = block.need("input", "an object")?;
            let direct = [json!({"type": "direct"})];
            block.refuse("caller", &direct, "this server runs no code")?;
            let function = json!({"name": name, "arguments": input});
            let call = json!({"type": "function", "id": id, "function": function});
            Ok(Block::Call(call))
        }
        "tool_result" if with_tools => {
            let id: String = block.need("tool_use_id", "a string")?;
            // Templates have no place for it.
            block.hint("is_error", &[json!(false)]);
            let text = match block.take("content", CONTENT)? {
                None => String::new(),
                Some(Content::Text(text)) => text,
                Some(Content::Blocks(parts)) => {
                    let parts = parts.into_iter().enumerate();
                    let parts = parts
                        .map(|(i, part)| block.inside(&format!("content[{i}]"), part, take_text));
                    parts.collect::<Result<Vec<_>, _>>()?.join("\n")
                }
            };
            let message = json!({"role": "tool", "tool_call_id": id, "content": text});
            Ok(Block::Result(message))
        }
        _ if with_tools => Err(unknown_kind(&kind, "text, tool_use and tool_result alone")),
        _ => Err(unknown_kind(&kind, "texts alone")),
    }
}

/// Reads a message. The results in it become messages of their own.
fn read_message(
    message: &mut Fields,
    with_tools: bool,
    read: &mut Vec<Value>,
) -> Result<(), ApiError> {
    let role: String = message.need("role", "a string")?;
    if !matches!(role.as_str(), "user" | "assistant" | "system") {
        let text = format!("role is {role:?}, expected user, assistant or system");
        return Err(ApiError::field("role", text));
    }
    let blocks = match message.need("content", CONTENT)? {
        Content::Text(text) => vec![Block::Text(text)],
        Content::Blocks(blocks) => {
            let blocks = blocks.into_iter().enumerate().map(|(i, block)| {
                message.inside(&format!("content[{i}]"), block, |block| {
                    take_block(block, with_tools)
                })
            });
            blocks.collect::<Result<_, _>>()?
        }
    };
    let n_before = read.len();
    let (mut texts, mut calls) = (Vec::new(), Vec::new());
    for (i, block) in blocks.into_iter().enumerate() {
        match block {
            Block::Text(text) => texts.push(text),
            Block::Call(call) if role == "assistant" => calls.push(call),
            Block::Result(result) if role == "user" => {
                add_message(&role, &mut texts, &mut calls, read);
                read.push(result);
            }
            Block::Call(_) | Block::Result(_) => {
                let name = format!("content[{i}].type");
                let text = format!("{name} does not belong into a message of the {role}");
                return Err(ApiError::field(name, text));
            }
        }
    }
    if read.len() == n_before && texts.is_empty() {
        // As an answer without a text comes back.
        texts.push(String::new());
    }
    add_message(&role, &mut texts, &mut calls, read);
    Ok(())
}

/// Adds what was read of a message, unless it is nothing.
fn add_message(role: &str, texts: &mut Vec<String>, calls: &mut Vec<Value>, read: &mut Vec<Value>) {
    if texts.is_empty() && calls.is_empty() {
        return;
    }
    let content = std::mem::take(texts).join("\n");
    let mut message = json!({"role": role, "content": content});
    if !calls.is_empty() {
        message["tool_calls"] = std::mem::take(calls).into();
    }
    read.push(message);
}

/// What the documents of a reply share.
pub struct Reply {
    model: Arc<ModelFacts>,
    id: String,
    seed: u64,
    n_prompt: usize,
    max_tokens: usize,
    with_tools: bool,
    ignored: Vec<String>,
}

impl Reply {
    /// Returns the message with these blocks, at its end or its beginning.
    fn message(&self, content: &[Value], ending: &Ending, usage: TaskUsage) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model.name,
            "content": content,
            "stop_reason": ending.reason,
            "stop_sequence": ending.sequence,
            "usage": usage_of(usage),
            "seed": self.seed,
        })
    }

    fn ending(&self, text: &GeneratedText, has_calls: bool) -> Ending {
        let reason = match text.reason {
            _ if has_calls => "tool_use",
            _ if text.stop.is_some() => "stop_sequence",
            Some(FinishReason::Length) if text.usage.n_generated < self.max_tokens => {
                "model_context_window_exceeded"
            }
            Some(FinishReason::Length) => "max_tokens",
            Some(FinishReason::Stop | FinishReason::Eos) | None => "end_turn",
        };
        Ending {
            reason: Some(reason),
            sequence: text.stop.clone(),
        }
    }
}

/// Why a message ended, if it has.
#[derive(Default)]
struct Ending {
    reason: Option<&'static str>,
    sequence: Option<String>,
}

/// Tokens of the prompt count as cached or as input.
fn usage_of(usage: TaskUsage) -> Value {
    json!({
        "input_tokens": usage.n_prompt - usage.n_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.n_cached,
        "output_tokens": usage.n_generated,
    })
}

fn text_block(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn tool_use(call: &CalledFunction, input: &Value) -> Value {
    json!({"type": "tool_use", "id": new_id("toolu"), "name": call.name, "input": input})
}

impl ReplyForm for Reply {
    type Writer = Writer;

    fn whole(&self, texts: &[GeneratedText]) -> Response {
        let text = &texts[0];
        let parts = parts_of(&text.text, self.with_tools);
        let has_calls = parts.iter().any(|part| matches!(part, Part::Call(_)));
        let content = parts.iter().map(|part| match part {
            Part::Text(text) => text_block(text),
            Part::Call(call) => tool_use(call, &call.object()),
        });
        let content: Vec<Value> = content.collect();
        let ending = self.ending(text, has_calls);
        let mut message = self.message(&content, &ending, text.usage);
        if let Some(receipt) = &text.receipt {
            receipt.add_to(&mut message);
        }
        document(&message, &self.ignored)
    }

    fn ignored(&self) -> &[String] {
        &self.ignored
    }

    fn writer(self, _n_texts: usize) -> Writer {
        Writer {
            parts: Parts::new(self.with_tools),
            reply: self,
            n_blocks: 0,
        }
    }
}

/// Writes the events of a message.
pub struct Writer {
    reply: Reply,
    parts: Parts,
    /// Blocks that have ended.
    n_blocks: usize,
}

impl Writer {
    fn begin_block(&self, block: &Value, out: &mut String) {
        let event = json!({
            "type": "content_block_start",
            "index": self.n_blocks,
            "content_block": block,
        });
        write_named_event(&event, out);
    }

    fn write_delta(&self, delta: &Value, out: &mut String) {
        let event = json!({
            "type": "content_block_delta",
            "index": self.n_blocks,
            "delta": delta,
        });
        write_named_event(&event, out);
    }

    fn end_block(&mut self, out: &mut String) {
        let event = json!({"type": "content_block_stop", "index": self.n_blocks});
        write_named_event(&event, out);
        self.n_blocks += 1;
    }
}

impl StreamWriter for Writer {
    fn begin(&mut self, out: &mut String) {
        let usage = TaskUsage {
            n_prompt: self.reply.n_prompt,
            ..TaskUsage::default()
        };
        let message = self.reply.message(&[], &Ending::default(), usage);
        write_named_event(&json!({"type": "message_start", "message": message}), out);
    }

    fn piece(&mut self, _index: usize, piece: &GeneratedText, out: &mut String) {
        for step in self.parts.next(&piece.text, piece.reason.is_some()) {
            match step {
                Step::Begin => self.begin_block(&text_block(""), out),
                Step::Text(text) => {
                    self.write_delta(&json!({"type": "text_delta", "text": text}), out);
                }
                Step::End => self.end_block(out),
                Step::Call(call) => {
                    self.begin_block(&tool_use(&call, &json!({})), out);
                    let delta = json!({"type": "input_json_delta", "partial_json": call.arguments});
                    self.write_delta(&delta, out);
                    self.end_block(out);
                }
            }
        }
        if piece.reason.is_some() {
            let ending = self.reply.ending(piece, self.parts.has_calls());
            let mut event = json!({
                "type": "message_delta",
                "delta": {"stop_reason": ending.reason, "stop_sequence": ending.sequence},
                "usage": usage_of(piece.usage),
            });
            if let Some(receipt) = &piece.receipt {
                receipt.add_to(&mut event);
            }
            write_named_event(&event, out);
        }
    }

    fn end(&mut self, out: &mut String) {
        write_named_event(&json!({"type": "message_stop"}), out);
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        write_named_event(&error.document(ErrorForm::Anthropic), out);
    }

    fn wait(&mut self, out: &mut String) {
        write_named_event(&json!({"type": "ping"}), out);
    }
}
