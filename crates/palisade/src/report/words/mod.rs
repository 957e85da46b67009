//! The words for findings: what was seen, what it means, what to do next and what not to do.

mod claims;
mod coverage;
#[cfg(test)]
mod golden;
mod others;
mod runs;
mod speed;
mod tests;

pub use claims::numbers;
pub(super) use coverage::{aspect, behind_features, left_out_words, listed};

use crate::finding::{Cause, Finding, FindingSubject, Severity};
use crate::record::{FindingDocument, Place};
use crate::report::named;

/// What there is nothing to do about.
pub(super) const NOTHING: &str = "nothing to do";

const NO_PASS: &str = "do not take this for a pass";

/// The words for a cause.
#[derive(Default)]
struct Words {
    state: &'static str,
    reason: String,
    meaning: String,
    next: String,
    avoid: String,
    output: Option<String>,
}

impl Words {
    fn new(state: &'static str, reason: impl Into<String>) -> Self {
        Self {
            state,
            reason: reason.into(),
            ..Self::default()
        }
    }

    fn meaning(self, meaning: impl Into<String>) -> Self {
        let meaning = meaning.into();
        Self { meaning, ..self }
    }

    fn next(self, next: impl Into<String>) -> Self {
        let next = next.into();
        Self { next, ..self }
    }

    fn avoid(self, avoid: &str) -> Self {
        let avoid = avoid.to_owned();
        Self { avoid, ..self }
    }

    fn no_pass(self) -> Self {
        self.avoid(NO_PASS)
    }

    fn output(self, output: String) -> Self {
        let output = Some(output);
        Self { output, ..self }
    }
}

/// Some findings in words; `base` is what people call what the change is compared with.
pub fn documents(findings: &[Finding], base: &str) -> Vec<FindingDocument> {
    findings.iter().map(|found| document(found, base)).collect()
}

/// A finding in words; `base` is what people call what the change is compared with.
pub fn document(finding: &Finding, base: &str) -> FindingDocument {
    let document = FindingDocument {
        kind: finding.kind(),
        name: name(&finding.subject),
        state: String::new(),
        severity: finding.severity,
        reason: String::new(),
        meaning: String::new(),
        next: String::new(),
        avoid: String::new(),
        output: finding.output.clone(),
        place: place(finding),
    };
    if let Cause::Told(told) = &finding.cause {
        return FindingDocument {
            state: told.state.clone(),
            reason: told.reason.clone(),
            meaning: told.meaning.clone(),
            next: told.next.clone(),
            avoid: told.avoid.clone(),
            ..document
        };
    }
    let words = words(finding, base);
    // A note does not keep from passing.
    let is_told = finding.severity != Severity::Note || words.avoid != NO_PASS;
    let document = FindingDocument {
        state: words.state.to_owned(),
        reason: words.reason,
        meaning: words.meaning,
        next: words.next,
        avoid: if is_told { words.avoid } else { String::new() },
        output: document.output.or(words.output),
        ..document
    };
    match &finding.accepted {
        None => document,
        Some(accepted) => FindingDocument {
            reason: format!(
                "{}; accepted by {}: {}",
                document.reason, accepted.owner, accepted.reason
            ),
            meaning: "the policy says that this was done on purpose".to_owned(),
            next: NOTHING.to_owned(),
            avoid: String::new(),
            ..document
        },
    }
}

fn words(finding: &Finding, base: &str) -> Words {
    let subject = &finding.subject;
    match &finding.cause {
        Cause::Failing(failure) => tests::failing(subject, failure, base),
        Cause::NotComparable(seen) => tests::not_comparable(seen, base),
        Cause::Missing { was_failing } => tests::missing(subject, *was_failing, base),
        Cause::NewlyIgnored => tests::newly_ignored(subject, base),
        Cause::Slower(seen) => tests::slower(subject, seen),
        Cause::NewlyPassing { is_known_failure } => tests::newly_passing(*is_known_failure, base),
        Cause::Renamed { from } => tests::renamed(from),
        Cause::NoLongerIgnored => tests::no_longer_ignored(base),
        Cause::New { state, runs } => tests::new(*state, *runs),
        Cause::BelowMinimum {
            unknown,
            ran,
            rate,
            minimum,
            before,
        } => tests::below_minimum((*unknown, *ran), *rate, *minimum, *before, base),
        Cause::NoHistory { head } => runs::no_history(head),
        Cause::NoTests => runs::no_tests(),
        Cause::Incomplete { gaps } => runs::incomplete(gaps),
        Cause::BuildFailed(failure) => runs::build_failed(*failure, base),
        Cause::ReuseDiffers {
            age_ms,
            tests,
            lists_differ,
        } => runs::reuse_differs(*age_ms, tests, *lists_differ),
        Cause::ShardDiffers {
            report,
            first,
            difference,
        } => runs::shard_differs(report, first, difference),
        Cause::ShardMissing => runs::shard_missing(subject),
        Cause::NotRun { targets, tests } => runs::not_run(targets, *tests),
        Cause::ApiBreak {
            reference,
            version,
            rules,
        } => others::api_break(subject, *reference, version, rules, base),
        Cause::ApiNotCompared { reference, why } => {
            others::api_not_compared(subject, *reference, why, base)
        }
        Cause::Compared(decision) => speed::compared(subject, decision, base),
        Cause::ComparedRoughly(rough) => speed::compared_roughly(rough, finding.severity, base),
        Cause::ComparedFiles(found) => speed::compared_files(subject, found),
        Cause::BoundMeasured(decision) => speed::bound(decision),
        Cause::BenchmarkGone => speed::gone(subject, base),
        Cause::BenchmarkAdded => Words::new("added", format!("it is new, and was not at {base}")),
        Cause::NotListed { why } => speed::not_listed(why),
        Cause::NotMeasured(gap) => speed::not_measured(*gap),
        Cause::ClaimBroken(seen) => claims::broken(subject, seen),
        Cause::ClaimUnmeasured(seen) => claims::unmeasured(subject, seen),
        Cause::ClaimLeftOut(seen) => claims::left_out(subject, seen),
        Cause::ClaimStillBroken(seen) => claims::still_broken(subject, seen),
        Cause::ClaimGone { written } => claims::gone(written),
        Cause::Contradiction { places } => claims::contradiction(places),
        Cause::Approved { by, note } => others::approved(by, note),
        Cause::NotApproved {
            level,
            authors,
            own,
        } => others::not_approved(*level, authors, own.as_deref()),
        Cause::MonitorFailed {
            command,
            rerun,
            broken_by,
        } => others::monitor_failed(command, rerun, broken_by.as_deref(), base),
        Cause::MonitorUnmeasured { gap, broken_by } => {
            others::monitor_unmeasured(gap, broken_by.as_deref())
        }
        Cause::LeftOut(gap) => others::left_out(*gap),
        Cause::PolicyUnreadable { why } => {
            Words::new("unreadable", why).next("correct it, and git add it")
        }
        Cause::IgnoredWithoutReason => others::ignored_without_reason(),
        Cause::NotFormattable => others::not_formattable(),
        Cause::NotFormatted => others::not_formatted(),
        Cause::Told(_) => Words::default(),
    }
}

/// What a subject is called.
fn name(subject: &FindingSubject) -> String {
    match subject {
        FindingSubject::Test(test) => test.to_string(),
        FindingSubject::Base => "base".to_owned(),
        FindingSubject::Tests => "tests".to_owned(),
        FindingSubject::Build => "build".to_owned(),
        FindingSubject::StoredRun(revision) => format!("stored run of {revision}"),
        FindingSubject::Shard(number) => format!("shard {number}"),
        FindingSubject::StagedTest { path, test } => format!("{path} {test}"),
        FindingSubject::Budget => "budget".to_owned(),
        FindingSubject::SuccessRate => "success rate".to_owned(),
        FindingSubject::PublicApi(package) => format!("public API of {package}"),
        FindingSubject::Benchmarks => "benchmarks".to_owned(),
        FindingSubject::Benchmark {
            name,
            measure: Some(measure),
        } => named(name, *measure),
        FindingSubject::ImportedBenchmark { name, measure } => format!("{name}: {measure}"),
        FindingSubject::Claim {
            document,
            line: Some(line),
            name,
        } => format!("{document}:{line} {name}"),
        FindingSubject::Claim {
            document,
            line: None,
            name,
        } => format!("{document} {name}"),
        FindingSubject::Count { document, what } => format!("{document} {what}"),
        FindingSubject::Approval => "approval".to_owned(),
        FindingSubject::Revision(name)
        | FindingSubject::File(name)
        | FindingSubject::Benchmark {
            name,
            measure: None,
        }
        | FindingSubject::Bound { name, .. }
        | FindingSubject::Monitor(name)
        | FindingSubject::Told { name, .. } => name.clone(),
    }
}

fn place(finding: &Finding) -> Option<Place> {
    match &finding.subject {
        FindingSubject::Claim {
            document,
            line: Some(line),
            ..
        } => Some(Place {
            path: document.clone(),
            line: *line,
        }),
        FindingSubject::Test(_) => panic_place(finding.output.as_deref()?),
        _ => None,
    }
}

/// Where a test panicked, as the standard library says it: `panicked at src/lib.rs:12:5:`. A
/// place outside of the workspace is none.
fn panic_place(output: &str) -> Option<Place> {
    let (_, at) = output.split_once("panicked at ")?;
    let at = at.split_whitespace().next()?.trim_end_matches(':');
    let (at, _column) = at.rsplit_once(':')?;
    let (path, line) = at.rsplit_once(':')?;
    let path = path.replace('\\', "/");
    let is_inside = !path.starts_with('/') && !path.contains(':') && !path.starts_with("..");
    let line = line.parse().ok()?;
    is_inside.then_some(Place { path, line })
}

/// A p-value as people read it.
fn p_value(p: f64) -> String {
    if p < 0.001 {
        "< 0.001".to_owned()
    } else {
        format!("{p:.3}")
    }
}
