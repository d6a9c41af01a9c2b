"""The table of gradient scores: what they cost beside what they replace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report.markdown import NOT_YET, machines, met, paragraphs, table


def gradients(results: Path) -> str:
    path = results / "gradients.json"
    cases: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not cases:
        return NOT_YET
    rows = []
    if case := cases.get("last_layer"):
        rows.append([f"last-layer GraNd against EL2N, {case['data']['rows']:,} rows", *_times(case), _most(case, 1.1)])
    if case := cases.get("exact"):
        least = f"at least 4: {met(case['ratio'] >= 4)}"
        rows.append([f"one example at a time against exact GraNd, {case['rows_of_loop']} rows", *_times(case), least])
    if case := cases.get("vog"):
        few, many = sorted(case["checkpoints"], key=int)
        peaks = [f"{case['checkpoints'][number]['peak_bytes'] / 1e6:,.0f} MB" for number in (many, few)]
        what = f"VoG of {case['data']['rows']:,} rows, peak with {many} checkpoints against {few}"
        rows.append([what, *peaks, f"{case['ratio']:.2f}", "", _most(case, 1.1)])
    head = ["what", "this", "against", "ratio", "quartiles", "target"]
    return paragraphs(table(head, rows), machines(case["environment"] for case in cases.values()))


def _times(case: dict[str, Any]) -> list[str]:
    """Medians of both, their ratio, and its quartiles."""
    low, _, high = case["paired_quartiles"]
    medians = [f"{sorted(case[name])[len(case[name]) // 2]:.2f} s" for name in ("second_s", "first_s")]
    return [*medians, f"{case['ratio']:.2f}", f"{low:.2f} to {high:.2f}"]


def _most(case: dict[str, Any], limit: float) -> str:
    return f"at most {limit}: {met(case['ratio'] <= limit)}"
