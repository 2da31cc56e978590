"""Files changed on purpose, for every reader: none may crash it, hang it, run code or be believed in silence."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from hostile.catalogue import Reader, read_cases, readers
from hostile.pool import SURVIVED

from reliability.frame import Limits, Part, Row, Tally

SHORT = 20  # cases of a reader in the short form
QUICK = 150  # readers with fewer cases take long to make their healthy files, and are left out of the short form
GUARANTEE = "a named error, the same content, or a message; within 5 s and 1 GiB; no code run, nothing written outside"


def count_reader(reader: Reader, limits: Limits) -> Row:
    """Read cases of one reader."""
    tally = Tally(f"{reader.name}: changed files", GUARANTEE)
    numbers = range(SHORT if limits.form == "short" else reader.cases)
    place = limits.scratch / "".join(letter if letter.isalnum() else "-" for letter in reader.name)
    for outcome in read_cases(reader, place, numbers, seed=limits.seed):
        said = f"case {outcome.number} ({outcome.how}): {outcome.verdict}: {outcome.detail}"
        tally.add(None if outcome.verdict in SURVIVED else said)
        if limits.over:
            break
    shutil.rmtree(place, ignore_errors=True)
    return tally.row


def count(limits: Limits) -> Iterator[Row]:
    import torch

    torch.set_num_threads(1)  # a process that is forked has none of its parent's threads
    for reader in readers().values():
        if not limits.over and (limits.form == "full" or reader.cases >= QUICK):
            yield count_reader(reader, limits)


PART = Part(
    title="Hostile and broken files",
    method=(
        "A try changes a healthy file, by its format (lengths, offsets, types, names, checksums, opcodes, members of "
        "archives, nesting) or byte by byte, or puts something else in its place, and reads it in a forked process of "
        "5 s of processor time and 1 GiB of address space above what the process holds. It survives if the file is "
        "refused by a named error, read as if nothing had changed, or read with a message; and if no program was "
        "started, no connection opened, nothing written outside the try's own folder and the file itself left as it "
        "was. A file that was changed into another valid file may be read without a message: its format has nothing "
        "that could tell."
    ),
    count=count,
    minutes=30,
    by_name=True,
)
