"""The page in a real browser: Debian's chromium and chromium-driver. Without them it is skipped; in CI it fails."""

from __future__ import annotations

import os
import shutil

import pytest

from datadiet.reporting import report
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


def lines(browser) -> list[list[str]]:
    rows = browser.find_elements("css selector", "#rows tr")
    return [[cell.text for cell in row.find_elements("tag name", "td")] for row in rows]


def choose(browser, control: str, value: str) -> list[list[str]]:
    """The rows after a control has been set."""
    script = "const e = document.getElementById(arguments[0]); e.value = arguments[1]; "
    browser.execute_script(script + "e.dispatchEvent(new Event('input'));", control, value)
    return lines(browser)


def test_it_loads_without_errors_and_nothing_in_it_runs(browser):
    assert browser.get_log("browser") == []
    assert browser.title == "classification on hostile"
    assert len(lines(browser)) == 24
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
    assert sum(map(len, by_keeping.values())) == 24
    choose(browser, "kept", "")


def test_the_order_can_be_turned(browser):
    assert [int(row[0]) for row in lines(browser)] == list(range(1, 25))
    assert [int(row[0]) for row in choose(browser, "sort", "easy")] == list(range(24, 0, -1))
    choose(browser, "sort", "hard")


@pytest.mark.parametrize("width", [360, 1000])
def test_one_endless_word_does_not_widen_the_page(browser, width):
    browser.set_window_size(max(width, 500), 900)  # headless windows are no narrower
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
