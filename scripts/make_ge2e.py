"""Convert the speaker encoder of Resemblyzer to the file that ships with the judge.

    pip download --no-deps Resemblyzer==0.1.4
    python scripts/make_ge2e.py Resemblyzer-0.1.4-py3-none-any.whl

Writes `ttstrain/judge/_weights`: the encoder's weights alone (upstream's file holds optimizer states too), in half
precision, upstream's licence, and the provenance. The file of weights is read without running code from it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save

DESTINATION = Path(__file__).resolve().parents[1] / "ttstrain" / "judge" / "_weights"
IN_WHEEL = "resemblyzer/pretrained.pt"
LICENSE_IN_WHEEL = "Resemblyzer-0.1.4.dist-info/LICENSE"
LEFT_OUT = {"similarity_weight", "similarity_bias"}  # of the training loss


def convert(wheel: Path, destination: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read(IN_WHEEL)
        licence = archive.read(LICENSE_IN_WHEEL)
    state = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)["model_state"]
    tensors = {name: tensor.half().contiguous() for name, tensor in state.items() if name not in LEFT_OUT}
    weights = save(tensors)
    destination.mkdir(parents=True, exist_ok=True)
    (destination / "ge2e.safetensors").write_bytes(weights)
    (destination / "LICENSE.ge2e").write_bytes(licence)
    provenance = {
        "file": "ge2e.safetensors",
        "sha256": hashlib.sha256(weights).hexdigest(),
        "what": "speaker encoder of Resemblyzer (GE2E): the encoder's weights alone, converted from float32 to float16",
        "source": "https://github.com/resemble-ai/Resemblyzer",
        "package": "Resemblyzer 0.1.4 on PyPI",
        "converted from": IN_WHEEL,
        "sha256 of that file": hashlib.sha256(packed).hexdigest(),
        "licence": "Apache-2.0, Copyright 2019 Resemble.AI",
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
    }
    (destination / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
    print(f"{len(weights):,} bytes, {provenance['parameters']:,} weights")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=DESTINATION)
    asked = parser.parse_args()
    convert(asked.wheel, asked.out)
