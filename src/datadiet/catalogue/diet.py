"""How heads are combined, what earlier rounds count for, and which examples get a pass."""

from __future__ import annotations

from datadiet.catalogue.method import ATTENDU, RAJU, Method

DIET_OPTIONS: tuple[Method, ...] = (
    Method(
        "combine",
        "norm",
        "sqrt(e_intent^2 + sum_t e_t^2): the norm of all errors; favours long sentences",
        "intent and slot logits",
        "nothing",
        ATTENDU,
        "it grows with the length: fewer tokens than examples are saved, short hard requests rest",
    ),
    Method(
        "combine",
        "mean",
        "(e_intent + mean_t e_t) / 2: the same for short and long sentences",
        "intent and slot logits",
        "nothing",
        f"the released code of {ATTENDU}",
        "one wrong word of a long sentence hardly shows",
    ),
    Method(
        "combine",
        "sum",
        "e_intent + sum_t e_t; favours long sentences most",
        "intent and slot logits",
        "nothing",
        f"the released code of {ATTENDU}",
        "as norm, and more so",
    ),
    Method(
        "history",
        "last",
        "the last round's value",
        "1 round",
        "4 bytes per example",
        ATTENDU,
        "one noisy value decides; with `rescore none` it has dropout in it",
    ),
    Method(
        "history",
        "mean",
        "the mean of the last w rounds",
        "--history-window w",
        "4 w bytes per example",
        ATTENDU,
        "it reacts late: what has just been learned still counts as hard",
    ),
    Method(
        "history",
        "ema",
        "m + c * s: moving mean with weight alpha on the new value, plus c moving standard deviations",
        "--history-alpha, --history-c",
        "16 bytes per example",
        f"{RAJU} (the upper confidence bound); {ATTENDU}",
        "as mean, it reacts late; with few refreshes all histories say nearly the same",
    ),
    Method(
        "rescore",
        "all",
        "score every example in eval mode",
        "one forward of n",
        "n forwards per refresh",
        ATTENDU,
        "in time, with a refresh every epoch: the passes eat much of what was saved",
    ),
    Method(
        "rescore",
        "dropped",
        "score the dropped examples; kept ones have the value seen while training",
        "one forward of the dropped",
        "(1 - keep) * n forwards per refresh",
        "ours",
        "values of two kinds in one ranking: with dropout of what trained, without of what rested",
    ),
    Method(
        "rescore",
        "none",
        "no extra pass: values seen while training, dropout on; an example never seen comes first",
        "the training forward",
        "nothing",
        "in the manner of Qin et al. 2024 (InfoBatch), arXiv 2303.04947",
        "values have dropout and different ages; what has become of an example at rest is estimated",
    ),
)
