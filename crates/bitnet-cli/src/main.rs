//! The program `bitnet`.
fn main() {}
