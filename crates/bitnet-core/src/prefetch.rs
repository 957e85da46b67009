//! The instruction that prefetches a cache line.

/// Prefetches the cache line at `x`. The address may be invalid. No-op on architectures
/// other than x86-64 and ARM64.
#[inline(always)]
pub(crate) fn prefetch<T>(x: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is in the target's baseline; prefetching an invalid address has no
    // effect.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(x.cast());
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: prefetching an invalid address has no effect. (`_prefetch` is not stable.)
    unsafe {
        std::arch::asm!(
            "prfm pldl1keep, [{x}]",
            x = in(reg) x,
            options(readonly, nostack, preserves_flags),
        );
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = x;
}

/// As [`prefetch`], but into the second-level cache.
#[inline(always)]
pub(crate) fn prefetch_l2<T>(x: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(x.cast());
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "prfm pldl2keep, [{x}]",
            x = in(reg) x,
            options(readonly, nostack, preserves_flags),
        );
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = x;
}
