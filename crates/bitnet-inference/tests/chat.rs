//! Chat templates against `transformers`, and templates that mean harm.
//!
//! `tests/data/chat/make_chat.py` recorded what `transformers` writes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use bitnet_inference::gguf::{Gguf, GgufWriter, Value};
use bitnet_inference::{ChatTemplate, Checkpoint, Message, Role, TemplateOrigin, Tokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Recorded {
    templates: BTreeMap<String, String>,
    conversations: BTreeMap<String, Vec<(String, String)>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: String,
    answer: bool,
    text: Option<String>,
    error: Option<String>,
}

/// 2026-01-02 03:04:05 UTC
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045)
}

fn checkpoint() -> Checkpoint {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny-llama");
    Checkpoint::open(Path::new(folder)).unwrap()
}

/// Its BOS is `<|begin_of_text|>`, its end `<|end_of_text|>`.
fn tokenizer() -> Tokenizer {
    checkpoint().tokenizer().unwrap()
}

fn conversation(messages: &[(String, String)]) -> Vec<Message> {
    let message = |(role, content): &(String, String)| {
        let role = match role.as_str() {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => panic!("{other}"),
        };
        Message::new(role, content)
    };
    messages.iter().map(message).collect()
}

/// Returns the whole chain of causes.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

#[test]
fn templates_write_what_transformers_writes() {
    let recorded: Recorded = serde_json::from_str(include_str!("data/chat/chat.json")).unwrap();
    let tokenizer = tokenizer();
    for case in recorded.cases {
        let source = &recorded.templates[&case.template];
        let template = ChatTemplate::parse(source, &tokenizer).unwrap();
        let messages = conversation(&recorded.conversations[&case.conversation]);
        let name = format!("{}, {}", case.template, case.conversation);
        match template.render(&messages, case.answer, now()) {
            Ok(text) => assert_eq!(Some(text), case.text, "{name}"),
            Err(error) => {
                let expected = case.error.expect(&name);
                // Templates speak to users by `raise_exception`; other messages differ.
                if case.template == "refuses" {
                    assert!(chain(&error).contains(&expected), "{}", chain(&error));
                }
            }
        }
    }
}

#[test]
fn templates_of_the_program_end_where_the_answer_begins() {
    let tokenizer = tokenizer();
    let messages = [
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, " Why? "),
        Message::new(Role::Assistant, "So."),
        Message::new(Role::User, "Oh."),
    ];
    let render = |name: &str, answer| {
        let template = ChatTemplate::named(name, &tokenizer).unwrap();
        template.render(&messages, answer, now()).unwrap()
    };
    let expected = [
        (
            "bitnet",
            "<|begin_of_text|>System: Be brief.<|eot_id|>User: Why?<|eot_id|>\
             Assistant: So.<|eot_id|>User: Oh.<|eot_id|>",
            "Assistant:",
        ),
        (
            "chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Why? <|im_end|>\n\
             <|im_start|>assistant\nSo.<|im_end|>\n<|im_start|>user\nOh.<|im_end|>\n",
            "<|im_start|>assistant\n",
        ),
        (
            "falcon3",
            "<|system|>\nBe brief.\n<|user|>\n Why? \n<|assistant|>\nSo.<|end_of_text|>\n\
             <|user|>\nOh.\n",
            "<|assistant|>\n",
        ),
        (
            "llama3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\nSo.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nOh.<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ];
    let names: Vec<_> = ChatTemplate::names().collect();
    assert_eq!(names, expected.map(|(name, ..)| name));
    for (name, text, generation) in expected {
        assert_eq!(render(name, false), text);
        assert_eq!(render(name, true), text.to_owned() + generation);
    }
    assert!(ChatTemplate::named("alpaca", &tokenizer).is_none());
}

/// The template that the first published GGUF of BitNet b1.58 2B-4T has.
const WRONG: &str = "{% for message in messages %}{% if message['role'] == 'user' %}\
    {{ 'Human: ' + message['content'] + '\\n\\nBITNETAssistant: ' }}{% endif %}{% endfor %}";

#[test]
fn the_wrong_template_of_the_published_model_is_replaced() {
    let storyteller = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/storyteller");
    let file = std::fs::read(storyteller.join("storyteller.gguf")).unwrap();
    let with_template = |source: &str| {
        let sound = Gguf::parse(&file).unwrap();
        let mut writer = GgufWriter::new();
        let is_kept = |key: &str| key != "tokenizer.chat_template";
        for (key, value) in sound.metadata().filter(|(key, _)| is_kept(key)) {
            writer.metadata(key, value.clone());
        }
        writer.metadata("tokenizer.chat_template", Value::String(source.to_owned()));
        for tensor in sound.tensors() {
            writer.tensor(&tensor.name, &tensor.shape, tensor.type_id, tensor.span);
        }
        let data = |i: usize, out: &mut dyn Write| {
            let tensor = &sound.tensors()[i];
            out.write_all(&file[tensor.offset as usize..][..tensor.span as usize])
        };
        let bytes = writer.write::<_, std::io::Error>(Vec::new(), data).unwrap();
        let checkpoint = Checkpoint::from_gguf_bytes(bytes).unwrap();
        let tokenizer = checkpoint.tokenizer().unwrap();
        let template = ChatTemplate::of_model(&checkpoint, &tokenizer)
            .unwrap()
            .unwrap();
        let messages = [
            Message::new(Role::System, "Be brief."),
            Message::new(Role::User, "Why?"),
        ];
        let text = template.render(&messages, true, now()).unwrap();
        (template.origin(), text)
    };
    let (origin, text) = with_template(WRONG);
    assert_eq!(origin, TemplateOrigin::Corrected);
    assert_eq!(
        text,
        "<|begin_of_text|>System: Be brief.<|eot_id|>User: Why?<|eot_id|>Assistant:"
    );
    // Whatever else the file has is the model's.
    let other = "{{ messages[1].content }}";
    assert_eq!(
        with_template(other),
        (TemplateOrigin::Model, "Why?".to_owned())
    );
}

#[test]
fn a_model_without_a_template_has_none() {
    let found = ChatTemplate::of_model(&checkpoint(), &tokenizer()).unwrap();
    assert!(found.is_none());
}

#[test]
fn templates_of_folders_are_where_transformers_puts_them() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny-llama");
    for entry in Path::new(tiny).read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let written = || {
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let tokenizer = checkpoint.tokenizer().unwrap();
        let template = ChatTemplate::of_model(&checkpoint, &tokenizer);
        let template = template.unwrap().unwrap();
        assert_eq!(template.origin(), TemplateOrigin::Model);
        template.render(&[], true, now()).unwrap()
    };
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let config = "tokenizer_config.json";
    write(config, r#"{"chat_template": "one {{ eos_token }}"}"#);
    assert_eq!(written(), "one <|end_of_text|>");
    // What the tokenizer calls the end is what templates know.
    write(
        config,
        r#"{"chat_template": "{{ bos_token }}{{ eos_token }}", "eos_token": "<|eot_id|>",
            "bos_token": {"content": "<|begin_of_text|>", "lstrip": false}}"#,
    );
    assert_eq!(written(), "<|begin_of_text|><|eot_id|>");
    write(
        config,
        r#"{"chat_template": [{"name": "tool_use", "template": "tools"},
                              {"name": "default", "template": "of several"}]}"#,
    );
    assert_eq!(written(), "of several");
    write("chat_template.jinja", "by itself");
    assert_eq!(written(), "by itself");
}

/// Runs a template and returns what is wrong with it.
fn fails(source: &str) -> String {
    let tokenizer = tokenizer();
    let messages = [Message::new(Role::User, "Hello!")];
    let start = Instant::now();
    let error = ChatTemplate::parse(source, &tokenizer)
        .and_then(|template| template.render(&messages, true, now()))
        .expect_err(source);
    // Not a matter of speed: without limits it would be days, or the memory.
    assert!(start.elapsed() < Duration::from_mins(1), "{source}");
    chain(&error)
}

#[test]
fn hostile_templates_end() {
    let out_of_fuel = [
        // Time.
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        // Output.
        "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
        // Memory, by doubling and by one step.
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=['x']) %}{% for i in range(99) %}\
         {% set ns.x = (ns.x + ns.x) | list %}{% endfor %}",
        "{{ ('x' * 99999) | replace('x', 'y' * 99999) | length }}",
        "{{ range(99999) | join('x' * 99999) | length }}",
    ];
    for source in out_of_fuel {
        let error = fails(source);
        assert!(error.contains("ran out of fuel"), "{source}: {error}");
    }
    let too_much = [
        ("{{ 'x' * 9999999999 }}", "engine ran out of fuel"),
        (
            "{{ (['x' * 1000000] * 50000) | tojson }}",
            "more than 16777216 bytes",
        ),
        ("{{ 'x' | indent(999999999) }}", ""),
        ("{{ '%999999999d' | format(1) }}", ""),
        (
            "{{ strftime_now('%Q') }}",
            "\"%Q\" is not a format of strftime_now",
        ),
        ("{% include 'other' %}", ""),
        ("{% if %}", "the chat template is not well-formed"),
        ("{{ raise_exception('no\\nway') }}", "no\nway"),
    ];
    for (source, expected) in too_much {
        let error = fails(source);
        assert!(error.contains(expected), "{source}: {error}");
    }
    let long = " ".repeat((1 << 20) + 1);
    assert_eq!(
        fails(&long),
        "the chat template has 1048577 bytes, more than 1048576"
    );
}

#[test]
fn deep_templates_end_in_a_small_stack() {
    let deep = |open: &str, middle: &str, close: &str| {
        format!("{}{middle}{}", open.repeat(20_000), close.repeat(20_000))
    };
    let sources = [
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".to_owned(),
        "{% macro f(x) %}{% call f(x) %}{% endcall %}{% endmacro %}{{ f(1) }}".to_owned(),
        format!("{{{{ {} }}}}", deep("[", "", "]")),
        format!("{{{{ {} }}}}", deep("(", "1", ")")),
        format!("{{{{ {}1 }}}}", "not ".repeat(20_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(20_000)),
        format!("{{{{ 1{} }}}}", ".a".repeat(20_000)),
        format!("{{{{ 1{} }}}}", "[0]".repeat(20_000)),
        format!("{{{{ 1{} }}}}", " if x else 1".repeat(20_000)),
        deep("{% if 1 %}", "", "{% endif %}"),
        format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(20_000)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(20_000)),
        // As much as is allowed.
        format!("{{{{ x{} }}}}", ".a".repeat(190)),
        format!(
            "{}{{{{",
            deep("", "", "").as_str().to_owned() + &"{% if 1 %}".repeat(59)
        ),
        deep("{% for i in messages %}", "", "{% endfor %}"),
    ];
    for source in sources {
        let run = move || fails(&source).len();
        let small = std::thread::Builder::new().stack_size(2 << 20);
        assert!(small.spawn(run).unwrap().join().unwrap() > 0);
    }
}

#[test]
fn long_conversations_have_fuel_enough() {
    let tokenizer = tokenizer();
    let message = |i| match i % 2 {
        0 => Message::new(Role::User, "word ".repeat(2000)),
        _ => Message::new(Role::Assistant, "answer ".repeat(2000)),
    };
    let messages: Vec<_> = (0..400).map(message).collect();
    for name in ChatTemplate::names() {
        let template = ChatTemplate::named(name, &tokenizer).unwrap();
        let text = template.render(&messages, true, now()).unwrap();
        assert!(text.len() > 400 * 10_000);
    }
}
