// Selects the largest logits of every 1024, in descending order; of equal ones, that with the
// lower id first. Repeated until one workgroup is left.
//
//   logits    [row][n_in] f32, of the first stage
//   before    [row][n_in] (logit as an ordered integer, id), of the other stages
//   after     [row][tile][k], the same
//
// Each workgroup sorts 1024 candidates (bitonic) and keeps the first k.
//
// Grid: tiles × rows.

struct Params {
    zero: u32,
    // Whether this is the first stage.
    is_first: u32,
    in_stride: u32,
    out_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> before: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> after: array<vec2<u32>>;
// n_in and k.
@group(0) @binding(4) var<uniform> counts: vec4<u32>;

var<workgroup> candidates: array<vec2<u32>, 1024>;

// Returns an integer that is larger for a larger logit; at least 1. -0 and 0 are equal.
fn ordered(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (bits << 1u) == 0u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn is_before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let n_in = counts.x;
    let k = counts.y;
    for (var j = t; j < 1024u; j += 256u) {
        let i = group.x * 1024u + j;
        var candidate = vec2<u32>(0u, 0xffffffffu);
        if i < n_in {
            if params.is_first == 1u {
                candidate = vec2<u32>(ordered(logits[group.y * params.in_stride + i]), i);
            } else {
                candidate = before[group.y * params.in_stride + i];
            }
        }
        candidates[j] = candidate;
    }
    workgroupBarrier();
    for (var size = 2u; size <= 1024u; size *= 2u) {
        for (var step = size / 2u; step > 0u; step /= 2u) {
            for (var pair = t; pair < 512u; pair += 256u) {
                let a = pair / step * 2u * step + pair % step;
                let b = a + step;
                let x = candidates[a];
                let y = candidates[b];
                let is_ascending = (a & size) != 0u;
                if is_before(y, x) != is_ascending {
                    candidates[a] = y;
                    candidates[b] = x;
                }
            }
            workgroupBarrier();
        }
    }
    for (var j = t; j < k; j += 256u) {
        after[group.y * params.out_stride + group.x * k + j] = candidates[j];
    }
}
