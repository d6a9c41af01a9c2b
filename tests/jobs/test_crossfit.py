"""`datadiet score --folds`: models that have not seen the row, one training per fold, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from typer.testing import CliRunner

from datadiet.cli import app
from datadiet.data.schema import Examples
from datadiet.errors import ArgumentError
from datadiet.jobs.crossfit import Folds, text_folds
from datadiet.jobs.finetune import finetune
from datadiet.jobs.score import score_data
from datadiet.ledger import Ledger
from datadiet.noise.probabilities import cleanlab_inputs
from datadiet.store.score_file import ScoreFile, read_scores
from toys import Heard, Killed, rewrite, tiny_model_folder, toy_config, write_toy_folder

N = 48
TASK = "classification"
OTHER = {"amber": "birch", "birch": "amber"}
FAST = {"learning_rate": 5e-3, "batch_size": 8, "precision": "fp32"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of which the labels of six rows are flipped, and a model to start from."""
    root = tmp_path_factory.mktemp("folds")
    data = write_toy_folder(root, TASK, N)
    rewrite(data, "train", lambda row: row | ({"label": OTHER[row["label"]]} if row["id"] in flipped() else {}))
    tiny_model_folder(root)
    return root


def flipped() -> set[str]:
    return {f"c-0-{row}" for row in range(6)}


def crossed(home: Path, scores: list[str], **options: Any) -> ScoreFile:
    given = FAST | {"epochs": 1, "folds": 2, "base_model": str(home / "tiny-bert")} | options
    return score_data(home / "toy-classification", TASK, scores=scores, **given)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Fills with the rows and the longest text of every training of a fold."""
    seen: list[tuple[int, int]] = []
    train = Folds._train

    def noted(self: Folds, model: Any, features: Any, training: Any, folder: Path) -> None:
        seen.append((len(training), max(features["length"])))
        train(self, model, features, training, folder)

    monkeypatch.setattr(Folds, "_train", noted)
    return seen


# ---- what it is for ----


@pytest.mark.proves("negative_pvi", by="planted")
def test_flipped_labels_are_hard_for_models_that_have_not_seen_them(home: Path, tmp_path: Path) -> None:
    """Through the command, with the file and what follows: dropped as suspects."""
    rows, wrong_ids = 160, {f"c-0-{row}" for row in range(12)}
    folder, output = write_toy_folder(tmp_path / "in", TASK, rows), tmp_path / "out" / "scores.parquet"
    rewrite(folder, "train", lambda row: row | ({"label": OTHER[row["label"]]} if row["id"] in wrong_ids else {}))
    data = str(folder)
    words = ["score", data, "--task", TASK, "--scores", "negative_pvi,irreducible_loss"]
    words += ["--folds", "4", "--epochs", "5"]
    words += ["--base-model", str(home / "tiny-bert"), "--output", str(output), "--probabilities", "--json"]
    words += ["--learning-rate", "5e-3", "--batch-size", "8", "--precision", "fp32"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    result, file = json.loads(done.stdout), read_scores(output)
    assert [path.name for path in output.parent.iterdir()] == ["scores.parquet"]
    for values in file.values.values():
        hardest = {file.ids[row] for row in np.argsort(-values)[:12].tolist()}
        assert len(hardest & wrong_ids) >= 9
    wrong = np.isin(file.ids, sorted(wrong_ids))
    assert np.median(file.values["negative_pvi"][wrong]) > 0 > np.median(file.values["negative_pvi"][~wrong])
    made = result["scores"]["negative_pvi"]
    assert (made["folds"], made["fold_trainings"], made["epochs"], made["base_model"]) == (4, 8, 5, "tiny-bert")
    assert result["cost"]["examples_backward"] == 2 * 5 * 3 * rows  # with and without texts, epochs, 3 of 4 parts
    assert result["probabilities_with"] == {"folds": 4}
    labels, probabilities = cleanlab_inputs(file)
    unlikely = np.argsort(probabilities[np.arange(rows), labels])[:12]
    assert wrong[unlikely].sum() >= 9
    chosen = CliRunner().invoke(
        app,
        ["select", str(output), "--data", data, "--score", "negative_pvi", "--drop-suspects", "0.075", "--output",
         str(tmp_path / "kept.jsonl")],
    )  # fmt: skip
    assert chosen.exit_code == 0, chosen.output
    kept = {json.loads(line)["id"] for line in (tmp_path / "kept.jsonl").read_text().splitlines()}
    assert len(kept) == rows - 12
    assert len(wrong_ids - kept) >= 9


def test_a_diet_begins_from_it(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.parquet"
    crossed(home, ["negative_pvi"], output=output)
    run = toy_config(
        tmp_path, data=str(home / "toy-classification"), score="negative_pvi", scores_from=str(output), epochs=2
    )
    assert finetune(run)["diet"]["score"] == "negative_pvi"


# ---- what is trained ----


def test_all_scores_share_one_training_per_fold(home: Path, trainings: list[tuple[int, int]]) -> None:
    ledger = Ledger()
    names = ["negative_pvi", "irreducible_loss", "reducible_loss", "el2n"]
    file = crossed(home, names, folds=3, probabilities=True, ledger=ledger)
    assert [rows for rows, _ in trainings] == [32] * 6
    assert [longest for _, longest in trainings[1::2]] == [2] * 3  # nothing but the special tokens
    assert ledger.examples_backward == N + 6 * 32  # the model on everything, once, and the folds
    assert ledger.examples_forward == ledger.examples_backward + N + N + 3  # the model, the parts, and empty texts
    cost = file.cost
    assert sum(cost[f"{part}_s"] for part in ("load", "train", "score", "select", "eval", "save")) == pytest.approx(
        cost["total_s"]
    )
    assert min(cost.values()) >= 0
    alone = crossed(home, ["irreducible_loss"], folds=3)
    assert_array_equal(alone.values["irreducible_loss"], file.values["irreducible_loss"])
    assert len(trainings) == 9  # without the texts none
    both = file.values["reducible_loss"] + file.values["irreducible_loss"]
    gold = torch.tensor(file.values["el2n"]) / 2**0.5  # of two classes
    assert_allclose(both, -torch.log1p(-gold), atol=1e-4)


def test_a_model_at_hand_is_not_trained_again(home: Path, tmp_path: Path, trainings: list[tuple[int, int]]) -> None:
    finetune(toy_config(tmp_path, data=str(home / "toy-classification"), keep=1.0, epochs=1))
    ledger = Ledger()
    file = crossed(home, ["reducible_loss", "el2n"], model=tmp_path / "run", ledger=ledger)
    assert ledger.examples_backward == 2 * N // 2
    assert len(trainings) == 2
    assert file.made_with["reducible_loss"]["model"] == "run"
    assert file.made_with["el2n"].get("folds") is None


def test_it_is_told_before_it_begins_and_as_it_goes(home: Path) -> None:
    heard = Heard()
    crossed(home, ["negative_pvi", "el2n"], listener=heard, epochs=2)
    assert any(
        "will train 2 folds: a model with the texts and one without on 24 of 48 rows each, 2 epochs, 4 trainings and "
        "24 steps in all. A model on everything is trained as well." in note
        for note in heard.notes
    )
    assert {"fold 1 of 2: training on 24 rows", "fold 2 of 2: training without the texts"} <= set(heard.phases)


def test_no_row_is_scored_by_a_model_that_has_seen_its_text() -> None:
    texts = [f"text {row}" for row in range(20)] + ["Text  3", "text 3", "text 11"]
    train = Examples(ids=tuple(map(str, range(23))), texts=tuple(texts))
    groups = np.arange(23) % 2
    parts = text_folds(train, groups, 4, seed=1, names=("a", "b"))
    assert_array_equal(np.sort(np.concatenate([held_out for _, held_out in parts])), np.arange(23))
    for training, held_out in parts:
        apart = [{" ".join(texts[row].lower().split()) for row in rows} for rows in (training, held_out)]
        assert not apart[0] & apart[1]
        assert set(groups[training].tolist()) == {0, 1}


@pytest.mark.parametrize("sizes", [(50, 20, 3), (1,) * 30], ids=["classes", "every set of labels once"])
@pytest.mark.parametrize("folds", [2, 5])
def test_folds_hold_each_row_once_and_each_class_evenly(folds: int, sizes: tuple[int, ...]) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rows = Examples(ids=tuple(map(str, range(len(groups)))), texts=tuple(f"text {row}" for row in range(len(groups))))
    parts = text_folds(rows, groups, folds, seed=3)
    assert sorted(np.concatenate([held_out for _, held_out in parts])) == list(range(len(rows)))
    for training, held_out in parts:
        assert sorted([*training, *held_out]) == list(range(len(rows)))
        for group, size in enumerate(sizes):
            assert abs((groups[held_out] == group).sum() - size / folds) <= 1
    held_sizes = [len(held_out) for _, held_out in parts]
    assert max(held_sizes) - min(held_sizes) <= 1
    again, other = (text_folds(rows, groups, folds, seed=seed) for seed in (3, 4))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(parts, again, strict=True))
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(parts, other, strict=True))


@pytest.mark.parametrize("kind", ["intent-slot", "regression", "multi-label", "token-classification"])
def test_losses_of_every_task(kind: str, tmp_path: Path) -> None:
    data, model = write_toy_folder(tmp_path, kind, 24), str(tiny_model_folder(tmp_path))
    file = score_data(data, kind, scores=["irreducible_loss"], epochs=1, folds=2, base_model=model, **FAST)
    assert np.isfinite(file.values["irreducible_loss"]).all()


# ---- what is kept ----


def test_a_job_that_is_killed_leaves_nothing(home: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        crossed(home, ["negative_pvi"], output=tmp_path / "scores.parquet", listener=Heard(die_at=3))
    assert not list(tmp_path.iterdir())


def test_with_a_cache_it_goes_on_with_the_fold_it_was_in(
    home: Path, tmp_path: Path, trainings: list[tuple[int, int]]
) -> None:
    class Stop(Heard):
        def phase(self, text: str) -> None:
            if text.startswith("fold 2"):
                raise Killed

    cache = str(tmp_path / "cache")
    with pytest.raises(Killed):
        crossed(home, ["negative_pvi"], cache=cache, listener=Stop())
    assert len(trainings) == 2
    file = crossed(home, ["negative_pvi"], cache=cache)
    assert len(trainings) == 4
    assert file.cost["shared_s"] > 0
    fresh = crossed(home, ["negative_pvi"])
    assert_array_equal(file.values["negative_pvi"], fresh.values["negative_pvi"])
    assert len(trainings) == 8
    crossed(home, ["negative_pvi"], cache=cache, learning_rate=1e-3)
    assert len(trainings) == 12  # other trainings


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": 1}, "folds must be a whole number, at least 2, got 1"),
        ({"epochs": None, "learning_rate": 5e-5}, "--folds needs --epochs E: how long the models of each fold train"),
        ({"scores": ["el2n"]}, "--folds has no effect: no requested score needs models that have not seen a row"),
        ({"folds": None}, "negative_pvi needs models with and without the texts .* --folds K --epochs E"),
        ({"scores": ["irreducible_loss"], "holdout": Path("none")}, "--holdout and --folds both give the losses"),
        ({"run": Path("kept")}, "--run has no effect: only the models of the folds are trained"),
        ({"task": "regression"}, "negative_pvi is for the classes of whole texts .*, not for regression"),
        ({"folds": 25}, r"every class needs a text for each of the 25 folds.* too few have (amber|birch) \(\d\d\)"),
        ({"folds": 49}, "folds must be at most the 48 different training texts, got 49"),
    ],
)
def test_what_is_refused(home: Path, options: dict[str, Any], words: str) -> None:
    given = FAST | {"epochs": 1, "folds": 2, "base_model": str(home / "tiny-bert"), "scores": ["negative_pvi"]}
    given |= {"task": TASK} | options
    with pytest.raises(ArgumentError, match=words):
        score_data(home / "toy-classification", given.pop("task"), **given)
