#!/usr/bin/env python3
"""An agent in Python: counts the words of its prompt.

The input is JSON on stdin and the result is what it prints; a line on file descriptor 3 is progress.
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
