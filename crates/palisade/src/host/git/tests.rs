use std::time::{Duration, SystemTime};

use super::diff::patch_hunks;
use super::worktree::open_for_times;
use super::*;
use crate::change::{ChangeKind, Hunk};

/// A repository in a temporary folder, with two commits.
pub(super) fn repository() -> (tempfile::TempDir, Repo) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let git = |args: &[&str]| {
        let output = remove_hook_variables(&mut Command::new("git"))
            .current_dir(dir.path())
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(args)
            .output()
            .expect("git runs");
        assert!(output.status.success(), "{args:?}: {output:?}");
    };
    git(&["init", "--quiet", "--initial-branch=main"]);
    fs::write(dir.path().join("a.txt"), "1\n2\n3\n4\n5\n6\n").expect("written");
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "first"]);
    fs::write(dir.path().join("b.txt"), "b\n").expect("written");
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "second"]);
    let repo = Repo::discover(dir.path()).expect("a repository");
    (dir, repo)
}

#[test]
fn a_clean_working_tree_is_its_commit() {
    let (_dir, repo) = repository();
    let head = repo.head().expect("a commit");
    assert_eq!(head.subject, "second");
    assert_eq!(repo.working_tree().expect("a tree"), head.tree);
    assert_eq!(repo.default_base().expect("a base"), Some(head));
}

#[test]
fn edits_new_files_and_old_times_change_the_tree_but_not_the_repository() {
    let (dir, repo) = repository();
    let head = repo.head().expect("a commit");
    let path = dir.path().join("a.txt");
    let modified = fs::metadata(&path)
        .and_then(|m| m.modified())
        .expect("a time");
    // Git sees an old time by when the file's entry in its folder changed, which Windows does
    // not tell; a size of its own it sees there too.
    let nine = if cfg!(windows) { "99" } else { "9" };
    fs::write(&path, format!("1\n2\n{nine}\n4\n5\n6\n")).expect("written");
    let file = File::options().append(true).open(&path).expect("opened");
    file.set_modified(modified).expect("time set");
    fs::write(dir.path().join("new.txt"), "n\n").expect("written");
    let objects = fs::read_dir(dir.path().join(".git/objects"))
        .expect("read")
        .count();
    let tree = repo.working_tree().expect("a tree");
    assert_ne!(tree, head.tree);
    let changes = repo.diff(&head.tree, &tree).expect("a diff");
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[0].path, "a.txt");
    assert_eq!(changes[0].kind, ChangeKind::Modified);
    assert_eq!(changes[0].hunks, [Hunk { start: 3, lines: 1 }]);
    assert_eq!(changes[1].path, "new.txt");
    assert_eq!(changes[1].kind, ChangeKind::Added);
    assert_eq!(
        repo.file(&tree, "new.txt").expect("read").as_deref(),
        Some(&b"n\n"[..])
    );
    assert_eq!(repo.file(&tree, "none").expect("read"), None);
    let after = fs::read_dir(dir.path().join(".git/objects"))
        .expect("read")
        .count();
    assert_eq!(objects, after, "an object was written");
    let staged = Repo::discover(dir.path())
        .expect("a repository")
        .staged_tree();
    assert_eq!(staged.expect("a tree"), head.tree, "the index was written");
}

/// Git's settings of a user on Windows: text has `\r\n` on disk and `\n` in the repository,
/// and what cannot be restored is refused.
fn crlf_on_disk(dir: &Path) {
    for setting in [["core.autocrlf", "true"], ["core.safecrlf", "true"]] {
        let set = remove_hook_variables(&mut Command::new("git"))
            .current_dir(dir)
            .arg("config")
            .args(setting)
            .status();
        assert!(set.expect("git runs").success());
    }
}

#[test]
fn line_ends_on_disk_are_no_change() {
    let (dir, repo) = repository();
    let head = repo.head().expect("a commit");
    crlf_on_disk(dir.path());
    let path = dir.path().join("a.txt");
    fs::write(&path, "1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n").expect("written");
    assert_eq!(repo.working_tree().expect("a tree"), head.tree);
    fs::write(&path, "1\r\n2\r\n9\r\n4\r\n5\r\n6\r\n").expect("written");
    // Git would refuse the bare line end of a file like this one.
    fs::write(dir.path().join("new.txt"), "n\n").expect("written");
    let tree = repo.working_tree().expect("a tree");
    let changes = repo.diff(&head.tree, &tree).expect("a diff");
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert_eq!(changes[0].hunks, [Hunk { start: 3, lines: 1 }]);
    // A checkout has them too, and is the same tree.
    let worktree = repo.worktree(&head, Some(&tree)).expect("a worktree");
    let there = fs::read(worktree.dir().join("a.txt")).expect("read");
    assert!(there.starts_with(b"1\r\n2\r\n9\r\n"), "{there:?}");
    let there = Repo::discover(worktree.dir()).expect("a repository");
    assert_eq!(there.working_tree().expect("a tree"), tree);
}

#[test]
fn what_git_says_may_end_its_lines_with_two_characters() {
    use std::process::ExitStatus;
    let output = |text: &str| Output {
        status: ExitStatus::default(),
        stdout: text.into(),
        stderr: Vec::new(),
    };
    assert_eq!(checked(&[], &output("main\r\n")).expect("said"), "main");
    let patch = "diff --git a/x b/x\r\n@@ -3,0 +4,2 @@ fn\r\n+a\r\n@@ -9 +12 @@\r\n";
    assert_eq!(
        patch_hunks(patch),
        [[
            Hunk { start: 4, lines: 2 },
            Hunk {
                start: 12,
                lines: 1
            }
        ]]
    );
}

#[test]
fn a_read_only_file_of_a_checkout_keeps_its_time_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.txt");
    fs::write(&path, "a").expect("written");
    let mut permissions = fs::metadata(&path).expect("there").permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions).expect("set");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = open_for_times(&path).expect("opened");
    file.set_modified(time).expect("set");
    drop(file);
    let found = fs::metadata(&path).and_then(|meta| meta.modified());
    assert_eq!(found.expect("a time"), time);
}

#[test]
fn renames_and_deletions_are_told_apart() {
    let (dir, repo) = repository();
    let head = repo.head().expect("a commit");
    fs::rename(dir.path().join("a.txt"), dir.path().join("c.txt")).expect("renamed");
    fs::remove_file(dir.path().join("b.txt")).expect("removed");
    let tree = repo.working_tree().expect("a tree");
    let changes = repo.diff(&head.tree, &tree).expect("a diff");
    let from = "a.txt".to_owned();
    assert_eq!(changes[0].kind, ChangeKind::Deleted);
    assert_eq!(changes[1].kind, ChangeKind::Renamed { from });
}

#[test]
fn a_worktree_holds_the_other_commit_and_goes_away() {
    let (dir, repo) = repository();
    let first = repo.resolve("HEAD~1").expect("a commit");
    let head = repo.head().expect("a commit");
    let worktree = repo.worktree(&first, None).expect("a worktree");
    let place = worktree.dir().to_owned();
    assert!(place.join("a.txt").exists() && !place.join("b.txt").exists());
    // While one is in use, a second one gets another place.
    fs::write(dir.path().join("new.txt"), "n\n").expect("written");
    let tree = repo.working_tree().expect("a tree");
    let other = repo.worktree(&head, Some(&tree)).expect("a worktree");
    assert_ne!(other.dir(), place);
    assert!(other.dir().join("new.txt").exists());
    // A killed run leaves its checkout without a lock.
    // (The standard library unlocks twice on Windows; Wine calls the second time an error.)
    let unlocked = other.lock.unlock();
    assert!(unlocked.is_ok() || cfg!(windows), "{unlocked:?}");
    let left = other.dir().to_owned();
    std::mem::forget(other);
    drop(worktree);
    assert!(!place.exists() && left.exists());
    repo.sweep();
    assert!(!left.exists());
    let listed = repo.text(&["worktree", "list"]).expect("listed");
    assert_eq!(listed.lines().count(), 1, "{listed}");
}

#[test]
fn a_file_keeps_its_time_from_checkout_to_checkout_while_its_content_stays() {
    let (dir, repo) = repository();
    let first = repo.resolve("HEAD~1").expect("a commit");
    let head = repo.head().expect("a commit");
    fs::write(dir.path().join("a.txt"), "other\n").expect("written");
    let changed = repo.working_tree().expect("a tree");
    let times = |commit: &Commit, tree: Option<&str>| {
        let worktree = repo.worktree(commit, tree).expect("a worktree");
        std::thread::sleep(Duration::from_millis(20));
        ["a.txt", "b.txt"].map(|name| {
            let meta = fs::metadata(worktree.dir().join(name));
            meta.and_then(|meta| meta.modified()).ok()
        })
    };
    let [a_first, b_first] = times(&first, None);
    let [a_head, b_head] = times(&head, None);
    assert_eq!((b_first, a_head), (None, a_first));
    let [a_changed, b_changed] = times(&head, Some(&changed));
    assert_eq!(b_changed, b_head);
    assert!(a_changed > b_head, "another content is new");
    let [a_back, b_back] = times(&head, None);
    assert!(a_back > a_changed, "a content that comes back is new again");
    assert_eq!(b_back, b_head);
}

/// A repository in a folder, with one file.
fn make(dir: &Path, file: &str) {
    fs::create_dir_all(dir).expect("made");
    fs::write(dir.join(file), "1\n").expect("written");
    for args in [
        &["init", "--quiet", "--initial-branch=main"][..],
        &["add", "."],
        &["commit", "--quiet", "-m", "first"],
    ] {
        run_git(dir, args);
    }
}

fn run_git(dir: &Path, args: &[&str]) {
    let output = remove_hook_variables(&mut Command::new("git"))
        .current_dir(dir)
        .args(["-c", "user.name=t", "-c", "user.email=t@t"])
        .args(["-c", "protocol.file.allow=always"])
        .args(args)
        .output()
        .expect("git runs");
    assert!(output.status.success(), "{args:?}: {output:?}");
}

#[test]
fn submodules_come_from_the_objects_that_are_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path();
    for name in ["inner", "outer", "absent", "main"] {
        make(&home.join(name), &format!("{name}.txt"));
    }
    let add = |to: &str, module: &str| {
        let url = home.join(module).display().to_string();
        run_git(
            &home.join(to),
            &["submodule", "--quiet", "add", &url, module],
        );
        run_git(&home.join(to), &["commit", "--quiet", "-m", "module"]);
    };
    add("outer", "inner");
    add("main", "outer");
    add("main", "absent");
    let main = home.join("main");
    run_git(
        &main,
        &["submodule", "--quiet", "update", "--init", "--recursive"],
    );
    run_git(
        &main,
        &["submodule", "--quiet", "deinit", "--force", "absent"],
    );
    // Nothing is left to fetch from.
    for name in ["inner", "outer", "absent"] {
        fs::remove_dir_all(home.join(name)).expect("removed");
    }
    let settings = fs::read_to_string(main.join(".git/config")).expect("read");
    let repo = Repo::discover(&main).expect("a repository");
    let head = repo.head().expect("a commit");
    let worktree = repo.worktree(&head, None).expect("a worktree");
    let dir = worktree.dir().to_owned();
    assert!(dir.join("outer/outer.txt").exists());
    assert!(dir.join("outer/inner/inner.txt").exists());
    assert!(!dir.join("absent/absent.txt").exists());
    drop(worktree);
    assert!(!dir.exists());
    let after = fs::read_to_string(main.join(".git/config")).expect("read");
    assert_eq!(settings, after);
    // A commit that is not here is said, with the way to get it.
    let commit = "1".repeat(40);
    let entry = format!("160000,{commit},outer");
    run_git(&main, &["update-index", "--cacheinfo", &entry]);
    run_git(&main, &["commit", "--quiet", "-m", "nowhere"]);
    let head = repo.head().expect("a commit");
    let error = repo.worktree(&head, None).expect_err("no such commit");
    assert!(matches!(&error, GitError::Submodule { path, .. } if path == "outer"));
    assert!(!error.is_usage() && error.hint().expect("one").contains("fetch"));
}

#[test]
fn what_a_sparse_checkout_leaves_out_is_not_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let main = folder.path();
    let write = |path: &str, text: &str| {
        let path = main.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    };
    write("in/a.txt", "1\n");
    write("out/b.txt", "1\n");
    make(main, "top.txt");
    run_git(main, &["sparse-checkout", "set", "in"]);
    assert!(!main.join("out/b.txt").exists());
    for settings in [
        &["--cone", "in"][..],
        &["--cone", "--sparse-index", "in"],
        &["--no-cone", "/in", "/top.txt"],
    ] {
        run_git(main, &[&["sparse-checkout", "set"], settings].concat());
        let repo = Repo::discover(main).expect("a repository");
        let head = repo.head().expect("a commit");
        assert_eq!(
            repo.working_tree().expect("a tree"),
            head.tree,
            "{settings:?}"
        );
        let files = repo.working_files().expect("files");
        assert_eq!(files.keys().collect::<Vec<_>>(), ["in/a.txt", "top.txt"]);
        // Checkouts have what the user's files have.
        let worktree = repo.worktree(&head, None).expect("a worktree");
        assert!(worktree.dir().join("in/a.txt").exists());
        assert!(!worktree.dir().join("out/b.txt").exists());
        drop(worktree);
        // What is written there all the same counts, as it does for the tests.
        write("out/new.txt", "1\n");
        let tree = repo.working_tree().expect("a tree");
        let changes = repo.diff(&head.tree, &tree).expect("a diff");
        assert_eq!(changes.len(), 1, "{settings:?}");
        assert_eq!(changes[0].path, "out/new.txt");
        assert_eq!(changes[0].kind, ChangeKind::Added);
        fs::remove_dir_all(main.join("out")).expect("removed");
        assert_eq!(
            repo.working_tree().expect("a tree"),
            head.tree,
            "{settings:?}"
        );
        assert!(repo.sparse_patterns().is_some());
    }
    run_git(main, &["sparse-checkout", "disable"]);
    let whole = Repo::discover(main).expect("a repository");
    assert_eq!(whole.sparse_patterns(), None);
}

#[cfg(unix)]
#[test]
fn a_checkout_finds_folders_outside_where_they_are_from_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().canonicalize().expect("a path");
    make(&home.join("a/b/main"), "main.txt");
    for name in ["a/b/near", "far/away"] {
        fs::create_dir_all(home.join(name)).expect("made");
        fs::write(home.join(name).join("it.txt"), name).expect("written");
    }
    let mut repo = Repo::discover(&home.join("a/b/main")).expect("a repository");
    repo.link_outside(&["a/b/near", "far/away"].map(|name| home.join(name)).into());
    let head = repo.head().expect("a commit");
    let worktree = repo.worktree(&head, None).expect("a worktree");
    let read = |path: &str| fs::read_to_string(worktree.dir().join(path)).expect("read");
    assert_eq!(read("main.txt"), "1\n");
    assert_eq!(read("../near/it.txt"), "a/b/near");
    assert_eq!(read("../../../far/away/it.txt"), "far/away");
    // One that a killed run left is found again.
    worktree.lock.unlock().expect("unlocked");
    let left = worktree.dir().to_owned();
    std::mem::forget(worktree);
    repo.sweep();
    assert!(!left.exists() && home.join("far/away/it.txt").exists());
}

#[test]
fn a_refusal_of_git_is_told_with_its_mend() {
    let said = "fatal: detected dubious ownership in repository at '/w'\n\
                To add an exception for this directory, call:\n\n\
                \tgit config --global --add safe.directory /w\n";
    let error = refusal(Path::new("/w"), said).expect("a refusal");
    assert_eq!(
        error.to_string(),
        "failed to read the git repository at /w: detected dubious ownership in repository at '/w'"
    );
    assert_eq!(
        error.hint().as_deref(),
        Some("git config --global --add safe.directory /w")
    );
    let none = "fatal: not a git repository (or any of the parent directories): .git\n";
    assert!(refusal(Path::new("/w"), none).is_none());
}

#[test]
fn what_is_not_there_is_said() {
    let (_dir, repo) = repository();
    let error = repo.resolve("nope").expect_err("no such revision");
    assert_eq!(
        error.to_string(),
        "failed to find revision \"nope\" in this repository"
    );
    let nowhere = tempfile::tempdir().expect("a temporary folder");
    let error = Repo::discover(nowhere.path()).expect_err("no repository");
    assert!(matches!(error, GitError::NotARepository(_)));
}
