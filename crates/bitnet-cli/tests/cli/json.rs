//! The documents of `--json`: one on stdout, and no other output.

use std::path::Path;

use insta::assert_snapshot;
use serde_json::{Value, json};

use super::{PROMPT, bitnet, bitnet_with_stdin};

#[test]
fn run() {
    let args = ["run", "-q", "--json", "--temp", "0", "-n", "8", PROMPT];
    let mut first = bitnet(&args).json();
    let mut second = bitnet(&args).json();
    for run in [&mut first, &mut second] {
        for (key, value) in run["timings"].as_object_mut().unwrap() {
            assert!(value.as_f64().unwrap() > 0.0, "{key}");
            *value = json!("positive");
        }
        assert!(run["seed"].is_u64());
        run["seed"] = json!("any");
    }
    assert_eq!(first, second);
    assert_snapshot!(format!("{first:#}"), @r#"
    {
      "prompt_ids": [
        8176,
        46,
        1277,
        597,
        258,
        587,
        469,
        310,
        258
      ],
      "ids": [
        668,
        2855,
        283,
        5865,
        11,
        278,
        262,
        2855
      ],
      "text": " great noise of shouting, and the noise",
      "finish_reason": "length",
      "seed": "any",
      "timings": {
        "load_s": "positive",
        "prefill_s": "positive",
        "decode_s": "positive",
        "prefill_tok_s": "positive",
        "decode_tok_s": "positive"
      }
    }
    "#);
}

#[test]
fn the_seed_decides_the_text_whatever_computes() {
    let story = |options: &[&str]| {
        let args = ["run", "-q", "--json", "-n", "12", PROMPT];
        let mut run = bitnet(&[&args, options].concat()).json();
        assert_eq!(run["finish_reason"], "length");
        (run["text"].take(), run["ids"].take())
    };
    let expected = story(&["--seed", "7", "-t", "1"]);
    assert_eq!(story(&["--seed", "7", "-t", "3"]), expected);
    assert_ne!(story(&["--seed", "8"]), expected);
    for isa in bitnet_core::Isa::available() {
        let variant = isa.name().rsplit('-').next().unwrap();
        for name in [isa.name(), variant] {
            let options = ["--seed", "7", "--kernel", name];
            assert_eq!(story(&options), expected, "{name}");
        }
    }
}

#[test]
fn the_seed_that_was_drawn_gives_the_text_again() {
    let args = ["run", "-q", "--json", "-n", "8", PROMPT];
    let drawn = bitnet(&args).json();
    let seed = drawn["seed"].to_string();
    let again = bitnet(&[&args[..], &["--seed", &seed]].concat()).json();
    assert_eq!(again["ids"], drawn["ids"]);
}

#[test]
fn run_stops_where_the_context_ends() {
    let args = ["run", "-q", "--json", "--temp", "0", "-c", "12"];
    let run = bitnet(&[&args[..], &[PROMPT]].concat()).json();
    let n_prompt = run["prompt_ids"].as_array().unwrap().len();
    let n_written = run["ids"].as_array().unwrap().len();
    // The last token is not added to the KV cache.
    assert_eq!(n_prompt + n_written, 13);
    assert_eq!(run["finish_reason"], "length");
}

#[test]
fn logits() {
    let ids = "8176,46,1277,597,258,587,469,310,258";
    let args = ["logits", "-q", "--json", "--tokens", ids, "--top", "3"];
    let mut exact = bitnet(&[&args[..], &["--head", "exact"]].concat()).json();
    let int8 = bitnet(&args).json();
    assert_eq!(exact["top"][0]["id"], int8["top"][0]["id"]);
    // The prompt of the test above: the most likely token here is the first one there.
    assert_eq!(int8["top"][0]["id"], 668);
    let top = exact["top"].as_array_mut().unwrap();
    assert!(
        top.windows(2)
            .all(|pair| pair[0]["logit"].as_f64() >= pair[1]["logit"].as_f64())
    );
    assert_snapshot!(exact, @r#"{"ids":[8176,46,1277,597,258,587,469,310,258],"top":[{"id":668,"logit":8.151644},{"id":542,"logit":8.02653},{"id":439,"logit":7.3716}]}"#);
}

#[test]
fn tokenize_and_back() {
    let text = "Ein Märchen: 龍と🐉!";
    let encoded = bitnet(&["tokenize", "-q", "--json", text]).json();
    assert_snapshot!(encoded, @r#"{"ids":[8176,36,259,358,127,97,81,2923,25,220,165,122,235,159,223,101,172,253,238,231,0],"tokens":["<|begin_of_text|>","E","in"," M","�","�","r","chen",":"," ","�","�","�","�","�","�","�","�","�","�","!"]}"#);
    let ids: Vec<_> = encoded["ids"].as_array().unwrap()[1..]
        .iter()
        .map(Value::to_string)
        .collect();
    let decoded = bitnet(&["tokenize", "-q", "--json", "--decode", &ids.join(",")]).json();
    assert_eq!(decoded["text"], text);
    let bare = bitnet(&["tokenize", "-q", "--json", "--no-bos", text]).json();
    assert_eq!(bare["ids"], decoded["ids"]);
}

#[test]
fn perplexity() {
    let text = b"Once upon a time there was a king who had three sons.";
    let args = ["perplexity", "-q", "--json", "-f", "-", "-c", "4"];
    let report = bitnet_with_stdin(Path::new("."), &args, text).json();
    assert_snapshot!(format!("{report:#}"), @r#"
    {
      "bos": 8176,
      "context": 4,
      "windows": 4,
      "tokens": 14,
      "nll_sum": 69.44198178432922,
      "nll_per_token": 4.960141556023515,
      "ppl": 142.61398233643658
    }
    "#);
    let args = [&args[..], &["--max-tokens", "5"]].concat();
    let report = bitnet_with_stdin(Path::new("."), &args, text).json();
    assert_eq!(
        (&report["tokens"], &report["windows"]),
        (&json!(5), &json!(2))
    );
}

#[test]
fn inspect() {
    let mut report = bitnet(&["inspect", "-q", "--json", "-c", "256"]).json();
    for machine in ["kernel", "threads", "scratch_bytes", "memory_bytes"] {
        assert!(!report["plan"][machine].is_null());
        report["plan"][machine] = json!("this machine's");
    }
    let roles = report["roles"].take();
    let role = |i: usize| (&roles[i]["role"], &roles[i]["type"], &roles[i]["tensors"]);
    assert_eq!(role(0), (&json!("embedding"), &json!("Q8_0"), &json!(1)));
    assert_eq!(role(2), (&json!("attention"), &json!("TQ1_0"), &json!(40)));
    assert_eq!(roles[2]["bits_per_weight"], 1.6875);
    assert_snapshot!(format!("{report:#}"), @r#"
    {
      "model": "builtin",
      "kind": "GGUF",
      "architecture": "bitnet-b1.58",
      "layers": 10,
      "hidden_dim": 512,
      "heads": 8,
      "kv_heads": 4,
      "head_dim": 64,
      "ffn_dim": 1536,
      "vocab_size": 8192,
      "context_len": 1024,
      "rope_theta": 500000.0,
      "rms_norm_eps": 0.00001,
      "activation": "relu2",
      "sub_norms": true,
      "tied_embeddings": true,
      "parameters": 35682816,
      "ternary_parameters": 31457280,
      "weights": [
        {
          "type": "TQ1_0",
          "tensors": 70,
          "parameters": 31457280,
          "bytes": 6635520
        },
        {
          "type": "Q8_0",
          "tensors": 1,
          "parameters": 4194304,
          "bytes": 4456448
        },
        {
          "type": "F32",
          "tensors": 41,
          "parameters": 31232,
          "bytes": 124928
        }
      ],
      "roles": null,
      "tokenizer": {
        "tokens": 8192,
        "bos": 8176,
        "adds_bos": true,
        "eos": [
          8177,
          8185
        ]
      },
      "chat_template": {
        "origin": "model",
        "source": "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
      },
      "anomalies": [],
      "plan": {
        "kernel": "this machine's",
        "threads": "this machine's",
        "layouts": [
          "2.0-bit"
        ],
        "context": 256,
        "weights_bytes": 7989248,
        "head_bytes": 4227072,
        "kv_bytes": 2621440,
        "scratch_bytes": "this machine's",
        "memory_bytes": "this machine's"
      }
    }
    "#);
}

#[test]
fn inspect_check_knows_equal_weights_and_broken_ones() {
    let folder = tempfile::tempdir().unwrap();
    let check = |model: &str| {
        super::bitnet_in(
            folder.path(),
            &["inspect", "-q", "--json", "--check", model],
        )
    };
    let builtin = check("builtin").json();
    assert_eq!(builtin["check"]["unsound"], json!([]));
    for to in ["gguf-i2_s", "gguf-tq2_0"] {
        let args = ["convert", "-q", "builtin", "m.gguf", "--force", "--to", to];
        super::bitnet_in(folder.path(), &args).quietly();
        assert_eq!(check("m.gguf").json()["check"], builtin["check"], "{to}");
    }
    // Four invalid codes.
    let args = ["convert", "-q", "builtin", "m.gguf", "--force"];
    super::bitnet_in(folder.path(), &args).quietly();
    let path = folder.path().join("m.gguf");
    let mut file = std::fs::read(&path).unwrap();
    let at = file.len() * 7 / 10;
    file[at] = 0xFF;
    std::fs::write(&path, file).unwrap();
    let run = check("m.gguf");
    assert_eq!(run.code, Some(1));
    assert_eq!(
        run.stderr,
        "error: m.gguf is invalid: 1 tensors or gaps between them\n"
    );
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_ne!(report["check"]["content"], builtin["check"]["content"]);
    let unsound = report["check"]["unsound"][0].as_str().unwrap();
    assert!(unsound.starts_with("in tensor \"blk."), "{unsound}");
}

#[test]
fn inspect_with_tensors() {
    let report = bitnet(&["inspect", "builtin", "-q", "--json", "--tensors"]).json();
    let tensors = report["tensors"].as_array().unwrap();
    let groups = report["weights"].as_array().unwrap();
    let sum = |rows: &[Value], key: &str| -> u64 {
        rows.iter().map(|row| row[key].as_u64().unwrap()).sum()
    };
    assert_eq!(sum(groups, "tensors"), tensors.len() as u64);
    assert_eq!(sum(groups, "bytes"), sum(tensors, "bytes"));
    assert_eq!(sum(groups, "parameters"), report["parameters"]);
    let embedding = tensors.iter().find(|t| t["name"] == "token_embd.weight");
    assert_snapshot!(embedding.unwrap(), @r#"{"name":"token_embd.weight","type":"Q8_0","shape":[8192,512],"bytes":4456448}"#);
}

#[test]
fn devices() {
    let document = bitnet(&["devices", "--json"]).json();
    let devices = document["devices"].as_array().unwrap();
    let kinds: Vec<_> = devices.iter().map(|device| &device["kind"]).collect();
    assert_eq!(kinds.first().unwrap().as_str(), Some("cuda"));
    for kind in ["metal", "vulkan", "dx12"] {
        assert!(kinds.contains(&&json!(kind)), "{kind}");
    }
    assert_snapshot!(devices[0], @r#"{"name":"cuda","kind":"cuda","usable":false,"reason":"this build has no CUDA support"}"#);
    let cpu = devices.last().unwrap();
    assert_eq!(
        (&cpu["kind"], &cpu["usable"]),
        (&json!("cpu"), &json!(true))
    );
    assert_eq!(document["default"], "cpu");
    let kernels = document["kernels"].as_array().unwrap();
    let usable = kernels.iter().filter(|kernel| kernel["usable"] == true);
    let usable: Vec<_> = usable.map(|kernel| kernel["name"].clone()).collect();
    assert_eq!(document["machine"]["kernels"], json!(usable));
    assert!(document["machine"]["physical_cores"].as_u64().unwrap() >= 1);
    assert_eq!(document["machine"]["threads"], json!([]));
}

#[test]
fn devices_are_measured_when_asked() {
    let document = bitnet(&["devices", "--measure", "--json"]).json();
    let machine = &document["machine"];
    let threads = machine["threads"].as_array().unwrap();
    assert_eq!(threads[0], 1);
    assert_eq!(threads.last(), Some(&machine["cores"]));
    for key in ["read_gb_s", "int8_gmac_s"] {
        assert_eq!(machine[key].as_array().unwrap().len(), threads.len());
    }
    for read in machine["read_gb_s"].as_array().unwrap() {
        assert!(read.as_f64().unwrap() > 0.0);
    }
}

#[test]
fn bench() {
    let args = "bench --json -q -p 3,0 -n 2 -d 0,5 -b 1,3 -t 2 -r 2 --kernel scalar";
    let document = bitnet(&args.split(' ').collect::<Vec<_>>()).json();
    let machine = &document["machine"];
    assert_eq!(machine["threads"], json!([2]));
    assert_eq!(machine["arch"], std::env::consts::ARCH);
    assert!(machine["cpu"].as_str().is_some_and(|cpu| !cpu.is_empty()));
    let kernels = machine["kernels"].as_array().unwrap();
    assert_eq!(kernels.last(), Some(&json!("generic-i2xi8-scalar")));
    assert!(document["load_s"].as_f64().unwrap() > 0.0);
    assert_eq!(document["mapped"], false);
    for read in machine["read_gb_s"].as_array().unwrap() {
        assert!(read.as_f64().unwrap() > 0.0);
    }
    // The scalar kernel has no measured peak.
    assert_eq!(machine["int8_gmac_s"], json!([null]));
    let memory = &document["memory"];
    let categories = memory["categories"].as_array().unwrap();
    for key in ["current_bytes", "peak_bytes", "blocks"] {
        let of_all = categories.iter().map(|c| c[key].as_u64().unwrap());
        let (sum, all) = (of_all.sum::<u64>(), memory[key].as_u64().unwrap());
        // The categories may peak at different times.
        assert!(all == sum || key == "peak_bytes" && all <= sum, "{memory}");
    }
    let used = |name: &str| {
        let category = categories.iter().find(|c| c["category"] == name).unwrap();
        category["current_bytes"].as_u64().unwrap()
    };
    assert!(used("weights") > 10_000_000 && used("kv") > 0 && used("scratch") > 0);
    for key in ["before_bytes", "file_bytes", "peak_resident_bytes"] {
        assert_eq!(memory[key].as_u64().is_some(), cfg!(target_os = "linux"));
    }
    let rows = document["rows"].as_array().unwrap();
    let key = |row: &Value| {
        let number = |key: &str| row[key].as_u64().unwrap();
        let test = row["test"].as_str().unwrap().to_owned();
        (number("threads"), number("depth"), number("batch"), test)
    };
    let mut expected = Vec::new();
    for (depth, batch) in [(0, 1), (0, 3), (5, 1), (5, 3)] {
        expected.extend(["pp3", "tg2"].map(|test| (2, depth, batch, test.to_owned())));
    }
    assert_eq!(rows.iter().map(key).collect::<Vec<_>>(), expected);
    for row in rows {
        assert_eq!(row["kernel"], "generic-i2xi8-scalar");
        assert_eq!(row["layout"], "2.0-bit");
        assert_eq!(row["head"], "int8");
        // The model alone is larger; null on platforms without this information.
        let memory = row["peak_memory_bytes"].as_u64();
        assert!(memory.is_none_or(|bytes| bytes > 10_000_000), "{row}");
        assert_eq!(memory.is_some(), cfg!(target_os = "linux"));
        for key in ["tok_s", "bytes_per_token", "gb_s", "gmac_s"] {
            assert!(row[key].as_f64().unwrap() > 0.0, "{row}");
        }
        assert!(row["tok_s_sd"].as_f64().unwrap() >= 0.0, "{row}");
        let writes = row["test"] == "tg2";
        assert_eq!(row["limit"], if writes { "memory" } else { "int8" });
        assert_eq!(row["limit_fraction"].is_null(), !writes);
    }
    // The sequences of a batch share the weights but not the KV cache.
    let bytes = |i: usize| rows[i]["bytes_per_token"].as_f64().unwrap();
    let kv = 2.0 * 2.0 * 10.0 * 4.0 * 64.0;
    assert!((bytes(1) - kv - 3.0 * (bytes(3) - kv)).abs() < 1.0);
    // A prompt in one pass reads the weights once: at least those of one token, at most all.
    let prompt = 3.0 * bytes(0) - 1.5 * kv;
    assert!(prompt > bytes(1) - kv && prompt < 13e6, "{prompt}");
    for row in rows {
        for key in ["skipped_rows", "skipped_columns"] {
            assert!((0.4..1.0).contains(&row[key].as_f64().unwrap()), "{row}");
        }
    }
}

#[test]
fn the_times_of_a_breakdown_add_up_and_name_every_operation() {
    let args = [
        "bench",
        "--breakdown",
        "--json",
        "-q",
        "-p",
        "40",
        "-n",
        "3",
        "-r",
        "2",
        "-t",
        "1,2",
    ];
    let document = bitnet(&args).json();
    let rows = document["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        let breakdown = &row["breakdown"];
        let operations = breakdown["operations"].as_array().unwrap();
        let sum = |key: &str| -> f64 {
            let values = operations.iter().map(|row| row[key].as_f64().unwrap());
            values.sum()
        };
        let whole = breakdown["time_s"].as_f64().unwrap();
        assert!(whole > 0.0);
        assert!((sum("time_s") / whole - 1.0).abs() < 1e-9, "{breakdown}");
        assert!((sum("fraction") - 1.0).abs() < 1e-9, "{breakdown}");
        let names: Vec<_> = operations.iter().map(|row| &row["operation"]).collect();
        // Squared ReLU is multiplied where the rows of up are computed.
        let expected = [
            "embedding",
            "norm",
            "quantize",
            "attn_q",
            "attn_k",
            "attn_v",
            "rotary",
            "kv_store",
            "attn_scores",
            "attn_softmax",
            "attn_values",
            "attn_output",
            "residual",
            "ffn_gate",
            "find_nonzero",
            "ffn_up",
            "ffn_down",
            "check",
            "head",
            "sampling",
            "other",
        ];
        if row["threads"] == 1 {
            assert_eq!(names, expected);
        } else {
            // The calling thread may get nothing of a short job.
            assert!(names.iter().any(|name| *name == "threads"), "{names:?}");
            continue;
        }
        let of = |name: &str| {
            let row = operations.iter().find(|row| row["operation"] == name);
            row.unwrap()
        };
        for name in [
            "attn_q",
            "norm",
            "quantize",
            "attn_scores",
            "residual",
            "head",
        ] {
            assert!(of(name)["alone_s"].as_f64().unwrap() > 0.0, "{name}");
        }
        for name in ["attn_q", "ffn_up", "ffn_down", "head"] {
            assert!(of(name)["gmac_s"].as_f64().unwrap() > 0.0, "{name}");
        }
    }
    let plain = bitnet(&["bench", "--json", "-q", "-p", "2", "-n", "0", "-r", "1"]).json();
    assert_eq!(plain["rows"][0].get("breakdown"), None);
}

#[test]
fn bench_kernels() {
    let best = &bitnet(&["inspect", "builtin", "-q", "--json"]).json()["plan"]["kernel"];
    let best = best.as_str().unwrap();
    let args = [
        "bench",
        "--kernels",
        "--json",
        "-q",
        "--kernel",
        best,
        "-t",
        "2",
    ];
    let document = bitnet(&args).json();
    assert_eq!(document["machine"]["threads"], json!([2]));
    let rows = document["rows"].as_array().unwrap();
    let of = |operation: &str| {
        let rows = rows.iter().filter(|row| row["operation"] == operation);
        rows.collect::<Vec<_>>()
    };
    for operation in [
        "ternary",
        "head-int8",
        "attention-f16",
        "quantize",
        "rms_norm",
        "silu",
    ] {
        assert!(!of(operation).is_empty(), "{operation}");
    }
    // Quantization of one row is not parallel.
    let threads = of("quantize").into_iter().map(|row| &row["threads"]);
    assert_eq!(threads.collect::<Vec<_>>(), [1, 2]);
    for row in rows {
        assert_eq!(row["kernel"], best);
        assert!(row["time_s"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["gb_s"].as_f64().unwrap() > 0.0, "{row}");
        if let Some(fraction) = row["limit_fraction"].as_f64() {
            let limit = row["limit_value"].as_f64().unwrap();
            let unit = if row["limit"] == "memory" {
                "gb_s"
            } else {
                "gmac_s"
            };
            let reached = row[unit].as_f64().unwrap();
            assert!((fraction * limit / reached - 1.0).abs() < 1e-9, "{row}");
        }
    }
}

#[test]
fn convert() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["convert", "-q", "--json", "builtin", "story.gguf"];
    let report = super::bitnet_in(folder.path(), &args).json();
    let bytes = folder.path().join("story.gguf").metadata().unwrap().len();
    assert_eq!(report, json!({ "output": "story.gguf", "bytes": bytes }));
}
