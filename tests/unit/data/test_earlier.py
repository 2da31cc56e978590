"""A run that goes on keeps its held-out clips, and is told what changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ttstrain.contract.data import Clip
from ttstrain.data.earlier import Earlier, Side, changes, fingerprint, read_earlier, write_record
from ttstrain.data.manifest import write_manifest
from ttstrain.data.split import DataSplit, split_data
from ttstrain.recipe.schema import DataConfig


def clips(count: int, *, first: int = 0) -> list[Clip]:
    return [
        Clip(id=f"c{i}", path=Path(f"{i}.wav"), text=f"Sentence {i}.", duration_s=1.0, sample_rate=8000, digest=f"d{i}")
        for i in range(first, first + count)
    ]


def draw(now: list[Clip], earlier: Earlier | None = None, holdout: float = 0.1) -> DataSplit:
    return split_data(now, [], DataConfig(path="a", holdout=holdout), seed=0, earlier=earlier)


def after(split: DataSplit, **changed: object) -> Earlier:
    return Earlier(Side(split.train, split.held_out), **changed)  # type: ignore[arg-type]


def ids(some: list[Clip]) -> set[str]:
    return {clip.id for clip in some}


@pytest.mark.parametrize("holdout", [0.1, 4])
def test_held_out_clips_stay_and_new_ones_are_trained(holdout: float) -> None:
    first = draw(clips(40), holdout=holdout)
    grown = draw(clips(120), after(first), holdout=holdout)
    assert grown.held_out == first.held_out
    assert draw(clips(120)[::-1], after(first), holdout=holdout).held_out == first.held_out  # in their order
    assert len(grown.train) == 120 - len(first.held_out)
    # chosen as for a new run, clips that were trained on would be held out
    assert any(ids(draw(clips(count), holdout=0.2).held_out) & ids(first.train) for count in range(41, 50))


def test_a_clip_is_known_by_its_recording_whatever_it_is_called() -> None:
    first = draw(clips(40))
    renamed = [replace(clip, id=f"x/{clip.id}") for clip in clips(40)]
    assert {clip.digest for clip in draw(renamed, after(first)).held_out} == {clip.digest for clip in first.held_out}


def test_another_recording_under_the_same_id_stays_on_its_side() -> None:
    first = draw(clips(40))
    again = draw([replace(clip, digest=f"new {clip.digest}") for clip in clips(40)], after(first))
    assert ids(again.held_out) == ids(first.held_out)


def test_a_trained_recording_that_takes_a_held_out_id_is_trained() -> None:
    first = draw(clips(40))
    held, trained = first.held_out[0], first.train[0]
    swapped = [
        replace(clip, digest=trained.digest) if clip.id == held.id else clip for clip in clips(40) if clip != trained
    ]
    assert held.id not in ids(draw(swapped, after(first)).held_out)


def test_a_held_out_clip_that_was_gone_for_a_while_is_not_trained_on(tmp_path: Path) -> None:
    first = draw(clips(40))
    gone = first.held_out[0]
    write(tmp_path, first, None)
    without, _ = read_earlier(tmp_path)
    fewer = draw([clip for clip in clips(40) if clip.id != gone.id], without)
    write(tmp_path, fewer, without)
    back, notes = read_earlier(tmp_path)
    assert notes == []
    assert gone.id in ids(draw(clips(40), back).held_out)


def write(run: Path, split: DataSplit, earlier: Earlier | None) -> None:
    write_manifest(run / "data" / "train.jsonl", split.train)
    write_manifest(run / "data" / "held_out.jsonl", split.held_out)
    write_record(run, earlier, held_out=split.held_out, retained=())


def test_what_cannot_be_read_is_told_and_a_run_before_this_version_is_understood(tmp_path: Path) -> None:
    assert read_earlier(tmp_path) == (None, [])
    first = draw(clips(40))
    write(tmp_path, first, None)
    (tmp_path / "data" / "split.json").unlink()
    earlier, notes = read_earlier(tmp_path)
    assert earlier is not None
    assert notes == []
    assert ids(draw(clips(90), earlier).held_out) == ids(first.held_out)
    (tmp_path / "data" / "split.json").write_bytes(b"\xff{")
    assert read_earlier(tmp_path)[0] is not None  # the manifests say as much
    (tmp_path / "data" / "train.jsonl").write_bytes(b"{]\n")
    earlier, notes = read_earlier(tmp_path)
    assert earlier is None
    assert "WARNING" in notes[0]


def test_who_asks_for_others_gets_new_clips_before_trained_ones() -> None:
    first = draw(clips(40), holdout=2)
    more = draw(clips(43), after(first, drawn_anew=["data.holdout"]), holdout=5)
    assert ids(more.held_out) == ids(first.held_out) | {"c40", "c41", "c42"}
    six = draw(clips(43), after(first, drawn_anew=["data.holdout"]), holdout=6)
    found = changes(Side(first.train, first.held_out), six.train, six.held_out)
    assert len(found.now_held_out) == 1
    assert "1 clips that this run was trained on are held out now" in found.warnings()[0]
    assert draw(clips(43), after(first, drawn_anew=["data.holdout"]), holdout=0).held_out == []


def test_every_kind_of_change_is_told() -> None:
    first = draw(clips(12), holdout=2)
    side = Side(first.train, first.held_out)
    assert not changes(side, first.train, first.held_out)
    now = {clip.id: clip for clip in first.train}
    a, b, c, d, e = list(now)[:5]
    now[a] = replace(now[a], text="Other words.")
    now[b] = replace(now[b], digest="other")
    now[c] = replace(now[c], speaker="ada")
    del now[d]
    now["renamed"] = replace(now.pop(e), id="renamed")
    now["new"] = clips(1, first=99)[0]
    found = changes(side, list(now.values()), first.held_out)
    assert (found.text, found.recording, found.said_by, found.removed, found.added) == ([a], [b], [c], [d], ["c99"])
    assert found.now_held_out == found.now_trained == []
    assert found.note() == (
        f"the data changed since the run last started: clips 1 added (`c99`), 1 gone (`{d}`), "
        f"1 with another text (`{a}`), 1 with another recording (`{b}`), 1 of another speaker or language (`{c}`)"
    )


@pytest.mark.parametrize(
    "changed",
    [{"text": "Other."}, {"digest": "other"}, {"speaker": "ada"}, {"language": "de"}, {"tokens": ("a",)}],
    ids=lambda changed: next(iter(changed)),
)
def test_what_is_measured_has_a_fingerprint(changed: dict[str, object]) -> None:
    held_out = clips(6)

    def of(some: list[Clip], **settings: int) -> str:
        chosen = {"most": 5, "budget": 100, "max_clips": 8, **settings}
        return fingerprint(some, [], features="mel", **chosen)

    other = replace(held_out[0], **changed)  # type: ignore[arg-type]
    assert of([other, *held_out[1:]]) != of(held_out)
    assert of([replace(held_out[0], id="x", path=Path("moved")), *held_out[1:]]) == of(held_out)
    assert of([*held_out[:5], replace(held_out[5], text="not measured")]) == of(held_out)
    assert of(held_out, budget=101) != of(held_out)
    assert fingerprint([], held_out, most=5, budget=100, max_clips=8, features="mel") != of(held_out)
