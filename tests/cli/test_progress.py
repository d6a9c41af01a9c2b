"""Progress and tables: what is shown, where, and that nothing in the data is read as markup."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from datadiet.cli.progress import LiveDisplay, PlainDisplay, display_for
from datadiet.cli.tables import (
    MOST_CLASSES,
    demo_table,
    forecast_table,
    prediction_table,
    selection_table,
    summary_table,
)
from datadiet.formatting import clock, epoch_span, metrics_text, number, percent, shown
from datadiet.types import EpochForecast, EpochResult, Forecast, StepReport

EPOCHS = tuple(
    EpochForecast(epoch, kept, 2000 - kept, steps, refresh)
    for epoch, kept, steps, refresh in [
        (0, 2000, 63, False),
        (1, 1000, 31, True),
        (2, 1000, 31, False),
        (3, 1000, 31, True),
        (4, 500, 15, True),
    ]
)
FORECAST = Forecast(EPOCHS, 171, 5500, 315, 10000, 6000, 0.45, 55_000, 100_000)
FULL = Forecast((EpochForecast(0, 100, 0, 4, False),), 4, 100, 4, 100, 0, 0.0)
STEP = StepReport(2, 5, 80, 171, 1000, 1000, 0.1234, 212.4, 62.0, 12.0)
EPOCH = EpochResult(0, 2000, 0, 63, 9.8, 0.0, 30_000, 0.5, {"intent_accuracy": 0.9512, "slot_f1": 0.8423, "nll": 0.2})
METRICS = {"intent_accuracy": 0.97, "slot_f1": 0.95, "exact_match": 0.86}


def result(train_s: float, test: dict[str, float] | None = METRICS) -> dict[str, object]:
    cost = {"load_s": 2.0, "train_s": train_s, "score_s": 1.0, "select_s": 0.0, "eval_s": 3.0, "save_s": 0.5}
    totals = {"finetune_s": train_s + 1, "total_s": train_s + 6.5, "examples_backward": 10_000}
    ceiling = {"examples_saved": 0.45, "tokens_saved": 0.4}
    return {"metrics": {"dev": METRICS, "test": test}, "cost": cost | totals, "ceiling": ceiling}


def rendered(renderable: object, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def plain(width: int = 80, **options: object) -> tuple[PlainDisplay, io.StringIO]:
    out = io.StringIO()
    return PlainDisplay(Console(file=out, width=width, highlight=False), **options), out  # type: ignore[arg-type]


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, height=40, force_terminal=True, color_system=None, highlight=False)


# ---- words ----


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (-61, "-1:01"), (-0.2, "0:00")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_numbers_as_people_read_them() -> None:
    assert (percent(0.455), number(None), number(0.1), epoch_span(1, 3)) == ("45.5 %", "-", "0.1000", "2-4")
    assert metrics_text({"accuracy": 0.5, "nll": 1.0}) == "accuracy 0.5000, nll 1.0000"


# ---- plain ----


def test_plain_lines_are_never_folded_and_never_markup() -> None:
    display, out = plain(width=20)
    with display:
        display.note("[bold]a [/] in column [label] of a line much longer than the console is wide")
        display.phase("tokenising")
    assert out.getvalue().splitlines() == [
        "note: [bold]a [/] in column [label] of a line much longer than the console is wide",
        "tokenising ...",
    ]


def test_plain_steps_are_rare() -> None:
    now = [0.0]
    display, out = plain(now=lambda: now[0])
    for now[0] in (1.0, 9.9, 10.0, 15.0, 19.9, 20.1):
        display.stepped(STEP)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == (
        "epoch 3/5  step 80/171  kept 1,000  dropped 1,000  loss 0.1234  212 examples/s  left 1:02  saved 0:12"
    )


def test_plain_epoch_ends_with_dev_metrics() -> None:
    display, out = plain()
    display.planned(FORECAST)
    display.epoch_ended(EPOCH)
    assert out.getvalue().splitlines()[-1] == (
        "epoch 1/5 done in 9.8 s: kept 2,000, dropped 0, loss 0.5000, "
        "dev: intent_accuracy 0.9512, slot_f1 0.8423, nll 0.2000"
    )


def test_plain_title_comes_first() -> None:
    display, out = plain(title="1/2 full data")
    with display:
        display.phase("loading")
    assert out.getvalue().startswith("== 1/2 full data\n")


# ---- live ----


@pytest.mark.parametrize("width", [60, 80, 120])
def test_live_panel_shows_everything_and_fits(width: int) -> None:
    console = terminal(width)
    with LiveDisplay(console, title="runs/[a]") as display:
        display.note("column [label] has 3 classes")
        display.phase("tokenising [x]")
        display.planned(FORECAST)
        display.stepped(STEP)
        display.epoch_ended(EPOCH)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "runs/[a]",
        "column [label]",
        "epoch 3/5",
        "kept 1,000",
        "0.1234",
        "1:02",
        "0:12",
        "0.9512",
        "Plan: 5",
    ):
        assert part in shown
    final = shown[shown.rindex("╭") :]
    assert max(len(line) for line in final.splitlines()) <= width


def test_live_gives_the_terminal_back_after_an_error() -> None:
    console = terminal()

    def run() -> None:
        with LiveDisplay(console) as display:
            display.phase("training")
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run()
    assert console.file.getvalue().endswith("\x1b[?25h")  # type: ignore[attr-defined]  # the cursor is shown again


def test_live_hides_old_epochs_until_the_end() -> None:
    console = terminal()
    display = LiveDisplay(console, most_epochs=2)
    with display:
        for epoch in range(4):
            display.epoch_ended(EpochResult(epoch, 10 + epoch, 0, 1, 1.0, 0.0, 1, 0.5, {"accuracy": 0.5}))
        during = rendered(display._render())
    assert "(2)" in during
    assert " 10 " not in during
    assert " 10 " in rendered(display._render())


@pytest.mark.parametrize(
    ("console", "kind"),
    [(terminal(), LiveDisplay), (Console(file=io.StringIO()), PlainDisplay)],
    ids=["terminal", "file"],
)
def test_display_for(console: Console, kind: type) -> None:
    assert type(display_for(console)) is kind


def test_json_display_keeps_off_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with display_for(Console(), json=True) as display:
        display.note("one fact")
        display.planned(FORECAST)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "one fact" in captured.err
    assert "Plan: 5 epochs" in captured.err


# ---- tables ----


def test_forecast_says_steps_examples_tokens_and_ceiling() -> None:
    text = rendered(forecast_table(FORECAST), 120)
    assert "Plan: 5 epochs, 171 steps of 315, 5,500 examples of 10,000, 55,000 tokens of 100,000." in text
    assert "Ceiling of the saving: 45.0 % of the training examples" in text
    assert "up to 6,000 examples" in text


def test_forecast_joins_equal_epochs() -> None:
    rows = [line.split() for line in rendered(forecast_table(FORECAST)).splitlines()]
    assert ["1", "2,000", "0", "63", "-"] in rows
    assert ["2-4", "1,000", "1,000", "31", "2,", "4"] in rows
    assert ["5", "500", "1,500", "15", "5"] in rows


def test_forecast_of_full_data_promises_nothing() -> None:
    text = rendered(forecast_table(FULL))
    assert "Plan: 1 epoch, 4 steps, 100 examples." in text
    assert "nothing can be saved" in text


def test_summary_has_metrics_accounts_and_ceiling() -> None:
    text = rendered(summary_table(result(40.0), "runs/[x]"))
    for part in ("runs/[x]", "slot_f1", "0.9500", "train", "40.0", "finetune_s", "41.0", "total_s", "46.5", "45.0 %"):
        assert part in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_summary_says_the_energy_where_it_was_measured() -> None:
    energy = {"kwh": 0.00123, "estimated": True}
    assert "Energy: 0.00123 kWh (estimated)." in rendered(summary_table(result(40.0) | {"energy": energy}))
    assert "Energy" not in rendered(summary_table(result(40.0) | {"energy": None}))


def test_summary_says_what_a_tolerance_decided_and_advises() -> None:
    decisions = [{"epoch": 1, "kept": 1500, "reason": "rising"}, {"epoch": 2, "kept": 900, "reason": "scores"}]
    found = {"points": 0.5, "decisions": decisions, "advice": "Try --epochs 2."}
    text = " ".join(rendered(summary_table(result(40.0) | {"tolerance": found})).split())
    assert "Tolerance of 0.5 points; kept from epoch 2: 1,500 (the dev metric rises); 3: 900." in text
    assert "Try --epochs 2." in text
    assert "Tolerance" not in rendered(summary_table(result(40.0)))


def test_forecast_of_a_tolerance_is_a_bound() -> None:
    text = " ".join(rendered(forecast_table(replace(FULL, bound=True))).split())
    assert "Plan: at most 1 epoch, 4 steps" in text
    assert "the plan is a bound" in text


def test_summary_without_a_labelled_test_split() -> None:
    assert "unlabelled" in rendered(summary_table(result(40.0, test=None)))


def test_demo_table_puts_both_runs_side_by_side() -> None:
    better = {**METRICS, "slot_f1": 0.955}
    demo = {"keep": 0.5, "quality": list(METRICS), "full": result(80.0), "diet": result(40.0, better)}
    demo |= {"saved": {"finetune_s": 0.49, "total_s": -0.1}, "ceiling": {"examples_saved": 0.42, "tokens_saved": 0.39}}
    rows = [" ".join(line.split()) for line in rendered(demo_table(demo)).splitlines()]
    assert "slot_f1 0.9500 0.9550 +0.5 points" in rows
    assert "finetune_s 81.0 s 41.0 s 49.0 % saved" in rows
    assert "total_s 86.5 s 46.5 s 10.0 % more" in rows
    assert "train 80.0 s 40.0 s" in rows
    assert "Ceiling of the saving: 42.0 % of the examples, 39.0 % of the tokens." in rows


def test_prediction_table_escapes_what_the_data_says() -> None:
    line = {"predicted": "[play]", "probability": 0.987, "tokens": ["play", "[jazz]"], "slots": ["O", "B-[genre]"]}
    text = rendered(prediction_table(line))
    for part in ("[play]", "98.7 %", "[jazz]", "B-[genre]"):
        assert part in text


# ---- a static selection ----


def told(classes: int) -> dict[str, object]:
    line = {"rows": 10, "kept": 5, "dropped": 5, "mean_kept": 0.75, "mean_dropped": None}
    example = {"reason": "suspect", "row": 3, "id": "3", "label": None, "value": 0.9, "text": "[b]x\x1b[/b]\n" * 40}
    return {
        "rows": 10 * classes, "kept": 5 * classes, "dropped": 5 * classes, "select": "hardest", "score": "el2n",
        "mean_kept": 0.75, "mean_dropped": None, "reasons": {"chosen": 5, "suspect": 5}, "suspects_by": "aum",
        "weighted": False, "output": "kept", "examples": [example],
        "classes": [{"label": f"[c]{number}", **line} for number in range(classes)],
    }  # fmt: skip


def test_selection_says_what_and_why() -> None:
    text = rendered(selection_table(told(2)), 100)
    for part in ("Kept 10 of 20 rows (50.0 %)", "suspected to be wrong (by aum)", "[c]1", "0.7500", r"[b]x\x1b[/b]"):
        assert part in text
    assert "training rows only" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_selection_of_very_many_classes_shows_the_largest() -> None:
    text = rendered(selection_table(told(MOST_CLASSES + 3)))
    assert f"[c]{MOST_CLASSES - 1} " in text
    assert f"[c]{MOST_CLASSES} " not in text
    assert "and 3 smaller classes: --json shows all" in text


def test_shown_text_is_one_harmless_line() -> None:
    assert shown("a\n b\x00\u202e") == r"a b\x00\u202e"
    assert shown("word " * 50, 21) == "word word word word …"
