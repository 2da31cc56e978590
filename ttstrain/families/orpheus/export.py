"""Folders that transformers, vLLM, SGLang, llama.cpp's converter and peft load, and what a prompt looks like.

Every reader must understand the folder in the same way: config.json spells the rotary settings as transformers 4 and as
transformers 5 do, its tie flag is what the tensors are, and the tokenizer has a row for each of its ids.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ttstrain.checkpoint.upstream import open_checkpoint
from ttstrain.contract.export import Source, Written, WrittenFile
from ttstrain.contract.model import ModelConfig
from ttstrain.contract.task import Task
from ttstrain.documents import read_object
from ttstrain.errors import CheckpointError
from ttstrain.families.orpheus import peft_folder
from ttstrain.families.orpheus.config import PREFIX, OrpheusConfig
from ttstrain.families.orpheus.export_texts import (
    FACTS,
    config_json,
    engine_facts,
    generation_json,
    readme,
    stop_token,
    tokenizer_config_json,
    use,
)
from ttstrain.families.orpheus.net import hidden_states
from ttstrain.families.orpheus.proof import prove
from ttstrain.families.orpheus.task import OrpheusTask
from ttstrain.families.orpheus.tokenizer import FILE, SPECIAL_TOKENS, TOKENIZER_CONFIG, RowTokenizer, load_tokenizer
from ttstrain.tensors import tensorfile

WEIGHTS, README = "model.safetensors", "README.md"
ADAPTER = "adapter"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
PROBE_TOKENS = (12, 5)  # of two packed documents


class OrpheusExporter:
    """Writes a Hugging Face folder, or the adapters alone."""

    formats: Mapping[str, str] = {
        "bf16": "the whole model in bfloat16, for inference engines",
        "fp32": "the whole model in float32, twice as large",
        ADAPTER: "only the adapters of a LoRA run, for peft with their base",
    }

    def write(self, source: Source, folder: Path, formats: Sequence[str]) -> Written:
        """Write one folder per format, into `folder` itself when there is only one, and let others' tools read it."""
        config = _orpheus(source.config)
        tokenizer = load_tokenizer(config.rows.tokenizer)
        if tokenizer.size > config.vocab_size:
            raise CheckpointError(
                f"`{tokenizer.source}` has {tokenizer.size:,} token ids, the net {config.vocab_size:,} embeddings",
                hint="inference engines cannot load that: train with `model.vocab_size` at least as large",
            )
        files: list[WrittenFile] = []
        proven: list[str] = []
        places = {name: folder if len(formats) == 1 else folder / name for name in formats}
        for name, inside in places.items():
            inside.mkdir(exist_ok=True)
            write_tokenizer(tokenizer, config, inside)
            _write_json(inside / FACTS, engine_facts(config, tokenizer))
            if name == ADAPTER:
                file = peft_folder.write(source, inside)
            else:
                file = inside / WEIGHTS
                tensorfile.write(file, published(source.weights, DTYPES[name]), metadata={"format": "pt"})
                _write_json(inside / "config.json", config_json(config, dtype=name))
                _write_json(inside / "generation_config.json", generation_json(config))
            proven.append(f"{name}: {prove(source, inside, dtype=DTYPES.get(name))}")
            holds: Literal["weights", "adapters"] = "adapters" if name == ADAPTER else "weights"
            files.append(WrittenFile(file.relative_to(folder).as_posix(), holds=holds))
            (inside / README).write_text(readme(source, config, name, proven[-1:]), encoding="utf-8")
        return Written(files=files, use=use(config, places, folder), proven=proven)

    def config(self, folder: Path) -> OrpheusConfig:
        """Read the architecture from config.json, the rest from the tokenizer and what lies beside them."""
        places = [folder, *(folder / name for name in self.formats)]
        inside = next(place for place in places if (place / FACTS).is_file())
        file = inside / WEIGHTS if (inside / WEIGHTS).is_file() else inside / peft_folder.WEIGHTS
        opened = open_checkpoint(file)
        return OrpheusConfig.model_validate({**opened.config, **opened.section})

    @torch.no_grad()
    def probe(self, task: Task) -> Tensor:
        """Return the logits (n, v) of two packed documents of any tokens."""
        assert isinstance(task, OrpheusTask)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(task.config.vocab_size, (1, sum(PROBE_TOKENS)), generator=generator)
        positions = torch.cat([torch.arange(length) for length in PROBE_TOKENS])[None]
        starts = torch.tensor([0, PROBE_TOKENS[0], sum(PROBE_TOKENS)], dtype=torch.int32)
        logits: Tensor = task.net.lm_head(hidden_states(task.net, ids, positions, starts))
        return logits


def published(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights under transformers' names, in one type, on the CPU."""
    return {key.removeprefix(PREFIX): tensor.detach().to("cpu", dtype).contiguous() for key, tensor in weights.items()}


def write_tokenizer(tokenizer: RowTokenizer, config: OrpheusConfig, folder: Path) -> None:
    """Copy the tokenizer byte for byte, and its settings with the token that ends speech as the one to stop at."""
    if tokenizer.folder is None:
        (folder / FILE).write_text(tokenizer.to_json(), encoding="utf-8")
    else:
        for name in (FILE, "chat_template.jinja"):
            if (tokenizer.folder / name).is_file():
                shutil.copyfile(tokenizer.folder / name, folder / name)
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
        settings = tokenizer_config_json(config) if name == TOKENIZER_CONFIG else None
        if tokenizer.folder is not None and (tokenizer.folder / name).is_file():
            settings = read_object(tokenizer.folder / name, error=CheckpointError)
        if settings is not None:
            _write_json(folder / name, {**settings, "eos_token": stop_token(config)})


def _orpheus(config: ModelConfig) -> OrpheusConfig:
    assert isinstance(config, OrpheusConfig)
    return config


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
