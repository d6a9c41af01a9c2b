"""Distillation: the loss, soft labels by id, a teacher inside the Trainer, and its logits shared between runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from datadiet.compare.plan import Plan, methods_from
from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError, DataError
from datadiet.jobs import prepare
from datadiet.jobs.finetune import finetune
from datadiet.ledger import Ledger
from datadiet.store.cache import load_values, save_values
from datadiet.training.distill import (
    HeadLogits,
    Teacher,
    distillation_loss,
    distillation_weight,
    distilled,
    load_soft_labels,
    save_soft_labels,
    teacher_of,
)
from datadiet.types import HeadSignals, Signals
from toys import (
    CLASSES,
    TASK,
    Heard,
    same,
    tiny_classifier,
    tiny_tokenizer,
    toy_config,
    toy_features,
    toy_trainer,
    weights_of,
)

IDS = ["a", "b", "c"]
N = 48


def drawn(n=5, classes=4):
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(n, classes, generator=generator) for _ in range(2))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_loss_is_the_divergence_times_the_squared_temperature(temperature):
    student, teacher = drawn()
    parts = [torch.distributions.Categorical(logits=logits / temperature) for logits in (teacher, student)]
    expected = temperature**2 * torch.distributions.kl_divergence(*parts)
    assert_close(distillation_loss(student, teacher, temperature), expected)
    assert_close(distillation_loss(teacher, teacher, temperature), torch.zeros(5), atol=1e-5, rtol=0)
    half = distillation_loss(student.half(), teacher.half(), temperature)
    assert half.dtype == torch.float32
    assert_close(half, distillation_loss(student.half().float(), teacher.half().float(), temperature))


def test_gradients_keep_their_size_and_reach_the_student_alone():
    student, teacher = drawn()
    student.requires_grad_(), teacher.requires_grad_()
    sizes = []
    for temperature in (5.0, 50.0):
        student.grad = None
        distillation_loss(student, teacher, temperature).sum().backward()
        sizes.append(float(student.grad.norm()))
    assert teacher.grad is None
    assert sizes[1] == pytest.approx(sizes[0], rel=0.3)


def test_weight_rises_as_keep_falls():
    weights = [distillation_weight(keep) for keep in (1.0, 0.9, 0.5, 0.2, 0.05, 0.01)]
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (0.1, 0.95)
    assert distillation_weight(0.3) == pytest.approx(0.7)
    shares = [Teacher({}, weight=weight).share(0.5) for weight in (None, 0.3)]
    assert shares == [distillation_weight(0.5), 0.3]


def test_the_two_losses_are_mixed():
    student, teacher = drawn()
    losses, taught = torch.arange(5.0), distillation_loss(student, teacher)
    assert torch.equal(distilled(losses, student, teacher, weight=0.0), losses)
    assert_close(distilled(losses, student, teacher, weight=1.0), taught)
    assert_close(distilled(losses.mean(), student, teacher, weight=0.3), 0.7 * losses.mean() + 0.3 * taught.mean())


def test_a_right_teacher_repairs_flipped_labels():
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(1))
    clean = x.argmax(1)
    labels = clean.clone()
    labels[:48] = (labels[:48] + 1) % 3
    accuracy = {}
    for weight in (0.0, 0.9):
        model = torch.zeros(3, 3, requires_grad=True)
        optimizer = torch.optim.Adam([model], 0.1)
        for _ in range(100):
            losses = torch.nn.functional.cross_entropy(x @ model, labels, reduction="none")
            optimizer.zero_grad()
            distilled(losses, x @ model, 6 * x, weight=weight).mean().backward()
            optimizer.step()
        accuracy[weight] = float(((x @ model).argmax(1) == clean).float().mean())
    assert accuracy[0.9] > 0.97
    assert accuracy[0.9] > accuracy[0.0]


def test_soft_labels_come_back_by_id_in_two_bytes_each(tmp_path):
    logits = np.array([[900.0, 901.0, -np.inf], [0.0, 1.0, 2.0], [5.0, 5.0, 5.0]], np.float32)
    path = tmp_path / "cache" / "soft.parquet"
    save_soft_labels(path, IDS, logits, fingerprint="f")
    found = load_soft_labels(path, ["c", "a"], classes=3, fingerprint="f")
    assert found.dtype == np.float16
    softened = torch.tensor(found.astype(np.float32)).softmax(-1)
    assert_close(softened, torch.tensor(logits[[2, 0]]).softmax(-1), atol=1e-3, rtol=0)
    assert [item.name for item in path.parent.iterdir()] == ["soft.parquet"]


def test_irreducible_losses_come_back_as_they_were(tmp_path):
    path, values = tmp_path / "il.parquet", np.array([0.1, 2.0, 3.0], np.float32)
    save_values(path, IDS, values, what="irreducible_loss", fingerprint="f")
    loaded = load_values(path, ["b", "a"], what="irreducible_loss", fingerprint="f")
    assert (loaded.dtype, loaded.tolist()) == (np.float32, values[[1, 0]].tolist())
    assert len(load_values(path, [], what="irreducible_loss")) == 0


@pytest.mark.parametrize(
    ("file", "ids", "options", "message"),
    [
        ("il", IDS, {"fingerprint": "g"}, r"computed on other data \(fingerprint f, here g\): compute it again"),
        ("il", IDS, {"what": "teacher_logits"}, "holds 'irreducible_loss', not 'teacher_logits'"),
        ("il", ["a", "x", "y"], {}, "lacks 2 ids, among them 'x', 'y'"),
        ("no", IDS, {}, "does not exist"),
        ("text", IDS, {}, "cannot be read as Parquet"),
        ("other", IDS, {}, "was not written by datadiet"),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path, file, ids, options, message):
    import pandas as pd

    save_values(tmp_path / "il.parquet", IDS, np.zeros(3, np.float32), what="irreducible_loss", fingerprint="f")
    (tmp_path / "text.parquet").write_text("no table")
    pd.DataFrame({"id": IDS, "values": [1.0, 2.0, 3.0]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match=message):
        load_values(tmp_path / f"{file}.parquet", ids, **{"what": "irreducible_loss", **options})


def test_values_that_cannot_be_kept_are_not_written(tmp_path):
    path = tmp_path / "il.parquet"
    for ids, values, message in (
        (["a", "b", "a"], np.zeros(3), "ids must be different, 'a' is there more than once"),
        (IDS, np.array([0.0, np.nan, 0.0]), "must be finite; they are not for 'b'"),
        (IDS, np.zeros(2), r"one value or one row of values per id is needed: got \(2,\) for 3 ids"),
    ):
        with pytest.raises(ArgumentError, match=message):
            save_values(path, ids, values, what="x")
    with pytest.raises(ArgumentError, match=r"need logits \(n, classes\), got shape \(3,\)"):
        save_soft_labels(path, IDS, np.zeros(3), fingerprint="f")
    assert not path.exists()
    save_soft_labels(path, IDS, np.zeros((3, 2)), fingerprint="f")
    with pytest.raises(DataError, match="has 2 classes, 3 are needed"):
        load_soft_labels(path, IDS, classes=3)


def test_bad_arguments():
    student, teacher = drawn()
    with pytest.raises(ArgumentError, match=r"keep must be in \(0, 1\], got 70. Did you mean 0.7"):
        distillation_weight(70)
    with pytest.raises(ArgumentError, match="temperature must be above 0, got 0"):
        distillation_loss(student, teacher, 0)
    with pytest.raises(ArgumentError, match=r"same classes in the same order: .*\(5, 4\) and \(5, 3\)"):
        distillation_loss(student, teacher[:, :3])
    with pytest.raises(ArgumentError, match=r"weight must be in \[0, 1\], got 1.5"):
        distilled(torch.zeros(5), student, teacher, weight=1.5)
    with pytest.raises(ArgumentError, match=r"one loss per example is needed: got \(4,\) for \(5,\)"):
        distilled(torch.zeros(4), student, teacher, weight=0.5)


# ---- inside the Trainer


def taken(model, **options) -> Teacher:
    return teacher_of(model, toy_features(N), TASK.collator(tiny_tokenizer()), TASK.signals, batch_size=7, **options)


def test_every_row_has_the_logits_of_its_own_forward_pass():
    model, ledger = tiny_classifier(CLASSES, dropout=0.5), Ledger()
    teacher = taken(model, ledger=ledger)
    collate, features = TASK.collator(tiny_tokenizer()), toy_features(N)
    with torch.no_grad():
        expected = torch.cat([model.eval()(**collate([features[row]])).logits for row in (5, 3)]).log_softmax(-1)
    found = teacher.heads["label"].of_rows(np.array([5, 3])).log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)  # half precision
    assert ledger.snapshot().examples_forward == N


def test_the_first_loss_is_the_mixture(tmp_path):
    teacher = taken(tiny_classifier(CLASSES, seed=9), temperature=3.0)
    options = {"n": N, "num_train_epochs": 1, "per_device_train_batch_size": 24}
    plain = toy_trainer(tmp_path / "plain", Diet(warmup_epochs=0), **options)
    taught = toy_trainer(tmp_path / "taught", Diet(warmup_epochs=0), extra={"teacher": teacher}, **options)
    student = tiny_classifier(CLASSES).eval()
    plain.train()
    taught.train()
    rows = taught.diet.plan(0).rows  # one step: the batch is the plan
    batch = TASK.collator(tiny_tokenizer())([toy_features(N)[int(row)] for row in rows])
    logits, soft = student(**batch).logits / 3, teacher.heads["label"].of_rows(rows) / 3
    divergence = 9 * functional.kl_div(logits.log_softmax(-1), soft.softmax(-1), reduction="batchmean").item()
    assert taught.seen.losses[0] == pytest.approx(0.5 * plain.seen.losses[0] + 0.5 * divergence, abs=1e-3)


def test_a_student_of_nothing_but_its_teacher_comes_to_agree_with_it(tmp_path):
    """Labels and teacher disagree: with all the weight on the teacher its class is learned."""
    logits = HeadLogits(np.tile(np.array([[0, -9, -9]], np.float16), (N, 1)), np.arange(N + 1))
    teacher = Teacher({"label": logits}, weight=1.0)
    trainer = toy_trainer(tmp_path, Diet(), n=N, extra={"teacher": teacher}, num_train_epochs=6, learning_rate=5e-3)
    trainer.train()
    assert trainer.predict(toy_features(8, seed=1)).predictions.argmax(-1).tolist() == [0] * 8


def test_decisions_of_a_tagger_are_found_by_row():
    logits = np.arange(10, dtype=np.float16).reshape(5, 2)
    logits[:, 1] *= 2
    teacher = Teacher({"tokens": HeadLogits(logits, np.array([0, 2, 2, 5]))}, temperature=1.0)
    mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    student = torch.zeros(2, 4, 2, requires_grad=True)
    signals = Signals({"tokens": HeadSignals(student.detach(), torch.zeros(2, 4, dtype=torch.int64), mask)})
    loss = teacher.loss({"tokens": student}, signals, torch.tensor([2, 0]), {})
    soft = torch.from_numpy(logits).float().softmax(-1)
    expected = functional.kl_div(torch.full((5, 2), 0.5).log(), soft, reduction="sum")
    assert loss.item() == pytest.approx(expected.item() / 2)
    loss.backward()
    assert (student.grad.abs().sum(-1) > 0).tolist() == mask.tolist()


def test_heads_that_the_teacher_does_not_have():
    teacher = Teacher({"intent": HeadLogits(np.zeros((2, 2), np.float16), np.arange(3))})
    signals = Signals({"label": HeadSignals(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))})
    with pytest.raises(ArgumentError, match="cannot teach the head 'label'; it has intent"):
        teacher.loss({"label": torch.zeros(1, 2)}, signals, torch.tensor([0]), {})


# ---- shared between runs, and charged to each


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every batch that a teacher reads."""
    rows: list[int] = []
    original = prepare.load_saved

    def load_saved(folder: Path):
        model = original(folder)
        model.register_forward_pre_hook(
            lambda _model, _args, batch: rows.append(len(batch["input_ids"])), with_kwargs=True
        )
        return model

    monkeypatch.setattr(prepare, "load_saved", load_saved)
    return rows


def train_teacher(tmp_path: Path, kind: str = "classification", name: str = "teacher", seed: int = 0) -> None:
    finetune(toy_config(tmp_path, kind, keep=1.0, epochs=1, seed=seed, output=str(tmp_path / name)))


def teach(tmp_path: Path, name: str, kind: str = "classification", **options):
    usual = {"select": "random", "keep": 0.5, "epochs": 2, "teacher": str(tmp_path / "teacher")}
    return finetune(toy_config(tmp_path, kind, output=str(tmp_path / name), **{**usual, **options}))


@pytest.mark.cpu
def test_the_teacher_is_asked_once_and_each_run_is_charged(tmp_path, asked):
    train_teacher(tmp_path)
    cache = str(tmp_path / "cache")
    plain, first = teach(tmp_path, "plain"), teach(tmp_path, "first", cache=cache)
    assert sum(asked) == 2 * N
    (entry,) = (tmp_path / "cache").glob("teacher-*/entry.json")
    about = json.loads(entry.read_text())
    assert about["examples"] == N
    entry.write_text(json.dumps({**about, "seconds": 1000.0}))
    second = teach(tmp_path, "second", cache=cache, teacher_temperature=3.0)
    assert sum(asked) == 2 * N
    assert (first["cost"]["shared_s"] > 0, second["cost"]["shared_s"]) == (False, pytest.approx(1000, abs=20))
    assert second["cost"]["score_s"] > 1000
    for count in ("examples_forward", "tokens_forward"):
        assert plain["cost"][count] == first["cost"][count] == second["cost"][count]
    taken = [result["environment"]["from_cache"] for result in (plain, first, second)]
    assert taken == [None, None, "train, dev, teacher, test"]
    again = teach(tmp_path, "again", cache=cache)
    assert again["teacher"] == plain["teacher"]
    assert same(weights_of(tmp_path / "plain"), weights_of(tmp_path / "again"))


@pytest.mark.cpu
def test_every_word_of_a_joint_task_is_kept(tmp_path, asked):
    train_teacher(tmp_path, "intent-slot")
    for name in ("one", "two"):
        teach(tmp_path, name, "intent-slot", cache=str(tmp_path / "cache"))
    assert sum(asked) == N
    assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))


def test_another_teacher_and_other_ways_to_ask_it_have_an_entry_of_their_own(tmp_path, asked):
    for name, seed in (("teacher", 0), ("other", 1)):
        train_teacher(tmp_path, name=name, seed=seed)
    cache = str(tmp_path / "cache")
    teach(tmp_path, "one", cache=cache)
    card = tmp_path / "teacher" / "model" / "README.md"
    card.write_text(card.read_text() + "\nA verdict.\n")
    teach(tmp_path, "same", cache=cache)
    assert sum(asked) == N  # the card is no part of what it says
    teach(tmp_path, "two", cache=cache, teacher=str(tmp_path / "other"))
    teach(tmp_path, "three", cache=cache, max_length=8)
    assert sum(asked) == 3 * N
    assert len(list((tmp_path / "cache").glob("teacher-*"))) == 3


def test_a_broken_entry_is_asked_for_anew(tmp_path, asked):
    train_teacher(tmp_path)
    teach(tmp_path, "one", cache=str(tmp_path / "cache"))
    (place,) = (tmp_path / "cache").glob("teacher-*")
    for file in place.glob("*.parquet"):
        file.write_bytes(b"x" * file.stat().st_size)
    teach(tmp_path, "two", cache=str(tmp_path / "cache"))
    assert sum(asked) == 2 * N
    teach(tmp_path, "three", cache=str(tmp_path / "cache"))
    assert sum(asked) == 2 * N


def test_a_folder_that_cannot_be_written_to_costs_no_run(tmp_path, monkeypatch, asked):
    train_teacher(tmp_path)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datadiet.training.distill.save_values", full)
    listener = Heard()
    options = {"teacher": str(tmp_path / "teacher"), "cache": str(tmp_path / "cache"), "keep": 0.5, "epochs": 2}
    finetune(toy_config(tmp_path, select="random", **options), listener=listener)
    problem = f"the teacher's logits could not be kept in {tmp_path / 'cache'}: No space left on device."
    assert problem in listener.notes
    assert sum(asked) == N


def test_a_comparison_asks_each_teacher_once():
    """Its runs share one folder: the teacher of a seed is the run on everything with that seed."""
    plan = Plan({"data": "snips", "task": "intent-slot"}, methods_from(["distilled"]), keeps=[0.5, 0.2], seeds=[0])
    taught = [cell for cell in plan.cells() if cell.method == "distilled"]
    configs = [plan.config(cell, f"runs/{cell.name}", cache="cache") for cell in taught]
    assert [config.keep for config in configs] == [0.5, 0.2]
    assert {(config.teacher, config.cache, config.max_length) for config in configs} == {
        (str(Path("runs/full-seed0")), "cache", 128)
    }
