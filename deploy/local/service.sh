# Sourced by every service script here: one command line, pid files that survive pid reuse, readiness.
#
#   SERVICE.sh install                        builds or finds the pinned version, prints what start would run
#   SERVICE.sh start  --dir DIR [--port N]    waits until it answers; DIR/endpoint says where (no port: a free one)
#   SERVICE.sh stop   --dir DIR               asks, waits, then kills; `kill` does not ask
#   SERVICE.sh status --dir DIR               `up ENDPOINT` or `down`
#
# Services listen on loopback only. Binaries are cached in $MILLRACE_CACHE/bin, default ~/.cache/millrace/bin.
set -euo pipefail
HOST=127.0.0.1
BIN="${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}/bin"
NAME="$(basename "$0" .sh)"
VERB="${1:-}"
[ $# -eq 0 ] || shift
DIR="" PORT=""
while [ $# -gt 0 ]; do
  case "$1" in
    --dir) DIR="$2" ;;
    --port) PORT="$2" ;;
    *) echo "$NAME: unknown option $1; there are --dir DIR and --port N" >&2; exit 2 ;;
  esac
  shift 2
done
if [ -n "$DIR" ]; then mkdir -p "$DIR"; DIR="$(cd "$DIR" && pwd)"; fi

say() { echo "$NAME: $*" >&2; }

# DIR/pid holds "PID STARTTIME": the start time (field 22 of /proc/PID/stat) tells a reused pid from ours.
started_at() { local stat; stat="$(cat "/proc/$1/stat" 2>/dev/null)" || return 1; set -- ${stat##*) }; [ "$1" != Z ] && echo "${20}"; }
remember() { echo "$1 $(started_at "$1")" >"$DIR/pid"; }
running() { # prints the pid if that very process is alive
  local pid time
  read -r pid time 2>/dev/null <"$DIR/pid" && [ "$(started_at "$pid")" = "$time" ] && echo "$pid"
}
end() { # SIGNAL: sends it, waits 20 s, then kills
  local pid i
  if pid="$(running)"; then
    kill -s "$1" "$pid" 2>/dev/null || true
    for ((i = 0; i < 200; i++)); do running >/dev/null || break; sleep 0.1; done
    if running >/dev/null; then kill -s KILL "$pid"; fi
  fi
  rm -f "$DIR/pid" "$DIR/endpoint"
}

port_free() { ! (exec 3<>"/dev/tcp/$HOST/$1") 2>/dev/null; }
free_port() { # [FIRST COUNT]: below the range that the kernel hands to clients
  local port
  while port=$((${1:-20000} + (RANDOM * 32768 + RANDOM) % ${2:-12000})); do port_free "$port" && echo "$port" && return; done
}
await() { # COMMAND...: until it succeeds, at most 60 s; fails at once when the process has died
  local end=$((SECONDS + 60))
  until "$@" >/dev/null 2>&1; do
    running >/dev/null || return 1
    [ $SECONDS -lt $end ] || { say "not ready within 60 s"; return 1; }
    sleep 0.05
  done
}

# NAME MODULE@VERSION: prints the path of the binary, built at the first call. The lock keeps two callers from building twice.
go_binary() {
  local out="$BIN/$1-${2##*[@-]}" work
  mkdir -p "$BIN"
  (
    flock 9
    [ -x "$out" ] && exit
    command -v go >/dev/null || { say "needs Go to build $2: apt-get install golang"; exit 1; }
    say "building $2 into $out, once, some minutes"
    work="$(mktemp -d "$BIN/.build.XXXXXX")"
    trap 'rm -rf "$work"' EXIT
    GOBIN="$work" go install -trimpath -ldflags='-s -w' "$2" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
    mv "$work/$1" "$out"
  ) 9>"$BIN/.$1.lock" && echo "$out"
}

# `install` (prints the executable), `launch EXE PORT` (exec of the server) and `ready PORT` come from the service's script.
start() {
  local exe pid try
  exe="$(install)"
  if running >/dev/null; then say "runs already: $(cat "$DIR/endpoint")"; return; fi
  for try in 1 2 3; do # a free port may be taken before the server binds it
    local port="${PORT:-$(free_port)}"
    (launch "$exe" "$port") </dev/null >>"$DIR/log" 2>&1 9>&- &
    remember $!
    if await ready "$port"; then
      echo "http://$HOST:$port" >"$DIR/endpoint"
      say "ready: http://$HOST:$port"
      return
    fi
    end KILL
  done
  say "did not start; last lines of $DIR/log:"
  tail -n 20 "$DIR/log" >&2
  return 1
}
main() {
  case "$VERB" in start | stop | kill | status) [ -n "$DIR" ] || { say "--dir is required"; exit 2; } ;; esac
  case "$VERB" in
    install) install ;;
    start) start ;;
    stop) end TERM ;;
    kill) end KILL ;;
    status) if running >/dev/null; then echo "up $(cat "$DIR/endpoint")"; else echo down; fi ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$(dirname "${BASH_SOURCE[0]}")/service.sh" >&2; exit 2 ;;
  esac
}
