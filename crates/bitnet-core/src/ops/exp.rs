//! The exponential function, with the same result on every machine.

use crate::lanes::{Lanes, Scalar, power_of_two};

/// Returns e^x with an error below 2 ulp; 0 below about -104, infinity above about 88.7,
/// NaN for NaN.
///
/// The system's `expf` differs between platforms. This is the usual range reduction
/// x = n·ln 2 + r, |r| ≤ ln 2 / 2, with ln 2 in two parts, and the polynomial for e^r of
/// S. L. Moshier's Cephes library (`expf.c`).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    exp_scalar(Scalar, x)
}

/// Returns [`exp`], computed faster with the FMA of an instruction set: the result is
/// bit-identical.
#[inline(always)]
pub(crate) fn exp_scalar<L: Lanes>(lanes: L, x: f32) -> f32 {
    // Outside of this range the result is 0 or infinite; clamping keeps n small enough for
    // the two factors below.
    let x = x.clamp(LOWEST, HIGHEST);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = lanes.mul_add_scalar(n, -LN2_HIGH, x);
    let r = lanes.mul_add_scalar(n, -LN2_LOW, r);
    let mut p = POLYNOMIAL[0];
    for c in &POLYNOMIAL[1..] {
        p = lanes.mul_add_scalar(p, r, *c);
    }
    let p = lanes.mul_add_scalar(p, r * r, r) + 1.0;
    // 2^n is split into two factors, so that subnormal results and those near overflow are
    // rounded once.
    let n = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// Returns [`exp`] of every lane, bit-identical.
#[inline(always)]
pub(crate) fn exp_lanes<L: Lanes>(lanes: L, x: L::V) -> L::V {
    let splat = |x| lanes.splat(x);
    let x = lanes.max(splat(LOWEST), x);
    let x = lanes.min(splat(HIGHEST), x);
    let n = lanes.mul(x, splat(std::f32::consts::LOG2_E));
    let n = lanes.sub(lanes.add(n, splat(ROUND)), splat(ROUND));
    let r = lanes.mul_add(n, splat(-LN2_HIGH), x);
    let r = lanes.mul_add(n, splat(-LN2_LOW), r);
    let mut p = splat(POLYNOMIAL[0]);
    for c in &POLYNOMIAL[1..] {
        p = lanes.mul_add(p, r, splat(*c));
    }
    let p = lanes.add(lanes.mul_add(p, lanes.mul(r, r), r), splat(1.0));
    lanes.ldexp(p, n)
}

const LOWEST: f32 = -104.0;
const HIGHEST: f32 = 89.0;

/// ln 2 in two parts; the first has few bits, so that its multiples are exact.
#[expect(clippy::excessive_precision, reason = "the constants as published")]
const LN2_HIGH: f32 = 0.693_359_375;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// 1.5·2^23: adding it rounds a number to an integer (ties to even) in the low bits. A
/// conversion with `as` checks for overflow and is not vectorized.
const ROUND: f32 = 12_582_912.0;

/// The coefficients of (e^r - 1 - r) / r², highest power first.
#[expect(clippy::excessive_precision, reason = "the constants as published")]
const POLYNOMIAL: [f32; 6] = [
    1.987_569_150e-4,
    1.398_199_950_7e-3,
    8.333_451_907_3e-3,
    4.166_579_589_4e-2,
    1.666_666_545_9e-1,
    5.000_000_120_1e-1,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::lanes::{WIDTH, WithSimd};

    #[test]
    fn the_error_is_below_two_units_in_the_last_place() {
        let mut worst = 0f64;
        for i in -87_000..=88_700 {
            let x = i as f32 / 1000.0;
            let exact = (x as f64).exp();
            let ulp = (exact as f32).next_up() as f64 - (exact as f32) as f64;
            worst = worst.max((exp(x) as f64 - exact).abs() / ulp);
        }
        assert!(worst < 2.0, "{worst} ulp");
    }

    #[test]
    fn lanes_have_the_same_bits_on_every_kernel() {
        struct All<'a>(&'a [f32], &'a mut [f32]);
        impl WithSimd for All<'_> {
            type Output = ();
            #[inline(always)]
            fn with_simd<L: Lanes>(self, lanes: L) {
                let (x, _) = self.0.as_chunks();
                let (out, _) = self.1.as_chunks_mut();
                for (x, out) in x.iter().zip(out) {
                    lanes.store(exp_lanes(lanes, lanes.load(x)), out);
                }
            }
        }
        let ends = [
            f32::NEG_INFINITY,
            -1e30,
            -104.5,
            -95.0,
            -0.0,
            88.73,
            1e9,
            f32::INFINITY,
        ];
        let x: Vec<f32> = (-105_000..=89_500)
            .map(|i| i as f32 / 1000.0)
            .chain(ends)
            .collect();
        let n = x.len() / WIDTH * WIDTH;
        let expected: Vec<u32> = x[..n].iter().map(|&x| exp(x).to_bits()).collect();
        for isa in Isa::available() {
            let mut out = vec![0.0; n];
            isa.dispatch(All(&x[..n], &mut out));
            let found: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
            assert!(found == expected, "{isa}");
        }
    }

    #[test]
    fn the_ends_of_the_range_are_zero_and_infinity() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(88.7) < f32::INFINITY);
        // Subnormal results are as precise as the format allows.
        let exact = (-95.0f64).exp();
        assert!((exp(-95.0) as f64 / exact - 1.0).abs() < 1e-3);
    }
}
