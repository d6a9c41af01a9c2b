"""The tables of the noise guard: does it find how many labels are wrong, and what is that worth?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report.markdown import NOT_YET, machines, paragraphs, percent, plus_minus, table
from benchmarks.report.numbers import Spread, spread

NAMES = {"snips": "SNIPS, intents", "sst2": "SST-2 sentences", "atis": "ATIS, intents"}
ARMS = {
    "full": "full data",
    "short": "`short`",
    "el2n": "`hardest` by el2n",
    "el2n+auto": "the same, `--offset auto`",
}
WITHIN = 0.03  # of the planted share, what counts as recovered
Runs = Mapping[int, dict[str, Any]]  # by seed
Cells = Mapping[tuple[str, float, str], Runs]  # by set, planted share and method


def noise_rates(results: Path) -> str:
    """A line per set and planted share: the estimate after one and two epochs, and who was set aside at the end."""
    cells = _load(results / "noise")
    shown = sorted((key for key in cells if key[2] == "estimate"), key=_order)
    if not shown:
        return NOT_YET
    head = [
        "set",
        "planted",
        "after 1 epoch",
        "after 2 epochs",
        "of the set aside, wrong",
        "of the wrong, set aside",
        "seeds",
    ]
    rows = [_rate_row(key, cells[key]) for key in shown]
    misses = [f"{NAMES[name]} at {percent(share, 0)}" for name, share, _ in shown if not _recovered(cells, name, share)]
    said = f"After two epochs the mean estimate is within {100 * WITHIN:g} points of what was planted"
    verdict = f"{said} in every line of this table." if not misses else f"{said}, except on {', '.join(misses)}."
    return paragraphs(table(head, rows), verdict, machines(_environments(cells, shown)))


def noise_quality(results: Path) -> str:
    """A line per planted share and method: accuracy and likelihood on clean test rows."""
    cells = _load(results / "noise")
    shown = sorted((key for key in cells if key[2] in ARMS), key=_order)
    if not shown:
        return NOT_YET
    head = ["set", "planted", "trained with", "steps", "accuracy", "nll", "seeds"]
    return paragraphs(
        table(head, [_quality_row(key, cells[key]) for key in shown], left=3), machines(_environments(cells, shown))
    )


def _load(folder: Path) -> dict[tuple[str, float, str], dict[int, dict[str, Any]]]:
    found: dict[tuple[str, float, str], dict[int, dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        cell = run["cell"]
        found.setdefault((cell["set"], cell["share"], cell["method"]), {})[cell["seed"]] = run
    return found


def _order(key: tuple[str, float, str]) -> tuple[int, float, int]:
    return list(NAMES).index(key[0]), key[1], list(ARMS).index(key[2]) if key[2] in ARMS else 0


def _estimates(runs: Runs, review: int) -> Spread | None:
    return spread(100 * run["noise"]["reviews"][review]["rate"] for run in runs.values())


def _recovered(cells: Cells, name: str, share: float) -> bool:
    found = _estimates(cells[name, share, "estimate"], 1)
    return found is not None and abs(found.mean - 100 * share) <= 100 * WITHIN


def _rate_row(key: tuple[str, float, str], runs: Runs) -> list[str]:
    hits, aside, planted = (sum(run["noise"][name] for run in runs.values()) for name in ("hits", "aside", "planted"))
    estimates = [f"{plus_minus(_estimates(runs, review))} %" for review in (0, 1)]
    found = [percent(hits / whole, 0) if whole else "-" for whole in (aside, planted)]
    return [NAMES[key[0]], percent(key[1], 0), *estimates, *found, str(len(runs))]


def _quality_row(key: tuple[str, float, str], runs: Runs) -> list[str]:
    accuracy, likelihood = (spread(run["metrics"][name] for run in runs.values()) for name in ("accuracy", "nll"))
    assert accuracy is not None
    assert likelihood is not None
    shown = Spread(100 * accuracy.mean, accuracy.deviation and 100 * accuracy.deviation, accuracy.count)
    steps = sorted({run["steps"] for run in runs.values()})
    said = [str(steps[0]), plus_minus(shown), f"{likelihood.mean:.3f}", str(len(runs))]
    return [NAMES[key[0]], percent(key[1], 0), ARMS[key[2]], *said]


def _environments(cells: Cells, shown: Iterable[tuple[str, float, str]]) -> list[dict[str, Any]]:
    return [run["environment"] for key in shown for run in cells[key].values()]
