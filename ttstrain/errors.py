"""Errors a person can act on.

Every failure that the user's input can cause is a `UserError`: the command line prints `error:` and `hint:` and leaves
with its exit code. Anything else is a defect of ours and shows a traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """What went wrong, in the user's words, and what to do about it."""

    exit_code: int = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RecipeError(UserError):
    """The recipe or the command line cannot be used."""


class DataError(UserError):
    """The data cannot be trained on."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint is unreadable, unsafe or does not fit."""

    exit_code = 4


class DivergedError(UserError):
    """Training diverged and the rollback budget is spent; a good checkpoint is on disk."""

    exit_code = 5


class OutOfMemoryError(UserError):
    """Memory ran out and no smaller micro-batch is left to try."""

    exit_code = 6


class Preempted(UserError):
    """The scheduler asked for the machine; a checkpoint is saved and the job can be queued again."""

    exit_code = 75


class Interrupted(UserError):
    """The user pressed Ctrl-C; a checkpoint is saved."""

    exit_code = 130


class PeerError(UserError):
    """Another process of this run has failed, or was killed.

    `told` says that the user learns the reason elsewhere, so that this process need not speak.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int = 1, told: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.told = told
