"""Scores that need gradients: functions of `datadiet.gradients` and `datadiet.scores.gradients`."""

from __future__ import annotations

from datadiet.catalogue.method import PAUL, Method

ANAND = "Anand, Tan and Minakova 2023 (Influence Scores at Scale, EMNLP)"

ATTRIBUTION: tuple[Method, ...] = (
    Method(
        "attribution",
        "dattri_tracin",
        "tracin by dattri, exact; with normalised=True of gradients of length 1",
        "as tracin; Python only, datadiet[attribution]",
        "a backward of n and dev per checkpoint, in memory one row of the chosen weights per example of a batch",
        "Pruthi et al. 2020, arXiv 2002.08484, by TRAIS-Lab/dattri",
        "a small or noisy dev set, whose mean gradient is noise",
    ),
    Method(
        "attribution",
        "attributed",
        "minus the mean influence on dev by any attributor of dattri, such as TRAK or influence functions",
        "checkpoints, labels, a dev set; Python only, datadiet[attribution]",
        "that of the attributor, in memory one row of the chosen weights per example of a batch",
        "TRAIS-Lab/dattri, and the papers of its attributors",
        "as tracin; projected at random, unless told otherwise, values are off by some per cent",
    ),
)

GRADIENT_SCORES: tuple[Method, ...] = (
    Method(
        "score",
        "grand",
        "|| grad_w loss ||_2 over all or chosen weights; last layer: ||p - y|| sqrt(1 + ||h||^2)",
        "a model, labels",
        "one forward and backward of n; last layer: one forward",
        f"{PAUL}, section 2.1",
        "before training, where it did not reproduce; on noisy labels, which it ranks hardest",
    ),
    Method(
        "score",
        "vog",
        "mean_td sqrt(var_c dz_y / de_td) over checkpoints c, without padding; standard scores per class or data set",
        "checkpoints of one run, labels",
        "one forward and backward of n per checkpoint; 8 bytes per real token and dimension",
        f"Agarwal et al. 2022, arXiv 2008.11600; text: {ANAND}",
        "it does not find mislabelled examples better than chance; cut off hard it can strip a class",
    ),
    Method(
        "score",
        "self_influence",
        "sum_c eta_c || grad_w loss_c ||^2 over checkpoints c",
        "checkpoints and learning rates of one run, labels",
        "that of grand, per checkpoint",
        "Pruthi et al. 2020, arXiv 2002.08484, section 4.1",
        "beyond about 30 % removed it falls below random on SNLI",
    ),
    Method(
        "score",
        "tracin",
        "- sum_c eta_c <grad_w loss_c, mean_dev grad_w loss_c>; above 0 = harmful to dev",
        "checkpoints and learning rates of one run, labels, a clean dev set",
        "last layer: one forward of n and dev per checkpoint; else a pass of n in forward mode",
        "Pruthi et al. 2020, arXiv 2002.08484, section 3, sign turned",
        "a small or noisy dev set, whose mean gradient is noise",
    ),
)
