"""Make the README's two pictures of a real run: its report, and what the terminal said.

    ttstrain finetune quickstart name=quickstart 2>&1 | tee quickstart.log
    python scripts/make_pictures.py runs/quickstart quickstart.log

They are written to docs/img as report.png and terminal.png. Nothing is drawn by hand: of the page the sections
`SECTIONS` are kept, of the terminal's lines the first and the last. Needs the extra `browser` and a Chromium.
"""

from __future__ import annotations

import argparse
import html
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ttstrain.report.write import write_report

OUT = Path(__file__).resolve().parents[1] / "docs" / "img"
SECTIONS = ("verdict", "losses", "samples")
NUM_CHARTS = 2  # of the losses: a row
WIDTH = 1240  # CSS pixels: two charts in a row, five columns of samples
SCALE = 1.25
MARGIN = 16
MOST_BYTES = 200_000
NUM_COLOURS = (256, 128, 64)
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")

SHORTER = f"""
section:not({", ".join(f"#{name}" for name in SECTIONS)}), nav {{ display: none !important; }}
#losses figure.chart:nth-of-type(n + {NUM_CHARTS + 1}) {{ display: none !important; }}
"""
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #fbfbfa; }}
pre {{ display: inline-block; margin: 0; padding: 18px 22px; border-radius: 8px; background: #14181f; color: #d7dde6;
       font: 14px/1.2 "DejaVu Sans Mono", Menlo, Consolas, monospace; }}
b {{ color: #ffffff; }} i {{ color: #7c8794; font-style: normal; }}
</style><pre>{lines}</pre>"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the README's pictures of a run.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("said", type=Path, help="file with what the run said on the terminal")
    parser.add_argument("-o", "--out", type=Path, default=OUT, help="folder of the pictures")
    parser.add_argument("--command", default="ttstrain finetune quickstart", help="shown above the terminal's lines")
    given = parser.parse_args()
    lines = shortened(given.said.read_text(encoding="utf-8").splitlines())
    given.out.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        pictures = {
            "report.png": of_report(browser, given.run, Path(scratch)),
            "terminal.png": of_terminal(browser, given.command, lines),
        }
        browser.close()
    for name, picture in pictures.items():
        content = small(picture)
        (given.out / name).write_bytes(content)
        print(f"{given.out / name}  {len(content) / 1000:.0f} kB")
    return 0


def chromium() -> str:
    named = os.environ.get("TTSTRAIN_CHROMIUM", "")
    found = next((path for name in (named, *CHROMIUMS) if name and (path := shutil.which(name))), None)
    if found is None:
        sys.exit("error: no Chromium is installed\nhint: name one in $TTSTRAIN_CHROMIUM")
    return found


# ---------------------------------------------------------------- the report


def of_report(browser: Any, run: Path, scratch: Path) -> bytes:
    """Picture the sections `SECTIONS` of a run's page, written anew."""
    write_report([run], scratch / "report.html", embed="ogg")
    page = _page(browser)
    page.goto((scratch / "report.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    page.add_style_tag(content=SHORTER)
    page.wait_for_timeout(500)  # charts follow the width
    box = page.locator(f"#{SECTIONS[-1]}").bounding_box()
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + MARGIN}
    picture: bytes = page.screenshot(full_page=True, clip=clip)
    return picture


def _page(browser: Any) -> Any:
    return browser.new_context(
        viewport={"width": WIDTH, "height": 1000}, device_scale_factor=SCALE, color_scheme="light", bypass_csp=True
    ).new_page()


# ---------------------------------------------------------------- the terminal


def shortened(lines: Sequence[str]) -> list[str]:
    """Keep a run's plan up to its EMA, and what it says from its last listening on; `⋮` stands for the rest."""
    first = next((at for at, line in enumerate(lines) if line.startswith("ema ")), None)
    last = max((at for at, line in enumerate(lines) if line.startswith("step ") and "  judge: " in line), default=None)
    if first is None or last is None or not first < last:
        sys.exit("error: these are not the lines of a whole run with a judge")
    return [*lines[:first], "⋮", *lines[last:]]


def of_terminal(browser: Any, command: str, lines: Sequence[str]) -> bytes:
    """Picture the lines of a run below its command."""
    page = _page(browser)
    marked = [f"<i>$</i> <b>{html.escape(command)}</b>", *map(_marked, lines)]
    page.set_content(TERMINAL.format(lines="\n".join(marked)))
    picture: bytes = page.locator("pre").screenshot()
    return picture


def _marked(line: str) -> str:
    safe = html.escape(line)
    if line == "⋮":
        return f"<i>{safe}</i>"
    strong = line.startswith("done:") or " starts: " in line
    return f"<b>{safe}</b>" if strong else safe


def small(picture: bytes) -> bytes:
    """Write a PNG with as many colours as fit `MOST_BYTES`."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for count in NUM_COLOURS:
        content = io.BytesIO()
        image.quantize(count, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            content, "PNG", optimize=True
        )
        if content.tell() <= MOST_BYTES:
            return content.getvalue()
    sys.exit(f"error: the picture has {content.tell():,} bytes with {NUM_COLOURS[-1]} colours: make it smaller")


if __name__ == "__main__":
    sys.exit(main())
