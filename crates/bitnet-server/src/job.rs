//! Jobs: what requests ask of the worker, and what it answers.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender};
use std::task::Poll;
use std::time::{Duration, Instant};

use bitnet_inference::{
    Engine, FinishReason, Scheduler, StopSequences, Task, TaskError, TaskUsage, TokenLogprobs,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What to compute for a request: one or more texts, each with its prompt.
#[derive(Debug)]
pub struct Job {
    /// Who asks: clients take turns.
    pub client: u64,
    pub tasks: Vec<Task>,
    pub stops: StopSequences,
    pub reply: UnboundedSender<JobEvent>,
    pub submitted: Instant,
}

/// What happened to a text of a job.
#[derive(Clone, Debug)]
pub struct JobEvent {
    /// Index of the task in the job.
    pub index: usize,
    pub event: TextEvent,
}

#[derive(Clone, Debug)]
pub enum TextEvent {
    /// The job was taken: it is computed, or waits.
    Accepted,
    PromptLogprobs(Vec<TokenLogprobs>),
    /// Tokens, and the text that is certain with them.
    Tokens {
        text: String,
        tokens: Vec<u32>,
        logprobs: Vec<TokenLogprobs>,
    },
    Finished {
        /// The end of the text, as [`Tokens`](Self::Tokens).
        text: String,
        reason: FinishReason,
        /// The stop sequence that ended it.
        stop: Option<String>,
        /// The token that ended it, if log-probabilities were requested.
        end: Option<TokenLogprobs>,
        usage: TaskUsage,
        timings: Timings,
    },
    Embedding(Vec<f32>, TaskUsage),
    Failed(TaskError),
    /// Nothing of the job was started: too many texts are waiting.
    Refused {
        max_waiting: usize,
        retry_after: u64,
    },
}

/// The times of a text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// From submission to the first step.
    pub queued: Duration,
    /// From the first step to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

#[derive(Debug)]
pub enum Command {
    Submit(JobId, Job),
    Cancel(JobId),
    /// Does something else with the engine, between two steps.
    Engine(EngineWork),
    /// Looks at the state of the server again.
    Wake,
}

/// What is done with an engine besides its texts.
pub struct EngineWork(pub Box<WithEngine>);

type WithEngine = dyn FnOnce(&mut Engine, &mut Scheduler) + Send;

impl fmt::Debug for EngineWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineWork").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(pub u64);

pub type Commands = Receiver<Command>;

/// Returns the two ends of the channel to the worker.
pub fn channel() -> (Sender<Command>, Commands) {
    std::sync::mpsc::channel()
}

/// The events of a submitted job. Dropping it cancels what is not done.
#[derive(Debug)]
pub struct JobHandle {
    id: JobId,
    events: UnboundedReceiver<JobEvent>,
    commands: Sender<Command>,
}

impl JobHandle {
    /// Submits a job made with the given reply channel.
    pub fn submit(
        id: JobId,
        commands: &Sender<Command>,
        make: impl FnOnce(UnboundedSender<JobEvent>) -> Job,
    ) -> Self {
        let (sender, events) = unbounded_channel();
        // If the worker has ended, there are no events, and the channel is closed.
        let _ = commands.send(Command::Submit(id, make(sender)));
        Self {
            id,
            events,
            commands: commands.clone(),
        }
    }

    /// Returns the next event; `None` if the worker has ended.
    pub async fn next(&mut self) -> Option<JobEvent> {
        self.events.recv().await
    }

    /// Polls for the next event.
    pub fn poll_next(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Option<JobEvent>> {
        self.events.poll_recv(cx)
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Cancel(self.id));
    }
}
