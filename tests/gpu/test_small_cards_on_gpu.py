"""What spares memory, on a real GPU: layers in 4 bits, and optimizer state on the host."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ttstrain.optim.rounded import RoundedAdamW

pytestmark = pytest.mark.gpu

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_in_4_bits_computes_as_one_with_its_rounded_weight(dtype: torch.dtype) -> None:
    pytest.importorskip("bitsandbytes")
    from ttstrain.modules.nf4 import Nf4Linear

    plain = nn.Linear(96, 48, device=GPU, dtype=dtype).requires_grad_(False)
    held = Nf4Linear(plain)
    held.load_state_dict(plain.state_dict())
    plain.weight.copy_(held.rounded())
    inputs = torch.randn(5, 96, device=GPU, dtype=dtype)
    found = []
    for layer in (held, plain):
        x = inputs.clone().requires_grad_()
        y = layer(x)
        y.float().square().sum().backward()
        found.append((y, x.grad))
    torch.testing.assert_close(found[0], found[1])
    on_cpu = Nf4Linear(nn.Linear(96, 48, dtype=dtype)).to(GPU).to("cpu")
    on_cpu.load_state_dict({**held.state_dict(), "weight": held.rounded().cpu()})
    torch.testing.assert_close(on_cpu.rounded(), held.rounded().cpu(), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_on_the_host_gives_the_numbers_of_state_on_the_gpu(dtype: torch.dtype) -> None:
    weights = torch.randn(300, 70, device=GPU, dtype=dtype)
    pair = []
    for offload in (True, False):
        own = nn.Parameter(weights.clone())
        group = {"params": [own], "names": ["w"], "lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1}
        pair.append((own, RoundedAdamW([group], eps=1e-8, seed=0, offload=offload)))
    for step in range(5):
        gradient = torch.randn(300, 70, device=GPU, generator=torch.Generator(GPU).manual_seed(step)).to(dtype)
        for own, optimizer in pair:
            own.grad = gradient.clone()
            optimizer.step()
    (mine, offloaded), (other, plain) = pair
    assert torch.equal(mine, other)
    for key in ("exp_avg", "exp_avg_sq"):
        held = offloaded.state[mine][key]
        assert held.device.type == "cpu"
        assert torch.equal(held, plain.state[other][key].cpu())
