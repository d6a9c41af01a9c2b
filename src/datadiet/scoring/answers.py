"""Passes for the scores of whole answers (`datadiet.scores.answers`): of one model, and of two at once.

Rows are padded and batched by length. The values of a row depend on neither: its tokens attend to those before them in
the same row only. All passes run in eval mode without gradients, in float32 from the logits on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.errors import ArgumentError, DataError, quoted
from datadiet.registry import load
from datadiet.scores.answers import token_divergence
from datadiet.scores.tokens import row_nll
from datadiet.scoring.forward import Batch, evaluating, forward_pass, pass_of, passes_of, token_head, within_logits
from datadiet.scoring.inputs import ScoringInputs, Shared, Values
from datadiet.scoring.tracin import loaded
from datadiet.tasks.base import named
from datadiet.tasks.causal_lm import AnswerRows
from datadiet.types import IGNORED, Signals


def mean_losses(
    model: torch.nn.Module,
    features: Any,
    collate: Callable[[Any], Batch],
    signals: Callable[[Any, Batch], Signals],
    **options: Any,
) -> Values:
    """The mean nll of each row over the tokens that train, and nothing else of a pass.

    Args:
        model: A causal language model.
        features, collate: Tokenised rows.
        signals: Reads its outputs; see `Task.signals`.
        options: Of `forward_pass`.

    Returns:
        float32 `(n,)`, in nats; nan for a row without such a token.
    """
    losses = np.empty(len(features), np.float32)
    for rows, outputs, batch in forward_pass(model, features, collate, **options):
        losses[rows] = row_nll(token_head(signals(outputs, batch))).cpu().numpy()
    return losses


def divergences(
    model: torch.nn.Module, teacher: torch.nn.Module, features: Any, collate: Callable[[Any], Batch], **options: Any
) -> Values:
    """The mean over the tokens that train of the divergence of two models: float32 `(n,)`, nan without such a token.

    Args:
        model, teacher: With the same tokens, on one device. Both read each batch together, and no logits are kept.
        features, collate: Tokenised rows.
        options: Of `forward_pass`; the logits of two models take twice the memory of one.

    Raises:
        ArgumentError: If the models do not have the same tokens.
    """
    values = np.empty(len(features), np.float32)

    def both(batch: Batch) -> tuple[Tensor, Tensor]:
        with evaluating(teacher):
            return model(**batch).logits, teacher(**batch).logits

    for rows, (ours, theirs), batch in forward_pass(model, features, collate, call=both, **options):
        labels = named(batch, "labels")
        counts = (labels[:, 1:] != IGNORED).sum(1)
        values[rows] = (token_divergence(ours, theirs, labels).sum(1) / counts).cpu().numpy()
    return values


# ---- the scores


def bits(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """A score of the losses of answers and of their sizes, by the one model that it reads."""
    (role,) = passes_of(name)
    crossed = inputs.out_of_fold if role == "holdout" else None
    answers = (inputs.rows_for(role) if crossed is None else crossed).answers or _answers(inputs)
    losses = pass_of(role, inputs, shared).columns["loss"]
    sizes = {unit: torch.from_numpy(column) for unit, column in answers.sizes.items()}
    values: Tensor = load("score", name)(
        _checked(losses, answers.counts, inputs), torch.from_numpy(answers.counts), sizes, **inputs.options_of(name)
    )
    return values.numpy()


def with_and_without(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """A score of the losses of answers with their prompts and alone."""
    answers = _answers(inputs)
    if not answers.prompted:
        raise ArgumentError(f"the score {name} needs prompts with answers, and these rows are plain texts.")
    columns, features = pass_of("model", inputs, shared).columns, answers.alone()
    opened = np.asarray(features["opened"][:]) > 0
    given = np.where(opened, columns["loss"], columns["rest"])
    compared = np.where(opened, answers.counts, answers.counts - 1)
    assert inputs.model is not None  # checked by check_needs
    alone = mean_losses(inputs.model, features, inputs.collate, inputs.signals, **inputs.pass_options)
    with_it, without = (_checked(part, compared, inputs) for part in (given, alone))
    values: Tensor = load("score", name)(with_it, without, torch.from_numpy(answers.cut), **inputs.options_of(name))
    return values.numpy()


def along_checkpoints(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """A score of the losses of answers by several checkpoints, and of how good each checkpoint is."""
    answers, checkpoints = _answers(inputs), list(inputs.checkpoints or ())
    device = torch.device("cpu") if inputs.model is None else next(inputs.model.parameters()).device
    rows = []
    for model in loaded(checkpoints):
        losses = mean_losses(model.to(device), inputs.features, inputs.collate, inputs.signals, **inputs.pass_options)
        rows.append(_checked(losses, answers.counts, inputs))
    shared.details[name] = {"ordered_by": "steps" if inputs.figures is None else "dev metric"}
    figures = range(len(rows)) if inputs.figures is None else inputs.figures
    values: Tensor = load("score", name)(torch.stack(rows), list(figures), **inputs.options_of(name))
    return values.numpy()


def token_by_token(name: str, inputs: ScoringInputs, _shared: Shared) -> Values:
    """A score of how far two models are apart at each token."""
    answers = _answers(inputs)
    assert inputs.model is not None  # checked by check_needs
    assert inputs.teacher is not None
    options = inputs.pass_options | {"batch_tokens": max(1, within_logits(inputs.batch_tokens, inputs.model) // 2)}
    apart = divergences(inputs.model, inputs.teacher, inputs.features, inputs.collate, **options)
    lengths = torch.as_tensor(inputs.features["length"][:])
    mean = _checked(apart, answers.counts, inputs)
    values: Tensor = load("score", name)(mean, lengths, **inputs.options_of(name))
    return values.numpy()


def _answers(inputs: ScoringInputs) -> AnswerRows:
    if inputs.answers is None:
        raise ArgumentError("scores of answers need rows of a causal language model, from CausalLMTask.features.")
    return inputs.answers


def _checked(losses: Values, counts: NDArray[np.int64], inputs: ScoringInputs) -> Tensor:
    """Losses as a tensor, once they are numbers wherever a token counts."""
    if bad := np.flatnonzero(~np.isfinite(losses) & (counts > 0)).tolist():
        row = f" of the row with the id {quoted(inputs.ids[bad[0]])}" if inputs.ids is not None else ""
        raise DataError(
            f"the model gives {losses[bad[0]]} in place of the loss{row}, and of {len(bad)} rows in all: its weights "
            "are damaged, or its numbers overflow; score with --precision fp32."
        )
    return torch.from_numpy(losses)
