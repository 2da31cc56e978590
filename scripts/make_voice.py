"""Make the voice that ships with ttstrain again, from the recordings of LibriSpeech's speaker 3080.

    python scripts/make_voice.py LIBRISPEECH/test-other/3080/5032

Writes `ttstrain/_voice`: compressed clips, metadata.jsonl and provenance.json. The words are those of LibriSpeech's
transcript; capitals and punctuation, which it leaves out, were added by hand, and the recordings are cut into phrases
at pauses: a small net learns more easily from short clips. The Ogg files do not repeat byte for
byte, as every stream gets a new serial number; provenance.json holds a hash of the samples.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

DESTINATION = Path(__file__).resolve().parents[1] / "ttstrain" / "_voice"
SAMPLE_RATE = 16_000  # Hz, that of the recordings
BUDGET_BYTES = 2_000_000
QUIET = 0.012  # of full scale: what is quieter before and after the speech is cut off
KEPT_S = 0.1  # of it, on either side
PEAK = 0.7  # of the loudest sample; one factor for all clips

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    recording: str
    text: str
    start_s: float = 0.0
    end_s: float | None = None

    @property
    def id(self) -> str:
        return self.recording if self.end_s is None and not self.start_s else f"{self.recording}-{self.start_s:g}s"


CHAPTER = "3080-5032"
# For each recording: its text, cut where `@` gives the middle of a pause in seconds.
# The transcript of 0006 has `richard the three s ghosts`, for `Richard III.'s`; "the third's" is what is heard.
TEXTS = {
    "0000": "But I am hugely pleased that you have seen my Lady.",
    "0001": (
        "I knew you could not choose but like her; but yet, let me tell you, @4.93 you have seen but the worst of her."
    ),
    "0002": (
        "Her conversation has more charms than can be in mere beauty, "
        "@4.41 and her humour and disposition "
        "@6.79 would make a deformed person appear lovely."
    ),
    "0003": "Why did you not send me that news and a garland?",
    "0004": ("Well, the best on't is, I have a squire now @3.83 that is as good as a knight."),
    "0005": (
        "In earnest, we have had such a skirmish, "
        "@3.27 and upon so foolish an occasion, "
        "@5.6 as I cannot tell which is strangest."
    ),
    "0006": (
        "All the people that I had ever in my life refused "
        "@4.27 were brought again upon the stage, like Richard the Third's ghosts, "
        "@8.8 to reproach me withal, "
        "@10.87 and all the kindness his discoveries could make I had for you "
        "@14.6 was laid to my charge."
    ),
    "0007": (
        "My best qualities, if I have any that are good, "
        "@4.18 served but for aggravations of my fault, "
        "@6.99 and I was allowed to have wit and understanding and discretion in other things, "
        "@11.3 that it might appear I had none in this."
    ),
    "0008": ("'Tis a strange change, @3 and I am very sorry for it, @5.61 but I'll swear I know not how to help it."),
    "0009": (
        "Mister Fish is the squire of dames, "
        "@3.01 and has so many mistresses that anybody may pretend a share in him and be believed; but, "
        "@8.57 though I have the honour to be his near neighbour, to speak freely, "
        "@13.1 I cannot brag much that he makes any court to me; "
        "@16.7 and I know no young woman in the country that he does not visit often."
    ),
}


def clips() -> list[Clip]:
    """Return the clips: the phrases between the pauses of `TEXTS`."""
    found = []
    for name, text in TEXTS.items():
        parts = re.split(r" @([\d.]+) ", text)
        starts = [0.0, *map(float, parts[1::2])]
        for phrase, start, end in zip(parts[::2], starts, [*starts[1:], None], strict=True):
            found.append(Clip(f"{CHAPTER}-{name}", phrase, start, end))
    return found


def read(folder: Path, clip: Clip) -> Samples:
    """Read a clip's samples (t,), with a little of the silence around the speech."""
    wav, rate = soundfile.read(folder / f"{clip.recording}.flac", dtype="float32")
    if rate != SAMPLE_RATE:
        raise SystemExit(f"error: {clip.recording} has {rate} Hz, not {SAMPLE_RATE}")
    wav = wav[round(clip.start_s * rate) : None if clip.end_s is None else round(clip.end_s * rate)]
    loud = np.flatnonzero(np.abs(wav) > QUIET)
    return np.asarray(wav[max(0, loud[0] - round(KEPT_S * rate)) : loud[-1] + round(KEPT_S * rate)])


def write(path: Path, wav: Samples) -> None:
    with soundfile.SoundFile(
        path, "w", SAMPLE_RATE, channels=1, format="OGG", subtype="VORBIS", compression_level=0.1
    ) as sound:
        for start in range(0, len(wav), SAMPLE_RATE):  # libsndfile's Vorbis writer fails on long blocks
            sound.write(wav[start : start + SAMPLE_RATE])


def make(folder: Path) -> None:
    found = clips()
    wavs = {clip.id: read(folder, clip) for clip in found}
    gain = PEAK / max(float(np.abs(wav).max()) for wav in wavs.values())
    shutil.rmtree(DESTINATION / "clips", ignore_errors=True)
    (DESTINATION / "clips").mkdir(parents=True)
    digest = hashlib.sha256()
    rows = []
    for clip in found:
        wav = wavs[clip.id] * np.float32(gain)
        digest.update((wav * 32767).round().astype("<i2").tobytes())
        write(DESTINATION / "clips" / f"{clip.id}.ogg", wav)
        row = {"id": clip.id, "audio": f"clips/{clip.id}.ogg", "text": clip.text, "speaker": "3080", "language": "en"}
        rows.append(json.dumps(row, ensure_ascii=False))
    (DESTINATION / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
    provenance = {
        "script": "scripts/make_voice.py",
        "corpus": "LibriSpeech test-other, speaker 3080 (LibriVox reader `breathe`), chapter 5032",
        "licence": "CC BY 4.0",
        "clips": len(rows),
        "seconds": round(sum(len(wav) for wav in wavs.values()) / SAMPLE_RATE, 1),
        "sample_rate": SAMPLE_RATE,
        "gain": round(gain, 4),
        "sha256_of_16_bit_samples": digest.hexdigest(),
        "libsndfile": soundfile.__libsndfile_version__,
    }
    (DESTINATION / "provenance.json").write_text(
        json.dumps(provenance, indent=2) + "\n", encoding="utf-8", newline="\n"
    )
    size = sum(path.stat().st_size for path in DESTINATION.rglob("*") if path.is_file())
    print(f"{len(rows)} clips, {provenance['seconds']} s, {size:,} bytes of {BUDGET_BYTES:,}")
    if size > BUDGET_BYTES:
        raise SystemExit("error: over the budget")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the chapter's FLAC files")
    make(parser.parse_args().folder)


if __name__ == "__main__":
    main()
