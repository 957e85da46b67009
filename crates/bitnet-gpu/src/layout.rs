//! The packing of weights for the device. The files in `shaders/` draw the layouts:
//! `linear.wgsl` that of panels, `ternary.wgsl` and `linear_int8.wgsl` that of their chunks.

/// Weight rows per panel.
pub(crate) const PANEL_ROWS: usize = 16;
/// Columns per chunk of a ternary row.
pub(crate) const TERNARY_COLS: usize = 64;
/// Columns per chunk of an int8 row.
pub(crate) const INT8_COLS: usize = 16;
/// Bytes per chunk of a row.
pub(crate) const CHUNK_BYTES: usize = 16;

/// Four words of a chunk.
type Chunk = [u32; 4];

/// A matrix in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "all are counts")]
pub(crate) struct Panels {
    /// The number of rows, which are outputs.
    pub(crate) n_rows: usize,
    /// Chunks per row.
    pub(crate) n_chunks: usize,
    /// Scales per row.
    pub(crate) n_groups: usize,
}

impl Panels {
    pub(crate) fn ternary(n_rows: usize, n_cols: usize, n_groups: usize) -> Self {
        Self {
            n_rows,
            n_chunks: n_cols.div_ceil(TERNARY_COLS),
            n_groups,
        }
    }

    /// Rows are padded to whole chunks of a ternary matrix, as the activations are.
    pub(crate) fn int8(n_rows: usize, n_cols: usize) -> Self {
        Self {
            n_rows,
            n_chunks: n_cols.div_ceil(TERNARY_COLS) * (TERNARY_COLS / INT8_COLS),
            n_groups: 1,
        }
    }

    pub(crate) fn n_panels(self) -> usize {
        self.n_rows.div_ceil(PANEL_ROWS)
    }

    pub(crate) fn panel_bytes(self) -> usize {
        PANEL_ROWS * self.n_chunks * CHUNK_BYTES
    }

    /// Returns the number of scales, those of the rows that pad the last panel included.
    pub(crate) fn n_scales(self) -> usize {
        self.n_panels() * PANEL_ROWS * self.n_groups
    }

    pub(crate) fn n_bytes(self) -> usize {
        self.n_panels().saturating_mul(self.panel_bytes())
    }
}

/// Packs the trits of a row into its chunks of a panel; the columns beyond the last are 0.
pub(crate) fn pack_trits(trits: &[i8], row_in_panel: usize, panel: &mut [Chunk]) {
    let chunks = panel.chunks_exact_mut(PANEL_ROWS);
    for (chunk, out) in chunks.enumerate() {
        out[row_in_panel] = std::array::from_fn(|w| {
            (0..16).fold(0, |word, col| {
                let trit = trits.get(TERNARY_COLS * chunk + 16 * w + col);
                let code = (trit.copied().unwrap_or(0) + 1) as u32;
                word | code << (8 * (col % 4) + 2 * (col / 4))
            })
        });
    }
}

/// Quantizes a row to int8 and packs it; returns the scale, `max|w| / 127`. The values are
/// those of [`PackedInt8`](bitnet_core::PackedInt8).
pub(crate) fn pack_int8(values: &[f32], row_in_panel: usize, panel: &mut [Chunk]) -> f32 {
    let max = values.iter().fold(0f32, |max, w| max.max(w.abs()));
    let scale = max / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let quantize = |w: &f32| (w * inverse).clamp(-127.0, 127.0).round_ties_even() as i8;
    for (chunk, out) in panel.chunks_exact_mut(PANEL_ROWS).enumerate() {
        out[row_in_panel] = std::array::from_fn(|w| {
            let byte = |b| {
                values
                    .get(INT8_COLS * chunk + 4 * w + b)
                    .map_or(0, quantize) as u8
            };
            u32::from_le_bytes(std::array::from_fn(byte))
        });
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trit_is_where_the_drawing_says() {
        let panels = Panels::ternary(17, 65, 1);
        assert_eq!((panels.n_panels(), panels.n_chunks), (2, 2));
        for col in [0, 1, 4, 7, 15, 16, 63, 64] {
            let mut trits = [0; 65];
            trits[col] = 1;
            let mut panel = vec![[0; 4]; PANEL_ROWS * panels.n_chunks];
            pack_trits(&trits, 3, &mut panel);
            let zero = 0x5555_5555;
            for (i, chunk) in panel.iter().enumerate() {
                for (w, &word) in chunk.iter().enumerate() {
                    let of_row = i % PANEL_ROWS == 3;
                    let expected = match col.checked_sub(64 * (i / 16) + 16 * w) {
                        Some(c @ 0..16) if of_row => zero + (1 << (8 * (c % 4) + 2 * (c / 4))),
                        _ if of_row => zero,
                        _ => 0,
                    };
                    assert_eq!(word, expected, "column {col}, chunk {i}, word {w}");
                }
            }
        }
    }

    #[test]
    fn an_int8_row_has_its_largest_value_at_127() {
        let values = [0.5, -1.0, 0.25, 0.0, 1.0];
        let panels = Panels::int8(1, 5);
        assert_eq!(panels.n_chunks, 4);
        let mut panel = vec![[0; 4]; PANEL_ROWS * panels.n_chunks];
        assert_eq!(pack_int8(&values, 1, &mut panel), 1.0 / 127.0);
        let bytes: Vec<i8> = bytemuck::cast_slice(&panel[1]).to_vec();
        // 63.5 is a tie.
        assert_eq!(bytes[..6], [64, -127, 32, 0, 127, 0]);
        assert_eq!(pack_int8(&[0.0; 5], 1, &mut panel), 0.0);
        assert_eq!(panel[1], [0; 4]);
    }
}
