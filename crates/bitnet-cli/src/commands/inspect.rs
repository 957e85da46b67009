//! `bitnet inspect`

use bitnet_inference::{
    Checkpoint, Config, Encoding, HeadPrecision, MemoryNeeds, Plan, PlanOptions, Tokenizer,
};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::model::{LayoutArg, ModelArg};
use crate::ui::Ui;

/// Show what a model is, without loading it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bitnet inspect builtin
  bitnet inspect ggml-model-i2_s.gguf --tensors")]
pub struct Args {
    /// A GGUF file or a HuggingFace folder
    #[arg(value_name = "MODEL", default_value = "builtin")]
    model: String,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
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
    tokenizer: TokenizerReport,
    plan: PlanReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorReport>>,
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
    context: usize,
    weights_bytes: usize,
    head_bytes: usize,
    kv_bytes: usize,
    scratch_bytes: usize,
    /// All of them.
    memory_bytes: usize,
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
        layout: args.layout,
    };
    let checkpoint = model.open(ui)?;
    let options = PlanOptions {
        context_len: args.context,
        ..PlanOptions::default()
    };
    let plan = Plan::new(checkpoint.config(), options)?;
    let report = report(args, &checkpoint, &plan);
    if args.json {
        return ui.json(&report);
    }
    print(&report, ui)
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
    let needs = MemoryNeeds::new(checkpoint, plan, HeadPrecision::Int8);
    weights.sort_by_key(|group| std::cmp::Reverse(group.bytes));
    let tokenizer = match checkpoint.tokenizer() {
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
        model: args.model.clone(),
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
        tokenizer,
        plan: PlanReport {
            kernel: plan.kernel.name(),
            threads: plan.n_threads,
            context: plan.context_len,
            weights_bytes: needs.weights,
            head_bytes: needs.head,
            kv_bytes: needs.kv,
            scratch_bytes: needs.scratch,
            memory_bytes: needs.total(),
        },
        tensors,
    }
}

fn describe(tokenizer: &Tokenizer) -> TokenizerReport {
    TokenizerReport::Tokenizer {
        tokens: tokenizer.n_tokens(),
        bos: tokenizer.bos(),
        adds_bos: tokenizer.adds_bos(),
        eos: tokenizer.eos().collect(),
    }
}

fn print(report: &Report, ui: &Ui) -> anyhow::Result<()> {
    let r = report;
    let row = |name: &str, value: String| ui.line(&format!("{name:<14}{value}"));
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
    for (i, group) in r.weights.iter().enumerate() {
        row(
            if i == 0 { "weights" } else { "" },
            format!(
                "{:<9} {:>4} tensors  {:>10}  {:.2} bits a weight",
                group.ty,
                group.tensors,
                HumanBytes(group.bytes as u64).to_string(),
                group.bytes as f64 * 8.0 / group.parameters as f64
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
        "plan",
        format!(
            "kernel {}, {} threads, context {}",
            r.plan.kernel, r.plan.threads, r.plan.context
        ),
    )?;
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
    for tensor in r.tensors.iter().flatten() {
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
