"""One run of `datadiet finetune`: a config in, a run folder out; `resume_run` continues an interrupted one.

`RunTrainer` is the Trainer of a prepared run: it evaluates with the task's own metrics, reports to the listener, and
requests checkpoints.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments

from datadiet.config import AUTO, MOST_EPOCHS, FinetuneConfig, read_config
from datadiet.data.schema import Examples
from datadiet.data.sources import hub_name
from datadiet.diet.diet import Diet
from datadiet.diet.state import changes
from datadiet.diet.tolerance import convergence, stopped_rising
from datadiet.errors import ArgumentError, DataError, Problems
from datadiet.files import SCHEMA, plain
from datadiet.jobs.prepare import Run, prepare
from datadiet.jobs.validate import check_config, examples_per_step
from datadiet.ledger import Ledger
from datadiet.noise.guard import skill, skill_of
from datadiet.noise.monitor import write_noise
from datadiet.registry import has
from datadiet.store import run_folder as layout
from datadiet.store.run_folder import model_card
from datadiet.tasks.base import Prediction
from datadiet.tasks.loading import PACKAGED, check_finite
from datadiet.tasks.losses import own_loss
from datadiet.training.arguments import LearningRate, auto_learning_rate
from datadiet.training.machine import best_device, environment, metered
from datadiet.training.state import NUMBERS, OWN, last_checkpoint, load_diet
from datadiet.training.tokens import TokenPruner
from datadiet.training.trainer import DietTrainer
from datadiet.types import IGNORED, EpochResult, Json, Listener, Silent, StepReport


def training_arguments(run: Run) -> TrainingArguments:
    """The Trainer's arguments for a config."""
    config, on_gpu, stopping = run.config, best_device().type != "cpu", run.config.tests_best
    smooth_themselves = has(config.task, "heads") or has(config.task, "label_sets") or config.class_weights is not None
    return TrainingArguments(
        output_dir=str(run.folder / layout.CHECKPOINTS),
        run_name=run.folder.resolve().name,
        num_train_epochs=config.planned_epochs,
        max_steps=-1 if config.max_steps is None else config.max_steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=run.learning_rate.value,
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


CONFIG, FINGERPRINT = "config", "fingerprint"  # in a checkpoint
# What a resumed run may change. Of epochs and batches the diet's state says more; data are known by their fingerprint.
FREE = {"data", "output", "cache", "energy", "report_to", "checkpoint_every", "keep_checkpoints", "scores_from"}
FREE |= {"epochs", "max_steps", "batch_size", "gradient_accumulation", "gradient_checkpointing", "torch_compile"}
MOST_PRUNED = 20_000  # rows whose pruned tokens are kept for the page
REPORT_EVERY_S = 0.2  # a report reads the loss from the device, which stops it for a moment


class RunTrainer(DietTrainer):
    """A `DietTrainer` for a prepared run; it reads the model's outputs by the signals of the run's task.

    Full data, `short` and methods within batches have the length groups of a diet, which pad less than the Trainer's:
    what a diet saves beside them is then its own.
    """

    own_batches = True

    def __init__(self, run: Run, args: TrainingArguments) -> None:
        self.run = run
        self._dev_predictions: tuple[int, Sequence[Prediction]] = (-1, ())  # and the step they were made at
        super().__init__(
            model=run.model,
            args=args,
            train_dataset=run.train,
            eval_dataset=run.dev,
            data_collator=run.collate,
            compute_loss_func=own_loss(run.config, run.data),
            diet=run.diet,
            signals=run.task.signals,
            ids=run.data.splits["train"].ids,
            groups=run.task.groups(run.train),
            teacher=run.teacher,
            reference=run.reference,
            features=run.precomputed.features,
            values=run.precomputed.values,
            row_weights=row_weights_of(run),
            run_folder=run.folder,
            ledger=run.ledger,
        )
        config = plain(asdict(run.config))
        self.own_state = {CONFIG: config, FINGERPRINT: run.data.fingerprint}
        self.remove_callback(PrinterCallback)  # the listener reports instead
        if run.config.early_stopping:
            self.add_callback(EarlyStoppingCallback(early_stopping_patience=run.config.early_stopping))
        if run.config.epochs == AUTO:
            self.add_callback(_OpenEnd(self))
        self.add_callback(_Reports(self))  # last: an epoch's line is complete when it is reported

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Metrics of the dev split, as the Trainer names them."""
        with self.ledger.charge("eval"):
            run = self.run
            predictions = run.predict(self.model, run.dev)
            self._dev_predictions = self.state.global_step, predictions
            self.diet.recalls = class_recalls(run.data.splits["dev"].labels, predictions, run.task.label_names)
            self.diet.dev_skill = dev_skill(run.data.splits["dev"], predictions, run.task.label_names)
            values = run.task.metrics(run.data.splits["dev"], predictions) or {}
            metrics = {f"eval_{name}": value for name, value in values.items()}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def dev_predictions(self) -> Sequence[Prediction] | None:
        """Of the dev split, where the weights are still those that the last evaluation saw."""
        step, predictions = self._dev_predictions
        changed = bool(self.run.config.lora) or self.run.config.tests_best or step != self.state.global_step
        return None if changed else predictions

    def _dev_groups(self) -> NDArray[np.int64] | None:
        if self.context.dev is None or not has(self.run.config.task, "one_class"):
            return None
        return self.run.task.groups(self.context.dev)

    def note(self, text: str) -> None:
        """Tell the listener."""
        self.run.listener.note(text)

    @property
    def judged_metric(self) -> str:
        """The task's own main metric."""
        return self.run.task.main_metric

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        epoch, batches = super()._init_training_state(*args, **kwargs)
        # the state names the best checkpoint by its path, and a run folder may have moved since
        best = self.run.folder / layout.CHECKPOINTS / f"checkpoint-{self.state.best_global_step}"
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)
        if self._out_of_patience():
            return math.ceil(self.args.num_train_epochs), 0  # it had stopped before the kill: nothing is left to train
        return epoch, batches

    @property
    def stopped_rising(self) -> bool:
        """Whether a run whose epochs are `auto` is at its end."""
        metric = self.judged_metric
        curve = [float(line.dev[metric]) for line in judged_epochs(self.epoch_results, metric)]
        return stopped_rising(curve, metric=metric, rows=len(self.run.dev))

    def _out_of_patience(self) -> bool:
        if self.run.config.epochs == AUTO:
            return self.stopped_rising
        callbacks: Any = self.state.stateful_callbacks
        state = callbacks.get(EarlyStoppingCallback.__name__) if callbacks else None
        if not self.run.config.early_stopping or not state:
            return False
        attributes = (state[0] if isinstance(state, list) else state)["attributes"]
        return bool(attributes["early_stopping_patience_counter"] >= self.run.config.early_stopping)


def class_recalls(
    labels: Sequence[Any] | None, predictions: Sequence[Prediction], names: Sequence[str]
) -> dict[int, float] | None:
    """The recall of each class, by class number; 0.5 for a class without examples.

    Args:
        labels: Gold labels; None where there are none.
        predictions: One each.
        names: Class names by class number; empty for a regression.

    Returns:
        None where there is not one class per example.

    Examples:
        >>> predictions = [Prediction("a", 1.0, None), Prediction("b", 1.0, None)]
        >>> class_recalls(["a", "a"], predictions, ("a", "b"))
        {0: 0.5, 1: 0.5}
    """
    if not names or labels is None or any(isinstance(label, tuple) for label in labels):
        return None
    gold = list(map(str, labels))
    right = Counter(label for label, predicted in zip(gold, predictions, strict=True) if label == predicted.label)
    sizes = Counter(gold)
    return {number: right[name] / sizes[name] if sizes[name] else 0.5 for number, name in enumerate(names)}


def dev_skill(examples: Examples, predictions: Sequence[Prediction], names: Sequence[str]) -> dict[str, float]:
    """How much better than the class prior the model is, by what the noise guard judges.

    Args:
        examples: With gold labels.
        predictions: One each.
        names: Class names by class number.

    Returns:
        `label` where there is one class per example (see `skill_of`), `tags` where words have tags: of the words; by
        the prior all have the commonest tag.

    Examples:
        >>> examples = Examples(ids=("a", "b"), texts=("", ""), labels=("x", "y"))
        >>> dev_skill(examples, [Prediction("x", 0.9, np.array([0.9, 0.1]))] * 2, ("x", "y"))["label"] < 0
        True
    """
    found = {}
    probabilities = [predicted.probabilities for predicted in predictions if predicted.probabilities is not None]
    if len(names) > 1 and examples.labels and len(probabilities) == len(examples.labels):
        numbers = {name: number for number, name in enumerate(names)}
        labels = np.array([numbers.get(str(label), -1) for label in examples.labels], np.int64)
        if (labels >= 0).all():
            table = np.stack(probabilities)
            ranks = (table > table[np.arange(len(labels)), labels][:, None]).sum(1)
            found["label"] = skill_of(ranks, labels, len(names))
    if examples.slots:
        gold = [tag for tags in examples.slots for tag in tags]
        said = [tag for predicted in predictions for tag in predicted.slots or ()]
        if len(gold) == len(said) > 0:
            right = sum(tag == other for tag, other in zip(gold, said, strict=True))
            found["tags"] = skill(right, len(gold), max(Counter(gold).values()) / len(gold))
    return found


def row_weights_of(run: Run) -> NDArray[np.float32] | None:
    """The number of rows that each training row stands for, with `dedupe_weights`."""
    times = run.data.splits["train"].times
    return np.array(times, np.float32) if run.config.dedupe_weights and times is not None else None


class _OpenEnd(TrainerCallback):
    """Ends a run whose epochs are `auto`."""

    def __init__(self, trainer: RunTrainer) -> None:
        self._trainer = trainer

    def on_evaluate(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> Any:
        control.should_training_stop = control.should_training_stop or self._trainer.stopped_rising
        return control


def judged_epochs(epochs: Sequence[EpochResult], metric: str) -> list[EpochResult]:
    """The epochs after which a dev metric is known."""
    return [line for line in epochs if line.dev.get(metric) is not None]


class _Reports(TrainerCallback):
    """Reports the progress of training to the listener, and requests checkpoints."""

    def __init__(self, trainer: RunTrainer) -> None:
        self._trainer, self._run = trainer, trainer.run
        self._reported = -math.inf

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        now = time.perf_counter()
        if now - self._reported >= REPORT_EVERY_S or state.global_step == state.max_steps:
            self._reported = now
            self._run.listener.stepped(self._report(args, state))

    def _report(self, args: Any, state: Any) -> StepReport:
        epoch, ledger = self._trainer.current_epoch, self._run.ledger
        examples = epoch.examples + epoch.unsettled
        seconds, _ = epoch.seconds()
        steps_left = state.max_steps - state.global_step
        return StepReport(
            epoch=epoch.epoch,
            epochs=self._run.config.planned_epochs,
            step=state.global_step,
            steps=state.max_steps,
            kept=epoch.kept,
            dropped=epoch.dropped,
            loss=epoch.mean_loss(args.gradient_accumulation_steps),
            examples_per_s=examples / max(seconds, 1e-9),
            seconds_left=steps_left * ledger.seconds("train") / max(1, state.global_step),
            seconds_saved=self._trainer.seconds_saved(),
        )

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> Any:
        config = self._run.config
        self._check_loss(self._run.learning_rate.value)
        if config.checkpoint_every and not config.tests_best:
            # the checkpoint after the last step serves only those who keep checkpoints: the run is about to finish
            useful = config.keep_checkpoints or state.global_step < state.max_steps
            control.should_save = useful and (self._trainer.current_epoch.epoch + 1) % config.checkpoint_every == 0
        return control

    def _check_loss(self, rate: float) -> None:
        """NaN weights stay NaN, and no selector can use NaN scores."""
        line = self._trainer.epoch_results[-1]
        if line.train_loss is not None and math.isnan(line.train_loss):
            raise ArgumentError(
                f"training diverged: the loss is NaN in epoch {line.epoch} (counted from 0). "
                f"Lower the learning rate ({rate:g}), or use a longer lr_warmup or precision fp32."
            )
        check_finite(self._trainer.network)  # of the last step

    def on_save(self, args: Any, state: Any, *_args: Any, **_kwargs: Any) -> None:
        self._run.meter.save(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_evaluate(self, *_args: Any, **_kwargs: Any) -> None:
        if self._trainer.epoch_results:
            self._run.listener.epoch_ended(self._trainer.epoch_results[-1])


def finetune(config: FinetuneConfig, *, listener: Listener | None = None, started: float | None = None) -> Json:
    """Fine-tune a model on a data diet.

    Args:
        config: See `FinetuneConfig`.
        listener: Is told what happens.
        started: `time.perf_counter()` from where `total_s` counts; now by default.

    Returns:
        What `result.json` in the run folder holds.

    Raises:
        UserError: If the arguments or the data cannot be used; nothing has been written then.
    """
    ledger = Ledger(started)
    diet = check_config(config)
    with metered(config.energy) as meter:
        run = prepare(config, diet, ledger, listener or Silent(), meter=meter)
        arguments = training_arguments(run)  # raises before anything is written
        with layout.claimed(run.folder):
            layout.check_new(run.folder)  # another process may have been faster
            return _run(run, arguments, checkpoint=None)


def resume_run(folder: Path, *, listener: Listener | None = None, started: float | None = None) -> Json:
    """Go on with a run that was interrupted, from its last checkpoint, or from the start where it has none.

    A checkpoint that is half-written or damaged is not used: the run goes on from the one before, which ends in the
    same result.

    Args:
        folder: A run folder with a config.yaml and no result.json.
        listener, started: See `finetune`.

    Raises:
        ArgumentError: If there is no run to resume there, or it is finished, or an option on which it depends is
            another one now.
        DataError: If the data has changed since, or every checkpoint is damaged.
    """
    ledger, listener = Ledger(started), listener or Silent()
    layout.check_resumable(folder)
    with layout.claimed(folder):
        config, diet, checkpoint, own = _to_resume(folder, listener)
        with metered(config.energy) as meter:
            run = prepare(config, diet, ledger, listener, begun=checkpoint is not None, meter=meter)
            arguments = training_arguments(run)
            if checkpoint is None:
                layout.forget_progress(folder)
            elif own[FINGERPRINT] != run.data.fingerprint:
                raise DataError(
                    f"the data has changed since the run in {folder} began (fingerprint {own[FINGERPRINT]}, now "
                    f"{run.data.fingerprint}); start a new run in another folder."
                )
            else:
                meter.carry(checkpoint)
            return _run(run, arguments, checkpoint)


def _to_resume(folder: Path, listener: Listener) -> tuple[FinetuneConfig, Diet, Path | None, Json]:
    """The options of an interrupted run, its diet, the checkpoint to go on from and what that says of the run.

    Raises:
        UserError: If they do not go together; says so where the options are not those that the run began with.
    """
    layout.check_resumable(folder)  # also where another process has finished it meanwhile
    edited = layout.config_problem(folder)
    try:
        config = replace(read_config(folder / layout.CONFIG), output=str(folder))
        checkpoint, own = _last_checkpoint(folder, listener)
        if checkpoint is not None:
            _check_unchanged(own[CONFIG], config, listener)
        elif edited is not None:
            again = f"datadiet finetune --config {folder / layout.CONFIG} --output NEW"
            raise DataError(f"{edited}, and there is no checkpoint yet; look at it, and start it again: {again}")
        return config, check_config(config, resume=True), checkpoint, own
    except ArgumentError as error:
        raise type(error)(*(f"{edited or folder / layout.CONFIG}: {problem}" for problem in error.problems)) from error


def _last_checkpoint(folder: Path, listener: Listener) -> tuple[Path | None, Json]:
    """The last checkpoint of a run that can be used, and what it says of the run; None where it has none so far."""
    checkpoint, problems = last_checkpoint(folder / layout.CHECKPOINTS, folder)
    if checkpoint is not None:
        for problem in problems:
            listener.note(f"{problem}; going on from {checkpoint.name}.")
        own: Json = load_diet(checkpoint)[1][OWN]
        return checkpoint, own
    if any((folder / layout.CHECKPOINTS).glob(f"*/{NUMBERS}")):
        again = f"datadiet finetune --config {folder / layout.CONFIG} --output NEW"
        why = f"no checkpoint of {folder} can be used; start it again: {again}"
        raise DataError(*(f"{problem}." for problem in problems), why)
    return None, {}


def _check_unchanged(then: Json, config: FinetuneConfig, listener: Listener) -> None:
    """Refuse options on which the checkpoints depend and that are others now, with both values; name those others."""
    now = plain(asdict(config))
    fixed = {name: now[name] for name in now if name not in FREE}
    was = {**then, "model": _model_name(then["model"])}
    fixed["model"] = _model_name(config.model)
    step = "batch_size x gradient_accumulation"
    was[step], fixed[step] = then["batch_size"] * then["gradient_accumulation"], examples_per_step(config)
    if AUTO in (then["epochs"], config.epochs):
        fixed["epochs"] = config.epochs
    problems = Problems()
    problems.found = changes(was, fixed)
    problems.raise_any()
    for name in sorted(FREE - {"data", "output"}):
        if then[name] != now[name]:
            listener.note(f"{name} is {now[name]!r} from here on; it was {then[name]!r}.")


def _run(run: Run, arguments: TrainingArguments, checkpoint: Path | None) -> Json:
    run.listener.planned(run.forecast())
    layout.begin(run.folder, run.config.to_yaml())
    with _tensorboard_in(run.folder / "logs"):
        trainer = RunTrainer(run, arguments)
    run.listener.phase("training")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return _finish(run, trainer)


@contextmanager
def _tensorboard_in(folder: Path) -> Iterator[None]:
    """Where TensorBoard's callback, made inside, writes: by default it is in checkpoints/, which do not last."""
    name = "TENSORBOARD_LOGGING_DIR"
    chosen = os.environ.get(name)
    os.environ[name] = chosen or str(folder)
    try:
        yield
    finally:
        os.environ.pop(name) if chosen is None else os.environ.update({name: chosen})


def _finish(run: Run, trainer: RunTrainer) -> Json:
    """Test, save, and write the result last."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if run.config.lora:
        model = model.merge_and_unload()  # before the test: what is saved is what was tested
        check_finite(model)
    run.listener.phase("testing")
    with run.ledger.charge("eval"):
        splits = {split: examples for split, examples in run.data.splits.items() if split != "train"}
        dev = trainer.dev_predictions
        features = {split: run.dev if split == "dev" else run.features.of(split) for split in splits}
        predicted = {
            split: (examples, dev if split == "dev" and dev is not None else run.predict(model, features[split]))
            for split, examples in splits.items()
        }
        metrics = {split: run.task.metrics(*pair) for split, pair in predicted.items()}
    run.listener.phase("saving")
    with run.ledger.charge("save"):
        model.save_pretrained(run.folder / layout.MODEL)
        run.tokenizer.save_pretrained(run.folder / layout.MODEL)
        layout.write_predictions(run.folder, predicted)
        if trainer.tokens is not None:
            layout.write_pruned(run.folder, _pruned_rows(run, trainer.tokens))
    if run.diet.noise_monitor is not None:
        train = run.data.splits["train"]
        write_noise(run.folder, run.diet.noise_monitor, train.ids, train.labels or (), applied=run.diet.excludes)
    result = plain(_result(run, trainer, {"dev": None, "test": None, **metrics}))
    if run.features.problem is not None:
        run.listener.note(run.features.problem)
    if run.config.energy and result["energy"] is None:
        run.listener.note("the energy of the run is not known: codecarbon could not measure all of it.")
    card = model_card(result, base_model=_hub_model(run.config.model), dataset=_hub_data(run.config.data))
    (run.folder / layout.MODEL / layout.CARD).write_text(card, encoding="utf-8")
    written = layout.write_result(run.folder, {**result, "files": layout.seals_of(run.folder)})
    if not run.config.keep_checkpoints:
        layout.remove_checkpoints(run.folder)  # after the result: a run that is killed before it can still be resumed
    return written


def _pruned_rows(run: Run, tokens: TokenPruner) -> Iterator[tuple[int, list[str], list[bool]]]:
    """Rows of which the last choice left tokens out: parts of the text, kept and pruned in turn.

    At most `MOST_PRUNED`, evenly spaced: the page shows no more.
    """
    for row in range(0, len(run.train), -(-len(run.train) // MOST_PRUNED)):
        kept = tokens.last_choice(row)
        if kept is None or kept.all():
            continue
        item = run.train[row]
        out = np.zeros(len(item["input_ids"]), np.bool_)
        trains = np.asarray(item["labels"]) != IGNORED
        if trains.sum() != len(kept):
            continue
        out[trains] = ~kept
        parts = np.split(np.asarray(item["input_ids"]), 1 + np.flatnonzero(np.diff(out)))
        begins = np.flatnonzero(np.diff(out, prepend=~out[:1]))
        yield row, [str(run.tokenizer.decode(part)) for part in parts], out[begins].tolist()


def _result(run: Run, trainer: RunTrainer, metrics: Mapping[str, Any]) -> Json:
    config, data = run.config, run.data
    stopped = len(trainer.epoch_results) if config.tests_best else config.planned_epochs
    tokens = int(run.lengths.sum())
    return {
        "schema": SCHEMA,
        "task": config.task,
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "rows": {split: len(examples) for split, examples in data.splits.items()},
            **({"excluded": run.features.excluded} if run.features.excluded else {}),
        },
        "model": _model_name(config.model),
        "seed": config.seed,
        "diet": _diet(run),
        **layout.costs_of(run.ledger.snapshot(), trainer.epoch_results, stopped * len(run.train), stopped * tokens),
        "metrics": dict(metrics),
        "tolerance": run.diet.tolerance_controller and run.diet.tolerance_controller.summary(),
        "race": run.diet.race and run.diet.race.summary(),
        "tokens": trainer.tokens and trainer.tokens.summary(),
        "noise": run.diet.noise_summary(run.data.splits["train"].labels),
        "learning_rate": asdict(run.learning_rate),
        "convergence": _convergence(run, trainer),
        "weights_tested": "best" if config.tests_best else "last",
        "teacher": run.teacher and {"model": _model_name(config.teacher or ""), "seconds": run.teacher.seconds},
        "reference": run.reference and {"model": _model_name(config.reference or "")},
        "energy": run.meter.stop(),
        "environment": {
            **environment(best_device(), run.precision),
            "from_cache": ", ".join(run.features.taken) or None,
        },
    }


def _convergence(run: Run, trainer: RunTrainer) -> Json | None:
    """Whether the dev metric still rose at the end, and what to do then; None where it cannot be told."""
    config, rate = run.config, run.learning_rate
    metric, step = trainer.judged_metric, examples_per_step(config)
    lines = judged_epochs(trainer.epoch_results, metric)
    curve = [float(line.dev[metric]) for line in lines]
    kept = [min(line.kept, line.steps * step) for line in lines]  # max_steps may end inside an epoch
    # a run that found its own end is judged by its last epoch alone, as it was when it ended
    ended = config.epochs == AUTO and trainer.stopped_rising
    found = convergence(
        curve,
        metric=metric,
        kept=kept,
        rows=len(run.dev),
        shares=None if ended else rate_shares(trainer.state.log_history, rate.value),
        remedy=_remedy(config, rate),
    )
    return None if found is None else asdict(found)


def rate_shares(history: Sequence[Mapping[str, float]], peak: float) -> list[float]:
    """The mean learning rate of each epoch as a share of the peak, from the Trainer's log of each epoch's end.

    Examples:
        >>> rate_shares([{"learning_rate": 0.5}, {"eval_accuracy": 0.9}, {"learning_rate": 0.0}], 1.0)
        [0.75, 0.25]
    """
    ends = [peak, *(entry["learning_rate"] for entry in history if "learning_rate" in entry)]
    return [(before + after) / 2 / peak for before, after in pairwise(ends)]


def _remedy(config: FinetuneConfig, rate: LearningRate) -> str:
    """What to change so that the next run is finished."""
    higher = auto_learning_rate(rate.weights)
    more = f"more epochs than {MOST_EPOCHS}" if config.epochs == AUTO else "more epochs (--epochs auto finds how many)"
    if rate.value < higher:
        return f"Try a higher learning rate (--learning-rate auto would be {higher:g}), or {more}."
    return f"Try {more}, or a higher learning rate than {rate.value:g}."


def _model_name(model: str) -> str:
    """A hub name, or a folder's own name: results never hold paths."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model


def _hub_model(model: str) -> str | None:
    """The name that the hub knows a model by."""
    return None if model == PACKAGED or Path(model).expanduser().exists() else model


def _hub_data(data: str) -> str | None:
    """The name that the hub knows a data set by."""
    parts = None if Path(data).expanduser().exists() else hub_name(data)
    return None if parts is None else parts[0]


def _diet(run: Run) -> Json:
    """Every option of the diet."""
    keep = run.config.keep if isinstance(run.diet.options.keep, dict) else run.diet.options.keep
    return {**run.diet.describe(), "keep": keep}  # JSON has no epochs as keys
