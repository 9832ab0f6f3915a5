#!/usr/bin/env bash
# Tests the images without a container engine, on Debian as root. It assembles the root file systems that
# deploy/Dockerfile describes from Debian's packages and our programs (built for this machine's CPU), runs
# a session in each as the images' user, and prints measurements. Needs debootstrap, curl and two builds:
#   cargo build
#   cargo zigbuild --release --locked --target x86_64-unknown-linux-musl --package agent-runtime --package word-counter
set -euo pipefail
cd "$(dirname "$0")/.."

programs=target/x86_64-unknown-linux-musl/release
shell=$PWD/target/image/shell program=$PWD/target/image/program
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Release: bookworm' | head -n 1)

if [[ ! -x $shell/usr/bin/tini-static ]]; then
  rm -rf target/image
  debootstrap --variant=minbase --include=ca-certificates,tini bookworm "$shell" "$mirror" >/dev/null
  rm -rf "$shell"/var/lib/apt/lists/* "$shell"/var/cache/apt/*
fi
install -D "$shell/usr/bin/tini-static" "$shell/opt/agent-runtime/tini"
install "$programs/agent-runtime" "$shell/opt/agent-runtime/agent-runtime"
install -D --mode 644 "$shell/etc/ssl/certs/ca-certificates.crt" "$program/etc/ssl/certs/ca-certificates.crt"
install "$programs/word-counter" "$program/program"

dynamodb=18900 port=18901
folder=$(mktemp -d)
local=$PWD/target/debug/agent-local journal=$PWD/target/debug/agent-journal
(cd "$folder" && exec "$local" up --port 0 --ui-port 0 --agentcore-port 0 --otlp-port 0 --dynamodb-port $dynamodb --step-functions-port 0) >/dev/null 2>&1 &
table=$!
container=
trap 'kill $table $container 2>/dev/null; wait; rm -rf "$folder"' EXIT
until curl --silent --output /dev/null 127.0.0.1:$dynamodb; do kill -0 $table; sleep 0.05; done
export JOURNAL_TABLE_NAME=agent-journal AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:$dynamodb \
  AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local

now() { date +%s%3N; }
ping() { curl --silent --fail 127.0.0.1:$port/ping; }

# Runs a session in a root file system, and prints the time to the first ping, the resident memory, and
# the time from SIGTERM to the exit.
try() {
  local root=$1 session=$2 before=$3 expected=$4 began ready pid memory stopping
  shift 4
  began=$(now)
  env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin HOST=127.0.0.1 PORT=$port \
    AGENT_COMMAND='sh -c "id -u; sleep 600"' JOURNAL_TABLE_NAME=$JOURNAL_TABLE_NAME \
    JOURNAL_ENDPOINT_URL=$AWS_ENDPOINT_URL_DYNAMODB \
    chroot --userspec=10001:10001 "$root" "$@" 2>"$folder/log" &
  container=$!
  until ping >/dev/null; do kill -0 $container || { cat "$folder/log"; exit 1; }; done
  ready=$(($(now) - began))
  pid=$(pgrep --parent $container || echo $container)
  memory=$(awk '/VmRSS/ {print $2}' "/proc/$pid/status")
  [[ $(awk '/^Uid/ {print $2}' "/proc/$pid/status") == 10001 ]]
  curl --silent --fail --output /dev/null 127.0.0.1:$port/invocations --data "{\"session_id\": \"$session\", \"prompt\": \"a b c\"}"
  until [[ $("$journal" events "$session") == *"$before"* ]]; do kill -0 $container; sleep 0.1; done
  stopping=$(now)
  kill -TERM $container
  wait $container
  container=
  printf '%s ms, %s KiB, %s ms\n' "$ready" "$memory" $(($(now) - stopping))
  "$journal" events "$session" >"$folder/events" || true
  grep --quiet "$expected" "$folder/events" || { cat "$folder/events"; exit 1; }
}

size() { du --summarize --block-size=K "$1" | cut -f 1; }
echo 'first /ping, resident memory, SIGTERM to exit:'
printf 'agent-runtime in Debian   '
try "$shell" shell-image-0123456789-0123456789-01 AGENT_BACKGROUND_TASK_STARTED \
  'AGENT_BACKGROUND_TASK_FAILED.*Terminated' \
  /opt/agent-runtime/tini -s -- /opt/agent-runtime/agent-runtime
printf 'word-counter alone        '
try "$program" program-image-0123456789-0123456789 AGENT_BACKGROUND_TASK_COMPLETED \
  AGENT_BACKGROUND_TASK_COMPLETED /program
echo "sizes: agent-runtime $(size $programs/agent-runtime), its root file system $(size "$shell"); word-counter $(size $programs/word-counter), its root file system $(size "$program")"
