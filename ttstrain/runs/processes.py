"""The processes of one run, and what each of them does when it fails.

A run on several ranks is several processes that meet in `Ranks.barrier`, `gather` and `broadcast`. When one fails, the
others must not wait for it there, all must leave with its exit code, and exactly one must print the error. How depends
on when and where it fails:

before training        A process may fail alone, anywhere. It joins the others' next meeting and announces its exit code
                       there (`Ranks.announce_failure`). The meeting raises a PeerError in the others, which end
                       without printing it. Where several fail before the same meeting, the lowest rank prints.
during training,       `DECIDED_ALIKE`: an error that follows from numbers that all processes share is raised in every
all together           one of them. They wait until the main process has written its files, and it prints the error.
during training,       Nothing can be announced: the others may be in the middle of a sum of gradients. The process
alone                  prints its error and ends. The others lose their connection to it, which raises a PeerError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from ttstrain.checkpoint.lock import RunLock
from ttstrain.contract.model import ResolvedRecipe
from ttstrain.errors import (
    DivergedError,
    FolderLostError,
    Interrupted,
    OutOfMemoryError,
    PeerError,
    Preempted,
    RecipeError,
    RepeatedError,
    UserError,
    first_line,
    is_out_of_memory,
)
from ttstrain.train import distributed
from ttstrain.train.attempts import Attempts, Begun, of_this_launch
from ttstrain.train.device import choose_device
from ttstrain.train.distributed import Ranks
from ttstrain.train.launched import attempt
from ttstrain.train.signals import preparing

DECIDED_ALIKE = (RecipeError, DivergedError, FolderLostError, Interrupted, Preempted)


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the process group that the environment names; leave it, and the run's folder, at the end.

    An error that ends the block is raised as the protocol above says: as itself in the process that prints it; a
    UserError as a PeerError in the others. Out of memory becomes an OutOfMemoryError.
    """
    here = Processes(distributed.join(), of_this_launch())
    try:
        here.wait_for_signals()
        yield here
    except BaseException as error:
        failure = here.failure(error)
        if failure is error:
            raise
        raise failure from error
    finally:
        here.leave()


class Processes:
    """This process among those of its run, from the start of the program to its end."""

    def __init__(self, ranks: Ranks, attempts: Attempts | None = None) -> None:
        self.ranks = ranks
        self.lost: str | None = None  # what made a launcher start the processes again; in the main process
        self._attempts = attempts  # of this launch, under an elastic agent
        self.lock: RunLock | None = None  # on the run's folder, once the main process has it
        self.notes: list[str] = []  # on that folder, for the user
        self._training = False
        self._before_training = ExitStack()

    def wait_for_signals(self) -> None:
        """Let a signal of a batch system raise Preempted until training begins."""
        self._before_training.enter_context(preparing())

    def earlier_attempt(self) -> Begun | None:
        """Return the run's folder as the first attempt of this launch found it.

        None where the processes were not started again, or were lost before the run had a folder. Raises RepeatedError
        where the last attempt ended so that this one would only repeat it.
        """
        if attempt() == 0:
            return None
        found = None
        if self.ranks.main and self._attempts is not None and (before := self._attempts.before()) is not None:
            if (why := before.repeats()) is not None:
                raise _repeated(why, before.ended())
            self.lost = before.lost()
            found = before.first_begun()
        return self.ranks.broadcast(found if found is not None and found.folder.is_dir() else None)

    def choose_device(self, recipe: ResolvedRecipe) -> torch.device:
        """Choose this process's device and connect it to the others'."""
        device = choose_device(recipe.train.device, tf32=recipe.train.tf32, ranks=self.ranks)
        self.ranks.barrier()  # a missing GPU shows before the data are prepared
        self.ranks.connect(device)
        return device

    def gpu_memory(self, device: torch.device) -> int | None:
        """Return the bytes of the smallest GPU that a process of the run has, the same in all; None on CPUs."""
        own = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
        return min((size for size in self.ranks.gather(own) if size is not None), default=None)

    def hold(self, take: Callable[[], RunLock]) -> Path:
        """Let the main process take the lock of the run's folder, until the end; return the folder in every process."""
        if self.ranks.main:
            self.lock = take()
            if self._attempts is not None:
                self._attempts.begin(self.lock.folder)
            self.notes += [] if self.lock.warning is None else [self.lock.warning]
        place = self.ranks.broadcast(None if self.lock is None else self.lock.folder)
        assert place is not None
        return place

    def begin_training(self) -> None:
        """Wait until every process is ready. From here on the training loop handles signals."""
        self.ranks.barrier()
        self._before_training.close()
        self._training = True

    def failure(self, error: BaseException) -> BaseException:
        """Announce an error that ends this process, as the protocol above says; return the error to raise here."""
        failure = self._in_words(error)
        if self._attempts is not None and not isinstance(failure, PeerError):
            with suppress(RuntimeError):  # the agent, and its store, may be gone
                self._attempts.end(_exit_code(failure))
        speaks = self._speaks(failure)
        if speaks or not isinstance(failure, UserError):
            return failure
        return PeerError(failure.message, exit_code=failure.exit_code, told=True)

    def leave(self) -> None:
        """Put signal handlers back, and let go of the run's folder and of the other processes."""
        self._before_training.close()
        if self.lock is not None:
            self.lock.release()
        distributed.leave()

    def _in_words(self, error: BaseException) -> BaseException:
        """Turn torch's out-of-memory error into an OutOfMemoryError; return any other error unchanged."""
        if not is_out_of_memory(error):
            return error
        when = "outside a training step" if self._training else "before the training began"
        return OutOfMemoryError(
            f"memory ran out {when}: {first_line(error)}",
            hint="train less of the model (`lora`, `frozen`), end other programs that hold memory of the device, or "
            "take one with more: `ttstrain plan` says what the run needs",
        )

    def _speaks(self, failure: BaseException) -> bool:
        """Announce a failure to the others, and return whether this process prints it."""
        if isinstance(failure, PeerError):
            return True  # its `told` says whether it is printed
        try:
            if not self._training:
                return self.ranks.announce_failure(_exit_code(failure))
            if isinstance(failure, DECIDED_ALIKE):
                self.ranks.barrier()  # the main process may still be writing, and a launcher ends all with the first
                return self.ranks.main
        except PeerError:  # the others are gone; a signal reaches all, and the first to leave has printed it
            return not isinstance(failure, Preempted)
        return True


def _repeated(why: str, exit_code: int | None) -> RepeatedError:
    return RepeatedError(
        f"the processes of this run were started again after the last attempt ended: {why}",
        hint="the lines above say how it ended; `ttstrain resume` goes on once that is mended",
        exit_code=1 if exit_code is None else exit_code,
    )


def _exit_code(error: BaseException) -> int:
    if isinstance(error, UserError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1
