#!/usr/bin/env python3
"""Write a GGUF file of random weights with the exact shapes of a ternary model.

Memory depends on shapes and types, not on values, and so does speed but for weights
that are multiplied by zero, which bitnet skips. Linear layers are ternary
(TQ2_0, 40 % zeros); the embedding, which is also the output matrix, is F16 or
Q6_K. The architecture is `bitnet` (SiLU), which llama.cpp and bitnet both read.

`--zeros` writes `bitnet-b1.58`, which has squared ReLU, and the given shares of gates and
of inputs of `down` that are zero. Of random gates one half is, so some rows of `gate` are
all zero; and so are some weights of the norm in front of `down`, all at random places in
every layer. storyteller has 0.74,0.87.

Needs `numpy` and `gguf` from PyPI.

Example:
  random_gguf.py --shape 2b4t --head F16 --zeros 0.74,0.87 2b4t.gguf
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType


@dataclass(frozen=True)
class Shape:
    """The sizes that determine the shape of every tensor."""

    of: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int


SHAPES = {
    "2b4t": Shape("BitNet b1.58 2B-4T", 2560, 30, 20, 5, 128, 6912, 128256),
    "8b": Shape("Llama3-8B-1.58", 4096, 32, 32, 8, 128, 14336, 128256),
    "700m": Shape("BitNet b1.58-large, 700M", 1536, 24, 16, 16, 96, 4096, 32002),
    "storyteller": Shape("the built-in storyteller", 512, 10, 8, 4, 64, 1536, 8192),
}
HEADS = ("F16", "Q6_K")
# The share of random gates that are positive, and of the inputs of `down` behind these
# that int8 does not round to zero.
POSITIVE = 0.5
ROUNDED_UP = 0.6
CONTEXT = 4096


def tq2_0(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Returns random trits: blocks of 64 bytes of four 2-bit codes each, and an f16 scale."""
    codes = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2], np.uint8)
    # Maps each value in 0..10^4 to a byte of four codes.
    four = np.arange(10_000)
    table = sum(codes[four // 10**i % 10] << 2 * i for i in range(4)).astype(np.uint8)
    blocks = rows * cols // 256
    codes = table[rng.integers(0, len(table), (blocks, 64), dtype=np.uint16)]
    # Makes outputs about as large as inputs.
    scale = np.array([1 / np.sqrt(0.6 * cols)], np.float16).view(np.uint8)
    data = np.concatenate([codes, np.broadcast_to(scale, (blocks, 2))], axis=1)
    return data.reshape(rows, -1)


def q6_k(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Returns random weights: blocks of 192 bytes of 6-bit codes, 16 scales, an f16 scale."""
    blocks = rows * cols // 256
    codes = rng.integers(0, 256, (blocks, 192), dtype=np.uint8)
    scales = np.full((blocks, 16), 64, np.uint8)
    scale = np.array([0.1 / 64 / 32], np.float16).view(np.uint8)
    scale = np.broadcast_to(scale, (blocks, 2))
    return np.concatenate([codes, scales, scale], axis=1).reshape(rows, -1)


def silent(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    """Returns which of `n` places are zero: a share of them, at random."""
    places = np.zeros(n, bool)
    if share:
        places[rng.permutation(n)[: round(n * share)]] = True
    return places


def write(
    shape: Shape, head: str, path: Path, seed: int, zeros: tuple[float, float] | None
) -> None:
    """Writes the file under a temporary name and renames it when it is complete."""
    rng = np.random.default_rng(seed)
    part = path.with_name(path.name + ".part")
    w = gguf.GGUFWriter(part, "bitnet-b1.58" if zeros else "bitnet")
    w.add_name(f"random weights, shape of {shape.of}")
    w.add_file_type(LlamaFileType.MOSTLY_TQ2_0)
    w.add_context_length(CONTEXT)
    w.add_embedding_length(shape.hidden)
    w.add_block_count(shape.layers)
    w.add_feed_forward_length(shape.ffn)
    w.add_head_count(shape.heads)
    w.add_head_count_kv(shape.kv_heads)
    w.add_key_length(shape.head_dim)
    w.add_value_length(shape.head_dim)
    w.add_rope_dimension_count(shape.head_dim)
    w.add_rope_freq_base(500_000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(shape.vocab)
    # Benchmarks pass token ids; the tokenizer only has to exist.
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("llama-bpe")
    w.add_token_list(["a", "b", "ab"] + [f"<{i}>" for i in range(3, shape.vocab)])
    w.add_token_types([int(gguf.TokenType.NORMAL)] * shape.vocab)
    w.add_token_merges(["a b"])
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)

    def norm(name: str, n: int) -> None:
        w.add_tensor(name, np.ones(n, np.float32))

    def linear(name: str, rows: int, cols: int, off: np.ndarray | None = None) -> None:
        data = tq2_0(rng, rows, cols)
        if off is not None:
            # Code 1 is zero.
            data.reshape(rows, -1, 66)[off, :, :64] = 0b01010101
        w.add_tensor(name, data, raw_dtype=GGMLQuantizationType.TQ2_0)

    off_gates = off_inputs = 0.0
    if zeros:
        gates, inputs = zeros
        off_gates = 1 - (1 - gates) / POSITIVE
        off_inputs = 1 - (1 - inputs) / (1 - gates) / ROUNDED_UP

    if head == "Q6_K":
        embedding = q6_k(rng, shape.vocab, shape.hidden)
        w.add_tensor("token_embd.weight", embedding, raw_dtype=GGMLQuantizationType.Q6_K)
    else:
        embedding = rng.random((shape.vocab, shape.hidden), np.float32) - np.float32(0.5)
        w.add_tensor("token_embd.weight", (embedding / 5).astype(np.float16))
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for layer in range(shape.layers):
        blk = f"blk.{layer}."
        norm(blk + "attn_norm.weight", shape.hidden)
        linear(blk + "attn_q.weight", q, shape.hidden)
        linear(blk + "attn_k.weight", kv, shape.hidden)
        linear(blk + "attn_v.weight", kv, shape.hidden)
        norm(blk + "attn_sub_norm.weight", q)
        linear(blk + "attn_output.weight", shape.hidden, q)
        norm(blk + "ffn_norm.weight", shape.hidden)
        off = silent(rng, shape.ffn, off_gates)
        linear(blk + "ffn_gate.weight", shape.ffn, shape.hidden, off)
        linear(blk + "ffn_up.weight", shape.ffn, shape.hidden)
        weights = np.where(silent(rng, shape.ffn, off_inputs), 0, 1)
        w.add_tensor(blk + "ffn_sub_norm.weight", weights.astype(np.float32))
        linear(blk + "ffn_down.weight", shape.hidden, shape.ffn)
    norm("output_norm.weight", shape.hidden)
    try:
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def shares(text: str) -> tuple[float, float]:
    """Parses `GATES,INPUTS`."""
    gates, inputs = (float(part) for part in text.split(","))
    least = 1 - (1 - gates) * ROUNDED_UP
    if not (1 - POSITIVE <= gates <= 1 and least <= inputs <= 1):
        raise argparse.ArgumentTypeError(
            f"expected gates from {1 - POSITIVE} to 1, and inputs from 1 - {ROUNDED_UP} * (1 - gates) to 1"
        )
    return gates, inputs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="2b4t")
    parser.add_argument("--head", choices=HEADS, default="F16", help="type of the embedding")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--zeros",
        type=shares,
        metavar="GATES,INPUTS",
        help="about these shares of gates and of inputs of `down` are zero",
    )
    parser.add_argument("out", type=Path, help="the file to write")
    args = parser.parse_args()
    write(SHAPES[args.shape], args.head, args.out, args.seed, args.zeros)


if __name__ == "__main__":
    main()
