//! Notes on irregular models that are accepted.

use std::fmt;

/// An irregularity of a model that is not an error: a wrong or missing value that other
/// programs interpret in the same way, or weights that no trained model has.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// Tensors that are not weights were ignored: buffers that are computed at run time.
    IgnoredTensors {
        /// The first.
        name: String,
        /// The number of such tensors.
        count: usize,
    },
    /// A key is missing, and the default of `transformers` is used.
    MissingKey {
        /// The key.
        key: String,
        /// The default.
        taken: String,
    },
    /// A key of the architecture is unknown and ignored.
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A duplicate metadata key with the same value.
    RepeatedKey {
        /// The key.
        key: String,
    },
    /// A metadata string is not UTF-8; invalid bytes are replaced by U+FFFD.
    NotUtf8 {
        /// The key.
        key: String,
    },
    /// A boolean is stored as neither 0 nor 1, and read as true.
    OddBool {
        /// The key.
        key: String,
    },
    /// A JSON file is not standard JSON, but accepted by Python's parser.
    LaxJson {
        /// The name of the file.
        file: String,
    },
    /// The shards of an index are missing, and a single file is read instead.
    IndexWithoutShards {
        /// The shard that is missing.
        shard: String,
    },
    /// The context length exceeds the limit.
    ContextLength {
        /// The value in the file.
        found: usize,
        /// The value used.
        taken: usize,
    },
    /// Dynamic RoPE scaling, which has no effect within the trained context, the longest
    /// supported one.
    DynamicRope {
        /// That context.
        context_len: usize,
    },
    /// Every value of a tensor is zero.
    AllZero {
        /// The first such tensor.
        name: String,
        /// The number of such tensors.
        count: usize,
    },
    /// The packed weights in a cache are not used: their file is damaged.
    CachedWeights {
        /// The file.
        file: String,
        /// Why it is not used.
        error: String,
    },
    /// A scale or norm weight is outside of the range of trained models.
    Extreme {
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
    },
}

impl Note {
    /// The magnitudes of scales and norm weights that give no note. Most scales are near
    /// 1/sqrt(width), and published ones are between 1e-4 and 1e3; these bounds add eight
    /// decimal places, and squares of values outside soon overflow f32.
    pub const USUAL: std::ops::RangeInclusive<f32> = 1e-12..=1e12;

    /// Returns whether the model may be damaged.
    pub fn is_warning(&self) -> bool {
        matches!(self, Self::AllZero { .. } | Self::Extreme { .. })
    }
}

/// Maximum number of notes; a malicious file could cause millions.
const MAX_NOTES: usize = 64;

/// Adds a note; notes of one kind on several tensors are merged.
pub(crate) fn add(notes: &mut Vec<Note>, note: Note) {
    if let Some(count) = notes.iter_mut().find_map(|known| same(known, &note)) {
        *count += 1;
    } else if notes.len() < MAX_NOTES && !notes.contains(&note) {
        notes.push(note);
    }
}

/// Returns the count of `known` if `note` is of the same kind.
fn same<'a>(known: &'a mut Note, note: &Note) -> Option<&'a mut usize> {
    match (known, note) {
        (Note::IgnoredTensors { count, .. }, Note::IgnoredTensors { .. })
        | (Note::AllZero { count, .. }, Note::AllZero { .. }) => Some(count),
        _ => None,
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = |count: usize| match count {
            0 | 1 => String::new(),
            2 => " and one more".to_owned(),
            n => format!(" and {} more", n - 1),
        };
        match self {
            Self::IgnoredTensors { name, count } => write!(
                f,
                "tensor {name:?}{} ignored: not a weight, but a computed buffer",
                more(*count)
            ),
            Self::MissingKey { key, taken } => {
                write!(
                    f,
                    "key {key:?} is missing: using {taken}, as transformers does"
                )
            }
            Self::UnknownKey { key } => write!(f, "metadata {key:?} is unknown and ignored"),
            Self::RepeatedKey { key } => {
                write!(f, "metadata {key:?} is duplicated, with the same value")
            }
            Self::NotUtf8 { key } => write!(f, "metadata {key:?} is not UTF-8 throughout"),
            Self::OddBool { key } => write!(
                f,
                "metadata {key:?} is a bool stored as neither 0 nor 1, read as true"
            ),
            Self::LaxJson { file } => write!(f, "{file} is not standard JSON; parsed as by Python"),
            Self::IndexWithoutShards { shard } => write!(
                f,
                "the index names {shard}, which is missing; model.safetensors is read instead"
            ),
            Self::ContextLength { found, taken } => {
                write!(f, "the context length is {found}: using {taken}")
            }
            Self::DynamicRope { context_len } => write!(
                f,
                "RoPE scaling \"dynamic\" has no effect within {context_len} positions, and \
                 more are not supported"
            ),
            Self::AllZero { name, count } => {
                write!(f, "tensor {name:?}{}: every value is zero", more(*count))
            }
            Self::CachedWeights { file, error } => {
                write!(f, "packed weights not used: {file}: {error}")
            }
            Self::Extreme { name, value } => write!(
                f,
                "tensor {name:?} has a scale or norm of {value:e}, expected a magnitude of {:e} \
                 to {:e}",
                Self::USUAL.start(),
                Self::USUAL.end()
            ),
        }
    }
}
