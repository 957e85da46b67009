#!/usr/bin/env bash
# Builds the bitnet crates for Windows on x86-64, runs their tests under Wine and compares the
# output of the program with that of the native build, which must be in target/debug. Prints
# SKIPPED if the packages it needs are not available (see cross-toolchain.sh).
#
#   scripts/test-windows.sh [DIR]     DIR caches the toolchain between runs
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(realpath -m "${1:-target/cross-toolchain}")
target=x86_64-pc-windows-gnu
here=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug/bitnet

if ! scripts/cross-toolchain.sh "$dir" windows >&2; then
    echo "SKIPPED: the packages for Windows or Wine cannot be had; NOTHING of it is tested"
    exit 0
fi

export PATH=$dir/bin:$PATH RUSTC=$dir/bin/rustc CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/windows
export RUSTFLAGS="-L native=$dir/windows/lib" CARGO_PROFILE_DEV_DEBUG=0
export CC_x86_64_pc_windows_gnu=x86_64-w64-mingw32-gcc AR_x86_64_pc_windows_gnu=x86_64-w64-mingw32-ar
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
# A separate Wine prefix, without the .NET and HTML components that Wine offers to install.
export WINEDEBUG=-all WINEPREFIX=$dir/windows/wine WINEDLLOVERRIDES=mscoree,mshtml=
# Wine would use the drivers of this system; GPUs are tested natively.
export VK_ICD_FILENAMES=no-driver.json
# A server that ends between two programs can refuse the next one.
mkdir -p "$WINEPREFIX"
wineserver --persistent || true # one may be running
trap 'wineserver --kill || true' EXIT

# -Zbuild-std builds the standard library from source and needs RUSTC_BOOTSTRAP.
cargo() { RUSTC_BOOTSTRAP=1 command cargo "$@"; }
# The same packages in each call: otherwise features differ and dependencies are rebuilt.
tests=(test --locked -Zbuild-std=std,panic_unwind,test --target "$target"
    --package bitnet-core --package bitnet-quant --package bitnet-inference --package bitnet-cli)
cargo "${tests[@]}" --lib --bins --test golden --test exactness --test reference \
    --test hostile --test cli --no-run
built=$CARGO_TARGET_DIR/$target/debug
cp "$dir/windows/bcryptprimitives.dll" "$built"
cp "$dir/windows/bcryptprimitives.dll" "$built/deps"

printf '\n-- what the crates import\n'
scripts/check-imports.sh "$built/deps" llvm-nm

printf '\n-- tests\n'
cargo "${tests[@]}" --lib --bins --test golden --test reference --test hostile --test cli -- --quiet
# The same instructions as here, in the calling convention of Windows: the others would find
# nothing more, and take two minutes.
cargo "${tests[@]}" --test exactness -- --quiet --exact logits_are_those_of_the_golden_record \
    kernels_and_threads_do_not_matter weights_that_are_skipped_do_not_matter \
    a_seed_gives_the_same_text_with_every_kernel_and_any_number_of_threads |
    tee >(cat >&2) | grep "^test result: ok. 4 passed" >/dev/null

printf '\n-- the same bytes as here\n'
work=$(mktemp -d)
trap 'rm -rf "$work"; wineserver --kill || true' EXIT
exe=$(realpath "$built/bitnet.exe")
cd "$work"
there() { wine "$exe" "$@" 2>/dev/null; }

# Runs a command natively and under Wine; exit code and output must be equal.
same() {
    local expected found expected_code=0 found_code=0
    "$here" "$@" >"$work/expected" 2>/dev/null <"${input:-/dev/null}" || expected_code=$?
    there "$@" >"$work/found" <"${input:-/dev/null}" || found_code=$?
    if [ "$expected_code" != "$found_code" ] || ! cmp "$work/expected" "$work/found"; then
        echo "bitnet $*: exit code $found_code instead of $expected_code, or other bytes" >&2
        exit 1
    fi
}
prompt="Once upon a time there was a"
same run --temp 0 -n 40 "$prompt"
same run --seed 7 -n 40 "$prompt"
for kernel in scalar avx2; do same logits --json --kernel "$kernel" --tokens 1,2,3; done
same tokenize --json "Zwölf Boxkämpfer, 日本語 🦀"
same inspect --json --tensors
printf 'a tale\r\nof two lines\r\n' >crlf.txt
same run --temp 0 -n 20 -f crlf.txt
same run -m no.gguf x
printf 'Once upon a time\r\n/exit\r\n' >chat.txt
input=chat.txt same chat --temp 0 -n 12 \
    --chat-template '{{ bos_token }}{{ messages[-1].content }}'

for to in gguf-i2_s gguf-tq1_0 gguf-tq2_0; do
    "$here" convert -q builtin "$to.here" --to "$to" >/dev/null
    there convert -q builtin "$to.there" --to "$to" >/dev/null
    cmp "$to.here" "$to.there"
done

# Runs a command that must fail with this exit code and message.
refused() {
    local code=$1 text=$2 found=0
    shift 2
    wine "$exe" -q "$@" >/dev/null 2>"$work/said" </dev/null || found=$?
    if [ "$found" != "$code" ] || ! grep -q "^error: .*$text" "$work/said"; then
        echo "bitnet $*: exit code $found instead of $code, or another error:" >&2
        cat "$work/said" >&2
        exit 1
    fi
}
# Wine maps the host's folders; /proc is not writable.
refused 1 "cannot write into" convert builtin 'Z:\proc\out.gguf'

printf '\n-- Ctrl-C\n'
# Wine turns the signal into Ctrl-C.
interrupted() {
    kill -INT "$1"
    local code=0
    wait "$1" || code=$?
    if [ "$code" != 130 ]; then
        echo "bitnet, interrupted: exit code $code instead of 130" >&2
        exit 1
    fi
}
until_written() { for _ in {1..600}; do [ -s "$1" ] && return; sleep 0.1; done; }

wine "$exe" run -q --seed 1 --temp 1 -n 100000 -c 1024 "$prompt" >story 2>/dev/null &
until_written story
interrupted $!
[[ $(head -c ${#prompt} story) = "$prompt" && -z $(tail -c 1 story) ]]

mkdir unfinished
wine "$exe" convert -q builtin unfinished/out.gguf --head q6_k >/dev/null 2>said &
for _ in {1..600}; do [ -n "$(ls -A unfinished)" ] && break; sleep 0.01; done
interrupted $!
grep -q "interrupted; nothing was written" said
[ -z "$(ls -A unfinished)" ]

mkfifo lines
wine "$exe" chat -q --seed 1 --temp 1 -n 100000 -c 1024 --on-full stop \
    --chat-template '{{ bos_token }}{{ messages[-1].content }}' <lines >answer 2>/dev/null &
exec 3>lines
echo "$prompt" >&3
until_written answer
kill -INT $!
echo /exit >&3
wait $!
echo "all the same"
