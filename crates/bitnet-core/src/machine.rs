//! What this machine can do at most: the limits that speeds are compared with.

use std::hint::black_box;
use std::time::Instant;

use crate::kernel::{Kernel, Op};
use crate::memory::filled;
use crate::team::Team;

/// Bytes that a pass reads: far more than any cache holds.
const READ_BYTES: usize = 1 << 29;

/// Passes, of which the fastest counts.
const PASSES: usize = 5;

/// Returns how fast the team reads memory, in bytes per second.
///
/// Takes half a gibibyte of memory while it runs, and a quarter of a second or
/// so.
pub fn read_bandwidth(kernel: Kernel, team: &mut Team) -> f64 {
    // Filled, so that every page has memory of its own.
    let data = filled(1u64, READ_BYTES / size_of::<u64>());
    let chunk = data.len() / 256;
    fastest(READ_BYTES as f64, || {
        team.for_each(256, |_, piece| {
            black_box(kernel.run(Read(&data[piece * chunk..][..chunk])));
        });
    })
}

/// Returns how many int8 multiply-adds per second the team's dot product
/// instructions do on registers, or `None` for a kernel without such
/// instructions.
pub fn int8_peak(kernel: Kernel, team: &mut Team) -> Option<f64> {
    const ROUNDS: usize = 100_000;
    const PIECES: usize = 64;
    let macs_per_round = peak_rounds(kernel, 1)?;
    let macs = (PIECES * ROUNDS * macs_per_round) as f64;
    Some(fastest(macs, || {
        team.for_each(PIECES, |_, _| {
            black_box(peak_rounds(kernel, ROUNDS));
        });
    }))
}

/// Runs a kernel's dot product instructions and returns the multiply-adds done.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(
        unused_variables,
        reason = "only x86-64 kernels have such instructions"
    )
)]
fn peak_rounds(kernel: Kernel, n_rounds: usize) -> Option<usize> {
    match kernel {
        Kernel::Scalar => None,
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(isa) => Some(isa.int8_peak_rounds(n_rounds)),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512(isa) => Some(isa.int8_peak_rounds(n_rounds)),
    }
}

/// Returns `amount` per second of the fastest pass.
fn fastest(amount: f64, mut pass: impl FnMut()) -> f64 {
    let seconds = (0..PASSES).map(|_| {
        let start = Instant::now();
        pass();
        start.elapsed().as_secs_f64()
    });
    amount / seconds.fold(f64::INFINITY, f64::min)
}

struct Read<'a>(&'a [u64]);

impl Op for Read<'_> {
    type Output = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        let mut lanes = [0u64; 64];
        for chunk in self.0.as_chunks::<64>().0 {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane ^= x;
            }
        }
        lanes.into_iter().fold(0, |all, lane| all ^ lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_positive_and_only_the_scalar_kernel_has_no_peak() {
        let mut team = Team::new(2);
        for kernel in Kernel::available() {
            let peak = int8_peak(kernel, &mut team);
            assert_eq!(peak.is_none(), kernel == Kernel::Scalar);
            assert!(peak.is_none_or(|peak| peak > 1e6), "{kernel}: {peak:?}");
        }
        let bandwidth = read_bandwidth(Kernel::best(), &mut team);
        assert!(bandwidth.is_finite() && bandwidth > 1e6, "{bandwidth}");
    }
}
