//! Text output: the result on stdout, the rest on stderr.

use std::path::Path;

use insta::assert_snapshot;

use super::toy::{CONTROL, NORMAL, Toy};
use super::{PROMPT, Run, bitnet, bitnet_in, bitnet_with_stdin};

const STORY: &str = "Once upon a time there was a great noise of shouting, and the noise\n";
const GREEDY: [&str; 5] = ["run", "--temp", "0", "-n", "8"];

#[test]
fn run_prints_prompt_and_continuation() {
    let run = bitnet(&[&GREEDY[..], &[PROMPT]].concat());
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), STORY));
    // Numbers that differ from run to run follow `at` and `load`.
    let words: Vec<_> = run.stderr.split(' ').collect();
    let masked = words.iter().enumerate().map(|(i, word)| {
        let before = if i == 0 { "" } else { words[i - 1] };
        match before {
            "at" | "load" => word.parse::<f64>().map_or("not a number", |_| "N"),
            _ => word,
        }
    });
    assert_snapshot!(masked.collect::<Vec<_>>().join(" "), @"
    note: this is the built-in demo model, a small storyteller; for a real one: -m FILE.gguf or -m FOLDER
    [9 prompt tokens at N tok/s, 8 generated at N tok/s, load N s]
    ");
}

#[test]
fn quiet_and_verbose_may_stand_anywhere() {
    let before = bitnet(&[&["-q"], &GREEDY[..], &[PROMPT]].concat());
    assert_eq!(before.quietly(), STORY);
    let after = bitnet(&["run", PROMPT, "-n", "8", "--quiet", "--temp=0"]);
    assert_eq!(after.quietly(), STORY);
    let verbose = bitnet(
        &[
            &GREEDY[..],
            &["-v", "--seed", "5", "--kernel", "scalar", PROMPT],
        ]
        .concat(),
    );
    assert_eq!(verbose.stdout, STORY);
    let said = [
        "device: cpu, ",
        "`--kernel` is one of the CPU\n",
        "plan: kernel generic-i2xi8-scalar",
        "context 1024",
        "memory: ",
        "KV cache: 1 of 8 pages, ",
        "loaded in ",
        "seed 5, 9 prompt tokens",
    ];
    for part in said {
        assert!(verbose.stderr.contains(part), "{part}: {}", verbose.stderr);
    }
}

#[test]
fn the_prompt_comes_from_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let greedy = [&GREEDY[..], &["-q"]].concat();
    let run = |more: &[&str], stdin: &str| {
        let args = [&greedy, more].concat();
        bitnet_with_stdin(folder.path(), &args, stdin.as_bytes()).quietly()
    };
    // One trailing newline is removed from a file.
    for end in ["", "\n", "\r\n"] {
        let text = format!("{PROMPT}{end}");
        std::fs::write(folder.path().join("prompt.txt"), &text).unwrap();
        assert_eq!(run(&["-f", "prompt.txt"], ""), STORY, "{end:?}");
        assert_eq!(run(&["-f", "-"], &text), STORY, "{end:?}");
        assert_eq!(run(&["-"], &text), STORY, "{end:?}");
        assert_eq!(run(&[], &text), STORY, "{end:?}");
    }
    let second = run(&["-"], "One line.\n\n");
    assert!(second.starts_with("One line.\n"), "{second}");
    // An argument is unmodified.
    let argument = run(&["One line.\n"], "");
    assert_eq!(argument, second);
}

#[test]
fn a_prompt_in_any_script_survives() {
    for prompt in ["🐉 lived in a cave, 龍 und Drache — ", "Ünïcödé"] {
        let args = [&GREEDY[..], &["-q", prompt]].concat();
        let stdout = bitnet(&args).quietly();
        assert!(stdout.starts_with(prompt), "{stdout}");
        assert!(stdout.len() > prompt.len() + 1);
    }
}

#[test]
fn no_character_is_broken_behind_a_prompt_in_any_script() {
    for prompt in ["Привет", "\u{1f409}", "漢字", "שלום", "é", "नमस्ते"] {
        let args = ["run", "-q", "--temp", "0", "-n", "4", "--json", prompt];
        let run = bitnet(&args).json();
        let text = run["text"].as_str().unwrap();
        assert!(!text.contains('\u{fffd}'), "{prompt}: {text:?}");
        let ids = [&run["prompt_ids"], &run["ids"]].map(|ids| ids.as_array().unwrap().clone());
        let ids: Vec<_> = ids.concat().iter().map(ToString::to_string).collect();
        let all = bitnet(&["tokenize", "-q", "--decode", &ids.join(",")]).quietly();
        assert_eq!(all, format!("<|begin_of_text|>{prompt}{text}\n"));
    }
    let args = ["run", "-q", "--temp", "0", "-n", "4", "--json", "Привет"];
    assert_eq!(bitnet(&args).json()["text"], ", and the other");
}

#[test]
fn a_stray_byte_in_the_middle_of_a_text_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, c, stray) = (u32::from(b'a'), u32::from(b'b'), u32::from(b'c'), 0xa7);
    let toy = Toy {
        more: &[],
        rows: None,
        eos: None,
        chain: &[
            (a, stray),
            (stray, b),
            (b, 0xf0),
            (0xf0, 0x9f),
            (0x9f, c),
            (c, c),
        ],
        first: a,
    };
    toy.write(&folder.path().join("toy.gguf"));
    let args = ["run", "-q", "-m", "toy.gguf", "--temp", "0", "-n", "7", "x"];
    let text = bitnet_in(folder.path(), &args).quietly();
    assert_eq!(text, "xa\u{fffd}b\u{fffd}cc\n");
    let run = bitnet_in(folder.path(), &[&args[..], &["--json"]].concat()).json();
    assert_eq!(run["text"], "a\u{fffd}b\u{fffd}cc");
    assert_eq!(run["ids"].as_array().unwrap().len(), 7);
    // At the end, an incomplete character becomes U+FFFD.
    let args = [
        "run", "-q", "-m", "toy.gguf", "--temp", "0", "-n", "5", "--json", "x",
    ];
    let run = bitnet_in(folder.path(), &args).json();
    assert_eq!(run["text"], "a\u{fffd}b\u{fffd}");
}

#[test]
fn a_row_without_a_token_has_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (u32::from(b'a'), u32::from(b'b'));
    let toy = Toy {
        more: &[],
        rows: Some(300),
        eos: None,
        chain: &[(a, 299), (299, b), (b, 280)],
        first: a,
    };
    toy.write(&folder.path().join("toy.gguf"));
    let in_folder = |args: &[&str]| bitnet_in(folder.path(), args);
    let args = ["run", "-q", "-m", "toy.gguf", "--temp", "0", "-n", "4", "x"];
    assert_eq!(in_folder(&args).quietly(), "xab\n");
    let run = in_folder(&[&args[..], &["--json"]].concat()).json();
    assert_eq!(run["ids"], serde_json::json!([a, 299, b, 280]));
    assert_eq!(run["text"], "ab");
    let decode = |ids| in_folder(&["tokenize", "-q", "-m", "toy.gguf", "--decode", ids]);
    assert_eq!(decode("97,299,98").quietly(), "ab\n");
    let beyond = decode("97,300");
    assert_eq!(beyond.code, Some(2));
    assert_eq!(
        beyond.stderr,
        "error: no token has id 300 (there are 300)\n"
    );
}

#[test]
fn a_text_ends_where_the_vocabulary_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (u32::from(b'a'), u32::from(b'b'));
    let ends = [
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<end_of_turn>",
        "<|end|>",
        "</s>",
    ];
    let types = [CONTROL, NORMAL].into_iter().cycle();
    for (end, ty) in ends.into_iter().zip(types) {
        let toy = Toy {
            more: &[("<|other|>", CONTROL), (end, ty)],
            rows: None,
            eos: Some(256),
            chain: &[(a, b), (b, 257), (257, a)],
            first: a,
        };
        toy.write(&folder.path().join("toy.gguf"));
        let args = [
            "run", "-q", "-m", "toy.gguf", "--temp", "0", "-n", "8", "--json", "x",
        ];
        let run = bitnet_in(folder.path(), &args).json();
        assert_eq!(run["finish_reason"], "eos", "{end}");
        assert_eq!(run["ids"], serde_json::json!([a, b]), "{end}");
        assert_eq!(run["text"], "ab", "{end}");
    }
}

#[test]
fn what_is_odd_about_a_tokenizer_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let a = u32::from(b'a');
    let toy = Toy {
        more: &[("a", NORMAL)],
        rows: None,
        eos: Some(9999),
        chain: &[(a, 256), (256, a)],
        first: a,
    };
    toy.write(&folder.path().join("toy.gguf"));
    let args = ["run", "-m", "toy.gguf", "--temp", "0", "-n", "4", "x"];
    let run = bitnet_in(folder.path(), &args);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "xaaaa\n"));
    let notes: Vec<_> = run.stderr.lines().take(2).collect();
    assert_eq!(
        notes,
        [
            "note: token 256 repeats \"a\" of token 97: texts get the first id",
            "note: tokenizer.ggml.eos_token_id is 9999, which no token has (there are 257)",
        ]
    );
}

#[test]
fn a_byte_order_mark_is_not_part_of_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("plain.txt", "One\r\ntwo \u{feff}three four five");
    write("marked.txt", "\u{feff}One\r\ntwo \u{feff}three four five");
    let in_folder = |args: &[&str]| bitnet_in(folder.path(), args).quietly();
    for command in [
        &["run", "-q", "--temp", "0", "-n", "2"][..],
        &["tokenize", "-q"],
        &["perplexity", "-q", "-c", "8"],
    ] {
        let with = |file: &str| in_folder(&[command, &["-f", file]].concat());
        assert_eq!(with("marked.txt"), with("plain.txt"), "{command:?}");
        let marked = std::fs::read(folder.path().join("marked.txt")).unwrap();
        let piped = [command, &["-f", "-"]].concat();
        let piped = bitnet_with_stdin(folder.path(), &piped, &marked).quietly();
        assert_eq!(piped, with("plain.txt"), "{command:?}");
    }
    // The second mark, and line ends, are text.
    let tokens = in_folder(&["tokenize", "-q", "--json", "-f", "marked.txt"]);
    let ids: serde_json::Value = serde_json::from_str(&tokens).unwrap();
    let ids: Vec<_> = ids["ids"].as_array().unwrap()[1..]
        .iter()
        .map(ToString::to_string)
        .collect();
    let text = in_folder(&["tokenize", "-q", "--decode", &ids.join(",")]);
    assert_eq!(text, "One\r\ntwo \u{feff}three four five\n");

    write("marked.jinja", "\u{feff}{{ messages[0].content }}");
    let args = [
        "tokenize",
        "-q",
        "--json",
        "--chat",
        "--chat-template",
        "marked.jinja",
        "Hi",
    ];
    let prompt: serde_json::Value = serde_json::from_str(&in_folder(&args)).unwrap();
    assert_eq!(prompt["text"], "Hi");

    for (name, bytes) in [("le.txt", b"\xff\xfeO\0"), ("be.txt", b"\xfe\xff\0O")] {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        let run = bitnet_in(folder.path(), &["run", "-q", "-f", name]);
        assert_eq!(run.code, Some(1));
        let expected = "is not UTF-8 text: invalid byte at offset 0 (it begins as UTF-16 does)";
        assert_eq!(run.stderr, format!("error: {name} {expected}\n"));
    }
}

#[test]
fn no_tokens_is_the_prompt_alone() {
    let args = ["run", "-q", "-n", "0", PROMPT];
    assert_eq!(bitnet(&args).quietly(), format!("{PROMPT}\n"));
    let run = bitnet(&[&args[..], &["--json"]].concat()).json();
    assert!(run["ids"].as_array().unwrap().is_empty());
    assert_eq!(run["timings"]["prefill_tok_s"], 0.0);
}

#[test]
fn tokenize_prints_a_table() {
    let run = bitnet(&["tokenize", "-q", "Once upon a\ntime 🐉"]);
    assert_snapshot!(run.quietly(), @r#"
    8176  "<|begin_of_text|>"
      46  "O"
    1277  "nce"
     597  " upon"
     258  " a"
     198  "\n"
    7777  "time"
     220  " "
     172  "�"
     253  "�"
     238  "�"
     231  "�"
    "#);
}

#[test]
fn tokenize_reads_a_file_exactly_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("text.txt"), "king\r\n").unwrap();
    let from_file = bitnet_in(folder.path(), &["tokenize", "-q", "-f", "text.txt"]).quietly();
    let from_pipe = bitnet_with_stdin(Path::new("."), &["tokenize", "-q"], b"king\r\n").quietly();
    assert_eq!(from_file, from_pipe);
    assert_snapshot!(from_file, @r#"
    8176  "<|begin_of_text|>"
    1671  "king"
     201  "\r"
     198  "\n"
    "#);
}

#[test]
fn decode_prints_the_text() {
    let ids = "46,1277,597,258 587";
    let run = bitnet(&["tokenize", "-q", "--decode", ids]);
    assert_eq!(run.quietly(), "Once upon a time\n");
}

#[test]
fn logits_prints_a_table() {
    let ids = "8176,46,1277,597,258,587,469,310,258";
    let args = [
        "logits", "-q", "--top", "3", "--head", "exact", "--tokens", ids,
    ];
    assert_snapshot!(bitnet(&args).quietly(), @r#"
    668     8.15164  " great"
    542     8.02653  " little"
    439     7.37160  " man"
    "#);
}

#[test]
fn perplexity_prints_a_line() {
    let text = b"Once upon a time there was a king who had three sons.";
    let args = ["perplexity", "-q", "-f", "-", "-c", "8"];
    let run = bitnet_with_stdin(Path::new("."), &args, text);
    assert_snapshot!(run.quietly(), @"perplexity 29.0534  (3.36913 nats per token, 14 tokens in 2 windows of 8)");
}

#[test]
fn inspect_prints_what_a_model_is() {
    let stdout = bitnet(&["inspect", "-q", "--tensors"]).quietly();
    let (about, plan_and_tensors) = stdout.split_once("\nplan").unwrap();
    assert_snapshot!(about, @"
    model          builtin (GGUF)
    architecture   bitnet-b1.58
    parameters     35.7 M, 31.5 M of them ternary
    shape          10 layers, hidden 512, feed-forward 1536, 8 heads of 64 (4 key-value)
    vocabulary     8192 tokens, tied embedding
    activation     relu2, sub-norms
    positions      1024, RoPE base 500000
    weights        embedding     Q8_0         1 tensors    4.25 MiB  8.50 bits per weight
                   norm          F32         41 tensors  122.00 KiB  32.00 bits per weight
                   attention     TQ1_0       40 tensors    1.58 MiB  1.69 bits per weight
                   feed-forward  TQ1_0       30 tensors    4.75 MiB  1.69 bits per weight
    tokenizer      8192 tokens, BOS 8176, ends at [8177, 8185]
    chat template  185 bytes of Jinja
    ");
    let mut lines = plan_and_tensors.lines().skip(1);
    // Scratch depends on the number of threads.
    let (memory, _) = lines.next().unwrap().rsplit_once(", ").unwrap();
    let (_, parts) = memory.split_once(": ").unwrap();
    assert_snapshot!(parts, @"7.62 MiB weights, 4.03 MiB int8 head, 10.00 MiB KV cache");
    let tensors: Vec<_> = lines.collect();
    assert_snapshot!(tensors[..2].join("\n"), @"
    token_embd.weight                Q8_0        8192 x 512      4.25 MiB
    blk.0.attn_norm.weight           F32            1 x 512      2.00 KiB
    ");
}

#[test]
fn devices_that_are_not_there_are_listed_with_the_reason() {
    let text = bitnet(&["devices"]).quietly();
    let best = bitnet_core::Isa::best();
    for line in [
        "  cuda                       -       this build has no CUDA support\n",
        "  generic-i2xi8-scalar       usable\n",
        &format!("  {:<26} usable\n", best.name()),
        &format!("chosen  cpu, {best}\n"),
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    assert!(!text.contains("limits"), "{text}");
}

#[test]
fn the_device_asked_for_computes() {
    let args = [&GREEDY[..], &["-v", "--device", "cpu", PROMPT]].concat();
    let run = bitnet(&args);
    assert_eq!(run.stdout, STORY);
    assert!(run.stderr.contains(", as requested\n"), "{}", run.stderr);
}

#[test]
fn a_limit_that_is_enough_changes_nothing() {
    let args = [&GREEDY[..], &["-q", "--memory-limit", "100MiB", PROMPT]].concat();
    assert_eq!(bitnet(&args).quietly(), STORY);
}

#[test]
fn a_folder_with_a_gguf_file_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("some model");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("m-TQ1_0.gguf"), super::storyteller()).unwrap();
    let run = |args: &[&str]| {
        let args = [
            &["run", "--temp", "0", "-n", "4", "-m", "some model", PROMPT],
            args,
        ]
        .concat();
        bitnet_in(folder.path(), &args)
    };
    let text = format!("{PROMPT} great noise of shouting\n");
    assert_eq!(run(&["-q"]).quietly(), text);
    // Of several models one is selected, with a note on how to select another.
    std::fs::write(model.join("m-F16.gguf"), "").unwrap();
    let Run { stdout, stderr, .. } = run(&[]);
    assert_eq!(stdout, text);
    let note = "note: selected m-TQ1_0.gguf among several models: ternary weights that run \
                fast come first; `-m some model/FILE` selects another: m-F16.gguf";
    let mut lines = stderr.lines();
    assert!(
        lines.any(|line| line.replace('\\', "/") == note),
        "{stderr}"
    );
}

#[test]
fn the_readme_shows_what_the_program_writes() {
    let readme = std::fs::read_to_string(super::in_repository("README.md")).unwrap();
    let (_, shown) = readme
        .split_once("$ cargo run --release -p bitnet-cli -- run ")
        .unwrap();
    let (shown, _) = shown.split_once("…\n```").unwrap();
    let mut lines = shown.lines();
    let seed = lines.next().unwrap().strip_prefix("--seed ").unwrap();
    let (seed, prompt) = seed.split_once(' ').unwrap();
    assert_eq!(prompt, format!("{PROMPT:?}"));
    let Run { stdout, stderr, .. } = bitnet(&["run", "--seed", seed, PROMPT]);
    assert_eq!(stderr.lines().next(), lines.next());
    let shown: Vec<_> = lines.collect();
    let written: Vec<_> = stdout.lines().take(shown.len()).collect();
    assert_eq!(written, shown);
}
