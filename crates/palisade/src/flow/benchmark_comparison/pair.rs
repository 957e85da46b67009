//! Both revisions of a comparison, checked out, built, and with their benchmarks listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::ComparisonError;
use super::runner::{BenchmarkRunner, error_chain};
use crate::host::measure::bench::{
    Bench, BenchKind, BenchTarget, Built, Harness, bench_targets, bench_targets_of,
};
use crate::host::measure::bench_source::BenchSources;
use crate::host::measure::build::{BuildPlan, build, package_of};
use crate::host::session::{Event, Revision, Session};
use crate::policy::{BuildPolicy, CommandPolicy, Policy, SpeedPolicy};
use crate::speed::{BenchmarkResult, Decision, Measure};
use crate::workspace::Workspace;

/// Which benchmarks are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The packages whose benchmarks are; all if empty.
    pub packages: Vec<String>,
    /// Parts of their names; all if empty.
    pub only: Vec<String>,
    /// Parts of the names of others that are looked at too, whatever package they are in.
    pub also: Vec<String>,
}

impl Selection {
    /// This selection, or the policy's if it names no benchmark.
    pub(super) fn or_policy(&self, policy: &SpeedPolicy) -> Self {
        let mut selection = self.clone();
        if selection.only.is_empty() {
            selection.only.clone_from(&policy.only);
        }
        selection
    }

    /// The end of "find a benchmark …".
    pub(super) fn words(&self) -> String {
        match self.only.as_slice() {
            [] => " in the workspace".to_owned(),
            parts => format!(" called {}", parts.join(" or ")),
        }
    }

    /// Whether it is every benchmark.
    pub(super) fn is_all(&self) -> bool {
        self.only.is_empty() && self.packages.is_empty()
    }

    /// Whether a build is to be measured.
    pub(super) fn has(&self, build: &BuildPolicy) -> bool {
        self.reaches(&build.package) && self.wants(&build.package)
    }

    fn reaches(&self, package: &str) -> bool {
        self.packages.is_empty() || self.packages.iter().any(|name| name == package)
    }

    /// Whether a benchmark that is called so is wanted, if its package is.
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| is_named(name, part))
    }

    /// Whether a benchmark that is called so is wanted whatever its package is.
    pub(super) fn also_wants(&self, name: &str) -> bool {
        self.also.iter().any(|part| is_named(name, part))
    }

    /// Whether a target may hold a wanted benchmark: one that cannot is not built.
    fn may_want(&self, target: &BenchTarget) -> bool {
        let place = target.place();
        let is_named = |part: &String| {
            let begins = |(at, _): (usize, char)| part.starts_with(&place[at..]);
            place.contains(part.as_str())
                || place.char_indices().any(begins)
                || !part.contains("bench:")
        };
        let is_wanted = self.only.is_empty() || self.only.iter().any(is_named);
        is_wanted && self.reaches(&target.package) || self.also.iter().any(is_named)
    }
}

/// Whether a part of a name names a benchmark, or what it says of one of its arguments, which
/// has the name of the benchmark, `::` and its own.
fn is_named(bench: &str, part: &str) -> bool {
    let names_argument = |(at, _): (usize, char)| {
        let argument = part.strip_prefix(&bench[at..]);
        argument.is_some_and(|argument| argument.starts_with("::"))
    };
    bench.contains(part) || bench.char_indices().any(names_argument)
}

/// Two revisions, built, with the benchmarks they have.
pub(crate) struct RevisionPair {
    /// What was built of the base and of the candidate.
    pub(crate) built: [Built; 2],
    /// The benchmarks that both have.
    pub(crate) benches: Vec<Bench>,
    /// Those that only one of the revisions has.
    pub(crate) unpaired: [Vec<String>; 2],
    /// Those that both have, and of which the source is another one, with the file.
    pub(crate) changed: Vec<(String, String)>,
    /// Targets of which the benchmarks are not known, and why.
    pub(crate) failed: Vec<(String, String)>,
    /// What else there is to say.
    pub(crate) notes: Vec<String>,
}

impl RevisionPair {
    /// Whether nothing stands alone, or is not known.
    pub(super) fn is_all_paired(&self) -> bool {
        self.unpaired.iter().all(Vec::is_empty) && self.changed.is_empty() && self.failed.is_empty()
    }

    /// The answers for the benchmarks of which the source is another one.
    pub(super) fn changed_results(&self) -> impl Iterator<Item = BenchmarkResult> {
        self.changed
            .iter()
            .map(|(benchmark, file)| BenchmarkResult {
                benchmark: benchmark.clone(),
                unchanged: false,
                decision: Decision::incomparable(
                    Measure::Time,
                    format!("its own source, {file}, is not the same on both revisions"),
                ),
            })
    }

    /// Leaves out the benchmarks that run the same program on both revisions, but for those that
    /// are wanted by name; returns how many.
    pub(super) fn leave_out_equal(&mut self, selection: &Selection) -> usize {
        let all = self.benches.len();
        let built = &self.built;
        let is_left =
            |bench: &Bench| selection.also_wants(&bench.name) || !is_unchanged(bench, built);
        self.benches.retain(is_left);
        all - self.benches.len()
    }

    /// Puts those first that are wanted by name, then those of the packages that are selected
    /// first.
    pub(super) fn sort_by_nearness(&mut self, selection: &Selection, workspace: &Workspace) {
        let distance = |bench: &Bench| {
            let package = match &bench.kind {
                BenchKind::Target(target, _) => Some(target.package.as_str()),
                BenchKind::Command(_, words) => package_of(workspace, &words[0]),
            };
            let at = |name: &&String| Some(name.as_str()) == package;
            let place = selection.packages.iter().position(|name| at(&name));
            (
                !selection.also_wants(&bench.name),
                place.unwrap_or(usize::MAX),
            )
        };
        self.benches.sort_by_key(distance);
    }
}

/// Whether a workspace may have a benchmark that is selected. It has none for sure where this
/// says no; nothing is built to know.
pub(crate) fn may_have_benchmark(
    policy: &Policy,
    workspace: &Workspace,
    toolchain: &str,
    selection: &Selection,
) -> bool {
    if chosen_commands(policy, workspace, selection)
        .next()
        .is_some()
    {
        return true;
    }
    let packages = workspace.packages.values();
    // Where others are wanted by name, they may be anywhere.
    let reached = packages.filter(|p| selection.reaches(&p.name) || !selection.also.is_empty());
    let is_runnable =
        |target: &BenchTarget| target.harness != Harness::Libtest || has_bench_attribute(toolchain);
    let mut targets = reached.flat_map(bench_targets_of);
    targets.any(|target| selection.may_want(&target) && is_runnable(&target))
}

/// Whether a toolchain knows `#[bench]`.
fn has_bench_attribute(toolchain: &str) -> bool {
    toolchain.contains("nightly") || std::env::var_os("RUSTC_BOOTSTRAP").is_some()
}

/// The commands of the policy that are selected, with their words.
fn chosen_commands<'a>(
    policy: &'a Policy,
    workspace: &'a Workspace,
    selection: &'a Selection,
) -> impl Iterator<Item = (&'a CommandPolicy, Vec<String>)> {
    let may_reach = |words: &[String]| {
        let package = package_of(workspace, &words[0]);
        selection.packages.is_empty() || package.is_some_and(|name| selection.reaches(name))
    };
    commands(policy).filter(move |(command, words)| {
        let name = command.name();
        selection.wants(name) && may_reach(words) || selection.also_wants(name)
    })
}

/// The commands of the policy with their words.
pub(super) fn commands(policy: &Policy) -> impl Iterator<Item = (&CommandPolicy, Vec<String>)> {
    let all = policy.bench.iter().chain(&policy.workload);
    all.filter_map(|command| Some((command, command.words()?)))
}

/// One revision, built, with the benchmarks it has.
pub(super) struct PreparedRevision {
    /// What was built.
    pub(super) built: Built,
    /// Its benchmarks by name.
    pub(super) benches: BTreeMap<String, Bench>,
    /// Targets of which the benchmarks are not known, and why.
    pub(super) failed: Vec<(String, String)>,
    /// What else there is to say.
    pub(super) notes: Vec<String>,
}

/// Checks both revisions out, builds what they measure, and lists it.
pub(super) fn prepare_pair(
    session: &Session,
    runner: &BenchmarkRunner<'_>,
    [base, candidate]: [&mut Revision; 2],
    selection: &Selection,
) -> Result<RevisionPair, ComparisonError> {
    let mut base = prepare_revision(session, runner, base, selection)?;
    let mut candidate = prepare_revision(session, runner, candidate, selection)?;
    let mut notes = std::mem::take(&mut base.notes);
    notes.extend(std::mem::take(&mut candidate.notes));
    let mut told = BTreeSet::new();
    notes.retain(|note| told.insert(note.clone()));
    leave_unbuilt_out(&mut base, &mut candidate);
    let lacks = |name: &&String, other: &PreparedRevision| !other.benches.contains_key(*name);
    let gone = base.benches.keys().filter(|name| lacks(name, &candidate));
    let added = candidate.benches.keys().filter(|name| lacks(name, &base));
    let unpaired = [gone.cloned().collect(), added.cloned().collect()];
    candidate
        .benches
        .retain(|name, _| base.benches.contains_key(name));
    let mut changed = Vec::new();
    let built = [base.built, candidate.built];
    let mut sources = BenchSources::default();
    candidate.benches.retain(|name, bench| {
        let file = sources.changed(bench, &built);
        changed.extend(file.map(|file| (name.clone(), file)));
        changed.last().is_none_or(|(last, _)| last != name)
    });
    Ok(RevisionPair {
        built,
        benches: candidate.benches.into_values().collect(),
        unpaired,
        changed,
        failed: [base.failed, candidate.failed].concat(),
        notes,
    })
}

/// Leaves the benchmarks of targets out that do not build on one of the revisions with the
/// features that they require. Where that is so on the other one only, they are not gone: it is
/// a failure.
fn leave_unbuilt_out(base: &mut PreparedRevision, candidate: &mut PreparedRevision) {
    let unbuilt = |prepared: &PreparedRevision| prepared.built.without_features.clone();
    let (of_base, of_candidate) = (unbuilt(base), unbuilt(candidate));
    let is_built = |_: &String, bench: &mut Bench| match &bench.kind {
        BenchKind::Target(target, _) => {
            let place = target.place();
            !of_base.contains_key(&place) && !of_candidate.contains_key(&place)
        }
        BenchKind::Command(..) => true,
    };
    base.benches.retain(is_built);
    candidate.benches.retain(is_built);
    let alone = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
        let alone = one.iter().filter(|(place, _)| !other.contains_key(*place));
        let owned = alone.map(|(place, why)| (place.clone(), why.clone()));
        owned.collect::<Vec<_>>()
    };
    base.failed.extend(alone(&of_base, &of_candidate));
    candidate.failed.extend(alone(&of_candidate, &of_base));
}

/// Checks a revision out, builds what it measures, and lists it.
pub(super) fn prepare_revision(
    session: &Session,
    runner: &BenchmarkRunner<'_>,
    revision: &mut Revision,
    selection: &Selection,
) -> Result<PreparedRevision, ComparisonError> {
    revision.root(session, runner.events)?;
    let toolchain = revision.environment(session)?.toolchain;
    let (mut notes, mut failed) = (Vec::new(), Vec::new());
    let mut plan = BuildPlan::default();
    for target in bench_targets(revision.workspace(session)) {
        let place = target.place();
        if !selection.may_want(&target) {
            continue;
        }
        if target.harness == Harness::Libtest && !has_bench_attribute(&toolchain) {
            notes.push(format!(
                "{place} is not measured: #[bench] needs a nightly compiler, this is {toolchain}"
            ));
        } else {
            plan.targets.push(target);
        }
    }
    let workspace = revision.workspace(session);
    let chosen: Vec<_> = chosen_commands(&session.policy, workspace, selection).collect();
    plan.programs = chosen.iter().map(|(_, words)| words[0].clone()).collect();
    (runner.events)(Event::Step(format!(
        "build {} to measure it",
        revision.name()
    )));
    let progress = |progress| (runner.events)(Event::Progress(progress));
    let (place, policy) = (revision.location(session), &session.policy.run);
    let (deadline, cancel) = (runner.deadline, session.cancel());
    let built = build(place, &plan, policy, deadline, cancel, &progress)?;
    let unbuilt = built.without_features.iter();
    notes.extend(unbuilt.map(|(place, why)| format!("{place} is not measured: {why}")));
    let mut benches = BTreeMap::new();
    let is_built = |target: &&BenchTarget| !built.without_features.contains_key(&target.place());
    for target in plan.targets.iter().filter(is_built) {
        match runner.executor.list(target, &built) {
            Ok(names) => {
                let named = names.iter().map(|name| Bench::of_target(target, name));
                let is_reached = selection.reaches(&target.package);
                let chosen = named.filter(|bench| {
                    is_reached && selection.wants(&bench.name) || selection.also_wants(&bench.name)
                });
                benches.extend(chosen.map(|bench| (bench.name.clone(), bench)));
            }
            Err(error) if error.is_interrupt() => return Err(error.into()),
            Err(error) => failed.push((target.place(), error_chain(&error))),
        }
    }
    for (command, words) in chosen {
        let name = command.name().to_owned();
        let kind = BenchKind::Command(command.clone(), words);
        benches.insert(name.clone(), Bench { name, kind });
    }
    Ok(PreparedRevision {
        built,
        benches,
        failed,
        notes,
    })
}

/// Whether both revisions run the same program.
pub(super) fn is_unchanged(bench: &Bench, revisions: &[Built; 2]) -> bool {
    let content = |built: &Built| fs::read(built.executable(bench)?).ok();
    let [base, candidate] = revisions;
    content(base).is_some_and(|content_of_base| content(candidate) == Some(content_of_base))
}
