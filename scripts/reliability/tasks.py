"""Every task at its smallest: its smoke recipe on short clips, with few and narrow layers, in eight steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from reliability import programs, small
from reliability.small import Bench
from ttstrain.recipe.shipped import list_recipes

SMOKE = "smoke/"
STEPS, EVERY = 8, 2  # of the run, and between two saves
SETTINGS = (
    *("data.holdout=2", "data.batch_frames=300", f"train.steps={STEPS}", "train.device=cpu", "eval.every=4"),
    *("sample.every=null", "judge.enabled=false", f"checkpoint={{every: {EVERY}, keep_last: 2}}", "tracking.wandb=off"),
)
_GPT = "model.gpt={embedding_dim: 32, hidden_dim: 32, head: 2, n_layer: 1}"
_VAE = (
    "model.vae={inter_channels: 8, hidden_channels: 16, filter_channels: 16, n_layers: 1, upsample_initial_channel: 32,"
    " segment_size: 1280, discriminator_channels: 4}"
)
SMALLER: Mapping[str, tuple[str, ...]] = {
    "flow": ("model={dim: 32, depth: 1, heads: 1, dim_head: 32, text_dim: 16, conv_layers: 1}",),
    "gpt_sovits_gpt": (_GPT,),
    "gpt_sovits_vae": (_VAE,),
    "gpt_sovits_joint": (_GPT, _VAE),
}
"""What makes a smoke recipe smaller still; a task that is not named is as small as its recipe."""


def find() -> list[str]:
    """Name the smoke recipes, one for each task."""
    return [entry.name.removeprefix(SMOKE) for entry in list_recipes() if entry.name.startswith(SMOKE)]


def make_benches(folder: Path, names: list[str], *more: str, nproc: int = 1) -> Iterator[Bench]:
    """Write short clips once, and train the undisturbed run of each task with the settings `more`.

    Raises RuntimeError where a run fails.
    """
    folder.mkdir(exist_ok=True)
    data = small.write_recipe(folder).parent / "data"
    for name in names:
        own = folder / name
        own.mkdir()
        settings = (*SETTINGS, *SMALLER.get(name, ()), f"data.path={data}", f"data.cache_dir={folder / 'cache'}", *more)
        yield _trained(own, name, settings, ranks=() if nproc == 1 else ("--nproc", str(nproc)))


def _trained(folder: Path, name: str, settings: tuple[str, ...], *, ranks: tuple[str, ...]) -> Bench:
    runs = folder / "runs"
    bench = Bench(folder, Path(SMOKE, name), runs / "whole", runs, settings, ranks)
    ended = programs.run(*bench.settings("whole"), cwd=folder)
    if ended.code != 0:
        raise RuntimeError(f"the undisturbed run of `{name}` failed, {ended.brief}")
    return bench
