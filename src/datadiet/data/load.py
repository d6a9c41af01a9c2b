"""`load_data` and `read_examples`: from the name that the user gives to validated splits.

The steps on finished splits are here too: a dev split taken from train, rows that overlap other splits,
deduplication, a share of train, and the notes that the user should read once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datadiet import registry
from datadiet.config import FinetuneConfig
from datadiet.data.columns import check_columns, recognise
from datadiet.data.conversations import answer_text
from datadiet.data.duplicates import representatives, text_keys
from datadiet.data.layouts import by_split, labels_of_columns, sentences_of_words
from datadiet.data.readers import read_file
from datadiet.data.schema import Columns, Dataset, Examples, fingerprint
from datadiet.data.sources import find
from datadiet.data.tables import Table, listed, row_problem
from datadiet.data.tagging import usual_scheme
from datadiet.data.validation import SEPARATORS, examples_from, is_whole, sorted_names
from datadiet.errors import ArgumentError, DataError, Problems, quoted
from datadiet.files import GZ_LIMIT
from datadiet.formatting import shown
from datadiet.registry import Positive, has

_DEV, _TRAIN_ROWS = 1, 2  # second number of each seed, so that one user seed gives unrelated draws
_SHOWN = 10  # names of unknown labels in a note
_USUAL = Columns()
_Split = TypeVar("_Split")


# ---- steps on the splits ----


def set_dev_aside(splits: Mapping[str, Examples], share: float, seed: int) -> tuple[dict[str, Examples], list[str]]:
    """Give a set without a dev split one: a seeded share of train, at least one row, original order kept.

    Args:
        splits: With `train`; returned as they are where `dev` is among them.
        share: In (0, 1).
        seed: From 0.

    Returns:
        The splits, and a note.

    Raises:
        DataError: If train has one row.
    """
    if "dev" in splits:
        return dict(splits), []
    train = splits["train"]
    if len(train) < 2:
        raise DataError("train has one row, so none can be set aside as dev; add rows or a dev split.")
    count = min(max(1, round(share * len(train))), len(train) - 1)
    dev = _draw(len(train), count, [seed, _DEV])
    kept = sorted(set(range(len(train))) - set(dev))
    others = {name: split for name, split in splits.items() if name != "train"}
    divided = {"train": train.take(kept), "dev": train.take(dev), **others}
    note = f"There is no dev split: {count:,} of {len(train):,} training rows were set aside as dev (seed {seed})."
    return divided, [note]


def _draw(rows: int, count: int, seed: Sequence[int]) -> list[int]:
    """So many of the rows, ascending."""
    return sorted(np.random.default_rng(seed).permutation(rows)[:count].tolist())


def take_train_rows(splits: Mapping[str, Examples], count: int | None, seed: int) -> dict[str, Examples]:
    """Keep a seeded share of train, original order kept; None keeps all.

    Raises:
        ArgumentError: If there are fewer rows.
    """
    train = splits["train"]
    if count is None:
        return dict(splits)
    if count > len(train):
        raise ArgumentError(f"train_rows must be at most {len(train)}, the rows there are to train on, got {count}.")
    return {**splits, "train": train.take(_draw(len(train), count, [seed, _TRAIN_ROWS]))}


def overlap(splits: Mapping[str, Examples]) -> tuple[list[int], dict[str, int]]:
    """Training rows whose text (both texts, for pairs) also occurs in another split, case and spacing aside.

    Returns:
        The rows, ascending, and how many of them each split shares.

    Examples:
        >>> one = Examples(ids=("0", "1"), texts=("Good  film", "Bad"))
        >>> overlap({"train": one, "dev": Examples(ids=("0",), texts=("good film",))})
        ([0], {'dev': 1})
    """
    others: dict[str, set[tuple[str, str]]] = {name: set(_keys(s)) for name, s in splits.items() if name != "train"}
    all_others = set().union(*others.values())
    # train is by far the largest: its keys are never all in memory
    rows = [(row, key) for row, key in enumerate(_keys(splits["train"])) if key in all_others]
    counts = {name: sum(key in texts for _, key in rows) for name, texts in others.items()}
    return [row for row, _ in rows], {name: count for name, count in counts.items() if count}


def _keys(examples: Examples) -> Iterator[tuple[str, str]]:
    return text_keys(examples.texts, examples.text_pairs)


def handle_overlap(splits: Mapping[str, Examples], drop: bool) -> tuple[dict[str, Examples], list[str]]:
    """Count the training rows whose text is in dev or test, and drop them on request.

    Raises:
        DataError: If no training row remains.
    """
    rows, counts = overlap(splits)
    if not rows:
        return dict(splits), []
    by_split = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    subject = f"{len(rows):,} training {'row' if len(rows) == 1 else 'rows'}"
    note = f"The text of {subject} also occurs in another split ({by_split}; case and spacing aside)"
    if not drop:
        return dict(splits), [f"{note}; --drop-overlap drops them."]
    train = splits["train"]
    if len(rows) == len(train):
        raise DataError(f"{note}: dropping them would leave nothing to train on; train without --drop-overlap.")
    dropped = set(rows)
    kept = train.take(row for row in range(len(train)) if row not in dropped)
    return {**splits, "train": kept}, [f"{note}; they were dropped."]


def one_of_each(splits: Mapping[str, Examples]) -> tuple[dict[str, Examples], list[str]]:
    """One training row per text, the first with the most common label; see `datadiet.data.duplicates`.

    Returns:
        The splits, with the number of repeats of each training row in `times`, and a note.
    """
    train = splits["train"]
    given: Sequence[Any] | None = train.labels if train.labels is not None else train.slots
    labels = None if given is None else [tuple(label) if isinstance(label, (list, tuple)) else label for label in given]
    # of a language model rows are the same where their answers are too
    seconds = train.text_pairs if train.turns is None else [*map(answer_text, train.turns)]
    groups = representatives(train.texts, labels, seconds)
    dropped = len(train) - len(groups.rows)
    if not dropped:
        return dict(splits), []
    subject = f"{dropped:,} training {'row repeats' if dropped == 1 else 'rows repeat'}"
    note = f"{subject} the text of another and {'was' if dropped == 1 else 'were'} dropped"
    if len(groups.conflicts):
        note += f"; of {len(groups.conflicts):,} texts the labels differ, the most common one is kept"
    kept = replace(train.take(groups.rows), times=tuple(groups.weights.astype(int).tolist()))
    return {**splits, "train": kept}, [f"{note} (--dedupe)."]


# ---- notes ----


def split_notes(splits: Mapping[str, Examples], label_names: Sequence[str], slot_names: Sequence[str]) -> list[str]:
    """Notes on the finished splits: unknown labels, pairs with an empty text, unlabelled splits.

    Args:
        splits: For training and evaluation.
        label_names: Of train; empty for regression.
        slot_names: Of train; empty without slots.

    Examples:
        >>> dev = Examples(ids=("0", "1"), texts=("a", "b"), labels=("neg", "odd"))
        >>> split_notes({"dev": dev}, ["neg", "pos"], [])
        ['dev: 1 row has a label that train does not have (odd 1); each counts as an error of the model.']
    """
    notes = []
    for name, examples in splits.items():
        notes += _unknown_labels(name, examples, label_names, slot_names)
        notes += _one_sided(name, examples)
        notes += [] if examples.labelled else [f"{name} is unlabelled: it gets no metrics."]
    return notes


def _unknown_labels(split: str, examples: Examples, label_names: Sequence[str], slot_names: Sequence[str]) -> list[str]:
    what, tag = "an intent" if slot_names else "a label", "a slot" if label_names else "a tag"
    labels = _unseen(_each_label(examples), label_names) if label_names else Counter()
    slots = _unseen((slot for tags in examples.slots or () for slot in tags), slot_names)
    notes = [_unseen_note(split, "row", what, labels)] if labels else []
    return [*notes, _unseen_note(split, "word", tag, slots)] if slots else notes


def _each_label(examples: Examples) -> Iterable[str]:
    for label in examples.labels or ():
        yield from label if isinstance(label, tuple) else [str(label)]


def _unseen(labels: Iterable[str], names: Sequence[str]) -> Counter[str]:
    of_train = set(names)
    return Counter(label for label in labels if label not in of_train)


def _unseen_note(split: str, unit: str, what: str, counts: Counter[str]) -> str:
    total = counts.total()
    subject = f"{total:,} {unit} has" if total == 1 else f"{total:,} {unit}s have"
    names = ", ".join(f"{shown(label)} {count}" for label, count in counts.most_common(_SHOWN))
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    return f"{split}: {subject} {what} that train does not have ({names}{more}); each counts as an error of the model."


def _one_sided(split: str, examples: Examples) -> list[str]:
    pairs = zip(examples.texts, examples.text_pairs or (), strict=False)
    count = sum(not (one.strip() and two.strip()) for one, two in pairs)
    return [f"{split}: in {count:,} {'row' if count == 1 else 'rows'} one text of the pair is empty."] if count else []


# ---- loading ----


def load_data(
    source: str | os.PathLike[str],
    task: str,
    *,
    columns: Columns = _USUAL,
    seed: int = 0,
    dev_share: float = 0.1,
    drop_overlap: bool = False,
    dedupe: bool = False,
    train_rows: int | None = None,
    label_separator: str = "|",
    gz_limit: float = GZ_LIMIT,
) -> Dataset:
    """Load and check a whole data set.

    The order of the steps: read every split; take `dev_share` of train as dev where there is no dev split; drop
    training rows whose text is in another split, and repeated ones, on request; take `train_rows` of the others.

    Args:
        source: A folder with train/dev/test as jsonl, json, csv, tsv, parquet or conll (the text ones also .gz) or in
            the seq.in/seq.out/label layout; one such file, which is then train; a folder saved by `datasets`; `snips`,
            which is packaged; or a hub name (`owner/name`, `owner/name/config`, `glue/sst2`).
        task: `classification`, `multi-label`, `regression`, `intent-slot`, `token-classification` or `causal-lm`.
        columns: Names of columns without a usual name.
        seed: Of the draws, from 0.
        dev_share: Share of train in (0, 1) that becomes dev where there is none.
        drop_overlap: Drop training rows whose text, case and spacing aside, is in dev or test too.
        dedupe: Keep one training row of those that have the same text, case and spacing aside.
        train_rows: Take a seeded share of train, so many rows.
        label_separator: Between the labels of a text, for `multi-label`: `|`, `,` or `;`.
        gz_limit: Largest size in GB that a compressed file may unpack to.

    Returns:
        The data set, its notes included.

    Raises:
        ArgumentError: For all bad arguments.
        DataError: For all problems of the data, with file and line.

    Examples:
        >>> data = load_data("snips", "intent-slot", train_rows=1000)
        >>> {name: len(split) for name, split in data.splits.items()}, len(data.label_names), len(data.slot_names) > 60
        ({'train': 1000, 'dev': 700, 'test': 700}, 7, True)
    """
    _check_arguments(task, columns, seed, dev_share, train_rows, label_separator, gz_limit)
    resolved = find(source, gz_limit)
    if "train" not in resolved.splits:
        raise DataError(f"{source}: there is no train split; found {listed(sorted(resolved.splits))}. Add train.")
    notes = list(resolved.notes)
    tables, added = by_split(resolved.read())
    notes += added
    splits, added = _parse(tables, task, columns, label_separator)
    notes += added
    splits, added = set_dev_aside(splits, dev_share, seed)
    notes += added
    if drop_overlap:
        splits, added = handle_overlap(splits, drop=True)
        notes += added
    if dedupe:
        splits, added = one_of_each(splits)
        notes += added
    splits = take_train_rows(splits, train_rows, seed)
    if not drop_overlap:
        notes += handle_overlap(splits, drop=False)[1]
    _check_variety(splits["train"], task)
    return _dataset(resolved.name, task, splits, notes)


def read_examples(
    source: str,
    task: str,
    *,
    columns: Columns = _USUAL,
    labelled: bool = False,
    split: str = "test",
    label_separator: str = "|",
    gz_limit: float = GZ_LIMIT,
) -> Examples:
    """Read one set of texts: a file, or one split of anything that `load_data` takes, as new text for a trained model.

    Args:
        source: A jsonl, json, csv, tsv, parquet or txt file (one text a line), or a data set as in `load_data`.
        task: As in `load_data`; where words are tagged, text without tokens is split at spaces.
        columns: Names of columns without a usual name.
        labelled: Whether every example must have its label. Otherwise labels are used where all rows have one.
        split: Of a data set: `test`, or `train`, for which the only split there is may stand.
        label_separator: Between the labels of a text, for `multi-label`.
        gz_limit: See `load_data`.

    Raises:
        ArgumentError: For all bad arguments.
        DataError: For all problems of the data, with file and line.

    Examples:
        >>> read_examples("snips", "intent-slot").tokens[0][:3]
        ('add', 'sabrina', 'salerno')
    """
    _check_arguments(task, columns, separator=label_separator, gz_limit=gz_limit)
    path = Path(os.path.expanduser(source))
    is_file = os.path.lexists(path) and not os.path.isdir(path)
    table = read_file(path, gz_limit) if is_file else split_of(source, split, find(source, gz_limit).splits)()
    table, _ = arranged(table, task, columns)
    needed = "required" if labelled else "optional"
    examples, problems = examples_from(table, task, columns, needed, label_separator)
    problems.raise_any(DataError)
    assert examples is not None  # nothing was wrong
    return usual_scheme(examples)[0] if has(task, "tags_only") else examples


def split_of(source: str, split: str, splits: Mapping[str, _Split]) -> _Split:
    """The split of a name; for `train` also the only split that there is.

    Raises:
        DataError: If there is none.
    """
    if split == "train" and len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        raise DataError(f"{source}: there is no {split} split; found {listed(sorted(splits))}. Name one file instead.")
    return splits[split]


def _check_arguments(
    task: str,
    columns: Columns,
    seed: int = 0,
    dev_share: float = 0.1,
    train_rows: int | None = None,
    separator: str = "|",
    gz_limit: float = GZ_LIMIT,
) -> None:
    problems = Problems()
    problems.choice("task", task, registry.names("task"))
    if registry.find("task", task) is not None:
        problems.found += check_columns(columns, task).found
    problems.whole("seed", seed)
    problems.share("dev_share", dev_share)
    problems.check(dev_share != 1, "dev_share must be below 1, got 1: nothing would be left to train on.")
    problems.choice("label_separator", separator, SEPARATORS)
    if problem := Positive.problem("gz_limit", gz_limit):
        problems.add(problem)
    if train_rows is not None:
        problems.whole("train_rows", train_rows, least=1)
    problems.raise_any(ArgumentError)


def _parse(
    tables: Mapping[str, Table], task: str, columns: Columns, separator: str
) -> tuple[dict[str, Examples], list[str]]:
    """Examples of every split, checked one by one and against train, and notes on their tags."""
    splits: dict[str, Examples] = {}
    problems = Problems()
    notes: list[str] = []
    for name, table in tables.items():
        arranged_table, added = arranged(table, task, columns)
        notes += added if name == "train" else []
        needed = "complete" if name.startswith("test") else "required"
        examples, wrong = examples_from(arranged_table, task, columns, needed, separator)
        problems.found += wrong.found
        if examples is not None:
            splits[name] = examples
    problems.raise_any(DataError)
    for name in [name for name in splits if name != "train"]:
        _compare_with_train(splits["train"], splits[name], tables[name], task, problems)
    problems.raise_any(DataError)
    if not has(task, "tags_only"):
        return splits, notes
    splits, added = _usual_schemes(splits)
    return splits, notes + added


def arranged(table: Table, task: str, columns: Columns) -> tuple[Table, list[str]]:
    """A table with an example per row, and notes: how it was read, and the columns that are left aside.

    Args:
        table: As read.
        task: Its name.
        columns: The user's names.
    """
    notes = list(table.notes)
    if columns.tokens is None and (made := sentences_of_words(table, task)):
        return made[0], [*notes, made[1]]
    names, problems = recognise(table, task, columns, labelled=False)
    if problems.found:
        return table, notes
    if names.label is None and columns.label is None and not has(task, "answers"):
        known = [name for name in (names.text, names.text_pair, names.tokens, names.id) if name]
        if made := labels_of_columns(table, task, known):
            table, note = made
            names, notes = replace(names, label="labels"), [*notes, note]
    used = {getattr(names, field.name) for field in fields(Columns)}
    aside = [name for name in table.columns if name not in used and name]
    return table, [*notes, f"Columns that are not used: {listed(aside)}."] if aside else notes


def _usual_schemes(splits: Mapping[str, Examples]) -> tuple[dict[str, Examples], list[str]]:
    """Tags as BIO or IOBES, and notes on them."""
    converted = {name: usual_scheme(examples) for name, examples in splits.items()}
    notes = [f"{name}: {note}." for name, (_, note) in converted.items() if note]
    tags = {tag for tags in splits["train"].slots or () for tag in tags}
    if tags and all(map(is_whole, tags)):
        notes.append("The tags are numbers, so that every run of equal ones counts as a span: span_f1 needs names.")
    return {name: examples for name, (examples, _) in converted.items()}, notes


def _compare_with_train(train: Examples, other: Examples, table: Table, task: str, problems: Problems) -> None:
    if (train.text_pairs is None) != (other.text_pairs is None):
        one, two = ("one text", "a pair") if train.text_pairs is None else ("a pair", "one text")
        problems.add(f"{table.place}: train has {one} per example, this split {two}; give both the same columns.")
    of_train = {name for names in _names_by_row(train, task) for name in names}
    what = "tag" if has(task, "tags_only") else "label"
    kinds = {is_whole(name) for name in of_train}
    if len(kinds) != 1:
        return  # train has none, or mixes `1` and `other` as text, so any name may be a class
    usual = f"train's {what}s are {_kind(next(iter(of_train)), many=True)} ({listed(sorted_names(of_train), 3)})"
    wrong = [
        (row, f"{what} {quoted(label)} is {_kind(label)}, {usual}")
        for row, labels in enumerate(_names_by_row(other, task))
        for label in [name for name in labels if name not in of_train and is_whole(name) not in kinds][:1]
    ]
    if wrong:
        problems.add(row_problem(table, wrong, "write the labels of all splits in one way"))


def _names_by_row(examples: Examples, task: str) -> list[Sequence[str]]:
    """The label names of each row; an empty list for regression and unlabelled splits."""
    if has(task, "tags_only"):
        return list(examples.slots or ())
    if has(task, "numbers"):
        return []
    return [label if isinstance(label, tuple) else (str(label),) for label in examples.labels or ()]


def _kind(label: str, many: bool = False) -> str:
    return ("numbers" if many else "a number") if is_whole(label) else "text"


def _check_variety(train: Examples, task: str) -> None:
    """Refuse a training split with a single class, number, tag or set of labels."""
    if has(task, "label_sets"):
        _check_several_labels(train, task)
    distinct: set[object] = set(train.labels or ())
    if has(task, "tags_only"):
        distinct = {tag for tags in train.slots or () for tag in tags}
    if len(distinct) == 1:
        method = registry.find("task", task)
        what = "one class" if method is None else method.facts["label"]
        raise DataError(
            f"train has {what} only ({quoted(distinct.pop())}), so there is nothing to learn; add other examples."
        )


def _check_several_labels(train: Examples, task: str) -> None:
    names = {name for labels in _names_by_row(train, task) for name in labels}
    if len(names) < 2:
        labels = f"one label only ({quoted(names.pop())})" if names else "no label at all"
        raise DataError(f"train has {labels}; the task {task!r} needs two or more. Use 'classification' for one.")


def _dataset(name: str, task: str, splits: Mapping[str, Examples], notes: Sequence[str]) -> Dataset:
    train = splits["train"]
    named = () if has(task, "tags_only") else _names_by_row(train, task)
    label_names = sorted_names(name for names in named for name in names)
    slot_names = tuple(sorted({slot for slots in train.slots or () for slot in slots}))
    all_notes = (*notes, *split_notes(splits, label_names, slot_names))
    return Dataset(name, task, splits, label_names, slot_names, fingerprint(task, splits), all_notes)


# ---- the data of a config ----


def columns_of(config: FinetuneConfig) -> Columns:
    """The column names of a config."""
    return Columns(**{field.name: getattr(config, f"{field.name}_column") for field in fields(Columns)})


def load_configured(config: FinetuneConfig) -> Dataset:
    """Load the data of a config, exactly as its run does.

    Raises:
        UserError: See `load_data`.
    """
    return load_data(
        config.data,
        config.task,
        columns=columns_of(config),
        seed=config.data_seed,
        dev_share=config.dev_share,
        drop_overlap=config.drop_overlap,
        dedupe=config.dedupe,
        train_rows=config.train_rows,
        label_separator=config.label_separator,
        gz_limit=config.gz_limit,
    )
