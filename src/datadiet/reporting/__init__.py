"""`dd.report` and `datadiet report`: a run folder or a comparison in, one HTML page and a Markdown table out.

Reads files, never a model.
"""

from __future__ import annotations

import os
from pathlib import Path

from datadiet.compare.run import COMPARISON
from datadiet.errors import ArgumentError, MissingExtraError, Problems
from datadiet.files import target_problems, write_atomically
from datadiet.store import run_folder

PAGE, TABLE = "report.html", "report.md"


MARK = "<!-- datadiet report -->"  # in every page and table: they may be replaced


def report(path: str | Path, output: str | Path | None = None, *, force: bool = False) -> Path:
    """Write the page, and beside it the table in Markdown. Earlier ones are replaced, and no other file.

    Args:
        path: A run folder, or a folder of `datadiet compare`.
        output: The page; `report.html` in the folder by default. The table has its name, ending in `.md`.
        force: Replace any file of that name.

    Returns:
        The page.

    Raises:
        ArgumentError: If the folder holds neither a finished run nor a comparison, or another file is in the way.
        MissingExtraError: If jinja2 or matplotlib is not installed.
    """
    folder = Path(path).expanduser()
    page = folder / PAGE if output is None else Path(output).expanduser()
    if page.suffix not in (".html", ".htm"):
        raise ArgumentError(f"the page must end in .html, got {page}.")
    problems = Problems()
    for file in (page, page.with_suffix(".md")):
        problems.found += [] if _is_ours(file) else target_problems(file, force=force)
    problems.raise_any()
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
    write_atomically(page, f"{html.rstrip()}\n{MARK}\n")
    write_atomically(page.with_suffix(".md"), f"{table.rstrip()}\n\n{MARK}\n")
    return page


def _is_ours(file: Path) -> bool:
    """Whether a file is a page or a table of an earlier call."""
    try:
        with file.open("rb") as stream:
            stream.seek(-min(file.stat().st_size, 2 * len(MARK)), os.SEEK_END)
            return stream.read().rstrip().endswith(MARK.encode())
    except OSError:
        return False
