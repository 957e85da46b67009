//! The options of a server.

use std::time::{Duration, SystemTime};

use bitnet_inference::SamplerOptions;

/// The options of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Names of hosts, besides addresses and `localhost`, that requests may be for.
    pub allowed_hosts: Vec<String>,
    /// Keys of which a request needs one; none is needed if there are none.
    pub api_keys: Vec<String>,
    /// Origins of other sites whose pages may use the server; `*` for all.
    pub cors_origins: Vec<String>,
    /// Maximum number of texts that are generated at the same time.
    pub max_running: usize,
    /// Maximum number of texts that wait.
    pub max_waiting: usize,
    /// Whether tokens are drafted from what texts repeat, while few texts run.
    pub speculate: bool,
    /// Whether requests may name another model, and fields that are unknown or have no
    /// effect: they are listed in the header `bitnet-ignored`.
    pub lenient: bool,
    /// Bytes of answers that are kept, so that requests whose answer is determined, by a seed
    /// or greedy sampling, are answered again without computing them; 0 for none.
    pub response_cache: usize,
    /// How long running requests may take after the server was asked to end.
    pub drain: Duration,
    /// Limits of requests and connections.
    pub limits: Limits,
    /// The time of every request, instead of the clock's.
    pub time: Option<SystemTime>,
    /// Certificate and key; without them, connections are not encrypted.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::Tls>,
}

/// What holds where a request says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestDefaults {
    /// Sampling parameters; their seed is not used.
    pub sampling: SamplerOptions,
    /// The seed; without it, each request draws one.
    pub seed: Option<u64>,
    /// Maximum number of tokens of a text. Without it, a completion has 16, as the API says,
    /// and a chat as many as the context has room for.
    pub max_tokens: Option<usize>,
}

/// Limits of requests and connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body.
    pub body: usize,
    /// Bytes of a request's head.
    pub head: usize,
    /// Time to send the head, or the body.
    pub receive: Duration,
    /// Time in which a client reads something.
    pub send: Duration,
    /// Open connections.
    pub connections: usize,
    /// Time to compile a grammar.
    pub compile: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 16 << 20,
            head: 64 << 10,
            receive: Duration::from_secs(30),
            send: Duration::from_mins(1),
            connections: 1024,
            compile: Duration::from_secs(10),
        }
    }
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            api_keys: Vec::new(),
            cors_origins: Vec::new(),
            max_running: 8,
            max_waiting: 256,
            speculate: true,
            lenient: false,
            response_cache: 0,
            drain: Duration::from_secs(30),
            limits: Limits::default(),
            time: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}
