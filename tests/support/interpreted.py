"""Liger's kernels on a CPU, by Triton's interpreter: what a process whose TRITON_INTERPRET is 1 finds, as JSON.

The interpreter of Triton 3.6 lacks three things that its compiler has: numbers with a point are fp32 scalars, libdevice
has a reciprocal root, and loops end at a scalar (numpy 2.4 makes none of an array). They are put in here. It computes
bf16 wrongly, so nets in bf16 are compared on a GPU only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import liger_kernel.ops.rms_norm
import numpy as np
import torch
import triton.language as tl
from small_orpheus import CONFIG
from transformers.models.llama import modeling_llama
from triton.runtime import interpreter

from ttstrain.families.orpheus.batch import OrpheusBatch
from ttstrain.families.orpheus.fused import CHANGED, ROTATE
from ttstrain.families.orpheus.net import prove_isolation
from ttstrain.families.orpheus.rows import pack, speech_row
from ttstrain.families.orpheus.task import OrpheusTask
from ttstrain.modules.lora import add_lora, is_up, with_adapters
from ttstrain.modules.nf4 import hold_in_4_bits
from ttstrain.recipe.schema import LoraConfig


def complete_interpreter() -> None:
    """Give the interpreter what Liger's kernels use of the compiler."""
    convert, patch = interpreter._implicit_cvt, interpreter._patch_lang_tensor

    def with_floats(value: Any) -> Any:
        if not isinstance(value, float):
            return convert(value)
        return tl.tensor(interpreter.TensorHandle(np.array([value], dtype=np.float32), tl.float32), tl.float32)

    def with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._implicit_cvt, interpreter._patch_lang_tensor = with_floats, with_index
    liger_kernel.ops.rms_norm.rsqrt = _reciprocal_root


def _reciprocal_root(x: Any) -> Any:
    return tl.math.rsqrt(x)  # which the interpreter replaces while it runs a kernel


def rows() -> OrpheusBatch:
    """Pack two short rows."""
    generator = torch.Generator().manual_seed(6)
    return pack(
        [speech_row(str(n), [1, 2], torch.randint(4096, (n, 7), generator=generator), CONFIG.ids) for n in (2, 1)]
    )


def plain_task(**changes: Any) -> OrpheusTask:
    """Make a net whose every weight is away from where it begins."""
    torch.manual_seed(0)
    task = OrpheusTask(CONFIG.model_copy(update=changes))
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return task


def adapted_task() -> OrpheusTask:
    """Make a net of one layer, held in 4 bits and computed again in the backward pass, under adapters."""
    task = plain_task(num_hidden_layers=1, checkpoint_activations=True)
    held = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    add_lora(task.net, LoraConfig(rank=2, alpha=2, base="nf4"), default_targets=["*_proj"])
    hold_in_4_bits(task.repeated_blocks())
    task.load_state_dict(with_adapters(task, held))
    with torch.no_grad():
        for name, parameter in task.named_parameters():
            if is_up(name):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return task


KINDS: dict[str, Callable[[], OrpheusTask]] = {"whole": plain_task, "adapted": adapted_task}


def learn(task: OrpheusTask, batch: OrpheusBatch) -> dict[str, torch.Tensor]:
    """Return the loss and all gradients of a micro-batch."""
    task.zero_grad()
    (loss,) = task.losses(batch)
    loss.value.backward()
    gradients = {name: own.grad.float() for name, own in task.named_parameters() if own.grad is not None}
    return {"loss": loss.value.detach().float(), **gradients}


def compare(kind: str) -> dict[str, Any]:
    """Return how far fused kernels move loss and gradients, relative to each one's largest value."""
    task, batch = KINDS[kind](), rows()
    task._checked.add(True)  # the isolation of documents is proven below, of the fused net
    names = list(task.state_dict())
    plain = learn(task, batch)
    task.fuse_kernels()
    if kind == "whole":
        prove_isolation(task.net)
    fused = learn(task, batch)
    assert plain.keys() == fused.keys()
    distances = {name: float((fused[name] - plain[name]).abs().max() / plain[name].abs().max()) for name in plain}
    farthest = max(distances, key=distances.__getitem__)
    return {
        "names kept": list(task.state_dict()) == names,
        "parts fused": sum("Liger" in part._get_name() for part in task.modules()),
        "rotations fused": sum(_rotates_by_liger(layer.self_attn) for layer in task.net.model.layers),
        "gradients": len(fused) - 1,
        "farthest": farthest,
        "distance": distances[farthest],
        "computed otherwise": any(not torch.equal(plain[name], fused[name]) for name in plain),
    }


def _rotates_by_liger(attention: Any) -> bool:
    return bool(attention.forward.__globals__[ROTATE].__module__.startswith("liger_kernel."))


def main() -> None:
    """Print what was found, by kind of net."""
    before = {name: getattr(modeling_llama, name) for name in CHANGED}
    complete_interpreter()
    found: dict[str, Any] = {kind: compare(kind) for kind in KINDS}
    found["others as before"] = all(getattr(modeling_llama, name) is before[name] for name in CHANGED)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
