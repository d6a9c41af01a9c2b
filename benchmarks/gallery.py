"""The pictures of docs/examples.md: each example runs, and the top of its page is photographed.

    python -m benchmarks.gallery [classification ...]     # all examples by default; minutes, and it needs Chromium

Writes docs/gallery/NAME.webp. An example that leaves no run folder (a loop of its own) has no page and no picture.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "gallery"
WIDTH, HEIGHT = 1280, 1100
# the example writes into a folder that stays
KEPT = """
import runpy, sys, tempfile
from contextlib import nullcontext
tempfile.TemporaryDirectory = lambda *rest, **named: nullcontext(sys.argv[2])
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def page_of(folder: Path) -> Path | None:
    """The page of the comparison in a folder, or else of its last run; None where there is neither."""
    from datadiet.reporting import report

    found = sorted(folder.rglob("comparison.json")) or sorted(
        folder.rglob("result.json"), key=lambda path: path.stat().st_mtime
    )
    return report(found[-1].parent) if found else None


def photograph(page: Path, picture: Path) -> None:
    """The top of a page, as WebP."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.binary_location = str(shutil.which("chromium"))
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(shutil.which("chromedriver"))))
    try:
        screen = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.get(page.as_uri())
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "webp", "quality": 80})
    finally:
        browser.quit()
    picture.write_bytes(base64.b64decode(shot["data"]))


def main() -> None:
    """Photograph the examples."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("examples", nargs="*", help="names (default: all)")
    wanted = parser.parse_args().examples or sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
    PICTURES.mkdir(exist_ok=True)
    for name in wanted:
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-c", KEPT, str(ROOT / "examples" / f"{name}.py"), place]
            log = Path(place) / "example.log"
            with log.open("w") as stream:
                code = subprocess.run(command, stdout=stream, stderr=stream, env=os.environ, check=False).returncode
            if code:
                sys.exit(f"{name} failed:\n{log.read_text()[-2000:]}")
            page = page_of(Path(place))
            if page is not None:
                photograph(page, PICTURES / f"{name}.webp")
            sys.stdout.write(f"{name}: {'no run folder' if page is None else page.name}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
