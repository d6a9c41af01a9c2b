"""The page of one run, with a section on its noise guard, and its tables in Markdown.

A run with a guard has `noise.json` and `suspects.parquet` in its folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from datadiet.compare.statistics import label_pairs, several_labels, span_pairs, tags_words
from datadiet.errors import DataError
from datadiet.files import read_json
from datadiet.formatting import (
    ACCOUNTS,
    counted,
    duration,
    energy_text,
    escaped,
    markdown_table,
    percent,
    race_sentences,
    rate_text,
    spaced,
    unfinished_text,
)
from datadiet.noise.guard import LEAST_RATE
from datadiet.noise.monitor import NOISE, SUSPECTS
from datadiet.registry import has
from datadiet.reporting import plot
from datadiet.reporting.page import Drawing, Page, Section, Table
from datadiet.reporting.rows import Dynamics, Rows, candidates, cut, example_table, read_dynamics, training_texts
from datadiet.store import run_folder
from datadiet.types import Json

MOST_SUSPECTS = 50  # shown: enough for an impression; the file has all
MOST_NAMES = 20  # labels shown
_COLUMNS = ("row", "id", "label", "suspicion", "reason")


@dataclass(frozen=True)
class GuardRecord:
    """The files of a noise guard in a run folder.

    Attributes:
        noise: The content of `noise.json`.
        suspects: `_COLUMNS` of the excluded rows, the most suspected first, at most `MOST_SUSPECTS`.
    """

    noise: Json
    suspects: dict[str, list[Any]]


def read_guard(folder: Path) -> GuardRecord | None:
    """The record of a run's noise guard; None for a run without a guard.

    Raises:
        DataError: If its files are broken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    run_folder.check_files(folder, NOISE, SUSPECTS)
    if not (folder / NOISE).is_file():
        return None
    try:
        noise = read_json(folder / NOISE, "noise guard")
        rates = [review["rate"] for review in noise["reviews"]]
        suspects: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        if rates and (folder / SUSPECTS).is_file():
            suspects = pq.read_table(folder / SUSPECTS, columns=list(_COLUMNS)).slice(0, MOST_SUSPECTS).to_pydict()
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{folder} has a broken {NOISE} or {SUSPECTS}: {error}") from None
    return GuardRecord(noise, suspects)


def suspected_rows(guard: GuardRecord | None) -> Rows:
    """The training rows of `suspects`, int64; none without a guard."""
    return np.array(guard.suspects["row"] if guard else [], np.int64)


def guard_section(guard: GuardRecord, texts: Sequence[str] | None) -> Section:
    """The estimate of each review with its interval, the excluded rows per label, and the most suspected rows.

    Args:
        guard: From `read_guard`.
        texts: Of its `suspected_rows`; None where they cannot be read.
    """
    reviews = guard.noise["reviews"]
    judged = [review for review in reviews if review["evidence"]]
    drawings = []
    if judged:
        caption = (
            "As each review estimates it for all training rows, with its 90 % interval. Below the dashed line nothing "
            "is set aside."
        )
        figure = plot.noise_figure(judged, LEAST_RATE)
        drawings.append(Drawing("Estimated share of wrong labels", caption, figure))
    tables = [_reviews(reviews)] if reviews else []
    if by_label := guard.noise.get("aside_by_label"):
        tables.append(_by_label(by_label))
    if guard.suspects["row"]:
        tables.append(_suspects(guard, texts))
    return Section("Suspected wrong labels", guard_sentence(guard), drawings, tables)


_NOT_APPLIED = " The rule that chose the rows takes them all the same: they are a list to look at."


def guard_sentence(guard: GuardRecord) -> str:
    """The reviews, the estimated share of wrong labels and the excluded rows, in a sentence or two."""
    noise, times = guard.noise, len(guard.noise["reviews"])
    if not times:
        return "The noise guard judged nothing: no epoch trained after the first."
    if all(review["note"] for review in noise["reviews"]):
        return f"The noise guard set nothing aside, because {noise['reviews'][0]['note']}.{_of_tags(noise)}"
    often = "once" if times == 1 else f"{times} times"
    aside, why = noise["aside"], noise["reviews"][-1]["note"]
    excluded = f"{counted(aside, 'row')} {'was' if aside == 1 else 'were'}" if aside else "no row was"
    return (
        f"The noise guard looked {often}: an estimated {percent(noise['rate'])} of the training labels are wrong. "
        f"At the end {excluded} set aside{f', because {why}' if why and not aside else ''}.{_of_tags(noise)}"
        f"{'' if noise.get('applied', True) or not aside else _NOT_APPLIED}"
    )


def _of_tags(noise: Json) -> str:
    """The sentence on the tags, where labels and tags were judged."""
    if not (tags := noise.get("tags")):
        return ""
    aside, why = tags["aside"], tags["reviews"][-1]["note"]
    return (
        f" By their tags an estimated {percent(tags['rate'])} of the sentences are wrong, and {counted(aside, 'row')} "
        f"{'was' if aside == 1 else 'were'} set aside{f', because {why}' if why and not aside else ''}."
    )


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
    if not review["evidence"]:
        return ["", ""]
    return [f"{percent(review['low'])} to {percent(review['high'])}", f"{review['evidence']:,} rows"]


def _by_label(counts: dict[str, int]) -> Table:
    """The given labels of the excluded rows, the most frequent first."""
    shown = list(counts.items())[:MOST_NAMES]
    total = sum(counts.values())
    note = f"The first {len(shown)} of {len(counts):,} labels." if len(shown) < len(counts) else ""
    rows = [[cut(name), f"{count:,}", percent(count / total)] for name, count in shown]
    return Table("Set aside, by the label that they have", ["label", "rows", "share of those set aside"], rows, note)


def _suspects(guard: GuardRecord, texts: Sequence[str] | None) -> Table:
    suspects = guard.suspects
    columns = [suspects[name] for name in ("label", "suspicion", "id", "reason")]
    rows = [
        [cut(text), cut(label), f"{suspicion:.2f}", cut(key), reason]
        for text, label, suspicion, key, reason in zip(texts or [""] * len(columns[0]), *columns, strict=True)
    ]
    shown, whole = len(rows), guard.noise["aside"]
    note = f"The first {shown} of {whole:,}; all are in {SUSPECTS}." if shown < whole else f"Also in {SUSPECTS}."
    return Table(
        "Most suspected", ["text", "label", "suspicion", "id", "why"], rows, note, prose=frozenset({0, 1, 3, 4})
    )


def run_page(folder: Path) -> Page:
    """The page of a run folder.

    Raises:
        DataError: If the run is not finished, or a table of it is broken.
    """
    result = run_folder.read_result(folder)
    dynamics = read_dynamics(folder, result)
    chosen = candidates(dynamics)
    guard = read_guard(folder)
    texts = training_texts(folder, result, np.concatenate([chosen.rows, suspected_rows(guard)]))
    count = len(chosen.rows)
    table = example_table(dynamics, chosen, texts and (texts[0][:count], texts[1][:count]))
    rate = f". {rate_text(result['learning_rate'])}" if result.get("learning_rate") else ""
    notes = [*filter(None, [unfinished_text(result)])]
    notes += [] if texts else ["The training texts are not shown: the data is no longer where the run read it."]
    return Page(
        title=f"{result['task'] or 'a run'} on {result['data']['name'] or 'your data'}",
        subtitle=f"{folder.resolve().name}: {result['model']}, seed {result['seed']}{rate}",
        tiles=_tiles(result),
        notes=notes,
        tables=[_quality(result), _time(result), *_classes(folder, result)],
        drawings=_drawings(folder, result, dynamics),
        sections=[
            *_race_sections(result.get("race")),
            *([] if guard is None else [guard_section(guard, texts and texts[0][count:])]),
        ],
        examples=table,
        examples_note=_examples_note(table),
        options=yaml.safe_dump(result["diet"], sort_keys=False, allow_unicode=True),
        footer=footer(result["environment"]),
    )


def run_markdown(folder: Path) -> str:
    """Quality and cost of a run as Markdown tables, and the sentence on its noise guard."""
    result = run_folder.read_result(folder)
    parts = [markdown_table(table.head, table.rows) for table in (_quality(result), _time(result))]
    parts += race_sentences(result.get("race"))
    if text := unfinished_text(result):
        parts.append(f"**{escaped(text)}**")
    if (guard := read_guard(folder)) is not None:
        parts.append(guard_sentence(guard))
    return "\n\n".join(parts) + "\n"


def _race_sections(race: Json | None) -> list[Section]:
    """Each race of `auto`: the entrants, their dev losses with the interval of the difference, and the cost."""
    if race is None:
        return []
    rule, races = race["rule"], race["races"]
    if not races:
        return [Section("Which rule chose the rows", " ".join(race_sentences(race)), [], [])] if race["note"] else []
    head = ["before epoch", "rule", "challenger", "steps", "dev rows", "dev loss", "difference", "interval", "goes on"]
    rows = [
        [
            str(duel["epoch"] + 1),
            duel["champion"],
            duel["challenger"],
            str(duel["steps"]),
            f"{duel['dev_rows']:,}",
            " / ".join(f"{loss:.3f}" for loss in duel["losses"].values()),
            f"{duel['difference']:+.3f}",
            " to ".join(f"{end:+.3f}" for end in duel["interval"]),
            duel["winner"],
        ]
        for duel in races
    ]
    spent = sum(int(duel["cost"]["steps"]) for duel in races)
    seconds = sum(duel["cost"]["seconds"] for duel in races)
    note = (
        f"The losers' steps and the passes over dev rows cost as much as {counted(spent, 'training step')} "
        f"({duration(seconds)} of it the steps). The interval is four standard errors of the paired difference to "
        "either side; below 0 the challenger is better."
    )
    ended = [sentence for sentence in race_sentences(race) if "has fallen since" in sentence]
    text = f"Two rules train from the same weights, and the dev split judges. At the end {rule} chose the rows."
    text = " ".join([text, *ended])
    return [Section("Which rule chose the rows", text, [], [Table("Races", head, rows, note)])]


def _tiles(result: Json) -> dict[str, str]:
    cost, saved = result["cost"], result["ceiling"]
    tested = run_folder.tested_metrics(result)
    metric = run_folder.main_metric(result["task"])
    tiles = {spaced(metric): f"{100 * tested[metric]:.1f}"} if metric in tested and metric else {}
    tiles["fine-tuning"] = duration(cost["finetune_s"])
    tiles["in all"] = duration(cost["total_s"])
    tiles["examples not trained"] = percent(saved["examples_saved"])
    if saved["tokens_saved"] is not None:
        tiles["ceiling: tokens not trained"] = percent(saved["tokens_saved"])
    if (padding := run_folder.padding_share(cost)) is not None:
        tiles["padding of the batches"] = percent(padding)
    if result.get("energy"):
        tiles["energy"] = energy_text(result["energy"])
    return tiles


def _quality(result: Json) -> Table:
    splits = {split: metrics for split, metrics in result["metrics"].items() if metrics}
    names = list(dict.fromkeys(name for metrics in splits.values() for name in metrics))
    rows = [
        [spaced(name), *(f"{metrics.get(name, float('nan')):.4f}" for metrics in splits.values())] for name in names
    ]
    return Table("Quality", ["metric", *splits], rows)


def _time(result: Json) -> Table:
    cost = result["cost"]
    words = {**ACCOUNTS, "finetune_s": "train + score + select + probe", "total_s": "all"}
    spent = {key: cost.get(key, 0.0) for key in words}  # an older result has no races
    rows = [[word, f"{spent[key]:.1f}", percent(spent[key] / (cost["total_s"] or 1.0))] for key, word in words.items()]
    return Table("Where the time went", ["", "seconds", "share"], rows)


def recalls(predictions: pd.DataFrame) -> tuple[dict[str, float], dict[str, int]]:
    """Recall and number of rows by gold class; by label where rows have several; of spans by their type."""
    if tags_words(predictions):
        return _recalls_of(span_pairs(predictions), lambda span: str(span[0]))
    if several_labels(predictions):
        return _recalls_of(label_pairs(predictions), str)
    gold = predictions["gold"].astype(str)
    right = gold == predictions["predicted"].astype(str)
    by_class = right.groupby(gold).agg(["mean", "size"])
    counts = {str(name): int(size) for name, size in by_class["size"].items()}
    return {str(name): float(mean) for name, mean in by_class["mean"].items()}, counts


def _recalls_of(
    pairs: Iterable[tuple[set[Any], set[Any]]], class_of: Callable[[Any], str]
) -> tuple[dict[str, float], dict[str, int]]:
    """Recall and number by class, from the gold and the predicted things of each row."""
    counts: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for gold, predicted in pairs:
        counts.update(map(class_of, gold))
        hits.update(map(class_of, gold & predicted))
    return {name: hits[name] / counts[name] for name in sorted(counts)}, {name: counts[name] for name in sorted(counts)}


def worst_class(recall: Mapping[str, float], counts: Mapping[str, int]) -> list[str]:
    """The name, the recall and the number of rows or spans of the class with the smallest recall."""
    worst = min(recall, key=lambda name: (recall[name], name))
    return [worst, percent(recall[worst]), f"{counts[worst]:,}"]


def tested_predictions(folder: Path, result: Json) -> pd.DataFrame | None:
    """Predictions of the tested split; None without a file, without classes, or without gold labels.

    Raises:
        DataError: If the file is not as the run has left it.
    """
    path, task = folder / run_folder.PREDICTIONS, result["task"]
    run_folder.check_files(folder, run_folder.PREDICTIONS)
    if has(task, "numbers") or not path.is_file():
        return None
    table = pd.read_parquet(path)
    tested = table[table["split"] == ("test" if result["metrics"]["test"] else "dev")]
    gold = "gold_slots" if len(tested) and tags_words(tested) else "gold"
    return tested if len(tested) and tested[gold].notna().all() and recalls(tested)[0] else None


def _classes(folder: Path, result: Json) -> list[Table]:
    predictions = tested_predictions(folder, result)
    if predictions is None:
        return []
    unit = "spans" if tags_words(predictions) else "rows"
    return [Table("Worst class", ["class", "recall", unit], [worst_class(*recalls(predictions))])]


def _drawings(folder: Path, result: Json, dynamics: Dynamics) -> list[Drawing]:
    drawings = [
        Drawing("What trained in each epoch", "Rows kept and rows dropped.", plot.kept_figure(result["epochs"]))
    ]
    metric, curve = dev_curve(result)
    if metric is not None:
        figure = plot.time_to_target_figure({"this run": [curve]}, metric)
        drawings.append(Drawing("Quality against time", "After each epoch, on the dev split.", figure))
    if any(entry.quantiles for entry in dynamics.rounds):
        caption = (
            "Larger is harder. Bands hold the middle half and the middle nine tenths of the rows that have a value."
        )
        drawings.append(Drawing("Scores over the epochs", caption, plot.score_distribution_figure(dynamics)))
    if len(dynamics.choices) > 1:
        caption = "Each choice beside the one before it. Little that is new: the diet has settled, or ran dry."
        drawings.append(Drawing("How the kept rows turn over", caption, plot.turnover_figure(dynamics)))
    if pd.notna(dynamics.confidence).any():
        caption = (
            "Top left: learned at once. Right: the model is undecided, where there is most to learn. Bottom left: "
            f"never learned, and more often mislabelled.{_points_note(dynamics)}"
        )
        drawings.append(Drawing("Data map", caption, plot.data_map_figure(dynamics)))
    predictions = tested_predictions(folder, result)
    if predictions is not None:
        recall, counts = recalls(predictions)
        figure = plot.class_figure({"this run": recall}, counts)
        drawings.append(Drawing("Quality by class", "Worst classes first.", figure))
    return drawings


def dev_curve(result: Json) -> tuple[str | None, tuple[Sequence[float], Sequence[float]]]:
    """Seconds of fine-tuning and dev figure (in points) after each epoch; no metric where there was no dev split."""
    epochs = [epoch for epoch in result["epochs"] if epoch["dev"]]
    if not epochs:
        return None, ((), ())
    metric = run_folder.main_metric(result["task"])
    metric = metric if metric in epochs[0]["dev"] else next(iter(epochs[0]["dev"]))
    spent, total = {}, 0.0
    for epoch in result["epochs"]:
        total += epoch["seconds"] + epoch["score_s"]
        spent[epoch["epoch"]] = total
    return metric, ([spent[epoch["epoch"]] for epoch in epochs], [100 * epoch["dev"][metric] for epoch in epochs])


def _points_note(dynamics: Dynamics) -> str:
    """The sample of points that a data map shows, where it does not show all."""
    count = int(pd.notna(dynamics.confidence).sum())
    if count <= plot.MOST_POINTS:
        return ""
    return f" Shown are {plot.MOST_POINTS:,} of {count:,} rows, drawn at random (seed 0); the counts are of all."


def _examples_note(table: Json) -> str:
    """The number of examples in the table, the rule of their choice, and their order."""
    shown, rows = len(table["id"]), table["rows"]
    sample = "All of them."
    if shown < rows:
        sample = (
            f"A sample: {shown:,} of {rows:,}. The {table['suspects']:,} most suspect; {table['extremes']:,} more that "
            "are among the easiest, the hardest by the last score, or the least confident; and "
            f"{table['drawn']:,} of the others, drawn at random (seed {table['seed']})."
        )
    return (
        f"{sample} Most suspect first: by the mean margin over the epochs (minus AUM), at whose top mislabelled and "
        "unanswerable examples gather. Long texts are cut."
    )


def footer(environment: Mapping[str, object]) -> str:
    """Machine and versions on one line."""
    versions = environment.get("versions")
    parts = [f"{name} {value}" for name, value in environment.items() if name != "versions" and value]
    parts += [f"{name} {value}" for name, value in versions.items()] if isinstance(versions, Mapping) else []
    return "Measured on: " + ", ".join(parts) + "."
