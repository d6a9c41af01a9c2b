"""Metrics, from gold labels and predictions as text: a gold label that the model does not have counts as an error."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
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

    Examples:
        >>> predictions = [Prediction("a", 0.5, np.array([0.5, 0.5], np.float32))] * 2
        >>> metrics = classification_metrics(["a", "b"], predictions, ("a", "b"))
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'accuracy': 0.5, 'macro_f1': 0.333, 'matthews': 0.0, 'nll': 0.693}
    """
    predicted = [str(prediction.label) for prediction in predictions]
    # one class only: sklearn warns, the correlation is 0 by definition
    constant = len({*gold}) == 1 or len({*predicted}) == 1
    return {
        "accuracy": _share(a == b for a, b in zip(gold, predicted, strict=True)),
        "macro_f1": float(f1_score(gold, predicted, average="macro", zero_division=0)),
        "matthews": 0.0 if constant else float(matthews_corrcoef(gold, predicted)),
        **_nll(zip(gold, (one.probabilities for one in predictions), strict=True), names),
    }


def multi_label_metrics(
    gold: Sequence[Sequence[str]], predictions: Sequence[Prediction], names: Sequence[str]
) -> dict[str, float]:
    """Metrics of any number of labels per example, each but `nll` larger = better.

    `micro_f1` counts every label of every example alike, `macro_f1` is the mean over the labels that occur in gold or
    predictions, `exact_match` the share of examples with exactly the right labels. `nll` is the negative log-likelihood
    of an example, i.e. the binary cross-entropies summed over the model's labels (the training loss is their mean),
    averaged over the examples. A gold label that the model does not have is a miss in all but the last.

    Args:
        gold: The labels of each example.
        predictions: One per example.
        names: The model's labels by number.

    Examples:
        >>> predictions = [Prediction(("a",), 0.6, np.array([0.75, 0.2], np.float32))]
        >>> metrics = multi_label_metrics([("a", "b")], predictions, ("a", "b"))
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'micro_f1': 0.667, 'macro_f1': 0.5, 'exact_match': 0.0, 'nll': 1.897}
    """
    predicted = [set(one.label if isinstance(one.label, tuple) else ()) for one in predictions]
    correct = [set(labels) for labels in gold]
    occurring = sorted(set().union(*correct, *predicted))
    a, b = _multi_hot(correct, occurring), _multi_hot(predicted, occurring)
    right, total = (a & b).sum(0), a.sum(0) + b.sum(0)  # (labels,)
    p = np.array([prediction.probabilities for prediction in predictions], np.float64)  # (examples, labels)
    return {
        "micro_f1": float(2 * right.sum() / total.sum()) if occurring else 0.0,
        "macro_f1": float((2 * right / total).mean()) if occurring else 0.0,
        "exact_match": _share(a == b for a, b in zip(correct, predicted, strict=True)),
        "nll": float(_surprise(np.where(_multi_hot(correct, names), p, 1 - p)).sum(1).mean()),
    }


def _multi_hot(sets: Sequence[set[str]], names: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each set `(sets, names)` has each name."""
    return np.array([[name in labels for name in names] for labels in sets], bool)


def tag_metrics(
    gold: Sequence[Sequence[str]], predictions: Sequence[Prediction], names: Sequence[str]
) -> dict[str, float]:
    """Metrics of one tag per word, each but `nll` larger = better.

    `span_f1` is `slot_f1` under the name that taggers have for it, `accuracy` the share of words with the right tag (a
    word that was cut off counts as tagged `O`), `nll` the mean of -ln p(gold) over the words that the model saw and
    whose tag it has, absent where there is none.

    Args:
        gold: Tags of each example's words.
        predictions: One per example.
        names: The model's tags by number.

    Raises:
        ValueError: If an example has not as many predicted as gold tags.
    """
    predicted = _word_tags(gold, predictions)
    # a word that was cut off has nan for every tag
    words = [
        (tag, p)
        for tags, prediction in zip(gold, predictions, strict=True)
        if prediction.probabilities is not None
        for tag, p in zip(tags, prediction.probabilities, strict=True)
        if not np.isnan(p).any()
    ]
    right = [a == b for tags, guesses in zip(gold, predicted, strict=True) for a, b in zip(tags, guesses, strict=True)]
    return {"span_f1": slot_f1(gold, predicted), "accuracy": _share(right), **_nll(words, names)}


def _word_tags(gold: Sequence[Sequence[str]], predictions: Sequence[Prediction]) -> list[tuple[str, ...]]:
    predicted = [prediction.slots or () for prediction in predictions]
    if any(len(tags) != len(correct) for tags, correct in zip(predicted, gold, strict=True)):
        raise ValueError("every word needs one predicted slot: features, model outputs and examples do not match.")
    return predicted


def regression_metrics(gold: Sequence[float], predictions: Sequence[Prediction]) -> dict[str, float]:
    """`pearson` and `spearman` in [-1, 1], larger = better, 0 where one side is constant; `mse`, smaller = better.

    Examples:
        >>> predictions = [Prediction(number, None, None) for number in (1.0, 2.0, 4.0)]
        >>> regression_metrics([1.0, 2.0, 3.0], predictions)["spearman"]
        1.0
    """
    predicted = np.asarray([prediction.label for prediction in predictions], dtype=np.float64)
    correct = np.asarray(gold, dtype=np.float64)
    varied = len(correct) > 1 and np.ptp(correct) > 0 and np.ptp(predicted) > 0
    with warnings.catch_warnings():
        # a model that predicts nearly one number has a poor correlation: the figure says so itself
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        pearson = float(stats.pearsonr(correct, predicted).statistic) if varied else 0.0
        spearman = float(stats.spearmanr(correct, predicted).statistic) if varied else 0.0
    return {"pearson": pearson, "spearman": spearman, "mse": float(np.mean((correct - predicted) ** 2))}


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
    predicted = _word_tags(slots, predictions)
    right = [intent == str(prediction.label) for intent, prediction in zip(intents, predictions, strict=True)]
    whole = [tuple(tags) == tuple(correct) for tags, correct in zip(predicted, slots, strict=True)]
    return {
        "intent_accuracy": _share(right),
        "slot_f1": slot_f1(slots, predicted),
        "exact_match": _share(a and b for a, b in zip(right, whole, strict=True)),
        **_nll(zip(intents, (one.probabilities for one in predictions), strict=True), names),
    }


def slot_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Micro F1 over spans: a span counts only with its type and both borders right; 0 where there is no span at all.

    Example: two spans, one found with a wrong border, though two words of three are right.
        >>> slot_f1([["B-city", "I-city", "B-day"]], [["B-city", "O", "B-day"]])
        0.5

    Source: seqeval in its default mode, which follows conlleval.pl (Tjong Kim Sang and Buchholz 2000).
    """
    with warnings.catch_warnings():
        # tags without B- and I- are read as spans of equal neighbours, which is what such data mean
        warnings.filterwarnings("ignore", message=".*seems not to be NE tag", category=UserWarning)
        return float(span_f1_score([list(tags) for tags in gold], [list(tags) for tags in predicted], zero_division=0))


def _share(flags: Iterable[bool]) -> float:
    return float(np.mean(list(flags)))


def _nll(decisions: Iterable[tuple[str, NDArray[np.float32] | None]], names: Sequence[str]) -> dict[str, float]:
    """The mean of -ln p(gold) over gold labels with their probabilities by class number; empty where none counts."""
    numbers = {name: number for number, name in enumerate(names)}
    p = [p[numbers[label]] for label, p in decisions if label in numbers and p is not None]
    return {"nll": float(_surprise(np.array(p, np.float64)).mean())} if p else {}


def _surprise(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """-ln p; a float32 probability can underflow to 0, and the smallest normal number keeps means finite."""
    return np.asarray(-np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)))
