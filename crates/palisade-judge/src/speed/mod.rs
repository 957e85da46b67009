//! Speed and memory of a change, judged from pairs of measurements.
//!
//! A pair is one launch of the base and one of the candidate, next to each other in
//! time, as separate processes. Nothing here starts a process or reads a clock: a
//! [`Judge`] is fed with one pair after the other and says what it needs next.
//!
//! ```text
//! pair ─► Judge ─► JudgeStep::Measure ─► pair …        one Judge per benchmark and measure
//!                ─► JudgeStep::Confirm ─► fresh launches …
//!                ─► JudgeStep::Done ─► Decision ─► Family ─► findings
//! ```
//!
//! What keeps noise from deciding:
//!
//! - **Pairs.** What drifts with time hits both revisions; only `ln(candidate / base)` of
//!   neighbours is looked at ([`log_ratio`]).
//! - **A noise threshold.** A change counts only beyond what the policy calls small and beyond
//!   three times what the benchmark shows between equal programs ([`NoiseThreshold`]).
//! - **Interim looks that are paid for.** The data are looked at after 6, 10, 16, 24 and 40
//!   pairs; each look has its share of the level ([`InterimLooks`]).
//! - **Three answers.** Regressed, equivalent and improved are each shown, or the
//!   answer is inconclusive ([`BenchmarkState`]).
//! - **Confirmation.** An alarm is measured again on fresh launches by the same rule.
//! - **The family.** Many benchmarks raise false alarms together; Benjamini and
//!   Hochberg's procedure, and a look for a common shift, stand between ([`Family`]).
//!
//! # Example
//!
//! ```
//! use palisade_judge::speed::{
//!     BenchmarkState, DecisionRules, Judge, JudgeStep, Measure, NoiseThreshold,
//! };
//!
//! let threshold = NoiseThreshold::of(Measure::Time);
//! let mut judge = Judge::new(DecisionRules::new(Measure::Time, threshold));
//! // Nanoseconds of one launch each; the candidate takes about 5 % longer.
//! let noise = [0.1, -0.2, 0.05, 0.3, -0.1, 0.0];
//! let mut launch = (0..).map(|i| 100.0 + noise[i % noise.len()]);
//! loop {
//!     let (base, candidate) = (launch.next().unwrap(), launch.next().unwrap() * 1.05);
//!     match judge.push(base, candidate)? {
//!         // Confirm asks for fresh launches; here all of them are.
//!         JudgeStep::Measure { .. } | JudgeStep::Confirm { .. } => {}
//!         JudgeStep::Done => break,
//!     }
//! }
//! let decision = judge.decision();
//! assert_eq!(decision.state, BenchmarkState::Regressed);
//! assert_eq!(decision.pairs, 6);
//! # Ok::<(), palisade_judge::speed::PairError>(())
//! ```

mod bound;
mod count;
mod estimate;
mod family;
mod judge;
mod measure;
mod noise_threshold;
mod record;
mod report;

pub use bound::{Bound, BoundDecision, BoundJudge, BoundState, Limit};
pub use count::{InstructionCounts, judge_counts};
pub use estimate::{
    Estimate, estimate, evidence, hodges_lehmann, median_variance, signed_rank, student,
};
pub use family::{BenchmarkResult, Family, Shift, benjamini_hochberg};
pub use judge::{
    BenchmarkState, Confirmation, Decision, DecisionRules, InterimLooks, Judge, JudgeStep,
    RegressionAction, WIDEST_MARGIN,
};
pub use measure::{Measure, PairError, log_ratio};
pub use noise_threshold::{NoiseThreshold, same_code_spread};
pub use record::{
    Calibration, Detection, Fingerprint, KnownSpread, Measurement, Proportion, SpeedPurpose,
    SpeedRun,
};
pub use report::{NamedBound, SpeedReport};
