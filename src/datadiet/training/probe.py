"""Scoring passes every few steps of the first epochs: a finer history than one value per epoch.

In three epochs of fine-tuning hardly an example is forgotten from one epoch to the next; between passes forgetting is
visible. The passes record the same rows whatever the diet chooses, and change nothing of the training.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from datadiet.diet.values import MOMENT
from datadiet.errors import ArgumentError, Problems
from datadiet.noise.probabilities import FILE, MeanProbabilities, read_probabilities, write_probabilities
from datadiet.training.epochs import EpochContext, score_rows
from datadiet.training.state import exchange, share_of
from datadiet.types import HeadSignals, Scores, Signals

_STREAM = 5  # of the generator that draws the share
_LABEL = "label"


class Probe(TrainerCallback):
    """Scores rows every `every` optimizer steps and appends them to the score history.

    The lines have `source="pass"` and, in `moment`, the batches of the epoch that have trained so far, so that
    (`epoch`, `moment`) is the step; in other passes `moment` is nan. `datadiet.dynamics(run, source="probe")` reads
    them. The passes count as `score_s`, and their examples as forwards.

    Args:
        trainer: A `DietTrainer`, or another trainer with `DietMixin`.
        every: Optimizer steps from one pass to the next.
        epochs: Number of first epochs with passes; None for all.
        share: Of the rows, drawn once by the seed; 1 is all.
        probabilities: Also keep the mean class probabilities over the passes, `classes + 3` numbers per example, and
            write them as `probabilities.parquet` into the run folder at the end, for `datadiet.cleanlab_inputs`.
        seed: Of the share.

    Raises:
        ArgumentError: All problems with the arguments at once.

    Examples:
        >>> # trainer = DietTrainer(..., diet=diet)
        >>> # trainer.add_callback(Probe(trainer, every=50, epochs=2))

    Source: Toneva et al. 2019 (arXiv 1812.05159) count forgetting from one presentation to the next; Anand et al. 2023
    (EMNLP, "Influence Scores at Scale") score the whole training set every 50 steps of the first two epochs of BERT.
    """

    def __init__(
        self,
        trainer: Any,
        *,
        every: int = 50,
        epochs: int | None = 2,
        share: float = 1.0,
        probabilities: bool = False,
        seed: int = 0,
    ) -> None:
        problems = Problems()
        problems.whole("every", every, least=1)
        if epochs is not None:
            problems.whole("epochs", epochs, least=1)
        problems.share("share", share)
        problems.whole("seed", seed)
        problems.check(hasattr(trainer, "diet"), "Probe needs a trainer with a diet: a DietTrainer, or a DietMixin.")
        problems.raise_any()
        self._trainer, self._every, self._epochs = trainer, every, epochs
        self._rows = probed_rows(trainer.num_rows, share, seed, least=trainer.args.world_size)
        self._mean = MeanProbabilities(trainer.num_rows) if probabilities else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """Read the mean probabilities of a resumed run."""
        earlier = _checkpoint(args, state) / FILE
        if self._mean is not None and state.global_step and earlier.is_file():
            self._mean.carry(read_probabilities(earlier))

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """Score, every so many steps."""
        epoch = self._trainer.current_epoch.epoch
        if state.global_step % self._every == 0 and (self._epochs is None or epoch < self._epochs):
            with self._trainer.ledger.charge("score"):
                self._pass(epoch)

    def on_save(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """Save the mean probabilities beside the checkpoint."""
        folder = _checkpoint(args, state)
        if folder.is_dir():
            self._write(folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """Write the mean probabilities."""
        self._write(self._trainer.run_folder)

    def _pass(self, epoch: int) -> None:
        context: EpochContext = self._trainer.context
        diet, accelerator, seen = context.diet, context.accelerator, _PassProbabilities()
        own = share_of(self._rows, accelerator)
        rows, values = score_rows(context, own, listen=seen if self._mean is not None else None)
        values[MOMENT] = np.full(len(rows), self._trainer.current_epoch.batches, np.float32)
        scores = Scores(rows, values, "pass", epoch, diet.round)
        scores = exchange(scores, diet.columns, accelerator)
        if self._trainer.is_world_process_zero():
            diet.history.append(scores)
        if self._mean is not None:
            table = exchange(replace(scores, rows=seen.rows, values=seen.values), seen.columns, accelerator)
            classes = [table.values[name] for name in seen.columns if name != _LABEL]
            self._mean.add(table.rows, np.stack(classes, 1), table.values[_LABEL].astype(np.int64))

    def _write(self, folder: Path) -> None:
        if self._mean is not None and self._mean.classes and self._trainer.is_world_process_zero():
            names = class_names(self._trainer.network, self._mean.classes)
            write_probabilities(folder / FILE, self._mean.result(names, self._trainer.row_ids))


class _PassProbabilities:
    """The class probabilities of one pass, in the order of the pass."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.int64], torch.Tensor]] = []

    def __call__(self, rows: NDArray[np.int64], signals: Signals) -> None:
        head = first_class_head(signals)
        probabilities = head.logits.detach().float().softmax(-1)
        labels = head.labels.float().unsqueeze(-1)  # class numbers are exact in float32
        self._parts.append((rows, torch.cat([probabilities, labels], -1)))

    @property
    def columns(self) -> tuple[str, ...]:
        classes = self._parts[0][1].shape[1] - 1
        return (*(f"p{number}" for number in range(classes)), _LABEL)

    @property
    def rows(self) -> NDArray[np.int64]:
        return np.concatenate([rows for rows, _ in self._parts])

    @property
    def values(self) -> dict[str, NDArray[np.float32]]:
        table = torch.cat([values for _, values in self._parts]).cpu().numpy()  # (rows, classes + 1)
        return {name: table[:, place] for place, name in enumerate(self.columns)}


def probed_rows(number: int, share: float, seed: int, *, least: int = 1) -> NDArray[np.int64]:
    """A share of the rows, the same for a seed: int64, ascending, at least `least`.

    Examples:
        >>> probed_rows(10, 0.3, seed=0).tolist()
        [1, 6, 7]
    """
    count = max(least, round(share * number))
    return np.sort(np.random.default_rng([seed, _STREAM]).permutation(number)[:count])


def first_class_head(signals: Signals) -> HeadSignals:
    """The head that decides once per example, e.g. the intent of a joint task.

    Raises:
        ArgumentError: If there is none: a regression, or a tagger alone.
    """
    for head in signals.heads.values():
        if isinstance(head, HeadSignals) and head.labels.dim() == 1 and not head.labels.is_floating_point():
            return head
    raise ArgumentError(
        f"class probabilities need a head with one class per example; the heads are {', '.join(signals.heads)}."
    )


def class_names(model: torch.nn.Module, classes: int) -> tuple[str, ...]:
    """Names from the model's config where they fit, else numbers."""
    config: Any = getattr(model, "config", None)
    for entry in (getattr(config, "intent_names", None), getattr(config, "id2label", None)):
        names = [entry[number] for number in sorted(entry)] if isinstance(entry, dict) else list(entry or ())
        if len(names) == classes:
            return tuple(map(str, names))
    return tuple(map(str, range(classes)))


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
