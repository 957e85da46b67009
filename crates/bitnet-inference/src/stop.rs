//! Stop sequences.
//!
//! A stop sequence may span several chunks of a stream, and a chunk may contain more than
//! it. So a suffix that may begin a stop sequence is held back until further text decides.
//! The output is the text before the first occurrence, however it was chunked.

use std::sync::Arc;

/// Stop sequences: texts that end generation and are not part of the output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopSequences {
    /// None of them is empty.
    stops: Arc<[String]>,
}

/// A stop sequence is empty, so it would match immediately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stop text is empty, expected at least one character")]
pub struct EmptyStopError;

impl StopSequences {
    /// Returns a set of stop sequences. An empty set never stops or holds back text.
    ///
    /// # Errors
    ///
    /// Returns an error if one of them is empty.
    pub fn new<S: Into<String>>(
        stops: impl IntoIterator<Item = S>,
    ) -> Result<Self, EmptyStopError> {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        if stops.iter().any(String::is_empty) {
            return Err(EmptyStopError);
        }
        Ok(Self {
            stops: stops.into(),
        })
    }

    /// Returns a matcher for a new text.
    pub fn matcher(&self) -> StopMatcher {
        StopMatcher {
            stops: Arc::clone(&self.stops),
            held: String::new(),
            matched: None,
        }
    }
}

/// Searches a chunked text for stop sequences. Of several, the one that begins first ends
/// the text, independently of the chunks.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Arc<[String]>,
    /// The end of the text so far, from the first position at which an incomplete stop
    /// sequence may begin.
    held: String,
    /// Index of the stop sequence that was matched.
    matched: Option<usize>,
}

impl StopMatcher {
    /// Processes the next chunk of the text, and returns the text that certainly precedes
    /// every stop sequence; empty after a match.
    pub fn push(&mut self, text: &str) -> String {
        if self.is_stopped() {
            return String::new();
        }
        self.held += text;
        let complete = self.first_complete();
        let partial = self.first_partial();
        let end = match (complete, partial) {
            // One that begins earlier may still be completed.
            (Some((complete, _)), Some(partial)) if partial < complete => partial,
            (Some((complete, stop)), _) => {
                self.matched = Some(stop);
                complete
            }
            (None, Some(partial)) => partial,
            (None, None) => self.held.len(),
        };
        let rest = self.held.split_off(end);
        std::mem::replace(&mut self.held, rest)
    }

    /// Returns whether a stop sequence was matched.
    pub fn is_stopped(&self) -> bool {
        self.matched.is_some()
    }

    /// Ends the text. Returns the text held back, and the stop sequence that was matched.
    pub fn finish(mut self) -> (String, Option<String>) {
        let stop = |index: usize| Some(self.stops[index].clone());
        if let Some(matched) = self.matched {
            return (String::new(), stop(matched));
        }
        match self.first_complete() {
            // It was held back for an earlier one, which was not completed.
            Some((complete, matched)) => {
                let stop = stop(matched);
                self.held.truncate(complete);
                (self.held, stop)
            }
            None => (self.held, None),
        }
    }

    /// Returns the position and the index of the first stop sequence in the text held back.
    fn first_complete(&self) -> Option<(usize, usize)> {
        let stops = self.stops.iter().enumerate();
        let found = stops.filter_map(|(i, stop)| self.held.find(stop).map(|at| (at, i)));
        // Of those that begin together, the shortest is complete first, whatever the chunks.
        found.min_by_key(|&(at, i)| (at, self.stops[i].len()))
    }

    /// Returns the position from which the text held back may begin a stop sequence.
    fn first_partial(&self) -> Option<usize> {
        let longest = self.stops.iter().map(String::len).max()?;
        let first = (self.held.len() + 1).saturating_sub(longest);
        let ends = self.held.char_indices().map(|(start, _)| start);
        let mut ends = ends.skip_while(|&start| start < first);
        ends.find(|&start| {
            let end = &self.held[start..];
            let may_be = |stop: &String| stop.len() > end.len() && stop.starts_with(end);
            self.stops.iter().any(may_be)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the output chunks, including the final one, and the stop sequence that was
    /// matched.
    fn chunks(stops: &[&str], text: &[&str]) -> (Vec<String>, Option<String>) {
        let stops = StopSequences::new(stops.iter().copied()).unwrap();
        let mut matcher = stops.matcher();
        let mut out: Vec<_> = text.iter().map(|chunk| matcher.push(chunk)).collect();
        let was_stopped = matcher.is_stopped();
        let (rest, stopped) = matcher.finish();
        assert!(stopped.is_some() || !was_stopped);
        out.push(rest);
        (out, stopped)
    }

    fn check(stops: &[&str], text: &[&str], expected: &[&str], stopped: bool) {
        let (out, found) = chunks(stops, text);
        assert_eq!(
            (&out[..], found.is_some()),
            (
                &expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..],
                stopped
            )
        );
    }

    #[test]
    fn text_is_held_back_only_while_it_may_be_a_stop_text() {
        check(&[], &["a", "b"], &["a", "b", ""], false);
        check(
            &["\n\n"],
            &["a\n", "b\n", "\nc"],
            &["a", "\nb", "", ""],
            true,
        );
        check(&["\n\n"], &["a\n", "b\n"], &["a", "\nb", "\n"], false);
        check(&["stop"], &["no st", "op here"], &["no ", "", ""], true);
        check(&["stop"], &["no st", "art"], &["no ", "start", ""], false);
        // A part of the beginning begins again.
        check(&["aab"], &["aa", "ab!"], &["", "a", ""], true);
        check(&["stop"], &["stop", "ped"], &["", "", ""], true);
    }

    #[test]
    fn of_several_the_one_that_begins_first_ends_the_text() {
        check(&["b", "abc"], &["xab", "c"], &["x", "", ""], true);
        // The earlier one is not completed, so the other counts.
        check(&["b", "abc"], &["xab", "d"], &["x", "a", ""], true);
        check(&["b", "abc"], &["xab"], &["x", "a"], true);
        check(&["ab", "abc"], &["xab", "d"], &["x", "", ""], true);
        check(&["c", "b"], &["abc"], &["a", ""], true);
    }

    #[test]
    fn the_stop_text_that_was_matched_does_not_depend_on_the_chunks() {
        let stops = ["abc", "b", "ab"];
        for (text, matched) in [("xabc", Some("ab")), ("xb", Some("b")), ("xa", None)] {
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            for parts in [&[text][..], &letters] {
                assert_eq!(chunks(&stops, parts).1.as_deref(), matched, "{parts:?}");
            }
        }
    }

    #[test]
    fn characters_are_never_cut() {
        check(&["é"], &["caf", "è é"], &["caf", "è ", ""], true);
        check(
            &["🐉🐉"],
            &["a🐉", "🐊🐉", "🐉"],
            &["a", "🐉🐊", "", ""],
            true,
        );
    }

    #[test]
    fn an_empty_stop_text_is_refused() {
        assert_eq!(StopSequences::new(["a", ""]), Err(EmptyStopError));
        assert_eq!(
            StopSequences::new([] as [&str; 0]),
            Ok(StopSequences::default())
        );
    }

    proptest! {
        #[test]
        fn what_comes_out_is_the_text_before_the_first_stop_text(
            text in "[abé]{0,40}",
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            cuts in prop::collection::vec(0usize..80, 0..12),
        ) {
            let first = stops.iter().filter_map(|stop| text.find(stop)).min();
            let expected = &text[..first.unwrap_or(text.len())];

            let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| text.is_char_boundary(cut)).collect();
            cuts.sort_unstable();
            let matched = StopSequences::new(&stops).unwrap();
            let mut matcher = matched.matcher();
            let mut out = String::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                out += &matcher.push(&text[from..cut]);
                // The output never exceeds the text before a stop sequence.
                prop_assert!(expected.starts_with(&out));
                from = cut;
            }
            let (rest, stopped) = matcher.finish();
            prop_assert_eq!(out + &rest, expected);
            prop_assert_eq!(stopped.is_some(), first.is_some());
        }
    }
}
