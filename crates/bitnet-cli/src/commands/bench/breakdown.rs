//! `bitnet bench --breakdown`: the time of each operation in passes, and alone.

use bitnet_benchmarks::Case;
use bitnet_benchmarks::cases::{
    HeadCounts, add, attention, gate, int8_matmul, quantize, rms_norm, rope, ternary_matmul,
};
use bitnet_core::{
    Operation, OperationTimes, Shape, TernaryLayout, ThreadPool, ops, record_operations,
};
use bitnet_inference::{Activation, ActivationPrecision, HeadPrecision, Model, Plan, Skipped};
use serde::Serialize;

use super::Test;
use crate::ui::Ui;

/// Where the time of one repetition of a test goes.
#[derive(Debug, Serialize)]
pub struct Breakdown {
    /// The whole repetition: the sum of the times of all operations.
    time_s: f64,
    /// The operations that take part, in the order of a pass.
    operations: Vec<OperationRow>,
}

#[derive(Debug, Serialize)]
struct OperationRow {
    operation: &'static str,
    time_s: f64,
    /// Of the repetition.
    fraction: f64,
    /// The same work alone, repeated on data of the same shapes; `null` where that is not
    /// measured.
    alone_s: Option<f64>,
    /// Bytes read per second, each counted once per pass.
    gb_s: Option<f64>,
    /// Multiply-adds per second.
    gmac_s: Option<f64>,
}

/// The work of an operation in a repetition, measured alone.
#[derive(Clone, Copy, Debug, Default)]
struct Alone {
    seconds: Option<f64>,
    bytes: Option<f64>,
    macs: Option<f64>,
}

/// A test and its engine.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub model: &'a Model,
    pub plan: &'a Plan,
    pub test: &'a Test,
    pub skipped: Skipped,
}

impl Breakdown {
    /// Compares recorded times with those of the operations alone, which are measured here.
    pub fn new(subject: Subject<'_>, times: &OperationTimes) -> Self {
        let total = times.total().as_secs_f64();
        let mut threads = ThreadPool::new(subject.plan.n_threads);
        let taking_part = |operation: &Operation| times.laps(*operation) > 0;
        let operations = Operation::ALL.into_iter().filter(taking_part);
        let mut of_attention = None;
        let rows = operations.map(|operation| {
            let time_s = times.of(operation).as_secs_f64();
            let alone = match operation {
                Operation::Scores | Operation::Softmax | Operation::WeightedSums => {
                    let alone = of_attention.get_or_insert_with(|| subject.attention(&mut threads));
                    Alone {
                        seconds: Some(alone.seconds(operation)),
                        ..Alone::default()
                    }
                }
                _ => subject.alone(operation, &mut threads),
            };
            let per_second = |n: Option<f64>| Some(n? / time_s / 1e9);
            OperationRow {
                operation: operation.name(),
                time_s,
                fraction: time_s / total,
                alone_s: alone.seconds,
                gb_s: per_second(alone.bytes),
                gmac_s: per_second(alone.macs),
            }
        });
        Self {
            operations: rows.collect(),
            time_s: total,
        }
    }

    pub fn print(&self, ui: &Ui) -> anyhow::Result<()> {
        let header = ["operation", "ms", "share", "alone ms", "GB/s", "GMAC/s"];
        let line = |[name, ms, share, alone, gb_s, gmac_s]: [&str; 6]| {
            format!("{name:<13} {ms:>10} {share:>7} {alone:>10} {gb_s:>7} {gmac_s:>7}")
        };
        ui.line(&line(header))?;
        let or_none = |value: Option<String>| value.unwrap_or_default();
        for row in &self.operations {
            ui.line(
                line([
                    row.operation,
                    &format!("{:.3}", row.time_s * 1e3),
                    &format!("{:.1} %", row.fraction * 100.0),
                    &or_none(row.alone_s.map(|s| format!("{:.3}", s * 1e3))),
                    &or_none(row.gb_s.map(|rate| format!("{rate:.1}"))),
                    &or_none(row.gmac_s.map(|rate| format!("{rate:.1}"))),
                ])
                .trim_end(),
            )?;
        }
        let total = format!("{:.3}", self.time_s * 1e3);
        ui.line(line(["all", &total, "100.0 %", "", "", ""]).trim_end())
    }
}

/// The time of attention alone.
struct AttentionAlone {
    /// Of as much work as the repetition.
    seconds: f64,
    /// Of some work on one thread, for the shares of the operations.
    times: OperationTimes,
}

impl AttentionAlone {
    fn seconds(&self, operation: Operation) -> f64 {
        let share = self.times.of(operation).as_secs_f64() / self.times.total().as_secs_f64();
        self.seconds * share
    }
}

impl Subject<'_> {
    /// Returns the rows of a pass, and how many such passes are as much work as the
    /// repetition.
    fn passes(&self) -> (usize, f64) {
        let n_rows = self.test.n_tokens * self.test.batch;
        let rows_per_pass = if self.test.writes {
            self.test.batch
        } else {
            n_rows.min(self.plan.batch_tokens)
        };
        (rows_per_pass, n_rows as f64 / rows_per_pass as f64)
    }

    fn layout(&self, operation: Operation) -> Option<TernaryLayout> {
        let config = self.model.config();
        let is_skipping = match operation {
            Operation::Up => self.skipped.rows.total > 0,
            Operation::Down => self.skipped.columns.total > 0,
            _ => false,
        };
        let is_measured = !config.dense_linears
            && config.activations == ActivationPrecision::Int8
            && !is_skipping;
        is_measured.then(|| self.model.layout())
    }

    /// Measures an operation other than attention.
    fn alone(&self, operation: Operation, threads: &mut ThreadPool) -> Alone {
        let config = self.model.config();
        let (n, passes) = self.passes();
        let per_layer = passes * config.n_layers as f64;
        let (hidden, ffn) = (config.hidden_dim, config.ffn_dim);
        let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
        let rows = |n_cols| Shape { n_rows: n, n_cols };
        let mut sum = |cases: Vec<(f64, Case)>| self.sum(cases, threads);
        let mut product = |n_rows, n_cols| match self.layout(operation) {
            Some(layout) => {
                let case = ternary_matmul(layout, Shape { n_rows, n_cols }, n);
                sum(vec![(per_layer, case)])
            }
            None => self.skipping(operation, (n_rows * n_cols * n) as f64 * per_layer),
        };
        let has_sub_norms = config.family.has_sub_norms() && !config.projection_norms;
        match operation {
            Operation::Query => product(q_dim, hidden),
            Operation::Key | Operation::Value => product(kv_dim, hidden),
            Operation::AttentionOutput => product(hidden, q_dim),
            Operation::Gate | Operation::Up => product(ffn, hidden),
            Operation::Down => product(hidden, ffn),
            Operation::Norm if config.projection_norms => Alone::default(),
            Operation::Norm => {
                let mut cases = vec![(2.0 * per_layer, rms_norm(rows(hidden)))];
                if has_sub_norms {
                    cases.push((per_layer, rms_norm(rows(q_dim))));
                    cases.push((per_layer, rms_norm(rows(ffn))));
                }
                sum(cases)
            }
            Operation::Quantize if config.activations == ActivationPrecision::Int8 => sum(vec![
                (2.0 * per_layer, quantize(rows(hidden))),
                (per_layer, quantize(rows(q_dim))),
                (per_layer, quantize(rows(ffn))),
            ]),
            Operation::Rotary => sum(vec![
                (per_layer, rope(rows(q_dim), config.head_dim)),
                (per_layer, rope(rows(kv_dim), config.head_dim)),
            ]),
            Operation::Residual => sum(vec![(2.0 * per_layer, add(rows(hidden)))]),
            Operation::Activation => {
                let case = match config.activation {
                    Activation::Relu2 => gate("relu2", ops::relu2_mul, rows(ffn)),
                    Activation::Silu => gate("silu", ops::silu_mul, rows(ffn)),
                    Activation::GeluTanh => gate("gelu", ops::gelu_tanh_mul, rows(ffn)),
                };
                sum(vec![(per_layer, case)])
            }
            Operation::Head if self.model.head_precision() == HeadPrecision::Int8 => {
                let shape = Shape {
                    n_rows: config.vocab_size,
                    n_cols: hidden,
                };
                let passes = if self.test.writes { passes } else { 1.0 };
                sum(vec![(passes, int8_matmul(shape, self.test.batch))])
            }
            _ => Alone::default(),
        }
    }

    /// Returns the work of a product that skips zeros, which is not measured alone.
    fn skipping(&self, operation: Operation, macs: f64) -> Alone {
        let share = match operation {
            Operation::Up => self.skipped.rows.fraction(),
            Operation::Down => self.skipped.columns.fraction(),
            _ => None,
        };
        Alone {
            macs: Some(macs * (1.0 - share.unwrap_or(0.0))),
            ..Alone::default()
        }
    }

    /// Measures cases, each run as often as given.
    fn sum(&self, cases: Vec<(f64, Case)>, threads: &mut ThreadPool) -> Alone {
        let (mut seconds, mut bytes, mut macs) = (0.0, 0.0, 0.0);
        for (n_runs, mut case) in cases {
            seconds += n_runs * case.seconds(self.plan.isa, threads);
            bytes += n_runs * case.n_bytes as f64;
            macs += n_runs * case.n_macs as f64;
        }
        Alone {
            seconds: Some(seconds),
            bytes: Some(bytes),
            macs: (macs > 0.0).then_some(macs),
        }
    }

    /// Measures attention at the average position of the test.
    fn attention(&self, threads: &mut ThreadPool) -> AttentionAlone {
        const N_RUNS: usize = 8;
        let config = self.model.config();
        let counts = HeadCounts {
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
        };
        let Test {
            n_tokens, depth, ..
        } = *self.test;
        let n_rows = if self.test.writes {
            1
        } else {
            n_tokens.min(self.plan.batch_tokens)
        };
        let shape = (n_rows, depth + usize::midpoint(n_tokens, n_rows));
        let mut case = attention(self.plan.kv_precision, counts, shape);
        let n_runs = (config.n_layers * self.test.batch * n_tokens) as f64 / n_rows as f64;
        let seconds = n_runs * case.seconds(self.plan.isa, threads);
        // Of several threads, the calling one may get nothing of so short a job.
        let mut one = ThreadPool::new(1);
        let ((), times) = record_operations(|| {
            for _ in 0..N_RUNS {
                case.run(self.plan.isa, &mut one);
            }
        });
        AttentionAlone { seconds, times }
    }
}
