"""`ttstrain prove` on the small net of every task: no false alarm, and each published bug of the field is caught.

A bug is planted in what trains, speaks, loads or averages, never in the checks.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import fourth_family
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result
from torch import Tensor
from typer.testing import CliRunner

from ttstrain import registry
from ttstrain.cli.main import app
from ttstrain.contract.proof import Proof
from ttstrain.families.flow import task as flow_task
from ttstrain.families.flow.model import cfm, sampler
from ttstrain.families.gpt_sovits.gpt import attention as gpt_attention
from ttstrain.families.gpt_sovits.gpt import loss as gpt_loss
from ttstrain.families.gpt_sovits.gpt import task as gpt_task
from ttstrain.families.gpt_sovits.vae import training as vae_training
from ttstrain.families.gpt_sovits.vae.synthesizer import Styles, Synthesizer
from ttstrain.families.orpheus import attention as orpheus_attention
from ttstrain.families.orpheus import task as orpheus_task
from ttstrain.families.orpheus.batch import EOS_SLOT
from ttstrain.optim.ema import Ema
from ttstrain.prove import learning, speech
from ttstrain.prove.finding import Finding
from ttstrain.prove.forward import check_alignments, check_changes, check_twins
from ttstrain.prove.gradients import check_gradients
from ttstrain.prove.learning import FEWEST_STEPS, Learned, learn
from ttstrain.prove.material import Material, make_material
from ttstrain.prove.weights import check_base
from ttstrain.recipe.compose import compose
from ttstrain.recipe.shipped import list_recipes
from ttstrain.runs import base as runs_base
from ttstrain.train import checkpointing

SMOKE = [entry.name for entry in list_recipes() if entry.name.startswith("smoke/")]
STEPS = {"flow": 90, "gpt_sovits/gpt": 40, "gpt_sovits/vae": 4, "orpheus": 40}  # enough to tell a shift
RECIPES = {"flow": "smoke/flow", "gpt_sovits/gpt": "smoke/gpt_sovits_gpt", "gpt_sovits/vae": "smoke/gpt_sovits_vae"}
RECIPES |= {"orpheus": "smoke/orpheus"}
WITH_EMA = "ema.enabled=true"


@dataclass
class Subject:
    """A small net that has learned one clip, and the checks of it."""

    material: Material
    learned: Learned
    proof: Proof

    @property
    def task(self) -> Any:
        return self.material.run.task

    def leaks(self) -> Finding:
        return checked(check_changes, lambda: self.proof.changes(drawn(self.material, self.material.together)))

    def same_net(self) -> Finding:
        return checked(check_twins, lambda: self.proof.twins(self._alone()), half=False)

    def shifts(self) -> Finding:
        found = lambda: self.proof.alignments(self._alone())  # noqa: E731
        return checked(check_alignments, found, steps=self.learned.steps)

    def _alone(self) -> Any:
        return drawn(self.material, self.material.batches[0])

    def losses(self) -> dict[str, Finding]:
        findings, _ = check_gradients(self.material.run, self.proof, self.material.together, trained=True)
        return {finding.check: finding for finding in findings}


def checked(check: Callable[..., Finding], compared: Callable[[], Any], **settings: Any) -> Finding:
    with torch.no_grad():
        return check(compared(), **settings)


def drawn(material: Material, batch: Any) -> Any:
    torch.manual_seed(0)
    material.run.task.eval()
    return material.run.task.draw(batch).to(material.run.device)


def learn_anew(task: str, place: Path, *, steps: int, overrides: tuple[str, ...] = ()) -> Subject:
    """Build a small net and let it learn one clip."""
    material = make_material(compose(RECIPES[task], [WITH_EMA, *overrides]), place)
    learned = learn(material, material.batches[0], seconds=600, most=steps)
    proof = registry.find_task(task).load_proof(material.run.task)
    assert proof is not None
    return Subject(material, learned, proof)


@pytest.fixture(scope="module", params=list(RECIPES))
def healthy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return made(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def made_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    return partial(made, places=tmp_path_factory)


_MADE: dict[str, Subject] = {}


def made(task: str, places: pytest.TempPathFactory) -> Subject:
    """Return the healthy net of a task, made once."""
    if task not in _MADE:
        _MADE[task] = learn_anew(task, places.mktemp("healthy"), steps=STEPS[task])
    return _MADE[task]


# ---------------------------------------------------------------- nothing is wrong


def test_a_healthy_net_raises_no_alarm(healthy: Subject) -> None:
    found = [healthy.leaks(), healthy.same_net(), healthy.shifts(), healthy.learned.ema.check()]
    told = {finding.check: finding.verdict for finding in [*found, *healthy.losses().values()]}
    decided = "skipped" if isinstance(getattr(healthy.task, "vae", None), Synthesizer) else "ok"
    wanted = dict.fromkeys(("leaks", "same net", "ema", "terms", "gradients"), "ok") | {"shifts": decided}
    assert told == wanted, [finding.said for finding in found]


def test_the_base_that_is_loaded_equals_its_file(healthy: Subject, tmp_path: Path) -> None:
    material = from_base(healthy, tmp_path)
    assert check_base(material.run, material.base).verdict == "FAULT"  # not loaded yet
    assert material.base is not None
    runs_base.load_base(material.run, material.base)
    assert check_base(material.run, material.base).verdict == "ok"


def from_base(healthy: Subject, place: Path) -> Material:
    """Build the net of a run that starts from what a healthy one has learned."""
    run = healthy.material.run
    if not (run.folder / "checkpoints").is_dir():
        checkpointing.save(run)
        run.store.wait()
    recipe = RECIPES[run.plan.recipe.task]
    return make_material(compose(recipe, [WITH_EMA, f"base={run.folder}"]), place)


# ---------------------------------------------------------------- bugs of every family


def test_a_base_that_is_not_loaded_is_caught(healthy: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    material = from_base(healthy, tmp_path)
    report = runs_base.load_weights
    monkeypatch.setattr(
        runs_base, "load_weights", lambda module, tensors, source: report(_copy(module), tensors, source=source)
    )
    assert material.base is not None
    runs_base.load_base(material.run, material.base)
    found = check_base(material.run, material.base)
    assert (found.check, found.verdict) == ("base", "FAULT")
    assert "was not loaded" in found.said


def _copy(module: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(module)


def test_an_ema_that_is_never_updated_is_caught(
    healthy: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ema, "update", lambda self, step: None)
    found = learn_anew(healthy.material.run.plan.recipe.task, tmp_path, steps=2).learned.ema.check()
    assert (found.check, found.verdict) == ("ema", "FAULT")


@pytest.mark.parametrize("task", ["flow", "gpt_sovits/gpt"])
def test_an_export_that_is_read_without_its_weights_is_caught(
    task: str, made_of: Callable[[str], Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = made_of(task).material
    found, _ = speech.export_and_reread(material, tmp_path / "right")
    assert (found.check, found.verdict) == ("export", "ok"), found.said
    monkeypatch.setattr(speech, "load_weights", lambda *given, **settings: None)
    found, _ = speech.export_and_reread(material, tmp_path / "wrong")
    assert (found.check, found.verdict) == ("export", "FAULT")


# ---------------------------------------------------------------- bugs of one family


def leak_the_hidden_mel(patch: pytest.MonkeyPatch, task: Any) -> None:
    def noised(mel: Tensor, *, noise: Tensor, time: Tensor, hidden: Tensor) -> cfm.Noised:
        return replace(cfm.noised(mel, noise=noise, time=time, hidden=hidden), cond=mel)

    patch.setattr(flow_task, "noised", noised)


def leak_the_next_token(patch: pytest.MonkeyPatch, task: Any) -> None:
    def after(num_text: int, num_audio: int, *, device: torch.device) -> Tensor:
        return torch.ones(num_audio, num_text + num_audio, dtype=torch.bool, device=device).tril(num_text + 1)

    patch.setattr(gpt_attention, "_causal_after", after)


def leak_all_codes(patch: pytest.MonkeyPatch, task: Any) -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
        enable = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=enable)

    patch.setattr(orpheus_attention, "_causal", attend)


def mix_the_styles(patch: pytest.MonkeyPatch, task: Any) -> None:
    own = Synthesizer.styles

    def styles(self: Synthesizer, spec: Tensor, mask: Tensor, speaker: Tensor | None) -> Styles:
        each = own(self, spec, mask, speaker)
        return Styles(own=each.own.mean(0, keepdim=True).expand_as(each.own), text=each.text)

    patch.setattr(Synthesizer, "styles", styles)


@pytest.mark.parametrize(
    ("task", "plant"),
    [
        ("flow", leak_the_hidden_mel),
        ("gpt_sovits/gpt", leak_the_next_token),
        ("orpheus", leak_all_codes),
        ("gpt_sovits/vae", mix_the_styles),
    ],
)
def test_a_leak_is_caught(
    task: str,
    plant: Callable[[pytest.MonkeyPatch, Any], None],
    made_of: Callable[[str], Subject],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = made_of(task)
    plant(monkeypatch, subject.task)
    found = subject.leaks()
    assert (found.check, found.verdict) == ("leaks", "FAULT")
    assert "leaks" in found.said


def leave_out_output_of_attention(patch: pytest.MonkeyPatch, task: Any) -> None:
    layer = task.transformer.transformer_blocks[0].attn.to_out[0]
    patch.setattr(layer, "forward", lambda x: x[..., : layer.out_features])


def leave_out_projection_of_the_gpt(patch: pytest.MonkeyPatch, task: Any) -> None:
    patch.setattr(task.gpt.h.layers[0].self_attn.out_proj, "forward", lambda x: x)


def leave_out_projection_of_the_llama(patch: pytest.MonkeyPatch, task: Any) -> None:
    layer = task.net.model.layers[0].self_attn.o_proj
    patch.setattr(layer, "forward", lambda x: x[..., : layer.out_features])


def leave_out_text_of_the_vae(patch: pytest.MonkeyPatch, task: Any) -> None:
    patch.setattr(task.vae.enc_p.encoder2, "forward", lambda x, mask: x)


@pytest.mark.parametrize(
    ("task", "plant", "named"),
    [
        ("flow", leave_out_output_of_attention, "to_out.0"),
        ("gpt_sovits/gpt", leave_out_projection_of_the_gpt, "out_proj"),
        ("orpheus", leave_out_projection_of_the_llama, "o_proj"),
        ("gpt_sovits/vae", leave_out_text_of_the_vae, "encoder2"),
    ],
)
def test_a_projection_that_is_left_out_is_caught(
    task: str,
    plant: Callable[[pytest.MonkeyPatch, Any], None],
    named: str,
    made_of: Callable[[str], Subject],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = made_of(task)
    plant(monkeypatch, subject.task)
    found = subject.losses()["gradients"]
    assert found.verdict == "FAULT"
    assert named in found.said


def drop_every_second_frame(patch: pytest.MonkeyPatch) -> None:
    def squared_error(answer: Tensor, velocity: Tensor, *, within: Tensor) -> Tensor:
        even = torch.arange(within.shape[1]) % 2 == 0
        return cfm.squared_error(answer, velocity, within=within & even)

    patch.setattr(flow_task, "squared_error", squared_error)


def drop_the_end_of_speech(patch: pytest.MonkeyPatch) -> None:
    def per_target(losses: gpt_loss.ClipLosses, *, dpo: float) -> Tensor:
        return gpt_loss.per_target(losses, dpo=dpo) - losses.eos.total / sum(losses.num_targets)

    patch.setattr(gpt_task, "per_target", per_target)


def drop_the_end_of_rows(patch: pytest.MonkeyPatch) -> None:
    find = orpheus_task.find_learned

    def found(batch: Any) -> orpheus_task.Learned:
        every = find(batch)
        kept = every.slots != EOS_SLOT
        return orpheus_task.Learned(every.places[kept], every.targets[kept], every.slots[kept])

    patch.setattr(orpheus_task, "find_learned", found)


def drop_the_kl(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vae_training, "_mean_kl", lambda latents: latents.m_p.sum() * 0)


@pytest.mark.parametrize(
    ("task", "plant", "named"),
    [
        ("flow", drop_every_second_frame, "add up to"),
        ("gpt_sovits/gpt", drop_the_end_of_speech, "the term `end of speech` is left out"),
        ("orpheus", drop_the_end_of_rows, "add up to"),
        ("gpt_sovits/vae", drop_the_kl, "the term `kl` is left out"),
    ],
)
def test_a_term_that_is_dropped_is_caught(
    task: str,
    plant: Callable[[pytest.MonkeyPatch], None],
    named: str,
    made_of: Callable[[str], Subject],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = made_of(task)
    plant(monkeypatch)
    found = subject.losses()["terms"]
    assert found.verdict == "FAULT"
    assert named in found.said


def shift_the_mel(patch: pytest.MonkeyPatch) -> None:
    def noised(mel: Tensor, *, noise: Tensor, time: Tensor, hidden: Tensor) -> cfm.Noised:
        return replace(cfm.noised(mel, noise=noise, time=time, hidden=hidden), velocity=mel.roll(-1, dims=1) - noise)

    patch.setattr(flow_task, "noised", noised)


def shift_the_tokens(patch: pytest.MonkeyPatch) -> None:
    def predict(net: Any, batch: Any, *, compat: Any) -> gpt_loss.Predictions:
        found = gpt_loss.predict_packed(net, batch)
        targets = found.targets.clone()
        for clip in found.clip.unique():
            own = (found.clip == clip).nonzero()[:, 0]
            targets[own[:-1]] = found.targets[own[1:]]
        return replace(found, targets=targets)

    patch.setattr(gpt_loss, "predict", predict)


def shift_the_codes(patch: pytest.MonkeyPatch) -> None:
    find = orpheus_task.find_learned

    def found(batch: Any) -> orpheus_task.Learned:
        every = find(batch)
        return orpheus_task.Learned((every.places - 1).clamp(min=1), every.targets, every.slots)

    patch.setattr(orpheus_task, "find_learned", found)


def shift_the_piece(patch: pytest.MonkeyPatch) -> None:
    cut = vae_training.cut_wav
    patch.setattr(
        vae_training, "cut_wav", lambda wav, starts, length: cut(wav, [max(s - 1, 0) for s in starts], length)
    )


@pytest.mark.parametrize(
    ("task", "plant"),
    [("flow", shift_the_mel), ("gpt_sovits/gpt", shift_the_tokens), ("orpheus", shift_the_codes)],
)
def test_targets_that_are_shifted_twice_are_caught(
    task: str, plant: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    subject = learn_anew(task, tmp_path, steps=STEPS[task])
    found = subject.shifts()
    assert (found.check, found.verdict) == ("shifts", "FAULT"), found.said
    assert "a shift of +1" in found.said
    assert subject.losses()["terms"].verdict == "FAULT"


def test_a_piece_that_is_cut_a_frame_too_early_is_caught(
    made_of: Callable[[str], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    shift_the_piece(monkeypatch)
    assert made_of("gpt_sovits/vae").losses()["terms"].verdict == "FAULT"


def test_a_forward_that_speaks_otherwise_is_caught(
    made_of: Callable[[str], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = sampler.frames_between
    monkeypatch.setattr(
        sampler, "frames_between", lambda start, end, num_frames: own(start, end - 1, num_frames=num_frames)
    )
    found = made_of("flow").same_net()
    assert (found.check, found.verdict) == ("same net", "FAULT")


# ---------------------------------------------------------------- the command


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["prove", *arguments])


def test_a_fault_ends_with_exit_code_1_and_names_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MOST_STEPS", FEWEST_STEPS)
    drop_every_second_frame(monkeypatch)
    done = invoke("smoke/flow")
    assert done.exit_code == 1
    assert "FAULT    terms" in done.stdout
    assert "error: not proven: `terms` has a fault" in done.stderr
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_too_few_steps_are_said_and_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MOST_STEPS", 2)
    done = invoke("smoke/flow", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    verdicts = {finding["check"]: finding["verdict"] for finding in told["findings"]}
    assert (told["steps"], verdicts["learned"]) == (2, "skipped")
    assert "FAULT" not in verdicts.values()


def test_a_family_that_states_nothing_gets_the_checks_of_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MOST_STEPS", FEWEST_STEPS)
    with fourth_family.known():
        done = invoke(str(fourth_family.RECIPE), "--json")
    assert done.exit_code == 0, done.output
    verdicts = {finding["check"]: finding["verdict"] for finding in json.loads(done.stdout)["findings"]}
    assert verdicts["ema"] == verdicts["terms"] == verdicts["gradients"] == "ok"
    assert verdicts["leaks"] == verdicts["same net"] == verdicts["shifts"] == verdicts["export"] == "skipped"


def test_a_model_that_does_not_fit_is_refused_with_6() -> None:
    done = invoke("smoke/orpheus", "model={hidden_size: 16384, intermediate_size: 65536, num_hidden_layers: 400}")
    assert done.exit_code == 6, done.output
    assert "nothing was proven" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [*SMOKE, "from_scratch", "quickstart"])
def test_no_alarm_on_a_shipped_recipe(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if recipe.endswith(("vae", "joint")):
        monkeypatch.setattr(learning, "MOST_STEPS", FEWEST_STEPS)  # a step of a GAN takes as long as ten of the others
    done = invoke(recipe, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["proven"]
    verdicts = {finding["check"]: finding["verdict"] for finding in told["findings"]}
    assert all(verdicts[name] == "ok" for name in ("terms", "gradients", "leaks", "same net", "export")), verdicts
