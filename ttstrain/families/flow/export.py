"""Exports for F5-TTS's own tools: weights as published, plain weights, training file, and the files they need.

Facts about upstream hold for releases 1.1.20 to 1.1.22: inference always reads EMA weights (`ema_model.*`), loads
strictly, allows only `initted` and `step` besides, and drops the last character of every line of a vocab.
"""

from __future__ import annotations

import codecs
import io
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ttstrain import __version__, documents
from ttstrain.checkpoint.meta import check_vocab
from ttstrain.contract.export import Source, TrainerState, Written, WrittenFile
from ttstrain.contract.model import ModelConfig
from ttstrain.contract.task import Task
from ttstrain.data.texts import VOCAB as VOCAB_HASH
from ttstrain.errors import CheckpointError, RecipeError
from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.export_texts import BACKBONES, infer_command, limits, readme, settings_yaml
from ttstrain.families.flow.task import FlowTask
from ttstrain.families.flow.training_proof import prove
from ttstrain.families.flow.upstream import BUFFERS, METADATA_KEY, F5Format
from ttstrain.families.flow.vocab import PACKAGED, load_vocab
from ttstrain.places import expanded
from ttstrain.recipe import yaml12
from ttstrain.tensors import tensorfile

VOCAB, SETTINGS, README = "vocab.txt", "model.yaml", "README.md"
TRAINING_FILE = "model_last.pt"  # the name upstream's trainer looks for first
PLACES = {"inference": "", "half": "half", "plain": "plain", "training": "training"}  # format -> its folder
LR_FLOOR = 0.1  # of the peak, for training that continues in upstream's trainer
FOREVER = 10**9  # updates; an LR that does not change needs no end
PROBE_FRAMES, PROBE_TOKENS = 48, 12


class FlowExporter:
    """Writes what upstream's inference, web tool and trainer read."""

    formats: Mapping[str, str] = {
        "inference": "the layout of the published files, for every inference tool and as a base",
        "half": "the same in half precision (fp16): half the size",
        "plain": "the same weights under plain keys",
        "training": "a training file that upstream's trainer resumes from",
    }

    def write(self, source: Source, folder: Path, formats: Sequence[str]) -> Written:
        """Write one file of weights per format, each with its vocab and settings beside it."""
        config = _flow(source.config)
        name = f"model_{source.step}.safetensors"
        metadata = {METADATA_KEY: json.dumps(fingerprint(source, config), ensure_ascii=False)}
        check_vocab(source.versions, {VOCAB_HASH: vocab_hash(config)}, source=str(source.checkpoint))
        vocab, notes = vocab_bytes(config)
        files: dict[str, WrittenFile] = {}  # format -> its file
        proven: list[str] = []
        for wanted in (name for name in PLACES if name in formats):
            inside = folder / ("" if list(formats) == ["half"] else PLACES[wanted])
            inside.mkdir(exist_ok=True)
            (inside / VOCAB).write_bytes(vocab)
            (inside / SETTINGS).write_text(settings_yaml(config, source), encoding="utf-8")
            file = inside / (TRAINING_FILE if wanted == "training" else name)
            if wanted == "training":
                torch.save(training_file(source), file)
                proven.append(prove(file, config, step=source.step))
            else:
                tensorfile.write(file, tensors_of(source, wanted), metadata=metadata)
            holds: Literal["weights", "training"] = "training" if wanted == "training" else "weights"
            files[wanted] = WrittenFile(file.relative_to(folder).as_posix(), holds=holds)
        notes += limits(config)
        if "training" in formats and source.training is not None:
            notes += source.training.notes
        names = {wanted: file.name for wanted, file in files.items()}
        (folder / README).write_text(readme(source, config, names, notes), encoding="utf-8")
        for_inference = [names[wanted] for wanted in ("inference", "half") if wanted in names][:1]
        use = [infer_command(config, source, file=file) for file in for_inference]
        return Written(files=list(files.values()), use=use, notes=notes, proven=proven)

    def config(self, folder: Path) -> FlowConfig:
        """Read `model.yaml` and `vocab.txt` as upstream does."""
        inside = next(folder / place for place in PLACES.values() if (folder / place / SETTINGS).is_file())
        model = yaml12.read_file(inside / SETTINGS, error=CheckpointError)["model"]
        arch = {key: value for key, value in model["arch"].items() if key != "attn_backend"}
        return FlowConfig(
            backbone={name: key for key, name in BACKBONES.items()}[model["backbone"]],
            mel=model["mel_spec"]["mel_spec_type"],
            n_mels=model["mel_spec"]["n_mel_channels"],
            tokenizer="custom",
            vocab=str(inside / VOCAB),
            **arch,
        )

    @torch.no_grad()
    def probe(self, task: Task) -> Tensor:
        """Return velocities (4, n, m): two clips of different length and text, then the same with the text hidden."""
        assert isinstance(task, FlowTask)
        net, n_mels = task.transformer.eval(), task.config.n_mels
        generator = torch.Generator().manual_seed(0)
        lengths = torch.tensor([PROBE_FRAMES, 2 * PROBE_FRAMES // 3])
        x, cond = torch.randn((2, 2, PROBE_FRAMES, n_mels), generator=generator)
        text = torch.randint(len(task.vocab.tokens), (2, PROBE_TOKENS), generator=generator)
        text[1, PROBE_TOKENS // 2 :] = -1
        mask = torch.arange(PROBE_FRAMES) < lengths[:, None]
        time = torch.tensor([0.3, 0.7])
        outputs = []
        for dropped in (False, True):
            embedded = net.text_embed(text, num_frames=PROBE_FRAMES, lengths=lengths, drop=torch.full((2,), dropped))
            outputs.append(net(x, cond, embedded, time, mask=mask))
        return torch.cat(outputs)


def _flow(config: ModelConfig) -> FlowConfig:
    assert isinstance(config, FlowConfig)
    return config


def fingerprint(source: Source, config: FlowConfig) -> dict[str, Any]:
    """Return the metadata of a file; shapes alone do not tell v0 from v1."""
    vocab = load_vocab(config.vocab, space_first=config.tokenizer != "custom")
    label = F5Format().label(config.model_dump(mode="json"))
    return {
        "task": source.task,
        "model": {**label.config, "tokenizer": config.tokenizer},
        "vocab": {"tokens": len(vocab.tokens), "sha256": vocab.sha256},
        "run": source.name,
        "step": source.step,
        "weights": source.chosen,
        "base": source.base,
        **({} if source.blend is None else {"blend": source.blend}),
        "front_end": dict(source.versions),
        "ttstrain": __version__,
    }


# ---------------------------------------------------------------- tensors


def tensors_of(source: Source, wanted: str) -> dict[str, Tensor]:
    """Return what a file of weights holds in a format. Raises CheckpointError where fp16 cannot hold a weight."""
    weights = full_precision(source.weights)
    if wanted == "plain":
        return weights
    return published(half_precision(weights) if wanted == "half" else weights)


def half_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round the weights to float16. Buffers stay as they are: rounded positions would be other positions.

    Upstream's inference computes in float32 on a CPU, in float16 on most GPUs, whatever the type in the file.
    Raises CheckpointError where a rounded weight is not finite.
    """
    rounded = {key: tensor if key in BUFFERS else tensor.half() for key, tensor in weights.items()}
    if broken := [key for key, tensor in rounded.items() if not bool(torch.isfinite(tensor).all())]:
        raise CheckpointError(
            f"{len(broken)} tensors are not finite in half precision, such as `{broken[0]}`",
            hint="export `--format inference`, which keeps full precision",
        )
    return rounded


def full_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as float32 on the CPU, as every published file has them."""
    return {
        key: tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for key, tensor in weights.items()
    }


def published(weights: Mapping[str, Tensor], *, updates: int = 0) -> dict[str, Tensor]:
    """Return the state of upstream's EMA.

    Its step counter starts at 0. With a large one, as in the published files, EMA weights would hardly move when
    somebody fine-tunes from this file in upstream's trainer.
    """
    scalars = {"initted": torch.tensor(True), "step": torch.tensor(updates)}
    return scalars | {f"ema_model.{key}": tensor for key, tensor in weights.items()}


def training_file(source: Source) -> dict[str, Any]:
    """Return upstream's five entries. Raises RecipeError when the source has no training state."""
    training = source.training
    if training is None or source.step < 1:
        raise RecipeError(
            f"`{source.checkpoint}` has no training state to resume from: it has only weights, or is of step 0",
            hint="export a checkpoint of a run, or use it as a base",
        )
    if training.refused:
        raise RecipeError(
            f"F5-TTS's trainer needs AdamW state, but {training.refused}",
            hint="leave out `--format training`, and start a new training there from the exported weights",
        )
    average = training.raw if training.ema is None else training.ema
    lr = max(training.lr, LR_FLOOR * training.peak_lr)
    return {
        "model_state_dict": OrderedDict(full_precision(training.raw)),
        "optimizer_state_dict": optimizer_state(training, lr=lr),
        "ema_model_state_dict": OrderedDict(
            published(full_precision(average), updates=0 if training.ema is None else source.step)
        ),
        "scheduler_state_dict": scheduler_state(source.step, lr=lr),
        "update": source.step,
    }


def optimizer_state(training: TrainerState, *, lr: float) -> dict[str, Any]:
    """Return the state of one AdamW over all parameters, numbered in the order in which the net registers them."""
    state = {
        index: {key: value.detach().to("cpu", torch.float32) for key, value in moments.items()}
        for index, moments in enumerate(training.optimizer_state.values())
        if moments
    }
    group = {
        "lr": lr,
        "betas": tuple(training.betas),
        "eps": training.eps,
        "weight_decay": training.weight_decay,
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": True,
        "decoupled_weight_decay": True,
        "initial_lr": lr,
        "params": list(range(len(training.optimizer_state))),
    }
    return {"state": state, "param_groups": [group]}


def scheduler_state(step: int, *, lr: float) -> dict[str, Any]:
    """Return the state of upstream's scheduler, two linear parts in sequence, that keeps the LR as it is.

    Upstream takes peak, warmup and length from this state and ignores new ones. Its own end would be 1e-8 of the LR.
    """

    def linear(position: int, total: int) -> dict[str, Any]:
        return {
            "start_factor": 1.0,
            "end_factor": 1.0,
            "total_iters": total,
            "base_lrs": [lr],
            "last_epoch": position,
            "_step_count": position + 1,
            "_is_initial": False,
            "_get_lr_called_within_step": False,
            "_last_lr": [lr],
        }

    return {
        "_milestones": [1],
        "last_epoch": step,
        "_last_lr": [lr],
        "_schedulers": [linear(1, 1), linear(step - 1, FOREVER)],
    }


# ---------------------------------------------------------------- vocab


def vocab_hash(config: FlowConfig) -> str:
    """Return the vocab's entry in a checkpoint's metadata."""
    return f"sha256:{load_vocab(config.vocab, space_first=config.tokenizer != 'custom').sha256}"


def vocab_bytes(config: FlowConfig) -> tuple[bytes, tuple[str, ...]]:
    """Return the vocab file, repaired where upstream would read it differently, and notes on each repair."""
    vocab = load_vocab(config.vocab, space_first=config.tokenizer != "custom")
    content = _content(config.vocab)
    notes: list[str] = []
    if content.startswith(codecs.BOM_UTF8):
        content = content[len(codecs.BOM_UTF8) :]
        notes.append("removed the vocab's byte order mark: upstream would read it as part of the first token")
    if not content.endswith((b"\n", b"\r")):
        content += b"\n"
        notes.append("added a newline to the vocab's last line: upstream would drop the last token's last character")
    if as_upstream_reads(content) != vocab.tokens:
        raise CheckpointError(f"upstream would read other tokens from `{config.vocab}`", hint="please report this file")
    return content, tuple(notes)


def as_upstream_reads(content: bytes) -> tuple[str, ...]:
    """Cut a vocab into tokens as upstream does: text mode, one line after the other, without its last character."""
    return tuple(line[:-1] for line in io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def _content(source: str) -> bytes:
    if source in PACKAGED:
        return resources.files(__package__).joinpath(PACKAGED[source]).read_bytes()
    return documents.read_bytes(expanded(source), error=CheckpointError)
