"""From a config to everything one run trains with: data, task, model and what is known beforehand. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import set_seed

from datadiet.beforehand import Beforehand, beforehand
from datadiet.checks import ArgumentError
from datadiet.config import FinetuneConfig
from datadiet.config_checks import JOINT, output_folder
from datadiet.data import Dataset
from datadiet.data.configured import load_configured
from datadiet.data.records import Examples
from datadiet.data_checks import check_with_data, examples_per_step
from datadiet.device import best_device, resolve_precision
from datadiet.diet import Diet
from datadiet.diet.select_options import by_number
from datadiet.energy import EnergyMeter
from datadiet.feature_cache import Features
from datadiet.forecasting import cut_short
from datadiet.integrations.teacher import Teacher
from datadiet.ledger import Ledger
from datadiet.models import load_tokenizer
from datadiet.models.lora import with_lora
from datadiet.progress import Listener
from datadiet.records import Forecast
from datadiet.scoring import TRAINING_BATCHES_PER_PASS_BATCH, lengths_of, predict_all
from datadiet.tasks import Prediction, Task, task_for
from datadiet.teaching import ask_teacher, check_teacher
from datadiet.training_loss import class_weights
from datadiet.whole_set import Material


@dataclass(frozen=True)
class Run:
    """Everything a run needs before its first step; nothing of it has been written yet.

    Attributes:
        folder: The run folder.
        features: Of every split; those of test are made after the training.
        train, dev: Features of the two splits that training may see.
        lengths: int64, tokens of each training row.
        precision: Resolved: `fp32`, `bf16` or `fp16`.
        meter: Of the energy.
        teacher: What another model says of the training rows.
        known: What was computed of the training rows before the first step.
    """

    config: FinetuneConfig
    folder: Path
    listener: Listener
    ledger: Ledger
    diet: Diet
    data: Dataset
    task: Task
    tokenizer: Any
    model: Any
    features: Features
    train: Any
    dev: Any
    lengths: NDArray[np.int64]
    precision: str
    meter: EnergyMeter
    teacher: Teacher | None = None
    known: Beforehand = field(default_factory=Beforehand)

    @property
    def collate(self) -> Any:
        """Feature rows to one batch."""
        return self.task.collator(self.tokenizer)

    def predict(self, model: Any, features: Any) -> list[Prediction]:
        """One prediction per row, in row order."""
        tokens = pass_tokens(self.config, self.lengths)
        return predict_all(
            model, features, self.collate, self.task.decode, batch_tokens=tokens, precision=self.precision
        )

    def forecast(self) -> Forecast:
        """What the run will do; of a run with `max_steps`, up to there."""
        config = self.config
        batch = examples_per_step(config)
        planned = self.diet.forecast(len(self.train), epochs=config.epochs, batch=batch, lengths=self.lengths)
        return planned if config.max_steps is None else cut_short(planned, config.max_steps, batch)


def prepare(
    config: FinetuneConfig,
    diet: Diet,
    ledger: Ledger,
    listener: Listener,
    *,
    begun: bool = False,
    meter: EnergyMeter | None = None,
) -> Run:
    """Read the data, load the model, tokenise, and check what only now can be checked.

    Args:
        config: Checked.
        diet: Of the config.
        ledger: Whose account for loading is running.
        listener: Is told what happens.
        begun: Whether the run has a checkpoint, which holds the scores it began from.
        meter: Counts the energy; by default none is counted.

    Raises:
        UserError: If the data cannot be used, or not with these options.
    """
    listener.phase("reading the data")
    data = load_configured(config)
    for note in data.notes:
        listener.note(note)
    check_with_data(config, diet, data)
    listener.phase("loading the model")
    task, tokenizer = task_for(data), load_tokenizer(config.model)
    diet.select_options = by_number(diet.select_options, task.label_names)
    if config.teacher is not None:
        check_teacher(Path(config.teacher).expanduser(), task)  # before anything is tokenised
    set_seed(config.seed)
    model: Any = task.load_model(config.model, **model_options(config, data))
    model = with_lora(model, config.lora) if config.lora else model
    if config.gradient_checkpointing and not getattr(model, "supports_gradient_checkpointing", False):
        raise ArgumentError(f"{config.model} does not support gradient_checkpointing: leave it out.")
    listener.phase("tokenising")
    cache = None if config.cache is None else Path(config.cache).expanduser()
    features = Features(data, task, tokenizer, config.max_length, ledger, cache)
    train, dev = features.of("train"), features.of("dev")
    if _starts_from_run(config, diet) and not begun:  # begins anew when training does; raises here what it would there
        ids, groups = data.splits["train"].ids, task.groups(train)
        diet.begin(len(train), epochs=config.epochs, ids=ids, groups=groups, write=False)
    lengths = lengths_of(train)
    assert lengths is not None  # every task gives a length
    precision = resolve_precision(config.precision, best_device())
    if config.teacher is not None:
        listener.phase("asking the teacher")
    teacher = _teacher(config, features, lengths, precision)
    material = Material(
        joined_texts(data.splits["train"]), train, task.collator(tokenizer), task.signals, combine=diet.combine,
        groups=task.groups(train), ids=data.splits["train"].ids, dev=dev, precision=precision,
        batch_tokens=pass_tokens(config, lengths), ledger=ledger, seed=config.seed,
        options={diet.measure.name: diet.score_options},
    )  # fmt: skip
    if diet.covers or diet.measure.kind == "given":
        listener.phase("looking at all the examples")
        material = replace(material, encoder=model.to(best_device()))
    known = beforehand(diet, material, data.splits["train"], data.fingerprint)
    return Run(
        config, output_folder(config), listener, ledger, diet, data, task, tokenizer, model, features, train,
        dev, lengths, precision, meter or EnergyMeter(), teacher, known,
    )  # fmt: skip


def _starts_from_run(config: FinetuneConfig, diet: Diet) -> bool:
    """Whether the diet itself takes up the last values of a run; a score file is read beforehand."""
    of_run = config.scores_from is not None and not Path(config.scores_from).expanduser().is_file()
    return of_run and diet.measure.kind != "given" and not diet.in_batch


def joined_texts(examples: Examples) -> list[str]:
    """The texts, a pair as one."""
    pairs = examples.text_pairs
    if pairs is None:
        return list(examples.texts)
    return [f"{one} {two}" for one, two in zip(examples.texts, pairs, strict=True)]


def pass_tokens(config: FinetuneConfig, lengths: NDArray[np.int64]) -> int:
    """The most padded tokens of a batch of a pass."""
    return config.batch_size * max(1, int(lengths.mean())) * TRAINING_BATCHES_PER_PASS_BATCH


def _teacher(config: FinetuneConfig, features: Features, lengths: NDArray[np.int64], precision: str) -> Teacher | None:
    if config.teacher is None:
        return None
    return ask_teacher(
        Path(config.teacher).expanduser(),
        features,
        batch_tokens=pass_tokens(config, lengths),
        precision=precision,
        temperature=config.teacher_temperature,
    )


def model_options(config: FinetuneConfig, data: Dataset) -> dict[str, Any]:
    """What a joint model is made with; empty for every other."""
    if config.task != JOINT:
        return {}
    weights = class_weights(data, repeats=config.dedupe_weights) if config.class_weights else None
    return {"alpha": config.alpha, "label_smoothing": config.label_smoothing, "class_weights": weights}
