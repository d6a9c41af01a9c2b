"""How every figure is drawn: its style, its axes, its colours, and its text as inline SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
