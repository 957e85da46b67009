//! What each thread keeps at hand: small blocks, and its part of the count.
//!
//! Taking and giving back a small block is a pop and a push here, with no lock
//! and no atomic read-modify-write. Blocks come from the slabs, and go back to
//! them, many at a time.

use std::cell::RefCell;
use std::sync::Arc;

use super::pool::Shared;
use super::slabs::MAX_CLASSES;
use super::tracking::{Category, Pending};
use super::{OutOfMemory, Place};

/// The most blocks of a class, and the most bytes of all, that a thread keeps.
const MAX_BLOCKS: usize = 64;
const MAX_BYTES: usize = 4 << 20;

/// The most blocks, and about the most bytes, that are fetched together.
const FETCH_BLOCKS: usize = MAX_BLOCKS / 2;
const FETCH_BYTES: usize = 256 << 10;

/// The most pools that a thread keeps blocks of.
const MAX_POOLS: usize = 4;

thread_local! {
    /// The pool that was used last comes first.
    static CACHES: RefCell<Vec<Cache>> = const { RefCell::new(Vec::new()) };
}

struct Cache {
    pool: &'static Shared,
    pending: Arc<Pending>,
    /// Addresses of blocks, by class.
    blocks: Box<[Vec<usize>; MAX_CLASSES]>,
    n_bytes: usize,
}

/// Takes a block for `n_bytes`, at most `MAX_SMALL`; returns its address, its
/// bytes, and where to give it back.
#[inline]
pub(super) fn take(
    pool: &'static Shared,
    category: Category,
    n_bytes: usize,
) -> Result<(usize, usize, Place), OutOfMemory> {
    let class = pool.classes.of(n_bytes);
    let block_bytes = pool.classes.block_bytes(class);
    let address = CACHES
        .try_with(|caches| {
            let mut caches = caches.borrow_mut();
            let cache = cache_of(&mut caches, pool);
            let address = match cache.blocks[class].pop() {
                Some(address) => {
                    cache.n_bytes -= block_bytes;
                    address
                }
                None => cache.fetch(class, n_bytes)?,
            };
            if pool.is_tracked() {
                let pending = &cache.pending;
                pending.add(&pool.totals, category, block_bytes as isize, 1);
            }
            Ok(address)
        })
        .unwrap_or_else(|_| {
            // The thread is ending, and its cache has gone.
            let mut one = Vec::with_capacity(1);
            pool.fetch(class, 1, &mut one)?;
            pool.count(category, block_bytes as isize, 1);
            Ok(one[0])
        })?;
    Ok((address, block_bytes, Place::Slab(class as u8)))
}

/// Gives back a block.
#[inline]
pub(super) fn give(
    pool: &'static Shared,
    category: Category,
    class: usize,
    (address, block_bytes): (usize, usize),
) {
    CACHES
        .try_with(|caches| {
            let mut caches = caches.borrow_mut();
            let cache = cache_of(&mut caches, pool);
            if pool.is_tracked() {
                let pending = &cache.pending;
                pending.add(&pool.totals, category, -(block_bytes as isize), -1);
            }
            let blocks = &mut cache.blocks[class];
            blocks.push(address);
            cache.n_bytes += block_bytes;
            if blocks.len() >= MAX_BLOCKS || cache.n_bytes > MAX_BYTES || pool.is_retired() {
                cache.shed(class, block_bytes);
            }
        })
        .unwrap_or_else(|_| {
            pool.count(category, -(block_bytes as isize), -1);
            pool.give_blocks(class, [address]);
        });
}

/// Gives back to the slabs what this thread keeps of a pool.
pub(super) fn flush(pool: &'static Shared) {
    // A thread that is ending has nothing left.
    let _ = CACHES.try_with(|caches| {
        (caches.borrow_mut()).retain(|cache| !std::ptr::eq(cache.pool, pool));
    });
}

/// Returns the thread's cache for a pool.
#[inline]
fn cache_of<'a>(caches: &'a mut Vec<Cache>, pool: &'static Shared) -> &'a mut Cache {
    if (caches.first()).is_none_or(|first| !std::ptr::eq(first.pool, pool)) {
        bring_first(caches, pool);
    }
    &mut caches[0]
}

#[cold]
fn bring_first(caches: &mut Vec<Cache>, pool: &'static Shared) {
    let found = (caches.iter()).position(|cache| std::ptr::eq(cache.pool, pool));
    let cache = match found {
        Some(i) => caches.remove(i),
        None => Cache::new(pool),
    };
    caches.truncate(MAX_POOLS - 1);
    caches.insert(0, cache);
}

impl Cache {
    fn new(pool: &'static Shared) -> Self {
        Self {
            pool,
            pending: pool.add_thread(),
            blocks: Box::new(std::array::from_fn(|_| Vec::new())),
            n_bytes: 0,
        }
    }

    /// Fetches blocks of a class and returns one of them.
    #[cold]
    fn fetch(&mut self, class: usize, n_bytes: usize) -> Result<usize, OutOfMemory> {
        let block_bytes = self.pool.classes.block_bytes(class);
        let n = (FETCH_BYTES / block_bytes).clamp(1, FETCH_BLOCKS);
        let blocks = &mut self.blocks[class];
        blocks.reserve_exact(MAX_BLOCKS);
        self.pool.fetch(class, n, blocks)?;
        self.pool.classes.learn(n_bytes, blocks.len());
        self.n_bytes += (blocks.len() - 1) * block_bytes;
        Ok(blocks.pop().expect("at least one was fetched"))
    }

    /// Gives back half of the blocks of a class; all, if nobody will take one
    /// again.
    #[cold]
    fn shed(&mut self, class: usize, block_bytes: usize) {
        let blocks = &mut self.blocks[class];
        let keep = if self.pool.is_retired() {
            0
        } else {
            blocks.len() / 2
        };
        self.n_bytes -= (blocks.len() - keep) * block_bytes;
        // The oldest: the newest are in the processor's cache.
        let n = blocks.len() - keep;
        self.pool.give_blocks(class, blocks.drain(..n));
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        for (class, blocks) in self.blocks.iter_mut().enumerate() {
            if !blocks.is_empty() {
                self.pool.give_blocks(class, blocks.drain(..));
            }
        }
        self.pool.remove_thread(&self.pending);
    }
}
