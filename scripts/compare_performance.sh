#!/bin/sh
# Compares the speed of two revisions, measured alternately on this machine, or of two result
# files (logs of cargo bench or hyperfine, JSON of hyperfine or Bencher, folders of Criterion):
#   scripts/compare_performance.sh BASE CURRENT
# Exit codes: 0 pass, 1 regression, 2 usage, 3 not measured, 4 undecided.
[ $# -eq 2 ] || { echo "usage: $0 BASE CURRENT" >&2; exit 2; }
if [ -e "$1" ] && [ -e "$2" ]; then
    exec "$(dirname "$0")/palisade" import "$2" --base "$1"
fi
exec "$(dirname "$0")/palisade" compare "$1" "$2"
