#!/usr/bin/env bash
# Unpacks a compiler for ARM64 Linux, WebAssembly, macOS and Windows into DIR: DIR/bin has rustc,
# wasm-ld and llvm-nm. Does nothing if that is already done. Needs Debian or Ubuntu on x86-64
# and, for the C toolchains and emulators, root. Fails if packages are not available.
#
#   scripts/cross-toolchain.sh DIR [windows]     DIR is absolute
#
# `windows` also installs what is needed to link Windows programs (MinGW's gcc,
# DIR/windows/lib) and to run them (Wine, DIR/windows/bcryptprimitives.dll).
#
# Not needed if rustup can add targets. The compiler is that of the distribution, unpacked
# without installing it, since its packages conflict with rustup. It includes the standard
# library for ARM64, and the source of the standard library for other targets.
set -euo pipefail
dir=$1 also=${2:-}

# Package lists of its own: the system's may be missing or outdated.
apt=(-q -oAPT::Architecture=amd64 -oAPT::Architectures::=amd64 -oAPT::Architectures::=arm64
    -oDir::State::Lists="$dir/lists" -oAPT::Sandbox::User=root)

update_lists() {
    rm -rf "$dir/lists"
    mkdir -p "$dir/lists/partial"
    apt-get "${apt[@]}" update
}

install() {
    dpkg --status "$@" >/dev/null 2>&1 ||
        apt-get "${apt[@]}" install -y --no-install-recommends --no-upgrade "$@"
}

# Writes a wrapper NAME in DIR/bin for a program that needs the unpacked libraries.
tool() {
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' \
        "$dir/sysroot/usr/lib/x86_64-linux-gnu" "$2" >"$dir/bin/$1"
    chmod +x "$dir/bin/$1"
}

compiler() {
    rm -rf "$dir"/{bin,complete,debs,sysroot,windows}
    mkdir -p "$dir"/{bin,debs}
    update_lists
    install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static libedit2 libxml2 libz3-4

    local version minor llvm deb
    version=$(apt-cache "${apt[@]}" policy rustc-web | sed -n 's/ *Candidate: //p')
    minor=$(cut -d. -f1,2 <<<"$version")
    llvm=$(apt-cache "${apt[@]}" depends "libstd-rust-web-$minor" |
        sed -n 's/ *Depends: libllvm\([0-9]*\)$/\1/p' | head -1)
    (cd "$dir/debs" && apt-get "${apt[@]}" download "rustc-web=$version" "rust-web-src=$version" \
        "libstd-rust-web-$minor=$version" "libstd-rust-web-dev=$version" \
        "libstd-rust-web-dev:arm64=$version" "libllvm$llvm" "lld-$llvm" "llvm-$llvm")
    for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$dir/sysroot"; done

    tool rustc "$dir/sysroot/usr/bin/rustc --sysroot $dir/sysroot/usr"
    tool wasm-ld "$dir/sysroot/usr/lib/llvm-$llvm/bin/wasm-ld"
    tool llvm-nm "$dir/sysroot/usr/lib/llvm-$llvm/bin/llvm-nm"
    rm -rf "$dir/debs" "$dir/lists"
    touch "$dir/complete"
}

windows() {
    update_lists
    install gcc-mingw-w64-x86-64 wine wine64
    rm -rf "$dir/lists" "$dir/windows"
    mkdir -p "$dir/windows/lib"

    # Startup objects, which Rust toolchains for Windows include.
    local sources object
    sources=$(echo "$dir"/sysroot/usr/src/rustc-*/library/rtstartup)
    for object in rsbegin rsend; do
        RUSTC_BOOTSTRAP=1 "$dir/bin/rustc" --target x86_64-pc-windows-gnu --crate-type=lib \
            --emit=obj -o "$dir/windows/lib/$object.o" "$sources/$object.rs"
    done
    # The standard library gets random bytes from a DLL that Wine has only since 9.0. The
    # loader searches the folder of the program first, so copies are placed there.
    cat >"$dir/windows/bcryptprimitives.c" <<'END'
#include <windows.h>
BOOLEAN WINAPI SystemFunction036(PVOID buffer, ULONG length);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T length) {
    return SystemFunction036(buffer, (ULONG)length);
}
END
    x86_64-w64-mingw32-gcc -O2 -shared -o "$dir/windows/bcryptprimitives.dll" \
        "$dir/windows/bcryptprimitives.c" -ladvapi32
    touch "$dir/windows/complete"
}

if [ ! -e "$dir/complete" ] || [ ! -x "$dir/bin/llvm-nm" ]; then compiler; fi
if [ "$also" = windows ] && [ ! -e "$dir/windows/complete" ]; then windows; fi
