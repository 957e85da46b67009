//! Answers that were computed before. A request whose tokens are determined, by a seed or
//! greedy sampling, gets the same ones again without computing them.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hashlink::LinkedHashMap;
use sha2::{Digest, Sha256};

use crate::job::{JobEvent, JobHandle, TextEvent, Timings};

/// A hash of all that the texts of a request depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// Returns the key of a description. No two requests have the same by chance, nor can one
    /// be made that has the key of another.
    pub fn of(description: &[u8]) -> Self {
        Self(Sha256::digest(description).into())
    }
}

/// What happened to the texts of a request.
type Answer = Arc<[JobEvent]>;

/// Answers by their key, within a limit of memory: those that were asked for last.
#[derive(Debug)]
pub struct ResponseCache {
    max_bytes: usize,
    answers: Mutex<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    n_bytes: usize,
    /// In the order in which they were asked for, with their size.
    by_key: LinkedHashMap<Key, (Answer, usize)>,
}

impl ResponseCache {
    /// Returns a cache for about so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            answers: Mutex::default(),
        }
    }

    /// Returns the answer to a request that was asked before.
    pub fn get(&self, key: &Key) -> Option<TextEvents> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, _) = answers.by_key.to_back(key)?;
        Some(TextEvents::Recorded {
            answer: Arc::clone(answer),
            n_read: 0,
        })
    }

    fn insert(&self, key: Key, answer: Vec<JobEvent>) {
        let n_bytes = answer.iter().map(n_bytes).sum();
        if n_bytes > self.max_bytes {
            return;
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.n_bytes += n_bytes;
        let before = answers.by_key.insert(key, (answer.into(), n_bytes));
        answers.n_bytes -= before.map_or(0, |(_, n_bytes)| n_bytes);
        while answers.n_bytes > self.max_bytes
            && let Some((_, (_, n_bytes))) = answers.by_key.pop_front()
        {
            answers.n_bytes -= n_bytes;
        }
    }
}

/// Returns the memory of an event.
fn n_bytes(event: &JobEvent) -> usize {
    let scored = |scored: &[bitnet_inference::TokenLogprobs]| {
        let tops = scored.iter().map(|one| size_of_val(&one.top[..]));
        size_of_val(scored) + tops.sum::<usize>()
    };
    size_of::<JobEvent>()
        + match &event.event {
            TextEvent::PromptLogprobs(logprobs) => scored(logprobs),
            TextEvent::Tokens {
                text,
                tokens,
                logprobs,
            } => text.len() + size_of_val(&tokens[..]) + scored(logprobs),
            TextEvent::Finished {
                text, stop, end, ..
            } => {
                let stop = stop.as_ref().map_or(0, String::len);
                text.len() + stop + scored(end.as_slice())
            }
            _ => 0,
        }
}

/// The events of the texts of a request.
#[derive(Debug)]
pub enum TextEvents {
    /// They are computed.
    Computed {
        handle: JobHandle,
        /// If they shall be known the next time.
        recording: Option<Recording>,
    },
    /// They were computed before.
    Recorded { answer: Answer, n_read: usize },
}

impl TextEvents {
    /// Returns the next event; `None` if there is none.
    pub async fn next(&mut self) -> Option<JobEvent> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for the next event.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<JobEvent>> {
        match self {
            Self::Recorded { answer, n_read } => {
                let event = answer.get(*n_read).cloned();
                *n_read += 1;
                Poll::Ready(event)
            }
            Self::Computed { handle, recording } => {
                let event = handle.poll_next(cx);
                if let Poll::Ready(Some(event)) = &event {
                    *recording = recording.take().and_then(|before| before.add(event));
                }
                event
            }
        }
    }
}

/// An answer while it is computed.
#[derive(Debug)]
pub struct Recording {
    key: Key,
    cache: Arc<ResponseCache>,
    events: Vec<JobEvent>,
    n_left: usize,
}

impl Recording {
    /// Returns the recording of a request for so many texts.
    pub fn new(cache: &Arc<ResponseCache>, key: Key, n_texts: usize) -> Self {
        Self {
            key,
            cache: Arc::clone(cache),
            events: Vec::new(),
            n_left: n_texts,
        }
    }

    /// Adds an event. Returns `None` if nothing more is recorded: all texts have ended, and
    /// are kept, or one failed.
    fn add(mut self, event: &JobEvent) -> Option<Self> {
        let JobEvent { index, mut event } = event.clone();
        match &mut event {
            TextEvent::Failed(_) | TextEvent::Refused { .. } => return None,
            TextEvent::Finished { usage, timings, .. } => {
                // When it is read, nothing is computed.
                usage.n_cached = usage.n_prompt;
                *timings = Timings::default();
                self.n_left -= 1;
            }
            _ => {}
        }
        self.events.push(JobEvent { index, event });
        if self.n_left > 0 {
            return Some(self);
        }
        self.cache.insert(self.key, self.events);
        None
    }
}

#[cfg(test)]
mod tests {
    use bitnet_inference::{FinishReason, TaskUsage};

    use super::*;

    fn answer(text: &str) -> JobEvent {
        JobEvent {
            index: 0,
            event: TextEvent::Finished {
                text: text.to_owned(),
                reason: FinishReason::Eos,
                stop: None,
                end: None,
                usage: TaskUsage::default(),
                timings: Timings::default(),
            },
        }
    }

    fn record(cache: &Arc<ResponseCache>, name: &str, text: &str) {
        let recording = Recording::new(cache, Key::of(name.as_bytes()), 1);
        assert!(recording.add(&answer(text)).is_none());
    }

    fn has(cache: &ResponseCache, name: &str) -> bool {
        cache.get(&Key::of(name.as_bytes())).is_some()
    }

    #[test]
    fn the_answer_that_was_not_asked_for_the_longest_goes() {
        let one = n_bytes(&answer("text"));
        let cache = Arc::new(ResponseCache::new(2 * one));
        record(&cache, "a", "text");
        record(&cache, "b", "text");
        // The same again takes no more room.
        record(&cache, "b", "text");
        assert!(has(&cache, "b") && has(&cache, "a"));
        record(&cache, "c", "text");
        assert!(has(&cache, "a") && !has(&cache, "b") && has(&cache, "c"));
        // What is too large for all of it drives nothing out.
        record(&cache, "d", &"x".repeat(2 * one));
        assert!(has(&cache, "a") && has(&cache, "c") && !has(&cache, "d"));
        assert!(cache.answers.lock().unwrap().n_bytes <= 2 * one);
    }

    #[test]
    fn an_answer_that_failed_is_not_kept() {
        let cache = Arc::new(ResponseCache::new(1 << 20));
        let recording = Recording::new(&cache, Key::of(b"a"), 2);
        let recording = recording
            .add(&answer("one"))
            .expect("another text is to come");
        let failed = bitnet_inference::GenerateError::NoCandidate.into();
        let event = TextEvent::Failed(failed);
        assert!(recording.add(&JobEvent { index: 1, event }).is_none());
        assert!(!has(&cache, "a"));
    }
}
