//! Makes small workspaces with a git history, and runs the program in them.
//!
//! A fixture has no dependencies outside of itself, so it builds offline in a
//! second; and that is done once, for the first of them, since Cargo takes a copy of it
//! for built. Its packages are `alpha`, `beta` (which depends on `alpha`) and `gamma`
//! (which stands alone). Tests that are to be flaky read a counter file outside of
//! the repository and fail each time the counter says so: their rate is exact, and
//! no run depends on chance.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{fs, iter};

use serde_json::Value;

/// The search path, with the toolchain's own programs before rustup's, each of which
/// takes some milliseconds to find them. The fixtures start thousands.
static PATH: LazyLock<OsString> = LazyLock::new(|| {
    let mut rustc = Command::new("rustc");
    let sysroot = rustc.args(["--print", "sysroot"]).output();
    let sysroot = sysroot.expect("rustc runs").stdout;
    let sysroot = String::from_utf8(sysroot).expect("a path in UTF-8");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let bin = Path::new(sysroot.trim()).join("bin");
    std::env::join_paths(iter::once(bin).chain(std::env::split_paths(&path)))
        .expect("paths that can be joined")
});

/// What every fixture is a copy of: a workspace that was built in the user's files and in a
/// checkout, with the store of a run of all its tests. Cargo knows the packages of a workspace
/// by their paths from its root, and its files by their times, which the copies keep.
static TEMPLATE: LazyLock<PathBuf> = LazyLock::new(|| {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixtures");
    fs::create_dir_all(&home).expect("created");
    let lock = File::create(home.join("lock")).expect("created");
    lock.lock().expect("locked");
    // nextest has a process for each test: they share one.
    let run = std::env::var("NEXTEST_RUN_ID").ok();
    let template = home.join(run.as_deref().unwrap_or("own"));
    if run.is_none() || !template.exists() {
        for entry in fs::read_dir(&home).expect("read").flatten() {
            if entry.path().is_dir() {
                fs::remove_dir_all(entry.path()).expect("removed");
            }
        }
        let fixture = Fixture::made();
        // Both revisions are run, and with that built.
        fixture.edit("gamma/src/lib.rs", "    1\n", "    2 - 1\n");
        assert_eq!(fixture.palisade(&["check", "--full"]).code, 0);
        fixture.git(&["checkout", "--quiet", "."]);
        fs::remove_dir_all(fixture.root().join(STORE)).expect("removed");
        assert_eq!(fixture.palisade(&["baseline", "record"]).code, 0);
        let new = home.join("new");
        copy(fixture.dir.path(), &new);
        fs::rename(new, &template).expect("renamed");
    }
    template
});

/// The folder of a workspace's store.
const STORE: &str = ".palisade";

/// A workspace in a temporary folder, with its own store and cache.
pub struct Fixture {
    dir: tempfile::TempDir,
}

/// What the program said.
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
    pub time: Duration,
}

const ALPHA: &str = "\
//! Adds.

/// Adds two numbers.
///
/// ```
/// assert_eq!(alpha::add(1, 2), 3);
/// ```
pub fn add(a: i32, b: i32) -> i32 {
    a + b
}

#[cfg(test)]
mod tests {
    #[test]
    fn adds() {
        assert_eq!(super::add(1, 2), 3);
    }

    #[test]
    fn adds_zero() {
        assert_eq!(super::add(7, 0), 7);
    }

    #[test]
    #[ignore = \"takes long\"]
    fn adds_much() {}
}
";

const BETA: &str = "\
//! Doubles.

/// Doubles a number.
pub fn double(a: i32) -> i32 {
    alpha::add(a, a)
}

#[cfg(test)]
mod tests {
    #[test]
    fn doubles() {
        assert_eq!(super::double(2), 4);
    }

    // The same name as in another package.
    #[test]
    fn adds() {
        assert!(super::double(1) == 2, \"{}\", alpha::add(1, 1));
    }
}
";

const GAMMA: &str = "\
//! Counts.

/// One.
pub fn one() -> u8 {
    1
}

#[cfg(test)]
mod tests {
    #[test]
    fn is_one() {
        assert_eq!(super::one(), 1);
    }
}
";

impl Fixture {
    /// The workspace with one commit, in which every test passes.
    pub fn new() -> Self {
        let fixture = Self::with_baseline();
        fs::remove_dir_all(fixture.root().join(STORE)).expect("removed");
        fixture
    }

    /// The same, with the base's tests run and remembered.
    pub fn with_baseline() -> Self {
        let fixture = Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        };
        copy(&TEMPLATE.join("workspace"), &fixture.root());
        // What was built of other commits is found by the place of the repository.
        let git_dir = fixture.root().join(".git").canonicalize().expect("there");
        let checkouts = fs::read_dir(TEMPLATE.join("cache")).expect("read");
        for home in checkouts.flatten() {
            let name = palisade::host::git::cache::name(&git_dir);
            copy(&home.path(), &fixture.outside("cache").join(name));
        }
        fixture
    }

    /// The workspace, made anew.
    fn made() -> Self {
        let fixture = Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        };
        fs::create_dir(fixture.root()).expect("created");
        fixture.write(
            "Cargo.toml",
            "[workspace]\nmembers = [\"alpha\", \"beta\", \"gamma\"]\nresolver = \"3\"\n\n\
             # Most of the time of these tests goes into building and linking.\n\
             [profile.dev]\ndebug = false\nincremental = false\n",
        );
        fixture.write(".gitignore", "/target*\n");
        fixture.write("README.md", "# A fixture\n");
        for (name, text, dependencies) in [
            ("alpha", ALPHA, ""),
            ("beta", BETA, "alpha = { path = \"../alpha\" }\n"),
            ("gamma", GAMMA, ""),
        ] {
            let manifest = format!(
                "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}"
            );
            fixture.write(&format!("{name}/Cargo.toml"), &manifest);
            fixture.write(&format!("{name}/src/lib.rs"), text);
        }
        fixture.git(&["init", "--quiet", "--template=", "--initial-branch=main"]);
        fs::create_dir(fixture.root().join(".git/hooks")).expect("created");
        let lock = fixture
            .command("cargo")
            .args(["generate-lockfile", "--offline"])
            .output();
        assert!(lock.expect("cargo runs").status.success());
        fixture.commit("the first commit");
        fixture
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("workspace")
    }

    /// A path outside of the workspace that lives as long as it.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, text).expect("written");
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).expect("read")
    }

    /// Replaces a text that is in a file once.
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {path}");
        self.write(path, &text.replace(from, to));
    }

    /// Adds a test to a package's library, with `body` as its body.
    pub fn add_test(&self, package: &str, name: &str, body: &str) {
        let path = format!("{package}/src/lib.rs");
        let text = self.read(&path);
        let end = text
            .trim_end()
            .strip_suffix('}')
            .expect("ends with the test module");
        self.write(
            &path,
            &format!("{end}\n    #[test]\n    fn {name}() {{\n        {body}\n    }}\n}}\n"),
        );
    }

    /// The body of a test that fails in the runs whose number, counted from 0, is
    /// in `fails`, and then again each `period` runs.
    pub fn flaky_body(&self, counter: &str, period: u64, fails: &[u64]) -> String {
        let path = self.outside(counter).display().to_string();
        format!(
            "let path = std::path::Path::new({path:?});
        let run = std::fs::metadata(path).map_or(0, |meta| meta.len());
        std::fs::write(path, vec![b'x'; run as usize + 1]).unwrap();
        assert!(!{fails:?}.contains(&(run % {period})), \"run {{run}}\");"
        )
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.root());
        let own = [
            "CARGO_TARGET_DIR",
            "PALISADE_STORE",
            "RUSTFLAGS",
            "NEXTEST_PROFILE",
        ];
        for variable in own.iter().chain(&palisade::host::git::PULL_REQUEST_TARGETS) {
            command.env_remove(variable);
        }
        command
            .env("PALISADE_CACHE", self.outside("cache"))
            .env("CARGO_NET_OFFLINE", "true")
            // A failing test of a fixture would spend most of its time on symbols.
            .env("RUST_BACKTRACE", "0")
            .env("PATH", &*PATH);
        command
    }

    pub fn git(&self, args: &[&str]) -> String {
        let output = self
            .command("git")
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
            .args(args)
            .output()
            .expect("git runs");
        assert!(output.status.success(), "git {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
    }

    pub fn palisade(&self, args: &[&str]) -> Answer {
        let mut command = self.command(env!("CARGO_BIN_EXE_cargo-palisade"));
        command.args(args);
        answer(command)
    }

    /// Runs a command that prints JSON and returns the document.
    pub fn json(&self, args: &[&str]) -> (i32, Value) {
        let answer = self.palisade(&[args, &["--json"]].concat());
        let json = serde_json::from_str(&answer.out);
        let json = json.unwrap_or_else(|e| panic!("{e}: {:?} {:?}", answer.out, answer.err));
        (answer.code, json)
    }

    /// Checks the change and compares exit code and findings, as (name, state)
    /// pairs, with the answer key.
    pub fn check(&self, args: &[&str], code: i32, findings: &[(&str, &str)]) -> Value {
        let (found_code, report) = self.json(&[&["check"], args].concat());
        let found: Vec<(&str, &str)> = report["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|f| {
                (
                    f["name"].as_str().expect("text"),
                    f["state"].as_str().expect("text"),
                )
            })
            .collect();
        assert_eq!(
            (found_code, found.as_slice()),
            (code, findings),
            "{report:#}"
        );
        assert_eq!(report["exit_code"], code);
        report
    }
}

/// Copies a folder with the times of its files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("read").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copied");
            let modified = fs::metadata(&from).and_then(|meta| meta.modified());
            // Windows keeps it, and sets none of a file that was opened for reading.
            let _ = File::open(&to).and_then(|file| file.set_modified(modified.expect("a time")));
        }
    }
}

pub fn answer(mut command: Command) -> Answer {
    let started = Instant::now();
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the program runs");
    Answer {
        code: status.code().expect("it exits"),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
        time: started.elapsed(),
    }
}

/// Whether cargo-nextest is installed: without it, durations are not known.
pub fn has_nextest() -> bool {
    let mut command = Command::new("cargo-nextest");
    let version = command.args(["nextest", "--version"]).output();
    version.is_ok_and(|output| output.status.success())
}
