"""Writes tiny random ternary models and what they compute, by code that shares nothing with the crate.

    pip install numpy==2.4.6 gguf==0.19.0 safetensors==0.8.0 tokenizers==0.23.3
    python make_tiny_llama.py

    tiny-llama/             HuggingFace folder, `bitlinear` (outputs are divided by weight_scale), two shards
    tiny-llama-tq2_0.gguf   the same weights as llama.cpp's converter lays them out
    tiny-bitnet-i2_s.gguf   SiLU and sub-norms, tied, no `tokenizer.ggml.pre`, no `rope.freq_base`
    tiny-llama-reference.json   logits in float64 and token ids

The reference follows `LlamaForCausalLM` and `BitLinear` of transformers: read
back from the files as written, not from what was meant to be written (except
I2_S, whose type the gguf package does not know).

The values of embedding and output matrix are chosen so that F16, BF16, Q8_0 and
Q6_K hold them exactly, and all scales so that both conventions do: the folder
and the TQ2_0 file are the same model, bit for bit.
"""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import safetensors
import tokenizers
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from tokenizers import Regex, decoders, models, pre_tokenizers, processors

HERE = Path(__file__).parent
SEED = 20240227
LLAMA = dict(
    arch="llama", hidden=256, layers=2, heads=8, kv_heads=2, head_dim=32, ffn=256, ctx=64, theta=50000.0, eps=1e-4
)
BITNET = dict(
    arch="bitnet", hidden=128, layers=1, heads=4, kv_heads=2, head_dim=32, ffn=128, ctx=64, theta=10000.0, eps=1e-5
)
I2_S = 36
MARGIN = 3.1e-4

# --- tokenizer ----------------------------------------------------------------

# The regular expression of Llama 3's tokenizer.json.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = [("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ċ", "Ċ"), ("1", "2"), ("ð", "Ł")]
# No merges lead to these: only `ignore_merges` finds them.
WHOLE = ["Ġhello", "345"]
BOS, EOS, EOT = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
TOOL = "<tool>"  # added, but part of the text
VOCAB_SIZE = 272

TEXTS = [
    "",
    " ",
    "hello",
    " hello",
    "  hello  hello",
    "the theory of the other, THE end",
    "1 12 123 1234 12345 345 3450 1,234.5 ½ ² ٣٤ Ⅷ",
    "don't I'LL we'Ve it'S 'd '' 'ſ ſ'T",
    "    four\n\n\n  lines \r\n\r\n\t\ttabs \n end   ",
    "          " * 5,
    "\n \n  \n   \n",
    "😀😃👩‍👩‍👧‍👦 🏳️‍🌈🇩🇪 👍🏽",
    "你好,世界。こんにちは 한국어 𠜎",
    "שלום עולם مرحبا بالعالم \u202eabc\u202c",
    "e\u0301 \u00e9 \u1e9e \ufb03 \u212a \u0130i",
    "\x00\x01\x1b[0m\x1c\x1d\x1e\x1f\x7f\x85\x9f|\u00a0|\u00ad|\u1680|\u180e|\u2003|\u200b|\u2028|\u2029|\u3000|\ufeff|",
    "fn main() { println!(\"{:?}\", a[0..=2]); } // <- ?? != ::<>\n\tif (x<=3 && y>>=1) {}",
    "<|begin_of_text|>a<|eot_id|>b <|eot_id|> c<|end_of_text|><|end_of_text|>",
    "<|eot_id <|eot_id|| |eot_id|> <|EOT_ID|> <|eot_id|>",
    "x<tool>y</tool> <tool> [PAD270][PAD271]",
    "\U0010ffff\ufffd\ue000",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaathethethe",
]


def byte_alphabet():
    """GPT-2's printable stand-ins, in order of their bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def make_tokenizer():
    tokens = byte_alphabet() + [a + b for a, b in MERGES] + WHOLE
    bpe = models.BPE({token: i for i, token in enumerate(tokens)}, MERGES, ignore_merges=True)
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS, EOT])
    tokenizer.add_tokens([tokenizers.AddedToken(TOOL, normalized=False)])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]),
    ])
    return tokenizer


# --- weights ------------------------------------------------------------------


def bf16_bits(x):
    """Of values that bf16 holds exactly."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    assert not (bits & 0xFFFF).any()
    return (bits >> 16).astype(np.uint16)


def norm_weights(rng, n):
    bits = (1 + 0.2 * rng.standard_normal(n)).astype(np.float32).view(np.uint32)
    return (bits & 0xFFFF0000).view(np.float32)


def embedding(rng, rows, cols):
    """Integers up to 127 in units of 2^-10, the largest in every block of 32: exact in Q8_0."""
    q = np.clip(np.rint(rng.standard_normal((rows, cols // 32, 32)) * 40), -127, 127)
    q[:, :, 0] = np.where(q[:, :, 0] < 0, -127, 127)
    return (q * 2.0**-10).reshape(rows, cols).astype(np.float32)


def head(rng, rows, cols):
    """Q6_K rows and their values, integers below 256 in units of 2^-8."""
    q = np.clip(np.rint(rng.standard_normal((rows, cols // 256, 256)) * 10), -32, 31).astype(np.int64)
    scales = rng.integers(1, 8, (rows, cols // 256, 16))
    scales[rng.random(scales.shape) < 0.3] *= -1
    values = q * np.repeat(scales, 16, axis=2) * 2.0**-8
    codes = (q + 32).astype(np.uint8).reshape(rows, -1, 2, 4, 32)  # half, quarter, column
    low = codes & 15
    ql = (low[:, :, :, :2] | low[:, :, :, 2:] << 4).reshape(rows, -1, 128)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    qh = np.bitwise_or.reduce(codes >> 4 << shifts, axis=3).reshape(rows, -1, 64)
    d = np.full((rows, cols // 256, 1), 2.0**-8, "<f2").view(np.uint8).reshape(rows, -1, 2)
    stored = np.concatenate([ql, qh, scales.astype(np.int8).view(np.uint8), d], axis=2).reshape(rows, -1)
    values = values.reshape(rows, cols).astype(np.float32)
    assert np.array_equal(dequantize(stored, Type.Q6_K), values)
    return stored, values


def shapes(c):
    hidden, q, kv = c["hidden"], c["heads"] * c["head_dim"], c["kv_heads"] * c["head_dim"]
    # GGUF name, HuggingFace name, rows, columns
    return [
        ("attn_q", "self_attn.q_proj", q, hidden),
        ("attn_k", "self_attn.k_proj", kv, hidden),
        ("attn_v", "self_attn.v_proj", kv, hidden),
        ("attn_output", "self_attn.o_proj", hidden, q),
        ("ffn_gate", "mlp.gate_proj", c["ffn"], hidden),
        ("ffn_up", "mlp.up_proj", c["ffn"], hidden),
        ("ffn_down", "mlp.down_proj", hidden, c["ffn"]),
    ]


# `weight_scale` of the folder by (layer, part): its type and value.
# Powers of two where the reciprocal must fit the f16 of a TQ2_0 block, ...
DEFAULT_SCALE = ("BF16", 16.0)
SCALES = {
    (0, "attn_output"): ("BF16", 8.0),
    (1, "ffn_down"): ("BF16", 32.0),
    # ... the reciprocal of such an f16, which only F32 holds well enough, ...
    (0, "ffn_gate"): ("F32", 1 / float(np.float16(0.0706))),
    (1, "attn_q"): ("F32", 1 / float(np.float16(0.083))),
    # ... and values whose reciprocals no f16 is: a `.scale` tensor in GGUF.
    (0, "attn_v"): ("BF16", 19.25),
    (1, "attn_v"): ("F16", 13.8125),
}
SCALE_TENSORS = [(0, "attn_v"), (1, "attn_v")]


def weight_scale(layer, part):
    dtype, value = SCALES.get((layer, part), DEFAULT_SCALE)
    return dtype, np.float32(value)


# --- HuggingFace folder -------------------------------------------------------


def pack_rows(trits):
    """transformers' pack_weights: quarter i of the rows in bits 2i."""
    quarters = (trits + 1).astype(np.uint8).reshape(4, -1, trits.shape[1])
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


def unpack_rows(packed):
    return np.concatenate([(packed >> 2 * i & 3).astype(np.int8) - 1 for i in range(4)])


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_folder(folder, c, w, tokenizer):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shards = [{}, {}]

    def add(shard, name, dtype, array):
        shards[shard][name] = (dtype, np.ascontiguousarray(array))

    add(0, "model.embed_tokens.weight", "float16", w["embedding"].astype("<f2"))
    for i in range(c["layers"]):
        p = f"model.layers.{i}."
        add(i, p + "input_layernorm.weight", "bfloat16", bf16_bits(w[i, "attn_norm"]))
        add(i, p + "post_attention_layernorm.weight", "bfloat16", bf16_bits(w[i, "ffn_norm"]))
        for part, hf_part, _, _ in shapes(c):
            add(i, p + hf_part + ".weight", "uint8", pack_rows(w[i, part]))
            dtype, value = weight_scale(i, part)
            scale = {
                "BF16": lambda: ("bfloat16", bf16_bits([value])),
                "F16": lambda: ("float16", np.array([value], "<f2")),
                "F32": lambda: ("float32", np.array([value], "<f4")),
            }[dtype]()
            # One scale lies in another shard than its weights.
            add(1 if (i, part) == (0, "ffn_down") else i, p + hf_part + ".weight_scale", *scale)
    add(1, "model.norm.weight", "bfloat16", bf16_bits(w["output_norm"]))
    add(1, "lm_head.weight", "bfloat16", bf16_bits(w["head"]))

    weight_map, total = {}, 0
    for i, shard in enumerate(shards):
        name = f"model-0000{i + 1}-of-0000{len(shards)}.safetensors"
        spec = {
            k: safetensors.TensorSpec(dtype=d, shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)
            for k, (d, a) in shard.items()
        }
        (folder / name).write_bytes(safetensors.serialize(spec, {"format": "pt"}))
        weight_map |= dict.fromkeys(shard, name)
        total += sum(a.nbytes for _, a in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)
    bos, eos, eot = map(tokenizer.token_to_id, (BOS, EOS, EOT))
    write_json(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "head_dim": c["head_dim"],
        "hidden_act": "silu",
        "hidden_size": c["hidden"],
        "intermediate_size": c["ffn"],
        "max_position_embeddings": c["ctx"],
        "model_type": "llama",
        "num_attention_heads": c["heads"],
        "num_hidden_layers": c["layers"],
        "num_key_value_heads": c["kv_heads"],
        "quantization_config": {
            "linear_class": "bitlinear",
            "modules_to_not_convert": ["lm_head"],
            "quant_method": "bitnet",
            "quantization_mode": "offline",
        },
        "rms_norm_eps": c["eps"],
        "rope_scaling": None,
        "rope_theta": c["theta"],
        "tie_word_embeddings": False,
        "vocab_size": VOCAB_SIZE,
    })
    write_json(folder / "generation_config.json", {"bos_token_id": bos, "eos_token_id": [eos, eot]})
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n")


def read_folder(folder, c):
    """Weights as float64 by name; trits with what they are multiplied with."""
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        for name, entry in safetensors.deserialize(shard.read_bytes()):
            data, dtype = bytes(entry["data"]), entry["dtype"]
            if dtype == "BF16":
                array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                array = np.frombuffer(data, {"F32": "<f4", "F16": "<f2", "U8": "u1"}[dtype])
            tensors[name] = array.reshape(entry["shape"])
    w = {
        "embedding": tensors["model.embed_tokens.weight"],
        "output_norm": tensors["model.norm.weight"],
        "head": tensors["lm_head.weight"],
    }
    for i in range(c["layers"]):
        p = f"model.layers.{i}."
        w[i, "attn_norm"] = tensors[p + "input_layernorm.weight"]
        w[i, "ffn_norm"] = tensors[p + "post_attention_layernorm.weight"]
        for part, hf_part, _, _ in shapes(c):
            trits = unpack_rows(tensors[p + hf_part + ".weight"])
            w[i, part] = trits, 1 / float(tensors[p + hf_part + ".weight_scale"][0])
    return w


# --- GGUF ---------------------------------------------------------------------


def permute(rows, n_head):
    """llama.cpp's converter, for the query and key rows of `llama`."""
    return rows.reshape(n_head, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def unpermute(rows, n_head):
    return rows.reshape(n_head, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def pack_i2_s(trits, scale):
    groups = (trits + 1).astype(np.uint8).reshape(-1, 4, 32)
    packed = groups[:, 0] << 6 | groups[:, 1] << 4 | groups[:, 2] << 2 | groups[:, 3]
    tail = np.zeros(8, "<f4")
    tail[0] = scale
    return np.concatenate([packed.ravel(), tail.view(np.uint8)])


def metadata(writer, c, tokenizer, file_type):
    arch = c["arch"]
    writer.add_file_type(file_type)
    writer.add_context_length(c["ctx"])
    writer.add_embedding_length(c["hidden"])
    writer.add_block_count(c["layers"])
    writer.add_feed_forward_length(c["ffn"])
    writer.add_head_count(c["heads"])
    writer.add_head_count_kv(c["kv_heads"])
    writer.add_rope_dimension_count(c["head_dim"])
    writer.add_layer_norm_rms_eps(c["eps"])
    if arch == "llama":
        writer.add_rope_freq_base(c["theta"])
        writer.add_vocab_size(VOCAB_SIZE)
    tokens, types = [], []
    added = tokenizer.get_added_tokens_decoder()
    for i in range(VOCAB_SIZE):
        token = tokenizer.id_to_token(i)
        tokens.append(token or f"[PAD{i}]")
        kind = gguf.TokenType.NORMAL if token else gguf.TokenType.UNUSED
        if i in added:
            kind = gguf.TokenType.CONTROL if added[i].special else gguf.TokenType.USER_DEFINED
        types.append(int(kind))
    writer.add_tokenizer_model("gpt2")
    if arch == "llama":
        writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(tokenizer.token_to_id(BOS))
    writer.add_eos_token_id(tokenizer.token_to_id(EOS))
    writer.add_add_bos_token(True)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_llama(path, c, w, tokenizer):
    writer = gguf.GGUFWriter(path, "llama")
    metadata(writer, c, tokenizer, gguf.LlamaFileType.MOSTLY_TQ2_0)
    stored = quantize(w["embedding"], Type.Q8_0)
    assert np.array_equal(dequantize(stored, Type.Q8_0), w["embedding"])
    writer.add_tensor("token_embd.weight", stored, raw_dtype=Type.Q8_0)
    for i in range(c["layers"]):
        p = f"blk.{i}."
        writer.add_tensor(p + "attn_norm.weight", w[i, "attn_norm"])
        writer.add_tensor(p + "ffn_norm.weight", w[i, "ffn_norm"])
        for part, _, _, _ in shapes(c):
            trits = w[i, part]
            if part in ("attn_q", "attn_k"):
                trits = permute(trits, c["heads" if part == "attn_q" else "kv_heads"])
            scale = np.float32(1) / weight_scale(i, part)[1]
            if (i, part) in SCALE_TENSORS:
                writer.add_tensor(p + part + ".scale", np.array([scale], np.float32))
                scale = np.float32(1)
            assert np.float32(np.float16(scale)) == scale
            stored = quantize(trits.astype(np.float32) * scale, Type.TQ2_0)
            writer.add_tensor(p + part + ".weight", stored, raw_dtype=Type.TQ2_0)
    writer.add_tensor("output_norm.weight", w["output_norm"])
    writer.add_tensor("output.weight", w["head_q6_k"], raw_dtype=Type.Q6_K)
    finish(writer)


def read_llama(path, c):
    stored = {t.name: t for t in gguf.GGUFReader(path).tensors}
    values = {name: dequantize(t.data, t.tensor_type) for name, t in stored.items()}
    w = {
        "embedding": values["token_embd.weight"],
        "output_norm": values["output_norm.weight"],
        "head": values["output.weight"],
    }
    for i in range(c["layers"]):
        p = f"blk.{i}."
        w[i, "attn_norm"] = values[p + "attn_norm.weight"]
        w[i, "ffn_norm"] = values[p + "ffn_norm.weight"]
        for part, _, _, _ in shapes(c):
            value = values[p + part + ".weight"]
            scale = np.abs(value).max()
            trits = np.rint(value / scale).astype(np.int8)
            assert np.array_equal(trits * scale, value)
            if part in ("attn_q", "attn_k"):
                trits = unpermute(trits, c["heads" if part == "attn_q" else "kv_heads"])
            w[i, part] = trits, float(scale) * float(values.get(p + part + ".scale", [1.0])[0])
    return w


def write_bitnet(path, c, w, tokenizer):
    writer = gguf.GGUFWriter(path, "bitnet")
    metadata(writer, c, tokenizer, 40)
    writer.add_tensor("token_embd.weight", quantize(w["embedding"], Type.Q8_0), raw_dtype=Type.Q8_0)
    for i in range(c["layers"]):
        p = f"blk.{i}."
        for part in ("attn_norm", "ffn_norm", "attn_sub_norm", "ffn_sub_norm"):
            writer.add_tensor(p + part + ".weight", w[i, part])
        for part, _, _, _ in shapes(c):
            trits, scale = w[i, part]
            data = pack_i2_s(trits, scale)
            # The package knows the size of its own types only.
            info = gguf.gguf_writer.TensorInfo(shape=trits.shape, dtype=I2_S, nbytes=data.nbytes, tensor=data)
            writer.tensors[-1][p + part + ".weight"] = info
    writer.add_tensor("output_norm.weight", w["output_norm"])
    finish(writer)


# --- reference ----------------------------------------------------------------


class Reference:
    """A forward pass in float64. `margin` is the least distance of an activation from a value
    that rounds either way."""

    def __init__(self, c, w):
        self.c, self.margin = c, 0.5
        self.w = {k: v if isinstance(v, tuple) else v.astype(np.float64) for k, v in w.items()}

    def linear(self, x, weights):
        trits, scale = weights
        s = 127 / np.maximum(np.abs(x).max(axis=1, keepdims=True), 1e-5)
        self.margin = min(self.margin, np.abs((x * s) % 1 - 0.5).min())
        q = np.clip(np.rint(x * s), -128, 127)
        return q @ trits.T.astype(np.float64) / s * scale

    def norm(self, x, weight):
        return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + self.c["eps"]) * weight

    def rope(self, x, n_heads):
        half = self.c["head_dim"] // 2
        angles = np.arange(len(x))[:, None] * self.c["theta"] ** (-np.arange(half) / half)
        cos, sin = (np.concatenate([f(angles)] * 2, axis=1)[:, None] for f in (np.cos, np.sin))
        x = x.reshape(len(x), n_heads, -1)
        rotated = np.concatenate([-x[..., half:], x[..., :half]], axis=2)
        return x * cos + rotated * sin

    def attention(self, q, k, v):
        n, heads, dim = q.shape
        k, v = (np.repeat(a, heads // self.c["kv_heads"], axis=1) for a in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(dim)
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(axis=2, keepdims=True))
        p /= p.sum(axis=2, keepdims=True)
        return np.einsum("hij,jhd->ihd", p, v).reshape(n, -1)

    def logits(self, ids):
        c, w, n = self.c, self.w, len(ids)
        x = w["embedding"][ids]
        for i in range(c["layers"]):
            h = self.norm(x, w[i, "attn_norm"])
            q = self.rope(self.linear(h, w[i, "attn_q"]), c["heads"])
            k = self.rope(self.linear(h, w[i, "attn_k"]), c["kv_heads"])
            v = self.linear(h, w[i, "attn_v"]).reshape(n, c["kv_heads"], -1)
            h = self.attention(q, k, v)
            if (i, "attn_sub_norm") in w:
                h = self.norm(h, w[i, "attn_sub_norm"])
            x = x + self.linear(h, w[i, "attn_output"])
            h = self.norm(x, w[i, "ffn_norm"])
            gate = self.linear(h, w[i, "ffn_gate"])
            h = gate / (1 + np.exp(-gate)) * self.linear(h, w[i, "ffn_up"])
            if (i, "ffn_sub_norm") in w:
                h = self.norm(h, w[i, "ffn_sub_norm"])
            x = x + self.linear(h, w[i, "ffn_down"])
        return self.norm(x, w["output_norm"]) @ w["head"].T


def find_prompt(c, w, rng, n_tokens, margin):
    """Random tokens of which no activation is closer than `margin` to a rounding boundary; found
    one by one, since no token changes what came before it."""
    ids = []
    while len(ids) < n_tokens:
        token = int(rng.integers(0, VOCAB_SIZE))
        reference = Reference(c, w)
        reference.logits([*ids, token])
        if reference.margin >= margin:
            ids.append(token)
    return ids


def digits(values):
    return [float(f"{v:.8g}") for v in values]


def describe(c, w, ids):
    reference = Reference(c, w)
    logits = reference.logits(ids)
    return {
        "ids": ids,
        "margin": float(f"{reference.margin:.3g}"),
        # Of every position, log Σ exp; of the last one, everything.
        "logsumexp": digits(np.log(np.exp(logits).sum(axis=1))),
        "logits": digits(logits[-1]),
    }


def main():
    tokenizer = make_tokenizer()
    rng = np.random.default_rng(SEED)

    def trits(rows, cols):
        return rng.choice(np.array([-1, 0, 1], np.int8), (rows, cols), p=[0.3, 0.4, 0.3])

    c, w = LLAMA, {}
    w["embedding"] = embedding(rng, VOCAB_SIZE, c["hidden"])
    w["head_q6_k"], w["head"] = head(rng, VOCAB_SIZE, c["hidden"])
    w["output_norm"] = norm_weights(rng, c["hidden"])
    for i in range(c["layers"]):
        for part in ("attn_norm", "ffn_norm"):
            w[i, part] = norm_weights(rng, c["hidden"])
        for part, _, rows, cols in shapes(c):
            w[i, part] = trits(rows, cols)
    folder, file = HERE / "tiny-llama", HERE / "tiny-llama-tq2_0.gguf"
    write_folder(folder, c, w, tokenizer)
    write_llama(file, c, w, tokenizer)
    by_file = {folder.name: (c, read_folder(folder, c)), file.name: (c, read_llama(file, c))}

    c, w = BITNET, {}
    w["head"] = w["embedding"] = embedding(rng, VOCAB_SIZE, c["hidden"])
    w["output_norm"] = norm_weights(rng, c["hidden"])
    for i in range(c["layers"]):
        for part in ("attn_norm", "ffn_norm", "attn_sub_norm"):
            w[i, part] = norm_weights(rng, c["hidden"])
        w[i, "ffn_sub_norm"] = norm_weights(rng, c["ffn"])
        for part, _, rows, cols in shapes(c):
            w[i, part] = trits(rows, cols), np.float32(rng.uniform(0.05, 0.15))
    file = HERE / "tiny-bitnet-i2_s.gguf"
    write_bitnet(file, c, w, tokenizer)
    by_file[file.name] = c, w

    prompts = {}
    for c, w in (by_file["tiny-llama"], by_file["tiny-bitnet-i2_s.gguf"]):
        prompts[c["arch"]] = [find_prompt(c, w, rng, n, MARGIN) for n in (6, 20, c["ctx"])]
    write_reference(HERE / "tiny-llama-reference.json", {
        "models": {name: [describe(c, w, ids) for ids in prompts[c["arch"]]] for name, (c, w) in by_file.items()},
        "texts": [
            {"text": t, "ids": tokenizer.encode(t).ids, "decoded": tokenizer.decode(tokenizer.encode(t).ids, False)}
            for t in TEXTS
        ],
    })


def write_reference(path, reference):
    """One prompt or text a line."""
    lines = [f'    {json.dumps(name)}: [\n      ' + ",\n      ".join(map(json.dumps, runs)) + "\n    ]"
             for name, runs in reference["models"].items()]
    texts = ",\n    ".join(map(json.dumps, reference["texts"]))
    path.write_text('{\n  "models": {\n' + ",\n".join(lines) + '\n  },\n  "texts": [\n    ' + texts + "\n  ]\n}\n")


if __name__ == "__main__":
    main()
