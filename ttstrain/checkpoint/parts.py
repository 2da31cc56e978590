"""Merging checkpoints of one family, parts of a model or one over another, into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from ttstrain.contract.checkpoint import Absent, OpenedCheckpoint, differences
from ttstrain.errors import CheckpointError
from ttstrain.tensors.tensorfile import StoredTensor


def merge(parts: Sequence[OpenedCheckpoint]) -> OpenedCheckpoint:
    """Merge checkpoints of one family into one; a later one's tensors replace an earlier one's.

    Raises CheckpointError when they are of different models.
    """
    first, *others = parts
    if not others:
        return first
    config: Mapping[str, Any] = first.config
    weights: dict[str, StoredTensor] = dict(first.weights)
    notes = [f"{first.path.name}: {note}" for note in first.notes]
    for number, part in enumerate(others, start=1):
        _check_same_model(parts[:number], config, part)
        replaced = sum(key in weights for key in part.weights)
        kept = len(weights) - replaced
        if replaced:
            notes.append(f"{part.path.name} replaces {replaced} tensors of the files before it; {kept} are kept")
        notes += [f"{part.path.name}: {note}" for note in part.notes]
        weights |= part.weights
        config = _merged(config, part.config)
    moments = [part.optimizer_state for part in parts]
    return replace(
        first,
        kind="base",
        model=" + ".join(dict.fromkeys(part.model for part in parts)),
        version=", ".join(dict.fromkeys(part.version for part in parts)),
        config=config,
        unknown=tuple(dict.fromkeys(key for part in parts for key in part.unknown if key not in config)),
        weights=weights,
        ema=None,
        ema_step=None,
        adapters={},
        optimizer_state=None
        if None in moments
        else {key: own for some in moments if some for key, own in some.items()},
        groups=tuple(group for part in parts for group in part.groups),
        step=None,
        schedule=None,
        sources={key: source for part in parts for key, source in part.sources.items()},
        buffers=frozenset().union(*(part.buffers for part in parts)),
        globals=tuple(dict.fromkeys(name for part in parts for name in part.globals)),
        front_end={key: value for part in parts for key, value in part.front_end.items()},
        fits=_common(parts),
        absent=tuple(entry for part in parts for entry in part.absent if not _has(weights, entry)),
        beside=tuple(part.path for part in others),
        notes=tuple(notes),
        guesses=tuple(f"{part.path.name}: {guess}" for part in parts for guess in part.guesses),
    )


def _check_same_model(before: Sequence[OpenedCheckpoint], config: Mapping[str, Any], part: OpenedCheckpoint) -> None:
    names = " + ".join(path.path.name for path in before)
    if part.family != before[0].family:
        raise CheckpointError(f"`{part.path}` is of family `{part.family}`, `{names}` of `{before[0].family}`")
    for other in before:
        if part.fits and other.fits and not part.fits & other.fits:
            raise CheckpointError(
                f"`{part.path}` is of version {_versions(part)}, but `{other.path}` is of {_versions(other)}",
                hint="the files of one model must be of one version; `ttstrain inspect-ckpt` says what a file is",
            )
    if differing := [f"{key}: {new!r}, and {old!r} before it" for key, old, new in differences(config, part.config)]:
        raise CheckpointError(
            f"`{part.path}` is of another model than `{names}`:",
            details=differing,
            hint="the files of one `base:` must be parts of one model",
        )


def _versions(part: OpenedCheckpoint) -> str:
    return " or ".join(sorted(part.fits))


def _common(parts: Sequence[OpenedCheckpoint]) -> frozenset[str]:
    """Return the versions that all parts may be of."""
    told = [part.fits for part in parts if part.fits]
    return frozenset.intersection(*told) if told else frozenset()


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Join two sections that do not contradict each other."""
    joined = dict(one)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(joined.get(key), Mapping)
        joined[key] = _merged(joined[key], value) if both else value
    return joined


def _has(weights: Mapping[str, Any], absent: Absent) -> bool:
    return any(fnmatchcase(key, absent.pattern) for key in weights)
