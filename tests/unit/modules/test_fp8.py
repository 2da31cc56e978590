"""Linear layers in FP8, with products that torchao emulates: near those in full, and nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch
from small_orpheus import CONFIG
from torch import Tensor, nn

from ttstrain.families.orpheus.batch import OrpheusBatch
from ttstrain.families.orpheus.net import hidden_states, prove_isolation
from ttstrain.families.orpheus.rows import pack, speech_row
from ttstrain.families.orpheus.task import OrpheusTask
from ttstrain.modules.fp8 import learn_in_fp8, not_in_fp8

pytest.importorskip("torchao")

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}  # sides that are multiples of 16
# Four bits of a number remain: it moves by 1/16 at most, by 1/28 in the mean square, in each factor of some products
# in a row. A gradient that were scaled wrongly, or missed a product, would be off by its own size.
NEAR = 0.2


def make(**changes: object) -> OrpheusTask:
    torch.manual_seed(0)
    task = OrpheusTask(CONFIG.model_copy(update={**SIZES, **changes}))
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return task


def rows(*frames: int) -> OrpheusBatch:
    generator = torch.Generator().manual_seed(1)
    return pack(
        [speech_row(str(n), [1, 2], torch.randint(4096, (n, 7), generator=generator), CONFIG.ids) for n in frames]
    )


def learn(task: OrpheusTask, batch: OrpheusBatch) -> dict[str, Tensor]:
    task.zero_grad()
    (loss,) = task.losses(batch)
    loss.value.backward()
    gradients = {name: own.grad.clone() for name, own in task.named_parameters() if own.grad is not None}
    return {"loss": loss.value.detach(), **gradients}


def off(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    assert found.keys() == wanted.keys()
    return {name: float((found[name] - wanted[name]).float().norm() / wanted[name].float().norm()) for name in wanted}


@pytest.mark.parametrize("changes", [{}, {"param_dtype": "bf16"}, {"checkpoint_activations": True}])
def test_losses_and_gradients_are_those_in_full_within_what_fp8_rounds(changes: dict[str, object]) -> None:
    task, batch = make(**changes), rows(5, 3)
    assert batch.input_ids.shape[1] % 16  # any number of tokens
    plain = learn(task, batch)
    learn_in_fp8(task.repeated_blocks(), emulate=True)
    distances = off(learn(task, batch), plain)
    assert distances.pop("loss") < 1e-3
    assert max(distances.values()) < NEAR
    assert distances["net.model.layers.0.mlp.down_proj.weight"] > 1e-3  # it is computed in FP8


def test_only_the_blocks_linear_layers_change_and_no_name_shape_type_or_weight() -> None:
    task = make()
    before = {name: (tensor.clone(), tensor.dtype) for name, tensor in task.state_dict().items()}
    parameters = dict(task.named_parameters())
    learn_in_fp8(task.repeated_blocks(), emulate=True)
    after = task.state_dict()
    assert list(after) == list(before)
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == dtype for name, (tensor, dtype) in before.items()
    )
    assert all(own is parameters[name] for name, own in task.named_parameters())
    changed = {
        name for name, part in task.named_modules() if isinstance(part, nn.Linear) and type(part) is not nn.Linear
    }
    assert changed == {name.removesuffix(".weight") for name in parameters if "_proj." in name}
    learn(task, rows(2))
    assert all(own.grad is not None and own.grad.dtype == own.dtype for own in task.parameters())


def test_a_document_is_computed_alike_whatever_is_packed_beside_it() -> None:
    task, alone, packed = make().eval(), rows(4), rows(4, 6)
    loud, own = 7, alone.input_ids.shape[1]
    assert loud not in alone.input_ids
    packed.input_ids[:, own:] = loud
    learn_in_fp8(task.repeated_blocks(), emulate=True)
    with torch.no_grad():
        task.net.model.embed_tokens.weight[loud] *= 30  # one scale for all tokens would become another
        found = [hidden_states(task.net, one.input_ids, one.position_ids, one.cu_seqlens) for one in (alone, packed)]
        prove_isolation(task.net)
    torch.testing.assert_close(found[1][:own], found[0], rtol=1e-4, atol=1e-5)


def test_what_looks_for_a_cause_in_fp32_computes_without_fp8() -> None:
    task, batch = make(), rows(3)
    plain = learn(task, batch)
    learn_in_fp8(task.repeated_blocks(), emulate=True)
    rounded = learn(task, batch)
    with not_in_fp8(task):
        inside = learn(task, batch)
    assert all(torch.equal(inside[name], plain[name]) for name in plain)
    again = learn(task, batch)
    assert all(torch.equal(again[name], rounded[name]) for name in plain) and not math.isclose(
        float(rounded["loss"]), float(plain["loss"]), rel_tol=1e-9
    )
