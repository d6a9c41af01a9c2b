"""Passes over answers: nothing depends on padding, batches or neighbours; the oracle is one row at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.byte_lm import byte_tokenizer, config_of
from numpy.testing import assert_allclose
from transformers import AutoModelForCausalLM

from datadiet.data.schema import Examples
from datadiet.errors import ArgumentError, DataError
from datadiet.scoring import forward
from datadiet.scoring.dataset import score_split
from datadiet.scoring.inputs import OutOfFold, ScoringInputs
from datadiet.tasks.causal_lm import CausalLMTask, answers_of

TASK = CausalLMTask()
NAMES = ["perplexity", "ifd", "predictive_strength", "capability_gap", "cross_entropy"]
ROWS = [
    ("say hello", "hello there."),
    ("a very long prompt about nothing at all", "ok"),
    ("2 + 2?", "4"),
    ("name a fruit", "häagen, äpfel"),
    ("p" * 60, "cut away"),
    ("repeat the word yes", "yes yes yes yes yes"),
    ("long", "x" * 60),
]
LIMIT = 56  # the fifth row loses its whole answer, the last a part of it
GONE, CUT = 4, 6


def model_of(seed: int, *, dropout: float = 0.0) -> Any:
    """A random byte-level model with large weights, so that rows differ."""
    config = config_of("gpt2-0.2m")
    config.n_embd, config.n_layer, config.n_head, config.initializer_range = 16, 1, 2, 0.3
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = dropout
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).train()


def examples_of(rows: Any = ROWS) -> Examples:
    turns = tuple((("user", prompt), ("assistant", answer)) for prompt, answer in rows)
    return Examples(ids=tuple(f"r{n}" for n in range(len(rows))), texts=tuple(p for p, _ in rows), turns=turns)


def inputs_of(rows: Any = ROWS, *, tokenizer: Any = None, **changes: Any) -> ScoringInputs:
    tokenizer, examples = tokenizer or byte_tokenizer(), examples_of(rows)
    features = TASK.features(examples, tokenizer, max_length=LIMIT)
    made = ScoringInputs(
        [" ".join(row) for row in rows], features, TASK.collator(tokenizer), TASK.signals, combine="mean",
        ids=examples.ids, model=model_of(0), teacher=model_of(1), checkpoints=[model_of(seed) for seed in range(3)],
        answers=answers_of(examples, features, tokenizer),
    )  # fmt: skip
    return replace(made, **changes)


def nll(model: Any, ids: list[int]) -> np.ndarray:
    """Of each token but the first, of one row by itself, in float64."""
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([ids])).logits.double()
    return -logits[0, :-1].log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


@pytest.mark.proves("perplexity", "ifd", "predictive_strength", "capability_gap", by="brute")
def test_values_are_those_of_each_row_by_itself():
    inputs = inputs_of()
    scored = score_split(NAMES, inputs)
    for row, (_, answer) in enumerate(ROWS):
        features = inputs.features[row]
        trained = [label for label in features["labels"] if label != -100]
        values = {name: float(scored.values[name][row]) for name in NAMES}
        if row == GONE:
            assert all(math.isnan(value) for value in values.values())
            continue
        ids, count = features["input_ids"], len(trained)
        given = nll(inputs.model, ids)[-count:]
        assert values["cross_entropy"] == pytest.approx(given.mean(), rel=1e-4)
        size = len(answer.encode()) + 1 if row != CUT else count  # and its end
        assert values["perplexity"] == pytest.approx(given.sum() / math.log(2) / size, rel=1e-4)
        if row == CUT:
            assert math.isnan(values["ifd"])
        else:  # the tokenizer has no beginning: nothing predicts the first token of the answer alone
            alone = nll(inputs.model, trained)
            assert values["ifd"] == pytest.approx(given[1:].mean() / alone.mean(), rel=1e-4)
        losses = [nll(model, ids)[-count:].mean() for model in inputs.checkpoints]
        pairs = [losses[one] > losses[other] for one in range(3) for other in range(one + 1, 3)]
        assert values["predictive_strength"] == pytest.approx(np.mean(pairs))
        with torch.no_grad():
            both = (model.eval()(input_ids=torch.tensor([ids])).logits for model in (inputs.model, inputs.teacher))
            one, two = (logits[0, -count - 1 : -1].double().softmax(-1) for logits in both)
        middle = (one + two) / 2
        gap = ((one * (one / middle).log()).sum(-1) + (two * (two / middle).log()).sum(-1)) / 2
        assert values["capability_gap"] == pytest.approx(float(gap.mean()), rel=1e-4)
    missing = {name: np.flatnonzero(where).tolist() for name, where in scored.missing.items()}
    assert missing == {name: [GONE, CUT] if name == "ifd" else [GONE] for name in NAMES}


@pytest.mark.proves("perplexity", "ifd", "predictive_strength", "capability_gap", by="identity")
def test_padding_batches_order_and_neighbours_change_nothing():
    order = [6, 2, 0, 5, 4, 1, 3]
    values = score_split(NAMES, inputs_of()).values
    for changes in ({"batch_tokens": 1}, {"batch_tokens": 60}):
        for name, found in score_split(NAMES, inputs_of(**changes)).values.items():
            assert_allclose(found, values[name], rtol=1e-4, atol=1e-6)
    for name, found in score_split(NAMES, inputs_of([ROWS[row] for row in order])).values.items():
        assert_allclose(found, values[name][order], rtol=1e-4, atol=1e-6)


def test_dropout_is_off_and_every_mode_is_restored():
    quiet = score_split(NAMES, inputs_of()).values
    models = {"model": model_of(0, dropout=0.5), "teacher": model_of(1, dropout=0.5)}
    models["model"].transformer.h[0].eval()
    before = {role: [part.training for part in model.modules()] for role, model in models.items()}
    noisy = score_split(NAMES, inputs_of(**models, checkpoints=[model_of(s, dropout=0.5) for s in range(3)])).values
    for name in NAMES:
        assert_allclose(noisy[name], quiet[name], rtol=1e-5)
    assert before == {role: [part.training for part in model.modules()] for role, model in models.items()}
    assert all(part.grad is None for model in models.values() for part in model.parameters())


def test_a_token_that_begins_texts_stands_before_the_answer_too():
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = "<|system|>"
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    inputs = inputs_of(ROWS[:3], tokenizer=tokenizer)
    values = score_split(["ifd"], inputs).values["ifd"]
    for row in range(3):
        ids = inputs.features[row]["input_ids"]
        trained = [label for label in inputs.features[row]["labels"] if label != -100]
        alone = nll(inputs.model, [ids[0], *trained])
        assert values[row] == pytest.approx(nll(inputs.model, ids)[-len(trained) :].mean() / alone.mean(), rel=1e-4)


def test_units_and_a_character_that_was_cut_in_two():
    rows = [("2 + 2?", "4"), ("name", "äpfel"), ("n" * 53, "äpfel")]
    answers = inputs_of(rows).answers
    assert answers is not None
    ids = answers.features[2]["input_ids"]
    assert len(ids) == LIMIT
    sizes = {unit: column.tolist() for unit, column in answers.sizes.items()}
    assert sizes["tokens"] == answers.counts.tolist()
    assert (sizes["bytes"][:2], sizes["characters"][:2]) == ([2, 7], [2, 6])
    assert [column[2] for column in sizes.values()] == [1, 1, 1]  # half of the first letter


def test_models_that_have_not_seen_the_row():
    inputs = inputs_of()
    losses = score_split(["cross_entropy", "perplexity"], inputs).values
    crossed = inputs_of(out_of_fold=OutOfFold(losses["cross_entropy"], answers=inputs.answers), model=None)
    held = score_split(["held_out_perplexity", "irreducible_loss"], crossed)
    assert_allclose(held.values["held_out_perplexity"], losses["perplexity"], rtol=1e-6)
    assert held.missing["irreducible_loss"].tolist() == [row == GONE for row in range(len(ROWS))]


def test_a_model_whose_numbers_overflow_is_no_missing_value():
    broken = model_of(0)
    torch.nn.init.constant_(broken.transformer.ln_f.weight, torch.nan)
    with pytest.raises(DataError, match=r"gives nan in place of the loss of the row with the id 'r0', and of 6 rows"):
        score_split(["perplexity"], inputs_of(model=broken))


def test_what_scores_of_answers_need():
    made = inputs_of()
    plain = replace(made, answers=replace(made.answers, prompted=False))  # type: ignore[type-var]
    with pytest.raises(ArgumentError, match="the score ifd needs prompts with answers, and these rows are plain texts"):
        score_split(["ifd"], plain)
    with pytest.raises(ArgumentError, match="scores of answers need rows of a causal language model"):
        score_split(["perplexity"], inputs_of(answers=None))


def test_a_pass_holds_no_more_logits_than_there_is_room_for(monkeypatch):
    model, seen = model_of(0), []
    vocabulary = forward.vocabulary_of(model)
    assert vocabulary == 261
    assert forward.vocabulary_of(torch.nn.Linear(2, 2)) is None
    monkeypatch.setattr(forward, "MOST_LOGITS", 130 * vocabulary)
    model.register_forward_hook(lambda _module, _given, outputs: seen.append(outputs.logits.shape[:2].numel()))
    score_split(["perplexity", "ifd", "capability_gap"], inputs_of(model=model, batch_tokens=10**6))
    assert 100 < max(seen) <= 130
    gap = []
    model.register_forward_hook(lambda _module, _given, outputs: gap.append(outputs.logits.shape[:2].numel()))
    score_split(["capability_gap"], inputs_of(model=model, batch_tokens=10**6))
    assert max(gap) <= 65  # two models at once
