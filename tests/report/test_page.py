"""The page in a browser: it draws everything, without errors, network or harm, on any screen."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from everytoken.report.collect import collect
from everytoken.report.compare import compare
from everytoken.report.page import write_page
from everytoken.run.directory import Run
from support.reports import HOSTILE, make_run
from support.screenshot import (  # pyright: ignore[reportMissingImports]
    MISSING,
    Page,
    find_browser,
)

SECTIONS = ["picture", "curves", "results", "predictions", "data-section", "configuration"]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    browser = find_browser()
    if browser is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    with Page(browser) as page:
        yield page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs a (finished, with harmful texts) and b (training), and their pages."""
    folder = tmp_path_factory.mktemp("runs")
    for name in "ab":
        made = make_run(folder / name, finished=name == "a", lr={"a": 1, "b": 2}[name])
        identity = made.identity | {"name": HOSTILE if name == "a" else "b"}
        made.identity_file.write_text(json.dumps(identity))
        content = collect(made)
        write_page(folder / f"{name}.html", content["name"], {"runs": [content]})
    runs = {"run": [str(folder / "a"), str(folder / "b")], "out": str(folder / "compare.html")}
    compare(OmegaConf.create(runs))
    return folder


def complaints(page: Page) -> list[str]:
    """Errors, messages and requests of a page since it was opened."""
    return [
        json.dumps(event["params"])
        for event in page.events
        if event["method"]
        in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        or (
            event["method"] == "Network.requestWillBeSent"
            and event["params"]["request"]["url"].split(":")[0] not in ("file", "data")
        )
        or event["method"] == "Page.javascriptDialogOpening"
    ]


def shown_sections(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('section:not([hidden])')].map(s => s.id)")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("a", SECTIONS),
        ("b", SECTIONS),
        ("compare", ["curves", "results", "different"]),
    ],
)
def test_all_sections_are_drawn_without_a_complaint_and_fit_the_screen(
    page: Page, runs: Path, name: str, sections: list[str], width: int, dark: bool
):
    page.open(runs / f"{name}.html", width=width, dark=dark)
    assert page.run("document.documentElement.dataset.ready") == "true"
    assert shown_sections(page) == sections
    assert page.run(
        "[...document.querySelectorAll('section:not([hidden])')].every(s => s.offsetHeight > 60)"
    )
    assert page.run("document.documentElement.scrollWidth") <= width
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(19, 22, 27)" if dark else "rgb(255, 255, 255)")
    assert complaints(page) == []


def test_texts_that_mean_harm_are_only_texts(page: Page, runs: Path):
    page.open(runs / "a.html")
    assert page.run("document.getElementById('name').textContent") == HOSTILE
    assert (
        page.run("document.title")
        == " ".join(HOSTILE.replace("\0", "\ufffd").split()) + " · everytoken"
    )
    assert page.run("document.scripts.length") == 2
    assert page.run("document.querySelectorAll('#name *, #grid script').length") == 0


def test_the_grid_shows_what_was_collated(page: Page, runs: Path):
    picture = json.loads((runs / "a" / "report.json").read_text())["picture"]
    page.open(runs / "a.html")
    count = "document.querySelectorAll('.grid tbody td%s').length"
    coloured = sum(page.run(count % f".h{level}") for level in range(10))
    assert coloured == picture["targets"]
    assert page.run(count % ".read") == picture["real"] - picture["targets"]
    assert page.run(count % ".padding") == picture["positions"] - picture["real"]
    assert page.run(count % ".wrong") == len(range(0, picture["targets"], 5))
    said = page.run("document.getElementById('sentence').textContent")
    assert f"has {picture['real']} real tokens, {picture['targets']} of them targets" in said
    assert f"Computed on: {picture['real']}." in said
    assert f"3.500 / {picture['targets']}" in said


def test_the_slider_goes_back_to_earlier_steps(page: Page, runs: Path):
    page.open(runs / "a.html")
    hottest = "document.querySelectorAll('.grid .h6').length"
    assert page.run(hottest) == 0
    page.run(
        "s = document.querySelector('input[type=range]'); s.value = 0;"
        "s.dispatchEvent(new Event('input'))"
    )
    assert page.run("document.querySelector('output').textContent") == "step 10"
    assert page.run("document.getElementById('sentence').textContent").count(": 7 /") == 1


def press(page: Page, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        page.send("Input.dispatchKeyEvent", type=kind, key=key)


def test_cells_and_curves_are_read_with_the_keyboard(page: Page, runs: Path):
    tip = "document.getElementById('tip').textContent"
    page.open(runs / "a.html")
    page.run("document.querySelector('.grid td[tabindex=\"0\"]').focus()")
    assert "is read; it is no target" in page.run(tip)
    for _ in range(3):
        press(page, "ArrowRight")
    assert page.run(tip) == "sequence 1, position 4padding: no loss, no compute"
    page.run("document.querySelector('.charts .chart').focus()")
    press(page, "ArrowRight")
    press(page, "ArrowRight")
    assert page.run(tip).startswith("step 2train2")
    press(page, "Escape")
    assert page.run("document.getElementById('tip').hidden")
    label = page.run("document.querySelector('.charts .chart').getAttribute('aria-label')")
    assert "validation from 0.5000 to 0.1250" in label


def test_the_axis_can_be_real_tokens_and_settings_can_be_filtered(page: Page, runs: Path):
    page.open(runs / "a.html")
    page.run("document.querySelector('input[value=tokens]').click()")
    assert "by real tokens" in page.run(
        "document.querySelector('.chart').getAttribute('aria-label')"
    )
    assert "4000" in page.run("document.querySelector('.chart').textContent")
    page.run("document.querySelector('input[value=log]').click()")
    page.run(
        "f = document.getElementById('filter'); f.value = 'LR';f.dispatchEvent(new Event('input'))"
    )
    assert page.run("document.querySelectorAll('#settings-table tbody tr').length") == 1
    assert complaints(page) == []


def captions(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('#charts figcaption')].map(c => c.textContent)")


def test_a_curve_that_falls_far_is_logarithmic_unless_another_scale_is_chosen(
    page: Page, runs: Path
):
    page.open(runs / "a.html")  # a loss from 4 to 0.1
    logarithmic = [name.partition("logarithmic")[0] for name in captions(page) if "log" in name]
    assert "Loss" in logarithmic
    assert not {"Accuracy", "Learning rate"} & set(logarithmic)
    page.run("document.querySelector('input[value=linear]').click()")
    assert not any("logarithmic" in name for name in captions(page))
    page.run("document.querySelector('input[value=log]').click()")
    assert len([name for name in captions(page) if "logarithmic" in name]) >= len(logarithmic)
    assert complaints(page) == []


def content_of(run: Run, **more: Any) -> dict[str, Any]:
    return {"runs": [collect(run) | more]}


def test_the_best_step_is_marked_and_metrics_of_ones_own_come_first(page: Page, tmp_path: Path):
    made = make_run(tmp_path / "run")
    summary = made.summary or {}
    best = {"best/step": 30, "test/perplexity": 1.02, "test/accuracy": 0.9}
    write_page(tmp_path / "page.html", "best", {"runs": [collect(made, summary | best)]})
    page.open(tmp_path / "page.html")
    stars = "[...document.querySelectorAll('.star')].map(s => s.querySelector('title').textContent)"
    assert page.run(stars) == ["best checkpoint, step 30"] * 2  # of val/loss and val/bleu
    tiles = page.run("[...document.querySelectorAll('.tiles dt')].map(t => t.textContent)")
    assert tiles[0] == "Test bleu"
    assert "Test accuracy" in tiles
    assert "Test perplexity" not in tiles
    assert complaints(page) == []


def test_losses_of_two_kinds_share_no_axis(page: Page, tmp_path: Path):
    made = make_run(tmp_path / "run", module={"label_smoothing": 0.1, "z_loss": 0.0})
    write_page(tmp_path / "page.html", "smooth", content_of(made))
    page.open(tmp_path / "page.html")
    names = [name.replace("logarithmic", "") for name in captions(page)]
    assert names[:2] == ["Loss", "Training loss with label smoothing 0.1"]
    assert complaints(page) == []


def test_a_language_model_is_shown_by_how_it_goes_on(page: Page, tmp_path: Path):
    made = make_run(tmp_path / "run")
    sample = {"prompt": HOSTILE, "text": "right", "sample": "as it thinks"}
    write_page(tmp_path / "page.html", "sample", content_of(made, samples=[sample]))
    page.open(tmp_path / "page.html")
    cells = "[...document.querySelectorAll('#samples-table td')].map(c => c.textContent)"
    assert page.run(cells)[1:] == ["right", "as it thinks"]
    assert complaints(page) == []


def test_where_a_table_is_wider_than_the_screen_a_line_says_so(page: Page, runs: Path):
    boxes = "[...document.querySelectorAll('.scroll')]"
    wide = f"{boxes}.filter(box => box.scrollWidth > box.clientWidth).length"
    hints = "document.querySelectorAll('.hint + .scroll').length"
    page.open(runs / "a.html", width=390)
    assert page.run(hints) == page.run(wide) > 0
    page.open(runs / "a.html", width=1600)
    assert page.run(hints) == page.run(wide)


def test_labels_can_be_read_on_what_they_stand_on(page: Page, runs: Path):
    script = """(() => { const light = (text) => { const [r, g, b] = text.match(/[0-9.]+/g)
      .map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      return [...document.querySelectorAll('#bar span')].map((span) => { const style =
      getComputedStyle(span), [a, b] = [light(style.color), light(style.backgroundColor)];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }); })()"""
    for dark in (False, True):
        page.open(runs / "a.html", dark=dark)
        assert min(page.run(script)) >= 4.5  # WCAG 2.2, level AA


def test_a_comparison_marks_the_best_and_hides_curves_of_a_run(page: Page, runs: Path):
    page.open(runs / "compare.html")
    best = page.run("[...document.querySelectorAll('td.best')].map(cell => cell.textContent)")
    assert best == ["0.01000", "99"]  # of validation: the other run has no test yet
    lines = "document.querySelectorAll('.chart path').length"
    before = page.run(lines)
    page.run("document.querySelector('header button').click()")
    assert page.run(lines) < before
    assert complaints(page) == []


def test_a_run_that_has_hardly_begun_is_drawn(page: Page, tmp_path: Path):
    made = Run.create(tmp_path / "run", OmegaConf.create({"name": "young"}))
    (made.path / "metrics.csv").write_text("step,train/loss\n1,nan\n")
    write_page(tmp_path / "page.html", "young", {"runs": [collect(made)]})
    page.open(tmp_path / "page.html")
    assert shown_sections(page) == ["curves", "results", "configuration"]
    assert complaints(page) == []


def test_the_report_of_a_long_run_is_small_and_opens_at_once(page: Page, tmp_path: Path):
    made = make_run(tmp_path / "run", steps=50_000)
    write_page(tmp_path / "page.html", "long", {"runs": [collect(made)]})
    assert (tmp_path / "page.html").stat().st_size < 2_000_000
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        page.open(tmp_path / "page.html")
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 2.0  # a busy machine may add to any of them
    assert complaints(page) == []
