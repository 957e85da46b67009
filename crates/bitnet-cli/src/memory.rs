//! Reports of memory use: the pool's accounting and the process's resident set.

use anyhow::Context;
use bitnet_core::HybridMemoryPool;
use bitnet_core::machine::{self, MemoryLimit};
use bitnet_core::memory::{Amount, Category};
use bitnet_inference::{Plan, PlanError};
use bitnet_server::MemoryTaken;
use indicatif::BinaryBytes;
use serde::Serialize;

/// Tracks the memory of this process from before a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct MemoryWatch {
    before: Option<usize>,
    files_before: Option<usize>,
    peak: Option<usize>,
}

/// The object `memory` of `--json`.
#[derive(Debug, Serialize)]
pub struct MemoryReport {
    #[serde(flatten)]
    total: AmountReport,
    /// By category.
    categories: Vec<CategoryReport>,
    /// Bytes that the pool has mapped beyond its blocks in use.
    reserve_bytes: usize,
    /// Resident set before the model was loaded; `null` if unknown, as below.
    before_bytes: Option<usize>,
    /// Increase of resident file pages since then.
    file_bytes: Option<usize>,
    /// Peak resident set of the process.
    peak_resident_bytes: Option<usize>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct AmountReport {
    current_bytes: usize,
    peak_bytes: usize,
    blocks: usize,
}

#[derive(Debug, Serialize)]
struct CategoryReport {
    category: &'static str,
    #[serde(flatten)]
    amount: AmountReport,
}

/// Parses a number of bytes with or without a unit.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse::<bytesize::ByteSize>().ok();
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes.0).ok());
    bytes.ok_or_else(|| "expected a number of bytes, such as 800MB or 1.2GiB".to_owned())
}

/// Returns a plan within the user's limit and the available memory, beside other models.
///
/// # Errors
///
/// Returns the error of the plan, with the origin of the limit as context if it is not
/// the user's.
pub fn plan_within(
    allowed: Option<usize>,
    others: MemoryTaken,
    plan: impl FnOnce(Option<usize>) -> Result<Plan, PlanError>,
) -> anyhow::Result<Plan> {
    let limit = machine::memory_limit();
    let allowed = allowed.map(|allowed| allowed.saturating_sub(others.planned));
    let left = limit.as_ref().map(|limit| {
        // What is allocated counts as in use, but only of a cgroup.
        let in_use = limit.cgroup.as_ref().map_or(0, |_| others.allocated);
        let to_come = others.planned.saturating_sub(in_use);
        limit.left().saturating_sub(to_come)
    });
    match (limit, left) {
        (Some(limit), Some(left)) if allowed.is_none_or(|allowed| left < allowed) => {
            let plan = plan(Some(left));
            if let Err(PlanError::MemoryLimit(_)) = plan {
                return plan.with_context(|| describe(&limit));
            }
            Ok(plan?)
        }
        _ => Ok(plan(allowed)?),
    }
}

/// Returns a description of the memory limit and its origin.
pub fn describe(limit: &MemoryLimit) -> String {
    let bytes = |n: usize| BinaryBytes(n as u64);
    match &limit.cgroup {
        Some(folder) => format!(
            "the memory cgroup {} has {}, {} of them in use",
            folder.display(),
            bytes(limit.total),
            bytes(limit.in_use)
        ),
        None => format!(
            "this machine has {} of memory and {} of swap",
            bytes(limit.total),
            bytes(limit.swap)
        ),
    }
}

impl MemoryWatch {
    /// Starts tracking; the current resident set does not count as the model's.
    pub fn begin() -> Self {
        machine::reset_peak_memory();
        Self {
            before: machine::resident_memory(),
            files_before: machine::resident_file_memory(),
            peak: None,
        }
    }

    /// Returns the peak resident set in bytes since the last call, and resets it.
    pub fn next_peak(&mut self) -> Option<usize> {
        let peak = machine::peak_resident_memory();
        machine::reset_peak_memory();
        self.peak = self.peak.max(peak);
        peak
    }

    /// Returns a report of the pool's usage and the process's peak resident set.
    pub fn report(&mut self, pool: &HybridMemoryPool) -> MemoryReport {
        let usage = pool.usage();
        let category = |category: Category| CategoryReport {
            category: category.name(),
            amount: usage.of(category).into(),
        };
        // The pool counts mapped files, but does not allocate them.
        let in_pool = usage.total.current - usage.of(Category::MappedFile).current;
        self.next_peak();
        MemoryReport {
            total: usage.total.into(),
            categories: Category::ALL.map(category).into(),
            reserve_bytes: usage.mapped.saturating_sub(in_pool),
            before_bytes: self.before,
            file_bytes: machine::resident_file_memory()
                .zip(self.files_before)
                .map(|(now, before)| now.saturating_sub(before)),
            peak_resident_bytes: self.peak,
        }
    }
}

impl MemoryReport {
    /// Returns a table, one row per line.
    pub fn lines(&self) -> Vec<String> {
        let bytes = |n: usize| BinaryBytes(n as u64).to_string();
        let line = |name: &str, amount: &AmountReport| {
            format!(
                "{name:<12} {:>12} {:>12} {:>7}",
                bytes(amount.current_bytes),
                bytes(amount.peak_bytes),
                amount.blocks
            )
        };
        let mut lines = vec![format!(
            "{:<12} {:>12} {:>12} {:>7}",
            "memory", "now", "at most", "blocks"
        )];
        let used = self.categories.iter().filter(|c| c.amount.peak_bytes > 0);
        lines.extend(used.map(|c| line(c.category, &c.amount)));
        lines.push(line("all", &self.total));
        lines.push(format!(
            "{:<12} {:>12}",
            "reserve",
            bytes(self.reserve_bytes)
        ));
        let process = (self.peak_resident_bytes, self.before_bytes, self.file_bytes);
        if let (Some(peak), Some(before), Some(files)) = process {
            lines.push(format!(
                "peak resident memory {}: {} before the model was loaded, {} are file pages",
                bytes(peak),
                bytes(before),
                bytes(files)
            ));
        }
        lines
    }
}

impl From<Amount> for AmountReport {
    fn from(amount: Amount) -> Self {
        Self {
            current_bytes: amount.current,
            peak_bytes: amount.peak,
            blocks: amount.count,
        }
    }
}
