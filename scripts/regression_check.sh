#!/bin/sh
# Checks the working tree against the base of the branch: `cargo palisade check`, with the same
# arguments and exit codes. PALISADE is the path of the program if it is not installed.
exec ${PALISADE:-cargo palisade} check "$@"
