"""Encoders of the transformers library, loaded completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ttstrain.errors import CheckpointError, RecipeError, first_line

# What the library makes of a configuration with values of other types and sizes, and of damaged weights.
_UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    SafetensorError,
)
_SHOWN = 160  # characters of a reason


def load_encoder(name: str, folder: Path, *, spare: tuple[str, ...] = ()) -> Any:
    """Load `transformers.<name>` from a folder, in fp32 and evaluation mode.

    `spare` names parts that are not used and may be absent. Pickled weights are read without executing them (torch's
    `weights_only`). Raises CheckpointError when a used tensor is missing or of another shape.
    """
    transformers = import_transformers()
    from huggingface_hub.errors import StrictDataclassError

    try:
        with _quiet(transformers):
            net, found = getattr(transformers, name).from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except (*_UNREADABLE, StrictDataclassError) as error:
        why = f"{type(error).__name__}: {first_line(error)[:_SHOWN]}"
        raise CheckpointError(f"`{folder}` cannot be read as a {name} ({why})", hint="download it again") from error
    missing = sorted(key for key in found["missing_keys"] if not key.startswith(spare))
    if missing or found["mismatched_keys"]:
        odd = missing or [key for key, *_ in found["mismatched_keys"]]
        raise CheckpointError(
            f"`{folder}` is no complete {name}: {len(odd)} tensors such as `{odd[0]}` are missing or of another shape"
        )
    return net.eval().requires_grad_(False)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep bars, and reports of what is checked here, off the terminal."""
    logging = transformers.utils.logging
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def import_transformers() -> Any:
    """Import the library. Raises RecipeError that says how to install it."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise RecipeError(
            "GPT-SoVITS' features need the package `transformers`", hint="pip install 'ttstrain[gpt_sovits]'"
        ) from error
    return transformers
