// Norms and quantization of one row by a workgroup of 256, with the bits of the CPU
// (`bitnet-core/src/ops/norm.rs`, `activations.rs`).
//
// The kernel that includes this defines `input(i)`, the value of column i of its row, and
// `put_word(part, word, packed)`, which takes four quantized columns.

const NONE: u32 = 0xffffffffu;

var<workgroup> staged: array<f32, 1024>;
var<workgroup> lanes: array<f32, 32>;
var<workgroup> reduced: array<u32, 256>;
var<workgroup> of_sixteen: array<u32, 16>;

// What one norm does with its input: x ↦ weight · (x · inverse).
struct Scaled {
    // The first weight in `norms`, or NONE.
    weights: u32,
    inverse: f32,
}

fn scaled(norm: Scaled, i: u32, x: f32) -> f32 {
    if norm.weights == NONE {
        return x;
    }
    return rounded(norms[norm.weights + i] * rounded(x * norm.inverse));
}

// Returns Σx² of all columns after `first`: column i is added to lane i mod 32, and the lanes
// are added in halves.
fn sum_of_squares(t: u32, first: Scaled) -> f32 {
    var sum = 0.0;
    for (var tile = 0u; tile < params.n_cols; tile += 1024u) {
        for (var j = t; j < 1024u; j += 256u) {
            let i = tile + j;
            var x = 0.0;
            if i < params.n_cols {
                x = scaled(first, i, input(i));
            }
            staged[j] = x;
        }
        workgroupBarrier();
        if t < 32u {
            let end = min(1024u, params.n_cols - tile);
            for (var j = t; j < end; j += 32u) {
                sum = rounded(sum + rounded(staged[j] * staged[j]));
            }
        }
        workgroupBarrier();
    }
    if t < 32u {
        lanes[t] = sum;
    }
    workgroupBarrier();
    for (var width = 16u; width > 0u; width /= 2u) {
        if t < width {
            lanes[t] = rounded(lanes[t] + lanes[t + width]);
        }
        workgroupBarrier();
    }
    return lanes[0];
}

// Returns the norm with these weights of the columns after `first`.
fn norm_of(t: u32, weights: u32, first: Scaled) -> Scaled {
    if weights == NONE {
        return Scaled(NONE, 1.0);
    }
    let sum = sum_of_squares(t, first);
    workgroupBarrier();
    if is_special(sum) && t == 0u {
        report(params.norm_place);
    }
    let mean = divide(sum, f32(params.n_cols));
    return Scaled(weights, divide(1.0, square_root(mean + params.eps)));
}

// Returns the largest of the numbers that the threads pass.
fn largest(t: u32, value: u32) -> u32 {
    reduced[t] = value;
    workgroupBarrier();
    if t < 16u {
        var result = 0u;
        for (var i = 0u; i < 16u; i++) {
            result = max(result, reduced[16u * i + t]);
        }
        of_sixteen[t] = result;
    }
    // It is written again only after the first barrier of the next reduction.
    workgroupBarrier();
    var result = 0u;
    for (var i = 0u; i < 16u; i++) {
        result = max(result, of_sixteen[i]);
    }
    return result;
}

// Returns the sum of the integers that the threads pass.
fn total(t: u32, value: i32) -> i32 {
    reduced[t] = bitcast<u32>(value);
    workgroupBarrier();
    if t < 16u {
        var result = 0u;
        for (var i = 0u; i < 16u; i++) {
            result += reduced[16u * i + t];
        }
        of_sixteen[t] = result;
    }
    workgroupBarrier();
    var result = 0u;
    for (var i = 0u; i < 16u; i++) {
        result += of_sixteen[i];
    }
    return bitcast<i32>(result);
}

// The scale of a quantized row, and the sum of each of its parts.
struct Quantized {
    scale: f32,
    sums: array<i32, PARTS>,
}

// Normalizes the row by up to two norms and quantizes it.
//
// Int8 (PARTS = 1): x ≈ q / scale, scale = 127 / max(max|x|, 1e-5).
// Exact (PARTS = 3): x ≈ (q0 + q1/254 + q2/254²) / scale, scale = 127 / max(max|x|, 1e-30).
fn quantize(t: u32, first: Scaled, second: Scaled) -> Quantized {
    var bits = 0u;
    for (var i = t; i < params.n_cols; i += 256u) {
        let magnitude = bitcast<u32>(scaled(second, i, scaled(first, i, input(i)))) & 0x7fffffffu;
        if magnitude >= INFINITE {
            // Quantized, it would be 0.
            report(params.norm_place);
        }
        if magnitude <= INFINITE {
            bits = max(bits, magnitude);
        }
    }
    let max_bits = largest(t, bits);
    var result: Quantized;
    var factor: f32;
    if PARTS == 1u {
        factor = divide(127.0, bitcast<f32>(max(max_bits, bitcast<u32>(1e-5))));
        result.scale = factor;
        if max_bits == INFINITE {
            result.scale = 0.0;
        }
    } else {
        let step = divide(bitcast<f32>(max(max_bits, bitcast<u32>(1e-30))), 127.0);
        factor = divide(1.0, step);
        result.scale = factor;
    }
    var sums: array<i32, PARTS>;
    for (var word = t; word < params.act_stride; word += 256u) {
        var packed: array<u32, PARTS>;
        for (var j = 0u; j < 4u; j++) {
            let i = 4u * word + j;
            if i < params.n_cols && max_bits < INFINITE {
                var x = rounded(scaled(second, i, scaled(first, i, input(i))) * factor);
                for (var part = 0u; part < PARTS; part++) {
                    var whole = round(x);
                    if is_special(x) {
                        whole = 0.0;
                    }
                    let q = i32(whole);
                    sums[part] += q;
                    packed[part] |= (bitcast<u32>(q) & 0xffu) << (8u * j);
                    x = rounded(rounded(x - whole) * 254.0);
                }
            }
        }
        for (var part = 0u; part < PARTS; part++) {
            put_word(part, word, packed[part]);
        }
    }
    for (var part = 0u; part < PARTS; part++) {
        result.sums[part] = total(t, sums[part]);
    }
    return result;
}
