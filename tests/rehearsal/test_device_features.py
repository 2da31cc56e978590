"""`data.features=device`: batches are made of features that lie on the GPU, or the recipe is refused."""

from __future__ import annotations

import pytest
from pretended_cuda import GPU, needs_cuda_build, pretended_cuda
from torch import Tensor

from ttstrain import registry
from ttstrain.contract.data import Clip
from ttstrain.data.audio import read_clip
from ttstrain.data.audit import audit
from ttstrain.data.readers import read_rows
from ttstrain.errors import RecipeError
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose
from ttstrain.recipe.shipped import list_recipes

pytestmark = needs_cuda_build

SMOKE = [entry.name for entry in list_recipes() if entry.name.startswith("smoke/")]


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    recipe = parse(compose(SMOKE[0]))
    assert recipe.data.path is not None
    return audit(read_rows(recipe.data.path), recipe.data).clips[:2]


@pytest.mark.parametrize("name", SMOKE)
def test_features_on_the_gpu_make_the_batch_or_are_refused(name: str, clips: list[Clip]) -> None:
    task = parse(compose(name)).task
    spec = registry.find_task(task)
    if spec.planner(spec.config()).features_on_host:
        with pytest.raises(RecipeError, match=f"`data.features=device` is not for `{task}`"):
            parse(compose(name, ["data.features=device"]))
        return
    recipe = parse(compose(name, ["data.features=device"]))
    data = spec.data(recipe.model)
    made = {clip.id: data.features(read_clip(clip, data.sample_rate), clip) for clip in clips}
    on_host = data.collate([data.example(clip, made[clip.id]) for clip in clips])
    with pretended_cuda():
        there = {id_: {key: x.to(GPU) for key, x in features.items()} for id_, features in made.items()}
        data.review_features(clips, lambda clip: there[clip.id])
        batch = data.collate([data.example(clip, there[clip.id]) for clip in clips])
        for field in on_host.__dataclass_fields__:  # type: ignore[attr-defined]
            expected, found = getattr(on_host, field), getattr(batch, field)
            if isinstance(expected, Tensor):
                assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
