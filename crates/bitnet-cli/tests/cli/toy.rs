//! Tiny models with a prescribed greedy text: each token has a fixed successor.

use std::path::Path;

use bitnet_inference::gguf::{Array, GgufWriter, Value};

pub const NORMAL: i32 = 1;
pub const CONTROL: i32 = 3;

/// Width of the model; a chain has fewer tokens.
const WIDTH: usize = 256;

/// A model of the architecture `llama` in float32, with a byte-level vocabulary: all
/// bytes, whose ids are their values, and `more`.
pub struct Toy<'a> {
    /// Text and type of the tokens from id 256 on.
    pub more: &'a [(&'a str, i32)],
    /// Rows of the embedding, if more than there are tokens.
    pub rows: Option<usize>,
    /// The EOS declared by the file.
    pub eos: Option<u32>,
    /// Pairs of a token and its successor.
    pub chain: &'a [(u32, u32)],
    /// The successor of all other tokens.
    pub first: u32,
}

impl Toy<'_> {
    pub fn write(&self, path: &Path) {
        let bytes = (0..=u8::MAX).map(|byte| (String::from(byte_char(byte)), NORMAL));
        let more = self.more.iter().map(|(text, ty)| ((*text).to_owned(), *ty));
        let (tokens, types): (Vec<_>, Vec<_>) = bytes.chain(more).unzip();
        let rows = self.rows.unwrap_or(tokens.len());
        let mut writer = GgufWriter::new();
        let text = |text: &str| Value::String(text.to_owned());
        for (key, value) in [
            ("general.architecture", text("llama")),
            ("llama.context_length", Value::U32(64)),
            ("llama.embedding_length", Value::U32(WIDTH as u32)),
            ("llama.block_count", Value::U32(1)),
            ("llama.feed_forward_length", Value::U32(WIDTH as u32)),
            ("llama.attention.head_count", Value::U32(1)),
            ("llama.attention.head_count_kv", Value::U32(1)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("gpt-2")),
            ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))),
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(types))),
            (
                "tokenizer.ggml.merges",
                Value::Array(Array::String(Vec::new())),
            ),
        ] {
            writer.metadata(key, value);
        }
        if let Some(eos) = self.eos {
            writer.metadata("tokenizer.ggml.eos_token_id", Value::U32(eos));
        }

        // Every token of the chain has its own direction, the others share one; the layer
        // adds nothing, and the output matrix maps each direction to its successor.
        let mut embedding = vec![0.0; rows * WIDTH];
        let mut output = vec![0.0; rows * WIDTH];
        for row in 0..rows {
            let place = self
                .chain
                .iter()
                .position(|(from, _)| *from as usize == row);
            embedding[row * WIDTH + place.unwrap_or(WIDTH - 1)] = 1.0;
        }
        for (place, (_, to)) in self.chain.iter().enumerate() {
            output[*to as usize * WIDTH + place] = 1.0;
        }
        output[self.first as usize * WIDTH + WIDTH - 1] = 1.0;
        let mut data = Vec::new();
        let mut tensor = |name: &str, shape: &[usize], values: Vec<f32>| {
            let shape: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
            writer.tensor(name, &shape, 0, 4 * values.len() as u64);
            data.push(values);
        };
        tensor("token_embd.weight", &[WIDTH, rows], embedding);
        tensor("output.weight", &[WIDTH, rows], output);
        for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
            tensor(&format!("{name}.weight"), &[WIDTH], vec![1.0; WIDTH]);
        }
        for name in [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ] {
            let nothing = vec![0.0; WIDTH * WIDTH];
            tensor(&format!("blk.0.{name}.weight"), &[WIDTH, WIDTH], nothing);
        }
        let file = writer.write::<_, std::io::Error>(Vec::new(), |i, out| {
            let bytes: Vec<u8> = data[i].iter().flat_map(|x| x.to_le_bytes()).collect();
            out.write_all(&bytes)
        });
        std::fs::write(path, file.unwrap()).unwrap();
    }
}

/// Returns the character of a byte in byte-level vocabularies.
fn byte_char(byte: u8) -> char {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
    if printable(&byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !printable(byte)).count() as u32;
    char::from_u32(0x100 + before).unwrap()
}
