use super::*;
use crate::memory::HybridMemoryPool;
use crate::thread_pool::ThreadPool;

/// Pseudo-random values in -2..2.
fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / (u32::MAX as f32 / 4.0) - 2.0
    })
    .take(n)
    .collect()
}

fn at(sequence: usize, position: usize) -> RowPosition {
    RowPosition { sequence, position }
}

/// The keys and values of some positions in two layers; attention uses the second.
struct Case {
    n_positions: usize,
    n_kv_heads: usize,
    group: usize,
    head_dim: usize,
    window: Option<usize>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Case {
    fn new(n_positions: usize, n_kv_heads: usize, group: usize, head_dim: usize) -> Self {
        let len = n_positions * n_kv_heads * head_dim;
        Self {
            n_positions,
            n_kv_heads,
            group,
            head_dim,
            window: None,
            queries: values(len * group, 1),
            keys: values(len, 2),
            values: values(len, 3),
        }
    }

    /// The heads of the second layer.
    fn heads(&self) -> Heads {
        Heads {
            first: self.n_kv_heads,
            n_kv_heads: self.n_kv_heads,
            n_heads: self.n_kv_heads * self.group,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            window: self.window,
        }
    }

    fn kv(&self, isa: Isa, precision: KvPrecision) -> PagedKv {
        let shape = KvShape {
            precision,
            n_heads: 2 * self.n_kv_heads,
            head_dim: self.head_dim,
        };
        let mut kv = PagedKv::new(&HybridMemoryPool::new(), shape, 2);
        kv.reserve(1, 0, self.n_positions).unwrap();
        let width = self.n_kv_heads * self.head_dim;
        let rows = self.keys.chunks(width).zip(self.values.chunks(width));
        for (position, (key, value)) in rows.enumerate() {
            let kv_at = KeyValue { key, value };
            kv.store(isa, at(1, position), self.n_kv_heads, kv_at);
        }
        kv
    }

    /// Computes attention from position `from` on, in calls of `cut` rows.
    fn run(
        &self,
        isa: Isa,
        precision: KvPrecision,
        n_threads: usize,
        (from, cut): (usize, usize),
    ) -> Vec<f32> {
        let kv = self.kv(isa, precision);
        let rows: Vec<_> = (from..self.n_positions)
            .map(|position| at(1, position))
            .collect();
        let width = self.n_kv_heads * self.group * self.head_dim;
        let extents = AttentionExtents {
            n_threads,
            max_rows: cut,
            kv_shape: kv.shape(),
            n_positions: self.n_positions,
            heads_per_kv_head: self.group,
        };
        let mut scratch = AttentionScratch::new(&HybridMemoryPool::new(), extents).unwrap();
        let threads = &mut ThreadPool::new(n_threads);
        let ctx = &mut ComputeContext::new(isa, threads);
        let mut out = vec![f32::NAN; rows.len() * width];
        let queries = self.queries[from * width..].chunks(cut * width);
        for ((rows, values), out) in rows
            .chunks(cut)
            .zip(queries)
            .zip(out.chunks_mut(cut * width))
        {
            let heads = self.heads();
            let queries = Queries {
                rows,
                values,
                heads,
            };
            attention(ctx, &kv, queries, &mut scratch, out);
        }
        out
    }

    /// The reference result in f64.
    fn exact(&self, from: usize) -> Vec<f64> {
        let (dim, n_heads) = (self.head_dim, self.n_kv_heads * self.group);
        let mut out = Vec::new();
        for position in from..self.n_positions {
            for head in 0..n_heads {
                let query = &self.queries[(position * n_heads + head) * dim..][..dim];
                let at = |j: usize| (j * self.n_kv_heads + head / self.group) * dim;
                let first = self.window.map_or(0, |w| (position + 1).saturating_sub(w));
                let weights: Vec<f64> = (first..=position)
                    .map(|j| {
                        let key = &self.keys[at(j)..][..dim];
                        let dot: f64 = query
                            .iter()
                            .zip(key)
                            .map(|(&q, &k)| q as f64 * k as f64)
                            .sum();
                        (dot / (dim as f64).sqrt()).exp()
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..dim {
                    let value =
                        |(j, w): (usize, &f64)| w / sum * self.values[at(first + j) + d] as f64;
                    out.push(weights.iter().enumerate().map(value).sum());
                }
            }
        }
        out
    }
}

#[test]
fn attention_is_close_to_its_definition_in_every_precision() {
    let shapes = [
        (1, 1, 1, 16),
        (40, 2, 4, 64),
        (300, 1, 3, 100),
        (130, 2, 1, 96),
        (20, 1, 20, 5),
    ];
    for (n, n_kv_heads, group, head_dim) in shapes {
        let case = Case::new(n, n_kv_heads, group, head_dim);
        let exact = case.exact(0);
        let tolerances = [
            (KvPrecision::F32, 2e-6),
            (KvPrecision::F16, 2e-3),
            (KvPrecision::Int8, 4e-2),
        ];
        for (precision, tolerance) in tolerances {
            let found = case.run(Isa::best(), precision, 1, (0, n));
            assert_eq!(found.len(), exact.len());
            for (found, exact) in found.iter().zip(&exact) {
                let error = (*found as f64 - exact).abs();
                assert!(
                    error < tolerance,
                    "{precision:?} {head_dim}: {found}, exact {exact}"
                );
            }
        }
    }
}

#[test]
fn the_bits_depend_neither_on_kernel_nor_threads_nor_cut() {
    for (n, n_kv_heads, group, head_dim) in [(280, 2, 4, 64), (150, 1, 7, 36), (270, 3, 1, 16)] {
        let case = Case::new(n, n_kv_heads, group, head_dim);
        for precision in [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8] {
            let expected = case.run(Isa::Scalar, precision, 1, (0, n));
            let width = expected.len() / n;
            for isa in Isa::available() {
                for (n_threads, cut) in [(1, n), (1, 1), (3, 1), (2, 5), (8, 64), (3, n)] {
                    for from in [0, 127, 128, n - 1] {
                        let found = case.run(isa, precision, n_threads, (from, cut));
                        assert_eq!(
                            found,
                            expected[from * width..],
                            "{precision:?}, {isa}, {n_threads} threads, from {from} by {cut}"
                        );
                    }
                }
            }
        }
    }
}

/// The windows are shorter than a block, as long, and longer; some blocks are seen only by
/// the first rows of a tile, and some by none.
#[test]
fn a_window_hides_what_lies_before_it_from_every_row() {
    for (n, n_kv_heads, group, head_dim) in [(300, 1, 3, 20), (280, 2, 1, 16)] {
        for window in [1, 5, 128, 200, 1000] {
            let case = Case {
                window: Some(window),
                ..Case::new(n, n_kv_heads, group, head_dim)
            };
            let exact = case.exact(0);
            for (precision, tolerance) in [
                (KvPrecision::F32, 2e-6),
                (KvPrecision::F16, 2e-3),
                (KvPrecision::Int8, 4e-2),
            ] {
                let expected = case.run(Isa::Scalar, precision, 1, (0, n));
                for (found, exact) in expected.iter().zip(&exact) {
                    let error = (*found as f64 - exact).abs();
                    assert!(
                        error < tolerance,
                        "{precision:?}, {window}: {found}, {exact}"
                    );
                }
                let width = expected.len() / n;
                for isa in Isa::available() {
                    for (n_threads, cut) in [(3, 1), (2, 5), (3, n)] {
                        for from in [0, n - 20] {
                            let found = case.run(isa, precision, n_threads, (from, cut));
                            assert_eq!(
                                found,
                                expected[from * width..],
                                "{precision:?}, {window}, {isa}, {n_threads}, {from} by {cut}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn what_a_window_hides_may_be_no_number() {
    let mut case = Case::new(300, 1, 1, 16);
    case.window = Some(40);
    let expected = case.run(Isa::best(), KvPrecision::F32, 1, (299, 1));
    case.keys[..16 * 260].fill(f32::NAN);
    for n_threads in [1, 3] {
        let found = case.run(Isa::best(), KvPrecision::F32, n_threads, (299, 1));
        assert_eq!(found, expected);
    }
}

#[test]
fn one_position_returns_its_value() {
    let case = Case::new(1, 1, 2, 64);
    let out = case.run(Isa::best(), KvPrecision::F32, 1, (0, 1));
    assert_eq!(out, [&case.values[..], &case.values].concat());
}

#[test]
fn what_is_not_a_number_reaches_the_result() {
    for precision in [KvPrecision::F32, KvPrecision::F16] {
        for nans in [0..1, 0..128, 128..256, 130..131] {
            let mut case = Case::new(300, 1, 1, 16);
            case.keys[16 * nans.start..16 * nans.end].fill(f32::NAN);
            for n_threads in [1, 3] {
                let out = case.run(Isa::best(), precision, n_threads, (299, 1));
                assert!(out.iter().all(|y| y.is_nan()), "{precision:?}, {nans:?}");
            }
        }
    }
}

#[test]
fn scratch_for_smaller_heads_is_not_overrun() {
    // A single row needs only the scratch of one thread; the partial results of its blocks
    // would not fit in the shared scratch.
    let case = Case::new(300, 1, 1, 64);
    let kv = case.kv(Isa::best(), KvPrecision::F16);
    let narrow = KvShape {
        head_dim: 16,
        ..kv.shape()
    };
    let queries = Queries {
        rows: &[at(1, 299)],
        values: &case.queries[299 * 64..],
        heads: case.heads(),
    };
    let extents = AttentionExtents {
        n_threads: 3,
        max_rows: 1,
        kv_shape: narrow,
        n_positions: 300,
        heads_per_kv_head: 1,
    };
    let mut scratch = AttentionScratch::new(&HybridMemoryPool::new(), extents).unwrap();
    let threads = &mut ThreadPool::new(3);
    let ctx = &mut ComputeContext::new(Isa::best(), threads);
    let mut out = [0.0; 64];
    attention(ctx, &kv, queries, &mut scratch, &mut out);
    let expected = case.run(Isa::best(), KvPrecision::F16, 1, (299, 1));
    assert_eq!(out[..], expected);
}

#[test]
fn small_weights_are_not_lost_in_int8() {
    // The weight of one position dominates, but its value is zero: the sum of the others
    // determines the result.
    let mut case = Case::new(128, 1, 1, 16);
    case.keys.fill(0.0);
    case.values.fill(1.0);
    case.queries.fill(4.0);
    case.keys[..16].fill(0.35);
    case.values[..16].fill(0.0);
    let exact = *case.exact(127).last().unwrap();
    let found = case.run(Isa::best(), KvPrecision::Int8, 1, (127, 1));
    assert!((0.3..0.9).contains(&exact));
    assert!(
        (found[0] as f64 / exact - 1.0).abs() < 0.02,
        "{} {exact}",
        found[0]
    );
}

#[test]
fn sizes_are_told_before_memory_is_taken() {
    let page_bytes = |precision| {
        let shape = KvShape {
            precision,
            n_heads: 5,
            head_dim: 100,
        };
        // The pool rounds allocations up to system pages.
        let pool = HybridMemoryPool::new();
        let page = KvPage::new(&pool, shape).unwrap();
        let taken = pool.usage().total.current;
        let told = page.shape().page_bytes();
        assert!((told..told + (1 << 17)).contains(&taken), "{told} {taken}");
        told
    };
    // Values are padded to 112.
    let per_value = 128 * 5;
    assert_eq!(page_bytes(KvPrecision::F32), per_value * (100 + 112) * 4);
    assert_eq!(page_bytes(KvPrecision::F16), per_value * (100 + 112) * 2);
    // Keys are padded too, and there are two scales.
    assert_eq!(page_bytes(KvPrecision::Int8), per_value * (112 + 112 + 8));
    for precision in [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8] {
        let endless = KvShape {
            precision,
            n_heads: usize::MAX / 2,
            head_dim: 100,
        };
        assert!(KvPage::new(&HybridMemoryPool::new(), endless).is_err());
        assert!(endless.page_bytes() > 1 << 60);
    }
}

#[test]
fn pages_are_shared_until_somebody_writes() {
    let case = Case::new(300, 1, 1, 20);
    for precision in [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8] {
        let mut kv = case.kv(Isa::best(), precision);
        let before: Vec<_> = (0..300).map(|i| kv.load(at(1, i), 1)).collect();
        for (i, (key, value)) in before.iter().enumerate() {
            let exact = [&case.keys, &case.values].map(|x| &x[20 * i..][..20]);
            for (kept, exact) in [key, value].into_iter().zip(exact) {
                let errors = kept.iter().zip(exact).map(|(a, b)| (a - b).abs());
                assert!(errors.fold(0.0, f32::max) < 0.01, "{precision:?}");
            }
        }
        kv.tables_mut().share(1, 0, 200);
        assert_eq!((kv.tables().n_pages(), kv.tables().pages(0).len()), (3, 2));
        // The second page is copied, and one is new.
        assert_eq!(kv.tables().n_pages_needed(0, 200, 260), 2);
        kv.reserve(0, 200, 260).unwrap();
        assert_eq!(
            (
                kv.tables().n_pages(),
                kv.tables().n_pages_needed(0, 200, 260)
            ),
            (5, 0)
        );
        let written = KeyValue {
            key: &[9.0; 20],
            value: &[8.0; 20],
        };
        for i in 200..260 {
            kv.store(Isa::best(), at(0, i), 1, written);
        }
        for (i, before) in before.iter().enumerate().take(200) {
            assert_eq!(kv.load(at(0, i), 1), *before);
        }
        assert_eq!(kv.load(at(0, 200), 1), (vec![9.0; 20], vec![8.0; 20]));
        for (i, before) in before.iter().enumerate() {
            assert_eq!(kv.load(at(1, i), 1), *before);
        }
        // Pages that only sequence 1 holds are released.
        kv.tables_mut().truncate(1, 0);
        assert_eq!(kv.tables().n_pages(), 3);
        assert_eq!(kv.load(at(0, 100), 1), before[100]);
        kv.tables_mut().truncate(0, 129);
        assert_eq!(kv.tables().n_pages(), 2);
        kv.tables_mut().truncate(0, 128);
        assert_eq!(kv.tables().n_pages(), 1);
    }
}

#[test]
fn what_an_earlier_owner_left_in_a_page_does_not_matter() {
    let case = Case::new(130, 1, 2, 16);
    for precision in [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8] {
        let expected = case.run(Isa::best(), precision, 1, (129, 1));
        let mut kv = case.kv(Isa::best(), precision);
        kv.reserve(1, 130, 256).unwrap();
        let nothing = KeyValue {
            key: &[f32::NAN; 16],
            value: &[f32::NAN; 16],
        };
        for i in 130..256 {
            kv.store(Isa::best(), at(1, i), 1, nothing);
        }
        let queries = Queries {
            rows: &[at(1, 129)],
            values: &case.queries[129 * 32..],
            heads: case.heads(),
        };
        let extents = AttentionExtents {
            n_threads: 1,
            max_rows: 1,
            kv_shape: kv.shape(),
            n_positions: 130,
            heads_per_kv_head: 2,
        };
        let mut scratch = AttentionScratch::new(&HybridMemoryPool::new(), extents).unwrap();
        let threads = &mut ThreadPool::new(1);
        let ctx = &mut ComputeContext::new(Isa::best(), threads);
        let mut out = [0.0; 32];
        attention(ctx, &kv, queries, &mut scratch, &mut out);
        assert_eq!(out[..], expected, "{precision:?}");
    }
}

#[test]
fn a_page_that_is_read_is_the_one_that_was_written() {
    let pool = HybridMemoryPool::new();
    for precision in [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8] {
        let shape = KvShape {
            precision,
            n_heads: 2,
            head_dim: 24,
        };
        let mut page = KvPage::new(&pool, shape).unwrap();
        for at in 0..KvPage::POSITIONS {
            let (key, value) = (values(48, at as u32), values(48, 200 + at as u32));
            let kv = KeyValue {
                key: &key,
                value: &value,
            };
            page.store(Isa::Scalar, at, 0, kv);
        }
        let mut bytes = Vec::new();
        page.write_to(&mut bytes);
        assert_eq!(bytes.len(), shape.page_bytes(), "{precision:?}");
        let read = KvPage::read_from(&pool, shape, &bytes).unwrap();
        for at in 0..KvPage::POSITIONS {
            for head in 0..2 {
                assert_eq!(read.load(at, head), page.load(at, head), "{precision:?}");
            }
        }
    }
}
