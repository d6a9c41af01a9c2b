"""The signals of a Trainer's batches: from what its loss returns, or else from what its model gave on the way.

A loss of one's own may return no outputs, and the losses of sentence-transformers never do: a hook on the model has
them. The first batch that trains shows how the outputs are to be read (`datadiet.tasks.reading`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import Trainer

from datadiet.errors import ArgumentError
from datadiet.tasks.heads import Heads
from datadiet.tasks.losses import trace
from datadiet.tasks.reading import Reader, tensors_of
from datadiet.types import HeadSignals, Json, Signals

EMBEDDING, SCORES = "sentence_embedding", "scores"
SignalsOf = Callable[[Any, Mapping[str, Any]], Signals]


class TrainerSignals:
    """Reads the signals of the batches of one run.

    Args:
        model: Not wrapped.
        heads: Of the model.
        compute_loss: Of the Trainer's class.
        loss_function: Its `compute_loss_func`.
        label_names: Of the Trainer.
        given: `signals=` of the user.
        embeds: Whether this is a trainer of sentence-transformers.
        recomputes: Whether this is a trainer of TRL, where outputs cost a forward pass that plain training lacks.

    Attributes:
        reads: False from where nothing can be read on, at keep 1.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        heads: Heads,
        *,
        compute_loss: Callable[..., Any],
        loss_function: Any,
        label_names: Sequence[str],
        given: SignalsOf | None,
        embeds: bool,
        recomputes: bool,
    ) -> None:
        own = getattr(compute_loss, "__func__", None) is Trainer.compute_loss
        parameters = inspect.signature(compute_loss).parameters.values()
        self._returns_outputs = any(one.name == "return_outputs" or one.kind is one.VAR_KEYWORD for one in parameters)
        self._model, self._heads, self._given, self._embeds = model, heads, given, embeds
        self._reader = Reader(model, label_names=label_names, own_loss=own and loss_function is None)
        self._captures, self._is_first, self._recomputes = embeds or not own, True, recomputes
        self.reads = True

    def check(self) -> None:
        """Refuse a model that cannot be read.

        Raises:
            ArgumentError: Where that is known before it runs.
        """
        if self._given is None and self._reader.problem:
            raise ArgumentError(self._reader.problem)

    @contextmanager
    def training(self) -> Iterator[tuple[list[Any], Json]]:
        """Around `compute_loss`: a list of the outputs that the model gives, and arguments that ask for them."""
        asked = {"return_outputs": True} if self.reads and self._returns_outputs else {}
        captured: list[Any] = []
        with ExitStack() as around:
            if self.reads and self._captures:
                captured = around.enter_context(captured_outputs(self._model))
            if asked and self._recomputes:
                around.enter_context(_drawing_nothing(self._model))
            yield captured, asked

    def of_training(self, loss: torch.Tensor, outputs: Any, captured: list[Any], batch: Mapping[str, Any]) -> Signals:
        """The signals of a batch that trains, before its backward pass.

        Args:
            loss: Of the batch.
            outputs: That `compute_loss` returned beside it, or None.
            captured: That the model gave.
            batch: Inputs of the model, with the labels.

        Raises:
            ArgumentError: If they cannot be read.
        """
        learns, self._is_first = self._is_first and self._given is None, False
        if self._embeds:
            if learns:
                _check_pairs(loss, captured)
                if _is_scored(captured):
                    self._reader.learn(loss, captured[0], batch)
            return self.of_pass(captured, batch)
        trained = [output for output in captured if _trains(output)]
        if not any(part.ndim for part in tensors_of(outputs).values()):
            if len(trained) != 1:
                raise ArgumentError(
                    f"compute_loss gives a loss without outputs, and calls the model {len(trained)} times: it must "
                    "return (loss, outputs) where return_outputs is true."
                )
            outputs = trained[0]
        else:
            self._captures = False
        if learns:
            self._reader.learn(loss, outputs, batch, forward=trained[0] if len(trained) == 1 else None)
        return self.of_pass(outputs, batch)

    def of_pass(self, outputs: Any, batch: Mapping[str, Any]) -> Signals:
        """The signals of a batch of any pass, by `signals=` or by what is known of the model."""
        if self._given is not None:
            return self._heads.signals(self._given(outputs, batch))
        if not self._embeds:
            return self._heads.signals(self._reader(outputs, batch))
        return self._reader(outputs[0], batch) if _is_scored(outputs) else pair_signals(outputs, batch.get("label"))

    def state(self) -> Json:
        """How outputs are read, for a checkpoint."""
        return self._reader.state()

    def load(self, state: Json) -> None:
        """Go on reading as before."""
        self._reader.load(state)


@contextmanager
def captured_outputs(model: torch.nn.Module) -> Iterator[list[Any]]:
    """The outputs of every forward pass that a module makes inside the block."""
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def _drawing_nothing(model: torch.nn.Module) -> Iterator[None]:
    """Forward passes without gradients inside the block leave the random generators as they were."""
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    open_passes: list[ExitStack] = []

    def before(module: torch.nn.Module, _inputs: Any) -> None:
        open_passes.append(ExitStack())
        if module.training and not torch.is_grad_enabled():
            open_passes[-1].enter_context(torch.random.fork_rng(devices))

    handles = [
        model.register_forward_pre_hook(before),
        model.register_forward_hook(lambda *_: open_passes.pop().close(), always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _trains(output: Any) -> bool:
    """Whether a backward pass could lead through an output of a model."""
    return any(part.requires_grad for part in tensors_of(output).values())


def _is_scored(outputs: Sequence[Any]) -> bool:
    """Whether these are the outputs of a cross-encoder, of one forward pass."""
    return len(outputs) == 1 and isinstance(outputs[0], Mapping) and SCORES in outputs[0]


def _check_pairs(loss: torch.Tensor, outputs: Sequence[Any]) -> None:
    """Refuse losses of pairs of texts that do not compare a similarity with the label."""
    embeddings = [output[EMBEDDING] for output in outputs if isinstance(output, Mapping) and EMBEDDING in output]
    seen = [one for one in (trace(loss, embedding) for embedding in embeddings) if one is not None]
    if any(not one.final or any(not target.is_floating_point() for target in one.targets) for one in seen):
        raise ArgumentError(
            "the diet can read pairs of texts whose loss compares their similarity with the label, and this loss does "
            "not; pass signals=, a function of (outputs of each text column, batch)."
        )


def pair_signals(outputs: Sequence[Mapping[str, Any]], labels: Any) -> Signals:
    """Two embeddings and a similarity label, as a regression head: `logits = cos(a, b)`, so `el2n` is |cos - label|.

    The losses of sentence-transformers return nothing but a number, so the embeddings are the only signals.

    Args:
        outputs: One forward pass per text column, each with a `sentence_embedding` `(batch, dim)`.
        labels: Similarities `(batch,)`, as `CosineSimilarityLoss` and its kin take them; 0/1 counts too.

    Raises:
        ArgumentError: Where this reading does not fit, e.g. in-batch negatives without labels.
    """
    fits = len(outputs) == 2 and all(EMBEDDING in output for output in outputs) and labels is not None
    if not fits or labels.dim() != 1:
        raise ArgumentError(
            "the diet can read pairs of texts with one similarity label each; for other losses pass signals=, a "
            "function of (outputs of each text column, batch)."
        )
    left, right = (output[EMBEDDING].detach().float() for output in outputs)
    cosine = torch.nn.functional.cosine_similarity(left, right)
    return Signals({"label": HeadSignals(cosine[:, None], labels.float())})
