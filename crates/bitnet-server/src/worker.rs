//! The engine's side: takes the jobs of a model, runs steps, and sends what happened to each.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use bitnet_inference::{
    DraftCost, Engine, FinishReason, PrefillBudget, Scheduler, SchedulerCounts, SchedulerOptions,
    StepLimits, StopMatcher, TaskEvent, TaskId, TextStream, TokenLogprobs, TokenSet, Tokenizer,
};
use tokio::sync::mpsc::UnboundedSender;

use crate::app::App;
use crate::job::{Command, Commands, EngineWork, Job, JobEvent, JobId, TextEvent, Timings};
use crate::metrics::{EngineState, Metrics};
use crate::saved_prefixes::SavedPrefixes;

/// A step with prompts takes at most so many times as long as one without.
const STEP_RATIO: f64 = 1.4;
/// Prefixes are saved after so long without a command.
const QUIET: Duration = Duration::from_secs(1);
/// A step may take this time in any case: a pause that nobody sees.
const STEP_TIME: Duration = Duration::from_millis(5);

/// A text that is computed.
struct Text<'a> {
    job: JobId,
    index: usize,
    reply: UnboundedSender<JobEvent>,
    stream: Option<TextStream<'a>>,
    stops: StopMatcher,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    /// Of the current step.
    step: Step,
    /// The token that ended the text.
    end: Option<TokenLogprobs>,
}

/// The tokens of a text in a step: more than one if a grammar forces them.
#[derive(Default)]
struct Step {
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
}

impl Step {
    fn take(&mut self) -> Option<TextEvent> {
        if self.tokens.is_empty() {
            return None;
        }
        let Self {
            text,
            tokens,
            logprobs,
        } = std::mem::take(self);
        Some(TextEvent::Tokens {
            text,
            tokens,
            logprobs,
        })
    }
}

impl Text<'_> {
    fn send(&self, event: TextEvent) {
        // A client that has gone cancels its job.
        let _ = self.reply.send(JobEvent {
            index: self.index,
            event,
        });
    }
}

/// Serves a model until the server is asked to end, or nobody can send a command any more.
/// Returns whether every job was done.
pub fn run(
    app: &App,
    mut engine: Engine,
    tokenizer: &Tokenizer,
    prefixes: Option<SavedPrefixes>,
    commands: &Commands,
) -> bool {
    let vocab_size = engine.model().config().vocab_size;
    let mut end_tokens = TokenSet::new(vocab_size);
    for id in tokenizer.eog().filter(|id| (*id as usize) < vocab_size) {
        end_tokens.insert(id);
    }
    let mut worker = Worker {
        tokenizer,
        prefixes,
        metrics: &app.metrics,
        scheduler: Scheduler::new(SchedulerOptions {
            max_running: app.options.max_running,
            max_waiting: app.options.max_waiting,
            end_tokens,
        }),
        budget: PrefillBudget::new(STEP_RATIO, STEP_TIME),
        draft_cost: app.options.speculate.then(DraftCost::default),
        texts: HashMap::new(),
        counts: SchedulerCounts::default(),
        state: EngineState::default(),
        mean_time: Duration::from_secs(1),
        max_running: app.options.max_running,
        max_waiting: app.options.max_waiting,
    };
    let was_drained = worker.serve(app, &mut engine, commands);
    if let Some(prefixes) = &mut worker.prefixes {
        prefixes.save_all(&mut engine, worker.scheduler.cached(), worker.metrics);
    }
    was_drained
}

struct Worker<'a> {
    tokenizer: &'a Tokenizer,
    prefixes: Option<SavedPrefixes>,
    metrics: &'a Metrics,
    scheduler: Scheduler,
    budget: PrefillBudget,
    /// `None` for no drafts.
    draft_cost: Option<DraftCost>,
    texts: HashMap<TaskId, Text<'a>>,
    /// What the metrics have already.
    counts: SchedulerCounts,
    state: EngineState,
    /// The time that a text takes, on average.
    mean_time: Duration,
    max_running: usize,
    max_waiting: usize,
}

impl Worker<'_> {
    /// Takes jobs and computes them. Returns as [`run`].
    fn serve(&mut self, app: &App, engine: &mut Engine, commands: &Commands) -> bool {
        let mut deadline = None;
        loop {
            if app.is_draining() {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + app.options.drain);
                if self.scheduler.is_idle() {
                    return true;
                }
                if Instant::now() >= deadline {
                    return false;
                }
            }
            if !self.receive(engine, commands) {
                return self.scheduler.is_idle();
            }
            if !self.scheduler.is_idle() {
                let _turn = app.turn.lock();
                self.step(engine);
            }
        }
    }

    /// Waits for a command, and saves prefixes meanwhile. Returns `None` if there will be none.
    fn wait(&mut self, engine: &mut Engine, commands: &Commands) -> Option<Command> {
        let mut pause = QUIET;
        while let Some(prefixes) = self.prefixes.as_mut().filter(|p| p.has_more()) {
            match commands.recv_timeout(pause) {
                Ok(command) => return Some(command),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    // Between two pages a command may come.
                    prefixes.save_one(engine, self.scheduler.cached(), self.metrics);
                    pause = Duration::ZERO;
                }
            }
        }
        commands.recv().ok()
    }

    /// Takes all commands, and waits for one if there is nothing to do. Returns false if
    /// there will be none.
    fn receive(&mut self, engine: &mut Engine, commands: &Commands) -> bool {
        if self.scheduler.is_idle() {
            self.observe(engine);
            match self.wait(engine, commands) {
                Some(command) => self.obey(engine, command),
                None => return false,
            }
        }
        loop {
            match commands.try_recv() {
                Ok(command) => self.obey(engine, command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !self.scheduler.is_idle(),
            }
        }
    }

    fn obey(&mut self, engine: &mut Engine, command: Command) {
        match command {
            Command::Submit(id, job) => self.submit(engine, id, job),
            Command::Cancel(id) => {
                let tasks = self.texts.iter().filter(|(_, text)| text.job == id);
                let tasks: Vec<TaskId> = tasks.map(|(task, _)| *task).collect();
                for task in tasks {
                    self.scheduler.cancel(engine, task);
                    self.texts.remove(&task);
                    self.metrics.finished("abort");
                }
            }
            Command::Engine(EngineWork(work)) => work(engine, &mut self.scheduler),
            Command::Wake => {}
        }
    }

    fn submit(&mut self, engine: &mut Engine, id: JobId, job: Job) {
        let n_tasks = job.tasks.len();
        if self.scheduler.room() < n_tasks {
            let event = TextEvent::Refused {
                max_waiting: self.max_waiting,
                retry_after: self.retry_after(),
            };
            let _ = job.reply.send(JobEvent { index: 0, event });
            return;
        }
        let accepted = JobEvent {
            index: 0,
            event: TextEvent::Accepted,
        };
        let _ = job.reply.send(accepted);
        for (index, task) in job.tasks.into_iter().enumerate() {
            let stream = match &task.work {
                bitnet_inference::Work::Generate(_) => Some(self.tokenizer.stream(&task.prompt)),
                bitnet_inference::Work::Embed => None,
            };
            let text = Text {
                job: id,
                index,
                reply: job.reply.clone(),
                stream,
                stops: job.stops.matcher(),
                submitted: job.submitted,
                started: None,
                first_token: None,
                last_token: None,
                step: Step::default(),
                end: None,
            };
            if let Some(prefixes) = &mut self.prefixes {
                prefixes.restore(engine, &mut self.scheduler, self.metrics, &task.prompt);
            }
            match self.scheduler.submit(engine, job.client, task) {
                Ok(task) => {
                    self.texts.insert(task, text);
                }
                Err(error) => text.send(TextEvent::Failed(error)),
            }
        }
    }

    /// Returns the seconds after which the queue has room again, by the time that texts
    /// took.
    fn retry_after(&self) -> u64 {
        let rounds = self.scheduler.n_waiting().div_ceil(self.max_running).max(1);
        let seconds = self.mean_time.as_secs_f64() * rounds as f64;
        (seconds.ceil() as u64).clamp(1, 600)
    }

    /// Runs one step and sends what happened.
    fn step(&mut self, engine: &mut Engine) {
        let start = Instant::now();
        let n_decodes = self.scheduler.n_decodes(engine);
        let limits = StepLimits {
            max_prefill: self.budget.positions(n_decodes),
            draft_cost: self.draft_cost.as_ref().map(|cost| cost.row(n_decodes)),
        };
        let (texts, metrics) = (&mut self.texts, self.metrics);
        let mut touched = Vec::new();
        let mut ended = Vec::new();
        let report = self.scheduler.step(engine, limits, |id, event| {
            let Some(text) = texts.get_mut(&id) else {
                return ControlFlow::Break(());
            };
            text.started.get_or_insert_with(|| {
                metrics.queued(start - text.submitted);
                start
            });
            if touched.last() != Some(&id) {
                touched.push(id);
            }
            on_event(text, event, metrics, &mut || ended.push(id))
        });
        let elapsed = start.elapsed();
        self.budget.observe(report, elapsed);
        if let Some(cost) = self.draft_cost.as_mut().filter(|_| !report.has_other_rows) {
            cost.observe(report.n_decodes, report.n_drafted, elapsed);
        }
        for id in touched {
            if let Some(text) = self.texts.get_mut(&id)
                && let Some(event) = text.step.take()
            {
                text.send(event);
            }
        }
        if let (Some(prefixes), [_, ..]) = (&mut self.prefixes, &ended[..]) {
            prefixes.changed();
        }
        for id in ended {
            if let Some(text) = self.texts.remove(&id) {
                let took = text.submitted.elapsed();
                self.mean_time = self.mean_time.mul_f64(0.9) + took.mul_f64(0.1);
            }
        }
        self.observe(engine);
    }

    /// Brings the metrics up to date.
    fn observe(&mut self, engine: &Engine) {
        let counts = self.scheduler.counts();
        self.metrics.add(self.counts, counts);
        self.counts = counts;
        let usage = engine.kv_usage();
        let state = EngineState {
            running: self.scheduler.n_running(),
            waiting: self.scheduler.n_waiting(),
            kv_pages: usage.pages,
            max_kv_pages: usage.max_pages,
        };
        self.metrics.change_state(self.state, state);
        self.state = state;
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.metrics
            .change_state(self.state, EngineState::default());
    }
}

/// Takes an event of a text into account. Returns `Break` if the text ends with it.
fn on_event(
    text: &mut Text<'_>,
    event: TaskEvent,
    metrics: &Metrics,
    end: &mut dyn FnMut(),
) -> ControlFlow<()> {
    match event {
        TaskEvent::Prefill { .. } => {}
        TaskEvent::PromptLogprobs(scores) => text.send(TextEvent::PromptLogprobs(scores)),
        TaskEvent::Token { token, logprobs } => {
            let now = Instant::now();
            match text.last_token.replace(now) {
                Some(before) => metrics.next_token(now - before),
                None => metrics.first_token(now - text.submitted),
            }
            text.first_token.get_or_insert(now);
            let piece = text.stream.as_mut().map(|stream| stream.push(token));
            let certain = text.stops.push(&piece.unwrap_or_default());
            text.step.text += &certain;
            text.step.tokens.push(token);
            text.step.logprobs.extend(logprobs);
            if text.stops.is_stopped() {
                return ControlFlow::Break(());
            }
        }
        TaskEvent::End(scored) => text.end = Some(scored),
        TaskEvent::Finished { reason, usage } => {
            if let Some(event) = text.step.take() {
                text.send(event);
            }
            let held = text
                .stream
                .take()
                .map(TextStream::finish)
                .unwrap_or_default();
            let mut rest = text.stops.push(&held);
            let (last, stop) = text.stops.clone().finish();
            rest += &last;
            let stopped = stop.as_ref().map(|_| FinishReason::Stop);
            let reason = stopped.unwrap_or(reason);
            let end_token = text.end.take();
            text.send(TextEvent::Finished {
                text: rest,
                reason,
                stop,
                end: end_token,
                usage,
                timings: text.timings(),
            });
            metrics.finished(match reason {
                FinishReason::Length => "length",
                _ => "stop",
            });
            metrics.request(text.submitted.elapsed(), usage);
            end();
        }
        TaskEvent::Embedding(embedding, usage) => {
            text.send(TextEvent::Embedding(embedding, usage));
            metrics.finished("stop");
            metrics.request(text.submitted.elapsed(), usage);
            end();
        }
        TaskEvent::Failed(error) => {
            tracing::error!(%error, "a text failed");
            text.send(TextEvent::Failed(error));
            metrics.finished("error");
            end();
        }
    }
    ControlFlow::Continue(())
}

impl Text<'_> {
    fn timings(&self) -> Timings {
        let started = self.started.unwrap_or(self.submitted);
        let first = self.first_token.unwrap_or_else(Instant::now);
        Timings {
            queued: started - self.submitted,
            prefill: first - started,
            decode: self.last_token.map_or(Duration::ZERO, |last| last - first),
        }
    }
}
