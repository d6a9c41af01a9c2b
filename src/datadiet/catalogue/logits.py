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
)
