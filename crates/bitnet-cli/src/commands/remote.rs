//! Texts that a server writes: the part shared by `run --url` and `chat --url`.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::generation::GenerateArgs;
use crate::client::{RemoteServer, RemoteText, ServerUrl};
use crate::error::UsageError;
use crate::model::ModelArg;
use crate::ui::Ui;

/// The argument of commands that can let a server compute.
#[derive(Clone, Debug, clap::Args)]
pub struct UrlArg {
    /// Server of OpenAI's API; key: OPENAI_API_KEY
    #[arg(
        long,
        value_name = "URL",
        help_heading = "Model",
        conflicts_with_all = [
            "revision", "i2s_layout", "threads", "device", "kernel", "pin", "weight_bits", "head",
            "kv", "memory_limit", "context", "speculate",
        ]
    )]
    pub url: Option<ServerUrl>,
}

/// A model of a server.
#[derive(Debug)]
pub struct RemoteModel {
    pub server: RemoteServer,
    pub name: String,
}

impl RemoteModel {
    /// Returns the model of this name, or else the only one of the server.
    pub fn open(url: &ServerUrl, model: &ModelArg) -> anyhow::Result<Self> {
        let server = RemoteServer::new(url)?;
        if !model.is_builtin() {
            let name = model.name().into_owned();
            return Ok(Self { server, name });
        }
        let mut names = server.models()?;
        match &names[..] {
            [_] => Ok(Self {
                name: names.swap_remove(0),
                server,
            }),
            [] => Err(anyhow::anyhow!("{url} has no model")),
            _ => {
                let message = format!(
                    "{url} has several models, name one with -m: {}",
                    names.join(", ")
                );
                Err(UsageError(message).into())
            }
        }
    }

    /// Returns the fields of a request for a stream that do not depend on the kind of text.
    /// What the user did not say is left to the server.
    pub fn request(&self, args: &GenerateArgs, seed: Option<u64>) -> Value {
        let sampling = &args.sampling;
        let mut request = json!({
            "model": self.name,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        let numbers = [
            ("temperature", sampling.temp),
            ("top_p", sampling.top_p),
            ("min_p", sampling.min_p),
            ("repeat_penalty", sampling.repeat_penalty),
            ("presence_penalty", sampling.presence_penalty),
            ("frequency_penalty", sampling.frequency_penalty),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                request[name] = as_written(number);
            }
        }
        if let Some(k) = sampling.top_k {
            // As the flag: -1 is all.
            request["top_k"] = if k == 0 { json!(-1) } else { k.into() };
        }
        if let Some(n) = sampling.repeat_last_n {
            request["repeat_last_n"] = if n == usize::MAX { json!(-1) } else { n.into() };
        }
        if let Some(seed) = seed {
            request["seed"] = seed.into();
        }
        if !args.stop.is_empty() {
            request["stop"] = json!(args.stop);
        }
        request
    }
}

/// Returns a number as it was written: 0.7, and not 0.699999988079071.
fn as_written(number: f32) -> Value {
    number
        .to_string()
        .parse::<f64>()
        .map_or(Value::Null, Value::from)
}

/// Returns the field for a text that follows a schema.
pub fn response_format(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "text", "schema": schema}})
}

/// Prints a text while a server writes it.
pub struct Printer<'a> {
    ui: &'a Ui,
    shown: bool,
    /// Printed once before the text; `None` afterwards.
    before: Option<&'a str>,
    error: Option<anyhow::Error>,
}

impl<'a> Printer<'a> {
    /// Returns a printer that, if `shown`, prints `before` and then the text.
    pub fn new(ui: &'a Ui, shown: bool, before: &'a str) -> Self {
        Self {
            ui,
            shown,
            before: Some(before),
            error: None,
        }
    }

    /// Prints the next piece. Returns `Break` if that fails.
    pub fn write(&mut self, piece: &str) -> ControlFlow<()> {
        let before = self.before.take().unwrap_or_default();
        for text in [before, piece] {
            if self.shown
                && !text.is_empty()
                && let Err(error) = self.ui.stream(text)
            {
                self.error = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Ends the line of the text. If there is none yet, that is right for an empty text, and
    /// nothing is printed if there is an error instead.
    ///
    /// # Errors
    ///
    /// Returns an error if stdout could not be written.
    pub fn finish(mut self, is_text: bool) -> anyhow::Result<()> {
        if is_text {
            let _ = self.write("");
        }
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.shown && self.before.is_none() {
            self.ui.line("")?;
        }
        Ok(())
    }
}

/// The document of `--json`.
pub fn report(model: &RemoteModel, text: &RemoteText) -> Value {
    json!({
        "model": model.name,
        "text": text.text,
        "finish_reason": text.finish_reason,
        "seed": text.seed,
        "prompt_tokens": text.usage.map(|usage| usage.prompt_tokens),
        "tokens": text.usage.map(|usage| usage.completion_tokens),
    })
}

/// Returns the numbers of tokens and the time of a text.
pub fn timings(text: &RemoteText, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match text.usage {
        Some(usage) => format!(
            "{} prompt tokens, {} generated in {seconds:.2} s",
            usage.prompt_tokens, usage.completion_tokens
        ),
        None => format!("{seconds:.2} s"),
    }
}

/// Returns the receipt of a text, which was asked for.
pub fn receipt(text: &RemoteText, url: &ServerUrl) -> anyhow::Result<String> {
    let receipt = text.receipt.as_ref();
    let receipt = receipt.with_context(|| format!("{url} sent no receipt"))?;
    Ok(receipt.to_string())
}
