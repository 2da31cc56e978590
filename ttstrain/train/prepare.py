"""Prepare a recipe's `data:`: audit, features, split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch

from ttstrain import registry
from ttstrain.contract.data import Clip, ClipFinding, Review, TaskData
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.data.audit import AuditResult, reviewed
from ttstrain.data.cache import BuildReport, FeatureCache, Place
from ttstrain.data.earlier import Earlier, fingerprint
from ttstrain.data.loader import worker_count
from ttstrain.data.location import cache_root, usable_cores
from ttstrain.data.split import split_data
from ttstrain.data.text_summary import check_texts
from ttstrain.errors import DataError
from ttstrain.plan.facts import Audited, Findings, audit_data, count_frames, report_texts
from ttstrain.plan.plan import DataFacts
from ttstrain.train.distributed import Ranks

ShowProgress = Callable[[str], AbstractContextManager[Callable[[int, int], None] | None]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Data that is ready for training."""

    train: Sequence[Clip]
    held_out: Sequence[Clip]
    task_data: TaskData
    cache: FeatureCache
    workers: int  # loader processes
    facts: DataFacts
    audited: Audited | None  # on the main rank
    replay: Sequence[Clip] = ()  # each epoch draws some of them
    retained: Sequence[Clip] = ()  # held out of the replay data
    failed: dict[str, str] = field(default_factory=dict)  # clip id -> why it has no features
    earlier: Earlier | None = None  # data of the resumed run's earlier start

    def measured(self, recipe: ResolvedRecipe) -> str:
        """Hash the held-out data that evaluations measure."""
        return fingerprint(
            self.held_out,
            self.retained,
            most=recipe.eval.max_clips,
            budget=recipe.data.batch_frames,
            max_clips=recipe.data.max_clips,
            features=self.task_data.fingerprint,
        )

    def measured_before(self, recipe: ResolvedRecipe) -> str | None:
        """Hash the held-out data of the run's earlier start, by its lists of clips; None if there are none."""
        if self.earlier is None:
            return None
        data, replay = self.earlier.data, self.earlier.replay
        return replace(self, held_out=data.held_out, retained=() if replay is None else replay.held_out).measured(
            recipe
        )


def no_progress(_title: str) -> AbstractContextManager[None]:
    """Show nothing."""
    return nullcontext()


def open_cache(recipe: ResolvedRecipe, *, place: Place, device: torch.device | None = None) -> FeatureCache:
    """Open the cache of the features that a recipe's task trains on."""
    task_data = registry.find_task(recipe.task).data(recipe.model)
    return FeatureCache(cache_root(recipe.data.cache_dir) / "features", task_data, place=place, device=device)


def review_features(audited: Audited, cache: FeatureCache, failed: Mapping[str, str]) -> Audited:
    """Add the family's findings about features; clips in `failed` have none and are left out."""
    data = look_again(audited.data, cache, failed)
    return Audited(data, None if audited.replay is None else look_again(audited.replay, cache, failed))


def look_again(result: AuditResult, cache: FeatureCache, failed: Mapping[str, str]) -> AuditResult:
    """Add the family's findings about features to one audit, and leave out clips without features."""
    lost = [ClipFinding(clip, "skip", "no_features", failed[clip.id]) for clip in result.clips if clip.id in failed]
    there = reviewed(result, Review(tuple(lost)))
    return reviewed(there, cache.task_data.review_features(there.clips, cache.get))


def prepare(
    recipe: ResolvedRecipe,
    *,
    device: torch.device,
    ranks: Ranks | None = None,
    show: ShowProgress = no_progress,
    earlier: Earlier | None = None,
) -> Prepared:
    """Audit the data, split it and compute the features that are not cached yet.

    The main rank checks the recordings, then each rank computes the features of its share. `earlier` are the clips of a
    resumed run's earlier start; only the main rank's value is used. Raises RecipeError if `data.path` is not set,
    DataError if no clip can be used.
    """
    ranks = ranks or Ranks()
    cache = open_cache(recipe, place=recipe.data.features, device=device)
    audited: Audited | None = None
    report: BuildReport | None = None
    usable: _Usable | None = None
    if ranks.main:
        audited = _check(recipe, show)
    clips = None if audited is None else audited.clips
    failed = {} if ranks.alone else compute_together(cache, clips, ranks, show).failed
    if audited is not None:
        audited, report, usable = _look_through(audited, cache, failed, show, earlier=earlier)
    usable = ranks.broadcast(usable)
    assert usable is not None
    report = report or _read_again(cache, usable)
    split = split_data(usable.clips, usable.replay, recipe.data, seed=recipe.train.seed, earlier=usable.earlier)
    return Prepared(
        train=split.train,
        held_out=split.held_out,
        task_data=cache.task_data,
        cache=cache,
        workers=worker_count(recipe.data.workers, place=report.place, cores=usable_cores() // ranks.local_size),
        facts=count_frames(recipe, split, findings=usable.findings, replay_findings=usable.replay_findings),
        audited=audited,
        replay=split.replay,
        retained=split.retained,
        failed=usable.failed,
        earlier=usable.earlier,
    )


@dataclass(frozen=True, slots=True)
class _Usable:
    """The audited data, which the main rank sends to the others."""

    clips: list[Clip]
    replay: list[Clip]
    findings: Findings
    replay_findings: Findings
    failed: dict[str, str]  # clip id -> why it has no features
    earlier: Earlier | None


def _check(recipe: ResolvedRecipe, show: ShowProgress) -> Audited:
    with show("checking recordings") as progress:
        audited = audit_data(recipe, progress)
    texts = report_texts(recipe, audited.clips)
    if texts is not None:
        check_texts(texts)  # before the features, which take longer
    return audited


@dataclass(frozen=True, slots=True)
class Computed:
    """What all ranks found missing in the cache."""

    num_missing: int  # clips, before they were computed
    failed: dict[str, str]  # clip id -> why it has no features


def compute_together(cache: FeatureCache, clips: Sequence[Clip] | None, ranks: Ranks, show: ShowProgress) -> Computed:
    """Compute the features that are missing, every rank those of its share of the main rank's clips.

    The cache takes what several processes add, and a clip is complete in it or not there: what was computed before a
    process is killed stays.
    """
    every = ranks.broadcast(clips) or []
    with show(f"computing features, 1 of {ranks.world_size} shares") if ranks.main else nullcontext() as progress:
        share = every[ranks.rank :: ranks.world_size]
        own = Computed(*cache.compute(share, cores=max(1, usable_cores() // ranks.local_size), progress=progress))
    found = ranks.gather(own)
    failed = {name: why for one in found for name, why in one.failed.items()}
    return Computed(sum(one.num_missing for one in found), failed)


def _look_through(
    audited: Audited, cache: FeatureCache, failed: dict[str, str], show: ShowProgress, *, earlier: Earlier | None
) -> tuple[Audited, BuildReport, _Usable]:
    """Take in all features, and leave out clips that have none; those in `failed` are not tried again."""
    with show("computing features") as progress:
        report = cache.build([clip for clip in audited.clips if clip.id not in failed], progress=progress)
    failed = {**failed, **report.failed}
    audited = review_features(audited, cache, failed)
    clips = [clip for clip in audited.data.clips if clip.id not in failed]
    if not clips:
        raise DataError(
            f"no clip has features: {next(iter(failed.values()))}", hint="`ttstrain prepare` names each clip"
        )
    replay = [clip for clip in audited.replay_clips if clip.id not in failed]
    usable = _Usable(clips, replay, audited.findings, audited.replay_findings, failed, earlier)
    return audited, report, usable


def _read_again(cache: FeatureCache, usable: _Usable) -> BuildReport:
    """Compute the features that this process's machine lacks. Raises DataError where it cannot."""
    report = cache.build([*usable.clips, *usable.replay])
    if report.failed:
        raise DataError(
            f"this machine has no features of a clip: {next(iter(report.failed.values()))}",
            hint="give every machine the same recordings, or one `data.cache_dir` that all can read",
        )
    return report
