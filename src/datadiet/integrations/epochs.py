"""What one epoch of training adds up to: a line of the result, and the ledger's counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datadiet.ledger import Ledger
from datadiet.records import EpochResult, Json
from datadiet.scoring import token_count


class EpochTotals:
    """Sums of one epoch while it runs.

    Tokens and losses stay tensors until a checkpoint or the end of the epoch asks for them, so that no step waits for
    the device.

    Args:
        epoch: From 0.
        ledger: Receives the examples and tokens; its accounts give the epoch's seconds.
    """

    def __init__(self, epoch: int, ledger: Ledger) -> None:
        self.epoch, self._ledger = epoch, ledger
        self.kept = self.dropped = self.batches = self.examples = self._tokens = self.unsettled = 0
        self.loss: Any = 0.0
        self.dev: Mapping[str, float] = {}
        self.closed = False
        self._new_tokens: Any = 0
        self._train_s, self._score_s = ledger.seconds("train"), ledger.seconds("score")

    def count(self, examples: int, batch: Mapping[str, Any]) -> None:
        """Count a training batch."""
        masks = [value for name, value in batch.items() if name.endswith("attention_mask")]
        self._new_tokens = self._new_tokens + (sum(mask.sum() for mask in masks) if masks else token_count(batch))
        self.unsettled += examples
        self.batches += 1

    def settle(self) -> None:
        """Move what was counted since the last call into the ledger."""
        tokens = int(self._new_tokens)
        self._ledger.count_training(self.unsettled, tokens)
        self.examples += self.unsettled
        self._tokens += tokens
        self.unsettled, self._new_tokens = 0, 0

    def seconds(self) -> tuple[float, float]:
        """Seconds of training and of scoring."""
        return self._ledger.seconds("train") - self._train_s, self._ledger.seconds("score") - self._score_s

    def so_far(self) -> Json:
        """The sums as plain values, for a checkpoint."""
        self.settle()
        train_s, score_s = self.seconds()
        counts = {name: getattr(self, name) for name in ("epoch", "closed", "kept", "dropped", "batches", "examples")}
        return {**counts, "loss": float(self.loss), "tokens": self._tokens, "train_s": train_s, "score_s": score_s}

    def carry(self, earlier: Json) -> None:
        """Take up an epoch in the middle, from its `so_far`."""
        for name in ("kept", "dropped", "batches", "examples", "loss"):
            setattr(self, name, earlier[name])
        self._tokens = earlier["tokens"]
        self._train_s -= earlier["train_s"]
        self._score_s -= earlier["score_s"]

    def mean_loss(self, accumulation: int) -> float | None:
        """Mean training loss of the epoch's steps so far."""
        steps = self.batches // accumulation
        return float(self.loss) / steps if steps else None

    def close(self, accumulation: int) -> EpochResult:
        """The epoch's line of the result; `accumulation` batches make one step."""
        self.settle()
        self.closed = True
        train_s, score_s = self.seconds()
        steps = -(-self.batches // accumulation)
        return EpochResult(
            epoch=self.epoch,
            kept=self.kept,
            dropped=self.dropped,
            steps=steps,
            seconds=train_s,
            score_s=score_s,
            tokens=self._tokens,
            train_loss=float(self.loss) / steps if steps else None,
            dev=self.dev,
        )
