"""Scores read off logits and labels."""

from __future__ import annotations

from datadiet.catalogue.method import ATTENDU, PAUL, Method

_PER_EXAMPLE = "nothing beyond that forward pass"

LOGIT_SCORES: tuple[Method, ...] = (
    Method(
        "score",
        "el2n",
        "|| p - onehot(y) ||_2, in [0, sqrt 2]; regression: |z - y|",
        "logits, label",
        _PER_EXAMPLE,
        f"{PAUL}, section 2.2; joint tasks: {ATTENDU}",
        "on noisy or ambiguous labels, which stay hard; below random when little is kept (Zheng et al. 2023)",
    ),
    Method(
        "score",
        "cross_entropy",
        "-log p_y",
        "logits, label",
        _PER_EXAMPLE,
        f"the `loss` baseline of {ATTENDU}",
        "as el2n; it has no upper bound, so that one certain mistake outweighs all else in a sum or a mean",
    ),
    Method(
        "score",
        "margin",
        "largest logit of another class, minus the label's; above 0 = wrong",
        "logits, label",
        _PER_EXAMPLE,
        "Pleiss et al. 2020, arXiv 2001.10528, section 3.1, sign turned",
        "as el2n; logits grow in training, so values of different rounds are not on one scale",
    ),
    Method(
        "score",
        "entropy",
        "-sum_c p_c log p_c: unsure, whatever the label",
        "logits only",
        _PER_EXAMPLE,
        "uncertainty sampling, Lewis and Gale 1994",
        "on clean labels: what is certain and wrong counts as easy and never trains",
    ),
    Method(
        "score",
        "absolute_error",
        "|z - y|, in units of the label",
        "output, number",
        _PER_EXAMPLE,
        "ours: EL2N of a one-dimensional output",
        "where the noise of the labels grows with the label: it prefers one end of the scale",
    ),
)
