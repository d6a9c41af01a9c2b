"""The arguments of a diet, checked together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from datadiet.checks import ArgumentError, Problems, percent_hint
from datadiet.schedules import parse_keep
from datadiet.selectors import SELECTORS
from datadiet.tolerance import ZERO_WHEN_LEARNED, Tolerance

ScoreFunction = Callable[..., Tensor]
TOLERANCE_SELECTORS = ("hardest", "epsilon")
OFFSET_SELECTORS = ("hardest", "window")  # to another selector an offset would do nothing, and is refused


def checked_keep(keep: float | str | Mapping[int, float], problems: Problems) -> float | dict[int, float]:
    """A share, or a step-down of shares by epoch."""
    try:
        found = parse_keep(keep) if isinstance(keep, (str, int, float)) else dict(keep)
    except ArgumentError as error:
        problems.include(error)
        return 1.0
    for share in [found] if isinstance(found, (int, float)) else found.values():
        problems.share("keep", share)
    return found


def check_tolerance(points: float, score: str, named: bool, select: str, problems: Problems) -> None:
    """Note what a tolerance cannot go with: it takes the hardest, by scores that are 0 where all is learned."""
    problems.check(
        not named or score in ZERO_WHEN_LEARNED,
        f"tolerance has no meaning for the score {score!r}; it goes with {', '.join(ZERO_WHEN_LEARNED)}.",
    )
    problems.check(
        select not in SELECTORS or select in TOLERANCE_SELECTORS,
        f"tolerance has no meaning for {select!r}; it goes with {' and '.join(TOLERANCE_SELECTORS)}.",
    )
    try:
        Tolerance(points)
    except ArgumentError as error:
        problems.include(error)


def check_alone(given: Mapping[str, object], problems: Problems) -> None:
    """Note options that would do nothing beside a tolerance.

    Args:
        given: Their values by name.
    """
    usual = {"keep": 0.5}
    for name, value in given.items():
        problems.check(value == usual.get(name, 0), f"{name} has no effect with a tolerance: give one of the two.")


def check_options(select: str, named: bool, offset: float, epsilon: float | None, problems: Problems) -> None:
    """Note options out of range, and options that would do nothing with this selector."""
    problems.check(0 <= offset < 1, f"offset must be in [0, 1), got {offset}.{percent_hint(offset)}")
    if named and offset:
        problems.check(
            select in OFFSET_SELECTORS, f"offset has no effect on {select!r}; it belongs to hardest and window."
        )
    problems.check(select != "window" or offset > 0, "window needs an offset above 0: the share to set aside.")
    if epsilon is not None:
        problems.check(0 <= epsilon <= 1, f"epsilon must be in [0, 1], got {epsilon}.{percent_hint(epsilon)}")
        problems.check(select == "epsilon", f"epsilon has no effect on {select!r}; it belongs to 'epsilon'.")
