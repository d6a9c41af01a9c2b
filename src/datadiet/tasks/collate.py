"""From feature rows to one padded batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datadiet.checks import ArgumentError


@dataclass(frozen=True)
class Collator:
    """Pads the token columns to the longest row of the batch; columns it does not know are left out.

    Attributes:
        padding: Padding value of each column with one number per token.
        ragged: Padding value of columns whose rows have a length of their own.
        labels: dtype of each column with one number, or equally many, per example.
        left: Pad before the tokens instead of after them.
        multiple: Pad the token columns on, to a multiple of this.

    Example:
        >>> collate = Collator(padding={"input_ids": 0}, labels={"labels": torch.int64})
        >>> collate([{"input_ids": [2, 9, 3], "labels": 1, "length": 3}, {"input_ids": [2, 3], "labels": 0}])
        {'input_ids': tensor([[2, 9, 3],
                [2, 3, 0]]), 'labels': tensor([1, 0])}
    """

    padding: Mapping[str, int]
    labels: Mapping[str, torch.dtype]
    ragged: Mapping[str, int] = field(default_factory=dict)
    left: bool = False
    multiple: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One batch of tensors, int64 but for float labels."""
        held = rows[0].keys()
        width = self._width(max(len(row["input_ids"]) for row in rows))
        batch = {name: self._pad(rows, name, fill, width) for name, fill in self.padding.items() if name in held}
        for name, fill in self.ragged.items():
            if name in held:
                longest = max(len(row[name]) for row in rows)
                batch[name] = torch.tensor([[*row[name], *[fill] * (longest - len(row[name]))] for row in rows])
        for name, dtype in self.labels.items():
            if name in held:
                batch[name] = torch.tensor([row[name] for row in rows], dtype=dtype)
        return batch

    def _width(self, longest: int) -> int:
        step = self.multiple or 1
        return -(-longest // step) * step

    def _pad(self, rows: Sequence[Mapping[str, Any]], name: str, fill: int, width: int) -> Tensor:
        padded = []
        for row in rows:
            gap = [fill] * (width - len(row[name]))
            padded.append([*gap, *row[name]] if self.left else [*row[name], *gap])
        return torch.tensor(padded)  # (batch, width)


def token_padding(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The padding values of what a tokenizer makes.

    Raises:
        ArgumentError: If the tokenizer has no padding token.
    """
    if tokenizer.pad_token_id is None:
        raise ArgumentError("the tokenizer has no padding token, so texts cannot be batched; set tokenizer.pad_token.")
    return {
        "input_ids": int(tokenizer.pad_token_id),
        "attention_mask": 0,
        "token_type_ids": int(tokenizer.pad_token_type_id),
    }
