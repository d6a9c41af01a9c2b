"""Signals of models without a task, by names and shapes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForTokenClassification, GPT2Config, GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutput, QuestionAnsweringModelOutput, SequenceClassifierOutput

from datadiet.errors import ArgumentError
from datadiet.scores.reduce import free_signals
from datadiet.scores.tokens import token_signals
from datadiet.tasks.base import class_signals
from datadiet.tasks.reading import Reader, signals_of
from datadiet.types import Signals, TokenSignals
from toys import INTENTS, SLOTS, tiny_batch, tiny_classifier, tiny_config, tiny_intent_slot

CLASSES, WHOLE, NUMBERS, ONE = torch.randn(2, 3), torch.tensor([0, 2]), torch.tensor([0.5, 4.0]), torch.randn(2, 1)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("form", [lambda output: output, dict, lambda output: output.to_tuple()])
@pytest.mark.parametrize("name", ["labels", "label"])
def test_stock_classifiers(kind: str, form, name: str) -> None:
    output = tiny_classifier(3, kind)(**tiny_batch(["the amber", "of it"], kind), labels=WHOLE)
    head = signals_of(form(output), {name: WHOLE}).heads["label"]
    assert torch.equal(head.logits, output.logits)
    assert not head.logits.requires_grad
    assert head.mask is None
    assert head.labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(ONE, NUMBERS), (ONE[:, 0], NUMBERS), (ONE, NUMBERS[:, None]), (ONE, torch.tensor([1, 4]))],
    ids=["column", "flat", "both columns", "whole numbers"],
)
def test_regression(logits: torch.Tensor, labels: torch.Tensor) -> None:
    head = signals_of(SequenceClassifierOutput(logits=logits), {"labels": labels}).heads["label"]
    assert head.logits.shape == (2, 1)
    assert head.labels.dtype == torch.float32
    assert head.labels.tolist() == labels.flatten().tolist()


YES = torch.tensor([0.0, 1.0])
ONE_HOT, SETS = torch.eye(3)[:2], torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


def test_a_link_tells_one_logit_of_a_number_from_one_of_a_class() -> None:
    number = signals_of({"logits": ONE}, {"labels": YES}, link="identity").heads["label"]
    assert number.logits.tolist() == ONE.tolist()
    odds = signals_of({"logits": ONE}, {"labels": YES}, link="sigmoid").heads["label"]
    assert torch.equal(odds.logits, torch.cat([torch.zeros(2, 1), ONE], 1))
    assert odds.labels.tolist() == [0, 1]


def test_a_link_tells_sets_of_labels_from_classes_written_one_hot() -> None:
    assert signals_of({"logits": CLASSES}, {"labels": ONE_HOT}, link="softmax").heads["label"].labels.tolist() == [0, 1]
    assert torch.equal(
        signals_of({"logits": CLASSES}, {"labels": ONE_HOT}, link="sigmoid").heads["label"].labels, ONE_HOT
    )
    assert torch.equal(signals_of({"logits": CLASSES}, {"labels": SETS}).heads["label"].labels, SETS)
    assert torch.equal(signals_of({"logits": CLASSES}, {"labels": SETS.long()}).heads["label"].labels, SETS)


def test_the_config_decides_where_no_loss_is_seen() -> None:
    model, batch = tiny_classifier(1), {"labels": YES}
    for problem, classes in (("regression", 1), ("multi_label_classification", 2), (None, 1)):
        model.config.problem_type = problem
        assert Reader(model)({"logits": ONE}, batch).heads["label"].logits.shape == (2, classes)
    model.config.problem_type = None
    with pytest.raises(ArgumentError, match=r"nothing shows which\. Set model\.config\.problem_type: 'regression'"):
        Reader(model, own_loss=False)({"logits": ONE}, batch)


def test_a_reader_keeps_to_what_it_has_found() -> None:
    reader = Reader()
    assert reader({"logits": ONE}, {"labels": NUMBERS}).heads["label"].labels.tolist() == [0.5, 4.0]
    assert reader({"logits": ONE}, {"labels": YES}).heads["label"].labels.dtype == torch.float32
    other = Reader()
    other.load(reader.state())
    assert other({"logits": ONE}, {"labels": YES}).heads["label"].logits.shape == (2, 1)


def test_rows_without_a_class_do_not_count() -> None:
    head = signals_of({"logits": CLASSES}, {"labels": torch.tensor([-100, 2])}).heads["label"]
    assert head.mask.tolist() == [False, True]
    free = free_signals(Signals({"label": head}), of_label=True)
    learned = {"gold_probability": 1, "margin": 0, "loss": 0, "el2n": 0, "correct": 1, "label_loss": 0, "label_rank": 0}
    assert {name: free[name][0].item() for name in learned} == learned
    alone = free_signals(class_signals(CLASSES[1:], torch.tensor([2])), of_label=True)
    assert all(torch.equal(free[name][1:], alone[name]) for name in learned)


@pytest.mark.parametrize("form", [dict, QuestionAnsweringModelOutput, lambda **parts: tuple(parts.values())])
def test_answers_in_a_text(form) -> None:
    parts = {"start_logits": torch.randn(2, 4), "end_logits": torch.randn(2, 4)}
    batch = {"start_positions": torch.tensor([[1], [9]]), "end_positions": torch.tensor([2, 3])}
    heads = signals_of(form(**parts), batch).heads
    assert {name: head.labels.tolist() for name, head in heads.items()} == {"start": [1, -100], "end": [2, 3]}
    assert heads["start"].mask.tolist() == [True, False]  # beyond the text: the stock loss leaves it out
    assert heads["end"].mask is None
    assert torch.equal(heads["end"].logits, parts["end_logits"])


def test_taggers() -> None:
    config = tiny_config()
    config.num_labels = 4
    model = AutoModelForTokenClassification.from_config(config).eval()
    labels = torch.tensor([[-100, 3, 1, -100], [-100, 2, -100, -100]])
    output = model(**tiny_batch(["the amber", "of it"]), labels=labels)
    head = signals_of(output, {"labels": labels}).heads["tokens"]
    assert head.mask.tolist() == [[False, True, True, False], [False, True, False, False]]
    assert head.labels.tolist() == [[0, 3, 1, 0], [0, 2, 0, 0]]
    assert labels.min() == -100  # the batch itself is not written to


def test_joint_models() -> None:
    batch = tiny_batch(["play adele", "in lima"])
    labels = {"intent_labels": WHOLE, "slot_labels": torch.full_like(batch["input_ids"], 1)}
    heads = signals_of(tiny_intent_slot(INTENTS, SLOTS)(**batch), labels).heads
    assert {name: tuple(head.logits.shape) for name, head in heads.items()} == {"intent": (2, 3), "slots": (2, 4, 7)}
    assert heads["slots"].mask.all()


def causal():
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8}
    return GPT2LMHeadModel(GPT2Config(vocab_size=11, bos_token_id=1, eos_token_id=2, **sizes)).eval()


def test_a_causal_language_model_is_read_by_its_next_tokens() -> None:
    model, ids = causal(), torch.arange(8).reshape(2, 4)
    labels = ids.masked_fill(ids < 2, -100)
    outputs = model(ids)
    expected = token_signals(outputs.logits, labels)
    for found in (signals_of(outputs, {"labels": labels}), Reader(model)(tuple(outputs.values()), {"labels": labels})):
        (head,) = found.heads.values()
        assert isinstance(head, TokenSignals)
        assert torch.equal(head.nll, expected.nll)
        assert torch.equal(head.mask, expected.mask)
    assert Reader(model).causal
    assert not Reader(tiny_classifier(3)).causal
    with pytest.raises(ArgumentError, match=r"logits \(batch, length, vocabulary\) for whole labels"):
        signals_of(CausalLMOutput(logits=torch.randn(2, 4, 3)), {"labels": torch.zeros(2, 5, dtype=torch.int64)})


@pytest.mark.parametrize("near", [0.0, 8.0, 40.0])
def test_the_numbers_of_a_fused_head_give_the_signals_of_its_logits(near: float) -> None:
    """Also where a token is nearly certain, so that `sum_v p_v^2 - 2 p_y + 1` would be a rounding error."""
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 2, 3, 4], [0, -100, -100, 6, 5]])
    logits[0, :-1].scatter_(1, labels[0, 1:, None], near)
    expected = token_signals(logits, labels)
    logs, targets = logits[:, :-1].log_softmax(-1), labels[:, 1:]
    mask = targets != -100
    fused = SimpleNamespace(
        log_probs=logs.gather(-1, targets.clamp_min(0)[..., None])[..., 0] * mask, label_mask=mask,
        entropy=-(logs.exp() * logs).sum(-1) * mask, is_top1=(logs.argmax(-1) == targets) & mask,
        log_sum_sq_probs=(2 * logs).logsumexp(-1) * mask,
    )  # fmt: skip
    head = signals_of(fused, {}).heads["tokens"]
    assert isinstance(head, TokenSignals)
    for name, rough in (("nll", 1e-6), ("entropy", 1e-6), ("error", 3e-4)):
        torch.testing.assert_close(getattr(head, name), getattr(expected, name), rtol=1e-4, atol=rough, msg=name)
    missing = -torch.expm1(-expected.nll)
    assert (head.error >= missing * 0.999 - 1e-6).all()
    assert (head.error <= 2**0.5 * missing * 1.001 + 1e-6).all()
    assert torch.equal(head.right, expected.right)
    assert head.margin is None
    fused.log_sum_sq_probs = None
    assert signals_of(fused, {}).heads["tokens"].error is None


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        ({"logits": CLASSES}, NUMBERS, r"logits \(2, 3\) and torch.float32 labels \(2,\)"),
        ({"logits": CLASSES}, torch.rand(2, 4), "fit no known task"),
        ({"logits": CLASSES}, torch.tensor([1]), "fit no known task"),
        ({"logits": torch.randn(2, 4, 3)}, torch.zeros(2, 5, dtype=torch.int64), r"\(2, 4, 3\)"),
        ({"hidden": CLASSES}, WHOLE, "has no logits"),
        ((torch.tensor(1.0),), WHOLE, "has no logits"),
        ({"logits": CLASSES, "topic_logits": CLASSES + 1}, WHOLE, r"several heads with logits \(2, 3\)"),
        ((CLASSES, CLASSES + 1), WHOLE, "cannot be told apart"),
        ({"logits": CLASSES}, torch.rand(2, 3), "other than 0 and 1 fit no known task"),
        ({"logits": CLASSES}, None, "no labels; it holds input_ids"),
        ({"logits": ONE}, YES, "one logit is a number .* nothing shows which"),
        ({"logits": CLASSES}, ONE_HOT, "one-hot classes .* or sets of labels .* nothing shows which"),
        ({"scores": CLASSES, "hidden": CLASSES}, WHOLE, "has no logits; it holds scores, hidden"),
        ({"logits": torch.randn(2, 4, 1)}, torch.ones(2, 4, dtype=torch.int64), "one logit per position"),
    ],
)
def test_errors_recommend_signals(outputs, labels, message: str) -> None:
    batch = {"input_ids": WHOLE} if labels is None else {"labels": labels}
    with pytest.raises(ArgumentError, match=rf"(?s){message}.*ass signals=.*\(outputs, batch\)"):
        signals_of(outputs, batch)
