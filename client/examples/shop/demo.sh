#!/usr/bin/env bash
# 5M generated shop events through the pipeline beside this file, then a look at the lake.
# In: BIN (folder of the binaries), DEMO (a folder for events and lake), EVENTS (how many).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
events="${EVENTS:-5000000}"
export MILLRACE_HASH_KEY="${MILLRACE_HASH_KEY:-a-key-for-the-demo-only}"

rm -rf "$DEMO"
mkdir -p "$DEMO"
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1. Generate $events events: 15% duplicates, some broken, some late"
"$BIN/millrace-loadtest" generate --events "$events" --seed 1 --out "$DEMO/sent" --files 2

say "2. millrace run shop.yaml"
"$BIN/millrace" run "$here/shop.yaml" --input "$DEMO/sent/events" --lake "$DEMO/lake"

say "3. millrace query: events and revenue by channel"
"$BIN/millrace" query --lake "$DEMO/lake" \
  "SELECT channel, count(*) AS events, round(sum(CASE WHEN event_type = 'purchase' THEN price * quantity ELSE 0 END), 2) AS revenue
   FROM events GROUP BY channel ORDER BY channel"

say "4. millrace quarantine list: why events were rejected"
"$BIN/millrace" quarantine list "$here/shop.yaml" --lake "$DEMO/lake" --limit 3

say "5. millrace verify: nothing lost, nothing doubled"
"$BIN/millrace" verify "$here/shop.yaml" --lake "$DEMO/lake"

say "6. millrace-loadtest check: the lake against the generator's own ledger, event by event"
"$BIN/millrace-loadtest" check --ledger "$DEMO/sent" --lake "$DEMO/lake" | cut -c1-200

say "The lake lies in $DEMO/lake"
