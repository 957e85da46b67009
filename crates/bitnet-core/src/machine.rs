//! Properties of the machine, and its peak memory bandwidth and arithmetic throughput.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use crate::arch::NullaryFnOnce;
use crate::isa::Isa;
use crate::lanes::{Lanes, WithSimd};
use crate::memory::{Category, HybridMemoryPool, OutOfMemory};
use crate::thread_pool::ThreadPool;

/// Bytes read per pass, far more than the caches hold.
const READ_BYTES: usize = 1 << 29;

/// The minimum bytes to read, even if memory is scarce.
const READ_BYTES_AT_LEAST: usize = 1 << 20;

/// The minimum bytes read per pass, over several rounds if the data are smaller.
const ROUND_BYTES: usize = 1 << 26;

/// Words that are read in parallel.
const READ_LANES: usize = 64;

/// Passes per measurement; the fastest counts.
const PASSES: usize = 5;

/// Returns the name of the processor, or `None` if it is unknown.
#[cfg(target_os = "linux")]
pub fn cpu_name() -> Option<String> {
    // Where the processor has no name, the board has one.
    let board = std::fs::read_to_string("/proc/device-tree/model").ok();
    let board = board.map(|name| name.trim_end_matches('\0').to_owned());
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let field = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find_map(|(key, value)| (key.trim() == name).then(|| value.trim().to_owned()))
    };
    let part = || {
        let (implementer, part) = (field("CPU implementer")?, field("CPU part")?);
        Some(format!("CPU implementer {implementer} part {part}"))
    };
    let cpu = field("model name").or_else(part);
    let names: Vec<_> = [board, cpu].into_iter().flatten().collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Returns the name of the processor, or `None` if it is unknown.
#[cfg(target_os = "macos")]
pub fn cpu_name() -> Option<String> {
    let sysctl = std::process::Command::new("sysctl")
        .args(["-n", "machdep.cpu.brand_string"])
        .output()
        .ok()?;
    let name = String::from_utf8(sysctl.stdout).ok()?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

/// Returns the name of the processor, or `None` if it is unknown.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn cpu_name() -> Option<String> {
    std::env::var("PROCESSOR_IDENTIFIER").ok()
}

/// Returns the number of physical cores of the machine, not of hardware threads.
pub fn physical_cores() -> usize {
    num_cpus::get_physical()
}

/// The memory available to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The total memory in bytes.
    pub total: usize,
    /// The bytes of `total` that count as in use.
    pub in_use: usize,
    /// The swap space in bytes.
    pub swap: usize,
    /// The folder of the memory cgroup that sets the limit; `None` if the limit is the
    /// machine's memory.
    pub cgroup: Option<PathBuf>,
}

impl MemoryLimit {
    /// Returns the bytes that can still be allocated before the system kills a process.
    pub fn left(&self) -> usize {
        (self.total.saturating_add(self.swap)).saturating_sub(self.in_use)
    }
}

/// Returns the memory available to this process: that of the memory cgroup with the least
/// left, or that of the machine if it is less. Returns `None` if it is unknown, as on
/// systems other than Linux.
///
/// The memory in use of a cgroup is that of all its processes, without the page cache,
/// which the system reclaims when needed; swap does not count. Of the machine's memory,
/// nothing counts as in use, since other processes may release it.
#[cfg(target_os = "linux")]
pub fn memory_limit() -> Option<MemoryLimit> {
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = meminfo.and_then(|text| {
        Some(MemoryLimit {
            total: kibibytes(&text, "MemTotal:")?,
            in_use: 0,
            swap: kibibytes(&text, "SwapTotal:").unwrap_or(0),
            cgroup: None,
        })
    });
    let group = crate::cgroup::tightest("/".as_ref()).map(|group| MemoryLimit {
        total: bytes(group.limit),
        in_use: bytes(group.in_use),
        swap: 0,
        cgroup: Some(group.folder),
    });
    let limits = [group, machine].into_iter().flatten();
    limits.min_by_key(MemoryLimit::left)
}

/// Returns `None`: the memory available to this process is unknown on this system.
#[cfg(not(target_os = "linux"))]
pub fn memory_limit() -> Option<MemoryLimit> {
    None
}

/// Returns the resident memory of this process in bytes: what it has written, and the pages
/// of mapped files that it has read, its executable included. Returns `None` if it is
/// unknown, as on systems other than Linux.
pub fn resident_memory() -> Option<usize> {
    status_bytes("VmRSS:")
}

/// Returns the file-backed part of [`resident_memory`]: the executable, its libraries, and
/// mapped files.
pub fn resident_file_memory() -> Option<usize> {
    status_bytes("RssFile:")
}

/// Returns the peak of [`resident_memory`] since [`reset_peak_memory`] or the start of the
/// process.
pub fn peak_resident_memory() -> Option<usize> {
    status_bytes("VmHWM:")
}

/// Resets [`peak_resident_memory`] to the current value. Has no effect on systems other
/// than Linux.
pub fn reset_peak_memory() {
    if cfg!(target_os = "linux") {
        // Kernels without this file keep the peak since the start, which is still an upper
        // bound.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
    }
}

/// Returns a field of `/proc/self/status` in bytes.
fn status_bytes(field: &str) -> Option<usize> {
    if !cfg!(target_os = "linux") {
        // A file of this name on other systems has other contents.
        return None;
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kibibytes(&status, field)
}

/// Parses a line such as `VmRSS:   1234 kB` and returns its bytes.
fn kibibytes(text: &str, field: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Measures the memory read bandwidth of the thread pool, in bytes per second.
///
/// Allocates half a gibibyte, or half of the memory left by [`memory_limit`] if that is
/// less, and takes about a quarter of a second.
///
/// # Errors
///
/// Returns an error if the system is out of memory.
pub fn read_bandwidth(
    pool: &HybridMemoryPool,
    isa: Isa,
    threads: &mut ThreadPool,
) -> Result<f64, OutOfMemory> {
    let left = memory_limit().map_or(usize::MAX, |limit| limit.left());
    let n_bytes = READ_BYTES.min(left / 2).max(READ_BYTES_AT_LEAST);
    read_bandwidth_of(pool, isa, threads, n_bytes)
}

/// Measures the bandwidth of repeatedly reading the same `n_bytes` with the thread pool, in
/// bytes per second: that of the caches, if the data fit.
///
/// # Errors
///
/// Returns an error if the system is out of memory.
///
/// # Panics
///
/// Panics if `n_bytes` is less than 512.
pub fn read_bandwidth_of(
    pool: &HybridMemoryPool,
    isa: Isa,
    threads: &mut ThreadPool,
    n_bytes: usize,
) -> Result<f64, OutOfMemory> {
    let len = n_bytes / (READ_LANES * size_of::<u64>());
    let mut data = pool.zeroed(Category::Scratch, len)?;
    // Write the data so that every page is backed by its own memory.
    data.fill([1u64; READ_LANES]);
    assert!(!data.is_empty(), "something to read");
    // For small data, each thread reads one chunk; for large data, smaller chunks balance
    // the load.
    let share = data.len().div_ceil(threads.n_threads());
    let chunk_len = share.min((1 << 21) / (READ_LANES * size_of::<u64>()));
    let n_rounds = (ROUND_BYTES / n_bytes).max(1);
    let n_read = (n_rounds * size_of_val(&*data)) as f64;
    Ok(fastest(n_read, || {
        for _ in 0..n_rounds {
            threads.for_each(data.len().div_ceil(chunk_len), |_, chunk| {
                let rest = &data[chunk * chunk_len..];
                black_box(isa.vectorize(Read(&rest[..chunk_len.min(rest.len())])));
            });
        }
    }))
}

/// Measures the peak of int8 dot product instructions on registers, in multiply-adds per
/// second of the whole thread pool. Returns `None` for an instruction set without such
/// instructions.
pub fn int8_peak(isa: Isa, threads: &mut ThreadPool) -> Option<f64> {
    const ROUNDS: usize = 100_000;
    const N_CHUNKS: usize = 64;
    let macs_per_round = isa.int8_peak_rounds(1)?;
    let macs = (N_CHUNKS * ROUNDS * macs_per_round) as f64;
    Some(fastest(macs, || {
        threads.for_each(N_CHUNKS, |_, _| {
            black_box(isa.int8_peak_rounds(ROUNDS));
        });
    }))
}

/// Measures the peak of f32 fused multiply-add instructions on registers, in multiply-adds
/// per second of the whole thread pool. Returns `None` for an instruction set without such
/// an instruction.
pub fn f32_peak(isa: Isa, threads: &mut ThreadPool) -> Option<f64> {
    let in_baseline = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    if cfg!(target_arch = "wasm32") || isa == Isa::Scalar && !in_baseline {
        return None;
    }
    // Enough accumulators to hide the latency at two instructions per cycle: more for wide
    // registers, fewer where there are only sixteen registers.
    let narrow = f32_peak_of::<80>(isa, threads);
    Some(narrow.max(f32_peak_of::<128>(isa, threads)))
}

fn f32_peak_of<const N: usize>(isa: Isa, threads: &mut ThreadPool) -> f64 {
    const ROUNDS: usize = 20_000;
    const N_CHUNKS: usize = 16;
    fastest((N_CHUNKS * ROUNDS * N) as f64, || {
        threads.for_each(N_CHUNKS, |_, _| {
            black_box(isa.dispatch(MultiplyAdd::<N>(ROUNDS)));
        });
    })
}

/// Returns `amount` per second in the fastest pass.
fn fastest(amount: f64, mut pass: impl FnMut()) -> f64 {
    let seconds = (0..PASSES).map(|_| {
        let start = Instant::now();
        pass();
        start.elapsed().as_secs_f64()
    });
    amount / seconds.fold(f64::INFINITY, f64::min)
}

struct Read<'a>(&'a [[u64; READ_LANES]]);

impl NullaryFnOnce for Read<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        let mut lanes = [0u64; READ_LANES];
        for chunk in self.0 {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane ^= x;
            }
        }
        lanes.into_iter().fold(0, |all, lane| all ^ lane)
    }
}

/// Rounds of one multiply-add to each of `N` accumulators.
struct MultiplyAdd<const N: usize>(usize);

impl<const N: usize> WithSimd for MultiplyAdd<N> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) -> f32 {
        let (x, y) = (black_box(0.999), black_box(0.001));
        let mut sums = [1.0f32; N];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = lanes.mul_add_scalar(*sum, x, y);
            }
        }
        sums.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_memory_and_a_part_of_it_is_left() {
        let limit = memory_limit();
        assert_eq!(limit.is_some(), cfg!(target_os = "linux"));
        if let Some(limit) = limit {
            assert!(limit.total > 1 << 20, "{limit:?}");
            assert!(limit.left() <= limit.total + limit.swap, "{limit:?}");
        }
        let limit = MemoryLimit {
            total: 100,
            in_use: 130,
            swap: 20,
            cgroup: None,
        };
        assert_eq!(limit.left(), 0);
    }

    #[test]
    fn limits_are_positive_and_only_the_scalar_kernel_has_no_peak() {
        let mut threads = ThreadPool::new(2);
        for isa in Isa::available() {
            let peak = int8_peak(isa, &mut threads);
            assert_eq!(peak.is_none(), isa == Isa::Scalar);
            assert!(peak.is_none_or(|peak| peak > 1e6), "{isa}: {peak:?}");
        }
        for isa in Isa::available() {
            let peak = f32_peak(isa, &mut threads);
            assert!(peak.is_some() || isa == Isa::Scalar);
            assert!(peak.is_none_or(|peak| peak > 1e6), "{isa}: {peak:?}");
        }
        for n_bytes in [512, 1000, 1 << 16, READ_BYTES] {
            let bandwidth =
                read_bandwidth_of(&HybridMemoryPool::new(), Isa::best(), &mut threads, n_bytes)
                    .unwrap();
            assert!(bandwidth.is_finite() && bandwidth > 1e6, "{bandwidth}");
        }
    }
}
