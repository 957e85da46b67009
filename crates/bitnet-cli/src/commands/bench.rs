//! `bitnet bench`

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use bitnet_core::{Kernel, Team, machine};
use bitnet_inference::{Engine, Input, Logits, Model, Plan, PlanOptions};
use serde::Serialize;

use crate::error::{Interrupted, UsageError};
use crate::interrupt;
use crate::model::{ComputeArgs, ModelArg};
use crate::ui::Ui;

/// Measure speed, and how far the machine's limits are
#[derive(Debug, clap::Args)]
#[command(after_help = "\
pp N reads a prompt of N tokens, tg N writes N tokens, each after a context of
-d tokens. The limit of tg is how fast this machine reads memory, that of pp how
fast it multiplies int8; both are measured first, and % is the part reached.
Numbers of several values, such as -p 128,512, give a row for each combination.

Examples:
  bitnet bench
  bitnet bench -m model.gguf -p 512 -n 64 -t 1,2 -r 5 --json")]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Prompt lengths; 0 for none
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_values_t = [512])]
    prompt: Vec<usize>,
    /// Numbers of tokens to write; 0 for none
    #[arg(short = 'n', long, value_name = "N,…", value_delimiter = ',', default_values_t = [128])]
    generate: Vec<usize>,
    /// Tokens of context before
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_values_t = [0])]
    depth: Vec<usize>,
    /// Sequences side by side
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_values_t = [1])]
    batch: Vec<usize>,
    /// Threads [default: as many as the system offers]
    #[arg(short, long, value_name = "N,…", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Repetitions of each row
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    repetitions: usize,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    machine: Machine,
    rows: Vec<Row>,
}

/// The limits of this machine, one value for each entry of `threads`.
#[derive(Debug, Default, Serialize)]
struct Machine {
    threads: Vec<usize>,
    read_gb_s: Vec<f64>,
    /// `null` for a kernel without dot product instructions.
    int8_gmac_s: Vec<Option<f64>>,
}

#[derive(Debug, Serialize)]
struct Row {
    test: String,
    threads: usize,
    batch: usize,
    depth: usize,
    tok_s: f64,
    tok_s_sd: f64,
    /// Weights and KV cache, divided among the sequences of a batch.
    bytes_per_token: f64,
    gb_s: f64,
    gmac_s: f64,
    limit: &'static str,
    limit_fraction: Option<f64>,
    kernel: &'static str,
}

/// What a row measures.
#[derive(Clone, Copy, Debug)]
struct Test {
    /// Tokens of a prompt, or tokens to write.
    n_tokens: usize,
    writes: bool,
    depth: usize,
    batch: usize,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let tests = args.tests()?;
    let kernel = args.compute.kernel()?.unwrap_or_else(Kernel::best);
    let threads = if args.threads.is_empty() {
        vec![std::thread::available_parallelism().map_or(1, usize::from)]
    } else {
        args.threads.clone()
    };
    let checkpoint = args.model.open(ui)?;
    // The longest test decides what memory is needed; plan it before any work.
    let context_len = tests
        .iter()
        .map(|test| test.depth.saturating_add(test.n_tokens))
        .max();
    let n_sequences = tests.iter().map(|test| test.batch).max();
    let plans = threads
        .iter()
        .map(|&n_threads| {
            let options = PlanOptions {
                kernel: Some(kernel),
                n_threads: Some(n_threads),
                context_len,
                n_sequences,
                kv_precision: args.compute.kv.into(),
            };
            Plan::new(checkpoint.config(), options)
        })
        .collect::<Result<Vec<_>, _>>()?;

    let mut progress = ui.progress("loading");
    let mut team = Team::new(plans.iter().map(|plan| plan.n_threads).max().unwrap_or(1));
    let model = Model::load(
        &checkpoint,
        kernel,
        &mut team,
        args.compute.head.for_largest(),
        |done, total| progress.set(done, total),
    );
    let model = Arc::new(model.with_context(|| format!("failed to load {}", args.model.model))?);
    drop((progress, team));

    interrupt::defer();
    let mut report = Report {
        model: args.model.model.clone(),
        machine: Machine::default(),
        rows: Vec::new(),
    };
    let n_steps = (plans.len() * tests.len()).saturating_mul(args.repetitions);
    let mut progress = ui.progress("measuring");
    for plan in plans {
        let limits = report.machine.measure(&plan);
        let mut engine = Engine::new(Arc::clone(&model), plan)?;
        for test in &tests {
            let mut rates = Vec::new();
            for _ in 0..args.repetitions {
                if interrupt::requested() {
                    return Err(Interrupted.into());
                }
                let done = report.rows.len() * args.repetitions + rates.len();
                progress.set(done, n_steps);
                rates.push(test.run(&mut engine)?);
            }
            report.rows.push(test.row(&model, &plan, &rates, limits));
        }
    }
    drop(progress);
    if args.json {
        return ui.json(&report);
    }
    print(&report, ui)
}

impl Args {
    fn tests(&self) -> anyhow::Result<Vec<Test>> {
        if self.repetitions == 0 || self.batch.contains(&0) {
            let message = "-r and -b are 1 or more";
            return Err(UsageError(message.to_owned()).into());
        }
        let mut tests = Vec::new();
        for &depth in &self.depth {
            for &batch in &self.batch {
                let kinds = [(&self.prompt, false), (&self.generate, true)];
                for (lengths, writes) in kinds {
                    let lengths = lengths.iter().filter(|n| **n > 0);
                    tests.extend(lengths.map(|&n_tokens| Test {
                        n_tokens,
                        writes,
                        depth,
                        batch,
                    }));
                }
            }
        }
        if tests.is_empty() {
            return Err(UsageError("there is nothing to measure, give -p or -n".to_owned()).into());
        }
        Ok(tests)
    }
}

impl Machine {
    /// Measures the limits for the threads of a plan: bytes and multiply-adds
    /// per second.
    fn measure(&mut self, plan: &Plan) -> (f64, Option<f64>) {
        let mut team = Team::new(plan.n_threads);
        let read = machine::read_bandwidth(plan.kernel, &mut team);
        let int8 = machine::int8_peak(plan.kernel, &mut team);
        self.threads.push(plan.n_threads);
        self.read_gb_s.push(read / 1e9);
        self.int8_gmac_s.push(int8.map(|peak| peak / 1e9));
        (read, int8)
    }
}

impl Test {
    /// Runs once and returns tokens per second.
    fn run(&self, engine: &mut Engine) -> anyhow::Result<f64> {
        let vocab_size = engine.model().config().vocab_size;
        // What the tokens are does not matter for the time.
        let token = |i: usize| (i * 61 % vocab_size) as u32;
        let context: Vec<u32> = (0..self.depth).map(token).collect();
        let prompt: Vec<u32> = (0..self.n_tokens).map(token).collect();
        for sequence in 0..self.batch {
            engine.truncate(sequence, 0);
        }
        self.forward(engine, &context, Logits::None)?;
        let start = Instant::now();
        if self.writes {
            for token in prompt.chunks(1) {
                // As the most likely token is chosen.
                self.forward(engine, token, Logits::Top(1))?;
            }
        } else {
            self.forward(engine, &prompt, Logits::Last)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        Ok((self.n_tokens * self.batch) as f64 / seconds)
    }

    /// Continues every sequence by the same tokens.
    fn forward(&self, engine: &mut Engine, tokens: &[u32], logits: Logits) -> anyhow::Result<()> {
        let inputs: Vec<_> = (0..self.batch)
            .map(|sequence| Input {
                sequence,
                tokens,
                logits,
            })
            .collect();
        engine.forward(&inputs, |_, _, logits| {
            std::hint::black_box(logits);
        })?;
        Ok(())
    }

    fn row(
        &self,
        model: &Model,
        plan: &Plan,
        rates: &[f64],
        (read, int8): (f64, Option<f64>),
    ) -> Row {
        let n = rates.len() as f64;
        let tok_s = rates.iter().sum::<f64>() / n;
        let squares = rates.iter().map(|rate| (rate - tok_s).powi(2)).sum::<f64>();
        let config = model.config();
        // Half of what is written is there on average.
        let positions = self.depth as f64 + self.n_tokens as f64 / 2.0;
        let kv_bytes = plan.kv_bytes_per_position as f64;
        let bytes_per_token =
            model.bytes_per_token() as f64 / self.batch as f64 + positions * kv_bytes;
        let head_macs = config.vocab_size * config.hidden_dim;
        let macs_per_token = if self.writes {
            (model.macs_per_token() + head_macs) as f64
        } else {
            model.macs_per_token() as f64 + head_macs as f64 / self.n_tokens as f64
        };
        let (gb_s, gmac_s) = (tok_s * bytes_per_token / 1e9, tok_s * macs_per_token / 1e9);
        Row {
            test: format!("{}{}", if self.writes { "tg" } else { "pp" }, self.n_tokens),
            threads: plan.n_threads,
            batch: self.batch,
            depth: self.depth,
            tok_s,
            tok_s_sd: if rates.len() > 1 {
                (squares / (n - 1.0)).sqrt()
            } else {
                0.0
            },
            bytes_per_token,
            gb_s,
            gmac_s,
            limit: if self.writes { "memory" } else { "int8" },
            limit_fraction: if self.writes {
                Some(gb_s * 1e9 / read)
            } else {
                int8.map(|peak| gmac_s * 1e9 / peak)
            },
            kernel: plan.kernel.name(),
        }
    }
}

fn print(report: &Report, ui: &Ui) -> anyhow::Result<()> {
    let machine = &report.machine;
    let limits = machine.threads.iter().zip(&machine.read_gb_s);
    for ((threads, read), int8) in limits.zip(&machine.int8_gmac_s) {
        let int8 = int8.map_or(String::new(), |peak| format!(", {peak:.0} int8 GMAC/s"));
        ui.line(&format!(
            "limits of {threads} threads: {read:.1} GB/s read{int8}"
        ))?;
    }
    ui.line(&format!(
        "\n{:<8} {:>7} {:>5} {:>6} {:>18} {:>9} {:>7} {:>8} {:>12}",
        "test", "threads", "batch", "depth", "tok/s", "MB/token", "GB/s", "GMAC/s", "of its limit"
    ))?;
    for row in &report.rows {
        let fraction = row.limit_fraction.map_or("-".to_owned(), |fraction| {
            format!("{:.0} % {}", fraction * 100.0, row.limit)
        });
        ui.line(&format!(
            "{:<8} {:>7} {:>5} {:>6} {:>18} {:>9.1} {:>7.1} {:>8.1} {:>12}",
            row.test,
            row.threads,
            row.batch,
            row.depth,
            format!("{:.1} ± {:.1}", row.tok_s, row.tok_s_sd),
            row.bytes_per_token / 1e6,
            row.gb_s,
            row.gmac_s,
            fraction
        ))?;
    }
    let kernel = report.rows.first().map_or("", |row| row.kernel);
    ui.line(&format!("\nkernel {kernel}"))
}
