"""The proof of one recipe, in the order in which a run would go wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter

import torch

from ttstrain import registry
from ttstrain.contract.proof import Proof
from ttstrain.prove.finding import Finding, Proven
from ttstrain.prove.forward import check_alignments, check_changes, check_twins
from ttstrain.prove.gradients import SEED, check_gradients
from ttstrain.prove.learning import Learned, learn
from ttstrain.prove.material import Material, make_material
from ttstrain.prove.speech import check_learned, check_spoken, clip_losses, export_and_reread
from ttstrain.prove.weights import check_base
from ttstrain.recipe.compose import Composed
from ttstrain.runs.base import load_base
from ttstrain.train.prepare import ShowProgress, no_progress
from ttstrain.train.run import Run

SECONDS = 100.0  # for all checks
EVALUATION_SHARE = 0.1  # for the losses of the clips, before and after each
LEARNING_SHARE = 0.5  # of what is left when the learning begins


def prove(composed: Composed, *, seconds: float = SECONDS, show: ShowProgress = no_progress) -> Proven:
    """Check on a few clips that what the recipe trains is what will speak, and that its losses, base and EMA work.

    `seconds` bounds the time about; what does not fit is said to be skipped. Raises what a run of the recipe would
    raise before its first step.
    """
    started = perf_counter()
    with tempfile.TemporaryDirectory(prefix="ttstrain-prove-") as scratch:
        place = Path(scratch) / "run"
        place.mkdir()
        material = make_material(composed, place, show=show)
        run = material.run
        findings = [_base(material)]
        before = clip_losses(run.task, material.batches, device=run.device, seconds=EVALUATION_SHARE * seconds)
        left = seconds - (perf_counter() - started)
        with show("learning one clip"):
            learned = learn(material, material.batches[0], seconds=LEARNING_SHARE * left)
        findings += _after(learned)
        proof = registry.find_task(run.plan.recipe.task).load_proof(run.task)
        with show("checking the forward"):
            found, table = check_gradients(run, proof, material.together, trained=learned.enough)
            findings += [*found, *_forward(material, proof, learned)]
        with show("exporting"):
            findings += _spoken(material, learned, before, Path(scratch) / "export")
        run.loader.close()
    return Proven(
        recipe=composed.name,
        task=run.plan.recipe.task,
        clip=material.clips[0].id,
        clips=len(material.clips),
        steps=learned.steps,
        findings=findings,
        table=table,
        seconds=perf_counter() - started,
    )


def _base(material: Material) -> Finding:
    if material.base is not None:
        load_base(material.run, material.base)
    return check_base(material.run, material.base)


def _after(learned: Learned) -> list[Finding]:
    if learned.refused:
        said = f"an update was refused after {learned.steps} steps on one clip: {learned.refused}"
        return [Finding("training", "FAULT", said), learned.ema.check()]
    return [learned.ema.check()]


def _forward(material: Material, proof: Proof | None, learned: Learned) -> list[Finding]:
    if proof is None:
        said = "this family states nothing about its forward"
        return [Finding(name, "skipped", said) for name in ("leaks", "same net", "shifts")]
    run = material.run
    run.task.eval()
    half = any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in run.task.parameters())
    with torch.no_grad():
        together, alone = _drawn(run, material.together), _drawn(run, material.batches[0])
        return [
            check_changes(proof.changes(together)),
            check_twins(proof.twins(alone), half=half),
            _shifts(proof, alone, learned),
        ]


def _shifts(proof: Proof, alone: object, learned: Learned) -> Finding:
    if not learned.enough:
        return Finding("shifts", "skipped", _too_few(learned))
    return check_alignments(proof.alignments(alone), steps=learned.steps)


def _too_few(learned: Learned) -> str:
    return f"{learned.steps} steps fitted the time: too few to tell; give more `--seconds`"


def _drawn(run: Run, batch: object) -> object:
    torch.manual_seed(SEED)
    return run.task.draw(batch).to(run.device)


def _spoken(material: Material, learned: Learned, before: list[float], place: Path) -> list[Finding]:
    run = material.run
    finding, fresh = export_and_reread(material, place)
    task, told = (run.task, "the net in memory") if fresh is None else (fresh, "the net read from the export")
    if not learned.enough:
        return [finding, *(Finding(name, "skipped", _too_few(learned)) for name in ("learned", "spoken"))]
    after = clip_losses(task, material.batches[: len(before)], device=torch.device("cpu"))
    return [finding, check_learned(material, learned, before, after, told=told), check_spoken(material, task)]
