//! The benchmarks a workspace has: where they are, how one of them is run, and how
//! what it says is read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::launch::{Launched, Program};
use super::read;
use crate::host::source::{ModuleFile, module_tree};
use crate::policy::{Better, CommandPolicy, Prints, SpeedPolicy};
use crate::speed::Measure;
use crate::test_id::TargetKind;
use crate::workspace::{Package, Target, Workspace};

/// The variable by which a program that counts its allocations is told where to write
/// them: that of the crate `palisade-alloc`.
const ALLOCATIONS_VARIABLE: &str = "PALISADE_ALLOC_FILE";

/// The file, in the folder of a launch.
const ALLOCATIONS: &str = "allocations.json";

/// What runs the benchmarks of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harness {
    /// Criterion.
    Criterion,
    /// The standard library's `#[bench]`, which needs a nightly compiler.
    Libtest,
    /// divan.
    Divan,
    /// The target's own `main`: the whole of it is one benchmark.
    Own,
}

/// A target with benchmarks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchTarget {
    /// Its package.
    pub package: String,
    /// What kind it is: a bench, or a library with `#[bench]`.
    pub kind: TargetKind,
    /// Its name.
    pub name: String,
    /// What runs its benchmarks.
    pub harness: Harness,
    /// The features of the package without which Cargo does not build it.
    pub required_features: Vec<String>,
    /// The root of its source.
    pub source: PathBuf,
}

impl BenchTarget {
    /// How the names of its benchmarks begin: `package/bench:name`.
    pub fn place(&self) -> String {
        crate::test_id::place(&self.package, self.kind, &self.name)
    }

    /// The flags by which Cargo selects it, besides the package.
    pub fn flags(&self) -> Vec<String> {
        match self.kind {
            TargetKind::Lib => vec!["--lib".to_owned()],
            _ => vec!["--bench".to_owned(), self.name.clone()],
        }
    }
}

/// The targets of a workspace that have benchmarks.
pub fn bench_targets(workspace: &Workspace) -> Vec<BenchTarget> {
    workspace
        .packages
        .values()
        .flat_map(bench_targets_of)
        .collect()
}

/// The targets of a package that have benchmarks.
pub fn bench_targets_of(package: &Package) -> Vec<BenchTarget> {
    let target = |of: &Target, kind, harness| BenchTarget {
        package: package.name.clone(),
        kind,
        name: of.name.clone(),
        harness,
        required_features: of.required_features.clone(),
        source: of.source.clone(),
    };
    let mut found = Vec::new();
    for candidate in &package.targets {
        match candidate.kind {
            Some(TargetKind::Bench) => {
                let harness = harness_of(&module_tree(&candidate.source));
                found.push(target(candidate, TargetKind::Bench, harness));
            }
            Some(TargetKind::Lib) if has_bench_attribute(&package.root.join("src")) => {
                found.push(target(candidate, TargetKind::Lib, Harness::Libtest));
            }
            _ => {}
        }
    }
    found
}

/// The harness that the root of a bench names, or a module of it.
fn harness_of(files: &[ModuleFile]) -> Harness {
    let any = |says: fn(&str) -> bool| files.iter().any(|file| says(&file.text));
    if any(|text| text.contains("divan")) {
        Harness::Divan
    } else if any(|text| text.contains("criterion")) {
        Harness::Criterion
    } else if any(marks_a_bench) {
        Harness::Libtest
    } else {
        Harness::Own
    }
}

fn has_bench_attribute(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.any(|path| {
        if path.is_dir() {
            return has_bench_attribute(&path);
        }
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        is_rust && fs::read_to_string(&path).is_ok_and(|text| marks_a_bench(&text))
    })
}

/// Whether an item has the attribute: comments and strings may name it too.
fn marks_a_bench(source: &str) -> bool {
    let mut lines = source.lines().map(str::trim_start);
    lines.any(|line| line.starts_with("#[bench]"))
}

/// How a benchmark is started and read.
#[derive(Clone, Debug, PartialEq)]
pub enum BenchKind {
    /// A benchmark of a target, by its name there; empty for a target that is one
    /// benchmark.
    Target(BenchTarget, String),
    /// A command of the policy.
    Command(CommandPolicy, Vec<String>),
}

/// A benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Bench {
    /// Its name in reports: `package/bench:target/name`, or the command's name.
    pub name: String,
    /// How it is started and read.
    pub kind: BenchKind,
}

/// The executables that were built from one revision, and where its files are.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// The workspace's root.
    pub root: PathBuf,
    /// The folders of the packages.
    pub packages: BTreeMap<String, PathBuf>,
    /// The executables of benchmark targets, by their places.
    pub benches: BTreeMap<String, PathBuf>,
    /// The roots of their sources, by the places of the targets.
    pub bench_sources: BTreeMap<String, PathBuf>,
    /// The programs of the workspace, by name.
    pub programs: BTreeMap<String, PathBuf>,
    /// Targets that do not build with the features that they require, by their places, and why.
    pub without_features: BTreeMap<String, String>,
}

impl Built {
    /// The executable that a benchmark runs, if it was built here.
    pub fn executable(&self, bench: &Bench) -> Option<&Path> {
        let path = match &bench.kind {
            BenchKind::Target(target, _) => self.benches.get(&target.place()),
            BenchKind::Command(_, words) => self.programs.get(&words[0]),
        };
        path.map(PathBuf::as_path)
    }

    /// A target's own folder, in which Cargo runs its benchmarks.
    pub fn folder(&self, target: &BenchTarget) -> PathBuf {
        let folder = self.packages.get(&target.package);
        folder.cloned().unwrap_or_else(|| self.root.clone())
    }
}

impl Bench {
    /// A benchmark of a target, by its name there.
    pub fn of_target(target: &BenchTarget, id: &str) -> Self {
        let place = target.place();
        Self {
            name: if id.is_empty() {
                place
            } else {
                format!("{place}/{id}")
            },
            kind: BenchKind::Target(target.clone(), id.to_owned()),
        }
    }

    /// Whether what it says may have this name: its own, or that of an argument.
    pub fn may_say(&self, name: &str) -> bool {
        let below = name.strip_prefix(&self.name);
        below.is_some_and(|below| below.is_empty() || below.starts_with("::"))
    }

    /// The program that one launch runs on a revision, with so many samples where the harness
    /// can be told; `scratch` is an empty folder for what it writes. `None` if the revision has no executable for it.
    pub fn program(
        &self,
        built: &Built,
        policy: &SpeedPolicy,
        samples: u32,
        scratch: &Path,
    ) -> Option<Program> {
        let words =
            |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
        let mut variables = Vec::new();
        let (program, args, dir) = match &self.kind {
            BenchKind::Target(target, id) => {
                let program = built.executable(self)?.to_owned();
                let seconds = |time: std::time::Duration| time.as_secs_f64().to_string();
                let args = match target.harness {
                    Harness::Criterion => {
                        variables.push(("CRITERION_HOME".into(), scratch.into()));
                        let (warm_up, launch) =
                            (seconds(policy.warm_up.0), seconds(policy.launch.0));
                        let only = format!("^{}$", literally(id));
                        // Its statistics are not used: as little as possible of them.
                        words(&[
                            "--bench",
                            "--noplot",
                            "--warm-up-time",
                            &warm_up,
                            "--measurement-time",
                            &launch,
                            "--sample-size",
                            &samples.to_string(),
                            "--nresamples",
                            "1001",
                            &only,
                        ])
                    }
                    Harness::Libtest => words(&["--bench", "--exact", id]),
                    Harness::Divan => {
                        let path = format!("{}::{id}", target.name.replace('-', "_"));
                        // The names that divan compares have those of arguments in them.
                        let only = format!("^{}(::|$)", literally(&path));
                        let launch = seconds(policy.launch.0);
                        words(&["--bench", "--color", "never", "--max-time", &launch, &only])
                    }
                    Harness::Own => words(&["--bench"]),
                };
                (program, args, built.folder(target))
            }
            BenchKind::Command(_, line) => {
                variables.push((
                    ALLOCATIONS_VARIABLE.into(),
                    scratch.join(ALLOCATIONS).into(),
                ));
                let own = built.programs.get(&line[0]).cloned();
                let program = own.unwrap_or_else(|| PathBuf::from(&line[0]));
                let args = line[1..].iter().map(OsString::from).collect();
                (program, args, built.root.clone())
            }
        };
        Some(Program {
            program,
            args,
            dir,
            variables,
        })
    }

    /// What a launch says, by the benchmark's name or a part of it. `Err` says what was
    /// expected and is not there.
    pub fn read(&self, launched: &Launched, scratch: &Path) -> Result<Vec<Reading>, String> {
        let usage = &launched.usage;
        // Time in the queue for a processor is other programs' time.
        let whole = usage.wall_ns.saturating_sub(usage.waited_ns.unwrap_or(0)) as f64;
        let time = |found: Option<f64>, expected: &str| {
            let missing = || format!("it printed no {expected}");
            let time = found.ok_or_else(missing)?;
            Ok::<_, String>(vec![Reading::new(&self.name, Measure::Time, time)])
        };
        let mut readings = match &self.kind {
            BenchKind::Target(target, id) => match target.harness {
                Harness::Criterion => time(read::criterion(scratch, id), "samples of Criterion's")?,
                Harness::Libtest => time(read::libtest(&launched.out, id), "line of libtest's")?,
                Harness::Divan => self.read_divan(id, &launched.out)?,
                Harness::Own => time(Some(whole), "")?,
            },
            BenchKind::Command(policy, _) => self.read_command(policy, &launched.out, whole)?,
        };
        if let Some((count, bytes)) = read::allocations(&scratch.join(ALLOCATIONS)) {
            let measures = [
                (Measure::AllocationCount, count),
                (Measure::AllocationBytes, bytes),
            ];
            let of = |(measure, value)| Reading::new(&self.name, measure, value);
            readings.extend(measures.map(of));
        }
        if let Some(peak) = usage.peak_bytes {
            readings.push(Reading::new(&self.name, Measure::PeakMemory, peak as f64));
        }
        Ok(readings)
    }

    /// The times of a divan benchmark: one, or one for each of its arguments, types and numbers
    /// of threads, which divan writes below it.
    fn read_divan(&self, id: &str, out: &str) -> Result<Vec<Reading>, String> {
        let rows = read::divan(out).into_iter();
        let own = rows.filter_map(|(name, time)| {
            let name = format!("{}{}", self.name, name.strip_prefix(id)?);
            self.may_say(&name)
                .then_some(Reading::new(&name, Measure::Time, time?))
        });
        let own: Vec<Reading> = own.collect();
        if own.is_empty() {
            return Err("it printed no row of divan's".to_owned());
        }
        Ok(own)
    }

    fn read_command(
        &self,
        policy: &CommandPolicy,
        out: &str,
        whole: f64,
    ) -> Result<Vec<Reading>, String> {
        let measure = match policy.better {
            Better::Lower => Measure::Time,
            Better::Higher => Measure::Rate,
        };
        let positive = |name: &str, value: f64| {
            let is_valid = value.is_finite() && value > 0.0;
            let reading = Reading::new(name, measure, value);
            is_valid
                .then_some(reading)
                .ok_or_else(|| format!("it printed {value}, which is not above 0"))
        };
        match policy.prints {
            Prints::Nothing => Ok(vec![Reading::new(&self.name, Measure::Time, whole)]),
            Prints::Number => {
                let number = read::last_number(out);
                let number = number.ok_or("its last line is not a number")?;
                Ok(vec![positive(&self.name, number)?])
            }
            Prints::Json => {
                let numbers = read::json_numbers(out);
                let numbers = numbers.ok_or("it printed no JSON document with numbers")?;
                let named = numbers.into_iter().map(|(key, value)| {
                    let name = match key.as_str() {
                        "" => self.name.clone(),
                        key => format!("{}/{key}", self.name),
                    };
                    positive(&name, value)
                });
                named.collect()
            }
        }
    }
}

/// One value that a launch said.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The benchmark.
    pub name: String,
    /// What was measured.
    pub measure: Measure,
    /// How much, in the measure's unit.
    pub value: f64,
}

impl Reading {
    fn new(name: &str, measure: Measure, value: f64) -> Self {
        Self {
            name: name.to_owned(),
            measure,
            value,
        }
    }
}

/// A regular expression that matches a text and nothing else.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harnesses_are_told_from_the_source() {
        const BENCH: &str = "#[bench]\nfn a(b: &mut Bencher) {}";
        for (root, module, harness) in [
            ("use criterion::Criterion;", "", Harness::Criterion),
            ("#[divan::bench]\nfn a() {}", "", Harness::Divan),
            (
                &*format!("#![feature(test)]\n{BENCH}"),
                "",
                Harness::Libtest,
            ),
            ("fn main() {}", "", Harness::Own),
            ("//! No #[bench].\nfn main() {}", "", Harness::Own),
            ("mod fast;", BENCH, Harness::Libtest),
            (
                "#[path = \"fast/mod.rs\"]\nmod slow;",
                BENCH,
                Harness::Libtest,
            ),
            ("fn main() {}", BENCH, Harness::Own),
            (
                "mod fast;\nfn main() { fast::all() }",
                "use criterion::Criterion;",
                Harness::Criterion,
            ),
            (
                "mod fast;\nfn main() {}",
                "#[path = \"../fast/mod.rs\"]\nmod again;",
                Harness::Own,
            ),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            fs::create_dir(folder.path().join("fast")).expect("created");
            let path = folder.path().join("b.rs");
            fs::write(&path, root).expect("written");
            fs::write(folder.path().join("fast/mod.rs"), module).expect("written");
            assert_eq!(harness_of(&module_tree(&path)), harness, "{root}");
        }
    }

    #[test]
    fn each_argument_of_divans_is_a_measurement_of_its_own() {
        let target = BenchTarget {
            package: "a".to_owned(),
            kind: TargetKind::Bench,
            name: "my-b".to_owned(),
            harness: Harness::Divan,
            required_features: Vec::new(),
            source: PathBuf::new(),
        };
        let out = "my_b      fastest  │ slowest  │ median   │ mean     │ samples │ iters\n\
                   ├─ fib             │          │          │          │         │\n\
                   │  ├─ 1   15.05 ns │ 16.23 ns │ 15.06 ns │ 15.1 ns  │ 100     │ 12800\n\
                   │  ╰─ 22           │          │          │          │         │\n\
                   │     ├─ t=1  94 µs │ 4.151 ms │ 95 µs    │ 136.3 µs │ 100     │ 100\n\
                   │     ╰─ t=2  95 µs │ 4.151 ms │ 96 µs    │ 136.3 µs │ 100     │ 100\n\
                   ╰─ fib2   7 ns     │ 9 ns     │ 8 ns     │ 8 ns     │ 100     │ 100\n";
        let named = |id: &str| {
            let bench = Bench::of_target(&target, id);
            let readings = bench.read_divan(id, out).expect("rows").into_iter();
            readings.map(|r| (r.name, r.value)).collect::<Vec<_>>()
        };
        let expected = [("1", 15.06), ("22::t=1", 95e3), ("22::t=2", 96e3)];
        let expected = expected.map(|(name, time)| (format!("a/bench:my-b/fib::{name}"), time));
        assert_eq!(named("fib"), expected);
        assert_eq!(named("fib2"), [("a/bench:my-b/fib2".to_owned(), 8.0)]);
        let bench = Bench::of_target(&target, "fib");
        let built = Built {
            benches: [(target.place(), PathBuf::from("b"))].into(),
            ..Built::default()
        };
        let program = bench.program(&built, &SpeedPolicy::default(), 10, Path::new(""));
        let args = program.expect("it was built").args;
        assert_eq!(args.last().expect("a filter"), "^my_b::fib(::|$)");
        assert!(bench.read_divan("fib", "").is_err());
    }

    #[test]
    fn a_pattern_matches_its_text_only() {
        assert_eq!(literally("dot/avx2 (4K).x"), r"dot/avx2 \(4K\)\.x");
    }
}
