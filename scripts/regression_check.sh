#!/bin/sh
# Checks the working tree against the base of the branch: `cargo palisade check`, with the same
# arguments and exit codes. Works in a fresh clone: see scripts/palisade.
exec "$(dirname "$0")/palisade" check "$@"
