"""`ttstrain eval`: base, raw, EMA and other weights say the same sentences, and what is heard is compared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttstrain.cli import paths
from ttstrain.cli.dial import print_dial
from ttstrain.cli.progress import show_progress
from ttstrain.errors import DataError, RecipeError
from ttstrain.layout import labelled
from ttstrain.places import refused_as
from ttstrain.shell import quoted
from ttstrain.terminal import on_one_line

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip
    from ttstrain.contract.task import Audio
    from ttstrain.judge.evaluate import Contestant, Evaluation, Panel, Sentence
    from ttstrain.judge.retention import Retention
    from ttstrain.judge.rule import Standing

COLUMN = 12  # where the sentences of the lines below the table begin

Data = Annotated[
    str, typer.Option(metavar="DATA", help="Recordings with texts to compare with; default: those of the run.")
]
Recogniser = Annotated[
    str, typer.Option(metavar="MODEL", help="Whisper model for character errors: a folder or a name on the hub.")
]
Out = Annotated[Path | None, typer.Option("-o", "--out", parser=paths.path, help="Folder to keep the sound files in.")]
JsonFile = Annotated[Path | None, typer.Option("--json", parser=paths.path, metavar="FILE", help="JSON file to write.")]
Blend = Annotated[
    str,
    typer.Option(
        metavar="SHARES",
        help="Compare blends of base and fine-tune instead and name the knee: `auto`, or shares such as `0,0.5,1`.",
    ),
]
RetentionData = Annotated[
    str,
    typer.Option(
        "--retention",
        metavar="DATA",
        help="With `--blend`: speech of others, whose loss measures forgetting; default: the run's held-out replay.",
    ),
]


def evaluate(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            parser=paths.name,
            metavar="CKPT|RUN...",
            help="Runs, checkpoints, exported folders or upstream files; `model.*=...` sets sampling options.",
        ),
    ],
    *,
    data: Data = "",
    texts: Annotated[
        Path | None, typer.Option(parser=paths.path, help="Texts to say instead, without recordings: one per line.")
    ] = None,
    base: Annotated[str, typer.Option(metavar="CKPT", help="What to compare with; default: the run's own base.")] = "",
    sentences: Annotated[int, typer.Option(min=2, max=1000, help="Recorded sentences to say.")] = 16,
    recogniser: Recogniser = "",
    recipe: Annotated[str | None, typer.Option(help="Recipe with the model settings of an upstream file.")] = None,
    blend: Blend = "",
    retention: RetentionData = "",
    out: Out = None,
    json: JsonFile = None,
) -> None:
    """Let CKPT, raw and EMA weights, and its base say the same sentences, and say which to use.

    Figures are means over the sentences. A difference from the base that lies within its 95 % interval, over the
    sentences, is said to be none. `docs/judge.md` explains each figure and the rule.
    """
    from ttstrain.judge import evaluate as judge
    from ttstrain.judge.dial import read_dial
    from ttstrain.judge.dial import to_json as dial_json

    overrides = [text for text in checkpoints if _is_override(text)]
    specs = [text for text in checkpoints if not _is_override(text)]
    retained = None
    if blend or retention:
        contestants, retained, notes = _blends(specs, blend, base=base, retention=retention)
    else:
        contestants, notes = judge.find_contestants(specs, base=base or None, recipe=recipe)
    clips = _clips(contestants, data)
    said = _sentences(contestants, clips, texts, count=sentences)
    for place in (json, None if out is None else out / "a"):
        _make_folder(place)
    panel = _panel(said, clips, recogniser, notes)
    found = judge.evaluate(
        contestants,
        said,
        panel,
        overrides=overrides,
        show=show_progress,
        write=None if out is None else lambda key, name, audio: _write(out / f"{name}.{key}.wav", audio),
        measure=None if retained is None else retained.measure,
    )
    dial = read_dial(found, retained, spec=specs[0]) if blend else None
    if json is not None:
        _write_json(json, judge.to_json(found) | ({} if dial is None else {"dial": dial_json(dial)}))
    if dial is None:
        _print(found)
    else:
        print_dial(dial, found)


def _is_override(text: str) -> bool:
    """Tell `model.sampling.steps=8` from a file, which may be called `model.safetensors`."""
    return text.startswith(("model.", "train.")) and "=" in text


def _panel(said: list[Sentence], clips: list[Clip], recogniser: str, notes: list[str]) -> Panel:
    from ttstrain.judge import evaluate as judge
    from ttstrain.judge.listen import Ears

    language = next((clip.language for clip in clips if clip.language), "")
    panel = judge.open_panel(said, clips, ears=Ears.open(language=language, recogniser=recogniser or None))
    panel.notes[:0] = notes
    return panel


def _blends(
    specs: list[str], blend: str, *, base: str, retention: str
) -> tuple[list[Contestant], Retention | None, list[str]]:
    """Find the blends of the one run, and the clips that measure what it forgets."""
    from ttstrain.judge.dial import find_blends, read_grid
    from ttstrain.judge.retention import open_retention

    if not blend:
        raise RecipeError("`--retention` measures what blends forget", hint="add `--blend auto`")
    contestants = find_blends(specs, read_grid(blend), base=base)
    retained = open_retention(Path(contestants[0].spec), retention)
    return contestants, retained, [] if retained is None else list(retained.notes)


def _clips(contestants: list[Contestant], data: str) -> list[Clip]:
    """List the recordings: those given, else the first run's."""
    from ttstrain.judge import evaluate as judge

    if data:
        return judge.clips_of_data(data)
    runs = [run for one in contestants if one.key != judge.BASE and (run := judge.run_of(Path(one.spec))) is not None]
    return judge.clips_of_run(runs[0]) if runs else []


def _sentences(contestants: list[Contestant], clips: list[Clip], texts: Path | None, *, count: int) -> list[Sentence]:
    from ttstrain.infer.load import read_lines
    from ttstrain.judge import evaluate as judge

    if texts is not None:
        return judge.sentences_of_texts(read_lines(texts), judge.voice_for_texts(contestants, clips))
    if not clips:
        raise RecipeError(
            "none of these is a run of ttstrain, so there are no recordings to compare with",
            hint="give recordings with `--data`, or texts with `--texts`",
        )
    return judge.choose_sentences(clips, count=count, trained=judge.trained_texts(contestants))


def _make_folder(file: Path | None) -> None:
    """Make the folder of a file that will be written, before anything is computed for it."""
    if file is not None:
        with refused_as(DataError, hint="name another place"):
            file.parent.mkdir(parents=True, exist_ok=True)


def _write(path: Path, audio: Audio) -> None:
    import soundfile

    with refused_as(DataError, hint="name another place with `-o`"):
        soundfile.write(path, audio.wav.clamp(-1, 1).cpu().numpy(), audio.sample_rate, subtype="PCM_16")


def _write_json(path: Path, document: object) -> None:
    from json import dumps

    from ttstrain.data import atomic

    with refused_as(DataError, hint="name another place with `--json`"):
        atomic.write_text(path, dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


# ---------------------------------------------------------------- for people


def _print(found: Evaluation) -> None:
    for note in found.notes:
        print(on_one_line(f"note: {note}"), file=sys.stderr)
    print("\n".join(_lines(found)))
    sys.stdout.flush()


def _lines(found: Evaluation) -> list[str]:
    """Lay the evaluation out in 80 columns: what was said, the table, and for each side what it means."""
    from ttstrain.judge.table import lay_out

    verdict = found.verdict
    standings = [*((verdict.base,) if verdict.base is not None else ()), *verdict.standings]
    names = {one.key: one.short for one in found.contestants}
    lines = labelled("sentences", _sentence_text(found), column=COLUMN)
    lines += ["", *lay_out([(names[one.side.key], one) for one in standings], verdict.base), ""]
    for one in verdict.standings:
        for said in _of_side(one):
            lines += labelled(names[one.side.key], said, column=max(COLUMN, len(names[one.side.key]) + 2))
    return [*lines, *labelled("verdict", verdict.words, column=COLUMN), *_use(found)]


def _sentence_text(found: Evaluation) -> str:
    from ttstrain.judge.table import BETTER, WORSE

    count, trained = len(found.sentences), len([one for one in found.sentences if one.trained])
    said = f"{count}"
    if trained:
        said += f", {trained} of them trained on: figures of those are too good"
    if found.verdict.base is None:
        return said
    return f"{said}; {BETTER} better and {WORSE} worse than the base by more than the interval"


def _of_side(standing: Standing) -> list[str]:
    """Say what makes a side unusable, or how its voice differs from the base's."""
    if standing.faults:
        return [f"not usable: {fault.words}" for fault in standing.faults]
    voice = standing.against_base.get("voice")
    if voice is None:
        return []
    said = "no difference of the voice" if voice.holds_zero else f"voice {voice.mean:+.2f}"
    return [f"{said} (interval {voice.low:+.2f} to {voice.high:+.2f})"]


def _use(found: Evaluation) -> list[str]:
    """Name the command that writes the chosen weights, where they are a run's and not worse than the base."""
    winner = found.verdict.winner
    if winner is None or found.verdict.outcome in ("worse", "unusable", "unknown"):
        return []
    chosen = next(one for one in found.contestants if one.key == winner.side.key)
    if chosen.weights == "auto":
        return []
    command = quoted("ttstrain", "export", chosen.spec, "--weights", chosen.weights, "-o", "export")
    return labelled("export", command, column=COLUMN)
