//! Turns an error into one sentence, a next command, and an exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | pass |
//! | 1 | regression |
//! | 2 | usage error: the question cannot be asked like that here |
//! | 3 | could not measure |
//! | 4 | inconclusive within the budget |

use std::path::PathBuf;

use palisade::claims::ClaimsError;
use palisade::culprit::CulpritError;
use palisade::flaky::QuarantineRefusal;
use palisade::git::GitError;
use palisade::hooks::HookError;
use palisade::import::ImportError;
use palisade::metadata::WorkspaceError;
use palisade::milestone::MilestoneError;
use palisade::policy::PolicyError;
use palisade::recover::IncidentError;
use palisade::run::RunError;
use palisade::session::SessionError;
use palisade::store::StoreError;

use crate::ui::Ui;

/// The question cannot be asked like that here.
pub const USAGE: u8 = 2;

/// The answer could not be measured.
pub const NOT_MEASURED: u8 = 3;

/// What the user typed cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// No test of that name was ever seen.
    #[error("find a test called {0:?}")]
    NoTest(String),
    /// Several tests end with that name.
    #[error("tell which test {name:?} is: {candidates}")]
    ManyTests { name: String, candidates: String },
    /// A file with a report cannot be read.
    #[error("read {}", .path.display())]
    ReadReport {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no report.
    #[error("read {} as the report of a check", .path.display())]
    NoReport {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// No milestone of that name was set.
    #[error("find a milestone{}", .0.as_ref().map(|name| format!(" called {name:?}")).unwrap_or_default())]
    NoMilestone(Option<String>),
    /// A command has no words.
    #[error("read the command {0:?}")]
    NoCommand(String),
    /// One of the change's authors approves it, where somebody else must.
    #[error("approve the change as {0}, who is an author of it")]
    OwnApproval(String),
    /// Nobody is named who approves, and git knows no name either.
    #[error("tell who approves")]
    Nobody,
    /// No package of that name is in the workspace.
    #[error("find a package called {0:?}")]
    NoPackage(String),
}

/// Prints an error and returns the exit code that goes with it. After an interrupt it
/// is its consequence, whatever it says.
pub fn report(ui: &Ui, error: &anyhow::Error, is_interrupted: bool) -> u8 {
    if is_interrupted {
        ui.err("error: interrupted; the run that was under way is not recorded, earlier ones are");
        return NOT_MEASURED;
    }
    let causes = error.chain().map(ToString::to_string).collect::<Vec<_>>();
    ui.err(&format!("error: failed to {}", causes.join(": ")));
    let (code, hint) = classify(error);
    if let Some(output) = output(error) {
        ui.err(&output);
    }
    if let Some(hint) = hint {
        ui.err(&format!("hint: {hint}"));
    }
    code
}

/// What a build or a runner said.
fn output(error: &anyhow::Error) -> Option<String> {
    match run_error(error)? {
        RunError::Build { output }
        | RunError::Locked { output }
        | RunError::Runner { output, .. }
        | RunError::Output { output, .. } => Some(output.clone()),
        _ => None,
    }
}

fn run_error(error: &anyhow::Error) -> Option<&RunError> {
    match error.downcast_ref::<SessionError>()? {
        SessionError::Run(error) => Some(error),
        _ => None,
    }
}

fn classify(error: &anyhow::Error) -> (u8, Option<String>) {
    let hint = |text: &str| Some(text.to_owned());
    if let Some(error) = error.downcast_ref::<UsageError>() {
        let next = match error {
            UsageError::ReadReport { .. } | UsageError::NoReport { .. } => {
                "cargo palisade check --shard I/N --json > FILE, once for each shard"
            }
            UsageError::NoCommand(_) => {
                "--cmd 'sh -c \"COMMAND\"' runs what only a shell understands"
            }
            UsageError::OwnApproval(_) => {
                "somebody else, with the same store: --store, or store export and import"
            }
            UsageError::Nobody => "--by NAME, or git config user.name",
            UsageError::NoMilestone(_) => "cargo palisade milestone set NAME, or milestone list",
            _ => "cargo palisade flaky list, or cargo palisade test",
        };
        return (USAGE, hint(next));
    }
    if error.is::<QuarantineRefusal>() {
        return (
            USAGE,
            hint("cargo palisade flaky stress TEST gathers evidence"),
        );
    }
    let Some(error) = error.downcast_ref::<SessionError>() else {
        return (NOT_MEASURED, None);
    };
    match error {
        SessionError::Git(error) => git(error),
        SessionError::NoBase { shallow } => {
            let fetch = if *shallow {
                "git fetch --unshallow origin BRANCH"
            } else {
                "git fetch origin BRANCH"
            };
            (NOT_MEASURED, Some(format!("{fetch}, or --base REVISION")))
        }
        SessionError::Workspace(WorkspaceError::None(_)) => (USAGE, hint("cargo init")),
        SessionError::Workspace(_) => (USAGE, hint("cargo metadata shows the same")),
        SessionError::Policy(PolicyError::UnknownKey { suggestion, .. }) => {
            let known = suggestion
                .as_ref()
                .map(|key| format!("did you mean `{key}`?"));
            (USAGE, known.or_else(|| hint("cargo palisade init in an empty repository writes a palisade.toml with every key")))
        }
        SessionError::Import(ImportError::Unknown { .. }) => {
            (USAGE, hint("cargo test --no-fail-fast > FILE 2>&1"))
        }
        SessionError::Policy(_) | SessionError::Import(_) => (USAGE, None),
        SessionError::Hooks(HookError::Shared(_)) => (
            USAGE,
            hint("call cargo palisade hooks run pre-commit from your own hook there"),
        ),
        SessionError::Hooks(HookError::Aside { .. }) => (
            USAGE,
            hint("move one of them away, then cargo palisade hooks install"),
        ),
        SessionError::Claims(ClaimsError::File { .. })
        | SessionError::Milestone(MilestoneError::File { .. }) => (NOT_MEASURED, None),
        SessionError::Milestone(_) => (USAGE, hint("cargo palisade milestone set NAME --file")),
        SessionError::Claims(_) => (USAGE, hint("cargo palisade claims list; docs/claims.md")),
        SessionError::Merge(_) => (
            USAGE,
            hint("cargo palisade check --shard I/N --json > FILE, once for each shard"),
        ),
        SessionError::NoBenchmark(_) => (
            USAGE,
            hint("cargo bench, or a [[bench]] or [[workload]] with a command in palisade.toml"),
        ),
        SessionError::ManyBenchmarks(_) => (USAGE, hint("--bench with one of these names")),
        SessionError::Culprit(error) => culprit(error),
        SessionError::NoBaseline(_) => (USAGE, hint("cargo palisade baseline record")),
        SessionError::Dirty => (
            USAGE,
            hint("git commit or git stash, then cargo palisade baseline record"),
        ),
        SessionError::Store(error) => store(error),
        SessionError::Run(RunError::NoNextest) => {
            (USAGE, hint("cargo install --locked cargo-nextest"))
        }
        SessionError::Run(RunError::Watch { .. }) => {
            (USAGE, hint("cargo palisade test -- cargo test --workspace"))
        }
        SessionError::Run(RunError::Build { .. }) => (NOT_MEASURED, hint("cargo test --no-run")),
        SessionError::Run(RunError::Locked { .. }) => (
            NOT_MEASURED,
            hint("end what runs from the target folder, then run the same command again"),
        ),
        _ => (NOT_MEASURED, None),
    }
}

/// Why git gives no answer.
fn git(error: &GitError) -> (u8, Option<String>) {
    let hint = match error {
        GitError::NotARepository(_) => "git init && git add . && git commit",
        GitError::NoCommit(_) => "git add . && git commit",
        GitError::BranchExists { .. } => "git branch --move that branch to another name",
        GitError::UnknownRevision { shallow: true, .. } => "git fetch --unshallow",
        GitError::UnknownRevision { .. } => {
            "git fetch --all, or git branch --all to see what there is"
        }
        _ => return (NOT_MEASURED, None),
    };
    (USAGE, Some(hint.to_owned()))
}

/// Why there is no culprit to look for.
fn culprit(error: &CulpritError) -> (u8, Option<String>) {
    let (code, hint) = match error {
        CulpritError::NoGood { .. } => (
            USAGE,
            "--good REV, or cargo palisade milestone set NAME REV where all is well",
        ),
        CulpritError::NoQuestion | CulpritError::NoState(_) => (
            USAGE,
            "cargo palisade bisect --test TEST, --bench NAME, --cmd COMMAND or --ratio NAME",
        ),
        CulpritError::Busy(_) => (
            USAGE,
            "wait for its end, or end it and go on with cargo palisade bisect --resume",
        ),
        CulpritError::NoRatio(_) => (USAGE, "a [[ratio]] of palisade.toml, by its name"),
        CulpritError::Graph(_) | CulpritError::Unrelated { .. } => {
            (USAGE, "--good with a commit from before the bad end")
        }
        CulpritError::Incident(IncidentError::NoRun(_)) => (
            USAGE,
            "cargo palisade test with the files of that commit; or recover --test TEST",
        ),
        CulpritError::Incident(IncidentError::ManyFailingTests { .. }) => (
            USAGE,
            "cargo palisade recover --test TEST with one of these",
        ),
        CulpritError::Incident(IncidentError::None(_) | IncidentError::NoFailingTest { .. }) => (
            USAGE,
            "cargo palisade recover --test TEST, --bench NAME, --cmd COMMAND or --ratio NAME",
        ),
        CulpritError::Incident(IncidentError::TooEarly { .. }) => {
            (USAGE, "without --step, all that is left is done in order")
        }
        CulpritError::Incident(IncidentError::NoCulprit) => {
            (USAGE, "cargo palisade recover --step bisect --max-runs N")
        }
        CulpritError::Incident(IncidentError::NoBranch) => (
            USAGE,
            "git revert the culprit on a branch, and resolve what conflicts",
        ),
        CulpritError::State { .. } => (USAGE, "begin anew, without --resume"),
        _ => (NOT_MEASURED, "make room if the disk is full"),
    };
    (code, Some(hint.to_owned()))
}

/// What keeps the store from being used.
fn store(error: &StoreError) -> (u8, Option<String>) {
    let hint = |text: &str| Some(text.to_owned());
    match error {
        StoreError::Damaged { path, .. } | StoreError::Foreign { path } => {
            let path = path.display();
            (
                NOT_MEASURED,
                Some(format!("mv {path} {path}.bad, and a new one is made")),
            )
        }
        StoreError::NoPostgres => (
            USAGE,
            hint("cargo install --locked cargo-palisade --features postgres"),
        ),
        StoreError::UnknownScheme { .. } => (
            USAGE,
            hint("--store FILE, or --store postgres://USER@HOST/DATABASE"),
        ),
        StoreError::Unencrypted { .. } => (
            USAGE,
            hint(
                "a tunnel to localhost, or sslmode=disable in the URL where the network is trusted",
            ),
        ),
        StoreError::Connect { .. } => (
            NOT_MEASURED,
            hint("psql with the same URL says more; --store FILE keeps the store in a file"),
        ),
        StoreError::TooNew { .. } => (NOT_MEASURED, hint("cargo install cargo-palisade")),
        StoreError::Create { .. } | StoreError::Database { .. } => (
            NOT_MEASURED,
            hint("make room if the disk is full; --store FILE keeps the store elsewhere"),
        ),
        _ => (NOT_MEASURED, None),
    }
}
