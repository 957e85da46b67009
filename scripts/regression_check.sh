#!/bin/sh
# Judges the files as they are against where the branch began: `cargo palisade check`, whose
# arguments and exit codes it has. PALISADE names the program where it is not installed.
exec ${PALISADE:-cargo palisade} check "$@"
