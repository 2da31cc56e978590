"""Evaluate checkpoints by what is heard: each says the same sentences, and the verdict says which to use."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ttstrain import registry
from ttstrain.checkpoint import pointers, run_folder
from ttstrain.checkpoint.meta import read_meta
from ttstrain.checkpoint.upstream import resolve_base
from ttstrain.contract.data import Clip
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.contract.task import Audio, NamesVoices, Prompt
from ttstrain.data.audio import read_clip
from ttstrain.data.audit import audit
from ttstrain.data.manifest import read_manifest
from ttstrain.data.readers import read_rows
from ttstrain.data.reference import choose_reference
from ttstrain.errors import DataError, NoSpeechError, UserError
from ttstrain.infer.load import Line, LoadedModel, Voice, load_model, voice_of_run
from ttstrain.judge.figures import Figures
from ttstrain.judge.listen import Ears, Target, listen
from ttstrain.judge.rule import Side
from ttstrain.judge.table import Remark, merged
from ttstrain.judge.target import sentence_key
from ttstrain.judge.verdict import Verdict, decide
from ttstrain.judge.wanted import measure_wanted
from ttstrain.judge.waveform import RATE
from ttstrain.plan.resolve import parse
from ttstrain.recipe.compose import compose_run
from ttstrain.recipe.schema import DataConfig
from ttstrain.train.listening import choose_unheard
from ttstrain.weights import WeightsChoice

ShowProgress = Callable[[str], AbstractContextManager[Callable[[int, int], None] | None]]
Write = Callable[[str, str, Audio], None]  # key of a side, name of a sentence, its audio
SAMPLING = "sampling"  # the key of how a task generates, where it has one
BASE = "base"
NAMES: Mapping[WeightsChoice, str] = {"online": "raw weights", "ema": "EMA", "auto": "weights"}
SHORT: Mapping[WeightsChoice, str] = {"online": "raw", "ema": "EMA", "auto": "weights"}


@dataclass(frozen=True, slots=True)
class Contestant:
    """One set of weights to listen to."""

    key: str  # unique, also in file names
    title: str  # for people
    short: str  # the same, for a column of a table
    spec: str  # what `load_model` opens
    weights: WeightsChoice = "auto"
    recipe: str | None = None
    loss: float | None = None
    blend: float | None = None  # share of the way from the run's base to these weights; None: these weights
    blend_base: tuple[str, ...] = ()  # files to blend with; none: the run's own base
    overrides: tuple[str, ...] = ()  # what speech needs besides the weights, where they do not name it themselves


Measure = Callable[[Contestant, LoadedModel], None]


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence that every contestant says, and the recording that it should sound like."""

    name: str
    text: str
    prompt: Prompt
    speaker: str = ""  # whose voice it should be
    clip: Clip | None = None
    trained: bool = False  # one of the runs was trained on it


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was heard of every contestant, and the verdict."""

    sentences: Sequence[Sentence]
    contestants: Sequence[Contestant]
    figures: Mapping[str, Sequence[Figures]]  # key of a contestant -> of each sentence
    verdict: Verdict
    notes: Sequence[str]


# ---------------------------------------------------------------- who is listened to


def find_contestants(
    specs: Sequence[str], *, base: str | None = None, recipe: str | None = None
) -> tuple[list[Contestant], list[str]]:
    """List raw and EMA weights of every run and checkpoint, the base first; return notes too.

    Of a run, its best checkpoint is used. The base is `base`, else that of the first run. Raises CheckpointError where
    one does not exist.
    """
    found: list[Contestant] = []
    notes: list[str] = []
    for number, spec in enumerate(specs, start=1):
        path = resolve_base(spec)
        which = f"{number}: " if len(specs) > 1 else ""
        if not pointers.is_checkpoint(path):
            found.append(Contestant(f"{number}", path.stem, f"{which}{path.stem}", spec, recipe=recipe))
            continue
        meta, run = read_meta(path), run_of(path)
        name = f"{path.parent.parent.name if run else path.name}, step {meta.step:,}"
        kinds: list[WeightsChoice] = ["online", "ema"] if meta.ema.present else ["online"]
        for kind in kinds:
            loss = meta.metrics.get("eval/loss/total" if kind == "online" else "eval/ema_loss/total")
            title, short = f"{NAMES[kind]} of {name}", f"{which}{SHORT[kind]} {meta.step}"
            found.append(Contestant(f"{number}-{kind}", title, short, str(path), kind, loss=loss))
        if base is None and run is not None and not any(one.key == BASE for one in found):
            base, said = _base_of(run)
            notes += said
    if base is not None:
        resolve_base(base)
        found.insert(0, Contestant(BASE, "the base", BASE, base, recipe=recipe, overrides=_speaks_with(found)))
    return found, notes


def run_of(checkpoint: Path) -> Path | None:
    """Return the run's folder that a checkpoint lies in; None where it lies elsewhere."""
    run = checkpoint.parent.parent
    return run if (run / run_folder.RECIPE).is_file() else None


def _speaks_with(contestants: Sequence[Contestant]) -> tuple[str, ...]:
    """Return what the first run generates speech with, as overrides: its base is heard with the same."""
    run = next((run for one in contestants if (run := run_of(Path(one.spec))) is not None), None)
    if run is None:
        return ()
    recipe = _recipe_of(run)
    settings = dict(registry.planner_of(recipe).speech_files())
    settings |= {key: value for key, value in recipe.section().items() if key == SAMPLING}
    return tuple(f"model.{key}={json.dumps(value)}" for key, value in settings.items() if value is not None)


def _recipe_of(run: Path) -> ResolvedRecipe:
    return parse(compose_run(run, [], origins=run_folder.origins(run)))


def _base_of(run: Path) -> tuple[str | None, list[str]]:
    """Return what a run was started from, if it is one file that can be loaded, and a note if not."""
    recipe = _recipe_of(run)
    if recipe.base is None:
        return None, [f"`{run.name}` was trained from scratch: there is no base to compare with"]
    if not isinstance(recipe.base, str):
        return None, [f"the base of `{run.name}` is in several files: name one with `--base` to compare with it"]
    place, started = Path(recipe.base), run_folder.directory(run)
    if "://" in recipe.base or recipe.base.startswith("package:") or place.is_absolute() or started is None:
        spec = recipe.base
    else:
        spec = str(started / place)
    try:
        resolve_base(spec)
    except UserError as error:
        return None, [f"the base of `{run.name}` is not compared with: {error.message}"]
    return spec, []


# ---------------------------------------------------------------- what is said


def clips_of_run(run: Path) -> list[Clip]:
    """List the clips of a run that can still be read from its lists, held-out ones first."""
    files = [run / "data" / f"{name}.jsonl" for name in ("held_out", "train")]
    return [clip for file in files if file.is_file() for clip in read_manifest(file)]


def trained_texts(contestants: Sequence[Contestant]) -> frozenset[str]:
    """Return the texts that the contestants' runs were trained on, as `sentence_key` writes them."""
    runs = {run for one in contestants if one.key != BASE and (run := run_of(Path(one.spec))) is not None}
    files = [file for run in sorted(runs) if (file := run / "data" / "train.jsonl").is_file()]
    return frozenset(sentence_key(clip.text) for file in files for clip in read_manifest(file))


def clips_of_data(data: str, language: str | None = None) -> list[Clip]:
    """Audit a data set as training does, and list its clips. Raises DataError where nothing can be used."""
    return list(audit(read_rows(data), DataConfig(path=data, language=language)).clips)


def choose_sentences(clips: Sequence[Clip], *, count: int, trained: frozenset[str] = frozenset()) -> list[Sentence]:
    """Choose recorded sentences, in the order of the clips, each after another clip's voice.

    `trained` are the keys of those that a run was trained on.
    """
    chosen = choose_unheard(clips, (), taken=(), count=count)
    if not chosen:
        raise DataError("there are no recordings to compare with", hint="give some with `--data`")
    return [
        replace(_of_clip(number, clip, clips), trained=sentence_key(clip.text) in trained)
        for number, clip in enumerate(chosen, start=1)
    ]


def _of_clip(number: int, clip: Clip, clips: Sequence[Clip]) -> Sentence:
    reference = choose_reference(clips, apart_from=clip)
    voice = None if reference is None else Audio(read_clip(reference, reference.sample_rate), reference.sample_rate)
    whose = (reference or clip).speaker
    prompt = Prompt(
        clip.text,
        reference=voice,
        reference_text="" if reference is None else reference.text,
        speaker=clip.speaker,
        language=clip.language,
    )
    return Sentence(f"{number:03d}", clip.text, prompt, whose, clip)


def sentences_of_texts(lines: Sequence[Line], voice: Voice | None) -> list[Sentence]:
    """Say texts without recordings in one voice."""
    return [
        Sentence(
            line.name,
            line.text,
            Prompt(line.text) if voice is None else Prompt(line.text, voice.audio, voice.text, speaker=voice.speaker),
            "" if voice is None else voice.speaker,
        )
        for line in lines
    ]


def voice_for_texts(contestants: Sequence[Contestant], clips: Sequence[Clip]) -> Voice | None:
    """Choose the voice of texts: a clip of the data, else of the first run."""
    clip = choose_reference(clips, apart_from=None)
    if clip is not None:
        audio = Audio(read_clip(clip, clip.sample_rate), clip.sample_rate)
        return Voice(audio, clip.text, clip.id, speaker=clip.speaker)
    runs = [run for one in contestants if one.key != BASE and (run := run_of(Path(one.spec))) is not None]
    return voice_of_run(runs[0]) if runs else None


# ---------------------------------------------------------------- listening


@dataclass(slots=True)
class Panel:
    """What everybody is heard with."""

    ears: Ears
    targets: Mapping[str, Target]
    notes: list[str] = field(default_factory=list)


def open_panel(sentences: Sequence[Sentence], clips: Sequence[Clip], *, ears: Ears) -> Panel:
    """Measure the recordings that the sentences are compared with."""
    wanted = measure_wanted(
        clips,
        texts=[sentence.text for sentence in sentences if sentence.clip is not None],
        speakers=[one for sentence in sentences for one in (sentence.speaker, sentence.prompt.speaker)],
        ears=ears,
    )
    return Panel(ears, wanted.targets, [*ears.notes, *wanted.notes])


def evaluate(
    contestants: Sequence[Contestant],
    sentences: Sequence[Sentence],
    panel: Panel,
    *,
    overrides: Sequence[str] = (),
    show: ShowProgress,
    write: Write | None = None,
    measure: Measure | None = None,
) -> Evaluation:
    """Let every contestant say every sentence, with its own seed each time, and compare what is heard.

    A sentence that one of them cannot say is left out for that one, with a note. `measure` is called with every
    contestant's model before it is dropped.
    """
    figures: dict[str, list[Figures]] = {}
    notes: list[str] = list(panel.notes)
    remarks: list[Remark] = []
    with show("listening") as progress:
        total = len(contestants) * len(sentences)
        for number, contestant in enumerate(contestants):
            model = _load(contestant, [*contestant.overrides, *overrides])
            figures[contestant.key] = heard = []
            for one in _say_all(model, contestant, sentences, remarks, write):
                heard.append(_hear(one, panel, remarks, contestant))
                if progress is not None:
                    progress(number * len(sentences) + len(heard), total)
            if measure is not None:
                measure(contestant, model)
            del model
            gc.collect()
    sides = [Side(one.key, one.title, figures[one.key], one.loss) for one in contestants]
    base = next((side for side in sides if side.key == BASE), None)
    verdict = decide([side for side in sides if side.key != BASE], base)
    return Evaluation(sentences, contestants, figures, verdict, list(dict.fromkeys([*notes, *merged(remarks)])))


def _load(contestant: Contestant, overrides: Sequence[str]) -> LoadedModel:
    return load_model(
        contestant.spec,
        overrides,
        weights=contestant.weights,
        recipe=contestant.recipe,
        blend=contestant.blend,
        base=contestant.blend_base,
    )


@dataclass(frozen=True, slots=True)
class _Said:
    sentence: Sentence
    speaker: str  # whose voice it should be: a net with named voices does not follow the reference
    audio: Audio | None


def _say_all(
    model: LoadedModel,
    contestant: Contestant,
    sentences: Sequence[Sentence],
    remarks: list[Remark],
    write: Write | None,
) -> Iterator[_Said]:
    named = isinstance(model.task, NamesVoices)
    for sentence in sentences:
        prompt, speaker = sentence.prompt, sentence.prompt.speaker if named else sentence.speaker
        if named:
            prompt = Prompt(prompt.text, speaker=prompt.speaker, language=prompt.language)
        try:
            with torch.no_grad():
                sample = model.task.sample(prompt)
        except NoSpeechError:
            yield _Said(sentence, speaker, Audio(torch.zeros(0), RATE))
            continue
        except DataError as error:
            remarks.append(Remark(contestant.short, f"a sentence is not said: {error.message}"))
            yield _Said(sentence, speaker, None)
            continue
        remarks += [Remark(contestant.short, note) for note in sample.notes]
        if write is not None:
            write(contestant.key, sentence.name, sample.audio)
        yield _Said(sentence, speaker, sample.audio)


def _hear(said: _Said, panel: Panel, remarks: list[Remark], contestant: Contestant) -> Figures:
    if said.audio is None:
        return Figures()
    found = listen(said.audio, said.sentence.text, target=panel.targets[said.speaker], ears=panel.ears)
    if said.sentence.clip is not None:  # of a text without a recording what is missing is told once
        remarks += [Remark(contestant.short, note) for note in found.notes]
    return found


# ---------------------------------------------------------------- JSON


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything that was measured, for scripts."""
    verdict = evaluation.verdict
    standings = {one.side.key: one for one in (*verdict.standings, *((verdict.base,) if verdict.base else ()))}

    def side(contestant: Contestant) -> dict[str, Any]:
        standing = standings[contestant.key]
        return {
            "key": contestant.key,
            "title": contestant.title,
            "path": contestant.spec,
            "weights": contestant.weights,
            "held_out_loss": contestant.loss,
            "usable": standing.usable,
            "words": standing.understanding,
            "faults": [fault.words for fault in standing.faults],
            "score": standing.score,
            "figures": {name: interval.to_json() for name, interval in standing.figures.items()},
            "against_base": {name: interval.to_json() for name, interval in standing.against_base.items()},
            "sentences": {
                sentence.name: one.to_json()
                for sentence, one in zip(evaluation.sentences, evaluation.figures[contestant.key], strict=True)
            },
        }

    winner = verdict.winner
    return {
        "schema": 1,
        "verdict": {
            "outcome": verdict.outcome,
            "words": verdict.words,
            "use": None if winner is None else winner.side.key,
        },
        "sides": [side(contestant) for contestant in evaluation.contestants],
        "sentences": [{"name": one.name, "text": one.text, "trained": one.trained} for one in evaluation.sentences],
        "notes": list(evaluation.notes),
    }
