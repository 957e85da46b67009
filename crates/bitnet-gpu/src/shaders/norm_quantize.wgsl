// Normalizes rows and quantizes them to int8: the input of linear layers.
//
//   input   [rows][n_cols] f32
//   norms   all norm weights of the model, f32
//   acts    [row][part][act_stride] u32 of four columns each, zero beyond the last column;
//           act_stride is a multiple of 16 words, the 64 columns of a weight chunk
//   stats   [row][part] (scale as bits, sum of the quantized values)
//   normed  [rows][out_stride] f32: the normalized row, if out_stride is not 0
//
// One workgroup computes one row. If `mapped`, row i is row `rows[4 + 3 i]` of the input.

struct Params {
    zero: u32,
    n_cols: u32,
    // The first weight of each norm, or NONE.
    first: u32,
    second: u32,
    eps: f32,
    norm_place: u32,
    mapped: u32,
    // The first row of `acts`, in rows with all their parts.
    act_row: u32,
    act_stride: u32,
    out_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read> norms: array<f32>;
@group(0) @binding(4) var<storage, read_write> acts: array<u32>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> normed: array<f32>;
@group(0) @binding(7) var<storage, read_write> first_bad: atomic<u32>;

var<private> start: u32;
var<private> act_row: u32;

fn input(i: u32) -> f32 {
    return values[start + i];
}

fn put_word(part: u32, word: u32, packed: u32) {
    acts[(act_row * PARTS + part) * params.act_stride + word] = packed;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    var row = group.x;
    if params.mapped == 1u {
        row = rows[4u + 3u * row];
    }
    start = row * params.n_cols;
    act_row = params.act_row + group.x;
    let first = norm_of(t, params.first, Scaled(NONE, 1.0));
    let second = norm_of(t, params.second, first);
    if params.out_stride > 0u {
        for (var i = t; i < params.n_cols; i += 256u) {
            let x = scaled(second, i, scaled(first, i, input(i)));
            normed[group.x * params.out_stride + i] = x;
            if !is_square_finite(x) {
                report(params.norm_place);
            }
        }
    }
    var quantized = quantize(t, first, second);
    if t < PARTS {
        let scale = bitcast<u32>(quantized.scale);
        stats[act_row * PARTS + t] = vec2<u32>(scale, bitcast<u32>(quantized.sums[t]));
    }
}
