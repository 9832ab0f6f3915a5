"""What an agent tells the runtime of Agent Journal: its phases and its result.

    import agent_journal

    with agent_journal.phase("plan"):
        steps = make_a_plan()
    agent_journal.result({"steps": steps})

It writes lines to the file descriptor that PROGRESS_FD names. Where there is none, as on your own
machine, nothing happens. Standard library only.
"""

import contextlib
import functools
import inspect
import json
import os
import re
import stat
import threading
from typing import Any, Callable, Optional, TypeVar, cast

__all__ = ["phase", "result"]

F = TypeVar("F", bound=Callable[..., Any])

_PHASE = re.compile(r"[A-Za-z0-9_-]{1,50}")
# A signal handler may report something while a line is being written.
_lock = threading.RLock()


def _after_fork() -> None:
    """A thread of the parent may hold the lock, and does not exist in the child."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


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


class phase:
    """A phase of the agent in the journal: started, and completed or failed with the exception.

    The name has 1 to 50 characters of A-Z a-z 0-9 _ -. The journal keeps 1 KB of the text. Use it with
    `with`, or as the decorator of a function, which may be async or a generator.
    """

    def __init__(self, name: str, text: str = "") -> None:
        if not _PHASE.fullmatch(name):
            raise ValueError(f"a phase has 1 to 50 characters of A-Z a-z 0-9 _ -, and not {name!r}")
        self._name, self._text = name, text

    def __enter__(self) -> None:
        _write(f"started {self._name} {_one_line(self._text)}")

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        if error is None or isinstance(error, GeneratorExit):
            _write(f"completed {self._name}")
        else:
            try:
                said = str(error)
            except Exception:
                said = "it cannot be printed"
            _write(f"failed {self._name} {_one_line(f'{type(error).__name__}: {said}')}")

    def __call__(self, function: F) -> F:
        run: Any = function

        @functools.wraps(function)
        def plain(*args: Any, **named: Any) -> Any:
            with self:
                return run(*args, **named)

        @functools.wraps(function)
        def generator(*args: Any, **named: Any) -> Any:
            with self:
                return (yield from run(*args, **named))

        @functools.wraps(function)
        async def coroutine(*args: Any, **named: Any) -> Any:
            with self:
                return await run(*args, **named)

        @functools.wraps(function)
        async def async_generator(*args: Any, **named: Any) -> Any:
            with self:
                async for item in run(*args, **named):
                    yield item

        wrapper: Any = plain
        if inspect.iscoroutinefunction(function):
            wrapper = coroutine
        elif inspect.isasyncgenfunction(function):
            wrapper = async_generator
        elif inspect.isgeneratorfunction(function):
            wrapper = generator
        return cast(F, wrapper)


def result(value: Any) -> None:
    """The agent's result, as JSON; standard output is then only log. The last one counts. Call it in one
    process only: lines of several, if they are long, are mixed.

    Raises TypeError or ValueError for a value that JSON cannot hold.
    """
    _write(f"result {json.dumps(value, allow_nan=False)}")
