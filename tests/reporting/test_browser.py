"""The page in a real browser: Debian's chromium and chromium-driver. Without them it is skipped; in CI it fails."""

from __future__ import annotations

import os
import re
import shutil
from importlib import resources

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datadiet.reporting import report
from datadiet.store.run_folder import PRUNED
from toys import HOSTILE

selenium = pytest.importorskip("selenium.webdriver")
DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    not (DRIVER and BROWSER) and not os.environ.get("DATADIET_CI"), reason="no chromium and chromedriver"
)


@pytest.fixture(scope="module")
def browser(hostile_run):
    options = selenium.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,900"):
        options.add_argument(argument)
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(str(DRIVER)))
    driver.get(report(hostile_run).as_uri())
    yield driver
    driver.quit()


def emulate(browser, width: int, theme: str = "light") -> None:
    """A screen of some width, and a theme."""
    browser.set_window_size(max(width, 500), 900)  # headless windows are no narrower
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def lines(browser) -> list[list[str]]:
    rows = browser.find_elements("css selector", "#rows tr[data-row]")
    return [[cell.text for cell in row.find_elements("tag name", "td")] for row in rows]


def shown(browser) -> int:
    """Examples that the filters leave; the list holds those in sight."""
    return int(browser.find_element("id", "count").text.split()[0])


def choose(browser, control: str, value: str) -> list[list[str]]:
    """The rows after a control has been set."""
    script = "const e = document.getElementById(arguments[0]); e.value = arguments[1]; "
    browser.execute_script(script + "e.dispatchEvent(new Event('input'));", control, value)
    return lines(browser)


def test_it_loads_without_errors_and_nothing_in_it_runs(browser):
    assert browser.get_log("browser") == []
    assert browser.title == "classification on hostile"
    assert shown(browser) == 24
    assert len(browser.find_elements("css selector", "figure svg")) >= 5
    assert browser.find_elements("tag name", "img") == []


def test_the_search_and_the_filters_work(browser):
    assert [row[1] for row in choose(browser, "search", "onerror")] == [HOSTILE["image"]]
    choose(browser, "search", "")
    assert {row[2] for row in choose(browser, "label", "0")} == {"<b>bold</b>"}
    choose(browser, "label", "")
    by_keeping = {
        word: choose(browser, "kept", str(value)) for value, word in enumerate(("always", "sometimes", "never"))
    }
    assert all({row[3] for row in rows} <= {word} for word, rows in by_keeping.items())
    choose(browser, "kept", "")
    assert shown(browser) == 24
    heads = browser.find_element("id", "kept").text.split("\n")
    assert sum(int(re.search(r"\((\d+)\)", head)[1]) for head in heads[1:]) == 24
    assert not choose(browser, "facet", "suspects")
    choose(browser, "facet", "")


def test_the_order_can_be_turned(browser):
    first = [int(row[0]) for row in lines(browser)]
    assert first == list(range(1, len(first) + 1))
    rank = browser.find_element("css selector", "#examples th[data-column=hard] button")
    rank.click()
    assert [int(row[0]) for row in lines(browser)][: len(first)] == list(range(24, 24 - len(first), -1))
    rank.click()
    browser.find_element("css selector", "#examples th[data-column=id] button").click()
    assert [row[7] for row in lines(browser)] == sorted(row[7] for row in lines(browser))
    rank.click()


def test_all_of_a_row_can_be_read_and_the_map_finds_it(browser):
    longest = next(row for row in choose(browser, "search", "w" * 60) if row)
    browser.find_element("css selector", "#rows tr").click()
    detail = browser.find_element("id", "detail").text
    assert longest[7] in detail
    assert "w" * 100 in detail
    choose(browser, "search", "")
    painted = "const c = document.getElementById('map').getContext('2d').getImageData(0, 0, 200, 200).data;"
    assert browser.execute_script(f"{painted} return c.some((value) => value > 0)")


def test_the_export_holds_the_filtered_rows_and_no_formula(browser):
    browser.execute_script(
        "window.made = []; const real = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => { blob.text().then((text) => window.made.push(text)); return real(blob); }"
    )
    kept = choose(browser, "search", "onerror")
    browser.find_element("id", "export").click()
    text = browser.execute_async_script("setTimeout(() => arguments[0](window.made[0]), 100)")
    assert text.splitlines()[0].startswith('"id","text","label","kept"')
    assert len(text.splitlines()) == 1 + len(kept)
    assert kept[0][7] in text
    choose(browser, "search", "")


@pytest.mark.parametrize(("width", "theme"), [(360, "light"), (360, "dark"), (768, "dark"), (1280, "light")])
def test_it_fits_every_width_and_anyone_can_read_it(browser, width, theme):
    axe = pytest.importorskip("axe_core_python")
    emulate(browser, width, theme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    browser.execute_script((resources.files(axe) / "axe.min.js").read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run(document, {resultTypes: ['violations']}).then(arguments[0])")
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('figure svg text')].map((text) => {"
        "const m = text.getScreenCTM(); return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(m.a, m.b) })"
    )
    assert min(sizes) >= 11


@pytest.mark.parametrize("width", [360, 1000])
def test_one_endless_word_does_not_widen_the_page(browser, width):
    emulate(browser, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_pruned_tokens_are_struck_through(browser, hostile_run, tmp_path):
    run, before = tmp_path / "run", browser.current_url
    shutil.copytree(hostile_run, run)
    parts = {"row": [0, 1], "pieces": [["keep ", HOSTILE["image"], " this"], ["gone", ""]]}
    pq.write_table(pa.table({**parts, "pruned": [[False, True, False], [True, True]]}), run / PRUNED)
    browser.get(report(run).as_uri())
    assert browser.get_log("browser") == []
    choose(browser, "search", "onerror")
    cell = browser.find_element("css selector", "#rows .text")
    assert cell.get_attribute("textContent") == f"keep {HOSTILE['image']} this"
    assert [part.text for part in cell.find_elements("tag name", "s")] == [HOSTILE["image"]]
    assert browser.find_elements("tag name", "img") == []
    assert [row[1] for row in choose(browser, "search", "gone")] == ["gone"]
    assert len(browser.find_elements("css selector", "#rows s")) == 1
    browser.get(before)
