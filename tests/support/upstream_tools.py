"""Runs under another interpreter, the one that has F5-TTS: its own loader, its own sampler, its own trainer.

`upstream_tools.py JOBS` reads a JSON list of jobs and does them in turn, so that its slow imports happen once.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch


def load(job: dict[str, Any], *, use_ema: bool = True) -> Any:
    from f5_tts.infer.utils_infer import load_model
    from hydra.utils import get_class
    from omegaconf import OmegaConf

    settings = OmegaConf.load(job["settings"]).model
    return load_model(
        get_class(f"f5_tts.model.{settings.backbone}"),
        settings.arch,
        job["file"],
        mel_spec_type=settings.mel_spec.mel_spec_type,
        vocab_file=job["vocab"],
        use_ema=use_ema,
        device="cpu",
    )


def forward(job: dict[str, Any]) -> None:
    """Load with upstream's inference and compute the velocities of the given inputs, with text and without."""
    from safetensors.torch import load_file, save_file

    given = load_file(job["inputs"])
    model = load(job, use_ema=job["use_ema"]).eval()
    outputs = []
    with torch.no_grad():
        for dropped in (False, True):
            outputs.append(model.transformer(**given, drop_audio_cond=False, drop_text=dropped))
    save_file({"outputs": torch.cat(outputs)}, job["out"])


def speak(job: dict[str, Any]) -> None:
    """Speak through upstream's whole inference; the vocoder stands still."""
    from f5_tts.infer.utils_infer import infer_batch_process
    from safetensors.torch import save_file

    class Still:
        def decode(self, mel: torch.Tensor) -> torch.Tensor:
            return torch.zeros(mel.shape[0], mel.shape[2] * 256)

    wav = 0.1 * torch.sin(torch.arange(36_000) * 0.05)[None]
    (_, rate, mel) = next(
        infer_batch_process((wav, 24_000), "A reference.", [job["text"]], load(job), Still(), nfe_step=4, device="cpu")
    )
    save_file({"mel": torch.tensor(mel).contiguous(), "rate": torch.tensor(rate)}, job["out"])


def generate(job: dict[str, Any]) -> None:
    """Generate the mel after a prompt, through upstream's front end and its whole sampler."""
    from f5_tts.model.utils import convert_char_to_pinyin
    from safetensors.torch import load_file, save_file

    mel, _ = load(job).sample(
        cond=load_file(job["inputs"])["prompt"],
        text=convert_char_to_pinyin([job["text"]]),
        duration=job["frames"],
        steps=job["steps"],
        cfg_strength=job["cfg_strength"],
        sway_sampling_coef=job["sway"],
        seed=job["seed"],
    )
    save_file({"mel": mel.contiguous()}, job["out"])


def train(job: dict[str, Any]) -> None:
    """Let upstream's trainer find the file in its folder and go on for a few updates."""
    from f5_tts.model import CFM
    from f5_tts.model.trainer import Trainer
    from f5_tts.model.utils import get_tokenizer
    from hydra.utils import get_class
    from omegaconf import OmegaConf

    settings = OmegaConf.load(job["settings"]).model
    vocab, size = get_tokenizer(job["vocab"], "custom")
    net = get_class(f"f5_tts.model.{settings.backbone}")(**settings.arch, text_num_embeds=size, mel_dim=100)
    trainer = Trainer(
        CFM(transformer=net, vocab_char_map=vocab),
        epochs=1,
        learning_rate=123.0,  # upstream's state decides instead
        num_warmup_updates=2,
        checkpoint_path=job["folder"],
        batch_size_per_gpu=1,
        logger=None,
        save_per_updates=10**9,
        last_per_updates=10**9,
    )
    found: dict[str, Any] = {}
    own_load = trainer.load_checkpoint

    def watched() -> int:
        found["update"] = own_load()
        state = trainer.optimizer.state_dict()
        found["lr"] = [group["lr"] for group in state["param_groups"]]
        found["moments"] = len(state["state"])
        found["ema_step"] = int(trainer.ema_model.step)
        found["names"] = [name for name, _ in trainer.model.named_parameters()]
        return int(found["update"])

    trainer.load_checkpoint = watched
    clips = [{"mel_spec": torch.randn(100, 40 + i), "text": "some words"} for i in range(job["updates"])]
    trainer.train(clips, num_workers=1)
    after = torch.load(f"{job['folder']}/model_last.pt", weights_only=True)
    found["update_after"] = after["update"]
    found["lr_after"] = [group["lr"] for group in after["optimizer_state_dict"]["param_groups"]]
    found["ema_step_after"] = int(after["ema_model_state_dict"]["step"])
    found["finite"] = all(bool(t.isfinite().all()) for t in after["model_state_dict"].values())
    Path(job["out"]).write_text(json.dumps(found))


def write_arrow(job: dict[str, Any]) -> None:
    """Write a data set as upstream's preparation does."""
    from datasets.arrow_writer import ArrowWriter

    folder = Path(job["folder"])
    folder.mkdir(parents=True)
    with ArrowWriter(path=str(folder / "raw.arrow")) as writer:
        for row in job["rows"]:
            writer.write(row)
        writer.finalize()
    (folder / "duration.json").write_text(json.dumps({"duration": [row["duration"] for row in job["rows"]]}))


JOBS = {"forward": forward, "speak": speak, "generate": generate, "train": train, "write_arrow": write_arrow}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    jobs = json.loads(Path(sys.argv[1]).read_text())
    sys.argv = sys.argv[:1]
    for job in jobs:
        JOBS[job["job"]](job)


if __name__ == "__main__":
    main()
