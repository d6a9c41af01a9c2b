"""The page of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import yaml
from matplotlib.figure import Figure

from datadiet.compare.run import RUNS, read_comparison
from datadiet.compare.verdict import three_digits
from datadiet.errors import DataError
from datadiet.formatting import markdown_table, percent, seconds
from datadiet.registry import has
from datadiet.reporting import plot
from datadiet.reporting.page import Drawing, Page, Table
from datadiet.reporting.rows import Kept, read_plans
from datadiet.reporting.run_page import dev_curve, footer, recalls, tested_predictions
from datadiet.store import run_folder
from datadiet.types import Json

LEFT_OUT = ("nll", "mse", "macro_f1")
SPENT = {"price": ("price of a run", "money saved"), "energy": ("kWh of a run", "energy saved")}

Recalls = Mapping[str, Mapping[str, float]]  # by method, then by class


def comparison_page(folder: Path) -> Page:
    """Everything that a comparison says."""
    found = read_comparison(folder)
    failed = [run for run in found["runs"] if run["status"] != "done"]
    notes = [f"{run['name']} {run['status']}: {run.get('error') or 'not run yet'}" for run in failed]
    if not found["methods"]:
        return Page(title="A comparison without a finished run", subtitle=folder.resolve().name, tiles={}, notes=notes)
    results = {run["name"]: _result(folder, run["name"]) for run in found["runs"] if run["status"] == "done"}
    recall, counts = _recalls(folder, results)
    return Page(
        title=f"Comparison on {found['data']['name']}",
        subtitle=f"{folder.resolve().name}: {found['task']}, {found['model']}, {len(results)} runs. {_held(found)}",
        tiles=_tiles(found),
        notes=notes,
        verdicts=verdicts(found),
        tables=[_quality(found), _time(found), *_worst(recall, counts, found["task"])],
        drawings=_drawings(folder, found, results, recall, counts),
        options=yaml.safe_dump(found["plan"], sort_keys=False, allow_unicode=True),
        footer=footer(found["environment"]),
    )


def comparison_markdown(folder: Path) -> str:
    """Quality, time and verdicts in Markdown."""
    found = read_comparison(folder)
    if not found["methods"]:
        return "No run has finished.\n"
    quality = _quality(found)
    said = [f"- `{name}` {text}." for name, text in verdicts(found).items()]
    return "\n\n".join([markdown_table(quality.head, quality.rows), "\n".join(said), _held(found)]) + "\n"


def verdicts(found: Json) -> dict[str, str]:
    """By method; `full` and `short` are what the others are held against."""
    return {
        line["name"]: line["verdict"]
        for line in found["methods"]
        if line["method"] != "full" and not line["method"].startswith("short")
    }


def _result(folder: Path, name: str) -> Json:
    return run_folder.read_result(folder / RUNS / name)


def _held(found: Json) -> str:
    return (
        f"Figures of the {found['split']} split, verdicts about {_word(found['metric'])} with a margin of "
        f"{found['margin']:g} points. Held equal: {found['held_equal']}."
    )


def _word(metric: str) -> str:
    return metric.replace("_", " ")


def _tiles(found: Json) -> dict[str, str]:
    """Of full, and of the method that saves most without being shown to be worse."""
    metric = found["metric"]
    lines = {line["name"]: line for line in found["methods"]}
    tiles = {"seeds": str(len(found["plan"]["seeds"]))}
    if "full" in lines:
        tiles[f"{_word(metric)}, full"] = f"{lines['full']['metrics'][metric]['mean']:.1f}"
    good = [line for line in found["methods"] if _holds(line) and line["saved"]["finetune_s"]]
    good = [line for line in good if line["comparable_times"]]
    if good:
        best = max(good, key=lambda line: float(line["saved"]["finetune_s"]["median"]))
        tiles[f"fine-tuning time saved by {best['name']}, not worse"] = percent(best["saved"]["finetune_s"]["median"])
        tiles[f"{_word(metric)}, {best['name']}"] = f"{best['metrics'][metric]['mean']:.1f}"
    return tiles


def _holds(line: Json) -> bool:
    """Whether it is shown that a method is not worse than full."""
    p = line["p_not_worse_holm"]
    return p is not None and p < 0.05


def _quality(found: Json) -> Table:
    metrics = [name for name in found["methods"][0]["metrics"] if name not in LEFT_OUT]
    extra = [name for name in SPENT if any(line[name] for line in found["methods"])]
    spent = [heading for name in extra for heading in SPENT[name]]
    times_head = ["fine-tuning saved", "total saved", "ceiling"]
    head = ["method", "steps", *map(_word, metrics), *times_head, *spent, "seeds"]
    rows = []
    for line in found["methods"]:
        times = [_saved(line, name) if line["comparable_times"] else "" for name in ("finetune_s", "total_s")]
        ceiling = "" if line["method"] == "full" or line["ceiling"] is None else percent(line["ceiling"])
        quality = [_spread(line["metrics"][name]) for name in metrics]
        spent = [cell for name in extra for cell in _spent(line, name)]
        rows.append([line["name"], f"{line['steps']:,}", *quality, *times, ceiling, *spent, str(len(line["seeds"]))])
    return Table("Quality and time", head, rows, _caption(found, extra))


def _caption(found: Json, extra: Sequence[str]) -> str:
    parts = ["Mean ± standard deviation over the seeds; medians of the times."]
    if "price" in extra:
        parts.append(f"Prices are means, at {found['price_per_hour']:g} per hour of the machine.")
    if "energy" in extra:
        estimated = any(line["energy"] and line["energy"]["estimated"] for line in found["methods"])
        how = "; the power of the processor is an estimate, not measured" if estimated else ""
        parts.append(f"Energy is a mean, what it saves a median, of whole runs{how}.")
    return " ".join(parts)


def _spent(line: Json, name: str) -> list[str]:
    """Money or energy of a run, and what is saved of it."""
    found = line[name]
    if found is None:
        return ["", ""]
    hidden = line["method"] == "full" or found["saved"] is None
    if name == "price":
        return [three_digits(found["mean"]), "" if hidden else _signed(found["saved"])]
    return [three_digits(found["mean_kwh"]), "" if hidden else percent(found["saved"]["median"])]


def _signed(money: float) -> str:
    return f"{'-' if money < 0 else ''}{three_digits(abs(money))}"


def _spread(figure: Mapping[str, float | None]) -> str:
    mean, deviation = figure["mean"], figure["deviation"]
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _saved(line: Json, name: str) -> str:
    saved = line["saved"][name]
    return "" if saved is None or line["method"] == "full" else percent(saved["median"])


def _time(found: Json) -> Table:
    rows = []
    for name, costs in _median_costs(found).items():
        rows.append([name, *(f"{costs[key]:.1f}" for key in plot.ACCOUNTS), seconds(costs["total_s"])])
    return Table(
        "Where the time went", ["method", *plot.ACCOUNTS.values(), "all"], rows, "Seconds, medians over the seeds."
    )


def _median_costs(found: Json) -> dict[str, dict[str, float]]:
    by_method: dict[str, list[Json]] = {}
    for run in found["runs"]:
        if run["status"] == "done":
            by_method.setdefault(_arm(run["name"]), []).append(run["cost"])
    keys = (*plot.ACCOUNTS, "total_s")
    return {
        name: {key: statistics.median(cost[key] for cost in costs) for key in keys} for name, costs in by_method.items()
    }


def _arm(run_name: str) -> str:
    """The method and keep of a run."""
    return run_name.rsplit("-seed", 1)[0]


def _recalls(folder: Path, results: Mapping[str, Json]) -> tuple[Recalls, dict[str, int]]:
    """Mean recall over the seeds by class, by method; and the rows of each class. Empty for regressions."""
    by_method: dict[str, list[dict[str, float]]] = {}
    counts: dict[str, int] = {}
    for name, result in results.items():
        predictions = tested_predictions(folder / RUNS / name, result)
        if predictions is None:
            return {}, {}
        recall, counts = recalls(predictions)
        by_method.setdefault(_arm(name), []).append(recall)
    means = {
        method: {name: statistics.mean(one[name] for one in each) for name in counts}
        for method, each in by_method.items()
    }
    return means, counts


def _worst(means: Recalls, counts: Mapping[str, int], task: str) -> list[Table]:
    rows = []
    for method, recall in means.items():
        worst = min(recall, key=lambda name: (recall[name], name))
        rows.append([method, worst, percent(recall[worst]), f"{counts[worst]:,}"])
    unit = "spans" if has(task, "tags_only") else "rows"
    return [Table("Worst class", ["method", "class", "recall", unit], rows)] if rows else []


def _drawings(
    folder: Path, found: Json, results: Mapping[str, Json], means: Recalls, counts: Mapping[str, int]
) -> list[Drawing]:
    svg = plot.svg
    drawings = []
    if any(line["saved"]["finetune_s"] and line["comparable_times"] for line in found["methods"]):
        caption = (
            "Up and to the left is better. Bars are 95 % intervals over the seeds; the ceiling is the time at which "
            "only the tokens that trained would have been paid for."
        )
        drawings.append(Drawing("What time buys", caption, svg(plot.frontier_figure(found))))
    curves: dict[str, list[tuple[Sequence[float], Sequence[float]]]] = {}
    metric = None
    for name, result in results.items():
        metric, curve = dev_curve(result)
        if metric is not None:
            curves.setdefault(_arm(name), []).append(curve)
    if metric is not None and curves:
        drawings.append(
            Drawing(
                "Time to target",
                "After each epoch, on dev; one line per run.",
                svg(plot.time_to_target(curves, metric)),
            )
        )
    drawings.append(
        Drawing("Where the time went", "Medians over the seeds.", svg(plot.where_time_went(_median_costs(found))))
    )
    if means:
        drawings.append(
            Drawing("Quality by class", "Mean over the seeds, worst first.", svg(plot.per_class(means, counts)))
        )
    agreement = _agreement(folder, found, results)
    if agreement is not None:
        caption = "Jaccard index of what two methods chose last, with the first seed: 1 is the same rows."
        drawings.append(Drawing("Do the methods keep the same rows?", caption, svg(agreement)))
    return drawings


def _agreement(folder: Path, found: Json, results: Mapping[str, Json]) -> Figure | None:
    """Of the last choices of the first seed's runs."""
    seed = found["plan"]["seeds"][0]
    chosen: dict[str, Kept] = {}
    for run in found["runs"]:
        if run["name"] in results and run["seed"] == seed:
            try:
                rows = int(results[run["name"]]["data"]["rows"]["train"])
                kept = read_plans(folder / RUNS / run["name"], rows)
            except DataError:
                continue  # its table has been removed, e.g. to save space
            if kept.choices:
                chosen[_arm(run["name"])] = kept
    if len(chosen) < 2:
        return None
    names = list(chosen)
    matrix = np.eye(len(names))
    for (a, first), (b, second) in combinations(enumerate(names), 2):
        ours, theirs = chosen[first].last, chosen[second].last
        matrix[a, b] = matrix[b, a] = (ours & theirs).sum() / max(1, (ours | theirs).sum())
    return plot.agreement(names, matrix)
