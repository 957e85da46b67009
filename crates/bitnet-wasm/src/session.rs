//! A loaded model and what it computes.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bitnet_inference::{
    ChatOptions, ChatTemplate, Checkpoint, DraftCost, Engine, FinishReason, GenerationTask,
    GrammarCompiler, Receipt, ReceiptEngine, ReceiptRequest, SamplingDefaults, Scheduler,
    SchedulerOptions, StepLimits, StopMatcher, StopSequences, Task, TaskEvent, TaskId, TaskUsage,
    TextStream, TokenSet, Tokenizer, Work,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::clock::Moment;
use crate::failure::{Code, Failure};
use crate::options::{MAX_RUNNING, Prompt, TextOptions};

/// Requests that wait.
const MAX_WAITING: usize = 1024;

/// Maximum tokens of a text by default, as in the program.
const MAX_TOKENS: usize = 128;

/// The time of a step that computes a prompt is kept between these, so that a cancelled
/// request ends soon.
const STEP_TIME: [Duration; 2] = [Duration::from_millis(40), Duration::from_millis(160)];

/// Prompt positions of the first step, and the fewest of one.
const PREFILL: [usize; 2] = [16, 4];

/// Identifies a request of a session.
pub type RequestId = u32;

/// A loaded model with its requests.
///
/// Its tokenizer is never freed: a session lives as long as the instance of the module.
pub struct Session {
    engine: Engine,
    scheduler: Scheduler,
    tokenizer: &'static Arc<Tokenizer>,
    /// The template of the model, or why it cannot be used.
    template: Result<Option<ChatTemplate>, Failure>,
    defaults: SamplingDefaults,
    grammars: Option<GrammarCompiler>,
    draft_cost: DraftCost,
    /// Maximum prompt positions of the next step.
    max_prefill: usize,
    next_id: RequestId,
    requests: HashMap<TaskId, Running>,
    info: Value,
}

/// A request that is computed.
struct Running {
    id: RequestId,
    text: Option<Text>,
}

/// A text that is generated.
struct Text {
    stream: Option<TextStream<'static>>,
    stops: StopMatcher,
    asked: ReceiptRequest,
    ids: Vec<u32>,
    /// Length of the text after each token in bytes, stop sequences included.
    ends: Vec<usize>,
    /// Bytes of the text that were passed on.
    n_bytes: usize,
    speculate: bool,
}

/// What happened to a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(
    tag = "type",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
pub enum Event {
    /// Prompt positions were computed.
    Prompt {
        /// The request.
        id: RequestId,
        /// So far.
        done: usize,
        /// All.
        total: usize,
    },
    /// The text goes on.
    Piece {
        /// The request.
        id: RequestId,
        /// What was added, perhaps nothing: part of a character, or of a stop sequence.
        text: String,
        /// The token.
        token: u32,
    },
    /// The text ended.
    End {
        /// The request.
        id: RequestId,
        /// The rest of the text.
        text: String,
        /// The tokens of the whole text, as the program shows them.
        ids: Vec<u32>,
        /// Why.
        finish_reason: &'static str,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Those of them that had been computed for an earlier text.
        cached_tokens: usize,
        /// Tokens that were generated.
        generated_tokens: usize,
        /// The digest of the text's receipt, in hexadecimal digits.
        digest: String,
    },
    /// The embedding of a text.
    Embedding {
        /// The request.
        id: RequestId,
        /// `[hidden_dim]`, of length 1.
        values: Vec<f32>,
    },
    /// The request failed.
    Error {
        /// The request.
        id: RequestId,
        /// Why.
        #[serde(flatten)]
        failure: Failure,
    },
}

impl Session {
    /// Returns a session without requests.
    ///
    /// # Errors
    ///
    /// Returns an error if the model's tokenizer cannot be used.
    pub fn new(checkpoint: &Checkpoint, engine: Engine) -> Result<Self, Failure> {
        let tokenizer = Arc::new(Tokenizer::from_checkpoint(checkpoint)?);
        let tokenizer: &'static Arc<Tokenizer> = Box::leak(Box::new(tokenizer));
        let template = ChatTemplate::of_model(checkpoint, tokenizer).map_err(Failure::from);
        let config = checkpoint.config();
        let mut end_tokens = TokenSet::new(config.vocab_size);
        let ends = tokenizer.eog();
        for id in ends.filter(|id| (*id as usize) < config.vocab_size) {
            end_tokens.insert(id);
        }
        let notes = checkpoint.notes().iter().map(ToString::to_string);
        let notes = notes.chain(tokenizer.notes().iter().map(ToString::to_string));
        let info = json!({
            "architecture": config.family.name(),
            "contextLength": engine.plan().context_len,
            "vocabularySize": config.vocab_size,
            "embeddingLength": config.hidden_dim,
            "hasChatTemplate": matches!(template, Ok(Some(_))),
            "kernel": engine.plan().isa.name(),
            "threads": engine.plan().n_threads,
            "notes": notes.collect::<Vec<_>>(),
        });
        Ok(Self {
            engine,
            scheduler: Scheduler::new(SchedulerOptions {
                max_running: MAX_RUNNING,
                max_waiting: MAX_WAITING,
                end_tokens,
            }),
            tokenizer,
            template,
            defaults: SamplingDefaults::of_model(checkpoint),
            grammars: None,
            draft_cost: DraftCost::default(),
            max_prefill: PREFILL[0],
            next_id: 0,
            requests: HashMap::new(),
            info,
        })
    }

    /// Returns what is known of the model, as a JSON document.
    pub fn info(&self) -> String {
        self.info.to_string()
    }

    /// Returns the tokens of a text, BOS included.
    ///
    /// # Errors
    ///
    /// Returns an error if the text cannot be tokenized.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, Failure> {
        Ok(self.tokenizer.encode(text)?)
    }

    /// Returns the text of tokens, without special ones.
    pub fn detokenize(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, false)
    }

    /// Adds a request for a text that continues a prompt.
    ///
    /// # Errors
    ///
    /// Returns an error if an option or the prompt is impossible.
    pub fn generate(
        &mut self,
        prompt: Prompt,
        options: &TextOptions,
    ) -> Result<RequestId, Failure> {
        let prompt = match prompt {
            // BOS alone is possible, but it is a mistake.
            Prompt::Text(text) if text.is_empty() => Vec::new(),
            Prompt::Text(text) => self.tokenizer.encode(&text)?,
            Prompt::Ids(ids) => ids,
        };
        self.submit_text(prompt, options)
    }

    /// Adds a request for the next message of a conversation. `now` is the time in
    /// milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// Returns an error if an option or the conversation is impossible, or the model has no
    /// chat template and none is given.
    pub fn chat(
        &mut self,
        messages: &[Value],
        options: &TextOptions,
        now: f64,
    ) -> Result<RequestId, Failure> {
        let given = match &options.template {
            Some(name) => Some(match ChatTemplate::named(name, self.tokenizer) {
                Some(template) => template,
                None => ChatTemplate::parse(name, self.tokenizer)?,
            }),
            None => None,
        };
        let of_model = self.template.as_ref().map_err(Clone::clone);
        let template = match &given {
            Some(template) => template,
            None => of_model?.as_ref().ok_or_else(|| {
                let names: Vec<_> = ChatTemplate::names().collect();
                let message = format!(
                    "the model has no chat template; option template takes one, or the name of \
                     a built-in one: {}",
                    names.join(", ")
                );
                Failure::new(Code::BadArgument, message)
            })?,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(now.max(0.0) / 1000.0);
        let chat = ChatOptions::new(now).with_variables(options.variables.clone())?;
        let tools = options.tools.as_deref();
        let prompt = template.encode_json(self.tokenizer, messages, tools, &chat)?;
        self.submit_text(prompt.ids, options)
    }

    /// Adds a request for the embedding of a text.
    ///
    /// # Errors
    ///
    /// Returns an error if the text cannot be tokenized, or is too long.
    pub fn embed(&mut self, text: &str) -> Result<RequestId, Failure> {
        let prompt = self.tokenizer.encode_with_eos(text)?;
        let work = Work::Embed;
        self.submit(Task { prompt, work }, None)
    }

    fn submit_text(
        &mut self,
        prompt: Vec<u32>,
        options: &TextOptions,
    ) -> Result<RequestId, Failure> {
        let sampling = options.sampling(&self.defaults)?;
        let stops = StopSequences::new(options.stop.iter().map(String::as_str))?;
        let grammar = options.grammar()?;
        let constraint = match &grammar {
            Some(grammar) => Some(self.grammars()?.compile(grammar)?.constraint()),
            None => None,
        };
        let text = Text {
            stream: Some(self.tokenizer.stream(&prompt)),
            stops: stops.matcher(),
            asked: ReceiptRequest {
                prompt: prompt.clone(),
                sampling,
                logit_bias: Vec::new(),
                grammar,
            },
            ids: Vec::new(),
            ends: Vec::new(),
            n_bytes: 0,
            speculate: options.speculate.unwrap_or(true),
        };
        let work = Work::Generate(GenerationTask {
            max_tokens: options.max_tokens.unwrap_or(MAX_TOKENS),
            sampling,
            constraint,
            ..GenerationTask::default()
        });
        self.submit(Task { prompt, work }, Some(text))
    }

    /// Returns the compiler of grammars, which is made when the first is needed.
    fn grammars(&mut self) -> Result<&GrammarCompiler, Failure> {
        if self.grammars.is_none() {
            let vocab_size = self.engine.model().config().vocab_size;
            let compiler = GrammarCompiler::new(Arc::clone(self.tokenizer), vocab_size)?;
            self.grammars = Some(compiler);
        }
        Ok(self.grammars.as_ref().expect("it was made above"))
    }

    fn submit(&mut self, task: Task, text: Option<Text>) -> Result<RequestId, Failure> {
        let task = self.scheduler.submit(&self.engine, 0, task)?;
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.requests.insert(task, Running { id, text });
        Ok(id)
    }

    /// Ends a request without an event; an unknown one is ignored.
    pub fn cancel(&mut self, id: RequestId) {
        let mut tasks = self.requests.iter();
        let task = tasks.find_map(|(task, running)| (running.id == id).then_some(*task));
        if let Some(task) = task {
            self.scheduler.cancel(&mut self.engine, task);
            self.requests.remove(&task);
        }
    }

    /// Returns whether there is nothing to compute.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// Computes the next token of each text, or the next part of a prompt. Returns what
    /// happened.
    pub fn step(&mut self) -> Vec<Event> {
        let start = Moment::now();
        let n_decodes = self.scheduler.n_decodes(&self.engine);
        let speculate = (self.requests.values())
            .all(|running| running.text.as_ref().is_some_and(|text| text.speculate));
        let limits = StepLimits {
            max_prefill: self.max_prefill,
            draft_cost: speculate.then(|| self.draft_cost.row(n_decodes)),
        };
        let engine = ReceiptEngine::of(&self.engine).expect("it is on the CPU");
        let (requests, mut events, mut ended) = (&mut self.requests, Vec::new(), Vec::new());
        let report = self
            .scheduler
            .step(&mut self.engine, limits, |task, event| {
                let Some(running) = requests.get_mut(&task) else {
                    return ControlFlow::Break(());
                };
                if ends(&event) {
                    ended.push(task);
                }
                running.on_event(event, engine, &mut events)
            });
        for task in ended {
            self.requests.remove(&task);
        }
        let elapsed = start.elapsed();
        if report.n_prefill == self.max_prefill {
            let [least, most] = STEP_TIME;
            if elapsed < least {
                self.max_prefill = (2 * self.max_prefill).min(self.engine.plan().batch_tokens);
            } else if elapsed > most {
                self.max_prefill = (self.max_prefill / 2).max(PREFILL[1]);
            }
        }
        if !report.has_other_rows {
            let n_drafted = report.n_drafted;
            self.draft_cost
                .observe(report.n_decodes, n_drafted, elapsed);
        }
        events
    }
}

fn ends(event: &TaskEvent) -> bool {
    matches!(
        event,
        TaskEvent::Finished { .. } | TaskEvent::Embedding(..) | TaskEvent::Failed(_)
    )
}

impl Running {
    /// Adds what an event means to `events`. Returns `Break` if the text ends with it.
    fn on_event(
        &mut self,
        event: TaskEvent,
        engine: ReceiptEngine,
        events: &mut Vec<Event>,
    ) -> ControlFlow<()> {
        let id = self.id;
        match event {
            TaskEvent::Prefill { done, total } => events.push(Event::Prompt { id, done, total }),
            TaskEvent::Token { token, .. } => {
                let text = self.text.as_mut().expect("only texts have tokens");
                let piece = text.push(token);
                events.push(Event::Piece {
                    id,
                    text: piece,
                    token,
                });
                if text.stops.is_stopped() {
                    return ControlFlow::Break(());
                }
            }
            TaskEvent::Finished { reason, usage } => {
                let text = self.text.take().expect("only texts finish");
                events.push(text.finish(id, reason, usage, engine));
            }
            TaskEvent::Embedding(values, _) => events.push(Event::Embedding { id, values }),
            TaskEvent::Failed(error) => {
                let failure = Failure::of(Code::Failed, &error);
                events.push(Event::Error { id, failure });
            }
            // Of log-probabilities, which are never requested.
            TaskEvent::PromptLogprobs(_) | TaskEvent::End(_) => {}
        }
        ControlFlow::Continue(())
    }
}

impl Text {
    /// Takes a token and returns the text that is certain with it.
    fn push(&mut self, token: u32) -> String {
        let stream = self.stream.as_mut().expect("the text goes on");
        let text = stream.push(token);
        self.ids.push(token);
        let before = self.ends.last().copied().unwrap_or(0);
        self.ends.push(before + text.len());
        let text = self.stops.push(&text);
        self.n_bytes += text.len();
        text
    }

    fn finish(
        mut self,
        id: RequestId,
        mut reason: FinishReason,
        usage: TaskUsage,
        engine: ReceiptEngine,
    ) -> Event {
        let held = self.stream.take().expect("it ends once").finish();
        let mut rest = self.stops.push(&held);
        let (last, stop) = self.stops.finish();
        rest += &last;
        let n_bytes = self.n_bytes + rest.len();
        let receipt = Receipt::new(engine, self.asked, self.ids.clone(), reason);
        if stop.is_some() {
            reason = FinishReason::Stop;
            // The tokens that contribute to the text.
            let n_ids = match self.ends.iter().position(|&end| end >= n_bytes) {
                _ if n_bytes == 0 => 0,
                Some(last) => last + 1,
                None => self.ids.len(),
            };
            self.ids.truncate(n_ids);
        }
        Event::End {
            id,
            text: rest,
            ids: self.ids,
            finish_reason: reason.name(),
            prompt_tokens: usage.n_prompt,
            cached_tokens: usage.n_cached,
            generated_tokens: usage.n_generated,
            digest: receipt.digest().to_owned(),
        }
    }
}
