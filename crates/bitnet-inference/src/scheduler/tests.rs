//! Runs many random lifecycles on an engine that computes nothing, but keeps its sequences
//! in a real KV cache, and compares each text with the one that the task gets alone.

use std::collections::{BTreeMap, HashMap};

use bitnet_core::{HybridMemoryPool, Isa, KvPrecision, PagedKv};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::constraint::{Constraint, ConstraintError};
use crate::generate::FinishReason;
use crate::kv_cache::pages::Pages;
use crate::kv_cache::{self, Growth, KvCache, KvCacheOptions, SequenceHandle, test_config};
use crate::logits::Logits;
use crate::logits_processor::{LogitsProcessor, LogitsProcessorError};
use crate::sampler::{Sampler, SamplerOptions};

const CONTEXT: usize = 400;
const VOCAB: usize = 32;
const END: u32 = 1;
/// Makes the fake engine fail.
const POISON: u32 = 2;

/// Logits that depend on all tokens before; often what was seven tokens before comes again.
fn logits(tokens: &[u32]) -> Vec<f32> {
    let mut hash = 0x9e37_79b9_7f4a_7c15u64;
    for &token in tokens {
        hash = (hash ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3);
        hash ^= hash >> 29;
    }
    let logit = |id: u64| {
        let mixed = (hash ^ id.wrapping_mul(0x9e37_79b9)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let logit = (mixed >> 40) as f32 / (1u64 << 22) as f32;
        let repeats = tokens.len() >= 7 && u64::from(tokens[tokens.len() - 7]) == id;
        match id {
            // Rare, so that texts may be long.
            0..3 => logit - 3.4,
            _ if repeats => logit + 2.0,
            _ => logit,
        }
    };
    (0..VOCAB as u64).map(logit).collect()
}

struct FakeEngine {
    kv: KvCache,
    n_sequences: usize,
    /// Passes with drafts so far.
    n_drafts: usize,
    _pool: HybridMemoryPool,
}

impl FakeEngine {
    fn new(n_sequences: usize, max_pages: usize) -> Self {
        let pool = HybridMemoryPool::new();
        let shape = kv_cache::shape(&test_config(), KvPrecision::F32);
        let pages = Pages::Host(PagedKv::new(&pool, shape, n_sequences));
        let options = KvCacheOptions {
            n_sequences,
            context_len: CONTEXT,
            max_pages,
        };
        Self {
            kv: KvCache::new(pages, options),
            n_sequences,
            n_drafts: 0,
            _pool: pool,
        }
    }
}

impl StepEngine for FakeEngine {
    fn isa(&self) -> Isa {
        Isa::best()
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn context_len(&self) -> usize {
        CONTEXT
    }

    fn n_sequences(&self) -> usize {
        self.n_sequences
    }

    fn batch_tokens(&self) -> usize {
        64
    }

    fn len(&self, sequence: usize) -> usize {
        self.kv.len(sequence)
    }

    fn tokens(&self, sequence: usize) -> &[u32] {
        self.kv.tokens(sequence)
    }

    fn start(&mut self, prompt: &[u32], max_len: usize) -> Result<SequenceHandle, SequenceError> {
        self.kv.start(prompt, max_len)
    }

    fn truncate(&mut self, sequence: usize, len: usize) {
        self.kv.truncate(sequence, len);
    }

    fn release_guarantee(&mut self, sequence: usize) {
        self.kv.release_guarantee(sequence);
    }

    fn finish(&mut self, sequence: usize) {
        self.kv.finish(sequence);
    }

    fn forward(
        &mut self,
        inputs: &[Input<'_>],
        on_logits: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), ForwardError> {
        self.kv.reserve(inputs.iter().map(|input| Growth {
            sequence: input.sequence,
            n_new: input.tokens.len(),
        }))?;
        let before: Vec<_> = (inputs.iter())
            .map(|i| (i.sequence, self.kv.len(i.sequence)))
            .collect();
        for (i, input) in inputs.iter().enumerate() {
            for (j, &token) in input.tokens.iter().enumerate() {
                if token == POISON {
                    for (sequence, len) in before {
                        self.kv.truncate(sequence, len);
                    }
                    return Err(ForwardError::ZeroEmbedding);
                }
                self.kv.push(input.sequence, token);
                let is_last = j + 1 == input.tokens.len();
                let is_wanted = match input.logits {
                    Logits::None => false,
                    Logits::All => true,
                    Logits::Tail(n) => j + n >= input.tokens.len(),
                    Logits::Last | Logits::Top(_) | Logits::Hidden => is_last,
                };
                if is_wanted {
                    on_logits(i, j, &logits(self.tokens(input.sequence)));
                }
            }
        }
        if inputs.iter().any(|i| matches!(i.logits, Logits::Tail(_))) {
            self.n_drafts += 1;
            // Some fail at their end.
            if self.n_drafts.is_multiple_of(7) {
                for (sequence, len) in before {
                    self.kv.truncate(sequence, len);
                }
                return Err(ForwardError::ZeroEmbedding);
            }
        }
        Ok(())
    }

    fn normalized(&self, hidden: Vec<f32>) -> Result<Vec<f32>, ForwardError> {
        Ok(hidden)
    }
}

fn scheduler(max_running: usize) -> Scheduler {
    let mut end_tokens = TokenSet::new(VOCAB);
    end_tokens.insert(END);
    Scheduler::new(SchedulerOptions {
        max_running,
        max_waiting: 1000,
        end_tokens,
    })
}

/// A task that can be made again.
#[derive(Clone, Debug)]
struct Plan {
    prompt: Vec<u32>,
    max_tokens: usize,
    sampling: SamplerOptions,
}

impl Plan {
    /// A prompt of one of four families, which have long common prefixes.
    fn random(rng: &mut ChaCha8Rng) -> Self {
        let family = rng.next_u32() % 4;
        let n_common = (rng.next_u32() % 200) as usize;
        let n_own = (rng.next_u32() % 20) as usize;
        let common = (0..n_common as u32).map(|i| 3 + (i * 7 + family * 5) % 29);
        let own: Vec<u32> = (0..=n_own).map(|_| 3 + rng.next_u32() % 29).collect();
        Self {
            prompt: common.chain(own).collect(),
            max_tokens: match rng.next_u32() % 8 {
                0 => (rng.next_u32() % 250) as usize,
                _ => (rng.next_u32() % 24) as usize,
            },
            sampling: SamplerOptions {
                temperature: (rng.next_u32() % 3) as f32 * 0.5,
                seed: u64::from(rng.next_u32()),
                repeat_penalty: 1.1,
                ..SamplerOptions::GREEDY
            },
        }
    }

    fn task(&self) -> Task {
        Task {
            prompt: self.prompt.clone(),
            work: Work::Generate(GenerationTask {
                max_tokens: self.max_tokens,
                sampling: self.sampling,
                ..GenerationTask::default()
            }),
        }
    }

    /// The text that the task gets alone, without a scheduler.
    fn alone(&self) -> Vec<u32> {
        let mut tokens = self.prompt.clone();
        let mut sampler = Sampler::new(self.sampling, Isa::best(), VOCAB).unwrap();
        for _ in 0..self.max_tokens.min(CONTEXT - self.prompt.len() + 1) {
            let next = sampler.sample(&logits(&tokens), &tokens, self.prompt.len());
            // The fake engine cannot compute it.
            let next = next.unwrap();
            if next == END {
                break;
            }
            tokens.push(next);
        }
        tokens.split_off(self.prompt.len())
    }

    /// Whether the text has the token that makes the engine fail, before its last one.
    fn fails(&self) -> bool {
        let text = self.alone();
        text[..text.len().saturating_sub(1)].contains(&POISON)
            || (text.last() == Some(&POISON) && text.len() < self.max_tokens)
    }
}

#[derive(Debug, Default)]
struct Seen {
    tokens: Vec<u32>,
    end: Option<Result<FinishReason, TaskError>>,
}

/// Runs tasks that arrive and are cancelled at random, and checks each.
fn simulate(
    seed: u64,
    n_tasks: usize,
    max_running: usize,
    n_sequences: usize,
    pages: usize,
) -> SchedulerCounts {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut engine = FakeEngine::new(n_sequences, pages);
    let mut scheduler = scheduler(max_running);
    let mut plans: HashMap<TaskId, Plan> = HashMap::new();
    let mut seen: BTreeMap<TaskId, Seen> = BTreeMap::new();
    let mut n_made = 0;
    while n_made < n_tasks || !scheduler.is_idle() {
        while n_made < n_tasks && rng.next_u32() % 3 != 0 && scheduler.room() > 0 {
            let plan = Plan::random(&mut rng);
            let client = u64::from(rng.next_u32() % 3);
            let id = scheduler.submit(&engine, client, plan.task()).unwrap();
            plans.insert(id, plan);
            seen.insert(id, Seen::default());
            n_made += 1;
        }
        let limits = StepLimits {
            max_prefill: 1 + (rng.next_u32() % 60) as usize,
            draft_cost: [None, Some(0.0), Some(0.3)][(rng.next_u32() % 3) as usize],
        };
        scheduler.step(&mut engine, limits, |id, event| {
            let seen = seen.get_mut(&id).expect("no event after the end");
            assert!(seen.end.is_none(), "an event after the end: {event:?}");
            match event {
                TaskEvent::Token { token, logprobs } => {
                    assert!(logprobs.is_none());
                    seen.tokens.push(token);
                }
                TaskEvent::Finished { reason, usage } => {
                    assert_eq!(usage.n_generated, seen.tokens.len());
                    seen.end = Some(Ok(reason));
                }
                TaskEvent::Failed(error) => seen.end = Some(Err(error)),
                TaskEvent::Prefill { done, total } => assert!(done <= total),
                other => panic!("{other:?}"),
            }
            ControlFlow::Continue(())
        });
        assert!(engine.kv.usage().pages <= pages);
        if rng.next_u32() % 16 == 0
            && let Some((&id, _)) = seen.iter().nth((rng.next_u32() % 8) as usize)
        {
            scheduler.cancel(&mut engine, id);
            let plan = plans.remove(&id).unwrap();
            let text = seen.remove(&id).unwrap();
            assert!(plan.alone().starts_with(&text.tokens));
        }
        let ended: Vec<_> = (seen.iter())
            .filter(|(_, seen)| seen.end.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            let (plan, seen) = (plans.remove(&id).unwrap(), seen.remove(&id).unwrap());
            if plan.fails() {
                assert!(seen.end.unwrap().is_err());
                assert!(plan.alone().starts_with(&seen.tokens));
            } else {
                assert_eq!(seen.tokens, plan.alone(), "{id:?}");
                let limit = plan.max_tokens.min(CONTEXT - plan.prompt.len() + 1);
                let is_full = seen.tokens.len() == limit;
                let reason = if is_full {
                    FinishReason::Length
                } else {
                    FinishReason::Eos
                };
                assert_eq!(seen.end, Some(Ok(reason)));
            }
        }
    }
    assert!(seen.is_empty() && plans.is_empty());
    scheduler.clear_cache(&mut engine);
    assert_eq!(engine.kv.usage().pages, 0, "every page is back");
    scheduler.counts()
}

#[test]
fn a_text_is_the_same_alone_and_among_others() {
    // One context needs four pages: sixteen tasks compete for twelve pages.
    let counts = simulate(1, 3000, 16, 24, 12);
    assert!(counts.preemptions > 5, "{counts:?}");
    assert!(
        counts.cached_tokens > counts.prompt_tokens / 10,
        "{counts:?}"
    );
    // Without room for prefixes of finished tasks, and with pages for all.
    let counts = simulate(2, 1000, 8, 8, 32);
    assert_eq!(counts.preemptions, 0);
    // As few pages as one task may need.
    let counts = simulate(3, 500, 4, 6, 4);
    assert!(counts.accepted_tokens > 30, "{counts:?}");
}

#[test]
fn a_hundred_thousand_lifecycles() {
    let counts = simulate(4, 100_000, 64, 96, 40);
    assert!(counts.preemptions > 100, "{counts:?}");
}

/// Runs tasks until nothing is left, and returns their events.
fn run(
    scheduler: &mut Scheduler,
    engine: &mut FakeEngine,
    limits: StepLimits,
) -> Vec<(TaskId, TaskEvent)> {
    let mut events = Vec::new();
    while !scheduler.is_idle() {
        scheduler.step(engine, limits, |id, event| {
            events.push((id, event));
            ControlFlow::Continue(())
        });
    }
    events
}

/// So many prompt positions, and no drafts.
fn prefill(max_prefill: usize) -> StepLimits {
    StepLimits {
        max_prefill,
        draft_cost: None,
    }
}

fn plan(prompt: Vec<u32>, max_tokens: usize) -> Plan {
    Plan {
        prompt,
        max_tokens,
        sampling: SamplerOptions::GREEDY,
    }
}

#[test]
fn running_texts_go_on_while_a_long_prompt_is_read() {
    let mut engine = FakeEngine::new(4, 16);
    let mut scheduler = scheduler(4);
    let short = plan(vec![9, 9, 4], 12);
    assert_eq!(short.alone().len(), 12);
    let first = scheduler.submit(&engine, 0, short.task()).unwrap();
    scheduler.step(&mut engine, prefill(64), |_, _| ControlFlow::Continue(()));
    let second = scheduler
        .submit(&engine, 1, plan(vec![5; 40], 1).task())
        .unwrap();
    for _ in 0..10 {
        let mut tokens_of_first = 0;
        let report = scheduler.step(&mut engine, prefill(4), |id, event| {
            let is_token = matches!(event, TaskEvent::Token { .. });
            tokens_of_first += usize::from(id == first && is_token);
            assert!(id != second || !is_token || tokens_of_first > 0);
            ControlFlow::Continue(())
        });
        assert_eq!(tokens_of_first, 1);
        assert_eq!((report.n_decodes, report.n_prefill), (1, 4));
    }
}

#[test]
fn clients_take_turns() {
    let mut engine = FakeEngine::new(2, 16);
    let mut scheduler = scheduler(1);
    let mut submit = |client, prompt| {
        scheduler
            .submit(&engine, client, plan(vec![prompt, 3], 1).task())
            .unwrap()
    };
    let (a1, a2, a3) = (submit(1, 3), submit(1, 4), submit(1, 5));
    let (b1, b2) = (submit(2, 6), submit(2, 7));
    let order: Vec<_> = (run(&mut scheduler, &mut engine, prefill(8)).into_iter())
        .filter(|(_, event)| matches!(event, TaskEvent::Finished { .. }))
        .map(|(id, _)| id)
        .collect();
    assert_eq!(order, [a1, b1, a2, b2, a3]);
}

#[test]
fn a_prompt_is_computed_once_for_all_that_begin_with_it() {
    let mut engine = FakeEngine::new(8, 32);
    let mut scheduler = scheduler(4);
    let prompt: Vec<u32> = (0..200).map(|i| 3 + i % 29).collect();
    for _ in 0..4 {
        scheduler
            .submit(&engine, 0, plan(prompt.clone(), 3).task())
            .unwrap();
    }
    run(&mut scheduler, &mut engine, prefill(50));
    assert_eq!(scheduler.counts().cached_tokens, 3 * 199);
    // Also after its end.
    scheduler
        .submit(&engine, 0, plan(prompt, 3).task())
        .unwrap();
    run(&mut scheduler, &mut engine, prefill(64));
    assert_eq!(scheduler.counts().cached_tokens, 4 * 199);
}

#[test]
fn the_probabilities_of_a_prompt_do_not_depend_on_pieces_or_prefixes() {
    let prompt: Vec<u32> = (0..100).map(|i| 3 + i % 29).collect();
    let scored = |max_prefill, max_tokens| {
        let mut engine = FakeEngine::new(8, 32);
        let mut scheduler = scheduler(4);
        scheduler
            .submit(&engine, 0, plan(prompt.clone(), 0).task())
            .unwrap();
        run(&mut scheduler, &mut engine, prefill(64));
        let task = Task {
            prompt: prompt.clone(),
            work: Work::Generate(GenerationTask {
                max_tokens,
                sampling: SamplerOptions::GREEDY,
                prompt_logprobs: Some(2),
                logprobs: Some(2),
                ..GenerationTask::default()
            }),
        };
        scheduler.submit(&engine, 0, task).unwrap();
        let events = run(&mut scheduler, &mut engine, prefill(max_prefill));
        let scores: Vec<_> = (events.iter())
            .filter_map(|(_, event)| match event {
                TaskEvent::PromptLogprobs(scores) => Some(scores.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(scores.len(), 1);
        let tokens = events
            .iter()
            .filter(|(_, e)| matches!(e, TaskEvent::Token { .. }));
        assert_eq!(tokens.count(), max_tokens);
        scores.into_iter().next().unwrap()
    };
    let scores = scored(64, 0);
    assert_eq!(scores.len(), 99);
    assert_eq!(
        scores[5],
        token_logprobs(Isa::best(), &logits(&prompt[..6]), prompt[6], 2)
    );
    assert_eq!(scored(7, 2), scores);
}

/// Allows a counted sequence: after each 5, two 6 are forced; complete after so many tokens.
#[derive(Debug)]
struct FiveSixSix {
    left: usize,
    tokens: Vec<u32>,
}

impl Constraint for FiveSixSix {
    fn allowed(&mut self, allowed: &mut TokenSet) -> Result<(), ConstraintError> {
        allowed.set_words(&[1 << 5 | 1 << 7]);
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        assert!(token == 5 || token == 7);
        self.tokens.push(token);
        self.left -= 1;
        Ok(())
    }

    fn forced(&mut self) -> Result<Vec<u32>, ConstraintError> {
        if self.tokens.last() != Some(&5) {
            return Ok(vec![]);
        }
        self.tokens.extend([6, 6]);
        Ok(vec![6, 6])
    }

    fn rollback(&mut self, n: usize) {
        let taken_back = self.tokens.split_off(self.tokens.len() - n);
        self.left += taken_back.iter().filter(|&&token| token != 6).count();
    }

    fn is_complete(&self) -> bool {
        self.left == 0
    }
}

/// Forbids every token but the one after the last, and fails at a token.
#[derive(Debug)]
struct Counting {
    fails_at: u32,
}

impl LogitsProcessor for Counting {
    fn process(&mut self, tokens: &[u32], logits: &mut [f32]) -> Result<(), LogitsProcessorError> {
        let last = *tokens.last().unwrap();
        if last == self.fails_at {
            let message = "enough".to_owned();
            return Err(LogitsProcessorError { message });
        }
        logits.fill(f32::NEG_INFINITY);
        logits[last as usize + 1] = 0.0;
        Ok(())
    }
}

#[test]
fn a_processor_changes_the_logits_of_its_text_alone() {
    let mut engine = FakeEngine::new(8, 32);
    let mut scheduler = scheduler(4);
    let other = plan(vec![3, 4, 5], 12);
    let processed = |fails_at| Task {
        prompt: vec![9, 3],
        work: Work::Generate(GenerationTask {
            max_tokens: 6,
            processor: Some(Box::new(Counting { fails_at })),
            ..GenerationTask::default()
        }),
    };
    let limits = StepLimits {
        max_prefill: 16,
        draft_cost: Some(0.0),
    };
    let tasks = [processed(99), other.task(), processed(5)];
    let ids = tasks.map(|task| scheduler.submit(&engine, 0, task).unwrap());
    let events = run(&mut scheduler, &mut engine, limits);
    let text = |id| -> Vec<u32> {
        let of_task = events.iter().filter(|(other, _)| *other == id);
        of_task
            .filter_map(|(_, event)| match event {
                TaskEvent::Token { token, .. } => Some(*token),
                _ => None,
            })
            .collect()
    };
    assert_eq!(text(ids[0]), [4, 5, 6, 7, 8, 9]);
    assert_eq!(text(ids[1]), other.alone());
    assert_eq!(text(ids[2]), [4, 5]);
    let failed = GenerateError::Processor(LogitsProcessorError {
        message: "enough".to_owned(),
    });
    assert!(events.contains(&(ids[2], TaskEvent::Failed(failed.into()))));
}

#[test]
fn a_constraint_limits_and_forces_tokens() {
    let texts = |n: usize, max_pages, draft_cost| {
        let mut engine = FakeEngine::new(8, max_pages);
        let mut scheduler = scheduler(4);
        let limits = StepLimits {
            max_prefill: 16,
            draft_cost,
        };
        let ids: Vec<_> = (0..n)
            .map(|i| {
                let task = Task {
                    prompt: vec![3 + i as u32; 120],
                    work: Work::Generate(GenerationTask {
                        max_tokens: 280,
                        sampling: SamplerOptions {
                            temperature: 1.0,
                            seed: i as u64,
                            ..SamplerOptions::GREEDY
                        },
                        constraint: Some(Box::new(FiveSixSix {
                            left: 120 + i,
                            tokens: Vec::new(),
                        })),
                        ..GenerationTask::default()
                    }),
                };
                scheduler.submit(&engine, 0, task).unwrap()
            })
            .collect();
        let mut texts: BTreeMap<TaskId, Vec<u32>> = BTreeMap::new();
        for (id, event) in run(&mut scheduler, &mut engine, limits) {
            match event {
                TaskEvent::Token { token, .. } => texts.entry(id).or_default().push(token),
                TaskEvent::Finished { reason, .. } => assert_eq!(reason, FinishReason::Eos),
                _ => {}
            }
        }
        (
            ids.iter().map(|id| texts[id].clone()).collect::<Vec<_>>(),
            scheduler.counts(),
        )
    };
    let (alone, _) = texts(1, 16, None);
    let (plenty, _) = texts(4, 16, None);
    let (scarce, counts) = texts(4, 5, None);
    assert_eq!(plenty[0], alone[0]);
    assert_eq!(plenty, scarce);
    assert!(counts.preemptions > 0, "{counts:?}");
    let (drafted, counts) = texts(4, 5, Some(0.1));
    assert_eq!(plenty, drafted);
    assert!(counts.accepted_tokens > 100, "{counts:?}");
    let text = &plenty[0];
    assert_eq!(text.iter().filter(|&&t| t != 6).count(), 120);
    for (i, token) in text.iter().enumerate() {
        let follows = text[..i].iter().rev().take_while(|&&t| t == 6).count();
        let after_five = text[..i].iter().rev().find(|&&t| t != 6) == Some(&5);
        assert_eq!(*token == 6, after_five && follows < 2, "{text:?}");
    }
}

#[test]
fn a_text_that_fails_or_is_stopped_touches_no_other() {
    let mut engine = FakeEngine::new(8, 32);
    let mut scheduler = scheduler(4);
    let good = plan(vec![9, 9, 4], 12);
    let good_id = scheduler.submit(&engine, 0, good.task()).unwrap();
    let bad_id = scheduler
        .submit(&engine, 0, plan(vec![9, POISON], 5).task())
        .unwrap();
    let stopped = plan(vec![8, 8, 3], 9);
    let stopped_id = scheduler.submit(&engine, 0, stopped.task()).unwrap();
    let mut texts: HashMap<TaskId, Vec<u32>> = HashMap::new();
    let mut ends = HashMap::new();
    while !scheduler.is_idle() {
        scheduler.step(&mut engine, prefill(64), |id, event| {
            match event {
                TaskEvent::Token { token, .. } => {
                    let text = texts.entry(id).or_default();
                    text.push(token);
                    if id == stopped_id && text.len() == 3 {
                        return ControlFlow::Break(());
                    }
                }
                TaskEvent::Finished { reason, .. } => {
                    assert!(ends.insert(id, Ok(reason)).is_none());
                }
                TaskEvent::Failed(error) => assert!(ends.insert(id, Err(error)).is_none()),
                _ => {}
            }
            ControlFlow::Continue(())
        });
    }
    assert_eq!(texts[&good_id], good.alone());
    assert_eq!(ends[&good_id], Ok(FinishReason::Length));
    assert_eq!(texts[&stopped_id], stopped.alone()[..3]);
    assert_eq!(ends[&stopped_id], Ok(FinishReason::Stop));
    assert_eq!(
        ends[&bad_id],
        Err(GenerateError::from(ForwardError::ZeroEmbedding).into())
    );
}

#[test]
fn impossible_tasks_are_refused() {
    let engine = FakeEngine::new(2, 8);
    let mut scheduler = scheduler(1);
    let mut submit = |prompt: Vec<u32>| scheduler.submit(&engine, 0, plan(prompt, 1).task());
    assert_eq!(submit(vec![]), Err(GenerateError::EmptyPrompt.into()));
    let too_long = GenerateError::PromptTooLong {
        n_tokens: CONTEXT + 1,
        context_len: CONTEXT,
    };
    assert_eq!(submit(vec![3; CONTEXT + 1]), Err(too_long.into()));
    let unknown = TaskError::Token {
        id: 32,
        vocab_size: VOCAB,
    };
    assert_eq!(submit(vec![3, 32]), Err(unknown));
    // One may run.
    for _ in 0..1001 {
        submit(vec![3]).unwrap();
    }
    assert_eq!(
        submit(vec![3]),
        Err(TaskError::QueueFull { max_waiting: 1000 })
    );
}
