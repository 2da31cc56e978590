"""The report in a real browser: it draws without an error, asks for nothing, plays, filters and fits narrow screens."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import run_folders

from ttstrain.checkpoint.lock import hold
from ttstrain.report import live, reference
from ttstrain.report.write import write_report

Open = Callable[..., Any]
AT_THE_EDGE = """(() => {
  const { u, merged } = charts.find((one) => one.figure.id === "chart-train");
  const { high } = merged.parts[0].chart.shades[0].stretches[2];
  const [x, y] = [u.valToPos(40, "x", true), u.valToPos(high * 0.99, "y", true)];
  return String(u.ctx.getImageData(x, y, 1, 1).data);
})()"""  # the colour just under the band's upper edge at step 40, where no line is
PLAYING = "player.audio.paused ? '' : player.button.dataset.title"


def until(page: Any, true: str) -> None:
    """Wait until a condition holds. Playwright's own way evaluates text, which the page's policy forbids."""
    for _ in range(300):
        if page.evaluate(true):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"never true: {true}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = run_folders.write_run(tmp_path_factory.mktemp("runs") / "made")
    write_report([run], run / "report.html")
    return run


@pytest.fixture
def address(run: Path) -> str:
    return (run / "report.html").as_uri()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_draws_without_error_or_request_and_fits(
    open_tab: Open, address: str, artefacts: Path, width: int, theme: str
) -> None:
    tab = open_tab(address, width=width, theme=theme)
    tab.page.screenshot(path=artefacts / f"report-{theme}-{width}.png", full_page=True)
    assert tab.errors == []
    assert tab.requests == [address]
    assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    charts = tab.page.evaluate("report.runs[0].charts.filter((one) => one.values.flat().some((value) => value)).length")
    assert tab.page.locator("figure.chart canvas").count() == charts > 8
    assert tab.page.locator("h1").inner_text() == "made"
    light = "rgb(251, 251, 250)"
    assert (tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == light) == (theme == "light")


def test_texts_of_a_run_are_shown_as_they_are(open_tab: Open, address: str) -> None:
    tab = open_tab(address)
    assert tab.page.locator(".grid .said").first.text_content() == run_folders.EVIL
    assert tab.page.locator("img[src='x']").count() == 0
    assert tab.errors == []


@pytest.mark.parametrize("embed", [None, "flac", "ogg"])
def test_sounds_play_and_stop_one_another(open_tab: Open, run: Path, embed: Any) -> None:
    write_report([run], run / f"page-{embed}.html", embed=embed)
    tab = open_tab((run / f"page-{embed}.html").as_uri())
    sounds = tab.page.locator("button.sound")
    sounds.nth(0).click()
    until(tab.page, "player.audio.currentTime > 0.1 && !player.audio.paused")
    assert tab.page.evaluate(PLAYING).startswith("recording: ")
    sounds.nth(2).click()
    until(tab.page, "player.audio.currentTime > 0.1 && !player.audio.paused")
    assert tab.page.evaluate(PLAYING).startswith("step 20, raw: ")
    assert tab.page.locator("button.sound[aria-pressed=true]").count() == 1
    sounds.nth(2).click()
    until(tab.page, "player.audio.paused")
    assert len(tab.requests) == (3 if embed is None else 1)
    assert tab.errors == []


def test_the_grid_is_played_with_the_keyboard(open_tab: Open, address: str) -> None:
    tab = open_tab(address)
    tab.page.locator("button.sound").first.focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        tab.page.keyboard.press(key)
    until(tab.page, "!player.audio.paused")
    assert tab.page.evaluate(PLAYING).startswith("step 20, raw: ")
    tab.page.keyboard.press("Escape")
    until(tab.page, "player.audio.paused")


def test_a_sound_that_is_missing_is_told(open_tab: Open, run: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.html").write_bytes((run / "report.html").read_bytes())
    tab = open_tab((tmp_path / "alone.html").as_uri())
    tab.page.locator("button.sound").first.click()
    tab.page.wait_for_selector("text=the sound file is not where the page expects it")


def test_filters_filter(open_tab: Open, address: str) -> None:
    page = open_tab(address).page
    heads = page.locator(".grid thead th")
    assert heads.all_inner_texts()[1:5] == ["recording", "base", "step 20, raw", "step 20, EMA"]
    page.get_by_label("EMA", exact=True).uncheck()
    assert heads.all_inner_texts()[1:] == ["recording", "base", "step 20, raw", "step 40, raw", "step 60, raw"]
    page.select_option("#grid-steps", "last")
    assert heads.all_inner_texts()[1:] == ["recording", "base", "step 60, raw"]
    page.fill("#grid-text", "no such words")
    assert page.locator(".grid tbody tr").count() == 0
    page.fill("#setting-text", "optim.lr")
    assert page.locator("#recipe tbody tr:visible th").all_inner_texts() == ["optim.lr"]
    page.fill("#setting-text", "")
    page.get_by_label("only what is not a default").check()
    assert set(page.locator("#recipe tbody tr:visible th").all_inner_texts()) == {"task", "data.path", "optim.lr"}


def test_the_step_under_the_pointer_is_read_out_in_every_chart(open_tab: Open, address: str) -> None:
    page = open_tab(address).page
    page.locator("#chart-held-out .focus").focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.locator("#chart-held-out .readout").inner_text() == "step 20"
    assert page.locator("#chart-held-out .value").first.inner_text() == "0.5134"  # exp(-20 / 30)
    assert page.locator("#chart-train .readout").inner_text() == "step 20"
    page.locator("#chart-grad-norm .focus").focus()
    for key in ("Home", *["ArrowRight"] * 31):
        page.keyboard.press(key)
    assert "skip at step 32: spike; loss nan" in page.locator("#chart-grad-norm .readout").inner_text()


def test_lines_and_scales_are_switched(open_tab: Open, address: str) -> None:
    page = open_tab(address).page
    legend = page.locator("#chart-held-out .legend button")
    assert legend.nth(1).get_attribute("aria-pressed") == "true"
    legend.nth(1).click()
    assert page.locator("#chart-held-out .legend button").nth(1).get_attribute("aria-pressed") == "false"
    page.locator("#chart-held-out button.small").click()
    assert page.evaluate("charts.find((one) => one.merged.id === 'held-out').u.scales.y.distr") == 3


def test_metrics_without_a_number_are_not_called_zero(open_tab: Open, tmp_path: Path) -> None:
    made = run_folders.write_run(tmp_path / "made")
    rows = [{"step": step, "perf/mfu": 0.0, "ema/distance": None, "perf/padding_share": 0.5} for step in (1, 2)]
    run_folders.write_metrics(made, rows)
    write_report([made], made / "report.html")
    tab = open_tab((made / "report.html").as_uri())
    assert tab.page.get_by_text("Always 0: MFU.").count() == 1
    assert tab.page.get_by_text("Always NaN or infinite: EMA distance.").count() == 1
    assert tab.page.locator("figure.chart canvas").count() == 1
    assert tab.errors == []


NAMELESS = """[...document.querySelectorAll('button, input, select')].filter((one) =>
  !(one.textContent.trim() || one.getAttribute('aria-label') || (one.labels && one.labels.length))).length"""
# Of two colours of the style, the contrast as WCAG 2 defines it.
CONTRAST = """(names) => {
  const rgb = (name) => {
    const one = document.createElement('i');
    one.style.color = colour(name);
    document.body.append(one);
    const found = getComputedStyle(one).color.match(/\\d+/g).map(Number);
    one.remove();
    return found;
  };
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (name) => rgb(name).reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const [low, high] = names.map(light).sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_control_has_a_name_and_text_is_legible(open_tab: Open, address: str, theme: str) -> None:
    page = open_tab(address, theme=theme).page
    assert page.evaluate(NAMELESS) == 0
    for over in ("--card", "--back"):
        for under in ("--text", "--muted", "--accent", "--bad"):
            assert page.evaluate(CONTRAST, [under, over]) >= 4.5, (under, over)
        for number in range(1, 9):
            assert page.evaluate(CONTRAST, [f"--series-{number}", over]) >= 3, (number, over)


def test_two_runs_are_laid_over_each_other(open_tab: Open, run: Path, tmp_path: Path, artefacts: Path) -> None:
    other = run_folders.write_run(tmp_path / "other", name="other", lr=5e-4)
    write_report([run, other], tmp_path / "both.html")
    tab = open_tab((tmp_path / "both.html").as_uri())
    tab.page.screenshot(path=artefacts / "report-two-runs-1440.png", full_page=True)
    assert tab.errors == []
    sections = tab.page.locator("#sections a").all_inner_texts()
    assert sections[:2] == ["Verdict", "Settings that differ"]
    assert tab.page.locator("#differences tbody tr").all_inner_texts() == ["optim.lr\t0.001\t0.0005"]
    names = tab.page.locator("#chart-held-out .legend button").all_text_contents()
    assert [name.split(":")[0] for name in names] == ["made", "made", "other", "other"]


def test_it_prints_in_light_colours(open_tab: Open, address: str, artefacts: Path) -> None:
    tab = open_tab(address, theme="dark")
    tab.page.pdf(path=artefacts / "report.pdf", format="A4")
    assert tab.errors == []
    assert tab.page.evaluate("isDark()")  # and the screen is as before


# ---------------------------------------------------------------- live


def test_a_watched_run_is_steered_and_redrawn(
    open_tab: Open, tmp_path: Path, artefacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FRESH_S", 0.0)
    monkeypatch.setattr(live, "SHARE", math.inf)
    run = run_folders.write_run(tmp_path / "made")
    with hold(run), live.Server(run) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            tab = open_tab(server.address)
            page = tab.page
            page.fill("#say-text", "What a day!")
            page.click("#ask-sample")
            page.wait_for_selector("text=The samples come after the step")
            assert (run / "SAMPLE").read_text() == "What a day!\n"
            page.click("#ask-save")
            page.wait_for_selector("text=The checkpoint comes after the step")
            assert (run / "SAVE").exists()
            assert tab.errors == []
            page.click("#ask-stop")  # the dialog that asks again is accepted
            page.wait_for_selector("text=The run saves and stops")
            assert (run / "STOP").exists()
            assert tab.errors == ["dialog Save and stop the run?"]
            page.locator("button.sound").first.click()
            until(page, "player.audio.currentTime > 0.1")
            page.fill("#setting-text", "optim.lr")
            page.keyboard.press("ArrowLeft")
            run_folders.write_metrics(run, [run_folders.row(step) for step in range(71)])
            until(page, "report.runs[0].charts[0].steps.at(-1) === 70")
            caret = page.evaluate("[document.activeElement.id, document.activeElement.selectionStart]")
            assert caret == ["setting-text", len("optim.l")]
            page.locator("button.sound").nth(1).focus()
            run_folders.write_metrics(run, [run_folders.row(step) for step in range(81)])
            until(page, "report.runs[0].charts[0].steps.at(-1) === 80")
            assert page.evaluate("document.activeElement === document.querySelectorAll('button.sound')[1]")
            followers = "uPlot.sync('steps').plots.length"
            assert page.evaluate(followers) == page.evaluate("charts.length")  # those of the former page are gone
            assert page.input_value("#setting-text") == "optim.lr"
            assert page.locator("#recipe tbody tr:visible th").all_inner_texts() == ["optim.lr"]
            assert page.input_value("#say-text") == "What a day!"
            page.screenshot(path=artefacts / "watch-1440.png")
            assert all(url.startswith(server.address) for url in tab.requests)
        finally:
            server.shutdown()
            thread.join()


def test_the_band_of_reference_runs_is_drawn_and_named(
    open_tab: Open, tmp_path: Path, artefacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "find_band", lambda _name: run_folders.BAND)
    run = run_folders.write_run(tmp_path / "made")
    run_folders.write_comparison(run)
    write_report([run], run / "report.html")
    for width, theme in ((1440, "light"), (360, "dark")):
        tab = open_tab((run / "report.html").as_uri(), width=width, theme=theme)
        page = tab.page
        legend = page.locator("#chart-train .legend li")
        assert legend.last.inner_text() == "3 reference runs of small: inside"
        assert page.locator("#chart-grad-norm .legend .outside").inner_text() == "3 reference runs of small: below"
        assert "where the first steps of a healthy run lie" in page.locator("#chart-train").inner_text()
        page.locator("#losses").screenshot(path=artefacts / f"band-{theme}-{width}.png")
        with_band = page.evaluate(AT_THE_EDGE)
        legend.last.locator("button").click()
        assert with_band != page.evaluate(AT_THE_EDGE)
        assert legend.last.locator("button").get_attribute("aria-pressed") == "false"
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert tab.errors == []
