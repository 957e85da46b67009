#!/usr/bin/env bash
# Builds the model half for ARM64 Linux and runs its tests under user-mode emulation,
# once for each kernel tier. Needs Debian or Ubuntu on x86-64, and root to install
# packages. Says SKIPPED, loudly, when the packages cannot be had.
#
#   scripts/test-arm64.sh [DIR]     DIR keeps the toolchain between runs
#
# The compiler is the distribution's, unpacked privately: its packages conflict with
# rustup, and it has the standard library for ARM64.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(realpath -m "${1:-target/arm64-toolchain}")
target=aarch64-unknown-linux-gnu

setup() {
    mkdir -p "$dir"/{debs,lists/partial,bin}
    apt-get install -y -q --no-install-recommends \
        gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static libedit2 libxml2 libz3-4
    local apt=(-q -oAPT::Architecture=amd64 -oAPT::Architectures::=amd64 -oAPT::Architectures::=arm64
        -oDir::State::Lists="$dir/lists")
    apt-get "${apt[@]}" update
    local version minor llvm
    version=$(apt-cache "${apt[@]}" policy rustc-web | sed -n 's/ *Candidate: //p')
    minor=$(cut -d. -f1,2 <<<"$version")
    llvm=$(apt-cache "${apt[@]}" depends "libstd-rust-web-$minor" |
        sed -n 's/ *Depends: \(libllvm[0-9]*\)$/\1/p' | head -1)
    (cd "$dir/debs" && apt-get "${apt[@]}" download "rustc-web=$version" \
        "libstd-rust-web-$minor=$version" "libstd-rust-web-dev=$version" \
        "libstd-rust-web-dev:arm64=$version" "$llvm")
    for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$dir/sysroot"; done
    for tool in rustc rustdoc; do
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s --sysroot %s "$@"\n' \
            "$dir/sysroot/usr/lib/x86_64-linux-gnu" "$dir/sysroot/usr/bin/$tool" \
            "$dir/sysroot/usr" >"$dir/bin/$tool"
        chmod +x "$dir/bin/$tool"
    done
    touch "$dir/complete"
}

if [ ! -e "$dir/complete" ] && ! (setup) >&2; then
    echo "SKIPPED: the ARM64 tests did not run, because their packages cannot be had" >&2
    exit 0
fi

export RUSTC=$dir/bin/rustc RUSTDOC=$dir/bin/rustdoc CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/arm64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
run_as() {
    export BITNET_EXPECT_KERNEL=aarch64-i2xi8-$2
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $1 -L /usr/aarch64-linux-gnu"
    echo "== $BITNET_EXPECT_KERNEL on $1"
    cargo test --target "$target" -p bitnet-core --lib
    cargo test --target "$target" -p bitnet-quant --lib --tests
    cargo test --target "$target" -p bitnet-inference --test exactness --test reference
}
run_as cortex-a53 neon
run_as cortex-a76 dotprod
run_as max i8mm
