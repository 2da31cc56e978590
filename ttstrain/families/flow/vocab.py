"""The table from tokens to indices, and the unknown tokens of a text. Imports no torch.

A vocab file has one token per line; the line's number is the token's index. Index 0 is the space. Unknown
tokens become index 0 too, as upstream does; a plan lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

from ttstrain import documents
from ttstrain.digest import sha256
from ttstrain.errors import RecipeError
from ttstrain.families.flow.spelling import Spelling
from ttstrain.places import expanded

PUBLISHED = "package:emilia"  # the vocab of the nets that F5-TTS and E2-TTS publish
ENGLISH = "package:english"  # the characters of English text, for small nets
PACKAGED = {PUBLISHED: "vocab_emilia.txt", ENGLISH: "vocab_english.txt"}


@dataclass(frozen=True)
class Vocab:
    """Tokens in the order of their indices."""

    tokens: tuple[str, ...]
    source: str
    sha256: str  # of the lines with LF ends
    notes: tuple[str, ...] = ()  # notes on the file, for the plan

    @cached_property
    def index(self) -> dict[str, int]:
        """Map each token to its index."""
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def spelling(self) -> Spelling:
        """How this table writes letters that Unicode has two spellings of."""
        return Spelling(self.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the tokens' indices; an unknown token becomes 0, the space."""
        index = self.index
        return [index.get(token, 0) for token in tokens]


def load_vocab(source: str, *, space_first: bool = True) -> Vocab:
    """Read a vocab file or one that ships with the package.

    Raises RecipeError when there is no such file, when it is not UTF-8, when a token comes twice, or when
    `space_first` and the first token is not the space.
    """
    text = _read_source(source)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    notes: tuple[str, ...] = ()
    if lines[-1] == "":
        lines.pop()
    else:
        notes = (
            f"`{source}` does not end with a newline; its last token is {lines[-1]!r}, "
            f"which upstream would read as {lines[-1][:-1]!r}",
        )
    if not lines:
        raise RecipeError(f"the vocab `{source}` is empty")
    if repeated := [token for token, count in Counter(lines).items() if count > 1]:
        shown = ", ".join(repr(token) for token in repeated[:5])
        raise RecipeError(
            f"the vocab `{source}` has {shown} more than once",
            hint="repeated lines shift later indices; remove them from a new vocab, never from one used in training",
        )
    if space_first and lines[0] != " ":
        raise RecipeError(
            f"the first token of the vocab `{source}` is {lines[0]!r}, not the space",
            hint="unknown characters become index 0, so put the space first, or use `tokenizer: custom`",
        )
    digest = sha256("".join(f"{line}\n" for line in lines))
    return Vocab(tokens=tuple(lines), source=source, sha256=digest, notes=notes)


def hash_of(source: str) -> str | None:
    """Return a file's hash as checkpoints state it; None for a file that is not a vocab."""
    try:
        return f"sha256:{load_vocab(source, space_first=False).sha256}"
    except RecipeError:
        return None


_KINDS_OF_VOCAB = f"`model.vocab` is a file with one token per line, or one of {', '.join(PACKAGED)}"


def _read_source(source: str) -> str:
    if source.startswith("package:"):
        if source not in PACKAGED:
            raise RecipeError(f"ttstrain has no packaged vocab `{source}`", hint=f"there is {', '.join(PACKAGED)}")
        content = resources.files(__package__).joinpath(PACKAGED[source]).read_bytes()
    else:
        content = documents.read_bytes(expanded(source), error=RecipeError, hint=_KINDS_OF_VOCAB)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"the vocab `{source}` is not UTF-8 (byte {error.start})") from error
