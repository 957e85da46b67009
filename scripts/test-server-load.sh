#!/usr/bin/env bash
# Runs the slow tests of the server, and prints their numbers: 64 clients for a minute, whose
# answers are compared with those of the same requests alone; 10,000 requests, after which
# the memory is as before, as it is after 200 loads of models; a batch that is killed a hundred
# times.
#
#   scripts/test-server-load.sh [ARGUMENTS OF THE TESTS]
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --locked --package bitnet-server --test server -- \
    --ignored --nocapture --test-threads 1 "$@"
cargo test --locked --package bitnet-cli --test cli -- --ignored --exact "$@" \
    batch::a_hundred_kills_change_no_byte
