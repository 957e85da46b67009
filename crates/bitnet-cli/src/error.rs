//! How the program ends when something fails: message, hint, exit code.

use std::io;
use std::process::ExitCode;

use bitnet_core::KernelError;
use bitnet_inference::convert::ConvertError;
use bitnet_inference::{CheckpointError, GenerateError, PlanError, SamplerError};

use crate::ui::Ui;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// 128 + SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// Arguments that are each well-formed but make no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The user pressed Ctrl-C.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Prints an error with what may help, and returns the exit code.
pub fn report(error: &anyhow::Error, ui: &Ui) -> ExitCode {
    if find::<io::Error>(error).is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
        // Whoever reads has seen enough.
        return ExitCode::SUCCESS;
    }
    if find::<Interrupted>(error).is_some()
        || matches!(find(error), Some(ConvertError::Interrupted))
    {
        ui.error("interrupted");
        return INTERRUPTED.into();
    }
    ui.error(&format!("{error:#}"));
    if let Some(hint) = hint(error) {
        ui.hint(&hint);
    }
    let usage = find::<UsageError>(error).is_some()
        || find::<SamplerError>(error).is_some()
        || matches!(find(error), Some(KernelError::Unknown { .. }))
        || matches!(find(error), Some(PlanError::Threads { .. }));
    if usage { USAGE } else { FAILED }.into()
}

/// Returns the first error of this type in the chain of causes.
fn find<E: std::error::Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// Returns what the user can do about it.
fn hint(error: &anyhow::Error) -> Option<String> {
    if let Some(cause) = find::<CheckpointError>(error) {
        return match cause {
            CheckpointError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("a model is a GGUF file, a HuggingFace folder, or `builtin`".to_owned())
            }
            CheckpointError::NotAModel { .. } => Some(
                "download a model's files into one folder, or name a GGUF file inside it"
                    .to_owned(),
            ),
            CheckpointError::Gguf(_) | CheckpointError::TensorBytes { .. } => Some(
                "if this file was downloaded, compare its size and checksum with the original"
                    .to_owned(),
            ),
            CheckpointError::WrongEncoding { .. } | CheckpointError::UnknownType { .. } => Some(
                "`bitnet convert` of the model's original HuggingFace folder gives a file that can be read"
                    .to_owned(),
            ),
            _ => None,
        };
    }
    if let Some(PlanError::Context { limit, .. }) = find(error) {
        return Some(format!("try `-c {limit}` or less"));
    }
    if let Some(PlanError::Memory { .. }) = find(error) {
        return Some("a shorter context takes less: try `-c 512`".to_owned());
    }
    match find(error) {
        Some(GenerateError::EmptyPrompt) => {
            return Some("try `bitnet run \"Once upon a time\"`".to_owned());
        }
        Some(GenerateError::PromptTooLong { .. }) => {
            return Some("give a larger context with `-c`, or a shorter prompt".to_owned());
        }
        _ => {}
    }
    match find(error) {
        Some(ConvertError::Exists { .. }) => Some("`--force` replaces it".to_owned()),
        _ => None,
    }
}
