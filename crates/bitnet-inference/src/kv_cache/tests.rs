//! Runs random lifecycles of requests and compares the cache with a simple model: the tokens
//! of each sequence, and the values stored at each position.

use bitnet_core::memory::Category;
use bitnet_core::{HybridMemoryPool, Isa, KeyValue, PagedKv, RowPosition};

use super::*;

const PAGE: usize = KvPage::POSITIONS;
const CONTEXT: usize = 1000;

fn cache(n_sequences: usize, max_pages: usize) -> (HybridMemoryPool, KvCache) {
    let pool = HybridMemoryPool::new();
    let options = KvCacheOptions {
        n_sequences,
        context_len: CONTEXT,
        max_pages,
    };
    let shape = shape(&test_config(), KvPrecision::F32);
    let pages = Pages::Host(PagedKv::new(&pool, shape, n_sequences));
    let cache = KvCache::new(pages, options);
    (pool, cache)
}

fn growth(sequence: usize, n_new: usize) -> impl Iterator<Item = Growth> + Clone {
    std::iter::once(Growth { sequence, n_new })
}

/// Extends a sequence as the forward pass does. The stored values of a position depend on the
/// tokens up to it.
fn extend(cache: &mut KvCache, sequence: usize, tokens: &[u32]) -> Result<(), SequenceError> {
    cache.reserve(growth(sequence, tokens.len()))?;
    for &token in tokens {
        let position = cache.len(sequence);
        cache.push(sequence, token);
        let value = expected(cache.tokens(sequence));
        for layer in 0..2 {
            let value = [value + layer as f32, -value];
            let key = value.map(|x| x * 3.0);
            let at = RowPosition { sequence, position };
            let kv = KeyValue {
                key: &key,
                value: &value,
            };
            let pages = cache.pages_mut().host_mut();
            pages.store(Isa::Scalar, at, layer * test_config().n_kv_heads, kv);
        }
    }
    Ok(())
}

/// Returns the value stored at the position of the last token.
fn expected(tokens: &[u32]) -> f32 {
    // Hashes the number of tokens and a few of them: hashing all would be slow.
    let ends = tokens.iter().rev().take(3).chain(tokens.first());
    let hash = ends.fold(tokens.len() as u32, |hash, token| {
        hash.wrapping_mul(31).wrapping_add(*token)
    });
    (hash & 0xff_ffff) as f32
}

fn check_contents(cache: &KvCache, sequence: usize, tokens: &[u32]) {
    assert_eq!(cache.tokens(sequence), tokens);
    for position in 0..tokens.len() {
        let value = expected(&tokens[..=position]);
        for layer in 0..2 {
            let place = RowPosition { sequence, position };
            let first = layer * test_config().n_kv_heads;
            let (found_key, found_value) = cache.pages().host().load(place, first);
            let value = [value + layer as f32, -value];
            assert_eq!(found_value, value, "{place:?}");
            assert_eq!(found_key, value.map(|x| x * 3.0), "{place:?}");
        }
    }
}

/// A deterministic random number generator (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

/// The expected state of a running request.
struct Request {
    sequence: usize,
    tokens: Vec<u32>,
    guaranteed: usize,
}

const N_SEQUENCES: usize = 8;
const MAX_PAGES: usize = 20;

/// A cache and the requests expected to run in it.
struct World {
    pool: HybridMemoryPool,
    cache: KvCache,
    random: Random,
    running: Vec<Request>,
    next_token: u32,
    n_begun: usize,
    n_reused: usize,
    n_refused: usize,
}

impl World {
    /// Returns tokens that occur in no sequence.
    fn new_tokens(&mut self, n: usize) -> Vec<u32> {
        let first = self.next_token;
        self.next_token += n as u32;
        (first..self.next_token).collect()
    }

    fn chosen(&mut self) -> usize {
        self.random.below(self.running.len())
    }

    fn start(&mut self) {
        // One of a few common prefixes and a unique suffix.
        let text = 300 * self.random.below(3) as u32;
        let n_common = self.random.below(400) as u32;
        let n_own = 1 + self.random.below(150);
        let mut prompt: Vec<_> = (0..n_common).map(|i| text + i / 2).collect();
        prompt.extend(self.new_tokens(n_own));
        let guaranteed = (prompt.len() + self.random.below(200)).min(CONTEXT);
        let before = self.cache.usage();
        match self.cache.start(&prompt, guaranteed) {
            Ok(SequenceHandle { sequence, n_reused }) => {
                let known = &prompt[..prompt.len() - 1];
                let common = |request: &Request| {
                    let pairs = known.iter().zip(&request.tokens);
                    pairs.take_while(|(a, b)| a == b).count()
                };
                let longest = self.running.iter().map(common).max().unwrap_or(0);
                assert!(n_reused == longest || n_reused == longest / PAGE * PAGE);
                assert_eq!(self.cache.tokens(sequence), &prompt[..n_reused]);
                extend(&mut self.cache, sequence, &prompt[n_reused..]).unwrap();
                self.n_begun += 1;
                self.n_reused += n_reused;
                self.running.push(Request {
                    sequence,
                    tokens: prompt,
                    guaranteed,
                });
            }
            Err(SequenceError::NoneIdle { .. }) => assert_eq!(self.running.len(), N_SEQUENCES),
            Err(SequenceError::PagesExhausted { needed, free, .. }) => {
                assert!(needed > free && free <= MAX_PAGES - before.pages);
                assert_eq!(self.cache.usage(), before);
                self.n_refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn fork(&mut self) {
        let chosen = self.chosen();
        let more = self.random.below(200);
        let request = &self.running[chosen];
        let guaranteed = (request.tokens.len() + more).min(CONTEXT);
        let before = self.cache.usage();
        if let Ok(sequence) = self.cache.fork(request.sequence, guaranteed) {
            self.n_begun += 1;
            let tokens = request.tokens.clone();
            self.running.push(Request {
                sequence,
                tokens,
                guaranteed,
            });
        } else {
            assert_eq!(self.cache.usage(), before);
        }
    }

    /// Extends a sequence within its guarantee, which must succeed.
    fn extend(&mut self) {
        let chosen = self.chosen();
        let Request {
            guaranteed, tokens, ..
        } = &self.running[chosen];
        let room = guaranteed.saturating_sub(tokens.len());
        let n_new = self.random.below(room.min(150) + 1);
        let new = self.new_tokens(n_new);
        let request = &mut self.running[chosen];
        extend(&mut self.cache, request.sequence, &new).unwrap();
        request.tokens.extend(new);
    }

    /// Extends a sequence beyond its guarantee, which may fail.
    fn exceed(&mut self) {
        let chosen = self.chosen();
        let room = CONTEXT - self.running[chosen].tokens.len();
        let n_new = self.random.below(room.min(300) + 1);
        let new = self.new_tokens(n_new);
        let request = &mut self.running[chosen];
        let before = self.cache.usage();
        if extend(&mut self.cache, request.sequence, &new).is_ok() {
            request.tokens.extend(new);
        } else {
            assert_eq!(self.cache.usage(), before);
        }
    }

    fn truncate(&mut self) {
        let chosen = self.chosen();
        let len = self.random.below(self.running[chosen].tokens.len() + 1);
        let request = &mut self.running[chosen];
        self.cache.truncate(request.sequence, len);
        request.tokens.truncate(len);
        // Pages that other sequences still use are no longer guaranteed.
        request.guaranteed = len;
    }

    fn finish(&mut self) {
        let chosen = self.chosen();
        let request = self.running.swap_remove(chosen);
        check_contents(&self.cache, request.sequence, &request.tokens);
        self.cache.finish(request.sequence);
    }

    fn check(&self) {
        let usage = self.cache.usage();
        assert!(self.cache.n_claimed() <= MAX_PAGES);
        assert!(usage.unused_positions <= self.running.len() * (PAGE - 1));
        // The pool's count of pages in use.
        assert_eq!(self.pool.usage().of(Category::Kv).count, usage.pages);
    }

    /// Checks that one sequence can allocate all free pages, and not one more.
    fn check_that_nothing_is_fragmented(&mut self) {
        let is_idle = |i: &usize| !self.running.iter().any(|r| r.sequence == *i);
        let Some(idle) = (0..N_SEQUENCES).find(is_idle) else {
            return;
        };
        let cache = &mut self.cache;
        let free = cache.n_free();
        let pages = |n: usize| growth(idle, n * PAGE);
        assert!(cache.reserve(pages(free + 1)).is_err());
        cache.reserve(pages(free)).unwrap();
        assert_eq!(cache.n_free(), 0);
        cache.finish(idle);
        assert_eq!(cache.n_free(), free);
    }
}

#[test]
fn ten_thousand_requests_leak_nothing_and_disturb_nobody() {
    let (pool, cache) = cache(N_SEQUENCES, MAX_PAGES);
    let mut world = World {
        pool,
        cache,
        random: Random(7),
        running: Vec::new(),
        next_token: 1000,
        n_begun: 0,
        n_reused: 0,
        n_refused: 0,
    };
    let mut n_truncated = 0;
    while world.n_begun < 10_000 {
        match world.random.below(10) {
            0..=2 => world.start(),
            _ if world.running.is_empty() => {}
            3 => world.fork(),
            4..=6 => world.extend(),
            7 => world.exceed(),
            8 if world.random.below(3) == 0 => {
                world.truncate();
                n_truncated += 1;
            }
            _ => world.finish(),
        }
        world.check();
        if world.random.below(100) == 0 {
            world.check_that_nothing_is_fragmented();
        }
    }
    while !world.running.is_empty() {
        world.finish();
    }
    // Every case occurred, and no page leaks.
    assert!(world.n_reused > 100_000 && world.n_refused > 1000 && n_truncated > 1000);
    let usage = world.cache.usage();
    let left = (usage.pages, usage.shared_pages, usage.unused_positions);
    assert_eq!(left, (0, 0, 0));
    assert_eq!(world.pool.usage().of(Category::Kv).current, 0);
}

#[test]
fn a_fork_costs_a_page_when_one_of_both_writes() {
    let (_, mut cache) = cache(3, 4);
    let text: Vec<_> = (0..200).collect();
    let first = cache.start(&text, 200).unwrap();
    assert_eq!(first.n_reused, 0);
    extend(&mut cache, first.sequence, &text).unwrap();
    let second = cache.fork(first.sequence, 201).unwrap();
    assert_eq!((cache.usage().pages, cache.usage().shared_pages), (2, 2));
    extend(&mut cache, second, &[7]).unwrap();
    assert_eq!((cache.usage().pages, cache.usage().shared_pages), (3, 1));
    extend(&mut cache, first.sequence, &[8]).unwrap();
    // No other sequence shares the partial page, so it is not copied.
    assert_eq!(cache.usage().pages, 3);
    check_contents(&cache, first.sequence, &[&text[..], &[8]].concat());
    check_contents(&cache, second, &[&text[..], &[7]].concat());
    cache.finish(first.sequence);
    check_contents(&cache, second, &[&text[..], &[7]].concat());
    assert_eq!((cache.usage().pages, cache.usage().shared_pages), (2, 0));
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let (_, mut cache) = cache(2, 4);
    let text: Vec<_> = (0..300).collect();
    let first = cache.start(&text, 400).unwrap().sequence;
    extend(&mut cache, first, &text).unwrap();
    // The sequence holds three pages and has a fourth guaranteed.
    let error = cache.start(&[1; 10], 10).unwrap_err();
    assert_eq!(
        error.to_string(),
        "keys and values need 1 more pages of 128 positions, but of 4 only 0 are free"
    );
    // A fork shares the partial page, of which `first` would need a copy to grow.
    let second = cache.fork(first, 0);
    assert!(matches!(second, Err(SequenceError::PagesExhausted { .. })));
    extend(&mut cache, first, &[1; 100]).unwrap();
    let error = cache.reserve(growth(first, 113)).unwrap_err();
    assert_eq!(
        error,
        SequenceError::PagesExhausted {
            needed: 1,
            free: 0,
            max_pages: 4
        }
    );
    let error = cache.start(&text, CONTEXT + 1).unwrap_err();
    let expected = "1001 tokens do not fit into the context of 1000";
    assert_eq!(error.to_string(), expected);
    cache.finish(first);
    let started = [cache.start(&text, 0), cache.start(&[5; 128], 0)];
    assert!(started.iter().all(Result::is_ok));
    let error = cache.start(&[1], 1).unwrap_err();
    assert_eq!(error.to_string(), "all 2 sequences are in use");
}

#[test]
fn a_page_that_the_system_refuses_changes_nothing() {
    let (pool, mut cache) = cache(2, 8);
    let text: Vec<_> = (0..100).collect();
    let started = cache.start(&text, 300).unwrap().sequence;
    extend(&mut cache, started, &text).unwrap();
    let other = cache.fork(started, 300).unwrap();
    let before = cache.usage();
    // The first allocation copies the shared page, the second is the page after it.
    for n in 0..2 {
        pool.fail_nth(n);
        let error = cache.reserve(growth(other, 100)).unwrap_err();
        assert!(matches!(error, SequenceError::Memory(_)), "{error}");
        assert!(pool.end_fault());
        assert_eq!(cache.usage().unused_positions, before.unused_positions);
        check_contents(&cache, started, &text);
        check_contents(&cache, other, &text);
    }
    extend(&mut cache, other, &[3; 100]).unwrap();
    check_contents(&cache, started, &text);
    check_contents(&cache, other, &[&text[..], &[3; 100]].concat());
}
