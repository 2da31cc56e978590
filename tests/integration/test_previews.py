"""What a run lets one hear: base, weights and average of the same sentences, and that hearing disturbs nothing."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from small_runs import checkpoint, differences, finetune, metrics
from vocoders import write_bigvgan, write_vocos

from ttstrain.contract.task import Audio, Prompt, Sample
from ttstrain.errors import CheckpointError, DataError, Preempted
from ttstrain.families.flow.task import FlowTask
from ttstrain.report.record import Reader
from ttstrain.runs.resume import resume
from ttstrain.train import loop, preview_choice, previews, signals, step_log
from ttstrain.train.run import Run
from ttstrain.train.step_log import Taken

SPEAKING = ("sample.every=2", "sample.count=2", "train.steps=4", "eval.every=2")
ALONE = ("sample.count=1", "judge.enabled=false")  # one call of `sample` for each set of weights
NO_WARMUP = "optim.schedule.warmup_steps=0"


@pytest.fixture(scope="module")
def spoken(recipe: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(recipe, tmp_path_factory.mktemp("spoken"), *SPEAKING, f"base={base}", "name=spoken")


def samples(run: Path, step: int) -> Path:
    return run / "samples" / f"step-{step:08d}"


def numbers(run: Path, step: int) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((samples(run, step) / previews.NUMBERS).read_text())["previews"]
    return entries


def test_each_step_holds_base_weights_and_average_with_pictures(spoken: Path) -> None:
    names = [entry["name"] for entry in numbers(spoken, 0)]
    assert len(names) == 2
    for step, kinds in ((0, ("", ".base")), (2, ("", ".base", ".ema")), (4, ("", ".base", ".ema"))):
        expected = {f"{name}{kind}.{end}" for name in names for kind in kinds for end in ("wav", "png")}
        assert {path.name for path in samples(spoken, step).iterdir()} == {*expected, previews.NUMBERS}
    for name in names:
        first, online, ema, again = (
            (samples(spoken, step) / f"{name}{kind}.wav").read_bytes()
            for step, kind in ((0, ""), (4, ""), (4, ".ema"), (4, ".base"))
        )
        assert first == again  # at step 0 the weights are the base's
        assert len({first, online, ema}) == 3


def test_numbers_say_what_was_spoken_and_how_far_off_it_is(spoken: Path) -> None:
    rows = {row["step"]: row for row in metrics(spoken)}
    for entry in numbers(spoken, 4):
        name, online = entry["name"], entry["online"]
        info = soundfile.info(samples(spoken, 4) / online["file"])
        assert online["seconds"] == pytest.approx(info.duration)
        assert online["duration_ratio"] == pytest.approx(info.duration / entry["recorded_s"])
        assert entry["text"] and entry["voice"] and entry["voice"] != name and entry["voice_text"]
        assert entry["vocoder"] == "Griffin-Lim: rougher than Vocos"
        assert rows[4][f"sample/mel_distance/{name}"] == online["mel_distance"]
        assert rows[4][f"sample/ema_mel_distance/{name}"] == entry["ema"]["mel_distance"]
        assert rows[4][f"sample/base_mel_distance/{name}"] == entry["base"]["mel_distance"]
        assert rows[4][f"sample/base_mel_distance/{name}"] == rows[0][f"sample/mel_distance/{name}"]
        assert rows[4][f"sample/duration_ratio/{name}"] == online["duration_ratio"]
    for prefix in ("", "ema_", "base_"):
        place = f"sample/{prefix}mel_distance/"
        own = [value for key, value in rows[4].items() if key.startswith(place) and not key.endswith("/mean")]
        assert len(own) == 2 and rows[4][f"{place}mean"] == pytest.approx(sum(own) / 2)


def test_a_resumed_run_finds_its_base(spoken: Path, tmp_path: Path) -> None:
    run = tmp_path / "spoken"
    shutil.copytree(spoken, run)
    resume(run, ["train.steps=6"])
    for entry, first in zip(numbers(run, 6), numbers(run, 0), strict=True):
        assert entry["base"]["mel_distance"] == first["base"]["mel_distance"]
        kept = samples(run, 6) / entry["base"]["file"]
        assert kept.read_bytes() == (samples(run, 0) / first["base"]["file"]).read_bytes()


def test_a_resumed_run_lets_the_base_speak_again_when_its_samples_are_lost(
    spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, plain = tmp_path / "spoken", tmp_path / "plain"
    shutil.copytree(spoken, run)
    shutil.copytree(spoken, plain)
    shutil.rmtree(run / "samples")
    resume(run, ["train.steps=6"])
    assert "generated 2 base-model samples again" in capsys.readouterr().err
    resume(plain, ["train.steps=6"])
    assert differences(checkpoint(run, 6).state, checkpoint(plain, 6).state) == []  # and training saw nothing of it
    for entry in numbers(run, 6):
        file = entry["base"]["file"]
        assert (samples(run, 6) / file).read_bytes() == (samples(spoken, 0) / file).read_bytes()


def test_a_lost_base_that_is_gone_is_said(
    recipe: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "base"
    shutil.copytree(base, moved)
    run = finetune(recipe, tmp_path, *SPEAKING, f"base={moved}", "name=a")
    shutil.rmtree(run / "samples")
    shutil.rmtree(moved)
    capsys.readouterr()
    resume(run, ["train.steps=6"])
    assert "no base-model samples" in capsys.readouterr().err
    assert "base" not in numbers(run, 6)[0]


def test_previews_do_not_change_training(spoken: Path, recipe: Path, base: Path, tmp_path: Path) -> None:
    silent = finetune(recipe, tmp_path, *SPEAKING, f"base={base}", "name=silent", "sample.every=null")
    assert differences(checkpoint(silent, 4).state, checkpoint(spoken, 4).state) == []


FAILURES: list[Callable[[], Exception]] = [
    lambda: RuntimeError("shapes do not match"),
    lambda: DataError("the reference is silent", hint="record it louder"),
    lambda: OSError(28, "No space left on device"),
    lambda: TypeError("a defect"),
]


@pytest.mark.parametrize("make", FAILURES, ids=lambda make: type(make()).__name__)
def test_a_failing_preview_is_said_and_leaves_everything_as_it_was(
    make: Callable[[], Exception],
    *,
    recipe: Path,
    base: Path,
    spoken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tasks = []

    def fail(self: FlowTask, prompt: Prompt) -> Sample:
        tasks.append(self)
        torch.rand(100)
        assert not self.training
        raise make()

    monkeypatch.setattr(FlowTask, "sample", fail)
    run = finetune(recipe, tmp_path, *SPEAKING, f"base={base}", "name=failing")
    error = capsys.readouterr().err
    assert error.count("WARNING: preview ") == 4  # two sentences, of the weights and of the average, each said once
    assert tasks and all(task.training for task in tasks)
    assert differences(checkpoint(run, 4).state, checkpoint(spoken, 4).state) == []
    assert numbers(run, 4) == []


def test_a_signal_amid_speaking_breaks_it_off_and_the_state_is_saved(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken: list[int] = []

    def sample(self: FlowTask, prompt: Prompt) -> Sample:
        spoken.append(1)
        if len(spoken) == 2:  # the first at step 2
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("went on")
        return Sample(Audio(torch.rand(2400), 24_000))

    monkeypatch.setattr(FlowTask, "sample", sample)
    with pytest.raises(Preempted, match="after step 2"):
        finetune(recipe, tmp_path, *SPEAKING, *ALONE, "name=r", "checkpoint={every: 100, best: null}")
    assert len(spoken) == 2
    assert checkpoint(tmp_path / "r", 2).meta.step == 2


def test_previews_that_cannot_be_chosen_cost_no_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise DataError("the recording is gone")

    monkeypatch.setattr(preview_choice, "read_clip", fail)
    run = finetune(recipe, tmp_path, *SPEAKING, "name=r")
    assert metrics(run)[-1]["step"] == 4
    assert "WARNING: previews are off: the recording is gone" in " ".join(capsys.readouterr().err.split())


def test_a_stop_amid_speaking_puts_weights_modes_and_random_numbers_back(
    recipe: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three calls the third is the average's, at step 2; the second is the weights' own just before."""
    seen: list[tuple[FlowTask, dict[str, torch.Tensor], torch.Tensor]] = []

    def sample(self: FlowTask, prompt: Prompt) -> Sample:
        seen.append((self, {name: t.clone() for name, t in self.state_dict().items()}, torch.get_rng_state()))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return Sample(Audio(torch.rand(2400), 24_000))

    monkeypatch.setattr(FlowTask, "sample", sample)
    with pytest.raises(KeyboardInterrupt):  # not swallowed
        finetune(recipe, tmp_path, *SPEAKING, *ALONE, f"base={base}", "name=stopped")
    (task, weights, state), (_, average, _) = seen[1:]
    assert any(not torch.equal(average[name], tensor) for name, tensor in weights.items())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in task.state_dict().items())
    assert all(part.training for part in task.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_from_scratch_has_no_base_to_compare_with(recipe: Path, tmp_path: Path) -> None:
    run = finetune(
        recipe, tmp_path, "sample.every=1", "sample.texts=[Hello there]", "train.steps=1", "eval.every=1", NO_WARMUP
    )
    assert sorted(path.name for path in samples(run, 1).iterdir()) == [
        previews.NUMBERS,
        "text-1.ema.png",
        "text-1.ema.wav",
        "text-1.png",
        "text-1.wav",
    ]
    assert numbers(run, 1)[0]["online"]["mel_distance"] is None


def test_the_recipes_vocoder_speaks_and_a_wrong_one_stops_before_training(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocos, bigvgan = write_vocos(tmp_path / "v"), write_bigvgan(tmp_path / "b")
    once = ("sample.every=1", "sample.count=1", "train.steps=1", "eval.every=1", NO_WARMUP)
    with pytest.raises(CheckpointError, match="is BigVGAN"):
        finetune(recipe, tmp_path / "runs", *once, f"model.sampling.vocoder={bigvgan}")
    assert not any((tmp_path / "runs").iterdir())
    capsys.readouterr()
    run = finetune(recipe, tmp_path / "runs", *once, f"model.sampling.vocoder={vocos}")
    assert f"previews are generated with Vocos ({vocos})" in capsys.readouterr().err
    assert numbers(run, 1)[0]["vocoder"] == f"Vocos ({vocos})"


# ---------------------------------------------------------------- on request


@pytest.fixture
def asked_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, str]], None]:
    """Let files `SAMPLE` with these texts appear while these steps are taken."""

    def appear(texts: dict[int, str]) -> None:
        def log_and_ask(run: Run, taken: Taken) -> None:
            step_log.log_step(run, taken)
            if run.progress.step in texts:
                (run.folder / "SAMPLE").write_text(texts[run.progress.step], encoding="utf-8")

        monkeypatch.setattr(signals, "POLL_S", 0.0)
        monkeypatch.setattr(loop, "log_step", log_and_ask)

    return appear


def test_a_text_that_is_asked_for_is_said_and_training_does_not_notice(
    recipe: Path, base: Path, spoken: Path, tmp_path: Path, asked_at: Callable[[dict[int, str]], None]
) -> None:
    asked_at({1: "What a day!", 2: "What a day!", 3: ""})
    run = finetune(recipe, tmp_path, *SPEAKING, f"base={base}", "name=spoken")
    assert differences(checkpoint(run, 4).state, checkpoint(spoken, 4).state) == []
    assert metrics(run) == metrics(spoken)
    (first,) = numbers(run, 1)
    *usual, second = numbers(run, 2)
    assert (first["text"], first["asked"], first["name"]) == ("What a day!", True, second["name"])
    assert usual == numbers(spoken, 2)
    assert [entry["name"] for entry in numbers(run, 3)] == [entry["name"] for entry in numbers(spoken, 2)]
    for step in (1, 2, 3):
        for entry in numbers(run, step):
            for weights in ("online", "ema"):
                assert soundfile.info(samples(run, step) / entry[weights]["file"]).duration > 0.1
    rows = {row.text for row in Reader(run).read().grid.rows}
    assert "What a day!" in rows


def test_a_request_that_cannot_be_met_is_told(
    recipe: Path, tmp_path: Path, asked_at: Callable[[dict[int, str]], None], capfd: pytest.CaptureFixture[str]
) -> None:
    asked_at({1: "What a day!"})
    finetune(recipe, tmp_path, "train.steps=2", NO_WARMUP, "name=silent")
    assert "SAMPLE: this run generates no samples" in capfd.readouterr().err


def test_a_text_that_cannot_be_said_is_a_warning_each_time(
    recipe: Path,
    tmp_path: Path,
    asked_at: Callable[[dict[int, str]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sample(_task: FlowTask, prompt: Prompt) -> Sample:
        raise DataError("this text is too long")

    monkeypatch.setattr(FlowTask, "sample", sample)
    asked_at({1: "What a day!", 3: "What a day!"})
    run = finetune(recipe, tmp_path, "sample.every=100", *ALONE, "train.steps=4", "name=mute")
    said = [one.text for one in Reader(run).read().events.warnings]
    why = "`What a day!` is not generated at step {}: this text is too long"
    assert [one for one in said if one.startswith("SAMPLE")] == [f"SAMPLE: {why.format(step)}" for step in (1, 3)]
