//! Measures what proves claims, and says which hold.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Claim, Claims, ClaimsError, Cost, Number, Proof};
use crate::baseline::{Expected, TestSet, TestStatus};
use crate::finding::ClaimState;
use crate::flow::benchmark_comparison::{
    ComparisonError, Selection, SeriesOptions, measure_series,
};
use crate::host::git::remove_hook_variables;
use crate::host::measure::launch::Launcher;
use crate::host::measure::machine;
use crate::host::measure::read::last_number;
use crate::host::process::{self, Limits, ProcessEnd, Stream, Tail};
use crate::host::run::RunError;
use crate::host::session::{Event, Events, Revision, Session, SessionError};
use crate::observation::Purpose;
use crate::scope::Scope;
use crate::speed::Measure;
use crate::stats::median;
use crate::test_id::TestId;
use crate::verdict::ClaimResult;

/// The most that is read of what a command prints.
const OUTPUT_LIMIT: usize = 16 << 20;

/// How often a benchmark is launched for a claim.
const LAUNCHES: usize = 10;

/// Which claims are measured, and by what.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Measure the costly ones too.
    pub costly: bool,
    /// Begin no more commands after this time.
    pub deadline: Option<Instant>,
    /// What launches benchmarks; claims that rest on one are left out without it.
    pub launcher: Option<Launcher>,
}

/// A claim with what was measured of it.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// The claim.
    #[serde(flatten)]
    pub claim: Claim,
    /// Whether it holds.
    pub state: ClaimState,
    /// What was measured, in the document's unit; `None` for a test, and where nothing was.
    pub found: Option<f64>,
    /// Why, in words.
    pub reason: String,
}

impl Checked {
    /// What the judge wants to know of it.
    pub fn result(&self) -> ClaimResult {
        ClaimResult {
            document: self.claim.document.clone(),
            line: self.claim.line,
            name: self.claim.name.clone(),
            written: self.claim.written.clone(),
            state: self.state,
            reason: self.reason.clone(),
        }
    }
}

/// What the judge wants to know of claims that were measured.
pub fn results(checked: &[Checked]) -> Vec<ClaimResult> {
    checked.iter().map(Checked::result).collect()
}

/// Measures claims in the user's files and judges each.
pub fn check(
    session: &mut Session,
    claims: &Claims,
    options: &Options,
    events: Events<'_>,
) -> Result<Vec<Checked>, ClaimsError> {
    let mut revision = session.working_revision()?;
    check_revision(session, &mut revision, claims, options, events)
}

/// The same where a revision is: in a checkout if it is not in the user's files.
pub(crate) fn check_revision(
    session: &mut Session,
    revision: &mut Revision,
    claims: &Claims,
    options: &Options,
    events: Events<'_>,
) -> Result<Vec<Checked>, ClaimsError> {
    let mut measuring = Measuring {
        session,
        revision,
        options,
        events,
        outputs: BTreeMap::new(),
        tests: BTreeMap::new(),
    };
    claims
        .list
        .iter()
        .map(|claim| measuring.check(claim))
        .collect()
}

/// What a measurement says of a claim: a number or that a test passes; or why not.
enum MeasuredClaim {
    Number(f64),
    Passes,
    Fails(String),
    Nothing(String),
}

struct Measuring<'a> {
    session: &'a mut Session,
    revision: &'a mut Revision,
    options: &'a Options,
    events: Events<'a>,
    /// What each command printed: several claims may rest on one.
    outputs: BTreeMap<String, Result<String, String>>,
    tests: BTreeMap<TestId, Option<TestStatus>>,
}

impl Measuring<'_> {
    fn check(&mut self, claim: &Claim) -> Result<Checked, ClaimsError> {
        let definition = &claim.definition;
        if let Some(reason) = self.left_out(claim)? {
            return Ok(checked(claim, ClaimState::LeftOut, None, reason));
        }
        let answer = match definition.proof() {
            Proof::Command(command, json) => self.command(command, json)?,
            Proof::Test(test) => self.test(&test.clone())?,
            Proof::Tests(count) => {
                let all = self.known_or_run(&Scope::Workspace, "all tests")?;
                all.map_or_else(
                    || MeasuredClaim::Nothing("the tests do not build".to_owned()),
                    |set| MeasuredClaim::Number(count.of(&set) as f64),
                )
            }
            Proof::Bench(name, measure) => self.bench(name, measure)?,
        };
        Ok(match answer {
            MeasuredClaim::Nothing(reason) => checked(claim, ClaimState::Unmeasured, None, reason),
            MeasuredClaim::Fails(reason) => checked(claim, ClaimState::Broken, None, reason),
            MeasuredClaim::Passes => {
                let reason = "its test passes".to_owned();
                checked(claim, ClaimState::Holds, None, reason)
            }
            MeasuredClaim::Number(raw) => {
                let found = raw * definition.scale.unwrap_or(1.0);
                let relation = definition.relation;
                let holds = relation.holds(found, &claim.number, definition.within);
                let (state, word) = if holds {
                    (ClaimState::Holds, "")
                } else {
                    (ClaimState::Broken, "not ")
                };
                let within = definition
                    .within
                    .map(|within| format!(" (within {within})"));
                let reason = format!(
                    "{} was measured, which is {word}{} {}{}",
                    shown(found),
                    relation.sign(),
                    claim.written,
                    within.unwrap_or_default()
                );
                checked(claim, state, Some(found), reason)
            }
        })
    }

    /// Why a claim is not to be measured, if it is not.
    fn left_out(&mut self, claim: &Claim) -> Result<Option<String>, ClaimsError> {
        let definition = &claim.definition;
        if let Some(processor) = &definition.processor {
            let here = machine::processor();
            if !here.contains(processor.as_str()) {
                return Ok(Some(format!("it holds on {processor}, and this is {here}")));
            }
        }
        if definition.cost() == Cost::Costly && !self.options.costly {
            let reason = "it is costly: cargo palisade claims check --costly";
            return Ok(Some(reason.to_owned()));
        }
        let reason = match definition.proof() {
            Proof::Bench(..) if self.options.launcher.is_none() => {
                Some("benchmarks are not launched here")
            }
            // Each check measures it, and most run some of the tests only.
            Proof::Tests(_) if !self.options.costly && !self.knows_all_tests()? => Some(
                "no run of all tests of these files is stored: cargo palisade test, or --costly",
            ),
            _ => {
                let is_over = self.options.deadline.is_some_and(|at| Instant::now() >= at);
                is_over.then_some("the budget was over before it was measured")
            }
        };
        Ok(reason.map(str::to_owned))
    }

    fn knows_all_tests(&mut self) -> Result<bool, ClaimsError> {
        let known = self.session.known(self.revision, &Scope::Workspace)?;
        Ok(known.covering.is_some())
    }

    fn command(&mut self, command: &str, json: Option<&str>) -> Result<MeasuredClaim, ClaimsError> {
        if !self.outputs.contains_key(command) {
            (self.events)(Event::Step(format!("claim: {command}")));
            let output = self.run(command)?;
            self.outputs.insert(command.to_owned(), output);
        }
        let output = match &self.outputs[command] {
            Ok(output) => output,
            Err(reason) => return Ok(MeasuredClaim::Nothing(reason.clone())),
        };
        let Some(pointer) = json else {
            let none =
                || MeasuredClaim::Nothing(format!("the last line of `{command}` is no number"));
            return Ok(proved_number(output).map_or_else(none, MeasuredClaim::Number));
        };
        let document: serde_json::Value = match serde_json::from_str(output) {
            Ok(document) => document,
            Err(error) => {
                let reason = format!("`{command}` printed no JSON document: {error}");
                return Ok(MeasuredClaim::Nothing(reason));
            }
        };
        let number = document
            .pointer(pointer)
            .and_then(serde_json::Value::as_f64);
        let none = || {
            MeasuredClaim::Nothing(format!(
                "what `{command}` printed has no number at {pointer}"
            ))
        };
        Ok(number.map_or_else(none, MeasuredClaim::Number))
    }

    /// What a command prints; the inner error says why it printed nothing usable.
    fn run(&mut self, line: &str) -> Result<Result<String, String>, ClaimsError> {
        let words = shlex::split(line).unwrap_or_default();
        let Some((program, arguments)) = words.split_first() else {
            return Ok(Err(format!("`{line}` is no command")));
        };
        let root = self.revision.root(self.session, self.events)?;
        let mut command = Command::new(program);
        remove_hook_variables(&mut command)
            .current_dir(root)
            .args(arguments);
        if let Some(target) = self.revision.location(self.session).target {
            command.env("CARGO_TARGET_DIR", target);
        }
        let limit = self.session.policy.claims.time_out.0;
        let left = self.options.deadline.map_or(limit, |at| {
            at.saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1))
        });
        let limits = Limits {
            total: Some(limit.min(left)),
            quiet: None,
        };
        let (mut out, mut said) = (String::new(), Tail::default());
        let end = process::run(
            &mut command,
            limits,
            self.session.cancel(),
            false,
            |stream, text| {
                if stream == Stream::Err {
                    said.push(text);
                } else if out.len() < OUTPUT_LIMIT {
                    out.push_str(&String::from_utf8_lossy(text));
                    out.push('\n');
                }
            },
        );
        let last = || said.text().lines().last().unwrap_or_default().to_owned();
        Ok(match end {
            Ok(ProcessEnd::Exited(Some(0))) => Ok(out),
            Ok(ProcessEnd::Exited(Some(code))) => {
                let code = process::exit_code(code);
                Err(format!("`{line}` ended with {code}: {}", last()))
            }
            Ok(ProcessEnd::Exited(None)) => Err(format!("`{line}` was ended by a signal")),
            Ok(ProcessEnd::TimedOut) => Err(format!("`{line}` ran past its time")),
            Err(error @ process::ProcessError::Interrupted { .. }) => {
                return Err(RunError::from(error).into());
            }
            Err(error) => Err(format!("`{line}` could not be run: {error}")),
        })
    }

    fn test(&mut self, test: &TestId) -> Result<MeasuredClaim, ClaimsError> {
        if !self.tests.contains_key(test) {
            let scope = Scope::Tests([test.clone()].into());
            let set = self.known_or_run(&scope, &format!("test {test}"))?;
            let status = set.and_then(|set| set.tests.get(test).map(Expected::status));
            self.tests.insert(test.clone(), status);
        }
        Ok(match self.tests[test] {
            Some(TestStatus::Passing) => MeasuredClaim::Passes,
            Some(TestStatus::Failing) => MeasuredClaim::Fails(format!("its test {test} fails")),
            Some(TestStatus::Flaky) => {
                MeasuredClaim::Fails(format!("its test {test} passes and fails"))
            }
            Some(TestStatus::Ignored) => {
                MeasuredClaim::Nothing(format!("its test {test} is ignored"))
            }
            None => MeasuredClaim::Nothing(format!("its test {test} did not run")),
        })
    }

    /// The tests of a scope, from the store or by running them; `None` if they do not build.
    fn known_or_run(&mut self, scope: &Scope, what: &str) -> Result<Option<TestSet>, ClaimsError> {
        let known = self.session.known(self.revision, scope)?;
        if known.covering.is_some() {
            return Ok(Some(known.set));
        }
        (self.events)(Event::Step(format!("claim: {what}")));
        let ran = self
            .session
            .run(self.revision, scope, Purpose::Tests, self.events);
        match ran {
            Ok((run, _)) => Ok(Some(TestSet::of_runs([&run], scope))),
            Err(SessionError::Run(RunError::Build { .. })) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    fn bench(&mut self, name: &str, measure: Measure) -> Result<MeasuredClaim, ClaimsError> {
        let launcher = self.options.launcher.clone().expect("else it is left out");
        let options = SeriesOptions {
            selection: Selection {
                only: vec![name.to_owned()],
                ..Selection::default()
            },
            launches: LAUNCHES,
            budget: self
                .options
                .deadline
                .map(|at| at.saturating_duration_since(Instant::now())),
            ..SeriesOptions::default()
        };
        let series = match measure_series(self.session, &launcher, &options, self.events) {
            Ok(series) => series,
            Err(ComparisonError::NoBenchmark(_)) => {
                return Ok(MeasuredClaim::Nothing(format!(
                    "there is no benchmark {name}"
                )));
            }
            Err(ComparisonError::Session(SessionError::Run(RunError::Build { .. }))) => {
                return Ok(MeasuredClaim::Nothing(
                    "the benchmarks do not build".to_owned(),
                ));
            }
            Err(other) => return Err(other.into()),
        };
        let seen = series
            .measurements
            .iter()
            .find(|seen| seen.benchmark == name && seen.measure == measure);
        let value = seen.and_then(|seen| median(&seen.values));
        let none = || MeasuredClaim::Nothing(format!("{name} was not measured"));
        Ok(value.map_or_else(none, MeasuredClaim::Number))
    }
}

/// The number that an output proves: its last line, or the only one in it.
pub(crate) fn proved_number(output: &str) -> Option<f64> {
    last_number(output).or_else(|| {
        let line = output.lines().rev().find(|line| !line.trim().is_empty())?;
        match Number::all(line, 0..line.len()).as_slice() {
            [number] => Some(number.value),
            _ => None,
        }
    })
}

fn checked(claim: &Claim, state: ClaimState, found: Option<f64>, reason: String) -> Checked {
    Checked {
        claim: claim.clone(),
        state,
        found,
        reason,
    }
}

/// A value with as many digits as help to see the difference.
fn shown(value: f64) -> String {
    let digits = 6 - value.abs().max(1.0).log10().floor() as usize;
    let text = format!("{value:.*}", digits.min(6));
    match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_proves_its_only_number() {
        assert_eq!(proved_number("a 7\n12.5\n\n"), Some(12.5));
        assert_eq!(proved_number("7\nchecksum 4096\n"), Some(4096.0));
        assert_eq!(proved_number("4096\n1 of 2\n"), None);
        assert_eq!(proved_number("all well"), None);
    }
}
