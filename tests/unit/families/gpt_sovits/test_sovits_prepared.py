"""Folders that GPT-SoVITS prepared are read as they are, and what does not fit in them is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from small_runs import DEMO

from ttstrain.data.audit import AuditResult, audit
from ttstrain.data.cache import FeatureCache
from ttstrain.data.manifest import read_manifest, write_manifest
from ttstrain.data.readers import TableError, read_rows
from ttstrain.recipe.schema import DataConfig

WAVS = sorted((DEMO / "clips").glob("*.flac"))[:3] or sorted((DEMO / "clips").iterdir())[:3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with two whole rows, `a.wav` and `b.mp3`."""
    folder = tmp_path / "exp"
    (folder / "5-wav32k").mkdir(parents=True)
    (folder / "3-bert").mkdir()
    (folder / "4-cnhubert").mkdir()
    for name, source in (("a.wav", WAVS[0]), ("b.mp3", WAVS[1])):
        wav, rate = soundfile.read(source)
        soundfile.write(folder / "5-wav32k" / name, wav, rate, format="WAV")
        torch.save(torch.zeros(1, 768, 50), folder / "4-cnhubert" / f"{name}.pt")
    torch.save(torch.zeros(1024, 3), folder / "3-bert" / "a.wav.pt")
    (folder / "2-name2text.txt").write_text(
        "a.wav\tn i3 h\t[2, 1]\t你们在这里说什么话\nb.mp3\tHH AH0 L OW1 W ER1 L D\tNone\tHello world.\n",
        encoding="utf-8",
    )
    (folder / "6-name2semantic.tsv").write_text("item_name\tsemantic_audio\na.wav\t5 6 7\nb.mp3\t8 9\n")
    return folder


def audited(folder: Path) -> AuditResult:
    return audit(read_rows(folder), DataConfig(path=str(folder)))


def reasons(folder: Path) -> dict[str, str]:
    return {finding.row.id: finding.reason for finding in read_rows(folder).findings}


def test_rows_carry_phonemes_and_what_lies_ready(project: Path) -> None:
    table = read_rows(project)
    assert table.format == "gpt_sovits_project"
    assert [row.id for row in table.rows] == ["a.wav", "b.mp3"]
    assert table.rows[0].tokens == ("n", "i3", "h")
    assert table.rows[0].text == "你们在这里说什么话"
    ready = {one.name: one for one in table.rows[0].ready}
    assert set(ready) == {"bert", "ssl", "word2ph", "codes"}
    assert ready["word2ph"].values == (2, 1)
    assert ready["codes"].values == (5, 6, 7)
    assert Path(ready["ssl"].path) == project / "4-cnhubert" / "a.wav.pt"
    assert {one.name for one in table.rows[1].ready} == {"ssl", "codes"}
    assert table.findings == []


def test_a_folder_is_told_from_the_tables_in_it(project: Path) -> None:
    """Its .tsv alone would be a table of some other kind."""
    assert read_rows(project).format == "gpt_sovits_project"
    (project / "2-name2text.txt").unlink()
    with pytest.raises(TableError, match="2-name2text"):
        read_rows(project, "gpt_sovits_project")


def test_parts_that_a_stopped_process_left_are_read(project: Path) -> None:
    lines = (project / "2-name2text.txt").read_text(encoding="utf-8").splitlines()
    (project / "2-name2text.txt").unlink()
    for number, line in enumerate(lines):
        (project / f"2-name2text-{number}.txt").write_text(line + "\n", encoding="utf-8")
    assert [row.id for row in read_rows(project).rows] == ["a.wav", "b.mp3"]


def test_lines_that_are_no_rows_are_named(project: Path) -> None:
    with (project / "2-name2text.txt").open("a") as file:
        file.write("broken line without tabs\nc.wav\t\tNone\tsilence\nlost.wav\tAA1 B\tNone\tlost\n")
    with (project / "6-name2semantic.tsv").open("a") as file:
        file.write("nobody.wav\t1 2 3\na.wav\t1 1 1\nodd.wav\tx y\n")
    found = [(finding.row.id, finding.action, finding.reason) for finding in read_rows(project).findings]
    assert ("broken line without tabs", "skip", "bad_line") in found
    assert ("c.wav", "skip", "no_phonemes") in found
    assert ("lost.wav", "skip", "missing_file") in found
    assert ("nobody.wav", "skip", "no_text") in found
    assert ("odd.wav", "skip", "bad_line") in found
    assert ("a.wav", "accept", "duplicate_id") in found
    assert [row.id for row in read_rows(project).rows] == ["a.wav", "b.mp3"]


def test_missing_semantic_tokens_are_noted(project: Path) -> None:
    (project / "6-name2semantic.tsv").write_text("item_name\tsemantic_audio\na.wav\t5 6 7\n")
    assert reasons(project) == {"b.mp3": "no_semantic_tokens"}


def test_two_recordings_of_one_name_contradict_each_other(project: Path) -> None:
    """Upstream's names are base names: of `x/a.wav` and `y/a.wav` only one recording is left, and two texts."""
    with (project / "2-name2text.txt").open("a", encoding="utf-8") as file:
        file.write("a.wav\tb a1\t[2]\t我不知道他在哪里\n")
    result = audited(project)
    assert [clip.id for clip in result.clips] == ["b.mp3"]
    assert result.skipped == {"duplicate_id": 2}


def test_a_manifest_keeps_what_lies_ready(project: Path, tmp_path: Path) -> None:
    clips = audited(project).clips
    write_manifest(tmp_path / "manifest.jsonl", clips)
    assert read_manifest(tmp_path / "manifest.jsonl") == clips


def test_changed_phonemes_or_features_are_computed_anew(project: Path, tmp_path: Path) -> None:
    """Upstream goes on with whatever files are there."""
    from speech_toys import ToyData

    cache = FeatureCache(tmp_path / "cache", ToyData())
    before = [cache.path(clip) for clip in audited(project).clips]
    torch.save(torch.ones(1, 768, 50), project / "4-cnhubert" / "a.wav.pt")
    text = (project / "2-name2text.txt").read_text(encoding="utf-8")
    (project / "2-name2text.txt").write_text(text.replace("HH AH0", "HH EH1"), encoding="utf-8")
    after = [cache.path(clip) for clip in audited(project).clips]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, False]
