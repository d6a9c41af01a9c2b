"""The tables of the command line: the plan of a run, its result, comparisons, scores, selections and methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from datadiet.compare.run import CellState
from datadiet.compare.verdict import (
    STATES,
    basis,
    has_unfinished,
    measured_energy,
    result_cells,
    rising_cell,
    table_metrics,
    verdicts,
    warnings,
)
from datadiet.formatting import (
    ACCOUNTS,
    clock,
    counted,
    duration,
    energy_text,
    epoch_span,
    number,
    percent,
    race_sentences,
    rate_text,
    shown,
    spaced,
    three_digits,
    unfinished_text,
)
from datadiet.registry import KINDS, SELECT_KINDS, Method
from datadiet.store.run_folder import padding_share
from datadiet.types import EpochForecast, Forecast, Json


def plain_table(first: str, *others: str, gap: int = 2, **style: Any) -> Table:
    """A table without lines: the first column to the left, the others, which hold numbers, to the right."""
    table = Table(box=None, padding=(0, gap, 0, 0), header_style="dim", **style)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def forecast_table(forecast: Forecast) -> RenderableType:
    """The plan of a run: totals beside full data, one line per stretch of equal epochs, the ceiling.

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
    more = [Text(words) for words in (forecast.learning_rate, forecast.first_rule) if words]
    return Group(Text(_plan_sentence(forecast)), *more, stretches, Text(_ceiling_sentence(forecast)), Text(""))


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
    most = "at most " if forecast.bound or forecast.open_end else ""
    end = " It ends when the dev metric has stopped rising." if forecast.open_end else ""
    return f"Plan: {most}{counted(len(forecast.epochs), 'epoch')}, {spent}.{end}"


def _ceiling_sentence(forecast: Forecast) -> str:
    if forecast.bound:
        return "Each refresh decides by the scores and the dev metric how many are dropped: the plan is a bound."
    if forecast.examples_backward == forecast.full_examples:
        return "Everything is trained on in every epoch: nothing can be saved."
    races = ""
    if forecast.races:
        times = "one race" if forecast.races == 1 else f"{forecast.races} races"
        races = f". {times.capitalize()} on the dev split cost at most as much as {forecast.race_steps:,} more steps"
    passes = f"; scoring passes forward up to {forecast.examples_scored:,} examples" if forecast.examples_scored else ""
    return f"Ceiling of the saving: {percent(forecast.examples_saved)} of the training examples{passes}{races}."


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
    closing = Text(
        f"finetune_s = train + score + select + probe. Ceiling of the saving: {_ceiling(result['ceiling'])}."
    )
    if (padding := padding_share(result["cost"])) is not None:
        closing.append(f" Padding: {percent(padding)} of the positions that trained.")
    races = [Text(sentence) for sentence in race_sentences(result.get("race"))]
    energy = [Text(f"Energy: {energy_text(result['energy'])}.")] if result.get("energy") else []
    rate = [Text(rate_text(result["learning_rate"]))] if result.get("learning_rate") else []
    unfinished = [Text(text, style="bold yellow")] if (text := unfinished_text(result)) else []
    decided = [*_tolerance_lines(result.get("tolerance")), *races]
    return Group(*parts, grid, closing, *rate, *energy, *decided, *unfinished)


def _tolerance_lines(tolerance: Json | None) -> list[Text]:
    """The decisions of a tolerance, and its advice."""
    if tolerance is None:
        return []
    why = {
        "guard": " (everything: the dev metric fell)",
        "rising": " (the dev metric rises)",
        "learned": " (the last: all others are learned)",
    }
    cycles = [f"{line['epoch'] + 1}: {line['kept']:,}{why.get(line['reason'], '')}" for line in tolerance["decisions"]]
    lines = [Text(f"Tolerance of {tolerance['points']:g} points; kept from epoch {'; '.join(cycles)}.")]
    return [*lines, *([Text(tolerance["advice"], style="bold")] if tolerance["advice"] else [])]


def _ceiling(saved: Mapping[str, float | None]) -> str:
    """Shares that were not trained on: no run saves much more of its training time."""
    shares = {name: saved.get(f"{name}_saved") for name in ("examples", "tokens")}
    return (
        ", ".join(f"{percent(share)} of the {name}" for name, share in shares.items() if share is not None) or "unknown"
    )


def metrics_table(splits: Mapping[str, Mapping[str, float] | None]) -> Table:
    """Metrics in rows, splits in columns.

    Args:
        splits: Metrics by name, by split; None where a split is unlabelled or missing.
    """
    table = plain_table("metric", *splits)
    for name in dict.fromkeys(name for metrics in splits.values() for name in metrics or ()):
        table.add_row(name, *(number((metrics or {}).get(name)) for metrics in splits.values()))
    for split, metrics in splits.items():
        if metrics is None:
            table.add_row(Text(f"({split} is unlabelled or missing)", style="dim"))
    return table


def _time_table(cost: Mapping[str, float]) -> Table:
    table = plain_table("time", "seconds", "share")
    total = cost["total_s"] or 1.0
    for key, words in ACCOUNTS.items():
        spent = cost.get(key, 0.0)  # an older result has no races
        table.add_row(words, f"{spent:.1f}", percent(spent / total))
    table.add_row("finetune_s", f"{cost['finetune_s']:.1f}", percent(cost["finetune_s"] / total))
    table.add_row("total_s", f"{cost['total_s']:.1f}", clock(cost["total_s"]), style="bold")
    return table


def demo_table(demo: Json) -> RenderableType:
    """Full data beside the diet: quality, time, where the time went, the ceiling.

    Args:
        demo: The content of `demo.json`.
    """
    full, diet = demo["full"], demo["diet"]
    table = plain_table("SNIPS, test split", "full data", f"keep {demo['keep']:g}", "difference", gap=3)
    for name in demo["quality"]:
        values = full["metrics"]["test"][name], diet["metrics"]["test"][name]
        table.add_row(name, *map(number, values), f"{100 * (values[1] - values[0]):+.1f} points")
    table.add_section()
    for key in ("finetune_s", "total_s"):
        table.add_row(key, *_seconds(full, diet, key), _saving(demo["saved"][key]), style="bold")
    for key, words in ACCOUNTS.items():
        table.add_row(f"  {words}", *_seconds(full, diet, key), "")
    table.add_row("examples trained on", *(f"{run['cost']['examples_backward']:,}" for run in (full, diet)), "")
    shares = [padding_share(run["cost"]) for run in (full, diet)]
    table.add_row("padding of the batches", *("-" if share is None else percent(share) for share in shares), "")
    return Group(Text(""), table, Text(f"Ceiling of the saving: {_ceiling(demo['ceiling'])}."))


def _saving(share: float) -> str:
    return f"{percent(abs(share))} {'saved' if share >= 0 else 'more'}"


def _seconds(full: Json, diet: Json, key: str) -> tuple[str, str]:
    return f"{full['cost'].get(key, 0.0):.1f} s", f"{diet['cost'].get(key, 0.0):.1f} s"


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
    if method.kind not in ("score", *SELECT_KINDS, "preset", "history"):
        return ""
    return f"docs/benchmarks.md#{method.evidence}" if method.evidence else "not yet measured here"


def prediction_table(line: Mapping[str, Any]) -> RenderableType:
    """The prediction for one text, to be read by a person.

    Args:
        line: One line of a predictions file.
    """
    table = Table.grid(padding=(0, 2))
    value = "" if line.get("probability") is None else f"  ({percent(line['probability'])})"
    if "predicted" in line:  # a tagger predicts of the words alone
        label = line["predicted"]
        label = (", ".join(label) or "none") if isinstance(label, list) else label
        table.add_row(Text("predicted", style="dim"), Text(f"{label}{value}", style="bold"))
    tags = line.get("slots") or line.get("tags") or ()
    for token, slot in zip(line.get("tokens") or (), tags, strict=False):
        table.add_row(Text(token), Text(slot, style="dim" if slot == "O" else "bold"))
    return table


STYLES = {"waiting": "dim", "running": "bold cyan", "done": "green", "failed": "bold red"}


class ComparisonDisplay:
    """The runs by method and seed, drawn again in place on a terminal; one line per change elsewhere.

    Args:
        console: Where to draw.
        title: The comparison's folder.
        line_of: Gives a run's arm, seed and figure (points or an error, as text).
    """

    def __init__(self, console: Console, title: str, line_of: Callable[[CellState], tuple[str, int, str]]) -> None:
        self._console, self._title, self._line_of = console, title, line_of
        self._cells: dict[tuple[str, int], tuple[CellState, str]] = {}
        self._lock = Lock()
        live = console.is_terminal
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2) if live else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._print(f"== {self._title}")
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def changed(self, state: CellState) -> None:
        """Draw the change; called from several threads."""
        arm, seed, figure = self._line_of(state)
        with self._lock:
            seen = (arm, seed) in self._cells
            self._cells[arm, seed] = (state, figure)
            if self._live is None and (seen or state.status != "waiting"):
                done = sum(other.status in ("done", "failed") for other, _ in self._cells.values())
                self._print(f"[{done}/{len(self._cells)}] {arm} seed {seed}: {state.status}{figure and ', '}{figure}")

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
        self._console.file.flush()

    def _render(self) -> RenderableType:
        with self._lock:
            cells = dict(self._cells)
        seeds = sorted({seed for _, seed in cells})
        table = plain_table(
            "method", *(f"seed {seed}" for seed in seeds), title=Text(self._title), title_justify="left"
        )
        for arm in dict.fromkeys(arm for arm, _ in cells):
            table.add_row(arm, *(_status_cell(*cells[arm, seed]) if (arm, seed) in cells else "" for seed in seeds))
        return table


def _status_cell(state: CellState, figure: str) -> Text:
    return Text(figure if state.status == "done" else state.status, style=STYLES[state.status])


def runs_table(runs: Sequence[Json], seeds: int) -> RenderableType:
    """The runs that a comparison would take.

    Args:
        runs: From `planned_runs`.
        seeds: How many of each.
    """
    table = plain_table("method", "steps of a run, at most", "of full")
    for run in runs:
        table.add_row(run["name"], f"{run['steps']:,}", percent(run["steps"] / run["full_steps"], 0))
    share = seeds * sum(run["steps"] / run["full_steps"] for run in runs)
    total = f"{counted(seeds * len(runs), 'run')}, as many steps as {share:.1f} trainings on everything."
    return Group(table, Text(total))


def look_table(found: Json) -> RenderableType:
    """What `datadiet init` found in a data set.

    Args:
        found: From `datadiet.jobs.preview.look`.
    """
    table = plain_table("", "")
    table.columns[1].justify, table.show_header = "left", False
    rows, lengths, classes = found["data"]["rows"], found["lengths"], found["classes"]
    also = f" (it would also do for {', '.join(found['also'])}: --task)" if found["also"] else ""
    table.add_row("task", Text(f"{found['task']}{also}"))
    table.add_row("rows", ", ".join(f"{count:,} {split}" for split, count in rows.items()))
    if classes is not None:
        most = ", ".join(f"{shown(name, 30)} {count:,}" for name, count in classes["most"].items())
        more = ", ..." if classes["count"] > len(classes["most"]) else ""
        table.add_row("classes", Text(f"{classes['count']:,}: {most}{more} (the rarest {classes['least']:,})"))
    table.add_row("words", ", ".join(f"{name} {count}" for name, count in lengths.items()))
    train = rows["train"] or 1
    table.add_row("repeated texts", f"{found['repeated']:,} training rows, {percent(found['repeated'] / train)}")
    table.add_row("overlap", f"{found['overlap']:,} training rows have the text of a row of another split")
    if (seconds := found["seconds"]) is not None:
        table.add_row(
            "time here",
            f"about {duration(seconds['full'])} for {counted(seconds['epochs'], 'epoch')} on everything, about "
            f"{duration(seconds['diet'])} on a diet of {percent(seconds['keep'], 0)}",
        )
    return Group(*(Text.assemble(("note ", "bold yellow"), note) for note in found["notes"]), table)


def comparison_table(comparison: Json) -> RenderableType:
    """Quality, time and verdicts of a comparison.

    Args:
        comparison: The content of `comparison.json`.
    """
    parts: list[RenderableType] = [Text("")]
    if comparison["methods"]:
        sentences = [Text.assemble((f"{name} ", "bold"), text, ".") for name, text in verdicts(comparison).items()]
        warning = [Text(text, style="bold yellow") for text in warnings(comparison)]
        warning = [*warning, *_answer(comparison)]
        parts += [_Results(comparison), Text(""), *warning, *sentences, Text(""), Text(_basis(comparison), style="dim")]
    for run in comparison["runs"]:
        if run["status"] == "failed":
            parts.append(Text.assemble((f"{run['name']} failed: ", "bold red"), str(run["error"])))
    return Group(*parts)


def _answer(comparison: Json) -> list[Text]:
    """Whether a diet pays here, which one, and what is next."""
    found = comparison.get("verdict")  # an older comparison has none
    if found is None:
        return []
    style = {"pays": "bold green", "as_short": "bold blue", "costs": "bold red"}
    return [
        Text.assemble(
            ("Does a diet pay here? ", "bold"),
            (f"{STATES[found['state']]}: ", style.get(found["state"], "bold yellow")),
            f"{found['method']}. {found['next'].replace('`', '')}",
        )
    ]


class _Results:
    """The table of a comparison, one line per method: a narrow terminal has the metric of the verdicts alone."""

    def __init__(self, comparison: Json) -> None:
        self._comparison = comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The first form that fits; the last one where none does."""
        every = table_metrics(self._comparison)
        one = [self._comparison["metric"]] if self._comparison["metric"] in every else every
        two = [*one, *(name for name in every if name == "nll")]  # by which language models are read
        for metrics, space in ((every, " "), (every, "\n"), (two, "\n"), (one, "\n")):
            table = _results(self._comparison, metrics, space)
            if Measurement.get(console, options.update(max_width=10**4), table).maximum <= options.max_width:
                break
        else:
            for column in table.columns:
                column.no_wrap = False  # broken is better than cut
        yield table
        if len(metrics) < len(every):
            yield Text("The page of datadiet report has the other metrics.", style="dim")


def _results(comparison: Json, metrics: Sequence[str], space: str) -> Table:
    """`space` stands between the words of a heading."""
    with_energy, with_rising = measured_energy(comparison), has_unfinished(comparison)
    more = ["Wh"] * with_energy + ["still rising"] * with_rising + ["seeds"]
    headings = ["steps", *map(spaced, metrics), "tuning saved", "total saved", "ceiling", *more]
    table = plain_table("method", *(heading.replace(" ", space) for heading in headings), gap=1)
    for column in table.columns:
        column.no_wrap = True
    for line in comparison["methods"]:
        cells = [line["name"], *result_cells(comparison, line, 1, metrics)]
        cells += ([_watt_hours(line["energy"])] if with_energy else []) + ([rising_cell(line)] if with_rising else [])
        table.add_row(*cells, str(len(line["seeds"])), style="bold" if line["method"] == "full" else "")
    return table


def _watt_hours(energy: Json | None) -> str:
    """Fewer digits than kilowatt-hours, for a narrow column."""
    return "" if energy is None else three_digits(1000 * energy["mean_kwh"])


def _basis(comparison: Json) -> str:
    seconds = sum(run["cost"]["total_s"] for run in comparison["runs"] if run["status"] == "done")
    data = f"{comparison['data']['name']}, {comparison['split']} split"
    return f"{data}, {basis(comparison)} All runs together: {clock(seconds)}."


HEADINGS = {"min": "min", "p10": "10 %", "median": "median", "p90": "90 %", "max": "max"}


def scores_table(summary: Json) -> RenderableType:
    """The range of each score, and how similarly the scores rank.

    Args:
        summary: From `datadiet.cli.score.run_score`.
    """
    head = Text(f"{summary['rows']:,} training rows of {shown(summary['data'])}; larger = harder", "bold")
    parts: list[RenderableType] = [Text(""), head, _ranges(summary["scores"])]
    if len(summary["scores"]) > 1:
        parts += [Text(""), Text("Rank correlation (Spearman)", "bold"), _correlations(summary["correlations"])]
    unseen = " of models that have not seen the row" if summary.get("probabilities_with") else ""
    probabilities = f", with the class probabilities{unseen}" if summary["probabilities"] else ""
    return Group(*parts, Text(""), Text(f"Wrote {shown(summary['output'])}{probabilities}."))


def _ranges(scores: Json) -> RenderableType:
    table = plain_table("score", *HEADINGS.values(), "time")
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
    lacking = [f"{line['missing']:,} without a value"] if "missing" in line else []
    return ", ".join([*models, *numbers, *lacking])


def _correlations(correlations: Json) -> RenderableType:
    """The lower triangle: each pair once."""
    names = list(correlations)
    table = plain_table("", *names[:-1])
    for place, name in enumerate(names[1:], start=1):
        cells = ["-" if (value := correlations[name][other]) is None else f"{value:.2f}" for other in names[:place]]
        table.add_row(name, *cells)
    return table


WHY = {
    "chosen": "kept by the selector",
    "floor": "kept for the floor of their class",
    "missing": "dropped: no value, for nothing was left to score",
    "duplicate": "dropped: the same text as a row that is kept, or with --near nearly so",
    "suspect": "dropped: the label is suspected to be wrong",
    "offset": "dropped: among the very hardest",
    "rest": "dropped by the selector",
}
MOST_CLASSES = 40


def selection_table(summary: Json) -> RenderableType:
    """What is kept and dropped, for which reasons, per class, with examples.

    Args:
        summary: From `datadiet.jobs.select.select`.
    """
    rows = summary["rows"]
    share, means = percent(summary["kept"] / rows), (number(summary["mean_kept"]), number(summary["mean_dropped"]))
    head = Text(
        f"Kept {summary['kept']:,} of {rows:,} rows ({share}) by {summary['select']} on {summary['score']}, ", "bold"
    )
    head.append(f"whose mean is {means[0]} among the kept and {means[1]} among the dropped.", "not bold")
    parts: list[RenderableType] = [Text(""), head, _reasons(summary)]
    if summary["classes"]:
        parts += [Text(""), _classes(summary["classes"])]
    parts += [Text(""), _examples(summary["examples"]), Text("")]
    if summary["weighted"]:
        parts.append(Text("This selector gives the kept rows loss weights: --with-score writes them as a column."))
    return Group(*parts, Text(_where(summary["output"])))


def _where(output: str) -> str:
    """Where the rows are, and which splits."""
    only = " It holds training rows only; a folder as --output (no ending) holds the other splits too."
    return f"Wrote {shown(output)}.{only if Path(output).suffix else ''}"


def _reasons(summary: Json) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    for reason, count in summary["reasons"].items():
        by = f" (by {summary['suspects_by']})" if reason == "suspect" else ""
        table.add_row(f"  {count:,}", percent(count / summary["rows"]), Text(WHY[reason] + by))
    return table


def _classes(classes: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line per class; of very many the largest."""
    table = plain_table("class", "rows", "kept", "dropped", "share kept", "mean kept", "mean dropped")
    for line in classes[:MOST_CLASSES]:
        counts = [f"{line[name]:,}" for name in ("rows", "kept", "dropped")]
        share = percent(line["kept"] / line["rows"])
        style = "" if line["kept"] else "bold red"
        means = number(line["mean_kept"]), number(line["mean_dropped"])
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
        value = "-" if line["value"] is None else f"{line['value']:.3f}"
        lines.append(Text(f"  {value}{label}  {shown(line['text'], 90)}", no_wrap=True, overflow="ellipsis"))
    return Group(*lines)
