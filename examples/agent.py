#!/usr/bin/env python3
"""An agent in Python: counts the words of its prompt.

It reads JSON from stdin, prints its result, and writes lines of progress to file descriptor 3.
"""
import json
import os
import sys


def progress(line):
    os.write(3, f"{line}\n".encode())


progress("started count")  # becomes TASK_COUNT_STARTED in the journal
task = json.load(sys.stdin)
if "prompt" not in task:
    progress("failed count there is no prompt")
    sys.exit('the input has no "prompt"')
words = len(task["prompt"].split())
progress(f"completed count {words} words")
print(json.dumps({"words": words}))
