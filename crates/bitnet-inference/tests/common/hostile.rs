//! One function for each parser of files that come from strangers: the fuzz targets
//! (`fuzz/`) call them with anything, `tests/hostile.rs` with a corpus of lies.
//!
//! Each goes as far as the data lets it, and returns the error that stopped it.

use std::error::Error;
use std::path::Path;

use bitnet_core::{HybridMemoryPool, Kernel, Team};
use bitnet_inference::gguf::{Array, GgufWriter, Value};
use bitnet_inference::{Checkpoint, HeadPrecision, Model};

/// A sound model, whose tokenizer is replaced.
const SOUND: &[u8] = include_bytes!("../../../../fuzz/corpus/gguf/sound");

/// Its embedding, and the columns of it.
const EMBEDDING: &str = "token_embd.weight";
const WIDTH: usize = 64;

/// What stands between the parts of a file of the `safetensors` corpus.
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
    let (pool, mut team) = (HybridMemoryPool::new(), Team::new(1));
    let exact = HeadPrecision::Exact;
    let model = Model::load(
        checkpoint,
        &pool,
        Kernel::best(),
        &mut team,
        exact,
        |_, _| (),
    );
    model.map_err(|error| chain(&error))
}

/// Builds a tokenizer from metadata: lines of a token, or a token, a tab and its
/// type; after an empty line, merges.
pub fn tokenizer(data: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(data);
    let (tokens, merges) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut names: Vec<String> = byte_alphabet().map(String::from).collect();
    let mut types = vec![1; names.len()];
    for line in tokens.lines() {
        let (token, ty) = line.split_once('\t').unwrap_or((line, "1"));
        names.push(token.to_owned());
        types.push(ty.parse().unwrap_or(1));
    }
    let n_tokens = names.len();
    let merges = merges.lines().map(str::to_owned).collect();
    let sound = bitnet_inference::gguf::Gguf::parse(SOUND).expect("it is sound");
    let mut writer = GgufWriter::new();
    for (key, value) in sound.metadata() {
        let value = match key {
            "tokenizer.ggml.tokens" => Value::Array(Array::String(std::mem::take(&mut names))),
            "tokenizer.ggml.merges" => continue,
            _ => value.clone(),
        };
        writer.metadata(key, value);
    }
    writer.metadata("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    writer.metadata("tokenizer.ggml.merges", Value::Array(Array::String(merges)));
    // One row of the embedding for each token.
    let embedding = vec![0; n_tokens * WIDTH * 4];
    for tensor in sound.tensors() {
        let (name, id) = (&tensor.name, tensor.type_id);
        if name == EMBEDDING {
            let shape = [WIDTH as u64, n_tokens as u64];
            writer.tensor(name, &shape, id, embedding.len() as u64);
        } else {
            writer.tensor(name, &tensor.shape, id, tensor.span);
        }
    }
    let data = |i: usize, out: &mut dyn std::io::Write| {
        let tensor = &sound.tensors()[i];
        if tensor.name == EMBEDDING {
            return out.write_all(&embedding);
        }
        out.write_all(&SOUND[tensor.offset as usize..][..tensor.span as usize])
    };
    let file = writer
        .write(Vec::new(), data)
        .expect("a vector can be written to");
    let checkpoint = open_gguf(file)?;
    let tokenizer = checkpoint.tokenizer().map_err(|error| chain(&error))?;
    let ids = tokenizer
        .encode("a ab <s> \u{1f600}")
        .map_err(|error| chain(&error))?;
    let _ = tokenizer
        .decode(&ids, false)
        .map_err(|error| chain(&error))?;
    Ok(())
}

/// Returns the characters that stand for bytes in byte-level vocabularies: printable
/// ones for themselves, the others from U+0100 on.
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
