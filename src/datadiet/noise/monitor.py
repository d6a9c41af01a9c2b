"""The noise guard during a run: what it has seen since the last review, the rows it excludes now, and its files.

`NoiseMonitor` holds a guard for the labels and one for the tags. `write_noise` leaves `noise.json` and
`suspects.parquet` in the run folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.files import SCHEMA, plain, whole_file, write_json
from datadiet.noise.guard import MOMENT, RANK, NoiseGuard
from datadiet.store.row_arrays import RowArrays
from datadiet.types import HeadSignals, Json, Scores, Signals

# the columns of the score history that it reads, of the one label of an example and of the whole of its tags
READ = {
    "label": {"loss": "label_loss", "margin": "label_margin", RANK: "label_rank"},
    "tags": {"loss": "tags_loss", "margin": "tags_margin", RANK: "tags_rank"},
}
NOISE, SUSPECTS = "noise.json", "suspects.parquet"
_GUARD = "guard."  # of the arrays of a checkpoint


def lacking(signals: Signals, *, labels: bool, tags: bool) -> str:
    """What the guard would need to judge such examples, as the end of a refusal; empty where it can.

    Args:
        signals: Of a batch.
        labels: Whether the class of each row is known.
        tags: Whether tags are judged.

    Examples:
        >>> import torch
        >>> head = HeadSignals(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
        >>> lacking(Signals({"label": head}), labels=True, tags=False)
        ''
        >>> lacking(Signals({"start": head, "end": head}), labels=True, tags=False)
        'classes or tags; these examples have answers in a text.'
    """
    labelled = [head for head in signals.heads.values() if isinstance(head, HeadSignals)]
    classes = [head for head in labelled if not head.labels.is_floating_point()]
    if not classes or signals.heads.keys() == {"start", "end"}:
        found = "answers in a text" if classes else "numbers (regression?)" if labelled else "next tokens of a text"
        return f"classes or tags; these examples have {found}."
    one, several = (any(head.labels.dim() == size for head in classes) for size in (1, 2))
    if (one and labels) or (several and tags):
        return ""
    return (
        "to know the class of each row: training data with a column `label` or `labels` of whole numbers, or groups=, "
        "int64 (rows,)."
    )


class NoiseMonitor:
    """Run-time state of the guard: the values since the last review, and the rows excluded now.

    Labels and tags are judged apart, each by a `NoiseGuard` of its own; a row that either excludes is excluded.

    Args:
        num_examples: Rows of the training split.
        groups: int64 `(n,)`, the label of each row; None where rows have no one label.
        asked: Whether `offset="auto"` was given; see `NoiseGuard`.
        tags: Whether tags are judged, where the model gives any.
        arrays: Where the values are; in memory by default.

    Attributes:
        guards: After the last review, by what they judge: `label`, `tags`.
        excluded: bool `(n,)`, the rows excluded as suspected noise.
    """

    def __init__(
        self,
        num_examples: int,
        groups: NDArray[np.int64] | None,
        *,
        asked: bool = True,
        tags: bool = True,
        arrays: RowArrays | None = None,
    ) -> None:
        self._groups: dict[str, NDArray[np.int64] | None] = {} if groups is None else {"label": groups}
        if tags:
            self._groups["tags"] = None
        self._classes: dict[str, int] = {}
        self._place = RowArrays(num_examples) if arrays is None else arrays
        self._values: dict[str, NDArray[np.float32]] = {}  # since the last review; none before the first value
        self._seen = np.zeros(num_examples, bool)
        self.guards = {kind: NoiseGuard(asked=asked) for kind in self._groups}
        self.excluded = np.zeros(num_examples, bool)

    def count_classes(self, signals: Signals) -> None:
        """Read off a batch how many classes and tags the model has."""
        for head in signals.heads.values():
            if isinstance(head, HeadSignals) and not head.labels.is_floating_point():
                self._classes.setdefault("label" if head.labels.dim() == 1 else "tags", head.logits.shape[-1])

    def take(self, scores: Scores) -> None:
        """Make the values the latest of their rows; a pass does not replace a training value since the last review,
        which was taken before the model trained on the row."""
        new: Any = slice(None) if scores.source == "train" else ~self._seen[scores.rows]
        rows = scores.rows[new]
        read = {f"{kind}.{name}": column for kind in self._groups for name, column in READ[kind].items()}
        for name, column in {**read, MOMENT: MOMENT}.items():
            if name not in self._values:
                self._values[name] = self._place.full(np.nan, np.float32)
            self._values[name][rows] = scores.values[column][new]
        self._seen[rows] = True

    def review(self, epoch: int, dev_skill: Mapping[str, float] | None = None) -> None:
        """Judge the rows seen since the last review, before the plan of an epoch is made.

        Args:
            epoch: The one that is planned.
            dev_skill: From `skill`, of the model on the dev split now, by what is judged; None where nobody told.
        """
        if not self._seen.any():
            return
        found = []
        for kind, groups in self._groups.items():
            columns = {name: self._values[f"{kind}.{name}"] for name in READ[kind]}
            # else the model has no such head
            if self.guards[kind].arrays or np.isfinite(columns["loss"]).any():
                self.guards[kind], out = self.guards[kind].review(
                    {**columns, MOMENT: self._values[MOMENT]},
                    self._seen,
                    groups,
                    epoch=epoch,
                    classes=self._classes.get(kind),
                    dev_skill=(dev_skill or {}).get(kind),
                )
                found.append(out)
        self.excluded = found[0] if len(found) == 1 else np.any([np.zeros_like(self.excluded), *found], axis=0)
        self._seen[:] = False
        self._values = {}  # nothing asks for them again, and a checkpoint need not hold them

    @property
    def guard(self) -> NoiseGuard:
        """Of the labels; of the tags where rows have no one label."""
        return next(iter(self.guards.values()))

    def rows_to_recheck(self) -> NDArray[np.int64]:
        """The excluded rows without a value since the last review: epochs on everything train on them too."""
        return np.flatnonzero(self.excluded & ~self._seen)

    def candidates(self, count: int) -> NDArray[np.bool_]:
        """The rows to choose `count` from, bool `(n,)`: all that are not excluded; where they are too few, also the
        least suspected of the others."""
        free = ~self.excluded
        if (short := count - int(free.sum())) > 0:
            judged = [guard.arrays for guard in self.guards.values() if guard.arrays]
            suspicion = np.max([np.where(one["excluded"], one["suspicion"], 0) for one in judged], axis=0)
            out = np.flatnonzero(self.excluded)
            free[out[np.argsort(suspicion[out], kind="stable")[:short]]] = True
        return free

    def state(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Arrays, and plain values."""
        states = {kind: guard.state() for kind, guard in self.guards.items()}
        of_guards = {f"{_GUARD}{kind}.{name}": state[0][name] for kind, state in states.items() for name in state[0]}
        own = {"seen": self._seen, "excluded": self.excluded} if self._values else {"excluded": self.excluded}
        of_kinds = {kind: numbers for kind, (_, numbers) in states.items()}
        return {**self._values, **own, **of_guards}, {**of_kinds, "classes": self._classes}

    def load(self, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any]) -> None:
        """Restore a state."""
        for kind, guard in self.guards.items():
            start = f"{_GUARD}{kind}."
            of_guard = {name.removeprefix(start): np.array(arrays[name]) for name in arrays if name.startswith(start)}
            self.guards[kind] = guard.restored(of_guard, numbers[kind])
        self._classes = dict(numbers["classes"])
        read = [f"{kind}.{name}" for kind in self._groups for name in READ[kind]]
        self._values = {name: self._place.taken(arrays[name]) for name in (*read, MOMENT) if name in arrays}
        self._seen = np.array(arrays["seen"]) if "seen" in arrays else np.zeros_like(self._seen)
        self.excluded = np.array(arrays["excluded"])

    def summary(self, labels: Sequence[object] | None = None) -> Json:
        """The estimates with their evidence, for `result.json`; of labels and tags, those of the tags under `tags`.

        Args:
            labels: Of each row; with them, the summary counts the excluded rows per label.
        """
        whole = self.guard.summary(labels if "label" in self.guards else None)
        tags = self.guards.get("tags", self.guard)
        return {**whole, "tags": tags.summary()} if tags is not self.guard and tags.reviews else whole


def write_noise(
    folder: Path, monitor: NoiseMonitor, ids: Sequence[str], labels: Sequence[object], *, applied: bool = True
) -> None:
    """Write `noise.json`, the estimate with its evidence, and `suspects.parquet`, the excluded rows.

    Args:
        folder: The run folder.
        monitor: At the end of the run.
        ids: The user's id of each training row.
        labels: The label of each, as the user wrote it; empty where rows have no one label.
        applied: Whether the excluded rows were kept from training.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [_suspects(kind, guard, ids, labels) for kind, guard in monitor.guards.items()]
    with whole_file(folder / SUSPECTS) as part:
        pq.write_table(pa.concat_tables(tables, promote_options="default"), part, compression="zstd")
    content = plain({"schema": SCHEMA, "applied": applied, **monitor.summary([str(label) for label in labels])})
    write_json(folder / NOISE, content)


def _suspects(kind: str, guard: NoiseGuard, ids: Sequence[str], labels: Sequence[object]) -> Any:
    import pyarrow as pa

    suspects = guard.suspects()
    rows = suspects["row"].tolist()
    columns: dict[str, Any] = {
        "row": pa.array(rows, pa.int64()),
        "id": pa.array([str(ids[row]) for row in rows], pa.string()),
        "label": pa.array([str(labels[row]) if len(labels) else "" for row in rows], pa.string()),
        "judged": pa.array([kind] * len(rows), pa.string()),
    }
    columns |= {name: pa.array(values) for name, values in suspects.items() if name != "row"}
    columns["reason"] = pa.array(guard.reasons(kind), pa.string())
    return pa.table(columns)
