#!/usr/bin/env bash
# Runs the tests of the bitnet libraries under AddressSanitizer and LeakSanitizer, which detect
# out-of-bounds accesses, use after free, and leaks. Blocks of the memory pool above 64 KiB
# are parts of mappings: writes beyond their end are not detected here, but by the tests of
# the pool.
#
#   scripts/test-sanitizers.sh [ARGUMENTS OF CARGO TEST]
#
# Fails if the sanitizers cannot run; skips nothing silently.
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

# The flag is unstable. The standard library is not instrumented.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/sanitizers
# An allocation that is too large returns null, as without the sanitizer.
export ASAN_OPTIONS=allocator_may_return_null=1:detect_stack_use_after_return=1

# First check that the sanitizers detect errors on this machine.
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

# Skips tests of process memory: the sanitizer delays the release of freed memory.
cargo test --locked --target "$host" \
    --package bitnet-core --package bitnet-quant --package bitnet-inference --lib --tests "$@" -- \
    --skip models_that_come_and_go --skip what_is_counted_is --skip the_peak_counts
echo "no mistake was found by AddressSanitizer and LeakSanitizer"
