#!/usr/bin/env bash
# Type-checks both programs for macOS on ARM64, with Metal. Links and runs nothing. Prints
# SKIPPED if the packages it needs are not available (see cross-toolchain.sh).
#
#   scripts/check-darwin.sh [DIR]     DIR caches the toolchain between runs
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(realpath -m "${1:-target/cross-toolchain}")

if ! scripts/cross-toolchain.sh "$dir" >&2; then
    echo "SKIPPED: the packages for other targets cannot be had; macOS is NOT checked"
    exit 0
fi

# -Zbuild-std builds the standard library from source and needs RUSTC_BOOTSTRAP. A check does
# not need the object code of C libraries (SQLite), so `true` replaces the C compiler.
export RUSTC=$dir/bin/rustc CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/darwin RUSTC_BOOTSTRAP=1
export SDKROOT=/ CC_aarch64_apple_darwin=true AR_aarch64_apple_darwin=true
cargo check --locked -Zbuild-std=std,panic_abort --target aarch64-apple-darwin \
    --package bitnet-cli \
    --package palisade-judge --package palisade --package cargo-palisade --package palisade-alloc
