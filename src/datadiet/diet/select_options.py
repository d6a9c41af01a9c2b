"""Options of a selector or a score: from text, with class names, and into a method that chooses within each batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import yaml

from datadiet.checks import ArgumentError, Problems, unknown
from datadiet.selectors import IN_BATCH, InBatch


def parse_options(text: str, what: str = "select_options") -> dict[str, Any]:
    """Options as one text: `name=value` with commas between, `name.key=value` for a mapping; or in braces as in YAML.

    Args:
        text: The options.
        what: Whose they are, for errors.

    Raises:
        ArgumentError: For every part that is none.

    Example:
        >>> parse_options("beta=0.2,strata=20,directions.rude=easy,directions.polite=hard")
        {'beta': 0.2, 'strata': 20, 'directions': {'rude': 'easy', 'polite': 'hard'}}
        >>> parse_options("{clusters: 500, metric: cosine}")
        {'clusters': 500, 'metric': 'cosine'}
    """
    if text.strip().startswith("{"):
        return _from_yaml(text, what)
    problems = Problems()
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            problems.add(f"{what} needs name=value with commas between, got {part.strip()!r}.")
            continue
        outer, dot, key = name.partition(".")
        if not dot:
            found[outer] = _value(value)
        elif isinstance(held := found.setdefault(outer, {}), dict):
            held[key] = _value(value)
        else:
            problems.add(f"{what} gives {outer!r} a value and entries: give one of the two.")
    problems.raise_any()
    return found


def _from_yaml(text: str, what: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict) or None in found.values():  # `{clusters=500}` is a name without a value
        raise ArgumentError(f"{what} in braces must be {{name: value, ...}}, got {text.strip()!r}.")
    return {str(name): value for name, value in found.items()}


def _value(text: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text, text)


def by_number(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The options with class numbers in place of class names, where an option has an entry per class.

    Raises:
        ArgumentError: For a name that is no class.

    Example:
        >>> by_number({"directions": {"rude": "easy"}, "default": "hard"}, ["polite", "rude"])
        {'directions': {1: 'easy'}, 'default': 'hard'}
    """
    numbers = {name: number for number, name in enumerate(names)}
    problems = Problems()
    found = dict(options)
    for option, held in options.items():
        if isinstance(held, Mapping):
            for name in held:
                problems.choice(f"class in {option}", str(name), numbers)
            found[option] = {numbers[str(name)]: value for name, value in held.items() if str(name) in numbers}
    problems.raise_any()
    return found


def batch_method(select: str, keep: float | Mapping[int, float] | None, options: Mapping[str, Any]) -> InBatch:
    """A method that chooses within each batch.

    Args:
        select: A name of `datadiet.selectors.IN_BATCH`.
        keep: Share of each batch that gets a backward pass; of `selective_backprop`, which draws, the mean share. Of
            `multistage`, which finds the share itself, it is not asked.
        options: Of the method, by name; they win over `keep`.

    Raises:
        ArgumentError: For options that it does not have, or that are out of range.
    """
    kind = IN_BATCH[select]
    known = {name: held.default for name, held in inspect.signature(kind).parameters.items()}
    problems = Problems()
    for name in options:
        if name not in known:
            problems.add(unknown(f"option of {select}", name, known))
    problems.raise_any()
    share = float(keep) if isinstance(keep, (int, float)) else 1.0
    usual = {"keep": share, "beta": max(0.0, 1 / share - 1) if share > 0 else 0.0}
    given = {name: usual[name] for name in usual if name in known}
    made: InBatch = kind(**{**given, **options})
    return made
