"""LESS: how much a training step on each example resembles what examples of the wanted kind ask for.

Gradients of single rows are projected to a few thousand numbers as soon as they are made, at one checkpoint after the
other. `Projection` adds each number, with a random sign, at one of `size` places: no matrix is ever built, and a
projection costs as much as reading the vector. The places are those of a random permutation, so that each gets equally
many numbers of a tensor, and the result does not depend on the device or on the order of sums across threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from datadiet.errors import ArgumentError
from datadiet.ledger import Ledger
from datadiet.registry import AtLeast, score
from datadiet.scoring import gradients
from datadiet.scoring.curvature import Objective, objective_of, usual_parameters
from datadiet.scoring.forward import Collate, in_eval_mode
from datadiet.scoring.gradients import Inputs, Losses, Parameters
from datadiet.scoring.influence import PARAMETERS
from datadiet.scoring.inputs import ScoringInputs, Shared, Values
from datadiet.scoring.tracin import Checkpoint, check_rates, loaded
from datadiet.tasks.adam import AdamState, adam_state

_STREAM = 32  # of the generator that draws places and signs


@dataclass(frozen=True)
class Less:
    """The result of `less`.

    Attributes:
        values: float32 `(n,)`, the largest over the subtasks; larger = more wanted.
        by_subtask: float32 `(n, subtasks)`.
        direction: `adam` or `plain`.
        gradients_of: The choice of parameters, and how many numbers they are.
        dimensions: Of the projected gradients.
        rates: Of the checkpoints.
    """

    values: NDArray[np.float32]
    by_subtask: NDArray[np.float32]
    direction: str
    gradients_of: str
    dimensions: int
    rates: tuple[float, ...]

    def describe(self) -> dict[str, Any]:
        """How the values were made, in plain values."""
        made = {"direction": self.direction, "gradients_of": self.gradients_of, "dimensions": self.dimensions}
        return made | {"subtasks": self.by_subtask.shape[1]}


@score(
    formula="max over subtasks of sum_c eta_c cos(S Adam step of the row, S mean query gradient), S random",
    paper="Xia et al. 2024 (LESS), arXiv 2402.04333, equation 4 and section 4.2",
    inputs="checkpoints and learning rates of one run, labels, examples of what is wanted (--queries, --query-groups)",
    cost="per checkpoint a forward and backward of n, row by row; memory: `dimensions` floats a row of a batch",
    loses="to cheap similarity (RDS+) and to random in large pools; with few queries, or queries unlike the use",
    needs=("checkpoints", "queries"),
    traits=("answers",),
    named_alone=False,
    evidence="corpus-selection",
    computed_by="datadiet.scoring.less:less_of",
)
def less(
    checkpoints: Iterable[Checkpoint],
    learning_rates: Sequence[float] | None,
    dataset: Any,
    queries: Any,
    collate: Collate,
    *,
    query_groups: NDArray[np.int64] | None = None,
    rows: NDArray[np.int64] | None = None,
    parameters: Annotated[Parameters, PARAMETERS] = "auto",
    direction: Literal["auto", "adam", "plain"] = "auto",
    dimensions: Annotated[int, AtLeast(1)] = 8192,
    loss: Losses | None = None,
    inputs: Inputs | None = None,
    batch_tokens: int = 2048,
    batch_size: int = 32,
    seed: int = 0,
    load: Callable[[Any], nn.Module] | None = None,
    ledger: Ledger | None = None,
) -> Less:
    """How much a step on each example helps the wanted kind: projected gradients compared, over a run's checkpoints.

    `max_t sum_c eta_c cos(S G_c(x), S mean_{q in t} grad L_c(q))`: `G_c` is the step that Adam would take on the
    example alone, from the running means of the checkpoint, or its gradient; `S` a random projection. The cosine takes
    away the length of a gradient, which short answers make large. Eval mode; the same for any batch and padding.

    Args:
        checkpoints: Models, or folders that are loaded one after the other; of a run with adapters these.
        learning_rates: `eta_c`; None reads them from the checkpoints (the mean since the one before), or takes 1 each.
        dataset: Map-style; its rows are scored.
        queries: Map-style, examples of what is wanted, with labels.
        collate: For both.
        query_groups: int64 `(q,)`, the subtask of each query, from 0; one subtask by default.
        rows: int64 `(n,)`; all rows by default.
        parameters: `auto` (the adapters where the model has some, else the last layer), `all`, `last_layer`, `lora`, or
            a function of a parameter's name.
        direction: `adam` needs the optimizer.pt of each checkpoint; `plain` is the gradient; `auto` takes Adam's where
            every checkpoint has its state.
        dimensions: Of the projection, at least 1; gradients of no more numbers are not projected. The error of a cosine
            is about `1 / sqrt(dimensions)`.
        loss, inputs, batch_tokens, batch_size: See `influence`.
        seed: Of the projection.
        load: A folder to a model; transformers' own loading by default.
        ledger: Counts examples and tokens as scoring.

    Returns:
        The values, in the order of the rows; larger = more wanted: the end that the paper keeps (5 %). Negative: a step
        on the example hinders every subtask.

    Raises:
        ArgumentError: As `influence`; if there are no queries or checkpoints, a subtask has none, or the state of Adam
            is asked for and missing.

    Source: Xia et al. 2024 (arXiv 2402.04333). Here the cosine is with the mean gradient of a subtask, as in equation
    3; its code takes the mean of cosines, adds epsilon inside the root and leaves out the bias correction of Adam, and
    projects by a dense matrix, which needs 80 GB without its CUDA kernel.
    """
    every = np.arange(len(dataset), dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    tasks = _subtasks(len(queries), query_groups)
    sizes = {"batch_tokens": batch_tokens, "batch_size": batch_size}
    steps = list(checkpoints)
    if not steps:
        raise ArgumentError("less needs at least one checkpoint.")
    with_state = [not isinstance(step, nn.Module) and (Path(step) / "optimizer.pt").is_file() for step in steps]
    if direction == "adam" and not all(with_state):
        missing = steps[with_state.index(False)]
        where = "a model" if isinstance(missing, nn.Module) else str(missing)
        raise ArgumentError(f"direction=adam needs the optimizer.pt of every checkpoint, {where} has none: take plain.")
    adam = direction != "plain" and all(with_state)
    if learning_rates is not None:
        check_rates(len(steps), learning_rates)
    total, rates, described, projected = np.zeros((len(every), len(tasks))), [], "", 0
    before: AdamState | None = None
    for number, model in enumerate(loaded(steps, load)):
        state = adam_state(Path(steps[number]), model) if all(with_state) else None  # type: ignore[arg-type]
        rate = float(learning_rates[number]) if learning_rates is not None else _rate(before, state)
        own = {"dataset": dataset, "collate": collate, "sizes": sizes}
        objective = objective_of(model, parameters, loss=loss, inputs=inputs, **own)
        numbers = {name: value.numel() for name, value in objective.values.items()}
        project = Projection(numbers, dimensions, seed=seed, device=next(model.parameters()).device)
        wanted = [project(objective.named(objective.mean_gradient(queries, part, ledger))) for part in tasks]
        aims = normalize(torch.stack(wanted), dim=1)  # (subtasks, dimensions)
        total += rate * _cosines(
            objective, every, _step_of(model, objective, state if adam else None), project, aims, ledger
        )
        rates.append(rate)
        described, projected = _described(model, parameters, objective), project.size
        before = state
    return Less(
        total.max(1).astype(np.float32) if len(tasks) else np.zeros(len(every), np.float32),
        total.astype(np.float32),
        "adam" if adam else "plain",
        described,
        projected,
        tuple(rates),
    )


def _subtasks(queries: int, groups: NDArray[np.int64] | None) -> list[NDArray[np.int64]]:
    """The queries of each subtask."""
    if not queries:
        raise ArgumentError("less needs examples of what is wanted: at least one query.")
    numbers = np.zeros(queries, np.int64) if groups is None else np.asarray(groups, np.int64)
    if numbers.shape != (queries,):
        raise ArgumentError(f"query_groups must have one number per query, {queries}, got shape {numbers.shape}.")
    return [np.flatnonzero(numbers == task) for task in np.unique(numbers)]


def _rate(before: AdamState | None, state: AdamState | None) -> float:
    """The mean learning rate since the checkpoint before, of a schedule that is nearly straight in between."""
    if state is None:
        return 1.0
    return ((state.first_rate if before is None else before.rate) + state.rate) / 2


def _described(model: nn.Module, parameters: Parameters, objective: Objective) -> str:
    choice = usual_parameters(model, parameters)
    return f"{choice if isinstance(choice, str) else 'chosen'} ({objective.size:,} numbers)"


def _step_of(
    model: nn.Module, objective: Objective, state: AdamState | None
) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]:
    """From a gradient to the direction that is compared."""
    if state is None:
        return lambda gradient: gradient
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own = {name: names[id(parameter)] for name, parameter in objective.chosen.items()}
    return lambda gradient: state.step(gradient, own)


def _cosines(
    objective: Objective,
    rows: NDArray[np.int64],
    step: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    project: Projection,
    aims: Tensor,
    ledger: Ledger | None,
) -> NDArray[np.float64]:
    """The cosine of each row's projected step with each aim, `(n, subtasks)`; 0 for a row without a gradient."""
    places = {int(row): place for place, row in enumerate(rows)}
    found = np.empty((len(rows), len(aims)))
    how = (objective.loss, objective.inputs)
    for part, batch in objective.batches(objective.dataset, rows, ledger):
        with in_eval_mode(objective.model):
            vectors = gradients.reduced_gradients(
                objective.model, objective.chosen, batch, *how, lambda gradient: project(step(gradient))
            )
        cosines = (normalize(vectors.float(), dim=1) @ aims.float().T).double().cpu().numpy()
        if not np.isfinite(cosines).all():
            bad = part[~np.isfinite(cosines).all(1)]
            raise ArgumentError(f"gradients are not finite at rows {', '.join(map(str, bad[:5]))}: check the inputs.")
        found[[places[row] for row in part.tolist()]] = cosines
    return found


def less_of(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """The score of a split, and what it was compared with."""
    queries = inputs.queries
    assert queries is not None  # checked by check_needs
    result = less(
        list(inputs.checkpoints or ()),
        inputs.learning_rates,
        inputs.features,
        queries.features,
        inputs.collate,
        query_groups=queries.groups,
        seed=inputs.seed,
        ledger=inputs.ledger,
        **gradients.options_for(name, inputs),
    )
    shared.details[name] = dict(result.describe())
    return result.values


class Projection:
    """A random projection of a gradient, the same for every gradient of these tensors.

    Args:
        sizes: Numbers of each tensor, by name.
        size: Numbers of the projected vector; where it is not below their sum, the tensors are joined unchanged.
        seed: Of places and signs.
        device: Where the gradients are.

    Attributes:
        size: Numbers of the projected vector.
        exact: Whether nothing is projected.

    Examples:
        >>> project = Projection({"weight": 1000}, 64, seed=0)
        >>> vector = torch.ones(1000)
        >>> project({"weight": vector}).shape, Projection({"weight": 3}, 64, seed=0)({"weight": vector[:3]}).tolist()
        (torch.Size([64]), [1.0, 1.0, 1.0])

    Source: feature hashing (Weinberger et al. 2009, arXiv 0902.2206), the count sketch of Charikar et al. 2002, with
    places dealt out evenly. `E <Sx, Sy> = <x, y>`, with variance at most `(|x|^2 |y|^2 + <x, y>^2) / size`, that of a
    dense matrix of random signs (Achlioptas 2003).
    """

    def __init__(
        self, sizes: Mapping[str, int], size: int, *, seed: int, device: torch.device | str | None = None
    ) -> None:
        self.exact = size >= sum(sizes.values())
        self.size = sum(sizes.values()) if self.exact else size
        self._places: dict[str, tuple[Tensor, Tensor]] = {}
        for place, (name, numbers) in enumerate(sizes.items()):
            if self.exact:
                continue
            generator = np.random.default_rng([seed, _STREAM, place])
            padded = -(-numbers // size) * size
            order = torch.from_numpy(generator.permutation(padded)).to(device)  # (padded,)
            signs = torch.from_numpy(generator.integers(0, 2, padded, dtype=np.int8) * 2 - 1).to(device)
            self._places[name] = order, signs

    def __call__(self, gradient: Mapping[str, Tensor]) -> Tensor:
        """The projected vector `(size,)` of one gradient, tensors by name; torch.func maps over it."""
        if self.exact:
            return torch.cat([part.flatten() for part in gradient.values()])
        return torch.stack([self._one(name, part.flatten()) for name, part in gradient.items()]).sum(0)

    def _one(self, name: str, numbers: Tensor) -> Tensor:
        order, signs = self._places[name]
        padded = torch.nn.functional.pad(numbers, (0, len(order) - len(numbers)))
        return (padded[order] * signs).reshape(-1, self.size).sum(0)
