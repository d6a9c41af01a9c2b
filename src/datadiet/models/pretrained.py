"""Reading what is saved of a model: its tokenizer, config and weights, with errors that say what to do."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from datadiet.checks import ArgumentError, DataError
from datadiet.models.sources import PACKAGED, resolve_model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Args:
        name: As for `resolve_model`.

    Raises:
        DataError: If there is none there, or the hub cannot be reached.
        ArgumentError: If it has no padding token.
    """
    source = resolve_model(name)
    with _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token_id is None:
        raise ArgumentError(f"the tokenizer of {name} has no padding token, so its texts cannot be batched.")
    return tokenizer


def load_config(name: str) -> PreTrainedConfig:
    """The config of a model, without its weights.

    Args:
        name: As for `resolve_model`.

    Raises:
        DataError: If there is none there, it is damaged, or the hub cannot be reached.
    """
    source = resolve_model(name)
    with _explained(name):
        config: PreTrainedConfig = AutoConfig.from_pretrained(source)
    return config


def pretrained(auto: Any, name: str, *, complete: bool = False, **options: Any) -> PreTrainedModel:
    """A model's weights as float32, in eval mode; one error or warning says what transformers tells in a table.

    Args:
        auto: The class that reads them.
        name: As for `resolve_model`.
        complete: Whether no weight may be missing, as of a fine-tuned model.
        **options: Of `from_pretrained`.

    Raises:
        DataError: If there is no such model, its weights do not fit, or one is missing that may not be.
    """
    source = resolve_model(name)
    with _explained(name), _quiet_loading():
        # float32 whatever the file holds: training keeps its weights in full precision, autocast does the rest
        model, info = auto.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **options)
    missing = set(info["missing_keys"])
    if complete and missing:
        raise DataError(f"{name} is not a fine-tuned model: it has no weights for {_few(missing)}.")
    _check_encoder(name, model, missing)
    # the Trainer takes **kwargs in forward for "divides its loss by num_items_in_batch itself", which stock classifiers
    # do not: under gradient accumulation gradients would be as many times too large as there are batches in a step
    model.accepts_loss_kwargs = False
    loaded: PreTrainedModel = model.train(False)
    return loaded


def _check_encoder(name: str, model: PreTrainedModel, missing: set[str]) -> None:
    """A new head is expected, a new pooler common; a new encoder means that the file belongs to another model."""
    prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
    encoder = {key for key in model.state_dict() if key.startswith(prefix) and "pooler" not in key}
    new = missing & encoder
    if 2 * len(new) > len(encoder):
        raise DataError(
            f"the weights of {name} do not fit its config.json: nothing for {len(new)} of {len(encoder)} tensors."
        )
    if new:
        warnings.warn(f"{name} has no weights for {_few(new)}: they start at random.", UserWarning, stacklevel=4)


def _few(keys: set[str]) -> str:
    shown = sorted(keys)[:3]
    return ", ".join(shown) + (f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else "")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn the errors of a download or a damaged file into one that says what to do."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise DataError(f"a file of the model {name} is not valid JSON: {error}.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, (ArgumentError, DataError)):
            raise
        reason = " ".join(str(error).split())[:300]
        if Path(name).expanduser().is_dir() or name == PACKAGED:
            raise DataError(f"cannot load the model in {name}: {reason}") from error
        raise DataError(
            f"cannot get the model {name!r} from the Hugging Face hub: {reason} Check the name and network; without "
            "a network, save the model on a machine that has one (`hf download NAME --local-dir FOLDER`) and give that "
            f"folder, or use {PACKAGED!r}, which is packaged."
        ) from error


class _NoLoadReport(logging.Filter):
    """Drops the table of new weights: a new head is what fine-tuning asks for, the rest is checked here."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No table, no bar while weights are read; download bars stay. Everything is put back afterwards."""
    logger, report = logging.getLogger("transformers.modeling_utils"), _NoLoadReport()
    untyped: Any = hf_logging
    bars, hub_bars = hf_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logger.addFilter(report)
    untyped.disable_progress_bar()
    if hub_bars:
        enable_progress_bars()
    try:
        yield
    finally:
        logger.removeFilter(report)
        if bars:
            untyped.enable_progress_bar()
        if not hub_bars:
            disable_progress_bars()
