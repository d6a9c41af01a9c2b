"""What a user should know of the splits once: labels out of reach, one-sided pairs, splits without labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from datadiet.data.records import Examples

_SHOWN = 10  # names of unknown labels in a note


def split_notes(splits: Mapping[str, Examples], label_names: Sequence[str], slot_names: Sequence[str]) -> list[str]:
    """Sentences on the finished splits.

    Args:
        splits: As they will be trained and tested on.
        label_names: Of train; empty for regression.
        slot_names: Of train; empty without slots.

    Example:
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
    found = [_unseen_note(split, "row", what, labels)] if labels else []
    return [*found, _unseen_note(split, "word", tag, slots)] if slots else found


def _each_label(examples: Examples) -> Iterable[str]:
    for label in examples.labels or ():
        yield from label if isinstance(label, tuple) else [str(label)]


def _unseen(labels: Iterable[str], known: Sequence[str]) -> Counter[str]:
    names = set(known)
    return Counter(label for label in labels if label not in names)


def _unseen_note(split: str, unit: str, what: str, counts: Counter[str]) -> str:
    total = counts.total()
    subject = f"{total:,} {unit} has" if total == 1 else f"{total:,} {unit}s have"
    told = ", ".join(f"{label} {count}" for label, count in counts.most_common(_SHOWN))
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    return f"{split}: {subject} {what} that train does not have ({told}{more}); each counts as an error of the model."


def _one_sided(split: str, examples: Examples) -> list[str]:
    pairs = zip(examples.texts, examples.text_pairs or (), strict=False)
    count = sum(not (one.strip() and two.strip()) for one, two in pairs)
    return [f"{split}: in {count:,} {'row' if count == 1 else 'rows'} one text of the pair is empty."] if count else []
