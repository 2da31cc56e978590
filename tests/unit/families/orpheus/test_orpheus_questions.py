from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ttstrain.data.cache import FeatureCache
from ttstrain.data.loader import Loader
from ttstrain.data.mixture import Mixture
from ttstrain.errors import DataError
from ttstrain.families.orpheus.batch import SPEECH, TEXT
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.data import OrpheusData
from ttstrain.families.orpheus.tokenizer import TOY

ROUNDS = 90
BUDGET = 1200


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "qa.jsonl"
    return written(path, [{"question": f"What is {i} and {i}?" * 4, "answer": f"{2 * i}." * 20} for i in range(120)])


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data_of(path: Path, **mix: Any) -> OrpheusData:
    rows = {"tokenizer": TOY, "codec": TOY, "dedup": "none", "text_mix": {"path": str(path), **mix}}
    net = {"vocab_size": 28_943, "text_vocab_size": 259, "bos_token_id": 256, "eot_token_id": 258}
    return OrpheusData(OrpheusConfig.model_validate({**net, "rows": rows}))


@pytest.fixture(scope="module")
def speech(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureCache, list[Any]]:
    from ttstrain.data.audit import audit
    from ttstrain.data.readers import read_rows
    from ttstrain.recipe.schema import DataConfig

    clips = audit(read_rows("package:demo"), DataConfig(path="package:demo")).clips[:12]
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), data_of(questions), place="memory")
    assert not cache.build(clips, workers=0).failed
    return cache, clips


def mixture(speech: tuple[FeatureCache, list[Any]], data: OrpheusData, *, rank: int = 0, ranks: int = 1) -> Mixture:
    cache, clips = speech
    loader = Loader(
        cache, clips, data, batch_frames=BUDGET, max_clips=64, seed=0, rank=rank, world_size=ranks, workers=0
    )
    auxiliary = data.auxiliary()
    assert auxiliary is not None
    return Mixture(loader, auxiliary, total_rounds=ROUNDS)


def modality(batch: Any) -> int:
    (only,) = set(batch.modality.tolist())
    return int(only)


def rounds(mixed: Mixture, count: int) -> Iterator[Any]:
    for _ in range(count):
        yield mixed.next(1)[0]


def test_the_ratio_goes_from_two_to_one_to_none(speech: Any, questions: Path) -> None:
    kinds = [modality(batch) for batch in rounds(mixture(speech, data_of(questions)), ROUNDS)]
    third = ROUNDS // 3
    share = [Counter(kinds[i : i + third])[TEXT] / third for i in range(0, ROUNDS, third)]
    assert share[0] == pytest.approx(1.67 / 2.67, abs=0.08)  # means of the ratio over each third
    assert share[1] == pytest.approx(1 / 2, abs=0.08)
    assert share[2] == pytest.approx(0.33 / 1.33, abs=0.08)
    assert set(kinds[-5:]) == {SPEECH}


def test_a_ratio_of_none_is_speech_alone(speech: Any, questions: Path) -> None:
    mixed = mixture(speech, data_of(questions, schedule=[{"at": 0, "ratio": 0}]))
    assert {modality(batch) for batch in rounds(mixed, 20)} == {SPEECH}


def test_a_ratio_may_be_a_fraction(speech: Any, questions: Path) -> None:
    mixed = mixture(speech, data_of(questions, schedule=[{"at": 0, "ratio": 0.25}]))
    assert Counter(modality(batch) for batch in rounds(mixed, 50)) == {SPEECH: 40, TEXT: 10}


def test_every_question_comes_once_before_any_comes_again(speech: Any, questions: Path) -> None:
    data = data_of(questions, schedule=[{"at": 0, "ratio": 20}])
    seen: list[str] = []
    for batch in rounds(mixture(speech, data), 60):
        if modality(batch) == TEXT:
            seen += batch.ids
            if len(seen) >= 120:
                break
    assert len(set(seen[:120])) == 120
    assert seen[:120] != sorted(seen[:120], key=lambda name: int(name.rpartition(":")[2]))  # shuffled


def test_a_mixture_goes_on_where_its_state_was_taken(speech: Any, questions: Path) -> None:
    whole = mixture(speech, data_of(questions))
    expected = [batch.ids for batch in rounds(whole, 40)]
    first = mixture(speech, data_of(questions))
    assert [batch.ids for batch in rounds(first, 17)] == expected[:17]
    state = json.loads(json.dumps(first.state_dict()))
    resumed = mixture(speech, data_of(questions))
    resumed.load_state_dict(state)
    assert [batch.ids for batch in rounds(resumed, 23)] == expected[17:]


def test_ranks_share_the_kind_of_a_round_and_nothing_else(speech: Any, questions: Path) -> None:
    data = data_of(questions)
    pair = [rounds(mixture(speech, data, rank=rank, ranks=2), 12) for rank in range(2)]
    for one, other in zip(*pair, strict=True):
        assert modality(one) == modality(other)
        if modality(one) == TEXT:
            assert not set(one.ids) & set(other.ids)


def test_a_question_can_be_left_out(speech: Any, questions: Path) -> None:
    mixed = mixture(speech, data_of(questions, schedule=[{"at": 0, "ratio": 20}]))
    mixed.exclude(["qa.jsonl:7"])
    assert "qa.jsonl:7" not in {name for batch in rounds(mixed, 60) for name in batch.ids}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"question": "a"}', "row 2 has no question with an answer"),
        ("nonsense", "line 2 cannot be read: it is not JSON"),
        ('{"question": "a <custom_token_4>", "answer": "b"}', "row 2: the text spells"),
    ],
)
def test_a_line_that_is_no_question_is_named(line: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n' + line + "\n")
    with pytest.raises(DataError, match=why):
        data_of(path).auxiliary()


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no question of at most 2048"):
        data_of(written(tmp_path / "qa.jsonl", [])).auxiliary()
    with pytest.raises(DataError, match="cannot be read"):
        data_of(tmp_path / "nowhere.jsonl").auxiliary()


def test_the_points_of_a_schedule_follow_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="must be in ascending order"):
        data_of(tmp_path / "qa.jsonl", schedule=[{"at": 0.5, "ratio": 1}, {"at": 0, "ratio": 1}])
