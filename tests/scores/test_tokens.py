"""The hardest tokens of a sentence; masking equals removing."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from datadiet.errors import ArgumentError
from datadiet.scores import SCORES
from datadiet.scores.logits import el2n
from datadiet.scores.reduce import COMBINATIONS, FREE, example_values, free_signals, mask_tokens, with_tokens
from datadiet.tasks.losses import word_loss
from datadiet.types import HeadSignals, Signals

scores = pytest.mark.parametrize("score", [SCORES[name] for name in ("el2n", "cross_entropy", "margin", "entropy")])


def tagged(rows: int = 5, positions: int = 9, tags: int = 4) -> HeadSignals:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(rows, positions, tags, generator=generator)
    labels = torch.randint(tags, (rows, positions), generator=generator)
    mask = torch.rand(rows, positions, generator=generator) < 0.7
    hidden = torch.randn(rows, positions, 3, generator=generator)
    return HeadSignals(logits, labels.masked_fill(~mask, 0), mask, hidden)


def remaining(head: HeadSignals, row: int) -> HeadSignals:
    """One sentence, as if it had no other tokens than those that count."""
    here = head.mask[row]
    parts = (head.logits[row][here], head.labels[row][here], head.hidden[row][here])
    logits, labels, hidden = (part.unsqueeze(0) for part in parts)
    return HeadSignals(logits, labels, torch.ones_like(labels, dtype=torch.bool), hidden)


@scores
@pytest.mark.parametrize("how", COMBINATIONS)
@pytest.mark.parametrize("keep", [0.2, 0.5, 1.0])
def test_masking_equals_removing(score, how: str, keep: float) -> None:
    head = tagged()
    values = score(head.logits, head.labels, mask=head.mask)
    kept = with_tokens(head, mask_tokens(values, keep, mask=head.mask))
    masked = example_values(score, Signals({"tokens": kept}), combine=how)
    alone = [example_values(score, Signals({"tokens": remaining(kept, row)}), combine=how) for row in range(5)]
    assert_close(masked, torch.cat(alone), atol=1e-6, rtol=1e-6)


def test_masking_equals_removing_in_what_is_recorded_and_in_the_loss() -> None:
    head = tagged()
    kept = with_tokens(head, mask_tokens(el2n(head.logits, head.labels, mask=head.mask), 0.4, mask=head.mask))
    free = free_signals(Signals({"tokens": kept}))
    for row in range(5):
        alone = free_signals(Signals({"tokens": remaining(kept, row)}))
        for name in FREE:
            assert_close(free[name][row], alone[name][0], atol=1e-5, rtol=1e-5)
        rest = remaining(kept, row)
        labels = kept.labels.masked_fill(~kept.mask, -100)[row : row + 1]
        masked = word_loss({"logits": kept.logits[row : row + 1]}, labels)
        assert_close(masked, torch.nn.functional.cross_entropy(rest.logits[0], rest.labels[0]))


def test_the_hardest_share_of_each_sentence_is_kept() -> None:
    values = torch.tensor([[0.1, 0.9, 0.5, 0.7, 0.3], [0.2, 0.2, 0.2, 9.0, 9.0], [1.0, -torch.inf, 2.0, 9.0, 9.0]])
    mask = torch.tensor([[True] * 5, [True, True, True, False, False], [True, True, False, False, False]])
    assert mask_tokens(values, 0.4, mask=mask).tolist() == [
        [False, True, False, True, False],
        [True, True, False, False, False],  # ties: the first
        [True, False, False, False, False],
    ]
    assert torch.equal(mask_tokens(values, 1.0, mask=mask), mask)
    assert not mask_tokens(values, 0.5, mask=torch.zeros_like(mask)).any()


def test_a_sentence_does_not_depend_on_its_batch() -> None:
    values = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    together = mask_tokens(values, 0.3)
    assert together.sum(-1).tolist() == [3] * 6  # of 2.4, the next whole number
    assert torch.equal(together, torch.cat([mask_tokens(values[row : row + 1], 0.3) for row in range(6)]))


def test_hard_regions_are_favoured() -> None:
    head = tagged(rows=20)
    wrong = head.mask & (torch.arange(9) < 2)
    sure = torch.nn.functional.one_hot(head.labels, 4) * 8.0
    off = torch.nn.functional.one_hot((head.labels + 1) % 4, 4) * 8.0
    logits = torch.where(wrong.unsqueeze(-1), off, sure)
    kept = mask_tokens(el2n(logits, head.labels, mask=head.mask), 0.99, mask=head.mask)
    assert bool(kept[wrong].all())
    least = mask_tokens(el2n(logits, head.labels, mask=head.mask), 0.01, mask=head.mask)
    some = wrong.any(-1)
    assert bool((least & wrong)[some].any(-1).all())


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (torch.zeros(2, 3), {"keep": 0.0}, r"keep must be in \(0, 1\], got 0"),
        (torch.zeros(2, 3), {"keep": 30}, r"keep must be in \(0, 1\], got 30"),
        (torch.zeros(3), {"keep": 0.5}, r"tokens need values \(batch, positions\)"),
        (
            torch.zeros(2, 3),
            {"keep": 0.5, "mask": torch.ones(2, 2)},
            r"a mask of that shape: got \(2, 3\) and \(2, 2\)",
        ),
        (torch.tensor([[1.0], [torch.nan]]), {"keep": 0.5}, "found nan in rows 1 of the batch"),
    ],
)
def test_what_cannot_be_masked(values, options, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        mask_tokens(values, **options)


def test_kept_tokens_of_another_shape_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"need the labels' shape: got \(2, 2\) for labels \(5, 9\)"):
        with_tokens(tagged(), torch.ones(2, 2, dtype=torch.bool))
    head = tagged()
    bare = HeadSignals(head.logits, head.labels)
    assert torch.equal(with_tokens(bare, head.mask).mask, head.mask)
