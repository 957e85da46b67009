//! The whole path: from a change to a verdict on its tests.
//!
//! ```text
//! trees ─► changed files ─► risk ─► scope ─► runs of both sides ─► differences
//!                                              │   ▲                   │
//!                                            store └── reruns, stress ─┴─► verdict ─► report
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::api::{self, Against, ApiAnswer};
use crate::baseline::{Expected, Standing, TestSet};
use crate::claims::{self, Claims};
use crate::compare::{Difference, TestState, compare};
use crate::comparison::{CompareOptions, Selection, SpeedReport, measure};
use crate::flaky::{FlakyRecord, Judgement, Ledger, judge, release_due};
use crate::git::Repo;
use crate::guard::{Event, Events, Guard, GuardError, Known, Side, age};
use crate::identity::{TargetKind, TestId};
use crate::journal::{JournalEntry, JournalEvent, Recall};
use crate::measure::launch::Launcher;
use crate::policy::ApiBreaks;
use crate::record::{Purpose, Record, Run, Scope, now};
use crate::report::{Origin, Report, SideReport, Source, counted};
use crate::risk::{Assessment, Files, Level, assess};
use crate::run::RunError;
use crate::shard::ShardNumber;
use crate::stats::{median, rank_test};
use crate::verdict::{
    Effect, Evidence, Finding, FindingKind, Judged, SlowJudged, Verdict, judge_approval,
    judge_claims, judge_speed, judge_tests,
};
use crate::workspace::{Target, Workspace};

/// What a check compares, and how much time it may take.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// What to compare with.
    pub base: BaseChoice,
    /// What to judge.
    pub candidate: CandidateChoice,
    /// Use no stored run.
    pub fresh: bool,
    /// Judge all tests, not only those that the change can affect.
    pub everything: bool,
    /// Begin no more reruns after this time.
    pub budget: Option<Duration>,
    /// Run one part of the tests only, for [`merge`](crate::merge) to put together.
    pub shard: Option<ShardNumber>,
    /// Whether speed and memory are measured too.
    pub speed: MeasureSpeed,
}

/// Whether a check measures speed and memory, and what starts the benchmarks.
#[derive(Clone, Debug, Default)]
pub enum MeasureSpeed {
    /// It does not.
    #[default]
    Never,
    /// It does where the policy wants it and the risk is High or above.
    ByRisk(Launcher),
    /// It does.
    Always(Launcher),
}

/// What a change is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BaseChoice {
    /// Where the branch left the default branch.
    #[default]
    Branching,
    /// A revision.
    Revision(String),
    /// The newest commit before the change of which a run of all tests is stored: no
    /// base has to be built. Where there is none, the tests are judged by themselves.
    Stored,
}

/// What is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CandidateChoice {
    /// The user's files as they are.
    #[default]
    Files,
    /// What is staged.
    Staged,
    /// A revision; in the user's files if they hold just that.
    Revision(String),
    /// A revision in a checkout of its own, whatever the user's files hold.
    Beside(String),
}

/// The error that a judgement "slower" accepts.
const SLOW_ALPHA: f64 = 0.01;

/// Reruns after which a test that runs into its time-out is judged: each costs the
/// whole time-out.
const TIME_OUT_RERUNS: u32 = 2;

/// Judges a change.
pub fn check(
    guard: &mut Guard,
    options: &CheckOptions,
    events: Events<'_>,
) -> Result<Report, GuardError> {
    let started = Instant::now();
    let (base, candidate) = guard.sides(&options.base, &options.candidate)?;
    let assessment = assess_change(guard, &base.subject.tree, &candidate.subject.tree)?;
    for entry in release_due(guard.store.as_mut(), now())? {
        events(Event::Note(format!("{} left quarantine", entry.test)));
    }
    let all = options.everything || assessment.files.is_empty();
    let scope = match &assessment.scope {
        _ if all => Some(Scope::Workspace),
        scope => scope
            .clone()
            .map(|scope| guard.policy.with_monitored(scope)),
    };
    let scope = match (scope, options.shard) {
        (Some(scope), Some(shard)) => Some(guard.shard(scope, shard)?),
        (scope, _) => scope,
    };
    let mut check = Check {
        guard,
        options,
        events,
        deadline: options.budget.map(|budget| started + budget),
        same: base.subject.tree == candidate.subject.tree,
        base,
        candidate,
        findings: Vec::new(),
        // The other shards have the tests that are missing here.
        complete: options.shard.is_none(),
        runs: Vec::new(),
    };
    let mut sides = match &scope {
        Some(scope) => check.sides(scope)?,
        None => check.nothing_to_run()?,
    };
    if options.base == BaseChoice::Stored && check.same {
        check.findings.push(no_history(&check.base.name()));
    }
    let mut findings = std::mem::take(&mut check.findings);
    if let Some(sides) = &mut sides {
        findings.extend(check.judge(sides)?);
    }
    findings.extend(check.api(&assessment)?);
    findings.extend(check.claims()?);
    findings.extend(check.approval(&assessment)?);
    let recall = check.recall(&assessment, sides.is_some(), &findings)?;
    let speed = check.speed(&assessment, &mut findings)?;
    findings.sort_by_key(|finding| finding.effect);
    let looked_at = sides.as_ref().map(|sides| sides.scope.clone()).or(scope);
    let report = check.report(assessment, looked_at, sides.as_ref(), findings, started);
    Ok(Report {
        speed,
        recall,
        ..report
    })
}

/// The changed files between two trees, and what they risk.
pub fn assess_change(guard: &Guard, base: &str, candidate: &str) -> Result<Assessment, GuardError> {
    let changes = guard.repo.diff(base, candidate)?;
    let files = TreeFiles {
        repo: &guard.repo,
        base,
        candidate,
        root: &guard.workspace.root,
    };
    Ok(assess(
        &changes,
        &guard.workspace,
        &guard.policy.class,
        &files,
    ))
}

/// The contents of two trees.
struct TreeFiles<'a> {
    repo: &'a Repo,
    base: &'a str,
    candidate: &'a str,
    root: &'a std::path::Path,
}

impl TreeFiles<'_> {
    fn read(&self, tree: &str, path: &str) -> Option<String> {
        // A file that cannot be read is judged as one that is not understood.
        let bytes = self.repo.file(tree, path).ok().flatten()?;
        String::from_utf8(bytes).ok()
    }
}

impl Files for TreeFiles<'_> {
    fn base(&self, path: &str) -> Option<String> {
        self.read(self.base, path)
    }

    fn candidate(&self, path: &str) -> Option<String> {
        self.read(self.candidate, path)
    }

    fn is_included(&self, name: &str) -> bool {
        crate::source::includes(self.root, name)
    }
}

/// The tests of both sides.
pub(crate) struct Sides {
    pub(crate) scope: Scope,
    pub(crate) base: TestSet,
    pub(crate) candidate: TestSet,
    pub(crate) base_source: Source,
    pub(crate) candidate_source: Source,
}

pub(crate) struct Check<'a> {
    pub(crate) guard: &'a mut Guard,
    pub(crate) options: &'a CheckOptions,
    pub(crate) events: Events<'a>,
    pub(crate) deadline: Option<Instant>,
    /// Whether both sides are the same tree.
    pub(crate) same: bool,
    pub(crate) base: Side,
    pub(crate) candidate: Side,
    pub(crate) findings: Vec<Finding>,
    pub(crate) complete: bool,
    /// The runs that the answer rests on; kept for a shard only.
    pub(crate) runs: Vec<Run>,
}

impl Check<'_> {
    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn step(&self, text: String) {
        (self.events)(Event::Step(text));
    }

    /// Gets the tests of both sides, from the store or by running them. `None` if
    /// a side cannot be had; the findings then say why.
    fn sides(&mut self, scope: &Scope) -> Result<Option<Sides>, GuardError> {
        let mut scope = scope.clone();
        let candidate = self.obtain(Which::Candidate, &scope)?;
        let mut candidate = match candidate {
            Ok(known) => known,
            Err(output) => return self.candidate_does_not_build(&scope, output),
        };
        let has_tests = |known: &Known| known.set.tally().ran() > 0;
        if !has_tests(&candidate) && matches!(scope, Scope::Packages(_)) {
            // No data is no answer: what no test of these packages can say may
            // show in the others.
            scope = Scope::Workspace;
            match self.obtain(Which::Candidate, &scope)? {
                Ok(known) => candidate = known,
                Err(output) => return self.candidate_does_not_build(&scope, output),
            }
        }
        let base = if self.same {
            candidate.clone()
        } else {
            match self.obtain(Which::Base, &scope)? {
                Ok(known) => known,
                Err(output) => {
                    self.findings.push(Finding {
                        kind: FindingKind::Run,
                        name: format!("base {}", self.base.name()),
                        state: "build_failed".to_owned(),
                        effect: Effect::Unmeasured,
                        reason: "the base does not build".to_owned(),
                        meaning: "there is nothing to compare the change with".to_owned(),
                        next: "cargo palisade check --base REV, with a revision that builds"
                            .to_owned(),
                        avoid: "do not take this for a pass".to_owned(),
                        output: Some(output),
                    });
                    return Ok(None);
                }
            }
        };
        let is_empty = !has_tests(&candidate) && !has_tests(&base);
        // A shard may have nothing to do.
        if is_empty && !matches!(scope, Scope::Doctests(_) | Scope::Shard(_)) {
            self.findings.push(no_tests());
        }
        Ok(Some(Sides {
            base_source: Source::of(&base, &self.base),
            candidate_source: Source::of(&candidate, &self.candidate),
            base: base.set,
            candidate: candidate.set,
            scope,
        }))
    }

    /// A change that does not build is a regression if its base does.
    fn candidate_does_not_build(
        &mut self,
        scope: &Scope,
        output: String,
    ) -> Result<Option<Sides>, GuardError> {
        let base_builds = !self.same && self.obtain(Which::Base, scope)?.is_ok();
        let base = self.base.name();
        self.findings.push(Finding {
            kind: FindingKind::Run,
            name: "build".to_owned(),
            state: "build_failed".to_owned(),
            effect: if base_builds {
                Effect::Regression
            } else {
                Effect::Unmeasured
            },
            reason: if base_builds {
                format!("the tests do not build, and did at {base}")
            } else {
                "the tests do not build".to_owned()
            },
            meaning: "no test could run".to_owned(),
            next: "cargo test --no-run".to_owned(),
            avoid: String::new(),
            output: Some(output),
        });
        Ok(None)
    }

    /// The tests of a side: from the store if it has them, else by running them.
    /// The inner error is what the compiler said.
    fn obtain(&mut self, which: Which, scope: &Scope) -> Result<Result<Known, String>, GuardError> {
        let side = which.side(&mut self.base, &mut self.candidate);
        let name = side.name();
        let mut stored = None;
        if !self.options.fresh {
            let known = self.guard.known(side, scope)?;
            if let Some(covering) = &known.covering {
                if !self.is_due(covering)? {
                    self.keep(&known.runs);
                    return Ok(Ok(known));
                }
                stored = Some(known);
            }
        }
        let side = which.side(&mut self.base, &mut self.candidate);
        let why = match &stored {
            Some(_) => format!("test {name} again, to see whether its stored run still holds"),
            None if which == Which::Base && !side.in_place => {
                format!("test {name}, the base, of which no run is stored")
            }
            None => format!("test {name}"),
        };
        (self.events)(Event::Step(why));
        let side = which.side(&mut self.base, &mut self.candidate);
        let ran = self.guard.run(side, scope, Purpose::Tests, self.events);
        let (run, gaps) = match ran {
            Ok(ran) => ran,
            Err(GuardError::Run(RunError::Build { output })) => return Ok(Err(output)),
            Err(other) => return Err(other),
        };
        if !gaps.is_empty() {
            self.complete = false;
            self.findings.push(incomplete(&which.words(&name), &gaps));
        }
        if let (Some(stored), true) = (&stored, gaps.is_empty()) {
            let name = which.words(&name);
            self.findings.extend(differs(&name, stored, &run, scope));
        }
        let mut known = if self.options.fresh {
            Known::default()
        } else {
            self.guard
                .known(which.side(&mut self.base, &mut self.candidate), scope)?
        };
        if self.options.fresh || !run.complete {
            known.set.add(&run, scope);
            self.keep(&[run]);
        }
        self.keep(&known.runs);
        known.covering = None;
        Ok(Ok(known))
    }

    /// Keeps runs for those who merge the shards.
    fn keep(&mut self, runs: &[Run]) {
        if self.options.shard.is_some() {
            self.runs.extend(runs.iter().cloned());
        }
    }

    /// Whether a stored run has stood for new ones for so long that it is measured
    /// again. Where nothing changed there is nothing to compare, and no need.
    fn is_due(&self, stored: &Run) -> Result<bool, GuardError> {
        let every = u64::from(self.guard.policy.reuse.remeasure);
        // A base that is to be a stored one is not to be built.
        let is_due = !self.same
            && self.options.base != BaseChoice::Stored
            && every > 0
            && self.guard.store.runs_since(stored.started_ms)? >= every;
        Ok(is_due)
    }

    /// Nothing that code is built from changed. What the store knows is used; else
    /// that very fact is the answer.
    fn nothing_to_run(&mut self) -> Result<Option<Sides>, GuardError> {
        let known = self.guard.known(&mut self.base, &Scope::Workspace)?;
        if known.covering.is_none() {
            return Ok(None);
        }
        self.keep(&known.runs);
        let source = Source::of(&known, &self.base);
        Ok(Some(Sides {
            scope: Scope::Workspace,
            base: known.set.clone(),
            candidate: known.set,
            base_source: source.clone(),
            candidate_source: source,
        }))
    }

    /// Judges the differences of both sides; what reruns see is added to them.
    pub(crate) fn judge(&mut self, sides: &mut Sides) -> Result<Vec<Finding>, GuardError> {
        let Sides {
            base, candidate, ..
        } = sides;
        let slower = self.guard.policy.slower;
        let first = compare(base, candidate, &slower);
        // The ledger is made from every run ever seen, which takes its time.
        let ledger = if first.is_empty() {
            Ledger::default()
        } else {
            Ledger::read(self.guard.store.as_ref())?
        };
        self.stress(&first, candidate)?;
        let suspicious = compare(base, candidate, &slower);
        let judged = self.rerun_failures(&suspicious, &ledger, base, candidate)?;
        let slow = self.rerun_slow(&suspicious, base, candidate)?;
        let mut differences = compare(base, candidate, &slower);
        // A test that turned out to do both on both sides no longer differs, and
        // is still worth a word.
        for difference in suspicious {
            let is_told =
                |told: &Difference| told.test == difference.test && is_failure(told.state);
            if judged.contains_key(&difference.test)
                && is_failure(difference.state)
                && !differences.iter().any(is_told)
            {
                differences.push(difference);
            }
        }
        let policy = &self.guard.policy;
        let is_known = |test: &TestId| policy.known_failure(test).is_some();
        let failing = candidate
            .tests
            .iter()
            .filter(|(_, e)| e.standing() == Standing::Failing);
        let known = failing.filter(|(test, _)| is_known(test)).count();
        let mut findings = judge_tests(&Evidence {
            differences: &differences,
            judged: &judged,
            slow: &slow,
            before: base.tally(),
            after: candidate.tally(),
            known,
            complete: self.complete,
            policy,
            ledger: &ledger,
            base_name: &self.base.name(),
        });
        // The share of the tests that pass is one of all tests.
        findings.retain(|f| f.kind != FindingKind::Rate || self.options.shard.is_none());
        Ok(findings)
    }

    /// Runs some tests once more on a side and adds what was seen to its tests.
    fn again(
        &mut self,
        which: Which,
        tests: &BTreeSet<TestId>,
        purpose: Purpose,
        set: &mut TestSet,
    ) -> Result<bool, GuardError> {
        if tests.is_empty() {
            return Ok(true);
        }
        let scope = Scope::Tests(tests.clone());
        let side = which.side(&mut self.base, &mut self.candidate);
        match self.guard.run(side, &scope, purpose, self.events) {
            Ok((run, _)) => {
                set.add(&run, &scope);
                self.keep(&[run]);
                Ok(true)
            }
            // A base whose run is stored may not build any more, with another
            // system library for instance; then the answer stays open.
            Err(GuardError::Run(error)) if !error.is_interrupt() => Ok(false),
            // Where nothing can be written, the base cannot be checked out.
            Err(GuardError::Git(error)) => {
                let name = which.words(&which.side(&mut self.base, &mut self.candidate).name());
                let note = format!("{name} cannot be run again: failed to {error}");
                (self.events)(Event::Note(note));
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    /// Runs tests once more on both sides; says which side could be run. The order
    /// turns round each time: what changes with time, or with every second run, does
    /// not fall on one side.
    fn again_both(
        &mut self,
        round: u32,
        candidate: (&BTreeSet<TestId>, &mut TestSet),
        base: (&BTreeSet<TestId>, &mut TestSet),
    ) -> Result<(bool, bool), GuardError> {
        let base_first = round % 2 == 1;
        let mut sides = [(Which::Candidate, candidate), (Which::Base, base)];
        if base_first {
            sides.reverse();
        }
        let mut ran = Vec::new();
        for (which, (tests, set)) in sides {
            ran.push(self.again(which, tests, Purpose::Rerun, set)?);
        }
        if base_first {
            ran.reverse();
        }
        Ok((ran[0], ran[1]))
    }

    /// Runs new and changed tests many times, so that a flaky one is named when
    /// it arrives.
    fn stress(
        &mut self,
        differences: &[Difference],
        candidate: &mut TestSet,
    ) -> Result<(), GuardError> {
        let policy = self.guard.policy.flaky;
        let is_new = |d: &&Difference| {
            matches!(
                d.state,
                TestState::Added | TestState::Changed | TestState::NoLongerIgnored
            )
        };
        let tests: BTreeSet<TestId> = differences
            .iter()
            .filter(is_new)
            .map(|d| d.test.clone())
            .collect();
        let started = Instant::now();
        let mut round = 0;
        loop {
            let open = tests.iter().filter(|test| {
                let counts = candidate.tests.get(*test).map(|seen| seen.counts);
                // One that also failed goes on: its rate is worth knowing.
                counts.is_some_and(|c| c.passes > 0 && c.total() < policy.stress_runs)
            });
            let open: BTreeSet<TestId> = open.cloned().collect();
            if open.is_empty() || started.elapsed() >= policy.stress_time.0 || self.is_over() {
                return Ok(());
            }
            round += 1;
            let count = open.len();
            self.step(format!(
                "stress {}, round {round}",
                counted(count, "new or changed test")
            ));
            if !self.again(Which::Candidate, &open, Purpose::Stress, candidate)? {
                return Ok(());
            }
        }
    }

    /// Runs tests that fail on the candidate again on both sides, until each is
    /// judged or the reruns are used up.
    fn rerun_failures(
        &mut self,
        differences: &[Difference],
        ledger: &Ledger,
        base: &mut TestSet,
        candidate: &mut TestSet,
    ) -> Result<BTreeMap<TestId, Judged>, GuardError> {
        let policy = self.guard.policy.flaky;
        let suspects: Vec<&Difference> = differences
            .iter()
            .filter(|d| matches!(d.state, TestState::NewlyFailing | TestState::AddedFailing))
            .filter(|d| self.guard.policy.known_failure(&d.test).is_none())
            .collect();
        let changed: BTreeSet<&TestId> = differences
            .iter()
            .filter(|d| d.state == TestState::Changed)
            .map(|d| &d.test)
            .collect();
        let mut judged = BTreeMap::new();
        let mut can_run_base = true;
        for round in 0..=policy.max_reruns {
            let mut open = BTreeSet::new();
            let mut open_base = BTreeSet::new();
            for suspect in &suspects {
                let test = &suspect.test;
                let old = suspect.old_name.as_ref().unwrap_or(test);
                let seen = candidate.tests.get(test);
                let counts = seen.map(|seen| seen.counts).unwrap_or_default();
                let before = base
                    .tests
                    .get(old)
                    .filter(|e| e.standing() != Standing::Ignored);
                // A test whose body changed is another test: that the old one
                // never failed says nothing about the new one being flaky.
                let is_other = changed.contains(test) && counts.is_mixed();
                let before = before.map(|e| e.counts).filter(|_| !is_other);
                let known = ledger.get(test).is_some_and(FlakyRecord::is_flaky)
                    || base.tests.get(old).is_some_and(Expected::is_contradictory);
                let (judgement, p) = judge(counts, before, known);
                let timed_out = seen.is_some_and(|seen| seen.timed_out);
                let demanded = if timed_out {
                    TIME_OUT_RERUNS
                } else {
                    policy.reruns
                };
                let is_sure = counts.is_mixed() || counts.total() > demanded;
                if judgement == Judgement::Open || !is_sure {
                    open.insert(test.clone());
                    open_base.extend(before.map(|_| old.clone()));
                }
                let found = Judged {
                    judgement,
                    p,
                    candidate: counts,
                    base: before,
                };
                judged.insert(test.clone(), found);
            }
            if open.is_empty() || round == policy.max_reruns {
                break;
            }
            if self.is_over() {
                // Too few runs are no judgement.
                for test in &open {
                    judged
                        .entry(test.clone())
                        .and_modify(|j: &mut Judged| j.judgement = Judgement::Open);
                }
                break;
            }
            let count = open.len();
            self.step(format!(
                "rerun {} on both sides, round {}",
                counted(count, "failing test"),
                round + 1
            ));
            if !can_run_base {
                open_base.clear();
            }
            let ran = self.again_both(round, (&open, candidate), (&open_base, base))?;
            can_run_base &= ran.1;
            if !ran.0 {
                break;
            }
        }
        Ok(judged)
    }

    /// Measures tests that seem slower again, the sides in turn.
    fn rerun_slow(
        &mut self,
        differences: &[Difference],
        base: &mut TestSet,
        candidate: &mut TestSet,
    ) -> Result<BTreeMap<TestId, SlowJudged>, GuardError> {
        let wanted = self.guard.policy.flaky.reruns as usize + 1;
        let suspects = differences.iter().filter(|d| d.state == TestState::Slower);
        let suspects: BTreeMap<TestId, TestId> = suspects
            .map(|d| {
                (
                    d.test.clone(),
                    d.old_name.clone().unwrap_or_else(|| d.test.clone()),
                )
            })
            .collect();
        let durations = |set: &TestSet, test: &TestId| {
            set.tests
                .get(test)
                .map(|seen| seen.durations_ms.clone())
                .unwrap_or_default()
        };
        for round in 0..wanted as u32 {
            let lacking = |set: &TestSet, test: &TestId| durations(set, test).len() < wanted;
            let open: BTreeSet<TestId> = suspects
                .keys()
                .filter(|new| lacking(candidate, new))
                .cloned()
                .collect();
            let open_base: BTreeSet<TestId> = suspects
                .values()
                .filter(|old| lacking(base, old))
                .cloned()
                .collect();
            if (open.is_empty() && open_base.is_empty()) || self.is_over() {
                break;
            }
            let count = suspects.len();
            self.step(format!(
                "time {} on both sides, round {}",
                counted(count, "slow test"),
                round + 1
            ));
            let ran = self.again_both(round, (&open, candidate), (&open_base, base))?;
            if ran != (true, true) {
                break;
            }
        }
        let judged = suspects.into_iter().map(|(new, old)| {
            let (before, after) = (durations(base, &old), durations(candidate, &new));
            let p = rank_test(&after, &before);
            let enough = before.len() >= wanted && after.len() >= wanted;
            let judged = SlowJudged {
                slower: enough.then_some(p <= SLOW_ALPHA),
                p,
                before_ms: median(&before).unwrap_or_default(),
                after_ms: median(&after).unwrap_or_default(),
                runs: (before.len(), after.len()),
            };
            (new, judged)
        });
        Ok(judged.collect())
    }

    /// What cargo-semver-checks says about the changed packages, where it is installed
    /// and the risk is High or above.
    fn api(&mut self, assessment: &Assessment) -> Result<Vec<Finding>, GuardError> {
        let is_risky = assessment.level >= Some(Level::High);
        let is_first = self.options.shard.is_none_or(|shard| shard.index == 1);
        if !is_risky || !is_first || self.same || !api::is_installed() {
            return Ok(Vec::new());
        }
        let base = self.base.root(self.guard, self.events)?;
        let candidate = self.candidate.root(self.guard, self.events)?;
        let policy = self.guard.policy.api;
        let mut findings = Vec::new();
        for name in &assessment.changed {
            let has_library = |workspace: &Workspace| {
                let package = workspace.packages.get(name)?;
                let is_library = |target: &Target| target.kind == Some(TargetKind::Lib);
                package
                    .targets
                    .iter()
                    .any(is_library)
                    .then_some(package.published)
            };
            let published = has_library(self.candidate.workspace(self.guard));
            if has_library(self.base.workspace(self.guard)).is_none() {
                continue;
            }
            let Some(published) = published else {
                continue;
            };
            let base_name = self.base.name();
            let release = (policy.release && published).then_some(Against::Release);
            for against in [Some(Against::Base(&base)), release].into_iter().flatten() {
                let other = match against {
                    Against::Base(_) => base_name.as_str(),
                    Against::Release => "the last release",
                };
                let step = format!("compare the public API of {name} with {other}");
                (self.events)(Event::Step(step));
                let limit = self.guard.policy.run.run_time_out.0;
                let answer = api::compare(&candidate, name, against, limit, self.guard.cancel())
                    .map_err(RunError::from)?;
                findings.extend(api_finding(name, other, answer, policy.breaks));
            }
        }
        Ok(findings)
    }

    /// Whether the cheap claims of the documents hold. They are measured in the user's
    /// files, which must be the candidate.
    fn claims(&mut self) -> Result<Vec<Finding>, GuardError> {
        let is_first = self.options.shard.is_none_or(|shard| shard.index == 1);
        if !self.guard.policy.claims.check || !is_first || !self.candidate.in_place {
            return Ok(Vec::new());
        }
        let claims = Claims::load(self.guard)?;
        let options = claims::Options {
            deadline: self.deadline,
            ..claims::Options::default()
        };
        let checked = claims::check(self.guard, &claims, &options, self.events)?;
        Ok(judge_claims(&checked, &claims::contradictions(&claims)))
    }

    /// Whether a change that needs somebody's eyes had them.
    fn approval(&mut self, assessment: &Assessment) -> Result<Option<Finding>, GuardError> {
        let is_first = self.options.shard.is_none_or(|shard| shard.index == 1);
        if self.same || !is_first {
            return Ok(None);
        }
        let journal = self.guard.store.journal()?;
        let of_tree = |entry: &JournalEntry| entry.tree == self.candidate.subject.tree;
        let entries: Vec<JournalEntry> = journal.into_iter().filter(of_tree).collect();
        let policy = self.guard.policy.approval;
        let subject = &self.candidate.subject;
        let mut authors = self
            .guard
            .repo
            .authors(&self.base.commit.id, &subject.commit)?;
        if subject.dirty {
            authors.extend(self.guard.repo.user());
        }
        Ok(judge_approval(policy, assessment.level, &authors, &entries))
    }

    /// What the plan of the change would have found of the failures that all tests show;
    /// remembered. `None` unless all tests of both sides were looked at for that.
    fn recall(
        &mut self,
        assessment: &Assessment,
        has_run: bool,
        findings: &[Finding],
    ) -> Result<Option<Recall>, GuardError> {
        let is_whole = self.options.everything && self.options.shard.is_none();
        if !is_whole || self.same || !has_run {
            return Ok(None);
        }
        // A failure that stayed open is one that the plan had to find, too.
        let failing = findings.iter().filter(|f| {
            f.kind == FindingKind::Test && matches!(f.effect, Effect::Regression | Effect::Open)
        });
        let tests = failing.filter_map(|finding| finding.name.parse::<TestId>().ok());
        let is_selected = |test: &TestId| {
            let scope = assessment.scope.as_ref();
            scope.is_some_and(|scope| scope.contains(test))
        };
        let (found, missed): (Vec<_>, Vec<_>) = tests.partition(is_selected);
        let recall = Recall {
            level: assessment.level,
            found: found.len() as u32,
            missed,
        };
        let subject = &self.candidate.subject;
        let event = JournalEvent::Scored(recall.clone());
        let entry = JournalEntry::new(&subject.tree, &subject.commit, event);
        self.guard.store.add(&Record::Journal(entry))?;
        Ok(Some(recall))
    }

    /// Measures the benchmarks that the change can reach, where that is asked for or the
    /// risk is High or above and the policy wants it. What is found is added.
    fn speed(
        &mut self,
        assessment: &Assessment,
        findings: &mut Vec<Finding>,
    ) -> Result<Option<SpeedReport>, GuardError> {
        let is_risky = assessment.level >= Some(Level::High) && self.guard.policy.speed.check;
        let reached = assessment.changed.union(&assessment.dependents);
        let reached = Selection {
            packages: reached.cloned().collect(),
            only: Vec::new(),
        };
        let monitored = Selection {
            packages: Vec::new(),
            only: self.guard.policy.monitored_benches(),
        };
        let is_monitored = assessment.scope.is_some() && !monitored.only.is_empty();
        let (launcher, is_asked_for, selection) = match &self.options.speed {
            MeasureSpeed::ByRisk(launcher) if is_risky => (launcher, false, reached),
            MeasureSpeed::ByRisk(launcher) if is_monitored => (launcher, false, monitored),
            MeasureSpeed::Always(launcher) => (launcher, true, reached),
            _ => return Ok(None),
        };
        if self.same || self.options.shard.is_some() {
            return Ok(None);
        }
        if self.is_over() {
            let reason = "the budget was over before they were measured";
            findings.push(no_speed(Effect::Open, "inconclusive", reason.to_owned()));
            return Ok(None);
        }
        let options = CompareOptions {
            selection,
            budget: self
                .deadline
                .map(|at| at.saturating_duration_since(Instant::now())),
            ..CompareOptions::default()
        };
        let (mut base, mut candidate) = (self.base.beside(), self.candidate.beside());
        // The checkout of the base is at the place where both are measured.
        self.base.leave();
        self.candidate.leave();
        let sides = [&mut base, &mut candidate];
        match measure(self.guard, launcher, sides, &options, self.events) {
            Ok(measured) => {
                let name = self.base.name();
                findings.extend(judge_speed(&measured.report, &measured.unpaired, &name));
                Ok(Some(measured.report))
            }
            Err(GuardError::NoBenchmark(_)) if !is_asked_for => Ok(None),
            Err(GuardError::NoBenchmark(_)) => {
                let reason = "no benchmark is in the packages that the change can reach";
                findings.push(no_speed(Effect::Note, "no_benchmark", reason.to_owned()));
                Ok(None)
            }
            Err(GuardError::Run(RunError::Build { output })) => {
                let reason = "the benchmarks do not build".to_owned();
                findings.push(Finding {
                    output: Some(output),
                    ..no_speed(Effect::Unmeasured, "build_failed", reason)
                });
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    pub(crate) fn report(
        self,
        assessment: Assessment,
        scope: Option<Scope>,
        sides: Option<&Sides>,
        findings: Vec<Finding>,
        started: Instant,
    ) -> Report {
        let verdict = Verdict::of(&findings);
        let side = |side: &Side, set: Option<&TestSet>, source: Option<&Source>| SideReport {
            name: side.name(),
            commit: side.subject.commit.clone(),
            subject: side.commit.subject.clone(),
            tree: side.subject.tree.clone(),
            dirty: side.subject.dirty,
            tests: set.map(TestSet::tally),
            success_rate: set.and_then(|set| set.tally().success_rate()),
            source: source.cloned(),
        };
        Report {
            schema: 1,
            verdict,
            exit_code: verdict.exit_code(),
            base: side(
                &self.base,
                sides.map(|s| &s.base),
                sides.map(|s| &s.base_source),
            ),
            candidate: side(
                &self.candidate,
                sides.map(|s| &s.candidate),
                sides.map(|s| &s.candidate_source),
            ),
            unchanged: self.same,
            scope,
            risk: assessment,
            findings,
            min_success_rate: self.guard.policy.min_success_rate,
            runner: self.guard.runner.name().to_owned(),
            seconds: started.elapsed().as_secs_f64(),
            speed: None,
            recall: None,
            shard: self.options.shard,
            runs: self.runs,
        }
    }
}

/// A finding about benchmarks that were not measured.
fn no_speed(effect: Effect, state: &str, reason: String) -> Finding {
    let is_note = effect == Effect::Note;
    Finding {
        kind: FindingKind::Speed,
        name: "benchmarks".to_owned(),
        state: state.to_owned(),
        effect,
        reason,
        meaning: "a slowdown would not show".to_owned(),
        next: "cargo palisade bench".to_owned(),
        avoid: if is_note {
            ""
        } else {
            "do not take this for a pass"
        }
        .to_owned(),
        output: None,
    }
}

/// A finding about the public API of a package.
fn api_finding(
    package: &str,
    other: &str,
    answer: ApiAnswer,
    breaks: ApiBreaks,
) -> Option<Finding> {
    let finding = |state: &str, reason: String, meaning: &str| Finding {
        kind: FindingKind::Api,
        name: format!("public API of {package}"),
        state: state.to_owned(),
        effect: Effect::Note,
        reason,
        meaning: meaning.to_owned(),
        next: format!("cargo semver-checks --package {package}"),
        avoid: String::new(),
        output: None,
    };
    match answer {
        ApiAnswer::Compatible => None,
        ApiAnswer::Break {
            version,
            rules,
            output,
        } => {
            let rules = rules.join("; ");
            let reason = format!("compared with {other} it needs a new {version} version: {rules}");
            Some(Finding {
                effect: match breaks {
                    ApiBreaks::Note => Effect::Note,
                    ApiBreaks::Regression => Effect::Regression,
                },
                avoid: "do not publish it as a compatible version".to_owned(),
                output: Some(output),
                ..finding(
                    "api_break",
                    reason,
                    "code that uses it may no longer compile",
                )
            })
        }
        ApiAnswer::Unknown(why) => {
            let reason = format!("it could not be compared with {other}: {why}");
            let meaning = "a break of the public API would not show";
            Some(finding("not_compared", reason, meaning))
        }
    }
}

/// A note that there was nothing to compare with.
fn no_history(head: &str) -> Finding {
    Finding {
        kind: FindingKind::Run,
        name: "base".to_owned(),
        state: "no_history".to_owned(),
        effect: Effect::Note,
        reason: format!("of no commit before {head} a run of all tests is stored"),
        meaning: "the tests are judged by themselves: none may fail that is not known to"
            .to_owned(),
        next: "keep the memory for the next check, or share it: --store postgres://…".to_owned(),
        avoid: String::new(),
        output: None,
    }
}

/// A finding about a check in which nothing ran.
pub(crate) fn no_tests() -> Finding {
    Finding {
        kind: FindingKind::Run,
        name: "tests".to_owned(),
        state: "no_tests".to_owned(),
        effect: Effect::Unmeasured,
        reason: "no test ran on either side".to_owned(),
        meaning: "nothing was measured, and that is not a pass".to_owned(),
        next: "write a test for what changed".to_owned(),
        avoid: String::new(),
        output: None,
    }
}

/// A finding if what is stored of a tree and a new run of it do not agree.
fn differs(side: &str, stored: &Known, run: &Run, scope: &Scope) -> Option<Finding> {
    let new = TestSet::of_runs([run], scope);
    let state_of = |set: &TestSet, test: &TestId| set.tests.get(test).map(Expected::standing);
    let tests: BTreeSet<&TestId> = stored.set.tests.keys().chain(new.tests.keys()).collect();
    let mut outcomes = Vec::new();
    let mut lists = Vec::new();
    for test in tests {
        let (before, after) = (state_of(&stored.set, test), state_of(&new, test));
        let ran = |state: Option<Standing>| state.filter(|state| *state != Standing::Ignored);
        match (ran(before), ran(after)) {
            (Some(_), None) | (None, Some(_)) => lists.push(test),
            // One that is known to do both agrees with either.
            (Some(Standing::Flaky), _) => {}
            (before, after) if before != after => outcomes.push(test),
            _ => {}
        }
    }
    if outcomes.is_empty() && lists.is_empty() {
        return None;
    }
    let named: Vec<String> = lists
        .iter()
        .chain(&outcomes)
        .map(ToString::to_string)
        .collect();
    let age = age(
        stored.covering.as_ref().map_or(0, |run| run.finished_ms),
        now(),
    );
    let (effect, what) = if lists.is_empty() {
        (Effect::Note, "there is another outcome of")
    } else {
        (Effect::Unmeasured, "only once ran")
    };
    let count = counted(named.len(), "test");
    Some(Finding {
        kind: FindingKind::Run,
        name: format!("stored run of {side}"),
        state: "reuse_differs".to_owned(),
        effect,
        reason: format!("it is {age} old and was measured again: {what} {count}"),
        meaning:
            "they are flaky, or depend on something besides files, compiler, machine and settings"
                .to_owned(),
        next: "cargo palisade check --fresh; cargo palisade flaky list".to_owned(),
        avoid: "do not trust stored runs before you know why".to_owned(),
        output: Some(named.join("\n")),
    })
}

fn is_failure(state: TestState) -> bool {
    matches!(
        state,
        TestState::NewlyFailing | TestState::AddedFailing | TestState::StillFailing
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Base,
    Candidate,
}

impl Which {
    fn side<'a>(self, base: &'a mut Side, candidate: &'a mut Side) -> &'a mut Side {
        match self {
            Self::Base => base,
            Self::Candidate => candidate,
        }
    }

    fn words(self, name: &str) -> String {
        match self {
            Self::Base => format!("base {name}"),
            Self::Candidate => format!("candidate {name}"),
        }
    }
}

/// A finding about a run in which tests have no outcome.
pub fn incomplete(side: &str, gaps: &[String]) -> Finding {
    const NAMED: usize = 5;
    let more = gaps.len().saturating_sub(NAMED);
    let mut output = gaps[..gaps.len().min(NAMED)].join("\n");
    if more > 0 {
        let _ = write!(output, "\nand {more} more");
    }
    Finding {
        kind: FindingKind::Run,
        name: side.to_owned(),
        state: "incomplete".to_owned(),
        effect: Effect::Unmeasured,
        reason: match gaps.len() {
            1 => gaps[0].clone(),
            count => format!("{count} tests have no outcome"),
        },
        meaning: "what was not measured can hide a regression".to_owned(),
        next: "run it again; if it hangs, lower run.test_time_out in palisade.toml".to_owned(),
        avoid: "do not take this for a pass".to_owned(),
        output: Some(output),
    }
}

impl Source {
    fn of(known: &Known, side: &Side) -> Self {
        let from_store = |run: &Run| Self {
            origin: Origin::Store,
            run: Some(run.id.clone()),
            commit: run.subject.commit.clone(),
            tree: run.subject.tree.clone(),
            measured_ms: run.finished_ms,
            key: key(run),
        };
        known.covering.as_ref().map_or_else(
            || Self {
                origin: if side.is_checked_out() {
                    Origin::Checkout
                } else {
                    Origin::WorkingTree
                },
                run: None,
                commit: side.subject.commit.clone(),
                tree: side.subject.tree.clone(),
                measured_ms: now(),
                key: String::new(),
            },
            from_store,
        )
    }
}

/// What a stored run had to share with the side it stands for, besides the tree.
fn key(run: &Run) -> String {
    let environment = &run.environment;
    format!(
        "lockfile {}, {}, {}, {}",
        crate::git::short(&environment.lockfile),
        environment.toolchain,
        environment.machine,
        environment.config
    )
}
