//! The server with the built-in model, over real connections.

mod adversaries;
mod anthropic;
mod api;
mod client;
mod ending;
mod equality;
mod grammars;
mod local;
mod models;
mod ollama;
mod prefixes;
mod receipts;
mod replicas;
mod response_cache;
mod responses;
mod tei;
