//! What can be said of a commit in a few seconds, before it is made: format, risk, rules
//! of ignored and quarantined tests, and the cheap claims.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::HookError;
use crate::change::{ChangeKind, FileChange};
use crate::finding::{Cause, Finding, FindingSubject, HookGap, Severity};
use crate::flow::change::assess_change;
use crate::flow::claims::{self, Claims};
use crate::flow::quarantine::release_due;
use crate::host::git::remove_hook_variables;
use crate::host::now;
use crate::host::session::{Event, Events, Session};
use crate::host::source::{ignored_tests, unix_lines};
use crate::policy::{FILE_NAME, Policy};
use crate::risk::Assessment;
use crate::verdict::judge_claims;

/// Judges what is staged, and begins nothing new after `deadline`. Returns the risk and
/// what was found; what the time did not suffice for is a note.
pub fn pre_commit(
    session: &mut Session,
    deadline: Instant,
    events: Events<'_>,
) -> Result<(Assessment, Vec<Finding>), HookError> {
    for entry in release_due(session.store.as_mut(), now())? {
        events(Event::Note(format!("{} left quarantine", entry.test)));
    }
    let head = session.repo.head()?;
    let tree = session.repo.staged_tree()?;
    let changes = session.repo.diff(&head.tree, &tree)?;
    let mut findings = Vec::new();
    findings.extend(policy(session, &tree)?);
    let is_rust = |change: &&FileChange| {
        std::path::Path::new(&change.path).extension() == Some("rs".as_ref())
            && change.kind != ChangeKind::Deleted
    };
    for change in changes.iter().filter(is_rust) {
        if Instant::now() >= deadline {
            findings.push(left_out(HookGap::Files));
            break;
        }
        let Some(text) = text(session, &tree, &change.path)? else {
            continue;
        };
        let old = match &change.kind {
            ChangeKind::Renamed { from } => from,
            _ => &change.path,
        };
        let before = self::text(session, &head.tree, old)?;
        findings.extend(newly_ignored(&change.path, before.as_deref(), &text));
        findings.extend(format(session, &change.path, &text));
    }
    let assessment = assess_change(session, &head.tree, &tree)?;
    // Claims are measured in the user's files, which must hold what is staged.
    if session.repo.working_tree()? == tree {
        let claims = Claims::load(session)?;
        let options = claims::Options {
            deadline: Some(deadline),
            ..claims::Options::default()
        };
        let checked = claims::check(session, &claims, &options, events)?;
        // What the time did not suffice for is measured before the push.
        let is_over = Instant::now() >= deadline;
        findings.extend(
            judge_claims(&claims::results(&checked), &claims::contradictions(&claims))
                .into_iter()
                .filter(|finding| !is_over || finding.severity != Severity::Unmeasured),
        );
        if is_over {
            findings.push(left_out(HookGap::Claims));
        }
    } else {
        findings.push(left_out(HookGap::ClaimsOfStaged));
    }
    findings.sort_by_key(|finding| finding.severity);
    Ok((assessment, findings))
}

fn text(session: &Session, tree: &str, path: &str) -> Result<Option<String>, HookError> {
    let bytes = session.repo.file(tree, path)?;
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
}

fn left_out(gap: HookGap) -> Finding {
    Finding::new(FindingSubject::Budget, Cause::LeftOut(gap), Severity::Note)
}

/// Whether the policy that is staged can be read: known failures and accepted differences
/// need an owner and a reason.
fn policy(session: &Session, tree: &str) -> Result<Option<Finding>, HookError> {
    let path = match session.workspace.dir.as_str() {
        "" => FILE_NAME.to_owned(),
        dir => format!("{dir}/{FILE_NAME}"),
    };
    let Some(text) = text(session, tree, &path)? else {
        return Ok(None);
    };
    let error = Policy::parse(&text, std::path::Path::new(&path)).err();
    Ok(error.map(|error| {
        let why = error.to_string();
        let subject = FindingSubject::File(path);
        Finding::new(
            subject,
            Cause::PolicyUnreadable { why },
            Severity::Regression,
        )
    }))
}

/// A test that is ignored from now on needs a reason in its attribute.
fn newly_ignored(path: &str, before: Option<&str>, after: &str) -> Vec<Finding> {
    let before = before.and_then(ignored_tests).unwrap_or_default();
    let after: BTreeMap<String, bool> = ignored_tests(after).unwrap_or_default();
    let is_new =
        |(test, has_reason): &(&String, &bool)| !**has_reason && !before.contains_key(*test);
    let new = after.iter().filter(is_new);
    new.map(|(test, _)| {
        let subject = FindingSubject::StagedTest {
            path: path.to_owned(),
            test: test.clone(),
        };
        Finding::new(subject, Cause::IgnoredWithoutReason, Severity::Regression)
    })
    .collect()
}

/// Whether rustfmt would write a file as it is staged.
fn format(session: &Session, path: &str, text: &str) -> Option<Finding> {
    let package = session.workspace.owner(path)?;
    let mut command = Command::new("rustfmt");
    remove_hook_variables(&mut command)
        .current_dir(&session.workspace.root)
        .args(["--emit", "stdout", "--quiet", "--edition", &package.edition])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn();
    let ended = child.and_then(|mut child| {
        if let Some(mut input) = child.stdin.take() {
            // A formatter that stops reading has seen enough.
            let _ = input.write_all(text.as_bytes());
        }
        child.wait_with_output()
    });
    let Ok(output) = ended else {
        let subject = FindingSubject::File(path.to_owned());
        return Some(Finding::new(subject, Cause::NotFormattable, Severity::Note));
    };
    // Git keeps `\n` where rustfmt may be told to write what the system has.
    let written = String::from_utf8_lossy(&output.stdout);
    let written = if cfg!(windows) {
        unix_lines(&written)
    } else {
        written
    };
    // `--check` says nothing of standard input.
    if output.status.success() && written == text {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let subject = FindingSubject::File(path.to_owned());
    Some(Finding {
        output: (!said.is_empty()).then_some(said),
        ..Finding::new(subject, Cause::NotFormatted, Severity::Regression)
    })
}
