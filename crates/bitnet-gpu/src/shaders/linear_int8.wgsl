// A linear layer of int8 weights and quantized rows: the output matrix.
//
// A chunk is sixteen columns: a vec4<u32> of a weight row, four of activations. Byte b of
// word w is column 4w + b.
//
//   acts   [row][part][act_stride / 4] vec4<u32>
//   stats  [row][part] (scale as bits, sum)
//
// Grid: panels × tiles of TOKENS rows.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> acts: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> stats: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read_write> first_bad: atomic<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let n_tokens = rows[0];
    let token = group.y * TOKENS;
    let act_stride = params.act_stride / 4u;
    let panel = params.first_panel + group.x;
    var sums: array<i32, SUMS>;
    for (var chunk = t / 16u; chunk < params.n_chunks; chunk += 16u) {
        let w = weights[(panel * params.n_chunks + chunk) * 16u + t % 16u];
        for (var i = 0u; i < TOKENS * PARTS; i++) {
            let row = min(token + i / PARTS, n_tokens - 1u) + params.act_row;
            let a = acts[(row * PARTS + i % PARTS) * act_stride + chunk];
            sums[i] += dot4I8Packed(w.x, a.x) + dot4I8Packed(w.y, a.y) + dot4I8Packed(w.z, a.z)
                + dot4I8Packed(w.w, a.w);
        }
    }
    for (var i = 0u; i < SUMS; i++) {
        partial[i * 256u + t] = sums[i];
    }
    workgroupBarrier();
    let of_token = t / 16u;
    let row = group.x * 16u + t % 16u;
    if of_token < TOKENS && token + of_token < n_tokens && row < params.n_rows {
        let act_row = (token + of_token + params.act_row) * PARTS;
        var parts: array<i32, PARTS>;
        for (var part = 0u; part < PARTS; part++) {
            parts[part] = sum_of(of_token * PARTS + part, t % 16u);
        }
        let scale = scales[params.scale_at + row];
        let value = product(parts, scale, bitcast<f32>(stats[act_row].x));
        put(row, token + of_token, value, 0.0);
    }
}
