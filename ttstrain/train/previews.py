"""Previews: at every sampling step the base, the raw weights and the EMA weights generate the same sentences.

`samples/step-*/` holds `<name>.wav`, `<name>.ema.wav` and `<name>.base.wav`, a picture of each one's mel, and
`numbers.json`. Keys of the metrics: `sample/mel_distance/<name>`, `sample/ema_mel_distance/<name>` and
`sample/base_mel_distance/<name>` (with their means as `mean`) and `sample/duration_ratio/<name>`, where a recording of
the sentence exists; and `sample/<number>/<name>` for every figure that the task itself reports, with its mean, likewise
with `ema_` and `base_` before the number's name. A run with a listener has more sentences, which are only listened to:
the listener's keys are `judge/...`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
import torch

from ttstrain import documents
from ttstrain.contract.checkpoint import OpenedCheckpoint
from ttstrain.contract.listening import Heard, Speaker
from ttstrain.contract.task import Sample
from ttstrain.data import atomic
from ttstrain.data.transcript import clean
from ttstrain.digest import sha256
from ttstrain.errors import CheckpointError, NoSpeechError, UserError, first_line, is_out_of_memory
from ttstrain.modules.mel_distance import mel_distance
from ttstrain.recipe.schema import base_files
from ttstrain.recipe.shipped import base_path
from ttstrain.tensors.loading import load_weights
from ttstrain.tracking import spectrogram
from ttstrain.tracking.tracker import Spoken, SpokenBy
from ttstrain.train.evaluation_loop import evaluating
from ttstrain.train.listening import Listening
from ttstrain.train.preview_choice import Preview, Previews
from ttstrain.train.run import Run
from ttstrain.train.signals import Hurried
from ttstrain.train.spent import GENERATE

NUMBERS = "numbers.json"
SUFFIXES: Mapping[SpokenBy, str] = {"online": "", "ema": ".ema", "base": ".base"}
METRICS: Mapping[SpokenBy, str] = {"online": "", "ema": "ema_", "base": "base_"}
Breakable = Callable[[], AbstractContextManager[None]]
CHEAP_BYTES = 1 << 30  # a base up to this size is loaded again if its samples are lost


def generate_previews(
    run: Run, previews: Previews, *, losses: Mapping[Speaker, float] | None = None, breakable: Breakable = nullcontext
) -> dict[str, float]:
    """Generate every preview with raw and with EMA weights, add the base's sample, and measure; return the metrics.

    Only the main rank generates; where weights are sharded, all ranks call it and hold them whole meanwhile. Module
    modes, weights and random states are restored afterwards, also after an error. A preview that fails is left out with
    a note. `losses` are the held-out losses at this step, by which the judge decides where it hears no difference.
    Raises Hurried if `breakable`, entered around each sentence, does.
    """
    listening = previews.listening
    step = run.progress.step
    averages = run.ema is not None and step > 0  # at step 0 the EMA weights are a copy of the raw ones
    if not run.ranks.main or not (previews.sentences or listening):
        _accompany(run, averages=averages)
        return {}
    if listening is not None:
        whole = step in (0, run.optimizers.curriculum.total_steps)
        if note := listening.begin(whole=whole, weights=2 if averages else 1):
            run.trackers.note(note)
    folder = _folder(run, step)
    spoken: dict[SpokenBy, dict[str, Spoken]] = {}
    _speak(run, previews, spoken, what="what the previews say", averages=averages, breakable=breakable)
    heard = Heard()
    if listening is not None and listening.utterances:
        with _noted_on_error(run, previews, "what the judge hears"):
            heard = _listen(run, previews, listening, losses or {})
    entries = []
    values: dict[str, float] = {}
    for preview in previews.sentences:
        variants = {weights: said[preview.name] for weights, said in spoken.items() if preview.name in said}
        base = _base(run, previews, preview, variants.get("online"))
        if base is not None:
            variants["base"] = base
        if variants:
            entries.append(_entry(preview, variants, heard))
            values |= _values(preview, variants)
            run.trackers.sample(step, preview.name, preview.prompt.text, variants)
    with _noted_on_error(run, previews, NUMBERS):
        _write_numbers(folder, step, entries, _only_heard(listening, heard))
    return values | _means(values) | dict(heard.values)


def generate_on_request(run: Run, previews: Previews, text: str, *, breakable: Breakable = nullcontext) -> None:
    """Generate a text with raw and with EMA weights now, or the previews if it is empty, into this step's folder.

    The judge does not listen, nothing is logged, and training goes on as if nothing had been asked. All ranks call it,
    as `generate_previews`. What fails, or is left out because a signal asks to leave, is noted.
    """
    averages = run.ema is not None
    asked = _asked_for(run, previews, text) if run.ranks.main else None
    if asked is None:
        _accompany(run, averages=averages)
        return
    step, folder = run.progress.step, _folder(run, run.progress.step)
    spoken: dict[SpokenBy, dict[str, Spoken]] = {}
    with suppress(Hurried):
        _speak(run, asked, spoken, what="what was asked for", averages=averages, breakable=breakable)
    entries = []
    for preview in asked.sentences:
        variants = {weights: said[preview.name] for weights, said in spoken.items() if preview.name in said}
        if variants:
            entries.append({**_entry(preview, variants, Heard()), "asked": True})
            run.trackers.sample(step, preview.name, preview.prompt.text, variants)
        else:
            run.trackers.warn(f"SAMPLE: `{preview.prompt.text}` is not generated at step {step}{_why(asked, preview)}")
    with _noted_on_error(run, asked, NUMBERS):
        named = {entry["name"] for entry in entries}
        kept, only_heard = _entries(folder), _entries(folder, "only_heard")
        _write_numbers(folder, step, [*(one for one in kept if one["name"] not in named), *entries], only_heard)


def _asked_for(run: Run, previews: Previews, text: str) -> Previews | None:
    """Return what is to be said, None where nothing is, which is told."""
    step = run.progress.step
    if not text and (_folder(run, step) / NUMBERS).exists():
        run.trackers.note(f"SAMPLE: the samples of step {step} are there already")
        return None
    if not previews.sentences:
        run.trackers.warn("SAMPLE: this run generates no samples (`sample.every`, or the reason given at its start)")
        return None
    return Previews([_asked(previews.sentences[0], text)] if text else previews.sentences, told=previews.told)


def _why(previews: Previews, preview: Preview) -> str:
    """Return why a preview failed, as far as that was told."""
    told = f"WARNING: preview {preview.name} is missing"
    return next((remark.removeprefix(told) for remark in previews.told if remark.startswith(told)), "")


def _asked(like: Preview, text: str) -> Preview:
    """Say a text as a preview is said. The same text has the same name at every step."""
    cleaned = clean(text)
    changes = tuple(repair.why for repair in cleaned.repairs if repair.action != "accept")
    prompt = replace(like.prompt, text=cleaned.text)
    name = f"asked-{sha256(cleaned.text)[:8]}"
    return replace(like, name=name, prompt=prompt, recorded=None, recorded_s=None, notes=changes)


def _listen(run: Run, previews: Previews, listening: Listening, losses: Mapping[Speaker, float]) -> Heard:
    """Listen to what was said; say the alarms."""
    heard = listening.listen(run, losses)
    for note in heard.notes:
        _tell(run, previews, f"judge: {note}")
    for alarm in heard.alarms:
        run.trackers.warn(f"step {run.progress.step}: {alarm}")
    return heard


def _folder(run: Run, step: int) -> Path:
    return run.folder / "samples" / f"step-{step:08d}"


def _speak(
    run: Run,
    previews: Previews,
    spoken: dict[SpokenBy, dict[str, Spoken]],
    *,
    what: str,
    averages: bool,
    breakable: Breakable,
) -> None:
    """Generate every preview with raw weights, and with `averages` with EMA weights too, into the step's folder.

    Fills `spoken`. Raises Hurried if `breakable` does, once the other ranks need this one no more.
    """
    hurried = False
    for weights in _speakers(averages=averages):
        # in a sharded run an error while weights are gathered ends the run, as it does in a step
        with _noted_on_error(run, previews, what) if run.shards is None else nullcontext(), _ready(run, weights):
            if hurried:
                continue
            try:
                with _noted_on_error(run, previews, what):
                    folder = _folder(run, run.progress.step)
                    folder.mkdir(parents=True, exist_ok=True)
                    spoken[weights] = _generate_all(run, previews, folder, weights=weights, breakable=breakable)
            except Hurried:
                hurried = True
    if hurried:
        raise Hurried


def _accompany(run: Run, *, averages: bool) -> None:
    """Hold the weights of a sharded run whole, as often as the main rank does in `_speak`."""
    if run.shards is not None:
        for weights in _speakers(averages=averages):
            with _ready(run, weights):
                pass


def _speakers(*, averages: bool) -> tuple[Speaker, ...]:
    return ("online", "ema") if averages else ("online",)


@contextmanager
def _ready(run: Run, weights: Speaker) -> Iterator[None]:
    """Have the task hold these weights, whole; all ranks of a sharded run enter and leave."""
    with ExitStack() as held:
        held.enter_context(run.optimizers.evaluating())
        if weights == "ema" and run.ema is not None:
            held.enter_context(run.ema.swapped_in(run.task.exported()))
        if run.shards is not None:
            held.enter_context(run.shards.whole())
        yield


def _generate_all(
    run: Run, previews: Previews, folder: Path, *, weights: SpokenBy, breakable: Breakable = nullcontext
) -> dict[str, Spoken]:
    spoken: dict[str, Spoken] = {}
    listening = previews.listening
    with run.rng.preserved(), evaluating(run.task):
        for preview in previews.sentences:
            with _noted_on_error(run, previews, f"preview {preview.name}{SUFFIXES[weights]}"):
                with _heard_as_silence(run, listening, preview, weights), breakable(), run.spent.on(GENERATE):
                    sample = run.task.sample(preview.prompt)
                for note in (*preview.notes, *sample.notes):
                    _tell(run, previews, f"preview {preview.name}: {note}")
                path = _write(sample, folder / f"{preview.name}{SUFFIXES[weights]}.wav")
                spoken[preview.name] = _measured(preview, sample, path)
                if listening is not None:
                    listening.take(preview.name, weights, sample)
        for one in () if listening is None else listening.due:
            assert listening is not None
            with _noted_on_error(run, previews, f"judged sentence {one.sentence.name}{SUFFIXES[weights]}"), breakable():
                listening.generate(run, one, weights)
    return spoken


@contextmanager
def _heard_as_silence(run: Run, listening: Listening | None, preview: Preview, weights: SpokenBy) -> Iterator[None]:
    """Let the judge know where a preview fails because the net generates nothing."""
    try:
        yield
    except NoSpeechError:
        if listening is not None:
            listening.take_silence(run, preview.name, weights)
        raise


@contextmanager
def _noted_on_error(run: Run, previews: Previews, what: str) -> Iterator[None]:
    """Turn an error into a note, shown once: a failed preview must not end the run."""
    try:
        yield
    except Hurried:
        raise
    except Exception as error:
        reason = first_line(error)
        if is_out_of_memory(error):
            torch.cuda.empty_cache()
            reason = "it did not fit in memory during training"
        hint = f" ({error.hint})" if isinstance(error, UserError) and error.hint else ""
        _tell(run, previews, f"WARNING: {what} is missing: {reason}{hint}")


def _tell(run: Run, previews: Previews, remark: str) -> None:
    if remark not in previews.told:
        previews.told.add(remark)
        run.trackers.note(remark)


def _write(sample: Sample, path: Path) -> Path:
    """Write the wav, and a picture of its mel beside it."""
    soundfile.write(path, sample.audio.wav.clamp(-1, 1).cpu().numpy(), sample.audio.sample_rate, subtype="PCM_16")
    if sample.mel is not None:
        spectrogram.write(path.with_suffix(".png"), sample.mel)
    return path


def _measured(preview: Preview, sample: Sample, path: Path) -> Spoken:
    seconds = sample.audio.wav.shape[-1] / sample.audio.sample_rate
    distance = None
    if preview.recorded is not None and sample.mel is not None:
        distance = mel_distance(sample.mel.float().cpu(), preview.recorded.float().cpu())
    return Spoken(
        path=path,
        seconds=seconds,
        sample=sample,
        mel_distance=distance,
        duration_ratio=None if preview.recorded_s is None else seconds / preview.recorded_s,
        numbers=dict(sample.numbers),
    )


# ---------------------------------------------------------------- the base


def _base(run: Run, previews: Previews, preview: Preview, online: Spoken | None) -> Spoken | None:
    """Copy the base's sample of this sentence into the step's folder; at step 0 the new sample is the base's."""
    if not previews.has_base:
        return None
    step = run.progress.step
    path = _folder(run, step) / f"{preview.name}{SUFFIXES['base']}.wav"
    with _noted_on_error(run, previews, path.name):
        if step == 0:
            return None if online is None else _copied(online, path)
        found = _recall(run, preview)
        if found is None:
            changed = "its text, voice or vocoder has changed since step 0"
            _tell(run, previews, f"no base-model sample for {preview.name}: {changed}")
            return None
        return _copied(found, path)
    return None


def _recall(run: Run, preview: Preview) -> Spoken | None:
    """Find step 0's sample of the same text with the same reference and vocoder; None if there is none."""
    folder = _folder(run, 0)
    try:
        entry = next(entry for entry in _entries(folder) if entry["name"] == preview.name)
        now = (preview.prompt.text, preview.voice, run.task.prepare_sampling())
        if (entry["text"], entry["voice"], entry["vocoder"]) != now:
            return None
        numbers = entry["base"]
        path = folder / numbers["file"]
        if not path.is_file():
            return None
        return Spoken(
            path=path,
            seconds=numbers["seconds"],
            mel_distance=numbers["mel_distance"],
            duration_ratio=numbers["duration_ratio"],
            numbers=numbers.get("numbers", {}),
        )
    except (OSError, ValueError, KeyError, TypeError, StopIteration):  # missing, of an older version, or damaged
        return None


def _copied(spoken: Spoken, path: Path) -> Spoken:
    shutil.copyfile(spoken.path, path)
    picture = spoken.path.with_suffix(".png")
    if picture.is_file():
        shutil.copyfile(picture, path.with_suffix(".png"))
    return replace(spoken, path=path, sample=None)


def recover_base(run: Run, previews: Previews, open_base: Callable[[], OpenedCheckpoint]) -> list[str]:
    """Generate the base's samples again if a resumed run has lost those of step 0; return notes.

    Not for a base over 1 GiB or on the Hub, nor for runs that train adapters or shard their weights.
    """
    base, step = run.plan.recipe.base, run.progress.step
    if base is None or step == 0 or not previews.has_base or not run.ranks.main:
        return []
    lost = [preview for preview in previews.sentences if _recall(run, preview) is None]
    prompts = {preview.name: preview.prompt for preview in previews.sentences}
    unheard = None if previews.listening is None else previews.listening.without_base(prompts)
    if not lost and (unheard is None or not unheard.sentences):
        return []
    sizes = [_base_bytes(file) for file in base_files(base)]
    cheap = all(sizes) and sum(sizes) <= CHEAP_BYTES
    if run.plan.recipe.lora is not None or run.shards is not None or not cheap:
        why = "the base is over 1 GiB, remote or deleted, so it is not loaded again"
        if run.plan.recipe.lora is not None:
            why = "adapters are trained"
        if run.shards is not None:
            why = "processes hold parts of the weights"
        return [f"no base-model samples: those of step 0 are lost, and {why}"]
    own = {name: tensor.detach().clone() for name, tensor in run.task.state_dict().items()}
    folder = _folder(run, 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = open_base()
        load_weights(run.task, run.task.fitted(opened).weights, source=opened.title)
        again = Previews(lost, told=previews.told, listening=unheard)
        with run.optimizers.evaluating():
            spoken = _generate_all(run, again, folder, weights="base")
        if unheard is not None:
            unheard.listener.hear_base(unheard.utterances)
        entries = [
            _entry(preview, {"base": spoken[preview.name]}, Heard()) for preview in lost if preview.name in spoken
        ]
        kept = _entries(folder) if (folder / NUMBERS).exists() else []
        _write_numbers(folder, 0, [*(entry for entry in kept if entry["name"] not in spoken), *entries])
    except Exception as error:
        return [f"no base-model samples: {first_line(error)}"]
    finally:
        run.task.load_state_dict(own)
    if not lost:
        return ["the judge listened to the base, which it had not heard yet"]
    return [f"generated {len(entries)} base-model samples again: those of step 0 were lost"]


def _base_bytes(spec: str) -> int:
    """Return the size of a base on this machine; 0 where it is on the Hub or gone."""
    try:
        return _bytes(base_path(spec))
    except CheckpointError:  # this installation ships no such base
        return 0


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0


# ---------------------------------------------------------------- numbers


def _entry(preview: Preview, variants: Mapping[SpokenBy, Spoken], heard: Heard) -> dict[str, Any]:
    """Describe a preview for `numbers.json`."""
    sample = next((spoken.sample for spoken in variants.values() if spoken.sample is not None), None)
    return {
        "name": preview.name,
        "text": preview.prompt.text,
        "voice": preview.voice,
        "voice_text": preview.prompt.reference_text,
        "recorded_s": preview.recorded_s,
        "vocoder": "" if sample is None else sample.vocoder,
        **{
            weights: {
                "file": spoken.path.name,
                "seconds": spoken.seconds,
                "duration_ratio": spoken.duration_ratio,
                "mel_distance": spoken.mel_distance,
                "numbers": dict(spoken.numbers),
                **_judged(heard, preview.name, weights),
            }
            for weights, spoken in variants.items()
        },
    }


def _judged(heard: Heard, name: str, weights: SpokenBy) -> dict[str, Any]:
    figures = heard.figures.get(name, {}).get(weights)
    return {} if figures is None else {"judge": figures}


def _only_heard(listening: Listening | None, heard: Heard) -> list[dict[str, Any]]:
    """Describe the sentences that are listened to and not shown, for `numbers.json`."""
    return [
        {"name": one.sentence.name, "text": one.sentence.text, "voice": one.sentence.voice}
        | {weights: {"judge": figures} for weights, figures in heard.figures.get(one.sentence.name, {}).items()}
        for one in (listening.due if listening is not None else ())
    ]


def _write_numbers(
    folder: Path, step: int, entries: Sequence[Mapping[str, Any]], only_heard: Sequence[Mapping[str, Any]] = ()
) -> None:
    document = {"step": step, "previews": entries, **({"only_heard": only_heard} if only_heard else {})}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    atomic.write_text(folder / NUMBERS, text + "\n")


def _entries(folder: Path, key: str = "previews") -> list[dict[str, Any]]:
    """Read a list of `_write_numbers`' file; [] if it is missing or damaged: it can be made again."""
    try:
        values = documents.read_object(folder / NUMBERS, error=CheckpointError, keys={key: list}, numbers="any")
    except CheckpointError:
        return []
    entries: list[dict[str, Any]] = values[key]
    return entries


def _values(preview: Preview, variants: Mapping[SpokenBy, Spoken]) -> dict[str, float]:
    values = {
        f"sample/{METRICS[weights]}mel_distance/{preview.name}": spoken.mel_distance
        for weights, spoken in variants.items()
        if spoken.mel_distance is not None
    }
    online = variants.get("online")
    if online is not None and online.duration_ratio is not None:
        values[f"sample/duration_ratio/{preview.name}"] = online.duration_ratio
    for weights, spoken in variants.items():
        values |= {f"sample/{METRICS[weights]}{name}/{preview.name}": value for name, value in spoken.numbers.items()}
    return values


def _means(values: Mapping[str, float]) -> dict[str, float]:
    """Average every metric over the sentences that have it."""
    figures: dict[str, list[float]] = {}
    for key, value in values.items():
        figures.setdefault(key.rpartition("/")[0], []).append(value)
    return {f"{place}/mean": sum(found) / len(found) for place, found in figures.items()}
