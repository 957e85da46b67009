//! Texts that follow a JSON schema, a regular expression or a grammar.
//!
//! The grammar is followed by `llguidance`: at each position it says which tokens may come
//! next. What it cannot follow exactly is an error of compilation, never a text without
//! limits.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;
use toktrie::{InferenceCapabilities, SimpleVob, TokRxInfo, TokTrie, TokenizerEnv};

use crate::constraint::{Constraint, ConstraintError, Grammar};
use crate::token_set::TokenSet;
use crate::tokenizer::Tokenizer;

/// Whitespace between the parts of a JSON text: a space, or a line break and an indentation.
/// With any whitespace, models that were trained on prose write little else.
const JSON_WHITESPACE: &str = r" ?|\r?\n[ \t]{0,32}";

/// Limits of compilation and of each step. In a step the fuel is about 14 ms.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    // Of one or two kilobytes each.
    max_lexer_states: 50_000,
    max_grammar_size: 500_000,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

/// Compiles grammars for the vocabulary of a model.
pub struct GrammarCompiler {
    factory: ParserFactory,
    /// The tokens that are whitespace or end a text.
    blank: Arc<SimpleVob>,
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

/// A grammar that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// The vocabulary cannot be used: it has no token that ends a text.
    #[error("the model has no token that ends a text, so no grammar can be followed")]
    NoEnd,
    /// The vocabulary cannot be prepared.
    #[error("the vocabulary cannot be used for grammars: {message}")]
    Vocabulary {
        /// Why.
        message: String,
    },
    /// The grammar is wrong, too large, or asks for something that is not supported.
    #[error("the {kind} cannot be followed: {message}")]
    Compile {
        /// "JSON schema", "regular expression" or "grammar".
        kind: &'static str,
        /// Why.
        message: String,
    },
}

impl GrammarCompiler {
    /// Returns a compiler for the tokens of a model with this vocabulary size.
    ///
    /// # Errors
    ///
    /// Returns an error if no token ends a text, or the vocabulary cannot be prepared.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab_size: usize) -> Result<Self, GrammarError> {
        let ends: Vec<u32> = tokenizer
            .eog()
            .filter(|id| (*id as usize) < vocab_size)
            .collect();
        let &[end, ..] = &ends[..] else {
            return Err(GrammarError::NoEnd);
        };
        let words: Vec<Vec<u8>> = (0..vocab_size as u32)
            .map(|id| tokenizer.grammar_bytes(id, TokTrie::SPECIAL_TOKEN_MARKER))
            .collect();
        let info = TokRxInfo::new(vocab_size as u32, end);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
        let mut blank = trie.eos_token_set();
        for (id, word) in (0..).zip(&words) {
            if !word.is_empty() && word.iter().all(|byte| b" \t\r\n".contains(byte)) {
                blank.allow_token(id);
            }
        }
        let vocabulary = Arc::new(Vocabulary { tokenizer, trie });
        let caps = InferenceCapabilities {
            ff_tokens: true,
            ..InferenceCapabilities::default()
        };
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let env: toktrie::TokEnv = vocabulary;
        let mut factory =
            ParserFactory::new(&env, caps, &slices).map_err(|error| GrammarError::Vocabulary {
                message: error.to_string(),
            })?;
        factory.quiet();
        *factory.limits_mut() = LIMITS;
        Ok(Self {
            factory,
            blank: Arc::new(blank),
        })
    }

    /// Compiles a grammar. This may take some seconds, but is limited.
    ///
    /// # Errors
    ///
    /// Returns an error if the grammar is wrong, too large, or asks for something that is
    /// not supported.
    pub fn compile(&self, grammar: &Grammar) -> Result<CompiledGrammar, GrammarError> {
        let (kind, grammar) = match grammar {
            Grammar::JsonSchema(schema) => {
                let schema = with_whitespace(schema.clone());
                ("JSON schema", TopLevelGrammar::from_json_schema(schema))
            }
            Grammar::Regex(regex) => ("regular expression", TopLevelGrammar::from_regex(regex)),
            Grammar::Lark(lark) => ("grammar", TopLevelGrammar::from_lark(lark.clone())),
        };
        let error = |message: String| GrammarError::Compile {
            kind,
            message: what_is_wrong(&message),
        };
        let parser = self.factory.create_parser(grammar);
        let mut matcher = Matcher::new(parser);
        if let Some(message) = matcher.get_error() {
            return Err(error(message));
        }
        // A grammar without any text is an error now and not at the first token.
        let mask = matcher.compute_mask().map_err(|e| error(e.to_string()))?;
        if mask.is_zero() {
            return Err(error("it allows no text".to_owned()));
        }
        Ok(CompiledGrammar {
            matcher,
            blank: Arc::clone(&self.blank),
        })
    }
}

/// A grammar at the beginning of a text.
pub struct CompiledGrammar {
    matcher: Matcher,
    blank: Arc<SimpleVob>,
}

impl CompiledGrammar {
    /// Returns the constraint of a new text.
    pub fn constraint(&self) -> Box<dyn Constraint> {
        Box::new(Follower {
            matcher: self.matcher.deep_clone(),
            blank: Arc::clone(&self.blank),
            is_complete: false,
        })
    }
}

impl fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledGrammar").finish_non_exhaustive()
    }
}

/// Limits the whitespace of a schema, unless it says itself what it wants.
fn with_whitespace(mut schema: Value) -> Value {
    const OPTIONS: &str = "x-guidance";
    if schema == Value::Bool(true) {
        schema = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(map) = &mut schema
        && !map.contains_key(OPTIONS)
    {
        let options = serde_json::json!({ "whitespace_pattern": JSON_WHITESPACE });
        map.insert(OPTIONS.to_owned(), options);
    }
    schema
}

/// The tokens of a model as `llguidance` wants them.
struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let encoded = |text: &str| {
            let ids = self.tokenizer.encode_without_bos(text).ok()?;
            // A spelling of a special token is text here.
            let is_text = !ids.iter().any(|&id| self.trie.is_special_token(id));
            is_text.then_some(ids)
        };
        let whole = self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            encoded(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()))
        });
        if self.tokenize_is_canonical() {
            whole
        } else {
            self.trie.greedy_tokenize(bytes)
        }
    }

    /// SentencePiece adds a space to the beginning of a text, so that a piece of one cannot
    /// be tokenized alone.
    fn tokenize_is_canonical(&self) -> bool {
        self.tokenizer.is_byte_level()
    }
}

/// Follows a grammar through a text.
struct Follower {
    matcher: Matcher,
    blank: Arc<SimpleVob>,
    is_complete: bool,
}

impl Follower {
    /// Ends the text if it is accepted, and could go on only with whitespace: a model that
    /// was trained on prose may never end a document by itself.
    fn end_if_complete(&mut self) -> Result<(), ConstraintError> {
        self.is_complete = self.matcher.is_stopped();
        if !self.is_complete && self.matcher.is_accepting().map_err(constraint_error)? {
            let mut mask = self.matcher.compute_mask().map_err(constraint_error)?;
            mask.sub(&self.blank);
            self.is_complete = mask.is_zero();
        }
        Ok(())
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

/// Returns the first line of an error, and the error that a regular expression has at its
/// end; the others are the state of the parser.
fn what_is_wrong(message: &str) -> String {
    let mut lines = message.lines().map(str::trim);
    let first = lines.next().unwrap_or_default().to_owned();
    match lines.find_map(|line| line.strip_prefix("error: ")) {
        Some(error) => format!("{first} {error}"),
        None => first,
    }
}

fn constraint_error(error: impl fmt::Display) -> ConstraintError {
    ConstraintError {
        message: what_is_wrong(&error.to_string()),
    }
}

impl Constraint for Follower {
    fn allowed(&mut self, allowed: &mut TokenSet) -> Result<(), ConstraintError> {
        let mask = self
            .matcher
            .compute_mask_or_eos()
            .map_err(constraint_error)?;
        allowed.set_words(mask.as_slice());
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.matcher
            .consume_token(token)
            .map_err(constraint_error)?;
        self.end_if_complete()
    }

    fn forced(&mut self) -> Result<Vec<u32>, ConstraintError> {
        let forced = self.matcher.consume_ff_tokens();
        match self.matcher.get_error() {
            Some(error) => Err(constraint_error(error)),
            None if forced.is_empty() => Ok(forced),
            None => self.end_if_complete().map(|()| forced),
        }
    }

    fn rollback(&mut self, n: usize) {
        if n > 0 {
            self.is_complete = false;
            // If it fails, the matcher says so when it is asked next.
            let _ = self.matcher.rollback(n);
        }
    }

    fn is_complete(&self) -> bool {
        self.is_complete
    }
}

#[cfg(all(test, feature = "builtin-model"))]
mod tests {
    use serde_json::json;

    use super::*;

    fn compiler() -> (Arc<Tokenizer>, GrammarCompiler) {
        let checkpoint = crate::builtin::open();
        let tokenizer = Arc::new(Tokenizer::from_checkpoint(&checkpoint).unwrap());
        let vocab_size = checkpoint.config().vocab_size;
        let compiler = GrammarCompiler::new(Arc::clone(&tokenizer), vocab_size).unwrap();
        (tokenizer, compiler)
    }

    /// Returns whether a text is accepted, token by token, to its end.
    fn accepts(grammar: &Grammar, text: &str) -> bool {
        let (tokenizer, compiler) = compiler();
        let mut constraint = compiler.compile(grammar).unwrap().constraint();
        let end = tokenizer.eog().next().unwrap();
        let mut allowed = TokenSet::new(tokenizer.n_tokens());
        for id in tokenizer.encode_without_bos(text).unwrap() {
            if constraint.is_complete() {
                return false;
            }
            constraint.allowed(&mut allowed).unwrap();
            if !allowed.contains(id) {
                return false;
            }
            constraint.accept(id).unwrap();
        }
        constraint.is_complete() || {
            constraint.allowed(&mut allowed).unwrap();
            allowed.contains(end)
        }
    }

    #[test]
    fn a_schema_accepts_its_documents_and_no_others() {
        let schema = Grammar::JsonSchema(json!({
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 1}},
            "required": ["name", "age"],
            "additionalProperties": false,
        }));
        assert!(accepts(&schema, r#"{"name": "Ann", "age": 7}"#));
        assert!(accepts(&schema, "{\n  \"name\": \"é\",\n  \"age\": 70\n}"));
        assert!(!accepts(&schema, r#"{"name": "Ann"}"#));
        assert!(!accepts(&schema, r#"{"name": "Ann", "age": 0}"#));
        assert!(!accepts(&schema, r#"{"name": "Ann", "age": 7} and more"#));
    }

    #[test]
    fn a_regular_expression_is_for_the_whole_text() {
        let regex = Grammar::Regex("(yes|no)!?".to_owned());
        assert!(accepts(&regex, "yes") && accepts(&regex, "no!"));
        assert!(!accepts(&regex, "yes, sir") && !accepts(&regex, "n"));
        let lark = Grammar::Lark("start: \"a\" | \"b\" start".to_owned());
        assert!(accepts(&lark, "a") && accepts(&lark, "bba"));
        assert!(!accepts(&lark, "bb"));
    }

    #[test]
    fn what_cannot_be_followed_is_an_error() {
        let (_, compiler) = compiler();
        let refused = |grammar: Grammar, kind: &str| {
            let compiled = compiler.compile(&grammar);
            let error = compiled.expect_err(&format!("{grammar:?}")).to_string();
            assert!(
                error.starts_with(&format!("the {kind} cannot be followed: ")),
                "{error}"
            );
        };
        for schema in [
            json!({"type": "nonsense"}),
            json!({"type": "array", "contains": {"const": 1}}),
            json!({"$ref": "https://elsewhere.example/schema"}),
            json!(false),
        ] {
            refused(Grammar::JsonSchema(schema), "JSON schema");
        }
        refused(Grammar::Regex("(".to_owned()), "regular expression");
        refused(Grammar::Lark("start: x".to_owned()), "grammar");
    }

    #[test]
    fn a_document_ends_when_it_is_complete() {
        let (tokenizer, compiler) = compiler();
        let schema = Grammar::JsonSchema(json!({"type": "array", "items": {"const": 1}}));
        let mut constraint = compiler.compile(&schema).unwrap().constraint();
        for id in tokenizer.encode_without_bos("[1]").unwrap() {
            assert!(!constraint.is_complete());
            constraint.accept(id).unwrap();
        }
        assert!(constraint.is_complete());
    }
}
