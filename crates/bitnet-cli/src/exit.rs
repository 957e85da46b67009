//! Error reporting: message, hint, exit code.

use std::io;
use std::path::Path;

use bitnet_core::IsaError;
use bitnet_inference::convert::ConvertError;
use bitnet_inference::gguf::GgufError;
use bitnet_inference::{
    CheckpointError, DeviceError, EmptyStopError, GenerateError, MemoryLimitError, PlanError,
    SamplerError, TokenizerError,
};
use safetensors::SafeTensorError;

use crate::client::ClientError;
use crate::commands::pull;
use crate::error::{
    INTERRUPTED, Interrupted, NoChatTemplate, RefusedLines, Unverified, UsageError,
};
use crate::hub::{HubError, Repository};
use crate::pulled::NotPulled;
use crate::ui::Ui;

/// The exit code of a program that has done what it was asked for.
pub const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// What is wrong, for a program that contains this one.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The message, with its causes.
    pub message: String,
    /// What may help, in terms of the command line.
    pub hint: Option<String>,
    /// Whether it is due to the arguments alone.
    pub is_usage: bool,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            message: message(&error),
            hint: hint(&error),
            is_usage: is_usage(&error),
        }
    }
}

/// Returns the message of an error with its causes, on one line.
fn message(error: &anyhow::Error) -> String {
    // Messages of dependencies may have several lines.
    let message = format!("{error:#}");
    let lines: Vec<_> = message.lines().map(str::trim).collect();
    lines.join(" ")
}

/// Prints an error and a hint, and returns the exit code.
pub fn report(error: &anyhow::Error, ui: &Ui) -> u8 {
    let is_broken_pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    if find(error).is_some_and(is_broken_pipe) && find::<ClientError>(error).is_none() {
        // The reader closed the pipe.
        return DONE;
    }
    if find::<Interrupted>(error).is_some() {
        return INTERRUPTED;
    }
    if find::<Unverified>(error).is_some() {
        return FAILED;
    }
    ui.error(&message(error));
    if let Some(hint) = hint(error) {
        ui.hint(&hint);
    }
    if matches!(find(error), Some(ConvertError::Interrupted))
        || matches!(find(error), Some(HubError::Interrupted { .. }))
    {
        INTERRUPTED
    } else if is_usage(error) {
        USAGE
    } else {
        FAILED
    }
}

/// Exits with an error because a mapped model file was truncated: the thread that
/// accesses the missing pages cannot continue.
#[cfg(unix)]
pub fn exit_for_shortened_file(file: &std::path::Path, ui: &Ui) -> ! {
    ui.error(&format!("{} was truncated while in use", file.display()));
    std::process::exit(FAILED.into())
}

/// Returns the first error of this type in the chain of causes.
fn find<E: std::error::Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// Returns whether the error is due to the arguments alone.
fn is_usage(error: &anyhow::Error) -> bool {
    find::<UsageError>(error).is_some()
        || find::<NoChatTemplate>(error).is_some()
        || find::<RefusedLines>(error).is_some()
        || find::<SamplerError>(error).is_some()
        || find::<EmptyStopError>(error).is_some()
        || matches!(
            find(error),
            Some(IsaError::Unknown { .. } | IsaError::Ambiguous { .. })
        )
        || matches!(
            find(error),
            Some(
                PlanError::Threads { .. }
                    | PlanError::Context { .. }
                    | PlanError::Sequences { .. }
                    | PlanError::Pin(_)
            )
        )
        || matches!(
            find(error),
            Some(GenerateError::EmptyPrompt | GenerateError::PromptTooLong { .. })
        )
        || matches!(find(error), Some(ConvertError::HeadType { .. }))
}

/// Returns a hint for the user, if there is one.
fn hint(error: &anyhow::Error) -> Option<String> {
    let hint = if let Some(CheckpointError::Read { file, source }) = find(error)
        && source.kind() == io::ErrorKind::NotFound
        && let Some(name) = repository_name(file)
    {
        return Some(format!(
            "if this is a model of a hub, `bitnet pull {name}` downloads it"
        ));
    } else if let Some(cause) = find::<CheckpointError>(error) {
        checkpoint_hint(cause)?
    } else if let Some(TokenizerError::Read { .. }) = find(error) {
        "download this file of the model, too; `bitnet logits` works without it"
    } else if let Some(TokenizerError::Unsupported { key, .. }) = find(error)
        && key.ends_with("tokenizer.model")
    {
        "have tokenizer.json made of it, with Python's transformers: \
         AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    } else if let Some(PlanError::Context { limit, .. }) = find(error) {
        return Some(format!("try `-c {limit}` or less"));
    } else if let Some(PlanError::MemoryLimit(error)) = find(error) {
        return Some(limit_hint(error));
    } else if let Some(PlanError::Memory { .. }) = find(error) {
        "a shorter context takes less: try `-c 512`"
    } else if let Some(IsaError::NotSupported { .. }) = find(error) {
        "`--kernel scalar` runs everywhere"
    } else if find::<DeviceError>(error).is_some()
        || matches!(find(error), Some(PlanError::Device(_)))
    {
        "`--device cpu` runs everywhere; `bitnet devices` shows what there is"
    } else if let Some(cause) = find::<ClientError>(error) {
        cause.hint()?
    } else if let Some(cause) = find::<HubError>(error) {
        return pull::hint(cause);
    } else if let Some(cause) = find::<NotPulled>(error) {
        return Some(cause.hint());
    } else if let Some(NoChatTemplate { .. }) = find(error) {
        "`bitnet run` continues texts; `--chat-template` takes one of the program's, or yours"
    } else if let Some(GenerateError::EmptyPrompt) = find(error) {
        "try `bitnet run \"Once upon a time\"`"
    } else if let Some(GenerateError::PromptTooLong { .. }) = find(error) {
        "give a larger context with `-c`, or a shorter prompt"
    } else {
        match find(error)? {
            ConvertError::Exists { .. } => "`--force` replaces it",
            ConvertError::Shape { .. } => "try another type with `--head`, such as q8_0",
            ConvertError::HeadType { .. } => "try `--head bf16`",
            ConvertError::WriteInto { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "make the folder first"
            }
            ConvertError::NotReplaceable { .. } => "name a new folder",
            ConvertError::Kind { .. } => "a GGUF file can store it: `--to gguf-tq2_0`",
            ConvertError::NotTernary => "convert is for ternary models; this one is read as it is",
            _ => return None,
        }
    };
    Some(hint.to_owned())
}

/// Returns the repository name that a missing path may be: a path of two parts whose
/// first part does not exist either.
fn repository_name(path: &Path) -> Option<&str> {
    let is_file = path
        .extension()
        .is_some_and(|end| end == "gguf" || end == "safetensors");
    let name = path
        .to_str()
        .filter(|name| Repository::parse(name).is_some())?;
    (!is_file && !path.parent()?.is_dir()).then_some(name)
}

/// Returns the options with which the model fits into the memory limit.
fn limit_hint(error: &MemoryLimitError) -> String {
    let fits = error.fits.iter().map(|fit| {
        // The only lower precision is int8.
        let option = |is_less, option| if is_less { option } else { "" };
        let kv = option(
            fit.kv_precision != error.requested.kv_precision,
            " --kv int8",
        );
        let head = option(fit.head != error.requested.head, " --head int8");
        format!("`-c {}{kv}{head}`", fit.context_len)
    });
    let fits: Vec<_> = fits.collect();
    if fits.is_empty() {
        return "no context fits: give it more memory, or take a smaller model".to_owned();
    }
    format!("what fits: {}", fits.join(", or "))
}

/// Hint for a repository that was cloned without its large files.
const POINTER: &str = "this looks like a Git LFS pointer instead of the file: \
                       `git lfs pull` downloads it";

fn checkpoint_hint(error: &CheckpointError) -> Option<&'static str> {
    let damaged = "if this was downloaded, compare its size and checksum with the original";
    let hint = match error {
        CheckpointError::Read { file, source } if source.kind() == io::ErrorKind::NotFound => {
            if file.with_file_name("config.json").is_file() {
                "download this file of the model, too"
            } else {
                "a model is a GGUF file, a HuggingFace folder, or `builtin`"
            }
        }
        CheckpointError::NotAModel { .. } => {
            "download a model's files into one folder, or name a GGUF file inside it"
        }
        CheckpointError::Gguf(GgufError::WrongMagic {
            found: [b'v', b'e', b'r', b's'],
        })
        | CheckpointError::SafeTensors {
            source: SafeTensorError::HeaderTooLarge,
            ..
        } => POINTER,
        CheckpointError::Gguf(GgufError::WrongMagic { found: [b'<', ..] }) => {
            "this is an HTML page; download the file itself"
        }
        CheckpointError::MissingTensor { name } if name == "token_embd.weight" => {
            "a file of a vocabulary alone has no weights: take the one of the whole model"
        }
        CheckpointError::Gguf(GgufError::WrongMagic { .. }) => {
            "for SafeTensors, pass the folder that contains them and config.json"
        }
        CheckpointError::Gguf(GgufError::BigEndian | GgufError::UnsupportedVersion { .. }) => {
            return None;
        }
        CheckpointError::Gguf(_)
        | CheckpointError::TensorBytes { .. }
        | CheckpointError::NotFinite { .. }
        | CheckpointError::SafeTensors { .. }
        | CheckpointError::Json { .. } => damaged,
        CheckpointError::WrongEncoding { .. } | CheckpointError::UnknownType { .. } => {
            "take the model as GGUF in I2_S, TQ1_0 or TQ2_0, or as a packed HuggingFace folder"
        }
        CheckpointError::Tiled { .. } => {
            "take the model's I2_S file or HuggingFace folder, \
             or make one with bitnet.cpp: `python setup_env.py -q i2_s`"
        }
        CheckpointError::MissingKey { key } if key == "quantization_config" => {
            "only models with ternary weights can be run: BitNet b1.58 and its family"
        }
        _ => return None,
    };
    Some(hint)
}
