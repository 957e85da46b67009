//! Constant factors of embeddings, residuals, attention scores and logits.

use super::config::ConfigError;

/// Constant factors; LLaMA has 1 for all but attention scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// Of the embedding of every token.
    pub embedding: f32,
    /// Of the outputs of attention and feed-forward network before the residual addition.
    pub residual: f32,
    /// Of the scores of attention, before the softmax.
    pub attention: f32,
    /// Of the logits.
    pub logits: f32,
}

/// The source of a family's multipliers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MultiplierRule {
    /// Only attention scores have one.
    Plain,
    /// Gemma: embeddings are multiplied by the square root of their width, and scores are
    /// divided by that of `query_pre_attn_scalar`.
    Gemma,
    /// MiniCPM (maximal update parametrization): `scale_emb`, `scale_depth` and
    /// `dim_model_base` of `config.json`; `embedding_scale`, `residual_scale` and
    /// `logit_scale` of GGUF files.
    MiniCpm,
}

/// The sizes that multipliers depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) hidden_dim: usize,
    pub(crate) n_layers: usize,
    pub(crate) n_heads: usize,
    pub(crate) head_dim: usize,
}

/// The multipliers in `config.json`.
#[derive(Debug, Default)]
pub(crate) struct HfMultipliers {
    pub(crate) scale_emb: Option<f64>,
    pub(crate) scale_depth: Option<f64>,
    pub(crate) dim_model_base: Option<f64>,
    pub(crate) query_pre_attn_scalar: Option<f32>,
}

/// The number of layers of Gemma 3 27B, by which llama.cpp identifies it; its attention
/// multiplier differs from that of all others.
const GEMMA3_27B_LAYERS: usize = 62;

impl Multipliers {
    /// Returns the multipliers of a model that has only that of attention scores.
    pub(crate) fn plain(head_dim: usize) -> Self {
        Self {
            embedding: 1.0,
            residual: 1.0,
            attention: inverse_root(head_dim as f32),
            logits: 1.0,
        }
    }

    /// Reads them from GGUF metadata: `float` returns the value of
    /// `{architecture}.{key}`.
    pub(crate) fn from_gguf<E>(
        rule: MultiplierRule,
        sizes: Sizes,
        float: impl Fn(&str) -> Result<Option<f32>, E>,
    ) -> Result<Self, E> {
        let plain = Self::plain(sizes.head_dim);
        let (hidden, n_layers) = (sizes.hidden_dim as f64, sizes.n_layers as f64);
        Ok(match rule {
            MultiplierRule::Plain => plain,
            MultiplierRule::Gemma => Self {
                attention: match sizes.hidden_dim.checked_div(sizes.n_heads) {
                    Some(width) if sizes.n_layers == GEMMA3_27B_LAYERS => {
                        inverse_root(width as f32)
                    }
                    _ => plain.attention,
                },
                ..Self::gemma(sizes)
            },
            // Old files have no keys; the defaults are those of the first models.
            MultiplierRule::MiniCpm => Self {
                embedding: float("embedding_scale")?.unwrap_or(12.0),
                residual: match float("residual_scale")? {
                    Some(scale) => scale,
                    None => (1.4 / n_layers.sqrt()) as f32,
                },
                logits: match float("logit_scale")? {
                    Some(divisor) => (1.0 / f64::from(divisor)) as f32,
                    None => (256.0 / hidden) as f32,
                },
                ..plain
            },
        })
    }

    /// Returns the metadata that [`from_gguf`](Self::from_gguf) reads.
    pub(crate) fn gguf(&self, rule: MultiplierRule) -> Vec<(&'static str, f32)> {
        match rule {
            MultiplierRule::Plain | MultiplierRule::Gemma => Vec::new(),
            MultiplierRule::MiniCpm => vec![
                ("embedding_scale", self.embedding),
                ("residual_scale", self.residual),
                ("logit_scale", (1.0 / f64::from(self.logits)) as f32),
            ],
        }
    }

    /// Reads them from `config.json`.
    ///
    /// # Errors
    ///
    /// Returns the key that is missing.
    pub(crate) fn from_hf(
        rule: MultiplierRule,
        sizes: Sizes,
        hf: &HfMultipliers,
    ) -> Result<Self, &'static str> {
        let plain = Self::plain(sizes.head_dim);
        let (hidden, n_layers) = (sizes.hidden_dim as f64, sizes.n_layers as f64);
        Ok(match rule {
            MultiplierRule::Plain => plain,
            MultiplierRule::Gemma => Self {
                // The default of `transformers`.
                attention: inverse_root(hf.query_pre_attn_scalar.unwrap_or(256.0)),
                ..Self::gemma(sizes)
            },
            MultiplierRule::MiniCpm => Self {
                embedding: hf.scale_emb.ok_or("scale_emb")? as f32,
                residual: (hf.scale_depth.ok_or("scale_depth")? / n_layers.sqrt()) as f32,
                logits: (hf.dim_model_base.ok_or("dim_model_base")? / hidden) as f32,
                ..plain
            },
        })
    }

    /// Returns the keys of `config.json` that [`from_hf`](Self::from_hf) reads.
    pub(crate) fn hf(&self, rule: MultiplierRule, sizes: Sizes) -> Vec<(&'static str, f64)> {
        let (hidden, n_layers) = (sizes.hidden_dim as f64, sizes.n_layers as f64);
        match rule {
            MultiplierRule::Plain => Vec::new(),
            MultiplierRule::Gemma => {
                let width = f64::from(self.attention).powi(-2);
                vec![("query_pre_attn_scalar", whole(width))]
            }
            MultiplierRule::MiniCpm => vec![
                ("scale_emb", self.embedding.into()),
                ("scale_depth", f64::from(self.residual) * n_layers.sqrt()),
                ("dim_model_base", whole(f64::from(self.logits) * hidden)),
            ],
        }
    }

    fn gemma(sizes: Sizes) -> Self {
        Self {
            embedding: (sizes.hidden_dim as f32).sqrt(),
            ..Self::plain(sizes.head_dim)
        }
    }

    /// Returns an error for the first invalid factor.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let factors = [
            ("the multiplier of embeddings", self.embedding),
            ("the multiplier of residuals", self.residual),
            ("the multiplier of attention scores", self.attention),
            ("the multiplier of logits", self.logits),
        ];
        match (factors.into_iter()).find(|(_, x)| !(x.is_finite() && *x > 0.0)) {
            Some((what, value)) => Err(ConfigError::Float { what, value }),
            None => Ok(()),
        }
    }
}

fn inverse_root(width: f32) -> f32 {
    1.0 / width.sqrt()
}

/// Returns `x` rounded to an integer if it differs only by f32 rounding.
fn whole(x: f64) -> f64 {
    let near = libm::round(x);
    if (x - near).abs() < 1e-6 * near {
        near
    } else {
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        hidden_dim: 1536,
        n_layers: 52,
        n_heads: 24,
        head_dim: 64,
    };

    #[test]
    fn minicpm_is_read_as_it_is_written() {
        let rule = MultiplierRule::MiniCpm;
        let hf = HfMultipliers {
            scale_emb: Some(12.0),
            scale_depth: Some(1.4),
            dim_model_base: Some(256.0),
            ..HfMultipliers::default()
        };
        let read = Multipliers::from_hf(rule, SIZES, &hf).unwrap();
        let expected = [12.0, 1.4 / 52f64.sqrt(), 0.125, 1.0 / 6.0];
        let found = [read.embedding, read.residual, read.attention, read.logits];
        assert_eq!(found, expected.map(|x| x as f32));

        // llama.cpp's defaults are these values.
        let none = |_: &str| Ok::<_, ()>(None);
        assert_eq!(Multipliers::from_gguf(rule, SIZES, none), Ok(read));
        let keys = read.gguf(rule);
        assert_eq!(keys[2], ("logit_scale", 6.0));
        let find = |key: &str| Ok::<_, ()>(keys.iter().find(|(k, _)| *k == key).map(|(_, x)| *x));
        assert_eq!(Multipliers::from_gguf(rule, SIZES, find), Ok(read));
        let keys = read.hf(rule, SIZES);
        assert_eq!(keys[2], ("dim_model_base", 256.0));
        let again = HfMultipliers {
            scale_emb: Some(keys[0].1),
            scale_depth: Some(keys[1].1),
            dim_model_base: Some(keys[2].1),
            ..HfMultipliers::default()
        };
        assert_eq!(Multipliers::from_hf(rule, SIZES, &again), Ok(read));

        let missing = Multipliers::from_hf(rule, SIZES, &HfMultipliers::default());
        assert_eq!(missing, Err("scale_emb"));
    }

    #[test]
    fn gemma_divides_scores_by_the_root_of_what_a_file_says() {
        let rule = MultiplierRule::Gemma;
        let none = |_: &str| Ok::<_, ()>(None);
        let small = Multipliers::from_gguf(rule, SIZES, none).unwrap();
        assert_eq!((small.attention, small.logits), (0.125, 1.0));
        assert_eq!(small.embedding, 1536f32.sqrt());
        let sizes = Sizes {
            hidden_dim: 5376,
            n_layers: 62,
            n_heads: 32,
            head_dim: 128,
        };
        let large = Multipliers::from_gguf(rule, sizes, none).unwrap();
        assert_eq!(large.attention, 1.0 / 168f32.sqrt());
        let hf = HfMultipliers {
            query_pre_attn_scalar: Some(168.0),
            ..HfMultipliers::default()
        };
        assert_eq!(Multipliers::from_hf(rule, sizes, &hf), Ok(large));
        assert_eq!(large.hf(rule, sizes), [("query_pre_attn_scalar", 168.0)]);
    }

    #[test]
    fn factors_that_are_none_are_refused() {
        for logits in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let multipliers = Multipliers {
                logits,
                ..Multipliers::plain(64)
            };
            assert!(multipliers.validate().is_err(), "{logits}");
        }
        assert_eq!(Multipliers::plain(64).validate(), Ok(()));
    }
}
