// A ternary linear layer of many quantized rows: a tile of 64 weight rows and 64 rows of
// values, through the memory of the workgroup.
//
// Activations have one part.
//
//   acts   [row][act_stride / 4] vec4<u32>
//   stats  [row] (scale as bits, sum)
//
// The 64 weight rows are four panels; with a gate (PANELS = 2), two of it and the two of its
// linear layer. A chunk of 64 columns at a time is unpacked to codes. Thread t computes 4×4
// products: of row t mod 16 of each panel and of values t / 16, t / 16 + 16, and so on.
//
// Grid: groups of panels × tiles of 64 rows.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> acts: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> stats: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read_write> first_bad: atomic<u32>;

// Panels of a group, not counting those of the second matrix.
const GROUP_PANELS: u32 = 4u / PANELS;

// Four columns of codes each, [column / 16][weight row of the tile].
var<workgroup> weight_tile: array<vec4<u32>, 256>;
// [column / 16][row of values of the tile]
var<workgroup> act_tile: array<vec4<u32>, 256>;

// Returns the panel of the tile's weight rows 16 i to 16 i + 15, counted from the first panel
// of its matrix; one beyond the last is the last, whose products are dropped.
fn panel_of(group: u32, i: u32) -> u32 {
    let last = (params.n_rows + 15u) / 16u - 1u;
    return min(group * GROUP_PANELS + i % GROUP_PANELS, last) + i / GROUP_PANELS * params.second_panel;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let n_tokens = rows[0];
    let first = group.y * 64u;
    let act_stride = params.act_stride / 4u;
    var sums: array<i32, 16>;
    for (var chunk = 0u; chunk < params.n_chunks; chunk++) {
        if t < 64u {
            let panel = params.first_panel + panel_of(group.x, t / 16u);
            let w = weights[(panel * params.n_chunks + chunk) * 16u + t % 16u];
            weight_tile[t] = codes(w.x);
            weight_tile[64u + t] = codes(w.y);
            weight_tile[128u + t] = codes(w.z);
            weight_tile[192u + t] = codes(w.w);
        }
        // Rows past the last are computed as the last, and dropped.
        let token = min(first + t / 4u, n_tokens - 1u);
        act_tile[t % 4u * 64u + t / 4u] =
            acts[(token + params.act_row) * act_stride + chunk * 4u + t % 4u];
        workgroupBarrier();
        for (var k = 0u; k < 4u; k++) {
            let w0 = weight_tile[k * 64u + t % 16u];
            let w1 = weight_tile[k * 64u + 16u + t % 16u];
            let w2 = weight_tile[k * 64u + 32u + t % 16u];
            let w3 = weight_tile[k * 64u + 48u + t % 16u];
            for (var j = 0u; j < 4u; j++) {
                let a = act_tile[k * 64u + 16u * j + t / 16u];
                sums[j] += dot16(w0, a);
                sums[4u + j] += dot16(w1, a);
                sums[8u + j] += dot16(w2, a);
                sums[12u + j] += dot16(w3, a);
            }
        }
        workgroupBarrier();
    }
    for (var j = 0u; j < 4u; j++) {
        let token = first + 16u * j + t / 16u;
        if token < n_tokens {
            let stat = stats[token + params.act_row];
            let act_scale = bitcast<f32>(stat.x);
            for (var i = 0u; i < GROUP_PANELS; i++) {
                let row = (group.x * GROUP_PANELS + i) * 16u + t % 16u;
                if row < params.n_rows {
                    var products: array<f32, 2>;
                    for (var p = 0u; p < PANELS; p++) {
                        let sum = sums[4u * (i + p * GROUP_PANELS) + j] - bitcast<i32>(stat.y);
                        let scale = scales[params.scale_at + row + p * params.second_panel * 16u];
                        var parts: array<i32, PARTS>;
                        parts[0] = sum;
                        products[p] = product(parts, scale, act_scale);
                    }
                    put(row, token, products[0], products[1]);
                }
            }
        }
    }
}
