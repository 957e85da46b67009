//! Taking memory: zeroed, on huge pages where the system gives them, and with an
//! error instead of an abort.

use std::fmt;

/// The system has not enough memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// How much was asked for.
    pub n_bytes: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not enough memory: {} bytes", self.n_bytes)
    }
}

impl std::error::Error for OutOfMemory {}

/// Returns `len` default values, which must be zeros.
///
/// `vec!` takes memory that the system has zeroed, without touching it, but
/// ends the program if there is none: so it is asked for first.
pub fn zeroed<T: Copy + Default>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    Vec::<T>::new()
        .try_reserve_exact(len)
        .map_err(|_| OutOfMemory {
            n_bytes: len.saturating_mul(size_of::<T>()),
        })?;
    let data = vec![T::default(); len];
    prefer_huge_pages(data.as_ptr(), len);
    Ok(data)
}

/// Returns `len` times `value`.
pub(crate) fn filled<T: Copy>(value: T, len: usize) -> Vec<T> {
    let mut data = Vec::with_capacity(len);
    prefer_huge_pages(data.as_ptr(), len);
    data.resize(len, value);
    data
}

/// Asks for huge pages behind memory that has not been touched yet: reading it
/// then misses the translation cache less often. A wish: where the system has
/// none, nothing changes.
fn prefer_huge_pages<T>(data: *const T, len: usize) {
    #[cfg(target_os = "linux")]
    {
        /// A page at least, on every processor; also the smallest range worth a call.
        const ALIGNMENT: usize = 1 << 16;
        const HUGE_PAGE: usize = 2 << 20;
        let start = data.addr().next_multiple_of(ALIGNMENT);
        let end = (data.addr() + len * size_of::<T>()) / ALIGNMENT * ALIGNMENT;
        if end.saturating_sub(start) >= HUGE_PAGE {
            // SAFETY: the range lies within one allocation, and the advice
            // changes no contents.
            let _ = unsafe {
                rustix::mm::madvise(
                    data.with_addr(start).cast_mut().cast(),
                    end - start,
                    rustix::mm::Advice::LinuxHugepage,
                )
            };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (data, len);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_or_filled_at_any_size() {
        for len in [0, 1, 1000, 3 << 20] {
            let data = zeroed::<u16>(len).unwrap();
            assert!(data.len() == len && data.iter().all(|&x| x == 0));
            let data = filled([7u8; 3], len / 3);
            assert!(data.len() == len / 3 && data.iter().all(|&x| x == [7; 3]));
        }
    }

    #[test]
    fn memory_that_no_machine_has_is_an_error() {
        let n_bytes = usize::MAX / 4 * 4;
        assert_eq!(
            zeroed::<f32>(usize::MAX / 4).unwrap_err(),
            OutOfMemory { n_bytes }
        );
    }
}
