"""Checks before any feature is computed: languages, phonemes, and the length limits of each net.

Upstream drops such clips silently, and its trainers then divide by zero; here each has a finding. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ttstrain.contract.data import Clip, ClipFinding, Remark, Review
from ttstrain.errors import DataError
from ttstrain.families.gpt_sovits.config import HOP_LENGTH, SAMPLE_RATE, SovitsConfig
from ttstrain.families.gpt_sovits.phonemes import Spoken, language_of, read_clip
from ttstrain.families.gpt_sovits.text.symbols import symbols

GPT, VAE = "GPT", "VAE"
SECONDS: Final = {GPT: (0.6, 54.0), VAE: (0.64, 38.0)}  # more than the first, at most the second
PHONEMES_PER_S: Final = (3.0, 25.0)  # that the GPT takes; upstream's Text2SemanticDataset
MOST_PHONEMES: Final = 540  # its max_sec 54 x 25 tokens / 2.5
MOST_NAMED: Final = 4


@dataclass(frozen=True, slots=True)
class _Fault:
    stage: str
    reason: str
    why: str


def num_frames(clip: Clip) -> int:
    """Return a clip's spectrogram frames, 50 a second, known from its duration without decoding."""
    return clip.samples_at(SAMPLE_RATE) // HOP_LENGTH


def review(clips: Sequence[Clip], config: SovitsConfig) -> Review:
    """Check texts and lengths for the nets that a task trains; note clips that the other net would skip."""
    trained = [stage for stage, reads in ((GPT, config.reads_gpt), (VAE, config.reads_vae)) if reads]
    findings: list[ClipFinding] = []
    spoken: list[Spoken] = []
    other: Counter[str] = Counter()
    for clip in clips:
        said = _spoken_or_finding(clip, config)
        if isinstance(said, ClipFinding):
            findings.append(said)
            continue
        faults = list(_faults(clip, said, num_frames=num_frames(clip)))
        own = [fault for fault in faults if fault.stage in trained]
        if own:
            findings.append(ClipFinding(clip, "skip", own[0].reason, own[0].why))
            continue
        if said.unknown:
            named = ", ".join(f"`{sign}`" for sign in said.unknown[:MOST_NAMED])
            findings.append(ClipFinding(clip, "accept", "not_spoken", f"no phoneme for {named}"))
        spoken.append(said)
        other.update(fault.reason for fault in faults)
    return Review(tuple(findings), tuple(_remarks(spoken, other, config)))


def _spoken_or_finding(clip: Clip, config: SovitsConfig) -> Spoken | ClipFinding:
    default, reason = config.text.language, "unknown_language"
    try:
        if not clip.tokens:
            language_of(clip, default)
        reason = "no_phonemes"
        return read_clip(clip, default_language=default, version=config.version, dictionary=config.text.dictionary)
    except DataError as error:
        return ClipFinding(clip, "skip", reason, error.message)


def _faults(clip: Clip, said: Spoken, *, num_frames: int) -> Iterator[_Fault]:
    seconds = num_frames / 50
    for stage, (least, most) in SECONDS.items():
        if seconds <= least:
            yield _Fault(
                stage, "too_short", f"{clip.duration_s:.2f} s is too short: the {stage} needs more than {least:g} s"
            )
        elif seconds > most:
            yield _Fault(
                stage,
                "too_long",
                f"{clip.duration_s:.1f} s is too long: the {stage}'s limit is {most:g} s; split the clip",
            )
    if len(said.ids) > MOST_PHONEMES:
        yield _Fault(
            GPT, "too_many_phonemes", f"{len(said.ids)} phonemes are too many: the GPT's limit is {MOST_PHONEMES}"
        )
    pace = len(said.ids) / clip.duration_s
    if not PHONEMES_PER_S[0] <= pace <= PHONEMES_PER_S[1]:
        least, most = PHONEMES_PER_S
        why = f"{pace:.1f} phonemes per second, usual are {least:g} to {most:g}: the text may not match the recording"
        yield _Fault(GPT, "phonemes_per_s", why)


def _remarks(spoken: Sequence[Spoken], other: Counter[str], config: SovitsConfig) -> Iterator[Remark]:
    if not spoken:
        return
    languages = Counter(said.language for said in spoken)
    prepared = languages.pop("", 0)
    total = sum(len(said.ids) for said in spoken)
    read_as = [f"{language} ({count})" for language, count in languages.most_common()]
    read_as += [f"prepared ({prepared})"] if prepared else []
    table = f"{len(symbols(config.version))} symbols of {config.version}"
    yield Remark("phonemes", f"{total:,} of the {table}; read as {', '.join(read_as)}")
    if languages["ja"] and config.version != "v1":
        yield Remark("pitch", _pitch(config))
    if other:
        stage = VAE if config.reads_gpt else GPT
        named = ", ".join(f"{count} {reason}" for reason, count in other.most_common())
        yield Remark("later", f"the {stage} would skip {other.total()} of these clips: {named}")


def _pitch(config: SovitsConfig) -> str:
    """Return a note on the dictionary of Japanese readings and pitch."""
    if config.text.dictionary.is_own:
        return (
            "Japanese readings and pitch come from pyopenjtalk-plus's dictionary; for upstream's, set "
            "`model.text.japanese_dictionary` to `open_jtalk_dic_utf_8-1.11`"
        )
    return f"Japanese readings and pitch come from `{config.text.japanese_dictionary or 'pyopenjtalk-plus'}`" + (
        f" and `{config.text.japanese_words}`" if config.text.japanese_words else ""
    )
