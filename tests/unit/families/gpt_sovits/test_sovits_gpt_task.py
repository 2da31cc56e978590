"""The GPT's task: what it weighs, judges and says, and that it waits for no device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.support.sovits_toys import gpt_config, model_section
from ttstrain.contract.task import Mean, Prompt
from ttstrain.errors import RecipeError
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.config import GptConfig, is_packed
from ttstrain.families.gpt_sovits.gpt.task import GptTask
from ttstrain.families.gpt_sovits.planner import GptPlanner
from ttstrain.modules.cpu.switch import VARIABLE

TEXTS, AUDIOS = (5, 9, 2), (11, 4, 8)


def make_task(**gpt: Any) -> GptTask:
    torch.manual_seed(0)
    return GptTask(GptConfig.model_validate(model_section("gpt", gpt=gpt_config(**gpt).model_dump())))


def make_batch(texts: Sequence[int] = TEXTS, audios: Sequence[int] = AUDIOS) -> SovitsBatch:
    generator = torch.Generator().manual_seed(0)
    phones = torch.zeros(len(texts), max(texts), dtype=torch.int64)
    codes = torch.zeros(len(texts), max(audios), dtype=torch.int64)
    for row, (text, audio) in enumerate(zip(texts, audios, strict=True)):
        phones[row, :text] = torch.randint(1, 300, (text,), generator=generator)
        codes[row, :audio] = torch.randint(0, 1024, (audio,), generator=generator)
    return SovitsBatch(
        ids=tuple(map(str, range(len(texts)))),
        weight=float(len(texts)),
        num_frames=2 * sum(audios),
        num_padded=2 * sum(audios),
        phones=phones,
        phone_lengths=tuple(texts),
        bert=torch.randn(*phones.shape, 1024, generator=generator),
        codes=codes,
        code_lengths=tuple(audios),
        wav=None,
        frame_lengths=tuple(2 * audio for audio in audios),
        ssl=None,
        speaker=None,
    )


def only_loss(task: GptTask, batch: SovitsBatch) -> Tensor:
    [loss] = task.losses(task.draw(batch))
    return loss.value


def test_a_mean_weighs_targets_and_a_sum_weighs_clips() -> None:
    batch = make_batch()
    targets = sum(AUDIOS) + len(AUDIOS)
    mean, total = make_task(loss="mean"), make_task(loss="sum")
    assert mean.draw(batch).weight == targets
    assert total.draw(batch).weight == len(AUDIOS)
    torch.testing.assert_close(only_loss(mean, batch) * targets, only_loss(total, batch) * len(AUDIOS))


def test_spans_are_drawn_from_the_global_generator_and_only_when_they_are_used() -> None:
    batch, state = make_batch(), torch.get_rng_state()
    assert make_task().draw(batch).edits == ()
    torch.set_rng_state(state)
    before = torch.get_rng_state()
    make_task_without = make_task()
    torch.set_rng_state(before)
    make_task_without.draw(batch)
    assert torch.equal(torch.get_rng_state(), before)
    task = make_task(dpo=0.5)
    torch.manual_seed(7)
    first = task.draw(batch).edits
    torch.manual_seed(7)
    assert task.draw(batch).edits == first != ()


def test_the_preference_is_logged_and_adds_to_the_loss() -> None:
    batch = make_batch()
    task = make_task(dpo=0.5)
    [loss] = task.losses(task.draw(batch))
    dpo = loss.metrics["dpo"]
    assert isinstance(dpo, Mean)
    assert float(dpo.count) == len(AUDIOS)
    plain = only_loss(make_task(), batch)
    assert float(loss.value.detach()) > float(plain.detach())


def test_an_evaluation_is_per_target_and_repeats_whatever_the_training_does() -> None:
    batch = make_batch()
    wanted = make_task().eval().evaluate(batch, torch.Generator())
    for changes in ({"loss": "sum"}, {"compat": "upstream-2025-07"}, {"dpo": 0.5}):
        task = make_task(**changes).eval()
        for found in (task.evaluate(batch, torch.Generator()), task.evaluate(batch, torch.Generator())):
            assert set(found) == set(wanted) == {"total", "eos", "acc_top3"}
            for name, value in found.items():
                other = wanted[name]
                assert isinstance(value, Mean)
                assert isinstance(other, Mean)
                assert float(value.total) == float(other.total)
                assert float(value.count) == float(other.count)
    total = wanted["total"]
    assert isinstance(total, Mean)
    assert float(total.count) == sum(AUDIOS) + len(AUDIOS)


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    batch, task = make_batch(), make_task(dropout=0.1)
    task.train()
    assert float(only_loss(task, batch).detach()) != float(only_loss(task, batch).detach())
    task.eval()
    assert float(only_loss(task, batch).detach()) == float(only_loss(task, batch).detach())


def test_a_base_that_does_not_know_the_tokens_is_told_of() -> None:
    task, guess = make_task(), math.log(1025)
    assert not task.remarks({"total": 3.1}, step=0)
    assert not task.remarks({"total": guess + 0.1}, step=0)  # fresh weights
    assert "does not predict" in task.remarks({"total": 6.0}, step=0)[0]
    assert "does not predict" in task.remarks({"total": 11.0}, step=0)[0]
    assert not task.remarks({"total": 6.0}, step=100)
    assert "no better than chance" in task.remarks({"total": guess}, step=100)[0]


def test_without_a_vae_it_says_which_file_is_missing() -> None:
    task = make_task()
    assert "model.vae" in task.prepare_sampling()
    with pytest.raises(RecipeError, match=r"model\.vae"):
        task.sample(Prompt("Hello."))


@pytest.mark.parametrize("dpo", [0.0, 0.5])
def test_a_step_asks_nothing_of_the_device(dpo: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values stand for a device that is busy: whoever reads one of them fails."""
    monkeypatch.setenv(VARIABLE, "0")  # as on a GPU; the CPU's own dropout reads a seed on the host
    drawn = make_task(dpo=dpo).draw(make_batch())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        task = make_task(dropout=0.1, dpo=dpo)
        task.train()
        assert drawn.bert is not None
        batch = replace(
            drawn,
            phones=mode.from_tensor(drawn.phones),
            codes=mode.from_tensor(drawn.codes),
            bert=mode.from_tensor(drawn.bert),
        )
        [loss] = task.losses(batch)
        torch.autograd.backward(loss.value)
        with pytest.raises(DataDependentOutputException):
            loss.value.item()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_adapters_find_three_layers_of_every_block() -> None:
    task = make_task(n_layer=2)
    layers = [name for name, module in task.named_modules() if isinstance(module, nn.Linear)]
    found = [
        [name for name in layers if fnmatchcase(name, pattern)] for pattern in GptPlanner(task.config).lora_targets()
    ]
    assert [len(names) for names in found] == [2, 2, 2]


def test_batches_cost_the_sum_of_their_clips_unless_padding_is_taught() -> None:
    assert is_packed(make_task().config)
    assert not is_packed(make_task(compat="upstream-2025-07").config)
