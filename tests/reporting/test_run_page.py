from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from datadiet.errors import DataError
from datadiet.jobs.finetune import finetune
from datadiet.noise.guard import NoiseGuard, Review
from datadiet.noise.monitor import NOISE, SUSPECTS, NoiseMonitor, write_noise
from datadiet.reporting import guard, plot, report, rows
from datadiet.reporting.guard import guard_section, guard_sentence, read_guard, suspected_rows
from datadiet.reporting.run_page import run_markdown
from datadiet.store.run_folder import read_result
from toys import HOSTILE, toy_config


def page_of(folder: Path | str) -> str:
    return report(folder).read_text(encoding="utf-8")


def test_the_page_has_the_results_of_the_run(run):
    page, result = page_of(run), read_result(run)
    assert f"accuracy {100 * result['metrics']['test']['accuracy']:.1f}" in page
    for title in (
        "Rows in each epoch", "Which rows trained when", "Scores over the epochs", "Turnover of the kept rows",
        "Data map", "Recall of each class", "Worst class",
    ):  # fmt: skip
        assert f"<h3>{title}</h3>" in page
    for question in ("What was kept?", "What was saved?", "How good is it?", "Had training converged?", "What next?"):
        assert page.index(question) < page.index("Quality against time")
    assert str(run.parent) not in page
    assert "All of them." in page
    lines = (run / "report.md").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["| metric | dev | test |", "| --- | ---: | ---: |"]


def test_the_page_has_the_energy_where_it_was_measured(run, tmp_path):
    assert "kWh" not in page_of(run)
    copy = Path(shutil.copytree(run, tmp_path / "measured"))
    result = read_result(copy) | {"energy": {"kwh": 0.0123, "estimated": False}}
    (copy / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert "0.0123 kWh" in page_of(copy)


def test_the_page_says_that_the_dev_metric_of_a_rule_was_not_known(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "unknown"))
    race = {"rule": "cover", "note": "too few rows", "fallen_after": None, "races": []}
    race["retreats"] = [{"epoch": 1, "rule": "hardest", "best": None, "value": None, "error": None}]
    (copy / "result.json").write_text(json.dumps(read_result(copy) | {"race": race}), encoding="utf-8")
    told = "Before epoch 2 the dev metric was not known, or not in [-1, 1]: hardest is given up, and cover goes on."
    assert told in page_of(copy)
    del race["retreats"]  # of an older result
    (copy / "result.json").write_text(json.dumps(read_result(copy) | {"race": race}), encoding="utf-8")
    assert "No race: too few rows. Every cycle took the rule cover." in page_of(copy)


@pytest.mark.parametrize("raced", [False, True])
def test_the_page_says_which_rule_was_given_up(run, tmp_path, raced):
    copy = Path(shutil.copytree(run, tmp_path / "given_up"))
    duel = {"epoch": 1, "champion": "hardest", "challenger": "cover", "steps": 12, "dev_rows": 99, "winner": "hardest"}
    duel |= {"losses": {"hardest": 0.5, "cover": 0.6}, "difference": 0.1, "interval": [0.0, 0.2]}
    duel |= {"cost": {"steps": 20, "seconds": 2.0}}
    left = {"epoch": 3, "rule": "hardest", "best": 0.9, "value": 0.5, "error": 0.02}
    race = {
        "rule": "cover",
        "start": "hardest",
        "why": "77 classes",
        "note": "" if raced else "too few rows",
        "fallen_after": None,
    }
    race |= {"races": [duel] if raced else [], "retreats": [left]}
    (copy / "result.json").write_text(json.dumps(read_result(copy) | {"race": race}), encoding="utf-8")
    page = page_of(copy)
    assert "Before epoch 4 the dev metric was 0.5000 under hardest, below its best of 0.9000 by more than two" in page
    assert ("No race: too few rows." in page) is not raced
    assert "The first rule was hardest: 77 classes." in page
    assert ("At the end cover chose the rows." in page) is raced


def test_the_page_says_first_that_training_had_not_finished(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "unfinished"))
    advice = "Training had not finished: <b> still rose by 8.0 points per epoch (of 600 rows)."
    rate = {"value": 2e-4, "rule": "auto", "weights": 22_713_216}
    found = {"convergence": {"rising": True, "advice": advice, "points_per_epoch": 8.0}, "learning_rate": rate}
    (copy / "result.json").write_text(json.dumps(read_result(copy) | found), encoding="utf-8")
    page = page_of(copy)
    warning = '<p class="bad">Training had not finished: &lt;b&gt; still rose by 8.0 points per epoch (of 600 rows).'
    assert page.index("What next?") < page.index(warning) < page.index("Quality against time")
    assert "Learning rate 0.0002 (auto); 22.7 million weights train." in page
    assert "**Training had not finished: \\<b\\> still rose" in run_markdown(copy)
    finished = read_result(copy) | {"convergence": None, "learning_rate": None}
    (copy / "result.json").write_text(json.dumps(finished), encoding="utf-8")
    assert "not finished" not in page_of(copy) + run_markdown(copy)


def test_a_large_table_is_cut_and_says_so(run, monkeypatch):
    for name, value in (("MOST_BYTES", 2500), ("MOST_SUSPECT", 5), ("MOST_EXTREME", 2)):
        monkeypatch.setattr(rows, name, value)
    monkeypatch.setattr(plot, "MOST_POINTS", 20)
    dynamics = rows.read_dynamics(run, read_result(run))
    chosen = rows.candidates(dynamics)
    table = rows.example_table(dynamics, chosen, (["long " * 100] * len(chosen.rows), ["a"] * len(chosen.rows)))
    assert table["hard"][:5] == [1, 2, 3, 4, 5]
    assert 5 <= len(table["id"]) < table["rows"] == len(dynamics)
    page = page_of(run)
    sample = rf"A sample: (\d+) of {len(dynamics)}\. The 5 most suspect; (\d) more that are among the easiest"
    assert re.search(sample, page)
    assert "of the others, drawn at random (seed 0)." in page
    assert f"Shown are 20 of {len(dynamics)} rows, drawn at random (seed 0); the counts are of all." in page


def test_without_the_data_the_page_says_so(tmp_path):
    config = toy_config(tmp_path, epochs=2)
    finetune(config)
    Path(config.data).rename(tmp_path / "moved")
    missing = "The training texts are not shown: the data is no longer where the run read it."
    assert missing in page_of(config.output)


def test_full_data_and_regressions_have_a_page(tmp_path):
    config = toy_config(tmp_path, "regression", epochs=2, keep=1.0)
    finetune(config)
    page = page_of(config.output)
    assert not [part for part in ("Data map</h3>", "Turnover", "Worst class") if part in page]


# ---- the noise guard

ROWS, ASIDE = 24, (1, 0, 4, 5)  # most suspected first; of the hostile texts
IDS = [f"train-{row}" for row in range(ROWS)]
LABELS = [("<b>bold</b>", "plain $a$")[row % 2] for row in range(ROWS)]
SENTENCE = (
    "The noise guard looked 2 times: an estimated 15.3 % of the training labels are wrong. At the end 4 rows were"
)


def monitor_of(excluded_rows=ASIDE, reviews=2) -> NoiseMonitor:
    suspicion, excluded = np.full(ROWS, 0.01, np.float32), np.zeros(ROWS, bool)
    for place, row in enumerate(excluded_rows):
        suspicion[row], excluded[row] = 0.95 - 0.05 * place, True
    looked = (
        Review(1, 24, 0.12, 0.08, 0.19, 12, 0.12, 1.5, 0.75, excluded=3, joined=3),
        Review(2, 23, 0.153, 0.11, 0.21, 24, 0.155, 1.5, 0.75, excluded=len(excluded_rows), joined=2, returned=1),
        Review(3, 7, 0.153, excluded=len(excluded_rows), note="7 rows were seen, 200 are needed"),
    )
    confidence, judgements = np.full(ROWS, 0.9, np.float32), np.full(ROWS, 2, np.int16)
    arrays = {"suspicion": suspicion, "confidence": confidence, "judgements": judgements, "excluded": excluded}
    monitor = NoiseMonitor(ROWS, np.zeros(ROWS, np.int64))
    monitor.guards["label"] = NoiseGuard(looked[:reviews], arrays)
    return monitor


@pytest.fixture
def guarded(hostile_run, tmp_path) -> Path:
    """The hostile run, as if it had had a guard."""
    copy = Path(shutil.copytree(hostile_run, tmp_path / "run"))
    write_noise(copy, monitor_of(), IDS, LABELS)
    return copy


def test_without_a_guard_the_page_has_no_such_section(hostile_run):
    assert read_guard(hostile_run) is None
    assert not len(suspected_rows(None))
    assert "Suspected wrong labels" not in page_of(hostile_run)
    assert "noise guard" not in run_markdown(hostile_run)


def test_the_page_has_the_estimate_its_interval_and_the_suspects(guarded):
    page = page_of(guarded)
    assert '<h2 id="suspected-wrong-labels">Suspected wrong labels</h2>' in page
    assert f"<p>{SENTENCE} set aside.</p>" in page
    assert "<h3>Estimated share of wrong labels</h3>" in page
    assert "<td>11.0 % to 21.0 %</td>" in page
    assert page.index("Suspected wrong labels") < page.index('<h2 id="training-examples">')
    assert (guarded / "report.md").read_text(encoding="utf-8").splitlines()[-3].startswith(SENTENCE)


def test_reviews_and_labels_are_counted(guarded):
    reviews, by_label, suspects = guard_section(read_guard(guarded), None).tables
    assert reviews.head[-3:] == ["set aside", "joined", "returned"]
    assert reviews.rows[1] == ["3", "23", "15.3 %", "11.0 % to 21.0 %", "24 rows", "4", "2", "1"]
    assert by_label.rows == [["<b>bold</b>", "2", "50.0 %"], ["plain $a$", "2", "50.0 %"]]
    assert [row[3] for row in suspects.rows] == [f"train-{row}" for row in ASIDE]
    assert suspects.rows[0][0] == ""  # the texts could not be read


def test_hostile_text_of_the_suspects_stays_text(guarded):
    page = page_of(guarded)
    section = page[page.index("Most suspected") : page.index('<h2 id="training-examples">')]
    cells = re.findall(r'<td class="prose">(.*?)</td>', section, flags=re.DOTALL)
    assert len(cells) == 4 * len(ASIDE)
    assert "&lt;img src=x onerror=" in cells[0]
    assert "&lt;/script&gt;&lt;script&gt;" in cells[4]
    assert cells[12] == HOSTILE["template"]
    assert "<img" not in page
    assert page.count("<script") == 2
    assert cells[3].startswith("its label contradicts what the model is sure of (probability 0.90 of another one)")


def test_only_the_first_suspects_and_labels_are_shown_and_it_says_so(guarded, monkeypatch):
    monkeypatch.setattr(guard, "MOST_SUSPECTS", 3)
    monkeypatch.setattr(guard, "MOST_NAMES", 1)
    _, by_label, suspects = guard_section(read_guard(guarded), ["a", "b", "c"]).tables
    assert [row[0] for row in suspects.rows] == ["a", "b", "c"]
    assert suspects.note == f"The first 3 of 4; all are in {SUSPECTS}."
    assert by_label.note == "The first 1 of 2 labels."


def test_a_review_that_judged_nothing_says_why_and_is_not_drawn(guarded):
    write_noise(guarded, monitor_of(reviews=3), IDS, LABELS)
    section = guard_section(read_guard(guarded), None)
    assert section.tables[0].rows[2][3:5] == ["", ""]
    assert section.tables[0].note == "Before epoch 4: 7 rows were seen, 200 are needed."
    assert len(section.drawings) == 1


def test_no_row_is_excluded_or_the_guard_never_looked(guarded):
    write_noise(guarded, monitor_of(excluded_rows=()), IDS, LABELS)
    record = read_guard(guarded)
    assert guard_sentence(record).endswith("At the end no row was set aside.")
    assert len(guard_section(record, []).tables) == 1
    assert "noise guard" in page_of(guarded)
    write_noise(guarded, NoiseMonitor(ROWS, np.zeros(ROWS, np.int64)), IDS, LABELS)
    section = guard_section(read_guard(guarded), [])
    assert section.text == "The noise guard judged nothing: no epoch trained after the first."
    assert (list(section.tables), list(section.drawings)) == ([], [])


def test_why_nothing_is_set_aside_and_what_the_tags_say(guarded):
    monitor = monitor_of(excluded_rows=(), reviews=3)
    monitor.guards["tags"] = NoiseGuard((Review(1, 24, 0.1, note="the model has not learned the task yet"),))
    write_noise(guarded, monitor, IDS, LABELS)
    assert guard_sentence(read_guard(guarded)).endswith(
        "At the end no row was set aside, because 7 rows were seen, 200 are needed. By their tags an estimated 10.0 % "
        "of the sentences are wrong, and 0 rows were set aside, because the model has not learned the task yet."
    )


def test_broken_files_are_named(guarded):
    for name, content in ((SUSPECTS, "no table"), (NOISE, '{"reviews": 3}')):
        (guarded / name).write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"broken noise\.json or suspects\.parquet"):
            report(guarded)
