"""The trackio tracker: a dashboard on this machine, without an account and without the network.

trackio stores all its runs in one folder (`$TRACKIO_DIR`, by default in Hugging Face's cache); `trackio show` opens the
dashboard. Only where `$TRACKIO_SPACE_ID` or `$TRACKIO_SERVER_URL` is set does trackio send anything.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from ttstrain.errors import RecipeError
from ttstrain.shell import quoted
from ttstrain.tracking.tracker import RunInfo, Spoken, SpokenBy, Tracker

ENDS_THE_RUN = "give up"  # the kind of incident that does


class TrackioTracker(Tracker):
    """Writes the keys of `metrics.jsonl`, samples, and incidents as alerts; a resumed run continues."""

    def __init__(self, *, project: str, note: Callable[[str], None]) -> None:
        if importlib.util.find_spec("trackio") is None:
            raise RecipeError("`tracking.trackio` needs the package trackio", hint="pip install 'ttstrain[trackio]'")
        self._project = project
        self._note = note
        self._run: Any = None  # trackio.Run, None while off
        self._step = 0

    def start(self, info: RunInfo) -> None:
        import trackio

        former = {} if info.former is None else {"continues_from": info.former.name}
        with _quiet():
            self._run = trackio.init(
                project=self._project,
                name=f"{info.name} ({info.run_id[-4:]})",  # trackio knows runs by name: folders may have the same
                config={**info.recipe, **former},
                resume="allow",
                auto_log_gpu=False,
                auto_log_cpu=False,
                embed=False,
            )
        self._step = info.start_step
        self._note(f"trackio: `{quoted('trackio', 'show', '--project', self._project)}` opens the dashboard")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._step = step
        if self._run is not None:
            self._run.log(dict(values), step=step)

    def sample(self, step: int, name: str, text: str, spoken: Mapping[SpokenBy, Spoken]) -> None:
        import trackio

        if self._run is None:
            return
        row: dict[str, Any] = {f"sample/text/{name}": text}
        for weights, one in spoken.items():
            key = name if weights == "online" else f"{name}.{weights}"
            picture = one.path.with_suffix(".png")
            row[f"sample/audio/{key}"] = trackio.Audio(str(one.path), caption=text)
            if picture.is_file():
                row[f"sample/mel/{key}"] = trackio.Image(str(picture), caption=text)
        self._run.log(row, step=step)

    def incident(self, step: int, kind: str, message: str) -> None:
        import trackio

        level = trackio.AlertLevel.ERROR if kind == ENDS_THE_RUN else trackio.AlertLevel.WARN
        self._alert(f"ttstrain: {kind}", f"Step {step:,}: {message}", level)

    def warn(self, message: str, *, shown: bool = False) -> None:
        if self._run is not None:
            import trackio

            self._alert("ttstrain: warning", message, trackio.AlertLevel.WARN)

    def finish(self, status: str) -> None:
        import trackio

        if self._run is None:
            return
        self._run = None
        with _quiet():
            trackio.finish()

    def _alert(self, title: str, text: str, level: Any) -> None:
        if self._run is not None:
            with _quiet():
                self._run.alert(title=title, text=text, level=level)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what trackio prints: the console has its own lines, and stdout may be read by a script."""
    with redirect_stdout(io.StringIO()):
        yield
