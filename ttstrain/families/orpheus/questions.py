"""Text-only questions and answers, mixed into training so that the language model keeps its abilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttstrain.errors import DataError
from ttstrain.families.orpheus.batch import OrpheusBatch
from ttstrain.families.orpheus.data_config import RowsConfig
from ttstrain.families.orpheus.rows import TokenRow, answer_row, pack
from ttstrain.families.orpheus.tokenizer import RowTokenizer, load_tokenizer
from ttstrain.families.orpheus.upstream_data import is_tokenized, read_table, read_tokenized


class Questions:
    """The rows of a file of questions."""

    name = "questions"
    packed = True

    def __init__(self, rows: RowsConfig) -> None:
        """Read and tokenize the file. Raises DataError for a line that is not a question, or if no row is left."""
        assert rows.text_mix is not None
        self._mix = rows.text_mix
        path, tokenizer = Path(rows.text_mix.path), load_tokenizer(rows.tokenizer)
        if is_tokenized(path):
            every = read_tokenized(path, tokenizer, labels=rows.labels)
        else:
            every = [
                _row(number, values, tokenizer, rows, path=path) for number, values in enumerate(read_table(path), 1)
            ]
        self._rows = [row for row in every if len(row.tokens) <= rows.max_tokens]
        self.num_too_long = len(every) - len(self._rows)
        if not self._rows:
            raise DataError(
                f"`{rows.text_mix.path}` has no question of at most {rows.max_tokens} tokens",
                hint='one JSON object a line: {"question": ..., "answer": ...}',
            )
        self.ids = [row.id for row in self._rows]
        self.lengths = [len(row.tokens) for row in self._rows]

    def ratio(self, progress: float) -> float:
        """Return the number of micro-batches of questions per micro-batch of speech, at a share of the run."""
        return self._mix.ratio(progress)

    def batch(self, indices: Sequence[int]) -> OrpheusBatch:
        """Pack rows end to end."""
        return pack([self._rows[i] for i in indices])


def _row(number: int, values: Mapping[str, Any], tokenizer: RowTokenizer, rows: RowsConfig, *, path: Path) -> TokenRow:
    texts = [values.get(key) for key in ("question", "answer")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(
            f"`{path}` row {number} has no question with an answer",
            hint="columns `question` and `answer`, or `input_ids`",
        )
    try:
        question, answer = (tokenizer.encode(str(text)) for text in texts)
    except DataError as error:
        raise DataError(f"`{path}` row {number}: {error.message}") from error
    return answer_row(f"{path.name}:{number}", question, answer, tokenizer.ids, labels=rows.labels)
