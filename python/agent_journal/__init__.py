"""What an agent tells the runtime of Agent Journal: its phases and its result.

    import agent_journal

    with agent_journal.phase("plan"):
        steps = make_a_plan()
    agent_journal.result({"steps": steps})

It writes lines to the file descriptor that PROGRESS_FD names. Where there is none, as on your own
machine, nothing happens. Standard library only.
"""

import contextlib
import json
import os
import re
import stat
import threading
from collections.abc import Iterator
from typing import Any, Optional

__all__ = ["phase", "result"]

_PHASE = re.compile(r"[A-Za-z0-9_-]{1,50}")
_lock = threading.Lock()


def _pipe() -> Optional[tuple[int, int]]:
    """The runtime's pipe and its inode, if this process has it.

    A program that the agent starts may inherit the variable without the pipe. Whatever has that
    number there must not be written to.
    """
    try:
        fd = int(os.environ["PROGRESS_FD"])
        status = os.fstat(fd)
    except (KeyError, ValueError, OSError):
        return None
    return (fd, status.st_ino) if stat.S_ISFIFO(status.st_mode) else None


# When the module is imported, the program has hardly opened anything of its own.
_PIPE = _pipe()


def _write(line: str) -> None:
    if _PIPE is None:
        return
    fd, inode = _PIPE
    rest = f"{line}\n".encode(errors="replace")
    # A line that is longer than a pipe takes at once must not be mixed with another thread's.
    with _lock, contextlib.suppress(OSError):
        if os.fstat(fd).st_ino == inode:
            while rest:
                rest = rest[os.write(fd, rest) :]


def _one_line(text: str) -> str:
    return " ".join(text.split())


@contextlib.contextmanager
def phase(name: str, text: str = "") -> Iterator[None]:
    """A phase of the agent in the journal: started, and completed or failed with the exception.

    The name has 1 to 50 characters of A-Z a-z 0-9 _ -. The journal keeps 1 KB of the text. Works as
    a decorator too.
    """
    if not _PHASE.fullmatch(name):
        raise ValueError(f"a phase has 1 to 50 characters of A-Z a-z 0-9 _ -, and not {name!r}")
    _write(f"started {name} {_one_line(text)}")
    try:
        yield
    except BaseException as error:
        _write(f"failed {name} {_one_line(f'{type(error).__name__}: {error}')}")
        raise
    _write(f"completed {name}")


def result(value: Any) -> None:
    """The agent's result, as JSON; standard output is then only log. The last one counts.

    Raises TypeError or ValueError for a value that JSON cannot hold.
    """
    _write(f"result {json.dumps(value, allow_nan=False)}")
