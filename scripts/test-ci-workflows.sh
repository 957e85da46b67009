#!/usr/bin/env bash
# Holds what `cargo palisade ci` writes to the published schemas of GitHub and GitLab, which
# check-jsonschema brings along, and to actionlint where it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if ! command -v check-jsonschema >/dev/null; then
    if ! { python3 -m venv "$folder/venv" &&
        "$folder/venv/bin/pip" install --quiet check-jsonschema; } >&2; then
        echo "SKIPPED: check-jsonschema cannot be had; NO workflow is checked"
        exit 0
    fi
    PATH=$folder/venv/bin:$PATH
fi
guard=${CARGO_TARGET_DIR:-target}/debug/cargo-palisade
[ -x "$guard" ] || cargo build --quiet --locked --package cargo-palisade
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
