//! Many files read by one git process.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// A `git cat-file --batch`, started for the first file and ended on drop.
#[derive(Debug, Default)]
pub(super) struct Batch(Mutex<Option<Reader>>);

impl Batch {
    /// The content of the file that `place` (`TREE:PATH`) names; `None` if there is no such
    /// file. `command` is what is started if nothing runs.
    ///
    /// # Errors
    ///
    /// Fails where a process of its own may do better: for a name that is no line, and when
    /// git ended before its answer did, as it does for a damaged object.
    pub(super) fn file(&self, place: &str, command: Command) -> io::Result<Option<Vec<u8>>> {
        // Git takes one name per line, and a `\r` for a part of the line's end. The options
        // that end names otherwise (`-z`, `-Z`) are not in every git that is in use.
        if place.contains(['\n', '\r', '\0']) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that fails half-way through an answer must not be asked again.
        let mut reader = match running.take() {
            Some(reader) => reader,
            None => Reader::start(command)?,
        };
        let content = reader.file(place)?;
        *running = Some(reader);
        Ok(content)
    }
}

/// The process and its pipes.
#[derive(Debug)]
struct Reader {
    process: Child,
    names: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Reader {
    fn start(mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.stderr(Stdio::null()).spawn()?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(names), Some(answers)) => Ok(Self {
                process,
                names,
                answers: BufReader::new(answers),
            }),
            _ => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    fn file(&mut self, place: &str) -> io::Result<Option<Vec<u8>>> {
        self.names.write_all(format!("{place}\n").as_bytes())?;
        let mut header = String::new();
        self.answers.read_line(&mut header)?;
        let header = header.strip_suffix('\n').ok_or(ErrorKind::UnexpectedEof)?;
        let Some((kind, size)) = kind_and_size(header) else {
            return Ok(None);
        };
        let mut content = Vec::new();
        // A line end follows.
        let length = size.saturating_add(1);
        let read = (&mut self.answers).take(length).read_to_end(&mut content)?;
        if read as u64 != length || content.pop() != Some(b'\n') {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok((kind == "blob").then_some(content))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It only reads, so it can be ended anywhere; without the wait it would stay listed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What `HASH KIND SIZE` says; `None` for the words about a name that is not there: `NAME
/// missing`, and of a submodule `HASH submodule`.
fn kind_and_size(header: &str) -> Option<(&str, u64)> {
    let (rest, size) = header.rsplit_once(' ')?;
    let (_, kind) = rest.rsplit_once(' ')?;
    Some((kind, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Stdio;
    use std::sync::PoisonError;

    use super::super::tests::repository;
    use super::super::{Repo, git};

    /// Makes an object in the repository at `repo` and gives its hash.
    fn object(repo: &Repo, args: &[&str], content: &[u8]) -> String {
        let mut command = git();
        command.current_dir(repo.root()).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("git runs");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(content).expect("written");
        drop(input);
        let output = child.wait_with_output().expect("git ends");
        assert!(output.status.success(), "{args:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The number of the process that reads files now.
    fn process(repo: &Repo) -> Option<u32> {
        let running = repo.batch.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|reader| reader.process.id())
    }

    #[test]
    fn one_process_reads_files_of_every_name_and_size() {
        let (_dir, repo) = repository();
        // More than a pipe holds, with lines that look like answers.
        let large = b"0123456789012345678901234567890123456789 blob 3\nx missing\n".repeat(50_000);
        let files: [(&str, &[u8]); 9] = [
            ("plain", b"text"),
            ("empty", b""),
            ("large", &large),
            ("no line end", b"\0\xff\r"),
            (" \"quoted\" 'name' \\ ", b"quoted\n"),
            ("gr\u{fc}n: *?[x]^{tree}", b"special\n"),
            ("two\nlines", b"newline\n"),
            ("end\r", b"return\n"),
            ("x missing", b"missing\n"),
        ];
        let mut entries = Vec::new();
        for (name, content) in files {
            let id = object(&repo, &["hash-object", "-w", "--stdin"], content);
            entries.push(format!("100644 blob {id}\t{name}\0"));
        }
        let empty = object(&repo, &["mktree"], b"");
        let head = repo.head().expect("a commit").id;
        entries.push(format!("040000 tree {empty}\tfolder\0"));
        entries.push(format!("160000 commit {head}\tours\0"));
        let absent = "1".repeat(head.len());
        entries.push(format!("160000 commit {absent}\ttheirs\0"));
        let tree = object(&repo, &["mktree", "-z"], entries.concat().as_bytes());
        let read = |path: &str| repo.file(&tree, path).expect("read");
        assert_eq!(process(&repo), None, "started before it is needed");
        assert_eq!(read("plain").as_deref(), Some(&b"text"[..]));
        let first = process(&repo);
        assert!(first.is_some());
        for _ in 0..2 {
            for (name, content) in files {
                assert!(read(name).as_deref() == Some(content), "{name:?}");
            }
            for name in ["folder", "ours", "theirs", "none", "no\nne", "no\0ne"] {
                let content = repo.file(&tree, name);
                assert!(!matches!(content, Ok(Some(_))), "{name:?}");
            }
        }
        assert_eq!(repo.file(&absent, "plain").expect("read"), None);
        assert_eq!(process(&repo), first, "another process was started");
    }

    #[test]
    fn a_running_process_sees_what_is_hashed_later() {
        let (dir, repo) = repository();
        let mut trees = vec![repo.head().expect("a commit").tree];
        for content in ["first", "second"] {
            let path = dir.path().join("new.txt");
            std::fs::write(path, content).expect("written");
            trees.push(repo.working_tree().expect("a tree"));
            let read = trees.iter().map(|tree| repo.file(tree, "new.txt"));
            let read = read.map(|content| content.expect("read"));
            let last = read.last().flatten();
            assert_eq!(last.as_deref(), Some(content.as_bytes()));
        }
    }

    #[test]
    fn a_process_that_ended_is_replaced() {
        let (_dir, repo) = repository();
        let tree = repo.head().expect("a commit").tree;
        let read = || repo.file(&tree, "b.txt").expect("read");
        assert_eq!(read().as_deref(), Some(&b"b\n"[..]));
        let first = process(&repo);
        {
            let mut running = repo.batch.0.lock().unwrap_or_else(PoisonError::into_inner);
            let reader = running.as_mut().expect("a process");
            reader.process.kill().expect("ended");
        }
        assert_eq!(read().as_deref(), Some(&b"b\n"[..]));
        assert_eq!(read().as_deref(), Some(&b"b\n"[..]));
        assert!(process(&repo).is_some() && process(&repo) != first);
    }
}
