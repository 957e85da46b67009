#!/bin/sh
# Compares two logs of `cargo test --no-fail-fast > LOG 2>&1`, or two JUnit reports:
#   scripts/compare_test_results.sh BASE.log CURRENT.log
# Exit codes: 0 pass, 1 regression, 2 usage, 3 incomplete log.
# PALISADE is the path of the program if it is not installed.
[ $# -eq 2 ] || { echo "usage: $0 BASE.log CURRENT.log" >&2; exit 2; }
exec ${PALISADE:-cargo palisade} import "$2" --base "$1"
