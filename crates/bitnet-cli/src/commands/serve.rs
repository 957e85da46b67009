//! `bitnet serve`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bitnet_server::{MemoryTaken, Server, ServerOptions};
use clap::ValueEnum;

use super::listen::ListenArgs;
use super::served_model::ServedModelArgs;
use super::served_models::{CacheArgs, ServedModelsArg};
use crate::error::UsageError;
use crate::input::read_text;
use crate::interrupt;
use crate::memory::parse_bytes;
use crate::ui::Ui;

/// Serve a chat page and the APIs of OpenAI, Anthropic and Ollama
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The same request with the same seed gives the same tokens: alone or among others,
with or without a cached prefix, on every machine. Without -m, the built-in model
is served. Only this machine can reach the server unless --host says otherwise;
then give it --api-key-file. Ctrl-C waits for running requests; again, it does not.

Of several models, the field \"model\" of a request chooses. Each is loaded when it
is first asked for, the first one at once. Where memory is short, a model that no
request uses is unloaded for the next; --memory-limit holds for all together.

With --cache-dir, texts that begin as earlier ones are faster also after a restart:
keys and values of whole pages of 128 tokens are saved. The files tell what was
asked, so protect the folder. A damaged file is ignored; answers are the same.

Examples:
  bitnet serve
  bitnet serve -m model.gguf --port 8000 --parallel 16
  bitnet serve -m small=a.gguf -m large=folder    two models, by their names
  bitnet serve -m models                          all models in a folder
  bitnet serve -m model.gguf --cache-dir cache    a long system prompt is computed once
  curl http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"Once upon a time\"}'")]
pub struct Args {
    #[command(flatten)]
    listen: ListenArgs,
    /// Texts that may wait; beyond, requests are refused
    #[arg(long, value_name = "N", default_value = "256")]
    queue: usize,
    /// Keep answers in so much memory, such as 64MiB, and give them again [default: 0]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    response_cache: Option<usize>,
    /// File of API keys, one per line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Name that requests may be for, besides localhost and addresses; may be given several times
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<String>,
    /// Site whose pages may use the server, such as https://a.example; `*` for all
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Seconds to finish running requests at the end
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    drain: u64,
    /// Log of requests on stderr
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    models: ServedModelsArg,
    #[command(flatten)]
    served: ServedModelArgs,
}

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
    None,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    args.served.validate()?;
    let models = args.models.named(&args.served, ui)?;
    args.cache.prepare()?;
    let tls = args.listen.tls()?;
    let listening = args.listen.bind(tls.is_some())?;
    let (first, others) = models.split_first().expect("there is a model");
    let checkpoint = Arc::new(first.model.open(ui)?);
    for other in others {
        other.model.find(ui)?;
    }
    let options = ServerOptions {
        allowed_hosts: args.allowed_hosts(),
        api_keys: args.api_keys()?,
        cors_origins: args.cors_origin.clone(),
        max_waiting: args.queue,
        response_cache: args.response_cache.unwrap_or(0),
        drain: Duration::from_secs(args.drain),
        tls,
        ..args.served.options()
    };
    if listening.is_public && options.api_keys.is_empty() {
        ui.note("warning: other machines can use this server; --api-key-file limits who may");
    }
    start_log(args.log_format);
    let server =
        Server::start(listening.listener, options).context("failed to start the server")?;
    let none = MemoryTaken::default();
    let model = first.load(&args.served, &args.cache, &checkpoint, none, ui)?;
    drop(checkpoint);
    let sources: Vec<_> = match others {
        [] => Vec::new(),
        _ => (models.iter())
            .map(|model| model.source(&args.served, &args.cache, ui))
            .collect(),
    };
    interrupt::defer();
    let shutdown = server.shutdown();
    std::thread::spawn(move || {
        while !interrupt::requested() {
            interrupt::sleep(Duration::from_hours(1));
        }
        shutdown.request();
    });
    let mut told = Ok(());
    let was_drained = server.run_several(model, &sources, || {
        told = ui.line(&format!("listening on {}", listening.address));
    });
    told?;
    if !was_drained {
        anyhow::bail!("the server ended before all requests were done");
    }
    Ok(())
}

/// Writes the log of requests to stderr.
fn start_log(format: LogFormat) {
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::None => {}
    }
}

impl Args {
    /// Returns the names that requests may be for: those given, and the one listened on.
    fn allowed_hosts(&self) -> Vec<String> {
        let mut hosts = self.allowed_host.clone();
        hosts.extend(self.listen.host_name().map(str::to_owned));
        hosts
    }

    fn api_keys(&self) -> anyhow::Result<Vec<String>> {
        let Some(file) = &self.api_key_file else {
            return Ok(Vec::new());
        };
        let text = read_text(file)?;
        let keys = text.lines().map(str::trim).filter(|key| !key.is_empty());
        let keys: Vec<String> = keys.map(str::to_owned).collect();
        if keys.is_empty() {
            let message = format!("{} has no key, expected one per line", file.display());
            return Err(UsageError(message).into());
        }
        Ok(keys)
    }
}
