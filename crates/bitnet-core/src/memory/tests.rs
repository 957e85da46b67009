use std::collections::BTreeMap;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::pool::MAX_SMALL;
use super::*;

/// Fills a block with a value.
fn mark(block: &Block, value: u8) {
    let data: *mut u8 = std::ptr::with_exposed_provenance_mut(block.address());
    // SAFETY: the caller owns the block.
    unsafe { data.write_bytes(value, block.n_bytes()) };
}

/// Asserts that all bytes of a block have the value.
fn check(block: &Block, value: u8) {
    let data: *const u8 = std::ptr::with_exposed_provenance(block.address());
    // SAFETY: the caller owns the block and has written it.
    let data = unsafe { std::slice::from_raw_parts(data, block.n_bytes()) };
    assert!(data.iter().all(|&x| x == value));
}

#[test]
fn buffers_are_aligned_zeros_whatever_was_there() {
    let pool = HybridMemoryPool::new();
    for len in [0, 1, 1000, 40_000, 3 << 20] {
        for _ in 0..3 {
            let mut data = pool.zeroed::<u16>(Category::Weights, len).unwrap();
            assert!(len == 0 || data.as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert!(data.len() == len && data.iter().all(|&x| x == 0));
            data.fill(0xabcd);
        }
    }
    let wide = pool.zeroed::<[f32; 16]>(Category::Kv, 7).unwrap();
    assert_eq!(wide.category(), Category::Kv);
    assert_eq!(*wide, [[0.0; 16]; 7]);
}

#[test]
fn memory_that_no_machine_has_is_an_error() {
    let pool = HybridMemoryPool::new();
    let allocate = |n_bytes| pool.allocate(Category::Weights, n_bytes).map(drop);
    for n_bytes in [usize::MAX, usize::MAX / 2, isize::MAX as usize, 1 << 60] {
        assert_eq!(allocate(n_bytes), Err(OutOfMemory { n_bytes }));
    }
    let error = pool.zeroed::<f32>(Category::Kv, usize::MAX / 2).map(drop);
    assert_eq!(error.unwrap_err().n_bytes, usize::MAX);
    assert_eq!(pool.usage(), Usage::default());
    assert_eq!(allocate(1 << 20), Ok(()));
}

#[test]
fn usage_is_counted_by_category() {
    let pool = HybridMemoryPool::new();
    let weights = pool.zeroed::<u8>(Category::Weights, 10 << 20).unwrap();
    let kv: Vec<_> = (0..10)
        .map(|_| pool.zeroed::<u8>(Category::Kv, 1000).unwrap())
        .collect();
    let file = pool.count(Category::MappedFile, 5000);
    let amount = |current, peak, count| Amount {
        current,
        peak,
        count,
    };
    let usage = pool.usage();
    assert_eq!(usage.of(Category::Weights), amount(10 << 20, 10 << 20, 1));
    assert_eq!(usage.of(Category::Kv), amount(10_240, 10_240, 10));
    assert_eq!(usage.of(Category::MappedFile), amount(5000, 5000, 1));
    let all = (10 << 20) + 10_240 + 5000;
    assert_eq!(usage.total, amount(all, all, 12));
    assert!(usage.mapped >= (10 << 20) + 10_240);

    drop((weights, kv, file));
    let usage = pool.usage();
    assert_eq!(usage.total, amount(0, all, 0));
    assert_eq!(usage.of(Category::Kv), amount(0, 10_240, 0));
    pool.trim();
    assert_eq!(pool.usage().mapped, 0);
}

#[test]
fn what_is_idle_goes_back_by_itself() {
    let pool = HybridMemoryPool::new();
    let held = pool.allocate(Category::Kv, 1 << 20).unwrap();
    let blocks: Vec<_> = (0..64)
        .map(|_| pool.allocate(Category::Weights, 4 << 20).unwrap())
        .collect();
    assert!(pool.usage().mapped >= 257 << 20);
    drop(blocks);
    let mapped = pool.usage().mapped;
    assert!(mapped <= 16 << 20, "{mapped}");
    drop(held);
}

#[test]
fn one_allocation_fails_and_the_next_does_not() {
    let pool = HybridMemoryPool::new();
    for n_bytes in [100, MAX_SMALL, MAX_SMALL + 1, 1 << 22] {
        let allocate = || pool.allocate(Category::Scratch, n_bytes).map(drop);
        pool.fail_nth(2);
        assert_eq!((allocate(), allocate()), (Ok(()), Ok(())));
        assert_eq!(allocate(), Err(OutOfMemory { n_bytes }));
        assert_eq!(allocate(), Ok(()));
        assert!(pool.end_fault());
        pool.fail_nth(1);
        assert_eq!(pool.zeroed::<u8>(Category::Kv, 0).unwrap().len(), 0);
        assert_eq!(allocate(), Ok(()));
        assert!(!pool.end_fault());
        assert_eq!(allocate(), Ok(()));
    }
}

#[test]
fn blocks_outlive_the_pool() {
    let pool = HybridMemoryPool::new();
    let blocks: Vec<_> = [64, 5000, 1 << 20]
        .map(|n_bytes| pool.allocate(Category::Scratch, n_bytes).unwrap())
        .into();
    drop(pool);
    let other = HybridMemoryPool::new();
    assert_eq!(other.usage(), Usage::default());
    for (i, block) in blocks.iter().enumerate() {
        mark(block, i as u8);
    }
    let more = other.allocate(Category::Scratch, 64).unwrap();
    mark(&more, 100);
    for (i, block) in blocks.iter().enumerate() {
        check(block, i as u8);
    }
    assert_eq!(other.usage().total.count, 1);
}

/// A device allocator whose addresses are only numbers.
#[derive(Debug)]
struct Numbers {
    limit: usize,
    regions: Arc<Mutex<BTreeMap<usize, usize>>>,
}

impl DeviceAllocator for Numbers {
    fn granule(&self) -> usize {
        256
    }

    fn map(&self, n_bytes: usize) -> Result<usize, OutOfMemory> {
        let mut regions = self.regions.lock().unwrap();
        if regions.values().sum::<usize>() + n_bytes > self.limit {
            return Err(OutOfMemory { n_bytes });
        }
        let address = regions.last_key_value().map_or(1 << 40, |(a, n)| a + n);
        regions.insert(address, n_bytes);
        Ok(address)
    }

    unsafe fn unmap(&self, address: usize, n_bytes: usize) {
        let removed = self.regions.lock().unwrap().remove(&address);
        assert_eq!(removed, Some(n_bytes));
    }
}

#[test]
fn a_device_has_blocks_of_its_own() {
    let pool = HybridMemoryPool::new();
    let regions = Arc::new(Mutex::new(BTreeMap::new()));
    let device = pool.add_device(Box::new(Numbers {
        limit: 5 << 20,
        regions: Arc::clone(&regions),
    }));
    let small = pool.allocate_on(device, 1000).unwrap();
    assert_eq!((small.address(), small.n_bytes()), (1 << 40, 1024));
    let large = pool.allocate_on(device, 3 << 20).unwrap();
    assert_eq!(
        pool.allocate_on(device, 1 << 21).unwrap_err(),
        OutOfMemory { n_bytes: 1 << 21 }
    );
    let usage = pool.usage();
    assert_eq!(usage.of(Category::Device).count, 2);
    assert_eq!(usage.total.current, (3 << 20) + 1024);
    assert_eq!(usage.mapped, 5 << 20);
    drop(large);
    pool.trim();
    assert_eq!(regions.lock().unwrap().len(), 1);
    // The last owner unmaps the region.
    drop(pool);
    drop(small);
    assert!(regions.lock().unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn blocks_never_overlap_and_all_comes_back(
        steps in prop::collection::vec((any::<bool>(), 0u32..21, any::<u32>(), any::<prop::sample::Index>()), 1..300),
    ) {
        let pool = HybridMemoryPool::new();
        let mut blocks: BTreeMap<usize, (Block, u8)> = BTreeMap::new();
        for (i, (takes, log, low, index)) in steps.into_iter().enumerate() {
            if takes || blocks.is_empty() {
                let n_bytes = (1usize << log) + low as usize % (1 << log);
                let block = pool.allocate(Category::Scratch, n_bytes).unwrap();
                prop_assert!(block.n_bytes() >= n_bytes && block.address().is_multiple_of(ALIGNMENT));
                let end = block.address() + block.n_bytes();
                if let Some((_, (other, _))) = blocks.range(..end).next_back() {
                    prop_assert!(other.address() + other.n_bytes() <= block.address());
                }
                mark(&block, i as u8);
                blocks.insert(block.address(), (block, i as u8));
            } else {
                let key = *blocks.keys().nth(index.index(blocks.len())).unwrap();
                let (block, value) = blocks.remove(&key).unwrap();
                check(&block, value);
            }
            let total = pool.usage().total;
            let bytes: usize = blocks.values().map(|(block, _)| block.n_bytes()).sum();
            prop_assert_eq!((total.current, total.count), (bytes, blocks.len()));
        }
        for (block, value) in std::mem::take(&mut blocks).into_values() {
            check(&block, value);
        }
        pool.trim();
        prop_assert_eq!(pool.usage().mapped, 0);
    }
}

#[test]
fn many_threads_take_and_give_back_what_others_took() {
    const THREADS: usize = 8;
    let pool = HybridMemoryPool::new();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel()).unzip();
    std::thread::scope(|scope| {
        for (thread, receiver) in receivers.into_iter().enumerate() {
            let (pool, senders) = (pool.clone(), senders.clone());
            scope.spawn(move || {
                let mut state = thread as u64 + 1;
                for i in 0..3000 {
                    // Xorshift.
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let n_bytes = 1 + (state >> 20) as usize % (1 << (state % 18));
                    let value = (state >> 8) as u8;
                    let block = pool.allocate(Category::Kv, n_bytes).unwrap();
                    mark(&block, value);
                    let to: &mpsc::Sender<(Block, u8)> = &senders[state as usize % THREADS];
                    // A receiver that has finished drops the block.
                    let _ = to.send((block, value));
                    if i % 500 == 0 {
                        pool.trim();
                    }
                    for (block, value) in receiver.try_iter().take(2) {
                        check(&block, value);
                    }
                }
                drop(senders);
                for (block, value) in receiver {
                    check(&block, value);
                }
            });
        }
        drop(senders);
    });
    let usage = pool.usage();
    assert_eq!((usage.total.current, usage.total.count), (0, 0));
    assert!(usage.total.peak > 0);
    pool.trim();
    assert_eq!(pool.usage().mapped, 0);
}
