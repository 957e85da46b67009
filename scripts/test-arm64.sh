#!/usr/bin/env bash
# Builds the bitnet libraries for ARM64 Linux and runs their tests under user-mode emulation,
# on one CPU model per kernel tier. Prints SKIPPED if the packages it needs are not available
# (see cross-toolchain.sh).
#
#   scripts/test-arm64.sh [DIR]     DIR caches the toolchain between runs
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(realpath -m "${1:-target/cross-toolchain}")
target=aarch64-unknown-linux-gnu

if ! scripts/cross-toolchain.sh "$dir" >&2; then
    echo "SKIPPED: the packages for ARM64 cannot be had; NO kernel of it is tested"
    exit 0
fi

export RUSTC=$dir/bin/rustc CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/arm64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CARGO_PROFILE_DEV_DEBUG=0
# Emulation is slow: without debug assertions, kernels need a third of the instructions.
export CARGO_PROFILE_DEV_DEBUG_ASSERTIONS=false
# The same packages in each call: otherwise features differ and dependencies are rebuilt.
tests=(cargo test --locked --target "$target" --no-default-features
    --package bitnet-core --package bitnet-quant --package bitnet-inference)
"${tests[@]}" --lib --test golden --test exactness --test receipts --test reference --no-run
scripts/check-imports.sh "$CARGO_TARGET_DIR/$target/debug/deps" "$dir/bin/llvm-nm"

# Runs tests by their full names; all must exist and pass.
named() {
    local of=$1 passed
    shift
    passed=$("${tests[@]}" $of -- --quiet --exact "$@" | tee >(cat >&2) |
        awk '/^test result/ { n += $4 } END { print n }')
    [ "$passed" = $# ]
}

# Runs the tests on a CPU model that must select this tier. More arguments name additional
# engine tests; most are slow under emulation and select no other kernel.
run_as() {
    local processor=$1 tier=$2
    shift 2
    export BITNET_EXPECT_KERNEL=aarch64-i2xi8-$tier
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $processor -L /usr/aarch64-linux-gnu"
    printf '\n-- %s must choose %s\n' "$processor" "$tier"
    named --lib isa::tests::the_best_kernel_is_the_expected_one
    # The long simulation computes nothing, and would take minutes under emulation.
    "${tests[@]}" --lib --test golden -- --quiet --skip a_hundred_thousand_lifecycles \
        "${skipped[@]}"
    named "--test exactness --test receipts --test reference" logits_are_those_of_the_golden_record \
        greedy_text_of_a_sure_prompt_is_the_same "$@"
}

# These run the kernels of all tiers, or compute much and select no kernel: once is enough, on
# the CPU that has all tiers.
skipped=(--skip the_bits_depend_neither --skip limits_are_positive
    --skip page_store:: --skip memory_estimate:: --skip scheduler::)
run_as cortex-a53 neon
run_as cortex-a76 dotprod
skipped=()
run_as max i8mm kernels_and_threads_do_not_matter the_committed_receipt_holds
