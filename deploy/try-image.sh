#!/usr/bin/env bash
# Proves the image without a container engine, on Debian as root: assembles the root file system
# that deploy/Dockerfile describes, from Debian's packages and the release binary, and runs it there
# as the image's user. Prints what it measured. Needs debootstrap, curl, and two builds:
#   cargo build && cargo build --release --package agent-runtime
set -euo pipefail
cd "$(dirname "$0")/.."

binary=target/release/agent-runtime
root=$PWD/target/image
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Release: bookworm' | head -n 1)

if [[ ! -x $root/usr/bin/tini-static ]]; then
  rm -rf "$root"
  debootstrap --variant=minbase --include=ca-certificates,tini bookworm "$root" "$mirror" >/dev/null
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
fi
install -D "$root/usr/bin/tini-static" "$root/opt/agent-runtime/tini"
install "$binary" "$root/opt/agent-runtime/agent-runtime"

dynamodb=18900 port=18901 session=image-0123456789-0123456789-0123456789
folder=$(mktemp -d)
program=$PWD/target/debug/agent-local
(cd "$folder" && exec "$program" up --port 0 --dynamodb-port $dynamodb --step-functions-port 0) >/dev/null 2>&1 &
table=$!
container=
trap 'kill $table $container 2>/dev/null; wait; rm -rf "$folder"' EXIT
until curl --silent --output /dev/null 127.0.0.1:$dynamodb; do kill -0 $table; sleep 0.05; done

now() { date +%s%3N; }
ping() { curl --silent --fail 127.0.0.1:$port/ping; }

began=$(now)
env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin HOST=127.0.0.1 PORT=$port JOURNAL_TABLE_NAME=agent-journal \
  AGENT_COMMAND='sh -c "id -u; sleep 600"' AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:$dynamodb \
  AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local \
  chroot --userspec=10001:10001 "$root" /opt/agent-runtime/tini -s -- /opt/agent-runtime/agent-runtime \
  2>"$folder/log" &
container=$!
until ping >/dev/null; do kill -0 $container || { cat "$folder/log"; exit 1; }; done
ready=$(($(now) - began))
agent=$(pgrep --parent $container)
memory=$(awk '/VmRSS/ {print $2}' "/proc/$agent/status")

curl --silent --fail 127.0.0.1:$port/invocations --data "{\"session_id\": \"$session\"}"
echo
ping | grep --quiet HealthyBusy
[[ $(awk '/^Uid/ {print $2}' "/proc/$agent/status") == 10001 ]]
stopping=$(now)
kill -TERM $container
code=0
wait $container || code=$?
stopped=$(($(now) - stopping))
container=

AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:$dynamodb AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=local \
  AWS_SECRET_ACCESS_KEY=local JOURNAL_TABLE_NAME=agent-journal \
  target/debug/agent-journal events $session | tee "$folder/events" || true
grep --quiet 'AGENT_BACKGROUND_TASK_FAILED.*Terminated' "$folder/events"

cat <<MEASURED
binary                 $(($(stat --format %s $binary) / 1024)) KiB
root file system       $(du --summarize --block-size=1M "$root" | cut -f 1) MiB
start to first /ping   $ready ms
resident memory        $memory KiB
SIGTERM to exit        $stopped ms, exit code $code
MEASURED
