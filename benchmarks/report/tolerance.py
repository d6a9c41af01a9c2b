"""The table of the tolerance: does it keep its word, and what does it save beside a keep that was guessed?"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report.markdown import NOT_YET, machines, paragraphs, percent, table

NAMES = {"snips": "SNIPS", "sst2": "SST-2 sentences", "cola": "CoLA", "stsb": "STS-B"}
METRICS = {"exact_match": "exact match", "accuracy": "accuracy", "spearman": "Spearman x 100"}
ARMS = {"tolerance-0.5": "tolerance 0.5", "keep-0.9": "keep 0.9", "keep-0.7": "keep 0.7", "keep-0.5": "keep 0.5"}
UNSTEADY = "stsb"  # full data itself differs by points from seed to seed, and every diet is better (docs)
POINTS, REPEATS = 0.5, 4000
Runs = Mapping[str, Mapping[int, dict[str, Any]]]  # by set and seed


@dataclass(frozen=True)
class Held:
    """What an arm lost and saved over all sets.

    Attributes:
        loss: Mean over the sets, in points of each set's metric.
        upper: One-sided 95 % bound of that, by the two-level bootstrap.
        worst: Of the set with the largest mean loss.
        saved: Share of the tokens.
    """

    loss: float
    upper: float
    worst: float
    saved: float

    @property
    def meets(self) -> bool:
        """The bound is within the tolerance, and no set loses more than twice it."""
        return self.upper <= POINTS and self.worst <= 2 * POINTS


def tolerance(results: Path) -> str:
    """A line per set and arm, a line for all sets together, and the verdict."""
    arms = _load(results / "tolerance")
    full = arms.get("full", {})
    rows: list[list[str]] = []
    held: dict[str, Held] = {}
    steady: dict[str, Held] = {}
    for arm in [arm for arm in ARMS if arm in arms]:
        shared = {name: sorted(arms[arm][name].keys() & full.get(name, {}).keys()) for name in arms[arm]}
        shared = {name: seeds for name, seeds in shared.items() if seeds}
        rows += [_row(arm, name, shared[name], arms[arm], full) for name in NAMES if name in shared]
        if shared.keys() == NAMES.keys():
            held[arm] = together(arms[arm], full, shared)
            steady[arm] = together(arms[arm], full, {name: seeds for name, seeds in shared.items() if name != UNSTEADY})
            rows.append(_all_row(arm, held[arm], shared))
    if not rows:
        return NOT_YET
    head = ["set", "trained with", "metric", "full data", "so", "loss", "tokens saved", "seeds"]
    environments = [run["environment"] for sets in arms.values() for seeds in sets.values() for run in seeds.values()]
    return paragraphs(table(head, rows, left=3), *_verdicts(held, steady), machines(environments))


def _load(folder: Path) -> dict[str, dict[str, dict[int, dict[str, Any]]]]:
    """Results by arm, set and seed."""
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for file in sorted(folder.glob("*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        cell = run["cell"]
        found.setdefault(cell["arm"], {}).setdefault(cell["set"], {})[cell["seed"]] = run
    return found


def _figure(run: Mapping[str, Any]) -> float:
    return 100 * float(run["metrics"]["test"][run["metric"]])


def _saved(run: Mapping[str, Any]) -> float:
    return float(run["ceiling"]["tokens_saved"])


def _row(arm: str, name: str, seeds: list[int], runs: Runs, full: Runs) -> list[str]:
    ours, theirs = ([_figure(found[name][seed]) for seed in seeds] for found in (runs, full))
    loss = [b - a for a, b in zip(ours, theirs, strict=True)]
    saved = statistics.mean(_saved(runs[name][seed]) for seed in seeds)
    metric = METRICS[runs[name][seeds[0]]["metric"]]
    spread = f" ± {statistics.stdev(loss):.2f}" if len(loss) > 1 else ""
    said = [f"{statistics.mean(theirs):.2f}", f"{statistics.mean(ours):.2f}", f"{statistics.mean(loss):+.2f}{spread}"]
    return [NAMES[name], ARMS[arm], metric, *said, percent(saved), str(len(seeds))]


def together(runs: Runs, full: Runs, seeds: Mapping[str, list[int]]) -> Held:
    """Loss and saving over all sets, each with the same weight.

    The bootstrap has two levels: seeds are drawn with replacement inside each set, and with them one of the samples of
    the test rows that every run of the set was tested on.
    """
    losses: dict[str, float] = {}
    drawn: list[NDArray[np.float64]] = []
    generator = np.random.default_rng(0)
    for name, known in seeds.items():
        losses[name] = statistics.mean(_figure(full[name][seed]) - _figure(runs[name][seed]) for seed in known)
        samples = np.array([np.subtract(full[name][seed]["drawn"], runs[name][seed]["drawn"]) for seed in known])
        chosen = generator.integers(len(known), size=(REPEATS, len(known)))
        row_sample = generator.integers(samples.shape[1], size=(REPEATS, 1))
        drawn.append(samples[chosen, row_sample].mean(axis=1))
    upper = float(np.quantile(np.mean(drawn, axis=0), 0.95))
    saved = statistics.mean(
        statistics.mean(_saved(runs[name][seed]) for seed in known) for name, known in seeds.items()
    )
    return Held(statistics.mean(losses.values()), upper, max(losses.values()), saved)


def _all_row(arm: str, held: Held, seeds: Mapping[str, list[int]]) -> list[str]:
    bound = f"**{held.loss:+.2f}**, at most {held.upper:+.2f}"
    return ["**all**", ARMS[arm], "mean of the sets", "", "", bound, f"**{percent(held.saved)}**", _seeds(seeds)]


def _seeds(seeds: Mapping[str, list[int]]) -> str:
    counts = sorted({len(known) for known in seeds.values()})
    return " to ".join(map(str, counts))


def _verdicts(held: Mapping[str, Held], steady: Mapping[str, Held]) -> list[str]:
    said = [
        "Loss: full data minus the diet, in points; negative where the diet is better. `at most`: one-sided 95 % bound "
        "of the mean over the sets, by a bootstrap over seeds and test rows.\n"
    ]
    for arm, found in held.items():
        word = "meets" if found.meets else "does not meet"
        said.append(
            f"- {ARMS[arm]} {word} a tolerance of {POINTS:g} points: bound {found.upper:+.2f}, worst set "
            f"{found.worst:+.2f} (allowed {2 * POINTS:g}), {percent(found.saved)} of the tokens saved; "
            f"without {NAMES[UNSTEADY]}: loss {steady[arm].loss:+.2f}, bound {steady[arm].upper:+.2f}"
        )
    fixed = [found.saved for arm, found in held.items() if arm.startswith("keep") and found.meets]
    if "tolerance-0.5" in held:
        ours = held["tolerance-0.5"].saved
        best = "no fixed keep that was tried meets it, so there is nothing to be measured against"
        if fixed:
            word = "met" if ours >= 0.8 * max(fixed) else "missed"
            best = f"the best fixed keep that meets it saves {percent(max(fixed))}; 80 % of that: {word}"
        said.append(f"- beside a guessed keep: {best}")
    return ["\n".join(said)]
