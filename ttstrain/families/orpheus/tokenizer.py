"""A model's text tokenizer and the ids of its audio tokens. Imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ttstrain import documents
from ttstrain.digest import sha256, sha256_of_file
from ttstrain.errors import CheckpointError, DataError, RecipeError
from ttstrain.families.orpheus.ids import MOST_TOKENIZER_BYTES, NUM_CUSTOM, TokenIds
from ttstrain.places import expanded
from ttstrain.tensors.hub import HUB, fetch_repository

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
SPECIAL_TOKENS: Final = "special_tokens_map.json"
TOY: Final = "package:toy"
_BESIDE: Final = (TOKENIZER_CONFIG, SPECIAL_TOKENS, "config.json", "generation_config.json")


@dataclass(frozen=True, slots=True)
class RowTokenizer:
    """Text to ids, and the ids of everything else in a row."""

    source: str
    folder: Path | None  # where its files lie; None for the toy
    ids: TokenIds
    size: int  # one past its last id
    digest: str  # of all that decides on ids
    _tokenizer: Tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without BOS.

        Raises DataError for a text that spells a control or audio token, which would be tokenized as such.
        """
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        control = control_tokens(tokens, self.ids)
        if control:
            raise DataError(f"the text spells the control token {self._tokenizer.id_to_token(control[0])}: {text[:60]}")
        return tokens

    def count(self, text: str) -> int:
        """Count the ids of a text."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def spells_control(self, text: str) -> str | None:
        """Return the first control or audio token that a text would be read as."""
        control = control_tokens(self._tokenizer.encode(text, add_special_tokens=False).ids, self.ids)
        return self._tokenizer.id_to_token(control[0]) if control else None

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ids, control tokens included."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text

    def to_json(self) -> str:
        """Return what a tokenizer.json holds."""
        written: str = self._tokenizer.to_str()
        return written


def control_tokens(tokens: Sequence[int], ids: TokenIds) -> list[int]:
    """Return those of a text's ids that are no text."""
    return [token for token in tokens if token >= ids.first_custom or token in (ids.bos, ids.eot)]


@functools.lru_cache(maxsize=4)
def load_tokenizer(spec: str) -> RowTokenizer:
    """Load the tokenizer that `spec` names: a folder, its tokenizer.json, or `hf://owner/repo[/folder]`.

    Raises CheckpointError when there is none, or when it has no audio tokens.
    """
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"the tokenizer needs `{error.name}`, which is not installed", hint='pip install "ttstrain[orpheus]"'
        ) from error
    if spec == TOY:
        from ttstrain.families.orpheus.toy import toy_tokenizer

        tokenizer = toy_tokenizer()
        written = tokenizer.to_str().encode()
        folder = None
    else:
        path = _file(spec)
        folder = path.parent
        written = documents.read_bytes(path, error=CheckpointError, most_bytes=MOST_TOKENIZER_BYTES)
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(written)
        except ValueError as error:
            raise CheckpointError(f"`{path}` is not a tokenizer: {error}") from error
    ids = find_ids(tokenizer, source=spec)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    return RowTokenizer(
        source=spec,
        folder=folder,
        ids=ids,
        size=max(vocab.values()) + 1,
        digest=sha256(written)[:16],
        _tokenizer=tokenizer,
    )


def another_tokenizer(tokenizer: RowTokenizer, *, beside: Path) -> list[str]:
    """Warn if a tokenizer is not the one beside the base's weights."""
    path = (beside if beside.is_dir() else beside.parent) / FILE
    if not path.is_file() or sha256_of_file(path)[:16] == tokenizer.digest:
        return []
    return [
        f"WARNING: the tokenizer `{tokenizer.source}` is not the one beside the base, `{path}`: the same text "
        "may give other ids than in the base's training. Set it with `model.rows.tokenizer`"
    ]


def find_ids(tokenizer: Tokenizer, *, source: str) -> TokenIds:
    """Find where the control and audio tokens lie. Raises CheckpointError unless all are there and in order."""
    first = tokenizer.token_to_id("<custom_token_0>")
    if first is None:
        raise CheckpointError(
            f"the tokenizer `{source}` has no audio tokens (`<custom_token_0>` to `<custom_token_{NUM_CUSTOM - 1}>`)",
            hint="use the tokenizer of an Orpheus model; a plain Llama's has no audio tokens",
        )
    for n in range(NUM_CUSTOM):
        found = tokenizer.token_to_id(f"<custom_token_{n}>")
        if found != first + n:
            where = "is missing" if found is None else f"has id {found}, {first + n} expected"
            raise CheckpointError(f"`<custom_token_{n}>` of the tokenizer `{source}` {where}")
    bos, eot = (tokenizer.token_to_id(name) for name in ("<|begin_of_text|>", "<|eot_id|>"))
    if bos is None or eot is None:
        missing = "<|begin_of_text|>" if bos is None else "<|eot_id|>"
        raise CheckpointError(f"the tokenizer `{source}` has no `{missing}`: it is not Llama 3's")
    return TokenIds(first_custom=first, bos=bos, eot=eot)


def _file(spec: str) -> Path:
    path = _from_hub(spec) if spec.startswith(HUB) else expanded(spec)
    if path.is_dir():
        path = path / FILE
    if not path.is_file():
        raise CheckpointError(f"there is no tokenizer at `{spec}`", hint=f"a folder with a {FILE}, or hf://owner/repo")
    return path


def _from_hub(spec: str) -> Path:
    owner_repo = "/".join(spec.removeprefix(HUB).split("/")[:2])
    inside = spec.removeprefix(HUB)[len(owner_repo) :].strip("/")
    prefix = f"{inside}/" if inside else ""
    return fetch_repository(f"{HUB}{owner_repo}", [prefix + name for name in (FILE, *_BESIDE)]) / inside
