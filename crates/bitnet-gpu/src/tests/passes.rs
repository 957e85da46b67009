//! Whole passes: against a plain computation on the CPU, and against themselves in other
//! batches and cuts.

use std::sync::Arc;

use bitnet_core::memory::Category;
use bitnet_core::ops::{self, RopeTable as CpuRope};
use bitnet_core::{
    AttentionExtents, AttentionScratch, ComputeContext, Heads, HybridMemoryPool, Int8Rows, Isa,
    KeyValue, KvPrecision, KvShape, OutOfMemory, PackedInt8, PackedTernary, PagedKv, Queries,
    RowPosition, Scales, Shape, TernaryLayout, TernarySpec, ThreadPool, attention,
};

use super::{Random, device};
use crate::model::norm_at;
use crate::{
    Activation, ActivationPrecision, EmbeddingEncoding, Gpu, GpuModel, HeadKind, InputNorms,
    LayerShape, ModelLoader, ModelShape, Multipliers, Norm, Output, OutputKind, OutputValues, Part,
    PassError, Place, RopeTable, Row, Session, SessionOptions,
};

const ISA: Isa = Isa::Scalar;

/// A small model with everything that BitNet b1.58 2B-4T has: sub-norms, ReLU², tied
/// embeddings in f16, an int8 output matrix.
pub(super) fn shape() -> ModelShape {
    ModelShape {
        hidden_dim: 96,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 16,
        ffn_dim: 200,
        vocab_size: 2500,
        rms_norm_eps: 1e-5,
        activation: Activation::Relu2,
        activations: ActivationPrecision::Int8,
        multipliers: Multipliers {
            embedding: 1.0,
            residual: 1.0,
            // So that several positions have weight in the softmax.
            attention: 0.02,
            logits: 1.0,
        },
        input_norms: InputNorms::Sub,
        qk_norms: false,
        post_norms: false,
        scale_group: None,
        embedding: EmbeddingEncoding::F16,
        head: HeadKind::Int8,
        layers: vec![
            LayerShape {
                window: None,
                rope: 0,
            };
            2
        ],
        rope_dims: vec![16],
        context_len: 400,
    }
}

/// Shapes that together have everything that model families differ in.
fn shapes() -> Vec<(&'static str, ModelShape)> {
    let base = shape();
    let with_window = |rope| LayerShape {
        window: Some(40),
        rope,
    };
    vec![
        ("bitnet-b1.58", base.clone()),
        (
            "qwen3, ternary vocabulary, exact activations",
            ModelShape {
                activation: Activation::Silu,
                activations: ActivationPrecision::Exact,
                input_norms: InputNorms::None,
                qk_norms: true,
                embedding: EmbeddingEncoding::Ternary,
                head: HeadKind::TiedTernary,
                ..base.clone()
            },
        ),
        (
            "gemma3, a norm for each projection",
            ModelShape {
                n_heads: 3,
                n_kv_heads: 1,
                head_dim: 20,
                activation: Activation::GeluTanh,
                input_norms: InputNorms::All,
                qk_norms: true,
                post_norms: true,
                embedding: EmbeddingEncoding::F32,
                multipliers: Multipliers {
                    embedding: 9.8,
                    ..base.multipliers
                },
                layers: vec![with_window(1), with_window(1), base.layers[0]],
                rope_dims: vec![20, 12],
                ..base.clone()
            },
        ),
        (
            "qwen3, group scales, exact activations",
            ModelShape {
                hidden_dim: 128,
                n_heads: 4,
                n_kv_heads: 2,
                head_dim: 32,
                ffn_dim: 192,
                activation: Activation::Silu,
                activations: ActivationPrecision::Exact,
                input_norms: InputNorms::None,
                qk_norms: true,
                scale_group: Some(64),
                embedding: EmbeddingEncoding::Ternary,
                head: HeadKind::TiedTernary,
                ..base.clone()
            },
        ),
        (
            "minicpm",
            ModelShape {
                hidden_dim: 65,
                activation: Activation::Silu,
                input_norms: InputNorms::None,
                embedding: EmbeddingEncoding::Bf16,
                head: HeadKind::Ternary,
                multipliers: Multipliers {
                    embedding: 12.0,
                    residual: 0.22,
                    attention: 0.02,
                    logits: 0.125,
                },
                ..base
            },
        ),
    ]
}

/// A ternary matrix: a scale for each row, and trits.
struct Trits {
    scales: Scales,
    values: Vec<i8>,
    n_cols: usize,
}

impl Trits {
    fn new(random: &mut Random, shape: &ModelShape, (n_rows, n_cols): (usize, usize)) -> Self {
        let scales = if let Some(len) = shape.scale_group {
            let values = random.floats(n_rows * (n_cols / len));
            Scales::Groups { len, values }
        } else if random.bits().is_multiple_of(2) {
            Scales::Tensor(0.1 + random.float().abs())
        } else {
            Scales::Rows((0..n_rows).map(|_| 0.1 + random.float().abs()).collect())
        };
        Self {
            scales,
            values: random.trits(n_rows * n_cols),
            n_cols,
        }
    }

    fn decode(&self, row: usize, out: &mut [i8]) {
        out.copy_from_slice(&self.values[row * self.n_cols..][..self.n_cols]);
    }

    fn packed(&self) -> PackedTernary {
        let (pool, threads) = (HybridMemoryPool::new(), &mut ThreadPool::new(1));
        let ctx = &mut ComputeContext::new(Isa::best(), threads);
        let spec = TernarySpec {
            layout: TernaryLayout::TwoBits,
            shape: Shape {
                n_rows: self.values.len() / self.n_cols,
                n_cols: self.n_cols,
            },
            scales: self.scales.clone(),
        };
        let decode = |row: usize, out: &mut [i8]| {
            self.decode(row, out);
            Ok::<_, OutOfMemory>(())
        };
        PackedTernary::pack(&pool, ctx, spec, &decode).unwrap()
    }
}

/// The weights of a random model.
pub(super) struct Weights {
    pub(super) shape: ModelShape,
    linears: Vec<[Trits; 7]>,
    norms: Vec<Vec<(Norm, Vec<f32>)>>,
    pub(super) output_norm: Vec<f32>,
    /// `[vocab_size, hidden_dim]`, of values that the encoding holds.
    pub(super) embedding: Vec<f32>,
    ternary_embedding: Trits,
    head: Trits,
    ropes: Vec<[Vec<f32>; 2]>,
}

impl Weights {
    pub(super) fn new(shape: &ModelShape, seed: u32) -> Self {
        let mut random = Random(seed);
        let linears = shape
            .layers
            .iter()
            .map(|_| Part::ALL.map(|part| Trits::new(&mut random, shape, shape.linear(part))));
        let linears = linears.collect();
        let norms = shape.layers.iter().map(|_| {
            let norms = crate::model::norms_of_layer(shape).into_iter();
            let weights = norms.map(|(norm, width)| {
                let weights = random.floats(width).into_iter().map(|w| 1.0 + w / 2.0);
                (norm, weights.collect())
            });
            weights.collect()
        });
        let norms = norms.collect();
        let size = (shape.vocab_size, shape.hidden_dim);
        let embedding = random.floats(size.0 * size.1).into_iter();
        let ropes = shape.rope_dims.iter().map(|n_dims| {
            let frequencies = ops::rope_frequencies(*n_dims, 10_000.0);
            let angles = |position: usize| {
                let position = position as f32;
                frequencies
                    .iter()
                    .map(move |frequency| f64::from(position * frequency))
            };
            let table = |f: fn(f64) -> f64| -> Vec<f32> {
                (0..shape.context_len)
                    .flat_map(|p| angles(p).map(|a| f(a) as f32))
                    .collect()
            };
            [table(f64::cos), table(f64::sin)]
        });
        Self {
            linears,
            norms,
            output_norm: vec![1.0; shape.hidden_dim],
            embedding: embedding
                .map(|x| half::bf16::from_f32(x).to_f32())
                .collect(),
            ropes: ropes.collect(),
            ternary_embedding: Trits::new(&mut random, shape, size),
            head: Trits::new(&mut random, shape, size),
            shape: shape.clone(),
        }
    }

    pub(super) fn norm_mut(&mut self, layer: usize, norm: Norm) -> &mut [f32] {
        let mut norms = self.norms[layer].iter_mut();
        &mut norms.find(|(other, _)| *other == norm).unwrap().1
    }

    pub(super) fn set_scale(&mut self, layer: usize, part: Part, scale: f32) {
        self.linears[layer][part as usize].scales = Scales::Tensor(scale);
    }

    fn norm(&self, layer: usize, norm: Norm) -> Option<&[f32]> {
        let mut norms = self.norms[layer].iter();
        norms
            .find(|(other, _)| *other == norm)
            .map(|(_, weights)| &weights[..])
    }

    /// Loads the model to a device.
    pub(super) fn load(&self, gpu: &Gpu) -> Arc<GpuModel> {
        let ropes = self.ropes.iter().map(|[cos, sin]| RopeTable { cos, sin });
        let ropes: Vec<_> = ropes.collect();
        let mut loader = ModelLoader::new(gpu, self.shape.clone(), &ropes, 2).unwrap();
        let decode = |trits: &Trits, row: usize, out: &mut [i8]| {
            trits.decode(row, out);
            Ok::<_, ()>(())
        };
        for (layer, linears) in self.linears.iter().enumerate() {
            for (part, trits) in Part::ALL.into_iter().zip(linears) {
                let load = |row, out: &mut [i8]| decode(trits, row, out);
                loader.linear(layer, part, &trits.scales, load).unwrap();
            }
            for (norm, weights) in &self.norms[layer] {
                assert!(norm_at(&self.shape, layer, *norm).is_some());
                loader.norm(layer, *norm, weights).unwrap();
            }
        }
        loader.output_norm(&self.output_norm).unwrap();
        let hidden = self.shape.hidden_dim;
        let fill = |row: usize, out: &mut [f32]| {
            out.copy_from_slice(&self.embedding[row * hidden..][..hidden]);
            Ok::<_, ()>(())
        };
        match self.shape.embedding {
            EmbeddingEncoding::Ternary => {
                let trits = &self.ternary_embedding;
                let load = |row, out: &mut [i8]| decode(trits, row, out);
                loader.embedding_ternary(&trits.scales, load).unwrap();
            }
            _ => loader.embedding(fill).unwrap(),
        }
        match self.shape.head {
            HeadKind::Int8 => loader.head_int8(fill).unwrap(),
            HeadKind::Ternary => {
                let load = |row, out: &mut [i8]| decode(&self.head, row, out);
                loader.head_ternary(&self.head.scales, load).unwrap();
            }
            HeadKind::TiedTernary => {}
        }
        Arc::new(loader.finish().unwrap())
    }
}

/// Computes all logits of a sequence on the CPU, row by row.
struct Cpu<'a> {
    weights: &'a Weights,
    threads: ThreadPool,
    acts: Int8Rows,
    scratch: Vec<bitnet_core::memory::Buffer<f32>>,
}

impl Cpu<'_> {
    fn linear(&mut self, matrix: &PackedTernary, x: &[f32], out: &mut [f32]) {
        self.quantize(x);
        let ctx = &mut ComputeContext::new(ISA, &mut self.threads);
        matrix.matmul(ctx, &self.acts, out);
    }

    fn quantize(&mut self, x: &[f32]) {
        let mut ctx = ComputeContext {
            isa: ISA,
            threads: &mut self.threads,
            scratch: &mut self.scratch,
        };
        let shape = Shape {
            n_rows: 1,
            n_cols: x.len(),
        };
        let fill = |_: usize, out: &mut [f32]| out.copy_from_slice(x);
        match self.weights.shape.activations {
            ActivationPrecision::Int8 => self.acts.quantize_rows(&mut ctx, shape, fill),
            ActivationPrecision::Exact => self.acts.split_rows(&mut ctx, shape, fill),
        }
    }

    /// Returns the logits and the hidden state of every token.
    #[expect(
        clippy::too_many_lines,
        reason = "the whole forward pass, in its order"
    )]
    fn sequence(weights: &Weights, tokens: &[u32]) -> Vec<[Vec<f32>; 2]> {
        let shape = &weights.shape;
        let pool = HybridMemoryPool::new();
        let widest = shape.hidden_dim.max(shape.q_dim()).max(shape.ffn_dim);
        let mut cpu = Cpu {
            weights,
            threads: ThreadPool::new(1),
            acts: Int8Rows::with_exact_capacity(&pool, 1, widest).unwrap(),
            scratch: vec![pool.zeroed(Category::Scratch, widest).unwrap()],
        };
        let kv_shape = KvShape {
            precision: KvPrecision::F16,
            n_heads: shape.layers.len() * shape.n_kv_heads,
            head_dim: shape.head_dim,
        };
        let mut kv = PagedKv::new(&pool, kv_shape, 1);
        kv.reserve(0, 0, tokens.len()).unwrap();
        let packed: Vec<[PackedTernary; 7]> = weights
            .linears
            .iter()
            .map(|linears| linears.each_ref().map(Trits::packed))
            .collect();
        let ropes: Vec<CpuRope> = shape
            .rope_dims
            .iter()
            .map(|n_dims| {
                let frequencies = ops::rope_frequencies(*n_dims, 10_000.0);
                let context = shape.context_len;
                let rope = CpuRope::new(&pool, &frequencies, shape.head_dim, context, 1.0);
                let mut rope = rope.unwrap();
                rope.extend(context);
                rope
            })
            .collect();
        let head = cpu.head(&pool);
        let extents = AttentionExtents {
            n_threads: 1,
            max_rows: 1,
            kv_shape,
            n_positions: shape.context_len,
            heads_per_kv_head: shape.n_heads / shape.n_kv_heads,
        };
        let mut scratch = AttentionScratch::new(&pool, extents).unwrap();
        let (eps, hidden, q_dim) = (shape.rms_norm_eps, shape.hidden_dim, shape.q_dim());
        let mut results = Vec::new();
        for (position, &token) in tokens.iter().enumerate() {
            let at = [RowPosition {
                sequence: 0,
                position,
            }];
            let mut x = weights.embedding_of(token);
            ops::scale(ISA, &mut x, shape.multipliers.embedding);
            for (layer, linears) in packed.iter().enumerate() {
                let norm = |norm: Norm| weights.norm(layer, norm);
                let normed = |x: &[f32], norms: [Option<&[f32]>; 2]| {
                    let mut x = x.to_vec();
                    for weights in norms.into_iter().flatten() {
                        ops::rms_norm_each(ISA, &mut x, weights, eps);
                    }
                    x
                };
                let mut project = |x: &[f32], first: Option<&[f32]>, part: Part| {
                    let input = normed(x, [first, norm(Norm::Input(part))]);
                    let mut out = vec![0.0; shape.linear(part).0];
                    cpu.linear(&linears[part as usize], &input, &mut out);
                    out
                };
                let add = |x: &mut [f32], mut branch: Vec<f32>, post: Norm| {
                    if let Some(weights) = norm(post) {
                        ops::rms_norm_each(ISA, &mut branch, weights, eps);
                    }
                    ops::scale(ISA, &mut branch, shape.multipliers.residual);
                    ops::add_assign(ISA, x, &branch);
                };
                let LayerShape { window, rope } = shape.layers[layer];
                let first = norm(Norm::Attention);
                let mut q = project(&x, first, Part::Query);
                let mut k = project(&x, first, Part::Key);
                let v = project(&x, first, Part::Value);
                for (heads, norm) in [(&mut q, norm(Norm::Query)), (&mut k, norm(Norm::Key))] {
                    if let Some(weights) = norm {
                        ops::rms_norm_each(ISA, heads, weights, eps);
                    }
                    ropes[rope].rotate(ISA, position, heads);
                }
                let first_head = layer * shape.n_kv_heads;
                kv.store(ISA, at[0], first_head, KeyValue { key: &k, value: &v });
                let queries = Queries {
                    rows: &at,
                    values: &q,
                    heads: Heads {
                        first: first_head,
                        n_kv_heads: shape.n_kv_heads,
                        n_heads: shape.n_heads,
                        scale: shape.multipliers.attention,
                        window,
                    },
                };
                let mut attended = vec![0.0; q_dim];
                let threads = &mut ThreadPool::new(1);
                let ctx = &mut ComputeContext::new(ISA, threads);
                attention(ctx, &kv, queries, &mut scratch, &mut attended);
                let branch = project(&attended, None, Part::Output);
                add(&mut x, branch, Norm::PostAttention);

                let first = norm(Norm::FeedForward);
                let mut gate = project(&x, first, Part::Gate);
                let up = project(&x, first, Part::Up);
                match shape.activation {
                    Activation::Relu2 => ops::relu2_mul(ISA, &mut gate, &up),
                    Activation::Silu => ops::silu_mul(ISA, &mut gate, &up),
                    Activation::GeluTanh => ops::gelu_tanh_mul(ISA, &mut gate, &up),
                }
                let branch = project(&gate, None, Part::Down);
                add(&mut x, branch, Norm::PostFeedForward);
            }
            let mut out = vec![0.0; hidden];
            ops::rms_norm(ISA, &x, &weights.output_norm, eps, &mut out);
            let mut logits = vec![0.0; shape.vocab_size];
            cpu.quantize(&out);
            let ctx = &mut ComputeContext::new(ISA, &mut cpu.threads);
            match &head {
                CpuHead::Int8(matrix) => matrix.matmul(ctx, &cpu.acts, &mut logits),
                CpuHead::Ternary(matrix) => matrix.matmul(ctx, &cpu.acts, &mut logits),
            }
            ops::scale(ISA, &mut logits, shape.multipliers.logits);
            results.push([logits, out]);
        }
        results
    }

    fn head(&mut self, pool: &HybridMemoryPool) -> CpuHead {
        let weights = self.weights;
        let (n_rows, n_cols) = (weights.shape.vocab_size, weights.shape.hidden_dim);
        match weights.shape.head {
            HeadKind::Int8 => {
                let ctx = &mut ComputeContext::new(ISA, &mut self.threads);
                let shape = Shape { n_rows, n_cols };
                let packed = PackedInt8::quantize(pool, ctx, shape, |row, out| {
                    out.copy_from_slice(&weights.embedding[row * n_cols..][..n_cols]);
                });
                CpuHead::Int8(packed.unwrap())
            }
            HeadKind::Ternary => CpuHead::Ternary(weights.head.packed()),
            HeadKind::TiedTernary => CpuHead::Ternary(weights.ternary_embedding.packed()),
        }
    }
}

enum CpuHead {
    Int8(PackedInt8),
    Ternary(PackedTernary),
}

impl Weights {
    fn embedding_of(&self, token: u32) -> Vec<f32> {
        let hidden = self.shape.hidden_dim;
        let row = token as usize;
        if self.shape.embedding == EmbeddingEncoding::Ternary {
            let (mut trits, mut values) = (vec![0; hidden], vec![0.0; hidden]);
            self.ternary_embedding.decode(row, &mut trits);
            self.ternary_embedding
                .scales
                .scale_row(row, &trits, &mut values);
            return values;
        }
        self.embedding[row * hidden..][..hidden].to_vec()
    }
}

/// Returns random tokens of the vocabulary.
fn tokens(random: &mut Random, shape: &ModelShape, n: usize) -> Vec<u32> {
    (0..n)
        .map(|_| random.bits() % shape.vocab_size as u32)
        .collect()
}

pub(super) fn session(gpu: &Gpu, weights: &Weights, n_pages: usize) -> Session {
    let options = SessionOptions {
        n_pages,
        batch_tokens: 64,
    };
    Session::new(weights.load(gpu), options).unwrap()
}

/// Returns the logits of every row, computed in passes of these sizes.
fn in_cuts(session: &mut Session, tokens: &[u32], pages: &[u32], cuts: &[usize]) -> Vec<Vec<f32>> {
    assert_eq!(cuts.iter().sum::<usize>(), tokens.len());
    let mut logits = Vec::new();
    let mut position = 0;
    for &n in cuts {
        let rows: Vec<Row> = (position..position + n)
            .map(|position| Row {
                token: tokens[position],
                position: position as u32,
                page_table: 0,
            })
            .collect();
        let outputs: Vec<Output> = (0..n)
            .map(|row| Output {
                row,
                kind: OutputKind::Logits,
            })
            .collect();
        let mut take = |i: usize, values: OutputValues<'_>| {
            assert_eq!(logits.len(), position + i, "outputs come in order");
            match values {
                OutputValues::Values(values) => logits.push(values.to_vec()),
                OutputValues::Top(_) => panic!("logits were asked for"),
            }
        };
        session.pass(&rows, &[pages], &outputs, &mut take).unwrap();
        position += n;
    }
    logits
}

fn norm_of(x: impl Iterator<Item = f32>) -> f32 {
    x.map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn passes_agree_with_a_plain_computation_on_the_cpu() {
    let Some(gpu) = device() else { return };
    for (i, (name, shape)) in shapes().into_iter().enumerate() {
        let weights = Weights::new(&shape, 100 + i as u32);
        let mut random = Random(9);
        let tokens = tokens(&mut random, &shape, 140);
        let expected = Cpu::sequence(&weights, &tokens);
        let mut session = session(&gpu, &weights, 5);
        let found = in_cuts(&mut session, &tokens, &[3, 1], &[60, 1, 1, 64, 14]);
        let mut n_equal = 0;
        for (position, ([expected, _], found)) in expected.iter().zip(&found).enumerate() {
            let differences = found.iter().zip(expected).map(|(a, b)| a - b);
            let error = norm_of(differences) / norm_of(expected.iter().copied());
            // Attention is summed in another order. Where that changes the rounding of an
            // activation to int8, the logits change by about a hundredth.
            assert!(
                error < 0.05,
                "{name}, position {position}: relative error {error}"
            );
            n_equal += usize::from(error < 1e-4);
        }
        // Most roundings are the same.
        assert!(
            n_equal * 4 >= tokens.len(),
            "{name}: {n_equal} of {} rows",
            tokens.len()
        );
    }
}

#[test]
fn logits_depend_neither_on_the_batch_nor_on_the_cut() {
    let Some(gpu) = device() else { return };
    for (i, (name, shape)) in shapes().into_iter().enumerate() {
        let weights = Weights::new(&shape, 200 + i as u32);
        let mut random = Random(10);
        let sequence = tokens(&mut random, &shape, 132);
        let mut session = session(&gpu, &weights, 40);
        let alone = in_cuts(&mut session, &sequence, &[0, 1], &[1; 132]);
        for cuts in [&[64, 64, 4][..], &[2, 3, 8, 9, 17, 33, 60]] {
            let found = in_cuts(&mut session, &sequence, &[7, 3], cuts);
            assert!(found == alone, "{name}, cuts {cuts:?}");
        }
        // Decoded from position 129 on among other sequences, which share its first page.
        for n_others in [1, 2, 7, 15] {
            let pages: Vec<[u32; 2]> = (0..=n_others).map(|i| [0, 10 + i]).collect();
            let tables: Vec<&[u32]> = pages.iter().map(|pages| &pages[..]).collect();
            for position in 128..132 {
                let rows: Vec<Row> = (0..=n_others as usize)
                    .map(|table| {
                        // The sequence is the last but one, or the first.
                        let is_other = table != (n_others as usize).saturating_sub(1);
                        let token = sequence[position] + u32::from(is_other) * (1 + table as u32);
                        Row {
                            token: token % shape.vocab_size as u32,
                            position: position as u32,
                            page_table: table,
                        }
                    })
                    .collect();
                let output = Output {
                    row: (n_others as usize).saturating_sub(1),
                    kind: OutputKind::Logits,
                };
                let mut found = Vec::new();
                let mut take = |_: usize, values: OutputValues<'_>| match values {
                    OutputValues::Values(values) => found.extend_from_slice(values),
                    OutputValues::Top(_) => panic!("logits were asked for"),
                };
                session.pass(&rows, &tables, &[output], &mut take).unwrap();
                assert!(
                    found == alone[position],
                    "{name}, among {n_others} at {position}"
                );
            }
        }
    }
}

#[test]
fn sessions_on_several_threads_share_a_device() {
    let Some(gpu) = device() else { return };
    let weights = Weights::new(&shape(), 31);
    let tokens = tokens(&mut Random(32), &weights.shape, 40);
    let model = weights.load(&gpu);
    let options = SessionOptions {
        n_pages: 1,
        batch_tokens: 8,
    };
    let run = || {
        let mut session = Session::new(Arc::clone(&model), options).unwrap();
        in_cuts(&mut session, &tokens, &[0], &[1; 40])
    };
    let expected = run();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(run)).collect();
        for thread in threads {
            assert!(thread.join().unwrap() == expected);
        }
    });
}

#[test]
fn the_largest_logits_and_hidden_states_are_those_of_the_row() {
    let Some(gpu) = device() else { return };
    let weights = Weights::new(&shape(), 3);
    let mut random = Random(4);
    let tokens = tokens(&mut random, &weights.shape, 12);
    let mut session = session(&gpu, &weights, 1);
    let logits = in_cuts(&mut session, &tokens, &[0], &[12]);
    let expected = Cpu::sequence(&weights, &tokens);
    let rows: Vec<Row> = (0..)
        .zip(&tokens)
        .map(|(position, &token)| Row {
            token,
            position,
            page_table: 0,
        })
        .collect();
    for k in [1, 2, 40, 256, 257, 2500, 9999] {
        // More outputs than are computed together, of several kinds, some of a row twice.
        let outputs: Vec<Output> = (0..20)
            .map(|i| Output {
                row: i * 7 % 12,
                kind: match i % 3 {
                    0 => OutputKind::Top(k),
                    1 => OutputKind::Hidden,
                    _ => OutputKind::Top(1),
                },
            })
            .collect();
        let mut n = 0;
        let mut check = |i: usize, values: OutputValues<'_>| {
            assert_eq!(i, n);
            n += 1;
            let Output { row, kind } = outputs[i];
            match (kind, values) {
                (OutputKind::Top(k), OutputValues::Top(top)) => {
                    let mut ids: Vec<u32> = (0..2500).collect();
                    let of = |id: &u32| logits[row][*id as usize];
                    ids.sort_by(|a, b| of(b).total_cmp(&of(a)));
                    let expected: Vec<_> = ids.iter().take(k).map(|id| (*id, of(id))).collect();
                    assert_eq!(top, expected, "k = {k}");
                }
                (OutputKind::Hidden, OutputValues::Values(hidden)) => {
                    let [_, expected] = &expected[row];
                    let differences = hidden.iter().zip(expected).map(|(a, b)| a - b);
                    let error = norm_of(differences) / norm_of(expected.iter().copied());
                    assert!(error < 0.05, "{error}");
                }
                other => panic!("{other:?}"),
            }
        };
        session.pass(&rows, &[&[0]], &outputs, &mut check).unwrap();
        assert_eq!(n, 20);
    }
}

#[test]
fn pages_are_copied_read_and_written() {
    let Some(gpu) = device() else { return };
    let weights = Weights::new(&shape(), 5);
    let tokens = tokens(&mut Random(6), &weights.shape, 20);
    let mut session = session(&gpu, &weights, 4);
    let expected = in_cuts(&mut session, &tokens, &[0], &[20]);
    let next = |session: &mut Session, page: u32| {
        let row = Row {
            token: tokens[19],
            position: 19,
            page_table: 0,
        };
        let output = Output {
            row: 0,
            kind: OutputKind::Logits,
        };
        let mut found = Vec::new();
        let mut take = |_: usize, values: OutputValues<'_>| match values {
            OutputValues::Values(values) => found.extend_from_slice(values),
            OutputValues::Top(_) => panic!("logits were asked for"),
        };
        session
            .pass(&[row], &[&[page]], &[output], &mut take)
            .unwrap();
        found
    };
    session.copy_page(0, 2).unwrap();
    assert!(next(&mut session, 2) == expected[19]);
    let bytes = session.read_page(2).unwrap();
    assert_eq!(bytes.len(), session.page_bytes());
    assert_eq!(session.page_bytes(), 2 * 2 * 128 * 2 * 16 * 2);
    // Page 3 holds nothing yet.
    assert!(next(&mut session, 3) != expected[19]);
    session.write_page(3, &bytes).unwrap();
    assert!(next(&mut session, 3) == expected[19]);
}

#[test]
fn values_that_are_not_finite_are_reported_with_their_place() {
    type Break<'a> = &'a dyn Fn(&mut Weights);
    let Some(gpu) = device() else { return };
    let nan_embedding = |weights: &mut Weights| weights.embedding[7 * 96 + 3] = f32::NAN;
    let huge_value = |weights: &mut Weights| weights.set_scale(1, Part::Value, 1e37);
    let huge_query = |weights: &mut Weights| weights.set_scale(0, Part::Query, 3e38);
    let huge_gate = |weights: &mut Weights| weights.set_scale(0, Part::Gate, 1e30);
    let nan_norm =
        |weights: &mut Weights| weights.norm_mut(1, Norm::Input(Part::Down))[5] = f32::NAN;
    let nan_output = |weights: &mut Weights| weights.output_norm[95] = f32::INFINITY;
    let cases: [(Break<'_>, Place); 6] = [
        (&nan_embedding, Place::Token(7)),
        (&huge_value, Place::Attention(1)),
        (&huge_query, Place::Attention(0)),
        (&huge_gate, Place::FeedForward(0)),
        (&nan_norm, Place::FeedForward(1)),
        (&nan_output, Place::Head),
    ];
    for (case, (break_weights, expected)) in cases.into_iter().enumerate() {
        let mut weights = Weights::new(&shape(), 8);
        break_weights(&mut weights);
        let mut session = session(&gpu, &weights, 1);
        for n_rows in [1, 5] {
            let rows: Vec<Row> = (0..n_rows)
                .map(|position| Row {
                    token: 7,
                    position,
                    page_table: 0,
                })
                .collect();
            let output = Output {
                row: 0,
                kind: OutputKind::Top(1),
            };
            let mut never = |_: usize, _: OutputValues<'_>| panic!("an output of case {case}");
            match session.pass(&rows, &[&[0]], &[output], &mut never) {
                Err(PassError::NotFinite { place }) => assert_eq!(place, expected, "case {case}"),
                other => panic!("case {case}: {other:?}"),
            }
        }
    }
}

#[test]
#[ignore = "takes a gigabyte of the device, and says something about speed only on a GPU"]
#[expect(clippy::print_stderr, reason = "what it measures")]
fn decoding_the_shape_of_a_large_model_is_timed() {
    let Some(gpu) = device() else { return };
    // BitNet b1.58 2B-4T.
    let shape = ModelShape {
        hidden_dim: 2560,
        n_heads: 20,
        n_kv_heads: 5,
        head_dim: 128,
        ffn_dim: 6912,
        vocab_size: 128_256,
        layers: vec![shape().layers[0]; 30],
        rope_dims: vec![128],
        context_len: 1024,
        ..shape()
    };
    let table = vec![0.5; shape.context_len * 64];
    let rope = RopeTable {
        cos: &table,
        sin: &table,
    };
    let mut loader = ModelLoader::new(&gpu, shape.clone(), &[rope], 4).unwrap();
    // Rows are parts of the same random numbers, which is faster.
    let mut random = Random(1);
    let (trits, values) = (random.trits(8192), random.floats(8192));
    let decode = |row: usize, out: &mut [i8]| {
        out.copy_from_slice(&trits[row % 1024..][..out.len()]);
        Ok::<_, ()>(())
    };
    let fill = |row: usize, out: &mut [f32]| {
        out.copy_from_slice(&values[row % 1024..][..out.len()]);
        Ok::<_, ()>(())
    };
    for layer in 0..shape.layers.len() {
        for part in Part::ALL {
            loader
                .linear(layer, part, &Scales::Tensor(0.02), decode)
                .unwrap();
        }
        for (norm, width) in crate::model::norms_of_layer(&shape) {
            loader.norm(layer, norm, &vec![1.0; width]).unwrap();
        }
    }
    loader.output_norm(&vec![1.0; shape.hidden_dim]).unwrap();
    loader.embedding(fill).unwrap();
    loader.head_int8(fill).unwrap();
    let model = Arc::new(loader.finish().unwrap());
    let options = SessionOptions {
        n_pages: 8,
        batch_tokens: 512,
    };
    let mut session = Session::new(Arc::clone(&model), options).unwrap();
    let pages: Vec<u32> = (0..8).collect();
    let mut run = |positions: std::ops::Range<u32>| {
        let rows: Vec<Row> = positions
            .map(|position| Row {
                token: position,
                position,
                page_table: 0,
            })
            .collect();
        let output = Output {
            row: rows.len() - 1,
            kind: OutputKind::Top(40),
        };
        let mut n = 0;
        let start = std::time::Instant::now();
        (session.pass(&rows, &[&pages], &[output], &mut |_, _| n += 1)).unwrap();
        assert_eq!(n, 1);
        start.elapsed().as_secs_f64()
    };
    // On a software adapter, only that it works.
    let (n_prompt, n) = if gpu.info().is_software() {
        (2, 1)
    } else {
        (512, 64)
    };
    // The first passes compile.
    run(0..1);
    run(0..n_prompt);
    let prompt = run(0..n_prompt);
    run(n_prompt..n_prompt + 1);
    let positions = n_prompt + 1..n_prompt + 1 + n;
    let decode = positions
        .map(|position| run(position..position + 1))
        .sum::<f64>();
    let per_token = decode / f64::from(n);
    let read = model.bytes_per_token() as f64 / per_token;
    let bandwidth = gpu.read_bandwidth().unwrap();
    eprintln!(
        "{}: {n_prompt} tokens in {:.1} ms; {:.3} ms a token, {:.0} tok/s, {:.1} GB/s of {:.1} GB/s",
        gpu.device(),
        1e3 * prompt,
        1e3 * per_token,
        1.0 / per_token,
        read / 1e9,
        bandwidth / 1e9,
    );
}
