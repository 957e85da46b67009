//! Elementwise operations: FFN activations, scaling, residual addition.

use super::exp_scalar;
use crate::arch::NullaryFnOnce;
use crate::isa::Isa;
use crate::lanes::{Lanes, WithSimd};

/// Replaces `gate[i]` by `gate[i]² · up[i]` where `gate[i] > 0`, else by 0, whatever `up[i]`
/// is: the ReLU² gate of BitNet b1.58 2B-4T.
///
/// # Panics
///
/// Panics if the lengths differ.
#[inline]
pub fn relu2_mul(isa: Isa, gate: &mut [f32], up: &[f32]) {
    isa.dispatch(GateMul {
        gate,
        up,
        activation: Relu2,
    });
}

/// Replaces `gate[i]` by `gate[i] · sigmoid(gate[i]) · up[i]`: the SiLU gate of LLaMA.
///
/// # Panics
///
/// Panics if the lengths differ.
#[inline]
pub fn silu_mul(isa: Isa, gate: &mut [f32], up: &[f32]) {
    isa.dispatch(GateMul {
        gate,
        up,
        activation: Silu,
    });
}

/// Replaces `gate[i]` by `gelu(gate[i]) · up[i]`, where
/// `gelu(x) = x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`: the GELU gate of Gemma (Hendrycks
/// and Gimpel, "Gaussian Error Linear Units", 2016).
///
/// # Panics
///
/// Panics if the lengths differ.
#[inline]
pub fn gelu_tanh_mul(isa: Isa, gate: &mut [f32], up: &[f32]) {
    isa.dispatch(GateMul {
        gate,
        up,
        activation: GeluTanh,
    });
}

/// Multiplies every value of `x` by `factor`.
#[inline]
pub fn scale(isa: Isa, x: &mut [f32], factor: f32) {
    isa.vectorize(Scale { x, factor });
}

/// Adds `y` to `x`.
///
/// # Panics
///
/// Panics if the lengths differ.
#[inline]
pub fn add_assign(isa: Isa, x: &mut [f32], y: &[f32]) {
    isa.vectorize(AddAssign { x, y });
}

trait Activation {
    fn apply<L: Lanes>(&self, lanes: L, x: f32) -> f32;

    /// Returns the activation of a gate, times `up`.
    #[inline(always)]
    fn gated<L: Lanes>(&self, lanes: L, gate: f32, up: f32) -> f32 {
        self.apply(lanes, gate) * up
    }
}

struct Relu2;

impl Activation for Relu2 {
    #[inline(always)]
    fn apply<L: Lanes>(&self, _: L, x: f32) -> f32 {
        let x = if x > 0.0 { x } else { 0.0 };
        x * x
    }

    #[inline(always)]
    fn gated<L: Lanes>(&self, lanes: L, gate: f32, up: f32) -> f32 {
        // Not 0·up, which is not 0 for an infinite value, so that up need not be computed.
        if gate > 0.0 {
            self.apply(lanes, gate) * up
        } else {
            0.0
        }
    }
}

struct Silu;

impl Activation for Silu {
    #[inline(always)]
    fn apply<L: Lanes>(&self, lanes: L, x: f32) -> f32 {
        x / (1.0 + exp_scalar(lanes, -x))
    }
}

struct GeluTanh;

impl Activation for GeluTanh {
    #[inline(always)]
    fn apply<L: Lanes>(&self, lanes: L, x: f32) -> f32 {
        // (1 + tanh u) / 2 = 1 / (1 + e^-2u), which has no cancellation where tanh is near
        // -1.
        const FACTOR: f32 = -1.595_769_2;
        let u = lanes.mul_add_scalar(0.044_715 * x, x * x, x);
        x / (1.0 + exp_scalar(lanes, FACTOR * u))
    }
}

struct GateMul<'a, A> {
    gate: &'a mut [f32],
    up: &'a [f32],
    activation: A,
}

impl<A: Activation> WithSimd for GateMul<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) {
        assert_eq!(self.gate.len(), self.up.len(), "a gate of equal lengths");
        for (gate, &up) in self.gate.iter_mut().zip(self.up) {
            *gate = self.activation.gated(lanes, *gate, up);
        }
    }
}

struct Scale<'a> {
    x: &'a mut [f32],
    factor: f32,
}

impl NullaryFnOnce for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.x.iter_mut().for_each(|x| *x *= self.factor);
    }
}

struct AddAssign<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl NullaryFnOnce for AddAssign<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        assert_eq!(self.x.len(), self.y.len(), "sums of equal lengths");
        for (x, &y) in self.x.iter_mut().zip(self.y) {
            *x += y;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_values::{LENGTHS, values};
    use super::*;

    #[test]
    fn gates_are_close_to_their_definition_and_equal_on_all_kernels() {
        type GateFn = fn(Isa, &mut [f32], &[f32]);
        type Definition = fn(f64) -> f64;
        let gelu = |x: f64| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            x / 2.0 * (1.0 + u.tanh())
        };
        // The exponent of GELU is a rounded polynomial: at -4 it is 11, with an error of
        // some ulp.
        let cases: [(GateFn, Definition, f64); 3] = [
            (relu2_mul, |x| x.max(0.0).powi(2), 1e-6),
            (silu_mul, |x| x / (1.0 + (-x).exp()), 1e-6),
            (gelu_tanh_mul, gelu, 4e-6),
        ];
        for (gate_mul, definition, tolerance) in cases {
            for n in LENGTHS {
                let (gate, up) = (values(n, 5), values(n, 6));
                let run = |isa| {
                    let mut out = gate.clone();
                    gate_mul(isa, &mut out, &up);
                    out
                };
                let expected = run(Isa::Scalar);
                for (i, &y) in expected.iter().enumerate() {
                    let exact = definition(gate[i] as f64) * up[i] as f64;
                    assert!(
                        (y as f64 - exact).abs() <= tolerance * exact.abs(),
                        "{y} vs {exact}"
                    );
                }
                for isa in Isa::available() {
                    assert_eq!(run(isa), expected, "{isa}, {n}");
                }
            }
        }
    }

    #[test]
    fn scaling_is_one_product_a_value_on_all_kernels() {
        for n in LENGTHS {
            let x = values(n, 8);
            let expected: Vec<f32> = x.iter().map(|x| x * 0.3).collect();
            for isa in Isa::available() {
                let mut found = x.clone();
                scale(isa, &mut found, 0.3);
                assert_eq!(found, expected, "{isa}, {n}");
            }
        }
    }

    #[test]
    fn gelu_of_large_values_is_theirs_or_zero() {
        for isa in Isa::available() {
            let mut gate = [-200.0, -1e30, 200.0, 1e30, 0.0];
            gelu_tanh_mul(isa, &mut gate, &[1.0; 5]);
            assert_eq!(gate, [-0.0, -0.0, 200.0, 1e30, 0.0], "{isa}");
        }
    }

    #[test]
    fn silu_of_very_negative_values_is_zero() {
        let mut gate = [-200.0, -1e30];
        silu_mul(Isa::best(), &mut gate, &[1.0, 1.0]);
        assert_eq!(gate, [-0.0, -0.0]);
    }
}
