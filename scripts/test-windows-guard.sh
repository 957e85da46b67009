#!/usr/bin/env bash
# Runs the guard's own tests as programs for Windows, in Wine: unit tests, the store on
# SQLite, and what it asks of the operating system (processes that are ended with their
# children, peak memory, locked programs, line ends, paths). git for Windows is compiled
# from Debian's sources, once for each DIR. There is no cargo or rustc for Windows here, so
# no test that builds something can run: docs/palisade-windows.md says which. Says SKIPPED, loudly,
# when the packages that it needs cannot be had (see cross-toolchain.sh).
#
#   scripts/test-windows-guard.sh [DIR]     DIR keeps the toolchain between runs
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(realpath -m "${1:-target/cross-toolchain}")

if ! scripts/cross-toolchain.sh "$dir" windows >&2; then
    echo "SKIPPED: the packages for Windows cannot be had; the guard is NOT run as on Windows"
    exit 0
fi

# Only the command itself: no network, no Perl, no translations.
git_for_windows() {
    local lists=$dir/git/lists apt
    rm -rf "$dir/git"
    mkdir -p "$lists/partial" "$dir/git/parts" "$dir/git/bin"
    sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources \
        >"$dir/git/parts/sources.sources"
    apt=(-q -oDir::State::Lists="$lists" -oDir::Etc::SourceList=/dev/null
        -oDir::Etc::SourceParts="$dir/git/parts" -oAPT::Sandbox::User=root)
    apt-get "${apt[@]}" update
    dpkg --status libz-mingw-w64-dev >/dev/null 2>&1 ||
        apt-get -q install -y --no-install-recommends --no-upgrade libz-mingw-w64-dev
    (cd "$dir/git" && apt-get "${apt[@]}" source --download-only --only-source git &&
        tar -xf git_*.orig.tar.xz && mv git-*/ source)
    # Windows does not tell the case of names apart; its own headers are in small letters here.
    local header
    for header in NTSecAPI Psapi tlHelp32; do
        echo "#include <${header,,}.h>" >"$dir/git/source/compat/win32/$header.h"
    done
    make --silent --jobs "$(nproc)" --directory "$dir/git/source" \
        CC=x86_64-w64-mingw32-gcc AR=x86_64-w64-mingw32-ar \
        RC="x86_64-w64-mingw32-windres -O coff" LDFLAGS=-static \
        uname_S=MINGW uname_R=3.4 uname_M=x86_64 uname_O=Msys uname_P=x86_64 \
        MSYSTEM=MINGW64 HOST_CPU=x86_64 CFLAGS="-O0 -w" prefix=/git \
        NO_CURL=1 NO_EXPAT=1 NO_GETTEXT=1 NO_ICONV=1 NO_OPENSSL=1 NO_PERL=1 NO_PYTHON=1 \
        NO_REGEX=1 NO_TCLTK=1 BLK_SHA256=1 HAVE_LIBCHARSET_H='' USE_LIBPCRE='' USE_NED_ALLOCATOR='' \
        FSMONITOR_DAEMON_BACKEND='' FSMONITOR_OS_SETTINGS='' git.exe
    # Where a step failed, it is not there.
    cp "$dir/git/source/git.exe" "$dir/git/bin" || return 1
    rm -rf "$dir/git/"{lists,parts,source} "$dir"/git/git_*
    touch "$dir/git/complete"
}

has_git=true
[ -e "$dir/git/complete" ] || git_for_windows >&2 || has_git=false

export WINEDEBUG=-all WINEPREFIX=$dir/windows/guard-prefix
export PATH=$dir/bin:$PATH RUSTC=$dir/bin/rustc RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/windows
export RUSTFLAGS="-L native=$dir/windows/lib"
export CC_x86_64_pc_windows_gnu=x86_64-w64-mingw32-gcc
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
# Most of the time goes into the build; these tests compute little.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0

# Every program finds the DLL there that Wine 8 lacks.
wineboot --init >/dev/null 2>&1
cp "$dir/windows/bcryptprimitives.dll" "$WINEPREFIX/drive_c/windows/system32/"
trap 'wineserver --kill || true' EXIT

# It asks cargo, which is not there.
skip=(--skip workspace::tests::a_real_workspace_is_read)
if $has_git; then
    WINEPATH=$(winepath --windows "$dir/git/bin")
    export WINEPATH
else
    echo "SKIPPED: git for Windows cannot be made here; its tests are NOT run"
    skip+=(--skip git::tests)
fi

run() {
    cargo "$1" --locked -Zbuild-std=std,panic_unwind,test --target x86_64-pc-windows-gnu \
        --package palisade --package palisade-alloc "${@:2}"
}
# The programs that the tests start.
run build --examples
run test --lib --test processes --test store --test file -- "${skip[@]}"
