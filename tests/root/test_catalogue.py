"""The table of methods: complete, and in step with what the library can do."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from datadiet.catalogue import KINDS, METHODS, as_json
from datadiet.diet.options import RESCORE
from datadiet.noise.rankings import NAMES
from datadiet.scores import SCORES
from datadiet.scores.dynamics import DYNAMIC_SCORES
from datadiet.scores.embeddings import EMBEDDING_SCORES
from datadiet.scores.history import HISTORIES
from datadiet.scores.reduce import COMBINATIONS
from datadiet.scores.text import TEXT_SCORES
from datadiet.scores.two_models import TWO_MODEL_SCORES
from datadiet.scoring import GRADIENT_SCORES
from datadiet.selectors import IN_BATCH, SELECTORS


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "score",
            [*SCORES, *DYNAMIC_SCORES, *GRADIENT_SCORES, *TWO_MODEL_SCORES, *EMBEDDING_SCORES, *TEXT_SCORES],
        ),
        ("combine", COMBINATIONS),
        ("select", SELECTORS),
        ("in_batch", IN_BATCH),
        ("history", HISTORIES),
        ("rescore", RESCORE),
        ("offset", ("SHARE", "auto")),
        ("suspects", NAMES),
        ("dedupe", ("exact", "near")),
        ("attribution", ("dattri_tracin", "attributed")),
    ],
)
def test_the_table_names_what_exists(kind: str, names: object) -> None:
    listed = [method.name for method in METHODS if method.kind == kind]
    assert sorted(listed) == sorted(names)  # type: ignore[call-overload]


def test_every_kind_is_explained() -> None:
    assert list(dict.fromkeys(method.kind for method in METHODS)) == list(KINDS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_nothing_is_left_blank(method: object) -> None:
    line = asdict(method)  # type: ignore[call-overload]
    assert all(text.strip() and not text.endswith(".") for text in line.values()), line


def test_json_has_one_object_per_method() -> None:
    assert [line["name"] for line in as_json()] == [method.name for method in METHODS]
    assert set(as_json()[0]) == {"kind", "name", "formula", "needs", "cost", "paper", "loses"}
