"""Measure a sound file: whether it decodes, its level, silence, channels and bandwidth. numpy only.

Nothing here depends on the text or the recipe, so that measurements can be cached.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttstrain.contract.data import Treatment
from ttstrain.contract.table import Action
from ttstrain.data import flac, riff
from ttstrain.data.decode import Decoded, Samples, decode, impossible_rate, shortfall
from ttstrain.data.other_formats import what_it_is
from ttstrain.data.shards import digest_of, identity, part_of

RULES = 3  # raise when a rule below changes: kept measurements are then taken again

# All levels are relative to full scale, 1.0. Usable speech with a peak of 0.003 exists; noise at -85 dBFS peaks at
# 0.0003, and nothing in between was seen. So silence is detected by the peak and not by a loudness of -50 dB.
SILENT_PEAK = 0.002
QUIET_PEAK = 0.02
QUIET_TARGET = 0.5
OVER_RANGE_TARGET = 0.95
CLIPPED_SHARE = 0.01
CLIPPED_NOTE_SHARE = 0.001
OFFSET_LIMIT = 0.02
LOW_RATE = 16_000  # Hz; a lower rate loses half of the consonants' frequency band
DEAD_CHANNEL = 0.03  # level against the loudest channel
CANCELLED = 0.3  # level of the channels' mean against the loudest channel
FRAME_S = 0.01
SHORTEST_S = 0.1
NOMINAL_RATE = 24_000  # Hz, of a recording that was not opened
EDGE_S = 0.5  # silence at an edge that is left alone
MARGIN_S = 0.2  # silence that stays when an edge is trimmed
SPEECH_RANGE_DB = 6.0  # from the quiet to the loud frames of speech; steady noise has less
BAND_LIMIT_HZ = 5_000
BAND_FLOOR_DB = -75.0  # against the strongest frequency


@dataclass(frozen=True, slots=True)
class Flaw:
    """One finding about a file: an error, a repair or a note."""

    action: Action
    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A file's measurements; unusable when a finding says `skip`."""

    findings: tuple[Flaw, ...]
    sample_rate: int = 0  # Hz
    digest: str = ""
    treatment: Treatment | None = None

    @property
    def usable(self) -> bool:
        return self.treatment is not None

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return {
            "findings": [[f.action, f.reason, f.why] for f in self.findings],
            "sample_rate": self.sample_rate,
            "digest": self.digest,
            "treatment": None
            if self.treatment is None
            else [getattr(self.treatment, name) for name in ("channel", "gain", "offset", "start", "end")],
        }

    @classmethod
    def from_json(cls, values: Any) -> Measured:
        """Read `to_json`'s dictionary."""
        treatment = values["treatment"]
        return cls(
            findings=tuple(Flaw(*finding) for finding in values["findings"]),
            sample_rate=int(values["sample_rate"]),
            digest=str(values["digest"]),
            treatment=None if treatment is None else Treatment(*treatment),
        )


def measure(path: Path, *, max_s: float) -> Measured:
    """Decode a file, up to `max_s` seconds of it, and measure it. A bad file gives a finding, not an exception."""
    try:
        mode = stat.S_IFREG if part_of(path) is not None else path.stat().st_mode
        if not stat.S_ISREG(mode):
            return _skip("not_a_file", "a folder" if stat.S_ISDIR(mode) else "not an ordinary file")
        if not identity(path).size:
            return _skip("empty_file", "the file has 0 bytes: copy it again")
        if fault := riff.check_riff(path):
            return _skip(fault.reason, fault.why)
        return _of_sound(path, max_s)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return _skip("missing_file", "a link to a file that is not there" if path.is_symlink() else "it is gone")
        return _skip("unreadable", error.strerror or str(error))


def unmeasured(seconds: float) -> Measured:
    """Return what can be said of a recording that was not opened, from its length; it has no digest."""
    return Measured((), NOMINAL_RATE, "", Treatment(end=round(seconds * NOMINAL_RATE)))


def _skip(reason: str, why: str) -> Measured:
    return Measured((Flaw("skip", reason, why),))


def _of_sound(path: Path, max_s: float) -> Measured:
    import soundfile

    try:
        decoded = decode(path, max_s=max_s)
    except (soundfile.LibsndfileError, ValueError) as error:
        return _skip("unreadable", what_it_is(path) or f"it cannot be decoded: {error}")
    if fault := _fault_of_length(decoded, max_s):
        return Measured((fault,), decoded.sample_rate)
    if flac.is_damaged(path, decoded):
        return _skip("damaged", "its samples are not those that were encoded: their checksum in its header differs")
    if not np.isfinite(decoded.samples).all():
        share = float((~np.isfinite(decoded.samples)).mean())
        return _skip("non_finite", f"{share:.2%} of the samples are NaN or infinite")
    return _measure_decoded(path, decoded)


def _fault_of_length(decoded: Decoded, max_s: float) -> Flaw | None:
    frames = len(decoded.samples)
    if why := impossible_rate(decoded.sample_rate):
        return Flaw("skip", "bad_header", why)
    if not frames:
        return Flaw("skip", "no_samples", "it holds no samples")
    if frames < SHORTEST_S * decoded.sample_rate:
        return Flaw("skip", "too_short", f"{frames / decoded.sample_rate:.3f} s: no word is that short")
    if not decoded.complete:
        return Flaw("skip", "too_long", f"over {max_s / 60:.0f} minutes: split it at its pauses")
    if why := shortfall(decoded.container, decoded.sample_rate, promised=decoded.promised_frames, there=frames):
        return Flaw("skip", "truncated", why)
    return None


# ---------------------------------------------------------------- decoded samples


def _measure_decoded(path: Path, decoded: Decoded) -> Measured:
    rate = decoded.sample_rate
    channel, of_channels = _channel(decoded.samples)
    raw = decoded.samples.mean(axis=1) if channel == "mean" else decoded.samples[:, channel]  # (t,)
    offset, of_offset = _offset(raw)
    mono = raw - np.float32(offset) if offset else raw
    peak = float(np.abs(mono).max())
    if peak < SILENT_PEAK:
        return _skip("silent", f"nobody speaks: the highest sample is {decibels(peak)}")

    levels = frame_levels(mono, rate)
    start, end = speech_span(levels, len(mono), rate)
    dynamics = _dynamics(levels[start // _hop(rate) : max(1, end // _hop(rate))])
    if dynamics < SPEECH_RANGE_DB:
        return _skip("no_speech", f"a steady sound, only {dynamics:.1f} dB between its quiet and its loud parts")
    share = clipped_share(raw)
    if share > CLIPPED_SHARE:
        return _skip("clipped", f"{share:.1%} of the samples are cut off at the limit")

    gain, of_level = _gain(float(np.abs(mono[start:end]).max()))
    findings = [*_of_the_format(path, decoded), *of_channels, *of_offset]
    if share > CLIPPED_NOTE_SHARE:
        findings.append(Flaw("accept", "clipped", f"{share:.2%} of the samples are at the limit"))
    if cut := start + len(mono) - end:
        findings.append(Flaw("fix", "trimmed_silence", f"{cut / rate:.2f} s of silence cut off its ends"))
    findings += [*_of_the_band(mono[start:end], rate), *of_level]
    treatment = Treatment(channel=channel, gain=gain, offset=offset, start=start, end=end)
    return Measured(tuple(findings), rate, digest_of(path), treatment)


def _offset(samples: Samples) -> tuple[float, list[Flaw]]:
    offset = float(samples.mean(dtype=np.float64))
    if abs(offset) <= OFFSET_LIMIT:
        return 0.0, []
    return offset, [Flaw("fix", "dc_offset", f"a constant {offset:+.3f} taken off")]


def _gain(peak: float) -> tuple[float, list[Flaw]]:
    if peak > 1.0:
        return OVER_RANGE_TARGET / peak, [Flaw("fix", "over_range", f"scaled down from a peak of {peak:.2f}")]
    if peak < QUIET_PEAK:
        gain = QUIET_TARGET / peak
        return gain, [Flaw("fix", "very_quiet", f"brought up by {20 * math.log10(gain):.0f} dB")]
    return 1.0, []


def _of_the_format(path: Path, decoded: Decoded) -> list[Flaw]:
    findings = []
    ending = path.suffix.lower()
    if decoded.container not in CONTAINERS.get(ending, {decoded.container}):
        findings.append(Flaw("accept", "format_by_content", f"{decoded.container} in a file named {ending}"))
    if why := riff.contradiction(path) or flac.contradiction(path):
        findings.append(Flaw("accept", "odd_header", why))
    if decoded.encoding in ("PCM_U8", "PCM_S8"):
        findings.append(Flaw("accept", "low_bits", "8 bits a sample: expect hiss"))
    if decoded.promised_frames < 0:
        findings.append(Flaw("accept", "streaming_header", "its header leaves the length open"))
    if decoded.sample_rate < LOW_RATE:
        nyquist = decoded.sample_rate // 2
        findings.append(Flaw("fix", "low_rate", f"upsampled from {decoded.sample_rate} Hz: nothing above {nyquist} Hz"))
    return findings


CONTAINERS = {
    ".wav": {"WAV", "WAVEX", "RF64", "W64"},
    ".flac": {"FLAC"},
    ".ogg": {"OGG"},
    ".opus": {"OGG"},
    ".mp3": {"MP3", "MPEG"},
    ".aiff": {"AIFF"},
    ".aif": {"AIFF"},
}


def _channel(samples: Samples) -> tuple[Any, list[Flaw]]:
    count = samples.shape[1]
    if count == 1:
        return 0, []
    levels = samples.std(axis=0, dtype=np.float64)  # (c,)
    loudest = int(levels.argmax())
    live = [c for c in range(count) if levels[c] > DEAD_CHANNEL * levels[loudest]]
    if not levels[loudest]:
        return "mean", []
    if len(live) < count:
        reason = "dead_channel" if count == 2 else "many_channels"
        return loudest, [Flaw("fix", reason, f"channel {loudest + 1} of {count} used: others are silent")]
    if samples.mean(axis=1).std(dtype=np.float64) < CANCELLED * levels[loudest]:
        return loudest, [Flaw("fix", "phase_cancel", f"channel {loudest + 1} used: the channels cancel each other")]
    if count > 2:
        return "mean", [Flaw("fix", "many_channels", f"{count} channels averaged")]
    return "mean", []


def clipped_share(samples: Samples) -> float:
    """Return the share of samples at the signal's own maximum: clipping, also where the level was changed later."""
    limit = float(np.abs(samples).max())
    return float((np.abs(samples) >= 0.999 * limit).mean())


def frame_levels(samples: Samples, rate: int) -> Samples:
    """Return the level of each 10 ms in dB of full scale, (frames,); never below -120."""
    hop = _hop(rate)
    whole = len(samples) // hop * hop
    frames = samples[:whole].reshape(-1, hop) if whole else samples[None, :]
    power = np.einsum("fh,fh->f", frames, frames, dtype=np.float64) / frames.shape[1]
    levels: Samples = (10 * np.log10(power + 1e-12)).astype(np.float32)
    return levels


def speech_span(levels: Samples, num_samples: int, rate: int) -> tuple[int, int]:
    """Return where to trim, (start, end): silence over `EDGE_S` at an edge is shortened to `MARGIN_S`."""
    top, floor = np.percentile(levels, [95, 10])
    threshold = max(top - 40.0, min(floor + 6.0, top - 20.0))
    loud = np.flatnonzero(levels > threshold)
    hop, margin = _hop(rate), int(MARGIN_S * rate)
    if not len(loud):
        return 0, num_samples
    first, last = int(loud[0]) * hop, (int(loud[-1]) + 1) * hop
    start = first - margin if first > EDGE_S * rate else 0
    end = min(num_samples, last + margin) if num_samples - last > EDGE_S * rate else num_samples
    return start, end


def _dynamics(levels: Samples) -> float:
    quiet, loud = np.percentile(levels, [10, 95])
    return float(loud - quiet)


def _of_the_band(samples: Samples, rate: int) -> list[Flaw]:
    top = bandwidth(samples, rate)
    if rate >= LOW_RATE and top < BAND_LIMIT_HZ:
        return [Flaw("accept", "band_limited", f"nothing above {top / 1000:.1f} kHz in a file of {rate} Hz")]
    return []


def bandwidth(samples: Samples, rate: int, *, size: int = 1024, most_frames: int = 64) -> float:
    """Return the highest frequency, in Hz, with power above `BAND_FLOOR_DB`."""
    if len(samples) < size:
        return rate / 2
    starts = np.linspace(0, len(samples) - size, num=min(most_frames, 1 + len(samples) // size)).astype(int)
    frames = np.stack([samples[s : s + size] for s in starts]) * np.hanning(size)
    power = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).mean(axis=0)  # (size / 2 + 1,)
    level = 10 * np.log10(power / power.max() + 1e-20)
    return float(np.flatnonzero(level > BAND_FLOOR_DB)[-1]) * rate / size


def _hop(rate: int) -> int:
    return max(1, int(FRAME_S * rate))


def decibels(level: float) -> str:
    """Format a level relative to full scale in dB."""
    return f"{20 * math.log10(level):.0f} dBFS" if level else "exactly zero"


def leads_outside(path: Path, root: Path) -> bool:
    """Tell whether a path, with links resolved, lies outside a folder."""
    real, folder = os.path.realpath(path), os.path.realpath(root)
    return os.path.commonpath([real, folder]) != folder
