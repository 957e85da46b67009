//! `bitnet pull` against a local test hub, with and without faults.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use insta::assert_snapshot;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

use super::{Run, command, in_repository};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(super) const MODEL: &str = "story-tq2_0.gguf";

/// A request of the client.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    host: String,
    from: usize,
    pub(super) token: Option<String>,
}

/// The server's reply.
pub(super) enum Reply {
    /// A status only.
    Status(u16),
    /// A status and a header.
    StatusWith(u16, &'static str),
    Json(Value),
    /// These bytes from the requested offset on.
    Bytes(Vec<u8>),
    /// The same, but the connection is closed after this many bytes.
    Cut(Vec<u8>, usize),
    /// All bytes, ignoring the requested range.
    Whole(Vec<u8>),
    Redirect(String),
}

pub(super) struct Hub {
    pub(super) port: u16,
    scheme: &'static str,
    asked: Arc<Mutex<Vec<Request>>>,
    pub(super) cache: tempfile::TempDir,
}

/// Environment variables that affect the client, which the tests clear.
const SETTINGS: [&str; 19] = [
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "XDG_CACHE_HOME",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "https_proxy",
    "http_proxy",
    "NO_PROXY",
];

impl Hub {
    /// Starts a server that answers by `reply`, which gets the number of earlier requests
    /// for the same path.
    pub(super) fn start(reply: impl Fn(&Request, usize) -> Reply + Send + 'static) -> Self {
        Self::start_over(None, reply)
    }

    /// The same over TLS, if configured.
    pub(super) fn start_over(
        tls: Option<Arc<rustls::ServerConfig>>,
        reply: impl Fn(&Request, usize) -> Reply + Send + 'static,
    ) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut counts = BTreeMap::new();
            for stream in listener.incoming() {
                let mut stream: Box<dyn Connection> = match &tls {
                    None => Box::new(stream.unwrap()),
                    Some(config) => {
                        let server = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                        Box::new(rustls::StreamOwned::new(server, stream.unwrap()))
                    }
                };
                // Ignore a closed connection.
                let Some(request) = read(&mut stream) else {
                    continue;
                };
                let count: &mut usize = counts.entry(request.path.clone()).or_default();
                let answer = reply(&request, *count);
                *count += 1;
                log.lock().unwrap().push(request.clone());
                let _ = write(&mut stream, &request, &answer);
            }
        });
        Self {
            port,
            scheme,
            asked,
            cache: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn run_with(&self, args: &[&str], token: Option<&str>) -> Run {
        let token = token.map(|token| ("HF_TOKEN", OsStr::new(token)));
        self.run_in(args, token.as_slice())
    }

    /// Runs the program with these variables, the endpoint and the cache, and no other
    /// settings of a hub.
    pub(super) fn run_in(&self, args: &[&str], variables: &[(&str, &OsStr)]) -> Run {
        let mut command = command(Path::new("."), args);
        for name in SETTINGS {
            command.env_remove(name);
        }
        command
            .env(
                "HF_ENDPOINT",
                format!("{}://127.0.0.1:{}/", self.scheme, self.port),
            )
            .env("HF_HOME", self.cache.path().join("home"))
            .env("HF_HUB_CACHE", self.cache.path())
            .envs(variables.iter().copied());
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr).replace(&self.port.to_string(), "PORT"),
        }
    }

    fn pull(&self) -> Run {
        self.run_with(&["pull", "acme/tiny"], None)
    }

    pub(super) fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Returns the names in the folder of blobs.
    fn blobs(&self) -> Vec<String> {
        let folder = self.repository().join("blobs");
        let Ok(entries) = folder.read_dir() else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    /// The folder of the repository in the cache.
    pub(super) fn repository(&self) -> PathBuf {
        self.cache.path().join("models--acme--tiny")
    }

    pub(super) fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }
}

/// A plain or TLS connection.
trait Connection: Read + Write {}

impl<T: Read + Write> Connection for T {}

fn read(stream: &mut dyn Connection) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut request = Request {
        path,
        host: String::new(),
        from: 0,
        token: None,
    };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        match name.to_lowercase().as_str() {
            "host" => value.clone_into(&mut request.host),
            "authorization" => request.token = Some(value.to_owned()),
            "range" => {
                let from = value.strip_prefix("bytes=")?.strip_suffix('-')?;
                request.from = from.parse().ok()?;
            }
            _ => {}
        }
    }
    Some(request)
}

fn write(stream: &mut dyn Connection, request: &Request, reply: &Reply) -> std::io::Result<()> {
    let mut head = |status: &str, length: usize, more: &str| {
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n"
        )
    };
    match reply {
        Reply::Status(status) => head(&format!("{status} no"), 0, "")?,
        Reply::StatusWith(status, header) => {
            head(&format!("{status} no"), 0, &format!("{header}\r\n"))?;
        }
        Reply::Redirect(to) => head("302 elsewhere", 0, &format!("Location: {to}\r\n"))?,
        Reply::Json(value) => {
            let text = value.to_string();
            head("200 OK", text.len(), "")?;
            stream.write_all(text.as_bytes())?;
        }
        Reply::Whole(bytes) => {
            head("200 OK", bytes.len(), "")?;
            stream.write_all(bytes)?;
        }
        Reply::Bytes(bytes) | Reply::Cut(bytes, _) => {
            let Some(rest) = bytes.get(request.from..).filter(|rest| !rest.is_empty()) else {
                return head("416 no", 0, "");
            };
            let status = if request.from > 0 {
                "206 part"
            } else {
                "200 OK"
            };
            head(status, rest.len(), "")?;
            let end = match reply {
                Reply::Cut(_, n) => rest.len().min(*n),
                _ => rest.len(),
            };
            stream.write_all(&rest[..end])?;
        }
    }
    stream.flush()
}

/// The repository's model file, which can be run.
pub(super) fn model() -> Vec<u8> {
    let path = "crates/bitnet-inference/tests/data/tiny-llama-tq2_0.gguf";
    std::fs::read(in_repository(path)).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

pub(super) fn git_sha1(bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", bytes.len()).as_bytes());
    context.update(bytes);
    hex(context.finish().as_ref())
}

/// The hub's description of the repository: the model, whose hash may be wrong, a text,
/// and another model.
pub(super) fn info(hash: &str) -> Reply {
    let readme = b"# A tiny model\n";
    Reply::Json(json!({
        "id": "acme/tiny",
        "sha": COMMIT,
        "siblings": [
            {"rfilename": "README.md", "size": readme.len(), "blobId": git_sha1(readme)},
            {"rfilename": MODEL, "size": model().len(), "blobId": git_sha1(b"a pointer"),
             "lfs": {"sha256": hash, "size": model().len(), "pointerSize": 130}},
            {"rfilename": "big-f32.gguf", "size": 7_000_000_000_u64, "blobId": git_sha1(b""),
             "lfs": {"sha256": "0".repeat(64), "size": 7_000_000_000_u64}},
        ],
    }))
}

pub(super) fn is_info(request: &Request) -> bool {
    request.path.starts_with("/api/")
}

/// A hub that serves the model by `reply`.
pub(super) fn hub_of(reply: impl Fn(&Request, usize) -> Reply + Send + 'static) -> Hub {
    Hub::start(move |request, count| match request.path.as_str() {
        "/api/models/acme/tiny/revision/main?blobs=true" => info(&sha256(&model())),
        path if path.ends_with(MODEL) => reply(request, count),
        path if path.ends_with("README.md") => Reply::Bytes(b"# A tiny model\n".to_vec()),
        _ => Reply::Status(404),
    })
}

/// The names of the blobs after the download: on platforms where links need special
/// permissions, the file itself is moved to its path.
fn blobs_of_the_model() -> Vec<String> {
    if cfg!(unix) {
        vec![sha256(&model())]
    } else {
        Vec::new()
    }
}

#[test]
fn a_pulled_model_goes_by_its_name() {
    let hub = hub_of(|_, _| Reply::Bytes(model()));
    let run = hub.run_with(&["pull", "acme/tiny"], Some("secret"));
    assert_eq!(run.code, Some(0), "{run:?}");
    let path = hub.snapshot().join(MODEL);
    assert_eq!(run.stdout, format!("{}\n", path.display()));
    assert_snapshot!(run.stderr, @"
    1 of 3 files, 320.53 KiB: story-tq2_0.gguf (320.53 KiB)
    note: selected story-tq2_0.gguf among several models: ternary weights that run fast come first; `--file NAME` selects another: big-f32.gguf (6.52 GiB)
    ");
    assert_eq!(std::fs::read(path).unwrap(), model());
    assert_eq!(hub.blobs(), blobs_of_the_model());
    let asked = hub.asked();
    let paths: Vec<_> = asked.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/api/models/acme/tiny/revision/main?blobs=true".to_owned(),
            format!("/acme/tiny/resolve/{COMMIT}/{MODEL}"),
        ]
    );
    let token = Some("Bearer secret".to_owned());
    assert!(asked.iter().all(|request| request.token == token));

    // A cached file is not downloaded again.
    let run = hub
        .run_with(&["pull", "-q", "--json", "acme/tiny"], None)
        .json();
    assert_eq!(run["revision"], COMMIT);
    assert_eq!(run["files"][0]["name"], MODEL);
    assert_eq!(run["files"][0]["bytes"], model().len());
    assert!(hub.asked().iter().all(is_info));
    // Using it makes no requests.
    let run = hub
        .run_with(&["inspect", "-q", "--json", "acme/tiny"], None)
        .json();
    assert_eq!(run["kind"], "GGUF");
    assert!(hub.asked().is_empty());
}

#[test]
fn a_file_may_be_chosen() {
    let hub = hub_of(|_, _| Reply::Bytes(model()));
    let run = hub.run_with(&["pull", "-q", "acme/tiny", "--file", "README.md"], None);
    let path = run.quietly();
    assert_eq!(std::fs::read(path.trim_end()).unwrap(), b"# A tiny model\n");
    let run = hub.run_with(&["pull", "-q", "acme/tiny", "--file", "x.gguf"], None);
    assert_eq!(run.code, Some(2));
    assert_snapshot!(run.stderr, @r#"error: failed to pull acme/tiny: there is no file "x.gguf", only README.md (15 B), story-tq2_0.gguf (320.53 KiB), big-f32.gguf (6.52 GiB)"#);
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_broke() {
    let third = model().len() / 3;
    let hub = hub_of(move |_, _| Reply::Cut(model(), third));
    let run = hub.run_with(&["pull", "-q", "acme/tiny"], None);
    assert_eq!(run.code, Some(0), "{run:?}");
    let path = hub.snapshot().join(MODEL);
    assert_eq!(std::fs::read(path).unwrap(), model());
    let asked = hub.asked();
    let froms: Vec<_> = asked.iter().skip(1).map(|request| request.from).collect();
    assert_eq!(froms, [0, third, 2 * third, 3 * third][..froms.len()]);
    assert!(froms.len() >= 3);
}

#[test]
fn a_command_goes_on_where_another_gave_up() {
    // The server fails during the transfer, and recovers later.
    let hub = hub_of(|_, count| match count {
        0 => Reply::Cut(model(), 10_000),
        1..=5 => Reply::Cut(model(), 0),
        _ => Reply::Bytes(model()),
    });
    let run = hub.pull();
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    let said = run.stderr.lines().skip(2).collect::<Vec<_>>().join("\n");
    assert_snapshot!(said, @"
    error: failed to pull acme/tiny: story-tq2_0.gguf stopped at byte 10000 of 328224; the partial download is kept
    hint: run the same command to resume
    ");
    assert_eq!(hub.blobs(), [sha256(&model()) + ".incomplete"]);
    assert!(!hub.snapshot().exists());
    hub.asked();
    let run = hub.run_with(&["pull", "-q", "acme/tiny"], None);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(hub.asked().last().unwrap().from, 10_000);
    assert_eq!(hub.blobs(), blobs_of_the_model());
    assert_eq!(std::fs::read(hub.snapshot().join(MODEL)).unwrap(), model());
}

#[test]
fn a_server_without_ranges_begins_anew() {
    let hub = hub_of(|_, count| match count {
        0 => Reply::Cut(model(), 10_000),
        _ => Reply::Whole(model()),
    });
    let run = hub.run_with(&["pull", "-q", "acme/tiny"], None);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(std::fs::read(hub.snapshot().join(MODEL)).unwrap(), model());
}

#[test]
fn wrong_content_is_not_kept() {
    let mut wrong = model();
    wrong[50_000] ^= 1;
    let longer = [model(), vec![0]].concat();
    for content in [wrong, longer] {
        let hub = hub_of(move |_, _| Reply::Bytes(content.clone()));
        let run = hub.pull();
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
        let expected = format!(
            ", expected {}; the download was discarded\n",
            sha256(&model())
        );
        assert!(run.stderr.contains("has hash "), "{}", run.stderr);
        assert!(run.stderr.contains(&expected), "{}", run.stderr);
        assert!(hub.blobs().is_empty());
        assert!(!hub.snapshot().exists());
    }
    // Small files have git's hash.
    let hub = Hub::start(|request, _| match request.path.as_str() {
        path if path.starts_with("/api/") => info(&sha256(&model())),
        _ => Reply::Bytes(b"# A tiny madel\n".to_vec()),
    });
    let run = hub.run_with(&["pull", "-q", "acme/tiny", "--file", "README.md"], None);
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.contains(&git_sha1(b"# A tiny model\n")),
        "{}",
        run.stderr
    );
}

#[test]
fn refusals_say_what_helps() {
    let said = |status: u16, token: Option<&str>| {
        let hub = Hub::start(move |_, _| Reply::Status(status));
        let run = hub.run_with(&["pull", "-q", "acme/tiny"], token);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
        run.stderr
    };
    assert_snapshot!(said(401, None), @"
    error: failed to pull acme/tiny: http://127.0.0.1:PORT/api/models/acme/tiny/revision/main?blobs=true is denied (401)
    hint: if the repository exists, provide a token with read access by HF_TOKEN, HF_TOKEN_PATH or `hf auth login`
    ");
    assert_snapshot!(said(403, Some("secret")), @"
    error: failed to pull acme/tiny: http://127.0.0.1:PORT/api/models/acme/tiny/revision/main?blobs=true is denied (403)
    hint: the token in HF_TOKEN has no access to this repository
    ");
    assert_snapshot!(said(404, None), @"
    error: failed to pull acme/tiny: http://127.0.0.1:PORT/api/models/acme/tiny/revision/main?blobs=true does not exist (404)
    hint: a repository is OWNER/NAME, as on the hub's pages
    ");
    assert_snapshot!(said(500, None), @"error: failed to pull acme/tiny: http://127.0.0.1:PORT/api/models/acme/tiny/revision/main?blobs=true answers with status 500");
    // Temporary server errors are retried.
    let hub = hub_of(|_, count| match count {
        0 => Reply::Status(503),
        1 => Reply::Status(429),
        _ => Reply::Bytes(model()),
    });
    assert_eq!(
        hub.run_with(&["pull", "-q", "acme/tiny"], None).code,
        Some(0)
    );
    let run = hub.run_with(&["pull", "-q", "not a repository"], None);
    assert_eq!(run.code, Some(2));
    assert_snapshot!(run.stderr, @r#"error: "not a repository" is not a repository, expected OWNER/NAME"#);
}

#[test]
fn the_token_stays_on_its_host() {
    let store = hub_of(|_, _| Reply::Bytes(model()));
    let elsewhere = format!("http://localhost:{}/store/{MODEL}", store.port);
    let hub = hub_of(move |_, _| Reply::Redirect(elsewhere.clone()));
    let run = hub.run_with(&["pull", "-q", "acme/tiny"], Some("secret"));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(hub.asked().iter().all(|request| request.token.is_some()));
    let asked = store.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].host.starts_with("localhost"));
    assert_eq!(asked[0].token, None);
}

#[test]
fn a_hub_that_lies_is_refused() {
    let hash = "0".repeat(64);
    let sibling = |name: &str, hash: &str| json!({"rfilename": name, "size": 1, "lfs": {"sha256": hash, "size": 1}});
    let cases = [
        json!({"sha": "../../evil", "siblings": []}),
        json!({"sha": COMMIT, "siblings": [sibling("../evil.gguf", &hash)]}),
        json!({"sha": COMMIT, "siblings": [sibling("/etc/evil.gguf", &hash)]}),
        json!({"sha": COMMIT, "siblings": [sibling("a.gguf", "../evil")]}),
        json!({"sha": COMMIT, "siblings": [{"rfilename": "a.gguf"}]}),
        json!({"sha": COMMIT}),
        json!("hello"),
    ];
    for case in cases {
        let said = case.to_string();
        let hub = Hub::start(move |_, _| Reply::Json(case.clone()));
        let run = hub.pull();
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{said}");
        assert!(
            run.stderr.contains("sent an unexpected response: "),
            "{}",
            run.stderr
        );
        let mut left = hub.cache.path().read_dir().unwrap();
        assert!(left.next().is_none(), "{said}");
    }
}
