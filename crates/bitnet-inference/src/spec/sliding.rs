//! Sliding-window attention.

use super::config::ConfigError;
use super::rope::Rope;

/// Sliding-window attention of some layers, with a separate rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct SlidingWindow {
    /// Window size in positions, including the current one.
    pub window: usize,
    /// The rotary position embedding of these layers.
    pub rope: Rope,
    /// Whether each layer has the window.
    pub layers: Vec<bool>,
}

impl SlidingWindow {
    /// The default period of Gemma 3.
    pub(crate) const GEMMA3_PERIOD: usize = 6;
    /// The default base of the frequencies of Gemma 3.
    pub(crate) const GEMMA3_THETA: f32 = 10_000.0;

    /// Returns whether each of `n_layers` layers has a window, if every `period`-th has none.
    pub(crate) fn every(period: usize, n_layers: usize) -> Vec<bool> {
        (0..n_layers)
            .map(|layer| !(layer + 1).is_multiple_of(period))
            .collect()
    }

    /// Returns the period of the layers without a window, if they are periodic.
    pub(crate) fn period(&self) -> Option<usize> {
        let n_layers = self.layers.len();
        let first = self.layers.iter().position(|is_sliding| !is_sliding);
        let period = first.unwrap_or(n_layers) + 1;
        (Self::every(period, n_layers) == self.layers).then_some(period)
    }

    /// Checks the parameters; returns the first invalid value as an error.
    pub(crate) fn validate(&self, n_layers: usize, head_dim: usize) -> Result<(), ConfigError> {
        let (what, value, limit) = ("sliding window", self.window, 1 << 24);
        if value == 0 || value > limit {
            return Err(ConfigError::Size { what, value, limit });
        }
        if self.layers.len() != n_layers {
            return Err(ConfigError::SlidingLayers {
                expected: n_layers,
                found: self.layers.len(),
            });
        }
        self.rope.validate(head_dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::rope::RopeScaling;

    fn sliding(layers: &[bool]) -> SlidingWindow {
        SlidingWindow {
            window: 512,
            rope: Rope {
                theta: 10_000.0,
                n_dims: 8,
                scaling: RopeScaling::None,
            },
            layers: layers.to_vec(),
        }
    }

    #[test]
    fn a_period_stands_for_the_layers_it_gives() {
        for period in 1..9 {
            let layers = SlidingWindow::every(period, 8);
            assert_eq!(sliding(&layers).period(), Some(period));
        }
        assert_eq!(sliding(&[true, false, false, true]).period(), None);
        // No layer without a window: any period that is never reached.
        assert_eq!(sliding(&[true, true]).period(), Some(3));
    }

    #[test]
    fn windows_that_no_model_can_have_are_refused() {
        let layers = [true, false];
        assert_eq!(sliding(&layers).validate(2, 8), Ok(()));
        let none = SlidingWindow {
            window: 0,
            ..sliding(&layers)
        };
        assert!(matches!(none.validate(2, 8), Err(ConfigError::Size { .. })));
        let error = ConfigError::SlidingLayers {
            expected: 3,
            found: 2,
        };
        assert_eq!(sliding(&layers).validate(3, 8), Err(error));
    }
}
