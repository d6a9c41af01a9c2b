"""Multi-label data and taggers through everything that follows a run: page, predictions, card."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from datadiet.cli import app
from datadiet.errors import ArgumentError, DataError
from datadiet.jobs.finetune import finetune
from datadiet.jobs.predict import PredictConfig, predict
from datadiet.jobs.validate import check_config
from datadiet.reporting import report
from datadiet.reporting.run_page import recalls
from toys import SLOTS, plans_of, predictions_of, rewrite, scores_of, toy_config

RUNS = ("multi-label", "token-classification")
both = pytest.mark.parametrize("kind", RUNS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in RUNS}
    for kind, folder in folders.items():
        finetune(toy_config(folder, kind, epochs=4))
    return {kind: folder / "run" for kind, folder in folders.items()}


@both
def test_the_page_the_card_and_the_plans(runs, kind):
    page = report(runs[kind]).read_text(encoding="utf-8")
    for words in ("Worst class", "Recall of each class", "span f1" if kind == "token-classification" else "micro f1"):
        assert words in page
    assert "The training texts are not shown" not in page
    card = (runs[kind] / "model" / "README.md").read_text(encoding="utf-8")
    assert f"tags:\n- datadiet\n- {kind}\n" in card
    assert [len(rows) for rows in plans_of(runs[kind]).values()] == [48, 24, 24, 24]
    scores = scores_of(runs[kind])
    assert np.isfinite(scores[["el2n", "gold_probability", "margin", "loss", "correct"]]).all(axis=None)


def test_recalls_by_label_and_by_type_of_span():
    several = pd.DataFrame({"gold": [["a", "b"], ["b"], []], "predicted": [["a"], ["b"], ["a"]]})
    assert recalls(several) == ({"a": 1.0, "b": 0.5}, {"a": 1, "b": 2})
    tags = {"gold_slots": [["B-x", "I-x", "B-y"], ["B-x"]], "predicted_slots": [["B-x", "O", "B-y"], ["B-x"]]}
    assert recalls(pd.DataFrame({"gold": None, "predicted": [None, None], **tags})) == (
        {"x": 0.5, "y": 1.0},
        {"x": 2, "y": 1},
    )


def test_a_page_without_spans(tmp_path):
    config = toy_config(tmp_path, "token-classification", epochs=2)
    for split in ("dev", "test"):
        rewrite(Path(config.data), split, lambda row: {**row, "ner_tags": ["O"] * len(row["tokens"])})
    finetune(config)
    assert "Worst class" not in report(config.output).read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@both
def test_a_labelled_file_gives_lines_and_the_metrics_of_the_run(runs, kind, suffix, tmp_path):
    data = str(runs[kind].parent / f"toy-{kind}" / "test.jsonl")
    output = tmp_path / f"out{suffix}"
    predicted = predict(PredictConfig(model=runs[kind], data=data, output=str(output), precision="fp32"))
    metrics = json.loads((runs[kind] / "result.json").read_text())["metrics"]["test"]
    assert predicted.metrics == pytest.approx(metrics, abs=1e-5)
    name, column, sign = ("tags", "predicted_slots", " ") if kind != "multi-label" else ("predicted", "predicted", "|")
    of_run = predictions_of(runs[kind], "test")[column]
    assert [line[name] for line in predicted.lines] == [list(names) for names in of_run]
    if kind == "multi-label":
        assert 0 < predicted.lines[0]["probability"] <= 1
    else:
        assert not {"predicted", "probability", "slots"} & set(predicted.lines[0])
    if suffix == ".csv":
        rows = list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))
        assert [row[name] for row in rows] == [sign.join(line[name]) for line in predicted.lines]


def test_one_text(runs):
    tagger = runs["token-classification"]
    (line,) = predict(PredictConfig(model=tagger, text="play adele")).lines
    assert line["tokens"] == ["play", "adele"]
    assert set(line["tags"]) <= set(SLOTS)
    flags = ["--model", str(runs["multi-label"]), "--text", "the", "--json"]
    shown = CliRunner().invoke(app, ["predict", *flags]).stdout
    assert isinstance(json.loads(shown)["predictions"][0]["predicted"], list)
    with pytest.raises(ArgumentError, match="--text-pair has no effect with a token-classification model"):
        predict(PredictConfig(model=tagger, text="a", text_pair="b"))


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_words_combine_to_sentences(tmp_path, combine):
    finetune(toy_config(tmp_path, "token-classification", epochs=2, combine=combine))
    assert (scores_of(tmp_path / "run")["el2n"].max() <= np.sqrt(2)) == (combine == "mean")


@pytest.mark.parametrize(
    "options", [{"class_weights": "balanced"}, {"label_smoothing": 0.1}, {"gradient_accumulation": 2}]
)
@both
def test_training_options_of_all_tasks_hold_here(tmp_path, kind, options):
    result = finetune(toy_config(tmp_path, kind, epochs=2, **options))
    assert all(np.isfinite(line["train_loss"]) for line in result["epochs"])


def test_a_floor_keeps_rare_sets_of_labels(tmp_path):
    config = toy_config(tmp_path, "multi-label", epochs=4, keep=0.5, floor=1, refresh_every=1)
    rare = ["amber", "birch"]
    rewrite(Path(config.data), "train", lambda row: {**row, "labels": rare if row["id"].endswith("-7") else []})
    finetune(config)
    assert all(7 in rows for rows in plans_of(tmp_path / "run").values())


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("token-classification", {"floor": 3}, "floor is for examples with a class; for token-classification they"),
        (
            "multi-label",
            {"combine": "sum"},
            r"several decisions \(causal-lm, intent-slot and token-classification\), not for",
        ),
        ("multi-label", {"alpha": 0.2}, r"alpha is for joint tasks \(intent-slot\), not for multi-label"),
        ("classification", {"label_separator": ","}, "label_separator is for examples with any number of labels"),
        ("multi-label", {"label_separator": "/"}, "unknown label_separator '/'"),
        ("token-classification", {"label_column": "x"}, "--label-column has no effect for the task"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, task, options, message):
    with pytest.raises(ArgumentError, match=message):
        check_config(toy_config(tmp_path, task, **options))


@both
def test_hostile_names_stay_text(tmp_path, kind):
    evil = "</script><b>|*"
    config = toy_config(tmp_path, kind, epochs=2, label_separator=";" if kind == "multi-label" else "|")
    column = "labels" if kind == "multi-label" else "ner_tags"

    def change(row: dict) -> dict:
        renamed = {"amber": evil, "B-city": f"B-{evil}", "I-city": f"I-{evil}"}
        return {**row, column: [renamed.get(name, name) for name in row[column]]}

    for split in ("train", "dev", "test"):
        rewrite(Path(config.data), split, change)
    finetune(config)
    page = report(config.output).read_text(encoding="utf-8")
    assert evil not in page
    assert "Worst class" in page


def test_a_run_on_bad_data_writes_nothing(tmp_path):
    config = toy_config(tmp_path, "token-classification")
    rewrite(Path(config.data), "train", lambda row: {**row, "ner_tags": row["ner_tags"][1:]})
    with pytest.raises(DataError, match=r"train\.jsonl, line 1: .* tokens but .* tags; give every token one tag"):
        finetune(config)
    assert not Path(config.output).exists()
