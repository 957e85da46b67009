//! Log-probabilities in the two forms of the API.

use bitnet_inference::{TokenLogprobs, Tokenizer};
use serde::Serialize;
use serde_json::{Map, Value};

/// A token of a chat, with its alternatives.
#[derive(Clone, Debug, Serialize)]
pub struct ChatLogprob {
    #[serde(flatten)]
    token: TokenLogprob,
    top_logprobs: Vec<TokenLogprob>,
}

#[derive(Clone, Debug, Serialize)]
struct TokenLogprob {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

/// Returns a number that is written with the digits of its 32 bits, also where it has 64.
pub fn as_written(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

/// Returns the text of a token alone. Bytes of a part of a character become U+FFFD.
fn text(tokenizer: &Tokenizer, token: u32) -> (String, Vec<u8>) {
    let bytes = tokenizer.bytes(token);
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

/// Returns the entries of a chat.
pub fn chat(tokenizer: &Tokenizer, logprobs: &[TokenLogprobs]) -> Vec<ChatLogprob> {
    let entry = |token: u32, logprob: f32| {
        let (token, bytes) = text(tokenizer, token);
        TokenLogprob {
            token,
            // JSON has no minus infinity.
            logprob: as_written(logprob.max(-9999.0)),
            bytes,
        }
    };
    let entries = logprobs.iter().map(|scored| ChatLogprob {
        token: entry(scored.token, scored.logprob),
        top_logprobs: (scored.top.iter().map(|&(token, l)| entry(token, l))).collect(),
    });
    entries.collect()
}

/// The log-probabilities of a completion: four lists of the same length.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    /// As wide as those of `top_logprobs` become, so that clients can compare them.
    token_logprobs: Vec<Option<f64>>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Adds a token without a probability: the first of a prompt. `offset` counts the
    /// characters of the text before.
    pub fn push_unknown(&mut self, tokenizer: &Tokenizer, token: u32, offset: &mut usize) {
        let (text, _) = text(tokenizer, token);
        self.text_offset.push(*offset);
        // Special tokens are named here, but are not in the text.
        if !tokenizer.is_special(token) {
            *offset += text.chars().count();
        }
        self.tokens.push(text);
        self.token_logprobs.push(None);
        self.top_logprobs.push(None);
    }

    /// Adds a token.
    pub fn push(&mut self, tokenizer: &Tokenizer, scored: &TokenLogprobs, offset: &mut usize) {
        self.push_unknown(tokenizer, scored.token, offset);
        let last = self.tokens.len() - 1;
        self.token_logprobs[last] = Some(scored.logprob.max(-9999.0).into());
        let mut top = Map::new();
        for &(token, logprob) in &scored.top {
            let (text, _) = text(tokenizer, token);
            // Of tokens with the same text, the most likely one counts.
            top.entry(text)
                .or_insert_with(|| logprob.max(-9999.0).into());
        }
        self.top_logprobs[last] = Some(top);
    }
}
