"""From a folder of long recordings to a folder of clips that can be trained on.

Every recording is listened to once: where people speak, where to cut, how loud and noisy it is, whose voice it is, and
what is said. The recordings themselves are never changed.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ttstrain.data.readers.folders import sound_files
from ttstrain.data.readers.locate import is_audio_name
from ttstrain.errors import DataError
from ttstrain.places import refused_as
from ttstrain.recordings import sphinx
from ttstrain.recordings.clips import FOLDER, CutClip, write_clips
from ttstrain.recordings.cuts import Part, Wanted, cut
from ttstrain.recordings.measures import LoudnessMeter, Sound, sound_of
from ttstrain.recordings.sound import RATE, Listened, Span, clip_ending, listen
from ttstrain.recordings.sound import write_clips as write_sound
from ttstrain.recordings.speech import Stretch, open_vad, speech_probabilities, stretches
from ttstrain.recordings.transcripts import ClipText, Source, text_beside, transcribe
from ttstrain.recordings.voices import Voices, embedding_of, group

LEAST_SPEECH_S = 0.3  # in a clip
LEVEL_HOP = RATE // 100
LONGEST_NAME = 50  # characters of a recording's name that its clips' files begin with, the last ones of its path
NOISY_DB = 15.0
MOST_LOUD_SHARE = 0.1  # of a recording that is loud and no speech, before it is told
LOUDNESS_RANGE = 6.0  # LU from the median
PEAK_DB = -1.0  # of full scale, after a gain

TellProgress = Callable[[int, int], None]  # (done, of)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to cut, and where texts come from."""

    wanted: Wanted
    source: Source
    speaker: str = ""
    loudness: float | None = None  # LUFS that clips are brought to by a gain in the table; None: no gain


@dataclass(frozen=True, slots=True)
class About:
    """What is told about one recording."""

    path: Path
    duration_s: float = 0.0
    speech_s: float = 0.0
    loudness: float | None = None  # LUFS
    snr_db: float | None = None  # median over its clips
    num_clips: int = 0
    told: tuple[str, ...] = ()
    unused: str = ""  # why no clip was cut from it


@dataclass(frozen=True, slots=True)
class Built:
    """All clips, and what is told about the recordings."""

    clips: list[CutClip]
    recordings: list[About]
    num_voices: int


@dataclass(slots=True)
class _Work:
    """What is collected over all recordings."""

    out: Path
    settings: Settings
    meter: LoudnessMeter = field(default_factory=LoudnessMeter)
    clips: list[CutClip] = field(default_factory=list)
    embeddings: list[Tensor | None] = field(default_factory=list)
    recordings: list[About] = field(default_factory=list)


def build(recordings: Path, out: Path, settings: Settings, progress: TellProgress | None = None) -> Built:
    """Cut every recording in a folder, or one file, into clips in `out`, which must be new or empty.

    Raises DataError when there are no recordings, when none of them gives a clip, and when `out` cannot be written.
    """
    found = _recordings(recordings)
    open_vad()
    if settings.source.needs_pocketsphinx(text_beside(path) for path, _ in found):
        sphinx.require()
    work = _Work(out, settings)
    with refused_as(DataError, path=out, hint="name another folder with `--cut`"):
        _check_new(out, recordings)
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for number, (path, name) in enumerate(found):
        if progress is not None:
            progress(number, len(found))
        with refused_as(DataError, path=out, hint="free space, and cut again into a new folder"):
            _add(path, name, work)
    if not work.clips:
        raise DataError(
            f"no clip could be cut from the {len(found)} recordings in `{recordings}`",
            details=[about.unused for about in work.recordings[:5]],
            hint="give recordings in which somebody speaks",
        )
    voices = group(work.embeddings)
    clips = _with_notes_across([_with_voice(clip, voices, i, settings) for i, clip in enumerate(work.clips)])
    with refused_as(DataError, path=out, hint="name another folder with `--cut`"):
        write_clips(out, clips)
    return Built(clips, work.recordings, voices.count)


def _recordings(source: Path) -> list[tuple[Path, str]]:
    """Return the recordings with a name of their own each."""
    if source.is_file():
        paths, root = [source], source.parent
    elif source.is_dir():
        paths, root = sorted(sound_files(source)), source
    else:
        raise DataError(f"there is no `{source}`", hint="name a folder of recordings, or one recording")
    paths = [path for path in paths if is_audio_name(path.name)]
    if not paths:
        raise DataError(f"`{source}` holds no recordings", hint="name a folder with WAV, FLAC, MP3 or Ogg files")
    taken: set[str] = set()
    return [(path, _own_name(path.relative_to(root).with_suffix(""), taken)) for path in paths]


def _own_name(path: Path, taken: set[str]) -> str:
    """Return a name for the files of a recording's clips; no other recording has it, in any case of letters."""
    plain = re.sub(r"[^\w.-]+", "_", "-".join(path.parts))[-LONGEST_NAME:].lstrip(".") or "recording"
    names = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
    name = next(name for name in names if name.casefold() not in taken)
    taken.add(name.casefold())
    return name


def _check_new(out: Path, recordings: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"`{out}` is not empty",
            hint="name a new folder with `--cut`, or remove what an interrupted call left; to correct clips that were "
            "cut, prepare their folder with `--review CSV`",
        )
    if recordings.is_dir() and out.resolve().is_relative_to(recordings.resolve()):
        raise DataError(
            f"`{out}` lies within the folder of recordings: the next call would cut the clips again",
            hint="name a folder beside it",
        )


# ---------------------------------------------------------------- one recording


@dataclass(frozen=True, slots=True)
class _Cut:
    """A recording that was listened to, and its parts."""

    heard: Listened
    sound: Sound
    parts: list[Part]
    wavs: list[Tensor]  # of the parts, (s,) at 16 kHz
    spans: list[Span]


def _add(path: Path, name: str, work: _Work) -> None:
    """Cut one recording, write its clips and note what is known of them; or note why it cannot be used."""
    try:
        one = _cut(path, work.settings.wanted)
        seconds = [part.speech_s for part in one.parts]
        texts = transcribe(one.wavs, seconds, text=text_beside(path), source=work.settings.source)
    except DataError as error:
        work.recordings.append(About(path, unused=error.message))
        return
    files = [f"{FOLDER}/{name}-{number:04d}{clip_ending(path)}" for number in range(1, len(one.parts) + 1)]
    try:
        write_sound(path, one.spans, [work.out / file for file in files])
    except DataError as error:
        for file in files:
            (work.out / file).unlink(missing_ok=True)
        work.recordings.append(About(path, unused=error.message))
        return
    clips = list(_described(one, files, texts.clips, work))
    work.clips += clips
    work.embeddings += [embedding_of(wav) for wav in one.wavs]
    work.recordings.append(_about(one, clips, texts.told, work.meter))


def _cut(path: Path, wanted: Wanted) -> _Cut:
    heard = listen(path)
    probabilities = speech_probabilities(heard.wav)
    sound = sound_of(heard.wav, probabilities)
    levels = _levels(heard.wav).numpy()
    found = cut(stretches(probabilities), levels, wanted=wanted, end_s=heard.duration_s)
    parts = [part for part in found if part.speech_s >= LEAST_SPEECH_S]
    if not parts:
        raise DataError(f"`{path}`: {_why_no_speech(sound)}")
    wavs = [heard.wav[round(part.start_s * RATE) : round(part.end_s * RATE)] for part in parts]
    return _Cut(heard, sound, parts, wavs, _spans(parts, heard))


def _about(one: _Cut, clips: Sequence[CutClip], told: Sequence[str], meter: LoudnessMeter) -> About:
    loud, clipped = one.sound.loud_share(), one.heard.clipped
    snrs = [clip.snr_db for clip in clips if clip.snr_db is not None]
    more = []
    if loud > MOST_LOUD_SHARE:
        more.append(f"{loud:.0%} of it is loud and no speech: music, noise or applause, which is left out")
    if clipped:
        more.append(f"samples are cut off at full scale in {len(clipped)} of its seconds")
    if one.heard.odd is not None:
        more.append(f"{one.heard.odd}: listen whether speed and pitch are right")
    return About(
        path=one.heard.path,
        duration_s=one.heard.duration_s,
        speech_s=sum(part.speech_s for part in one.parts),
        loudness=meter.lufs(one.heard.wav),
        snr_db=statistics.median(snrs) if snrs else None,
        num_clips=len(clips),
        told=(*told, *more),
    )


def _why_no_speech(sound: Sound) -> str:
    if sound.is_silent:
        return "it is silent"
    return f"nobody speaks in it: {sound.loud_share():.0%} of it is loud and no speech, such as music or noise"


def _levels(wav: Tensor) -> Tensor:
    whole = len(wav) // LEVEL_HOP * LEVEL_HOP
    return 10 * wav[:whole].view(-1, LEVEL_HOP).square().mean(1).clamp(min=1e-12).log10()


def _spans(parts: Sequence[Part], heard: Listened) -> list[Span]:
    """Return the parts in samples of the file, without overlap."""
    spans: list[Span] = []
    for part in parts:
        start = max(round(part.start_s * heard.sample_rate), spans[-1].end if spans else 0)
        spans.append(Span(start, min(round(part.end_s * heard.sample_rate), heard.num_samples)))
    return spans


def _described(one: _Cut, files: Sequence[str], texts: Sequence[ClipText], work: _Work) -> Iterator[CutClip]:
    for part, span, wav, file, text in zip(one.parts, one.spans, one.wavs, files, texts, strict=True):
        snr = one.sound.snr_db(Stretch(part.start_s, part.end_s))
        loudness = work.meter.lufs(wav)
        gain = _gain(loudness, float(wav.abs().max()), work.settings.loudness)
        yield CutClip(
            id=Path(file).stem,
            file=file,
            source=str(one.heard.path.absolute()),
            start=span.start,
            end=span.end,
            sample_rate=one.heard.sample_rate,
            text=text.text,
            origin=text.origin,
            fit=text.fit,
            language=work.settings.source.language,
            loudness=loudness,
            gain_db=gain.db,
            snr_db=snr,
            notes=(*text.notes, *_notes(part, one.heard, snr), *gain.notes),
        )


class _Gain(NamedTuple):
    db: float = 0.0
    notes: tuple[str, ...] = ()


def _gain(loudness: float | None, peak: float, wanted: float | None) -> _Gain:
    """Return the gain that brings a clip to a loudness, less where its peak would pass the limit."""
    if wanted is None:
        return _Gain()
    if loudness is None or not peak:
        return _Gain(notes=("too short to measure its loudness: it has no gain",))
    gain, most = wanted - loudness, PEAK_DB - 20 * math.log10(peak)
    if gain <= most:
        return _Gain(round(gain, 2))
    return _Gain(round(most, 2), (f"{gain - most:.1f} dB below `--loudness`: its peak allows no more",))


def _notes(part: Part, heard: Listened, snr: float | None) -> list[str]:
    notes = []
    if part.forced:
        notes.append("cut without a pause: a word at an end may be cut off")
    if any(part.start_s < second + 1 and second < part.end_s for second in heard.clipped):
        notes.append("samples are cut off at full scale")
    if snr is not None and snr < NOISY_DB:
        notes.append(f"speech only {snr:.0f} dB above its pauses: noise or music under it")
    return notes


# ---------------------------------------------------------------- all recordings


def _with_voice(clip: CutClip, voices: Voices, number: int, settings: Settings) -> CutClip:
    """Name the speaker: as given; by the voice where several people are heard."""
    voice = voices.of_clips[number]
    if voices.count > 1:
        named = f"{settings.speaker}-voice-" if settings.speaker else "voice-"
        if voice is None:
            return replace(clip, notes=(*clip.notes, "its voice could not be told: name the speaker"))
        return replace(clip, speaker=f"{named}{voice + 1}")
    return replace(clip, speaker=settings.speaker)


def _with_notes_across(clips: Sequence[CutClip]) -> list[CutClip]:
    measured = {clip.id: clip.loudness + clip.gain_db for clip in clips if clip.loudness is not None}
    usual = statistics.median(measured.values()) if measured else 0.0
    result = []
    for clip in clips:
        off = measured.get(clip.id, usual) - usual
        if abs(off) > LOUDNESS_RANGE:
            note = f"{abs(off):.0f} LU {'louder' if off > 0 else 'quieter'} than the others"
            result.append(replace(clip, notes=(*clip.notes, note)))
        else:
            result.append(clip)
    return result
