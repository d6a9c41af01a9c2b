"""Checks of what a user gives: what was found, what is allowed, what to do, all problems at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in arguments or data that the user can mend; the command line shows it without a traceback.

    Args:
        problems: One sentence each. They are shown together, so that nobody mends them one try at a time.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__(problems[0] if len(problems) == 1 else "\n".join(f"- {problem}" for problem in problems))


class ArgumentError(UserError):
    """An argument has a value that is not allowed."""


class DataError(UserError):
    """The data cannot be used as it is: names the file and line where there is one."""


class MissingExtraError(UserError):
    """An optional dependency is not installed; says the install line."""


class Problems:
    """Collects the problems with a set of arguments, to be raised together.

    Example:
        >>> problems = Problems()
        >>> problems.check(0.5 <= 1, "never added")
        >>> problems.share("keep", 70)
        >>> problems.raise_any()
        Traceback (most recent call last):
        ...
        datadiet.errors.ArgumentError: keep must be in (0, 1], got 70. Did you mean 0.7?
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        """Note one problem."""
        self.found.append(problem)

    def check(self, holds: bool, problem: str) -> None:
        """Note the problem unless it holds."""
        if not holds:
            self.add(problem)

    def include(self, error: UserError) -> None:
        """Note the problems of an error that was caught."""
        self.found.extend(error.problems)

    def share(self, name: str, value: float) -> None:
        """Note a share outside (0, 1]; a percentage is recognised."""
        if not (isinstance(value, (int, float)) and 0 < value <= 1):
            self.add(f"{name} must be in (0, 1], got {value}.{percent_hint(value)}")

    def whole(self, name: str, value: int, least: int = 0) -> None:
        """Note a number that is not whole, or below `least`."""
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.add(f"{name} must be a whole number, at least {least}, got {value!r}.")

    def choice(self, name: str, value: object, allowed: Iterable[str]) -> None:
        """Note a name that is not among the allowed ones."""
        if value not in (names := list(allowed)):
            self.add(unknown(name, value, names))

    def raise_any(self, kind: type[UserError] = ArgumentError) -> None:
        """Raise everything found, if anything was."""
        if self.found:
            raise kind(*self.found)


def percent_hint(value: object) -> str:
    """` Did you mean 0.7?` where a percentage was given for a share, else nothing.

    Example:
        >>> percent_hint(70)
        ' Did you mean 0.7?'
    """
    return f" Did you mean {value / 100:g}?" if isinstance(value, (int, float)) and 1 < value <= 100 else ""


def unknown(what: str, value: object, allowed: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest one that does.

    Example:
        >>> unknown("score", "el2m", ["el2n", "margin"])
        "unknown score 'el2m'; did you mean 'el2n'? Allowed: el2n, margin."
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {what} {value!r}{hint} Allowed: {', '.join(names)}."
