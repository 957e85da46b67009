//! Scaled dot-product attention over keys and values that are kept packed.
//!
//! Positions are taken in blocks of 128. Within a block, the softmax is relative
//! to the block's largest score; blocks are joined in their order by scaling
//! both sides to the larger maximum (Milakov and Gimelshein, "Online normalizer
//! calculation for softmax", 2018; Dao et al., "FlashAttention", 2022). The
//! blocks and the order of operations are the same however the work is shared,
//! so the result does not depend on the number of threads, on what else is in
//! the batch, nor on how a prompt was cut.

mod block;
mod int8;
mod kv_page;
mod paged_kv;

use std::ops::Range;

use block::{FloatBlock, KvElement, Scores};
use bytemuck::Zeroable;
use int8::Int8Scratch;
use kv_page::KvBlock;
pub use kv_page::{KvPage, KvPrecision, KvShape};
pub use paged_kv::PagedKv;

use crate::isa::Isa;
use crate::lanes::{Lanes, WIDTH, WithSimd};
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};
use crate::ops;
use crate::thread_pool::{DisjointMut, ThreadPool};

/// Positions of a block.
const BLOCK: usize = 128;

/// Positions side by side in a tile of keys.
const TILE: usize = WIDTH;

/// The most query heads that share one pass over the keys.
const MAX_ROWS: usize = 16;

/// With fewer units of work than this a thread, the blocks of a unit are shared
/// out too.
const UNITS_PER_THREAD: usize = 4;

/// Where a row of queries stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryRow {
    /// Its sequence.
    pub sequence: usize,
    /// Its position: it sees the keys up to and including this one.
    pub position: usize,
}

/// Which heads of a [`PagedKv`] some queries look at, and how.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// The first key and value head.
    pub first: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Query heads, a multiple of the key and value heads.
    pub n_heads: usize,
    /// What scores are multiplied with: usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many positions a row sees, its own and those before it; at least 1, all
    /// if not given.
    pub window: Option<usize>,
}

/// Scratch memory of [`attention`].
#[derive(Debug)]
pub struct AttentionScratch {
    per_thread: Vec<ThreadScratch>,
    /// Rows that share a pass: of one sequence, one after the other.
    tiles: Vec<Range<usize>>,
    /// Where the blocks of a unit of work are shared out: what each one came to,
    /// `[unit][block][row]`.
    partial_states: Buffer<State>,
    /// `[unit][block][row][head_dim / TILE]`
    partial_sums: Buffer<[f32; TILE]>,
}

#[derive(Debug)]
struct ThreadScratch {
    block: BlockScratch,
    /// Of all blocks so far, `[MAX_ROWS][head_dim / TILE]`.
    sums: Buffer<[f32; TILE]>,
}

#[derive(Debug)]
struct BlockScratch {
    scores: Buffer<Scores>,
    /// `[MAX_ROWS][head_dim / TILE]`
    sums: Buffer<[f32; TILE]>,
    int8: Int8Scratch,
}

/// The softmax so far: the largest score, and the sum of the exponentials
/// relative to it.
#[derive(Clone, Copy, Debug)]
struct State {
    max: f32,
    sum: f32,
}

// SAFETY: two floats, which may be zero.
unsafe impl Zeroable for State {}

impl State {
    const EMPTY: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };
}

impl AttentionScratch {
    /// Takes memory for batches of `max_rows` rows over keys and values of this
    /// shape. A single row is shared by all threads up to position `n_positions`.
    pub fn new(
        pool: &HybridMemoryPool,
        n_threads: usize,
        max_rows: usize,
        (shape, n_positions): (KvShape, usize),
        heads_per_kv_head: usize,
    ) -> Result<Self, OutOfMemory> {
        let width = shape.head_dim.div_ceil(TILE);
        let thread = |_| {
            Ok(ThreadScratch {
                block: BlockScratch {
                    scores: pool.zeroed(Category::Scratch, MAX_ROWS)?,
                    sums: pool.zeroed(Category::Scratch, MAX_ROWS * width)?,
                    int8: Int8Scratch::new(pool, shape.head_dim)?,
                },
                sums: pool.zeroed(Category::Scratch, MAX_ROWS * width)?,
            })
        };
        let n_partial = Self::n_partial(n_threads, n_positions, heads_per_kv_head);
        Ok(Self {
            per_thread: (0..n_threads).map(thread).collect::<Result<_, _>>()?,
            tiles: Vec::with_capacity(max_rows),
            partial_states: pool.zeroed(Category::Scratch, n_partial)?,
            partial_sums: pool.zeroed(Category::Scratch, n_partial.saturating_mul(width))?,
        })
    }

    /// Returns the bytes that [`new`](Self::new) takes, but for some kilobytes of
    /// int8 rows a thread.
    pub fn n_bytes(
        n_threads: usize,
        (shape, n_positions): (KvShape, usize),
        heads_per_kv_head: usize,
    ) -> usize {
        let row = shape.head_dim.next_multiple_of(TILE) * size_of::<f32>();
        let thread = MAX_ROWS * (2 * row + size_of::<Scores>());
        let n_partial = Self::n_partial(n_threads, n_positions, heads_per_kv_head);
        n_threads * thread + n_partial.saturating_mul(row + size_of::<State>())
    }

    /// Enough for one row of one sequence after another.
    fn n_partial(n_threads: usize, n_positions: usize, heads_per_kv_head: usize) -> usize {
        let n_blocks = n_positions.div_ceil(BLOCK);
        (UNITS_PER_THREAD * n_threads * heads_per_kv_head).saturating_mul(n_blocks)
    }
}

/// Writes, for every row and head, `Σ_j softmax_j(scale · query·key_j) · value_j` to
/// `out`, over the positions j that [`Heads::window`] leaves. `queries` and `out` are
/// `[rows, n_heads, head_dim]`.
///
/// Rows of one sequence that follow each other must be at ascending positions
/// to be computed together; keys and values up to each must have been stored.
///
/// # Panics
///
/// Panics if the shapes disagree or the scratch is too small.
#[expect(clippy::too_many_arguments, reason = "all of them are operands")]
pub fn attention(
    isa: Isa,
    threads: &mut ThreadPool,
    kv: &PagedKv,
    heads: Heads,
    rows: &[QueryRow],
    queries: &[f32],
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    let KvShape { head_dim, .. } = kv.shape();
    let group = heads.n_heads / heads.n_kv_heads;
    assert_eq!(heads.n_heads, group * heads.n_kv_heads, "whole groups");
    assert!(heads.window != Some(0), "a row sees itself");
    assert_eq!(queries.len(), rows.len() * heads.n_heads * head_dim);
    assert_eq!(queries.len(), out.len(), "out is like the queries");
    assert!(
        scratch.per_thread.len() >= threads.n_threads(),
        "one per thread"
    );
    cut_tiles(rows, group, &mut scratch.tiles);
    let width = head_dim.div_ceil(TILE);
    let job = Job {
        isa,
        kv,
        heads,
        group,
        rows,
        queries,
        out: DisjointMut(out.as_mut_ptr()),
    };
    let (tiles, n_kv_heads) = (&scratch.tiles, heads.n_kv_heads);
    let n_units = tiles.len() * n_kv_heads * job.parts();
    let unit = |unit: usize| {
        let (rest, part) = (unit / job.parts(), unit % job.parts());
        job.unit(tiles[rest / n_kv_heads].clone(), rest % n_kv_heads, part)
    };
    let per_thread = DisjointMut(scratch.per_thread.as_mut_ptr());
    // SAFETY: `thread` is below the number of threads and so of scratch, and one
    // thread works on one chunk at a time.
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
    // SAFETY: the chunks of different units and blocks do not overlap, and all
    // lie within `n_partial` rows, which the scratch has.
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

/// Cuts rows into tiles of one sequence with at most [`MAX_ROWS`] query heads
/// for a key head.
fn cut_tiles(rows: &[QueryRow], group: usize, tiles: &mut Vec<Range<usize>>) {
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

/// What all units of a call share.
struct Job<'a> {
    isa: Isa,
    kv: &'a PagedKv,
    heads: Heads,
    /// Query heads of a key head.
    group: usize,
    rows: &'a [QueryRow],
    queries: &'a [f32],
    out: DisjointMut<f32>,
}

/// Some rows and one key head: at most [`MAX_ROWS`] queries.
struct Unit<'a> {
    job: &'a Job<'a>,
    kv_head: usize,
    sequence: usize,
    /// Where each query stands in `queries` and `out`, and its position.
    queries: [(usize, usize); MAX_ROWS],
    n_queries: usize,
}

impl Job<'_> {
    /// Units that a tile and key head take: one, unless its group of query heads
    /// is too large.
    fn parts(&self) -> usize {
        self.group.div_ceil(MAX_ROWS)
    }

    fn unit(&self, tile: Range<usize>, kv_head: usize, part: usize) -> Unit<'_> {
        let head_dim = self.kv.shape().head_dim;
        let first = part * MAX_ROWS;
        let n_heads = MAX_ROWS.min(self.group - first);
        let mut queries = [(0, 0); MAX_ROWS];
        let mut n_queries = 0;
        let sequence = self.rows[tile.start].sequence;
        for row in tile {
            for head in first..first + n_heads {
                let head = row * self.heads.n_heads + kv_head * self.group + head;
                queries[n_queries] = (head * head_dim, self.rows[row].position);
                n_queries += 1;
            }
        }
        Unit {
            job: self,
            kv_head: self.heads.first + kv_head,
            sequence,
            queries,
            n_queries,
        }
    }
}

impl Unit<'_> {
    fn queries(&self) -> &[(usize, usize)] {
        &self.queries[..self.n_queries]
    }

    /// Returns the first position that a row sees.
    fn first_seen(&self, position: usize) -> usize {
        match self.job.heads.window {
            Some(window) => (position + 1).saturating_sub(window),
            None => 0,
        }
    }

    /// The first block that the first row, which sees furthest back, sees anything of.
    fn first_block(&self) -> usize {
        self.first_seen(self.queries()[0].1) / BLOCK
    }

    /// Blocks that the last row sees.
    fn n_blocks(&self) -> usize {
        self.queries()[self.n_queries - 1].1 / BLOCK + 1
    }

    /// Returns a query.
    fn query(&self, at: usize) -> &[f32] {
        &self.job.queries[at..][..self.job.kv.shape().head_dim]
    }

    /// Quantizes the queries if the keys are.
    fn prepare(&self, scratch: &mut BlockScratch) {
        if self.job.kv.shape().precision == KvPrecision::Int8 {
            let rows = &mut scratch.int8.queries;
            rows.reshape(self.n_queries, self.job.kv.shape().head_dim);
            for (r, &(at, _)) in self.queries().iter().enumerate() {
                rows.quantize_row(self.job.isa, r, self.query(at));
            }
        }
    }

    /// Computes one block and joins it to the states and sums of the rows.
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
        for (query, &(at, _)) in queries.iter_mut().zip(self.queries()) {
            *query = self.query(at);
        }
        let queries = &queries[..n];
        // How many positions of the block a row sees.
        let seen = |position: usize| (position + 1).saturating_sub(block * BLOCK).min(BLOCK);
        let n_positions = seen(self.queries()[n - 1].1);
        let (scores, block_sums) = (&mut scratch.scores[..n], &mut scratch.sums[..n * width]);
        let block_at = |block| self.job.kv.block(self.sequence, block, self.kv_head);
        let stored = block_at(block);
        let next = (block + 1 < self.n_blocks()).then(|| block_at(block + 1));
        match stored {
            KvBlock::F32(block) => block.run_scores(isa, queries, n_positions, scores),
            KvBlock::F16(block) => block.run_scores(isa, queries, n_positions, scores),
            KvBlock::Int8(block) => {
                block.scores(isa, &scratch.int8.queries, n_positions, scores);
            }
        }
        let mut block_states = [State::EMPTY; MAX_ROWS];
        let rows = scores.iter_mut().zip(&mut block_states).zip(self.queries());
        for ((scores, state), &(_, position)) in rows {
            let first = self.first_seen(position).saturating_sub(block * BLOCK);
            *state = isa.dispatch(Weights {
                scores,
                positions: first..seen(position),
                scale: self.job.heads.scale,
            });
        }
        match stored {
            KvBlock::F32(block) => {
                let ahead = match next {
                    Some(KvBlock::F32(next)) => next.keys,
                    _ => &[],
                };
                block.run_weighted_sums(isa, scores, n_positions, block_sums, ahead);
            }
            KvBlock::F16(block) => {
                let ahead = match next {
                    Some(KvBlock::F16(next)) => next.keys,
                    _ => &[],
                };
                block.run_weighted_sums(isa, scores, n_positions, block_sums, ahead);
            }
            KvBlock::Int8(block) => {
                let ahead = match next {
                    Some(KvBlock::Int8(next)) => Some(next),
                    _ => None,
                };
                let int8 = &mut scratch.int8;
                block.weighted_sums(isa, scores, int8, n_positions, block_sums, ahead);
            }
        }
        let rows = states.iter_mut().zip(sums.chunks_exact_mut(width));
        let block_rows = block_states.iter().zip(block_sums.chunks_exact(width));
        for ((state, sums), (&block_state, block_sums)) in rows.zip(block_rows) {
            join(isa, state, sums, block_state, block_sums);
        }
    }

    /// Writes the sums, divided by the sums of the weights.
    fn finish(&self, states: &[State], sums: &[[f32; TILE]]) {
        let head_dim = self.job.kv.shape().head_dim;
        let rows = states
            .iter()
            .zip(sums.chunks_exact(head_dim.div_ceil(TILE)));
        for ((state, sums), &(at, _)) in rows.zip(self.queries()) {
            let inverse = 1.0 / state.sum;
            // SAFETY: `at` is the place of a query, which `out` has as well, and
            // every query belongs to one unit.
            let out = unsafe { std::slice::from_raw_parts_mut(self.job.out.at(at), head_dim) };
            for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                *out = sum * inverse;
            }
        }
    }
}

/// Joins a block to the blocks before it; one that a row sees nothing of changes
/// nothing.
fn join(
    isa: Isa,
    state: &mut State,
    sums: &mut [[f32; TILE]],
    block: State,
    block_sums: &[[f32; TILE]],
) {
    // The largest score of a block adds 1 to the sum: only an empty one has 0. What
    // is not a number goes on to the result.
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
        let (max, sum) = block::weights(lanes, self.scores, self.positions, self.scale);
        State { max, sum }
    }
}

impl<E: KvElement> FloatBlock<'_, E> {
    fn run_scores(self, isa: Isa, queries: &[&[f32]], n_positions: usize, scores: &mut [Scores]) {
        isa.dispatch(ScoresOp {
            block: self,
            queries,
            n_positions,
            scores,
        });
    }

    fn run_weighted_sums(
        self,
        isa: Isa,
        weights: &[Scores],
        n_positions: usize,
        sums: &mut [[f32; TILE]],
        ahead: &[[E; TILE]],
    ) {
        isa.dispatch(WeightedSums {
            block: self,
            weights,
            n_positions,
            sums,
            ahead,
        });
    }
}

struct ScoresOp<'a, E> {
    block: FloatBlock<'a, E>,
    queries: &'a [&'a [f32]],
    n_positions: usize,
    scores: &'a mut [Scores],
}

impl<E: KvElement> WithSimd for ScoresOp<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) {
        (self.block).scores(lanes, self.queries, self.n_positions, self.scores);
    }
}

struct WeightedSums<'a, E> {
    block: FloatBlock<'a, E>,
    weights: &'a [Scores],
    n_positions: usize,
    sums: &'a mut [[f32; TILE]],
    ahead: &'a [[E; TILE]],
}

impl<E: KvElement> WithSimd for WeightedSums<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) {
        let Self { block, sums, .. } = self;
        block.weighted_sums(lanes, self.weights, self.n_positions, sums, self.ahead);
    }
}

#[cfg(test)]
mod tests;
