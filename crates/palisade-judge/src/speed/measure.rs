//! What is measured, and how two values of it are compared.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is measured of a benchmark or a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Wall-clock time, in nanoseconds.
    Time,
    /// Work done per second; the only measure of which more is better.
    Rate,
    /// Instructions of the program's own code, from a counter or callgrind.
    Instructions,
    /// How often memory was allocated.
    AllocationCount,
    /// How many bytes were allocated.
    AllocationBytes,
    /// The largest resident set of the process, in bytes.
    PeakMemory,
    /// The size of the program on disk, in bytes.
    BinarySize,
    /// The wall-clock time of a build, in nanoseconds.
    BuildTime,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Time,
        Self::Rate,
        Self::Instructions,
        Self::AllocationCount,
        Self::AllocationBytes,
        Self::PeakMemory,
        Self::BinarySize,
        Self::BuildTime,
    ];

    /// The word for it in the store and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Rate => "rate",
            Self::Instructions => "instructions",
            Self::AllocationCount => "allocation_count",
            Self::AllocationBytes => "allocation_bytes",
            Self::PeakMemory => "peak_memory",
            Self::BinarySize => "binary_size",
            Self::BuildTime => "build_time",
        }
    }

    /// The measure a word of the store stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|measure| measure.as_str() == word)
    }

    /// Whether more of it is better.
    pub fn is_better_higher(self) -> bool {
        self == Self::Rate
    }

    /// What a value of it counts.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Time | Self::BuildTime => "ns",
            Self::Rate => "per second",
            Self::Instructions => "instructions",
            Self::AllocationCount => "allocations",
            Self::AllocationBytes | Self::PeakMemory | Self::BinarySize => "bytes",
        }
    }

    /// Whether it counts memory, which does not depend on how busy the machine is.
    pub fn is_memory(self) -> bool {
        matches!(
            self,
            Self::AllocationCount | Self::AllocationBytes | Self::PeakMemory
        )
    }

    /// Whether the same program always gives the same value, so that one pair says
    /// everything.
    pub fn is_exact(self) -> bool {
        self == Self::BinarySize
    }

    /// Whether a value may be 0: a program can allocate nothing, but not take no time.
    pub fn may_be_zero(self) -> bool {
        matches!(self, Self::AllocationCount | Self::AllocationBytes)
    }

    /// The words for becoming worse and better.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Time | Self::BuildTime | Self::Rate => ("slower", "faster"),
            _ => ("more", "less"),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Time => "time",
            Self::Rate => "rate",
            Self::Instructions => "instructions",
            Self::AllocationCount => "allocations",
            Self::AllocationBytes => "allocated bytes",
            Self::PeakMemory => "peak memory",
            Self::BinarySize => "binary size",
            Self::BuildTime => "build time",
        })
    }
}

/// Why values cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// A value no measurement can give.
    #[error("failed to use {value} as {measure} (expected a number above 0)")]
    NotPositive {
        /// What was measured.
        measure: Measure,
        /// The value.
        value: f64,
    },
    /// A value that no bound can be held against.
    #[error("failed to hold {value} against a bound (expected a number above 0)")]
    Bounded {
        /// The value.
        value: f64,
    },
    /// A value no count can have.
    #[error("failed to use {value} as {measure} (expected 0 or more)")]
    Negative {
        /// What was measured.
        measure: Measure,
        /// The value.
        value: f64,
    },
}

/// The log-ratio of a pair: how much more the candidate costs than the base,
/// `ln(candidate) − ln(base)`. Above 0 is worse, for a [`Measure::Rate`] too.
///
/// Of measures that may be 0, each value counts one more than it is: the step from
/// nothing to something has a ratio then, and large values hardly change.
pub fn log_ratio(measure: Measure, base: f64, candidate: f64) -> Result<f64, PairError> {
    let logarithm = |value: f64| {
        if measure.may_be_zero() {
            let is_valid = value.is_finite() && value >= 0.0;
            let error = PairError::Negative { measure, value };
            return is_valid.then(|| value.ln_1p()).ok_or(error);
        }
        let is_valid = value.is_finite() && value > 0.0;
        let error = PairError::NotPositive { measure, value };
        is_valid.then(|| value.ln()).ok_or(error)
    };
    let (base, candidate) = (logarithm(base)?, logarithm(candidate)?);
    Ok(match measure {
        Measure::Rate => base - candidate,
        _ => candidate - base,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_their_measure() {
        for measure in Measure::ALL {
            assert_eq!(Measure::from_word(measure.as_str()), Some(measure));
            let json = serde_json::to_string(&measure).expect("a word");
            assert_eq!(json, format!("{:?}", measure.as_str()));
        }
        assert_eq!(Measure::from_word("speed"), None);
    }

    #[test]
    fn more_cost_is_above_zero() {
        let ratio = |measure, base, candidate| log_ratio(measure, base, candidate).expect("a pair");
        assert!((ratio(Measure::Time, 100.0, 102.0) - 1.02_f64.ln()).abs() < 1e-12);
        assert!((ratio(Measure::Rate, 102.0, 100.0) - 1.02_f64.ln()).abs() < 1e-12);
        assert_eq!(ratio(Measure::AllocationCount, 0.0, 0.0), 0.0);
        assert!((ratio(Measure::AllocationCount, 0.0, 1.0) - 2.0_f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn what_no_measurement_gives_is_refused() {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(log_ratio(Measure::Time, value, 1.0).is_err(), "{value}");
            assert!(log_ratio(Measure::Time, 1.0, value).is_err(), "{value}");
        }
        let error = log_ratio(Measure::AllocationBytes, 0.0, -1.0).expect_err("negative");
        assert_eq!(
            error.to_string(),
            "failed to use -1 as allocated bytes (expected 0 or more)"
        );
    }
}
