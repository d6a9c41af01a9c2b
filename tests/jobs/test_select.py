"""A static selection: which rows of a score file are kept and why, and the files that `datadiet select` writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from datadiet import registry
from datadiet.cli import app
from datadiet.data import export
from datadiet.data.load import load_data
from datadiet.data.schema import Columns
from datadiet.errors import ArgumentError, DataError
from datadiet.jobs.finetune import finetune
from datadiet.jobs.select import REASONS, StaticSelection, select, select_rows
from datadiet.jobs.select_config import SUFFIXES, SelectConfig, config_problems
from datadiet.selectors.ranked import hardest
from datadiet.store.score_file import ScoreFile, write_scores
from toys import TOYS, Heard, as_jsonl, rewrite, toy_config, write_rows, write_toy_folder

N = 100
REQUIRED: dict[str, dict[str, Any]] = {
    "window": {"offset": 0.1},
    "drop_quota": {"recalls": {"a": 0.5, "b": 0.9, "rare": 0.2}},
}
NEEDY = [method.name for method in registry.methods("select") if {"groups", "recalls"} & set(method.needs)]
TASKS = {kind: toy.task for kind, toy in TOYS.items()}
LABELLED = ("classification", "intent-slot")  # one class per row
Run, Refused = Callable[..., Result], Callable[..., list[str]]


def made_up(values: dict[str, Any] | None = None, labels: Any = "", task: str = "classification") -> ScoreFile:
    """100 rows of three classes, one of four rows, whose values are all among the easiest; el2n rises by row."""
    if values is None:
        values = {"el2n": np.linspace(0, 1, N), "other": np.zeros(N)}
    columns = {name: np.float32(column) for name, column in values.items()}
    size = len(next(iter(columns.values())))
    if labels == "":
        labels = ["rare" if row < 4 else "ab"[row % 2] for row in range(size)]
    return ScoreFile([f"id-{row}" for row in range(size)], np.arange(size), columns, labels, "f" * 16, "made up", task)


def chosen(**options: Any) -> StaticSelection:
    return select_rows(made_up(), **({"score": "el2n"} | options))


def texts() -> list[str]:
    return [f"text number {row}" for row in range(N)]


def where(selection: StaticSelection, reason: str) -> list[int]:
    return np.flatnonzero(selection.reasons == reason).tolist()


# ---- every selector ----


@pytest.mark.parametrize("name", registry.names("select"))
def test_every_selector_by_name(name):
    options = {"select": name, "keep": 0.3, "seed": 3, "texts": texts(), **REQUIRED.get(name, {})}
    selection = chosen(**options)
    assert len(selection.rows) == 30
    assert np.array_equal(selection.rows, np.unique(selection.rows))
    assert np.array_equal(selection.kept, np.isin(selection.reasons, REASONS[:2]))
    assert np.array_equal(selection.rows, chosen(**options).rows)
    assert sum(selection.counts().values()) == N


@pytest.mark.parametrize("name", NEEDY)
def test_missing_needs_of_a_selector_are_named(name):
    with pytest.raises(ArgumentError, match=r"needs the (option|class)"):
        select_rows(made_up(labels=None), score="el2n", select=name, keep=0.3)


def test_features_come_from_the_texts_or_from_the_caller():
    near = np.zeros((N, 2))
    near[:, 0] = 1
    near[7] = near[70] = (-5, 5)
    assert len({7, 70} & set(chosen(select="k_center", count=2, features=near).rows.tolist())) == 1
    words = ["play it"] * N
    words[13] = "x"  # a single letter needs a vector too
    assert 13 in chosen(select="k_center", count=2, texts=words).rows
    with pytest.raises(ArgumentError, match="needs features"):
        chosen(select="k_center", count=2)


@pytest.mark.parametrize(
    ("select", "options", "last"),
    [
        (hardest, {"offset": 0.05}, 95),
        ("hardest(offset=0.05)", {}, 95),
        ("quota", {"shares": {"a": 0.5, "b": 0.5, "rare": 0}}, 100),
        ("quota(shares.a=0.5, shares.b=0.5, shares.rare=0)", {}, 100),
    ],
)
def test_a_function_and_options_in_brackets(select, options, last):
    assert chosen(keep=0.1, select=select, **options).rows.tolist() == list(range(last - 10, last))


def test_weights_go_with_the_rows():
    selection = chosen(select="infobatch", keep=0.6)
    assert selection.weights is not None
    assert selection.weights.shape == selection.rows.shape
    assert selection.weights.sum() == pytest.approx(N)


# ---- why ----


def test_excluded_rows_have_their_own_reason():
    selection = chosen(keep=0.1, offset=0.05)
    assert selection.counts() == {"chosen": 10, "offset": 5, "rest": 85}
    assert where(selection, "offset") == list(range(95, 100))
    assert where(chosen(select="ccs", keep=0.1), "offset") == list(range(90, 100))  # its beta


def test_a_floor_keeps_a_rare_easy_class():
    assert not chosen(keep=0.2).kept[:4].any()
    selection = chosen(keep=0.2, floor=3)
    assert selection.counts() == {"chosen": 17, "floor": 3, "rest": 80}
    assert selection.reasons[:4].tolist() == ["rest", "floor", "floor", "floor"]


def test_duplicates_go_first_and_the_most_common_label_stands():
    words = texts()
    words[10], words[12], words[15] = "Play  it", "play it", "PLAY IT "  # of the classes a, a, b
    words[51], words[50] = "stop", "stop"  # of one row each: the first stands
    selection = chosen(dedupe=True, texts=words)
    assert where(selection, "duplicate") == [12, 15, 51]
    assert selection.counts() == {"chosen": N - 3, "duplicate": 3}
    words[8] = "play it"  # now it is a: 8, 10, 12; before that b could have stood
    assert where(chosen(dedupe=True, texts=words), "duplicate") == [10, 12, 15, 51]


def test_near_duplicates_beside_exact_ones():
    file = made_up({"el2n": [4, 3, 2, 1]}, ["x"] * 4)
    words = ["book a table for two", "book a table for two!", "Book a table  for two", "play jazz"]
    assert select_rows(file, texts=words, dedupe=True).rows.tolist() == [0, 1, 3]
    assert select_rows(file, texts=words, dedupe=True, near=0.7).rows.tolist() == [0, 3]


def test_suspects_are_those_whose_labels_were_flipped():
    rng = np.random.default_rng(0)
    wrong = rng.permutation(N)[:10]
    aum = rng.normal(-3, 1, N).astype(np.float32)
    aum[wrong] += 8
    file = made_up({"el2n": np.full(N, 0.1), "aum": aum})
    selection = select_rows(file, score="el2n", keep=0.5, drop_suspects=0.1)
    assert set(where(selection, "suspect")) == set(wrong.tolist())
    assert selection.suspicion is not None
    assert selection.suspicion[0] == "aum"
    # keeping the hardest by the same score would have kept them all
    assert select_rows(file, score="aum", keep=0.5).kept[wrong].all()


@pytest.mark.parametrize(("by", "suspect"), [(None, 9), ("el2n", 9), ("confidence", 0), ("irreducible", 0)])
def test_suspects_by_a_named_ranking(by, suspect):
    rising = np.arange(10)
    file = made_up({"el2n": rising, "aum": rising, "confidence": -rising, "reducible_loss": rising}, None, "regression")
    selection = select_rows(file, score="el2n", keep=0.5, drop_suspects=0.1, suspects_by=by)
    assert where(selection, "suspect") == [suspect]
    assert selection.suspicion is not None
    assert selection.suspicion[0] == (by or "aum")


def test_suspects_without_aum_or_reducible_loss():
    assert where(chosen(score="other", select="random", keep=0.5, drop_suspects=0.1), "suspect") == list(range(90, 100))
    file = made_up({"el2n": np.arange(10), "irreducible_loss": np.arange(10)}, None, "regression")
    selection = select_rows(file, score="el2n", keep=0.5, drop_suspects=0.1, suspects_by="irreducible")
    assert where(selection, "suspect") == [9]


def test_every_reason_in_turn():
    words = texts()
    words[99] = words[98]
    counts = chosen(keep=0.5, dedupe=True, texts=words, drop_suspects=0.1, offset=0.1, floor=2).counts()
    # of 99 left 10 are suspects; the rare class gets its floor, and of the other 85 a tenth is excluded
    assert [counts[name] for name in ("duplicate", "suspect", "offset")] == [1, 10, 8]
    assert counts["chosen"] + counts["floor"] == 50


# ---- how many ----


def test_the_share_is_of_all_rows():
    words = ["same"] * 50 + texts()[50:]
    assert len(chosen(keep=0.5, dedupe=True, texts=words).rows) == 50
    with pytest.raises(ArgumentError, match=r"60 of 100 .* only 51 are left without duplicates: keep at most 0.51"):
        chosen(keep=0.6, dedupe=True, texts=words)


def test_the_only_score_is_the_default(tmp_path):
    file = made_up({"el2n": np.linspace(0, 1, N)})
    write_scores(tmp_path / "s.parquet", file)
    selection = select_rows(tmp_path / "s.parquet", count=5)
    assert (selection.score, selection.rows.tolist()) == ("el2n", [95, 96, 97, 98, 99])
    assert len(select_rows(file, keep=0.001).rows) == 1
    assert select_rows(file, keep=1).kept.all()


# ---- refusals of `select_rows` ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 70}, r"keep must be in \(0, 1\], got 70. Did you mean 0.7"),
        ({"keep": 0.0}, r"keep must be in \(0, 1\]"),
        ({"keep": None}, "nothing is dropped"),
        ({"count": 5}, "keep and count say the same thing"),
        ({"keep": None, "count": 0}, "count must be a whole number, at least 1"),
        ({"keep": None, "count": 101}, "count must be at most 100"),
        ({"floor": -1}, "floor must be"),
        ({"seed": -1}, "seed must be"),
        ({"floor": 5}, r"floor of 5 rows per class is more than there are of 'rare' \(4\); lower it to 4"),
        ({"drop_suspects": 1.0}, r"drop_suspects must be in \[0, 1\)"),
        ({"select": "hardst"}, "unknown selector 'hardst'; did you mean 'hardest'"),
        ({"select": "divbs"}, "unknown selector 'divbs'"),  # chooses within batches
        ({"select": "ccs(beta"}, r"a method must be name or name\(option=value"),
        ({"select": "hardest(offset=0.1)", "offset": 0.2}, "offset is given in the brackets of select and beside it"),
        ({"betta": 1}, "unknown option of hardest 'betta'"),
        ({"output": "kept"}, "unknown option of hardest 'output'"),
        ({"select": "random", "x": 1}, "the selector random has no options, got x"),
        ({"select": "quota", "inner": 1}, "unknown option of quota 'inner'"),
        ({"select": "window"}, "the selector window needs the option offset"),
        ({"offset": 2.0}, "offset of hardest must be in"),
        ({"offset": 0.99}, "offset"),
        ({"score": "el2m"}, "unknown score 'el2m'; did you mean 'el2n'"),
        ({"score": None}, r"several scores \(el2n, other\)"),
        ({"dedupe": True}, "dedupe needs the texts"),
        ({"suspects_by": "el2n"}, "suspects_by has no effect without drop_suspects"),
        ({"near": 0.8}, "near has no effect without dedupe"),
        ({"near": 80, "dedupe": True}, r"near must be in \(0, 1\), got 80"),
        ({"drop_suspects": 0.1, "suspects_by": "aun"}, "unknown ranking in suspects_by 'aun'; did you mean 'aum'"),
        ({"drop_suspects": 0.1, "suspects_by": "irreducible"}, "needs reducible_loss or irreducible_loss, and the"),
        ({"keep": None, "drop_suspects": 0.999}, "nothing is left"),
        ({"texts": ["a"]}, "texts must have one entry per row, 100, got 1"),
        ({"features": np.zeros((3, 2))}, "features must have one entry per row"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refused(change, message):
    with pytest.raises(ArgumentError, match=message):
        chosen(**({"keep": 0.5} | change))


def test_what_the_file_lacks(tmp_path):
    bare = made_up({"other": np.zeros(N)}, None, "regression")
    with pytest.raises(ArgumentError, match="suspects are ranked by aum or el2n or negative_pvi") as caught:
        select_rows(bare, keep=0.5, drop_suspects=0.1, floor=2)
    assert "a floor needs the class of each row, and the file has none (task regression)." in caught.value.problems
    with pytest.raises(DataError, match="no score file"):
        select_rows(tmp_path / "none.parquet", keep=0.5)
    assert len(config_problems(SelectConfig(select="x", keep=3, floor=-1))) == 3  # without a file


# ---- the command: what is written ----


def score_file(home: Path, data: str, task: str, **reading: Any) -> Path:
    """A score file of made-up values: the later in train, the harder."""
    columns = Columns(**reading.pop("columns", {}))
    read_with = {**reading, "columns": {name: column for name, column in vars(columns).items() if column}}
    loaded = load_data(data, task, columns=columns, **reading)
    train = loaded.splits["train"]
    values = np.linspace(0, 1, len(train), dtype=np.float32)
    labels = [str(label) for label in train.labels or ()] if task in LABELLED else None
    file = made_up({"el2n": values, "aum": -values}, labels, task)
    made = {"el2n": {"model": "tiny", "epochs": 2}}
    of_data = {"ids": train.ids, "fingerprint": loaded.fingerprint, "data": loaded.name}
    file = replace(file, made_with=made, read_with=read_with, **of_data)
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
    assert (summary["kept"], summary["dropped"], bool(summary["classes"])) == (12, 12, TASKS[kind] in LABELLED)
    kept = load_data(str(tmp_path / f"kept{suffix}"), TASKS[kind], dev_share=0.1).splits["train"]
    train = load_data(data, TASKS[kind]).splits["train"]
    assert kept == train.take(row + 12 for row in kept.source_rows or ())
    assert SUFFIXES == export.SUFFIXES


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
        (["--select", "hardest(offset=0.1)", "--offset", "0.1"], "offset is given in the brackets of select and"),
        (["--select", "ccs(odd)"], "options of ccs must be name=value with commas between, got 'odd'"),
        (["--select", "balanced(select=hardst)"], "unknown select 'hardst'"),
        (["--select", "drop_quota"], "needs the option recalls"),
        (["--count", "3"], "keep and count say the same thing"),
        (["--floor", "99"], "a floor of 99 rows per class is more than there are"),
        (["--offset", "0.9"], "an offset of 0.9 sets 36 of 40 rows aside"),
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
    with (data / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(as_jsonl([{"id": "new", "text": "one more", "label": "0"}]))
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
        ("toy-classification", "would be a part of the data"),
        ("toy-classification/train.jsonl", "would be a part of the data"),
        ("toy-classification/dev.csv", "would be a part of the data"),
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


def test_a_column_of_that_name(refused, data, tmp_path):
    rewrite(data, "train", lambda row: {**row, "el2n": 1})
    scores = score_file(tmp_path, str(data), "classification")
    flags = ("--keep", 0.5, "--with-score", "--output", tmp_path / "k.jsonl")
    assert "has a column 'el2n' already" in refused(*flags, file=scores)[0]
