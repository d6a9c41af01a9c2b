"""The options of scores by name: what each takes, checked before anything is computed. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from datadiet.checks import Problems, unknown

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
