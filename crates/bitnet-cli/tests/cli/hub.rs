//! Model names, tokens and certificates: `pull` and `-m OWNER/NAME` against the test hub
//! of `pull.rs`.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use insta::assert_snapshot;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};

use super::pull::{COMMIT, Hub, MODEL, Reply, git_sha1, hub_of, model, sha256};
use super::without_system_words;

/// The commit of the branch `dev`.
const DEV: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// The hub's description of a file.
fn sibling(name: &str, content: &[u8]) -> Value {
    json!({"rfilename": name, "size": content.len(), "blobId": git_sha1(content)})
}

/// A hub of one repository, of which each revision has a commit and files, all of them
/// the same model.
fn hub_with(revisions: &'static [(&str, &str, &[&str])]) -> Hub {
    Hub::start(move |request, _| {
        let path = request.path.as_str();
        if path.contains("/resolve/") {
            return Reply::Bytes(model());
        }
        let revision = path.strip_prefix("/api/models/acme/tiny/revision/");
        let revision = revision.and_then(|rest| rest.strip_suffix("?blobs=true"));
        let known = revisions.iter().find(|known| Some(known.0) == revision);
        match known {
            Some((_, commit, files)) => {
                let siblings = files.iter().map(|name| sibling(name, &model()));
                let siblings: Vec<_> = siblings.collect();
                Reply::Json(json!({"sha": commit, "siblings": siblings}))
            }
            None => Reply::StatusWith(404, "X-Error-Code: RevisionNotFound"),
        }
    })
}

/// A certificate authority and the certificate of a server signed by it.
struct Authority {
    pem: String,
    server: Arc<rustls::ServerConfig>,
}

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let server_key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap();
    let certificate = certificate.signed_by(&server_key, &issuer).unwrap();
    let server_key = PrivateKeyDer::try_from(server_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], server_key)
        .unwrap();
    Authority {
        pem,
        server: Arc::new(server),
    }
}

#[test]
fn a_companys_authority_is_trusted_when_it_is_named() {
    let Authority { pem, server } = authority();
    let hub = Hub::start_over(Some(server), |request, _| {
        if request.path.starts_with("/api/") {
            let siblings = [sibling(MODEL, &model())];
            return Reply::Json(json!({"sha": COMMIT, "siblings": siblings}));
        }
        Reply::Bytes(model())
    });
    let pull = |variables: &[(&str, &OsStr)]| hub.run_in(&["pull", "-q", "acme/tiny"], variables);
    // The system does not trust it.
    let run = pull(&[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let (said, reason) = run.stderr.split_once("certificate: ").unwrap();
    let (reason, hint) = reason.split_once('\n').unwrap();
    // On platforms that verify certificates themselves, the message is theirs.
    let ours = !cfg!(any(windows, target_vendor = "apple"));
    assert!(reason == "UnknownIssuer" || !ours && !reason.is_empty());
    assert_snapshot!(format!("{said}certificate: REASON\n{hint}"), @"
    error: failed to pull acme/tiny: cannot get https://127.0.0.1:PORT/api/models/acme/tiny/revision/main?blobs=true: io: invalid peer certificate: REASON
    hint: if a company's proxy intercepts TLS, set SSL_CERT_FILE to its CA certificate in PEM, or add it to the system's
    ");
    assert!(hub.asked().is_empty());

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &pem).unwrap();
    let run = pull(&[("SSL_CERT_FILE", file.as_os_str())]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(std::fs::read(hub.snapshot().join(MODEL)).unwrap(), model());
    // A folder works as well, even if another one is missing.
    let dirs = [folder.path().join("none"), folder.path().to_owned()];
    let dirs = std::env::join_paths(dirs).unwrap();
    std::fs::write(folder.path().join("README"), "no certificate").unwrap();
    for dirs in [folder.path().as_os_str(), &dirs] {
        let run = pull(&[("SSL_CERT_DIR", dirs)]);
        assert_eq!(run.code, Some(0), "{run:?}");
    }

    // Other authorities are not trusted.
    let other = folder.path().join("other.pem");
    std::fs::write(&other, authority().pem).unwrap();
    let run = pull(&[("SSL_CERT_FILE", other.as_os_str())]);
    assert_eq!(run.code, Some(1));
    let said = "invalid peer certificate: ";
    assert!(run.stderr.contains(said), "{}", run.stderr);

    // The configured files must exist.
    let said = |variable, path: PathBuf| {
        let run = pull(&[(variable, path.as_os_str())]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
        let folder = folder.path().to_str().unwrap();
        let said = run.stderr.replace(folder, "FOLDER").replace('\\', "/");
        without_system_words(said.trim_end())
    };
    assert_snapshot!(said("SSL_CERT_FILE", folder.path().join("none")), @"error: failed to pull acme/tiny: no certificate can be read in FOLDER/none, which SSL_CERT_FILE names: failed to read PEM from file: SYSTEM");
    assert_snapshot!(said("SSL_CERT_FILE", folder.path().join("README")), @"error: failed to pull acme/tiny: no certificate can be read in FOLDER/README, which SSL_CERT_FILE names: nothing there is a certificate in PEM");
    assert_snapshot!(said("SSL_CERT_DIR", folder.path().join("none")), @"error: failed to pull acme/tiny: no certificate can be read in FOLDER/none, which SSL_CERT_DIR names: opening directory: SYSTEM");
}

#[test]
fn a_proxy_stands_between_but_for_the_hosts_that_need_none() {
    let hub = hub_of(|_, _| Reply::Bytes(model()));
    // A proxy that connects to the hub for any requested host.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (log, port) = (Arc::clone(&asked), hub.port);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
            let head: Vec<_> = lines
                .by_ref()
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            log.lock().unwrap().push(head[0].clone());
            let mut hub = TcpStream::connect(("127.0.0.1", port)).unwrap();
            client.write_all(b"HTTP/1.1 200 connected\r\n\r\n").unwrap();
            let mut up = (client.try_clone().unwrap(), hub.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut up.0, &mut up.1));
            let mut answer = Vec::new();
            let _ = hub.read_to_end(&mut answer);
            let _ = client.write_all(&answer);
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
    });
    let endpoint = ("HF_ENDPOINT", OsStr::new("http://hub.invalid"));
    let through = |name| [endpoint, (name, OsStr::new(&proxy))];
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        let args = ["pull", "-q", "acme/tiny", "--file", "README.md"];
        let run = hub.run_in(&args, &through(name));
        assert_eq!(run.code, Some(0), "{run:?}");
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        assert!(
            asked
                .iter()
                .all(|line| line.starts_with("CONNECT hub.invalid:80 "))
        );
        assert!(!asked.is_empty());
    }
    let nobody = [
        ("HTTP_PROXY", OsStr::new("http://127.0.0.1:1")),
        ("NO_PROXY", OsStr::new("localhost,127.0.0.1")),
    ];
    let run = hub.run_in(&["pull", "-q", "acme/tiny"], &nobody);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn who_asks_is_found_where_a_login_leaves_it() {
    let hub = hub_of(|_, _| Reply::Bytes(model()));
    let home = hub.cache.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("token"), " hf_login\n\n").unwrap();
    let other = hub.cache.path().join("other");
    std::fs::write(&other, "hf_path\r\n").unwrap();
    let token = |variables: &[(&str, &OsStr)]| {
        let run = hub.run_in(&["pull", "-q", "acme/tiny"], variables);
        assert_eq!(run.code, Some(0), "{run:?}");
        let asked = hub.asked();
        assert!(asked.iter().all(|request| request.token == asked[0].token));
        asked[0].token.clone()
    };
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    let path = ("HF_TOKEN_PATH", other.as_os_str());
    let old = ("HUGGING_FACE_HUB_TOKEN", OsStr::new("hf_old"));
    let new = ("HF_TOKEN", OsStr::new(" hf_new\n"));
    assert_eq!(token(&[]), bearer("hf_login"));
    assert_eq!(token(&[path]), bearer("hf_path"));
    assert_eq!(token(&[path, old]), bearer("hf_old"));
    assert_eq!(token(&[path, old, new]), bearer("hf_new"));
    let nobody = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", OsStr::new("1"));
    assert_eq!(token(&[new, nobody]), None);

    std::fs::write(home.join("token"), "hf_one\nhf_two\n").unwrap();
    let run = hub.run_in(&["pull", "-q", "acme/tiny"], &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    let said = run.stderr.replace(home.to_str().unwrap(), "HOME");
    let said = said.replace('\\', "/");
    assert_snapshot!(said, @"error: failed to pull acme/tiny: the token in HOME/token has a line end in it, expected letters and digits");
    assert!(hub.asked().is_empty());
}

#[test]
fn what_is_gated_says_where_it_is_opened() {
    let said = |token: Option<&str>| {
        let hub = Hub::start(|request, _| {
            if request.path.starts_with("/api/") {
                let siblings = [sibling(MODEL, &model())];
                return Reply::Json(json!({"sha": COMMIT, "siblings": siblings}));
            }
            Reply::StatusWith(403, "X-Error-Code: GatedRepo")
        });
        let run = hub.run_with(&["pull", "-q", "acme/tiny"], token);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
        run.stderr
    };
    assert_snapshot!(said(None), @"
    error: failed to pull acme/tiny: http://127.0.0.1:PORT/acme/tiny is gated: its conditions must be accepted first
    hint: accept them at http://127.0.0.1:PORT/acme/tiny, and provide your token by HF_TOKEN, HF_TOKEN_PATH or `hf auth login`
    ");
    assert_snapshot!(said(Some("secret")), @"
    error: failed to pull acme/tiny: http://127.0.0.1:PORT/acme/tiny is gated: its conditions must be accepted first
    hint: accept them at http://127.0.0.1:PORT/acme/tiny as the owner of the token in HF_TOKEN
    ");
}

#[test]
fn a_busy_hub_is_waited_for_as_long_as_it_asks() {
    let hub = Hub::start(|request, count| match (request.path.as_str(), count) {
        (_, 0) => Reply::StatusWith(429, "Retry-After: 1"),
        (path, _) if path.starts_with("/api/") => {
            let siblings = [sibling(MODEL, &model())];
            Reply::Json(json!({"sha": COMMIT, "siblings": siblings}))
        }
        _ => Reply::Bytes(model()),
    });
    let start = std::time::Instant::now();
    let run = hub.run_with(&["pull", "-q", "acme/tiny"], None);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        start.elapsed().as_secs_f64() >= 2.0,
        "{:?}",
        start.elapsed()
    );
    assert_eq!(hub.asked().len(), 4);
    // But there is a limit.
    let hub = Hub::start(|_, _| Reply::StatusWith(429, "Retry-After: 3600"));
    let run = hub.run_with(&["pull", "-q", "acme/tiny"], None);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(hub.asked().len(), 1);
    assert_snapshot!(run.stderr, @"error: failed to pull acme/tiny: http://127.0.0.1:PORT/api/models/acme/tiny/revision/main?blobs=true answers with status 429, retry after 3600 s");
}

#[test]
fn a_revision_is_a_branch_a_tag_a_commit_or_a_pull_request() {
    let hub = hub_with(&[
        ("main", COMMIT, &["a-q8_0.gguf"]),
        ("dev", DEV, &["b-q8_0.gguf"]),
        (DEV, DEV, &["b-q8_0.gguf"]),
        ("refs%2Fpr%2F1", DEV, &["b-q8_0.gguf"]),
    ]);
    let dev = hub.repository().join("snapshots").join(DEV);
    let dev = dev.join("b-q8_0.gguf");
    let inspect = |name: &str| hub.run_with(&["inspect", "-q", "--json", name], None);
    let refs = hub.repository().join("refs");

    // A commit has no other name.
    let run = hub.run_with(&["pull", "-q", &format!("acme/tiny@{DEV}")], None);
    assert_eq!(run.quietly(), format!("{}\n", dev.display()));
    assert!(!refs.exists());
    assert_eq!(inspect(&format!("acme/tiny@{DEV}")).code, Some(0));
    let run = inspect("acme/tiny");
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert_snapshot!(run.stderr, @"
    error: acme/tiny was not pulled, only acme/tiny@fedcba9876543210fedcba9876543210fedcba98
    hint: `bitnet pull acme/tiny` downloads it
    ");

    // Branches and pull requests have names.
    let args = [
        "pull",
        "-q",
        "--json",
        "--revision",
        "refs/pr/1",
        "acme/tiny",
    ];
    let report = hub.run_with(&args, None).json();
    assert_eq!(report["revision"], DEV);
    assert_eq!(report["reference"], "refs/pr/1");
    assert_eq!(
        std::fs::read_to_string(refs.join("refs/pr/1")).unwrap(),
        DEV
    );
    let args = ["pull", "-q", "acme/tiny@dev"];
    assert_eq!(hub.run_with(&args, None).code, Some(0));
    hub.asked();
    for name in ["acme/tiny@dev", "acme/tiny@refs/pr/1"] {
        assert_eq!(inspect(name).code, Some(0), "{name}");
    }
    let args = [
        "tokenize",
        "-q",
        "-m",
        "acme/tiny",
        "--revision",
        "dev",
        "a",
    ];
    assert_eq!(hub.run_with(&args, None).code, Some(0));
    let run = inspect("acme/tiny");
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert_snapshot!(run.stderr, @"
    error: acme/tiny was not pulled, only acme/tiny@dev, acme/tiny@refs/pr/1
    hint: `bitnet pull acme/tiny` downloads it
    ");
    assert!(hub.asked().is_empty());

    // The name alone is the main branch.
    assert_eq!(hub.pull_quietly("acme/tiny"), "a-q8_0.gguf");
    assert_eq!(inspect("acme/tiny").code, Some(0));
    assert_eq!(std::fs::read_to_string(refs.join("main")).unwrap(), COMMIT);

    let run = hub.run_with(&["pull", "-q", "acme/tiny@none"], None);
    assert_eq!(run.code, Some(1));
    assert_snapshot!(run.stderr, @"
    error: failed to pull acme/tiny@none: acme/tiny has no such revision (404)
    hint: the hub's page of acme/tiny lists its branches and tags
    ");
    for name in ["acme/tiny@../x", "acme/tiny@"] {
        assert_eq!(hub.run_with(&["pull", "-q", name], None).code, Some(2));
    }
    let run = hub.run_with(&["run", "-q", "--revision", "dev", "a"], None);
    assert_eq!(run.code, Some(2));
    assert_snapshot!(run.stderr, @"error: --revision is for models of a hub, expected `-m OWNER/NAME`");
}

impl Hub {
    /// Pulls and returns the name of the file for `-m`.
    fn pull_quietly(&self, name: &str) -> String {
        let path = self.run_with(&["pull", "-q", name], None).quietly();
        let path = PathBuf::from(path.trim_end());
        path.file_name().unwrap().to_str().unwrap().to_owned()
    }
}

#[test]
fn files_in_folders_are_found_and_a_choice_is_said() {
    let hub = hub_with(&[(
        "main",
        COMMIT,
        &[
            "Q2/x.gguf",
            "Q8/x-Q8_0.gguf",
            "mmproj-f16.gguf",
            "Q8/x-F16.gguf",
        ],
    )]);
    let inspect = |name: &str| hub.run_with(&["inspect", "--json", name], None);
    let run = hub.run_with(&["pull", "acme/tiny"], None);
    assert_eq!(run.code, Some(0), "{run:?}");
    let path = hub.snapshot().join("Q8").join("x-Q8_0.gguf");
    assert_eq!(run.stdout, format!("{}\n", path.display()));
    assert_snapshot!(run.stderr, @"
    1 of 4 files, 320.53 KiB: Q8/x-Q8_0.gguf (320.53 KiB)
    note: selected Q8/x-Q8_0.gguf among several models: it is the closest to the original that runs well; `--file NAME` selects another: Q8/x-F16.gguf (320.53 KiB), Q2/x.gguf (320.53 KiB)
    ");
    let run = inspect("acme/tiny");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));

    for (args, name) in [
        (&["--file", "Q2/x.gguf"][..], "acme/tiny"),
        (&["--file", "Q2"], "acme/tiny"),
        (&[], "acme/tiny:Q2"),
        (&[], "acme/tiny:Q2/x.gguf"),
    ] {
        let args = [&["pull", "-q", name][..], args].concat();
        let path = hub.snapshot().join("Q2").join("x.gguf");
        assert_eq!(
            hub.run_with(&args, None).quietly(),
            format!("{}\n", path.display())
        );
    }
    assert_eq!(hub.pull_quietly("acme/tiny:f16"), "x-F16.gguf");
    hub.asked();

    // Now the cache has several models.
    let run = inspect("acme/tiny");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_snapshot!(run.stderr, @"note: selected Q8/x-Q8_0.gguf among several models: it is the closest to the original that runs well; `-m acme/tiny:FILE` selects another: Q8/x-F16.gguf, Q2/x.gguf");
    let run = hub.run_with(&["inspect", "-v", "acme/tiny:Q2/x.gguf"], None);
    assert!(
        run.stderr.contains("acme/tiny:Q2/x.gguf is "),
        "{}",
        run.stderr
    );
    assert_eq!(inspect("acme/tiny@main:F16").code, Some(0));
    let run = inspect("acme/tiny:Q4_0");
    assert_eq!(run.code, Some(2));
    assert_snapshot!(run.stderr, @r#"error: there is no file "Q4_0" of acme/tiny here, only Q2/x.gguf, Q8/x-F16.gguf, Q8/x-Q8_0.gguf"#);
    assert!(hub.asked().is_empty());

    let run = hub.run_with(&["pull", "-q", "acme/tiny:Q4_0"], None);
    assert_eq!(run.code, Some(2));
    assert_snapshot!(run.stderr, @r#"error: failed to pull acme/tiny: there is no file "Q4_0", only Q2/x.gguf (320.53 KiB), Q8/x-Q8_0.gguf (320.53 KiB), mmproj-f16.gguf (320.53 KiB), Q8/x-F16.gguf (320.53 KiB)"#);
}

#[test]
fn a_model_in_a_folder_of_the_repository_is_one() {
    let folder = super::in_repository("crates/bitnet-inference/tests/data/tiny-llama");
    let read = |name: &str| std::fs::read(format!("{folder}/{name}")).unwrap();
    let names = std::fs::read_dir(&folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: Vec<_> = names.map(|name| (read(&name), name)).collect();
    let hub = Hub::start(move |request, _| {
        if request.path.starts_with("/api/") {
            let siblings = files.iter().map(|(content, name)| {
                let path = format!("ternary/{name}");
                json!({"rfilename": path, "size": content.len(),
                       "lfs": {"sha256": sha256(content), "size": content.len()}})
            });
            let siblings: Vec<_> = siblings.collect();
            return Reply::Json(json!({"sha": COMMIT, "siblings": siblings}));
        }
        let name = request.path.rsplit('/').next().unwrap();
        let file = files.iter().find(|(_, known)| known == name);
        Reply::Bytes(file.unwrap().0.clone())
    });
    let path = hub.run_with(&["pull", "-q", "acme/tiny"], None).quietly();
    let expected = hub.snapshot().join("ternary");
    assert_eq!(path, format!("{}\n", expected.display()));
    let report = hub.run_with(&["inspect", "-q", "--json", "acme/tiny"], None);
    assert_eq!(report.json()["kind"], "HuggingFace");
}

#[test]
fn nothing_is_asked_where_the_user_is_offline() {
    let hub = hub_of(|_, _| Reply::Bytes(model()));
    let offline = [("HF_HUB_OFFLINE", OsStr::new("1"))];
    let run = hub.run_in(&["pull", "acme/tiny"], &offline);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert_snapshot!(run.stderr, @"error: failed to pull acme/tiny: HF_HUB_OFFLINE is set, so nothing is downloaded");
    assert!(hub.asked().is_empty());
    let run = hub.run_in(&["inspect", "acme/tiny"], &offline);
    assert_eq!(run.code, Some(1));
    let lines: Vec<_> = run.stderr.lines().map(without_system_words).collect();
    assert_snapshot!(lines.join("\n"), @"
    error: failed to load acme/tiny: cannot read acme/tiny: SYSTEM
    hint: if this is a model of a hub, `bitnet pull acme/tiny` downloads it
    ");
    assert_eq!(
        hub.run_with(&["pull", "-q", "acme/tiny"], None).code,
        Some(0)
    );
    hub.asked();
    let run = hub.run_in(&["inspect", "-q", "acme/tiny"], &offline);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(hub.asked().is_empty());
    let run = hub.run_in(
        &["pull", "acme/tiny"],
        &[("HF_ENDPOINT", OsStr::new("hub.test"))],
    );
    assert_eq!(run.code, Some(1));
    assert_snapshot!(run.stderr, @r#"error: failed to pull acme/tiny: HF_ENDPOINT is "hub.test", expected a URL that begins with https:// or http://"#);
}

#[test]
fn the_cache_is_where_the_hubs_programs_have_it() {
    for (name, inside) in [
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ] {
        let hub = hub_of(|_, _| Reply::Bytes(model()));
        let folder = tempfile::tempdir().unwrap();
        let mut variables = vec![
            ("HF_HUB_CACHE", OsStr::new("")),
            ("HF_HOME", OsStr::new("")),
        ];
        variables.push((name, folder.path().as_os_str()));
        let run = hub.run_in(&["pull", "-q", "acme/tiny"], &variables);
        assert_eq!(run.code, Some(0), "{run:?}");
        let cache = folder.path().join(inside);
        assert!(
            cache.join("models--acme--tiny/refs/main").is_file(),
            "{name}"
        );
        let run = hub.run_in(&["inspect", "-q", "acme/tiny"], &variables);
        assert_eq!(run.code, Some(0), "{run:?}");
    }
}
