"""A static selection: what is kept, what is dropped, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datadiet.errors import ArgumentError, DataError
from datadiet.jobs.select_rows import REASONS, SelectConfig, select_rows, selection_problems
from datadiet.registry import names
from datadiet.selectors.ranked import hardest
from datadiet.store.score_file import ScoreFile, write_scores

N = 100
CALLS = {
    "window": "window(offset=0.1)",
    "drop_quota": "drop_quota(recalls.a=0.5, recalls.b=0.9, recalls.rare=0.2)",
}


def made_up(**changes: Any) -> ScoreFile:
    """100 rows of three classes, one of four rows, whose values are all among the easiest; el2n rises by row."""
    values = {"el2n": np.linspace(0, 1, N, dtype=np.float32), "other": np.zeros(N, np.float32)}
    labels = ["rare" if row < 4 else "ab"[row % 2] for row in range(N)]
    file = ScoreFile(
        [f"id-{row}" for row in range(N)], np.arange(N), values, labels, "f" * 16, "made up", "classification"
    )
    return replace(file, **changes)


def texts() -> list[str]:
    return [f"text number {row}" for row in range(N)]


# ---- every selector ----


@pytest.mark.parametrize("name", sorted(names("select")))
def test_every_selector_by_name(name: str) -> None:
    options: dict[str, Any] = {"select": CALLS.get(name, name), "score": "el2n", "keep": 0.3, "seed": 3}
    found = select_rows(made_up(), texts=texts(), **options)
    assert len(found.rows) == 30
    assert np.array_equal(found.rows, np.unique(found.rows))
    assert np.array_equal(found.kept, np.isin(found.reasons, REASONS[:2]))
    assert np.array_equal(found.rows, select_rows(made_up(), texts=texts(), **options).rows)
    assert sum(found.counts().values()) == N


@pytest.mark.parametrize("name", sorted({*names("select", need="groups"), *names("select", need="recalls"), "window"}))
def test_what_a_selector_needs_is_asked_for(name: str) -> None:
    file = made_up(labels=None)
    with pytest.raises(ArgumentError, match=r"needs the (option|class)"):
        select_rows(file, score="el2n", select=name, keep=0.3)


def test_features_come_from_the_texts_or_from_the_caller() -> None:
    near = np.zeros((N, 2))
    near[:, 0] = 1
    near[7] = near[70] = (-5, 5)
    found = select_rows(made_up(), score="el2n", select="k_center", count=2, features=near).rows
    assert len({7, 70} & set(found.tolist())) == 1
    words = ["play it"] * N
    words[13] = "x"  # a single letter has to lie somewhere too
    found = select_rows(made_up(), score="el2n", select="k_center", count=2, texts=words).rows
    assert 13 in found
    with pytest.raises(ArgumentError, match="needs features"):
        select_rows(made_up(), score="el2n", select="k_center", count=2)


def test_a_function_of_ones_own_and_options() -> None:
    found = select_rows(made_up(), score="el2n", select=hardest, keep=0.1, offset=0.05)
    assert found.rows.tolist() == list(range(85, 95))
    inner = select_rows(made_up(), score="el2n", select="quota(shares.a=0.5, shares.b=0.5, shares.rare=0)", keep=0.1)
    assert inner.rows.tolist() == list(range(90, 100))


def test_weights_go_with_the_rows() -> None:
    found = select_rows(made_up(), score="el2n", select="infobatch", keep=0.6)
    assert found.weights is not None
    assert found.weights.shape == found.rows.shape
    assert found.weights.sum() == pytest.approx(N)


# ---- why ----


def test_what_was_set_aside_is_told_from_the_rest() -> None:
    found = select_rows(made_up(), score="el2n", keep=0.1, offset=0.05)
    assert found.counts() == {"chosen": 10, "offset": 5, "rest": 85}
    assert (found.reasons[95:] == "offset").all()


def test_ccs_excludes_its_beta() -> None:
    found = select_rows(made_up(), score="el2n", select="ccs", keep=0.1)
    assert (found.reasons[90:] == "offset").all()


def test_a_floor_keeps_a_rare_easy_class() -> None:
    without = select_rows(made_up(), score="el2n", keep=0.2)
    assert not without.kept[:4].any()
    found = select_rows(made_up(), score="el2n", keep=0.2, floor=3)
    assert found.counts() == {"chosen": 17, "floor": 3, "rest": 80}
    assert found.reasons[:4].tolist() == ["rest", "floor", "floor", "floor"]


def test_duplicates_go_first_and_the_most_common_label_stands() -> None:
    words = texts()
    words[10], words[12], words[15] = "Play  it", "play it", "PLAY IT "  # of the classes a, a, b
    words[51], words[50] = "stop", "stop"  # of one row each: the first stands
    found = select_rows(made_up(), score="el2n", dedupe=True, texts=words)
    assert np.flatnonzero(found.reasons == "duplicate").tolist() == [12, 15, 51]
    assert found.counts() == {"chosen": N - 3, "duplicate": 3}
    words[8] = "play it"  # now it is a: 8, 10, 12; before that b could have stood
    assert np.flatnonzero(~select_rows(made_up(), score="el2n", dedupe=True, texts=words).kept).tolist() == [
        10,
        12,
        15,
        51,
    ]


def test_suspects_are_those_whose_labels_were_flipped() -> None:
    rng = np.random.default_rng(0)
    wrong = rng.permutation(N)[:10]
    aum = rng.normal(-3, 1, N).astype(np.float32)
    aum[wrong] += 8
    el2n = np.full(N, 0.1, np.float32)
    file = made_up(values={"el2n": el2n, "aum": aum})
    found = select_rows(file, score="el2n", keep=0.5, drop_suspects=0.1)
    assert set(np.flatnonzero(found.reasons == "suspect")) == set(wrong)
    assert found.suspicion is not None
    assert found.suspicion[0] == "aum"
    # keeping the hardest by the same score would have kept them all
    assert select_rows(file, score="aum", keep=0.5).kept[wrong].all()


def test_suspects_by_what_is_named() -> None:
    values = {
        "el2n": np.arange(10),
        "aum": np.arange(10),
        "confidence": -np.arange(10),
        "reducible_loss": np.arange(10),
    }
    file = ScoreFile(
        [str(row) for row in range(10)], np.arange(10),
        {name: np.float32(column) for name, column in values.items()}, None, "f", "d", "regression",
    )  # fmt: skip
    for by, suspect in ((None, 9), ("el2n", 9), ("confidence", 0), ("irreducible", 0)):
        found = select_rows(file, score="el2n", keep=0.5, drop_suspects=0.1, suspects_by=by)
        assert np.flatnonzero(found.reasons == "suspect").tolist() == [suspect]
        assert found.suspicion is not None
        assert found.suspicion[0] == (by or "aum")
    alone = replace(file, values={"el2n": file.values["el2n"], "irreducible_loss": file.values["aum"]})
    found = select_rows(alone, score="el2n", keep=0.5, drop_suspects=0.1, suspects_by="irreducible")
    assert np.flatnonzero(found.reasons == "suspect").tolist() == [9]


def test_near_duplicates_beside_exact_ones() -> None:
    values = {"el2n": np.float32([4, 3, 2, 1])}
    file = ScoreFile(list("abcd"), np.arange(4), values, ["x"] * 4, "f", "d", "classification")
    texts = ["book a table for two", "book a table for two!", "Book a table  for two", "play jazz"]
    exact = select_rows(file, texts=texts, dedupe=True)
    assert exact.rows.tolist() == [0, 1, 3]
    assert select_rows(file, texts=texts, dedupe=True, near=0.7).rows.tolist() == [0, 3]


def test_suspects_by_el2n_where_there_is_no_aum() -> None:
    found = select_rows(made_up(), score="other", select="random", keep=0.5, drop_suspects=0.1)
    assert np.flatnonzero(found.reasons == "suspect").tolist() == list(range(90, 100))


def test_everything_in_turn() -> None:
    words = texts()
    words[99] = words[98]
    found = select_rows(
        made_up(), score="el2n", keep=0.5, dedupe=True, texts=words, drop_suspects=0.1, offset=0.1, floor=2
    )
    counts = found.counts()
    # of 99 left 10 are suspects; the rare class gets its floor, and of the other 85 a tenth is set aside
    assert {name: counts[name] for name in ("duplicate", "suspect", "offset")} == {
        "duplicate": 1, "suspect": 10, "offset": 8,
    }  # fmt: skip
    assert counts["chosen"] + counts["floor"] == 50


# ---- how many ----


def test_the_share_is_of_all_rows() -> None:
    words = ["same"] * 50 + texts()[50:]
    assert len(select_rows(made_up(), score="el2n", keep=0.5, dedupe=True, texts=words).rows) == 50
    with pytest.raises(ArgumentError, match=r"60 of 100 .* only 51 are left without duplicates: keep at most 0.51"):
        select_rows(made_up(), score="el2n", keep=0.6, dedupe=True, texts=words)


def test_the_only_score_is_the_default(tmp_path: Path) -> None:
    file = made_up(values={"el2n": np.linspace(0, 1, N, dtype=np.float32)})
    write_scores(tmp_path / "s.parquet", file)
    found = select_rows(tmp_path / "s.parquet", count=5)
    assert (found.score, found.rows.tolist()) == ("el2n", [95, 96, 97, 98, 99])
    assert len(select_rows(file, keep=0.001).rows) == 1
    assert select_rows(file, keep=1).kept.all()


# ---- refusals ----


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keep": 70}, "keep must be in .* Did you mean 0.7"),
        ({"keep": 0.0}, r"keep must be in \(0, 1\]"),
        ({"keep": None}, "nothing is dropped"),
        ({"count": 5}, "keep and count say the same thing"),
        ({"keep": None, "count": 0}, "count must be a whole number, at least 1"),
        ({"keep": None, "count": 101}, "count must be at most 100"),
        ({"floor": -1}, "floor must be"),
        ({"seed": -1}, "seed must be"),
        ({"floor": 5}, r"floor of 5 rows per class is more than there are of 'rare' \(4\); lower it to 4"),
        ({"drop_suspects": 1.0}, r"drop_suspects must be a share in \[0, 1\)"),
        ({"select": "hardst"}, "unknown selector 'hardst'; did you mean 'hardest'"),
        ({"select": "hardest(betta=1)"}, "unknown option of hardest 'betta'"),
        ({"betta": 1}, r"unknown option 'betta'.* written with it, as in select=\"ccs"),
        ({"select": "hardest(offset=0.1)", "offset": 0.1}, "offset must be given once"),
        ({"select": "hardest("}, "a method must be name or"),
        ({"select": "random(x=1)"}, "the selector random has no options, got x"),
        ({"select": "quota(inner=1)"}, "unknown option of quota 'inner'"),
        ({"select": "window"}, "the selector window needs the option offset"),
        ({"offset": 2.0}, "offset of hardest must be in"),
        ({"offset": 0.99}, "offset"),
        ({"score": "el2m"}, "unknown score 'el2m'; did you mean 'el2n'"),
        ({"score": None}, r"several scores \(el2n, other\)"),
        ({"dedupe": True}, "dedupe needs the texts"),
        ({"suspects_by": "el2n"}, "suspects_by has no effect without drop_suspects"),
        ({"near": 0.8}, "near has no effect without dedupe"),
        ({"near": 80, "dedupe": True}, r"near must be a similarity in \(0, 1\), got 80"),
        ({"drop_suspects": 0.1, "suspects_by": "aun"}, "unknown ranking in suspects_by 'aun'; did you mean 'aum'"),
        (
            {"drop_suspects": 0.1, "suspects_by": "irreducible"},
            "needs reducible_loss or irreducible_loss, and the file",
        ),
        ({"texts": ["a"]}, "texts must have one entry per row, 100, got 1"),
        ({"features": np.zeros((3, 2))}, "features must have one entry per row"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        select_rows(made_up(), **({"score": "el2n", "keep": 0.5} | change))


def test_what_the_file_lacks() -> None:
    bare = made_up(labels=None, values={"other": np.zeros(N, np.float32)}, task="regression")
    with pytest.raises(ArgumentError, match="suspects are ranked by aum or el2n or negative_pvi") as caught:
        select_rows(bare, keep=0.5, drop_suspects=0.1, floor=2)
    assert "a floor needs the class of each row, and the file has none (task regression)." in caught.value.problems


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no score file"):
        select_rows(tmp_path / "none.parquet", keep=0.5)


def test_nothing_left() -> None:
    with pytest.raises(ArgumentError, match="nothing is left"):
        select_rows(made_up(), score="el2n", drop_suspects=0.999)


def test_what_does_not_need_the_file_is_checked_without_it() -> None:
    assert len(selection_problems(None, SelectConfig(select="x", keep=3, floor=-1))) == 3
