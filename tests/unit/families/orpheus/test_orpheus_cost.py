"""The operations of a step are those that torch counts while it is computed."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ttstrain.families.orpheus.batch import IGNORED, OrpheusBatch
from ttstrain.families.orpheus.config import OrpheusConfig
from ttstrain.families.orpheus.cost import forward_flops
from ttstrain.families.orpheus.net import hidden_states
from ttstrain.families.orpheus.task import OrpheusTask

CONFIG = OrpheusConfig(  # no more vocabulary than needed, so that attention makes a part of the whole
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    text_vocab_size=64,
    bos_token_id=0,
    eot_token_id=1,
    vocab_size=64 + 28_682,
)
LENGTHS, PROMPT = (300, 700), 9


def packed() -> OrpheusBatch:
    generator = torch.Generator().manual_seed(0)
    n = sum(LENGTHS)
    ids = torch.randint(CONFIG.vocab_size, (1, n), generator=generator)
    labels = ids.clone()
    for start in (0, LENGTHS[0]):
        labels[0, start : start + PROMPT] = IGNORED
    return OrpheusBatch(
        ids=["a", "b"],
        input_ids=ids,
        labels=labels,
        position_ids=torch.cat([torch.arange(length) for length in LENGTHS])[None],
        documents=torch.repeat_interleave(torch.arange(2), torch.tensor(LENGTHS))[None].int(),
        cu_seqlens=torch.tensor([0, LENGTHS[0], n], dtype=torch.int32),
        is_audio_slot=torch.full((1, n), -1, dtype=torch.int8),
        modality=torch.zeros(2, dtype=torch.int8),
        weight=float(n - 2 * PROMPT),
        num_frames=n,
        num_padded=n,
    )


@pytest.mark.parametrize("trained", ["everything", "the first norm"])
def test_a_step_takes_what_torch_counts_without_packing_and_chunks(trained: str) -> None:
    """The counter does not know of products into a buffer, which our loss uses, so the loss is spelled out here."""
    task = OrpheusTask(CONFIG)
    batch = packed()
    if trained != "everything":
        for name, parameter in task.named_parameters():
            parameter.requires_grad_("layers.0.input_layernorm" in name)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it knows no kernel of the CPU
        states = hidden_states(task.net, batch.input_ids, batch.position_ids, batch.cu_seqlens)
        learned = (batch.labels[0] != IGNORED).nonzero()[:, 0]
        logits = torch.nn.functional.linear(states[learned - 1], task.net.lm_head.weight)
        torch.nn.functional.cross_entropy(logits, batch.labels[0, learned]).backward()
    # The counter takes a causal product for a full one.
    unseen = 3 * forward_flops(CONFIG, LENGTHS, learned=0).attention
    assert task.flops(batch) == pytest.approx(counter.get_total_flops() - unseen, rel=0.02)


def test_the_published_net_takes_six_operations_a_weight_and_token() -> None:
    """The count of `19.80 GFLOP` a token, attention aside, that comparisons of this net use."""
    forward = forward_flops(OrpheusConfig(), [1000], learned=1000)
    assert 3 * (forward.layers + forward.head) / 1000 == pytest.approx(19.80e9, rel=1e-3)
