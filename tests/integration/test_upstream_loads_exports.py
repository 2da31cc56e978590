"""What we export is loaded, spoken and trained on by F5-TTS itself, in its own environment.

Set TTSTRAIN_UPSTREAM_PYTHON to an interpreter that imports `f5_tts` (`pip install f5-tts` in an environment of its
own).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from small_runs import finetune, write_clips, write_recipe
from torch import Tensor

from ttstrain.checkpoint.upstream import open_checkpoint, resolve_base
from ttstrain.contract.export import Source
from ttstrain.export.choose import gather
from ttstrain.export.write import export
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.export import FlowExporter
from ttstrain.families.flow.model.sampler import generate, noise, time_grid
from ttstrain.families.flow.task import FlowTask
from ttstrain.families.flow.text import encode
from ttstrain.infer.load import load_model
from ttstrain.recipe.shipped import shipped
from ttstrain.tensors.loading import load_weights

TOOLS = Path(__file__).resolve().parents[1] / "support" / "upstream_tools.py"
TOLERANCE = 2e-5
SMALL = {"dim": 32, "depth": 2, "heads": 2, "dim_head": 16, "text_dim": 16, "conv_layers": 1}
NETS: dict[str, dict[str, Any]] = {
    "v1": SMALL,
    "v0": {**SMALL, "text_mask_padding": False, "pe_attn_head": 1, "mel": "bigvgan"},
    "e2": {**SMALL, "backbone": "unett", "text_dim": 100, "conv_layers": 0, "text_mask_padding": False,
           "pe_attn_head": 1, "ff_mult": 4},
    "options": {**SMALL, "qk_norm": "rms_norm", "long_skip_connection": True, "attn_mask_enabled": True,
                "text_embedding_average_upsampling": True, "dropout": 0.0},
}  # fmt: skip
UPDATES = 3

pytestmark = pytest.mark.upstream


def upstream(jobs: list[dict[str, Any]], folder: Path) -> None:
    """Let upstream's interpreter do the jobs; its output is shown when it fails."""
    todo = folder / "jobs.json"
    todo.write_text(json.dumps(jobs, default=str))
    # Neither its package nor its caches may come from here, and it may not go online.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [os.environ["TTSTRAIN_UPSTREAM_PYTHON"], str(TOOLS), str(todo)],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**environment, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def inputs_of(task: FlowTask, path: Path) -> torch.Tensor:
    """Save the probe's inputs for upstream and return our own outputs."""
    seen: dict[str, Any] = {}
    embed, net = task.transformer.text_embed.forward, task.transformer.forward

    def watch_text(text: torch.Tensor, **others: Any) -> torch.Tensor:
        seen["text"] = text
        return embed(text, **others)

    def watch_net(x: torch.Tensor, cond: torch.Tensor, text: Any, time: torch.Tensor, **others: Any) -> torch.Tensor:
        seen.update(x=x, cond=cond, time=time, **others)
        return net(x, cond, text, time, **others)

    task.transformer.text_embed.forward, task.transformer.forward = watch_text, watch_net  # type: ignore[method-assign]
    outputs = FlowExporter().probe(task)
    save_file({name: tensor.contiguous() for name, tensor in seen.items()}, path)
    return outputs


def test_upstreams_inference_computes_what_we_do(tmp_path: Path) -> None:
    """Every kind of net, from the published layout, the plain twin and the training file."""
    jobs, expected = [], {}
    vocab = tmp_path / "letters.txt"
    vocab.write_text(" \n" + "".join(f"{c}\n" for c in "abcdefghijklmnopqrstuvwxyz.,"))
    for name, settings in NETS.items():
        config = FlowConfig(**settings, vocab=str(vocab), tokenizer="custom")
        task = FlowTask(config)
        with torch.no_grad():
            for parameter in task.parameters():  # what starts at zero would hide what comes before it
                parameter.add_(0.1 * torch.randn_like(parameter))
        source = Source(
            checkpoint=tmp_path, name=name, task="flow", config=config, step=7, chosen="online", reasons=("test",),
            weights=task.state_dict(),
        )  # fmt: skip
        export(source, tmp_path / name, formats=["inference", "plain"])
        expected[name] = inputs_of(task, tmp_path / f"{name}-inputs.safetensors")
        for place, use_ema in (("", True), ("plain", True), ("plain", False)):
            folder = tmp_path / name / place
            jobs.append(
                {"job": "forward", "file": folder / "model_7.safetensors", "settings": folder / "model.yaml",
                 "vocab": folder / "vocab.txt", "use_ema": use_ema, "net": name,
                 "inputs": tmp_path / f"{name}-inputs.safetensors",
                 "out": tmp_path / f"{name}-{place}-{use_ema}.safetensors"}
            )  # fmt: skip
    upstream(jobs, tmp_path)
    for job in jobs:
        found = load_file(job["out"])["outputs"]
        assert float(expected[job["net"]].abs().max()) > 0.1
        torch.testing.assert_close(
            found, expected[job["net"]], rtol=0, atol=TOLERANCE, msg=lambda m, j=job: f"{j}: {m}"
        )


def test_upstream_generates_our_mel_with_the_small_base_s_net_in_half_precision(tmp_path: Path) -> None:
    """The settings of the base that ships, average upsampling included; without that option the mel is another."""
    settings = yaml.safe_load((shipped("configs") / "models" / "f5_small_base.yaml").read_text())["model"]
    config = FlowConfig(**settings)
    torch.manual_seed(0)
    task = FlowTask(config).eval()
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter)).copy_(parameter.half().float())
    source = Source(tmp_path, "small", "flow", config, 7, task.state_dict(), "ema", ("test",))
    out = export(source, tmp_path / "out", formats=["half"]).folder
    text, frames = "Said aloud. It’s a café – five & six; “seven”!", 90
    prompt = torch.randn(1, 30, config.n_mels)
    save_file({"prompt": prompt}, tmp_path / "inputs.safetensors")
    sampling = {"steps": 8, "cfg_strength": 2.0, "sway": -1.0, "seed": 5}
    upstream(
        [{"job": "generate", "file": out / "model_7.safetensors", "settings": out / "model.yaml", **sampling,
          "vocab": out / "vocab.txt", "inputs": tmp_path / "inputs.safetensors", "text": text, "frames": frames,
          "out": tmp_path / "mel.safetensors"}],
        tmp_path,
    )  # fmt: skip
    found = load_file(tmp_path / "mel.safetensors")["mel"]
    expected = mel_of(task, text, prompt, frames=frames)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    other = FlowTask(config.model_copy(update={"text_embedding_average_upsampling": False})).eval()
    other.load_state_dict(task.state_dict())
    assert float((mel_of(other, text, prompt, frames=frames) - expected).abs().max()) > 0.1


def test_upstream_generates_our_mel_with_the_base_that_ships(tmp_path: Path) -> None:
    task = load_model("package:small_f5", ["train.device=cpu"]).task
    assert isinstance(task, FlowTask)
    file, text, frames = resolve_base("package:small_f5"), "Said aloud. It’s a café – five & six; “seven”!", 240
    prompt = torch.randn(1, 60, 100, generator=torch.Generator().manual_seed(0)) - 3.0
    save_file({"prompt": prompt}, tmp_path / "inputs.safetensors")
    upstream(
        [{"job": "generate", "file": file, "settings": file.parent / "model.yaml", "vocab": file.parent / "vocab.txt",
          "inputs": tmp_path / "inputs.safetensors", "text": text, "frames": frames, "steps": 8, "cfg_strength": 2.0,
          "sway": -1.0, "seed": 5, "out": tmp_path / "mel.safetensors"}],
        tmp_path,
    )  # fmt: skip
    found = load_file(tmp_path / "mel.safetensors")["mel"]
    torch.testing.assert_close(found, mel_of(task, text, prompt, frames=frames), rtol=0, atol=1e-3)


def mel_of(task: FlowTask, text: str, prompt: Tensor, *, frames: int) -> Tensor:
    """Generate the mel (1, n, m) after a prompt with our own sampler."""
    return generate(
        task.transformer,
        prompt,
        torch.tensor([encode(text, task.vocab, kind=task.config.tokenizer)]),
        lengths=torch.tensor([frames]),
        prompt_lengths=torch.tensor([prompt.shape[1]]),
        noise=noise([frames], n_mels=task.config.n_mels, seed=5),
        times=time_grid(8, sway=-1.0, epss=True),
        cfg_strength=2.0,
    )


@dataclass(frozen=True)
class Trained:
    """An export, and what upstream did with it."""

    source: Source
    ckpts: Path  # upstream's folder, after its trainer went on there
    found: dict[str, Any]
    mel: Tensor


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("upstream")
    recipe = write_recipe(root / "r.yaml", data=write_clips(root / "speech"))
    run = finetune(recipe, root, "name=small", "model.dim_head=16", "model.tokenizer=custom")
    source = gather(run)
    out = export(source, root / "out", formats=["inference", "training"]).folder
    ckpts = Path(shutil.copytree(out / "training", root / "ckpts" / "small"))
    common = {"settings": out / "model.yaml", "vocab": out / "vocab.txt"}
    upstream(
        [
            {**common, "job": "speak", "file": out / f"model_{source.step}.safetensors",
             "text": "and something else to say", "out": root / "spoken.safetensors"},
            {**common, "job": "train", "folder": ckpts, "updates": UPDATES, "out": root / "trained.json"},
        ],
        root,
    )  # fmt: skip
    found = json.loads((root / "trained.json").read_text())
    return Trained(source, ckpts, found, load_file(root / "spoken.safetensors")["mel"])


def test_upstreams_inference_speaks_with_an_export(trained: Trained) -> None:
    assert trained.mel.shape[0] == 100
    assert trained.mel.shape[1] > 50
    assert trained.mel.isfinite().all()


def test_upstreams_trainer_goes_on_from_an_export(trained: Trained) -> None:
    """Step, moments and average go on, under a LR that neither dies nor is what the user's new settings say."""
    source, found, training = trained.source, trained.found, trained.source.training
    assert training is not None
    assert found["update"] == found["ema_step"] == source.step
    assert found["names"] == list(training.optimizer_state)
    assert found["moments"] == len(found["names"])
    assert found["lr"] == found["lr_after"] == [pytest.approx(max(training.lr, training.peak_lr / 10))]
    assert found["update_after"] == found["ema_step_after"] == source.step + UPDATES
    assert found["finite"]


def test_what_upstream_trained_on_comes_back(trained: Trained) -> None:
    """Ours, then upstream's trainer, then ours again, with the moments that upstream left."""
    opened = open_checkpoint(trained.ckpts / "model_last.pt", task="flow")
    opened.check_model(trained.source.config.model_dump(mode="json"))
    load_weights(FlowTask(trained.source.config), opened.weights, source="back")  # type: ignore[arg-type]
    assert opened.step == trained.source.step + UPDATES
    assert opened.optimizer_state is not None
    assert {float(state["step"].read()) for state in opened.optimizer_state.values()} == {opened.step}
    assert opened.schedule is not None
    assert not opened.schedule.ended
