"""What is wrong with a comparison, as far as it can be told without its data and without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datadiet import run_folder
from datadiet.checks import ArgumentError, Problems, UserError, unknown
from datadiet.comparison.plan import Cell, Plan, on_everything
from datadiet.comparison.presets import BASELINES, FULL, OF_A_RUN, OTHERS, OWN, PRESETS, RANDOM, SHORT
from datadiet.config import FinetuneConfig, config_from
from datadiet.schedule_checks import schedule_problems
from datadiet.schedules import parse_keep

_OPTIONS = tuple(FinetuneConfig.__dataclass_fields__)


def check_plan(plan: Plan, *, metric: Any = None) -> None:
    """Refuse what no run could do, before any starts.

    Args:
        plan: Of the comparison.
        metric: That verdicts shall be about; None for the task's main one.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    for name in OWN:
        problems.check(name not in plan.options, f"{name} is set by the comparison itself: leave it out.")
    problems.check(bool(plan.methods), f"no method is compared. Allowed: {', '.join(PRESETS)}. {OTHERS}")
    for name, options in plan.methods.items():
        problems.check(
            name not in (FULL, SHORT), f"{name} is a baseline that is always run: leave it out of the methods."
        )
        for option in options:
            known = option in _OPTIONS and (option not in OWN or option in OF_A_RUN)
            problems.check(known, unknown(f"option of {name}", option, _OPTIONS))
        problems.check(
            plan.after(name) is None or FULL in plan.baselines,
            f"{name} learns from the run on everything: leave {FULL} among the baselines.",
        )
    for name in plan.baselines:
        problems.choice("baseline", name, BASELINES)
    problems.check(len(plan.seeds) > 0, "seeds must be at least 1.")
    problems.check(len(set(plan.seeds)) == len(plan.seeds), "a seed is named twice.")
    problems.check(plan.margin > 0, f"margin must be above 0 points, got {plan.margin}.")
    for keep in plan.keeps:
        _check_keep(keep, problems)
    allowed = run_folder.METRICS.get(str(plan.options.get("task")))
    if metric is not None and allowed is not None:
        problems.choice("metric", metric, allowed)
    problems.found += _arm_problems(plan)
    problems.raise_any()


def _check_keep(keep: Any, problems: Problems) -> None:
    if isinstance(keep, bool) or not isinstance(keep, (int, float, str)):
        problems.add(f"keep must be a share such as 0.5, or steps such as 1:0.7,4:0.5; got {keep!r}.")
        return
    try:
        share = parse_keep(keep)
    except ArgumentError as error:
        problems.include(error)
        return
    if isinstance(share, (int, float)):
        problems.share("keep", share)
        problems.check(share != 1, "keep 1 is full data, which is always run: leave it out.")


def _arm_problems(plan: Plan) -> list[str]:
    """Options of a wrong type and schedules that cannot be, of every arm."""
    arms = dict(_arms(plan))
    found: dict[str, list[str]] = {}
    for arm, settings in arms.items():
        try:
            found[arm] = schedule_problems(config_from({**_NEEDED, **settings}))
        except UserError as error:
            found[arm] = list(error.problems)
    return told_once(found, list(arms))


_NEEDED = {"data": "", "task": "", "output": ""}  # are looked at elsewhere


def _arms(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """The options of each arm that is no `short`, by its name; those that do not exist are left out."""

    def known(method: str, **more: Any) -> dict[str, Any]:
        return {name: value for name, value in (plan.options_of(method) | more).items() if name in _OPTIONS}

    if FULL in plan.baselines:
        yield FULL, on_everything(known(FULL))
    for method in [*plan.methods, *([RANDOM] if RANDOM in plan.baselines else [])]:
        if (points := plan.tolerance_of(method)) is not None:
            yield Cell(method, None, 0, tolerance=points).arm, known(method)
        for keep in plan.keeps_of(method):
            if isinstance(keep, (int, float, str)):
                yield Cell(method, keep, 0).arm, known(method, keep=keep)


def told_once(found: Mapping[str, list[str]], arms: Sequence[str]) -> list[str]:
    """One sentence for each problem: with the arms that have it, and without where every run does.

    Args:
        found: Problems by arm.
        arms: All of them. What is wrong with `full`, which has no options of its own, is wrong with every run.

    Example:
        >>> found = {"full": ["no data."], "a-0.5": ["no data.", "x."], "b-0.5": ["x."]}
        >>> told_once(found, ["full", "a-0.5", "b-0.5", "c-0.5"])
        ['no data.', 'a-0.5, b-0.5: x.']
    """
    having: dict[str, list[str]] = {}
    for arm, problems in found.items():
        for problem in dict.fromkeys(problems):
            having.setdefault(problem, []).append(arm)
    diets = len([arm for arm in arms if arm != FULL])
    return [
        problem if FULL in held or len(held) == diets > 1 else f"{', '.join(held)}: {problem}"
        for problem, held in having.items()
    ]
