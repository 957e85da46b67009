//! A Markdown document: its numbers, and the markers that bind them.
//!
//! A marker is an HTML comment behind a number: `11.5 MB<!-- claim: size -->`. It binds the
//! last number before it in the same paragraph, heading, list item or table cell. Numbers
//! in code cannot have one; `claims.toml` names those by the text around them.

use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::number::{Number, has_unit};

/// A document that was read.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its path from the workspace's root, with `/`.
    pub path: String,
    /// What it says.
    pub text: String,
    /// The numbers outside of code.
    pub numbers: Vec<DocumentNumber>,
    /// The markers, in order.
    pub markers: Vec<Marker>,
}

/// A number where it stands.
#[derive(Clone, Debug)]
pub struct DocumentNumber {
    /// The number.
    pub number: Number,
    /// The paragraph, heading, list item or table cell that it is in.
    block: usize,
    /// The head of its column, if it is in a table.
    pub column: Option<String>,
    /// Whether it looks like a figure of speed or memory.
    pub is_performance: bool,
}

/// A comment that binds a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Marker {
    /// Where the comment stands, in bytes.
    pub at: Range<usize>,
    /// Where what it says stands, without `claim:`.
    pub content: Range<usize>,
    /// The place of its number in [`Document::numbers`]; `None` if there is none before it.
    pub number: Option<usize>,
}

/// What a marker says of a number that claims nothing.
pub const NO_CLAIM: &str = "none";

/// Words by which the head of a column, or a sentence before a table, says that numbers
/// are about speed or memory.
const PERFORMANCE: [&str; 12] = [
    "tok/s",
    "tokens/s",
    "tokens per second",
    "per second",
    "speed",
    "time",
    "seconds",
    "latency",
    "memory",
    "throughput",
    "gb/s",
    "overhead",
];

impl Document {
    /// Reads a document.
    pub fn read(path: &str, text: String) -> Self {
        let mut reader = MarkdownReader::default();
        let parser = Parser::new_ext(&text, Options::ENABLE_TABLES).into_offset_iter();
        for (event, at) in parser {
            reader.event(&text, &event, at);
        }
        Self {
            path: path.to_owned(),
            numbers: reader.numbers,
            markers: reader.markers,
            text,
        }
    }

    /// The line of a byte, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    /// The line that a byte is in, as it is written.
    pub fn line_text(&self, at: usize) -> &str {
        let start = self.text[..at].rfind('\n').map_or(0, |end| end + 1);
        let end = self.text[at..]
            .find('\n')
            .map_or(self.text.len(), |end| at + end);
        self.text[start..end].trim()
    }

    /// The numbers whose surroundings are `before` and `after`.
    pub fn between(&self, before: &str, after: &str) -> Vec<Number> {
        let all = Number::all(&self.text, 0..self.text.len());
        let fits = |number: &Number| {
            self.text[..number.at.start].ends_with(before)
                && self.text[number.at.end..].starts_with(after)
        };
        all.into_iter().filter(fits).collect()
    }
}

#[derive(Default)]
struct MarkdownReader {
    numbers: Vec<DocumentNumber>,
    markers: Vec<Marker>,
    block: usize,
    /// How many code blocks, links' targets and the like are open.
    hidden: usize,
    /// The heads of the table's columns; `None` outside of a table.
    heads: Option<Vec<String>>,
    in_head: bool,
    column: usize,
    /// What the last paragraph said.
    said: String,
}

impl MarkdownReader {
    fn event(&mut self, text: &str, event: &Event<'_>, at: Range<usize>) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => self.hidden += 1,
            Event::End(TagEnd::CodeBlock) => self.hidden -= 1,
            Event::Start(Tag::Table(_)) => self.heads = Some(Vec::new()),
            Event::End(TagEnd::Table) => self.heads = None,
            Event::Start(Tag::TableHead) => (self.in_head, self.column) = (true, 0),
            Event::End(TagEnd::TableHead) => self.in_head = false,
            Event::Start(Tag::TableRow) => self.column = 0,
            Event::Start(Tag::TableCell) => {
                self.block += 1;
                if let (true, Some(heads)) = (self.in_head, &mut self.heads) {
                    heads.push(text[at].trim_matches(['|', ' ']).to_owned());
                }
            }
            Event::End(TagEnd::TableCell) => self.column += 1,
            Event::Start(Tag::Paragraph) => {
                self.block += 1;
                text[at].clone_into(&mut self.said);
            }
            Event::Start(Tag::Heading { .. } | Tag::Item | Tag::HtmlBlock) => self.block += 1,
            Event::Text(_) if self.hidden == 0 => self.numbers(text, at),
            Event::InlineHtml(_) | Event::Html(_) => self.comments(text, at),
            _ => {}
        }
    }

    fn numbers(&mut self, text: &str, at: Range<usize>) {
        let head = self.heads.as_ref().and_then(|heads| heads.get(self.column));
        let column = head.filter(|_| !self.in_head).cloned();
        let speaks = |words: &str| {
            let words = words.to_lowercase();
            PERFORMANCE.iter().any(|word| words.contains(word))
        };
        // In a table of bare numbers the head or the sentence before says the unit.
        let by_head = column.as_ref().is_some_and(|head| {
            speaks(head)
                || (self.column > 0 && self.said.trim_end().ends_with(':') && speaks(&self.said))
        });
        for number in Number::all(text, at) {
            let after = &text[number.at.end..];
            let unit = has_unit(after) || after.strip_prefix(' ').is_some_and(has_unit);
            let words = after.trim_start();
            let spelled = [
                "times faster",
                "times slower",
                "times as fast",
                "tokens per second",
            ]
            .iter()
            .any(|spelled| words.starts_with(spelled));
            self.numbers.push(DocumentNumber {
                block: self.block,
                column: column.clone(),
                is_performance: unit || spelled || by_head,
                number,
            });
        }
    }

    fn comments(&mut self, text: &str, at: Range<usize>) {
        let html = text[at.clone()].trim();
        let inner = html
            .strip_prefix("<!--")
            .and_then(|html| html.strip_suffix("-->"));
        let Some((before, after)) = inner.and_then(|inner| inner.split_once("claim:")) else {
            return;
        };
        if !before.trim().is_empty() {
            return;
        }
        let content = after.trim();
        let indent = after.len() - after.trim_start().len();
        let opened = text[at.start..].len() - text[at.start..].trim_start().len();
        let start = at.start + opened + "<!--".len() + before.len() + "claim:".len() + indent;
        let last = self.numbers.last().filter(|seen| seen.block == self.block);
        self.markers.push(Marker {
            content: start..start + content.len(),
            number: last.map(|_| self.numbers.len() - 1),
            at,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(text: &str) -> Vec<(f64, String)> {
        let document = Document::read("a.md", text.to_owned());
        let of = |marker: &Marker| {
            let number = &document.numbers[marker.number.expect("bound")].number;
            (
                number.value,
                document.text[marker.content.clone()].to_owned(),
            )
        };
        document.markers.iter().map(of).collect()
    }

    #[test]
    fn a_marker_binds_the_number_before_it() {
        let text = "It has 36 million parameters, 11.5 MB<!-- claim: size --> in all.\n\n\
                    - 12<!--claim: none--> things, **7** <!-- claim: b = 1 -->\n\n\
                    | a | tok/s |\n|---|---|\n| 1 | 40 <!-- claim: fast --> |\n";
        assert_eq!(
            bound(text),
            [
                (11.5, "size".to_owned()),
                (12.0, "none".to_owned()),
                (7.0, "b = 1".to_owned()),
                (40.0, "fast".to_owned()),
            ]
        );
        let alone = Document::read(
            "a.md",
            "7 things\n\nno number<!-- claim: x -->\n".to_owned(),
        );
        assert_eq!(alone.markers[0].number, None);
    }

    #[test]
    fn code_holds_no_numbers_and_tables_have_their_columns() {
        let text = "`--max 4096`\n\n```text\n99 ms\n```\n\nIn tokens per second:\n\n\
                    | model | 1 thread | decode, tok/s |\n|---|---|---|\n| tiny 3 | 60 | 78 |\n\n5 files, 30 ms\n";
        let document = Document::read("a.md", text.to_owned());
        let seen: Vec<(f64, bool)> = document
            .numbers
            .iter()
            .map(|seen| (seen.number.value, seen.is_performance))
            .collect();
        assert_eq!(
            seen,
            [
                (1.0, false),
                (3.0, false),
                (60.0, true),
                (78.0, true),
                (5.0, false),
                (30.0, true)
            ]
        );
        assert_eq!(document.between("\n", " ms\n```").len(), 1);
        assert_eq!(document.line(document.numbers[5].number.at.start), 13);
    }
}
