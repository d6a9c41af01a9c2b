"""One encoder, two heads: the intent of a request from its first token, a slot for every word.

`loss = alpha * CE_intent + (1 - alpha) * CE_slots`, where CE_intent is the mean over the examples and CE_slots the sum
over the first sub-tokens divided by the number of examples.

Source: Chen, Zhuo and Wang 2019 (JointBERT, arXiv 1902.10909) for the heads; Attendu and Corbeil 2023 (arXiv
2306.03208) for the weighted loss, which they sum over the batch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from datadiet.errors import Problems
from datadiet.types import IGNORED


class IntentSlotConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """The parts and options of an `IntentSlotModel`; saved as `config.json`.

    Args:
        encoder: The config of any encoder, or its settings with `model_type`.
        intent_names, slot_names: Names by class number, in the order of the heads' rows.
        alpha: Share of the intent loss, in [0, 1].
        label_smoothing: Of both cross-entropies, in [0, 1).
        dropout: Before both heads, in [0, 1); None takes the encoder's own.
        class_weights: One weight per intent, for the intent loss; None weighs all the same.

    Raises:
        ArgumentError: If a share is out of range, or the weights do not match the intents.

    Examples:
        >>> config = IntentSlotConfig(encoder={"model_type": "bert", "hidden_size": 32}, intent_names=["book", "play"])
        >>> config.encoder.hidden_size, config.num_labels, config.dropout
        (32, 2, 0.1)
    """

    model_type = "datadiet_intent_slot"
    sub_configs: ClassVar[dict[str, Any]] = {"encoder": AutoConfig}

    def __init__(
        self,
        encoder: PreTrainedConfig | dict[str, Any] | None = None,
        intent_names: Sequence[str] = ("intent",),
        slot_names: Sequence[str] = ("O",),
        alpha: float = 0.5,
        label_smoothing: float = 0.0,
        dropout: float | None = None,
        class_weights: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(encoder, PreTrainedConfig):
            settings = dict(encoder or {})
            # BERT's where transformers asks for defaults
            encoder = AutoConfig.for_model(settings.pop("model_type", "bert"), **settings)
        self.encoder = encoder
        self.intent_names = list(intent_names)
        self.slot_names = list(slot_names)
        self.alpha = alpha
        self.label_smoothing = label_smoothing
        self.dropout = _own_dropout(self.encoder) if dropout is None else dropout
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        _check(self)
        # the intents are what HF tools call the labels of a model
        kwargs["id2label"] = dict(enumerate(self.intent_names))
        kwargs["label2id"] = {name: number for number, name in enumerate(self.intent_names)}
        # transformers hands its own choice down to the encoder's config, which may be that of a loaded encoder
        kwargs.setdefault("attn_implementation", getattr(self.encoder, "_attn_implementation", None))
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's states."""
        return int(self.encoder.hidden_size)

    @property
    def initializer_range(self) -> float:
        """Standard deviation of the heads' new weights, `2 / sqrt(hidden_size)`.

        The states of an encoder have a root mean square near one half, so the first logits have a variance near 1. With
        the encoder's own 0.02 the heads need several epochs for that (LOG.md).
        """
        return 2 / math.sqrt(self.hidden_size)


def _own_dropout(encoder: PreTrainedConfig) -> float:
    """The dropout that the encoder itself would use before a classification head."""
    for name in ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "dropout"):
        if isinstance(value := getattr(encoder, name, None), (int, float)):
            return float(value)
    return 0.1


def _check(config: IntentSlotConfig) -> None:
    problems = Problems()
    problems.check(0 <= config.alpha <= 1, f"alpha must be in [0, 1], got {config.alpha}.")
    for name in ("label_smoothing", "dropout"):
        value = getattr(config, name)
        problems.check(0 <= value < 1, f"{name} must be in [0, 1), got {value}.")
    weights = config.class_weights
    problems.check(
        weights is None or len(weights) == len(config.intent_names),
        f"class_weights must hold one number per intent ({len(config.intent_names)}), got {len(weights or ())}.",
    )
    problems.raise_any()


@dataclass
class IntentSlotOutput(ModelOutput):
    """The output of a forward pass.

    Attributes:
        loss: Scalar, where both kinds of labels were given.
        intent_logits: `(batch, intents)`.
        slot_logits: `(batch, positions, slots)`.
    """

    loss: Tensor | None = None
    intent_logits: Tensor | None = None
    slot_logits: Tensor | None = None


class IntentSlotModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Any encoder with an intent head and a slot head.

    The intent is read from the first position's last state, without the pooler that some encoders have: it comes from
    another task, or random, and learns the intents more slowly (LOG.md). Saves and loads like every transformers
    model, also through `AutoModel.from_pretrained`.

    Args:
        config: The heads and the encoder.
        encoder: An encoder that has its weights already; None makes a random one.

    Examples:
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        >>> encoder = {"model_type": "bert", "vocab_size": 20, **sizes}
        >>> names = {"intent_names": ["book", "play"], "slot_names": ["B-city", "I-city", "O"]}
        >>> model = IntentSlotModel(IntentSlotConfig(encoder, **names))
        >>> output = model(torch.tensor([[2, 7, 8, 3]]))
        >>> output.intent_logits.shape, output.slot_logits.shape
        (torch.Size([1, 2]), torch.Size([1, 4, 3]))
    """

    config_class = IntentSlotConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: IntentSlotConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if getattr(config.encoder, "use_cache", False):
            config.encoder.use_cache = False  # there is none in an encoder, but gradient checkpointing would warn of it
        auto: Any = AutoModel
        self.encoder = auto.from_config(config.encoder) if encoder is None else encoder
        if "add_pooling_layer" in inspect.signature(type(self.encoder).__init__).parameters:
            self.encoder.pooler = None  # parameters that no loss reaches would stop distributed training
        self.dropout = nn.Dropout(config.dropout)
        self.intent_head = nn.Linear(config.hidden_size, len(config.intent_names))
        self.slot_head = nn.Linear(config.hidden_size, len(config.slot_names))
        # DistilBERT, ModernBERT and others have no token types whatever the tokenizer makes
        self._takes_token_types = "token_type_ids" in inspect.signature(self.encoder.forward).parameters
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's own: gradient checkpointing and PEFT ask for them."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Give the encoder other embeddings."""
        self.encoder.set_input_embeddings(value)

    # no **kwargs: the Trainer would take it for a model that divides its loss by `num_items_in_batch` itself
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        intent_labels: Tensor | None = None,
        slot_labels: Tensor | None = None,
        word_positions: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> IntentSlotOutput | tuple[Tensor, ...]:
        """Logits of both heads, and the loss where both kinds of labels are given.

        Args:
            input_ids, attention_mask, token_type_ids: int64 `(batch, positions)`.
            inputs_embeds: `(batch, positions, hidden)` in place of `input_ids`.
            intent_labels: int64 `(batch,)`; -100 leaves an example out of the intent loss.
            slot_labels: int64 `(batch, positions)`; -100 everywhere but on the first sub-token of a word.
            word_positions: Not used here: it travels with the batch, so that slots can be laid on words afterwards.
            return_dict: False gives a plain tuple of the outputs that are not None.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        if self._takes_token_types and token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        encoded = self.encoder(**{name: value for name, value in inputs.items() if value is not None})
        states = encoded.last_hidden_state
        intent_logits = self.intent_head(self.dropout(states[:, 0]))
        slot_logits = self.slot_head(self.dropout(states))
        loss = None
        if intent_labels is not None and slot_labels is not None:
            loss = self._loss(intent_logits, slot_logits, intent_labels, slot_labels)
        output = IntentSlotOutput(loss=loss, intent_logits=intent_logits, slot_logits=slot_logits)
        return output.to_tuple() if return_dict is False else output

    def _loss(self, intents: Tensor, slots: Tensor, intent_labels: Tensor, slot_labels: Tensor) -> Tensor:
        weights = self.config.class_weights
        intent_loss = mean_cross_entropy(
            intents,
            intent_labels,
            weight=None if weights is None else torch.tensor(weights, device=intents.device),
            label_smoothing=self.config.label_smoothing,
        )
        slot_sum = functional.cross_entropy(
            slots.float().flatten(0, 1),  # (batch * positions, slots)
            slot_labels.flatten(),  # (batch * positions,)
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.config.label_smoothing,
        )
        alpha = float(self.config.alpha)
        return alpha * intent_loss + (1 - alpha) * slot_sum / len(slot_labels)


def mean_cross_entropy(
    logits: Tensor, labels: Tensor, *, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy of the labelled examples, in float32; 0 where none is labelled (torch gives NaN).

    Args:
        logits: `(batch, classes)`.
        labels: int64 `(batch,)`, -100 where there is none.
        weight: `(classes,)`; the mean is then the weighted one, as in torch.
        label_smoothing: In [0, 1).

    Examples:
        >>> mean_cross_entropy(torch.tensor([[0.0, 0.0], [0.0, 9.0]]), torch.tensor([0, -100]))
        tensor(0.6931)
    """
    total = functional.cross_entropy(
        logits.float(), labels, weight, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
    )
    labelled = labels != IGNORED
    per_example = labelled.float() if weight is None else weight[labels.clamp(min=0)] * labelled
    return total / per_example.sum().clamp(min=torch.finfo(torch.float32).tiny)


AutoConfig.register(IntentSlotConfig.model_type, IntentSlotConfig, exist_ok=True)
AutoModel.register(IntentSlotConfig, IntentSlotModel, exist_ok=True)
AutoModelForSequenceClassification.register(IntentSlotConfig, IntentSlotModel, exist_ok=True)
