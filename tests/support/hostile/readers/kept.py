"""Readers of long recordings, of the texts beside them, and of small files that ttstrain keeps for itself."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from unittest.mock import patch

import soundfile
import torch

from hostile.catalogue import Reader, Sample, files_in
from hostile.mutation import NO_FILE, NOTHING, OTHERS, Edited, Files, write_files
from hostile.pool import MAY_CHANGE, Seen
from hostile.readers.data import sound
from hostile.readers.lists import WAVS, any_json
from hostile.sounds import edit_flac, edit_wav
from hostile.tables import edit_table
from hostile.trees import edit_json, edit_json_lines
from ttstrain import documents
from ttstrain.bands.band import band_path, read_band
from ttstrain.checkpoint import lock
from ttstrain.data.audit import audit
from ttstrain.data.readers import read_rows
from ttstrain.errors import DataError
from ttstrain.forecast.costs import Costs, Sizes, of_json
from ttstrain.recipe.faults import Fault
from ttstrain.recipe.schema import DataConfig
from ttstrain.recordings.sound import Span, listen, write_clips
from ttstrain.recordings.transcripts import Source, transcribe
from ttstrain.train.inject import Injector
from ttstrain.train.signals import Signals
from ttstrain.train.spent import Amount

# ---------------------------------------------------------------- long recordings and texts beside them


def _recordings(folder: Path) -> Sequence[Sample]:
    wavs = [("r.wav", sound("WAV", kind, channels=count), edit_wav) for kind, count in (("PCM_16", 2), ("FLOAT", 1))]
    samples = [*wavs, ("r.flac", sound("FLAC", "PCM_24"), edit_flac)]
    return [Sample({name: content}, name, edit) for name, content, edit in samples]


def _read_recording(folder: Path) -> Seen:
    """Listen to a recording and cut it, as `prepare --cut` does."""
    path = next(iter(sorted(folder.glob("r.*"))), folder / "r.wav")
    heard = listen(path)
    half = heard.num_samples // 2
    clips = [folder / name for name in ("one.wav", "other.wav")]
    write_clips(path, [Span(0, half), Span(half, heard.num_samples)], clips)
    summed = [hashlib.sha256(soundfile.read(clip)[0].tobytes()).hexdigest() for clip in clips]
    return Seen(f"{heard.sample_rate} {heard.num_samples} {summed}", told=heard.odd is not None)


_TEXT = "Ein langer Text, der neben der Aufnahme liegt. Er hat zwei Sätze."


def _beside(folder: Path) -> Sequence[Sample]:
    return [Sample({"r.txt": _TEXT.encode()}, "r.txt", edit_table)]


def _read_beside(folder: Path) -> Seen:
    """Divide a text among clips by duration, as for a language that nothing hears."""
    source = Source("de", None, drafts=False)
    found = transcribe([torch.zeros(16_000)] * 2, [2.5, 2.5], text=folder / "r.txt", source=source)
    return Seen(repr(found.clips), told=len(found.told) > 0 and "divided by duration" not in found.told[0])


# ---------------------------------------------------------------- kept measurements


_RECORDED: Files = {**WAVS, "metadata.csv": b"a|first words\nb|second words\nc|third words\n"}


def _measurements(folder: Path) -> Sequence[Sample]:
    """Measure recordings where the cases will lie: what is kept is known again by their paths."""
    place = folder.parent / "case"
    write_files(place, _RECORDED)
    _audit(place, cache=folder / "cache")
    shutil.rmtree(place)
    kept = {f"{MAY_CHANGE}/{name}": content for name, content in files_in(folder / "cache").items()}
    (name,) = kept
    return [Sample({**_RECORDED, **kept}, name, _edit_summed)]


def _edit_summed(rng: Random, content: bytes) -> Edited:
    """Edit lines each of which has a checksum."""
    return replace(edit_json_lines(rng, content), plain=False)


def _audit(folder: Path, *, cache: Path) -> str:
    for path in folder.glob("wavs/*"):
        os.utime(path, (1, 1))
    config = DataConfig(path=str(folder), cache_dir=str(cache))
    result = audit(read_rows(folder / "metadata.csv", cache_dir=str(cache)), config, workers=1)
    return repr([(clip.id, clip.duration_s, clip.treatment, clip.notes) for clip in result.clips])


def _read_measurements(folder: Path) -> Seen:
    return Seen(_audit(folder, cache=folder / MAY_CHANGE))


# ---------------------------------------------------------------- costs, bands, and requests to a run


def _costs(folder: Path) -> Sequence[Sample]:
    parts = {"step": Amount(times=9, wall=1.5, cpu=1.2, frames=900), "evaluation": Amount(times=2, wall=0.5, cpu=0.4)}
    sizes = Sizes(memory=1 << 30, on_gpu=False, checkpoint=1 << 20, samples=9_000, rest=8_000, cache=7_000)
    costs = Costs("run", "made", "2026-01-02T03:04:05+00:00", sizes, parts)
    return [Sample({"costs.json": any_json(costs.to_json())}, "costs.json", edit_json)]


def _read_costs(folder: Path) -> Seen:
    costs = of_json(documents.read_json(folder / "costs.json", error=DataError))
    return Seen(f"{costs} {costs.title} {costs.steps}")


def _bands(folder: Path) -> Sequence[Sample]:
    return [Sample({"band.json": band_path("quickstart").read_bytes()}, "band.json", edit_json)]


def _read_band(folder: Path) -> Seen:
    band = read_band(folder / "band.json")
    return Seen(f"{band} {band.keys}")


def _requests(folder: Path) -> Sequence[Sample]:
    holder = {"host": "h", "pid": 7, "since": "2026-01-02T03:04:05+00:00", "command": "ttstrain finetune r.yaml"}
    injected = '{"fault": "nan_loss@3"}\n{"fault": "bad_clip@5", "clips": ["a", "b"]}\n'
    files: Files = {
        f"{MAY_CHANGE}/SAMPLE": b"Some words to say.\n",
        f"{MAY_CHANGE}/{lock.LOCK}": any_json(holder),
        f"{MAY_CHANGE}/injected.jsonl": injected.encode(),
    }
    names = list(files)
    return [
        Sample(files, names[0], edit_table, allowed=(*OTHERS, NOTHING)),  # any text may be said
        Sample(files, names[1], edit_json, allowed=NO_FILE),
        Sample(files, names[2], edit_json_lines, allowed=NO_FILE),
    ]


def _read_requests(folder: Path) -> Seen:
    """Ask a run's folder who holds it, which faults have entered, and what it is asked for; then hold it."""
    run = folder / MAY_CHANGE
    with patch.object(lock, "SAYS_WITHIN_S", 0.0):
        holder = lock.busy(run).message
    free = lock.holder(run)
    injector = Injector([Fault("bad_clip", 5)], folder=run, say=lambda line: None)
    signals = Signals(run)
    asked = signals.requested(), signals.save_requested(), signals.sample_requested()
    lock.hold(run).release()
    told = "another process" in holder
    return Seen(f"{holder} {free} {injector.named} {injector.missing()} {asked}", told=told)


READERS = (
    Reader("long recordings", _recordings, _read_recording, 400),
    Reader("texts beside recordings", _beside, _read_beside, 200),
    Reader("kept measurements", _measurements, _read_measurements, 200),
    Reader("costs of runs", _costs, _read_costs, 200),
    Reader("bands", _bands, _read_band, 150),
    Reader("requests to a run", _requests, _read_requests, 200),
)
