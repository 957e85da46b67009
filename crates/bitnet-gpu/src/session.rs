//! Passes: batches of tokens of several sequences, from token ids to logits.

use std::sync::Arc;

use crate::buffers::{
    Buffers, ENTRY_WORDS, HEAD_ROWS, MAX_TOP_K, PAGE, ROW_WORDS, ROWS_AT, SessionOptions, Sizes,
    TOP_K_TILE, candidate_stride, page_bytes, partial_row_bytes,
};
use crate::device::{Gpu, Usage};
use crate::error::{GpuError, PassError};
use crate::model::GpuModel;
use crate::shape::{ModelShape, Place};
use crate::steps::{DispatchPlan, Extent, Planner, Step, place_code, record};

/// Rows of a pass from which on its layers are submitted in several parts: the systems'
/// watchdogs end what takes seconds.
const LONG_PASS: usize = 32;
/// Layers per submission of a long pass.
const LAYERS_PER_SUBMISSION: usize = 4;

/// A token to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The token.
    pub token: u32,
    /// Its position. Keys and values of all lower ones must be in the pages of its table, or
    /// be computed in the same pass.
    pub position: u32,
    /// The index of its page table.
    pub page_table: usize,
}

/// What to return of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// The index of the row.
    pub row: usize,
    /// What to return.
    pub kind: OutputKind,
}

/// What a pass returns of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// All logits, `[vocab_size]`.
    Logits,
    /// The largest logits in descending order, of equal ones that with the lower id first.
    Top(usize),
    /// The normalized hidden state, `[hidden_dim]`.
    Hidden,
}

/// Values of a row.
#[derive(Clone, Copy, Debug)]
pub enum OutputValues<'a> {
    /// Logits or the hidden state.
    Values(&'a [f32]),
    /// Ids and logits.
    Top(&'a [(u32, f32)]),
}

/// The KV cache and the activations of one engine.
#[derive(Debug)]
pub struct Session {
    model: Arc<GpuModel>,
    options: SessionOptions,
    buffers: Buffers,
    plan: DispatchPlan,
    /// The words of `buffers.rows`, to be uploaded.
    rows: Vec<u32>,
    top: Vec<(u32, f32)>,
}

impl Session {
    /// The most rows of a pass.
    pub const MAX_BATCH: usize = 1 << 15;

    /// Allocates the KV cache and the activations, and compiles the kernels.
    ///
    /// # Errors
    ///
    /// Returns an error if a buffer exceeds a limit of the device, or it is out of memory.
    ///
    /// # Panics
    ///
    /// Panics if there are no pages, or no rows or more than [`MAX_BATCH`](Self::MAX_BATCH).
    pub fn new(model: Arc<GpuModel>, options: SessionOptions) -> Result<Self, GpuError> {
        assert!(options.n_pages > 0, "pages of the KV cache");
        assert!(
            (1..=Self::MAX_BATCH).contains(&options.batch_tokens),
            "rows of a pass"
        );
        let buffers = Buffers::new(&model, options)?;
        let plan = Planner::new(&model, &buffers, options)?.plan()?;
        Ok(Self {
            rows: Vec::new(),
            top: Vec::new(),
            model,
            options,
            buffers,
            plan,
        })
    }

    /// Returns the model.
    pub fn model(&self) -> &Arc<GpuModel> {
        &self.model
    }

    /// Returns the options.
    pub fn options(&self) -> SessionOptions {
        self.options
    }

    /// Computes rows, stores their keys and values, and passes each output to
    /// `on_output(index, values)`, in order. `page_tables[t][b]` is the page of positions
    /// 128·b to 128·b + 127 of table t. Rows that share a table may be computed together, in
    /// any order; a page must not be written by two tables.
    ///
    /// The result of a row does not depend on the other rows, nor on which of the lower
    /// positions are computed in the same pass.
    ///
    /// # Errors
    ///
    /// Returns an error if a value is not finite or the device fails. `on_output` may have
    /// been called for earlier outputs, whose values are right.
    ///
    /// # Panics
    ///
    /// Panics if there are too many rows or none, an index is out of range, or a table has no
    /// page for a position.
    pub fn pass(
        &mut self,
        rows: &[Row],
        page_tables: &[&[u32]],
        outputs: &[Output],
        on_output: &mut dyn FnMut(usize, OutputValues<'_>),
    ) -> Result<(), PassError> {
        let extent = self.upload_rows(rows, page_tables);
        let gpu = self.model.gpu.clone();
        let mut encoder = gpu.encoder();
        record(&mut encoder, self.plan.embed.iter(), extent);
        for (i, layer) in self.plan.layers.iter().enumerate() {
            if extent.n_rows >= LONG_PASS && i > 0 && i.is_multiple_of(LAYERS_PER_SUBMISSION) {
                gpu.submit(std::mem::replace(&mut encoder, gpu.encoder()));
            }
            let steps = if extent.n_rows == 1 {
                &layer.one
            } else {
                &layer.more
            };
            record(&mut encoder, steps.iter().map(Arc::as_ref), extent);
        }
        if outputs.is_empty() {
            return self.read_tile(encoder, rows, 0, &[], on_output);
        }
        for (i, tile) in outputs.chunks(HEAD_ROWS).enumerate() {
            let encoder = std::mem::replace(&mut encoder, gpu.encoder());
            self.read_tile(encoder, rows, i * HEAD_ROWS, tile, on_output)?;
        }
        Ok(())
    }

    /// Writes rows and page tables to the device.
    fn upload_rows(&mut self, rows: &[Row], page_tables: &[&[u32]]) -> Extent {
        let shape = &self.model.shape;
        assert!(
            !rows.is_empty() && rows.len() <= self.options.batch_tokens,
            "rows of a pass"
        );
        let mut tables_at = ROWS_AT + ROW_WORDS * rows.len();
        let starts: Vec<usize> = page_tables
            .iter()
            .map(|table| {
                let start = tables_at;
                tables_at += table.len();
                start
            })
            .collect();
        let last = rows
            .iter()
            .map(|row| row.position as usize)
            .max()
            .unwrap_or(0);
        assert!(last < shape.context_len, "positions of the context");
        let n_blocks = last / PAGE + 1;
        let row_bytes = partial_row_bytes(shape, n_blocks);
        let fit = Sizes::new(shape, self.options).partial / row_bytes;
        let extent = Extent {
            n_rows: rows.len(),
            n_blocks,
            rows_per_tile: fit.min(rows.len()),
        };
        self.rows.clear();
        let header = [extent.n_rows, n_blocks, extent.rows_per_tile, 0];
        self.rows.extend(header.map(|n| n as u32));
        for row in rows {
            assert!(
                (row.token as usize) < shape.vocab_size,
                "tokens of the vocabulary"
            );
            let table = page_tables[row.page_table];
            let page = table[row.position as usize / PAGE];
            assert!((page as usize) < self.options.n_pages, "pages of the cache");
            let start = starts[row.page_table] as u32;
            self.rows.extend([row.token, row.position, start]);
        }
        for table in page_tables {
            let is_page = |page: &&u32| (**page as usize) < self.options.n_pages;
            assert_eq!(
                table.iter().filter(is_page).count(),
                table.len(),
                "pages of the cache"
            );
            self.rows.extend(*table);
        }
        assert!(
            4 * self.rows.len() <= self.buffers.rows.size() as usize,
            "page tables of the context and the batch"
        );
        let gpu = &self.model.gpu;
        gpu.write(&self.buffers.rows, 0, bytemuck::cast_slice(&self.rows));
        gpu.write(&self.buffers.first_bad, 0, &u32::MAX.to_le_bytes());
        extent
    }

    /// Records the output matrix for at most [`HEAD_ROWS`] outputs, submits, and reads what
    /// is asked for; `first` is the index of the first output.
    fn read_tile(
        &mut self,
        mut encoder: wgpu::CommandEncoder,
        rows: &[Row],
        first: usize,
        outputs: &[Output],
        on_output: &mut dyn FnMut(usize, OutputValues<'_>),
    ) -> Result<(), PassError> {
        let model = Arc::clone(&self.model);
        let (gpu, shape, buffers) = (&model.gpu, &model.shape, &self.buffers);
        let layout = ReadLayout::new(shape, outputs);
        let n = outputs.len();
        if n > 0 {
            let mut words = vec![n as u32, 0, 0, 0];
            for output in outputs {
                assert!(output.row < rows.len(), "outputs of the rows");
                words.extend([output.row as u32, 0, 0]);
            }
            gpu.write(&buffers.head_rows, 0, bytemuck::cast_slice(&words));
            let extent = Extent {
                n_rows: n,
                n_blocks: 1,
                rows_per_tile: n,
            };
            record(&mut encoder, std::iter::once(&self.plan.head_norm), extent);
            if layout.logits.is_some() || layout.top.is_some() {
                record(&mut encoder, self.plan.head.iter(), extent);
            }
        }
        let to = &buffers.read_back;
        if let Some(at) = layout.hidden {
            let size = 4 * (n * shape.hidden_dim) as u64;
            encoder.copy_buffer_to_buffer(&buffers.hidden, 0, to, at as u64, size);
        }
        if let Some(at) = layout.logits {
            let size = 4 * (n * shape.vocab_size) as u64;
            encoder.copy_buffer_to_buffer(&buffers.logits, 0, to, at as u64, size);
        }
        if let Some((at, k)) = layout.top {
            let from = select(gpu, &mut encoder, &self.plan.top_k, buffers, shape, [n, k]);
            let (stride, size) = (8 * candidate_stride(shape) as u64, 8 * k as u64);
            for i in 0..n as u64 {
                let at = at as u64 + i * size;
                encoder.copy_buffer_to_buffer(from, i * stride, to, at, size);
            }
        }
        encoder.copy_buffer_to_buffer(&buffers.first_bad, 0, to, 0, 4);
        let submitted = gpu.submit(encoder);
        let top = &mut self.top;
        let place = gpu.read_back(submitted, to, layout.n_bytes, |bytes| {
            let code = bytemuck::cast_slice::<u8, u32>(&bytes[..4])[0];
            if code != u32::MAX {
                return Some(place_of(code, rows));
            }
            for (i, output) in outputs.iter().enumerate() {
                on_output(first + i, layout.values(shape, bytes, i, output.kind, top));
            }
            None
        })?;
        match place {
            Some(place) => Err(PassError::NotFinite { place }),
            None => Ok(()),
        }
    }

    /// Copies a page of all layers.
    ///
    /// # Errors
    ///
    /// Returns an error if the device failed.
    ///
    /// # Panics
    ///
    /// Panics if a page is out of range.
    pub fn copy_page(&mut self, from: u32, to: u32) -> Result<(), GpuError> {
        let gpu = &self.model.gpu;
        let mut encoder = gpu.encoder();
        for kv in &self.buffers.kv {
            for (buffer, bytes) in kv.iter().zip(page_bytes(&self.model.shape)) {
                let [from, to] = [from, to].map(|page| self.page_at(page, bytes));
                let page = &self.buffers.page;
                // A buffer cannot be copied to itself.
                encoder.copy_buffer_to_buffer(buffer, from, page, 0, bytes as u64);
                encoder.copy_buffer_to_buffer(page, 0, buffer, to, bytes as u64);
            }
        }
        gpu.submit(encoder);
        gpu.check()
    }

    /// Returns the bytes of a page of all layers.
    pub fn page_bytes(&self) -> usize {
        self.model.shape.layers.len() * page_bytes(&self.model.shape).iter().sum::<usize>()
    }

    /// Returns the contents of a page: for each layer, keys and then values, as
    /// `shaders/rope.wgsl` draws them.
    ///
    /// # Errors
    ///
    /// Returns an error if the device failed.
    ///
    /// # Panics
    ///
    /// Panics if the page is out of range.
    pub fn read_page(&mut self, page: u32) -> Result<Vec<u8>, GpuError> {
        let gpu = &self.model.gpu;
        let n_bytes = self.page_bytes();
        let read_back = gpu.buffer("a page to read", n_bytes, Usage::ReadBack)?;
        let mut encoder = gpu.encoder();
        let mut at = 0;
        for kv in &self.buffers.kv {
            for (buffer, bytes) in kv.iter().zip(page_bytes(&self.model.shape)) {
                let from = self.page_at(page, bytes);
                encoder.copy_buffer_to_buffer(buffer, from, &read_back, at, bytes as u64);
                at += bytes as u64;
            }
        }
        let submitted = gpu.submit(encoder);
        gpu.read_back(submitted, &read_back, n_bytes, <[u8]>::to_vec)
    }

    /// Replaces a page by contents that [`read_page`](Self::read_page) returned. They are not
    /// checked: any bytes are a page of some values.
    ///
    /// # Errors
    ///
    /// Returns an error if the device failed.
    ///
    /// # Panics
    ///
    /// Panics if the page is out of range, or the bytes are not those of a page.
    pub fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), GpuError> {
        assert_eq!(bytes.len(), self.page_bytes(), "the bytes of a page");
        let mut rest = bytes;
        for kv in &self.buffers.kv {
            for (buffer, n_bytes) in kv.iter().zip(page_bytes(&self.model.shape)) {
                let (part, after) = rest.split_at(n_bytes);
                let at = self.page_at(page, n_bytes) as usize;
                self.model.gpu.write(buffer, at, part);
                rest = after;
            }
        }
        self.model.gpu.check()
    }

    fn page_at(&self, page: u32, bytes: usize) -> u64 {
        assert!(
            (page as usize) < self.options.n_pages,
            "a page of the cache"
        );
        page as u64 * bytes as u64
    }
}

fn place_of(code: u32, rows: &[Row]) -> Place {
    match code.checked_sub(0x1_0000) {
        None => Place::Token(rows[code as usize].token),
        Some(_) if code == place_code(Place::Head) => Place::Head,
        Some(block) if block % 2 == 0 => Place::Attention(block as usize / 2),
        Some(block) => Place::FeedForward(block as usize / 2),
    }
}

/// Returns the logit of an ordered integer; see `shaders/top_k.wgsl`.
fn logit_of(key: u32) -> f32 {
    let bits = if key >> 31 == 1 {
        key & 0x7fff_ffff
    } else {
        !key
    };
    f32::from_bits(bits)
}

/// What is read back of a tile of outputs, and where: the report, then hidden states, logits
/// and selected logits.
#[derive(Clone, Copy, Debug)]
struct ReadLayout {
    hidden: Option<usize>,
    logits: Option<usize>,
    /// And how many of each row.
    top: Option<(usize, usize)>,
    n_bytes: usize,
}

impl ReadLayout {
    fn new(shape: &ModelShape, outputs: &[Output]) -> Self {
        let wanted = outputs.iter().filter_map(|output| match output.kind {
            OutputKind::Top(k) => Some(k.min(shape.vocab_size)),
            _ => None,
        });
        let k = wanted.max().unwrap_or(0);
        // Of more, the host selects.
        let selects = (1..=MAX_TOP_K).contains(&k);
        let is_hidden = |output: &Output| output.kind == OutputKind::Hidden;
        let is_full = |output: &Output| match output.kind {
            OutputKind::Logits => true,
            OutputKind::Top(_) => !selects,
            OutputKind::Hidden => false,
        };
        let mut n_bytes = 16;
        let mut place = |is_read: bool, width: usize| {
            let at = n_bytes;
            n_bytes += if is_read { outputs.len() * width } else { 0 };
            is_read.then_some(at)
        };
        Self {
            hidden: place(outputs.iter().any(is_hidden), 4 * shape.hidden_dim),
            logits: place(outputs.iter().any(is_full), 4 * shape.vocab_size),
            top: place(selects, 8 * k).map(|at| (at, k)),
            n_bytes,
        }
    }

    /// Returns the values of an output, those of [`OutputKind::Top`] in `top`.
    fn values<'a>(
        &self,
        shape: &ModelShape,
        bytes: &'a [u8],
        i: usize,
        kind: OutputKind,
        top: &'a mut Vec<(u32, f32)>,
    ) -> OutputValues<'a> {
        let row = |at: Option<usize>, width: usize| -> &'a [f32] {
            let at = at.expect("what an output needs is read") + 4 * i * width;
            bytemuck::cast_slice(&bytes[at..][..4 * width])
        };
        match (kind, self.top) {
            (OutputKind::Logits, _) => OutputValues::Values(row(self.logits, shape.vocab_size)),
            (OutputKind::Hidden, _) => OutputValues::Values(row(self.hidden, shape.hidden_dim)),
            (OutputKind::Top(wanted), Some((at, k))) => {
                let pairs = &bytes[at + 8 * i * k..][..8 * k];
                let pairs: &[[u32; 2]] = bytemuck::cast_slice(pairs);
                let decode = |[key, id]: &[u32; 2]| (*id, logit_of(*key));
                top.clear();
                top.extend(pairs.iter().take(wanted).map(decode));
                OutputValues::Top(top)
            }
            (OutputKind::Top(wanted), None) => {
                let logits = row(self.logits, shape.vocab_size);
                top.clear();
                // -0 becomes 0, as on the device.
                top.extend((0..).zip(logits.iter().map(|logit| *logit + 0.0)));
                top.sort_by(|(_, a), (_, b)| b.total_cmp(a));
                top.truncate(wanted);
                OutputValues::Top(top)
            }
        }
    }
}

/// Records the selection of the `k` largest logits of `n` rows; returns the buffer of the
/// result.
fn select<'a>(
    gpu: &Gpu,
    encoder: &mut wgpu::CommandEncoder,
    steps: &[Step; 3],
    buffers: &'a Buffers,
    shape: &ModelShape,
    [n, k]: [usize; 2],
) -> &'a wgpu::Buffer {
    let mut stages = vec![shape.vocab_size];
    while let Some(last) = stages.last()
        && *last > TOP_K_TILE
    {
        stages.push(last.div_ceil(TOP_K_TILE) * k);
    }
    let mut words = vec![0; stages.len() * ENTRY_WORDS];
    for (i, n_in) in stages.iter().enumerate() {
        words[i * ENTRY_WORDS] = *n_in as u32;
        words[i * ENTRY_WORDS + 1] = k as u32;
    }
    gpu.write(&buffers.counts, 0, bytemuck::cast_slice(&words));
    for (i, n_in) in stages.iter().enumerate() {
        // The first stage writes the first buffer, the second the second, and so on.
        let step = &steps[if i == 0 { 0 } else { 2 - i % 2 }];
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(step.kernels.any().pipeline());
        pass.set_bind_group(0, &step.group, &[(4 * i * ENTRY_WORDS) as u32]);
        pass.dispatch_workgroups(n_in.div_ceil(TOP_K_TILE) as u32, n as u32, 1);
    }
    &buffers.candidates[(stages.len() - 1) % 2]
}
