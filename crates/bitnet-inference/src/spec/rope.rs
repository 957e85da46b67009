//! Rotary position embedding: base, width, and scaling to longer contexts.

use std::f64::consts::PI;

use bitnet_core::ops::{RopeTable, rope_frequencies};
use bitnet_core::{HybridMemoryPool, OutOfMemory};

use super::config::ConfigError;

/// The rotary position embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// Number of leading dimensions of a head that are rotated; even.
    pub n_dims: usize,
    /// The scaling of the frequencies.
    pub scaling: RopeScaling,
}

/// The scaling of rotary frequencies to contexts longer than that of the first training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Nothing.
    None,
    /// All frequencies are divided by `factor` (Chen et al., Position Interpolation, 2023).
    Linear {
        /// Greater than 0.
        factor: f32,
    },
    /// Llama 3.1's: frequencies with wavelengths above
    /// `original_context_len / low_freq_factor` are divided by `factor`, those below
    /// `original_context_len / high_freq_factor` are kept, and those between are
    /// interpolated.
    Llama3 {
        /// Greater than 0.
        factor: f32,
        /// Smaller than `high_freq_factor`.
        low_freq_factor: f32,
        /// Greater than `low_freq_factor`.
        high_freq_factor: f32,
        /// Positions of the first training.
        original_context_len: usize,
    },
    /// Peng et al., YaRN, 2023: frequencies of less than `beta_slow` rotations in
    /// `original_context_len` positions are divided by `factor`, those of more than
    /// `beta_fast` rotations are kept.
    Yarn {
        /// Greater than 0.
        factor: f32,
        /// Positions of the first training.
        original_context_len: usize,
        /// Rotations, usually 32.
        beta_fast: f32,
        /// Rotations, usually 1.
        beta_slow: f32,
        /// Factor of queries and keys, usually `0.1·ln(factor) + 1`.
        attention_factor: f32,
    },
    /// LongRoPE (Ding et al., 2024): each frequency has a divisor, from one of two lists.
    /// `transformers` selects the list by the current text length and llama.cpp by the
    /// context; here the context decides, so that a text is computed with one list only.
    LongRope {
        /// The divisors of contexts up to `original_context_len`.
        short: Vec<f32>,
        /// The divisors of longer contexts.
        long: Vec<f32>,
        /// Positions of the first training.
        original_context_len: usize,
        /// Factor of queries and keys.
        attention_factor: f32,
    },
    /// Each frequency has a divisor: `rope_freqs.weight` of GGUF files, which represents
    /// Llama 3.1's scaling.
    Divisors(Vec<f32>),
}

impl RopeScaling {
    /// Returns the default `attention_factor` of YaRN.
    pub(crate) fn yarn_attention_factor(factor: f32) -> f32 {
        if factor <= 1.0 {
            1.0
        } else {
            (0.1 * libm::log(f64::from(factor)) + 1.0) as f32
        }
    }

    /// Returns the default `attention_factor` of LongRoPE for a context that is `factor` times
    /// the `original` one.
    pub(crate) fn longrope_attention_factor(factor: f64, original: usize) -> f32 {
        if factor <= 1.0 {
            return 1.0;
        }
        (1.0 + libm::log(factor) / libm::log(original as f64)).sqrt() as f32
    }

    /// Returns the name that `transformers` uses.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "default",
            Self::Linear { .. } => "linear",
            Self::Llama3 { .. } | Self::Divisors(_) => "llama3",
            Self::Yarn { .. } => "yarn",
            Self::LongRope { .. } => "longrope",
        }
    }
}

impl Rope {
    /// Returns the frequency of each pair in radians per position, for scalings that do not
    /// depend on the context.
    #[cfg(test)]
    pub(crate) fn frequencies(&self) -> Vec<f32> {
        self.frequencies_in(0)
    }

    /// Returns the frequency of each pair in radians per position, in a context of
    /// `context_len` positions.
    fn frequencies_in(&self, context_len: usize) -> Vec<f32> {
        let mut frequencies = rope_frequencies(self.n_dims, self.theta);
        match &self.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::LongRope {
                short,
                long,
                original_context_len,
                ..
            } => {
                let is_long = context_len > *original_context_len;
                let divisors = if is_long { long } else { short };
                for (f, divisor) in frequencies.iter_mut().zip(divisors) {
                    *f /= divisor;
                }
            }
            RopeScaling::Divisors(divisors) => {
                for (f, divisor) in frequencies.iter_mut().zip(divisors) {
                    *f /= divisor;
                }
            }
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context_len,
            } => {
                let context = original_context_len as f32;
                for f in &mut frequencies {
                    let wavelength = (2.0 * PI) as f32 / *f;
                    if wavelength > context / low_freq_factor {
                        *f /= factor;
                    } else if wavelength >= context / high_freq_factor {
                        let kept = (context / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        *f = (1.0 - kept) * *f / factor + kept * *f;
                    }
                }
            }
            &RopeScaling::Yarn {
                factor,
                original_context_len,
                beta_fast,
                beta_slow,
                ..
            } => {
                // The pair with `turns` rotations in the original context.
                let pair = |turns: f32| {
                    let length = original_context_len as f64 / (f64::from(turns) * 2.0 * PI);
                    self.n_dims as f64 * libm::log(length) / (2.0 * libm::log(self.theta.into()))
                };
                let low = libm::floor(pair(beta_fast)).max(0.0) as f32;
                let mut high = libm::ceil(pair(beta_slow)).min((self.n_dims - 1) as f64) as f32;
                if high == low {
                    high += 0.001;
                }
                for (i, f) in frequencies.iter_mut().enumerate() {
                    let kept = 1.0 - ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                    *f = *f / factor * (1.0 - kept) + *f * kept;
                }
            }
        }
        frequencies
    }

    /// Returns the divisor of each frequency, for files that represent Llama 3.1's scaling by
    /// divisors.
    pub(crate) fn divisors(&self) -> Option<Vec<f32>> {
        match &self.scaling {
            RopeScaling::Divisors(divisors) => Some(divisors.clone()),
            RopeScaling::Llama3 { .. } => {
                let plain = rope_frequencies(self.n_dims, self.theta);
                let pairs = plain.iter().zip(self.frequencies_in(0));
                Some(pairs.map(|(plain, scaled)| plain / scaled).collect())
            }
            _ => None,
        }
    }

    /// Allocates the table of cosines and sines of a context.
    pub(crate) fn table(
        &self,
        pool: &HybridMemoryPool,
        head_dim: usize,
        context_len: usize,
    ) -> Result<RopeTable, OutOfMemory> {
        let magnitude = match self.scaling {
            RopeScaling::Yarn {
                attention_factor, ..
            }
            | RopeScaling::LongRope {
                attention_factor, ..
            } => attention_factor,
            _ => 1.0,
        };
        let frequencies = self.frequencies_in(context_len);
        RopeTable::new(pool, &frequencies, head_dim, context_len, magnitude)
    }

    /// Checks the parameters; returns the first invalid value as an error.
    pub(crate) fn validate(&self, head_dim: usize) -> Result<(), ConfigError> {
        if self.n_dims == 0 || self.n_dims > head_dim || !self.n_dims.is_multiple_of(2) {
            return Err(ConfigError::RopeWidth {
                n_dims: self.n_dims,
                head_dim,
            });
        }
        let mut floats = vec![("RoPE base", self.theta)];
        match &self.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => floats.push(("RoPE factor", *factor)),
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context_len,
            } => floats.extend([
                ("RoPE factor", factor),
                ("RoPE low_freq_factor", low_freq_factor),
                (
                    "RoPE high_freq_factor less low_freq_factor",
                    high_freq_factor - low_freq_factor,
                ),
                ("RoPE original context", original_context_len as f32),
            ]),
            &RopeScaling::Yarn {
                factor,
                original_context_len,
                beta_fast,
                beta_slow,
                attention_factor,
            } => floats.extend([
                ("RoPE factor", factor),
                ("RoPE beta_fast", beta_fast),
                ("RoPE beta_slow", beta_slow),
                ("RoPE attention factor", attention_factor),
                ("RoPE original context", original_context_len as f32),
            ]),
            RopeScaling::LongRope {
                short,
                long,
                original_context_len,
                attention_factor,
            } => {
                floats.push(("RoPE attention factor", *attention_factor));
                floats.push(("RoPE original context", *original_context_len as f32));
                for divisors in [short, long] {
                    self.check_divisors(divisors, &mut floats)?;
                }
            }
            RopeScaling::Divisors(divisors) => self.check_divisors(divisors, &mut floats)?,
        }
        match floats
            .into_iter()
            .find(|(_, x)| !(x.is_finite() && *x > 0.0))
        {
            Some((what, value)) => Err(ConfigError::Float { what, value }),
            None => Ok(()),
        }
    }

    /// Checks that there is one divisor per pair, and adds them to `floats`.
    fn check_divisors(
        &self,
        divisors: &[f32],
        floats: &mut Vec<(&'static str, f32)>,
    ) -> Result<(), ConfigError> {
        if divisors.len() != self.n_dims / 2 {
            return Err(ConfigError::RopeDivisors {
                expected: self.n_dims / 2,
                found: divisors.len(),
            });
        }
        floats.extend(divisors.iter().map(|&divisor| ("RoPE divisor", divisor)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares every fifth frequency with what `ROPE_INIT_FUNCTIONS` of
    /// `transformers` 5.24.0 returned for `head_dim` 64 (8 for linear), printed as
    /// f64: `ROPE_INIT_FUNCTIONS[kind](LlamaConfig(rope_parameters=…))`.
    fn check(rope: &Rope, expected: &str) {
        let frequencies = rope.frequencies();
        assert_eq!(frequencies.len(), rope.n_dims / 2);
        for (i, expected) in expected.split_whitespace().enumerate() {
            let expected: f64 = expected.parse().unwrap();
            let found = f64::from(frequencies[5 * i]);
            let error = (found / expected - 1.0).abs();
            assert!(error < 5e-7, "{i}: {found}, reference {expected}");
        }
    }

    #[test]
    fn linear_frequencies_are_those_of_the_reference() {
        let rope = Rope {
            theta: 10_000.0,
            n_dims: 8,
            scaling: RopeScaling::Linear { factor: 4.0 },
        };
        check(&rope, "0.25");
        assert_eq!(rope.frequencies()[1..], [0.025, 0.0025, 0.00025]);
    }

    fn llama3() -> Rope {
        Rope {
            theta: 500_000.0,
            n_dims: 64,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context_len: 8192,
            },
        }
    }

    #[test]
    fn llama3_frequencies_are_those_of_the_reference() {
        let expected = "1.0 0.12868738174438477 0.016560440883040428 0.0013718936825171113 \
            3.428102354519069e-05 4.411534519022098e-06 5.677088097399974e-07";
        check(&llama3(), expected);
        // 0.0005248460220173001 and 0.0001785077911335975 lie in between.
        let frequencies = llama3()
            .frequencies()
            .into_iter()
            .map(f64::from)
            .collect::<Vec<_>>();
        assert!((frequencies[16] / 0.000_524_846_02 - 1.0).abs() < 5e-7);
        assert!((frequencies[17] / 0.000_178_507_79 - 1.0).abs() < 5e-7);
    }

    #[test]
    fn yarn_frequencies_are_those_of_the_reference() {
        let rope = Rope {
            theta: 1_000_000.0,
            n_dims: 64,
            scaling: RopeScaling::Yarn {
                factor: 4.0,
                original_context_len: 32_768,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: RopeScaling::yarn_attention_factor(4.0),
            },
        };
        let expected = "1.0 0.11547820270061493 0.01333521492779255 0.001026617712341249 \
            4.4456985051510856e-05 5.133812464919174e-06 5.928434347879374e-07";
        check(&rope, expected);
        let factor = f64::from(RopeScaling::yarn_attention_factor(4.0));
        assert!((factor - 1.138_629_436).abs() < 1e-7);
    }

    #[test]
    fn divisors_give_the_frequencies_of_the_scaling_they_stand_for() {
        let divided = Rope {
            scaling: RopeScaling::Divisors(llama3().divisors().unwrap()),
            ..llama3()
        };
        for (a, b) in divided.frequencies().iter().zip(llama3().frequencies()) {
            assert!((a / b - 1.0).abs() < 2e-7, "{a}, {b}");
        }
    }

    #[test]
    fn longrope_chooses_by_the_context() {
        let rope = Rope {
            theta: 10_000.0,
            n_dims: 8,
            scaling: RopeScaling::LongRope {
                short: vec![1.0, 1.0, 2.0, 2.0],
                long: vec![1.0, 4.0, 8.0, 16.0],
                original_context_len: 32,
                attention_factor: 1.0,
            },
        };
        let plain = rope_frequencies(8, 10_000.0);
        let divided = |by: [f32; 4]| plain.iter().zip(by).map(|(f, by)| f / by);
        let expected: Vec<f32> = divided([1.0, 1.0, 2.0, 2.0]).collect();
        assert_eq!(rope.frequencies_in(32), expected);
        let expected: Vec<f32> = divided([1.0, 4.0, 8.0, 16.0]).collect();
        assert_eq!(rope.frequencies_in(33), expected);
        let factor = RopeScaling::longrope_attention_factor;
        assert_eq!(factor(1.0, 32_768), 1.0);
        // The square root of 1 + 5/12.
        assert!((factor(32.0, 4096) - 1.190_238_1).abs() < 1e-6);
    }

    #[test]
    fn scalings_that_no_model_can_have_are_refused() {
        let rope = |scaling| Rope {
            scaling,
            ..llama3()
        };
        let float = |what, value| Err(ConfigError::Float { what, value });
        let linear = rope(RopeScaling::Linear { factor: 0.0 });
        assert_eq!(linear.validate(64), float("RoPE factor", 0.0));
        let divisors = rope(RopeScaling::Divisors(vec![1.0; 31]));
        let error = ConfigError::RopeDivisors {
            expected: 32,
            found: 31,
        };
        assert_eq!(divisors.validate(64), Err(error));
        let divisors = rope(RopeScaling::Divisors(vec![-1.0; 32]));
        assert_eq!(divisors.validate(64), float("RoPE divisor", -1.0));
        let error = ConfigError::RopeWidth {
            n_dims: 64,
            head_dim: 32,
        };
        assert_eq!(llama3().validate(32), Err(error));
    }
}
