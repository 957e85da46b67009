//! Windows specifics: reserved device names, drives and shares, long paths, exclusive
//! file access.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::windows::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{PROMPT, bitnet_in, command, storyteller};

const STORY: &str = "Once upon a time there was a great noise of shouting\n";

/// Opens a file with a share mode; 0 is exclusive.
fn open_sharing(path: &Path, share: u32) -> File {
    let mut options = OpenOptions::new();
    options.read(true).share_mode(share).open(path).unwrap()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn paths_with_spaces_other_letters_and_any_length_work() {
    let root = tempfile::tempdir().unwrap();
    let long: PathBuf = std::iter::repeat_n("a folder of some length", 14).collect();
    for folder in [
        Path::new("with spaces"),
        Path::new("Ünïcode 日本"),
        long.as_path(),
    ] {
        let folder = root.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let model = folder.join("model.gguf");
        let model = model.to_str().unwrap();
        assert!(model.len() > 260 || !folder.ends_with("a folder of some length"));
        bitnet_in(root.path(), &["convert", "-q", "builtin", model]).quietly();
        let run = ["run", "-q", "--temp", "0", "-n", "4", "-m", model, PROMPT];
        assert_eq!(bitnet_in(root.path(), &run).quietly(), STORY);
        assert_eq!(names_in(&folder), ["model.gguf"]);
        // A verbatim path, without Windows' path normalization.
        let verbatim = format!(r"\\?\{model}");
        bitnet_in(root.path(), &["inspect", "-q", &verbatim]).quietly();
    }
}

#[test]
fn names_of_devices_are_refused_as_models_and_results() {
    let folder = tempfile::tempdir().unwrap();
    for device in ["con", "nul", "aux.gguf", r"C:\com1", "lpt1.txt"] {
        for args in [
            &["run", "-m", device, "x"][..],
            &["convert", "-q", "builtin", device, "--force"],
        ] {
            let run = bitnet_in(folder.path(), args);
            assert_eq!(run.code, Some(2), "{run:?}");
            let said = format!("error: {device} is the name of a device on Windows");
            assert!(run.stderr.starts_with(&said), "{run:?}");
        }
    }
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn drives_and_shares_that_are_not_there_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for path in [r"Q:\no\such.gguf", r"\\no-server.invalid\share\model.gguf"] {
        let run = bitnet_in(folder.path(), &["run", "-q", "-m", path, "x"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains(path), "{run:?}");
        let run = bitnet_in(folder.path(), &["convert", "-q", "builtin", path]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.starts_with("error: "), "{run:?}");
    }
    // A drive letter is not the owner of a repository.
    let run = bitnet_in(folder.path(), &["pull", "C:/x"]);
    assert_eq!(run.code, Some(2), "{run:?}");
}

#[test]
fn a_model_that_another_program_keeps_for_itself_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    std::fs::write(&model, storyteller()).unwrap();
    let held = open_sharing(&model, 0);
    let args = [
        "run",
        "-q",
        "--temp",
        "0",
        "-n",
        "4",
        "-m",
        "model.gguf",
        PROMPT,
    ];
    let run = bitnet_in(folder.path(), &args);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    assert!(run.stderr.starts_with("error: failed to load model.gguf: "));
    assert!(run.stderr.contains("cannot read model.gguf"), "{run:?}");
    drop(held);
    assert_eq!(bitnet_in(folder.path(), &args).quietly(), STORY);
}

#[test]
fn a_result_that_another_program_keeps_for_itself_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    std::fs::write(&out, "mine").unwrap();
    let args = ["convert", "-q", "builtin", "out.gguf", "--force"];
    let held = open_sharing(&out, 0);
    let run = bitnet_in(folder.path(), &args);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr
            .starts_with("error: failed to convert builtin to out.gguf: ")
    );
    drop(held);
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
    assert_eq!(names_in(folder.path()), ["out.gguf"]);
    bitnet_in(folder.path(), &args).quietly();
    assert_eq!(std::fs::read(&out).unwrap()[..4], *b"GGUF");
}

/// Replacement is atomic while readers that allow it have the file open, and while it is
/// mapped.
#[test]
fn a_file_that_is_open_or_mapped_is_replaced_in_whole_or_not_at_all() {
    const SHARE_ALL: u32 = 7;
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    let convert = ["convert", "-q", "builtin", "model.gguf", "--force"];
    let whole = |old: &[u8], code: Option<i32>| {
        let found = std::fs::read(&model).unwrap();
        match code {
            Some(0) => assert_eq!(found[..4], *b"GGUF"),
            _ => assert_eq!(found, old),
        }
        assert_eq!(names_in(folder.path()), ["model.gguf"]);
    };

    std::fs::write(&model, "mine").unwrap();
    let held = open_sharing(&model, SHARE_ALL);
    whole(b"mine", bitnet_in(folder.path(), &convert).code);
    drop(held);

    std::fs::write(&model, storyteller()).unwrap();
    let mut chat = command(
        folder.path(),
        &["chat", "-q", "-m", "model.gguf", "--temp", "0", "-n", "4"],
    );
    chat.args([
        "--chat-template",
        "{{ bos_token }}{{ messages[-1].content }}",
    ]);
    let mut chat = chat.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = chat.stdin.take().unwrap();
    writeln!(stdin, "{PROMPT}").unwrap();
    let mut stdout = std::io::BufReader::new(chat.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert_eq!(line, " great noise of shouting\n");
    let run = bitnet_in(
        folder.path(),
        &[&convert[..], &["--to", "gguf-tq1_0"]].concat(),
    );
    whole(&storyteller(), run.code);
    writeln!(stdin, "/exit").unwrap();
    assert_eq!(chat.wait().unwrap().code(), Some(0));
}
