"""Numbers and texts as people read them: percentages, durations, differences in points, Markdown tables.

The terminal, the pages and the verdicts all format their numbers here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from datadiet.errors import UNSAFE, visible

# The accounts of the cost ledger, in the order of a run.
ACCOUNTS = {
    "load_s": "load",
    "train_s": "train",
    "score_s": "score",
    "select_s": "select",
    "probe_s": "probe",
    "eval_s": "evaluate",
    "save_s": "save",
}


def clock(seconds: float) -> str:
    """A duration in seconds as m:ss, or as h:mm:ss from one hour on.

    Examples:
        >>> clock(42.4), clock(3723), clock(-3)
        ('0:42', '1:02:03', '-0:03')
    """
    whole = round(abs(seconds))
    minutes, left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if seconds < 0 and whole else ""
    return f"{sign}{hours}:{minutes:02d}:{left:02d}" if hours else f"{sign}{minutes}:{left:02d}"


def duration(seconds: float) -> str:
    """A duration in seconds with its units.

    Examples:
        >>> duration(9.31), duration(75), duration(4000)
        ('9.3 s', '1 min 15 s', '1 h 6 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(share: float, decimals: int = 1) -> str:
    """A share as a percentage.

    Examples:
        >>> percent(0.375), percent(0.387, 0)
        ('37.5 %', '39 %')
    """
    return f"{100 * share:.{decimals}f} %"


def number(value: float | None) -> str:
    """Four decimals, or a dash for a missing value.

    Examples:
        >>> number(0.5), number(None)
        ('0.5000', '-')
    """
    return "-" if value is None else f"{value:.4f}"


def three_digits(value: float) -> str:
    """A positive number of any size with about three significant digits, without an exponent.

    Examples:
        >>> [three_digits(value) for value in (0, 0.00012345, 0.048, 1.5, 123.4)]
        ['0', '0.000123', '0.0480', '1.50', '123']
    """
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def points(value: float, decimals: int = 1) -> str:
    """A difference in points with its sign; 0 has none.

    Examples:
        >>> points(0.14), points(-0.04), points(-0.04, 2)
        ('+0.1', '0.0', '-0.04')
    """
    text = f"{value:+.{decimals}f}"
    return text if text.strip("+-0.") else text[1:]


def decimals_of(error: float | None) -> int:
    """Decimals of points by their error: one, or as many as show it where it is smaller, at most three.

    Examples:
        >>> [decimals_of(error) for error in (None, 0.0, 0.3, 0.04, 0.002)]
        [1, 1, 1, 2, 3]
    """
    return 1 if not error or error >= 0.05 else min(3, math.ceil(-math.log10(error)))


def mean_text(figure: Mapping[str, Any], decimals: int) -> str:
    """The mean and the standard deviation over the seeds; the mean alone for one seed.

    Examples:
        >>> mean_text({"mean": 95.123, "deviation": 0.31}, 1), mean_text({"mean": 95.123, "deviation": None}, 2)
        ('95.1 ± 0.3', '95.12')
    """
    mean, deviation = figure["mean"], figure["deviation"]
    return f"{mean:.{decimals}f}" + ("" if deviation is None else f" ± {deviation:.{decimals}f}")


def difference_text(difference: Mapping[str, Any]) -> str:
    """The mean difference in points and half the width of its interval.

    Examples:
        >>> difference_text({"mean": 0.1, "interval": {"low": -0.2, "high": 0.4}})
        '+0.1 ± 0.3'
    """
    interval, mean = difference["interval"], difference["mean"]
    if interval is None:
        return points(mean, decimals_of(abs(mean)))
    half = (interval["high"] - interval["low"]) / 2
    decimals = decimals_of(half)
    return f"{points(mean, decimals)} ± {half:.{decimals}f}"


def energy_text(energy: Mapping[str, Any]) -> str:
    """The energy of a run, and whether it is an estimate.

    Examples:
        >>> energy_text({"kwh": 0.0123, "estimated": True})
        '0.0123 kWh (estimated)'
    """
    return f"{three_digits(energy['kwh'])} kWh{' (estimated)' if energy['estimated'] else ''}"


def rate_text(rate: Mapping[str, Any]) -> str:
    """The learning rate of a run, how it was found, and the weights that trained.

    Examples:
        >>> rate_text({"value": 0.0002, "rule": "auto", "weights": 22_713_216})
        'Learning rate 0.0002 (auto); 22.7 million weights train.'
    """
    how = " (auto)" if rate["rule"] == "auto" else ""
    return f"Learning rate {rate['value']:g}{how}; {rate['weights'] / 1e6:,.1f} million weights train."


def unfinished_text(result: Mapping[str, Any]) -> str:
    """What `result.json` says of a training that had not finished; empty where it had, or where that is not known.

    Examples:
        >>> unfinished_text({"convergence": {"rising": False, "advice": ""}}), unfinished_text({})
        ('', '')
    """
    return str((result.get("convergence") or {}).get("advice", ""))


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Metrics on one line.

    Examples:
        >>> metrics_text({"accuracy": 0.91234, "nll": 0.3})
        'accuracy 0.9123, nll 0.3000'
    """
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def spaced(name: str) -> str:
    """The name of a metric or a score, with spaces.

    Examples:
        >>> spaced("slot_f1")
        'slot f1'
    """
    return name.replace("_", " ")


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the plural where there is not exactly one.

    Examples:
        >>> counted(1, "seed"), counted(3000, "row")
        ('1 seed', '3,000 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def epoch_span(first: int, last: int) -> str:
    """A range of epochs, counted from 1.

    Examples:
        >>> epoch_span(0, 0), epoch_span(1, 5)
        ('1', '2-6')
    """
    return f"{first + 1}" if first == last else f"{first + 1}-{last + 1}"


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters.

    Examples:
        >>> shortened("a long sentence", 7)
        'a long…'
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown(text: object, most: int = 200) -> str:
    r"""Text from data on one line; characters that are not printable are escaped, so that they cannot steer a terminal.

    Examples:
        >>> shown("a\tb\x1b[2J"), shown("a long sentence", 8)
        ('a b\\x1b[2J', 'a long …')
    """
    line = " ".join(str(text).split())
    cut = line if len(line) <= most else f"{line[: most - 1].rstrip()} …"
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in cut)


def json_text(content: object, **options: Any) -> str:
    r"""JSON on one line or, with `indent`, on several: readable, and safe in a terminal and in UTF-8.

    Examples:
        >>> print(json_text({"text": "é \x9b \ud800"}))
        {"text": "é \u009b \ud800"}
    """
    text = json.dumps(content, ensure_ascii=False, **options)
    return UNSAFE.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


def escaped(value: object) -> str:
    r"""Text that Markdown shows as it is: a folder's name cannot become a heading, a link, a table or HTML.

    Examples:
        >>> print(escaped("a|b <b>*_`"))
        a\|b \<b\>\*\_\`
    """
    return re.sub(r"([\\`*_{}\[\]<>()#+!|&~])", r"\\\1", visible(" ".join(str(value).split())))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A Markdown table: the first column to the left, the others to the right; text is escaped.

    Examples:
        >>> print(markdown_table(["a|b", "n"], [["x", "1"]]))
        | a\|b | n |
        | --- | ---: |
        | x | 1 |
    """
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [[escaped(cell) for cell in head], rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def race_sentence(duel: Mapping[str, Any]) -> str:
    """One race of `select="auto"` in a sentence: who ran, the dev losses, who won, and what it cost.

    Args:
        duel: An entry of `race.races` in `result.json`.

    Examples:
        >>> duel = {"epoch": 1, "losses": {"cover": 0.6, "hardest": 0.5}, "difference": -0.1}
        >>> duel |= {"interval": [-0.15, -0.05], "steps": 6, "dev_rows": 195, "winner": "hardest", "cost": {"steps": 9}}
        >>> race_sentence(duel)[:81]
        'Race before epoch 2: dev loss cover 0.600, hardest 0.500 after 6 steps each on 19'
    """
    losses = ", ".join(f"{rule} {loss:.3f}" for rule, loss in duel["losses"].items())
    low, high = duel["interval"]
    return (
        f"Race before epoch {duel['epoch'] + 1}: dev loss {losses} after {counted(duel['steps'], 'step')} each on "
        f"{duel['dev_rows']:,} dev rows; difference {duel['difference']:+.3f} ({low:+.3f} to {high:+.3f}). "
        f"{duel['winner']} goes on. It cost as much as {counted(duel['cost']['steps'], 'step')}."
    )


def race_sentences(race: Mapping[str, Any] | None) -> list[str]:
    """The races of a run, or why there was none, and which rules were given up; nothing for a diet without `auto`.

    Args:
        race: Of `result.json`.

    Examples:
        >>> left = {"epoch": 2, "rule": "hardest", "best": 0.9, "value": 0.5, "error": 0.02}
        >>> told = {"rule": "cover", "races": [], "retreats": [left], "note": "no dev rows", "fallen_after": None}
        >>> told |= {"start": "hardest", "why": "the words of a row have tags"}
        >>> for sentence in race_sentences(told):
        ...     print(sentence)
        The first rule was hardest: the words of a row have tags.
        No race: no dev rows.
        Before epoch 3 the dev metric was 0.5000 under hardest, below its best of 0.9000 by more than two standard
        errors: cover goes on.
    """
    if race is None:
        return []
    sentences = []
    if "start" in race:  # an older result has none
        why = f": {race['why']}" if race.get("why") else ""
        sentences.append(f"The first rule was {race['start']}{why}.")
    sentences += map(race_sentence, race["races"])
    left = race.get("retreats", [])
    if race["note"]:
        took = "" if left else f" Every cycle took the rule {race['rule']}."
        sentences.append(f"No race: {race['note']}.{took}")
    sentences += map(_retreat_sentence, left)
    if race.get("fallen_after") is not None:
        epoch = race["fallen_after"] + 1
        sentences.append(
            f"The dev metric has fallen since epoch {epoch}: more passes do not pay. "
            f"Try --epochs {epoch}, or --epochs auto."
        )
    return sentences


def _retreat_sentence(left: Mapping[str, Any]) -> str:
    """Why a rule was given up; the argument is an entry of `race.retreats`."""
    when, rule = f"Before epoch {left['epoch'] + 1}", left["rule"]
    if left["value"] is None:
        return f"{when} the dev metric was not known, or not in [-1, 1]: {rule} is given up, and cover goes on."
    return (
        f"{when} the dev metric was {left['value']:.4f} under {rule}, below its best of {left['best']:.4f} by more "
        "than two standard errors: cover goes on."
    )
