"""The main job: a config in, a run folder out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from datadiet import run_folder as layout
from datadiet.config import FinetuneConfig, read_config
from datadiet.config_checks import check_config, history_options
from datadiet.data.hub import hub_name
from datadiet.device import best_device, environment
from datadiet.energy import metered
from datadiet.ledger import Ledger
from datadiet.model_card import model_card
from datadiet.models.sources import PACKAGED
from datadiet.noise_files import write_noise
from datadiet.progress import Listener, Silent
from datadiet.records import Json
from datadiet.run_trainer import RunTrainer, last_checkpoint
from datadiet.training_arguments import training_arguments
from datadiet.training_setup import Run, prepare

__all__ = ["RunTrainer", "check_config", "finetune", "resume_run"]


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
        return _run(prepare(config, diet, ledger, listener or Silent(), meter=meter), checkpoint=None)


def resume_run(folder: Path, *, listener: Listener | None = None, started: float | None = None) -> Json:
    """Go on with a run that was interrupted, from its last checkpoint, or from the start where it has none.

    Args:
        folder: A run folder with a config.yaml and no result.json.
        listener, started: See `finetune`.

    Raises:
        ArgumentError: If there is no run to resume there, or it is finished.
        DataError: If the data has changed since.
    """
    ledger = Ledger(started)
    layout.check_resumable(folder)
    config = replace(read_config(folder / layout.CONFIG), output=str(folder))
    diet = check_config(config, resume=True)
    checkpoint = last_checkpoint(folder)
    with metered(config.energy) as meter:
        run = prepare(config, diet, ledger, listener or Silent(), begun=checkpoint is not None, meter=meter)
        if checkpoint is None:
            layout.forget_progress(folder)
        else:
            layout.check_same_data(folder, run.data.fingerprint)
            meter.carry(checkpoint)
        return _run(run, checkpoint)


def _run(run: Run, checkpoint: Path | None) -> Json:
    run.listener.planned(run.forecast())
    arguments = training_arguments(run)  # raises before anything is written
    layout.begin(run.folder, run.config.to_yaml(), run.data.fingerprint)
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
    run.listener.phase("testing")
    with run.ledger.charge("eval"):
        splits = {split: examples for split, examples in run.data.splits.items() if split != "train"}
        features = {split: run.dev if split == "dev" else run.features.of(split) for split in splits}
        predicted = {split: (splits[split], run.predict(model, features[split])) for split in splits}
        metrics = {split: run.task.metrics(*found) for split, found in predicted.items()}
    run.listener.phase("saving")
    with run.ledger.charge("save"):
        model.save_pretrained(run.folder / layout.MODEL)
        run.tokenizer.save_pretrained(run.folder / layout.MODEL)
        layout.write_predictions(run.folder, predicted)
    if run.diet.watch is not None:
        train = run.data.splits["train"]
        write_noise(run.folder, run.diet.watch.guard, train.ids, train.labels or ())
    result = layout.plain(_result(run, trainer, {"dev": None, "test": None, **metrics}))
    if run.features.problem is not None:
        run.listener.note(run.features.problem)
    if run.config.energy and result["energy"] is None:
        run.listener.note("the energy of the run is not known: codecarbon could not measure all of it.")
    card = model_card(result, base_model=_hub_model(run.config.model), dataset=_hub_data(run.config.data))
    (run.folder / layout.MODEL / "README.md").write_text(card, encoding="utf-8")
    written = layout.write_result(run.folder, result)
    if not run.config.keep_checkpoints:
        layout.remove_checkpoints(run.folder)  # after the result: a run that is killed before it can still be resumed
    return written


def _result(run: Run, trainer: RunTrainer, metrics: Mapping[str, Any]) -> Json:
    config, data = run.config, run.data
    stopped = len(trainer.epoch_results) if config.early_stopping else config.epochs
    tokens = int(run.lengths.sum())
    return {
        "schema": layout.SCHEMA,
        "task": config.task,
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "rows": {split: len(examples) for split, examples in data.splits.items()},
        },
        "model": _model_name(config.model),
        "seed": config.seed,
        "diet": _diet(run),
        **layout.costs_of(run.ledger.snapshot(), trainer.epoch_results, stopped * len(run.train), stopped * tokens),
        "metrics": dict(metrics),
        "tolerance": run.diet.decider and run.diet.decider.summary(),
        "noise": run.diet.watch and run.diet.watch.guard.summary(run.data.splits["train"].labels),
        "weights_tested": "best" if config.early_stopping else "last",
        "teacher": run.teacher and {"model": _model_name(config.teacher or ""), "seconds": run.teacher.seconds},
        "energy": run.meter.reading(),
        "environment": {
            **environment(best_device(), run.precision),
            "from_cache": ", ".join(run.features.taken) or None,
        },
    }


def _model_name(model: str) -> str:
    """A hub name, or a folder's own name: results never hold paths."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model


def _hub_model(model: str) -> str | None:
    """The name that the hub knows a model by."""
    return None if model == PACKAGED or Path(model).expanduser().exists() else model


def _hub_data(data: str) -> str | None:
    """The name that the hub knows a data set by."""
    found = None if Path(data).expanduser().exists() else hub_name(data)
    return None if found is None else found[0]


def _diet(run: Run) -> Json:
    """Every option of the diet."""
    history = {f"history_{name}": value for name, value in history_options(run.config).items()}
    keep = run.config.keep if isinstance(run.diet.keep, dict) else run.diet.keep  # JSON has no epochs as keys
    return {**run.diet.describe(), "keep": keep, **history}
