"""Check how well long recordings are cut and their text is divided, on clips whose borders and words are known.

    python scripts/recordings_check.py DATA/ljspeech DATA/libri/* [--clips 40] [--trim] [--noise 20] [--seeds 3]

Each folder is a data set with texts. Its clips are glued into one recording, in their order, with gaps of 0.5 to 1.2 s
that sound like their quiet parts; the recording is cut by `ttstrain prepare --cut`, with one text for all of it.
Printed: the share of the glued clips' borders with a cut within 0.2 s, the share of words that are not in a clip of
their own sentence, and the time it took relative to the recording's length. `--noise` adds noise that many dB below
the recording's level. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import glued

from ttstrain.cli.cut_options import LONGEST_S, MARGIN_S, PAUSE_S, SHORTEST_S
from ttstrain.data.readers import read_rows
from ttstrain.recordings.build import Settings, build
from ttstrain.recordings.cuts import Wanted
from ttstrain.recordings.transcripts import open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--noise", type=float, help="dB below the recording's level")
    parser.add_argument("--trim", action="store_true", help="shorten the silence at the clips' own edges to 0.1 s")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--language", default="")
    given = parser.parse_args()
    print(f"{'data':<24} {'seed':>4} {'minutes':>7} {'borders':>8} {'words':>6} {'misplaced':>9} {'time':>6}")
    for name in given.data:
        for seed in range(given.seeds):
            print(check(name, given, seed), flush=True)


def check(name: str, given: argparse.Namespace, seed: int) -> str:
    settings = Settings(Wanted(SHORTEST_S, LONGEST_S, PAUSE_S, MARGIN_S), open_source(given.language, ""))
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "out"
        raw.mkdir()
        made = glued.glue(read_rows(name).rows[: given.clips], raw / "glued.wav", seed=seed, trim=given.trim)
        seconds = soundfile.info(raw / "glued.wav").duration
        if given.noise is not None:
            add_noise(raw / "glued.wav", given.noise, seed)
        started = time.monotonic()
        built = build(raw, out, settings)
        took = time.monotonic() - started
        found = glued.compare(made, out)
    said = "; ".join(line for about in built.recordings for line in about.told)
    return (
        f"{Path(name).name:<24} {seed:>4} {seconds / 60:>7.1f} {found.border_share:>8.1%} {found.words:>6} "
        f"{found.misplaced_share:>9.2%} {took / seconds:>6.3f}  {said}"
    )


def add_noise(path: Path, below_db: float, seed: int) -> None:
    samples, rate = soundfile.read(path)
    level = float(np.sqrt(np.mean(samples**2))) * 10 ** (-below_db / 20)
    noisy = samples + np.random.default_rng(seed).normal(size=len(samples)) * level
    soundfile.write(path, np.clip(noisy, -1, 1), rate, subtype="PCM_16")


if __name__ == "__main__":
    main()
