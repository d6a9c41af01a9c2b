"""The options of scores by name: what each takes, checked before anything is computed. Imports nothing heavy.

Which scores and selectors suit which task: one rule, told before anything is trained, passed or written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from datadiet.errors import Problems, unknown
from datadiet.scores.dynamics import DYNAMIC_SCORES
from datadiet.selectors import NEEDS

_METRICS, _SEARCHES = ("euclidean", "cosine"), ("exact", "faiss")
_PARAMETERS, _METHODS = ("all", "last_layer"), ("auto", "layers", "func")
_BURN_OUT = {"burn_out": 1}

# of each option the names that it may have, or the least whole number
SCORE_OPTIONS: Mapping[str, Mapping[str, tuple[str, ...] | int]] = {
    "prototypes": {"clusters": 1, "metric": _METRICS, "backend": ("sklearn", "faiss")},
    "neighbour_distance": {"neighbours": 1, "metric": _METRICS, "search": _SEARCHES},
    "length": {"unit": ("words", "characters")},
    "vog": {"normalise": ("auto", "class", "dataset", "none"), "rows_at_once": 1},
    "grand": {"parameters": _PARAMETERS, "method": _METHODS},
    "self_influence": {"parameters": _PARAMETERS, "method": _METHODS},
    "tracin": {"parameters": _PARAMETERS},
    **dict.fromkeys(("confidence", "variability", "correctness", "threshold_closeness"), _BURN_OUT),
    **dict.fromkeys(("forgetting", "aum", "tracin_self_influence", "grand_last_layer"), _BURN_OUT),
}
# those of which there must be so many examples, and how many fewer the option may say
_COUNTED = {"clusters": 0, "neighbours": 1}


def score_option_problems(score: str, given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the options of a score.

    Example:
        >>> score_option_problems("length", {"unit": "word"})
        ["unknown unit of length 'word'; did you mean 'words'? Allowed: characters, words."]
        >>> score_option_problems("el2n", {"clusters": 5})
        ["score_options has no effect with the score 'el2n', which has no options."]
    """
    known, problems = SCORE_OPTIONS.get(score, {}), Problems()
    if given and not known:
        return [f"score_options has no effect with the score {score!r}, which has no options."]
    for name, value in given.items():
        allowed = known.get(name)
        if allowed is None:
            problems.add(unknown(f"option of {score}", name, known))
        elif isinstance(allowed, int):
            problems.whole(f"{name} of {score}", value, least=allowed)
        else:
            problems.choice(f"{name} of {score}", value, allowed)
    return problems.found


def check_counts(options: Mapping[str, Mapping[str, Any]], rows: int) -> None:
    """Refuse options that there are too few examples for.

    Args:
        options: By score; see `score_option_problems`.
        rows: Training rows.

    Raises:
        ArgumentError: For all such options.

    Example:
        >>> check_counts({"prototypes": {"clusters": 500}}, rows=1000)
    """
    problems = Problems()
    for score, given in options.items():
        for name, less in _COUNTED.items():
            if isinstance(value := given.get(name), int) and value > rows - less:
                told = "the number of training rows" if not less else "one less than the number of training rows"
                problems.add(f"{name} of {score} must be at most {told}, {rows - less}, got {value}.")
    problems.raise_any()


def by_score(given: Mapping[str, Any], scores: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Options of several scores, each under the name of its score; of one score alone also without it.

    Args:
        given: `{"prototypes": {"clusters": 500}}`, or `{"clusters": 500}`.
        scores: Those that are asked for.

    Returns:
        Options by score, and what is wrong with them.

    Example:
        >>> by_score({"unit": "characters"}, ["length"])
        ({'length': {'unit': 'characters'}}, [])
        >>> by_score({"unit": "characters"}, ["length", "scdp"])[1]
        ['score_options needs the score before an option where several are asked for, as length.unit=characters.']
    """
    names, problems = list(scores), Problems()
    found: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            problems.choice("score in score_options", name, names)
            found.setdefault(str(name), {}).update(value)
        elif len(names) == 1:
            found.setdefault(names[0], {})[str(name)] = value
        else:
            owner = next((score for score in names if name in SCORE_OPTIONS.get(score, {})), names[0] if names else "")
            problems.add(
                "score_options needs the score before an option where several are asked for, as "
                f"{owner}.{name}={value}."
            )
    for score, options in found.items():
        problems.found += score_option_problems(score, options) if score in names else []
    return found, problems.found


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
        task: One of `datadiet.data.schema.TASKS`.

    Example:
        >>> score_problems("aum", "regression"), score_problems("el2n", "regression")
        (['the score aum is for classes; a regression has none.'], [])
    """
    if score in OF_CLASSES and task == REGRESSION:
        return [f"the score {score} is for classes; a regression has none."]
    if score == "absolute_error" and task != REGRESSION:
        return [f"the score {score} is for regression, not for {task}."]
    if score == "negative_pvi" and task != "classification":
        return [f"the score {score} is for the classes of whole texts (classification), not for {task}."]
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
        task: One of `datadiet.data.schema.TASKS`.

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
