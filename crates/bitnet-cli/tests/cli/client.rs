//! `run --url` and `chat --url`: with a server of our own, and with one that misbehaves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::serve::{Server, file_in, self_signed, serve};
use super::{PROMPT, Run, bitnet, bitnet_in, bitnet_with_stdin, command};

const KEY: &str = "sk-not-for-anybody";

/// Removes what the environment says about servers.
fn undisturbed(command: &mut Command) -> &mut Command {
    for name in [
        "OPENAI_API_KEY",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs the program with a server.
fn with(url: &str, args: &[&str]) -> Run {
    ended(undisturbed(&mut command(
        Path::new("."),
        &[args, &["--url", url]].concat(),
    )))
}

fn ended(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

#[test]
fn a_text_of_a_server_is_that_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}},
        "required": ["age"], "additionalProperties": false});
    let schema_file = folder.path().join("schema.json");
    std::fs::write(&schema_file, schema.to_string()).unwrap();
    let server = Server::start(0);
    let texts: [&[&str]; 5] = [
        &["--temp", "0", "-n", "20"],
        &["--seed", "5", "-n", "30"],
        &[
            "--seed",
            "6",
            "--temp",
            "1.1",
            "--top-k",
            "40",
            "--top-p",
            "0.9",
            "--min-p",
            "0.01",
            "--repeat-penalty",
            "1.2",
            "--presence-penalty",
            "0.3",
            "--frequency-penalty",
            "0.1",
            "--repeat-last-n",
            "-1",
            "-n",
            "40",
        ],
        &[
            "--seed", "7", "--stop", "the", "--stop", ", and", "-n", "60",
        ],
        &[
            "--seed",
            "8",
            "--json-schema",
            schema_file.to_str().unwrap(),
        ],
    ];
    for options in texts {
        let run = [&["run", "-q"], options, &[PROMPT]].concat();
        assert_eq!(
            with(&server.address, &run).quietly(),
            bitnet(&run).quietly(),
            "{options:?}"
        );
    }
    // The path of the API may be named, and so may the model.
    let run = ["run", "-q", "-n", "9", "--seed", "1", PROMPT];
    let expected = bitnet(&run).quietly();
    let url = format!("{}/v1/", server.address);
    assert_eq!(with(&url, &run).quietly(), expected);
    let named = [&run[..], &["-m", "builtin"]].concat();
    assert_eq!(with(&url, &named).quietly(), expected);

    let document = with(
        &server.address,
        &["run", "--json", "-n", "9", "--seed", "1", PROMPT],
    );
    let document = document.json();
    assert_eq!(
        format!("{PROMPT}{}\n", document["text"].as_str().unwrap()),
        expected
    );
    let rest = json!([
        document["model"],
        document["finish_reason"],
        document["seed"],
        document["prompt_tokens"],
        document["tokens"]
    ]);
    assert_eq!(rest, json!(["builtin", "length", 1, 9, 9]));
}

#[test]
fn a_receipt_of_a_server_is_verified_here() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(0);
    let file = folder.path().join("receipt.json");
    let receipt = ["--receipt", file.to_str().unwrap()];
    let run = [
        &["run", "-q", "-n", "12", "--temp", "1", PROMPT][..],
        &receipt,
    ]
    .concat();
    with(&server.address, &run).quietly();
    let verified = bitnet_in(folder.path(), &["verify", "-q", "receipt.json"]).quietly();
    assert_eq!(verified, "equal: all 12 tokens are the same\n");
    // It is that of the same text here.
    let written: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let seed = written["sampling"]["seed"].to_string();
    let context = written["context"].to_string();
    let run = [&run[..], &["--seed", &seed, "-c", &context]].concat();
    bitnet(&run).quietly();
    let here: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(here, written);

    // Another token is named, and another model is not compared.
    let mut changed = written;
    changed["ids"][3] = 7.into();
    let verify = |args: &[&str]| {
        let common = ["verify", "-q", "--json", "receipt.json"];
        bitnet_in(folder.path(), &[&common, args].concat())
    };
    std::fs::write(&file, changed.to_string()).unwrap();
    let said = verify(&[]).stderr;
    let (_, digest) = said.trim_end().rsplit_once("expected ").unwrap();
    changed["digest"] = digest.into();
    std::fs::write(&file, changed.to_string()).unwrap();
    let different: Value = serde_json::from_str(&verify(&[]).stdout).unwrap();
    assert_eq!(
        (&different["verdict"], &different["index"]),
        (&json!("different"), &json!(3))
    );
    let tiny = super::in_repository("models/storyteller-tiny");
    let other: Value = serde_json::from_str(&verify(&["-m", &tiny]).stdout).unwrap();
    assert_eq!(other["verdict"], "not_comparable");
}

#[test]
fn a_chat_with_a_server_is_that_on_this_machine() {
    let server = Server::spawn(&mut serve(&["--port", "0", "--chat-template", "chatml"]));
    let lines = b"Tell me a story.\n/retry\nAnd then?\n/undo\n/system Be brief.\nWhy?\n";
    let common = ["chat", "-q", "--seed", "3", "-n", "24", "--temp", "0.8"];
    let here = bitnet_with_stdin(
        Path::new("."),
        &[&common[..], &["--chat-template", "chatml"]].concat(),
        lines,
    );
    let there = bitnet_with_stdin(
        Path::new("."),
        &[&common[..], &["--url", &server.address]].concat(),
        lines,
    );
    assert_eq!(there.quietly(), here.quietly());
}

#[test]
fn what_only_this_machine_can_do_is_refused() {
    let url = "http://127.0.0.1:9";
    for option in [
        ["-t", "1"],
        ["--device", "cpu"],
        ["--memory-limit", "1GB"],
        ["-c", "64"],
        ["--kv", "f16"],
        ["--speculate", "off"],
        ["--revision", "main"],
    ] {
        for name in ["run", "chat"] {
            let said = with(url, &[&[name], &option[..]].concat());
            assert_eq!(said.code, Some(2), "{said:?}");
            assert!(
                said.stderr.contains("cannot be used with '--url"),
                "{said:?}"
            );
        }
    }
    for option in [
        &["--chat-template", "chatml"][..],
        &["--show-prompt"],
        &["--parse-special"],
    ] {
        let said = with(url, &[&["chat"], option].concat());
        assert_eq!(said.code, Some(2), "{said:?}");
        let message = format!("{} cannot be used with --url", option[0]);
        assert!(said.stderr.contains(&message), "{said:?}");
    }
    let said = with("127.0.0.1:8080", &["run", "a"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.stderr.contains("expected a URL such as"), "{said:?}");
}

#[test]
fn a_key_is_shown_to_the_server_alone() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, KEY).unwrap();
    let server = Server::spawn(&mut serve(&[
        "--port",
        "0",
        "--api-key-file",
        keys.to_str().unwrap(),
    ]));
    let args = ["run", "-v", "-n", "3", "--url", &server.address, PROMPT];
    let with_key = |key: &str| {
        let mut command = command(Path::new("."), &args);
        ended(undisturbed(&mut command).env("OPENAI_API_KEY", key))
    };
    let right = with_key(KEY);
    assert_eq!(right.code, Some(0), "{right:?}");
    assert!(right.stdout.starts_with(PROMPT));
    assert!(!right.stderr.contains(KEY), "{right:?}");
    let wrong = "sk-of-another";
    for said in [with_key(wrong), with_key("")] {
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
        assert!(
            said.stderr.contains("answers with status 401: "),
            "{said:?}"
        );
        assert!(
            said.stderr
                .contains("hint: the key of the server is that of"),
            "{said:?}"
        );
        assert!(!said.stderr.contains(wrong), "{said:?}");
    }
    let said = with_key("two words");
    assert!(
        said.stderr.contains("OPENAI_API_KEY has white space in it"),
        "{said:?}"
    );
    assert!(!said.stderr.contains("two words"), "{said:?}");
}

#[test]
fn an_encrypted_server_is_trusted_by_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = self_signed(folder.path());
    let files = ["--tls-cert", &certificate, "--tls-key", &key];
    let server = Server::spawn(&mut serve(&[&["--port", "0"], &files[..]].concat()));
    let run = ["run", "-q", "-n", "5", "--seed", "1", PROMPT];
    let args = [&run[..], &["--url", &server.address]].concat();
    let mut trusting = command(Path::new("."), &args);
    let said = ended(undisturbed(&mut trusting).env("SSL_CERT_FILE", &certificate));
    assert_eq!(said.quietly(), bitnet(&run).quietly());
    let other = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let other = file_in(folder.path(), "other.pem", &other.cert.pem());
    let mut distrusting = command(Path::new("."), &args);
    let said = ended(undisturbed(&mut distrusting).env("SSL_CERT_FILE", &other));
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
    assert!(
        said.stderr
            .contains("SSL_CERT_FILE names the server's certificate"),
        "{said:?}"
    );
}

/// Answers a list of models, and then this to each other request, and closes the connection.
fn mock(models: &'static [&str], answer: String) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut head, mut n_bytes) = (String::new(), 0);
            while stream.read_line(&mut head).unwrap() > 2 {
                let last = head.lines().last().unwrap().to_lowercase();
                if let Some(length) = last.strip_prefix("content-length: ") {
                    n_bytes = length.parse().unwrap();
                }
            }
            let mut body = vec![0; n_bytes];
            stream.read_exact(&mut body).unwrap();
            let mut stream = stream.into_inner();
            if head.starts_with("GET /v1/models ") {
                let models: Vec<Value> = models.iter().map(|id| json!({"id": id})).collect();
                let models = json!({"data": models}).to_string();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
                     content-length: {}\r\n\r\n{models}",
                    models.len()
                )
                .unwrap();
            } else {
                // The client may have gone.
                let _ = stream.write_all(answer.as_bytes());
                return;
            }
        }
    });
    (url, thread)
}

/// The head of a stream.
const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// An event with this document.
fn event(document: &Value) -> String {
    format!("data: {document}\n\n")
}

#[test]
fn what_a_server_fails_at_is_told() {
    let big = event(&json!({"choices": [{"text": " big", "finish_reason": null}]}));
    let broken = "broke off before the end of the text";
    let error = json!({"error": {"message": "out of luck"}});
    let chunked = STREAM.replace("connection: close", "transfer-encoding: chunked");
    let whole = |status: &str, body: &str| {
        let n_bytes = body.len();
        format!("HTTP/1.1 {status} No\r\ncontent-length: {n_bytes}\r\n\r\n{body}")
    };
    let cases = [
        (format!("{STREAM}: waiting\n\n{big}"), "A big\n", broken),
        (format!("{STREAM}{big}data: {{\"choi"), "A big\n", broken),
        (
            format!("{chunked}{:x}\r\n{big}\r\n", big.len()),
            "A big\n",
            broken,
        ),
        (STREAM.to_owned(), "", broken),
        (
            format!("{STREAM}{big}{}", event(&error)),
            "A big\n",
            "failed in the text: out of luck",
        ),
        (
            whole("503", &error.to_string()),
            "",
            "answers with status 503: out of luck",
        ),
        (
            whole("502", "<p>no</p>"),
            "",
            "answers with status 502: <p>no</p>",
        ),
        (
            format!("{STREAM}data: nonsense\n\n"),
            "",
            "sent an unexpected response: ",
        ),
    ];
    for (answer, text, message) in cases {
        let (url, thread) = mock(&["one"], answer);
        let said = with(&url, &["run", "-q", "A"]);
        thread.join().unwrap();
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (Some(1), text),
            "{said:?}"
        );
        assert!(said.stderr.contains(message), "{said:?}");
    }
    // A text whose end is told is whole, also without the last event.
    let end = event(&json!({"choices": [{"text": " big", "finish_reason": "stop"}]}));
    let (url, thread) = mock(&["one"], format!("{STREAM}{end}"));
    assert_eq!(with(&url, &["run", "-q", "A"]).quietly(), "A big\n");
    thread.join().unwrap();
}

#[test]
fn a_server_that_is_gone_or_has_several_models_is_named() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let said = with(&format!("http://{gone}"), &["run", "A"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
    let message = format!("error: cannot reach http://{gone}/v1/models: ");
    assert!(said.stderr.starts_with(&message), "{said:?}");

    let (url, _thread) = mock(&["one", "two"], String::new());
    let said = with(&url, &["run", "A"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(
        said.stderr
            .contains("has several models, name one with -m: one, two"),
        "{said:?}"
    );
}

#[test]
fn ctrl_c_closes_the_stream() {
    let server = Server::start(0);
    let n_running = || {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let running = "bitnet:num_requests_running ";
        let line = text.lines().find_map(|line| line.strip_prefix(running));
        line.unwrap().to_owned()
    };
    let args = [
        "run",
        "-n",
        "-1",
        "--temp",
        "1",
        "--url",
        &server.address,
        PROMPT,
    ];
    let mut child = undisturbed(&mut command(Path::new("."), &args))
        .spawn()
        .unwrap();
    let mut begin = [0; PROMPT.len() + 4];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut begin)
        .unwrap();
    assert!(begin.starts_with(PROMPT.as_bytes()));
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(output.stdout.ends_with(b"\n"), "{output:?}");
    let start = Instant::now();
    while n_running() != "0" {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "the server goes on"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
