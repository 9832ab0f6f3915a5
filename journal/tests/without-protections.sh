#!/usr/bin/env bash
# Takes away one protection after another, in a copy of the last commit, and shows which test then
# fails. A protection that no test misses is reported and fails the script. Not part of CI.
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/without-protections}
copy=$(mktemp -d)
trap 'git worktree remove --force "$copy"' EXIT
git worktree add --quiet --detach "$copy" HEAD
cd "$copy"
unmissed=0

# without NAME FILE PERL_SUBSTITUTION PACKAGE TEST_FILE [TEST]
without() {
  perl -0pi -e "$3" "$2"
  if git diff --quiet; then
    echo "$1: the substitution does not apply"
    unmissed=1
    return
  fi
  local log
  if log=$(timeout 600 cargo test -q -p "$4" --test "$5" -- ${6:+"$6"} 2>&1); then
    echo "$1: NO TEST FAILED"
    unmissed=1
  elif failed=$(grep -oE '^    [a-z_:]+$' <<<"$log" | sort -u | xargs); [ -n "$failed" ]; then
    echo "$1: $failed"
  else
    echo "$1: did not compile"
    tail -n 20 <<<"$log"
    unmissed=1
  fi
  git checkout --quiet .
}

append=journal/src/append.rs
without 'the condition' $append 's/\.condition_expression\("attribute_not_exists\(PK\)"\)//' journal append
without 'the EventId comparison' $append 's/Put::Conflict\(Some\(id\)\) if id == event\.event_id => return Ok\(time\),//' journal append
without 'the tick' journal/src/timestamp.rs 's/saturating_add\(1\)/saturating_add(0)/' journal append colliding
without 'after' journal/src/journal.rs 's/\.max\(after\)//' journal append
without 'STARTED before the run' agent-runtime/src/task.rs 's/(let durable = )(self\.journal\.append\(draft, Some\(self\.after\), STARTED_DEADLINE\))\.await;/let _early = self.agents.spawn((self.agent)(invocation.clone()));\n        $1$2.await;/' agent-runtime tasks
without 'the retry of a terminal event' $append 's/\(refused && !terminal\)/refused/' journal append
without 'the panic boundary' agent-runtime/src/task.rs 's/self\.agents\.spawn\(\(self\.agent\)\(invocation\)\)/Box::pin(async { Ok::<_, tokio::task::JoinError>((self.agent)(invocation).await) })/; s/let abort = agent\.abort_handle\(\);//; s/abort\.abort\(\);//; s/!agent\.is_finished\(\) && //; s/\(&mut agent\)/agent.as_mut()/' agent-runtime tasks every_way
without 'the deduplication' agent-runtime/src/supervisor.rs 's/match self\.answers\.get\(&run\) \{/match None::<&(Uuid, Answer)> {/' agent-runtime tasks
without 'the pagination' journal/src/read.rs 's/page\.last_evaluated_key\.map_or\(Next::Done, Next::After\)/Next::Done/' journal read
exit $unmissed
