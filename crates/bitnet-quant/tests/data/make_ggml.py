"""Writes ggml.txt: Q1_0 and Q2_0 as llama.cpp's own library stores and reads them.

    pip install llama-cpp-python==0.3.36 numpy==2.4.6
    python make_ggml.py .../site-packages/llama_cpp/lib/libggml-base.so > ggml.txt

A key is followed by bytes in hexadecimal, or by trits as "-", "0", "+".
"""

import ctypes
import sys

import numpy as np

ggml = ctypes.CDLL(sys.argv[1])
rng = np.random.default_rng(2026)


def call(name, result, *args):
    function = getattr(ggml, name)
    function.restype = result
    pointer = lambda a: ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a
    return function(*map(pointer, args))


def write(key, n_rows, n_cols, block, choices):
    trits = rng.choice(np.array(choices, np.float32), (n_rows, n_cols))
    n_blocks = n_rows * n_cols // block
    scales = rng.uniform(0.01, 2, n_blocks).astype("<f2").astype("<f4")
    weights = (trits.reshape(n_blocks, block) * scales[:, None]).astype("<f4").reshape(-1)
    stored = np.zeros(n_blocks * 18, np.uint8)
    rows, cols = ctypes.c_int64(n_rows), ctypes.c_int64(n_cols)
    size = call(f"quantize_{key}", ctypes.c_size_t, weights, stored, rows, cols, None)
    assert size == len(stored)
    read = np.zeros_like(weights)
    call(f"dequantize_row_{key}", None, stored, read, ctypes.c_int64(len(weights)))
    assert np.array_equal(read, weights)
    print(key + ".trits", "".join("-0+"[int(t) + 1] for t in trits.ravel()))
    print(key + ".stored", stored.tobytes().hex())
    print(key + ".scales", scales.tobytes().hex())


write("q1_0", 2, 256, 128, [-1, 1])
write("q2_0", 2, 128, 64, [-1, 0, 1])
