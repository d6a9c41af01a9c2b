"""`name(option=value)`: what is read is written the same way, and what is no call is refused."""

from __future__ import annotations

from typing import Any

import pytest

from datadiet.calls import format_call, parse_call
from datadiet.errors import ArgumentError

DIRECTED = {"directions": {"rude": "easy"}, "default": "hard"}
QUOTA = {"select": "epsilon(epsilon=0.3)", "shares": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("hardest", "hardest", {}),
        (" ccs ( beta=0.2 , strata=20 ) ", "ccs", {"beta": 0.2, "strata": 20}),
        ("ccs()", "ccs", {}),
        ("directed(directions.rude=easy, default=hard)", "directed", DIRECTED),
        ("length({unit: characters})", "length", {"unit": "characters"}),
        ("quota(select=epsilon(epsilon=0.3), shares={a: 1})", "quota", QUOTA),
        ("moderate(per_group=true)", "moderate", {"per_group": True}),
    ],
)  # fmt: skip
def test_calls(text: str, name: str, options: dict[str, Any]) -> None:
    assert parse_call(text) == (name, options)
    assert parse_call(format_call(name, options)) == (name, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ccs(beta)", r"options of ccs must be name=value with commas between, got 'beta'"),
        ("ccs(beta=0.2", r"a method must be name or name\(option=value, \.\.\.\), got 'ccs\(beta=0.2'"),
        ("length({unit=words})", r"options of length in braces must be \{name: value, \.\.\.\}"),
        ("quota(select=[)", r"a list must be \[value, \.\.\.\], got '\['"),
        ("(hardest)", r"a method must be name or name\(option=value, \.\.\.\), got '\(hardest\)'"),
        ("ccs(beta=1, beta.x=2)", "option 'beta' of ccs has a value and entries"),
    ],
)
def test_text_that_is_no_call(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        parse_call(text)
