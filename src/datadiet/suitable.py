"""Which scores and selectors suit which task: one rule, told before anything is trained, passed or written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datadiet.dynamic_scores import DYNAMIC_SCORES
from datadiet.selectors import NEEDS

REGRESSION = "regression"
ONE_CLASS = ("classification", "intent-slot")  # tasks whose examples have one class each
GROUPED = (*ONE_CLASS, "multi-label")  # whose examples fall into groups: there the sets of labels
COMPARED = ("teacher_el2n", "teacher_divergence")  # read the class probabilities of two models

# columns of the score history that a regression does not fill
_OF_CLASSES = {"gold_probability", "margin", "correct"}
OF_CLASSES: tuple[str, ...] = (
    *("cross_entropy", "margin", "entropy", "vog"),
    *(name for name, score in DYNAMIC_SCORES.items() if _OF_CLASSES & set(score.columns)),
)


def score_problems(score: str, task: str) -> list[str]:
    """Why there is no such score for a task; nothing where there is.

    Args:
        score: Its name; one that does not exist is for others to tell.
        task: One of `datadiet.data.TASKS`.

    Example:
        >>> score_problems("aum", "regression"), score_problems("el2n", "regression")
        (['the score aum is for classes; a regression has none.'], [])
    """
    if score in OF_CLASSES and task == REGRESSION:
        return [f"the score {score} is for classes; a regression has none."]
    if score == "absolute_error" and task != REGRESSION:
        return [f"the score {score} is for regression, not for {task}."]
    return one_class_problems(score, task) if score in COMPARED else []


def one_class_problems(what: str, task: str) -> list[str]:
    """Why something that goes by the one class of each example is not for a task; nothing where it is."""
    if task in ONE_CLASS:
        return []
    return [f"{what} is for examples with one class each ({' and '.join(ONE_CLASS)}), not for {task}."]


def selector_problems(select: str, options: Mapping[str, Any], task: str) -> list[str]:
    """Why a selector, with its options, is not for a task; nothing where it is.

    Args:
        select: Its name; one that does not exist is for others to tell.
        options: Its own, by name.
        task: One of `datadiet.data.TASKS`.

    Example:
        >>> selector_problems("balanced", {}, "regression")
        ['the selector balanced is for examples with a class; for regression they have none.']
        >>> selector_problems("drop_quota", {}, "multi-label")[0][:60]
        'the selector drop_quota is for examples with one class each '
    """
    needs = NEEDS.get(select, ())
    if task not in GROUPED:
        found = [f"the selector {select}"] if "groups" in needs else []
        found += ["per_group of the selector moderate"] if select == "moderate" and options.get("per_group") else []
        return [f"{what} is for examples with a class; for {task} they have none." for what in found]
    # where an example has a set of labels, no recall and no option has an entry for each set
    if "recalls" in needs:
        return one_class_problems(f"the selector {select}", task)
    named = [name for name, value in options.items() if isinstance(value, Mapping)]
    return [problem for name in named for problem in one_class_problems(f"the option {name} of {select}", task)]
