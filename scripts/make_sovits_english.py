"""Pack what the English front end of GPT-SoVITS reads: CMUdict, g2p_en's homographs and g2p_en's net.

    python scripts/make_sovits_english.py CMUDICT_FILE G2P_EN_FOLDER

CMUDICT_FILE is `cmudict.dict` of the CMU Pronouncing Dictionary, G2P_EN_FOLDER the unpacked package of g2p_en 2.1.0.
Neither is needed at run time: the packages that carry them ask for libraries under the GPL.
"""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / "ttstrain" / "families" / "gpt_sovits" / "text" / "data"


def main(cmudict: Path, g2p_en: Path) -> None:
    words = first_pronunciations(cmudict.read_text(encoding="utf-8"))
    packed = lzma.compress("".join(f"{word} {phones}\n" for word, phones in words.items()).encode(), preset=9)
    (DATA / "cmudict.txt.xz").write_bytes(packed)
    (DATA / "homographs.txt").write_text(homographs((g2p_en / "homographs.en").read_text(encoding="utf-8")))
    weights = dict(np.load(g2p_en / "checkpoint20.npz"))
    np.savez_compressed(DATA / "spelling.npz", **{name: array.astype(np.float16) for name, array in weights.items()})
    for path in sorted(DATA.iterdir()):
        print(f"{path.stat().st_size:9,} {path.name}")


def first_pronunciations(text: str) -> dict[str, str]:
    """Keep the first pronunciation of each word, without remarks."""
    words: dict[str, str] = {}
    for line in text.splitlines():
        word, *phones = line.split("#")[0].split()
        if not word.endswith(")"):
            words.setdefault(word, " ".join(phones))
    return words


def homographs(text: str) -> str:
    """Keep the lines that tell a verb from other words, or another part of speech, in lower case."""
    lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
    return "".join(f"{line.split('|')[0].lower()}|{line.split('|', 1)[1]}\n" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
