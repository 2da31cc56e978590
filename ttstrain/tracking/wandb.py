"""The Weights & Biases tracker. No failure of W&B stops a run.

- Every row carries our `step`, and W&B plots over it: after a rollback our step goes back, while W&B's own
  counter may not decrease.
- After a failure the tracker continues offline, with a warning; a second failure turns it off.
- W&B's service is a process of its own. One that hangs is killed, and that is a failure like any other.
- W&B itself asks no question and prints nothing.
"""

from __future__ import annotations

import netrc
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from ttstrain.contract.listening import CHOSEN_SCORE
from ttstrain.logins import without_logins
from ttstrain.places import expanded
from ttstrain.shell import quoted
from ttstrain.tracking import spectrogram, wandb_rows
from ttstrain.tracking.sample_table import Row, SampleTable, for_wandb
from ttstrain.tracking.tracker import Former, RunInfo, Spoken, SpokenBy, Tracker
from ttstrain.tracking.wandb_checkpoints import CheckpointSender, How

INIT_TIMEOUT_S = 20.0  # W&B's own default would hold a run without network back for 90 s
FINISH_TIMEOUT_S = 60.0  # what is not uploaded in this time stays on disk for `wandb sync`
ALERT_PAUSE_S = 300.0  # W&B sends at most one alert of a kind in this time, as to a chat
ANSWER_S = 60.0  # time limit for W&B's service to take a row; milliseconds are usual
LEAVE_S = 15.0  # time limit for the service to end, in addition to an upload's

DATA_DIR = "WANDB_DATA_DIR"  # W&B's variable for where it keeps the files of tables until they are uploaded
ENDS_THE_RUN = "give up"  # the kind of incident that does
SCORES = (CHOSEN_SCORE, "judge/score", "judge/ema_score")  # W&B's table of runs shows their highest value
LOSSES = "eval/"  # beginning of the keys whose lowest value it shows

Mode = Literal["online", "offline"]


@dataclass(frozen=True, slots=True)
class WandbNames:
    """Under which names a run stands in W&B."""

    project: str
    entity: str | None = None
    tags: Sequence[str] = ()
    run: str | None = None  # None: the name of the run's folder
    said: frozenset[str] = frozenset()  # which of project and entity the user said: a resume takes the others over


class WandbTracker(Tracker):
    """Sends a run to W&B, or writes it to the run's folder for `wandb sync`."""

    def __init__(
        self,
        *,
        mode: Literal["online", "offline", "auto"],
        names: WandbNames,
        checkpoints: How = "off",
        note: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._wanted = mode
        self._names = names
        self._note = note
        self._warn = warn
        self._info: RunInfo | None = None
        self._run: Any = None  # wandb.Run, None while off
        self._step = 0
        self._checkpoints = CheckpointSender(checkpoints)
        self._offline = False
        self._summed_up: set[str] = set()  # metrics whose best value W&B was told to show
        self._table = SampleTable()  # of the sampling step that is going on
        self._row = 0  # W&B's own number of the next row
        self._numbered: bool = False  # whether we number the rows: offline, where W&B does not know the number
        self._degraded = False

    def start(self, info: RunInfo) -> None:
        self._info = info
        self._step = info.start_step
        if error := _attempt(self._open_as_wanted):
            self._degrade(error)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._step = step
        self._send_table()
        if self._run is not None and (error := _attempt(lambda: self._log_row({"step": step, **values}))):
            self._degrade(error)
            self.log(step, values)

    def sample(self, step: int, name: str, text: str, spoken: Mapping[SpokenBy, Spoken]) -> None:
        if self._run is None:
            return
        if self._table.step != step:
            self._send_table()
        self._table.add(step, name, text, spoken)
        if error := _attempt(lambda: self._log_sample(step, name, text, spoken)):
            self._degrade(error)

    def checkpoint(self, step: int, folder: Path, *, best: bool) -> None:
        """Make an artifact of it. An error of one costs a warning and the further artifacts, and nothing else."""
        run, info = self._run, self._info
        if run is None or info is None:
            return
        error = _attempt(
            lambda: self._checkpoints.send(run, info, step=step, folder=folder, best=best, offline=self._offline)
        )
        if error is not None:
            self._checkpoints.how = "off"
            self._warn(f"W&B gets no more checkpoints of this run: {_brief(error)}")

    def incident(self, step: int, kind: str, message: str) -> None:
        if self._run is not None and (error := _attempt(lambda: self._alert(step, kind, message))):
            self._degrade(error)

    def warn(self, message: str, *, shown: bool = False) -> None:
        row = {"step": self._step, "warning": message}
        if self._run is not None and (error := _attempt(lambda: self._log_row(row))):
            self._degrade(error)

    def finish(self, status: str) -> None:
        self._send_table()
        if self._run is None:
            return
        within_s = FINISH_TIMEOUT_S
        if error := _attempt(lambda: self._checkpoints.finish(within_s=within_s), within_s=within_s + LEAVE_S):
            self._warn(f"W&B lacks a checkpoint of this run: {_brief(error)}")
        if error := _attempt(lambda: self._close(status), within_s=FINISH_TIMEOUT_S + LEAVE_S):
            self._warn(f"W&B could not finish: {_brief(error)}; `{_sync(self._folder)}` uploads the rest")
        self._run = None
        _attempt(_stop_service, within_s=LEAVE_S)  # the file on disk is complete only after this

    # ------------------------------------------------------------ what may fail

    def _open_as_wanted(self) -> None:
        import wandb

        settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
        mode: Mode
        if self._wanted == "auto":
            if settings.mode == "disabled":  # WANDB_MODE, or `wandb disabled` in this folder
                return
            mode = "online" if settings.mode == "online" and _is_logged_in(settings) else "offline"
        elif self._wanted == "online" and not _is_logged_in(settings):
            raise _NotLoggedInError("not logged in (`wandb login`)")
        else:
            mode = self._wanted
        self._open(mode)

    def _open(self, mode: Mode) -> None:
        import wandb

        assert self._info is not None, "log before start"
        info = self._info
        row = self._next_row(info, mode)
        names = self._names if not info.resumed else _where_it_was(self._names, info.run_dir)
        settings = {"silent": True, "console": "off", "init_timeout": INIT_TIMEOUT_S, "save_code": False}
        # W&B logs the address of a request that fails, and logs in by its key alone
        settings["base_url"] = without_logins(wandb.setup().settings.base_url)
        if "finish_timeout" in wandb.Settings.model_fields:  # missing from older releases
            settings |= {"finish_timeout": FINISH_TIMEOUT_S, "finish_timeout_raises": True}
        self._run = wandb.init(
            dir=str(info.run_dir),
            id=info.run_id,
            name=names.run or info.name,
            resume="allow",
            mode=mode,
            project=names.project,
            entity=names.entity,
            tags=list(names.tags),
            config=_config(info),
            allow_val_change=True,
            settings=wandb.Settings(**settings),
        )
        self._row, self._numbered = max(row, self._run.starting_step), mode == "offline"
        self._offline = mode == "offline"
        wandb_rows.write_place(info.run_dir, project=self._run.project, entity=self._run.entity or names.entity)
        self._define_metrics()
        if info.former is not None:
            self._link_to(info.former)
        if mode == "online":
            self._note(without_logins(f"W&B: {self._run.url}"))
        else:
            self._note(f"W&B: offline, `{_sync(self._folder)}` uploads it")

    def _define_metrics(self) -> None:
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._summed_up.clear()

    def _sum_up(self, keys: Iterable[str]) -> None:
        """Let W&B's table of runs show the best value of these metrics, beside the last.

        Each by its own name, when it first comes: of two patterns that fit one name, W&B takes either.
        """
        for key in keys:
            if key in self._summed_up or not (key in SCORES or key.startswith(LOSSES)):
                continue
            self._summed_up.add(key)
            self._run.define_metric(key, step_metric="step", summary=f"{'max' if key in SCORES else 'min'},last")

    def _link_to(self, former: Former) -> None:
        """Name the run that this one continues from in the run's notes, with its address where W&B has one."""
        words = f"Continues from step {former.step:,} of `{former.name}`"
        address = without_logins(str(self._run.url or ""))
        if former.run_id is not None and address:
            words += f": {address.rpartition('/')[0]}/{former.run_id}"
        noted = str(self._run.notes or "")
        if words not in noted:
            self._run.notes = f"{noted}\n\n{words}".strip()

    def _next_row(self, info: RunInfo, mode: Mode) -> int:
        if (row := wandb_rows.read(info.run_dir)) is not None:
            return row
        row = wandb_rows.beyond_earlier(info.run_dir, info.run_id)
        if row and mode == "offline":
            self._note(
                f"W&B: `wandb/next_row` is missing, as in runs of earlier versions; rows continue at number {row:,}, "
                "above every earlier row. Plots over `step` are unaffected"
            )
        return row

    def _log_row(self, row: Mapping[str, Any]) -> None:
        assert self._info is not None, "log before start"
        self._sum_up(row)
        number, self._row = self._row, self._row + 1
        wandb_rows.write(self._info.run_dir, self._row)  # first: after a kill in between the number is not used again
        if self._numbered:
            self._run.log(row, step=number, commit=True)
        else:
            self._run.log(row)

    def _log_sample(self, step: int, name: str, text: str, spoken: Mapping[SpokenBy, Spoken]) -> None:
        import wandb

        row: dict[str, Any] = {"step": step}
        with tempfile.TemporaryDirectory() as folder:
            for weights, one in spoken.items():
                if one.sample is None:
                    continue
                key = name if weights == "online" else f"{name}.{weights}"
                row[f"sample/audio/{key}"] = wandb.Audio(str(one.path), caption=text)
                if one.sample.mel is not None:
                    file = Path(folder, f"{weights}.png")
                    spectrogram.write(file, one.sample.mel)
                    row[f"sample/mel/{key}"] = wandb.Image(str(file), caption=text)
            self._log_row(row)  # copies the files into the run

    def _send_table(self) -> None:
        """Send the table of the last sampling step, if it was not sent."""
        if self._table.step is None:
            return
        step, rows = self._table.step, self._table.taken()
        if self._run is None:
            return
        if error := _attempt(lambda: self._log_table(step, rows)):
            self._degrade(error)

    def _log_table(self, step: int, rows: Sequence[Row]) -> None:
        assert self._info is not None, "log before start"
        with _files_in(self._info.run_dir):
            self._log_row({"step": step, "sample/table": for_wandb(rows)})

    def _alert(self, step: int, kind: str, message: str) -> None:
        self._summarize(incident=f"{step} {kind}: {message}")
        level = "ERROR" if kind == ENDS_THE_RUN else "WARN"
        self._run.alert(f"ttstrain: {kind}", f"Step {step:,}: {message}", level=level, wait_duration=ALERT_PAUSE_S)

    def _summarize(self, **values: str) -> None:
        for key, value in values.items():
            self._run.summary[key] = value

    def _close(self, status: str) -> None:
        self._summarize(status=status)
        if status == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if status in ("done", "early stop", "stopped") else 1)

    # ------------------------------------------------------------ going on

    @property
    def _folder(self) -> Path:
        return Path(self._run.dir).parent  # the run's `files` lie in it

    def _degrade(self, error: Exception) -> None:
        """Continue offline after a first failure, without W&B after a second."""
        self._run = None
        if not self._degraded:
            self._degraded = True
            if not isinstance(error, _NotLoggedInError | ImportError):
                _attempt(_stop_service, within_s=LEAVE_S)  # a failed start leaves the run's id in use
            again = _attempt(lambda: self._open("offline"))
            if again is None:
                self._warn(f"W&B continues offline: {_brief(error)}")
                return
            error = again
        self._run = None
        self._warn(f"W&B is off for the rest of the run: {_brief(error)}; metrics.jsonl has everything")


@contextmanager
def _files_in(run_dir: Path) -> Iterator[None]:
    """Let W&B keep the files of a table in the run's folder: it would take the user's home, which may be small."""
    if os.environ.get(DATA_DIR):
        yield
        return
    os.environ[DATA_DIR] = str(run_dir / "wandb" / "data")
    try:
        yield
    finally:
        del os.environ[DATA_DIR]


def _where_it_was(names: WandbNames, run_dir: Path) -> WandbNames:
    """Return the project and the entity in which the run stands, unless the user says others now."""
    was = {key: value for key, value in wandb_rows.read_place(run_dir).items() if key not in names.said}
    return replace(names, project=was.get("project", names.project), entity=was.get("entity", names.entity))


def _config(info: RunInfo) -> dict[str, Any]:
    former = {} if info.former is None else {"continues_from": asdict(info.former)}
    return {**info.recipe, **former}


class _NotLoggedInError(Exception):
    pass


class _NoAnswerError(Exception):
    pass


def _attempt(action: Callable[[], None], *, within_s: float = ANSWER_S) -> Exception | None:
    """Call W&B and return the error it raised; after `within_s` its service is killed, so that the call returns.

    Only here is any exception caught: W&B only records, and neither a lost service, nor a broken installation,
    nor a defect in it may stop a training run.
    """
    killed = threading.Event()

    def end_wait() -> None:
        killed.set()
        _kill_service()

    watch = threading.Timer(within_s, end_wait)
    watch.daemon = True
    watch.start()
    try:
        action()
    except Exception as error:
        return _NoAnswerError(f"its service did not answer for {within_s:.0f} s") if killed.is_set() else error
    finally:
        watch.cancel()
    return _NoAnswerError(f"its service did not answer for {within_s:.0f} s") if killed.is_set() else None


def _kill_service() -> None:
    """Kill the `wandb-core` processes that this process started, where the system lists child processes."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"wandb-core" in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, ValueError, IndexError):
            continue  # the process has ended meanwhile


def _stop_service() -> None:
    import wandb

    wandb.teardown()


def _is_logged_in(settings: Any) -> bool:
    """Tell whether W&B would find credentials for its server without asking."""
    if settings.api_key or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(settings.base_url).hostname or ""
    named = os.environ.get("NETRC")
    for file in [expanded(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if file.is_file() and host in netrc.netrc(str(file)).hosts:
                return True
        except (netrc.NetrcParseError, OSError):
            continue  # W&B could not read it either
    return False


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _sync(path: Path) -> str:
    return quoted("wandb", "sync", path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
