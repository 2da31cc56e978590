"""What a file is that cannot be decoded: sound of another kind, or none at all. Known by its first bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ttstrain import documents
from ttstrain.data.shards import opened
from ttstrain.shell import quoted

READ = (b"RIFF", b"fLaC", b"OggS")  # kinds that are decoded: such a file is damaged
OTHER_SOUND: Mapping[bytes, str] = {  # kinds that libsndfile does not read
    b"\x1aE\xdf\xa3": "a WebM or Matroska file (webm, mka, mkv)",
    b"0&\xb2u\x8ef\xcf\x11": "a Windows Media file (wma, wmv)",
    b"#!AMR": "an AMR file, as telephones record",
    b"\xff\xf1": "an AAC file",
    b"\xff\xf9": "an AAC file",
    b".ra\xfd": "a RealAudio file",
    b".RMF": "a RealMedia file",
    b"MAC ": "a Monkey's Audio file (ape)",
    b"wvpk": "a WavPack file (wv)",
    b"MPCK": "a Musepack file (mpc)",
    b"MP+": "a Musepack file (mpc)",
    b"TTA1": "a True Audio file (tta)",
    b"DSD ": "a DSD file (dsf)",
    b"FRM8": "a DSD file (dff)",
    b"FLV\x01": "a Flash video",
    b"\x00\x00\x01\xba": "an MPEG video",
}


def what_it_is(path: Path) -> str | None:
    """Say what a file is, and what to do with it; None for one of the kinds that are decoded."""
    with opened(path) as file:
        start = file.read(512)
    if (other := documents.never_fetched(start)) is not None:
        return other
    if (kind := _other_sound(start)) is not None:
        convert = quoted("ffmpeg", "-i", path.name, path.with_suffix(".flac").name)
        return f"{kind}, which cannot be decoded here: convert it to flac or wav, such as `{convert}`"
    if all(byte >= 32 or byte in b"\t\n\r" for byte in start):
        return "text, not sound"
    return None if start.startswith(READ) else "no kind of sound file that is known here"


def _other_sound(start: bytes) -> str | None:
    if start[4:8] == b"ftyp":
        phone = start[8:11] == b"3gp"
        return "a 3GP file, as telephones record" if phone else "an MP4 file (m4a, mp4, aac)"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "an AVI video"
    return next((kind for magic, kind in OTHER_SOUND.items() if start.startswith(magic)), None)
