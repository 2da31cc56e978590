"""Which names in a pickle are harmless, and which would run code if another program unpickled the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ttstrain.tensors.pickle_machine import KNOWN, STORAGE_DTYPES, TORCH_DTYPES

NameVerdict = Literal["harmless", "unknown", "unsafe"]
FileVerdict = Literal["safe", "unknown", "unsafe"]


def _words(text: str) -> frozenset[str]:
    """Split a table that is written as text."""
    return frozenset(text.split())


# Names that ordinary checkpoints hold and that only build data.
_HARMLESS = frozenset(
    [
        *KNOWN,
        "argparse.Namespace",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.dict",
        "builtins.list",
        "builtins.object",
        "builtins.range",
        "builtins.slice",
        "builtins.tuple",
        "collections.deque",
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "decimal.Decimal",
        "fractions.Fraction",
        "functools.partial",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.ndarray",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "types.SimpleNamespace",
        "utils.HParams",
        "uuid.UUID",
        *(f"torch.{name}" for name in STORAGE_DTYPES),
        *(f"torch.storage.{name}" for name in ("TypedStorage", "UntypedStorage", "_TypedStorage", "_UntypedStorage")),
        *TORCH_DTYPES,
    ]
)
# Modules nothing in a checkpoint needs and that reach the system or run code.
_UNSAFE_MODULES = _words(
    "_io _pickle _posixsubprocess asyncio bdb cProfile cffi cloudpickle code codeop commands concurrent ctypes"
    " dill distutils doctest ftplib functools http imp importlib inspect io joblib linecache marshal mmap"
    " multiprocessing nt operator os pdb pickle pip pkgutil platform popen2 posix profile pty pydoc requests runpy"
    " setuptools shelve shutil signal site smtplib socket sqlite3 ssl subprocess sys sysconfig telnetlib tempfile"
    " threading timeit trace urllib venv webbrowser xmlrpc zipfile zipimport"
)
# Parts of a dotted name that make it unsafe in any position: a pickle may reach one module through another.
_UNSAFE_PARTS = _words(
    "__builtins__ __class__ __dict__ __getattribute__ __globals__ __import__ __subclasses__ _load_from_bytes apply"
    " compile delattr eval exec execfile getattr globals hub input load loads locals open os popen run_module setattr"
    " subprocess sys system unsafe_load vars"
)


def classify(name: str) -> NameVerdict:
    """Classify what importing and calling a name could do in an unpickler."""
    if name in _HARMLESS:
        return "harmless"
    parts = name.split(".")
    if parts[0] in _UNSAFE_MODULES or _UNSAFE_PARTS.intersection(parts):
        return "unsafe"
    return "unknown"


def judge(names: Sequence[str]) -> FileVerdict:
    """Judge a whole pickle: safe only when each of its names is known to be harmless.

    Any unknown name may run code in an unpickler.
    """
    verdicts = {classify(name) for name in names}
    if "unsafe" in verdicts:
        return "unsafe"
    return "unknown" if "unknown" in verdicts else "safe"


def unsafe_globals(names: Sequence[str]) -> list[str]:
    """Pick the names that would run code or reach the system."""
    return [name for name in names if classify(name) == "unsafe"]
