//! Remembers flaky tests and tells them from broken ones.
//!
//! The only evidence of flakiness is a pass and a failure *on the same tree*. A
//! test that fails each time on a tree is broken there, whatever it did elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::observation::Millis;
use crate::stats::{Counts, Rate, failure_rate, fisher, passes_demanded};
use crate::test_id::TestId;

/// How long evidence that asks for a quarantine stays fresh.
const FRESH: Millis = 30 * 86_400_000;

/// Failures on trees where the test also passed, before a quarantine is proposed.
const EVIDENCE: u32 = 2;

/// What was seen of one test on one tree in one environment. The user's files and
/// a checkout are two environments: what differs between them may be a file that
/// git ignores, and is no sign of flakiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeTally {
    /// The test.
    pub test: TestId,
    /// The tree.
    pub tree: String,
    /// How often it passed there.
    pub passes: u32,
    /// How often it failed there.
    pub failures: u32,
    /// The commit that was checked out when it last failed there, or was last seen.
    pub commit: String,
    /// When it was last seen there.
    pub last_ms: Millis,
    /// When it last failed there; 0 if never.
    pub last_failure_ms: Millis,
}

/// Something that happened to a test's quarantine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuarantineEntry {
    /// The record's name.
    pub id: String,
    /// When.
    pub at_ms: Millis,
    /// Which test.
    pub test: TestId,
    /// What happened.
    pub event: QuarantineEvent,
}

/// What can happen to a test's quarantine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum QuarantineEvent {
    /// Its failures stop counting.
    Quarantined {
        /// Who answers for it.
        owner: String,
        /// Why.
        reason: String,
        /// A link to the issue.
        issue: Option<String>,
        /// When it ends by itself.
        expires_ms: Millis,
        /// How many passes in a row end it.
        release_after: u32,
    },
    /// Its failures count again.
    Released {
        /// Why.
        reason: String,
    },
}

/// A quarantine that is in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quarantine {
    /// Who answers for the test.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// A link to the issue.
    pub issue: Option<String>,
    /// Since when.
    pub since_ms: Millis,
    /// When it ends by itself.
    pub expires_ms: Millis,
    /// How many passes in a row end it.
    pub release_after: u32,
}

/// What the ledger knows of one test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlakyRecord {
    /// The test.
    pub test: TestId,
    /// Failures on trees where it also passed, and passes on all trees.
    pub counts: Counts,
    /// On how many trees it did both.
    pub mixed_trees: u32,
    /// Its failure rate.
    pub rate: Rate,
    /// When it last failed on such a tree.
    pub last_failure_ms: Millis,
    /// The commit it last failed at.
    pub last_failure_commit: String,
    /// Whether it only fails on the tree it was last seen on, and more often in a row
    /// than its rate elsewhere explains.
    pub fails_now: bool,
    /// Its quarantine, if one is in force.
    pub quarantine: Option<Quarantine>,
}

impl FlakyRecord {
    /// Whether it did both on one tree.
    pub fn is_flaky(&self) -> bool {
        self.mixed_trees > 0
    }

    /// Whether a quarantine is in order: enough fresh evidence, and not broken now.
    pub fn deserves_quarantine(&self, now: Millis) -> bool {
        let fresh = now - self.last_failure_ms <= FRESH;
        self.quarantine.is_none()
            && self.counts.failures >= EVIDENCE
            && self.is_flaky()
            && fresh
            && !self.fails_now
    }
}

/// All that is known about flaky tests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    records: BTreeMap<TestId, FlakyRecord>,
}

impl Ledger {
    /// Builds it from tallies, oldest first for each test, and the entries of the
    /// quarantine, oldest first.
    pub fn of(tallies: Vec<TreeTally>, entries: &[QuarantineEntry]) -> Self {
        let mut records: BTreeMap<TestId, FlakyRecord> = BTreeMap::new();
        // Failures of each test where it was last seen, if it never passed there.
        let mut failing: BTreeMap<TestId, u32> = BTreeMap::new();
        for tally in tallies {
            let record = records
                .entry(tally.test.clone())
                .or_insert_with(|| empty(tally.test.clone()));
            record.counts.passes += tally.passes;
            failing.insert(
                tally.test.clone(),
                tally.failures * u32::from(tally.passes == 0),
            );
            if tally.passes > 0 && tally.failures > 0 {
                record.counts.failures += tally.failures;
                record.mixed_trees += 1;
                record.last_failure_ms = tally.last_failure_ms;
                record.last_failure_commit = tally.commit;
            }
        }
        for entry in entries {
            let record = records
                .entry(entry.test.clone())
                .or_insert_with(|| empty(entry.test.clone()));
            record.quarantine = quarantine(entry);
        }
        for record in records.values_mut() {
            record.rate = failure_rate(record.counts);
            let row = failing.get(&record.test).copied().unwrap_or(0);
            let luck = record.rate.mean.powf(f64::from(row));
            record.fails_now = row > 0 && (!record.is_flaky() || luck <= ALPHA);
        }
        Self { records }
    }

    /// What is known of a test.
    pub fn get(&self, test: &TestId) -> Option<&FlakyRecord> {
        self.records.get(test)
    }

    /// The quarantine that is in force for a test.
    pub fn quarantine(&self, test: &TestId) -> Option<&Quarantine> {
        self.get(test)?.quarantine.as_ref()
    }

    /// The tests that are flaky or in quarantine, those that fail most first.
    pub fn flaky(&self) -> Vec<&FlakyRecord> {
        let is_listed = |record: &&FlakyRecord| record.is_flaky() || record.quarantine.is_some();
        let mut listed = self.records.values().filter(is_listed).collect::<Vec<_>>();
        listed.sort_by(|a, b| {
            b.rate
                .mean
                .total_cmp(&a.rate.mean)
                .then(a.test.cmp(&b.test))
        });
        listed
    }

    /// All tests whose name is `text` or ends with it at a `/` or `::`.
    pub fn matching(&self, text: &str) -> Vec<&FlakyRecord> {
        let ends = |name: &str| {
            let before = name.strip_suffix(text);
            before
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('/') || rest.ends_with("::"))
        };
        let is_it = |record: &&FlakyRecord| ends(&record.test.to_string());
        self.records.values().filter(is_it).collect()
    }
}

fn empty(test: TestId) -> FlakyRecord {
    FlakyRecord {
        test,
        counts: Counts::default(),
        mixed_trees: 0,
        rate: failure_rate(Counts::default()),
        last_failure_ms: 0,
        last_failure_commit: String::new(),
        fails_now: false,
        quarantine: None,
    }
}

fn quarantine(entry: &QuarantineEntry) -> Option<Quarantine> {
    match &entry.event {
        QuarantineEvent::Quarantined {
            owner,
            reason,
            issue,
            expires_ms,
            release_after,
        } => Some(Quarantine {
            owner: owner.clone(),
            reason: reason.clone(),
            issue: issue.clone(),
            since_ms: entry.at_ms,
            expires_ms: *expires_ms,
            release_after: *release_after,
        }),
        QuarantineEvent::Released { .. } => None,
    }
}

/// Why a test cannot be put into quarantine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuarantineRefusal {
    /// It fails each time where it was last seen.
    #[error(
        "failed to quarantine {0}: it fails each time on the tree it was last seen on, so it is broken, not flaky"
    )]
    Broken(TestId),
    /// It never passed and failed on one tree.
    #[error(
        "failed to quarantine {0}: it never both passed and failed on one tree, so nothing shows that it is flaky"
    )]
    NoEvidence(TestId),
}

/// Who asks for a quarantine, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineRequest {
    /// Who answers for the test.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// A link to the issue.
    pub issue: Option<String>,
    /// How long it lasts at most, in milliseconds.
    pub lasts_ms: Millis,
}

/// The entry with the name `id` that puts a test into quarantine.
pub fn quarantine_entry(
    id: String,
    record: &FlakyRecord,
    request: QuarantineRequest,
    now: Millis,
) -> Result<QuarantineEntry, QuarantineRefusal> {
    if record.fails_now {
        return Err(QuarantineRefusal::Broken(record.test.clone()));
    }
    if !record.is_flaky() {
        return Err(QuarantineRefusal::NoEvidence(record.test.clone()));
    }
    Ok(QuarantineEntry {
        id,
        at_ms: now,
        test: record.test.clone(),
        event: QuarantineEvent::Quarantined {
            owner: request.owner,
            reason: request.reason,
            issue: request.issue,
            expires_ms: now + request.lasts_ms,
            release_after: passes_demanded(record.rate.mean),
        },
    })
}

/// The entry with the name `id` that ends a quarantine.
pub fn release_entry(id: String, test: &TestId, reason: String, now: Millis) -> QuarantineEntry {
    QuarantineEntry {
        id,
        at_ms: now,
        test: test.clone(),
        event: QuarantineEvent::Released { reason },
    }
}

/// What repeated runs of a suspicious test say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// The change broke it.
    Broken,
    /// It fails on the base too.
    BrokenBefore,
    /// It was flaky before the change.
    Flaky,
    /// The change made it flaky.
    MadeFlaky,
    /// It did both once in many runs, and as many runs of the base say no more against the
    /// change than chance does.
    ProbablyFlaky,
    /// More runs are needed.
    #[serde(rename = "open")]
    Undecided,
}

/// The error that a judgement against the change accepts.
const ALPHA: f64 = 0.05;

/// The same where the test is known to do both: its failures prove little.
const ALPHA_MIXED: f64 = 0.01;

/// How likely by chance failures of the candidate alone are that say nothing against it: those
/// of 1 or 2 runs in 21 where the base passed 21 times.
const BY_CHANCE: f64 = 0.2;

/// The runs of each revision after which such failures are no longer an open question.
const MANY_RUNS: u32 = 20;

/// Judges a test that failed on the candidate. `base` is `None` for a test that
/// the base does not have; `known_flaky` says that it did both in one place, on the
/// base or on an earlier tree.
pub fn judge(candidate: Counts, base: Option<Counts>, known_flaky: bool) -> (Judgement, f64) {
    let Some(base) = base else {
        let judgement = match candidate.is_mixed() {
            true if known_flaky => Judgement::Flaky,
            true => Judgement::MadeFlaky,
            false => Judgement::Broken,
        };
        return (judgement, 1.0);
    };
    let p = fisher(candidate, base);
    let judgement = if base.total() == 0 {
        Judgement::Undecided
    } else if !candidate.is_mixed() {
        // It failed each time.
        match () {
            () if p <= ALPHA + 1e-9 => Judgement::Broken,
            () if base.passes == 0 => Judgement::BrokenBefore,
            () => Judgement::Undecided,
        }
    } else if p <= ALPHA_MIXED {
        Judgement::MadeFlaky
    } else if known_flaky {
        Judgement::Flaky
    } else {
        Judgement::Undecided
    };
    (judgement, p)
}

/// What is said of a test that is [`Judgement::Undecided`] when no further run is made.
pub fn judge_last(candidate: Counts, base: Option<Counts>) -> Judgement {
    let is_chance = base.is_some_and(|base| {
        candidate.total().min(base.total()) >= MANY_RUNS && fisher(candidate, base) > BY_CHANCE
    });
    if candidate.is_mixed() && is_chance {
        Judgement::ProbablyFlaky
    } else {
        Judgement::Undecided
    }
}

/// In how many of `runs` runs a test must fail for the change to be blamed, where the base
/// showed `base`; `None` if so few runs cannot tell.
pub fn failures_to_blame(runs: u32, base: Counts) -> Option<u32> {
    (1..runs).find(|failures| {
        let counts = Counts {
            failures: *failures,
            passes: runs - failures,
        };
        fisher(counts, base) <= ALPHA_MIXED
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_id::TargetKind;

    const DAY: Millis = 86_400_000;

    fn id(name: &str) -> TestId {
        TestId::new("a", TargetKind::Lib, "", name)
    }

    fn tally(test: &str, tree: &str, failures: u32, passes: u32, at: Millis) -> TreeTally {
        TreeTally {
            test: id(test),
            tree: tree.to_owned(),
            passes,
            failures,
            commit: format!("commit of {tree}"),
            last_ms: at,
            last_failure_ms: if failures > 0 { at } else { 0 },
        }
    }

    fn counts(failures: u32, passes: u32) -> Counts {
        Counts { failures, passes }
    }

    #[test]
    fn only_contradictions_on_one_tree_are_evidence() {
        let ledger = Ledger::of(
            vec![
                tally("broke", "t1", 0, 9, 1),
                tally("broke", "t2", 9, 0, 2),
                tally("flaky", "t1", 1, 8, 1),
                tally("flaky", "t2", 1, 9, 2),
                tally("sound", "t1", 0, 9, 1),
            ],
            &[],
        );
        let listed = ledger.flaky();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].test, id("flaky"));
        assert_eq!(listed[0].counts, counts(2, 17));
        assert_eq!(listed[0].last_failure_commit, "commit of t2");
        assert!(listed[0].deserves_quarantine(2 + DAY));
        assert!(
            !listed[0].deserves_quarantine(2 + 40 * DAY),
            "the evidence is old"
        );
        let broken = ledger.get(&id("broke")).expect("seen");
        assert!(broken.fails_now && !broken.is_flaky());
    }

    fn request() -> QuarantineRequest {
        QuarantineRequest {
            owner: "ada".to_owned(),
            reason: "race".to_owned(),
            issue: None,
            lasts_ms: 14 * DAY,
        }
    }

    #[test]
    fn a_broken_test_is_never_called_flaky() {
        let tallies = vec![tally("x", "t1", 3, 3, 1), tally("x", "t2", 5, 0, 2)];
        let ledger = Ledger::of(tallies, &[]);
        let record = ledger.get(&id("x")).expect("seen");
        assert!(!record.deserves_quarantine(3));
        let refusal =
            quarantine_entry("e".to_owned(), record, request(), 3).expect_err("it is broken");
        assert_eq!(refusal, QuarantineRefusal::Broken(id("x")));
        // One failure on a new tree is what a flaky test does.
        let tallies = vec![tally("x", "t1", 3, 3, 1), tally("x", "t2", 1, 0, 2)];
        assert!(
            !Ledger::of(tallies, &[])
                .get(&id("x"))
                .expect("seen")
                .fails_now
        );
        let ledger = Ledger::of(vec![tally("y", "t1", 0, 3, 1)], &[]);
        let record = ledger.get(&id("y")).expect("seen");
        let refusal =
            quarantine_entry("e".to_owned(), record, request(), 3).expect_err("it is sound");
        assert_eq!(refusal, QuarantineRefusal::NoEvidence(id("y")));
    }

    #[test]
    fn the_last_entry_decides_the_quarantine() {
        let tallies = || vec![tally("x", "t1", 10, 190, 1)];
        let ledger = Ledger::of(tallies(), &[]);
        let entry = quarantine_entry(
            "e".to_owned(),
            ledger.get(&id("x")).expect("seen"),
            request(),
            5,
        );
        let entry = entry.expect("it is flaky");
        let held = Ledger::of(tallies(), std::slice::from_ref(&entry));
        let quarantine = held.quarantine(&id("x")).expect("in force");
        assert_eq!(quarantine.expires_ms, 5 + 14 * DAY);
        // 10.5 / 220.5 = 4.8 %: ln .05 / ln .952.
        assert_eq!(quarantine.release_after, 62);
        let release = release_entry("r".to_owned(), &id("x"), "fixed".to_owned(), 6);
        let ledger = Ledger::of(tallies(), &[entry, release]);
        assert_eq!(ledger.quarantine(&id("x")), None);
    }

    #[test]
    fn names_match_at_their_joints() {
        let ledger = Ledger::of(vec![tally("m::flaky", "t", 1, 1, 1)], &[]);
        for text in ["flaky", "m::flaky", "a/lib/m::flaky"] {
            assert_eq!(ledger.matching(text).len(), 1, "{text}");
        }
        for text in ["laky", "m", "::flaky"] {
            assert!(ledger.matching(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn judgements() {
        use Judgement::*;
        let judged = |candidate, base, known| judge(candidate, base, known).0;
        // One failure alone says nothing yet.
        assert_eq!(judged(counts(1, 0), Some(counts(0, 1)), false), Undecided);
        assert_eq!(judged(counts(6, 0), Some(counts(0, 6)), false), Broken);
        assert_eq!(
            judged(counts(6, 0), Some(counts(6, 0)), false),
            BrokenBefore
        );
        // Flaky before, failing each time now.
        assert_eq!(judged(counts(6, 0), Some(counts(3, 3)), true), Undecided);
        assert_eq!(judged(counts(20, 0), Some(counts(10, 10)), true), Broken);
        assert_eq!(judged(counts(3, 3), Some(counts(2, 4)), true), Flaky);
        // A pass here and failures elsewhere are no sign of flakiness.
        assert_eq!(judged(counts(3, 3), Some(counts(5, 1)), false), Undecided);
        assert_eq!(judged(counts(1, 5), Some(counts(0, 6)), true), Flaky);
        assert_eq!(judged(counts(1, 5), Some(counts(0, 6)), false), Undecided);
        assert_eq!(judged(counts(15, 6), Some(counts(0, 21)), false), MadeFlaky);
        assert_eq!(judged(counts(1, 5), None, false), MadeFlaky);
        assert_eq!(judged(counts(1, 5), None, true), Flaky);
        assert_eq!(judged(counts(6, 0), None, true), Broken);
        // Three of three against none of three is exactly 5 %.
        assert_eq!(judged(counts(3, 0), Some(counts(0, 3)), false), Broken);
        assert_eq!(judged(counts(6, 0), Some(counts(0, 0)), false), Undecided);
    }

    #[test]
    fn one_failure_in_many_runs_says_nothing_against_a_change() {
        let counts = |failures, passes| Counts { failures, passes };
        let base = counts(0, 21);
        for (failures, expected) in [
            (1, Judgement::ProbablyFlaky),
            (2, Judgement::ProbablyFlaky),
            (3, Judgement::Undecided),
            (6, Judgement::Undecided),
        ] {
            let candidate = counts(failures, 21 - failures);
            assert_eq!(judge(candidate, Some(base), false).0, Judgement::Undecided);
            assert_eq!(judge_last(candidate, Some(base)), expected, "{failures}");
        }
        assert_eq!(failures_to_blame(21, base), Some(7));
        assert_eq!(
            judge(counts(7, 14), Some(base), false).0,
            Judgement::MadeFlaky
        );
        // Few runs leave it open, and so does a test that always fails.
        assert_eq!(
            judge_last(counts(1, 5), Some(counts(0, 6))),
            Judgement::Undecided
        );
        assert_eq!(
            judge_last(counts(21, 0), Some(counts(20, 1))),
            Judgement::Undecided
        );
        assert_eq!(judge_last(counts(1, 20), None), Judgement::Undecided);
        assert_eq!(failures_to_blame(2, counts(0, 2)), None);
    }
}
