"""The tables of the command line, and that no text from data is read as markup."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from datadiet.cli.tables import (
    MOST_CLASSES,
    comparison_table,
    demo_table,
    forecast_table,
    prediction_table,
    selection_table,
    summary_table,
)
from datadiet.formatting import clock, epoch_span, metrics_text, number, percent, shown
from datadiet.types import EpochForecast, Forecast

EPOCHS = tuple(
    EpochForecast(epoch, kept, 2000 - kept, steps, refresh)
    for epoch, (kept, steps, refresh) in enumerate(
        [(2000, 63, False), (1000, 31, True), (1000, 31, False), (1000, 31, True), (500, 15, True)]
    )
)
FORECAST = Forecast(EPOCHS, 171, 5500, 315, 10000, 6000, 0.45, 55_000, 100_000)
FULL = Forecast((EpochForecast(0, 100, 0, 4, False),), 4, 100, 4, 100, 0, 0.0)
METRICS = {"intent_accuracy": 0.97, "slot_f1": 0.95, "exact_match": 0.86}


def result(train_s: float, test: dict[str, float] | None = METRICS, **more: object) -> dict[str, object]:
    cost = {"load_s": 2.0, "train_s": train_s, "score_s": 1.0, "select_s": 0.0, "eval_s": 3.0, "save_s": 0.5}
    totals = {"finetune_s": train_s + 1, "total_s": train_s + 6.5, "examples_backward": 10_000}
    ceiling = {"examples_saved": 0.45, "tokens_saved": 0.4}
    return {"metrics": {"dev": METRICS, "test": test}, "cost": cost | totals, "ceiling": ceiling, **more}


def lines_of(table: object, width: int = 80) -> list[str]:
    """The lines of a table, each with single spaces; none is wider than the terminal."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    return [" ".join(line.split()) for line in lines]


def text_of(table: object, width: int = 80) -> str:
    return " ".join(lines_of(table, width))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (-61, "-1:01"), (-0.2, "0:00")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_numbers_and_texts_as_people_read_them() -> None:
    assert (percent(0.455), number(None), number(0.1), epoch_span(1, 3)) == ("45.5 %", "-", "0.1000", "2-4")
    assert metrics_text({"accuracy": 0.5, "nll": 1.0}) == "accuracy 0.5000, nll 1.0000"
    assert shown("a\n b\x00\u202e") == r"a b\x00\u202e"
    assert shown("word " * 50, 21) == "word word word word …"


@pytest.mark.parametrize(
    ("forecast", "parts"),
    [
        (
            FORECAST,
            [
                "Plan: 5 epochs, 171 steps of 315, 5,500 examples of 10,000, 55,000 tokens of 100,000.",
                "Ceiling of the saving: 45.0 % of the training examples", "up to 6,000 examples",
                # equal epochs are one line
                " 1 2,000 0 63 - 2-4 1,000 1,000 31 2, 4 5 500 1,500 15 5 ",
            ],
        ),
        (FULL, ["Plan: 1 epoch, 4 steps, 100 examples.", "nothing can be saved"]),
        (replace(FULL, bound=True), ["Plan: at most 1 epoch, 4 steps", "the plan is a bound"]),
        (
            replace(FULL, open_end=True, learning_rate="Learning rate 0.0002 (auto)."),
            ["Plan: at most 1 epoch, 4 steps, 100 examples. It ends when the dev metric has stopped rising. Learning "],
        ),
    ],
)  # fmt: skip
def test_forecasts(forecast: Forecast, parts: list[str]) -> None:
    text = text_of(forecast_table(forecast), 120)
    assert [part for part in parts if part not in text] == []


ENERGY = {"kwh": 0.00123, "estimated": True}
RATE = {"value": 2e-4, "rule": "auto", "weights": 22_713_216}
TOLERANCE = {"points": 0.5, "advice": "Try --epochs 2.", "decisions": [
    {"epoch": 1, "kept": 1500, "reason": "rising"}, {"epoch": 2, "kept": 900, "reason": "scores"},
]}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "parts", "absent"),
    [
        (
            result(40.0),
            ["runs/[x]", "slot_f1", "0.9500", "train", "40.0", "finetune_s", "41.0", "total_s", "46.5", "45.0 %"],
            ["Energy", "Tolerance", "unlabelled"],
        ),
        (result(40.0, None), ["unlabelled"], []),
        (result(40.0, energy=ENERGY), ["Energy: 0.00123 kWh (estimated)."], []),
        (result(40.0, energy=None), [], ["Energy", "Learning rate"]),
        (
            result(40.0, learning_rate=RATE, convergence={"rising": True, "advice": "Training had not finished: [x]."}),
            ["Learning rate 0.0002 (auto); 22.7 million weights train.", "Training had not finished: [x]."],
            [],
        ),
        (
            result(40.0, tolerance=TOLERANCE),
            [
                "Tolerance of 0.5 points; kept from epoch 2: 1,500 (the dev metric rises); 3: 900.",
                "Try --epochs 2.",
            ],
            [],
        ),
    ],
)
def test_summaries(content: dict[str, object], parts: list[str], absent: list[str]) -> None:
    text = text_of(summary_table(content, "runs/[x]"))
    assert [part for part in parts if part not in text] == []
    assert [part for part in absent if part in text] == []


def test_padding_is_shown_where_it_is_counted() -> None:
    counted, before = result(80.0), result(40.0)
    counted["cost"] |= {"tokens_backward": 90, "tokens_padded": 100}
    assert "Padding: 10.0 % of the positions that trained." in text_of(summary_table(counted))
    assert "Padding" not in text_of(summary_table(before))
    demo = {"keep": 0.5, "quality": [], "full": counted, "diet": before, "ceiling": {}}
    demo |= {"saved": {"finetune_s": 0.49, "total_s": -0.1}}
    assert "padding of the batches 10.0 % -" in lines_of(demo_table(demo))


def test_demo_table_puts_both_runs_side_by_side() -> None:
    better = {**METRICS, "slot_f1": 0.955}
    demo = {"keep": 0.5, "quality": list(METRICS), "full": result(80.0), "diet": result(40.0, better)}
    demo |= {"saved": {"finetune_s": 0.49, "total_s": -0.1}, "ceiling": {"examples_saved": 0.42, "tokens_saved": 0.39}}
    assert set(lines_of(demo_table(demo))) >= {
        "slot_f1 0.9500 0.9550 +0.5 points", "finetune_s 81.0 s 41.0 s 49.0 % saved", "train 80.0 s 40.0 s",
        "total_s 86.5 s 46.5 s 10.0 % more", "Ceiling of the saving: 42.0 % of the examples, 39.0 % of the tokens.",
    }  # fmt: skip


def test_prediction_table_escapes_what_the_data_says() -> None:
    line = {"predicted": "[play]", "probability": 0.987, "tokens": ["play", "[jazz]"], "slots": ["O", "B-[genre]"]}
    text = text_of(prediction_table(line))
    assert [part for part in ("[play]", "98.7 %", "[jazz]", "B-[genre]") if part not in text] == []


def selection(classes: int) -> dict[str, object]:
    line = {"rows": 10, "kept": 5, "dropped": 5, "mean_kept": 0.75, "mean_dropped": None}
    example = {"reason": "suspect", "row": 3, "id": "3", "label": None, "value": 0.9, "text": "[b]x\x1b[/b]\n" * 40}
    return {
        "rows": 10 * classes, "kept": 5 * classes, "dropped": 5 * classes, "select": "hardest", "score": "el2n",
        "mean_kept": 0.75, "mean_dropped": None, "reasons": {"chosen": 5, "suspect": 5}, "suspects_by": "aum",
        "weighted": False, "output": "kept", "examples": [example],
        "classes": [{"label": f"[c]{number}", **line} for number in range(classes)],
    }  # fmt: skip


def test_selections() -> None:
    text = text_of(selection_table(selection(2)), 100)
    parts = ("Kept 10 of 20 rows (50.0 %)", "suspected to be wrong (by aum)", "[c]1", "0.7500", r"[b]x\x1b[/b]")
    assert [part for part in parts if part not in text] == []
    assert "training rows only" not in text
    text = text_of(selection_table(selection(MOST_CLASSES + 3)))
    assert f"[c]{MOST_CLASSES - 1} " in text
    assert f"[c]{MOST_CLASSES} " not in text
    assert "and 3 smaller classes: --json shows all" in text


def method(name: str, saved: float | None, kwh: float) -> dict[str, object]:
    return {
        "name": name, "method": name, "steps": 40, "metrics": {"accuracy": {"mean": 91.0, "deviation": 0.5}},
        "saved": dict.fromkeys(("finetune_s", "total_s"), None if saved is None else {"median": saved}),
        "comparable_times": True, "ceiling": 0.5, "seeds": [0, 1, 2], "verdict": "saves [b]",
        "energy": {"mean_kwh": kwh, "saved": None, "estimated": True},
    }  # fmt: skip


def test_the_table_of_a_comparison_has_room_for_energy() -> None:
    runs = [
        {"name": "full-seed0", "status": "done", "cost": {"total_s": 75.0}},
        {"name": "el2n-seed0", "status": "failed", "error": "no [memory]"},
    ]
    comparison = {
        "data": {"name": "SNIPS"}, "split": "test", "metric": "slot_f1", "margin": 0.5, "held_equal": "epochs",
        "runs": runs, "methods": [method("full", None, 0.004), method("el2n", 0.45, 0.003)],
    }  # fmt: skip
    lines = lines_of(comparison_table(comparison))
    assert lines[1] == "method steps accuracy tuning saved total saved ceiling Wh seeds"
    assert lines[2:4] == ["full 40 91.0 ± 0.5 4.00 3", "el2n 40 91.0 ± 0.5 45 % 45 % 50 % 3.00 3"]
    text = " ".join(lines)
    assert "el2n saves [b]. " in text
    assert "verdicts about slot f1 with a margin of 0.5 points. Held equal: epochs. All runs together: 1:15." in text
    assert "el2n-seed0 failed: no [memory]" in text
    assert "…" not in text


@pytest.mark.parametrize(("width", "metrics"), [(110, 3), (90, 3), (80, 1)])
def test_a_comparison_has_one_unbroken_line_per_method(width: int, metrics: int) -> None:
    means = {name: {"mean": 91.0, "deviation": 0.5} for name in ("slot_f1", "accuracy", "exact_match")}
    lines = [
        {**method(name, saved, 0.0), "energy": None, "metrics": means}
        for name, saved in (("full", None), ("short_hardest-0.5", 0.45))
    ]
    comparison = {
        "data": {"name": "SNIPS"}, "split": "test", "metric": "accuracy", "margin": 0.5, "held_equal": "epochs",
        "runs": [], "methods": lines,
    }  # fmt: skip
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(comparison_table(comparison))
    shown = console.export_text().splitlines()
    cells = " ".join(next(line for line in shown if line.startswith("short_hardest")).split())
    assert cells == " ".join(["short_hardest-0.5 40", *["91.0 ± 0.5"] * metrics, "45 % 45 % 50 % 3"])
    assert any("has the other metrics" in line for line in shown) == (metrics < 3)


def test_a_comparison_of_unfinished_training_says_so() -> None:
    rising = {"seeds": [0], "points_per_epoch": 4.24, "error": 1.7, "epoch_rows": 600}
    lines = [{**method("full", None, 0.0), "energy": None, "unfinished": rising}, {**method("el2n", 0.45, 0.0)}]
    comparison = {
        "data": {"name": "SNIPS"}, "split": "test", "metric": "slot_f1", "margin": 0.5, "held_equal": "epochs",
        "runs": [], "methods": [lines[0], {**lines[1], "energy": None}],
    }  # fmt: skip
    shown_lines = lines_of(comparison_table(comparison))
    assert shown_lines[1].endswith("ceiling still rising seeds")
    assert shown_lines[2] == "full 40 91.0 ± 0.5 +4.2 3"
    assert (
        "dev still rose by more than its standard error, per epoch by 4.2 points with full (epochs of 600"
        in " ".join(shown_lines)
    )
