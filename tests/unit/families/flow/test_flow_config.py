"""What a flow model's settings accept, and the size they promise."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ttstrain.families.flow.config import FlowConfig
from ttstrain.families.flow.model import build_net
from ttstrain.families.flow.planner import FlowPlanner, num_tokens

SMALL: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 3, "dim_head": 8, "text_dim": 16, "conv_layers": 1}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"qk_norm": "rms_norm", "long_skip_connection": True, "conv_layers": 0, "ff_mult": 3, "n_mels": 80},
        {"backbone": "unett", "text_dim": 100, "conv_layers": 0},
        {"backbone": "unett", "qk_norm": "rms_norm"},
        {"backbone": "unett", "skip_connect_type": "add"},
    ],
)
def test_promised_number_of_parameters_is_the_nets(options: dict[str, Any]) -> None:
    config = FlowConfig(**{**SMALL, **options})
    with torch.device("meta"):
        net = build_net(config, num_tokens=num_tokens(config))
    shapes = {f"transformer.{name}": tuple(parameter.shape) for name, parameter in net.named_parameters()}
    assert FlowPlanner(config).parameter_shapes() == shapes
    assert FlowPlanner(config).num_parameters() == sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"skip_connect_type": "add"}, "skip_connect_type"),
        ({"backbone": "unett", "long_skip_connection": True}, "long_skip_connection"),
        ({"backbone": "unett", "text_embedding_average_upsampling": True}, "text_embedding_average_upsampling"),
        ({"text_embedding_average_upsampling": True, "text_mask_padding": False}, "text_mask_padding"),
        ({"backbone": "unett", "depth": 3}, "depth"),
        ({"dim": 40}, "dim"),
        ({"dim_head": 7}, "dim_head"),
        ({"pe_attn_head": 4}, "pe_attn_head"),
        ({"cfm": {"frac_lengths": (0.9, 0.8)}}, "frac_lengths"),
        ({"hop": 256}, "hop"),
    ],
)
def test_settings_that_no_net_could_use_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        FlowConfig(**{**SMALL, **options})


def test_settings_are_known_without_torch() -> None:
    code = (
        "import sys\n"
        "from ttstrain.registry import find_task\n"
        "spec = find_task('flow')\n"
        "assert spec.planner(spec.config()).num_parameters() == 337_096_804\n"
        "assert 'torch' not in sys.modules and 'rjieba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
