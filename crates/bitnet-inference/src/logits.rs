//! Which logits a caller asks for: what a sampler needs, and an engine computes.

/// Which positions need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// No position: the tokens are only remembered.
    None,
    /// The last position.
    Last,
    /// Every position.
    All,
    /// The last position: at least its `k` largest logits. Others may be minus
    /// infinity instead; the model's head may be faster so.
    Top(usize),
    /// The last position: not logits but what they are computed from, the
    /// normalized hidden state of `hidden_dim` values.
    Hidden,
}
