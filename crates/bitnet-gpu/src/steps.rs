//! What a pass dispatches: kernels, their parameters and their buffers, made once.
//!
//! Dispatches of a layer, for a pass of one row and of more (a dash: none):
//!
//! ```text
//!                                                     one row            more rows
//! h = norm(x), quantized                              -                  norm_quantize
//! q, k, v = W·h                                       linear_fused       linear_ternary
//! rotate, store keys and values                       rope               rope
//! attention to each block of 128 positions            attention          attention
//! attention                                           attention_merge    attention_merge
//! sub_norm(a), quantized                              -                  norm_quantize
//! x += W_o·…                                          linear_fused       linear_ternary
//! h = norm(x), quantized                              -                  norm_quantize
//! g = act(W_gate·h) ⊙ W_up·h                          linear_fused       linear_ternary
//! sub_norm(g), quantized                              -                  norm_quantize
//! x += W_down·…                                       linear_fused       linear_ternary
//! ```
//!
//! From 32 rows on, `linear_tiled` takes the place of `linear_ternary`. It, and one row in
//! `linear_fused`, are not for every model: `linear_groups` computes those with group scales.
//!
//! Post-norms add a dispatch (`add_normalized`) after W_o and W_down; input norms of every
//! linear layer separate what otherwise shares its input.
//!
//! Kernels, bind groups and parameters are made once. A command buffer of wgpu can be
//! submitted only once, so each pass records its dispatches again.

use std::sync::Arc;

use crate::buffers::{
    Buffers, ENTRY_WORDS, HEAD_ROWS, SessionOptions, candidate_stride, n_parts, qkv_at, qkv_stride,
};
use crate::error::GpuError;
use crate::kernels::{Binding, Kernel, Source};
use crate::layout::{PANEL_ROWS, TERNARY_COLS};
use crate::model::{
    Fused, GpuModel, Table, TableLayout, first_panel, heads_per_group, norm_at, output_norm_at,
    part_panels,
};
use crate::shape::{
    Activation, EmbeddingEncoding, HeadKind, InputNorms, ModelShape, Norm, Part, Place,
};

/// The index of a kernel parameter that is not there.
pub(crate) const NONE: u32 = u32::MAX;

/// Everything that is dispatched, in order.
#[derive(Debug)]
pub(crate) struct DispatchPlan {
    pub(crate) embed: Vec<Step>,
    pub(crate) layers: Vec<LayerSteps>,
    pub(crate) head_norm: Step,
    pub(crate) head: Vec<Step>,
    /// The first stage, and the others in turn.
    pub(crate) top_k: [Step; 3],
}

#[derive(Debug)]
pub(crate) struct LayerSteps {
    /// For passes of one row.
    pub(crate) one: Vec<Arc<Step>>,
    pub(crate) more: Vec<Arc<Step>>,
}

impl LayerSteps {
    /// Adds a step of all passes.
    fn push(&mut self, step: Step) {
        let step = Arc::new(step);
        self.one.push(Arc::clone(&step));
        self.more.push(step);
    }
}

#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) kernels: Kernels,
    pub(crate) group: wgpu::BindGroup,
    pub(crate) grid: Grid,
}

/// A kernel, in variants by the number of rows that a workgroup computes.
#[derive(Clone, Debug)]
pub(crate) struct Kernels(Arc<Vec<Variant>>);

/// A kernel, and what a workgroup of it computes.
#[derive(Debug)]
struct Variant {
    /// The fewest rows of a pass that it is for.
    from_rows: usize,
    tokens: usize,
    panels: usize,
    kernel: Kernel,
}

impl Kernels {
    /// A kernel of one variant.
    pub(crate) fn single(kernel: Kernel) -> Self {
        Self(Arc::new(vec![Variant {
            from_rows: 0,
            tokens: 1,
            panels: 1,
            kernel,
        }]))
    }

    /// Returns any variant: all have the same bindings.
    pub(crate) fn any(&self) -> &Kernel {
        &self.0[0].kernel
    }

    /// Returns the variant for a number of rows.
    fn of(&self, n_rows: usize) -> &Variant {
        let is_for = |variant: &&Variant| variant.from_rows <= n_rows;
        let mut variants = self.0.iter().rev();
        variants.find(is_for).expect("the first is for any number")
    }
}

/// The workgroups of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Grid {
    /// Rows × this many.
    Rows(usize),
    /// This many panels × tiles of rows.
    Panels(usize),
    /// Rows of a tile × this many × blocks, for each tile.
    Blocks(usize),
    /// Rows of a tile × this many, for each tile.
    Merge(usize),
    /// Tiles of candidates × rows.
    TopK,
}

/// The sizes of a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) n_rows: usize,
    pub(crate) n_blocks: usize,
    pub(crate) rows_per_tile: usize,
}

/// Records steps.
pub(crate) fn record<'a>(
    encoder: &mut wgpu::CommandEncoder,
    steps: impl Iterator<Item = &'a Step>,
    extent: Extent,
) {
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    for step in steps {
        let Extent {
            n_rows,
            n_blocks,
            rows_per_tile,
        } = extent;
        let variant = step.kernels.of(n_rows);
        pass.set_pipeline(variant.kernel.pipeline());
        let mut dispatch = |offsets: &[u32], [x, y, z]: [usize; 3]| {
            pass.set_bind_group(0, &step.group, offsets);
            pass.dispatch_workgroups(x as u32, y as u32, z as u32);
        };
        let mut tiles = |y: usize, z: usize| {
            for tile in 0..n_rows.div_ceil(rows_per_tile) {
                let x = rows_per_tile.min(n_rows - tile * rows_per_tile);
                dispatch(&[(4 * tile * ENTRY_WORDS) as u32], [x, y, z]);
            }
        };
        match step.grid {
            Grid::Rows(y) => dispatch(&[], [n_rows, y, 1]),
            Grid::Panels(n) => {
                let x = n.div_ceil(variant.panels);
                dispatch(&[], [x, n_rows.div_ceil(variant.tokens), 1]);
            }
            Grid::Blocks(y) => tiles(y, n_blocks),
            Grid::Merge(y) => tiles(y, 1),
            Grid::TopK => unreachable!("recorded by `select`"),
        }
    }
}

/// The number of a place that the kernels report.
pub(crate) fn place_code(place: Place) -> u32 {
    match place {
        Place::Token(row) => row,
        Place::Attention(layer) => 0x1_0000 + 2 * layer as u32,
        Place::FeedForward(layer) => 0x1_0001 + 2 * layer as u32,
        Place::Head => 0x7fff_0000,
    }
}

/// Rows of a pass from which on linear layers are computed in tiles of 64 rows: half a tile.
const TILED_ROWS: usize = 32;

/// What follows the product of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    Store,
    Add,
    Gate,
}

/// The parameters of `linear.wgsl`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinearParams {
    pub(crate) n_cols: usize,
    pub(crate) first: u32,
    pub(crate) second: u32,
    pub(crate) eps: f32,
    pub(crate) norm_place: u32,
    pub(crate) act_row: usize,
    pub(crate) second_act_row: usize,
    pub(crate) n_chunks: usize,
    pub(crate) first_panel: usize,
    pub(crate) second_panel: usize,
    pub(crate) n_rows: usize,
    pub(crate) scale_at: usize,
    pub(crate) out_stride: usize,
    pub(crate) out_offset: usize,
    pub(crate) factor: f32,
    pub(crate) place: u32,
}

impl LinearParams {
    pub(crate) fn words(self) -> [u32; 18] {
        [
            0,
            self.n_cols as u32,
            self.first,
            self.second,
            self.eps.to_bits(),
            self.norm_place,
            self.act_row as u32,
            self.second_act_row as u32,
            ModelShape::act_stride(self.n_cols) as u32,
            self.n_chunks as u32,
            self.first_panel as u32,
            self.second_panel as u32,
            self.n_rows as u32,
            self.scale_at as u32,
            self.out_stride as u32,
            self.out_offset as u32,
            self.factor.to_bits(),
            self.place,
        ]
    }
}

/// The input of a linear layer: a buffer, and up to two norms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    pub(crate) values: &'a wgpu::Buffer,
    pub(crate) n_cols: usize,
    pub(crate) first: u32,
    pub(crate) second: u32,
    /// The place of values that are not finite in the sum of squares.
    pub(crate) place: Place,
}

/// A linear layer of the plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear<'a> {
    layer: usize,
    input: Input<'a>,
    fused: Fused,
    tail: Tail,
    out: &'a wgpu::Buffer,
    n_panels: usize,
    /// Without those of the input and of the matrix.
    params: LinearParams,
}

/// Returns the kernel of ternary linear layers of quantized rows.
fn ternary_source(shape: &ModelShape) -> Source {
    match shape.scale_group {
        Some(_) => Source::LinearGroups,
        None => Source::LinearTernary,
    }
}

/// Makes the steps of all passes.
pub(crate) struct Planner<'a> {
    pub(crate) model: &'a GpuModel,
    pub(crate) buffers: &'a Buffers,
    pub(crate) batch_tokens: usize,
    pub(crate) tiles: wgpu::Buffer,
    pub(crate) norm_quantize: Kernels,
    pub(crate) rope: Kernels,
    pub(crate) attention: Kernels,
    pub(crate) merge: Kernels,
    pub(crate) add_normalized: Option<Kernels>,
    /// Compiled so far.
    pub(crate) linear: Vec<(LinearKey, Kernels)>,
}

/// A variant of a linear kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinearKey {
    pub(crate) source: Source,
    pub(crate) tail: Tail,
    /// Of a kernel that quantizes its input; else 0.
    pub(crate) act_stride: usize,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(
        model: &'a GpuModel,
        buffers: &'a Buffers,
        options: SessionOptions,
    ) -> Result<Self, GpuError> {
        let (gpu, shape) = (&model.gpu, &model.shape);
        let single = |source: Source, constants: &[(&str, u32)]| {
            let kernel = gpu.kernel(&source.kernel(), constants)?;
            Ok::<_, GpuError>(Kernels::single(kernel))
        };
        let head_dim = ("HEAD_DIM", shape.head_dim as u32);
        let heads = ("HEADS", heads_per_group(gpu, shape) as u32);
        let tiles: Vec<u32> = (0..options.batch_tokens)
            .flat_map(|tile| (0..ENTRY_WORDS).map(move |i| if i == 0 { tile as u32 } else { 0 }))
            .collect();
        Ok(Self {
            model,
            buffers,
            batch_tokens: options.batch_tokens,
            tiles: gpu.uniform(&tiles),
            norm_quantize: single(Source::NormQuantize, &[("PARTS", n_parts(shape) as u32)])?,
            rope: single(Source::Rope, &[head_dim])?,
            attention: single(Source::Attention, &[head_dim, heads])?,
            merge: single(Source::AttentionMerge, &[head_dim])?,
            add_normalized: if shape.post_norms {
                Some(single(Source::AddNormalized, &[("PARTS", 1)])?)
            } else {
                None
            },
            linear: Vec::new(),
        })
    }

    pub(crate) fn plan(mut self) -> Result<DispatchPlan, GpuError> {
        let embed = self.embed()?;
        let n_layers = self.model.shape.layers.len();
        let layers = (0..n_layers)
            .map(|layer| self.layer(layer))
            .collect::<Result<_, _>>()?;
        Ok(DispatchPlan {
            embed,
            layers,
            head_norm: self.head_norm(),
            head: self.head()?,
            top_k: self.top_k()?,
        })
    }

    fn shape(&self) -> &'a ModelShape {
        &self.model.shape
    }

    fn step(
        &self,
        kernels: &Kernels,
        grid: Grid,
        params: &[u32],
        buffers: &[&wgpu::Buffer],
    ) -> Step {
        self.step_with(kernels, grid, params, buffers, None)
    }

    /// Makes a step whose bindings are its parameters, buffers and, if given, uniforms with an
    /// offset.
    fn step_with(
        &self,
        kernels: &Kernels,
        grid: Grid,
        params: &[u32],
        buffers: &[&wgpu::Buffer],
        entries: Option<&wgpu::Buffer>,
    ) -> Step {
        let gpu = &self.model.gpu;
        let params = gpu.uniform(params);
        let bindings: Vec<Binding<'_>> = std::iter::once(Binding::all(&params))
            .chain(buffers.iter().map(|buffer| Binding::all(buffer)))
            .chain(entries.map(Binding::entry))
            .collect();
        Step {
            group: gpu.bind(kernels.any(), &bindings),
            kernels: kernels.clone(),
            grid,
        }
    }

    fn embed(&self) -> Result<Vec<Step>, GpuError> {
        let (gpu, shape, buffers) = (&self.model.gpu, self.shape(), self.buffers);
        let table = &self.model.embedding;
        let encoding = match shape.embedding {
            EmbeddingEncoding::F32 => Some(0),
            EmbeddingEncoding::F16 => Some(1),
            EmbeddingEncoding::Bf16 => Some(2),
            EmbeddingEncoding::Ternary => None,
        };
        let kernel = if let Some(encoding) = encoding {
            gpu.kernel(&Source::Embed.kernel(), &[("ENCODING", encoding)])?
        } else {
            let len = shape.scale_group.unwrap_or(shape.hidden_dim);
            let constants = [("GROUP_CHUNKS", len.div_ceil(TERNARY_COLS) as u32)];
            gpu.kernel(&Source::EmbedTernary.kernel(), &constants)?
        };
        let kernels = Kernels::single(kernel);
        let stride = match TableLayout::embedding(shape) {
            TableLayout::Dense { row_words } => row_words,
            TableLayout::Panels(panels) => panels.n_chunks,
        };
        let steps = table.pieces.iter().map(|piece| {
            let params = [
                0,
                shape.hidden_dim as u32,
                stride as u32,
                piece.first_row as u32,
                piece.n_rows as u32,
                shape.multipliers.embedding.to_bits(),
            ];
            let mut bound = vec![&buffers.rows, &piece.buffer];
            bound.extend(&table.scales);
            bound.extend([&buffers.x, &buffers.first_bad]);
            self.step(&kernels, Grid::Rows(1), &params, &bound)
        });
        Ok(steps.collect())
    }

    fn layer(&mut self, layer: usize) -> Result<LayerSteps, GpuError> {
        let mut steps = LayerSteps {
            one: Vec::new(),
            more: Vec::new(),
        };
        self.attention_block(&mut steps, layer)?;
        self.ffn_block(&mut steps, layer)?;
        Ok(steps)
    }

    /// Returns the first weight of a norm of a layer, or [`NONE`].
    fn norm(&self, layer: usize, norm: Norm) -> u32 {
        norm_at(self.shape(), layer, norm).map_or(NONE, |(at, _)| at as u32)
    }

    /// Returns the input of a linear layer from the residual stream; `before` is the place
    /// that was computed last.
    fn block_input(&self, layer: usize, norm: Norm, part: Part, before: Place) -> Input<'a> {
        Input {
            values: &self.buffers.x,
            n_cols: self.shape().hidden_dim,
            first: self.norm(layer, norm),
            second: self.norm(layer, Norm::Input(part)),
            place: before,
        }
    }

    fn attention_block(&mut self, steps: &mut LayerSteps, layer: usize) -> Result<(), GpuError> {
        let (shape, buffers) = (self.shape(), self.buffers);
        let place = Place::Attention(layer);
        let before = layer.checked_sub(1).map_or(place, Place::FeedForward);
        let separate: &[&[Part]] = match shape.input_norms {
            InputNorms::All => &[&[Part::Query], &[Part::Key], &[Part::Value]],
            _ => &[&[Part::Query, Part::Key, Part::Value]],
        };
        for parts in separate {
            let n_panels = parts
                .iter()
                .map(|part| part_panels(shape, *part).n_panels());
            let n_panels = n_panels.sum::<usize>();
            let first = first_panel(shape, parts[0]);
            let linear = Linear {
                layer,
                input: self.block_input(layer, Norm::Attention, parts[0], before),
                fused: Fused::Qkv,
                tail: Tail::Store,
                out: &buffers.qkv,
                n_panels,
                params: LinearParams {
                    first_panel: first,
                    scale_at: first * PANEL_ROWS * shape.n_groups(shape.hidden_dim),
                    n_rows: n_panels * PANEL_ROWS,
                    out_stride: qkv_stride(shape),
                    out_offset: first * PANEL_ROWS,
                    factor: 1.0,
                    place: place_code(place),
                    ..LinearParams::default()
                },
            };
            self.linear(steps, linear)?;
        }
        steps.push(self.rope_step(layer));
        for step in self.attention_steps(layer) {
            steps.push(step);
        }
        let input = Input {
            values: &buffers.attn,
            n_cols: shape.q_dim(),
            first: NONE,
            second: self.norm(layer, Norm::Input(Part::Output)),
            place,
        };
        self.branch(steps, layer, input, Fused::Output)
    }

    /// Attention to each block, and the merge of the blocks.
    fn attention_steps(&self, layer: usize) -> [Step; 2] {
        let (shape, buffers) = (self.shape(), self.buffers);
        let window = shape.layers[layer].window.unwrap_or(0) as u32;
        let group = shape.n_heads / shape.n_kv_heads;
        let params = [
            0,
            shape.n_heads as u32,
            shape.n_kv_heads as u32,
            group as u32,
            qkv_stride(shape) as u32,
            shape.multipliers.attention.to_bits(),
            window,
        ];
        let [keys, values] = &buffers.kv[layer];
        let head_tiles = group.div_ceil(heads_per_group(&self.model.gpu, shape));
        let blocks = self.step_with(
            &self.attention,
            Grid::Blocks(shape.n_kv_heads * head_tiles),
            &params,
            &[&buffers.rows, &buffers.qkv, keys, values, &buffers.partial],
            Some(&self.tiles),
        );
        let place = place_code(Place::Attention(layer));
        let params = [0, shape.n_heads as u32, window, place];
        let bound = [
            &buffers.rows,
            &buffers.partial,
            &buffers.attn,
            &buffers.first_bad,
        ];
        let grid = Grid::Merge(shape.n_heads);
        let merge = self.step_with(&self.merge, grid, &params, &bound, Some(&self.tiles));
        [blocks, merge]
    }

    fn ffn_block(&mut self, steps: &mut LayerSteps, layer: usize) -> Result<(), GpuError> {
        let (shape, buffers) = (self.shape(), self.buffers);
        let (before, place) = (Place::Attention(layer), Place::FeedForward(layer));
        let n_panels = part_panels(shape, Part::Gate).n_panels();
        let mut linear = Linear {
            layer,
            input: self.block_input(layer, Norm::FeedForward, Part::Gate, before),
            fused: Fused::GateUp,
            tail: Tail::Gate,
            out: &buffers.gated,
            n_panels,
            params: LinearParams {
                second_panel: n_panels,
                n_rows: shape.ffn_dim,
                out_stride: shape.ffn_dim,
                factor: 1.0,
                place: place_code(place),
                ..LinearParams::default()
            },
        };
        if shape.input_norms == InputNorms::All {
            // The two have different inputs.
            let up = self.block_input(layer, Norm::FeedForward, Part::Up, before);
            let up_row = self.batch_tokens.max(HEAD_ROWS);
            linear.params.second_act_row = up_row;
            steps.push(self.quantize(linear.input, 0));
            steps.push(self.quantize(up, up_row));
            steps.push(self.quantized_linear(&linear)?);
        } else {
            self.linear(steps, linear)?;
        }
        let input = Input {
            values: &buffers.gated,
            n_cols: shape.ffn_dim,
            first: NONE,
            second: self.norm(layer, Norm::Input(Part::Down)),
            place,
        };
        self.branch(steps, layer, input, Fused::Down)
    }

    /// Adds the steps of the linear layer whose output is added to the residual stream.
    fn branch(
        &mut self,
        steps: &mut LayerSteps,
        layer: usize,
        input: Input<'a>,
        fused: Fused,
    ) -> Result<(), GpuError> {
        let (shape, buffers) = (self.shape(), self.buffers);
        let (place, post_norm) = match fused {
            Fused::Output => (Place::Attention(layer), Norm::PostAttention),
            _ => (Place::FeedForward(layer), Norm::PostFeedForward),
        };
        let residual = shape.multipliers.residual;
        let mut linear = Linear {
            layer,
            input,
            fused,
            tail: Tail::Add,
            out: &buffers.x,
            n_panels: shape.hidden_dim.div_ceil(PANEL_ROWS),
            params: LinearParams {
                n_rows: shape.hidden_dim,
                out_stride: shape.hidden_dim,
                factor: residual,
                place: place_code(place),
                ..LinearParams::default()
            },
        };
        let (Some(branch), Some(kernels)) = (&buffers.branch, self.add_normalized.clone()) else {
            return self.linear(steps, linear);
        };
        (linear.tail, linear.out, linear.params.factor) = (Tail::Store, branch, 1.0);
        self.linear(steps, linear)?;
        let params = [
            0,
            shape.hidden_dim as u32,
            self.norm(layer, post_norm),
            shape.rms_norm_eps.to_bits(),
            residual.to_bits(),
            place_code(place),
            0,
        ];
        let bound = [branch, &self.model.norms, &buffers.x, &buffers.first_bad];
        steps.push(self.step(&kernels, Grid::Rows(1), &params, &bound));
        Ok(())
    }

    /// Adds the steps of a linear layer: for one row, a single one if the memory of a
    /// workgroup holds the quantized row.
    fn linear(&mut self, steps: &mut LayerSteps, linear: Linear<'a>) -> Result<(), GpuError> {
        let quantize = Arc::new(self.quantize(linear.input, 0));
        let quantized = Arc::new(self.quantized_linear(&linear)?);
        let more = [Arc::clone(&quantize), Arc::clone(&quantized)];
        steps.more.extend(more);
        match self.fused_linear(&linear)? {
            Some(fused) => steps.one.push(Arc::new(fused)),
            None => steps.one.extend([quantize, quantized]),
        }
        Ok(())
    }

    fn quantize(&self, input: Input<'_>, act_row: usize) -> Step {
        let params = self.quantize_params(input, act_row, [0, 0]);
        self.quantize_step(input, &params, &self.buffers.rows)
    }

    /// Returns the parameters of `norm_quantize.wgsl`.
    fn quantize_params(
        &self,
        input: Input<'_>,
        act_row: usize,
        [mapped, out_stride]: [u32; 2],
    ) -> [u32; 10] {
        [
            0,
            input.n_cols as u32,
            input.first,
            input.second,
            self.shape().rms_norm_eps.to_bits(),
            place_code(input.place),
            mapped,
            act_row as u32,
            ModelShape::act_stride(input.n_cols) as u32,
            out_stride,
        ]
    }

    fn quantize_step(&self, input: Input<'_>, params: &[u32], rows: &wgpu::Buffer) -> Step {
        let buffers = self.buffers;
        let bound = [
            rows,
            input.values,
            &self.model.norms,
            &buffers.acts,
            &buffers.stats,
            &buffers.hidden,
            &buffers.first_bad,
        ];
        self.step(&self.norm_quantize, Grid::Rows(1), params, &bound)
    }

    /// A linear layer of rows that were quantized.
    fn quantized_linear(&mut self, linear: &Linear<'_>) -> Result<Step, GpuError> {
        let kernels = self.linear_kernels(LinearKey {
            source: ternary_source(self.shape()),
            tail: linear.tail,
            act_stride: 0,
        })?;
        let params = LinearParams {
            n_cols: linear.input.n_cols,
            n_chunks: linear.fused.panels(self.shape()).n_chunks,
            ..linear.params
        };
        let matrix = &self.model.layers[linear.layer].matrices[linear.fused as usize];
        let buffers = self.buffers;
        let bound = [
            &buffers.rows,
            &matrix.weights,
            &matrix.scales,
            &buffers.acts,
            &buffers.stats,
            linear.out,
            &buffers.first_bad,
        ];
        let grid = Grid::Panels(linear.n_panels);
        Ok(self.step(&kernels, grid, &params.words(), &bound))
    }

    /// A linear layer that quantizes its input, of one row; `None` if the memory of a
    /// workgroup is too small, or weights have group scales.
    fn fused_linear(&mut self, linear: &Linear<'_>) -> Result<Option<Step>, GpuError> {
        let (shape, input) = (self.shape(), linear.input);
        let act_stride = ModelShape::act_stride(input.n_cols);
        let n_sums = n_parts(shape) * if linear.tail == Tail::Gate { 2 } else { 1 };
        // What `norm.wgsl`, `linear.wgsl` and `linear_fused.wgsl` share in a workgroup.
        let bytes = 4 * (1024 + 32 + 256 + 16) + 4 * 256 * n_sums + 4 * n_parts(shape) * act_stride;
        if bytes > self.model.gpu.workgroup_bytes() || shape.scale_group.is_some() {
            return Ok(None);
        }
        let kernels = self.linear_kernels(LinearKey {
            source: Source::LinearFused,
            tail: linear.tail,
            act_stride,
        })?;
        let params = LinearParams {
            n_cols: input.n_cols,
            first: input.first,
            second: input.second,
            eps: shape.rms_norm_eps,
            norm_place: place_code(input.place),
            n_chunks: linear.fused.panels(shape).n_chunks,
            ..linear.params
        };
        let matrix = &self.model.layers[linear.layer].matrices[linear.fused as usize];
        let bound = [
            &matrix.weights,
            &matrix.scales,
            input.values,
            &self.model.norms,
            linear.out,
            &self.buffers.first_bad,
        ];
        let grid = Grid::Panels(linear.n_panels);
        Ok(Some(self.step(&kernels, grid, &params.words(), &bound)))
    }

    /// Returns the variants of a linear kernel, and compiles them if they are new.
    fn linear_kernels(&mut self, key: LinearKey) -> Result<Kernels, GpuError> {
        if let Some((_, kernels)) = self.linear.iter().find(|(other, _)| *other == key) {
            return Ok(kernels.clone());
        }
        let shape = self.shape();
        let panels = if key.tail == Tail::Gate { 2 } else { 1 };
        let parts = n_parts(shape);
        let activation = match shape.activation {
            Activation::Relu2 => 0,
            Activation::Silu => 1,
            Activation::GeluTanh => 2,
        };
        // The partial sums take 1 KiB for each row, part and panel, of 16 KiB.
        let most = match key.source {
            Source::LinearFused | Source::LinearGroups => 1,
            _ => 16 / (parts * panels),
        };
        let compile = |source: Source, tokens: usize| {
            let mut constants = vec![
                ("TOKENS", tokens as u32),
                ("PARTS", parts as u32),
                ("PANELS", panels as u32),
                ("TAIL", key.tail as u32),
                ("ACTIVATION", activation),
            ];
            if let Some(len) = shape.scale_group {
                constants.push(("GROUP_CHUNKS", (len / TERNARY_COLS) as u32));
            }
            if source == Source::LinearFused {
                constants.push(("ACT_STRIDE", key.act_stride as u32));
            }
            self.model.gpu.kernel(&source.kernel(), &constants)
        };
        let mut variants = Vec::new();
        for tokens in [1, 2, 4, 8].into_iter().filter(|tokens| *tokens <= most) {
            variants.push(Variant {
                from_rows: tokens / 2 + 1,
                tokens,
                panels: 1,
                kernel: compile(key.source, tokens)?,
            });
        }
        // The tiled kernel takes one row of activations for both panels.
        let is_tiled = key.source == Source::LinearTernary
            && parts == 1
            && shape.input_norms != InputNorms::All;
        if is_tiled && self.batch_tokens >= TILED_ROWS {
            variants.push(Variant {
                from_rows: TILED_ROWS,
                tokens: 64,
                panels: 4 / panels,
                kernel: compile(Source::LinearTiled, 64)?,
            });
        }
        let kernels = Kernels(Arc::new(variants));
        self.linear.push((key, kernels.clone()));
        Ok(kernels)
    }

    fn rope_step(&self, layer: usize) -> Step {
        let (shape, buffers) = (self.shape(), self.buffers);
        let table = shape.layers[layer].rope;
        let params = [
            0,
            shape.rms_norm_eps.to_bits(),
            shape.n_heads as u32,
            shape.n_kv_heads as u32,
            qkv_at(shape, Part::Key) as u32,
            qkv_at(shape, Part::Value) as u32,
            qkv_stride(shape) as u32,
            shape.rope_dims[table] as u32 / 2,
            self.norm(layer, Norm::Query),
            self.norm(layer, Norm::Key),
            place_code(Place::Attention(layer)),
        ];
        let [keys, values] = &buffers.kv[layer];
        let bound = [
            &buffers.rows,
            &buffers.qkv,
            &self.model.ropes[table],
            &self.model.norms,
            keys,
            values,
            &buffers.first_bad,
        ];
        let n_heads = shape.n_heads + 2 * shape.n_kv_heads;
        self.step(&self.rope, Grid::Rows(n_heads), &params, &bound)
    }

    /// The norm before the output matrix, of the rows of outputs; also stores the hidden
    /// states.
    fn head_norm(&self) -> Step {
        let shape = self.shape();
        let input = Input {
            values: &self.buffers.x,
            n_cols: shape.hidden_dim,
            first: output_norm_at(shape) as u32,
            second: NONE,
            place: Place::Head,
        };
        let params = self.quantize_params(input, 0, [1, shape.hidden_dim as u32]);
        self.quantize_step(input, &params, &self.buffers.head_rows)
    }

    fn head(&mut self) -> Result<Vec<Step>, GpuError> {
        let (shape, buffers) = (self.shape(), self.buffers);
        let table: &Table = self.model.head.as_ref().unwrap_or(&self.model.embedding);
        let layout = TableLayout::head(shape).unwrap_or(TableLayout::embedding(shape));
        let TableLayout::Panels(panels) = layout else {
            unreachable!("an output matrix is in panels");
        };
        let kernels = self.linear_kernels(LinearKey {
            source: match shape.head {
                HeadKind::Int8 => Source::LinearInt8,
                HeadKind::Ternary | HeadKind::TiedTernary => ternary_source(shape),
            },
            tail: Tail::Store,
            act_stride: 0,
        })?;
        let scales = table.scales.as_ref().expect("panels have scales");
        let steps = table.pieces.iter().map(|piece| {
            let params = LinearParams {
                n_cols: shape.hidden_dim,
                n_chunks: panels.n_chunks,
                n_rows: piece.n_rows,
                scale_at: piece.first_row * panels.n_groups,
                out_stride: shape.vocab_size,
                out_offset: piece.first_row,
                factor: shape.multipliers.logits,
                place: place_code(Place::Head),
                ..LinearParams::default()
            };
            let bound = [
                &buffers.head_rows,
                &piece.buffer,
                scales,
                &buffers.acts,
                &buffers.stats,
                &buffers.logits,
                &buffers.first_bad,
            ];
            let grid = Grid::Panels(piece.n_rows.div_ceil(PANEL_ROWS));
            self.step(&kernels, grid, &params.words(), &bound)
        });
        Ok(steps.collect())
    }

    fn top_k(&self) -> Result<[Step; 3], GpuError> {
        let (gpu, shape, buffers) = (&self.model.gpu, self.shape(), self.buffers);
        let kernel = gpu.kernel(&Source::TopK.kernel(), &[])?;
        let kernels = Kernels::single(kernel);
        let stride = candidate_stride(shape) as u32;
        let [a, b] = &buffers.candidates;
        let stage = |is_first: u32, in_stride: u32, [from, to]: [&wgpu::Buffer; 2]| {
            let params = [0, is_first, in_stride, stride];
            let bound = [&buffers.logits, from, to];
            self.step_with(&kernels, Grid::TopK, &params, &bound, Some(&buffers.counts))
        };
        Ok([
            stage(1, shape.vocab_size as u32, [b, a]),
            stage(0, stride, [a, b]),
            stage(0, stride, [b, a]),
        ])
    }
}
