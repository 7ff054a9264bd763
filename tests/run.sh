#!/usr/bin/env bash
# Installs what the tests need and runs all of them.
#
#   tests/run.sh [ARGUMENT...]      arguments go to `cargo test --workspace`
#
# On Debian and Ubuntu redis-server comes from apt; on x86-64 tests/servers/get-servers.sh adds the
# other servers, into a folder of their own. Elsewhere, and for what cannot be had, the tests use
# the redis-server and valkey-server on PATH. At the end stands which servers were used, what was
# skipped and how to get it. Fails when fewer than two servers could be used.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
command -v python3 >/dev/null || missing+=(python3)
command -v age >/dev/null || missing+=(age)
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || missing+=(faketime)
if [ ${#missing[@]} -gt 0 ] && command -v apt-get >/dev/null; then
  say "Installing ${missing[*]}"
  as_root apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

# s3-s3s is compiled for minutes; CI takes the time
servers=(redis-6.2 redis-7.0 redis-7.2 redis-7.4 redis-8.0 redis-8.6 valkey-8.0 valkey-8.1 valkey-9
         falkordb s3-moto azurite grpc-tools)
[ -z "${CI:-}" ] || servers+=(s3-s3s)
say "Fetching servers to test against"
tests/servers/get-servers.sh "${servers[@]}" ||
  echo "Not all of them could be had; what needs them is skipped."

# The archive's decoder in Python needs two packages; its stories are skipped without them.
if ! python3 -c 'import zstandard, cryptography' 2>/dev/null; then
  say "Installing zstandard and cryptography for Python"
  venv=${CARGO_TARGET_DIR:-target}/python
  if { [ -x "$venv/bin/python" ] || python3 -m venv "$venv"; } &&
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check zstandard cryptography; then
    REDWIND_TEST_PYTHON=$(realpath "$venv")/bin/python
    export REDWIND_TEST_PYTHON
  else
    echo "They could not be had; what needs them is skipped."
  fi
fi

# --all-targets, because `cargo test` alone would not build the redwind binary that the stories run
say "Building"
cargo build --workspace --all-targets --locked

report=$(mktemp)
trap 'rm -f "$report"' EXIT
say "Testing"
status=0
REDWIND_TEST_REPORT=$report cargo test --workspace --locked --no-fail-fast "$@" || status=$?

# lines: "used NAME VERSION<TAB>STORY" and "skipped NAME: WHY<TAB>STORY"
say "Servers"
cut -f1 "$report" | sort | uniq -c | awk '{n = $1; $1 = ""; printf "%s (%d %s)\n", substr($0, 2), n, n == 1 ? "test" : "tests"}'
used=$(grep -cE '^used (redis|valkey|falkordb)' <(cut -f1 "$report" | sort -u) || true)
if [ $# = 0 ] && [ "$used" -lt 2 ]; then
  echo "Only $used server could be used: put another redis-server or valkey-server on PATH." >&2
  [ $status != 0 ] || status=1
fi
exit $status
