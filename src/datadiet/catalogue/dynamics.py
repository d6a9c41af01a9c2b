"""Scores over all forward passes of a run."""

from __future__ import annotations

from datadiet.catalogue.method import PAUL, Method

CARTOGRAPHY = "Swayamdipta et al. 2020, arXiv 2009.10795"
_FREE = "recorded by every run"
_LATE = "with few values, as after one epoch; examples that rest have old values"

DYNAMIC_SCORES: tuple[Method, ...] = (
    Method(
        "score",
        "confidence",
        "1 - mean over rounds of p_y",
        "p_y, all rounds",
        f"8 bytes per example; {_FREE}",
        f"{CARTOGRAPHY}, section 2",
        "on noisy labels, whose confidence stays low",
    ),
    Method(
        "score",
        "variability",
        "population standard deviation over rounds of p_y",
        "p_y, all rounds",
        f"12 bytes per example; {_FREE}",
        f"{CARTOGRAPHY}, section 2",
        "when little is kept: ambiguous examples alone do not train; and in the first two rounds",
    ),
    Method(
        "score",
        "correctness",
        "share of rounds in which the example was wrong",
        "correctness, all rounds",
        f"8 bytes per example; {_FREE}",
        f"{CARTOGRAPHY}, section 2",
        "with few rounds: nearly all values tie",
    ),
    Method(
        "score",
        "threshold_closeness",
        "c (1 - c), c = mean over rounds of p_y",
        "p_y, all rounds",
        f"8 bytes per example; {_FREE}",
        f"Chang et al. 2017, arXiv 1704.07433, section 3.3; {CARTOGRAPHY}",
        _LATE,
    ),
    Method(
        "score",
        "forgetting",
        "times it went from right to wrong; never right = one more than the largest count",
        "correctness, all rounds",
        f"8 bytes per example; {_FREE}; at step cadence the passes of datadiet.Probe",
        "Toneva et al. 2019, arXiv 1812.05159, section 3",
        "at epoch cadence in short fine-tuning: nearly all counts are 0",
    ),
    Method(
        "score",
        "aum",
        "mean over rounds of (largest logit of another class - label's logit); above 0 = suspect",
        "margin, all rounds",
        f"8 bytes per example; {_FREE}",
        "Pleiss et al. 2020, arXiv 2001.10528, section 3.1, sign turned",
        "with hardest on noisy labels, which it is made to find: set the top aside, or drop it",
    ),
    Method(
        "score",
        "tracin_self_influence",
        "mean over rounds of || p - onehot(y) ||^2 (1 + || h ||^2), h = input of the last layer",
        "el2n, norm of h, all rounds",
        f"8 bytes per example; {_FREE}",
        "Pruthi et al. 2020, arXiv 2002.08484, section 3, of the last layer, without learning rates",
        "beyond 30 % dropped on SNLI (Anand et al. 2023)",
    ),
    Method(
        "score",
        "grand_last_layer",
        "mean over rounds of || p - onehot(y) || sqrt(1 + || h ||^2)",
        "el2n, norm of h, all rounds",
        f"8 bytes per example; {_FREE}",
        f"{PAUL}, section 2.1, closed form of the last layer",
        "as el2n, on noisy labels",
    ),
)
