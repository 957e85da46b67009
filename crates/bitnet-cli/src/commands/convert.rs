//! `bitnet convert`

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bitnet_core::ThreadPool;
use bitnet_inference::DenseType;
use bitnet_inference::convert::{ConvertOptions, GgufWeights, Target, convert};
use clap::ValueEnum;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::interrupt;
use crate::model::{LayoutArg, ModelArg};
use crate::ui::Ui;
use crate::windows_names::refuse_device;

/// Convert a model to another format
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every trit and scale is preserved; in GGUF files, so are dense linear layers and
ternary embeddings. OUT appears only when it is complete.

Formats of --to:
  gguf-i2_s   one file, 2 bits per weight, for bitnet.cpp
  gguf-tq2_0  one file, 2.06 bits per weight, for llama.cpp
  gguf-tq1_0  one file, 1.69 bits per weight, for llama.cpp
  hf-packed   a HuggingFace folder, 2 bits per weight, for transformers

Examples:
  bitnet convert bitnet-b1.58-2B-4T/ model.gguf --head q6_k
  bitnet convert model.gguf smaller.gguf --to gguf-tq1_0
  bitnet convert model.gguf folder/ --to hf-packed")]
pub struct Args {
    /// A GGUF file, a HuggingFace folder, or `builtin`
    #[arg(value_name = "IN", value_hint = clap::ValueHint::AnyPath)]
    input: OsString,
    /// The file or folder to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// The format of OUT
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "gguf-i2_s")]
    to: To,
    /// Type of embedding and output matrix [default: as they are]
    #[arg(long, value_enum, value_name = "TYPE")]
    head: Option<Head>,
    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    layout: LayoutArg,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum To {
    #[value(name = "gguf-i2_s")]
    GgufI2S,
    #[value(name = "gguf-tq2_0")]
    GgufTq2_0,
    #[value(name = "gguf-tq1_0")]
    GgufTq1_0,
    #[value(name = "hf-packed")]
    HfPacked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Head {
    #[value(name = "f32")]
    F32,
    #[value(name = "f16")]
    F16,
    #[value(name = "bf16")]
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q6_k")]
    Q6K,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    output: Cow<'a, str>,
    bytes: u64,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    refuse_device(&args.output)?;
    let model = ModelArg {
        model: args.input.clone(),
        layout: args.layout.clone(),
    };
    let checkpoint = model.open(ui)?;
    let options = ConvertOptions {
        target: match args.to {
            To::GgufI2S => Target::Gguf(GgufWeights::I2S),
            To::GgufTq2_0 => Target::Gguf(GgufWeights::TQ2_0),
            To::GgufTq1_0 => Target::Gguf(GgufWeights::TQ1_0),
            To::HfPacked => Target::HfPacked,
        },
        head: args.head.map(|head| match head {
            Head::F32 => DenseType::F32,
            Head::F16 => DenseType::F16,
            Head::Bf16 => DenseType::BF16,
            Head::Q8_0 => DenseType::Q8_0,
            Head::Q6K => DenseType::Q6K,
        }),
        overwrite: args.force,
    };
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut progress = ui.progress("converting");
    interrupt::defer();
    convert(
        checkpoint,
        &args.output,
        options,
        &mut ThreadPool::new(n_threads),
        |done, total| {
            progress.set(done, total);
            interrupt::poll()
        },
    )
    .with_context(|| {
        format!(
            "failed to convert {} to {}",
            model.name(),
            args.output.display()
        )
    })?;
    drop(progress);
    let bytes = size_of_path(&args.output)?;
    if args.json {
        return ui.json(&Report {
            output: args.output.to_string_lossy(),
            bytes,
        });
    }
    ui.line(&format!("{}  {}", args.output.display(), HumanBytes(bytes)))
}

/// Returns the bytes of a file, or of all files of a folder.
fn size_of_path(path: &Path) -> std::io::Result<u64> {
    let metadata = path.metadata()?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut bytes = 0;
    for entry in path.read_dir()? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
