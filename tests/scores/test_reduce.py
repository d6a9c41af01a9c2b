"""Any score on any task: token reductions, head combinations, recorded columns, masked tokens, and joint goldens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from datadiet.errors import ArgumentError
from datadiet.registry import load, names
from datadiet.scores.logits import Score, cross_entropy, el2n, gold_probability, margin
from datadiet.scores.reduce import (
    COMBINATIONS,
    FREE,
    combine_heads,
    example_values,
    free_signals,
    in_parts,
    mask_tokens,
    reduce_tokens,
    with_tokens,
)
from datadiet.tasks.losses import word_loss
from datadiet.types import HeadSignals, Signals

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "el2n_joint.json").read_text())
OF_CLASSES = [name for name in names("score", trait="forward") if name != "absolute_error"]
combinations = pytest.mark.parametrize("how", COMBINATIONS)
scores = pytest.mark.parametrize("score", [load("score", name) for name in OF_CLASSES], ids=OF_CLASSES)


def joint(dtype: torch.dtype = torch.float32) -> Signals:
    """The golden batch: row 1 saturated, row 3 with labels on padding, row 4 without slot labels."""
    data = GOLDEN["inputs"]
    labels, attention = torch.tensor(data["slot_labels"]), torch.tensor(data["attention_mask"])
    slots = HeadSignals(torch.tensor(data["slot_logits"], dtype=dtype), labels, (labels != -100) & attention.bool())
    intent = HeadSignals(torch.tensor(data["intent_logits"], dtype=dtype), torch.tensor(data["intent_labels"]))
    return Signals({"intent": intent, "slots": slots})


def take(signals: Signals, rows: slice, positions: slice = slice(None)) -> Signals:
    """Some rows and positions of a batch."""

    def cut(head: HeadSignals) -> HeadSignals:
        if head.mask is None:
            return HeadSignals(head.logits[rows], head.labels[rows])
        return HeadSignals(head.logits[rows, positions], head.labels[rows, positions], head.mask[rows, positions])

    return Signals({name: cut(head) for name, head in signals.heads.items()})


@pytest.mark.proves("el2n", kind="score", by="golden")
@pytest.mark.proves("norm", "mean", "sum", by="golden")
@combinations
def test_golden_joint_el2n(how: str) -> None:
    expected = torch.tensor(GOLDEN[how]["total"])
    assert_close(example_values(el2n, joint(), combine=how), expected, atol=1e-6, rtol=1e-6)
    assert_close(example_values(el2n, joint(torch.float16), combine=how), expected, atol=5e-3, rtol=5e-3)
    assert_close(example_values(el2n, joint(torch.bfloat16), combine=how), expected, atol=5e-2, rtol=5e-2)


@pytest.mark.proves("norm", "mean", "sum", by="golden")
@combinations
def test_golden_parts_of_joint_el2n(how: str) -> None:
    slots = joint().heads["slots"]
    assert slots.mask is not None
    tokens = el2n(slots.logits, slots.labels, mask=slots.mask)
    assert_close(tokens, torch.tensor(GOLDEN["token_norms"]), atol=1e-6, rtol=0)
    assert_close(reduce_tokens(tokens, slots.mask, how), torch.tensor(GOLDEN[how]["slots"]), atol=1e-6, rtol=1e-6)


@pytest.mark.proves("cross_entropy", by="golden")
@pytest.mark.parametrize("alpha", [0.5, 0.25])
def test_golden_joint_loss(alpha: float) -> None:
    weights = {"intent": alpha, "slots": 1 - alpha}
    values = example_values(cross_entropy, joint(), combine="sum", weights=weights)
    assert_close(values, torch.tensor(GOLDEN["loss"][str(alpha)]), atol=1e-6, rtol=1e-6)


@pytest.mark.proves("norm", by="definition")
def test_joint_norm_is_the_norm_of_all_errors_end_to_end() -> None:
    signals = joint()
    intent, slots = signals.heads["intent"], signals.heads["slots"]
    e_intent = intent.logits.softmax(-1) - torch.eye(4)[intent.labels]
    e_slots = slots.logits.softmax(-1) - torch.eye(5)[slots.labels.clamp_min(0)]
    e_slots = (e_slots * slots.mask.unsqueeze(-1)).flatten(1)  # (batch, positions * classes)
    expected = torch.cat([e_intent, e_slots], 1).norm(dim=1)
    assert_close(example_values(el2n, signals), expected)


@scores
@combinations
def test_any_score_on_a_joint_task_is_finite_and_says_the_same_twice(score: Score, how: str) -> None:
    signals = joint()
    first, second = (example_values(score, signals, combine=how) for _ in range(2))
    assert first.shape == (7,)
    assert first.dtype == torch.float32
    assert bool(first.isfinite().all())
    assert torch.equal(first, second)
    assert int(signals.heads["slots"].labels.min()) == -100


@scores
@combinations
def test_a_padded_batch_says_what_its_examples_say(score: Score, how: str) -> None:
    signals = joint()
    together = example_values(score, signals, combine=how)
    alone = [example_values(score, take(signals, slice(row, row + 1)), combine=how) for row in range(7)]
    unpadded = example_values(score, take(signals, slice(0, 1), slice(0, 5)), combine=how)
    assert_close(torch.cat(alone), together)
    assert_close(unpadded, together[:1])


@scores
@combinations
def test_one_decision_per_example_is_the_score_itself(score: Score, how: str) -> None:
    intent = joint().heads["intent"]
    expected = score(intent.logits, intent.labels)
    assert torch.equal(example_values(score, Signals({"label": intent}), combine=how), expected)
    one = HeadSignals(intent.logits[:, None], intent.labels[:, None], torch.ones(7, 1, dtype=torch.bool))
    assert_close(example_values(score, Signals({"tags": one}), combine=how), expected)


@combinations
def test_a_regression_is_one_head_too(how: str) -> None:
    head = HeadSignals(torch.tensor([[2.0], [1.0]]), torch.tensor([0.5, 4.0]))
    assert example_values(el2n, Signals({"label": head}), combine=how).tolist() == [1.5, 3.0]


@scores
@combinations
def test_a_harder_token_makes_a_harder_example(score: Score, how: str) -> None:
    logits = torch.tensor([[[6.0, 0.0], [1.0, 0.0]], [[4.0, 0.0], [1.0, 0.0]], [[0.5, 0.0], [1.0, 0.0]]])
    head = HeadSignals(logits, torch.zeros(3, 2, dtype=torch.long), torch.ones(3, 2, dtype=torch.bool))
    assert bool((example_values(score, Signals({"tags": head}), combine=how).diff() > 0).all())


def test_norm_keeps_the_sign_of_margins_and_nests() -> None:
    values = torch.tensor([[-3.0, 1.0, -2.0], [3.0, -1.0, 2.0]])
    flat = reduce_tokens(values, None, "norm")
    nested = combine_heads({"a": values[:, 0], "b": reduce_tokens(values[:, 1:], None, "norm")}, "norm")
    assert_close(flat, torch.tensor([-(12.0**0.5), 12.0**0.5]))  # -9 + 1 - 4
    assert_close(nested, flat)


@combinations
def test_an_example_without_positions_that_count_is_zero(how: str) -> None:
    values = torch.full((2, 3), torch.nan)
    assert reduce_tokens(values, torch.zeros(2, 3, dtype=torch.bool), how).tolist() == [0.0, 0.0]
    assert reduce_tokens(torch.zeros(2, 0), None, how).tolist() == [0.0, 0.0]


@pytest.mark.proves("norm", "mean", "sum", by="planted")
def test_mean_is_free_of_length_and_sum_is_not() -> None:
    short, long = torch.full((1, 2), 0.7), torch.full((1, 8), 0.7)
    assert_close(reduce_tokens(short, None, "mean"), reduce_tokens(long, None, "mean"))
    assert_close(reduce_tokens(long, None, "sum"), 4 * reduce_tokens(short, None, "sum"))
    assert_close(reduce_tokens(long, None, "norm"), 2 * reduce_tokens(short, None, "norm"))


@pytest.mark.parametrize(("how", "expected"), [("norm", 26**0.5), ("mean", 7 / 4), ("sum", 7.0)])
def test_weights_of_heads(how: str, expected: float) -> None:
    values = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    weighted = combine_heads(values, how, {"a": 1.0, "b": 3.0} if how != "norm" else {"a": 1.0, "b": 2.5})
    assert_close(weighted, torch.tensor([expected]))


def test_margins_of_a_joint_task_do_not_hide_in_squares() -> None:
    """A token right by a wide margin is easy; squared, it would be the hardest of all."""
    easy = HeadSignals(torch.tensor([[10.0, 0.0]]), torch.tensor([0]))
    unsure = HeadSignals(torch.tensor([[0.1, 0.0]]), torch.tensor([0]))
    sure_of_both = example_values(margin, Signals({"a": easy, "b": easy}))
    assert float(sure_of_both) < float(example_values(margin, Signals({"a": easy, "b": unsure})))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"intent": 1.0}, r"one entry per head \(intent, slots\), got intent"),
        ({"intent": 1.0, "slots": -1.0}, "at least 0"),
        ({"intent": 0.0, "slots": 0.0}, "not all 0"),
    ],
)
def test_weights_that_do_not_fit(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        example_values(el2n, joint(), weights=weights)


def test_other_arguments_that_do_not_fit() -> None:
    with pytest.raises(ArgumentError, match="unknown combination 'means'; did you mean 'mean'"):
        example_values(el2n, joint(), combine="means")
    with pytest.raises(ArgumentError, match=r"mask of shape \(2, 4\) for values of shape \(2, 3\)"):
        reduce_tokens(torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool), "sum")
    with pytest.raises(ArgumentError, match="at least one head"):
        example_values(el2n, Signals({}))


# ---- recorded columns


def test_recorded_columns_of_a_multi_hot_head() -> None:
    logits, labels = torch.tensor([[2.0, -1.0, 0.0], [0.5, -3.0, -0.1]]), torch.tensor([[1.0, 0.0, 0.0], [1.0, 0, 0]])
    hidden = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    free = free_signals(Signals({"label": HeadSignals(logits, labels, hidden=hidden)}))
    assert_close(free["loss"], cross_entropy(logits, labels))
    assert_close(free["margin"], torch.tensor([0.0, -0.1]))
    assert_close(free["gold_probability"], gold_probability(logits, labels))
    assert_close(free["el2n"], el2n(logits, labels))
    assert free["correct"].tolist() == [0.0, 1.0]  # a probability of one half is predicted, so the first is wrong
    assert free["hidden_norm"].tolist() == [5.0, 1.0]
    weights, bias = torch.zeros(3, 2, requires_grad=True), logits[:1].clone().requires_grad_()
    outputs = hidden[:1] @ weights.T + bias
    loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs, labels[:1], reduction="sum")
    gradients = torch.autograd.grad(loss, (weights, bias))
    norm = torch.cat([part.flatten() for part in gradients]).norm()
    assert_close(free["el2n"][0] * (1 + free["hidden_norm"][0] ** 2).sqrt(), norm)


# ---- the hardest tokens


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
@combinations
@pytest.mark.parametrize("keep", [0.2, 0.5, 1.0])
def test_masking_equals_removing(score: Score, how: str, keep: float) -> None:
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
        left = remaining(kept, row)
        labels = kept.labels.masked_fill(~kept.mask, -100)[row : row + 1]
        masked = word_loss({"logits": kept.logits[row : row + 1]}, labels)
        assert_close(masked, torch.nn.functional.cross_entropy(left.logits[0], left.labels[0]))


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


# ---- large vocabularies


def words(rows: int, positions: int, vocabulary: int) -> Signals:
    """As of a masked language model: about one position in seven counts, in row 1 none."""
    random = torch.Generator().manual_seed(3)
    mask = torch.rand(rows, positions, generator=random) < 0.15
    mask[1] = False
    labels = torch.randint(vocabulary, (rows, positions), generator=random).masked_fill(~mask, -100)
    return Signals({"tokens": HeadSignals(torch.randn(rows, positions, vocabulary, generator=random), labels, mask)})


def test_parts_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    signals = words(5, 40, 9)
    whole = free_signals(signals, of_label=True) | {"score": example_values(margin, signals)}
    parts = in_parts(signals, most=2 * 40 * 9)
    assert [len(part.heads["tokens"].labels) for part in parts] == [2, 2, 1]
    assert max(part.heads["tokens"].labels.shape[1] for part in parts) < 15
    monkeypatch.setattr(in_parts, "__defaults__", (2 * 40 * 9,))
    again = free_signals(signals, of_label=True) | {"score": example_values(margin, signals)}
    assert again.keys() == whole.keys()
    for name in whole:
        assert_close(again[name], whole[name], atol=1e-6, rtol=1e-6, equal_nan=True)


class Largest(TorchDispatchMode):
    """The number of bytes of the largest tensor that an operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {part.untyped_storage().data_ptr() for part in args if isinstance(part, torch.Tensor)}
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:  # no view
            self.bytes = max(self.bytes, made.numel() * made.element_size())
        return made


def test_the_memory_does_not_grow_with_the_batch() -> None:
    signals = words(8, 64, 50_000)
    logits = signals.heads["tokens"].logits
    with Largest() as largest:
        free_signals(signals)
    assert 0 < largest.bytes < logits.numel() * logits.element_size() / 5
