"""The page in a real browser: Debian's chromium and chromium-driver. Without them it is skipped; in CI it fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from datadiet.jobs.finetune import finetune
from datadiet.reporting import report
from toys import HOSTILE, hostile_folder, tiny_model_folder, toy_config

selenium = pytest.importorskip("selenium.webdriver")
DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    not (DRIVER and BROWSER) and not os.environ.get("DATADIET_CI"), reason="no chromium and chromedriver"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    config = toy_config(folder, data=str(hostile_folder(folder)), model=str(tiny_model_folder(folder)), epochs=4)
    finetune(config)
    return report(config.output)


@pytest.fixture(scope="module")
def browser(page: Path):
    options = selenium.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,900"):
        options.add_argument(argument)
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(str(DRIVER)))
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def lines(browser) -> list[list[str]]:
    return [
        [cell.text for cell in row.find_elements("tag name", "td")]
        for row in browser.find_elements("css selector", "#rows tr")
    ]


def choose(browser, control: str, value: str) -> None:
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'));",
        control,
        value,
    )


def test_it_loads_without_errors_and_nothing_in_it_runs(browser):
    assert browser.get_log("browser") == []
    assert browser.title == "classification on hostile"
    assert len(lines(browser)) == 24
    assert len(browser.find_elements("css selector", "figure svg")) >= 5
    assert browser.find_elements("tag name", "img") == []


def test_the_search_and_the_filters_work(browser):
    choose(browser, "search", "onerror")
    found = lines(browser)
    assert [row[1] for row in found] == [HOSTILE["image"]]
    choose(browser, "search", "")
    choose(browser, "label", "0")
    assert {row[2] for row in lines(browser)} == {"<b>bold</b>"}
    choose(browser, "label", "")
    by_keeping = []
    for value, word in (("0", "always"), ("1", "sometimes"), ("2", "never")):
        choose(browser, "kept", value)
        assert {row[3] for row in lines(browser)} <= {word}
        by_keeping.append(len(lines(browser)))
    assert sum(by_keeping) == 24
    choose(browser, "kept", "")


def test_the_order_can_be_turned(browser):
    ranks = [int(row[0]) for row in lines(browser)]
    assert ranks == list(range(1, 25))
    choose(browser, "sort", "easy")
    assert [int(row[0]) for row in lines(browser)] == ranks[::-1]
    choose(browser, "sort", "hard")


@pytest.mark.parametrize("width", [360, 1000])
def test_one_endless_word_does_not_widen_the_page(browser, width):
    browser.set_window_size(max(width, 500), 900)  # headless windows are no narrower
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width
