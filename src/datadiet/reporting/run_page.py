"""What a run's noise guard found, as a section of the page: how many labels are wrong, how sure that is, and which.

It reads `noise.json` and `suspects.parquet` of the run folder; a run without a guard has neither.

The page of one run.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from datadiet.compare.statistics import label_sets, several_labels, tags_words
from datadiet.compare.verdict import energy_words
from datadiet.errors import DataError
from datadiet.formatting import markdown_table, percent, seconds
from datadiet.noise.guard import LEAST_RATE, NOISE, SUSPECTS
from datadiet.registry import has
from datadiet.reporting import plot
from datadiet.reporting.page import Drawing, Page, Section, Table
from datadiet.reporting.plot import MOST_POINTS
from datadiet.reporting.rows import Dynamics, Rows, candidates, cut, example_table, read_dynamics, training_texts
from datadiet.store import run_folder
from datadiet.types import Json

MOST_SUSPECTS = 50  # shown: enough to see what they are; the file has all
MOST_NAMES = 20  # labels shown
_COLUMNS = ("row", "id", "label", "suspicion", "reason")


@dataclass(frozen=True)
class Found:
    """What a guard left in a run folder.

    Attributes:
        noise: The content of `noise.json`.
        suspects: `_COLUMNS` of those set aside, the most suspected first, at most `MOST_SUSPECTS`.
    """

    noise: Json
    suspects: dict[str, list[Any]]


def read_guard(folder: Path) -> Found | None:
    """What the guard of a run found; None where it had none.

    Raises:
        DataError: If its files are broken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not (folder / NOISE).is_file():
        return None
    try:
        noise = json.loads((folder / NOISE).read_text(encoding="utf-8"))
        known = [review["rate"] for review in noise["reviews"]]
        suspects: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        if known and (folder / SUSPECTS).is_file():
            suspects = pq.read_table(folder / SUSPECTS, columns=list(_COLUMNS)).slice(0, MOST_SUSPECTS).to_pydict()
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{folder} has a broken {NOISE} or {SUSPECTS}: {error}") from None
    return Found(noise, suspects)


def suspected_rows(found: Found | None) -> Rows:
    """The training rows of `suspects`, int64; none without a guard."""
    return np.array(found.suspects["row"] if found else [], np.int64)


def guard_section(found: Found, texts: Sequence[str] | None) -> Section:
    """The estimate of each review with its interval, how many rest per label, and the most suspected rows.

    Args:
        found: From `read_guard`.
        texts: Of its `suspected_rows`; None where they cannot be read.
    """
    reviews = found.noise["reviews"]
    judged = [review for review in reviews if not review["note"]]
    drawings = []
    if judged:
        caption = (
            "As each review estimates it for all training rows, with its 90 % interval. Below the dashed line nothing "
            "is set aside."
        )
        drawings.append(
            Drawing("Estimated share of wrong labels", caption, plot.svg(plot.noise_level(judged, LEAST_RATE)))
        )
    tables = [_reviews(reviews)] if reviews else []
    if by_label := found.noise.get("aside_by_label"):
        tables.append(_by_label(by_label))
    if found.suspects["row"]:
        tables.append(_suspects(found, texts))
    return Section("Suspected wrong labels", guard_sentence(found), drawings, tables)


def guard_sentence(found: Found) -> str:
    """What it came to, in a sentence or two."""
    noise, reviews = found.noise, found.noise["reviews"]
    if not reviews:
        return "The noise guard judged nothing: no epoch trained after the first."
    rate, aside, times = percent(noise["rate"]), noise["aside"], len(reviews)
    said = f"The noise guard looked {'once' if times == 1 else f'{times} times'}: an estimated {rate} of the training "
    said += "labels are wrong. "
    if aside == 0:
        return said + "At the end no row was set aside."
    return said + f"At the end {aside:,} {'row was' if aside == 1 else 'rows were'} set aside."


def _reviews(reviews: list[Json]) -> Table:
    rows = [
        [
            str(review["epoch"] + 1), f"{review['judged']:,}", percent(review["rate"]), *_basis(review),
            *(f"{review[name]:,}" for name in ("aside", "joined", "returned")),
        ]
        for review in reviews
    ]  # fmt: skip
    head = ["before epoch", "judged", "estimate", "90 % interval", "rests on", "set aside", "joined", "returned"]
    notes = [f"Before epoch {review['epoch'] + 1}: {review['note']}." for review in reviews if review["note"]]
    return Table("Reviews", head, rows, " ".join(notes))


def _basis(review: Json) -> list[str]:
    if review["note"]:
        return ["", ""]
    return [f"{percent(review['low'])} to {percent(review['high'])}", f"{review['evidence']:,} rows"]


def _by_label(counts: dict[str, int]) -> Table:
    """The labels as given that most of those set aside have."""
    shown = list(counts.items())[:MOST_NAMES]
    total = sum(counts.values())
    note = f"The first {len(shown)} of {len(counts):,} labels." if len(shown) < len(counts) else ""
    rows = [[cut(name), f"{count:,}", percent(count / total)] for name, count in shown]
    return Table("Set aside, by the label that they have", ["label", "rows", "share of those set aside"], rows, note)


def _suspects(found: Found, texts: Sequence[str] | None) -> Table:
    suspects = found.suspects
    columns = [suspects[name] for name in ("label", "suspicion", "id", "reason")]
    rows = [
        [cut(text), cut(label), f"{suspicion:.2f}", cut(key), reason]
        for text, label, suspicion, key, reason in zip(texts or [""] * len(columns[0]), *columns, strict=True)
    ]
    shown, whole = len(rows), found.noise["aside"]
    note = f"The first {shown} of {whole:,}; all are in {SUSPECTS}." if shown < whole else f"Also in {SUSPECTS}."
    return Table(
        "Most suspected", ["text", "label", "suspicion", "id", "why"], rows, note, prose=frozenset({0, 1, 3, 4})
    )


def run_page(folder: Path) -> Page:
    """Everything that a run folder says.

    Raises:
        DataError: If the run is not finished, or a table of it is broken.
    """
    result = run_folder.read_result(folder)
    dynamics = read_dynamics(folder, result)
    chosen = candidates(dynamics)
    guard = read_guard(folder)
    read = training_texts(folder, result, np.concatenate([chosen.rows, suspected_rows(guard)]))
    count = len(chosen.rows)
    table = example_table(dynamics, chosen, read and (read[0][:count], read[1][:count]))
    notes = [] if read else ["The training texts are not shown: the data is no longer where the run read it."]
    return Page(
        title=f"{result['task'] or 'a run'} on {result['data']['name'] or 'your data'}",
        subtitle=f"{folder.resolve().name}: {result['model']}, seed {result['seed']}",
        tiles=_tiles(result),
        notes=notes,
        tables=[_quality(result), _time(result), *_classes(folder, result)],
        drawings=_drawings(folder, result, dynamics),
        sections=[] if guard is None else [guard_section(guard, read and read[0][count:])],
        examples=table,
        examples_note=_shown(table),
        options=yaml.safe_dump(result["diet"], sort_keys=False, allow_unicode=True),
        footer=footer(result["environment"]),
    )


def run_markdown(folder: Path) -> str:
    """Quality and cost of a run as Markdown tables, and what its noise guard came to, where it had one."""
    result = run_folder.read_result(folder)
    parts = [markdown_table(table.head, table.rows) for table in (_quality(result), _time(result))]
    if (guard := read_guard(folder)) is not None:
        parts.append(guard_sentence(guard))
    return "\n\n".join(parts) + "\n"


def _tiles(result: Json) -> dict[str, str]:
    cost, saved = result["cost"], result["ceiling"]
    tested = run_folder.tested_metrics(result)
    metric = run_folder.main_metric(result["task"])
    tiles = {metric.replace("_", " "): f"{100 * tested[metric]:.1f}"} if metric in tested and metric else {}
    tiles["fine-tuning"] = seconds(cost["finetune_s"])
    tiles["in all"] = seconds(cost["total_s"])
    tiles["examples not trained"] = percent(saved["examples_saved"])
    if saved["tokens_saved"] is not None:
        tiles["ceiling: tokens not trained"] = percent(saved["tokens_saved"])
    if result.get("energy"):
        tiles["energy"] = energy_words(result["energy"])
    return tiles


def _quality(result: Json) -> Table:
    splits = {split: found for split, found in result["metrics"].items() if found}
    names = list(dict.fromkeys(name for found in splits.values() for name in found))
    rows = [
        [name.replace("_", " "), *(f"{found.get(name, float('nan')):.4f}" for found in splits.values())]
        for name in names
    ]
    return Table("Quality", ["metric", *splits], rows)


def _time(result: Json) -> Table:
    cost = result["cost"]
    words = {**plot.ACCOUNTS, "finetune_s": "train + score + select", "total_s": "all"}
    rows = [[word, f"{cost[key]:.1f}", percent(cost[key] / (cost["total_s"] or 1.0))] for key, word in words.items()]
    return Table("Where the time went", ["", "seconds", "share"], rows)


def recalls(predictions: pd.DataFrame) -> tuple[dict[str, float], dict[str, int]]:
    """Recall and number of rows by gold class; by label where rows have several; of spans by their type."""
    if tags_words(predictions):
        columns = zip(predictions["gold_slots"], predictions["predicted_slots"], strict=True)
        return _recalls_of((_typed_spans(gold), _typed_spans(found)) for gold, found in columns)
    if several_labels(predictions):
        pairs = zip(*label_sets(predictions), strict=True)
        return _recalls_of(([(name, name) for name in gold], [(name, name) for name in found]) for gold, found in pairs)
    gold = predictions["gold"].astype(str)
    right = gold == predictions["predicted"].astype(str)
    found = right.groupby(gold).agg(["mean", "size"])
    return {str(name): float(row["mean"]) for name, row in found.iterrows()}, {
        str(name): int(row["size"]) for name, row in found.iterrows()
    }


def _typed_spans(tags: Sequence[str]) -> list[tuple[str, object]]:
    from datadiet.compare.statistics import spans  # seqeval is slow to import

    with warnings.catch_warnings():  # as in `datadiet.tasks.metrics`
        warnings.filterwarnings("ignore", message=".*seems not to be NE tag", category=UserWarning)
        return [(span[0], span) for span in spans(tags)]


def _recalls_of(
    pairs: Iterable[tuple[Sequence[tuple[str, object]], Sequence[tuple[str, object]]]],
) -> tuple[dict[str, float], dict[str, int]]:
    """Recall and number by class, from what is gold and what is found in each row: (class, thing) each."""
    counts: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for gold, found in pairs:
        counts.update(name for name, _ in gold)
        hits.update(name for name, _ in set(gold) & set(found))
    return {name: hits[name] / counts[name] for name in sorted(counts)}, {name: counts[name] for name in sorted(counts)}


def tested_predictions(folder: Path, result: Json) -> pd.DataFrame | None:
    """Predictions of the tested split; None where a run has none, predicts numbers, or there is nothing to find."""
    path = folder / run_folder.PREDICTIONS
    if has(result["task"], "numbers") or not path.is_file():
        return None
    table = pd.read_parquet(path)
    found = table[table["split"] == ("test" if result["metrics"]["test"] else "dev")]
    gold = "gold_slots" if len(found) and tags_words(found) else "gold"
    return found if len(found) and found[gold].notna().all() and recalls(found)[0] else None


def _classes(folder: Path, result: Json) -> list[Table]:
    predictions = tested_predictions(folder, result)
    if predictions is None:
        return []
    recall, counts = recalls(predictions)
    worst = min(recall, key=lambda name: (recall[name], name))
    rows = [[worst, percent(recall[worst]), f"{counts[worst]:,}"]]
    return [Table("Worst class", ["class", "recall", "spans" if tags_words(predictions) else "rows"], rows)]


def _drawings(folder: Path, result: Json, dynamics: Dynamics) -> list[Drawing]:
    svg, epochs = plot.svg, result["epochs"]
    drawings = [
        Drawing("What trained in each epoch", "Rows kept and rows that rested.", svg(plot.kept_by_epoch(epochs)))
    ]
    metric, curve = dev_curve(result)
    if metric is not None:
        figure = plot.time_to_target({"this run": [curve]}, metric)
        drawings.append(Drawing("Quality against time", "After each epoch, on the dev split.", svg(figure)))
    if any(entry.quantiles for entry in dynamics.rounds):
        caption = (
            "Larger is harder. Bands hold the middle half and the middle nine tenths of the rows that have a value."
        )
        drawings.append(Drawing("Scores over the epochs", caption, svg(plot.score_distribution_figure(dynamics))))
    if len(dynamics.choices) > 1:
        caption = "Each choice beside the one before it. Little that is new: the diet has settled, or ran dry."
        drawings.append(Drawing("How the kept rows turn over", caption, svg(plot.turnover_figure(dynamics))))
    if pd.notna(dynamics.confidence).any():
        caption = (
            "Top left: learned at once. Right: the model is undecided, where there is most to learn. Bottom left: "
            f"never learned, and more often mislabelled.{_points(dynamics)}"
        )
        drawings.append(Drawing("Data map", caption, svg(plot.data_map_figure(dynamics))))
    predictions = tested_predictions(folder, result)
    if predictions is not None:
        recall, counts = recalls(predictions)
        drawings.append(
            Drawing("Quality by class", "Worst classes first.", svg(plot.per_class({"this run": recall}, counts)))
        )
    return drawings


def dev_curve(result: Json) -> tuple[str | None, tuple[Sequence[float], Sequence[float]]]:
    """Seconds of fine-tuning and dev figure (in points) after each epoch; no metric where there was no dev split."""
    epochs = [epoch for epoch in result["epochs"] if epoch["dev"]]
    if not epochs:
        return None, ((), ())
    known = epochs[0]["dev"]
    metric = run_folder.main_metric(result["task"])
    metric = metric if metric in known else next(iter(known))
    spent, so_far = {}, 0.0
    for epoch in result["epochs"]:
        so_far += epoch["seconds"] + epoch["score_s"]
        spent[epoch["epoch"]] = so_far
    return metric, ([spent[epoch["epoch"]] for epoch in epochs], [100 * epoch["dev"][metric] for epoch in epochs])


def _points(dynamics: Dynamics) -> str:
    """What of a data map is shown, where it is not everything."""
    known = int(pd.notna(dynamics.confidence).sum())
    if known <= MOST_POINTS:
        return ""
    return f" Shown are {MOST_POINTS:,} of {known:,} rows, drawn at random (seed 0); the counts are of all."


def _shown(table: Json) -> str:
    return (
        f"{_sample(table)} Most suspect first: by the mean margin over the epochs (minus AUM), at whose top "
        "mislabelled and unanswerable examples gather. Long texts are cut."
    )


def _sample(table: Json) -> str:
    """How many of how many, and by what rule."""
    shown, rows = len(table["id"]), table["rows"]
    if shown == rows:
        return "All of them."
    return (
        f"A sample: {shown:,} of {rows:,}. The {table['suspects']:,} most suspect; {table['extremes']:,} more that are "
        f"among the easiest, the hardest by the last score, or the least confident; and {table['drawn']:,} of the "
        f"others, drawn at random (seed {table['seed']})."
    )


def footer(environment: Mapping[str, object]) -> str:
    """Machine and versions on one line."""
    versions = environment.get("versions")
    parts = [f"{name} {value}" for name, value in environment.items() if name != "versions" and value]
    parts += [f"{name} {value}" for name, value in versions.items()] if isinstance(versions, Mapping) else []
    return "Measured on: " + ", ".join(parts) + "."
