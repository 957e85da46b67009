//! Preprocessing of template source: nesting limits, and tags specific to `transformers`.

use std::borrow::Cow;

use super::ChatError;

/// Limits of tokens per tag and of nested blocks: the parser recurses over them and must
/// fit in a small stack. Published templates have up to 80 and 10.
const MAX_TAG: usize = 400;
const MAX_DEPTH: usize = 60;

/// `{% … %}` or `{{ … }}` outside of comments and raw blocks.
struct Tag<'s> {
    /// The byte offset of its first brace.
    start: usize,
    /// The text between its delimiters.
    inner: &'s str,
    is_block: bool,
    /// Strings count as one token.
    n_tokens: usize,
}

impl<'s> Tag<'s> {
    /// Returns the name of a block, and its offset in `inner`.
    fn name(&self) -> (&'s str, usize) {
        let words = self.inner.strip_prefix(['-', '+']).unwrap_or(self.inner);
        let words = words.trim_start();
        let len = words
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(words.len());
        (&words[..len], self.inner.len() - words.len())
    }

    /// Returns the text after the name, without whitespace control.
    fn arguments(&self) -> &'s str {
        let (name, at) = self.name();
        let rest = &self.inner[at + name.len()..];
        rest.strip_suffix(['-', '+']).unwrap_or(rest).trim()
    }
}

/// Returns the tags of a template, in order.
fn tags(source: &str) -> impl Iterator<Item = Tag<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(found) = source[at..].find('{') {
            let start = at + found;
            let (is_block, end) = match source.as_bytes().get(start + 1) {
                Some(b'#') => {
                    at = behind(source, start + 2, "#}");
                    continue;
                }
                Some(b'{') => (false, "}}"),
                Some(b'%') => (true, "%}"),
                _ => {
                    at = start + 1;
                    continue;
                }
            };
            let rest = &source[start + 2..];
            let (n_tokens, len) = measure_tag(rest, end);
            let inner = &rest[..len];
            at = start + 2 + len;
            let tag = Tag {
                start,
                inner,
                is_block,
                n_tokens,
            };
            if is_block && tag.name().0 == "raw" && tag.arguments().is_empty() {
                at = behind_raw(source, at);
                continue;
            }
            return Some(tag);
        }
        None
    })
}

/// Returns the position after the next `end` from `at` on, or the end of the text.
fn behind(text: &str, at: usize, end: &str) -> usize {
    (text[at..].find(end)).map_or(text.len(), |found| at + found + end.len())
}

/// Returns the position after a raw block whose contents begin at `at`.
fn behind_raw(source: &str, mut at: usize) -> usize {
    while at < source.len() {
        at = behind(source, at, "{%");
        let words = &source[at..];
        let words = words.strip_prefix(['-', '+']).unwrap_or(words);
        if words.trim_start().starts_with("endraw") {
            return behind(source, at, "%}");
        }
    }
    at
}

/// Returns the tokens up to the end of a tag, strings counting as one, and the
/// bytes.
fn measure_tag(tag: &str, end: &str) -> (usize, usize) {
    let mut n_tokens = 0;
    let mut quote = None;
    let mut in_word = false;
    let mut escaped = false;
    for (i, c) in tag.char_indices() {
        if let Some(open) = quote {
            if !escaped && c == open {
                quote = None;
            }
            escaped = c == '\\' && !escaped;
            continue;
        }
        if tag[i..].starts_with(end) {
            return (n_tokens, i);
        }
        let is_word = c.is_alphanumeric() || c == '_';
        if !(c.is_whitespace() || is_word && in_word) {
            n_tokens += 1;
        }
        in_word = is_word;
        if c == '"' || c == '\'' {
            quote = Some(c);
        }
    }
    (n_tokens, tag.len())
}

/// Returns an error for templates that nest too deeply.
pub(super) fn check_nesting(source: &str) -> Result<(), ChatError> {
    // For each open block, 1 plus the number of its `elif`s, which nest.
    let mut blocks: Vec<usize> = Vec::new();
    for tag in tags(source) {
        let too_deep = || ChatError::TooDeep {
            line: source[..tag.start].matches('\n').count() + 1,
        };
        if tag.n_tokens > MAX_TAG {
            return Err(too_deep());
        }
        if !tag.is_block {
            continue;
        }
        match tag.name().0 {
            name if name.starts_with("end") => drop(blocks.pop()),
            "elif" => blocks.last_mut().into_iter().for_each(|n| *n += 1),
            "if" | "for" | "macro" | "call" | "filter" | "block" | "with" | "autoescape" => {
                blocks.push(1);
            }
            "set" if !tag.inner.contains('=') => blocks.push(1),
            _ => {}
        }
        if blocks.iter().sum::<usize>() > MAX_DEPTH {
            return Err(too_deep());
        }
    }
    Ok(())
}

/// Returns the template with `{% generation %}` as `{% with %}`.
///
/// `transformers` uses this block to identify text generated by the model. It renders its
/// body in a new scope, as does `with`. Line numbers are preserved.
pub(super) fn without_generation(source: &str) -> Cow<'_, str> {
    let mut text = String::new();
    let mut copied = 0;
    for tag in tags(source).filter(|tag| tag.is_block && tag.arguments().is_empty()) {
        let (name, at) = tag.name();
        let known = match name {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        let start = tag.start + 2 + at;
        text += &source[copied..start];
        text += known;
        copied = start + name.len();
    }
    if copied == 0 {
        return Cow::Borrowed(source);
    }
    text += &source[copied..];
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generation_tags_are_replaced() {
        let cases = [
            (
                "{% generation %}a{% endgeneration %}",
                "{% with %}a{% endwith %}",
            ),
            (
                "{%- generation -%}\n{%+endgeneration+%}",
                "{%- with -%}\n{%+endwith+%}",
            ),
            ("{%\n generation\n%}", "{%\n with\n%}"),
            (
                "{#{% generation %}#}{% generation %}",
                "{#{% generation %}#}{% with %}",
            ),
            (
                "{% raw %}{% generation %}{%- endraw -%}{% generation %}",
                "{% raw %}{% generation %}{%- endraw -%}{% with %}",
            ),
        ];
        for (source, expected) in cases {
            assert_eq!(without_generation(source), expected);
        }
        let same = [
            "{{ '{% generation %}' }}",
            "{% set x = \"{% generation %}\" %}",
            "{% if generation %}{% endif %}",
            "{% generation of %}",
            "{% generations %}",
            "{{ generation }} generation {% raw %}{% generation %}",
            "{#",
            "{% raw %}",
            "{%",
        ];
        for source in same {
            assert!(matches!(without_generation(source), Cow::Borrowed(text) if text == source));
        }
    }
}
