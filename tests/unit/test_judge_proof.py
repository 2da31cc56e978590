"""scripts/judge_proof.py: speech with a fault planted in it, what is decided of a run's findings, and the table."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from ttstrain.checkpoint import judged
from ttstrain.checkpoint.judged import Judged, JudgedStep
from ttstrain.data.audio import read_clip
from ttstrain.judge.evaluate import clips_of_data

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
MODULES = ("judge_proof", "judge_findings", "planted_speech", "planted_faults")
RATE = 16_000


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(SCRIPTS))


# ---------------------------------------------------------------- planted speech


def tone(seconds: float, hz: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


@pytest.mark.parametrize("hz", [90.0, 220.0, 333.0])
def test_faster_speech_is_shorter_and_keeps_its_pitch(scripts: dict[str, ModuleType], hz: float) -> None:
    wav = tone(2.0, hz)
    found = scripts["planted_speech"].faster(wav, rate=RATE, speed=1.3)
    assert len(found) / len(wav) == pytest.approx(1 / 1.3, rel=0.03)
    middle = found[2000:-2000]
    peak = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle))))) * RATE / len(middle)
    assert peak == pytest.approx(hz, abs=2)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_faster_speech_comes_in_its_order(scripts: dict[str, ModuleType]) -> None:
    """A second of 100 Hz, then one of 300 Hz: the change comes 1.3 times as soon."""
    wav = np.concatenate([tone(1.0, 100), tone(1.0, 300)])
    found = scripts["planted_speech"].faster(wav, rate=RATE, speed=1.3)
    crossings = np.diff(np.signbit(found).astype(int)) != 0
    rates = [crossings[start : start + 1600].sum() / 2 / 0.1 for start in range(0, len(found) - 1600, 1600)]
    changed = next(number for number, rate in enumerate(rates) if rate > 200) / 10
    assert changed == pytest.approx(1 / 1.3, abs=0.1)


@pytest.mark.parametrize("number", [2, 3, 8, 11])
def test_every_text_is_exchanged_with_one_of_about_the_same_length(scripts: dict[str, ModuleType], number: int) -> None:
    texts = [f"text {place}" for place in range(number)]
    lengths = [float((7 * place) % number) for place in range(number)]
    found = scripts["planted_speech"].exchanged(texts, lengths=lengths, seed=3)
    assert sorted(found) == sorted(texts)
    assert all(new != old for new, old in zip(found, texts, strict=True))
    length = dict(zip(texts, lengths, strict=True))
    assert all(abs(length[new] - length[old]) <= 2 for new, old in zip(found, texts, strict=True))


def test_one_text_cannot_be_exchanged(scripts: dict[str, ModuleType]) -> None:
    with pytest.raises(ValueError, match="cannot be exchanged"):
        scripts["planted_speech"].exchanged(["one"], lengths=[1.0], seed=0)


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """Three clips of the synthetic voice that ships with ttstrain."""
    folder = tmp_path / "true"
    folder.mkdir()
    rows = []
    for number, clip in enumerate(clips_of_data("package:demo")[:3]):
        wav = read_clip(clip, clip.sample_rate).numpy()
        soundfile.write(folder / f"{number}.wav", wav, clip.sample_rate, subtype="PCM_16")
        rows.append({"audio": f"{number}.wav", "text": clip.text, "speaker": "eva", "language": "en"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


def test_planted_folders_are_data_sets(scripts: dict[str, ModuleType], voice: Path, tmp_path: Path) -> None:
    speech = scripts["planted_speech"]
    true = clips_of_data(str(voice))
    fast = clips_of_data(str(speech.plant_pace(str(voice), tmp_path / "fast", speed=1.3)))
    wrong = clips_of_data(str(speech.plant_transcripts(str(voice), tmp_path / "wrong")))
    assert [(one.text, one.speaker, one.language) for one in fast] == [(c.text, c.speaker, c.language) for c in true]
    assert [a.duration_s / b.duration_s for a, b in zip(true, fast, strict=True)] == pytest.approx([1.3] * 3, rel=0.03)
    assert {clip.text for clip in wrong} == {clip.text for clip in true}
    for spoiled, clip in zip(wrong, true, strict=True):
        assert spoiled.text != clip.text
        difference = speech.samples(spoiled) - speech.samples(clip)
        assert np.abs(difference).max() < 1e-4


def test_another_speaker_goes_by_the_right_ones_name(
    scripts: dict[str, ModuleType], voice: Path, tmp_path: Path
) -> None:
    planted = scripts["planted_speech"].plant_speaker("package:voice", tmp_path / "x", other=str(voice))
    clips = clips_of_data(str(planted))
    assert {clip.speaker for clip in clips} == {clips_of_data("package:voice")[0].speaker}
    assert [clip.text for clip in clips] == [clip.text for clip in clips_of_data(str(voice))]


# ---------------------------------------------------------------- decisions


def said(scripts: dict[str, ModuleType], verdict: str, **values: Any) -> Any:
    given = {
        "outcome": "worse" if verdict.startswith("worse") else "better",
        "verdict": verdict,
        "score": 0.7,
        "base_score": 0.6,
        "alarms": [],
        "closing": "",
        "sides": {},
        "steps": {},
    }
    return scripts["judge_findings"].Said(**{**given, **values})


LOST = "worse than the base: do not use it (words not understood: 1 of 8 sentences, base 7)"
GOOD = "closer to the voice by 0.20, words kept, pace 2 % faster: use EMA of step 300"
RAW = "closer to the voice by 0.20, words kept, pace 2 % faster: use raw weights of step 300"
CASES: list[tuple[str | None, str, dict[str, Any], bool]] = [
    ("lr", LOST, {}, True),
    ("lr", "not usable: words not understood: 1 of 8 sentences, base 2; the base is not either", {}, False),
    ("lr", GOOD, {}, False),
    ("lr", GOOD, {"alarms": ["step 100: words lost: 2 of 8 sentences, base 7"]}, True),
    (None, "nothing was listened to", {"outcome": "unknown", "closing": "gave up"}, False),
    ("pace", GOOD.replace("2 %", "24 %"), {}, True),
    ("pace", GOOD, {}, False),
    ("pace", GOOD.replace("2 % faster", "24 % slower"), {}, False),
    ("speaker", "worse than the base: do not use it (farther from the voice by 0.12)", {}, True),
    ("speaker", LOST, {}, False),
    ("transcripts", LOST, {}, True),
    ("transcripts", "worse than the base: do not use it (farther from the voice by 0.12)", {}, False),
    ("ema", f"{RAW}; EMA of step 300: hardly different from the base, `ema.decay` is too high", {}, True),
    ("ema", f"{GOOD}; EMA of step 300: hardly different from the base, `ema.decay` is too high", {}, False),
    ("ema", RAW, {}, False),
    ("ema", GOOD, {}, False),
    ("steps", GOOD, {"closing": "step 3,000 is worse than step 300 (x): the run was too long"}, True),
    ("steps", LOST, {"steps": {300: 0.2, 3000: 0.0}}, True),
    ("steps", GOOD, {"steps": {300: 0.2, 3000: 0.1}}, False),
    (None, GOOD, {}, True),
    (None, LOST, {}, False),
    (None, GOOD, {"alarms": ["step 200: the pace drifts"]}, False),
    (None, GOOD, {"closing": "step 300 is worse than step 100 (x): the run was too long"}, False),
    (None, "nothing was listened to", {"outcome": "unknown"}, False),
]


@pytest.mark.parametrize(("fault", "verdict", "values", "rightly"), CASES)
def test_a_fault_counts_as_named_where_the_words_say_it(
    scripts: dict[str, ModuleType], fault: str | None, verdict: str, values: dict[str, Any], *, rightly: bool
) -> None:
    named = scripts["judge_findings"].decide(fault, said(scripts, verdict, **values))
    assert named.rightly is rightly
    assert named.why


def test_a_run_that_gave_up_named_its_learning_rate_itself(scripts: dict[str, ModuleType]) -> None:
    findings = scripts["judge_findings"]
    gone = said(scripts, "nothing was listened to", outcome="unknown", closing=findings.GAVE_UP)
    assert findings.decide("lr", gone).rightly is True
    assert findings.decide("lr", replace(gone, closing="")).rightly is False


def test_a_long_run_that_got_no_worse_has_nothing_to_name(scripts: dict[str, ModuleType]) -> None:
    named = scripts["judge_findings"].decide("steps", said(scripts, GOOD, steps={300: 0.21, 3000: 0.2}))
    assert named.rightly is None


def test_what_loss_said(scripts: dict[str, ModuleType]) -> None:
    raw, ema = "eval/loss/total", "eval/ema_loss/total"
    rows = [
        {"step": 0, raw: 1.0, ema: 1.0},
        {"step": 10, "train/loss/model": 3.0},
        {"step": 50, raw: 0.9, ema: 0.7},
        {"step": 99, raw: float("nan"), ema: 0.8},
    ]
    read = scripts["judge_findings"].read_loss
    loss = read(rows)
    assert (loss.base, loss.best, loss.best_step, loss.end_ema, loss.prefers) == (1.0, 0.7, 50, 0.8, True)
    assert loss.end == float("inf")
    assert not read(rows[:1]).prefers
    with pytest.raises(ValueError, match="base"):
        read(rows[1:])


def result(scripts: dict[str, ModuleType], fault: str | None, verdict: str, best: float) -> dict[str, Any]:
    findings = scripts["judge_findings"]
    loss = findings.Loss(1.0, best, 50, float("inf"), None)
    kept = findings.to_json(said(scripts, verdict, steps={300: 0.7}), loss)
    document = {"fault": fault, "title": f"{fault} | voice", "exit_code": 0, "refused": "", **kept}
    read: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    return read


def test_the_table_puts_what_loss_said_beside_what_the_judge_said(scripts: dict[str, ModuleType]) -> None:
    findings = scripts["judge_findings"]
    results = [result(scripts, None, GOOD, 0.8), result(scripts, "lr", LOST, 0.9), result(scripts, "ema", GOOD, 1.1)]
    assert findings.of_json(results[0])[0].steps == {300: 0.7}
    lines = findings.table(results)
    assert [line.count("|") for line in lines] == [5] * 5
    assert "lr / voice" in lines[2] and LOST in lines[2] and "better than the base: 1.000 to 0.900" in lines[2]
    assert "| yes:" in lines[2] and "| **no**:" in lines[3] and "None / voice" in lines[4]
    assert findings.summary(results) == (
        "1 of 2 planted faults named (0 left no trace); 1 of 1 healthy runs without a false alarm; "
        "by held-out loss 1 of 2 spoiled runs are better than the base"
    )


def test_alarms_are_read_from_the_warnings_of_steps_that_were_heard(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    (tmp_path / "warnings.jsonl").write_text(
        "".join(
            json.dumps({"step": 100, "warning": text}) + "\n"
            for text in (
                "step 100: words lost: 2 of 8 sentences, base 7",
                "step 7: the loss is high",
                "the disk is slow",
            )
        )
    )
    step = JudgedStep(100, "online", "worse", LOST, -0.4, {}, alarms={"said": {"words": 0.5}})
    judged.write(tmp_path, Judged([step]))
    findings = scripts["judge_findings"]
    assert findings.alarms_of(tmp_path) == ["step 100: words lost: 2 of 8 sentences, base 7"]
    assert findings.said_in_run(tmp_path).outcome == "worse"
    judged.write(tmp_path, Judged([replace(step, alarms={})]))
    assert findings.alarms_of(tmp_path) == []


# ---------------------------------------------------------------- arms


def test_faults_are_planted_once_and_healthy_runs_take_voices_and_seeds_in_turn(
    scripts: dict[str, ModuleType],
) -> None:
    proof = scripts["judge_proof"]
    every = proof.arms(["package:voice", "/x/367"], healthy=5, everywhere=False)
    assert [arm.fault for arm in every] == [*proof.PLANTED, *[None] * 5]
    assert {arm.other for arm in every if arm.fault} == {"/x/367"}
    assert [(arm.voice, arm.seed) for arm in every[-3:]] == [("package:voice", 2), ("/x/367", 2), ("package:voice", 3)]
    assert len({arm.name for arm in every}) == len(every)
    assert len(proof.arms(["a", "b"], healthy=0, everywhere=True)) == 2 * len(proof.PLANTED)
    assert proof.arms(["a"], healthy=0, everywhere=False)[0].other == "package:demo"


def test_a_result_is_taken_again_only_with_the_same_base_and_settings(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    proof = scripts["judge_proof"]
    base = tmp_path / "base.safetensors"
    base.write_bytes(b"one")
    settings = proof.Settings("quickstart", str(base), 300, 8)
    (arm,) = proof.arms(["package:voice"], healthy=1, everywhere=False)[-1:]
    proof.write_json(tmp_path / "results" / f"{arm.name}.json", {"identity": proof.identify(arm, settings)})
    assert proof.read_result(arm, settings, tmp_path) is not None
    assert proof.read_result(arm, replace(settings, steps=200), tmp_path) is None
    assert not [value for value in proof.identify(arm, settings).values() if str(tmp_path) in str(value)]
    base.write_bytes(b"two")
    assert proof.read_result(arm, settings, tmp_path) is None


def test_the_slow_average_has_no_warm_up(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from ttstrain.optim.ema import Ema
    from ttstrain.plan import refuse

    monkeypatch.setattr(Ema, "decay_at", Ema.decay_at)  # both are put back afterwards
    monkeypatch.setattr(refuse, "_check_ema", refuse._check_ema)
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    ema = Ema(net, decay=0.9999, start_step=0, every=1)
    scripts["planted_faults"].plant("slow_ema")
    torch.nn.init.ones_(net.weight)
    for step in range(1, 301):
        ema.update(step)
    with ema.swapped_in(net):
        assert net.weight.item() == pytest.approx(1 - 0.9999**300, rel=1e-3)
