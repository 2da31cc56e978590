"""The console tracker: it shows a run on stderr; stdout is for data.

A terminal gets a live panel with events printed above it; anything else (a log file, a batch system) gets plain lines.
The panel is drawn by the training thread, a few times a second at most: a fork would copy a drawing thread's
locks, but not the thread, into worker processes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ttstrain import registry
from ttstrain.checkpoint.run_folder import REPORT
from ttstrain.errors import DataError
from ttstrain.shell import quoted
from ttstrain.terminal import on_one_line
from ttstrain.tracking import jsonl
from ttstrain.tracking.judged import NAMES, Verdicts, judge_line, read_verdicts, time_line
from ttstrain.tracking.screen import screen
from ttstrain.tracking.tracker import WARNING, RunInfo, Spoken, SpokenBy, Tracker

MEDIAN_STEPS = 25  # short enough to follow the run, long enough to hide the luck of one batch
REDRAW_S = 0.5
PLAIN_LINES = 50  # lines of steps in a run without a terminal ...
PLAIN_EVERY_S = 60.0  # ... and at least one line of steps in this time
RATE_STEPS = 200  # steps the remaining time is estimated from
LOG_WIDTH = 80
READABLE = 12  # columns; a text that gets fewer is not shown

LOSS, EVAL, LR, GRAD_NORM = "train/loss/", "eval/loss/", "optim/lr/", "optim/grad_norm/"
EVAL_OF_AVERAGE = "eval/ema_loss/"
OF_STAGE = "eval/stage/"
RETENTION = "eval/retention/"
STAGE, TOTAL_STEPS = "train/stage", "train/total_steps"
DISTANCE = "sample/mel_distance/mean"
OTHER_DISTANCES = {"ema": "sample/ema_mel_distance/mean", "base": "sample/base_mel_distance/mean"}
FRAMES = "perf/frames_per_s"


class ConsoleTracker(Tracker):
    """Shows a run on stderr, live on a terminal and line by line elsewhere."""

    def __init__(self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or screen(highlight=False)
        if not self._is_live and console is None:
            self._console.width = LOG_WIDTH
        self._clock = clock
        self._live: Live | None = None
        self._info: RunInfo | None = None
        self._unit = registry.UNKNOWN_UNIT
        self._step = 0
        self._values: dict[str, float] = {}  # the last value of each key
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MEDIAN_STEPS))
        self._first_losses: dict[str, list[float]] = defaultdict(list)  # losses of this session's first steps
        self._times: deque[tuple[int, float]] = deque(maxlen=RATE_STEPS)
        self._evals: list[tuple[int, float]] = []
        self._averaged: dict[int, float] = {}  # step -> the eval loss of the EMA weights
        self._retained: list[tuple[int, float]] = []  # losses of the replayed data (retention)
        self._distances: list[tuple[int, float]] = []  # of generated samples to their recordings
        self._stage_ends: dict[int, int] = {}  # number of a stage -> its last step so far
        self._incidents: Counter[str] = Counter()
        self._num_samples = 0
        self._sampled_step: int | None = None
        self._started = self._drawn = self._clock()
        self._logged_steps = 0

    @property
    def _is_live(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    # ------------------------------------------------------------ events

    def start(self, info: RunInfo) -> None:
        self._info = info
        self._unit = registry.unit_of(str(info.recipe.get("task")))
        self._step = info.start_step
        self._started = self._clock()
        self._times.append((info.start_step, self._started))
        if info.resumed:
            rows = self._earlier_rows(info)
            alike = [row for row in rows if not info.measured_since or row["step"] > info.measured_since]
            self._evals = _earlier_evals(alike, EVAL)
            self._averaged = dict(_earlier_evals(alike, EVAL_OF_AVERAGE))
            self._retained = _earlier_evals(alike, RETENTION)
            self._distances = [(int(row["step"]), row[DISTANCE]) for row in rows if DISTANCE in row]
            self._stage_ends = {int(row[STAGE]): int(row["step"]) for row in rows if STAGE in row}
        verb = f"resumes at step {info.start_step}" if info.resumed else "starts"
        self._print(f"run {info.name} {verb}: {info.total_steps} steps, {_short(info.run_dir)}", style="bold")
        for line in info.plan_summary:
            self._print(line)
        self._print(f"losses: of the last step (median of the last {MEDIAN_STEPS})", style="dim")
        if self._is_live:
            self._live = Live(
                self._panel(),
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=self._console.file.isatty(),
                redirect_stderr=True,
            )
            self._live.start(refresh=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = self._clock()
        losses = {key: value for key, value in values.items() if key.startswith(LOSS)}
        self._keep_pace(step, now, stepped=bool(losses))
        self._step = step
        self._values.update(values)
        self._stage_ends |= {int(number): step for key, number in values.items() if key == STAGE}
        for key, value in losses.items():
            self._recent[key].append(value)
            if len(self._first_losses[key]) < MEDIAN_STEPS:
                self._first_losses[key].append(value)
        if FRAMES in values:
            self._recent[FRAMES].append(values[FRAMES])
        evals = {key.removeprefix(EVAL): value for key, value in values.items() if key.startswith(EVAL)}
        averaged = {
            key.removeprefix(EVAL_OF_AVERAGE): v for key, v in values.items() if key.startswith(EVAL_OF_AVERAGE)
        }
        if evals:
            of_stage = {key.removeprefix(OF_STAGE): v for key, v in values.items() if key.startswith(OF_STAGE)}
            self._show_eval(step, evals, averaged=averaged, of_stage=of_stage)
        retained = {key.removeprefix(RETENTION): v for key, v in values.items() if key.startswith(RETENTION)}
        if retained:
            self._retained.append((step, retained[main_eval(retained)]))
            self._print(f"step {step}  {self._retention_line()}")
        if DISTANCE in values:
            self._distances.append((step, values[DISTANCE]))
            others = [f"{name} {values[key]:.3f}" for name, key in OTHER_DISTANCES.items() if key in values]
            mean = ", ".join([f"{values[DISTANCE]:.3f}", *others])
            self._print(f"step {step}  mel distance of the samples to the recordings {mean}")
        if (line := judge_line(values)) is not None:
            self._print(f"step {step}  {line}")
        if self._live is not None:
            if evals or now - self._drawn >= REDRAW_S or step == self._total:
                self._drawn = now
                self._live.update(self._panel(), refresh=True)
        elif losses and self._line_is_due(step, now):
            self._drawn = now
            for line in self._plain_lines():
                self._print(line)

    def _keep_pace(self, step: int, now: float, *, stepped: bool) -> None:
        if step < self._step:
            self._times.clear()  # after a rollback the times of earlier steps do not predict the repeated ones
        elif step == self._step and not self._logged_steps:
            self._times.clear()  # the evaluation and samples before the first step take no part in the estimate
        if step != self._step or not self._logged_steps:
            self._logged_steps += stepped
            self._times.append((step, now))

    def sample(self, step: int, name: str, text: str, spoken: Mapping[SpokenBy, Spoken]) -> None:
        if self._sampled_step != step:
            self._sampled_step = step
            self._print(f"step {step}  samples in {_short(next(iter(spoken.values())).path.parent)}")
        self._num_samples += 1
        line = "  ".join([f"  {name}", *_spoken_pieces(spoken)])
        room = self._console.width - len(line) - 2
        self._print(line if room < READABLE else f"{line}  {_cut(text, width=room)}", style="dim")

    def incident(self, step: int, kind: str, message: str) -> None:
        self._incidents[kind] += 1
        self._print(f"step {step}  {kind}: {message}", style="bold red")

    def note(self, message: str) -> None:
        self._print(message, style="dim")

    def warn(self, message: str, *, shown: bool = False) -> None:
        if not shown:
            self._print(f"{WARNING}{message}", style="yellow")

    def finish(self, status: str) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._info is None:
            return
        for line in self._summary(self._info, status):
            self._print(line, style="bold" if line.startswith(status) else "")

    # ------------------------------------------------------------ pieces

    @property
    def _total(self) -> int:
        assert self._info is not None, "log before start"
        return int(self._values.get(TOTAL_STEPS, self._info.total_steps))  # fewer where a stage ended early

    def _print(self, line: str, *, style: str = "") -> None:
        # Text, not markup: clips and texts may hold brackets. Soft wrap: a path must stay in one piece to be copied.
        self._console.print(Text(on_one_line(line), style=style), soft_wrap=True)

    def _line_is_due(self, step: int, now: float) -> bool:
        every = max(1, self._total // PLAIN_LINES)
        return step % every == 0 or self._logged_steps == 1 or step == self._total or now - self._drawn >= PLAIN_EVERY_S

    def _panel(self) -> RenderableType:
        width = self._console.width
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        took = duration(self._clock() - self._started)
        bar.add_row(
            Text(f"step {self._step}/{self._total}", style="bold"),
            ProgressBar(total=max(1, self._total), completed=self._step),
            Text("  ".join([took, *self._left_pieces()])),
        )
        lines = fill([*self._loss_pieces(), *self._grad_pieces(), *self._frames_pieces()], width=width)
        lines += fill(self._lr_pieces(room=width), width=width)
        if self._evals:
            lines.append(self._eval_line())
        return Group(bar, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

    def _plain_lines(self) -> list[str]:
        """Return one line if all pieces fit, else losses and gradients first, then LRs, speed and time left."""
        what = [f"step {self._step}/{self._total}", *self._loss_pieces(), *self._grad_pieces()]
        how = [*self._lr_pieces(room=LOG_WIDTH - 28), *self._frames_pieces(), *self._left_pieces()]
        if len(one := "  ".join([*what, *how])) <= LOG_WIDTH:
            return [one]
        return fill(what, width=LOG_WIDTH) + [f"  {line}" for line in fill(how, width=LOG_WIDTH - 2)]

    def _loss_pieces(self) -> list[str]:
        losses = [key for key in self._recent if key.startswith(LOSS)]
        return [
            f"loss {'' if len(losses) == 1 else key.removeprefix(LOSS) + ' '}"
            f"{number(self._values[key])} ({number(_median(self._recent[key]))})"
            for key in losses
        ]

    def _grad_pieces(self) -> list[str]:
        norms = {key.removeprefix(GRAD_NORM): value for key, value in self._values.items() if key.startswith(GRAD_NORM)}
        return [f"grad {'' if len(norms) == 1 else name + ' '}{value:.3g}" for name, value in norms.items()]

    def _frames_pieces(self) -> list[str]:
        return [f"{_median(self._recent[FRAMES]):,.0f} {self._unit}/s"] if FRAMES in self._recent else []

    def _lr_pieces(self, *, room: int) -> list[str]:
        """Name every group's LR when they fit into one line, else the range of each optimizer's groups."""
        lrs = {key.removeprefix(LR): value for key, value in self._values.items() if key.startswith(LR)}
        if len(lrs) <= 1:
            return [f"lr {value:.2e}" for value in lrs.values()]
        optimizers: dict[str, dict[str, float]] = defaultdict(dict)
        for key, value in lrs.items():
            optimizer, _, group = key.partition("/")
            optimizers[optimizer][group] = value
        alone = len(optimizers) == 1
        every = [
            f"{group if alone else f'{optimizer}/{group}'} {value:.2e}"
            for optimizer, groups in optimizers.items()
            for group, value in groups.items()
        ]
        if len(named := f"lr {', '.join(every)}") <= room:
            return [named]
        return [
            f"lr {'' if alone else optimizer + ' '}{_span(groups.values())}" for optimizer, groups in optimizers.items()
        ]

    def _left_pieces(self) -> list[str]:
        """Estimate the time left from the last steps, evaluations and saving included."""
        (first_step, first_time), (last_step, last_time) = self._times[0], self._times[-1]
        if last_step <= first_step:
            return []
        return [f"{duration((self._total - last_step) * (last_time - first_time) / (last_step - first_step))} left"]

    # ------------------------------------------------------------ evaluations and the end

    def _show_eval(
        self, step: int, evals: Mapping[str, float], *, averaged: Mapping[str, float], of_stage: Mapping[str, float]
    ) -> None:
        main = main_eval(evals)
        self._evals.append((step, evals[main]))
        if main in averaged:
            self._averaged[step] = averaged[main]
        self._print(self._eval_line(), style="bold")
        rest = [f"{name} {number(value)}" for name, value in evals.items() if name != main]
        rest += [f"ema {number(averaged[main])}"] if main in averaged else []
        rest += [f"stage {number(of_stage[main])}"] if main in of_stage and of_stage[main] != evals[main] else []
        for line in fill(["", *rest], width=LOG_WIDTH) if rest else []:
            self._print(line, style="dim")

    def _eval_line(self) -> str:
        step, value = self._evals[-1]
        remarks = []
        if step > 0 and self._evals[0][0] == 0:
            remarks.append(f"base {number(self._evals[0][1])}")
        best = _best(self._evals)
        if best is not None and len(self._evals) > 1:
            best_step, best_value = best
            remarks.append("best so far" if best_step == step else f"best {number(best_value)} at step {best_step}")
        return f"step {step}  eval loss {number(value)}" + (f" ({', '.join(remarks)})" if remarks else "")

    def _retention_line(self) -> str:
        """Return how the loss of the replayed data changed; a rise means that the model forgets."""
        (_, first), (_, last) = self._retained[0], self._retained[-1]
        moved = f", {100 * (last / first - 1):+.1f} %" if len(self._retained) > 1 and first > 0 else ""
        return f"retention {number(first)}" + (f" to {number(last)}{moved}" if len(self._retained) > 1 else "")

    def _earlier_rows(self, info: RunInfo) -> list[dict[str, float]]:
        """Read the rows up to the step of the resume, so that the base's and the best evaluation do not change."""
        path = info.run_dir / jsonl.FILE_NAME
        if not path.exists():
            return []
        try:
            return [row for row in jsonl.read(path) if row["step"] <= info.start_step]
        except DataError as error:
            self.warn(f"earlier evaluations are not shown: {error.message}")
            return []

    def _summary(self, info: RunInfo, status: str) -> list[str]:
        took = self._clock() - self._started
        steps = self._step - info.start_step
        lines = [f"{status}: step {self._step}/{self._total}, {steps} steps in {duration(took)}"]
        lines += fill(["  stages:", *self._stage_pieces(info)], width=LOG_WIDTH) if self._stage_ends else []
        for key, first in self._first_losses.items():
            taken = max(1, min(MEDIAN_STEPS, self._logged_steps // 2))  # short session: the two do not overlap
            began, ended = _median(first[:taken]), _median(list(self._recent[key])[-taken:])
            lines.append(
                f"  train loss {key.removeprefix(LOSS)}: {number(began)} to {number(ended)} (medians of {taken})"
            )
        if best := _best(self._evals):
            first_step, first_value = self._evals[0]
            lines.append(
                f"  eval loss: {number(first_value)} at step {first_step}, "
                f"{number(self._evals[-1][1])} at step {self._evals[-1][0]}, best {number(best[1])} at step {best[0]}"
            )
            if best[0] == 0 and len(self._evals) > 1:
                lines.append("  no evaluation is better than the base's: lower `optim.lr`, or check the data")
        if self._retained:
            lines.append(f"  {self._retention_line()} (loss on the replay clips held out; a rise means forgetting)")
        if len(self._distances) > 1:
            (first_step, first_value), (last_step, last_value) = self._distances[0], self._distances[-1]
            lines.append(
                f"  mel distance of samples: {number(first_value)} at step {first_step}, "
                f"{number(last_value)} at step {last_step}"
            )
        if self._incidents:
            counts = ", ".join(f"{kind} {count}" for kind, count in self._incidents.items())
            lines.append(f"  incidents: {counts} ({_short(info.run_dir / 'incidents')})")
        verdicts = read_verdicts(info.run_dir)
        lines += [*verdicts.lines, *time_line(self._values)]
        lines.append(f"  run: {quoted(_short(info.run_dir))}")
        for pointer in ("best", "last"):
            file = info.run_dir / "checkpoints" / pointer
            if file.is_file():
                lines.append(f"  {pointer} checkpoint: {quoted(_short(file.with_name(file.read_text().strip())))}")
        lines += self._export_lines(info, verdicts)
        if self._num_samples:
            lines.append(f"  samples: {quoted(_short(info.run_dir / 'samples'))}")
        if (report := info.run_dir / REPORT).is_file():
            lines.append(f"  report: {quoted(_short(report))}")
        if status == "stopped":  # the other ways to end early are errors, whose hint says the same
            lines.append(f"  resume with: {quoted('ttstrain', 'resume', _short(info.run_dir))}")
        return lines

    def _stage_pieces(self, info: RunInfo) -> list[str]:
        """Return the step at which each stage ended, and whether it ended early."""
        pieces, start = [], 0
        for order, stage in enumerate(info.recipe.get("stages", []), start=1):
            if order not in self._stage_ends:
                break
            end = self._stage_ends[order]
            planned = stage["steps"]
            early = f" of {planned:,}" if planned is not None and end - start < planned else ""
            pieces.append(f"{stage['name']} {end - start:,}{early} steps")
            start = end
        return pieces

    def _export_lines(self, info: RunInfo, verdicts: Verdicts) -> list[str]:
        """Name the weights that an export would take, and the command."""
        known, task = registry.tasks(), str(info.recipe.get("task"))
        pointers = (info.run_dir / "checkpoints" / name for name in ("best", "last"))
        pointer = next((path for path in pointers if path.is_file()), None)
        if task not in known or not known[task].export_class or pointer is None:
            return []
        lines = [
            f"  export: {quoted('ttstrain', 'export', _short(info.run_dir), '-o', _short(info.run_dir / 'export'))}"
        ]
        if (chosen := verdicts.exported) is not None and chosen.outcome != "unusable":
            return [*lines, f"    it writes {NAMES[chosen.weights]}, by what is heard: see `judge` above"]
        step = int(pointer.read_text().strip().rpartition("-")[2])
        online, averaged = dict(self._evals).get(step), self._averaged.get(step)
        if online is not None and averaged is not None:
            winner = NAMES["ema" if averaged <= online else "online"]
            lines.append(
                f"    it writes {winner}: eval loss ema {number(averaged)}, online {number(online)} at step {step}"
            )
        return lines


def _earlier_evals(rows: Iterable[Mapping[str, float]], prefix: str) -> list[tuple[int, float]]:
    """Return the main evaluation of every step that has one; the later row where a step was repeated."""
    found: dict[int, float] = {}
    for row in rows:
        evals = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
        if evals:
            found[int(row["step"])] = evals[main_eval(evals)]
    return sorted(found.items())


def main_eval(names: Iterable[str]) -> str:
    """Choose the evaluation whose loss is shown as the eval loss: `total`, else the first."""
    names = list(names)
    return "total" if "total" in names else names[0]


def fill(pieces: Sequence[str], *, width: int) -> list[str]:
    """Join pieces by two spaces into lines of at most `width` columns; following lines are indented."""
    lines: list[str] = []
    for piece in pieces:
        if lines and len(lines[-1]) + 2 + len(piece) <= width:
            lines[-1] += f"  {piece}"
        else:
            lines.append(f"  {piece}" if lines else piece)
    return lines


def number(value: float) -> str:
    """Write a loss with four significant digits and never more columns than it needs."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if 0.01 <= abs(value) < 100 or value == 0 else f"{value:.3e}"


def duration(seconds: float) -> str:
    """Write seconds as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _best(evals: Sequence[tuple[int, float]]) -> tuple[int, float] | None:
    finite = [(step, value) for step, value in evals if math.isfinite(value)]
    return min(finite, key=lambda pair: pair[1]) if finite else None


def _spoken_pieces(spoken: Mapping[SpokenBy, Spoken]) -> list[str]:
    """Describe the length of a sample, and the mel distance of each set of weights to the recording."""
    pieces = []
    if online := spoken.get("online"):
        ratio = "" if online.duration_ratio is None else f" ({online.duration_ratio:.2f}x)"
        pieces.append(f"{online.seconds:.1f} s{ratio}")
    distances = [
        f"{'' if weights == 'online' else weights + ' '}{one.mel_distance:.3f}"
        for weights, one in spoken.items()
        if one.mel_distance is not None
    ]
    return [*pieces, f"mel {', '.join(distances)}"] if distances else pieces


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan


def _span(values: Collection[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2e}" if len(values) == 1 else f"{low:.2e} to {high:.2e} ({len(values)} groups)"


def _cut(text: str, *, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _short(path: Path) -> str:
    """Write a path relative to the current folder where it lies below it."""
    absolute = path.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
