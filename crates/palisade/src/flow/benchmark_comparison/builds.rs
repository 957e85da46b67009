//! How long packages take to build, on both revisions by turns.

use std::path::PathBuf;

use super::ComparisonError;
use super::pair::Selection;
use super::runner::{BenchmarkRunner, PairedResults, at_most, error_chain};
use crate::host::measure::launch::{LaunchError, Program};
use crate::host::run::{BuildLocation, cargo};
use crate::host::session::Event;
use crate::policy::BuildPolicy;
use crate::speed::{BenchmarkResult, Decision, Judge, JudgeStep, Measure, Measurement, NamedBound};

/// The folder below that of a revision's build in which the timed builds are made.
const FOLDER: &str = "build-time";

/// The build times of both revisions, and what is known of them.
type Timed = (Decision, [Vec<f64>; 2]);

impl BenchmarkRunner<'_> {
    /// Compares how long the packages of the policy take to build, each after it was
    /// cleaned away, with its dependencies there; and holds that against their budgets.
    pub(super) fn builds(
        &self,
        locations: [BuildLocation<'_>; 2],
        selection: &Selection,
    ) -> Result<(PairedResults, Vec<NamedBound>), ComparisonError> {
        let (mut paired, mut bounds) = (PairedResults::default(), Vec::new());
        for build in self.policy.build.iter().filter(|b| selection.has(b)) {
            let name = &build.package;
            (self.events)(Event::Step(format!("measure the build of {name}")));
            let decision = match self.time_builds(build, locations) {
                Ok((decision, values)) => {
                    if let Some(limit) = build.max_build_time {
                        let limit = limit.0.as_nanos() as f64;
                        bounds.push(at_most(name, Measure::BuildTime, limit, &values[1]));
                    }
                    for (revision, values) in paired.measurements.iter_mut().zip(values) {
                        revision.push(Measurement {
                            benchmark: name.clone(),
                            measure: Measure::BuildTime,
                            values,
                        });
                    }
                    decision
                }
                Err(error) if error.is_interrupt() => return Err(error.into()),
                Err(error) => Decision::incomparable(Measure::BuildTime, error_chain(&error)),
            };
            paired.results.push(BenchmarkResult {
                benchmark: name.clone(),
                unchanged: false,
                decision,
            });
        }
        Ok((paired, bounds))
    }

    /// Builds a package on both revisions in blocks of two pairs, until that decides or the
    /// time is over.
    fn time_builds(
        &self,
        build: &BuildPolicy,
        locations: [BuildLocation<'_>; 2],
    ) -> Result<Timed, LaunchError> {
        let mut options: Vec<&str> = build.release.then_some("--release").into_iter().collect();
        options.extend(self.policy.run.cargo_args.iter().map(String::as_str));
        let run = |revision: usize, command: &str, options: &[&str]| {
            let location = locations[revision];
            let package = location.workspace.spec(&build.package);
            let words = [&[command, "--package", package], options].concat();
            let limit = self.policy.run.run_time_out.0;
            let launched = self.executor.run(&program(location, &words), limit)?;
            Ok::<f64, LaunchError>(launched.usage.wall_ns as f64)
        };
        // What the package depends on is built before, and not counted.
        for revision in 0..2 {
            run(revision, "build", &options)?;
        }
        let mut judge = Judge::new(self.rules(&build.package, Measure::BuildTime, 1));
        let mut values = [Vec::new(), Vec::new()];
        while judge.step() != JudgeStep::Done && !self.is_over() {
            let first = fastrand::usize(..2);
            for order in [[first, 1 - first], [1 - first, first]] {
                let mut pair = [0.0; 2];
                for revision in order {
                    run(revision, "clean", &[])?;
                    pair[revision] = run(revision, "build", &options)?;
                }
                for (all, value) in values.iter_mut().zip(pair) {
                    all.push(value);
                }
                // A process that ran took some time.
                let _ = judge.push(pair[0], pair[1]);
            }
        }
        Ok((judge.decision(), values))
    }
}

/// Cargo with some words, in a place, building to a folder of its own: what else was
/// built there is to be neither found nor cleaned away.
fn program(location: BuildLocation<'_>, words: &[&str]) -> Program {
    let target = location.target.map(|target| target.join(FOLDER));
    let command = cargo(BuildLocation {
        target: target.as_deref(),
        ..location
    });
    let set = command.get_envs();
    let set = set.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    Program {
        program: PathBuf::from(command.get_program()),
        args: words.iter().map(Into::into).collect(),
        dir: location.workspace.root.clone(),
        variables: set.collect(),
    }
}
