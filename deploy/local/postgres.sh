#!/usr/bin/env bash
# PostgreSQL (Debian's) on loopback. Usage: see service.sh. User `postgres`, no password; DIR/endpoint has the URL.
#
# The server refuses to be root: there it runs as the user `postgres`, with its data where that user may go.
. "$(dirname "$0")/service.sh"

install() {
  local newest
  newest="$(find /usr/lib/postgresql -path '*/bin/postgres' 2>/dev/null | sort -V | tail -n 1)"
  [ -n "$newest" ] || { say "needs PostgreSQL: apt-get install postgresql"; return 1; }
  echo "$newest"
}
user() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --init-groups "$@"; else "$@"; fi; }
data() { # the data's folder; DIR/data leads to it
  local to="$DIR/data"
  if [ ! -e "$to" ] && [ "$(id -u)" = 0 ]; then
    to="$(mktemp -d /var/tmp/millrace-postgres.XXXXXX)"
    chown postgres: "$to"
    ln -s "$to" "$DIR/data"
  fi
  mkdir -p "$DIR/data"
  (cd "$DIR/data" && pwd -P)
}
launch() {
  local to
  to="$(data)"
  cd "$to"
  if [ ! -s "$to/PG_VERSION" ]; then
    user "${1%postgres}initdb" -D "$to" -U postgres -A trust -E UTF8 --no-locale --no-sync
    echo "max_prepared_transactions = 20" >>"$to/postgresql.conf"
  fi
  echo "$2" >"$DIR/port"
  if [ "$(id -u)" = 0 ]; then set -- "$@" setpriv --reuid=postgres --regid=postgres --init-groups; fi
  exec setsid "${@:3}" "$1" -D "$to" -p "$2" -c listen_addresses="$HOST" -c unix_socket_directories="$to"
}
ready() { "$(dirname "$(install)")/pg_isready" -q -h "$HOST" -p "$1"; }

case "$VERB" in
  start)
    [ -n "$PORT" ] || ! [ -s "$DIR/port" ] || PORT="$(cat "$DIR/port")"
    main
    sed 's#^http://\(.*\)#postgres://postgres@\1/postgres#' "$DIR/endpoint" >"$DIR/endpoint.new"
    mv "$DIR/endpoint.new" "$DIR/endpoint" ;;
  stop) end INT ;; # TERM would wait for every client
  *) main ;;
esac
