"""scripts/one_minute.py: the order of its runs, its averages, the rule of success, the statistics and the table."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ttstrain.contract.data import Clip
from ttstrain.errors import NoSpeechError
from ttstrain.judge.figures import Figures
from ttstrain.optim.schedule import lr_at
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def modules() -> Iterator[None]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture
def minute() -> Any:
    import one_minute

    return one_minute


@pytest.fixture
def arms() -> Any:
    import one_minute_arms

    return one_minute_arms


@pytest.fixture
def voices() -> Any:
    import one_minute_voices

    return one_minute_voices


@pytest.fixture
def table() -> Any:
    import one_minute_table

    return one_minute_table


# ---------------------------------------------------------------- order and data


def test_every_arm_gets_its_first_seed_on_every_voice_before_any_gets_its_second(minute: Any) -> None:
    jobs = minute.plan(["ours", "no-warmup", "ema-off"], ["a", "b"], 2, set())
    assert [(job.training, job.voice, job.seed) for job in jobs] == [
        ("ours", "a", 0),
        ("ours", "b", 0),
        ("no-warmup", "a", 0),
        ("no-warmup", "b", 0),
        ("ours", "a", 1),
        ("ours", "b", 1),
        ("no-warmup", "a", 1),
        ("no-warmup", "b", 1),
    ]
    assert jobs[0].arms == ("ours", "ema-off")  # one training serves both


def test_what_is_made_is_not_made_again(minute: Any) -> None:
    made = {("ours", "a", 0), ("no-warmup", "a", 0)}
    jobs = minute.plan(["ours", "no-warmup", "ema-off"], ["a"], 1, made)
    assert [(job.training, job.arms) for job in jobs] == [("ours", ("ema-off",))]


def clips(*lengths: float) -> list[Clip]:
    return [
        Clip(id=f"{n}", path=Path(f"{n}.flac"), text=f"text {n}", duration_s=s, sample_rate=16000)
        for n, s in enumerate(lengths)
    ]


OPTIONS = {"voice": "v", "seconds": 60.0, "sentences": 4, "longest_s": 17.0}


def test_judged_sentences_are_not_trained_on_and_change_with_the_seed(voices: Any) -> None:
    voice = clips(2.5, 9.2, 9.3, 5.8, 9.0, 9.0, 3.8, 8.3, 5.1, 4.0, 21.0)
    cuts = [voices.cut(voice, seed=seed, **OPTIONS) for seed in range(8)]
    for one in cuts:
        assert not {clip.id for clip in one.train} & {clip.id for clip in one.judged}
        assert one.prompt in one.train
        assert voices.FEWEST_S <= sum(clip.duration_s for clip in one.train) <= 60
        assert 3 <= len(one.judged) <= 4
        assert all(clip.duration_s <= 17 for clip in one.train)
    assert len({tuple(clip.id for clip in one.judged) for one in cuts}) > 3
    assert voices.cut(voice, seed=0, **OPTIONS) == cuts[0]


def test_a_voice_with_little_speech_gives_its_shortest_clips(voices: Any) -> None:
    voice = clips(8.9, 8.8, 2.4, 3.0, 3.1, 3.3, 8.7, 8.6, 4.0)  # 51 s: one long clip leaves room for one short one
    for seed in range(8):
        one = voices.cut(voice, seed=seed, **OPTIONS)
        assert len(one.judged) >= 3
        assert sum(clip.duration_s for clip in one.train) >= voices.FEWEST_S


def test_a_voice_with_too_little_speech_is_refused(voices: Any) -> None:
    with pytest.raises(SystemExit, match="too little speech"):
        voices.cut(clips(2.5, 9.2, 9.3, 5.8, 9.0), seed=0, **OPTIONS)
    with pytest.raises(SystemExit, match="no clip of"):
        voices.cut(clips(9.2, 9.3, 9.0), seed=0, **OPTIONS)


# ---------------------------------------------------------------- trainings and averages


@pytest.mark.parametrize("training", ["ours", "no-warmup", "no-clipping", "replay", "upstream-like", "upstream-cli"])
def test_every_training_is_a_recipe(arms: Any, training: str) -> None:
    rates = arms.Rates(ours=3e-4, upstream=6e-4)
    given = arms.overrides(training, steps=200, rates=rates, replay="others.jsonl")
    recipe = parse(compose(arms.RECIPE, [*given, "data.path=one.jsonl", "train.steps=200", "checkpoint.best=null"]))
    lrs = [
        lr_at(recipe.optim.schedule, step=n, base_lr=recipe.optim.lr, total_steps=200, steps_per_epoch=4)
        for n in range(200)
    ]
    assert recipe.optim.max_grad_norm == (None if training == "no-clipping" else 1.0)
    assert (recipe.data.replay is None) is (training != "replay")
    if training == "upstream-like":  # half of a warmup of 100 updates, its end, half of the decay
        assert [lrs[50], lrs[100], lrs[150]] == pytest.approx([3e-4, 6e-4, 3e-4])
        assert recipe.optim.decay_norms_and_biases
    elif training == "upstream-cli":  # 20,000 updates of warmup
        assert [lrs[100], lrs[199]] == pytest.approx([3e-6, 6e-6], rel=0.01)
    else:
        assert lrs[0] == pytest.approx(3e-4 if training == "no-warmup" else 3e-5)
        assert max(lrs) == pytest.approx(3e-4)


def test_upstreams_rate_is_raised_as_much_as_ours(arms: Any) -> None:
    rates = arms.Rates.of_recipes()
    ours, published = (parse(compose(name, ["data.path=x"])).optim.lr for name in (arms.RECIPE, arms.PUBLISHED))
    assert rates.ours == ours
    assert rates.upstream / 1e-5 == pytest.approx(ours / published)


def test_upstreams_ema_is_what_ema_pytorch_computes(arms: Any) -> None:
    """Decays by upstream's formula, worked out by hand: 0.989 after 1,000 updates, 0.9978 after 10,000."""
    reset, inherited = arms.AVERAGES["reset"].decay_at, arms.AVERAGES["inherited"].decay_at
    assert reset(1_001) == pytest.approx(0.9893, abs=1e-4)
    assert reset(10_001) == pytest.approx(0.9978, abs=1e-4)
    assert reset(101) == 0.0  # a copy
    assert reset(100) is None  # between two updates
    assert inherited(1) == 0.9999
    # Of a change, 0.5 % has reached the inherited EMA after 500 updates and 1 % after 1,000.
    assert arms.share_of_run(arms.AVERAGES["inherited"], 500) == pytest.approx(0.005, rel=0.02)
    assert arms.share_of_run(arms.AVERAGES["inherited"], 1_000) == pytest.approx(0.00995, rel=0.02)
    assert arms.share_of_run(arms.AVERAGES["0.99"], 100) == pytest.approx(1 - 0.99**100)


def test_an_average_beside_the_run_follows_every_step(minute: Any, arms: Any) -> None:
    net = nn.Linear(2, 1, bias=False).double()
    run = SimpleNamespace(task=SimpleNamespace(exported=lambda: net), ema=None)
    follower = minute.Follower.of(run, ["0.99", "inherited"])
    expected = {name: net.weight.detach().clone() for name in ("0.99", "inherited")}
    for step in range(1, 26):
        with torch.no_grad():
            net.weight += torch.tensor([[0.1 * step, -0.2]], dtype=torch.float64)
        follower.log(step, {"optim/grad_norm/model": float(step), "train/loss/model": 1.0})
        expected["0.99"] = 0.99 * expected["0.99"] + 0.01 * net.weight.detach()
        if step in (1, 11, 21):
            expected["inherited"] = 0.9999 * expected["inherited"] + 0.0001 * net.weight.detach()
    raw = net.weight.detach().clone()
    for name, wanted in expected.items():
        with follower.weights(name):
            torch.testing.assert_close(net.weight.detach(), wanted)
    assert torch.equal(net.weight.detach(), raw)
    assert follower.norms == [float(step) for step in range(1, 26)]
    with pytest.raises(RuntimeError, match="went back"):
        follower.log(24, {"optim/grad_norm/model": 1.0})


# ---------------------------------------------------------------- success


def heard(voice: float = 0.6, *, words: Sequence[int] = (1, 1, 1, 1, 0), mos: float | None = None) -> list[Figures]:
    return [
        Figures(voice=voice + 0.001 * n, words=float(kept), mos=mos, pace=1.0, repeats=0.0, silence_share=0.1)
        for n, kept in enumerate(words)
    ]


def result(table: Any, figures: Sequence[Figures], base: Sequence[Figures] | None = None, **changes: Any) -> Any:
    made = table.Result("ours", "v", 0, "done", figures, heard() if base is None else base, loss=0.7, base_loss=0.9)
    return replace(made, **changes)


def row(table: Any, figures: Sequence[Figures], **changes: Any) -> Any:
    return table.Row.of(result(table, figures, **changes))


@pytest.mark.parametrize(
    ("figures", "lacking"),
    [
        (heard(0.7), ()),
        (heard(0.62), ("voice",)),  # closer, but by less than the margin
        (heard(0.5), ("voice",)),
        (heard(0.7, words=(1, 1, 1, 0, 0)), ()),  # one sentence fewer
        (heard(0.7, words=(1, 1, 0, 0, 0)), ("words",)),
        ([], ("voice", "words", "other")),  # diverged
        ([replace(one, pace=0.5) for one in heard(0.7)], ("other",)),
    ],
)
def test_a_run_succeeds_by_its_voice_and_words(table: Any, figures: list[Figures], lacking: tuple[str, ...]) -> None:
    found = table.outcome(result(table, figures))
    assert found.lacking == lacking
    assert found.succeeded is (not lacking)
    assert found.as_natural is None


def test_a_lower_mos_is_no_success_where_it_is_measured(table: Any) -> None:
    base = heard(mos=3.5)
    assert table.outcome(result(table, heard(0.7, mos=3.4), base)).succeeded
    assert table.outcome(result(table, heard(0.7, mos=2.5), base)).lacking == ("MOS",)


def test_a_silent_sentence_is_not_understood(table: Any) -> None:
    assert table.found([*heard(words=(1, 1)), Figures(silence_share=1.0, too_short=1.0)]) == 2


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("successes", "runs", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilsons_interval(table: Any, successes: int, runs: int, low: float, high: float) -> None:
    assert table.wilson(successes, runs) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("successes", "runs", "limit", "claimed", "verdict"),
    [
        (1, 20, 0.4, "below", "holds"),
        (19, 20, 0.4, "below", "CONTRADICTED"),
        (4, 10, 0.4, "below", "not decided by so few runs"),
        (60, 60, 0.9, "above", "holds"),
        (10, 20, 0.9, "above", "CONTRADICTED"),
        (20, 20, 0.9, "above", "not decided by so few runs"),
        (0, 0, 0.9, "above", "not measured"),
    ],
)
def test_a_claimed_rate_holds_or_not(
    table: Any, *, successes: int, runs: int, limit: float, claimed: str, verdict: str
) -> None:
    assert table.decide_rate(successes, runs, limit=limit, claimed=claimed) == verdict


def many(table: Any) -> list[Any]:
    """Ten runs in which upstream's weights succeed, ours do not, and warmup changes no norm."""
    made = []
    for seed in range(10):
        common = {"voice": "ab"[seed % 2], "seed": seed // 2, "trained_s": 55.0}
        made += [
            row(table, heard(0.6 + 0.001 * seed), arm="ours", norms=[2.0, 1.0, 1.0], **common),
            row(table, heard(0.8), arm="upstream-like", norms=[1.0], **common),
            row(table, heard(0.7), arm="no-warmup", norms=[1.0, 1.01, 1.0], **common),
        ]
    return made


def test_pairs_are_of_one_voice_and_seed(table: Any) -> None:
    results = many(table)
    gains = table.difference(table.pairs_with(results, "no-warmup"), table.gain_of)
    assert gains.num_clips == 10
    assert gains.mean == pytest.approx(0.1 - 0.0045)
    assert len(table.pairs_with(results[1:], "no-warmup")) == 9


def test_results_against_the_claims_are_printed_as_such(table: Any) -> None:
    said = table.claims(many(table), {"ema_warmup_reaches": 0.95})
    assert said[0].startswith(
        "one minute succeeds in less than 40 % of the runs with `upstream-like`: **CONTRADICTED**; 10 of 10"
    )
    assert said[1].startswith(
        "one minute succeeds in more than 90 % of the runs with `ours`: **CONTRADICTED**; 0 of 10"
    )
    assert said[2].startswith("warmup lowers gradient norms by 70 %: **CONTRADICTED**; measured +0 %")
    assert "not measured" in said[3]


def test_the_horizon_that_wins_is_named_over_common_runs(table: Any, arms: Any) -> None:
    results = []
    for seed in range(6):
        for place, arm in enumerate(arms.HORIZONS):
            gain = 0.2 if arm == "ema-0.99" else 0.001 * place
            results.append(row(table, heard(0.6 + gain + 0.0001 * seed), arm=arm, seed=seed))
    results.append(row(table, heard(0.99), arm="ema-off", seed=99))  # which the others lack
    said = "\n".join(table.claims(results, {"ema_warmup_reaches": 0.95}))
    assert "wins by what is heard: **ema-0.99**" in said
    assert "0.95" in said


def test_the_table_has_a_row_for_each_arm_and_says_what_was_not_measured(table: Any) -> None:
    text = table.tables(many(table), {"steps": 160, "base": "package:x"})
    rows = {cells[1].strip(): cells for line in text.splitlines() if len(cells := line.split("|")) == 12}
    assert [cell.strip() for cell in rows["upstream-like"][2:5]] == ["10", "100 %", "72 to 100"]
    assert rows["ours"][3].strip() == "0 %"
    assert rows["ours"][10].strip() == "voice 10"
    assert rows["ours"][6].strip() == "40 (40) of 50"
    assert "MOS was not measured" in text
    assert "160 steps" in text


def test_a_net_that_generates_nothing_is_heard_as_silent(minute: Any) -> None:
    def sample(_prompt: Any) -> Any:
        raise NoSpeechError("nothing but noise")

    run = SimpleNamespace(task=SimpleNamespace(sample=sample))
    assert minute.say(run, None).wav.numel() == 0


def test_runs_of_an_earlier_table_are_counted_with_the_new_ones(minute: Any, table: Any, tmp_path: Path) -> None:
    about = {"steps": 160}
    rows = many(table)
    written = {"margin": table.MARGIN, "about": about, "runs": [one.to_json() for one in rows]}
    (tmp_path / "earlier.json").write_text(json.dumps(written), encoding="utf-8")
    (tmp_path / "about.json").write_text(json.dumps(about), encoding="utf-8")
    minute.show(tmp_path, tmp_path / "table", earlier=tmp_path / "earlier.json", margin=table.MARGIN)
    again = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert [table.Row.of_json(one) for one in again["runs"]] == rows
    with pytest.raises(SystemExit, match="another margin"):
        minute.read_earlier(tmp_path / "earlier.json", about, margin=0.1)
