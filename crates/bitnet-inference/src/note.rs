//! What is odd about a model that is read all the same.

use std::fmt;

/// Something about a model that its user should know, and that is no error: what a
/// file says wrongly, or not at all, and other programs read as it is read here;
/// or weights that no trained model has.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// Tensors that are no weights were left out: buffers that a program computes
    /// by itself.
    IgnoredTensors {
        /// The first.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// A key is missing, and what `transformers` takes without it was taken.
    MissingKey {
        /// The key.
        key: String,
        /// What was taken.
        taken: String,
    },
    /// A key of the architecture is not known here, nor to change the computation.
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A metadata key is there twice, with the same value.
    RepeatedKey {
        /// The key.
        key: String,
    },
    /// A text of the metadata is not UTF-8; what is not shows as U+FFFD.
    NotUtf8 {
        /// The key.
        key: String,
    },
    /// A truth value is stored as neither 0 nor 1, and was taken as true.
    OddBool {
        /// The key.
        key: String,
    },
    /// A JSON file is written in a way that only Python's reader takes.
    LaxJson {
        /// The name of the file.
        file: String,
    },
    /// An index names shards that are not there, and one file has all tensors.
    IndexWithoutShards {
        /// The shard that is missing.
        shard: String,
    },
    /// The context is longer than any program could hold.
    ContextLength {
        /// What the file says.
        found: usize,
        /// What was taken.
        taken: usize,
    },
    /// Rotary frequencies that change beyond the context that the model was made
    /// for, which is the longest here.
    DynamicRope {
        /// That context.
        context_len: usize,
    },
    /// Every value of a tensor is zero.
    AllZero {
        /// The first such tensor.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// A scale or the weight of a norm is so small or so large that no trained model
    /// has it.
    Extreme {
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
    },
}

impl Note {
    /// The magnitudes that a scale or the weight of a norm may have without being
    /// told. Files store most scales as f16 or bf16 of weights near 1/sqrt(width), and
    /// published ones lie between 1e-4 and 1e3; these bounds leave eight decimal
    /// places more, and what is outside soon leaves f32 when it is squared.
    pub const USUAL: std::ops::RangeInclusive<f32> = 1e-12..=1e12;

    /// Returns whether the model may be damaged, not only its files unusual.
    pub fn is_warning(&self) -> bool {
        matches!(self, Self::AllZero { .. } | Self::Extreme { .. })
    }
}

/// As many as anybody reads: a file may give reason for millions.
const MAX_NOTES: usize = 64;

/// Adds a note; notes on tensors of one kind become one.
pub(crate) fn add(notes: &mut Vec<Note>, note: Note) {
    if let Some(count) = notes.iter_mut().find_map(|known| same(known, &note)) {
        *count += 1;
    } else if notes.len() < MAX_NOTES && !notes.contains(&note) {
        notes.push(note);
    }
}

/// Returns the count of a note on tensors of the same kind.
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
                "tensor {name:?}{} left out: no weight, but a buffer that is computed",
                more(*count)
            ),
            Self::MissingKey { key, taken } => {
                write!(
                    f,
                    "key {key:?} is missing: {taken} is taken, as transformers does"
                )
            }
            Self::UnknownKey { key } => write!(f, "metadata {key:?} is not known and ignored"),
            Self::RepeatedKey { key } => {
                write!(f, "metadata {key:?} is there twice, with the same value")
            }
            Self::NotUtf8 { key } => write!(f, "metadata {key:?} is not UTF-8 throughout"),
            Self::OddBool { key } => write!(
                f,
                "metadata {key:?} is a bool stored as neither 0 nor 1, taken as true"
            ),
            Self::LaxJson { file } => write!(
                f,
                "{file} is not JSON as the standard has it, and read as Python reads it"
            ),
            Self::IndexWithoutShards { shard } => write!(
                f,
                "the index names {shard}, which is not there; model.safetensors is read instead"
            ),
            Self::ContextLength { found, taken } => {
                write!(f, "the context length is {found}: {taken} is taken")
            }
            Self::DynamicRope { context_len } => write!(
                f,
                "RoPE scaling \"dynamic\" changes nothing within {context_len} positions, and \
                 more are not offered"
            ),
            Self::AllZero { name, count } => {
                write!(f, "tensor {name:?}{}: every value is zero", more(*count))
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
