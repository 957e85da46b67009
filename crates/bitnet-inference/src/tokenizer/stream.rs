//! Decoding of ids to text, at once or incrementally.
//!
//! The decoders of byte-level BPE and SentencePiece map every token to bytes
//! independently of its neighbours, so the text of ids is that of their concatenated
//! bytes. For other decoders, which no supported model uses, the last tokens are decoded
//! repeatedly.

use tokenizers::normalizers::replace::Replace;
use tokenizers::{Decoder, DecoderWrapper};

use super::{Tokenizer, TokenizerError};

/// The replacement for bytes that are not UTF-8.
const BROKEN: char = char::REPLACEMENT_CHARACTER;

/// Decodes ids one by one and returns only whole characters: bytes are held back until
/// their character is complete.
///
/// The concatenated output is the text of all ids ([`Tokenizer::decode`]) without its
/// longest common prefix with the text of the ids before the stream
/// ([`Tokenizer::stream`]). So a character whose bytes begin before the stream and end
/// in it is returned first; one that stays incomplete was already U+FFFD before the
/// stream, and is not returned again.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    with_special: bool,
    text: Text<'a>,
}

/// Tokens to text.
enum Text<'a> {
    Bytes(Bytes<'a>),
    Window(Window<'a>),
}

impl<'a> TextStream<'a> {
    /// Returns a stream that continues `before`.
    pub(super) fn after(tokenizer: &'a Tokenizer, before: &[u32], with_special: bool) -> Self {
        let decoder = tokenizer.inner().get_decoder();
        let text = match Pieces::of(decoder) {
            Some(pieces) => Text::Bytes(Bytes::new(pieces)),
            None => Text::Window(Window::new(decoder)),
        };
        let mut stream = Self {
            tokenizer,
            with_special,
            text,
        };
        for &id in before {
            stream.push(id);
        }
        match &mut stream.text {
            Text::Bytes(bytes) => bytes.is_shown = !bytes.waiting.is_empty(),
            Text::Window(window) => window.shown = window.text(),
        }
        stream
    }

    /// Decodes the next id and returns the text that it completes, which may be empty.
    /// Special tokens, and ids without a token, have no text.
    pub fn push(&mut self, id: u32) -> String {
        let Some(token) = self.tokenizer.token(id, self.with_special) else {
            return String::new();
        };
        match &mut self.text {
            Text::Bytes(bytes) => bytes.push(&token),
            Text::Window(window) => window.push(token),
        }
    }

    /// Returns the rest of the text: an incomplete character at the end as U+FFFD.
    pub fn finish(self) -> String {
        match self.text {
            Text::Bytes(bytes) => bytes.finish(),
            Text::Window(window) => window.finish(),
        }
    }
}

impl std::fmt::Debug for TextStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextStream").finish_non_exhaustive()
    }
}

/// Returns the text of `ids`.
pub(super) fn decode(tokenizer: &Tokenizer, ids: &[u32], with_special: bool) -> String {
    let mut stream = TextStream::after(tokenizer, &[], with_special);
    if let Text::Window(window) = &stream.text {
        let tokens = ids
            .iter()
            .filter_map(|id| tokenizer.token(*id, with_special));
        return text_of(window.decoder, &tokens.collect::<Vec<_>>());
    }
    let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
    text += &stream.finish();
    text
}

/// Returns the bytes that a token adds in the middle of a text: incomplete characters, too.
/// `None` if the decoder does not tell.
pub(super) fn bytes(decoder: Option<&DecoderWrapper>, token: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    Pieces::of(decoder)?.append(token, &mut bytes);
    Some(bytes)
}

/// Returns whether every token is a sequence of bytes, in a text's beginning, too.
#[cfg(feature = "grammar")]
pub(super) fn is_byte_level(decoder: Option<&DecoderWrapper>) -> bool {
    matches!(Pieces::of(decoder), Some(Pieces::ByteLevel))
}

/// Rejects decoders that strip characters from the end of tokens: `tokenizers` 0.23
/// panics if a token has fewer.
pub(super) fn check_decoder(decoder: Option<&DecoderWrapper>) -> Result<(), TokenizerError> {
    match decoder {
        Some(DecoderWrapper::Sequence(steps)) => {
            (steps.get_decoders().iter()).try_for_each(|step| check_decoder(Some(step)))
        }
        Some(DecoderWrapper::Strip(strip)) if strip.stop > 0 => Err(TokenizerError::Unsupported {
            key: "decoder in tokenizer.json",
            found: format!("Strip with stop {}", strip.stop),
            supported: "Strip with stop 0".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Decoders that map a token to bytes independently of its neighbours.
enum Pieces<'a> {
    /// One character per byte; tokens with other characters are text.
    ByteLevel,
    /// Text, or one byte as `<0x0A>`.
    SentencePiece {
        /// Replacements in every token, such as `▁` by a space.
        replacements: Vec<&'a Replace>,
        has_bytes: bool,
        /// A character to strip at the beginning of texts, and its maximum count.
        strip: Option<LeadingStrip>,
    },
}

/// A character that texts lose at their beginning.
#[derive(Clone, Copy)]
struct LeadingStrip {
    content: u8,
    /// How often at most.
    n_times: usize,
}

impl<'a> Pieces<'a> {
    fn of(decoder: Option<&'a DecoderWrapper>) -> Option<Self> {
        let steps = match decoder? {
            DecoderWrapper::Sequence(steps) => steps.get_decoders(),
            decoder => std::slice::from_ref(decoder),
        };
        if let [DecoderWrapper::ByteLevel(_)] = steps {
            return Some(Self::ByteLevel);
        }
        let (mut replacements, mut has_bytes, mut is_fused, mut strip) =
            (Vec::new(), false, false, None);
        for step in steps {
            match step {
                DecoderWrapper::Replace(replace) if !has_bytes && !is_fused => {
                    replacements.push(replace);
                }
                DecoderWrapper::ByteFallback(_) if !has_bytes && !is_fused => has_bytes = true,
                DecoderWrapper::Fuse(_) if strip.is_none() => is_fused = true,
                DecoderWrapper::Strip(step)
                    if is_fused && strip.is_none() && step.content.is_ascii() =>
                {
                    strip = Some(LeadingStrip {
                        content: step.content as u8,
                        n_times: step.start,
                    });
                }
                _ => return None,
            }
        }
        Some(Self::SentencePiece {
            replacements,
            has_bytes,
            strip,
        })
    }

    /// Appends the bytes of a token.
    fn append(&self, token: &str, bytes: &mut Vec<u8>) {
        let (replacements, has_bytes) = match self {
            Self::ByteLevel => {
                let length = bytes.len();
                for c in token.chars() {
                    let Some(byte) = byte_of(c) else {
                        bytes.truncate(length);
                        bytes.extend_from_slice(token.as_bytes());
                        return;
                    };
                    bytes.push(byte);
                }
                return;
            }
            Self::SentencePiece {
                replacements,
                has_bytes,
                ..
            } => (replacements, *has_bytes),
        };
        let token = replacements
            .iter()
            .fold(token.to_owned(), |token, replace| {
                // If the pattern fails, the token is unchanged.
                let replaced = replace.decode_chain(vec![token.clone()]);
                replaced.map_or(token, |replaced| replaced.concat())
            });
        let byte = (token.strip_prefix("<0x"))
            .and_then(|rest| rest.strip_suffix('>'))
            .filter(|digits| has_bytes && digits.len() == 2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(token.as_bytes()),
        }
    }
}

/// Returns the byte of a character in byte-level vocabularies: printable characters map
/// to themselves; the other bytes are numbered from U+0100 on.
pub(super) fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The bytes of tokens, as text.
struct Bytes<'a> {
    pieces: Pieces<'a>,
    /// Number of characters that may still be stripped at the beginning.
    n_strip: usize,
    /// An incomplete character.
    waiting: Vec<u8>,
    /// Whether the incomplete character was already in the previous text, as U+FFFD.
    is_shown: bool,
}

impl<'a> Bytes<'a> {
    fn new(pieces: Pieces<'a>) -> Self {
        let n_strip = match pieces {
            Pieces::SentencePiece {
                strip: Some(strip), ..
            } => strip.n_times,
            _ => 0,
        };
        Self {
            pieces,
            n_strip,
            waiting: Vec::new(),
            is_shown: false,
        }
    }

    fn push(&mut self, token: &str) -> String {
        let from = self.waiting.len();
        self.pieces.append(token, &mut self.waiting);
        if let Pieces::SentencePiece {
            strip: Some(LeadingStrip { content, .. }),
            ..
        } = self.pieces
        {
            while self.n_strip > 0 && self.waiting.len() > from {
                if self.waiting[from] == content {
                    self.waiting.remove(from);
                    self.n_strip -= 1;
                } else {
                    self.n_strip = 0;
                }
            }
        }
        let mut text = take_complete(&mut self.waiting);
        if self.is_shown && !text.is_empty() {
            self.is_shown = false;
            if text.starts_with(BROKEN) {
                text.remove(0);
            }
        }
        text
    }

    fn finish(self) -> String {
        let has_rest = !self.waiting.is_empty() && !self.is_shown;
        if has_rest {
            BROKEN.into()
        } else {
            String::new()
        }
    }
}

/// Removes and returns the text of all bytes except an incomplete character at the end.
/// Bytes that are not UTF-8 become U+FFFD, as in `String::from_utf8_lossy`.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut n_taken = 0;
    for chunk in bytes.utf8_chunks() {
        text += chunk.valid();
        n_taken += chunk.valid().len();
        let invalid = chunk.invalid();
        let is_incomplete = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
        if is_incomplete && n_taken + invalid.len() == bytes.len() {
            break;
        }
        if !invalid.is_empty() {
            text.push(BROKEN);
        }
        n_taken += invalid.len();
    }
    bytes.drain(..n_taken);
    text
}

/// Maximum number of tokens that are decoded repeatedly.
const WINDOW: usize = 64;
/// Number of tokens kept when the window moves: decoders depend on the previous token.
const CONTEXT: usize = 8;

/// The last tokens, and the length of their text already returned.
struct Window<'a> {
    decoder: Option<&'a DecoderWrapper>,
    tokens: Vec<String>,
    shown: String,
}

impl<'a> Window<'a> {
    fn new(decoder: Option<&'a DecoderWrapper>) -> Self {
        Self {
            decoder,
            tokens: Vec::new(),
            shown: String::new(),
        }
    }

    fn text(&self) -> String {
        text_of(self.decoder, &self.tokens)
    }

    fn push(&mut self, token: String) -> String {
        self.tokens.push(token);
        let text = self.text();
        // An incomplete character at the end may be completed.
        let ready = text.trim_end_matches(BROKEN);
        let new = self.show(ready);
        if self.tokens.len() >= WINDOW && ready.len() == text.len() {
            self.tokens.drain(..WINDOW - CONTEXT);
            self.shown = self.text();
        }
        new
    }

    fn finish(mut self) -> String {
        let text = self.text();
        self.show(&text)
    }

    /// Returns the new part of a text.
    fn show(&mut self, text: &str) -> String {
        let same = self.shown.chars().zip(text.chars());
        let same = same.take_while(|(shown, c)| shown == c);
        let new = &text[same.map(|(c, _)| c.len_utf8()).sum()..];
        if !new.is_empty() {
            text.clone_into(&mut self.shown);
        }
        new.to_owned()
    }
}

/// Returns the decoded text of tokens; without a decoder they are joined as words.
fn text_of(decoder: Option<&DecoderWrapper>, tokens: &[String]) -> String {
    match decoder {
        // Some decoders panic without tokens.
        _ if tokens.is_empty() => String::new(),
        None => tokens.join(" "),
        // If the pattern fails, the tokens are unchanged.
        Some(decoder) => (decoder.decode(tokens.to_vec())).unwrap_or_else(|_| tokens.concat()),
    }
}
