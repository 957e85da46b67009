//! Answers of a server.

use std::time::Instant;

use serde_json::json;

use super::transcript::Transcript;
use super::{Answer, Args, OnFull, Speaker};
use crate::client::{ClientError, RemoteText, ServerUrl};
use crate::commands::remote::{self, RemoteModel};
use crate::interrupt;
use crate::ui::Ui;

/// A model of a server.
pub struct RemoteSpeaker<'a> {
    args: &'a Args,
    model: RemoteModel,
}

impl<'a> RemoteSpeaker<'a> {
    /// Asks the server for its model.
    pub fn open(args: &'a Args, url: &ServerUrl) -> anyhow::Result<Self> {
        let model = RemoteModel::open(url, &args.model.model)?;
        Ok(Self { args, model })
    }

    /// Asks for an answer, and prints it.
    fn ask(
        &self,
        transcript: &Transcript,
        message: &str,
        retries: u64,
        ui: &Ui,
    ) -> anyhow::Result<RemoteText> {
        let args = self.args;
        let seed = args.generate.sampling.seed();
        // The same seed would give the same answer again.
        let seed = seed.map(|seed| seed.wrapping_add(retries));
        let mut request = self.model.request(&args.generate, seed);
        let first = transcript.kept().start;
        request["messages"] = json!(transcript.messages(first, Some(message)));
        if args.max_tokens != usize::MAX {
            request["max_tokens"] = args.max_tokens.into();
        }
        if let Some(variables) = &args.template.chat_template_kwargs {
            request["chat_template_kwargs"] = json!(variables);
        }
        let mut printer = remote::Printer::new(ui, !args.json, "");
        let _deferred = interrupt::Deferred::new();
        let server = &self.model.server;
        let text = server.stream("/chat/completions", &request, |piece| printer.write(piece));
        printer.finish(text.is_ok())?;
        Ok(text?)
    }
}

impl Speaker for RemoteSpeaker<'_> {
    fn answer(
        &mut self,
        transcript: &mut Transcript,
        message: &str,
        retries: u64,
        ui: &Ui,
    ) -> anyhow::Result<Answer> {
        let start = Instant::now();
        let text = loop {
            let kept = transcript.kept();
            match self.ask(transcript, message, retries, ui) {
                // Only the server knows how many tokens a turn has.
                Err(error) if is_full(&error) && self.drops() && !kept.is_empty() => {
                    let n = kept.len().div_ceil(4);
                    transcript.forget_before(kept.start + n);
                    ui.note(&format!(
                        "note: the context is full; the oldest turns are dropped ({n})"
                    ));
                }
                text => break text?,
            }
        };
        let time = start.elapsed();
        if self.args.json {
            ui.json(&remote::report(&self.model, &text))?;
        }
        let end = match text.finish_reason.as_deref() {
            None => ", stopped",
            Some("length") => ", cut off",
            Some(_) => "",
        };
        let timings = format!("[{}{end}]", remote::timings(&text, time));
        ui.detail(&timings);
        Ok(Answer {
            text: text.text,
            timings,
        })
    }
}

impl RemoteSpeaker<'_> {
    fn drops(&self) -> bool {
        self.args.on_full == OnFull::Drop
    }
}

/// Returns whether the conversation exceeds the context of the server's model.
pub fn is_full(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(ClientError::is_full)
}
