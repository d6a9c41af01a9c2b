"""The table of scores and selectors that look at where examples lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report.markdown import NOT_YET, machines, met, paragraphs, table

_SENTENCES, _POINTS = 100_000, 50_000  # the sizes that have a target
_WITH_TARGET = ("k_center", "d2_pruning", "facility_location", "graph_cut", "deft_ucs", "smart")
_OF_TEXTS = {"dsir": 5, "classifier": 5}  # seconds: 20,000 a second


def geometry(results: Path) -> str:
    file = results / "geometry.json"
    cases: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not cases:
        return NOT_YET
    rows = []
    for name, case in sorted(cases.items(), key=lambda item: (item[1]["kind"], item[0])):
        what = "sentences scored" if case["kind"] == "score" else f"x 384, keep {case['keep']:g}"
        figures = [f"{case['seconds']:.1f} s", f"{case['peak_bytes'] / 1e9:.2f} GB", _target(name, case)]
        rows.append([f"`{name}`", f"{case['number']:,} {what}", *figures])
    head = ["score or selector", "examples", "seconds", "peak of the process", "target"]
    return paragraphs(table(head, rows, left=2), machines(case["environment"] for case in cases.values()))


def _target(name: str, case: Mapping[str, Any]) -> str:
    if case["kind"] == "score" and case["number"] == _SENTENCES:
        most = _OF_TEXTS.get(name, 60)
        return f"{most} s, 2 GB: {met(case['seconds'] <= most and case['peak_bytes'] <= 2e9)}"
    if name in _WITH_TARGET and case["number"] == _POINTS:
        return f"120 s: {met(case['seconds'] <= 120)}"
    return ""
