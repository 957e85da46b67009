//! How long requests wait when many replicas of a server share them.
//!
//! Each replica is the scheduler of `bitnet serve` with the prefill budget that it has there,
//! on an engine that computes nothing: a step takes as long as measured steps of its batch do.
//! A balancer hands requests out as they arrive, at random times. What the network and the
//! balancer take is not in it.
//!
//! ```text
//! cargo run --release -p bitnet-inference --example replicas -- --replicas 1000
//! ```

#![expect(clippy::print_stdout, reason = "its output is the result")]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::ControlFlow;
use std::time::Duration;

use bitnet_core::Isa;
use bitnet_inference::{
    ForwardError, GenerationTask, Input, PrefillBudget, SamplerOptions, Scheduler,
    SchedulerOptions, SequenceError, SequenceHandle, StepEngine, StepLimits, Task, TaskEvent,
    TaskId, TokenSet, Work,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const CONTEXT: usize = 4096;
const VOCAB: usize = 2;
/// The limits of a step in `bitnet serve`.
const STEP_RATIO: f64 = 1.4;
const STEP_TIME: Duration = Duration::from_millis(5);

/// What is simulated.
struct Options {
    replicas: usize,
    /// Texts at the same time, per replica.
    parallel: usize,
    /// Milliseconds of a step, by its batch: in order, between which times are on a line.
    steps: Vec<(f64, f64)>,
    /// Prompt positions per second.
    prefill: f64,
    /// Mean tokens of a prompt, and of an answer. Both have exponential distributions.
    prompt: f64,
    generate: f64,
    /// Requests per replica.
    requests: usize,
    /// Arrivals, as shares of those at which no replica ever rests.
    load: Vec<f64>,
    seed: u64,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            replicas: 1000,
            parallel: 8,
            // The 2B-4T shape on two threads of a Zen 5, as in docs/performance.md.
            steps: vec![(1.0, 14.6), (8.0, 33.5)],
            prefill: 348.0,
            prompt: 300.0,
            generate: 100.0,
            requests: 100,
            load: vec![0.5, 0.7, 0.8, 0.9],
            seed: 1,
        };
        while let Some(name) = args.next() {
            let value = args.next().ok_or(format!("{name} has no value"))?;
            let number = |text: &str| match text.parse::<f64>() {
                Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
                _ => Err(format!("{name} is {value:?}, expected numbers above 0")),
            };
            match name.as_str() {
                "--replicas" => options.replicas = number(&value)? as usize,
                "--parallel" => options.parallel = number(&value)? as usize,
                "--prefill" => options.prefill = number(&value)?,
                "--prompt" => options.prompt = number(&value)?,
                "--generate" => options.generate = number(&value)?,
                "--requests" => options.requests = number(&value)? as usize,
                "--seed" => options.seed = number(&value)? as u64,
                "--load" => {
                    let parts = value.split(',').map(number);
                    options.load = parts.collect::<Result<_, _>>()?;
                }
                "--steps" => {
                    let parts = value.split(',').map(|part| {
                        let (batch, ms) = part.split_once(':').unwrap_or((part, ""));
                        Ok((number(batch)?, number(ms)?))
                    });
                    options.steps = parts.collect::<Result<_, String>>()?;
                }
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(options)
    }

    /// Returns the seconds of a step.
    fn step_time(&self, n_decodes: usize, n_prefill: usize) -> f64 {
        let n = n_decodes as f64;
        let after = self.steps.iter().position(|(batch, _)| *batch >= n);
        let decode = match after {
            _ if n_decodes == 0 => 0.0,
            Some(0) => self.steps[0].1,
            Some(i) => {
                let ((n0, t0), (n1, t1)) = (self.steps[i - 1], self.steps[i]);
                t0 + (t1 - t0) * (n - n0) / (n1 - n0)
            }
            None => self.steps[self.steps.len() - 1].1,
        };
        decode / 1e3 + n_prefill as f64 / self.prefill
    }

    /// Returns the seconds of work of a mean request in a full batch.
    fn work(&self) -> f64 {
        let step = self.step_time(self.parallel, 0);
        self.prompt / self.prefill + self.generate * step / self.parallel as f64
    }
}

/// How requests are handed out.
#[derive(Clone, Copy)]
enum Balancer {
    Random,
    RoundRobin,
    /// The less loaded of two random ones.
    BetterOfTwo,
    LeastLoaded,
}

/// An engine that computes nothing.
struct FakeEngine {
    sequences: Vec<Option<Vec<u32>>>,
}

impl StepEngine for FakeEngine {
    fn isa(&self) -> Isa {
        Isa::Scalar
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn context_len(&self) -> usize {
        CONTEXT
    }

    fn n_sequences(&self) -> usize {
        self.sequences.len()
    }

    fn batch_tokens(&self) -> usize {
        512
    }

    fn len(&self, sequence: usize) -> usize {
        self.tokens(sequence).len()
    }

    fn tokens(&self, sequence: usize) -> &[u32] {
        self.sequences[sequence].as_deref().unwrap_or_default()
    }

    fn start(&mut self, prompt: &[u32], _: usize) -> Result<SequenceHandle, SequenceError> {
        let n_sequences = self.sequences.len();
        let idle = self.sequences.iter().position(Option::is_none);
        let sequence = idle.ok_or(SequenceError::NoneIdle { n_sequences })?;
        self.sequences[sequence] = Some(Vec::with_capacity(prompt.len()));
        Ok(SequenceHandle {
            sequence,
            n_reused: 0,
        })
    }

    fn truncate(&mut self, sequence: usize, len: usize) {
        if let Some(tokens) = &mut self.sequences[sequence] {
            tokens.truncate(len);
        }
    }

    fn release_guarantee(&mut self, _: usize) {}

    fn finish(&mut self, sequence: usize) {
        self.sequences[sequence] = None;
    }

    fn forward(
        &mut self,
        inputs: &[Input<'_>],
        on_logits: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), ForwardError> {
        for (i, input) in inputs.iter().enumerate() {
            if let Some(tokens) = &mut self.sequences[input.sequence] {
                tokens.extend_from_slice(input.tokens);
            }
            if !matches!(input.logits, bitnet_inference::Logits::None) {
                on_logits(i, input.tokens.len() - 1, &[1.0, 0.0]);
            }
        }
        Ok(())
    }

    fn normalized(&self, hidden: Vec<f32>) -> Result<Vec<f32>, ForwardError> {
        Ok(hidden)
    }
}

/// A server.
struct Replica {
    scheduler: Scheduler,
    engine: FakeEngine,
    budget: PrefillBudget,
    /// When each request arrived, and whether its first step has begun.
    arrived: HashMap<TaskId, (f64, bool)>,
    /// Requests that are not answered.
    n_open: usize,
    is_busy: bool,
    busy_time: f64,
}

/// What was measured, in seconds.
#[derive(Default)]
struct Times {
    queue: Vec<f64>,
    first_token: Vec<f64>,
}

impl Replica {
    fn new(options: &Options) -> Self {
        let mut end_tokens = TokenSet::new(VOCAB);
        end_tokens.insert(1);
        Self {
            scheduler: Scheduler::new(SchedulerOptions {
                max_running: options.parallel,
                max_waiting: usize::MAX / 2,
                end_tokens,
            }),
            engine: FakeEngine {
                sequences: vec![None; options.parallel],
            },
            budget: PrefillBudget::new(STEP_RATIO, STEP_TIME),
            arrived: HashMap::new(),
            n_open: 0,
            is_busy: false,
            busy_time: 0.0,
        }
    }

    /// Runs a step that begins now. Returns its end.
    fn step(&mut self, now: f64, options: &Options, times: &mut Times) -> f64 {
        let n_decodes = self.scheduler.n_decodes(&self.engine);
        let limits = StepLimits {
            max_prefill: self.budget.positions(n_decodes),
            draft_cost: None,
        };
        let (mut first_tokens, arrived) = (Vec::new(), &mut self.arrived);
        let (mut n_ended, queue) = (0, &mut times.queue);
        let report = self.scheduler.step(&mut self.engine, limits, |id, event| {
            match event {
                TaskEvent::Prefill { done, total } => {
                    let (at, has_begun) = arrived.get_mut(&id).expect("it is open");
                    if !std::mem::replace(has_begun, true) {
                        queue.push(now - *at);
                    }
                    if done == total {
                        first_tokens.push(*at);
                    }
                }
                TaskEvent::Finished { .. } => {
                    arrived.remove(&id);
                    n_ended += 1;
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
        self.n_open -= n_ended;
        let time = options.step_time(report.n_decodes, report.n_prefill);
        self.budget.observe(report, Duration::from_secs_f64(time));
        self.busy_time += time;
        let first_tokens = first_tokens.into_iter();
        (times.first_token).extend(first_tokens.map(|at| now + time - at));
        now + time
    }
}

/// A number from 0 to 1, without 0.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (f64::from(rng.next_u32()) + 1.0) / (f64::from(u32::MAX) + 1.0)
}

fn exponential(rng: &mut ChaCha8Rng, mean: f64) -> f64 {
    -mean * uniform(rng).ln()
}

/// Microseconds, so that times have an order.
fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

/// Returns the times of requests, and the share of its time that a replica computes.
fn simulate(options: &Options, balancer: Balancer, load: f64) -> (Times, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let below = |rng: &mut ChaCha8Rng, n: usize| (uniform(rng) * n as f64) as usize % n;
    let mut replicas: Vec<Replica> = (0..options.replicas)
        .map(|_| Replica::new(options))
        .collect();
    let mut steps: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let pause = options.work() / (load * options.replicas as f64);
    let n_requests = options.requests * options.replicas;
    let (mut times, mut arrival, mut last) = (Times::default(), 0.0, 0.0f64);
    let mut next = 0;
    for _ in 0..n_requests {
        arrival += exponential(&mut rng, pause);
        while let Some(&Reverse((at, index))) = steps.peek()
            && at <= micros(arrival)
        {
            steps.pop();
            advance(
                &mut replicas[index],
                at,
                options,
                &mut times,
                &mut steps,
                index,
            );
        }
        let open = |index: usize| replicas[index].n_open;
        let index = match balancer {
            Balancer::Random => below(&mut rng, options.replicas),
            Balancer::RoundRobin => {
                next = (next + 1) % options.replicas;
                next
            }
            Balancer::BetterOfTwo => {
                let two = [0, 0].map(|_| below(&mut rng, options.replicas));
                two.into_iter().min_by_key(|&i| open(i)).expect("two")
            }
            Balancer::LeastLoaded => (0..options.replicas).min_by_key(|&i| open(i)).expect("one"),
        };
        let most = (CONTEXT / 2) as f64;
        let prompt = exponential(&mut rng, options.prompt).clamp(1.0, most) as usize;
        let task = Task {
            // No two share a prefix.
            prompt: (0..prompt).map(|_| rng.next_u32() % 2).collect(),
            work: Work::Generate(GenerationTask {
                max_tokens: exponential(&mut rng, options.generate).clamp(1.0, most) as usize,
                sampling: SamplerOptions::GREEDY,
                ..GenerationTask::default()
            }),
        };
        let replica = &mut replicas[index];
        let id = replica.scheduler.submit(&replica.engine, 0, task);
        (replica.arrived).insert(id.expect("there is room"), (arrival, false));
        replica.n_open += 1;
        if !std::mem::replace(&mut replica.is_busy, true) {
            let end = replica.step(arrival, options, &mut times);
            steps.push(Reverse((micros(end), index)));
        }
        last = arrival;
    }
    let busy: f64 = replicas.iter().map(|replica| replica.busy_time).sum();
    (times, busy / (last * options.replicas as f64))
}

/// Ends a step of a replica, and begins the next one if there is something to do.
fn advance(
    replica: &mut Replica,
    at: u64,
    options: &Options,
    times: &mut Times,
    steps: &mut BinaryHeap<Reverse<(u64, usize)>>,
    index: usize,
) {
    replica.is_busy = !replica.scheduler.is_idle();
    if replica.is_busy {
        let end = replica.step(at as f64 / 1e6, options, times);
        steps.push(Reverse((micros(end), index)));
    }
}

/// Returns the value that a share of the others does not exceed.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * share) as usize;
    values.get(index).or(values.last()).copied().unwrap_or(0.0)
}

fn main() -> Result<(), String> {
    let options = Options::parse(std::env::args().skip(1))?;
    println!(
        "{} replicas, {} texts each, {} requests; one full replica answers {:.2} requests/s",
        options.replicas,
        options.parallel,
        options.requests * options.replicas,
        1.0 / options.work()
    );
    println!("| load | balancer | queue p50 | p99 | first token p50 | p99 | busy |");
    println!("|---|---|---|---|---|---|---|");
    for &load in &options.load {
        for (name, balancer) in [
            ("random", Balancer::Random),
            ("round robin", Balancer::RoundRobin),
            ("better of two", Balancer::BetterOfTwo),
            ("least loaded", Balancer::LeastLoaded),
        ] {
            let (mut times, busy) = simulate(&options, balancer, load);
            let ms = |values: &mut Vec<f64>, share| 1e3 * quantile(values, share);
            println!(
                "| {:.0} % | {name} | {:.0} ms | {:.0} ms | {:.0} ms | {:.0} ms | {:.0} % |",
                100.0 * load,
                ms(&mut times.queue, 0.5),
                ms(&mut times.queue, 0.99),
                ms(&mut times.first_token, 0.5),
                ms(&mut times.first_token, 0.99),
                100.0 * busy
            );
        }
    }
    Ok(())
}
