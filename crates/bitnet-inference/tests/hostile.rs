//! Malformed files: the corpus of `fuzz/`, and valid files truncated at any position.
//!
//! Each gives an error with problem and location, and memory use is bounded by a small
//! multiple of the file size.

#[path = "common/hostile.rs"]
mod hostile;

use std::alloc::System;
use std::fmt::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Limit of all allocations of opening a file, as a multiple of its size; plus a constant
/// for errors and lazily initialized tables.
const TIMES: usize = 16;
const CONSTANT: usize = 64 << 10;

/// Serializes the tests, since they measure allocations.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs `open` and checks the sum of all its allocations.
fn with_little_memory<T>(name: &str, file_len: usize, open: impl FnOnce() -> T) -> T {
    let before = ALLOCATOR.total_allocated();
    let result = open();
    let taken = ALLOCATOR.total_allocated() - before;
    let limit = TIMES * file_len + CONSTANT;
    assert!(
        taken <= limit,
        "{name}: {taken} bytes allocated for {file_len}"
    );
    result
}

/// Returns the files of a corpus, sorted by name.
fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut files: Vec<_> = std::fs::read_dir(path.join(folder))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Returns the outcome of each file of a corpus, one per line.
fn outcomes(folder: &str, mut run: impl FnMut(&str, Vec<u8>) -> Result<(), String>) -> String {
    let mut lines = String::new();
    for (name, data) in corpus(folder) {
        match run(&name, data) {
            Ok(()) => writeln!(lines, "{name}: fine").unwrap(),
            Err(error) => writeln!(lines, "{name}: {error}").unwrap(),
        }
    }
    lines
}

#[test]
fn gguf_files_that_lie() {
    let _alone = alone();
    let outcomes = outcomes("gguf", |name, data| {
        let checkpoint = with_little_memory(name, data.len(), || hostile::open_gguf(data))?;
        hostile::load(&checkpoint).map(|_| ())
    });
    insta::assert_snapshot!(outcomes, @r#"
    alignment-0: not a readable GGUF file: general.alignment is 0, expected a power of two
    alignment-2-31: key "general.architecture" is missing
    alignment-3: not a readable GGUF file: general.alignment is 3, expected a power of two
    alignment-is-text: not a readable GGUF file: metadata "general.alignment" is of type string, expected u32
    architecture-is-number: not a readable GGUF file: metadata "general.architecture" is of type u32, expected a string
    architecture-unknown: architecture "mamba" is not supported (supported: bitnet-b1.58, bitnet-25, bitnet, llama, qwen3, minicpm, gemma3)
    array-2-40-of-strings: not a readable GGUF file: 1099511627776 elements of metadata "k" are declared but the rest of the file has room for at most 8
    array-2-61-overflows-bytes: not a readable GGUF file: 2305843009213693952 elements of metadata "k" are declared but the rest of the file has room for at most 8
    array-2-62-of-u64: not a readable GGUF file: 4611686018427387904 elements of metadata "k" are declared but the rest of the file has room for at most 8
    array-nested-1000: not a readable GGUF file: metadata "k" is an array of arrays, which is not supported
    array-of-type-99: not a readable GGUF file: metadata "k" is of unknown type 99
    big-endian: not a readable GGUF file: big-endian GGUF is not supported: the file must be converted to little-endian
    bool-2: key "general.architecture" is missing
    code-3-in-i2_s: in tensor "blk.0.attn_q.weight": code 3 at row 0, column 0 is no ternary weight
    context-0: the configuration is impossible: context length is 0, expected 1 to 16777216
    dimension-0: not a readable GGUF file: tensor "t" is empty: its shape is [3, 0]
    dimensions-2-32: not a readable GGUF file: tensor "t" has 4294967295 dimensions, at most 4 are supported
    dimensions-5: not a readable GGUF file: tensor "t" has 5 dimensions, at most 4 are supported
    empty: not a readable GGUF file: the file is truncated: the magic number at byte 0 takes 4 bytes of which 0 remain
    ffn-2-32: the configuration is impossible: feed-forward size is 4294967295, expected 1 to 16777216
    heads-0: the configuration is impossible: number of heads is 0, expected 1 to 4096
    heads-3: the configuration is impossible: 3 heads cannot share 2 key-value heads evenly
    hidden-0: the configuration is impossible: hidden size is 0, expected 1 to 16777216
    hidden-2-32: the configuration is impossible: hidden size is 4294967295, expected 1 to 16777216
    key-2-63: not a readable GGUF file: the file is truncated: the key of metadata value 0 at byte 32 takes 9223372036854775808 bytes of which 64 remain
    key-twice: key "general.architecture" is missing
    kv-heads-2-32: the configuration is impossible: number of key-value heads is 4294967295, expected 1 to 4096
    layers-0: the configuration is impossible: number of layers is 0, expected 1 to 4096
    layers-2-32: the configuration is impossible: number of layers is 4294967295, expected 1 to 4096
    magic-of-zip: not a readable GGUF file: it begins with "PK\x03\x04" instead of "GGUF"
    magic-only: not a readable GGUF file: the file is truncated: the version at byte 4 takes 4 bytes of which 0 remain
    metadata-2-64: not a readable GGUF file: 18446744073709551615 metadata values are declared but the rest of the file has room for at most 0
    norm-as-i2_s: in tensor "output_norm.weight": I2_S stores columns in multiples of 128, found 64
    offset-2-64: not a readable GGUF file: tensor "t" is at byte 18446744073709551584 of the data, of which the file has 64
    offset-misaligned: not a readable GGUF file: tensor "t" is at byte 16 of the data, not at a multiple of 32
    offset-outside: not a readable GGUF file: tensor "t" is at byte 1048576 of the data, of which the file has 64
    rope-dimensions-2-32: the configuration is impossible: RoPE turns 4294967295 values of a head, expected an even number up to 32
    scale-infinite-in-i2_s: in tensor "blk.0.attn_q.weight": scale inf is not finite
    scale-nan-in-i2_s: in tensor "blk.0.attn_q.weight": scale NaN is not finite
    shape-overflows: not a readable GGUF file: tensor "t" has 2^64 elements or more: its shape is [4294967296, 4294967296]
    sound: fine
    string-2-40: not a readable GGUF file: the file is truncated: metadata "k" at byte 45 takes 1099511627776 bytes of which 0 remain
    string-not-utf8: key "general.architecture" is missing
    tensor-beyond-memory: tensor "blk.0.attn_q.weight" needs 1297036692682702848 bytes at offset 5088, but only 1152 are there
    tensor-longer-than-its-span: tensor "blk.0.attn_q.weight" needs 4608 bytes at offset 5088, but only 1152 are there
    tensor-missing: tensor "blk.0.attn_q.weight" is missing
    tensor-of-tl1: tensor "blk.0.attn_q.weight" is stored as TL1, in tiles whose sizes were chosen when the file was made and are not in it
    tensor-of-type-99: tensor "blk.0.attn_q.weight" has type id 99, which is not supported
    tensor-twice: not a readable GGUF file: tensor "t" is duplicated
    tensor-unexpected: tensor "blk.0.attn_q.bias" is not part of architecture bitnet as implemented
    tensors-2-64: not a readable GGUF file: 18446744073709551615 tensors are declared but the rest of the file has room for at most 0
    tensors-at-one-place: not a readable GGUF file: tensors "t" and "u" are both at byte 96
    tensors-more-than-bytes: not a readable GGUF file: 1000 tensors are declared but the rest of the file has room for at most 4
    value-type-13: not a readable GGUF file: metadata "k" is of unknown type 13
    version-0: not a readable GGUF file: GGUF version 0 is not supported, only 2 and 3 are
    version-1: not a readable GGUF file: GGUF version 1 is not supported, only 2 and 3 are
    version-4: not a readable GGUF file: GGUF version 4 is not supported, only 2 and 3 are
    vocabulary-2-40: tensor "token_embd.weight" needs 281474976710656 bytes at offset 1504, but only 2304 are there
    "#);
}

#[test]
fn folders_that_lie() {
    let _alone = alone();
    let outcomes = outcomes("safetensors", |name, data| {
        let folder = tempfile::tempdir().unwrap();
        let open = || hostile::open_folder(folder.path(), hostile::parts(&data));
        let checkpoint = with_little_memory(name, data.len(), open)?;
        hostile::load(&checkpoint).map(|_| ())
    });
    insta::assert_snapshot!(outcomes, @r#"
    config-eps-text: config.json is not as expected: invalid type: string "small", expected f32 at line 1 column 254
    config-huge: the configuration is impossible: hidden size is 1152921504606846976, expected 1 to 16777216
    config-layers-2-32: the configuration is impossible: number of layers is 4294967296, expected 1 to 4096
    config-negative: config.json is not as expected: invalid value: integer `-8`, expected usize at line 1 column 82
    config-nested-2000: config.json is not as expected: EOF while parsing a value at line 1 column 10000
    config-not-json: config.json is not as expected: expected value at line 1 column 1
    dtype-of-floats-for-trits: tensor "model.layers.0.mlp.gate_proj.weight_scale" is not part of architecture bitnet-b1.58 as implemented
    header-2-63: model.safetensors is not a readable SafeTensors file: header too large
    header-longer-than-file: model.safetensors is not a readable SafeTensors file: invalid header length
    header-nested: model.safetensors is not a readable SafeTensors file: invalid JSON in header: recursion limit exceeded at line 1 column 636: recursion limit exceeded at line 1 column 636
    header-not-json: model.safetensors is not a readable SafeTensors file: invalid JSON in header: expected value at line 1 column 1: expected value at line 1 column 1
    index-empty: tensor "model.embed_tokens.weight" is missing
    index-itself: model.safetensors.index.json is not a readable SafeTensors file: header too large
    index-missing-shard: fine
    index-not-json: model.safetensors.index.json is not as expected: invalid type: integer `1`, expected a map at line 1 column 2
    index-outside: shard "../../etc/passwd" is not supported (expected a file name without a folder)
    scale-of-no-tensor: tensor "x.weight" is missing
    scale-of-two-values: tensor "model.layers.0.mlp.gate_proj.weight_scale" has type F32 of 8 bytes as a scale, which is not supported
    shape-empty: model.safetensors is not a readable SafeTensors file: invalid offset for tensor `model.norm.weight`
    shape-of-three: a tensor of shape "[2, 2, 4]" is not supported (expected one or two dimensions)
    shape-overflows: model.safetensors is not a readable SafeTensors file: overflow computing buffer size from shape and/or element type
    sound: fine
    tensor-backwards: model.safetensors is not a readable SafeTensors file: invalid offset for tensor `model.embed_tokens.weight`
    tensor-outside: model.safetensors is not a readable SafeTensors file: invalid shape, data type, or offset for tensor
    tensors-overlap: model.safetensors is not a readable SafeTensors file: invalid offset for tensor `model.norm.weight`
    truncated: model.safetensors is not a readable SafeTensors file: incomplete metadata, file not fully covered
    "#);
}

#[test]
fn tokenizers_that_lie() {
    let _alone = alone();
    let outcomes = outcomes("tokenizer", |_, data| hostile::tokenizer(&data));
    insta::assert_snapshot!(outcomes, @r#"
    empty: tokenizer.ggml.model "" is not supported (supported: gpt2 (byte-level BPE), llama (SentencePiece BPE))
    merge-of-one: fine
    merge-of-three: fine
    merge-of-unknown: fine
    model-unknown: tokenizer.ggml.model "bert" is not supported (supported: gpt2 (byte-level BPE), llama (SentencePiece BPE))
    no-unknown-no-bytes: fine
    not-utf8: fine
    pre-tokenizer-unknown: tokenizer.ggml.pre "none" is not supported (supported: llama-bpe, llama3, llama-v3, falcon3, falcon-e, falcon_e, falcon-h1, lfm2, pixtral, qwen2, deepseek-r1-qwen, gpt-2, phi-2, exaone4, gigachat, mellum, olmo, mpt, smollm, starcoder, refact, command-r, codeshell, exaone, minerva-7b)
    score-nan: the score of token 1 is NaN, expected a number
    scores-many-merges: the 200 tokens can be made of each other in too many ways
    sound: fine
    sound-llama-bpe: fine
    sound-scores: fine
    token-empty: fine
    token-twice: fine
    tokens-long: fine
    type-unknown: fine
    "#);
}

#[test]
fn templates_that_mean_harm() {
    let _alone = alone();
    let outcomes = outcomes("template", |_, data| hostile::template(&data).map(|_| ()));
    insta::assert_snapshot!(outcomes, @r#"
    blocks-deep: the chat template nests too deep in line 1
    doubling: the chat template fails: engine ran out of fuel (in chat template:1)
    format-key-not-ascii: the chat template fails: invalid operation: keys of a format are ASCII here (in chat template:1)
    format-method-key-not-ascii: the chat template fails: invalid operation: keys of a format are ASCII here (in chat template:1)
    format-wide: the chat template fails: engine ran out of fuel (in chat template:1)
    include: the chat template is not well-formed: syntax error: unknown statement include (in chat template:1)
    indent-wide: the chat template fails: engine ran out of fuel (in chat template:1)
    json-long: the chat template fails: could not serialize to value: more than 16777216 bytes (in chat template:1)
    lists-deep: the chat template nests too deep in line 1
    not-utf8: fine
    output: the chat template fails: engine ran out of fuel (in chat template:1)
    raises: the chat template fails: invalid operation: no system message (in chat template:1)
    recursive: the chat template fails: invalid operation: recursion limit exceeded (in chat template:1)
    repeat-2-33: the chat template fails: engine ran out of fuel (in chat template:1)
    replace: the chat template fails: engine ran out of fuel (in chat template:1)
    sound: fine
    sound-format: fine
    sound-functions: fine
    strftime-unknown: the chat template fails: invalid operation: "%Q" is not a format of strftime_now (in chat template:1)
    time: the chat template fails: engine ran out of fuel (in chat template:1)
    unfinished: the chat template is not well-formed: syntax error: unexpected end of input, expected end of variable block (in chat template:1)
    unknown-filter: the chat template fails: unknown filter: filter nothing is unknown (in chat template:1)
    "#);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let _alone = alone();
    let (_, sound) = corpus("gguf")
        .into_iter()
        .find(|(name, _)| name == "sound")
        .unwrap();
    let checkpoint = hostile::open_gguf(sound.clone()).unwrap();
    let last = checkpoint.tensors().pop().unwrap().n_bytes();
    let end = sound.len() - last.next_multiple_of(32) + last;
    for len in 0..sound.len() {
        let cut = sound[..len].to_vec();
        let opened = with_little_memory("sound", len, || hostile::open_gguf(cut));
        assert_eq!(opened.is_ok(), len >= end, "{len} of {} bytes", sound.len());
    }
}

#[test]
fn a_folder_cut_anywhere_is_refused() {
    let _alone = alone();
    let (_, sound) = (corpus("safetensors").into_iter())
        .find(|(name, _)| name == "sound")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let parts = hostile::parts(&sound);
    hostile::open_folder(folder.path(), parts).unwrap();
    for (i, part) in parts.into_iter().enumerate() {
        // Writing files takes most of the time, so truncate at every byte of the last
        // part's header, and at every seventh of the rest.
        for len in (0..part.len()).filter(|len| *len < 64 || len % 7 == 0) {
            let mut cut = parts;
            cut[i] = &part[..len];
            let open = || hostile::open_folder(folder.path(), cut);
            let opened = with_little_memory("sound", sound.len(), open);
            assert!(opened.is_err(), "part {i}, {len} of {} bytes", part.len());
        }
    }
}
