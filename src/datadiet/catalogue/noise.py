"""What is set aside, ranked or merged because it is wrong or said already."""

from __future__ import annotations

from datadiet.catalogue.method import PAUL, Method

PLEISS = "Pleiss et al. 2020, arXiv 2001.10528"

NOISE: tuple[Method, ...] = (
    Method(
        "offset",
        "SHARE",
        "the hardest share, whatever they are",
        "values",
        "nothing",
        f"{PAUL}, section 4",
        loses="on clean labels it takes away the most informative examples; the share must be guessed",
    ),
    Method(
        "offset",
        "auto",
        "rows likelier mislabelled than not: P(label contradicts | confidence) falls to r, the share of wrong labels",
        "loss and margin of the training forward, one class per example",
        "a forward of the rows at rest per refresh",
        "ours; after Northcutt et al. 2021, arXiv 1911.00068, and Wichmann and Hill 2001 (lapse rate)",
        loses="labels wrong by a rule; hard data with few rows, where it finds too few",
    ),
    Method(
        "suspects",
        "aum",
        "mean over epochs of max_{c != y} z_c - z_y",
        "a run's score history",
        "nothing",
        PLEISS,
        loses="hard classes rank as wrong ones; late epochs know wrong labels by heart",
    ),
    Method(
        "suspects",
        "threshold",
        "aum at or past the first percentile of aum of n / (C + 1) rows with a class that does not exist",
        "Python only: a run with such rows, two to judge every row",
        "a run",
        f"{PLEISS}, section 4",
        loses="with many classes there are few threshold samples",
    ),
    Method(
        "suspects",
        "el2n",
        "mean over early epochs and seeds of || p - onehot(y) ||_2",
        "score histories of one run or of several seeds",
        "nothing beyond the runs",
        PAUL,
        loses="hard examples rank as wrong ones",
    ),
    Method(
        "suspects",
        "irreducible",
        "loss of a model that has not seen the row, less the trained model's",
        "a model trained on a holdout, or cross-fitted",
        "a run and a forward of n",
        "Mindermann et al. 2022, arXiv 2206.07137",
        loses="a weak holdout model finds everything irreducible",
    ),
    Method(
        "suspects",
        "cleanlab",
        "1 - cleanlab's label quality",
        "Python only: out-of-sample probabilities, datadiet[cleanlab]",
        "cross-validation",
        "Northcutt et al. 2021, arXiv 1911.00068",
        loses="with the probabilities of training itself, which know the labels",
    ),
    Method(
        "dedupe",
        "exact",
        "one row per text, case and spacing aside; the first with the most common label",
        "texts, labels",
        "O(n)",
        "ours",
        loses="where the frequency of a text is information, unless it becomes a weight (--dedupe-weights)",
    ),
    Method(
        "dedupe",
        "near",
        "one row per group of Jaccard similarity >= near of character 4-grams: MinHash, banded, each pair checked",
        "texts, labels",
        "about O(n)",
        "Broder 1997; Lee et al. 2022, arXiv 2107.06499",
        loses="templates with one word changed are near repeats too",
    ),
)
