#!/usr/bin/env bash
# Unpacks into DIR a compiler for ARM64 Linux, WebAssembly, macOS and Windows: DIR/bin has rustc and
# wasm-ld. Does nothing where that was done before. Needs Debian or Ubuntu on x86-64 and,
# for the C toolchain and the emulator, root. Fails if packages cannot be had.
#
#   scripts/cross-toolchain.sh DIR     DIR is absolute
#
# Where rustup can add targets, nobody needs this. The compiler is the distribution's,
# unpacked privately: its packages conflict with rustup. It brings the standard library
# for ARM64, and the sources of the one for other targets.
set -euo pipefail
dir=$1
[ ! -e "$dir/complete" ] || exit 0

rm -rf "$dir"/{bin,debs,lists,sysroot}
mkdir -p "$dir"/{bin,debs,lists/partial}
# The system's own lists may be missing, or too old to download from.
apt=(-q -oAPT::Architecture=amd64 -oAPT::Architectures::=amd64 -oAPT::Architectures::=arm64
    -oDir::State::Lists="$dir/lists" -oAPT::Sandbox::User=root)
apt-get "${apt[@]}" update
needed=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static libedit2 libxml2 libz3-4)
dpkg --status "${needed[@]}" >/dev/null 2>&1 ||
    apt-get "${apt[@]}" install -y --no-install-recommends --no-upgrade "${needed[@]}"

version=$(apt-cache "${apt[@]}" policy rustc-web | sed -n 's/ *Candidate: //p')
minor=$(cut -d. -f1,2 <<<"$version")
llvm=$(apt-cache "${apt[@]}" depends "libstd-rust-web-$minor" |
    sed -n 's/ *Depends: libllvm\([0-9]*\)$/\1/p' | head -1)
(cd "$dir/debs" && apt-get "${apt[@]}" download "rustc-web=$version" "rust-web-src=$version" \
    "libstd-rust-web-$minor=$version" "libstd-rust-web-dev=$version" \
    "libstd-rust-web-dev:arm64=$version" "libllvm$llvm" "lld-$llvm")
for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$dir/sysroot"; done

tool() {
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' \
        "$dir/sysroot/usr/lib/x86_64-linux-gnu" "$2" >"$dir/bin/$1"
    chmod +x "$dir/bin/$1"
}
tool rustc "$dir/sysroot/usr/bin/rustc --sysroot $dir/sysroot/usr"
tool wasm-ld "$dir/sysroot/usr/lib/llvm-$llvm/bin/wasm-ld"
rm -rf "$dir/debs" "$dir/lists"
touch "$dir/complete"
