"""The tables of the noise guard: does it find how many labels are wrong, and what is that worth?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report.markdown import NOT_YET, machines, paragraphs, percent, plus_minus, table
from benchmarks.report.numbers import Spread, spread

NAMES = {
    "sst2": "SST-2 sentences",
    "snips": "SNIPS, intents",
    "banking77": "Banking77",
    "clinc150": "CLINC150",
    "snips-tags": "SNIPS, tags",
    "wikigold-tags": "WikiGold, tags",
}
ARMS = {
    "full": "full data",
    "short": "`short`",
    "el2n": "`hardest` by el2n",
    "el2n+auto": "the same, `--offset auto`",
}
WITHIN = 0.03  # of the planted share, what counts as recovered
Runs = Mapping[int, dict[str, Any]]  # by seed
Cells = Mapping[tuple[str, float, str], Runs]  # by set, planted share and method


def noise_guard(results: Path) -> str:
    """Of planted wrong labels, the estimates and who was set aside; of clean labels, how many were set aside."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((results / "noise").glob("guard-*.json"))]
    if not found:
        return NOT_YET
    planted, clean = ([run for run in found if (run["planted"] > 0) == wrong] for wrong in (True, False))
    head = ["set", "classes", "rows", "rate", "epochs", "estimate", "set aside", "of these, wrong", "of the wrong"]
    rows = [_guard_row(runs) for runs in _grouped(planted, ("rows", "learning_rate", "reviews"))]
    few = ["set", "rows", "learning rates", "trainings", "spoke", "most set aside"]
    calm = [_clean_row(runs) for runs in _grouped(clean, ("rows",))]
    return paragraphs(
        table(head, rows), _verdict(planted), table(few, calm), machines([run["environment"] for run in found])
    )


def _grouped(found: Iterable[dict[str, Any]], by: tuple[str, ...]) -> list[list[dict[str, Any]]]:
    """The runs of a set with the same settings, in the order of the sets."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in found:
        cell = run["cell"]
        key = (list(NAMES).index(cell["set"]), *(cell[name] for name in by))
        groups.setdefault(key, []).append(run)
    return [sorted(groups[key], key=lambda run: run["cell"]["seed"]) for key in sorted(groups)]


def _guard_row(runs: list[dict[str, Any]]) -> list[str]:
    cell, last = runs[0]["cell"], [run["reviews"][-1] for run in runs]
    said = ", ".join("silent" if review["note"] else f"{100 * review['rate']:.1f}" for review in last)
    aside, hits = (sum(review[name] for review in last) for name in ("aside", "hits"))
    planted = sum(run["planted"] for run in runs)
    shares = [percent(hits / aside, 0) if aside else "-", percent(hits / planted, 0) if aside else "-"]
    kind = [NAMES[cell["set"]], str(runs[0]["classes"]), f"{cell['rows']:,}", f"{cell['learning_rate']:g}"]
    return [*kind, str(cell["reviews"]), said, str(aside), *shares]


def _clean_row(runs: list[dict[str, Any]]) -> list[str]:
    cell = runs[0]["cell"]
    rates = sorted({run["cell"]["learning_rate"] for run in runs})
    most = max(review["aside"] for run in runs for review in run["reviews"])
    spoke = sum(any(not review["note"] for review in run["reviews"]) for run in runs)
    shown = ", ".join(f"{rate:g}" for rate in rates)
    return [NAMES[cell["set"]], f"{cell['rows']:,}", shown, str(len(runs)), str(spoke), str(most)]


def _verdict(planted: list[dict[str, Any]]) -> str:
    """In how many trainings it spoke, and how far off it was there; of tags apart."""
    said = []
    for tags in (False, True):
        runs = [run for run in planted if run["cell"]["set"].endswith("tags") == tags]
        spoke = [run for run in runs if not run["reviews"][-1]["note"]]
        off = [100 * abs(run["reviews"][-1]["rate"] - run["cell"]["share"]) for run in spoke]
        if runs:
            far = (
                f"; there it is off by {max(off):.1f} points at most and {median(off):.1f} in the median" if off else ""
            )
            near = sum(points <= 100 * WITHIN + 1e-9 for points in off)
            much = f" ({near} of {len(off)} within {100 * WITHIN:g})" if off else ""
            what = "tags" if tags else "labels"
            said.append(f"Of wrong {what} it spoke in {len(spoke)} of {len(runs)} trainings{far}{much}.")
    return " ".join(said)


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
    for file in sorted(set(folder.glob("*.json")) - set(folder.glob("guard-*.json"))):
        run = json.loads(file.read_text(encoding="utf-8"))
        cell = run["cell"]
        found.setdefault((cell["set"], cell["share"], cell["method"]), {})[cell["seed"]] = run
    return found


def _order(key: tuple[str, float, str]) -> tuple[int, float, int]:
    return list(NAMES).index(key[0]), key[1], list(ARMS).index(key[2]) if key[2] in ARMS else 0


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
