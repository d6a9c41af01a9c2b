"""Grids of arms that are judged by the loss of dev rows: differences with intervals, and all cells at a glance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report.markdown import NOT_YET, paragraphs, table

Runs = Mapping[int, Mapping[str, Any]]  # of one arm, by seed
Key = tuple[str, str, float]  # set, budget, keep
_SEED = 47


def grid(results: Path) -> dict[Key, dict[str, dict[int, dict[str, Any]]]]:
    """The runs of a folder by set, budget and keep, then by arm, then by seed."""
    found: dict[Key, dict[str, dict[int, dict[str, Any]]]] = {}
    for path in sorted(results.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        cell = run["cell"]
        arms = found.setdefault((cell["data"], cell["budget"], cell["keep"]), {})
        arms.setdefault(cell["arm"], {})[cell["seed"]] = run
    return found


def gap(runs: Runs, others: Runs, judged: str = "dev") -> tuple[float, float, float] | None:
    """`others - runs` of the nll in nats per token, over the seeds that both have; None where there are none.

    Returns:
        The mean, and the ends of a 95 % interval over rows, drawn with replacement.
    """
    seeds = sorted(runs.keys() & others.keys())
    if not seeds:
        return None
    tokens = np.array(runs[seeds[0]][judged]["rows"]["tokens"], float)
    gaps = np.mean([
        np.array(others[seed][judged]["rows"]["nll"]) - np.array(runs[seed][judged]["rows"]["nll"]) for seed in seeds
    ], axis=0)  # fmt: skip
    draws = np.random.default_rng(_SEED).integers(0, len(gaps), (2000, len(gaps)))
    low, high = np.quantile(gaps[draws].sum(1) / tokens[draws].sum(1), [0.025, 0.975])
    return float(gaps.sum() / tokens.sum()), float(low), float(high)


def difference(runs: Runs, others: Runs, judged: str = "dev") -> str:
    """`gap` in words."""
    found = gap(runs, others, judged)
    return "-" if found is None else f"{found[0]:+.3f} ({found[1]:+.3f} to {found[2]:+.3f})"


def glance(results: Path, arms: Sequence[str], budget: str, judges: Sequence[str] = ("dev",)) -> str:
    """How far each arm is ahead of `random` under one budget, a column for each set, keep and judge."""
    cells = {key: found for key, found in grid(results).items() if key[1] == budget and "random" in found}
    order = sorted(cells, key=lambda key: (key[0], -key[2]))
    columns = [(key, judged) for key in order for judged in judges]
    rows = []
    for arm in arms:
        if arm == "random" or not any(arm in found for found in cells.values()):
            continue
        ahead = (gap(cells[key].get(arm, {}), cells[key]["random"], by) for key, by in columns)
        rows.append([f"`{arm}`", *map(_shown, ahead)])
    if not rows:
        return NOT_YET
    names = [f"{key[0]}, {key[2]:g}" + (f", {by}" if len(judges) > 1 else "") for key, by in columns]
    seeds = [f"{key[0]}, {key[2]:g}: {_seeds(cells[key])}" for key in order]
    note = (
        f"Equal {budget}. Nats per token less than `random`; bold where a 95 % interval over rows excludes 0. "
        f"Seeds: {'; '.join(seeds)}."
    )
    return paragraphs(table(["arm", *names], rows), note)


def _shown(found: tuple[float, float, float] | None) -> str:
    if found is None:
        return "-"
    mean, low, high = found
    return f"**{mean:+.3f}**" if low > 0 or high < 0 else f"{mean:+.3f}"


def _seeds(arms: Mapping[str, Runs]) -> str:
    counts = sorted({len(runs) for runs in arms.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
