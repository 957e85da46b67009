//! The program with models in published formats.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use bitnet_inference::gguf::{Gguf, GgufWriter};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::{PROMPT, bitnet, bitnet_in, in_repository};

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A small model with packed weights; none of its files but these is needed.
fn tiny_llama() -> (Value, Tensors) {
    let folder = in_repository("crates/bitnet-inference/tests/data/tiny-llama");
    let config = fs::read(format!("{folder}/config.json")).unwrap();
    let mut tensors = BTreeMap::new();
    for part in 1..=2 {
        let file = format!("{folder}/model-{part:05}-of-00002.safetensors");
        let file = fs::read(file).unwrap();
        for (name, view) in SafeTensors::deserialize(&file).unwrap().tensors() {
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            tensors.insert(name, tensor);
        }
    }
    (serde_json::from_slice(&config).unwrap(), tensors)
}

fn write_folder(folder: &Path, config: &Value, tensors: &Tensors) {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name, view)
    });
    let file = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("model.safetensors"), file).unwrap();
}

/// Returns the bytes of a value, and the value that they represent.
fn stored(dtype: Dtype, value: f32) -> (Vec<u8>, f32) {
    match dtype {
        Dtype::F16 => {
            let x = f16::from_f32(value);
            (x.to_le_bytes().to_vec(), x.to_f32())
        }
        Dtype::BF16 => {
            let x = bf16::from_f32(value);
            (x.to_le_bytes().to_vec(), x.to_f32())
        }
        _ => (value.to_le_bytes().to_vec(), value),
    }
}

/// Returns master weights between -1 and 1, their trits, and the scale, by an
/// implementation of the reference independent of the tested code.
fn masters(dtype: Dtype, n: usize, seed: u64) -> (Vec<u8>, Vec<i8>, f32) {
    let mut state = seed;
    let random = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    let (bytes, values): (Vec<_>, Vec<_>) = random.take(n).map(|x| stored(dtype, x)).unzip();
    let sum: f64 = values.iter().map(|x| f64::from(x.abs())).sum();
    let scale = 1.0 / ((sum / n as f64) as f32).max(1e-5);
    let trits = (values.iter())
        .map(|x| (x * scale).round_ties_even().clamp(-1.0, 1.0) as i8)
        .collect();
    (bytes.concat(), trits, stored(dtype, 1.0 / scale).1)
}

/// Returns rows as quarters of a matrix, two bits each.
fn packed(trits: &[i8]) -> Vec<u8> {
    let quarter = trits.len() / 4;
    (0..quarter)
        .map(|at| {
            (0..4).fold(0, |byte, i| {
                byte | ((trits[i * quarter + at] + 1) as u8) << (2 * i)
            })
        })
        .collect()
}

/// Returns the most likely tokens and their logits.
fn logits(folder: &Path, model: &str) -> Value {
    let args = ["logits", "-q", "--json", "--head", "exact", "--top", "5"];
    let args = [&args[..], &["--tokens", "266,72,101,108", "-m", model]].concat();
    bitnet_in(folder, &args).json()["top"].take()
}

#[test]
fn masters_run_as_the_weights_that_they_round_to() {
    let folder = tempfile::tempdir().unwrap();
    let (mut config, original) = tiny_llama();
    for (name, dtype) in [
        ("f32", Dtype::F32),
        ("f16", Dtype::F16),
        ("bf16", Dtype::BF16),
    ] {
        let (mut online, mut offline) = (Tensors::new(), Tensors::new());
        for (i, (tensor, (ty, shape, data))) in original.iter().enumerate() {
            if *ty != Dtype::U8 {
                if !tensor.ends_with("weight_scale") {
                    online.insert(tensor.clone(), (*ty, shape.clone(), data.clone()));
                    offline.insert(tensor.clone(), (*ty, shape.clone(), data.clone()));
                }
                continue;
            }
            let (n_rows, n_cols) = (4 * shape[0], shape[1]);
            let (bytes, trits, scale) = masters(dtype, n_rows * n_cols, i as u64 + 1);
            online.insert(tensor.clone(), (dtype, vec![n_rows, n_cols], bytes));
            offline.insert(tensor.clone(), (Dtype::U8, shape.clone(), packed(&trits)));
            let scale = (Dtype::F32, vec![1], scale.to_le_bytes().to_vec());
            offline.insert(format!("{tensor}_scale"), scale);
        }
        let mut of_mode = |mode: &str, tensors| {
            config["quantization_config"] = json!({
                "quant_method": "bitnet", "linear_class": "autobitlinear",
                "quantization_mode": mode, "modules_to_not_convert": ["lm_head"],
            });
            let model = format!("{name}-{mode}");
            write_folder(&folder.path().join(&model), &config, tensors);
            logits(folder.path(), &model)
        };
        let expected = of_mode("offline", &offline);
        assert_eq!(of_mode("online", &online), expected, "{name}");
        assert_eq!(expected.as_array().unwrap().len(), 5);
    }
}

/// Stores I2_S weights as bitnet.cpp's old ARM builds did: blocks of half the length.
fn as_neon(weights: &mut [u8]) {
    for block in weights.chunks_exact_mut(32) {
        let code = |i: usize, block: &[u8]| block[i % 32] >> (6 - 2 * (i / 32)) & 3;
        let codes: Vec<u8> = (0..128).map(|i| code(i, block)).collect();
        for (j, byte) in block.iter_mut().enumerate() {
            let (half, j) = (&codes[j / 16 * 64..], j % 16);
            *byte = half[j] << 6 | half[16 + j] << 4 | half[32 + j] << 2 | half[48 + j];
        }
    }
}

#[test]
fn another_layout_of_i2_s_is_noticed_and_read_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let canonical = folder.join("canonical.gguf");
    bitnet_in(folder, &["convert", "-q", "builtin", "canonical.gguf"]).quietly();
    let file = fs::read(canonical).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        writer.metadata(key, value.clone());
    }
    for tensor in gguf.tensors() {
        writer.tensor(&tensor.name, &tensor.shape, tensor.type_id, tensor.span);
    }
    let written = writer.write::<_, io::Error>(Vec::new(), |i, out: &mut dyn Write| {
        let tensor = &gguf.tensors()[i];
        let bytes = &file[tensor.offset as usize..][..tensor.span as usize];
        let mut bytes = bytes.to_vec();
        if tensor.type_id == 36 {
            let n_weights = tensor.shape.iter().product::<u64>() as usize;
            as_neon(&mut bytes[..n_weights / 4]);
        }
        out.write_all(&bytes)
    });
    fs::write(folder.join("neon.gguf"), written.unwrap()).unwrap();

    let args = ["run", "--json", "--temp", "0", "-n", "8", "-m"];
    let run = |more: &[&str]| bitnet_in(folder, &[&args, more, &[PROMPT]].concat());
    let mut expected = run(&["canonical.gguf"]).json();
    let as_read = run(&["neon.gguf"]);
    assert!(
        as_read.stderr.contains("try `--i2s-layout neon`"),
        "{as_read:?}"
    );
    let as_read: Value = serde_json::from_str(&as_read.stdout).unwrap();
    assert_ne!(as_read["ids"], expected["ids"]);
    let mut on_request = run(&["neon.gguf", "--i2s-layout", "neon"]).json();
    assert_eq!(on_request["ids"].take(), expected["ids"].take());
}

#[test]
fn embeddings_are_those_of_the_reference() {
    let families = in_repository("crates/bitnet-inference/tests/data/families");
    let reference = fs::read(format!("{families}/reference.json")).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let name = "bitnet-embedding.gguf";
    let numbers = |json: &Value| -> Vec<f64> {
        let values = json.as_array().unwrap().iter();
        values.map(|x| x.as_f64().unwrap()).collect()
    };
    for run in reference[name].as_array().unwrap() {
        let ids = run["ids"].to_string();
        let ids = ids.trim_matches(['[', ']']);
        let model = format!("{families}/{name}");
        let args = ["embed", "-q", "--tokens", ids, "--kv", "f32", "-m", &model];
        let document = bitnet(&[&args[..], &["--json"]].concat()).json();
        assert_eq!(document["ids"], run["ids"]);
        let (found, expected) = (numbers(&document["embedding"]), numbers(&run["embedding"]));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let lines = bitnet(&args).quietly();
        let lines: Vec<f64> = lines.lines().map(|line| line.parse().unwrap()).collect();
        // Both are formatted as f32.
        assert_eq!(lines, found);
    }
}

#[test]
fn a_text_is_embedded_with_the_tokens_around_it() {
    let document = bitnet(&["embed", "-q", "--json", "Once upon a time"]).json();
    let tokens = bitnet(&["tokenize", "-q", "--json", "Once upon a time"]).json();
    assert_eq!(document["ids"], tokens["ids"]);
    let embedding = document["embedding"].as_array().unwrap();
    let squares = embedding.iter().map(|x| x.as_f64().unwrap().powi(2));
    assert!((squares.sum::<f64>() - 1.0).abs() < 1e-5);
    for args in [&["--tokens", ""][..], &["--tokens", "99999"]] {
        let run = bitnet(&[&["embed", "-q"], args].concat());
        assert_eq!(run.code, Some(2), "{run:?}");
    }
}
