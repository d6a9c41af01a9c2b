"""Progress: what is shown, where, and that nothing in the data is read as markup."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from datadiet.cli.progress import LiveDisplay, PlainDisplay, display_for
from datadiet.types import EpochForecast, EpochResult, Forecast, StepReport

FORECAST = Forecast((EpochForecast(0, 100, 0, 4, False),) * 5, 20, 500, 20, 500, 0, 0.0)
STEP = StepReport(2, 5, 80, 171, 1000, 1000, 0.1234, 212.4, 62.0, 12.0)
EPOCH = EpochResult(0, 2000, 0, 63, 9.8, 0.0, 30_000, 0.5, {"intent_accuracy": 0.9512, "slot_f1": 0.8423, "nll": 0.2})


def plain(width: int = 80, **options: object) -> tuple[PlainDisplay, io.StringIO]:
    out = io.StringIO()
    return PlainDisplay(Console(file=out, width=width, highlight=False), **options), out  # type: ignore[arg-type]


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, height=40, force_terminal=True, color_system=None, highlight=False)


def test_plain_lines_are_never_folded_and_never_markup() -> None:
    display, out = plain(width=20, title="1/2 full data")
    with display:
        display.note("[bold]a [/] in column [label] of a line much longer than the console is wide")
        display.phase("tokenising")
    assert out.getvalue().splitlines() == [
        "== 1/2 full data",
        "note: [bold]a [/] in column [label] of a line much longer than the console is wide",
        "tokenising ...",
    ]


def test_plain_steps_are_rare() -> None:
    now = [0.0]
    display, out = plain(now=lambda: now[0])
    for now[0] in (1.0, 9.9, 10.0, 15.0, 19.9, 20.1):
        display.stepped(STEP)
    step = "epoch 3/5  step 80/171  kept 1,000  dropped 1,000  loss 0.1234  212 examples/s  left 1:02  saved 0:12"
    assert out.getvalue().splitlines() == [step] * 2


def test_plain_epoch_ends_with_dev_metrics() -> None:
    display, out = plain()
    display.planned(FORECAST)
    display.epoch_ended(EPOCH)
    assert out.getvalue().splitlines()[-1] == (
        "epoch 1/5 done in 9.8 s: kept 2,000, dropped 0, loss 0.5000, "
        "dev: intent_accuracy 0.9512, slot_f1 0.8423, nll 0.2000"
    )


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
    parts = ("runs/[a]", "column [label]", "epoch 3/5", "kept 1,000", "0.1234", "1:02", "0:12", "0.9512", "Plan: 5")
    assert [part for part in parts if part not in shown] == []
    assert max(map(len, shown[shown.rindex("╭") :].splitlines())) <= width


def test_live_gives_the_terminal_back_after_an_error() -> None:
    console = terminal()
    with pytest.raises(RuntimeError, match="out of memory"), LiveDisplay(console):
        raise RuntimeError("out of memory")
    assert console.file.getvalue().endswith("\x1b[?25h")  # type: ignore[attr-defined]  # the cursor is shown again


def test_live_hides_old_epochs_until_the_end() -> None:
    def drawn() -> str:
        console = Console(file=io.StringIO(), width=80)
        console.print(display._render())
        return console.file.getvalue()  # type: ignore[attr-defined]

    display = LiveDisplay(terminal(), most_epochs=2)
    with display:
        for epoch in range(4):
            display.epoch_ended(EpochResult(epoch, 10 + epoch, 0, 1, 1.0, 0.0, 1, 0.5, {"accuracy": 0.5}))
        during = drawn()
    assert "(2)" in during
    assert " 10 " not in during
    assert " 10 " in drawn()


def test_display_for() -> None:
    assert type(display_for(terminal())) is LiveDisplay
    assert type(display_for(Console(file=io.StringIO()))) is PlainDisplay


def test_json_display_keeps_off_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with display_for(Console(), json=True) as display:
        display.note("one fact")
        display.planned(FORECAST)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "one fact" in captured.err
    assert "Plan: 5 epochs" in captured.err
