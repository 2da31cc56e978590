"""The sentences that a run says at its sampling steps, chosen once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from torch import Tensor

from ttstrain.contract.data import Clip
from ttstrain.contract.listening import Listener, Sentence
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.contract.task import Audio, Prompt
from ttstrain.data.audio import read_clip
from ttstrain.data.readers.locate import AUDIO_SUFFIXES
from ttstrain.data.reference import choose_reference
from ttstrain.data.transcript import clean
from ttstrain.train.listening import Listening, SpokenSentence, choose_unheard
from ttstrain.train.prepare import Prepared


@dataclass(frozen=True, slots=True)
class Preview:
    """One sentence to generate at every sampling step, and the recording it is compared with."""

    name: str
    prompt: Prompt
    recorded: Tensor | None = None  # (n, n_mels) log-mel of a held-out recording of the same text
    recorded_s: float | None = None
    voice: str = ""  # id of the reference clip
    speaker: str = ""  # of the reference clip, else of the recording
    notes: tuple[str, ...] = ()  # what cleaning changed in the text


@dataclass(slots=True)
class Previews:
    """The sentences to generate at every sampling step, and the notes that were shown."""

    sentences: Sequence[Preview] = ()
    has_base: bool = False  # the run starts from trained weights, which are worth comparing with
    told: set[str] = field(default_factory=set)  # notes already shown: each is shown once
    notes: Sequence[str] = ()  # why there are none
    listening: Listening | None = None  # to these and to more sentences


def choose_previews(recipe: ResolvedRecipe, prepared: Prepared) -> list[Preview]:
    """Choose the recipe's texts, or held-out sentences, each with another clip as reference.

    The task decides the duration, as it does at inference.
    """
    everything = [*prepared.held_out, *prepared.train]
    if recipe.sample.texts:
        reference = choose_reference(everything, apart_from=None)
        return [_of_text(i + 1, text, reference, prepared) for i, text in enumerate(recipe.sample.texts)]
    previews = []
    for clip in list(prepared.held_out)[: recipe.sample.count]:
        reference = choose_reference(everything, apart_from=clip)
        recorded = prepared.task_data.reference(prepared.cache.get(clip))
        previews.append(_preview(_file_name(clip.id), clip.text, reference, prepared, clip=clip, recorded=recorded))
    return previews


def choose_listening(
    recipe: ResolvedRecipe,
    prepared: Prepared,
    previews: Sequence[Preview],
    listener: Listener,
) -> Listening:
    """Listen to the previews of recorded sentences, and to as many more sentences as the recipe says."""
    shown = {preview.name: _sentence(preview) for preview in previews if preview.recorded_s is not None}
    missing = max(0, recipe.judge.sentences - len(shown))
    taken = [sentence.text for sentence in shown.values()]
    held_out, more = {clip.id for clip in prepared.held_out}, []
    for clip in choose_unheard(prepared.held_out, prepared.train, taken=taken, count=missing):
        reference = choose_reference([*prepared.held_out, *prepared.train], apart_from=clip)
        preview = _preview(_file_name(clip.id), clip.text, reference, prepared, clip=clip)
        more.append(SpokenSentence(_sentence(preview, trained=clip.id not in held_out), preview.prompt))
    asked = recipe.judge.between
    listening = Listening(listener, shown, more, between=None if asked == "auto" else asked)
    listener.expect(listening.sentences)
    return listening


def _sentence(preview: Preview, *, trained: bool = False) -> Sentence:
    return Sentence(preview.name, preview.prompt.text, voice=preview.voice, speaker=preview.speaker, trained=trained)


def _of_text(number: int, text: str, reference: Clip | None, prepared: Prepared) -> Preview:
    """Clean a text of the recipe as texts of the data are cleaned."""
    cleaned = clean(text)
    changes = tuple(repair.why for repair in cleaned.repairs if repair.action != "accept")
    return replace(_preview(f"text-{number}", cleaned.text, reference, prepared), notes=changes)


def _preview(
    name: str,
    text: str,
    reference: Clip | None,
    prepared: Prepared,
    *,
    clip: Clip | None = None,
    recorded: Tensor | None = None,
) -> Preview:
    named = clip or reference
    language = "" if clip is None else clip.language  # the recipe's own texts have no language
    prompt = Prompt(text, speaker="" if named is None else named.speaker, language=language)
    if reference is not None:
        rate = prepared.task_data.sample_rate
        audio = Audio(read_clip(reference, rate), rate)
        prompt = replace(prompt, reference=audio, reference_text=reference.text)
    return Preview(
        name,
        prompt,
        recorded=recorded,
        recorded_s=None if clip is None else clip.duration_s,
        voice="" if reference is None else reference.id,
        speaker=next((one.speaker for one in (reference, clip) if one is not None), ""),
    )


def _file_name(clip_id: str) -> str:
    """Turn an id into a safe file name, without the ending of a sound file."""
    ending = PurePosixPath(clip_id).suffix
    if ending.lower() in AUDIO_SUFFIXES:
        clip_id = clip_id.removesuffix(ending)
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in clip_id).strip(".") or "clip"
