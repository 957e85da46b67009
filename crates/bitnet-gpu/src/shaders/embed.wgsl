// Copies the embeddings of tokens, times the model's multiplier, to the residual stream.
//
//   table  [token][row_words] u32: one f32, or two f16 or bfloat16 (ENCODING 0, 1, 2), the
//          first in the low half; a piece of the whole table
//   x      [row][n_cols] f32
//
// Grid: rows. A workgroup does nothing if the token of its row is not in the piece.

struct Params {
    zero: u32,
    n_cols: u32,
    row_words: u32,
    first_token: u32,
    n_tokens: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> first_bad: atomic<u32>;

// Returns the value of f16 bits. `unpack2x16float` may flush subnormal numbers.
fn from_f16(bits: u32) -> f32 {
    let sign = (bits & 0x8000u) << 16u;
    let magnitude = bits & 0x7fffu;
    if magnitude < 0x400u {
        let value = bitcast<u32>(f32(magnitude) * 5.9604645e-8);
        return bitcast<f32>(sign | value);
    }
    if magnitude >= 0x7c00u {
        return bitcast<f32>(sign | INFINITE | ((magnitude & 0x3ffu) << 13u));
    }
    return bitcast<f32>(sign | ((magnitude << 13u) + 0x38000000u));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = group.x;
    let token = rows[4u + 3u * row] - params.first_token;
    // A token before the piece wraps around.
    if token >= params.n_tokens {
        return;
    }
    let start = token * params.row_words;
    for (var i = t; i < params.n_cols; i += 256u) {
        var value: f32;
        if ENCODING == 0u {
            value = bitcast<f32>(table[start + i]);
        } else {
            let bits = (table[start + i / 2u] >> (16u * (i % 2u))) & 0xffffu;
            if ENCODING == 1u {
                value = from_f16(bits);
            } else {
                value = bitcast<f32>(bits << 16u);
            }
        }
        if !is_square_finite(value) {
            report(row);
        }
        if params.factor != 1.0 {
            value = rounded(value * params.factor);
        }
        x[row * params.n_cols + i] = value;
    }
}
