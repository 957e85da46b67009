// Merges what the blocks of a row contribute to attention, in their order.
//
//   partial  [row of the tile][head][block][head_dim + 2] f32, of `attention.wgsl`
//   out      [row][n_heads · head_dim] f32
//
// Grid: rows of the tile × n_heads.

struct Params {
    zero: u32,
    n_heads: u32,
    window: u32,
    place: u32,
}

struct Tile {
    index: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> partial: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> first_bad: atomic<u32>;
@group(0) @binding(5) var<uniform> tile: Tile;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = tile.index * rows[2] + group.x;
    if row >= rows[0] {
        return;
    }
    let position = rows[4u + 3u * row + 1u];
    var first = 0u;
    if params.window > 0u && position + 1u > params.window {
        first = (position + 1u - params.window) / 128u;
    }
    let end = position / 128u + 1u;
    let width = HEAD_DIM + 2u;
    let start = (group.x * params.n_heads + group.y) * rows[1] * width;
    var largest = partial[start + first * width + HEAD_DIM];
    for (var block = first + 1u; block < end; block++) {
        largest = max(largest, partial[start + block * width + HEAD_DIM]);
    }
    for (var i = t; i < HEAD_DIM; i += 64u) {
        var sum = 0.0;
        var weights = 0.0;
        for (var block = first; block < end; block++) {
            let at = start + block * width;
            let weight = exponential(partial[at + HEAD_DIM] - largest);
            sum = fma(weight, partial[at + i], sum);
            weights = fma(weight, partial[at + HEAD_DIM + 1u], weights);
        }
        let value = sum / weights;
        if !is_square_finite(value) {
            report(params.place);
        }
        out[(row * params.n_heads + group.y) * HEAD_DIM + i] = value;
    }
}
