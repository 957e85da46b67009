//! The words for what happened to the public API, to approvals, monitors and staged files.

use super::{NOTHING, Words, p_value};
use crate::finding::{ApiReferenceName, FindingSubject, HookGap, MonitorGap};
use crate::flaky::Judgement;
use crate::level::Level;
use crate::rerun::RerunResult;

fn package(subject: &FindingSubject) -> &str {
    match subject {
        FindingSubject::PublicApi(package) => package,
        _ => "",
    }
}

fn reference(reference: ApiReferenceName, base: &str) -> &str {
    match reference {
        ApiReferenceName::Base => base,
        ApiReferenceName::Release => "the last release",
    }
}

pub(super) fn api_break(
    subject: &FindingSubject,
    compared: ApiReferenceName,
    version: &str,
    rules: &[String],
    base: &str,
) -> Words {
    let other = reference(compared, base);
    Words::new(
        "api_break",
        format!(
            "compared with {other} it needs a new {version} version: {}",
            rules.join("; ")
        ),
    )
    .meaning("code that uses it may no longer compile")
    .next(format!(
        "cargo semver-checks --package {}",
        package(subject)
    ))
    .avoid("do not publish it as a compatible version")
}

pub(super) fn api_not_compared(
    subject: &FindingSubject,
    compared: ApiReferenceName,
    why: &str,
    base: &str,
) -> Words {
    let other = reference(compared, base);
    Words::new(
        "not_compared",
        format!("it could not be compared with {other}: {why}"),
    )
    .meaning("a break of the public API would not show")
    .next(format!(
        "cargo semver-checks --package {}",
        package(subject)
    ))
}

pub(super) fn approved(by: &str, note: &str) -> Words {
    Words::new("approved", format!("{by}: {note}"))
        .meaning("somebody validated this very content by hand")
        .next(NOTHING)
}

pub(super) fn not_approved(level: Option<Level>, authors: &[String], own: Option<&str>) -> Words {
    let word = level.map_or("unknown", Level::word);
    let own = own.map_or_else(String::new, |by| format!("; {by} is an author of it"));
    Words::new(
        "not_approved",
        format!(
            "the risk is {word}, and nobody besides {} approved this content{own}",
            authors.join(", ")
        ),
    )
    .meaning("the policy wants a second person to validate such a change by hand")
    .next(
        "cargo palisade approve --note 'what was validated, and how', by somebody else, \
         with the same store",
    )
    .avoid("do not approve what you did not try")
}

pub(super) fn monitor_failed(
    command: &str,
    rerun: &RerunResult,
    broken_by: Option<&str>,
    base: &str,
) -> Words {
    let (counts, before) = (rerun.candidate, rerun.base.unwrap_or_default());
    let reason = format!(
        "`{command}` failed in {} of {} runs, and in {} of {} at {base} (Fisher's exact test, p = {})",
        counts.failures,
        counts.total(),
        before.failures,
        before.total(),
        p_value(rerun.p)
    );
    let keep = "do not take the monitor away to get past this";
    let (state, meaning, avoid) = match rerun.judgement {
        Judgement::Broken => ("newly_failing", "what broke once is broken again", keep),
        Judgement::MadeFlaky => ("flaky", "it fails at times as of this change", keep),
        Judgement::Flaky => (
            "flaky",
            "it both passes and fails on the same tree, and did so before this change",
            "",
        ),
        Judgement::BrokenBefore => (
            "still_failing",
            "it fails at the base too: this change did not break it",
            "",
        ),
        Judgement::Undecided | Judgement::ProbablyFlaky => (
            "open",
            "the runs so far do not tell whether the change did it",
            super::NO_PASS,
        ),
    };
    Words::new(state, reason)
        .meaning(format!("{meaning}{}", by(broken_by)))
        .next("run the command; cargo palisade bisect --cmd COMMAND")
        .avoid(avoid)
}

pub(super) fn monitor_unmeasured(gap: &MonitorGap, broken_by: Option<&str>) -> Words {
    let reason = match gap {
        MonitorGap::Budget => "the budget was over before it ran".to_owned(),
        MonitorGap::NoBenchmark(name) => format!("no benchmark has {name:?} in its name"),
        MonitorGap::NoRatio { of, to } => format!("one of {of} and {to} was not measured"),
        MonitorGap::Command(why) => why.clone(),
    };
    Words::new("unmeasured", reason)
        .meaning(format!("what broke once would not show{}", by(broken_by)))
        .next("repair the [[monitor]] in palisade.toml")
        .no_pass()
}

fn by(broken_by: Option<&str>) -> String {
    broken_by.map_or_else(String::new, |reason| format!(" ({reason})"))
}

pub(super) fn left_out(gap: HookGap) -> Words {
    let what = match gap {
        HookGap::Files => "format and rules of the other files",
        HookGap::Claims => "claims",
        HookGap::ClaimsOfStaged => "claims, which need the files as they are staged,",
    };
    Words::new(
        "left_out",
        format!("{what} are left to the next hook and to CI"),
    )
    .next(NOTHING)
}

pub(super) fn ignored_without_reason() -> Words {
    Words::new(
        "ignored_without_reason",
        "it is marked #[ignore] and gives no reason",
    )
    .meaning("what it checked is checked no more, and nobody can tell why")
    .next("#[ignore = \"why, and who answers for it\"], or flaky quarantine")
}

pub(super) fn not_formattable() -> Words {
    Words::new(
        "not_compared",
        "rustfmt could not be run: rustup component add rustfmt",
    )
    .next(NOTHING)
}

pub(super) fn not_formatted() -> Words {
    Words::new(
        "not_formatted",
        "rustfmt would write it otherwise than it is staged",
    )
    .next("cargo fmt, and git add it")
}
