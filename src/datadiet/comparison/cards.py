"""The model cards of a comparison's runs say what was found about their method."""

from __future__ import annotations

from pathlib import Path

from datadiet import run_folder
from datadiet.comparison.results import RUNS
from datadiet.display.words import escaped
from datadiet.records import Json
from datadiet.store import write_atomically

HEADING = "## Comparison"


def state_comparison(folder: Path, found: Json) -> None:
    """Put the verdict on a method into the model card of each of its runs, in place of an earlier one.

    Args:
        folder: Of the comparison.
        found: The content of `comparison.json`.
    """
    for line in found["methods"]:
        for seed in line["seeds"]:
            card = folder / RUNS / f"{line['name']}-seed{seed}" / run_folder.MODEL / "README.md"
            if card.is_file():
                kept, _, _ = card.read_text(encoding="utf-8").partition(f"\n{HEADING}\n")
                write_atomically(card, f"{kept.rstrip()}\n\n{_section(line, found)}")


def _section(line: Json, found: Json) -> str:
    metric = found["metric"]
    figure = line["metrics"][metric]
    spread = "" if figure["deviation"] is None else f" ± {figure['deviation']:.2f}"
    verdict = escaped(line["verdict"])
    return (
        f"{HEADING}\n\n"
        f"`{line['name']}`, {len(line['seeds'])} seed{'' if len(line['seeds']) == 1 else 's'}, "
        f"{metric.replace('_', ' ')} {figure['mean']:.2f}{spread} on the {found['split']} split: {verdict}.\n"
    )
