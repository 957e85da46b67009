//! The inner loops: one block of positions for several rows of queries.

use std::ops::Range;

use super::{BLOCK, State, TILE};
use crate::arch::CACHE_LINE;
use crate::lanes::{Lanes, WIDTH, WithSimd};
use crate::ops;
use crate::prefetch::prefetch;

/// The storage type of keys and values.
pub(super) trait KvElement: Copy {
    /// Loads sixteen elements, converted to f32.
    fn load<L: Lanes>(lanes: L, x: &[Self; WIDTH]) -> L::V;

    /// See [`Lanes::sums_of_f16`].
    #[inline(always)]
    fn sums<L: Lanes, const R: usize>(
        _lanes: L,
        _factors: [&[f32]; R],
        _x: &[[Self; WIDTH]],
        _step: usize,
    ) -> Option<[L::V; R]> {
        None
    }
}

impl KvElement for f32 {
    #[inline(always)]
    fn load<L: Lanes>(lanes: L, x: &[f32; WIDTH]) -> L::V {
        lanes.load(x)
    }
}

/// The bits of an f16.
impl KvElement for u16 {
    #[inline(always)]
    fn load<L: Lanes>(lanes: L, x: &[u16; WIDTH]) -> L::V {
        lanes.load_f16(x)
    }

    #[inline(always)]
    fn sums<L: Lanes, const R: usize>(
        lanes: L,
        factors: [&[f32]; R],
        x: &[[u16; WIDTH]],
        step: usize,
    ) -> Option<[L::V; R]> {
        lanes.sums_of_f16(factors, x, step)
    }
}

/// Scores, later weights, of the positions of a block.
pub(super) type Scores = [f32; BLOCK];

/// Keys and values of one head in one block.
#[derive(Clone, Copy)]
pub(super) struct FloatBlock<'a, E> {
    /// `[BLOCK / TILE][head_dim][TILE]`: sixteen positions are interleaved, so that the dot
    /// products of a query with sixteen keys occupy sixteen lanes.
    pub(super) keys: &'a [[E; TILE]],
    /// `[BLOCK][head_dim / TILE][TILE]`, the head dimension zero-padded.
    pub(super) values: &'a [[E; TILE]],
}

/// A pass over the first positions of a block.
#[derive(Clone, Copy)]
pub(super) struct BlockPass<'a, B, T> {
    pub(super) block: B,
    pub(super) n_positions: usize,
    /// The data to prefetch during the pass, which is read next.
    pub(super) ahead: &'a [T],
}

type FloatPass<'a, E> = BlockPass<'a, FloatBlock<'a, E>, [E; TILE]>;

/// Writes `query · key` for every query and at least the first `n_positions` keys: fused
/// multiply-adds in the order of the dimensions. Prefetches the values, which are read
/// next.
pub(super) struct ScoresOp<'a, E> {
    pub(super) block: FloatBlock<'a, E>,
    pub(super) queries: &'a [&'a [f32]],
    pub(super) n_positions: usize,
    pub(super) scores: &'a mut [Scores],
}

impl<E: KvElement> WithSimd for ScoresOp<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) {
        let mut pass = BlockPass {
            block: self.block,
            n_positions: self.n_positions,
            ahead: self.block.values,
        };
        let (queries, rest) = self.queries.as_chunks::<4>();
        let (scores, scores_rest) = self.scores.as_chunks_mut::<4>();
        for (queries, scores) in queries.iter().zip(scores) {
            if L::MAX_ACCUMULATORS >= 16 {
                pass.take().scores_of::<L, 4, 4>(lanes, queries, scores);
            } else {
                pass.take().scores_of::<L, 4, 1>(lanes, queries, scores);
            }
        }
        let (queries, rest) = rest.as_chunks::<2>();
        let (scores, scores_rest) = scores_rest.as_chunks_mut::<2>();
        for (queries, scores) in queries.iter().zip(scores) {
            if L::MAX_ACCUMULATORS >= 8 {
                pass.take().scores_of::<L, 2, 4>(lanes, queries, scores);
            } else {
                pass.take().scores_of::<L, 2, 2>(lanes, queries, scores);
            }
        }
        for (query, scores) in rest.iter().zip(scores_rest) {
            let (query, scores) = (std::array::from_ref(query), std::array::from_mut(scores));
            pass.take().scores_of::<L, 1, 4>(lanes, query, scores);
        }
    }
}

/// Writes `Σ_j weight_j · value_j` over the positions of a pass, in order, to the rows of
/// `sums`, `[weights.len()][head_dim / TILE]`.
pub(super) struct WeightedSums<'a, E> {
    pub(super) pass: FloatPass<'a, E>,
    pub(super) weights: &'a [Scores],
    pub(super) sums: &'a mut [[f32; TILE]],
}

impl<E: KvElement> WithSimd for WeightedSums<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<L: Lanes>(self, lanes: L) {
        let Self { mut pass, .. } = self;
        let width = pass.block.values.len() / BLOCK;
        let (weights, rest) = self.weights.as_chunks::<4>();
        let (sums, sums_rest) = self.sums.split_at_mut(4 * weights.len() * width);
        for (weights, sums) in weights.iter().zip(sums.chunks_exact_mut(4 * width)) {
            if L::MAX_ACCUMULATORS >= 16 {
                pass.take().sums_of::<L, 4, 4>(lanes, weights, sums);
            } else {
                pass.take().sums_of::<L, 4, 1>(lanes, weights, sums);
            }
        }
        let (weights, rest) = rest.as_chunks::<2>();
        let (sums, sums_rest) = sums_rest.split_at_mut(2 * weights.len() * width);
        for (weights, sums) in weights.iter().zip(sums.chunks_exact_mut(2 * width)) {
            if L::MAX_ACCUMULATORS >= 8 {
                pass.take().sums_of::<L, 2, 4>(lanes, weights, sums);
            } else {
                pass.take().sums_of::<L, 2, 2>(lanes, weights, sums);
            }
        }
        for (weights, sums) in rest.iter().zip(sums_rest.chunks_exact_mut(width)) {
            let weights = std::array::from_ref(weights);
            pass.take().sums_of::<L, 1, 4>(lanes, weights, sums);
        }
    }
}

impl<'a, E: KvElement> FloatPass<'a, E> {
    /// Returns the pass for a group of rows; only the first group prefetches.
    #[inline(always)]
    fn take(&mut self) -> FloatPass<'a, E> {
        let pass = *self;
        self.ahead = &[];
        pass
    }

    /// Processes `R` queries and `T` tiles of keys at a time, with the sums in registers.
    #[inline(always)]
    fn scores_of<L: Lanes, const R: usize, const T: usize>(
        self,
        lanes: L,
        queries: &[&[f32]; R],
        scores: &mut [Scores; R],
    ) {
        let head_dim = queries[0].len();
        for first in (0..self.n_positions).step_by(T * TILE) {
            let keys = &self.block.keys[first / TILE * head_dim..][..T * head_dim];
            let mut sums = [[lanes.splat(0.0); T]; R];
            if all_sums(&mut sums, |t| {
                E::sums(lanes, *queries, &keys[t * head_dim..], 1)
            }) {
                store_scores(lanes, &sums, scores, first);
                continue;
            }
            for d in 0..head_dim {
                prefetch_group::<E, T>(self.ahead, first / TILE * head_dim + T * d);
                let mut key = [lanes.splat(0.0); T];
                for t in 0..T {
                    key[t] = E::load(lanes, &keys[t * head_dim + d]);
                }
                for r in 0..R {
                    let query = lanes.splat(queries[r][d]);
                    for t in 0..T {
                        sums[r][t] = lanes.mul_add(query, key[t], sums[r][t]);
                    }
                }
            }
            store_scores(lanes, &sums, scores, first);
        }
    }

    /// Processes `R` rows of weights and `C` groups of dimensions at a time.
    #[inline(always)]
    fn sums_of<L: Lanes, const R: usize, const C: usize>(
        self,
        lanes: L,
        weights: &[Scores; R],
        sums: &mut [[f32; TILE]],
    ) {
        let width = self.block.values.len() / BLOCK;
        let whole = width / C * C;
        for first in (0..whole).step_by(C) {
            self.sums_at::<L, R, C>(lanes, weights, first, sums);
        }
        for first in whole..width {
            self.sums_at::<L, R, 1>(lanes, weights, first, sums);
        }
    }

    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "plain loops with constant bounds are unrolled, so sums are registers"
    )]
    fn sums_at<L: Lanes, const R: usize, const C: usize>(
        self,
        lanes: L,
        weights: &[Scores; R],
        first: usize,
        out: &mut [[f32; TILE]],
    ) {
        let width = self.block.values.len() / BLOCK;
        let n_positions = self.n_positions.min(BLOCK);
        let mut sums = [[lanes.splat(0.0); C]; R];
        let seen = std::array::from_fn(|r| &weights[r][..n_positions]);
        let values = self.block.values;
        let is_done = all_sums(&mut sums, |c| {
            E::sums(lanes, seen, &values[first + c..], width)
        });
        for j in 0..if is_done { 0 } else { n_positions } {
            prefetch_group::<E, C>(self.ahead, first * BLOCK + C * j);
            let mut value = [lanes.splat(0.0); C];
            for c in 0..C {
                value[c] = E::load(lanes, &self.block.values[j * width + first + c]);
            }
            for r in 0..R {
                let weight = lanes.splat(weights[r][j]);
                for c in 0..C {
                    sums[r][c] = lanes.mul_add(weight, value[c], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                lanes.store(sums[r][c], &mut out[r * width + first + c]);
            }
        }
    }
}

/// Sets each column of `sums` to `column(t)`. Returns false, and zeros, if one has none.
#[inline(always)]
fn all_sums<V: Copy, const R: usize, const T: usize>(
    sums: &mut [[V; T]; R],
    column: impl Fn(usize) -> Option<[V; R]>,
) -> bool {
    let zero = *sums;
    for t in 0..T {
        let Some(column) = column(t) else {
            *sums = zero;
            return false;
        };
        for r in 0..R {
            sums[r][t] = column[r];
        }
    }
    true
}

/// Stores the scores of `T` tiles.
#[inline(always)]
fn store_scores<L: Lanes, const R: usize, const T: usize>(
    lanes: L,
    sums: &[[L::V; T]; R],
    scores: &mut [Scores; R],
    first: usize,
) {
    for r in 0..R {
        let (out, _) = scores[r][first..].as_chunks_mut::<TILE>();
        for t in 0..T {
            lanes.store(sums[r][t], &mut out[t]);
        }
    }
}

/// Prefetches `N` tiles from `first` on, if they exist.
#[inline(always)]
fn prefetch_group<E, const N: usize>(tiles: &[[E; TILE]], first: usize) {
    if first < tiles.len() {
        for i in (0..N).step_by(CACHE_LINE.div_ceil(size_of::<[E; TILE]>())) {
            prefetch(tiles.as_ptr().wrapping_add(first + i));
        }
    }
}

/// Replaces the scores at `positions` by `exp(scale·score - max)` and the others by 0;
/// returns the maximum and the sum.
#[inline(always)]
pub(super) fn weights<L: Lanes>(
    lanes: L,
    scores: &mut Scores,
    positions: Range<usize>,
    scale: f32,
) -> State {
    if positions.is_empty() {
        scores.fill(0.0);
        return State::EMPTY;
    }
    let end = positions.end.min(BLOCK);
    let (scores, after) = scores.split_at_mut(end.next_multiple_of(TILE));
    after.fill(0.0);
    scores[..positions.start.min(end)].fill(f32::NEG_INFINITY);
    scores[end..].fill(f32::NEG_INFINITY);
    let (scores, _) = scores.as_chunks_mut::<TILE>();
    let scale = lanes.splat(scale);
    let mut max = lanes.splat(f32::NEG_INFINITY);
    for scores in scores.iter_mut() {
        let scaled = lanes.mul(lanes.load(scores), scale);
        lanes.store(scaled, scores);
        max = lanes.max(scaled, max);
    }
    let max = lanes.reduce_max(max);
    let mut sum = lanes.splat(0.0);
    for scores in scores {
        let weight = ops::exp_lanes(lanes, lanes.sub(lanes.load(scores), lanes.splat(max)));
        lanes.store(weight, scores);
        sum = lanes.add(sum, weight);
    }
    State {
        max,
        sum: lanes.reduce_sum(sum),
    }
}
