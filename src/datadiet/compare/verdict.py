"""A comparison in words: the verdict on each method, the cells of its table, and a section in the model cards.

Everything here reads `comparison.json` (see `datadiet.compare.outcome`); the terminal and the page of a comparison show
the same cells and sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datadiet.compare.plan import DRAWN, FULL, SHORT
from datadiet.compare.run import RUNS
from datadiet.files import write_atomically
from datadiet.formatting import (
    counted,
    decimals_of,
    difference_text,
    escaped,
    mean_text,
    percent,
    points,
    spaced,
    three_digits,
)
from datadiet.store import run_folder
from datadiet.store.run_folder import LIKELIHOODS, LOWER_IS_BETTER
from datadiet.types import Json

LEVEL = 0.05  # of the one-sided test against full
HIDDEN_METRICS = ("nll", "mse", "macro_f1", "perplexity")  # in `comparison.json`, but in no table
TIMES = ("finetune_s", "total_s")
WIDE = 0.1  # of the metric of full: a margin above it shows little
LEAST_SEEDS = 3  # of a comparison that can show something
HEADING = "## Comparison"
MOST_NAMED = 4  # methods in the sentence on unfinished training; the table has all

# The five answers to "does this pay here?", each with the words of a page, the best answer first.
STATES = {
    "pays": "It pays",
    "as_short": "As good as short",
    "unclear": "Cannot tell yet",
    "no_time": "It saves no time",
    "costs": "It costs quality",
}


def table_metrics(comparison: Json) -> list[str]:
    """The metrics that a table of the comparison has; of language models also `nll`, which they are judged by."""
    names = comparison["methods"][0]["metrics"]
    hidden = set(HIDDEN_METRICS) - ({"nll"} if "perplexity" in names else set())
    return [name for name in names if name not in hidden]


def measured_energy(comparison: Json) -> bool:
    """Whether the energy of some method is known."""
    return any(line["energy"] for line in comparison["methods"])


def result_cells(comparison: Json, line: Json, decimals: int, metrics: Sequence[str] | None = None) -> list[str]:
    """Steps, metrics, shares of `TIMES` saved, and the ceiling of one method, as a table shows them.

    Args:
        comparison: The content of `comparison.json`.
        line: Its entry of the method.
        decimals: Of the metrics; the percentages have one less.
        metrics: Those of the table by default.
    """
    full, share = line["method"] == FULL, decimals - 1
    saved = [line["saved"][name] if line["comparable_times"] and not full else None for name in TIMES]
    times = ["" if saving is None else percent(saving["median"], share) for saving in saved]
    ceiling = "" if full or line["ceiling"] is None else percent(line["ceiling"], share)
    shown = table_metrics(comparison) if metrics is None else metrics
    digits = {name: 3 if name in LOWER_IS_BETTER else decimals + (name in LIKELIHOODS) for name in shown}
    means = [mean_text(line["metrics"][name], digits[name]) for name in shown]
    return [f"{line['steps']:,}", *means, *times, ceiling]


def has_unfinished(comparison: Json) -> bool:
    """Whether the dev metric of some method still rose at the end; not known of older comparisons."""
    return any(line.get("unfinished") for line in comparison["methods"])


def rising_cell(line: Mapping[str, Any]) -> str:
    """Points per epoch by which a method still rose on dev, as a table shows them; empty where it had stopped."""
    found = line.get("unfinished")
    return points(found["points_per_epoch"], decimals_of(found["error"])) if found else ""


def unfinished_sentence(comparison: Json) -> str:
    """What to know of a comparison of unfinished training, and to do; empty where no method is unfinished.

    Examples:
        >>> rising = {"seeds": [0], "points_per_epoch": 4.2, "error": 1.7, "epoch_rows": 600}
        >>> methods = [{"name": "full", "unfinished": rising}, {"name": "el2n-0.5", "unfinished": None}]
        >>> print(unfinished_sentence({"methods": methods}))
        This is a comparison of unfinished training: in the last epochs dev still rose by more than its standard error,
        per epoch by 4.2 points with full (epochs of 600 rows). After longer training another method may win: raise the
        epochs (--epochs auto finds how many) or the learning rate.
    """
    rising = [(line["name"], line["unfinished"]) for line in comparison["methods"] if line.get("unfinished")]
    if not rising:
        return ""
    if len(rising) > MOST_NAMED:
        found = sorted(one["points_per_epoch"] for _, one in rising)
        places = max(decimals_of(one["error"]) for _, one in rising)
        among = f"{len(rising)} of {len(comparison['methods'])} methods (the table has each)"
        each = f"{found[0]:.{places}f} to {found[-1]:.{places}f} points with {among}"
    else:
        each = ", ".join(
            f"{one['points_per_epoch']:.{decimals_of(one['error'])}f} points with {name} (epochs of "
            f"{one['epoch_rows']:,} rows)"
            for name, one in rising
        )
    return (
        "This is a comparison of unfinished training: in the last epochs dev still rose by more than its standard "
        f"error, per epoch by {each}. After longer training another method may win: raise the epochs (--epochs auto "
        "finds how many) or the learning rate."
    )


def margin_sentence(comparison: Json) -> str:
    """What to know of a margin that is a large part of the metric itself; empty where it is not.

    Examples:
        >>> full = {"method": "full", "metrics": {"likelihood": {"mean": 0.7}}}
        >>> print(margin_sentence({"methods": [full], "metric": "likelihood", "margin": 0.5}))
        The margin of 0.5 points is 71 % of what full reaches (0.70 points of likelihood), so that "not worse than full"
        says little: give a smaller --margin, or train longer.
    """
    metric, margin = comparison["metric"], comparison["margin"]
    full: Mapping[str, Any] = next((line["metrics"] for line in comparison["methods"] if line["method"] == FULL), {})
    reached = full.get(metric, {"mean": 0.0})["mean"]
    if reached <= 0 or margin <= WIDE * reached:
        return ""
    return (
        f"The margin of {margin:g} points is {percent(margin / reached, 0)} of what full reaches ({reached:.2f} "
        f'points of {spaced(metric)}), so that "not worse than full" says little: give a smaller --margin, or train '
        "longer."
    )


def warnings(comparison: Json) -> list[str]:
    """What to know before the verdicts are read, in sentences."""
    return [text for text in (unfinished_sentence(comparison), margin_sentence(comparison)) if text]


def state(line: Mapping[str, Any], short: Mapping[str, Any] | None) -> str:
    """Which of `STATES` a method is in, from intervals over the seeds alone.

    Args:
        line: Its entry of `comparison.json`.
        short: The entry of the `short` that stands beside it; None where none ran.

    Returns:
        `pays`: shown to be not worse than full by the margin, and better than `short`; it saves time. `as_short`: not
        worse than full, and so is `short`, or the interval leaves it no more than the margin over `short`. `costs`:
        shown to be worse than full or than `short`. `no_time`: not that, and it saves no time. `unclear`: all else.
    """
    against, saved = line["against"], line["saved"].get("finetune_s")
    to_full, to_short = against.get(FULL), against.get(SHORT)
    good = is_not_worse(line)
    if _worse(to_short) or (_worse(to_full) and not good):
        return "costs"
    if saved is not None and line["comparable_times"] and saved["median"] <= 0:
        return "no_time"
    if not good or saved is None or not line["comparable_times"] or to_short is None or to_short["interval"] is None:
        return "unclear"
    if to_short["interval"]["low"] > 0:
        return "pays"
    even = to_short["interval"]["high"] <= to_short["margin"] or (short is not None and is_not_worse(short))
    return "as_short" if even else "unclear"


def _worse(difference: Mapping[str, Any] | None) -> bool:
    """Whether the interval of a difference lies below zero."""
    return difference is not None and difference["interval"] is not None and bool(difference["interval"]["high"] < 0)


def diets(comparison: Json) -> list[Json]:
    """The entries of the methods that are compared: neither full nor a baseline."""
    baselines = {*comparison["plan"]["baselines"], FULL} - set(comparison["plan"]["methods"])
    return [
        line
        for line in comparison["methods"]
        if line["method"] not in baselines and not line["method"].startswith(SHORT)
    ]


def short_beside(comparison: Json, line: Mapping[str, Any]) -> Json | None:
    """The entry of the `short` with as many steps as a method; None where none ran."""
    keep = str(line["name"]).removeprefix(f"{line['method']}-")
    names = (f"{SHORT}_{line['method']}-{keep}", f"{SHORT}-{keep}")
    found = {one["name"]: one for one in comparison["methods"]}
    return next((found[name] for name in names if name in found), None)


def answer(comparison: Json) -> Json | None:
    """Whether a diet pays on this data, and which one: the method in the best state, of equals the best one.

    Returns:
        `state` (of `STATES`), `method` (its name with its keep), and `next`: what to do, or what would settle it. None
        where no method beside the baselines has finished.
    """
    found = [(line, state(line, short_beside(comparison, line))) for line in diets(comparison)]
    if not found:
        return None
    best, name = min(found, key=lambda one: (list(STATES).index(one[1]), -_merit(*one)))
    return {"state": name, "method": best["name"], "next": _next(comparison, best, name)}


def _merit(line: Json, name: str) -> float:
    """The time saved where quality holds; the difference to full otherwise."""
    if name in ("pays", "as_short"):
        return float(line["saved"]["finetune_s"]["median"])
    full = line["against"].get(FULL)
    return -math.inf if full is None else float(full["mean"])


def _next(comparison: Json, line: Json, name: str) -> str:
    short = short_beside(comparison, line)
    if name == "pays":
        return f"Train with it: `{line['name']}` has its options in the plan of the comparison."
    if name == "as_short" and short is not None:
        return f"Take fewer epochs: `{short['name']}` trains on everything for {short['steps']:,} steps."
    if name == "no_time":
        return "Train on everything: choosing took as long as it saved. On more data, or a larger model, it may pay."
    if name == "costs":
        return "Keep more rows, or all: where labels or answers are ambiguous or wrong, hard rows are the wrong ones."
    return " ".join(_settling(comparison, line)) or "Run more seeds."


def _settling(comparison: Json, line: Json) -> list[str]:
    """What a comparison lacks for a claim about a method."""
    against, seeds = line["against"], len(line["seeds"])
    sentences = []
    if line.get("unfinished"):
        sentences.append("Train longer first: dev still rose (`--epochs auto` finds how many epochs).")
    if FULL not in against or SHORT not in against:
        sentences.append("Run the baselines `full` and `short` beside it.")
    if not line["comparable_times"]:
        sentences.append("Run one job at a time, so that times can be compared.")
    needed = None if FULL not in against else against[FULL]["seeds_needed"]
    if seeds < LEAST_SEEDS:
        sentences.append(
            f"Run at least {LEAST_SEEDS} seeds (`--seeds {LEAST_SEEDS}`): {counted(seeds, 'seed')} gives no interval."
        )
    elif needed is not None and needed > seeds:
        sentences.append(f"Run about {needed} seeds.")
    elif FULL in against and needed is None:
        sentences.append(
            "Keep more: at the measured loss no number of seeds would show that the diet is as good as full."
        )
    elif not sentences:
        sentences.append(
            f"Run more than {counted(seeds, 'seed')}: the interval against `short` still holds both answers."
        )
    return sentences


def verdicts(comparison: Json) -> dict[str, str]:
    """The verdict on each method, by its name with its keep; `full` and `short` have none of their own."""
    return {
        line["name"]: line["verdict"]
        for line in comparison["methods"]
        if line["method"] != FULL and not line["method"].startswith(SHORT)
    }


def basis(comparison: Json) -> str:
    """The metric, the margin and the shared options that the verdicts rest on."""
    metric, margin = spaced(comparison["metric"]), comparison["margin"]
    return f"verdicts about {metric} with a margin of {margin:g} points. Held equal: {comparison['held_equal']}."


def is_not_worse(line: Mapping[str, Any]) -> bool:
    """Whether it is shown, after Holm's correction, that a method is not worse than full by the margin or more."""
    p = line["p_not_worse_holm"]
    return p is not None and p < LEVEL


def verdict(line: Mapping[str, Any]) -> str:
    """One sentence: the time and energy saved, whether the method is worse than full, and how it does beside baselines.

    Args:
        line: An entry of `comparison.json`.

    Examples:
        >>> saved = {"finetune_s": {"median": 0.39, "interval": None}}
        >>> line = {"method": "el2n", "saved": saved, "ceiling": 0.45, "energy": None, "against": {}, "seeds": [0]}
        >>> verdict({**line, "comparable_times": True})
        'saves 39 % of the fine-tuning time (ceiling 45 %)'
    """
    if line["method"] == FULL:
        return "what the others are compared with"
    against = line["against"]
    parts = [_time(line), _energy(line["energy"]), _rules(line.get("rules"))]
    if FULL in against:
        parts.append(_against_full(against[FULL], line["p_not_worse_holm"]))
    parts += [_against(name, against[name]) for name in (SHORT, *DRAWN) if name in against]
    if line.get("unfinished"):
        parts.append(f"unfinished: on dev it still rose by {rising_cell(line).lstrip('+')} points per epoch")
    return "; ".join(part for part in parts if part)


def _rules(rules: Mapping[str, int] | None) -> str:
    """What chose in the runs of `auto`, and in how many."""
    if not rules:
        return ""
    return "chose " + " and ".join(f"{rule} in {counted(runs, 'run')}" for rule, runs in rules.items())


def _time(line: Mapping[str, Any]) -> str:
    if not line["comparable_times"]:
        return "times are not comparable: not every run is known to have had the machine to itself"
    saved = line["saved"].get("finetune_s")
    if saved is None:
        return ""
    share = saved["median"]
    ceiling = "" if line["ceiling"] is None else f" (ceiling {percent(line['ceiling'], 0)})"
    if share < 0:
        return f"takes {percent(-share, 0)} more fine-tuning time"
    return f"saves {percent(share, 0)} of the fine-tuning time{ceiling}"


def _energy(energy: Mapping[str, Any] | None) -> str:
    if energy is None or energy["saved"] is None:
        return ""
    share = energy["saved"]["median"]
    word = "less" if share >= 0 else "more"
    estimated = " (estimated)" if energy["estimated"] else ""
    return f"a run takes {three_digits(energy['mean_kwh'])} kWh{estimated}, {percent(abs(share), 0)} {word} than full"


def _against_full(difference: Mapping[str, Any], adjusted: float | None) -> str:
    margin = f"{difference['margin']:g} points"
    if difference["p_not_worse"] is None:
        mean = difference_text(difference)
        return f"{mean} points against full in one seed, from which no interval follows: run more seeds"
    p = difference["p_not_worse"] if adjusted is None else adjusted
    if p < LEVEL:
        return f"not worse than full by more than {margin} ({difference_text(difference)}, {_p_text(p)})"
    claim = f"not shown to be within {margin} of full ({difference_text(difference)}, {_p_text(p)})"
    needed, seeds = difference["seeds_needed"], len(difference["seeds"])
    if needed is None:
        return f"{claim}, and at this difference no number of seeds would show it"
    return claim if needed <= seeds else f"{claim}: about {needed} seeds would do"


def _p_text(p: float) -> str:
    """A p-value as papers print it: seeds that agree exactly give 0, which no test shows.

    Examples:
        >>> _p_text(0.0), _p_text(0.0123)
        ('p < 0.001', 'p = 0.012')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _against(name: str, difference: Mapping[str, Any]) -> str:
    """Beside `short`, `random` and `cover`: better, worse, or not shown."""
    baseline = "short at the same steps" if name == SHORT else f"{name} at the same keep"
    interval = difference["interval"]
    if interval is None:
        return f"against {baseline} {difference_text(difference)} in one seed"
    shown = interval["low"] > 0 or interval["high"] < 0
    word = "not shown" if not shown else "better" if difference["mean"] > 0 else "worse"
    return f"against {baseline} {difference_text(difference)}: {word}"


def state_comparison(folder: Path, comparison: Json) -> None:
    """Put the verdict on a method into the model card of each of its runs, in place of an earlier one.

    Args:
        folder: Of the comparison.
        comparison: The content of `comparison.json`.
    """
    for line in comparison["methods"]:
        for seed in line["seeds"]:
            card = folder / RUNS / f"{line['name']}-seed{seed}" / run_folder.MODEL / "README.md"
            if card.is_file():
                kept, _, _ = card.read_text(encoding="utf-8").partition(f"\n{HEADING}\n")
                write_atomically(card, f"{kept.rstrip()}\n\n{_section(line, comparison)}")


def _section(line: Json, comparison: Json) -> str:
    metric = comparison["metric"]
    return (
        f"{HEADING}\n\n"
        f"`{line['name']}`, {counted(len(line['seeds']), 'seed')}, {spaced(metric)} "
        f"{mean_text(line['metrics'][metric], 2)} on the {comparison['split']} split: {escaped(line['verdict'])}.\n"
    )
