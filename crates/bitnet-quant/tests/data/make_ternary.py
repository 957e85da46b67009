"""Writes ternary.txt: trits in the formats that llama.cpp does not know.

    python make_ternary.py > ternary.txt

Needs nothing but Python. Each format is written weight by weight from its page in
docs/formats/, without a line in common with the crate.
A key is followed by bytes in hexadecimal, by trits as "-", "0", "+", or by numbers.
"""

import random
import struct

rng = random.Random(2025)
SCALES = [0.5, -0.0125, 3.0, 0.75, 1.5, 0.0625, -2.0, 0.1]


def half(value):
    return struct.unpack("<e", struct.pack("<e", value))[0]


def base3(trits):
    """The byte of up to five trits, the first of which counts most."""
    v = sum((t + 1) * 3 ** (4 - i) for i, t in enumerate(trits))
    return (v * 256 + 242) // 243


def put(byte, shift, trit, data):
    data[byte] |= (trit + 1) << shift


def pq2_0(w, d):
    data = bytearray(len(w) // 4)
    for j, trit in enumerate(w):
        put(j // 4, 2 * (j % 4), trit, data)
    return struct.pack("<e", d) + data


def ptq1_0(w, d):
    # 128 = 16 · 5 + 8 · 5 + 2 · 4
    data = [base3(w[m:80:16]) for m in range(16)]
    data += [base3(w[80 + m : 120 : 8]) for m in range(8)]
    data += [base3(w[120 + m :: 2]) for m in range(2)]
    return bytes(data) + struct.pack("<e", d)


def iq1_bn_block(w):
    # The first trit of a byte counts least; every sixteenth weight is in the last byte.
    fives = [w[16 * i + 5 * k :][:5] for i in range(4) for k in range(3)]
    return bytes(base3(five[::-1]) for five in fives) + bytes([base3([-1] + w[15::16][::-1])])


def iq2_bn_block(w):
    data = bytearray(16)
    for j, trit in enumerate(w):
        put(j % 16, 2 * (j // 16), trit, data)
    return bytes(data)


def blocks(w):
    return [w[at : at + 64] for at in range(0, len(w), 64)]


def iq1_bn(w, d):
    return struct.pack("<e", d) + b"".join(map(iq1_bn_block, blocks(w)))


def iq2_bn(w, d):
    return struct.pack("<f", d) + b"".join(map(iq2_bn_block, blocks(w)))


def iq2_bn_r4(rows, scales):
    """As ik_llama.cpp repacks IQ2_BN: bits of four bytes of a row meet in one."""
    data = struct.pack("<4f", *scales)
    packed = [[iq2_bn_block(block) for block in blocks(row)] for row in rows]
    for ib in range(len(packed[0])):
        out = bytearray(64)
        for k in range(4):
            x = packed[k][ib]
            for level in range(4):
                for i in range(4):
                    bits = [x[i + 4 * n] >> 2 * level & 3 for n in range(4)]
                    out[16 * level + 4 * k + i] = sum(b << 2 * n for n, b in enumerate(bits))
        data += out
    return data


def write(key, n_rows, n_cols, group, encode, scale=half):
    """A matrix with a scale for each `group` weights of a row."""
    rows = [[rng.choice((-1, 0, 1)) for _ in range(n_cols)] for _ in range(n_rows)]
    stored, scales = b"", []
    for row in rows:
        for at in range(0, n_cols, group):
            scales.append(scale(SCALES[len(scales) % len(SCALES)]))
            stored += encode(row[at : at + group], scales[-1])
    show(key, rows, stored, scales)


def show(key, rows, stored, scales):
    print(key + ".trits", "".join("-0+"[t + 1] for row in rows for t in row))
    print(key + ".stored", stored.hex())
    print(key + ".scales", struct.pack(f"<{len(scales)}f", *scales).hex())


write("pq2_0", 2, 256, 128, pq2_0)
write("ptq1_0", 2, 256, 128, ptq1_0)
write("iq1_bn", 3, 128, 128, iq1_bn)
write("iq2_bn", 3, 128, 128, iq2_bn, scale=lambda s: struct.unpack("<f", struct.pack("<f", s))[0])
ROWS = [[rng.choice((-1, 0, 1)) for _ in range(128)] for _ in range(8)]
show("iq2_bn_r4", ROWS, b"".join(iq2_bn_r4(ROWS[i : i + 4], SCALES[i : i + 4]) for i in (0, 4)), SCALES)
