#!/usr/bin/env bash
# Tests the store on a PostgreSQL server: starts the installed server in a temporary folder,
# on a Unix socket only, runs the tests that need it, and removes it. Prints SKIPPED if no
# server is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

find_bin() {
    local dir
    for dir in "$(dirname "$(command -v initdb 2>/dev/null || echo /)")" \
        /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin; do
        if [ -x "$dir/initdb" ] && [ -x "$dir/pg_ctl" ] && [ -x "$dir/postgres" ]; then
            echo "$dir"
            return
        fi
    done
}

bin=$(find_bin)
if [ -z "$bin" ]; then
    echo "SKIPPED: no PostgreSQL server is installed (apt-get install postgresql); the store on a server is NOT tested"
    exit 0
fi

# The path of a socket is limited to about 100 bytes, so the folder is not below $TMPDIR.
dir=$(mktemp -d /tmp/palisade-pg.XXXXXX)

# PostgreSQL refuses to run as root.
as_server() {
    if [ "$(id -u)" = 0 ]; then
        (cd "$dir" && runuser -u "$owner" -- "$@")
    else
        "$@"
    fi
}
owner=$(id -un)
if [ "$(id -u)" = 0 ]; then
    owner=postgres
    id "$owner" >/dev/null 2>&1 || owner=nobody
    chown "$owner" "$dir"
    chmod 755 "$dir"
fi

cleanup() {
    as_server "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

as_server "$bin/initdb" -D "$dir/data" --auth=trust --username=palisade --no-sync \
    --encoding=UTF8 --locale=C >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log"; exit 1; }
as_server "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w \
    -o "-c listen_addresses='' -c unix_socket_directories='$dir' -c fsync=off" start >/dev/null ||
    { cat "$dir/log"; exit 1; }
echo "started $("$bin/postgres" --version) in $dir"

export PALISADE_TEST_POSTGRES="postgres://palisade@/postgres?host=$dir"
cargo test --locked --package palisade --package cargo-palisade \
    --features palisade/postgres,cargo-palisade/postgres --lib --test store --test end_to_end -- \
    --include-ignored sqlite:: postgres:: server::
