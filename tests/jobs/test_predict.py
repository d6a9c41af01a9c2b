"""Predicting: the same answers from a file, a text and a run; files that are whole or absent."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner, Result

from datadiet.cli import app, show_predictions
from datadiet.errors import ArgumentError, DataError
from datadiet.jobs.predict import (
    SUFFIXES,
    PredictConfig,
    Predicted,
    check_config,
    lines_of,
    predict,
    trained_max_length,
    write_predictions,
)
from datadiet.store.run_folder import saved_model
from datadiet.tasks.base import Prediction
from toys import (
    INTENTS,
    SLOTS,
    Heard,
    tiny_classifier,
    tiny_intent_slot,
    tiny_tokenizer,
    toy_intent_slot,
    write_rows,
    write_toy_folder,
)

Line = dict[str, Any]
LINES: list[Line] = [
    {"id": "a", "text": 'say "hi", you', "predicted": "x", "probability": 0.5}
    | {"tokens": ["say", "hi"], "slots": ["O"] * 2},
    {"id": "b", "text": "süß\tx", "predicted": "y", "probability": 0.25} | {"tokens": ["süß"], "slots": ["B-a"]},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved model of each task, random but fixed."""
    root = tmp_path_factory.mktemp("models")
    classifier = tiny_classifier(2)
    classifier.config.id2label = {0: "amber", 1: "birch"}
    joint = tiny_intent_slot(INTENTS, SLOTS)
    for name, model in {"classification": classifier, "regression": tiny_classifier(1), "intent-slot": joint}.items():
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    return {folder.name: folder for folder in root.iterdir()}


def predicted(model: Path, **options: Any) -> Predicted:
    options = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    return predict(PredictConfig(model=model, precision="fp32", **options))


def test_weights_that_are_not_finite_predict_nothing(models, tmp_path):
    model = tiny_classifier(2)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"diverged: the weights classifier\.bias are not finite"):
        predicted(tmp_path, text="x")


def test_answers_are_json_whatever_they_are(capsys):
    line = {"id": "0", "text": "x", "predicted": float("nan"), "probability": float("inf")}
    for as_json in (True, False):
        show_predictions(Predicted([line], {"nll": float("nan")}), PredictConfig(text="x"), as_json)
        said = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        (answer,) = said["predictions"] if as_json else [said]
        assert answer == {"id": "0", "text": "x", "predicted": None, "probability": None}


# ---- answers ----


@pytest.mark.parametrize(
    ("task", "toy", "metric"),
    [
        ("classification", "classification", "accuracy"),
        ("classification", "pairs", "accuracy"),
        ("regression", "regression", "spearman"),
        ("intent-slot", "intent-slot", "exact_match"),
    ],
)
def test_a_labelled_folder_gives_lines_and_metrics(models, tmp_path, task, toy, metric):
    data = write_toy_folder(tmp_path, toy, 40)
    result = predicted(models[task], data=data)
    assert len(result.lines) == 10
    assert metric in (result.metrics or {})
    first = json.loads((data / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert result.lines[0]["id"] == first["id"]
    assert ("text_pair" in result.lines[0]) == (toy in ("pairs", "regression"))
    assert ("probability" in result.lines[0]) == (task != "regression")


def test_one_text_is_predicted_as_in_a_file(models, tmp_path):
    texts = ["play the miles davis", "weather in lima on friday"]
    write_rows(tmp_path / "new.jsonl", [{"text": text} for text in texts])
    from_file = predicted(models["intent-slot"], data=tmp_path / "new.jsonl")
    (line,) = predicted(models["intent-slot"], text=texts[1]).lines
    assert from_file.metrics is None
    assert line["tokens"] == texts[1].split()
    assert line | {"id": "1", "probability": 0} == from_file.lines[1] | {"probability": 0}
    assert line["probability"] == pytest.approx(from_file.lines[1]["probability"], abs=1e-5)


def test_a_pair_of_texts(models):
    (line,) = predicted(models["regression"], text="the amber", text_pair="a birch").lines
    assert line | {"predicted": 0} == {"id": "0", "text": "the amber", "text_pair": "a birch", "predicted": 0}
    with pytest.raises(ArgumentError, match="--text-pair has no effect with an intent-slot model"):
        predicted(models["intent-slot"], text="a", text_pair="b")


def test_columns_can_be_named(models, tmp_path):
    (tmp_path / "new.csv").write_text("body,key\nthe amber,k1\n")
    named = {"text": "body", "id": "key"}
    assert predicted(models["classification"], data=tmp_path / "new.csv", columns=named).lines[0]["id"] == "k1"


def test_a_run_folder_stands_for_its_model(models, tmp_path):
    (tmp_path / "model").symlink_to(models["classification"])
    assert saved_model(tmp_path) == tmp_path / "model"
    assert saved_model(models["classification"]) == models["classification"]


@pytest.mark.parametrize(
    ("config", "length"), [("max_length: 17\n", 17), ("max_length: long\n", 128), ("[1]\n", 128), (None, 128)]
)
def test_the_length_is_the_runs_own(tmp_path, config, length):
    if config is not None:
        (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    assert trained_max_length(tmp_path / "model") == length


def test_progress_is_reported_now_and_then(models, tmp_path):
    heard, data = Heard(), str(write_toy_folder(tmp_path, "classification", 64))
    predict(PredictConfig(model=models["classification"], data=data, batch_size=1, max_length=16), heard)
    (report,) = [text for text in heard.phases if text.startswith("predicting")]
    assert report.endswith("of 16")


# ---- on the command line ----


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], env={"COLUMNS": "120", "NO_COLOR": "1"})


def test_lines_go_to_standard_output_and_the_rest_to_standard_error(models, tmp_path):
    done = call(write_toy_folder(tmp_path, "intent-slot", 40), "--model", models["intent-slot"])
    assert done.exit_code == 0, done.stderr
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 10
    assert "slot_f1" in done.stderr


def test_a_file_and_json(models, tmp_path):
    output = tmp_path / "out.jsonl"
    data = write_toy_folder(tmp_path, "classification", 40)
    arguments = [data, "--model", models["classification"], "--output", output]
    done = call(*arguments)
    assert done.exit_code == 0, done.stderr
    assert "Wrote 10 predictions" in done.stdout
    assert "accuracy" in done.stdout
    again = call(*arguments)
    assert (again.exit_code, again.stderr) == (2, f"error: {output} exists: --force replaces it.\n")
    forced = json.loads(call(*arguments, "--force", "--json").stdout)
    assert (forced["output"], forced["rows"]) == (str(output), 10)
    assert set(forced["metrics"]) >= {"accuracy", "nll"}


def test_one_text_as_json(models):
    done = json.loads(call("--text", "play bach", "--model", models["intent-slot"], "--json").stdout)
    assert done["metrics"] is None
    assert done["predictions"][0]["tokens"] == ["play", "bach"]


def test_one_text_on_a_terminal_is_for_reading(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")  # no styles
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show_predictions(Predicted(LINES[:1], None), PredictConfig(text="x"), as_json=False)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [["predicted", "x", "(50.0", "%)"], ["say", "O"], ["hi", "O"]]


# ---- lines and files ----


def test_lines_have_only_the_parts_of_a_task():
    examples = toy_intent_slot(1)
    joint = Prediction("play_music", 0.987654321, None, ("O",) * len(examples.tokens[0]))  # type: ignore[index]
    line = next(lines_of(examples, [joint]))
    assert list(line) == ["id", "text", "predicted", "probability", "tokens", "slots"]
    assert line["probability"] == 0.987654
    assert list(next(lines_of(examples, [Prediction(1.5, None, None)]))) == ["id", "text", "predicted"]


def read_back(path: Path) -> list[Line]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    with path.open(encoding="utf-8", newline="") as stream:
        rows: list[Line] = list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ","))
    types = {"probability": float, "tokens": str.split, "slots": str.split}
    return [{name: types.get(name, str)(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_read_back(tmp_path, suffix):
    path = tmp_path / "deep" / f"out{suffix}"
    write_predictions(LINES, path)
    assert read_back(path) == LINES
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_predictions([*LINES, {"id": object()}], path)
    assert path.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]
    with pytest.raises(DataError, match="cannot write"):
        write_predictions(LINES, path / "out.jsonl")


# ---- refusals ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, "nothing to predict"),
        ({"text": "x"}, "both DATA and --text"),
        ({"data": None, "text": "  "}, "--text is empty"),
        ({"text_pair": "x"}, "--text-pair needs --text"),
        ({"data": None, "text": "x", "columns": {"text_pair": "b"}}, "--text-pair-column has no effect"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        ({"max_length": 1}, "max_length must be a whole number, at least 3, got 1"),
        ({"label_separator": "/"}, "unknown label_separator '/'"),
        ({"model": None}, "--model is missing"),
        ({"model": Path("nowhere")}, "model folder nowhere does not exist"),
        ({"output": "out.xlsx"}, r"must end in .jsonl, .csv, .tsv, .parquet \(or be -\), got out.xlsx"),
        ({"output": "old.csv"}, "old.csv exists: --force replaces it"),
        ({"force": True}, "--force has no effect"),
        ({"data": "old.csv", "output": "old.csv", "force": True}, "old.csv is read as DATA: choose another --output"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refused_before_anything_is_loaded(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    Path("old.csv").touch()
    with pytest.raises(ArgumentError, match=message):
        check_config(PredictConfig(**({"model": tmp_path, "data": "new.jsonl"} | change)))


def test_good_options_pass(tmp_path):
    (tmp_path / "old.csv").touch()
    check_config(PredictConfig(model=tmp_path, data="new.jsonl", output=str(tmp_path / "out.csv")))
    check_config(PredictConfig(model=tmp_path, data="new.jsonl", output=str(tmp_path / "old.csv"), force=True))
    check_config(PredictConfig(model=tmp_path, text="x"))


def test_all_problems_at_once():
    with pytest.raises(ArgumentError, match="nothing to predict") as caught:
        check_config(PredictConfig(model=Path("nowhere"), precision="x", output="y.z"))
    assert len(caught.value.problems) == 4
