from __future__ import annotations

from pathlib import Path

import pytest

from ttstrain.contract.data import Clip
from ttstrain.data.manifest import write_manifest
from ttstrain.errors import RecipeError
from ttstrain.infer.voice_names import check_voice_name


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text("base: null\n")
    clips = [Clip(id=n, path=Path(n), text=n, speaker=s, duration_s=1, sample_rate=1) for n, s in ("xa", "yb", "zb")]
    write_manifest(tmp_path / "data" / "train.jsonl", [c for c in clips if c.id != "y"])
    write_manifest(tmp_path / "data" / "held_out.jsonl", [c for c in clips if c.id == "y"])
    return tmp_path


def test_a_voice_that_the_run_was_trained_on_is_spoken_with(run: Path) -> None:
    for name in "ab":
        check_voice_name(name, run=run, published=["tara"])


def test_an_unknown_voice_is_refused_with_the_list(run: Path) -> None:
    with pytest.raises(RecipeError, match="no voice `tara`") as refusal:
        check_voice_name("tara", run=run, published=["tara"])
    assert refusal.value.hint == "it was trained on b, a"


def test_a_run_on_published_weights_knows_their_voices(run: Path) -> None:
    (run / "recipe.yaml").write_text("base: hf://someone/model\n")
    check_voice_name("tara", run=run, published=["tara"])
    with pytest.raises(RecipeError, match="did you mean `tara`") as refusal:
        check_voice_name("tarra", run=run, published=["tara"])
    assert refusal.value.hint == "it was trained on b, a; published weights have tara"


def test_where_rows_named_no_voice_any_name_goes(run: Path) -> None:
    for name in ("train", "held_out"):
        write_manifest(run / "data" / f"{name}.jsonl", [])
    check_voice_name("tara", run=run, published=[])
