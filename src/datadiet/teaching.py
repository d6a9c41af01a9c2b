"""The teacher of a run: a model that is trained already, asked once about the training rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datadiet import run_folder as layout
from datadiet.checks import Problems, UserError
from datadiet.data.records import Examples
from datadiet.device import best_device
from datadiet.integrations.teacher import Teacher, teacher_of
from datadiet.ledger import Ledger
from datadiet.models import load_saved, load_tokenizer
from datadiet.tasks import Task, task_of_saved_model


def check_teacher(folder: Path, task: Task) -> None:
    """Refuse a teacher of other classes, before anything is loaded.

    Args:
        folder: A saved model, or a run folder.
        task: Of the student.

    Raises:
        ArgumentError: If the model is of another task, or names other labels.
    """
    problems = Problems()
    problems.found = class_problems(folder, task, "the teacher")
    problems.raise_any()


def class_problems(folder: Path, task: Task, what: str) -> list[str]:
    """Why a saved model does not answer in the classes of a task; nothing where it does.

    Args:
        folder: A saved model, or a run folder.
        task: With the labels of the data.
        what: What the model is to the user, such as `the teacher`.

    Raises:
        DataError: If the folder holds no model.
    """
    taught = task_of_saved_model(layout.saved_model(folder))
    if taught.name != task.name:
        return [f"{what} in {folder} is for {taught.name}, this data is {task.name}."]
    found = []
    for kind, ours, theirs in (
        ("labels", task.label_names, taught.label_names),
        ("slots", task.slot_names, taught.slot_names),
    ):
        if tuple(ours) != tuple(theirs):
            strange = sorted(set(ours) ^ set(theirs))
            named = f", e.g. {strange[0]!r} is in one of them only" if strange else " in another order"
            found.append(f"{what} in {folder} has other {kind} than this data{named}.")
    return found


def cost_of(folder: Path) -> float | None:
    """Seconds that training the teacher took, `finetune_s` of its run; None where its run is not known."""
    run = folder if (folder / layout.RESULT).is_file() else folder.parent
    try:
        result = layout.read_result(run)
    except UserError:
        return None
    return float(result["cost"]["finetune_s"])


def ask_teacher(
    folder: Path,
    task: Task,
    train: Examples,
    *,
    max_length: int,
    batch_tokens: int,
    precision: str,
    temperature: float,
    ledger: Ledger,
) -> Teacher:
    """Load the teacher and take its logits of the training rows, in text as its own tokenizer reads it.

    Args:
        folder: A saved model, or a run folder.
        task: Of the student.
        train: The training rows.
        max_length: Tokens per example.
        batch_tokens, precision: Of the pass.
        temperature: See `Teacher`.
        ledger: Takes the time as scoring.

    Raises:
        UserError: If there is no such model, or it has other classes.
    """
    check_teacher(folder, task)
    with ledger.charge("score"):
        source = layout.saved_model(folder)
        model: Any = load_saved(source)
        tokenizer = load_tokenizer(str(source))
        features = task.features(train, tokenizer, max_length=max_length)
        return teacher_of(
            model.to(best_device()),
            features,
            task.collator(tokenizer),
            task.signals,
            temperature=temperature,
            seconds=cost_of(folder),
            ledger=ledger,
            batch_tokens=batch_tokens,
            precision=precision,
        )
