"""`ttstrain prove` on the small recipes of every family: no false alarm, and each published bug of the field caught."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ttstrain import registry
from ttstrain.cli.main import app
from ttstrain.contract.proof import Proof
from ttstrain.prove import speech
from ttstrain.prove.finding import Finding
from ttstrain.prove.forward import check_alignments, check_changes, check_twins
from ttstrain.prove.gradients import check_gradients
from ttstrain.prove.learning import Learned, learn
from ttstrain.prove.material import Material, make_material
from ttstrain.recipe.compose import compose
from ttstrain.recipe.shipped import list_recipes

SMOKE = [entry.name for entry in list_recipes() if entry.name.startswith("smoke/")]


@dataclass
class Subject:
    """A small net that has learned one clip."""

    material: Material
    learned: Learned
    before: list[float]
    proof: Proof

    @property
    def task(self) -> Any:
        return self.material.run.task

    def together(self) -> Any:
        return drawn(self.material, self.material.together)

    def alone(self) -> Any:
        return drawn(self.material, self.material.batches[0])

    def leaks(self) -> Finding:
        return checked(check_changes, self.proof.changes(self.together()))

    def same_net(self) -> Finding:
        return checked(check_twins, self.proof.twins(self.alone()), half=False)

    def shifts(self) -> Finding:
        return checked(check_alignments, self.proof.alignments(self.alone()), enough=True, steps=self.learned.steps)

    def gradients(self) -> dict[str, Finding]:
        findings, _ = check_gradients(self.material.run, self.proof, self.material.together, trained=True)
        return {finding.check: finding for finding in findings}


def checked(check: Any, *given: Any, **settings: Any) -> Finding:
    with torch.no_grad():
        found: Finding = check(*given, **settings)
    return found


def drawn(material: Material, batch: Any) -> Any:
    torch.manual_seed(0)
    material.run.task.eval()
    return material.run.task.draw(batch).to(material.run.device)


def learn_anew(recipe: str, place: Path, *overrides: str, steps: int) -> Subject:
    """Build a small net and let it learn one clip."""
    place.mkdir(parents=True, exist_ok=True)
    material = make_material(compose(recipe, [*overrides]), place)
    run = material.run
    before = speech.clip_losses(run.task, material.batches, device=run.device)
    learned = learn(material, material.batches[0], seconds=600, most=steps)
    proof = registry.find_task(run.plan.recipe.task).load_proof(run.task)
    assert proof is not None
    return Subject(material, learned, before, proof)


# ---------------------------------------------------------------- F5


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    yield learn_anew("smoke/flow", tmp_path_factory.mktemp("flow") / "run", steps=60)


def test_a_healthy_flow_net_has_no_fault(flow: Subject) -> None:
    found = [flow.leaks(), flow.same_net(), flow.shifts(), *flow.gradients().values(), flow.learned.ema.check()]
    assert {finding.check: finding.verdict for finding in found} == dict.fromkeys(
        ("leaks", "same net", "shifts", "terms", "gradients", "ema"), "ok"
    ), [finding.said for finding in found]


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("recipe", ["smoke/flow"])
def test_the_command_proves_a_smoke_recipe(recipe: str) -> None:
    done = CliRunner().invoke(app, ["prove", recipe, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["proven"]
    assert {finding["verdict"] for finding in told["findings"]} <= {"ok", "skipped"}
    assert [finding["check"] for finding in told["findings"] if finding["verdict"] == "skipped"] == ["base"]
