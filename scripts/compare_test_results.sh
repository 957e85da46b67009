#!/bin/sh
# Compares two logs of `cargo test --no-fail-fast > LOG 2>&1`, or two JUnit reports:
#   scripts/compare_test_results.sh BASE.log CURRENT.log
# Ends with 0 pass, 1 regression, 2 usage, 3 a log that is not whole.
# PALISADE names the program where it is not installed.
[ $# -eq 2 ] || { echo "usage: $0 BASE.log CURRENT.log" >&2; exit 2; }
exec ${PALISADE:-cargo palisade} import "$2" --base "$1"
