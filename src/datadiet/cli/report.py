"""`datadiet report`: write the page of a run or of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datadiet.cli.call import AsJson, Debug
from datadiet.display.console import answer
from datadiet.display.errors import reported


def report(
    path: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="A run folder, or a folder of datadiet compare.")],
    output: Annotated[Path | None, typer.Option(help="The page; report.html in the folder by default.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write one self-contained HTML page about a run or a comparison, and its table in Markdown."""
    with reported(debug):
        from datadiet.reporting.report import report as write_report

        page = write_report(path, output)
    table = page.with_suffix(".md")
    answer(as_json, {"page": str(page), "table": str(table)}, commands=f"Wrote {page} and {table}")
