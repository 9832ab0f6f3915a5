"""Changes workflow/session.asl.json in every small way, and says which change fails no test of local/tests/state_machine.rs.

The definition is a text in the test program. So a change is written into a copy of the program, over that
text: the file stays as it is, and nothing is built anew. Arguments: parts of the names of the changes to try.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = (ROOT / "workflow/session.asl.json").read_bytes()

# Part of a change's name: why no test needs to notice it.
EXPLAINED = {
    "0 -> 1 in …{% (${PatienceSeconds}": "PatienceSeconds is 0 or at least 120",
    "0 -> 1 in …{% ${PatienceSeconds}": "PatienceSeconds is 0 or at least 120",
    "ReadNewestEvent.Assign.failedFloor: 0": "the first millisecond of 1970 is as early",
    "traceparent: 65536 -> 131072": "the last four digits are as random",
}

# Outside of texts and regular expressions: what becomes what.
SWAPS = {
    ">=": [">", "<"], "<=": ["<", ">"], ">": [">=", "<"], "<": ["<=", ">"], "=": ["!="], "!=": ["="],
    "+": ["-"], "-": ["+"], "*": ["/"], "/": ["*"], "and": ["or"], "or": ["and"],
    "?": ["= false ?"], "$not(": ["("], "$exists(": ["$not("], "$max(": ["$min("], "$min(": ["$max("],
}  # fmt: skip
TOKEN = re.compile(
    r"'[^']*'|(?<=, )/\S.*?/(?=\))|\$\{\w+\}|:=|[<>!]=|[-+*/<>=?]|\b(?:and|or)\b"
    r"|\$(?:not|exists|max|min)\(|\$?\b[A-Za-z_]\w*|\d+"
)


def changed(expression):
    """Each change of one token: its name, and the expression with it."""
    for token in TOKEN.finditer(expression):
        word, (start, end) = token[0], token.span()
        if word.isdecimal():
            number = int(word)
            others = [2 * number] if number >= 100 else [number + 1] + [number - 1] * (number > 0)
        else:
            others = SWAPS.get(word, [])
        for other in others:
            near = expression[max(0, start - 40) : end + 40]
            yield f"{word} -> {other} in …{near}…", f"{expression[:start]}{other}{expression[end:]}"


def changes(node, path=""):
    """Each change of something in a node: its name, the node that holds it, the key, and the other value."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        here = f"{path}.{key}".removeprefix(".States.")
        if key == "Condition":
            for other in ("true", "false"):
                yield f"{here}: {other}", node, key, f"{{% {other} %}}"
        elif key == "MaxAttempts" and value:
            yield f"{here}: 0", node, key, 0
        elif key == "Catch":
            for index in range(len(value)):
                yield f"{here}.{index}: removed", node, key, value[:index] + value[index + 1 :]
        if isinstance(value, str) and value.startswith("{%"):
            for name, other in changed(value):
                yield f"{here}: {name}", node, key, other
        elif isinstance(value, (dict, list)):
            yield from changes(value, here)


def mutants():
    """Each change's name, and the definition with it, as long as the source."""
    definition = json.loads(SOURCE)
    for name, node, key, other in changes(definition):
        before, node[key] = node[key], other
        text = json.dumps(definition, ensure_ascii=False, separators=(",", ":")).encode()
        node[key] = before
        yield name, text.ljust(len(SOURCE))


def main():
    build = "cargo test --package local --test state_machine --no-run --message-format=json-render-diagnostics"
    built = subprocess.run(build.split(), cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout.splitlines()
    found = [line for line in map(json.loads, built) if line.get("executable")]
    program = next(Path(line["executable"]).read_bytes() for line in found if line["target"]["name"] == "state_machine")
    assert SOURCE in program
    total = gaps = 0
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:

        def fails(text):
            copy = Path(folder, "state_machine")
            copy.write_bytes(program.replace(SOURCE, text))
            copy.chmod(0o755)
            try:
                return subprocess.run([copy], cwd=ROOT / "local", capture_output=True, timeout=120).returncode != 0
            except subprocess.TimeoutExpired:
                return True

        assert not fails(SOURCE), "the tests fail without a change"
        for name, text in mutants():
            if sys.argv[1:] and not any(part in name for part in sys.argv[1:]):
                continue
            why = next((why for part, why in EXPLAINED.items() if part in name), None)
            noticed = fails(text)
            total += 1
            gaps += not noticed and not why
            if not noticed:
                print(f"{why or 'NO TEST FAILS'}: {name}", flush=True)
    print(f"{total} changes, {gaps} that no test notices")
    return gaps > 0


if __name__ == "__main__":
    sys.exit(main())
