"""The signals of next tokens: against dense float64, any chunk, any padding, memory, goldens, and one value per row."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from datadiet.errors import ArgumentError
from datadiet.scores import tokens
from datadiet.scores.last_layer import signals_grand
from datadiet.scores.logits import cross_entropy, el2n, entropy, margin
from datadiet.scores.reduce import example_values, free_signals
from datadiet.scores.tokens import (
    row_accuracy,
    row_entropy,
    row_nll,
    row_perplexity,
    token_signals,
    values_of_tokens,
    with_logits,
)
from datadiet.types import Signals, TokenSignals

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "seq_nll_ppl_entropy.json").read_text())
BATCH, LENGTH, VOCABULARY = 4, 9, 17


def drawn(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits and labels: a prompt, padding, and a last row without an answer."""
    draw = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(BATCH, LENGTH, VOCABULARY, generator=draw)).to(dtype)
    labels = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=draw)
    labels[0, :4] = labels[1, 6:] = labels[3] = -100
    return logits, labels


def dense(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The textbook formulas in float64 over the whole vocabulary; 0 where nothing trains."""
    wide, targets = logits.double()[:, :-1], labels[:, 1:]
    mask = targets != -100
    gold = targets.clamp_min(0).unsqueeze(-1)
    p = wide.softmax(-1)
    hot = torch.zeros_like(p).scatter(-1, gold, 1.0)
    others = wide.scatter(-1, gold, -math.inf).amax(-1)
    columns = {
        "nll": -p.gather(-1, gold).squeeze(-1).log(),
        "entropy": -(p * p.clamp_min(1e-300).log()).sum(-1),
        "error": (p - hot).norm(dim=-1),
        "margin": others - wide.gather(-1, gold).squeeze(-1),
        "right": (wide.argmax(-1) == targets).double(),
    }
    return {name: column.masked_fill(~mask, 0.0) for name, column in columns.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_column_is_the_dense_formula_in_float32(dtype: torch.dtype) -> None:
    logits, labels = drawn(dtype=dtype)
    signals = token_signals(logits, labels)
    for name, expected in dense(logits, labels).items():
        assert_close(getattr(signals, name).double(), expected, rtol=2e-6, atol=2e-6, msg=name)
    assert {getattr(signals, name).dtype for name in ("nll", "entropy", "error", "margin")} == {torch.float32}
    assert torch.equal(signals.mask, labels[:, 1:] != -100)


@pytest.mark.parametrize("chunk", [1, 5, 7, 1000])
@pytest.mark.parametrize("masked", [True, False])
def test_the_chunk_does_not_matter(chunk: int, masked: bool) -> None:
    logits, labels = drawn(1)
    labels = labels if masked else labels.clamp_min(0)
    whole, parts = token_signals(logits, labels), token_signals(logits, labels, chunk=chunk)
    for name in ("nll", "entropy", "error", "margin"):
        assert_close(getattr(whole, name), getattr(parts, name), rtol=1e-6, atol=1e-6, msg=name)
    assert torch.equal(whole.right, parts.right)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_matter(side: str) -> None:
    logits, labels = drawn(2)
    labels[:, 0] = -100  # nothing predicts what stands first; padding on the left would
    junk, nothing = torch.full((BATCH, 3, VOCABULARY), 1e4), torch.full((BATCH, 3), -100)
    order = slice(None) if side == "left" else slice(None, None, -1)
    padded = torch.cat((junk, logits)[order], 1), torch.cat((nothing, labels)[order], 1)
    plain, wide = (Signals({"tokens": token_signals(*pair)}) for pair in ((logits, labels), padded))
    for name, values in free_signals(plain).items():
        assert torch.equal(values.isnan(), free_signals(wide)[name].isnan()), name
        assert_close(free_signals(wide)[name], values, equal_nan=True, rtol=1e-6, atol=1e-6, msg=name)


def test_a_row_does_not_depend_on_its_batch() -> None:
    logits, labels = drawn(3)
    every = row_nll(token_signals(logits, labels))
    alone = torch.cat([row_nll(token_signals(logits[[row]], labels[[row]])) for row in range(BATCH)])
    assert_close(every, alone, equal_nan=True)


@pytest.mark.proves("cross_entropy", "entropy", by="golden")
def test_golden_rows_and_tokens() -> None:
    logits, labels = torch.tensor(GOLDEN["logits"]), torch.tensor(GOLDEN["labels"])
    signals = token_signals(logits, labels)
    nan = [math.nan if value is None else value for value in GOLDEN["mean_nll"]]
    assert signals.mask.sum(1).tolist() == GOLDEN["n_scored"]
    assert_close(signals.nll, torch.tensor(GOLDEN["token_nll"]), rtol=1e-5, atol=1e-6)
    expected = torch.tensor(GOLDEN["token_entropy_all_positions"])
    assert_close(signals.entropy, expected * signals.mask, rtol=1e-5, atol=1e-6)
    assert_close(row_nll(signals), torch.tensor(nan), rtol=1e-5, atol=1e-6, equal_nan=True)
    for row, value in (("ppl", row_perplexity(signals)), ("mean_entropy", row_entropy(signals))):
        known = [math.nan if one is None else one for one in GOLDEN[row]]
        assert_close(value, torch.tensor(known), rtol=1e-4, atol=1e-6, equal_nan=True)
    free = free_signals(Signals({"tokens": signals}))
    known = [math.nan if one is None else one for one in GOLDEN["mean_prob_gold"]]
    assert_close(free["gold_probability"], torch.tensor(known), rtol=1e-5, atol=1e-6, equal_nan=True)


def test_saturated_and_excluded_tokens_stay_finite_and_exact() -> None:
    logits = torch.tensor([[[90.0, 0.0, -math.inf], [0.0, 90.0, 0.0], [20.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    signals = token_signals(logits, torch.tensor([[0, 0, 0, 0]]))
    assert_close(signals.nll, torch.tensor([[0.0, 90.0, 2 * math.exp(-20)]]), rtol=1e-5, atol=1e-30)
    assert_close(signals.error, torch.tensor([[0.0, 2**0.5, 6**0.5 * math.exp(-20)]]), rtol=1e-5, atol=1e-30)
    assert signals.right.tolist() == [[True, False, True]]
    assert torch.isfinite(signals.entropy).all()
    assert torch.isfinite(signals.margin).all()


class Largest(TorchDispatchMode):
    """The bytes of the largest float32 tensor that is made inside, views of the logits aside."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.most, self._given = 0, logits.untyped_storage().data_ptr()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else [out]:
            if not isinstance(part, Tensor) or part.untyped_storage().data_ptr() == self._given:
                continue
            if part.dtype == torch.float32:
                self.most = max(self.most, part.numel() * 4)
        return out


@pytest.mark.parametrize("prompt", [0, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_never_float32_as_a_whole(dtype: torch.dtype, prompt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_BYTES", 2**16)
    logits, labels = torch.randn(4, 64, 512).to(dtype), torch.randint(512, (4, 64))
    labels[:, :prompt] = -100
    with Largest(logits) as largest:
        token_signals(logits, labels)
    assert 0 < largest.most <= 2**15  # two copies at a time
    assert logits.numel() * 4 == 2**19


def test_a_chunk_is_smaller_where_the_vocabulary_is_large() -> None:
    logits = torch.zeros(2, 100, 60_000, dtype=torch.bfloat16)
    with Largest(logits) as largest:
        token_signals(logits, torch.zeros(2, 100, dtype=torch.long))
    assert largest.most <= tokens.MOST_BYTES // 2


def test_inputs_are_not_written_to_and_no_graph_is_kept() -> None:
    logits, labels = drawn(4)
    before = logits.clone()
    signals = token_signals(logits.requires_grad_(), labels)
    assert torch.equal(logits, before)
    assert not any(getattr(signals, name).requires_grad for name in ("nll", "entropy", "error", "margin"))


@pytest.mark.parametrize("how", ["norm", "mean", "sum"])
@pytest.mark.parametrize("score", [el2n, cross_entropy, entropy, margin])
def test_a_score_of_rows_is_that_of_a_tagger_with_shifted_labels(score: Any, how: str) -> None:
    logits, labels = drawn(5)
    signals = Signals({"tokens": token_signals(logits, labels)})
    per_token = score(logits[:, :-1], labels[:, 1:].clamp_min(0), mask=labels[:, 1:] != -100)
    values = example_values(score, signals, combine=how)
    assert values[3].isnan()  # nothing trains there
    for row in range(3):
        counted = per_token[row][labels[row, 1:] != -100]
        signed = counted * counted.abs()
        expected = {
            "norm": signed.sum().sign() * signed.sum().abs().sqrt(), "mean": counted.mean(), "sum": counted.sum()
        }  # fmt: skip
        assert_close(values[row], expected[how], rtol=1e-5, atol=1e-5)


def test_free_columns_of_rows_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    free = free_signals(Signals({"tokens": token_signals(logits, torch.tensor([[0, 0, 0], [0, -100, -100]]))}))
    assert_close(free["loss"], torch.tensor([(math.log(2) + math.log(4 / 3)) / 2, math.nan]), equal_nan=True)
    assert_close(free["gold_probability"], torch.tensor([0.625, math.nan]), equal_nan=True)
    assert_close(free["el2n"], torch.tensor([(2 / 4 + 2 / 16) ** 0.5, math.nan]), equal_nan=True)
    assert_close(free["margin"], torch.tensor([-math.log(3) / 2, math.nan]), equal_nan=True)
    assert_close(free["correct"], torch.tensor([1.0, math.nan]), equal_nan=True)


def test_accuracy_counts_the_tokens_that_train() -> None:
    logits = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    assert row_accuracy(token_signals(logits, torch.tensor([[0, 1, 1, -100]]))).tolist() == [0.5]


def test_scores_that_tokens_lack_are_refused() -> None:
    head = token_signals(*drawn())
    fused = TokenSignals(head.nll, head.entropy, None, head.right, head.mask)

    def focal(logits: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
        return logits.sum(-1)

    with pytest.raises(ArgumentError, match="the score 'focal' cannot be read off the next tokens of a causal"):
        example_values(focal, Signals({"tokens": head}))
    with pytest.raises(ArgumentError, match=r"'el2n' cannot .* no logits\. Use cross_entropy or entropy\."):
        values_of_tokens("el2n", fused)
    assert free_signals(Signals({"tokens": fused}))["el2n"].isnan().all()
    with pytest.raises(ArgumentError, match="a teacher needs logits"):
        with_logits(Signals({"tokens": head}), "a teacher")
    with pytest.raises(ArgumentError, match="the gradient of the last layer needs logits"):
        signals_grand(Signals({"tokens": head}))


def test_what_does_not_fit_is_refused() -> None:
    logits, labels = drawn()
    with pytest.raises(ArgumentError, match=r"shape \(4, 9, 17\) for torch.int64 labels of shape \(4, 8\)"):
        token_signals(logits, labels[:, 1:])
    with pytest.raises(ArgumentError, match="labels must be tokens in \\[0, 17\\) or -100, found 17"):
        token_signals(logits, torch.full_like(labels, 17))
    with pytest.raises(ArgumentError, match="chunk must be at least 1, got 0"):
        token_signals(logits, labels, chunk=0)
