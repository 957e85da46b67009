//! `palisade.toml`: what a workspace wants to hold, with a default for everything.
//!
//! An unknown key is an error with a suggestion: a misspelt policy must not be
//! taken for a policy.

mod approval;
mod claims;
mod milestone;
mod monitor;
mod speed;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use approval::ApprovalPolicy;
pub use claims::ClaimsPolicy;
pub use milestone::MilestonePolicy;
pub use monitor::Monitor;
pub use speed::{
    Better, BuildPolicy, Bytes, CommandPolicy, Counters, ParseBytesError, Prints, RatioMeasure,
    RatioPolicy, RatioRecord, SpeedPolicy,
};

use crate::level::Level;
use crate::test_id::TestId;
use crate::test_set_diff::{SlowerRule, TestState};

/// The file's name, in the workspace's root.
pub const FILE_NAME: &str = "palisade.toml";

/// The name of the file that defines claims, in the workspace's root.
pub const CLAIMS_FILE_NAME: &str = "claims.toml";

/// Why the policy cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file is there but cannot be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not valid TOML, or a value has the wrong form.
    #[error("failed to read {} at line {line}: {message}", .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A key that means nothing.
    #[error("failed to read {} at line {line}: unknown key `{key}`", .path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The key.
        key: String,
        /// The known key that looks most like it, if one does.
        suggestion: Option<String>,
    },
    /// Arguments for Cargo that are not for Cargo.
    #[error("failed to read {}: run.cargo_args has `--`, and what follows it is for test programs, not for cargo", .0.display())]
    TestArgs(PathBuf),
    /// A package that is left out is not there.
    #[error("failed to read {}: run.exclude names {package:?}, which is no package of the workspace", .path.display())]
    NoPackage {
        /// The file.
        path: PathBuf,
        /// The package.
        package: String,
    },
    /// An entry of a list does not say what it must.
    #[error("failed to read {}: [[{table}]] {name:?} {problem}", .path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The list.
        table: &'static str,
        /// The entry.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A value lies outside its range.
    #[error("failed to read {}: {key} is {value}, which is not {expected}", .path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The value.
        value: f64,
        /// What it must be.
        expected: &'static str,
    },
}

/// A span of time written as `200ms`, `60s`, `30m`, `2h` or `14d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Why a text is not a span of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time (expected a number and one of ms, s, m, h, d)")]
pub struct ParseSpanError(String);

impl std::str::FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseSpanError(text.to_owned());
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| error())?;
        let unit = UNITS.iter().find(|(name, _)| *name == unit.trim_start());
        let millis = unit.and_then(|(_, millis)| number.checked_mul(*millis));
        millis
            .map(Duration::from_millis)
            .map(Self)
            .ok_or_else(error)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let whole = |(_, unit): &&(&str, u64)| millis.is_multiple_of(u128::from(*unit));
        let (name, unit) = UNITS.iter().rev().find(whole).unwrap_or(&UNITS[0]);
        write!(f, "{}{name}", millis / u128::from(*unit))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Which program runs the tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunnerChoice {
    /// cargo-nextest when it is installed, else `cargo test`.
    #[default]
    Auto,
    /// cargo-nextest, and an error when it is missing.
    Nextest,
    /// `cargo test`.
    Cargo,
}

/// How tests are run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunPolicy {
    /// Which program runs them.
    pub runner: RunnerChoice,
    /// Arguments for every build, such as `--all-features`.
    pub cargo_args: Vec<String>,
    /// Packages whose tests and benchmarks are left out, by their names.
    pub exclude: Vec<String>,
    /// Whether documentation tests are run.
    pub doctests: bool,
    /// How long one test may take.
    pub test_time_out: Span,
    /// How long one run of tests may take, builds included.
    pub run_time_out: Span,
    /// How large the checkouts of all repositories may be, with what is built from them: those
    /// that were used longest ago go first.
    pub cache_limit: Bytes,
}

impl Default for RunPolicy {
    fn default() -> Self {
        Self {
            runner: RunnerChoice::Auto,
            cargo_args: Vec::new(),
            exclude: Vec::new(),
            doctests: true,
            test_time_out: Span(Duration::from_mins(2)),
            run_time_out: Span(Duration::from_hours(1)),
            cache_limit: Bytes(20 << 30),
        }
    }
}

impl RunPolicy {
    /// Whether the tests and benchmarks of a package are left out.
    pub fn excludes(&self, package: &str) -> bool {
        self.exclude.iter().any(|name| name == package)
    }
}

/// When a test counts as much slower.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlowerPolicy {
    /// How many times the base's median it must take.
    pub factor: f64,
    /// How much longer than the base's median it must take.
    #[serde(rename = "floor")]
    pub noise_threshold: Span,
}

impl SlowerPolicy {
    /// The rule that it sets.
    pub fn rule(self) -> SlowerRule {
        SlowerRule {
            factor: self.factor,
            noise_threshold: self.noise_threshold.0,
        }
    }
}

impl Default for SlowerPolicy {
    fn default() -> Self {
        let SlowerRule {
            factor,
            noise_threshold,
        } = SlowerRule::default();
        Self {
            factor,
            noise_threshold: Span(noise_threshold),
        }
    }
}

/// How flaky tests are told from broken ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlakyPolicy {
    /// How often a new failure is run again, on each revision.
    pub reruns: u32,
    /// How often at most, while the answer is open.
    pub max_reruns: u32,
    /// How often at most a new or changed test is run.
    pub stress_runs: u32,
    /// How long all of that may take together.
    pub stress_time: Span,
    /// How long a quarantine lasts.
    pub quarantine: Span,
}

impl Default for FlakyPolicy {
    fn default() -> Self {
        Self {
            reruns: 5,
            max_reruns: 20,
            stress_runs: 60,
            stress_time: Span(Duration::from_secs(20)),
            quarantine: Span(Duration::from_hours(336)),
        }
    }
}

/// When a stored run stands for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReusePolicy {
    /// A run that is older than this many others is measured again instead of being
    /// reused, and compared with what it said; 0 for never.
    pub remeasure: u32,
}

impl Default for ReusePolicy {
    fn default() -> Self {
        Self { remeasure: 20 }
    }
}

/// What a break of the public API does to the verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiBreaks {
    /// It is worth knowing.
    #[default]
    Note,
    /// It is a regression.
    Regression,
}

/// How the public API is guarded, where cargo-semver-checks is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiPolicy {
    /// What a break does to the verdict.
    pub breaks: ApiBreaks,
    /// Whether packages that may be published are compared with their last release
    /// too; needs the registry.
    pub release: bool,
}

impl Default for ApiPolicy {
    fn default() -> Self {
        Self {
            breaks: ApiBreaks::Note,
            release: true,
        }
    }
}

/// A failure that is known, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFailure {
    /// The test.
    pub test: TestId,
    /// Who answers for it.
    pub owner: String,
    /// Why it may fail.
    pub reason: String,
}

/// A difference that was made on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// The test.
    pub test: TestId,
    /// The state it is accepted in.
    pub state: TestState,
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub reason: String,
}

/// A class of files with a risk of their own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathClass {
    /// What to call it.
    pub name: String,
    /// Which files, as patterns from the repository's root: `crates/*/src/arch/**`.
    pub paths: Vec<Pattern>,
    /// How risky a change of them is.
    pub risk: Level,
    /// Whether code is built from them, or tests read them. Where the policy says that neither
    /// is so, a change of them is as risky as the class and affects no test.
    #[serde(default = "is_code")]
    pub code: bool,
}

fn is_code() -> bool {
    true
}

/// A pattern of paths, where `*` stays inside a folder and `**` does not.
#[derive(Clone, Debug)]
pub struct Pattern(glob::Pattern);

impl Pattern {
    /// The pattern that a text writes.
    pub fn new(text: &str) -> Result<Self, glob::PatternError> {
        glob::Pattern::new(text).map(Self)
    }

    /// Whether a path with `/` matches.
    pub fn matches(&self, path: &str) -> bool {
        let options = glob::MatchOptions {
            require_literal_separator: true,
            ..glob::MatchOptions::default()
        };
        self.0.matches_with(path, options)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// The whole policy.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The least share of tests, in percent, that pass or are known to fail.
    pub min_success_rate: f64,
    /// How tests are run.
    pub run: RunPolicy,
    /// When a test counts as much slower.
    pub slower: SlowerPolicy,
    /// How flaky tests are told from broken ones.
    pub flaky: FlakyPolicy,
    /// When a stored run stands for a new one.
    pub reuse: ReusePolicy,
    /// How the public API is guarded.
    pub api: ApiPolicy,
    /// Which changes a second person must validate by hand.
    pub approval: ApprovalPolicy,
    /// How numbers in documents are held.
    pub claims: ClaimsPolicy,
    /// Where milestones are kept.
    pub milestone: MilestonePolicy,
    /// How speed and memory are measured.
    pub speed: SpeedPolicy,
    /// Commands that measure something.
    pub bench: Vec<CommandPolicy>,
    /// Commands whose time and memory are measured.
    pub workload: Vec<CommandPolicy>,
    /// Packages whose time to build is measured.
    pub build: Vec<BuildPolicy>,
    /// Benchmarks that are bound to each other.
    pub ratio: Vec<RatioPolicy>,
    /// Failures that are known.
    pub known_failure: Vec<KnownFailure>,
    /// Differences made on purpose.
    pub accepted: Vec<Accepted>,
    /// What broke once.
    pub monitor: Vec<Monitor>,
    /// Classes of files, on top of the built-in ones.
    pub class: Vec<PathClass>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min_success_rate: 99.0,
            run: RunPolicy::default(),
            slower: SlowerPolicy::default(),
            flaky: FlakyPolicy::default(),
            reuse: ReusePolicy::default(),
            api: ApiPolicy::default(),
            approval: ApprovalPolicy::default(),
            claims: ClaimsPolicy::default(),
            milestone: MilestonePolicy::default(),
            speed: SpeedPolicy::default(),
            bench: Vec::new(),
            workload: Vec::new(),
            build: Vec::new(),
            ratio: Vec::new(),
            known_failure: Vec::new(),
            accepted: Vec::new(),
            monitor: Vec::new(),
            class: Vec::new(),
        }
    }
}

impl Policy {
    /// Reads a policy from `text`; `path` names it in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, PolicyError> {
        let policy: Self =
            toml::from_str(text).map_err(|error| form_error(&error, text, path.to_owned()))?;
        let ranges = [
            (
                "min_success_rate",
                policy.min_success_rate,
                (0.0..=100.0).contains(&policy.min_success_rate),
                "a percentage from 0 to 100",
            ),
            (
                "slower.factor",
                policy.slower.factor,
                policy.slower.factor > 1.0,
                "a factor above 1",
            ),
            (
                "flaky.reruns",
                f64::from(policy.flaky.reruns),
                policy.flaky.reruns >= 1 && policy.flaky.reruns <= policy.flaky.max_reruns,
                "between 1 and flaky.max_reruns",
            ),
            (
                "speed.floor",
                policy.speed.noise_threshold,
                (0.0..=100.0).contains(&policy.speed.noise_threshold),
                "a percentage from 0 to 100",
            ),
            (
                "speed.block",
                policy.speed.block,
                (0.0..=100.0).contains(&policy.speed.block),
                "a percentage from 0 to 100",
            ),
        ];
        for (key, value, holds, expected) in ranges {
            if !holds {
                let path = path.to_owned();
                return Err(PolicyError::Range {
                    path,
                    key,
                    value,
                    expected,
                });
            }
        }
        if policy.run.cargo_args.iter().any(|word| word == "--") {
            return Err(PolicyError::TestArgs(path.to_owned()));
        }
        if let Some((table, name, problem)) = policy.wrong_entry() {
            return Err(PolicyError::Entry {
                path: path.to_owned(),
                table,
                name,
                problem,
            });
        }
        Ok(policy)
    }

    /// The first entry about speed that does not say what it must.
    fn wrong_entry(&self) -> Option<(&'static str, String, &'static str)> {
        let mut names = BTreeSet::new();
        let benches = self.bench.iter().map(|command| ("bench", command));
        let workloads = self.workload.iter().map(|command| ("workload", command));
        for (table, command) in benches.chain(workloads) {
            let name = command.name().to_owned();
            if command.words().is_none() {
                return Some((table, name, "has no command that a shell could split"));
            }
            if !names.insert(name.clone()) {
                return Some((table, name, "is there twice"));
            }
        }
        let mut packages = BTreeSet::new();
        let mut builds = self.build.iter().map(|build| &build.package);
        if let Some(package) = builds.find(|package| !packages.insert(*package)) {
            return Some(("build", package.clone(), "is there twice"));
        }
        let mut ratios = self.ratio.iter();
        let wrong = ratios.find_map(|ratio| Some((ratio.name.clone(), ratio.problem()?)));
        if let Some((name, problem)) = wrong {
            return Some(("ratio", name, problem));
        }
        self.monitor.iter().find_map(|monitor| {
            let problem = monitor.problem(&self.ratio)?;
            Some(("monitor", monitor.name.clone(), problem))
        })
    }

    /// The known failure that names `test`.
    pub fn known_failure(&self, test: &TestId) -> Option<&KnownFailure> {
        self.known_failure.iter().find(|known| known.test == *test)
    }

    /// The acceptance of `test` in `state`.
    pub fn accepted(&self, test: &TestId, state: TestState) -> Option<&Accepted> {
        let is_it = |accepted: &&Accepted| accepted.test == *test && accepted.state == state;
        self.accepted.iter().find(is_it)
    }
}

/// Serde says "unknown field `x`, expected one of `a`, `b`": the words in
/// backticks are the key and the known ones.
fn form_error(error: &toml::de::Error, text: &str, path: PathBuf) -> PolicyError {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text[..start].matches('\n').count() + 1;
    let message = error.message().to_owned();
    let mut words = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field")
        && let Some(key) = words.next()
    {
        let closest = words
            .map(|known| (strsim::jaro_winkler(key, known), known))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let suggestion = closest.filter(|(likeness, _)| *likeness > 0.7);
        return PolicyError::UnknownKey {
            path,
            line,
            key: key.to_owned(),
            suggestion: suggestion.map(|(_, known)| known.to_owned()),
        };
    }
    PolicyError::Form {
        path,
        line,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Policy, PolicyError> {
        Policy::parse(text, Path::new("palisade.toml"))
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let policy = parse("").expect("valid");
        assert_eq!(policy.min_success_rate, 99.0);
        assert_eq!(policy.run, RunPolicy::default());
    }

    #[test]
    fn an_unknown_key_is_an_error_with_a_suggestion() {
        let error = parse("min_succes_rate = 99.0").expect_err("misspelt");
        let PolicyError::UnknownKey {
            key,
            suggestion,
            line,
            ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((key.as_str(), line), ("min_succes_rate", 1));
        assert_eq!(suggestion.as_deref(), Some("min_success_rate"));
        let error = parse("\n[run]\ntest_timeout = \"1s\"").expect_err("misspelt");
        let PolicyError::UnknownKey {
            suggestion, line, ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(suggestion.as_deref(), Some("test_time_out"));
        assert_eq!(line, 3);
        let error = parse("zzz = 1").expect_err("unknown");
        assert!(matches!(
            error,
            PolicyError::UnknownKey {
                suggestion: None,
                ..
            }
        ));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        assert!(matches!(
            parse("min_success_rate = 101.0"),
            Err(PolicyError::Range { .. })
        ));
        assert!(matches!(
            parse("[slower]\nfactor = 0.5"),
            Err(PolicyError::Range { .. })
        ));
        assert!(matches!(
            parse("[flaky]\nreruns = 0"),
            Err(PolicyError::Range { .. })
        ));
        assert!(matches!(
            parse("[slower]\nfloor = \"fast\""),
            Err(PolicyError::Form { .. })
        ));
        assert!(matches!(
            parse("[run]\ncargo_args = [\"--release\", \"--\", \"--nocapture\"]"),
            Err(PolicyError::TestArgs(_))
        ));
    }

    #[test]
    fn entries_about_speed_must_say_what_they_mean() {
        let ratio = |limits: &str| {
            parse(&format!(
                "[[ratio]]\nname = \"simd\"\nof = \"a\"\nto = \"b\"\n{limits}"
            ))
        };
        let bound = ratio("at_least = 2.07\nwithin = 5.0").expect("valid").ratio[0].bound();
        assert!((bound.expect("a bound").edge() - 2.07 * 0.95).abs() < 1e-9);
        for limits in ["", "at_least = 1.0\nat_most = 2.0", "at_most = 0.0"] {
            let found = ratio(limits);
            assert!(
                matches!(found, Err(PolicyError::Entry { table: "ratio", .. })),
                "{limits}"
            );
        }
        for on in [
            "{ processor = \"\" }",
            "{ processor = \"x\", at_most = 2.0 }",
            "{ processor = \"x\", at_least = 0.0 }",
        ] {
            let found = ratio(&format!("at_least = 2.0\non = [{on}]"));
            assert!(matches!(found, Err(PolicyError::Entry { .. })), "{on}");
        }
        let two = "[[bench]]\ncommand = \"a\"\n[[workload]]\ncommand = \"a\"";
        for text in [
            two,
            "[[build]]\npackage = \"a\"\n[[build]]\npackage = \"a\"",
            "[[bench]]\ncommand = \"\"",
            "[[bench]]\ncommand = \"a 'b\"",
        ] {
            assert!(
                matches!(parse(text), Err(PolicyError::Entry { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn tables_are_read() {
        let text = r#"
            [[known_failure]]
            test = "a/lib/tests::x"
            owner = "ada"
            reason = "upstream"
            [[accepted]]
            test = "a/lib/tests::y"
            state = "missing"
            owner = "ada"
            reason = "replaced by z"
            [[class]]
            name = "kernel"
            paths = ["crates/*/src/arch/**"]
            risk = "critical"
        "#;
        let policy = parse(text).expect("valid");
        let test = TestId::new("a", TargetKind::Lib, "", "tests::y");
        assert!(policy.accepted(&test, TestState::Missing).is_some());
        assert!(policy.accepted(&test, TestState::NewlyIgnored).is_none());
        let pattern = &policy.class[0].paths[0];
        assert!(pattern.matches("crates/core/src/arch/x86/avx2.rs"));
        assert!(!pattern.matches("crates/core/deep/src/arch/avx2.rs"));
    }

    use crate::test_id::TargetKind;

    #[test]
    fn spans_round_trip() {
        for text in ["200ms", "60s", "90s", "30m", "2h", "14d"] {
            let span: Span = text.parse().expect("valid");
            let shown: Span = span.to_string().parse().expect("valid");
            assert_eq!(span, shown);
        }
        for text in ["", "60", "s", "1 year", "-1s", "99999999999999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }
}
