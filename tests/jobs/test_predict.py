"""Predicting: the same answers from a file, a text and a run; files that are whole or absent."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from datadiet.cli import app
from datadiet.cli.predict import show_predictions
from datadiet.errors import ArgumentError, DataError
from datadiet.jobs import predict as module
from datadiet.jobs.predict import (
    STDOUT,
    Predicted,
    Request,
    check_request,
    lines_of,
    predict,
    trained_max_length,
    write_predictions,
)
from datadiet.store.run_folder import saved_model
from datadiet.tasks.base import Prediction
from datadiet.types import Silent
from toys import (
    INTENTS,
    SLOTS,
    tiny_classifier,
    tiny_intent_slot,
    tiny_tokenizer,
    toy_intent_slot,
    write_toy_folder,
)

LINES = [
    {
        "id": "a",
        "text": 'say "hi", you',
        "predicted": "x",
        "probability": 0.5,
        "tokens": ["say", "hi"],
        "slots": ["O", "O"],
    },
    {"id": "b", "text": "süß\tx", "predicted": "y", "probability": 0.25, "tokens": ["süß"], "slots": ["B-a"]},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved model of each task, random but fixed."""
    root = tmp_path_factory.mktemp("models")
    classifier = tiny_classifier(2)
    classifier.config.id2label = {0: "amber", 1: "birch"}
    made = {
        "classification": classifier,
        "regression": tiny_classifier(1),
        "intent-slot": tiny_intent_slot(INTENTS, SLOTS),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    return {name: root / name for name in made}


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
def test_a_labelled_folder_gives_lines_and_metrics(
    models: dict[str, Path], tmp_path: Path, task: str, toy: str, metric: str
) -> None:
    data = write_toy_folder(tmp_path, toy, 40)
    found = predict(Request(models[task], str(data), precision="fp32"))
    assert len(found.lines) == 10
    assert found.metrics is not None
    assert metric in found.metrics
    first = json.loads((data / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert found.lines[0]["id"] == first["id"]
    assert ("text_pair" in found.lines[0]) == (toy in ("pairs", "regression"))
    assert ("probability" in found.lines[0]) == (task != "regression")


def test_one_text_is_predicted_as_in_a_file(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"text": "play the miles davis"}\n{"text": "weather in lima on friday"}\n')
    filed = predict(Request(models["intent-slot"], str(tmp_path / "new.jsonl"), precision="fp32"))
    alone = predict(Request(models["intent-slot"], text="weather in lima on friday", precision="fp32"))
    assert filed.metrics is None
    assert alone.lines[0]["predicted"] == filed.lines[1]["predicted"]
    assert alone.lines[0]["probability"] == pytest.approx(filed.lines[1]["probability"], abs=1e-5)
    assert alone.lines[0]["slots"] == filed.lines[1]["slots"]
    assert alone.lines[0]["tokens"] == ["weather", "in", "lima", "on", "friday"]


def test_a_pair_of_texts(models: dict[str, Path]) -> None:
    found = predict(Request(models["regression"], text="the amber", text_pair="a birch", precision="fp32"))
    assert found.lines[0] | {"predicted": 0} == {"id": "0", "text": "the amber", "text_pair": "a birch", "predicted": 0}


def test_columns_can_be_named(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("body,key\nthe amber,k1\n")
    request = Request(models["classification"], str(tmp_path / "new.csv"), columns={"text": "body", "id": "key"})
    assert predict(request).lines[0]["id"] == "k1"


def test_a_run_folder_stands_for_its_model(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(models["classification"])
    assert saved_model(tmp_path / "run") == tmp_path / "run" / "model"
    assert saved_model(models["classification"]) == models["classification"]


@pytest.mark.parametrize(
    ("config", "length"), [("max_length: 17\n", 17), ("max_length: long\n", 128), ("[1]\n", 128), (None, 128)]
)
def test_the_length_is_the_runs_own(tmp_path: Path, config: str | None, length: int) -> None:
    if config is not None:
        (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    assert trained_max_length(tmp_path / "model") == length


def test_progress_is_told_now_and_then(models: dict[str, Path], tmp_path: Path) -> None:
    class Hears(Silent):
        def __init__(self) -> None:
            self.phases: list[str] = []

        def phase(self, text: str) -> None:
            self.phases.append(text)

    hears = Hears()
    data = write_toy_folder(tmp_path, "classification", 64)
    predict(Request(models["classification"], str(data), batch_size=1, max_length=16), hears)
    told = [text for text in hears.phases if text.startswith("predicting")]
    assert len(told) == 1
    assert told[0].endswith("of 16")


# ---- on the command line ----


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["predict", *arguments], env={"COLUMNS": "120", "NO_COLOR": "1"})


def test_lines_go_to_standard_output_and_the_rest_to_standard_error(models: dict[str, Path], tmp_path: Path) -> None:
    data = write_toy_folder(tmp_path, "intent-slot", 40)
    done = call(str(data), "--model", str(models["intent-slot"]))
    assert done.exit_code == 0, done.stderr
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 10
    assert "slot_f1" in done.stderr


def test_a_file_and_json(models: dict[str, Path], tmp_path: Path) -> None:
    data, out = write_toy_folder(tmp_path, "classification", 40), tmp_path / "out.jsonl"
    arguments = [str(data), "--model", str(models["classification"]), "--output", str(out)]
    done = call(*arguments)
    assert done.exit_code == 0, done.stderr
    assert "Wrote 10 predictions" in done.stdout
    assert "accuracy" in done.stdout
    again = call(*arguments)
    assert (again.exit_code, again.stderr) == (2, f"error: {out} exists: --force replaces it.\n")
    forced = json.loads(call(*arguments, "--force", "--json").stdout)
    assert (forced["output"], forced["rows"]) == (str(out), 10)
    assert set(forced["metrics"]) >= {"accuracy", "nll"}


def test_one_text_as_json(models: dict[str, Path]) -> None:
    done = json.loads(call("--text", "play bach", "--model", str(models["intent-slot"]), "--json").stdout)
    assert done["metrics"] is None
    assert done["predictions"][0]["tokens"] == ["play", "bach"]


def test_one_text_on_a_terminal_is_for_reading(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")  # no styles
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show_predictions(Predicted(LINES[:1], None), Request(text="x"), as_json=False)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [["predicted", "x", "(50.0", "%)"], ["say", "O"], ["hi", "O"]]


# ---- lines and files ----


def test_lines_leave_out_what_a_task_has_not() -> None:
    examples = toy_intent_slot(1)
    joint = Prediction("play_music", 0.987654321, None, ("O",) * len(examples.tokens[0]))  # type: ignore[index]
    line = next(lines_of(examples, [joint]))
    assert list(line) == ["id", "text", "predicted", "probability", "tokens", "slots"]
    assert line["probability"] == 0.987654
    assert list(next(lines_of(examples, [Prediction(1.5, None, None)]))) == ["id", "text", "predicted"]


def read_back(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    with path.open(encoding="utf-8", newline="") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ","))
    return [
        row | {"probability": float(row["probability"]), "tokens": row["tokens"].split(), "slots": row["slots"].split()}
        for row in rows
    ]


@pytest.mark.parametrize("suffix", module.SUFFIXES)
def test_files_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "deep" / f"out{suffix}"
    write_predictions(LINES, path)
    assert read_back(path) == LINES
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_predictions([*LINES, {"id": object()}], path)
    assert path.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_predictions(LINES, tmp_path / "file" / "out.jsonl")


# ---- refusals ----


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": None}, "nothing to predict"),
        ({"text": "x"}, "both DATA and --text"),
        ({"data": None, "text": "  "}, "--text is empty"),
        ({"text_pair": "x"}, "--text-pair needs --text"),
        ({"data": None, "text": "x", "columns": {"text_pair": "b"}}, "--text-pair-column has no effect"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"batch_size": 0}, "--batch-size must be"),
        ({"max_length": 1}, "--max-length must be"),
        ({"model": None}, "--model is missing"),
        ({"model": Path("nowhere")}, "model folder nowhere does not exist"),
        ({"output": "out.xlsx"}, r"must end in .jsonl, .csv, .tsv, .parquet \(or be -\), got out.xlsx"),
        ({"force": True}, "--force has no effect"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refused_before_anything_is_loaded(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        check_request(Request(**({"model": tmp_path, "data": "new.jsonl"} | change)))


def test_a_good_request_passes(tmp_path: Path) -> None:
    check_request(Request(tmp_path, "new.jsonl", output=str(tmp_path / "out.csv")))
    check_request(Request(tmp_path, text="x", output=STDOUT))


def test_all_problems_at_once() -> None:
    with pytest.raises(ArgumentError, match="nothing to predict") as caught:
        check_request(Request(Path("nowhere"), precision="x", output="y.z"))
    assert len(caught.value.problems) == 4


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.touch()
    with pytest.raises(ArgumentError, match="--force replaces it"):
        check_request(Request(tmp_path, "new.jsonl", output=str(out)))
    check_request(Request(tmp_path, "new.jsonl", output=str(out), force=True))


def test_a_pair_has_no_place_in_a_joint_model(models: dict[str, Path]) -> None:
    with pytest.raises(ArgumentError, match="--text-pair has no effect with an intent-slot model"):
        predict(Request(models["intent-slot"], text="a", text_pair="b"))
