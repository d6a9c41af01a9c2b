"""What a schedule will cost at most, before anything runs.

What is wrong with the schedule of a config, whatever the number of examples. Imports nothing heavy.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datadiet.config import AUTO, FinetuneConfig
from datadiet.diet.schedule import AdaptiveSchedule, BaseSchedule, Schedule, parse_keep
from datadiet.errors import Problems, UserError
from datadiet.types import EpochForecast, Forecast

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


RESCORES = ("all", "dropped", "none")


def forecast(
    schedule: BaseSchedule, *, rescore: str = "none", lengths: ArrayLike | None = None, full_epochs: float | None = None
) -> Forecast:
    """What a run will cost at most, before it runs, beside training on everything.

    Args:
        schedule: The plan.
        rescore: Which rows a refresh forwards: `all`; `dropped`, those not trained on since the last refresh; `none`.
            A refresh before any training has no scores to take and costs nothing.
        lengths: Tokens of each training row, `(num_examples,)`, where known.
        full_epochs: Epochs of the training on everything that it is compared with; the schedule's own by default.

    Returns:
        Exact steps and examples, or the most there can be of an `AdaptiveSchedule`; tokens as kept rows times the mean
        length, since which rows are kept is not known yet.

    Raises:
        ArgumentError: If `rescore` is unknown, or lengths and rows differ in number.

    Examples:
        >>> from datadiet.diet.schedule import Schedule
        >>> plan = forecast(Schedule(num_examples=100, epochs=5, keep=0.5, batch=10), rescore="dropped")
        >>> plan.examples_backward, plan.full_examples, plan.examples_scored, f"{plan.examples_saved:.0%}"
        (300, 500, 50, '40%')

    Source: the cost model of Attendu and Corbeil 2023 (arXiv 2306.03208), with warm-up, rounding and scoring counted.
    """
    import numpy as np  # not for --help

    tokens = None if lengths is None else np.asarray(lengths)
    _check_forecast(schedule, rescore, tokens, full_epochs)
    epochs = tuple(_epoch_forecast(schedule, epoch) for epoch in range(schedule.epochs))
    compared = schedule.epochs if full_epochs is None else full_epochs
    trained, everything = schedule.total_count, round(compared * schedule.num_examples)
    mean_length = None if tokens is None else float(tokens.mean())
    return Forecast(
        epochs=epochs,
        steps=sum(epoch.steps for epoch in epochs),
        examples_backward=trained,
        full_steps=math.ceil(round(compared * -(-schedule.num_examples // schedule.batch), 6)),
        full_examples=everything,
        examples_scored=sum(_scored(schedule, epoch, rescore) for epoch in range(schedule.epochs)),
        examples_saved=1 - trained / everything,
        tokens_backward=None if mean_length is None else round(trained * mean_length),
        full_tokens=None if mean_length is None else round(everything * mean_length),
        bound=isinstance(schedule, AdaptiveSchedule),
    )


def cut_short(planned: Forecast, max_steps: int, batch: int) -> Forecast:
    """The plan of a run that stops after so many steps; the full training beside it stays as it is.

    Args:
        planned: Of the whole run, which trains on everything.
        max_steps: Not more than `planned.steps`.
        batch: Examples per step.
    """
    epochs, examples, left = [], 0, max_steps
    for epoch in planned.epochs:
        steps = min(left, epoch.steps)
        if steps:
            epochs.append(replace(epoch, steps=steps))
            examples += epoch.kept if steps == epoch.steps else steps * batch
        left -= steps
    share = examples / planned.full_examples
    return replace(
        planned,
        epochs=tuple(epochs),
        steps=max_steps,
        examples_backward=examples,
        examples_saved=1 - share,
        tokens_backward=None if planned.full_tokens is None else round(planned.full_tokens * share),
    )


def _epoch_forecast(schedule: BaseSchedule, epoch: int) -> EpochForecast:
    kept = schedule.count(epoch)
    return EpochForecast(
        epoch=epoch,
        kept=kept,
        dropped=schedule.num_examples - kept,
        steps=schedule.steps(epoch),
        refresh=schedule.is_refresh(epoch),
    )


def _scored(schedule: BaseSchedule, epoch: int, rescore: str) -> int:
    """Rows forwarded before an epoch. Rows stay the same within a cycle, so the epoch before tells what was seen."""
    if rescore == "none" or epoch == 0 or not schedule.is_refresh(epoch):
        return 0
    return schedule.num_examples - (schedule.count(epoch - 1) if rescore == "dropped" else 0)


def _check_forecast(
    schedule: BaseSchedule, rescore: str, tokens: NDArray[Any] | None, full_epochs: float | None
) -> None:
    problems = Problems()
    problems.choice("rescore", rescore, RESCORES)
    if tokens is not None and tokens.shape != (schedule.num_examples,):
        problems.add(f"lengths need one number per training row: got {tokens.shape} for {schedule.num_examples} rows.")
    problems.check(full_epochs is None or full_epochs > 0, f"full_epochs must be above 0, got {full_epochs}.")
    problems.raise_any()


PHASES = ("warmup_epochs", "refresh_every", "anneal_epochs", "static")
MANY = 10**9  # examples: so many that no share of them is less than a batch


def schedule_problems(config: FinetuneConfig) -> list[str]:
    """Everything but what depends on the number of examples; a share out of range is the diet's to say.

    Examples:
        >>> schedule_problems(FinetuneConfig("snips", "intent-slot", "runs/a", warmup_epochs=9))
        ['the warm-up is longer than the training: warmup_epochs 9, epochs 5.']
    """
    try:
        keep = parse_keep(config.keep) if isinstance(config.keep, (str, int, float)) else dict(config.keep)
    except UserError:
        keep = 0.5
    shares = keep.values() if isinstance(keep, dict) else [keep]
    if not all(0 < share <= 1 for share in shares):
        keep = 0.5
    phases: dict[str, Any] = {name: getattr(config, name) for name in PHASES if getattr(config, name) is not None}
    if problems := _open_end_problems(config):
        return problems
    try:
        if config.tolerance is None:
            Schedule(MANY, config.planned_epochs, keep, **phases)
        else:
            cycles = {name: phases[name] for name in ("warmup_epochs", "refresh_every") if name in phases}
            AdaptiveSchedule(MANY, config.planned_epochs, **cycles)
    except UserError as error:
        return list(error.problems)
    return []


def _open_end_problems(config: FinetuneConfig) -> list[str]:
    """Options that need to know the last epoch beforehand, beside epochs that are found while the run trains.

    Examples:
        >>> _open_end_problems(FinetuneConfig("snips", "intent-slot", "runs/a", epochs="auto", tolerance=0.5))
        ['tolerance must be left out with epochs auto, got 0.5. It decides the end itself: give the most epochs.']
    """
    if config.epochs != AUTO:
        return []
    problems = Problems()
    for name, hint in (
        ("max_steps", "The end is found by the dev metric: give the number of epochs."),
        ("tolerance", "It decides the end itself: give the most epochs."),
    ):
        value = getattr(config, name)
        problems.check(value is None, f"{name} must be left out with epochs auto, got {value}. {hint}")
    problems.check(
        not config.anneal_epochs,
        f"anneal_epochs must be 0 with epochs auto, got {config.anneal_epochs}. Which epochs are the last ones is not "
        "known before: give the number of epochs.",
    )
    return problems.found
