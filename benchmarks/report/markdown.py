"""How figures are written: names, tables, signs; the same everywhere."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.report.numbers import Spread

NOT_YET = "*Not measured yet.*"
JOINT = ("intent_accuracy", "slot_f1", "exact_match")
SET_NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "atis": ("ATIS", JOINT),
    "snips1500": ("SNIPS", JOINT),
    "snips4000": ("SNIPS", JOINT),
    "sst2": ("SST-2 sentences", ("accuracy",)),
    "cola": ("CoLA", ("matthews",)),
    "stsb": ("STS-B", ("spearman",)),
}
METRIC_NAMES = {
    "intent_accuracy": "intent accuracy",
    "slot_f1": "span F1",
    "exact_match": "exact match",
    "accuracy": "accuracy",
    "matthews": "Matthews x 100",
    "spearman": "Spearman x 100",
}
METHOD_NAMES = {
    "full": "full data",
    "el2n": "`hardest` by el2n",
    "dropped": "`hardest`, `rescore dropped`",
    "all": "`hardest`, `rescore all`",
    "uncertain": "`uncertain` by el2n",
    "random": "`random`, re-drawn",
    "short": "`short`",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table: the first `left` columns to the left, the others to the right."""
    rule = ["---" if place < left else "---:" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def plus_minus(found: Spread | None, signed: bool = False) -> str:
    if found is None:
        return "-"
    mean = f"{found.mean:{'+' if signed else ''}.2f}"
    return mean if found.deviation is None else f"{mean} ± {found.deviation:.2f}"


def met(holds: bool) -> str:
    return "met" if holds else "**missed**"


def paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def wrapped(text: str, width: int = 120) -> str:
    """The same text with no line of prose wider than `width`; tables stay, and code spans are not broken."""
    return "\n".join(line for long in text.split("\n") for line in _wrapped(long, width))


def _wrapped(line: str, width: int) -> list[str]:
    if len(line) <= width or line.startswith("|"):
        return [line]
    indent = "  " if line.startswith("- ") else ""
    parts = line.split("`")
    joined = "`".join(part.replace(" ", "\0") if place % 2 else part for place, part in enumerate(parts))
    lines = textwrap.wrap(joined, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def machines(environments: Iterable[Mapping[str, Any]]) -> str:
    """One sentence about where figures were measured; several machines are all named."""
    found = {_machine(environment) for environment in environments}
    return f"Measured on {'; '.join(sorted(found))}."


def _machine(environment: Mapping[str, Any]) -> str:
    versions: Mapping[str, str] = environment.get("versions", environment)
    named = [f"{name} {versions[name]}" for name in ("python", "torch", "transformers", "numpy") if name in versions]
    threads = environment.get("threads", environment.get("threads_used", 1))
    device = environment.get("device", "cpu")
    parts = [environment["cpu"], f"{threads} thread{'s' if threads != 1 else ''}"]
    parts += [device] if device != "cpu" else []
    parts += [environment["precision"]] if environment.get("precision", "none") != "none" else []
    return ", ".join([*parts, *named])
