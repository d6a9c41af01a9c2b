"""Metrics, from gold labels and predictions as text: a gold label that the model does not have counts as an error."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats
from seqeval.metrics import f1_score as span_f1_score
from sklearn.metrics import f1_score, matthews_corrcoef

from datadiet.tasks.base import Prediction


def classification_metrics(
    gold: Sequence[str], predictions: Sequence[Prediction], names: Sequence[str]
) -> dict[str, float]:
    """Metrics of one class per example, each but `nll` larger = better.

    `macro_f1` is the mean over the classes that occur in gold or predictions, `matthews` the correlation of Gorodkin
    2004 for any number of classes (0 where one of both sides is constant), `nll` the mean of -ln p(gold) over the
    examples whose gold class the model has, absent where there is none.

    Args:
        gold: Class names.
        predictions: One per gold label.
        names: The model's classes by number.

    Example:
        >>> said = [Prediction("a", 0.5, np.array([0.5, 0.5], np.float32))] * 2
        >>> {name: round(value, 3) for name, value in classification_metrics(["a", "b"], said, ("a", "b")).items()}
        {'accuracy': 0.5, 'macro_f1': 0.333, 'matthews': 0.0, 'nll': 0.693}
    """
    found = [str(prediction.label) for prediction in predictions]
    # one class only: sklearn warns, the correlation is 0 by definition
    constant = len({*gold}) == 1 or len({*found}) == 1
    return {
        "accuracy": _share(a == b for a, b in zip(gold, found, strict=True)),
        "macro_f1": float(f1_score(gold, found, average="macro", zero_division=0)),
        "matthews": 0.0 if constant else float(matthews_corrcoef(gold, found)),
        **_nll(gold, predictions, names),
    }


def regression_metrics(gold: Sequence[float], predictions: Sequence[Prediction]) -> dict[str, float]:
    """`pearson` and `spearman` in [-1, 1], larger = better, 0 where one side is constant; `mse`, smaller = better.

    Example:
        >>> said = [Prediction(number, None, None) for number in (1.0, 2.0, 4.0)]
        >>> regression_metrics([1.0, 2.0, 3.0], said)["spearman"]
        1.0
    """
    found = np.asarray([float(prediction.label) for prediction in predictions])
    wanted = np.asarray(gold, dtype=np.float64)
    varied = len(wanted) > 1 and np.ptp(wanted) > 0 and np.ptp(found) > 0
    with warnings.catch_warnings():
        # a model that predicts nearly one number has a poor correlation: the figure says so itself
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        pearson = float(stats.pearsonr(wanted, found).statistic) if varied else 0.0
        spearman = float(stats.spearmanr(wanted, found).statistic) if varied else 0.0
    return {
        "pearson": pearson,
        "spearman": spearman,
        "mse": float(np.mean((wanted - found) ** 2)),
    }


def joint_metrics(
    intents: Sequence[str], slots: Sequence[Sequence[str]], predictions: Sequence[Prediction], names: Sequence[str]
) -> dict[str, float]:
    """Metrics of intent and slots, each but `nll` (of the intent) larger = better.

    `slot_f1` is the F1 over spans, as conlleval and seqeval count them, never the accuracy over words. `exact_match` is
    the share of examples whose intent and every slot are right.

    Args:
        intents: Gold intents.
        slots: Gold tags, one per word.
        predictions: One per example.
        names: The model's intents by number.

    Raises:
        ValueError: If an example has not as many predicted as gold tags.
    """
    found = [prediction.slots or () for prediction in predictions]
    if any(len(tags) != len(wanted) for tags, wanted in zip(found, slots, strict=True)):
        raise ValueError("every word needs one predicted slot: features, model outputs and examples do not match.")
    right = [intent == str(prediction.label) for intent, prediction in zip(intents, predictions, strict=True)]
    whole = [tuple(tags) == tuple(wanted) for tags, wanted in zip(found, slots, strict=True)]
    return {
        "intent_accuracy": _share(right),
        "slot_f1": slot_f1(slots, found),
        "exact_match": _share(a and b for a, b in zip(right, whole, strict=True)),
        **_nll(intents, predictions, names),
    }


def slot_f1(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """Micro F1 over spans: a span counts only with its type and both borders right; 0 where there is no span at all.

    Example: two spans, one found with a wrong border, though two words of three are right.
        >>> slot_f1([["B-city", "I-city", "B-day"]], [["B-city", "O", "B-day"]])
        0.5

    Source: seqeval in its default mode, which follows conlleval.pl (Tjong Kim Sang and Buchholz 2000).
    """
    with warnings.catch_warnings():
        # tags without B- and I- are read as spans of equal neighbours, which is what such data mean
        warnings.filterwarnings("ignore", message=".*seems not to be NE tag", category=UserWarning)
        return float(span_f1_score([list(tags) for tags in gold], [list(tags) for tags in found], zero_division=0))


def _share(flags: Iterable[bool]) -> float:
    return float(np.mean(list(flags)))


def _nll(gold: Sequence[str], predictions: Sequence[Prediction], names: Sequence[str]) -> dict[str, float]:
    numbers = {name: number for number, name in enumerate(names)}
    given = [
        prediction.probabilities[numbers[label]]
        for label, prediction in zip(gold, predictions, strict=True)
        if label in numbers and prediction.probabilities is not None
    ]
    if not given:
        return {}
    # a float32 probability can underflow to 0; the smallest normal number keeps the mean finite
    safe = np.maximum(np.asarray(given, dtype=np.float64), np.finfo(np.float32).tiny)
    return {"nll": float(-np.log(safe).mean())}
