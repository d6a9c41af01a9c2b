"""Records of the data layer: column names, the examples of one split, the whole set, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from datadiet.errors import DataError


@dataclass(frozen=True)
class Columns:
    """Names of columns the user has chosen; None is recognised by its usual names.

    Attributes:
        text, text_pair: The text, and the second text of a pair. Naming `text` alone means that there is no pair.
        label: The class, the labels or the number to predict.
        tokens, slots: The words and their tags, for `intent-slot` and `token-classification`.
        intent: For `intent-slot`; `label` may stand for it and the other way round.
        id: The user's own id of each example; empty for row numbers.
        messages, prompt, answer, context, system: For `causal-lm`: whole conversations, or a prompt with its answer,
            what the prompt is about, and a message before it. Its plain texts are in `text`.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    tokens: str | None = None
    slots: str | None = None
    intent: str | None = None
    id: str | None = None
    messages: str | None = None
    prompt: str | None = None
    answer: str | None = None
    context: str | None = None
    system: str | None = None


Turns = tuple[tuple[str, str], ...]


# the roles of a last turn that there is something to train on: an answer, or the whole of a plain text
ANSWERING = ("assistant", "text")


@dataclass(frozen=True)
class Examples:
    """One split: parallel sequences, never changed.

    Attributes:
        ids: The user's own ids, or the row number in the file as text where there are none.
        texts: For data that has words the tokens joined by spaces.
        text_pairs: Second texts of a pair task, else None.
        tokens, slots: Words and their tags, for data that has words; else None.
        labels: Class names (the intent, for `intent-slot`), numbers for regression, for `multi-label` the names of each
            example, sorted; None where the split is unlabelled, and for tasks that are labelled by something else.
        source_rows: Position of each example in its source, from 0, whatever was dropped since; None where it has no
            source. Ignored when splits are compared.
        times: How many rows each example stands for after deduplication; None elsewhere. Ignored likewise.
        turns: Of a language model: the messages of each example, as pairs of a role and a text, see
            `datadiet.data.conversations`; `texts` are then their prompts. None elsewhere.

    Examples:
        >>> Examples(ids=("a", "b"), texts=("good", "bad"), labels=("1", "0")).take([1]).texts
        ('bad',)
    """

    ids: Sequence[str]
    texts: Sequence[str]
    text_pairs: Sequence[str] | None = None
    tokens: Sequence[Sequence[str]] | None = None
    slots: Sequence[Sequence[str]] | None = None
    labels: Sequence[str] | Sequence[float] | Sequence[tuple[str, ...]] | None = None
    source_rows: Sequence[int] | None = field(default=None, compare=False, repr=False)
    times: Sequence[int] | None = field(default=None, compare=False, repr=False)
    turns: Sequence[Turns] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        sizes = {part.name: len(values) for part in fields(self) if (values := getattr(self, part.name)) is not None}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the sequences of a split must have one length, got {sizes}.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether there is anything to compare predictions with."""
        answered = self.turns is not None and all(turns and turns[-1][0] in ANSWERING for turns in self.turns)
        return self.labels is not None or self.slots is not None or answered

    def take(self, rows: Iterable[int]) -> Examples:
        """The given rows (positions from 0), in the given order."""
        chosen = [int(row) for row in rows]
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return Examples(**{name: values and tuple(values[row] for row in chosen) for name, values in parts.items()})


def joined_texts(examples: Examples, separator: str = " ") -> list[str]:
    """One text per example, both texts of a pair in one, and all messages of a conversation.

    Examples:
        >>> joined_texts(Examples(ids=("0",), texts=("a premise",), text_pairs=("a hypothesis",)))
        ['a premise a hypothesis']
    """
    if examples.turns is not None:
        return [separator.join(text for _, text in turns) for turns in examples.turns]
    if examples.text_pairs is None:
        return list(examples.texts)
    return [f"{text}{separator}{pair}" for text, pair in zip(examples.texts, examples.text_pairs, strict=True)]


def without_input(examples: Examples) -> Examples:
    """The same labels with empty texts: the training data of the null model of PVI.

    Raises:
        DataError: For tagged words: without words there is nothing to tag.

    Examples:
        >>> without_input(Examples(ids=("a",), texts=("good",), labels=("1",)))
        Examples(ids=('a',), texts=('',), text_pairs=None, tokens=None, slots=None, labels=('1',))
    """
    if examples.tokens is not None or examples.slots is not None or examples.turns is not None:
        what = "tagged words" if examples.turns is None else "a language model"
        raise DataError(f"empty inputs need one label per text: for {what} there is no input to leave out.")
    blank = ("",) * len(examples)
    return replace(examples, texts=blank, text_pairs=None if examples.text_pairs is None else blank)


@dataclass(frozen=True)
class Dataset:
    """A data set, ready for a task.

    Attributes:
        name: `snips`, a hub name, or the folder's own name; never a path.
        task: A name of `datadiet methods`, kind task.
        splits: `train` and `dev`, perhaps `test`; MNLI has `dev_mismatched` and `test_mismatched` beside them.
        label_names: Class names of train, sorted, integers as integers; the position is the model's class number.
            Empty for regression and `token-classification`.
        slot_names: Tags of train, sorted as text.
        fingerprint: 16 hex digits over the task and everything in the splits, whatever the file format.
        notes: Sentences the user should read once.
    """

    name: str
    task: str
    splits: Mapping[str, Examples]
    label_names: tuple[str, ...]
    slot_names: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()


_ROWS = 10_000


def fingerprint(task: str, splits: Mapping[str, Examples]) -> str:
    """sha256 over the task and every id, text, token, slot and label, in order, independent of file format and path.

    Args:
        task: It decides which columns are read.
        splits: By name; their order does not matter, the order of their rows does.

    Returns:
        The first 16 hex digits.

    Examples:
        >>> fingerprint("classification", {"train": Examples(ids=("0",), texts=("good",), labels=("1",))})
        'fa3ce3d94f1a7ced'
    """
    digest = hashlib.sha256(json.dumps(["datadiet 1", task]).encode())
    for name in sorted(splits):
        for piece in _written(name, splits[name]):
            digest.update(piece.encode())
    return digest.hexdigest()[:16]


def _written(name: str, examples: Examples) -> Iterator[str]:
    """`json.dumps([name, fields])` in pieces: in one piece a million rows take hundreds of megabytes."""
    yield f"[{json.dumps(name)}, ["
    for place, values in enumerate(_fields(examples)):
        yield ", " if place else ""
        yield from ["null"] if values is None else _pieces(values)
    yield "]]"


def _pieces(field: Sequence[object]) -> Iterator[str]:
    yield "["
    # a dump per many rows, not per row: 100,000 rows in a fraction of a second
    for begin in range(0, len(field), _ROWS):
        yield ", " if begin else ""
        yield json.dumps(field[begin : begin + _ROWS])[1:-1]
    yield "]"


def _fields(examples: Examples) -> list[Sequence[object] | None]:
    own = () if examples.turns is None else ("turns",)  # the fingerprints of all other data stay what they were
    return [getattr(examples, name) for name in ("ids", "texts", "text_pairs", "tokens", "slots", "labels", *own)]
