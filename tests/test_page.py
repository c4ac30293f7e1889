"""The page in a browser: it opens from a file and asks for nothing, on every screen, in the dark, and on paper."""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from test_report import ranking, result

from retrieval.report import looked, writing
from retrieval.report.page import render
from retrieval.report.table import Cell, Table

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
DECILES = [f"p/d{i}" for i in range(1, 10)]
Open = Callable[..., Page]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH")


def photo(path: Path, rng: np.random.Generator, size: tuple[int, int] = (320, 240)) -> str:
    """A JPEG with detail, as a photo has."""
    grain = rng.integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    Image.fromarray(grain).resize(size, Image.Resampling.BICUBIC).save(path)
    return str(path)


def history(seed: int, per_channel: bool) -> str:
    """A metrics.csv as `train.py` writes it."""
    spread = ["p/mean", "p/min", "p/max", *DECILES] if per_channel else ["p"]
    columns = ["epoch", "step", "train/loss", "train/waiting", "validation/mAP", "landmarks/mAP@224", *spread]
    lines = [[0, step, 2 - step / 20, 0.1, 0.4 + step / 99, 0.5, *(3 + seed + i / 9 for i, _ in enumerate(spread))]
             for step in range(20)]  # fmt: skip
    return "\n".join(",".join(map(str, line)) for line in [columns, *lines])


def run(folder: Path, rows: list[Any], rankings: list[Any], history: str) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n" * 20)
    (folder / "results.json").write_text(json.dumps(rows))
    (folder / "rankings.json").write_text(json.dumps(rankings))
    (folder / "metrics.csv").write_text(history)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three poolings of two seeds at two resolutions; a value that is NaN, a photo that is gone, a run that failed."""
    root, rng = tmp_path_factory.mktemp("page"), np.random.default_rng(0)
    top = [photo(root / f"{i}.jpg", rng) for i in range(4)]
    spread = {"mean": 3.1, "min": 2.0, "max": 4.2}
    for seed in range(2):
        for pooling, p, value in (("gap", None, 0.09), ("gem", 3.0 + seed / 9, 0.412), ("gem_channels", spread, 0.5)):
            own: dict[str, Any] = {"pooling": pooling, "seed": seed, "settings": pooling}
            rows = [result(value + r / 1e5, p=p, resolution=r, **own) for r in (224, 320)]
            rows += [result(0.05, p=p and 3.0, untrained=True, resolution=r, **own) for r in (224, 320)]
            shown = [ranking(top[0], [*top[1:], "gone.jpg"], **own)]
            run(root / f"runs/{pooling}_{seed}", rows, shown, history(seed, pooling == "gem_channels"))
    run(root / "runs/max_0", [result(math.nan, pooling="max", settings="max", p=None)], [], "")
    (root / "runs/failed").mkdir()
    (root / "runs/failed/config.yaml").write_text("seed: 0\n")
    return writing.write([root / "runs"], root)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def opened(browser: Browser, report: Path) -> Iterator[Open]:
    """Opens the report in a page of its own, with what `Browser.new_page` takes."""
    pages: list[Page] = []

    def opened(**how: Any) -> Page:
        pages.append(browser.new_page(**how))
        pages[-1].set_default_timeout(10_000)
        pages[-1].goto(report.as_uri())
        return pages[-1]

    yield opened
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def page(opened: Open) -> Page:
    return opened(viewport={"width": 1280, "height": 800})


def column(page: Page, name: str) -> list[str]:
    """The cells beneath a header of the first table."""
    return page.evaluate(
        """name => { const table = document.querySelector("table");
        const i = Array.from(table.tHead.rows[0].cells, cell => cell.textContent).indexOf(name);
        return Array.from(table.tBodies[0].rows, row => row.cells[i].textContent); }""",
        name,
    )


def header(page: Page, name: str) -> Any:
    return page.locator("table").first.get_by_role("button", name=name, exact=True)


def contrast(page: Page, selector: str) -> float:
    """Of an element's text on the page, as WCAG 2 defines it."""
    colours = page.evaluate(
        "selector => [getComputedStyle(document.querySelector(selector)).color, "
        "getComputedStyle(document.body).backgroundColor]",
        selector,
    )
    light, dark = sorted((luminance(*map(int, re.findall(r"\d+", colour)[:3])) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(*channels: int) -> float:
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_it_opens_from_a_file_without_an_error_and_asks_for_nothing_else(browser: Browser, report: Path) -> None:
    asked: list[str] = []
    said: list[str] = []
    with browser.new_page() as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(report.as_uri())
        page.wait_for_load_state("networkidle")
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()] and said == []


def test_a_click_sorts_numbers_as_numbers_and_what_is_none_last(page: Page) -> None:
    header(page, "landmarks, 224 px").click()
    once = column(page, "landmarks, 224 px")
    assert once == ["5.0 ± 0.0"] * 3 + ["9.2 ± 0.0", "41.4 ± 0.0", "50.2 ± 0.0", "NaN"]


def test_another_click_reverses_and_what_is_none_stays_last(page: Page) -> None:
    for _ in range(2):
        header(page, "p").click()
    assert column(page, "p") == ["3.10 (2.00 to 4.20)", "3.06", "3.00", "3.00", "-", "-", "-"]


def test_words_that_are_numbers_sort_as_numbers(browser: Browser) -> None:
    lines = [[Cell(rate), Cell("50.0")] for rate in ("0.5", "1e-05", "-", "0.25", "0.001")]
    table = Table("by rate", ["optimizer.lr", "mAP"], lines, names=1).html()
    with browser.new_page() as page:
        page.set_content(render("rates", [], [("Tables", table)]))
        header(page, "optimizer.lr").click()
        assert column(page, "optimizer.lr") == ["1e-05", "0.001", "0.25", "0.5", "-"]


def test_what_was_lost_sorts_below_what_was_gained(browser: Browser) -> None:
    lines = [[Cell("a"), Cell(change)] for change in ("gained 0.20", "lost 1.00", "lost 0.10")]
    table = Table("files", ["file", "change"], lines, 1)
    with browser.new_page() as page:
        page.set_content(render("files", [], [("Tables", table.html())]))
        header(page, "change").click()
        assert column(page, "change") == ["lost 1.00", "lost 0.10", "gained 0.20"]


def test_a_sorted_column_says_so_and_no_other(page: Page) -> None:
    header(page, "seeds").click()
    header(page, "pooling").click()
    assert page.locator("th[aria-sort]").evaluate_all("all => all.map(th => [th.textContent, th.ariaSort])") == [
        ["pooling", "ascending"]
    ]


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_key_sorts_as_a_click_does(page: Page, key: str) -> None:
    header(page, "seeds").click()
    header(page, "weights").focus()
    page.keyboard.press(key)
    assert column(page, "weights") == sorted(column(page, "weights"))


def test_every_picture_is_there_and_is_described(page: Page) -> None:
    pictures = page.locator("img").evaluate_all("all => all.map(img => [img.naturalWidth, img.alt])")
    assert len(pictures) > 4 and all(width > 0 and alt for width, alt in pictures)


def test_every_chart_is_drawn(page: Page) -> None:
    traces = page.locator(".plot").evaluate_all("all => all.map(p => p.querySelectorAll('.trace.scatter').length)")
    assert page.locator("figure.chart").count() == 5 and len(traces) > 8 and all(traces)


def test_pointing_at_a_chart_tells_run_seed_and_value(page: Page) -> None:
    plot = page.locator("figure.chart", has_text="The p of GeM over training steps").locator(".plot").first
    plot.scroll_into_view_if_needed()
    plot.locator(".trace.scatter").first.locator(".js-line").hover(force=True)
    told = plot.locator(".hoverlayer").text_content() or ""
    assert re.search(r"gem.*training step \d+p 3.*seed 0, runs/gem_0", told)


def test_a_model_can_be_hidden(page: Page) -> None:
    chart = page.locator("figure.chart").first
    before = chart.locator(".trace.scatter").count()
    chart.get_by_role("button", name="gap").click()
    page.wait_for_function(
        "n => document.querySelectorAll('figure.chart')[0].querySelectorAll('.trace').length < n", arg=before
    )
    chart.get_by_role("button", name="gap").click()
    assert chart.locator(".trace.scatter").count() == before


def test_one_panel_can_be_chosen(page: Page) -> None:
    chart = page.locator("figure.chart").last
    chart.get_by_role("combobox").select_option("validation/mAP")
    assert chart.locator(".panel:visible").count() == 1
    chart.get_by_role("combobox").select_option("")


@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_does_not_scroll_sideways(opened: Open, width: int) -> None:
    page = opened(viewport={"width": width, "height": 740})
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


def hidden(page: Page) -> list[str]:
    """The cells of each table up to its first value that the screen does not show in full before it is scrolled."""
    return page.evaluate("""() => [...document.querySelectorAll("table")].flatMap(table => {
        const titles = [...table.tHead.rows[0].cells];
        const words = titles.filter(title => title.classList.contains("word")).length;
        const shown = words + 1 + titles.some(title => title.textContent === "seeds");
        const edge = Math.min(innerWidth, table.closest(".scroll").getBoundingClientRect().right);
        return [...table.rows].flatMap(row => [...row.cells].slice(0, shown))
            .filter(cell => cell.getBoundingClientRect().right > edge).map(cell => cell.textContent); })""")


def test_a_phone_shows_the_first_value_of_every_table(opened: Open) -> None:
    page = opened(viewport={"width": 400, "height": 740})
    assert page.locator("table").count() > 2 and hidden(page) == []


def test_a_phone_shows_the_first_value_beside_long_words(browser: Browser) -> None:
    words = ["resnet10t_narrow", "gem (p=3) + whitening", "3 scales 1 0.707 0.5, pca 256 shrinkage=0.7", "untrained"]
    lines = [[Cell(text) for text in (*words, "3", *["51.2 ± 0.3 [46.6, 55.8]"] * 6)]]
    header = ["backbone", "pooling", "descriptor", "weights", "seeds", *(f"landmarks, {r} px, macro" for r in range(6))]
    gains = [[Cell(", ".join(words)), *[Cell("+10.00 [-10.12, +10.31], P value <0.001")] * 3]]
    tables = [Table("wide", header, lines, 4), Table("against", ["line", *(f"a, {r} px" for r in range(3))], gains, 1)]
    with browser.new_page(viewport={"width": 400, "height": 740}) as page:
        page.set_content(render("wide", [], [("Tables", "".join(table.html() for table in tables))]))
        assert hidden(page) == [] and page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


def test_one_table_stands_before_the_first_chart(page: Page) -> None:
    found = page.locator("table, figure.chart").evaluate_all("all => all.map(one => one.tagName)")
    assert found[:2] == ["TABLE", "FIGURE"] and found.count("TABLE") > 2


@pytest.mark.parametrize("width", [360, 1280])
def test_pictures_of_where_models_looked_stay_in_their_place(browser: Browser, tmp_path: Path, width: int) -> None:
    wide = photo(tmp_path / "wide.jpg", np.random.default_rng(0), (640, 200))
    entry: dict[str, Any] = ranking(wide, [wide], label="gem") | {"query": {"path": wide}}
    entry["top"][0]["looked"] = {"query": [[0.8]], "photo": [[0.8]], "similarity": 0.8}
    with browser.new_page(viewport={"width": width, "height": 740}) as page:
        page.set_content(render("looked", [], [looked.looked([[entry, entry]])]))
        over = """all => all.map(img => img.getBoundingClientRect().right
        - img.closest(".ranked").getBoundingClientRect().right)"""
        assert max(page.locator(".looked img").evaluate_all(over)) <= 0
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("selector", ["p", "th", "td", "li", "figcaption", "a", "tr.untrained td", ".mark.wrong"])
def test_text_is_legible(page: Page, scheme: Any, selector: str) -> None:
    page.emulate_media(color_scheme=scheme)
    assert contrast(page, selector) >= 4.5


def test_it_is_dark_where_the_system_is(page: Page) -> None:
    shades = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        shades.append(luminance(*map(int, re.findall(r"\d+", colour))))
    assert shades[0] > 0.9 and shades[1] < 0.05


def test_on_paper_there_are_tables_still_charts_and_configs(page: Page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    seen = {name: page.locator(name).first.is_visible() for name in ("table", ".still img", ".live", "details pre")}
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    height = page.locator("details pre").first.bounding_box()
    page.emulate_media(media="screen", color_scheme="light")
    assert seen == {"table": True, ".still img": True, ".live": False, "details pre": True}
    assert paper == "rgb(255, 255, 255)" and height and height["height"] > 20


def test_without_scripts_the_still_charts_are_shown(opened: Open) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator(".still img").first.is_visible() and not page.locator(".live").first.is_visible()


def test_what_came_out_is_said_first(page: Page) -> None:
    said = page.locator(".summary p").all_text_contents()
    assert said[0] == "7 runs of gap, gem, gem_channels and max on resnet10t, seeds 0 and 1."
    assert said[2] == (
        "landmarks: the highest mAP is 50.3 ± 0.0 by gem_channels at 320 px; next is 41.5 ± 0.0 by gem at 320 px "
        "(not tested: values per query are missing)."
    )


def test_a_page_of_twelve_runs_can_be_mailed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photos = [photo(tmp_path / f"{i}.jpg", rng, (640, 480)) for i in range(60)]
    for i in range(12):
        own: dict[str, Any] = {"pooling": f"pooling{i}", "settings": f"{i}"}
        both = [{**own, "untrained": untrained} for untrained in (False, True)]
        rows = [result(0.5, resolution=r, **which) for which in both for r in (224, 320, 448)]
        shown = [ranking(photos[q], photos[q : q + 10], resolution=448, **which) for which in both for q in range(8)]
        run(tmp_path / f"runs/{i}", rows, shown, history(0, per_channel=True))
    assert writing.write([tmp_path / "runs"], tmp_path).stat().st_size < 20_000_000
