"""All that one forward pass of each model tells of every row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datadiet.checks import ArgumentError
from datadiet.models.heads import Heads, head_layers
from datadiet.records import Signals
from datadiet.scores import SCORES, example_values
from datadiet.scores.free import FREE, free_signals
from datadiet.scores.two_models import negative_pvi, teacher_divergence, teacher_el2n
from datadiet.scoring import Batch, first_alike, forward_pass
from datadiet.whole_set.material import Material, inputs_of

Values = NDArray[np.float32]

# share forward passes
PASSES = (*SCORES, "negative_pvi", "reducible_loss", "irreducible_loss", "teacher_el2n", "teacher_divergence")


def of_passes(
    names: Sequence[str], material: Material, probabilities: bool
) -> tuple[dict[str, Values], NDArray[np.float32] | None]:
    """All that one forward pass of each model tells, and the class probabilities."""
    own = [name for name in names if name in SCORES]
    taught = {"teacher_el2n": teacher_el2n, "teacher_divergence": teacher_divergence}
    compared = [name for name in names if name in taught]
    found: dict[str, Values] = {}
    classes: torch.Tensor | None = None
    unseen = material.unseen
    of_model = probabilities and unseen is None
    if own or compared or of_model or "reducible_loss" in names:
        found, classes = read_model(material, "model", own, classes=bool(compared) or of_model)
    if "reducible_loss" in names or "irreducible_loss" in names:
        found["irreducible_loss"] = read_model(material, "holdout", ())[0]["loss"] if unseen is None else unseen.losses
    if "reducible_loss" in names:
        found["reducible_loss"] = found["loss"] - found["irreducible_loss"]
    if compared:
        theirs = read_model(material, "teacher", (), classes=True)[1]
        assert classes is not None  # asked for
        assert theirs is not None
        found |= {name: taught[name](classes, theirs).numpy() for name in compared}
    if "negative_pvi" in names:
        assert unseen is not None  # made together with the null models
        assert unseen.classes is not None
        assert material.null is not None
        found["negative_pvi"] = negative_pvi(unseen.classes, material.null, torch.as_tensor(material.groups)).numpy()
    told = classes if unseen is None else unseen.classes
    return {name: found[name] for name in names}, told.exp().numpy() if probabilities and told is not None else None


def read_model(
    material: Material, role: str, scores: Sequence[str], *, classes: bool = False
) -> tuple[dict[str, Values], torch.Tensor | None]:
    """What one forward pass of a model tells of every row; rows that it cannot tell apart are passed once.

    Args:
        material: The rows, and the model.
        role: Which model: `model`, `teacher` or `holdout`.
        scores: Names of `datadiet.scores.SCORES`.
        classes: Also the log-probability of each class, of the head that has one decision per example.

    Returns:
        The scores and the free signals, float32 `(n,)` each; the log-probabilities, float32 `(n, classes)`, or None.

    Raises:
        ArgumentError: If `classes` are asked of a model that has no such head.
    """
    model, rows = getattr(material, role), inputs_of(material, role)
    columns = tuple(dict.fromkeys((*scores, *FREE)))
    heads, found = Heads(head_layers(model)), np.empty((len(columns), len(rows.features)), np.float32)
    alike = first_alike(material.texts, rows.features)
    told: torch.Tensor | None = None

    def call(batch: Batch) -> Any:
        with heads.watching():
            return model(**batch)

    options: dict[str, Any] = {"precision": material.precision, "batch_tokens": material.batch_tokens}
    options["rows"] = np.unique(alike)
    for part, outputs, batch in forward_pass(
        model, rows.features, rows.collate, call=call, ledger=material.ledger, **options
    ):
        signals = heads.signals(material.signals(outputs, batch))
        values = free_signals(signals)
        values |= {name: example_values(SCORES[name], signals, combine=material.combine) for name in scores}
        found[:, part] = torch.stack([values[name] for name in columns]).cpu().numpy()
        if classes:
            logs = _log_probabilities(signals)
            told = logs.new_empty(len(rows.features), logs.shape[1]) if told is None else told
            told[torch.from_numpy(part)] = logs
    return dict(zip(columns, found[:, alike], strict=True)), None if told is None else told[torch.from_numpy(alike)]


def _log_probabilities(signals: Signals) -> torch.Tensor:
    """float32 `(batch, classes)`, from the head that has one decision per example."""
    for head in signals.heads.values():
        if head.mask is None and not head.labels.is_floating_point():
            return head.logits.float().log_softmax(-1).cpu()
    raise ArgumentError("class probabilities are of models that give each example one class; this one does not.")
