"""A diet in a plain loop, and as a callback of a Trainer that cannot be subclassed."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from transformers import DataCollatorWithPadding, Trainer

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.training.loop import DietCallback, RowBatch, epochs
from datadiet.types import HeadSignals, Signals
from toys import hard_diet, scores_of, tiny_classifier, tiny_tokenizer, toy_features, toy_trainer, weights

N, BATCH = 40, 8


def toy():
    x = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
    return [{"x": row, "labels": (row.sum() > 0).long()} for row in x]


def train(diet, count=4, *, start=0, state=None, model=None, stop=None, **options):
    torch.manual_seed(0)
    data = toy()
    model = torch.nn.Linear(5, 2) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    plans = {}
    for epoch in epochs(diet, count, num_examples=N, batch_size=BATCH, start=start, state=state, **options):
        plans[epoch.epoch] = epoch.plan.rows
        for batch in epoch.loader(data, batch_size=BATCH):
            assert torch.equal(batch.inputs["x"], torch.stack([data[row]["x"] for row in batch.rows.tolist()]))
            logits = model(batch.inputs["x"])
            loss = torch.nn.functional.cross_entropy(logits, batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            epoch.observe(batch.rows, logits, batch.labels)
        if epoch.epoch == stop:
            break
    return plans, model


def test_a_loop_trains_on_the_plan():
    diet = hard_diet(keep=0.5, refresh_every=2)
    plans, _ = train(diet)
    assert [len(plans[epoch]) for epoch in range(4)] == [40, 16, 16, 16]  # 20, down to full batches of 8
    history = diet.history.to_pandas()
    warm = history[history["epoch"] == 0].set_index("row")["el2n"]
    assert set(plans[1]) == set(warm.nlargest(16).index)
    assert len(history) == 40 + 3 * 16


def test_the_same_seed_gives_the_same_run_and_another_one_does_not():
    first, second, other = (train(Diet(select="random", seed=seed))[0] for seed in (1, 1, 2))
    assert all(np.array_equal(first[epoch], second[epoch]) for epoch in range(4))
    assert not np.array_equal(first[1], other[1])


def test_a_loop_goes_on_from_its_state():
    first, stopped, resumed = (hard_diet(keep=0.5, refresh_every=1) for _ in range(3))
    whole, model = train(first)
    _, half = train(stopped, stop=1)
    plans, half = train(resumed, start=2, state=stopped.state_dict(), model=half)
    assert all(np.array_equal(plans[epoch], whole[epoch]) for epoch in (2, 3))
    assert torch.equal(half.weight, model.weight)


def test_a_loop_does_not_go_on_from_a_state_of_something_else():
    stopped = hard_diet(keep=0.5, refresh_every=1)
    train(stopped, stop=1)
    state = stopped.state_dict()
    for start, given, message in (
        (1, state, r"start must be 2 with a state of the end of epoch 1 .*, got 1"),
        (3, state, r"start must be 2 .*, got 3"),
        (0, state, r"start must be 2 .*, got 0"),
        (2, None, r"start must be 0 without a state .*, got 2"),
    ):
        with pytest.raises(ArgumentError, match=message):
            train(hard_diet(keep=0.5, refresh_every=1), start=start, state=given)
    for options, message in (({"keep": 0.3}, r"keep must be 0\.5"), ({"seed": 1}, "seed must be 0")):
        with pytest.raises(ArgumentError, match=message):
            train(hard_diet(**{"keep": 0.5, "refresh_every": 1, **options}), start=2, state=state)
    with pytest.raises(ArgumentError, match=r"num_examples must be 40, .* got 48"):
        next(epochs(hard_diet(refresh_every=1), 4, num_examples=48, batch_size=BATCH, start=2, state=state))
    with pytest.raises(ArgumentError, match=r"batch must be 8, .* got 4"):
        next(epochs(hard_diet(refresh_every=1), 4, num_examples=N, batch_size=4, start=2, state=state))
    more, _ = train(hard_diet(keep=0.5, refresh_every=1), 6, start=2, state=state)
    assert list(more) == [2, 3, 4, 5]


def test_passes_need_signals_and_get_rows():
    with pytest.raises(ArgumentError, match="needs signals="):
        next(epochs(hard_diet(rescore="all"), 3, num_examples=N))
    asked = []

    def signals(rows):
        asked.append(rows)
        return Signals({"label": HeadSignals(torch.zeros(len(rows), 2), torch.zeros(len(rows), dtype=torch.long))})

    diet = hard_diet(rescore="dropped", refresh_every=1, keep=0.5)
    train(diet, signals=signals)
    assert [len(rows) for rows in asked] == [24, 24]  # nothing after the warm-up, then who did not train
    passed = diet.history.to_pandas().query("source == 'pass'")
    assert passed["el2n"].to_numpy() == pytest.approx(np.sqrt(0.5))


def test_tokens_are_masked_where_the_label_says_so():
    diet = hard_diet(refresh_every=1)
    for epoch in epochs(diet, 2, num_examples=2):
        logits = torch.zeros(1, 3, 2)
        for row in epoch.plan.rows:
            epoch.observe(torch.tensor([row]), logits, torch.tensor([[0, -100, 1]]))
    assert diet.history.to_pandas()["el2n"].to_numpy() == pytest.approx(1.0)  # sqrt(0.5 + 0.5), two tokens count


@pytest.mark.parametrize(
    ("logits", "labels", "link", "expected"),
    [
        (torch.zeros(1, 1), [1.0], "sigmoid", 0.5**0.5),
        (torch.zeros(1, 1), [1.0], "identity", 1.0),
        (torch.zeros(1), [2.5], None, 2.5),
        (torch.zeros(1, 2), [[0.0, 1.0]], "softmax", 0.5**0.5),
        (torch.zeros(1, 2), [[0, 1]], "sigmoid", 0.5**0.5),
        (torch.zeros(1, 2), [[1.0, 1.0]], None, 0.5**0.5),
    ],
)
def test_a_link_settles_what_shapes_do_not(logits, labels, link, expected):
    diet = hard_diet(keep=1.0)
    for epoch in epochs(diet, 1, num_examples=1):
        epoch.observe(torch.tensor([0]), logits, torch.tensor(labels), link=link)
    assert diet.history.to_pandas()["el2n"].to_list() == pytest.approx([expected])


@pytest.mark.parametrize(
    ("logits", "labels", "link", "message"),
    [
        (
            torch.zeros(2, 1),
            [1.0, 0.0],
            None,
            r"nothing shows which. Pass link='identity' \(regression\), link='sigmoid'",
        ),
        (torch.zeros(2, 2), [[0.0, 1.0], [1.0, 0.0]], None, "one-hot classes .* or sets of labels .* Pass link="),
        (torch.zeros(2, 2), [0, 1], "logit", "link must be one of softmax, sigmoid, identity, got 'logit'"),
        (torch.zeros(2, 2), [0.5, 1.0], None, "fit no known task.*observe_signals"),
    ],
)
def test_a_plain_loop_refuses_what_it_cannot_tell_apart(logits, labels, link, message):
    (epoch,) = epochs(hard_diet(keep=1.0), 1, num_examples=2)
    with pytest.raises(ArgumentError, match=rf"(?s){message}"):
        epoch.observe(torch.arange(2), logits, torch.tensor(labels), link=link)


def test_batches_without_labels_say_so():
    with pytest.raises(ArgumentError, match="no labels; it has x"):
        _ = RowBatch({"x": torch.zeros(1)}, torch.tensor([0])).labels


def test_a_plain_loop_has_row_weights():
    times = np.array([1, 3, 1, 2, 5, 1, 1, 2, 1, 1, 4, 2], np.float32)
    data = [{"x": torch.tensor(row), "labels": torch.tensor(0)} for row in range(len(times))]
    epoch = next(iter(epochs(hard_diet(keep=0.5), 2, num_examples=len(times), row_weights=times)))
    for batch in epoch.loader(data, batch_size=4):
        assert_allclose(batch.weights, times[batch.rows.numpy()] / times.mean(), rtol=1e-6)


def test_a_plain_loop_chooses_within_its_batches_itself():
    with pytest.raises(ArgumentError, match="chooses within batches"):
        next(epochs(Diet(select="divbs"), 2, num_examples=8))


def test_batches_of_a_plain_loop_may_be_pairs():
    data = torch.utils.data.TensorDataset(torch.arange(8.0), torch.arange(8))
    for batch in next(epochs(hard_diet(keep=0.5), 2, num_examples=8, batch_size=2)).loader(data, batch_size=2):
        inputs, labels = batch.inputs
        assert inputs.tolist() == labels.tolist() == batch.rows.tolist()
    with pytest.raises(ArgumentError, match=r"the batch is a list: take the labels from batch.inputs"):
        _ = batch.labels


@pytest.mark.parametrize(
    ("rows", "options", "problem"),
    [
        (7, {}, "dataset must have num_examples rows, 8, got 7"),
        (8, {"shuffle": True}, "shuffle does not go with a diet"),
        (8, {"sampler": range(8)}, "sampler does not go with a diet"),
    ],
)
def test_a_loader_that_does_not_fit_the_loop(rows, options, problem):
    epoch = next(epochs(hard_diet(keep=0.5), 2, num_examples=8, batch_size=2))
    with pytest.raises(ArgumentError, match=problem):
        next(epoch.loader(list(range(rows)), batch_size=2, **options))


def test_a_plain_loop_has_whole_epochs():
    with pytest.raises(ArgumentError, match="num_epochs must be a whole number, got"):
        next(epochs(hard_diet(), 2.5, num_examples=8))


# ---- DietCallback


def with_callback(folder, diet, **changes):
    settings = {"lr_scheduler_type": "constant", **changes}
    return toy_trainer(folder, kind=Trainer, extra={"callbacks": [DietCallback(diet, folder)]}, **settings)


def test_a_callback_trains_on_the_diet_without_a_subclass(tmp_path):
    trainer = with_callback(tmp_path, hard_diet(keep=0.5, refresh_every=1))
    trainer.train()
    assert trainer.state.global_step == 12 + 3 * 6
    history = scores_of(tmp_path)
    assert history.groupby("epoch").size().tolist() == [48, 24, 24, 24]
    warm = history[history["epoch"] == 0].set_index("row")["el2n"]
    assert set(history[history["epoch"] == 1]["row"]) == set(warm.nlargest(24).index)
    assert not trainer.model._forward_hooks
    assert not trainer.model._forward_pre_hooks


def test_keep_one_takes_any_schedule_and_changes_nothing(tmp_path):
    plain = toy_trainer(tmp_path / "plain", kind=Trainer)
    plain.train()
    trainer = with_callback(tmp_path / "full", Diet(keep=1.0), lr_scheduler_type="linear")
    trainer.train()
    assert torch.equal(weights(trainer.model), weights(plain.model))


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"lr_scheduler_type": "linear"}, "'linear' learning rate.*use DietMixin"),
        ({"rescore": "all"}, {}, "cannot rescore 'all'.*use DietMixin"),
        ({"tolerance": 1.0}, {}, "a tolerance needs DietMixin"),
        ({}, {"max_steps": 9}, "cannot plan max_steps"),
        ({}, {"num_train_epochs": 2.5}, "nor a fraction of an epoch"),
        ({}, {"dataloader_drop_last": True}, "drop_last does not go with a diet"),
        ({}, {"label_smoothing_factor": 0.1}, r"no labels \(label smoothing.*use DietMixin"),
        ({"select": "infobatch"}, {}, "cannot apply the loss weights that infobatch gives"),
        ({"select": "visits(weights=true)"}, {}, "cannot apply the loss weights that visits gives"),
        ({"select": "quota(select=infobatch)"}, {}, "cannot apply the loss weights that quota gives"),
        ({"select": "drop_quota"}, {}, "judges no dev split, of which drop_quota needs the recalls"),
    ],
)
def test_refuses_what_a_callback_cannot_do(tmp_path, options, changes, message):
    with pytest.raises(ArgumentError, match=message):
        with_callback(tmp_path, hard_diet(**options), **changes).train()


@pytest.mark.parametrize(("outputs", "problem"), [(1, "multi_label_classification"), (1, "regression"), (3, None)])
def test_a_callback_reads_the_loss_of_the_model(tmp_path, outputs, problem):
    model = tiny_classifier(outputs)
    model.config.problem_type = problem
    labels = [row % 2 for row in range(48)]
    if problem is not None:
        labels = [[float(label)] for label in labels]
    data = toy_features().remove_columns("labels").add_column("labels", labels)
    callback = DietCallback(hard_diet(keep=0.5), tmp_path)
    changes = {"lr_scheduler_type": "constant", "learning_rate": 0.0, "num_train_epochs": 2}
    collate = DataCollatorWithPadding(tiny_tokenizer())
    trainer = toy_trainer(tmp_path, kind=Trainer, model=model, extra={"callbacks": [callback]}, **changes)
    trainer.train_dataset, trainer.data_collator = data, collate
    trainer.train()
    with torch.no_grad():
        logits = model.eval()(**collate([*data.remove_columns(["labels", "length"])])).logits
    gold = torch.tensor(labels).flatten()
    if problem is None:
        expected = (logits.softmax(-1) - torch.nn.functional.one_hot(gold, 3)).norm(dim=-1)
    else:
        odds = logits[:, 0]
        expected = (odds - gold).abs() if problem == "regression" else 2**0.5 * (odds.sigmoid() - gold).abs()
    table = scores_of(tmp_path)
    table = table[table["epoch"] == 0].sort_values("row")
    assert table["el2n"].to_numpy() == pytest.approx(expected.numpy(), abs=1e-5)


class Table(torch.utils.data.Dataset):
    """Rows of a user's own class, with columns, as some frames have them."""

    def __init__(self, rows):
        self.rows, self.column_names = rows, list(rows[0])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]


@pytest.mark.parametrize("form", [datasets.Dataset.from_list, list, Table])
def test_a_callback_knows_the_classes_and_ids_of_its_rows(tmp_path, form):
    collate = DataCollatorWithPadding(tiny_tokenizer())
    rows = form([{**row, "id": f"row {place}"} for place, row in enumerate(toy_features())])
    trainer = with_callback(tmp_path, diet := Diet(keep=0.5, select="hardest", floor=3), remove_unused_columns=False)
    trainer.train_dataset = rows
    trainer.data_collator = lambda part: collate([{name: row[name] for name in row if name != "id"} for row in part])
    trainer.train()
    assert diet.guarded
    assert diet.noise_monitor.guard.reviews
    assert scores_of(tmp_path)["id"].str.startswith("row ").all()


def test_a_callback_takes_ids_and_classes_and_warns_where_scores_need_them(tmp_path, caplog):
    ids = [f"row {row}" for row in range(48)]
    callback = DietCallback(diet := Diet(keep=0.5, select="hardest"), tmp_path / "first", ids=ids, groups=[0, 1] * 24)
    toy_trainer(tmp_path, kind=Trainer, extra={"callbacks": [callback]}, lr_scheduler_type="constant").train()
    assert scores_of(tmp_path / "first")["id"].isin(ids).all()
    assert sorted(diet.noise_monitor.guard.summary([0, 1] * 24)) == ["aside", "aside_by_label", "rate", "reviews"]
    later = {"keep": 0.5, "select": "hardest", "warmup_epochs": 0, "scores_from": tmp_path / "first"}
    for given in (None, ids):
        caplog.clear()
        callback = DietCallback(Diet(**later), ids=given)
        trainer = toy_trainer(tmp_path, kind=Trainer, extra={"callbacks": [callback]}, lr_scheduler_type="constant")
        if given is None:
            with pytest.raises(ArgumentError, match="none of the ids of this data set occur in"):
                trainer.train()
        else:
            trainer.train()
        assert ("scores_from is matched by row number" in caplog.text) == (given is None)


def test_a_guard_that_is_asked_for_needs_the_classes():
    with pytest.raises(ArgumentError, match=r"offset='auto' needs to know the class of each row: training data"):
        train(Diet(keep=0.5, offset="auto"))
    diet = Diet(keep=0.5, offset="auto")
    train(diet, groups=np.array([int(row["labels"]) for row in toy()]))
    assert diet.noise_monitor.guard.reviews


def test_values_that_the_first_rule_does_not_read_are_told(tmp_path, caplog):
    train(hard_diet(keep=0.5), folder=tmp_path)
    words = "it begins with cover, which does not read the values that are given"
    for select, warned in (("auto", True), ("hardest", False)):
        caplog.clear()
        train(Diet(keep=0.5, select=select, warmup_epochs=0, scores_from=tmp_path))
        assert (words in caplog.text) == warned


def test_a_callback_at_keep_one_goes_on_where_it_cannot_read(tmp_path, caplog):
    callback = DietCallback(hard_diet(keep=1.0))
    toy_trainer(tmp_path, kind=Trainer, extra={"callbacks": [callback]}, label_smoothing_factor=0.1).train()
    assert (
        "there will be no values: DietCallback reads the inputs of the model, and these have no labels" in caplog.text
    )
    assert not len(callback.diet.history.to_pandas())


def test_a_callback_refuses_to_resume(tmp_path):
    with_callback(tmp_path, hard_diet(), save_strategy="steps", save_steps=13).train()
    with pytest.raises(ArgumentError, match="cannot resume"):
        with_callback(tmp_path, hard_diet()).train(resume_from_checkpoint=True)


def test_a_callback_that_trains_twice_begins_anew(tmp_path):
    callbacks = [DietCallback(diet := hard_diet())]
    trainer = toy_trainer(tmp_path, kind=Trainer, extra={"callbacks": callbacks}, lr_scheduler_type="constant")
    trainer.train()
    first = diet.history.to_pandas()
    trainer.train()
    assert diet.history.to_pandas()["epoch"].tolist() == first["epoch"].tolist()


def test_a_callback_trains_twice_and_puts_the_first_run_aside(tmp_path):
    trainer = with_callback(tmp_path, hard_diet(keep=0.5, refresh_every=1))
    for _ in range(2):
        trainer.train()
        assert scores_of(tmp_path).groupby("epoch").size().tolist() == [48, 24, 24, 24]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plans", "plans.1", "scores", "scores.1"]


def test_a_callback_begins_anew_after_a_batch_that_is_too_large(tmp_path):
    class Small(Trainer):
        def compute_loss(self, *args, **kwargs):
            if self.state.global_step > 2 and self._train_batch_size > 2:
                raise RuntimeError("CUDA out of memory.")
            return super().compute_loss(*args, **kwargs)

    changes = {"lr_scheduler_type": "constant", "auto_find_batch_size": True}
    callback = DietCallback(hard_diet(keep=0.5), str(tmp_path / "run"))
    trainer = toy_trainer(tmp_path, kind=Small, extra={"callbacks": [callback]}, **changes)
    trainer.train()
    assert trainer.state.global_step == 24 + 3 * 12
    assert scores_of(tmp_path / "run").groupby("epoch").size().tolist() == [48, 24, 24, 24]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["plans", "scores"]


def test_a_callback_without_a_diet_says_what_to_pass():
    with pytest.raises(ArgumentError, match=r"diet must be a datadiet.Diet, got 0.5"):
        DietCallback(0.5)


# ---- races


def judged(judge, dev_rows=60, select="auto(share=0.5)"):
    """The rules of each epoch of a loop over 400 rows, and what the judge was asked."""
    asked = []

    def asking(rows_of, steps):
        asked.append((list(rows_of), steps))
        return judge(rows_of)

    diet = Diet(keep=0.3, seed=0, select=select)
    rules = []
    for epoch in epochs(diet, 4, num_examples=400, batch_size=8, judge=asking, dev_rows=dev_rows):
        rows = torch.from_numpy(epoch.plan.rows)
        epoch.observe(rows, torch.randn(len(rows), 2), torch.zeros(len(rows), dtype=torch.long))
        rules.append(diet.rule)
    return rules, asked


def test_a_judge_decides_the_race_of_a_loop():
    losses = torch.linspace(0.5, 1.5, 60)  # tensors will do
    rules, asked = judged(lambda rows_of: {"cover": losses, "hardest": 0.5 * losses})
    assert rules == ["cover", "hardest", "hardest", "hardest"]
    assert [entrants for entrants, _ in asked] == [["cover", "hardest"], ["hardest", "cover"]]
    assert all(steps > 0 for _, steps in asked)
    rules, _ = judged(lambda rows_of: dict.fromkeys(rows_of, losses.bfloat16()))
    assert set(rules) == {"cover"}


def test_a_judge_may_have_more_dev_rows_than_a_race_of_a_trainer_takes():
    losses = np.linspace(0.5, 1.5, 900)
    rules, asked = judged(lambda rows_of: {"cover": losses, "hardest": 0.5 * losses}, dev_rows=900)
    assert asked
    assert rules[1:] == ["hardest"] * 3


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (None, "judge must return the dev losses of cover and hardest by name, got None"),
        ({"cover": np.ones(60)}, "judge must return the dev losses of cover and hardest by name"),
        ({"cover": np.ones(60), "hardest": None}, "judge must return numbers, one per dev row, got None for hardest"),
        (
            {"cover": np.ones(60), "hardest": np.ones(5)},
            r"one loss for each of the 60 dev_rows, got \(5,\) for hardest",
        ),
    ],
)
def test_what_a_judge_returns_is_checked(answer, problem):
    with pytest.raises(ArgumentError, match=problem):
        judged(lambda rows_of: answer)


def test_the_judge_of_the_documentation_puts_everything_back():
    """Both rules begin at the same state, and so does the epoch after them."""
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(def judge.*?)\n\n\n", text, re.DOTALL)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    begun = []

    def train_some(model, optimizer, scheduler, rows, steps):
        begun.append(copy.deepcopy([part.state_dict() for part in (model, optimizer, scheduler)]))
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.full((2, 3), float(rows[0]))).square().mean().backward()
            optimizer.step()
            scheduler.step()

    train_some(model, optimizer, scheduler, [1], 2)
    given = {"copy": copy, "model": model, "optimizer": optimizer, "scheduler": scheduler, "train_some": train_some}
    given["dev_losses"] = lambda model: model.weight.detach().abs().flatten()
    exec(code, given)
    losses = given["judge"]({"cover": [1], "hardest": [2], "visits": [3]}, 3)
    assert list(losses) == ["cover", "hardest", "visits"]
    now = [part.state_dict() for part in (model, optimizer, scheduler)]
    for state in (*begun[2:], now):
        torch.testing.assert_close(state, begun[1], rtol=0, atol=0)


def test_a_loop_without_a_judge_says_so_and_takes_cover(caplog):
    diet = Diet(keep=0.5)
    for epoch in epochs(diet, 2, num_examples=40, batch_size=8):
        rows = torch.from_numpy(epoch.plan.rows)
        epoch.observe(rows, torch.zeros(len(rows), 2), torch.zeros(len(rows), dtype=torch.long))
    assert "nothing judges: give judge and dev_rows. Every cycle takes the rule cover." in caplog.text
    assert diet.rule == "cover"
