#!/usr/bin/env bash
# Runs the tests of the guard as Windows programs under Wine: unit tests, the store on SQLite,
# and operating system interfaces (killing process trees, peak memory, locked programs, line
# endings, paths). git for Windows is compiled from Debian's sources, once per DIR. There is
# no cargo or rustc for Windows here, so tests that build something cannot run: they are
# listed in docs/palisade-windows.md. Prints SKIPPED if the packages it needs are not
# available (see cross-toolchain.sh).
#
#   scripts/test-windows-guard.sh [DIR]     DIR caches the toolchain between runs
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(realpath -m "${1:-target/cross-toolchain}")

if ! scripts/cross-toolchain.sh "$dir" windows >&2; then
    echo "SKIPPED: the packages for Windows cannot be had; the guard is NOT run as on Windows"
    exit 0
fi

# Only the git command: no network, no Perl, no translations.
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
    # File names are case-insensitive on Windows; MinGW's headers have lowercase names.
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
    # Missing if a step failed.
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
# Most of the time is spent in the build; these tests compute little.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0

# A server that ends between two programs can refuse the next one.
mkdir -p "$WINEPREFIX"
wineserver --persistent || true # one may be running
# The DLL that Wine 8 lacks, in a folder that every program searches.
wineboot --init >/dev/null 2>&1
cp "$dir/windows/bcryptprimitives.dll" "$WINEPREFIX/drive_c/windows/system32/"
trap 'wineserver --kill || true' EXIT

# It runs cargo, which does not exist there.
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
        --package palisade --package palisade-judge --package palisade-alloc "${@:2}"
}
# The programs that the tests start.
run build --examples
run test --lib --test processes --test store --test file -- "${skip[@]}"
