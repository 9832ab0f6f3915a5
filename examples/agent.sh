#!/bin/sh
# An agent in shell: counts the words of its prompt. It reads JSON from stdin, prints its result, and
# writes lines of progress to file descriptor 3.
set -eu

echo 'started count' >&3 # becomes TASK_COUNT_STARTED in the journal
# Enough for counting words; jq -r .prompt would parse all of JSON.
prompt=$(sed -En 's/.*"prompt" *: *"(([^"\\]|\\.)*)".*/\1/p')
if [ -z "$prompt" ]; then
  echo 'failed count there is no prompt' >&3
  echo 'the input has no "prompt"' >&2
  exit 1
fi
words=$(printf '%s\n' "$prompt" | wc -w)
echo "completed count $((words)) words" >&3
echo "{\"words\": $((words))}"
