"""Reports the phases and the result of an agent to the runtime of Agent Journal.

    import agent_journal

    with agent_journal.phase("plan"):
        steps = make_a_plan()
    agent_journal.result({"steps": steps})

It writes lines to the file descriptor that PROGRESS_FD names. Without the runtime it does nothing, so
the agent also runs by itself. Standard library only.
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

    A program that the agent starts may inherit the variable without the pipe. There, the number may
    belong to another file, to which we must not write.
    """
    try:
        fd = int(os.environ["PROGRESS_FD"])
        status = os.fstat(fd)
    except (KeyError, ValueError, OSError):
        return None
    return (fd, status.st_ino) if stat.S_ISFIFO(status.st_mode) else None


# Looked up at import, before the program has opened many files of its own.
_PIPE = _pipe()


def _write(line: str) -> None:
    if _PIPE is None:
        return
    fd, inode = _PIPE
    rest = f"{line}\n".encode(errors="replace")
    # A long line takes several writes, between which no other thread may write.
    with _lock, contextlib.suppress(OSError):
        if os.fstat(fd).st_ino == inode:
            while rest:
                rest = rest[os.write(fd, rest) :]


def _one_line(text: str) -> str:
    return " ".join(text.split())


class phase:
    """Journals a phase of the agent: started, then completed, or failed with the exception.

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
    """Sets the agent's result, as JSON. Standard output is then only log. The last call counts. Call it
    in one process only, because long lines of several processes would be mixed.

    Raises TypeError or ValueError if the value is not valid JSON.
    """
    _write(f"result {json.dumps(value, allow_nan=False)}")
