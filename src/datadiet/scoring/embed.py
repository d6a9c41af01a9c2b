"""Embeddings of examples by a model at hand, in one forward pass; and a folder that keeps them."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.errors import ArgumentError, DataError, Problems
from datadiet.files import read_json, write_atomically
from datadiet.ledger import Ledger
from datadiet.scoring.forward import Batch, Collate, forward_pass
from datadiet.types import Json

POOLINGS = ("mean", "cls")
PRECISIONS = ("float16", "float32")
SCHEMA = 1


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

    `mean`: `sum_t a_t h_t / sum_t a_t` with the attention mask `a`; `cls`: `h_t` of the first real token

    Heads are not run. Padding has no say, on whichever side it stands; pooling is done in float32.

    Args:
        model: A transformers model with or without heads, an encoder-decoder (of which the encoder is taken), or the
            joint intent and slot model; on the device where the pass is to run.
        dataset, collate: As for `datadiet.scoring.forward.forward_pass`; columns that the encoder does not take are
            left out.
        rows: int64 `(n,)`, which rows, in this order; all by default.
        pooling: `mean` or `cls`.
        normalize: Scale each vector to length 1.
        precision: Of the autocast: `fp32`, `bf16` or `fp16`.
        batch_tokens: Padded tokens of a batch, at most.
        ledger: Counts the pass as scoring, its time too.

    Returns:
        float32 `(n, hidden size)`, in the order of the rows.

    Raises:
        ArgumentError: If the pooling is unknown or the model has no hidden states.
        DataError: If a vector is not finite; the row is named.

    Source: masked mean pooling as in Sentence-BERT (Reimers and Gurevych 2019, arXiv 1908.10084), section 3.
    """
    problems = Problems()
    problems.choice("pooling", pooling, POOLINGS)
    problems.raise_any()
    wanted = np.arange(len(dataset), dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    if not wanted.size:
        raise ArgumentError("there is no example to embed.")
    encoder = encoder_of(model)
    taken = _inputs_of(encoder)
    each, places = np.unique(wanted, return_inverse=True)
    found: NDArray[np.float32] | None = None

    def call(batch: Batch) -> Any:
        return encoder(**{name: value for name, value in batch.items() if name in taken})

    clock = ledger or Ledger()
    with clock.charge("score"):
        options: dict[str, Any] = {"precision": precision, "batch_tokens": batch_tokens, "ledger": ledger}
        for part, outputs, batch in forward_pass(encoder, dataset, collate, rows=each, call=call, **options):
            pooled = _pooled(_hidden(outputs), batch.get("attention_mask"), pooling)
            vectors = (torch.nn.functional.normalize(pooled, dim=-1) if normalize else pooled).cpu().numpy()
            found = np.empty((each.size, vectors.shape[1]), np.float32) if found is None else found
            found[np.searchsorted(each, part)] = vectors
    assert found is not None  # there is at least one row
    bad = each[~np.isfinite(found).all(1)]
    if bad.size:
        raise DataError(f"the model gives vectors that are not finite for {bad.size} rows, the first is {bad[0]}.")
    return found[places]


def encoder_of(model: torch.nn.Module) -> torch.nn.Module:
    """The part of a model that turns tokens into hidden states: what its heads stand on.

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


def _inputs_of(encoder: torch.nn.Module) -> frozenset[str]:
    """The names of what its forward takes; labels are never among them."""
    named = inspect.signature(encoder.forward).parameters
    return frozenset(name for name in named if not name.endswith(("labels", "label")))


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
    return kept.sum(1) / real.sum(1, keepdim=True).clamp_min(1)


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
    name: str = "embeddings",
    ledger: Ledger | None = None,
) -> NDArray[np.float32]:
    """Embeddings, or other arrays that took a model to compute, from a folder, or made and kept there.

    An entry is a `.npy` file and a `.json` file beside it, written last, which says what the embeddings were made from,
    the file's digest and the seconds that they took. A broken or foreign entry is made anew.

    Args:
        folder: Keeps entries; each origin has its own.
        origin: All that decides the embeddings, as JSON: the data's fingerprint, split and rows, the model's
            `weights_digest`, the tokenizer, the maximal length and the pooling.
        make: Computes them, float32 `(n, d)`.
        dtype: Of the file: `float16`, half the size, each number exact to about 3 digits, or `float32`.
        name: What the file's name begins with.
        ledger: Is charged for the seconds that an earlier run has spent on what is taken from the folder.

    Returns:
        float32 `(n, d)`, the same whether made or taken: both are rounded to `dtype`.

    Raises:
        ArgumentError: If the type is unknown.
        DataError: If the embeddings do not fit `float16`.
        OSError: If the folder cannot be written to.
    """
    problems = Problems()
    problems.choice("dtype", dtype, PRECISIONS)
    problems.raise_any()
    named = {"origin": dict(origin), "dtype": dtype}
    place = folder / f"{name}-{_digest(json.dumps(named, sort_keys=True).encode())[:32]}.npy"
    if (found := _read(place, named)) is not None:
        if ledger is not None:
            ledger.charge_shared(found[1])
        return found[0].astype(np.float32)
    began = time.perf_counter()
    made = make()
    seconds = time.perf_counter() - began
    with np.errstate(over="ignore"):  # it is refused below
        rounded = np.ascontiguousarray(made, dtype)
    if np.isinf(rounded).any():
        raise DataError("the embeddings hold numbers above 65,504, which float16 cannot hold; use dtype='float32'.")
    _write(place, rounded, named, seconds)
    return rounded.astype(np.float32)


def _read(place: Path, named: Mapping[str, Any]) -> tuple[NDArray[Any], float] | None:
    """The array of an entry and its seconds; None where there is none, or one that is broken or of something else."""
    try:
        entry = read_json(place.with_suffix(".json"), SCHEMA, "embeddings")
        seconds = float(entry["seconds"])
        if {name: entry[name] for name in named} != named or not 0 <= seconds < float("inf"):
            return None
        if entry["sha256"] != _digest(place.read_bytes()):
            return None
        return np.load(place, allow_pickle=False), seconds
    except (DataError, OSError, ValueError, KeyError, TypeError):
        return None


def _write(place: Path, array: NDArray[Any], named: Mapping[str, Any], seconds: float) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".part-{os.getpid()}-{uuid4().hex}")
    try:
        with part.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
        digest = _digest(part.read_bytes())
        part.replace(place)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    entry = {"schema": SCHEMA, **named, "sha256": digest, "seconds": seconds}
    write_atomically(place.with_suffix(".json"), json.dumps(entry))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
