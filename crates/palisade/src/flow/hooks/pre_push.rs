//! What can be said of commits before they are sent elsewhere: the tests that they can
//! affect, from the store where it knows them.

use std::time::{Duration, Instant};

use super::HookError;
use crate::flow::change::assess_change;
use crate::flow::check::{CheckOptions, MeasureSpeed, check};
use crate::host::session::{BaseChoice, CandidateChoice, Events, Session};
use crate::record::Report;

/// A ref that is pushed, as git tells the hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The commit that is sent.
    pub local: String,
    /// The commit that is there; zeros if the ref is new.
    pub remote: String,
}

impl Push {
    /// Reads git's lines: `local-ref local-commit remote-ref remote-commit`. Refs that are
    /// taken away, and those that do not change, are left out.
    pub fn read(said: &str) -> Vec<Self> {
        let line = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let (local, _, remote) = (words.next()?, words.next()?, words.next()?);
            let is_sent = !is_zero(local) && local != remote;
            is_sent.then(|| Self {
                local: local.to_owned(),
                remote: remote.to_owned(),
            })
        };
        said.lines().filter_map(line).collect()
    }
}

fn is_zero(commit: &str) -> bool {
    commit.bytes().all(|byte| byte == b'0')
}

/// What is said of a push.
#[derive(Debug)]
pub enum PushAnswer {
    /// The tests were judged.
    Judged(Box<Report>),
    /// They would take longer than there is time, so many seconds by their last run.
    TooLong(f64),
}

/// Judges the tests that a push can affect. What the store does not know and would take
/// longer than `budget` is left to CI.
pub fn pre_push(
    session: &mut Session,
    push: &Push,
    budget: Duration,
    events: Events<'_>,
) -> Result<PushAnswer, HookError> {
    let started = Instant::now();
    let is_known = !is_zero(&push.remote) && session.repo.resolve(&push.remote).is_ok();
    let base = if is_known {
        BaseChoice::Revision(push.remote.clone())
    } else if session.repo.default_base()?.is_some() {
        BaseChoice::Branching
    } else {
        // The first push of all.
        BaseChoice::Stored
    };
    let candidate = CandidateChoice::Revision(push.local.clone());
    let (from, mut to) = session.revisions(&base, &candidate)?;
    let assessment = assess_change(session, &from.subject.tree, &to.subject.tree)?;
    if let Some(scope) = &session.policy.with_monitored(assessment.scope) {
        let is_stored = session.known(&mut to, scope)?.covering.is_some();
        let seconds = session.expected_seconds(scope)?;
        if let (false, Some(seconds)) = (is_stored, seconds.filter(|s| *s > budget.as_secs_f64())) {
            return Ok(PushAnswer::TooLong(seconds));
        }
    }
    drop((from, to));
    let options = CheckOptions {
        base,
        candidate,
        budget: Some(budget.saturating_sub(started.elapsed())),
        speed: MeasureSpeed::Never,
        ..CheckOptions::default()
    };
    let report = check(session, &options, events)?;
    Ok(PushAnswer::Judged(Box::new(report)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_sent_is_judged() {
        let (a, b, none) = ("a".repeat(40), "b".repeat(40), "0".repeat(40));
        let said = format!(
            "refs/heads/x {a} refs/heads/x {b}\nrefs/heads/new {a} refs/heads/new {none}\n\
             (delete) {none} refs/heads/old {b}\nrefs/heads/same {a} refs/heads/same {a}\n\n"
        );
        let read = Push::read(&said);
        let remotes: Vec<&str> = read.iter().map(|push| push.remote.as_str()).collect();
        assert_eq!(remotes, [b.as_str(), none.as_str()]);
    }
}
