//! Selection of a model among the files of a repository.

/// Weight types as they occur in file names, in order of preference: ternary types by
/// speed, then dense types by closeness to the original.
const TYPES: [&str; 24] = [
    "i2_s", "tq2_0", "tq1_0", "q2_0", "pq2_0", "iq2_bn", "ptq1_0", "iq1_bn", "q1_0", "q8_0",
    "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "q3_k", "q2_k", "bf16", "f16", "fp16",
    "f32", "fp32",
];
/// How many of [`TYPES`] are ternary.
const TERNARY: usize = 9;
/// Unsupported types: selected last.
const NOT_READ: [&str; 12] = [
    "tl1", "tl2", "mxfp4", "nvfp4", "iq4_nl", "iq4_xs", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs",
    "iq2_xxs", "iq1_m",
];
/// Name parts of GGUF files that are not language models.
const COMPANIONS: [&str; 3] = ["mmproj", "imatrix", "ggml-vocab"];
/// Files of a SafeTensors model besides the weights.
const BESIDE_SAFETENSORS: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
    "added_tokens.json",
];

/// The files of one model, as indices into the given paths.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// All files of the model, in order.
    pub files: Vec<usize>,
    /// The path to open.
    pub entry: Entry,
    /// The other candidates: the first file of each GGUF model, or a file of each
    /// folder.
    pub others: Vec<usize>,
    /// The reason for the selection.
    pub reason: &'static str,
}

/// The path for `-m`.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file; of a split model, its first.
    File(usize),
    /// A folder; empty for the top level.
    Folder(String),
}

/// Why no model was selected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// No file is a model.
    #[error("there is neither a GGUF nor a SafeTensors file")]
    NoModel,
    /// No file, folder or type has this name.
    #[error("there is no file {name:?}")]
    NoFile {
        /// The requested name.
        name: String,
    },
}

/// Selects a model among files by their paths in a repository: by the name of a file, a
/// folder, or a type (or another word in its path), or the preferred one without a name.
///
/// # Errors
///
/// Returns an error if no file is a model or matches the name.
pub fn choose(paths: &[&str], name: Option<&str>) -> Result<Choice, ChoiceError> {
    let all: Vec<usize> = (0..paths.len()).collect();
    let Some(name) = name else {
        return choose_among(paths, &all, None).ok_or(ChoiceError::NoModel);
    };
    if let Some(file) = paths.iter().position(|path| *path == name) {
        // A split model needs all parts.
        let mut models = gguf_models(paths, &all).into_iter();
        let parts = models.find(|parts| parts.contains(&file));
        let files = parts.unwrap_or_else(|| vec![file]);
        return Ok(Choice {
            entry: Entry::File(files[0]),
            files,
            others: Vec::new(),
            reason: "as requested",
        });
    }
    let folder = format!("{}/", name.trim_end_matches('/'));
    let inside = all.iter().copied();
    let inside: Vec<_> = inside.filter(|&i| paths[i].starts_with(&folder)).collect();
    let chosen = if inside.is_empty() {
        choose_among(paths, &all, Some(&name.to_lowercase()))
    } else {
        choose_among(paths, &inside, None)
    };
    let name = name.to_owned();
    chosen.ok_or(ChoiceError::NoFile { name })
}

/// Selects among some of the files, and among GGUF files of type `ty` if it is given.
fn choose_among(paths: &[&str], among: &[usize], ty: Option<&str>) -> Option<Choice> {
    let mut models = gguf_models(paths, among);
    models.retain(|parts| {
        let path = paths[parts[0]];
        let is_companion = COMPANIONS.iter().any(|word| file_name(path).contains(word));
        !is_companion && ty.is_none_or(|ty| has_type(path, ty))
    });
    models.sort_by_key(|parts| {
        let path = paths[parts[0]];
        (rank(path), path.matches('/').count(), path)
    });
    if !models.is_empty() {
        let files = models.remove(0);
        let reason = match rank(paths[files[0]]) {
            rank if rank < TERNARY => "ternary weights that run fast come first",
            rank if rank < TYPES.len() => "it is the closest to the original that runs well",
            _ => "it is the first by name",
        };
        return Some(Choice {
            entry: Entry::File(files[0]),
            files,
            others: models.into_iter().map(|parts| parts[0]).collect(),
            reason,
        });
    }
    if ty.is_some() {
        return None;
    }
    let mut folders: Vec<(&str, usize)> = Vec::new();
    for &i in among {
        let folder = folder(paths[i]);
        let has_config = || {
            let config = |&i: &usize| paths[i].strip_prefix(folder) == Some("config.json");
            folder.is_empty() || among.iter().any(config)
        };
        if is_safetensors(paths[i]) && folders.iter().all(|f| f.0 != folder) && has_config() {
            folders.push((folder, i));
        }
    }
    folders.sort_by_key(|(folder, _)| (folder.matches('/').count(), *folder));
    let &(chosen, _) = folders.first()?;
    let belongs = |&&i: &&usize| {
        let name = paths[i].strip_prefix(chosen).unwrap_or_default();
        folder(paths[i]) == chosen && (is_safetensors(name) || BESIDE_SAFETENSORS.contains(&name))
    };
    Some(Choice {
        files: among.iter().filter(belongs).copied().collect(),
        entry: Entry::Folder(chosen.trim_end_matches('/').to_owned()),
        others: folders[1..].iter().map(|(_, weights)| *weights).collect(),
        reason: "it is the first by name",
    })
}

/// Returns the GGUF models, each with its parts in order.
fn gguf_models(paths: &[&str], among: &[usize]) -> Vec<Vec<usize>> {
    let mut models: Vec<Vec<usize>> = Vec::new();
    let mut files = among.to_vec();
    files.retain(|&i| is_gguf(paths[i]));
    files.sort_by_key(|&i| paths[i]);
    for file in files {
        let is_sister = |parts: &&mut Vec<usize>| whole(paths[parts[0]]) == whole(paths[file]);
        match models.iter_mut().find(is_sister) {
            Some(parts) => parts.push(file),
            None => models.push(vec![file]),
        }
    }
    models
}

/// Returns the preference of a file by its name; lower is better.
fn rank(path: &str) -> usize {
    if NOT_READ.iter().any(|ty| has_type(path, ty)) {
        return TYPES.len() + 1;
    }
    let ty = TYPES.iter().position(|ty| has_type(path, ty));
    ty.unwrap_or(TYPES.len())
}

/// Returns whether a path contains the name of a type as a whole word: `q2_0` is not in
/// `tq2_0`, but `q4_k` is in `q4_k_m`. The type is in lower case.
fn has_type(path: &str, ty: &str) -> bool {
    let path = path.to_lowercase();
    path.match_indices(ty).any(|(at, _)| {
        let before = path[..at].chars().next_back();
        let after = path[at + ty.len()..].chars().next();
        [before, after]
            .into_iter()
            .flatten()
            .all(|c| !c.is_alphanumeric())
    })
}

fn is_gguf(path: &str) -> bool {
    path.to_lowercase().ends_with(".gguf")
}

fn is_safetensors(path: &str) -> bool {
    path.ends_with(".safetensors")
}

fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_lowercase()
}

/// Returns the folder of a file with a trailing slash; empty for the top level.
fn folder(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..=at])
}

/// Returns the common name of the parts of a split file: `NAME` of
/// `NAME-00001-of-00003.gguf`.
fn whole(path: &str) -> &str {
    let part = || {
        let (name, _) = path.rsplit_once("-of-")?;
        let (name, number) = name.rsplit_once('-')?;
        (number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit())).then_some(name)
    };
    part().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what is chosen, then what leads to it, then what is not taken.
    fn chosen(paths: &[&str], name: Option<&str>) -> String {
        let choice = match choose(paths, name) {
            Ok(choice) => choice,
            Err(error) => return error.to_string(),
        };
        let names = |files: &[usize]| {
            let names: Vec<_> = files.iter().map(|&i| paths[i]).collect();
            names.join(" ")
        };
        let entry = match choice.entry {
            Entry::File(file) => paths[file].to_owned(),
            Entry::Folder(folder) => format!("{folder}/"),
        };
        let (files, others) = (names(&choice.files), names(&choice.others));
        format!("{files} | {entry} | {others}")
    }

    #[test]
    fn ternary_files_are_chosen_first_then_the_closest_to_the_original() {
        assert_eq!(
            chosen(&["README.md", "ggml-model-i2_s.gguf"], None),
            "ggml-model-i2_s.gguf | ggml-model-i2_s.gguf | "
        );
        let several = [
            "m-f16.gguf",
            "m-TQ1_0.gguf",
            "m-TQ2_0.gguf",
            "model.safetensors",
        ];
        assert_eq!(
            chosen(&several, None),
            "m-TQ2_0.gguf | m-TQ2_0.gguf | m-TQ1_0.gguf m-f16.gguf"
        );
        let dense = [
            "m.f16.gguf",
            "m.IQ3_XXS.gguf",
            "m.Q4_K_M.gguf",
            "m.Q8_0.gguf",
            "mmproj-m.Q8_0.gguf",
            "m.imatrix.gguf",
            "m.gguf",
        ];
        assert_eq!(
            chosen(&dense, None),
            "m.Q8_0.gguf | m.Q8_0.gguf | m.Q4_K_M.gguf m.f16.gguf m.gguf m.IQ3_XXS.gguf"
        );
        // No type is found inside the name of another.
        let alike = ["x-q8_0.gguf", "x-ptq1_0.gguf", "x-tq1_0.gguf"];
        assert!(chosen(&alike, None).starts_with("x-tq1_0.gguf "));
        assert_eq!(rank("x-q2_0.gguf"), 3);
    }

    #[test]
    fn parts_stay_together() {
        let split = ["b-00002-of-00002.gguf", "b-00001-of-00002.gguf", "x.bin"];
        let all = "b-00001-of-00002.gguf b-00002-of-00002.gguf | b-00001-of-00002.gguf | ";
        assert_eq!(chosen(&split, None), all);
        assert_eq!(chosen(&split, Some("b-00002-of-00002.gguf")), all);
        let folders = [
            "BF16/m-BF16-00001-of-00002.gguf",
            "BF16/m-BF16-00002-of-00002.gguf",
            "m-Q4_0.gguf",
        ];
        assert_eq!(
            chosen(&folders, Some("bf16")),
            "BF16/m-BF16-00001-of-00002.gguf BF16/m-BF16-00002-of-00002.gguf | \
             BF16/m-BF16-00001-of-00002.gguf | "
        );
    }

    #[test]
    fn folders_are_looked_into() {
        let paths = ["README.md", "Q2/x.gguf", "Q8/x-q8_0.gguf", "a/b/x.gguf"];
        assert_eq!(
            chosen(&paths, None),
            "Q8/x-q8_0.gguf | Q8/x-q8_0.gguf | Q2/x.gguf a/b/x.gguf"
        );
        for name in ["Q2/x.gguf", "Q2", "Q2/"] {
            assert_eq!(chosen(&paths, Some(name)), "Q2/x.gguf | Q2/x.gguf | ");
        }
        assert_eq!(
            chosen(&paths, Some("Q8_0")),
            "Q8/x-q8_0.gguf | Q8/x-q8_0.gguf | "
        );
        assert_eq!(
            chosen(&paths, Some("README.md")),
            "README.md | README.md | "
        );
        // A part of the path is enough.
        let two = chosen(&paths, Some("x.gguf"));
        assert_eq!(two, "Q2/x.gguf | Q2/x.gguf | a/b/x.gguf");
        assert_eq!(
            chosen(&paths, Some("y.gguf")),
            "there is no file \"y.gguf\""
        );
    }

    #[test]
    fn without_gguf_a_folder_is_chosen() {
        let outermost = [
            "LICENSE",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.safetensors",
            "tokenizer.json",
        ];
        assert_eq!(
            chosen(&outermost, None),
            "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors \
             model.safetensors.index.json tokenizer.json | / | "
        );
        let inner = [
            "README.md",
            "base/config.json",
            "base/model.safetensors",
            "base/tokenizer.json",
            "chat/config.json",
            "chat/model.safetensors",
            "onnx/model.safetensors",
        ];
        assert_eq!(
            chosen(&inner, None),
            "base/config.json base/model.safetensors base/tokenizer.json | base/ | \
             chat/model.safetensors"
        );
        assert_eq!(
            chosen(&inner, Some("chat")),
            "chat/config.json chat/model.safetensors | chat/ | "
        );
        let none = "there is neither a GGUF nor a SafeTensors file";
        assert_eq!(chosen(&["README.md", "mmproj.gguf"], None), none);
    }
}
