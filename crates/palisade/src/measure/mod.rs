//! Measures: starts processes and says what they took, without judging it.

pub mod launch;
