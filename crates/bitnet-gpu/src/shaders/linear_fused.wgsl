// A ternary linear layer of one row, which every workgroup normalizes and quantizes for
// itself: one dispatch instead of two.
//
//   values  [n_cols] f32
//   norms   all norm weights of the model, f32
//
// Grid: panels.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read> values: array<f32>;
@group(0) @binding(4) var<storage, read> norms: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> first_bad: atomic<u32>;

// The quantized row, [part][act_stride].
var<workgroup> acts: array<u32, PARTS * ACT_STRIDE>;

fn input(i: u32) -> f32 {
    return values[i];
}

fn put_word(part: u32, word: u32, packed: u32) {
    acts[part * ACT_STRIDE + word] = packed;
}

fn four_words(at: u32) -> vec4<u32> {
    return vec4<u32>(acts[at], acts[at + 1u], acts[at + 2u], acts[at + 3u]);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let first = norm_of(t, params.first, Scaled(NONE, 1.0));
    let second = norm_of(t, params.second, first);
    var quantized = quantize(t, first, second);
    // `quantize` ends with a barrier, so all words are written.
    var sums: array<i32, SUMS>;
    for (var chunk = t / 16u; chunk < params.n_chunks; chunk += 16u) {
        for (var p = 0u; p < PANELS; p++) {
            let panel = params.first_panel + group.x + p * params.second_panel;
            let w = weights[(panel * params.n_chunks + chunk) * 16u + t % 16u];
            for (var part = 0u; part < PARTS; part++) {
                let at = part * ACT_STRIDE + chunk * 16u;
                sums[p * PARTS + part] += dot16(codes(w.x), four_words(at))
                    + dot16(codes(w.y), four_words(at + 4u))
                    + dot16(codes(w.z), four_words(at + 8u))
                    + dot16(codes(w.w), four_words(at + 12u));
            }
        }
    }
    for (var i = 0u; i < SUMS; i++) {
        partial[i * 256u + t] = sums[i];
    }
    workgroupBarrier();
    let row = group.x * 16u + t;
    if t < 16u && row < params.n_rows {
        var products: array<f32, 2>;
        for (var p = 0u; p < PANELS; p++) {
            var parts: array<i32, PARTS>;
            for (var part = 0u; part < PARTS; part++) {
                parts[part] = sum_of(p * PARTS + part, t) - quantized.sums[part];
            }
            let scale = scales[params.scale_at + row + p * params.second_panel * 16u];
            products[p] = product(parts, scale, quantized.scale);
        }
        put(row, 0u, products[0], products[1]);
    }
}
