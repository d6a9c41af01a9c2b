"""The logged loss of weighed rows, of classifiers and of loss functions, beside weights by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput

from datadiet.diet.diet import Diet
from datadiet.training.loss import Asked
from datadiet.training.trainer import DietTrainer
from toys import toy_trainer

ROWS = 12
WEIGHTS = np.float32([1, 2, 3, 2] * 3)


def of_mean(outputs, labels, num_items_in_batch=None):
    return functional.cross_entropy(outputs["logits"], labels)


def of_sum(outputs, labels, num_items_in_batch=None):
    return functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch


def squared(outputs, labels, num_items_in_batch=None):
    """No sum over rows, and no mean of them."""
    return functional.cross_entropy(outputs["logits"], labels).square()


class Recorded(DietTrainer):
    """Keeps the rows, logits and labels of each training batch."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        rows, labels = self._steps.rows.numpy(), inputs["labels"]
        handle = model.register_forward_hook(lambda *given: self.kept.append((rows, given[-1].logits, labels)))
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        handle.remove()
        return loss


def run(folder, weights, function=None, smoothing=0.0):
    extra = {"compute_loss_func": function, "row_weights": weights, "eval_dataset": None}
    changes = {"num_train_epochs": 1, "learning_rate": 0.0, "label_smoothing_factor": smoothing}
    trainer = toy_trainer(folder, Diet(keep=1.0), kind=Recorded, n=ROWS, extra=extra, **changes)
    trainer.kept = []
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("function", "smoothing"), [(None, 0.0), (of_mean, 0.0), (of_sum, 0.0), (None, 0.2), (squared, 0.0)]
)
def test_the_logged_loss_is_the_weighed_mean(function, smoothing, tmp_path):
    trainer = run(tmp_path / "weighed", WEIGHTS, function, smoothing)
    expected = []
    for rows, logits, labels in trainer.kept:
        losses = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        factors = torch.from_numpy(WEIGHTS[rows] / WEIGHTS.mean())
        expected.append((factors * losses).mean().item() if function is not squared else losses.mean().item() ** 2)
    assert trainer.seen.losses == pytest.approx(expected, rel=1e-5)
    ones = run(tmp_path / "ones", np.ones(ROWS, np.float32), function, smoothing)
    plain = run(tmp_path / "plain", None, function, smoothing)
    assert ones.seen.losses == plain.seen.losses


def token_mean(outputs, labels):
    return functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def row_mean(outputs, labels):
    losses = functional.cross_entropy(outputs.logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    return (losses.sum(1) / (labels[:, 1:] != -100).sum(1)).mean()


@pytest.mark.parametrize("function", [token_mean, row_mean])
@pytest.mark.parametrize("wide", [False, True])
def test_a_mean_over_tokens_and_one_over_rows_are_told_apart(function, wide):
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5))
    labels[0, :3] = labels[2, 0] = -100
    outputs = SequenceClassifierOutput(loss=torch.ones(()), logits=logits)
    weights = torch.tensor([0.5, 2.0, 2.0])
    value = function(outputs, labels)
    losses = functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    counts = (labels[:, 1:] != -100).sum(1)
    expected = (weights * losses.sum(1)).sum() / counts.sum()
    if function is row_mean:
        expected = (weights * losses.sum(1) / counts).mean()
    given = weights[:, None].expand(3, 4) if wide else weights
    added = Asked(function, outputs, labels, {}, value).weighed(given, value)
    assert (value + added).item() == pytest.approx(expected.item(), rel=1e-5)
