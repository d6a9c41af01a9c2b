"""Every score, selector, history and rescore mode: formula, what it needs, what it costs, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

PAUL = "Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075"
ATTENDU = "Attendu and Corbeil 2023, arXiv 2306.03208"
RAJU = "Raju et al. 2021, arXiv 2111.12621"

KINDS: Mapping[str, str] = {
    "score": "--score: how hard an example is; larger = harder, always",
    "combine": "--combine: how intent and slots become one value (intent-slot only)",
    "select": "--select: which examples an epoch keeps",
    "history": "--history: how the values of several rounds become one",
    "rescore": "--rescore: which examples get a forward pass at a refresh",
}


@dataclass(frozen=True)
class Method:
    """One choice of one flag.

    Attributes:
        kind: The flag it is a value of, a key of `KINDS`.
        name: As it is written after the flag.
        formula: In ASCII; p = softmax(logits), y = label, n = training examples.
        needs: What it reads of a forward pass, or which options shape it.
        cost: Beyond training itself.
        paper: Where it was published; empty for plain baselines.
    """

    kind: str
    name: str
    formula: str
    needs: str
    cost: str
    paper: str = ""


_PER_EXAMPLE = "nothing beyond that forward pass"

METHODS: tuple[Method, ...] = (
    Method(
        "score",
        "el2n",
        "|| p - onehot(y) ||_2, in [0, sqrt 2]; regression: |z - y|",
        "logits, label",
        _PER_EXAMPLE,
        f"{PAUL}, section 2.2; joint tasks: {ATTENDU}",
    ),
    Method("score", "cross_entropy", "-log p_y", "logits, label", _PER_EXAMPLE, f"the `loss` baseline of {ATTENDU}"),
    Method(
        "score",
        "margin",
        "largest logit of another class, minus the label's; above 0 = wrong",
        "logits, label",
        _PER_EXAMPLE,
        "Pleiss et al. 2020, arXiv 2001.10528, section 3.1, sign turned",
    ),
    Method(
        "score",
        "entropy",
        "-sum_c p_c log p_c: unsure, whatever the label",
        "logits only",
        _PER_EXAMPLE,
        "uncertainty sampling, Lewis and Gale 1994",
    ),
    Method(
        "score",
        "absolute_error",
        "|z - y|, in units of the label",
        "output, number",
        _PER_EXAMPLE,
        "EL2N of a one-dimensional output",
    ),
    Method(
        "combine",
        "norm",
        "sqrt(e_intent^2 + sum_t e_t^2): the norm of all errors; favours long sentences",
        "intent and slot logits",
        "nothing",
        ATTENDU,
    ),
    Method(
        "combine",
        "mean",
        "(e_intent + mean_t e_t) / 2: the same for short and long sentences",
        "intent and slot logits",
        "nothing",
        f"the released code of {ATTENDU}",
    ),
    Method(
        "combine",
        "sum",
        "e_intent + sum_t e_t; favours long sentences most",
        "intent and slot logits",
        "nothing",
        f"the released code of {ATTENDU}",
    ),
    Method(
        "select",
        "hardest",
        "the `count` largest values; beware of noisy or ambiguous labels",
        "values, --offset",
        "O(n)",
        f"{PAUL}; refreshed: {ATTENDU}",
    ),
    Method(
        "select",
        "easiest",
        "the `count` smallest values",
        "values",
        "O(n)",
        "Sorscher et al. 2022, arXiv 2206.14486, section 2",
    ),
    Method(
        "select",
        "window",
        "skip the hardest share `offset` as suspected noise, then the `count` largest",
        "values, --offset",
        "O(n)",
        f"{PAUL}, section 4; {ATTENDU}",
    ),
    Method(
        "select",
        "random",
        "`count` uniformly, drawn again at every refresh: the baseline to beat",
        "nothing",
        "O(n), no scoring",
        RAJU,
    ),
    Method(
        "select",
        "epsilon",
        "(1 - epsilon) * count hardest, epsilon * count uniformly among the rest",
        "values, --epsilon",
        "O(n)",
        RAJU,
    ),
    Method(
        "select",
        "uncertain",
        "drawn without replacement, probability ~ q (1 - q) + 0.01, q = value / largest value, or rank",
        "values",
        "O(n)",
        "Chang et al. 2017, arXiv 1704.07433, section 3.2, with a floor",
    ),
    Method("history", "last", "the last round's value", "1 round", "4 bytes per example", ATTENDU),
    Method("history", "mean", "the mean of the last w rounds", "--history-window w", "4 w bytes per example", ATTENDU),
    Method(
        "history",
        "ema",
        "m + c * s: moving mean with weight alpha on the new value, plus c moving standard deviations",
        "--history-alpha, --history-c",
        "16 bytes per example",
        f"{RAJU} (the upper confidence bound); {ATTENDU}",
    ),
    Method("rescore", "all", "score every example in eval mode", "one forward of n", "n forwards per refresh", ATTENDU),
    Method(
        "rescore",
        "dropped",
        "score the dropped examples; kept ones have the value seen while training",
        "one forward of the dropped",
        "(1 - keep) * n forwards per refresh",
    ),
    Method(
        "rescore",
        "none",
        "no extra pass: values seen while training, dropout on; an example never seen comes first",
        "the training forward",
        "nothing",
        "in the manner of Qin et al. 2024 (InfoBatch), arXiv 2303.04947",
    ),
)


def as_json() -> list[dict[str, str]]:
    """The table for machines: one object per method.

    Example:
        >>> as_json()[0]["name"]
        'el2n'
    """
    return [asdict(method) for method in METHODS]
