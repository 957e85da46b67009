//! Encoding.

use half::f16;

use super::{
    ScalePlace, Scales, TernaryType, hf_packed, i2_s, iq_bn, ptq1_0, q1_0, q2_0, tq1_0, tq2_0,
};
use crate::error::TernaryError;

/// Encodes a matrix; `fill_row(row, trits)` writes one row as -1, 0, +1 and is
/// called once for each row, in order.
///
/// Returns the bytes of the matrix, including its scales. HF-packed stores no scales:
/// they are ignored, and belong in a separate tensor (`weight_scale`). In formats with
/// a scale per block, blocks of zeros have one, too.
///
/// # Errors
///
/// [`TernaryError::Shape`] if the format cannot store the shape,
/// [`TernaryError::ScaleNotFinite`] or [`TernaryError::GroupScaleNotFinite`] if a
/// scale is infinite or NaN, [`TernaryError::TooManyScales`] if the format cannot store
/// that many, [`TernaryError::ScaleNotRepresentable`] if it would change one,
/// [`TernaryError::ZeroWeight`] if a weight is 0 and the format has only -1 and +1.
///
/// # Panics
///
/// Panics if `fill_row` writes anything but -1, 0 and +1, or if `scales` does not match
/// the shape of the matrix.
pub fn encode_ternary(
    ty: TernaryType,
    n_rows: usize,
    n_cols: usize,
    scales: &Scales,
    mut fill_row: impl FnMut(usize, &mut [i8]),
) -> Result<Vec<u8>, TernaryError> {
    let mut bytes = vec![0; ty.n_bytes(n_rows, n_cols)?];
    write_scales(ty, n_rows, n_cols, scales, &mut bytes)?;
    let mut trits = vec![0; n_cols];
    for row in 0..n_rows {
        fill_row(row, &mut trits);
        if let Some(col) = trits.iter().position(|trit| !(-1..=1).contains(trit)) {
            panic!("{} at row {row}, column {col} is no trit", trits[col]);
        }
        if ty == TernaryType::HfPacked {
            let (packed_row, quarter) = hf_packed::place(row, n_rows);
            let packed = &mut bytes[packed_row * n_cols..][..n_cols];
            hf_packed::encode(&trits, quarter, packed);
            continue;
        }
        let (range, member) = ty.layout().place(row, n_cols);
        let blocks = &mut bytes[range];
        match ty {
            TernaryType::I2S => i2_s::encode::<32>(&trits, blocks),
            TernaryType::I2SNeon => i2_s::encode::<16>(&trits, blocks),
            TernaryType::I2SRows4 => hf_packed::encode(&trits, 3 - member, blocks),
            TernaryType::TQ1_0 => tq1_0::encode(&trits, blocks),
            TernaryType::TQ2_0 => tq2_0::encode(&trits, blocks),
            TernaryType::Q1_0 => {
                if let Some(col) = trits.iter().position(|trit| *trit == 0) {
                    let format = ty.name();
                    return Err(TernaryError::ZeroWeight { format, row, col });
                }
                q1_0::encode(&trits, blocks);
            }
            TernaryType::Q2_0 => q2_0::encode::<18>(&trits, blocks),
            TernaryType::PQ2_0 => q2_0::encode::<34>(&trits, blocks),
            TernaryType::PTQ1_0 => ptq1_0::encode(&trits, blocks),
            TernaryType::IQ1BN => iq_bn::encode_iq1(&trits, blocks),
            TernaryType::IQ2BN => iq_bn::encode_iq2(&trits, blocks),
            TernaryType::IQ2BNR4 => iq_bn::encode_iq2_r4(&trits, member, blocks),
            TernaryType::HfPacked => unreachable!("encoded above"),
        }
    }
    Ok(bytes)
}

/// Writes the scales at their place in the format.
fn write_scales(
    ty: TernaryType,
    n_rows: usize,
    n_cols: usize,
    scales: &Scales,
    bytes: &mut [u8],
) -> Result<(), TernaryError> {
    let layout = ty.layout();
    let room = match (layout.scale, scales) {
        (ScalePlace::Beside, _) => return Ok(()),
        (_, Scales::Tensor(_)) => true,
        (place, Scales::Rows(_)) => place != ScalePlace::Tail,
        (ScalePlace::Block(_), Scales::Groups { len, .. }) => len.is_multiple_of(layout.block_len),
        (_, Scales::Groups { .. }) => false,
    };
    if !room {
        return Err(TernaryError::TooManyScales {
            format: ty.name(),
            found: scales.to_string(),
        });
    }
    let finite = |row: usize, col: usize| {
        let scale = scales.at(row, col, n_cols);
        match scales {
            _ if scale.is_finite() => Ok(scale),
            Scales::Tensor(_) => Err(TernaryError::ScaleNotFinite { scale }),
            _ => Err(TernaryError::GroupScaleNotFinite { scale, row, col }),
        }
    };
    let half = |row: usize, col: usize| {
        let scale = finite(row, col)?;
        let half = f16::from_f32(scale);
        if half.to_f32() == scale {
            Ok(half.to_le_bytes())
        } else {
            Err(TernaryError::ScaleNotRepresentable {
                format: ty.name(),
                scale,
                nearest: half.to_f32(),
            })
        }
    };
    let stride = layout.stride(n_cols);
    match layout.scale {
        ScalePlace::Beside => {}
        ScalePlace::Tail => i2_s::write_scale(finite(0, 0)?, bytes),
        ScalePlace::RowF16 => {
            for row in 0..n_rows {
                bytes[row * stride..][..2].copy_from_slice(&half(row, 0)?);
            }
        }
        ScalePlace::RowF32 => {
            for row in 0..n_rows {
                let at = row / layout.rows * stride + row % layout.rows * 4;
                bytes[at..][..4].copy_from_slice(&finite(row, 0)?.to_le_bytes());
            }
        }
        ScalePlace::Block(at) => {
            let blocks_per_row = n_cols / layout.block_len;
            for (i, block) in bytes.chunks_mut(layout.block_bytes).enumerate() {
                let col = i % blocks_per_row * layout.block_len;
                block[at..][..2].copy_from_slice(&half(i / blocks_per_row, col)?);
            }
        }
    }
    Ok(())
}
