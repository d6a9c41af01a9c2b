"""What a static selection comes to, in plain values: for a machine as it is, for a person as tables."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from datadiet.commands.options import flag_name
from datadiet.commands.select import Request, columns_of, reading_of
from datadiet.data import Examples
from datadiet.records import Json
from datadiet.score_file import ScoreFile
from datadiet.selecting import REASONS, StaticSelection, Wish

PER_REASON = 3  # examples of each


def joined_texts(examples: Examples) -> list[str]:
    """One text per example; both of a pair, one below the other."""
    if examples.text_pairs is None:
        return list(examples.texts)
    return [f"{one}\n{two}" for one, two in zip(examples.texts, examples.text_pairs, strict=True)]


def told(request: Request, wish: Wish, file: ScoreFile, train: Examples, chosen: StaticSelection) -> Json:
    """The outcome in plain values."""
    kept = chosen.kept
    return {
        "scores": str(request.scores),
        "data": file.data,
        "fingerprint": file.fingerprint,
        "task": file.task,
        "output": str(request.output),
        "score": chosen.score,
        "select": request.select,
        "options": dict(wish.options),
        "seed": wish.seed,
        "rows": len(file),
        "kept": int(kept.sum()),
        "dropped": int((~kept).sum()),
        "mean_kept": _mean(chosen.values[kept]),
        "mean_dropped": _mean(chosen.values[~kept]),
        "reasons": chosen.counts(),
        "suspects_by": None if chosen.suspicion is None else chosen.suspicion[0],
        "weighted": chosen.weights is not None,
        "classes": [] if file.labels is None else list(_classes(file.labels, chosen)),
        "examples": list(_examples(train, chosen)),
        "next": next_command(request, file),
    }


def _classes(labels: Sequence[str], chosen: StaticSelection) -> Iterator[Json]:
    """One line per class, the largest first."""
    names, codes = np.unique(np.asarray(list(labels)), return_inverse=True)
    sizes, kept = np.bincount(codes), chosen.kept
    for code in np.argsort(-sizes, kind="stable").tolist():
        there = codes == code
        yield {
            "label": str(names[code]),
            "rows": int(sizes[code]),
            "kept": int(kept[there].sum()),
            "dropped": int(sizes[code] - kept[there].sum()),
            "mean_kept": _mean(chosen.values[there & kept]),
            "mean_dropped": _mean(chosen.values[there & ~kept]),
        }


def _mean(values: NDArray[np.float32]) -> float | None:
    return float(values.mean(dtype="float64")) if len(values) else None


def _examples(train: Examples, chosen: StaticSelection) -> Iterator[Json]:
    """The most telling rows of each reason: those kept and dropped that differ most, the most suspected, ..."""
    kept = chosen.kept
    harder = bool(kept.all()) or chosen.values[kept].mean() >= chosen.values[~kept].mean()
    for reason in REASONS:
        rows = np.flatnonzero(chosen.reasons == reason)
        by = chosen.suspicion[1] if reason == "suspect" and chosen.suspicion is not None else chosen.values
        falling = {"chosen": harder, "rest": not harder, "floor": False}.get(reason, True)
        order = np.argsort(-by[rows] if falling else by[rows], kind="stable")
        for row in rows[order[:PER_REASON]].tolist():
            yield {
                "reason": reason,
                "row": row,
                "id": str(train.ids[row]),
                "label": None if train.labels is None else str(train.labels[row]),
                "value": float(chosen.values[row]),
                "text": joined_texts(train.take([row]))[0],
            }


def next_command(request: Request, file: ScoreFile) -> str:
    """What to type to train on what was kept."""
    columns = columns_of(request, file)
    flags = [f"{flag_name(f'{name}_column')} {shlex.quote(column)}" for name, column in columns.items()]
    if separator := reading_of(request, file).get("label_separator"):
        flags.append(f"--label-separator {shlex.quote(separator)}")
    words = ["datadiet finetune", shlex.quote(str(request.output)), f"--task {file.task}", *flags, "--keep 1"]
    return " ".join([*words, "--output RUN"])
