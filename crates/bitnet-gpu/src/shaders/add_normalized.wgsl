// Adds the normalized output of a block, times the residual multiplier, to the residual
// stream: x += factor · norm(branch).
//
//   branch  [row][n_cols] f32
//   x       [row][n_cols] f32
//
// Grid: rows.

struct Params {
    zero: u32,
    n_cols: u32,
    first: u32,
    eps: f32,
    factor: f32,
    norm_place: u32,
    act_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> branch: array<f32>;
@group(0) @binding(2) var<storage, read> norms: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> first_bad: atomic<u32>;

var<private> start: u32;

fn input(i: u32) -> f32 {
    return branch[start + i];
}

fn put_word(part: u32, word: u32, packed: u32) {}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    start = group.x * params.n_cols;
    let norm = norm_of(t, params.first, Scaled(NONE, 1.0));
    for (var i = t; i < params.n_cols; i += 256u) {
        var value = scaled(norm, i, input(i));
        if params.factor != 1.0 {
            value = rounded(value * params.factor);
        }
        value = x[start + i] + value;
        x[start + i] = value;
        if !is_square_finite(value) {
            report(params.norm_place);
        }
    }
}
