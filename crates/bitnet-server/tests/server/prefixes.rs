//! Prefixes that a later server goes on from.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bitnet_inference::{PlanOptions, builtin};
use bitnet_server::{PrefixFolder, ServedModel, ServerOptions};
use serde_json::{Value, json};

use crate::client::{Running, engine, served, start, start_server};

fn start_saving(folder: &Path) -> Running {
    let options = ServerOptions::default();
    let plan = PlanOptions {
        n_threads: Some(2),
        n_sequences: Some(options.max_running + 4),
        ..PlanOptions::default()
    };
    let model = ServedModel {
        prefix_folder: Some(PrefixFolder {
            path: folder.to_owned(),
            max_bytes: 1 << 30,
            weights: "builtin".to_owned(),
        }),
        ..served("builtin", engine(plan), builtin::open())
    };
    start_server(options, |server| server.run(model, || ()))
}

/// Requests that share some hundred tokens at their beginning.
fn requests() -> [Value; 3] {
    let system = "Once upon a time there was a king who had three daughters. ".repeat(26);
    ["The first", "The second one", "The youngest"].map(|name| {
        json!({
            "prompt": format!("{system}{name}"), "max_tokens": 24, "seed": 3, "temperature": 1,
            "logprobs": 3,
        })
    })
}

/// Returns the texts with their log-probabilities, and how much of the prompt was cached.
fn ask(server: &Running, request: &Value) -> (Value, u64) {
    let response = server.post("/v1/completions", request);
    assert_eq!(response.status, 200, "{}", response.body);
    let mut reply = response.json();
    let cached = &reply["usage"]["prompt_tokens_details"]["cached_tokens"];
    let n_cached = cached.as_u64().unwrap();
    (reply["choices"].take(), n_cached)
}

#[test]
fn a_prefix_is_used_after_a_restart_and_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let requests = requests();
    let plain = start(ServerOptions::default());
    let expected = requests.each_ref().map(|request| ask(&plain, request).0);

    let server = start_saving(folder.path());
    let (choices, n_cached) = ask(&server, &requests[0]);
    assert_eq!((&choices, n_cached), (&expected[0], 0));
    // At its end.
    server.shutdown().request();
    assert!(server.join());

    let server = start_saving(folder.path());
    for (request, expected) in requests.iter().zip(&expected) {
        let (choices, n_cached) = ask(&server, request);
        assert_eq!(&choices, expected);
        assert!(n_cached >= 256, "{n_cached}");
    }
    assert!(server.metric("prefix_cache_restored_pages_total") >= 2.0);
    // While it is idle, those of a longer text.
    let mut longer = requests[0].clone();
    longer["max_tokens"] = json!(200);
    longer["ignore_eos"] = json!(true);
    ask(&server, &longer);
    let begun = Instant::now();
    while server.metric("prefix_cache_saved_pages_total") < 1.0 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn damaged_files_of_prefixes_change_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let [request, ..] = requests();
    let server = start_saving(folder.path());
    let (expected, _) = ask(&server, &request);
    server.shutdown().request();
    assert!(server.join());
    let files = || {
        fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    assert!(files().count() >= 2);
    let damages: [fn(&mut Vec<u8>); 5] = [
        |file| file.truncate(file.len() / 2),
        |file| file.clear(),
        |file| file[700] ^= 1,
        |file| file.push(0),
        |file| file.fill(0xff),
    ];
    for damage in damages {
        for path in files() {
            let mut file = fs::read(&path).unwrap();
            damage(&mut file);
            fs::write(path, file).unwrap();
        }
        let server = start_saving(folder.path());
        assert_eq!(ask(&server, &request), (expected.clone(), 0));
        // Its end writes them again.
        server.shutdown().request();
        assert!(server.join());
        let server = start_saving(folder.path());
        let (choices, n_cached) = ask(&server, &request);
        assert_eq!(choices, expected);
        assert!(n_cached >= 256, "{n_cached}");
    }
}

#[test]
fn a_folder_that_cannot_be_used_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "not a folder").unwrap();
    let server = start_saving(&file);
    let [request, ..] = requests();
    assert_eq!(ask(&server, &request).1, 0);
}
