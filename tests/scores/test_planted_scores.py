"""What scores that have no test of that kind elsewhere are for, on planted rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datadiet.scores.logits import absolute_error, el2n, entropy
from datadiet.scores.text import length


@pytest.mark.proves("entropy", by="planted")
def test_entropy_finds_what_is_ambiguous_whatever_its_label_says() -> None:
    """A model that knows the boundary: EL2N puts the wrong labels on top, entropy the rows beside the boundary."""
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.randn(1000, generator=generator)
    labels = (x > 0).long()
    flipped = torch.zeros(1000, dtype=torch.bool)
    flipped[torch.randperm(1000, generator=generator)[:100]] = True
    labels = torch.where(flipped, 1 - labels, labels)
    logits = torch.stack([-x, x], 1)
    by_error, by_entropy = (score(logits, labels).argsort(descending=True)[:100] for score in (el2n, entropy))
    assert flipped[by_error].float().mean() > 0.9
    assert flipped[by_entropy].float().mean() < 0.25
    assert x[by_entropy].abs().max() < x.abs().median()


@pytest.mark.proves("absolute_error", by="planted")
def test_absolute_error_finds_targets_that_are_off() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = 5 * torch.rand(500, generator=generator)
    targets = truth.clone()
    targets[:25] = (targets[:25] + 2.5) % 5
    predicted = truth + 0.2 * torch.randn(500, generator=generator)
    top = absolute_error(predicted[:, None], targets).argsort(descending=True)[:25]
    assert (top < 25).float().mean() > 0.9


@pytest.mark.proves("length", by="planted")
def test_length_prefers_whatever_is_long_and_nothing_else() -> None:
    """Why it is a baseline: the long rows are found, whether they teach anything or not."""
    rng = np.random.default_rng(0)
    long = np.arange(200) % 4 == 0
    texts = [" ".join(["word"] * int(rng.integers(20, 30) if much else rng.integers(3, 9))) for much in long]
    assert set(np.argsort(-length(texts))[: long.sum()]) == set(np.flatnonzero(long))
