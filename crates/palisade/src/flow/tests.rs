//! Whole commands in a repository with a history, where the outcomes of tests are read from a
//! file instead of being built and run.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use super::check::{CheckOptions, MeasureSpeed, check};
use super::confirmed_run::confirmed_run;
use super::culprit::{BisectOptions, bisect};
use super::quarantine;
use super::recover::{RecoverOptions, recover};
use crate::bisect::SearchResult;
use crate::coverage::{Aspect, LeftOutReason};
use crate::finding::{BuildFailure, Cause, FailureCause, Finding};
use crate::host::git::remove_hook_variables;
use crate::host::measure::launch::Launcher;
use crate::host::process::Cancel;
use crate::host::run::{RunError, Runner, TestRunOutput};
use crate::host::session::{BaseChoice, CandidateChoice, RunTests, Session};
use crate::observation::{Observation, Outcome, Purpose};
use crate::policy::RunnerChoice;
use crate::record::{BisectReport, FailureKind, Question, Stage};
use crate::scope::Scope;
use crate::stats::Counts;
use crate::test_id::{TargetKind, TestId};
use crate::verdict::Verdict;

/// What stands in `outcomes.txt`: a line `NAME: pass` for each test, `NAME: fail`, `NAME: flaky`
/// for one that fails every third time, `NAME: nextest` for one that fails under cargo-nextest,
/// `local` for one that needs the ignored file `local`, and `broken local` for one that fails with
/// it, too; or the line `does not build`.
const OUTCOMES: &str = "src/outcomes.txt";

/// A repository with a package, and a session in it.
struct Fixture {
    _folder: tempfile::TempDir,
    session: Session,
    /// How many tests each run had.
    runs: Rc<RefCell<Vec<usize>>>,
}

impl Fixture {
    /// A repository of which each commit has these outcomes.
    fn new(commits: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("repository");
        fs::create_dir_all(root.join("src")).expect("made");
        fs::write(
            root.join("Cargo.toml"),
            "[package]\nname = \"a\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
        )
        .expect("written");
        fs::write(root.join("Cargo.lock"), "version = 4\n").expect("written");
        fs::write(root.join("src/lib.rs"), "").expect("written");
        fs::write(root.join(".gitignore"), "/target\n/.palisade\n/local\n").expect("written");
        git(&root, &["init", "--quiet", "--initial-branch=main"]);
        git(&root, &["config", "user.name", "Ada"]);
        git(&root, &["config", "user.email", "ada@example.org"]);
        for (number, outcomes) in commits.iter().enumerate() {
            fs::write(root.join(OUTCOMES), outcomes).expect("written");
            // Each commit changes code, whatever its tests do.
            fs::write(
                root.join("src/lib.rs"),
                format!("const NUMBER: u32 = {number};\n"),
            )
            .expect("written");
            git(&root, &["add", "."]);
            let message = format!("commit {number}");
            git(&root, &["commit", "--quiet", "--message", &message]);
        }
        let runs = Rc::default();
        let session = Session::open(&root, None, Some(RunnerChoice::Cargo), Cancel::default())
            .expect("a session");
        let session = session.with_tests(fake_tests(Rc::clone(&runs)));
        Self {
            _folder: folder,
            session,
            runs,
        }
    }

    /// Opens the session anew, after the packages changed.
    fn reopen(&mut self) {
        let root = self.session.workspace.root.clone();
        let session = Session::open(&root, None, Some(RunnerChoice::Cargo), Cancel::default());
        let runs = Rc::clone(&self.runs);
        self.session = session.expect("a session").with_tests(fake_tests(runs));
    }

    /// Writes the outcomes of the user's files.
    fn edit(&self, outcomes: &str) {
        let path = self.session.workspace.root.join(OUTCOMES);
        fs::write(path, outcomes).expect("written");
    }

    /// Judges the user's files against HEAD.
    fn check(&mut self) -> (Verdict, Vec<Finding>) {
        let options = CheckOptions {
            base: BaseChoice::Revision("HEAD".to_owned()),
            candidate: CandidateChoice::Files,
            everything: true,
            ..CheckOptions::default()
        };
        let report = check(&mut self.session, &options, &|_| ()).expect("a report");
        (report.verdict, report.findings)
    }

    /// Judges the user's files against HEAD by other options, and says what was left out.
    fn left_out(&mut self, options: &CheckOptions) -> (Verdict, Vec<(Aspect, LeftOutReason)>) {
        let options = CheckOptions {
            base: match &options.base {
                BaseChoice::Branching => BaseChoice::Revision("HEAD".to_owned()),
                other => other.clone(),
            },
            ..options.clone()
        };
        let report = check(&mut self.session, &options, &|_| ()).expect("a report");
        let left_out = report.coverage.left_out.iter();
        let left_out = left_out.map(|left_out| (left_out.what, left_out.why));
        (report.verdict, left_out.collect())
    }

    /// The id of a commit so many before HEAD.
    fn commit(&self, before: usize) -> String {
        let name = format!("HEAD~{before}");
        self.session.repo.resolve(&name).expect("a commit").id
    }
}

fn git(root: &Path, args: &[&str]) {
    let mut command = Command::new("git");
    let status = remove_hook_variables(&mut command)
        .current_dir(root)
        .args(args)
        .status();
    assert!(status.expect("git runs").success(), "{args:?}");
}

fn id(name: &str) -> TestId {
    TestId::new("a", TargetKind::Lib, "", name)
}

/// Reads outcomes from the file of the revision that is asked for.
fn fake_tests(runs: Rc<RefCell<Vec<usize>>>) -> RunTests {
    Box::new(move |request| {
        let path = request.location.workspace.root.join(OUTCOMES);
        let text = fs::read_to_string(path).expect("outcomes");
        if text.contains("does not build") {
            let output = "error: no".to_owned();
            return Err(RunError::Build { output });
        }
        let has_local = request.location.workspace.root.join("local").exists();
        let number = runs.borrow().len();
        let mut observations = Vec::new();
        for (name, how) in text.lines().filter_map(|line| line.split_once(": ")) {
            let outcome = match how {
                "pass" => Outcome::Pass,
                "flaky" if number % 3 != 1 => Outcome::Pass,
                "local" if has_local => Outcome::Pass,
                "not local" if !has_local => Outcome::Pass,
                "ignored" => Outcome::Ignored,
                "nextest" if *request.runner == Runner::CargoTest => Outcome::Pass,
                _ => Outcome::Fail,
            };
            if request.scope.contains(&id(name)) {
                observations.push(Observation {
                    test: id(name),
                    outcome,
                    duration_ms: Some(1.0),
                    body: None,
                    message: (outcome == Outcome::Fail).then(|| match how {
                        "local" | "broken local" if !has_local => "no such file".to_owned(),
                        _ => "it said no".to_owned(),
                    }),
                });
            }
        }
        runs.borrow_mut().push(observations.len());
        Ok(TestRunOutput {
            observations,
            gaps: Vec::new(),
        })
    })
}

/// What the failure of the first finding is taken for.
fn taken_for(findings: &[Finding]) -> Option<&FailureCause> {
    findings.iter().find_map(|finding| match &finding.cause {
        Cause::Failing(failure) => Some(&failure.taken_for),
        _ => None,
    })
}

#[test]
fn a_test_that_the_change_breaks_is_run_again_on_both_revisions_and_blamed() {
    let mut fixture = Fixture::new(&["x: pass\ny: pass\n"]);
    fixture.edit("x: pass\ny: fail\n");
    let (verdict, findings) = fixture.check();
    assert_eq!(verdict, Verdict::Regression);
    assert_eq!(taken_for(&findings), Some(&FailureCause::Broken));
    assert_eq!(findings[0].output.as_deref(), Some("it said no"));
    // Both tests of both revisions, then the one that fails, five times on each.
    assert_eq!(*fixture.runs.borrow(), [vec![2; 2], vec![1; 10]].concat());
}

#[test]
fn what_is_stored_is_not_run_again() {
    let mut fixture = Fixture::new(&["x: pass\n"]);
    fixture.edit("x: pass\n# edited\n");
    assert_eq!(fixture.check().0, Verdict::Pass);
    let runs = fixture.runs.borrow().len();
    assert_eq!(fixture.check().0, Verdict::Pass);
    assert_eq!(fixture.runs.borrow().len(), runs);
}

#[test]
fn a_run_from_before_the_policy_was_written_is_not_run_again() {
    let mut fixture = Fixture::new(&["x: pass\n"]);
    let mut revision = fixture.session.working_revision().expect("a revision");
    let (scope, events) = (Scope::Workspace, |_| ());
    let ran = fixture
        .session
        .run(&mut revision, &scope, Purpose::Tests, &events);
    assert!(ran.expect("a run").0.complete);
    let root = fixture.session.workspace.root.clone();
    fs::write(root.join("palisade.toml"), "min_success_rate = 98.0\n").expect("written");
    git(&root, &["add", "."]);
    git(&root, &["commit", "--quiet", "--message", "the policy"]);
    fixture.edit("x: pass\n# edited\n");
    assert_eq!(fixture.check().0, Verdict::Pass);
    // The run from before, and that of the edited files.
    assert_eq!(*fixture.runs.borrow(), [1, 1]);
}

#[test]
fn what_is_kept_as_expected_is_not_believed_from_one_run() {
    // The first run is the one of all tests, and the flaky one fails in the second of three.
    let mut fixture = Fixture::new(&["x: fail\ny: flaky\nz: pass\n"]);
    fixture.runs.borrow_mut().push(0);
    let mut revision = fixture.session.working_revision().expect("a revision");
    let confirmed = confirmed_run(&mut fixture.session, &mut revision, &|_| ()).expect("a run");
    let seen = confirmed.failures.iter();
    let seen: Vec<_> = seen
        .map(|failure| (failure.test.clone(), failure.kind, failure.failures))
        .collect();
    assert_eq!(
        seen,
        [
            (id("x"), FailureKind::Broken, 6),
            (id("y"), FailureKind::Flaky, 1)
        ]
    );
    let tally = confirmed.set.tally();
    assert_eq!((tally.failing, tally.flaky, tally.passing), (1, 1, 1));
    let ledger = quarantine::ledger(fixture.session.store.as_ref()).expect("a ledger");
    assert!(ledger.get(&id("y")).expect("known").is_flaky());
}

#[test]
fn a_test_that_only_fails_under_nextest_is_said_to() {
    let fixture = Fixture::new(&["x: nextest\ny: fail\n"]);
    let mut session = fixture.session;
    session.runner = Runner::Nextest("cargo-nextest 0".to_owned());
    let mut revision = session.working_revision().expect("a revision");
    let confirmed = confirmed_run(&mut session, &mut revision, &|_| ()).expect("a run");
    let kinds: Vec<_> = confirmed.failures.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [FailureKind::OnlyUnderNextest, FailureKind::Broken]);
    assert_ne!(session.runner, Runner::CargoTest);
}

#[test]
fn a_test_that_failed_before_is_not_blamed_on_the_change() {
    let mut fixture = Fixture::new(&["x: fail\ny: pass\n"]);
    // The success rate has a finding of its own.
    let policy = &mut fixture.session.policy;
    policy.min_success_rate = 0.0;
    fixture.edit("x: fail\ny: pass\nz: pass\n");
    let (verdict, findings) = fixture.check();
    assert_eq!(verdict, Verdict::Pass);
    assert_eq!(taken_for(&findings), Some(&FailureCause::BrokenBefore));
}

#[test]
fn a_failure_of_the_base_is_not_believed_from_one_run() {
    // The second run of all is the base's first one, and the third passes.
    let mut fixture = Fixture::new(&["x: flaky\n"]);
    fixture.edit("x: pass\n");
    let (verdict, findings) = fixture.check();
    assert_eq!((verdict, findings), (Verdict::Pass, Vec::new()));
    let mut fixture = Fixture::new(&["x: flaky\n"]);
    fixture.edit("x: fail\n");
    let (verdict, findings) = fixture.check();
    assert_eq!(verdict, Verdict::Regression);
    assert_eq!(taken_for(&findings), Some(&FailureCause::Broken));
}

#[test]
fn a_test_that_is_gone_is_a_regression_and_one_that_does_not_build_too() {
    let mut fixture = Fixture::new(&["x: pass\ny: pass\n"]);
    fixture.edit("x: pass\n");
    let (verdict, findings) = fixture.check();
    assert_eq!(verdict, Verdict::Regression);
    let missing = Cause::Missing { was_failing: false };
    assert_eq!(findings[0].cause, missing);
    fixture.edit("does not build\n");
    let (verdict, findings) = fixture.check();
    assert_eq!(verdict, Verdict::Regression);
    let failed = Cause::BuildFailed(BuildFailure::Candidate);
    assert_eq!(findings[0].cause, failed);
    assert_eq!(findings[0].output.as_deref(), Some("error: no"));
}

#[test]
fn what_differs_because_of_an_ignored_file_is_not_the_change() {
    let kept = |findings: &[Finding]| -> Vec<(bool, Counts, Counts)> {
        let by_place = findings.iter().filter_map(|finding| match finding.cause {
            Cause::NotComparable(seen) => Some((seen.is_open(), seen.in_files, seen.in_checkout)),
            _ => None,
        });
        by_place.collect()
    };
    let counts = |failures, passes| Counts { failures, passes };
    let mut fixture = Fixture::new(&["x: local\ny: pass\n"]);
    fixture.session.policy.min_success_rate = 0.0;
    let root = fixture.session.workspace.root.clone();
    fs::write(root.join("local"), "data\n").expect("written");
    // It fails in every checkout, so the change did not repair it; the second time the store
    // knows as much.
    fixture.edit("x: local\ny: pass\n# edited\n");
    for _ in 0..2 {
        let (verdict, findings) = fixture.check();
        assert_eq!(verdict, Verdict::Pass);
        let expected = (false, counts(0, 1), counts(5, 0));
        assert_eq!(kept(&findings), [expected], "{findings:?}");
    }
    let runs = fixture.runs.borrow().len();
    fixture.check();
    assert_eq!(fixture.runs.borrow().len(), runs);
    // Where it fails in the files in another way, the change may have done it.
    fixture.edit("x: broken local\ny: pass\n");
    for _ in 0..2 {
        let (verdict, findings) = fixture.check();
        assert_eq!(verdict, Verdict::Incomparable);
        let expected = (true, counts(1, 0), counts(1, 0));
        assert_eq!(kept(&findings), [expected], "{findings:?}");
    }
    // One that fails alike everywhere was broken before.
    let mut fixture = Fixture::new(&["x: fail\n"]);
    fixture.session.policy.min_success_rate = 0.0;
    fixture.edit("x: fail\n# edited\n");
    let (_, findings) = fixture.check();
    assert_eq!(taken_for(&findings), Some(&FailureCause::BrokenBefore));
    // What a local file breaks passes where both revisions are in checkouts.
    let mut fixture = Fixture::new(&["x: not local\n"]);
    fixture.session.policy.min_success_rate = 0.0;
    let root = fixture.session.workspace.root.clone();
    fs::write(root.join("local"), "data\n").expect("written");
    fixture.edit("x: not local\n# edited\n");
    let (verdict, findings) = fixture.check();
    assert_eq!(verdict, Verdict::Pass);
    assert_eq!(kept(&findings), [(false, counts(6, 0), counts(0, 5))]);
    // And without one, it is the change.
    fs::remove_file(root.join("local")).expect("removed");
    fixture.edit("x: fail\n");
    let (verdict, findings) = fixture.check();
    assert_eq!(verdict, Verdict::Regression);
    assert_eq!(taken_for(&findings), Some(&FailureCause::Broken));
}

#[test]
fn a_package_outside_of_the_repository_is_watched() {
    let mut fixture = Fixture::new(&["x: pass\ny: pass\n"]);
    let root = fixture.session.workspace.root.clone();
    let outside = root.parent().expect("a folder").join("outside");
    fs::create_dir_all(outside.join("src")).expect("made");
    let manifest = "[package]\nname = \"outside\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    fs::write(outside.join("Cargo.toml"), manifest).expect("written");
    fs::write(outside.join("src/lib.rs"), "").expect("written");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("read");
    let dependency = "\n[dependencies]\noutside = { path = \"../outside\" }\n";
    fs::write(root.join("Cargo.toml"), manifest + dependency).expect("written");
    git(
        &root,
        &["commit", "--quiet", "--all", "--message", "outside"],
    );
    fs::write(root.join("LICENSE"), "Anyone may.\n").expect("written");
    let ran = |fixture: &mut Fixture| {
        fixture.reopen();
        let before = fixture.runs.borrow().len();
        let options = CheckOptions::default();
        let (verdict, _) = fixture.left_out(&options);
        assert_eq!(verdict, Verdict::Pass);
        fixture.runs.borrow()[before..].to_vec()
    };
    // Nothing is known of the base, and git says nothing of what is outside.
    assert_eq!(ran(&mut fixture), [2, 2]);
    assert!(ran(&mut fixture).is_empty());
    fs::write(outside.join("src/lib.rs"), "pub fn f() {}").expect("written");
    assert_eq!(ran(&mut fixture), [2, 2]);
    // What was built there is no change.
    fs::create_dir(outside.join("target")).expect("made");
    fs::write(outside.join("target/CACHEDIR.TAG"), "").expect("written");
    assert!(ran(&mut fixture).is_empty());
}

#[test]
fn what_is_not_looked_at_is_told_with_the_reason() {
    use Aspect::{Claims, Speed};
    let mut fixture = Fixture::new(&["x: pass\n"]);
    let root = fixture.session.workspace.root.clone();
    let by_policy = CheckOptions {
        speed: MeasureSpeed::ByPolicy(Launcher::new("none".into())),
        ..CheckOptions::default()
    };
    // Nothing is checked out to find that there is nothing to measure.
    fs::write(root.join("src/lib.rs"), "pub fn one() {}\n").expect("written");
    let no_benchmark = vec![(Speed, LeftOutReason::NoBenchmark)];
    let pass = |left_out| (Verdict::Pass, left_out);
    assert_eq!(fixture.left_out(&by_policy), pass(no_benchmark));
    fs::create_dir(root.join("benches")).expect("made");
    fs::write(root.join("benches/naps.rs"), "fn main() {}\n").expect("written");
    git(&root, &["add", "."]);
    git(&root, &["commit", "--quiet", "--message", "a benchmark"]);
    fixture.reopen();
    // What cannot have changed the speed is not measured, and no code changed in a document.
    fs::write(root.join("benches/naps.rs"), "fn main() { () }\n").expect("written");
    let nothing_shipped = vec![(Speed, LeftOutReason::NothingShipped)];
    assert_eq!(fixture.left_out(&by_policy), pass(nothing_shipped));
    git(&root, &["checkout", "--quiet", "."]);
    fs::write(root.join("LICENSE"), "Anyone may.\n").expect("written");
    assert_eq!(fixture.left_out(&by_policy), pass(Vec::new()));
    fs::write(root.join("src/lib.rs"), "pub fn two() {}\n").expect("written");
    let tests_only = CheckOptions {
        tests_only: true,
        ..CheckOptions::default()
    };
    let reason = LeftOutReason::TestsOnly;
    let both = vec![(Claims, reason), (Speed, reason)];
    assert_eq!(fixture.left_out(&tests_only), pass(both));
    let stored = CheckOptions {
        base: BaseChoice::Stored,
        ..by_policy.clone()
    };
    fs::remove_file(root.join("LICENSE")).expect("removed");
    git(&root, &["stash", "--quiet"]);
    assert!(fixture.left_out(&CheckOptions::default()).1.is_empty());
    git(&root, &["stash", "pop", "--quiet"]);
    let stored_base = vec![(Speed, LeftOutReason::StoredBase)];
    assert_eq!(fixture.left_out(&stored), pass(stored_base));
    let no_time = CheckOptions {
        budget: Some(Duration::ZERO),
        ..by_policy.clone()
    };
    let budget = vec![(Speed, LeftOutReason::Budget)];
    assert_eq!(fixture.left_out(&no_time), pass(budget));
    fixture.edit("x: fail\n");
    let regression = (
        Verdict::Regression,
        vec![(Speed, LeftOutReason::Regression)],
    );
    assert_eq!(fixture.left_out(&by_policy), regression);
    fixture.session.policy.speed.check = false;
    let by_rule = (Verdict::Regression, vec![(Speed, LeftOutReason::Policy)]);
    assert_eq!(fixture.left_out(&by_policy), by_rule);
}

#[test]
fn a_search_names_the_commit_that_broke_a_test_and_skips_what_does_not_build() {
    let (good, bad) = ("x: pass\n", "x: fail\n");
    let commits = [good, good, "does not build\n", good, bad, bad, bad];
    let mut fixture = Fixture::new(&commits);
    let question = Some(Question::Test(id("x")));
    let options = BisectOptions {
        good: Some(fixture.commit(6)),
        ..BisectOptions::new(&fixture.session, question)
    };
    let launcher = Launcher::new("none".into());
    let report = bisect(&mut fixture.session, &launcher, &options, &|_| ()).expect("a report");
    assert!(
        matches!(report.answer, SearchResult::Culprit { .. }),
        "{report:?}"
    );
    assert_eq!(report.culprits[0].id, fixture.commit(2));
    assert_eq!(report.culprits[0].subject, "commit 4");
}

/// Looks for what broke the test x between the first commit and the last one.
fn search(fixture: &mut Fixture, commits: usize) -> BisectReport {
    let question = Some(Question::Test(id("x")));
    let options = BisectOptions {
        good: Some(fixture.commit(commits - 1)),
        ..BisectOptions::new(&fixture.session, question)
    };
    let launcher = Launcher::new("none".into());
    bisect(&mut fixture.session, &launcher, &options, &|_| ()).expect("a report")
}

#[test]
fn an_end_that_cannot_be_measured_is_moved_or_taken_on_trust() {
    let (good, bad, broken) = ("x: pass\n", "x: fail\n", "does not build\n");
    let commits = [broken, good, bad, bad, broken];
    let mut fixture = Fixture::new(&commits);
    let report = search(&mut fixture, commits.len());
    assert_eq!(report.culprits[0].id, fixture.commit(2), "{report:?}");
    assert!(report.good_on_trust);
    assert_eq!(report.bad.id, fixture.commit(1));
    assert_eq!(report.bad_asked.expect("moved").id, fixture.commit(0));
    assert_eq!(report.hint, None);
    // Where all passes that can be measured, the build is what broke.
    let commits = [good, good, broken];
    let mut fixture = Fixture::new(&commits);
    let report = search(&mut fixture, commits.len());
    let commit = fixture.commit(0);
    assert_eq!(report.answer, SearchResult::Unmeasured { commit });
    let hint = report.hint.expect("a hint");
    assert!(hint.contains("--cmd"), "{hint}");
}

#[test]
fn the_way_back_goes_from_a_failing_test_to_a_branch_with_a_monitor() {
    let (good, bad) = ("x: pass\n", "x: fail\n");
    let mut fixture = Fixture::new(&[good, good, bad]);
    let question = Some(Question::Test(id("x")));
    let options = RecoverOptions {
        incident: None,
        search: BisectOptions {
            good: Some(fixture.commit(2)),
            ..BisectOptions::new(&fixture.session, question)
        },
        only: None,
    };
    let launcher = Launcher::new("none".into());
    let incident =
        recover(&mut fixture.session, &launcher, &options, &|_| ()).expect("an incident");
    let stages: Vec<Stage> = incident.timeline.iter().map(|entry| entry.stage).collect();
    assert_eq!(stages, Stage::ALL);
    assert_eq!(incident.exit_code(), 0, "{incident:?}");
    assert_eq!(incident.culprit().expect("one").id, fixture.commit(0));
    let confirmed = incident.confirmation.as_ref().expect("was confirmed");
    assert_eq!((confirmed.failures, confirmed.passes), (5, 0));
    let validated = incident.validation.as_ref().expect("was validated");
    assert!(!validated.rerun.is_failing);
    let monitor = incident.monitor.as_deref().expect("was written");
    assert!(monitor.contains("test = \"a/lib/x\""), "{monitor}");
    // The user's files and branch are as they were.
    let branch = incident.branch().expect("a branch").to_owned();
    let repo = &fixture.session.repo;
    let head = repo.head().expect("a commit");
    assert_eq!(repo.working_tree().expect("a tree"), head.tree);
    assert_ne!(repo.resolve(&branch).expect("a branch").id, head.id);
}
