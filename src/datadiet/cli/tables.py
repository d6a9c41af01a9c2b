"""The tables: what a run will do, what it did, two runs side by side, what there is to choose from.

A comparison on the screen: its runs while they run, its table and verdicts when they are done.

What `datadiet score` shows: the range of each score, and how alike they rank.

What `datadiet select` shows: what is kept and dropped and why, per class, with examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from datadiet.compare.verdict import energy_words, three_digits
from datadiet.formatting import clock, epoch_span, number, percent, shown
from datadiet.registry import KINDS, Method
from datadiet.types import EpochForecast, Forecast, Json

ACCOUNTS = {
    "load_s": "load data and model",
    "train_s": "train",
    "score_s": "score",
    "select_s": "select",
    "eval_s": "evaluate",
    "save_s": "save",
}


def forecast_table(forecast: Forecast) -> RenderableType:
    """What a schedule will do: totals beside full data, one line per stretch of equal epochs, the ceiling.

    Args:
        forecast: Of the run that is about to start.
    """
    stretches = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("epochs", "kept", "dropped", "steps each", "refreshed before"):
        stretches.add_column(heading, justify="left" if heading == "refreshed before" else "right")
    for stretch in _stretches(forecast.epochs):
        first, last = stretch[0], stretch[-1]
        refreshed = _some(str(line.epoch + 1) for line in stretch if line.refresh)
        numbers = (f"{first.kept:,}", f"{first.dropped:,}", f"{first.steps:,}")
        stretches.add_row(epoch_span(first.epoch, last.epoch), *numbers, refreshed)
    return Group(Text(_plan_sentence(forecast)), stretches, Text(_ceiling_sentence(forecast)), Text(""))


def _stretches(epochs: Sequence[EpochForecast]) -> list[list[EpochForecast]]:
    """Neighbouring epochs that keep as many rows, together."""
    return [list(same) for _, same in groupby(epochs, key=lambda line: (line.kept, line.dropped, line.steps))]


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "") if listed else "-"


def _plan_sentence(forecast: Forecast) -> str:
    totals = [
        (forecast.steps, forecast.full_steps, "steps"),
        (forecast.examples_backward, forecast.full_examples, "examples"),
    ]
    if forecast.tokens_backward is not None and forecast.full_tokens is not None:
        totals.append((forecast.tokens_backward, forecast.full_tokens, "tokens"))
    spent = ", ".join(f"{diet:,} {name}" + (f" of {full:,}" if full != diet else "") for diet, full, name in totals)
    epochs = len(forecast.epochs)
    most = "at most " if forecast.bound else ""
    return f"Plan: {most}{epochs} epoch{'' if epochs == 1 else 's'}, {spent}."


def _ceiling_sentence(forecast: Forecast) -> str:
    if forecast.bound:
        return "How many rest is decided at each refresh, by the scores and the dev metric: the plan is a bound."
    if forecast.examples_backward == forecast.full_examples:
        return "Everything is trained on in every epoch: nothing can be saved."
    passes = f"; scoring passes forward up to {forecast.examples_scored:,} examples" if forecast.examples_scored else ""
    return f"Ceiling of the saving: {percent(forecast.examples_saved)} of the training examples{passes}."


def summary_table(result: Json, output: str | None = None) -> RenderableType:
    """Quality, time by account, and the ceiling of a finished run.

    Args:
        result: The content of `result.json`.
        output: The run folder, for the heading.
    """
    parts: list[RenderableType] = [Text("")]
    if output is not None:
        parts.append(Text.assemble(("Result ", "bold"), f"({output})"))
    grid = Table.grid(padding=(0, 5))
    grid.add_row(metrics_table(result["metrics"]), _time_table(result["cost"]))
    closing = Text(f"finetune_s = train + score + select. Ceiling of the saving: {_ceiling(result['ceiling'])}.")
    return Group(*parts, grid, closing, *_energy(result.get("energy")), *_tolerance_lines(result.get("tolerance")))


def _tolerance_lines(found: Json | None) -> list[Text]:
    """What a tolerance decided, and what it advises."""
    if found is None:
        return []
    why = {
        "guard": " (everything: the dev metric fell)",
        "rising": " (the dev metric rises)",
        "learned": " (the last: the rest is learned)",
    }
    cycles = [f"{line['epoch'] + 1}: {line['kept']:,}{why.get(line['reason'], '')}" for line in found["decisions"]]
    lines = [Text(f"Tolerance of {found['points']:g} points; kept from epoch {'; '.join(cycles)}.")]
    return [*lines, *([Text(found["advice"], style="bold")] if found["advice"] else [])]


def _energy(energy: Mapping[str, Any] | None) -> list[RenderableType]:
    """The energy of a run, where it was measured."""
    return [] if energy is None else [Text(f"Energy: {energy_words(energy)}.")]


def _ceiling(saved: Mapping[str, float | None]) -> str:
    """Shares that were not trained on: no run saves much more of its training time."""
    examples, tokens = saved.get("examples_saved"), saved.get("tokens_saved")
    known = ((examples, "examples"), (tokens, "tokens"))
    return ", ".join(f"{percent(share)} of the {name}" for share, name in known if share is not None) or "unknown"


def metrics_table(splits: Mapping[str, Mapping[str, float] | None]) -> Table:
    """Metrics in rows, splits in columns.

    Args:
        splits: Metrics by name, by split; None where a split is unlabelled or missing.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("metric")
    for split in splits:
        table.add_column(split, justify="right")
    for name in dict.fromkeys(name for metrics in splits.values() for name in metrics or ()):
        table.add_row(name, *(number((metrics or {}).get(name)) for metrics in splits.values()))
    for split, metrics in splits.items():
        if metrics is None:
            table.add_row(Text(f"({split} is unlabelled or missing)", style="dim"))
    return table


def _time_table(cost: Mapping[str, float]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("time")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    total = cost["total_s"] or 1.0
    for key, words in ACCOUNTS.items():
        table.add_row(words, f"{cost[key]:.1f}", percent(cost[key] / total))
    table.add_row("finetune_s", f"{cost['finetune_s']:.1f}", percent(cost["finetune_s"] / total))
    table.add_row("total_s", f"{cost['total_s']:.1f}", clock(cost["total_s"]), style="bold")
    return table


def demo_table(demo: Json) -> RenderableType:
    """Full data beside the diet: quality, time, where the time went, the ceiling.

    Args:
        demo: The content of `demo.json`.
    """
    full, diet = demo["full"], demo["diet"]
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("SNIPS, test split")
    for heading in ("full data", f"keep {demo['keep']:g}", "difference"):
        table.add_column(heading, justify="right")
    for name in demo["quality"]:
        values = full["metrics"]["test"][name], diet["metrics"]["test"][name]
        table.add_row(name, *map(number, values), f"{100 * (values[1] - values[0]):+.1f} points")
    table.add_section()
    for key in ("finetune_s", "total_s"):
        table.add_row(key, *_seconds(full, diet, key), _saving(demo["saved"][key]), style="bold")
    for key, words in ACCOUNTS.items():
        table.add_row(f"  {words}", *_seconds(full, diet, key), "")
    table.add_row("examples trained on", *(f"{run['cost']['examples_backward']:,}" for run in (full, diet)), "")
    return Group(Text(""), table, Text(f"Ceiling of the saving: {_ceiling(demo['ceiling'])}."))


def _saving(share: float) -> str:
    return f"{percent(abs(share))} {'saved' if share >= 0 else 'more'}"


def _seconds(full: Json, diet: Json, key: str) -> tuple[str, str]:
    return f"{full['cost'][key]:.1f} s", f"{diet['cost'][key]:.1f} s"


def methods_table(methods: Iterable[Method]) -> RenderableType:
    """Every method under its kind: formula, needs, cost, paper.

    Args:
        methods: In the order of the index.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for kind, members in groupby(methods, key=lambda method: method.kind):
        table.add_row(Text(kind, style="bold underline"), Text(KINDS[kind], style="dim"))
        for method in members:
            table.add_row(Text(method.name, style="bold cyan"), _method_lines(method))
        table.add_row("", "")
    return table


def _method_lines(method: Method) -> Text:
    options = ", ".join(f"{option.name}={option.default}" for option in method.options.values())
    facts = {"reads": method.inputs, "costs": method.cost, "options": options, "from": method.paper}
    lines = Text(method.formula)
    for word, text in {**facts, "known to lose": method.loses, "measured": _evidence(method)}.items():
        if text:
            lines.append(f"\n{word} ", style="dim").append(text)
    return lines


def _evidence(method: Method) -> str:
    """Where the quality of a method stands beside random; only of what a comparison can rank."""
    if method.kind not in ("score", "select", "in_batch", "preset", "history"):
        return ""
    return f"docs/benchmarks.md#{method.evidence}" if method.evidence else "not yet measured here"


def prediction_table(line: Mapping[str, Any]) -> RenderableType:
    """The prediction for one text, to be read by a person.

    Args:
        line: One line of a predictions file.
    """
    table = Table.grid(padding=(0, 2))
    value = "" if line.get("probability") is None else f"  ({percent(line['probability'])})"
    if "predicted" in line:  # a tagger says something of the words alone
        found = line["predicted"]
        shown = (", ".join(found) or "none") if isinstance(found, list) else found
        table.add_row(Text("predicted", style="dim"), Text(f"{shown}{value}", style="bold"))
    tags = line.get("slots") or line.get("tags") or ()
    for token, slot in zip(line.get("tokens") or (), tags, strict=False):
        table.add_row(Text(token), Text(slot, style="dim" if slot == "O" else "bold"))
    return table


EXTRA = {"price": "price", "energy": "Wh"}
STYLES = {"waiting": "dim", "running": "bold cyan", "done": "green", "failed": "bold red"}


class State(Protocol):
    """What is shown of a run; see `datadiet.compare.run.CellState`."""

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


HEADINGS = {"min": "min", "p10": "10 %", "median": "median", "p90": "90 %", "max": "max"}


def scores_table(told: Json) -> RenderableType:
    """Everything on one screen.

    Args:
        told: What `datadiet.cli.score.run_score` gives.
    """
    head = Text(f"{told['rows']:,} training rows of {shown(told['data'])}; larger = harder", "bold")
    parts: list[RenderableType] = [Text(""), head, _ranges(told["scores"])]
    if len(told["scores"]) > 1:
        parts += [Text(""), Text("Rank correlation (Spearman)", "bold"), _correlations(told["correlations"])]
    unseen = " of models that have not seen the row" if told.get("probabilities_with") else ""
    probabilities = f", with the class probabilities{unseen}" if told["probabilities"] else ""
    return Group(*parts, Text(""), Text(f"Wrote {shown(told['output'])}{probabilities}."))


def _ranges(scores: Json) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("score")
    for heading in (*HEADINGS.values(), "time"):
        table.add_column(heading, justify="right")
    table.add_column("made with", overflow="fold")
    for name, line in scores.items():
        shared = " *" if "seconds_shared_with" in line else ""
        cells = [number(line[quantile]) for quantile in HEADINGS]
        table.add_row(name, *cells, clock(line["seconds"]) + shared, Text(_source(line), style="dim"))
    if any("seconds_shared_with" in line for line in scores.values()):
        table.add_row(Text("* in one pass", style="dim"))
    return table


def _source(line: Json) -> str:
    """The models by name, and how many rounds or checkpoints."""
    models = [shown(line[role], 40) for role in ("model", "encoder", "teacher", "holdout") if role in line]
    numbers = [f"{line[what]} {what}" for what in ("rounds", "checkpoints", "folds") if what in line]
    return ", ".join([*models, *numbers])


def _correlations(found: Json) -> RenderableType:
    """The lower triangle: each two once."""
    names = list(found)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for name in names[:-1]:
        table.add_column(name, justify="right")
    for place, name in enumerate(names[1:], start=1):
        cells = ["-" if (value := found[name][other]) is None else f"{value:.2f}" for other in names[:place]]
        table.add_row(name, *cells)
    return table


WHY = {
    "chosen": "kept by the selector",
    "floor": "kept for the floor of their class",
    "duplicate": "dropped: the same text as a row that is kept, or with --near nearly so",
    "suspect": "dropped: the label is suspected to be wrong",
    "offset": "dropped: set aside as among the very hardest",
    "rest": "dropped by the selector",
}
MOST_CLASSES = 40


def selection_table(told: Json) -> RenderableType:
    """Everything on one screen.

    Args:
        told: What `datadiet.jobs.select.select` gives.
    """
    rows = told["rows"]
    share, means = percent(told["kept"] / rows), (number(told["mean_kept"]), number(told["mean_dropped"]))
    head = Text(f"Kept {told['kept']:,} of {rows:,} rows ({share}) by {told['select']} on {told['score']}, ", "bold")
    head.append(f"whose mean is {means[0]} among the kept and {means[1]} among the dropped.", "not bold")
    parts: list[RenderableType] = [Text(""), head, _reasons(told)]
    if told["classes"]:
        parts += [Text(""), _classes(told["classes"])]
    parts += [Text(""), _examples(told["examples"]), Text("")]
    if told["weighted"]:
        parts.append(Text("This selector gives the kept rows loss weights: --with-score writes them as a column."))
    return Group(*parts, Text(_where(told["output"])))


def _where(output: str) -> str:
    """Where the rows are, and which splits."""
    only = " It holds training rows only; a folder as --output (no ending) holds the other splits too."
    return f"Wrote {shown(output)}.{only if Path(output).suffix else ''}"


def _reasons(told: Json) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    for reason, count in told["reasons"].items():
        by = f" (by {told['suspects_by']})" if reason == "suspect" else ""
        table.add_row(f"  {count:,}", percent(count / told["rows"]), Text(WHY[reason] + by))
    return table


def _classes(classes: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line per class; of very many the largest."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("class")
    for heading in ("rows", "kept", "dropped", "share kept", "mean kept", "mean dropped"):
        table.add_column(heading, justify="right")
    for line in classes[:MOST_CLASSES]:
        counts = [f"{line[name]:,}" for name in ("rows", "kept", "dropped")]
        share = percent(line["kept"] / line["rows"])
        style = "" if line["kept"] else "bold red"
        means = [number(line["mean_kept"]), number(line["mean_dropped"])]
        table.add_row(Text(shown(line["label"], 40)), *counts, share, *means, style=style)
    if len(classes) <= MOST_CLASSES:
        return table
    return Group(table, Text(f"and {len(classes) - MOST_CLASSES} smaller classes: --json shows all", style="dim"))


def _examples(examples: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A few rows of each reason, under it."""
    lines: list[RenderableType] = []
    reason = None
    for line in examples:
        if line["reason"] != reason:
            reason = line["reason"]
            lines.append(Text(f"{WHY[reason]}, e.g.", style="dim"))
        label = "" if line["label"] is None else f"  [{shown(line['label'], 30)}]"
        lines.append(
            Text(f"  {line['value']:.3f}{label}  {shown(line['text'], 90)}", no_wrap=True, overflow="ellipsis")
        )
    return Group(*lines)
