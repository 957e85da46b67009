//! Identification of the machine and its peak performance.

use std::fs;

use bitnet_core::{HybridMemoryPool, Isa, OutOfMemory, ThreadPool, machine};
use serde::Serialize;

/// The machine and its limits, one value for each entry of `threads`.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The processor name reported by the system.
    pub cpu: String,
    arch: &'static str,
    os: &'static str,
    /// Hardware threads that this process may use.
    pub cores: usize,
    /// Cores of the machine, which may have several threads each.
    pub physical_cores: usize,
    /// Memory available to this process in bytes, limited by its memory cgroup; `null`
    /// if unknown.
    memory_bytes: Option<usize>,
    /// The folder of the limiting cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_cgroup: Option<String>,
    /// Data caches of the first core, the smallest first; empty if unknown.
    caches: Vec<Cache>,
    /// Supported kernels, the best first.
    kernels: Vec<&'static str>,
    pub threads: Vec<usize>,
    pub read_gb_s: Vec<f64>,
    /// `null` for an instruction set without dot product instructions.
    pub int8_gmac_s: Vec<Option<f64>>,
}

#[derive(Debug, Serialize)]
struct Cache {
    level: u32,
    bytes: u64,
}

/// Bytes and int8 multiply-adds per second.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub read: f64,
    pub int8: Option<f64>,
}

impl Machine {
    /// Identifies the machine, without measuring its limits.
    pub fn identify() -> Self {
        let memory = machine::memory_limit();
        Self {
            cpu: machine::cpu_name().unwrap_or_else(|| "unknown processor".to_owned()),
            arch: std::env::consts::ARCH,
            os: std::env::consts::OS,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            physical_cores: machine::physical_cores(),
            memory_bytes: memory.as_ref().map(|limit| limit.total),
            memory_cgroup: memory
                .and_then(|limit| limit.cgroup)
                .map(|folder| folder.display().to_string()),
            caches: caches(),
            kernels: Isa::available().map(Isa::name).collect(),
            threads: Vec::new(),
            read_gb_s: Vec::new(),
            int8_gmac_s: Vec::new(),
        }
    }

    /// Measures and records the limits of this many threads.
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough memory for the measurement.
    pub fn measure(
        &mut self,
        pool: &HybridMemoryPool,
        isa: Isa,
        n_threads: usize,
    ) -> Result<Limits, OutOfMemory> {
        let mut threads = ThreadPool::new(n_threads);
        let limits = Limits {
            read: machine::read_bandwidth(pool, isa, &mut threads)?,
            int8: machine::int8_peak(isa, &mut threads),
        };
        self.threads.push(n_threads);
        self.read_gb_s.push(limits.read / 1e9);
        self.int8_gmac_s.push(limits.int8.map(|peak| peak / 1e9));
        Ok(limits)
    }

    /// Returns the machine and its limits, one per line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![match (self.physical_cores, self.cores) {
            (cores, threads) if cores == threads => format!("{}, {cores} cores", self.cpu),
            (cores, threads) => format!("{}, {cores} cores, {threads} threads", self.cpu),
        }];
        let limits = self.threads.iter().zip(&self.read_gb_s);
        lines.extend(
            limits
                .zip(&self.int8_gmac_s)
                .map(|((threads, read), int8)| {
                    let int8 =
                        int8.map_or(String::new(), |peak| format!(", {peak:.0} int8 GMAC/s"));
                    format!("limits of {threads} threads: {read:.1} GB/s read{int8}")
                }),
        );
        lines
    }
}

/// Returns the caches from Linux's sysfs; empty on other systems.
fn caches() -> Vec<Cache> {
    let read = |index: usize, file: &str| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{file}");
        Some(fs::read_to_string(path).ok()?.trim().to_owned())
    };
    (0..8)
        .filter(|&index| read(index, "type").is_some_and(|kind| kind != "Instruction"))
        .filter_map(|index| {
            let size = read(index, "size")?;
            Some(Cache {
                level: read(index, "level")?.parse().ok()?,
                bytes: size.strip_suffix('K')?.parse::<u64>().ok()? * 1024,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_name_and_kernels() {
        let machine = Machine::identify();
        assert!(!machine.cpu.is_empty() && machine.cores > 0);
        assert_eq!(machine.kernels.last(), Some(&"generic-i2xi8-scalar"));
        assert!(machine.caches.is_sorted_by_key(|cache| cache.level));
    }
}
