"""Before a run: what a data set holds, what a run would do, and how long it would take; no run folder is written.

`look` is behind `datadiet init`, `dry_run` behind `datadiet finetune --dry-run`.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import yaml

from datadiet.config import DATA_HELP, DEFAULTS, MOST_EPOCHS, OPTIONS, FinetuneConfig, usual_length
from datadiet.data.duplicates import text_keys
from datadiet.data.load import load_data, overlap
from datadiet.data.schema import Dataset, Examples, joined_texts
from datadiet.errors import DataError, UserError
from datadiet.jobs.prepare import Run, prepare
from datadiet.jobs.validate import check_config, examples_per_step
from datadiet.ledger import Ledger
from datadiet.registry import has, names
from datadiet.types import Forecast, Json, Listener, Silent

MOST_CLASSES = 10  # named: the others are counted
TIMED_ROWS, TIMED_STEPS = 512, 6
DIET_KEEP = 0.5
LEAST_STEPS = 500  # of a training on everything: small data need more epochs


def dry_run(config: FinetuneConfig, *, listener: Listener | None = None) -> Forecast:
    """Everything that `finetune` does before its first step: all checks, and the plan; nothing is written.

    Args:
        config: Of the run.
        listener: Receives the phases, the notes and the plan.

    Raises:
        UserError: As `finetune`.
    """
    diet = check_config(config)
    listener = listener or Silent()
    planned = prepare(replace(config, cache=None), diet, Ledger(), listener).forecast()
    listener.planned(planned)
    return planned


def look(source: str, task: str | None = None, *, model: str = "", listener: Listener | None = None) -> Json:
    """What a data set holds: its task, classes, lengths, repeats and overlaps, and the time of a training.

    Args:
        source: As `load_data` takes it.
        task: Of the data; found by reading it as each task in turn by default.
        model: Whose training is timed, for a few steps; empty for no estimate.
        listener: Receives the phases, the notes and the plan.

    Returns:
        `task`, `also` (tasks that the data would also do for), `data` (name, rows by split), `classes`, `lengths`
        (words: median, 95 %, longest), `repeated` (training rows whose text came before), `overlap` (training rows
        whose text is in another split), `epochs` (for `LEAST_STEPS`, from 5 to 20), `notes`, and `seconds` (of so many
        epochs on everything and on a diet of half), or null.

    Raises:
        DataError: If it cannot be read as any task, with the reason of each; or as the given one.
    """
    listener = listener or Silent()
    listener.phase("reading the data")
    data, also = _read(source, task)
    train = data.splits["train"]
    words = np.array([len(text.split()) for text in joined_texts(train)])
    keys = Counter(text_keys(train.texts, train.text_pairs))
    seconds = None
    if has(data.task, "answers") and model == DEFAULTS["model"]:
        model = ""
        listener.note("no language model is packaged: name one as the model, by its folder or its hub name.")
    if model:
        listener.phase("timing a few steps")
        seconds = _seconds(source, data, model)
    return {
        "task": data.task,
        "also": also,
        "data": {"name": data.name, "rows": {split: len(examples) for split, examples in data.splits.items()}},
        "classes": _classes(train),
        "lengths": dict(zip(("median", "95 %", "longest"), map(int, np.quantile(words, (0.5, 0.95, 1))), strict=True)),
        "repeated": len(train) - len(keys),
        "epochs": _epochs(len(train)),
        "overlap": len(overlap(data.splits)[0]),
        "notes": list(data.notes),
        "seconds": seconds,
    }


def _epochs(rows: int) -> int:
    """The epochs to propose for so many training rows.

    Examples:
        >>> [_epochs(rows) for rows in (100, 1000, 10_000)]
        [20, 16, 5]
    """
    return min(MOST_EPOCHS, max(int(DEFAULTS["epochs"]), -(-LEAST_STEPS * int(DEFAULTS["batch_size"]) // rows)))


def _read(source: str, task: str | None) -> tuple[Dataset, list[str]]:
    """The data as its task, and the other tasks that they can be read as."""
    if task is not None:
        return load_data(source, task), []
    tasks = sorted(names("task"), key=lambda name: has(name, "answers"))  # any text can be continued: asked last
    read: dict[str, Dataset] = {}
    reasons: dict[str, str] = {}
    for name in tasks:
        try:
            read[name] = load_data(source, name)
        except UserError as error:
            reasons[name] = error.problems[0]
    if not read:
        same = len(set(reasons.values())) == 1
        raise DataError(*set(reasons.values()) if same else [f"as {name}: {why}" for name, why in reasons.items()])
    fitting = [name for name in tasks if name in read and _is_meant(name, read[name])] or list(read)
    return read[fitting[0]], [name for name in read if name != fitting[0]]


def _is_meant(task: str, data: Dataset) -> bool:
    """Whether data that can be read as a task look as if they were made for it."""
    labels = data.splits["train"].labels
    if has(task, "label_sets"):
        return any(len(each) != 1 for each in labels or ())  # type: ignore[arg-type]  # names of each example
    if has(task, "numbers"):
        return any(float(value) != int(float(value)) for value in labels or ())  # type: ignore[arg-type]
    if has(task, "answers"):
        return any(turn[-1][0] != "text" for turn in data.splits["train"].turns or ())
    if task == "classification":
        return 2 * len(data.label_names) <= len(data.splits["train"])
    return True


def _classes(train: Examples) -> Json | None:
    """How many classes and the most frequent ones; None where there are none."""
    if train.labels is not None and train.labels and isinstance(train.labels[0], float):
        return None
    if train.turns is not None:
        return None
    each: Any = train.labels if train.labels is not None else train.slots or ()
    flat = chain.from_iterable((one,) if isinstance(one, str) else one for one in each)
    counts = Counter(flat)
    return {"count": len(counts), "least": min(counts.values()), "most": dict(counts.most_common(MOST_CLASSES))}


def _seconds(source: str, data: Dataset, model: str) -> Json:
    """Seconds of fine-tuning on everything and on a diet, from a few steps on some of the rows."""
    rows = len(data.splits["train"])
    config = FinetuneConfig(
        data=source,
        task=data.task,
        output="unwritten",
        model=model,
        train_rows=min(rows, TIMED_ROWS),
        keep=DIET_KEEP,
        epochs=_epochs(rows),
    )
    run = prepare(config, check_config(config, resume=True), Ledger(), Silent())
    each = _step_seconds(run)
    batch = examples_per_step(config)
    planned = run.diet.forecast(rows, epochs=config.planned_epochs, batch=batch, dev_rows=run.judges)
    steps = {"full": planned.full_steps, "diet": planned.steps + planned.race_steps}
    return {"epochs": config.planned_epochs, "keep": DIET_KEEP, **{name: each * count for name, count in steps.items()}}


def _step_seconds(run: Run) -> float:
    """The median seconds of an optimizer step on random batches, the first two left out."""
    import torch

    from datadiet.training.machine import best_device

    model, device, size = run.model.to(best_device()), best_device(), run.config.batch_size
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    order = np.random.default_rng(0).permutation(len(run.train))
    taken = []
    for step in range(TIMED_STEPS):
        begun = time.perf_counter()
        rows = [run.train[int(row)] for row in np.take(order, range(step * size, (step + 1) * size), mode="wrap")]
        batch = {name: value.to(device) for name, value in run.collate(rows).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[2:])


# for `datadiet finetune` and `datadiet compare` alike; the run folder and the seeds are named by either
_WRITTEN = ("data", "task", "model", "epochs", "batch_size", "learning_rate", "max_length", "keep")


def config_text(source: str, found: Json, *, model: str = "") -> str:
    """A file for `datadiet finetune --config` and `datadiet compare --config`: the usual options with their help.

    Args:
        source: The data.
        found: From `look`.
        model: Its name; the packaged one by default.
    """
    values = {name: DEFAULTS.get(name) for name in _WRITTEN}
    values |= {"data": source, "task": found["task"], "model": model or DEFAULTS["model"]}
    if has(found["task"], "answers") and values["model"] == DEFAULTS["model"]:
        values["model"] = ""  # none is packaged
    values |= {"epochs": found["epochs"], "max_length": usual_length(found["task"])}
    lines = [
        "# datadiet finetune --config FILE --output runs/first",
        "# datadiet compare --config FILE --output runs/compare",
    ]
    for name, value in values.items():
        text = DATA_HELP if name == "data" else OPTIONS[name].help
        lines += [f"# {text}", yaml.safe_dump({name: value}, allow_unicode=True, width=1000).strip()]
    return "\n".join(lines) + "\n"
