// A ternary linear layer of quantized rows, with a scale for each group of weights of a row.
//
//   acts    [row][part][act_stride / 4] vec4<u32>
//   stats   [row][part] (scale as bits, sum)
//   scales  [panel][group][row of the panel] f32; a group is GROUP_CHUNKS chunks
//
// All threads compute the sums of chunks, 64 chunks at a time; then sixteen threads, one a
// weight row, add them to sums of groups, and the scaled sums of groups in their order, by
// fused multiply-add as the CPU does.
//
// Grid: panels × rows.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> acts: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> stats: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read_write> first_bad: atomic<u32>;

const ONES: vec4<u32> = vec4<u32>(0x01010101u);
const FINE: f32 = 0.003937008;

// [part][chunk][row of the panel]
var<workgroup> chunk_sums: array<i32, PARTS * 1024>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let token = group.y;
    let act_stride = params.act_stride / 4u;
    var products: array<f32, 2>;
    for (var p = 0u; p < PANELS; p++) {
        let panel = params.first_panel + group.x + p * params.second_panel;
        let act_row = (token + select(params.act_row, params.second_act_row, p == 1u)) * PARTS;
        let panel_scales = params.scale_at
            + (group.x + p * params.second_panel) * 16u * (params.n_chunks / GROUP_CHUNKS);
        var value = 0.0;
        var sums: array<i32, PARTS>;
        for (var tile = 0u; tile < params.n_chunks; tile += 64u) {
            let end = min(64u, params.n_chunks - tile);
            for (var chunk = t / 16u; chunk < end; chunk += 16u) {
                let w = weights[(panel * params.n_chunks + tile + chunk) * 16u + t % 16u];
                for (var part = 0u; part < PARTS; part++) {
                    let at = (act_row + part) * act_stride + (tile + chunk) * 4u;
                    let a0 = acts[at];
                    let a1 = acts[at + 1u];
                    let a2 = acts[at + 2u];
                    let a3 = acts[at + 3u];
                    let offset = dot16(ONES, a0) + dot16(ONES, a1) + dot16(ONES, a2)
                        + dot16(ONES, a3);
                    chunk_sums[part * 1024u + chunk * 16u + t % 16u] = dot16(codes(w.x), a0)
                        + dot16(codes(w.y), a1) + dot16(codes(w.z), a2) + dot16(codes(w.w), a3)
                        - offset;
                }
            }
            workgroupBarrier();
            if t < 16u {
                for (var chunk = 0u; chunk < end; chunk++) {
                    for (var part = 0u; part < PARTS; part++) {
                        sums[part] += chunk_sums[part * 1024u + chunk * 16u + t];
                    }
                    let after = tile + chunk + 1u;
                    if after % GROUP_CHUNKS == 0u {
                        var sum = f32(sums[PARTS - 1u]);
                        for (var part = PARTS - 1u; part > 0u; part--) {
                            sum = fused(sum, FINE, f32(sums[part - 1u]));
                        }
                        let scale = scales[panel_scales + (after / GROUP_CHUNKS - 1u) * 16u + t];
                        value = fused(sum, scale, value);
                        for (var part = 0u; part < PARTS; part++) {
                            sums[part] = 0;
                        }
                    }
                }
            }
            workgroupBarrier();
        }
        products[p] = rounded(value * divide(1.0, bitcast<f32>(stats[act_row].x)));
    }
    let row = group.x * 16u + t;
    if t < 16u && row < params.n_rows {
        put(row, token, products[0], products[1]);
    }
}
