"""Any score on any task: token reductions, head combinations, and the joint golden values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from datadiet.errors import ArgumentError
from datadiet.scores import SCORES
from datadiet.scores.logits import Score, cross_entropy, el2n, margin
from datadiet.scores.reduce import COMBINATIONS, combine_heads, example_values, reduce_tokens
from datadiet.types import HeadSignals, Signals

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "el2n_joint.json").read_text())
CLASS_SCORES = [SCORES[name] for name in ("el2n", "cross_entropy", "margin", "entropy")]
combinations = pytest.mark.parametrize("how", COMBINATIONS)
scores = pytest.mark.parametrize("score", CLASS_SCORES)


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
    assert slots.mask is not None
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
