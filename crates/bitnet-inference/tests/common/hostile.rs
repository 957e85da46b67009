//! One function per parser of untrusted files: the fuzz targets (`fuzz/`) call them with
//! arbitrary data, `tests/hostile.rs` with a corpus of malformed files. Each proceeds as
//! far as the data allows, and returns the error.

use std::error::Error;
use std::path::Path;
use std::sync::LazyLock;
use std::time::SystemTime;

use bitnet_core::{ComputeContext, HybridMemoryPool, Isa, ThreadPool};
use bitnet_inference::gguf::{Array, Gguf, GgufWriter, Value};
use bitnet_inference::{
    ChatOptions, ChatTemplate, Checkpoint, Family, HeadPrecision, Message, Model, Role, Tokenizer,
};

const SOUND: &[u8] = include_bytes!("../../../../fuzz/corpus/gguf/sound");
const SOUND_TOKENIZER: &[u8] = include_bytes!("../../../../fuzz/corpus/tokenizer/sound");

/// The separator of the parts of a file in the `safetensors` corpus.
const BETWEEN: &[u8] = b"\n----\n";

/// A file of the `safetensors` corpus: `config.json`, index, `model.safetensors`.
pub fn parts(data: &[u8]) -> [&[u8]; 3] {
    let split = |data: &'_ [u8]| data.windows(BETWEEN.len()).position(|part| part == BETWEEN);
    let mut parts = [data, &[], &[]];
    for i in 0..2 {
        if let Some(at) = split(parts[i]) {
            (parts[i], parts[i + 1]) = (&parts[i][..at], &parts[i][at + BETWEEN.len()..]);
        }
    }
    parts
}

/// Opens a GGUF file.
pub fn open_gguf(data: Vec<u8>) -> Result<Checkpoint, String> {
    Checkpoint::from_gguf_bytes(data).map_err(|error| chain(&error))
}

/// Opens a HuggingFace folder, written into an empty one.
pub fn open_folder(
    folder: &Path,
    [config, index, tensors]: [&[u8]; 3],
) -> Result<Checkpoint, String> {
    for (name, data) in [
        ("config.json", config),
        ("model.safetensors.index.json", index),
        ("model.safetensors", tensors),
    ] {
        std::fs::write(folder.join(name), data).expect("a temporary folder can be written to");
    }
    let place = format!("{}/", folder.display());
    Checkpoint::open(folder).map_err(|error| chain(&error).replace(&place, ""))
}

/// Loads the weights of a model that could be opened.
pub fn load(checkpoint: &Checkpoint) -> Result<Model, String> {
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(1));
    let exact = HeadPrecision::Exact;
    let ctx = &mut ComputeContext::new(Isa::best(), &mut threads);
    let model = Model::load(checkpoint, &pool, ctx, exact, |_, _| ());
    model.map_err(|error| chain(&error))
}

/// Builds the tokenizer described by `data` and uses it.
pub fn tokenizer(data: &[u8]) -> Result<(), String> {
    let tokenizer = described_tokenizer(data)?;
    let ids = tokenizer
        .encode("a ab <s> \u{1f600}")
        .map_err(|error| chain(&error))?;
    let _ = tokenizer.decode(&ids, false);
    Ok(())
}

/// Builds a tokenizer from GGUF metadata. `data` are a line with `tokenizer.ggml.model`
/// and, after a space, `tokenizer.ggml.pre`; lines of a token, its type and its score,
/// separated by tabs, type and score optional; after an empty line, merges.
/// Byte-level vocabularies have the tokens of all bytes before these.
fn described_tokenizer(data: &[u8]) -> Result<Tokenizer, String> {
    static FAMILY: LazyLock<&Family> = LazyLock::new(|| {
        let sound = open_gguf(SOUND.to_vec()).expect("it is sound");
        sound.config().family
    });
    let text = String::from_utf8_lossy(data);
    let (kind, text) = text.split_once('\n').unwrap_or((&text, ""));
    let (model, pre) = kind.split_once(' ').unwrap_or((kind, ""));
    let (lines, merges) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut tokens: Vec<String> = match model {
        "gpt2" => byte_alphabet().map(String::from).collect(),
        _ => Vec::new(),
    };
    let (mut types, mut scores) = (vec![1; tokens.len()], vec![0.0; tokens.len()]);
    for line in lines.lines() {
        let mut parts = line.split('\t');
        tokens.push(parts.next().unwrap_or_default().to_owned());
        types.push(parts.next().and_then(|ty| ty.parse().ok()).unwrap_or(1));
        scores.push(parts.next().and_then(|s| s.parse().ok()).unwrap_or(0.0));
    }
    let merges = merges.lines().map(str::to_owned).collect();
    let mut writer = GgufWriter::new();
    for (key, value) in [
        ("model", Value::String(model.to_owned())),
        ("pre", Value::String(pre.to_owned())),
        ("tokens", Value::Array(Array::String(tokens))),
        ("token_type", Value::Array(Array::I32(types))),
        ("scores", Value::Array(Array::F32(scores))),
        ("merges", Value::Array(Array::String(merges))),
    ] {
        writer.metadata(format!("tokenizer.ggml.{key}"), value);
    }
    let file = writer.write(Vec::new(), |_, _| Ok::<_, std::io::Error>(()));
    let gguf = Gguf::parse(&file.expect("a vector can be written to")).expect("it is sound");
    Tokenizer::from_gguf(&gguf, *FAMILY).map_err(|error| chain(&error))
}

/// Renders a conversation with a chat template.
pub fn template(source: &[u8]) -> Result<String, String> {
    static TOKENIZER: LazyLock<Tokenizer> =
        LazyLock::new(|| described_tokenizer(SOUND_TOKENIZER).expect("it is sound"));
    let messages = [
        (Role::System, "Be brief."),
        (Role::User, " Why? "),
        (Role::Assistant, "So.\n"),
        (Role::User, "\u{1f600} {{ 1 }}"),
    ];
    let messages = messages.map(|(role, content)| Message::new(role, content));
    ChatTemplate::parse(&String::from_utf8_lossy(source), &TOKENIZER)
        .and_then(|template| {
            let options = ChatOptions::new(SystemTime::UNIX_EPOCH);
            template.render(&messages, &options)
        })
        .map_err(|error| chain(&error))
}

/// Returns the characters of bytes in byte-level vocabularies: printable bytes map to
/// themselves, the others to U+0100 and up.
fn byte_alphabet() -> impl Iterator<Item = char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
    let rest = (0..=u8::MAX).filter(move |byte| !printable(byte)).count() as u32;
    let others = (0x100..0x100 + rest).filter_map(char::from_u32);
    (0..=u8::MAX)
        .filter(printable)
        .map(char::from)
        .chain(others)
}

/// Returns an error with its causes.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
