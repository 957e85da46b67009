//! Comparison with weights encoded and decoded by other programs: the `gguf` package of
//! llama.cpp (`tests/data/make_golden.py`); for types that it does not support,
//! llama.cpp's library (`make_ggml.py`), or an independent implementation for this test
//! (`make_ternary.py`); and with those quantized by `transformers` (`make_absmean.py`).

use bitnet_core::Isa;
use bitnet_quant::{
    AbsMean, DenseType, Scales, TernaryType, TernaryView, encode_ternary, sum_magnitudes,
};

const GOLDEN: &str = concat!(
    include_str!("data/golden.txt"),
    include_str!("data/ggml.txt"),
    include_str!("data/ternary.txt"),
    include_str!("data/absmean.txt")
);

fn golden(key: &str) -> &'static str {
    GOLDEN
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("{key} is in golden.txt"))
}

fn bytes(key: &str) -> Vec<u8> {
    let (pairs, _) = golden(key).as_bytes().as_chunks::<2>();
    let digit = |c: u8| char::from(c).to_digit(16).unwrap() as u8;
    pairs
        .iter()
        .map(|&[h, l]| digit(h) << 4 | digit(l))
        .collect()
}

fn floats(key: &str) -> Vec<f32> {
    let bytes = bytes(key);
    let (floats, _) = bytes.as_chunks();
    floats.iter().map(|&f| f32::from_le_bytes(f)).collect()
}

fn trits(key: &str) -> Vec<i8> {
    let trit = |c| "-0+".find(c).unwrap() as i8 - 1;
    golden(key).chars().map(trit).collect()
}

fn check_decode(ty: DenseType, stored: &str, decoded: &str) {
    let expected = floats(decoded);
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; expected.len()];
        ty.decode_row(isa, &bytes(stored), &mut out);
        for (i, (y, expected)) in out.iter().zip(&expected).enumerate() {
            assert_eq!(
                y.to_bits(),
                expected.to_bits(),
                "{isa}, {i}: {y} {expected}"
            );
        }
    }
}

fn decode(view: &TernaryView) -> Vec<i8> {
    let mut trits = vec![99; view.n_rows() * view.n_cols()];
    for (row, trits) in trits.chunks_mut(view.n_cols()).enumerate() {
        view.decode_row(row, trits).unwrap();
    }
    trits
}

#[test]
fn q8_0_encodes_as_in_llama_cpp() {
    let mut out = Vec::new();
    DenseType::Q8_0.encode_row(&floats("q8_0.values"), &mut out);
    assert_eq!(out, bytes("q8_0.stored"));
}

#[test]
fn quantized_types_decode_as_in_llama_cpp() {
    for ty in DenseType::ALL {
        if !ty.name().starts_with('Q') {
            continue;
        }
        let key = ty.name().to_lowercase();
        check_decode(ty, &format!("{key}.stored"), &format!("{key}.decoded"));
    }
}

#[test]
fn tq_formats_decode_and_encode_as_in_llama_cpp() {
    for (ty, key, block_bytes) in [
        (TernaryType::TQ1_0, "tq1_0", 54),
        (TernaryType::TQ2_0, "tq2_0", 66),
    ] {
        let mut stored = bytes(&format!("{key}.stored"));
        let trits = trits(&format!("{key}.trits"));
        let view = TernaryView::new(ty, 2, 512, &stored).unwrap();
        assert!(decode(&view) == trits, "{key}");
        // 0x2250 as f16.
        let scales = Scales::Tensor(101.0 / 8192.0);
        assert_eq!(view.scales(), Ok(scales.clone()), "{key}");

        let encoded = encode_ternary(ty, 2, 512, &scales, |row, out| {
            out.copy_from_slice(&trits[row * 512..][..512]);
        })
        .unwrap();
        // The third block is all zeros: there llama.cpp writes the scale 0.
        let d = 3 * block_bytes - 2..3 * block_bytes;
        assert_eq!(stored[d.clone()], [0, 0], "{key}");
        stored[d.clone()].copy_from_slice(&encoded[d]);
        assert_eq!(encoded, stored, "{key}");
    }
}

#[test]
fn any_bytes_of_tq1_0_decode_as_in_llama_cpp() {
    let stored = bytes("tq1_0.any.stored");
    let view = TernaryView::new(TernaryType::TQ1_0, 2, 256, &stored).unwrap();
    assert!(decode(&view) == trits("tq1_0.any.trits"));
}

#[test]
fn other_ternary_formats_decode_and_encode_as_elsewhere() {
    for (ty, key, n_cols) in [
        (TernaryType::Q1_0, "q1_0", 256),
        (TernaryType::Q2_0, "q2_0", 128),
        (TernaryType::PQ2_0, "pq2_0", 256),
        (TernaryType::PTQ1_0, "ptq1_0", 256),
        (TernaryType::IQ1BN, "iq1_bn", 128),
        (TernaryType::IQ2BN, "iq2_bn", 128),
        (TernaryType::IQ2BNR4, "iq2_bn_r4", 128),
    ] {
        let stored = bytes(&format!("{key}.stored"));
        let trits = trits(&format!("{key}.trits"));
        let n_rows = trits.len() / n_cols;
        let view = TernaryView::new(ty, n_rows, n_cols, &stored).unwrap();
        assert!(decode(&view) == trits, "{key}");
        let scales = view.scales().unwrap();
        assert_eq!(scales.values(), floats(&format!("{key}.scales")), "{key}");
        let encoded = encode_ternary(ty, n_rows, n_cols, &scales, |row, out| {
            out.copy_from_slice(&trits[row * n_cols..][..n_cols]);
        });
        assert!(encoded.unwrap() == stored, "{key}");
    }
}

#[test]
fn masters_are_rounded_as_in_transformers() {
    const N_COLS: usize = 96;
    for ty in [DenseType::F32, DenseType::F16, DenseType::BF16] {
        let decode = |key: &str| {
            let stored = bytes(&format!("{}.{key}", ty.name()));
            let mut values = vec![0.0; stored.len() / ty.block_bytes()];
            ty.decode_row(Isa::best(), &stored, &mut values);
            values
        };
        let (masters, expected) = (decode("masters"), decode("weights"));
        let sum = masters.chunks(N_COLS).map(sum_magnitudes).sum();
        let absmean = AbsMean::new(sum, masters.len(), ty);
        let mut trits = vec![0; masters.len()];
        let mut weights = vec![0.0; masters.len()];
        absmean.round_row(&masters, &mut trits);
        Scales::Tensor(absmean.scale()).scale_row(0, &trits, &mut weights);
        // Of F32, the last bits of the mean depend on the order of its sum.
        let tolerance = if ty == DenseType::F32 { 4e-7 } else { 0.0 };
        for (weight, expected) in weights.iter().zip(&expected) {
            let off = (weight - expected).abs();
            assert!(
                off <= tolerance * expected.abs(),
                "{ty:?}: {weight} {expected}"
            );
        }
        assert!(weights.contains(&0.0) && weights.iter().any(|w| *w < 0.0));
    }
}
