"""The signals of a Trainer's batches: from what its loss returns, or else from what its model gave on the way.

A loss of one's own may return no outputs, and the losses of sentence-transformers never do: a hook on the model has
them. The first batch that trains shows how the outputs are to be read (`datadiet.tasks.reading`). The trainers of TRL
build no logits, and compute them by one more forward pass where they are asked for outputs; a hook has the numbers of
each token that their fused head gives anyway.
"""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import fields, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from transformers import Trainer

from datadiet.errors import ArgumentError
from datadiet.scores.reduce import free_signals
from datadiet.tasks.heads import Heads, check_one_each
from datadiet.tasks.losses import trace
from datadiet.tasks.reading import ADVICE, Reader, is_fused, tensors_of
from datadiet.training.sampler import LENGTHS_KEY
from datadiet.types import Head, HeadSignals, Json, Segments, Signals, TokenSignals

EMBEDDING, SCORES = "sentence_embedding", "scores"
# the trainers of TRL whose outputs are known, by the class that they are or inherit from
TRL_FORMS = {"SFTTrainer": "sft", "DPOTrainer": "dpo", "RewardTrainer": "reward"}
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
        form: Of a trainer of TRL, see `trl_form`; empty for others.
        trainer: Of TRL.

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
        base = _base(model)
        if self._hooked and FUSED_OUTPUTS in vars(base):
            return model(**inputs, fused_lm_head=True)
        if self._reader.named:  # the decoder of others reads them
            inputs.pop("labels", None)
        if "use_cache" in inspect.signature(type(base).forward).parameters:
            inputs["use_cache"] = False
        return model(**inputs)

    def lacks(self) -> tuple[str, ...]:
        """What is not known of each next token, of the scores and columns that tokens have; before the first batch."""
        if not self.causal:
            return ()
        fused = getattr(_base(self._model), FUSED_OUTPUTS, None)
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
ROW_COLUMN = "datadiet_row"  # of training data that a trainer of TRL prepares
FUSED_OUTPUTS = "_datadiet_fused"  # on a model: that its fused head also gives what errors need


def trl_form(trainer: Any) -> str:
    """Of a trainer of TRL what its outputs are: `sft`, `dpo`, `reward`, or `other`; empty for any other trainer."""
    kinds = [kind.__name__ for kind in type(trainer).__mro__ if kind.__module__.startswith("trl.")]
    return next((TRL_FORMS[name] for name in kinds if name in TRL_FORMS), "other" if kinds else "")


def number_rows(options: dict[str, Any], of_rows: Mapping[str, Any]) -> None:
    """Number the rows of training data that a trainer of TRL is about to prepare: it may leave some out, and shuffle.

    Args:
        options: Of the trainer, which get the data with one column more.
        of_rows: The arguments that are beside the data, by name.

    Raises:
        ArgumentError: If one has not an entry for each row, or the rows will be packed, which loses their numbers.
    """
    data, packs = options.get("train_dataset"), getattr(options.get("args"), "packing", False)
    names = getattr(data, "column_names", None) or []
    lost = [*of_rows, *(["the column `weight`"] if "weight" in names else [])]
    if packs and lost:
        raise ArgumentError(
            f"packing=True puts several rows into one, which {' and '.join(lost)} cannot follow: use "
            "padding_free=True, or group_by_length, in place of packing."
        )
    if not of_rows or not isinstance(data, datasets.Dataset):
        return
    for name, values in of_rows.items():
        if (count := values.shape[0] if hasattr(values, "shape") else len(values)) != len(data):
            raise ArgumentError(f"{name} must be one per training row, {len(data)}: got {count}.")
    column: Any = list(range(len(data)))
    options["train_dataset"] = data.add_column(ROW_COLUMN, column)


def of_numbered(trainer: Any, of_rows: Mapping[str, Any]) -> dict[str, Any]:
    """What is beside the data, of the rows that a trainer of TRL has left, in its order."""
    data = trainer.train_dataset
    if ROW_COLUMN not in (getattr(data, "column_names", None) or []):
        return dict(of_rows)
    rows = np.asarray(data.with_format("numpy")[ROW_COLUMN][:])
    trainer.train_dataset = data.remove_columns(ROW_COLUMN)
    return {
        name: values[rows] if hasattr(values, "shape") else [values[row] for row in rows.tolist()]
        for name, values in of_rows.items()
    }


def give_errors(model: Any) -> None:
    """Make the fused head of TRL's SFT also give `log sum_v p_v^2`, of which the error norm of a token follows.

    The loss is computed as before. Where TRL has no such head, nothing changes, and errors are not known.
    """
    base, add = _base(model), getattr(sys.modules.get("trl.trainer.utils"), "add_fused_lm_head", None)
    if add is not None:
        add(base, outputs=("log_probs", "entropy", "is_top1", "log_sum_sq_probs"))
        setattr(base, FUSED_OUTPUTS, True)


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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


def preferences(outputs: Any, batch: Mapping[str, Any], *, centre: float | None = None) -> Signals:
    """The signals of a reward model on pairs, as `RewardTrainer` trains it: two classes, the chosen answer is right.

    Args:
        outputs: With a logit of each chosen answer, and after them of each rejected one: `(2 * batch, 1)`.
        batch: With the `margin` of each pair, where the loss has one.
        centre: The trainer's `center_rewards_coefficient`.

    Returns:
        A head `label` whose cross-entropy is `-log sigmoid(chosen - rejected - margin)`; the row's own loss, to which
        `centre * (chosen + rejected)^2` is added.
    """
    chosen, rejected = outputs.logits.detach().float().flatten().chunk(2)
    ahead = rejected + batch["margin"].to(rejected) if "margin" in batch else rejected
    odds = torch.stack([ahead, chosen], 1)
    labels = torch.ones_like(chosen, dtype=torch.int64)
    losses = torch.nn.functional.cross_entropy(odds, labels, reduction="none")
    losses = losses if centre is None else losses + centre * (chosen + rejected).square()
    return Signals({"label": HeadSignals(odds, labels)}, losses=losses)


class DpoPairs:
    """The signals of pairs of answers as `DPOTrainer` compares them, from the policy and the reference of its own step.

    Two classes, of which the chosen answer is right, with the log odds `beta * ((log p - log q)(chosen) - (log p - log
    q)(rejected))` of policy p and reference q. Their cross-entropy is the row's own loss for `loss_type="sigmoid"`; for
    any other the trainer says what it takes of each pair. `aot` and `aot_unpaired` sort the pairs of a batch and so
    have no loss of each: the loss of their pairs is that of `sigmoid`.

    Args:
        trainer: Of TRL.

    Attributes:
        sorts: Whether the trainer has no loss of each pair.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer, self.references = trainer, list[Any]()
        self.sorts = any(kind.startswith("aot") for kind in trainer.loss_types)
        usual = {"loss_types": ["sigmoid"], "loss_weights": [1.0], "ld_alpha": None, "use_weighting": False}
        usual["f_divergence_type"] = "reverse_kl"
        self._plain = all(getattr(trainer, name, value) == value for name, value in usual.items())

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Keep what the reference model gives inside the block."""
        self.references.clear()
        model = getattr(self._trainer, "ref_model", None)
        if model is None:
            yield
            return
        with captured_outputs(model) as outputs:
            yield
        self.references += [output for output in outputs if is_fused(output)]

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> Signals:
        """See the class."""
        length = batch["completion_mask"].shape[1] - 1
        chosen, rejected = _log_probability(outputs, length).chunk(2)
        reference = self.references[0] if self.references else None
        if "ref_chosen_logps" in batch:
            known = (batch["ref_chosen_logps"].to(chosen), batch["ref_rejected_logps"].to(rejected))
        elif reference is not None:
            known = _log_probability(reference, length).chunk(2)  # type: ignore[assignment]
            self.references.clear()
        else:
            raise ArgumentError(f"pairs of DPO are read in training only, where the reference model runs too. {ADVICE}")
        odds = self._trainer.beta * ((chosen - known[0]) - (rejected - known[1]))
        labels = torch.ones(len(odds), dtype=torch.int64, device=odds.device)
        head = HeadSignals(torch.stack([torch.zeros_like(odds), odds], 1), labels)
        losses = None if self.sorts or self._plain else self._losses(outputs, reference, batch, chosen)
        return Signals({"label": head}, losses=losses)

    @torch.no_grad()
    def _losses(self, outputs: Any, reference: Any, batch: Mapping[str, Any], chosen: torch.Tensor) -> torch.Tensor:
        """What the trainer takes of each pair, float32 `(pairs,)`, whose mean is its loss without that of routers.

        Its own code runs once more on what the models have given: all that comes after the models, on numbers of
        answers and tokens, and without anything that it reports.
        """
        trainer, pairs = copy(self._trainer), len(chosen)
        trainer.model = torch.nn.Module()
        trainer.model.is_gradient_checkpointing = False
        trainer.ref_model = lambda **_: reference
        trainer._metrics = {"train": defaultdict(list)}
        trainer.accelerator = SimpleNamespace(
            device=chosen.device, gather=lambda values: values, gather_for_metrics=lambda values: values
        )
        with _Means(pairs) as means:
            trainer._compute_loss(lambda **_: outputs, dict(batch), False)
        total = torch.zeros_like(chosen)
        for kind, weight in zip(self._trainer.loss_types, self._trainer.loss_weights, strict=True):
            losses = means.kept.pop(0)
            if kind == "sft":  # one mean over the tokens of all chosen answers: a pair has the share of its own
                losses = means.kept.pop(0) if losses.stride() != (0,) else losses
                losses = losses.mean() * pairs * chosen / chosen.sum().clamp_max(-1e-12)
            total = total + weight * losses.float()
        return total


class _Means(TorchFunctionMode):
    """Keeps the vectors of one entry per pair of which a mean without arguments is taken, in order.

    Args:
        size: Of the vectors.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size, self.kept = size, list[torch.Tensor]()

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As the function gives it."""
        if function is torch.Tensor.mean and len(args) == 1 and not kwargs and args[0].shape == (self._size,):
            self.kept.append(args[0])
        return function(*args, **(kwargs or {}))


def _log_probability(outputs: Any, length: int) -> torch.Tensor:
    """Of whole answers, float32 `(batch,)`; tokens of prompts count 0."""
    summed: torch.Tensor = outputs.log_probs.detach().float()[:, -length:].sum(1)
    return summed


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
