from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from ttstrain.data.readers.locate import Found, Locator, Lost

OUTSIDE = [
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\windows\\win.ini",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "wavs/../../x",
    "~/secret",
    "~root/secret",
    "C:\\secret.wav",
    "c:secret.wav",
    "\\\\server\\share\\a",
    "//server/share/a",
    "https://example.org/a.wav",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    names = ["wavs/a.wav", "wavs/b.c.flac", "top.ogg", "wavs/Gross.wav", "wavs/sub/d.mp3"]
    names += [unicodedata.normalize("NFD", "wavs/größe.wav"), "wavs/$(touch pwned);`id`%s{0}.wav"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (tmp_path / "outside.wav").write_bytes(b"x")
    return root


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_leave_the_folder_are_refused(name: str, folder: Path) -> None:
    found = Locator(folder).find(name)
    assert isinstance(found, Lost)
    assert found.reason == "outside_folder"


def test_nothing_is_looked_at_for_a_name_that_leaves_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("the file system was asked")

    monkeypatch.setattr("os.scandir", touched)
    monkeypatch.setattr("os.path.lexists", touched)
    for name in OUTSIDE:
        assert isinstance(Locator(folder).find(name), Lost)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a", "wavs/a.wav"),
        ("a.wav", "wavs/a.wav"),
        ("wavs/a.wav", "wavs/a.wav"),
        ("wavs/a", "wavs/a.wav"),
        ("wavs\\a.wav", "wavs/a.wav"),
        (" a ", "wavs/a.wav"),
        ("b.c", "wavs/b.c.flac"),
        ("top", "top.ogg"),
        ("sub/d", "wavs/sub/d.mp3"),
        ("größe", unicodedata.normalize("NFD", "wavs/größe.wav")),
        ("$(touch pwned);`id`%s{0}", "wavs/$(touch pwned);`id`%s{0}.wav"),
    ],
)
def test_files_are_found_as_people_name_them(name: str, path: str, folder: Path) -> None:
    assert Locator(folder).find(name) == Found(folder / path)


@pytest.mark.parametrize("name", ["nothing", "a.flac", "A" * 5000, "a\0b", "gross", "sub/nothing", ""])
def test_missing_files_are_said_to_be_missing(name: str, folder: Path) -> None:
    found = Locator(folder).find(name)
    assert isinstance(found, Lost)
    assert found.reason == "missing_file"


@pytest.mark.parametrize("name", ["{}/wavs/a.wav", "{}/wavs/a", "{}/x/../wavs/a.wav", "wavs/../wavs/a.wav", "x\\..\\a"])
@pytest.mark.parametrize("anywhere", [False, True])
def test_names_that_end_up_in_the_folder_are_used(name: str, folder: Path, *, anywhere: bool) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    for root, written in ((folder, folder), (link, link), (link, folder)):
        assert Locator(root, anywhere=anywhere).find(name.format(written)) == Found(root / "wavs/a.wav")


def test_an_absolute_name_in_the_folder_is_called_by_its_real_fault(folder: Path) -> None:
    found = Locator(folder).find(f"{folder}/wavs/none.wav")
    assert isinstance(found, Lost)
    assert found.reason == "missing_file"


def test_another_case_is_pointed_out(folder: Path) -> None:
    found = Locator(folder).find("gross")
    assert isinstance(found, Lost)
    assert "`wavs/Gross.wav` is" in found.why


def test_formats_with_absolute_paths_may_name_files_anywhere(folder: Path) -> None:
    outside = folder.parent / "outside.wav"
    locator = Locator(folder, anywhere=True)
    assert locator.find(str(outside)) == Found(outside)
    assert locator.find("../outside.wav") == Found(folder / "../outside.wav")
    assert locator.find("wavs/a.wav") == Found(folder / "wavs/a.wav")
    assert isinstance(locator.find("https://example.org/a.wav"), Lost)


@pytest.mark.parametrize("name", ["/old/home/wavs/a.wav", "D:\\old\\wavs\\a.wav", "../moved/a.wav"])
def test_a_moved_data_folder_is_found_by_bare_names_and_said(name: str, folder: Path) -> None:
    assert Locator(folder, anywhere=True).find(name) == Found(folder / "wavs/a.wav", moved=True)


def test_names_of_many_files_are_found_at_once_where_they_need_no_interpretation(folder: Path) -> None:
    locator = Locator(folder)
    plain = ["wavs/a.wav", "top.ogg", "wavs/sub/d.mp3", "wavs/a.wav"]
    assert locator.all_as_written(plain) == [str(folder / name) for name in plain]
    for odd in ("wavs/b.c.flac", "wavs/größe.wav", "wavs/$(touch pwned);`id`%s{0}.wav", "wavs/A.wav", "no/a.wav", ""):
        assert locator.all_as_written([*plain, odd]) is None
    assert locator.all_as_written(plain) == [str(folder / name) for name in plain]
