//! `bitnet inspect`

use std::ffi::OsString;

use bitnet_core::TernaryLayout;
use bitnet_inference::{
    ChatTemplate, Checkpoint, Config, Encoding, HeadPrecision, Plan, PlanOptions, TemplateOrigin,
    Tokenizer, WeightError,
};
use indicatif::HumanBytes;
use ring::digest::{Context, SHA256};
use serde::Serialize;

use crate::error::Interrupted;
use crate::hex::hex;
use crate::interrupt;
use crate::model::{LayoutArg, ModelArg};
use crate::ui::Ui;

/// Show a model's properties without loading
#[derive(Debug, clap::Args)]
#[command(after_help = "\
--check validates every weight. It also reports what no trained model has, such
as a matrix of zeros. The content hash is the same for every file with the same
weights, whatever its format.

Examples:
  bitnet inspect builtin
  bitnet inspect ggml-model-i2_s.gguf --tensors
  bitnet inspect --check microsoft/bitnet-b1.58-2B-4T-gguf")]
pub struct Args {
    /// A GGUF file or a HuggingFace folder
    #[arg(
        value_name = "MODEL",
        default_value = "builtin",
        value_hint = clap::ValueHint::AnyPath
    )]
    model: OsString,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Validate every weight, and print their hash
    #[arg(long)]
    check: bool,
    /// Plan for this context [default: the model's, up to 4096]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    context: Option<usize>,
    #[command(flatten)]
    layout: LayoutArg,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    kind: &'static str,
    architecture: &'static str,
    layers: usize,
    hidden_dim: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn_dim: usize,
    vocab_size: usize,
    context_len: usize,
    rope_theta: f32,
    rms_norm_eps: f32,
    activation: &'static str,
    sub_norms: bool,
    tied_embeddings: bool,
    parameters: usize,
    ternary_parameters: usize,
    weights: Vec<WeightGroup>,
    roles: Vec<RoleGroup>,
    tokenizer: TokenizerReport,
    chat_template: Option<TemplateReport>,
    anomalies: Vec<String>,
    plan: PlanReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorReport>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<CheckReport>,
}

/// Tensors of one role and type.
#[derive(Debug, Serialize)]
struct RoleGroup {
    role: &'static str,
    #[serde(flatten)]
    group: WeightGroup,
    bits_per_weight: f64,
}

/// The chat template.
#[derive(Debug, Serialize)]
struct TemplateReport {
    /// `model`, or `corrected` where the model's own is known to be wrong.
    origin: &'static str,
    source: String,
}

/// The result of validating every weight.
#[derive(Debug, Serialize)]
struct CheckReport {
    unsound: Vec<String>,
    /// Valid weights that no trained model has.
    suspicious: Vec<String>,
    /// SHA-256 of all weights, in hexadecimal digits.
    content: String,
}

/// Tensors of one type.
#[derive(Debug, Serialize)]
struct WeightGroup {
    #[serde(rename = "type")]
    ty: &'static str,
    tensors: usize,
    parameters: usize,
    bytes: usize,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum TokenizerReport {
    Tokenizer {
        tokens: usize,
        bos: Option<u32>,
        adds_bos: bool,
        eos: Vec<u32>,
    },
    Missing {
        error: String,
    },
}

#[derive(Debug, Serialize)]
struct PlanReport {
    kernel: &'static str,
    threads: usize,
    /// The candidate layouts of ternary weights; if there are several, loading the
    /// model measures which is faster.
    layouts: Vec<String>,
    context: usize,
    weights_bytes: usize,
    head_bytes: usize,
    kv_bytes: usize,
    scratch_bytes: usize,
    /// The sum of all.
    memory_bytes: usize,
}

impl PlanReport {
    /// Returns a description of the plan.
    fn choices(&self) -> String {
        let weights = match self.layouts.as_slice() {
            [] => String::new(),
            layouts => format!("{} weights, ", layouts.join(" or ")),
        };
        format!(
            "kernel {}, {} threads, {weights}context {}",
            self.kernel, self.threads, self.context
        )
    }
}

#[derive(Debug, Serialize)]
struct TensorReport {
    name: String,
    #[serde(rename = "type")]
    ty: &'static str,
    shape: [usize; 2],
    bytes: usize,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let model = ModelArg {
        model: args.model.clone(),
        layout: args.layout.clone(),
    };
    let checkpoint = model.open_quietly(ui)?;
    let options = PlanOptions {
        context_len: args.context,
        ..PlanOptions::default()
    };
    let plan = Plan::new(checkpoint.config(), options)?;
    let mut report = report(args, &checkpoint, &plan);
    if args.check {
        report.check = Some(read_weights(&checkpoint, ui)?);
    }
    if args.json {
        ui.json(&report)?;
    } else {
        print(&report, ui)?;
    }
    match report.check.map_or(0, |check| check.unsound.len()) {
        0 => Ok(()),
        n => Err(InvalidModel {
            model: args.model.to_string_lossy().into_owned(),
            n,
        }
        .into()),
    }
}

impl CheckReport {
    fn verdict(&self) -> String {
        match self.unsound.len() {
            0 if self.suspicious.is_empty() => "all weights are valid".to_owned(),
            0 => format!(
                "all weights are valid, but {} tensors are suspicious",
                self.suspicious.len()
            ),
            n => format!("{n} tensors or gaps are invalid"),
        }
    }
}

/// A model with invalid weights; the details have been printed.
#[derive(Debug, thiserror::Error)]
#[error("{model} is invalid: {n} tensors or gaps between them")]
struct InvalidModel {
    model: String,
    n: usize,
}

/// Validates all weights.
fn read_weights(checkpoint: &Checkpoint, ui: &Ui) -> anyhow::Result<CheckReport> {
    let mut context = Context::new(&SHA256);
    let mut progress = ui.progress("reading");
    interrupt::defer();
    let unsound = bitnet_inference::validate(
        checkpoint,
        |bytes| context.update(bytes),
        |done, total| {
            progress.set(done, total);
            interrupt::poll()
        },
    )
    .ok_or(Interrupted)?;
    let (suspicious, unsound): (Vec<_>, _) =
        (unsound.into_iter()).partition(|unsound| matches!(unsound, WeightError::Suspicious(_)));
    let words = |unsound: Vec<WeightError>| {
        let errors = unsound.into_iter().map(anyhow::Error::from);
        errors.map(|error| format!("{error:#}")).collect()
    };
    Ok(CheckReport {
        unsound: words(unsound),
        suspicious: words(suspicious),
        content: hex(context.finish().as_ref()),
    })
}

fn report(args: &Args, checkpoint: &Checkpoint, plan: &Plan) -> Report {
    let Config {
        family,
        hidden_dim,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        ffn_dim,
        vocab_size,
        context_len,
        rms_norm_eps,
        ref rope,
        activation,
        tied_embeddings,
        ..
    } = *checkpoint.config();
    let estimate = plan.memory_estimate(checkpoint, HeadPrecision::Int8);
    let (weights, parameters, ternary_parameters) = weights(checkpoint);
    let n_linear_weights = checkpoint.config().n_linear_weights();
    let layouts =
        TernaryLayout::candidates(plan.isa, n_linear_weights).filter(|_| ternary_parameters > 0);
    let mut anomalies: Vec<_> = checkpoint.notes().iter().map(ToString::to_string).collect();
    let tokenizer = Tokenizer::from_checkpoint(checkpoint);
    let chat_template = (tokenizer.as_ref().ok())
        .and_then(|tokenizer| chat_template(checkpoint, tokenizer, &mut anomalies));
    let tokenizer = match tokenizer {
        Ok(tokenizer) => describe(&tokenizer),
        Err(error) => TokenizerReport::Missing {
            error: format!("{:#}", anyhow::Error::from(error)),
        },
    };
    let tensors = args.tensors.then(|| {
        let tensors = checkpoint.tensors().into_iter();
        tensors
            .map(|tensor| TensorReport {
                name: tensor.name.clone(),
                ty: tensor.encoding.name(),
                shape: [tensor.n_rows, tensor.n_cols],
                bytes: tensor.n_bytes(),
            })
            .collect()
    });
    Report {
        model: args.model.to_string_lossy().into_owned(),
        kind: checkpoint.kind(),
        architecture: family.name(),
        layers: n_layers,
        hidden_dim,
        heads: n_heads,
        kv_heads: n_kv_heads,
        head_dim,
        ffn_dim,
        vocab_size,
        context_len,
        rope_theta: rope.theta,
        rms_norm_eps,
        activation: activation.name(),
        sub_norms: family.has_sub_norms(),
        tied_embeddings,
        parameters,
        ternary_parameters,
        weights,
        roles: roles(checkpoint),
        tokenizer,
        chat_template,
        anomalies,
        plan: PlanReport {
            kernel: plan.isa.name(),
            threads: plan.n_threads,
            layouts: layouts.map(|layout| layout.to_string()).collect(),
            context: plan.context_len,
            weights_bytes: estimate.weights,
            head_bytes: estimate.head,
            kv_bytes: estimate.kv,
            scratch_bytes: estimate.scratch,
            memory_bytes: estimate.total(),
        },
        tensors,
        check: None,
    }
}

/// Returns the tensors by type, the number of weights, and the number of ternary ones.
fn weights(checkpoint: &Checkpoint) -> (Vec<WeightGroup>, usize, usize) {
    let mut weights: Vec<WeightGroup> = Vec::new();
    let (mut parameters, mut ternary_parameters) = (0, 0);
    for tensor in checkpoint.tensors() {
        let n = tensor.n_rows * tensor.n_cols;
        parameters += n;
        if matches!(tensor.encoding, Encoding::Ternary(_)) {
            ternary_parameters += n;
        }
        let ty = tensor.encoding.name();
        let known = weights.iter().position(|group| group.ty == ty);
        let at = known.unwrap_or_else(|| {
            weights.push(WeightGroup {
                ty,
                tensors: 0,
                parameters: 0,
                bytes: 0,
            });
            weights.len() - 1
        });
        weights[at].tensors += 1;
        weights[at].parameters += n;
        weights[at].bytes += tensor.n_bytes();
    }
    weights.sort_by_key(|group| std::cmp::Reverse(group.bytes));
    (weights, parameters, ternary_parameters)
}

/// Returns the chat template, and adds anomalies of it and of the tokenizer.
fn chat_template(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    anomalies: &mut Vec<String>,
) -> Option<TemplateReport> {
    let vocab_size = checkpoint.config().vocab_size;
    if tokenizer.n_tokens() > vocab_size {
        anomalies.push(format!(
            "the tokenizer has {} tokens, the model {vocab_size}: text with one of the \
                 others is an error",
            tokenizer.n_tokens()
        ));
    }
    if tokenizer.eog().next().is_none() {
        anomalies.push("no end-of-sequence token: text ends only at a limit".to_owned());
    }
    let template = ChatTemplate::of_model(checkpoint, tokenizer);
    let template = template.unwrap_or_else(|error| {
        anomalies.push(format!("{:#}", anyhow::Error::from(error)));
        None
    })?;
    let corrected = template.origin() == TemplateOrigin::Corrected;
    if corrected {
        anomalies
            .push("the chat template is known to be wrong and is replaced by `bitnet`".to_owned());
    }
    Some(TemplateReport {
        origin: if corrected { "corrected" } else { "model" },
        source: template.source().to_owned(),
    })
}

/// Returns the tensors by role and type, in the order of a forward pass.
fn roles(checkpoint: &Checkpoint) -> Vec<RoleGroup> {
    let order = ["embedding", "norm", "attention", "feed-forward", "output"];
    let mut groups: Vec<RoleGroup> = Vec::new();
    for (role, tensor) in checkpoint.roles() {
        let ty = tensor.encoding.name();
        let known = (groups.iter()).position(|known| (known.role, known.group.ty) == (role, ty));
        let at = known.unwrap_or_else(|| {
            groups.push(RoleGroup {
                role,
                group: WeightGroup {
                    ty,
                    tensors: 0,
                    parameters: 0,
                    bytes: 0,
                },
                bits_per_weight: 0.0,
            });
            groups.len() - 1
        });
        let RoleGroup {
            group,
            bits_per_weight,
            ..
        } = &mut groups[at];
        group.tensors += 1;
        group.parameters += tensor.n_rows * tensor.n_cols;
        group.bytes += tensor.n_bytes();
        *bits_per_weight = group.bytes as f64 * 8.0 / group.parameters as f64;
    }
    groups.sort_by_key(|known| order.iter().position(|role| *role == known.role));
    groups
}

fn describe(tokenizer: &Tokenizer) -> TokenizerReport {
    TokenizerReport::Tokenizer {
        tokens: tokenizer.n_tokens(),
        bos: tokenizer.bos(),
        adds_bos: tokenizer.adds_bos(),
        eos: tokenizer.eog().collect(),
    }
}

fn print(report: &Report, ui: &Ui) -> anyhow::Result<()> {
    let r = report;
    let row = |name: &str, value: String| ui.line(&format!("{name:<15}{value}"));
    row("model", format!("{} ({})", r.model, r.kind))?;
    row("architecture", r.architecture.to_owned())?;
    row(
        "parameters",
        format!(
            "{:.1} M, {:.1} M of them ternary",
            r.parameters as f64 / 1e6,
            r.ternary_parameters as f64 / 1e6
        ),
    )?;
    row(
        "shape",
        format!(
            "{} layers, hidden {}, feed-forward {}, {} heads of {} ({} key-value)",
            r.layers, r.hidden_dim, r.ffn_dim, r.heads, r.head_dim, r.kv_heads
        ),
    )?;
    let tied = if r.tied_embeddings {
        "tied embedding"
    } else {
        "separate output matrix"
    };
    row("vocabulary", format!("{} tokens, {tied}", r.vocab_size))?;
    let sub_norms = if r.sub_norms { ", sub-norms" } else { "" };
    row("activation", format!("{}{sub_norms}", r.activation))?;
    row(
        "positions",
        format!("{}, RoPE base {}", r.context_len, r.rope_theta),
    )?;
    for (
        i,
        RoleGroup {
            role,
            group,
            bits_per_weight,
        },
    ) in r.roles.iter().enumerate()
    {
        row(
            if i == 0 { "weights" } else { "" },
            format!(
                "{role:<13} {:<9} {:>4} tensors  {:>10}  {bits_per_weight:.2} bits per weight",
                group.ty,
                group.tensors,
                HumanBytes(group.bytes as u64).to_string(),
            ),
        )?;
    }
    row(
        "tokenizer",
        match &r.tokenizer {
            TokenizerReport::Tokenizer {
                tokens, bos, eos, ..
            } => {
                let bos = bos.map_or("none".to_owned(), |id| id.to_string());
                format!("{tokens} tokens, BOS {bos}, ends at {eos:?}")
            }
            TokenizerReport::Missing { error } => format!("none: {error}"),
        },
    )?;
    row(
        "chat template",
        match &r.chat_template {
            None => "none".to_owned(),
            Some(template) if template.origin == "corrected" => "`bitnet`".to_owned(),
            Some(template) => format!("{} bytes of Jinja", template.source.len()),
        },
    )?;
    row("plan", r.plan.choices())?;
    row(
        "memory",
        format!(
            "{}: {} weights, {} int8 head, {} KV cache, {} scratch",
            HumanBytes(r.plan.memory_bytes as u64),
            HumanBytes(r.plan.weights_bytes as u64),
            HumanBytes(r.plan.head_bytes as u64),
            HumanBytes(r.plan.kv_bytes as u64),
            HumanBytes(r.plan.scratch_bytes as u64)
        ),
    )?;
    for (i, anomaly) in r.anomalies.iter().enumerate() {
        row(if i == 0 { "anomalies" } else { "" }, anomaly.clone())?;
    }
    if let Some(check) = &r.check {
        row("check", check.verdict())?;
        for unsound in check.unsound.iter().chain(&check.suspicious) {
            row("", unsound.clone())?;
        }
        row("content", format!("sha256 {}", check.content))?;
    }
    print_tensors(r.tensors.as_deref().unwrap_or_default(), ui)
}

fn print_tensors(tensors: &[TensorReport], ui: &Ui) -> anyhow::Result<()> {
    for tensor in tensors {
        let [n_rows, n_cols] = tensor.shape;
        ui.line(&format!(
            "{:<32} {:<9} {n_rows:>6} x {n_cols:<6} {:>10}",
            tensor.name,
            tensor.ty,
            HumanBytes(tensor.bytes as u64).to_string()
        ))?;
    }
    Ok(())
}
