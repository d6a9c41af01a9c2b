"""Figures of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from datadiet.reporting.dynamics import KEEPING, Dynamics
from datadiet.reporting.figures.drawing import FAINT, INK, SERIES, STYLE, epoch_axis, new_axes

KEEPING_COLOURS = (SERIES[0], SERIES[1], SERIES[5])
MOST_POINTS = 4000  # of a data map: more only hide each other


def data_map(dynamics: Dynamics, seed: int = 0) -> Figure:
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


def score_distribution(dynamics: Dynamics) -> Figure:
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


def turnover(dynamics: Dynamics) -> Figure:
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
