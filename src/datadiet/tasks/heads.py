"""The last linear layer of each head: its inputs during a forward pass, and a weight per example in its backward pass.

An example's gradient at such a layer is its error times the layer's input, so the input gives the size of the gradient
without a backward pass. An example's loss depends on its own logits alone, so its gradient there times a weight is the
gradient of its weighted loss, wherever the loss was computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from datadiet.errors import ArgumentError
from datadiet.types import Head, HeadSignals, Signals

Layers = Mapping[str, nn.Module]

_JOINT = {"intent": "intent_head", "slots": "slot_head"}
_MASKED = frozenset(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values())
_ANSWERS = frozenset(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values())
_CAUSAL = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) - _MASKED - {"XLNetLMHeadModel"}  # which shifts nothing


def base_model(model: Any) -> Any:
    """A model without its adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_causal(model: Any) -> bool:
    """Whether a model is a causal language model, whose logits are about the next token; adapters may be in it."""
    base = base_model(model)
    if getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        return False
    return any(kind.__name__ in _CAUSAL or "ForCausalLM" in kind.__name__ for kind in type(base).__mro__)


def is_masked(model: Any) -> bool:
    """Whether a model fills in masked tokens, with logits that are about the label at their place; adapters may be in
    it."""
    base = base_model(model)
    if getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        return False
    return any(kind.__name__ in _MASKED or "ForMaskedLM" in kind.__name__ for kind in type(base).__mro__)


def is_tagger(model: Any) -> bool:
    """Whether a model gives each word a tag, as the classes for token classification do; adapters may be in it."""
    return any("ForTokenClassification" in kind.__name__ for kind in type(base_model(model)).__mro__)


def is_encoder_decoder(model: Any) -> bool:
    """Whether a model writes an answer to a text with a decoder of its own, whose logits are about the label at their
    place; adapters may be in it."""
    base = base_model(model)
    if not getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        return False
    return any(kind.__name__ in _ANSWERS or "ForConditionalGeneration" in kind.__name__ for kind in type(base).__mro__)


def head_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The last linear layer of each head by the name of the head in the signals.

    Of a joint model `intent` and `slots`; of a language model or an encoder-decoder its output layer; of any other
    the last linear layer with as many outputs as the config has labels, as `label` and `tokens`, whichever the task
    calls it.

    Args:
        model: Not wrapped for several processes; adapters may be in it.

    Returns:
        Empty where the model has no such layer, or no config.

    Examples:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
        >>> model = BertForSequenceClassification(BertConfig(**sizes, num_attention_heads=2, num_labels=3))
        >>> head_layers(model)["label"]
        Linear(in_features=8, out_features=3, bias=True)
    """
    # not by the number of outputs: an adapter of rank 2 has as many as the labels of a config by default
    if is_causal(model) or is_masked(model) or is_encoder_decoder(model):
        base = base_model(model)
        output = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
        return {"tokens": output} if isinstance(output, nn.Module) else {}
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    joint = {head: _last(linear, part) for head, part in _JOINT.items()}
    if all(joint.values()):
        return {head: layer for head, layer in joint.items() if layer is not None}
    outputs = getattr(getattr(model, "config", None), "num_labels", None)
    fitting = [layer for layer in linear.values() if layer.out_features == outputs]
    return {"label": fitting[-1], "tokens": fitting[-1]} if fitting else {}


def head_weights(model: nn.Module) -> dict[str, float]:
    """The share of each head in the loss of a joint model: `alpha` and its complement; empty for one head."""
    alpha = getattr(getattr(model, "config", None), "alpha", None)
    return {} if alpha is None else {"intent": float(alpha), "slots": 1 - float(alpha)}


def _last(linear: Mapping[str, nn.Linear], part: str) -> nn.Linear | None:
    """The last of the layers whose name has this part: of a head that an adapter copies, the copy that trains."""
    return next((layer for name, layer in reversed(list(linear.items())) if part in name.split(".")), None)


class Heads:
    """Records the inputs of a model's heads during a forward pass.

    Args:
        layers: Of `head_layers`.

    Attributes:
        inputs: The input of each head in the last forward pass, detached.
        outputs: Its output, with its gradient, where `recording` keeps it.

    Examples:
        >>> import torch
        >>> layer = nn.Linear(2, 3)
        >>> heads = Heads({"label": layer})
        >>> with heads.recording():
        ...     logits = layer(torch.ones(1, 2))
        >>> heads.inputs["label"].tolist()
        [[1.0, 1.0]]
    """

    def __init__(self, layers: Layers) -> None:
        self.layers = dict(layers)
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    @contextmanager
    def recording(self, weights: Tensor | None = None, *, asked: bool = True, outputs: bool = False) -> Iterator[None]:
        """Record the inputs of the forward passes inside, and weigh each example in their backward passes.

        Args:
            weights: float `(batch,)`: the gradient of example i through its logits is multiplied by the i-th. Or
                `(batch, positions)`, of each position.
            asked: Whether somebody asked for the weights; others have no effect where a model has no outputs of each
                example.
            outputs: Whether to keep the outputs of the heads.

        Raises:
            ArgumentError: If weights were asked for, and there is no layer that they could act on, or not one output a
                row.
        """
        if weights is not None and asked and not self.layers:
            raise ArgumentError(_NOWHERE)
        self.inputs, self.outputs = {}, {}
        heads_of: dict[nn.Module, list[str]] = {}  # a layer may be of several heads
        for head, layer in self.layers.items():
            heads_of.setdefault(layer, []).append(head)
        hook = functools.partial(self._hook, weights=weights, asked=asked, outputs=outputs)
        hooks = [layer.register_forward_hook(hook(heads)) for layer, heads in heads_of.items()]
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()

    def check_weights(self, rows: int) -> None:
        """Whether loss weights could act on the forward passes that were recorded last.

        Args:
            rows: Of the batch.

        Raises:
            ArgumentError: If there is no layer for them, or its outputs are not one a row.
        """
        if not self.layers:
            raise ArgumentError(_NOWHERE)
        for hidden in self.inputs.values():
            check_one_each(len(hidden), rows)

    def _hook(self, heads: Sequence[str], weights: Tensor | None, asked: bool, outputs: bool) -> Callable[..., None]:
        def record(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            for head in heads:
                self.inputs[head] = inputs[0].detach()
                if outputs:
                    self.outputs[head] = output
            if weights is not None and output.requires_grad and (asked or len(output) == len(weights)):
                check_one_each(len(output), len(weights))
                shape = (*weights.shape, *[1] * (output.dim() - weights.dim()))  # (batch, 1, ...), or of each position
                # read in the backward pass: what goes by the losses of this batch is known after its forward pass
                weigh = functools.partial(_weighed, weights=weights, shape=shape)
                output.register_hook(weigh)  # type: ignore[no-untyped-call]

        return record

    def signals(self, signals: Signals) -> Signals:
        """The signals with the inputs of their heads, where the shapes show that they belong together.

        Args:
            signals: Of the last forward pass.
        """
        heads: dict[str, Head] = {}
        for name, head in signals.heads.items():
            hidden = self.inputs.get(name)
            if isinstance(head, HeadSignals) and hidden is not None and hidden.shape[:-1] == head.logits.shape[:-1]:
                head = replace(head, hidden=hidden)
            heads[name] = head
        return Signals(heads)


_WITHOUT = "use a selector without weights, and neither row_weights nor dedupe_weights."
_NOWHERE = (
    "there are loss weights, of a selector or of the rows, and this model has no linear layer with as many outputs as "
    f"labels on which they could act; {_WITHOUT}"
)


def _weighed(gradient: Tensor, *, weights: Tensor, shape: Sequence[int]) -> Tensor:
    wide = weights.to(gradient)
    if wide.dim() == 2:  # the outputs may begin before the labels (virtual tokens), or after them (`logits_to_keep`)
        wide = nn.functional.pad(wide, (gradient.shape[1] - wide.shape[1], 0), value=1.0)
        shape = (*wide.shape, *shape[2:])
    return gradient * wide.reshape(*shape)


def check_one_each(outputs: int, rows: int) -> None:
    """Refuse loss weights where the model gives not one output a row.

    Raises:
        ArgumentError: With both numbers.
    """
    if outputs != rows:
        raise ArgumentError(
            f"loss weights need one output of the model per row: it gave {outputs} for {rows} rows, as where "
            f"compute_loss repeats the batch; {_WITHOUT}"
        )


@contextmanager
def captured_outputs(model: nn.Module) -> Iterator[list[Any]]:
    """The outputs of every forward pass that a module makes inside the block."""
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
