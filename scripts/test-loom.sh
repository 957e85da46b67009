#!/usr/bin/env bash
# Model-checks the protocol of the thread pool (wake-up, work sharing, completion, panics)
# with loom: all interleavings of its threads up to a preemption bound, under the weak memory
# model.
#
#   scripts/test-loom.sh [ARGUMENTS OF THE TESTS]
set -euo pipefail
cd "$(dirname "$0")/.."

export RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/loom
cargo test --locked --package bitnet-core --lib -- thread_pool::model_check "$@"
