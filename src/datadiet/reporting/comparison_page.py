"""The page of a comparison, and its table in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import yaml
from matplotlib.figure import Figure

from datadiet.compare.run import RUNS, read_comparison
from datadiet.compare.verdict import (
    basis,
    has_unfinished,
    is_not_worse,
    measured_energy,
    result_cells,
    rising_cell,
    table_metrics,
    unfinished_sentence,
    verdicts,
)
from datadiet.errors import DataError
from datadiet.formatting import ACCOUNTS, duration, escaped, markdown_table, percent, spaced, three_digits
from datadiet.registry import has
from datadiet.reporting import plot
from datadiet.reporting.page import Drawing, Page, Table
from datadiet.reporting.rows import read_plans
from datadiet.reporting.run_page import dev_curve, footer, recalls, tested_predictions, worst_class
from datadiet.store import run_folder
from datadiet.types import Json

Recalls = Mapping[str, Mapping[str, float]]  # by method, then by class


def comparison_page(folder: Path) -> Page:
    """The page of a comparison's folder."""
    comparison = read_comparison(folder)
    done = [run["name"] for run in comparison["runs"] if run["status"] == "done"]
    notes = [
        f"{run['name']} {run['status']}: {run.get('error') or 'not run yet'}"
        for run in comparison["runs"]
        if run["name"] not in done
    ]
    name = folder.resolve().name
    if not comparison["methods"]:
        return Page(title="A comparison without a finished run", subtitle=name, tiles={}, notes=notes)
    results = {run: run_folder.checked_result(folder / RUNS / run) for run in done}
    recall, counts = _recalls(folder, results)
    task, model = comparison["task"], comparison["model"]
    return Page(
        title=f"Comparison on {comparison['data']['name']}",
        subtitle=f"{name}: {task}, {model}, {len(results)} runs. {_basis(comparison)}",
        tiles=_tiles(comparison),
        notes=[*filter(None, [unfinished_sentence(comparison)]), *notes],
        verdicts=verdicts(comparison),
        tables=[_quality(comparison), _time(comparison), *_worst(recall, counts, comparison["task"])],
        drawings=_drawings(folder, comparison, results, recall, counts),
        options=yaml.safe_dump(comparison["plan"], sort_keys=False, allow_unicode=True),
        footer=footer(comparison["environment"]),
    )


def comparison_markdown(folder: Path) -> str:
    """Quality, time and verdicts in Markdown."""
    comparison = read_comparison(folder)
    if not comparison["methods"]:
        return "No run has finished.\n"
    quality = _quality(comparison)
    sentences = [f"- `{name}` {text}." for name, text in verdicts(comparison).items()]
    warning = [f"**{escaped(text)}**"] if (text := unfinished_sentence(comparison)) else []
    table = markdown_table(quality.head, quality.rows)
    return "\n\n".join([table, *warning, "\n".join(sentences), _basis(comparison)]) + "\n"


def _basis(comparison: Json) -> str:
    return f"Figures of the {comparison['split']} split, {basis(comparison)}"


def _tiles(comparison: Json) -> dict[str, str]:
    """Of full, and of the method that saves most and is shown to be not worse."""
    metric = comparison["metric"]
    lines = {line["name"]: line for line in comparison["methods"]}
    tiles = {"seeds": str(len(comparison["plan"]["seeds"]))}
    if "full" in lines:
        tiles[f"{spaced(metric)}, full"] = f"{lines['full']['metrics'][metric]['mean']:.1f}"
    good = [
        line
        for line in lines.values()
        if is_not_worse(line) and line["saved"]["finetune_s"] and line["comparable_times"]
    ]
    if good:
        best = max(good, key=lambda line: float(line["saved"]["finetune_s"]["median"]))
        tiles[f"fine-tuning time saved by {best['name']}, not worse"] = percent(best["saved"]["finetune_s"]["median"])
        tiles[f"{spaced(metric)}, {best['name']}"] = f"{best['metrics'][metric]['mean']:.1f}"
    return tiles


def _quality(comparison: Json) -> Table:
    with_energy, with_rising = measured_energy(comparison), has_unfinished(comparison)
    metrics = [spaced(name) for name in table_metrics(comparison)]
    energy = ["kWh of a run", "energy saved"] if with_energy else []
    rising = ["still rising on dev"] if with_rising else []
    head = ["method", "steps", *metrics, "fine-tuning saved", "total saved", "ceiling", *energy, *rising, "seeds"]
    rows = []
    for line in comparison["methods"]:
        energy = _energy_cells(line) if with_energy else []
        rising = [rising_cell(line)] if with_rising else []
        rows.append([line["name"], *result_cells(comparison, line, 2), *energy, *rising, str(len(line["seeds"]))])
    caption = "Mean ± standard deviation over the seeds; medians of the times."
    if with_rising:
        caption += " Still rising: points per epoch at the end of training, where the rise is more than its error."
    if with_energy:
        estimated = any(line["energy"] and line["energy"]["estimated"] for line in comparison["methods"])
        remark = "; the power of the processor is an estimate, not measured" if estimated else ""
        caption += f" Energy is a mean, the energy saved a median, of whole runs{remark}."
    return Table("Quality and time", head, rows, caption)


def _energy_cells(line: Json) -> list[str]:
    """The energy of a run, and the share that is saved."""
    energy = line["energy"]
    if energy is None:
        return ["", ""]
    hidden = line["method"] == "full" or energy["saved"] is None
    return [three_digits(energy["mean_kwh"]), "" if hidden else percent(energy["saved"]["median"])]


def _time(comparison: Json) -> Table:
    rows = [
        [name, *(f"{costs[key]:.1f}" for key in ACCOUNTS), duration(costs["total_s"])]
        for name, costs in _median_costs(comparison).items()
    ]
    head, caption = ["method", *ACCOUNTS.values(), "all"], "Seconds, medians over the seeds."
    shares = _padding(comparison)
    if None not in shares.values():
        head, caption = [*head, "padding"], f"{caption} Padding: of the positions of the batches that trained."
        rows = [[*row, percent(shares[row[0]] or 0.0)] for row in rows]
    return Table("Where the time went", head, rows, caption)


def _costs(comparison: Json) -> dict[str, list[Json]]:
    by_method: dict[str, list[Json]] = {}
    for run in comparison["runs"]:
        if run["status"] == "done":
            by_method.setdefault(_arm(run["name"]), []).append(run["cost"])
    return by_method


def _median_costs(comparison: Json) -> dict[str, dict[str, float]]:
    return {
        name: {key: statistics.median(cost.get(key, 0.0) for cost in costs) for key in (*ACCOUNTS, "total_s")}
        for name, costs in _costs(comparison).items()
    }


def _padding(comparison: Json) -> dict[str, float | None]:
    """The share of padding by method, median over the seeds; None where a run does not know it."""
    shares = {name: [run_folder.padding_share(cost) for cost in costs] for name, costs in _costs(comparison).items()}
    return {
        name: None if None in found else statistics.median(share for share in found if share is not None)
        for name, found in shares.items()
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
    unit = "spans" if has(task, "tags_only") else "rows"
    rows = [[method, *worst_class(recall, counts)] for method, recall in means.items()]
    return [Table("Worst class", ["method", "class", "recall", unit], rows)] if rows else []


def _drawings(
    folder: Path, comparison: Json, results: Mapping[str, Json], means: Recalls, counts: Mapping[str, int]
) -> list[Drawing]:
    drawings = []
    if any(line["saved"]["finetune_s"] and line["comparable_times"] for line in comparison["methods"]):
        caption = (
            "Up and to the left is better. Bars are 95 % intervals over the seeds; the ceiling is the time at which "
            "only the tokens that trained would have been paid for."
        )
        drawings.append(Drawing("What time buys", caption, plot.frontier_figure(comparison)))
    curves: dict[str, list[tuple[Sequence[float], Sequence[float]]]] = {}
    metric = None
    for name, result in results.items():
        metric, curve = dev_curve(result)
        if metric is not None:
            curves.setdefault(_arm(name), []).append(curve)
    if metric is not None and curves:
        figure = plot.time_to_target_figure(curves, metric)
        drawings.append(Drawing("Time to target", "After each epoch, on dev; one line per run.", figure))
    costs = plot.cost_figure(_median_costs(comparison))
    drawings.append(Drawing("Where the time went", "Medians over the seeds.", costs))
    if means:
        caption = "Mean over the seeds, worst first."
        drawings.append(Drawing("Quality by class", caption, plot.class_figure(means, counts)))
    agreement = _agreement(folder, comparison, results)
    if agreement is not None:
        caption = "Jaccard index of the last choices of two methods, with the first seed: 1 is the same rows."
        drawings.append(Drawing("Do the methods keep the same rows?", caption, agreement))
    return drawings


def _agreement(folder: Path, comparison: Json, results: Mapping[str, Json]) -> Figure | None:
    """Of the last choices of the first seed's runs."""
    seed = comparison["plan"]["seeds"][0]
    chosen = {}
    for run in comparison["runs"]:
        if run["name"] in results and run["seed"] == seed:
            try:
                rows = int(results[run["name"]]["data"]["rows"]["train"])
                kept = read_plans(folder / RUNS / run["name"], rows)
            except DataError:
                continue  # its table has been removed, e.g. to save space
            if kept.choices:
                chosen[_arm(run["name"])] = kept.last
    if len(chosen) < 2:
        return None
    matrix = np.eye(len(chosen))
    for (a, ours), (b, theirs) in combinations(enumerate(chosen.values()), 2):
        matrix[a, b] = matrix[b, a] = (ours & theirs).sum() / max(1, (ours | theirs).sum())
    return plot.agreement_figure(list(chosen), matrix)
