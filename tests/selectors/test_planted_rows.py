"""What each rule by rank or chance is for, on planted rows: easy ones, hard ones, and some with a wrong label."""

from __future__ import annotations

import numpy as np
import pytest

from datadiet.selectors.quotas import directed
from datadiet.selectors.ranked import easiest, hardest, window
from datadiet.selectors.sampled import epsilon, random
from datadiet.selectors.strata import both_ends

N, FLIPPED, COUNT = 1000, 100, 300
EASY, HARD, WRONG = slice(0, 500), slice(500, 900), slice(900, 1000)
WHEN = {"seed": 0, "epoch": 1}


@pytest.fixture
def values() -> np.ndarray:
    """EL2N as a model that has learned something gives it: wrong labels above all that is right."""
    rng = np.random.default_rng(0)
    parts = [rng.uniform(0.0, 0.3, 500), rng.uniform(0.4, 0.9, 400), rng.uniform(1.0, 1.4, FLIPPED)]
    return np.concatenate(parts).astype(np.float32)


def shares(rows: np.ndarray) -> tuple[float, float, float]:
    """Of the chosen rows: easy, hard, with a wrong label."""
    kept = np.zeros(N, bool)
    kept[rows] = True
    return tuple(float(kept[part].sum() / len(rows)) for part in (EASY, HARD, WRONG))


@pytest.mark.proves("hardest", by="planted")
def test_hardest_trains_on_no_easy_row_and_on_every_wrong_label(values: np.ndarray) -> None:
    assert shares(hardest(values, COUNT, **WHEN).rows) == (0.0, pytest.approx(2 / 3), pytest.approx(1 / 3))


@pytest.mark.proves("window", by="planted")
@pytest.mark.proves("SHARE", by="planted")
@pytest.mark.parametrize("select", [hardest, window])
def test_an_offset_as_large_as_the_noise_leaves_the_hard_rows_without_it(values: np.ndarray, select) -> None:
    assert shares(select(values, COUNT, offset=FLIPPED / N, **WHEN).rows) == (0.0, 1.0, 0.0)


@pytest.mark.proves("easiest", by="planted")
def test_easiest_is_free_of_wrong_labels_and_of_what_is_hard(values: np.ndarray) -> None:
    assert shares(easiest(values, COUNT, **WHEN).rows) == (1.0, 0.0, 0.0)


@pytest.mark.proves("epsilon", by="planted")
def test_epsilon_looks_at_easy_rows_too(values: np.ndarray) -> None:
    """A row whose value is out of date is seen again sooner or later."""
    seen = {
        row for epoch in range(120) for row in epsilon(values, COUNT, seed=0, epoch=epoch, epsilon=0.3).rows.tolist()
    }
    assert len(seen) == N
    easy, _, wrong = shares(epsilon(values, COUNT, epsilon=0.3, **WHEN).rows)
    assert 0.1 < easy < 0.3
    assert wrong == pytest.approx(1 / 3)


@pytest.mark.proves("random", by="planted")
def test_random_has_the_noise_of_the_data_and_sees_everything_in_time(values: np.ndarray) -> None:
    chosen = [random(values, COUNT, seed=0, epoch=epoch).rows for epoch in range(40)]
    assert np.mean([shares(rows)[2] for rows in chosen]) == pytest.approx(FLIPPED / N, abs=0.01)
    assert len(np.unique(np.concatenate(chosen))) == N


@pytest.mark.proves("both_ends", by="planted")
def test_both_ends_keeps_the_typical_beside_the_hard(values: np.ndarray) -> None:
    easy, hard, wrong = shares(both_ends(values, COUNT, hard=0.7, **WHEN).rows)
    assert easy == pytest.approx(0.3)
    assert hard + wrong == pytest.approx(0.7)


@pytest.mark.proves("directed", by="planted")
def test_directed_keeps_a_shortcut_of_one_class_out_and_the_hard_rows_of_the_other(values: np.ndarray) -> None:
    """The hard rows of one class are its shortcut, those of the other what is to be learned."""
    groups = np.array(["shortcut", "plain"])[np.arange(N) % 2]
    rows = directed(values, COUNT, groups=groups, directions={"shortcut": "easy", "plain": "hard"}, **WHEN).rows
    of_shortcut, of_plain = rows[groups[rows] == "shortcut"], rows[groups[rows] == "plain"]
    assert len(of_shortcut) == len(of_plain) == COUNT // 2
    assert of_shortcut.max() < HARD.start
    assert of_plain.min() >= HARD.start
