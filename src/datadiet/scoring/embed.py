"""Embeddings of examples by a model at hand, in one forward pass; their scores; and a cache folder for them."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.errors import ArgumentError, DataError, Problems
from datadiet.ledger import Ledger
from datadiet.registry import find, load
from datadiet.scoring.forward import Batch, Collate, first_alike, forward_pass
from datadiet.scoring.inputs import ScoringInputs, Shared, Values
from datadiet.store.cache import entry, load_arrays, save_arrays
from datadiet.types import Json

POOLINGS = ("mean", "position", "cls")
PRECISIONS = ("float16", "float32")


def embed(
    model: torch.nn.Module,
    dataset: Any,
    collate: Collate,
    *,
    rows: NDArray[np.int64] | None = None,
    pooling: str = "mean",
    normalize: bool = True,
    precision: str = "fp32",
    batch_tokens: int = 4096,
    ledger: Ledger | None = None,
) -> NDArray[np.float32]:
    """One vector per example: the last hidden states of the model's encoder, pooled over the real tokens.

    `mean`: `sum_t a_t h_t / sum_t a_t` with the attention mask `a`; `position`: the same with `a_t` the number of real
    tokens up to t, so that later ones, which have seen more, weigh more; `cls`: `h_t` of the first real token

    Heads are not run. Padding does not count, on either side; pooling is done in float32.

    Args:
        model: A transformers model with or without heads, an encoder-decoder (of which the encoder is taken), or the
            joint intent and slot model; on the device where the pass is to run.
        dataset, collate: As for `datadiet.scoring.forward.forward_pass`; columns that the encoder does not take are
            dropped.
        rows: int64 `(n,)`, in this order, repeats allowed; all by default.
        pooling: `mean`, `position` or `cls`.
        normalize: Scale each vector to length 1.
        precision: Of the autocast: `fp32`, `bf16` or `fp16`.
        batch_tokens: Padded tokens of a batch, at most.
        ledger: Counts the pass as scoring, its time too.

    Returns:
        float32 `(n, hidden size)`, in the order of the rows.

    Raises:
        ArgumentError: If the pooling is unknown or the model has no hidden states.
        DataError: If a vector is not finite; the row is named.

    Source: masked mean pooling as in Sentence-BERT (Reimers and Gurevych 2019, arXiv 1908.10084), section 3; weighted
    by position as in SGPT (Muennighoff 2022, arXiv 2202.08904), for models that read from left to right.
    """
    problems = Problems()
    problems.choice("pooling", pooling, POOLINGS)
    problems.raise_any()
    requested = np.arange(len(dataset), dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    if not requested.size:
        raise ArgumentError("there is no example to embed.")
    encoder = encoder_of(model)
    names = {name for name in inspect.signature(encoder.forward).parameters if not name.endswith(("labels", "label"))}
    each, places = np.unique(requested, return_inverse=True)
    table: NDArray[np.float32] | None = None

    def call(batch: Batch) -> Any:
        return encoder(**{name: value for name, value in batch.items() if name in names})

    clock = ledger or Ledger()
    with clock.charge("score"):
        options: dict[str, Any] = {"precision": precision, "batch_tokens": batch_tokens, "ledger": ledger}
        for part, outputs, batch in forward_pass(encoder, dataset, collate, rows=each, call=call, **options):
            pooled = _pooled(_hidden(outputs), batch.get("attention_mask"), pooling)
            vectors = (torch.nn.functional.normalize(pooled, dim=-1) if normalize else pooled).cpu().numpy()
            table = np.empty((each.size, vectors.shape[1]), np.float32) if table is None else table
            table[np.searchsorted(each, part)] = vectors
    assert table is not None  # there is at least one row
    bad = each[~np.isfinite(table).all(1)]
    if bad.size:
        raise DataError(f"the model gives vectors that are not finite for {bad.size} rows, the first is {bad[0]}.")
    return table[places]


def encoder_of(model: torch.nn.Module) -> torch.nn.Module:
    """The part of a model that turns tokens into hidden states, without its heads.

    An encoder-decoder's encoder; the `encoder` of a model that names no base, as the joint one; else transformers'
    `base_model`. Adapters of PEFT stay in it.
    """
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()  # type: ignore[operator]
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False) and hasattr(model, "get_encoder"):
        return model.get_encoder()  # type: ignore[no-any-return, operator]
    base = getattr(model, "base_model", model)
    if base is model and getattr(model, "base_model_prefix", None) == "":
        base = getattr(model, "encoder", model)
    if not isinstance(base, torch.nn.Module):
        raise ArgumentError(f"{type(model).__name__} has no encoder to take hidden states from.")
    return base


def _hidden(outputs: Any) -> Tensor:
    hidden = getattr(outputs, "last_hidden_state", None)
    if hidden is None and isinstance(outputs, (tuple, list)):
        hidden = outputs[0]
    if not isinstance(hidden, Tensor) or hidden.dim() != 3:
        raise ArgumentError(f"the encoder gives no hidden states of each token, but {type(outputs).__name__}.")
    return hidden


def _pooled(hidden: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """float32 `(batch, hidden size)` of hidden states `(batch, tokens, hidden size)`."""
    states = hidden.float()
    real = torch.ones(states.shape[:2], device=states.device) if mask is None else mask.to(states.dtype)
    if pooling == "cls":
        return states[torch.arange(len(states), device=states.device), real.argmax(1)]
    kept = states.masked_fill(real.unsqueeze(-1) == 0, 0.0)  # a padded state may be anything, nan included
    if pooling == "position":
        real = real.cumsum(1) * real
        kept = kept * real.unsqueeze(-1)
    return kept.sum(1) / real.sum(1, keepdim=True).clamp_min(1)


def embeddings_of(inputs: ScoringInputs, **options: Any) -> Values:
    """One vector of length 1 per training row, float32 `(n, size)`, by the encoder; options of `embed`."""
    assert inputs.encoder is not None  # checked by check_needs
    rows = inputs.rows_for("encoder")
    alike = first_alike(inputs.texts, rows.features)
    return embed(inputs.encoder, rows.features, rows.collate, rows=alike, **inputs.pass_options, **options)


def of_embeddings(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """A score of the embeddings of all rows, which such scores share; by class where it is published so."""
    vectors = shared.once("embeddings", lambda: embeddings_of(inputs))
    method = find("score", name)
    groups = inputs.groups if method is not None and method.facts.get("by_class") else None
    values: Values = load("score", name)(vectors, groups, ids=inputs.ids, **inputs.options_of(name))
    return values


def like_queries(name: str, inputs: ScoringInputs, _shared: Shared) -> Values:
    """A score of how like the embeddings of the queries those of the rows are; later tokens weigh more."""
    assert inputs.encoder is not None  # checked by check_needs
    assert inputs.queries is not None
    vectors = embeddings_of(inputs, pooling="position")
    features, collate = inputs.queries.features_for("encoder"), inputs.rows_for("encoder").collate
    queries = embed(inputs.encoder, features, collate, pooling="position", **inputs.pass_options)
    values: Values = load("score", name)(vectors, queries=queries, groups=inputs.queries.groups, ids=inputs.ids)
    return values


def weights_digest(model: torch.nn.Module) -> str:
    """A digest of a model's weights, names and types: another model, or the same one trained on, has another."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def kept_embeddings(
    folder: Path,
    origin: Json,
    make: Callable[[], NDArray[np.float32]],
    *,
    dtype: str = "float16",
    ledger: Ledger | None = None,
) -> NDArray[np.float32]:
    """Embeddings from a cache folder, or computed and stored there; see `datadiet.store.cache.entry`.

    A folder that cannot be written to gives a warning.

    Args:
        folder: Keeps entries; each origin has its own.
        origin: All that decides the embeddings, as JSON: the data's fingerprint, split and rows, the model's
            `weights_digest`, the tokenizer, the maximal length and the pooling.
        make: Computes them, float32 `(n, d)`.
        dtype: Of the file: `float16`, half the size, each number exact to about 3 digits, or `float32`.
        ledger: Is charged the seconds that an earlier run has spent on reused embeddings.

    Returns:
        float32 `(n, d)`, the same whether computed or reused: both are rounded to `dtype`.

    Raises:
        ArgumentError: If the type is unknown.
        DataError: If the embeddings do not fit `float16`.
    """
    problems = Problems()
    problems.choice("dtype", dtype, PRECISIONS)
    problems.raise_any()

    def compute() -> dict[str, NDArray[Any]]:
        with np.errstate(over="ignore"):  # the overflow is refused below
            rounded = np.ascontiguousarray(make(), dtype)
        if np.isinf(rounded).any():
            raise DataError("the embeddings hold numbers above 65,504, which float16 cannot hold; use dtype='float32'.")
        return {"embeddings": rounded}

    stored = entry(
        folder, "embeddings", {**origin, "dtype": dtype}, compute, save=save_arrays, load=load_arrays, ledger=ledger
    )
    if stored.problem is not None:
        warnings.warn(f"embeddings could not be kept in {folder}: {stored.problem}.", stacklevel=2)
    return stored.value["embeddings"].astype(np.float32)
