//! `bitnet bench`

mod breakdown;
mod kernels;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use bitnet_core::{
    ComputeContext, HybridMemoryPool, Isa, OperationTimes, ThreadPool, record_operations,
};
use bitnet_inference::{
    Checkpoint, Device, DeviceKind, Engine, HeadPrecision, Input, LoadTarget, Logits, Model,
    Packing, Plan, PlanError, PlanOptions, Sampler, SamplerOptions, Skipped,
};
use breakdown::{Breakdown, Subject};
use serde::Serialize;

use crate::error::{Interrupted, UsageError};
use crate::interrupt;
use crate::machine::{Limits, Machine};
use crate::memory::{MemoryReport, MemoryWatch};
use crate::model::{ComputeArgs, ModelArg};
use crate::ui::Ui;
use crate::weight_cache;

/// Measure speed relative to the machine's limits
#[derive(Debug, clap::Args)]
#[command(after_help = "\
pp N is prefill of N tokens, tg N is decode of N tokens, each after a context of
-d tokens. The limit is the machine's memory bandwidth or its int8 throughput,
whichever takes longer; both are measured, and % is the share reached. MB is the
peak resident memory of the row, mapped files included.
--kernels measures each operation on every kernel of this machine, on one thread
unless -t is given. The ceiling is the time to read as many bytes, from the
caches if they fit, or the peak rate of the kernel's multiply instructions.
--breakdown repeats each row and times each operation on the calling thread: the
fastest repetition, the shares, and the time of the same work alone, where
--kernels measures such work.
Lists of values, such as -p 128,512, give a row for each combination.

Examples:
  bitnet bench
  bitnet bench -m model.gguf -p 512 -n 64 -t 1,2 -r 5 --json
  bitnet bench --kernels --json     report of this machine's kernels")]
#[expect(clippy::struct_excessive_bools, reason = "options without a value")]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Prompt lengths; 0 for none
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_values_t = [512])]
    prompt: Vec<usize>,
    /// Numbers of tokens to write; 0 for none
    #[arg(short = 'n', long, value_name = "N,…", value_delimiter = ',', default_values_t = [128])]
    generate: Vec<usize>,
    /// Tokens of context before each test
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_values_t = [0])]
    depth: Vec<usize>,
    /// Batch size in sequences
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_values_t = [1])]
    batch: Vec<usize>,
    /// Threads [default: as many as the system offers]
    #[arg(short, long, value_name = "N,…", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Repetitions of each row
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    repetitions: usize,
    /// Measure each kernel alone, without a model
    #[arg(long, conflicts_with_all = ["model", "prompt", "generate", "depth", "batch", "repetitions", "head", "memory_limit", "pin", "weight_bits"])]
    kernels: bool,
    /// Map packed weights that are kept (`bitnet cache`)
    #[arg(long, conflicts_with = "kernels")]
    cache: bool,
    /// Also measure each operation in the passes of a row
    #[arg(long, conflicts_with = "kernels")]
    breakdown: bool,
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
    /// Seconds to open the model, and to pack its weights or map them.
    load_s: f64,
    /// Whether packed weights were mapped from the cache.
    mapped: bool,
    /// The GPU that computed, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<GpuReport>,
    machine: Machine,
    /// Memory use with the last engine.
    memory: MemoryReport,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct GpuReport {
    name: String,
    kind: &'static str,
    read_gb_s: f64,
}

impl GpuReport {
    /// Measures a device; returns `None` for the CPU.
    fn measure(device: &Device) -> anyhow::Result<Option<Self>> {
        if device.kind() == DeviceKind::Cpu {
            return Ok(None);
        }
        let read = device.read_bandwidth();
        Ok(Some(Self {
            name: device.name(),
            kind: device.kind().name(),
            read_gb_s: read.context("the bandwidth of the GPU cannot be measured")? / 1e9,
        }))
    }

    fn limits(&self) -> Limits {
        Limits {
            read: self.read_gb_s * 1e9,
            int8: None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    test: String,
    threads: usize,
    batch: usize,
    depth: usize,
    tok_s: f64,
    tok_s_sd: f64,
    /// Weights and KV cache, divided among the tokens of a pass, without what was skipped.
    bytes_per_token: f64,
    /// The share of the rows of `up` that were skipped; `null` if the model skips none.
    skipped_rows: Option<f64>,
    /// The share of the columns of `down` that were skipped.
    skipped_columns: Option<f64>,
    gb_s: f64,
    gmac_s: f64,
    limit: &'static str,
    limit_fraction: Option<f64>,
    /// `null` if unknown.
    peak_memory_bytes: Option<usize>,
    kernel: &'static str,
    /// The layout of ternary weights.
    layout: String,
    head: &'static str,
    /// With `--breakdown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    breakdown: Option<Breakdown>,
}

/// The results of a test's repetitions.
struct Measured {
    rates: Vec<f64>,
    /// In all repetitions.
    skipped: Skipped,
    peak_memory_bytes: Option<usize>,
    /// Of the fastest repetition that was recorded, if any was.
    times: Option<OperationTimes>,
}

/// Warm-up tokens of a test.
const WARM_UP: usize = 32;

/// The test of a row.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Prompt tokens, or tokens to decode.
    n_tokens: usize,
    writes: bool,
    depth: usize,
    batch: usize,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    if args.kernels {
        return args.run_kernels(ui);
    }
    let tests = args.tests()?;
    let compute = if args.breakdown {
        let why = "it measures the operations of the CPU";
        args.compute.on_cpu("--breakdown", why)?
    } else {
        args.compute.clone()
    };
    let head = compute.head.for_largest();
    let isa = compute.isa()?.unwrap_or_else(Isa::best);
    let thread_counts = if args.threads.is_empty() {
        vec![std::thread::available_parallelism().map_or(1, usize::from)]
    } else {
        args.threads.clone()
    };
    let start = Instant::now();
    let checkpoint = args.model.open(ui)?;
    // The longest test determines the memory; plan it before any work.
    let context_len = tests
        .iter()
        .map(|test| test.depth.saturating_add(test.n_tokens))
        .max();
    let n_sequences = tests.iter().map(|test| test.batch).max();
    let device = compute.choose_device(&checkpoint, thread_counts.iter().max().copied())?;
    let plans = thread_counts
        .iter()
        .map(|&n_threads| {
            let sizes = PlanOptions {
                n_threads: Some(n_threads),
                context_len,
                n_sequences,
                ..PlanOptions::default()
            };
            compute.plan(&device.device, &checkpoint, head, sizes)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;

    let mut watch = MemoryWatch::begin();
    let packing = compute.packing(isa, head)?;
    let model = Arc::new(args.load(&device.device, &checkpoint, &plans, packing, ui)?);
    let pool = model.pool();
    // The tokenizer of its header is not needed, and would count in the peak memory.
    drop(checkpoint);

    let load_s = start.elapsed().as_secs_f64();

    interrupt::defer();
    let n_steps = (plans.len() * tests.len()).saturating_mul(args.repetitions);
    let mut progress = ui.progress("measuring");
    let mut measured = Vec::new();
    let mut memory = None;
    for &plan in &plans {
        let mut engine = Engine::new(Arc::clone(&model), plan)?;
        for test in &tests {
            watch.next_peak();
            let n_done = measured.len() * args.repetitions;
            let on_run = |n_runs| progress.set(n_done + n_runs, n_steps);
            let mut row = test.measure(&mut engine, args.repetitions, on_run)?;
            row.peak_memory_bytes = watch.next_peak();
            if args.breakdown {
                row.times = test.record(&mut engine, args.repetitions)?;
            }
            measured.push(row);
        }
        memory = Some(watch.report(pool));
    }
    // Last, since its memory must not count in any row.
    let mut machine = Machine::identify();
    let mut rows = Vec::new();
    let mut measured = measured.iter();
    let gpu = GpuReport::measure(&device.device)?;
    for plan in &plans {
        let of_cpu = machine.measure(pool, plan.isa, plan.n_threads)?;
        let limits = gpu.as_ref().map_or(of_cpu, GpuReport::limits);
        let of_plan = tests.iter().zip(&mut measured);
        rows.extend(of_plan.map(|(test, measured)| test.row(&model, plan, measured, limits)));
    }
    let report = Report {
        model: args.model.name().into_owned(),
        load_s,
        mapped: model.is_from_cache(),
        gpu,
        machine,
        memory: memory.expect("there is a plan"),
        rows,
    };
    drop(progress);
    if args.json {
        return ui.json(&report);
    }
    print(&report, ui)
}

impl Args {
    /// Loads the model for all of these plans.
    fn load(
        &self,
        device: &Device,
        checkpoint: &Checkpoint,
        plans: &[Plan],
        packing: Packing,
        ui: &Ui,
    ) -> anyhow::Result<Model> {
        let cache = self.cache.then(weight_cache::open).transpose()?;
        let most = |of: fn(&Plan) -> usize| plans.iter().map(of).max().unwrap_or(1);
        let target = LoadTarget {
            device,
            context_len: most(|plan| plan.context_len),
            cache: cache.as_ref(),
        };
        let isa = plans.first().map_or_else(Isa::best, |plan| plan.isa);
        let mut threads = ThreadPool::new(most(|plan| plan.n_threads));
        let ctx = &mut ComputeContext::new(isa, &mut threads);
        let pool = HybridMemoryPool::new();
        let mut progress = ui.progress("loading");
        let model = Model::load_on(target, checkpoint, &pool, ctx, packing, |done, total| {
            progress.set(done, total);
        });
        model.with_context(|| format!("failed to load {}", self.model.name()))
    }

    fn run_kernels(&self, ui: &Ui) -> anyhow::Result<()> {
        self.compute
            .on_cpu("--kernels", "it measures the kernels of the CPU")?;
        let isas = match self.compute.isa()? {
            Some(isa) => vec![isa],
            None => Isa::available().collect(),
        };
        let thread_counts = if self.threads.is_empty() {
            &[1]
        } else {
            self.threads.as_slice()
        };
        for &n_threads in thread_counts {
            if n_threads == 0 || n_threads > kernels::MAX_THREADS {
                return Err(PlanError::Threads { n_threads }.into());
            }
        }
        kernels::run(&isas, thread_counts, self.json, ui)
    }

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

impl Test {
    /// Fills every sequence to the depth, and warms up beyond it.
    fn prepare(&self, engine: &mut Engine) -> anyhow::Result<()> {
        for sequence in 0..self.batch {
            engine.truncate(sequence, 0);
        }
        let context = tokens(engine, self.depth);
        for part in context.chunks(engine.plan().batch_tokens) {
            self.forward(engine, part, Logits::None, &mut |_| ())?;
        }
        let warm_up = if self.writes { 1 } else { WARM_UP };
        let warm_up = tokens(engine, warm_up.min(self.n_tokens));
        self.forward(engine, &warm_up, Logits::Last, &mut |_| ())
    }

    /// Prepares and measures repetitions, and calls `on_run(n)` before each, with the number
    /// of those that are done.
    fn measure(
        &self,
        engine: &mut Engine,
        repetitions: usize,
        mut on_run: impl FnMut(usize),
    ) -> anyhow::Result<Measured> {
        self.prepare(engine)?;
        let before = engine.skipped();
        let mut rates = Vec::new();
        for n_done in 0..repetitions {
            on_run(n_done);
            rates.push(self.run(engine, |_| ())?);
        }
        Ok(Measured {
            rates,
            skipped: engine.skipped() - before,
            peak_memory_bytes: None,
            times: None,
        })
    }

    /// Records repetitions, with greedy sampling where tokens are written, and returns the
    /// times of the fastest.
    fn record(
        &self,
        engine: &mut Engine,
        repetitions: usize,
    ) -> anyhow::Result<Option<OperationTimes>> {
        let vocab_size = engine.model().config().vocab_size;
        let isa = engine.plan().isa;
        let mut sampler = Sampler::new(SamplerOptions::GREEDY, isa, vocab_size)?;
        let mut recorded = Vec::new();
        for _ in 0..repetitions {
            let (run, times) = record_operations(|| {
                self.run(engine, |logits| {
                    if self.writes {
                        std::hint::black_box(sampler.sample(logits, &[], 0));
                    }
                })
            });
            run?;
            recorded.push(times);
        }
        Ok(recorded.into_iter().min_by_key(OperationTimes::total))
    }

    /// Runs once and returns tokens per second.
    fn run(&self, engine: &mut Engine, mut on_logits: impl FnMut(&[f32])) -> anyhow::Result<f64> {
        let prompt = tokens(engine, self.n_tokens);
        for sequence in 0..self.batch {
            engine.truncate(sequence, self.depth);
        }
        let start = Instant::now();
        if self.writes {
            for token in prompt.chunks(1) {
                // As in greedy decoding.
                self.forward(engine, token, Logits::Top(1), &mut on_logits)?;
            }
        } else {
            self.forward(engine, &prompt, Logits::Last, &mut on_logits)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        Ok((self.n_tokens * self.batch) as f64 / seconds)
    }

    /// Runs the same tokens in every sequence, and calls `on_logits` with all logits.
    fn forward(
        &self,
        engine: &mut Engine,
        tokens: &[u32],
        logits: Logits,
        on_logits: &mut impl FnMut(&[f32]),
    ) -> anyhow::Result<()> {
        if interrupt::requested() {
            return Err(Interrupted.into());
        }
        let inputs: Vec<_> = (0..self.batch)
            .map(|sequence| Input {
                sequence,
                tokens,
                logits,
            })
            .collect();
        engine.forward(&inputs, |_, _, logits| {
            on_logits(std::hint::black_box(logits));
        })?;
        Ok(())
    }

    fn row(&self, model: &Model, plan: &Plan, measured: &Measured, limits: Limits) -> Row {
        let rates = &measured.rates;
        let n = rates.len() as f64;
        let tok_s = rates.iter().sum::<f64>() / n;
        let squares = rates.iter().map(|rate| (rate - tok_s).powi(2)).sum::<f64>();
        let config = model.config();
        // A pass reads the weights once, and each sequence's KV cache, which on average
        // contains half of the test's tokens.
        let positions = self.depth as f64 + self.n_tokens as f64 / 2.0;
        let kv_bytes = plan.kv_bytes_per_position as f64;
        let skipped = measured.skipped;
        let skipped_bytes = skipped.bytes as f64 / skipped.passes.max(1) as f64;
        let bytes_per_pass = model.bytes_per_token() as f64 - skipped_bytes
            + self.batch as f64 * positions * kv_bytes;
        let tokens_per_pass = if self.writes {
            self.batch as f64
        } else {
            let n_tokens = self.n_tokens * self.batch;
            n_tokens as f64 / n_tokens.div_ceil(plan.batch_tokens) as f64
        };
        let bytes_per_token = bytes_per_pass / tokens_per_pass;
        let head_macs = config.vocab_size * config.hidden_dim;
        let n_tokens = (rates.len() * self.n_tokens * self.batch) as f64;
        let linear_macs = model.macs_per_token() as f64 - skipped.macs as f64 / n_tokens;
        let macs_per_token = if self.writes {
            linear_macs + head_macs as f64
        } else {
            linear_macs + head_macs as f64 / self.n_tokens as f64
        };
        let (bytes_s, macs_s) = (tok_s * bytes_per_token, tok_s * macs_per_token);
        let read = bytes_s / limits.read;
        let (limit, limit_fraction) = match limits.int8.map(|peak| macs_s / peak) {
            Some(int8) if int8 > read => ("int8", Some(int8)),
            // Without a measured peak, prefill may be compute-bound.
            None if !self.writes => ("int8", None),
            _ => ("memory", Some(read)),
        };
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
            skipped_rows: skipped.rows.fraction(),
            skipped_columns: skipped.columns.fraction(),
            gb_s: bytes_s / 1e9,
            gmac_s: macs_s / 1e9,
            limit,
            limit_fraction,
            peak_memory_bytes: measured.peak_memory_bytes,
            kernel: match plan.device {
                DeviceKind::Cpu => plan.isa.name(),
                gpu => gpu.name(),
            },
            layout: model.layout().to_string(),
            head: match model.head_precision() {
                HeadPrecision::Exact => "exact",
                HeadPrecision::ExactTopK => "screened",
                HeadPrecision::Int8 => "int8",
            },
            breakdown: measured.times.map(|times| {
                let subject = Subject {
                    model,
                    plan,
                    test: self,
                    skipped,
                };
                Breakdown::new(subject, &times)
            }),
        }
    }
}

/// Returns arbitrary tokens.
fn tokens(engine: &Engine, n: usize) -> Vec<u32> {
    let vocab_size = engine.model().config().vocab_size;
    (0..n).map(|i| (i * 61 % vocab_size) as u32).collect()
}

fn print(report: &Report, ui: &Ui) -> anyhow::Result<()> {
    for line in report.machine.lines() {
        ui.line(&line)?;
    }
    if let Some(gpu) = &report.gpu {
        let GpuReport {
            name,
            kind,
            read_gb_s,
        } = gpu;
        ui.line(&format!("{kind}: {name}, {read_gb_s:.1} GB/s read"))?;
    }
    ui.line(&format!(
        "\n{:<8} {:>7} {:>5} {:>6} {:>16} {:>9} {:>6} {:>7} {:>12} {:>7}",
        "test",
        "threads",
        "batch",
        "depth",
        "tok/s",
        "MB/token",
        "GB/s",
        "GMAC/s",
        "of its limit",
        "MB"
    ))?;
    for row in &report.rows {
        let fraction = row.limit_fraction.map_or("-".to_owned(), |fraction| {
            format!("{:.0} % {}", fraction * 100.0, row.limit)
        });
        let memory = row
            .peak_memory_bytes
            .map_or("-".to_owned(), |bytes| format!("{:.0}", bytes as f64 / 1e6));
        ui.line(&format!(
            "{:<8} {:>7} {:>5} {:>6} {:>16} {:>9.1} {:>6.1} {:>7.1} {:>12} {:>7}",
            row.test,
            row.threads,
            row.batch,
            row.depth,
            format!("{:.1} ± {:.1}", row.tok_s, row.tok_s_sd),
            row.bytes_per_token / 1e6,
            row.gb_s,
            row.gmac_s,
            fraction,
            memory
        ))?;
    }
    let Some(row) = report.rows.first() else {
        return Ok(());
    };
    ui.line("")?;
    for row in &report.rows {
        if let (Some(rows), Some(columns)) = (row.skipped_rows, row.skipped_columns) {
            ui.line(&format!(
                "{}, {} threads, batch {}: {:.0} % of the rows of up and {:.0} % of the columns of \
                 down skipped",
                row.test,
                row.threads,
                row.batch,
                100.0 * rows,
                100.0 * columns
            ))?;
        }
    }
    ui.line(&format!(
        "\nkernel {}, {} weights, {} head, loaded in {:.3} s\n",
        row.kernel, row.layout, row.head, report.load_s
    ))?;
    for line in report.memory.lines() {
        ui.line(&line)?;
    }
    print_breakdowns(&report.rows, ui)
}

fn print_breakdowns(rows: &[Row], ui: &Ui) -> anyhow::Result<()> {
    for row in rows {
        if let Some(breakdown) = &row.breakdown {
            ui.line(&format!(
                "\n{}, {} threads, batch {}, depth {}: one repetition",
                row.test, row.threads, row.batch, row.depth
            ))?;
            breakdown.print(ui)?;
        }
    }
    Ok(())
}
