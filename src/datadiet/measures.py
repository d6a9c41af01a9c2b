"""What a diet ranks by: a score of each forward pass, a quantity over all of them, or values given beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.checks import Problems
from datadiet.dynamic_scores import DYNAMIC_SCORES, DynamicScore
from datadiet.history import HISTORIES, History
from datadiet.records import Signals
from datadiet.score_options import score_option_problems
from datadiet.scores import EL2N_MAX, EMBEDDING_SCORES, SCORES, TEXT_SCORES, el2n, example_values
from datadiet.scores.free import FREE, OF_LABEL, free_signals

Kind = Literal["forward", "dynamics", "given"]
ScoreFunction = Callable[..., Tensor]
Values = NDArray[np.float32]

# scores of a whole training set: their values are there before the training, or come from a file
GIVEN_SCORES: tuple[str, ...] = (
    *EMBEDDING_SCORES,
    *TEXT_SCORES,
    *("grand", "vog", "self_influence", "tracin"),  # of `datadiet.gradients`
    *("negative_pvi", "reducible_loss", "teacher_el2n", "teacher_divergence"),  # of `datadiet.scores.two_models`
)


@dataclass(frozen=True)
class Measure:
    """How the values of a diet come about.

    Attributes:
        name: Of the score.
        kind: `forward`: a score of one forward pass, by its last value or a history of such; `dynamics`: a quantity
            over every forward pass that recorded an example; `given`: values that training does not change.
        score: Of kind `forward`: the score of a decision.
        dynamic: Of kind `dynamics`: what it reads of the recorded columns.
        combine: How the positions and heads of joint tasks become one value.
        history_name: Of the history; `custom` for one of the user's.
        history: What earlier values count for.
    """

    name: str
    kind: Kind
    combine: str
    history_name: str
    history: History
    score: ScoreFunction | None = None
    dynamic: DynamicScore | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """What is recorded of every forward pass: the free signals, after the score where it is none of them."""
        own = (self.name,) if self.kind == "forward" else ()
        return tuple(dict.fromkeys((*own, *FREE)))

    def recorded(self, signals: Signals, *, of_label: bool = False) -> Tensor:
        """Float32 `(columns, batch)`, in the order of `columns`, with those of `OF_LABEL` after them if asked."""
        values = free_signals(signals, of_label=of_label)
        if self.score is not None and not self._is_free:
            # `margin` may be both: then it is the score
            values[self.name] = example_values(self.score, signals, combine=self.combine)
        return torch.stack([values[name] for name in (*self.columns, *(OF_LABEL if of_label else ()))])

    def read(self, columns: Mapping[str, Values]) -> Values | None:
        """What feeds the history, float32 `(m,)`, of recorded columns; None where training changes nothing."""
        if self.kind == "given":
            return None
        return columns[self.name] if self.dynamic is None else self.dynamic.read(columns)

    def scale(self, *, regression: bool) -> float | None:
        """The largest value the score can have, where it has one: EL2N of one position, or a mean of such."""
        bounded = self.score is el2n and self.combine == "mean" and not regression
        return EL2N_MAX if bounded else None

    @property
    def _is_free(self) -> bool:
        """Whether the score is what the free column of its name holds."""
        return self.score is el2n and self.combine == "norm"


def checked_measure(
    score: str | ScoreFunction,
    combine: str,
    history: str | History,
    problems: Problems,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Measure:
    """The measure of a diet's options; what does not fit is noted.

    Args:
        score: A name, or a function of the form of `datadiet.scores.Score`.
        combine: A name of `datadiet.scores.COMBINATIONS`.
        history: A name, or one of `datadiet.history`.
        problems: Takes what is wrong.
        options: Of the score, by name.
    """
    history_name, chosen = _history(history, problems)
    if not isinstance(score, str):
        problems.check(not options, "score_options are for scores by name; a function has its own.")
        name = getattr(score, "__name__", type(score).__name__)
        needs = set(getattr(score, "needs", ())) - {"logits", "labels"}
        problems.check(
            not needs, f"the score {name} needs {', '.join(sorted(needs))}, which training does not give it."
        )
        return Measure(name, "forward", combine, history_name, chosen, score)
    if score in DYNAMIC_SCORES or score in GIVEN_SCORES:
        problems.check(
            history == "last", f"history has no effect with the score {score!r}, which has all rounds in it: leave it."
        )
    wrong = score_option_problems(score, options) if score in (*SCORES, *DYNAMIC_SCORES, *GIVEN_SCORES) else []
    problems.found += wrong
    if score in DYNAMIC_SCORES:
        dynamic = DYNAMIC_SCORES[score]
        started = dynamic.started(**({} if wrong else options))
        return Measure(score, "dynamics", combine, "last", started, dynamic=dynamic)
    if score in GIVEN_SCORES:
        return Measure(score, "given", combine, "last", chosen)
    problems.choice("score", score, (*SCORES, *DYNAMIC_SCORES, *GIVEN_SCORES))
    return Measure(score, "forward", combine, history_name, chosen, SCORES.get(score, el2n))


def _history(history: str | History, problems: Problems) -> tuple[str, History]:
    """A history and its name."""
    if not isinstance(history, str):
        return "custom", history
    problems.choice("history", history, HISTORIES)
    return history, HISTORIES.get(history, HISTORIES["last"])()


__all__ = ["GIVEN_SCORES", "Measure", "ScoreFunction", "checked_measure"]
