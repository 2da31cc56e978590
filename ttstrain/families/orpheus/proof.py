"""Checks an exported folder with transformers, or peft, in a process of its own, and compares the results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor

from ttstrain.checkpoint.upstream import resolve_base
from ttstrain.contract.export import Source
from ttstrain.errors import CheckpointError
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.layout import said
from ttstrain.families.orpheus.net import hidden_states
from ttstrain.families.orpheus.rows import prompt_ids
from ttstrain.families.orpheus.task import OrpheusTask
from ttstrain.families.orpheus.tokenizer import load_tokenizer
from ttstrain.tensors.loading import load_weights

READER: Final = Path(__file__).with_name("reader.py")
OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
TEXTS: Final = ("Hello there, how are you today?", "Yes.", "The second of May, at half past nine in the evening.")
NEW_TOKENS: Final = 12  # written greedily after each text
# Of the largest logit. Another attention kernel sums in another order; a wrong rotary base or a lost head is off by its
# whole size.
TOLERANCE: Final = 1e-4


def prove(source: Source, folder: Path, *, dtype: torch.dtype | None) -> str:
    """Compare logits and greedy tokens with those of the weights in memory, rounded to `dtype`; return what was seen.

    Without a `dtype` the folder holds adapters, which are laid over their base. Raises CheckpointError where anything
    differs.
    """
    assert isinstance(source.config, OrpheusConfig)
    config = source.config
    voice = config.sampling.voice or "tara"
    texts = [said(text, voice, config.rows.voice) for text in TEXTS]
    base = None if dtype is not None else resolve_base(source.base or "").parent
    found = _read_elsewhere(folder, texts, config, base=base)
    if (stop := int(found["eos"])) != config.ids.eos:
        raise _differs(f"the tokenizer's stop token is {stop}, but {config.ids.eos} ends speech")
    task = OrpheusTask(config).eval().float()
    weights = source.weights if dtype is None else {key: value.to(dtype) for key, value in source.weights.items()}
    load_weights(task.exported(), weights, source=str(source.checkpoint))
    largest, num_tokens = 0.0, 0
    for i, text in enumerate(texts):
        prompt = prompt_ids(load_tokenizer(config.rows.tokenizer).encode(text), config.ids)
        if found[f"ids{i}"].tolist() != prompt:
            raise _differs(f"the tokenizer gives other ids for `{text}`")
        greedy = found[f"greedy{i}"]
        logits = _logits(task, torch.cat([torch.tensor(prompt), greedy]))[len(prompt) - 1 :]  # (k + 1, v)
        size = float(logits[0].abs().max())
        for spelling in ("", "old_"):
            if f"{spelling}logits{i}" not in found:
                continue
            theirs = found[f"{spelling}logits{i}"]
            common = min(len(theirs), logits.shape[1])  # rows that were added to a base belong to no adapter
            difference = float((theirs[:common] - logits[0, :common]).abs().max()) / max(size, 1e-12)
            largest = max(largest, difference)
            if not difference <= TOLERANCE:
                where = "read as transformers 4 spells the settings" if spelling else "read by transformers"
                raise _differs(f"{where}, logits differ by {difference:.2g} of the largest")
        # A tie between two tokens may fall either way; nothing else may.
        own = logits[:-1].gather(1, greedy[:, None])[:, 0]
        if bool((own < logits[:-1].amax(dim=1) - TOLERANCE * size).any()):
            raise _differs(f"greedy tokens after `{text}` differ")
        num_tokens += len(greedy)
    tool = "peft over the base" if dtype is None else "transformers, by either spelling of its settings"
    return (
        f"{tool}, in a process of its own: logits of {len(texts)} prompts within {largest:.1g} of the largest, "
        f"{num_tokens} greedy tokens the same"
    )


@torch.no_grad()
def _logits(task: OrpheusTask, tokens: Tensor) -> Tensor:
    n = len(tokens)
    states = hidden_states(task.net, tokens[None], torch.arange(n)[None], torch.tensor([0, n], dtype=torch.int32))
    logits: Tensor = task.net.lm_head(states)
    return logits


def _read_elsewhere(folder: Path, texts: list[str], config: OrpheusConfig, *, base: Path | None) -> dict[str, Tensor]:
    ids = config.ids
    with tempfile.TemporaryDirectory() as scratch:
        request, answer = Path(scratch) / "request.json", Path(scratch) / "answer.safetensors"
        wanted: Mapping[str, Any] = {
            "folder": str(folder),
            "base": None if base is None else str(base),
            "base_dtype": "bfloat16" if config.param_dtype == "bf16" else "float32",  # as the adapters knew it
            "texts": texts,
            "before_text": [ids.soh],  # the tokenizer itself puts BOS before a text
            "after_text": [ids.eot, ids.eoh, ids.soa, ids.sos],
            "new_tokens": NEW_TOKENS,
        }
        request.write_text(json.dumps(wanted), encoding="utf-8")
        done = _run_reader(request, answer)
        if done.returncode != 0 or not answer.is_file():
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
            raise _differs(f"transformers could not read it: {lines[-1]}")
        return load_file(answer)


def _run_reader(request: Path, answer: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(READER), str(request), str(answer)],
        check=False,
        capture_output=True,
        text=True,
        env=dict(os.environ) | OFFLINE,
    )


def _differs(what: str) -> CheckpointError:
    return CheckpointError(
        f"checking the exported folder failed: {what}",
        hint="nothing was exported, and the checkpoint is unchanged; please report this",
    )
