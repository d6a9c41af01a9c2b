"""The page of a comparison, and its table in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import yaml
from matplotlib.figure import Figure

from datadiet.compare.plan import FULL, SHORT
from datadiet.compare.run import RUNS, read_comparison
from datadiet.compare.verdict import (
    STATES,
    answer,
    basis,
    diets,
    has_unfinished,
    measured_energy,
    result_cells,
    rising_cell,
    table_metrics,
    verdicts,
    warnings,
)
from datadiet.errors import DataError
from datadiet.formatting import (
    ACCOUNTS,
    counted,
    difference_text,
    duration,
    escaped,
    markdown_table,
    mean_text,
    percent,
    spaced,
    three_digits,
)
from datadiet.registry import has
from datadiet.reporting import plot
from datadiet.reporting.page import Card, Drawing, Page, Section, Table
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
        return Page(title="A comparison without a finished run", subtitle=name, notes=notes)
    results = {run: run_folder.checked_result(folder / RUNS / run) for run in done}
    recall, counts = _recalls(folder, results)
    task, model = comparison["task"], comparison["model"]
    return Page(
        title=f"Comparison on {comparison['data']['name']}",
        subtitle=f"{name}: {task}, {model}, {len(results)} runs. {_basis(comparison)}",
        cards=answer_cards(comparison),
        notes=[*warnings(comparison), *notes],
        picture=_frontier(comparison),
        sections=[
            Section("Quality and time", tables=[_quality(comparison)], details=verdicts(comparison)),
            *_sections(folder, comparison, results, recall, counts),
        ],
        options=yaml.safe_dump(comparison["plan"], sort_keys=False, allow_unicode=True),
        footer=footer(comparison["environment"]),
    )


def comparison_markdown(folder: Path) -> str:
    """Quality, time and verdicts in Markdown."""
    comparison = read_comparison(folder)
    if not comparison["methods"]:
        return "No run has finished.\n"
    quality = _quality(comparison)
    cards = [f"**{escaped(card.question)}** {card.answer}" for card in answer_cards(comparison)]
    sentences = [f"- `{name}` {text}." for name, text in verdicts(comparison).items()]
    warning = [f"**{escaped(text)}**" for text in warnings(comparison)]
    table = markdown_table(quality.head, quality.rows)
    return "\n\n".join(["  \n".join(cards), table, *warning, "\n".join(sentences), _basis(comparison)]) + "\n"


def _basis(comparison: Json) -> str:
    return f"Figures of the {comparison['split']} split, {basis(comparison)}"


def answer_cards(comparison: Json) -> list[Card]:
    """Does a diet pay on this data, which one, how much time does it save, at what loss, and what is next."""
    found = answer(comparison)
    if found is None:
        return [Card("Does a diet pay here?", STATES["unclear"], "No diet was compared.", "unclear")]
    line = next(line for line in comparison["methods"] if line["name"] == found["method"])
    state = found["state"]
    return [
        Card("Does a diet pay here?", STATES[state], _WHY[state].format(margin=f"{comparison['margin']:g}"), state),
        Card("Which one?", f"`{line['name']}`", _which(comparison, line)),
        Card("How much time does it save?", *_time_answer(line)),
        Card("At what loss?", *_loss_answer(comparison, line)),
        Card.of_advice("What next?" if state != "unclear" else "What would settle it?", found["next"]),
    ]


_WHY = {
    "pays": "It is shown to be within {margin} points of full data, and better than everything for as many steps.",
    "as_short": "The diet saves time, and training on everything for as many steps does as well.",
    "no_time": "Nothing shows that it is worse, and it took no less time than training on everything.",
    "costs": "It is shown to be worse than training on everything, for as many steps or for all of them.",
    "unclear": "These runs do not show whether the diet stays within {margin} points of full data and beats `short`.",
}


def _which(comparison: Json, line: Json) -> str:
    count = len(diets(comparison))
    seeds = counted(len(line["seeds"]), "seed")
    return f"{seeds}." if count == 1 else f"The best of {count} methods; {seeds}."


def _time_answer(line: Json) -> tuple[str, str]:
    saved = line["saved"]["finetune_s"]
    if saved is None or not line["comparable_times"]:
        return "Not known", "Not every run is known to have had the machine to itself."
    share, interval = saved["median"], saved["interval"]
    spread = "" if interval is None else f" ({percent(interval['low'], 0)} to {percent(interval['high'], 0)})"
    ceiling = (
        "" if line["ceiling"] is None else f" The tokens that it does not train are {percent(line['ceiling'], 0)}."
    )
    return (
        f"{percent(abs(share), 0)} {'less' if share >= 0 else 'more'}",
        f"Of the fine-tuning time of full data{spread}, scoring and selecting included.{ceiling}",
    )


def _loss_answer(comparison: Json, line: Json) -> tuple[str, str]:
    metric, full = spaced(comparison["metric"]), line["against"].get(FULL)
    mean = mean_text(line["metrics"][comparison["metric"]], 1 + (comparison["metric"] in run_folder.LIKELIHOODS))
    if full is None:
        return f"{metric} {mean}", "Full data was not trained beside it."
    parts = [f"{metric} {mean}, against full data{'' if full['interval'] else ', in one seed'}."]
    if (short := line["against"].get(SHORT)) is not None:
        parts.append(f"Against everything for as many steps: {difference_text(short)}.")
    return f"{difference_text(full)} points", " ".join(parts)


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
    return Table("Seconds of each method", head, rows, caption)


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


def _frontier(comparison: Json) -> Drawing | None:
    """Quality against time; None where no times can be compared."""
    timed = [line for line in comparison["methods"] if line["saved"]["finetune_s"] and line["comparable_times"]]
    if not timed:
        return None
    metric = comparison["metric"]
    each = (
        f"{line['name']} {line['metrics'][metric]['mean']:.1f} at "
        f"{percent(1 - line['saved']['finetune_s']['median'], 0)} of the time"
        for line in timed
    )
    caption = (
        "Up and to the left is better. Bars are 95 % intervals over the seeds; the ceiling is the time at which "
        "only the tokens that trained would have been paid for."
    )
    finding = f"{spaced(metric)} of each method: {'; '.join(each)}."
    return Drawing("Quality against time", caption, plot.frontier_figure(comparison), finding, wide=True)


def _sections(
    folder: Path, comparison: Json, results: Mapping[str, Json], means: Recalls, counts: Mapping[str, int]
) -> list[Section]:
    """Time, classes, and whether the methods keep the same rows."""
    curves: dict[str, list[tuple[Sequence[float], Sequence[float]]]] = {}
    metric = None
    for name, result in results.items():
        metric, curve = dev_curve(result)
        if metric is not None:
            curves.setdefault(_arm(name), []).append(curve)
    drawings = [Drawing("Where the time went", "Medians over the seeds.", plot.cost_figure(_median_costs(comparison)))]
    if metric is not None and curves:
        figure = plot.time_to_target_figure(curves, metric)
        drawings.append(Drawing("Time to target", "After each epoch, on dev; one line per run.", figure))
    sections = [Section("Time", tables=[_time(comparison)], drawings=drawings)]
    if means:
        worst = _worst(means, counts, comparison["task"])
        finding = "; ".join(f"{method}: worst is {name}, recall {recall}" for method, name, recall, _ in worst[0].rows)
        figure = plot.class_figure(means, counts)
        drawing = Drawing(
            "Recall of each class",
            "Mean over the seeds, worst first; in brackets, how many there are.",
            figure,
            finding,
        )
        sections.append(Section("Per class", tables=worst, drawings=[drawing]))
    if (agreement := _agreement(folder, comparison, results)) is not None:
        caption = "Jaccard index of the last choices of two methods, with the first seed: 1 is the same rows."
        drawing = Drawing("Agreement of the last choices", caption, agreement)
        sections.append(Section("Do the methods keep the same rows?", drawings=[drawing]))
    return sections


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
