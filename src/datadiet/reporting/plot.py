"""Figures of runs and comparisons, with matplotlib.

`*_figure(data)` builds a figure for the page from data that has been read. `dd.plot` is this module: `frontier`,
`data_map`, `trained`, `turnover` and `score_distribution` read a folder and return the figure
of the page for a notebook.
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
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from datadiet.compare.run import read_comparison
from datadiet.errors import ArgumentError
from datadiet.formatting import ACCOUNTS, shortened, spaced
from datadiet.reporting.rows import KEEPING, Dynamics, read_dynamics
from datadiet.store import run_folder
from datadiet.types import Json

# Stand-ins that the page turns into the colours of its theme; readable as they are, in a notebook.
INK, FAINT = "#30343b", "#c9cdd3"
SERIES = (
    "#0f8f86", "#d9702b", "#7559c2", "#3679b8", "#b8455a", "#7d8590",
    "#8a7a1f", "#2f9e5b", "#c0509f", "#5a4632", "#4fb3d9", "#9aa83a",
)  # fmt: skip
FONT = 11  # points: as many pixels on a phone, where a figure of `WIDTH` inches is as wide as the page
WIDTH = 4.5
STYLE: Any = {
    "svg.fonttype": "none", "font.size": FONT, "legend.fontsize": FONT,
    "axes.labelsize": FONT, "xtick.labelsize": FONT, "ytick.labelsize": FONT, "font.family": ["sans-serif"],
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.5,
    "axes.axisbelow": True, "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
}  # fmt: skip
MOST_LABELS = 5  # of points: more labels overlap, and a legend replaces them
MOST_POINTS = 4000  # of a data map: more points only hide each other
MOST_CLASSES = 30
MOST_RIDGES = 10
KEEPING_COLOURS = (SERIES[0], SERIES[1], SERIES[5])


def new_axes(width: float = WIDTH, height: float = 3.0) -> tuple[Figure, Axes]:
    """A figure, in inches, and its one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=72)
    return figure, figure.add_subplot()


def epoch_axis(axes: Axes, name: str) -> None:
    """Whole epochs along the x axis."""
    axes.set_xlabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # of a single epoch too


def legend_above(figure: Figure, axes: Axes, columns: int, **style: Any) -> None:
    """The legend of the axes, above them."""
    labelled = axes.get_legend_handles_labels()
    figure.legend(*labelled, loc="outside upper center", ncols=columns, **style)


def svg(figure: Figure, name: str = "datadiet") -> str:
    """A figure as inline SVG that takes the page's colours and width; the same figure gives the same text.

    Args:
        figure: To draw.
        name: Of the figure in its page: parts with the same name would have the same identifiers.
    """
    stream = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1">', text, count=1, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing refers to a group, and other figures have the same names
    # coordinates stand inside the tags, and the numbers of the axes between them
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0]), text)
    text = text.replace("sans-serif", "inherit")
    return text.replace(INK, "var(--ink)").replace(FAINT, "var(--faint)")


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name; the same names get the same colours."""
    return {name: SERIES[place % len(SERIES)] for place, name in enumerate(names)}


# ---- of a comparison


@rc_context(STYLE)
def frontier_figure(comparison: Json) -> Figure:
    """Quality against time: each method at the share of full's time that it took, with 95 % intervals, and its ceiling.

    Args:
        comparison: The content of `comparison.json`.
    """
    figure, axes = new_axes()
    metric = comparison["metric"]
    comparable = [line for line in comparison["methods"] if line["comparable_times"]]
    lines = [line for line in comparable if line["method"] == "full" or line["saved"]["finetune_s"]]
    colours = colours_of([line["name"] for line in lines])
    places: list[tuple[float, float]] = []
    for line in lines:
        quality, colour = line["metrics"][metric], colours[line["name"]]
        time = 100.0 if line["method"] == "full" else 100 * (1 - line["saved"]["finetune_s"]["median"])
        axes.errorbar(
            [time], [quality["mean"]], yerr=_half_interval(quality), xerr=_time_error(line), fmt="o", color=colour,
            capsize=3, markersize=6, elinewidth=1, label=line["name"],
        )  # fmt: skip
        if line["ceiling"] is not None and line["method"] != "full":
            axes.plot([100 * (1 - line["ceiling"])], [quality["mean"]], marker="|", markersize=14, color=colour)
        places.append((time, quality["mean"]))
    axes.set_xlabel("fine-tuning time, % of full (| is the ceiling)")
    axes.set_ylabel(f"{spaced(metric)}, {comparison['split']}")
    axes.margins(0.15)
    if metric not in run_folder.LOWER_IS_BETTER:
        axes.set_ylim(top=min(101, axes.get_ylim()[1]))  # a share has no more than 100 points
    if len(lines) > MOST_LABELS:
        legend_above(figure, axes, 2)
    else:
        _label(axes, places, [line["name"] for line in lines])
    return figure


def _label(axes: Axes, places: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Names beside points, from the bottom to the top, each raised above the one below it."""
    last = -np.inf
    middle = np.mean(axes.get_xlim())
    for place in sorted(range(len(places)), key=lambda place: places[place][1]):
        height = axes.transData.transform(places[place])[1]
        raised = max(height + 6, last + 1.3 * FONT)  # a figure has 72 dots to the inch here, as points
        last = raised
        left = places[place][0] > middle
        axes.annotate(
            names[place], places[place], xytext=(-7 if left else 7, raised - height), textcoords="offset points",
            ha="right" if left else "left",
        )  # fmt: skip


def _half_interval(quality: Mapping[str, Any]) -> float:
    """Half of the 95 % interval of a mean over seeds; 0 for one seed."""
    values = np.array(list(quality["by_seed"].values()), float)
    if len(values) < 2:
        return 0.0
    from scipy import stats

    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def _time_error(line: Json) -> list[list[float]] | None:
    saved = line["saved"]["finetune_s"]
    if saved is None or saved["interval"] is None:
        return None
    median = saved["median"]
    return [[100 * (saved["interval"]["high"] - median)], [100 * (median - saved["interval"]["low"])]]


@rc_context(STYLE)
def time_to_target_figure(
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]], metric: str
) -> Figure:
    """The dev metric against the seconds spent on fine-tuning, one line per run, one colour per method.

    Args:
        curves: Seconds and figures of each run, by method.
        metric: Its name.
    """
    figure, axes = new_axes()
    colours = colours_of(list(curves))
    for name, runs in curves.items():
        for place, (seconds, figures) in enumerate(runs):
            label = name if place == 0 else None
            axes.plot(seconds, figures, color=colours[name], linewidth=1.4, marker=".", label=label, alpha=0.85)
    axes.set_xlabel("seconds of fine-tuning")
    axes.set_ylabel(f"{spaced(metric)}, dev")
    if len(curves) > 1:
        legend_above(figure, axes, 2)
    return figure


@rc_context(STYLE)
def cost_figure(costs: Mapping[str, Mapping[str, float]]) -> Figure:
    """Stacked bars: the seconds of each account.

    Args:
        costs: The cost ledger of each run or method.
    """
    figure, axes = new_axes(height=1.7 + 0.34 * len(costs))
    names = list(costs)
    left = np.zeros(len(names))
    for place, (key, word) in enumerate(ACCOUNTS.items()):
        seconds = np.array([costs[name].get(key, 0.0) for name in names])
        axes.barh(names, seconds, left=left, color=SERIES[place], label=word, height=0.62)
        left += seconds
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.grid(axis="y", visible=False)
    legend_above(figure, axes, 4, handlelength=1.0, columnspacing=1.0)
    return figure


@rc_context(STYLE)
def class_figure(recalls: Mapping[str, Mapping[str, float]], counts: Mapping[str, int]) -> Figure:
    """Recall of each class, smallest first; the `MOST_CLASSES` worst.

    Args:
        recalls: Recall by class, by run or method.
        counts: Test rows by class.
    """
    worst = {name: min(recall[name] for recall in recalls.values()) for name in counts}
    names = sorted(counts, key=lambda name: (worst[name], name))[:MOST_CLASSES]
    height = 1.0 + 0.26 * len(names) + (0.22 * ((len(recalls) + 1) // 2) if len(recalls) > 1 else 0)
    figure, axes = new_axes(height=height)
    colours = colours_of(list(recalls))
    for run, recall in recalls.items():
        axes.plot([100 * recall[name] for name in names], names, "o", color=colours[run], label=run, alpha=0.85)
    # a dollar sign would begin a formula
    labels = [f"{shortened(name, 24)} ({counts[name]})".replace("$", r"\$") for name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("recall, %")
    if len(recalls) > 1:
        legend_above(figure, axes, 2)
    return figure


@rc_context(STYLE)
def agreement_figure(names: Sequence[str], matrix: np.ndarray[Any, Any]) -> Figure:
    """A matrix of agreements in [0, 1] between methods."""
    size = 1.8 + 0.5 * len(names)
    figure, axes = new_axes(width=max(4.0, size + 1.5), height=size)
    axes.imshow(matrix, cmap="GnBu", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    for (row, column), value in np.ndenumerate(matrix):
        colour = "#ffffff" if value > 0.6 else "#20242a"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    return figure


# ---- of a run


@rc_context(STYLE)
def data_map_figure(dynamics: Dynamics, seed: int = 0) -> Figure:
    """Confidence against variability, one point per training row, coloured by how often it was kept.

    Args:
        dynamics: Of a run with classes.
        seed: Of the sample of points, where there are more than `MOST_POINTS`.

    Source: Swayamdipta et al. 2020 (arXiv 2009.10795).
    """
    figure, axes = new_axes(height=3.8)
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
    axes.set_xlabel("variability of the gold probability")
    axes.set_ylabel("confidence: its mean")
    legend_above(figure, axes, 2, markerscale=3)
    return figure


@rc_context(STYLE)
def score_distribution_figure(dynamics: Dynamics) -> Figure:
    """Ridgelines: the distribution of the score in each round, the first at the top, with its median.

    Of more than `MOST_RIDGES` rounds it shows the first, the last, and others evenly between.
    """
    rounds = [entry for entry in dynamics.rounds if entry.histogram is not None]
    places = np.unique(np.linspace(0, len(rounds) - 1, min(len(rounds), MOST_RIDGES)).round().astype(int))
    figure, axes = new_axes(height=1.4 + 0.32 * len(places))
    names = []
    for height, place in enumerate(places[::-1]):
        entry = rounds[place]
        counts, edges = entry.histogram or ((), ())
        middles, density = (np.asarray(edges)[1:] + np.asarray(edges)[:-1]) / 2, np.asarray(counts) / max(counts)
        colour = SERIES[0] if entry.source == "train" else SERIES[1]
        order = len(places) - height
        axes.fill_between(middles, height, height + 1.5 * density, color=colour, alpha=0.35, linewidth=0, zorder=order)
        axes.plot(middles, height + 1.5 * density, color=colour, linewidth=1, zorder=order)
        axes.plot([entry.median], [height], marker="|", markersize=9, color=INK, zorder=len(places) + 1)
        names.append(f"epoch {entry.epoch + 1}" if entry.source == "train" else f"pass before {entry.epoch + 1}")
    axes.set_yticks(range(len(places)), names)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(spaced(dynamics.score))
    return figure


@rc_context(STYLE)
def trained_figure(dynamics: Dynamics) -> Figure:
    """Rows by epochs: which of the drawn rows trained in which epoch, sorted by the first epoch that left them out."""
    trained = dynamics.kept.by_epoch  # (epochs, rows)
    left_out = np.where(trained.all(0), len(trained), np.argmin(trained, axis=0))
    order = np.lexsort((-trained.sum(0), left_out))
    figure, axes = new_axes(height=3.4)
    picture = np.zeros((trained.shape[1], len(trained), 4))
    picture[..., :3], picture[..., 3] = to_rgb(SERIES[0]), trained[:, order].T
    extent = (0.5, len(trained) + 0.5, trained.shape[1], 0)
    axes.imshow(picture, aspect="auto", interpolation="nearest", extent=extent)
    axes.grid(visible=False)
    epoch_axis(axes, "epoch")
    axes.set_ylabel("training rows")
    return figure


@rc_context(STYLE)
def turnover_figure(dynamics: Dynamics) -> Figure:
    """The share of each selection that is new, and its agreement with the selection before."""
    figure, axes = new_axes(height=3.0)
    later = dynamics.choices[1:]
    epochs = [choice.epoch + 1 for choice in later]
    new, agreement = ([100 * getattr(choice, name) for choice in later] for name in ("new", "agreement"))
    axes.plot(epochs, new, color=SERIES[1], marker="o", label="new, % of the kept")
    label = "agreement (Jaccard), %"
    axes.plot(epochs, agreement, color=SERIES[0], marker="o", label=label)
    axes.set_ylim(0, 100)
    epoch_axis(axes, "epoch of the choice")
    axes.legend()
    return figure


@rc_context(STYLE)
def kept_figure(epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """Rows that were kept and dropped in each epoch."""
    figure, axes = new_axes(height=2.6)
    numbers = [epoch["epoch"] + 1 for epoch in epochs]
    kept, dropped = (np.array([epoch[name] for epoch in epochs]) for name in ("kept", "dropped"))
    axes.bar(numbers, kept, color=SERIES[0], label="kept", width=0.7)
    axes.bar(numbers, dropped, bottom=kept, color=FAINT, label="dropped", width=0.7)
    epoch_axis(axes, "epoch")
    axes.set_ylabel("training rows")
    axes.grid(axis="x", visible=False)
    legend_above(figure, axes, 2)
    return figure


@rc_context(STYLE)
def noise_figure(reviews: Sequence[Mapping[str, Any]], least: float) -> Figure:
    """The estimated share of wrong labels over the reviews, with its interval.

    Args:
        reviews: Of `noise.json`, those with an estimate.
        least: The share below which no row is excluded.
    """
    figure, axes = new_axes(height=2.6)
    epochs = [review["epoch"] + 1 for review in reviews]
    rate, low, high = (100 * np.array([review[name] for review in reviews]) for name in ("rate", "low", "high"))
    axes.errorbar(epochs, rate, yerr=[rate - low, high - rate], fmt="o-", color=SERIES[0], capsize=3, elinewidth=1)
    axes.axhline(100 * least, color=INK, linewidth=0.8, linestyle="--")
    axes.set_ylim(0, 1.15 * max(*high, 200 * least))
    axes.margins(x=0.1)
    epoch_axis(axes, "before epoch")
    axes.set_ylabel("wrong labels, %")
    return figure


@rc_context(STYLE)
def race_figure(races: Sequence[Mapping[str, Any]]) -> Figure:
    """The difference of the dev losses of each race with its interval: below zero the challenger is better.

    Args:
        races: `race.races` of `result.json`.
    """
    figure, axes = new_axes(height=1.2 + 0.36 * len(races))
    for place, duel in enumerate(races):
        won = duel["winner"] == duel["challenger"]
        colour = SERIES[0] if won else SERIES[5]
        axes.plot(duel["interval"], [place, place], color=colour, linewidth=2)
        axes.plot([duel["difference"]], [place], "o", color=colour)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    names = [f"epoch {duel['epoch'] + 1}: {duel['challenger']} - {duel['champion']}" for duel in races]
    axes.set_yticks(range(len(races)), names)
    axes.set_ylim(len(races) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("difference of the dev losses")
    return figure


# ---- from a folder: `dd.plot`


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
    if np.isnan(dynamics.confidence).all():
        raise ArgumentError(f"{path} has no gold probabilities: a data map needs classes.")
    return data_map_figure(dynamics)


def turnover(path: str | Path) -> Figure:
    """The share of each selection of a run that is new.

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


def trained(path: str | Path) -> Figure:
    """Which rows of a run trained in which epoch.

    Args:
        path: A run folder.

    Raises:
        DataError: If it holds no finished run.
    """
    return trained_figure(_dynamics(path))


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
    return read_dynamics(folder, run_folder.checked_result(folder))
