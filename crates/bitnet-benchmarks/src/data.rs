//! Test matrices and activations.

use bitnet_core::{
    ComputeContext, HybridMemoryPool, Int8Rows, Isa, OutOfMemory, PackedInt8, PackedTernary, Shape,
    TernaryLayout, TernarySpec, ThreadPool,
};
use bitnet_quant::DenseType;

/// Returns a pseudo-random number in 0..2^32 for each index.
fn hash(i: usize) -> u32 {
    let x = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 29))
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .rotate_left(31) as u32
}

/// Returns pseudo-random numbers between -2 and 2.
pub fn values(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| hash(i) as f32 / (1 << 30) as f32 - 2.0)
        .collect()
}

/// Returns a ternary matrix, a third of it zeros.
pub fn ternary(layout: TernaryLayout, n_rows: usize, n_cols: usize) -> PackedTernary {
    sparse_ternary(layout, Shape { n_rows, n_cols }, 100)
}

/// Returns a ternary matrix, a third of it zeros, whose rows are zero but for `percent` of
/// them.
pub(crate) fn sparse_ternary(layout: TernaryLayout, shape: Shape, percent: u32) -> PackedTernary {
    let (pool, threads) = (HybridMemoryPool::new(), &mut ThreadPool::new(1));
    let ctx = &mut ComputeContext::new(Isa::best(), threads);
    let spec = TernarySpec {
        layout,
        shape,
        scales: 0.02.into(),
    };
    let packed = PackedTernary::pack(&pool, ctx, spec, &|row: usize, trits: &mut [i8]| {
        if hash(row) % 100 >= percent {
            trits.fill(0);
            return Ok::<_, OutOfMemory>(());
        }
        for (col, trit) in trits.iter_mut().enumerate() {
            *trit = (hash(row * shape.n_cols + col) % 3) as i8 - 1;
        }
        Ok(())
    });
    packed.expect("some megabytes")
}

/// Returns an int8 matrix.
pub fn int8(n_rows: usize, n_cols: usize) -> PackedInt8 {
    let (pool, threads) = (HybridMemoryPool::new(), &mut ThreadPool::new(1));
    let shape = Shape { n_rows, n_cols };
    let ctx = &mut ComputeContext::new(Isa::best(), threads);
    let packed = PackedInt8::quantize(&pool, ctx, shape, |row, values| {
        for (col, value) in values.iter_mut().enumerate() {
            *value = hash(row * n_cols + col) as f32 / 4e9 - 0.5;
        }
    });
    packed.expect("some megabytes")
}

/// Returns the bytes of identical rows in a storage format.
///
/// # Panics
///
/// Panics if `n_cols` is not whole blocks of the format.
pub fn dense_rows(ty: DenseType, n_rows: usize, n_cols: usize) -> Vec<u8> {
    let mut row = Vec::new();
    ty.encode_row(&values(n_cols), &mut row);
    row.repeat(n_rows)
}

/// Returns one row of quantized activations with a list of those that are not zero: part
/// `part` of all, of which there are so many, at pseudo-random places.
pub(crate) fn listed_activations(n_cols: usize, part: usize, n_parts: usize) -> Int8Rows {
    let pool = HybridMemoryPool::new();
    let rows = Int8Rows::with_capacity(&pool, 1, n_cols);
    let rows = rows.and_then(|rows| rows.with_lists(&pool, 1, n_cols));
    let mut rows = rows.expect("some kilobytes");
    let is_zero = |col: usize| hash(col) as usize % n_parts != part;
    let mut x = values(n_cols);
    for (_, x) in x.iter_mut().enumerate().filter(|(col, _)| is_zero(*col)) {
        *x = 0.0;
    }
    rows.quantize(Isa::best(), &x, n_cols);
    rows.list_nonzero(&mut ComputeContext::new(
        Isa::best(),
        &mut ThreadPool::new(1),
    ));
    rows
}

/// Returns quantized activations of `n_tokens` tokens.
pub fn activations(n_tokens: usize, n_cols: usize) -> Int8Rows {
    let rows = Int8Rows::with_capacity(&HybridMemoryPool::new(), n_tokens, n_cols);
    let mut rows = rows.expect("some megabytes");
    rows.quantize(Isa::best(), &values(n_tokens * n_cols), n_cols);
    rows
}
