"""The table of the head-to-head: every method of a comparison beside full data, random rows and fewer epochs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def head_to_head(results: Path) -> str:
    """SNIPS and SNLI."""
    return _tables(results, ("snips", "snli"))


def stress(results: Path) -> str:
    """The three variants of SNIPS."""
    return _tables(results, ("snips-noise", "snips-rare", "snips-zipf"))


def _tables(results: Path, names: tuple[str, ...]) -> str:
    found = {name: results / "methods" / f"{name}.json" for name in names}
    parts = []
    for name, path in found.items():
        if path.is_file():
            parts += _of_set(name, json.loads(path.read_text(encoding="utf-8")))
    return paragraphs(*parts) if parts else NOT_YET


def _of_set(name: str, comparison: dict[str, Any]) -> list[str]:
    arms = sorted(comparison["methods"], key=lambda arm: (arm["method"] not in _BASELINES, -_main(arm, comparison)))
    metrics = [metric for metric in SHOWN[name.partition("-")[0]] if metric in arms[0]["metrics"]]
    head = ["method", "steps", *metrics, "nll", "to random", "to `short`", "time saved"]
    rows = [_row(arm, metrics) for arm in arms]
    said = _verdict(arms)
    split = (
        f"{TITLES[name]}: {len(arms[0]['seeds'])} seeds, {comparison['split']} split, means and standard deviations."
    )
    return [split, table(head, rows), said, machines([comparison["environment"]])]


def _main(arm: dict[str, Any], comparison: dict[str, Any]) -> float:
    return float(arm["metrics"][comparison["metric"]]["mean"])


def _row(arm: dict[str, Any], metrics: list[str]) -> list[str]:
    figures = [_figure(arm["metrics"][metric]) for metric in metrics]
    nll = arm["metrics"].get("nll")
    saved = (arm.get("saved") or {}).get("finetune_s")
    time = f"{100 * saved['median']:.0f} %" if saved and arm["comparable_times"] else ""
    return [
        f"`{arm['name']}`",
        str(arm["steps"]),
        *figures,
        "" if nll is None else f"{nll['mean']:.3f}",
        _difference(arm, "random"),
        _difference(arm, "short"),
        time,
    ]


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
    """Which methods the means put below the baselines, and which are shown to be above one."""
    said = []
    for baseline, words in (("random", "random rows"), ("short", "fewer epochs")):
        compared = [arm for arm in arms if (arm.get("against") or {}).get(baseline)]
        below = [f"`{arm['method']}`" for arm in compared if arm["against"][baseline]["mean"] < 0]
        above = [
            f"`{arm['method']}`"
            for arm in compared
            if (arm["against"][baseline].get("interval") or {"low": -1})["low"] > 0
        ]
        said.append(
            f"Below {words} in the mean: {', '.join(below) or 'none'}; above with its whole interval: "
            f"{', '.join(above) or 'none'}."
        )
    return " ".join(said)
