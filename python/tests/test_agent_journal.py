"""Each test runs a program with a pipe of its own as file descriptor 3, as the runtime does."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Optional

import pytest

PACKAGE = Path(__file__).parent.parent


def run(program: str, fd: Optional[int] = 3, ok: bool = True) -> list[str]:
    """Runs a program, and returns the lines that it wrote to the runtime."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    environment.pop("PROGRESS_FD", None)
    if fd is not None:
        environment["PROGRESS_FD"] = str(fd)
    # The pipe is the shell's stdout, which becomes the program's file descriptor 3.
    command = ["sh", "-c", 'exec "$0" -c "$1" 3>&1 >&2', sys.executable, textwrap.dedent(program)]
    child = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    assert (child.returncode == 0) == ok, child.stderr
    return child.stdout.splitlines()


def test_a_phase_is_started_and_completed() -> None:
    program = """
        import agent_journal
        with agent_journal.phase("plan", "two\\nlines"):
            pass
        @agent_journal.phase("act")
        def act(): pass
        act()
    """
    assert run(program) == ["started plan two lines", "completed plan", "started act ", "completed act"]


def test_a_phase_decorates_every_kind_of_function() -> None:
    program = """
        import asyncio, inspect, agent_journal

        @agent_journal.phase("plain")
        def plain(n): return n

        @agent_journal.phase("generator")
        def generator():
            yield 1
            return 2

        @agent_journal.phase("coroutine")
        async def coroutine():
            await asyncio.sleep(0)
            return 3

        @agent_journal.phase("stream")
        async def stream():
            yield 4
            raise ValueError("no more")

        assert inspect.iscoroutinefunction(coroutine) and inspect.isasyncgenfunction(stream)
        assert plain(0) == 0 and plain.__name__ == "plain"
        assert list(generator()) == [1]

        async def main():
            assert await coroutine() == 3
            got = []
            try:
                async for item in stream():
                    got.append(item)
                    agent_journal.result(item)
            except ValueError:
                pass
            assert got == [4]

        asyncio.run(main())
        first = generator()
        next(first)
        first.close()
    """
    assert run(program) == [
        "started plain ", "completed plain", "started generator ", "completed generator",
        "started coroutine ", "completed coroutine",
        "started stream ", "result 4", "failed stream ValueError: no more",
        "started generator ", "completed generator",
    ]


def test_a_phase_fails_with_the_exception_which_goes_on() -> None:
    program = """
        import agent_journal
        with agent_journal.phase("plan"):
            raise ValueError("no\\nplan")
    """
    assert run(program, ok=False) == ["started plan ", "failed plan ValueError: no plan"]
    program = """
        import agent_journal, sys
        with agent_journal.phase("plan"):
            sys.exit(0)
    """
    assert run(program)[-1] == "failed plan SystemExit: 0"


def test_a_result_is_one_line_of_json_and_the_last_one_comes_last() -> None:
    program = """
        import agent_journal
        agent_journal.result(None)
        agent_journal.result({"text": "a\\nb", "n": [1, 2.5]})
    """
    lines = run(program)
    assert lines[0] == "result null"
    assert json.loads(lines[1].removeprefix("result ")) == {"text": "a\nb", "n": [1, 2.5]}
    assert len(lines) == 2


@pytest.mark.parametrize("value", ["{1, 2}", "float('nan')", "object()"])
def test_what_json_cannot_hold_is_refused_where_it_is_given(value: str) -> None:
    program = f"""
        import agent_journal
        try:
            agent_journal.result({value})
        except (TypeError, ValueError):
            agent_journal.result("refused")
    """
    assert run(program) == ['result "refused"']


@pytest.mark.parametrize("name", ["", "two words", "a" * 51, "é", "a\n"])
def test_an_invalid_phase_is_refused_even_where_nobody_listens(name: str) -> None:
    program = f"""
        import agent_journal
        try:
            with agent_journal.phase({name!r}):
                pass
        except ValueError as error:
            assert "1 to 50" in str(error)
        else:
            raise SystemExit("accepted")
    """
    assert run(program, fd=None) == []


def test_nothing_happens_without_the_runtime() -> None:
    program = """
        import agent_journal
        with agent_journal.phase("plan"):
            agent_journal.result(7)
    """
    assert run(program, fd=None) == []
    assert run(program, fd=99) == []


def test_a_descriptor_that_is_no_pipe_is_not_written_to(tmp_path: Path) -> None:
    program = f"""
        import os, sys
        file = os.open({str(tmp_path / "file")!r}, os.O_CREAT | os.O_WRONLY)
        os.environ["PROGRESS_FD"] = str(file)
        import agent_journal
        agent_journal.result(7)
    """
    assert run(program, fd=None) == []
    assert (tmp_path / "file").read_text() == ""


def test_a_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    program = """
        import os, threading, agent_journal
        with agent_journal._lock:
            pid = os.fork()
            if pid == 0:
                t = threading.Thread(target=agent_journal.result, args=(7,))
                t.start(); t.join(10)
                os._exit(1 if t.is_alive() else 0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    """
    assert run(program) == ["result 7"]


def test_an_exception_that_cannot_be_printed_is_reported_all_the_same() -> None:
    program = """
        import agent_journal
        class Odd(Exception):
            def __str__(self): raise ValueError
        with agent_journal.phase("plan"):
            raise Odd
    """
    assert run(program, ok=False)[1] == "failed plan Odd: it cannot be printed"


def test_a_file_that_took_the_number_of_the_pipe_is_not_written_to(tmp_path: Path) -> None:
    program = f"""
        import os, agent_journal
        os.close(3)
        file = os.open({str(tmp_path / "file")!r}, os.O_CREAT | os.O_WRONLY)
        assert file == 3
        agent_journal.result(7)
    """
    assert run(program) == []
    assert (tmp_path / "file").read_text() == ""


def test_long_results_of_threads_are_not_mixed() -> None:
    program = """
        import agent_journal, threading
        write = lambda n: [agent_journal.result(str(n) * 300_000) for _ in range(20)]
        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        [t.start() for t in threads]; [t.join() for t in threads]
    """
    lines = run(program)
    assert sorted({line[8] for line in lines}) == ["0", "1", "2", "3"]
    for line in lines:
        assert set(line.removeprefix("result ").strip('"')) == {line[8]}
        assert len(line) == 300_009
