//! Counts for how many JSON schemas exactly the valid instances are accepted, with the
//! tokens of the built-in model. `scripts/test-schemas` runs it.
//!
//! Reads lines `{"name": …, "schema": …, "tests": [{"valid": true, "data": …}, …]}` from
//! stdin, and prints one line of JSON per schema.
#![expect(clippy::print_stdout, reason = "it is a program")]

use std::io::BufRead;
use std::sync::Arc;
use std::time::Instant;

use bitnet_inference::{Constraint, Grammar, GrammarCompiler, TokenSet, Tokenizer, builtin};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Case {
    name: String,
    schema: Value,
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    valid: bool,
    data: Value,
}

/// Whether a text is accepted token by token, up to its end.
fn accepts(
    tokenizer: &Tokenizer,
    mut constraint: Box<dyn Constraint>,
    allowed: &mut TokenSet,
    text: &str,
) -> bool {
    let Some(end) = tokenizer.eog().next() else {
        return false;
    };
    for id in tokenizer.encode_without_bos(text).unwrap_or_default() {
        let is_next = !constraint.is_complete()
            && constraint.allowed(allowed).is_ok()
            && allowed.contains(id)
            && constraint.accept(id).is_ok();
        if !is_next {
            return false;
        }
    }
    constraint.is_complete() || (constraint.allowed(allowed).is_ok() && allowed.contains(end))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let checkpoint = builtin::open();
    let tokenizer = Arc::new(Tokenizer::from_checkpoint(&checkpoint)?);
    let vocab_size = checkpoint.config().vocab_size;
    let compiler = GrammarCompiler::new(Arc::clone(&tokenizer), vocab_size)?;
    let mut allowed = TokenSet::new(vocab_size);
    for line in std::io::stdin().lock().lines() {
        let case: Case = serde_json::from_str(&line?)?;
        let start = Instant::now();
        let compiled = compiler.compile(&Grammar::JsonSchema(case.schema));
        let compile_ms = start.elapsed().as_millis() as u64;
        let result = match compiled {
            Err(error) => json!({
                "name": case.name,
                "refused": error.to_string(),
                "compile_ms": compile_ms,
            }),
            Ok(compiled) => {
                let (mut missed, mut wrong) = (0, 0);
                for test in &case.tests {
                    let text = test.data.to_string();
                    let constraint = compiled.constraint();
                    let accepted = accepts(&tokenizer, constraint, &mut allowed, &text);
                    missed += usize::from(test.valid && !accepted);
                    wrong += usize::from(!test.valid && accepted);
                }
                json!({
                    "name": case.name,
                    "tests": case.tests.len(),
                    "valid_refused": missed,
                    "invalid_accepted": wrong,
                    "compile_ms": compile_ms,
                    "ms": start.elapsed().as_millis() as u64,
                })
            }
        };
        println!("{result}");
    }
    Ok(())
}
