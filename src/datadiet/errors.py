"""Checks of what a user gives: what was found, what is allowed, what to do, all problems at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

MOST_SHOWN = 200  # characters of one value in a message
_MOST_NAMES, _MOST_NEAR = 100, 2000
# what steers a terminal or cannot be written: control characters, line separators, turns of direction, half surrogates
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Text for a terminal or a page: control characters are escaped, line ends stay.

    Examples:
        >>> print(visible("red \x1b[31m"))
        red \x1b[31m
    """
    return UNSAFE.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def quoted(value: object, most: int = MOST_SHOWN) -> str:
    """A value from the user's data for a message: quoted where it is text, and cut.

    Examples:
        >>> quoted("it is"), quoted(5), quoted("a" * 1000, most=10)
        ("'it is'", '5', "'aaaaaaaaa ... (1,000 characters)")
    """
    if isinstance(value, (str, bytes)):
        text, size = repr(value[: most + 1]), len(value)
    else:
        try:
            text = repr(value)
        except RecursionError:
            text = f"a deeply nested {type(value).__name__}"
        size = len(text)
    return text if len(text) <= most + 2 else f"{text[:most]} ... ({size:,} characters)"


def cut(text: str, most: int = MOST_SHOWN) -> str:
    """A long name or reason, as it is but cut, for a message.

    Examples:
        >>> cut("a.csv"), cut("a" * 1000, most=3)
        ('a.csv', 'aaa ... (1,000 characters)')
    """
    return text if len(text) <= most else f"{text[:most]} ... ({len(text):,} characters)"


class UserError(ValueError):
    """A mistake in arguments or data that the user can mend; the command line shows it without a traceback.

    Args:
        problems: One sentence each. They are shown together, so that nobody mends them one try at a time.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems = tuple(visible(problem) for problem in problems)
        super().__init__(problems[0] if len(problems) == 1 else "\n".join(f"- {problem}" for problem in problems))


class ArgumentError(UserError):
    """An argument has a value that is not allowed."""


class DataError(UserError):
    """The data cannot be used as it is: names the file and line where there is one."""


class MissingExtraError(UserError):
    """An optional dependency is not installed; says the install line."""


class Problems:
    """Collects the problems with a set of arguments, to be raised together.

    Examples:
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
            self.add(f"{name} must be a whole number, at least {least}, got {quoted(value)}.")

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

    Examples:
        >>> percent_hint(70)
        ' Did you mean 0.7?'
    """
    return f" Did you mean {value / 100:g}?" if isinstance(value, (int, float)) and 1 < value <= 100 else ""


def unknown(what: str, value: object, allowed: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest one that does.

    Examples:
        >>> unknown("score", "el2m", ["el2n", "margin"])
        "unknown score 'el2m'; did you mean 'el2n'? Allowed: el2n, margin."
    """
    names = sorted(allowed)
    near = nearest(str(value), names)
    hint = f"; did you mean {quoted(near)}?" if near else "."
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    listed = ", ".join(map(cut, names[:_MOST_NAMES]))
    return f"unknown {what} {quoted(value)}{hint} Allowed: {listed}{more}."


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The name that differs least, if any is near; among the first ones of very many, and of usual length.

    Examples:
        >>> nearest("el2m", ["el2n", "margin"]), nearest("x", ["el2n"])
        ('el2n', None)
    """
    short = [one for one in names[:_MOST_NEAR] if len(one) <= MOST_SHOWN]
    near = difflib.get_close_matches(name, short, n=1) if len(name) <= MOST_SHOWN else []
    return near[0] if near else None
