"""The signals of a model without a task, found from names, shapes and the loss that trains it: for scripts.

Shapes do not tell everything. One logit per row is a number or the log odds of a class, and labels of 0 and 1 in the
logits' shape are several labels or one label written one-hot. The loss tells them apart, by its graph
(`datadiet.tasks.losses.trace`). Without a loss the model's config decides, and what is still open is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from datadiet.errors import ArgumentError
from datadiet.scores.tokens import token_signals
from datadiet.tasks.base import (
    binary_signals,
    class_signals,
    joint_signals,
    multi_label_signals,
    named,
    regression_signals,
    token_head,
    two_classes,
)
from datadiet.tasks.heads import base_model, is_causal, is_encoder_decoder, is_masked
from datadiet.tasks.losses import Link, Trace, trace
from datadiet.types import IGNORED, HeadSignals, Json, Signals, TokenSignals

ADVICE = "Pass signals=, a function of (outputs, batch) that gives datadiet.types.Signals, to the trainer or the diet."
_PROBLEMS: Mapping[str, Link] = {
    "regression": "identity",
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
}
_SETTLE = "Set model.config.problem_type: 'regression', 'single_label_classification' or, for binary cross-entropy, "
_SETTLE += "'multi_label_classification'; or pass signals=, a function of (outputs, batch)."

# ---- the forms of logits and labels


def read(
    logits: Tensor,
    labels: Tensor,
    link: Link | None = None,
    *,
    settle: str = _SETTLE,
    advice: str = ADVICE,
    traced: bool = False,
) -> tuple[Signals, Link]:
    """Signals of logits and labels by their shapes and the link of the loss, and the link that they were read by.

    Args:
        logits, labels: See `signals_of`.
        link: None where it is not known.
        settle: The sentence that says which argument settles what cannot be told apart.
        advice: The sentence for what cannot be read at all.
        traced: Whether a loss was seen that fits no link.

    Raises:
        ArgumentError: Where the shapes fit no form, or several and nothing tells them apart.
    """
    shapes = f"logits {tuple(logits.shape)} and {labels.dtype} labels {tuple(labels.shape)}"
    whole = not labels.is_floating_point()
    if logits.ndim == 3 and labels.ndim == 2 and logits.shape[:2] == labels.shape and whole:
        if logits.shape[2] == 1:
            if link != "sigmoid":
                raise ArgumentError(f"{shapes}: one logit per position is read where a sigmoid trains it. {advice}")
            return Signals({"tokens": token_head(two_classes(logits), labels)}), link
        return Signals({"tokens": token_head(logits, labels)}), "softmax"
    if logits.shape == labels.shape and logits.ndim == 2 and logits.shape[1] > 1:
        return _sets(logits, labels, link, shapes, settle, advice)
    if (len(logits) == len(labels) and labels.ndim == 1) or labels.shape == (len(logits), 1):
        if logits.ndim == 1 or logits.shape[1:] == (1,):
            return _one_logit(logits, labels, link, shapes, settle, advice, traced)
        if logits.ndim == 2 and whole:
            return _classes(logits, labels.flatten(), link, advice)
    raise ArgumentError(
        f"{shapes} fit no known task: expected (batch, classes) with whole (batch,) or float (batch, classes), "
        f"(batch, 1) with (batch,), or (batch, positions, classes) with whole (batch, positions). {advice}"
    )


def _classes(logits: Tensor, labels: Tensor, link: Link | None, advice: str) -> tuple[Signals, Link]:
    if link == "sigmoid":  # binary cross-entropy against the class written one-hot
        if _shown(labels) and not bool(((labels >= 0) & (labels < logits.shape[1])).all()):
            raise ArgumentError(f"labels must be classes in [0, {logits.shape[1]}) beside sigmoids. {advice}")
        return multi_label_signals(logits, one_hot(labels.long(), logits.shape[1])), link
    return Signals({"label": _counted(HeadSignals(logits.detach(), labels.detach().long()))}), "softmax"


def _counted(head: HeadSignals) -> HeadSignals:
    """The head of one class per row with a mask of the rows that have one."""
    counts = head.labels != IGNORED
    return head if _shown(counts) and bool(counts.all()) else replace(head, mask=counts)


def _sets(
    logits: Tensor, labels: Tensor, link: Link | None, shapes: str, settle: str, advice: str
) -> tuple[Signals, Link]:
    """Labels of the logits' shape: several of a row, or its one label written one-hot."""
    if link is None or _shown(labels):
        if bool(((labels != 0) & (labels != 1)).any()):
            kind = "float labels" if labels.is_floating_point() else "labels"
            raise ArgumentError(f"{kind} {tuple(labels.shape)} other than 0 and 1 fit no known task. {advice}")
        one_each = bool((labels.sum(1) == 1).all())
        if link == "softmax" and not one_each:
            raise ArgumentError(f"{shapes}: softmax cross-entropy is read for one label a row only. {advice}")
        if link is None and one_each:
            raise ArgumentError(
                f"{shapes}: every row has one label, so that they are one-hot classes (softmax) or sets of labels "
                f"(sigmoids), and nothing shows which. {settle}"
            )
    if link == "identity":
        raise ArgumentError(f"{shapes}: several numbers to predict fit no known task. {advice}")
    if link == "softmax":
        return class_signals(logits, labels.argmax(1)), link
    return multi_label_signals(logits, labels), "sigmoid"


def _one_logit(
    logits: Tensor, labels: Tensor, link: Link | None, shapes: str, settle: str, advice: str, traced: bool
) -> tuple[Signals, Link]:
    if link == "softmax":
        raise ArgumentError(f"{shapes}: a softmax over one logit says nothing. {advice}")
    if link is None:
        if traced or bool((labels.abs() <= 1).all()):
            raise ArgumentError(
                f"{shapes}: one logit is a number (regression) or the log odds of a class (binary "
                f"cross-entropy), and nothing shows which. {settle}"
            )
        link = "identity"
    if link == "identity":
        return regression_signals(logits, labels), link
    if _shown(labels) and bool(((labels != 0) & (labels != 1)).any()):
        raise ArgumentError(f"{shapes}: labels of one logit under a sigmoid must be 0 or 1. {advice}")
    return binary_signals(logits, labels), link


def _shown(tensor: Tensor) -> bool:
    """Whether values can be looked at without waiting for an accelerator."""
    return tensor.device.type == "cpu"


# ---- outputs and batches


def signals_of(outputs: Any, batch: Mapping[str, Any], *, link: Link | None = None) -> Signals:
    """The signals of a stock model, recognised by names and shapes: for scripts without a task (`Task.signals`).

    * `intent_logits` and `slot_logits` with `intent_labels` and `slot_labels`: heads `intent` and `slots`;
    * `start_logits` and `end_logits` with `start_positions` and `end_positions`: heads `start` and `end`;
    * logits `(batch, classes)` with class numbers `(batch,)`: head `label`, masked where the label is -100;
    * logits `(batch, classes)` with 0 or 1 `(batch, classes)`: a multi-hot head `label`, or classes written one-hot;
    * logits `(batch, 1)` or `(batch,)` with numbers `(batch,)` or `(batch, 1)`: a regression head `label`, or two
      classes by their log odds;
    * logits `(batch, positions, classes)` with `(batch, positions)`: head `tokens`, masked where the label is -100;
    * of a causal language model, logits or the numbers of each next token: `TokenSignals`, shifted, as `tokens`;
    * of an encoder-decoder, logits of each token of its answer: `TokenSignals`, not shifted, as `tokens`.

    Args:
        outputs: A `ModelOutput`, a dict with `logits`, or a tuple that holds the logits.
        batch: Has the labels under `labels` or `label`.
        link: `softmax`, `sigmoid` or `identity`: what the loss does to the logits, where the forms above are two.

    Returns:
        Detached signals; logits keep their dtype.

    Raises:
        ArgumentError: Where names or shapes fit none of these, or two and no link is given; where there are no labels,
            or where the outputs have two heads of the same shape.

    Examples:
        >>> signals = signals_of({"logits": torch.zeros(2, 3)}, {"labels": torch.tensor([0, 2])})
        >>> {name: head.logits.shape for name, head in signals.heads.items()}
        {'label': torch.Size([2, 3])}
    """
    return Reader(link=link)(outputs, batch)


@dataclass(frozen=True)
class _Learnt:
    """What a first training loss has shown: the link, where the logits are among the outputs, whether it was seen, and
    whether it compares each position with the label of the next one."""

    link: Link | None = None
    probabilities: bool = False
    place: str | int | None = None
    traced: bool = False
    shifted: bool = False


class Reader:
    """Reads the signals of one model, as `signals_of` does, by all that is known of the model.

    Args:
        model: With a config or without; adapters may be in it.
        label_names: Of the labels in the batch, beside `labels` and `label`.
        own_loss: Whether the model's own loss trains it.
        link: Where it is known.

    Attributes:
        named: Whether the class of the model says that it is a causal language model.
        answers: Whether this is an encoder-decoder that writes an answer.
        masked: Whether this is a masked language model.
        stock: Whether the model is one of transformers.
    """

    def __init__(
        self, model: Any = None, *, label_names: Sequence[str] = (), own_loss: bool = True, link: Link | None = None
    ) -> None:
        base = base_model(model)
        self._config, self._label_names = getattr(base, "config", None), tuple(label_names)
        # a stock model sets the problem type itself, for its own loss: that of the user is what stands there before
        self._given = getattr(self._config, "problem_type", None)
        self._own_loss, self.stock = own_loss, type(base).__module__.startswith("transformers.")
        self._learnt = _Learnt(link)
        self.named, self.answers, self.masked = is_causal(base), is_encoder_decoder(base), is_masked(base)
        self._has_read = False  # positions, before a loss was seen

    @property
    def causal(self) -> bool:
        """Whether this is a causal language model, by its class, or by the loss: one inside another module, say."""
        return self.named or self._learnt.shifted

    def learn(self, loss: Tensor, outputs: Any, batch: Mapping[str, Any], *, forward: Any = None) -> None:
        """Find out from a training loss, before its backward pass, how the outputs are to be read from now on.

        Args:
            loss: With its graph.
            outputs, batch: See `signals_of`.
            forward: What the model itself gave, where the outputs may be detached copies of it.

        Raises:
            ArgumentError: If the loss shows that the labels of the batch are not what it compares.
        """
        if self._is_causal(outputs):
            self._check_shift(loss, outputs, batch)
            return
        if _is_joint(outputs) or _spans(outputs, batch) is not None:
            return
        place, logits, seen = _final(outputs, loss)
        if seen is None and forward is not None:
            _, other, seen = _final(forward, loss)
            seen = seen if logits is None or (other is not None and other.shape == logits.shape) else None
        if logits is None or seen is None:
            return
        labels = self._labels(batch)
        if _is_shifted(seen, logits, labels):
            if self._has_read:
                raise ArgumentError(
                    "the loss shows that this is a language model, which its class does not: values that were read "
                    f"before the first training step are wrong. Begin with a warm-up epoch. {ADVICE}"
                )
            self._learnt = _Learnt("softmax", place=place, traced=True, shifted=True)
            return
        _check_targets(seen, logits, labels)
        self._learnt = _Learnt(seen.link, seen.probabilities, place, traced=True)
        if not _shown(labels) and logits.ndim <= 2:  # once: later batches are not waited for
            self({place or "logits": logits.detach().cpu()}, {"labels": labels.cpu()})

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> Signals:
        """The signals of a batch; see `signals_of`."""
        if is_fused(outputs):
            return Signals({"tokens": fused_tokens(outputs)})
        if self._is_causal(outputs):
            labels = self._labels(batch)
            logits = _logits(outputs, self._learnt.place)
            logits = logits[:, -labels.shape[-1] :]  # without the tokens that prompt tuning puts before them
            return Signals({"tokens": token_signals(logits, _of_kept(logits, labels))})
        if self.answers or self.masked or "Seq2SeqLM" in type(outputs).__name__:
            return Signals({"tokens": token_signals(_logits(outputs), self._labels(batch), aligned=True)})
        if _is_joint(outputs):
            return joint_signals(outputs, batch)
        if (spans := _spans(outputs, batch)) is not None:
            return spans
        logits, labels = _logits(outputs, self._learnt.place), self._labels(batch)
        self._has_read |= logits.ndim == 3
        if self._learnt.probabilities:
            wide = logits.detach().float()
            logits = wide.logit(eps=1e-7) if self._learnt.link == "sigmoid" else wide.clamp_min(1e-30).log()
        link = self._learnt.link or self._by_config(labels)
        settle = _SETTLE if self._config is not None else ADVICE
        signals, link = read(logits, labels, link, settle=settle, traced=self._learnt.traced)
        self._learnt = replace(self._learnt, link=link)
        return signals

    @property
    def has_learnt(self) -> bool:
        """Whether the link is known for all batches to come."""
        return self._learnt.link is not None

    def state(self) -> Json:
        """What a loss has shown, as plain values, for a checkpoint."""
        return asdict(self._learnt)

    def load(self, state: Json) -> None:
        """Take up what was learnt before."""
        self._learnt = _Learnt(**state)

    def _check_shift(self, loss: Tensor, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Refuse a loss that compares the logits of a causal language model with the labels at their own place."""
        if is_fused(outputs):
            return
        labels, seen = self._labels(batch).detach(), trace(loss, _logits(outputs))
        own = labels.flatten()
        following = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:].flatten()
        for target in () if seen is None else seen.targets:
            flat = target.flatten()
            if flat.shape == own.shape and torch.equal(flat, own.to(flat)) and not torch.equal(own, following):
                raise ArgumentError(
                    "the loss compares the logits at each position with the label at the same one, and those of a "
                    f"causal language model are about the next. {ADVICE}"
                )

    def _is_causal(self, outputs: Any) -> bool:
        return self.causal or is_fused(outputs) or "CausalLM" in type(outputs).__name__

    def _by_config(self, labels: Tensor) -> Link | None:
        """The link by the model's config: what the user has set, or what a stock model makes of the labels."""
        problem = self._given
        if problem is None and self._own_loss:
            problem = getattr(self._config, "problem_type", None)
        if problem is not None:
            return _PROBLEMS.get(problem)
        if not (self._own_loss and self.stock and self._config is not None):
            return None
        if self._config.num_labels == 1:
            return "identity"
        return "sigmoid" if labels.is_floating_point() else "softmax"

    def _labels(self, batch: Mapping[str, Any]) -> Tensor:
        own = [name for name in self._label_names if isinstance(batch.get(name), Tensor)]
        for name in (*(own if len(own) == 1 else ()), "labels", "label"):
            if isinstance(labels := batch.get(name), Tensor):
                return labels
        raise ArgumentError(f"the batch has no labels; it holds {', '.join(map(str, batch)) or 'nothing'}. {ADVICE}")


def is_fused(outputs: Any) -> bool:
    """Whether a trainer's language model gives numbers of each next token instead of logits, as those of TRL do."""
    return isinstance(getattr(outputs, "log_probs", None), Tensor) and hasattr(outputs, "label_mask")


def fused_tokens(outputs: Any) -> TokenSignals:
    """The signals of such outputs; the error by `|| p - onehot ||^2 = (1 - p_y)^2 + sum_v p_v^2 - p_y^2`, where the
    head gives the sum: to 3e-4, and never outside of [1, sqrt 2] times `1 - p_y`. A margin would need logits."""
    mask = outputs.label_mask.detach()
    nll = (-outputs.log_probs.detach().float()).masked_fill(~mask, 0.0)
    entropy, right = outputs.entropy.detach().float(), outputs.is_top1.detach().bool() & mask
    squares = getattr(outputs, "log_sum_sq_probs", None)
    if squares is None:
        return TokenSignals(nll, entropy.masked_fill(~mask, 0.0), None, right, mask)
    missing = -torch.expm1(-nll)  # 1 - p_y, exact near 0, which bounds what the other tokens have
    others = (squares.detach().float().exp() - (-2 * nll).exp()).clamp_min(0).minimum(missing.square())
    error = (missing.square() + others).sqrt().masked_fill(~mask, 0.0)
    return TokenSignals(nll, entropy.masked_fill(~mask, 0.0), error, right, mask)


def _is_shifted(seen: Trace, logits: Tensor, labels: Tensor) -> bool:
    """Whether a loss compares the logits of each position with the label of the next one."""
    if seen.link != "softmax" or logits.ndim != 3 or labels.shape != logits.shape[:2] or labels.is_floating_point():
        return False
    labels = labels.detach()
    following = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    forms = [part.flatten() for part in (following, labels[:, 1:])]
    targets = [target.flatten() for target in seen.targets]
    return not torch.equal(labels, following) and any(
        one.shape == target.shape and torch.equal(target, one.to(target)) for target in targets for one in forms
    )


def _of_kept(logits: Tensor, labels: Tensor) -> Tensor:
    """The labels of the last positions where `logits_to_keep` has left no others, and no other one trains."""
    before = labels.shape[1] - logits.shape[1] if logits.ndim == 3 and labels.ndim == 2 else 0
    if before <= 0 or bool((labels[:, : before + 1] != IGNORED).any()):
        return labels
    return labels[:, before:]


def _check_targets(seen: Trace, logits: Tensor, labels: Tensor) -> None:
    """Refuse labels that are not what the loss compares, as far as its steps show it."""
    given = labels.detach().flatten()
    numbers = logits.ndim > labels.ndim or labels.shape[1:] == (1,)  # each label is a class, or a number
    several = numbers and logits.ndim == 2 and logits.shape[1] > 1
    same: list[bool] = []
    for compared, target in zip(seen.inputs, seen.targets, strict=True):
        flat = target.flatten()
        if seen.link == "identity":
            if len(flat) == logits.numel() == len(given):
                same.append(_close(compared.flatten(), logits.detach().flatten()) and _close(flat, given))
        elif target.is_floating_point():
            rows = _written_out(given, logits.shape[1]) if several else given
            if several or len(rows) == len(flat):
                same.append(len(rows) == len(flat) and torch.equal(flat > 0.5, rows.to(flat.device) > 0.5))
        else:
            rows = given if numbers or labels.ndim == 1 else labels.argmax(1)
            if len(flat) < len(rows):
                rows = rows[rows != IGNORED]
            repeated = len(rows) > 0 and len(flat) % len(rows) == 0  # a loss may take the batch twice
            same.append(repeated and torch.equal(flat[: len(rows)], rows.to(flat)))
    if several and seen.link in ("sigmoid", "identity") and not same:
        same.append(False)  # sigmoids beside class numbers: of each class, or of an order of classes?
    if (same and not any(same)) or any(0 <= index < logits.shape[-1] for index in seen.ignored):
        raise ArgumentError(
            "the loss does not show that it compares the outputs with the labels of the batch as they are (not "
            "shifted, renumbered, rescaled, turned round, or with some left out that are not -100), so its signals "
            f"cannot be guessed. {ADVICE}"
        )


def _written_out(numbers: Tensor, classes: int) -> Tensor:
    """Class numbers written one-hot, flat; empty where one is no class."""
    if numbers.is_floating_point() or bool(((numbers < 0) | (numbers >= classes)).any()):
        return torch.empty(0)
    return one_hot(numbers.long(), classes).flatten()


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left.float(), right.to(left.device).float(), rtol=1e-2, atol=1e-3)


def _is_joint(outputs: Any) -> bool:
    return isinstance(outputs, Mapping) and "intent_logits" in outputs


def _spans(outputs: Any, batch: Mapping[str, Any]) -> Signals | None:
    """Heads `start` and `end` of a model that answers questions: each a choice among the positions.

    A position outside the text does not count, as in the stock loss.
    """
    if not {"start_positions", "end_positions"} <= set(batch):
        return None
    if isinstance(outputs, (tuple, list)):
        pair = [part for part in outputs if isinstance(part, Tensor) and part.ndim == 2][:2]
        if len(pair) != 2:
            return None
    elif not (_has(outputs, "start_logits") and _has(outputs, "end_logits")):
        return None
    else:
        pair = [named(outputs, "start_logits"), named(outputs, "end_logits")]
    heads = {}
    for name, logits in zip(("start", "end"), pair, strict=True):
        places = named(batch, f"{name}_positions").detach().reshape(len(logits)).long()
        places = places.clamp_min(0)  # as the stock loss reads them
        heads[name] = _counted(HeadSignals(logits.detach(), places.where(places < logits.shape[1], IGNORED)))
    return Signals(heads)


def _has(outputs: Any, name: str) -> bool:
    return isinstance(outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None), Tensor)


def tensors_of(outputs: Any) -> dict[Any, Tensor]:
    """The tensors in a model's output by name, or by place where they have none."""
    if isinstance(outputs, Tensor):
        return {"logits": outputs}
    if isinstance(outputs, Mapping):
        items = dict(outputs)
    elif isinstance(outputs, (tuple, list)):
        items = dict(getattr(outputs, "_asdict", lambda: enumerate(outputs))())
    else:
        items = dict(getattr(outputs, "__dict__", {}))
    return {name: part for name, part in items.items() if isinstance(part, Tensor)}


def _final(outputs: Any, loss: Tensor) -> tuple[str | int | None, Tensor | None, Trace | None]:
    """Where the logits are: named so, or the one part that the loss is computed from without another layer."""
    items = {name: part for name, part in tensors_of(outputs).items() if part.ndim}
    if "logits" in items:
        return None, items["logits"], trace(loss, items["logits"])
    found = {name: seen for name, part in items.items() if (seen := trace(loss, part)) is not None and seen.final}
    known = [name for name, seen in found.items() if seen.link is not None]
    if len(known) != 1:
        return None, None, None
    return known[0], items[known[0]], found[known[0]]


def _logits(outputs: Any, place: str | int | None = None) -> Tensor:
    """The logits: at the place that is known, named `logits`, or in a tuple the first tensor that is not the loss;
    refused where another one has its shape."""
    items, kind = tensors_of(outputs), type(outputs).__name__
    if place is not None and place in items:
        return items[place]
    if isinstance(outputs, (tuple, list)) and "logits" not in items:
        parts: list[Any] = [part for part in items.values() if part.ndim > 1]
        first, *others = parts or [None]
    else:
        first = items.get("logits", getattr(outputs, "logits", None))
        others = [part for name, part in items.items() if name != "logits" and str(name).endswith("logits")]
    if not isinstance(first, Tensor):
        names = ", ".join(map(str, items)) or "no tensor"
        raise ArgumentError(f"the model's output {kind} has no logits; it holds {names}. {ADVICE}")
    if any(other is not None and other.shape == first.shape for other in others):
        raise ArgumentError(
            f"the model's output {kind} has several heads with logits {tuple(first.shape)}, which cannot be told "
            f"apart. {ADVICE}"
        )
    return first
