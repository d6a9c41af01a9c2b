"""The table of the head-to-head: every method of a comparison beside full data, random rows and fewer epochs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.methods import TIMED
from benchmarks.report.markdown import NOT_YET, machines, paragraphs, table

TITLES = {
    "snips": "SNIPS, joint",
    "snli": "SNLI",
    "snips-noise": "SNIPS, 10 % of the intents flipped",
    "snips-rare": "SNIPS, one intent cut to a twentieth",
    "snips-zipf": "SNIPS, rows repeated as in traffic",
}
SHOWN = {"snips": ("exact_match", "intent_accuracy", "slot_f1"), "snli": ("accuracy", "macro_f1")}
_BASELINES = ("full", "short", "random")
Times = dict[str, dict[str, Any]]  # of the runs that had the machine to themselves, by arm


def head_to_head(results: Path) -> str:
    """SNIPS and SNLI."""
    return _tables(results, ("snips", "snli"))


def stress(results: Path) -> str:
    """The three variants of SNIPS."""
    return _tables(results, ("snips-noise", "snips-rare", "snips-zipf"))


def _tables(results: Path, names: tuple[str, ...]) -> str:
    parts = []
    for name in names:
        if (found := _read(results, name)) is not None:
            parts += _of_set(name, found, _read(results, name + TIMED))
    return paragraphs(*parts) if parts else NOT_YET


def _read(results: Path, name: str) -> dict[str, Any] | None:
    path = results / "methods" / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found


def _of_set(name: str, comparison: dict[str, Any], timed: dict[str, Any] | None) -> list[str]:
    arms = sorted(comparison["methods"], key=lambda arm: (arm["method"] not in _BASELINES, -_main(arm, comparison)))
    metrics = [metric for metric in SHOWN[name.partition("-")[0]] if metric in arms[0]["metrics"]]
    times: Times = {arm["name"]: arm for arm in timed["methods"]} if timed else {}
    head = ["method", "steps", *metrics, "worst class", "nll", "to random", "to `short`", "tokens saved"]
    rows = [_row(arm, metrics, _worst(arm, comparison)) for arm in arms]
    if times:
        head.append("time saved")
        rows = [[*row, _time(times.get(arm["name"]))] for row, arm in zip(rows, arms, strict=True)]
    split = (
        f"{TITLES[name]}: {len(arms[0]['seeds'])} seeds, {comparison['split']} split, means and standard deviations."
    )
    environments = [comparison["environment"], *([timed["environment"]] if timed else [])]
    return [split, table(head, rows), _verdict(arms), machines(environments)]


def _main(arm: dict[str, Any], comparison: dict[str, Any]) -> float:
    return float(arm["metrics"][comparison["metric"]]["mean"])


def _worst(arm: dict[str, Any], comparison: dict[str, Any]) -> str:
    """Mean recall of the worst class of each of the arm's runs."""
    runs = (run for run in comparison["runs"] if run["status"] == "done")
    found = [run["worst_class"] for run in runs if run["name"].rpartition("-seed")[0] == arm["name"]]
    return f"{statistics.mean(found):.1f}" if found else ""


def _row(arm: dict[str, Any], metrics: list[str], worst: str) -> list[str]:
    figures = [_figure(arm["metrics"][metric]) for metric in metrics]
    nll = arm["metrics"].get("nll")
    return [
        f"`{arm['name']}`",
        str(arm["steps"]),
        *figures,
        worst,
        "" if nll is None else f"{nll['mean']:.3f}",
        _difference(arm, "random"),
        _difference(arm, "short"),
        "" if arm["ceiling"] is None or arm["method"] == "full" else f"{100 * arm['ceiling']:.0f} %",
    ]


def _time(timed: dict[str, Any] | None) -> str:
    saved = ((timed or {}).get("saved") or {}).get("finetune_s")
    return f"{100 * saved['median']:.0f} %" if timed and saved and timed["comparable_times"] else ""


def _figure(metric: dict[str, Any]) -> str:
    return (
        f"{metric['mean']:.2f}" if metric["deviation"] is None else f"{metric['mean']:.2f} ± {metric['deviation']:.2f}"
    )


def _difference(arm: dict[str, Any], baseline: str) -> str:
    against = (arm.get("against") or {}).get(baseline)
    if not against:
        return ""
    interval = against.get("interval")
    spread = "" if interval is None else f" ± {(interval['high'] - interval['low']) / 2:.2f}"
    return f"{against['mean']:+.2f}{spread}"


def _verdict(arms: list[dict[str, Any]]) -> str:
    """Which methods the means put below the baselines, and of which their intervals show it, or show the opposite."""
    said = []
    for baseline, words in (("random", "random rows"), ("short", "fewer epochs")):
        found = {arm["method"]: arm["against"][baseline] for arm in arms if (arm.get("against") or {}).get(baseline)}
        shown = {name: each["interval"] for name, each in found.items() if each.get("interval")}
        said.append(
            f"- Against {words}: below in the mean {_names(name for name, each in found.items() if each['mean'] < 0)}; "
            f"shown to be below {_names(name for name, interval in shown.items() if interval['high'] < 0)}; "
            f"shown to be above {_names(name for name, interval in shown.items() if interval['low'] > 0)}."
        )
    return "\n".join(said)


def _names(methods: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in methods) or "none"
