//! A server in this process, and a plain HTTP client that shows every byte.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bitnet_core::{ComputeContext, HybridMemoryPool, ThreadPool};
use bitnet_inference::{
    ChatOptions, ChatTemplate, Checkpoint, Engine, GenerateOptions, Model, Packing, Plan,
    PlanOptions, SamplerOptions, StopSequences, Tokenizer, builtin, generate,
};
use bitnet_server::{RequestDefaults, ServedModel, Server, ServerOptions, Shutdown};
use serde_json::Value;

/// The weights, which all engines of the tests share.
fn weights() -> (Arc<Model>, Checkpoint) {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let checkpoint = builtin::open();
    let model = MODEL.get_or_init(|| {
        let plan = Plan::new(checkpoint.config(), PlanOptions::default()).unwrap();
        let mut threads = ThreadPool::new(plan.n_threads);
        let ctx = &mut ComputeContext::new(plan.isa, &mut threads);
        let pool = HybridMemoryPool::new();
        Arc::new(Model::load(&checkpoint, &pool, ctx, Packing::default(), |_, _| ()).unwrap())
    });
    (Arc::clone(model), checkpoint)
}

pub fn engine(options: PlanOptions) -> Engine {
    let (model, checkpoint) = weights();
    let plan = Plan::new(checkpoint.config(), options).unwrap();
    Engine::new(model, plan).unwrap()
}

pub fn tokenizer() -> Tokenizer {
    Tokenizer::from_checkpoint(&builtin::open()).unwrap()
}

/// The text that the library generates for a prompt without a server.
pub fn alone(prompt: &str, max_tokens: usize, sampling: SamplerOptions, stop: &[&str]) -> String {
    let mut engine = engine(PlanOptions {
        n_threads: Some(1),
        ..PlanOptions::default()
    });
    let tokenizer = tokenizer();
    let prompt = tokenizer.encode(prompt).unwrap();
    let options = GenerateOptions {
        sampling,
        speculate: false,
        ..GenerateOptions::new(&prompt, max_tokens)
    };
    let stops = StopSequences::new(stop.iter().copied()).unwrap();
    let (mut stream, mut matcher) = (tokenizer.stream(&prompt), stops.matcher());
    let mut text = String::new();
    generate(
        &mut engine,
        &options,
        |id| tokenizer.is_eog(id),
        |event| {
            if let bitnet_inference::Event::Token(id) = event {
                text += &matcher.push(&stream.push(id));
                if matcher.is_stopped() {
                    return std::ops::ControlFlow::Break(());
                }
            }
            std::ops::ControlFlow::Continue(())
        },
    )
    .unwrap();
    text += &matcher.push(&stream.finish());
    text + &matcher.finish().0
}

/// ChatML, with tools in the manner of Qwen.
const TEMPLATE: &str = "{% if tools %}<|im_start|>system\nTools:\n\
    {% for tool in tools %}{{ tool | tojson }}\n{% endfor %}\
    A call: <tool_call>{\"name\": …, \"arguments\": …}</tool_call><|im_end|>\n{% endif %}\
    {% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content }}\
    {% for call in message.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>\
    {% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// A running server, which ends when dropped.
pub struct Running {
    pub address: SocketAddr,
    shutdown: Shutdown,
    thread: Option<JoinHandle<bool>>,
}

/// The size of a test's engine.
#[derive(Clone, Copy)]
pub struct Size {
    pub n_cached: usize,
    pub kv_pages: Option<usize>,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            n_cached: 16,
            kv_pages: None,
        }
    }
}

pub fn start(options: ServerOptions) -> Running {
    start_sized(options, Size::default())
}

pub fn start_sized(options: ServerOptions, size: Size) -> Running {
    start_with_defaults(options, size, RequestDefaults::default())
}

pub fn start_with_defaults(
    options: ServerOptions,
    size: Size,
    defaults: RequestDefaults,
) -> Running {
    let engine = engine(PlanOptions {
        n_threads: Some(2),
        n_sequences: Some(options.max_running + size.n_cached),
        kv_pages: size.kv_pages,
        ..PlanOptions::default()
    });
    let model = ServedModel {
        defaults,
        is_builtin: true,
        ..served("builtin", engine, builtin::open())
    };
    start_server(options, |server| server.run(model, || ()))
}

/// A model that is served under a name, with a chat template.
pub fn served(name: &str, engine: Engine, checkpoint: Checkpoint) -> ServedModel {
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let tensors = checkpoint.tensors();
    ServedModel {
        name: name.to_owned(),
        is_builtin: false,
        engine,
        template: ChatTemplate::parse(TEMPLATE, &tokenizer).ok(),
        tokenizer: Arc::new(tokenizer),
        chat_options: ChatOptions::new(SystemTime::now()),
        defaults: RequestDefaults::default(),
        prefix_folder: None,
        n_parameters: tensors.iter().map(|t| t.n_rows * t.n_cols).sum(),
        checkpoint: Arc::new(checkpoint),
    }
}

/// Starts a server whose models `run` serves, on a thread of its own.
pub fn start_server(
    options: ServerOptions,
    run: impl FnOnce(Server) -> bool + Send + 'static,
) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::start(listener, options).unwrap();
    let shutdown = server.shutdown();
    let thread = std::thread::spawn(move || run(server));
    let running = Running {
        address,
        shutdown,
        thread: Some(thread),
    };
    let ready = Instant::now();
    while running.get("/health").status != 200 {
        assert!(
            ready.elapsed() < Duration::from_mins(1),
            "it is never ready"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    running
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.request();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The field that an error is about.
    pub fn param(&self) -> String {
        self.json()["error"]["param"]
            .as_str()
            .unwrap_or("-")
            .to_owned()
    }

    /// The documents of a stream, whose end is checked.
    pub fn events(&self) -> Vec<Value> {
        let events = self.body.split("\n\n").filter(|event| !event.is_empty());
        let mut events: Vec<&str> = events
            .filter(|event| !event.starts_with(':'))
            .map(|event| event.strip_prefix("data: ").expect(event))
            .collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events
            .iter()
            .map(|event| serde_json::from_str(event).unwrap())
            .collect()
    }
}

impl Response {
    /// The documents of a stream whose events have names, which their types are.
    pub fn named_events(&self) -> Vec<Value> {
        let events = self.body.split("\n\n").filter(|event| !event.is_empty());
        let read = |event: &str| {
            let (name, data) = event.split_once('\n').expect(event);
            let data = data.strip_prefix("data: ").expect(event);
            let document: Value = serde_json::from_str(data).expect(event);
            assert_eq!(name.strip_prefix("event: "), document["type"].as_str());
            document
        };
        events.map(read).collect()
    }
}

impl Running {
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Waits for the end, and returns whether all requests were done.
    pub fn join(mut self) -> bool {
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_mins(2)))
            .unwrap();
        stream
    }

    pub fn get(&self, path: &str) -> Response {
        self.request(&format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ))
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.post_text(path, &body.to_string())
    }

    pub fn post_text(&self, path: &str, body: &str) -> Response {
        self.request(&post_request(path, body))
    }

    pub fn request(&self, request: &str) -> Response {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        read_response(&mut stream)
    }

    /// The value of a metric, whose labels are part of its name.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("bitnet:{name} ")));
        line.unwrap_or_else(|| panic!("{name} in {text}"))
            .parse()
            .unwrap()
    }

    /// Waits until nothing runs or waits.
    pub fn wait_until_idle(&self) {
        let start = Instant::now();
        while self.metric("num_requests_running") + self.metric("num_requests_waiting") > 0.0 {
            assert!(start.elapsed() < Duration::from_mins(1), "it is never idle");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub fn post_request(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads an answer up to the end of the connection.
pub fn read_response(stream: &mut TcpStream) -> Response {
    let mut bytes = Vec::new();
    // A server that refuses a body may close before it has read all.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    let status = status
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let is_chunked = headers
        .get("transfer-encoding")
        .is_some_and(|t| t == "chunked");
    Response {
        status,
        headers,
        body: if is_chunked {
            unchunked(body)
        } else {
            body.to_owned()
        },
    }
}

fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        text += &rest[..length];
        body = &rest[length + 2..];
        if length == 0 {
            break;
        }
    }
    text
}
