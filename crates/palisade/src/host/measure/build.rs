//! Builds what is measured, with optimisation, and finds the executables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use serde::Deserialize;

use super::bench::{BenchKind, BenchTarget, Built};
use crate::host::process::{self, Cancel, Limits, ProcessEnd, Stream, Tail};
use crate::host::run::{BuildLocation, Progress, RunError, build_error, cargo, while_locked};
use crate::policy::RunPolicy;
use crate::workspace::Workspace;

/// What is to be built.
#[derive(Clone, Debug, Default)]
pub struct BuildPlan {
    /// Targets with benchmarks.
    pub targets: Vec<BenchTarget>,
    /// The first words of commands; those that are programs of the workspace are built.
    pub programs: BTreeSet<String>,
}

impl BuildPlan {
    /// Adds what a way to measure needs.
    pub fn add(&mut self, kind: &BenchKind) {
        match kind {
            BenchKind::Target(target, _) => self.targets.push(target.clone()),
            BenchKind::Command(_, words) => {
                self.programs.insert(words[0].clone());
            }
        }
    }
}

/// A line of `cargo build --message-format=json`.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    target: MessageTarget,
    executable: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
struct MessageTarget {
    name: String,
    #[serde(default)]
    kind: Vec<String>,
}

/// Builds what is wanted in a place, until a time at most. Benchmarks that the place does not
/// have are left out.
pub fn build(
    location: BuildLocation<'_>,
    plan: &BuildPlan,
    policy: &RunPolicy,
    deadline: Option<Instant>,
    cancel: &Cancel,
    progress: &dyn Fn(Progress),
) -> Result<Built, RunError> {
    let workspace = location.workspace;
    let mut built = Built {
        root: workspace.root.clone(),
        ..Built::default()
    };
    for package in workspace.packages.values() {
        built
            .packages
            .insert(package.name.clone(), package.root.clone());
    }
    let has = |target: &&BenchTarget| {
        let package = workspace.packages.get(&target.package);
        let package = package.filter(|package| !policy.excludes(&package.name));
        package.is_some_and(|package| {
            let is_it = |own: &crate::workspace::Target| {
                own.kind == Some(target.kind) && own.name == target.name
            };
            package.targets.iter().any(is_it)
        })
    };
    let run = |args: &[String]| artifacts(location, args, policy, deadline, cancel, progress);
    // One command for each package and its features: the names of targets count for all of a
    // command's.
    let mut groups: BTreeMap<(&str, &[String]), Vec<&BenchTarget>> = BTreeMap::new();
    for target in plan.targets.iter().filter(has) {
        let group = (target.package.as_str(), target.required_features.as_slice());
        let source = (target.place(), target.source.clone());
        built.bench_sources.extend([source]);
        groups.entry(group).or_default().push(target);
    }
    for ((package, features), targets) in groups {
        let flags: BTreeSet<Vec<String>> = targets.iter().map(|target| target.flags()).collect();
        let mut args = vec!["bench".to_owned(), "--no-run".to_owned()];
        args.extend(["--package".to_owned(), workspace.spec(package).to_owned()]);
        args.extend(flags.into_iter().flatten());
        if !features.is_empty() {
            args.extend(["--features".to_owned(), features.join(",")]);
        }
        let messages = match run(&args) {
            // Such features may need another compiler, or a library that is not here.
            Err(RunError::Build { output }) if !features.is_empty() => {
                let why = does_not_build(features, &output);
                let places = targets.iter().map(|target| (target.place(), why.clone()));
                built.without_features.extend(places);
                continue;
            }
            ran => ran?,
        };
        for message in messages {
            let is_it = |target: &&&BenchTarget| {
                let kind = target.kind.as_str();
                target.name == message.target.name
                    && (message.target.kind.iter().any(|word| word == kind)
                        || kind == "lib" && message.target.kind.iter().any(|w| w.ends_with("lib")))
            };
            if let (Some(target), Some(executable)) =
                (targets.iter().find(is_it), message.executable)
            {
                built.benches.insert(target.place(), executable);
            }
        }
    }
    for program in &plan.programs {
        let Some(package) = package_of(workspace, program) else {
            continue;
        };
        let package = workspace.spec(package);
        let args = ["build", "--release", "--package", package, "--bin", program];
        let args = args.map(str::to_owned);
        for message in run(&args)? {
            if let (true, Some(executable)) = (message.target.name == *program, message.executable)
            {
                built.programs.insert(program.clone(), executable);
            }
        }
    }
    Ok(built)
}

/// Says that targets do not build with the features that they require, by the first error.
fn does_not_build(features: &[String], output: &str) -> String {
    let mut lines = output.lines().map(str::trim);
    let error = lines.find(|line| line.starts_with("error"));
    format!(
        "it does not build with the {} that it requires, {}: {}",
        if features.len() == 1 {
            "feature"
        } else {
            "features"
        },
        features.join(", "),
        error.unwrap_or("cargo bench shows why")
    )
}

/// The package that a program of the workspace belongs to.
pub(crate) fn package_of<'a>(workspace: &'a Workspace, program: &str) -> Option<&'a str> {
    let packages = workspace.packages.values();
    let mut owners = packages.filter(|package| {
        let is_it = |target: &crate::workspace::Target| {
            target.kind == Some(crate::test_id::TargetKind::Bin) && target.name == program
        };
        package.targets.iter().any(is_it)
    });
    owners.next().map(|package| package.name.as_str())
}

/// Runs a build and returns the executables it made or found made.
fn artifacts(
    location: BuildLocation<'_>,
    args: &[String],
    policy: &RunPolicy,
    deadline: Option<Instant>,
    cancel: &Cancel,
    progress: &dyn Fn(Progress),
) -> Result<Vec<Message>, RunError> {
    let mut command = cargo(location);
    command
        .args(args)
        .arg("--message-format=json-render-diagnostics")
        .args(&policy.cargo_args);
    while_locked(|| artifacts_once(location, &mut command, policy, deadline, cancel, progress))
}

fn artifacts_once(
    location: BuildLocation<'_>,
    command: &mut Command,
    policy: &RunPolicy,
    deadline: Option<Instant>,
    cancel: &Cancel,
    progress: &dyn Fn(Progress),
) -> Result<Vec<Message>, RunError> {
    let limit = policy.run_time_out.0;
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    if left.is_some_and(|left| left.is_zero()) {
        return Err(RunError::OutOfTime);
    }
    let limits = Limits {
        total: Some(left.map_or(limit, |left| left.min(limit))),
        ..Limits::default()
    };
    let mut said = Tail::default();
    let mut found = Vec::new();
    let end = process::run(command, limits, cancel, false, |stream, line| {
        if stream == Stream::Err {
            said.push(line);
            let line = String::from_utf8_lossy(line);
            progress(Progress::Building(line.trim().to_owned()));
            return;
        }
        let message = serde_json::from_slice::<Message>(line).ok();
        found.extend(message.filter(|m| m.reason == "compiler-artifact" && m.executable.is_some()));
    })?;
    match end {
        ProcessEnd::Exited(Some(0)) => {
            let root = &location.workspace.root;
            found.retain(|message| message.manifest_path.starts_with(root));
            Ok(found)
        }
        ProcessEnd::TimedOut if left.is_some_and(|left| left <= limit) => Err(RunError::OutOfTime),
        _ => Err(build_error(&said)),
    }
}
