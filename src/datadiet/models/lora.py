"""LoRA adapters on pretrained models."""

from __future__ import annotations

import warnings
from typing import Any

from datadiet.checks import MissingExtraError


def with_lora(model: Any, rank: int) -> Any:
    """The model with an adapter in every linear layer of its encoder; its heads are new and train in full.

    Args:
        model: With its heads.
        rank: Of the adapter, from 1.

    Raises:
        MissingExtraError: If PEFT is not installed.

    Source: Hu et al. 2021 (arXiv 2106.09685).
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError("lora needs peft: pip install 'datadiet[peft]'") from error
    base = model.base_model_prefix or "encoder"  # a joint model has no base in transformers' sense
    heads = [name for name, part in model.named_children() if name != base and any(True for _ in part.parameters())]
    adapter = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear",
        exclude_modules=rf"({'|'.join(heads)})(\..*)?", modules_to_save=heads,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # which PEFT reads
        return get_peft_model(model, adapter)
