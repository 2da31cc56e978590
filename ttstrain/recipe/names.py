"""Names and paths as a user may write them in a recipe: none that a file system would refuse."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, Field

LONGEST_NAME = 200
"""Bytes of a run's name: file systems take 255, and a folder beside it gets an ending."""

LONGEST_PART = 255
"""Bytes of one part of a path, as file systems have it."""


def _short_enough(name: str) -> str:
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        raise ValueError(f"a name of {len(name):,} characters is too long for a folder: {LONGEST_NAME} bytes at most")
    return name


def _possible(path: str) -> str:
    parts = (part for part in path.split("/") if len(part.encode("utf-8", "surrogatepass")) > LONGEST_PART)
    if longest := max(parts, key=len, default=""):
        raise ValueError(f"`{longest[:20]}…` has {len(longest):,} characters: too long for a file name")
    return os.path.expanduser(path)  # noqa: PTH111 -- `Path` would write `hf://` as `hf:/`


Name = Annotated[str, AfterValidator(_short_enough)]
UserPath = Annotated[str, Field(min_length=1), AfterValidator(_possible)]
