//! The guard in git hooks, beside the hooks of others.

use std::fs;
use std::process::Output;

use crate::fixture::Fixture;

/// Runs git as the user does, hooks included.
fn git(fixture: &Fixture, args: &[&str]) -> Output {
    fixture
        .command("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
        .args(args)
        .output()
        .expect("git runs")
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(unix)]
fn executable(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
}

#[cfg(unix)]
#[test]
fn commits_and_pushes_are_judged_and_other_hooks_still_run() {
    let fixture = Fixture::with_baseline();
    let hooks = fixture.root().join(".git/hooks");
    fs::create_dir_all(&hooks).expect("created");
    let ran = fixture.outside("ran");
    let theirs = format!("#!/bin/sh\necho theirs >> {}\n", ran.display());
    executable(&hooks.join("pre-commit"), &theirs);
    let install = fixture.palisade(&["hooks", "install"]);
    assert_eq!(install.code, 0, "{}", install.err);
    assert!(
        install.out.contains("calls the hook first"),
        "{}",
        install.out
    );
    // Installing twice changes nothing.
    assert_eq!(fixture.palisade(&["hooks", "install"]).code, 0);

    // What rustfmt would change is not committed; theirs ran first.
    fixture.edit("gamma/src/lib.rs", "    1\n", "      1\n");
    let refused = git(&fixture, &["commit", "--all", "-m", "bad format"]);
    assert!(!refused.status.success());
    assert!(
        said(&refused).contains("gamma/src/lib.rs: not formatted"),
        "{}",
        said(&refused)
    );
    assert_eq!(fs::read_to_string(&ran).expect("theirs ran"), "theirs\n");
    // An ignored test needs a reason.
    fixture.git(&["checkout", "--quiet", "--", "."]);
    fixture.edit(
        "gamma/src/lib.rs",
        "    #[test]\n",
        "    #[test]\n    #[ignore]\n",
    );
    let refused = git(&fixture, &["commit", "--all", "-m", "ignored"]);
    assert!(
        said(&refused).contains("is_one: ignored without reason"),
        "{}",
        said(&refused)
    );
    // Past the hook, on purpose: the next hook notices, once.
    let bypass = git(
        &fixture,
        &["commit", "--all", "--no-verify", "-m", "past it"],
    );
    assert!(bypass.status.success());
    fixture.edit("gamma/src/lib.rs", "    #[ignore]\n", "");
    let good = git(&fixture, &["commit", "--all", "-m", "good"]);
    assert!(good.status.success(), "{}", said(&good));
    let note = "“past it” was made without the pre-commit hook";
    assert!(said(&good).contains(note), "{}", said(&good));
    let again = fixture.palisade(&["hooks", "run", "pre-commit"]);
    assert_eq!(again.code, 0, "{}", again.out);
    assert!(!again.err.contains(note), "{}", again.err);
    assert_eq!(
        fixture
            .palisade(&["report"])
            .out
            .matches("without pre-commit")
            .count(),
        1
    );

    // A push of a broken test is refused, and of a good one is not; the second time the
    // store answers.
    fixture.git(&["init", "--quiet", "--bare", "../remote"]);
    fixture.git(&["remote", "add", "origin", "../remote"]);
    let first = git(&fixture, &["push", "--quiet", "origin", "main"]);
    assert!(first.status.success(), "{}", said(&first));
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    fixture.git(&["commit", "--quiet", "--no-verify", "--all", "-m", "broken"]);
    let refused = git(&fixture, &["push", "--quiet", "origin", "main"]);
    assert!(!refused.status.success());
    assert!(
        said(&refused).contains("gamma/lib/tests::is_one"),
        "{}",
        said(&refused)
    );

    let gone = fixture.palisade(&["hooks", "uninstall"]);
    assert!(gone.out.contains("that was there before"), "{}", gone.out);
    assert_eq!(
        fs::read_to_string(hooks.join("pre-commit")).expect("theirs"),
        theirs
    );
    assert!(!hooks.join("pre-push").exists());
}

#[cfg(unix)]
#[test]
fn hooks_go_where_git_looks_and_not_out_of_the_repository() {
    let fixture = Fixture::new();
    // A linked worktree has the hooks of its repository.
    let tree = fixture.outside("tree");
    let path = tree.display().to_string();
    fixture.git(&["worktree", "add", "--quiet", &path, "-b", "other"]);
    let install = fixture.palisade(&["-C", &path, "hooks", "install"]);
    assert_eq!(install.code, 0, "{}", install.err);
    assert!(fixture.root().join(".git/hooks/pre-push").exists());
    fixture.git(&["config", "core.hooksPath", ".githooks"]);
    assert_eq!(fixture.palisade(&["hooks", "install"]).code, 0);
    assert!(fixture.root().join(".githooks/pre-commit").exists());
    // A folder of all repositories is the user's own affair.
    let shared = fixture.outside("shared").display().to_string();
    fixture.git(&["config", "core.hooksPath", &shared]);
    let refused = fixture.palisade(&["hooks", "install"]);
    assert_eq!(refused.code, 2, "{}", refused.out);
    assert!(refused.err.contains("core.hooksPath"), "{}", refused.err);
}
