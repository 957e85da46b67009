//! Which weights are packed so that those that are multiplied by zero are not read, and how
//! many that saves.

use std::ops::{Add, Sub};

use bitnet_core::{Int8Rows, Isa, PartRead, Shape, TernaryLayout};

use crate::format::checkpoint::Checkpoint;
use crate::format::tensor::Encoding;
use crate::spec::config::{Activation, ActivationPrecision, Config};

/// The weights that a model did not read because they are multiplied by zero. A sum over
/// passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Rows of `up`, whose gate is not positive.
    pub rows: Share,
    /// Columns of `down`, whose input is zero.
    pub columns: Share,
    /// Bytes of these rows and columns.
    pub bytes: usize,
    /// Multiply-adds of these rows and columns.
    pub macs: usize,
    /// Forward passes.
    pub passes: usize,
}

impl Skipped {
    /// Returns what all layers skipped in the same passes.
    pub(crate) fn of_layers(layers: &[Self]) -> Self {
        layers.iter().fold(Self::default(), |sum, layer| Self {
            rows: sum.rows + layer.rows,
            columns: sum.columns + layer.columns,
            bytes: sum.bytes + layer.bytes,
            macs: sum.macs + layer.macs,
            passes: layer.passes,
        })
    }

    /// Adds what a layer skipped in one more pass.
    pub(crate) fn add_pass(&mut self, pass: Self) {
        let passes = self.passes + 1;
        *self = Self {
            passes,
            ..Self::of_layers(&[*self, pass])
        };
    }
}

impl Add for Share {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            skipped: self.skipped + other.skipped,
            total: self.total + other.total,
        }
    }
}

/// The skipped part of the rows or columns of one or more layers, each counted once per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Those that were skipped.
    pub skipped: usize,
    /// All.
    pub total: usize,
}

impl Share {
    /// Returns the share that was skipped, 0 to 1; `None` of nothing.
    pub fn fraction(self) -> Option<f64> {
        (self.total > 0).then(|| self.skipped as f64 / self.total as f64)
    }

    /// Adds what a product of `n_tokens` tokens did not compute.
    fn add_product(&mut self, part: PartRead, n_tokens: usize) {
        let total = part.total * n_tokens;
        self.skipped += total - part.products;
        self.total += total;
    }
}

impl Skipped {
    /// Adds a product with rows of `n_cols` weights.
    pub(crate) fn add_rows(&mut self, part: PartRead, n_tokens: usize, n_cols: usize) {
        self.rows.add_product(part, n_tokens);
        self.add_parts(part, n_tokens, n_cols);
    }

    /// Adds a product with columns of `n_rows` weights.
    pub(crate) fn add_columns(&mut self, part: PartRead, n_tokens: usize, n_rows: usize) {
        self.columns.add_product(part, n_tokens);
        self.add_parts(part, n_tokens, n_rows);
    }

    /// Adds parts of `len` weights, four per byte.
    fn add_parts(&mut self, part: PartRead, n_tokens: usize, len: usize) {
        self.bytes += (part.total - part.read) * len / 4;
        self.macs += (part.total * n_tokens - part.products) * len;
    }
}

impl Sub for Skipped {
    type Output = Self;

    /// Returns what was skipped since `before`.
    fn sub(self, before: Self) -> Self {
        let share = |now: Share, before: Share| Share {
            skipped: now.skipped - before.skipped,
            total: now.total - before.total,
        };
        Self {
            rows: share(self.rows, before.rows),
            columns: share(self.columns, before.columns),
            bytes: self.bytes - before.bytes,
            macs: self.macs - before.macs,
            passes: self.passes - before.passes,
        }
    }
}

/// Returns whether the inputs of `down`, and with them the results of `up`, have zeros by
/// the activation, and whether the kernels profit.
fn has_zeros(config: &Config, isa: Isa) -> bool {
    config.activation == Activation::Relu2
        && config.activations == ActivationPrecision::Int8
        && isa.has_sparse()
}

/// Returns the layout of a ternary matrix: `panels`, unless rows or columns can be skipped.
pub(crate) fn layout_of(
    checkpoint: &Checkpoint,
    isa: Isa,
    name: &str,
    panels: TernaryLayout,
) -> TernaryLayout {
    let config = checkpoint.config();
    let tensor = checkpoint.tensor(name);
    let shape = tensor.shape();
    let skipping = if let Some(layer) = name.strip_suffix("ffn_up.weight") {
        // The gates must be known before, from the same input.
        let gate = checkpoint.tensor(&format!("{layer}ffn_gate.weight"));
        let is_dense = matches!(gate.encoding, Encoding::Dense(_));
        (!is_dense && !config.projection_norms).then_some(TernaryLayout::Rows)
    } else {
        name.ends_with("ffn_down.weight")
            .then_some(TernaryLayout::Columns)
    };
    skipping
        .filter(|layout| has_zeros(config, isa) && layout.takes(shape))
        .unwrap_or(panels)
}

/// Returns the columns of the lists of inputs that are not zero, if the model needs lists.
pub(crate) fn listed_cols(config: &Config, isa: Isa) -> Option<usize> {
    let shape = Shape {
        n_rows: config.hidden_dim,
        n_cols: config.ffn_dim,
    };
    let is_listed = has_zeros(config, isa) && TernaryLayout::Columns.takes(shape);
    is_listed.then_some(config.ffn_dim)
}

/// Returns the bytes of these lists.
pub(crate) fn list_bytes(config: &Config, isa: Isa, batch_tokens: usize) -> usize {
    listed_cols(config, isa).map_or(0, |cols| Int8Rows::list_bytes(batch_tokens, cols))
}
