"""Attribution by the library dattri (the extra `attribution`): its attributors over our models, data and losses.

Our own TracIn needs no extra; this is for what dattri has besides (TRAK, influence functions, normalised TracIn). Its
attributors hold the gradients of a whole batch, one row of all chosen parameters per example: choose few parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datadiet.errors import ArgumentError, MissingExtraError
from datadiet.scoring.forward import Collate, fetch, in_eval_mode, to_device
from datadiet.scoring.gradients import (
    Inputs,
    Losses,
    Parameters,
    chosen_parameters,
    derivable_attention,
    losses_of,
    with_wide_mask,
    without_labels,
)
from datadiet.scoring.grand import default_loss, device_of
from datadiet.scoring.tracin import Checkpoint, loaded

MISSING = "attribution needs dattri: pip install 'datadiet[attribution]'"
# (task, loader of the rows to score) -> an attributor of dattri
Make = Callable[[Any, Any], Any]


def attributed(
    make: Make,
    checkpoints: Sequence[Checkpoint],
    dataset: Any,
    dev: Any,
    collate: Collate,
    *,
    rows: NDArray[np.int64] | None = None,
    parameters: Parameters = "last_layer",
    loss: Losses | None = None,
    inputs: Inputs | None = None,
    batch_size: int = 32,
    load: Callable[[Any], nn.Module] | None = None,
) -> NDArray[np.float32]:
    """Minus the mean influence of each example on a dev set, by any attributor of dattri.

    Args:
        make: `(task, loader) ->` an attributor with `attribute(loader, dev_loader)`; the loader is that of the rows,
            for attributors that cache something of it.
        checkpoints: Models, or folders that are loaded when dattri asks for them.
        dataset, dev: Map-style; every row of `dev` counts.
        collate: For both.
        rows: int64 `(n,)`; all by default.
        parameters, loss, inputs: See `grand`.
        batch_size: Examples whose gradients are in memory together.
        load: A folder to a model; transformers' own loading by default.

    Returns:
        float32 `(n,)` in the order of the rows: larger = more harmful.

    Raises:
        MissingExtraError: If dattri is not installed.
        ArgumentError: As `grand`, or if an influence is not finite, naming rows.
    """
    every = np.arange(len(dataset), dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    batches = _Batches(collate, next(loaded(checkpoints[:1], load)))
    task = _task(checkpoints, parameters, loss, inputs, load, batches)
    loaders = [batches.loader(data, kept, batch_size) for data, kept in ((dataset, every), (dev, np.arange(len(dev))))]
    with derivable_attention(), _quiet():
        influence = make(task, loaders[0]).attribute(*loaders)
    values = -influence.float().mean(1).cpu().numpy()
    if len(bad := every[~np.isfinite(values)]):
        raise ArgumentError(f"influences are not finite at rows {', '.join(map(str, bad[:5]))}.")
    return np.asarray(values, np.float32)


def dattri_tracin(
    checkpoints: Sequence[Checkpoint],
    learning_rates: Sequence[float],
    dataset: Any,
    dev: Any,
    collate: Collate,
    *,
    normalised: bool = False,
    **options: Any,
) -> NDArray[np.float32]:
    """TracIn by dattri, exact: the same as `tracin`, or with every gradient brought to length 1.

    Args:
        checkpoints, dataset, dev, collate: See `attributed`.
        learning_rates: One per checkpoint.
        normalised: Cosines instead of inner products, so that examples with large gradients do not rule.
        options: Of `attributed`.

    Returns:
        float32 `(n,)`: larger = more harmful.

    Raises:
        MissingExtraError: If dattri is not installed.
        ArgumentError: If there is not one learning rate per checkpoint.
    """
    if len(learning_rates) != len(checkpoints):
        raise ArgumentError(
            f"one learning rate per checkpoint is needed: got {len(learning_rates)} for {len(checkpoints)} checkpoints."
        )

    def make(task: Any, _loader: Any) -> Any:
        from dattri.algorithm.tracin import TracInAttributor

        attributor = TracInAttributor(task, weight_list=torch.tensor(list(learning_rates)), normalized_grad=normalised)
        attributor.projector_kwargs = None  # its default is a random projection, which is off by some per cent
        return attributor

    return attributed(make, checkpoints, dataset, dev, collate, **options)


class _Chosen(nn.Module):
    """The chosen parameters of a model and nothing else: dattri takes gradients over all that it sees."""

    def __init__(self, model: nn.Module, parameters: Parameters) -> None:
        super().__init__()
        self.model = [model]  # in a list, so that it is no part of this module
        self.names = list(chosen := chosen_parameters(model, parameters))
        self.held = nn.ParameterList(list(chosen.values()))

    def named(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values under the names that the model has for them."""
        return {name: values[f"held.{place}"] for place, name in enumerate(self.names)}


class _Batches:
    """Batches as tuples of tensors, as dattri wants them, and back."""

    def __init__(self, collate: Collate, model: nn.Module) -> None:
        self._collate, self._device = collate, device_of(model)
        self._names: tuple[str, ...] = ()
        self._wide = hasattr(model, "config")

    def loader(self, dataset: Any, rows: NDArray[np.int64], batch_size: int) -> Any:
        """A loader of the rows in their order."""
        places = rows.tolist()
        return torch.utils.data.DataLoader(
            places, batch_size=batch_size, collate_fn=lambda part: self._tensors(dataset, part)
        )

    def _tensors(self, dataset: Any, places: list[int]) -> tuple[Tensor, ...]:
        batch = to_device(self._collate(fetch(dataset, np.asarray(places))), self._device)
        if self._wide:
            batch = with_wide_mask(batch)
        self._names = tuple(name for name, value in batch.items() if isinstance(value, Tensor))
        return tuple(batch[name] for name in self._names)

    def alone(self, row: Sequence[Tensor]) -> dict[str, Tensor]:
        """One example as a batch."""
        return {name: value.unsqueeze(0) for name, value in zip(self._names, row, strict=True)}


def _task(
    checkpoints: Sequence[Checkpoint],
    parameters: Parameters,
    loss: Losses | None,
    inputs: Inputs | None,
    load: Callable[[Any], nn.Module] | None,
    batches: _Batches,
) -> Any:
    """The task as dattri has it: a loss of one example, and how a checkpoint becomes the model."""
    try:
        from dattri.task import AttributionTask
    except ModuleNotFoundError as error:
        raise MissingExtraError(MISSING) from error
    current = [_Chosen(next(loaded(checkpoints[:1], load)), parameters)]

    def take(_model: nn.Module, place: int) -> nn.Module:
        current[0] = _Chosen(next(loaded(checkpoints[place : place + 1], load)), parameters)
        return current[0]

    def of_one(values: dict[str, Tensor], row: Sequence[Tensor]) -> Tensor:
        model, given = current[0].model[0], current[0].named(values)
        with in_eval_mode(model):
            found = losses_of(model, given, batches.alone(row), loss or default_loss(model), inputs or without_labels)
        return found[0]

    return AttributionTask(
        loss_func=of_one, model=current[0], checkpoints=list(range(len(checkpoints))), checkpoints_load_func=take
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without dattri's progress bars."""
    from dattri.algorithm import tracin

    before = tracin.tqdm
    tracin.tqdm = lambda steps, **_options: steps
    try:
        yield
    finally:
        tracin.tqdm = before
