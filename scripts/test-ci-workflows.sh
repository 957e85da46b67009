#!/usr/bin/env bash
# Holds what `cargo palisade ci` writes to the published schemas of GitHub and GitLab, and to
# actionlint where it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v check-jsonschema >/dev/null; then
    echo "SKIPPED: check-jsonschema is not installed (pip install check-jsonschema)"
    exit 0
fi
guard=${CARGO_TARGET_DIR:-target}/debug/cargo-palisade
[ -x "$guard" ] || cargo build --quiet --locked --package cargo-palisade
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for memory in "" --postgres; do
    mkdir -p "$folder/.github/workflows"
    "$guard" ci github --shards 4 $memory > "$folder/.github/workflows/palisade.yml"
    "$guard" ci gitlab --shards 4 $memory > "$folder/gitlab.yml"
    check-jsonschema --builtin-schema vendor.github-workflows "$folder/.github/workflows/palisade.yml"
    check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci "$folder/gitlab.yml"
    if command -v actionlint >/dev/null; then
        actionlint "$folder/.github/workflows/palisade.yml"
    fi
done
