//! The command line, as it was typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use palisade::benchmark_comparison::{Injection, Selection};
use palisade::bisect::FailureModel;
use palisade::check::{BaseChoice, CandidateChoice};
use palisade::policy::{RunnerChoice, Span};
use palisade::recover::Stage;
use palisade::scope::ShardNumber;
use palisade::speed::Measure;
use palisade::test_id::TestId;

/// Says whether a change made a Cargo workspace worse, and how sure that is.
///
/// Exit codes: 0 pass, 1 regression, 2 usage error, 3 could not measure,
/// 4 inconclusive. No data is never a pass.
#[derive(Debug, Parser)]
#[command(
    name = "palisade",
    bin_name = "cargo palisade",
    version,
    max_term_width = 100
)]
#[command(after_help = "Example: cargo palisade init && cargo palisade check")]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

/// What every command understands.
#[derive(Debug, ClapArgs)]
pub struct Global {
    /// The folder to work in
    #[arg(
        short = 'C',
        long,
        value_name = "DIR",
        default_value = ".",
        global = true
    )]
    pub directory: PathBuf,
    /// The store: a file or postgres://… [default: .palisade/store.sqlite]
    // A URL may hold a password, which help must not print.
    #[arg(
        long,
        value_name = "FILE|URL",
        env = "PALISADE_STORE",
        hide_env_values = true,
        global = true
    )]
    pub store: Option<OsString>,
    /// What runs the tests [default: run.runner of palisade.toml]
    #[arg(long, value_enum, value_name = "NAME", global = true)]
    pub runner: Option<Runner>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no progress and no notes
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print each step, also where there is no terminal
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// When to use colours
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        global = true,
        hide_possible_values = true
    )]
    pub color: Color,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Runner {
    Auto,
    Nextest,
    Cargo,
}

impl Runner {
    /// The same, as the policy says it.
    pub fn choice(self) -> RunnerChoice {
        match self {
            Self::Auto => RunnerChoice::Auto,
            Self::Nextest => RunnerChoice::Nextest,
            Self::Cargo => RunnerChoice::Cargo,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented palisade.toml and record the first baseline
    #[command(after_help = "Example: cargo palisade init")]
    Init,
    /// Run tests and remember what they did
    Test(TestArgs),
    /// Judge a change: risk, affected tests, comparison with the base, verdict
    #[command(after_help = "Example: cargo palisade check --base main --html report.html")]
    Check(CheckArgs),
    /// Put the reports of shards together to one verdict
    #[command(after_help = "Example: cargo palisade merge shard-1.json shard-2.json shard-3.json")]
    Merge {
        /// What `check --shard I/N --json` printed, one file for each shard
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        reports: ReportArgs,
    },
    /// Say what a change risks and which tests it can affect; run nothing
    #[command(after_help = "Example: cargo palisade risk --base main")]
    Risk(ChangeArgs),
    /// Compare the speed and memory of two revisions, launch by launch
    Compare(CompareArgs),
    /// Measure speed and memory of a tree, and hold them against budgets and ratios
    Bench(BenchArgs),
    /// Learn how often `compare` errs on this machine, and what it finds
    Calibrate(CalibrateArgs),
    /// Record, show or compare the expected state of a branch
    #[command(after_help = "Example: cargo palisade baseline record")]
    Baseline {
        #[command(subcommand)]
        command: BaselineCommand,
    },
    /// List, show, quarantine, release or stress flaky tests
    #[command(after_help = "Example: cargo palisade flaky list")]
    Flaky {
        #[command(subcommand)]
        command: FlakyCommand,
    },
    /// Show how speed and memory went over the commits, and where they changed
    #[command(after_help = "Example: cargo palisade history --html history.html")]
    History(HistoryArgs),
    /// Name a commit that later ones are held against, so that slow drips are caught
    #[command(
        after_help = "Example: cargo palisade milestone set 1.0 && cargo palisade milestone check"
    )]
    Milestone {
        #[command(subcommand)]
        command: MilestoneCommand,
    },
    /// Say that you validated a change by hand, and how
    #[command(
        after_help = "Example: cargo palisade approve --note 'ran it on the board, 200 prompts'"
    )]
    Approve {
        /// The commit [default: the files as they are]
        revision: Option<String>,
        /// What was validated, and how
        #[arg(long, value_name = "TEXT")]
        note: String,
        /// Who you are [default: git's user.name and user.email]
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
    /// Show what the guard did: plans that missed, approvals, commits without hooks
    #[command(after_help = "Example: cargo palisade report")]
    Report,
    /// Run the guard in git hooks, beside the hooks that are there
    #[command(after_help = "Example: cargo palisade hooks install")]
    Hooks {
        #[command(subcommand)]
        command: HooksCommand,
    },
    /// Remember results that other programs wrote, or compare two of them
    Import(ImportArgs),
    /// Print a workflow for a CI that runs the guard in parts and merges them
    #[command(after_help = "Example: cargo palisade ci github > .github/workflows/palisade.yml")]
    Ci {
        /// Which CI
        system: CiSystem,
        /// In how many parts the tests are run
        #[arg(long, value_name = "N", default_value_t = 3)]
        shards: u32,
        /// Keep the store on the PostgreSQL server that the secret PALISADE_STORE names
        #[arg(long)]
        postgres: bool,
    },
    /// Hold numbers in documents to what proves them
    #[command(after_help = "Example: cargo palisade claims check")]
    Claims {
        #[command(subcommand)]
        command: ClaimsCommand,
    },
    /// Find the commit that broke a test, a benchmark or a command
    Bisect(BisectArgs),
    /// Prepare the way back: confirm, find the culprit, revert on a branch, validate, watch
    Recover(RecoverArgs),
    /// Copy the store out or in, as JSON lines
    #[command(after_help = "Example: cargo palisade store export > runs.jsonl")]
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example: cargo palisade test -- cargo test --workspace")]
pub struct TestArgs {
    /// Only the tests of this package; may be given several times
    #[arg(short, long, value_name = "NAME")]
    pub package: Vec<String>,
    /// Only this test, as package/kind:target/path; may be given several times
    #[arg(long, value_name = "TEST", conflicts_with = "package")]
    pub test: Vec<TestId>,
    /// Your own `cargo test` of the whole workspace: run as it is, watched, remembered
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["package", "test"])]
    pub command: Vec<String>,
}

/// Which change is looked at.
#[derive(Debug, ClapArgs)]
pub struct ChangeArgs {
    /// The revision to compare with [default: where the branch left the default branch]
    #[arg(long, value_name = "REV")]
    pub base: Option<String>,
    /// Compare with the newest earlier commit whose tests are known; build no base
    #[arg(long, conflicts_with = "base")]
    pub stored_base: bool,
    /// Look at what is staged instead of the files as they are
    #[arg(long)]
    pub staged: bool,
}

impl ChangeArgs {
    /// What the change is compared with.
    pub fn base(&self) -> BaseChoice {
        match &self.base {
            Some(revision) => BaseChoice::Revision(revision.clone()),
            None if self.stored_base => BaseChoice::Stored,
            None => BaseChoice::Branching,
        }
    }

    /// What is judged.
    pub fn candidate(&self) -> CandidateChoice {
        if self.staged {
            CandidateChoice::Staged
        } else {
            CandidateChoice::Files
        }
    }
}

/// How thoroughly a change is judged.
#[derive(Debug, ClapArgs)]
pub struct JudgeArgs {
    /// Use no stored run
    #[arg(long)]
    pub fresh: bool,
    /// Begin no more reruns after this time, such as 60s
    #[arg(long, value_name = "TIME")]
    pub budget: Option<Span>,
    #[command(flatten)]
    pub reports: ReportArgs,
}

/// Where the reports go.
#[derive(Debug, ClapArgs)]
pub struct ReportArgs {
    /// Write a JUnit report
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write a Markdown report, for a pull request
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write a self-contained HTML page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a SARIF report, for annotations in the code
    #[arg(long, value_name = "FILE")]
    pub sarif: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct CheckArgs {
    #[command(flatten)]
    pub change: ChangeArgs,
    /// Judge all tests, and say which failures the plan of the change would have missed
    #[arg(long, visible_alias = "full")]
    pub all: bool,
    /// Measure speed and memory of the crates that the change can reach, too
    #[arg(long, conflicts_with = "shard")]
    pub speed: bool,
    /// Run one of N parts of the tests, such as 2/3; `merge` gives the verdict
    #[arg(long, value_name = "I/N")]
    pub shard: Option<ShardNumber>,
    #[command(flatten)]
    pub judge: JudgeArgs,
}

/// Which benchmarks are measured.
#[derive(Debug, ClapArgs)]
pub struct SelectionArgs {
    /// Only benchmarks with this in their names; may be given several times
    #[arg(long, value_name = "PART")]
    pub only: Vec<String>,
    /// Only benchmarks of this package; may be given several times
    #[arg(short, long, value_name = "NAME")]
    pub package: Vec<String>,
}

impl SelectionArgs {
    /// The same, as the library says it.
    pub fn selection(&self) -> Selection {
        Selection {
            packages: self.package.clone(),
            only: self.only.clone(),
            ..Selection::default()
        }
    }
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example: cargo palisade compare main --only parser/bench:speed")]
pub struct CompareArgs {
    /// The revision to compare with
    pub base: String,
    /// The revision to judge [default: the files as they are]
    pub candidate: Option<String>,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How long measuring may take [default: speed.budget of palisade.toml]
    #[arg(long, value_name = "TIME")]
    pub budget: Option<Span>,
    /// Slow benchmarks of the candidate down, to see it found, such as parse=5%
    #[arg(long, value_name = "PART=SHARE", value_parser = injection)]
    pub inject: Vec<Injection>,
    #[command(flatten)]
    pub reports: ReportArgs,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example: cargo palisade bench --only parser/bench:speed")]
pub struct BenchArgs {
    /// The revision to measure [default: the files as they are]
    pub revision: Option<String>,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How many launches of each benchmark
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub launches: usize,
    /// How long measuring may take [default: speed.budget of palisade.toml]
    #[arg(long, value_name = "TIME")]
    pub budget: Option<Span>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example: cargo palisade calibrate --only parser/bench:speed")]
pub struct CalibrateArgs {
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How many comparisons of equal programs
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub comparisons: usize,
    /// How many comparisons with each of the slowdowns of 2, 5 and 10 %
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub injected: usize,
    /// How long measuring may take [default: as long as it takes]
    #[arg(long, value_name = "TIME")]
    pub budget: Option<Span>,
}

/// Reads `part=5%`.
fn injection(text: &str) -> Result<Injection, String> {
    let expected = || format!("{text:?} is not like parse=5%");
    let (name, share) = text.rsplit_once('=').ok_or_else(expected)?;
    let percent: f64 = share
        .trim_end_matches('%')
        .parse()
        .map_err(|_| expected())?;
    if !(percent > 0.0 && percent <= 100.0) {
        return Err(format!("{percent} % is not between 0 and 100 %"));
    }
    Ok(Injection {
        name: name.to_owned(),
        slowdown: percent / 100.0,
    })
}

#[derive(Debug, Subcommand)]
pub enum BaselineCommand {
    /// Run all tests and keep the result as the expected state of this branch
    #[command(after_help = "Example: cargo palisade baseline record")]
    Record,
    /// Show the expected state of this branch
    #[command(after_help = "Example: cargo palisade baseline show --branch main")]
    Show(BranchArgs),
    /// Compare all tests of the files as they are with the expected state
    #[command(after_help = "Example: cargo palisade baseline diff")]
    Diff {
        #[command(flatten)]
        branch: BranchArgs,
        #[command(flatten)]
        judge: JudgeArgs,
    },
}

#[derive(Debug, ClapArgs)]
pub struct BranchArgs {
    /// The branch [default: the one that is checked out]
    #[arg(long, value_name = "BRANCH")]
    pub branch: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum FlakyCommand {
    /// List the tests that passed and failed on the same tree
    #[command(after_help = "Example: cargo palisade flaky list")]
    List,
    /// Show what is known of a test
    #[command(after_help = "Example: cargo palisade flaky show tests::connects")]
    Show {
        /// The test, or the end of its name
        test: String,
    },
    /// Let a flaky test's failures not count, for a time
    #[command(
        after_help = "Example: cargo palisade flaky quarantine tests::connects --owner ada --reason 'race in setup'"
    )]
    Quarantine {
        /// The test, or the end of its name
        test: String,
        /// Who answers for it
        #[arg(long, value_name = "NAME")]
        owner: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// A link to the issue
        #[arg(long, value_name = "URL")]
        issue: Option<String>,
        /// How long at most [default: flaky.quarantine of palisade.toml]
        #[arg(long = "for", value_name = "TIME")]
        lasts: Option<Span>,
    },
    /// Let a test's failures count again
    #[command(
        after_help = "Example: cargo palisade flaky release tests::connects --reason 'race removed'"
    )]
    Release {
        /// The test, or the end of its name
        test: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Run tests many times to find out whether they are flaky
    #[command(
        visible_alias = "hunt",
        after_help = "Example: cargo palisade flaky stress a/lib/tests::connects --runs 200"
    )]
    Stress {
        /// The tests; all of the workspace if none is given
        tests: Vec<TestId>,
        /// How often at most
        #[arg(long, value_name = "N", default_value_t = 60)]
        runs: u32,
        /// How long at most
        #[arg(long, value_name = "TIME", default_value = "5m")]
        time: Span,
    },
}

/// What tells a good commit from a bad one.
#[derive(Debug, ClapArgs)]
#[group(id = "question", multiple = false)]
pub struct QuestionArgs {
    /// The test that fails, or the end of its name
    #[arg(long, value_name = "TEST")]
    pub test: Option<String>,
    /// The benchmark that got worse, or a part of its name
    #[arg(long, value_name = "NAME")]
    pub bench: Option<String>,
    /// A command, run in each checkout: 0 is good, 125 skips the commit, others are bad
    #[arg(long, value_name = "COMMAND")]
    pub cmd: Option<String>,
    /// The ratio of palisade.toml that does not hold
    #[arg(long, value_name = "NAME")]
    pub ratio: Option<String>,
}

/// Where a culprit is looked for.
#[derive(Debug, ClapArgs)]
pub struct SearchArgs {
    #[command(flatten)]
    pub question: QuestionArgs,
    /// What of the benchmark, such as peak_memory [default: its time or rate]
    #[arg(long, value_name = "MEASURE", value_parser = measure, requires = "bench")]
    pub measure: Option<Measure>,
    /// Where all is well [default: the newest commit known to be good]
    #[arg(long, value_name = "REV")]
    pub good: Option<String>,
    /// Where it is not [default: HEAD]
    #[arg(long, value_name = "REV")]
    pub bad: Option<String>,
    /// Follow only the first parent of merges
    #[arg(long)]
    pub first_parent: bool,
    /// Take the failure for certain, or for flaky [default: find out]
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<SearchMode>,
    /// End after so many observations [default: 200]
    #[arg(long, value_name = "N")]
    pub max_runs: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SearchMode {
    Certain,
    Flaky,
}

impl SearchMode {
    /// The same, as the library says it.
    pub fn model(self) -> FailureModel {
        match self {
            Self::Certain => FailureModel::Certain,
            Self::Flaky => FailureModel::Rates,
        }
    }
}

/// Reads `peak_memory`.
fn measure(text: &str) -> Result<Measure, String> {
    Measure::from_word(text).ok_or_else(|| format!("{text:?} is no measure, such as time"))
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example: cargo palisade bisect --test tests::connects --good v1.0.0")]
pub struct BisectArgs {
    #[command(flatten)]
    pub search: SearchArgs,
    /// Go on with the search that was interrupted
    #[arg(long, conflicts_with_all = ["question", "good", "bad", "first_parent", "mode"])]
    pub resume: bool,
    /// Write a Markdown report
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example: cargo palisade recover --test tests::connects --good v1.0.0")]
pub struct RecoverArgs {
    /// The incident to go on with [default: a new one if one of --test, --bench, --cmd and
    /// --ratio is given; else the newest that is open, or a new one about the test that fails
    /// in the newest run of HEAD]
    #[arg(conflicts_with_all = ["question", "good", "bad", "first_parent", "mode"])]
    pub incident: Option<String>,
    #[command(flatten)]
    pub search: SearchArgs,
    /// Do this step only
    #[arg(long, value_enum, value_name = "STEP")]
    pub step: Option<Step>,
    /// Write the incident as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    Confirm,
    Bisect,
    Revert,
    Validate,
    Monitor,
}

impl Step {
    /// The same, as the library says it.
    pub fn stage(self) -> Stage {
        match self {
            Self::Confirm => Stage::Confirm,
            Self::Bisect => Stage::Bisect,
            Self::Revert => Stage::Revert,
            Self::Validate => Stage::Validate,
            Self::Monitor => Stage::Monitor,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub struct HistoryArgs {
    /// Only the benchmarks whose names hold this text
    pub benchmark: Option<String>,
    /// How many commits to look back
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub commits: u32,
    /// Print one line per commit and benchmark, separated by commas
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Write a self-contained HTML page with charts
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum MilestoneCommand {
    /// Set a milestone: what is known of tests, speed, memory and claims; the newest of a name counts
    #[command(after_help = "Example: cargo palisade milestone set 1.0 --measure --file")]
    Set(MilestoneSetArgs),
    /// Hold the files against a milestone: tests, claims, and the speed and memory of HEAD
    #[command(after_help = "Example: cargo palisade milestone check 1.0")]
    Check {
        /// The milestone [default: the newest]
        name: Option<String>,
        /// Run now what is not known: the tests of both, a comparison of their speed, claims of benchmarks
        #[arg(long)]
        measure: bool,
    },
    /// List the milestones
    #[command(after_help = "Example: cargo palisade milestone list")]
    List,
}

#[derive(Debug, ClapArgs)]
pub struct MilestoneSetArgs {
    /// What to call it
    pub name: String,
    /// The commit it stands for; claims are measured only while the files are those of it
    #[arg(value_name = "REV", default_value = "HEAD")]
    pub revision: String,
    /// Run its tests and its benchmarks now, where nothing is known of them
    #[arg(long)]
    pub measure: bool,
    /// Measure the costly claims too
    #[arg(long)]
    pub costly: bool,
    /// Write it to milestones/NAME.json too, which git keeps for every clone
    #[arg(long)]
    pub file: bool,
}

#[derive(Debug, Subcommand)]
pub enum HooksCommand {
    /// Install pre-commit and pre-push; hooks that are there are called first
    #[command(after_help = "Example: cargo palisade hooks install")]
    Install,
    /// Take them away and put back what was there
    #[command(after_help = "Example: cargo palisade hooks uninstall")]
    Uninstall,
    /// Do what a hook does
    #[command(after_help = "Example: cargo palisade hooks run pre-commit")]
    Run {
        /// The hook; pre-push reads what git says on standard input
        hook: HookName,
        /// Begin nothing new after this time [default: 5s before a commit, 90s before a push]
        #[arg(long, value_name = "TIME")]
        budget: Option<Span>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HookName {
    PreCommit,
    PrePush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CiSystem {
    Github,
    Gitlab,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example: cargo palisade import new.log --base old.log")]
pub struct ImportArgs {
    /// Logs of cargo test, cargo bench or hyperfine, JUnit reports, folders of Criterion, JSON
    /// of hyperfine or Bencher; - is the standard input
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// What to take from them: all that is in them, or the sums of "test result" lines alone,
    /// which are held to min_success_rate and not remembered
    #[arg(
        long,
        value_name = "FORM",
        default_value = "auto",
        conflicts_with = "base"
    )]
    pub format: ImportFormat,
    /// The commit that they are of
    #[arg(
        long,
        value_name = "REV",
        default_value = "HEAD",
        conflicts_with = "base"
    )]
    pub commit: String,
    /// Compare one file with this one, and remember neither
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
}

/// What is taken from files with results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    /// All that is in them.
    Auto,
    /// The sums of "test result" lines.
    Summary,
}

#[derive(Debug, Subcommand)]
pub enum ClaimsCommand {
    /// Measure what proves the claims, and say which do not hold
    #[command(after_help = "Example: cargo palisade claims check --costly")]
    Check(ClaimsArgs),
    /// Write what is measured into the documents, with date and machine beside its proof
    #[command(after_help = "Example: cargo palisade claims update 'size of the model'")]
    Update(ClaimsArgs),
    /// List the claims, and figures of speed and memory that nothing proves
    #[command(after_help = "Example: cargo palisade claims list")]
    List,
}

#[derive(Debug, ClapArgs)]
pub struct ClaimsArgs {
    /// The claims; all if none is given
    pub claims: Vec<String>,
    /// Measure those too that take long, and those of benchmarks
    #[arg(long)]
    pub costly: bool,
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Write every record to standard output
    #[command(after_help = "Example: cargo palisade store export > runs.jsonl")]
    Export,
    /// Read records that export wrote; known ones change nothing
    #[command(after_help = "Example: cargo palisade store import runs.jsonl")]
    Import {
        /// The file
        file: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_help_fits_a_page_and_has_an_example() {
        fn visit(mut command: clap::Command) {
            let help = command.render_help().to_string();
            let name = command.get_name().to_owned();
            // The list of all commands is longer than the help of one.
            let page = if name == "palisade" { 48 } else { 40 };
            assert!(help.lines().count() <= page, "{name}:\n{help}");
            assert!(help.contains("Example: cargo palisade"), "{name}:\n{help}");
            for sub in command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help")
            {
                visit(sub.clone());
            }
        }
        let mut command = Args::command();
        command.build();
        visit(command);
    }
}
