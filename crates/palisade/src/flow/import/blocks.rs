//! The programs of a log that has only what `cargo test > LOG` keeps. Cargo names each program
//! on the error stream; here it is found by the names of the tests and the order of Cargo.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::host::run::{TargetKey, is_header};
use crate::host::source::TestBodies;
use crate::test_id::{TargetKind, TestId, place};
use crate::workspace::Workspace;

/// A log in which each block of results has a header.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The log.
    pub text: String,
    /// The target of each header that was put in.
    pub targets: BTreeMap<String, TargetKey>,
    /// What was guessed, in words.
    pub notes: Vec<String>,
    /// Whether targets that Cargo runs later have no block.
    pub ends_early: bool,
}

/// Puts a header before each block that has none.
pub(super) fn with_headers(text: &str, workspace: &Workspace) -> Log {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    let mut log = Log::default();
    // Whether a header was read, a block is open, and it is one without a header.
    let (mut has_header, mut is_open, mut is_bare) = (false, false, false);
    for line in text.lines() {
        if is_header(line) {
            (has_header, is_open) = (true, false);
        } else if !is_open && is_start(line) {
            is_bare = !has_header;
            (has_header, is_open) = (false, true);
            if is_bare {
                let number = blocks.len() + 1;
                // Writing to a string cannot fail.
                let _ = writeln!(log.text, "     Running block ({})", header(number));
                blocks.push(Vec::new());
            }
        } else if line.starts_with("test result: ") {
            is_open = false;
        } else if is_open
            && is_bare
            && let Some((name, _)) = line
                .strip_prefix("test ")
                .and_then(|l| l.split_once(" ... "))
        {
            let name = name.strip_suffix(" - should panic").unwrap_or(name);
            blocks
                .last_mut()
                .into_iter()
                .for_each(|names| names.push(name));
        }
        log.text.push_str(line);
        log.text.push('\n');
    }
    if !blocks.is_empty() {
        log.name(&blocks, workspace);
    }
    log
}

fn header(number: usize) -> String {
    format!("block-{number}")
}

/// Whether a line is `running 3 tests`.
fn is_start(line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    matches!(words[..], ["running", number, "test" | "tests"]
        if number.bytes().all(|b| b.is_ascii_digit()))
}

impl Log {
    /// Gives each block its target: the assignment in Cargo's order in which most tests have a
    /// function of their name.
    fn name(&mut self, blocks: &[Vec<&str>], workspace: &Workspace) {
        let targets = in_cargos_order(workspace);
        let bodies = TestBodies::read(workspace.packages.values());
        let scores: Vec<Vec<Option<usize>>> = blocks
            .iter()
            .map(|names| {
                let score = |target| score(names, target, &bodies, workspace);
                targets.iter().map(score).collect()
            })
            .collect();
        let chosen = align(&scores, targets.len());
        for (at, (names, chosen)) in blocks.iter().zip(&chosen).enumerate() {
            let number = at + 1;
            let own = || (header(number), TargetKind::Lib, header(number));
            let target = chosen.map_or_else(own, |chosen| targets[chosen].clone());
            let of = place(&target.0, target.1, &target.2);
            let first = names.first().copied().unwrap_or_default();
            match chosen.and_then(|chosen| scores[at][chosen]) {
                _ if names.is_empty() => {}
                None => self.notes.push(format!(
                    "block {number} (its first test is {first}) is of no target of this workspace"
                )),
                Some(1) => self.notes.push(format!(
                    "block {number} (its first test is {first}) is taken for {of} by its place: \
                     no function has the name of a test in it"
                )),
                Some(_) => {}
            }
            self.targets.insert(header(number), target);
        }
        let last = chosen.iter().flatten().max();
        self.ends_early = last.is_some_and(|last| last + 1 < targets.len());
    }
}

/// The targets that `cargo test` runs, in its order: packages by name, documentation last.
fn in_cargos_order(workspace: &Workspace) -> Vec<TargetKey> {
    let rank = |kind: TargetKind| match kind {
        TargetKind::Lib => 0,
        TargetKind::Bin => 1,
        TargetKind::Test => 2,
        TargetKind::Bench => 3,
        TargetKind::Example => 4,
        TargetKind::Doc => 5,
    };
    let (mut programs, mut docs) = (Vec::new(), Vec::new());
    for package in workspace.packages.values() {
        let tested = package.targets.iter().filter(|target| target.tested);
        let mut own: Vec<(TargetKind, &str)> = tested
            .filter_map(|target| Some((target.kind?, target.name.as_str())))
            .collect();
        own.sort_by_key(|(kind, name)| (rank(*kind), *name));
        let key = |(kind, name): (TargetKind, &str)| (package.name.clone(), kind, name.to_owned());
        programs.extend(own.into_iter().map(key));
        if package.targets.iter().any(|target| target.doctests) {
            docs.push((package.name.clone(), TargetKind::Doc, String::new()));
        }
    }
    programs.extend(docs);
    programs
}

/// How well a block fits a target: 1, and 4 for each test that may be in it; `None` if it
/// cannot be.
fn score(
    names: &[&str],
    target: &TargetKey,
    bodies: &TestBodies,
    workspace: &Workspace,
) -> Option<usize> {
    let (package, kind, name) = target;
    let file = |test: &str| {
        let (file, rest) = test.split_once(" - ")?;
        let is_doc = rest.ends_with(')') && rest.contains("(line ");
        is_doc.then(|| file.replace('\\', "/"))
    };
    let is_doc = names.iter().any(|test| file(test).is_some());
    if !names.is_empty() && is_doc != (*kind == TargetKind::Doc) {
        return None;
    }
    let is_in = |test: &&&str| match kind {
        TargetKind::Doc => file(test).is_some_and(|file| {
            let root = &workspace.packages[package].root;
            let path = workspace.root.join(&file);
            path.starts_with(root) && path.exists() || root.join(&file).exists()
        }),
        _ => bodies
            .hash(&TestId::new(package, *kind, name, test))
            .is_some(),
    };
    Some(1 + 4 * names.iter().filter(is_in).count())
}

/// The best assignment of rows to columns, both in order, by the sum of the scores.
fn align(scores: &[Vec<Option<usize>>], n_columns: usize) -> Vec<Option<usize>> {
    let n_rows = scores.len();
    let mut best = vec![vec![0_usize; n_columns + 1]; n_rows + 1];
    for row in (0..n_rows).rev() {
        for column in (0..n_columns).rev() {
            let both = scores[row][column].map_or(0, |score| score + best[row + 1][column + 1]);
            best[row][column] = both.max(best[row + 1][column]).max(best[row][column + 1]);
        }
    }
    let mut chosen = vec![None; n_rows];
    let (mut row, mut column) = (0, 0);
    while row < n_rows && column < n_columns {
        let both = scores[row][column].map(|score| score + best[row + 1][column + 1]);
        if both == Some(best[row][column]) {
            chosen[row] = Some(column);
            (row, column) = (row + 1, column + 1);
        } else if best[row][column] == best[row][column + 1] {
            column += 1;
        } else {
            row += 1;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn blocks_without_headers_get_one_and_others_keep_theirs() {
        let text = "     Running unittests src/lib.rs (target/debug/deps/alpha-0123456789abcdef)

running 1 test
test tests::adds ... ok
running 2 tests

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out

running 1 test
test outer ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out
";
        let log = with_headers(text, &Workspace::new([]));
        assert_eq!(log.text.matches("Running block (block-1)").count(), 1);
        assert_eq!(log.text.matches("Running").count(), 2);
        assert!(
            log.text
                .ends_with(&text[text.rfind("running").expect("there")..])
        );
        let own = ("block-1".to_owned(), TargetKind::Lib, "block-1".to_owned());
        assert_eq!(log.targets["block-1"], own);
        assert_eq!(
            log.notes,
            ["block 1 (its first test is outer) is of no target of this workspace"]
        );
    }

    #[test]
    fn rows_are_assigned_in_order_where_they_fit_best() {
        let scores = [vec![Some(1), Some(5), Some(1)], vec![None, None, Some(9)]];
        assert_eq!(align(&scores, 3), [Some(1), Some(2)]);
        // All fit alike: the first ones, as of a run that stopped.
        let scores = [vec![Some(1); 3], vec![Some(1); 3]];
        assert_eq!(align(&scores, 3), [Some(0), Some(1)]);
        assert_eq!(align(&[vec![None, None]], 2), [None]);
    }
}
