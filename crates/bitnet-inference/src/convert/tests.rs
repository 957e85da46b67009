//! Conversions of the repository's tiny model.

use std::path::Path;

use super::*;
use crate::format::checkpoint::StoredTensor;
use crate::model::tensors;

const GO_ON: fn(usize, usize) -> ControlFlow<()> = |_, _| ControlFlow::Continue(());
const I2_S: Target = Target::Gguf(GgufWeights::I2S);
const TQ1_0: Target = Target::Gguf(GgufWeights::TQ1_0);
const TQ2_0: Target = Target::Gguf(GgufWeights::TQ2_0);

fn tiny() -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/storyteller-tiny");
    Checkpoint::open(&folder).unwrap()
}

fn options(target: Target) -> ConvertOptions {
    ConvertOptions {
        target,
        head: None,
        overwrite: false,
    }
}

/// Converts and opens the result.
fn converted(from: &Checkpoint, out: &Path, options: ConvertOptions) -> Checkpoint {
    convert(from, out, options, &mut Team::new(2), GO_ON).unwrap();
    Checkpoint::open(out).unwrap()
}

/// Every trit and scale by name, in the order of the forward pass.
fn ternaries(checkpoint: &Checkpoint) -> Vec<(String, u32, Vec<i8>)> {
    let widths = checkpoint.config().rotary_widths();
    tensors::expected(checkpoint.config())
        .into_iter()
        .filter(|e| matches!(e.role, Role::Linear | Role::Rotary))
        .map(|expected| {
            let tensor = checkpoint.ternary(&expected.name).unwrap();
            let scale = tensor.scales.tensor().unwrap();
            let mut trits = vec![0; expected.n_rows * expected.n_cols];
            for (row, trits) in trits.chunks_mut(expected.n_cols).enumerate() {
                let row = match expected.role {
                    Role::Rotary => {
                        RotaryRows::Halves.position_in(checkpoint.rotary_rows(), row, widths)
                    }
                    _ => row,
                };
                tensor.decode_row(row, trits).unwrap();
            }
            (expected.name, scale.to_bits(), trits)
        })
        .collect()
}

/// The values of a dense tensor.
fn dense(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.dense(name);
    let mut values = vec![0.0; tensor.n_rows * tensor.n_cols];
    for (row, values) in values.chunks_mut(tensor.n_cols).enumerate() {
        tensor.decode_row(Kernel::best(), row, values);
    }
    values
}

#[test]
fn a_round_trip_through_every_format_keeps_trits_scales_and_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let original = tiny();
    let expected = ternaries(&original);
    assert_eq!(expected.len(), 7 * original.config().n_layers);
    let text = "“Na\u{ef}ve,” said 12345 caf\u{e9}s\n\n<|eot_id|>  twice";
    let ids = original.tokenizer().unwrap().encode(text).unwrap();

    let mut last = tiny();
    let way = [
        I2_S,
        Target::HfPacked,
        TQ1_0,
        TQ2_0,
        I2_S,
        TQ1_0,
        Target::HfPacked,
    ];
    for (i, target) in way.into_iter().enumerate() {
        last = converted(&last, &folder.path().join(i.to_string()), options(target));
        assert_eq!(last.config(), original.config(), "step {i}");
        assert!(ternaries(&last) == expected, "step {i}");
        for name in [tensors::TOKEN_EMBD, tensors::OUTPUT_NORM] {
            assert!(dense(&last, name) == dense(&original, name), "step {i}");
        }
        let tokenizer = last.tokenizer().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "step {i}");
        let eos: Vec<_> = tokenizer.eos().collect();
        assert_eq!(eos, [8177, 8185], "step {i}");
    }
}

#[test]
fn a_scale_that_f16_cannot_hold_gets_a_tensor_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    // An I2_S file with one f32 scale that is neither BF16 nor F16.
    let path = folder.path().join("i2_s.gguf");
    convert(&tiny(), &path, options(I2_S), &mut Team::new(2), GO_ON).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let StoredTensor { range, .. } = checkpoint.tensor("blk.1.ffn_up.weight").clone();
    drop(checkpoint);
    let scale = 0.012_345_678_f32;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[range.end - 32..][..4].copy_from_slice(&scale.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();

    let checkpoint = Checkpoint::open(&path).unwrap();
    let expected = ternaries(&checkpoint);
    assert!(expected.iter().any(|(_, bits, _)| *bits == scale.to_bits()));
    for (i, target) in [TQ1_0, TQ2_0, Target::HfPacked].into_iter().enumerate() {
        let there = converted(
            &checkpoint,
            &folder.path().join(i.to_string()),
            options(target),
        );
        assert!(ternaries(&there) == expected, "{target:?}");
        let back = converted(
            &there,
            &folder.path().join(format!("{i}-back")),
            options(I2_S),
        );
        assert!(ternaries(&back) == expected, "{target:?} and back");
    }
}

#[test]
fn the_head_is_quantized_on_request_only() {
    let folder = tempfile::tempdir().unwrap();
    let original = tiny();
    let stored = |checkpoint: &Checkpoint| checkpoint.dense(tensors::TOKEN_EMBD).ty();
    assert_eq!(stored(&original), DenseType::BF16);
    let writable = DenseType::ALL.into_iter().filter(|ty| ty.is_writable());
    for (i, head) in writable.enumerate() {
        let options = ConvertOptions {
            head: Some(head),
            ..options(TQ2_0)
        };
        let result = converted(&original, &folder.path().join(i.to_string()), options);
        assert_eq!(stored(&result), head);
        assert!(ternaries(&result) == ternaries(&original));
    }
    let q8_0 = folder.path().join("3");
    let folder_options = ConvertOptions {
        head: None,
        ..options(Target::HfPacked)
    };
    let result = converted(
        &Checkpoint::open(&q8_0).unwrap(),
        &folder.path().join("hf"),
        folder_options,
    );
    assert_eq!(stored(&result), DenseType::F32);
    let bad = ConvertOptions {
        head: Some(DenseType::Q8_0),
        ..options(Target::HfPacked)
    };
    let out = folder.path().join("bad");
    let error = convert(&original, &out, bad, &mut Team::new(1), GO_ON).unwrap_err();
    assert!(matches!(error, ConvertError::HeadType { found: "Q8_0" }));
    assert!(!out.exists());
}

/// Options that replace what is there.
fn overwriting(target: Target) -> ConvertOptions {
    ConvertOptions {
        overwrite: true,
        ..options(target)
    }
}

#[test]
fn an_interrupted_conversion_leaves_nothing_and_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let entries = || std::fs::read_dir(folder.path()).unwrap().count();
    let mut team = Team::new(1);
    let out = folder.path().join("out");
    for target in [I2_S, Target::HfPacked] {
        for stop_at in [0, 1, 20] {
            let stop = |done, _| {
                if done < stop_at {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            };
            let error = convert(&tiny(), &out, options(target), &mut team, stop).unwrap_err();
            assert!(matches!(error, ConvertError::Interrupted), "{error}");
            assert_eq!(entries(), 0);
        }
    }
    std::fs::write(&out, "precious").unwrap();
    let stop = |_, _| ControlFlow::Break(());
    let error = convert(&tiny(), &out, overwriting(I2_S), &mut team, stop).unwrap_err();
    assert!(matches!(error, ConvertError::Interrupted), "{error}");
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    assert_eq!(entries(), 1);
}

#[test]
fn what_is_there_is_replaced_whole_on_request_only() {
    let folder = tempfile::tempdir().unwrap();
    let entries = || std::fs::read_dir(folder.path()).unwrap().count();
    let mut team = Team::new(1);
    let mut error =
        |out: &Path, options| convert(&tiny(), out, options, &mut team, GO_ON).unwrap_err();
    for (target, other) in [(I2_S, Target::HfPacked), (Target::HfPacked, I2_S)] {
        let out = folder.path().join(format!("{target:?}"));
        converted(&tiny(), &out, options(target));
        let n = entries();
        assert!(matches!(
            error(&out, options(target)),
            ConvertError::Exists { .. }
        ));
        match error(&out, overwriting(other)) {
            ConvertError::Folder { path } => assert!(path.is_dir()),
            ConvertError::NotAFolder { path } => assert!(path.is_file()),
            other => panic!("{other}"),
        }
        let result = converted(&tiny(), &out, overwriting(target));
        assert!(ternaries(&result) == ternaries(&tiny()));
        assert_eq!(entries(), n, "nothing is left beside it");
        if out.is_dir() {
            std::fs::write(out.join("thesis.txt"), "precious").unwrap();
            match error(&out, overwriting(target)) {
                ConvertError::NotReplaceable { found, .. } => assert_eq!(found, "thesis.txt"),
                other => panic!("{other}"),
            }
            assert_eq!(std::fs::read(out.join("thesis.txt")).unwrap(), b"precious");
        }
    }
}
