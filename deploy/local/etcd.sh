#!/usr/bin/env bash
# etcd on loopback, one member or three. Usage: see service.sh, and:
#
#   etcd.sh start  --dir DIR [--nodes 1|3] [--port BASE]        member I serves on BASE+2(I-1), its peers one above
#   etcd.sh start|stop|kill|pause|resume --dir DIR --node I     one member; `pause` is SIGSTOP
#
# DIR/endpoints has the members' addresses, joined by commas; DIR/nodeI has a member's pid, log and data.
# History is compacted by etcd itself; ETCD_QUOTA bounds the store, in bytes.
NODES=1 NODE="" REST=()
while [ $# -gt 0 ]; do
  case "$1" in
    --nodes) NODES="$2"; shift 2 ;;
    --node) NODE="$2"; shift 2 ;;
    *) REST+=("$1"); shift ;;
  esac
done
set -- ${REST[@]+"${REST[@]}"}
. "$(dirname "$0")/service.sh"
MODULES="$(cd "$(dirname "$0")/etcd" && pwd)" # etcd does not build by `go install`: its server is one of several modules
TOP="$DIR"

install() {
  local out
  out="$BIN/etcd-$(sha256sum <"$MODULES/go.mod" | cut -c1-12)"
  mkdir -p "$BIN"
  (
    flock 9
    [ -x "$out" ] && exit
    command -v go >/dev/null || { say "needs Go to build etcd: apt-get install golang"; exit 1; }
    say "building etcd into $out, once, a minute or two"
    (cd "$MODULES" && go build -trimpath -ldflags='-s -w' -o "$out.new" go.etcd.io/etcd/server/v3) || exit 1
    mv "$out.new" "$out"
  ) 9>"$BIN/.etcd.lock" && echo "$out"
}
clients() { echo $((PORT + 2 * ($1 - 1))); }
peers() { echo $((PORT + 2 * ($1 - 1) + 1)); }
members() { if [ -n "$NODE" ]; then echo "$NODE"; else seq "$NODES"; fi; }
at() { DIR="$TOP/node$1"; mkdir -p "$DIR"; }

launch() { # EXE MEMBER
  local i all=""
  for i in $(seq "$NODES"); do all+="${all:+,}n$i=http://$HOST:$(peers "$i")"; done
  exec setsid "$1" --name "n$2" --data-dir "$DIR/data" \
    --listen-client-urls "http://$HOST:$(clients "$2")" --advertise-client-urls "http://$HOST:$(clients "$2")" \
    --listen-peer-urls "http://$HOST:$(peers "$2")" --initial-advertise-peer-urls "http://$HOST:$(peers "$2")" \
    --initial-cluster "$all" --initial-cluster-state new --initial-cluster-token millrace \
    --auto-compaction-mode periodic --auto-compaction-retention 10m --quota-backend-bytes "${ETCD_QUOTA:-2147483648}" \
    --heartbeat-interval 100 --election-timeout 1000 --log-level warn
}
ready() { curl -fsS -m 2 -o /dev/null "http://$HOST:$(clients "$1")/health"; }
all_free() { local i; for ((i = 0; i < 2 * NODES; i++)); do port_free $((PORT + i)) || return 1; done; }

start_members() {
  local exe i list=""
  exe="$(install)"
  if [ -f "$TOP/cluster" ]; then
    read -r PORT NODES <"$TOP/cluster"
  else
    [ -n "$PORT" ] || until PORT="$(free_port)" && all_free; do :; done
    echo "$PORT $NODES" >"$TOP/cluster"
  fi
  for i in $(seq "$NODES"); do list+="${list:+,}http://$HOST:$(clients "$i")"; done
  echo "$list" >"$TOP/endpoints"
  for i in $(members); do
    at "$i"
    if running >/dev/null; then continue; fi
    (launch "$exe" "$i") </dev/null >>"$DIR/log" 2>&1 9>&- &
    remember $!
  done
  for i in $(members); do
    at "$i"
    await ready "$i" || { say "member $i did not start; last lines of $DIR/log:"; tail -n 20 "$DIR/log" >&2; return 1; }
  done
  say "ready: $list"
}
each() { # COMMAND...: in the folder of each member
  local i
  [ ! -f "$TOP/cluster" ] || read -r PORT NODES <"$TOP/cluster"
  for i in $(members); do (at "$i" && "$@") & done
  wait
}
signal() { local pid; pid="$(running)" && kill -s "$1" "$pid"; }
state() { if running >/dev/null; then echo "up ${DIR##*/}"; else echo "down ${DIR##*/}"; fi; }

case "$VERB" in install) ;; *) [ -n "$DIR" ] || { say "--dir is required"; exit 2; } ;; esac
case "$VERB" in
  install) install ;;
  start) start_members ;;
  stop) each end TERM ;;
  kill) each end KILL ;;
  pause) each signal STOP ;;
  resume) each signal CONT ;;
  status) each state ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
