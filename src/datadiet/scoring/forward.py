"""Forward passes outside the training loop, for scores and predictions.

A pass has no order to keep, unlike training. It sorts examples by length and packs as many padded tokens as fit a
budget, which makes it fast (benchmarks/scoring.py). `forward_pass` is the one loop; `predict_all` decodes its outputs,
and `pass_of` reads what all scores of a call need of one model, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datadiet.errors import ArgumentError
from datadiet.ledger import Ledger
from datadiet.registry import find, load
from datadiet.scores.answers import row_rest_nll
from datadiet.scores.reduce import FREE, example_values, free_signals
from datadiet.scoring.inputs import ScoringInputs, Shared, Values
from datadiet.tasks.heads import Heads, head_layers
from datadiet.types import HeadSignals, Signals, TokenSignals

Batch = dict[str, Any]
Collate = Callable[[list[Any]], Batch]

# A scoring batch holds at most the padded tokens of this many training batches, which bounds its memory: a forward
# pass stores no activations and needs far less than a training step of the same size.
TRAINING_BATCHES_PER_PASS_BATCH = 8
# On a CPU more tokens at once gain no speed and take memory in every thread: at most so many, or a training batch.
CPU_PASS_TOKENS = 8192
MOST_LOGITS = 2**28  # of a batch of a pass: 1 GiB in float32
_AT_ONCE = 16_384  # numbers of a column
_NAMES = ("id", "row")  # columns that name a row and are not input


@contextmanager
def in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and restore every module's mode afterwards (also of modules frozen in eval mode)."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode without gradients."""
    with in_eval_mode(model), torch.inference_mode():
        yield


def autocast(device: torch.device, precision: str) -> Any:
    """The autocast context of a precision: `fp32` (none), `bf16` or `fp16`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def whole_numbers(column: Sequence[int | None], *, missing: int | None = None) -> NDArray[np.int64]:
    """A column of a data set as an array, read in slices: on a lazy column far faster than number by number.

    Args:
        column: `(rows,)`.
        missing: Stands for None, where the column may hold it.

    Returns:
        int64 `(rows,)`.

    Raises:
        TypeError: For None where nothing stands for it.

    Examples:
        >>> whole_numbers([3, 1, None], missing=-100)
        array([   3,    1, -100])
    """
    numbers = np.empty(len(column), np.int64)
    for start in range(0, len(numbers), _AT_ONCE):
        part: Any = column[start : start + _AT_ONCE]
        if missing is not None and isinstance(part, list) and None in part:
            part = [missing if one is None else one for one in part]
        numbers[start : start + _AT_ONCE] = part
    return numbers


def column_of(dataset: Any, name: str) -> Any:
    """A column of a data set as it is stored, whatever its format; None where there is none.

    Args:
        dataset: Of `datasets`, anything with `column_names`, or a list of dicts.
        name: Of the column.
    """
    if isinstance(dataset, (list, tuple)):
        named = bool(dataset) and all(isinstance(row, Mapping) and name in row for row in dataset)
        return [row[name] for row in dataset] if named else None
    if name not in (getattr(dataset, "column_names", None) or ()):
        return None
    return dataset.with_format(None)[name] if hasattr(dataset, "with_format") else dataset[name]


def is_transformed(dataset: Any) -> bool:
    """Whether the rows of a data set are made when they are read (`with_transform`), so that its columns are others."""
    form = getattr(dataset, "format", None)
    return isinstance(form, Mapping) and form.get("type") == "custom"


def lengths_of(dataset: Any) -> NDArray[np.int64] | None:
    """Tokens of each example: a `length` column of whole numbers, else the lengths of `input_ids`; None where there is
    neither, or where the rows are made when they are read."""
    if is_transformed(dataset):
        return None
    lengths = column_of(dataset, "length")
    if lengths is not None and len(lengths) and isinstance(lengths[0], (int, np.integer)):
        return whole_numbers(lengths)
    tokens = column_of(dataset, "input_ids")
    return None if tokens is None else np.fromiter(map(len, tokens), np.int64, len(dataset))


def batches_by_length(
    rows: NDArray[np.int64], lengths: NDArray[np.int64] | None, *, batch_tokens: int, batch_size: int
) -> Iterator[NDArray[np.int64]]:
    """Split rows into batches of neighbours in length, longest first so that memory is known from the first batch on.

    Args:
        rows: int64 `(n,)`.
        lengths: Tokens of each row of the data set, or None.
        batch_tokens: Most padded tokens (longest of the batch times its size); one example always fits.
        batch_size: Examples per batch where the lengths are unknown.

    Examples:
        >>> lengths = np.array([2, 9, 3, 4])
        >>> [batch.tolist() for batch in batches_by_length(np.arange(4), lengths, batch_tokens=9, batch_size=2)]
        [[1], [3, 2], [0]]
    """
    if lengths is None:
        yield from (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
        return
    keys = lengths[rows]
    ordered = rows[np.argsort(np.negative(keys, out=keys), kind="stable")]
    start = 0
    while start < len(ordered):
        size = max(1, batch_tokens // max(1, int(lengths[ordered[start]])))
        yield ordered[start : start + size]
        start += size


def pass_tokens(training_tokens: int, device: torch.device) -> int:
    """The padded tokens that a batch of a scoring pass may hold.

    Args:
        training_tokens: Of a training batch.
        device: Where the pass runs.

    Examples:
        >>> [pass_tokens(tokens, torch.device("cpu")) for tokens in (384, 2304, 20_000)]
        [3072, 8192, 20000]
    """
    most = training_tokens * TRAINING_BATCHES_PER_PASS_BATCH
    return min(most, max(training_tokens, CPU_PASS_TOKENS)) if device.type == "cpu" else most


def within_logits(batch_tokens: int, model: torch.nn.Module) -> int:
    """No more tokens of a batch than the logits of a language model, tokens times vocabulary, have room for.

    Examples:
        >>> within_logits(4096, torch.nn.Linear(1, 1))
        4096
    """
    vocabulary = vocabulary_of(model)
    return batch_tokens if vocabulary is None else max(1, min(batch_tokens, MOST_LOGITS // vocabulary))


def vocabulary_of(model: torch.nn.Module) -> int | None:
    """The logits of each token of a language model, whatever wraps it; None for another model."""
    for part in (model, getattr(model, "module", None)):
        head = getattr(part, "get_output_embeddings", lambda: None)()
        weight = getattr(head, "weight", None)
        if isinstance(weight, torch.Tensor):
            return int(weight.shape[0])
    return None


def fetch(dataset: Any, rows: NDArray[np.int64]) -> list[Any]:
    """Items of a map-style data set, in one call where it supports that."""
    numbers = rows.tolist()
    several = getattr(dataset, "__getitems__", None)
    return list(several(numbers)) if several is not None else [dataset[row] for row in numbers]


def to_device(batch: Mapping[str, Any], device: torch.device) -> Batch:
    """Move the tensors of a batch."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def token_count(batch: Mapping[str, Any]) -> int:
    """Real tokens of a batch: where the attention masks are 1; all positions without a mask; else one per example."""
    if masks := [value for name, value in batch.items() if name.endswith("attention_mask")]:
        return sum(int(mask.sum()) for mask in masks)
    if ids := [value for name, value in batch.items() if name.endswith("input_ids")]:
        return sum(value.numel() for value in ids)
    first = next((value for value in batch.values() if isinstance(value, torch.Tensor) and value.dim()), None)
    return 0 if first is None else len(first)


def first_alike(texts: Sequence[str], features: Any) -> NDArray[np.int64]:
    """For each row the first row with the same tokens and labels, which gives the same outputs.

    Args:
        texts: `(n,)`; only rows whose text occurs again are compared.
        features: Tokenised rows, map-style; columns that name a row (`id`, `row`) do not count.

    Returns:
        int64 `(n,)`, a row's own number where it is the first of its kind.

    Examples:
        >>> up, no = {"input_ids": [1, 2]}, {"input_ids": [3]}
        >>> first_alike(["up", "no", "up", "up"], [up, no, up, up | {"labels": 1}])
        array([0, 1, 0, 3])
    """
    firsts, times = np.arange(len(features)), Counter(texts)
    first: dict[tuple[str, str], int] = {}
    for row, text in enumerate(texts):
        if times[text] > 1:
            inputs = {name: part for name, part in features[row].items() if name not in _NAMES}
            firsts[row] = first.setdefault((text, repr(sorted(inputs.items(), key=itemgetter(0)))), row)
    return firsts


def forward_pass(
    model: torch.nn.Module,
    dataset: Any,
    collate: Collate,
    *,
    rows: NDArray[np.int64] | None = None,
    lengths: NDArray[np.int64] | None = None,
    batch_tokens: int = 4096,
    batch_size: int = 64,
    precision: str = "fp32",
    call: Callable[[Batch], Any] | None = None,
    ledger: Ledger | None = None,
) -> Iterator[tuple[NDArray[np.int64], Any, Batch]]:
    """Run the model once over rows of a data set, each exactly once, in eval mode and without gradients.

    Args:
        model: On the device where the pass is to run.
        dataset: Map-style.
        collate: Items to a batch of tensors.
        rows: int64 `(n,)`; all rows by default.
        lengths: Tokens of each row of the data set; read from it by default.
        batch_tokens, batch_size: See `batches_by_length`; a language model gets no more than `within_logits`.
        precision: Of the autocast; scores are computed in float32 whatever it is.
        call: How to call the model on a batch; `model(**batch)` by default.
        ledger: Counts the examples and tokens as scoring.

    Yields:
        `(rows, outputs, batch)`, outputs and batch on the model's device.
    """
    every_row = np.arange(len(dataset), dtype=np.int64) if rows is None else rows
    lengths = lengths_of(dataset) if lengths is None else lengths
    device = next(model.parameters()).device
    run = call or (lambda batch: model(**batch))
    batch_tokens = within_logits(batch_tokens, model)
    for part in batches_by_length(every_row, lengths, batch_tokens=batch_tokens, batch_size=batch_size):
        batch = to_device(collate(fetch(dataset, part)), device)
        # entered per batch, so that the caller's code between two batches never runs inside the pass's contexts
        with evaluating(model), autocast(device, precision):
            outputs = run(batch)
        if ledger is not None:
            ledger.count_scoring(len(part), token_count(batch))
        yield part, outputs, batch


def predict_all(
    model: torch.nn.Module,
    dataset: Any,
    collate: Collate,
    decode: Callable[[Any, Batch], Sequence[Any]],
    *,
    batch_tokens: int = 4096,
    precision: str = "fp32",
) -> list[Any]:
    """Predictions of every row, in row order.

    Args:
        decode: `(outputs, batch)` to one prediction per example.
        model, dataset, collate, batch_tokens, precision: See `forward_pass`.
    """
    predictions: list[Any] = [None] * len(dataset)
    for rows, outputs, batch in forward_pass(model, dataset, collate, batch_tokens=batch_tokens, precision=precision):
        for row, prediction in zip(rows.tolist(), decode(outputs, batch), strict=True):
            predictions[row] = prediction
    return predictions


# ---- what scores read of a pass


@dataclass(frozen=True)
class Pass:
    """What one forward pass of a model says of every row.

    Attributes:
        columns: float32 `(n,)` by name: scores, free signals, and what else was requested.
        classes: float32 `(n, classes)`, log-probabilities; None where they were not requested.
    """

    columns: Mapping[str, Values]
    classes: torch.Tensor | None = None

    @property
    def log_probabilities(self) -> torch.Tensor:
        """The classes, which a declaration requests."""
        assert self.classes is not None
        return self.classes


def rest_losses(signals: Signals) -> torch.Tensor:
    """The mean nll of each row over the tokens that train but for the first: float32 `(batch,)`."""
    return row_rest_nll(token_head(signals))


def token_head(signals: Signals) -> TokenSignals:
    """The next tokens of a causal language model."""
    head = signals.heads["tokens"]
    assert isinstance(head, TokenSignals)  # of its task
    return head


# columns of a pass that are neither scores nor free signals
_FURTHER: Mapping[str, Callable[[Signals], torch.Tensor]] = {"rest": rest_losses}


def pass_of(role: str, inputs: ScoringInputs, shared: Shared) -> Pass:
    """The pass of a model, which reads what all scores of the call declare that they need of it (`passes`).

    A declaration names, by role, `value` (the score itself), free signals such as `loss`, `rest`, and `classes`.
    Cross-fitted outputs take the place of the holdout model's pass.

    Args:
        role: `model`, `teacher` or `holdout`.
        inputs: The rows and the models.
        shared: The scores of the call.
    """
    return shared.once(f"the pass of the {role}", lambda: _pass_of(role, inputs, shared))


def _pass_of(role: str, inputs: ScoringInputs, shared: Shared) -> Pass:
    if role == "holdout" and inputs.out_of_fold is not None:
        return Pass({"loss": inputs.out_of_fold.losses}, inputs.out_of_fold.classes)
    requested = {name: passes_of(name).get(role, ()) for name in shared.names}
    columns = {column for read in requested.values() for column in read}
    classes = "classes" in columns or (role == "model" and shared.probabilities and inputs.out_of_fold is None)
    scores = [name for name, read in requested.items() if "value" in read]
    more = {name: read for name, read in _FURTHER.items() if name in columns}
    return Pass(*read_model(inputs, role, scores, classes=classes, more=more))


def passes_of(score: str) -> Mapping[str, Sequence[str]]:
    """What a score needs of the pass of each model, by role; empty where it reads none."""
    method = find("score", score)
    return {} if method is None else method.facts.get("passes", {})


def probabilities_of(inputs: ScoringInputs, shared: Shared) -> Values:
    """The probability of each class, float32 `(n, classes)`: of the cross-fitted models, or else of the model."""
    return pass_of("model" if inputs.out_of_fold is None else "holdout", inputs, shared).log_probabilities.exp().numpy()


def value_of(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """A score that is read off the outputs of the model's pass."""
    return pass_of("model", inputs, shared).columns[name]


def irreducible(_name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """The loss under a model that has not seen the row."""
    return pass_of("holdout", inputs, shared).columns["loss"]


def reducible(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """The loss of the model above that."""
    return pass_of("model", inputs, shared).columns["loss"] - irreducible(name, inputs, shared)


def against_teacher(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """A score of the class probabilities of the model and of a teacher."""
    ours, theirs = (pass_of(role, inputs, shared).log_probabilities for role in ("model", "teacher"))
    values: torch.Tensor = load("score", name)(ours, theirs)
    return values.numpy()


def against_null(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """A score of cross-fitted class probabilities, with the texts and without."""
    assert inputs.null is not None  # checked by check_needs; made together with the cross-fitted ones
    ours = pass_of("holdout", inputs, shared).log_probabilities
    values: torch.Tensor = load("score", name)(ours, inputs.null, torch.as_tensor(inputs.groups))
    return values.numpy()


def read_model(
    inputs: ScoringInputs,
    role: str,
    scores: Sequence[str],
    *,
    classes: bool = False,
    more: Mapping[str, Callable[[Signals], torch.Tensor]] | None = None,
) -> tuple[dict[str, Values], torch.Tensor | None]:
    """Scores and free signals of every row from one forward pass; rows that look the same to the model are passed once.

    Args:
        inputs: The rows, and the model.
        role: Which model: `model`, `teacher` or `holdout`.
        scores: Names of scores of one forward pass.
        classes: Also the log-probability of each class, of the head that has one decision per example.
        more: Further columns of the pass, by name.

    Returns:
        The scores and the free signals, float32 `(n,)` each; the log-probabilities, float32 `(n, classes)`, or None.

    Raises:
        ArgumentError: If `classes` are requested of a model that has no such head.
    """
    model, rows = getattr(inputs, role), inputs.rows_for(role)
    more = more or {}
    columns = tuple(dict.fromkeys((*scores, *FREE, *more)))
    heads, table = Heads(head_layers(model)), np.empty((len(columns), len(rows.features)), np.float32)
    alike = first_alike(inputs.texts, rows.features)
    logs: torch.Tensor | None = None

    def call(batch: Batch) -> Any:
        with heads.recording():
            return model(**batch)

    options: dict[str, Any] = {"precision": inputs.precision, "batch_tokens": inputs.batch_tokens}
    options |= {"rows": np.unique(alike), "ledger": inputs.ledger, "call": call}
    for part, outputs, batch in forward_pass(model, rows.features, rows.collate, **options):
        signals = heads.signals(inputs.signals(outputs, batch))
        values = free_signals(signals)
        values |= {name: example_values(load("score", name), signals, combine=inputs.combine) for name in scores}
        values |= {name: read(signals) for name, read in more.items()}
        table[:, part] = torch.stack([values[name] for name in columns]).cpu().numpy()
        if classes:
            of_batch = _log_probabilities(signals)
            logs = of_batch.new_empty(len(rows.features), of_batch.shape[1]) if logs is None else logs
            logs[torch.from_numpy(part)] = of_batch
    return dict(zip(columns, table[:, alike], strict=True)), None if logs is None else logs[torch.from_numpy(alike)]


def _log_probabilities(signals: Signals) -> torch.Tensor:
    """float32 `(batch, classes)`, from the head that has one decision per example."""
    for head in signals.heads.values():
        if isinstance(head, HeadSignals) and head.mask is None and not head.labels.is_floating_point():
            return head.logits.float().log_softmax(-1).cpu()
    raise ArgumentError("class probabilities need a model that gives each example one class; this one does not.")
