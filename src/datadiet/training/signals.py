"""The signals of a Trainer's batches: from what its loss returns, or else from what its model gave on the way.

A loss of one's own may return no outputs, and the losses of sentence-transformers never do: a hook on the model has
them. The first batch that trains shows how the outputs are to be read (`datadiet.tasks.reading`). Those of TRL
(`datadiet.training.trl`) would compute logits by one more forward pass where they are asked for outputs; a hook has the
numbers of each token that their fused head gives anyway.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers import Trainer

from datadiet.errors import ArgumentError
from datadiet.scores.reduce import free_signals
from datadiet.tasks.heads import Heads, base_model, captured_outputs, check_one_each
from datadiet.tasks.losses import trace
from datadiet.tasks.reading import ADVICE, Reader, is_fused, tensors_of
from datadiet.training.sampler import LENGTHS_KEY
from datadiet.training.trl import FUSED_OUTPUTS, DpoPairs, preferences
from datadiet.types import Head, HeadSignals, Json, Segments, Signals, TokenSignals

EMBEDDING, SCORES = "sentence_embedding", "scores"
SignalsOf = Callable[[Any, Mapping[str, Any]], Signals]


class Parts(NamedTuple):
    """The losses that the loss of a batch is made of: of tokens `(rows, positions)`, or one of each row `(rows,)`.

    Attributes:
        losses: float32, without a gradient.
        mask: bool `(rows, positions)`, the tokens that have one; None of rows.
        scaled: Whether the loss is their sum times a number that is not known; of rows their mean otherwise.
    """

    losses: torch.Tensor
    mask: torch.Tensor | None = None
    scaled: bool = False


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
        form: Of a trainer of TRL, see `datadiet.training.trl.trl_form`; empty for others.
        trainer: A `DietMixin`.

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
        form: str = "",
        trainer: Any = None,
    ) -> None:
        self._form, self._trainer = form, trainer
        own = getattr(compute_loss, "__func__", None) is Trainer.compute_loss
        parameters = inspect.signature(compute_loss).parameters.values()
        self._returns_outputs = any(one.name == "return_outputs" or one.kind is one.VAR_KEYWORD for one in parameters)
        self._model, self._heads, self._given, self._embeds = model, heads, given, embeds
        self._reader = Reader(model, label_names=label_names, own_loss=own and loss_function is None)
        self._captures, self._is_first = embeds or not own, True
        self._pairs: Callable[..., Signals] | None = None
        if form == "reward" and given is None:
            self._pairs = partial(preferences, centre=getattr(trainer.args, "center_rewards_coefficient", None))
        if form == "dpo" and given is None:
            self._pairs = DpoPairs(trainer)
        stock = own or (form == "sft" and getattr(compute_loss, "__module__", "").startswith("trl."))
        plain = loss_function is None and not getattr(getattr(trainer, "args", None), "label_smoothing_factor", 0)
        # the losses of tokens that are summed and divided by a count
        self._is_dft = form == "sft" and trainer.args.loss_type == "dft"
        self._sums_tokens = stock and plain and form in ("", "sft")
        # of a classifier, a tagger or a regression of transformers
        self._stock = own and plain and not embeds and given is None and not form and self._reader.stock
        self._hooked = form in ("sft", "dpo") and given is None  # never asked for outputs
        self._recomputes = bool(form) and form != "reward" and not self._hooked
        self.reads = True

        args = getattr(trainer, "args", None)
        kernels = getattr(args, "liger_kernel_config", None) or {}
        # TRL turns this kernel off itself, for its own fused head
        liger = getattr(args, "use_liger_kernel", False) and kernels.get("fused_linear_cross_entropy", True)
        self.is_given = given is not None
        self.problem = _LIGER if liger and self.causal else ""
        if form == "other" and self.causal:
            self.problem = f"what {type(trainer).__name__} gives of each row is not known. {ADVICE}"

    @property
    def sums_tokens(self) -> bool:
        """Whether the loss is a sum over the tokens of a language model, divided by their number in the step."""
        return (self._reader.causal or self._reader.answers) and self._form in ("", "sft")

    @property
    def pairs(self) -> bool:
        """Whether rows are pairs of answers, which have no class."""
        return self._pairs is not None

    @property
    def causal(self) -> bool:
        """Whether the numbers of next tokens are read, or of those of an answer, or of masked ones."""
        reader = self._reader
        return self._given is None and self._pairs is None and (reader.causal or reader.answers or reader.masked)

    @property
    def answers(self) -> bool:
        """Whether the model is an encoder-decoder that writes an answer: its labels have a length of their own."""
        return self._reader.answers

    @property
    def masked(self) -> bool:
        """Whether the model fills in masked tokens."""
        return self._reader.masked

    def call(self, model: torch.nn.Module, batch: Mapping[str, Any]) -> Any:
        """The outputs of a pass outside training: of a language model without its loss, which costs a copy of all
        logits in float32."""
        inputs = {name: value for name, value in batch.items() if name != LENGTHS_KEY}
        if not self.causal:
            return model(**inputs)
        base = base_model(model)
        if self._hooked and FUSED_OUTPUTS in vars(base):
            return model(**inputs, fused_lm_head=True)
        if self._reader.named:  # the decoder of others reads them
            inputs.pop("labels", None)
        if "use_cache" in inspect.signature(type(base).forward).parameters:
            inputs["use_cache"] = False
        return model(**inputs)

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """The outputs of a pass outside training, under the Trainer's autocast; one per text column where it embeds."""
        trainer = self._trainer
        with trainer.autocast_smart_context_manager(), self._heads.recording():
            if not self._embeds:
                return self.call(trainer.network, batch)
            features, labels = trainer.collect_features(dict(batch))
            if all(isinstance(feature, Mapping) for feature in features):
                return [trainer.network(feature) for feature in features]
            with captured_outputs(trainer.network) as captured:  # a loss of cross-encoders takes the texts
                trainer.loss(features, labels)
            return captured

    def lacks(self) -> tuple[str, ...]:
        """What is not known of each next token, of the scores and columns that tokens have; before the first batch."""
        if not self.causal:
            return ()
        fused = getattr(base_model(self._model), FUSED_OUTPUTS, None)
        if fused is None:
            return ("margin", "el2n") if self._hooked else ()
        return ("margin",)

    @contextmanager
    def training(self, weights: torch.Tensor | None = None) -> Iterator[tuple[list[Any], Json]]:
        """Around `compute_loss`: a list of the outputs that the model gives, and arguments that ask for them.

        Args:
            weights: Of the losses of what a fused head gives, float `(batch,)` or `(batch, positions)`.
        """
        asked = {"return_outputs": True} if self.reads and self._returns_outputs and not self._hooked else {}
        captured: list[Any] = []
        with ExitStack() as around:
            if weights is not None:
                around.enter_context(_weighed(self._model, weights))
            if self.reads and self._captures:
                captured = around.enter_context(captured_outputs(self._model))
            if self.reads and isinstance(self._pairs, DpoPairs):
                around.enter_context(self._pairs.capturing())
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
        if self._given is None and not isinstance(batch, Mapping):
            raise ArgumentError(f"a batch that is a {type(batch).__name__} does not name its labels. Pass signals=.")
        learns, self._is_first = self._is_first and self._given is None and self._pairs is None, False
        if self._embeds:
            if learns:
                _check_pairs(loss, captured)
                if _is_scored(captured):
                    self._reader.learn(loss, captured[0], batch)
            return self.of_pass(captured, batch)
        trained = [output for output in captured if _trains(output)]
        if self._hooked:
            # a smoothed loss has logits, and fused outputs without gradients for the metrics
            fused = [output for output in captured if is_fused(output)]
            if not (found := [*(output for output in fused if _trains(output)), *fused[:1], *trained]):
                raise ArgumentError("compute_loss did not call the model: a diet reads its outputs there.")
            if isinstance(self._pairs, DpoPairs):  # the reference of an adapter is the same model without it
                self._pairs.references += [output for output in fused if not _trains(output)]
            return self.of_pass(found[0], batch)
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
        if self._pairs is not None:
            return self._pairs(outputs, batch)
        if not self._embeds:
            signals = self._heads.signals(self._reader(outputs, batch))
            if (lengths := batch.get(LENGTHS_KEY)) is None:
                return by_position(signals, batch.get("position_ids"))
            lengths = lengths.cpu()
            if lengths.dim() == 1:
                return split_rows(signals, lengths)
            each = lengths > 0
            texts, of_rows = split_rows(signals, lengths[each]), each.nonzero()[:, 0]
            return replace(split_rows(signals, lengths.sum(1)), segments=Segments(texts.heads, of_rows, len(lengths)))
        return self._reader(outputs[0], batch) if _is_scored(outputs) else pair_signals(outputs, batch.get("label"))

    def losses(self, signals: Signals) -> Parts | None:
        """What the loss of a batch adds up; None where that is not known: smoothed, or of one's own."""
        head = signals.heads.get("tokens")
        if isinstance(head, TokenSignals):
            if self.answers or self.masked:  # mostly a mean over the batch, whatever the step has
                return Parts((head.nll * head.mask).sum(1), scaled=True) if self._stock else None
            known = self.sums_tokens and self._sums_tokens
            return Parts(head.nll * (-head.nll).exp() if self._is_dft else head.nll, head.mask) if known else None
        pairs = signals.heads.get("label")
        if self._stock:
            return Parts(free_signals(signals)["loss"], scaled=True)
        if self._pairs is None or not isinstance(pairs, HeadSignals):
            return None
        if signals.losses is not None:
            return Parts(signals.losses)
        if isinstance(self._pairs, DpoPairs) and self._pairs.sorts:
            return None
        return Parts(torch.nn.functional.cross_entropy(pairs.logits, pairs.labels, reduction="none"))

    def state(self) -> Json:
        """How outputs are read, for a checkpoint."""
        return self._reader.state()

    def load(self, state: Json) -> None:
        """Go on reading as before."""
        self._reader.load(state)


_LIGER = (
    "the kernel fused_linear_cross_entropy of Liger gives neither logits nor numbers of each token: set "
    f"liger_kernel_config={{'fused_linear_cross_entropy': False}}. {ADVICE}"
)


def split_rows(signals: Signals, lengths: torch.Tensor) -> Signals:
    """The signals of rows that a batch holds in one sequence, each in a row of its own.

    Args:
        signals: Of next tokens, `(1, positions)`: position `t` is about token `t + 1`.
        lengths: int64 `(rows,)`, tokens of each row, on the CPU; what follows is padding.

    Returns:
        `(rows, longest)`, each token at its place in its row.

    Raises:
        ArgumentError: For signals that are not of one sequence of next tokens.
    """
    heads: dict[str, Head] = {}
    for name, head in signals.heads.items():
        if not isinstance(head, TokenSignals) or len(head.mask) != 1:
            raise ArgumentError(
                "the collator puts all rows of a batch into one sequence, which is read for causal language models "
                f"only. {ADVICE}"
            )
        rows, places = row_places(lengths, head.mask.shape[1])
        index = (rows.to(head.mask.device, non_blocking=True), places.to(head.mask.device, non_blocking=True))
        shape = (len(lengths), max(1, int(lengths.max())))
        parts: dict[str, Any] = {item.name: getattr(head, item.name) for item in fields(TokenSignals)}
        for key, values in parts.items():
            if values is not None:
                parts[key] = values.new_zeros(shape)
                parts[key][index] = values[0, : len(rows)]
        heads[name] = TokenSignals(**parts)
    return Signals(heads)


def by_position(signals: Signals, positions: Any) -> Signals:
    """The signals of a padded batch, and of each text where positions begin anew inside a row, as in packs.

    Args:
        signals: Of next tokens, `(batch, length - 1)`; others are left as they are.
        positions: `position_ids` of the batch, int64 `(batch, length)`; padding may have any.

    Examples:
        >>> one = torch.tensor([[1.0, 2.0, 3.0]])
        >>> head = TokenSignals(one, one, None, one > 0, one > 0)
        >>> by_position(Signals({"tokens": head}), torch.tensor([[0, 1, 0, 1]])).segments.heads["tokens"].nll
        tensor([[0., 1.],
                [2., 3.]])
    """
    heads = {name: head for name, head in signals.heads.items() if isinstance(head, TokenSignals)}
    if not isinstance(positions, torch.Tensor) or positions.dim() != 2 or len(heads) < len(signals.heads):
        return signals
    count, length = positions.shape
    begins = positions.detach().cpu() == 0
    begins[:, 0] = True
    if len(begins) == int(begins.sum()) or any(head.mask.shape != (count, length - 1) for head in heads.values()):
        return signals
    starts = begins.flatten().nonzero()[:, 0]
    sizes = torch.diff(starts, append=torch.tensor([count * length]))
    flat: dict[str, Head] = {}
    for name, head in heads.items():  # what a row's last token says would be about the first of the next row
        parts: dict[str, Any] = {item.name: getattr(head, item.name) for item in fields(TokenSignals)}
        wide = {
            key: None if part is None else torch.nn.functional.pad(part, (0, 1)).reshape(1, -1)
            for key, part in parts.items()
        }
        flat[name] = TokenSignals(**wide)  # type: ignore[arg-type]
    texts = split_rows(Signals(flat), sizes)
    return replace(signals, segments=Segments(texts.heads, starts // length, count))


def row_places(lengths: torch.Tensor, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The row, and the place in it, of the token that each of the first positions of one sequence is about.

    Examples:
        >>> row_places(torch.tensor([2, 3]), 4)
        (tensor([0, 1, 1, 1]), tensor([1, 0, 1, 2]))
    """
    ends = lengths.cumsum(0)
    token = torch.arange(1, min(positions, int(ends[-1]) - 1) + 1)
    rows = torch.searchsorted(ends, token, right=True)
    return rows, token - (ends - lengths)[rows]


def token_weights(weights: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Weights of rows at the tokens of the one sequence that holds them, `(1, tokens)`; position `t` has the weight of
    the row of token `t + 1`.

    Examples:
        >>> token_weights(torch.tensor([1.0, 2.0]), torch.tensor([2, 3]))
        tensor([[1., 2., 2., 2., 0.]])
    """
    rows, _ = row_places(lengths, int(lengths.sum()))
    wide = weights.new_zeros(1, int(lengths.sum()))
    wide[0, : len(rows)] = weights[rows.to(weights.device)]
    return wide


@contextmanager
def _weighed(model: torch.nn.Module, weights: torch.Tensor) -> Iterator[None]:
    """Weigh the loss of each row in the backward pass of a fused head: through the log-probability of its tokens."""

    def weigh(_module: Any, _inputs: Any, output: Any) -> None:
        if not is_fused(output) or not output.log_probs.requires_grad:
            return
        length = output.log_probs.shape[1]
        check_one_each(len(output.log_probs), len(weights))

        def weighed(gradient: torch.Tensor) -> torch.Tensor:  # read in the backward pass, see `Heads`
            factor = (weights if weights.dim() == 2 else weights.unsqueeze(1)).to(gradient)[:, :length]
            if factor.shape[1] not in (1, length):  # a last padding of one sequence
                factor = torch.nn.functional.pad(factor, (0, length - factor.shape[1]))
            return gradient * factor

        output.log_probs.register_hook(weighed)

    handle = model.register_forward_hook(weigh)
    try:
        yield
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
