"""How the outputs of a user's own model and loss are read: the values are those of the loss that trains."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from datasets import Dataset
from torch import nn
from torch.nn import functional

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.training.trainer import DietMixin
from toys import Logged, hard_diet, scores_of, tiny_classifier, tiny_tokenizer

ROWS, BATCH = 16, 4
WORDS = ("amber", "birch", "cobalt", "denim")
TOKENIZER = tiny_tokenizer()
YES, CLASS = [row % 2 for row in range(ROWS)], [row % 3 for row in range(ROWS)]
YES_FLOAT = [float(label) for label in YES]
ONE_HOT = [[float(name == label) for name in range(3)] for label in CLASS]
WHOLE_ONE_HOT = [[int(one) for one in row] for row in ONE_HOT]
SETS = [[1.0, float(row % 2), float(row % 3 == 0)] for row in range(ROWS)]
SIDE = 2**0.5  # of EL2N with two classes


def features(labels, name="labels"):
    texts = [f"the {WORDS[row % 4]} of {WORDS[row // 4]} is in it" for row in range(ROWS)]
    return Dataset.from_dict({**TOKENIZER(texts), name: labels})


def classifier(outputs, problem=None):
    model = tiny_classifier(outputs)
    model.config.problem_type = problem
    return model


def trained(folder, compute, labels, *, outputs=1, diet=None, model=None, name="labels", plain=False, resume=None,
    **options
):  # fmt: skip
    """One epoch at a learning rate of 0 with a `compute_loss` of one's own, and the trainer."""
    base = hf.Trainer if compute is None else type("Own", (hf.Trainer,), {"compute_loss": compute})
    kind = base if plain else type("Dieting", (DietMixin, base), {})
    usual = {"num_train_epochs": 2, "per_device_train_batch_size": BATCH, "learning_rate": 0.0, "report_to": "none"}
    usual |= {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
    args = hf.TrainingArguments(str(folder), **{**usual, **options.pop("arguments", {})})
    given = {} if plain else {"diet": diet or hard_diet(keep=0.5)}
    logged = Logged()
    trainer = kind(
        model=model or classifier(outputs), args=args, train_dataset=features(labels, name),
        data_collator=hf.DataCollatorWithPadding(TOKENIZER), callbacks=[logged], **given, **options,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    trainer.seen = logged
    return trainer


def logits_of(trainer):
    """Of all rows, float32 `(rows, outputs)`."""
    batch = hf.DataCollatorWithPadding(TOKENIZER)([*features(YES).remove_columns("labels")])
    with torch.no_grad():
        output = trainer.model.eval()(**batch)
    return output["logits"] if isinstance(output, dict) else output[1]


def values(trainer, folder, column="el2n"):
    table = scores_of(folder)
    table = table[table["epoch"] == 0].sort_values("row")
    assert table["row"].tolist() == list(range(ROWS))
    return torch.tensor(table[column].to_numpy())


def own(loss, *, returns=True, **calls):
    """A `compute_loss` as scripts write it: the model without labels, then a loss."""

    def compute(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        value = loss(outputs.logits, labels)
        return (value, outputs) if return_outputs and returns else value

    return compute


def bce(logits, labels):
    return functional.binary_cross_entropy_with_logits(logits.squeeze(-1), labels.float())


def focal(logits, labels):
    right = torch.where(labels == 1, logits.squeeze(-1).sigmoid(), 1 - logits.squeeze(-1).sigmoid())
    return (-((1 - right) ** 2) * right.log()).mean()


def with_labels_of_its_own(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    """The model is given the labels, and its own loss is thrown away."""
    outputs = model(**inputs)
    loss = bce(outputs.logits, inputs["labels"])
    return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("labels", [YES, YES_FLOAT], ids=["whole", "float"])
@pytest.mark.parametrize(
    "compute",
    [
        own(bce),
        own(bce, returns=False),
        own(lambda z, y: nn.BCELoss()(z.sigmoid().flatten(), y.float())),
        own(lambda z, y: nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))(z, y.float()[:, None])),
        own(focal),
        own(lambda z, y: -functional.logsigmoid(z.flatten() * (2.0 * y - 1)).mean()),
        own(lambda z, y: functional.mse_loss(z.sigmoid().flatten(), y.float())),
        with_labels_of_its_own,
    ],
    ids=["bce", "loss only", "bce of p", "weighted", "focal", "logsigmoid", "brier", "labels given too"],
)
def test_one_logit_under_a_sigmoid_is_two_classes(tmp_path, compute, labels):
    trainer = trained(tmp_path, compute, labels)
    expected = SIDE * (logits_of(trainer)[:, 0].sigmoid() - torch.tensor(YES)).abs()
    assert torch.allclose(values(trainer, tmp_path), expected, atol=1e-5)
    assert torch.allclose(values(trainer, tmp_path, "gold_probability"), 1 - expected / SIDE, atol=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: functional.mse_loss(z.flatten(), y),
        lambda z, y: functional.l1_loss(z, y[:, None]),
        lambda z, y: functional.smooth_l1_loss(z.squeeze(), y),
        lambda z, y: functional.huber_loss(z.squeeze(), y),
        lambda z, y: 2 * ((z.flatten() - y) ** 2).mean().sqrt(),
    ],
    ids=["mse", "l1", "smooth", "huber", "by hand"],
)
def test_one_logit_under_a_distance_is_a_number(tmp_path, loss):
    trainer = trained(tmp_path, own(loss), YES_FLOAT)
    expected = (logits_of(trainer)[:, 0] - torch.tensor(YES)).abs()
    assert torch.allclose(values(trainer, tmp_path), expected, atol=1e-5)


def softmax_error(logits, targets):
    return (logits.softmax(-1) - targets).norm(dim=-1)


def sigmoid_error(logits, targets):
    return (logits.sigmoid() - targets).norm(dim=-1)


@pytest.mark.parametrize(
    ("labels", "loss", "error"),
    [
        (ONE_HOT, functional.cross_entropy, softmax_error),
        (ONE_HOT, lambda z, y: functional.cross_entropy(z, y.argmax(1)), softmax_error),
        (ONE_HOT, lambda z, y: -(y * z.log_softmax(-1)).sum(-1).mean(), softmax_error),
        (ONE_HOT, functional.binary_cross_entropy_with_logits, sigmoid_error),
        (SETS, functional.binary_cross_entropy_with_logits, sigmoid_error),
        (CLASS, functional.cross_entropy, softmax_error),
        (CLASS, lambda z, y: functional.multi_margin_loss(z, y), softmax_error),
        ([[label] for label in CLASS], lambda z, y: functional.cross_entropy(z, y.view(-1)), softmax_error),
        (
            CLASS,
            lambda z, y: functional.binary_cross_entropy_with_logits(z, functional.one_hot(y, 3).float()),
            sigmoid_error,
        ),
        (WHOLE_ONE_HOT, lambda z, y: functional.cross_entropy(z, y.float()), softmax_error),
    ],
    ids=["one-hot", "argmax", "by hand", "one-hot sigmoids", "sets", "classes", "hinge", "column", "onehot in the loss",
         "whole one-hot"],
)  # fmt: skip
def test_several_logits_are_read_by_their_loss(tmp_path, labels, loss, error):
    trainer = trained(tmp_path, own(loss), labels, outputs=3)
    targets = torch.tensor(SETS if labels is SETS else ONE_HOT)
    assert torch.allclose(values(trainer, tmp_path), error(logits_of(trainer), targets), atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "loss", "outputs", "message"),
    [
        (YES_FLOAT, lambda z, y: functional.mse_loss(z.sigmoid().flatten() * 5, y * 5), 1, None),
        ([0.0, 2.5, 4.0, 5.0] * 4, lambda z, y: functional.mse_loss(5 * z.sigmoid().flatten(), y), 1, "must be 0 or 1"),
        (YES_FLOAT, lambda z, y: functional.mse_loss(z.flatten(), (y - 0.5) / 0.5), 1, "rescaled"),
        (YES_FLOAT, lambda z, y: functional.mse_loss(3 * z.flatten(), y), 1, "nothing shows which.*problem_type"),
        (YES_FLOAT, lambda z, y: bce(z, 1 - y), 1, "turned round"),
        (YES_FLOAT, lambda z, y: functional.cosine_similarity(z.flatten(), y, dim=0), 1, "nothing shows which"),
        ([0.1, 0.9] * 8, bce, 1, "must be 0 or 1"),
        ([[0.2, 0.3, 0.5]] * ROWS, functional.cross_entropy, 3, "other than 0 and 1"),
        (SETS, functional.cross_entropy, 3, "one label a row"),
        (SETS, functional.mse_loss, 3, "several numbers"),
        (
            ONE_HOT,
            lambda z, y: functional.cosine_similarity(z, y).mean(),
            3,
            "one-hot classes .* or sets.*problem_type",
        ),
        ([label + 1 for label in CLASS], lambda z, y: functional.cross_entropy(z, y - 1), 3, "renumbered"),
        (CLASS, lambda z, y: functional.cross_entropy(z, y, ignore_index=0), 3, "some left out that are not -100"),
        (CLASS, lambda z, y: functional.cross_entropy(z[y > 0], y[y > 0]), 3, "some left out that are not -100"),
        (YES, lambda z, y: functional.binary_cross_entropy_with_logits(z[:, 1], y.float()), 2, "as they are"),
        (CLASS, lambda z, y: functional.mse_loss(z, functional.one_hot(y, 3).float()), 3, "as they are"),
        (CLASS, lambda z, y: -functional.logsigmoid(z * (2 * (torch.arange(3) < y[:, None]) - 1)).sum(), 3, "as they"),
        (
            [2.0 * label - 1 for label in YES],
            lambda z, y: (1 - z.flatten() * y).relu().mean(),
            1,
            "nothing shows which",
        ),
        (
            [2.0 * label - 1 for label in YES],
            lambda z, y: functional.soft_margin_loss(z.flatten(), y),
            1,
            "nothing shows",
        ),
        (
            CLASS,
            lambda z, y: functional.binary_cross_entropy_with_logits(z, (torch.arange(3) < y[:, None]).float()),
            3,
            "as they are",
        ),
    ],
)
def test_what_the_loss_does_not_settle_is_refused_before_the_first_step(tmp_path, labels, loss, outputs, message):
    if message is None:
        trained(tmp_path, own(loss), labels, outputs=outputs)  # labels of 0 and 1 whatever they are multiplied by
        return
    with pytest.raises(ArgumentError, match=rf"(?s){message}.*signals="):
        trained(tmp_path, own(loss), labels, outputs=outputs)
    plain = trained(tmp_path / "plain", own(loss), labels, outputs=outputs, plain=True)
    full = trained(tmp_path / "full", own(loss), labels, outputs=outputs, diet=Diet(keep=1.0))
    assert full.seen.losses == plain.seen.losses


def test_a_problem_type_settles_what_the_loss_does_not(tmp_path):
    loss = own(lambda z, y: functional.cosine_similarity(z.flatten(), y, dim=0))
    for problem, error in (
        ("regression", lambda z, y: z - y),
        ("multi_label_classification", lambda z, y: SIDE * (z.sigmoid() - y)),
    ):
        trainer = trained(tmp_path / problem, loss, YES_FLOAT, model=classifier(1, problem))
        expected = error(logits_of(trainer)[:, 0], torch.tensor(YES)).abs()
        assert torch.allclose(values(trainer, tmp_path / problem), expected, atol=1e-5)


class Encoder(nn.Module):
    """A model of one's own without a config, which computes its loss itself."""

    def __init__(self, give, loss=bce, outputs=1):
        super().__init__()
        self.give, self.loss = give, loss
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(len(TOKENIZER), 8), nn.Linear(8, outputs)

    def forward(self, input_ids, attention_mask=None, labels=None, target=None):
        hidden = self.words(input_ids).mean(1)
        logits = self.head(hidden)
        labels = target if labels is None else labels
        loss = None if labels is None else self.loss(logits, labels)
        return self.give(loss, hidden, logits)


@dataclass
class Output:
    loss: Any
    logits: Any


Pair = namedtuple("Pair", ["loss", "logits"])


@pytest.mark.parametrize(
    "give",
    [
        lambda loss, hidden, logits: {"loss": loss, "logits": logits},
        lambda loss, hidden, logits: {"loss": loss, "pooled": hidden, "scores": logits},
        lambda loss, hidden, logits: (loss, logits),
        lambda loss, hidden, logits: (loss, hidden, logits),
        lambda loss, hidden, logits: (loss, logits, hidden),
        Pair,
    ],
    ids=["dict", "other name", "tuple", "hidden first", "hidden last", "named tuple"],
)
@pytest.mark.parametrize("name", ["labels", "target"])
def test_outputs_and_labels_by_other_names(tmp_path, give, name):
    if give is Pair:
        give = lambda loss, hidden, logits: Pair(loss, logits)  # noqa: E731
    model = Encoder(give)
    trained(tmp_path, None, YES_FLOAT, model=model, name=name, arguments={"label_names": [name]})
    batch = hf.DataCollatorWithPadding(TOKENIZER)([*features(YES).remove_columns(["labels", "token_type_ids"])])
    with torch.no_grad():
        logits = model.head(model.words(batch["input_ids"]).mean(1))
    assert torch.allclose(values(None, tmp_path), SIDE * (logits[:, 0].sigmoid() - torch.tensor(YES)).abs(), atol=1e-5)


def test_a_data_class_is_read_by_its_fields(tmp_path):
    def compute(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        output = model(**inputs)
        return (output.loss, output) if return_outputs else output.loss

    trained(tmp_path, compute, YES_FLOAT, model=Encoder(lambda loss, hidden, logits: Output(loss, logits)))
    assert values(None, tmp_path).max() <= SIDE


def test_probabilities_in_place_of_logits(tmp_path):
    def probabilities(loss, hidden, logits):
        return {"loss": loss, "logits": logits.sigmoid()}

    def compute(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = functional.binary_cross_entropy(outputs["logits"].flatten(), labels)
        return (loss, outputs) if return_outputs else loss

    model = Encoder(probabilities)
    trainer = trained(tmp_path, compute, YES_FLOAT, model=model)
    batch = hf.DataCollatorWithPadding(TOKENIZER)([*features(YES).remove_columns(["labels", "token_type_ids"])])
    with torch.no_grad():
        given = trainer.model(**batch)["logits"][:, 0]
    assert torch.allclose(values(trainer, tmp_path), SIDE * (given - torch.tensor(YES)).abs(), atol=1e-5)


def test_a_language_model_of_ones_own_is_known_by_the_shift_in_its_loss(tmp_path):
    class Causal(nn.Module):
        def __init__(self, by=1):
            super().__init__()
            torch.manual_seed(0)
            self.by = by
            self.words, self.head = nn.Embedding(len(TOKENIZER), 8), nn.Linear(8, len(TOKENIZER))

        def forward(self, input_ids, attention_mask=None, labels=None):
            logits = self.head(self.words(input_ids))
            loss = functional.cross_entropy(logits[:, : -self.by].flatten(0, 1), labels[:, self.by :].flatten())
            return {"loss": loss, "logits": logits}

    tokens = TOKENIZER(["the amber of birch is in it"] * ROWS)["input_ids"]
    trainer = trained(tmp_path / "next", None, tokens, model=Causal())
    rows = ({name: torch.tensor([row[name]]) for name in ("input_ids", "labels")} for row in trainer.train_dataset)
    expected = [trainer.model(**row)["loss"].item() for row in rows]
    table = trainer.diet.history.to_pandas().query("epoch == 0").sort_values("row")
    assert table["loss"].tolist() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ArgumentError, match=r"as they are \(not shifted.*signals="):
        trained(tmp_path / "after next", None, tokens, model=Causal(by=2))


def test_one_logit_for_each_position(tmp_path):
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words, self.head = nn.Embedding(len(TOKENIZER), 8), nn.Linear(8, 1)

        def forward(self, input_ids, attention_mask=None, labels=None):
            logits = self.head(self.words(input_ids))
            return {"loss": bce(logits, labels), "logits": logits}

    labels = [[place % 2 for place in range(len(ids))] for ids in features(YES)["input_ids"]]
    trainer = trained(tmp_path, None, labels, model=Tagger())
    odds = trainer.model.head(trainer.model.words(torch.tensor(features(YES)["input_ids"])))[..., 0]
    expected = SIDE * (odds.sigmoid() - torch.tensor(labels)).norm(dim=1)
    assert torch.allclose(values(trainer, tmp_path), expected.detach(), atol=1e-5)


# ---- what else scripts do in compute_loss


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_a_loss_function_of_the_trainer(tmp_path, keep):
    def weighted(outputs, labels, num_items_in_batch=None):
        return functional.binary_cross_entropy_with_logits(outputs["logits"].flatten(), labels.float())

    diet = hard_diet(keep=keep)
    trainer = trained(tmp_path, None, YES, diet=diet, compute_loss_func=weighted)
    expected = SIDE * (logits_of(trainer)[:, 0].sigmoid() - torch.tensor(YES)).abs()
    assert torch.allclose(values(trainer, tmp_path), expected, atol=1e-5)


def test_a_compute_loss_that_cannot_return_outputs(tmp_path):
    def compute(self, model, inputs, num_items_in_batch=None):
        labels = inputs.pop("labels")
        return functional.cross_entropy(model(**inputs).logits, labels)

    plain = trained(tmp_path / "plain", compute, CLASS, outputs=3, plain=True)
    full = trained(tmp_path / "full", compute, CLASS, outputs=3, diet=Diet(keep=1.0))
    assert full.seen.losses == plain.seen.losses
    expected = softmax_error(logits_of(full), torch.tensor(ONE_HOT))
    assert torch.allclose(values(full, tmp_path / "full"), expected, atol=1e-5)
    trained(tmp_path / "half", compute, CLASS, outputs=3, diet=hard_diet(keep=0.5, rescore="all"))
    assert torch.allclose(values(full, tmp_path / "half"), expected, atol=1e-5)


@pytest.mark.parametrize(
    "give", [lambda loss, z: (loss, None), lambda loss, z: (loss, {}), lambda loss, z: (loss, {"loss": loss}),
             lambda loss, z: (loss, z), lambda loss, z: (loss, {"logits": z.detach()})],
    ids=["none", "empty", "loss again", "logits alone", "detached"],
)  # fmt: skip
def test_outputs_of_any_kind_beside_a_loss(tmp_path, give):
    def compute(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        loss = bce(logits, labels)
        return give(loss, logits) if return_outputs else loss

    trainer = trained(tmp_path, compute, YES)
    expected = SIDE * (logits_of(trainer)[:, 0].sigmoid() - torch.tensor(YES)).abs()
    assert torch.allclose(values(trainer, tmp_path), expected, atol=1e-5)


@pytest.mark.parametrize("forwards", [0, 2])
def test_a_loss_without_outputs_and_no_one_forward(tmp_path, forwards):
    def compute(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        both = [model(**inputs).logits for _ in range(forwards)] or [model.classifier(model.bert(**inputs)[1])]
        return sum(functional.cross_entropy(logits, labels) for logits in both)

    with pytest.raises(ArgumentError, match=rf"calls the model {forwards} times: it must return \(loss, outputs\)"):
        trained(tmp_path, compute, CLASS, outputs=3)
    trained(tmp_path / "full", compute, CLASS, outputs=3, diet=Diet(keep=1.0))


def test_attributes_of_a_batch(tmp_path):
    def compute(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
        loss = functional.cross_entropy(outputs.logits, inputs.labels)
        return (loss, outputs) if return_outputs else loss

    plain = trained(tmp_path / "plain", compute, CLASS, outputs=3, plain=True)
    full = trained(tmp_path / "full", compute, CLASS, outputs=3, diet=Diet(keep=1.0))
    assert full.seen.losses == plain.seen.losses
    for select in ("hardest", "selective_backprop"):
        diet = Diet(keep=0.5, select=select, warmup_epochs=1)
        assert trained(tmp_path / select, compute, CLASS, outputs=3, diet=diet).state.global_step > 4


def doubled(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    """R-Drop as it is mostly written: the batch twice in one forward."""
    labels = inputs.pop("labels")
    outputs = model(**{name: torch.cat([value, value]) for name, value in inputs.items()})
    loss = functional.cross_entropy(outputs.logits, torch.cat([labels, labels]))
    outputs.logits = outputs.logits[: len(labels)]
    return (loss, outputs) if return_outputs else loss


def test_a_batch_that_is_repeated_in_the_loss(tmp_path):
    trainer = trained(tmp_path, doubled, CLASS, outputs=3)
    expected = softmax_error(logits_of(trainer), torch.tensor(ONE_HOT))
    assert torch.allclose(values(trainer, tmp_path), expected, atol=1e-5)


@pytest.mark.parametrize(
    "given",
    [{"diet": hard_diet(keep=1.0), "row_weights": np.ones(ROWS, np.float32)}, {"diet": Diet(select="infobatch")}],
    ids=["row weights", "infobatch"],
)
def test_loss_weights_need_one_output_a_row(tmp_path, given):
    steps = []

    def counted(*everything, **named):
        steps.append(1)
        return doubled(*everything, **named)

    with pytest.raises(ArgumentError, match="one output of the model per row: it gave 8 for 4 rows"):
        trained(tmp_path, counted, CLASS, outputs=3, **given)
    assert len(steps) == 1  # before its backward pass


@pytest.mark.parametrize("rescore", ["none", "all"])
def test_rows_without_a_label_count_as_learned(tmp_path, rescore):
    labels = [-100 if row % 4 == 3 else label for row, label in enumerate(CLASS)]
    plain = trained(tmp_path / "plain", None, labels, outputs=3, plain=True)
    full = trained(tmp_path / "full", None, labels, outputs=3, diet=Diet(keep=1.0))
    assert full.seen.losses == plain.seen.losses
    half = trained(tmp_path / "half", None, labels, outputs=3, diet=hard_diet(keep=0.5, rescore=rescore))
    found = values(half, tmp_path / "half")
    missing = torch.tensor(labels) == -100
    assert bool((found[missing] == 0).all())
    assert bool((found[~missing] > 0).all())
    kept = half.diet.history.to_pandas().query("epoch == 1 and source == 'train'")["row"]
    assert min(labels[row] for row in kept) >= 0


def test_a_resumed_run_reads_as_before(tmp_path):
    """Its passes come before any loss."""
    options = {"compute": own(bce), "labels": YES, "arguments": {"save_strategy": "epoch", "learning_rate": 1e-3}}
    options["diet"] = Diet(keep=0.5, select="hardest", rescore="all", refresh_every=1)
    whole = trained(tmp_path, **options)
    again = trained(tmp_path, **options, resume=str(tmp_path / "checkpoint-4"))
    assert torch.equal(logits_of(again), logits_of(whole))
