//! One request for texts, whatever endpoint it came from: from its fields to tasks, and from
//! their events to texts.

use std::sync::Arc;
use std::time::Instant;

use bitnet_inference::{
    FinishReason, GenerateError, GenerationTask, LogitsProcessor, ReceiptRequest, SamplerOptions,
    Task, TaskError, TaskUsage, TokenLogprobs, Work,
};

use super::aside;
use super::receipts::{Receipts, TextReceipt};
use super::sampling::Sampling;
use crate::app::{App, Client};
use crate::error::ApiError;
use crate::job::{Job, JobEvent, JobHandle, TextEvent, Timings};
use crate::model::ModelFacts;
use crate::response_cache::{Key, Recording, TextEvents};

/// Maximum number of texts per prompt.
pub const MAX_TEXTS: usize = 128;

/// Texts to generate.
#[derive(Debug)]
pub struct Generation {
    /// The field of the request that the prompts came from.
    pub field: &'static str,
    pub prompts: Vec<Vec<u32>>,
    /// Texts per prompt.
    pub n: usize,
    /// Texts generated per prompt, of which the `n` most likely are returned.
    pub best_of: usize,
    pub max_tokens: usize,
    pub sampling: Sampling,
    /// Alternatives per token, if log-probabilities are wanted.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt.
    pub prompt_logprobs: Option<usize>,
    /// Whether the receipts of the texts are wanted, and not their digests alone.
    pub receipt: bool,
}

/// A generated text.
#[derive(Clone, Debug, Default)]
pub struct GeneratedText {
    pub text: String,
    pub tokens: Vec<u32>,
    pub logprobs: Vec<TokenLogprobs>,
    pub prompt_logprobs: Vec<TokenLogprobs>,
    pub reason: Option<FinishReason>,
    /// The stop sequence that ended the text.
    pub stop: Option<String>,
    /// The token that ended the text, if log-probabilities were requested.
    pub end: Option<TokenLogprobs>,
    pub usage: TaskUsage,
    pub timings: Timings,
    /// When the text has ended.
    pub receipt: Option<TextReceipt>,
}

impl GeneratedText {
    /// Adds what happened to the text.
    pub fn add(&mut self, event: TextEvent) -> Result<(), ApiError> {
        match event {
            TextEvent::PromptLogprobs(scores) => self.prompt_logprobs = scores,
            TextEvent::Tokens {
                text,
                tokens,
                logprobs,
            } => {
                self.text += &text;
                self.tokens.extend(tokens);
                self.logprobs.extend(logprobs);
            }
            TextEvent::Finished {
                text,
                reason,
                stop,
                end,
                usage,
                timings,
            } => {
                self.text += &text;
                self.reason = Some(reason);
                self.stop = stop;
                self.end = end;
                self.usage = usage;
                self.timings = timings;
            }
            TextEvent::Failed(error) => return Err(error.into()),
            TextEvent::Refused {
                max_waiting,
                retry_after,
            } => return Err(ApiError::queue_full(max_waiting, retry_after)),
            TextEvent::Accepted | TextEvent::Embedding(..) => {}
        }
        Ok(())
    }
}

impl Generation {
    /// Returns the generation of one text.
    pub fn one(
        field: &'static str,
        prompt: Vec<u32>,
        max_tokens: Option<usize>,
        sampling: Sampling,
        logprobs: Option<usize>,
    ) -> Self {
        Self {
            field,
            prompts: vec![prompt],
            n: 1,
            best_of: 1,
            max_tokens: max_tokens.unwrap_or(usize::MAX),
            sampling,
            logprobs,
            prompt_logprobs: None,
            receipt: false,
        }
    }

    /// Returns the sampling parameters of a text of each prompt: those of a request with the
    /// following seed.
    fn sampling_of(&self, nth: usize) -> SamplerOptions {
        let options = self.sampling.options;
        SamplerOptions {
            seed: options.seed.wrapping_add(nth as u64),
            ..options
        }
    }

    /// Returns what each text is asked with, in the order of the tasks.
    pub fn receipt_requests(&self) -> Vec<ReceiptRequest> {
        let mut requests = Vec::with_capacity(self.prompts.len() * self.best_of);
        for prompt in &self.prompts {
            requests.extend((0..self.best_of).map(|nth| ReceiptRequest {
                prompt: prompt.clone(),
                sampling: self.sampling_of(nth),
                logit_bias: self.sampling.bias.clone(),
                grammar: self.sampling.grammar.clone(),
            }));
        }
        requests
    }

    /// Checks what does not need the engine.
    fn validate(&self, app: &App, model: &ModelFacts) -> Result<(), ApiError> {
        for prompt in &self.prompts {
            check_prompt(model, prompt, self.field)?;
        }
        let n_texts = self.prompts.len() * self.best_of;
        let limit = app.options.max_waiting + app.options.max_running;
        if n_texts > limit {
            return Err(ApiError::invalid(format!(
                "the request asks for {n_texts} texts, but this server holds {limit} at most"
            )));
        }
        Ok(())
    }

    /// Submits the generation, and waits until it is taken, unless the same was answered
    /// before. Its texts are numbered prompt by prompt.
    pub async fn submit(
        self,
        app: &Arc<App>,
        model: &Arc<ModelFacts>,
        client: Client,
    ) -> Result<TextEvents, ApiError> {
        self.submit_processed(app, model, client, None).await
    }

    /// The same as [`submit`](Self::submit). The logits of the text, of which there is one then,
    /// are changed by a processor, if there is one.
    pub async fn submit_processed(
        self,
        app: &Arc<App>,
        model: &Arc<ModelFacts>,
        client: Client,
        processor: Option<Box<dyn LogitsProcessor>>,
    ) -> Result<TextEvents, ApiError> {
        let mut recording = None;
        if let Some(cache) = &app.responses
            && processor.is_none()
            && let Some(key) = self.key(model)
        {
            let known = cache.get(&key);
            app.metrics.looked_up(known.is_some());
            if let Some(known) = known {
                return Ok(known);
            }
            let n_texts = self.prompts.len() * self.best_of;
            recording = Some(Recording::new(cache, key, n_texts));
        }
        self.validate(app, model)?;
        let submitted = Instant::now();
        let stops = self.sampling.stops.clone();
        let tasks = self.compile(app, model, processor).await?;
        let handle = submit(app, model, |reply| Job {
            client: client.0,
            tasks,
            stops,
            reply,
            submitted,
        })
        .await?;
        Ok(TextEvents::Computed { handle, recording })
    }

    /// Returns what determines the texts; `None` if chance does.
    fn key(&self, model: &ModelFacts) -> Option<Key> {
        let sampling = &self.sampling;
        let mut options = sampling.options;
        if options.is_greedy() {
            // It does not matter then.
            options.seed = 0;
        } else if sampling.is_drawn {
            return None;
        }
        let asked = (&self.prompts, self.best_of, self.max_tokens);
        let how = (options, &sampling.bias, &sampling.stops, &sampling.grammar);
        let shown = (self.logprobs, self.prompt_logprobs);
        let description = format!("{:?}", (&model.fingerprint, asked, how, shown));
        Some(Key::of(description.as_bytes()))
    }

    /// Returns the tasks, with their grammar.
    async fn compile(
        self,
        app: &App,
        model: &Arc<ModelFacts>,
        processor: Option<Box<dyn LogitsProcessor>>,
    ) -> Result<Vec<Task>, ApiError> {
        let Some(grammar) = self.sampling.grammar.clone() else {
            return Ok(self.tasks(None, processor));
        };
        let model = Arc::clone(model);
        let compiling = async {
            let leave = app.leave_to_compile().await;
            aside(move || {
                // Also when nobody waits for the result any more.
                let _leave = leave;
                let compiler = model.grammars.as_ref().map_err(Clone::clone)?;
                let compiled = compiler.compile(&grammar)?;
                Ok(self.tasks(Some(&compiled), processor))
            })
            .await
        };
        let limit = app.options.limits.compile;
        let in_time = tokio::time::timeout(limit, compiling).await;
        in_time.unwrap_or_else(|_| {
            let seconds = limit.as_secs();
            let message = format!("the grammar could not be compiled within {seconds} s");
            Err(ApiError::invalid(message).with_code("grammar_not_supported"))
        })
    }

    fn tasks(
        self,
        grammar: Option<&bitnet_inference::CompiledGrammar>,
        mut processor: Option<Box<dyn LogitsProcessor>>,
    ) -> Vec<Task> {
        let mut tasks = Vec::with_capacity(self.prompts.len() * self.best_of);
        for prompt in &self.prompts {
            for nth in 0..self.best_of {
                let sampling = self.sampling_of(nth);
                tasks.push(Task {
                    prompt: prompt.clone(),
                    work: Work::Generate(GenerationTask {
                        max_tokens: self.max_tokens,
                        sampling,
                        logit_bias: self.sampling.bias.clone(),
                        logprobs: self.logprobs,
                        prompt_logprobs: self.prompt_logprobs,
                        constraint: grammar.map(bitnet_inference::CompiledGrammar::constraint),
                        processor: processor.take(),
                    }),
                });
            }
        }
        tasks
    }
}

/// Checks the tokens of a prompt that came from this field.
pub fn check_prompt(model: &ModelFacts, prompt: &[u32], field: &str) -> Result<(), ApiError> {
    let (n_tokens, context_len, vocab_size) = (prompt.len(), model.context_len, model.vocab_size);
    let unknown = prompt.iter().find(|id| **id as usize >= vocab_size);
    let error = match unknown {
        _ if n_tokens == 0 => GenerateError::EmptyPrompt.into(),
        _ if n_tokens > context_len => GenerateError::PromptTooLong {
            n_tokens,
            context_len,
        }
        .into(),
        Some(&id) => TaskError::Token { id, vocab_size },
        None => return Ok(()),
    };
    Err(ApiError::from(error).in_field(field))
}

/// Submits a job, and waits until it is taken.
pub async fn submit(
    app: &App,
    model: &ModelFacts,
    make: impl FnOnce(tokio::sync::mpsc::UnboundedSender<JobEvent>) -> Job,
) -> Result<JobHandle, ApiError> {
    let mut handle = app.submit(model, make);
    match handle.next().await.map(|event| event.event) {
        Some(TextEvent::Refused {
            max_waiting,
            retry_after,
        }) => Err(ApiError::queue_full(max_waiting, retry_after)),
        Some(TextEvent::Failed(error)) => Err(error.into()),
        Some(_) => Ok(handle),
        None => Err(ApiError::ending()),
    }
}

/// Waits for all texts of a job.
pub async fn texts(
    mut events: TextEvents,
    receipts: &Receipts,
    n_texts: usize,
) -> Result<Vec<GeneratedText>, ApiError> {
    let mut texts = vec![GeneratedText::default(); n_texts];
    let mut n_left = n_texts;
    while n_left > 0 {
        let JobEvent { index, event } = events.next().await.ok_or_else(ApiError::ending)?;
        let text = &mut texts[index];
        text.add(event)?;
        if let Some(reason) = text.reason {
            text.receipt = receipts.receipt(index, &text.tokens, reason);
            n_left -= 1;
        }
    }
    Ok(texts)
}

/// Keeps the `n` most likely of each `best_of` texts, most likely first; by their mean
/// log-probability, so that short texts have no advantage.
pub fn best(texts: Vec<GeneratedText>, best_of: usize, n: usize) -> Vec<GeneratedText> {
    if best_of == n {
        return texts;
    }
    let mean = |text: &GeneratedText| {
        let sum: f64 = text.logprobs.iter().map(|l| f64::from(l.logprob)).sum();
        sum / text.logprobs.len().max(1) as f64
    };
    let mut kept = Vec::with_capacity(texts.len() / best_of * n);
    for group in texts.chunks(best_of) {
        let mut group = group.to_vec();
        group.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        group.truncate(n);
        kept.extend(group);
    }
    kept
}
