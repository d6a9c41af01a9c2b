"""The battery every task must pass: one row per task; its data are those of the row in `toys.TOYS`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, Trainer, TrainingArguments

from datadiet.data.schema import Dataset, Examples
from datadiet.errors import ArgumentError, DataError
from datadiet.registry import find, has, names
from datadiet.tasks import task_for, task_of_saved_model
from datadiet.tasks.base import Task
from datadiet.tasks.intent_slot import IntentSlotTask
from datadiet.tasks.losses import word_loss
from datadiet.tasks.reading import signals_of
from datadiet.tasks.sequence import ClassificationTask, MultiLabelTask, RegressionTask
from datadiet.tasks.tagging import TokenClassificationTask
from toys import INTENTS, KEYWORDS, KINDS, SLOTS, TOYS, tiny_model_folder, tiny_tokenizer, weights

LABELS = tuple(sorted(KEYWORDS[:3]))


@dataclass(frozen=True)
class Case:
    name: str  # of TOYS
    task: Task
    heads: dict[str, int]
    toy: dict[str, Any] = field(default_factory=dict)

    def examples(self, n: int, **options: Any) -> Examples:
        return TOYS[self.name].make(n, **self.toy, **options)

    def features(self, n: int, kind: str = "bert", max_length: int = 32):
        return self.task.features(self.examples(n), tiny_tokenizer(kind), max_length=max_length)


CASES = [
    Case("classification", ClassificationTask(LABELS), {"label": 3}, {"classes": 3}),
    Case("pairs", ClassificationTask(LABELS), {"label": 3}, {"classes": 3}),
    Case("regression", RegressionTask(), {"label": 1}),
    Case("intent-slot", IntentSlotTask(INTENTS, SLOTS), {"intent": 3, "slots": 7}),
    Case("multi-label", MultiLabelTask(LABELS), {"label": 3}),
    Case("token-classification", TokenClassificationTask(SLOTS), {"tokens": 7}),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_kind = pytest.mark.parametrize("kind", KINDS)


def test_every_task_and_every_toy_has_a_case() -> None:
    encoders = {name for name in names("task") if not has(name, "answers")}  # language models: test_causal_lm.py
    assert {case.task.name for case in CASES} == encoders, "give a new task a row in CASES"
    assert [case.name for case in CASES] == list(TOYS)
    assert all(case.task.name == TOYS[case.name].task for case in CASES)


def run(case: Case, folder: Any, examples: Examples, kind: str = "bert"):
    """A function that gives outputs and batch of some of the rows."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(kind)
    model = case.task.load_model(str(folder))
    rows = list(case.task.features(examples, tokenizer, max_length=32))
    collate = case.task.collator(tokenizer)

    def forward(chosen):
        batch = collate([rows[row] for row in chosen])
        with torch.inference_mode():
            return model(**batch), batch

    return forward


@every_case
@every_kind
def test_a_padded_batch_equals_its_single_examples(case: Case, kind: str, tmp_path) -> None:
    forward = run(case, tiny_model_folder(tmp_path, kind), case.examples(6), kind)
    together = forward(range(6))
    heads, predictions = case.task.signals(*together).heads, case.task.decode(*together)
    for row in range(6):
        alone = forward([row])
        for name, head in case.task.signals(*alone).heads.items():
            assert_same_head(heads[name], row, head)
        assert_same_prediction(predictions[row], case.task.decode(*alone)[0])


def assert_same_head(padded, row: int, alone) -> None:
    width = alone.logits.shape[1]
    torch.testing.assert_close(padded.logits[row][:width], alone.logits[0], atol=1e-5, rtol=1e-4)
    if alone.mask is None:
        assert torch.equal(padded.labels[row], alone.labels[0])
    else:
        assert torch.equal(padded.mask[row][:width], alone.mask[0])
        assert not padded.mask[row][width:].any()
        assert torch.equal(padded.labels[row][:width], alone.labels[0])


def assert_same_prediction(padded, alone) -> None:
    assert padded.slots == alone.slots
    if alone.probabilities is None:
        assert padded.label == pytest.approx(alone.label, abs=1e-5)
    else:
        assert padded.label == alone.label
        np.testing.assert_allclose(padded.probabilities, alone.probabilities, atol=1e-5)


@every_case
def test_every_head_is_named_and_detached_and_recognised_without_a_task(case: Case, folder) -> None:
    model = case.task.load_model(folder)
    batch = case.task.collator(tiny_tokenizer())(list(case.features(4)))
    outputs = model(**batch)
    heads, recognised = case.task.signals(outputs, batch).heads, signals_of(outputs, batch).heads
    assert {name: head.logits.shape[-1] for name, head in heads.items()} == case.heads
    assert heads.keys() == recognised.keys()
    several = has(case.task.name, "label_sets")
    for name, head in heads.items():
        assert not head.logits.requires_grad
        one_each = head.logits.shape if several else (4,)
        assert head.labels.shape == (head.logits.shape[:-1] if head.mask is not None else one_each)
        assert head.labels.min() >= 0
        assert head.labels.dtype == (torch.float32 if has(case.task.name, "numbers") or several else torch.int64)
        assert torch.equal(head.logits, recognised[name].logits)
        assert torch.equal(head.labels, recognised[name].labels)


@every_case
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_features_are_unpadded_compact_and_carry_their_length(case: Case, kind: str) -> None:
    features = case.features(20, kind, max_length=12)
    assert len(features) == 20
    assert features["length"][:] == [len(ids) for ids in features["input_ids"]]
    assert max(features["length"]) == 12
    assert set(case.task.label_columns) <= set(features.column_names)
    assert ("token_type_ids" in features.column_names) == (kind == "bert")
    assert features.features["input_ids"].feature.dtype == "int32"


@every_case
def test_unlabelled_examples_are_predicted_and_have_no_metrics(case: Case, folder) -> None:
    examples = case.examples(5, labelled=False)
    outputs, batch = run(case, folder, examples)(range(5))
    predictions = case.task.decode(outputs, batch)
    assert not set(case.task.label_columns) & set(batch)
    assert len(predictions) == 5
    assert case.task.metrics(examples, predictions) is None
    with pytest.raises(ArgumentError, match="labels' is missing"):
        case.task.signals(outputs, batch)


@every_case
def test_metrics_have_the_declared_names(case: Case, folder) -> None:
    examples, declared = case.examples(8), find("task", case.task.name).facts["metrics"]
    metrics = case.task.metrics(examples, case.task.decode(*run(case, folder, examples)(range(8))))
    assert metrics.keys() == {*declared, "nll" if has(case.task.name, "classes") else "mse"}
    assert case.task.main_metric == declared[0]
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())


@every_case
def test_groups_are_the_classes_of_the_rows(case: Case) -> None:
    examples, groups = case.examples(9), case.task.groups(case.features(9))
    if not has(case.task.name, "groups"):
        assert groups is None
        return
    pairs = set(zip(examples.labels, groups.tolist(), strict=True))
    assert len(pairs) == len(set(examples.labels)) == len(set(groups))  # one number for each
    assert groups.dtype == np.int64
    if has(case.task.name, "one_class"):
        assert all(case.task.label_names[number] == label for label, number in pairs)


@every_case
@pytest.mark.parametrize("multiple", [None, 8])
def test_batches_are_padded_to_the_longest_row_or_a_multiple(case: Case, multiple) -> None:
    rows = list(case.features(6))
    collate = case.task.collator(tiny_tokenizer(), pad_to_multiple_of=multiple)
    batch = collate([{**row, "row": 3, "note": "x"} for row in rows])
    longest = max(row["length"] for row in rows)
    assert batch["input_ids"].shape == (6, longest if multiple is None else -(-longest // 8) * 8)
    assert batch["attention_mask"].sum(1).tolist() == [row["length"] for row in rows]
    assert not {"row", "note", "length"} & set(batch)


@every_case
def test_a_data_set_and_a_saved_model_give_the_task(case: Case, folder, tmp_path) -> None:
    task = case.task
    assert task_for(Dataset("toy", task.name, {}, task.label_names, task.slot_names, "0")) == task
    task.load_model(folder).save_pretrained(tmp_path / "saved")
    assert task_of_saved_model(tmp_path / "saved") == task
    assert task_of_saved_model(AutoConfig.from_pretrained(tmp_path / "saved")) == task


@every_case
def test_long_sets_are_tokenised_in_parts(case: Case, monkeypatch) -> None:
    whole = case.features(7).to_dict()
    monkeypatch.setattr("datadiet.tasks.base.CHUNK", 3)
    assert case.features(7).to_dict() == whole


@every_case
def test_an_empty_split_is_refused(case: Case) -> None:
    with pytest.raises(DataError, match="the split is empty"):
        case.task.features(case.examples(2).take([]), tiny_tokenizer(), max_length=32)


@every_case
def test_model_options_are_refused_but_by_the_joint_task(case: Case, folder) -> None:
    if has(case.task.name, "joint"):
        assert case.task.load_model(folder, alpha=0.7).config.alpha == 0.7
        return
    message = f"alpha: only the intent-slot task takes model options, not {case.task.name}"
    with pytest.raises(ArgumentError, match=message):
        case.task.load_model(folder, alpha=0.7)


@every_case
def test_the_trainer_takes_the_same_steps_with_and_without_accumulation(case: Case, folder, tmp_path) -> None:
    features, collate = case.features(16), case.task.collator(tiny_tokenizer())
    trained = []
    for accumulation in (1, 2):
        torch.manual_seed(0)
        model = case.task.load_model(folder)
        args = TrainingArguments(
            str(tmp_path / "out"), per_device_train_batch_size=8 // accumulation, num_train_epochs=1,
            gradient_accumulation_steps=accumulation, max_grad_norm=0.0,
            optim="sgd",  # Adam would hide a gradient that is a constant too large
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        loss = word_loss if has(case.task.name, "tags_only") else None  # a stock tagger's is a mean of means
        Trainer(model, args, train_dataset=features, data_collator=collate, compute_loss_func=loss).train()
        trained.append(weights(model))
    torch.testing.assert_close(*trained, atol=1e-7, rtol=1e-5)


def test_an_unknown_task_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(ArgumentError, match="unknown task 'clasification'; did you mean 'classification'"):
        task_for(Dataset("toy", "clasification", {}, (), (), "0"))
