"""Models by name, with the head of their task: classifiers, taggers, the joint model; saved ones, and encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from datadiet.checks import ArgumentError
from datadiet.models.intent_slot import IntentSlotConfig, IntentSlotModel
from datadiet.models.pretrained import load_config, pretrained


def load_classifier(
    name: str,
    label_names: Sequence[str],
    *,
    problem: Literal["classification", "multi-label", "regression"] = "classification",
) -> PreTrainedModel:
    """A pretrained encoder with a sequence classification head, float32, in eval mode.

    The head is new unless the source has one for as many labels. New weights are drawn from torch's global generator:
    seed it before.

    Args:
        name: As for `resolve_model`.
        label_names: Names by class number, kept in the config; not used by regression, which has one output and is
            trained with the mean squared error.
        problem: `classification`, `multi-label` (binary cross-entropy, a sigmoid for each label) or `regression`.

    Raises:
        DataError: If there is no such model, or its weights do not fit.
        ArgumentError: If the model is a joint one.
    """
    config = _stock_config(name)
    if problem == "regression":
        config.num_labels, config.problem_type = 1, "regression"
    else:
        _name_labels(config, label_names)
        several = problem == "multi-label"
        config.problem_type = "multi_label_classification" if several else "single_label_classification"
    return pretrained(AutoModelForSequenceClassification, name, config=config, ignore_mismatched_sizes=True)


def _stock_config(name: str) -> PreTrainedConfig:
    config = load_config(name)
    if isinstance(config, IntentSlotConfig):
        raise ArgumentError(f"{name} is a joint intent and slot model: use it with --task intent-slot.")
    return config


def _name_labels(config: PreTrainedConfig, names: Sequence[str]) -> None:
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}


def load_tagger(name: str, tag_names: Sequence[str]) -> PreTrainedModel:
    """A pretrained encoder with a token classification head, float32, in eval mode.

    The head is new unless the source has one for as many tags; see `load_classifier`. The model takes `word_positions`
    among its inputs and does not look at them: they travel with the batch, so that tags can be laid on words
    afterwards.

    Args:
        name: As for `resolve_model`.
        tag_names: Names by class number, kept in the config.

    Raises:
        DataError: If there is no such model, or its weights do not fit.
        ArgumentError: If the model is a joint one.
    """
    config = _stock_config(name)
    _name_labels(config, tag_names)
    config.problem_type = None
    return _without_word_positions(
        pretrained(AutoModelForTokenClassification, name, config=config, ignore_mismatched_sizes=True)
    )


def _without_word_positions(model: PreTrainedModel) -> PreTrainedModel:
    model.register_forward_pre_hook(_drop_word_positions, with_kwargs=True)
    return model


def _drop_word_positions(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {name: value for name, value in kwargs.items() if name != "word_positions"}


def is_tagger(config: PreTrainedConfig) -> bool:
    """Whether a saved model has a token classification head.

    Example:
        >>> from transformers import BertConfig
        >>> is_tagger(BertConfig(architectures=["BertForTokenClassification"])), is_tagger(BertConfig())
        (True, False)
    """
    return any(str(name).endswith("ForTokenClassification") for name in config.architectures or ())


def load_intent_slot(
    name: str,
    label_names: Sequence[str],
    slot_names: Sequence[str],
    *,
    alpha: float = 0.5,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> IntentSlotModel:
    """A pretrained encoder with an intent and a slot head, float32, in eval mode.

    The heads are new, unless the source is a saved joint model with the same names; of one with other names the
    encoder is taken. New weights are drawn from torch's global generator: seed it before.

    Args:
        name: As for `resolve_model`.
        label_names, slot_names: Names by class number of the two heads.
        alpha, label_smoothing, class_weights: Of the loss, see `IntentSlotConfig`.

    Raises:
        DataError: If there is no such model, or its weights do not fit.
        ArgumentError: If the model is no encoder, or an option is out of range.
    """
    source = load_config(name)
    if getattr(source, "is_encoder_decoder", False):
        raise ArgumentError(f"{name} is an encoder-decoder; intent-slot needs an encoder, such as roberta-base.")
    loaded = pretrained(AutoModel, name)
    encoder = loaded.encoder if isinstance(loaded, IntentSlotModel) else loaded
    config = IntentSlotConfig(
        encoder=encoder.config,
        intent_names=label_names,
        slot_names=slot_names,
        alpha=alpha,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
    )
    model = IntentSlotModel(config, encoder)
    model.train(False)
    if isinstance(loaded, IntentSlotModel) and _names(loaded) == _names(model):
        model.intent_head.load_state_dict(loaded.intent_head.state_dict())
        model.slot_head.load_state_dict(loaded.slot_head.state_dict())
    return model


def _names(model: IntentSlotModel) -> tuple[list[str], list[str]]:
    return model.config.intent_names, model.config.slot_names


def load_saved(folder: str | Path) -> PreTrainedModel:
    """A fine-tuned model as it was saved, float32, in eval mode.

    Raises:
        DataError: If the folder holds no fine-tuned model: no config, no weights, or an encoder without its head.
    """
    config = load_config(str(folder))
    if isinstance(config, IntentSlotConfig):
        return pretrained(IntentSlotModel, str(folder), complete=True)
    if is_tagger(config):
        return _without_word_positions(pretrained(AutoModelForTokenClassification, str(folder), complete=True))
    return pretrained(AutoModelForSequenceClassification, str(folder), complete=True)


def load_encoder(name: str) -> PreTrainedModel:
    """A model without its heads, float32, in eval mode: to embed texts with.

    Args:
        name: As for `resolve_model`.

    Raises:
        DataError: If there is no such model, or its weights do not fit.
    """
    return pretrained(AutoModel, name)
