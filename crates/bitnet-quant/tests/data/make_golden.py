"""Writes golden.txt: weights as the `gguf` package of llama.cpp stores and reads them.

    pip install gguf==0.19.0 numpy==2.4.6
    python make_golden.py > golden.txt

Each line is a key and its value: bytes in hexadecimal, trits as "-", "0", "+".
"""

import numpy as np
from gguf import GGML_QUANT_SIZES as QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

rng = np.random.default_rng(2024)
D = np.array([0.013, -0.5, 3e-6, 200.0], dtype="<f2")


def write(key, value):
    print(key, value.tobytes().hex())


def write_trits(key, trits):
    print(key, "".join("-0+"[int(t) + 1] for t in trits.ravel()))


def q8_0():
    values = rng.normal(0, 0.02, (5, 32)).astype("<f4")
    values[1] = 0
    values[2] = np.arange(-16, 16) * 0.5
    values[2, 0] = 127  # d = 1: halves are ties
    values[3] *= 1e-4  # a subnormal scale
    values[4] *= 1e6
    stored = quantize(values, Type.Q8_0)
    write("q8_0.values", values)
    write("q8_0.stored", stored)
    write("q8_0.decoded", dequantize(stored, Type.Q8_0).astype("<f4"))


def any_bytes(key, ty, scales):
    """Four blocks of any bytes, but for the f16 at `scales` (byte offsets)."""
    stored = rng.integers(0, 256, (4, QUANT_SIZES[ty][1]), dtype=np.uint8)
    for at in scales:
        stored[:, at : at + 2] = D.view(np.uint8).reshape(4, 2)
    write(key + ".stored", stored)
    write(key + ".decoded", dequantize(stored, ty).astype("<f4"))


def ternary(key, ty):
    trits = rng.integers(-1, 2, (2, 512)).astype(np.float32)
    trits[1, :256] = 0  # the package gives such a block the scale 0
    scale = np.float32(0.0123291015625)  # an f16
    stored = quantize(trits * scale, ty)
    assert np.array_equal(dequantize(stored, ty), trits * scale)
    write_trits(key + ".trits", trits)
    write(key + ".stored", stored)


def tq1_0_any_bytes():
    stored = rng.integers(0, 256, (2, 54), dtype=np.uint8)
    stored[:, 52:] = np.array([1.0, 1.0], dtype="<f2").view(np.uint8).reshape(2, 2)
    write("tq1_0.any.stored", stored)
    write_trits("tq1_0.any.trits", dequantize(stored, Type.TQ1_0))


q8_0()
any_bytes("q6_k", Type.Q6_K, [208])
ternary("tq1_0", Type.TQ1_0)
ternary("tq2_0", Type.TQ2_0)
tq1_0_any_bytes()
any_bytes("q4_0", Type.Q4_0, [0])
any_bytes("q4_1", Type.Q4_1, [0, 2])
any_bytes("q5_0", Type.Q5_0, [0])
any_bytes("q5_1", Type.Q5_1, [0, 2])
any_bytes("q2_k", Type.Q2_K, [80, 82])
any_bytes("q3_k", Type.Q3_K, [108])
any_bytes("q4_k", Type.Q4_K, [0, 2])
any_bytes("q5_k", Type.Q5_K, [0, 2])
