"""Figures of runs and methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from datadiet.records import Json
from datadiet.reporting.figures.drawing import SERIES, STYLE, colours_of, new_axes

ACCOUNTS = {
    "load_s": "load",
    "train_s": "train",
    "score_s": "score",
    "select_s": "select",
    "eval_s": "evaluate",
    "save_s": "save",
}
MOST_LABELS = 5  # of points: more would lie on one another, and a legend names them


def frontier(comparison: Json) -> Figure:
    """Quality against time: each method at the share of full's time that it took, with 95 % intervals, and its ceiling.

    Args:
        comparison: The content of `comparison.json`.
    """
    with rc_context(STYLE):
        figure, axes = new_axes()
        metric = comparison["metric"]
        known = [line for line in comparison["methods"] if line["comparable_times"]]
        lines = [line for line in known if line["method"] == "full" or line["saved"]["finetune_s"]]
        colours = colours_of([line["name"] for line in lines])
        for line in lines:
            found, colour = line["metrics"][metric], colours[line["name"]]
            time = 100.0 if line["method"] == "full" else 100 * (1 - line["saved"]["finetune_s"]["median"])
            axes.errorbar(
                [time], [found["mean"]], yerr=_half_interval(found), xerr=_time_error(line), fmt="o", color=colour,
                capsize=3, markersize=6, elinewidth=1, label=line["name"],
            )  # fmt: skip
            if line["ceiling"] is not None and line["method"] != "full":
                axes.plot([100 * (1 - line["ceiling"])], [found["mean"]], marker="|", markersize=14, color=colour)
            if len(lines) <= MOST_LABELS:
                at = (time, found["mean"])
                axes.annotate(line["name"], at, xytext=(6, 6), textcoords="offset points", fontsize=9)
        if len(lines) > MOST_LABELS:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9)
        axes.set_xlabel("fine-tuning time, % of full (| is the ceiling)")
        axes.set_ylabel(f"{metric.replace('_', ' ')}, {comparison['split']}")
        axes.margins(0.12)
        return figure


def _half_interval(found: Mapping[str, Any]) -> float:
    """Half of the 95 % interval of a mean over seeds; 0 for one seed."""
    values = np.array(list(found["by_seed"].values()), float)
    if len(values) < 2:
        return 0.0
    from scipy import stats

    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def _time_error(line: Json) -> list[list[float]] | None:
    saved = line["saved"]["finetune_s"]
    if saved is None or saved["interval"] is None:
        return None
    middle = saved["median"]
    return [[100 * (saved["interval"]["high"] - middle)], [100 * (middle - saved["interval"]["low"])]]


def time_to_target(curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]], metric: str) -> Figure:
    """The dev metric against the seconds spent on fine-tuning, one line per run, one colour per method.

    Args:
        curves: Seconds and figures of each run, by method.
        metric: Its name.
    """
    with rc_context(STYLE):
        figure, axes = new_axes()
        colours = colours_of(list(curves))
        for name, runs in curves.items():
            for place, (seconds, figures) in enumerate(runs):
                label = name if place == 0 else None
                axes.plot(seconds, figures, color=colours[name], linewidth=1.4, marker=".", label=label, alpha=0.85)
        axes.set_xlabel("seconds of training, scoring and selecting")
        axes.set_ylabel(f"{metric.replace('_', ' ')}, dev")
        if len(curves) > 1:
            axes.legend()
        return figure


def where_time_went(costs: Mapping[str, Mapping[str, float]]) -> Figure:
    """Stacked bars: the seconds of each account.

    Args:
        costs: The cost ledger of each run or method.
    """
    with rc_context(STYLE):
        figure, axes = new_axes(height=1.3 + 0.34 * len(costs))
        names = list(costs)
        left = np.zeros(len(names))
        for place, (key, word) in enumerate(ACCOUNTS.items()):
            seconds = np.array([costs[name][key] for name in names])
            axes.barh(names, seconds, left=left, color=SERIES[place], label=word, height=0.62)
            left += seconds
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        axes.grid(axis="y", visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(ACCOUNTS), fontsize=9)
        return figure


def per_class(figures: Mapping[str, Mapping[str, float]], counts: Mapping[str, int], most: int = 30) -> Figure:
    """Recall of each class, smallest first; the worst classes where there are many.

    Args:
        figures: Recall by class, by run or method.
        counts: Test rows by class.
        most: Classes shown.
    """
    with rc_context(STYLE):
        worst = {name: min(found[name] for found in figures.values()) for name in counts}
        names = sorted(counts, key=lambda name: (worst[name], name))[:most]
        figure, axes = new_axes(height=1.2 + 0.24 * len(names))
        colours = colours_of(list(figures))
        for run, found in figures.items():
            axes.plot([100 * found[name] for name in names], names, "o", color=colours[run], label=run, alpha=0.85)
        axes.set_yticks(range(len(names)), [f"{_short(name)} ({counts[name]})" for name in names])
        axes.invert_yaxis()
        axes.set_xlabel("recall, % (how many there are)")
        if len(figures) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9)
        return figure


def _short(name: str, most: int = 32) -> str:
    # a dollar sign would begin a formula
    text = name if len(name) <= most else f"{name[: most - 1]}…"
    return text.replace("$", r"\$")


def agreement(names: Sequence[str], matrix: np.ndarray[Any, Any]) -> Figure:
    """A matrix of agreements in [0, 1] between methods."""
    with rc_context(STYLE):
        size = 1.8 + 0.5 * len(names)
        figure, axes = new_axes(width=max(4.0, size + 1.5), height=size)
        axes.imshow(matrix, cmap="GnBu", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)
        for row in range(len(names)):
            for column in range(len(names)):
                dark = matrix[row, column] > 0.6
                colour = "#ffffff" if dark else "#20242a"
                axes.text(column, row, f"{matrix[row, column]:.2f}", ha="center", va="center", color=colour, fontsize=9)
        return figure
