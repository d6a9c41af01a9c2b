"""JSON lines and arrays."""

from __future__ import annotations

import pytest

from datadiet.data.readers import read_json, read_jsonl
from datadiet.errors import DataError


def test_broken_lines_are_told_together_and_the_rest_counted():
    lines = b"\n".join([b'{"a": 1}', *[b"{"] * 9])
    with pytest.raises(DataError, match=r"line 2: not valid JSON.* Also lines 3, 4, 5, 6 and 4 more\.$"):
        read_jsonl(lines, "train.jsonl")


def test_json_lines_may_hold_line_separators_and_lack_keys():
    table = read_jsonl('{"text": "a\u2028b"}\r\n{"text": "c", "label": 1}'.encode(), "train.jsonl")
    assert table.columns == {"text": ["a\u2028b", "c"], "label": [None, 1]}


def test_json_may_be_lines_or_an_array():
    assert read_json(b'{"a": 1}\n{"a": 2}', "x.json").columns == read_json(b' [{"a": 1}, {"a": 2}]', "x.json").columns
