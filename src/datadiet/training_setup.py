"""From a config to everything one run trains with: data, task, model, and the Trainer's arguments. Writes nothing."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainingArguments, set_seed

from datadiet import run_folder as layout
from datadiet.beforehand import Beforehand, beforehand
from datadiet.checks import ArgumentError, MissingExtraError
from datadiet.config import FinetuneConfig
from datadiet.config_checks import JOINT, MULTI_LABEL, TAGGER, output_folder
from datadiet.data import Dataset
from datadiet.data.configured import load_configured
from datadiet.data.records import Examples
from datadiet.device import best_device, resolve_precision
from datadiet.diet import Diet
from datadiet.energy import EnergyMeter
from datadiet.feature_cache import Features
from datadiet.integrations.teacher import Teacher
from datadiet.ledger import Ledger
from datadiet.models import load_tokenizer
from datadiet.options import by_number
from datadiet.progress import Listener
from datadiet.records import Forecast
from datadiet.scoring import TRAINING_BATCHES_PER_PASS_BATCH, lengths_of, predict_all
from datadiet.tasks import Prediction, Task, task_for
from datadiet.tasks.losses import multi_label_loss, word_loss
from datadiet.teaching import ask_teacher, check_teacher
from datadiet.whole_set import Material

Loss = Callable[..., torch.Tensor]


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
    _check_steps(config, diet, len(data.splits["train"]))
    listener.phase("loading the model")
    task, tokenizer = task_for(data), load_tokenizer(config.model)
    diet.select_options = by_number(diet.select_options, task.label_names)
    if config.teacher is not None:
        check_teacher(Path(config.teacher).expanduser(), task)  # before anything is tokenised
    set_seed(config.seed)
    model = _adapted(task.load_model(config.model, **model_options(config, data)), config)
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
    teacher = _teacher(config, task, data, lengths, precision, ledger)
    material = Material(
        joined_texts(data.splits["train"]), train, task.collator(tokenizer), task.signals, combine=diet.combine,
        groups=task.groups(train), ids=data.splits["train"].ids, dev=dev, precision=precision,
        batch_tokens=pass_tokens(config, lengths), ledger=ledger, seed=config.seed,
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


def _teacher(
    config: FinetuneConfig, task: Task, data: Dataset, lengths: NDArray[np.int64], precision: str, ledger: Ledger
) -> Teacher | None:
    if config.teacher is None:
        return None
    return ask_teacher(
        Path(config.teacher).expanduser(),
        task,
        data.splits["train"],
        max_length=config.max_length,
        batch_tokens=pass_tokens(config, lengths),
        precision=precision,
        temperature=config.teacher_temperature,
        ledger=ledger,
    )


def _check_steps(config: FinetuneConfig, diet: Diet, rows: int) -> None:
    """Whether the plan is possible with so many training rows."""
    batch = examples_per_step(config)
    diet.schedule_for(rows, epochs=config.epochs, batch=batch)  # raises
    there = config.epochs * math.ceil(rows / batch)
    if config.max_steps is not None and config.max_steps > there:
        raise ArgumentError(
            f"max_steps {config.max_steps} is more than the {there} steps of {config.epochs} epochs: set more epochs."
        )


def examples_per_step(config: FinetuneConfig) -> int:
    """Examples of one optimizer step; the Trainer gives every GPU of a process a batch."""
    devices = torch.cuda.device_count() if best_device().type == "cuda" else 1
    return config.batch_size * config.gradient_accumulation * max(1, devices)


def cut_short(planned: Forecast, max_steps: int, batch: int) -> Forecast:
    """The plan of a run that stops after so many steps; the full training beside it stays as it is.

    Args:
        planned: Of the whole run, which trains on everything.
        max_steps: Not more than `planned.steps`.
        batch: Examples per step.
    """
    epochs, examples, left = [], 0, max_steps
    for epoch in planned.epochs:
        steps = min(left, epoch.steps)
        if steps:
            epochs.append(replace(epoch, steps=steps))
            examples += epoch.kept if steps == epoch.steps else steps * batch
        left -= steps
    share = examples / planned.full_examples
    return replace(
        planned,
        epochs=tuple(epochs),
        steps=max_steps,
        examples_backward=examples,
        examples_saved=1 - share,
        tokens_backward=None if planned.full_tokens is None else round(planned.full_tokens * share),
    )


def model_options(config: FinetuneConfig, data: Dataset) -> dict[str, Any]:
    """What a joint model is made with; empty for every other."""
    if config.task != JOINT:
        return {}
    weights = class_weights(data, repeats=config.dedupe_weights) if config.class_weights else None
    return {"alpha": config.alpha, "label_smoothing": config.label_smoothing, "class_weights": weights}


def class_weights(data: Dataset, *, repeats: bool = False) -> list[float]:
    """`n / (classes * n_c)` for each class, as scikit-learn's "balanced": rare classes weigh more, the mean is 1.

    For taggers the classes are the tags, counted in words. For multi-label data each label gets the examples without it
    over those with it, as PyTorch's `pos_weight`. With `repeats` a row counts as often as its text came.
    """
    train = data.splits["train"]
    times = train.times if repeats and train.times is not None else (1,) * len(train)
    counts: Counter[str] = Counter()
    if data.task == TAGGER:
        for tags, often in zip(train.slots or (), times, strict=False):
            counts.update({tag: often * number for tag, number in Counter(tags).items()})
        return [counts.total() / (len(data.slot_names) * counts[name]) for name in data.slot_names]
    if data.task == MULTI_LABEL:
        for labels, often in zip(train.labels or (), times, strict=False):
            counts.update(dict.fromkeys(labels if isinstance(labels, tuple) else (), often))
        return [max(1, sum(times) - counts[name]) / counts[name] for name in data.label_names]
    for label, often in zip(train.labels or (), times, strict=False):
        counts[str(label)] += often
    return [counts.total() / (len(data.label_names) * counts[name]) for name in data.label_names]


def own_loss(config: FinetuneConfig, data: Dataset) -> Loss | None:
    """The loss of taggers, of `class_weights`, and of smoothed multi-label data; None where the model's own is used.

    A joint model has weights and smoothing itself, and the Trainer smooths classes but not several labels.
    """
    balanced = config.class_weights and config.task != JOINT
    weights = torch.tensor(class_weights(data, repeats=config.dedupe_weights)) if balanced else None
    if config.task == TAGGER:
        return partial(word_loss, weights=weights, label_smoothing=config.label_smoothing)
    if config.task == MULTI_LABEL and (weights is not None or config.label_smoothing):
        return partial(multi_label_loss, weights=weights, label_smoothing=config.label_smoothing)
    return weighted_loss(config, data)


def weighted_loss(config: FinetuneConfig, data: Dataset) -> Loss | None:
    """The loss of `class_weights`; None where the model's own loss is used (a joint model has the weights itself).

    The weighted cross-entropies of a step's examples are summed and divided by their number, so that accumulated
    batches give the step of one large batch.
    """
    if not config.class_weights or config.task == JOINT:
        return None
    weights = torch.tensor(class_weights(data, repeats=config.dedupe_weights))

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        total = torch.nn.functional.cross_entropy(
            outputs["logits"].float(),
            labels,
            weight=weights.to(labels.device),
            label_smoothing=config.label_smoothing,
            reduction="sum",
        )
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss


def _adapted(model: Any, config: FinetuneConfig) -> Any:
    """The model with a LoRA adapter, where one is asked for; its heads are new and train in full."""
    if not config.lora:
        return model
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError("lora needs peft: pip install 'datadiet[peft]'") from error
    base = model.base_model_prefix or "encoder"  # a joint model has no base in transformers' sense
    heads = [name for name, part in model.named_children() if name != base and any(True for _ in part.parameters())]
    adapter = LoraConfig(
        r=config.lora, lora_alpha=2 * config.lora, target_modules="all-linear",
        exclude_modules=rf"({'|'.join(heads)})(\..*)?", modules_to_save=heads,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # which PEFT reads
        return get_peft_model(model, adapter)


def training_arguments(run: Run) -> TrainingArguments:
    """The Trainer's arguments for a config."""
    config, on_gpu, stopping = run.config, best_device().type != "cpu", run.config.early_stopping > 0
    smooth_themselves = config.task in (JOINT, TAGGER, MULTI_LABEL) or config.class_weights is not None
    return TrainingArguments(
        output_dir=str(run.folder / layout.CHECKPOINTS),
        run_name=run.folder.resolve().name,
        num_train_epochs=config.epochs,
        max_steps=-1 if config.max_steps is None else config.max_steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_schedule,
        warmup_steps=config.lr_warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        label_smoothing_factor=0.0 if smooth_themselves else config.label_smoothing,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        remove_unused_columns=False,
        bf16=run.precision == "bf16",
        fp16=run.precision == "fp16",
        activation_checkpointing=config.gradient_checkpointing,
        use_cpu=not on_gpu,
        torch_compile=config.torch_compile,
        eval_strategy="epoch",
        save_strategy="epoch" if stopping else "no",
        # two: a run that is killed while it saves the last one goes on from the one before
        save_total_limit=None if config.keep_checkpoints else 2,
        load_best_model_at_end=stopping,
        metric_for_best_model=run.task.main_metric if stopping else None,
        greater_is_better=True if stopping else None,
        restore_callback_states_from_checkpoint=stopping,  # how long it has been patient
        logging_strategy="epoch",
        report_to=config.report_to,
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        seed=config.seed,
        data_seed=config.seed,
    )
