#!/usr/bin/env bash
# Builds the bitnet libraries for WebAssembly without threads and continues the prompts of
# the reference with the built-in model in Node. Prints SKIPPED if Node or the packages it
# needs are not available (see cross-toolchain.sh).
#
#   scripts/test-wasm.sh [DIR]     DIR caches the toolchain between runs
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(realpath -m "${1:-target/cross-toolchain}")
target=wasm32-unknown-unknown

if ! command -v node >/dev/null || ! scripts/cross-toolchain.sh "$dir" >&2; then
    echo "SKIPPED: Node or the packages for WebAssembly cannot be had; NOTHING of it is tested"
    exit 0
fi

export RUSTC=$dir/bin/rustc CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/wasm32
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$dir/bin/wasm-ld
export RUSTFLAGS='-Ctarget-feature=+simd128 --cfg getrandom_backend="custom"'
# Without LTO, the rlibs have object files whose imports can be read.
export CARGO_PROFILE_RELEASE_LTO=off
# -Zbuild-std builds the standard library from source and needs RUSTC_BOOTSTRAP.
RUSTC_BOOTSTRAP=1 cargo build --release --locked -Zbuild-std=std,panic_abort \
    --target "$target" --package bitnet-inference --example wasm
scripts/check-imports.sh "$CARGO_TARGET_DIR/$target/release/deps" "$dir/bin/llvm-nm"
node crates/bitnet-inference/examples/wasm.mjs \
    "$CARGO_TARGET_DIR/$target/release/examples/wasm.wasm" models/storyteller/reference.json \
    crates/bitnet-inference/tests/exactness.rs
