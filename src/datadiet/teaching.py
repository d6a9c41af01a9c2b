"""The teacher of a run: a model that is trained already, asked once about the training rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from datadiet import run_folder as layout
from datadiet.checks import Problems, UserError
from datadiet.device import best_device
from datadiet.feature_cache import Features
from datadiet.integrations.teacher import HeadLogits, Teacher, teacher_of
from datadiet.models import load_saved, load_tokenizer
from datadiet.records import Json
from datadiet.tasks import Task, task_of_saved_model
from datadiet.teacher_cache import Answers, kept, origin_of, read_answers


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


def ask_teacher(folder: Path, features: Features, *, batch_tokens: int, precision: str, temperature: float) -> Teacher:
    """A teacher's logits of the training rows, as its own tokenizer reads them: asked for, or taken from the cache.

    Args:
        folder: A saved model, or a run folder.
        features: Of the student: the data, its task, the folder of the cache and the ledger, which takes the time as
            scoring, also what another run has spent on asking.
        batch_tokens, precision: Of the pass.
        temperature: See `Teacher`.

    Raises:
        UserError: If there is no such model, or it has other classes.
    """
    check_teacher(folder, features.task)
    with features.ledger.charge("score"):
        how = {"batch_tokens": batch_tokens, "precision": precision}
        heads = _kept_or_asked(layout.saved_model(folder), features, how)
    return Teacher(heads, temperature, seconds=cost_of(folder))


def _kept_or_asked(model: Path, features: Features, how: Json) -> dict[str, HeadLogits]:
    """What the teacher says, charged in either case to the ledger's running account."""
    cache, ids, task = features.folder, features.data.splits["train"].ids, features.task
    if cache is None:
        return _asked(model, features, how).heads
    told = {**how, "max_length": features.max_length, "device": best_device().type}
    classes = [task.name, list(task.label_names), list(task.slot_names)]
    origin = origin_of(model, features.data.fingerprint, classes, told)
    found = read_answers(cache, origin, ids)
    if found is None:
        found = _asked(model, features, how)
        features.problem = kept(cache, origin, ids, found) or features.problem
        return found.heads
    features.ledger.charge_shared(found.seconds)
    features.ledger.count_scoring(found.examples, found.tokens)
    features.taken = (*features.taken, "teacher")
    return found.heads


def _asked(source: Path, features: Features, how: Json) -> Answers:
    """One pass of the teacher over the training rows."""
    began, ledger, task = time.perf_counter(), features.ledger, features.task
    before = ledger.examples_forward, ledger.tokens_forward
    model: Any = load_saved(source)
    tokenizer = load_tokenizer(str(source))
    rows = task.features(features.data.splits["train"], tokenizer, max_length=features.max_length)
    teacher = teacher_of(model.to(best_device()), rows, task.collator(tokenizer), task.signals, ledger=ledger, **how)
    seconds = time.perf_counter() - began
    examples, tokens = ledger.examples_forward - before[0], ledger.tokens_forward - before[1]
    return Answers(dict(teacher.heads), seconds, examples, tokens)
