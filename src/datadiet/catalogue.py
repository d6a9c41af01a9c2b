"""One line of the catalogue.

How heads are combined, what earlier rounds count for, and which examples get a pass.

Scores over all forward passes of a run.

Scores and selectors that look at where examples lie, or at their words: no label and no training needed.

Scores that need gradients: functions of `datadiet.scoring` and `datadiet.scores.last_layer`.

Scores read off logits and labels.

What is set aside, ranked or merged because it is wrong or said already.

Selectors: by rank, by chance, by strata, with weights, by class; and methods within one batch.

Scores that compare two models: functions of `datadiet.scores.two_models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

PAUL = "Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075"
ATTENDU = "Attendu and Corbeil 2023, arXiv 2306.03208"
RAJU = "Raju et al. 2021, arXiv 2111.12621"


@dataclass(frozen=True)
class Method:
    """One choice of one flag.

    Attributes:
        kind: The flag it is a value of, a key of `datadiet.catalogue.KINDS`.
        name: As it is written after the flag.
        formula: In ASCII; p = softmax(logits), y = label, n = training examples.
        needs: What it reads of a forward pass, or which options shape it.
        cost: Beyond training itself.
        paper: Where it was published; `ours` where it was not.
        loses: When it is known to lose, or cannot be told to win.
    """

    kind: str
    name: str
    formula: str
    needs: str
    cost: str
    paper: str
    loses: str


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


_MODERATE = "Xia et al. 2023 (Moderate Coreset), ICLR"
_SCDP = "SCDP, COLING 2025 (he-y/NLP-Dataset-Pruning)"

GEOMETRY_SCORES: tuple[Method, ...] = (
    Method(
        "score",
        "prototypes",
        "distance to the nearest centroid of k-means, Euclidean or 1 - cos; per class with labels",
        "embeddings",
        "k-means: O(n k d)",
        "Sorscher et al. 2022, arXiv 2206.14486, section 4",
        "embeddings that cluster by topic; with many clusters an outlier is a prototype itself and counts as easiest",
    ),
    Method(
        "score",
        "moderate",
        "|| x - median of the class ||_2, for the selector of that name",
        "embeddings, label",
        "O(n d log n)",
        _MODERATE,
        "classes of several kinds, whose median lies between them",
    ),
    Method(
        "score",
        "neighbour_distance",
        "mean distance to the 10 nearest other examples; 0 among copies",
        "embeddings",
        "O(n^2 d), exact",
        "Ramaswamy et al. 2000, SIGMOD, as a mean",
        "keeping the hardest by it keeps broken texts and outliers",
    ),
    Method(
        "score",
        "scdp",
        "|| x - m ||_2, x = TF-IDF of the text, m = geometric median of all; per class with labels",
        "text",
        "O(words), no model",
        _SCDP,
        "long or rare words alone make a text hard; published with one seed",
    ),
    Method(
        "score",
        "length",
        "number of words, or of characters: `hardest` of it is the baseline of the longest texts",
        "text",
        "O(words), no model",
        "Zhao et al. 2024, arXiv 2402.04833",
        "it saves fewer tokens than examples",
    ),
)

GEOMETRY_SELECTORS: tuple[Method, ...] = (
    Method(
        "select",
        "moderate",
        "the middle of the values, percentiles 0.5 - keep / 2 to 0.5 + keep / 2; per class if wished",
        "values, best the score of that name",
        "O(n log n)",
        _MODERATE,
        "clean labels, where what is far from the middle teaches most",
    ),
    Method(
        "select",
        "k_center",
        "the row farthest from all kept so far, again and again",
        "embeddings; no values",
        "O(n count d), in blocks",
        "Sener and Savarese 2018, arXiv 1708.00489; Gonzalez 1985",
        "outliers and noise, which are far from everything and come first",
    ),
    Method(
        "select",
        "herding",
        "the row that brings the mean of the kept ones nearest to the mean of all, again and again",
        "embeddings; no values",
        "O(n count d)",
        "Welling 2009; Chen, Welling and Smola 2010, arXiv 1203.3472",
        "rare kinds of examples, which hardly move a mean",
    ),
    Method(
        "select",
        "d2_pruning",
        "u = v + sum of exp(-d) v over neighbours; keep the largest u, take exp(-gamma d) u from its neighbours",
        "embeddings, values",
        "O(n^2 d) for the neighbours, then O(n log n)",
        "Maharana, Yadav and Bansal 2024, arXiv 2310.07931",
        "noisy labels, as with `hardest`; more copies of an example than neighbours are not told apart",
    ),
    Method(
        "select",
        "facility_location",
        "greedy maximum of sum_i max over kept j of max(0, cos(x_i, x_j))",
        "embeddings; no values",
        "O(n^2 d) for the neighbours, then lazy greedy; over 2,000 rows the nearest 32 to 512 alone count",
        "Wei, Iyer and Bilmes 2015, ICML; Minoux 1978",
        "rare kinds of examples, when little is kept",
    ),
    Method(
        "select",
        "graph_cut",
        "greedy maximum of likeness to all minus lambda times likeness among the kept",
        "embeddings; no values",
        "as facility_location",
        "Iyer et al. 2021, arXiv 2006.15412",
        "a small lambda keeps copies of the most usual, a large one keeps outliers",
    ),
)


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


_SORSCHER = "Sorscher et al. 2022, arXiv 2206.14486"
_HE = "He et al., SCDP, COLING 2025"

SELECTORS: tuple[Method, ...] = (
    Method(
        "select",
        "hardest",
        "the `count` largest values; beware of noisy or ambiguous labels",
        "values, --offset",
        "O(n)",
        f"{PAUL}; refreshed: {ATTENDU}",
        "on noisy or ambiguous labels, which it keeps; rare classes that are easy can vanish without a floor",
    ),
    Method(
        "select",
        "easiest",
        "the `count` smallest values",
        "values",
        "O(n)",
        f"{_SORSCHER}, section 2",
        "nearly always: what a model knows already teaches it nothing",
    ),
    Method(
        "select",
        "window",
        "skip the hardest share `offset` as suspected noise, then the `count` largest",
        "values, --offset",
        "O(n)",
        f"{PAUL}, section 4; {ATTENDU}",
        "on clean labels, where what is set aside is what should be learned",
    ),
    Method(
        "select",
        "random",
        "`count` uniformly, drawn again at every refresh: the baseline to beat",
        "nothing",
        "O(n), no scoring",
        RAJU,
        "to good values, when little is kept and labels are clean",
    ),
    Method(
        "select",
        "epsilon",
        "(1 - epsilon) * count hardest, epsilon * count uniformly among the rest",
        "values, --epsilon",
        "O(n)",
        RAJU,
        "as hardest, a little less: most places are still the hardest ones'",
    ),
    Method(
        "select",
        "uncertain",
        "drawn without replacement, probability ~ q (1 - q) + 0.01, q = value / largest value, or rank",
        "values",
        "O(n)",
        "Chang et al. 2017, arXiv 1704.07433, section 3.2, with a floor",
        "on clean labels when little is kept, where the hardest are worth more than a mixture",
    ),
    Method(
        "select",
        "proportional",
        "drawn without replacement, probability ~ value brought to [0.01, 1], or ~ exp(value / temperature)",
        "values",
        "O(n)",
        "Anand et al. 2023, EMNLP, section 5",
        "to hardest where labels are clean and little is kept; softmax on noisy labels, as hardest",
    ),
    Method(
        "select",
        "ccs",
        "set the beta hardest aside, cut the rest into strata of equal width, fill from the smallest, draw inside",
        "values, beta, strata",
        "O(n)",
        "Zheng et al. 2023, ICLR, algorithm 1",
        "to hardest where much is kept of clean data; beta must be about the share of bad labels",
    ),
    Method(
        "select",
        "stratified",
        "from each quantile of the values the same share, at random",
        "values, strata",
        "O(n)",
        "the stratified baseline of Anand et al. 2023, EMNLP, section 5",
        "to whatever a good score would prefer: it only lowers the variance of random",
    ),
    Method(
        "select",
        "both_ends",
        "70 % of the places to the hardest, 30 % to the easiest",
        "values, hard",
        "O(n)",
        "Swayamdipta et al. 2020, arXiv 2009.10795; --both_ends of its code",
        "on noisy labels, as hardest: most places are the hardest ones'",
    ),
    Method(
        "select",
        "infobatch",
        "all at or above the mean, weight 1; of the rest a uniform draw, weight rest / drawn: sums stay unbiased",
        "values (losses), loss weights in the trainer",
        "O(n)",
        "Qin et al. 2024, InfoBatch, arXiv 2303.04947",
        "at small keeps no better than random, since few rows below the mean carry large weights",
    ),
    Method(
        "select",
        "seta",
        "quantile groups of the values; a window over them slides from easy to hard each epoch and wraps",
        "values, num_groups, window, every",
        "O(n); k-means groups O(n log n)",
        "SeTa, CVPR 2025",
        "in runs of few epochs, which end before the window has passed the hard groups",
    ),
    Method(
        "select",
        "balanced",
        "the same number from every class, the hardest inside each unless told otherwise",
        "values, classes",
        "O(n)",
        "balance of DeepCore, Guo et al. 2022",
        "where the test data is as uneven as the training data and accuracy is what counts",
    ),
    Method(
        "select",
        "partly_balanced",
        "by score, but each class keeps at least balance * count * n_c / n",
        "values, classes, balance",
        "O(n)",
        f"{_SORSCHER}: balancing of 50 %",
        "rare classes stay rare: it guards their proportion, not their number",
    ),
    Method(
        "select",
        "quota",
        "a share of the places for every class, by default its proportion; inside by any selector",
        "values, classes, shares",
        "O(n)",
        f"class-balanced coverage of {_HE}, with exact counts",
        "where one class holds most of what is left to learn",
    ),
    Method(
        "select",
        "drop_quota",
        "density of class k ~ 1 - recall_k on validation data, at most 1; at random inside each",
        "classes, recalls",
        "O(n), one evaluation",
        "DRoP, ICLR 2025",
        "on average accuracy, which it trades for the worst class; a class with recall 1 vanishes without a floor",
    ),
    Method(
        "select",
        "directed",
        "hardest of some classes, easiest of others, in their proportions",
        "values, classes, directions",
        "O(n)",
        "after Sexism Detection on a Data Diet, arXiv 2406.04892",
        "where the directions are guessed: choose them on dev",
    ),
)

IN_BATCH: tuple[Method, ...] = (
    Method(
        "in_batch",
        "selective_backprop",
        "backward with probability percentile(loss among recent losses) ** beta",
        "losses of the batch",
        "a forward pass of everything",
        "Jiang et al. 2019, arXiv 1910.00762",
        "on noisy labels, as hardest; saves backward passes only",
    ),
    Method(
        "in_batch",
        "divbs",
        "greedily the examples whose gradients span the sum of the batch's: largest <r_i, s>^2 / |r_i|^2",
        "Gram matrix of last-layer gradients",
        "a forward pass of everything, O(batch^2 count)",
        "Hong et al. 2024, DivBS, ICML",
        "on batches without redundancy; saves backward passes only",
    ),
    Method(
        "in_batch",
        "top_reducible",
        "largest loss - loss of a model trained on held-out data",
        "losses, irreducible losses",
        "a forward pass of everything, a model on held-out data",
        "Mindermann et al. 2022, RHO-LOSS",
        "where examples are few: the held-out part is missing from training",
    ),
)


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


KINDS: Mapping[str, str] = {
    "score": "--score, and --scores of datadiet score: how hard an example is; larger = harder, always",
    "select": "--select: which examples an epoch keeps",
    "in_batch": "--select: which examples of each batch get a backward pass",
    "combine": "--combine: how words and heads become one value (intent-slot and token-classification)",
    "history": "--history: how the values of several rounds become one",
    "rescore": "--rescore: which examples get a forward pass at a refresh",
    "offset": "--offset: what is set aside as suspected noise",
    "suspects": "--suspects-by of datadiet select, and datadiet.noise: how likely each label is wrong",
    "dedupe": "--dedupe, with --near of datadiet select, and datadiet.data.duplicates: rows that say the same",
    "attribution": "datadiet.scoring.attribution: what an example does to a dev set, by dattri",
}

METHODS: tuple[Method, ...] = (
    *LOGIT_SCORES,
    *DYNAMIC_SCORES,
    *GRADIENT_SCORES,
    *TWO_MODEL_SCORES,
    *GEOMETRY_SCORES,
    *SELECTORS,
    *GEOMETRY_SELECTORS,
    *IN_BATCH,
    *DIET_OPTIONS,
    *NOISE,
    *ATTRIBUTION,
)


def as_json() -> list[dict[str, str]]:
    """The table for machines: one object per method.

    Example:
        >>> as_json()[0]["name"]
        'el2n'
    """
    return [asdict(method) for method in METHODS]
