"""A small Orpheus and runs of it: a folder as transformers writes it, a codec, a few seconds of speech."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ranked import joined
from small_runs import write_clips, write_recipe
from torch import Tensor, nn
from toys import make_run
from transformers import LlamaForCausalLM

from ttstrain.families.orpheus.codec import load_codec
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.data_config import RowsConfig
from ttstrain.families.orpheus.net import build_net
from ttstrain.families.orpheus.rows import pack, speech_row
from ttstrain.families.orpheus.task import OrpheusTask
from ttstrain.families.orpheus.tokenizer import TOY, load_tokenizer
from ttstrain.families.orpheus.toy import CODEC
from ttstrain.recipe.schema import OptimConfig
from ttstrain.train.distributed import Ranks
from ttstrain.train.step import train_step

NET: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 28_943,
    "text_vocab_size": 259,
    "bos_token_id": 256,
    "eot_token_id": 258,
}
CONFIG = OrpheusConfig(**NET, rows=RowsConfig(tokenizer=TOY, codec=TOY))

RECIPE = """
task: orpheus
base: MODEL
model:
  {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2,
   head_dim: 8, vocab_size: 28943, text_vocab_size: 259, bos_token_id: 256, eot_token_id: 258,
   rows: {tokenizer: MODEL, codec: CODEC, dedup: none}, sampling: {max_tokens: 70, grammar: masked}}
data: {path: DATA, holdout: 2, batch_frames: 300, workers: 0}
optim: {lr: 5e-3, schedule: {kind: cosine, warmup_steps: 1}}
train: {steps: 4, device: cpu, precision: fp32}
ema: {enabled: false}
eval: {every: 4}
sample: {every: null}
checkpoint: {every: 2, keep_last: 9}
tracking: {wandb: off}
"""


def write_model(folder: Path, *, seed: int = 1, **changes: Any) -> Path:
    """Write a Llama with audio tokens and its tokenizer, every weight away from where it begins."""
    torch.manual_seed(seed)
    net = build_net(CONFIG.model_copy(update=changes))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    net.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(load_tokenizer(TOY).to_json(), encoding="utf-8")
    return folder


def write_codec(folder: Path) -> Path:
    """Write the toy's SNAC as the Hub's folder has it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CODEC), encoding="utf-8")
    torch.save(load_codec(TOY).net.state_dict(), folder / "pytorch_model.bin")
    return folder


def write_all(root: Path, *, text: str = RECIPE, clips: int = 5) -> Path:
    """Write model, codec, clips and a recipe that names them; return the recipe."""
    model, codec = write_model(root / "model"), write_codec(root / "codec")
    text = text.replace("MODEL", str(model)).replace("CODEC", str(codec))
    return write_recipe(root / "recipe.yaml", data=write_clips(root / "speech", count=clips), text=text)


@torch.no_grad()
def logits_of(net: nn.Module, tokens: Sequence[int]) -> Tensor:
    """Return transformers' own logits (n, v) of one row."""
    logits: Tensor = net(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0].float()
    return logits


def plain_llama(folder: Path, tensors: Mapping[str, Tensor], *, tied: bool = True) -> LlamaForCausalLM:
    """Put tensors, under the task's names, into transformers' Llama built from a published folder's config."""
    from transformers import LlamaConfig

    config = LlamaConfig.from_pretrained(folder)
    config.tie_word_embeddings = tied
    net = LlamaForCausalLM(config).eval()
    state = {key.removeprefix("net."): tensor.float() for key, tensor in tensors.items()}
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    net.load_state_dict(state, strict=True)
    return net


# ---------------------------------------------------------------- one step, by one process or several


def step_on_uneven_rows(*, pieces: int = 3) -> dict[str, Any]:
    """Take two steps on rows with 2 to 40 frames, divided among this process group; return losses and weights."""
    with joined() as ranks:
        return _steps(ranks, pieces=pieces)


def step_alone(*, pieces: int) -> dict[str, Any]:
    """Take the same steps without other processes, in so many micro-batches."""
    return _steps(Ranks(), pieces=pieces)


def _steps(ranks: Ranks, *, pieces: int) -> dict[str, Any]:
    torch.manual_seed(5)
    task = OrpheusTask(CONFIG)
    generator = torch.Generator().manual_seed(6)
    rows = [
        speech_row(str(i), [1, 2, 3] * (i + 1), torch.randint(4096, (frames, 7), generator=generator), CONFIG.ids)
        for i, frames in enumerate((40, 2, 9, 3, 21, 2))
    ]
    own = rows[ranks.rank :: ranks.world_size]
    run = make_run(task, optim=OptimConfig(lr=1e-2, max_grad_norm=None), ranks=ranks)
    reports = [train_step(run, [pack(own[i::pieces]) for i in range(pieces)]) for _ in range(2)]
    return {
        "losses": [report.losses["model"] for report in reports],
        "metrics": [dict(report.metrics) for report in reports],
        "weights": {name: tensor.clone() for name, tensor in task.state_dict().items()},
    }
