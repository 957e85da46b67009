//! What clients and models write, whatever it is: the fuzz targets `request`, `tool_calls`
//! and `grammar`, and their corpus.

use std::sync::{Arc, LazyLock, OnceLock};
use std::time::SystemTime;

use bitnet_inference::{
    ChatOptions, ChatTemplate, Checkpoint, Grammar, GrammarCompiler, GrammarError, HeadPrecision,
    PlanOptions, ReceiptEngine, TokenSet, Tokenizer, builtin,
};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::fields::Fields;
use super::tools::{Piece, pieces};
use super::{
    Asked, anthropic, chat, completions, embeddings, ollama, responses, sampling, tei, tokens,
};
use crate::app::Client;
use crate::error::ApiError;
use crate::model::ModelFacts;
use crate::options::RequestDefaults;

/// With tools, in the form whose calls are known.
const TEMPLATE: &str = "{% for tool in tools %}{{ tool | tojson }}<tool_call>{% endfor %}\
    {% for message in messages %}{{ message.role }}: {{ message.content }}\
    {% for call in message.tool_calls %}{{ call.function | tojson }}{% endfor %}\n{% endfor %}";

/// Returns the built-in model as requests see it, with its own chat template or another one.
pub fn model(template: Option<&str>) -> Arc<ModelFacts> {
    let checkpoint = Arc::new(builtin::open());
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).expect("it has a tokenizer");
    let template = match template {
        Some(source) => ChatTemplate::parse(source, &tokenizer).map(Some),
        None => ChatTemplate::of_model(&checkpoint, &tokenizer),
    };
    let config = checkpoint.config();
    Arc::new(ModelFacts {
        name: "builtin".to_owned(),
        is_builtin: true,
        template: template.expect("the template is valid"),
        chat_options: ChatOptions::new(SystemTime::UNIX_EPOCH),
        defaults: RequestDefaults::default(),
        commands: std::sync::mpsc::channel().0,
        fingerprint: String::new(),
        checkpoint: Arc::clone(&checkpoint),
        weights_hash: OnceLock::new(),
        receipt: Some(ReceiptEngine {
            head: HeadPrecision::Exact,
            kv: PlanOptions::default().kv_precision,
            context: config.context_len,
        }),
        family: config.family.name(),
        context_len: config.context_len,
        vocab_size: config.vocab_size,
        n_parameters: 0,
        weight_bytes: 0,
        hidden_dim: config.hidden_dim,
        grammars: Err(GrammarError::NoEnd),
        time: Some(SystemTime::UNIX_EPOCH),
        loaded_at: 0,
        tokenizer: Arc::new(tokenizer),
    })
}

/// Reads a request: a line with an endpoint, and `lenient` after a space or nothing; then
/// the body.
///
/// # Errors
///
/// Returns the error of a request that is refused.
///
/// # Panics
///
/// Panics if the server would be to blame, or would drop a field.
pub fn request(data: &[u8]) -> Result<(), ApiError> {
    const UNKNOWN: &str = "a field that nobody knows";
    let (endpoint, body) = split_line(data);
    let (endpoint, lenient) = match endpoint.split_once(' ') {
        Some((endpoint, "lenient")) => (endpoint, true),
        _ => (&*endpoint, false),
    };
    let result = read(endpoint, Fields::parse(body, lenient)?);
    if let Err(error) = &result {
        let status = error.status.as_u16();
        assert!(matches!(status, 400 | 404), "{status}: {error:?}");
        assert!(!error.body.message.is_empty());
    } else if !lenient {
        let mut body: Value = serde_json::from_slice(body).expect("it was read");
        body[UNKNOWN] = true.into();
        let fields = Fields::parse(body.to_string().as_bytes(), false).expect("it is an object");
        let error = read(endpoint, fields).expect_err("no field is dropped");
        assert_eq!(error.body.param.as_deref(), Some(UNKNOWN));
    }
    result
}

fn read(endpoint: &str, fields: Fields) -> Result<(), ApiError> {
    static MODEL: LazyLock<Arc<ModelFacts>> = LazyLock::new(|| model(Some(TEMPLATE)));
    let asked = Asked {
        model: Arc::clone(&MODEL),
        client: Client(0),
        fields,
    };
    let defaults = RequestDefaults::default();
    match endpoint {
        "chat" => chat::read(asked, defaults).map(drop),
        "responses" => responses::read(asked, defaults).map(drop),
        "messages" => anthropic::read(asked, defaults).map(drop),
        "count_tokens" => anthropic::count_of(asked).map(drop),
        "ollama_chat" => ollama::read_chat(asked, defaults).map(drop),
        "ollama_generate" => ollama::read_generate(asked, defaults).map(drop),
        "ollama_embed" => ollama::read_embed(asked).map(drop),
        "ollama_show" => ollama::models::facts_of(asked).map(drop),
        "embedding" => embeddings::read(asked).map(drop),
        "tei_embed" => tei::read(asked).map(drop),
        "tokenize" => tokens::tokens_of(asked).map(drop),
        "detokenize" => tokens::text_of(asked).map(drop),
        "template" => tokens::prompt_of(asked).map(drop),
        _ => completions::read(asked, defaults).map(drop),
    }
}

/// Looks for calls of tools in a text. Returns how many there are.
///
/// # Panics
///
/// Panics if it depends on the parts that the text comes in, or if text is lost.
pub fn tool_calls(data: &[u8]) -> usize {
    let text = String::from_utf8_lossy(data);
    let whole = pieces([&*text]);
    let letters: Vec<String> = text.chars().map(String::from).collect();
    assert_eq!(pieces(letters.iter().map(String::as_str)), whole);
    let mut rest = &*text;
    let mut n_calls = 0;
    for piece in &whole {
        match piece {
            Piece::Text(text) => rest = rest.strip_prefix(text.as_str()).expect("no text is lost"),
            Piece::Call(call) => {
                let arguments: Result<Value, _> = serde_json::from_str(&call.arguments);
                arguments.expect("arguments are JSON");
                let begun = rest
                    .strip_prefix("<tool_call>")
                    .expect("a call has a beginning");
                (_, rest) = begun.split_once("</tool_call>").expect("a call has an end");
                n_calls += 1;
            }
        }
    }
    assert_eq!(rest, "", "no text is lost");
    n_calls
}

/// Compiles the fields of a request that limit a text, and follows them with tokens that
/// they allow. Returns the text if it comes to an end within some tokens.
///
/// # Errors
///
/// Returns the error of fields that are refused.
///
/// # Panics
///
/// Panics if the text is not as it was asked for.
pub fn grammar(data: &[u8]) -> Result<Option<String>, ApiError> {
    static COMPILER: LazyLock<(Arc<Tokenizer>, GrammarCompiler)> = LazyLock::new(|| {
        let checkpoint: Checkpoint = builtin::open();
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).expect("it has a tokenizer");
        let tokenizer = Arc::new(tokenizer);
        let vocab_size = checkpoint.config().vocab_size;
        let compiler = GrammarCompiler::new(Arc::clone(&tokenizer), vocab_size);
        (tokenizer, compiler.expect("it has a token that ends texts"))
    });
    const MAX_TOKENS: usize = 64;
    let (tokenizer, compiler) = &*COMPILER;
    let mut fields = Fields::parse(data, false)?;
    let choices: Option<Vec<String>> = fields.clone().take("guided_choice", "texts")?;
    let grammar = sampling::grammar(&mut fields)?;
    fields.finish()?;
    let Some(grammar) = grammar else {
        return Ok(None);
    };
    let mut constraint = compiler.compile(&grammar)?.constraint();
    let mut allowed = TokenSet::new(tokenizer.n_tokens());
    let mut ids = Vec::new();
    let mut random = data.len();
    while !constraint.is_complete() {
        // The limits of a step may be exceeded.
        if ids.len() >= MAX_TOKENS || constraint.allowed(&mut allowed).is_err() {
            return Ok(None);
        }
        let candidates: Vec<u32> = (0..tokenizer.n_tokens() as u32)
            .filter(|&id| allowed.contains(id))
            .collect();
        assert!(!candidates.is_empty(), "no token is allowed");
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let id = candidates[(random >> 33) % candidates.len()];
        if tokenizer.is_eog(id) {
            break;
        }
        ids.push(id);
        if constraint.accept(id).is_err() {
            return Ok(None);
        }
        match constraint.forced() {
            Ok(forced) => ids.extend(forced),
            Err(_) => return Ok(None),
        }
    }
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.bytes(id)).collect();
    let text = String::from_utf8(bytes);
    match &grammar {
        // The options of llguidance may ask for other separators.
        Grammar::JsonSchema(schema) if !schema.to_string().contains("x-guidance") => {
            let text = text.as_ref().expect("JSON is UTF-8");
            // Its numbers may be larger than any of `f64`.
            let document: Result<IgnoredAny, _> = serde_json::from_str(text);
            assert!(document.is_ok(), "{text:?}");
        }
        Grammar::Regex(_) if let Some(choices) = choices => {
            let text = text.as_ref().expect("choices are UTF-8");
            assert!(choices.contains(text), "{text:?}");
        }
        Grammar::JsonSchema(_) | Grammar::Regex(_) | Grammar::Lark(_) => {}
    }
    Ok(text.ok())
}

fn split_line(data: &[u8]) -> (String, &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n');
    let (line, rest) = data.split_at(end.unwrap_or(data.len()));
    let rest = rest.strip_prefix(b"\n").unwrap_or(rest);
    (String::from_utf8_lossy(line).into_owned(), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the files of a corpus, by name.
    fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
        let folder = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(folder).unwrap().map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        });
        let files: Vec<_> = files.collect();
        assert!(files.len() > 5, "{} files", files.len());
        files
    }

    #[test]
    fn requests_of_the_corpus_are_read_or_refused_as_their_names_say() {
        for (name, data) in corpus("request") {
            let result = request(&data);
            assert_eq!(
                result.is_ok(),
                name.starts_with("sound"),
                "{name}: {result:?}"
            );
        }
    }

    #[test]
    fn texts_of_the_corpus_have_the_calls_that_their_names_say() {
        for (name, data) in corpus("tool_calls") {
            let n = name.split('-').next().unwrap();
            assert_eq!(tool_calls(&data).to_string(), n, "{name}");
        }
    }

    #[test]
    fn grammars_of_the_corpus_are_followed_or_refused_as_their_names_say() {
        for (name, data) in corpus("grammar") {
            let result = grammar(&data);
            assert_eq!(
                result.is_ok(),
                name.starts_with("sound"),
                "{name}: {result:?}"
            );
        }
    }
}
