"""Questions and their answers, mixed into the speech so that pre-training keeps a language model alive."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from ttstrain.errors import DataError
from ttstrain.families.orpheus.batch import OrpheusBatch
from ttstrain.families.orpheus.data_config import RowsConfig
from ttstrain.families.orpheus.rows import Row, answer_row, pack
from ttstrain.families.orpheus.tokenizer import RowTokenizer, load_tokenizer


class Questions:
    """The rows of a file of questions."""

    name = "questions"
    packed = True

    def __init__(self, rows: RowsConfig) -> None:
        """Read and tokenize the file. Raises DataError that names the line that is none, or when no row is left."""
        assert rows.text_mix is not None
        self._schedule = rows.text_mix.schedule
        tokenizer = load_tokenizer(rows.tokenizer)
        every = [
            _row(number, line, tokenizer, rows, path=Path(rows.text_mix.path))
            for number, line in enumerate(_lines(Path(rows.text_mix.path)), 1)
            if line.strip()
        ]
        self._rows = [row for row in every if len(row.tokens) <= rows.max_tokens]
        self.num_too_long = len(every) - len(self._rows)
        if not self._rows:
            raise DataError(
                f"`{rows.text_mix.path}` holds no question of at most {rows.max_tokens} tokens",
                hint='one JSON object a line: {"question": ..., "answer": ...}',
            )
        self.ids = [row.id for row in self._rows]
        self.lengths = [len(row.tokens) for row in self._rows]

    def ratio(self, progress: float) -> float:
        """Return how many micro-batches of questions go with one of speech, at a share of the run."""
        points = self._schedule
        if progress <= points[0].at:
            return points[0].ratio
        for before, after in itertools.pairwise(points):
            if progress <= after.at:
                share = (progress - before.at) / (after.at - before.at)
                return before.ratio + share * (after.ratio - before.ratio)
        return points[-1].ratio

    def batch(self, indices: Sequence[int]) -> OrpheusBatch:
        """Lay rows end to end."""
        return pack([self._rows[i] for i in indices])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the questions `{path}` cannot be read: {error}") from error


def _row(number: int, line: str, tokenizer: RowTokenizer, rows: RowsConfig, *, path: Path) -> Row:
    hint = 'one JSON object a line: {"question": ..., "answer": ...}'
    try:
        values = json.loads(line)
    except ValueError as error:
        raise DataError(f"`{path}` line {number} is no JSON: {error}", hint=hint) from error
    texts = [values.get(key) for key in ("question", "answer")] if isinstance(values, dict) else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"`{path}` line {number} has no question with an answer", hint=hint)
    try:
        question, answer = (tokenizer.encode(str(text)) for text in texts)
    except DataError as error:
        raise DataError(f"`{path}` line {number}: {error.message}") from error
    return answer_row(f"{path.name}:{number}", question, answer, tokenizer.ids, labels=rows.labels)
