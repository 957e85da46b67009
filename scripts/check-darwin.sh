#!/usr/bin/env bash
# Type-checks the libraries of the model half and the guard for Apple's processors: nothing
# can be linked or run here. Says SKIPPED, loudly, when the packages it needs cannot be had
# (see cross-toolchain.sh).
#
#   scripts/check-darwin.sh [DIR]     DIR keeps the toolchain between runs
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(realpath -m "${1:-target/cross-toolchain}")

if ! scripts/cross-toolchain.sh "$dir" >&2; then
    echo "SKIPPED: the packages for other targets cannot be had; macOS is NOT checked"
    exit 0
fi

# The standard library is checked from its sources, which only a compiler that takes
# unstable options does. A check needs no code of C libraries (SQLite's): what stands in
# for the compiler writes none.
RUSTC=$dir/bin/rustc CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/darwin RUSTC_BOOTSTRAP=1 \
    SDKROOT=/ CC_aarch64_apple_darwin=true AR_aarch64_apple_darwin=true \
    cargo check --locked -Zbuild-std=std,panic_abort --target aarch64-apple-darwin \
    --package bitnet-core --package bitnet-quant --package bitnet-inference \
    --package palisade --package cargo-palisade --package palisade-alloc
