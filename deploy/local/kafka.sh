#!/usr/bin/env bash
# Apache Kafka (KRaft) on loopback: one node, or three that replicate. Usage: see service.sh, and:
#
#   kafka.sh start --dir DIR [--nodes 1|3] [--port P] [--sasl]   DIR/endpoint: the brokers, `host:port,host:port`
#   kafka.sh start|stop|kill --dir DIR --node I                  one node of a cluster that was started before
#
# --sasl adds a TLS listener with SCRAM-SHA-512: DIR/sasl/endpoint says where, DIR/sasl/ca.pem whom to trust; the user is
# $SASL_USER with $SASL_PASSWORD. Ports and data stay as they are over restarts. A node lives in DIR/node1..: pid, log, data.
SASL_USER=millrace SASL_PASSWORD=millrace-local-only
NODES="" NODE="" SASL="" rest=()
while [ $# -gt 0 ]; do
  case "$1" in
    --nodes) NODES="$2"; shift 2 ;;
    --node) NODE="$2"; shift 2 ;;
    --sasl) SASL=yes; shift ;;
    *) rest+=("$1"); shift ;;
  esac
done
set -- "${rest[@]}"
. "$(dirname "$0")/service.sh"
POM="$(cd "$(dirname "$0")" && pwd)/kafka-pom.xml"
CLUSTER_ID=bWlsbHJhY2UtbG9jYWwtMQ # any 16 bytes will do

# Prints the folder of libraries, filled at the first call. The lock keeps two callers from filling it twice.
install() {
  local out
  out="$BIN/kafka-$(sha256sum <"$POM" | cut -c1-12)"
  mkdir -p "$BIN"
  (
    flock 9
    [ -d "$out" ] && exit
    command -v mvn >/dev/null && command -v java >/dev/null || { say "needs Java and Maven: apt-get install maven"; exit 1; }
    say "fetching the broker's libraries into $out, once"
    mvn -q -B -f "$POM" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$out.new" >"$out.log" 2>&1 ||
      { tail -n 20 "$out.log" >&2; exit 1; }
    mv "$out.new" "$out"
  ) 9>"$BIN/.kafka.lock" && echo "$out"
}

# A certificate for loopback by an authority of its own. The brokers' file holds key and chain.
certificates() {
  local to="$DIR/sasl"
  [ -s "$to/broker.pem" ] && return
  mkdir -p "$to"
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=millrace local authority" \
    -keyout "$to/ca.key" -out "$to/ca.pem" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout "$to/broker.key" -out "$to/broker.csr" 2>/dev/null
  openssl x509 -req -in "$to/broker.csr" -CA "$to/ca.pem" -CAkey "$to/ca.key" -CAcreateserial -days 3650 \
    -extfile <(echo "subjectAltName=IP:$HOST,DNS:localhost") -out "$to/broker.crt" 2>/dev/null
  cat "$to/broker.key" "$to/broker.crt" "$to/ca.pem" >"$to/broker.new" && mv "$to/broker.new" "$to/broker.pem"
}

# DIR/cluster: the number of nodes, whether with SASL, and three ports a node: broker, controller, SASL.
plan() {
  if [ -s "$DIR/cluster" ]; then read -r NODES SASL PORTS <"$DIR/cluster"; return; fi
  NODES="${NODES:-1}" PORTS=""
  case "$NODES" in 1 | 3) ;; *) say "--nodes is 1 or 3"; exit 2 ;; esac
  local i port
  for ((i = 0; i < NODES * 3; i++)); do
    if [ -n "$PORT" ] && [ $((i % 3)) = 0 ]; then port=$((PORT + i / 3)); else
      until port="$(free_port)"; [[ " $PORTS " != *" $port "* ]]; do :; done
    fi
    PORTS+="${PORTS:+ }$port"
  done
  echo "$NODES ${SASL:-no} $PORTS" >"$DIR/cluster"
  SASL="${SASL:-no}"
}
port_of() { # NODE WHICH: 1 broker, 2 controller, 3 SASL
  local ports
  read -r -a ports <<<"$PORTS"
  echo "${ports[($1 - 1) * 3 + $2 - 1]}"
}
addresses() { # WHICH [PREFIX]: every node's address; with `@` each has its number before it
  local i all=""
  for ((i = 1; i <= NODES; i++)); do all+="${all:+,}${2:+$i@}$HOST:$(port_of "$i" "$1")"; done
  echo "$all"
}

properties() { # NODE
  local copies=$NODES safe=$((NODES > 1 ? 2 : 1)) listeners advertised
  listeners="PLAINTEXT://$HOST:$(port_of "$1" 1)"
  [ "$SASL" = yes ] && listeners+=",SASL_SSL://$HOST:$(port_of "$1" 3)"
  advertised="$listeners"
  cat <<P
process.roles=broker,controller
node.id=$1
controller.quorum.voters=$(addresses 2 @)
listeners=$listeners,CONTROLLER://$HOST:$(port_of "$1" 2)
advertised.listeners=$advertised
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$DIR/node$1/data
default.replication.factor=$copies
min.insync.replicas=$safe
offsets.topic.num.partitions=4
offsets.topic.replication.factor=$copies
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=$copies
transaction.state.log.min.isr=$safe
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
broker.session.timeout.ms=6000
controlled.shutdown.max.retries=1
log.cleaner.backoff.ms=200
log.cleaner.dedupe.buffer.size=4194304
log.retention.ms=-1
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=500
P
  [ "$SASL" = yes ] || return 0
  cat <<P
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.ssl.keystore.type=PEM
listener.name.sasl_ssl.ssl.keystore.location=$DIR/sasl/broker.pem
P
}

start_node() ( # NODE LIBRARIES
  properties "$1" >"$DIR/node$1.properties"
  config="$DIR/node$1.properties"
  scram=()
  [ "$SASL" = yes ] && scram=(--add-scram "SCRAM-SHA-512=[name=$SASL_USER,password=$SASL_PASSWORD]")
  DIR="$DIR/node$1"
  mkdir -p "$DIR"
  if running >/dev/null; then exit; fi
  [ -s "$DIR/data/meta.properties" ] ||
    java -Xmx128m -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$2/*" kafka.tools.StorageTool \
      format -t "$CLUSTER_ID" -c "$config" "${scram[@]}" >"$DIR/format.log" 2>&1 || { cat "$DIR/format.log" >&2; exit 1; }
  [ -f "$DIR/log" ] && mv "$DIR/log" "$DIR/log.before"
  cd "$DIR"
  setsid java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=info \
    -Dorg.slf4j.simpleLogger.showDateTime=true -cp "$2/*" kafka.Kafka "$config" </dev/null >>"$DIR/log" 2>&1 9>&- &
  remember $!
  if await grep -q "Kafka Server started" "$DIR/log"; then exit; fi
  say "node $1 did not start; last lines of $DIR/log:"
  tail -n 20 "$DIR/log" >&2
  end KILL
  exit 1
)
each() { if [ -n "$NODE" ]; then echo "$NODE"; else seq 1 "$NODES"; fi; }

start() {
  local libraries i starting=()
  libraries="$(install)"
  plan
  if [ "$SASL" = yes ]; then certificates; addresses 3 >"$DIR/sasl/endpoint"; fi
  for i in $(each); do start_node "$i" "$libraries" & starting+=($!); done
  for i in "${starting[@]}"; do wait "$i" || return 1; done
  addresses 1 >"$DIR/endpoint"
  say "ready: $(cat "$DIR/endpoint")"
}
end_nodes() { # SIGNAL
  [ -s "$DIR/cluster" ] || return 0
  plan
  local i
  for i in $(each); do (DIR="$DIR/node$i" && [ -d "$DIR" ] && end "$1") & done
  wait
}
state() {
  [ -s "$DIR/cluster" ] || { echo down; return; }
  plan
  local i up=0
  for i in $(each); do if (DIR="$DIR/node$i" && running >/dev/null); then up=$((up + 1)); fi; done
  if [ $up = 0 ]; then echo down; elif [ $up = "$(each | wc -l)" ]; then echo "up $(cat "$DIR/endpoint")"; else echo "up $up of $NODES nodes"; fi
}
case "$VERB" in start | stop | kill | status) [ -n "$DIR" ] || { say "--dir is required"; exit 2; } ;; esac
case "$VERB" in
  install) install ;;
  start) start ;;
  stop) end_nodes TERM ;;
  kill) end_nodes KILL ;;
  status) state ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
