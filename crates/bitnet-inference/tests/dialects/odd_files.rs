//! Irregular files: accepted with a note if other programs read them correctly, rejected if
//! the computation would differ.

use std::ops::ControlFlow;

use bitnet_inference::perplexity;

use super::*;

fn notes(checkpoint: &Checkpoint) -> Vec<String> {
    checkpoint.notes().iter().map(ToString::to_string).collect()
}

fn load_as(checkpoint: &Checkpoint, head: HeadPrecision) -> Result<Model, CheckpointError> {
    let plan = plan(checkpoint);
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(plan.n_threads));
    let ctx = &mut ComputeContext::new(plan.isa, &mut threads);
    Model::load(checkpoint, &pool, ctx, head, |_, _| ())
}

/// Returns the notes on weights from loading.
fn weight_notes(path: &Path) -> Vec<String> {
    let model = load(&open(path)).unwrap();
    model.notes().iter().map(ToString::to_string).collect()
}

/// Returns the notes on weights from loading to a GPU, where there is one to test on.
#[cfg(feature = "gpu")]
fn weight_notes_on_gpu(path: &Path) -> Option<Vec<String>> {
    let device =
        &bitnet_inference::Device::open(bitnet_inference::DeviceKind::Vulkan, None).ok()?;
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(1));
    let ctx = &mut ComputeContext::new(bitnet_core::Isa::best(), &mut threads);
    let context_len = 64;
    let to = bitnet_inference::LoadTarget {
        device,
        context_len,
        cache: None,
    };
    let packing = HeadPrecision::Int8.into();
    let model = Model::load_on(to, &open(path), &pool, ctx, packing, |_, _| ()).unwrap();
    Some(model.notes().iter().map(ToString::to_string).collect())
}

// --- accepted with a note --------------------------------------------------------

#[test]
fn buffers_that_are_no_weights_are_left_out() {
    let folder = Folder::edited(|f| {
        let mut add = |name: &str, dtype, shape: &[usize], n_bytes| {
            let tensor = (dtype, shape.to_vec(), vec![1; n_bytes]);
            f.tensors.insert(name.to_owned(), tensor);
        };
        add("model.rotary_emb.inv_freq", Dtype::F32, &[16], 64);
        for layer in 0..2 {
            let name = format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq");
            add(&name, Dtype::F32, &[16], 64);
        }
        add("model.embeddings.position_ids", Dtype::I64, &[1, 4], 32);
        add("model.layers.0.attn.masked_bias", Dtype::F32, &[], 4);
        add("model.layers.0.causal_mask", Dtype::BOOL, &[1, 1, 4, 4], 16);
        add("model.nothing", Dtype::F64, &[0], 0);
    });
    let odd = open(folder.path());
    let prompt = &prompts()[0];
    assert_eq!(logits(&odd, prompt), logits(&open(&data(HF)), prompt));
    let [note] = &notes(&odd)[..] else {
        panic!("{:?}", odd.notes())
    };
    assert!(
        note.ends_with(" and 6 more ignored: not a weight, but a computed buffer"),
        "{note}"
    );

    let (_folder, path) = File::edited(GGUF, |f| {
        f.add_f32("blk.0.attn_rot_embd.weight", &[1.0; 16]);
    });
    let odd = open(&path);
    assert_eq!(logits(&odd, prompt), logits(&open(&data(GGUF)), prompt));
    assert_eq!(notes(&odd).len(), 1);
}

#[test]
fn what_a_configuration_leaves_out_is_as_transformers_has_it() {
    let cases = [
        ("max_position_embeddings", json!(2048)),
        ("rms_norm_eps", json!(1e-6)),
        ("rope_theta", json!(10_000.0)),
        ("hidden_act", json!("silu")),
        ("vocab_size", json!(272)),
    ];
    for (key, default) in cases {
        let without = Folder::edited(|f| {
            f.config().as_object_mut().unwrap().remove(key);
        });
        let null = Folder::edited(|f| f.config()[key] = Json::Null);
        let with = Folder::edited(|f| f.config()[key] = default.clone());
        for odd in [without, null] {
            let odd = open(odd.path());
            assert_eq!(odd.config(), open(with.path()).config(), "{key}");
            let [note] = &notes(&odd)[..] else {
                panic!("{key}: {:?}", odd.notes())
            };
            assert!(
                note.starts_with(&format!("key {key:?} is missing: ")),
                "{note}"
            );
        }
        assert_eq!(notes(&open(with.path())), [""; 0]);
    }
}

#[test]
fn configurations_as_programs_write_them_are_read() {
    type Edit = fn(&mut Folder);
    let cases: [(Edit, &str); 6] = [
        (|f| f.config()["architectures"] = Json::Null, ""),
        (
            |f| {
                f.config()["quantization_config"]["some_new_key"] = json!({ "a": [1] });
                f.config()["torch_dtype"] = "bfloat16".into();
                f.config()["pretraining_tp"] = 4.into();
                f.config()["attention_bias"] = false.into();
                f.config()["sliding_window"] = Json::Null;
                f.config()["layer_types"] = json!(["full_attention", "full_attention"]);
                f.config()["rope_theta"] = 50_000.into();
            },
            "",
        ),
        // Values computed in Python are often floats.
        (
            |f| f.config()["hidden_size"] = 256.0.into(),
            "config.json is not standard JSON; parsed as by Python",
        ),
        (
            |f| f.config()["rope_scaling"] = json!({ "type": "dynamic", "factor": 4.0 }),
            "RoPE scaling \"dynamic\" has no effect within 64 positions, and more are not supported",
        ),
        (|f| f.config()["sliding_window"] = 4096.into(), ""),
        (
            |f| {
                f.config()["use_sliding_window"] = true.into();
                f.config()["sliding_window"] = 64.into();
            },
            "",
        ),
    ];
    for (edit, expected) in cases {
        let folder = Folder::edited(edit);
        let odd = open(folder.path());
        assert_eq!(odd.config(), open(&data(HF)).config());
        assert_eq!(notes(&odd).join("\n"), expected);
    }
    let folder = Folder::edited(|f| {
        f.config()["max_position_embeddings"] = json!(1u64 << 40);
    });
    let odd = open(folder.path());
    assert_eq!(odd.config().context_len, 1 << 24);
    let note = "the context length is 1099511627776: using 16777216";
    assert_eq!(notes(&odd), [note]);
}

#[test]
fn json_that_only_python_reads_is_read() {
    let folder = Folder::edited(|_| ());
    let path = folder.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let more = ", \"initializer_range\": NaN, \"limit\": -Infinity, \"hidden_size\": 256}";
    let text = format!("\u{feff}{}{more}", text.strip_suffix('}').unwrap());
    std::fs::write(&path, &text).unwrap();
    let odd = open(folder.path());
    assert_eq!(odd.config(), open(&data(HF)).config());
    assert_eq!(notes(&odd).len(), 1);
    // Other readers of the file accept it, too.
    Tokenizer::from_checkpoint(&odd).unwrap();
    // Not where a number is needed.
    std::fs::write(
        &path,
        text.replace("\"rms_norm_eps\":0.0001", "\"rms_norm_eps\":NaN"),
    )
    .unwrap();
    assert!(load_error(folder.path()).starts_with("Json { file: \"config.json\""));
}

#[test]
fn an_index_beside_the_only_file_may_name_others() {
    let folder = Folder::edited(|_| ());
    let index =
        json!({ "weight_map": { "model.norm.weight": "model-00001-of-00002.safetensors" } });
    let path = folder.path().join("model.safetensors.index.json");
    std::fs::write(path, index.to_string()).unwrap();
    let odd = open(folder.path());
    let prompt = &prompts()[0];
    assert_eq!(logits(&odd, prompt), logits(&open(&data(HF)), prompt));
    let note = "the index names model-00001-of-00002.safetensors, which is missing; \
        model.safetensors is read instead";
    assert_eq!(notes(&odd), [note]);
    // Without a single file, the missing shard is an error.
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert!(load_error(folder.path()).starts_with("Read { file: "));
}

#[test]
fn gguf_metadata_as_programs_write_it_is_read() {
    type Edit = fn(&mut File);
    let same = |n: u32| Value::Array(Array::U32(vec![n; 2]));
    let (_folder, path) = File::edited(GGUF, |f| {
        f.set("llama.attention.head_count", same(8));
        f.set("llama.attention.head_count_kv", same(2));
        f.set("llama.feed_forward_length", same(256));
        f.remove("llama.vocab_size");
        f.remove("llama.rope.dimension_count");
    });
    assert_eq!(open(&path).config(), open(&data(GGUF)).config());
    let cases: [(Edit, &str); 3] = [
        (
            |f| f.set("llama.some_new_key", Value::F32(0.5)),
            "metadata \"llama.some_new_key\" is unknown and ignored",
        ),
        (
            |f| f.set("llama.context_length", Value::U64(1 << 40)),
            "the context length is 1099511627776: using 16777216",
        ),
        // Namespaces of other programs are ignored.
        (
            |f| f.set("quantize.imatrix.file", Value::String("x".to_owned())),
            "",
        ),
    ];
    for (edit, note) in cases {
        let (_folder, path) = File::edited(GGUF, edit);
        assert_eq!(notes(&open(&path)).join("\n"), note);
    }
    let (_folder, path) = File::edited(GGUF, |f| {
        let differ = Value::Array(Array::U32(vec![2, 4]));
        f.set("llama.attention.head_count_kv", differ);
    });
    assert!(load_error(&path).contains("\"llama.attention.head_count_kv\""));
}

// --- keys that change the computation ----------------------------------------------

#[test]
fn gguf_keys_that_change_the_computation_are_refused_by_name() {
    let float = Value::F32;
    let cases = [
        ("prism.hadamard.block_size", Value::U32(128), Value::U32(0)),
        (
            "prism.hadamard.enabled",
            Value::Bool(true),
            Value::Bool(false),
        ),
        (
            "llama.attention.sliding_window",
            Value::U32(32),
            Value::U32(64),
        ),
        ("llama.final_logit_softcapping", float(30.0), float(0.0)),
        ("llama.attn_logit_softcapping", float(50.0), float(0.0)),
        ("llama.expert_count", Value::U32(8), Value::U32(0)),
        (
            "llama.attention.value_length",
            Value::U32(64),
            Value::U32(32),
        ),
        (
            "llama.attention.causal",
            Value::Bool(false),
            Value::Bool(true),
        ),
        ("llama.residual_scale", float(0.22), float(1.0)),
        ("llama.embedding_scale", float(12.0), float(1.0)),
        ("llama.logit_scale", float(0.0625), float(1.0)),
        (
            "llama.attention.scale",
            float(0.5),
            float(1.0 / 32.0_f32.sqrt()),
        ),
        ("llama.attention.clamp_kqv", float(8.0), float(0.0)),
        ("llama.attention.max_alibi_bias", float(8.0), float(0.0)),
        ("llama.rope.scaling.attn_factor", float(1.2), float(1.0)),
        (
            "llama.rope.scaling.yarn_log_multiplier",
            float(0.1),
            float(0.0),
        ),
        (
            "llama.use_parallel_residual",
            Value::Bool(true),
            Value::Bool(false),
        ),
    ];
    let expected = open(&data(GGUF));
    for (key, changes, neutral) in cases {
        let (_folder, path) = File::edited(GGUF, |f| f.set(key, changes.clone()));
        let error = load_error(&path);
        assert!(
            error.starts_with(&format!("NotUnderstood {{ key: {key:?}")),
            "{error}"
        );
        let (_folder, path) = File::edited(GGUF, |f| f.set(key, neutral));
        let odd = open(&path);
        assert_eq!(odd.config(), expected.config(), "{key}");
        assert_eq!(notes(&odd), [""; 0], "{key}");
    }
    // With any value.
    let (_folder, path) = File::edited(GGUF, |f| f.set("llama.ssm.conv_kernel", Value::U32(4)));
    assert!(load_error(&path).starts_with("NotUnderstood { key: \"llama.ssm.conv_kernel\""));
}

#[test]
fn configuration_keys_that_change_the_computation_are_refused_by_name() {
    let cases = [
        ("attention_bias", json!(true), json!(false)),
        ("mlp_bias", json!(true), Json::Null),
        ("logits_scaling", json!(8.0), json!(1)),
        ("embedding_multiplier", json!(12), json!(1.0)),
        ("residual_multiplier", json!(0.22), json!(1.0)),
        (
            "attention_multiplier",
            json!(0.015_625),
            json!(0.176_776_69),
        ),
        ("scale_emb", json!(12), json!(1)),
        ("scale_depth", json!(1.4), Json::Null),
        ("num_experts", json!(8), json!(0)),
        ("num_local_experts", json!(8), Json::Null),
        ("final_logit_softcapping", json!(30.0), Json::Null),
        ("use_qk_norm", json!(true), json!(false)),
        ("query_pre_attn_scalar", json!(256), json!(32)),
        ("use_bidirectional_attention", json!(true), json!(false)),
        (
            "layer_types",
            json!(["full_attention", "linear_attention"]),
            json!(["full_attention", "full_attention"]),
        ),
        ("hadamard_size", json!(128), json!(0)),
        (
            "rope_scaling",
            json!({ "rope_type": "yarn", "factor": 4.0, "mscale": 0.707 }),
            Json::Null,
        ),
    ];
    for (key, changes, neutral) in cases {
        let refused = Folder::edited(|f| f.config()[key] = changes);
        let error = load_error(refused.path());
        let expected = format!("NotUnderstood {{ key: \"{key}");
        assert!(error.starts_with(&expected), "{error}");
        let read = Folder::edited(|f| f.config()[key] = neutral);
        assert_eq!(
            open(read.path()).config(),
            open(&data(HF)).config(),
            "{key}"
        );
    }
    let windowed = Folder::edited(|f| {
        f.config()["use_sliding_window"] = true.into();
        f.config()["sliding_window"] = 32.into();
    });
    let error = load_error(windowed.path());
    assert!(
        error.starts_with("NotUnderstood { key: \"sliding_window\""),
        "{error}"
    );
}

// --- weights that cannot be computed with ----------------------------------------------

const NAN: [u8; 4] = f32::NAN.to_le_bytes();
/// In f16.
const NAN_16: [u8; 2] = [0x00, 0x7e];

#[test]
fn norms_that_are_no_numbers_are_refused_when_loading() {
    for name in [
        "blk.1.attn_norm.weight",
        "blk.0.ffn_norm.weight",
        "output_norm.weight",
    ] {
        for value in [f32::NAN, f32::INFINITY] {
            let (_folder, path) = File::edited(GGUF, |f| {
                f.tensor(name).data[40..44].copy_from_slice(&value.to_le_bytes());
            });
            let expected =
                format!("NotFinite {{ name: {name:?}, row: 0, col: 10, value: {value:?} }}");
            assert_eq!(load_error(&path), expected);
        }
    }
}

#[test]
fn weights_that_no_trained_model_has_are_named_when_loading() {
    type Edit = fn(&mut File);
    /// Bytes of a row: one block, its scale at the end.
    const ROW: usize = 66;
    let cases: [(Edit, &str); 5] = [
        (
            |f| f.tensor("blk.0.attn_norm.weight").data.fill(0),
            "tensor \"blk.0.attn_norm.weight\": every value is zero",
        ),
        (
            |f| {
                for name in ["blk.0.attn_q.weight", "blk.1.attn_k.weight"] {
                    for row in f.tensor(name).data.chunks_exact_mut(ROW) {
                        row[..ROW - 2].fill(0x55);
                    }
                }
            },
            "tensor \"blk.0.attn_q.weight\" and one more: every value is zero",
        ),
        (
            |f| f.tensor("blk.0.attn_v.scale").data[..4].copy_from_slice(&[0; 4]),
            "tensor \"blk.0.attn_v.weight\": every value is zero",
        ),
        (
            |f| {
                let scale = 1e38_f32.to_le_bytes();
                f.tensor("blk.0.attn_v.scale").data[..4].copy_from_slice(&scale);
            },
            "tensor \"blk.0.attn_v.weight\" has a scale or norm of ",
        ),
        (
            |f| {
                let scale = 1e-40_f32.to_le_bytes();
                f.tensor("blk.1.attn_norm.weight").data[..4].copy_from_slice(&scale);
            },
            "tensor \"blk.1.attn_norm.weight\" has a scale or norm of ",
        ),
    ];
    for (edit, expected) in cases {
        let (_folder, path) = File::edited(GGUF, edit);
        let [note] = &weight_notes(&path)[..] else {
            panic!("{expected}: {:?}", weight_notes(&path))
        };
        assert!(note.starts_with(expected), "{note}");
        #[cfg(feature = "gpu")]
        if let Some(on_gpu) = weight_notes_on_gpu(&path) {
            assert_eq!(on_gpu, weight_notes(&path));
        }
        // Validation finds the same, and no errors.
        let found =
            bitnet_inference::validate(&open(&path), |_| (), |_, _| ControlFlow::Continue(()));
        let found = found.unwrap();
        assert!(
            found
                .iter()
                .all(|unsound| matches!(unsound, bitnet_inference::WeightError::Suspicious(_)))
        );
        assert!(!found.is_empty(), "{expected}");
    }
    for name in [
        GGUF,
        BITNET,
        "families/trilm-tq2_0.gguf",
        "families/llama-dense-q8_0.gguf",
    ] {
        assert_eq!(weight_notes(&data(name)), [""; 0], "{name}");
    }
}

/// Returns the error for these tokens, and checks that the engine remains usable.
fn run(model: Model, plan: Plan, tokens: &[u32], wanted: Logits) -> ForwardError {
    let mut engine = Engine::new(Arc::new(model), plan).unwrap();
    let input = |tokens, logits| Input {
        sequence: 0,
        tokens,
        logits,
    };
    let error = engine.forward(&[input(tokens, wanted)], |_, _, logits| {
        panic!("{} logits of no worth", logits.len())
    });
    assert_eq!(engine.len(0), 0, "what failed is forgotten");
    error.unwrap_err()
}

#[test]
fn a_token_without_an_embedding_ends_the_run_by_name() {
    // Blocks of 32 with an f16 scale: the first scale of row 5 is NaN.
    let (_folder, path) = File::edited(GGUF, |f| {
        f.tensor("token_embd.weight").data[5 * 272..][..2].copy_from_slice(&NAN_16);
    });
    let checkpoint = open(&path);
    let error = "in tensor \"token_embd.weight\": the value at row 5, column 0 is NaN, \
        expected a finite number below 1e19";
    for wanted in [
        Logits::Last,
        Logits::Top(1),
        Logits::All,
        Logits::Hidden,
        Logits::None,
    ] {
        let model = load(&checkpoint).unwrap();
        let found = run(model, plan(&checkpoint), &[5, 1], wanted);
        let error = error.to_owned();
        assert_eq!(found, ForwardError::NotFinite { error }, "{wanted:?}");
    }
    // Other tokens are unaffected.
    let sound = logits(&open(&data(GGUF)), &[1, 2]);
    assert_eq!(logits(&checkpoint, &[1, 2]), sound);
}

#[test]
fn an_output_matrix_that_is_no_number_is_found_in_every_precision() {
    // Blocks of 256 with an f16 scale at the end: row 7.
    let (_folder, path) = File::edited(GGUF, |f| {
        f.tensor("output.weight").data[7 * 210 + 208..][..2].copy_from_slice(&NAN_16);
    });
    let checkpoint = open(&path);
    for head in [HeadPrecision::Int8, HeadPrecision::ExactTopK] {
        let error = load_as(&checkpoint, head).unwrap_err();
        assert!(
            matches!(&error, CheckpointError::NotFinite { name, row: 7, .. } if name == "output.weight"),
            "{error:?}"
        );
    }
    for wanted in [Logits::Last, Logits::Top(1), Logits::All] {
        let model = load(&checkpoint).unwrap();
        let ForwardError::NotFinite { error } = run(model, plan(&checkpoint), &[1], wanted) else {
            panic!("{wanted:?}")
        };
        assert!(error.starts_with("in tensor \"output.weight\": the value at row 7"));
    }
}

#[test]
fn a_dense_layer_that_is_no_number_ends_the_run_by_name() {
    let dense = "families/llama-dense-q8_0.gguf";
    for (name, row_bytes) in [
        ("blk.1.ffn_down.weight", 102),
        ("blk.0.attn_k.weight", 68),
        ("blk.0.attn_v.weight", 68),
        ("blk.1.ffn_gate.weight", 68),
    ] {
        let (_folder, path) = File::edited(dense, |f| {
            f.tensor(name).data[3 * row_bytes..][..2].copy_from_slice(&NAN_16);
        });
        let checkpoint = open(&path);
        let model = load(&checkpoint).unwrap();
        let found = run(model, plan(&checkpoint), &[1, 2, 3], Logits::Last);
        let ForwardError::NotFinite { error } = found else {
            panic!("{name}: {found:?}")
        };
        let expected = format!("in tensor {name:?}: the value at row 3, column 0 is NaN");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn values_that_f32_does_not_hold_end_the_run_where_they_are_found() {
    let scale = |name: &'static str, scale: f32| {
        File::edited(GGUF, move |f| {
            let data = &mut f.tensor(name).data;
            for bytes in data.chunks_exact_mut(4) {
                bytes.copy_from_slice(&scale.to_le_bytes());
            }
        })
    };
    let cases = [
        (
            "blk.0.attn_v.scale",
            "the attention of layer 0",
            "blk.0.attn_v.weight",
        ),
        (
            "blk.1.ffn_norm.weight",
            "the feed-forward network of layer 1",
            "blk.1.ffn_norm.weight",
        ),
    ];
    for (name, place, named) in cases {
        let (_folder, path) = scale(name, 1e38);
        let checkpoint = open(&path);
        let model = load(&checkpoint).unwrap();
        let found = run(model, plan(&checkpoint), &[1, 2, 3], Logits::Last);
        let ForwardError::Overflow {
            place: found,
            extreme,
        } = found
        else {
            panic!("{name}: {found:?}")
        };
        assert_eq!(found, place);
        assert!(extreme.unwrap().contains(named));
    }
}

#[test]
fn an_embedding_without_a_direction_is_an_error() {
    let (_folder, path) = File::edited("families/bitnet-embedding.gguf", |f| {
        f.tensor("output_norm.weight").data.fill(0);
    });
    let error = engine(&open(&path)).embed(&[1, 2]).unwrap_err();
    assert_eq!(error, ForwardError::ZeroEmbedding);
    let (_folder, path) = File::edited("families/bitnet-embedding.gguf", |f| {
        f.tensor("output_norm.weight").data[..4].copy_from_slice(&NAN);
    });
    assert!(load_error(&path).starts_with("NotFinite"));
}

// --- perplexity without BOS -------------------------------------------------------------

#[test]
fn without_bos_every_token_but_the_first_is_scored() {
    let checkpoint = open(&data(GGUF));
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6];
    let on = |_: &_| ControlFlow::Continue(());
    let found = perplexity(&mut engine(&checkpoint), &tokens, 3, None, on).unwrap();
    let mut expected = 0.0;
    for window in [[3, 1, 4], [1, 5, 9], [2, 6, 0]] {
        let start = tokens.iter().position(|t| *t == window[0]).unwrap();
        let start = if window[0] == 1 { 3 } else { start };
        let window = if window[0] == 2 {
            &window[..1]
        } else {
            &window[..]
        };
        for (i, logits) in logits(&checkpoint, window).iter().enumerate() {
            let target = logits[tokens[start + i + 1] as usize];
            expected += log_sum_exp(logits) - f64::from(target);
        }
    }
    assert_eq!((found.tokens, found.windows), (7, 3));
    assert!(
        (found.nll_sum - expected).abs() < 1e-4,
        "{found:?}, {expected}"
    );
    assert!(perplexity(&mut engine(&checkpoint), &[3], 3, None, on).is_err());
    // With one, the first is scored too.
    let found = perplexity(&mut engine(&checkpoint), &tokens, 3, 266, on).unwrap();
    assert_eq!((found.tokens, found.windows), (8, 3));
}
