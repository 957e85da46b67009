//! Executes launches: one after the other, on a processor of their own if there
//! is one, and with an eye on what else the machine does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use super::bench::{Bench, BenchTarget, Built, Harness, Reading};
use super::counter::Counter;
use super::launch::{Conditions, LaunchError, Launched, Launcher, Program, Usage};
use super::machine::Ticks;
use super::{machine, read};
use crate::host::process::Cancel;
use crate::policy::{Span, SpeedPolicy};
use crate::speed::Measure;

/// From which use of the processors on the machine counts as busy.
const BUSY_SHARE: f64 = 0.5;

/// How long the use of the processors is watched at a time.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// How many samples a launch takes: the fewest that Criterion can be told, and more for
/// a benchmark that is short. Many short samples are disturbed less often each.
const SAMPLES: [u32; 2] = [10, 40];

/// How many times a benchmark must fit into a launch to be short.
const SHORT_RATIO: f64 = 2000.0;

/// How many times its elapsed time a program with one thread may compute.
const MAX_ONE_THREAD_LOAD: f64 = 1.1;

/// Starts launches of benchmarks.
#[derive(Clone)]
pub struct Executor<'a> {
    launcher: &'a Launcher,
    policy: &'a SpeedPolicy,
    cancel: &'a Cancel,
    cores: Vec<usize>,
    /// Programs of benchmarks that compute on several processors at a time.
    parallel: RefCell<BTreeSet<String>>,
    /// Benchmarks of which a launch can take many samples.
    short: RefCell<BTreeSet<String>>,
    launches: Cell<usize>,
    wall_ns: Cell<u64>,
    waited_ns: Cell<u64>,
    has_priority: Cell<bool>,
    /// How many launches ran beside much other work; `None` where that is not known.
    disturbed: Cell<Option<usize>>,
    /// Which share of the processors' time other programs used during the last launch.
    others_share: Cell<f64>,
    /// How much longer it may wait for other work to end.
    wait_left: Cell<Duration>,
    /// When every launch has ended.
    deadline: Option<Instant>,
}

/// How one launch is made, besides what the policy says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LaunchSettings {
    /// What the size of the environment and the processor follow from; the launches of
    /// a pair have the same.
    pub seed: u64,
    /// By how much it is slowed down.
    pub slowdown: f64,
}

impl LaunchSettings {
    /// Settings with a random seed.
    pub fn random() -> Self {
        Self {
            seed: fastrand::u64(..),
            slowdown: 0.0,
        }
    }
}

/// How much else the machine did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disturbance {
    /// How many launches there were.
    pub launches: usize,
    /// Which share of their time they waited for a processor.
    pub waited: f64,
    /// Whether the system let all of them run before other work.
    pub has_priority: bool,
    /// How many of them ran while other programs used more than half of the processors;
    /// `None` where the system does not say.
    pub disturbed: Option<usize>,
}

impl<'a> Executor<'a> {
    /// An executor on this machine.
    pub fn new(launcher: &'a Launcher, policy: &'a SpeedPolicy, cancel: &'a Cancel) -> Self {
        Self {
            launcher,
            policy,
            cancel,
            cores: machine::cores(),
            parallel: RefCell::default(),
            short: RefCell::default(),
            launches: Cell::new(0),
            wall_ns: Cell::new(0),
            waited_ns: Cell::new(0),
            has_priority: Cell::new(true),
            disturbed: Cell::new(machine::ticks().map(|_| 0)),
            others_share: Cell::new(0.0),
            wait_left: Cell::new(policy.wait.0),
            deadline: None,
        }
    }

    /// The same executor, of which every launch ends at a time at the latest.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self {
            deadline: Some(deadline),
            ..self
        }
    }

    /// How long a launch may take.
    fn limit(&self) -> Duration {
        let limit = self.policy.time_out.0;
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        self.deadline.map_or(limit, |at| limit.min(left(at)))
    }

    /// Waits for other work to end, all in all as long as the policy says. Returns which
    /// share of the processors is still used, if it is much.
    pub fn wait_for_quiet(&self, note: &dyn Fn(String)) -> Option<f64> {
        let mut has_told = false;
        loop {
            let started = Instant::now();
            let busy = machine::busy_share(WATCH_INTERVAL)?;
            if busy <= BUSY_SHARE || self.cancel.is_cancelled() {
                return None;
            }
            let wait_left = self.wait_left.get();
            if wait_left.is_zero() {
                return Some(busy);
            }
            self.wait_left
                .set(wait_left.saturating_sub(started.elapsed()));
            if !has_told {
                has_told = true;
                note(format!(
                    "wait up to {} for other work to end: {:.0} % of the processors are in use",
                    Span(wait_left),
                    100.0 * busy
                ));
            }
        }
    }

    /// Waits for other work to end if the last launch met much of it, and patience is left.
    pub fn wait_if_disturbed(&self, note: &dyn Fn(String)) {
        if self.others_share.get() > BUSY_SHARE && !self.wait_left.get().is_zero() {
            self.wait_for_quiet(note);
        }
    }

    /// Runs a program on any processor, as part of a measurement.
    pub fn run(&self, program: &Program, limit: Duration) -> Result<Launched, LaunchError> {
        let conditions = Conditions {
            limit: Some(limit),
            ..Conditions::default()
        };
        self.launcher.run(program, &conditions, self.cancel)
    }

    /// The names of a target's benchmarks.
    pub fn list(&self, target: &BenchTarget, built: &Built) -> Result<Vec<String>, LaunchError> {
        let args: &[&str] = match target.harness {
            Harness::Criterion | Harness::Libtest => &["--bench", "--list"],
            Harness::Divan => &["--bench", "--color", "never", "--list"],
            Harness::Own => return Ok(vec![String::new()]),
        };
        let Some(executable) = built.benches.get(&target.place()) else {
            return Ok(Vec::new());
        };
        let program = Program {
            program: executable.clone(),
            args: args.iter().map(Into::into).collect(),
            dir: built.folder(target),
            variables: Vec::new(),
        };
        let conditions = Conditions {
            limit: Some(self.limit()),
            ..Conditions::default()
        };
        let launched = self.launcher.run(&program, &conditions, self.cancel)?;
        Ok(match target.harness {
            Harness::Divan => {
                let rows = read::divan(&launched.out).into_iter();
                rows.map(|(name, _)| name).collect()
            }
            _ => read::listed(&launched.out),
        })
    }

    /// Launches a benchmark once on one revision, on one processor if one is enough for it.
    pub fn launch(
        &self,
        bench: &Bench,
        built: &Built,
        settings: LaunchSettings,
    ) -> Result<Vec<Reading>, LaunchError> {
        let is_parallel = self.parallel.borrow().contains(&bench.name);
        let may_pin = self.policy.pin && !is_parallel && !self.cores.is_empty();
        let core = may_pin.then(|| self.cores[settings.seed as usize % self.cores.len()]);
        let before = machine::ticks();
        let (launched, readings) = self.launch_on(bench, built, settings, core)?;
        if let Some(others_share) = share_of_others(before, machine::ticks(), &launched.usage) {
            self.others_share.set(others_share);
            let disturbed = self.disturbed.get();
            self.disturbed
                .set(disturbed.map(|n| n + usize::from(others_share > BUSY_SHARE)));
        }
        self.launches.set(self.launches.get() + 1);
        self.wall_ns
            .set(self.wall_ns.get() + launched.usage.wall_ns);
        let waited = launched.usage.waited_ns.unwrap_or(0);
        self.waited_ns.set(self.waited_ns.get() + waited);
        self.has_priority
            .set(self.has_priority.get() && launched.usage.has_priority);
        Ok(readings)
    }

    /// Launches a benchmark once to see that it runs, what it measures, and whether it
    /// computes on several processors. What it reads from files is in memory then.
    pub fn trial_launch(&self, bench: &Bench, built: &Built) -> Result<Vec<Reading>, LaunchError> {
        let (launched, readings) = self.launch_on(bench, built, LaunchSettings::random(), None)?;
        let usage = launched.usage;
        let computed = (usage.user_ns + usage.system_ns) as f64;
        let passed = usage.wall_ns.saturating_sub(usage.waited_ns.unwrap_or(0)) as f64;
        if computed > MAX_ONE_THREAD_LOAD * passed {
            self.parallel.borrow_mut().insert(bench.name.clone());
        }
        let launch = self.policy.launch.0.as_nanos() as f64;
        let is_short = |r: &Reading| r.measure == Measure::Time && r.value * SHORT_RATIO < launch;
        if readings.iter().any(is_short) {
            self.short.borrow_mut().insert(bench.name.clone());
        }
        Ok(readings)
    }

    /// What counts instructions on this machine, as the policy wants it: see
    /// [`Counter::choose`].
    pub fn counter(&self) -> Result<Option<Counter>, String> {
        Counter::choose(self.policy.counters, self.launcher, self.cancel)
    }

    /// Launches a benchmark once on one revision to count its instructions. The environment
    /// is as large on both revisions: what a program does with it counts too.
    pub fn count(
        &self,
        bench: &Bench,
        built: &Built,
        counter: Counter,
        limit: Duration,
    ) -> Result<f64, LaunchError> {
        let scratch = tempfile::tempdir().map_err(LaunchError::Temporary)?;
        let program = self.program(bench, built, SAMPLES[0], scratch.path())?;
        let counted = counter.around(&program, scratch.path());
        let conditions = Conditions {
            limit: Some(self.limit().min(limit)),
            ..Conditions::default()
        };
        self.launcher.run(&counted, &conditions, self.cancel)?;
        counter
            .read(scratch.path())
            .ok_or_else(|| LaunchError::Failed {
                command: counted.shown(),
                end: format!("wrote no count of {}", counter.name()),
                output: String::new(),
            })
    }

    fn program(
        &self,
        bench: &Bench,
        built: &Built,
        samples: u32,
        scratch: &Path,
    ) -> Result<Program, LaunchError> {
        let program = bench.program(built, self.policy, samples, scratch);
        program.ok_or_else(|| LaunchError::Start {
            program: bench.name.clone(),
            message: "it was not built".to_owned(),
        })
    }

    fn launch_on(
        &self,
        bench: &Bench,
        built: &Built,
        settings: LaunchSettings,
        core: Option<usize>,
    ) -> Result<(Launched, Vec<Reading>), LaunchError> {
        let scratch = tempfile::tempdir().map_err(LaunchError::Temporary)?;
        let samples = SAMPLES[usize::from(self.short.borrow().contains(&bench.name))];
        let program = self.program(bench, built, samples, scratch.path())?;
        let conditions = Conditions {
            core,
            slowdown: settings.slowdown,
            seed: settings.seed,
            limit: Some(self.limit()),
        };
        let launched = self.launcher.run(&program, &conditions, self.cancel)?;
        let readings =
            bench
                .read(&launched, scratch.path())
                .map_err(|end| LaunchError::Failed {
                    command: program.shown(),
                    end,
                    output: launched.out.clone(),
                })?;
        Ok((launched, readings))
    }

    /// What the launches met so far.
    pub fn disturbance(&self) -> Disturbance {
        let passed = self.wall_ns.get().max(1) as f64;
        Disturbance {
            launches: self.launches.get(),
            waited: self.waited_ns.get() as f64 / passed,
            has_priority: self.has_priority.get(),
            disturbed: self.disturbed.get(),
        }
    }
}

/// Which share of the processors' time between two looks other programs used than the one
/// that was launched.
fn share_of_others(before: Option<Ticks>, after: Option<Ticks>, own: &Usage) -> Option<f64> {
    let (before, after) = (before?, after?);
    let own = (own.user_ns + own.system_ns) as f64 / Ticks::NANOSECONDS;
    let (used, all) = (after.used - before.used, after.all - before.all);
    (all > 0).then(|| ((used as f64 - own) / all as f64).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_launched_is_not_other_work() {
        let usage = Usage {
            wall_ns: 100_000_000,
            waited_ns: None,
            user_ns: 90_000_000,
            system_ns: 10_000_000,
            peak_bytes: None,
            stopped_ns: 0,
            has_priority: true,
        };
        // Ten of the twenty ticks of two processors in a tenth of a second are its own.
        let look = |used, all| Some(Ticks { used, all });
        let share = |used: u64| share_of_others(look(50, 100), look(50 + used, 120), &usage);
        assert_eq!(share(10), Some(0.0));
        assert_eq!(share(20), Some(0.5));
        // Ticks are coarse.
        assert_eq!(share(9), Some(0.0));
        assert_eq!(share_of_others(look(1, 2), look(1, 2), &usage), None);
        assert_eq!(share_of_others(None, look(1, 2), &usage), None);
    }
}
