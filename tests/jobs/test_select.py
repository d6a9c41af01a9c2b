"""`datadiet select`: from a score file to a file or folder that is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from datadiet.cli import app
from datadiet.data.export import SUFFIXES
from datadiet.data.load import load_data
from datadiet.data.schema import Columns
from datadiet.jobs.finetune import finetune
from datadiet.jobs.select import select
from datadiet.jobs.select_config import SelectConfig
from datadiet.registry import has
from datadiet.store.score_file import ScoreFile, write_scores
from toys import TOYS, Heard, rewrite, toy_config, write_rows, write_toy_folder

TASKS = {kind: toy.task for kind, toy in TOYS.items()}
Run, Refused = Callable[..., Result], Callable[..., list[str]]


def score_file(home: Path, data: str, task: str, **reading: Any) -> Path:
    """A score file of made-up values: the later in train, the harder."""
    columns = Columns(**reading.pop("columns", {}))
    read_with = {**reading, "columns": {name: column for name, column in vars(columns).items() if column}}
    loaded = load_data(data, task, columns=columns, **reading)
    train = loaded.splits["train"]
    values = np.linspace(0, 1, len(train), dtype=np.float32)
    labels = [str(label) for label in train.labels or ()] if has(task, "one_class") else None
    made, rows, scores = (
        {"el2n": {"model": "tiny", "epochs": 2}},
        np.arange(len(train)),
        {"el2n": values, "aum": -values},
    )
    data_of = (loaded.fingerprint, loaded.name, task)
    file = ScoreFile(train.ids, rows, scores, labels, *data_of, made_with=made, read_with=read_with)
    write_scores(home / "scores.parquet", file, force=True)
    return home / "scores.parquet"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of the data: 40 rows in two classes."""
    return write_toy_folder(tmp_path, "classification", 40)


@pytest.fixture
def scores(tmp_path: Path, data: Path) -> Path:
    return score_file(tmp_path, str(data), "classification")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["select", *map(str, arguments)], env={"COLUMNS": "140", "NO_COLOR": "1"})


@pytest.fixture
def run(scores: Path, data: Path) -> Run:
    """Calls the command on the data by el2n; later flags win."""
    return lambda *arguments: call(scores, "--data", data, "--score", "el2n", *arguments)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def config(data: object, output: Path, **options: Any) -> SelectConfig:
    return SelectConfig(**{"data": str(data), "output": output, "score": "el2n", "keep": 0.5, **options})


def test_the_kept_lines_are_those_of_the_data(run, data, tmp_path):
    done = run("--keep", 0.25, "--output", tmp_path / "kept.jsonl")
    assert done.exit_code == 0, done.stderr
    whole = (data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert (tmp_path / "kept.jsonl").read_text(encoding="utf-8").splitlines() == whole[30:]
    text = " ".join(done.stdout.split())
    assert "Kept 10 of 40 rows (25.0 %) by hardest on el2n, whose mean is 0.8846 among the kept and 0.3718" in text
    assert "30 75.0 % dropped by the selector" in text
    assert "--task classification --keep 1 --output RUN" in done.stdout
    assert "training rows only" in done.stdout


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_task_in_every_format_is_read_again(tmp_path, kind, suffix):
    data = str(write_toy_folder(tmp_path, kind, 24))
    summary = select(config(data, tmp_path / f"kept{suffix}"), score_file(tmp_path, data, TASKS[kind]))
    assert (summary["kept"], summary["dropped"], bool(summary["classes"])) == (12, 12, has(TASKS[kind], "one_class"))
    kept = load_data(str(tmp_path / f"kept{suffix}"), TASKS[kind], dev_share=0.1).splits["train"]
    train = load_data(data, TASKS[kind]).splits["train"]
    assert kept == train.take(row + 12 for row in kept.source_rows or ())


def test_a_folder_has_the_other_splits_too(run, data, tmp_path):
    done = run("--keep", 0.5, "--output", tmp_path / "kept")
    assert done.exit_code == 0, done.stderr
    whole, kept = load_data(str(data), "classification"), load_data(str(tmp_path / "kept"), "classification")
    assert kept.splits["train"] == whole.splits["train"].take(range(20, 40))
    assert all(kept.splits[name] == whole.splits[name] for name in ("dev", "test"))


def test_a_dev_split_from_train_stays_the_same(data, tmp_path):
    (data / "dev.jsonl").unlink()
    reading = {"dev_share": 0.25, "seed": 7, "train_rows": 20}
    select(config(data, tmp_path / "kept"), score_file(tmp_path, str(data), "classification", **reading))
    whole, kept = load_data(str(data), "classification", **reading), load_data(str(tmp_path / "kept"), "classification")
    assert kept.splits["dev"] == whole.splits["dev"]
    assert kept.splits["train"] == whole.splits["train"].take(range(10, 20))


def test_names_and_reading_come_from_the_score_file(tmp_path):
    data = tmp_path / "reviews"
    data.mkdir()
    for split, first in (("train", 0), ("dev", 50)):
        rows = [{"body": f"text {i}", "my stars": i % 2, "note": ""} for i in range(first, first + 20)]
        write_rows(data / f"{split}.csv", rows)
    named = {"text": "body", "label": "my stars"}
    scores = score_file(tmp_path, str(data), "classification", columns=named, train_rows=10)
    summary = select(config(data, tmp_path / "kept.csv", keep=0.3), scores)
    assert (tmp_path / "kept.csv").read_text(encoding="utf-8").startswith("body,my stars,note\n")
    assert "--text-column body --label-column 'my stars'" in summary["next"]
    flags = ("--score", "el2n", "--keep", 0.3, "--output", tmp_path / "x.csv", "--train-rows", 9)
    wrong = call(scores, "--data", data, *flags)  # flags win
    assert wrong.exit_code == 2
    assert "read in the same way (train_rows 10" in wrong.stderr


def test_saved_sets_keep_their_features(tmp_path):
    names = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    rows = {"text": [f"text {i}" for i in range(12)], "label": [0, 1] * 6}
    split = datasets.Dataset.from_dict(rows, features=features)
    folder = str(tmp_path / "set")
    datasets.DatasetDict({"train": split, "validation": split.select(range(4))}).save_to_disk(folder)
    scores = score_file(tmp_path, folder, "classification")
    select(config(folder, tmp_path / "kept", keep=0.25, with_score=True), scores)
    kept = datasets.load_from_disk(str(tmp_path / "kept"))
    assert sorted(kept) == ["train", "validation"]
    assert kept["train"].features["label"] == names
    assert kept["train"]["text"][:] == ["text 9", "text 10", "text 11"]
    assert kept["train"]["el2n"][:] == pytest.approx([9 / 11, 10 / 11, 1])


def test_the_values_and_weights_as_columns(run, scores, data, tmp_path):
    options = {"select": "infobatch(reserve=0.5)", "keep": 0.6, "with_score": True}
    summary = select(config(data, tmp_path / "kept.parquet", **options), scores)
    table = pq.read_table(tmp_path / "kept.parquet")
    assert table.column_names == ["id", "text", "label", "el2n", "weight"]
    assert sum(table["weight"].to_pylist()) == pytest.approx(40)
    assert (summary["weighted"], summary["select"], summary["options"]) == (True, "infobatch", {"reserve": 0.5})
    done = run("--select", "infobatch", "--keep", 0.6, "--output", tmp_path / "k.csv")
    assert "--with-score writes them" in done.stdout


def test_features_from_a_file(run, data, tmp_path):
    apart = np.ones((40, 2))
    apart[17] = (-9, 9)
    flags = ("--select", "k_center", "--count", 2, "--features", tmp_path / "features.npy", "--output")
    np.save(tmp_path / "features.npy", apart)
    done = run(*flags, tmp_path / "k.jsonl")
    assert done.exit_code == 0, done.stderr
    assert lines(data / "train.jsonl")[17] in lines(tmp_path / "k.jsonl")
    assert len(lines(tmp_path / "k.jsonl")) == 2
    np.save(tmp_path / "features.npy", np.ones((3, 2)))
    bad = run(*flags, tmp_path / "x.csv")
    assert (bad.exit_code, "must hold numbers of the shape (40, size)" in bad.stderr) == (2, True)


# ---- the command: what is shown ----


def test_json_says_what_and_why(run, data, tmp_path):
    done = run(
        *("--keep", 0.5, "--output", tmp_path / "k.tsv", "--offset", 0.1, "--drop-suspects", 0.05, "--suspects-by"),
        *("el2n", "--dedupe", "--near", 0.9, "--floor", 3, "--seed", 4, "--json"),
    )
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert [summary[name] for name in ("rows", "kept", "dropped", "suspects_by")] == [40, 20, 20, "el2n"]
    assert summary["reasons"]["suspect"] == round(0.05 * (40 - summary["reasons"].get("duplicate", 0)))
    assert [sum(line[name] for line in summary["classes"]) for name in ("rows", "kept")] == [40, 20]
    examples = {line["reason"]: line for line in summary["examples"]}
    assert set(examples) == set(summary["reasons"])
    train = load_data(str(data), "classification").splits["train"]
    for line in examples.values():
        assert (train.texts[line["row"]], train.ids[line["row"]]) == (line["text"], line["id"])


@pytest.mark.parametrize(
    ("selector", "kept", "dropped"),
    [("hardest", [39, 38, 37], [0, 1, 2]), ("easiest", [0, 1, 2], [39, 38, 37])],
)
def test_examples_are_the_extreme_ones(scores, data, tmp_path, selector, kept, dropped):
    examples = select(config(data, tmp_path / "k.jsonl", select=selector), scores)["examples"]
    rows = [(line["reason"], line["row"]) for line in examples]
    assert rows == [*(("chosen", row) for row in kept), *(("rest", row) for row in dropped)]


def test_text_from_data_cannot_steer_the_terminal(tmp_path):
    data = tmp_path / "hostile"
    data.mkdir()
    for split in ("train", "dev"):
        rows = [{"text": f"\x1b[2J[red]{split} {i}[/red]", "label": f"[bold]{i % 2}\x07"} for i in range(8)]
        write_rows(data / f"{split}.jsonl", rows)
    scores = score_file(tmp_path, str(data), "classification")
    done = call(scores, "--data", data, "--score", "el2n", "--keep", 0.5, "--output", tmp_path / "k.jsonl")
    assert done.exit_code == 0, done.stderr
    assert not {"\x1b", "\x07"} & set(done.stdout)
    assert r"\x1b[2J[red]train 7[/red]" in done.stdout
    assert r"[bold]0\x07" in done.stdout


@pytest.mark.parametrize("output", ["kept.jsonl", "kept"])
def test_select_then_finetune(run, tmp_path, output):
    done = run("--keep", 0.5, "--output", tmp_path / output)
    assert done.exit_code == 0, done.stderr
    result = finetune(toy_config(tmp_path, data=str(tmp_path / output), keep=1.0, epochs=2), listener=Heard())
    size = len(load_data(str(tmp_path / output), "classification").splits["train"])
    assert size == (18 if output == "kept.jsonl" else 20)  # a file has no dev split: 2 became one
    assert [epoch["kept"] for epoch in result["epochs"]] == [size] * 2
    assert 0 <= result["metrics"]["dev"]["accuracy"] <= 1
    assert (result["metrics"]["test"] is None) == (output == "kept.jsonl")


# ---- the command: refusals ----


@pytest.fixture
def refused(tmp_path: Path, data: Path, scores: Path) -> Refused:
    """The problems of a call like `run` that writes nothing."""

    def problems(*arguments: object, file: Path = scores) -> list[str]:
        before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        done = call(file, "--data", data, "--score", "el2n", *arguments)
        assert done.exit_code == 2, done.stderr
        assert "Wrote" not in done.stdout
        assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
        return done.stderr.splitlines()

    return problems


def test_everything_at_once(scores, tmp_path):
    done = call(
        *(scores, "--score", "el2m", "--select", "ccs(strata=many, betta=1)", "--keep", 30),
        *("--output", tmp_path / "k.xlsx", "--features", tmp_path / "no.npy"),
    )
    assert done.stderr.splitlines() == [
        "error: 7 problems:",
        "  - --data is missing: what was scored, e.g. the same folder.",
        "  - keep must be in (0, 1], got 30.0. Did you mean 0.3?",
        "  - strata of ccs must be a whole number, at least 1, got 'many'.",
        "  - unknown option of ccs 'betta'; did you mean 'beta'? Allowed: beta, edges, strata.",
        "  - unknown score 'el2m'; did you mean 'el2n'? Allowed: aum, el2n.",
        f"  - --output must end in .jsonl, .csv, .tsv, .parquet, or be a folder, got {tmp_path / 'k.xlsx'}.",
        f"  - there is no file {tmp_path / 'no.npy'}: --features takes a .npy file.",
    ]
    assert done.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--select", "hardest(offset=0.1)", "--offset", "0.1"], "offset must be given once, got 0.1 beside select="),
        (["--select", "ccs(odd)"], "options of ccs must be name=value with commas between, got 'odd'"),
        (["--select", "balanced(select=hardst)"], "unknown selector 'hardst'"),
        (["--select", "drop_quota"], "needs the option recalls"),
        (["--count", "3"], "keep and count say the same thing"),
        (["--floor", "99"], "a floor of 99 rows per class is more than there are"),
        (["--offset", "0.9"], "an offset of 0.9 excludes 36 of 40 rows"),
        (["--data", "nowhere"], "no file or folder 'nowhere'"),
        (
            ["--select", "ccs", "--option", "beta=0.2"],
            '--option is written with the selector now: --select "ccs(beta=0.2)".',
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments(refused, tmp_path, arguments, message):
    assert message in "\n".join(refused("--keep", 0.3, "--output", tmp_path / "k.jsonl", *arguments))


def test_no_output_and_no_score_file(refused, tmp_path):
    problems = refused("--keep", 0.3, file=tmp_path / "none.parquet")
    assert "no score file" in problems[1]
    assert "--output is missing" in problems[2]


def test_scores_of_other_data(refused, data, tmp_path):
    write_rows(data / "train.jsonl", [*lines(data / "train.jsonl"), {"id": "new", "text": "one more", "label": "0"}])
    assert "the scores are of other data" in refused("--keep", 0.3, "--output", tmp_path / "k.jsonl")[0]


def test_outputs_are_replaced_with_force_only(run, refused, tmp_path):
    (tmp_path / "k.jsonl").write_text("old", encoding="utf-8")
    assert run("--keep", 0.5, "--output", tmp_path / "kept").exit_code == 0
    for name in ("k.jsonl", "kept"):
        flags = ("--keep", 0.5, "--output", tmp_path / name)
        assert "exists: --force replaces it" in refused(*flags)[0]
        assert run(*flags, "--force").exit_code == 0
    assert len(lines(tmp_path / "k.jsonl")) == 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toy-classification", "is read as --data"),
        ("toy-classification/train.jsonl", "which is read as --data: choose another --output"),
        ("toy-classification/dev.csv", "which is read as --data: choose another --output"),
        ("scores.parquet", "scores.parquet is read as the scores: choose another --output"),
        ("mine", "is not replaced"),
        ("file", "is a file"),
        ("folder.csv", "is a folder"),
    ],
)
def test_force_replaces_outputs_alone(refused, tmp_path, name, message):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    assert message in "\n".join(refused("--keep", 0.5, "--force", "--output", tmp_path / name))


def test_a_selection_beside_the_data_is_replaced(run, data):
    for force in ([], ["--force"]):
        done = run("--keep", 0.5, "--output", data / "kept.jsonl", *force)
        assert done.exit_code == 0, done.output


def test_a_column_of_that_name(refused, data, tmp_path):
    rewrite(data, "train", lambda row: {**row, "el2n": 1})
    scores = score_file(tmp_path, str(data), "classification")
    flags = ("--keep", 0.5, "--with-score", "--output", tmp_path / "k.jsonl")
    assert "has a column 'el2n' already" in refused(*flags, file=scores)[0]


def test_a_word_per_row_has_no_rows_to_write(tmp_path: Path) -> None:
    lines = "".join(f"{n},EU,B-org\n{n},rejects,O\n{n},word{n},O\n" for n in range(12))
    (tmp_path / "train.csv").write_text(f"sentence_id,word,tag\n{lines}")
    scores = score_file(tmp_path, str(tmp_path / "train.csv"), "token-classification")
    output = tmp_path / "kept.csv"
    done = call(scores, "--data", tmp_path / "train.csv", "--score", "el2n", "--keep", 0.5, "--output", output)
    assert done.exit_code == 2, done.output
    assert "has a word per row" in " ".join(done.output.split())
    assert not output.exists()


def test_splits_that_a_column_names_are_written_beside_the_kept_rows(tmp_path: Path) -> None:
    rows = [
        {"text": f"text {n}", "label": "ab"[n // 4 % 2], "split": ("train", "train", "dev", "test")[n % 4]}
        for n in range(48)
    ]
    write_rows(tmp_path / "all.jsonl", rows)
    scores = score_file(tmp_path, str(tmp_path / "all.jsonl"), "classification")
    done = call(
        scores, "--data", tmp_path / "all.jsonl", "--score", "el2n", "--keep", 0.5, "--output", tmp_path / "kept"
    )
    assert done.exit_code == 0, done.output
    written = datasets.load_from_disk(str(tmp_path / "kept"))
    assert {name: split["split"][0] for name, split in written.items()} == {
        "train": "train",
        "dev": "dev",
        "test": "test",
    }
    assert {name: len(split) for name, split in written.items()} == {"train": 12, "dev": 12, "test": 12}


def test_a_column_of_the_data_gives_the_groups(tmp_path):
    data = write_toy_folder(tmp_path, "regression", 40)
    places = iter(range(40))
    rewrite(data, "train", lambda row: row | {"prompt_id": f"p{next(places) // 4}"})
    scores, kept = score_file(tmp_path, str(data), "regression"), tmp_path / "kept.jsonl"
    flags = ("--data", data, "--score", "el2n", "--select", "quota", "--count", 10, "--output", kept)
    done = call(scores, *flags, "--group-column", "prompt_id", "--json")
    assert done.exit_code == 0, done.stderr
    assert [json.loads(line)["prompt_id"] for line in kept.read_text().splitlines()] == [f"p{row}" for row in range(10)]
    assert {entry["kept"] for entry in json.loads(done.stdout)["classes"]} == {1}
    done = call(scores, *flags, "--group-column", "prompt", "--force")
    assert (done.exit_code, "unknown --group-column 'prompt'" in done.stderr) == (2, True)
    done = call(scores, *flags, "--force")
    assert (done.exit_code, "--group-column COLUMN" in done.stderr) == (2, True)
