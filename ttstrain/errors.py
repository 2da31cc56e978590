"""Errors a person can act on.

Every failure that the user's input can cause is a `UserError`: the command line prints `error:` and `hint:` and leaves
with its exit code. Anything else is a bug in ttstrain and shows a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

_MEMORY = (  # messages for full memory of torch, its CUDA libraries and NCCL, besides torch.OutOfMemoryError
    "out of memory",  # also of AcceleratorError (`CUDA error: out of memory`) and NCCL (`Cuda failure 'out of memory'`)
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",  # no memory for cuBLAS's handle
    "cudnn_status_alloc_failed",
    "cufft_alloc_failed",
    "cusolver_status_alloc_failed",
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
)


class UserError(Exception):
    """What went wrong, in the user's terms, and what to do about it.

    The message is one line on the screen, and so is each of the `details`. A line break inside one of them comes from
    a name or value of the user's and is shown escaped.
    """

    exit_code: int = 2

    def __init__(self, message: str, *, details: Sequence[str] = (), hint: str | None = None) -> None:
        self.lines = (message, *details)
        self.message = "\n".join(self.lines)
        self.hint = hint
        super().__init__(self.message)


class RecipeError(UserError):
    """The recipe or the command line cannot be used."""


class DataError(UserError):
    """The data cannot be trained on."""

    exit_code = 3


class NoSpeechError(DataError):
    """A net that can read the text generated nothing that is sound."""


class CheckpointError(UserError):
    """A checkpoint is unreadable, unsafe or does not fit."""

    exit_code = 4


class FolderLostError(CheckpointError):
    """The run's folder was removed or renamed under the run; its state is saved in another beside it."""


class DivergedError(UserError):
    """Training diverged and the rollback budget is spent; a good checkpoint is on disk."""

    exit_code = 5


class OutOfMemoryError(UserError):
    """Memory ran out and no smaller micro-batch is left to try.

    `saved`: the code that raised it has already written a good checkpoint.
    """

    exit_code = 6

    def __init__(self, message: str, *, hint: str | None = None, saved: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.saved = saved


class Preempted(UserError):
    """The scheduler asked for the machine; a checkpoint is saved and the job can be queued again."""

    exit_code = 75


class Interrupted(UserError):
    """The user pressed Ctrl-C; a checkpoint is saved."""

    exit_code = 130


class UnprovenError(UserError):
    """A proof has failed: what would be trained is not what would speak.

    The fault lies in the program or in a family, not in recipe, data or files, which have exit codes of their own.
    """

    exit_code = 1


class PeerError(UserError):
    """Another process of this run has failed, or was killed.

    `told`: the other process has reported the reason, so this one prints nothing.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int = 1, told: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.told = told


class RepeatedError(UserError):
    """The processes of this run were started again, which would only repeat how they ended; with that exit code."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str, exit_code: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of any library means that the device's or the machine's memory is full."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)  # torch's, which is not imported
    return named or any(text in str(error).lower() for text in _MEMORY)


def is_of_the_device(error: BaseException) -> bool:
    """Tell whether an error is CUDA's own; most leave the device unusable, so that every later call fails too."""
    named = any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__)
    return isinstance(error, RuntimeError) and (named or str(error).startswith("CUDA error"))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message (libraries append traces and advice), or its class if it is empty."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__
