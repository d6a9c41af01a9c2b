"""What a static selection is asked for, and what of it does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datadiet.checks import Problems, unknown
from datadiet.records import Selection
from datadiet.score_file import ScoreFile
from datadiet.selecting.suspects import suspicion_problems
from datadiet.selectors import NEEDS, OPTIONS, SELECTORS

Select = str | Callable[..., Selection]


@dataclass(frozen=True)
class Wish:
    """The arguments of `select_rows` that can be checked before the data are read; see there."""

    score: str | None = None
    select: Select = "hardest"
    keep: float | None = None
    count: int | None = None
    floor: int = 0
    seed: int = 0
    drop_suspects: float = 0.0
    dedupe: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    suspects_by: str | None = None
    near: float | None = None


def wish_problems(file: ScoreFile | None, wish: Wish) -> list[str]:
    """What is wrong with the arguments, as far as it can be seen without the texts.

    Args:
        file: None where it could not be read; then only what does not depend on it is checked.
        wish: Of the user.

    Returns:
        One sentence each.
    """
    problems = Problems()
    if wish.keep is not None:
        problems.share("keep", wish.keep)
    if wish.count is not None:
        problems.whole("count", wish.count, least=1)
    problems.check(wish.keep is None or wish.count is None, "keep and count say the same thing: give one of them.")
    smaller = wish.drop_suspects or wish.dedupe
    if wish.keep is None and wish.count is None and not smaller:
        problems.add("nothing is dropped: give keep (a share) or count, or drop suspects or duplicates.")
    problems.whole("floor", wish.floor)
    problems.whole("seed", wish.seed)
    in_range = isinstance(wish.drop_suspects, (int, float)) and 0 <= wish.drop_suspects < 1
    problems.check(in_range, f"drop_suspects must be a share in [0, 1), got {wish.drop_suspects}.")
    problems.check(
        wish.suspects_by is None or bool(wish.drop_suspects), "suspects_by has no effect without drop_suspects."
    )
    problems.check(wish.near is None or wish.dedupe, "near has no effect without dedupe.")
    close = wish.near is None or (isinstance(wish.near, (int, float)) and 0 < wish.near < 1)
    problems.check(close, f"near must be a similarity in (0, 1), got {wish.near}.")
    problems.found += option_problems(wish.select, wish.options)
    if file is not None:
        _check_against(file, wish, problems)
    return problems.found


def _check_against(file: ScoreFile, wish: Wish, problems: Problems) -> None:
    there = list(file.values)
    if wish.score is None:
        told = f"the file has several scores ({', '.join(there)}): say which one to select by."
        problems.check(len(there) == 1, told)
    else:
        problems.choice("score", wish.score, there)
    if wish.drop_suspects:
        problems.found += suspicion_problems(file, wish.suspects_by)
    needs = NEEDS.get(wish.select, ()) if isinstance(wish.select, str) else ()
    if file.labels is None and (wish.floor or "groups" in needs):
        what = "a floor" if wish.floor else f"the selector {wish.select}"
        problems.add(f"{what} needs the class of each row, and the file has none (task {file.task}).")
    if wish.count is not None and isinstance(wish.count, int) and wish.count > len(file):
        problems.add(f"count must be at most {len(file)}, the rows of the file, got {wish.count}.")


def option_problems(select: Select, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a selector's name and the names of its options; their values are checked by itself.

    Example:
        >>> option_problems("ccs", {"betta": 0.1})
        ["the selector ccs: unknown option 'betta'; did you mean 'beta'? Allowed: beta, edges, strata."]
    """
    if not isinstance(select, str):
        return []
    if select not in SELECTORS:
        return [unknown("selector", select, SELECTORS)]
    known = options_of(select, options)
    wrong = sorted(options.keys() - known.keys())
    none = f"the selector {select} has no options, got {', '.join(wrong)}."
    found = [f"the selector {select}: {unknown('option', name, known)}" for name in wrong]
    found = [none] if found and not known else found
    inner = options.get("select")
    if isinstance(inner, str) and inner not in SELECTORS:
        found.append(unknown("selector", inner, SELECTORS))
    missing = [name for name in NEEDS.get(select, ()) if name in OPTIONS[select] and options.get(name) is None]
    return found + [f"the selector {select} needs the option {name}." for name in missing]


def options_of(select: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that a selector takes, with their defaults: its own, and those of the selector inside it."""
    own = dict(OPTIONS.get(select, {}))
    if "select" not in own:
        return own
    inner = options.get("select", own["select"])
    name = inner if isinstance(inner, str) else getattr(inner, "__name__", "")
    return {**OPTIONS.get(name, {}), **own}
