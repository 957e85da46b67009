//! `bitnet bench --kernels`: every operation, compared with its ceiling.

use std::collections::HashMap;

use bitnet_benchmarks::{Arithmetic, Case, cases};
use bitnet_core::{HybridMemoryPool, Isa, OutOfMemory, ThreadPool, machine};
use serde::Serialize;

use crate::error::Interrupted;
use crate::interrupt;
use crate::machine::Machine;
use crate::ui::Ui;

/// The maximum of a plan.
pub const MAX_THREADS: usize = 1024;

/// The document of `--kernels --json`.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    kernel: &'static str,
    operation: &'static str,
    shape: String,
    threads: usize,
    time_s: f64,
    /// Bytes to read, each counted once.
    bytes: usize,
    gb_s: f64,
    /// `null` for operations without relevant multiply-adds.
    gmac_s: Option<f64>,
    limit: &'static str,
    /// The ceiling, in GB/s or GMAC/s.
    limit_value: Option<f64>,
    limit_fraction: Option<f64>,
}

/// Measures the kernels of these instruction sets with these numbers of threads, and
/// prints a table or a JSON document.
///
/// # Errors
///
/// Returns an error if memory or output fails.
pub fn run(isas: &[Isa], thread_counts: &[usize], json: bool, ui: &Ui) -> anyhow::Result<()> {
    interrupt::defer();
    let mut progress = ui.progress("measuring");
    let mut machine = Machine::identify();
    let mut thread_pools: Vec<_> = thread_counts.iter().map(|&n| ThreadPool::new(n)).collect();
    let mut alone = vec![ThreadPool::new(1)];
    let mut ceilings = Ceilings::default();
    let mut rows = Vec::new();
    for &n_threads in thread_counts {
        machine.measure(&ceilings.pool, Isa::best(), n_threads)?;
    }
    let cases = cases();
    let n_cases = cases.len();
    for (i, mut case) in cases.enumerate() {
        progress.set(i, n_cases);
        for &isa in isas {
            // An operation that is not parallel is measured with one thread.
            let thread_pools = if case.is_shared {
                &mut thread_pools
            } else {
                &mut alone
            };
            for threads in thread_pools {
                if interrupt::requested() {
                    return Err(Interrupted.into());
                }
                rows.push(measure(&mut case, isa, threads, &mut ceilings)?);
            }
        }
    }
    drop(progress);
    let report = Report { machine, rows };
    if json {
        return ui.json(&report);
    }
    print(&report, ui)
}

fn measure(
    case: &mut Case,
    isa: Isa,
    threads: &mut ThreadPool,
    ceilings: &mut Ceilings,
) -> Result<Row, OutOfMemory> {
    let time_s = case.seconds(isa, threads);
    let bytes_s = case.n_bytes as f64 / time_s;
    let macs_s = case.n_macs as f64 / time_s;
    let read = ceilings.read(threads, case.n_bytes)?;
    let peak = match case.arithmetic {
        _ if case.n_macs == 0 => Some(f64::INFINITY),
        Arithmetic::Int8 => ceilings.int8(isa, threads),
        Arithmetic::F32 => ceilings.f32(isa, threads),
    };
    let multiplies = match case.arithmetic {
        Arithmetic::Int8 => "int8",
        Arithmetic::F32 => "f32",
    };
    // The limit is whichever takes longer at the machine's peak.
    let (limit, ceiling, reached) = match peak {
        None => (multiplies, None, macs_s),
        Some(peak) if case.n_macs as f64 / peak > case.n_bytes as f64 / read => {
            (multiplies, Some(peak), macs_s)
        }
        Some(_) => ("memory", Some(read), bytes_s),
    };
    Ok(Row {
        kernel: isa.name(),
        operation: case.operation,
        shape: case.shape.clone(),
        threads: threads.n_threads(),
        time_s,
        bytes: case.n_bytes,
        gb_s: bytes_s / 1e9,
        gmac_s: (case.n_macs > 0).then_some(macs_s / 1e9),
        limit,
        limit_value: ceiling.map(|ceiling| ceiling / 1e9),
        limit_fraction: ceiling.map(|ceiling| reached / ceiling),
    })
}

/// Measured ceilings, by threads and bytes or instruction set.
#[derive(Default)]
struct Ceilings {
    pool: HybridMemoryPool,
    read: HashMap<(usize, usize), f64>,
    int8: HashMap<(usize, &'static str), Option<f64>>,
    f32: HashMap<(usize, &'static str), Option<f64>>,
}

impl Ceilings {
    /// Returns the measured read bandwidth for this many bytes, in bytes per second,
    /// from the caches if they fit.
    fn read(&mut self, threads: &mut ThreadPool, n_bytes: usize) -> Result<f64, OutOfMemory> {
        let key = (threads.n_threads(), n_bytes);
        if let Some(&known) = self.read.get(&key) {
            return Ok(known);
        }
        let read = machine::read_bandwidth_of(&self.pool, Isa::best(), threads, n_bytes)?;
        self.read.insert(key, read);
        Ok(read)
    }

    fn int8(&mut self, isa: Isa, threads: &mut ThreadPool) -> Option<f64> {
        *(self.int8.entry((threads.n_threads(), isa.name())))
            .or_insert_with(|| machine::int8_peak(isa, threads))
    }

    fn f32(&mut self, isa: Isa, threads: &mut ThreadPool) -> Option<f64> {
        *(self.f32.entry((threads.n_threads(), isa.name())))
            .or_insert_with(|| machine::f32_peak(isa, threads))
    }
}

fn print(report: &Report, ui: &Ui) -> anyhow::Result<()> {
    for line in report.machine.lines() {
        ui.line(&line)?;
    }
    let mut kernel = "";
    for row in sorted(&report.rows) {
        if row.kernel != kernel {
            kernel = row.kernel;
            ui.line(&format!(
                "\n{:<10} {:<15} {:>7} {:>10} {:>7} {:>7}  of its ceiling    {kernel}",
                "operation", "shape", "threads", "µs", "GMAC/s", "GB/s"
            ))?;
        }
        let ceiling = match (row.limit_fraction, row.limit_value) {
            (Some(fraction), Some(value)) => {
                let unit = if row.limit == "memory" {
                    "GB/s"
                } else {
                    "GMAC/s"
                };
                format!(
                    "{:>4.0} % of {value:.0} {unit} {}",
                    fraction * 100.0,
                    row.limit
                )
            }
            _ => "   -".to_owned(),
        };
        ui.line(&format!(
            "{:<10} {:<15} {:>7} {:>10.2} {:>7} {:>7.1}  {ceiling}",
            row.operation,
            row.shape,
            row.threads,
            row.time_s * 1e6,
            row.gmac_s
                .map_or(String::new(), |rate| format!("{rate:.1}")),
            row.gb_s,
        ))?;
    }
    Ok(())
}

/// Returns the rows sorted by kernel, the best first, else in order of measurement.
fn sorted(rows: &[Row]) -> Vec<&Row> {
    let mut sorted: Vec<_> = rows.iter().collect();
    let rank = |row: &Row| Isa::available().position(|isa| isa.name() == row.kernel);
    sorted.sort_by_key(|row| rank(row));
    sorted
}
