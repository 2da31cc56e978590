"""A family that ttstrain knows nothing of, put among the others: for this process, or in an installation of its own.

Nothing is changed but what lies in the folder of families.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ttstrain
import ttstrain.families

FAMILIES = Path(__file__).parent / "families"
NAME = "cosy"

PROGRAM = "from ttstrain.cli.main import main; main()"
RECIPE = FAMILIES / NAME / "smoke.yaml"


@contextmanager
def known() -> Iterator[None]:
    """Make this process know the family."""
    ttstrain.families.__path__.append(str(FAMILIES))
    try:
        yield
    finally:
        ttstrain.families.__path__.remove(str(FAMILIES))


def install(folder: Path) -> Path:
    """Lay out this installation of ttstrain again, as links, with one more folder among its families."""
    package = Path(ttstrain.__file__).parent
    own = folder / package.name
    (own / "families").mkdir(parents=True)
    links = [
        *((own / path.name, path) for path in package.iterdir() if path.name not in ("families", "__pycache__")),
        *((own / "families" / path.name, path) for path in (package / "families").iterdir()),
        *((folder / name, package.parent / name) for name in ("configs", "recipes")),
        (own / "families" / NAME, FAMILIES / NAME),
    ]
    for link, target in links:
        if target.exists():  # an installed package holds its recipes itself
            link.symlink_to(target)
    return folder


def run(installation: Path, *arguments: str | Path, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    """Run `ttstrain ARGUMENTS` of an installation in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=installation,  # where Python looks first
    )
