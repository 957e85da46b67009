// Arithmetic with the same bits on every device, in every pipeline.
//
// WGSL lets an implementation contract a product and a sum, divide with an error of 2.5 ulp,
// take square roots with an error of that size, and assume that no value is infinite or NaN.
// These functions need only that a sum, a difference and a product of normal numbers are
// rounded correctly, which WGSL guarantees, and integers.

const INFINITE: u32 = 0x7f800000u;

// Returns x. It is the result of an integer operation with a number that the compiler does
// not know (0), so that the operation that computed x cannot be contracted with the next.
fn rounded(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ params.zero);
}

fn exponent(x: f32) -> u32 {
    return (bitcast<u32>(x) >> 23u) & 0xffu;
}

// Returns whether x is infinite or NaN. A comparison could be optimized away.
fn is_special(x: f32) -> bool {
    return exponent(x) == 255u;
}

// Returns whether the square of x is finite, as the CPU's check requires.
fn is_square_finite(x: f32) -> bool {
    return exponent(x) < 191u;
}

// Returns a / b, rounded to nearest even, for b > 0, where a, b and the result are zero or
// normal. The device's quotient is only a first guess: the remainder, which fits 32 bits, says
// which integer significand is the right one.
fn divide(a: f32, b: f32) -> f32 {
    let a_bits = bitcast<u32>(a);
    let b_bits = bitcast<u32>(b);
    let a_exponent = exponent(a);
    let b_exponent = exponent(b);
    if a_exponent == 0u || b_exponent == 0u || a_exponent == 255u || b_exponent == 255u {
        return a / b;
    }
    let m = (a_bits & 0x7fffffu) | 0x800000u;
    let n = (b_bits & 0x7fffffu) | 0x800000u;
    var e = i32(a_exponent) - i32(b_exponent) + 127;
    var shift = 23u;
    if m < n {
        shift = 24u;
        e -= 1;
    }
    // m·2^shift / n is in 2^23..2^24.
    var q = u32(f32(m) / f32(n) * f32(1u << shift));
    // Modulo 2^32, which is exact, for the true remainder is small.
    var r = i32((m << shift) - q * n);
    for (var i = 0; i < 16; i++) {
        if r < 0 {
            q -= 1u;
            r += i32(n);
        } else if r >= i32(n) {
            q += 1u;
            r -= i32(n);
        } else {
            break;
        }
    }
    if 2 * r > i32(n) || (2 * r == i32(n) && (q & 1u) == 1u) {
        q += 1u;
    }
    let sign = a_bits & 0x80000000u;
    if e >= 255 {
        return bitcast<f32>(sign | INFINITE);
    }
    if e <= 0 {
        return a / b;
    }
    // A significand of 2^24 carries into the exponent.
    return bitcast<f32>(sign | ((u32(e) << 23u) + q - 0x800000u));
}

// Returns the square root of a normal x > 0, rounded to nearest; found as a quotient is.
fn square_root(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let e = i32(exponent(x)) - 127;
    if e == -127 || e == 128 {
        return sqrt(x);
    }
    let m = (bits & 0x7fffffu) | 0x800000u;
    // m·2^shift is in 2^46..2^48, and the exponent that is left is even.
    let shift = 23u + u32(e & 1);
    var q = u32(sqrt(f32(m << (shift - 23u))) * 2896.3093);
    var r = i32((m << shift) - q * q);
    for (var i = 0; i < 64; i++) {
        if r < 0 {
            q -= 1u;
            r += i32(2u * q + 1u);
        } else if r > i32(2u * q) {
            r -= i32(2u * q + 1u);
            q += 1u;
        } else {
            break;
        }
    }
    if r > i32(q) {
        q += 1u;
    }
    let result = (e - 23 - i32(shift)) / 2 + 23 + 127;
    return bitcast<f32>((u32(result) << 23u) + q - 0x800000u);
}

// Returns e^x for x up to 88; 0 below about -87. The range reduction and polynomial of the
// CPU's (`bitnet-core/src/ops/exp.rs`), with products and sums rounded one by one.
fn exponential(x: f32) -> f32 {
    let clamped = clamp(x, -87.0, 88.0);
    let n = round(clamped * 1.442695);
    // The first part of ln 2 has few bits, so that the product is exact.
    var r = rounded(clamped - rounded(n * 0.693359375));
    r = rounded(r + rounded(n * 2.1219444e-4));
    var p = 1.9875691e-4;
    p = rounded(rounded(p * r) + 1.3981999e-3);
    p = rounded(rounded(p * r) + 8.333452e-3);
    p = rounded(rounded(p * r) + 4.1665796e-2);
    p = rounded(rounded(p * r) + 0.16666666);
    p = rounded(rounded(p * r) + 0.5);
    p = rounded(rounded(p * rounded(r * r)) + r) + 1.0;
    let y = rounded(p) * bitcast<f32>(u32(i32(n) + 127) << 23u);
    return select(y, 0.0, x < -87.0);
}

// Returns the rounded sum of a and b, and its error.
fn two_sum(a: f32, b: f32) -> vec2<f32> {
    let sum = rounded(a + b);
    let of_b = rounded(sum - a);
    let of_a = rounded(sum - of_b);
    return vec2<f32>(sum, rounded(rounded(a - of_a) + rounded(b - of_b)));
}

// Returns the upper half of the bits of x, rounded (Veltkamp).
fn upper_half(x: f32) -> f32 {
    let shifted = rounded(4097.0 * x);
    return rounded(shifted - rounded(shifted - x));
}

// Returns a·b + c, rounded once, where neither overflows and the error of the product is
// normal or zero. The built-in function may round twice.
//
// The product and its error (Dekker) and c are added exactly but for the smallest part, which
// is rounded to odd (Boldo and Melquiond, 2008), as on the CPU.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    let product = rounded(a * b);
    let a_high = upper_half(a);
    let a_low = rounded(a - a_high);
    let b_high = upper_half(b);
    let b_low = rounded(b - b_high);
    var error = rounded(rounded(a_high * b_high) - product);
    error = rounded(error + rounded(a_high * b_low));
    error = rounded(error + rounded(a_low * b_high));
    error = rounded(error + rounded(a_low * b_low));
    let low = two_sum(c, error);
    let high = two_sum(product, low.x);
    let rest = two_sum(high.y, low.y);
    var odd = bitcast<u32>(rest.x);
    let inexact = bitcast<u32>(rest.y);
    if (inexact << 1u) != 0u && (odd & 1u) == 0u {
        // One away from zero if the error has the sign of the sum, else one towards it.
        odd = select(odd - 1u, odd + 1u, ((odd ^ inexact) >> 31u) == 0u);
    }
    return rounded(high.x + bitcast<f32>(odd));
}
