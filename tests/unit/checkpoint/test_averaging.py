"""The mean of checkpoints is what it says, is a checkpoint, and is refused for what is not one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ttstrain.checkpoint import store
from ttstrain.checkpoint.averaging import average
from ttstrain.checkpoint.meta import EmaMeta, LoraMeta, Meta
from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.errors import CheckpointError, RecipeError

MODEL = {"backbone": "dit", "dim": 8, "depth": 1, "heads": 1, "vocab": "letters.txt"}


def checkpoint(folder: Path, weights: dict[str, Tensor], *, step: int = 5, **changes: Any) -> Path:
    meta = Meta(family="flow", task="flow", model=MODEL, recipe="toy", step=step, ema=EmaMeta(present=True, step=step))
    state = {"task": weights, "ema": {"weights": {name: 2 * value for name, value in weights.items()}}}
    folder.parent.mkdir(parents=True, exist_ok=True)
    store.save(folder, state, meta.model_copy(update=changes), texts={"vocab": "a\nb\n"})
    return folder


def tensors(value: float, *, seen: int = 1, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {"net.weight": torch.full((2, 3), value, dtype=dtype), "net.seen": torch.tensor(seen)}


def test_the_mean_is_that_of_the_weights_and_opens_as_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run" / "checkpoints"
    paths = [checkpoint(run / f"step-0000000{n}", tensors(n / 10, seen=n), step=n) for n in (1, 2, 6)]
    made = average(paths, tmp_path / "mean")
    assert (made.step, made.num_tensors) == (6, 2)
    loaded = store.load(tmp_path / "mean")
    torch.testing.assert_close(loaded.state["task"]["net.weight"], torch.full((2, 3), 0.3))
    assert int(loaded.state["task"]["net.seen"]) == 6  # a counter: that of the last
    assert (tmp_path / "mean" / "vocab.txt").read_text() == "a\nb\n"
    opened = open_checkpoint(tmp_path / "mean", task="flow")
    assert opened.ema is None
    assert opened.notes == (
        "the mean of the raw weights of 3 checkpoints: run/step-00000001, run/step-00000002, run/step-00000006",
    )


def test_ema_weights_are_averaged_where_they_are_asked_for(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / name, tensors(value)) for name, value in (("a", 1.0), ("b", 3.0))]
    average(paths, tmp_path / "mean", weights="ema")
    mean = store.load(tmp_path / "mean").state["task"]["net.weight"]
    torch.testing.assert_close(mean, torch.full((2, 3), 4.0))


def test_bf16_weights_are_averaged_in_more_digits_than_they_have(tmp_path: Path) -> None:
    values = [1.0, 1.0, 1.0, 1.0078125]  # the last is the next bf16 number; their mean rounds to 1
    paths = [checkpoint(tmp_path / str(n), tensors(value, dtype=torch.bfloat16)) for n, value in enumerate(values)]
    average(paths, tmp_path / "mean")
    mean = store.load(tmp_path / "mean").state["task"]["net.weight"]
    assert mean.dtype == torch.bfloat16
    assert mean[0, 0] == 1.0


LORA = LoraMeta(rank=2, alpha=4, scaling=2, dora=False, layers=1)


@pytest.mark.parametrize(
    ("weights", "changes", "said"),
    [
        ({"net.weight": torch.zeros(2, 4), "net.seen": torch.tensor(1)}, {}, "`net.weight` is 2 x 4 of float32"),
        ({"net.weight": torch.zeros(2, 3)}, {}, "lacks `net.seen`"),
        (tensors(1.0, dtype=torch.float16), {}, "2 x 3 of float16 and 2 x 3 of float32"),
        (tensors(1.0), {"model": {**MODEL, "backbone": "unett"}}, "`model.backbone` is unett and dit"),
        (tensors(1.0), {"versions": {"vocab": "1" * 64}}, "another vocabulary"),
        (tensors(1.0), {"lora": LORA}, "the mean of adapters is not"),
        (tensors(float("nan")), {}, "the mean of `net.weight` is not finite"),
    ],
)
def test_what_is_not_one_model_is_refused_by_its_first_difference(
    tmp_path: Path, weights: dict[str, Tensor], changes: dict[str, Any], said: str
) -> None:
    first = checkpoint(tmp_path / "a", tensors(1.0), versions={"vocab": "0" * 64})
    other = checkpoint(tmp_path / "b", weights, **{"versions": {"vocab": "0" * 64}, **changes})
    with pytest.raises(CheckpointError) as error:
        average([first, other], tmp_path / "mean")
    assert said in error.value.message
    assert not (tmp_path / "mean").exists()


def test_files_of_other_trainers_and_missing_ones_are_refused(tmp_path: Path) -> None:
    own = checkpoint(tmp_path / "a", tensors(1.0))
    torch.save({"w": torch.ones(1)}, tmp_path / "model_10.pt")
    for path, said in ((tmp_path / "model_10.pt", "no checkpoint of ttstrain"), (tmp_path / "no", "does not exist")):
        with pytest.raises(CheckpointError, match=said):
            average([own, path], tmp_path / "mean")


def test_one_checkpoint_is_no_mean_and_nothing_is_overwritten(tmp_path: Path) -> None:
    own = checkpoint(tmp_path / "a", tensors(1.0))
    with pytest.raises(RecipeError, match="two different checkpoints"):
        average([own, own], tmp_path / "mean")
    (tmp_path / "mean").mkdir()
    with pytest.raises(RecipeError, match="exists already"):
        average([own, checkpoint(tmp_path / "b", tensors(2.0))], tmp_path / "mean")
