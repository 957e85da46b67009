//! Several models: which one answers, and when each is loaded and unloaded.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bitnet_inference::{Checkpoint, Engine, PlanOptions, builtin};
use bitnet_server::{MemoryTaken, ModelLoadError, ModelSource, ServedModel, ServerOptions};
use serde_json::{Value, json};

use crate::client::{Running, post_request, read_response, served, start_server};
use crate::equality::{Random, outcome, request};

/// The weights behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weights {
    Builtin,
    Tiny,
    /// They are not there.
    Broken,
}

use Weights::{Broken, Builtin, Tiny};

/// The models of a test's server.
#[derive(Clone)]
struct Served {
    models: Vec<(&'static str, Weights)>,
    /// Bytes for all models together.
    limit: usize,
    max_running: usize,
    /// How often one was loaded, or is broken.
    n_loads: Arc<AtomicUsize>,
    gate: Arc<Gate>,
}

/// Holds up loading while it is closed.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn close(&self) {
        *self.is_closed.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.is_closed.lock().unwrap() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let is_closed = self.is_closed.lock().unwrap();
        let opened = self.opened.wait_while(is_closed, |is_closed| *is_closed);
        drop(opened.unwrap());
    }
}

impl Served {
    fn new(models: &[(&'static str, Weights)]) -> Self {
        Self {
            models: models.to_vec(),
            limit: usize::MAX,
            max_running: 8,
            n_loads: Arc::default(),
            gate: Arc::default(),
        }
    }

    /// Loads a model anew, with its own memory, as the program does.
    fn load(
        &self,
        (name, weights): (&str, Weights),
        taken: MemoryTaken,
    ) -> Result<ServedModel, ModelLoadError> {
        self.gate.pass();
        let checkpoint = match weights {
            Builtin => builtin::open(),
            Tiny => tiny(),
            Broken => {
                self.n_loads.fetch_add(1, Ordering::Relaxed);
                Checkpoint::open(Path::new("nowhere.gguf"))
                    .map_err(|error| ModelLoadError::Model(error.to_string()))?
            }
        };
        let options = PlanOptions {
            n_threads: Some(2),
            n_sequences: Some(self.max_running + 4),
            kv_pages: Some(16),
            ..PlanOptions::default()
        };
        let engine = Engine::load(&checkpoint, options)
            .map_err(|error| ModelLoadError::Model(error.to_string()))?;
        let needed = memory_of(&engine);
        let left = self.limit.saturating_sub(taken.planned);
        if needed > left {
            let message = format!("it takes {needed} bytes, {left} are left");
            return Err(ModelLoadError::Memory {
                needed,
                left,
                message,
            });
        }
        self.n_loads.fetch_add(1, Ordering::Relaxed);
        Ok(served(name, engine, checkpoint))
    }

    fn options(&self) -> ServerOptions {
        ServerOptions {
            max_running: self.max_running,
            drain: Duration::from_secs(5),
            ..ServerOptions::default()
        }
    }

    fn start(&self) -> Running {
        self.start_with(self.options())
    }

    fn start_with(&self, options: ServerOptions) -> Running {
        let this = self.clone();
        start_server(options, move |server| {
            let first = this.load(this.models[0], MemoryTaken::default()).unwrap();
            let this = &this;
            let sources = this.models.iter().map(|&model| ModelSource {
                name: model.0.to_owned(),
                load: Box::new(move |taken| this.load(model, taken)),
            });
            let sources: Vec<_> = sources.collect();
            server.run_several(first, &sources, || ())
        })
    }

    /// Makes the server hold one model at a time.
    fn limited_to_one(mut self) -> Self {
        let largest = self.load(("a", Builtin), MemoryTaken::default());
        self.limit = memory_of(&largest.unwrap().engine);
        self.n_loads = Arc::default();
        self
    }
}

/// Returns the bytes that a model needs at most.
fn memory_of(engine: &Engine) -> usize {
    let plan = engine.plan();
    engine.model().n_bytes() + plan.kv_bytes + plan.scratch_bytes
}

fn tiny() -> Checkpoint {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/storyteller-tiny");
    Checkpoint::open(Path::new(folder)).unwrap()
}

fn completion(model: &str) -> Value {
    json!({"model": model, "prompt": "Once upon a time", "max_tokens": 12, "seed": 1})
}

/// The names of the models, and whether each is loaded.
fn states(server: &Running) -> Vec<(String, String)> {
    let list = server.get("/v1/models").json();
    let models = list["data"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    models
        .map(|model| (text(&model["id"]), text(&model["status"]["value"])))
        .collect()
}

fn loaded(server: &Running) -> Vec<String> {
    let states = states(server).into_iter();
    let loaded = states.filter(|(_, state)| state == "loaded");
    loaded.map(|(name, _)| name).collect()
}

/// Begins a stream that takes long, and reads its first bytes.
fn begin_long(server: &Running, model: &str) -> std::net::TcpStream {
    let request = json!({
        "model": model, "prompt": "A", "max_tokens": 1000, "ignore_eos": true, "stream": true,
        "temperature": 1, "seed": 1, "logprobs": 5,
    });
    let mut stream = server.connect();
    let request = post_request("/v1/completions", &request.to_string());
    stream.write_all(request.as_bytes()).unwrap();
    stream.read_exact(&mut [0; 600]).unwrap();
    stream
}

#[test]
fn the_model_of_a_request_answers_it_in_every_api() {
    let server = Served::new(&[("big", Builtin), ("tiny", Tiny)]).start();
    assert_eq!(loaded(&server), ["big"]);
    let big = server.post("/v1/completions", &completion("big")).json();
    let tiny = server.post("/v1/completions", &completion("tiny")).json();
    assert_eq!(
        (&big["model"], &tiny["model"]),
        (&json!("big"), &json!("tiny"))
    );
    assert_ne!(big["choices"], tiny["choices"]);
    assert_ne!(big["system_fingerprint"], tiny["system_fingerprint"]);
    assert_eq!(loaded(&server), ["big", "tiny"]);
    let messages = json!([{"role": "user", "content": "Hi"}]);
    for (path, mut body) in [
        (
            "/v1/chat/completions",
            json!({"messages": messages, "max_tokens": 1}),
        ),
        (
            "/v1/responses",
            json!({"input": "Hi", "max_output_tokens": 1}),
        ),
        (
            "/v1/messages",
            json!({"messages": messages, "max_tokens": 1}),
        ),
        ("/v1/embeddings", json!({"input": "Hi"})),
        (
            "/api/chat",
            json!({"messages": messages, "stream": false, "options": {"num_predict": 1}}),
        ),
        (
            "/api/generate",
            json!({"prompt": "Hi", "stream": false, "options": {"num_predict": 1}}),
        ),
        ("/api/embed", json!({"input": "Hi"})),
    ] {
        for name in ["big", "tiny"] {
            body["model"] = json!(name);
            let response = server.post(path, &body);
            assert_eq!(response.status, 200, "{path}: {}", response.body);
            assert_eq!(response.json()["model"], name, "{path}");
        }
        for name in [json!("other"), Value::Null, json!("tiny:latest")] {
            body["model"] = name.clone();
            let response = server.post(path, &body);
            if path.starts_with("/api/") && name == "tiny:latest" {
                assert_eq!(response.status, 200, "{path}: {}", response.body);
                continue;
            }
            assert_eq!(response.status, 404, "{path} {name}: {}", response.body);
            assert!(response.body.contains("big") && response.body.contains("tiny"));
        }
    }
    let error = server.post("/v1/completions", &completion("other")).json();
    assert_eq!(error["error"]["code"], "model_not_found");
    assert_eq!(error["error"]["param"], "model");
    let error = server.post("/v1/completions", &json!({"model": 1, "prompt": "A"}));
    assert_eq!((error.status, error.param().as_str()), (400, "model"));
    // The tokens of a text depend on the model, too.
    for path in ["/tokenize", "/v1/messages/count_tokens"] {
        let mut body = json!({"model": "tiny"});
        match path {
            "/tokenize" => body["content"] = json!("Hi"),
            _ => body["messages"] = messages.clone(),
        }
        assert_eq!(server.post(path, &body).status, 200);
        body["model"] = Value::Null;
        assert_eq!(server.post(path, &body).status, 404);
    }
    let shown = server.post("/api/show", &json!({"model": "tiny"})).json();
    assert_ne!(
        shown,
        server.post("/api/show", &json!({"model": "big"})).json()
    );
    // Those of this API name none.
    let vectors = server.post("/embed", &json!({"inputs": "Hi"})).json();
    let of_big = server
        .post("/v1/embeddings", &json!({"model": "big", "input": "Hi"}))
        .json();
    assert_eq!(vectors[0], of_big["data"][0]["embedding"]);
}

#[test]
fn the_lists_of_models_say_which_are_loaded() {
    let server = Served::new(&[("big", Builtin), ("a/tiny", Tiny)]).start();
    let list = server.get("/v1/models").json();
    assert_eq!(list["data"][0]["status"], json!({"value": "loaded"}));
    assert_eq!(list["data"][0]["bitnet"]["context_length"], 1024);
    assert_eq!(list["data"][1]["status"], json!({"value": "unloaded"}));
    assert!(list["data"][1]["bitnet"].is_null());
    assert_eq!(server.get("/v1/models/a/tiny").json(), list["data"][1]);
    assert_eq!(server.get("/v1/models/other").status, 404);
    assert!(server.get("/v1/models/other").body.contains("a/tiny"));
    let names = |path: &str| -> Vec<String> {
        let models = server.get(path).json();
        let models = models["models"].as_array().unwrap().iter();
        models
            .map(|m| m["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("/api/tags"), ["big", "a/tiny"]);
    assert_eq!(names("/api/ps"), ["big"]);
    // Without messages, a chat loads the model.
    let load = json!({"model": "a/tiny", "stream": false});
    assert_eq!(
        server.post("/api/chat", &load).json()["done_reason"],
        "load"
    );
    assert_eq!(names("/api/ps"), ["big", "a/tiny"]);
    assert_eq!(loaded(&server), ["big", "a/tiny"]);
    assert_eq!(server.metric("models_loaded"), 2.0);
    assert_eq!(
        server.metric("model_loads_total{model_name=\"a/tiny\"}"),
        1.0
    );
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn lenient_servers_answer_for_other_names_with_the_first_model() {
    let served = Served::new(&[("big", Builtin), ("tiny", Tiny)]);
    let server = served.start_with(ServerOptions {
        lenient: true,
        ..served.options()
    });
    let other = server.post("/v1/completions", &completion("gpt-5"));
    assert_eq!(other.headers["bitnet-ignored"], "model");
    assert_eq!(other.json()["model"], "big");
    assert_eq!(loaded(&server), ["big"]);
}

#[test]
fn the_model_not_asked_for_longest_makes_room() {
    let mut served = Served::new(&[("a", Tiny), ("b", Tiny), ("c", Tiny)]).limited_to_one();
    // For two of the small ones.
    let one = served.load(("a", Tiny), MemoryTaken::default()).unwrap();
    served.limit = 2 * memory_of(&one.engine);
    drop(one);
    let server = served.start();
    let ask = |name: &str| {
        let response = server.post("/v1/completions", &completion(name));
        assert_eq!(response.status, 200, "{}", response.body);
        // Whoever has an answer may be ahead of the end of its request.
        server.wait_until_idle();
        std::thread::sleep(Duration::from_millis(20));
        loaded(&server)
    };
    assert_eq!(ask("a"), ["a"]);
    assert_eq!(ask("b"), ["a", "b"]);
    assert_eq!(ask("a"), ["a", "b"]);
    assert_eq!(ask("c"), ["a", "c"]);
    assert_eq!(ask("b"), ["b", "c"]);
    assert_eq!(server.metric("models_loaded"), 2.0);
    assert_eq!(server.metric("model_unloads_total{model_name=\"a\"}"), 1.0);
    assert_eq!(server.metric("model_unloads_total{model_name=\"b\"}"), 1.0);
    assert_eq!(server.metric("model_loads_total{model_name=\"b\"}"), 2.0);
}

#[test]
fn a_model_in_use_stays_and_the_other_request_gets_the_numbers() {
    let server = Served::new(&[("big", Builtin), ("tiny", Tiny)])
        .limited_to_one()
        .start();
    let mut stream = begin_long(&server, "big");
    let refused = server.post("/v1/completions", &completion("tiny"));
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.headers.contains_key("retry-after"));
    let error = refused.json();
    assert_eq!(error["error"]["code"], "insufficient_memory");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("bytes, "), "{message}");
    assert_eq!(loaded(&server), ["big"]);
    // What ran goes on, and the other one has its turn when it is done.
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("[DONE]") && rest.ends_with("0\r\n\r\n"),
        "{rest}"
    );
    drop(stream);
    server.wait_until_idle();
    let begun = Instant::now();
    while server.post("/v1/completions", &completion("tiny")).status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never fits");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(loaded(&server), ["tiny"]);
}

#[test]
fn a_model_that_fits_nowhere_unloads_no_other() {
    let mut served = Served::new(&[("tiny", Tiny), ("big", Builtin)]).limited_to_one();
    served.limit -= 1;
    let server = served.start();
    let refused = server.post("/v1/completions", &completion("big"));
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(loaded(&server), ["tiny"]);
    assert_eq!(
        server.metric("model_load_failures_total{model_name=\"big\"}"),
        1.0
    );
}

#[test]
fn a_broken_model_fails_its_own_requests_alone() {
    let served = Served::new(&[("tiny", Tiny), ("broken", Broken)]);
    let server = served.start();
    for _ in 0..3 {
        let failed = server.post("/v1/completions", &completion("broken"));
        assert_eq!(failed.status, 500, "{}", failed.body);
        assert_eq!(failed.json()["error"]["code"], "model_not_loaded");
        assert!(failed.body.contains("nowhere.gguf"), "{}", failed.body);
        assert_eq!(
            server.post("/v1/completions", &completion("tiny")).status,
            200
        );
    }
    // It is tried again only after a pause.
    assert_eq!(served.n_loads.load(Ordering::Relaxed), 2);
    let list = server.get("/v1/models").json();
    let expected = json!({"value": "unloaded", "failed": true});
    assert_eq!(list["data"][1]["status"], expected);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_model_is_loaded_once_for_all_who_wait_while_others_go_on() {
    let served = Served::new(&[("big", Builtin), ("tiny", Tiny)]);
    let server = served.start();
    let expected = server.post("/v1/completions", &completion("big")).json();
    served.gate.close();
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| server.post("/v1/completions", &completion("tiny")).json()))
            .collect();
        let begun = Instant::now();
        while states(&server)[1].1 != "loading" {
            assert!(begun.elapsed() < Duration::from_secs(20));
        }
        // One that does not wait to the end.
        let mut gone = server.connect();
        let text = post_request("/v1/completions", &completion("tiny").to_string());
        gone.write_all(text.as_bytes()).unwrap();
        drop(gone);
        for _ in 0..3 {
            let answer = server.post("/v1/completions", &completion("big")).json();
            assert_eq!(answer["choices"], expected["choices"]);
        }
        served.gate.open();
        waiting.into_iter().map(|w| w.join().unwrap()).collect()
    });
    assert!(
        answers
            .iter()
            .all(|answer| answer["choices"] == answers[0]["choices"])
    );
    assert!(answers[0]["choices"].is_array());
    assert_eq!(served.n_loads.load(Ordering::Relaxed), 2);
}

#[test]
fn a_server_that_ends_while_it_loads_answers_who_waits() {
    let served = Served::new(&[("big", Builtin), ("tiny", Tiny)]);
    let server = served.start();
    served.gate.close();
    let mut waiting = server.connect();
    let text = post_request("/v1/completions", &completion("tiny").to_string());
    waiting.write_all(text.as_bytes()).unwrap();
    while states(&server)[1].1 != "loading" {}
    server.shutdown().request();
    served.gate.open();
    let response = read_response(&mut waiting);
    assert_eq!(response.status, 503, "{}", response.body);
    assert!(server.join());
}

/// The answers of each model alone, on a server of its own.
struct Alone(HashMap<&'static str, Running>);

impl Alone {
    fn new(models: &[(&'static str, Weights)]) -> Self {
        let alone = models.iter().map(|&(name, weights)| {
            let mut served = Served::new(&[(name, weights)]);
            served.max_running = 1;
            (name, served.start())
        });
        Self(alone.collect())
    }

    fn answer(&self, request: &Value) -> Value {
        outcome(&self.0[request["model"].as_str().unwrap()], request)
    }
}

fn random_request(random: &mut Random, models: &[(&'static str, Weights)]) -> Value {
    let mut request = request(random);
    request["model"] = json!(models[random.below(models.len())].0);
    request
}

#[test]
fn answers_are_the_same_after_a_model_was_unloaded_and_loaded_again() {
    let models = [("big", Builtin), ("tiny", Tiny)];
    let server = Served::new(&models).limited_to_one().start();
    let alone = Alone::new(&models);
    let mut random = Random(11);
    let requests: Vec<_> = (0..16)
        .map(|_| random_request(&mut random, &models))
        .collect();
    for request in requests.iter().chain(&requests) {
        let begun = Instant::now();
        // The request before may not have ended quite.
        while server
            .post(
                "/tokenize",
                &json!({"model": request["model"], "content": "A"}),
            )
            .status
            == 503
        {
            assert!(begun.elapsed() < Duration::from_secs(20));
        }
        assert_eq!(
            outcome(&server, request),
            alone.answer(request),
            "{request}"
        );
    }
    assert!(server.metric("model_unloads_total{model_name=\"big\"}") >= 4.0);
    assert!(server.metric("model_unloads_total{model_name=\"tiny\"}") >= 4.0);
}

#[test]
fn answers_are_the_same_while_other_models_compute() {
    let models = [("big", Builtin), ("tiny", Tiny), ("twin", Tiny)];
    let server = Served::new(&models).start();
    let alone = Alone::new(&models);
    let answers: Vec<(Value, Value)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let server = &server;
                scope.spawn(move || {
                    let mut random = Random(client * 7919 + 1);
                    let requests = (0..6).map(|_| random_request(&mut random, &models));
                    let answers = requests.map(|r| (outcome(server, &r), r));
                    answers.collect::<Vec<_>>()
                })
            })
            .collect();
        let clients = clients.into_iter();
        clients.flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(answers.len(), 36);
    for (answer, request) in answers {
        assert_eq!(answer, alone.answer(&request), "{request}");
    }
    server.wait_until_idle();
}

#[test]
#[ignore = "takes some minutes; run it when the loading of models changes"]
#[expect(clippy::print_stdout, reason = "its numbers are asked for")]
fn two_hundred_loads_keep_the_memory() {
    let models = [("big", Builtin), ("tiny", Tiny)];
    let served = Served::new(&models).limited_to_one();
    let server = served.start();
    let run = |n: usize| {
        while served.n_loads.load(Ordering::Relaxed) < n {
            for (name, _) in models {
                let begun = Instant::now();
                while server.post("/v1/completions", &completion(name)).status != 200 {
                    assert!(begun.elapsed() < Duration::from_secs(20));
                }
            }
        }
        bitnet_core::machine::resident_memory().unwrap()
    };
    let before = run(40);
    let after = run(240);
    println!(
        "{} MB after 40 loads, {} MB after 240",
        before >> 20,
        after >> 20
    );
    let n_unloads = server.metric("model_unloads_total{model_name=\"big\"}");
    assert!(n_unloads >= 95.0, "{n_unloads}");
    // Less than 40 kB per load.
    assert!(after < before + (8 << 20), "{before} bytes, then {after}");
}
