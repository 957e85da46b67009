#!/usr/bin/env bash
# Tests that crates/bitnet-server/src/openapi.json is true: schemathesis makes requests from
# it, valid and not, and checks each answer of a server of the built-in model. Prints SKIPPED
# if schemathesis cannot be installed.
#
#   scripts/test-openapi.sh [SECONDS]     SECONDS is how long to look, 120 by default
#
# BITNET_BIN names the program, by default target/debug/bitnet.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-120}
bin=${BITNET_BIN:-target/debug/bitnet}
document=crates/bitnet-server/src/openapi.json

dir=$(mktemp -d)
server=
cleanup() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if ! { python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet schemathesis; }; then
    echo "SKIPPED: schemathesis cannot be installed; the document of the API is NOT tested"
    exit 0
fi

export BITNET_KEY=key-of-this-test
echo "$BITNET_KEY" >"$dir/keys"
: >"$dir/out"
"$bin" serve --port 0 --api-key-file "$dir/keys" --log-format none >"$dir/out" 2>"$dir/err" &
server=$!
for ((i = 0; i < 600; i++)); do
    BITNET_URL=$(sed -n 's/^listening on //p' "$dir/out")
    if [ -n "$BITNET_URL" ] || ! kill -0 "$server" 2>/dev/null; then
        break
    fi
    sleep 0.1
done
if [ -z "$BITNET_URL" ]; then
    echo "the server did not start" >&2
    cat "$dir/err" >&2
    exit 1
fi
export BITNET_URL

# The server must say what the file says: the program may be an old one.
python3 - "$document" <<'END'
import json, os, sys, urllib.request

url = os.environ["BITNET_URL"] + "/openapi.json"
request = urllib.request.Request(url, headers={"x-api-key": os.environ["BITNET_KEY"]})
served = json.load(urllib.request.urlopen(request, timeout=60))
if served != json.load(open(sys.argv[1], encoding="utf-8")):
    sys.exit("the program serves another document than " + sys.argv[1])
END

cp scripts/test-openapi-hooks.py "$dir/bitnet_hooks.py"
document=$PWD/$document
cd "$dir"
PYTHONPATH=. SCHEMATHESIS_HOOKS=bitnet_hooks timeout $((seconds + 300)) \
    venv/bin/schemathesis run "$document" --url "$BITNET_URL" \
    --header "Authorization: Bearer $BITNET_KEY" --checks all --max-examples 100 \
    --max-time "$seconds" --continue-on-failure --generation-database none --no-color
if ! kill -0 "$server" 2>/dev/null; then
    echo "the server ended" >&2
    exit 1
fi
