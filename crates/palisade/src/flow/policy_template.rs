//! The first `palisade.toml` of a workspace: commented, with policies that need no
//! editing and the risk classes that its source shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::flow::proposals::{HiddenTests, Proposals};
use crate::host::source::contents;
use crate::policy::{
    ClaimsPolicy, FlakyPolicy, MilestonePolicy, Policy, RunPolicy, SlowerPolicy, SpeedPolicy,
};
use crate::record::{ConfirmedFailure, FailureKind};
use crate::workspace::Workspace;

/// Words in the names of files that read what others wrote.
const PARSER_WORDS: [&str; 7] = [
    "parse",
    "parser",
    "decode",
    "decoder",
    "loader",
    "lexer",
    "deserialize",
];

/// What the source of a workspace shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceSurvey {
    /// Files with unsafe code.
    pub unsafe_files: Vec<String>,
    /// Files with code for certain instruction sets.
    pub simd: Vec<String>,
    /// Files that speak with code of other languages.
    pub ffi: Vec<String>,
    /// Build scripts.
    pub build_scripts: Vec<String>,
    /// Files that read what others wrote.
    pub parsers: Vec<String>,
    /// Public items by package.
    pub public: BTreeMap<String, usize>,
}

/// Reads the source of a workspace.
pub fn survey_source(workspace: &Workspace) -> SourceSurvey {
    let mut survey = SourceSurvey::default();
    for package in workspace.packages.values() {
        let scripts = package.targets.iter().filter(|target| target.build_script);
        survey.build_scripts.extend(scripts.filter_map(|target| {
            let inside = target.source.strip_prefix(&package.root).ok()?;
            Some(place(&package.dir, &inside.to_string_lossy()))
        }));
        let root = package.root.join("src");
        survey_folder(
            &mut survey,
            &package.name,
            &place(&package.dir, "src"),
            &root,
        );
    }
    survey
}

fn survey_folder(survey: &mut SourceSurvey, package: &str, dir: &str, folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut paths = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect::<Vec<_>>();
    paths.sort();
    for path in paths {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let here = place(dir, &name);
        if path.is_dir() {
            survey_folder(survey, package, &here, &path);
            continue;
        }
        let Some(stem) = name.strip_suffix(".rs") else {
            continue;
        };
        let Some(contents) = fs::read_to_string(&path)
            .ok()
            .and_then(|text| contents(&text))
        else {
            continue;
        };
        *survey.public.entry(package.to_owned()).or_default() += contents.public.len();
        for (found, list) in [
            (contents.is_unsafe, &mut survey.unsafe_files),
            (contents.has_target_feature, &mut survey.simd),
            (contents.has_ffi, &mut survey.ffi),
            (
                stem.split('_').any(|word| PARSER_WORDS.contains(&word)),
                &mut survey.parsers,
            ),
        ] {
            if found {
                list.push(here.clone());
            }
        }
    }
}

fn place(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

/// What a policy is written from.
#[derive(Clone, Copy, Debug)]
pub struct PolicyFacts<'a> {
    /// What the source shows.
    pub survey: &'a SourceSurvey,
    /// The tests that failed before; those that fail each time are named as known.
    pub failures: &'a [ConfirmedFailure],
    /// Who answers for those.
    pub owner: &'a str,
    /// What could be in the policy besides.
    pub proposals: &'a Proposals,
    /// Whether that is in force, and not only a comment.
    pub is_active: bool,
}

/// The text of the file.
pub fn policy_text(facts: PolicyFacts<'_>) -> String {
    let PolicyFacts {
        survey,
        failures,
        owner,
        proposals,
        is_active,
    } = facts;
    let defaults = Policy::default();
    let mut text = String::new();
    push_success_rate(&mut text, &defaults);
    push_run(
        &mut text,
        &defaults.run,
        proposals.hidden.as_ref(),
        is_active,
    );
    push_slower(&mut text, &defaults.slower);
    push_flaky(&mut text, &defaults.flaky);
    push_reuse_and_api(&mut text, &defaults);
    text.push_str(APPROVAL);
    push_claims(&mut text, &defaults.claims);
    push_milestone(&mut text, &defaults.milestone);
    push_speed(&mut text, &defaults.speed);
    push_workloads(&mut text, proposals, is_active);
    push_classes(&mut text, survey);
    push_known_failures(&mut text, failures, owner);
    text.push_str(ACCEPTED);
    text.push_str(MONITORED);
    text
}

const APPROVAL: &str = "\n[approval]\n\
    # From which risk on a change needs `cargo palisade approve` by somebody who is no author\n\
    # of it: \"critical\", \"high\", … Nothing does by default.\n\
    # from = \"critical\"\n\
    # Whether an author's own approval counts.\n\
    by_author = false\n";

const ACCEPTED: &str = "\n# Differences made on purpose; state is missing, newly_ignored or slower:\n\
    # [[accepted]]\n# test = \"package/lib/tests::name\"\n# state = \"missing\"\n# owner = \"name\"\n# reason = \"text\"\n";

const MONITORED: &str = "\n# What broke once, and is looked at in every change: a test, a benchmark by a part of its\n\
    # name (bench = …), a command that ends with 0 where all is well (command = …), or a\n\
    # [[ratio]] by its name (ratio = …). `cargo palisade recover` writes these:\n\
    # [[monitor]]\n# name = \"incident\"\n# test = \"package/lib/tests::name\"\n# reason = \"text\"\n";

fn push_success_rate(text: &mut String, defaults: &Policy) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "# What this workspace holds, for `cargo palisade`. Every key is optional; the values\n\
         # shown are the defaults. An unknown key is an error.\n\
         \n\
         # The least share of tests, in percent, that pass or are known to fail. A test that\n\
         # newly fails, is gone or is newly ignored is a regression whatever the share is.\n\
         min_success_rate = {:.1}\n",
        defaults.min_success_rate,
    );
}

fn push_run(text: &mut String, run: &RunPolicy, hidden: Option<&HiddenTests>, is_active: bool) {
    let found = hidden.and_then(|hidden| Some((hidden, hidden.cargo_args.as_ref()?)));
    let line = |args: &[String]| format!("cargo_args = {}", toml::Value::from(args.to_vec()));
    let mut cargo_args = line(&[]);
    if let Some((hidden, args)) = found {
        let why = format!(
            "# {} of {} tests are only seen with these:\n",
            hidden.hidden, hidden.all
        );
        cargo_args = if is_active {
            format!("{why}{}", line(args))
        } else {
            format!("{why}# {}\n{cargo_args}", line(args))
        };
    }
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n[run]\n\
         # \"auto\": cargo-nextest when it is installed, else `cargo test`; or \"nextest\", \"cargo\".\n\
         runner = \"auto\"\n\
         # Arguments for every build, such as [\"--all-features\"].\n\
         {cargo_args}\n\
         # Packages whose tests and benchmarks are left out, such as [\"fuzz\"].\n\
         exclude = []\n\
         # Whether documentation tests are run.\n\
         doctests = {}\n\
         # How long one test may take, and a whole run with its builds.\n\
         test_time_out = \"{}\"\n\
         run_time_out = \"{}\"\n\
         # How large checkouts and their builds may be, those of other workspaces too.\n\
         cache_limit = \"{}\"\n",
        run.doctests, run.test_time_out, run.run_time_out, run.cache_limit,
    );
}

fn push_slower(text: &mut String, slower: &SlowerPolicy) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n[slower]\n\
         # A test is much slower if its median is this many times the base's, and longer by\n\
         # the floor, and a rank test over reruns of both revisions agrees.\n\
         factor = {:.1}\n\
         floor = \"{}\"\n",
        slower.factor, slower.noise_threshold,
    );
}

fn push_flaky(text: &mut String, flaky: &FlakyPolicy) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n[flaky]\n\
         # A new failure is rerun on both revisions this often, and up to the maximum while it is\n\
         # not clear whether the change broke it.\n\
         reruns = {}\n\
         max_reruns = {}\n\
         # New and changed tests are run this often, within this time.\n\
         stress_runs = {}\n\
         stress_time = \"{}\"\n\
         # How long a quarantine lasts.\n\
         quarantine = \"{}\"\n",
        flaky.reruns, flaky.max_reruns, flaky.stress_runs, flaky.stress_time, flaky.quarantine,
    );
}

fn push_reuse_and_api(text: &mut String, defaults: &Policy) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n[reuse]\n\
         # A stored run that is older than this many others is measured again, and compared\n\
         # with what it said; 0 for never.\n\
         remeasure = {}\n\
         \n\
         [api]\n\
         # What a break of the public API does, where cargo-semver-checks is installed: \"note\"\n\
         # or \"regression\"; and whether the last release is compared with too.\n\
         breaks = \"note\"\n\
         release = {}\n",
        defaults.reuse.remeasure, defaults.api.release,
    );
}

fn push_claims(text: &mut String, claims: &ClaimsPolicy) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n\
         [claims]\n\
         # The documents whose numbers are held to what proves them, by claims.toml and markers,\n\
         # and those that tell of the past.\n\
         documents = [\"**/*.md\"]\n\
         except = [\"**/CHANGELOG.md\", \"**/CHANGES.md\"]\n\
         # Whether `check` measures the cheap claims, and how long a command may take.\n\
         check = {}\n\
         time_out = \"{}\"\n",
        claims.check, claims.time_out
    );
}

fn push_milestone(text: &mut String, milestone: &MilestonePolicy) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n[milestone]\n\
         # The folder for milestones that git keeps: cargo palisade milestone set NAME --file.\n\
         folder = \"{}\"\n",
        milestone.folder
    );
}

fn push_speed(text: &mut String, speed: &SpeedPolicy) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n\
         [speed]\n\
         # Whether `check` measures speed and memory of what a change can reach; `check --speed`\n\
         # does in any case.\n\
         check = {}\n\
         # Benchmarks that are measured, as parts of their names; all if empty.\n\
         only = []\n\
         # How long one launch of a Criterion benchmark warms up and measures.\n\
         warm_up = \"{}\"\n\
         launch = \"{}\"\n\
         # How long measuring may take together, in `check` with tests and builds; and one launch.\n\
         budget = \"{}\"\n\
         time_out = \"{}\"\n\
         # How long to wait for other work on the machine to end.\n\
         wait = \"{}\"\n\
         # Whether a program with one thread is bound to one processor.\n\
         pin = {}\n\
         # What counts instructions before the clock is read: auto, perf, callgrind or off.\n\
         counters = \"{}\"\n\
         # The smallest change of a time that counts, and the size from which on a regression\n\
         # blocks without confirmation, in percent.\n\
         floor = {:.1}\n\
         block = {:.1}\n",
        speed.check,
        speed.warm_up,
        speed.launch,
        speed.budget,
        speed.time_out,
        speed.wait,
        speed.pin,
        speed.counters.as_str(),
        speed.noise_threshold,
        speed.block,
    );
    text.push_str(
        "\n# Programs whose time and memory are measured, numbers that commands print, packages whose\n\
         # time to build is measured, and ratios of two benchmarks, with the processors that they were\n\
         # measured on (`cargo palisade bench --record` adds this one):\n\
         # [[workload]]\n# name = \"load\"\n# command = \"app load 500000\"\n# max_rss = \"1.2 GiB\"\n\
         # [[bench]]\n# command = \"app measure\"\n# prints = \"number\"\n\
         # [[build]]\n# package = \"app\"\n# max_build_time = \"90s\"\n\
         # [[ratio]]\n# name = \"SIMD\"\n# of = \"a/bench:b/generic\"\n# to = \"a/bench:b/simd\"\n# at_least = 2.0\n# within = 5.0\n# on = []\n",
    );
}

/// Entries that were tried, in force or as comments.
fn push_workloads(text: &mut String, proposals: &Proposals, is_active: bool) {
    let mark = if is_active { "" } else { "# " };
    if !proposals.benches.is_empty() {
        let benches = proposals.benches.join(", ");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "\n# Benchmarks that are measured without an entry: {benches}."
        );
    }
    if !proposals.workloads.is_empty() {
        text.push_str("\n# Commands that are shown here; each ran once and ended well:\n");
    }
    for workload in &proposals.workloads {
        let value = |text: &str| toml::Value::from(text);
        let mut lines = vec![
            format!("[[workload]] # {}; {}", workload.place, workload.measured),
            format!("command = {}", value(&workload.command)),
        ];
        let bounds = [
            ("max_rss", &workload.max_rss),
            ("max_time", &workload.max_time),
        ];
        for (key, bound) in bounds {
            lines.extend(
                bound
                    .iter()
                    .map(|bound| format!("{key} = {}", value(bound))),
            );
        }
        for line in lines {
            let _ = writeln!(text, "{mark}{line}");
        }
    }
}

/// The text of `claims.toml` with what is proposed, in force or as comments; `None` if nothing is.
pub fn claims_text(proposals: &Proposals, is_active: bool) -> Option<String> {
    let mark = if is_active { "" } else { "# " };
    let mut text = "# Numbers of documents and what proves them: cargo palisade claims list.\n\
                    # Each of these was measured and holds.\n"
        .to_owned();
    for claim in &proposals.claims {
        text.push('\n');
        for line in claim.entry().lines() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{mark}{line}");
        }
    }
    (!proposals.claims.is_empty()).then_some(text)
}

fn push_classes(text: &mut String, survey: &SourceSurvey) {
    /// How many files a comment names.
    const NAMED: usize = 4;
    text.push_str(
        "\n# Classes of files with a risk of their own: low, medium, high or critical. A rule raises\n\
         # the risk of a file. Unsafe code, SIMD, foreign code, build scripts,\n\
         # manifests, the lockfile, the toolchain and public items are recognised without a rule.\n\
         # A class of files that no code is built from and no test reads has code = false: a change\n\
         # of them is as risky as the class says, and affects no test.\n\
         # Seen in this workspace:\n",
    );
    for (what, files) in [
        ("SIMD", &survey.simd),
        ("unsafe code", &survey.unsafe_files),
        ("foreign code", &survey.ffi),
        ("build scripts", &survey.build_scripts),
    ] {
        if !files.is_empty() {
            let named = files[..files.len().min(NAMED)].join(", ");
            let more = files.len().saturating_sub(NAMED);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            let _ = writeln!(text, "#   {what}: {named}{more}");
        }
    }
    let public: usize = survey.public.values().sum();
    let packages = survey.public.values().filter(|count| **count > 0).count();
    let _ = writeln!(text, "#   {public} public items in {packages} packages");
    if !survey.parsers.is_empty() {
        text.push_str("\n[[class]]\nname = \"parser\"\nrisk = \"high\"\npaths = [\n");
        for file in &survey.parsers {
            let _ = writeln!(text, "    {file:?},");
        }
        text.push_str("]\n");
    }
}

fn push_known_failures(text: &mut String, failures: &[ConfirmedFailure], owner: &str) {
    text.push_str(
        "\n# Failures that are known, by name, with who answers for them:\n\
         # [[known_failure]]\n# test = \"package/lib/tests::name\"\n# owner = \"name\"\n# reason = \"text\"\n",
    );
    for failure in failures {
        let test = failure.test.to_string();
        let reason = failure.reason();
        // Writing to a string cannot fail.
        let _ = match failure.kind {
            FailureKind::Flaky => {
                writeln!(
                    text,
                    "# Not {test}: {reason}, so it is flaky and in the ledger."
                )
            }
            FailureKind::Broken | FailureKind::OnlyUnderNextest => write!(
                text,
                "\n[[known_failure]]\ntest = {}\nowner = {}\nreason = {}\n",
                toml::Value::from(test),
                toml::Value::from(owner),
                toml::Value::from(reason),
            ),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::claims::Claims;
    use crate::flow::proposals::{ProposedClaim, ProposedProof, ProposedWorkload};
    use crate::policy::Bytes;
    use crate::test_id::{TargetKind, TestId};

    fn proposals() -> Proposals {
        Proposals {
            benches: vec!["a/bench:b".to_owned()],
            workloads: vec![ProposedWorkload {
                command: "app load 'a \"b'".to_owned(),
                place: "README.md:3".to_owned(),
                max_rss: Some("38.00 MiB".to_owned()),
                max_time: Some("2s".to_owned()),
                measured: "0.10 s".to_owned(),
            }],
            claims: vec![ProposedClaim {
                name: "what app prints".to_owned(),
                document: "README.md".to_owned(),
                text: "`app` prints `sum {}`".to_owned(),
                proof: ProposedProof::Command("cargo run --quiet --bin app".to_owned()),
            }],
            hidden: Some(HiddenTests {
                hidden: 21,
                all: 144,
                cargo_args: Some(vec!["--all-features".to_owned()]),
            }),
            ..Proposals::default()
        }
    }

    #[test]
    fn claims_are_proposed_in_a_file_of_claims() {
        let document = || ("README.md".to_owned(), "`app` prints `sum 7`".to_owned());
        let read = |is_active| {
            let text = claims_text(&proposals(), is_active).expect("a text");
            Claims::of(vec![document()], &text)
                .expect("valid")
                .list
                .len()
        };
        assert_eq!((read(false), read(true)), (0, 1));
        assert_eq!(claims_text(&Proposals::default(), true), None);
    }

    #[test]
    fn the_text_is_a_policy_that_says_the_defaults() {
        let survey = SourceSurvey {
            simd: vec!["a/src/avx2.rs".to_owned()],
            parsers: vec!["a/src/parser.rs".to_owned()],
            ..SourceSurvey::default()
        };
        let failure = |name: &str, kind| ConfirmedFailure {
            test: TestId::new("a", TargetKind::Doc, "", name),
            kind,
            failures: 6,
            runs: 6,
            message: Some("it said \"no\"".to_owned()),
        };
        let failures = [
            failure("src/lib.rs - \"f\"", FailureKind::Broken),
            failure("src/lib.rs - g", FailureKind::Flaky),
        ];
        let facts = PolicyFacts {
            survey: &survey,
            failures: &failures,
            owner: "Ada \"the\" Lovelace",
            proposals: &proposals(),
            is_active: false,
        };
        let text = policy_text(facts);
        let parse = |text: &str| Policy::parse(text, Path::new("palisade.toml")).expect("valid");
        let policy = parse(&text);
        let defaults = Policy::default();
        assert_eq!(policy.run, defaults.run);
        assert_eq!(policy.slower, defaults.slower);
        assert_eq!(policy.flaky, defaults.flaky);
        assert_eq!(policy.reuse, defaults.reuse);
        assert_eq!(policy.api, defaults.api);
        assert_eq!(policy.speed, defaults.speed);
        assert_eq!(policy.min_success_rate, defaults.min_success_rate);
        assert!(policy.workload.is_empty());
        let active = parse(&policy_text(PolicyFacts {
            is_active: true,
            ..facts
        }));
        assert_eq!(active.run.cargo_args, ["--all-features"]);
        assert_eq!(active.workload[0].command, "app load 'a \"b'");
        assert_eq!(active.workload[0].max_rss, Some(Bytes(38 << 20)));
        assert!(policy.class[0].paths[0].matches("a/src/parser.rs"));
        assert_eq!(policy.known_failure.len(), 1);
        assert_eq!(policy.known_failure[0].test, failures[0].test);
        assert_eq!(
            policy.known_failure[0].reason,
            "it failed in 6 of 6 runs: it said \"no\""
        );
        assert_eq!(policy.known_failure[0].owner, "Ada \"the\" Lovelace");
    }
}
