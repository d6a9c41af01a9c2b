"""Embeddings: free of padding and batching, from the encoder of every kind of model, and kept without harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from datadiet.errors import ArgumentError, DataError
from datadiet.ledger import Ledger
from datadiet.scoring.embed import embed, encoder_of, kept_embeddings, weights_digest
from datadiet.tasks.sequence import ClassificationTask
from toys import tiny_classifier, tiny_intent_slot, tiny_tokenizer, toy_rows

DATA, COLLATE = toy_rows(30)


def wide(items: Any) -> Any:
    """Padded to far more than is needed, with token numbers that mean something."""
    batch = ClassificationTask(()).collator(tiny_tokenizer(), pad_to_multiple_of=48)(items)
    return {**batch, "input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7)}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_and_batching_do_not_matter(pooling: str) -> None:
    model = tiny_classifier(3, dropout=0.5).train()
    plain = embed(model, DATA, COLLATE, pooling=pooling)
    assert model.training
    assert plain.shape == (30, 16)
    assert plain.dtype == np.float32
    assert_allclose(embed(model, DATA, COLLATE, pooling=pooling, batch_tokens=1), plain, atol=1e-5)
    assert_allclose(embed(model, DATA, wide, pooling=pooling), plain, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_vector_is_that_of_the_example_alone(pooling: str) -> None:
    model = tiny_classifier(3).eval()
    found = embed(model, DATA, COLLATE, pooling=pooling, normalize=False)
    with torch.no_grad():
        for row in (0, 11):
            ids = torch.tensor([DATA[row]["input_ids"]])
            states = model.bert(ids).last_hidden_state[0]
            expected = states.mean(0) if pooling == "mean" else states[0]
            assert_allclose(found[row], expected.numpy(), atol=1e-5)


def test_padding_before_the_tokens_does_not_matter_either() -> None:
    """The first real token is not the first position there."""

    class Counts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
            return (input_ids.unsqueeze(-1).float() * self.weight,)

    def left(items: list[list[int]]) -> dict[str, torch.Tensor]:
        rows = [[9] * (4 - len(item)) + item for item in items]
        mask = [[0] * (4 - len(item)) + [1] * len(item) for item in items]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}

    data = [[5, 1], [3, 4, 5], [8, 8, 8, 8]]
    assert embed(Counts(), data, left, pooling="cls", normalize=False).ravel().tolist() == [5, 3, 8]
    assert embed(Counts(), data, left, normalize=False).ravel().tolist() == [3, 4, 8]
    by_position = [(5 + 2 * 1) / 3, (3 + 2 * 4 + 3 * 5) / 6, 8]
    assert_allclose(embed(Counts(), data, left, pooling="position", normalize=False).ravel(), by_position, rtol=1e-6)


def test_rows_come_in_the_order_asked_for_and_vectors_have_length_1_unless_asked_otherwise() -> None:
    model, rows = tiny_classifier(3), np.array([9, 2, 9, 20])
    plain, scaled = (embed(model, DATA, COLLATE, normalize=normalize) for normalize in (False, True))
    assert_allclose(embed(model, DATA, COLLATE, rows=rows), scaled[rows], atol=1e-5)
    assert_allclose(np.linalg.norm(scaled, axis=1), 1, atol=1e-5)
    assert_allclose(plain / np.linalg.norm(plain, axis=1, keepdims=True), scaled, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "joint"])
def test_models_with_and_without_heads_give_the_same(kind: str) -> None:
    if kind == "joint":
        model, (data, collate) = tiny_intent_slot(("book", "play"), ("O", "B-city")), (DATA, COLLATE)
        encoder = model.encoder
    else:
        model, (data, collate) = tiny_classifier(3, kind=kind), toy_rows(8, kind=kind)
        encoder = model.base_model
    assert encoder_of(model) is encoder
    assert_array_equal(embed(model, data, collate), embed(encoder, data, collate))


def test_adapters_stay_in_the_encoder() -> None:
    peft = pytest.importorskip("peft")
    plain = embed(tiny_classifier(3), DATA, COLLATE)
    options = peft.LoraConfig(target_modules=["query"], init_lora_weights=False, task_type="SEQ_CLS")
    torch.manual_seed(0)
    adapted = peft.get_peft_model(tiny_classifier(3), options)
    assert np.abs(embed(adapted, DATA, COLLATE) - plain).max() > 1e-3


def test_the_pass_is_counted() -> None:
    ledger = Ledger()
    embed(tiny_classifier(3), DATA, COLLATE, ledger=ledger)
    cost = ledger.snapshot()
    assert (cost.examples_forward, cost.examples_backward) == (30, 0)
    assert cost.tokens_forward == sum(DATA["length"])
    assert 0 < cost.score_s <= cost.total_s


def test_what_cannot_be_embedded() -> None:
    model = tiny_classifier(3)
    with pytest.raises(ArgumentError, match=r"unknown pooling 'max'\. Allowed: cls, mean, position"):
        embed(model, DATA, COLLATE, pooling="max")
    with pytest.raises(ArgumentError, match="no example to embed"):
        embed(model, DATA, COLLATE, rows=np.empty(0, np.int64))
    with pytest.raises(ArgumentError, match="no hidden states of each token"):
        embed(torch.nn.Linear(2, 2), [0], lambda _: {"input": torch.zeros(1, 2)})
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[int(DATA[4]["input_ids"][1])] = torch.nan
    with pytest.raises(DataError, match=r"not finite for .* rows, the first is"):
        embed(model, DATA, COLLATE)


# ---- kept in a folder


VECTORS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
ORIGIN = {"data": "abc", "rows": 6}


def never() -> Any:
    raise AssertionError("made again")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_taken_is_what_was_made(tmp_path: Path, dtype: str) -> None:
    kept_embeddings(tmp_path, ORIGIN, lambda: 2 * VECTORS, dtype="float32" if dtype == "float16" else "float16")
    made = kept_embeddings(tmp_path, ORIGIN, lambda: VECTORS, dtype=dtype)
    taken = kept_embeddings(tmp_path, ORIGIN, never, dtype=dtype)
    assert made.dtype == taken.dtype == np.float32
    assert_array_equal(made, taken)
    assert_allclose(made, VECTORS, atol=2e-3 if dtype == "float16" else 0)


def test_a_folder_that_cannot_be_written_to_gives_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"embeddings could not be kept in .*file"):
        made = kept_embeddings(tmp_path / "file", ORIGIN, lambda: VECTORS, dtype="float32")
    assert_array_equal(made, VECTORS)


def test_types_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"unknown dtype 'float8'.* Allowed: float16, float32"):
        kept_embeddings(tmp_path, ORIGIN, never, dtype="float8")
    with pytest.raises(DataError, match="above 65,504, which float16 cannot hold"):
        kept_embeddings(tmp_path, ORIGIN, lambda: 1e6 * VECTORS)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_told_apart() -> None:
    first, same, other = tiny_classifier(3), tiny_classifier(3), tiny_classifier(3)
    assert weights_digest(first) == weights_digest(same)
    with torch.no_grad():
        other.classifier.bias += 1e-3
    assert weights_digest(other) != weights_digest(first)
    assert weights_digest(first) != weights_digest(first.bfloat16())
