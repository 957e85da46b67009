//! Commands of the workspace's own programs that documents and tests show, and what documents
//! say of them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use pulldown_cmark::{Event, Parser, Tag, TagEnd};

use crate::flow::claims::{Document, Number};
use crate::policy::{Bytes, Span};

/// A command that is shown somewhere.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mention {
    /// Where: `README.md:12`.
    pub(super) place: String,
    /// The document.
    pub(super) document: String,
    /// Program and arguments.
    pub(super) words: Vec<String>,
    /// What a sentence says of it.
    pub(super) statement: Option<Statement>,
}

/// What a sentence says of a command.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Statement {
    /// It holds no more memory than that.
    Memory(Bytes),
    /// It takes no longer than that.
    Time(Span),
    /// It prints a text with one number in it.
    Prints {
        /// The text.
        text: String,
        /// The number.
        value: f64,
        /// The words of the document around the number, with `{}` in its place.
        around: String,
    },
}

/// Words before a number that make it a bound.
const BOUND_WORDS: [&str; 13] = [
    "below",
    "under",
    "at most",
    "less than",
    "no more than",
    "within",
    "up to",
    "peaks at",
    "needs",
    "uses",
    "takes",
    "max",
    "≤",
];

/// Words that say what a command prints.
const PRINT_WORDS: [&str; 6] = ["prints", "outputs", "reports", "says", "answers", "returns"];

/// The commands of a document that run one of the `programs`.
pub(super) fn in_document(document: &Document, programs: &BTreeSet<String>) -> Vec<Mention> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (event, at) in Parser::new(&document.text).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(_)) => in_block = true,
            Event::End(TagEnd::CodeBlock) => in_block = false,
            Event::Text(_) if in_block => {
                let mut start = at.start;
                for line in document.text[at].split_inclusive('\n') {
                    let words = words_of(line, programs);
                    found.extend(words.map(|words| mention(document, start, words, None)));
                    start += line.len();
                }
            }
            Event::Code(code) => {
                if let Some(words) = words_of(&code, programs) {
                    let said = statement(&document.text, &at);
                    found.push(mention(document, at.start, words, said));
                }
            }
            _ => {}
        }
    }
    found
}

fn mention(
    document: &Document,
    at: usize,
    words: Vec<String>,
    statement: Option<Statement>,
) -> Mention {
    Mention {
        place: format!("{}:{}", document.path, document.line(at)),
        document: document.path.clone(),
        words,
        statement,
    }
}

/// The words of a line that runs one of the programs, directly or through `cargo run`, and
/// nothing that only a shell understands, or that stands for something else.
fn words_of(line: &str, programs: &BTreeSet<String>) -> Option<Vec<String>> {
    let line = line.trim().trim_start_matches("$ ");
    let line = line.split(" #").next().unwrap_or(line);
    let is_plain = !line.contains(|c: char| "|&;<>$*?(){}[]~`\\…".contains(c));
    let words = shlex::split(line).filter(|_| is_plain && !line.contains("..."))?;
    let is_placeholder =
        |word: &String| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    if words.iter().any(is_placeholder) {
        return None;
    }
    let (first, rest) = words.split_first()?;
    if first == "cargo" && rest.first().is_some_and(|word| word == "run") {
        return words_of_cargo_run(&rest[1..], programs);
    }
    let is_path = ["", "./", "target/release/", "./target/release/"];
    let name = is_path.iter().find_map(|path| {
        let name = first.strip_prefix(path)?;
        programs.get(name)
    })?;
    Some([std::slice::from_ref(name), rest].concat())
}

fn words_of_cargo_run(words: &[String], programs: &BTreeSet<String>) -> Option<Vec<String>> {
    let end = words.iter().position(|word| word == "--");
    let (flags, arguments) = match end {
        Some(end) => (&words[..end], &words[end + 1..]),
        None => (words, &[][..]),
    };
    let after = |names: &[&str]| {
        let at = flags
            .iter()
            .position(|flag| names.contains(&flag.as_str()))?;
        flags.get(at + 1)
    };
    if flags.iter().any(|flag| flag == "--example") {
        return None;
    }
    let named = after(&["--bin"]).or_else(|| after(&["-p", "--package"]));
    let program = match named {
        Some(name) => programs.get(name),
        None if programs.len() == 1 => programs.first(),
        None => None,
    };
    Some([&[program?.clone()], arguments].concat())
}

/// What the rest of a sentence says of the command in the code at a place.
fn statement(text: &str, code: &Range<usize>) -> Option<Statement> {
    let rest = &text[code.end..];
    let ends = [". ", ".\n", "; ", "\n\n", "\n- ", "|"];
    let end = ends.iter().filter_map(|end| rest.find(end)).min();
    let end = code.end + end.unwrap_or(rest.len());
    let sentence = code.end..end;
    printed(text, code, &sentence).or_else(|| bound(text, &sentence))
}

/// `prints` and a text with one number, in code or without.
fn printed(text: &str, code: &Range<usize>, sentence: &Range<usize>) -> Option<Statement> {
    let said = &text[sentence.clone()];
    let verb = said.trim_start().split(' ').next()?;
    if !PRINT_WORDS.contains(&verb) {
        return None;
    }
    let after = sentence.start + said.find(verb)? + verb.len() + 1;
    let quoted = text.get(after..sentence.end)?.strip_prefix('`');
    let quoted = quoted.and_then(|quoted| Some(after + 1..after + 1 + quoted.find('`')?));
    let part = quoted.clone().unwrap_or(after..sentence.end);
    let numbers = Number::all(text, part.clone());
    let [number] = numbers.as_slice() else {
        return None;
    };
    // The words around it end with the quotation.
    let (shown, end) = match quoted {
        Some(quoted) => (quoted.clone(), quoted.end + 1),
        None => (number.at.clone(), number.at.end),
    };
    let before = &text[code.start..number.at.start];
    let behind = &text[number.at.end..end];
    let around = format!("{before}{{}}{behind}");
    (!around.contains('\n')).then(|| Statement::Prints {
        text: text[shown].to_owned(),
        value: number.value,
        around,
    })
}

/// A bound of memory or time.
fn bound(text: &str, sentence: &Range<usize>) -> Option<Statement> {
    Number::all(text, sentence.clone())
        .into_iter()
        .find_map(|number| {
            let before = text[sentence.start..number.at.start].to_lowercase();
            if !BOUND_WORDS.iter().any(|word| before.contains(word)) {
                return None;
            }
            let unit = text[number.at.end..sentence.end].trim_start_matches([' ', '\u{a0}']);
            let unit: String = unit.chars().take_while(|c| c.is_alphabetic()).collect();
            if let Ok(bytes) = format!("{} {unit}", number.value).parse::<Bytes>() {
                return Some(Statement::Memory(bytes));
            }
            let seconds = match unit.as_str() {
                "ms" | "milliseconds" => number.value / 1e3,
                "s" | "second" | "seconds" => number.value,
                "minute" | "minutes" => number.value * 60.0,
                _ => return None,
            };
            let millis = Duration::from_millis((seconds * 1e3).round() as u64);
            Some(Statement::Time(Span(millis)))
        })
}

/// The commands that the source of tests runs: `CARGO_BIN_EXE_name` and literal arguments.
pub(super) fn in_source(path: &str, text: &str, programs: &BTreeSet<String>) -> Vec<Mention> {
    const MARK: &str = "CARGO_BIN_EXE_";
    let mut found = Vec::new();
    for (at, _) in text.match_indices(MARK) {
        let rest = &text[at + MARK.len()..];
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let statement = rest.split(';').next().unwrap_or_default();
        if let (Some(name), Some(arguments)) = (programs.get(name), literal_arguments(statement)) {
            let line = text[..at].matches('\n').count() + 1;
            found.push(Mention {
                place: format!("{path}:{line}"),
                document: path.to_owned(),
                words: [vec![name.clone()], arguments].concat(),
                statement: None,
            });
        }
    }
    found
}

/// The arguments of `.arg("…")` and `.args(["…", "…"])`; `None` if one is no plain literal.
fn literal_arguments(statement: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for call in statement.split(".arg").skip(1) {
        let call = call.strip_prefix('s').unwrap_or(call);
        let mut rest = call.strip_prefix('(')?;
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || "&[],".contains(c));
            if rest.starts_with(')') {
                break;
            }
            let (literal, after) = rest.strip_prefix('"')?.split_once('"')?;
            if literal.contains('\\') {
                return None;
            }
            found.push(literal.to_owned());
            rest = after;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs() -> BTreeSet<String> {
        BTreeSet::from(["app".to_owned()])
    }

    fn found(text: &str) -> Vec<(String, Option<Statement>)> {
        let document = Document::read("README.md", text.to_owned());
        let found = in_document(&document, &programs());
        let shown = found.into_iter().map(|m| (m.words.join(" "), m.statement));
        shown.collect()
    }

    #[test]
    fn commands_are_told_from_what_only_a_shell_understands() {
        let text = "Run `app load 5` or `other x`.\n\n```console\n$ app check --all  # all of it\n\
                    $ app FILE\n$ app a | wc\n$ cargo run --release -- load 7\n$ cargo test\n\
                    $ ./target/release/app 1\n```\n";
        let words: Vec<String> = found(text).into_iter().map(|(words, _)| words).collect();
        assert_eq!(
            words,
            ["app load 5", "app check --all", "app load 7", "app 1"]
        );
    }

    #[test]
    fn sentences_bound_memory_and_time_and_say_what_is_printed() {
        let said = |text: &str| found(text).remove(0).1;
        let memory = Statement::Memory(Bytes(38 << 20));
        assert_eq!(said("`app load 5` peaks below 38 MiB."), Some(memory));
        let time = Statement::Time(Span(Duration::from_millis(1500)));
        assert_eq!(said("`app` takes at most 1.5 s here"), Some(time));
        assert_eq!(
            said("So `app selfcheck` prints `checksum 4096`. It has 5 MiB."),
            Some(Statement::Prints {
                text: "checksum 4096".to_owned(),
                value: 4096.0,
                around: "`app selfcheck` prints `checksum {}`".to_owned(),
            })
        );
        let bare = said("`app` prints 12 lines.").expect("a statement");
        assert!(matches!(bare, Statement::Prints { text, .. } if text == "12"));
        assert_eq!(said("`app` is fast. 38 MiB is below 40 MiB."), None);
        assert_eq!(said("`app` has 38 MiB."), None);
    }

    #[test]
    fn tests_show_commands_with_literal_arguments() {
        let text = r#"
            Command::new(env!("CARGO_BIN_EXE_app")).args(["load", "5"]).arg("-v").output();
            Command::new(env!("CARGO_BIN_EXE_app")).arg(path).output();
            Command::new(env!("CARGO_BIN_EXE_other")).arg("x").output();
        "#;
        let found = in_source("tests/it.rs", text, &programs());
        let shown: Vec<String> = found.iter().map(|m| m.words.join(" ")).collect();
        assert_eq!(shown, ["app load 5 -v"]);
        assert_eq!(found[0].place, "tests/it.rs:2");
    }
}
