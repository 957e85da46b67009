//! One folder or file per instruction set, the same two functions in each:
//! `ternary_panel` and `int8_panel` (see [`crate::matmul`] for what they owe).

pub(crate) mod scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;
