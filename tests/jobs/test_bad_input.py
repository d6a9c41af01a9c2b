"""Bad input: one clear error, all problems at once, and nothing is written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from datadiet.cli import app
from datadiet.cli.options import Call
from datadiet.config import FinetuneConfig, config_from
from datadiet.errors import ArgumentError, UserError
from datadiet.jobs import predict
from datadiet.jobs.finetune import finetune
from datadiet.jobs.validate import check_config
from datadiet.registry import names
from launching import forked
from toys import TOYS, rewrite, tiny_model_folder, write_toy_folder

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("model")))


def refused(config: FinetuneConfig) -> tuple[str, ...]:
    """The problems that a run is refused for; there is no trace of it."""
    before = sorted(Path(config.output).parent.rglob("*"))
    with pytest.raises(UserError, match=r".") as caught:
        finetune(config)
    assert sorted(Path(config.output).parent.rglob("*")) == before
    return caught.value.problems


def config_for(home: Path, model: str, kind: str = "classification", **changes: Any) -> FinetuneConfig:
    data = changes.pop("data", None) or str(write_toy_folder(home, kind, 32))
    usual: dict[str, Any] = {"epochs": 4, "batch_size": 8, "precision": "fp32", "model": model}
    return FinetuneConfig(**{"data": data, "task": TOYS[kind].task, "output": str(home / "run"), **usual, **changes})


# ---- the data


def edit(split: str, row: int, **changes: Any) -> Change:
    """Change some columns of one row (counted from 0); a column given as ... is removed."""

    def change(data: Path) -> None:
        numbers = iter(range(10_000))

        def one(line: dict[str, Any]) -> dict[str, Any]:
            changed = {**line, **changes} if next(numbers) == row else line
            return {name: value for name, value in changed.items() if value is not ...}

        rewrite(data, split, one)

    return change


def edit_all(split: str, **changes: Any) -> Change:
    return lambda data: rewrite(data, split, lambda line: {**line, **changes})


def write(name: str, text: str) -> Change:
    return lambda data: (data / name).write_text(text, encoding="utf-8")


def append(name: str, text: str) -> Change:
    def change(data: Path) -> None:
        with (data / name).open("a", encoding="utf-8") as stream:
            stream.write(text)

    return change


def drop_column(split: str, name: str) -> Change:
    return lambda data: rewrite(data, split, lambda line: {key: line[key] for key in line if key != name})


DATA: dict[str, tuple[str, Change, tuple[str, ...]]] = {
    "no train file": ("classification", lambda data: (data / "train.jsonl").unlink(), ("there is no train split",)),
    "no file at all": (
        "classification", lambda data: [file.unlink() for file in data.iterdir()], ("no train, dev or test data",),
    ),
    "column missing": ("classification", drop_column("train", "text"), ("train.jsonl", "no column with the text")),
    "label column missing": ("classification", drop_column("dev", "label"), ("dev.jsonl", "no column with the label")),
    "slots column missing": ("intent-slot", drop_column("train", "slots"), ("train.jsonl", "no column with the slots")),
    "broken JSON": ("classification", append("train.jsonl", '{"text": \n'), ("train.jsonl, line 33", "not valid JSON")),
    "JSON that is no object": ("classification", append("dev.jsonl", "[1]\n"), ("dev.jsonl, line 9", "found list")),
    "not UTF-8": (
        "classification", lambda data: (data / "train.jsonl").write_bytes(b"\xff\xfe"), ("train.jsonl", "UTF-8"),
    ),
    "slots too short": (
        "intent-slot", edit("train", 4, tokens=["play", "bach"], slots=["O"]), ("line 5", "2 tokens but 1 slots"),
    ),
    "row without its label": ("classification", edit("train", 6, label=None), ("train.jsonl, line 7", "missing")),
    "dev row without its label": ("classification", edit("dev", 0, label=...), ("dev.jsonl, line 1", "missing")),
    "label of another type": ("classification", edit("dev", 2, label=7), ("dev.jsonl, line 3", "label")),
    "labels of another type": ("classification", edit_all("test", label=7), ("test.jsonl", "train's labels are text")),
    "empty training split": ("classification", write("train.jsonl", ""), ("train.jsonl", "no examples")),
    "empty text": ("classification", edit("train", 1, text="  "), ("train.jsonl, line 2", "the text is empty")),
    "empty token list": ("intent-slot", edit("train", 1, tokens=[], slots=[]), ("line 2", "list of tokens is empty")),
    "duplicate ids": (
        "classification", edit("train", 9, id="c-0-3"), ("train.jsonl, line 10", "the id 'c-0-3' stands at line 4 too"),
    ),
    "one class only": ("classification", edit_all("train", label="amber"), ("one class only ('amber')",)),
    "one intent only": ("intent-slot", edit_all("train", intent="play_music"), ("one intent only",)),
    "one number only": ("regression", edit_all("train", label=2.5), ("one number only",)),
    "NaN in a regression label": ("regression", edit("train", 3, label=float("nan")), ("line 4", "nan is not a")),
    "text in a regression label": ("regression", edit("dev", 3, label="high"), ("dev.jsonl", "'high' is not")),
    "a number for a text": ("classification", edit("train", 0, text=3), ("train.jsonl, line 1", "must be text")),
    "two files for a split": ("classification", write("train.csv", "text,label\na,b\n"), ("more than once",)),
    "pairs in train only": (
        "pairs", lambda data: rewrite(data, "dev", lambda line: {"text": line["sentence1"], "label": line["label"]}),
        ("dev.jsonl", "give both the same columns"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_used(tmp_path: Path, model: str, name: str) -> None:
    kind, change, said = DATA[name]
    config = config_for(tmp_path, model, kind)
    change(Path(config.data))
    problems = refused(config)
    assert len({problem.partition(":")[0] for problem in problems}) == 1, problems
    assert all(part in problems[0] for part in said), problems[0]
    assert "\n" not in "".join(problems)


def test_a_column_of_another_name(tmp_path: Path, model: str) -> None:
    problems = refused(config_for(tmp_path, model, text_column="txt"))
    assert len(problems) == 3  # one per file
    assert all("--text-column: unknown column 'txt'; did you mean 'text'?" in problem for problem in problems)


def test_problems_of_all_splits_at_once(tmp_path: Path, model: str) -> None:
    config = config_for(tmp_path, model)
    for split in ("train", "dev"):
        edit(split, 1, text="")(Path(config.data))
    append("test.jsonl", "{")(Path(config.data))
    assert "test.jsonl, line 9" in refused(config)[0]
    (Path(config.data) / "test.jsonl").unlink()
    assert [problem.partition(":")[0].rpartition("/")[2] for problem in refused(config)] == [
        "train.jsonl, line 2", "dev.jsonl, line 2",
    ]  # fmt: skip


def test_a_keep_that_leaves_no_full_batch(tmp_path: Path, model: str) -> None:
    (problem,) = refused(config_for(tmp_path, model, keep=0.2))
    assert problem.startswith("keep 0.2 leaves no full batch: 6 of 32 examples, and a step takes 8.")
    (problem,) = refused(config_for(tmp_path, model, keep=0.4, gradient_accumulation=2))
    assert "12 of 32 examples, and a step takes 16" in problem


CLASSES: dict[str, tuple[str, dict[str, Any], str]] = {
    "floors that take more than is kept": (
        "classification", {"floor": 9}, "a floor of 9 rows in each of 2 classes needs 18 rows, but only 16 are kept.",
    ),
    "floors at the last step of keep": (
        "classification", {"floor": 5, "keep": "1:0.7,3:0.3"}, "needs 10 rows, but only 8 are kept. Lower the floor",
    ),
    "a floor above the size of a class": (
        "intent-slot",
        {"floor": 11, "tolerance": 1.0},
        "a floor of 11 rows per class is more than there are of 'play_music' (10); lower it to 10 or less.",
    ),
    "a floor above the size of a set of labels": (
        "multi-label",
        {"floor": 8, "keep": 0.9},
        "a floor of 8 rows per class is more than there are of 'amber, birch' (5)",
    ),
    "shares that are none": (
        "classification",
        {"select": "quota(shares.amber=1,shares.birch=1)"},
        "shares must sum to 1, got 2.",
    ),
    "a share out of range": (
        "classification", {"select": "ccs(beta=20)"}, "beta of ccs must be in [0, 1), got 20.",
    ),
    "an option for a class that does not exist": (
        "classification",
        {"select": "directed(directions.ambre=easy)"},
        "unknown class in directions 'ambre'; did you mean 'amber'?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_options_that_the_classes_do_not_allow(tmp_path: Path, model: str, name: str) -> None:
    kind, changes, said = CLASSES[name]
    problems = refused(config_for(tmp_path, model, kind, refresh_every=1, **changes))
    assert said in problems[0], problems


def test_more_training_rows_than_there_are(tmp_path: Path, model: str) -> None:
    (problem,) = refused(config_for(tmp_path, model, train_rows=33))
    assert problem == "train_rows must be at most 32, the rows there are to train on, got 33."


# ---- the arguments

ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "keep of 0": ({"keep": 0}, "keep must be in (0, 1], got 0."),
    "keep below 0": ({"keep": -0.5}, "keep must be in (0, 1], got -0.5."),
    "keep in percent": ({"keep": 70}, "keep must be in (0, 1], got 70. Did you mean 0.7?"),
    "keep as text": ({"keep": "half"}, "keep must be a share such as 0.5, or steps"),
    "keep that does not step down": ({"keep": "1:0.5,3:0.6"}, "keep must step down"),
    "a step of keep out of range": ({"keep": "1:0.5,3:30"}, "keep must be in (0, 1], got 30.0. Did you mean 0.3?"),
    "warm-up too long": ({"warmup_epochs": 5}, "the warm-up is longer than the training: warmup_epochs 5, epochs 4."),
    "nothing left for the diet": ({"warmup_epochs": 4}, "no epoch is left for the diet"),
    "warm-up and annealing too long": ({"anneal_epochs": 4}, "warm-up and annealing are longer than the training"),
    "unknown score": ({"score": "el2m"}, "unknown score 'el2m'; did you mean 'el2n'?"),
    "unknown selector": ({"select": "hardets"}, "unknown selector 'hardets'; did you mean 'hardest'?"),
    "unknown task": ({"task": "classify"}, "unknown task 'classify'; did you mean 'classification'?"),
    "unknown history": ({"history": "emma"}, "unknown history 'emma'; did you mean 'ema'?"),
    "unknown rescore": ({"rescore": "drop"}, "unknown rescore 'drop'; did you mean 'dropped'?"),
    "unknown schedule": ({"lr_schedule": "linea"}, "unknown lr_schedule 'linea'; did you mean 'linear'?"),
    "unknown precision": ({"precision": "bf"}, "unknown precision 'bf'; did you mean 'bf16'?"),
    "unknown report": ({"report_to": "wandbb"}, "report_to 'wandbb' is unknown or not installed; allowed here: none"),
    "unknown class weights": ({"class_weights": "even"}, "unknown class_weights 'even'. Allowed: balanced."),
    "unknown combination": ({"task": "intent-slot", "combine": "max"}, "unknown combine 'max'"),
    "no epochs": ({"epochs": 0}, "epochs must be a whole number, at least 1, got 0."),
    "no batch": ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0."),
    "no accumulation": ({"gradient_accumulation": 0}, "gradient_accumulation must be a whole number, at least 1"),
    "no length": ({"max_length": 2}, "max_length must be a whole number, at least 3, got 2."),
    "no steps": ({"keep": 1.0, "max_steps": 0}, "max_steps must be a whole number, at least 1, got 0."),
    "no rows": ({"train_rows": 0}, "train_rows must be a whole number, at least 1, got 0."),
    "no learning rate": ({"learning_rate": 0.0}, "learning_rate must be above 0 and finite, got 0.0."),
    "endless learning rate": ({"learning_rate": float("inf")}, "learning_rate must be above 0 and finite, got inf."),
    "negative decay": ({"weight_decay": -0.1}, "weight_decay must be at least 0 and finite, got -0.1."),
    "negative norm": ({"max_grad_norm": -1.0}, "max_grad_norm must be at least 0 and finite, got -1.0."),
    "negative seed": ({"seed": -1}, "seed must be a whole number, at least 0 and at most 4294967295, got -1."),
    "large seed": ({"seed": 2**32}, "seed must be a whole number, at least 0 and at most 4294967295, got 4294967296."),
    "negative rank": ({"lora": -1}, "lora must be a whole number, at least 0, got -1."),
    "rate warm-up in percent": ({"lr_warmup": 6}, "lr_warmup must be in [0, 1), got 6. Did you mean 0.06?"),
    "smoothing of everything": ({"label_smoothing": 1.0}, "label_smoothing must be in [0, 1), got 1.0."),
    "no dev": ({"dev_share": 0.0}, "dev_share must be in (0, 1), got 0.0."),
    "dev in percent": ({"dev_share": 10}, "dev_share must be in (0, 1), got 10. Did you mean 0.1?"),
    "alpha above 1": ({"task": "intent-slot", "alpha": 50}, "alpha must be in [0, 1], got 50. Did you mean 0.5?"),
    "NaN": ({"weight_decay": float("nan")}, "weight_decay must be at least 0 and finite, got nan."),
    "offset of everything": ({"select": "hardest", "offset": 1.0}, "offset must be in [0, 1), got 1.0."),
    "offset without effect": ({"select": "random", "offset": 0.1}, "offset has no effect on 'random'"),
    "alpha without effect": ({"alpha": 0.7}, "alpha is for joint tasks (intent-slot), not for classification."),
    "combine without effect": ({"combine": "mean"}, "combine is for examples with several decisions"),
    "separator without effect": ({"label_separator": ","}, "label_separator is for examples with any number of labels"),
    "static without effect": ({"static": True, "keep": 1.0}, "static has no effect with keep 1"),
    "kept checkpoints without effect": (
        {"keep_checkpoints": True, "checkpoint_every": 0}, "keep_checkpoints has no effect with checkpoint_every 0",
    ),
    "weights for a number": ({"task": "regression", "class_weights": "balanced"}, "class_weights is for classes"),
    "smoothing for a number": ({"task": "regression", "label_smoothing": 0.1}, "label_smoothing is for classes"),
    "floor for a number": ({"task": "regression", "floor": 2}, "floor is for examples with a class; for regression"),
    "margin of a number": ({"task": "regression", "score": "margin"}, "the score margin is for classes"),
    "entropy of a number": ({"task": "regression", "score": "entropy"}, "the score entropy is for classes"),
    "loss of a class for a number": (
        {"task": "regression", "score": "cross_entropy", "select": "uncertain"},
        "the score cross_entropy is for classes; a regression has none.",
    ),
    "dynamics of a class for a number": ({"task": "regression", "score": "aum"}, "the score aum is for classes"),
    "a distance for classes": (
        {"score": "absolute_error"}, "the score absolute_error is for regression, not for classification.",
    ),
    "quotas for a number": (
        {"task": "regression", "select": "balanced"}, "the selector balanced is for examples with a class",
    ),
    "quotas for a tagger": (
        {"task": "token-classification", "select": "drop_quota"},
        "the selector drop_quota is for examples with a class; for token-classification they have none.",
    ),
    "recalls of sets of labels": (
        {"task": "multi-label", "select": "drop_quota"},
        "the selector drop_quota is for examples with one class each (intent-slot and classification",
    ),
    "directions of sets of labels": (
        {"task": "multi-label", "select": "directed(directions.amber=easy)"},
        "the option directions of directed is for examples with one class each",
    ),
    "groups of a number": (
        {"task": "regression", "select": "moderate(per_group=true)"},
        "per_group of the selector moderate is for examples with a class",
    ),
    "guard for a number": ({"task": "regression", "offset": "auto"}, "offset auto is for examples with one class each"),
    "guard for sets of labels": ({"task": "multi-label", "offset": "auto"}, "offset auto is for examples with one"),
    "stopping without checkpoints": (
        {"early_stopping": 2, "checkpoint_every": 2}, "early_stopping needs a checkpoint of every epoch",
    ),
    "two rules for the end": (
        {"epochs": "auto", "early_stopping": 2}, "early_stopping must be 0 with epochs auto, got 2. It is a rule",
    ),
    "auto without checkpoints": (
        {"epochs": "auto", "checkpoint_every": 0}, "checkpoint_every must be 1 with epochs auto, got 0. The best",
    ),
    "steps and auto": (
        {"epochs": "auto", "max_steps": 9, "keep": 1.0}, "max_steps must be left out with epochs auto, got 9. The end",
    ),
    "tolerance and auto": (
        {"epochs": "auto", "tolerance": 0.5}, "tolerance must be left out with epochs auto, got 0.5. It decides",
    ),
    "annealing and auto": (
        {"epochs": "auto", "anneal_epochs": 1}, "anneal_epochs must be 0 with epochs auto, got 1. Which epochs",
    ),
    "a long warm-up and auto": (
        {"epochs": "auto", "warmup_epochs": 21}, "the warm-up is longer than the training: warmup_epochs 21, epochs 20",
    ),
    "no tolerance": ({"tolerance": 0.0}, "tolerance must be points of the metric, above 0 and at most 100, got 0.0."),
    "tolerance and keep": ({"tolerance": 0.5, "keep": 0.3}, "keep has no effect with a tolerance"),
    "tolerance of a random choice": ({"tolerance": 0.5, "select": "random"}, "tolerance has no meaning for 'random'"),
    "tolerance without a warm-up": ({"tolerance": 0.5, "warmup_epochs": 0}, "needs at least one epoch on everything"),
    "tolerance and steps": ({"tolerance": 0.5, "max_steps": 9}, "max_steps goes with keep 1 only"),
    "steps on a diet": ({"max_steps": 5}, "max_steps goes with keep 1 only"),
    "ema out of range": ({"history": "ema(alpha=2.0)"}, "alpha of ema must be in (0, 1], got 2.0."),
    "window of nothing": ({"history": "mean(window=0)"}, "window of mean must be a whole number"),
    "a type": ({"epochs": "4"}, "epochs must be a whole number or auto, got '4'."),
    "columns without effect": ({"slots_column": "tags"}, "--slots-column has no effect for the task 'classification'"),
    "fp16 on a CPU": ({"precision": "fp16"}, "precision fp16 needs a GPU; use bf16, fp32 or auto."),
    "no data": ({"data": " "}, "data is empty."),
    "data missing": ({"data": "./nowhere"}, "no file or folder './nowhere'."),
    "data of GLUE misspelt": ({"data": "glue/sst"}, "unknown data set 'glue/sst'; did you mean 'glue/sst2'?"),
    "model missing": ({"model": "./nowhere"}, "the model folder ./nowhere does not exist."),
    "a score of several checkpoints": (
        {"score": "vog"}, "'vog' is not made while training: write it with datadiet score, and give that file",
    ),
    "losses of a model on other data": (
        {"select": "top_reducible"}, "'irreducible_loss' is not made while training: write it with datadiet score",
    ),
    "scores missing": (
        {"scores_from": "nowhere", "warmup_epochs": 0},
        "scores_from must be a run folder, or a file of datadiet score: nowhere/scores holds no",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_that_are_refused(tmp_path: Path, model: str, name: str) -> None:
    changes, said = ARGUMENTS[name]
    kind = next((kind for kind, toy in TOYS.items() if toy.task == changes.get("task")), "classification")
    config = replace(config_for(tmp_path, model, kind), **changes)
    problems = refused(config)
    assert len(problems) == 1, problems
    assert said in problems[0]
    assert "\n" not in problems[0]


def test_all_problems_with_the_arguments_at_once(tmp_path: Path, model: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").touch()
    wrong: dict[str, Any] = {
        "task": "classify", "data": "./nowhere", "model": "./no-model", "keep": 70, "score": "el2m", "select": "hard",
        "history": "emma", "warmup_epochs": 9, "epochs": 4, "learning_rate": -1.0, "precision": "fp64",
        "lr_schedule": "flat", "batch_size": 0, "seed": -1, "early_stopping": 2, "checkpoint_every": 0,
        "scores_from": "./none", "max_length": "long", "report_to": "paper",
    }  # fmt: skip
    found = refused(replace(config_for(tmp_path, model), **wrong))
    for said in (
        "max_length must be a whole number", "unknown task", "no file or folder", "the model folder", "got 70",
        "unknown score", "unknown selector", "unknown history", "the warm-up is longer", "learning_rate must be",
        "unknown precision", "unknown lr_schedule", "batch_size must be", "early_stopping needs", "scores_from must be",
        "report_to", "is not empty", "scores_from has no effect after a warm-up", "seed must be",
    ):  # fmt: skip
        assert len([problem for problem in found if said in problem]) == 1, said
    assert len(found) == len(set(found)) == 19


def test_a_problem_is_said_once(tmp_path: Path, model: str) -> None:
    assert refused(config_for(tmp_path, model, epochs=0)) == ("epochs must be a whole number, at least 1, got 0.",)
    assert refused(config_for(tmp_path, model, refresh_every=0)) == (
        "refresh_every must be a whole number, at least 1, got 0.",
    )


def test_a_hub_model_without_a_network(tmp_path: Path, model: str) -> None:
    (problem,) = refused(config_for(tmp_path, "no-such-owner/no-such-model"))
    assert problem.startswith("cannot get the model 'no-such-owner/no-such-model' from the Hugging Face hub")
    assert "give that folder" in problem


def test_hub_data_without_a_network(tmp_path: Path, model: str) -> None:
    (problem,) = refused(config_for(tmp_path, model, data="glue/sst2"))
    assert "use a local folder" in problem
    (problem,) = refused(config_for(tmp_path, model, data="owner/no-such-set"))
    assert "use a local folder" in problem


def test_hub_data_are_not_asked_for_while_the_arguments_are_wrong(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datadiet.data.sources.open_hub", lambda *_: pytest.fail("asked"))
    assert refused(config_for(tmp_path, model, data="glue/sst2", keep=70)) == (
        "keep must be in (0, 1], got 70. Did you mean 0.7?",
    )


def test_without_peft(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused(config_for(tmp_path, model, lora=2)) == ("lora needs peft: pip install 'datadiet[peft]'",)


def test_several_processes(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    (problem,) = refused(config_for(tmp_path, model))
    assert problem == ("finetune runs in one process, not 2; for several use DietTrainer in a script of your own.")


def test_a_model_of_another_kind(tmp_path: Path, model: str) -> None:
    (tmp_path / "empty").mkdir()
    (problem,) = refused(config_for(tmp_path, str(tmp_path / "empty")))
    assert "holds no config.json, so it is not a saved model" in problem


def test_what_is_right_is_not_refused(tmp_path: Path, model: str) -> None:
    diet = check_config(config_for(tmp_path, model, keep="1:0.7,3:0.4", history="ema(c=0.5)"))
    assert diet.options.keep == {1: 0.7, 3: 0.4}
    assert diet.describe()["history"] == "ema(c=0.5)"
    for task in names("task"):
        check_config(config_from({"data": "snips", "task": task, "output": str(tmp_path / "run"), "model": model}))


# ---- through the command line


Ended = tuple[int, str, str]  # exit code, stdout, stderr


def run_apart(*arguments: str) -> Ended:
    done = forked([sys.executable, "-m", "datadiet", *arguments])
    return done.returncode, done.stdout, done.stderr


def run_here(*arguments: str) -> Ended:
    """The same in this process, which has imported everything."""
    done = CliRunner().invoke(app, arguments, obj=Call(0.0))
    return done.exit_code, done.stdout, done.stderr


def written(settings: dict[str, Any]) -> Change:
    return lambda data: (data.parent / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")


def finished_run(data: Path) -> None:
    (data.parent / "run").mkdir()
    (data.parent / "run" / "result.json").write_text("{}", encoding="utf-8")


COMMANDS: dict[str, tuple[Change, list[str], list[str]]] = {
    "several arguments": (
        finished_run,
        ["--task", "classification", "--keep", "70", "--score", "el2m", "--warmup-epochs", "9"],
        [
            "error: 4 problems:", "Did you mean 0.7?", "unknown score 'el2m'; did you mean 'el2n'?",
            "the warm-up is longer", "the output folder run already holds a finished run; choose another folder.",
        ],
    ),
    "a broken line": (
        append("train.jsonl", "{"), ["--task", "classification"], ["error: ", "train.jsonl, line 33: not valid JSON"],
    ),
    "a file of options": (
        written({"epochs": "many", "kep": 0.5}),
        ["--config", "config.yaml", "--task", "classification"],
        ["error: 2 problems:", "unknown option 'kep'; did you mean 'keep'?", "epochs must be a whole number"],
    ),
    "a hub name without a network": (
        lambda data: None,
        ["--task", "classification", "--model", "no-such-owner/no-such-model"],
        ["cannot get the model 'no-such-owner/no-such-model'", "local-dir FOLDER"],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "run"), [(name, run_here) for name in COMMANDS] + [("several arguments", run_apart)])
def test_the_command_line_says_it_once_and_exits_with_2(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, name: str, run: Callable[..., Ended]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    change, arguments, said = COMMANDS[name]
    data = write_toy_folder(tmp_path, n=32)
    change(data)
    before = sorted(tmp_path.rglob("*"))
    models = [] if "--model" in arguments else ["--model", model]
    code, out, err = run("finetune", str(data), "--output", "run", "--batch-size", "8", *models, *arguments)
    assert code == 2, err
    assert all(part in err for part in said), err
    assert err.count("error:") == 1
    assert "Traceback" not in out + err
    assert sorted(tmp_path.rglob("*")) == before


def test_outputs_that_cannot_be_written_are_seen_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    config = predict.PredictConfig(data="snips", model=tmp_path / "model", output=str(tmp_path / "pipe.jsonl"))
    with pytest.raises(ArgumentError, match=r"--output cannot be written: .* is a pipe"):
        predict.check_config(config)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ArgumentError, match=r"--output cannot be written: .* may not be written to"):
        predict.check_config(replace(config, output=str(tmp_path / "new" / "p.jsonl")))
