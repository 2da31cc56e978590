"""Training, judging and hearing a small net."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ttstrain.contract.task import Audio, Prompt
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.data import FlowBatch, FlowData, FlowExample
from ttstrain.families.flow.model.cfm import FlowDraws
from ttstrain.families.flow.task import EVALUATED_TIMES, FlowTask
from ttstrain.modules.mel import MelSpectrogram

SMALL: dict[str, Any] = {
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "dim_head": 16,
    "text_dim": 16,
    "conv_layers": 2,
    "dropout": 0.0,
    "tokenizer": "char",
}


def small_task(**options: Any) -> FlowTask:
    task = FlowTask(FlowConfig(**{**SMALL, **options}))
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return task


def batch_of(*lengths: int, seed: int = 0) -> FlowBatch:
    generator = torch.Generator().manual_seed(seed)
    return FlowData(FlowConfig(**SMALL)).collate(
        [
            FlowExample(
                id=str(number),
                mel=torch.randn(length, 100, generator=generator) * 2 - 3,
                text=torch.randint(1, 90, (5,), generator=generator),
            )
            for number, length in enumerate(lengths)
        ]
    )


def pinned(batch: FlowBatch) -> FlowBatch:
    """Draw everything, noise and times included."""
    batch = small_task().draw(batch)
    assert batch.draws is not None
    draws = replace(batch.draws, noise=torch.randn_like(batch.mel), time=torch.rand(len(batch.ids)))
    return replace(batch, draws=draws)


def rows(batch: FlowBatch, keep: slice) -> FlowBatch:
    draws = batch.draws
    assert draws is not None and draws.noise is not None and draws.time is not None
    return replace(
        batch,
        ids=batch.ids[keep],
        mel=batch.mel[keep],
        mel_lengths=batch.mel_lengths[keep],
        lengths=batch.lengths[keep],
        text=batch.text[keep],
        weight=float((draws.span_end - draws.span_start)[keep].sum()),
        draws=FlowDraws(
            span_start=draws.span_start[keep],
            span_end=draws.span_end[keep],
            drop_audio=draws.drop_audio[keep],
            drop_text=draws.drop_text[keep],
            noise=draws.noise[keep],
            time=draws.time[keep],
        ),
    )


def loss_of(task: FlowTask, batch: FlowBatch) -> float:
    (loss,) = task.losses(batch)
    return float(loss.value.detach())


def test_weight_counts_the_hidden_frames() -> None:
    batch = small_task().draw(batch_of(40, 31))
    assert batch.draws is not None
    assert batch.weight == float((batch.draws.span_end - batch.draws.span_start).sum())
    assert 0.6 * 71 < batch.weight < 71


def test_weighted_micro_batches_make_the_loss_of_one_batch() -> None:
    task = small_task()
    whole = pinned(batch_of(40, 40, 40, 40))
    parts = [rows(whole, slice(0, 1)), rows(whole, slice(1, 4))]
    combined = sum(loss_of(task, part) * part.weight for part in parts) / whole.weight
    assert sum(part.weight for part in parts) == whole.weight
    assert combined == pytest.approx(loss_of(task, whole), rel=1e-5)


def test_losses_never_ask_the_device() -> None:
    # Meta tensors hold no values: anything that would wait for a device fails on them.
    task = small_task(dropout=0.1, cfm={"drop": "sample"})
    batch = task.draw(batch_of(40, 31)).to(torch.device("meta"))
    (loss,) = task.to("meta").losses(batch)
    loss.value.backward()
    assert loss.value.is_meta


def test_losses_need_draws() -> None:
    with pytest.raises(ValueError, match="draw"):
        next(small_task().losses(batch_of(40)))


def test_a_batch_of_tiny_clips_has_a_finite_loss() -> None:
    batch = small_task().draw(batch_of(1))
    assert batch.weight == 0
    assert loss_of(small_task(), batch) == 0


def test_training_on_one_batch_lowers_its_loss() -> None:
    task = FlowTask(FlowConfig(**SMALL))
    batch = pinned(batch_of(30, 30))
    before = loss_of(task, batch)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    for _ in range(30):
        (loss,) = task.losses(batch)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert loss_of(task, batch) < 0.7 * before


def evaluated(task: FlowTask, batch: FlowBatch, seed: int = 0) -> dict[str, float]:
    values = task.eval().evaluate(batch, torch.Generator().manual_seed(seed))
    return {name: float(value) for name, value in values.items()}


def test_evaluation_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    task, batch = small_task(), batch_of(40, 31)
    state = torch.get_rng_state()
    first = evaluated(task, batch)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert evaluated(task, batch) == first
    assert list(first) == ["total", *(f"t{number}" for number in range(len(EVALUATED_TIMES)))]
    assert first["total"] == pytest.approx(sum(list(first.values())[1:]) / len(EVALUATED_TIMES), rel=1e-6)


def test_evaluation_does_not_depend_on_the_batching() -> None:
    task, whole = small_task(), batch_of(40, 40, 40)
    generator = torch.Generator().manual_seed(0)
    parts = [
        replace(
            whole,
            ids=whole.ids[keep],
            mel=whole.mel[keep],
            mel_lengths=whole.mel_lengths[keep],
            lengths=whole.lengths[keep],
            text=whole.text[keep],
            weight=float(whole.mel_lengths[keep].sum()),
        )
        for keep in (slice(0, 2), slice(2, 3))
    ]
    task.eval()
    combined = sum(float(task.evaluate(part, generator)["total"]) * part.weight for part in parts) / whole.weight
    assert combined == pytest.approx(evaluated(task, whole)["total"], rel=1e-5)


def test_evaluation_of_a_silent_net_is_the_targets_power() -> None:
    # A fresh net predicts zero, so the loss is the mean square of `mel - noise` over the last seven tenths.
    task, batch = FlowTask(FlowConfig(**SMALL)), batch_of(40, 20)
    generator = torch.Generator().manual_seed(0)
    expected = 0.0
    for clip, length in zip(batch.mel, batch.mel_lengths.tolist(), strict=True):
        noise = torch.randn(length, 100, generator=generator)
        target = (clip[:length] - noise)[int(0.3 * length) :]
        expected += float(target.square().mean()) * length / batch.num_frames
    assert evaluated(task, batch) == pytest.approx(dict.fromkeys(evaluated(task, batch), expected), rel=1e-5)


def speech(seconds: float, *, level: float, rate: int = 16_000) -> Audio:
    return Audio(
        wav=torch.randn(int(seconds * rate), generator=torch.Generator().manual_seed(0)) * level, sample_rate=rate
    )


def test_sample_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    task = small_task().eval()
    prompt = Prompt("Hello there", reference=speech(1.0, level=0.2), reference_text="One second")
    state = torch.get_rng_state()
    first, again = task.sample(prompt), task.sample(prompt)
    other = task.sample(replace(prompt, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.audio.wav, again.audio.wav)
    assert not torch.equal(first.audio.wav, other.audio.wav)
    assert first.audio.sample_rate == 24_000 and first.audio.wav.abs().max() <= 1


def test_sample_is_as_long_as_upstream_would_make_it() -> None:
    task = small_task().eval()
    sample = task.sample(Prompt("Twenty bytes of text", reference=speech(1.0, level=0.2), reference_text="Ten bytes."))
    shown = (24_000 + 1_200) // 256  # with the silence after it
    assert sample.mel is not None
    assert len(sample.mel) == int(shown / len("Ten bytes.  ") * 20)


def test_very_short_texts_are_slowed_down() -> None:
    task = small_task().eval()
    sample = task.sample(Prompt("Yes", reference=speech(1.0, level=0.2), reference_text="Ten bytes."))
    assert sample.mel is not None
    assert len(sample.mel) == int((24_000 + 1_200) // 256 / len("Ten bytes.  ") * 3 / 0.3)


def test_without_reference_the_length_comes_from_the_text() -> None:
    task = small_task(sampling={"seconds_per_byte": 0.1}).eval()
    sample = task.sample(Prompt("Twenty bytes of text"))
    assert sample.mel is not None
    assert len(sample.mel) == round(20 * 0.1 * 93.75)
    assert sample.audio.wav.isfinite().all()


def test_a_told_duration_is_kept() -> None:
    sample = (
        small_task()
        .eval()
        .sample(Prompt("Hello", reference=speech(0.5, level=0.2), reference_text="Half", duration_s=1.6))
    )
    assert sample.mel is not None
    assert len(sample.mel) == 150


@pytest.mark.parametrize("kind", ["vocos", "bigvgan"])
def test_sampled_mel_is_the_mel_of_the_sampled_waveform_in_length(kind: str) -> None:
    task = small_task(mel=kind).eval()
    sample = task.sample(Prompt("Hello there", reference=speech(0.5, level=0.2), reference_text="Half"))
    assert sample.mel is not None
    again = MelSpectrogram(task.config.mel)(sample.audio.wav[None])[0].T
    assert again.shape == sample.mel.shape


def test_quiet_reference_gives_a_quiet_sample() -> None:
    # As upstream: raised to a fixed level for the net, and the result taken back to the reference's.
    task = FlowTask(FlowConfig(**SMALL)).eval()
    loud, quiet = (
        task.sample(Prompt("Hello there", reference=speech(0.5, level=level), reference_text="Half")).audio.wav
        for level in (0.1, 0.02)
    )
    assert float(quiet.std() / loud.std()) == pytest.approx(0.2, rel=0.02)
