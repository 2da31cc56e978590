"""Facts about the data that a plan needs: found by the audit, without torch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from ttstrain import registry
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.errors import DataError, RecipeError
from ttstrain.plan.plan import DataFacts, ReplayFacts, StageFacts
from ttstrain.recipe.schema import DataConfig

if TYPE_CHECKING:
    from ttstrain.contract.data import Clip, FrontEnd, Remark
    from ttstrain.data.audit import AuditResult
    from ttstrain.data.forked import Forked
    from ttstrain.data.split import DataSplit
    from ttstrain.data.texts import TextReport


@dataclass(frozen=True, slots=True)
class Audited:
    """The data of a run, checked."""

    data: AuditResult
    replay: AuditResult | None = None

    @property
    def clips(self) -> Sequence[Clip]:
        from ttstrain.data.in_columns import together

        return together(self.data.clips, self.replay_clips)

    @property
    def folders(self) -> Sequence[str]:
        """Return the folders of all recordings; none where those of some are not known."""
        parts = [part.folders for part in (self.data, self.replay) if part is not None]
        return [folder for part in parts for folder in part] if all(parts) else ()

    @property
    def replay_clips(self) -> Sequence[Clip]:
        return () if self.replay is None else self.replay.clips

    @property
    def findings(self) -> Findings:
        return Findings(self.data.skipped, self.data.fixed, self.data.remarks)

    @property
    def replay_findings(self) -> Findings:
        return Findings() if self.replay is None else Findings(self.replay.skipped, self.replay.fixed)


@dataclass(frozen=True, slots=True)
class Findings:
    """Rows that an audit skipped and repaired: reason -> rows."""

    skipped: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()  # remarks of the family


def gather_facts(recipe: ResolvedRecipe, progress: Callable[[int, int], None] | None = None) -> DataFacts:
    """Audit the recipe's data and measure what a plan depends on; `progress` is called with (done, of) recordings."""
    from ttstrain.data.forked import Forked
    from ttstrain.data.split import split_data
    from ttstrain.plan import kept_facts

    front_end_of(recipe)  # raises its error before any recording is read
    if (kept := kept_facts.find(recipe)) is not None:
        return kept
    with _collecting_later():
        audited = audit_data(recipe, progress, lengths="given")
        texts = None
        if recipe.data.replay is None:  # then all audited clips are used
            texts = Forked(partial(report_texts, recipe, audited.clips), items=len(audited.clips))
        split = split_data(audited.data.clips, audited.replay_clips, recipe.data, seed=recipe.train.seed)
        facts = count_frames(
            recipe, split, findings=audited.findings, replay_findings=audited.replay_findings, texts=texts
        )
    kept_facts.keep(recipe, facts, audited.clips, audited.folders)
    return facts


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Look for circles of garbage afterwards: among a million rows, which have none, it takes a sixth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def audit_data(
    recipe: ResolvedRecipe,
    progress: Callable[[int, int], None] | None = None,
    *,
    lengths: Literal["measured", "given"] = "measured",
) -> Audited:
    """Audit the data that a recipe names, those it replays too; the latter's clips are called `replay/<id>`.

    With `lengths="given"` recordings are not opened where a large table says how long they are.
    Raises RecipeError when it names none, DataError when they cannot be used.
    """
    data = recipe.data
    if data.path is None:
        raise RecipeError(
            "`data.path` is not set", hint="give a folder of recordings or a metadata file with `--data PATH`"
        )
    found = review_data(recipe, _audit(data, progress, lengths))
    if data.replay is None:
        return Audited(found)
    named = {"path": data.replay.path, "format": data.replay.format, "language": data.replay.language}
    replay = review_data(recipe, _audit(data.model_copy(update=named), progress, lengths, key="data.replay.path"))
    clips = [replace(clip, id=f"replay/{clip.id}") for clip in replay.clips]
    return Audited(found, replay=replace(replay, clips=clips))


def review_data(recipe: ResolvedRecipe, result: AuditResult) -> AuditResult:
    """Add what the recipe's family finds in audited clips. Raises DataError when it leaves none."""
    from ttstrain.data.audit import reviewed

    planner = registry.planner_of(recipe)
    found = reviewed(result, planner.review(result.clips))
    if not found.clips:
        last = found.quarantine[-1]
        raise DataError(
            f"none of the {len(result.clips)} clips that passed the audit can be used by the model: {last.reason}",
            hint=f"`{last.row.id}`: {last.why}",
        )
    return found


def _audit(
    data: DataConfig,
    progress: Callable[[int, int], None] | None,
    lengths: Literal["measured", "given"],
    *,
    key: str = "data.path",
) -> AuditResult:
    from ttstrain.data.audit import audit
    from ttstrain.data.readers import read_rows

    assert data.path is not None
    return audit(read_rows(data.path, data.format, cache_dir=data.cache_dir, key=key), data, progress, lengths=lengths)


def count_frames(
    recipe: ResolvedRecipe,
    split: DataSplit,
    *,
    findings: Findings,
    replay_findings: Findings | None = None,
    texts: Forked[TextReport | None] | None = None,
) -> DataFacts:
    """Measure audited clips in the task's frames and divide them into the micro-batches of the first epoch.

    `texts` is a report of the same clips' texts in the order of their table, if one is being made.
    """
    from ttstrain.data.in_columns import column
    from ttstrain.data.sampler import overlong, padding_share, plan_mixed_epoch

    data = recipe.data
    planner = registry.planner_of(recipe)
    frames, seconds = tuple(planner.lengths(split.train)), column(split.train, "duration_s")
    too_long = set(overlong(frames, budget=data.batch_frames))
    fitting = [i for i in range(len(frames)) if i not in too_long] if too_long else range(len(frames))
    lengths = [frames[i] for i in fitting]
    replayed = [(clip, length) for clip in split.replay if (length := planner.length(clip)) <= data.batch_frames]
    every = [*lengths, *(length for _, length in replayed)]
    batches = plan_mixed_epoch(
        lengths,
        every[len(lengths) :],
        share=0.0 if data.replay is None else data.replay.share,
        budget=data.batch_frames,
        max_clips=data.max_clips,
        seed=recipe.train.seed,
        epoch=0,
        packed=planner.packed,
    )
    drawn = [every[i] for batch in batches for i in batch if i >= len(lengths)] if replayed else []
    return DataFacts(
        num_clips=len(fitting),
        hours=sum(map(seconds.__getitem__, fitting)) / 3600,
        num_holdout=len(split.held_out),
        skipped=dict(findings.skipped),
        fixed=dict(findings.fixed),
        remarks=findings.remarks,
        frames=frames,
        batches_per_epoch=len(batches),
        padding_share=padding_share(every, batches, packed=planner.packed),
        overlong=tuple(split.train[i].id for i in sorted(too_long)),
        texts=_report_of(recipe, split, texts),
        replay=None if data.replay is None else _replay_facts(split, replayed, drawn, replay_findings or Findings()),
        stages=_count_stages(recipe, split),
    )


def _replay_facts(
    split: DataSplit, fitting: Sequence[tuple[Clip, int]], drawn: Sequence[int], findings: Findings
) -> ReplayFacts:
    """Say what is replayed: of the clips that fit into a micro-batch, with their frames, those `drawn` for an epoch."""
    return ReplayFacts(
        num_clips=len(fitting),
        hours=sum(clip.duration_s for clip, _ in fitting) / 3600,
        num_holdout=len(split.retained),
        num_shared=split.num_shared,
        num_overlong=len(split.replay) - len(fitting),
        skipped=dict(findings.skipped),
        fixed=dict(findings.fixed),
        clips_per_epoch=len(drawn),
        frames_per_epoch=sum(drawn),
    )


def _report_of(recipe: ResolvedRecipe, split: DataSplit, begun: Forked[TextReport | None] | None) -> TextReport | None:
    """Report the texts of all clips; examples are the first ones of the training clips, if these hold any."""
    from ttstrain.data.in_columns import column, together

    if begun is not None:
        report = begun.result()
        if report is None or not set(column(split.held_out, "text")).intersection(report.examples.values()):
            return report
    return report_texts(recipe, together(split.train, split.held_out, split.replay, split.retained))


def _count_stages(recipe: ResolvedRecipe, split: DataSplit) -> tuple[StageFacts, ...]:
    """Measure what each stage trains on. Raises RecipeError when a filter leaves nothing."""
    from ttstrain.data.choice import check_choices, chosen
    from ttstrain.data.sampler import plan_mixed_epoch

    if not recipe.stages:
        return ()
    check_choices(recipe.stages, split.train, split.held_out)
    data = recipe.data
    planner = registry.planner_of(recipe)
    replayed = [length for clip in split.replay if (length := planner.length(clip)) <= data.batch_frames]
    found = []
    for stage in recipe.stages:
        clips = [clip for clip in chosen(split.train, stage.data) if planner.length(clip) <= data.batch_frames]
        batches = plan_mixed_epoch(
            [planner.length(clip) for clip in clips],
            replayed,
            share=0.0 if data.replay is None else data.replay.share,
            budget=data.batch_frames,
            max_clips=data.max_clips,
            seed=recipe.train.seed,
            epoch=0,
            packed=planner.packed,
        )
        found.append(
            StageFacts(
                num_clips=len(clips),
                hours=sum(clip.duration_s for clip in clips) / 3600,
                num_holdout=len(chosen(split.held_out, stage.data)),
                batches_per_epoch=len(batches) if clips else 0,
            )
        )
    return tuple(found)


def report_texts(recipe: ResolvedRecipe, clips: Sequence[Clip]) -> TextReport | None:
    """Read the clips' texts as the task does; None where its family has no front end."""
    from ttstrain.data.texts import read_texts

    front_end = front_end_of(recipe)
    return None if front_end is None else read_texts(clips, front_end)


def front_end_of(recipe: ResolvedRecipe) -> FrontEnd | None:
    """Return the text front end, which tokenizes texts. Raises RecipeError when a package or file is missing."""
    return registry.planner_of(recipe).front_end()
