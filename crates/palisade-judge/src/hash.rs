//! The hash by which contents are compared, and the short form of any hash.

use twox_hash::XxHash3_128;

/// A short hash for comparing contents; equal on every machine.
pub fn hash(text: &str) -> String {
    format!("{:032x}", XxHash3_128::oneshot(text.as_bytes()))
}

/// The first ten digits of a hash.
pub fn short(hash: &str) -> &str {
    hash.get(..10).unwrap_or(hash)
}
