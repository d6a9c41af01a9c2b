"""The quality tables, and the short one of the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import numbers
from benchmarks.report.markdown import (
    JOINT,
    METHOD_NAMES,
    METRIC_NAMES,
    NOT_YET,
    SET_NAMES,
    machines,
    met,
    paragraphs,
    percent,
    plus_minus,
    table,
)
from benchmarks.report.numbers import Groups, Key, Run, Spread

DIETS, BASELINES = ("el2n", "uncertain"), ("random", "short")
SHOWN = ("el2n", "dropped", "all", "uncertain", *BASELINES)
QUALITY_TARGETS = {("full", 1.0): {"intent_accuracy": 97.0, "slot_f1": 95.0}}
QUALITY_LOSSES = {0.5: 0.3, 0.2: 1.0}


def quality_rows(groups: Groups, name: str, metrics: Sequence[str]) -> list[list[str]]:
    """Full data first, then for each keep the diets and the baselines."""
    keeps = numbers.keeps_of(groups, name, SHOWN)
    keys = [Key(name, "full", 1.0), *(Key(name, method, keep) for keep in keeps for method in SHOWN)]
    full = groups.get(keys[0], {})
    rows = []
    for key in keys:
        if runs := groups.get(key):
            cells = [_metric_cell(runs, full, metric, key.method != "full") for metric in metrics]
            rows.append([METHOD_NAMES[key.method], f"{key.keep:g}", _steps(runs), *cells, str(len(runs))])
    return rows


def _steps(runs: Mapping[int, Run]) -> str:
    return " or ".join(f"{count:,}" for count in sorted({numbers.steps(run) for run in runs.values()}))


def _metric_cell(runs: Mapping[int, Run], full: Mapping[int, Run], metric: str, compared: bool) -> str:
    cell = plus_minus(numbers.metric_spread(runs, metric))
    difference = numbers.paired(runs, full, metric) if compared else None
    return cell if difference is None else f"{cell} ({difference.mean:+.2f})"


def verdict_lines(groups: Groups, name: str, metrics: Sequence[str], diets: Sequence[str] = DIETS) -> list[str]:
    """In words, for each keep: is the diet better than random rows, and than stopping early?"""
    lines = []
    for keep in numbers.keeps_of(groups, name, diets):
        for diet in diets:
            for baseline in BASELINES:
                runs, others = (groups.get(Key(name, method, keep), {}) for method in (diet, baseline))
                found = {metric: numbers.paired(runs, others, metric) for metric in metrics}
                told = [_verdict_of(metric, difference) for metric, difference in found.items() if difference]
                if told:
                    lines.append(f"- keep {keep:g}, {METHOD_NAMES[diet]} against `{baseline}`: {', '.join(told)}")
    return lines


def _verdict_of(metric: str, difference: Spread) -> str:
    word = numbers.verdict(difference)
    shown = word if word.startswith("better") else f"**{word}**"
    return f"{METRIC_NAMES[metric]} {plus_minus(difference, signed=True)}, {shown}"


def target_lines(groups: Groups, name: str) -> list[str]:
    """The targets of the ATIS table."""
    lines = []
    full = groups.get(Key(name, "full", 1.0), {})
    for metric, least in QUALITY_TARGETS["full", 1.0].items():
        if found := numbers.metric_spread(full, metric):
            lines.append(f"- full data, {METRIC_NAMES[metric]} at least {least}: {met(found.mean >= least)}")
    for keep, most in QUALITY_LOSSES.items():
        for metric in QUALITY_TARGETS["full", 1.0]:
            if lost := numbers.paired(groups.get(Key(name, "el2n", keep), {}), full, metric):
                holds = met(round(lost.mean, 2) >= -most)
                lines.append(f"- keep {keep:g}, {METRIC_NAMES[metric]} within {most} points of full: {holds}")
    return lines


def quality_block(groups: Groups, name: str) -> str:
    """One set: what it is, its table, and the verdicts."""
    runs = numbers.of_set(groups, name)
    if not runs:
        return ""
    title, metrics = SET_NAMES[name]
    rows = {run["data"]["rows"]["train"] for run in runs}
    epochs = max(len(run["epochs"]) for run in runs)
    split = "test" if numbers.split_of(runs[0]) == "test" else "dev, because test has no labels"
    counts = " or ".join(f"{count:,}" for count in sorted(rows))
    head = ["trained on", "keep", "steps", *(METRIC_NAMES[metric] for metric in metrics), "seeds"]
    return paragraphs(
        f"**{title}**, {counts} training rows, {epochs} epochs; figures of {split}:",
        table(head, quality_rows(groups, name, metrics)),
        "\n".join(verdict_lines(groups, name, metrics)),
    )


def quality_atis(results: Path) -> str:
    groups = numbers.quality_groups(results)
    targets = target_lines(groups, "atis")
    runs = numbers.of_set(groups, "atis")
    told = "Targets:\n\n" + "\n".join(targets) if targets else ""
    return paragraphs(quality_block(groups, "atis"), told, _machines(runs)) or NOT_YET


def quality_shares(results: Path) -> str:
    groups = numbers.quality_groups(results)
    names = [name for name in SET_NAMES if name != "atis"]
    blocks = [quality_block(groups, name) for name in names]
    return paragraphs(*blocks, _machines([run for name in names for run in numbers.of_set(groups, name)])) or NOT_YET


def _machines(runs: Sequence[Run]) -> str:
    return machines(run["environment"] for run in runs) if runs else ""


def readme(results: Path) -> str:
    """ATIS in four rows: full data, the diet at two keeps, and random rows at the lower one."""
    groups, timed = numbers.quality_groups(results), numbers.load_groups(results / "speed")
    rows = []
    for method, keep in (("full", 1.0), ("el2n", 0.5), ("el2n", 0.2), ("random", 0.2)):
        key = Key("atis", method, keep)
        if runs := groups.get(key):
            metrics = [plus_minus(numbers.metric_spread(runs, name)) for name in JOINT[:2]]
            saved = numbers.saving(timed.get(key, {}), timed.get(Key("atis", "full", 1.0), {}))
            shown = METHOD_NAMES[method] + ("" if method == "full" else f", keep {keep:g}")
            share = percent(saved.finetune, 0) if saved and method != "full" else "-"
            rows.append([shown, _steps(runs), *metrics, share])
    head = ["ATIS, trained on", "steps", "intent accuracy", "span F1", "fine-tuning time saved"]
    return table(head, rows) if rows else NOT_YET
