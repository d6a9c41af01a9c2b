"""The battery every task must pass: one row per task and kind of encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import AutoConfig, Trainer, TrainingArguments

from datadiet.data.schema import Dataset, Examples
from datadiet.errors import ArgumentError, DataError
from datadiet.registry import names
from datadiet.tasks import task_for, task_of_saved_model
from datadiet.tasks.base import signals_of
from datadiet.tasks.intent_slot import IntentSlotTask
from datadiet.tasks.losses import word_loss
from datadiet.tasks.sequence import ClassificationTask, MultiLabelTask, RegressionTask
from datadiet.tasks.tagging import TokenClassificationTask
from toys import (
    INTENTS,
    KEYWORDS,
    KINDS,
    SLOTS,
    tiny_model_folder,
    tiny_tokenizer,
    toy_classification,
    toy_intent_slot,
    toy_multi_label,
    toy_pairs,
    toy_regression,
    toy_tags,
)

LABELS = tuple(sorted(KEYWORDS[:3]))


@dataclass(frozen=True)
class Case:
    name: str
    task: object
    examples: object  # (n, labelled=...) -> Examples
    heads: dict[str, tuple[int, ...]]
    metrics: set[str]


CASES = [
    Case(
        "classification",
        ClassificationTask(LABELS),
        lambda n, **options: toy_classification(n, 3, **options),
        {"label": (3,)},
        {"accuracy", "macro_f1", "matthews", "nll"},
    ),
    Case(
        "pairs",
        ClassificationTask(LABELS),
        lambda n, **options: toy_pairs(n, 3, **options),
        {"label": (3,)},
        {"accuracy", "macro_f1", "matthews", "nll"},
    ),
    Case("regression", RegressionTask(), toy_regression, {"label": (1,)}, {"pearson", "spearman", "mse"}),
    Case(
        "intent-slot",
        IntentSlotTask(INTENTS, SLOTS),
        toy_intent_slot,
        {"intent": (3,), "slots": (7,)},
        {"intent_accuracy", "slot_f1", "exact_match", "nll"},
    ),
    Case(
        "multi-label",
        MultiLabelTask(LABELS),
        lambda n, **options: toy_multi_label(n, 3, **options),
        {"label": (3,)},
        {"micro_f1", "macro_f1", "exact_match", "nll"},
    ),
    Case(
        "token-classification",
        TokenClassificationTask(SLOTS),
        toy_tags,
        {"tokens": (7,)},
        {"span_f1", "accuracy", "nll"},
    ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_kind = pytest.mark.parametrize("kind", KINDS)


def run(case: Case, kind: str, tmp_path, examples: Examples):
    """The model, its rows and collator, and a function that gives outputs and batch of some of the rows."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(kind)
    model = case.task.load_model(str(tiny_model_folder(tmp_path, kind)))
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
    forward = run(case, kind, tmp_path, case.examples(6))
    together = forward(range(6))
    heads = case.task.signals(*together).heads
    predictions = case.task.decode(*together)
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
def test_every_head_is_named_and_detached(case: Case, tmp_path) -> None:
    examples = case.examples(4)
    tokenizer = tiny_tokenizer()
    model = case.task.load_model(str(tiny_model_folder(tmp_path)))
    batch = case.task.collator(tokenizer)(list(case.task.features(examples, tokenizer, max_length=32)))
    heads = case.task.signals(model(**batch), batch).heads
    assert {name: (head.logits.shape[-1],) for name, head in heads.items()} == case.heads
    for head in heads.values():
        assert not head.logits.requires_grad
        several = case.name == "multi-label"
        one_each = head.logits.shape if several else (4,)
        assert head.labels.shape == (head.logits.shape[:-1] if head.mask is not None else one_each)
        assert head.labels.min() >= 0
        assert head.labels.dtype == (torch.float32 if case.name == "regression" or several else torch.int64)


@every_case
def test_what_is_recognised_without_a_task_is_the_same(case: Case, tmp_path) -> None:
    outputs, batch = run(case, "bert", tmp_path, case.examples(5))(range(5))
    told, found = case.task.signals(outputs, batch).heads, signals_of(outputs, batch).heads
    assert told.keys() == found.keys()
    for name, head in told.items():
        assert torch.equal(head.logits, found[name].logits)
        assert torch.equal(head.labels, found[name].labels)


@every_case
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_features_are_unpadded_compact_and_carry_their_length(case: Case, kind: str) -> None:
    examples = case.examples(20)
    tokenizer = tiny_tokenizer(kind)
    features = case.task.features(examples, tokenizer, max_length=12)
    assert len(features) == 20
    assert features["length"][:] == [len(ids) for ids in features["input_ids"]]
    assert max(features["length"]) == 12
    assert set(case.task.label_columns) <= set(features.column_names)
    assert ("token_type_ids" in features.column_names) == (kind == "bert")
    assert features.features["input_ids"].feature.dtype == "int32"


@every_case
def test_unlabelled_examples_are_predicted_and_have_no_metrics(case: Case, tmp_path) -> None:
    examples = case.examples(5, labelled=False)
    forward = run(case, "bert", tmp_path, examples)
    outputs, batch = forward(range(5))
    predictions = case.task.decode(outputs, batch)
    assert not set(case.task.label_columns) & set(batch)
    assert len(predictions) == 5
    assert case.task.metrics(examples, predictions) is None
    with pytest.raises(ArgumentError, match="labels' is missing"):
        case.task.signals(outputs, batch)


@every_case
def test_metrics_have_the_documented_names(case: Case, tmp_path) -> None:
    examples = case.examples(8)
    predictions = case.task.decode(*run(case, "bert", tmp_path, examples)(range(8)))
    found = case.task.metrics(examples, predictions)
    assert set(found) == case.metrics
    assert case.task.main_metric in found
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())


@every_case
def test_groups_are_the_classes_of_the_rows(case: Case) -> None:
    examples = case.examples(9)
    groups = case.task.groups(case.task.features(examples, tiny_tokenizer(), max_length=32))
    if case.name in ("regression", "token-classification"):
        assert groups is None
    elif case.name == "multi-label":
        numbers = {labels: set(groups[[labels == found for found in examples.labels]]) for labels in examples.labels}
        assert all(len(found) == 1 for found in numbers.values())
        assert len({found.pop() for found in numbers.values()}) == len(set(examples.labels))
    else:
        assert groups.dtype == np.int64
        assert [case.task.label_names[number] for number in groups] == list(examples.labels)


@every_case
@pytest.mark.parametrize("multiple", [None, 8])
def test_batches_are_padded_to_the_longest_row_or_a_multiple(case: Case, multiple) -> None:
    tokenizer = tiny_tokenizer()
    rows = list(case.task.features(case.examples(6), tokenizer, max_length=32))
    batch = case.task.collator(tokenizer, pad_to_multiple_of=multiple)([{**row, "row": 3, "note": "x"} for row in rows])
    longest = max(row["length"] for row in rows)
    assert batch["input_ids"].shape == (6, longest if multiple is None else -(-longest // 8) * 8)
    assert batch["attention_mask"].sum(1).tolist() == [row["length"] for row in rows]
    assert not {"row", "note", "length"} & set(batch)


@every_case
def test_a_saved_model_tells_its_task_and_names(case: Case, tmp_path) -> None:
    case.task.load_model(str(tiny_model_folder(tmp_path))).save_pretrained(tmp_path / "saved")
    assert task_of_saved_model(tmp_path / "saved") == case.task
    assert task_of_saved_model(AutoConfig.from_pretrained(tmp_path / "saved")) == case.task


@every_case
def test_long_sets_are_tokenised_in_parts(case: Case, monkeypatch) -> None:
    examples = case.examples(7)
    whole = case.task.features(examples, tiny_tokenizer(), max_length=32)
    monkeypatch.setattr("datadiet.tasks.base.CHUNK", 3)
    assert case.task.features(examples, tiny_tokenizer(), max_length=32).to_dict() == whole.to_dict()


@every_case
def test_an_empty_split_is_refused(case: Case) -> None:
    with pytest.raises(DataError, match="the split is empty"):
        case.task.features(case.examples(2).take([]), tiny_tokenizer(), max_length=32)


@every_case
def test_the_trainer_takes_the_same_steps_with_and_without_accumulation(case: Case, tmp_path) -> None:
    source, tokenizer = str(tiny_model_folder(tmp_path)), tiny_tokenizer()
    features = case.task.features(case.examples(16), tokenizer, max_length=32)
    trained = []
    for accumulation in (1, 2):
        torch.manual_seed(0)
        model = case.task.load_model(source)
        args = TrainingArguments(
            str(tmp_path / "out"),
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
            optim="sgd",  # Adam would hide a gradient that is a constant too large
            max_grad_norm=0.0,
            num_train_epochs=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        loss = word_loss if case.name == "token-classification" else None  # a stock tagger's is a mean of means
        collate = case.task.collator(tokenizer)
        Trainer(model, args, train_dataset=features, data_collator=collate, compute_loss_func=loss).train()
        trained.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))  # (weights,)
    torch.testing.assert_close(*trained, atol=1e-7, rtol=1e-5)


def test_task_for_a_data_set() -> None:
    assert {case.task.name for case in CASES} == set(names("task")), "give a new task a row in CASES"
    for case in CASES:
        task = case.task
        assert task_for(Dataset("toy", task.name, {}, task.label_names, task.slot_names, "0")) == task
    with pytest.raises(ArgumentError, match="unknown task 'clasification'; did you mean 'classification'"):
        task_for(Dataset("toy", "clasification", {}, (), (), "0"))


def test_labels_the_model_does_not_have_are_left_out_of_the_loss() -> None:
    examples = Examples(ids=["a", "b"], texts=["the", "of"], labels=["amber", "unseen"])
    assert ClassificationTask(LABELS).features(examples, tiny_tokenizer(), max_length=8)["labels"][:] == [0, -100]


def test_only_the_joint_task_takes_model_options(tmp_path) -> None:
    source = str(tiny_model_folder(tmp_path))
    assert IntentSlotTask(INTENTS, SLOTS).load_model(source, alpha=0.7).config.alpha == 0.7
    for task in (ClassificationTask(LABELS), RegressionTask(), MultiLabelTask(LABELS), TokenClassificationTask(SLOTS)):
        with pytest.raises(
            ArgumentError, match=f"alpha: only the intent-slot task takes model options, not {task.name}"
        ):
            task.load_model(source, alpha=0.7)


def test_the_models_own_limit_bounds_max_length() -> None:
    examples = Examples(ids=["a"], texts=["the " * 200])
    assert ClassificationTask(LABELS).features(examples, tiny_tokenizer(), max_length=999)["length"][:] == [64]


def test_padding_follows_the_tokenizers_side() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    task = ClassificationTask(LABELS)
    rows = list(task.features(Examples(ids=["a", "b"], texts=["the", "the of and"]), tokenizer, max_length=16))
    assert task.collator(tokenizer)(rows)["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]


def test_a_tokenizer_without_padding_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ArgumentError, match="no padding token"):
        RegressionTask().collator(tokenizer)
