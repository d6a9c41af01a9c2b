"""The records that travel between the parts: frozen, small, and nothing else.

Words (used everywhere): `row` is an int64 position in the training split, `values` are the numbers a score gives
(larger = harder), `count` is how many examples are kept, `epoch` counts from 0, `round` is one refresh of the scores.

What a run tells whoever watches it. The training code calls a listener; only the command line draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


Source = Literal["train", "pass"]
IGNORED = -100  # label of a position that neither a loss nor a score reads, as in torch and transformers


@dataclass(frozen=True)
class HeadSignals:
    """What one head of a model says of a batch, before any score.

    Attributes:
        logits: `(batch, classes)`, or `(batch, positions, classes)` for a tagger; `(batch, 1)` for regression. Any
            float dtype, detached.
        labels: Class numbers int64 `(batch,)` or `(batch, positions)`; float32 `(batch,)` for regression; for any
            number of labels per example float32 `(batch, classes)`, 0 or 1.
        mask: bool `(batch, positions)`, True where a position counts (any may be left out: masking one is the same as
            removing it); None for a head with one decision per example.
        hidden: What went into the head's last linear layer, `(batch, size)` or `(batch, positions, size)`, any float
            dtype; None where it is not known.
    """

    logits: Tensor
    labels: Tensor
    mask: Tensor | None = None
    hidden: Tensor | None = None


@dataclass(frozen=True)
class TokenSignals:
    """What a causal language model says of each next token of a batch, in place of logits.

    Logits of `(batch, length, vocabulary)` are gigabytes, and some trainers never build them; these few numbers of
    each token are what scores of rows and tokens need. Position `t` is about token `t + 1` of the input: labels are
    shifted already; of an encoder-decoder, whose labels are a text of their own, it is about token `t` of that. All
    tensors are `(batch, positions)`, detached, and 0 or False where the mask is False.

    Attributes:
        nll: float32, `-log p` of the token, in nats.
        entropy: float32, of the distribution over the vocabulary, in nats.
        error: float32, `|| p - onehot ||_2` in [0, sqrt 2]; None where the trainer gives no logits.
        right: bool, whether the token is the likeliest.
        mask: bool, True where a token trains.
        margin: float32, largest logit of another token minus the token's; None where the trainer gives no logits.
    """

    nll: Tensor
    entropy: Tensor
    error: Tensor | None
    right: Tensor
    mask: Tensor
    margin: Tensor | None = None


Head = HeadSignals | TokenSignals


@dataclass(frozen=True)
class Signals:
    """What one forward pass says of some examples.

    Attributes:
        heads: By name, e.g. `{"label": ...}` or `{"intent": ..., "slots": ...}`.
        segments: The same by text, where a row of the data holds several, one after the other; None elsewhere.
        losses: float32 `(batch,)`, what the trainer takes of each example where its heads do not say it: the loss and
            the score `cross_entropy` are these. None elsewhere.
    """

    heads: Mapping[str, Head]
    segments: Segments | None = None
    losses: Tensor | None = None


@dataclass(frozen=True)
class Segments:
    """The texts of rows that hold several, as packs for language models do.

    Attributes:
        heads: As of `Signals`, an example for each text.
        rows: int64 `(texts,)`, the place in the batch of the row of each, ascending.
        count: The rows of the batch.
    """

    heads: Mapping[str, Head]
    rows: Tensor
    count: int


@dataclass(frozen=True)
class Scores:
    """Values of some training rows at one moment.

    Attributes:
        rows: int64 `(n,)`.
        values: float32 `(n,)` per column: the score's own name, and for free `gold_probability`, `margin`, `loss`.
        source: `train` (seen in the training forward, dropout on) or `pass` (an extra pass in eval mode).
        epoch: The epoch during which (train) or before which (pass) the values were taken.
        round: The refresh they feed, from 0.
    """

    rows: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float32]]
    source: Source
    epoch: int
    round: int


@dataclass(frozen=True)
class Phases:
    """How a score whose values depend on all rows is computed partition by partition: first counts, then values.

    The function of such a score has one as its attribute `phases`. All get the options of the score, `queries` where it
    needs them, and `seed` where it takes one.

    Attributes:
        begin: `(texts, **options) -> {name: array}`: counts of some rows, or a sample of them.
        values: `(texts, counts, *, ids=None, **options) -> float32 (n,)`, with the counts of all rows.
        merge: `(counts of some rows, of others, ..., **options) -> counts`; their sums where there is none. In whatever
            order and groups parts are merged, the counts of all rows are the same.
        end: `(counts, *, report, **options) -> counts`, once, with those of all rows: what `values` gets in their
            place. `report` receives what is said of the score beside its values.
    """

    begin: Callable[..., Mapping[str, NDArray[Any]]]
    values: Callable[..., NDArray[np.float32]]
    merge: Callable[..., Mapping[str, NDArray[Any]]] | None = None
    end: Callable[..., Mapping[str, NDArray[Any]]] | None = None

    def merged(self, parts: Sequence[Mapping[str, NDArray[Any]]], **options: Any) -> Mapping[str, NDArray[Any]]:
        """The counts of several parts together."""
        if self.merge is not None:
            return self.merge(*parts, **options)
        return {name: sum(part[name] for part in parts[1:]) + parts[0][name] for name in parts[0]}


@dataclass(frozen=True)
class Selection:
    """The rows a selector keeps.

    Attributes:
        rows: int64 `(count,)`, ascending, no repeats.
        weights: float32 `(count,)` loss weights, or None where every kept row weighs 1.
        rates: float64 `(n,)`, the expected visits of each of all rows; None where all have the same.
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None
    rates: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class EpochPlan:
    """What one epoch trains on.

    Attributes:
        epoch: From 0.
        rows: int64, ascending.
        full: True when every training row is in.
        round: The refresh that chose the rows; -1 where no score was used.
        weights: float32 beside `rows`, or None.
    """

    epoch: int
    rows: NDArray[np.int64]
    full: bool
    round: int = -1
    weights: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class CostLedger:
    """Everything a run has spent. The `_s` keys but the last three partition `total_s`.

    `finetune_s = train_s + score_s + select_s + probe_s`; `probe_s` is what races cost: the steps of the losers, and
    the passes over dev rows, whose examples count as backward and forward. `shared_s` is the part of `total_s` that an
    earlier run has spent, on tokenised data that this one took from a cache: the clock on the wall went `total_s -
    shared_s`. Tokens are real tokens (attention mask 1), not padding, but `tokens_padded`: all positions of the batches
    that trained, so that `1 - tokens_backward / tokens_padded` is the share of padding; 0 where it was not counted.
    Forward counts are training, scoring and races, not evaluation.
    """

    load_s: float = 0.0
    train_s: float = 0.0
    score_s: float = 0.0
    select_s: float = 0.0
    eval_s: float = 0.0
    save_s: float = 0.0
    total_s: float = 0.0
    finetune_s: float = 0.0
    examples_forward: int = 0
    examples_backward: int = 0
    tokens_forward: int = 0
    tokens_backward: int = 0
    shared_s: float = 0.0
    probe_s: float = 0.0
    tokens_padded: int = 0


@dataclass(frozen=True)
class EpochForecast:
    """One epoch of a plan that has not run yet: `kept + dropped` is the training split's size."""

    epoch: int
    kept: int
    dropped: int
    steps: int
    refresh: bool


@dataclass(frozen=True)
class Forecast:
    """What a schedule will do, known before anything runs.

    Attributes:
        epochs: One line each.
        steps, examples_backward, tokens_backward: Totals of the diet. Tokens are kept rows times the mean length
            (which rows are kept is not known yet); None where lengths are not known.
        full_steps, full_examples, full_tokens: The same for training on everything.
        examples_scored: Most examples that scoring passes can forward (0 for `rescore="none"`).
        examples_saved: The ceiling of the saving, `1 - examples_backward / full_examples`; the share of the
            tokens is about the largest share of the training time that can be saved.
        bound: Whether steps, examples and tokens are the most there can be, because counts are decided as it runs.
        races: Races on the dev split.
        race_steps: What they cost at most beside `steps`, in optimizer steps, passes over dev rows included.
        open_end: Whether the run may end before the last epoch, when the dev metric has stopped rising.
        learning_rate: Its peak and how it was found, in words; empty where it is not known.
        first_rule: What `auto` begins with, and why, in words; empty where it is not known.
    """

    epochs: tuple[EpochForecast, ...]
    steps: int
    examples_backward: int
    full_steps: int
    full_examples: int
    examples_scored: int
    examples_saved: float
    tokens_backward: int | None = None
    full_tokens: int | None = None
    bound: bool = False
    races: int = 0
    race_steps: int = 0
    open_end: bool = False
    learning_rate: str = ""
    first_rule: str = ""


@dataclass(frozen=True)
class EpochResult:
    """One line of `result.json`'s `epochs`: seconds are this epoch's training alone, `score_s` its refresh."""

    epoch: int
    kept: int
    dropped: int
    steps: int
    seconds: float
    score_s: float
    tokens: int
    train_loss: float | None
    dev: Mapping[str, float] = field(default_factory=dict)


Json = dict[str, Any]


@dataclass(frozen=True)
class StepReport:
    """A moment inside an epoch.

    Attributes:
        epoch, epochs: Current (from 0) and planned.
        step, steps: Optimizer steps done and planned for the whole run.
        kept, dropped: Rows of this epoch's plan.
        loss: Mean training loss since the epoch began; None before the first step.
        examples_per_s: Training throughput of this epoch.
        seconds_left: Estimated from the steps that remain.
        seconds_saved: What the dropped examples would have cost so far, less the time spent on scoring and selecting.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    kept: int
    dropped: int
    loss: float | None
    examples_per_s: float
    seconds_left: float
    seconds_saved: float


class Listener(Protocol):
    """Receives what happens, in order: notes and phases at any time, then forecast, steps and epochs."""

    def note(self, text: str) -> None:
        """One fact about the data or the run that the user should know."""

    def phase(self, text: str) -> None:
        """What is being done now, e.g. `tokenising`, `scoring`, `testing`."""

    def planned(self, forecast: Forecast) -> None:
        """What the run will do, before it does anything."""

    def stepped(self, report: StepReport) -> None:
        """An optimizer step has been made (at most a few times a second)."""

    def epoch_ended(self, result: EpochResult) -> None:
        """An epoch is over and the dev split has been evaluated."""


class Silent:
    """Listens and says nothing."""

    def note(self, text: str) -> None:
        """Ignored."""

    def phase(self, text: str) -> None:
        """Ignored."""

    def planned(self, forecast: Forecast) -> None:
        """Ignored."""

    def stepped(self, report: StepReport) -> None:
        """Ignored."""

    def epoch_ended(self, result: EpochResult) -> None:
        """Ignored."""
