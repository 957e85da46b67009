#!/usr/bin/env bash
# Builds the model half for ARM64 Linux and runs its tests under user-mode emulation, on
# a processor of each kernel tier. Says SKIPPED, loudly, when the packages it needs
# cannot be had (see cross-toolchain.sh).
#
#   scripts/test-arm64.sh [DIR]     DIR keeps the toolchain between runs
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
# Emulation is slow: kernels run as they are released, with three times fewer instructions.
export CARGO_PROFILE_DEV_DEBUG_ASSERTIONS=false
# One choice of packages for all, or their dependencies would be built in two ways.
tests=(cargo test --locked --target "$target" --no-default-features
    --package bitnet-core --package bitnet-quant --package bitnet-inference
    --lib --test golden --test exactness --test reference)
"${tests[@]}" --no-run

# Runs the tests on a processor that must choose this tier.
run_as() {
    local processor=$1 tier=$2
    shift 2
    export BITNET_EXPECT_KERNEL=aarch64-i2xi8-$tier
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $processor -L /usr/aarch64-linux-gnu"
    printf '\n-- %s must choose %s\n' "$processor" "$tier"
    "${tests[@]}" -- --quiet --exact kernel::tests::the_best_kernel_is_the_expected_one |
        grep ' 1 passed'
    "${tests[@]}" -- --quiet "$@"
}
# Left out everywhere: what follows from the rest, but takes long under emulation (whole
# texts in every precision; cuts, batches and seeds, which choose no other kernel).
everywhere=(--skip model_agrees --skip cutting_a_prompt --skip neighbours_in_a_batch
    --skip a_seed_gives --skip a_screened_head)
# On the best processor alone: what runs the kernels of all tiers side by side.
best_only=(--skip kernels_and_threads --skip the_bits_depend_neither --skip limits_are_positive)

run_as cortex-a53 neon "${everywhere[@]}" "${best_only[@]}"
run_as cortex-a76 dotprod "${everywhere[@]}" "${best_only[@]}"
run_as max i8mm "${everywhere[@]}"
