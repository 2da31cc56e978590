"""What `ttstrain prepare` takes for long recordings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ttstrain.cli import paths
from ttstrain.errors import RecipeError

SHORTEST_S, LONGEST_S, PAUSE_S, MARGIN_S = 2.0, 12.0, 0.4, 0.1
LEAST_ROOM = 2.0  # times the shortest that the longest must be

CutTo = Annotated[
    Path | None,
    typer.Option(
        "--cut", parser=paths.path, metavar="FOLDER", help="Cut long recordings into clips there, to train on."
    ),
]
Transcriber = Annotated[
    str, typer.Option(metavar="MODEL", help="With --cut: Whisper, a folder or a hub name; or pocketsphinx, for drafts.")
]
Language = Annotated[str, typer.Option(metavar="CODE", help="With --cut: the language, such as en.")]
Speaker = Annotated[str, typer.Option(metavar="NAME", help="With --cut: who speaks.")]
Shortest = Annotated[
    float | None,
    typer.Option(metavar="S", min=0.5, help=f"With --cut: least seconds, if pauses allow ({SHORTEST_S:g})."),
]
Longest = Annotated[float | None, typer.Option(metavar="S", min=1, help=f"With --cut: most seconds ({LONGEST_S:g}).")]
Pause = Annotated[
    float | None, typer.Option(metavar="S", min=0.1, help=f"With --cut: a longer pause divides clips ({PAUSE_S:g}).")
]
Loudness = Annotated[
    float | None,
    typer.Option(metavar="LUFS", min=-50, max=-8, help="With --cut: store a gain for each clip that brings it there."),
]
Review = Annotated[
    Path | None,
    typer.Option(parser=paths.path, metavar="CSV", help="Correct DATA, which --cut made, by what its page saved."),
]


@dataclass(frozen=True, slots=True)
class CutOptions:
    """What the command line says about long recordings."""

    out: Path | None
    review: Path | None
    shortest_s: float | None
    longest_s: float | None
    pause_s: float | None
    loudness: float | None
    transcriber: str
    language: str
    speaker: str

    def check(self) -> None:
        """Raise RecipeError for options that do not belong together."""
        if self.out is not None and self.review is not None:
            raise RecipeError("`--cut` and `--review` do not go together", hint="cut first, then review what was cut")
        only_cut = {
            "--shortest": self.shortest_s,
            "--longest": self.longest_s,
            "--pause": self.pause_s,
            "--loudness": self.loudness,
            "--transcriber": self.transcriber,
            "--language": self.language,
            "--speaker": self.speaker,
        }
        shortest, longest = self.shortest_s or SHORTEST_S, self.longest_s or LONGEST_S
        if longest < LEAST_ROOM * shortest:
            raise RecipeError(
                f"clips of {shortest:g} to {longest:g} s leave no choice of pauses",
                hint="`--longest` must be at least twice `--shortest`",
            )
        if self.out is None and (given := [flag for flag, value in only_cut.items() if value not in (None, "")]):
            raise RecipeError(f"`{given[0]}` is for cutting recordings", hint="add `--cut FOLDER`")
