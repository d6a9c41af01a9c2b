"""Everything that reads refuses broken input in words: the kept corpus, and inputs that are made up anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import CORPUS, TARGETS, allowed

KEPT = sorted(path for path in CORPUS.rglob("*") if path.is_file())
# a seconds or two each, the same inputs every time: `make fuzz` looks for new ones
QUICK = settings(
    max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None
)

odd_text = st.text(st.sampled_from("ab1-.,;|\t\n\r\"'[]{}: =O\0\x1b\ud800é\u2028"), max_size=30)
odd_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | odd_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=2),
    max_leaves=5,
)
_OF_CONVERSATIONS = ("messages", "prompt", "response")
names = st.sampled_from(
    ["text", "label", "labels", "tokens", "tags", "slots", "id", "intent", "text_a", "text_b", *_OF_CONVERSATIONS]
)
rows = st.lists(st.dictionaries(names | odd_text, odd_values, max_size=4), max_size=4)
cells = st.lists(st.lists(odd_text | st.sampled_from(["text", "label", "a", "1"]), max_size=4), max_size=4)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
@pytest.mark.filterwarnings("ignore")
def test_the_corpus(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.filterwarnings("ignore")
@QUICK
@given(rows)
def test_made_up_json(made_up: list[dict[str, object]]) -> None:
    TARGETS["jsonl"]("\n".join(map(json.dumps, made_up)).encode())
    TARGETS["json"](json.dumps(made_up).encode())


@pytest.mark.parametrize("kind", ["csv", "tsv", "conll", "txt"])
@pytest.mark.filterwarnings("ignore")
@QUICK
@given(cells)
def test_made_up_cells(kind: str, made_up: list[list[str]]) -> None:
    separator = {"csv": ",", "tsv": "\t"}.get(kind, " ")
    TARGETS[kind]("\n".join(map(separator.join, made_up)).encode(errors="surrogatepass"))


@pytest.mark.parametrize("target", ["table", "config", "score_file", "run_folder"])
@pytest.mark.filterwarnings("ignore")
@QUICK
@given(st.binary(min_size=4, max_size=60))
def test_made_up_bytes(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("message", ["red \x1b[31m", "x" * 5000])
def test_a_fault_is_found(message: str) -> None:
    from datadiet.errors import UserError

    error = UserError("")
    error.problems = (message,)

    def refuse() -> None:
        raise error

    with pytest.raises(AssertionError, match=r"characters"):
        allowed(refuse)
    with pytest.raises(KeyError, match="x"):
        allowed(lambda: {}["x"])
