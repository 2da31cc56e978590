"""Small vocoders with the published files and random weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import torch
import yaml

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_vocoder_goldens.py"


def recipes() -> ModuleType:
    """Import the script that made the goldens, for its configurations and its weights."""
    spec = importlib.util.spec_from_file_location("make_vocoder_goldens", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_vocos(folder: Path) -> Path:
    """Write a Vocos as its publisher does; the weights are torch's own random ones."""
    from ttstrain.modules.vocoder.load import _vocos

    config = recipes().VOCOS
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(_vocos(config, 100).state_dict(), folder / "pytorch_model.bin")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def write_bigvgan(folder: Path) -> Path:
    """Write a BigVGAN as its publisher does, but without weight norm."""
    from ttstrain.modules.vocoder.load import _bigvgan

    config = {**recipes().BIGVGAN, "upsample_initial_channel": 64}
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save({"generator": _bigvgan(config, 100).state_dict()}, folder / "bigvgan_generator.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
