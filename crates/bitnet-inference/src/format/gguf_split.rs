//! Models split into several GGUF files: `NAME-00001-of-00003.gguf` and so on.
//!
//! Each part is a GGUF file with `split.no` (from 0) and `split.count`; the first
//! has the metadata of the model, each has some of the tensors, and
//! `split.tensors.count` is their total number. Any part can be opened.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::checkpoint::CheckpointError;
use super::gguf::Gguf;
use super::mapping::FileBytes;

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Reads a file, and all other parts if the model is split.
/// `file` of a tensor is an index into the files that are returned.
pub(crate) fn open(path: &Path) -> Result<(Gguf, Vec<FileBytes>), CheckpointError> {
    let given = read(path)?;
    let gguf = Gguf::parse(&given)?;
    let count = gguf.unsigned(COUNT)?.unwrap_or(1);
    if count <= 1 {
        return Ok((gguf, vec![given]));
    }
    let name = PartName::of(path).filter(|name| name.count == count);
    let Some(name) = name else {
        return Err(CheckpointError::SplitName {
            file: path.to_owned(),
            count,
        });
    };
    drop((gguf, given));
    // Names have five digits.
    join((0..count as u32).map(|no| {
        let path = name.path(no.into());
        Ok((read(&path)?, path))
    }))
}

/// Joins all parts of a split model, in their order, with their names.
pub(crate) fn join(
    parts: impl ExactSizeIterator<Item = Result<(FileBytes, PathBuf), CheckpointError>>,
) -> Result<(Gguf, Vec<FileBytes>), CheckpointError> {
    let count = parts.len() as u64;
    let mut whole: Option<(Gguf, PathBuf)> = None;
    let mut files = Vec::new();
    for (no, part) in (0..).zip(parts) {
        let (file, path) = part?;
        let part = Gguf::parse(&file).map_err(|source| CheckpointError::SplitPart {
            file: path.clone(),
            source,
        })?;
        for (key, expected) in [(NO, no), (COUNT, count)] {
            let found = part.unsigned(key)?;
            if found != Some(expected) {
                return Err(CheckpointError::Split {
                    file: path,
                    key,
                    expected,
                    found,
                });
            }
        }
        match &mut whole {
            None => whole = Some((part, path)),
            Some((whole, _)) => whole.append(part, files.len())?,
        }
        files.push(file);
    }
    let (whole, first) = whole.expect("there are at least two parts");
    let n_tensors = whole.tensors().len() as u64;
    match whole.unsigned(TENSORS)? {
        Some(declared) if declared != n_tensors => Err(CheckpointError::Split {
            file: first,
            key: TENSORS,
            expected: n_tensors,
            found: Some(declared),
        }),
        _ => Ok((whole, files)),
    }
}

fn read(path: &Path) -> Result<FileBytes, CheckpointError> {
    FileBytes::open(path).map_err(|source| CheckpointError::Read {
        file: path.to_owned(),
        source,
    })
}

/// `…/NAME-00001-of-00003.gguf`
#[derive(Debug, PartialEq, Eq)]
struct PartName {
    /// `…/NAME`
    prefix: PathBuf,
    count: u64,
}

impl PartName {
    fn of(path: &Path) -> Option<Self> {
        const END: &str = "-00001-of-00002.gguf";
        let name = path.file_name()?;
        // On platforms where names may be any bytes, only the suffix must be text.
        let bytes = name.as_encoded_bytes();
        let at = bytes.len().checked_sub(END.len())?;
        let end = str::from_utf8(&bytes[at..]).ok()?;
        let (no, count) = end
            .strip_prefix('-')?
            .strip_suffix(".gguf")?
            .split_once("-of-")?;
        let number = |digits: &str| {
            let is_number = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| digits.parse::<u64>().ok()).flatten()
        };
        let (no, count) = (number(no)?, number(count)?);
        (1..=count).contains(&no).then_some(())?;
        Some(Self {
            prefix: path.with_file_name(beginning(name, at)?),
            count,
        })
    }

    /// Returns the path of part `no`, counted from 0.
    fn path(&self, no: u64) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!("-{:05}-of-{:05}.gguf", no + 1, self.count));
        path.into()
    }
}

/// Returns the first `n_bytes` of a name.
#[cfg(unix)]
#[expect(
    clippy::unnecessary_wraps,
    reason = "other systems cannot cut every name"
)]
fn beginning(name: &OsStr, n_bytes: usize) -> Option<&OsStr> {
    use std::os::unix::ffi::OsStrExt;
    Some(OsStr::from_bytes(&name.as_bytes()[..n_bytes]))
}

/// Returns the first `n_bytes` of a name, if it is UTF-8.
#[cfg(not(unix))]
fn beginning(name: &OsStr, n_bytes: usize) -> Option<&OsStr> {
    Some(name.to_str()?.get(..n_bytes)?.as_ref())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::gguf::{GgufWriter, Value};
    use super::*;

    #[test]
    fn parts_are_known_by_their_names() {
        let name = PartName::of(Path::new("dir/a-b-00002-of-00012.gguf")).unwrap();
        assert_eq!(name.count, 12);
        assert_eq!(name.path(0), Path::new("dir/a-b-00001-of-00012.gguf"));
        for other in [
            "a.gguf",
            "a-00001-of-00002.bin",
            "a-0001-of-0002.gguf",
            "a-00000-of-00002.gguf",
            "a-00003-of-00002.gguf",
            "a-+0001-of-00002.gguf",
            "00001-of-00002.gguf",
        ] {
            assert_eq!(PartName::of(Path::new(other)), None, "{other}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_may_be_other_than_text() {
        use std::os::unix::ffi::OsStrExt;
        let path = |name: &'static [u8]| Path::new(OsStr::from_bytes(name));
        let name = PartName::of(path(b"caf\xe9-00002-of-00002.gguf")).unwrap();
        assert_eq!(name.path(0), path(b"caf\xe9-00001-of-00002.gguf"));
        assert_eq!(PartName::of(path(b"\xe9\xe9-00001-of-0000\xe9.gguf")), None);
    }

    /// Part `no` of `count` with tensors that hold one byte each.
    fn part(no: u16, count: u16, n_tensors: i32, tensors: &[(&str, u8)]) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        writer.metadata(NO, Value::U16(no));
        writer.metadata(COUNT, Value::U16(count));
        writer.metadata(TENSORS, Value::I32(n_tensors));
        if no == 0 {
            writer.metadata("model", Value::U8(7));
        }
        for (name, _) in tensors {
            writer.tensor(*name, &[1], 24, 1);
        }
        let data = |i: usize, out: &mut dyn io::Write| out.write_all(&[tensors[i].1]);
        writer.write(Vec::new(), data).unwrap()
    }

    /// Files by name.
    type Parts = Vec<(&'static str, Vec<u8>)>;

    fn folder(parts: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in parts {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    const FIRST: &str = "m-00001-of-00002.gguf";
    const SECOND: &str = "m-00002-of-00002.gguf";

    #[test]
    fn every_part_leads_to_the_whole() {
        let folder = folder(&[
            // As written by llama-gguf-split --no-tensor-first-split.
            ("m-00001-of-00003.gguf", part(0, 3, 3, &[])),
            (
                "m-00002-of-00003.gguf",
                part(1, 3, 3, &[("a", 10), ("b", 11)]),
            ),
            ("m-00003-of-00003.gguf", part(2, 3, 3, &[("c", 12)])),
        ]);
        for named in ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"] {
            let (gguf, files) = open(&folder.path().join(named)).unwrap();
            assert_eq!(gguf.unsigned("model"), Ok(Some(7)));
            let bytes: Vec<_> = (gguf.tensors().iter())
                .map(|t| (t.name.as_str(), files[t.file][t.offset as usize]))
                .collect();
            assert_eq!(bytes, [("a", 10), ("b", 11), ("c", 12)]);
        }
    }

    #[test]
    fn parts_that_lie_are_refused() {
        let first = || part(0, 2, 2, &[("a", 1)]);
        let second = || part(1, 2, 2, &[("b", 2)]);
        let error = |parts: &[(&str, Vec<u8>)], named: &str| {
            let folder = folder(parts);
            let error = open(&folder.path().join(named)).unwrap_err().to_string();
            error.replace(&folder.path().join("").display().to_string(), "")
        };
        let cases: [(Parts, &str, &str); 7] = [
            (
                vec![(FIRST, first())],
                FIRST,
                "cannot read m-00002-of-00002.gguf",
            ),
            (
                vec![(SECOND, second())],
                SECOND,
                "cannot read m-00001-of-00002.gguf",
            ),
            (
                // The same part twice.
                vec![(FIRST, first()), (SECOND, first())],
                FIRST,
                "m-00002-of-00002.gguf has split.no 0, expected 1",
            ),
            (
                vec![(FIRST, first()), (SECOND, part(1, 3, 2, &[("b", 2)]))],
                FIRST,
                "m-00002-of-00002.gguf has split.count 3, expected 2",
            ),
            (
                vec![("renamed.gguf", first()), (SECOND, second())],
                "renamed.gguf",
                "renamed.gguf is one of 2 parts, expected a name that ends in \
                 -0000N-of-00002.gguf",
            ),
            (
                vec![(FIRST, first()), (SECOND, part(1, 2, 2, &[("a", 2)]))],
                FIRST,
                "not a readable GGUF file",
            ),
            (
                vec![(FIRST, part(0, 2, 5, &[("a", 1)])), (SECOND, second())],
                FIRST,
                "m-00001-of-00002.gguf has split.tensors.count 5, expected 2",
            ),
        ];
        for (parts, named, expected) in cases {
            assert_eq!(error(&parts, named), expected);
        }
    }
}
