"""Read an exported folder with transformers, and peft, alone, and write down what they compute.

Run by its path in a process of its own: it knows nothing of ttstrain. usage: reader.py REQUEST.json ANSWER.safetensors
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


@torch.no_grad()
def main(request: Path, answer: Path) -> None:
    """Answer a request: ids, logits after each prompt, and tokens written greedily."""
    wanted = json.loads(request.read_text(encoding="utf-8"))
    folder = Path(wanted["folder"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [
        torch.tensor([*wanted["before_text"], *tokenizer(text).input_ids, *wanted["after_text"]])
        for text in wanted["texts"]
    ]
    found: dict[str, Tensor] = {f"ids{i}": ids for i, ids in enumerate(prompts)}
    found["eos"] = torch.tensor(tokenizer.eos_token_id)
    model = _over_base(folder, wanted) if wanted["base"] else _whole(folder)
    for i, ids in enumerate(prompts):
        found[f"logits{i}"] = model(ids[None]).logits[0, -1].float().contiguous()
        greedy = model.generate(
            input_ids=ids[None],
            attention_mask=torch.ones_like(ids)[None],
            do_sample=False,
            temperature=None,
            top_p=None,
            repetition_penalty=1.0,
            max_new_tokens=wanted["new_tokens"],
        )
        found[f"greedy{i}"] = greedy[0, len(ids) :].contiguous()
    del model
    if not wanted["base"]:
        old = _as_transformers_4(folder)
        found |= {f"old_logits{i}": old(ids[None]).logits[0, -1].contiguous() for i, ids in enumerate(prompts)}
    save_file(found, answer)


def _whole(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _over_base(folder: Path, wanted: Mapping[str, Any]) -> Any:
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(wanted["base"], dtype=getattr(torch, wanted["base_dtype"]))
    return PeftModel.from_pretrained(base.float(), folder).eval()


def _as_transformers_4(folder: Path) -> Any:
    """Build the model as readers do that know `rope_theta` and `rope_scaling`, and tie where the flag says so."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in ("rope_parameters", "dtype", "torch_dtype"):
        settings.pop(key, None)
    config = LlamaConfig(**settings)
    state = {key: tensor.float() for key, tensor in load_file(folder / "model.safetensors").items()}
    if settings["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model.eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
