"""The arguments of a diet, checked together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import ArgumentError, Problems, percent_hint, unknown
from datadiet.diet.select_options import batch_method
from datadiet.schedules import parse_keep
from datadiet.selectors import IN_BATCH, NEEDS, OPTIONS, SELECTORS
from datadiet.tolerance import ZERO_WHEN_LEARNED, Tolerance

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


def check_selector(
    select: str | None,
    keep: float | Mapping[int, float] | None,
    options: Mapping[str, Any],
    offset: float | str,
    epsilon: float | None,
    floor: int,
    problems: Problems,
) -> None:
    """Note everything that is wrong with a selector and its options.

    Args:
        select: Its name; None for a function of the user's, which says itself what it takes.
        keep, options, offset, epsilon, floor: As a diet takes them.
    """
    if select is not None:
        problems.choice("selector", select, (*SELECTORS, *IN_BATCH))
    problems.whole("floor", floor)
    if isinstance(offset, str):
        problems.check(offset == "auto", f"offset must be a share or 'auto', got {offset!r}.")
    _check_shares(select, 0.0 if isinstance(offset, str) else offset, epsilon, problems)
    check_select_options(select, options, floor, problems)
    if select in IN_BATCH:
        check_in_batch(str(select), keep, options, problems)
        problems.check(not floor, f"floor has no effect on {select!r}, which chooses within each batch.")


def _check_shares(select: str | None, offset: float, epsilon: float | None, problems: Problems) -> None:
    """Note shares out of range, and shares that would do nothing with this selector."""
    problems.check(0 <= offset < 1, f"offset must be in [0, 1), got {offset}.{percent_hint(offset)}")
    if select is not None and offset:
        problems.check(
            select in OFFSET_SELECTORS, f"offset has no effect on {select!r}; it belongs to hardest and window."
        )
    problems.check(select != "window" or offset > 0, "window needs an offset above 0: the share to set aside.")
    if epsilon is not None:
        problems.check(0 <= epsilon <= 1, f"epsilon must be in [0, 1], got {epsilon}.{percent_hint(epsilon)}")
        own = select or "a selector of your own"
        problems.check(select == "epsilon", f"epsilon has no effect on {own!r}; it belongs to 'epsilon'.")


def check_select_options(select: str | None, given: Mapping[str, object], floor: int, problems: Problems) -> None:
    """Note options that the selector does not have, and a floor under classes that have quotas.

    Args:
        select: Its name; None for a function of the user's, which says itself what it takes.
        given: Its options by name.
        floor: Rows per class.
    """
    if select is None or select not in OPTIONS:  # a method within batches checks its own
        return
    known = OPTIONS[select]
    inner = given.get("select", known.get("select"))
    allowed = {**known, **(OPTIONS.get(str(inner), {}) if isinstance(inner, str) else {})}
    if floor and "groups" in NEEDS.get(select, ()):
        problems.add(f"floor has no effect on {select!r}, which gives every class its places itself.")
    for name in given:
        if name not in allowed:
            problems.add(unknown(f"option of {select}", name, allowed))
    if isinstance(given.get("select"), str):
        problems.choice("select", given["select"], SELECTORS)


def checked_values(values: NDArray[np.float32], num_examples: int) -> NDArray[np.float32]:
    """One number per training row.

    Raises:
        ArgumentError: If there are more or fewer, or some are not finite: names the first.
    """
    found = np.asarray(values, np.float32)
    if found.shape != (num_examples,):
        raise ArgumentError(f"values must be one per training row, {num_examples}: got the shape {found.shape}.")
    bad = np.flatnonzero(~np.isfinite(found))
    if bad.size:
        raise ArgumentError(f"values must be finite: {bad.size} are not, the first in row {int(bad[0])}.")
    return found


def check_in_batch(
    select: str, keep: float | Mapping[int, float] | None, options: Mapping[str, Any], problems: Problems
) -> None:
    """Note what cannot go with a method that chooses within each batch; see `batch_method`."""
    problems.check(
        not isinstance(keep, Mapping), f"keep must be one share for {select!r}: it has no cycles to step down with."
    )
    try:
        batch_method(select, keep, options)
    except ArgumentError as error:
        problems.include(error)
