//! Where launches are made: one after the other, on a processor of their own if there
//! is one, and with an eye on what else the machine does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::bench::{Bench, BenchTarget, Built, Harness, Reading};
use super::launch::{Conditions, LaunchError, Launched, Launcher, Program};
use super::{machine, read};
use crate::policy::SpeedPolicy;
use crate::process::Cancel;
use crate::speed::Measure;

/// From which use of the processors on the machine counts as busy.
const BUSY: f64 = 0.5;

/// How long the use of the processors is watched at a time.
const WATCH: Duration = Duration::from_millis(200);

/// How many samples a launch takes: the fewest that Criterion can be told, and more for
/// a benchmark that is short. Many short samples are disturbed less often each.
const SAMPLES: [u32; 2] = [10, 40];

/// How many times a benchmark must fit into a launch to be short.
const SHORT: f64 = 2000.0;

/// How many times its elapsed time a program with one thread may compute.
const ONE_THREAD: f64 = 1.1;

/// Starts launches.
#[derive(Clone)]
pub struct Arena<'a> {
    launcher: &'a Launcher,
    policy: &'a SpeedPolicy,
    cancel: &'a Cancel,
    cores: Vec<usize>,
    /// Programs of benchmarks that compute on several processors at a time.
    parallel: RefCell<BTreeSet<String>>,
    /// Benchmarks of which a launch can take many samples.
    short: RefCell<BTreeSet<String>>,
    launches: Cell<usize>,
    passed_ns: Cell<u64>,
    waited_ns: Cell<u64>,
    is_first: Cell<bool>,
}

/// How one launch is made, besides what the policy says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// What the size of the environment and the processor follow from; the launches of
    /// a pair have the same.
    pub seed: u64,
    /// By how much it is slowed down.
    pub slowdown: f64,
}

impl Turn {
    /// A turn as chance has it.
    pub fn random() -> Self {
        Self {
            seed: random(),
            slowdown: 0.0,
        }
    }
}

/// A number that nobody can foretell.
pub fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}

/// How much else the machine did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disturbance {
    /// How many launches there were.
    pub launches: usize,
    /// Which share of their time they waited for a processor.
    pub waited: f64,
    /// Whether the system let all of them run before other work.
    pub is_first: bool,
}

impl<'a> Arena<'a> {
    /// An arena on this machine.
    pub fn new(launcher: &'a Launcher, policy: &'a SpeedPolicy, cancel: &'a Cancel) -> Self {
        Self {
            launcher,
            policy,
            cancel,
            cores: machine::cores(),
            parallel: RefCell::default(),
            short: RefCell::default(),
            launches: Cell::new(0),
            passed_ns: Cell::new(0),
            waited_ns: Cell::new(0),
            is_first: Cell::new(true),
        }
    }

    /// Waits for other work to end, as long as the policy says. Returns which share of
    /// the processors is still used, if it is much.
    pub fn wait_for_quiet(&self, note: &dyn Fn(String)) -> Option<f64> {
        let started = Instant::now();
        let mut has_told = false;
        loop {
            let busy = machine::busy_share(WATCH)?;
            if busy <= BUSY || self.cancel.is_cancelled() {
                return None;
            }
            if started.elapsed() >= self.policy.wait.0 {
                return Some(busy);
            }
            if !has_told {
                has_told = true;
                note(format!(
                    "wait up to {} for other work to end: {:.0} % of the processors are in use",
                    self.policy.wait,
                    100.0 * busy
                ));
            }
        }
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
            limit: Some(self.policy.time_out.0),
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

    /// Launches a benchmark once on one side, on one processor if one is enough for it.
    pub fn launch(
        &self,
        bench: &Bench,
        built: &Built,
        turn: Turn,
    ) -> Result<Vec<Reading>, LaunchError> {
        let is_parallel = self.parallel.borrow().contains(&bench.name);
        let may_pin = self.policy.pin && !is_parallel && !self.cores.is_empty();
        let core = may_pin.then(|| self.cores[turn.seed as usize % self.cores.len()]);
        let (launched, readings) = self.once(bench, built, turn, core)?;
        self.launches.set(self.launches.get() + 1);
        self.passed_ns
            .set(self.passed_ns.get() + launched.usage.wall_ns);
        let waited = launched.usage.waited_ns.unwrap_or(0);
        self.waited_ns.set(self.waited_ns.get() + waited);
        self.is_first
            .set(self.is_first.get() && launched.usage.is_first);
        Ok(readings)
    }

    /// Launches a benchmark once to see that it runs, what it measures, and whether it
    /// computes on several processors. What it reads from files is in memory then.
    pub fn try_out(&self, bench: &Bench, built: &Built) -> Result<Vec<Reading>, LaunchError> {
        let (launched, readings) = self.once(bench, built, Turn::random(), None)?;
        let usage = launched.usage;
        let computed = (usage.user_ns + usage.system_ns) as f64;
        let passed = usage.wall_ns.saturating_sub(usage.waited_ns.unwrap_or(0)) as f64;
        if computed > ONE_THREAD * passed {
            self.parallel.borrow_mut().insert(bench.name.clone());
        }
        let launch = self.policy.launch.0.as_nanos() as f64;
        let is_short = |r: &Reading| r.measure == Measure::Time && r.value * SHORT < launch;
        if readings.iter().any(is_short) {
            self.short.borrow_mut().insert(bench.name.clone());
        }
        Ok(readings)
    }

    fn once(
        &self,
        bench: &Bench,
        built: &Built,
        turn: Turn,
        core: Option<usize>,
    ) -> Result<(Launched, Vec<Reading>), LaunchError> {
        let scratch = tempfile::tempdir().map_err(LaunchError::Temporary)?;
        let samples = SAMPLES[usize::from(self.short.borrow().contains(&bench.name))];
        let program = bench.program(built, self.policy, samples, scratch.path());
        let program = program.ok_or_else(|| LaunchError::Start {
            program: bench.name.clone(),
            message: "it was not built".to_owned(),
        })?;
        let conditions = Conditions {
            core,
            slowdown: turn.slowdown,
            seed: turn.seed,
            limit: Some(self.policy.time_out.0),
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
        let passed = self.passed_ns.get().max(1) as f64;
        Disturbance {
            launches: self.launches.get(),
            waited: self.waited_ns.get() as f64 / passed,
            is_first: self.is_first.get(),
        }
    }
}
