"""What `ttstrain prove` compares of the tasks of GPT-SoVITS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from ttstrain.contract.proof import Alignment, Change, Omitted, Twin
from ttstrain.contract.task import Task
from ttstrain.families.gpt_sovits.batch import SovitsBatch
from ttstrain.families.gpt_sovits.gpt.same_net import GptProof
from ttstrain.families.gpt_sovits.gpt.task import GptTask
from ttstrain.families.gpt_sovits.joint import JointTask
from ttstrain.families.gpt_sovits.vae.same_net import VaeProof
from ttstrain.families.gpt_sovits.vae.task import VaeTask


class SovitsProof:
    """Puts together what is known of each net that the task trains."""

    def __init__(self, task: Task) -> None:
        self._gpt: GptProof | None = None
        self._vae: VaeProof | None = None
        if isinstance(task, GptTask):
            self._gpt = GptProof(task.gpt, task.config.gpt, mean="targets")
        elif isinstance(task, VaeTask):
            self._vae = VaeProof(task.parts)
        elif isinstance(task, JointTask):
            self._gpt = GptProof(task.gpt, task.config.gpt, mean="clips")
            self._vae = VaeProof(task.parts)

    def terms(self, batch: SovitsBatch) -> Mapping[str, Mapping[str, Tensor]]:
        """Compute the terms of the GPT's loss, of the discriminator's and of the generator's."""
        found: dict[str, Mapping[str, Tensor]] = {}
        if self._gpt is not None:
            found["gpt"] = self._gpt.terms(batch)
        if self._vae is not None:
            found |= self._vae.terms(batch)
        return found

    def idle(self, batch: SovitsBatch) -> Mapping[str, str]:
        """Name what this batch cannot train."""
        return {name: why for part in self._parts for name, why in part.idle(batch).items()}

    def changes(self, batch: SovitsBatch) -> Iterator[Change | Omitted]:
        """Yield the changes of each net."""
        for part in self._parts:
            yield from part.changes(batch)

    def twins(self, batch: SovitsBatch) -> Iterator[Twin | Omitted]:
        """Yield the comparisons of each net."""
        for part in self._parts:
            yield from part.twins(batch)

    def alignments(self, batch: SovitsBatch) -> Iterator[Alignment | Omitted]:
        """Yield the scans of each net."""
        for part in self._parts:
            yield from part.alignments(batch)

    @property
    def _parts(self) -> list[GptProof | VaeProof]:
        return [part for part in (self._gpt, self._vae) if part is not None]
