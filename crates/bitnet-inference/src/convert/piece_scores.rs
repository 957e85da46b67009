//! Conversion of SentencePiece BPE from `tokenizer.json` to GGUF metadata: from merges to
//! pieces with scores.
//!
//! `transformers` converted scores to merges when it wrote the file: for every piece, a
//! merge for each split of it in two, ordered by descending score of the piece. This
//! module inverts that: the position of its merges in the list gives a piece its score.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::tokenizer_parts::BpeModel;
use crate::tokenizer::gguf::{TYPE_BYTE, TYPE_NORMAL, TYPE_UNUSED};

/// The symbol for a space.
const SPACE: &str = "▁";

/// The text and GGUF type of each token; `None` for an unused id.
type Tokens = [Option<(String, i32)>];

/// Returns the scores of the pieces of a `tokenizer.json`. Sets the type of byte tokens,
/// and the type "unused" for pieces that no merge gives.
///
/// # Errors
///
/// Returns the reason if scores cannot represent the merges of the file.
pub(crate) fn describe(
    json: &Value,
    merges: &[String],
    tokens: &mut Tokens,
) -> Result<BpeModel, &'static str> {
    let model = &json["model"];
    if model["byte_fallback"] != true {
        return Err("it cuts text in a way that GGUF has no name for");
    }
    let is_plain = model["ignore_merges"] != true
        && model["dropout"].is_null()
        && ["continuing_subword_prefix", "end_of_word_suffix"]
            .iter()
            .all(|key| matches!(model[*key].as_str(), None | Some("")));
    if !is_plain {
        return Err("its pieces are merged in another way than SentencePiece's");
    }
    let space_prefix = space_prefix(json)?;

    let ids: HashMap<&str, usize> = (tokens.iter().enumerate())
        .filter_map(|(id, token)| Some((token.as_ref()?.0.as_str(), id)))
        .collect();
    let is_added = |piece: &str| match &tokens[ids[piece]] {
        Some((_, ty)) => *ty != TYPE_NORMAL,
        None => true,
    };
    // Pieces in the order of their first merges, with the parts of each.
    let mut order: Vec<String> = Vec::new();
    let mut parts: HashMap<String, HashSet<(&str, &str)>> = HashMap::new();
    for merge in merges {
        let (left, right) = merge.split_once(' ').unwrap_or((merge, ""));
        let piece = [left, right].concat();
        if order.last() != Some(&piece) {
            if parts.contains_key(&piece) {
                return Err("its merges are in an order that no scores give");
            }
            order.push(piece.clone());
        }
        parts.entry(piece).or_default().insert((left, right));
    }
    for (piece, parts) in &parts {
        let mut cuts = (piece.char_indices().skip(1)).map(|(at, _)| piece.split_at(at));
        // Added tokens are matched before merging.
        let is_left_out = |(left, right): (&str, &str)| {
            ids.contains_key(left)
                && ids.contains_key(right)
                && !parts.contains(&(left, right))
                && !is_added(left)
                && !is_added(right)
        };
        if cuts.any(is_left_out) {
            return Err("its merges leave out ways to make a token, which scores cannot");
        }
    }

    let mut scores = vec![0.0; tokens.len()];
    for (rank, piece) in order.iter().enumerate() {
        let Some(&id) = ids.get(piece.as_str()) else {
            return Err("it merges to what is no token");
        };
        scores[id] = -(rank as f32);
    }
    let lowest = -(order.len() as f32);
    let mut unmade = Vec::new();
    for (&piece, &id) in &ids {
        if is_added(piece) || is_byte(piece) || parts.contains_key(piece) {
            continue;
        }
        scores[id] = lowest;
        let mut cuts = (piece.char_indices().skip(1)).map(|(at, _)| piece.split_at(at));
        if cuts.any(|(left, right)| ids.contains_key(left) && ids.contains_key(right)) {
            unmade.push(id);
        }
    }
    let unknown = model["unk_token"].as_str().and_then(|token| ids.get(token));
    let unknown = unknown.map(|id| *id as u32);
    drop(ids);
    for id in unmade {
        if let Some((_, ty)) = &mut tokens[id] {
            *ty = TYPE_UNUSED;
        }
    }
    for (text, ty) in tokens.iter_mut().flatten() {
        if *ty == TYPE_NORMAL && is_byte(text) {
            *ty = TYPE_BYTE;
        }
    }
    Ok(BpeModel::SentencePiece {
        scores,
        space_prefix,
        unknown,
    })
}

/// Returns whether a token is a byte, written `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Returns whether a space is prepended to every text. Spaces must be replaced by ▁, and
/// no other normalization is allowed.
fn space_prefix(json: &Value) -> Result<bool, &'static str> {
    let steps = |value: &Value, list: &str| match value {
        Value::Null => Vec::new(),
        value => match value[list].as_array() {
            Some(steps) => steps.clone(),
            None => vec![value.clone()],
        },
    };
    let replaces = |step: &Value| {
        step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == SPACE
    };
    let prepends = |step: &Value| step["type"] == "Prepend" && step["prepend"] == SPACE;
    let normalizers = steps(&json["normalizer"], "normalizers");
    let pre_tokenizers = steps(&json["pre_tokenizer"], "pretokenizers");
    match (&normalizers[..], &pre_tokenizers[..]) {
        ([prepend, replace], []) if prepends(prepend) && replaces(replace) => Ok(true),
        ([replace], []) if replaces(replace) => Ok(false),
        // As in Gemma: the split has no effect, since no space is left.
        ([replace], [split])
            if replaces(replace)
                && split["type"] == "Split"
                && split["pattern"]["String"] == " " =>
        {
            Ok(false)
        }
        ([], [metaspace]) if metaspace["type"] == "Metaspace" && metaspace["split"] == false => {
            match (&metaspace["replacement"], &metaspace["prepend_scheme"]) {
                (replacement, scheme) if replacement == SPACE && scheme == "never" => Ok(false),
                _ => Err("it puts a space in front of some texts only, which GGUF cannot say"),
            }
        }
        _ => Err("it cuts text in a way that GGUF has no name for"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const VOCAB: [&str; 7] = ["<0x0A>", "a", "b", "c", "ab", "bc", "abc"];

    fn tokens() -> Vec<Option<(String, i32)>> {
        let token = |text: &str| Some((text.to_owned(), TYPE_NORMAL));
        VOCAB.iter().map(|text| token(text)).collect()
    }

    fn file() -> Value {
        json!({
            "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
            "pre_tokenizer": null,
            "model": { "byte_fallback": true, "unk_token": null },
        })
    }

    fn scores(merges: &[&str]) -> Result<(Vec<f32>, Vec<i32>), &'static str> {
        let merges: Vec<String> = merges.iter().map(|merge| (*merge).to_owned()).collect();
        let mut tokens = tokens();
        let model = describe(&file(), &merges, &mut tokens)?;
        let BpeModel::SentencePiece { scores, .. } = model else {
            panic!("pieces have scores");
        };
        let types = tokens.iter().flatten().map(|(_, ty)| *ty);
        Ok((scores, types.collect()))
    }

    #[test]
    fn the_order_of_merges_gives_the_scores() {
        let (scores, types) = scores(&["b c", "a b", "ab c", "a bc"]).unwrap();
        assert_eq!(scores, [0.0, -3.0, -3.0, -3.0, -1.0, 0.0, -2.0]);
        assert_eq!(types[0], TYPE_BYTE);
        assert_eq!(types[1..], [TYPE_NORMAL; 6]);
    }

    #[test]
    fn a_piece_that_nothing_is_merged_to_is_one_that_no_text_has() {
        let (scores, types) = scores(&["b c", "a b"]).unwrap();
        assert_eq!((scores[6], types[6]), (-2.0, TYPE_UNUSED));
    }

    #[test]
    fn merges_that_scores_cannot_give_are_refused() {
        let torn = scores(&["ab c", "a b", "a bc", "b c"]).unwrap_err();
        assert_eq!(torn, "its merges are in an order that no scores give");
        let fewer = scores(&["a b", "b c", "ab c"]).unwrap_err();
        assert_eq!(
            fewer,
            "its merges leave out ways to make a token, which scores cannot"
        );
    }

    #[test]
    fn what_happens_to_spaces_is_told_or_refused() {
        let prefix = |normalizer: Value, pre_tokenizer: Value| {
            let mut json = file();
            json["normalizer"] = normalizer;
            json["pre_tokenizer"] = pre_tokenizer;
            space_prefix(&json)
        };
        let replace = file()["normalizer"].clone();
        let prepend = json!({ "type": "Prepend", "prepend": "▁" });
        let both = json!({ "type": "Sequence", "normalizers": [prepend, replace] });
        assert_eq!(prefix(both, Value::Null), Ok(true));
        let split = json!({
            "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious",
            "invert": false,
        });
        assert_eq!(prefix(replace.clone(), split), Ok(false));
        let metaspace = |scheme: &str| {
            json!({
                "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false,
            })
        };
        assert_eq!(prefix(Value::Null, metaspace("never")), Ok(false));
        assert_eq!(
            prefix(Value::Null, metaspace("first")),
            Err("it puts a space in front of some texts only, which GGUF cannot say")
        );
        let lower = json!({ "type": "Lowercase" });
        assert!(prefix(lower, Value::Null).is_err());
    }
}
