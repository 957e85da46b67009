// A ternary linear layer of quantized rows.
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

fn first_act_row(panel: u32) -> u32 {
    return select(params.act_row, params.second_act_row, panel == 1u);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let n_tokens = rows[0];
    let token = group.y * TOKENS;
    let act_stride = params.act_stride / 4u;
    var sums: array<i32, SUMS>;
    for (var chunk = t / 16u; chunk < params.n_chunks; chunk += 16u) {
        for (var p = 0u; p < PANELS; p++) {
            let panel = params.first_panel + group.x + p * params.second_panel;
            let w = weights[(panel * params.n_chunks + chunk) * 16u + t % 16u];
            let w0 = codes(w.x);
            let w1 = codes(w.y);
            let w2 = codes(w.z);
            let w3 = codes(w.w);
            for (var i = 0u; i < TOKENS * PARTS; i++) {
                // Rows past the last are computed as the last, and dropped.
                let row = min(token + i / PARTS, n_tokens - 1u) + first_act_row(p);
                let at = (row * PARTS + i % PARTS) * act_stride + chunk * 4u;
                sums[p * TOKENS * PARTS + i] += dot16(w0, acts[at]) + dot16(w1, acts[at + 1u])
                    + dot16(w2, acts[at + 2u]) + dot16(w3, acts[at + 3u]);
            }
        }
    }
    for (var i = 0u; i < SUMS; i++) {
        partial[i * 256u + t] = sums[i];
    }
    workgroupBarrier();
    let of_token = t / 16u;
    let row = group.x * 16u + t % 16u;
    if of_token < TOKENS && token + of_token < n_tokens && row < params.n_rows {
        var products: array<f32, 2>;
        for (var p = 0u; p < PANELS; p++) {
            let act_row = (token + of_token + first_act_row(p)) * PARTS;
            var parts: array<i32, PARTS>;
            for (var part = 0u; part < PARTS; part++) {
                let sum = sum_of((p * TOKENS + of_token) * PARTS + part, t % 16u);
                parts[part] = sum - bitcast<i32>(stats[act_row + part].y);
            }
            let scale = scales[params.scale_at + row + p * params.second_panel * 16u];
            products[p] = product(parts, scale, bitcast<f32>(stats[act_row].x));
        }
        put(row, token + of_token, products[0], products[1]);
    }
}
