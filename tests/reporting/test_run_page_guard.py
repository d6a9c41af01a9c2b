"""What the page of a run says of its noise guard."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from datadiet.errors import DataError
from datadiet.jobs.finetune import finetune
from datadiet.noise.guard import NOISE, SUSPECTS, NoiseGuard, Review, write_noise
from datadiet.reporting import report
from datadiet.reporting import run_page as reporting_guard
from datadiet.reporting.run_page import guard_section, guard_sentence, read_guard, run_markdown, suspected_rows
from toys import HOSTILE, hostile_folder, tiny_model_folder, toy_config

ROWS, ASIDE = 24, (1, 0, 4, 5)  # most suspected first; of the hostile texts
IDS = [f"train-{row}" for row in range(ROWS)]
LABELS = [("<b>bold</b>", "plain $a$")[row % 2] for row in range(ROWS)]


def guard_of(aside=ASIDE, reviews=2) -> NoiseGuard:
    suspicion, resting = np.full(ROWS, 0.01, np.float32), np.zeros(ROWS, bool)
    for place, row in enumerate(aside):
        suspicion[row], resting[row] = 0.95 - 0.05 * place, True
    looked = (
        Review(1, 24, 0.12, 0.08, 0.19, 12, 0.12, 1.5, 0.75, excluded=3, joined=3),
        Review(2, 23, 0.153, 0.11, 0.21, 24, 0.155, 1.5, 0.75, excluded=len(aside), joined=2, returned=1),
        Review(3, 7, 0.153, excluded=len(aside), note="7 rows were seen, 200 are needed"),
    )
    confidence, judgements = np.full(ROWS, 0.9, np.float32), np.full(ROWS, 2, np.int16)
    arrays = {"suspicion": suspicion, "confidence": confidence, "judgements": judgements, "excluded": resting}
    return NoiseGuard(looked[:reviews], arrays)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A finished run without a guard, on hostile data."""
    folder = tmp_path_factory.mktemp("guard")
    model = str(tiny_model_folder(folder))
    config = toy_config(folder, data=str(hostile_folder(folder)), model=model, epochs=2, offset=0.0)
    finetune(config)
    return Path(config.output)


@pytest.fixture
def run(plain, tmp_path) -> Path:
    """The same, as if it had had one."""
    copy = Path(shutil.copytree(plain, tmp_path / "run"))
    write_noise(copy, guard_of(), IDS, LABELS)
    return copy


def found_in(folder: Path):
    found = read_guard(folder)
    assert found is not None
    return found


def test_without_a_guard_the_page_has_no_such_section(plain):
    assert read_guard(plain) is None
    assert not len(suspected_rows(None))
    assert "Suspected wrong labels" not in report(plain).read_text(encoding="utf-8")
    assert "noise guard" not in run_markdown(plain)


def test_the_page_says_how_many_how_sure_and_who(run):
    page = report(run).read_text(encoding="utf-8")
    assert "<h2>Suspected wrong labels</h2>" in page
    said = (
        "The noise guard looked 2 times: an estimated 15.3 % of the training labels are wrong. At the end 4 rows were"
    )
    assert f"<p>{said} set aside.</p>" in page
    assert 'aria-label="Estimated share of wrong labels"><svg' in page
    assert "<td>11.0 % to 21.0 %</td>" in page
    assert page.index("Suspected wrong labels") < page.index("<h2>Training examples</h2>")


def test_reviews_and_labels_are_counted(run):
    reviews, by_label, suspects = guard_section(found_in(run), None).tables
    assert reviews.head[-3:] == ["set aside", "joined", "returned"]
    assert reviews.rows[1] == ["3", "23", "15.3 %", "11.0 % to 21.0 %", "24 rows", "4", "2", "1"]
    assert by_label.rows == [["<b>bold</b>", "2", "50.0 %"], ["plain $a$", "2", "50.0 %"]]
    assert [row[3] for row in suspects.rows] == [f"train-{row}" for row in ASIDE]
    assert suspects.rows[0][0] == ""  # the texts could not be read


def test_hostile_text_in_it_stays_text(run):
    page = report(run).read_text(encoding="utf-8")
    section = page[page.index("Most suspected") : page.index("<h2>Training examples</h2>")]
    cells = re.findall(r'<td class="prose">(.*?)</td>', section, flags=re.DOTALL)
    assert len(cells) == 4 * len(ASIDE)
    assert "&lt;img src=x onerror=" in cells[0]
    assert "&lt;/script&gt;&lt;script&gt;" in cells[4]
    assert cells[12] == HOSTILE["template"]
    assert "<img" not in page
    assert page.count("<script") == 2
    assert cells[3].startswith("its label contradicts what the model is sure of (probability 0.90 of another one)")


def test_only_the_first_suspects_and_labels_are_shown_and_it_says_so(run, monkeypatch):
    monkeypatch.setattr(reporting_guard, "MOST_SUSPECTS", 3)
    monkeypatch.setattr(reporting_guard, "MOST_NAMES", 1)
    _, by_label, suspects = guard_section(found_in(run), ["a", "b", "c"]).tables
    assert [row[0] for row in suspects.rows] == ["a", "b", "c"]
    assert suspects.note == f"The first 3 of 4; all are in {SUSPECTS}."
    assert by_label.note == "The first 1 of 2 labels."


def test_a_review_that_judged_nothing_says_why_and_is_not_drawn(run):
    write_noise(run, guard_of(reviews=3), IDS, LABELS)
    section = guard_section(found_in(run), None)
    assert section.tables[0].rows[2][3:5] == ["", ""]
    assert section.tables[0].note == "Before epoch 4: 7 rows were seen, 200 are needed."
    assert len(section.drawings) == 1


def test_nobody_set_aside(run):
    write_noise(run, guard_of(aside=()), IDS, LABELS)
    found = found_in(run)
    assert guard_sentence(found).endswith("At the end no row was set aside.")
    assert len(guard_section(found, []).tables) == 1
    assert "noise guard" in report(run).read_text(encoding="utf-8")


def test_a_guard_that_never_looked(run):
    write_noise(run, NoiseGuard(), IDS, LABELS)
    section = guard_section(found_in(run), [])
    assert section.text == "The noise guard judged nothing: no epoch trained after the first."
    assert not section.tables
    assert not section.drawings


def test_the_table_for_a_paper_ends_with_its_line(run):
    report(run)
    assert (run / "report.md").read_text(encoding="utf-8").splitlines()[-1].startswith("The noise guard looked 2 times")


def test_broken_files_are_named(run):
    (run / SUSPECTS).write_bytes(b"no table")
    with pytest.raises(DataError, match=r"broken noise\.json or suspects\.parquet"):
        report(run)
    (run / NOISE).write_text('{"reviews": 3}', encoding="utf-8")
    with pytest.raises(DataError, match=r"broken noise\.json or suspects\.parquet"):
        report(run)
