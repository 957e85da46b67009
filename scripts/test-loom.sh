#!/usr/bin/env bash
# Checks the thread pool's protocol (wake, share, wait for the end, panics) with loom: every
# interleaving of its threads up to a number of preemptions, and everything that weak memory
# may show in each.
#
#   scripts/test-loom.sh [ARGUMENTS OF THE TESTS]
set -euo pipefail
cd "$(dirname "$0")/.."

export RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/loom
cargo test --locked --package bitnet-core --lib -- thread_pool::model_check "$@"
