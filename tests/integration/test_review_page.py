"""The review page in a browser: what a person does there comes back through the table that it saves."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ttstrain.recordings.clips import CutClip
from ttstrain.recordings.review import Correction, page, read_corrections

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium")

EVIL = '</script><b id="planted">"x"</b>, ; &amp;'
CLIPS = [
    CutClip(id=f"a-000{i}", file=f"clips/a-000{i}.wav", source="/r/a.wav", start=0, end=16_000, sample_rate=16_000,
            text=text, origin="draft" if i > 2 else "text file", speaker="anna")
    for i, text in enumerate((EVIL, "two", "three", "an unseen draft", "a draft that is right", "a draft"))
]  # fmt: skip
ACTS = """<script>
const caught = [];
addEventListener("error", (event) => caught.push(event.message), true);
URL.createObjectURL = (blob) => { blob.text().then((text) => {
  const out = document.createElement("pre");
  out.id = "saved";
  out.textContent = text + caught.filter(Boolean).map((one) => "ERROR " + one).join("\\n");
  document.body.append(out);
}); return "#"; };
const at = (number) => document.querySelectorAll("#list li")[number];
at(1).querySelector("input[type=checkbox]").click();
at(2).querySelector("textarea").value = 'three, "corrected"\\nin two lines';
at(2).querySelector("input[type=text]").value = "berta";
at(4).querySelectorAll("input[type=checkbox]")[1].click();
at(5).querySelector("textarea").value = "a corrected draft";
at(5).querySelector("textarea").dispatchEvent(new Event("input"));
document.getElementById("save").click();
</script></body>"""


def test_what_is_done_on_the_page_is_what_is_saved(tmp_path: Path) -> None:
    written = page(CLIPS, title="x", command="y").replace("</body>", ACTS)
    (tmp_path / "review.html").write_text(written, encoding="utf-8")
    assert BROWSER is not None
    shown = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "review.html").as_uri()],
        check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    saved = re.search(r'<pre id="saved">(.*?)</pre>', shown, re.DOTALL)
    assert saved is not None, shown[-2000:]
    (tmp_path / "review.csv").write_text(html.unescape(saved[1]), encoding="utf-8")
    assert read_corrections(tmp_path / "review.csv") == {
        "a-0000": Correction(False, "anna", EVIL),
        "a-0001": Correction(True, "anna", "two"),
        "a-0002": Correction(False, "berta", 'three, "corrected" in two lines'),
        "a-0004": Correction(False, "anna", "a draft that is right"),
        "a-0005": Correction(False, "anna", "a corrected draft"),
    }
    assert '<b id="planted">' not in shown
    assert "4 of 6 clips have a text and stay; 1 draft is not checked yet" in shown
