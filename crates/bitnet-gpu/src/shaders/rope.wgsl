// Normalizes the heads of queries and keys, if the model does, rotates them to their
// positions, and stores keys and values in the pages of the KV cache.
//
//   qkv    [row][stride] f32: query heads from 0, key heads from k_at, value heads from v_at
//   table  [position][2][n_pairs] f32: cosines, then sines; pair i of a head is (x[i],
//          x[i + n_pairs])
//   keys   [page][kv head][head_dim / 8, rounded up][128 positions] vec4<u32> of eight f16
//   values [page][kv head][128 positions][head_dim / 2] u32 of two f16
//
// Keys are stored so that 128 threads, one a position, read consecutive vectors.
//
// Grid: rows × (n_heads + 2 n_kv_heads).

struct Params {
    zero: u32,
    eps: f32,
    n_heads: u32,
    n_kv_heads: u32,
    k_at: u32,
    v_at: u32,
    stride: u32,
    n_pairs: u32,
    // The first weight of the norm of queries and of keys, or NONE.
    q_norm: u32,
    k_norm: u32,
    place: u32,
}

const NONE: u32 = 0xffffffffu;
const GROUP: u32 = 64u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> table: array<f32>;
@group(0) @binding(4) var<storage, read> norms: array<f32>;
@group(0) @binding(5) var<storage, read_write> keys: array<u32>;
@group(0) @binding(6) var<storage, read_write> values: array<u32>;
@group(0) @binding(7) var<storage, read_write> first_bad: atomic<u32>;

var<workgroup> head: array<f32, HEAD_DIM>;
var<workgroup> lanes: array<f32, 32>;

// Rounds to f16, to nearest even and within the finite range. `pack2x16float` may round
// otherwise, and is undefined out of range.
fn to_f16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude >= 0x477fe000u {
        return sign | 0x7bffu;
    }
    if magnitude < 0x38800000u {
        // Below 2^-14: a multiple of 2^-24.
        if magnitude < 0x33000000u {
            return sign;
        }
        let shift = 126u - (magnitude >> 23u);
        let significand = (magnitude & 0x7fffffu) | 0x800000u;
        let whole = significand >> shift;
        let rest = significand & ((1u << shift) - 1u);
        let tie = 1u << (shift - 1u);
        return sign | (whole + select(0u, 1u, rest > tie || (rest == tie && (whole & 1u) == 1u)));
    }
    let odd = (magnitude >> 13u) & 1u;
    return sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13u);
}

fn pair_at(i: u32) -> u32 {
    var second = 0.0;
    if i + 1u < HEAD_DIM {
        second = head[i + 1u];
    }
    return to_f16(head[i]) | (to_f16(second) << 16u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = group.x;
    let position = rows[4u + 3u * row + 1u];
    let is_query = group.y < params.n_heads;
    let kv_index = group.y - params.n_heads;
    let is_key = !is_query && kv_index < params.n_kv_heads;
    let kv_head = kv_index % params.n_kv_heads;
    var start = row * params.stride;
    var norm = NONE;
    if is_query {
        start += group.y * HEAD_DIM;
        norm = params.q_norm;
    } else if is_key {
        start += params.k_at + kv_head * HEAD_DIM;
        norm = params.k_norm;
    } else {
        start += params.v_at + kv_head * HEAD_DIM;
    }
    for (var i = t; i < HEAD_DIM; i += GROUP) {
        head[i] = qkv[start + i];
    }
    workgroupBarrier();
    if norm != NONE {
        if t < 32u {
            var sum = 0.0;
            for (var i = t; i < HEAD_DIM; i += 32u) {
                sum = rounded(sum + rounded(head[i] * head[i]));
            }
            lanes[t] = sum;
        }
        workgroupBarrier();
        for (var width = 16u; width > 0u; width /= 2u) {
            if t < width {
                lanes[t] = rounded(lanes[t] + lanes[t + width]);
            }
            workgroupBarrier();
        }
        if is_special(lanes[0]) {
            report(params.place);
        }
        let mean = divide(lanes[0], f32(HEAD_DIM));
        let inverse = divide(1.0, square_root(mean + params.eps));
        for (var i = t; i < HEAD_DIM; i += GROUP) {
            head[i] = rounded(norms[norm + i] * rounded(head[i] * inverse));
        }
        workgroupBarrier();
    }
    if is_query || is_key {
        let at = position * 2u * params.n_pairs;
        for (var i = t; i < params.n_pairs; i += GROUP) {
            let x = head[i];
            let y = head[i + params.n_pairs];
            let cosine = table[at + i];
            let sine = table[at + params.n_pairs + i];
            head[i] = rounded(x * cosine) - rounded(y * sine);
            head[i + params.n_pairs] = rounded(y * cosine) + rounded(x * sine);
        }
        workgroupBarrier();
    }
    for (var i = t; i < HEAD_DIM; i += GROUP) {
        if !is_square_finite(head[i]) {
            report(params.place);
        }
        if is_query {
            qkv[start + i] = head[i];
        }
    }
    if is_query {
        return;
    }
    let page = rows[rows[4u + 3u * row + 2u] + position / 128u];
    let block = page * params.n_kv_heads + kv_head;
    if is_key {
        let eights = (HEAD_DIM + 7u) / 8u;
        for (var word = t; word < 4u * eights; word += GROUP) {
            var packed = 0u;
            if 2u * word < HEAD_DIM {
                packed = pair_at(2u * word);
            }
            let vector = (block * eights + word / 4u) * 128u + position % 128u;
            keys[4u * vector + word % 4u] = packed;
        }
    } else {
        for (var word = t; word < HEAD_DIM / 2u; word += GROUP) {
            values[(block * 128u + position % 128u) * (HEAD_DIM / 2u) + word] = pair_at(2u * word);
        }
    }
}
