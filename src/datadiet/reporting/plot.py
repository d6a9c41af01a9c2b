"""`dd.plot`: the report's figures for a notebook, as matplotlib figures."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from datadiet import run_folder
from datadiet.checks import ArgumentError
from datadiet.comparison.results import read_comparison
from datadiet.reporting import figures
from datadiet.reporting.dynamics import Dynamics, read_dynamics

__all__ = ["data_map", "frontier", "score_distribution", "turnover"]


def frontier(path: str | Path) -> Figure:
    """Quality against time of a comparison's methods.

    Args:
        path: A folder of `datadiet compare`.

    Raises:
        DataError: If it holds no comparison.
    """
    return figures.frontier(read_comparison(Path(path).expanduser()))


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
    return figures.data_map(dynamics)


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
    return figures.turnover(dynamics)


def score_distribution(path: str | Path) -> Figure:
    """A run's scores over the epochs.

    Args:
        path: A run folder.

    Raises:
        DataError: If it holds no finished run.
    """
    return figures.score_distribution(_dynamics(path))


def _dynamics(path: str | Path) -> Dynamics:
    folder = Path(path).expanduser()
    return read_dynamics(folder, run_folder.read_result(folder))
