//! The part of the policy that is about speed and memory.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::Span;
use crate::speed::{Bound, Limit, Measure};

/// How speed and memory are measured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpeedPolicy {
    /// Whether `check` measures speed and memory of what the change can reach.
    pub check: bool,
    /// Benchmarks that are measured, as parts of their names; all if empty.
    pub only: Vec<String>,
    /// How long one launch of a benchmark measures, where its harness can be told.
    pub launch: Span,
    /// How long one launch warms up before that.
    pub warm_up: Span,
    /// How long a comparison may take, builds not counted; in a check, tests and builds and all.
    pub budget: Span,
    /// How long a launch may take.
    pub time_out: Span,
    /// How long to wait for other work on the machine to end.
    pub wait: Span,
    /// Whether programs with one thread are bound to one processor.
    pub pin: bool,
    /// What counts instructions.
    pub counters: Counters,
    /// The smallest change of a time that counts, in percent.
    #[serde(rename = "floor")]
    pub noise_threshold: f64,
    /// The size from which on a regression blocks without confirmation, in percent.
    pub block: f64,
}

impl Default for SpeedPolicy {
    fn default() -> Self {
        Self {
            check: true,
            only: Vec::new(),
            launch: Span(Duration::from_millis(100)),
            warm_up: Span(Duration::from_millis(20)),
            budget: Span(Duration::from_mins(5)),
            time_out: Span(Duration::from_mins(2)),
            wait: Span(Duration::from_secs(10)),
            pin: true,
            counters: Counters::Auto,
            noise_threshold: 1.0,
            block: 3.0,
        }
    }
}

/// What counts instructions before the clock is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counters {
    /// perf where the kernel lets it count, else callgrind where it is installed.
    #[default]
    Auto,
    /// The processor, by perf.
    Perf,
    /// valgrind's callgrind.
    Callgrind,
    /// Nothing.
    Off,
}

impl Counters {
    /// The word for it in the policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Perf => "perf",
            Self::Callgrind => "callgrind",
            Self::Off => "off",
        }
    }
}

/// What a command's run says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prints {
    /// Nothing: how long it takes is what is measured.
    #[default]
    Nothing,
    /// A number, in the last line that it prints.
    Number,
    /// A JSON document; each number in it is a benchmark, named by its key.
    Json,
}

/// Which way a number that a command prints is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// A time.
    #[default]
    Lower,
    /// A rate.
    Higher,
}

/// A command that is measured: a program of the workspace, or any other.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandPolicy {
    /// What to call it; the command if nothing is said.
    pub name: Option<String>,
    /// Program and arguments, as a shell would split them. It runs in the workspace's
    /// root, without a shell.
    pub command: String,
    /// What it prints.
    #[serde(default)]
    pub prints: Prints,
    /// Which way that is better.
    #[serde(default)]
    pub better: Better,
    /// The most memory that it may hold at a time.
    pub max_rss: Option<Bytes>,
    /// The longest that it may take.
    pub max_time: Option<Span>,
}

impl CommandPolicy {
    /// What it is called.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.command)
    }

    /// Program and arguments.
    pub fn words(&self) -> Option<Vec<String>> {
        shlex::split(&self.command).filter(|words| !words.is_empty())
    }
}

/// A package of which the time to build is measured, each time after it was cleaned away;
/// what it depends on stays.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildPolicy {
    /// The package.
    pub package: String,
    /// Whether it is built with optimisation.
    #[serde(default)]
    pub release: bool,
    /// The longest that it may take.
    pub max_build_time: Option<Span>,
}

/// One benchmark bound to another, both measured in the same run. How fast the machine is
/// cancels out; what its processor is good at does not.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatioPolicy {
    /// What to call it.
    pub name: String,
    /// The benchmark that is divided.
    pub of: String,
    /// The one that it is divided by.
    pub to: String,
    /// Which of their measures: `time` or `peak_memory`.
    #[serde(default)]
    pub measure: RatioMeasure,
    /// The least that the ratio must be.
    pub at_least: Option<f64>,
    /// The most that it may be.
    pub at_most: Option<f64>,
    /// By how many percent it may pass that.
    #[serde(default)]
    pub within: f64,
    /// The architectures it holds on, as Rust names them; all if empty.
    #[serde(default)]
    pub arch: BTreeSet<String>,
    /// The processors that it was measured on. Without the key it holds on any; on one that
    /// is not in the list, it decides nothing.
    pub on: Option<Vec<RatioRecord>>,
}

/// What a ratio is on one processor.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatioRecord {
    /// A part of the processor's name.
    pub processor: String,
    /// The least that the ratio must be there, if that is not what the ratio says.
    pub at_least: Option<f64>,
    /// The most that it may be there.
    pub at_most: Option<f64>,
    /// When it was measured, and by what.
    pub measured: Option<String>,
}

/// What two benchmarks are compared by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RatioMeasure {
    /// How long they take.
    #[default]
    Time,
    /// How much memory they hold.
    PeakMemory,
}

impl RatioMeasure {
    /// The same among all measures.
    pub fn measure(self) -> Measure {
        match self {
            Self::Time => Measure::Time,
            Self::PeakMemory => Measure::PeakMemory,
        }
    }
}

impl RatioPolicy {
    /// The bound that is declared; `None` unless there is exactly one limit.
    pub fn bound(&self) -> Option<Bound> {
        let limit = match (self.at_least, self.at_most) {
            (Some(least), None) => Limit::AtLeast(least),
            (None, Some(most)) => Limit::AtMost(most),
            _ => return None,
        };
        let within = self.within / 100.0;
        Some(Bound { limit, within })
    }

    /// The bound on a processor, and whether it decides there; `None` unless there is exactly
    /// one limit.
    pub fn bound_on(&self, processor: &str) -> Option<(Bound, bool)> {
        let declared = self.bound()?;
        let Some(records) = &self.on else {
            return Some((declared, true));
        };
        let mut records = records.iter();
        let Some(record) = records.find(|record| processor.contains(&record.processor)) else {
            return Some((declared, false));
        };
        let limit = match declared.limit {
            Limit::AtLeast(least) => Limit::AtLeast(record.at_least.unwrap_or(least)),
            Limit::AtMost(most) => Limit::AtMost(record.at_most.unwrap_or(most)),
        };
        Some((Bound { limit, ..declared }, true))
    }

    /// What is wrong with it, if anything is.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let is_number = |limit: &Option<f64>| limit.is_none_or(|limit| limit > 0.0);
        if self.bound().is_none() || !is_number(&self.at_least) || !is_number(&self.at_most) {
            return Some("needs at_least or at_most, one of them, with a number above 0");
        }
        let mut records = self.on.iter().flatten();
        if records.clone().any(|record| record.processor.is_empty()) {
            return Some("names a processor without a name");
        }
        let is_other = |record: &RatioRecord| {
            record.at_least.is_some() && self.at_least.is_none()
                || record.at_most.is_some() && self.at_most.is_none()
                || !is_number(&record.at_least)
                || !is_number(&record.at_most)
        };
        records.any(is_other).then_some(
            "has a limit for a processor that is not of the ratio's kind, or not above 0",
        )
    }

    /// Whether it holds on processors of this kind.
    pub fn is_for_this_machine(&self) -> bool {
        self.arch.is_empty() || self.arch.contains(std::env::consts::ARCH)
    }
}

/// A number of bytes, written as `1.2 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

const BYTE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

/// Why a text is not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size (expected a number and one of B, kB, KiB, MB, MiB, GB, GiB)")]
pub struct ParseBytesError(String);

impl FromStr for Bytes {
    type Err = ParseBytesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseBytesError(text.to_owned());
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let unit_at = text.find(|c| !is_number(c)).ok_or_else(error)?;
        let (number, unit) = text.split_at(unit_at);
        let number: f64 = number.parse().map_err(|_| error())?;
        let unit = BYTE_UNITS.iter().find(|(name, _)| *name == unit.trim());
        let (_, size) = unit.ok_or_else(error)?;
        let bytes = number * *size as f64;
        (bytes >= 1.0 && bytes < u64::MAX as f64)
            .then_some(Self(bytes as u64))
            .ok_or_else(error)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1024 => write!(f, "{} B", self.0),
            1024..1_048_576 => write!(f, "{:.1} KiB", bytes / 1024.0),
            1_048_576..1_073_741_824 => write!(f, "{:.2} MiB", bytes / 1_048_576.0),
            _ => write!(f, "{:.2} GiB", bytes / 1_073_741_824.0),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_decides_on_the_processors_that_it_was_measured_on() {
        let read = |on: &str| -> RatioPolicy {
            let text = "name = \"simd\"\nof = \"a\"\nto = \"b\"\nat_least = 3.4\nwithin = 5.0\n";
            toml::from_str(&format!("{text}{on}")).expect("valid")
        };
        let at_least = |ratio: &RatioPolicy, processor: &str| {
            let (bound, decides) = ratio.bound_on(processor).expect("a bound");
            (bound.limit, decides)
        };
        let anywhere = read("");
        assert_eq!(at_least(&anywhere, "any"), (Limit::AtLeast(3.4), true));
        let recorded = read(
            "on = [{ processor = \"EPYC, family 26\" }, { processor = \"8581C\", at_least = 2.8 }]",
        );
        for (processor, expected) in [
            ("AMD EPYC, family 26 model 2", (3.4, true)),
            ("INTEL XEON 8581C", (2.8, true)),
            ("AMD EPYC, family 25 model 17", (3.4, false)),
        ] {
            let expected = (Limit::AtLeast(expected.0), expected.1);
            assert_eq!(at_least(&recorded, processor), expected, "{processor}");
        }
        let nowhere = read("on = []");
        assert_eq!(at_least(&nowhere, "any"), (Limit::AtLeast(3.4), false));
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [
            ("1.2 GiB", 1_288_490_188),
            ("512MiB", 512 << 20),
            ("3 B", 3),
            ("1.5 kB", 1500),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in [
            "",
            "1",
            "GiB",
            "1 gib",
            "-1 B",
            "0 B",
            "1.2.3 B",
            "99999999999 GiB",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text:?}");
        }
        assert_eq!(Bytes(33 << 20).to_string(), "33.00 MiB");
    }
}
