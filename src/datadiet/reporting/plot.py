"""How every figure is drawn: its style, its axes, its colours, and its text as inline SVG.

Figures of runs and methods side by side.

Figures of one run.

`dd.plot`: the report's figures for a notebook, as matplotlib figures.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from datadiet.compare.run import read_comparison
from datadiet.errors import ArgumentError
from datadiet.reporting.rows import KEEPING, Dynamics, read_dynamics
from datadiet.store import run_folder
from datadiet.types import Json

# Stand-ins that the page turns into the colours of its theme; readable as they are, in a notebook.
INK, FAINT = "#30343b", "#c9cdd3"
SERIES = (
    "#0f8f86",
    "#d9702b",
    "#7559c2",
    "#3679b8",
    "#b8455a",
    "#7d8590",
    "#8a7a1f",
    "#2f9e5b",
    "#c0509f",
    "#5a4632",
    "#4fb3d9",
    "#9aa83a",
)
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "datadiet", "font.size": 10, "font.family": ["sans-serif"],
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.5,
    "axes.axisbelow": True, "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
}  # fmt: skip


def new_axes(width: float = 7.2, height: float = 3.8) -> tuple[Figure, Axes]:
    """A figure, in inches, and its one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def epoch_axis(axes: Axes, name: str) -> None:
    """Whole epochs along the x axis."""
    axes.set_xlabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # of a single epoch too


def svg(figure: Figure) -> str:
    """A figure as inline SVG that takes the page's colours and width; the same figure gives the same text."""
    stream = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1, flags=re.DOTALL
    )
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # coordinates, not the numbers that are read: those stand between the tags
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0]), text)
    text = text.replace("sans-serif", "inherit")
    return text.replace(INK, "var(--ink)").replace(FAINT, "var(--faint)")


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, the same names the same ones."""
    return {name: SERIES[place % len(SERIES)] for place, name in enumerate(names)}


ACCOUNTS = {
    "load_s": "load",
    "train_s": "train",
    "score_s": "score",
    "select_s": "select",
    "eval_s": "evaluate",
    "save_s": "save",
}
MOST_LABELS = 5  # of points: more would lie on one another, and a legend names them


def frontier_figure(comparison: Json) -> Figure:
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


KEEPING_COLOURS = (SERIES[0], SERIES[1], SERIES[5])
MOST_POINTS = 4000  # of a data map: more only hide each other


def data_map_figure(dynamics: Dynamics, seed: int = 0) -> Figure:
    """Confidence against variability, one point per training row, coloured by how often it was kept.

    Args:
        dynamics: Of a classification or joint run.
        seed: Of the points shown, where there are many.

    Source: Swayamdipta et al. 2020 (arXiv 2009.10795).
    """
    with rc_context(STYLE):
        figure, axes = new_axes(height=4.6)
        rows = np.flatnonzero(np.isfinite(dynamics.confidence))
        if len(rows) > MOST_POINTS:
            rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_POINTS, replace=False))
        keeping = dynamics.keeping
        counts = np.bincount(keeping, minlength=len(KEEPING))
        for place, (name, colour) in enumerate(zip(KEEPING, KEEPING_COLOURS, strict=True)):
            these = rows[keeping[rows] == place]
            axes.scatter(
                dynamics.variability[these], dynamics.confidence[these], s=7, color=colour, alpha=0.55, linewidths=0,
                label=f"kept {name} ({counts[place]:,})", rasterized=len(rows) > 1500,
            )  # fmt: skip
        axes.set_xlabel("variability: standard deviation of the gold probability over the epochs")
        axes.set_ylabel("confidence: its mean")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9, markerscale=3)
        return figure


def score_distribution_figure(dynamics: Dynamics) -> Figure:
    """The score over the rounds: median, middle half and middle nine tenths of the rows that have a value."""
    with rc_context(STYLE):
        figure, axes = new_axes(height=3.2)
        for source, colour in (("train", SERIES[0]), ("pass", SERIES[1])):
            rounds = [entry for entry in dynamics.rounds if entry.source == source and entry.quantiles]
            if not rounds:
                continue
            epochs = [entry.epoch + (1 if source == "train" else 0) for entry in rounds]
            low, lower, middle, upper, high = np.array([entry.quantiles for entry in rounds]).T
            axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.fill_between(epochs, lower, upper, color=colour, alpha=0.3, linewidth=0)
            words = {"train": "training forward", "pass": "scoring pass"}
            axes.plot(epochs, middle, color=colour, marker=".", label=f"median, {words[source]}")
        epoch_axis(axes, "epoch")
        axes.set_ylabel(dynamics.score.replace("_", " "))
        axes.legend(fontsize=9)
        return figure


def turnover_figure(dynamics: Dynamics) -> Figure:
    """How much of each selection is new, and how far it agrees with the one before."""
    with rc_context(STYLE):
        figure, axes = new_axes(height=3.0)
        later = dynamics.choices[1:]
        epochs = [choice.epoch + 1 for choice in later]
        axes.plot(
            epochs, [100 * choice.new for choice in later], color=SERIES[1], marker="o", label="new, % of the kept"
        )
        axes.plot(
            epochs, [100 * choice.agreement for choice in later], color=SERIES[0], marker="o",
            label="agreement with the choice before (Jaccard), %",
        )  # fmt: skip
        axes.set_ylim(0, 100)
        epoch_axis(axes, "epoch of the choice")
        axes.legend(fontsize=9)
        return figure


def kept_by_epoch(epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """Rows that trained in each epoch."""
    with rc_context(STYLE):
        figure, axes = new_axes(height=2.6)
        numbers = [epoch["epoch"] + 1 for epoch in epochs]
        kept = np.array([epoch["kept"] for epoch in epochs])
        axes.bar(numbers, kept, color=SERIES[0], label="kept", width=0.7)
        axes.bar(numbers, [epoch["dropped"] for epoch in epochs], bottom=kept, color=FAINT, label="rested", width=0.7)
        epoch_axis(axes, "epoch")
        axes.set_ylabel("training rows")
        axes.grid(axis="x", visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
        return figure


def noise_level(reviews: Sequence[Mapping[str, Any]], least: float) -> Figure:
    """The estimated share of wrong labels over the reviews, with its interval.

    Args:
        reviews: Of `noise.json`, those that judged.
        least: The share below which nothing is set aside.
    """
    with rc_context(STYLE):
        figure, axes = new_axes(height=2.8)
        epochs = [review["epoch"] + 1 for review in reviews]
        rate, low, high = (100 * np.array([review[name] for review in reviews]) for name in ("rate", "low", "high"))
        axes.errorbar(epochs, rate, yerr=[rate - low, high - rate], fmt="o-", color=SERIES[0], capsize=3, elinewidth=1)
        axes.axhline(100 * least, color=INK, linewidth=0.8, linestyle="--")
        axes.set_ylim(0, 1.15 * max(*high, 200 * least))
        axes.margins(x=0.1)
        epoch_axis(axes, "before epoch")
        axes.set_ylabel("wrong labels, %")
        return figure


def frontier(path: str | Path) -> Figure:
    """Quality against time of a comparison's methods.

    Args:
        path: A folder of `datadiet compare`.

    Raises:
        DataError: If it holds no comparison.
    """
    return frontier_figure(read_comparison(Path(path).expanduser()))


def data_map(path: str | Path) -> Figure:
    """Confidence against variability of a run's training rows.

    Args:
        path: A run folder.

    Raises:
        DataError: If it holds no finished run.
        ArgumentError: If the run has no gold probabilities (a regression).
    """
    dynamics = _dynamics(path)
    if not (dynamics.confidence == dynamics.confidence).any():
        raise ArgumentError(f"{path} has no gold probabilities: a data map needs classes.")
    return data_map_figure(dynamics)


def turnover(path: str | Path) -> Figure:
    """How much of each selection of a run is new.

    Args:
        path: A run folder.

    Raises:
        DataError: If it holds no finished run.
        ArgumentError: If the run chose less than twice.
    """
    dynamics = _dynamics(path)
    if len(dynamics.choices) < 2:
        raise ArgumentError(f"{path} has {len(dynamics.choices)} selections: a turnover needs at least two.")
    return turnover_figure(dynamics)


def score_distribution(path: str | Path) -> Figure:
    """A run's scores over the epochs.

    Args:
        path: A run folder.

    Raises:
        DataError: If it holds no finished run.
    """
    return score_distribution_figure(_dynamics(path))


def _dynamics(path: str | Path) -> Dynamics:
    folder = Path(path).expanduser()
    return read_dynamics(folder, run_folder.read_result(folder))
