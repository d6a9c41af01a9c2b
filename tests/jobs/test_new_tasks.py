"""Multi-label data and taggers through everything that is done with a run: page, predictions, card, resumption."""

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
from datadiet.jobs.predict import Request, predict
from datadiet.jobs.validate import check_config
from datadiet.reporting import report
from datadiet.reporting.run_page import recalls
from toys import SLOTS, plans_of, predictions_of, rewrite, scores_of, toy_config

RUNS = ("multi-label", "token-classification")
both = pytest.mark.parametrize("kind", RUNS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for kind in RUNS:
        root = tmp_path_factory.mktemp(kind)
        finetune(toy_config(root, kind, epochs=4))
        found[kind] = root / "run"
    return found


@both
def test_the_page_shows_quality_by_class(runs: dict[str, Path], kind: str) -> None:
    page = report(runs[kind]).read_text(encoding="utf-8")
    assert "Worst class" in page
    assert "Quality by class" in page
    assert ("span f1" if kind == "token-classification" else "micro f1") in page
    assert "The training texts are not shown" not in page


@both
def test_the_card_and_the_plans(runs: dict[str, Path], kind: str) -> None:
    card = (runs[kind] / "model" / "README.md").read_text(encoding="utf-8")
    assert f"tags:\n- datadiet\n- {kind}\n" in card
    assert [len(rows) for rows in plans_of(runs[kind]).values()] == [48, 24, 24, 24]
    scores = scores_of(runs[kind])
    assert np.isfinite(scores[["el2n", "gold_probability", "margin", "loss", "correct"]]).all(axis=None)


def test_recalls_by_label_and_by_type_of_span() -> None:
    several = pd.DataFrame({"gold": [["a", "b"], ["b"], []], "predicted": [["a"], ["b"], ["a"]]})
    assert recalls(several) == ({"a": 1.0, "b": 0.5}, {"a": 1, "b": 2})
    tags = {"gold_slots": [["B-x", "I-x", "B-y"], ["B-x"]], "predicted_slots": [["B-x", "O", "B-y"], ["B-x"]]}
    assert recalls(pd.DataFrame({"gold": None, "predicted": [None, None], **tags})) == (
        {"x": 0.5, "y": 1.0},
        {"x": 2, "y": 1},
    )


def test_spans_that_no_row_has_make_a_page_without_them(tmp_path: Path) -> None:
    config = toy_config(tmp_path, "token-classification", epochs=2)
    for split in ("dev", "test"):
        rewrite(Path(config.data), split, lambda row: {**row, "ner_tags": ["O"] * len(row["tokens"])})
    finetune(config)
    assert "Worst class" not in report(config.output).read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@both
def test_a_labelled_file_gives_lines_and_the_metrics_of_the_run(
    runs: dict[str, Path], kind: str, suffix: str, tmp_path: Path
) -> None:
    data = str(runs[kind].parent / f"toy-{kind}" / "test.jsonl")
    output = tmp_path / f"out{suffix}"
    predicted = predict(Request(runs[kind], data=data, output=str(output), precision="fp32"))
    wanted = json.loads((runs[kind] / "result.json").read_text())["metrics"]["test"]
    assert predicted.metrics == pytest.approx(wanted, abs=1e-5)
    told = predictions_of(runs[kind], "test")
    if kind == "multi-label":
        assert [line["predicted"] for line in predicted.lines] == [list(labels) for labels in told["predicted"]]
        assert 0 < predicted.lines[0]["probability"] <= 1
    else:
        assert [line["tags"] for line in predicted.lines] == [list(tags) for tags in told["predicted_slots"]]
        assert not {"predicted", "probability", "slots"} & set(predicted.lines[0])
    if suffix == ".csv":
        rows = list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))
        name, sign = ("predicted", "|") if kind == "multi-label" else ("tags", " ")
        assert [row[name] for row in rows] == [sign.join(line[name]) for line in predicted.lines]


def test_one_text(runs: dict[str, Path]) -> None:
    runner = CliRunner()
    shown = runner.invoke(
        app, ["predict", "--model", str(runs["token-classification"]), "--text", "play adele", "--json"]
    )
    (line,) = json.loads(shown.stdout)["predictions"]
    assert line["tokens"] == ["play", "adele"]
    assert set(line["tags"]) <= set(SLOTS)
    shown = runner.invoke(app, ["predict", "--model", str(runs["multi-label"]), "--text", "the", "--json"])
    assert isinstance(json.loads(shown.stdout)["predictions"][0]["predicted"], list)


def test_a_pair_has_no_place_in_a_tagger(runs: dict[str, Path]) -> None:
    request = Request(runs["token-classification"], text="a", text_pair="b")
    with pytest.raises(ArgumentError, match="--text-pair has no effect with a token-classification model"):
        predict(request)


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_words_combine_to_sentences_as_asked(tmp_path: Path, combine: str) -> None:
    finetune(toy_config(tmp_path, "token-classification", epochs=2, combine=combine))
    scores = scores_of(tmp_path / "run")
    if combine == "mean":
        assert scores["el2n"].max() <= np.sqrt(2)
    else:
        assert scores["el2n"].max() > np.sqrt(2)


@pytest.mark.parametrize(
    "options", [{"class_weights": "balanced"}, {"label_smoothing": 0.1}, {"gradient_accumulation": 2}]
)
@both
def test_training_options_of_all_tasks_hold_here(tmp_path: Path, kind: str, options: dict) -> None:
    result = finetune(toy_config(tmp_path, kind, epochs=2, **options))
    assert all(np.isfinite(line["train_loss"]) for line in result["epochs"])


def test_a_floor_keeps_rare_sets_of_labels(tmp_path: Path) -> None:
    config = toy_config(tmp_path, "multi-label", epochs=4, keep=0.5, floor=1, refresh_every=1)
    rare = ["amber", "birch"]
    rewrite(Path(config.data), "train", lambda row: {**row, "labels": rare if row["id"].endswith("-7") else []})
    finetune(config)
    assert all(7 in rows for rows in plans_of(tmp_path / "run").values())


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("token-classification", {"floor": 3}, "a sentence with a tag for each word has none"),
        ("multi-label", {"combine": "sum"}, "it belongs to 'intent-slot' and 'token-classification'"),
        ("multi-label", {"alpha": 0.2}, "alpha has no effect with task 'multi-label'; it belongs to 'intent-slot'"),
        ("classification", {"label_separator": ","}, "label_separator has no effect with task 'classification'"),
        ("multi-label", {"label_separator": "/"}, "unknown label_separator '/'"),
        ("token-classification", {"label_column": "x"}, "--label-column has no effect for the task"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, task: str, options: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        check_config(toy_config(tmp_path, task, **options))


@both
def test_hostile_names_stay_text(tmp_path: Path, kind: str) -> None:
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


def test_a_run_on_bad_data_writes_nothing(tmp_path: Path) -> None:
    config = toy_config(tmp_path, "token-classification")
    rewrite(Path(config.data), "train", lambda row: {**row, "ner_tags": row["ner_tags"][1:]})
    with pytest.raises(DataError, match=r"train\.jsonl, line 1: .* tokens but .* tags; give every token one tag"):
        finetune(config)
    assert not Path(config.output).exists()
