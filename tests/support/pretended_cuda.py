"""The GPU that is not there, for tests: see `ttstrain/rehearsal`.

A backward pass works only in a process that made none before without it. Such functions live in `rehearsed.py` and
`real_size.py`, which `Processes` runs.
"""

from __future__ import annotations

import pytest
import torch

from ttstrain.rehearsal.device import GPU, PretendedCuda
from ttstrain.rehearsal.pretence import pretended_cuda

__all__ = ["GPU", "PretendedCuda", "needs_cuda_build", "pretended_cuda"]

needs_cuda_build = pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")
