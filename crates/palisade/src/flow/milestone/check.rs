//! Holding the user's files, and HEAD, against a milestone.

use serde::Serialize;

use super::MilestoneError;
use crate::baseline::TestSet;
use crate::finding::{ClaimState, Finding, FindingKind};
use crate::flow::benchmark_comparison::{CompareOptions, ComparisonError, compare};
use crate::flow::check::{CheckOptions, check as check_tests};
use crate::flow::claims::{self, Checked, Claims, contradictions};
use crate::hash::short;
use crate::history::{MilestoneComparison, compare_with_milestone};
use crate::host::measure::launch::Launcher;
use crate::host::session::{BaseChoice, CandidateChoice, Events, Revision, Session};
use crate::observation::{Environment, Millis};
use crate::record::{FindingDocument, KnownTests, Milestone, Snapshot};
use crate::report::documents;
use crate::scope::Scope;
use crate::speed::{BenchmarkState, Decision};
use crate::verdict::{Verdict, judge_claims, judge_claims_since, judge_single_runs};

/// How a milestone is held.
#[derive(Clone, Debug)]
pub struct MilestoneCheckOptions {
    /// Run now what is not known: tests, a comparison of speed, claims.
    pub measure: bool,
    /// What launches benchmarks.
    pub launcher: Launcher,
}

/// How the user's files compare with a milestone, part by part.
#[derive(Clone, Debug, Serialize)]
pub struct MilestoneReport {
    /// All parts together. A part that nothing is known of says nothing, and all of them
    /// together are no pass.
    pub verdict: Verdict,
    /// HEAD.
    pub commit: String,
    /// The tests of the user's files.
    pub tests: MilestoneSection,
    /// Speed and memory of HEAD, by benchmark.
    #[serde(rename = "standings")]
    pub comparisons: Vec<MilestoneComparison>,
    /// The claims of the documents in the user's files.
    pub claims: MilestoneSection,
    /// What could not be compared and why, and what else there is to say.
    pub notes: Vec<String>,
}

/// One part of the answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MilestoneSection {
    /// What it says; `None` if nothing is known of it.
    pub verdict: Option<Verdict>,
    /// What became worse, and what is worth knowing.
    pub findings: Vec<FindingDocument>,
}

impl MilestoneSection {
    fn of(findings: &[Finding], base: &str) -> Self {
        Self {
            verdict: Some(Verdict::of(findings)),
            findings: documents(findings, base),
        }
    }
}

/// Holds the user's files, and the speed of HEAD, against a milestone: by the runs and
/// comparisons that the store knows of it, else by its snapshot.
pub fn check(
    session: &mut Session,
    milestone: &Milestone,
    options: &MilestoneCheckOptions,
    events: Events<'_>,
) -> Result<MilestoneReport, MilestoneError> {
    let head = session.repo.head()?.id;
    let mut notes = Vec::new();
    let tests = tests(session, milestone, options, events, &mut notes)?;
    let comparisons = speed(session, milestone, &head, options, events, &mut notes)?;
    let claims = claims(session, milestone, options, events, &mut notes)?;
    let speed = (!comparisons.is_empty()).then(|| speed_verdict(&comparisons));
    let known = [tests.verdict, speed, claims.verdict];
    let verdict = worst(&known.into_iter().flatten().collect::<Vec<_>>());
    Ok(MilestoneReport {
        verdict,
        commit: head,
        tests,
        comparisons,
        claims,
        notes,
    })
}

/// The worst of some verdicts: what is known to be a regression is one, and what is not
/// known is no pass.
fn worst(verdicts: &[Verdict]) -> Verdict {
    if verdicts.is_empty() {
        return Verdict::Incomparable;
    }
    let order = [
        Verdict::Regression,
        Verdict::Incomparable,
        Verdict::Inconclusive,
    ];
    let worst = order.into_iter().find(|verdict| verdicts.contains(verdict));
    worst.unwrap_or(Verdict::Pass)
}

fn tests(
    session: &mut Session,
    milestone: &Milestone,
    options: &MilestoneCheckOptions,
    events: Events<'_>,
    notes: &mut Vec<String>,
) -> Result<MilestoneSection, MilestoneError> {
    let from = &milestone.subject.commit;
    let mut files = session.working_revision()?;
    let now_known = session.known(&mut files, &Scope::Workspace)?;
    let is_here = session.repo.resolve(from).is_ok();
    let is_remembered = is_here && session.knows_all_tests(from)?;
    let snapshot = milestone.snapshot.as_ref().and_then(|s| s.tests.as_ref());
    // A comparison of runs may run tests again; only what was asked for does.
    let is_compared = snapshot.is_none() && is_remembered && now_known.covering.is_some();
    if is_here && (options.measure || is_compared) {
        return tests_by_runs(session, from, &files, events);
    }
    match snapshot {
        Some(snapshot) => {
            let environment = files.environment(session)?;
            if let Err(reason) = comparable(snapshot, &environment, notes) {
                notes.push(reason);
                return Ok(MilestoneSection::default());
            }
            if now_known.covering.is_none() {
                return Ok(unknown_now(notes));
            }
            tests_by_snapshot(session, milestone, snapshot, &now_known.set)
        }
        None if is_remembered => Ok(unknown_now(notes)),
        None => Ok(unknown_then(is_here, notes)),
    }
}

/// Compares the runs of the files with those of the milestone's commit; runs what is missing.
fn tests_by_runs(
    session: &mut Session,
    from: &str,
    files: &Revision,
    events: Events<'_>,
) -> Result<MilestoneSection, MilestoneError> {
    let candidate = if files.subject.dirty {
        CandidateChoice::Files
    } else {
        CandidateChoice::Checkout(files.subject.commit.clone())
    };
    let options = CheckOptions {
        base: BaseChoice::Revision(from.to_owned()),
        candidate,
        everything: true,
        ..CheckOptions::default()
    };
    let report = check_tests(session, &options, events)?;
    // The documents are held in their own part.
    let mut findings = report.findings;
    findings.retain(|finding| finding.kind() != FindingKind::Claim);
    Ok(MilestoneSection::of(&findings, &report.base.name))
}

/// Holds the tests of the files against those that the milestone's snapshot lists.
fn tests_by_snapshot(
    session: &Session,
    milestone: &Milestone,
    snapshot: &KnownTests,
    now: &TestSet,
) -> Result<MilestoneSection, MilestoneError> {
    let ledger = crate::flow::quarantine::ledger(session.store.as_ref())?;
    let findings = judge_single_runs(&snapshot.test_set(), now, true, &session.policy, &ledger);
    Ok(MilestoneSection::of(&findings, &milestone.name))
}

/// Nobody kept what the tests did at the milestone.
fn unknown_then(is_here: bool, notes: &mut Vec<String>) -> MilestoneSection {
    let next = if is_here {
        "--measure runs them"
    } else {
        "its commit is not in this clone"
    };
    notes.push(format!("tests: not known at the milestone; {next}"));
    MilestoneSection::default()
}

/// The milestone's tests are known and those of the files are not: no data is no pass.
fn unknown_now(notes: &mut Vec<String>) -> MilestoneSection {
    notes.push(
        "tests: not known of the files as they are; --measure runs them, as does \
         cargo palisade test"
            .to_owned(),
    );
    MilestoneSection {
        verdict: Some(Verdict::Incomparable),
        findings: Vec::new(),
    }
}

/// Whether outcomes of tests from where a milestone was set say something here: other
/// systems have other tests. What differs and does not prevent it becomes a note.
fn comparable(
    tests: &KnownTests,
    here: &Environment,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    let there = &tests.environment;
    let system = |machine: &str| machine.split(',').next().unwrap_or_default().to_owned();
    let (now, then) = (system(&here.machine), system(&there.machine));
    if now != then {
        return Err(format!(
            "tests: incomparable, they were seen on {then}, and this is {now}"
        ));
    }
    let parts = [
        ("machine", &there.machine, &here.machine),
        ("compiler", &there.toolchain, &here.toolchain),
        ("runner", &there.config, &here.config),
    ];
    let differs = parts.iter().filter(|(_, there, here)| there != here);
    let differs: Vec<String> = differs
        .map(|(what, there, here)| format!("{what}: {there} there, {here} here"))
        .collect();
    if !differs.is_empty() {
        notes.push(format!(
            "tests: held by their outcomes alone, which were seen elsewhere ({})",
            differs.join("; ")
        ));
    }
    Ok(())
}

fn speed(
    session: &mut Session,
    milestone: &Milestone,
    head: &str,
    options: &MilestoneCheckOptions,
    events: Events<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<MilestoneComparison>, MilestoneError> {
    let from = &milestone.subject.commit;
    let mut comparisons = speed_comparisons(session, milestone, head)?;
    let is_open = speed_verdict(&comparisons) == Verdict::Incomparable
        || comparisons
            .iter()
            .all(|comparison| comparison.separate_series);
    if options.measure && is_open && session.repo.resolve(from).is_ok() {
        compare_speed(session, from, head, &options.launcher, events)?;
        comparisons = speed_comparisons(session, milestone, head)?;
    }
    let (from, to) = (short(from), short(head));
    if comparisons.is_empty() {
        notes.push(format!(
            "speed: no comparison leads from {from} to {to}; --measure makes one"
        ));
    } else if comparisons
        .iter()
        .all(|comparison| comparison.separate_series)
    {
        notes.push(format!(
            "speed: memory alone is held, as no comparison leads from {from} to {to}; \
             --measure makes one"
        ));
    }
    let snapshot = milestone.snapshot.as_ref();
    let recorded = snapshot.map_or(&[][..], |snapshot| &snapshot.speed);
    if comparisons.is_empty()
        && let Some(there) = recorded.first()
        && let Some(here) = session
            .store
            .speed_runs(Millis::MIN)?
            .iter()
            .rev()
            .find(|run| {
                run.subject.commit == head
                    && !recorded.iter().any(|r| r.fingerprint == run.fingerprint)
            })
    {
        let differs = here.fingerprint.differences(&there.fingerprint).join("; ");
        notes.push(format!(
            "speed: incomparable with what was measured at the milestone ({differs})"
        ));
    }
    Ok(comparisons)
}

/// Compares the two commits; a workspace without benchmarks has no speed to hold.
fn compare_speed(
    session: &mut Session,
    from: &str,
    to: &str,
    launcher: &Launcher,
    events: Events<'_>,
) -> Result<(), MilestoneError> {
    let options = CompareOptions {
        base: from.to_owned(),
        candidate: Some(to.to_owned()),
        ..CompareOptions::default()
    };
    match compare(session, launcher, &options, events) {
        Ok(_) | Err(ComparisonError::NoBenchmark(_)) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// How HEAD stands on the machine that measured it last.
fn speed_comparisons(
    session: &Session,
    milestone: &Milestone,
    head: &str,
) -> Result<Vec<MilestoneComparison>, MilestoneError> {
    let mut runs = session.store.speed_runs(Millis::MIN)?;
    let Some(of_head) = runs
        .iter()
        .rev()
        .find(|run| run.subject.commit == head && run.fingerprint.source().is_none())
    else {
        return Ok(Vec::new());
    };
    let machine = of_head.fingerprint.clone();
    for kept in milestone.snapshot.iter().flat_map(|s| &s.speed) {
        if !runs.iter().any(|run| run.id == kept.id) {
            runs.push(kept.clone());
        }
    }
    let calibrations = session.store.calibrations()?;
    let from = &milestone.subject.commit;
    Ok(compare_with_milestone(
        &runs,
        &calibrations,
        &machine,
        from,
        head,
    ))
}

/// What the comparisons say together. Nothing measured is never a pass.
fn speed_verdict(comparisons: &[MilestoneComparison]) -> Verdict {
    let of = |decision: &Decision| match decision.state {
        BenchmarkState::Regressed => Verdict::Regression,
        BenchmarkState::Incomparable => Verdict::Incomparable,
        BenchmarkState::Inconclusive => Verdict::Inconclusive,
        BenchmarkState::Improved | BenchmarkState::Equivalent => Verdict::Pass,
    };
    let verdicts: Vec<Verdict> = comparisons.iter().map(|s| of(&s.decision)).collect();
    worst(&verdicts)
}

/// Measures the cheap claims and holds them to what they were at the milestone. Where
/// that is not known, they are measured if everything is, and held to be true.
fn claims(
    session: &mut Session,
    milestone: &Milestone,
    options: &MilestoneCheckOptions,
    events: Events<'_>,
    notes: &mut Vec<String>,
) -> Result<MilestoneSection, MilestoneError> {
    let snapshot = milestone.snapshot.as_ref();
    let known = snapshot.and_then(|snapshot: &Snapshot| snapshot.claims.as_ref());
    if known.is_none() {
        notes.push("claims: not recorded at the milestone".to_owned());
        if !options.measure {
            return Ok(MilestoneSection::default());
        }
    }
    let list = Claims::load(session)?;
    let claims_options = claims::Options {
        launcher: options.measure.then(|| options.launcher.clone()),
        ..claims::Options::default()
    };
    let checked = claims::check(session, &list, &claims_options, events)?;
    let contradictions = contradictions(&list);
    let results = claims::results(&checked);
    let findings = match known {
        Some(known) => judge_claims_since(known, &results, &contradictions),
        None => judge_claims(&results, &contradictions),
    };
    let is_measured = |checked: &Checked| checked.state != ClaimState::LeftOut;
    let part = MilestoneSection::of(&findings, &milestone.name);
    let says_nothing = part.verdict == Some(Verdict::Pass) && !checked.iter().any(is_measured);
    if says_nothing {
        notes.push("claims: none was measured".to_owned());
    }
    Ok(MilestoneSection {
        verdict: part.verdict.filter(|_| !says_nothing),
        ..part
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_pass_and_hides_no_regression() {
        use Verdict::{Incomparable, Inconclusive, Pass, Regression};
        assert_eq!(worst(&[]), Incomparable);
        assert_eq!(worst(&[Pass, Pass]), Pass);
        assert_eq!(worst(&[Pass, Inconclusive]), Inconclusive);
        assert_eq!(worst(&[Inconclusive, Incomparable]), Incomparable);
        assert_eq!(worst(&[Incomparable, Regression, Pass]), Regression);
    }

    #[test]
    fn outcomes_of_another_system_are_incomparable_and_of_another_machine_are_told() {
        let at = |machine: &str| Environment {
            toolchain: "rustc 1.95.0".to_owned(),
            machine: machine.to_owned(),
            lockfile: String::new(),
            config: "cargo test".to_owned(),
        };
        let tests = KnownTests {
            environment: at("linux x86_64, a processor, 2 cores"),
            states: std::collections::BTreeMap::new(),
        };
        let compare = |machine: &str| {
            let mut notes = Vec::new();
            let answer = comparable(&tests, &at(machine), &mut notes);
            (answer.is_ok(), notes.len())
        };
        assert_eq!(compare("linux x86_64, a processor, 2 cores"), (true, 0));
        assert_eq!(compare("linux x86_64, a processor, 8 cores"), (true, 1));
        assert_eq!(compare("macos aarch64, a processor, 2 cores"), (false, 0));
    }
}
