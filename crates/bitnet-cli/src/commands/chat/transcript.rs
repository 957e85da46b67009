//! The transcript of a conversation, and its file.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use bitnet_inference::{Message, Role};

use crate::input::read_text;

/// A message with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub user: String,
    pub answer: String,
}

/// A conversation in which every message has an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    pub system: Option<String>,
    turns: Vec<Turn>,
    /// The first turn that is still part of the prompt.
    first: usize,
}

impl Transcript {
    pub fn new(system: Option<String>) -> Self {
        Self {
            system,
            ..Self::default()
        }
    }

    /// Removes everything but the system message.
    pub fn reset(&mut self) {
        *self = Self::new(self.system.take());
    }

    pub fn push(&mut self, user: &str, answer: &str) {
        self.turns.push(Turn {
            user: user.to_owned(),
            answer: answer.to_owned(),
        });
    }

    /// Removes and returns the last turn.
    pub fn pop(&mut self) -> Option<Turn> {
        let turn = self.turns.pop();
        self.first = self.first.min(self.turns.len());
        turn
    }

    /// Returns the range of turns that are part of the prompt.
    pub fn kept(&self) -> std::ops::Range<usize> {
        self.first..self.turns.len()
    }

    /// Drops the turns before `first` from the prompt, and returns their number.
    pub fn forget_before(&mut self, first: usize) -> usize {
        let before = std::mem::replace(&mut self.first, first);
        first - before
    }

    /// Returns the messages of the prompt: the system message, the turns from `first`
    /// on, and `next`.
    pub fn messages(&self, first: usize, next: Option<&str>) -> Vec<Message> {
        let system = (self.system.iter()).map(|text| Message::new(Role::System, text));
        let turns = self.turns[first..].iter().flat_map(|turn| {
            [
                Message::new(Role::User, &turn.user),
                Message::new(Role::Assistant, &turn.answer),
            ]
        });
        let next = next.map(|text| Message::new(Role::User, text));
        system.chain(turns).chain(next).collect()
    }

    /// Writes the whole conversation to a file atomically. An existing file is an error
    /// unless `replace` is set.
    ///
    /// # Errors
    ///
    /// Returns an error if the file exists or cannot be written.
    pub fn save(&self, file: &Path, replace: bool) -> anyhow::Result<()> {
        let failed = || format!("failed to write {}", file.display());
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut temporary = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
        serde_json::to_writer_pretty(&mut temporary, &self.messages(0, None))
            .with_context(failed)?;
        writeln!(temporary).with_context(failed)?;
        let persisted = if replace {
            temporary.persist(file)
        } else {
            temporary.persist_noclobber(file)
        };
        persisted
            .map_err(|error| error.error)
            .with_context(failed)?;
        Ok(())
    }

    /// Reads a conversation, and its last message if that has no answer.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or is not a conversation.
    pub fn load(file: &Path) -> anyhow::Result<(Self, Option<String>)> {
        let text = read_text(file)?;
        Self::from_json(&text).with_context(|| {
            let file = file.display();
            format!("{file} is not a conversation")
        })
    }

    fn from_json(text: &str) -> anyhow::Result<(Self, Option<String>)> {
        let messages: Vec<Message> = serde_json::from_str(text).context(
            "expected a JSON list of messages such as {\"role\": \"user\", \"content\": \"Hello\"}",
        )?;
        let mut transcript = Self::default();
        let mut open: Option<String> = None;
        for (i, Message { role, content }) in messages.into_iter().enumerate() {
            let number = i + 1;
            match (role, open.take()) {
                (Role::System, None) if i == 0 => transcript.system = Some(content),
                (Role::User, None) => open = Some(content),
                (Role::Assistant, Some(user)) => transcript.push(&user, &content),
                (Role::System, _) => {
                    anyhow::bail!("message {number} is a system message, expected it first")
                }
                (Role::User, Some(_)) => anyhow::bail!(
                    "message {number} is a user's, expected an answer to the one before"
                ),
                (Role::Assistant, None) => anyhow::bail!(
                    "message {number} is an answer, expected a user's message before it"
                ),
            }
        }
        Ok((transcript, open))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("talk.json");
        let mut transcript = Transcript::new(Some("Be \"brief\".".to_owned()));
        transcript.push("One\ntwo?", "<|im_end|>");
        transcript.push("é", "");
        transcript.save(&file, false).unwrap();
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            r#"[
  {
    "role": "system",
    "content": "Be \"brief\"."
  },
  {
    "role": "user",
    "content": "One\ntwo?"
  },
  {
    "role": "assistant",
    "content": "<|im_end|>"
  },
  {
    "role": "user",
    "content": "é"
  },
  {
    "role": "assistant",
    "content": ""
  }
]
"#
        );
        let (loaded, open) = Transcript::load(&file).unwrap();
        assert_eq!((&loaded, open), (&transcript, None));
        // An existing file is kept unless it may be replaced.
        let before = std::fs::read(&file).unwrap();
        assert!(Transcript::default().save(&file, false).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), before);
        Transcript::default().save(&file, true).unwrap();
        assert_eq!(Transcript::load(&file).unwrap().0, Transcript::default());
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_conversation_is_refused() {
        let cases = [
            ("", "expected a JSON list of messages"),
            ("{}", "expected a JSON list of messages"),
            (
                r#"[{"role": "tool", "content": "a"}]"#,
                "unknown variant `tool`",
            ),
            (r#"[{"role": "user"}]"#, "missing field `content`"),
            (
                r#"[{"role": "user", "content": [{"type": "text"}]}]"#,
                "expected a string",
            ),
            (
                r#"[{"role": "user", "content": "a", "name": "b"}]"#,
                "unknown field `name`",
            ),
            (
                r#"[{"role": "assistant", "content": "a"}]"#,
                "message 1 is an answer, expected a user's message before it",
            ),
            (
                r#"[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]"#,
                "message 2 is a user's, expected an answer to the one before",
            ),
            (
                r#"[{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]"#,
                "message 2 is a system message, expected it first",
            ),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", Transcript::from_json(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
        let open = r#"[{"role": "user", "content": "a"}]"#;
        let (transcript, open) = Transcript::from_json(open).unwrap();
        assert_eq!(
            (transcript, open.as_deref()),
            (Transcript::default(), Some("a"))
        );
    }

    #[test]
    fn the_oldest_turns_are_forgotten_and_the_system_message_is_kept() {
        let mut transcript = Transcript::new(Some("s".to_owned()));
        for (user, answer) in [("a", "b"), ("c", "d"), ("e", "f")] {
            transcript.push(user, answer);
        }
        assert_eq!(transcript.forget_before(2), 2);
        assert_eq!(transcript.kept(), 2..3);
        let messages = transcript.messages(2, Some("g"));
        let said: Vec<_> = (messages.iter())
            .map(|message| message.content.as_str())
            .collect();
        assert_eq!(said, ["s", "e", "f", "g"]);
        // Removing turns does not restore dropped ones.
        transcript.pop();
        transcript.pop();
        assert_eq!(transcript.kept(), 1..1);
        transcript.reset();
        assert_eq!(transcript, Transcript::new(Some("s".to_owned())));
    }
}
