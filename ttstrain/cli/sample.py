"""`ttstrain sample`: generate speech with a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttstrain.cli import paths
from ttstrain.errors import DataError
from ttstrain.places import refused_as
from ttstrain.shell import quoted
from ttstrain.terminal import on_one_line
from ttstrain.weights import WeightsChoice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ttstrain.contract.task import Audio
    from ttstrain.infer.load import Line, LoadedModel, Voice

VOICE = "model.sampling.voice="  # names a voice, where a model knows them by name
SOUND_FILES = (".wav", ".flac", ".ogg")


def sample(
    checkpoint: Annotated[
        str,
        typer.Argument(
            parser=paths.name,
            metavar="CKPT",
            help="A run, a checkpoint, an exported folder, an upstream file, hf://… or package:NAME",
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as model.sampling.steps=32.")
    ] = None,
    *,
    out: Annotated[
        Path, typer.Option("-o", "--out", parser=paths.path, help="Sound file to write; a folder with `--texts`.")
    ],
    text: Annotated[str | None, typer.Option(help="Text to generate.")] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            parser=paths.path,
            help="File with one text per line; or .jsonl or .tsv with text, name, ref_audio, ref_text.",
        ),
    ] = None,
    ref_audio: Annotated[
        Path | None, typer.Option(parser=paths.path, help="Recording of the voice to clone, 3 to 12 s.")
    ] = None,
    ref_text: Annotated[str | None, typer.Option(help="Exact transcript of `--ref-audio`.")] = None,
    weights: Annotated[
        WeightsChoice, typer.Option(help="Raw or EMA weights; `auto`: those with the lower held-out loss.")
    ] = "auto",
    recipe: Annotated[str | None, typer.Option(help="Recipe with the model settings of an upstream file.")] = None,
) -> None:
    """Generate TEXT with CKPT and write it to a sound file.

    Without `--ref-audio`, a run uses one of its own held-out clips as the reference, or its speaker's name.
    `KEY=VALUE` sets sampling options: `model.sampling.*`, by the task `steps`, `cfg_strength`, `seed` and `vocoder`, or
    `temperature`, `voice` and `max_tokens`, and others that `ttstrain schema` lists; and `train.device`.
    """
    from ttstrain.infer.load import line_of, load_model, read_lines

    if (text is None) == (texts is None):
        raise typer.BadParameter("give either `--text` or `--texts`")
    if ref_text is not None and ref_audio is None:
        raise typer.BadParameter("give `--ref-audio` and its transcript `--ref-text` together")
    if text is not None and not text.strip():
        raise DataError("the text is empty")
    lines = [line_of(out.stem, text, where="the text")] if text is not None else read_lines(_given(texts))
    files = _files(out, lines, single=text is not None)
    for file in files:
        _check_writable(file)
    read = _Voices()
    given = None if ref_audio is None else read(ref_audio, ref_text or "")
    speaker = load_model(checkpoint, overrides or [], weights=weights, recipe=recipe)
    for told in speaker.lines:
        _say(told)
    _say(f"vocoder: {speaker.vocoder}")
    _speak(speaker, list(zip(lines, _voices(speaker, lines, given, read, overrides or []), files, strict=True)))


def _voices(
    speaker: LoadedModel, lines: list[Line], given: Voice | None, read: _Voices, overrides: list[str]
) -> list[Voice | None]:
    """Return the voice of each line: its own reference, the one given for all lines, or the run's."""
    if given is not None or any(line.ref_audio is not None for line in lines):
        _need_recorded_voices(speaker)
    voices = [read(line.ref_audio, line.ref_text) if line.ref_audio is not None else given for line in lines]
    if None in voices:
        named = [text.removeprefix(VOICE) for text in overrides if text.startswith(VOICE)]
        own = _own_voice(speaker, asked=named[-1] if named else "")
        voices = [own if voice is None else voice for voice in voices]
    return voices


def _need_recorded_voices(speaker: LoadedModel) -> None:
    from ttstrain.contract.task import NamesVoices
    from ttstrain.errors import RecipeError

    if isinstance(speaker.task, NamesVoices):
        raise RecipeError(
            "this model selects a voice by name and uses no reference recording",
            hint="set `model.sampling.voice=NAME`, a speaker name of its training data",
        )


def _given(path: Path | None) -> Path:
    assert path is not None
    return path


def _files(out: Path, lines: list[Line], *, single: bool) -> list[Path]:
    """Return the output file of each line; checked before anything is computed."""
    from ttstrain.errors import RecipeError

    if not out.absolute().parent.is_dir():
        raise RecipeError(f"`{out}` cannot be written: there is no folder `{out.parent}`", hint="make it first")
    if single:
        if out.is_dir():
            raise RecipeError(f"`{out}` is a folder", hint=f"name a file in it: `-o {quoted(out / 'speech.wav')}`")
        if out.suffix.lower() not in SOUND_FILES:
            raise RecipeError(
                f"`{out}` is not the name of a sound file", hint=f"it must end in {', '.join(SOUND_FILES)}"
            )
        return [out]
    if out.exists() and not out.is_dir():
        raise RecipeError(f"`{out}` is not a folder", hint="`--texts` writes one file per text into a folder")
    with refused_as(DataError, hint=_OTHER_OUT):
        out.mkdir(exist_ok=True)
    return [out / f"{line.name}.wav" for line in lines]


_OTHER_OUT = "name another place with `-o`"


def _check_writable(path: Path) -> None:
    """Raise DataError where a sound file cannot be written, before anything is computed for it."""
    with refused_as(DataError, hint=_OTHER_OUT):
        there = path.exists()
        if there and not path.is_file():
            raise DataError(f"`{path}` cannot be written: it is not an ordinary file", hint=_OTHER_OUT)
        with path.open("ab"):
            pass
        if not there:
            path.unlink()


def _write(path: Path, audio: Audio) -> None:
    import soundfile

    try:
        soundfile.write(path, audio.wav.numpy(), audio.sample_rate)
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(f"`{path}` could not be written: {error}", hint=f"is the disk full? {_OTHER_OUT}") from error


class _Voices:
    """Reads each reference once, however many lines use it, and collects its warnings."""

    def __init__(self) -> None:
        self._read: dict[tuple[Path, str], Voice] = {}

    def __call__(self, path: Path, text: str) -> Voice:
        from ttstrain.infer.load import read_voice

        if (path, text) not in self._read:
            voice = self._read[path, text] = read_voice(path, text)
            for note in voice.notes:
                _say(f"WARNING: {note}")
        return self._read[path, text]


def _own_voice(speaker: LoadedModel, *, asked: str) -> Voice | None:
    """Choose a run's own held-out clip, or its speaker's name, as the voice; None for anything but a run."""
    from ttstrain.contract.task import NamesVoices
    from ttstrain.infer.load import voice_of_run
    from ttstrain.infer.voice_names import check_voice_name

    voice = None if speaker.run is None else voice_of_run(speaker.run)
    if isinstance(speaker.task, NamesVoices):
        if asked and speaker.run is not None:
            check_voice_name(asked, run=speaker.run, published=speaker.task.voice_names)
        whose = f"`{voice.speaker}`, as {voice.name}" if voice is not None and voice.speaker else "no name"
        _say(f"voice: `{asked}`" if asked else f"voice: {whose}; `{VOICE}NAME` selects another")
        return voice
    if voice is None:
        _say("voice: no reference given (`--ref-audio`, `--ref-text`), so the model chooses one")
    else:
        _say(f"voice: {voice.name}, as no reference was given (`--ref-audio`, `--ref-text`)")
    return voice


def _speak(speaker: LoadedModel, work: list[tuple[Line, Voice | None, Path]]) -> None:
    from time import perf_counter

    from ttstrain.contract.task import Prompt

    failed = 0
    figures: list[Mapping[str, float]] = []
    for line, voice, path in work:
        started = perf_counter()
        prompt = Prompt(line.text)
        if voice is not None:
            prompt = Prompt(line.text, voice.audio, voice.text, speaker=voice.speaker)
        try:
            spoken = speaker.task.sample(prompt)
        except DataError as error:
            if len(work) == 1:
                raise
            failed += 1
            _say(f"error: {line.name}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
            continue
        took = perf_counter() - started
        seconds = spoken.audio.wav.shape[-1] / spoken.audio.sample_rate
        _write(path, spoken.audio)
        for note in (*line.notes, *spoken.notes):
            _say(f"WARNING: {'' if len(work) == 1 else f'{line.name}: '}{note}")
        if spoken.numbers:
            _say(f"{'' if len(work) == 1 else f'{line.name}: '}{_figures(spoken.numbers)}")
            figures.append(spoken.numbers)
        pieces = "1 chunk" if spoken.num_chunks == 1 else f"{spoken.num_chunks} chunks"
        sound = spoken.vocoder.partition(":")[0]
        print(f"{on_one_line(str(path))}  {seconds:.1f} s, {pieces}, RTF {took / seconds:.2f}, {sound}", flush=True)
    if len(figures) > 1:
        _say(f"mean of {len(figures)}: {_figures(_means(figures))}")
    if failed:
        raise DataError(f"{failed} of {len(work)} texts failed", hint="the lines above say why")


def _figures(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())


def _means(figures: list[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for numbers in figures for name in numbers)
    found = {name: [numbers[name] for numbers in figures if name in numbers] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def _say(message: str) -> None:
    print(on_one_line(message), file=sys.stderr, flush=True)
