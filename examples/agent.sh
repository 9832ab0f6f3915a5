#!/bin/sh
# An agent in shell: counts the words of its prompt. The input is JSON on stdin and the result is
# what it prints; a line on file descriptor 3 is progress.
set -eu

echo 'started count' >&3 # becomes TASK_COUNT_STARTED in the journal
# Enough for counting words; jq -r .prompt reads JSON whole.
prompt=$(sed -En 's/.*"prompt" *: *"(([^"\\]|\\.)*)".*/\1/p')
if [ -z "$prompt" ]; then
  echo 'failed count there is no prompt' >&3
  echo 'the input has no "prompt"' >&2
  exit 1
fi
words=$(printf '%s\n' "$prompt" | wc -w)
echo "completed count $((words)) words" >&3
echo "{\"words\": $((words))}"
