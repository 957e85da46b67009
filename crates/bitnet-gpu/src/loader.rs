//! Loading of weights: they are packed on the host and uploaded piece by piece.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_core::Scales;

use crate::device::{Gpu, Usage};
use crate::error::{GpuError, LoadError};
use crate::layout::{PANEL_ROWS, Panels, pack_int8, pack_trits};
use crate::model::{
    Fused, GpuModel, LayerMatrices, Matrix, Piece, Table, TableLayout, check, first_panel, norm_at,
    output_norm_at, part_panels,
};
use crate::shape::{EmbeddingEncoding, HeadKind, ModelShape, Norm, Part};

/// Bytes packed before they are uploaded.
const PACK_BYTES: usize = 32 << 20;

/// A table of the rotary position embedding, computed by the host.
#[derive(Clone, Copy, Debug)]
pub struct RopeTable<'a> {
    /// `[context_len, n_dims / 2]`
    pub cos: &'a [f32],
    /// `[context_len, n_dims / 2]`
    pub sin: &'a [f32],
}

/// A model that is being loaded. Every matrix and norm of the shape must be loaded, in any
/// order; a matrix may be loaded again.
#[derive(Debug)]
pub struct ModelLoader {
    gpu: Gpu,
    shape: ModelShape,
    n_threads: usize,
    ropes: Vec<wgpu::Buffer>,
    norms: wgpu::Buffer,
    layers: Vec<LayerMatrices>,
    embedding: Table,
    head: Option<Table>,
    /// What was not loaded yet.
    missing: Vec<Item>,
}

/// Something to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Linear(usize, Part),
    Norm(usize, Norm),
    OutputNorm,
    Embedding,
    Head,
}

impl ModelLoader {
    /// Allocates a model of this shape, with a rotary table for each of
    /// [`ModelShape::rope_dims`]. Rows are packed by `n_threads` threads.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernels do not compute this shape, the model exceeds a limit of
    /// the device, or the device is out of memory.
    ///
    /// # Panics
    ///
    /// Panics if a rotary table has not the size of the shape, or there are not as many, or
    /// the shape contradicts itself.
    pub fn new(
        gpu: &Gpu,
        shape: ModelShape,
        ropes: &[RopeTable<'_>],
        n_threads: usize,
    ) -> Result<Self, GpuError> {
        check(gpu, &shape)?;
        assert_eq!(
            ropes.len(),
            shape.rope_dims.len(),
            "a table for each rotary embedding"
        );
        let rope = |(table, n_dims): (&RopeTable<'_>, &usize)| {
            let (cos, sin) = (table.cos, table.sin);
            let n_pairs = n_dims / 2;
            let len = shape.context_len * n_pairs;
            assert!(
                cos.len() == len && sin.len() == len,
                "a row for each position"
            );
            let buffer = gpu.buffer("a rotary table", 8 * len, Usage::Data)?;
            let positions = (PACK_BYTES / (8 * n_pairs)).max(1);
            let parts = cos
                .chunks(positions * n_pairs)
                .zip(sin.chunks(positions * n_pairs));
            for (i, (cos, sin)) in parts.enumerate() {
                let rows = cos.chunks(n_pairs).zip(sin.chunks(n_pairs));
                let rows: Vec<f32> = rows.flat_map(|(cos, sin)| [cos, sin].concat()).collect();
                let at = 8 * i * positions * n_pairs;
                gpu.upload(&buffer, at, bytemuck::cast_slice(&rows))?;
            }
            Ok(buffer)
        };
        let matrix = |layer: usize, fused: Fused| -> Result<Matrix, GpuError> {
            let panels = fused.panels(&shape);
            let what = format!("{fused:?} of layer {layer}");
            Ok(Matrix {
                weights: gpu.buffer(&what, panels.n_bytes(), Usage::Data)?,
                scales: gpu.buffer(&what, 4 * panels.n_scales(), Usage::Data)?,
            })
        };
        let layer = |layer| -> Result<LayerMatrices, GpuError> {
            let [qkv, output, gate_up, down] = Fused::ALL.map(|fused| matrix(layer, fused));
            let matrices = [qkv?, output?, gate_up?, down?];
            Ok(LayerMatrices { matrices })
        };
        let n_layers = shape.layers.len();
        let mut missing = vec![Item::OutputNorm, Item::Embedding];
        for layer in 0..n_layers {
            missing.extend(Part::ALL.map(|part| Item::Linear(layer, part)));
            let norms = crate::model::norms_of_layer(&shape).into_iter();
            missing.extend(norms.map(|(norm, _)| Item::Norm(layer, norm)));
        }
        let head = TableLayout::head(&shape);
        if head.is_some() {
            missing.push(Item::Head);
        }
        let norm_len = output_norm_at(&shape) + shape.hidden_dim;
        Ok(Self {
            gpu: gpu.clone(),
            n_threads: n_threads.max(1),
            ropes: ropes
                .iter()
                .zip(&shape.rope_dims)
                .map(rope)
                .collect::<Result<_, _>>()?,
            norms: gpu.buffer("the norms", 4 * norm_len, Usage::Data)?,
            layers: (0..n_layers).map(layer).collect::<Result<_, _>>()?,
            embedding: table(
                gpu,
                "the embedding",
                TableLayout::embedding(&shape),
                shape.vocab_size,
            )?,
            head: match head {
                Some(layout) => Some(table(gpu, "the output matrix", layout, shape.vocab_size)?),
                None => None,
            },
            missing,
            shape,
        })
    }

    /// Loads a linear layer; `decode_row(row, trits)` fills one row of -1, 0, +1. Rows are
    /// decoded in any order on several threads. The rows of [`Part::Query`] and [`Part::Key`]
    /// are in the order of `transformers`: pair i of a head is its rows i and i + `n_dims` / 2.
    ///
    /// # Errors
    ///
    /// Returns the error of the lowest row that failed, or of the device, or an error if there
    /// are scales for other groups of weights than [`ModelShape::scale_group`]. One scale for
    /// each row, or for all, is taken with any groups; the products are then added group by
    /// group, which rounds differently from `bitnet-core`.
    pub fn linear<E: Send>(
        &mut self,
        layer: usize,
        part: Part,
        scales: &Scales,
        decode_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<(), LoadError<E>> {
        let panels = part_panels(&self.shape, part);
        let n_cols = self.shape.linear(part).1;
        let scales = self.panel_scales(scales, panels)?;
        let first = first_panel(&self.shape, part);
        let matrix = &self.layers[layer].matrices[Fused::of(part) as usize];
        let at = 4 * first * PANEL_ROWS * panels.n_groups;
        self.gpu
            .upload(&matrix.scales, at, bytemuck::cast_slice(&scales))?;
        let pack = |row: usize, trits: &mut [i8], in_panel: usize, panel: &mut [_]| {
            decode_row(row, trits)?;
            pack_trits(trits, in_panel, panel);
            Ok(0.0)
        };
        for range in parts_of(0..panels.n_panels(), panels.panel_bytes()) {
            let at = (first + range.start) * panels.panel_bytes();
            let packed = pack_panels(self.n_threads, panels, range, n_cols, pack)?;
            self.gpu
                .upload(&matrix.weights, at, bytemuck::cast_slice(&packed.chunks))?;
        }
        self.done(Item::Linear(layer, part));
        Ok(())
    }

    /// Loads a norm of a layer.
    ///
    /// # Errors
    ///
    /// Returns an error if the device fails.
    ///
    /// # Panics
    ///
    /// Panics if the shape does not have this norm, or it has another width.
    pub fn norm(&mut self, layer: usize, norm: Norm, weights: &[f32]) -> Result<(), GpuError> {
        let at = norm_at(&self.shape, layer, norm);
        let (at, width) = at.expect("a norm of the shape");
        assert_eq!(weights.len(), width, "the width of the norm");
        self.done(Item::Norm(layer, norm));
        self.gpu
            .upload(&self.norms, 4 * at, bytemuck::cast_slice(weights))
    }

    /// Loads the norm before the output matrix, `[hidden_dim]`.
    ///
    /// # Errors
    ///
    /// Returns an error if the device fails.
    ///
    /// # Panics
    ///
    /// Panics if it has another width.
    pub fn output_norm(&mut self, weights: &[f32]) -> Result<(), GpuError> {
        assert_eq!(
            weights.len(),
            self.shape.hidden_dim,
            "the width of the norm"
        );
        self.done(Item::OutputNorm);
        let at = 4 * output_norm_at(&self.shape);
        self.gpu
            .upload(&self.norms, at, bytemuck::cast_slice(weights))
    }

    /// Loads the embedding, rounded to [`ModelShape::embedding`]; `fill_row(row, values)`
    /// writes one row. Rows are filled in any order on several threads.
    ///
    /// # Errors
    ///
    /// Returns the error of the lowest row that failed, or of the device.
    ///
    /// # Panics
    ///
    /// Panics if the shape's embedding is ternary.
    pub fn embedding<E: Send>(
        &mut self,
        fill_row: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<(), LoadError<E>> {
        let TableLayout::Dense { row_words } = TableLayout::embedding(&self.shape) else {
            panic!("the embedding is ternary");
        };
        let (encoding, hidden) = (self.shape.embedding, self.shape.hidden_dim);
        let n_threads = self.n_threads;
        for piece in &self.embedding.pieces {
            let rows = piece.first_row..piece.first_row + piece.n_rows;
            for range in parts_of(rows, 4 * row_words) {
                let mut words = vec![0u32; range.len() * row_words];
                let first = range.start;
                let at = 4 * row_words * (first - piece.first_row);
                for_rows(
                    n_threads,
                    &mut words,
                    row_words,
                    &vec![0.0; hidden],
                    |i, values, out| {
                        fill_row(first + i, values)?;
                        encode(encoding, values, out);
                        Ok(())
                    },
                )
                .map_err(LoadError::Row)?;
                self.gpu
                    .upload(&piece.buffer, at, bytemuck::cast_slice(&words))?;
            }
        }
        self.done(Item::Embedding);
        Ok(())
    }

    /// Loads a ternary embedding, as [`linear`](Self::linear) loads a linear layer.
    ///
    /// # Errors
    ///
    /// The same as for [`linear`](Self::linear).
    ///
    /// # Panics
    ///
    /// Panics if the shape's embedding is not ternary.
    pub fn embedding_ternary<E: Send>(
        &mut self,
        scales: &Scales,
        decode_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<(), LoadError<E>> {
        assert_eq!(
            self.shape.embedding,
            EmbeddingEncoding::Ternary,
            "a ternary embedding"
        );
        self.ternary_table(&self.embedding, scales, decode_row)?;
        self.done(Item::Embedding);
        Ok(())
    }

    /// Loads the output matrix, quantized to int8 with a scale per row as
    /// [`PackedInt8`](bitnet_core::PackedInt8) does; `fill_row(row, values)` writes one row.
    /// Rows are filled in any order on several threads.
    ///
    /// # Errors
    ///
    /// Returns the error of the lowest row that failed, or of the device.
    ///
    /// # Panics
    ///
    /// Panics if the shape's output matrix is not int8.
    pub fn head_int8<E: Send>(
        &mut self,
        fill_row: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<(), LoadError<E>> {
        assert_eq!(self.shape.head, HeadKind::Int8, "an int8 output matrix");
        let (vocab, hidden) = (self.shape.vocab_size, self.shape.hidden_dim);
        let panels = Panels::int8(vocab, hidden);
        let pack = |row: usize, values: &mut [f32], in_panel: usize, panel: &mut [_]| {
            fill_row(row, values)?;
            Ok(pack_int8(values, in_panel, panel))
        };
        let head = self
            .head
            .as_ref()
            .expect("an int8 output matrix has a table");
        let scales = head.scales.as_ref().expect("panels have scales");
        for piece in &head.pieces {
            let first = piece.first_row / PANEL_ROWS;
            let of_piece = first..first + piece.n_rows.div_ceil(PANEL_ROWS);
            for range in parts_of(of_piece, panels.panel_bytes()) {
                let at = range.start * PANEL_ROWS;
                let bytes_at = (range.start - first) * panels.panel_bytes();
                let packed = pack_panels(self.n_threads, panels, range, hidden, pack)?;
                self.gpu
                    .upload(scales, 4 * at, bytemuck::cast_slice(&packed.scales))?;
                self.gpu.upload(
                    &piece.buffer,
                    bytes_at,
                    bytemuck::cast_slice(&packed.chunks),
                )?;
            }
        }
        self.done(Item::Head);
        Ok(())
    }

    /// Loads a ternary output matrix, as [`linear`](Self::linear) loads a linear layer.
    ///
    /// # Errors
    ///
    /// The same as for [`linear`](Self::linear).
    ///
    /// # Panics
    ///
    /// Panics if the shape's output matrix is not [`HeadKind::Ternary`].
    pub fn head_ternary<E: Send>(
        &mut self,
        scales: &Scales,
        decode_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<(), LoadError<E>> {
        assert_eq!(
            self.shape.head,
            HeadKind::Ternary,
            "a ternary output matrix"
        );
        let head = self
            .head
            .as_ref()
            .expect("a ternary output matrix has a table");
        self.ternary_table(head, scales, decode_row)?;
        self.done(Item::Head);
        Ok(())
    }

    /// Returns the loaded model.
    ///
    /// # Errors
    ///
    /// Returns an error if the device failed.
    ///
    /// # Panics
    ///
    /// Panics if a matrix or a norm was not loaded.
    pub fn finish(self) -> Result<GpuModel, GpuError> {
        assert!(self.missing.is_empty(), "not loaded: {:?}", self.missing);
        self.gpu.check()?;
        Ok(GpuModel {
            gpu: self.gpu,
            shape: self.shape,
            ropes: self.ropes,
            norms: self.norms,
            layers: self.layers,
            embedding: self.embedding,
            head: self.head,
        })
    }

    fn done(&mut self, item: Item) {
        self.missing.retain(|other| *other != item);
    }

    /// Loads a table in panels of trits.
    fn ternary_table<E: Send>(
        &self,
        table: &Table,
        scales: &Scales,
        decode_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<(), LoadError<E>> {
        let (vocab, hidden) = (self.shape.vocab_size, self.shape.hidden_dim);
        let panels = Panels::ternary(vocab, hidden, self.shape.n_groups(hidden));
        let scales = self.panel_scales(scales, panels)?;
        let of_rows = table.scales.as_ref().expect("panels have scales");
        self.gpu.upload(of_rows, 0, bytemuck::cast_slice(&scales))?;
        let pack = |row: usize, trits: &mut [i8], in_panel: usize, panel: &mut [_]| {
            decode_row(row, trits)?;
            pack_trits(trits, in_panel, panel);
            Ok(0.0)
        };
        for piece in &table.pieces {
            let first = piece.first_row / PANEL_ROWS;
            let of_piece = first..first + piece.n_rows.div_ceil(PANEL_ROWS);
            for range in parts_of(of_piece, panels.panel_bytes()) {
                let at = (range.start - first) * panels.panel_bytes();
                let packed = pack_panels(self.n_threads, panels, range, hidden, pack)?;
                self.gpu
                    .upload(&piece.buffer, at, bytemuck::cast_slice(&packed.chunks))?;
            }
        }
        Ok(())
    }

    /// Returns scales as the device stores them, 0 for the rows that pad the last panel.
    fn panel_scales(&self, scales: &Scales, panels: Panels) -> Result<Vec<f32>, GpuError> {
        let n_groups = panels.n_groups;
        match scales {
            Scales::Groups { len, values } if Some(*len) == self.shape.scale_group => {
                assert_eq!(
                    values.len(),
                    panels.n_rows * n_groups,
                    "a scale for each group"
                );
            }
            Scales::Groups { len, .. } => {
                let what = match self.shape.scale_group {
                    Some(other) => format!("scales for each {len} and for each {other} weights"),
                    None => format!("scales for each {len} weights of a row beside others"),
                };
                let device = self.gpu.device();
                return Err(GpuError::Unsupported { device, what });
            }
            Scales::Rows(values) => assert_eq!(values.len(), panels.n_rows, "a scale for each row"),
            Scales::Tensor(_) => {}
        }
        let of_group = |row: usize, group: usize| match scales {
            Scales::Tensor(scale) => *scale,
            Scales::Rows(values) => values[row],
            Scales::Groups { values, .. } => values[row * n_groups + group],
        };
        let mut packed = vec![0.0; panels.n_scales()];
        for (i, panel) in packed.chunks_mut(PANEL_ROWS * n_groups).enumerate() {
            for row in (0..PANEL_ROWS).filter(|row| i * PANEL_ROWS + row < panels.n_rows) {
                for group in 0..n_groups {
                    panel[group * PANEL_ROWS + row] = of_group(i * PANEL_ROWS + row, group);
                }
            }
        }
        Ok(packed)
    }
}

/// Allocates a table in pieces that the device can bind, and whose panels are not more than
/// the workgroups of a dispatch.
fn table(gpu: &Gpu, what: &str, layout: TableLayout, n_rows: usize) -> Result<Table, GpuError> {
    let (unit, unit_bytes) = layout.unit();
    let units = (gpu.max_binding() / unit_bytes).min(gpu.max_groups());
    if units == 0 {
        return Err(GpuError::Limit {
            device: gpu.device(),
            what: format!("{unit} rows of {what} (max_storage_buffer_binding_size, in bytes)"),
            needed: unit_bytes as u64,
            limit: gpu.max_binding() as u64,
        });
    }
    let pieces = (0..n_rows).step_by(units * unit).map(|first_row| {
        let n_rows = (n_rows - first_row).min(units * unit);
        Ok(Piece {
            first_row,
            n_rows,
            buffer: gpu.buffer(what, n_rows.div_ceil(unit) * unit_bytes, Usage::Data)?,
        })
    });
    let pieces = pieces.collect::<Result<_, GpuError>>()?;
    let scales = match layout {
        TableLayout::Dense { .. } => None,
        TableLayout::Panels(panels) => {
            Some(gpu.buffer(what, 4 * panels.n_scales(), Usage::Data)?)
        }
    };
    Ok(Table { pieces, scales })
}

/// Splits a range into parts of about [`PACK_BYTES`].
fn parts_of(range: Range<usize>, bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (PACK_BYTES / bytes.max(1)).max(1);
    let end = range.end;
    range
        .step_by(step)
        .map(move |first| first..end.min(first + step))
}

/// Packed panels and the scales of their rows.
struct Packed {
    chunks: Vec<[u32; 4]>,
    scales: Vec<f32>,
}

/// Packs some panels: `pack(row, values, row in panel, panel)` packs one row, in scratch
/// memory of `n_cols` values, and returns its scale.
fn pack_panels<T: Clone + Default + Send + Sync, E: Send>(
    n_threads: usize,
    panels: Panels,
    range: Range<usize>,
    n_cols: usize,
    pack: impl Fn(usize, &mut [T], usize, &mut [[u32; 4]]) -> Result<f32, E> + Sync,
) -> Result<Packed, LoadError<E>> {
    let panel_len = PANEL_ROWS * panels.n_chunks;
    let mut chunks = vec![[0; 4]; range.len() * panel_len];
    let scales = Mutex::new(vec![0.0; range.len() * PANEL_ROWS]);
    let scratch = &vec![T::default(); n_cols];
    for_rows(
        n_threads,
        &mut chunks,
        panel_len,
        scratch,
        |i, values, panel| {
            let first = (range.start + i) * PANEL_ROWS;
            let mut of_panel = [0.0; PANEL_ROWS];
            let n_rows = PANEL_ROWS.min(panels.n_rows - first);
            for (in_panel, scale) in of_panel[..n_rows].iter_mut().enumerate() {
                *scale = pack(first + in_panel, values, in_panel, panel)?;
            }
            let mut scales = scales.lock().expect("no holder panics");
            scales[i * PANEL_ROWS..][..PANEL_ROWS].copy_from_slice(&of_panel);
            Ok(())
        },
    )
    .map_err(LoadError::Row)?;
    let scales = scales.into_inner().expect("no holder panics");
    Ok(Packed { chunks, scales })
}

/// Calls `fill(i, scratch, row)` for every `len` elements of `out`, on several threads, each
/// with a copy of `scratch`. Returns the error of the lowest row that failed.
fn for_rows<O: Send, S: Clone + Send + Sync, E: Send>(
    n_threads: usize,
    out: &mut [O],
    len: usize,
    scratch: &[S],
    fill: impl Fn(usize, &mut [S], &mut [O]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let rows = Mutex::new(out.chunks_mut(len.max(1)).enumerate());
    let first_error: Mutex<Option<(usize, E)>> = Mutex::new(None);
    // Rows are handed out in order, so that all below the first failure are filled.
    let failed = AtomicUsize::new(usize::MAX);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            let mut scratch = scratch.to_vec();
            let (rows, first_error, failed, fill) = (&rows, &first_error, &failed, &fill);
            scope.spawn(move || {
                while let Some((i, row)) = { rows.lock().expect("no holder panics").next() } {
                    if i > failed.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(error) = fill(i, &mut scratch, row) {
                        failed.fetch_min(i, Ordering::Relaxed);
                        let mut first = first_error.lock().expect("no holder panics");
                        if first.as_ref().is_none_or(|(other, _)| i < *other) {
                            *first = Some((i, error));
                        }
                    }
                }
            });
        }
    });
    match first_error.into_inner().expect("no holder panics") {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Encodes a row of the embedding.
fn encode(encoding: EmbeddingEncoding, values: &[f32], out: &mut [u32]) {
    let bits = |value: f32| match encoding {
        EmbeddingEncoding::Bf16 => half::bf16::from_f32(value).to_bits(),
        _ => half::f16::from_f32(value).to_bits(),
    };
    match encoding {
        EmbeddingEncoding::F32 => {
            for (out, value) in out.iter_mut().zip(values) {
                *out = value.to_bits();
            }
        }
        _ => {
            for (out, pair) in out.iter_mut().zip(values.chunks(2)) {
                let high = pair.get(1).map_or(0, |value| bits(*value));
                *out = u32::from(bits(pair[0])) | u32::from(high) << 16;
            }
        }
    }
}
