from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datadiet.errors import DataError
from datadiet.reporting import rows as rows_module
from datadiet.reporting.rows import (
    KEEPING,
    MOST_CHARACTERS,
    Dynamics,
    Kept,
    candidates,
    embedded,
    example_table,
    histories,
    pruned_pieces,
    read_dynamics,
    read_plans,
)
from datadiet.store.run_folder import PRUNED, read_result
from datadiet.store.tables import PartedTable, ScoreStore, append_plan
from datadiet.types import EpochPlan, Scores
from toys import plans_of, scores_of


def test_dynamics_are_those_of_the_tables(run):
    dynamics, scores, plans = read_dynamics(run, read_result(run)), scores_of(run), plans_of(run)
    by_row = scores[scores["source"] == "train"].groupby("row")
    gold = by_row["gold_probability"]
    rows = gold.mean().index.to_numpy()
    assert np.allclose(dynamics.confidence[rows], gold.mean(), atol=1e-6)
    assert np.allclose(dynamics.variability[rows], gold.std(ddof=0), atol=1e-3)
    assert np.allclose(dynamics.hardness[rows], by_row["margin"].mean(), atol=1e-5)
    chosen = {epoch: set(rows) for epoch, rows in plans.items() if len(rows) < len(dynamics)}
    times = [sum(row in rows for rows in chosen.values()) for row in range(len(dynamics))]
    assert dynamics.kept.times.tolist() == times
    assert dynamics.kept.selective_epochs == len(chosen) == 4
    first, second = chosen[1], chosen[3]
    assert first != second  # of this run: the next test has equal choices
    assert [choice.epoch for choice in dynamics.choices] == [1, 3]
    assert dynamics.choices[1].agreement == pytest.approx(len(first & second) / len(first | second))
    assert dynamics.choices[1].new == pytest.approx(1 - len(first & second) / len(second))
    assert np.flatnonzero(dynamics.kept.last).tolist() == sorted(second)


def test_the_same_choice_again_is_no_choice(tmp_path):
    plans = PartedTable(tmp_path / "plans", "run")
    for epoch, rows in enumerate(([0, 1, 2, 3], [0, 1], [0, 1], [1, 2], [0, 1, 2, 3], [1, 2])):
        append_plan(plans, EpochPlan(epoch, np.array(rows), len(rows) == 4))
    kept = read_plans(tmp_path, rows=4)
    assert [(choice.epoch, choice.count) for choice in kept.choices] == [(1, 2), (3, 2)]
    assert (kept.choices[1].new, kept.choices[1].agreement) == (0.5, pytest.approx(1 / 3))
    assert (kept.times.tolist(), kept.selective_epochs) == ([2, 4, 2, 0], 4)
    assert kept.last.tolist() == [False, True, True, False]


def test_ids_are_put_together_from_the_parts_that_have_them(tmp_path):
    store = ScoreStore(tmp_path / "scores", "run", ids=["a", "b", "c", "d"])
    append_plan(PartedTable(tmp_path / "plans", "run"), EpochPlan(0, np.array([0, 2]), False))
    for epoch, rows in enumerate(([2, 0], [0, 2], [3])):
        names = ("el2n", "gold_probability", "margin", "loss")
        values = {name: np.full(len(rows), epoch, np.float32) for name in names}
        store.append(Scores(np.array(rows), values, "train", epoch, epoch))
    dynamics = read_dynamics(tmp_path, {"data": {"rows": {"train": 4}}, "diet": {"score": "el2n"}})
    assert dynamics.names(np.array([3, 2, 1, 0])) == ["d", "c", "1", "a"]  # row 1 was never seen
    assert dynamics.last.tolist() == pytest.approx([1, np.nan, 1, 2], nan_ok=True)
    assert [KEEPING[place] for place in dynamics.keeping] == ["always", "never", "always", "never"]


def test_examples_come_most_suspect_first_with_their_text(run):
    dynamics = read_dynamics(run, read_result(run))
    chosen = candidates(dynamics)
    assert sorted(chosen.rows) == list(range(len(dynamics)))
    texts = [f"text {row}" for row in chosen.rows], ["ab"[row % 2] for row in chosen.rows]
    table = example_table(dynamics, chosen, texts)
    assert table["hard"] == list(range(1, len(dynamics) + 1))
    hardest = int(np.argmax(dynamics.hardness))
    assert (table["text"][0], table["id"][0]) == (f"text {hardest}", dynamics.names(np.array([hardest]))[0])
    assert table["names"][table["label"][0]] == "ab"[hardest % 2]


def made_up_dynamics(rows: int) -> Dynamics:
    """Unseen rows at the end; the orders of the table differ."""
    values = np.random.default_rng(0).random((3, rows))
    values[:, -2:] = np.nan
    kept = Kept(np.arange(rows, dtype=np.int32) % 3, 2, [], np.ones(rows, bool), np.arange(0), np.ones((2, 0), bool))
    ids = pa.array([f"id-{row}" for row in range(rows)])
    return Dynamics(ids, values[0], values[0], values[1], values[2], "el2n", [], kept)


def test_a_sample_keeps_suspects_and_extremes_and_draws_the_others(monkeypatch):
    for name, value in (("MOST_SUSPECT", 10), ("MOST_EXTREME", 5), ("MOST_BYTES", 100 * 60)):
        monkeypatch.setattr(rows_module, name, value)
    dynamics = made_up_dynamics(1000)
    chosen = candidates(dynamics)
    hardest, last, unsure = (
        np.argsort(-values[:998]) for values in (dynamics.hardness, dynamics.last, -dynamics.confidence)
    )
    assert chosen.rows[:10].tolist() == hardest[:10].tolist()
    extremes = {*hardest[-5:], *last[:5], *unsure[:5]} - set(hardest[:10])
    assert set(chosen.rows[chosen.rule == 1]) == extremes
    assert len(set(chosen.rows)) == len(chosen.rows) == 100 * 60 // rows_module.ROW_BYTES
    assert chosen.rows.tolist() == candidates(dynamics).rows.tolist()
    other = candidates(dynamics, seed=1)
    assert other.rows[chosen.rule < 2].tolist() == chosen.rows[chosen.rule < 2].tolist()
    assert set(other.rows) != set(chosen.rows)
    table = example_table(dynamics, chosen, None)
    shown = table["suspects"] + table["extremes"] + table["drawn"]
    assert (table["suspects"], table["extremes"], len(table["id"])) == (10, len(extremes), shown)
    assert 50 < shown < len(chosen.rows)
    assert table["hard"] == sorted(table["hard"])


@pytest.mark.parametrize("text", ["<" * 400, "é" * 400, '"' * 400, "a" * 5000, "\u2028" * 300])
def test_the_budget_is_that_of_the_page(text, monkeypatch):
    monkeypatch.setattr(rows_module, "MOST_BYTES", 20_000)
    dynamics = made_up_dynamics(500)
    chosen = candidates(dynamics)
    labels = [f"{row}{text}" for row in chosen.rows]
    table = example_table(dynamics, chosen, ([text] * len(labels), labels))
    assert 3 <= len(table["id"]) < 500
    assert all(len(shown) == min(len(text), MOST_CHARACTERS) for shown in table["text"])
    assert len(embedded(table).encode()) <= 20_000


def write_pieces(folder, rows, pieces, pruned) -> None:
    pq.write_table(pa.table({"row": rows, "pieces": pieces, "pruned": pruned}), folder / PRUNED)


def test_pruned_tokens_stand_as_parts_in_the_place_of_the_text(tmp_path):
    assert pruned_pieces(tmp_path, np.arange(3)) == {}
    hostile = "</s><b>no"
    texts = [["2", " + ", "", hostile, " 4"], ["gone", " too"], ["x" * 200, "y" * 200, "z"], ["elsewhere"]]
    flags = [[False, False, True, True, False], [True, True], [False, True, False], [True]]
    write_pieces(tmp_path, [1, 0, 2, 9], texts, flags)
    pieces = pruned_pieces(tmp_path, np.array([2, 1, 0]))
    assert pieces[1] == [("2 + ", False), (hostile, True), (" 4", False)]
    assert pieces[0] == [("gone too", True)]
    assert [len(text) for text, _ in pieces[2]] == [200, 100]  # cut as a text is
    assert 9 not in pieces
    dynamics = made_up_dynamics(4)
    chosen = candidates(dynamics)
    table = example_table(dynamics, chosen, (["old"] * 4, ["a"] * 4), pieces=pieces)
    shown = dict(zip(table["id"], zip(table["text"], table["pieces"], strict=True), strict=True))
    assert shown["id-1"] == (f"2 + {hostile} 4", ["2 + ", hostile, " 4"])
    assert shown["id-0"] == ("gone too", ["", "gone too"])
    assert shown["id-3"] == ("old", None)
    assert "<b>" not in embedded(table)
    assert "pieces" not in example_table(dynamics, chosen, None)


def test_a_broken_table_of_pruned_tokens_is_named(tmp_path):
    (tmp_path / PRUNED).write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"pruned_tokens\.parquet cannot be read"):
        pruned_pieces(tmp_path, np.arange(3))
    write_pieces(tmp_path, [0], [["a", "b"]], [[True]])
    with pytest.raises(DataError, match="cannot be read"):
        pruned_pieces(tmp_path, np.arange(3))


@pytest.mark.parametrize("text", ["</script>", "<!--", "]]>", "\u2028", "&lt;"])
def test_embedded_json_cannot_leave_its_script(text):
    content = embedded({"text": text})
    assert not set("<>&\u2028") & set(content)
    assert json.loads(content) == {"text": text}


def test_the_course_of_a_score_is_drawn_to_one_scale(tmp_path):
    store = ScoreStore(tmp_path / "scores", "run", ids=list("abcd"))
    for epoch, rows in enumerate(([3, 0, 1], [1, 3])):
        values = {"el2n": np.array([35 * epoch + row for row in rows], np.float32)}
        store.append(Scores(np.array(rows), values, "train", epoch, epoch))
    assert histories(tmp_path, "el2n", np.array([3, 0, 2, 1])) == ["3z", "0 ", "  ", "1x"]
    assert histories(tmp_path, "el2n", np.arange(0)) == []


def test_the_drawn_rows_trained_as_the_plans_say(tmp_path, monkeypatch):
    plans = PartedTable(tmp_path / "plans", "run")
    for epoch, kept in enumerate(([0, 1, 2, 3], [1, 3], [3, 2])):
        append_plan(plans, EpochPlan(epoch, np.array(kept), len(kept) == 4))
    kept = read_plans(tmp_path, 4)
    assert kept.drawn.tolist() == [0, 1, 2, 3]
    assert kept.by_epoch.astype(int).tolist() == [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1]]
    monkeypatch.setattr(rows_module, "DRAWN_ROWS", 2)
    few = read_plans(tmp_path, 4)
    assert few.by_epoch.tolist() == kept.by_epoch[:, few.drawn].tolist()
