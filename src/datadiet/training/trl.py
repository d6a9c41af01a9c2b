"""The trainers of TRL: what their outputs are, the rows that they leave out or shuffle, and pairs of answers.

They prepare the training data themselves, and build no logits: a hook has the numbers of each token that their fused
head gives anyway. `DPOTrainer` and `RewardTrainer` train on pairs, which are read as two classes.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from datadiet.errors import ArgumentError
from datadiet.tasks.heads import base_model, captured_outputs
from datadiet.tasks.reading import ADVICE, is_fused
from datadiet.types import HeadSignals, Signals

# those whose outputs are known, by the class that they are or inherit from
TRL_FORMS = {"SFTTrainer": "sft", "DPOTrainer": "dpo", "RewardTrainer": "reward"}
ROW_COLUMN = "datadiet_row"  # of training data that a trainer of TRL prepares
FUSED_OUTPUTS = "_datadiet_fused"  # on a model: that its fused head also gives what errors need


def trl_form(trainer: Any) -> str:
    """Of a trainer of TRL what its outputs are: `sft`, `dpo`, `reward`, or `other`; empty for any other trainer."""
    kinds = [kind.__name__ for kind in type(trainer).__mro__ if kind.__module__.startswith("trl.")]
    return next((TRL_FORMS[name] for name in kinds if name in TRL_FORMS), "other" if kinds else "")


def number_rows(options: dict[str, Any], of_rows: Mapping[str, Any]) -> None:
    """Number the rows of training data that a trainer of TRL is about to prepare: it may leave some out, and shuffle.

    Args:
        options: Of the trainer, which get the data with one column more.
        of_rows: The arguments that are beside the data, by name.

    Raises:
        ArgumentError: If one has not an entry for each row, or the rows will be packed, which loses their numbers.
    """
    data, packs = options.get("train_dataset"), getattr(options.get("args"), "packing", False)
    names = getattr(data, "column_names", None) or []
    lost = [*of_rows, *(["the column `weight`"] if "weight" in names else [])]
    if packs and lost:
        raise ArgumentError(
            f"packing=True puts several rows into one, which {' and '.join(lost)} cannot follow: use "
            "padding_free=True, or group_by_length, in place of packing."
        )
    if not of_rows or not isinstance(data, datasets.Dataset):
        return
    for name, values in of_rows.items():
        if (count := values.shape[0] if hasattr(values, "shape") else len(values)) != len(data):
            raise ArgumentError(f"{name} must be one per training row, {len(data)}: got {count}.")
    column: Any = list(range(len(data)))
    options["train_dataset"] = data.add_column(ROW_COLUMN, column)


def of_numbered(trainer: Any, of_rows: Mapping[str, Any]) -> dict[str, Any]:
    """What is beside the data, of the rows that a trainer of TRL has left, in its order."""
    data = trainer.train_dataset
    if ROW_COLUMN not in (getattr(data, "column_names", None) or []):
        return dict(of_rows)
    rows = np.asarray(data.with_format("numpy")[ROW_COLUMN][:])
    trainer.train_dataset = data.remove_columns(ROW_COLUMN)
    return {
        name: values[rows] if hasattr(values, "shape") else [values[row] for row in rows.tolist()]
        for name, values in of_rows.items()
    }


def give_errors(model: Any) -> None:
    """Make the fused head of TRL's SFT also give `log sum_v p_v^2`, of which the error norm of a token follows.

    The loss is computed as before. Where TRL has no such head, nothing changes, and errors are not known.
    """
    base, add = base_model(model), getattr(sys.modules.get("trl.trainer.utils"), "add_fused_lm_head", None)
    if add is not None:
        add(base, outputs=("log_probs", "entropy", "is_top1", "log_sum_sq_probs"))
        setattr(base, FUSED_OUTPUTS, True)


def preferences(outputs: Any, batch: Mapping[str, Any], *, centre: float | None = None) -> Signals:
    """The signals of a reward model on pairs, as `RewardTrainer` trains it: two classes, the chosen answer is right.

    Args:
        outputs: With a logit of each chosen answer, and after them of each rejected one: `(2 * batch, 1)`.
        batch: With the `margin` of each pair, where the loss has one.
        centre: The trainer's `center_rewards_coefficient`.

    Returns:
        A head `label` whose cross-entropy is `-log sigmoid(chosen - rejected - margin)`; the row's own loss, to which
        `centre * (chosen + rejected)^2` is added.
    """
    chosen, rejected = outputs.logits.detach().float().flatten().chunk(2)
    ahead = rejected + batch["margin"].to(rejected) if "margin" in batch else rejected
    odds = torch.stack([ahead, chosen], 1)
    labels = torch.ones_like(chosen, dtype=torch.int64)
    losses = torch.nn.functional.cross_entropy(odds, labels, reduction="none")
    losses = losses if centre is None else losses + centre * (chosen + rejected).square()
    return Signals({"label": HeadSignals(odds, labels)}, losses=losses)


class DpoPairs:
    """The signals of pairs of answers as `DPOTrainer` compares them, from the policy and the reference of its own step.

    Two classes, of which the chosen answer is right, with the log odds `beta * ((log p - log q)(chosen) - (log p - log
    q)(rejected))` of policy p and reference q. Their cross-entropy is the row's own loss for `loss_type="sigmoid"`; for
    any other the trainer says what it takes of each pair. `aot` and `aot_unpaired` sort the pairs of a batch and so
    have no loss of each: the loss of their pairs is that of `sigmoid`.

    Args:
        trainer: Of TRL.

    Attributes:
        sorts: Whether the trainer has no loss of each pair.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer, self.references = trainer, list[Any]()
        self.sorts = any(kind.startswith("aot") for kind in trainer.loss_types)
        usual = {"loss_types": ["sigmoid"], "loss_weights": [1.0], "ld_alpha": None, "use_weighting": False}
        usual["f_divergence_type"] = "reverse_kl"
        self._plain = all(getattr(trainer, name, value) == value for name, value in usual.items())

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Keep what the reference model gives inside the block."""
        self.references.clear()
        model = getattr(self._trainer, "ref_model", None)
        if model is None:
            yield
            return
        with captured_outputs(model) as outputs:
            yield
        self.references += [output for output in outputs if is_fused(output)]

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> Signals:
        """See the class."""
        length = batch["completion_mask"].shape[1] - 1
        chosen, rejected = _log_probability(outputs, length).chunk(2)
        reference = self.references[0] if self.references else None
        if "ref_chosen_logps" in batch:
            known = (batch["ref_chosen_logps"].to(chosen), batch["ref_rejected_logps"].to(rejected))
        elif reference is not None:
            known = _log_probability(reference, length).chunk(2)  # type: ignore[assignment]
            self.references.clear()
        else:
            raise ArgumentError(f"pairs of DPO are read in training only, where the reference model runs too. {ADVICE}")
        odds = self._trainer.beta * ((chosen - known[0]) - (rejected - known[1]))
        labels = torch.ones(len(odds), dtype=torch.int64, device=odds.device)
        head = HeadSignals(torch.stack([torch.zeros_like(odds), odds], 1), labels)
        losses = None if self.sorts or self._plain else self._losses(outputs, reference, batch, chosen)
        return Signals({"label": head}, losses=losses)

    @torch.no_grad()
    def _losses(self, outputs: Any, reference: Any, batch: Mapping[str, Any], chosen: torch.Tensor) -> torch.Tensor:
        """What the trainer takes of each pair, float32 `(pairs,)`, whose mean is its loss without that of routers.

        Its own code runs once more on what the models have given: all that comes after the models, on numbers of
        answers and tokens, and without anything that it reports.
        """
        trainer, pairs = copy(self._trainer), len(chosen)
        trainer.model = torch.nn.Module()
        trainer.model.is_gradient_checkpointing = False
        trainer.ref_model = lambda **_: reference
        trainer._metrics = {"train": defaultdict(list)}
        trainer.accelerator = SimpleNamespace(
            device=chosen.device, gather=lambda values: values, gather_for_metrics=lambda values: values
        )
        with _Means(pairs) as means:
            trainer._compute_loss(lambda **_: outputs, dict(batch), False)
        total = torch.zeros_like(chosen)
        for kind, weight in zip(self._trainer.loss_types, self._trainer.loss_weights, strict=True):
            losses = means.kept.pop(0)
            if kind == "sft":  # one mean over the tokens of all chosen answers: a pair has the share of its own
                losses = means.kept.pop(0) if losses.stride() != (0,) else losses
                losses = losses.mean() * pairs * chosen / chosen.sum().clamp_max(-1e-12)
            total = total + weight * losses.float()
        return total


class _Means(TorchFunctionMode):
    """Keeps the vectors of one entry per pair of which a mean without arguments is taken, in order.

    Args:
        size: Of the vectors.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size, self.kept = size, list[torch.Tensor]()

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As the function gives it."""
        if function is torch.Tensor.mean and len(args) == 1 and not kwargs and args[0].shape == (self._size,):
            self.kept.append(args[0])
        return function(*args, **(kwargs or {}))


def _log_probability(outputs: Any, length: int) -> torch.Tensor:
    """Of whole answers, float32 `(batch,)`; tokens of prompts count 0."""
    summed: torch.Tensor = outputs.log_probs.detach().float()[:, -length:].sum(1)
    return summed
