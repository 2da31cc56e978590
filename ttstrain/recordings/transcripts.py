"""Texts for the clips of one recording: from a long text beside it, or from a recogniser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ttstrain import documents
from ttstrain.contract.task import Audio
from ttstrain.data.transcript import clean, misfit, spoken_seconds
from ttstrain.errors import CheckpointError, DataError
from ttstrain.judge.recognise import Recogniser, character_errors, open_recogniser
from ttstrain.recordings import sphinx
from ttstrain.recordings.clips import Origin
from ttstrain.recordings.placing import Placing, place, place_by_duration
from ttstrain.recordings.units import Unit, text_of, units

RATE = 16_000  # Hz
POCKETSPHINX = "pocketsphinx"
SAMPLED = 5  # clips that are listened to without expecting the text
MOST_ERRORS = 0.6  # of a clip's letters: read speech has 0.1 to 0.4, other words 0.7 and more
LEAST_HEARD = 0.5  # share of a text's words below which it is another text
DOUBTFUL_FIT = 0.7  # of a clip

Hear = Callable[[Tensor], list[str]]


@dataclass(frozen=True, slots=True)
class ClipText:
    """The text of one clip."""

    text: str = ""
    origin: Origin = ""
    fit: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcripts:
    """Texts of a recording's clips, and what to tell about them."""

    clips: list[ClipText]
    told: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Source:
    """Where texts come from besides files."""

    language: str  # a code; empty: not known
    recogniser: Recogniser | None  # Whisper
    drafts: bool  # pocketsphinx writes what it hears

    def needs_pocketsphinx(self, texts: Iterable[Path | None]) -> bool:
        """Tell whether recordings with these text files beside them are listened to by pocketsphinx."""
        has_text = any(text is not None for text in texts)
        return self.drafts or (has_text and self.recogniser is None and _code(self.language) in ("", "en"))


def open_source(language: str, model: str) -> Source:
    """Open a recogniser: `pocketsphinx`, a Whisper model, or none for an empty name. Raises CheckpointError."""
    if model == POCKETSPHINX:
        if language and _code(language) != "en":
            raise CheckpointError(
                f"pocketsphinx hears English, the language is `{language}`", hint="give a Whisper model instead"
            )
        return Source(language or "en", None, drafts=True)
    return Source(language, open_recogniser(language, model=model).recogniser if model else None, drafts=False)


def text_beside(recording: Path) -> Path | None:
    """Return the text file with the recording's name, if there is one."""
    path = recording.with_suffix(".txt")
    return path if path.is_file() else None


def transcribe(wavs: Sequence[Tensor], speech_s: Sequence[float], *, text: Path | None, source: Source) -> Transcripts:
    """Return the texts of clips (s,) at 16 kHz with so many seconds of speech.

    Raises DataError when the text file is unreadable.
    """
    if text is not None:
        return _from_text(wavs, speech_s, path=text, source=source)
    if source.recogniser is not None:
        hear = source.recogniser.transcribe
        texts = [clean(hear(Audio(wav, RATE))).text for wav in wavs]
        return Transcripts([ClipText(one, "recogniser" if one else "") for one in texts])
    if source.drafts:
        hearer = sphinx.FreeHearer()
        return Transcripts([ClipText(" ".join(hearer.hear(wav.numpy())), "draft") for wav in wavs])
    return Transcripts([ClipText() for _ in wavs], ["no text beside it and no `--transcriber`: its clips have no text"])


# ---------------------------------------------------------------- from a text


def _from_text(wavs: Sequence[Tensor], speech_s: Sequence[float], *, path: Path, source: Source) -> Transcripts:
    written = documents.read_text(path, error=DataError)
    text = clean(" ".join(written.split())).text
    found = units(text)
    if not found:
        return Transcripts([ClipText() for _ in wavs], [f"`{path.name}` holds no words: its clips have no text"])
    hear, by = _hearer(found, source)
    if hear is None:
        return _by_duration(text, found, speech_s, path=path)
    placing = place(text, found, [hear(wav) for wav in wavs], speech_s)
    shares = [text_of(text, found[one.first : one.last]) for one in placing.clips]
    if placing.heard < LEAST_HEARD or (by == POCKETSPHINX and _sounds_unlike(wavs, shares)):
        why = (
            f"what is said is not in `{path.name}`: it is the text of another recording, or the speech is hard to "
            "hear; its clips have no text"
        )
        return Transcripts([ClipText() for _ in wavs], [why])
    told = [f"{placing.heard:.0%} of the words of `{path.name}` were heard as written, by {by}"]
    return Transcripts(_clip_texts(text, found, placing, "text file", speech_s), told + _of_lost(text, found, placing))


def _hearer(found: Sequence[Unit], source: Source) -> tuple[Hear | None, str]:
    """Return what hears the words of a text, and its name; None for a language that nothing hears."""
    recogniser = source.recogniser
    if recogniser is not None:
        return lambda wav: [unit.key for unit in units(recogniser.transcribe(Audio(wav, RATE)))], recogniser.name
    code = _code(source.language)
    if code == "en" or (not code and sphinx.english_share(found) >= sphinx.ENGLISH_SHARE):
        hearer = sphinx.open_text_hearer(found)
        return (None, "") if hearer is None else (lambda wav: hearer.hear(wav.numpy()), POCKETSPHINX)
    return None, ""


def _sounds_unlike(wavs: Sequence[Tensor], texts: Sequence[str]) -> bool:
    """Listen to some clips again without expecting the text: a decoder that expects words hears them in any speech.

    Most of five clips decide, of the longer half of the texts.
    """
    hearer = sphinx.FreeHearer()
    longer = sorted((i for i, text in enumerate(texts) if text), key=lambda i: -len(texts[i]))
    longer = longer[: max(SAMPLED, len(longer) // 2)]
    votes = {True: 0, False: 0}
    for i in longer[:: max(1, len(longer) // SAMPLED)][:SAMPLED]:
        errors = character_errors(texts[i], " ".join(hearer.hear(wavs[i].numpy())))
        votes[errors is None or errors > MOST_ERRORS] += 1
        if max(votes.values()) > SAMPLED // 2:
            break
    return votes[True] >= votes[False]


def _by_duration(text: str, found: Sequence[Unit], speech_s: Sequence[float], *, path: Path) -> Transcripts:
    spoken, total = spoken_seconds(text), sum(speech_s)
    if not spoken.least <= total <= spoken.most:
        why = (
            f"`{path.name}` takes {spoken.least:.0f} to {spoken.most:.0f} s to say, there are {total:.0f} s of speech: "
            "it is the text of another recording; its clips have no text"
        )
        return Transcripts([ClipText() for _ in speech_s], [why])
    placing = place_by_duration(found, speech_s)
    why = (
        f"the words of `{path.name}` were divided by duration alone, which is often wrong by several words: nothing "
        "that hears this language is there; check every clip, or give a Whisper model with `--transcriber`"
    )
    return Transcripts(_clip_texts(text, found, placing, "text file, by duration", speech_s), [why])


def _clip_texts(
    text: str, found: Sequence[Unit], placing: Placing, origin: Origin, speech_s: Sequence[float]
) -> list[ClipText]:
    result = []
    for placed, seconds in zip(placing.clips, speech_s, strict=True):
        own = text_of(text, found[placed.first : placed.last])
        notes: list[str] = []
        if not own:
            notes.append("no words of the text were heard in it")
        elif origin == "text file, by duration":
            notes.append("its words were placed by duration alone")
        elif placed.fit is not None and placed.fit < DOUBTFUL_FIT:
            notes.append(f"only {placed.fit:.0%} of its words were heard as written")
        if own and (why := misfit(own, seconds)):
            notes.append(why)
        result.append(ClipText(own, origin if own else "", placed.fit, tuple(notes)))
    return result


def _of_lost(text: str, found: Sequence[Unit], placing: Placing) -> list[str]:
    return [
        f"{last - first} words of the text are in no clip: `{_shortened(text_of(text, found[first:last]))}`"
        for first, last in placing.lost
    ]


def _code(language: str) -> str:
    return language.replace("_", "-").partition("-")[0].lower()


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
