"""`ttstrain prepare`: check the data, and compute what training reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttstrain import terminal
from ttstrain.cli import cut_options as options
from ttstrain.cli import paths
from ttstrain.cli.completion import recipe_keys, recipe_names
from ttstrain.cli.cut import Made, cut_or_review
from ttstrain.cli.cut_options import CutOptions
from ttstrain.errors import DataError
from ttstrain.places import refused_as
from ttstrain.shell import quoted

if TYPE_CHECKING:
    from ttstrain.contract.checkpoint import OpenedCheckpoint
    from ttstrain.contract.data import FrontEnd
    from ttstrain.contract.model import ResolvedRecipe
    from ttstrain.data.audit import AuditResult
    from ttstrain.data.cache import BuildReport, FeatureCache
    from ttstrain.data.texts import TextReport
    from ttstrain.judge.score import Scoring
    from ttstrain.train.distributed import Ranks

SCORES = "scores.jsonl"
SHOWN_SCORES = 10
GO_ON = "what was computed is kept: start the command again"


def prepare(
    data: Annotated[
        Path,
        typer.Argument(parser=paths.path, metavar="DATA", help="Recordings: folder, table or package:voice."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Overrides of recipe keys.", autocompletion=recipe_keys),
    ] = None,
    *,
    recipe: Annotated[
        str,
        typer.Option(help="The recipe to prepare for: a shipped name or a YAML file.", autocompletion=recipe_names),
    ] = "",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", parser=paths.path, help="Folder for the clip lists.")
    ] = None,
    score: Annotated[
        str, typer.Option(metavar="CKPT", help="Rank clips by how much their text helps this checkpoint predict them.")
    ] = "",
    vocab_out: Annotated[
        Path | None,
        typer.Option(
            parser=paths.path, metavar="FILE", help="Write the recipe's vocabulary with the missing symbols added."
        ),
    ] = None,
    num_shown: Annotated[
        int, typer.Option("--show-tokens", metavar="N", min=0, help="Show N sentences as the model's tokens.")
    ] = 0,
    cut: options.CutTo = None,
    transcriber: options.Transcriber = "",
    language: options.Language = "",
    speaker: options.Speaker = "",
    shortest: options.Shortest = None,
    longest: options.Longest = None,
    pause: options.Pause = None,
    loudness: options.Loudness = None,
    review: options.Review = None,
    nproc: Annotated[
        int, typer.Option(min=1, help="Processes on this machine that compute features, each its share of the clips.")
    ] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check every recording in DATA, list what was repaired and skipped, and cache the features that RECIPE trains on.

    `finetune` does the same if needed. Writes manifest.jsonl (the clips) and quarantine.jsonl (what was skipped or
    repaired, and why), with `--score` also scores.jsonl; the recordings are never changed. Without a recipe the data
    are only checked.

    With `--nproc`, or started by torchrun or Slurm as `finetune` is, processes divide the clips and share one cache.

    With `--cut`, DATA are long recordings: they are cut at pauses, each clip gets its words of the text file with the
    recording's name or of a recogniser, and a page is written to hear and correct them.
    """
    wished = CutOptions(cut, review, shortest, longest, pause, loudness, transcriber, language, speaker)
    asked = _Asked(out, score, vocab_out, num_shown, json)
    _divide(nproc, wished, asked, recipe=recipe, data=data, overrides=overrides or [])
    _cut_and_prepare(wished, recipe, data, overrides or [], asked)


def _divide(nproc: int, wished: CutOptions, asked: _Asked, *, recipe: str, data: Path, overrides: list[str]) -> None:
    """Start several processes if that is asked for, and end with their exit code."""
    from ttstrain.train.launched import first_speaks, under_launcher

    if nproc > 1 or under_launcher():
        with first_speaks():
            _check_together(wished, recipe)
            _recipe(recipe, data, overrides)  # a bad one is refused before any process is started
    if nproc > 1:
        from ttstrain.runs.launch import launch

        arguments = ["prepare", str(data), *overrides, "--recipe", recipe, *asked.arguments()]
        raise typer.Exit(launch(arguments, nproc=nproc, go_on=GO_ON))


def _check_together(wished: CutOptions, recipe: str) -> None:
    """Refuse several processes for what one does. Raises RecipeError."""
    from ttstrain.errors import RecipeError

    if wished.out is not None or wished.review is not None:
        raise RecipeError(
            "recordings are cut and reviewed by one process",
            hint="start it alone, then give its folder as DATA to several",
        )
    if not recipe:
        raise RecipeError(
            "several processes share the computing of features, which needs a recipe", hint="add `--recipe RECIPE`"
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What `prepare` should write and print."""

    out: Path | None
    score: str
    vocab_out: Path | None
    num_shown: int
    json: bool
    recordings: dict[str, Any] | None = None  # what was cut or reviewed before

    def arguments(self) -> list[str]:
        """Return the options as the command line has them."""
        flags = {"-o": self.out, "--score": self.score, "--vocab-out": self.vocab_out, "--show-tokens": self.num_shown}
        given = [part for flag, value in flags.items() if value for part in (flag, str(value))]
        return [*given, "--json"] if self.json else given


def _cut_and_prepare(wished: CutOptions, recipe: str, data: Path, overrides: list[str], asked: _Asked) -> None:
    """Cut or review if that is wished, then prepare the data; everything on the command line is checked first."""
    wished.check()
    wanted = _recipe(recipe, wished.out or data, overrides)
    if wanted is None:
        _need_recipe({"--score": asked.score, "--vocab-out": asked.vocab_out, "--show-tokens": asked.num_shown})
    elif asked.vocab_out is not None:
        _vocab_key(wanted)
    if (made := cut_or_review(data, wished)) is None:
        _prepare(wanted, data, overrides, asked)
        return
    if not asked.json:
        print("\n".join(made.lines))
    if made.num_used:
        _prepare(wanted, made.folder, overrides, replace(asked, recordings=made.document))
    else:
        _print_unused(made, json=asked.json)


def _print_unused(made: Made, *, json: bool) -> None:
    """Say that no clip can be trained on yet."""
    if json:
        from json import dumps

        print(dumps({"path": str(made.folder), "recordings": made.document}, indent=1))
    else:
        print("no clip has a text to train on yet: open the page, and give its table to `--review`")


def _prepare(wanted: ResolvedRecipe | None, data: Path, overrides: list[str], asked: _Asked) -> None:
    """Check the data and compute features; of several processes the first checks, prints and writes the lists."""
    from ttstrain.train.launched import under_launcher

    if wanted is None or not under_launcher():
        _check_and_compute(wanted, data, overrides, asked)
        return
    from ttstrain.runs.processes import join_processes
    from ttstrain.train.prepare import compute_together, no_progress, open_cache

    with join_processes() as here:
        cache = open_cache(wanted, place="disk")
        if cache.task_data.in_one_process:  # each process runs the nets on a GPU of its own
            here.choose_device(wanted)
        if here.ranks.main:
            _check_and_compute(wanted, data, overrides, asked, ranks=here.ranks)
        else:
            compute_together(cache, None, here.ranks, no_progress)


def _check_and_compute(
    wanted: ResolvedRecipe | None, data: Path, overrides: list[str], asked: _Asked, *, ranks: Ranks | None = None
) -> None:
    from ttstrain.cli.progress import show_progress
    from ttstrain.data.audit import audit
    from ttstrain.data.readers import read_rows
    from ttstrain.data.summary import findings_lines, summary
    from ttstrain.plan.facts import review_data

    scorer = _open_scorer(wanted, asked.score) if wanted is not None and asked.score else None
    front_end = None if wanted is None else _front_end(wanted)
    config = wanted.data if wanted is not None else _data_config(data, overrides)
    with show_progress("checking recordings") as progress:
        result = audit(read_rows(str(data), config.format, cache_dir=config.cache_dir), config, progress)
    if wanted is not None:
        result = review_data(wanted, result)
    lists = _write_lists(result, asked.out, config.cache_dir)
    texts = _read_texts(front_end, result)
    if not asked.json:
        print(summary(result))
        _print_texts(texts, front_end, result, num_shown=asked.num_shown)
        print(f"lists     {terminal.on_one_line(str(lists))}")
    if asked.vocab_out is not None and wanted is not None:
        added = _write_vocab(asked.vocab_out, front_end, texts, key=_vocab_key(wanted))
        if not asked.json:
            print(terminal.on_one_line(added))
    built = None if wanted is None else _build_features(wanted, result, ranks)
    if built is not None:
        from ttstrain.train.prepare import look_again

        checked, result = result, look_again(result, built[0], built[1].failed)
        _write_lists(result, asked.out, config.cache_dir)
        if not asked.json:
            print("\n".join([_features_line(built[1]), *findings_lines(result, after=checked)]))
        _need_features(result)
    scoring = None
    if wanted is not None and built is not None and scorer is not None:
        scoring = _score(wanted, scorer, built, result, lists)
    if asked.json:
        _print_json(
            result,
            None if built is None else built[1],
            lists,
            texts=texts,
            scoring=scoring,
            recordings=asked.recordings,
        )
    elif scoring is not None:
        print("\n".join([*scoring_lines(scoring), f"scores    {terminal.on_one_line(str(lists / SCORES))}"]))


def _recipe(name: str, data: Path, overrides: list[str]) -> ResolvedRecipe | None:
    from ttstrain.plan.project import with_project
    from ttstrain.plan.resolve import parse
    from ttstrain.recipe.compose import compose, with_flags

    return parse(with_project(with_flags(compose(name, overrides), data=data))) if name else None


def _data_config(data: Path, overrides: list[str]) -> Any:
    from ttstrain.errors import RecipeError
    from ttstrain.recipe.schema import DataConfig

    if overrides:
        raise RecipeError("`KEY=VALUE` needs a recipe", hint="add `--recipe RECIPE`")
    return DataConfig(path=str(data))


def _write_lists(result: AuditResult, out: Path | None, cache_dir: str | None) -> Path:
    from ttstrain.data.audit import write_quarantine
    from ttstrain.data.location import cache_root
    from ttstrain.data.manifest import write_manifest
    from ttstrain.digest import sha256

    if out is None:
        name = sha256(str(result.root.resolve()))[:16]
        out = cache_root(cache_dir) / "prepared" / name
    with refused_as(DataError, path=out, hint="name another folder with `-o`"):
        write_manifest(out / "manifest.jsonl", result.clips)
        write_quarantine(result, out / "quarantine.jsonl")
    return out


def _build_features(
    recipe: ResolvedRecipe, result: AuditResult, ranks: Ranks | None
) -> tuple[FeatureCache, BuildReport]:
    from ttstrain.cli.progress import show_progress
    from ttstrain.train.prepare import compute_together, open_cache

    cache = open_cache(recipe, place="disk")
    if ranks is None:
        with show_progress("computing features") as progress:
            return cache, cache.build(result.clips, progress=progress)
    together = compute_together(cache, result.clips, ranks, show_progress)
    report = cache.build([clip for clip in result.clips if clip.id not in together.failed])
    failed = {**together.failed, **report.failed}
    computed = together.num_missing - len(failed)
    return cache, replace(report, computed=computed, reused=len(result.clips) - together.num_missing, failed=failed)


def _need_features(result: AuditResult) -> None:
    from ttstrain.errors import DataError

    if not result.clips:
        last = result.quarantine[-1]
        raise DataError(f"no clip has features: {last.why}", hint="quarantine.jsonl names each clip")


def _features_line(report: BuildReport) -> str:

    failed = f"{len(report.failed)} failed, " if report.failed else ""
    there = f"{report.reused} already there, {report.num_bytes / 1e6:.1f} MB"
    return f"features  {report.computed} computed, {failed}{there}"


# ---------------------------------------------------------------- texts


def _need_recipe(flags: dict[str, Any]) -> None:
    from ttstrain.errors import RecipeError

    if given := [flag for flag, value in flags.items() if value]:
        raise RecipeError(f"`{given[0]}` needs a recipe, which sets the tokenizer", hint="add `--recipe RECIPE`")


def _vocab_key(recipe: ResolvedRecipe) -> str:
    """Return the recipe key that names a vocabulary's file. Raises RecipeError if the task's vocabulary is fixed."""
    from ttstrain import registry
    from ttstrain.contract.model import ExtendsVocab
    from ttstrain.errors import RecipeError

    planner = registry.planner_of(recipe)
    if not isinstance(planner, ExtendsVocab):
        raise RecipeError(
            f"`--vocab-out` extends a vocabulary, and that of `{recipe.task}` is fixed by its published weights",
            hint="leave `--vocab-out` out",
        )
    return planner.vocab_key()


def _front_end(recipe: ResolvedRecipe) -> FrontEnd | None:
    from ttstrain.plan.facts import front_end_of

    return front_end_of(recipe)


def _read_texts(front_end: FrontEnd | None, result: AuditResult) -> TextReport | None:
    from ttstrain.data.texts import read_texts

    return None if front_end is None else read_texts(result.clips, front_end)


def _print_texts(texts: TextReport | None, front_end: FrontEnd | None, result: AuditResult, *, num_shown: int) -> None:
    """Print the report on the texts, and some of them as the model reads them."""
    if texts is None or front_end is None:
        return
    from ttstrain.data.text_summary import legend, show_tokens, text_lines
    from ttstrain.layout import LABEL, WIDTH

    console = terminal.console(markup=False)
    for line in text_lines(texts):
        console.print(line, soft_wrap=True, style="yellow" if "UNKNOWN" in line else None)
    if texts.refused:
        console.print(f"{'':{LABEL}}more than `model.max_unknown`: `finetune` refuses these texts", style="bold red")
    if num_shown:
        console.print(f"{'tokens':{LABEL}}{legend(front_end)}", soft_wrap=True)
        for sentence in show_tokens(result.clips, front_end, most=num_shown):
            for number, part in enumerate(sentence.wrap(console, WIDTH - LABEL - 2)):
                part.rstrip()
                console.print(" " * (LABEL if number == 0 else LABEL + 2), part, sep="", soft_wrap=True)


def _write_vocab(path: Path, front_end: FrontEnd | None, texts: TextReport | None, *, key: str) -> str:
    """Write a vocabulary that holds the missing symbols too, and say how to use it."""
    from ttstrain.data import atomic
    from ttstrain.data.text_summary import some_symbols
    from ttstrain.data.texts import extended_vocab
    from ttstrain.errors import RecipeError

    if front_end is None or texts is None:
        raise RecipeError("this task's vocabulary cannot be extended")
    if path.exists():
        raise RecipeError(f"`{path}` exists already", hint="a trained vocabulary must not change; choose another name")
    tokens = extended_vocab(front_end.vocab, texts.unknown)
    with refused_as(DataError, path=path, hint="name another file with `--vocab-out`"):
        atomic.write_text(path, "".join(f"{token}\n" for token in tokens))
    new = len(tokens) - len(front_end.vocab)
    which = f": {some_symbols(texts)}" if new else ""
    use = quoted(f"{key}={path}")
    return f"vocab     {path}: {len(tokens):,} tokens, {new} new{which}\n          use it with `{use}`"


# ---------------------------------------------------------------- scores


def _open_scorer(recipe: ResolvedRecipe, path: str) -> OpenedCheckpoint:
    from ttstrain.judge.score import open_scorer

    return open_scorer(recipe, path)


def _score(
    recipe: ResolvedRecipe,
    scorer: OpenedCheckpoint,
    built: tuple[FeatureCache, BuildReport],
    result: AuditResult,
    lists: Path,
) -> Scoring:
    from ttstrain.cli.progress import show_progress
    from ttstrain.judge.score import score, write_scores

    cache, report = built
    clips = [clip for clip in result.clips if clip.id not in report.failed]
    with show_progress("listening to transcripts") as progress:
        scoring = score(recipe, scorer, cache, clips, progress=progress)
    write_scores(scoring, lists / SCORES)
    return scoring


def scoring_lines(scoring: Scoring) -> list[str]:
    """Show the most suspicious transcripts in 80 columns, and how far to trust their order."""
    from ttstrain.data.readers import printable

    lines = [
        f"score     {len(scoring.scores):,} clips by {scoring.checkpoint}: {len(scoring.suspicious)} suspicious",
        f"          a clip's own text scores above another clip's text in {100 * scoring.separation:.0f} % of pairs",
    ]
    if not scoring.reliable:
        lines += [
            "          WARNING: 50 % is chance. This model hardly uses the text; score with a model",
            "          that was trained longer or on more data, and check the first clips by ear",
        ]
    lines.append(f"          {'z':>6} {'score':>8}  clip and text, the most suspicious first")
    for entry in scoring.scores[:SHOWN_SCORES]:
        mark = "?" if entry.suspicious else " "
        named = f"{printable(entry.clip.id, limit=20)}: {printable(entry.clip.text, limit=60)}"
        lines.append(printable(f"        {mark} {entry.z:6.1f} {entry.score:8.4f}  {named}", limit=80))
    return lines


def _print_json(
    result: AuditResult,
    report: BuildReport | None,
    lists: Path,
    *,
    texts: TextReport | None,
    scoring: Scoring | None,
    recordings: dict[str, Any] | None,
) -> None:
    import json

    from ttstrain.data.audit import as_json

    document = {
        "path": str(result.root),
        "format": result.format,
        "rows": result.num_rows,
        "clips": len(result.clips),
        "hours": result.hours,
        "skipped": result.skipped,
        "fixed": result.fixed,
        "noted": result.count("accept"),
        "findings": [as_json(finding) for finding in result.findings],
        "features": None
        if report is None
        else {
            "computed": report.computed,
            "reused": report.reused,
            "failed": dict(report.failed),
            "bytes": report.num_bytes,
        },
        "texts": None if texts is None else texts.to_json(),
        "scores": None if scoring is None else scoring.to_json(),
        "manifest": str(lists / "manifest.jsonl"),
        "quarantine": str(lists / "quarantine.jsonl"),
        **({} if recordings is None else {"recordings": recordings}),
    }
    print(json.dumps(document, indent=1))
