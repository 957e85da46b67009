//! Normalization and pre-tokenization of byte-level BPE tokenizers: the table of values
//! of `tokenizer.ggml.pre`.
//!
//! Each row corresponds to the published `tokenizer.json` of its families. The names are
//! llama.cpp's.

use serde_json::Value;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use super::TokenizerError;

/// Llama 3: letters with one character before them, up to three digits.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: the same, with digits one by one.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// By matches of this pattern.
    Pattern(&'static str),
    /// As in GPT-2.
    Gpt2,
    /// Around every digit, then as in GPT-2.
    DigitsThenGpt2,
}

/// A pre-tokenizer for byte-level BPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PreTokenizer {
    /// Names in GGUF files; the first is the one to write.
    names: &'static [&'static str],
    cut: Cut,
    /// Whether text is normalized to NFC first.
    nfc: bool,
    /// Whether a word that is a token is not split, regardless of the merges.
    pub(super) ignore_merges: bool,
    /// Whether BOS is prepended by default.
    pub(super) adds_bos: bool,
}

const KNOWN: [PreTokenizer; 5] = [
    PreTokenizer {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-e",
            "falcon_e",
            "falcon-h1",
            "lfm2",
            "pixtral",
        ],
        cut: Cut::Pattern(LLAMA3),
        nfc: false,
        ignore_merges: true,
        adds_bos: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        cut: Cut::Pattern(QWEN2),
        nfc: true,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["gpt-2", "phi-2", "exaone4", "gigachat", "mellum"],
        cut: Cut::Gpt2,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    // The vocabulary of GPT-NeoX, which TriLM uses, too.
    PreTokenizer {
        names: &["olmo", "mpt"],
        cut: Cut::Gpt2,
        nfc: true,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
        ],
        cut: Cut::DigitsThenGpt2,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
];

/// Returns the pre-tokenizer with this name in GGUF files.
pub(super) fn named(name: &str) -> Option<PreTokenizer> {
    KNOWN.into_iter().find(|known| known.names.contains(&name))
}

/// Returns all names, for error messages.
pub(super) fn names() -> String {
    KNOWN.map(|known| known.names.join(", ")).join(", ")
}

/// Returns the pre-tokenizer of a `tokenizer.json`, if it is a known one.
pub(crate) fn described(json: &Value) -> Option<PreTokenizer> {
    let pre_tokenizer = &json["pre_tokenizer"];
    let steps = match pre_tokenizer["pretokenizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(pre_tokenizer),
    };
    let (cut, byte_level) = match steps {
        [byte_level] => (Cut::Gpt2, byte_level),
        [digits, byte_level]
            if digits["type"] == "Digits" && digits["individual_digits"] == true =>
        {
            (Cut::DigitsThenGpt2, byte_level)
        }
        [split, byte_level] if split["behavior"] == "Isolated" && split["invert"] == false => {
            let pattern = split["pattern"]["Regex"].as_str()?;
            (
                Cut::Pattern(
                    [LLAMA3, QWEN2]
                        .into_iter()
                        .find(|known| *known == pattern)?,
                ),
                byte_level,
            )
        }
        _ => return None,
    };
    let by_pattern = matches!(cut, Cut::Pattern(_));
    if byte_level["type"] != "ByteLevel"
        || byte_level["add_prefix_space"] != false
        // Older files lack the key; the default is GPT-2's pattern.
        || byte_level["use_regex"].as_bool().unwrap_or(true) == by_pattern
    {
        return None;
    }
    let nfc = match &json["normalizer"] {
        Value::Null => false,
        normalizer if normalizer["type"] == "NFC" => true,
        _ => return None,
    };
    let ignore_merges = json["model"]["ignore_merges"].as_bool().unwrap_or(false);
    KNOWN
        .into_iter()
        .find(|known| (known.cut, known.nfc, known.ignore_merges) == (cut, nfc, ignore_merges))
}

impl PreTokenizer {
    /// Returns the name to write into GGUF files.
    pub(crate) fn name(self) -> &'static str {
        self.names[0]
    }

    /// Installs this pre-tokenizer in a tokenizer.
    pub(super) fn install(self, inner: &mut tokenizers::Tokenizer) -> Result<(), TokenizerError> {
        let byte_level = |use_regex| ByteLevel::new(false, true, use_regex);
        let steps: Vec<PreTokenizerWrapper> = match self.cut {
            Cut::Pattern(pattern) => {
                let split = Split::new(
                    SplitPattern::Regex(pattern.to_owned()),
                    SplitDelimiterBehavior::Isolated,
                    false,
                )
                .map_err(|source| TokenizerError::Build { source })?;
                vec![split.into(), byte_level(false).into()]
            }
            Cut::Gpt2 => vec![byte_level(true).into()],
            Cut::DigitsThenGpt2 => vec![Digits::new(true).into(), byte_level(true).into()],
        };
        inner.with_pre_tokenizer(Some(Sequence::new(steps)));
        if self.nfc {
            inner
                .with_normalizer(Some(NFC))
                .map_err(|source| TokenizerError::Build { source })?;
        }
        Ok(())
    }
}
