"""Files of the Hugging Face Hub: downloaded once, then read from the cache, without a connection too.

The cache, its place (`$HF_HOME`), continuing a broken download, locks between processes and `$HF_HUB_OFFLINE` are
huggingface_hub's own.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ttstrain.errors import CheckpointError

HUB = "hf://"
_REPO = r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+?))?"
_WHOLE = r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?/?"  # what follows a slash is a path, not a branch
_TEXTS = ("*.txt", "*.json", "*.yaml")  # vocab and settings, which lie beside a file of weights
_MODEL = "model*.safetensors"  # one file or its shards
_ELSEWHERE = "or download it elsewhere and give its path in place of `hf://...`"


_fetches = ContextVar("_fetches", default=True)


class NotFetchedError(CheckpointError):
    """A file of the Hub is not in the cache, and downloads are disabled."""


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """Use cached files only: no connection is made, and a file that is not cached raises NotFetchedError."""
    token = _fetches.set(False)
    try:
        yield
    finally:
        _fetches.reset(token)


def download(spec: str, *, preferred: Sequence[str], others: Sequence[str]) -> Path:
    """Fetch a file or a folder `hf://owner/repo[@revision]/path` and the texts beside it; return where it is.

    Without a path the repository is one model, as transformers writes it. Of a folder come the files that end in
    `preferred`; only where there are none, those that end in `others`.
    Raises CheckpointError that names the cause: name, permission, connection or disk.
    """
    if (whole := re.fullmatch(_WHOLE, spec)) is not None:
        return _model_folder(spec, whole["repo"], whole["revision"])
    match = re.fullmatch(rf"{_REPO}/(?P<inside>[^@]+)", spec)
    if match is None:
        raise CheckpointError(
            f"`{spec}` is not hf://owner/repo/path",
            hint="such as hf://owner/repo/folder or hf://owner/repo/model.safetensors",
        )
    repo, revision, inside = match["repo"], match["revision"], match["inside"].strip("/")
    is_file = inside.endswith((*preferred, *others))
    folder = inside.rpartition("/")[0] if is_file else inside
    beside = [f"{folder}/{pattern}".lstrip("/") for pattern in _TEXTS]
    if is_file:
        found = _snapshot(spec, repo, revision, [inside, *beside], wanted=inside) / inside
        if not found.exists():
            raise _absent(spec, repo, revision, inside)
        return found
    found = _snapshot(spec, repo, revision, [f"{inside}/*{suffix}" for suffix in preferred] + beside) / inside
    if not _holds(found, preferred):
        found = _snapshot(spec, repo, revision, [f"{inside}/*{suffix}" for suffix in others] + beside) / inside
    if not _holds(found, others) and not _holds(found, preferred):
        raise _absent(spec, repo, revision, f"{inside}/*{preferred[0]}")
    return found


def _model_folder(spec: str, repo: str, revision: str | None) -> Path:
    """Fetch a repository that is one model, as transformers writes it: config.json and model*.safetensors."""
    folder = _snapshot(spec, repo, revision, list(_TEXTS), wanted="config.json")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"`{spec}` is a repository without a `config.json`: name one of its files",
            hint=f"such as {spec.rstrip('/')}/folder; look at https://huggingface.co/{repo}/tree/{revision or 'main'}",
        )
    folder = _snapshot(spec, repo, revision, [*_TEXTS, _MODEL])
    if not any(folder.glob(_MODEL)):
        raise _absent(spec, repo, revision, _MODEL)
    return folder


def fetch_repository(spec: str, patterns: Sequence[str]) -> Path:
    """Download the files of `hf://owner/repo[@revision]` that match a pattern; return their folder."""
    match = re.fullmatch(rf"{_REPO}/?", spec)
    if match is None:
        raise CheckpointError(
            f"`{spec}` is not hf://owner/repo",
            hint="the part of its address after `huggingface.co/`",
        )
    return _snapshot(spec, match["repo"], match["revision"], list(patterns))


def find_cached(spec: str) -> Path | None:
    """Return the folder of a repository `hf://owner/repo` that was downloaded before; makes no connection."""
    match = re.fullmatch(rf"{_REPO}/?", spec)
    try:
        import huggingface_hub
    except ImportError:
        return None
    if match is None:
        return None
    found = huggingface_hub.try_to_load_from_cache(match["repo"], "config.json", revision=match["revision"])
    return Path(found).parent if isinstance(found, str) else None


def _holds(folder: Path, suffixes: Sequence[str]) -> bool:
    return folder.is_dir() and any(path.name.endswith(tuple(suffixes)) for path in folder.iterdir())


def _absent(spec: str, repo: str, revision: str | None, inside: str) -> CheckpointError:
    from huggingface_hub import constants

    if not _fetches.get():
        return NotFetchedError(f"`{spec}` was not downloaded yet")
    if constants.HF_HUB_OFFLINE:
        return _offline(spec)
    tree = f"https://huggingface.co/{repo}/tree/{revision or 'main'}"
    return CheckpointError(f"`{repo}` holds no `{inside}`, or it could not be reached", hint=f"look at {tree}")


def _offline(spec: str) -> CheckpointError:
    from huggingface_hub import constants

    cache = constants.HF_HUB_CACHE
    return CheckpointError(
        f"`{spec}` could not be downloaded: it is not in the cache `{cache}`, and $HF_HUB_OFFLINE is set",
        hint=f"unset HF_HUB_OFFLINE, set HF_HOME to a cache that has it, {_ELSEWHERE}",
    )


def _snapshot(spec: str, repo: str, revision: str | None, patterns: list[str], *, wanted: str | None = None) -> Path:
    """Download what matches into the cache; without a connection, `wanted` alone is enough."""
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise CheckpointError(f"`{spec}` needs huggingface_hub", hint="pip install 'ttstrain[hub]'") from error
    transport: Any = errors.HfHubHTTPError.__mro__[1]  # of whichever HTTP library this release uses
    try:
        with _bars_on_terminals_only():
            only_cached = {} if _fetches.get() else {"local_files_only": True}
            return Path(
                huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns, **only_cached)
            )
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"`{spec}` is gated: its owner asks you to accept terms first",
            hint=f"accept them at https://huggingface.co/{repo}, then log in with `hf auth login` or set HF_TOKEN",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"`{repo}` has no revision `{revision}`", hint="a branch, a tag or a commit: hf://owner/repo@revision/path"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the repository `{repo}` does not exist on the Hub, or you have no access to it",
            hint="check the name; if it is private, log in with `hf auth login` or set HF_TOKEN",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if wanted is not None:
            cached = huggingface_hub.try_to_load_from_cache(repo, wanted, revision=revision)
            if isinstance(cached, str):
                return Path(cached[: -len(wanted)])
        if not _fetches.get():
            raise NotFetchedError(f"`{spec}` was not downloaded yet") from error
        if constants.HF_HUB_OFFLINE:
            raise _offline(spec) from error
        raise CheckpointError(
            f"`{spec}` could not be downloaded: the Hub cannot be reached ({_reason(error.__cause__ or error)})",
            hint=f"the partial download is kept, and the next attempt continues it; {_ELSEWHERE}",
        ) from error
    except (LookupError, TypeError, AttributeError) as error:  # huggingface_hub reads the answer without checking it
        raise CheckpointError(
            f"`{spec}` could not be downloaded: what answers is not the Hub ({type(error).__name__}: {_reason(error)})",
            hint=f"look at $HF_ENDPOINT, $HTTPS_PROXY and whether this network asks you to log in; {_ELSEWHERE}",
        ) from error
    except (transport, OSError, ValueError) as error:
        raise CheckpointError(
            f"`{spec}` could not be downloaded: {_reason(error)}",
            hint=f"the partial download is kept, and the next attempt continues it; {_ELSEWHERE}",
        ) from error


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """Keep progress bars out of files and pipes, unless the user's environment decides."""
    from huggingface_hub import utils

    decided = "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ
    if decided or sys.stderr.isatty() or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
