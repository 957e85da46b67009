//! Metrics in Prometheus' format. Names and buckets are those of vLLM, behind another
//! prefix, so that its dashboards need one replacement.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bitnet_inference::{SchedulerCounts, TaskUsage};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The type of the document.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const NEXT_TOKEN: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const REQUEST: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

type Label = [(&'static str, String); 1];
type Labels = [(&'static str, String); 2];

/// What an engine does now, or several of them together.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineState {
    pub running: usize,
    pub waiting: usize,
    pub kv_pages: usize,
    pub max_kv_pages: usize,
}

/// What the server has done and does.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The sum of all engines.
    state: Mutex<EngineState>,
    running: Gauge,
    waiting: Gauge,
    kv_usage: Gauge<f64, AtomicU64>,
    models_loaded: Gauge,
    model_loads: Family<Label, Counter>,
    model_load_failures: Family<Label, Counter>,
    model_unloads: Family<Label, Counter>,
    pub saved_pages: Counter,
    pub restored_pages: Counter,
    prefix_queries: Counter,
    prefix_hits: Counter,
    response_queries: Counter,
    response_hits: Counter,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    preemptions: Counter,
    drafted_tokens: Counter,
    accepted_tokens: Counter,
    success: Family<Label, Counter>,
    responses: Family<Labels, Counter>,
    first_token: Histogram,
    next_token: Histogram,
    end_to_end: Histogram,
    queue_time: Histogram,
    request_prompt: Histogram,
    request_generation: Histogram,
}

impl Metrics {
    pub fn new() -> Self {
        let tokens = [
            1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0,
        ];
        let mut metrics = Self {
            registry: Registry::default(),
            state: Mutex::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            kv_usage: Gauge::default(),
            models_loaded: Gauge::default(),
            model_loads: Family::default(),
            model_load_failures: Family::default(),
            model_unloads: Family::default(),
            saved_pages: Counter::default(),
            restored_pages: Counter::default(),
            prefix_queries: Counter::default(),
            prefix_hits: Counter::default(),
            response_queries: Counter::default(),
            response_hits: Counter::default(),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            preemptions: Counter::default(),
            drafted_tokens: Counter::default(),
            accepted_tokens: Counter::default(),
            success: Family::default(),
            responses: Family::default(),
            first_token: Histogram::new(FIRST_TOKEN),
            next_token: Histogram::new(NEXT_TOKEN),
            end_to_end: Histogram::new(REQUEST),
            queue_time: Histogram::new(REQUEST),
            request_prompt: Histogram::new(tokens),
            request_generation: Histogram::new(tokens),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        macro_rules! register {
            ($($field:ident: $name:literal, $help:literal;)*) => {
                $(r.register(concat!("bitnet:", $name), $help, self.$field.clone());)*
            };
        }
        register! {
            running: "num_requests_running", "Texts that are generated";
            waiting: "num_requests_waiting", "Texts that wait";
            kv_usage: "kv_cache_usage_perc", "Pages of the KV cache in use, 1 for all";
            models_loaded: "models_loaded", "Models that are loaded";
            model_loads: "model_loads", "Models that were loaded, by name";
            model_load_failures: "model_load_failures", "Models that could not be loaded, by name";
            model_unloads: "model_unloads", "Models that were unloaded for others, by name";
            saved_pages: "prefix_cache_saved_pages", "Pages of the KV cache written to files";
            restored_pages: "prefix_cache_restored_pages", "Pages of the KV cache read from files";
            prefix_queries: "prefix_cache_queries", "Prompt tokens looked up in the KV cache";
            prefix_hits: "prefix_cache_hits", "Prompt tokens found in the KV cache";
            response_queries: "response_cache_queries", "Requests looked up in the response cache";
            response_hits: "response_cache_hits", "Requests answered by the response cache";
            prompt_tokens: "prompt_tokens", "Prompt tokens";
            generation_tokens: "generation_tokens", "Generated tokens";
            preemptions: "num_preemptions", "Texts put back for lack of pages";
            drafted_tokens: "spec_decode_num_draft_tokens", "Drafted tokens";
            accepted_tokens: "spec_decode_num_accepted_tokens", "Drafted tokens that were right";
            success: "request_success", "Texts that ended, by reason";
            responses: "http_responses", "Responses by path and status";
            first_token: "time_to_first_token_seconds", "From request to first token";
            next_token: "inter_token_latency_seconds", "Between two tokens of a text";
            end_to_end: "e2e_request_latency_seconds", "From request to last token";
            queue_time: "request_queue_time_seconds", "From request to first step";
            request_prompt: "request_prompt_tokens", "Prompt tokens of a text";
            request_generation: "request_generation_tokens", "Generated tokens of a text";
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }

    /// Adds what the scheduler did from `before` to `now`.
    pub fn add(&self, before: SchedulerCounts, now: SchedulerCounts) {
        let prompt = now.prompt_tokens - before.prompt_tokens;
        self.prompt_tokens.inc_by(prompt);
        self.prefix_queries.inc_by(prompt);
        self.prefix_hits
            .inc_by(now.cached_tokens - before.cached_tokens);
        self.generation_tokens
            .inc_by(now.generated_tokens - before.generated_tokens);
        self.preemptions
            .inc_by(now.preemptions - before.preemptions);
        self.drafted_tokens
            .inc_by(now.drafted_tokens - before.drafted_tokens);
        self.accepted_tokens
            .inc_by(now.accepted_tokens - before.accepted_tokens);
    }

    /// Takes into account that the state of an engine changed.
    pub fn change_state(&self, before: EngineState, now: EngineState) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running = state.running + now.running - before.running;
        state.waiting = state.waiting + now.waiting - before.waiting;
        state.kv_pages = state.kv_pages + now.kv_pages - before.kv_pages;
        state.max_kv_pages = state.max_kv_pages + now.max_kv_pages - before.max_kv_pages;
        self.running.set(state.running as i64);
        self.waiting.set(state.waiting as i64);
        self.kv_usage
            .set(state.kv_pages as f64 / state.max_kv_pages.max(1) as f64);
    }

    pub fn loaded(&self, model: &str) {
        self.models_loaded.inc();
        self.model_loads.get_or_create(&of_model(model)).inc();
    }

    pub fn failed_to_load(&self, model: &str) {
        let label = of_model(model);
        self.model_load_failures.get_or_create(&label).inc();
    }

    pub fn unloaded(&self, model: &str) {
        self.models_loaded.dec();
        self.model_unloads.get_or_create(&of_model(model)).inc();
    }

    /// Counts a request that was looked up in the response cache.
    pub fn looked_up(&self, is_there: bool) {
        self.response_queries.inc();
        self.response_hits.inc_by(is_there.into());
    }

    pub fn finished(&self, reason: &str) {
        let label = [("finished_reason", reason.to_owned())];
        self.success.get_or_create(&label).inc();
    }

    pub fn response(&self, path: &str, status: u16) {
        let labels = [("path", path.to_owned()), ("status", status.to_string())];
        self.responses.get_or_create(&labels).inc();
    }

    pub fn queued(&self, time: Duration) {
        self.queue_time.observe(time.as_secs_f64());
    }

    pub fn first_token(&self, time: Duration) {
        self.first_token.observe(time.as_secs_f64());
    }

    pub fn next_token(&self, time: Duration) {
        self.next_token.observe(time.as_secs_f64());
    }

    pub fn request(&self, time: Duration, usage: TaskUsage) {
        self.end_to_end.observe(time.as_secs_f64());
        self.request_prompt.observe(usage.n_prompt as f64);
        self.request_generation.observe(usage.n_generated as f64);
    }
}

/// Returns the label of a model, by vLLM's name.
fn of_model(name: &str) -> Label {
    [("model_name", name.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashboard_and_scaling_ask_for_metrics_that_are_there() {
        let metrics = Metrics::new();
        // Without a value, metrics with labels are left out.
        metrics.finished("stop");
        metrics.response("/health", 200);
        metrics.loaded("a");
        metrics.failed_to_load("b");
        metrics.unloaded("a");
        let text = metrics.text();
        let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let files = [
            include_str!("../../../deploy/grafana-dashboard.json"),
            include_str!("../../../deploy/kubernetes/prometheus-adapter.yaml"),
        ];
        let mut n_asked = 0;
        for asked in files
            .into_iter()
            .flat_map(|file| file.split("bitnet:").skip(1))
        {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let name = asked.split(|c| !is_part(c)).next().unwrap_or_default();
            let is_there = series.iter().any(|line| {
                let rest = line.strip_prefix("bitnet:").unwrap_or_default();
                rest.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            assert!(is_there, "bitnet:{name}");
            n_asked += 1;
        }
        assert!(n_asked > 20, "{n_asked}");
    }
}
