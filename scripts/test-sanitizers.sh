#!/usr/bin/env bash
# Runs the tests of the model half under AddressSanitizer and LeakSanitizer: reads and
# writes beyond what was allocated, uses of what was freed, memory that nobody can free
# any more. Blocks of the memory pool beyond 64 KiB are parts of mappings, so one that is
# written beyond its end is not noticed here, but by the pool's own tests.
#
#   scripts/test-sanitizers.sh [ARGUMENTS OF CARGO TEST]
#
# Ends with an error where the sanitizers cannot run: nothing is skipped silently.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "FAILED: $*; NOTHING was tested" >&2
    exit 1
}

host=$(rustc -vV | sed -n 's/^host: //p')
lib=$(rustc --print sysroot)/lib/rustlib/$host/lib
compgen -G "$lib/librustc-*_rt.asan.a" >/dev/null ||
    fail "Rust for $host comes without AddressSanitizer (no librustc-*_rt.asan.a in $lib)"

# The flag is not stable; the standard library stays as it is distributed.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/sanitizers
# An allocation that is too large is an error, as it is without the sanitizer.
export ASAN_OPTIONS=allocator_may_return_null=1:detect_stack_use_after_return=1

# First of all, whether mistakes are found here.
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
must_find() {
    local what=$1
    cat >"$dir/mistake.rs"
    rustc $RUSTFLAGS --edition 2024 -o "$dir/mistake" "$dir/mistake.rs"
    if "$dir/mistake" 2>"$dir/found" || ! grep -q "$what" "$dir/found"; then
        cat "$dir/found" >&2
        fail "a program with '$what' was not found out"
    fi
}
must_find heap-use-after-free <<'END'
fn main() {
    let x = std::hint::black_box(Box::into_raw(Box::new(7)));
    unsafe { drop(Box::from_raw(x)) };
    std::process::exit(unsafe { *x } & 0);
}
END
must_find "detected memory leaks" <<'END'
fn main() {
    std::hint::black_box((leak(), hide(9)));
}
#[inline(never)]
fn leak() -> usize {
    Box::into_raw(Box::new([7u64; 9])).addr() & 1
}
// Overwrites what the other function left on the stack.
#[inline(never)]
fn hide(n: u64) -> u64 {
    std::hint::black_box([n; 512])[7]
}
END

# What the system sees of a process is no measure here: the sanitizer keeps what is freed.
cargo test --locked --target "$host" \
    --package bitnet-core --package bitnet-quant --package bitnet-inference --lib --tests "$@" -- \
    --skip models_that_come_and_go --skip what_is_counted_is --skip the_peak_counts
echo "no mistake was found by AddressSanitizer and LeakSanitizer"
