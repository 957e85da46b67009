//! The parts of an answer, for APIs whose answers are lists of texts and calls.

use super::super::tools::{CallFinder, CalledFunction, Piece};

/// What happens to the list of parts with a piece of text.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A text begins.
    Begin,
    /// It goes on.
    Text(String),
    /// It ends.
    End,
    Call(CalledFunction),
}

/// Divides an answer into texts and calls of tools. A blank text beside calls is no part.
#[derive(Debug)]
pub struct Parts {
    finder: CallFinder,
    /// The beginning of a text that may stay blank.
    blank: String,
    in_text: bool,
}

impl Parts {
    pub fn new(with_tools: bool) -> Self {
        Self {
            finder: CallFinder::new(with_tools),
            blank: String::new(),
            in_text: false,
        }
    }

    /// Returns whether there was a call.
    pub fn has_calls(&self) -> bool {
        self.finder.has_calls()
    }

    /// Takes the next piece of the answer.
    pub fn next(&mut self, text: &str, is_last: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        for piece in self.finder.next(text, is_last) {
            match piece {
                Piece::Text(text) if self.in_text => steps.push(Step::Text(text)),
                Piece::Text(text) => {
                    self.blank += &text;
                    if !self.blank.trim().is_empty() {
                        self.begin(&mut steps);
                    }
                }
                Piece::Call(call) => {
                    self.end(&mut steps);
                    self.blank.clear();
                    steps.push(Step::Call(call));
                }
            }
        }
        if is_last {
            if !self.in_text && !self.blank.is_empty() && !self.has_calls() {
                self.begin(&mut steps);
            }
            self.end(&mut steps);
        }
        steps
    }

    fn begin(&mut self, steps: &mut Vec<Step>) {
        self.in_text = true;
        steps.push(Step::Begin);
        steps.push(Step::Text(std::mem::take(&mut self.blank)));
    }

    fn end(&mut self, steps: &mut Vec<Step>) {
        if std::mem::take(&mut self.in_text) {
            steps.push(Step::End);
        }
    }
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    Call(CalledFunction),
}

/// Returns the parts of an answer.
pub fn parts_of(text: &str, with_tools: bool) -> Vec<Part> {
    let mut parts = Vec::new();
    for step in Parts::new(with_tools).next(text, true) {
        match (step, parts.last_mut()) {
            (Step::Begin, _) => parts.push(Part::Text(String::new())),
            (Step::Text(text), Some(Part::Text(part))) => *part += &text,
            (Step::Call(call), _) => parts.push(Part::Call(call)),
            (Step::Text(_) | Step::End, _) => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the steps of a text that comes in letters, with neighbouring texts joined.
    fn steps(text: &str) -> Vec<Step> {
        let mut parts = Parts::new(true);
        let mut joined: Vec<Step> = Vec::new();
        let letters = text.chars().map(String::from);
        let mut steps: Vec<Step> = letters.flat_map(|c| parts.next(&c, false)).collect();
        steps.extend(parts.next("", true));
        for step in steps {
            match (joined.last_mut(), step) {
                (Some(Step::Text(before)), Step::Text(text)) => *before += &text,
                (_, step) => joined.push(step),
            }
        }
        assert_eq!(joined, Parts::new(true).next(text, true));
        joined
    }

    fn text(text: &str) -> [Step; 3] {
        [Step::Begin, Step::Text(text.to_owned()), Step::End]
    }

    #[test]
    fn blank_texts_beside_calls_are_no_parts() {
        let call = "<tool_call>{\"name\": \"now\"}</tool_call>";
        let called = Step::Call(CalledFunction {
            name: "now".to_owned(),
            arguments: "{}".to_owned(),
        });
        assert_eq!(steps(" a "), text(" a "));
        assert_eq!(steps("\n"), text("\n"));
        assert_eq!(steps(""), []);
        assert_eq!(
            steps(&format!("\n{call}\n{call} ")),
            [called.clone(), called.clone()]
        );
        let expected = [&text("a\n")[..], &[called], &text(" b")].concat();
        assert_eq!(steps(&format!("a\n{call} b")), expected);
    }
}
