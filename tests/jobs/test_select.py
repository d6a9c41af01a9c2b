"""`datadiet select`: from a score file to a file or folder that is trained on."""

from __future__ import annotations

import csv
import json
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
from datadiet.jobs.select import SelectJob, select
from datadiet.jobs.select_rows import SelectConfig
from datadiet.store.score_file import ScoreFile, write_scores
from toys import TOYS, Heard, toy_config, write_toy_folder

TASKS = {kind: toy.task for kind, toy in TOYS.items()}
LABELLED = ("classification", "intent-slot")  # one class per row


def score(home: Path, data: str, task: str, **reading: Any) -> Path:
    """A score file of made-up values: the later in train, the harder."""
    columns = Columns(**reading.pop("columns", {}))
    told = {**reading, "columns": {name: held for name, held in vars(columns).items() if held}}
    loaded = load_data(data, task, columns=columns, **reading)
    train = loaded.splits["train"]
    values = np.linspace(0, 1, len(train), dtype=np.float32)
    labels = [str(label) for label in train.labels or ()] if task in LABELLED else None
    made = {"el2n": {"model": "tiny", "epochs": 2}}
    rows, known = np.arange(len(train)), {"el2n": values, "aum": -values}
    file = ScoreFile(train.ids, rows, known, labels, loaded.fingerprint, loaded.name, task, made, read_with=told)
    write_scores(home / "scores.parquet", file)
    return home / "scores.parquet"


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """A score file, and the folder of the data: 40 rows in two classes."""
    data = write_toy_folder(tmp_path, "classification", 40)
    return score(tmp_path, str(data), "classification"), data


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["select", *map(str, arguments)], env={"COLUMNS": "140", "NO_COLOR": "1"})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- what comes out ----


def test_the_kept_lines_are_those_of_the_data(scored: tuple[Path, Path], tmp_path: Path) -> None:
    scores, data = scored
    done = call(scores, "--data", data, "--score", "el2n", "--keep", 0.25, "--output", tmp_path / "kept.jsonl")
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
def test_every_task_in_every_format_is_read_again(tmp_path: Path, kind: str, suffix: str) -> None:
    data = str(write_toy_folder(tmp_path, kind, 24))
    scores = score(tmp_path, data, TASKS[kind])
    told = select(SelectJob(scores, data, tmp_path / f"kept{suffix}", SelectConfig(score="el2n", keep=0.5)))
    assert (told["kept"], told["dropped"], bool(told["classes"])) == (12, 12, TASKS[kind] in LABELLED)
    again = load_data(str(tmp_path / f"kept{suffix}"), TASKS[kind], dev_share=0.1)
    train, kept = load_data(data, TASKS[kind]).splits["train"], again.splits["train"]
    assert kept == train.take(row + 12 for row in kept.source_rows or ())


def test_a_folder_has_the_other_splits_too(scored: tuple[Path, Path], tmp_path: Path) -> None:
    scores, data = scored
    done = call(scores, "--data", data, "--score", "el2n", "--keep", 0.5, "--output", tmp_path / "kept")
    assert done.exit_code == 0, done.stderr
    whole, kept = load_data(str(data), "classification"), load_data(str(tmp_path / "kept"), "classification")
    assert kept.splits["train"] == whole.splits["train"].take(range(20, 40))
    assert all(kept.splits[name] == whole.splits[name] for name in ("dev", "test"))


def test_a_dev_split_that_was_set_aside_stays_the_same(tmp_path: Path) -> None:
    data = write_toy_folder(tmp_path, "classification", 40)
    (data / "dev.jsonl").unlink()
    reading = {"dev_share": 0.25, "seed": 7, "train_rows": 20}
    scores = score(tmp_path, str(data), "classification", **reading)
    select(SelectJob(scores, str(data), tmp_path / "kept", SelectConfig(score="el2n", keep=0.5)))
    whole, kept = load_data(str(data), "classification", **reading), load_data(str(tmp_path / "kept"), "classification")
    assert kept.splits["dev"] == whole.splits["dev"]
    assert kept.splits["train"] == whole.splits["train"].take(range(10, 20))


def test_names_and_reading_come_from_the_score_file(tmp_path: Path) -> None:
    data = tmp_path / "reviews"
    data.mkdir()
    for split, first in (("train", 0), ("dev", 50)):
        with (data / f"{split}.csv").open("w", encoding="utf-8", newline="") as stream:
            rows = [["body", "my stars", "note"], *([f"text {i}", i % 2, ""] for i in range(first, first + 20))]
            csv.writer(stream).writerows(rows)
    named = {"text": "body", "label": "my stars"}
    scores = score(tmp_path, str(data), "classification", columns=named, train_rows=10)
    told = select(SelectJob(scores, str(data), tmp_path / "kept.csv", SelectConfig(score="el2n", keep=0.3)))
    assert (tmp_path / "kept.csv").read_text(encoding="utf-8").startswith("body,my stars,note\n")
    assert "--text-column body --label-column 'my stars'" in told["next"]
    # flags win
    wrong = call(
        scores, "--data", data, "--score", "el2n", "--keep", 0.3, "--output", tmp_path / "x.csv", "--train-rows", 9
    )
    assert wrong.exit_code == 2
    assert "read in the same way (train_rows 10" in wrong.stderr


def test_saved_sets_keep_their_features(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    rows = {"text": [f"text {i}" for i in range(12)], "label": [0, 1] * 6}
    split = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": split, "validation": split.select(range(4))}).save_to_disk(str(tmp_path / "set"))
    scores = score(tmp_path, str(tmp_path / "set"), "classification")
    select(
        SelectJob(
            scores, str(tmp_path / "set"), tmp_path / "kept", SelectConfig(score="el2n", keep=0.25), with_score=True
        )
    )
    found = datasets.load_from_disk(str(tmp_path / "kept"))
    assert sorted(found) == ["train", "validation"]
    assert found["train"].features["label"] == names
    assert found["train"]["text"][:] == ["text 9", "text 10", "text 11"]
    assert found["train"]["el2n"][:] == pytest.approx([9 / 11, 10 / 11, 1])


def test_the_values_and_weights_as_columns(scored: tuple[Path, Path], tmp_path: Path) -> None:
    scores, data = scored
    config = SelectConfig(score="el2n", select="infobatch(reserve=0.5)", keep=0.6)
    told = select(SelectJob(scores, str(data), tmp_path / "kept.parquet", config, with_score=True))
    table = pq.read_table(tmp_path / "kept.parquet")
    assert table.column_names == ["id", "text", "label", "el2n", "weight"]
    assert sum(table["weight"].to_pylist()) == pytest.approx(40)
    assert (told["weighted"], told["options"]) == (True, {"reserve": 0.5})
    del told
    with_weights = call(
        scores,
        "--data",
        data,
        "--score",
        "el2n",
        "--select",
        "infobatch",
        "--keep",
        0.6,
        "--output",
        tmp_path / "k.csv",
    )
    assert "--with-score writes them" in with_weights.stdout


def test_features_from_a_file(scored: tuple[Path, Path], tmp_path: Path) -> None:
    scores, data = scored
    apart = np.ones((40, 2))
    apart[17] = (-9, 9)
    np.save(tmp_path / "features.npy", apart)
    told = select(
        SelectJob(
            scores,
            str(data),
            tmp_path / "k.jsonl",
            SelectConfig(score="el2n", select="k_center", count=2),
            features=tmp_path / "features.npy",
        )
    )
    assert told["kept"] == 2
    assert lines(data / "train.jsonl")[17] in lines(tmp_path / "k.jsonl")
    np.save(tmp_path / "features.npy", np.ones((3, 2)))
    bad = call(
        scores, "--data", data, "--score", "el2n", "--select", "k_center", "--count", 2, "--output", tmp_path / "x.csv",
        "--features", tmp_path / "features.npy",
    )  # fmt: skip
    assert (bad.exit_code, "must hold numbers of the shape (40, size)" in bad.stderr) == (2, True)


# ---- what is told ----


def test_json_says_what_and_why(scored: tuple[Path, Path], tmp_path: Path) -> None:
    scores, data = scored
    done = call(
        scores, "--data", data, "--score", "el2n", "--keep", 0.5, "--output", tmp_path / "k.tsv", "--offset", 0.1,
        "--drop-suspects", 0.05, "--suspects-by", "el2n", "--dedupe", "--near", 0.9, "--floor", 3,
        "--seed", 4, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"], told["kept"], told["dropped"], told["suspects_by"]) == (40, 20, 20, "el2n")
    assert told["reasons"]["suspect"] == round(0.05 * (40 - told["reasons"].get("duplicate", 0)))
    assert sum(line["rows"] for line in told["classes"]) == 40
    assert sum(line["kept"] for line in told["classes"]) == 20
    examples = {line["reason"]: line for line in told["examples"]}
    assert set(examples) == set(told["reasons"])
    train = load_data(str(data), "classification").splits["train"]
    assert all(
        train.texts[line["row"]] == line["text"] and train.ids[line["row"]] == line["id"] for line in examples.values()
    )


def test_examples_are_the_most_telling_ones(scored: tuple[Path, Path], tmp_path: Path) -> None:
    scores, data = scored
    for selector, kept, dropped in (("hardest", [39, 38, 37], [0, 1, 2]), ("easiest", [0, 1, 2], [39, 38, 37])):
        told = select(
            SelectJob(
                scores, str(data), tmp_path / f"{selector}.jsonl", SelectConfig(score="el2n", select=selector, keep=0.5)
            )
        )
        rows = {reason: [e["row"] for e in told["examples"] if e["reason"] == reason] for reason in told["reasons"]}
        assert rows == {"chosen": kept, "rest": dropped}


def test_text_from_data_cannot_steer_the_terminal(tmp_path: Path) -> None:
    data = tmp_path / "hostile"
    data.mkdir()
    for split in ("train", "dev"):
        rows = [{"text": f"\x1b[2J[red]{split} {i}[/red]", "label": f"[bold]{i % 2}\x07"} for i in range(8)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    scores = score(tmp_path, str(data), "classification")
    done = call(scores, "--data", data, "--score", "el2n", "--keep", 0.5, "--output", tmp_path / "k.jsonl")
    assert done.exit_code == 0, done.stderr
    assert not {"\x1b", "\x07"} & set(done.stdout)
    assert r"\x1b[2J[red]train 7[/red]" in done.stdout
    assert r"[bold]0\x07" in done.stdout


# ---- the static path, end to end ----


@pytest.mark.parametrize("output", ["kept.jsonl", "kept"])
def test_select_then_finetune(scored: tuple[Path, Path], tmp_path: Path, output: str) -> None:
    scores, data = scored
    done = call(scores, "--data", data, "--score", "el2n", "--keep", 0.5, "--output", tmp_path / output)
    assert done.exit_code == 0, done.stderr
    heard = Heard()
    result = finetune(toy_config(tmp_path, data=str(tmp_path / output), keep=1.0, epochs=2), listener=heard)
    there = load_data(str(tmp_path / output), "classification").splits
    assert len(there["train"]) == (18 if output == "kept.jsonl" else 20)  # a file has no dev split: 2 were set aside
    assert [epoch["kept"] for epoch in result["epochs"]] == [len(there["train"])] * 2
    assert 0 <= result["metrics"]["dev"]["accuracy"] <= 1
    assert (result["metrics"]["test"] is None) == (output == "kept.jsonl")


# ---- refusals ----


def refused(*arguments: object, home: Path) -> list[str]:
    """The problems of a call that writes nothing."""
    before = sorted(home.rglob("*"))
    done = call(*arguments)
    assert done.exit_code == 2, done.stderr
    assert "Wrote" not in done.stdout
    assert sorted(home.rglob("*")) == before
    return done.stderr.splitlines()


def test_everything_at_once(scored: tuple[Path, Path], tmp_path: Path) -> None:
    scores, _ = scored
    said = refused(
        scores, "--score", "el2m", "--select", "ccs(strata=many, betta=1)", "--keep", 30,
        "--output", tmp_path / "k.xlsx", "--features", tmp_path / "no.npy", home=tmp_path,
    )  # fmt: skip
    assert said == [
        "error: 7 problems:",
        "  - --data is missing: what was scored, e.g. the same folder.",
        "  - keep must be in (0, 1], got 30.0. Did you mean 0.3?",
        "  - strata of ccs must be a whole number, at least 1, got 'many'.",
        "  - unknown option of ccs 'betta'; did you mean 'beta'? Allowed: beta, edges, strata.",
        "  - unknown score 'el2m'; did you mean 'el2n'? Allowed: aum, el2n.",
        f"  - --output must end in .jsonl, .csv, .tsv, .parquet, or be a folder, got {tmp_path / 'k.xlsx'}.",
        f"  - there is no file {tmp_path / 'no.npy'}: --features takes a .npy file.",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--select", "hardest(offset=0.1)", "--offset", "0.1"], "offset must be given once"),
        (
            ["--select", "ccs", "--option", "beta=0.1"],
            '--option is written with the selector now: --select "ccs(beta=0.1)"',
        ),
        (["--select", "balanced(select=hardst)"], "unknown selector 'hardst'"),
        (["--select", "drop_quota"], "needs the option recalls"),
        (["--count", "3"], "keep and count say the same thing"),
        (["--floor", "99"], "a floor of 99 rows per class is more than there are"),
        (["--offset", "0.9"], "an offset of 0.9 excludes 36 of 40 rows"),
        (["--data", "nowhere"], "no file or folder 'nowhere'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments(scored: tuple[Path, Path], tmp_path: Path, arguments: list[str], said: str) -> None:
    scores, data = scored
    usual = ["--data", data, "--score", "el2n", "--keep", 0.3, "--output", tmp_path / "k.jsonl"]
    assert said in "\n".join(refused(scores, *usual, *arguments, home=tmp_path))


def test_no_output_and_no_score_file(scored: tuple[Path, Path], tmp_path: Path) -> None:
    told = refused(tmp_path / "none.parquet", "--data", scored[1], "--keep", 0.3, home=tmp_path)
    assert "no score file" in told[1]
    assert "--output is missing" in told[2]


def test_scores_of_other_data(scored: tuple[Path, Path], tmp_path: Path) -> None:
    scores, data = scored
    with (data / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"id": "new", "text": "one more", "label": "0"}) + "\n")
    told = refused(
        scores, "--data", data, "--score", "el2n", "--keep", 0.3, "--output", tmp_path / "k.jsonl", home=tmp_path
    )
    assert "the scores are of other data" in told[0]


def test_what_exists_is_replaced_with_force_only(scored: tuple[Path, Path], tmp_path: Path) -> None:
    scores, data = scored
    usual = [scores, "--data", data, "--score", "el2n", "--keep", 0.5, "--output"]
    (tmp_path / "k.jsonl").write_text("old", encoding="utf-8")
    assert "exists: --force replaces it" in refused(*usual, tmp_path / "k.jsonl", home=tmp_path)[0]
    assert call(*usual, tmp_path / "k.jsonl", "--force").exit_code == 0
    assert len(lines(tmp_path / "k.jsonl")) == 20
    assert call(*usual, tmp_path / "kept").exit_code == 0
    assert "exists: --force replaces it" in refused(*usual, tmp_path / "kept", home=tmp_path)[0]
    assert call(*usual, tmp_path / "kept", "--force").exit_code == 0


@pytest.mark.parametrize("name", ["toy-classification", "toy-classification/train.jsonl", "toy-classification/dev.csv"])
def test_the_data_themselves_are_never_replaced(scored: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    scores, data = scored
    usual = [scores, "--data", data, "--score", "el2n", "--keep", 0.5, "--force", "--output", tmp_path / name]
    assert "would be a part of the data" in "\n".join(refused(*usual, home=tmp_path))


def test_other_folders_and_files_are_not_replaced(scored: tuple[Path, Path], tmp_path: Path) -> None:
    scores, data = scored
    usual = [scores, "--data", data, "--score", "el2n", "--keep", 0.5, "--force", "--output"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    for name, said in (("mine", "is not replaced"), ("file", "is a file"), ("folder.csv", "is a folder")):
        assert said in refused(*usual, tmp_path / name, home=tmp_path)[0]


def test_a_column_of_that_name(scored: tuple[Path, Path], tmp_path: Path) -> None:
    data = write_toy_folder(tmp_path / "other", "classification", 24)
    rows = lines(data / "train.jsonl")
    (data / "train.jsonl").write_text("".join(json.dumps({**row, "el2n": 1}) + "\n" for row in rows), encoding="utf-8")
    scores = score(tmp_path / "other", str(data), "classification")
    usual = [scores, "--data", data, "--score", "el2n", "--keep", 0.5, "--with-score", "--output", tmp_path / "k.jsonl"]
    assert "has a column 'el2n' already" in refused(*usual, home=tmp_path)[0]
