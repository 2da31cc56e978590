from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speech_toys import RATE, syllables

from ttstrain.data import flac
from ttstrain.data.measure import Measured, bandwidth, measure
from ttstrain.data.riff import check_riff, contradiction


def measured(folder: Path, samples: np.ndarray, *, rate: int = RATE, name: str = "a.wav") -> Measured:
    soundfile.write(folder / name, samples, rate, subtype="FLOAT" if name.endswith(".wav") else None)
    return measure(folder / name, max_s=60)


def reasons(result: Measured) -> list[tuple[str, str]]:
    return [(finding.action, finding.reason) for finding in result.findings]


def test_silent_edges_are_cut_to_a_fifth_of_a_second(tmp_path: Path) -> None:
    silence = np.zeros(2 * RATE, np.float32)
    result = measured(tmp_path, np.concatenate([silence, syllables(2.0), silence[:RATE]]))
    assert reasons(result) == [("fix", "trimmed_silence")]
    assert result.treatment is not None and result.treatment.end is not None
    assert result.treatment.start / RATE == pytest.approx(1.8, abs=0.03)
    assert result.treatment.end / RATE == pytest.approx(4.2, abs=0.03)


def test_short_pauses_at_the_edges_stay(tmp_path: Path) -> None:
    pause = np.zeros(int(0.45 * RATE), np.float32)
    result = measured(tmp_path, np.concatenate([pause, syllables(2.0), pause]))
    assert reasons(result) == []
    assert result.treatment is not None
    assert (result.treatment.start, result.treatment.end) == (0, 2 * len(pause) + 2 * RATE)


def test_noise_before_the_speech_is_not_taken_for_speech(tmp_path: Path) -> None:
    hiss = np.random.default_rng(1).normal(0, 0.0005, 3 * RATE).astype(np.float32)
    result = measured(tmp_path, np.concatenate([hiss, syllables(2.0)]))
    assert result.treatment is not None
    assert result.treatment.start / RATE == pytest.approx(2.8, abs=0.05)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda x: np.stack([x, x], 1), ("mean", [])),
        (lambda x: np.stack([x, 0 * x], 1), (0, ["dead_channel"])),
        (lambda x: np.stack([0.01 * x, x], 1), (1, ["dead_channel"])),
        (lambda x: np.stack([0.5 * x, -0.6 * x], 1), (1, ["phase_cancel"])),
        (lambda x: np.stack([0 * x, 0 * x, x, 0 * x], 1), (2, ["many_channels"])),
        (lambda x: np.stack([x, x, x], 1), ("mean", ["many_channels"])),
    ],
)
def test_the_channel_with_speech_is_used(build: object, expected: tuple[object, list[str]], tmp_path: Path) -> None:
    result = measured(tmp_path, build(syllables(2.0)))  # type: ignore[operator]
    assert result.treatment is not None
    assert (result.treatment.channel, [reason for _, reason in reasons(result)]) == expected


@pytest.mark.parametrize("peak", [0.003, 0.01, 3.0])
def test_levels_out_of_the_usual_are_brought_there(peak: float, tmp_path: Path) -> None:
    result = measured(tmp_path, syllables(2.0, peak=peak))
    assert result.treatment is not None
    assert 0.4 < peak * result.treatment.gain < 1.0
    assert reasons(result) == [("fix", "over_range" if peak > 1 else "very_quiet")]


def test_an_offset_is_measured_where_the_speech_is(tmp_path: Path) -> None:
    result = measured(tmp_path, syllables(2.0) * 0.5 + 0.1)
    assert result.treatment is not None
    assert result.treatment.offset == pytest.approx(0.1, abs=0.005)


def test_clipping_is_seen_even_when_turned_down_since(tmp_path: Path) -> None:
    cut = np.clip(syllables(2.0) * 8, -1, 1)
    assert reasons(measured(tmp_path, cut * 0.3)) == [("skip", "clipped")]


def test_a_steady_tone_is_no_speech(tmp_path: Path) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    assert reasons(measured(tmp_path, tone)) == [("skip", "no_speech")]


def test_bandwidth_is_where_the_sound_ends() -> None:
    spectrum = np.fft.rfft(syllables(3.0, rate=24_000))
    frequencies = np.fft.rfftfreq(3 * 24_000, 1 / 24_000)
    for limit in (3000, 7000):
        kept = np.fft.irfft(np.where(frequencies < limit, spectrum, 0)).astype(np.float32)
        assert bandwidth(kept, 24_000) == pytest.approx(limit, abs=400)


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3", "aiff"])
def test_other_containers_are_read(ending: str, tmp_path: Path) -> None:
    result = measured(tmp_path, syllables(2.0), name=f"a.{ending}")
    assert result.usable
    assert result.sample_rate == RATE


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3"])
def test_cut_files_are_never_taken_for_whole_ones_where_the_format_tells(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, syllables(4.0), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    result = measure(path, max_s=60)
    if ending == "flac":  # the others hold no length that could be compared
        assert not result.usable
    assert result.treatment is None or np.isfinite(soundfile.read(path)[0]).all()


def test_a_recording_of_hours_is_not_decoded_to_its_end(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(RATE * 300, np.float32), RATE)
    assert reasons(measure(tmp_path / "long.flac", max_s=10)) == [("skip", "too_long")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    assert reasons(measure(tmp_path / "a.wav", max_s=60)) == [("skip", "not_a_file")]


def test_measurements_survive_json(tmp_path: Path) -> None:
    result = measured(tmp_path, np.stack([syllables(2.0) * 3, syllables(2.0)], 1))
    assert Measured.from_json(result.to_json()) == result


def wav(data: bytes, *, claimed: int | None = None, after: bytes = b"") -> bytes:
    size = len(data) if claimed is None else claimed
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + size, 0xFFFFFFFF))
        + b"WAVE"
        + form
        + struct.pack("<4sI", b"data", size)
        + data
        + after
    )


SPEECH = (syllables(1.0) * 32767).astype("<i2").tobytes()
TITLE = struct.pack("<4sI", b"LIST", 4) + b"INFO"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (wav(SPEECH), None),
        (wav(SPEECH, after=TITLE), None),
        (wav(SPEECH, after=b"\0" * 512), None),
        (wav(SPEECH[:-1]), None),
        (wav(SPEECH, claimed=0xFFFFFFFF), None),
        (wav(SPEECH, claimed=len(SPEECH) + 2), "truncated"),
        (wav(b"", claimed=100), "no_samples"),
        (wav(SPEECH, claimed=len(SPEECH) // 2), "length_mismatch"),
        (wav(SPEECH)[:20], None),  # does not open at all
        (b"fLaC" + SPEECH, None),
    ],
)
def test_lengths_in_the_header_are_held_against_the_file(content: bytes, reason: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    fault = check_riff(tmp_path / "a.wav")
    assert (fault.reason if fault else None) == reason


# ---------------------------------------------------------------- what a header and a checksum tell


@pytest.mark.parametrize(
    ("place", "form", "value"), [(22, "<H", 2), (24, "<I", RATE * 2), (34, "<H", 8), (32, "<H", 4)]
)
def test_a_header_that_contradicts_itself_is_told(place: int, form: str, value: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, syllables(2.0), RATE, subtype="PCM_16")
    assert contradiction(path) is None
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, place, value)
    path.write_bytes(content)
    assert "header states" in (contradiction(path) or "")
    result = measure(path, max_s=60)
    assert ("accept", "odd_header") in reasons(result) or not result.usable


@pytest.mark.parametrize(
    ("form", "subtype"),
    [("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAVEX", "PCM_16"), ("WAV", "IMA_ADPCM")],
)
def test_headers_of_every_kind_do_not_contradict_themselves(form: str, subtype: str, tmp_path: Path) -> None:
    stereo = np.stack([syllables(1.0)] * 2, axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE, format=form, subtype=subtype)
    assert contradiction(tmp_path / "a.wav") is None


def test_chunks_that_do_not_lead_to_the_samples_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, syllables(2.0), RATE, subtype="ULAW")
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.find(b"fact") + 4, 0)
    path.write_bytes(content[: len(content) * 2 // 3])  # cut short, too: no size tells that any longer
    assert ("accept", "odd_header") in reasons(measure(path, max_s=60))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 7_000, 12_345, 50_010])
def test_the_rate_of_a_flac_is_held_against_its_first_frame(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, syllables(1.0), rate, subtype="PCM_16")
    assert flac.contradiction(path) is None
    content = bytearray(path.read_bytes())
    content[18:20] = (20_000 >> 4).to_bytes(2, "big")
    path.write_bytes(content)
    assert f"its first frame {rate:,}" in (flac.contradiction(path) or "")


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_flac_with_other_samples_than_were_encoded_is_left_out(subtype: str, channels: int, tmp_path: Path) -> None:
    """The checksum in the header is one of samples that were never in the frames."""
    path, sound = tmp_path / "a.flac", syllables(2.0)
    samples = np.stack([sound * (1 - 0.1 * number) for number in range(channels)], axis=1)
    soundfile.write(path, samples, RATE, subtype=subtype)
    assert measure(path, max_s=60).usable
    content = bytearray(path.read_bytes())
    content[26] ^= 1
    path.write_bytes(content)
    assert reasons(measure(path, max_s=60)) == [("skip", "damaged")]
    content[26:42] = bytes(16)  # an encoder that streams leaves it out
    path.write_bytes(content)
    assert measure(path, max_s=60).usable
