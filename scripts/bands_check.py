"""Does a band notice what is wrong, and leave alone what is not? Five planted faults and five healthy runs of a recipe.

    python scripts/bands_check.py quickstart        writes scripts/bands_check/quickstart.json

A fault counts as named if the planted one is among the causes or differences that the run tells; `place` says whether
it was also outside the band. A fault that the plan refuses is named before the run. A healthy run that is told to be
outside is an alarm.
Wrong vocabulary and silent audio are planted in the task, where no setting and no file shows them; shuffled texts in a
copy of the data; a tenfold LR and frozen blocks in the recipe.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from make_bands import record

import ttstrain
from ttstrain.bands.outcome import read_outcome
from ttstrain.errors import RecipeError
from ttstrain.families.flow.task import FlowTask
from ttstrain.recipe.compose import compose

HEALTHY = (11, 12, 13, 14, 15)
EXPECTED = {  # fault -> words of which the told cause must hold one
    "lr_x10": ("the LR of", "would train at LR"),
    "vocabulary": ("vocabulary",),
    "silent": ("silent",),
    "shuffled": ("shuffled", "texts of other clips"),
    "frozen": ("frozen",),
}


@contextmanager
def spoilt(change: Callable[[Any], Any]) -> Iterator[None]:
    """Let the task see changed batches, in training and in evaluation."""
    losses, evaluate = FlowTask.losses, FlowTask.evaluate
    FlowTask.losses = lambda self, batch: losses(self, change(batch))  # type: ignore[method-assign]
    FlowTask.evaluate = lambda self, batch, generator: evaluate(self, change(batch), generator)  # type: ignore[method-assign]
    try:
        yield
    finally:
        FlowTask.losses, FlowTask.evaluate = losses, evaluate  # type: ignore[method-assign]


def other_symbols(batch: Any) -> Any:
    """Read every symbol as the one that stands 17 places later in the vocabulary; padding stays."""
    return replace(batch, text=torch.where(batch.text >= 0, batch.text + 17, batch.text))


def silence(batch: Any) -> Any:
    return replace(batch, mel=torch.full_like(batch.mel, -11.5))  # the logarithm of the mel's floor


def shuffled_copy(recipe: str, folder: Path) -> Path:
    """Copy the data that the recipe ships; each clip gets the text of the next longer one."""
    source = Path(ttstrain.__file__).parent / f"_{compose(recipe, []).values['data']['path'].removeprefix('package:')}"
    copy = Path(shutil.copytree(source, folder / "data"))
    table = copy / "metadata.jsonl"
    rows = sorted(map(json.loads, table.read_text(encoding="utf-8").splitlines()), key=lambda row: len(row["text"]))
    texts = [row["text"] for row in rows]
    shifted = [row | {"text": text} for row, text in zip(rows, [*texts[1:], texts[0]], strict=True)]
    table.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in shifted), encoding="utf-8")
    return copy


def run(recipe: str, *, fault: str = "", seed: int = 0) -> dict[str, Any]:
    """Take the first steps with a fault, or healthy; return what was said."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, overrides = Path(scratch), list[str]()
        if fault == "lr_x10":
            overrides = [f"optim.lr={10 * float(compose(recipe, []).values['optim']['lr'])}"]
        elif fault == "frozen":
            overrides = ["optim.groups=[{name: blocks, match: ['*transformer_blocks*'], frozen: true}]"]
        elif fault == "shuffled":
            overrides = [f"data.path={shuffled_copy(recipe, folder)}"]
        change = {"vocabulary": other_symbols, "silent": silence}.get(fault, lambda batch: batch)
        try:
            with spoilt(change):
                _, ready = record(recipe, overrides, seed=seed, folder=folder)
        except RecipeError as error:  # the plan names it before anything is trained
            if not any(words in str(error) for words in EXPECTED.get(fault, ())):
                raise
            return {"fault": fault, "seed": seed, "place": "refused", "step": 0, "said": [str(error)], "named": True}
        outcome = read_outcome(ready.run.folder)
    assert outcome is not None
    said = list(outcome.sentences) if not outcome.why_not else [f"not compared: {outcome.why_not}"]
    told = " ".join(said[1:])
    named = any(words in told for words in EXPECTED.get(fault, ()))
    row = {"fault": fault or "none", "seed": seed, "place": outcome.place, "step": outcome.step, "said": said}
    return row | ({"named": named} if fault else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    recipe = parser.parse_args().recipe
    rows = []
    for choice in [*({"fault": fault} for fault in EXPECTED), *({"seed": seed} for seed in HEALTHY)]:
        rows.append(run(recipe, **choice))
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    named = sum(row.get("named", False) for row in rows)
    alarms = sum(row["fault"] == "none" and row["place"] != "inside" for row in rows)
    outside = sum(row["fault"] != "none" and row["place"] in ("above", "below") for row in rows)
    faults = f"of {len(EXPECTED)} faults {named} named and {outside} outside the band"
    print(f"{recipe}: {faults}, {alarms} alarms in {len(HEALTHY)} healthy runs")
    target = Path(__file__).parent / "bands_check" / f"{recipe.replace('/', '-')}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
