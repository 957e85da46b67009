//! Resident memory reported by the system. The test needs a process of its own.
#![cfg(target_os = "linux")]

use std::hint::black_box;

use bitnet_core::machine::{peak_resident_memory, reset_peak_memory, resident_memory};

#[test]
fn the_peak_counts_touched_memory_and_can_be_forgotten() {
    let resident = || resident_memory().expect("Linux says");
    let peak = || peak_resident_memory().expect("Linux says");
    let before = resident();
    let data = black_box(vec![1u8; 64 << 20]);
    let with = resident();
    assert!(with >= before + (60 << 20), "{before} {with}");
    drop(data);
    let after = resident();
    assert!(after + (60 << 20) <= with, "{with} {after}");
    // The kernel updates page counts in batches.
    assert!(peak() + (1 << 20) >= with, "{with} {}", peak());
    reset_peak_memory();
    assert!(peak() + (60 << 20) <= with, "{with} {}", peak());
}
