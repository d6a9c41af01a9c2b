"""The page of a run and of a comparison, as text; tests/reporting/test_browser.py opens it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

import datadiet as dd
from datadiet.compare.outcome import outcome
from datadiet.compare.run import CellState, write_comparison
from datadiet.errors import ArgumentError, DataError, MissingExtraError
from datadiet.jobs.finetune import finetune
from datadiet.reporting import plot, report
from datadiet.reporting.plot import epoch_axis, new_axes, svg
from datadiet.reporting.rows import (
    KEEPING,
    MOST_CHARACTERS,
    Dynamics,
    Kept,
    candidates,
    embedded,
    example_table,
    read_dynamics,
    read_plans,
)
from datadiet.store.run_folder import read_result
from datadiet.store.tables import PartedTable, ScoreStore, append_plan
from datadiet.types import EpochPlan, Scores
from toys import HOSTILE, hostile_folder, made_up_plan, plans_of, pretend, scores_of, tiny_model_folder, toy_config


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run on a toy task, refreshed twice."""
    config = toy_config(tmp_path_factory.mktemp("run"), epochs=5, keep=0.5, dropout=0.1)
    finetune(config)
    return Path(config.output)


class Elements(HTMLParser):
    """Every tag of a page, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def test_the_page_needs_nothing_from_elsewhere(run):
    page = report(run).read_text(encoding="utf-8")
    found = Elements(page)
    assert not [tag for tag, _ in found.tags if tag in ("link", "iframe", "object", "embed")]
    assert not [value for _, attrs in found.tags for name, value in attrs.items() if name in ("src", "action")]
    urls = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in page


def test_the_page_says_what_the_run_says(run):
    page = report(run).read_text(encoding="utf-8")
    result = read_result(run)
    assert f"{result['metrics']['test']['accuracy']:.4f}" in page
    for title in (
        "What trained in each epoch", "Quality against time", "Scores over the epochs", "How the kept rows turn over",
        "Data map", "Quality by class", "Worst class", "Where the time went", "Training examples",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in page
    assert str(run.parent) not in page


def test_the_page_says_the_energy_where_it_was_measured(run, tmp_path):
    assert "kWh" not in report(run).read_text(encoding="utf-8")
    copy = Path(shutil.copytree(run, tmp_path / "measured"))
    result = read_result(copy) | {"energy": {"kwh": 0.0123, "estimated": False}}
    (copy / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert "0.0123 kWh" in report(copy).read_text(encoding="utf-8")


def test_the_same_run_gives_the_same_page(run, tmp_path):
    assert report(run, tmp_path / "a.html").read_bytes() == report(run, tmp_path / "b.html").read_bytes()


def test_dynamics_are_those_of_the_tables(run):
    dynamics, scores, plans = read_dynamics(run, read_result(run)), scores_of(run), plans_of(run)
    train = scores[scores["source"] == "train"]
    by_row = train.groupby("row")["gold_probability"]
    rows = by_row.mean().index.to_numpy()
    assert np.allclose(dynamics.confidence[rows], by_row.mean(), atol=1e-6)
    assert np.allclose(dynamics.variability[rows], by_row.std(ddof=0), atol=1e-3)
    assert np.allclose(dynamics.hardness[rows], train.groupby("row")["margin"].mean(), atol=1e-5)
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
        values = {
            name: np.full(len(rows), epoch, np.float32) for name in ("el2n", "gold_probability", "margin", "loss")
        }
        store.append(Scores(np.array(rows), values, "train", epoch, epoch))
    dynamics = read_dynamics(tmp_path, {"data": {"rows": {"train": 4}}, "diet": {"score": "el2n"}})
    assert dynamics.names(np.array([3, 2, 1, 0])) == ["d", "c", "1", "a"]  # row 1 was never seen
    assert dynamics.last.tolist() == pytest.approx([1, np.nan, 1, 2], nan_ok=True)
    assert [KEEPING[place] for place in dynamics.keeping] == ["always", "never", "always", "never"]


def test_examples_come_most_suspect_first_with_their_text(run):
    dynamics = read_dynamics(run, read_result(run))
    chosen = candidates(dynamics)
    assert sorted(chosen.rows) == list(range(len(dynamics)))
    read = [f"text {row}" for row in chosen.rows], ["ab"[row % 2] for row in chosen.rows]
    table = example_table(dynamics, chosen, read)
    assert table["hard"] == list(range(1, len(dynamics) + 1))
    hardest = int(np.argmax(dynamics.hardness))
    assert (table["text"][0], table["id"][0]) == (f"text {hardest}", dynamics.names(np.array([hardest]))[0])
    assert table["names"][table["label"][0]] == "ab"[hardest % 2]
    assert "All of them." in report(run).read_text(encoding="utf-8")


def made_up_dynamics(rows: int) -> Dynamics:
    """Unseen rows at the end; the orders of the table differ."""
    values = np.random.default_rng(0).random((3, rows))
    values[:, -2:] = np.nan
    kept = Kept(np.arange(rows, dtype=np.int32) % 3, 2, [], np.ones(rows, bool))
    ids = pa.array([f"id-{row}" for row in range(rows)])
    return Dynamics(ids, values[0], values[0], values[1], values[2], "el2n", [], kept)


def test_a_sample_keeps_suspects_and_extremes_and_draws_the_rest(monkeypatch):
    monkeypatch.setattr("datadiet.reporting.rows.MOST_SUSPECT", 10)
    monkeypatch.setattr("datadiet.reporting.rows.MOST_EXTREME", 5)
    monkeypatch.setattr("datadiet.reporting.rows.MOST_BYTES", 100 * 60)
    dynamics = made_up_dynamics(1000)
    chosen = candidates(dynamics)
    known = np.arange(998)
    top = {name: known[np.argsort(-values[known])] for name, values in (
        ("suspect", dynamics.hardness), ("last", dynamics.last), ("unsure", -dynamics.confidence)
    )}  # fmt: skip
    assert chosen.rows[:10].tolist() == top["suspect"][:10].tolist()
    extremes = {*top["suspect"][-5:], *top["last"][:5], *top["unsure"][:5]} - set(top["suspect"][:10])
    assert set(chosen.rows[chosen.rule == 1]) == extremes
    assert len(set(chosen.rows)) == len(chosen.rows) == 100 * 60 // 45
    assert chosen.rows.tolist() == candidates(dynamics).rows.tolist()
    other = candidates(dynamics, seed=1)
    assert other.rows[chosen.rule < 2].tolist() == chosen.rows[chosen.rule < 2].tolist()
    assert set(other.rows) != set(chosen.rows)
    table = example_table(dynamics, chosen, None)
    shown = table["suspects"] + table["extremes"] + table["drawn"]
    assert (table["suspects"], table["extremes"], len(table["id"])) == (10, len(extremes), shown)
    assert 80 < shown < len(chosen.rows)
    assert table["hard"] == sorted(table["hard"])


@pytest.mark.parametrize("text", ["<" * 400, "é" * 400, '"' * 400, "a" * 5000, "\u2028" * 300])
def test_the_budget_is_that_of_the_page(text, monkeypatch):
    monkeypatch.setattr("datadiet.reporting.rows.MOST_BYTES", 20_000)
    dynamics = made_up_dynamics(500)
    chosen = candidates(dynamics)
    labels = [f"{row}{text}" for row in chosen.rows]
    table = example_table(dynamics, chosen, ([text] * len(labels), labels))
    assert 3 <= len(table["id"]) < 500
    assert len(embedded(table).encode()) <= 20_000


def test_a_large_table_is_cut_and_says_so(run, monkeypatch):
    monkeypatch.setattr("datadiet.reporting.rows.MOST_BYTES", 2500)
    monkeypatch.setattr("datadiet.reporting.rows.MOST_SUSPECT", 5)
    monkeypatch.setattr("datadiet.reporting.rows.MOST_EXTREME", 2)
    monkeypatch.setattr("datadiet.reporting.plot.MOST_POINTS", 20)
    monkeypatch.setattr("datadiet.reporting.run_page.MOST_POINTS", 20)
    dynamics = read_dynamics(run, read_result(run))
    chosen = candidates(dynamics)
    table = example_table(dynamics, chosen, (["long " * 100] * len(chosen.rows), ["a"] * len(chosen.rows)))
    assert table["hard"][:5] == [1, 2, 3, 4, 5]
    assert 5 <= len(table["id"]) < table["rows"] == len(dynamics)
    assert all(len(text) == MOST_CHARACTERS for text in table["text"])
    page = report(run).read_text(encoding="utf-8")
    said = rf"A sample: (\d+) of {len(dynamics)}\. The 5 most suspect; (\d) more that are among the easiest"
    assert re.search(said, page)
    assert "of the others, drawn at random (seed 0)." in page
    assert f"Shown are 20 of {len(dynamics)} rows, drawn at random (seed 0); the counts are of all." in page


def test_hostile_text_stays_text(tmp_path):
    config = toy_config(tmp_path, data=str(hostile_folder(tmp_path)), model=str(tiny_model_folder(tmp_path)), epochs=2)
    finetune(config)
    page = report(config.output).read_text(encoding="utf-8")
    found = Elements(page)
    assert len([tag for tag, _ in found.tags if tag == "script"]) == 2
    assert not [name for _, attrs in found.tags for name in attrs if name.startswith("on")]
    assert "<img" not in page
    table = json.loads(found.scripts[0])
    assert HOSTILE["script"] in table["text"]
    assert any(text.startswith("w" * 100) for text in table["text"])
    assert "<b>bold</b>" in table["names"]
    assert "&lt;b&gt;bold&lt;/b&gt;" in page  # the class, in a table and in a figure


@pytest.mark.parametrize("text", ["</script>", "<!--", "]]>", "\u2028", "&lt;"])
def test_embedded_json_cannot_leave_its_script(text):
    found = embedded({"text": text})
    assert not set("<>&\u2028") & set(found)
    assert json.loads(found) == {"text": text}


def test_without_the_data_the_page_says_so(tmp_path):
    config = toy_config(tmp_path, epochs=2)
    finetune(config)
    Path(config.data).rename(tmp_path / "moved")
    page = report(config.output).read_text(encoding="utf-8")
    assert "The training texts are not shown: the data is no longer where the run read it." in page


def test_full_data_and_regressions_have_a_page(tmp_path):
    config = toy_config(tmp_path, "regression", epochs=2, keep=1.0)
    finetune(config)
    page = report(config.output).read_text(encoding="utf-8")
    assert "Data map" not in page
    assert "How the kept rows turn over" not in page
    assert "Worst class" not in page


def test_a_table_for_a_paper(run):
    report(run)
    lines = (run / "report.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "| metric | dev | test |"
    assert lines[1] == "| --- | ---: | ---: |"


def test_what_cannot_be_reported(run, tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match="neither a run nor a comparison"):
        report(tmp_path)
    with pytest.raises(ArgumentError, match=r"must end in \.html"):
        report(run, tmp_path / "page.pdf")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ArgumentError, match="an unfinished run; go on with it by: datadiet finetune --resume"):
        report(tmp_path)
    for name in [name for name in sys.modules if name.startswith("datadiet.reporting.")]:
        if not name.endswith("report"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'datadiet\[report\]'"):
        report(run)


def test_figures_for_a_notebook(run, tmp_path):
    assert dd.plot.data_map(run).axes[0].get_ylabel() == "confidence: its mean"
    assert dd.plot.score_distribution(run).axes
    assert dd.report is report
    with pytest.raises(DataError, match="no comparison"):
        dd.plot.frontier(run)
    with pytest.raises(DataError, match="no finished run"):
        dd.plot.turnover(tmp_path)


def test_svg_takes_the_colours_of_the_page(run):
    text = plot.svg(dd.plot.data_map(run))
    assert text.startswith("<svg viewBox=")
    assert "var(--ink)" in text
    assert plot.INK not in text
    assert text == plot.svg(dd.plot.data_map(run))


# ---- a comparison ----


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    """Two made-up methods and one that failed."""
    folder = tmp_path_factory.mktemp("compare")
    plan, states = made_up_plan("el2n", "easiest"), []
    for cell in plan.cells():
        if cell.name == "easiest-0.5-seed2":
            states.append(CellState(cell, "failed", error="no <memory>"))
            continue
        config = folder / f"{cell.name}.yaml"
        config.write_text(plan.config(cell, str(folder / "runs" / cell.name), rows=100).to_yaml())
        pretend(str(config))
        result = read_result(folder / "runs" / cell.name)
        result["energy"] = {"kwh": result["cost"]["total_s"] / 1e5, "estimated": True}
        states.append(CellState(cell, "done", jobs=1, result=result))
    write_comparison(folder, outcome(plan, folder, states, price_per_hour=3.6))
    return folder


def test_the_page_of_a_comparison(comparison):
    page = report(comparison).read_text(encoding="utf-8")
    for title in ("What may be said", "Quality and time", "What time buys", "Where the time went", "Quality by class"):
        assert f"<h2>{title}</h2>" in page
    assert "easiest-0.5-seed2 failed: no &lt;memory&gt;" in page
    assert "el2n-0.5</b> saves 50 % of the fine-tuning time (ceiling 50 %)" in page
    assert "Training examples" not in page


def test_the_table_of_a_comparison(comparison):
    report(comparison)
    text = (comparison / "report.md").read_text(encoding="utf-8")
    times, spent = "fine-tuning saved | total saved | ceiling", "price of a run | money saved | kWh of a run"
    assert text.startswith(f"| method | steps | accuracy | {times} | {spent} | energy saved | seeds |\n")
    assert re.search(r"\n\| full \| 40 \| [\d.]+ ± [\d.]+ \|  \|  \|  \| 0.111 \|  \| 0.00111 \|  \| 3 \|", text)
    assert re.search(r"\n\| el2n-0.5 \|.*\| 0.0610 \| 0.0500 \| 0.000610 \| 45\.0 % \| 3 \|\n", text)
    assert re.search(r"\n- `random-0.5` saves 50 % of the fine-tuning time", text)
    assert "Held equal: epochs" in text


def test_times_that_cannot_be_compared_are_left_out(comparison, tmp_path):
    found = json.loads((comparison / "comparison.json").read_text(encoding="utf-8"))
    for line in found["methods"]:
        if line["method"] == "el2n":
            line |= {"comparable_times": False, "price": None, "energy": None}
    (tmp_path / "comparison.json").write_text(json.dumps(found), encoding="utf-8")
    names = {text.get_text() for text in dd.plot.frontier(tmp_path).axes[0].texts}
    assert names == {"full", "easiest-0.5", "random-0.5", "short-0.5"}
    (tmp_path / "runs").symlink_to(comparison / "runs")
    report(tmp_path)
    row = next(line for line in (tmp_path / "report.md").read_text(encoding="utf-8").splitlines() if "| el2n" in line)
    assert re.search(r"± [\d.]+ \|  \|  \| 50\.0 % \|  \|  \|  \|  \| 3 \|$", row)


def test_frontier_has_a_point_for_each_method(comparison):
    names = {text.get_text() for text in dd.plot.frontier(comparison).axes[0].texts}
    assert names == {"full", "el2n-0.5", "easiest-0.5", "random-0.5", "short-0.5"}


def test_the_axis_of_a_single_epoch_has_whole_numbers():
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([4], [0.5], marker="o")
    epoch_axis(axes, "epoch")
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [4]


def test_a_figure_shortens_its_coordinates_and_not_its_numbers():
    figure, axes = new_axes()
    axes.plot([0.001, 0.002], [1, 2])
    axes.set_xticks([0.0015], ["0.0015"])
    text = svg(figure)
    assert ">0.0015</text>" in text
    assert not re.search(r'd="[^"]*\d\.\d{3}', text)
