//! Counts the instructions of a process, where something on this machine can.
//!
//! Only what does the same work in each launch can be counted: commands, and benches with
//! their own `main`. Criterion, libtest and divan repeat a benchmark for a time, so the
//! instructions of a launch say how often, and not how much each costs.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::bench::{Bench, BenchKind, Harness};
use super::launch::{Conditions, Launcher, Program};
use crate::host::process::Cancel;
use crate::policy::Counters;

/// What counts instructions in user mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// The processor, by `perf stat`.
    Perf,
    /// valgrind's callgrind, which runs a program on a processor that it imitates.
    Callgrind,
}

/// The file of perf, and how those of callgrind begin, in the folder of a launch.
const COUNTS: &str = "counts";

/// The event that perf counts.
const EVENT: &str = "instructions:u";

impl Counter {
    /// The counter that the policy asks for. `Err` says why there is none where one was
    /// asked for by name; `Ok(None)` is what nobody needs to hear of.
    pub fn choose(
        plan: Counters,
        launcher: &Launcher,
        cancel: &Cancel,
    ) -> Result<Option<Self>, String> {
        let works = |counter: Self| counter.works(launcher, cancel).then_some(counter);
        match plan {
            Counters::Off => Ok(None),
            Counters::Auto => Ok(works(Self::Perf).or_else(|| works(Self::Callgrind))),
            Counters::Perf => works(Self::Perf)
                .map(Some)
                .ok_or_else(|| format!("perf cannot count {EVENT} here")),
            Counters::Callgrind => works(Self::Callgrind)
                .map(Some)
                .ok_or_else(|| "valgrind does not run here".to_owned()),
        }
    }

    /// Whether it counts a program that does nothing.
    fn works(self, launcher: &Launcher, cancel: &Cancel) -> bool {
        let Ok(scratch) = tempfile::tempdir() else {
            return false;
        };
        let nothing = Program {
            program: PathBuf::from("true"),
            args: Vec::new(),
            dir: scratch.path().to_owned(),
            variables: Vec::new(),
        };
        let program = self.around(&nothing, scratch.path());
        let launched = launcher.run(&program, &Conditions::default(), cancel);
        launched.is_ok() && self.read(scratch.path()).is_some()
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf",
            Self::Callgrind => "callgrind",
        }
    }

    /// What to know about what it counts.
    pub fn remark(self) -> &'static str {
        match self {
            Self::Perf => "instructions were counted by perf, in user mode",
            Self::Callgrind => {
                "instructions were counted by callgrind, on a processor without AVX-512: what \
                 only runs with it was not counted"
            }
        }
    }

    /// The program with the counter around it, which writes to `scratch`.
    pub fn around(self, program: &Program, scratch: &Path) -> Program {
        let counts = scratch.join(COUNTS);
        let (tool, mut args): (_, Vec<OsString>) = match self {
            Self::Perf => {
                let words = ["stat", "-x", ",", "-e", EVENT, "-o"];
                let mut args: Vec<OsString> = words.map(OsString::from).into();
                args.extend([counts.into(), "--".into()]);
                ("perf", args)
            }
            Self::Callgrind => {
                let mut file = OsString::from("--callgrind-out-file=");
                file.push(counts);
                // One file for each process.
                file.push(".%p");
                let words = ["-q", "--tool=callgrind", "--trace-children=yes"];
                let mut args: Vec<OsString> = words.map(OsString::from).into();
                args.push(file);
                ("valgrind", args)
            }
        };
        args.push(program.program.clone().into());
        args.extend(program.args.iter().cloned());
        Program {
            program: PathBuf::from(tool),
            args,
            ..program.clone()
        }
    }

    /// The instructions of a launch that wrote to `scratch`, with those of its children.
    pub fn read(self, scratch: &Path) -> Option<f64> {
        match self {
            Self::Perf => perf(&fs::read_to_string(scratch.join(COUNTS)).ok()?),
            Self::Callgrind => {
                let entries = fs::read_dir(scratch).ok()?.flatten();
                let is_count = |name: OsString| name.to_string_lossy().starts_with(COUNTS);
                let files = entries.filter(|entry| is_count(entry.file_name()));
                let counts = files.map(|entry| callgrind(&fs::read_to_string(entry.path()).ok()?));
                let sum: f64 = counts.sum::<Option<f64>>()?;
                (sum > 0.0).then_some(sum)
            }
        }
    }
}

/// Whether each launch of a benchmark does the same work.
pub fn is_countable(bench: &Bench) -> bool {
    match &bench.kind {
        BenchKind::Command(..) => true,
        BenchKind::Target(target, _) => target.harness == Harness::Own,
    }
}

/// The count in a table of `perf stat -x ,`: `1234,,instructions:u,…`, or
/// `<not supported>,,…`.
fn perf(table: &str) -> Option<f64> {
    let line = table.lines().find(|line| line.contains(EVENT))?;
    let count = line.split(',').next()?.parse().ok()?;
    (count > 0.0).then_some(count)
}

/// The count in a file of callgrind's: `totals: 1234`.
fn callgrind(file: &str) -> Option<f64> {
    let line = file.lines().rev().find_map(|l| l.strip_prefix("totals:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        let table = "# started on Thu Nov 26 22:43:00 2026\n\n\
                     117634,,instructions:u,364230,100.00,,\n";
        assert_eq!(perf(table), Some(117_634.0));
        assert_eq!(perf("<not supported>,,instructions:u,0,100.00,,\n"), None);
        assert_eq!(perf(""), None);
        assert_eq!(
            callgrind("fn=(0)\n0 5\n\ntotals: 570423\n"),
            Some(570_423.0)
        );
        assert_eq!(callgrind("events: Ir\n"), None);
    }

    #[test]
    fn the_counts_of_all_processes_add_up() {
        let scratch = tempfile::tempdir().expect("a folder");
        assert_eq!(Counter::Callgrind.read(scratch.path()), None);
        let write = |name: &str, text: &str| {
            fs::write(scratch.path().join(name), text).expect("written");
        };
        write("counts.7", "totals: 100\n");
        write("counts.12", "totals: 23\n");
        write("allocations.json", "{}");
        assert_eq!(Counter::Callgrind.read(scratch.path()), Some(123.0));
        // One that was cut off says nothing of the whole.
        write("counts.13", "events: Ir\n");
        assert_eq!(Counter::Callgrind.read(scratch.path()), None);
    }

    #[test]
    fn a_counter_runs_the_program_with_its_arguments() {
        let program = Program {
            program: "app".into(),
            args: vec!["load".into()],
            dir: "/".into(),
            variables: Vec::new(),
        };
        // Windows has another character between folders.
        let shown = |counter: Counter| {
            let around = counter.around(&program, Path::new("/s"));
            around.shown().replace('\\', "/")
        };
        assert_eq!(
            shown(Counter::Perf),
            "perf stat -x , -e instructions:u -o /s/counts -- app load"
        );
        assert_eq!(
            shown(Counter::Callgrind),
            "valgrind -q --tool=callgrind --trace-children=yes --callgrind-out-file=/s/counts.%p app load"
        );
    }
}
