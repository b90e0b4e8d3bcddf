#!/usr/bin/env bash
# MinIO, an S3-compatible store, on loopback. Usage: see service.sh. Data lies in DIR/data, keys: $ACCESS_KEY, $SECRET_KEY.
# It is AGPL: a tool that tests run, never a part of what is shipped.
. "$(dirname "$0")/service.sh"
MODULE=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
ACCESS_KEY=millrace SECRET_KEY=millrace-local-only

install() { go_binary minio "$MODULE"; }
launch() {
  mkdir -p "$DIR/data"
  export MINIO_ROOT_USER=$ACCESS_KEY MINIO_ROOT_PASSWORD=$SECRET_KEY
  export MINIO_BROWSER=off MINIO_UPDATE=off MINIO_CALLHOME_ENABLE=off
  exec setsid "$1" server --quiet --address "$HOST:$2" "$DIR/data"
}
ready() { curl -fsS -o /dev/null "http://$HOST:$1/minio/health/ready"; }
main
