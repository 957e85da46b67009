#!/usr/bin/env bash
# Fails if a crate that computes calls math functions of the system's C library: the results
# of `fmaf`, `exp`, `round` and others depend on the library.
#
#   scripts/check-imports.sh DEPS [NM]     DEPS is a build's folder of rlibs, e.g.
#                                          target/debug/deps; NM is the nm to use
#
# Compilers lower some methods of f32 to such calls if there is no instruction, so this
# checks the imports of the object files. Allowed are functions with exact results (`fmax`,
# `fmin`, `fmod`, `remainder`), and those that Rust provides (`memcpy`, `__floattidf`, ...).
set -euo pipefail
deps=$1 nm=${2:-nm}

functions='acos|acosh|asin|asinh|atan|atan2|atanh|cbrt|ceil|copysign|cos|cosh|cospi|erf|erfc'
functions+='|exp|exp10|exp2|expm1|fdim|floor|fma|frexp|hypot|ilogb|ldexp|lgamma|llrint'
functions+='|llround|log|log10|log1p|log2|logb|lrint|lround|modf|nearbyint|nextafter|pow|powi'
functions+='|rint|round|roundeven|scalbn|scalbln|sin|sincos|sincospi|sinh'
functions+='|sinpi|sqrt|tan|tanh|tanpi|tgamma|trunc'
# Symbols on macOS have a leading underscore; `__sincosf_stret` also exists there.
pattern="^_*($functions)(f|l|_r|f_r|_finite|f_finite|_stret|f_stret)?\$"

failed=
for crate in bitnet_core bitnet_quant bitnet_inference half libm; do
    # The newest; others are from earlier builds.
    rlib=$(ls -t "$deps/lib$crate"-*.rlib 2>/dev/null | head -1)
    if [ -z "$rlib" ]; then
        echo "there is no rlib of $crate in $deps" >&2
        exit 1
    fi
    # Ignores members that are not object files, but there must be one with functions.
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
