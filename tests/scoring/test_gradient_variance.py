"""Variance of gradients: golden values, streaming as good as all at once, normalisations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from datadiet.errors import ArgumentError
from datadiet.scoring.vog import RunningVariance, choose_normalisation, normalised, vog_of

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "gradients.json").read_text())["vog"]
RAW = np.array(GOLDEN["raw"])
TWO, THREE = (np.array(GOLDEN[f"labels_{number}_classes"]) for number in ("two", "three"))


@pytest.mark.proves("vog", by="golden")
def test_golden_streaming():
    running = RunningVariance()
    for gradients in torch.tensor(GOLDEN["gradients"], dtype=torch.float64):
        running.add(gradients)
    values = vog_of(running.variance())
    assert_close(values, torch.tensor(RAW).float(), atol=1e-6, rtol=1e-6)
    assert values[3] == 0  # its gradient never moved
    assert values[2] == values[8]


@pytest.mark.proves("vog", by="golden")
@pytest.mark.parametrize(
    ("labels", "how", "column"),
    [(TWO, "class", "class_two"), (THREE, "class", "class_three_one_singleton"), (TWO, "dataset", "dataset")],
)
def test_golden_normalised(labels, how, column):
    assert_close(normalised(RAW, labels, how), np.array(GOLDEN[column], np.float32), atol=1e-6, rtol=1e-5)


def test_streaming_equals_all_at_once_also_far_from_zero():
    values = 1e3 + torch.randn(9, 50, generator=torch.Generator().manual_seed(0))
    running = RunningVariance()
    for part in values:
        running.add(part)
    assert_close(running.variance(), values.double().var(0, correction=0).float(), atol=1e-3, rtol=1e-3)
    assert_close(running.mean, values.mean(0))


def test_padding_does_not_dilute():
    short = torch.full((1, 2, 3), 4.0)
    padded = torch.cat([short, torch.zeros(1, 6, 3)], 1)
    mask = torch.tensor([[True] * 2 + [False] * 6])
    assert vog_of(short).item() == vog_of(padded, mask).item() == 2.0
    assert vog_of(padded, torch.zeros(1, 8, dtype=torch.bool)).item() == 0.0


def test_the_choice_goes_by_how_uneven_the_classes_are():
    assert choose_normalisation(np.array([0] * 40 + [1] * 10)) == "class"
    assert choose_normalisation(np.array([0] * 41 + [1] * 10)) == "dataset"
    assert choose_normalisation(None) == "dataset"
    assert np.array_equal(normalised(RAW, None), normalised(RAW, TWO, "dataset"))
    assert_close(normalised(RAW, TWO, "none"), RAW.astype(np.float32))


def test_equal_values_are_not_blown_up_by_rounding():
    assert normalised(np.full(7, 0.1 + 0.2), None, "dataset").tolist() == [0.0] * 7


def test_bad_input():
    running = RunningVariance()
    running.add(torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match=r"one model and one order of rows: .*\(2, 4\) after \(2, 3\)"):
        running.add(torch.zeros(2, 4))
    with pytest.raises(ArgumentError, match="unknown normalisation 'classes'; did you mean 'class'"):
        normalised(RAW, TWO, "classes")
    with pytest.raises(ArgumentError, match="no classes to normalise in; take 'dataset'"):
        normalised(RAW, None, "class")
    with pytest.raises(ArgumentError, match="must be finite; they are not at the places 1"):
        normalised(np.array([0.0, np.nan]), None)
