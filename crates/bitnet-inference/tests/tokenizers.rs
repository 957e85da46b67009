//! Tokenizers compared with HuggingFace's: a vocabulary from `tokenizer.json`, and the same
//! from GGUF metadata and `tokenizer.model`.
//!
//! `tests/data/tokenizers/make_tokenizers.py` made the vocabularies and ids.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::LazyLock;

use bitnet_inference::gguf::{Array, Gguf, GgufWriter, Value};
use bitnet_inference::{Checkpoint, Tokenizer, TokenizerError, TokenizerNote};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value as Json, json};

#[derive(Deserialize)]
struct Recorded {
    texts: Vec<String>,
    byte_level: ByteLevel,
    sentencepiece: SentencePiece,
}

#[derive(Deserialize)]
struct ByteLevel {
    tokens: Vec<String>,
    merges: Vec<String>,
    special: Vec<String>,
    user: Vec<String>,
    configurations: BTreeMap<String, Configuration>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    ignore_merges: bool,
    normalizer: Json,
    pre_tokenizer: Json,
    decoder: Json,
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

#[derive(Deserialize)]
struct SentencePiece {
    tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
    merges: Vec<String>,
    with_prefix: Configuration,
    without_prefix: Configuration,
    sentencepiece: Vec<Vec<u32>>,
}

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

fn recorded() -> Recorded {
    serde_json::from_str(include_str!("data/tokenizers/tokenizers.json")).unwrap()
}

/// A `tokenizer.json` in the published format.
fn tokenizer_json(
    configuration: &Configuration,
    model: &Json,
    tokens: &[String],
    types: &[i32],
) -> Json {
    let mut model = model.clone();
    model["type"] = json!("BPE");
    model["ignore_merges"] = json!(configuration.ignore_merges);
    let ids = tokens.iter().enumerate();
    let vocab: BTreeMap<_, _> = ids.clone().map(|(id, token)| (token, id)).collect();
    model["vocab"] = json!(vocab);
    let added = ids.filter(|(id, _)| [CONTROL, USER_DEFINED].contains(&types[*id]));
    let added: Vec<_> = added
        .map(|(id, token)| {
            json!({
                "id": id, "content": token, "special": types[id] == CONTROL,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": configuration.normalizer,
        "pre_tokenizer": configuration.pre_tokenizer,
        "post_processor": null,
        "decoder": configuration.decoder,
        "model": model,
    })
}

fn from_json(json: &Json) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    Tokenizer::from_folder(folder.path()).unwrap()
}

fn from_gguf(metadata: &[(&str, Value)]) -> Result<Tokenizer, TokenizerError> {
    let mut writer = GgufWriter::new();
    for (key, value) in metadata {
        writer.metadata(format!("tokenizer.ggml.{key}"), value.clone());
    }
    let file = writer.write(Vec::new(), |_, _| Ok::<_, io::Error>(()));
    let gguf = Gguf::parse(&file.unwrap()).unwrap();
    // A family without a default pre-tokenizer.
    let llama = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny-llama");
    let family = Checkpoint::open(llama.as_ref()).unwrap().config().family;
    Tokenizer::from_gguf(&gguf, family)
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

fn texts(values: &[String]) -> Value {
    Value::Array(Array::String(values.to_vec()))
}

impl ByteLevel {
    /// All tokens and their types in GGUF files.
    fn vocabulary(&self) -> (Vec<String>, Vec<i32>) {
        let tokens = [&self.tokens[..], &self.special, &self.user].concat();
        let mut types = vec![1; self.tokens.len()];
        types.resize(types.len() + self.special.len(), CONTROL);
        types.resize(types.len() + self.user.len(), USER_DEFINED);
        (tokens, types)
    }

    fn gguf(&self, pre: &str) -> Vec<(&'static str, Value)> {
        let (tokens, types) = self.vocabulary();
        vec![
            ("model", text("gpt2")),
            ("pre", text(pre)),
            ("tokens", texts(&tokens)),
            ("token_type", Value::Array(Array::I32(types))),
            ("merges", texts(&self.merges)),
        ]
    }
}

impl SentencePiece {
    fn gguf(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("model", text("llama")),
            ("tokens", texts(&self.tokens)),
            ("scores", Value::Array(Array::F32(self.scores.clone()))),
            ("token_type", Value::Array(Array::I32(self.types.clone()))),
        ]
    }
}

fn check(tokenizer: &Tokenizer, texts: &[String], expected: &Configuration, name: &str) {
    for (i, text) in texts.iter().enumerate() {
        let ids = tokenizer.encode_without_bos(text).unwrap();
        assert_eq!(ids, expected.ids[i], "{name}: {text:?}");
        let decoded = tokenizer.decode(&ids, true);
        assert_eq!(decoded, expected.decoded[i], "{name}: {text:?}");
        // Incrementally, as in generation; special tokens are omitted.
        let mut stream = tokenizer.stream(&[]);
        let mut streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
        streamed += &stream.finish();
        assert_eq!(streamed, tokenizer.decode(&ids, false), "{name}");
    }
}

#[test]
fn byte_level_bpe_agrees_with_huggingface() {
    let Recorded {
        texts, byte_level, ..
    } = recorded();
    let (tokens, types) = byte_level.vocabulary();
    let model = json!({ "merges": byte_level.merges });
    for (pre, configuration) in &byte_level.configurations {
        let json = tokenizer_json(configuration, &model, &tokens, &types);
        check(&from_json(&json), &texts, configuration, pre);
        let tokenizer = from_gguf(&byte_level.gguf(pre)).unwrap();
        check(&tokenizer, &texts, configuration, pre);
    }
    // The texts distinguish all configurations, except aliases.
    let mut ids: Vec<_> = (byte_level.configurations.values())
        .map(|c| &c.ids)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

#[test]
fn a_prompt_is_neither_cut_off_nor_filled_up_as_texts_in_training_were() {
    let Recorded {
        texts, byte_level, ..
    } = recorded();
    let (tokens, types) = byte_level.vocabulary();
    let model = json!({ "merges": byte_level.merges });
    let (pre, configuration) = byte_level.configurations.first_key_value().unwrap();
    let mut json = tokenizer_json(configuration, &model, &tokens, &types);
    json["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": tokens[0],
    });
    check(&from_json(&json), &texts, configuration, pre);
}

#[test]
fn sentencepiece_agrees_with_huggingface() {
    let Recorded {
        texts,
        sentencepiece,
        ..
    } = recorded();
    let model = json!({
        "merges": sentencepiece.merges,
        "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
    });
    for (prefix, configuration) in [
        (true, &sentencepiece.with_prefix),
        (false, &sentencepiece.without_prefix),
    ] {
        let name = format!("prefix {prefix}");
        let json = tokenizer_json(
            configuration,
            &model,
            &sentencepiece.tokens,
            &sentencepiece.types,
        );
        check(&from_json(&json), &texts, configuration, &name);
        let mut metadata = sentencepiece.gguf();
        if !prefix {
            metadata.push(("add_space_prefix", Value::Bool(false)));
        }
        check(&from_gguf(&metadata).unwrap(), &texts, configuration, &name);
    }
    // And with the program that made the vocabulary, which does not know added
    // tokens.
    let tokenizer = from_gguf(&sentencepiece.gguf()).unwrap();
    for (text, expected) in texts.iter().zip(&sentencepiece.sentencepiece) {
        if !text.contains("<think>") {
            assert_eq!(
                &tokenizer.encode_without_bos(text).unwrap(),
                expected,
                "{text:?}"
            );
        }
    }
}

/// A folder with a `tokenizer.model`, to which `more` is appended: in protobuf, the last
/// value of a field wins, and messages are merged.
fn from_model(more: &[u8], files: &[(&str, &str)]) -> Result<Tokenizer, TokenizerError> {
    let folder = tempfile::tempdir().unwrap();
    let model = include_bytes!("data/tokenizers/tokenizer.model");
    let write = |name: &str, data: &[u8]| std::fs::write(folder.path().join(name), data).unwrap();
    write("tokenizer.model", &[model, more].concat());
    for (name, data) in files {
        write(name, data.as_bytes());
    }
    Tokenizer::from_folder(folder.path())
}

/// Field 3 of the message, with one number in it.
const NORMALIZER: u8 = 0x1a;
const ADD_DUMMY_PREFIX: u8 = 3 << 3;

#[test]
fn tokenizer_model_is_read_as_sentencepiece_wrote_it() {
    let Recorded {
        texts,
        sentencepiece,
        ..
    } = recorded();
    let tokenizer = from_model(&[], &[]).unwrap();
    check(&tokenizer, &texts, &sentencepiece.with_prefix, "prefix");
    let no_prefix = [NORMALIZER, 2, ADD_DUMMY_PREFIX, 0];
    let other = from_model(&no_prefix, &[]).unwrap();
    check(&other, &texts, &sentencepiece.without_prefix, "no prefix");
    // LLaMA's default.
    assert_eq!(tokenizer.encode("a").unwrap()[0], 1);
    assert_eq!(tokenizer.eog().collect::<Vec<_>>(), [2]);
}

#[test]
fn tokens_beside_tokenizer_model_are_added() {
    let config = r#"{"add_bos_token": false, "eos_token": "<end>", "added_tokens_decoder": {
        "1": {"content": "<s>", "special": true}, "901": {"content": "<end>", "special": true},
        "900": {"content": "<tool>", "special": false}}}"#;
    let tokenizer = from_model(&[], &[("tokenizer_config.json", config)]).unwrap();
    let ids = tokenizer.encode("<tool><end>").unwrap();
    assert_eq!(ids, [900, 901]);
    assert_eq!(tokenizer.decode(&ids, false), "<tool>");
    assert!(tokenizer.is_eog(901) && !tokenizer.adds_bos());
    let old = |json| from_model(&[], &[("added_tokens.json", json)]);
    assert_eq!(old(r#"{"<pad>": 900}"#).unwrap().n_tokens(), 901);
    assert_eq!(
        old(r#"{"<pad>": 950}"#).unwrap_err().to_string(),
        "added token \"<pad>\" has id 950, expected 900 by the tokens before it"
    );
}

#[test]
fn tokenizer_models_that_lie_are_refused() {
    let refused = |more: &[u8], expected: &str| {
        assert_eq!(from_model(more, &[]).unwrap_err().to_string(), expected);
    };
    refused(
        &[0x12, 2, 3 << 3, 1],
        "model_type in tokenizer.model \"unigram\" is not supported (supported: bpe)",
    );
    refused(
        &[0x12, 2, 3 << 3, 77],
        "model_type in tokenizer.model \"77\" is not supported (supported: bpe)",
    );
    refused(
        &[NORMALIZER, 3, 2 << 3 | 2, 1, 0],
        "normalization in tokenizer.model \"by compiled rules\" is not supported \
         (supported: identity)",
    );
    refused(
        &[NORMALIZER, 2, 4 << 3, 1],
        "treatment of spaces in tokenizer.model \"repeated spaces removed\" is not supported \
         (supported: all kept, as ▁)",
    );
    refused(
        &[0x0a, 9, 0x0a, 2, b'~', b'~', 0x15, 0, 0, 0xc0, 0x7f],
        "the score of token 900 is NaN, expected a number",
    );
    let broken = "tokenizer.model is not as SentencePiece writes it";
    refused(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], broken);
    refused(&[0x0a, 3, 0x0a, 1, 0xff], broken);
}

#[test]
fn a_text_that_nothing_follows_is_closed_where_the_file_says_so() {
    let mut metadata = recorded().sentencepiece.gguf();
    metadata.push(("bos_token_id", Value::U32(1)));
    metadata.push(("eos_token_id", Value::U32(2)));
    let open = from_gguf(&metadata).unwrap();
    assert_eq!(
        open.encode_with_eos("a").unwrap(),
        open.encode("a").unwrap()
    );
    metadata.push(("add_eos_token", Value::Bool(true)));
    let closed = from_gguf(&metadata).unwrap();
    let plain = closed.encode("a").unwrap();
    assert_eq!(
        closed.encode_with_eos("a").unwrap(),
        [&plain[..], &[2]].concat()
    );
    assert_eq!(closed.encode_with_eos("a</s>").unwrap().last(), Some(&2));
    let once = closed.encode_with_eos("a</s>").unwrap().len();
    assert_eq!(once, closed.encode("a</s>").unwrap().len());
}

#[test]
fn a_continuation_keeps_the_space_that_a_beginning_loses() {
    let tokenizer = from_gguf(&recorded().sentencepiece.gguf()).unwrap();
    let ids = tokenizer.encode_without_bos("Once upon a time").unwrap();
    let at = ids.len() - 1;
    let rest = |before: &[u32]| {
        let mut stream = tokenizer.stream(before);
        let mut rest: String = ids[at..].iter().map(|id| stream.push(*id)).collect();
        rest += &stream.finish();
        rest
    };
    assert_eq!(rest(&ids[..at]), " time");
    assert_eq!(rest(&[]), "time");
}

#[test]
fn no_text_has_bos_twice() {
    let byte_level = recorded().byte_level;
    let (tokens, _) = byte_level.vocabulary();
    let bos = tokens
        .iter()
        .position(|t| t == "<|begin_of_text|>")
        .unwrap() as u32;
    let mut metadata = byte_level.gguf("llama-bpe");
    metadata.push(("bos_token_id", Value::U32(bos)));
    let tokenizer = from_gguf(&metadata).unwrap();
    let plain = tokenizer.encode("Hello").unwrap();
    assert_eq!(plain[0], bos);
    assert_eq!(tokenizer.encode("<|begin_of_text|>Hello").unwrap(), plain);
    assert_eq!(tokenizer.encode("").unwrap(), [bos]);
    // BOS is not prepended if the text begins with it; further ones are kept.
    let twice = "<|begin_of_text|><|begin_of_text|>";
    assert_eq!(tokenizer.encode(twice).unwrap(), [bos, bos]);
    // Without a prepended BOS, the text is kept, too.
    let mut metadata = byte_level.gguf("qwen2");
    metadata.push(("bos_token_id", Value::U32(bos)));
    let tokenizer = from_gguf(&metadata).unwrap();
    assert!(!tokenizer.adds_bos());
    assert_ne!(tokenizer.encode("Hello").unwrap()[0], bos);
    assert_eq!(tokenizer.encode("<|begin_of_text|>").unwrap(), [bos]);
}

type Metadata = Vec<(&'static str, Value)>;

/// Edits metadata and checks the error.
fn refused(metadata: &Metadata, edit: impl FnOnce(&mut Metadata), expected: &str) {
    let mut metadata = metadata.clone();
    edit(&mut metadata);
    let error = from_gguf(&metadata).unwrap_err();
    assert_eq!(error.to_string(), expected);
}

fn set(metadata: &mut Metadata, key: &'static str, value: Value) {
    metadata.retain(|(known, _)| *known != key);
    metadata.push((key, value));
}

#[test]
fn byte_level_vocabularies_that_lie_are_refused() {
    let metadata = recorded().byte_level.gguf("qwen2");
    refused(
        &metadata,
        |m| set(m, "pre", text("gpt-5")),
        "tokenizer.ggml.pre \"gpt-5\" is not supported (supported: llama-bpe, llama3, \
         llama-v3, falcon3, falcon-e, falcon_e, falcon-h1, lfm2, pixtral, qwen2, \
         deepseek-r1-qwen, gpt-2, phi-2, exaone4, gigachat, mellum, olmo, mpt, smollm, \
         starcoder, refact, command-r, codeshell, exaone, minerva-7b)",
    );
    refused(
        &metadata,
        |m| set(m, "model", text("t5")),
        "tokenizer.ggml.model \"t5\" is not supported (supported: gpt2 (byte-level BPE), \
         llama (SentencePiece BPE))",
    );
}

#[test]
fn pieces_that_lie_are_refused() {
    let pieces = recorded().sentencepiece;
    let metadata = pieces.gguf();
    refused(
        &metadata,
        |m| m.retain(|(key, _)| *key != "scores"),
        "key \"tokenizer.ggml.scores\" is missing",
    );
    refused(
        &metadata,
        |m| set(m, "scores", Value::Array(Array::F32(vec![0.0; 899]))),
        "tokenizer.ggml.scores has 899 values for 900 tokens",
    );
    let mut scores = pieces.scores;
    scores[300] = f32::NAN;
    refused(
        &metadata,
        |m| set(m, "scores", Value::Array(Array::F32(scores))),
        "the score of token 300 is NaN, expected a number",
    );
    // The number of ways to split a token grows with its length.
    let runs = |n: usize| -> Vec<_> { (1..=n).map(|n| "a".repeat(n)).collect() };
    let only = |m: &mut Metadata, tokens: &[String]| {
        set(m, "tokens", texts(tokens));
        let scores = vec![0.0; tokens.len()];
        set(m, "scores", Value::Array(Array::F32(scores)));
        m.retain(|(key, _)| *key != "token_type");
    };
    refused(
        &metadata,
        |m| only(m, &runs(200)),
        "the 200 tokens can be made of each other in too many ways",
    );
}

/// Returns the tokenizer of edited metadata.
fn edited(metadata: &Metadata, edit: impl FnOnce(&mut Metadata)) -> Tokenizer {
    let mut metadata = metadata.clone();
    edit(&mut metadata);
    from_gguf(&metadata).unwrap()
}

fn notes(tokenizer: &Tokenizer) -> Vec<String> {
    let notes = tokenizer.notes().iter().map(TokenizerNote::to_string);
    notes.collect()
}

fn tokens_of<'a>(metadata: &'a mut Metadata, key: &str) -> &'a mut Vec<String> {
    let value = metadata.iter_mut().find(|(known, _)| *known == key);
    match value {
        Some((_, Value::Array(Array::String(strings)))) => strings,
        _ => panic!("{key} is an array of strings"),
    }
}

#[test]
fn a_vocabulary_may_lack_bytes() {
    let metadata = recorded().byte_level.gguf("qwen2");
    let without = |chars: &str| {
        edited(&metadata, |m| {
            for token in tokens_of(m, "tokens") {
                if token.chars().count() == 1 && chars.contains(token.as_str()) {
                    *token = format!("[no {token}]");
                }
            }
        })
    };
    // The bytes 0xC0, 0xC1 and 0xFF never occur in UTF-8.
    assert!(notes(&without("ÀÁÿ")).is_empty());
    let tokenizer = without("Āÿ");
    assert_eq!(
        notes(&tokenizer).last().unwrap(),
        "the vocabulary has no token for 1 of the bytes of texts (0x00): characters that need \
         them are dropped"
    );
    let ids = tokenizer.encode_without_bos("a\0b").unwrap();
    assert_eq!(tokenizer.decode(&ids, true), "ab");
    // Pieces without byte fallback and without an unknown token.
    let metadata = recorded().sentencepiece.gguf();
    let tokenizer = edited(&metadata, |m| {
        set(m, "tokens", texts(&["▁a", "b"].map(str::to_owned)));
        set(m, "scores", Value::Array(Array::F32(vec![0.0, -1.0])));
        m.retain(|(key, _)| *key != "token_type");
    });
    assert!(notes(&tokenizer)[0].starts_with("the vocabulary has no token for 243 of"));
    assert!(tokenizer.encode_without_bos("xyz").unwrap().is_empty());
}

#[test]
fn of_equal_tokens_texts_get_the_first() {
    let metadata = recorded().byte_level.gguf("qwen2");
    let tokenizer = edited(&metadata, |m| {
        let tokens = tokens_of(m, "tokens");
        tokens[500] = "!".to_owned();
        tokens[501] = "#".to_owned();
        // The results of the merges are no longer tokens.
        tokens_of(m, "merges").clear();
    });
    assert_eq!(
        notes(&tokenizer),
        ["token 500 repeats \"!\" of token 0 (and 1 more like it): texts get the first id"]
    );
    assert_eq!(tokenizer.encode_without_bos("!#").unwrap(), [0, 2]);
    // A model may still generate the duplicates.
    assert_eq!(tokenizer.decode(&[500, 501, 0], false), "!#!");
    assert_eq!(
        tokenizer.n_tokens(),
        tokens_of(&mut metadata.clone(), "tokens").len()
    );

    let model = from_model(&[0x0a, 3, 0x0a, 1, b'a'], &[]).unwrap();
    let first = model.encode_without_bos("a").unwrap();
    assert_eq!(model.decode(&[900], false), "a");
    assert!(notes(&model)[0].starts_with("token 900 repeats \"a\" of token "));
    assert_ne!(first.last(), Some(&900));
    // Empty tokens are not text.
    let empty = edited(&metadata, |m| {
        tokens_of(m, "tokens")[700..710].fill(String::new());
        tokens_of(m, "merges").clear();
    });
    assert_eq!(empty.decode(&[0, 700, 709, 2], false), "!#");
}

#[test]
fn merges_that_give_no_token_are_left_out() {
    let recorded = recorded();
    let metadata = recorded.byte_level.gguf("qwen2");
    let plain = from_gguf(&metadata).unwrap();
    let tokenizer = edited(&metadata, |m| {
        let long = "b".repeat(1000);
        let odd = ["! !zzz", "none", "a  b", &format!("a {long}")].map(str::to_owned);
        tokens_of(m, "merges").splice(0..0, odd);
    });
    assert_eq!(
        notes(&tokenizer),
        [
            "merge 0 (\"! !zzz\") (and 3 more like it) gives no token of the vocabulary and is ignored"
        ]
    );
    for text in &recorded.texts {
        let ids = tokenizer.encode_without_bos(text).unwrap();
        assert_eq!(ids, plain.encode_without_bos(text).unwrap(), "{text:?}");
    }
}

#[test]
fn numbers_that_nobody_needs_are_left_out() {
    let pieces = recorded().sentencepiece;
    let metadata = pieces.gguf();
    let plain = from_gguf(&metadata).unwrap();
    let mut scores = pieces.scores.clone();
    // Merges never give a control token.
    scores[1] = f32::NAN;
    scores.push(0.0);
    let tokenizer = edited(&metadata, |m| {
        set(m, "scores", Value::Array(Array::F32(scores)));
        let types = [&pieces.types[..], &[1, 1]].concat();
        set(m, "token_type", Value::Array(Array::I32(types)));
        for key in [
            "bos_token_id",
            "eos_token_id",
            "eot_token_id",
            "unknown_token_id",
        ] {
            set(m, key, Value::U64(u64::MAX));
        }
        set(m, "add_bos_token", Value::Bool(true));
    });
    let id = "18446744073709551615, which no token has (there are 900)";
    assert_eq!(
        notes(&tokenizer),
        [
            "tokenizer.ggml.token_type has 902 values for 900 tokens: the rest is ignored"
                .to_owned(),
            format!("tokenizer.ggml.unknown_token_id is {id}"),
            format!("tokenizer.ggml.bos_token_id is {id}"),
            format!("tokenizer.ggml.eos_token_id is {id}"),
            "tokenizer.ggml.scores has 901 values for 900 tokens: the rest is ignored".to_owned(),
            format!("tokenizer.ggml.eot_token_id is {id}"),
        ]
    );
    // SentencePiece's default without keys.
    assert_eq!((tokenizer.bos(), plain.bos()), (Some(1), Some(1)));
    assert_eq!(tokenizer.eog().collect::<Vec<_>>(), [2]);
    let text = "Once upon a time\u{1f409}";
    assert_eq!(tokenizer.encode(text).unwrap(), plain.encode(text).unwrap());
    // Infinite scores have an order.
    let mut scores = pieces.scores;
    scores[400] = f32::NEG_INFINITY;
    edited(&metadata, |m| {
        set(m, "scores", Value::Array(Array::F32(scores)));
    });
}

#[test]
fn names_that_mean_the_same_cut_are_known() {
    let recorded = recorded();
    for (known, others) in [
        ("llama-bpe", &["falcon-h1", "lfm2", "pixtral"][..]),
        ("gpt-2", &["phi-2", "exaone4", "gigachat", "mellum"]),
        (
            "smollm",
            &["command-r", "codeshell", "exaone", "minerva-7b"],
        ),
    ] {
        for name in others {
            let tokenizer = from_gguf(&recorded.byte_level.gguf(name)).unwrap();
            let expected = &recorded.byte_level.configurations[known];
            check(&tokenizer, &recorded.texts, expected, name);
        }
    }
}

#[test]
fn a_vocabulary_names_its_ends() {
    let byte_level = recorded().byte_level;
    let ends = |texts: &[&str], ty: i32| -> Vec<String> {
        let tokenizer = edited(&byte_level.gguf("llama-bpe"), |m| {
            let (mut tokens, mut types) = byte_level.vocabulary();
            tokens.extend(texts.iter().map(|text| (*text).to_owned()));
            types.resize(tokens.len(), ty);
            set(m, "tokens", Value::Array(Array::String(tokens)));
            set(m, "token_type", Value::Array(Array::I32(types)));
            set(m, "eos_token_id", Value::U32(5));
            set(m, "eom_token_id", Value::U32(6));
        });
        for id in tokenizer.eog().skip(2) {
            let text = tokenizer.decode(&[id], true);
            assert_eq!(tokenizer.encode_without_bos(&text).unwrap(), [id], "{text}");
            assert_eq!(tokenizer.decode(&[id], false), "", "{text}");
        }
        let ends = tokenizer.eog().map(|id| tokenizer.decode(&[id], true));
        ends.collect()
    };
    let named = ["&", "'"];
    let with = |more: &[&str]| -> Vec<String> {
        let all = named.iter().chain(&["<|eot_id|>"]).chain(more);
        all.map(|text| (*text).to_owned()).collect()
    };
    let texts = [
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<end_of_turn>",
        "<|end|>",
        "</s>",
        "<EOT>",
        "<eos>",
        "<｜end▁of▁sentence｜>",
        "<|file_sep|>",
        "<|fim_pad|>",
    ];
    assert_eq!(ends(&texts, CONTROL), with(&texts));
    // Also if files declare them as normal tokens.
    assert_eq!(ends(&texts, 1), with(&texts));
    assert_eq!(ends(&texts, USER_DEFINED), with(&texts));
    let harmony = ["<|start|>", "<|end|>", "<|return|>", "<|call|>"];
    assert_eq!(ends(&harmony, CONTROL), with(&harmony[2..]));
}

#[test]
fn a_folder_names_ends_by_id() {
    let files = |eos: &str| {
        [(
            "generation_config.json",
            format!(r#"{{"eos_token_id": {eos}}}"#),
        )]
    };
    let open = |eos: &str| {
        let files = files(eos);
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        from_model(&[], &files).unwrap()
    };
    let tokenizer = open("[7, 2, 9]");
    assert_eq!(tokenizer.eog().collect::<Vec<_>>(), [2, 7, 9]);
    // A model may have a row for an id without a token.
    let tokenizer = open("[2, 1000, -1]");
    assert_eq!(tokenizer.eog().collect::<Vec<_>>(), [2, 1000]);
    assert_eq!(
        notes(&tokenizer),
        [
            "eos_token_id is 1000, which no token has (there are 900)",
            "eos_token_id is -1, which no token has (there are 900)",
        ]
    );
    assert_eq!(open("7").eog().collect::<Vec<_>>(), [2, 7]);
}

#[test]
fn a_decoder_that_would_panic_is_refused() {
    let strip = json!({ "type": "Strip", "content": " ", "start": 1, "stop": 1 });
    let folder = tempfile::tempdir().unwrap();
    let json = words(&json!({ "type": "Sequence", "decoders": [strip] }));
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    assert_eq!(
        Tokenizer::from_folder(folder.path())
            .unwrap_err()
            .to_string(),
        "decoder in tokenizer.json \"Strip with stop 1\" is not supported (supported: Strip \
         with stop 0)"
    );
}

// --- text of ids --------------------------------------------------------------

/// A `tokenizer.json` with a small vocabulary for decoders that depend on neighbours.
fn words(decoder: &Json) -> Json {
    let tokens = [
        "<pad>", "a", "b</w>", "##c", "▁d", "é", "|", "\u{fffd}", "<0xE2>", "<0x82>", "<0xAC>", ".",
    ];
    let tokens = tokens.map(str::to_owned);
    let configuration = Configuration {
        ignore_merges: false,
        normalizer: Json::Null,
        pre_tokenizer: Json::Null,
        decoder: decoder.clone(),
        ids: Vec::new(),
        decoded: Vec::new(),
    };
    let mut types = [1; 12];
    types[0] = CONTROL;
    tokenizer_json(&configuration, &json!({ "merges": [] }), &tokens, &types)
}

/// A tokenizer, and that of HuggingFace's `tokenizers`, if it can read the file.
struct Known {
    name: String,
    ours: Tokenizer,
    theirs: Option<tokenizers::Tokenizer>,
}

/// All tokenizers of the tests.
static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let mut known = Vec::new();
    let mut add = |name: String, ours: Tokenizer, json: Option<String>| {
        let theirs = json.map(|json| tokenizers::Tokenizer::from_bytes(json).unwrap());
        known.push(Known { name, ours, theirs });
    };
    let Recorded {
        byte_level,
        sentencepiece,
        ..
    } = recorded();
    let (tokens, types) = byte_level.vocabulary();
    for (pre, configuration) in &byte_level.configurations {
        let model = json!({ "merges": byte_level.merges });
        let json = tokenizer_json(configuration, &model, &tokens, &types);
        add(
            format!("{pre} from JSON"),
            from_json(&json),
            Some(json.to_string()),
        );
        add(
            format!("{pre} from GGUF"),
            from_gguf(&byte_level.gguf(pre)).unwrap(),
            None,
        );
    }
    let model = json!({
        "merges": sentencepiece.merges,
        "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
    });
    for (prefix, configuration) in [
        (true, &sentencepiece.with_prefix),
        (false, &sentencepiece.without_prefix),
    ] {
        let (tokens, types) = (&sentencepiece.tokens, &sentencepiece.types);
        let json = tokenizer_json(configuration, &model, tokens, types);
        let name = format!("pieces, prefix {prefix}, from JSON");
        add(name, from_json(&json), Some(json.to_string()));
        let mut metadata = sentencepiece.gguf();
        metadata.push(("add_space_prefix", Value::Bool(prefix)));
        let name = format!("pieces, prefix {prefix}, from GGUF");
        add(name, from_gguf(&metadata).unwrap(), None);
    }
    add(
        "tokenizer.model".to_owned(),
        from_model(&[], &[]).unwrap(),
        None,
    );
    for (name, decoder) in [
        ("none", Json::Null),
        (
            "WordPiece",
            json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
        ),
        ("BPE", json!({ "type": "BPEDecoder", "suffix": "</w>" })),
        (
            "Metaspace",
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                "split": true }),
        ),
        (
            "CTC",
            json!({ "type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|",
                "cleanup": true }),
        ),
        ("Fuse", json!({ "type": "Fuse" })),
    ] {
        let json = words(&decoder);
        add(
            format!("decoder {name}"),
            from_json(&json),
            Some(json.to_string()),
        );
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in [
        "../../models/storyteller/storyteller.gguf",
        "../../models/storyteller-tiny",
        "tests/data/tiny-llama",
        "tests/data/tiny-llama-tq2_0.gguf",
        "tests/data/tiny-bitnet-i2_s.gguf",
    ] {
        let ours =
            Tokenizer::from_checkpoint(&Checkpoint::open(&root.join(path)).unwrap()).unwrap();
        let json = std::fs::read_to_string(root.join(path).join("tokenizer.json")).ok();
        add(path.to_owned(), ours, json);
    }
    known
});

/// Returns `text` without its longest common prefix with `before`.
fn less<'a>(text: &'a str, before: &str) -> &'a str {
    let same = text.chars().zip(before.chars()).take_while(|(a, b)| a == b);
    &text[same.map(|(c, _)| c.len_utf8()).sum()..]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_stream_has_the_text_of_all_ids_less_that_of_the_ids_before(
        which in any::<prop::sample::Index>(),
        // Most bytes are among the first tokens.
        ids in prop::collection::vec((any::<bool>(), any::<u32>()), 0..90),
        prompt in prop::option::of("\\PC{0,12}"),
        cut in any::<prop::sample::Index>(),
    ) {
        let Known { name, ours, theirs } = which.get(&KNOWN);
        let n_tokens = ours.n_tokens() as u32;
        let id = |(low, id): (bool, u32)| id % if low { 262.min(n_tokens) } else { n_tokens + 8 };
        let output = ids.into_iter().map(id);
        // A prompt that is text, or one that may end within a character.
        let (ids, cut) = if let Some(text) = prompt {
            let prompt = ours.encode(&text).unwrap();
            let cut = prompt.len();
            (prompt.into_iter().chain(output).collect(), cut)
        } else {
            let ids: Vec<u32> = output.collect();
            let cut = cut.index(ids.len() + 1);
            (ids, cut)
        };
        let text = ours.decode(&ids, false);
        let mut stream = ours.stream(&ids[..cut]);
        let mut written: String = ids[cut..].iter().map(|id| stream.push(*id)).collect();
        written += &stream.finish();
        let before = ours.decode(&ids[..cut], false);
        prop_assert_eq!(written, less(&text, &before), "{} {:?} {}", name, &ids, cut);
        // Some of their decoders panic without tokens.
        if let Some(theirs) = theirs && !text.is_empty() {
            let theirs = theirs.decode(&ids, true).unwrap_or_default();
            // They replace a whole run of byte tokens if it contains an invalid one.
            if name.contains("pieces") && theirs.contains('\u{fffd}') {
                return Ok(());
            }
            prop_assert_eq!(text, theirs, "{} {:?}", name, ids);
        }
    }
}
