"""The page is one file that asks for nothing, and no text of a run becomes a part of its code."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import run_folders
import soundfile
from PIL import Image

from ttstrain.report import mel, page, sound
from ttstrain.report.write import write_report


class Elements(HTMLParser):
    """Collects elements as a browser's parser finds them: a script ends at the first `</script`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open = tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open, []).append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folders.write_run(tmp_path_factory.mktemp("runs") / "made", name=run_folders.EVIL)


@pytest.fixture(scope="module")
def written(run: Path) -> str:
    write_report([run], run / "report.html")
    return (run / "report.html").read_text(encoding="utf-8")


def test_texts_of_a_run_cannot_leave_their_place(written: str) -> None:
    found = Elements(written)
    assert found.tags.count("script") == 3
    assert "img" not in found.tags
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert run_folders.EVIL in found.texts["title"][0]
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', written, re.DOTALL)[0])
    assert data["runs"][0]["grid"]["rows"][0]["text"] == run_folders.EVIL
    assert data["runs"][0]["events"]["warnings"][0]["text"] == run_folders.EVIL


def test_nothing_on_the_page_is_fetched(written: str) -> None:
    found = Elements(written)
    assert not [
        value
        for tag, name, value in found.attributes
        if name in ("src", "srcset", "action") or (tag, name) == ("link", "href")
    ]
    assert not re.search(r"@import|url\(|importScripts|new Worker", written)
    assert len(written) < 700_000


def test_the_policy_names_the_scripts_and_styles_that_are_there(written: str) -> None:
    policy = next(value for _, name, value in Elements(written).attributes if value.startswith("default-src"))
    for kind, tag in (("script", r"<script>(.*?)</script>"), ("style", r"<style>(.*?)</style>")):
        (content,) = re.findall(tag, written, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "connect-src 'none'" in policy


@pytest.mark.parametrize("text", ["\ud800 half a pair", "\u2028", "é 你好", "\\u003c"])
def test_any_text_survives(text: str) -> None:
    assert json.loads(page.encoded(page.as_json({"text": text})).decode("utf-8"))["text"] == text


def test_licences_of_the_chart_library_are_beside_it() -> None:
    folder = Path(page.__file__).parent / "page"
    assert "MIT" in (folder / "uplot.LICENSE.txt").read_text()
    assert "Leon Sorokin" in (folder / "uplot.LICENSE.txt").read_text()


@pytest.mark.parametrize(("codec", "error"), [("flac", 1e-4), ("ogg", 0.1)])
def test_sound_is_embedded_on_request(run: Path, tmp_path: Path, codec: sound.Codec, error: float) -> None:
    report = write_report([run], tmp_path / "alone.html", embed=codec)
    for cell in report.runs[0].grid.rows[0].cells:
        head, _, content = cell.address.partition(",")
        assert head == f"data:audio/{codec};base64"
        wav, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
        assert rate == run_folders.RATE
        assert len(wav) / rate == pytest.approx(cell.seconds, abs=0.01)
        level = 0.5 if cell.by == "recording" else 1.0
        np.testing.assert_allclose(wav[2000:12000], level * run_folders.tone(1.0)[2000:12000], atol=error)


def test_addresses_are_relative_to_the_page(run: Path, tmp_path: Path) -> None:
    report = write_report([run], tmp_path / "a b" / "other.html")
    address = report.runs[0].grid.rows[0].cells[1].address
    assert address.startswith("../")
    assert (tmp_path / "a b" / address).is_file()


def test_two_runs_of_one_name_are_told_apart(run: Path, tmp_path: Path) -> None:
    other = run_folders.write_run(tmp_path / "second", name=run_folders.EVIL)
    report = write_report([run, other], tmp_path / "both.html")
    assert [one.name for one in report.runs] == ["made", "second"]


def test_pictures_stop_before_the_page_grows_too_large(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sound, "PICTURE_BYTES", 5_000)
    (row,) = write_report([run], tmp_path / "small.html").runs[0].grid.rows
    drawn = [(cell.by, cell.step) for cell in row.cells if cell.picture]
    assert ("recording", None) in drawn
    assert len(drawn) < len(row.cells)
    assert sum(len(cell.picture) for cell in row.cells) <= 5_000


# ---------------------------------------------------------------- pictures


def test_a_tone_is_bright_at_its_pitch() -> None:
    rate = 16_000
    times = np.arange(rate) / rate
    rows = []
    for pitch in (200, 1000, 4000):
        levels = mel.log_mel((0.5 * np.sin(2 * np.pi * pitch * times)).astype(np.float32), rate, frames=20)
        assert levels.shape == (mel.BANDS, 20)
        rows.append(int(levels[:, 10].argmax()))
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + mel.TOP_HZ / 700), mel.BANDS + 2) / 2595) - 1)
    assert rows == [int(np.abs(edges[1:-1] - pitch).argmin()) for pitch in (200, 1000, 4000)]


def test_a_picture_is_small_and_as_wide_as_asked() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    drawn = mel.draw(noise, 24_000, width=72)
    image = Image.open(io.BytesIO(drawn))
    assert image.size == (72, mel.BANDS)
    assert len(drawn) < 6_000


@pytest.mark.parametrize("samples", [0, 1, 300])
def test_the_shortest_sounds_are_drawn(samples: int) -> None:
    assert mel.draw(np.zeros(samples, np.float32), 24_000, width=8)
