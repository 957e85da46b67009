//! Makes way for a build that replaces the program which runs.
//!
//! Windows lets nobody write to, or remove, the file of a program that runs. A guard that was
//! built in the workspace which it watches would make the next build of that workspace fail.
//! Such a file may be renamed, though.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The folder, in the target folder, for the files of programs that made way.
const FOLDER: &str = "palisade-running";

/// Gives the file of a running `program` another name if it lies in a workspace's `target`
/// folder, and puts a copy in its place; the same where Cargo keeps that file under a second
/// name. Returns where the running file is now; `None` if it was not in the folder. What
/// earlier runs left is removed, as far as it does not run any more.
pub fn move_running_program(program: &Path, target: &Path) -> io::Result<Option<PathBuf>> {
    let is_inside = program.canonicalize()?.starts_with(target.canonicalize()?);
    let (true, Some(name)) = (is_inside, program.file_name()) else {
        return Ok(None);
    };
    let home = target.join(FOLDER);
    for left in fs::read_dir(&home).into_iter().flatten().flatten() {
        // What still runs cannot be removed.
        let _ = fs::remove_dir_all(left.path());
    }
    let folder = home.join(std::process::id().to_string());
    fs::create_dir_all(&folder)?;
    let moved = folder.join(name);
    let others = other_names(program)?;
    exchange(program, &moved)?;
    for (number, other) in others.iter().enumerate() {
        exchange(other, &folder.join(number.to_string()))?;
    }
    Ok(Some(moved))
}

/// Renames a file and puts a copy, which is as old, in its place.
fn exchange(path: &Path, to: &Path) -> io::Result<()> {
    let time = fs::metadata(path)?.modified()?;
    fs::rename(path, to)?;
    let copied = fs::copy(to, path).and_then(|_| {
        let file = File::options().append(true).open(path)?;
        // Cargo would build it again.
        file.set_modified(time)
    });
    if copied.is_err() {
        fs::rename(to, path)?;
    }
    copied
}

/// The names in the folder `deps` that may be those of the same file: Cargo builds a program
/// there, and gives it a second name where people look for it. To take another file of the
/// same size and age for it does no harm.
fn other_names(program: &Path) -> io::Result<Vec<PathBuf>> {
    let known = fs::metadata(program)?;
    let stem = program.file_stem().unwrap_or_default().to_string_lossy();
    let stem = stem.replace('-', "_");
    let folder = program.parent().unwrap_or(Path::new(".")).join("deps");
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let meta = fs::metadata(path);
        name.replace('-', "_").starts_with(&stem)
            && path.extension() == program.extension()
            && meta.is_ok_and(|meta| {
                meta.len() == known.len() && meta.modified().ok() == known.modified().ok()
            })
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    Ok(entries.map(|entry| entry.path()).filter(is_it).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_does_not_reach_the_file_that_runs() {
        let dir = tempfile::tempdir().expect("a folder");
        let target = dir.path().join("target");
        let program = target.join("debug").join("cargo-guard.exe");
        let built = target.join("debug/deps").join("cargo_guard-0123.exe");
        fs::create_dir_all(built.parent().expect("a folder")).expect("made");
        fs::write(&built, "the old one").expect("written");
        fs::hard_link(&built, &program).expect("linked");
        let age = fs::metadata(&program).and_then(|meta| meta.modified());

        let moved = move_running_program(&program, &target).expect("moved");
        let moved = moved.expect("it was inside");
        // Cargo finds everything as it was, and replaces it.
        for path in [&program, &built] {
            assert_eq!(fs::read_to_string(path).expect("there"), "the old one");
            let time = fs::metadata(path).and_then(|meta| meta.modified());
            assert_eq!(time.expect("a time"), *age.as_ref().expect("a time"));
            fs::write(path, "a new one").expect("written");
        }
        assert_eq!(fs::read_to_string(&moved).expect("there"), "the old one");

        // What does not run any more goes away with the next program that makes way.
        let left = target.join(FOLDER).join("4000000000");
        fs::create_dir(&left).expect("made");
        move_running_program(&program, &target).expect("moved");
        assert!(!left.exists());
    }

    #[test]
    fn a_program_that_is_elsewhere_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let (program, target) = (dir.path().join("guard.exe"), dir.path().join("target"));
        fs::write(&program, "it").expect("written");
        fs::create_dir(&target).expect("made");
        assert_eq!(
            move_running_program(&program, &target).expect("asked"),
            None
        );
        assert_eq!(fs::read_dir(&target).expect("there").count(), 0);
    }
}
