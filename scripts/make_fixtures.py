"""Pack the golden fixtures that every checkout carries, so that parity can be tested wherever the project is cloned.

    python scripts/make_fixtures.py SHARED/fixtures

One archive per fixture folder, lossless: the tests see the same files under the same names. Packing the same files
again gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import lzma
import tarfile
from pathlib import Path

DESTINATION = Path(__file__).resolve().parents[1] / "tests" / "fixtures_compact"
PATTERNS = ("f5_*", "schedulers", "key_specs", "orpheus_tokens", "orpheus_lora", "process_ckpt", "s1_scaled_adam")
BUDGET_BYTES = 6_000_000

# Most of the bytes are float32: telling LZMA about the four-byte alignment saves 8 % over the default.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 2, "lp": 2, "pb": 2}]


def pack(folder: Path) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                data = path.read_bytes()
                entry = tarfile.TarInfo(path.relative_to(folder.parent).as_posix())  # no time, owner or mode of ours
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return lzma.compress(raw.getvalue(), filters=FILTERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of golden fixtures")
    source: Path = parser.parse_args().source

    total = 0
    DESTINATION.mkdir(exist_ok=True)
    for pattern in PATTERNS:
        folders = sorted(folder for folder in source.glob(pattern) if folder.is_dir())
        if not folders:
            raise SystemExit(f"error: no folder `{pattern}` in `{source}`")
        for folder in folders:
            packed = pack(folder)
            (DESTINATION / f"{folder.name}.tar.xz").write_bytes(packed)
            total += len(packed)
            print(f"{len(packed):>9,} {folder.name}")
    print(f"{total:>9,} bytes of {BUDGET_BYTES:,}")
    if total > BUDGET_BYTES:
        raise SystemExit("error: over the budget")


if __name__ == "__main__":
    main()
