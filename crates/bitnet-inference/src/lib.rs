//! File to tokens.
