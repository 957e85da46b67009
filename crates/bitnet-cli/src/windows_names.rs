//! Reserved device names of Windows, which apply in every folder: opening `con` would
//! read from the keyboard, and output to `nul` is discarded.

use std::path::{Component, Path};

use crate::error::UsageError;

/// Devices without a number.
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];

/// Returns an error on Windows if a path names a device.
pub fn refuse_device(path: &Path) -> Result<(), UsageError> {
    match path.to_str() {
        Some(text) if cfg!(windows) && is_device(path) => Err(UsageError(format!(
            "{text} is the name of a device on Windows, expected that of a file or folder"
        ))),
        _ => Ok(()),
    }
}

/// Returns whether Windows treats a path as a device.
fn is_device(path: &Path) -> bool {
    // `\\?\C:\con` is a verbatim path, not a device.
    let verbatim = matches!(
        path.components().next(),
        Some(Component::Prefix(prefix)) if prefix.kind().is_verbatim()
    );
    let name = path.file_name().and_then(|name| name.to_str());
    !verbatim && name.is_some_and(is_device_name)
}

/// Returns whether Windows treats a name as a device in any folder, with any extension
/// and any trailing spaces or colon.
pub fn is_device_name(name: &str) -> bool {
    let stem = name.split(['.', ':']).next().unwrap_or_default();
    let stem = stem.trim_end_matches(' ').to_uppercase();
    let numbered = |device: &str| {
        let number = stem.strip_prefix(device).unwrap_or_default();
        // Superscripts count as digits.
        let mut digits = number.chars();
        matches!(digits.next(), Some('1'..='9' | '¹' | '²' | '³')) && digits.next().is_none()
    };
    DEVICES.contains(&stem.as_str()) || numbered("COM") || numbered("LPT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_with_and_without_extension() {
        for name in [
            "con",
            "CON",
            "nul",
            "aux.gguf",
            "prn.tar.gz",
            "com1",
            "Lpt9.txt",
            "com²",
            "nul:",
            "con .gguf",
            "conin$",
        ] {
            assert!(is_device_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "model.gguf",
            "con-2b.gguf",
            "console",
            "com",
            "com0",
            "com10",
            "lpt",
            "nul1",
            "a.con",
            "config.json",
            ".con",
        ] {
            assert!(!is_device_name(name), "{name}");
        }
    }

    #[test]
    fn only_the_last_part_of_a_path_counts() {
        assert!(is_device(Path::new("folder/nul")));
        assert!(!is_device(Path::new("con/model.gguf")));
        assert_eq!(refuse_device(Path::new("nul")).is_err(), cfg!(windows));
    }

    #[test]
    #[cfg(windows)]
    fn windows_paths_of_every_kind_are_understood() {
        for path in [r"C:con", r"C:\folder\con.gguf", r"\\server\share\nul"] {
            assert!(is_device(Path::new(path)), "{path}");
        }
        for path in [r"C:model.gguf", r"\\?\C:\con", r"\\server\share\model.gguf"] {
            assert!(!is_device(Path::new(path)), "{path}");
        }
    }
}
