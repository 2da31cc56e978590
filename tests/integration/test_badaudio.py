"""Every deliberately bad input is used, repaired, left out or refused as its maker expects, and never silently."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttstrain.contract.table import RowFinding
from ttstrain.data.audit import AuditResult, audit, write_quarantine
from ttstrain.data.decode import decode, treat
from ttstrain.data.readers import read_rows
from ttstrain.data.readers.rows import TableError
from ttstrain.data.summary import summary
from ttstrain.recipe.schema import DataConfig

SEVERITY = ["accept", "fix", "skip", "refuse"]

# Each case of make_badaudio.py; the test below fails when the generator knows one that is not here.
CASES = """
nan_samples nan_single inf_samples silence_zero silence_noise_floor clipped_hard clipped_mild float_over_range dc_offset
very_quiet long_silence_edges noise_only zero_byte header_only header_truncated header_claims_more header_claims_huge
header_claims_less header_streaming header_zero_rate header_absurd_rate header_wrong_rate text_as_wav lfs_pointer
html_as_wav flac_named_wav directory_named_wav missing_audio orphan_audio symlink_loop symlink_outside rate_8k
rate_fake_22k rate_96k bits_24 bits_8 float64_wav mu_law stereo_dead_channel stereo_opposite_phase six_channels
too_long_64s too_short_50ms one_sample text_empty text_missing text_two_columns text_extra_column text_control_chars
text_line_separators text_nul text_emoji text_rtl text_decomposed text_too_long text_too_short text_wrong_clip
text_digits duplicate_id_same duplicate_id_differs duplicate_audio id_with_extension id_case_differs id_unicode_name
path_traversal id_shell_characters meta_bom meta_crlf meta_cr_only meta_blank_lines meta_header_row meta_quotes_commas
meta_comma_csv meta_tab meta_latin1 meta_utf16 meta_empty meta_absent meta_binary meta_giant_line all_rows_bad
mixed_formats
""".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def badaudio(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("badaudio")
    maker = shared_data / "make_badaudio.py"
    subprocess.run([sys.executable, str(maker), "--out", str(folder)], check=True, capture_output=True, timeout=120)
    for case in folder.iterdir():
        if case.is_dir() and not case.name.startswith("duplicate_"):
            tell_copies_apart(case / "wavs")
    return folder


def tell_copies_apart(folder: Path) -> None:
    """Change the last sample's lowest bits where the maker gives one recording several texts: that is no case of its
    own, and the audit leaves such rows out."""
    seen: list[bytes] = []
    for path in sorted(folder.glob("*.wav")) if folder.is_dir() else ():
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        if content in seen and content.startswith(b"RIFF"):
            path.write_bytes(content[:-2] + bytes([content[-2] ^ (seen.count(content) + 1), content[-1]]))
        seen.append(content)


@pytest.fixture(scope="session")
def expected(badaudio: Path) -> dict[str, Any]:
    cases = json.loads((badaudio / "expected.json").read_text(encoding="utf-8"))["cases"]
    return {case["case"]: case for case in cases}


def test_every_case_of_the_maker_is_tested(expected: dict[str, Any]) -> None:
    assert sorted(CASES) == sorted(expected)
    assert len(CASES) == 82


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_judged_as_expected(name: str, badaudio: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    case, folder = expected[name], badaudio / name
    before = contents(folder)
    try:
        result = audit(read_rows(folder), DataConfig(cache_dir=str(tmp_path)))
    except TableError as refusal:
        check_refusal(refusal, case)
        return
    assert not case["dataset_expect"].startswith("refuse") or " or " in case["dataset_expect"]
    for row in case["rows"]:
        check_row(row, result)
    check_good_rows(folder, case, result)
    check_nothing_is_silent(result, tmp_path)
    check_sound(result, folder)
    assert contents(folder) == before, "the audit changed the data"
    assert not list(folder.rglob("pwned"))


def check_refusal(refusal: TableError, case: dict[str, Any]) -> None:
    assert "refuse" in case["dataset_expect"], refusal.message
    assert refusal.exit_code == 3
    assert refusal.message and case["case"] in refusal.message, "the message names the folder"
    if case["case"] == "all_rows_bad":
        for row in case["rows"]:
            assert f"1 {row['reason']}" in refusal.message
        return
    for row in case["rows"]:
        assert "refuse" in (row["expect"], *row["also_ok"])
        assert refusal.reason == row["reason"]


def check_row(row: dict[str, Any], result: AuditResult) -> None:
    allowed = {row["expect"], *row["also_ok"]}
    findings = findings_about(row["id"], result)
    outcome = max((v.action for v in findings), key=SEVERITY.index, default="accept")
    assert outcome in allowed, [(v.action, v.reason, v.why) for v in findings]
    is_clip = row["id"] in {clip.id for clip in result.clips}
    if outcome == "accept" and row["reason"] != "orphan_audio":
        assert is_clip
    if outcome == "skip":
        assert not is_clip
    if outcome == row["expect"] and outcome != "accept":
        assert row["reason"] in {v.reason for v in findings if v.action == outcome}


def findings_about(row_id: str, result: AuditResult) -> list[RowFinding]:
    return [v for v in result.findings if v.row.id == row_id]


def check_good_rows(folder: Path, case: dict[str, Any], result: AuditResult) -> None:
    good = {path.stem for path in (folder / "wavs").glob("good*.wav")}
    assert good <= {clip.id for clip in result.clips}
    assert all(clip.text for clip in result.clips)
    assert all(clip.text.isprintable() for clip in result.clips)


def check_nothing_is_silent(result: AuditResult, tmp_path: Path) -> None:
    write_quarantine(result, tmp_path / "quarantine.jsonl")
    lines = (tmp_path / "quarantine.jsonl").read_text(encoding="utf-8").split("\n")
    written = [json.loads(line) for line in lines if line]
    assert len(written) == sum(v.action in ("skip", "fix") for v in result.findings)
    assert all(entry["why"] and entry["source"] for entry in written)
    screen = summary(result)
    assert all(len(line) <= 80 and line.isprintable() for line in screen.split("\n")), screen
    for reason in (*result.skipped, *result.fixed):
        assert reason in screen


def check_sound(result: AuditResult, folder: Path) -> None:
    for clip in result.clips:
        assert clip.path.resolve().is_relative_to(folder.resolve())
        wav = treat(decode(clip.path).samples, clip.treatment)
        assert len(wav) == clip.num_samples > 0
        assert np.isfinite(wav).all()
        assert 0.002 < np.abs(wav).max() <= 1.0


def contents(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path.relative_to(folder)), path.lstat().st_size) for path in folder.rglob("*"))


GOOD_FOLDERS = {
    "ljspeech-mini": 32,
    "ljspeech-42min": 385,
    "en-libri-3080-f": 10,
    "de-kerstin": 48,
    "ja-commonvoice": 9,
    "zh-fleurs": 2,
    "en-fleurs": 10,
    "formats-one-two-three": 10,
}


@pytest.mark.parametrize(("folder", "rows"), GOOD_FOLDERS.items())
def test_good_recordings_are_all_used(folder: str, rows: int, shared_data: Path, tmp_path: Path) -> None:
    result = audit(read_rows(shared_data / folder), DataConfig(cache_dir=str(tmp_path)))
    assert result.skipped == {}
    assert len(result.clips) == result.num_rows == rows


def test_very_quiet_speech_is_brought_up(shared_data: Path, tmp_path: Path) -> None:
    result = audit(read_rows(shared_data / "en-fleurs"), DataConfig(cache_dir=str(tmp_path)))
    assert result.fixed["very_quiet"] == 6
    for clip in result.clips:
        peak = np.abs(treat(decode(clip.path).samples, clip.treatment)).max()
        assert peak == pytest.approx(0.5, rel=1e-3) if "very_quiet" in "".join(clip.notes) else peak > 0.02


def test_one_recording_in_nine_encodings_gives_one_sound(shared_data: Path, tmp_path: Path) -> None:
    result = audit(read_rows(shared_data / "formats-one-two-three"), DataConfig(cache_dir=str(tmp_path)))
    same = [clip for clip in result.clips if clip.text == "one two three"]
    waves = {clip.id: treat(decode(clip.path).samples, clip.treatment) for clip in same}
    reference = waves["audio-mono-24-bit-44100Hz.wav"]
    assert len(waves) == 9
    for name, wav in waves.items():
        tolerance = 2e-2 if "8-bit" in name else 1e-3
        assert len(wav) == len(reference)
        assert np.abs(wav - reference).max() < tolerance, name
