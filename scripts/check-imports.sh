#!/usr/bin/env bash
# Fails if a crate that computes calls mathematics of the system's C library: `fmaf`, `exp`,
# `round` and so on differ from one library to the next, and so would results.
#
#   scripts/check-imports.sh DEPS [NM]     DEPS is a build's folder of rlibs, such as
#                                          target/debug/deps; NM reads its object files
#
# Compilers turn some methods of f32 into such calls where there is no instruction, so
# this looks at what the object files import. Not meant are functions whose result is
# never rounded, and so the same everywhere: `fmax` and `fmin`, `fmod` and `remainder`; and
# what Rust brings itself (`memcpy`, `__floattidf`, ...).
set -euo pipefail
deps=$1 nm=${2:-nm}

functions='acos|acosh|asin|asinh|atan|atan2|atanh|cbrt|ceil|copysign|cos|cosh|cospi|erf|erfc'
functions+='|exp|exp10|exp2|expm1|fdim|floor|fma|frexp|hypot|ilogb|ldexp|lgamma|llrint'
functions+='|llround|log|log10|log1p|log2|logb|lrint|lround|modf|nearbyint|nextafter|pow|powi'
functions+='|rint|round|roundeven|scalbn|scalbln|sin|sincos|sincospi|sinh'
functions+='|sinpi|sqrt|tan|tanh|tanpi|tgamma|trunc'
# Apple's linkers put an underscore before each name, and `__sincosf_stret` is one more.
pattern="^_*($functions)(f|l|_r|f_r|_finite|f_finite|_stret|f_stret)?\$"

failed=
for crate in bitnet_core bitnet_quant bitnet_inference half libm; do
    # The newest, if there are several: the others are of earlier builds.
    rlib=$(ls -t "$deps/lib$crate"-*.rlib 2>/dev/null | head -1)
    if [ -z "$rlib" ]; then
        echo "there is no rlib of $crate in $deps" >&2
        exit 1
    fi
    # What is no object file in it is passed over, but something must be one.
    symbols=$("$nm" "$rlib" 2>/dev/null | awk 'NF == 3 || $1 == "U" { print $(NF - 1), $NF }')
    if ! grep -q '^[Tt] ' <<<"$symbols"; then
        echo "$nm finds no functions in $rlib" >&2
        exit 1
    fi
    if found=$(sed -n 's/^U //p' <<<"$symbols" | grep -E "$pattern" | sort -u); then
        echo "$crate calls the C library: $(tr '\n' ' ' <<<"$found")" >&2
        failed=1
    fi
done
[ -z "$failed" ]
