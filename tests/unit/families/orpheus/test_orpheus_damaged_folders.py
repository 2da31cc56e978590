"""JSON beside a Llama's weights that is damaged or another's: exit code 4 and the file's name, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ttstrain import documents
from ttstrain.errors import CheckpointError
from ttstrain.families.orpheus import upstream
from ttstrain.families.orpheus.export_texts import FACTS

SIZES = dict.fromkeys(upstream.SIZES, 8)
CONFIG = {"model_type": "llama", **SIZES, "vocab_size": 16, "rope_theta": 5e5, "rms_norm_eps": 1e-5}


def test_a_sound_config_is_read(tmp_path: Path) -> None:
    read = upstream._architecture({**CONFIG, "num_key_value_heads": None, "head_dim": None}, tmp_path / "x")
    assert (read["num_key_value_heads"], read["head_dim"], read["rope_theta"]) == (8, 1, 5e5)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "8"},
        {"hidden_size": True},
        {"num_attention_heads": 0},
        {"num_hidden_layers": 10**40},
        {"num_key_value_heads": [8]},
        {"head_dim": -1},
        {"vocab_size": {}},
        {"rope_theta": None},
        {"rope_theta": "much"},
        {"rms_norm_eps": None},
        {"rope_parameters": [1]},
        {"rope_scaling": "llama3"},
        {"rope_scaling": {"rope_type": "llama3", "factor": "x"}},
        {"rope_scaling": {"rope_type": ["llama3"]}},
    ],
)
def test_a_config_of_other_types_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        upstream._architecture({**CONFIG, **change}, tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"vocab": {"a": "1"}}},
        {"model": {"vocab": {"a": None}}},
        {"added_tokens": [True]},
        {"added_tokens": ["x"]},
        {"added_tokens": 3},
        {"added_tokens": [{"content": "a"}]},
        {"added_tokens": [{"content": [], "id": 1}]},
    ],
)
def test_a_tokenizer_of_other_types_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json` cannot be read"):
        upstream._tokenizer_size(tmp_path)


def test_odd_tokenizers_have_no_ids(tmp_path: Path) -> None:
    for content in ({}, {"model": None, "added_tokens": None}, {"model": {"vocab": 3}}):
        (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        assert upstream._tokenizer_size(tmp_path) == 0
        assert upstream._token_ids(tmp_path) is None


def test_the_published_tokenizers_size_is_within_the_limit(tmp_path: Path) -> None:
    """That of Llama 3 has 17 MB, more than any other JSON that is read here."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b'{"model": {"vocab": {"a": 7}}' + b" " * (documents.MAX_BYTES + 2**22) + b"}")
    assert upstream._tokenizer_size(tmp_path) == 8


@pytest.mark.parametrize("content", [{"ttstrain": "x"}, {"ttstrain": [1]}, {"ttstrain": {"rows": 3}}])
def test_facts_of_other_types_are_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / FACTS).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match="changed after the export"):
        upstream._facts(tmp_path)
