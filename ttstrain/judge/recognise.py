"""What a recogniser hears, and how many letters of the text it hears wrong.

- pocketsphinx (extra `judge`): English, offline, its model is in its package. It hears clean read speech with 10 to
  50 % wrong letters, by the voice, so its figure tells one checkpoint from another but is no error rate of the speech.
- Whisper, through transformers or faster-whisper, from a local folder or the Hugging Face hub: only where asked for.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ttstrain.contract.task import Audio
from ttstrain.errors import CheckpointError
from ttstrain.judge.waveform import at_rate

MISSING = "character errors are not measured: install `ttstrain[judge]`, which brings pocketsphinx for English"
NO_LANGUAGE = "character errors are not measured: no recogniser for `{language}` is installed; give a Whisper model"
UNKNOWN_LANGUAGE = "character errors are not measured: the language is not known and no recogniser is given"


class Recogniser(Protocol):
    """What writes down speech."""

    name: str
    relative: bool  # True: only differences between checkpoints mean something

    def transcribe(self, audio: Audio) -> str:
        """Return what is said, in any spelling."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A recogniser, or why there is none."""

    recogniser: Recogniser | None
    note: str = ""


def open_recogniser(language: str, *, model: str | None = None) -> Opened:
    """Open `model`, a folder or a name on the hub with a Whisper model; without one, what is installed.

    `language` is a code such as `en` or `de-DE`, empty if unknown. Raises CheckpointError if `model` cannot be opened.
    """
    code = language.replace("_", "-").split("-")[0].lower()
    if model is not None:
        return Opened(_open_whisper(model, code))
    if not code:
        return Opened(None, UNKNOWN_LANGUAGE)
    if code != "en":
        return Opened(None, NO_LANGUAGE.format(language=code))
    try:
        return Opened(Pocketsphinx())
    except ImportError:
        return Opened(None, MISSING)


class Pocketsphinx:
    """CMU Sphinx with the English model of its package."""

    name = "pocketsphinx"
    relative = True

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self.decoder = Decoder(samprate=16_000, loglevel="FATAL")

    def transcribe(self, audio: Audio) -> str:
        pcm = (at_rate(audio).clamp(-1, 1) * 32_767).to(torch.int16).numpy().tobytes()
        self.decoder.reinit_feat()  # what it learned of the last clip's noise would change this one's transcript
        self.decoder.start_utt()
        self.decoder.process_raw(pcm, full_utt=True)
        self.decoder.end_utt()
        found = self.decoder.hyp()
        return found.hypstr if found is not None else ""


class Whisper:
    """Whisper by transformers, greedy, one clip at a time."""

    relative = False

    def __init__(self, model: str, language: str) -> None:
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        self.name = f"Whisper ({model})"
        self.processor = WhisperProcessor.from_pretrained(model)
        self.net = WhisperForConditionalGeneration.from_pretrained(model).float().eval()
        self.settings = self._settings_for(language)

    def _settings_for(self, language: str) -> dict[str, Any]:
        """Return the language for a net of many, nothing for one of English. Raises ValueError for one it lacks."""
        known = getattr(self.net.generation_config, "lang_to_id", None)
        if not getattr(self.net.generation_config, "is_multilingual", False) or not language:
            return {}
        if known is not None and f"<|{language}|>" not in known:
            raise ValueError(f"it does not know the language `{language}`")
        return {"language": language, "task": "transcribe"}

    def transcribe(self, audio: Audio) -> str:
        features = self.processor(at_rate(audio).numpy(), sampling_rate=16_000, return_tensors="pt").input_features
        with torch.no_grad():
            tokens = self.net.generate(features, num_beams=1, do_sample=False, **self.settings)
        return str(self.processor.batch_decode(tokens, skip_special_tokens=True)[0])


class FasterWhisper:
    """Whisper by faster-whisper, greedy: folders with CTranslate2's `model.bin`."""

    relative = False

    def __init__(self, model: str, language: str) -> None:
        from faster_whisper import WhisperModel

        self.name = f"faster-whisper ({model})"
        self.language = language or None
        self.net = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=1)

    def transcribe(self, audio: Audio) -> str:
        segments, _ = self.net.transcribe(at_rate(audio).numpy(), language=self.language, beam_size=1)
        return "".join(segment.text for segment in segments)


def _open_whisper(model: str, language: str) -> Recogniser:
    """Open what was converted for CTranslate2, by its file or its name, with faster-whisper, else transformers."""
    converted = (Path(model) / "model.bin").is_file() or (not Path(model).exists() and "faster" in model.lower())
    package, kind = ("faster-whisper", FasterWhisper) if converted else ("transformers", Whisper)
    build: Callable[[str, str], Recogniser] = kind
    try:
        return build(model, language)
    except ImportError as error:
        raise CheckpointError(f"the recogniser `{model}` needs {package}", hint=f"install {package}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the recogniser `{model}` cannot be opened: {error}",
            hint="give a folder with a Whisper model, or its name on the Hugging Face hub",
        ) from error


# ---------------------------------------------------------------- errors by letter


def character_errors(text: str, heard: str) -> float | None:
    """Return edits per letter of `text`; None for a text without letters.

    Only letters and digits are compared: case, punctuation and spaces do not count, nor does the form of a letter
    (NFKC). Digits stay as they are, so "15" that is heard as "fifteen" counts as wrong; see `has_digits`.
    """
    wanted, found = _letters(text), _letters(heard)
    return edits(wanted, found) / len(wanted) if wanted else None


def has_digits(text: str) -> bool:
    """Whether a recogniser may spell a text in another way than it is written."""
    return any(unicodedata.category(sign) == "Nd" for sign in text)


def edits(a: str, b: str) -> int:
    """Return the least number of letters to insert, delete or replace to turn `a` into `b` (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (one != other))
    return row[-1]


def _letters(text: str) -> str:
    """Return a text's letters, marks and digits; apostrophes go with the rest of the punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(sign for sign in folded if unicodedata.category(sign)[0] in "LMN")
