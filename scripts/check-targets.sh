#!/usr/bin/env bash
# Type-checks both programs for Windows on x86-64 and macOS on ARM64, with their GPU backends.
# Links and runs nothing: test-windows.sh and test-windows-guard.sh do that for Windows. Prints
# SKIPPED if the packages it needs are not available (see cross-toolchain.sh).
#
#   scripts/check-targets.sh [DIR]     DIR caches the toolchain between runs
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(realpath -m "${1:-target/cross-toolchain}")

if ! scripts/cross-toolchain.sh "$dir" >&2; then
    echo "SKIPPED: the packages for other targets cannot be had; Windows and macOS are NOT checked"
    exit 0
fi

# A stub dlltool: a check does not read import libraries, so it writes empty ones.
mkdir -p "$dir/check"
cat >"$dir/check/x86_64-w64-mingw32-dlltool" <<'EOF'
#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = -l ] && printf '!<arch>\n' >"$2"; shift; done
EOF
chmod +x "$dir/check/x86_64-w64-mingw32-dlltool"

# -Zbuild-std builds the standard library from source and needs RUSTC_BOOTSTRAP. A check does
# not need the object code of C libraries (SQLite), so `true` replaces the C compiler. One call
# for both targets builds macros and build scripts once.
export PATH=$dir/check:$dir/bin:$PATH RUSTC=$dir/bin/rustc RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/check-targets SDKROOT=/
export CC_x86_64_pc_windows_gnu=true AR_x86_64_pc_windows_gnu=true
export CC_aarch64_apple_darwin=true AR_aarch64_apple_darwin=true
cargo check --locked -Zbuild-std=std,panic_abort \
    --target x86_64-pc-windows-gnu --target aarch64-apple-darwin \
    --package bitnet-cli \
    --package palisade-judge --package palisade --package cargo-palisade --package palisade-alloc
