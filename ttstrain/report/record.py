"""Everything that the page says of one run, read from its folder; and of several, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from ttstrain import documents
from ttstrain.checkpoint import judged, run_folder
from ttstrain.contract.data import Clip
from ttstrain.errors import CheckpointError, RecipeError, first_line
from ttstrain.forecast.forecast import FILE as FORECAST
from ttstrain.report.charts import Chart, build_charts
from ttstrain.report.data import DataSummary, held_out_clips, summarise
from ttstrain.report.events import Checkpoints, Event, Events, read_checkpoints, read_events
from ttstrain.report.reference import Shade, read_shades
from ttstrain.report.samples import Grid, read_grid
from ttstrain.report.series import Metrics
from ttstrain.report.settings import Difference, Setting, differences, read_settings
from ttstrain.report.sound import Codec, Shelf
from ttstrain.report.verdict import Judgement, Verdict, find_verdict, headline, read_judgement
from ttstrain.tracking.jsonl import FILE_NAME

VERSION = 1
SUMMARISED = (run_folder.PLAN, "data/train.jsonl", "data/held_out.jsonl", "data/quarantine.jsonl")
T = TypeVar("T")
_NO_DATA: tuple[DataSummary, list[Clip]] = (DataSummary(), [])
_NO_SHADES: tuple[Mapping[str, Shade], list[str]] = ({}, [])
MOST_NAMED = 4  # metrics that were not finite


@dataclass(frozen=True, slots=True)
class Record:
    """One run as the page shows it."""

    name: str
    status: str  # as the run ended, `running`, or "" where the folder does not tell
    facts: Sequence[tuple[str, str]]
    verdict: Verdict
    charts: Sequence[Chart]
    events: Events
    marks: Sequence[Event]  # for the curves: incidents
    checkpoints: Checkpoints
    judgement: Judgement
    grid: Grid
    settings: Sequence[Setting]
    data: DataSummary
    notes: Sequence[str]  # what could not be shown


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page shows."""

    runs: Sequence[Record]
    differences: Sequence[Difference]
    written: str  # time, ISO 8601
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


@dataclass(slots=True)
class Reader:
    """Reads one run again and again, and only what is new of its metrics, pictures and data."""

    run: Path
    _metrics: Metrics = field(init=False)
    _shelf: Shelf = field(init=False)
    _data: tuple[object, DataSummary, list[Clip]] | None = None

    def __post_init__(self) -> None:
        if not (self.run / run_folder.PLAN).is_file() and not (self.run / FILE_NAME).is_file():
            raise RecipeError(
                f"`{self.run}` is not the folder of a run: it has no `{run_folder.PLAN}`",
                hint="give the folder that `ttstrain finetune` names, such as `runs/<name>`",
            )
        self._metrics = Metrics(self.run / FILE_NAME)
        self._shelf = Shelf(self.run)

    def read(self, *, page: Path | None = None, embed: Codec | None = None, status: str = "") -> Record:
        """Read the run for a page in the folder `page`, by default the run's own.

        Raises DataError and OSError where the metrics cannot be read; what else is damaged is told on the page.
        """
        self._metrics.update()
        self._shelf.begin(self.run if page is None else page, embed)
        plan, notes = self._plan()
        notes += _unreadable(self.run)
        events = _shown("the events", notes, lambda: read_events(self.run), instead=Events())
        checkpoints = read_checkpoints(self.run)
        data, held_out = _shown("the data", notes, lambda: self._summary(plan), instead=_NO_DATA)
        shades, more = _shown("the band", notes, lambda: read_shades(self.run, plan, self._metrics), instead=_NO_SHADES)
        notes += more
        if self._metrics.unreadable:
            notes.append(f"{self._metrics.unreadable} lines of {FILE_NAME} cannot be read and are left out")
        if self._metrics.repeated:
            notes.append(f"{self._metrics.repeated} logged steps were taken back by rollbacks and are not drawn")
        notes += _not_finite(self._metrics)
        best = checkpoints.best
        return Record(
            name=run_folder.name(self.run) if plan else self.run.name,
            status=status,
            facts=_shown("the facts", notes, lambda: headline(self.run, plan, self._metrics), instead=[]),
            verdict=_shown(
                "the verdict", notes, lambda: find_verdict(self.run, self._metrics, events), instead=Verdict()
            ),
            charts=_shown("the curves", notes, lambda: build_charts(self._metrics, plan, shades), instead=[]),
            events=events,
            marks=events.incidents,
            checkpoints=checkpoints,
            judgement=_shown("what was heard", notes, lambda: read_judgement(self.run, best=best), instead=Judgement()),
            grid=_shown("the samples", notes, lambda: self._grid(best, held_out), instead=Grid()),
            settings=read_settings(plan),
            data=data,
            notes=notes,
        )

    def _grid(self, best: int | None, held_out: Sequence[Clip]) -> Grid:
        return read_grid(self.run, self._shelf, best=best, clips=held_out)

    def _plan(self) -> tuple[Mapping[str, Any], list[str]]:
        try:
            return documents.read_object(self.run / run_folder.PLAN, error=CheckpointError), []
        except CheckpointError as error:
            return {}, [error.message]

    def _summary(self, plan: Mapping[str, Any]) -> tuple[DataSummary, list[Clip]]:
        """Summarise the data, and list the held-out clips, again only where the clip lists have changed."""
        state = [_state(self.run / name) for name in SUMMARISED]
        if self._data is None or self._data[0] != state:
            self._data = state, summarise(self.run, plan), held_out_clips(self.run)
        return self._data[1:]


def _shown(what: str, notes: list[str], read: Callable[[], T], *, instead: T) -> T:
    """Read one part of the page; where a file holds values that ttstrain never writes, leave it out and tell so."""
    try:
        return read()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        notes.append(
            f"{what} cannot be shown: a file of the run is damaged ({type(error).__name__}: {first_line(error)})"
        )
        return instead


def _unreadable(run: Path) -> list[str]:
    """Say of small files that are there and cannot be read why that is; the page is shown without them."""
    found: list[str] = []
    for file in (run_folder.ENVIRONMENT, FORECAST, judged.FILE_NAME):
        try:
            if file == judged.FILE_NAME:
                judged.read(run)
            elif (run / file).is_file():
                documents.read_object(run / file, error=CheckpointError)
        except CheckpointError as error:
            found.append(error.message)
    return found


def _not_finite(metrics: Metrics) -> list[str]:
    """Name the metrics that were NaN or infinite: a curve has no point there."""
    found = metrics.not_finite()
    notes = [
        f"`{key}` was NaN or infinite at {len(steps):,} logged step{'s' * (len(steps) > 1)}, first at step {steps[0]:,}"
        for key, steps in list(found.items())[:MOST_NAMED]
    ]
    more = len(found) - MOST_NAMED
    return [*notes, f"so were {more} other metrics"] if more > 0 else notes


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def compare(runs: Sequence[Record]) -> Report:
    """Put runs side by side; their differing settings come first."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Report(runs, differences([run.settings for run in runs]) if len(runs) > 1 else [], now)
