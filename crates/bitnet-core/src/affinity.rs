//! Processors to which threads can be pinned.

use core_affinity::CoreId;

/// Returns the processors available to the process, one hardware thread of each core before
/// the others; empty if they are unknown.
pub(crate) fn processors() -> Vec<CoreId> {
    let mut processors = core_affinity::get_core_ids().unwrap_or_default();
    processors.sort_by_key(|processor| !is_first_of_core(processor.id));
    processors
}

/// Returns whether no hardware thread of the same core has a smaller number, as far as it
/// is known: Linux lists them as in `0,4` or `0-1`.
fn is_first_of_core(processor: usize) -> bool {
    let list = format!("/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list");
    let first = std::fs::read_to_string(list).ok().and_then(|list| {
        let digits = list.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    });
    first.is_none_or(|first: usize| first == processor)
}
