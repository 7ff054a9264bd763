#!/usr/bin/env bash
# The main job, for real, in two minutes: back a server up continuously, wreck its data, and bring
# back what it held just before. Everything happens in a new temporary folder and on loopback.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '   $ %s\n' "$*"; "$@"; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
if ! command -v redis-server >/dev/null; then
  say "Installing redis-server"
  as_root apt-get update -q >/dev/null
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends redis-server >/dev/null
fi

say "Building redwind (the first time takes some minutes)"
cargo build --release --quiet -p redwind-tools
redwind=${CARGO_TARGET_DIR:-target}/release/redwind
redwind=$(realpath "$redwind")

work=$(mktemp -d "${TMPDIR:-/tmp}/redwind-demo.XXXXXX")
pids=()
stop() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; }
trap stop EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' 2>/dev/null || echo $((20000 + RANDOM % 20000)); }
wait_for() { # SECONDS DESCRIPTION COMMAND...
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $deadline ]; then
      echo "demo: no $what; see $work" >&2
      exit 1
    fi
    read -r -t 0.1 <> <(:) || true
  done
}
start_server() { # PORT DIR [OPTION...]
  local port=$1 dir=$2
  shift 2
  mkdir -p "$dir"
  redis-server --port "$port" --bind 127.0.0.1 --dir "$dir" --save '' --repl-diskless-sync-delay 0 \
    --logfile "$work/server-$port.log" "$@" &
  pids+=($!)
  wait_for 20 "server on port $port" redis-cli -p "$port" ping
}

port=$(free_port) restored=$(free_port) grpc=127.0.0.1:$(free_port) http=127.0.0.1:$(free_port)
store=file://$work/archive

say "A throw-away server, and an agent that follows it"
start_server "$port" "$work/server"
redis-cli -p "$port" set greeting 'hello from before the agent' >/dev/null
"$redwind" agent --source "redis://127.0.0.1:$port" --store "$store" --spool "$work/spool" \
  --grpc "$grpc" --http "$http" 2>"$work/agent.log" &
pids+=($!)
wait_for 60 "first snapshot" sh -c "'$redwind' list --store '$store' --json | grep -q '\"rdb_bytes\"'"

say "Some data"
for i in $(seq 1 1000); do echo "SET order:$i '{\"id\":$i,\"total\":$((i * 7 % 500))}'"; done | redis-cli -p "$port" >/dev/null
show redis-cli -p "$port" rpush queue first second third
show redis-cli -p "$port" dbsize
before=$(redis-cli -p "$port" --raw dbsize)
echo "   $ redis-cli -p $port    (one connection: a write, and WAIT until it can be restored)"
printf 'SET last:order 1000\nWAIT 1 10000\nDEL last:order\nWAIT 1 10000\n' | redis-cli -p "$port" | sed 's/^/   /'
moment=$(date -u +%Y-%m-%dT%H:%M:%S.%6NZ)

say "The accident, just after $moment"
show redis-cli -p "$port" flushall
printf "SET greeting 'all gone'\nWAIT 1 10000\n" | redis-cli -p "$port" >/dev/null

say "What can be restored"
show "$redwind" list --store "$store"

say "Back to just before"
wait_for 90 "segment that vouches for $moment" "$redwind" restore --store "$store" --to "$moment" --dry-run
show "$redwind" restore --store "$store" --to "$moment" --aof "$work/restored"

say "The proof: a server on the restored folder"
start_server "$restored" "$work/restored" --appendonly yes
show redis-cli -p "$restored" get greeting
show redis-cli -p "$restored" get order:777
show redis-cli -p "$restored" lrange queue 0 -1
after=$(redis-cli -p "$restored" --raw dbsize)
if [ "$after" != "$before" ]; then
  echo "demo: $after keys restored, there were $before" >&2
  exit 1
fi
printf '\n   %s keys before the accident, %s restored.\n' "$before" "$after"

say "On your own server"
cat <<HELP
   $redwind check --source redis://HOST:6379 --store file:///var/lib/redwind
   $redwind agent --source redis://HOST:6379 --store file:///var/lib/redwind
   $redwind restore --store file:///var/lib/redwind --to '5m ago' --aof /path/of/a/new/folder

   What this demo left behind: $work
HELP
