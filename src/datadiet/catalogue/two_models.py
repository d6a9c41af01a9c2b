"""Scores that compare two models: functions of `datadiet.scores.two_models`."""

from __future__ import annotations

from datadiet.catalogue.method import Method

TWO_MODEL_SCORES: tuple[Method, ...] = (
    Method(
        "score",
        "negative_pvi",
        "log2 p_null(y) - log2 p(y), in bits; above 0 = the input misleads",
        "logits of a model, and of one trained on empty inputs, both cross-fitted: datadiet score --folds K --epochs E",
        "two trainings per fold, one forward of n",
        "Ethayarajh et al. 2022, arXiv 2110.08420, sign turned",
        "not cross-fitted it says nothing after about 2 epochs; beyond 10 % removed it falls below random on SNLI",
    ),
    Method(
        "score",
        "reducible_loss",
        "loss(x, y) - loss under a model trained on other data",
        "logits, labels, irreducible losses (computed once: datadiet score --holdout, or --folds)",
        "a training on hold-out data and a forward of n, once",
        "Mindermann et al. 2022 (RHO), arXiv 2206.07137",
        "its in-batch form saves steps, not time in proportion: every candidate has a forward",
    ),
    Method(
        "score",
        "teacher_el2n",
        "|| p - p_teacher ||_2, in [0, sqrt 2]",
        "logits of a model and its teacher",
        "one forward of n with the teacher, once",
        "EL2N with soft labels",
        "where the teacher is wrong as well",
    ),
    Method(
        "score",
        "teacher_divergence",
        "KL(p_teacher || p), in nats",
        "logits of a model and its teacher",
        "one forward of n with the teacher, once",
        "Hinton et al. 2015, arXiv 1503.02531",
        "no upper bound: a few certain disagreements outweigh everything in a mean",
    ),
)
