"""What is computed in a fork is what is computed here. Forks are made without torch, so by programs of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ttstrain.data.forked import MANY, Forked

HELP = """
import os, sys
from ttstrain.data import forked
from ttstrain.data.forked import Forked
forked.usable_cores = lambda: 2
assert "torch" not in sys.modules
"""


def run(program: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-c", HELP + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


def test_the_result_is_that_of_another_process() -> None:
    program = """
here = os.getpid()
large = Forked(lambda: (os.getpid() != here, "x" * 10**6), items=forked.MANY)
small = Forked(lambda: os.getpid() != here, items=forked.MANY - 1)
print(large.result() == (True, "x" * 10**6), small.result())
"""
    assert run(program) == "True False"


HALF_SENT = "[os.write(n, b'\\0\\0\\1\\0half') for n in range(3, 20) if is_pipe(n)]; os.kill(os.getpid(), 9)"


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit(3)", "os.abort()", HALF_SENT])
def test_what_a_lost_process_does_not_send_is_computed_here(end: str) -> None:
    program = f"""
import stat
here = os.getpid()
def is_pipe(number):
    try:
        return stat.S_ISFIFO(os.fstat(number).st_mode)
    except OSError:
        return False
def compute():
    if os.getpid() != here:
        {end}
    return "here"
print(Forked(compute, items=forked.MANY).result())
"""
    assert run(program) == "here"


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    program = """
def compute():
    raise ValueError("broken")
other = Forked(compute, items=forked.MANY)
try:
    other.result()
except ValueError as error:
    print(error)
"""
    assert run(program) == "broken"


def test_without_another_process_it_is_computed_when_asked_for() -> None:
    calls: list[int] = []
    here = Forked(lambda: calls.append(1) or len(calls), items=MANY)  # torch is loaded here, and has threads
    assert calls == []
    assert here.result() == 1


def test_a_large_table_is_read_and_planned_alike_with_forks(tmp_path: Path) -> None:
    """With an odd line in neither half, in the first or in the second."""
    (tmp_path / "clips").mkdir()
    for number in range(300):
        (tmp_path / "clips" / f"{number}.wav").touch()
    (tmp_path / "clips" / "spare.wav").touch()
    program = """
from pathlib import Path
from ttstrain.data.readers import jsonl
from ttstrain.plan.facts import gather_facts
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.data import audit
made = []
class Counted(Forked):
    def __init__(self, compute, *, items):
        super().__init__(compute, items=items)
        made.append(self._fork is not None)
for module in (jsonl, audit, forked):
    module.Forked = Counted
audit.MANY_ROWS = 3
jsonl.CHARACTERS_AT_ONCE = 500
found = []
for many in (10, 10**9):
    forked.MANY = jsonl.MANY = many
    made.clear()
    cache = f"data.cache_dir={sys.argv[2]}/{many}"
    recipe = parse(compose("from_scratch", [f"data.path={sys.argv[1]}", cache, "data.batch_frames=2000"]))
    found.append((gather_facts(recipe), audit.audit(jsonl.read_jsonl(Path(sys.argv[1]), Path(sys.argv[1]).parent),
        recipe.data, lengths="given").orphans))
    print(*made)
print(found[0] == found[1], found[0][0].num_clips)
"""
    for odd in (None, 80, 270):
        rows = [
            json.dumps({"id": f"a{n}", "audio": f"clips/{n}.wav", "text": f"Number {n} it is.", "duration": 2.5})
            for n in range(300)
        ]
        if odd is not None:
            rows[odd] = rows[odd].replace("Number", "N\\u00famero")
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        made, without, same = run(program, path, tmp_path / "cache").splitlines()
        assert made.split().count("True") >= 3
        assert "True" not in without
        assert same.startswith("True")
