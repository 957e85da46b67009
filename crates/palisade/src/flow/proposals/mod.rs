//! What a maintainer would write into the policy: commands that documents and tests show, the
//! bounds and claims that sentences make of them, and the features that tests need. Each is tried
//! before it is proposed.

mod ci_features;
mod counts;
mod mentions;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

pub use counts::propose_counts;
use mentions::{Mention, Statement, in_document, in_source};
use serde::Serialize;

use crate::baseline::TestSet;
use crate::flow::claims::{self, Claims, ClaimsError, Unproved, proved_number, unproved};
use crate::host::measure::bench::{BenchTarget, Built, bench_targets};
use crate::host::measure::build::{BuildPlan, build};
use crate::host::measure::launch::{Conditions, LaunchError, Launched, Launcher, Program};
use crate::host::run::{Progress, RunError, list_tests};
use crate::host::session::{Event, Events, Session, SessionError};
use crate::host::source::TestBodies;
use crate::policy::{Bytes, RunPolicy};
use crate::test_id::{TargetKind, TestId};
use crate::workspace::Package;

/// How long a command may take that is tried.
const TIME: Duration = Duration::from_secs(10);

/// How many commands are tried.
const COMMANDS: usize = 12;

/// How many sets of features are tried.
const FEATURE_SETS: usize = 5;

/// What could be in the policy.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Proposals {
    /// The targets that have benchmarks.
    pub benches: Vec<String>,
    /// Commands whose time and memory can be measured.
    pub workloads: Vec<ProposedWorkload>,
    /// Numbers of documents that a command proves.
    pub claims: Vec<ProposedClaim>,
    /// What was tried and is not proposed.
    pub refused: Vec<Refused>,
    /// Numbers of speed and memory that nothing proves.
    pub unproved: Vec<Unproved>,
    /// The tests that the default build leaves out, if there are any.
    pub hidden: Option<HiddenTests>,
}

/// A command that could be a `[[workload]]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProposedWorkload {
    /// Program and arguments.
    pub command: String,
    /// Where it is shown.
    pub place: String,
    /// The most memory that a document says it holds.
    pub max_rss: Option<String>,
    /// The longest that a document says it takes.
    pub max_time: Option<String>,
    /// What it took when it was tried, in words.
    pub measured: String,
}

/// A number that could be a `[[claim]]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProposedClaim {
    /// What to call it.
    pub name: String,
    /// The document.
    pub document: String,
    /// The words around the number, with `{}` in its place.
    pub text: String,
    /// What proves it.
    #[serde(flatten)]
    pub proof: ProposedProof,
}

/// What proves a number that could be a `[[claim]]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProposedProof {
    /// The command that prints it.
    Command(String),
    /// The tests that it counts.
    Tests(String),
}

/// A command, or what a document says of it, that did not hold when it was tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refused {
    /// Where it stands.
    pub place: String,
    /// The command, or the tests that are counted.
    pub command: String,
    /// Why it is not proposed.
    pub reason: String,
}

/// Tests that the default build leaves out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HiddenTests {
    /// How many are left out.
    pub hidden: usize,
    /// How many there are.
    pub all: usize,
    /// The arguments of Cargo with which they are seen; `None` if no set of features that was
    /// tried builds, and the numbers are those of the source.
    pub cargo_args: Option<Vec<String>>,
}

/// Looks for what could be in the policy of a workspace, of which `seen` are the tests.
pub fn propose(
    session: &Session,
    launcher: &Launcher,
    seen: &TestSet,
    events: Events<'_>,
) -> Result<Proposals, ClaimsError> {
    let claims = Claims::load(session)?;
    let programs = programs(session);
    let mut shown: Vec<Mention> = Vec::new();
    for document in &claims.documents {
        shown.extend(in_document(document, &programs));
    }
    shown.extend(shown_in_tests(session, &programs));
    let benches = bench_targets(&session.workspace);
    let mut proposals = Proposals {
        benches: benches.iter().map(BenchTarget::place).collect(),
        hidden: hidden_tests(session, seen, events)?,
        ..Proposals::default()
    };
    try_commands(session, launcher, &claims, &shown, &mut proposals, events)?;
    let is_claimed = |number: &Unproved| {
        let place = format!("{}:{}", number.document, number.line);
        proposals.workloads.iter().any(|w| w.place == place)
    };
    proposals.unproved = unproved(&claims);
    proposals.unproved.retain(|number| !is_claimed(number));
    Ok(proposals)
}

/// The programs of the workspace.
fn programs(session: &Session) -> BTreeSet<String> {
    let packages = session.workspace.packages.values();
    let packages = packages.filter(|package| !session.policy.run.excludes(&package.name));
    let targets = packages.flat_map(|package| &package.targets);
    let programs = targets.filter(|target| target.kind == Some(TargetKind::Bin));
    programs.map(|target| target.name.clone()).collect()
}

/// The commands that the integration tests show.
fn shown_in_tests(session: &Session, programs: &BTreeSet<String>) -> Vec<Mention> {
    let mut found = Vec::new();
    for package in session.workspace.packages.values() {
        for target in &package.targets {
            if target.kind == Some(TargetKind::Test)
                && let Ok(text) = fs::read_to_string(&target.source)
            {
                let path = target.source.strip_prefix(&session.workspace.root);
                let path = path.unwrap_or(&target.source).to_string_lossy();
                found.extend(in_source(&path, &text, programs));
            }
        }
    }
    found
}

/// Builds the programs and runs each command once, in a checkout of the files as they are.
fn try_commands(
    session: &Session,
    launcher: &Launcher,
    claims: &Claims,
    shown: &[Mention],
    proposals: &mut Proposals,
    events: Events<'_>,
) -> Result<(), ClaimsError> {
    let mut by_command: BTreeMap<&[String], Vec<&Mention>> = BTreeMap::new();
    for mention in shown {
        by_command.entry(&mention.words).or_default().push(mention);
    }
    if by_command.is_empty() {
        return Ok(());
    }
    let mut revision = session.in_checkout(None)?;
    revision.root(session, events)?;
    let plan = BuildPlan {
        programs: by_command.keys().map(|words| words[0].clone()).collect(),
        ..BuildPlan::default()
    };
    events(Event::Step("build programs to try commands".to_owned()));
    let progress = |progress| events(Event::Progress(progress));
    let (place, policy) = (revision.location(session), &session.policy.run);
    let built = match build(place, &plan, policy, None, session.cancel(), &progress) {
        Ok(built) => built,
        Err(error @ RunError::Build { .. }) => {
            let words = plan.programs.into_iter().collect::<Vec<_>>().join(", ");
            proposals.refused.push(Refused {
                place: "cargo build --release".to_owned(),
                command: words,
                reason: error.to_string(),
            });
            return Ok(());
        }
        Err(other) => return Err(other.into()),
    };
    for (words, mentions) in by_command.into_iter().take(COMMANDS) {
        let command = shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default();
        events(Event::Step(format!("try `{command}`")));
        match run_once(session, launcher, &built, words) {
            Ok(launched) => judge(claims, &command, &mentions, &launched, proposals),
            Err(error) if error.is_interrupt() => return Err(SessionError::from(error).into()),
            Err(error) => proposals.refused.push(Refused {
                place: mentions[0].place.clone(),
                command,
                reason: error.to_string(),
            }),
        }
    }
    Ok(())
}

fn run_once(
    session: &Session,
    launcher: &Launcher,
    built: &Built,
    words: &[String],
) -> Result<Launched, LaunchError> {
    let own = built.programs.get(&words[0]).cloned();
    let program = Program {
        program: own.unwrap_or_else(|| words[0].clone().into()),
        args: words[1..].iter().map(OsString::from).collect(),
        dir: built.root.clone(),
        variables: Vec::new(),
    };
    let conditions = Conditions {
        limit: Some(TIME),
        ..Conditions::default()
    };
    launcher.run(&program, &conditions, session.cancel())
}

/// Proposes a command that ended well, with what of the statements about it held.
fn judge(
    claims: &Claims,
    command: &str,
    mentions: &[&Mention],
    launched: &Launched,
    proposals: &mut Proposals,
) {
    let peak = launched.usage.peak_bytes.map(Bytes);
    let took = Duration::from_nanos(launched.usage.wall_ns);
    let memory = peak.map(|peak| format!(", {peak}"));
    let mut workload = ProposedWorkload {
        command: command.to_owned(),
        place: mentions[0].place.clone(),
        max_rss: None,
        max_time: None,
        measured: format!("{:.2} s{}", took.as_secs_f64(), memory.unwrap_or_default()),
    };
    for mention in mentions {
        let mut refuse = |reason: String| {
            proposals.refused.push(Refused {
                place: mention.place.clone(),
                command: command.to_owned(),
                reason,
            });
        };
        match &mention.statement {
            Some(Statement::Memory(bound)) => match peak {
                Some(peak) if peak.0 <= bound.0 => {
                    workload.max_rss = Some(bound.to_string());
                    workload.place.clone_from(&mention.place);
                }
                Some(peak) => refuse(format!("{bound} is written, and it held {peak}")),
                None => {}
            },
            Some(Statement::Time(bound)) if took <= bound.0 => {
                workload.max_time = Some(bound.to_string());
                workload.place.clone_from(&mention.place);
            }
            Some(Statement::Time(bound)) => {
                refuse(format!(
                    "{bound} is written, and it took {:.2} s",
                    took.as_secs_f64()
                ));
            }
            Some(Statement::Prints {
                text,
                value,
                around,
            }) => {
                let printed = proved_number(&launched.out);
                let mut documents = claims.documents.iter();
                let document = documents.find(|document| document.path == mention.document);
                let (before, after) = around.split_once("{}").unwrap_or((around, ""));
                let count = document.map_or(0, |found| found.between(before, after).len());
                if !launched.out.contains(text.as_str()) {
                    refuse(format!("it did not print {text:?}"));
                } else if printed != Some(*value) {
                    refuse(format!("its last line is not {text:?}"));
                } else if count == 1 {
                    proposals.claims.push(ProposedClaim {
                        name: format!("what {command} prints"),
                        document: mention.document.clone(),
                        text: around.clone(),
                        proof: ProposedProof::Command(cargo_run(command)),
                    });
                }
            }
            None => {}
        }
    }
    proposals.workloads.push(workload);
}

/// The same command through Cargo, which builds the program.
fn cargo_run(command: &str) -> String {
    let (program, arguments) = command.split_once(' ').unwrap_or((command, ""));
    let line = format!("cargo run --quiet --bin {program} -- {arguments}");
    line.trim_end().trim_end_matches(" --").to_owned()
}

/// The tests that the default build leaves out: looked for where the source shows tests that did
/// not run, by a list of the tests with more features.
fn hidden_tests(
    session: &Session,
    seen: &TestSet,
    events: Events<'_>,
) -> Result<Option<HiddenTests>, ClaimsError> {
    let is_seen = |package: &str, function: &str| {
        let mut tests = seen.tests.keys();
        tests.any(|test| test.package == package && test.path.split("::").any(|p| p == function))
    };
    let with_features = session
        .workspace
        .packages
        .values()
        .filter(|package| !session.policy.run.excludes(&package.name))
        .filter(|package| !package.left_out_features.is_empty());
    let bodies = TestBodies::read(with_features);
    let in_source: Vec<(&str, &str)> = bodies.functions().collect();
    let unseen = in_source.iter().filter(|(p, f)| !is_seen(p, f)).count();
    if unseen == 0 {
        return Ok(None);
    }
    let visible: BTreeSet<&TestId> = seen
        .tests
        .keys()
        .filter(|test| test.kind != TargetKind::Doc)
        .collect();
    for cargo_args in feature_sets(session) {
        events(Event::Step(format!(
            "list the tests with {}",
            cargo_args.join(" ")
        )));
        let policy = RunPolicy {
            cargo_args: [session.policy.run.cargo_args.clone(), cargo_args.clone()].concat(),
            ..session.policy.run.clone()
        };
        let progress = |progress: Progress| events(Event::Progress(progress));
        match list_tests(&session.workspace, &policy, session.cancel(), &progress) {
            Ok(listed) => {
                let hidden = listed.iter().filter(|test| !visible.contains(test)).count();
                let lost = visible.iter().filter(|test| !listed.contains(test)).count();
                // A set that hides more than it shows is none to run by.
                if hidden >= lost {
                    return Ok((hidden > 0).then(|| HiddenTests {
                        hidden,
                        all: visible.len() + hidden,
                        cargo_args: Some(cargo_args),
                    }));
                }
            }
            Err(error) if error.is_interrupt() => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(Some(HiddenTests {
        hidden: unseen,
        all: visible.len() + unseen,
        cargo_args: None,
    }))
}

/// The sets of features that are tried, one after the other: all, those that docs.rs builds, and
/// those that the CI names.
fn feature_sets(session: &Session) -> Vec<Vec<String>> {
    let policy = &session.policy.run;
    let packages = session.workspace.packages.values();
    let packages: Vec<&Package> = packages
        .filter(|package| !policy.excludes(&package.name) && !package.left_out_features.is_empty())
        .collect();
    let mut sets = vec![vec!["--all-features".to_owned()]];
    let documented = packages.iter().flat_map(|package| {
        let name = |feature: &String| format!("{}/{feature}", package.name);
        package.documented_features.iter().map(name)
    });
    let documented: Vec<String> = documented.collect();
    if !documented.is_empty() {
        sets.push(vec!["--features".to_owned(), documented.join(",")]);
    }
    let left_out = packages
        .iter()
        .map(|package| (package.name.as_str(), &package.left_out_features))
        .collect();
    for set in ci_features::feature_sets(session.repo.root(), &left_out) {
        if !sets.contains(&set) {
            sets.push(set);
        }
    }
    sets.truncate(FEATURE_SETS);
    sets
}

impl ProposedClaim {
    /// The entry of `claims.toml`.
    pub fn entry(&self) -> String {
        let value = |text: &str| toml::Value::from(text).to_string();
        let (key, proof) = match &self.proof {
            ProposedProof::Command(command) => ("command", command),
            ProposedProof::Tests(count) => ("tests", count),
        };
        format!(
            "[[claim]]\nname = {}\ndocument = {}\ntext = {}\n{key} = {}\n",
            value(&self.name),
            value(&self.document),
            value(&self.text),
            value(proof)
        )
    }
}

/// The name of the file that claims are proposed in.
pub const CLAIMS_FILE: &str = claims::FILE_NAME;
