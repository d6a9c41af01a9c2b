"""The tables: what a run will do, what it did, two runs side by side, what there is to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from datadiet.catalogue import KINDS, Method
from datadiet.comparison.words import energy_words
from datadiet.display.words import clock, epoch_span, number, percent
from datadiet.records import EpochForecast, Forecast, Json

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
        methods: In the order of `catalogue.METHODS`.
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
    lines = Text.assemble(method.formula, ("\nneeds ", "dim"), method.needs, ("; costs ", "dim"), method.cost)
    for word, text in (("from", method.paper), ("known to lose", method.loses)):
        if text:
            lines.append(f"\n{word} ", style="dim").append(text)
    return lines


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
