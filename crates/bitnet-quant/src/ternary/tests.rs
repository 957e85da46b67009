//! Tests of properties common to all formats.

use bitnet_core::RunLen;
use half::f16;
use proptest::prelude::*;

use super::*;
use crate::error::TernaryError;

fn trits(n: usize, seed: u64) -> Vec<i8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 32) % 3) as i8 - 1
    })
    .take(n)
    .collect()
}

/// As [`trits`], of those that the format has.
fn trits_of(ty: TernaryType, n: usize, seed: u64) -> Vec<i8> {
    let mut trits = trits(n, seed);
    if ty == TernaryType::Q1_0 {
        for trit in &mut trits {
            *trit |= 1;
        }
    }
    trits
}

/// Types with a scale in each block.
fn block_types() -> impl Iterator<Item = TernaryType> {
    let all = TernaryType::ALL.into_iter();
    all.filter(|ty| ty.group_len().is_some())
}

fn encode(ty: TernaryType, n_cols: usize, scale: f32, trits: &[i8]) -> Vec<u8> {
    encode_ternary(
        ty,
        trits.len() / n_cols,
        n_cols,
        &Scales::Tensor(scale),
        |row, out| {
            out.copy_from_slice(&trits[row * n_cols..][..n_cols]);
        },
    )
    .unwrap()
}

fn decode(view: &TernaryView) -> Result<Vec<i8>, TernaryError> {
    let mut trits = vec![99; view.n_rows() * view.n_cols()];
    for (row, trits) in trits.chunks_mut(view.n_cols()).enumerate() {
        view.decode_row(row, trits)?;
    }
    Ok(trits)
}

#[test]
fn matrices_take_the_published_bytes() {
    let cases = [
        (TernaryType::I2S, "I2_S", 2.0, 4 * 512 / 4 + 32),
        (TernaryType::I2SNeon, "I2_S (neon)", 2.0, 4 * 512 / 4 + 32),
        (TernaryType::I2SRows4, "I2_S (rows4)", 2.0, 4 * 512 / 4 + 32),
        (TernaryType::TQ1_0, "TQ1_0", 1.6875, 8 * 54),
        (TernaryType::TQ2_0, "TQ2_0", 2.0625, 8 * 66),
        (TernaryType::Q1_0, "Q1_0", 1.125, 16 * 18),
        (TernaryType::Q2_0, "Q2_0", 2.25, 32 * 18),
        (TernaryType::PQ2_0, "PQ2_0", 2.125, 16 * 34),
        (TernaryType::PTQ1_0, "PTQ1_0", 1.75, 16 * 28),
        (TernaryType::IQ1BN, "IQ1_BN", 1.625, 4 * (2 + 8 * 13)),
        (TernaryType::IQ2BN, "IQ2_BN", 2.0, 4 * (4 + 8 * 16)),
        (TernaryType::IQ2BNR4, "IQ2_BN_R4", 2.0, 4 * (4 + 8 * 16)),
        (TernaryType::HfPacked, "HF-packed", 2.0, 512),
    ];
    assert_eq!(cases.map(|(ty, ..)| ty), TernaryType::ALL);
    for (ty, name, bits, n_bytes) in cases {
        assert_eq!(ty.name(), name);
        assert_eq!(ty.bits_per_weight(), bits, "{name}");
        assert_eq!(ty.n_bytes(4, 512), Ok(n_bytes), "{name}");
    }
}

#[test]
fn shapes_of_part_of_a_block_are_refused() {
    let cases = [
        (TernaryType::I2S, 4, 192, "columns", 128, 192),
        (TernaryType::I2SNeon, 4, 96, "columns", 64, 96),
        (TernaryType::I2SRows4, 6, 96, "rows", 4, 6),
        (TernaryType::TQ1_0, 4, 128, "columns", 256, 128),
        (TernaryType::Q1_0, 4, 64, "columns", 128, 64),
        (TernaryType::Q2_0, 4, 96, "columns", 64, 96),
        (TernaryType::PQ2_0, 4, 64, "columns", 128, 64),
        (TernaryType::PTQ1_0, 4, 64, "columns", 128, 64),
        (TernaryType::IQ1BN, 4, 96, "columns", 64, 96),
        (TernaryType::IQ2BN, 4, 96, "columns", 64, 96),
        (TernaryType::IQ2BNR4, 6, 64, "rows", 4, 6),
        (TernaryType::TQ2_0, 4, 384, "columns", 256, 384),
        (TernaryType::HfPacked, 6, 256, "rows", 4, 6),
    ];
    for (ty, n_rows, n_cols, axis, multiple, found) in cases {
        let expected = ShapeError::PartialBlock {
            format: ty.name(),
            axis,
            multiple,
            found,
        };
        assert_eq!(ty.n_bytes(n_rows, n_cols), Err(expected.clone()));
        // The same from both ends, with the same words.
        let error = TernaryView::new(ty, n_rows, n_cols, &[]).unwrap_err();
        assert_eq!(error, TernaryError::Shape(expected.clone()));
        assert_eq!(error.to_string(), expected.to_string());
        let error =
            encode_ternary(ty, n_rows, n_cols, &Scales::Tensor(1.0), |_, _| ()).unwrap_err();
        assert_eq!(error, TernaryError::Shape(expected));
    }
}

#[test]
fn shapes_without_weights_are_refused() {
    for ty in TernaryType::ALL {
        for (n_rows, n_cols) in [(0, 256), (4, 0), (0, 0)] {
            let format = ty.name();
            let expected = ShapeError::Empty {
                format,
                n_rows,
                n_cols,
            };
            assert_eq!(ty.n_bytes(n_rows, n_cols), Err(expected));
        }
    }
}

#[test]
fn shapes_beyond_memory_are_refused() {
    let half = 1 << (usize::BITS / 2);
    for ty in TernaryType::ALL {
        for (n_rows, n_cols) in [
            (half, half),
            (4, usize::MAX - 255),
            (1 << (usize::BITS - 3), 256),
        ] {
            let format = ty.name();
            let expected = ShapeError::TooLarge {
                format,
                n_rows,
                n_cols,
            };
            assert_eq!(ty.n_bytes(n_rows, n_cols), Err(expected));
        }
    }
}

#[test]
fn every_other_length_is_refused() {
    for ty in TernaryType::ALL {
        let bytes = encode(ty, 256, 0.5, &trits_of(ty, 4 * 256, 1));
        let longer = [&bytes[..], &[0]].concat();
        let lengths = (0..bytes.len()).chain([bytes.len() + 1]);
        for found in lengths {
            let error = TernaryView::new(ty, 4, 256, &longer[..found]).unwrap_err();
            let expected = TernaryError::Length {
                format: ty.name(),
                n_rows: 4,
                n_cols: 256,
                expected: bytes.len(),
                found,
            };
            assert_eq!(error, expected);
        }
    }
}

#[test]
fn a_code_3_is_found_where_it_is() {
    let n_cols = 512;
    let with_code_3 = [
        TernaryType::I2S,
        TernaryType::I2SNeon,
        TernaryType::I2SRows4,
        TernaryType::TQ2_0,
        TernaryType::Q2_0,
        TernaryType::PQ2_0,
        TernaryType::IQ2BN,
        TernaryType::IQ2BNR4,
        TernaryType::HfPacked,
    ];
    for ty in with_code_3 {
        let ones = encode(ty, n_cols, 1.0, &vec![1; 8 * n_cols]);
        for (row, col) in [(0, 0), (0, 511), (1, 31), (3, 32), (6, 100), (7, 383)] {
            // -1 is the code 0: the bits that differ from +1 are those of the weight.
            let mut trits = vec![1; 8 * n_cols];
            trits[row * n_cols + col] = -1;
            let minus = encode(ty, n_cols, 1.0, &trits);
            let mut bytes = ones.clone();
            for (byte, minus) in bytes.iter_mut().zip(&minus) {
                let bit = *byte ^ minus;
                *byte |= bit | bit >> 1;
            }
            let view = TernaryView::new(ty, 8, n_cols, &bytes).unwrap();
            let error = decode(&view).unwrap_err();
            assert_eq!(error, TernaryError::InvalidCode { row, col }, "{ty:?}");
            // Rows that share its bytes are not affected.
            for other in (0..8).filter(|&other| other != row) {
                view.decode_row(other, &mut vec![0; n_cols]).unwrap();
            }
        }
    }
}

#[test]
fn blocks_keep_scales_of_their_own() {
    for ty in block_types() {
        let len = ty.group_len().unwrap();
        let n_cols = 2 * len;
        let mut trits = trits_of(ty, 3 * n_cols, 5);
        if ty != TernaryType::Q1_0 {
            trits[..len].fill(0); // the first block
            trits[n_cols + len..2 * n_cols].fill(0); // the fourth of six
        }
        let bytes = encode(ty, n_cols, 0.5, &trits);
        let ScalePlace::Block(at) = ty.layout().scale else {
            unreachable!()
        };
        let with_scale = |block: usize, scale: f32| {
            let mut bytes = bytes.clone();
            bytes[block * ty.layout().block_bytes + at..][..2]
                .copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            bytes
        };
        let scales = |bytes: &[u8]| TernaryView::new(ty, 3, n_cols, bytes).unwrap().scales();
        if ty != TernaryType::Q1_0 {
            for zero_block in [0, 3] {
                for other in [0.0, 3.0, f32::NAN] {
                    let bytes = with_scale(zero_block, other);
                    assert_eq!(scales(&bytes), Ok(Scales::Tensor(0.5)), "{ty:?}");
                }
            }
        }
        let values = vec![0.5, 0.5, 0.5, 0.5, 0.5, 3.0];
        let expected = Scales::Groups { len, values };
        assert_eq!(scales(&with_scale(5, 3.0)), Ok(expected), "{ty:?}");
        let error = scales(&with_scale(5, f32::INFINITY)).unwrap_err();
        let expected = TernaryError::GroupScaleNotFinite {
            scale: f32::INFINITY,
            row: 2,
            col: len,
        };
        assert_eq!(error, expected, "{ty:?}");
    }
}

#[test]
fn copied_codes_are_those_that_are_decoded() {
    use TernaryType::{I2S, I2SNeon, IQ2BN, TQ2_0};

    let mut copied = Vec::new();
    for ty in TernaryType::ALL {
        let (n_rows, n_cols) = (4, 512);
        let bytes = encode(ty, n_cols, 1.0, &trits_of(ty, n_rows * n_cols, 5));
        let view = TernaryView::new(ty, n_rows, n_cols, &bytes).unwrap();
        let (mut codes, mut trits) = (vec![0; n_cols / 4], vec![0; n_cols]);
        for row in 0..n_rows {
            view.decode_row(row, &mut trits).unwrap();
            let Some(runs) = view.copy_codes(row, &mut codes) else {
                continue;
            };
            copied.push(ty);
            let len = match runs.len {
                RunLen::Sixteen => 16,
                RunLen::ThirtyTwo => 32,
            };
            for (col, trit) in trits.iter().enumerate() {
                let run = col / len % 4;
                let run = if runs.is_high_first { 3 - run } else { run };
                let byte = codes[col / (4 * len) * len + col % len];
                assert_eq!((byte >> (2 * run) & 3) as i8 - 1, *trit, "{ty:?}, {col}");
            }
        }
    }
    copied.dedup();
    assert_eq!(copied, [I2S, I2SNeon, TQ2_0, IQ2BN]);
}

#[test]
fn without_nonzero_weights_the_first_block_has_the_scale() {
    for ty in block_types().filter(|ty| *ty != TernaryType::Q1_0) {
        let bytes = encode(ty, 256, 0.25, &[0; 4 * 256]);
        let view = TernaryView::new(ty, 4, 256, &bytes).unwrap();
        assert_eq!(view.scales(), Ok(Scales::Tensor(0.25)));
    }
}

#[test]
fn scales_that_are_not_finite_are_refused() {
    for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let check = |error| {
            let TernaryError::ScaleNotFinite { scale: found } = error else {
                panic!("{error}");
            };
            assert!(found == scale || (found.is_nan() && scale.is_nan()));
        };
        for ty in TernaryType::ALL {
            if ty == TernaryType::HfPacked {
                continue;
            }
            let scales = Scales::Tensor(scale);
            check(encode_ternary(ty, 4, 256, &scales, |_, _| ()).unwrap_err());

            let mut bytes = encode(ty, 256, 1.0, &trits_of(ty, 4 * 256, 9));
            let half = f16::from_f32(scale).to_le_bytes();
            let layout = ty.layout();
            let whole = scale.to_le_bytes();
            match layout.scale {
                ScalePlace::Tail => bytes[4 * 64..][..4].copy_from_slice(&whole),
                ScalePlace::Block(at) => {
                    for block in bytes.chunks_mut(layout.block_bytes) {
                        block[at..][..2].copy_from_slice(&half);
                    }
                }
                ScalePlace::RowF16 => {
                    for row in bytes.chunks_mut(layout.stride(256)) {
                        row[..2].copy_from_slice(&half);
                    }
                }
                ScalePlace::RowF32 => {
                    for rows in bytes.chunks_mut(layout.stride(256)) {
                        for prefix in rows[..layout.prefix()].chunks_mut(4) {
                            prefix.copy_from_slice(&whole);
                        }
                    }
                }
                ScalePlace::Beside => unreachable!(),
            }
            let view = TernaryView::new(ty, 4, 256, &bytes).unwrap();
            check(view.scales().unwrap_err());
        }
        let rows = Scales::Rows(vec![1.0, 1.0, scale, 1.0]);
        let error = encode_ternary(TernaryType::IQ2BN, 4, 256, &rows, |_, _| ()).unwrap_err();
        let place = TernaryError::GroupScaleNotFinite {
            scale,
            row: 2,
            col: 0,
        };
        assert_eq!(error.to_string(), place.to_string());
    }
}

#[test]
fn scales_that_a_format_has_no_room_for_are_refused() {
    let rows = Scales::Rows(vec![1.0; 4]);
    let groups = |len| Scales::Groups {
        len,
        values: vec![1.0; 4 * 512 / len],
    };
    let fits = |ty, scales: &Scales| {
        let encoded = encode_ternary(ty, 4, 512, scales, |_, trits| trits.fill(1));
        match encoded {
            Ok(_) => true,
            Err(TernaryError::TooManyScales { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    };
    for ty in TernaryType::ALL {
        use ScalePlace::{Beside, Block, Tail};
        let place = ty.layout().scale;
        assert_eq!(fits(ty, &rows), place != Tail, "{ty:?}");
        for len in [64, 128, 256, 512] {
            let expected = match place {
                Beside => true,
                Block(_) => ty.layout().block_len <= len,
                _ => false,
            };
            assert_eq!(fits(ty, &groups(len)), expected, "{ty:?}, {len}");
        }
    }
    let error = encode_ternary(TernaryType::I2S, 4, 512, &groups(64), |_, _| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "I2_S has no room for a scale for each 64 weights of a row"
    );
}

#[test]
fn a_zero_does_not_fit_one_bit() {
    let fill = |row: usize, trits: &mut [i8]| {
        trits.fill(1);
        trits[5] = 1 - row as i8;
    };
    let scales = Scales::Tensor(1.0);
    let error = encode_ternary(TernaryType::Q1_0, 2, 128, &scales, fill).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Q1_0 cannot store the 0 at row 1, column 5"
    );
}

#[test]
fn a_scale_that_the_format_would_change_is_refused() {
    for ty in block_types().chain([TernaryType::IQ1BN]) {
        for (scale, nearest) in [(1.0001, 1.0), (1e-9, 0.0), (1e6, f32::INFINITY)] {
            let error = encode_ternary(ty, 4, 256, &Scales::Tensor(scale), |_, _| ()).unwrap_err();
            let expected = TernaryError::ScaleNotRepresentable {
                format: ty.name(),
                scale,
                nearest,
            };
            assert_eq!(error, expected);
        }
    }
}

#[test]
#[should_panic(expected = "2 at row 1, column 3 is no trit")]
fn anything_but_a_trit_is_not_encoded() {
    let _ = encode_ternary(
        TernaryType::HfPacked,
        4,
        8,
        &Scales::Tensor(1.0),
        |row, trits| {
            trits[3] = if row == 1 { 2 } else { 0 };
        },
    );
}

#[test]
#[should_panic(expected = "row 4 of 4")]
fn a_row_out_of_range_panics() {
    let view = TernaryView::new(TernaryType::HfPacked, 4, 1, &[0]).unwrap();
    let _ = view.decode_row(4, &mut [0]);
}

#[test]
#[should_panic(expected = "trits of a row")]
fn a_slice_of_another_length_panics() {
    let view = TernaryView::new(TernaryType::HfPacked, 4, 1, &[0]).unwrap();
    let _ = view.decode_row(0, &mut [0; 2]);
}

proptest! {
    #[test]
    fn trits_and_scales_survive_a_round_trip(
        n_rows in 1usize..9, n_blocks in 1usize..5, seed: u64,
        // Halves that are finite, also subnormal ones.
        halves in proptest::collection::vec(0u16..0x7c00, 32), kind in 0..3,
    ) {
        for ty in TernaryType::ALL {
            let layout = ty.layout();
            let n_rows = layout.rows * n_rows;
            let block_len = if layout.block_len == 1 { 37 } else { layout.block_len };
            let n_cols = block_len * n_blocks;
            let trits = trits_of(ty, n_rows * n_cols, seed);
            let value = |i: usize| f16::from_bits(halves[i % 32]).to_f32();
            let mut scales = match (kind, layout.scale) {
                (0, _) | (_, ScalePlace::Tail) => Scales::Tensor(value(0)),
                (2, ScalePlace::Block(_)) => Scales::Groups {
                    len: block_len,
                    values: (0..n_rows * n_blocks).map(value).collect(),
                },
                _ => Scales::Rows((0..n_rows).map(value).collect()),
            };
            let encoded = encode_ternary(ty, n_rows, n_cols, &scales, |row, out| {
                out.copy_from_slice(&trits[row * n_cols..][..n_cols]);
            });
            let bytes = encoded.unwrap();
            prop_assert_eq!(Ok(bytes.len()), ty.n_bytes(n_rows, n_cols));
            let view = TernaryView::new(ty, n_rows, n_cols, &bytes).unwrap();
            prop_assert!(decode(&view).unwrap() == trits);
            if layout.scale == ScalePlace::Beside {
                scales = Scales::Tensor(1.0);
            }
            // The same values, whatever the form.
            let decoded = view.scales().unwrap();
            let (mut expected, mut found) = (vec![0.0; n_cols], vec![0.0; n_cols]);
            for (row, trits) in trits.chunks(n_cols).enumerate() {
                scales.scale_row(row, trits, &mut expected);
                decoded.scale_row(row, trits, &mut found);
                prop_assert_eq!(&expected, &found);
            }
        }
    }

    #[test]
    fn any_bytes_decode_to_trits_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 600)) {
        for ty in TernaryType::ALL {
            let layout = ty.layout();
            let (n_rows, n_cols) = (4, if layout.block_len == 1 { 37 } else { layout.block_len });
            let n_bytes = ty.n_bytes(n_rows, n_cols).unwrap();
            let view = TernaryView::new(ty, n_rows, n_cols, &bytes[..n_bytes]).unwrap();
            if let Ok(scales) = view.scales() {
                prop_assert!(scales.values().iter().all(|s| s.is_finite()));
            }
            if let Ok(trits) = decode(&view) {
                prop_assert!(trits.iter().all(|trit| (-1..=1).contains(trit)));
            }
        }
    }
}
