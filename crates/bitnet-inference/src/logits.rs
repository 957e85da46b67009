//! The logits that a caller requests from an engine.

/// The positions whose logits are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// No position: the tokens are only added to the KV cache.
    None,
    /// The last position.
    Last,
    /// Every position.
    All,
    /// The last `n` positions.
    Tail(usize),
    /// The last position: at least its `k` largest logits. Others may be minus infinity,
    /// which may be faster.
    Top(usize),
    /// The last position: instead of logits the final normalized hidden state, of
    /// `hidden_dim` values.
    Hidden,
}
