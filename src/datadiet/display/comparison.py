"""A comparison on the screen: its runs while they run, its table and verdicts when they are done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from datadiet.comparison.words import three_digits
from datadiet.display.words import clock

EXTRA = {"price": "price", "energy": "Wh"}
STYLES = {"waiting": "dim", "running": "bold cyan", "done": "green", "failed": "bold red"}


class State(Protocol):
    """What is shown of a run; see `datadiet.comparison.running.CellState`."""

    @property
    def status(self) -> str:
        """`waiting`, `running`, `done` or `failed`."""

    @property
    def error(self) -> str | None:
        """What a failed run said."""


class ComparisonDisplay:
    """The runs by method and seed, drawn again in place on a terminal; one line per change elsewhere.

    Args:
        console: Where to draw.
        title: The comparison's folder.
        told: A run's line: `state -> (arm, seed, figure)`, the figure in points or seconds as text.
    """

    def __init__(self, console: Console, title: str, told: Callable[[Any], tuple[str, int, str]]) -> None:
        self._console, self._title, self._told = console, title, told
        self._states: dict[tuple[str, int], tuple[Any, str]] = {}
        self._lock = Lock()
        live = console.is_terminal
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2) if live else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._line(f"== {self._title}")
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def changed(self, state: State) -> None:
        """Draw what has changed; called from several threads."""
        arm, seed, figure = self._told(state)
        with self._lock:
            known = (arm, seed) in self._states
            self._states[arm, seed] = (state, figure)
            if self._live is None and (known or state.status != "waiting"):
                done = sum(held.status in ("done", "failed") for held, _ in self._states.values())
                self._line(f"[{done}/{len(self._states)}] {arm} seed {seed}: {state.status}{figure and ', '}{figure}")

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
        self._console.file.flush()

    def _render(self) -> RenderableType:
        with self._lock:
            states = dict(self._states)
        seeds = sorted({seed for _, seed in states})
        table = Table(title=Text(self._title), title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("method")
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right")
        for arm in dict.fromkeys(arm for arm, _ in states):
            table.add_row(arm, *(self._cell(states.get((arm, seed))) for seed in seeds))
        return table

    def _cell(self, held: tuple[Any, str] | None) -> Text:
        if held is None:
            return Text("")
        state, figure = held
        return Text(figure if state.status == "done" else state.status, style=STYLES[state.status])


def comparison_table(found: Mapping[str, Any]) -> RenderableType:
    """Quality, time and verdicts of a comparison.

    Args:
        found: The content of `comparison.json`.
    """
    failed = [run for run in found["runs"] if run["status"] == "failed"]
    parts: list[RenderableType] = [Text("")]
    if found["methods"]:
        parts += [_table(found), Text(""), *_verdicts(found["methods"]), Text(""), Text(_held(found), style="dim")]
    for run in failed:
        parts.append(Text.assemble((f"{run['name']} failed: ", "bold red"), str(run["error"])))
    return Group(*parts)


def _table(found: Mapping[str, Any]) -> Table:
    metrics = [name for name in found["methods"][0]["metrics"] if name not in ("nll", "mse", "macro_f1")]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("method", no_wrap=True)
    words = [name.replace("_", " ") for name in metrics]
    extra = [name for name in ("price", "energy") if any(line[name] for line in found["methods"])]
    spent_on = [EXTRA[name] for name in extra]
    for heading in ("steps", *words, "tuning saved", "total saved", "ceiling", *spent_on, "seeds"):
        table.add_column(heading, justify="right", no_wrap=heading in spent_on)  # a number that is cut says nothing
    for line in found["methods"]:
        figures = [_spread(line["metrics"][name]) for name in metrics]
        full = line["method"] == "full"
        times = [
            "" if full or not line["comparable_times"] else _saved(line["saved"][name])
            for name in ("finetune_s", "total_s")
        ]
        ceiling = "" if full or line["ceiling"] is None else f"{100 * line['ceiling']:.0f} %"
        spent = [_spent(line[name]) for name in extra]
        row = [line["name"], f"{line['steps']:,}", *figures, *times, ceiling, *spent, str(len(line["seeds"]))]
        table.add_row(*row, style="bold" if full else "")
    return table


def _spent(found: Mapping[str, Any] | None) -> str:
    """What a run costs, or the watt-hours it takes: fewer digits than kilowatt-hours, in a narrow column."""
    return "" if found is None else three_digits(1000 * found["mean_kwh"] if "mean_kwh" in found else found["mean"])


def _spread(figure: Mapping[str, Any]) -> str:
    deviation = figure["deviation"]
    return f"{figure['mean']:.1f}" if deviation is None else f"{figure['mean']:.1f} ± {deviation:.1f}"


def _saved(saving: Mapping[str, Any] | None) -> str:
    return "" if saving is None else f"{100 * saving['median']:.0f} %"


def _verdicts(methods: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Of the methods that save something; the baselines are what they are held against."""
    said = [line for line in methods if line["method"] != "full" and not str(line["method"]).startswith("short")]
    return [Text.assemble((f"{line['name']} ", "bold"), line["verdict"], ".") for line in said]


def _held(found: Mapping[str, Any]) -> str:
    data = found["data"]["name"]
    seconds = sum(run["cost"]["total_s"] for run in found["runs"] if run["status"] == "done")
    return (
        f"{data}, {found['split']} split, verdicts about {found['metric'].replace('_', ' ')} with a margin of "
        f"{found['margin']:g} points. Held equal: {found['held_equal']}. All runs together: {clock(seconds)}."
    )
