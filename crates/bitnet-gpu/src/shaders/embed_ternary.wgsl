// Decodes the embeddings of tokens, times the model's multiplier, from a ternary matrix.
//
//   weights  [panel][chunk][16] vec4<u32>, as in `linear.wgsl` and `ternary.wgsl`; a piece
//   scales   [panel][group][row of the panel] f32 of all tokens; a group is GROUP_CHUNKS chunks
//   x        [row][n_cols] f32
//
// Grid: rows. A workgroup does nothing if the token of its row is not in the piece.

struct Params {
    zero: u32,
    n_cols: u32,
    n_chunks: u32,
    first_token: u32,
    n_tokens: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> first_bad: atomic<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = group.x;
    let token = rows[4u + 3u * row];
    let in_piece = token - params.first_token;
    if in_piece >= params.n_tokens {
        return;
    }
    let n_groups = (params.n_chunks + GROUP_CHUNKS - 1u) / GROUP_CHUNKS;
    for (var i = t; i < params.n_cols; i += 256u) {
        let at = (in_piece / 16u * params.n_chunks + i / 64u) * 16u + in_piece % 16u;
        let word = weights[at][i / 16u % 4u];
        let code = (word >> (8u * (i % 4u) + 2u * (i / 4u % 4u))) & 3u;
        let group = i / 64u / GROUP_CHUNKS;
        let scale = scales[(token / 16u * n_groups + group) * 16u + token % 16u];
        var value = f32(i32(code) - 1) * scale;
        if !is_square_finite(value) {
            report(row);
        }
        if params.factor != 1.0 {
            value = rounded(rounded(value) * params.factor);
        }
        x[row * params.n_cols + i] = value;
    }
}
