"""The page of one run, and its tables in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from datadiet.compare.statistics import label_pairs, several_labels, span_pairs, tags_words
from datadiet.formatting import (
    ACCOUNTS,
    counted,
    decimals_of,
    duration,
    energy_text,
    escaped,
    markdown_table,
    percent,
    points,
    race_sentences,
    rate_text,
    spaced,
    unfinished_text,
)
from datadiet.registry import has
from datadiet.reporting import plot
from datadiet.reporting.guard import guard_section, guard_sentence, read_guard, suspected_rows
from datadiet.reporting.page import Card, Drawing, Page, Section, Table
from datadiet.reporting.rows import (
    Dynamics,
    candidates,
    example_table,
    histories,
    pruned_pieces,
    read_dynamics,
    training_texts,
)
from datadiet.store import run_folder
from datadiet.types import Json


def run_page(folder: Path) -> Page:
    """The page of a run folder.

    Raises:
        DataError: If the run is not finished, or a table of it is broken.
    """
    result = run_folder.checked_result(folder)
    dynamics = read_dynamics(folder, result)
    chosen = candidates(dynamics)
    guard = read_guard(folder)
    texts = training_texts(folder, result, np.concatenate([chosen.rows, suspected_rows(guard)]))
    count = len(chosen.rows)
    table = example_table(
        dynamics,
        chosen,
        texts and (texts[0][:count], texts[1][:count]),
        suspects=None if guard is None else guard.rows,
        history=partial(histories, folder, dynamics.score),
        pieces=pruned_pieces(folder, chosen.rows),
    )
    rate = f". {rate_text(result['learning_rate'])}" if result.get("learning_rate") else ""
    notes = [*filter(None, [unfinished_text(result)])]
    notes += [] if texts else ["The training texts are not shown: the data is no longer where the run read it."]
    return Page(
        title=f"{result['task'] or 'a run'} on {result['data']['name'] or 'your data'}",
        subtitle=f"{folder.resolve().name}: {result['model']}, seed {result['seed']}{rate}",
        cards=answer_cards(result),
        notes=notes,
        picture=_picture(result),
        sections=[
            Section("Quality", tables=[_quality(result)]),
            Section("Time", tables=[_time(result)]),
            Section("What trained, and when", drawings=_drawings(result, dynamics)),
            *_class_sections(folder, result),
            *_race_sections(result.get("race")),
            *([] if guard is None else [guard_section(guard, texts and texts[0][count:])]),
        ],
        examples=table,
        examples_note=_examples_note(table),
        label_word="answer" if result["task"] and has(result["task"], "answers") else "label",
        options=yaml.safe_dump(result["diet"], sort_keys=False, allow_unicode=True),
        footer=footer(result["environment"]),
    )


def run_markdown(folder: Path) -> str:
    """Quality and cost of a run as Markdown tables, and the sentence on its noise guard."""
    result = run_folder.checked_result(folder)
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
        told = race_sentences(race)
        return [Section("Which rule chose the rows", " ".join(told), [], [])] if told else []
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
    ended = race_sentences({**race, "races": []})
    text = f"Two rules train from the same weights, and the dev split judges. At the end {rule} chose the rows."
    text = " ".join([text, *ended])
    finding = "; ".join(
        f"before epoch {duel['epoch'] + 1} {duel['challenger']} against {duel['champion']} {duel['difference']:+.3f}"
        for duel in races
    )
    drawing = Drawing(
        "Races over time", "Left of the dashed line the challenger is better.", plot.race_figure(races), finding
    )
    return [Section("Which rule chose the rows", text, [drawing], [Table("Races", head, rows, note)])]


def answer_cards(result: Json) -> list[Card]:
    """What a run kept, what it saved and against what, how good it is, whether it had converged, and what is next."""
    cost, saved, epochs = result["cost"], result["ceiling"], result["epochs"]
    tested, metric = run_folder.tested_metrics(result), run_folder.main_metric(result["task"])
    rows = result["data"]["rows"]["train"]
    chosen = [epoch for epoch in epochs if epoch["dropped"]]
    cards = []
    if chosen:
        kept = sum(epoch["kept"] for epoch in chosen) / len(chosen)
        words = f"In {counted(len(chosen), 'epoch')} of {len(epochs)}; the others trained on all {rows:,} rows."
        cards.append(Card("What was kept?", f"{percent(kept / rows, 0)} of the rows", words))
    else:
        cards.append(Card("What was kept?", "Everything", f"{counted(len(epochs), 'epoch')} on all {rows:,} rows."))
    share = saved["examples_saved"] if saved["tokens_saved"] is None else saved["tokens_saved"]
    unit = "examples" if saved["tokens_saved"] is None else "tokens"
    took = f"{duration(cost['finetune_s'])} of fine-tuning, {duration(cost['total_s'])} in all"
    energy = f", {energy_text(result['energy'])}" if result.get("energy") else ""
    padding = run_folder.padding_share(cost)
    padded = "" if padding is None else f"; {percent(padding, 0)} of the batches were padding"
    cards.append(
        Card(
            "What was saved?",
            f"{percent(share, 0)} of the {unit}" if chosen else "Nothing",
            f"Against all rows in every epoch. It took {took}{energy}{padded}.",
        )
    )
    if metric in tested and metric:
        split = "test" if result["metrics"]["test"] else "dev"
        cards.append(Card("How good is it?", f"{spaced(metric)} {_figure(metric, tested)}", f"On the {split} split."))
    cards.append(Card("Had training converged?", *_converged(result)))
    cards.append(Card.of_advice("What next?", _next(result)))
    return cards


def _converged(result: Json) -> tuple[str, str, str]:
    """The answer, what it rests on, and the state of the card."""
    found = result.get("convergence")
    if not found:
        return "Not known", "No dev metric was measured often enough.", ""
    if found["rising"]:
        rise = points(found["points_per_epoch"], decimals_of(found.get("error")))
        rise = f"{rise} points per epoch at the end, more than its error on dev."
        return "Not yet", rise, "unclear"
    return "Yes", "The dev metric no longer rose by more than its error.", "pays"


def _next(result: Json) -> str:
    if (result.get("convergence") or {}).get("rising"):
        return "Train longer: `--epochs auto` finds how many epochs."
    if any(epoch["dropped"] for epoch in result["epochs"]):
        return "Compare it: `datadiet compare` shows whether it is as good as full data, and better than fewer epochs."
    return "Compare it: `datadiet compare` shows whether a diet would do as well in less time."


def _quality(result: Json) -> Table:
    splits = {split: metrics for split, metrics in result["metrics"].items() if metrics}
    names = list(dict.fromkeys(name for metrics in splits.values() for name in metrics))
    rows = [[spaced(name), *(_figure(name, metrics) for metrics in splits.values())] for name in names]
    return Table("Quality", ["metric", *splits], rows, "In points of 100; nll, perplexity and mse in their own unit.")


def _figure(name: str, metrics: Mapping[str, float | None]) -> str:
    value = metrics.get(name)
    if value is None:
        return ""
    if name in run_folder.LOWER_IS_BETTER:
        return f"{value:.3f}"
    return f"{100 * value:.{1 + (name in run_folder.LIKELIHOODS)}f}"


def _time(result: Json) -> Table:
    cost = result["cost"]
    words = {**ACCOUNTS, "finetune_s": "train + score + select + probe", "total_s": "all"}
    spent = {key: cost.get(key, 0.0) for key in words}  # an older result has no races
    rows = [[word, f"{spent[key]:.1f}", percent(spent[key] / (cost["total_s"] or 1.0))] for key, word in words.items()]
    return Table("Time", ["account", "seconds", "share"], rows)


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


def _class_sections(folder: Path, result: Json) -> list[Section]:
    predictions = tested_predictions(folder, result)
    if predictions is None:
        return []
    recall, counts = recalls(predictions)
    worst = worst_class(recall, counts)
    table = Table("Worst class", ["class", "recall", "spans" if tags_words(predictions) else "rows"], [worst])
    figure = plot.class_figure({"this run": recall}, counts)
    finding = f"The worst of {len(counts):,} classes is {worst[0]} with a recall of {worst[1]}."
    drawing = Drawing("Recall of each class", "Worst first; in brackets, how many there are.", figure, finding)
    return [Section("Per class", tables=[table], drawings=[drawing])]


def _picture(result: Json) -> Drawing | None:
    """The dev metric against the seconds; None without a dev split."""
    metric, curve = dev_curve(result)
    if metric is None:
        return None
    figure = plot.time_to_target_figure({"this run": [curve]}, metric)
    seconds, figures = curve
    finding = f"{spaced(metric)} on dev went from {figures[0]:.1f} to {figures[-1]:.1f} in {duration(seconds[-1])}."
    return Drawing("Quality against time", "After each epoch, on the dev split.", figure, finding, wide=True)


def _drawings(result: Json, dynamics: Dynamics) -> list[Drawing]:
    epochs = result["epochs"]
    finding = f"{epochs[-1]['kept']:,} rows were kept in the last epoch, {epochs[-1]['dropped']:,} were dropped."
    drawings = [Drawing("Rows in each epoch", "Rows kept and rows dropped.", plot.kept_figure(epochs), finding)]
    if dynamics.choices:
        caption = (
            "One line per training row, sorted by the first epoch that left it out. Coloured: the row trained."
            f"{_sample_note(len(dynamics), len(dynamics.kept.drawn))}"
        )
        finding = f"{int((dynamics.keeping == 2).sum()):,} of {len(dynamics):,} rows were never chosen."
        drawings.append(Drawing("Which rows trained when", caption, plot.trained_figure(dynamics), finding))
    if any(entry.histogram for entry in dynamics.rounds):
        caption = "One curve per round, the first at the top; to the right is harder. The tick is the median."
        drawings.append(Drawing("Scores over the epochs", caption, plot.score_distribution_figure(dynamics)))
    if len(dynamics.choices) > 1:
        caption = "Each choice beside the one before it. Where little is new, the diet has settled, or ran dry."
        finding = f"{percent(dynamics.choices[-1].new, 0)} of the last choice were new."
        drawings.append(Drawing("Turnover of the kept rows", caption, plot.turnover_figure(dynamics), finding))
    if pd.notna(dynamics.confidence).any():
        caption = (
            "Top left: learned at once. Right: the model is undecided, where there is most to learn. Bottom left: "
            f"never learned, and more often mislabelled.{_points_note(dynamics)}"
        )
        drawings.append(Drawing("Data map", caption, plot.data_map_figure(dynamics)))
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
    values = [epoch["dev"].get(metric) for epoch in epochs]
    points = [float("nan") if value is None else 100 * value for value in values]
    return metric, ([spent[epoch["epoch"]] for epoch in epochs], points)


def _points_note(dynamics: Dynamics) -> str:
    """The sample of points that a data map shows, where it does not show all."""
    count = int(pd.notna(dynamics.confidence).sum())
    note = _sample_note(count, min(count, plot.MOST_POINTS))
    return f"{note[:-1]}; the counts are of all." if note else ""


def _sample_note(count: int, shown: int) -> str:
    return f" Shown are {shown:,} of {count:,} rows, drawn at random (seed 0)." if shown < count else ""


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
