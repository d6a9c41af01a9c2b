"""The verdict on a method in one sentence: what it saves, whether it is worse, whether fewer epochs do as well.

The model cards of a comparison's runs say what was found about their method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datadiet.compare.run import RUNS
from datadiet.files import write_atomically
from datadiet.formatting import escaped
from datadiet.store import run_folder
from datadiet.types import Json

LEVEL = 0.05


def verdict(line: Mapping[str, Any]) -> str:
    """What may be said of one entry of `comparison.json`, and nothing more.

    Args:
        line: The entry.

    Example:
        >>> saved = {"finetune_s": {"median": 0.39, "interval": None}}
        >>> line = {"method": "el2n", "saved": saved, "ceiling": 0.45, "against": {}, "seeds": [0]}
        >>> verdict({**line, "comparable_times": True})
        'saves 39 % of the fine-tuning time (ceiling 45 %)'
    """
    if line["method"] == "full":
        return "what the others are compared with"
    against = line["against"]
    parts = [_saved(line), _money(line.get("price")), _energy(line.get("energy"))]
    if "full" in against:
        parts.append(_not_worse(against["full"], line.get("p_not_worse_holm")))
    parts += [_beside(name, against[name]) for name in ("short", "random") if name in against]
    return "; ".join(part for part in parts if part)


def _saved(line: Mapping[str, Any]) -> str:
    if not line["comparable_times"]:
        return "times are not comparable: not every run is known to have had the machine to itself"
    saved = line["saved"].get("finetune_s")
    if saved is None:
        return ""
    share = saved["median"]
    ceiling = "" if line["ceiling"] is None else f" (ceiling {percent(line['ceiling'])})"
    if share < 0:
        return f"takes {percent(-share)} more fine-tuning time"
    return f"saves {percent(share)} of the fine-tuning time{ceiling}"


def _money(price: Mapping[str, Any] | None) -> str:
    if price is None or price["saved"] is None:
        return ""
    word = "less" if price["saved"] >= 0 else "more"
    return f"a run costs {three_digits(price['mean'])}, {three_digits(abs(price['saved']))} {word} than full"


def _energy(energy: Mapping[str, Any] | None) -> str:
    if energy is None or energy["saved"] is None:
        return ""
    share = energy["saved"]["median"]
    word = "less" if share >= 0 else "more"
    how = " (estimated)" if energy["estimated"] else ""
    return f"a run takes {three_digits(energy['mean_kwh'])} kWh{how}, {percent(abs(share))} {word} than full"


def _not_worse(found: Mapping[str, Any], adjusted: float | None) -> str:
    margin, mean = f"{found['margin']:g} points", points(found["mean"])
    if found["p_not_worse"] is None:
        return f"{mean} points against full in one seed, from which no interval follows: run more seeds"
    p = found["p_not_worse"] if adjusted is None else adjusted
    if p < LEVEL:
        return f"not worse than full by more than {margin} ({spread(found)}, p = {p:.2g})"
    claim = f"not shown to be within {margin} of full ({spread(found)}, p = {p:.2g})"
    needed, seeds = found["seeds_needed"], len(found["seeds"])
    if needed is None:
        return f"{claim}, and at this difference no number of seeds would show it"
    return claim if needed <= seeds else f"{claim}: about {needed} seeds would do"


def _beside(name: str, found: Mapping[str, Any]) -> str:
    """Beside `short` and `random`: better, worse, or not shown."""
    what = "short at the same steps" if name == "short" else "random at the same keep"
    interval = found["interval"]
    if interval is None:
        return f"against {what} {points(found['mean'])} in one seed"
    shown = interval["low"] > 0 or interval["high"] < 0
    word = "not shown" if not shown else "better" if found["mean"] > 0 else "worse"
    return f"against {what} {spread(found)}: {word}"


def spread(found: Mapping[str, Any]) -> str:
    """Mean and half the width of the interval.

    Example:
        >>> spread({"mean": 0.1, "interval": {"low": -0.2, "high": 0.4}})
        '+0.1 ± 0.3'
    """
    interval = found["interval"]
    return points(found["mean"]) + ("" if interval is None else f" ± {(interval['high'] - interval['low']) / 2:.1f}")


def points(value: float) -> str:
    """A difference in points with its sign; 0 has none.

    Example:
        >>> points(0.14), points(-0.04)
        ('+0.1', '0.0')
    """
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def three_digits(value: float) -> str:
    """A positive number of any size with about three digits that count, and never with an exponent.

    Example:
        >>> [three_digits(value) for value in (0, 0.00012345, 0.048, 1.5, 123.4)]
        ['0', '0.000123', '0.0480', '1.50', '123']
    """
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def energy_words(energy: Mapping[str, Any]) -> str:
    """The energy of a run, and whether it is an estimate.

    Example:
        >>> energy_words({"kwh": 0.0123, "estimated": True})
        '0.0123 kWh (estimated)'
    """
    return f"{three_digits(energy['kwh'])} kWh{' (estimated)' if energy['estimated'] else ''}"


def percent(share: float) -> str:
    """A share in whole percent.

    Example:
        >>> percent(0.387)
        '39 %'
    """
    return f"{100 * share:.0f} %"


HEADING = "## Comparison"


def state_comparison(folder: Path, found: Json) -> None:
    """Put the verdict on a method into the model card of each of its runs, in place of an earlier one.

    Args:
        folder: Of the comparison.
        found: The content of `comparison.json`.
    """
    for line in found["methods"]:
        for seed in line["seeds"]:
            card = folder / RUNS / f"{line['name']}-seed{seed}" / run_folder.MODEL / "README.md"
            if card.is_file():
                kept, _, _ = card.read_text(encoding="utf-8").partition(f"\n{HEADING}\n")
                write_atomically(card, f"{kept.rstrip()}\n\n{_section(line, found)}")


def _section(line: Json, found: Json) -> str:
    metric = found["metric"]
    figure = line["metrics"][metric]
    spread = "" if figure["deviation"] is None else f" ± {figure['deviation']:.2f}"
    verdict = escaped(line["verdict"])
    return (
        f"{HEADING}\n\n"
        f"`{line['name']}`, {len(line['seeds'])} seed{'' if len(line['seeds']) == 1 else 's'}, "
        f"{metric.replace('_', ' ')} {figure['mean']:.2f}{spread} on the {found['split']} split: {verdict}.\n"
    )
