#!/bin/sh
# Compares two logs of `cargo test --no-fail-fast > LOG`, or two JUnit reports:
#   scripts/compare_test_results.sh BASE.log CURRENT.log
# Exit codes: 0 pass, 1 regression, 2 usage, 3 incomplete log.
[ $# -eq 2 ] || { echo "usage: $0 BASE.log CURRENT.log" >&2; exit 2; }
exec "$(dirname "$0")/palisade" import "$2" --base "$1"
