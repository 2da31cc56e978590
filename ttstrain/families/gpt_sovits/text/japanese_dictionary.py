"""The dictionary for Japanese readings and pitch: pyopenjtalk-plus's own, or one that a recipe names.

Upstream reads with `open_jtalk_dic_utf_8-1.11`, the dictionary of Open JTalk, and a list of words of its own,
`ja_userdic/userdict.csv`. pyopenjtalk-plus ships a larger dictionary and corrects some readings after it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ttstrain.data.location import cache_root
from ttstrain.digest import sha256_of_files
from ttstrain.errors import RecipeError
from ttstrain.families.gpt_sovits.text.reading import load
from ttstrain.places import expanded

_PARTS = ("sys.dic", "matrix.bin", "char.bin", "unk.dic")  # of a compiled MeCab dictionary


class Dictionary(NamedTuple):
    """The recipe's dictionary; empty: pyopenjtalk-plus's own."""

    system: str = ""  # folder of a compiled MeCab dictionary
    words: str = ""  # more words: a `.csv`, or a compiled `.dic`

    @property
    def is_own(self) -> bool:
        """Whether the recipe names none."""
        return not (self.system or self.words)


OWN = Dictionary()


def labels(text: str, dictionary: Dictionary) -> list[str]:
    """Return OpenJTalk's full-context labels of a text.

    Corrections of pyopenjtalk-plus are left out where the recipe names a dictionary of its own: they were made for the
    other one. Raises RecipeError for files that are no dictionary.
    """
    load("onnxruntime", language="ja")  # without it OpenJTalk reads 何 differently, and warns on every start
    library: Any = load("pyopenjtalk", language="ja")
    if dictionary.is_own:
        made: list[str] = library.make_label(library.run_frontend(text))
        return made
    jtalk = _open(dictionary)
    words = library.run_frontend(text, use_vanilla=bool(dictionary.system), jtalk=jtalk)
    named: list[str] = library.make_label(words, jtalk=jtalk)
    return named


@cache
def digest(dictionary: Dictionary) -> str:
    """Return a hash of a dictionary, for features and checkpoints that depend on it. Raises RecipeError."""
    return sha256_of_files(_files(dictionary))[:16]


def _files(dictionary: Dictionary) -> list[Path]:
    """Return the dictionary's files. Raises RecipeError if one is missing."""
    files = [expanded(dictionary.system) / part for part in _PARTS] if dictionary.system else []
    if missing := [path.name for path in files if not path.is_file()]:
        raise RecipeError(
            f"`model.text.japanese_dictionary`: `{dictionary.system}` has no {', '.join(missing)}",
            hint="the folder of a compiled MeCab dictionary, such as `open_jtalk_dic_utf_8-1.11`",
        )
    if dictionary.words:
        files.append(expanded(dictionary.words))
        if not files[-1].is_file():
            raise RecipeError(
                f"`model.text.japanese_words`: there is no file `{dictionary.words}`",
                hint="a `.csv` as OpenJTalk's user dictionaries are, such as GPT-SoVITS' `ja_userdic/userdict.csv`",
            )
    return files


@cache
def _open(dictionary: Dictionary) -> Any:
    library: Any = load("pyopenjtalk", language="ja")
    _files(dictionary)
    system = str(expanded(dictionary.system)).encode() if dictionary.system else library.OPEN_JTALK_DICT_DIR
    try:
        words = str(_compiled(dictionary, system.decode())).encode() if dictionary.words else b""
        return library.OpenJTalk(dn_mecab=system, userdic=words)
    except RuntimeError as error:
        raise RecipeError(
            f"OpenJTalk cannot read the Japanese dictionary `{dictionary.system or dictionary.words}`: {error}",
            hint="`model.text.japanese_dictionary` is a folder, `model.text.japanese_words` a `.csv` or `.dic`",
        ) from error


def _compiled(dictionary: Dictionary, system: str) -> Path:
    """Return the compiled words; a `.csv` is compiled once and kept in the cache."""
    path = expanded(dictionary.words)
    if path.suffix != ".csv":
        return path
    place = cache_root() / "dictionaries" / f"{digest(dictionary)}.dic"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        made = place.with_suffix(".part")
        with _silent():
            load("pyopenjtalk", language="ja").mecab_dict_index(str(path), str(made), dn_mecab=system)
        made.replace(place)
    return place


@contextmanager
def _silent() -> Iterator[None]:
    """Silence MeCab's compiler, which is written in C and prints to the command's output."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
