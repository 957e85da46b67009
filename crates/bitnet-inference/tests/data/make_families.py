"""Writes a tiny random model for each family that differs in what it computes, and its logits by `transformers`.

    pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 gguf==0.19.0 numpy==2.4.6
    python make_families.py

    families/qwen3/                 HuggingFace folder in BF16: a whole dense model
    families/llama-dense/           the same for LLaMA, with Llama 3.1's RoPE scaling and an output matrix
    families/llama-dense-q8_0.gguf  LLaMA with dense Q8_0 and F16 weights, rows in llama.cpp's order, YaRN
    families/bonsai-q2_0.gguf       Qwen3 with scales for groups of 64, embedding (the output matrix, too) as trits
    families/trilm-tq2_0.gguf       LLaMA, several scales a tensor, along rows or along columns
    families/bitnet-100/            BitNet with SiLU: heads of 100, widths that no block divides
    families/bitnet-embedding.gguf  Qwen3 with a norm before each projection, int8 activations, I2_S
    families/reference.json         logits, or the embedding

Logits are those of `LlamaForCausalLM`, `Qwen3ForCausalLM` and `BitNetForCausalLM` in F32 with the values that the
files hold; ternary linear layers with int8 activations are modules that do what `AutoBitLinear` does. Prompts for
those are such that no activation, times its scale, is nearer than `MARGIN` to where int8 rounds the other way.
"""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file
from torch import nn
from transformers import BitNetConfig, BitNetForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

HERE = Path(__file__).parent / "families"
VOCAB = 96
MARGIN = 3e-4
I2_S, Q2_0 = 36, 42
PARTS = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
]
NORMS = [("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")]
QK_NORMS = [("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")]


def common(hidden, heads, kv_heads, head_dim, ffn, **more):
    return dict(
        vocab_size=VOCAB, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, intermediate_size=ffn, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=1, pad_token_id=None, attn_implementation="eager", **more,
    )  # fmt: skip


def random_model(cls, config, seed):
    """A model whose values BF16 holds."""
    torch.manual_seed(seed)
    model = cls(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(1 + 0.2 * torch.randn_like(p) if "norm" in name else torch.randn_like(p) * p.shape[-1] ** -0.5)
            p.copy_(p.bfloat16().float())
    return model


def set_weight(model, name, values):
    with torch.no_grad():
        model.get_parameter(name).copy_(torch.from_numpy(np.ascontiguousarray(values)).float())


def weight(model, name):
    return model.get_parameter(name).detach().numpy()


def trits(rng, rows, cols):
    return rng.choice(np.array([-1, 0, 1], np.int8), (rows, cols), p=[0.3, 0.4, 0.3])


# --- writing ------------------------------------------------------------------


def write_folder(name, model, extra=None, tensors=None):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    state = tensors or {k: v.bfloat16().contiguous() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict() | (extra or {})
    config = {k: v for k, v in config.items() if v is not None and not k.startswith("_")}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def gguf_writer(name, arch, config):
    writer = gguf.GGUFWriter(HERE / name, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    return writer


def add_raw(writer, name, shape, type_id, data):
    """A type that the package does not know."""
    info = gguf.gguf_writer.TensorInfo(shape=shape, dtype=type_id, nbytes=data.nbytes, tensor=data)
    writer.tensors[-1][name] = info


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_norms(writer, model, i, names, dtype=np.float32):
    for name, hf in names:
        writer.add_tensor(f"blk.{i}.{name}.weight", weight(model, f"model.layers.{i}.{hf}.weight").astype(dtype))


def permute(rows, n_heads):
    """llama.cpp's order of query and key rows: 2i and 2i + 1 are turned together."""
    return rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def llama_rows(config, part, rows):
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(part)
    return permute(rows, heads) if heads else rows


def pack_q2_0(t, scales):
    """f16 scale, then 64 codes, four a byte, low bits first."""
    codes = (t + 1).astype(np.uint8).reshape(t.shape[0], -1, 16, 4)
    codes = codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6
    d = scales.astype("<f2")[..., None].view(np.uint8)
    return np.concatenate([d, codes], axis=2).reshape(t.shape[0], -1)


def pack_i2_s(t, scale):
    """Blocks of 128, quarter i in bits 6 - 2i; the scale behind all."""
    q = (t + 1).astype(np.uint8).reshape(-1, 4, 32)
    packed = (q[:, 0] << 6 | q[:, 1] << 4 | q[:, 2] << 2 | q[:, 3]).reshape(-1)
    return np.concatenate([packed, np.array([scale], "<f4").view(np.uint8), np.zeros(28, np.uint8)])


def pack_rows(t):
    """transformers' pack_weights: quarter i of the rows in bits 2i."""
    quarters = (t + 1).astype(np.uint8).reshape(4, -1, t.shape[1])
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


# --- reference ----------------------------------------------------------------


class BitLinear(nn.Module):
    """Ternary weights and int8 activations; `margin` is the least distance of an activation from a value that
    rounds either way."""

    margin = 0.5

    def __init__(self, t, scale, norm=None, eps=0.0):
        super().__init__()
        self.t, self.scale, self.norm, self.eps = torch.from_numpy(t).double(), float(scale), norm, eps

    def forward(self, x):
        if self.norm is not None:
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.norm
        s = 127 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
        BitLinear.margin = min(BitLinear.margin, float(((x * s) % 1 - 0.5).abs().min()))
        q = (x * s).round().clamp(-128, 127)
        return (q.double() @ self.t.T * self.scale / s).float()


def run(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def find_prompt(model, rng, n):
    ids = []
    while len(ids) < n:
        token = int(rng.integers(0, VOCAB))
        BitLinear.margin = 0.5
        run(model, [*ids, token])
        if BitLinear.margin >= MARGIN:
            ids.append(token)
    return ids


def digits(values):
    return [float(f"{v:.8g}") for v in values]


def describe(model, ids):
    logits = run(model, ids)
    return {
        "ids": ids,
        "logsumexp": digits(np.log(np.exp(logits).sum(axis=1))),
        "logits": digits(logits[-1]),
    }


# --- models -------------------------------------------------------------------


def qwen3(rng):
    config = Qwen3Config(**common(64, 2, 1, 64, 96, tie_word_embeddings=True, rope_theta=1e6))
    model = random_model(Qwen3ForCausalLM, config, 1)
    write_folder("qwen3", model)
    return [describe(model, rng.integers(0, VOCAB, n).tolist()) for n in (5, 40)]


def llama_dense(rng):
    rope = dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32,
    )  # fmt: skip
    config = LlamaConfig(**common(64, 4, 2, 16, 96, rope_parameters=rope))
    model = random_model(LlamaForCausalLM, config, 2)
    write_folder("llama-dense", model)
    return [describe(model, rng.integers(0, VOCAB, n).tolist()) for n in (5, 60)]


def llama_dense_gguf(rng):
    rope = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16)
    config = LlamaConfig(**common(64, 4, 2, 16, 96, rope_parameters=rope, tie_word_embeddings=True))
    model = random_model(LlamaForCausalLM, config, 3)
    writer = gguf_writer("llama-dense-q8_0.gguf", "llama", config)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(16)

    def add(name, hf_name, kind, rows=lambda rows: rows, back=lambda rows: rows):
        stored = quantize(rows(weight(model, hf_name)), kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
        set_weight(model, hf_name, back(dequantize(stored, kind)))

    add("token_embd.weight", "model.embed_tokens.weight", Type.F16)
    for i in range(2):
        add_norms(writer, model, i, NORMS)
        for part, hf in PARTS:
            hf_name = f"model.layers.{i}.{hf}.weight"
            heads = {"attn_q": 4, "attn_k": 2}.get(part)
            back = lambda r: r.reshape(heads, -1, 2, 64).swapaxes(1, 2).reshape(r.shape) if heads else r
            add(f"blk.{i}.{part}.weight", hf_name, Type.Q8_0, lambda r: llama_rows(config, part, r), back)
    writer.add_tensor("output_norm.weight", weight(model, "model.norm.weight"))
    finish(writer)
    return [describe(model, rng.integers(0, VOCAB, n).tolist()) for n in (5, 60)]


def bonsai(rng):
    config = Qwen3Config(**common(128, 2, 1, 64, 192, tie_word_embeddings=True, rope_theta=1e6))
    model = random_model(Qwen3ForCausalLM, config, 4)
    writer = gguf_writer("bonsai-q2_0.gguf", "qwen3", config)

    def add(name, hf_name):
        rows, cols = weight(model, hf_name).shape
        t = trits(rng, rows, cols)
        scales = (rng.uniform(0.02, 0.2, (rows, cols // 64))).astype(np.float16).astype(np.float32)
        add_raw(writer, name, (rows, cols), Q2_0, pack_q2_0(t, scales))
        set_weight(model, hf_name, t * np.repeat(scales, 64, axis=1))

    add("token_embd.weight", "model.embed_tokens.weight")
    for i in range(2):
        add_norms(writer, model, i, NORMS + QK_NORMS)
        for part, hf in PARTS:
            add(f"blk.{i}.{part}.weight", f"model.layers.{i}.{hf}.weight")
    writer.add_tensor("output_norm.weight", weight(model, "model.norm.weight"))
    finish(writer)
    return [describe(model, rng.integers(0, VOCAB, n).tolist()) for n in (5, 60)]


def trilm(rng):
    config = LlamaConfig(**common(256, 4, 4, 64, 512, rope_theta=10000.0))
    model = random_model(LlamaForCausalLM, config, 5)
    writer = gguf_writer("trilm-tq2_0.gguf", "llama", config)
    for name, hf_name in [("token_embd.weight", "model.embed_tokens.weight"), ("output.weight", "lm_head.weight")]:
        writer.add_tensor(name, weight(model, hf_name).astype(np.float16))
        set_weight(model, hf_name, weight(model, hf_name).astype(np.float16))
    for i in range(2):
        add_norms(writer, model, i, NORMS)
        for part, hf in PARTS:
            hf_name = f"model.layers.{i}.{hf}.weight"
            rows, cols = weight(model, hf_name).shape
            scales = np.array([0.0625, 0.09375]) if part != "attn_q" else np.array([0.05, 0.07])
            scales = scales.astype(np.float16).astype(np.float32)
            # Two shards: of rows, or of columns where a matrix adds up what shards computed.
            by_column = part == "ffn_down"
            scale = np.repeat(scales, cols // 2)[None] if by_column else np.repeat(scales, rows // 2)[:, None]
            values = trits(rng, rows, cols) * scale
            set_weight(model, hf_name, values)
            stored = quantize(llama_rows(config, part, values.astype(np.float32)), Type.TQ2_0)
            assert np.array_equal(dequantize(stored, Type.TQ2_0), llama_rows(config, part, values))
            writer.add_tensor(f"blk.{i}.{part}.weight", stored, raw_dtype=Type.TQ2_0)
    writer.add_tensor("output_norm.weight", weight(model, "model.norm.weight"))
    finish(writer)
    return [describe(model, rng.integers(0, VOCAB, n).tolist()) for n in (5, 60)]


def bitnet_100(rng):
    config = BitNetConfig(**common(200, 2, 1, 100, 216, hidden_act="silu", tie_word_embeddings=True, rope_theta=10000.0))
    model = random_model(BitNetForCausalLM, config, 6)
    tensors = {}
    for name, p in model.state_dict().items():
        if "_proj" not in name and name != "lm_head.weight":
            tensors[name] = p.bfloat16().contiguous()
    for i in range(2):
        for _, hf in PARTS:
            name = f"model.layers.{i}.{hf}"
            rows, cols = weight(model, name + ".weight").shape
            t = trits(rng, rows, cols)
            scale = torch.tensor([rng.uniform(0.05, 0.15)]).bfloat16()
            tensors[name + ".weight"] = torch.from_numpy(pack_rows(t))
            tensors[name + ".weight_scale"] = scale
            parent = model.get_submodule(name.rsplit(".", 1)[0])
            setattr(parent, name.rsplit(".", 1)[1], BitLinear(t, scale.float().item()))
    quantization = dict(quant_method="bitnet", linear_class="autobitlinear", quantization_mode="offline")
    write_folder("bitnet-100", model, {"quantization_config": quantization}, tensors)
    return [describe(model, find_prompt(model, rng, n)) for n in (5, 20)]


def bitnet_embedding(rng):
    config = Qwen3Config(**common(128, 2, 1, 128, 256, tie_word_embeddings=True, rope_theta=1e6))
    model = random_model(Qwen3ForCausalLM, config, 7)
    writer = gguf_writer("bitnet-embedding.gguf", "qwen3", config)
    writer.add_pooling_type(gguf.PoolingType.LAST)
    writer.add_tensor("token_embd.weight", weight(model, "model.embed_tokens.weight").astype(np.float16))
    set_weight(model, "model.embed_tokens.weight", weight(model, "model.embed_tokens.weight").astype(np.float16))
    for i in range(2):
        add_norms(writer, model, i, NORMS + QK_NORMS)
        for part, hf in PARTS:
            name = f"model.layers.{i}.{hf}"
            rows, cols = weight(model, name + ".weight").shape
            t, scale = trits(rng, rows, cols), np.float32(rng.uniform(0.05, 0.15))
            norm = (1 + 0.2 * rng.standard_normal(cols)).astype(np.float16)
            writer.add_tensor(f"blk.{i}.{part}_norm_in.weight", norm)
            add_raw(writer, f"blk.{i}.{part}.weight", (rows, cols), I2_S, pack_i2_s(t, scale))
            linear = BitLinear(t, scale, torch.from_numpy(norm.astype(np.float32)), config.rms_norm_eps)
            setattr(model.get_submodule(name.rsplit(".", 1)[0]), name.rsplit(".", 1)[1], linear)
    writer.add_tensor("output_norm.weight", weight(model, "model.norm.weight"))
    finish(writer)
    runs = []
    for n in (5, 20):
        ids = find_prompt(model, rng, n)
        with torch.no_grad():
            last = model.model(torch.tensor([ids])).last_hidden_state[0, -1].double().numpy()
        runs.append(describe(model, ids) | {"embedding": digits(last / np.linalg.norm(last))})
    return runs


def main():
    HERE.mkdir(exist_ok=True)
    models = {
        "qwen3": qwen3,
        "llama-dense": llama_dense,
        "llama-dense-q8_0.gguf": llama_dense_gguf,
        "bonsai-q2_0.gguf": bonsai,
        "trilm-tq2_0.gguf": trilm,
        "bitnet-100": bitnet_100,
        "bitnet-embedding.gguf": bitnet_embedding,
    }
    lines = []
    for seed, (name, make) in enumerate(models.items()):
        runs = make(np.random.default_rng(20261125 + seed))
        lines.append(f"  {json.dumps(name)}: [\n    " + ",\n    ".join(map(json.dumps, runs)) + "\n  ]")
    (HERE / "reference.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
