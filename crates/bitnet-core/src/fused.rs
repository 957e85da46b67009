//! A fused multiply-add with the same result on every machine.

/// Returns `a·b + c`, rounded once. Without an FMA instruction, it is emulated bit-exactly.
///
/// [`f32::mul_add`] would call the C library's `fmaf`, and not every implementation rounds
/// once. The product is exact in f64. The sum in f64 is rounded to odd (Boldo and
/// Melquiond, "Emulation of FMA and correctly rounded sums", 2008): if it is inexact, the
/// neighbour with an odd last bit is taken. f64 has more than two bits more than f32,
/// normal or subnormal, so the second rounding gives the correctly rounded exact sum.
#[inline(always)]
pub(crate) fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        return a.mul_add(b, c);
    }
    by_f64(a, b, c)
}

#[inline(always)]
fn by_f64(a: f32, b: f32, c: f32) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let c = f64::from(c);
    let sum = product + c;
    // The exact error of the sum (Knuth's TwoSum); NaN if the sum is NaN or infinite.
    let c_part = sum - product;
    let product_part = sum - c_part;
    let error = (product - product_part) + (c - c_part);
    let bits = sum.to_bits() as i64;
    // All ones if the sum is inexact and its last bit is 0; branch-free, so that loops are
    // vectorized.
    let to_change = -i64::from(error.abs() > 0.0) & ((bits & 1) - 1);
    // 1, away from zero, if the error has the sign of the sum, else -1.
    let step = ((error.to_bits() as i64 ^ bits) >> 63) | 1;
    f64::from_bits(bits.wrapping_add(step & to_change) as u64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values with hard rounding cases: powers of two and their neighbours, half ulps,
    /// subnormals, the ends of the range.
    fn hard() -> Vec<f32> {
        let mut values = vec![0.0, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN];
        for exponent in [
            -149, -148, -140, -127, -126, -125, -75, -74, -25, -24, -23, -12, -1,
        ] {
            values.push(2f64.powi(exponent) as f32);
        }
        for exponent in [0, 1, 11, 12, 23, 24, 25, 63, 64, 103, 104, 126, 127] {
            values.push(2f32.powi(exponent));
        }
        let neighbours = |x: &f32| [*x, x.next_up(), x.next_down(), x * 1.5];
        let mut values: Vec<f32> = values.iter().flat_map(neighbours).collect();
        values.extend(values.clone().iter().map(|x| -x));
        values
    }

    fn assert_same(fused: impl Fn(f32, f32, f32) -> f32, [a, b, c]: [f32; 3]) {
        let (found, expected) = (by_f64(a, b, c), fused(a, b, c));
        assert!(
            found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
            "{a:e} * {b:e} + {c:e}: {found:e}, not {expected:e}"
        );
    }

    /// Compares with `fused` on many values, hard cases included.
    fn assert_equal(fused: impl Fn(f32, f32, f32) -> f32) {
        let hard = hard();
        for &a in &hard {
            for &b in &hard[..hard.len() / 2] {
                for &c in &hard {
                    assert_same(&fused, [a, b, c]);
                }
            }
        }
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u32
        };
        for _ in 0..1_000_000 {
            // Random bits; then sums with cancellation, where rounding is hard.
            let [a, b, c] = [random(), random(), random()].map(f32::from_bits);
            assert_same(&fused, [a, b, c]);
            let at = (random() % 60) as i32 - 30;
            let c = -(a * b) * 2f32.powi(at);
            assert_same(&fused, [a, b, c]);
            // Products around the last place of c, with few bits, so that ties occur.
            let [a, b] = [a, b].map(|x| f32::from_bits(x.to_bits() & 0xffff_0000));
            assert_same(&fused, [a, b, c]);
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_bits_are_those_of_the_instruction() {
        #[target_feature(enable = "fma")]
        fn instruction(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }
        if std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor supports the instruction.
            assert_equal(|a, b, c| unsafe { instruction(a, b, c) });
        }
    }

    #[test]
    #[cfg(target_arch = "aarch64")]
    fn the_bits_are_those_of_the_instruction() {
        assert_equal(f32::mul_add);
    }

    #[test]
    fn a_sum_is_rounded_once() {
        // The products are slightly below half an ulp of c: f64 has too few bits for the
        // difference, and rounding its nearest sum again would give the even neighbour.
        let (above, below) = (1.0 + 2f32.powi(-23), 1.0 - 2f32.powi(-23));
        assert_eq!(by_f64(above, below * 2f32.powi(-24), above), above);
        // The same for a subnormal c.
        let (above, below) = (above * 2f32.powi(-75), below * 2f32.powi(-75));
        let c = f32::from_bits(0x0040_0001);
        assert_eq!(by_f64(above, below, c), c);
        assert_eq!(by_f64(above, above, c), c.next_up());
    }
}
