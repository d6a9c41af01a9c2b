"""Streams: a choice within each batch trains as on rows, is counted and resumed; choices among all rows are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.registry import names
from datadiet.selectors.in_batch import BatchSignals
from datadiet.training.loop import DietCallback, epochs
from datadiet.training.stream import StreamRows
from datadiet.training.trainer import DietMixin, DietTrainer
from toys import scores_of, toy_features, toy_trainer, weights

N, BATCH = 48, 8
WITHIN = [name for name in names("in_batch") if name != "top_reducible"]


class Stream(IterableDataset[Any]):
    def __init__(self, rows: int = N) -> None:
        self.rows = [toy_features(rows)[row] for row in range(rows)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


class Counted(Stream):
    def __len__(self) -> int:
        return len(self.rows)


def of_datasets(rows: int = N) -> datasets.IterableDataset:
    return toy_features(rows).to_iterable_dataset()


def trained(
    folder: Path, data: Any, select: str = "selective_backprop", *, resume: str | None = None, **changes: Any
) -> Any:
    extra = {"train_dataset": data, **changes.pop("extra", {})}
    diet = Diet(select=select, keep=0.5, **changes.pop("diet", {}))
    settings = {"max_steps": 6, "per_device_train_batch_size": BATCH, **changes}
    trainer = toy_trainer(folder, diet, extra=extra, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize(
    "make",
    [Stream, pytest.param(of_datasets, marks=pytest.mark.soak), Counted],
    ids=["torch", "datasets", "with a length"],
)
@pytest.mark.parametrize("select", WITHIN)
def test_a_part_of_every_batch_of_a_stream_trains(tmp_path, select, make):
    settings = {"max_steps": -1, "num_train_epochs": 2} if make is Counted else {"max_steps": 12}
    trainer = trained(tmp_path, make(), select, **settings)
    cost, (first, second) = trainer.ledger.snapshot(), trainer.epoch_results
    assert trainer.state.global_step == 12
    assert (first.kept + first.dropped, second.kept + second.dropped) == (N, N)
    assert cost.examples_backward == first.kept + second.kept
    if select == "ir_dro":  # weighs the rows, and trains on all
        assert (cost.examples_backward, cost.examples_forward) == (2 * N, 2 * N)
    else:
        assert second.kept < N
        assert (first.kept == N) == (make is Counted)  # which has an epoch to warm up in
        assert cost.examples_forward == cost.examples_backward + (1 if make is Counted else 2) * N
    history = scores_of(tmp_path)
    assert len(history) == cost.examples_backward
    assert history["row"].is_unique
    assert history["row"].between(0, 2 * N - 1).all()
    assert np.isfinite(history["el2n"]).all()
    assert not (tmp_path / "plans").exists()


def test_on_a_stream_the_rows_and_weights_are_those_of_the_same_rows_in_order(tmp_path):
    """The data set in sequence, without a warm-up, is the same run."""
    rows = toy_trainer(
        tmp_path / "rows",
        Diet(select="divbs", keep=0.5, warmup_epochs=0),
        n=N,
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        train_sampling_strategy="sequential",
    )
    rows.train()
    stream = trained(tmp_path / "stream", Stream(), "divbs")
    assert scores_of(tmp_path / "stream")["row"].tolist() == scores_of(tmp_path / "rows")["row"].tolist()
    assert torch.equal(weights(stream.model), weights(rows.model))


def test_keep_one_on_a_stream_is_the_plain_trainer(tmp_path):
    def run(kind: type, **extra: Any) -> Any:
        shared = {"train_dataset": Stream(), **extra}
        trainer = toy_trainer(tmp_path, kind=kind, extra=shared, max_steps=6, per_device_train_batch_size=BATCH)
        trainer.train()
        return trainer

    plain, diet = run(Trainer), run(DietTrainer, diet=Diet(keep=1.0))
    assert torch.equal(weights(plain.model), weights(diet.model))
    assert len(scores_of(tmp_path)) == N


@pytest.mark.cpu
@pytest.mark.parametrize("make", [Stream, of_datasets])
def test_a_stream_goes_on_to_the_bit_where_a_checkpoint_ended(tmp_path, make):
    whole = trained(tmp_path / "whole", make(), save_strategy="steps", save_steps=3)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    again = trained(tmp_path / "whole", make(), resume=str(checkpoint), save_strategy="steps", save_steps=3)
    assert torch.equal(weights(whole.model), weights(again.model))
    history = scores_of(tmp_path / "whole")
    assert history["row"].is_unique
    assert len(history) == again.ledger.snapshot().examples_backward == whole.ledger.snapshot().examples_backward
    assert [line.kept for line in again.epoch_results] == [line.kept for line in whole.epoch_results]


def test_a_stream_is_recorded_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("datadiet.training.stream._ROWS_PER_PART", 2 * BATCH)
    diet = trained(tmp_path, Stream()).diet
    assert len(diet.history.table) == 3
    assert sum(array.nbytes for array in diet.state_dict()[0].values()) < 100  # nothing of a row


def test_accumulated_batches_of_a_stream_have_rows_of_their_own(tmp_path):
    trained(tmp_path, Stream(), "divbs", max_steps=2, gradient_accumulation_steps=3)
    assert scores_of(tmp_path)["row"].nunique() == N // 2


@pytest.mark.parametrize("process", [0, 1])
def test_processes_number_their_own_rows(process):
    rows = StreamRows(2, processes=2, process=process)
    read = [batch["datadiet_row"].tolist() for batch in rows.numbered([{"x": torch.zeros(2)}] * 2)]
    assert read == ([[0, 1], [4, 5]] if process == 0 else [[2, 3], [6, 7]])


WAY_OUT = (
    r"'{}' chooses among all rows between epochs, and a stream gives each row once: choose within each batch "
    r"\(select=.*selective_backprop.*\), or choose before the training with `datadiet score` and "
    r"`datadiet select` over its files\."
)


@pytest.mark.parametrize("make", [Stream, of_datasets, Counted])
@pytest.mark.parametrize("select", ["auto", "hardest", "random"])
def test_a_choice_among_all_rows_is_refused_with_the_way_out(tmp_path, select, make):
    with pytest.raises(ArgumentError, match=WAY_OUT.format(select)):
        trained(tmp_path, make(), select)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": {"row_weights": np.ones(N, np.float32)}}, "row_weights need a row each of the training data"),
        ({"select": "top_reducible", "extra": {"values": np.zeros(N, np.float32)}}, "values need a row each"),
        (
            {"select": "mid_rank(ema=0.2)"},
            "ema must be 0 on a stream, got 0.2: it compares a loss with those that the row",
        ),
        ({"diet": {"warmup_epochs": 2}}, "warmup_epochs has no effect on a stream without a length.*got 2"),
    ],
)
def test_what_needs_rows_is_refused_on_a_stream(tmp_path, options, message):
    with pytest.raises(ArgumentError, match=message):
        trained(tmp_path, Stream(), **options)


def test_a_stream_without_a_length_needs_max_steps(tmp_path):
    """Transformers says so itself."""
    with pytest.raises(ValueError, match="max_steps"):
        trained(tmp_path, Stream(), max_steps=-1)


@pytest.mark.parametrize(
    ("diet", "message"),
    [
        (Diet(keep=0.5, select="hardest"), WAY_OUT.format("hardest")),
        (Diet(keep=0.5, select="selective_backprop"), "DietCallback cannot choose within batches.*use DietMixin"),
        (Diet(keep=1.0), "DietCallback reads the rows of data with a length: use DietMixin for a stream"),
    ],
)
def test_a_callback_on_a_stream_says_what_to_use(tmp_path, diet, message):
    extra = {"train_dataset": Stream(), "callbacks": [DietCallback(diet)]}
    trainer = toy_trainer(tmp_path, kind=Trainer, extra=extra, max_steps=2, lr_scheduler_type="constant")
    with pytest.raises(ArgumentError, match=message):
        trainer.train()


def test_a_plain_loop_over_a_stream_is_refused_and_calls_the_selector_itself():
    loop = epochs(Diet(keep=0.5, select="hardest"), 2, num_examples=N, batch_size=BATCH)
    with pytest.raises(ArgumentError, match=WAY_OUT.format("hardest")):
        next(iter(next(loop).loader(Stream(), batch_size=BATCH)))
    selector, kept = Diet(keep=0.5, select="selective_backprop").options.batch_method(), 0
    assert selector is not None
    for step, batch in enumerate(DataLoader(Stream(), BATCH, collate_fn=list)):
        losses = torch.tensor([float(len(row["input_ids"])) for row in batch])
        signals = BatchSignals(losses.numpy())
        mask = selector.choose(signals, seed=0, step=step)
        selector.learn(signals)
        kept += int(mask.sum())
    assert 0 < kept < N


def test_a_subclass_of_a_trainer_with_the_mixin_reads_a_stream(tmp_path):
    class Focal(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs)
            loss = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"], label_smoothing=0.1)
            return (loss, outputs) if return_outputs else loss

    class DietFocal(DietMixin, Focal):
        pass

    diet = Diet(select="mid_rank", keep=0.5)
    extra = {"train_dataset": of_datasets(), "diet": diet}
    trainer = toy_trainer(tmp_path, kind=DietFocal, extra=extra, max_steps=6, per_device_train_batch_size=BATCH)
    trainer.train()
    assert trainer.ledger.snapshot().examples_backward < N
    assert trainer.epoch_results[0].kept < N
