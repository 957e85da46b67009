//! A choice that is made once, by whichever thread asks first.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// What [`Selection::chosen`] holds before the choice.
pub(super) const NOTHING: usize = usize::MAX;

/// A choice among numbered things, made by the first to ask: the others wait for
/// it, and later calls read one atomic.
///
/// Its atomic `A` and lock `L` are parameters so that a model checker can put
/// its own in their place.
#[derive(Debug)]
pub(super) struct Selection<A, L> {
    chosen: A,
    choosing: L,
}

/// An atomic number.
pub(super) trait Atomic {
    fn load(&self, order: Ordering) -> usize;
    fn store(&self, value: usize, order: Ordering);
}

/// Mutual exclusion.
pub(super) trait Lock {
    fn with<R>(&self, f: impl FnOnce() -> R) -> R;
}

impl<A, L> Selection<A, L> {
    /// Takes an atomic that holds [`NOTHING`], and a lock.
    pub(super) const fn new(chosen: A, choosing: L) -> Self {
        Self { chosen, choosing }
    }
}

impl<A: Atomic, L: Lock> Selection<A, L> {
    /// Returns what `choose` returned to the first caller. What it wrote is
    /// visible to all of them. If it panics, the next caller chooses.
    pub(super) fn get(&self, choose: impl FnOnce() -> usize) -> usize {
        // Acquire meets the release below: whoever sees the choice sees all that
        // was done to make it.
        let chosen = self.chosen.load(Ordering::Acquire);
        if chosen != NOTHING {
            return chosen;
        }
        self.choosing.with(|| {
            // Written under the same lock, if at all.
            let chosen = self.chosen.load(Ordering::Relaxed);
            if chosen != NOTHING {
                return chosen;
            }
            let chosen = choose();
            assert!(chosen != NOTHING, "a choice is not nothing");
            self.chosen.store(chosen, Ordering::Release);
            chosen
        })
    }
}

impl Atomic for std::sync::atomic::AtomicUsize {
    fn load(&self, order: Ordering) -> usize {
        self.load(order)
    }

    fn store(&self, value: usize, order: Ordering) {
        self.store(value, order);
    }
}

impl Lock for std::sync::Mutex<()> {
    fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        // There is nothing behind the lock that a panic could have left half done.
        let _guard = self.lock().unwrap_or_else(PoisonError::into_inner);
        f()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicUsize;
    use std::sync::{Arc, Barrier, Mutex};

    use super::*;

    impl Atomic for loom::sync::atomic::AtomicUsize {
        fn load(&self, order: Ordering) -> usize {
            self.load(order)
        }

        fn store(&self, value: usize, order: Ordering) {
            self.store(value, order);
        }
    }

    impl Lock for loom::sync::Mutex<()> {
        fn with<R>(&self, f: impl FnOnce() -> R) -> R {
            let _guard = self.lock().unwrap();
            f()
        }
    }

    fn cold() -> Selection<AtomicUsize, Mutex<()>> {
        Selection::new(AtomicUsize::new(NOTHING), Mutex::new(()))
    }

    /// Every order in which three threads can run, and everything that memory
    /// may show them.
    #[test]
    fn in_every_interleaving_one_thread_chooses_and_all_see_what_it_did() {
        loom::model(|| {
            let selection = Selection::new(
                loom::sync::atomic::AtomicUsize::new(NOTHING),
                loom::sync::Mutex::new(()),
            );
            // Loom ends with an error if this is read without being ordered after
            // the write, or written twice at once.
            let opened = loom::cell::UnsafeCell::new(0);
            let shared = loom::sync::Arc::new((selection, opened));
            let ask = |number: usize| {
                let shared = loom::sync::Arc::clone(&shared);
                move || {
                    let (selection, opened) = &*shared;
                    let chosen = selection.get(|| {
                        // SAFETY: loom checks that nobody else has it.
                        opened.with_mut(|opened| unsafe { *opened += 1 });
                        number
                    });
                    // SAFETY: loom checks that nobody writes.
                    assert_eq!(opened.with(|opened| unsafe { *opened }), 1);
                    chosen
                }
            };
            let threads = [1, 2].map(|number| loom::thread::spawn(ask(number)));
            let mine = ask(0)();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), mine);
            }
        });
    }

    #[test]
    fn sixty_four_threads_agree_at_a_thousand_cold_starts() {
        const THREADS: usize = 64;
        let cells: Vec<_> = (0..1000).map(|_| (cold(), AtomicUsize::new(0))).collect();
        let shared = Arc::new((cells, Barrier::new(THREADS)));
        let ask = |number: usize| {
            let shared = Arc::clone(&shared);
            move || {
                let (cells, barrier) = &*shared;
                let choose = |(selection, n_choices): &(Selection<_, _>, AtomicUsize)| {
                    barrier.wait();
                    selection.get(|| {
                        n_choices.fetch_add(1, Ordering::Relaxed);
                        number
                    })
                };
                cells.iter().map(choose).collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|n| std::thread::spawn(ask(n))).collect();
        let mut answers = threads.into_iter().map(|thread| thread.join().unwrap());
        let first = answers.next().unwrap();
        assert!(answers.all(|answer| answer == first));
        for (cell, chosen) in shared.0.iter().zip(first) {
            assert_eq!(cell.1.load(Ordering::Relaxed), 1);
            assert_eq!(cell.0.get(|| unreachable!("it is chosen")), chosen);
        }
    }

    #[test]
    fn after_a_panic_the_next_caller_chooses() {
        let selection = cold();
        let panicked = catch_unwind(AssertUnwindSafe(|| selection.get(|| panic!("no driver"))));
        assert!(panicked.is_err());
        assert_eq!(selection.get(|| 7), 7);
        assert_eq!(selection.get(|| 8), 7);
    }
}
