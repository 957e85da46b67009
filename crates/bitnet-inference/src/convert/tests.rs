//! Conversions of the repository's tiny model.

use std::path::Path;

use super::*;
use crate::format::checkpoint::Origin;
use crate::format::gguf::GgufWriter;
use crate::format::gguf_types::type_id;
use crate::format::tensor::StoredTensor;
use crate::spec::tensors;
use crate::tokenizer::Tokenizer;

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
    convert(from, out, options, &mut ThreadPool::new(2), GO_ON).unwrap();
    Checkpoint::open(out).unwrap()
}

/// Every trit and scale by name, in the order of the forward pass.
fn ternaries(checkpoint: &Checkpoint) -> Vec<(String, u32, Vec<i8>)> {
    let widths = checkpoint.config().rotary_widths();
    tensors::expected(checkpoint.config())
        .into_iter()
        .filter(|e| matches!(e.role, Role::Linear | Role::Rotary))
        .map(|expected| {
            let tensor = TernaryTensor::new(checkpoint, Isa::best(), &expected.name).unwrap();
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
        tensor.decode_row(Isa::best(), row, values);
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
    let ids = Tokenizer::from_checkpoint(&original)
        .unwrap()
        .encode(text)
        .unwrap();

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
        let tokenizer = Tokenizer::from_checkpoint(&last).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "step {i}");
        let eos: Vec<_> = tokenizer.eog().collect();
        assert_eq!(eos, [8177, 8185], "step {i}");
    }
}

#[test]
fn a_scale_that_f16_cannot_hold_gets_a_tensor_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    // An I2_S file with one f32 scale that is neither BF16 nor F16.
    let path = folder.path().join("i2_s.gguf");
    convert(tiny(), &path, options(I2_S), &mut ThreadPool::new(2), GO_ON).unwrap();
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
    let error = convert(&original, &out, bad, &mut ThreadPool::new(1), GO_ON).unwrap_err();
    assert!(matches!(error, ConvertError::HeadType { found: "Q8_0" }));
    assert!(!out.exists());
}

fn family(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families");
    Checkpoint::open(&folder.join(name)).unwrap()
}

/// The content bytes of all weights, independent of their storage type.
fn content(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut content = Vec::new();
    let errors = crate::validate(checkpoint, |bytes| content.extend_from_slice(bytes), GO_ON);
    assert!(errors.unwrap().is_empty());
    content
}

/// Rewrites a model of [`family`], replacing the bytes of tensors for which `edit`
/// returns some.
fn rewritten(
    name: &str,
    edit: impl Fn(&Checkpoint, &Expected) -> Option<(Encoding, Vec<u8>)>,
) -> Checkpoint {
    let checkpoint = family(name);
    let Origin::Gguf(gguf) = checkpoint.origin() else {
        unreachable!("it is a GGUF file")
    };
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        writer.metadata(key, value.clone());
    }
    let mut data = Vec::new();
    for expected in tensors::expected(checkpoint.config()) {
        let stored = checkpoint.tensor(&expected.name);
        let (encoding, bytes) = edit(&checkpoint, &expected)
            .unwrap_or_else(|| (stored.encoding, checkpoint.stored_bytes(stored).to_vec()));
        let shape = [expected.n_cols as u64, expected.n_rows as u64];
        let n_dims = if expected.role == Role::Norm { 1 } else { 2 };
        let id = type_id(encoding).unwrap();
        writer.tensor(&expected.name, &shape[..n_dims], id, bytes.len() as u64);
        data.push(bytes);
    }
    let file = writer.write::<_, io::Error>(Vec::new(), |i, out| out.write_all(&data[i]));
    Checkpoint::from_gguf_bytes(file.unwrap()).unwrap()
}

/// The weights of a ternary tensor: trits times scales.
fn products(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = TernaryTensor::new(checkpoint, Isa::best(), name).unwrap();
    let mut values = vec![0.0; tensor.n_rows * tensor.n_cols];
    let mut trits = vec![0; tensor.n_cols];
    for (row, values) in values.chunks_mut(tensor.n_cols).enumerate() {
        tensor.decode_row(row, &mut trits).unwrap();
        tensor.scales.scale_row(row, &trits, values);
    }
    values
}

#[test]
fn dense_linear_layers_stay_as_they_are() {
    const DENSE: &str = "blk.0.attn_q.weight";
    let folder = tempfile::tempdir().unwrap();
    let mixed = rewritten("trilm-tq2_0.gguf", |checkpoint, expected| {
        let source = Source {
            checkpoint,
            isa: Isa::best(),
            head: None,
            to_folder: false,
        };
        let (f32, rows) = (DenseType::F32, RotaryRows::Interleaved);
        (expected.name == DENSE).then(|| {
            let bytes = source.encode_dense(expected, f32, rows, &mut ThreadPool::new(1));
            (Encoding::Dense(f32), bytes.unwrap())
        })
    });
    assert!(mixed.config().dense_linears);
    let result = converted(&mixed, &folder.path().join("out"), options(TQ2_0));
    assert_eq!(result.config(), mixed.config());
    let encoding = result.tensor(DENSE).encoding;
    assert_eq!(encoding, Encoding::Dense(DenseType::F32));
    assert!(content(&result) == content(&mixed));
    assert!(dense(&result, DENSE) == products(&family("trilm-tq2_0.gguf"), DENSE));
}

#[test]
fn ternary_embeddings_stay_so_unless_another_type_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    // Use the first rows of another matrix as the embedding.
    let model = rewritten("trilm-tq2_0.gguf", |checkpoint, expected| {
        let rows = checkpoint.stored_bytes(checkpoint.tensor("blk.0.attn_v.weight"));
        let tq2_0 = TernaryType::TQ2_0;
        (expected.name == tensors::TOKEN_EMBD).then(|| {
            let n_bytes = tq2_0.n_bytes(expected.n_rows, expected.n_cols).unwrap();
            (Encoding::Ternary(tq2_0), rows[..n_bytes].to_vec())
        })
    });
    let stays = converted(&model, &folder.path().join("stays"), options(TQ1_0));
    let encoding = stays.tensor(tensors::TOKEN_EMBD).encoding;
    assert_eq!(encoding, Encoding::Ternary(TernaryType::TQ1_0));
    assert!(content(&stays) == content(&model));
    let f16 = ConvertOptions {
        head: Some(DenseType::F16),
        ..options(TQ1_0)
    };
    let is_dense = converted(&model, &folder.path().join("dense"), f16);
    let values = dense(&is_dense, tensors::TOKEN_EMBD);
    assert!(values == products(&model, tensors::TOKEN_EMBD));
}

#[test]
fn what_a_target_cannot_hold_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let refused = |name: &str, target| {
        let from = family(name);
        let error =
            convert(&from, &out, options(target), &mut ThreadPool::new(1), GO_ON).unwrap_err();
        assert!(!out.exists());
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        format!("{error}{}", source.unwrap_or_default())
    };
    assert_eq!(
        refused("llama-dense-q8_0.gguf", TQ2_0),
        "the model has no ternary weights"
    );
    assert_eq!(
        refused("bonsai-q2_0.gguf", Target::HfPacked),
        "tensor \"token_embd.weight\" is stored as Q2_0: a HuggingFace folder has linear \
         layers as packed trits and embeddings as F32, F16 or BF16"
    );
    assert_eq!(
        refused("bonsai-q2_0.gguf", TQ2_0),
        "in tensor \"token_embd.weight\": TQ2_0 stores columns in multiples of 256, found 128"
    );
    let several = refused("trilm-tq2_0.gguf", I2_S);
    assert!(
        several.starts_with("in tensor \"blk.0.attn_q.weight\": "),
        "{several}"
    );
}

/// Options that overwrite existing output.
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
    let mut threads = ThreadPool::new(1);
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
            let error = convert(tiny(), &out, options(target), &mut threads, stop).unwrap_err();
            assert!(matches!(error, ConvertError::Interrupted), "{error}");
            assert_eq!(entries(), 0);
        }
    }
    std::fs::write(&out, "precious").unwrap();
    let stop = |_, _| ControlFlow::Break(());
    let error = convert(tiny(), &out, overwriting(I2_S), &mut threads, stop).unwrap_err();
    assert!(matches!(error, ConvertError::Interrupted), "{error}");
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    assert_eq!(entries(), 1);
}

#[test]
fn what_is_there_is_replaced_whole_on_request_only() {
    let folder = tempfile::tempdir().unwrap();
    let entries = || std::fs::read_dir(folder.path()).unwrap().count();
    let mut threads = ThreadPool::new(1);
    let mut error =
        |out: &Path, options| convert(tiny(), out, options, &mut threads, GO_ON).unwrap_err();
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
