"""Methods with their options as text, `name(option=value)`: read, split at commas, and written.

Flags, configs, YAML plans and results hold methods in this form. Which names and options there are, `registry` knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import yaml

from datadiet.errors import ArgumentError, Problems, quoted


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """A method and its options from `name` or `name(option=value, ...)`.

    Options have commas between them; `option.key=value` gives a mapping. In braces they are read as YAML.

    Raises:
        ArgumentError: For text of another form.

    Examples:
        >>> parse_call("ccs(beta=0.2, strata=20)"), parse_call("hardest")
        (('ccs', {'beta': 0.2, 'strata': 20}), ('hardest', {}))
        >>> parse_call("directed(directions.rude=easy, default=hard)")
        ('directed', {'directions': {'rude': 'easy'}, 'default': 'hard'})
    """
    match = re.fullmatch(r"\s*([^()\s]*)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if match is None or (match[2] and not match[1]):
        raise ArgumentError(f"a method must be name or name(option=value, ...), got {quoted(text.strip())}.")
    name, inside = match[1], match[2]
    return name, {} if inside is None or not inside.strip() else parse_options(inside, name)


def parse_options(text: str, owner: str) -> dict[str, Any]:
    """The options inside the brackets of `name(option=value, ...)`.

    Args:
        text: `name=value` with commas between, `name.key=value` for a mapping; or a YAML mapping in braces.
        owner: Whose they are, for errors.

    Raises:
        ArgumentError: For every part that is none.
    """
    if text.strip().startswith("{"):
        return _from_yaml(text, owner)
    problems = Problems()
    options: dict[str, Any] = {}
    for part in split_calls(text):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            problems.add(f"options of {owner} must be name=value with commas between, got {quoted(part.strip())}.")
            continue
        outer, dot, key = name.partition(".")
        if not dot:
            options[outer] = _value(value)
        elif isinstance(entries := options.setdefault(outer, {}), dict):
            entries[key] = _value(value)
        else:
            problems.add(f"option {quoted(outer)} of {owner} has a value and entries: give one of the two.")
    problems.raise_any()
    return options


def split_calls(text: str) -> list[str]:
    """Parts of a text at its commas, those inside brackets and braces aside.

    Examples:
        >>> split_calls("el2n, prototypes(clusters=5, metric=cosine)")
        ['el2n', ' prototypes(clusters=5, metric=cosine)']
    """
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "({[") - (sign in ")}]")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _from_yaml(text: str, owner: str) -> dict[str, Any]:
    try:
        options = yaml.safe_load(text)
    except yaml.YAMLError:
        options = None
    if not isinstance(options, dict) or None in options.values():  # `{clusters=500}` is a name without a value
        raise ArgumentError(f"options of {owner} in braces must be {{name: value, ...}}, got {quoted(text.strip())}.")
    return {str(name): value for name, value in options.items()}


def _list(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ArgumentError(f"a list must be [value, ...], got {quoted(text)}.") from None


def _value(text: str) -> Any:
    if text.startswith(("{", "[")):
        return _from_yaml(text, "a mapping") if text.startswith("{") else _list(text)
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False, "none": None}.get(text, text)


def format_call(name: str, options: Mapping[str, Any]) -> str:
    """The text that `parse_call` reads.

    Examples:
        >>> format_call("ccs", {"beta": 0.2}), format_call("directed", {"directions": {"rude": "easy"}})
        ('ccs(beta=0.2)', 'directed(directions.rude=easy)')
    """
    return f"{name}({', '.join(_pairs(options))})" if options else name


def _pairs(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{key}={_written(entry)}" for key, entry in value.items())
        else:
            yield f"{name}={_written(value)}"


def _written(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else "none" if value is None else str(value)
