from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from speech_toys import RATE, syllables, text_for, write_ljspeech

from ttstrain.data import audit as audit_module
from ttstrain.data import pool
from ttstrain.data.audit import AuditResult, audit, write_quarantine
from ttstrain.data.measure import Measured
from ttstrain.data.readers import read_rows
from ttstrain.data.readers.rows import TableError
from ttstrain.data.summary import summary
from ttstrain.errors import DataError
from ttstrain.recipe.schema import DataConfig


def judge(folder: Path, **options: object) -> AuditResult:
    config = DataConfig(cache_dir=str(folder.parent / "cache"), **options)  # type: ignore[arg-type]
    return audit(read_rows(folder, cache_dir=config.cache_dir), config)


def add(folder: Path, line: str, seconds: float = 1.0, *, seed: int = 99) -> None:
    with (folder / "metadata.csv").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    path = folder / "wavs" / f"{line.partition('|')[0]}.wav"
    if not path.exists():
        soundfile.write(path, syllables(seconds, seed=seed), RATE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_ljspeech(tmp_path / "set", [1.0, 1.4, 2.0])


def test_clips_carry_all_that_training_needs(folder: Path) -> None:
    result = judge(folder, language="en")
    assert [clip.id for clip in result.clips] == ["clip00", "clip01", "clip02"]
    clip = result.clips[1]
    assert (clip.sample_rate, clip.num_samples, clip.duration_s, clip.language) == (RATE, 22_400, 1.4, "en")
    assert len(clip.digest) == 64
    assert clip.source == "metadata.csv:2"
    assert result.hours == pytest.approx(4.4 / 3600)


def test_progress_counts_every_recording(folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    config = DataConfig(cache_dir=str(folder.parent / "cache"))
    audit(read_rows(folder), config, lambda done, of: steps.append((done, of)))
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_recordings_that_did_not_change_are_not_decoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = judge(folder)
    decoded: list[str] = []
    really = audit_module.measure

    def spy(path: Path, *, max_s: float) -> object:
        decoded.append(path.name)
        return really(path, max_s=max_s)

    monkeypatch.setattr(audit_module, "measure", spy)
    assert judge(folder) == first
    assert decoded == []
    soundfile.write(folder / "wavs/clip01.wav", syllables(1.2, seed=7), RATE)
    assert judge(folder).clips[1].duration_s == 1.2
    assert decoded == ["clip01.wav"]
    [kept] = (folder.parent / "cache/audit").glob("*.jsonl")
    kept.write_text(kept.read_text()[:-30])  # an interrupted write
    decoded.clear()
    judge(folder)
    assert decoded == ["clip01.wav"]
    decoded.clear()
    judge(folder)
    assert decoded == []


def test_a_recording_replaced_by_one_of_equal_size_and_time_is_measured_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judge(folder)
    decoded: list[str] = []
    really = audit_module.measure

    def spy(path: Path, *, max_s: float) -> object:
        decoded.append(path.name)
        return really(path, max_s=max_s)

    monkeypatch.setattr(audit_module, "measure", spy)
    path = folder / "wavs/clip01.wav"
    status, kept = path.stat(), path.read_bytes()
    soundfile.write(path, syllables(len(soundfile.read(path)[0]) / RATE, seed=99), RATE)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p`, `rsync -t` and `tar` do
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert judge(folder).clips[1].digest != first.clips[1].digest
    assert decoded == ["clip01.wav"]
    decoded.clear()
    for file in (folder / "wavs").iterdir():  # a data set unpacked anew: other files, the same bytes
        status = file.stat()
        content = kept if file == path else file.read_bytes()
        file.unlink()
        file.write_bytes(content)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = judge(folder)
    assert decoded == ["clip01.wav"]  # whose former content is not kept; the others were only hashed
    assert again == first
    decoded.clear()
    hashed: list[Path] = []
    monkeypatch.setattr(audit_module, "digest_of", hashed.append)
    assert judge(folder) == first
    assert (decoded, hashed) == ([], [])


DAMAGES = {
    "cut inside a letter": lambda line: line[:20] + b"caf\xc3",
    "a bit of a number": lambda line: line.replace(b"1.0, 0.0", b"1.0, 2.0"),  # the offset that is taken off
    "another type": lambda line: b'{"key": 1, "crc32": 2}',
    "nested": lambda line: b"[" * 5000,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_line_of_what_was_measured_is_measured_again(
    damage: Callable[[bytes], bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judge(folder)
    [kept] = (folder.parent / "cache/audit").glob("*.jsonl")
    lines = kept.read_bytes().splitlines()
    damaged = [damage(line) if line else line for line in lines]
    assert damaged != lines
    kept.write_bytes(b"\n".join(damaged))
    again = 0
    really = audit_module.measure

    def spy(path: Path, *, max_s: float) -> object:
        nonlocal again
        again += 1
        return really(path, max_s=max_s)

    monkeypatch.setattr(audit_module, "measure", spy)
    assert judge(folder) == first
    assert again == sum(old != new for old, new in zip(lines, damaged, strict=True)) > 0


def test_length_limits_are_the_recipes(folder: Path) -> None:
    result = judge(folder, min_s=1.2, max_s=1.8)
    assert [clip.id for clip in result.clips] == ["clip01"]
    assert result.skipped == {"too_short": 1, "too_long": 1}


def test_one_recording_with_two_texts_is_left_out_and_both_lines_named(folder: Path) -> None:
    add(folder, f"clip00.wav|{text_for(1.0)} other words")
    result = judge(folder)
    assert [clip.id for clip in result.clips] == ["clip01", "clip02"]
    [first, second] = result.quarantine
    assert first.reason == second.reason == "duplicate_id"
    assert "metadata.csv:1, metadata.csv:4" in first.why


def test_equal_recordings_and_texts_are_noted_not_dropped(folder: Path) -> None:
    (folder / "wavs/copy.wav").write_bytes((folder / "wavs/clip00.wav").read_bytes())
    add(folder, f"copy|{text_for(1.0).upper()}! CLIP00")
    result = judge(folder)
    assert len(result.clips) == 4
    assert result.count("accept").items() >= {"duplicate_audio": 1, "duplicate_text": 1}.items()
    assert any("same recording as `clip00`" in note for note in result.clips[-1].notes)


def test_equal_recordings_with_different_texts_are_both_left_out(folder: Path) -> None:
    (folder / "wavs/copy.wav").write_bytes((folder / "wavs/clip00.wav").read_bytes())
    add(folder, "copy|quite another one")
    result = judge(folder)
    assert [clip.id for clip in result.clips] == ["clip01", "clip02"]
    assert {(v.row.id, v.reason) for v in result.quarantine} == {
        ("clip00", "duplicate_audio"),
        ("copy", "duplicate_audio"),
    }
    assert "metadata.csv:1, metadata.csv:4 are equal, their texts contradict each other" in result.quarantine[0].why


def test_columns_are_named_with_what_they_hold(folder: Path) -> None:
    lines = [f"clip0{i}|{text_for(1.5)} {i}|moody" for i in range(3)]
    (folder / "metadata.csv").write_text("\n".join(["id|text|style", *lines]))
    [remark] = judge(folder).remarks
    assert remark.label == "columns"
    assert remark.text == (
        "file: `id` (clip00); text: `text` (ten or more ten or more…); not used: `style` (moody); "
        "names of voices are read from a column `speaker`"
    )


def test_an_odd_pace_is_noted_beside_many_even_ones(tmp_path: Path) -> None:
    folder = write_ljspeech(tmp_path / "set", [2.0 + 0.02 * i for i in range(24)])
    add(folder, "odd|" + "word " * 9, 2.0)
    result = judge(folder)
    assert len(result.clips) == 25
    noted = [v.row.id for v in result.findings if v.reason == "speaking_rate"]
    assert noted == ["odd"]


def test_names_before_texts_and_tags_are_noted_with_examples(folder: Path) -> None:
    rows = [f"clip0{i}|Ann: {text_for(1.4)} {i} [music]" for i in range(3)]
    (folder / "metadata.csv").write_text("\n".join(rows))
    result = judge(folder)
    assert result.count("accept").items() >= {"speaker_label": 3, "tags": 3}.items()
    assert "the text begins with `Ann:`" in " ".join(summary(result).split())


def test_another_script_is_noted_beside_many_of_one(tmp_path: Path) -> None:
    folder = write_ljspeech(tmp_path / "set", [1.0] * 12)
    add(folder, "arabic|لم يتفوق عليه أحد قط")
    [noted] = [v for v in judge(folder).findings if v.reason == "unsupported_chars"]
    assert (noted.row.id, noted.action) == ("arabic", "accept")
    assert "Arabic" in noted.why


def test_recordings_without_a_row_are_counted(folder: Path) -> None:
    soundfile.write(folder / "wavs/spare.flac", syllables(1.0), RATE)
    (folder / "wavs/notes.txt").write_text("not sound")
    result = judge(folder)
    assert [path.name for path in result.orphans] == ["spare.flac"]
    assert result.num_rows == len(result.clips) == 3


def test_recordings_of_rows_that_are_left_out_are_no_orphans(folder: Path) -> None:
    add(folder, "clip03|one|two|three|four")
    result = judge(folder)
    assert result.orphans == []
    assert result.skipped == {"column_count": 1}


def test_orphans_are_counted_once_whichever_way_their_folder_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(folder / "wavs/spare.wav", syllables(1.0), RATE)
    rows = [f"{folder}/wavs/clip00.wav|{text_for(1.0)} a", f"wavs/clip01.wav|{text_for(1.4)} b"]
    rows += [f"{folder}/wavs/../wavs/clip02|{text_for(2.0)} c"]
    (folder / "metadata.csv").write_text("\n".join(rows))
    (folder.parent / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    for place in (folder, Path(), folder.parent / "link"):
        result = audit(read_rows(place), DataConfig(cache_dir=str(folder.parent / "cache")))
        assert [clip.id for clip in result.clips] == ["clip00", "wavs/clip01.wav", "clip02"]
        assert [path.name for path in result.orphans] == ["spare.wav"]


def test_a_link_to_nothing_is_called_that(folder: Path) -> None:
    (folder / "wavs/dead.wav").symlink_to(folder.parent / "gone.wav")
    with (folder / "metadata.csv").open("a") as file:
        file.write(f"dead|{text_for(1.0)}\n")
    [finding] = judge(folder).quarantine
    assert (finding.reason, finding.why) == ("missing_file", "a link to a file that is not there")


def test_a_long_name_does_not_hide_the_reason(folder: Path) -> None:
    add(folder, f"{'long_' * 20}|")
    screen = " ".join(summary(judge(folder)).split())
    assert "the text is empty" in screen


def test_a_link_out_of_the_folder_is_used_only_if_it_is_sound(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    soundfile.write(outside / "speech.wav", syllables(1.0, seed=5), RATE)
    (outside / "secret.txt").write_text("the password is swordfish\n" * 20)
    (folder / "wavs/linked.wav").symlink_to(outside / "speech.wav")
    (folder / "wavs/secret.wav").symlink_to(outside / "secret.txt")
    add(folder, f"linked|{text_for(1.0)} linked")
    add(folder, f"secret|{text_for(1.0)} secret")
    result = judge(folder)
    assert "linked" in {clip.id for clip in result.clips}
    [finding] = result.quarantine
    assert (finding.row.id, finding.reason) == ("secret", "outside_folder")
    assert "swordfish" not in repr(result)


def test_mostly_missing_recordings_refuse_the_whole_set(folder: Path) -> None:
    for i in range(4):
        (folder / "metadata.csv").open("a").write(f"gone{i}|some words\n")
    with pytest.raises(TableError, match="4 of 7 rows") as refusal:
        judge(folder)
    assert refusal.value.reason == "missing_file"
    assert refusal.value.exit_code == 3


def test_a_set_without_a_usable_row_is_refused_with_counts(folder: Path) -> None:
    with pytest.raises(TableError, match=r"none of the 3 rows .*: 3 too_short") as refusal:
        judge(folder, min_s=10.0)
    assert "metadata.csv:1" in str(refusal.value.hint)


def test_a_list_of_absolute_paths_is_told_how_to_say_so(folder: Path) -> None:
    (folder / "wavs").rename(folder.parent / "sounds")
    elsewhere = [f"{folder.parent}/sounds/clip0{i}.wav|{text_for(1.5)} {i}\n" for i in range(3)]
    (folder / "metadata.csv").write_text("".join(elsewhere))
    with pytest.raises(TableError, match="3 outside_folder") as refusal:
        judge(folder)
    assert "audio_file|text" in str(refusal.value.hint)
    (folder / "metadata.csv").write_text("audio_file|text\n" + "".join(elsewhere))
    assert len(judge(folder).clips) == 3


def test_the_quarantine_names_every_row_that_was_changed_or_left_out(folder: Path) -> None:
    add(folder, "quiet|" + text_for(1.0))
    soundfile.write(folder / "wavs/quiet.wav", syllables(1.0, peak=0.004), RATE, subtype="FLOAT")
    add(folder, "emoji|ten or 🎉 more", seed=3)
    add(folder, "a\x1b[31m|")
    result = judge(folder)
    write_quarantine(result, folder.parent / "q.jsonl")
    entries = [json.loads(line) for line in (folder.parent / "q.jsonl").read_text().splitlines()]
    assert {(e["id"], e["action"], e["reason"]) for e in entries} == {
        ("quiet", "fix", "very_quiet"),
        ("emoji", "fix", "unsupported_chars"),
        ("a\x1b[31m", "skip", "no_text"),
    }
    screen = summary(result)
    assert "\x1b" not in screen
    assert all(len(line) <= 80 for line in screen.split("\n"))
    assert len(screen.split("\n")) <= 40


@pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="needs names of any bytes")
def test_names_that_are_no_unicode_go_through(folder: Path) -> None:
    name = b"caf\xe9"
    with (folder / "wavs" / os.fsdecode(name + b".wav")).open("wb") as file:
        file.write((folder / "wavs/clip00.wav").read_bytes())
    (folder / "wavs" / os.fsdecode(name + b".txt")).write_text(text_for(1.0))
    (folder / "metadata.csv").unlink()
    result = judge(folder)
    assert len(result.clips) == 1
    write_quarantine(result, folder.parent / "q.jsonl")
    assert summary(result).encode("utf-8")


def test_a_recording_that_a_reader_hangs_on_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, really = threading.Event(), audit_module.measure

    def hang(path: Path, *, max_s: float) -> Measured:
        if path.name == "clip01.wav":
            free.wait()
        return really(path, max_s=max_s)

    monkeypatch.setattr(audit_module, "measure", hang)
    monkeypatch.setattr(pool, "PATIENCE_S", 0.1)
    monkeypatch.setattr(pool, "_abandoned", [])
    steps: list[tuple[int, int]] = []

    def soon(done: int, of: int) -> None:
        steps.append((done, of))
        if done == 1:
            monkeypatch.setattr(pool, "STALLED_S", 0.2)

    config = DataConfig(cache_dir=str(folder.parent / "cache"))
    try:
        with pytest.raises(DataError, match=r"clip01.wav` could not be measured: nothing has come"):
            audit(read_rows(folder), config, soon, workers=2)
    finally:
        free.set()
    assert steps == [(0, 3), (1, 3)]
    monkeypatch.undo()
    again: list[tuple[int, int]] = []
    audit(read_rows(folder), config, lambda done, of: again.append((done, of)))
    assert again[0] == (1, 3)


def test_ctrl_c_keeps_what_was_measured(folder: Path) -> None:
    def interrupt(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    config = DataConfig(cache_dir=str(folder.parent / "cache"))
    with pytest.raises(KeyboardInterrupt):
        audit(read_rows(folder), config, interrupt, workers=1)
    steps: list[tuple[int, int]] = []
    audit(read_rows(folder), config, lambda done, of: steps.append((done, of)))
    assert steps[0] == (2, 3)


def test_prepare_imports_nothing_heavy_before_it_is_called() -> None:
    program = "import sys, ttstrain.cli.prepare; print([m for m in ('torch', 'numpy', 'soundfile', 'rich', 'pydantic') if m in sys.modules])"  # noqa: E501
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() in ("[]", "['rich']")  # typer brings its own
