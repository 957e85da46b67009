//! Writes measured numbers into documents, with the date and the machine beside what
//! proves them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use toml_edit::{DocumentMut, Item, value};

use super::{Checked, ClaimLocation, Claims, ClaimsError, FILE_NAME};
use crate::host::source::unix_lines;

/// Writes what was measured over what the documents say, and `measured` beside what proves
/// it. Returns the paths that were written, from `root`. Each file is written whole and
/// renamed.
pub fn update(
    root: &Path,
    claims: &Claims,
    measured: &[Checked],
    when_and_where: &str,
) -> Result<Vec<String>, ClaimsError> {
    let mut edits: BTreeMap<&str, Vec<(std::ops::Range<usize>, String)>> = BTreeMap::new();
    let mut defined = Vec::new();
    for checked in measured {
        let Some(found) = checked.found else {
            continue;
        };
        let claim = &checked.claim;
        let of_document = edits.entry(&claim.document).or_default();
        of_document.push((claim.number.at.clone(), claim.number.write(found)));
        match &claim.location {
            ClaimLocation::File(at) => defined.push(*at),
            ClaimLocation::Marker(content) => {
                let text = &claims.document(claim).text[content.clone()];
                of_document.push((content.clone(), with_measured(text, when_and_where)));
            }
        }
    }
    let mut written = Vec::new();
    for (path, mut edits) in edits {
        let document = claims.documents.iter().find(|d| d.path == path);
        let mut text = document.expect("its claims were read from it").text.clone();
        // From the end, so that the places before stay where they are.
        edits.sort_by_key(|(at, _)| std::cmp::Reverse(at.start));
        edits.dedup_by(|a, b| a.0 == b.0);
        for (at, new) in edits {
            text.replace_range(at, &new);
        }
        replace(&root.join(path), &text)?;
        written.push(path.to_owned());
    }
    if !defined.is_empty() {
        let path = root.join(FILE_NAME);
        let text = super::read(&path)?;
        let form = |message: String| ClaimsError::Form {
            path: FILE_NAME.to_owned(),
            line: 1,
            message,
        };
        let mut file: DocumentMut = text
            .parse()
            .map_err(|e: toml_edit::TomlError| form(e.to_string()))?;
        let list = file.get_mut("claim").and_then(Item::as_array_of_tables_mut);
        let list =
            list.ok_or_else(|| form("the claims are not written as [[claim]]".to_owned()))?;
        for at in defined {
            if let Some(table) = list.get_mut(at) {
                table["measured"] = value(when_and_where);
            }
        }
        let mut new = file.to_string();
        if text.contains("\r\n") {
            // The line ends stay what they are.
            new = unix_lines(&new).replace('\n', "\r\n");
        }
        replace(&path, &new)?;
        written.push(FILE_NAME.to_owned());
    }
    Ok(written)
}

/// What a marker says, with when and on what its number was measured. Two dashes would end
/// the comment.
fn with_measured(content: &str, when_and_where: &str) -> String {
    let before = content
        .rsplit_once(", measured = \"")
        .map_or(content, |(before, _)| before);
    let safe = when_and_where.replace("--", "-").replace(['"', '\\'], "'");
    format!("{before}, measured = \"{safe}\"")
}

/// Writes a file whole, beside its place, and renames it.
fn replace(path: &Path, text: &str) -> Result<(), ClaimsError> {
    let error = |source| ClaimsError::File {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(error)?;
    file.write_all(text.as_bytes()).map_err(error)?;
    if let Ok(meta) = std::fs::metadata(path) {
        file.as_file()
            .set_permissions(meta.permissions())
            .map_err(error)?;
    }
    file.as_file().sync_all().map_err(error)?;
    file.persist(path).map_err(|failed| error(failed.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::ClaimState;

    #[test]
    fn line_ends_stay_what_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "# Size\r\n\r\nIt takes 11.5 MB<!-- claim: size -->.\r\n";
        let definitions = "[[claim]]\r\nname = \"size\"\r\ncommand = \"s\"\r\n";
        std::fs::write(folder.path().join("a.md"), text).expect("written");
        std::fs::write(folder.path().join(FILE_NAME), definitions).expect("written");
        let claims = Claims::of(vec![("a.md".to_owned(), text.to_owned())], definitions);
        let claims = claims.expect("valid");
        let checked = Checked {
            claim: claims.list[0].clone(),
            state: ClaimState::Broken,
            found: Some(12.04),
            reason: String::new(),
        };
        update(folder.path(), &claims, &[checked], "today").expect("written");
        let read = |name| std::fs::read_to_string(folder.path().join(name)).expect("read");
        assert_eq!(read("a.md"), text.replace("11.5", "12.0"));
        assert_eq!(
            read(FILE_NAME),
            format!("{definitions}measured = \"today\"\r\n")
        );
    }

    #[test]
    fn numbers_are_rewritten_and_nothing_else_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "It takes 11.5 MB<!-- claim: size -->, 1 074 ms\
                    <!-- claim: command = \"t\", relation = \"<=\", measured = \"long ago\" -->.\n";
        let definitions =
            "# Kept.\n[[claim]]\nname = \"size\" # so it is called\ncommand = \"s\"\n";
        std::fs::write(folder.path().join("a.md"), text).expect("written");
        std::fs::write(folder.path().join(FILE_NAME), definitions).expect("written");
        let claims = Claims::of(vec![("a.md".to_owned(), text.to_owned())], definitions);
        let claims = claims.expect("valid");
        let checked = |at: usize, found| Checked {
            claim: claims.list[at].clone(),
            state: ClaimState::Broken,
            found: Some(found),
            reason: String::new(),
        };
        let measured = [checked(0, 12.04), checked(1, 986.3)];
        let written = update(folder.path(), &claims, &measured, "2026-11-26, \"x\" -- y");
        assert_eq!(written.expect("written"), ["a.md", FILE_NAME]);
        let read = |name| std::fs::read_to_string(folder.path().join(name)).expect("read");
        assert_eq!(
            read("a.md"),
            "It takes 12.0 MB<!-- claim: size -->, 986 ms<!-- claim: command = \"t\", \
             relation = \"<=\", measured = \"2026-11-26, 'x' - y\" -->.\n"
        );
        let file = read(FILE_NAME);
        assert!(file.starts_with(definitions), "{file}");
        assert!(
            file.contains("measured = '2026-11-26, \"x\" -- y'"),
            "{file}"
        );
        // What was written is read again.
        Claims::of(vec![("a.md".to_owned(), read("a.md"))], &file).expect("valid");
    }
}
