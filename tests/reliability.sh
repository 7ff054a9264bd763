#!/usr/bin/env bash
# Makes every fault that docs/reliability.md names, and prints its table anew.
#
#   tests/reliability.sh [KILLS [SECONDS]]
#
# KILLS is how often the soak kills the agent (300 unless told), SECONDS how long the long outage of the
# store lasts (600). A quarter of an hour with the defaults. REDWIND_TEST_SEED repeats a run's choices.
set -euo pipefail
cd "$(dirname "$0")/.."

tests/servers/get-servers.sh redis-6.2 redis-7.0 valkey-9 s3-moto >&2 ||
  echo "Not all servers could be had; what needs them is skipped." >&2
cargo build --workspace --all-targets --locked

figures=$(mktemp)
trap 'rm -f "$figures"' EXIT
status=0
REDWIND_SOAK_KILLS=${1:-300} REDWIND_OUTAGE_SECONDS=${2:-600} REDWIND_TEST_FIGURES=$figures \
  cargo test -p redwind-tests --test it --locked -- \
  soak:: machine:: network:: outages:: server_faults:: failover:: >&2 || status=$?

# lines: fault, story, server, runs, writes acknowledged, lost, gaps, seconds to recover
awk -F '\t' '
  BEGIN {
    print "| fault | story | servers | runs | acknowledged | lost | gaps | recovery |"
    print "|---|---|---|--:|--:|--:|--:|--:|"
  }
  { key = $1 FS $2
    if (!(key in runs)) order[++rows] = key
    servers[key] = servers[key] (servers[key] == "" ? "" : ", ") $3
    runs[key] += $4; acknowledged[key] += $5; lost[key] += $6; gaps[key] += $7
    if ($8 > recovery[key]) recovery[key] = $8 }
  END {
    for (row = 1; row <= rows; row++) {
      key = order[row]; split(key, part, FS)
      printf "| %s | `%s` | %s | %d | %d | %d | %d | %.1f s |\n", part[1], part[2], servers[key], \
        runs[key], acknowledged[key], lost[key], gaps[key], recovery[key]
    }
  }' "$figures"
exit $status
