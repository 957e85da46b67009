//! `bitnet serve`

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bitnet_core::KvPage;
use bitnet_inference::{Checkpoint, HeadPrecision, Plan, PlanError, PlanOptions};
use bitnet_server::{RequestDefaults, ServedModel, Server, ServerOptions};
use clap::ValueEnum;

use super::generation::{SamplingArgs, SpeculationArgs, parse_count_or_all};
use crate::error::{NoChatTemplate, UsageError};
use crate::input::read_text;
use crate::interrupt;
use crate::model::{ChatTemplateArg, RunModelArgs};
use crate::ui::Ui;

/// Sequences that keep the prefixes of finished texts.
const N_CACHED: usize = 32;

/// Serve OpenAI's API and a chat page
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The same request with the same seed gives the same tokens: alone or among others,
with or without a cached prefix, on every machine. Without -m, the built-in model
is served. Only this machine can reach the server unless --host says otherwise;
then give it --api-key-file. Ctrl-C waits for running requests; again, it does not.

Examples:
  bitnet serve
  bitnet serve -m model.gguf --port 8000 --parallel 16
  curl http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"Once upon a time\"}'")]
pub struct Args {
    #[command(flatten)]
    model: RunModelArgs,
    /// Context length of each request [default: model's, up to 4096]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    context: Option<usize>,
    /// Address or name to listen on
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value = "8080")]
    port: u16,
    /// Texts generated at the same time
    #[arg(long, value_name = "N", default_value = "8", value_parser = parse_parallel)]
    parallel: usize,
    /// Texts that may wait; beyond, requests are refused
    #[arg(long, value_name = "N", default_value = "256")]
    queue: usize,
    /// File of API keys, one per line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Name of the model in the API [default: its file's]
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Name that requests may be for, besides localhost and addresses; may be given several times
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<String>,
    /// Site whose pages may use the server, such as https://a.example; `*` for all
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Ignore fields that are unknown or cannot be honoured, and list them in `bitnet-ignored`
    #[arg(long)]
    lenient: bool,
    /// Seconds to finish running requests at the end
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    drain: u64,
    /// Log of requests on stderr
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Maximum tokens of a text; -1: no limit [default: completions 16, chats no limit]
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        value_parser = parse_count_or_all,
        allow_negative_numbers = true
    )]
    max_tokens: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    speculation: SpeculationArgs,
    #[command(flatten)]
    template: ChatTemplateArg,
}

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
    None,
}

fn parse_parallel(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1024) => Ok(n),
        _ => Err("expected a number from 1 to 1024".to_owned()),
    }
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    args.sampling.validate()?;
    let address = args.address()?;
    let checkpoint = args.model.model.open(ui)?;
    let options = ServerOptions {
        allowed_hosts: args.allowed_hosts(),
        api_keys: args.api_keys()?,
        cors_origins: args.cors_origin.clone(),
        max_running: args.parallel,
        max_waiting: args.queue,
        defaults: RequestDefaults {
            sampling: args.sampling.options(&checkpoint, ui),
            seed: args.sampling.seed(),
            max_tokens: args.max_tokens,
        },
        speculate: args.speculation.is_on(),
        lenient: args.lenient,
        drain: Duration::from_secs(args.drain),
        ..ServerOptions::default()
    };
    if !address.ip().is_loopback() && options.api_keys.is_empty() {
        ui.note("warning: other machines can use this server; --api-key-file limits who may");
    }
    start_log(args.log_format);
    let server = Server::start(address, options)
        .with_context(|| format!("failed to listen on {address}"))?;
    let model = args.load(&checkpoint, ui)?;
    interrupt::defer();
    let shutdown = server.shutdown();
    std::thread::spawn(move || {
        while !interrupt::requested() {
            interrupt::sleep(Duration::from_hours(1));
        }
        shutdown.request();
    });
    let address = server.address();
    let mut told = Ok(());
    let was_drained = server.run(model, || {
        told = ui.line(&format!("listening on http://{address}"));
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
    fn address(&self) -> anyhow::Result<SocketAddr> {
        if self.host.eq_ignore_ascii_case("localhost") {
            return Ok((Ipv4Addr::LOCALHOST, self.port).into());
        }
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let found = (host, self.port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut all| all.next());
        found.ok_or_else(|| {
            UsageError(format!(
                "--host is {:?}, expected an address or name of this machine",
                self.host
            ))
            .into()
        })
    }

    /// Returns the names that requests may be for: those given, and the one listened on.
    fn allowed_hosts(&self) -> Vec<String> {
        let mut hosts = self.allowed_host.clone();
        if self.host.parse::<IpAddr>().is_err() {
            hosts.push(self.host.clone());
        }
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

    fn load(&self, checkpoint: &Checkpoint, ui: &Ui) -> anyhow::Result<ServedModel> {
        let model = &self.model.model;
        let tokenizer = model.tokenizer(checkpoint, ui)?;
        let template = match self.template.resolve(model, checkpoint, &tokenizer, ui) {
            Ok(template) => Some(template),
            Err(error) if error.is::<NoChatTemplate>() => {
                ui.note("note: the model has no chat template; it continues texts");
                None
            }
            Err(error) => return Err(error),
        };
        let head = self.model.compute.head.for_largest();
        let plan = self.plan(checkpoint, head)?;
        let loaded = self.model.load_as_planned(checkpoint, plan, head, ui)?;
        let tensors = checkpoint.tensors();
        Ok(ServedModel {
            name: self.name(),
            is_builtin: model.is_builtin(),
            engine: loaded.engine,
            tokenizer: Arc::new(tokenizer),
            template,
            chat_options: self.template.options()?,
            n_parameters: tensors.iter().map(|t| t.n_rows * t.n_cols).sum(),
        })
    }

    /// Returns a plan with KV pages for as many full contexts as fit into memory, at most
    /// one per text: requests share them.
    fn plan(&self, checkpoint: &Checkpoint, head: HeadPrecision) -> anyhow::Result<Plan> {
        let mut n_contexts = self.parallel;
        loop {
            let one = PlanOptions {
                n_threads: self.model.threads,
                context_len: self.context,
                ..PlanOptions::default()
            };
            let context_len = Plan::new(checkpoint.config(), one)?.context_len;
            let sizes = PlanOptions {
                n_sequences: Some(self.parallel + N_CACHED),
                kv_pages: Some(n_contexts * context_len.div_ceil(KvPage::POSITIONS)),
                ..one
            };
            let plan = self.model.compute.plan(checkpoint, head, sizes);
            match plan {
                Err(error) if n_contexts > 1 && is_memory_limit(&error) => n_contexts /= 2,
                plan => return plan,
            }
        }
    }

    fn name(&self) -> String {
        if let Some(alias) = &self.alias {
            return alias.clone();
        }
        let name = self.model.model.name();
        let path = std::path::Path::new(&*name);
        let is_file = path.extension().is_some_and(|end| end == "gguf");
        let last = if is_file {
            path.file_stem()
        } else {
            path.file_name()
        };
        last.map_or_else(
            || name.to_string(),
            |last| last.to_string_lossy().into_owned(),
        )
    }
}

fn is_memory_limit(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| matches!(cause.downcast_ref(), Some(PlanError::MemoryLimit(_))))
}
