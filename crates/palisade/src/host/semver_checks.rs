//! Breaks of the public API, as cargo-semver-checks finds them.
//!
//! It compares documentation that the compiler wrote, so it knows what a changed
//! signature means; without it, [`risk`](crate::risk) names the signatures.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::host::git::remove_hook_variables;
use crate::host::process::{self, Cancel, Limits, ProcessEnd, ProcessError, Stream, Tail};
use crate::host::run::first_line;

/// What a package is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiReference<'a> {
    /// The workspace at this folder.
    Base(&'a Path),
    /// The newest version in the registry.
    Release,
}

/// What the comparison said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiAnswer {
    /// The version may stay as it is.
    Compatible,
    /// The version must grow.
    Break {
        /// What it must be: a new `major` or `minor` version.
        version: String,
        /// The rules that are broken, with their names in words.
        rules: Vec<String>,
        /// Where.
        output: String,
    },
    /// There is no answer; why, in the tool's words.
    Unknown(String),
}

/// Whether cargo-semver-checks is installed.
pub fn is_installed() -> bool {
    first_line("cargo-semver-checks", &["semver-checks", "--version"]).is_some()
}

/// Compares the public API of a package in the workspace at `root`.
pub fn compare(
    root: &Path,
    package: &str,
    reference: ApiReference<'_>,
    limit: Duration,
    cancel: &Cancel,
) -> Result<ApiAnswer, ProcessError> {
    let mut command = Command::new("cargo-semver-checks");
    remove_hook_variables(&mut command)
        .current_dir(root)
        .env("CARGO_TERM_COLOR", "never")
        .args(["semver-checks", "check-release", "--color", "never"])
        .args(["--package", package]);
    if let ApiReference::Base(base) = reference {
        command.arg("--baseline-root").arg(base);
    }
    let limits = Limits {
        total: Some(limit),
        quiet: None,
    };
    let (mut out, mut err) = (Tail::default(), Tail::default());
    let end = process::run(
        &mut command,
        limits,
        cancel,
        false,
        |stream, line| match stream {
            Stream::Out => out.push(line),
            Stream::Err => err.push(line),
        },
    )?;
    Ok(read(end, &out.text(), &err.text()))
}

/// Reads what it printed. Its exit code alone does not tell a break from a
/// comparison that could not be made, so a break is what says that it is one.
fn read(end: ProcessEnd, out: &str, err: &str) -> ApiAnswer {
    const DEMAND: &str = "semver requires new ";
    let lines = || err.lines().chain(out.lines());
    if end == ProcessEnd::Exited(Some(0)) {
        return ApiAnswer::Compatible;
    }
    if end == ProcessEnd::TimedOut {
        return ApiAnswer::Unknown("it came to no end".to_owned());
    }
    let demand = lines().find_map(|line| line.split_once(DEMAND));
    if let Some((_, demand)) = demand {
        let heads = out.lines().filter_map(|line| {
            let rule = line.strip_prefix("--- failure ")?;
            Some(rule.trim_end_matches(" ---").to_owned())
        });
        let mut places = Vec::new();
        let mut in_places = false;
        for line in out.lines() {
            if line.starts_with("--- failure ") {
                places.push(line.to_owned());
            }
            in_places = line.starts_with("Failed in:") || (in_places && line.starts_with("  "));
            if in_places && line.starts_with("  ") {
                places.push(line.to_owned());
            }
        }
        return ApiAnswer::Break {
            version: demand.split(' ').next().unwrap_or_default().to_owned(),
            rules: heads.collect(),
            output: places.join("\n"),
        };
    }
    let error = lines().find(|line| line.trim_start().starts_with("error"));
    let last = err.lines().rev().find(|line| !line.trim().is_empty());
    let why = error.or(last).unwrap_or("it said nothing");
    ApiAnswer::Unknown(why.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 0.45 prints, with its links left out.
    const BREAK: &str = "
--- failure function_missing: pub fn removed or renamed ---

Description:
A publicly-visible function cannot be imported by its prior path. A `pub use` may have been removed.

Failed in:
  function alpha::add, previously in file /base/alpha/src/lib.rs:8
  function alpha::sub, previously in file /base/alpha/src/lib.rs:12
";

    #[test]
    fn a_break_is_read_with_its_rules_and_places() {
        let summary = "     Checking alpha v0.1.0 -> v0.1.0 (no change; assume patch)
     Checked [   0.010s] 190 checks: 189 pass, 1 fail, 0 warn, 0 skip
     Summary semver requires new major version: 1 major and 0 minor checks failed
    Finished [   1.502s] alpha";
        let found = read(ProcessEnd::Exited(Some(100)), BREAK, summary);
        let ApiAnswer::Break {
            version,
            rules,
            output,
        } = found
        else {
            panic!("{found:?}");
        };
        assert_eq!(version, "major");
        assert_eq!(rules, ["function_missing: pub fn removed or renamed"]);
        assert_eq!(output.lines().count(), 3, "{output}");
        assert!(output.ends_with("alpha/src/lib.rs:12"), "{output}");
    }

    #[test]
    fn a_tool_that_fails_has_found_nothing_and_excluded_nothing() {
        let error = "     Parsing alpha\nerror: rustdoc format v99 is not supported\n\ncaused by";
        let unknown = |end, err| match read(end, "", err) {
            ApiAnswer::Unknown(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            unknown(ProcessEnd::Exited(Some(1)), error),
            "error: rustdoc format v99 is not supported"
        );
        assert_eq!(unknown(ProcessEnd::Exited(None), ""), "it said nothing");
        assert_eq!(unknown(ProcessEnd::TimedOut, ""), "it came to no end");
        let good = read(
            ProcessEnd::Exited(Some(0)),
            "",
            "     Summary no semver update required",
        );
        assert_eq!(good, ApiAnswer::Compatible);
    }
}
