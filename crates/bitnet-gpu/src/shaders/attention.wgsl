// Attention of one row to one block of 128 positions, a page of the KV cache.
//
//   qkv      [row][stride] f32: query heads from 0
//   keys     [page][kv head][head_dim / 8, rounded up][128 positions] vec4<u32> of eight f16
//   values   [page][kv head][128 positions][head_dim / 2] u32 of two f16
//   partial  [row of the tile][head][block][head_dim + 2] f32: the sums of values, weighted
//            by e^(score - max), then the largest score and the sum of the weights
//
// Thread p of 128 computes the scores of position p for HEADS query heads that share keys;
// then it sums the weighted values of two dimensions, over every VALUE_GROUPS-th part of the
// positions. What a block contributes depends on no other, so that a row has the same bits
// alone, in a batch, and in any cut of a prompt.
//
// Grid: rows of the tile × (n_kv_heads · head tiles) × blocks. A tile is as many rows as the
// partial results have room for.

struct Params {
    zero: u32,
    n_heads: u32,
    n_kv_heads: u32,
    // Query heads per KV head.
    group: u32,
    stride: u32,
    scale: f32,
    // The positions that a row attends to; 0 for all.
    window: u32,
}

// Vectors of a key.
const EIGHTS: u32 = (HEAD_DIM + 7u) / 8u;
// Words of a value.
const WORDS: u32 = HEAD_DIM / 2u;
// Parts of the positions, one for each group of threads that has all dimensions.
const VALUE_GROUPS: u32 = max(1u, 128u / WORDS);
const PART_POSITIONS: u32 = (128u + VALUE_GROUPS - 1u) / VALUE_GROUPS;
const MASKED: f32 = -3.0e38;

struct Tile {
    index: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> values: array<u32>;
@group(0) @binding(5) var<storage, read_write> partial: array<f32>;
@group(0) @binding(6) var<uniform> tile: Tile;

var<workgroup> queries: array<f32, HEADS * EIGHTS * 8>;
// Scores, then weights, [head][position].
var<workgroup> weights: array<f32, HEADS * 128>;
var<workgroup> largest: array<f32, HEADS * 128>;
// [group][head][word]
var<workgroup> sums: array<vec3<f32>, VALUE_GROUPS * HEADS * WORDS>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let in_tile = group.x;
    let row = tile.index * rows[2] + in_tile;
    if row >= rows[0] {
        return;
    }
    let position = rows[4u + 3u * row + 1u];
    let block = group.z;
    var first_seen = 0u;
    if params.window > 0u && position + 1u > params.window {
        first_seen = position + 1u - params.window;
    }
    if block * 128u > position || block < first_seen / 128u {
        return;
    }
    let kv_head = group.y % params.n_kv_heads;
    let first_head = group.y / params.n_kv_heads * HEADS;
    let n_heads = min(HEADS, params.group - first_head);
    let page = rows[rows[4u + 3u * row + 2u] + block];
    let kv_block = page * params.n_kv_heads + kv_head;

    for (var i = t; i < HEADS * EIGHTS * 8u; i += 128u) {
        let h = i / (EIGHTS * 8u);
        let d = i % (EIGHTS * 8u);
        var q = 0.0;
        if h < n_heads && d < HEAD_DIM {
            let head = kv_head * params.group + first_head + h;
            q = qkv[row * params.stride + head * HEAD_DIM + d];
        }
        queries[i] = q;
    }
    workgroupBarrier();

    var scores: array<f32, HEADS>;
    for (var e = 0u; e < EIGHTS; e++) {
        let k = keys[(kv_block * EIGHTS + e) * 128u + t];
        let k0 = unpack2x16float(k.x);
        let k1 = unpack2x16float(k.y);
        let k2 = unpack2x16float(k.z);
        let k3 = unpack2x16float(k.w);
        for (var h = 0u; h < HEADS; h++) {
            let q = (h * EIGHTS + e) * 8u;
            var score = scores[h];
            score = fma(queries[q], k0.x, score);
            score = fma(queries[q + 1u], k0.y, score);
            score = fma(queries[q + 2u], k1.x, score);
            score = fma(queries[q + 3u], k1.y, score);
            score = fma(queries[q + 4u], k2.x, score);
            score = fma(queries[q + 5u], k2.y, score);
            score = fma(queries[q + 6u], k3.x, score);
            score = fma(queries[q + 7u], k3.y, score);
            scores[h] = score;
        }
    }
    let at = block * 128u + t;
    let is_seen = at <= position && at >= first_seen;
    for (var h = 0u; h < HEADS; h++) {
        // Positions that were not stored may hold anything, such as NaN.
        weights[h * 128u + t] = select(MASKED, rounded(scores[h] * params.scale), is_seen);
        largest[h * 128u + t] = weights[h * 128u + t];
    }
    workgroupBarrier();
    for (var width = 64u; width > 0u; width /= 2u) {
        if t < width {
            for (var h = 0u; h < HEADS; h++) {
                largest[h * 128u + t] = max(largest[h * 128u + t], largest[h * 128u + t + width]);
            }
        }
        workgroupBarrier();
    }
    for (var h = 0u; h < HEADS; h++) {
        var weight = 0.0;
        if is_seen {
            weight = exponential(weights[h * 128u + t] - largest[h * 128u]);
        }
        weights[h * 128u + t] = weight;
    }
    workgroupBarrier();

    for (var item = t; item < VALUE_GROUPS * WORDS; item += 128u) {
        let part = item / WORDS;
        let word = item % WORDS;
        var sum: array<vec3<f32>, HEADS>;
        let end = min(128u, (part + 1u) * PART_POSITIONS);
        for (var p = part * PART_POSITIONS; p < end; p++) {
            // Unseen positions may hold anything.
            if block * 128u + p > position {
                break;
            }
            let value = unpack2x16float(values[(kv_block * 128u + p) * WORDS + word]);
            for (var h = 0u; h < HEADS; h++) {
                let weight = weights[h * 128u + p];
                sum[h] = fma(vec3<f32>(weight), vec3<f32>(value, 1.0), sum[h]);
            }
        }
        for (var h = 0u; h < HEADS; h++) {
            sums[(part * HEADS + h) * WORDS + word] = sum[h];
        }
    }
    workgroupBarrier();
    let n_blocks = rows[1];
    for (var item = t; item < n_heads * WORDS; item += 128u) {
        let h = item / WORDS;
        let word = item % WORDS;
        var sum = sums[h * WORDS + word];
        for (var part = 1u; part < VALUE_GROUPS; part++) {
            sum += sums[(part * HEADS + h) * WORDS + word];
        }
        let head = kv_head * params.group + first_head + h;
        let out = ((in_tile * params.n_heads + head) * n_blocks + block) * (HEAD_DIM + 2u);
        partial[out + 2u * word] = sum.x;
        partial[out + 2u * word + 1u] = sum.y;
        if word == 0u {
            partial[out + HEAD_DIM] = largest[h * 128u];
            partial[out + HEAD_DIM + 1u] = sum.z;
        }
    }
}
