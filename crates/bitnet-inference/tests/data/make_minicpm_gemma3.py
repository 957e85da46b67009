"""Writes tiny random MiniCPM and Gemma 3 models and what they compute in float64, by code that shares nothing with the
crate.

    pip install numpy==2.4.6 gguf==0.19.0
    python make_minicpm_gemma3.py

    families/minicpm-tq2_0.gguf     as BitCPM4 is published: a scale for every block, activations as they are, rows of
                                    queries and keys in llama.cpp's order, LongRoPE in a long context
    families/minicpm/               HuggingFace folder: ternary weights multiplied out in BF16, as BitCPM4 has them,
                                    LongRoPE in a short context, an output matrix
    families/gemma3-i2_s.gguf       as Microsoft's converter writes bitnet-embedding-270m: norms plus 1, a norm before
                                    each projection, int8 activations, no sliding window
    families/gemma3-embedding/      the same kind of model as a folder: master weights, norms less 1, a sliding window in
                                    the first layer, `query_pre_attn_scalar` that is not the width of a head
    families/gemma3-dense/          Gemma 3 as `transformers` 5 writes it, dense, two layers of three with a window
    families/reference64.json       logits, and embeddings of the embedding models

Formulas: MiniCPMForCausalLM (`modeling_minicpm.py` beside the published weights), Gemma3ForCausalLM of transformers
5.24.0, `llm_build_granite` and `llm_build_gemma3` of llama.cpp, docs/bitnet-embeddings-i2s-guide.md of microsoft/BitNet.
Prompts of models with int8 activations are such that no activation, times its scale, is nearer than `MARGIN` to where
int8 rounds the other way.
"""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

HERE = Path(__file__).parent / "families"
VOCAB = 96
MARGIN = 3e-4
I2_S = 36
PARTS = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
]
LLAMA_NORMS = [("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")]
GEMMA_NORMS = [
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
]


# --- reference ----------------------------------------------------------------


class Model:
    """Weights and numbers; a ternary matrix is (trits, scale) and has int8 activations."""

    def __init__(self, hidden, layers, heads, kv_heads, head_dim, ffn, eps):
        self.hidden, self.layers, self.heads, self.kv_heads, self.head_dim, self.ffn, self.eps = (
            hidden, layers, heads, kv_heads, head_dim, ffn, eps,
        )  # fmt: skip
        self.embedding_scale = self.residual_scale = self.logit_scale = 1.0
        self.attention_scale = head_dim**-0.5
        self.gelu = False
        # Of each layer: the window, and the angle of each pair.
        self.windows = [None] * layers
        self.frequencies = [None] * layers
        self.w, self.margin = {}, 0.5

    def shape(self, part):
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "attn_q": (q, self.hidden), "attn_k": (kv, self.hidden), "attn_v": (kv, self.hidden),
            "attn_output": (self.hidden, q), "ffn_gate": (self.ffn, self.hidden), "ffn_up": (self.ffn, self.hidden),
            "ffn_down": (self.hidden, self.ffn),
        }[part]  # fmt: skip

    def norm(self, x, name):
        if name not in self.w:
            return x
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.w[name].astype(np.float64)

    def linear(self, x, i, part):
        x = self.norm(x, (i, part + "_norm_in"))
        w = self.w[i, part]
        if not isinstance(w, tuple):
            return x @ w.astype(np.float64).T
        trits, scale = w
        s = 127 / np.maximum(np.abs(x).max(-1, keepdims=True), 1e-5)
        self.margin = min(self.margin, float(np.abs((x * s) % 1 - 0.5).min()))
        return np.clip(np.rint(x * s), -128, 127) @ trits.astype(np.float64).T * float(scale) / s

    def rotate(self, x, i):
        """Pairs are row d and row d + head_dim / 2."""
        angles = np.arange(x.shape[0])[:, None, None] * self.frequencies[i]
        a, b = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def attention(self, x, i):
        n = x.shape[0]
        q = self.linear(x, i, "attn_q").reshape(n, self.heads, -1)
        k = self.linear(x, i, "attn_k").reshape(n, self.kv_heads, -1)
        v = self.linear(x, i, "attn_v").reshape(n, self.kv_heads, -1)
        q = self.rotate(self.norm(q, (i, "attn_q_norm")), i)
        k = self.rotate(self.norm(k, (i, "attn_k_norm")), i)
        k, v = (np.repeat(m, self.heads // self.kv_heads, axis=1) for m in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) * self.attention_scale
        distance = np.arange(n)[:, None] - np.arange(n)
        hidden = (distance < 0) | (distance >= (self.windows[i] or n + 1))
        scores = np.where(hidden, -np.inf, scores)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self.linear(np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1), i, "attn_output")

    def feed_forward(self, x, i):
        gate, up = self.linear(x, i, "ffn_gate"), self.linear(x, i, "ffn_up")
        if self.gelu:
            gate = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        return self.linear(gate * up, i, "ffn_down")

    def run(self, ids):
        """The normalized hidden states, and the logits."""
        self.margin = 0.5
        x = self.w["embedding"].astype(np.float64)[ids] * self.embedding_scale
        for i in range(self.layers):
            for block, before, after in [
                (self.attention, "attn_norm", "post_attention_norm"),
                (self.feed_forward, "ffn_norm", "post_ffw_norm"),
            ]:
                x = x + self.norm(block(self.norm(x, (i, before)), i), (i, after)) * self.residual_scale
        x = self.norm(x, "output_norm")
        return x, x @ self.w.get("head", self.w["embedding"]).astype(np.float64).T * self.logit_scale


def inverse_frequencies(theta, n_dims):
    return theta ** -(np.arange(0, n_dims, 2) / n_dims)


def find_prompt(model, rng, n):
    ids = []
    while len(ids) < n:
        token = int(rng.integers(0, VOCAB))
        model.run([*ids, token])
        if model.margin >= MARGIN:
            ids.append(token)
    return ids


def digits(values):
    return [float(f"{v:.8g}") for v in values]


def describe(model, ids, with_embedding=False):
    hidden, logits = model.run(ids)
    run = {
        "ids": ids,
        "logsumexp": digits(np.log(np.exp(logits).sum(axis=1))),
        "logits": digits(logits[-1]),
    }
    if with_embedding:
        run["embedding"] = digits(hidden[-1] / np.linalg.norm(hidden[-1]))
    return run


# --- values -------------------------------------------------------------------


def bf16(x):
    """Cut off to what BF16 holds."""
    return (np.asarray(x, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def trits(rng, rows, cols):
    return rng.choice(np.array([-1, 0, 1], np.int8), (rows, cols), p=[0.3, 0.4, 0.3])


def norms(model, rng, names):
    """Norms of all layers near 1."""
    widths = {"attn_q_norm": model.head_dim, "attn_k_norm": model.head_dim}
    for i in range(model.layers):
        for name, _ in names:
            model.w[i, name] = norm(rng, widths.get(name, model.hidden))
    model.w["output_norm"] = norm(rng, model.hidden)


def norm(rng, n):
    """Multiples of 1/64 from 1/2 to 3/2: F16 and BF16 hold them, and less 1 too."""
    return np.clip(1 + np.rint(12 * rng.standard_normal(n)) / 64, 0.5, 1.5).astype(np.float32)


def projection_norms(model, rng):
    for i in range(model.layers):
        for part, _ in PARTS:
            model.w[i, part + "_norm_in"] = norm(rng, model.shape(part)[1])


# --- writing ------------------------------------------------------------------


def write_folder(name, config, tensors):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for tensor, values in tensors.items():
        assert np.array_equal(bf16(values), values), tensor
        part = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
        header[tensor] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)


def common_config(model, **more):
    return {
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "intermediate_size": model.ffn,
        "max_position_embeddings": 64,
        "rms_norm_eps": model.eps,
        "vocab_size": VOCAB,
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | more


def gguf_writer(name, arch, model):
    writer = gguf.GGUFWriter(HERE / name, arch)
    writer.add_context_length(64)
    writer.add_embedding_length(model.hidden)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.ffn)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_layer_norm_rms_eps(model.eps)
    return writer


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permute(rows, n_heads):
    """llama.cpp's order of query and key rows: 2i and 2i + 1 are turned together."""
    return rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def pack_i2_s(t, scale):
    """Blocks of 128, quarter i in bits 6 - 2i; the scale behind all."""
    q = (t + 1).astype(np.uint8).reshape(-1, 4, 32)
    packed = (q[:, 0] << 6 | q[:, 1] << 4 | q[:, 2] << 2 | q[:, 3]).reshape(-1)
    return np.concatenate([packed, np.array([scale], "<f4").view(np.uint8), np.zeros(28, np.uint8)])


# --- models -------------------------------------------------------------------


def minicpm_gguf(rng):
    model = Model(256, 2, 4, 2, 64, 256, 1e-5)
    model.embedding_scale, model.residual_scale, model.logit_scale = 12.0, np.float32(1.4 / 2**0.5), 1 / 0.75
    short = (1 + np.arange(32) / 16).astype(np.float32)
    long = (1 + np.arange(32) / 2).astype(np.float32)
    # The context is longer than that of the first training.
    model.frequencies = [inverse_frequencies(10000.0, 64) / long] * 2
    norms(model, rng, LLAMA_NORMS)
    writer = gguf_writer("minicpm-tq2_0.gguf", "minicpm", model)
    writer.add_rope_dimension_count(64)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    writer.add_rope_scaling_orig_ctx_len(32)
    writer.add_embedding_scale(12.0)
    writer.add_residual_scale(float(model.residual_scale))
    writer.add_logit_scale(0.75)
    model.w["embedding"] = (rng.standard_normal((VOCAB, 256)) / 12).astype(np.float16)
    writer.add_tensor("token_embd.weight", model.w["embedding"])
    writer.add_tensor("rope_factors_long.weight", long)
    writer.add_tensor("rope_factors_short.weight", short)
    for i in range(2):
        for name, _ in LLAMA_NORMS:
            writer.add_tensor(f"blk.{i}.{name}.weight", model.w[i, name])
        for part, _ in PARTS:
            rows, cols = model.shape(part)
            scales = rng.uniform(0.04, 0.12, (rows, 1)).astype(np.float16).astype(np.float32)
            values = trits(rng, rows, cols) * scales
            model.w[i, part] = values
            heads = {"attn_q": 4, "attn_k": 2}.get(part)
            stored = permute(values, heads) if heads else values
            packed = quantize(stored.astype(np.float32), Type.TQ2_0)
            assert np.array_equal(dequantize(packed, Type.TQ2_0), stored)
            writer.add_tensor(f"blk.{i}.{part}.weight", packed, raw_dtype=Type.TQ2_0)
    writer.add_tensor("output_norm.weight", model.w["output_norm"])
    finish(writer)
    return [describe(model, rng.integers(0, VOCAB, n).tolist()) for n in (5, 60)]


def minicpm_folder(rng):
    model = Model(64, 2, 4, 2, 16, 96, 1e-5)
    model.embedding_scale, model.residual_scale, model.logit_scale = 12.0, 1.4 / 2**0.5, 16 / 64
    short = [1 + i / 8 for i in range(8)]
    model.frequencies = [inverse_frequencies(10000.0, 16) / short] * 2
    norms(model, rng, LLAMA_NORMS)
    tensors = {}
    model.w["embedding"] = tensors["model.embed_tokens.weight"] = bf16(rng.standard_normal((VOCAB, 64)) / 12)
    model.w["head"] = tensors["lm_head.weight"] = bf16(rng.standard_normal((VOCAB, 64)) / 4)
    tensors["model.norm.weight"] = model.w["output_norm"]
    for i in range(2):
        for name, hf in LLAMA_NORMS:
            tensors[f"model.layers.{i}.{hf}.weight"] = model.w[i, name]
        for part, hf in PARTS:
            rows, cols = model.shape(part)
            scales = bf16(rng.uniform(0.1, 0.25, (rows, cols // 32)))
            model.w[i, part] = trits(rng, rows, cols) * np.repeat(scales, 32, axis=1)
            tensors[f"model.layers.{i}.{hf}.weight"] = model.w[i, part]
    rope = {
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": [1 + i for i in range(8)],
        "original_max_position_embeddings": 64,
    }
    config = common_config(
        model, model_type="minicpm", architectures=["MiniCPMForCausalLM"], hidden_act="silu", scale_emb=12,
        scale_depth=1.4, dim_model_base=16, rope_scaling=rope, tie_word_embeddings=False,
    )  # fmt: skip
    write_folder("minicpm", config, tensors)
    return [describe(model, rng.integers(0, VOCAB, n).tolist()) for n in (5, 60)]


def gemma3_gguf(rng):
    model = Model(128, 2, 2, 1, 64, 256, 1e-6)
    model.embedding_scale, model.gelu = 128**0.5, True
    model.frequencies = [inverse_frequencies(10000.0, 64)] * 2
    norms(model, rng, GEMMA_NORMS)
    projection_norms(model, rng)
    writer = gguf_writer("gemma3-i2_s.gguf", "gemma3", model)
    writer.add_file_type(40)
    writer.add_vocab_size(VOCAB)
    writer.add_rope_dimension_count(64)
    writer.add_key_length(64)
    writer.add_value_length(64)
    writer.add_rope_freq_base(10000.0)
    # What the converter writes where no file says how to pool.
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    model.w["embedding"] = (rng.standard_normal((VOCAB, 128)) / 8).astype(np.float16)
    writer.add_tensor("token_embd.weight", model.w["embedding"])
    for i in range(2):
        for name, _ in GEMMA_NORMS:
            writer.add_tensor(f"blk.{i}.{name}.weight", model.w[i, name].astype(np.float16))
        for part, _ in PARTS:
            rows, cols = model.shape(part)
            t, scale = trits(rng, rows, cols), np.float32(rng.uniform(0.05, 0.15))
            model.w[i, part] = t, scale
            writer.add_tensor(f"blk.{i}.{part}_norm_in.weight", model.w[i, part + "_norm_in"].astype(np.float16))
            data = pack_i2_s(t, scale)
            info = gguf.gguf_writer.TensorInfo(shape=t.shape, dtype=I2_S, nbytes=data.nbytes, tensor=data)
            writer.tensors[-1][f"blk.{i}.{part}.weight"] = info
    writer.add_tensor("output_norm.weight", model.w["output_norm"].astype(np.float16))
    finish(writer)
    return [describe(model, find_prompt(model, rng, n), True) for n in (5, 20)]


def absmean(masters):
    """Trits and scale of BF16 masters, as `WeightQuant` of transformers rounds them."""
    inverse = np.float32(1) / np.float32(np.abs(masters.astype(np.float64)).mean())
    exact = masters.astype(np.float64) * float(inverse)
    assert np.abs(np.abs(exact) - 0.5).min() > 1e-6
    bits = np.array([np.float32(1) / inverse], np.float32).view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return np.clip(np.rint(exact), -1, 1).astype(np.int8), nearest.astype(np.uint32).view(np.float32)[0]


def gemma3_tensors(model, prefix, rng, masters):
    """Random weights, and the tensors of the folder that holds them."""
    tensors = {}
    values = bf16(rng.standard_normal((VOCAB, model.hidden)) / 8)
    model.w["embedding"] = tensors[prefix + "embed_tokens.weight"] = values
    for i in range(model.layers):
        for name, hf in GEMMA_NORMS:
            tensors[f"{prefix}layers.{i}.{hf}.weight"] = model.w[i, name] - np.float32(1)
        for part, hf in PARTS:
            rows, cols = model.shape(part)
            w = bf16(rng.standard_normal((rows, cols)) * cols**-0.5)
            tensors[f"{prefix}layers.{i}.{hf}.weight"] = w
            model.w[i, part] = absmean(w) if masters else w
            if masters:
                tensors[f"{prefix}layers.{i}.{hf}.norm.weight"] = model.w[i, part + "_norm_in"]
    tensors[prefix + "norm.weight"] = model.w["output_norm"] - np.float32(1)
    return tensors


def gemma3_embedding(rng):
    model = Model(128, 2, 4, 1, 32, 128, 1e-6)
    model.embedding_scale, model.gelu, model.attention_scale = 128**0.5, True, 100**-0.5
    model.windows = [8, None]
    model.frequencies = [inverse_frequencies(theta, 32) for theta in (10000.0, 1e6)]
    norms(model, rng, GEMMA_NORMS)
    projection_norms(model, rng)
    config = common_config(
        model, model_type="gemma3_text", architectures=["Gemma3TextModel"], hidden_activation="gelu_pytorch_tanh",
        head_dim=32, query_pre_attn_scalar=100, rope_theta=1e6, rope_local_base_freq=10000.0, sliding_window=8,
        sliding_window_pattern=2, attn_logit_softcapping=None, final_logit_softcapping=None,
    )  # fmt: skip
    write_folder("gemma3-embedding", config, gemma3_tensors(model, "", rng, True))
    return [describe(model, find_prompt(model, rng, n), True) for n in (5, 20)]


def gemma3_dense(rng):
    model = Model(64, 3, 2, 1, 32, 64, 1e-6)
    model.embedding_scale, model.gelu = 64**0.5, True
    model.windows = [8, None, 8]
    local = inverse_frequencies(10000.0, 32)
    model.frequencies = [local, inverse_frequencies(1e6, 32) / 8, local]
    norms(model, rng, GEMMA_NORMS)
    config = common_config(
        model, model_type="gemma3_text", architectures=["Gemma3ForCausalLM"], hidden_activation="gelu_pytorch_tanh",
        head_dim=32, query_pre_attn_scalar=32, sliding_window=8, use_bidirectional_attention=False,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"], tie_word_embeddings=True,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    )  # fmt: skip
    write_folder("gemma3-dense", config, gemma3_tensors(model, "model.", rng, False))
    return [describe(model, rng.integers(0, VOCAB, n).tolist()) for n in (5, 60)]


def main():
    models = {
        "minicpm-tq2_0.gguf": minicpm_gguf,
        "minicpm": minicpm_folder,
        "gemma3-i2_s.gguf": gemma3_gguf,
        "gemma3-embedding": gemma3_embedding,
        "gemma3-dense": gemma3_dense,
    }
    lines = []
    for seed, (name, make) in enumerate(models.items()):
        runs = make(np.random.default_rng(20261128 + seed))
        lines.append(f"  {json.dumps(name)}: [\n    " + ",\n    ".join(map(json.dumps, runs)) + "\n  ]")
    (HERE / "reference64.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
