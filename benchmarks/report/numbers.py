"""Numbers out of kept runs: which runs belong together, their means and spreads, and differences paired by seed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

Run = dict[str, Any]


class Key(NamedTuple):
    """What the seeds of one figure have in common."""

    set: str
    method: str
    keep: float


Groups = Mapping[Key, Mapping[int, Run]]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over `count` seeds; of one seed the deviation is None."""

    mean: float
    deviation: float | None
    count: int


def spread(values: Iterable[float]) -> Spread | None:
    """None of nothing.

    Example:
        >>> spread([1.0, 2.0, 3.0])
        Spread(mean=2.0, deviation=1.0, count=3)
    """
    found = list(values)
    if not found:
        return None
    return Spread(statistics.mean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def load_groups(folder: Path) -> Groups:
    """The runs of one grid by set, method and keep, and then by seed."""
    groups: dict[Key, dict[int, Run]] = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        cell = run["cell"]
        groups.setdefault(Key(cell["set"], cell["method"], float(cell["keep"])), {})[cell["seed"]] = run
    return groups


def quality_groups(results: Path) -> Groups:
    """The runs of the quality grid; cells that it lacks are taken from the speed grid."""
    groups = {key: dict(runs) for key, runs in load_groups(results / "quality").items()}
    for key, runs in load_groups(results / "speed").items():
        groups[key] = {**runs, **groups.get(key, {})}
    return groups


def split_of(run: Run) -> str:
    """The split that figures are of: test, or dev where test has no labels."""
    return "dev" if run["metrics"]["test"] is None else "test"


def metric(run: Run, name: str) -> float:
    """In hundredths, as the field quotes it."""
    return 100 * float(run["metrics"][split_of(run)][name])


def steps(run: Run) -> int:
    return sum(epoch["steps"] for epoch in run["epochs"])


def metric_spread(runs: Mapping[int, Run], name: str) -> Spread | None:
    return spread(metric(run, name) for run in runs.values())


def paired(runs: Mapping[int, Run], others: Mapping[int, Run], name: str) -> Spread | None:
    """`runs - others` over the seeds that both have; None where they share none."""
    return spread(metric(runs[seed], name) - metric(others[seed], name) for seed in sorted(runs.keys() & others.keys()))


def verdict(difference: Spread) -> str:
    """`better` or `worse` where the 95 % interval of the mean (Student's t over the seeds) excludes 0; or `not shown`.

    Example:
        >>> verdict(Spread(0.3, 0.1, 3)), verdict(Spread(0.1, 0.2, 3)), verdict(Spread(-0.3, 0.1, 3))
        ('better', 'not shown', 'worse')
        >>> verdict(Spread(0.3, None, 1)), verdict(Spread(0.0, None, 1))
        ('better in one seed', 'not shown')
    """
    if difference.mean == 0:
        return "not shown"
    word = "better" if difference.mean > 0 else "worse"
    if difference.deviation is None:
        return f"{word} in one seed"
    half = stats.t.ppf(0.975, difference.count - 1) * difference.deviation / math.sqrt(difference.count)
    return word if abs(difference.mean) > half else "not shown"


@dataclass(frozen=True)
class Saving:
    """What a diet saved against full data, medians over the seeds that both have; seconds, else shares."""

    finetune_s: tuple[float, float]
    finetune: float
    total: float
    ceiling: float
    of_ceiling: float
    count: int


def saving(runs: Mapping[int, Run], full: Mapping[int, Run], *, tokens: str = "tokens_backward") -> Saving | None:
    """Savings paired by seed; None where no seed has both. The ceiling is the saving of the `tokens` in `cost`."""
    seeds = sorted(runs.keys() & full.keys())
    if not seeds:
        return None
    pairs = [(runs[seed]["cost"], full[seed]["cost"]) for seed in seeds]

    def saved(name: str) -> list[float]:
        return [1 - diet[name] / whole[name] for diet, whole in pairs]

    finetune, ceiling = saved("finetune_s"), saved(tokens)
    median = statistics.median
    return Saving(
        (median(whole["finetune_s"] for _, whole in pairs), median(diet["finetune_s"] for diet, _ in pairs)),
        median(finetune),
        median(saved("total_s")),
        median(ceiling),
        median(mine / most if most else float("nan") for mine, most in zip(finetune, ceiling, strict=True)),
        len(seeds),
    )


def of_set(groups: Groups, name: str) -> list[Run]:
    return [run for key in sorted(groups) if key.set == name for run in groups[key].values()]


def keeps_of(groups: Groups, name: str, methods: Sequence[str]) -> list[float]:
    """The keeps that a set has runs of, largest first."""
    return sorted({key.keep for key in groups if key.set == name and key.method in methods}, reverse=True)
