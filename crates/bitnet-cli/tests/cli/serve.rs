//! `bitnet serve` as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::CertifiedKey;
use serde_json::{Value, json};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::command;

/// Returns the command of a server without a log.
pub fn serve(args: &[&str]) -> Command {
    let common = ["serve", "--log-format", "none"];
    command(Path::new("."), &[&common, args].concat())
}

/// A server; killed when dropped.
pub struct Server {
    child: Child,
    /// What it says that it listens on.
    pub address: String,
}

impl Server {
    pub fn start(port: u16) -> Self {
        Self::spawn(&mut serve(&["--port", &port.to_string()]))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let Some(address) = line.strip_prefix("listening on ") else {
            let mut stderr = String::new();
            let _ = child.stderr.take().unwrap().read_to_string(&mut stderr);
            panic!("{line}{stderr}");
        };
        let address = address.trim_end().to_owned();
        Self { child, address }
    }

    pub fn port(&self) -> u16 {
        let (_, port) = self.address.rsplit_once(':').unwrap();
        port.parse().unwrap()
    }

    /// Asks the server to end, and waits until it has.
    fn terminate(&mut self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").arg(pid).status().unwrap();
        assert!(sent.success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }

    /// Ends the process at once: SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a request for a stream.
    fn ask(&self, request: &Value) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port())).unwrap();
        let timeout = Some(Duration::from_mins(1));
        stream.set_read_timeout(timeout).unwrap();
        let body = request.to_string();
        let n_bytes = body.len();
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-length: {n_bytes}\r\n\r\n{body}"
        )
        .unwrap();
        BufReader::new(stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a client has read of a stream.
#[derive(Debug, Default)]
struct Streamed {
    /// The tokens of each text.
    tokens: Vec<Vec<String>>,
    /// Whether the API's end was read.
    is_done: bool,
    /// Whether HTTP's end was read.
    is_complete: bool,
}

impl Streamed {
    /// Reads a stream of `n` texts to its end, or to the end of its connection. Calls
    /// `on_event` after each event.
    fn read(mut lines: impl BufRead, n: usize, mut on_event: impl FnMut(&Self)) -> Self {
        let mut read = Self {
            tokens: vec![Vec::new(); n],
            ..Self::default()
        };
        let mut line = String::new();
        // An error is a connection that broke.
        while lines.read_line(&mut line).is_ok_and(|n_bytes| n_bytes > 0) {
            match line.trim_end().strip_prefix("data: ") {
                Some("[DONE]") => read.is_done = true,
                // A last line can be cut.
                Some(event) if line.ends_with('\n') => {
                    read.add(&serde_json::from_str(event).unwrap());
                    on_event(&read);
                }
                // The last chunk.
                None if line == "0\r\n" => read.is_complete = true,
                Some(_) | None => {}
            }
            line.clear();
        }
        read
    }

    fn add(&mut self, event: &Value) {
        for choice in event["choices"].as_array().unwrap() {
            let tokens = choice["logprobs"]["tokens"].as_array().unwrap().iter();
            let tokens = tokens.map(|token| token.as_str().unwrap().to_owned());
            self.tokens[choice["index"].as_u64().unwrap() as usize].extend(tokens);
        }
    }
}

#[test]
fn a_killed_server_breaks_its_streams_and_writes_the_same_again() {
    const N: usize = 4;
    // It takes much longer than its first events.
    let request = json!({
        "prompt": "Once upon a time", "n": N, "seed": 3, "temperature": 1, "max_tokens": 1000,
        "ignore_eos": true, "logprobs": 0, "stream": true,
    });
    let mut server = Server::start(0);
    let stream = server.ask(&request);
    let port = server.port();
    let cut = Streamed::read(stream, N, |read| {
        if read.tokens.iter().all(|tokens| tokens.len() >= 5) {
            server.kill();
        }
    });
    assert!(!cut.is_done && !cut.is_complete, "{cut:?}");

    let server = Server::start(port);
    let whole = Streamed::read(server.ask(&request), N, |_| ());
    assert!(whole.is_done && whole.is_complete, "{whole:?}");
    for (cut, whole) in cut.tokens.iter().zip(&whole.tokens) {
        assert!(cut.len() >= 5 && cut.len() < whole.len(), "{}", cut.len());
        assert_eq!(cut[..], whole[..cut.len()]);
    }
}

/// Asks whether a server is alive, for a host that is no name of its own.
fn health(mut stream: impl Read + Write) -> String {
    let request = "GET /health HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response.lines().next().unwrap_or_default().to_owned()
}

/// The path of a model of the repository.
fn model(name: &str) -> String {
    format!("{}/../../models/{name}", env!("CARGO_MANIFEST_DIR"))
}

impl Server {
    /// Asks a model for a completion; returns the status and the reply.
    fn complete(&self, model: &str) -> (u16, Value) {
        let body = json!({"model": model, "prompt": "Once", "max_tokens": 3, "seed": 1});
        self.post("/v1/completions", &body)
    }

    /// Sends a request; returns the status and the reply.
    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let agent = ureq::Agent::config_builder().http_status_as_error(false);
        let url = format!("{}{path}", self.address);
        let request = agent.build().new_agent().post(&url);
        let mut response = request
            .content_type("application/json")
            .send(&body.to_string())
            .unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str(&text).unwrap())
    }
}

#[test]
fn several_models_are_served_by_their_names() {
    let gguf = format!("big={}", model("storyteller/storyteller.gguf"));
    let folder = model("storyteller-tiny");
    let missing = tempfile::tempdir().unwrap();
    let broken = missing.path().join("broken.gguf");
    std::fs::write(&broken, "GGUF, but not for long").unwrap();
    let broken = broken.to_str().unwrap();
    let mut server = Server::spawn(&mut serve(&[
        "--port", "0", "-m", &gguf, "-m", &folder, "-m", broken,
    ]));
    let (status, big) = server.complete("big");
    assert_eq!((status, &big["model"]), (200, &json!("big")), "{big}");
    let (status, tiny) = server.complete("storyteller-tiny");
    assert_eq!(
        (status, &tiny["model"]),
        (200, &json!("storyteller-tiny")),
        "{tiny}"
    );
    assert_ne!(big["system_fingerprint"], tiny["system_fingerprint"]);
    let (status, error) = server.complete("broken");
    let message = error["error"]["message"].as_str().unwrap();
    assert_eq!(status, 500, "{error}");
    assert!(message.contains("broken.gguf"), "{message}");
    assert_eq!(server.complete("other").0, 404);
    server.terminate();
}

#[test]
fn a_folder_of_models_serves_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let below = |name: &str| folder.path().join(name);
    std::fs::copy(model("storyteller/storyteller.gguf"), below("a.gguf")).unwrap();
    std::os::unix::fs::symlink(model("storyteller-tiny"), below("tiny")).unwrap();
    std::fs::create_dir(below("notes")).unwrap();
    std::fs::write(below("README.md"), "two models").unwrap();
    let path = folder.path().to_str().unwrap();
    let mut server = Server::spawn(&mut serve(&["--port", "0", "-m", path]));
    for name in ["a", "tiny"] {
        let (status, reply) = server.complete(name);
        assert_eq!((status, &reply["model"]), (200, &json!(name)), "{reply}");
    }
    server.terminate();
}

#[test]
fn models_are_unloaded_within_the_memory_limit() {
    let gguf = format!("big={}", model("storyteller/storyteller.gguf"));
    let tiny = format!("tiny={}", model("storyteller-tiny"));
    // More than the larger one needs with a context, and less than both.
    let args = [
        "--port",
        "0",
        "-m",
        &gguf,
        "-m",
        &tiny,
        "--memory-limit",
        "50MB",
    ];
    let mut server = Server::spawn(&mut serve(&args));
    let mut first = None;
    for _ in 0..3 {
        let answers = ["big", "tiny"].map(|name| {
            let (status, reply) = server.complete(name);
            assert_eq!(status, 200, "{reply}");
            reply["choices"].clone()
        });
        assert_eq!(&answers, first.get_or_insert_with(|| answers.clone()));
    }
    server.terminate();
    let both = [
        "--port",
        "0",
        "-m",
        &gguf,
        "-m",
        &tiny,
        "--memory-limit",
        "1MB",
    ];
    let output = serve(&both).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn models_without_a_name_of_their_own_are_refused() {
    let gguf = model("storyteller/storyteller.gguf");
    let refused = |args: &[&str]| {
        let output = serve(&[&["--port", "0"], args].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let two = ["-m", &gguf, "-m", &gguf];
    let stderr = refused(&two);
    assert!(
        stderr.contains("have the same name, \"storyteller\""),
        "{stderr}"
    );
    let tiny = model("storyteller-tiny");
    let stderr = refused(&["-m", &gguf, "-m", &tiny, "--alias", "c"]);
    assert!(
        stderr.contains("--alias c names one model, but there are 2"),
        "{stderr}"
    );
    let stderr = refused(&["-m", &gguf, "-m", &tiny, "--kv", "auto"]);
    assert!(stderr.contains("give f16 or int8"), "{stderr}");
    refused(&["-m", &format!("a={gguf}"), "--alias", "c"]);
    refused(&["-m", "=a.gguf"]);
    let output = serve(&["--port", "0", "-m", &gguf, "-m", "b=nowhere.gguf"]).output();
    let output = output.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("nowhere.gguf"), "{stderr}");
}

#[test]
fn a_killed_server_leaves_the_prefixes_that_it_saved() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let args = ["--port", "0", "--cache-dir", cache.to_str().unwrap()];
    let request = json!({
        "prompt": "Once upon a time there was a king. ".repeat(40), "max_tokens": 8, "seed": 1,
        "logprobs": 2,
    });
    let ask = |server: &Server| {
        let (status, reply) = server.post("/v1/completions", &request);
        assert_eq!(status, 200, "{reply}");
        let cached = &reply["usage"]["prompt_tokens_details"]["cached_tokens"];
        (reply["choices"].clone(), cached.as_u64().unwrap())
    };
    let mut server = Server::spawn(&mut serve(&args));
    let (expected, n_cached) = ask(&server);
    assert_eq!(n_cached, 0);
    let n_files = || std::fs::read_dir(&cache).unwrap().count();
    let begun = Instant::now();
    while n_files() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(20));
    }
    server.kill();
    let server = Server::spawn(&mut serve(&args));
    let (choices, n_cached) = ask(&server);
    assert_eq!(choices, expected);
    assert!(n_cached >= 128, "{n_cached}");
    // Another model has prefixes of its own.
    let tiny = model("storyteller-tiny");
    let server = Server::spawn(&mut serve(&[&args[..], &["-m", &tiny]].concat()));
    assert_eq!(ask(&server).1, 0);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = serve(&["--cache-dir", file.to_str().unwrap()])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("failed to write into"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_unix_socket_is_replaced_only_if_nobody_listens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let args = ["--unix-socket", path.to_str().unwrap()];
    let mut server = Server::spawn(&mut serve(&args));
    assert_eq!(server.address, format!("unix:{}", path.display()));
    let ok = "HTTP/1.1 200 OK";
    assert_eq!(health(UnixStream::connect(&path).unwrap()), ok);
    let second = serve(&args).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert!(stderr.contains("error: failed to listen on "), "{stderr}");
    // The first one still listens.
    assert_eq!(health(UnixStream::connect(&path).unwrap()), ok);
    server.kill();
    assert!(path.exists());
    let mut server = Server::spawn(&mut serve(&args));
    assert_eq!(health(UnixStream::connect(&path).unwrap()), ok);
    server.terminate();
    assert!(!path.exists());
    // Other files are not replaced.
    std::fs::write(&path, "a letter").unwrap();
    assert_eq!(serve(&args).output().unwrap().status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a letter");
}

#[test]
fn a_service_manager_may_pass_the_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // As systemd does: descriptor 3, for the process with this number.
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
    let bitnet = env!("CARGO_BIN_EXE_bitnet");
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh", bitnet, "serve", "--log-format", "none"])
        .stdin(OwnedFd::from(listener))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut server = Server::spawn(&mut command);
    assert_eq!(server.address, format!("http://{address}"));
    // Over a port, hosts are checked.
    let refused = "HTTP/1.1 403 Forbidden";
    assert_eq!(health(TcpStream::connect(address).unwrap()), refused);
    server.terminate();
}

/// Writes a certificate for 127.0.0.1 and its key into a folder, and returns their paths.
pub fn self_signed(folder: &Path) -> [String; 2] {
    let names = vec!["127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    [
        file_in(folder, "cert.pem", &cert.pem()),
        file_in(folder, "key.pem", &signing_key.serialize_pem()),
    ]
}

/// Writes a file into a folder, and returns its path.
pub fn file_in(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_certificate_encrypts_connections() {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = self_signed(folder.path());
    let with = |certificate: &str, key: &str| {
        serve(&["--port", "0", "--tls-cert", certificate, "--tls-key", key])
    };
    let mut server = Server::spawn(&mut with(&certificate, &key));
    assert!(
        server.address.starts_with("https://127.0.0.1:"),
        "{}",
        server.address
    );
    let root = Certificate::from_pem(&std::fs::read(&certificate).unwrap()).unwrap();
    let tls = TlsConfig::builder().root_certs(RootCerts::Specific(Arc::new(vec![root])));
    let config = ureq::Agent::config_builder()
        .tls_config(tls.build())
        .build();
    let url = format!("{}/v1/completions", server.address);
    let body = json!({"prompt": "Once", "max_tokens": 3, "stream": true}).to_string();
    let response = config
        .new_agent()
        .post(&url)
        .content_type("application/json")
        .send(&body);
    let text = response.unwrap().body_mut().read_to_string().unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    // Without encryption there is no answer, and nobody else notices.
    let mut plain = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    plain
        .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    server.terminate();

    let error = |certificate: &str, key: &str| {
        let output = with(certificate, key).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        stderr
    };
    assert!(error(&key, &key).contains("there is no certificate"));
    assert!(error(&certificate, &certificate).contains("the key is not in PEM"));
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let other = file_in(folder.path(), "other.pem", &other);
    assert!(error(&certificate, &other).contains("the certificate and the key cannot be used"));
}
