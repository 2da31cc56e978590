"""What a resume must know of a run in W&B, stored in the run's folder: the next row's number, project and entity.

W&B's server knows the number, unless W&B is offline: then W&B numbers a resumed run's rows from 0 again, and an upload
would drop or mix up rows; so each row is given its number. Numbers rise, but may leave gaps: W&B plots over our `step`.
"""

from __future__ import annotations

import json
from pathlib import Path

from ttstrain import documents
from ttstrain.data import atomic
from ttstrain.errors import CheckpointError

_PLACE = Path("wandb", "next_row")  # in a run's folder: the number as text
_RUN = Path("wandb", "place.json")  # {"project", "entity"}
_MOST_DIGITS = 18  # W&B's numbers have 64 bits


def read(run_dir: Path) -> int | None:
    """Return the number of the next row, or None if it is missing or damaged."""
    try:
        written = (run_dir / _PLACE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(written) if written.isdigit() and len(written) <= _MOST_DIGITS else None


def write(run_dir: Path, number: int) -> None:
    """Write the number of the next row. Raises OSError."""
    atomic.write_bytes(run_dir / _PLACE, f"{number}\n".encode(), durability="cached")


def beyond_earlier(run_dir: Path, run_id: str) -> int:
    """Return a number above those of all earlier rows: the size of W&B's files, as each row takes at least a byte.

    0 where W&B has no file of this run. For runs of earlier versions of ttstrain, which did not store the number.
    """
    return sum(file.stat().st_size for file in run_dir.glob(f"wandb/*run-*/run-{run_id}.wandb"))


def read_place(run_dir: Path) -> dict[str, str]:
    """Return the `project` and the `entity` in which the run stands, as far as they can be read."""
    try:
        written = documents.read_object(run_dir / _RUN, error=CheckpointError)
    except CheckpointError:
        return {}
    return {key: written[key] for key in ("project", "entity") if written.get(key) and isinstance(written[key], str)}


def write_place(run_dir: Path, *, project: str, entity: str | None) -> None:
    """Write where the run stands. Raises OSError."""
    atomic.write_text(run_dir / _RUN, json.dumps({"project": project, "entity": entity}) + "\n")
