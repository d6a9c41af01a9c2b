"""`dd.report` and `datadiet report`: a run folder or a comparison in, one HTML page and a Markdown table out.

Reads files, never a model.
"""

from __future__ import annotations

from pathlib import Path

from datadiet.compare.run import COMPARISON
from datadiet.errors import ArgumentError, MissingExtraError
from datadiet.files import write_atomically
from datadiet.store import run_folder

PAGE, TABLE = "report.html", "report.md"


def report(path: str | Path, output: str | Path | None = None) -> Path:
    """Write the page, and beside it the table in Markdown.

    Args:
        path: A run folder, or a folder of `datadiet compare`.
        output: The page; `report.html` in the folder by default. The table has its name, ending in `.md`.

    Returns:
        The page.

    Raises:
        ArgumentError: If the folder holds neither a finished run nor a comparison.
        MissingExtraError: If jinja2 or matplotlib is not installed.
    """
    folder = Path(path).expanduser()
    page = folder / PAGE if output is None else Path(output).expanduser()
    if page.suffix not in (".html", ".htm"):
        raise ArgumentError(f"the page must end in .html, got {page}.")
    compared = (folder / COMPARISON).is_file()
    if not compared and not (folder / run_folder.RESULT).is_file():
        if (folder / run_folder.CONFIG).is_file():
            raise ArgumentError(
                f"{folder} holds an unfinished run; go on with it by: datadiet finetune --resume {folder}."
            )
        raise ArgumentError(f"{folder} holds neither a run nor a comparison.")
    try:
        from datadiet.reporting.comparison_page import comparison_markdown, comparison_page
        from datadiet.reporting.page import render
        from datadiet.reporting.run_page import run_markdown, run_page
    except ImportError as error:
        raise MissingExtraError("report needs jinja2 and matplotlib: pip install 'datadiet[report]'") from error
    if compared:
        html, table = render(comparison_page(folder)), comparison_markdown(folder)
    else:
        html, table = render(run_page(folder)), run_markdown(folder)
    write_atomically(page, html)
    write_atomically(page.with_suffix(".md"), table)
    return page
