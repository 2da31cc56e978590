"""Tokens that a run is given must not be found in anything that it writes."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from reliability import small, wandb_server
from reliability.frame import Limits, Part, Row, Tally
from reliability.parts.trackers import hurried
from reliability.programs import run

WANDB_TOKEN = "4cana7y0f1e2d3c4b5a697887766554433221100"  # of the length of W&B's keys
HF_TOKEN = "hf_canaryCanaryCanaryCanaryCanaryCanary"
URL_TOKEN = "canaryInAnAddress0123456789"
GIT_TOKEN = "ghp_canaryCanaryCanaryCanaryCanary123456"
TOKENS = {
    "a W&B key ($WANDB_API_KEY)": WANDB_TOKEN,
    "a Hub token ($HF_TOKEN)": HF_TOKEN,
    "a password in an address ($WANDB_BASE_URL, $HTTPS_PROXY, $HF_ENDPOINT)": URL_TOKEN,
    "a token in the address of a git remote": GIT_TOKEN,
}
GUARANTEE = "it is nowhere in the run's folder, what commands print, the report and the export"
MORE = ("sample.every=4", "sample.count=1", "tracking.tensorboard=true", "tracking.wandb_checkpoints=reference")


def count(limits: Limits) -> Iterator[Row]:
    tallies = {name: Tally(name, GUARANTEE) for name in TOKENS}
    moods: tuple[wandb_server.Mood, ...] = ("forbids", "good", "lies")
    for mood in moods[: 1 if limits.form == "short" else 3]:
        places = _leave_traces(limits.scratch / mood, mood, brief=limits.form == "short")
        for name, token in TOKENS.items():
            tallies[name].add(found(token, places))
    yield from (tally.row for tally in tallies.values())


def found(token: str, places: Mapping[str, Path]) -> str | None:
    """Name the first file below some places that holds a token, plain, quoted for an address or in base 64."""
    forms = {token.encode(), quote(token).encode(), base64.b64encode(token.encode()).rstrip(b"=")}
    for what, place in places.items():
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and any(form in path.read_bytes() for form in forms):
                return f"it is in {what}, `{path.relative_to(place) if place.is_dir() else path.name}`"
    return None


def _leave_traces(folder: Path, mood: wandb_server.Mood, *, brief: bool) -> dict[str, Path]:
    """Train, report and export with every token set, and do more unless `brief`; return where traces may be left."""
    folder.mkdir()
    recipe, runs = small.write_recipe(folder), folder / "runs"
    bench = small.Bench(folder, recipe, runs / "whole", runs, MORE)
    _make_repository(folder)
    out, place = folder / "out", bench.run("told")
    said: list[str] = []
    with wandb_server.serving(mood) as server:
        environment = _environment(folder, server)
        commands: tuple[tuple[str | Path, ...], ...] = (
            (*bench.settings("told"), "tracking.wandb=online"),
            ("report", place, "--embed-audio", "-o", out / "page.html"),
            ("export", place, "-o", out / "export"),
            ("resume", place, "train.steps=10"),
            ("finetune", recipe, "base=hf://nobody/nothing/model.safetensors", f"run_dir={runs}"),
            ("inspect-ckpt", place, "--json"),
            ("env", "--json"),
        )
        for words in commands[: 3 if brief else None]:
            ended = run(*words, cwd=folder, plant=hurried, environment=environment)
            said.append(f"{words[0]}: {ended.code}\n{ended.said}")
            if ended.code not in (0, 4):
                raise RuntimeError(f"`{words[0]}` failed, {ended.brief}")
    (folder / "said").write_text("\n".join(said), encoding="utf-8")
    return {"the run's folder": place, "a report or an export": out, "what commands print": folder / "said"}


def _environment(folder: Path, server: wandb_server.Server) -> dict[str, str]:
    return {
        **os.environ,
        **server.environment,
        "HOME": str(folder / "home"),
        "WANDB_API_KEY": WANDB_TOKEN,
        "HF_TOKEN": HF_TOKEN,
        "HUGGING_FACE_HUB_TOKEN": HF_TOKEN,
        "WANDB_BASE_URL": f"http://somebody:{URL_TOKEN}@127.0.0.1:{server.server_port}",
        "HF_ENDPOINT": f"http://somebody:{URL_TOKEN}@127.0.0.1:{server.server_port}",
        "HTTPS_PROXY": f"http://somebody:{URL_TOKEN}@127.0.0.1:{server.server_port}",
        "NO_PROXY": "127.0.0.1",
    }


def _make_repository(folder: Path) -> None:
    """Make the folder that a run is started in a git repository, whose address W&B records."""
    if shutil.which("git") is None:
        return
    remote = f"https://somebody:{GIT_TOKEN}@127.0.0.1/somebody/something.git"
    for words in (("init", "-q"), ("remote", "add", "origin", remote)):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


PART = Part(
    title="Secrets",
    method="A try is a run with W&B against a server on this machine, a resume, a report and an export, with a token "
    "that occurs nowhere else; then every file and all that was printed is searched for it, plain, quoted and in "
    "base 64.",
    count=count,
    minutes=2,
)
