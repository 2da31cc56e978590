from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from speech_toys import ToyData, syllables, write_clips

from ttstrain.contract.data import Clip, Treatment
from ttstrain.data import atomic, pool
from ttstrain.data.cache import FeatureCache
from ttstrain.errors import DataError, OutOfMemoryError


class Failing(ToyData):
    """Fails at the second clip, whatever it is."""

    def __init__(self, said: str) -> None:
        super().__init__()
        self.said = said

    def features(self, wav: torch.Tensor, clip: Clip) -> dict[str, torch.Tensor]:
        if clip.id == "clip01":
            raise RuntimeError(self.said)
        return super().features(wav, clip)


def test_features_are_computed_once(tmp_path: Path) -> None:
    clips, data = write_clips(tmp_path / "wavs", [0.5, 1.0, 0.7]), ToyData()
    steps: list[tuple[int, int]] = []
    report = FeatureCache(tmp_path / "c", data, place="disk").build(
        clips, progress=lambda done, of: steps.append((done, of))
    )
    assert (report.computed, report.reused, report.failed) == (3, 0, {})
    assert steps == [(1, 3), (2, 3), (3, 3)]
    again = FeatureCache(tmp_path / "c", data, place="disk")
    assert again.build(clips).reused == 3
    assert [len(again.get(clip)["energy"]) for clip in clips] == [50, 100, 70]
    assert data.computed == ["clip00", "clip01", "clip02"]


@pytest.mark.parametrize("place", ["memory", "disk", "device", "auto"])
def test_every_place_gives_the_same_features(place: str, tmp_path: Path) -> None:
    clips, data = write_clips(tmp_path / "wavs", [0.5, 1.0]), ToyData()
    cache = FeatureCache(tmp_path / "c", data, place=place, device=torch.device("cpu"))  # type: ignore[arg-type]
    report = cache.build(clips)
    assert report.place == {"auto": "memory"}.get(place, place)
    for clip in clips:
        wav = torch.from_numpy(soundfile.read(clip.path, dtype="float32")[0])
        assert torch.equal(cache.get(clip)["energy"], data.features(wav, clip)["energy"])


def test_worker_processes_compute_the_same_features(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "wavs", [0.5, 1.0, 0.7, 0.9])
    here = FeatureCache(tmp_path / "a", ToyData())
    there = FeatureCache(tmp_path / "b", ToyData())
    here.build(clips, workers=0)
    assert there.build(clips, workers=2).computed == 4
    assert all(torch.equal(here.get(clip)["energy"], there.get(clip)["energy"]) for clip in clips)


def test_a_clip_without_features_is_named_and_the_others_are_built(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "wavs", [0.5, 0.6, 0.7, 0.8])
    clips[1] = replace(clips[1], text="broken")
    clips[2] = replace(clips[2], text="nan")
    clips[3].path.unlink()
    for workers in (0, 1):
        report = FeatureCache(tmp_path / f"c{workers}", ToyData()).build(
            [replace(clip, digest=clip.id) for clip in clips], workers=workers
        )
        assert report.computed == 1
        assert "no phonemes" in report.failed["clip01"]
        assert "not finite" in report.failed["clip02"]
        assert "cannot be read" in report.failed["clip03"]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", OutOfMemoryError, "features of clip `clip01`.*CUDA out of"),
        ("CUDA error: an illegal memory access was encountered", RuntimeError, "device failed .* clip `clip01`"),
    ],
)
def test_a_device_that_fails_is_no_fault_of_the_clips(
    tmp_path: Path, said: str, kind: type[Exception], message: str, workers: int
) -> None:
    clips = write_clips(tmp_path / "wavs", [0.5, 0.6, 0.7])
    with pytest.raises(kind, match=message):
        FeatureCache(tmp_path / "c", Failing(said)).build(clips, workers=workers)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe that has a name")
def test_a_worker_that_hangs_is_given_up_its_clip_named_and_the_rest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [replace(clip, digest=clip.id) for clip in write_clips(tmp_path / "wavs", [0.5, 0.6, 0.7])]
    clips[1].path.unlink()
    os.mkfifo(clips[1].path)  # opening it never ends
    cache = FeatureCache(tmp_path / "c", ToyData())

    def soon(done: int, of: int) -> None:  # once the first clip is there, the process has started
        monkeypatch.setattr(pool, "STALLED_S", 0.2)

    with pytest.raises(DataError, match="`clip01` has no features: nothing has come for 0 s") as caught:
        cache.build(clips, workers=1, progress=soon)
    assert caught.value.exit_code == 3
    clips[1].path.unlink()
    monkeypatch.undo()
    assert cache.build([clips[0], clips[2]], workers=0).reused == 1


def test_an_interrupted_build_goes_on_where_it_was(tmp_path: Path) -> None:
    clips, data = write_clips(tmp_path / "wavs", [0.5, 0.6, 0.7]), ToyData()

    def interrupt(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path / "c", data).build(clips, progress=interrupt)
    assert FeatureCache(tmp_path / "c", data).build(clips).reused == 2
    assert data.computed == ["clip00", "clip01", "clip02"]
    assert not list((tmp_path / "c").rglob("*.part"))


def test_leftovers_are_looked_for_only_where_features_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, data = write_clips(tmp_path / "wavs", [0.5, 0.6, 0.7]), ToyData()
    FeatureCache(tmp_path / "c", data).build(clips)
    listed: list[Path] = []
    monkeypatch.setattr(atomic, "remove_leftovers", lambda folder, **_: listed.append(folder))
    cache = FeatureCache(tmp_path / "c", data)
    assert cache.build(clips).reused == 3
    assert listed == []
    cache.path(clips[1]).unlink()
    assert cache.build(clips).computed == 1
    assert listed == [cache.path(clips[1]).parent]


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "removed"])
def test_a_damaged_file_is_noticed_and_made_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips, data = write_clips(tmp_path / "wavs", [0.5, 0.6]), ToyData()
    cache = FeatureCache(tmp_path / "c", data, place="disk")
    cache.build(clips)
    sound = cache.get(clips[0])["energy"].clone()
    path = cache.path(clips[0])
    content = path.read_bytes()
    spoiled = bytearray(content)
    spoiled[-3] ^= 0x40
    path.unlink()
    if damage != "removed":
        path.write_bytes({"cut": content[:-20], "flipped": bytes(spoiled), "emptied": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cache.get(clips[0])["energy"], sound)
    assert "clip00" in caplog.text
    assert path.read_bytes() == content
    if damage in ("cut", "emptied", "removed"):
        path.write_bytes(content[:-20])
        assert FeatureCache(tmp_path / "c", data, place="disk").build(clips).computed == 1


def test_the_key_covers_all_that_decides_the_features(tmp_path: Path) -> None:
    [clip] = write_clips(tmp_path / "wavs", [0.5])
    cache = FeatureCache(tmp_path / "c", ToyData())
    moved = tmp_path / "elsewhere.wav"
    moved.write_bytes(clip.path.read_bytes())
    assert cache.path(replace(clip, path=moved, id="other", notes=("x",))) == cache.path(clip)
    others = [
        replace(clip, treatment=Treatment(gain=2.0)),
        replace(clip, text="something else"),
        replace(clip, language="de"),
        replace(clip, digest="another recording"),
    ]
    assert len({cache.path(c) for c in [clip, *others]}) == 5
    assert FeatureCache(tmp_path / "c", ToyData("newer")).path(clip) != cache.path(clip)


def test_a_changed_recording_gets_new_features(tmp_path: Path) -> None:
    [clip] = write_clips(tmp_path / "wavs", [0.5])
    cache = FeatureCache(tmp_path / "c", ToyData(), place="disk")
    cache.build([clip])
    soundfile.write(clip.path, syllables(0.5, seed=9), 16_000)
    assert cache.build([clip]).computed == 1


def test_an_unwritable_cache_is_no_fault_of_the_clips(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "wavs", [0.5])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"the feature cache `.*` cannot be used: Not a directory"):
        FeatureCache(tmp_path / "file", ToyData()).build(clips)
