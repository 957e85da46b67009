//! Scaled dot-product attention over a packed KV cache.
//!
//! Positions are processed in blocks of 128. Within a block, the softmax is relative to the
//! block's maximum score; blocks are merged in order by rescaling both sides to the larger
//! maximum (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao
//! et al., "FlashAttention", 2022). The blocks and the order of operations do not depend on
//! the distribution of work, so the result does not depend on the number of threads, on the
//! rest of the batch, or on how a prompt was split.

mod block;
mod int8;
mod kv_page;
mod page_tables;
mod paged_kv;

use std::ops::Range;

use block::{BlockPass, Scores, ScoresOp, WeightedSums};
use bytemuck::Zeroable;
use int8::Int8Scratch;
use kv_page::KvBlock;
pub use kv_page::{KeyValue, KvPage, KvPrecision, KvShape};
pub use page_tables::PageTables;
pub use paged_kv::PagedKv;

use crate::compute_context::ComputeContext;
use crate::isa::Isa;
use crate::lanes::{Lanes, WIDTH, WithSimd};
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};
use crate::operation::{Operation, lap};
use crate::ops;
use crate::thread_pool::DisjointMut;

/// Positions per block.
const BLOCK: usize = 128;

/// Positions per tile of keys, interleaved.
const TILE: usize = WIDTH;

/// The maximum number of query heads that share one pass over the keys.
const MAX_ROWS: usize = 16;

/// With fewer work units per thread than this, the blocks of a unit are also distributed.
const UNITS_PER_THREAD: usize = 4;

/// The sequence and position of a batch row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowPosition {
    /// The sequence.
    pub sequence: usize,
    /// The position in the sequence. The row attends to keys up to and including this
    /// position.
    pub position: usize,
}

/// The heads of a [`PagedKv`] that queries attend to, and the parameters of attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// The first KV head.
    pub first: usize,
    /// The number of KV heads.
    pub n_kv_heads: usize,
    /// The number of query heads, a multiple of `n_kv_heads`.
    pub n_heads: usize,
    /// The factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// The sliding window: the number of positions that a row attends to, its own included;
    /// at least 1, or `None` for all.
    pub window: Option<usize>,
}

/// The queries of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// The sequence and position of each row.
    pub rows: &'a [RowPosition],
    /// `[rows, n_heads, head_dim]`
    pub values: &'a [f32],
    /// The heads that they attend to.
    pub heads: Heads,
}

/// The capacity of an [`AttentionScratch`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionExtents {
    /// The maximum number of threads.
    pub n_threads: usize,
    /// The maximum number of rows of a batch.
    pub max_rows: usize,
    /// The shape of keys and values.
    pub kv_shape: KvShape,
    /// The blocks of a single row are distributed to all threads up to this position.
    pub n_positions: usize,
    /// Query heads per KV head.
    pub heads_per_kv_head: usize,
}

/// Scratch memory of [`attention`].
#[derive(Debug)]
pub struct AttentionScratch {
    per_thread: Vec<ThreadScratch>,
    /// The tiles of rows that share a pass: consecutive rows of one sequence.
    tiles: Vec<Range<usize>>,
    /// The softmax state of each block if the blocks of a unit are distributed,
    /// `[unit][block][row]`.
    partial_states: Buffer<State>,
    /// `[unit][block][row][head_dim / TILE]`
    partial_sums: Buffer<[f32; TILE]>,
}

#[derive(Debug)]
struct ThreadScratch {
    block: BlockScratch,
    /// The sums of all blocks so far, `[MAX_ROWS][head_dim / TILE]`.
    sums: Buffer<[f32; TILE]>,
}

#[derive(Debug)]
struct BlockScratch {
    scores: Buffer<Scores>,
    /// `[MAX_ROWS][head_dim / TILE]`
    sums: Buffer<[f32; TILE]>,
    int8: Int8Scratch,
}

/// The state of the online softmax: the maximum score, and the sum of the exponentials
/// relative to it.
#[derive(Clone, Copy, Debug)]
struct State {
    max: f32,
    sum: f32,
}

// SAFETY: two floats, for which all zero bits are valid.
unsafe impl Zeroable for State {}

impl State {
    const EMPTY: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };
}

impl AttentionScratch {
    /// Allocates scratch memory for the given extents.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    pub fn new(pool: &HybridMemoryPool, extents: AttentionExtents) -> Result<Self, OutOfMemory> {
        let head_dim = extents.kv_shape.head_dim;
        let width = head_dim.div_ceil(TILE);
        let thread = |_| {
            Ok(ThreadScratch {
                block: BlockScratch {
                    scores: pool.zeroed(Category::Scratch, MAX_ROWS)?,
                    sums: pool.zeroed(Category::Scratch, MAX_ROWS * width)?,
                    int8: Int8Scratch::new(pool, head_dim)?,
                },
                sums: pool.zeroed(Category::Scratch, MAX_ROWS * width)?,
            })
        };
        let n_partial = extents.n_partial();
        Ok(Self {
            per_thread: (0..extents.n_threads)
                .map(thread)
                .collect::<Result<_, _>>()?,
            tiles: Vec::with_capacity(extents.max_rows),
            partial_states: pool.zeroed(Category::Scratch, n_partial)?,
            partial_sums: pool.zeroed(Category::Scratch, n_partial.saturating_mul(width))?,
        })
    }

    /// Returns the bytes that [`new`](Self::new) allocates, except some kilobytes of int8
    /// rows per thread.
    pub fn n_bytes(extents: AttentionExtents) -> usize {
        let row = extents.kv_shape.head_dim.next_multiple_of(TILE) * size_of::<f32>();
        let thread = MAX_ROWS * (2 * row + size_of::<Scores>());
        let n_partial = extents.n_partial().saturating_mul(row + size_of::<State>());
        extents.n_threads * thread + n_partial
    }
}

impl AttentionExtents {
    /// Returns the rows of partial results: enough for single rows of any sequences.
    fn n_partial(self) -> usize {
        let n_blocks = self.n_positions.div_ceil(BLOCK);
        (UNITS_PER_THREAD * self.n_threads * self.heads_per_kv_head).saturating_mul(n_blocks)
    }
}

/// Writes `Σ_j softmax_j(scale · query·key_j) · value_j` to `out` for every row and head,
/// where j runs over the positions in [`Heads::window`]. `out` is
/// `[rows, n_heads, head_dim]`.
///
/// Consecutive rows of one sequence are computed together only if their positions ascend.
/// The keys and values up to each row's position must have been stored.
///
/// # Panics
///
/// Panics if the shapes disagree or the scratch is too small.
pub fn attention(
    ctx: &mut ComputeContext<'_>,
    kv: &PagedKv,
    queries: Queries<'_>,
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    let (isa, threads) = (ctx.isa, &mut *ctx.threads);
    let Queries {
        rows,
        values,
        heads,
    } = queries;
    let KvShape { head_dim, .. } = kv.shape();
    let group = heads.n_heads / heads.n_kv_heads;
    assert_eq!(heads.n_heads, group * heads.n_kv_heads, "whole groups");
    assert!(heads.window != Some(0), "a row sees itself");
    assert_eq!(values.len(), rows.len() * heads.n_heads * head_dim);
    assert_eq!(values.len(), out.len(), "out is like the queries");
    assert!(
        scratch.per_thread.len() >= threads.n_threads(),
        "one per thread"
    );
    cut_tiles(rows, group, &mut scratch.tiles);
    let width = head_dim.div_ceil(TILE);
    let job = Job {
        isa,
        kv,
        queries,
        group,
        out: DisjointMut(out.as_mut_ptr()),
    };
    let (tiles, n_kv_heads) = (&scratch.tiles, heads.n_kv_heads);
    let n_units = tiles.len() * n_kv_heads * job.parts();
    let unit = |unit: usize| {
        let (rest, part) = (unit / job.parts(), unit % job.parts());
        job.unit(tiles[rest / n_kv_heads].clone(), rest % n_kv_heads, part)
    };
    let per_thread = DisjointMut(scratch.per_thread.as_mut_ptr());
    // SAFETY: `thread` is less than the number of threads, and so than the length of
    // `per_thread`; a thread works on one chunk at a time.
    let of_thread = |thread| unsafe { &mut *per_thread.at(thread) };

    let n_blocks = rows.iter().map(|row| row.position / BLOCK + 1).max();
    let n_blocks = n_blocks.unwrap_or(0);
    let unit_rows = tiles.iter().map(Range::len).max().unwrap_or(0) * group.min(MAX_ROWS);
    let n_partial = n_units * n_blocks * unit_rows;
    let fits = n_partial <= scratch.partial_states.len()
        && n_partial * width <= scratch.partial_sums.len();
    let few = n_units < UNITS_PER_THREAD * threads.n_threads() && threads.n_threads() > 1;
    if !few || n_blocks == 1 || !fits {
        threads.for_each(n_units, |thread, index| {
            let unit = unit(index);
            let ThreadScratch {
                block: scratch,
                sums,
            } = of_thread(thread);
            let mut states = [State::EMPTY; MAX_ROWS];
            sums.fill([0.0; TILE]);
            unit.prepare(scratch);
            for block in unit.first_block()..unit.n_blocks() {
                unit.add_block(block, scratch, &mut states, sums);
            }
            unit.finish(&states, sums);
        });
        return;
    }
    let states = DisjointMut(scratch.partial_states.as_mut_ptr());
    let sums = DisjointMut(scratch.partial_sums.as_mut_ptr());
    // SAFETY: the chunks of different units and blocks do not overlap, and all lie within
    // `n_partial` rows, which the scratch has.
    let partial = |index: usize, block: usize| unsafe {
        let first = (index * n_blocks + block) * unit_rows;
        (
            std::slice::from_raw_parts_mut(states.at(first), unit_rows),
            std::slice::from_raw_parts_mut(sums.at(first * width), unit_rows * width),
        )
    };
    threads.for_each(n_units * n_blocks, |thread, chunk| {
        let (index, block) = (chunk / n_blocks, chunk % n_blocks);
        let unit = unit(index);
        if block < unit.n_blocks() {
            let (states, sums) = partial(index, block);
            states.fill(State::EMPTY);
            sums.fill([0.0; TILE]);
            if block >= unit.first_block() {
                let scratch = &mut of_thread(thread).block;
                unit.prepare(scratch);
                unit.add_block(block, scratch, states, sums);
            }
        }
    });
    threads.for_each(n_units, |_, index| {
        let unit = unit(index);
        let (states, sums) = partial(index, 0);
        for block in 1..unit.n_blocks() {
            let (block_states, block_sums) = partial(index, block);
            let rows = states.iter_mut().zip(sums.chunks_exact_mut(width));
            let block_rows = block_states.iter().zip(block_sums.chunks_exact(width));
            for ((state, sums), (&block_state, block_sums)) in rows.zip(block_rows) {
                join(isa, state, sums, block_state, block_sums);
            }
        }
        unit.finish(states, sums);
    });
}

/// Splits rows into tiles of one sequence with at most [`MAX_ROWS`] query heads per KV
/// head.
fn cut_tiles(rows: &[RowPosition], group: usize, tiles: &mut Vec<Range<usize>>) {
    let max_rows = (MAX_ROWS / group).max(1);
    tiles.clear();
    for (i, row) in rows.iter().enumerate() {
        match tiles.last_mut() {
            Some(tile)
                if tile.len() < max_rows
                    && rows[tile.start].sequence == row.sequence
                    && rows[i - 1].position < row.position =>
            {
                tile.end += 1;
            }
            _ => tiles.push(i..i + 1),
        }
    }
}

/// The shared state of all units of a call.
struct Job<'a> {
    isa: Isa,
    kv: &'a PagedKv,
    queries: Queries<'a>,
    /// Query heads per KV head.
    group: usize,
    out: DisjointMut<f32>,
}

/// A work unit: some rows and one KV head, at most [`MAX_ROWS`] queries.
struct Unit<'a> {
    job: &'a Job<'a>,
    kv_head: usize,
    sequence: usize,
    queries: [Query; MAX_ROWS],
    n_queries: usize,
}

/// One query head of a row.
#[derive(Clone, Copy, Default)]
struct Query {
    /// The offset of its values in the queries and in `out`.
    start: usize,
    position: usize,
}

impl Job<'_> {
    /// Returns the units per tile and KV head: one, unless the group of query heads exceeds
    /// [`MAX_ROWS`].
    fn parts(&self) -> usize {
        self.group.div_ceil(MAX_ROWS)
    }

    fn unit(&self, tile: Range<usize>, kv_head: usize, part: usize) -> Unit<'_> {
        let head_dim = self.kv.shape().head_dim;
        let first = part * MAX_ROWS;
        let n_heads = MAX_ROWS.min(self.group - first);
        let mut queries = [Query::default(); MAX_ROWS];
        let mut n_queries = 0;
        let Queries { rows, heads, .. } = self.queries;
        let sequence = rows[tile.start].sequence;
        for row in tile {
            for head in first..first + n_heads {
                let head = row * heads.n_heads + kv_head * self.group + head;
                queries[n_queries] = Query {
                    start: head * head_dim,
                    position: rows[row].position,
                };
                n_queries += 1;
            }
        }
        Unit {
            job: self,
            kv_head: heads.first + kv_head,
            sequence,
            queries,
            n_queries,
        }
    }
}

impl Unit<'_> {
    fn queries(&self) -> &[Query] {
        &self.queries[..self.n_queries]
    }

    /// Returns the first position that a row attends to.
    fn first_seen(&self, position: usize) -> usize {
        match self.job.queries.heads.window {
            Some(window) => (position + 1).saturating_sub(window),
            None => 0,
        }
    }

    /// Returns the first block that any row attends to; the first row attends furthest
    /// back.
    fn first_block(&self) -> usize {
        self.first_seen(self.queries()[0].position) / BLOCK
    }

    /// Returns the end of the blocks that the last row attends to.
    fn n_blocks(&self) -> usize {
        self.queries()[self.n_queries - 1].position / BLOCK + 1
    }

    /// Returns the values of a query.
    fn values(&self, query: Query) -> &[f32] {
        &self.job.queries.values[query.start..][..self.job.kv.shape().head_dim]
    }

    /// Quantizes the queries if the keys are int8.
    fn prepare(&self, scratch: &mut BlockScratch) {
        if self.job.kv.shape().precision == KvPrecision::Int8 {
            let rows = &mut scratch.int8.queries;
            rows.reshape(self.n_queries, self.job.kv.shape().head_dim);
            for (r, query) in self.queries().iter().enumerate() {
                rows.quantize_row(self.job.isa, r, self.values(*query));
            }
            lap(Operation::Quantize);
        }
    }

    /// Computes one block and merges it into the states and sums of the rows.
    fn add_block(
        &self,
        block: usize,
        scratch: &mut BlockScratch,
        states: &mut [State],
        sums: &mut [[f32; TILE]],
    ) {
        let (isa, n) = (self.job.isa, self.n_queries);
        let head_dim = self.job.kv.shape().head_dim;
        let width = head_dim.div_ceil(TILE);
        let mut queries: [&[f32]; MAX_ROWS] = [&[]; MAX_ROWS];
        for (values, query) in queries.iter_mut().zip(self.queries()) {
            *values = self.values(*query);
        }
        let queries = &queries[..n];
        // The number of positions of the block up to the row's.
        let seen = |position: usize| (position + 1).saturating_sub(block * BLOCK).min(BLOCK);
        let n_positions = seen(self.queries()[n - 1].position);
        let (scores, block_sums) = (&mut scratch.scores[..n], &mut scratch.sums[..n * width]);
        let block_at = |block| self.job.kv.block(self.sequence, block, self.kv_head);
        let stored = block_at(block);
        let next = (block + 1 < self.n_blocks()).then(|| block_at(block + 1));
        match stored {
            KvBlock::F32(block) => isa.dispatch(ScoresOp {
                block,
                queries,
                n_positions,
                scores,
            }),
            KvBlock::F16(block) => isa.dispatch(ScoresOp {
                block,
                queries,
                n_positions,
                scores,
            }),
            KvBlock::Int8(block) => {
                block.scores(isa, &scratch.int8.queries, n_positions, scores);
            }
        }
        lap(Operation::Scores);
        let mut block_states = [State::EMPTY; MAX_ROWS];
        let rows = scores.iter_mut().zip(&mut block_states).zip(self.queries());
        for ((scores, state), &Query { position, .. }) in rows {
            let first = self.first_seen(position).saturating_sub(block * BLOCK);
            *state = isa.dispatch(Weights {
                scores,
                positions: first..seen(position),
                scale: self.job.queries.heads.scale,
            });
        }
        lap(Operation::Softmax);
        match stored {
            KvBlock::F32(block) => {
                let ahead = match next {
                    Some(KvBlock::F32(next)) => next.keys,
                    _ => &[],
                };
                isa.dispatch(WeightedSums {
                    pass: BlockPass {
                        block,
                        n_positions,
                        ahead,
                    },
                    weights: scores,
                    sums: block_sums,
                });
            }
            KvBlock::F16(block) => {
                let ahead = match next {
                    Some(KvBlock::F16(next)) => next.keys,
                    _ => &[],
                };
                isa.dispatch(WeightedSums {
                    pass: BlockPass {
                        block,
                        n_positions,
                        ahead,
                    },
                    weights: scores,
                    sums: block_sums,
                });
            }
            KvBlock::Int8(block) => {
                let ahead = match next {
                    Some(KvBlock::Int8(next)) => next.keys,
                    _ => &[],
                };
                let pass = BlockPass {
                    block,
                    n_positions,
                    ahead,
                };
                pass.weighted_sums(isa, scores, &mut scratch.int8, block_sums);
            }
        }
        lap(Operation::WeightedSums);
        let rows = states.iter_mut().zip(sums.chunks_exact_mut(width));
        let block_rows = block_states.iter().zip(block_sums.chunks_exact(width));
        for ((state, sums), (&block_state, block_sums)) in rows.zip(block_rows) {
            join(isa, state, sums, block_state, block_sums);
        }
        lap(Operation::Softmax);
    }

    /// Writes the weighted sums, normalized by the sums of the weights.
    fn finish(&self, states: &[State], sums: &[[f32; TILE]]) {
        let head_dim = self.job.kv.shape().head_dim;
        let rows = states
            .iter()
            .zip(sums.chunks_exact(head_dim.div_ceil(TILE)));
        for ((state, sums), query) in rows.zip(self.queries()) {
            let inverse = 1.0 / state.sum;
            let start = query.start;
            // SAFETY: a query's values begin at `start`, `out` is as long as the queries,
            // and every query belongs to one unit.
            let out = unsafe { std::slice::from_raw_parts_mut(self.job.out.at(start), head_dim) };
            for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                *out = sum * inverse;
            }
        }
        lap(Operation::Softmax);
    }
}

/// Merges a block into the preceding blocks; a block that the row does not attend to has no
/// effect.
fn join(
    isa: Isa,
    state: &mut State,
    sums: &mut [[f32; TILE]],
    block: State,
    block_sums: &[[f32; TILE]],
) {
    // The maximum score of a block adds 1 to the sum, so only an empty block has 0. NaN
    // propagates to the result.
    if block.sum != 0.0 {
        isa.dispatch(Join {
            state,
            sums: sums.as_flattened_mut(),
            block,
            block_sums: block_sums.as_flattened(),
        });
    }
}

struct Join<'a> {
    state: &'a mut State,
    sums: &'a mut [f32],
    block: State,
    block_sums: &'a [f32],
}

impl WithSimd for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) {
        let Self { state, block, .. } = self;
        let max = if block.max > state.max {
            block.max
        } else {
            state.max
        };
        let old = ops::exp_scalar(lanes, state.max - max);
        let new = ops::exp_scalar(lanes, block.max - max);
        *state = State {
            max,
            sum: state.sum * old + block.sum * new,
        };
        for (sum, &block_sum) in self.sums.iter_mut().zip(self.block_sums) {
            *sum = *sum * old + block_sum * new;
        }
    }
}

struct Weights<'a> {
    scores: &'a mut Scores,
    positions: Range<usize>,
    scale: f32,
}

impl WithSimd for Weights<'_> {
    type Output = State;

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) -> State {
        block::weights(lanes, self.scores, self.positions, self.scale)
    }
}

#[cfg(test)]
mod tests;
