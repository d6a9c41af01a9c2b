"""`datadiet score CORPUS --output FOLDER` and `datadiet select FOLDER`: the values and rows of the same in memory."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner, Result

import datadiet.scores.text
from datadiet.cli import app
from datadiet.corpus.partitions import find_corpus
from datadiet.corpus.score_folder import PARTS, open_scores
from datadiet.data.duplicates import representatives
from datadiet.errors import ArgumentError, DataError
from datadiet.jobs import score_corpus as job
from datadiet.jobs import score_partition
from datadiet.jobs.score import score_data
from datadiet.jobs.score_config import ScoreConfig
from datadiet.jobs.select_config import SelectConfig, kept_count
from datadiet.jobs.select_corpus import select_corpus
from datadiet.jobs.select_rows import select_rows
from datadiet.scoring.dataset import SplitScores, score_split
from datadiet.store.score_file import ScoreFile
from datadiet.types import Phases
from toys import Heard, tiny_classifier, tiny_lm_folder, tiny_tokenizer, toy_classification, write_rows

TASK = "classification"
SIZES = (40, 7, 33)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    examples = toy_classification(sum(SIZES), seed=3)
    assert examples.labels is not None
    triples = zip(examples.ids, examples.texts, examples.labels, strict=True)
    return [{"id": key, "text": text, "label": label, "source": key[-1]} for key, text, label in triples]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    """`corpus`: the rows in three files of two kinds; `whole`: in one; `model`: a classifier of their classes."""
    root = tmp_path_factory.mktemp("home")
    for folder in ("corpus/deep", "whole"):
        (root / folder).mkdir(parents=True)
    write_rows(root / "corpus" / "a.jsonl", rows[:40])
    write_rows(root / "corpus" / "deep" / "b.jsonl", rows[40:47])
    pq.write_table(pa.Table.from_pylist(rows[47:]), root / "corpus" / "deep" / "c.parquet", row_group_size=10)
    write_rows(root / "whole" / "train.jsonl", rows)
    write_rows(root / "whole" / "dev.jsonl", [row | {"id": f"dev-{row['id']}"} for row in rows[:8]])
    names = sorted({row["label"] for row in rows})
    model = tiny_classifier(len(names))
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    model.save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    return root


def scored(home: Path | None, output: Path, scores: str | None = "length", **options: Any) -> dict[str, Any]:
    data = options.pop("data", None) or home / "corpus"
    listener = options.pop("listener", None) or Heard()
    own = {"precision": "fp32", **options.pop("options", {})}
    config = ScoreConfig(data=str(data), task=TASK, scores=scores, output=output, options=own, **options)
    return job.score_corpus(config, listener)


def table_of(folder: Path) -> pa.Table:
    """All rows, by id."""
    return pa.concat_tables([pq.read_table(path) for path in open_scores(folder).paths]).sort_by("id")


def content_of(folder: Path) -> bytes:
    table = table_of(folder).combine_chunks().replace_schema_metadata({})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def call(*words: Any) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


# ---- values


def test_the_values_are_those_in_memory(home, tmp_path):
    """Texts to the bit; passes, whose batches are others, to 1e-5."""
    names = ["length", "el2n", "entropy", "cross_entropy", "grand"]
    content = scored(home, tmp_path / "out", ",".join(names), model=home / "model", embeddings=True)
    table = table_of(tmp_path / "out")
    own = {"model": home / "model", "precision": "fp32"}
    file = score_data(home / "whole", TASK, scores=names, **own)
    order = np.argsort(np.array(file.ids))
    assert table["id"].to_pylist() == [file.ids[row] for row in order]
    assert_array_equal(table["length"].to_numpy(), file.values["length"][order])
    for name in names[1:]:
        assert_allclose(table[name].to_numpy(), file.values[name][order], atol=1e-5, err_msg=name)
    assert table["group"].to_pylist() == [file.labels[row] for row in order]
    vectors = np.stack(table["embedding"].to_numpy())
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert content["rows"] == sum(SIZES)
    assert content["stats"]["el2n"]["rows"] == sum(SIZES)
    assert content["cost"]["examples_forward"] >= 2 * sum(SIZES)  # el2n and the like, embeddings, grand
    assert open_scores(tmp_path / "out").scores == tuple(names)


def test_scores_of_answers_are_those_in_memory(tmp_path):
    """An answer that is cut away has no value, and says so; what other rows change is refused."""
    chats = [{"id": f"c{n}", "prompt": "say " + "ab" * (n % 5), "response": "yes " * (n % 3 + 1)} for n in range(24)]
    chats[5]["prompt"] = "long " * 40
    for folder, parts in (("corpus", {"a": chats[:10], "b": chats[10:]}), ("whole", {"train": chats, "dev": chats})):
        (tmp_path / folder).mkdir()
        for name, lines in parts.items():
            write_rows(tmp_path / folder / f"{name}.jsonl", lines)
    model = tiny_lm_folder(tmp_path)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).save_pretrained(model)
    names = ["perplexity", "ifd", "entropy"]
    own = {"model": model, "max_length": 48}
    config = {"data": str(tmp_path / "corpus"), "task": "causal-lm", "options": {"precision": "fp32"}, **own}
    job.score_corpus(ScoreConfig(scores=names, output=tmp_path / "out", **config), Heard())
    table = table_of(tmp_path / "out")
    file = score_data(tmp_path / "whole", "causal-lm", scores=names, drop_overlap=False, precision="fp32", **own)
    order = np.argsort(np.array(file.ids))
    for name in names:
        assert_allclose(table[name].to_numpy(), file.values[name][order], atol=1e-5, err_msg=name)
    assert [key for key, why in zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True) if why] == ["c5"]
    for name in ("influence", "dealrec"):
        with pytest.raises(ArgumentError, match=f"{name}.*whole|partition"):
            job.score_corpus(ScoreConfig(scores=name, output=tmp_path / "no", **config), Heard())


def test_a_partition_that_is_done_is_never_done_again(home, tmp_path, monkeypatch):
    corpus = tmp_path / "corpus"
    shutil.copytree(home / "corpus", corpus)
    first = scored(home, tmp_path / "out", data=corpus)
    assert (first["taken_over"], len(first["parts"])) == (0, 3)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / PARTS).iterdir()}
    again = scored(home, tmp_path / "out", data=corpus)
    assert again["taken_over"] == 3
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / PARTS).iterdir()} == times
    assert again["cost"] == first["cost"]  # counted once
    write_rows(corpus / "deep" / "b.jsonl", [{"id": "new", "text": "one more", "label": "play"}])
    changed = scored(home, tmp_path / "out", data=corpus)
    assert (changed["taken_over"], changed["rows"]) == (2, sum(SIZES) - 7 + 1)
    (corpus / "deep" / "b.jsonl").unlink()
    assert scored(home, tmp_path / "out", data=corpus)["rows"] == sum(SIZES) - 7
    assert len(list((tmp_path / "out" / PARTS).iterdir())) == 2
    damaged = next((tmp_path / "out" / PARTS).iterdir())
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert scored(home, tmp_path / "out", data=corpus)["taken_over"] == 1
    with pytest.raises(ArgumentError, match=r"holds scores of another job, which differs in 'scores': --force"):
        scored(home, tmp_path / "out", "length(unit=characters)", data=corpus)
    other = scored(home, tmp_path / "out", "length(unit=characters)", data=corpus, force=True)
    assert other["taken_over"] == 0


def test_counts_of_all_rows_come_before_values(home, tmp_path, monkeypatch):
    """A score with global state: each partition counts, and has the values that the whole set has in memory."""

    def begin(texts: list[str]) -> dict[str, np.ndarray]:
        return {"words": np.bincount([len(text.split()) for text in texts], minlength=50)}

    def values(texts: list[str], counts: Any, *, ids: Any = None) -> np.ndarray:
        words = np.array([len(text.split()) for text in texts])
        return (np.cumsum(counts["words"])[words] / counts["words"].sum()).astype(np.float32)

    monkeypatch.setattr(datadiet.scores.text.scdp, "phases", Phases(begin, values), raising=False)
    content = scored(home, tmp_path / "out", "scdp,length")
    table = table_of(tmp_path / "out")
    lengths = table["length"].to_numpy()
    expected = np.array([(lengths <= one).mean() for one in lengths], np.float32)
    assert_allclose(table["scdp"].to_numpy(), expected, rtol=1e-6)
    assert content["scores"] == ["scdp", "length"]
    assert scored(home, tmp_path / "out", "scdp,length")["taken_over"] == 3


def test_scores_by_ngrams_have_the_values_of_the_whole_set_to_the_bit(home, tmp_path, rows):
    write_rows(tmp_path / "queries.jsonl", rows[:6])
    names = "dsir,ngram_perplexity(buckets=5000),length"
    scored(home, tmp_path / "out", names, queries=str(tmp_path / "queries.jsonl"))
    file = score_data(home / "whole", TASK, scores=names, queries=str(tmp_path / "queries.jsonl"))
    order = np.argsort(np.array(file.ids))
    for name in ("dsir", "ngram_perplexity"):
        assert_array_equal(table_of(tmp_path / "out")[name].to_numpy(), file.values[name][order])
    with pytest.raises(ArgumentError, match="which differs in 'queries'"):
        scored(home, tmp_path / "out", names, queries=str(home / "whole" / "dev.jsonl"))
    with pytest.raises((ArgumentError, DataError), match="--queries"):
        scored(home, tmp_path / "new", "dsir", queries=str(tmp_path / "nothing.jsonl"))


def test_metadata_are_read_partition_by_partition(home, tmp_path, rows):
    """Numbers and texts of numbers, from text and Parquet files; a row without one is named with file and line."""
    corpus, name = tmp_path / "corpus", "metadata(column=impact)"
    corpus.mkdir()
    lines = [row | {"impact": number / 7} for number, row in enumerate(rows)]
    write_rows(corpus / "a.jsonl", [line | {"impact": str(line["impact"])} for line in lines[:30]])
    pq.write_table(pa.Table.from_pylist(lines[30:]), corpus / "b.parquet", row_group_size=9)
    scored(home, tmp_path / "out", f"{name},length", data=corpus)
    table = table_of(tmp_path / "out")
    expected = {line["id"]: np.float32(line["impact"]) for line in lines}
    assert dict(zip(table["id"].to_pylist(), table["metadata"].to_pylist(), strict=True)) == expected
    for impact in (None, "n/a", 10**400):
        write_rows(corpus / "c.jsonl", [lines[0] | {"id": f"c{n}", "impact": 1 if n < 2 else impact} for n in range(4)])
        content = scored(home, tmp_path / "new", name, data=corpus)
        assert content["rows"] == len(lines)
        problem = content["unreadable"]["c.jsonl"]
        assert "c.jsonl, line 3: the column 'impact' must have a finite number, got " in problem
        assert problem.endswith("fill it in, or leave the row out. Also line 4.")
    pq.write_table(pa.Table.from_pylist([row | {"id": f"d{row['id']}"} for row in rows[:5]]), corpus / "c.parquet")
    other = scored(home, tmp_path / "out", f"{name},length", data=corpus)
    assert "c.parquet: there is no column 'impact'; found" in other["unreadable"]["c.parquet"]


def test_a_classifier_has_the_values_of_the_whole_set_in_one_partition_or_many(tmp_path):
    """A sample of all rows is fitted once; what was interrupted after it goes on; sides that are alike are refused."""
    words = {"good": ("play", "jazz", "song"), "bad": ("rain", "wind", "sun")}
    rows = [
        {"id": f"r{n}", "text": f"{words[kind][n % 3]} {words[kind][n * 7 % 3]} today {n % 30}", "label": kind}
        for n in range(120)
        for kind in ["good" if n % 6 == 0 else "bad"]
    ]
    cuts = {"one": [0, 120], "many": [0, 50, 51, 90, 120]}
    for folder, ends in cuts.items():
        (tmp_path / folder).mkdir()
        for number, (begin, end) in enumerate(pairwise(ends)):
            write_rows(tmp_path / folder / f"{number}.jsonl", rows[begin:end])
    for name, lines in {"train": rows, "dev": rows[:8]}.items():
        (tmp_path / "whole").mkdir(exist_ok=True)
        write_rows(tmp_path / "whole" / f"{name}.jsonl", lines)
    queries = tmp_path / "queries.jsonl"
    write_rows(queries, [{"text": f"play {word} now", "label": "good"} for word in words["good"] * 4])
    own = {"queries": str(queries)}
    names = "classifier(negatives=40),dsir"
    contents = {name: scored(None, tmp_path / f"out-{name}", names, data=tmp_path / name, **own) for name in cuts}
    tables = {name: table_of(tmp_path / f"out-{name}") for name in cuts}
    file = score_data(tmp_path / "whole", TASK, scores=names.split(","), **own)
    expected = file.values["classifier"][np.argsort(np.array(file.ids))]
    for name, table in tables.items():
        assert_array_equal(table["classifier"].to_numpy(), expected, err_msg=name)
        assert contents[name]["stats"]["classifier"]["auc"] == file.made_with["classifier"]["auc"] > 0.8
    (tmp_path / "out-many" / "parts" / next(iter(contents["many"]["parts"]))["path"]).unlink()
    again = scored(None, tmp_path / "out-many", names, data=tmp_path / "many", **own)
    assert (again["taken_over"], table_of(tmp_path / "out-many")) == (3, tables["many"])
    write_rows(queries, [{"text": row["text"], "label": "bad"} for row in rows])
    with pytest.raises(DataError, match=r"cannot tell queries and corpus apart by words: the AUC on held-out texts is"):
        scored(None, tmp_path / "out", "classifier", data=tmp_path / "many", **own)
    write_rows(queries, [{"text": "play", "label": "good"}])
    with pytest.raises(ArgumentError, match="needs at least 5 texts and 5 queries, got 1"):
        scored(None, tmp_path / "other", "classifier", data=tmp_path / "many", **own)


def test_duplicates_are_found_over_all_files(home, tmp_path, rows):
    corpus = tmp_path / "corpus"
    shutil.copytree(home / "corpus", corpus)
    copies = [{**row, "id": f"copy-{row['id']}", "text": f" {row['text'].upper()}"} for row in rows[:5]]
    write_rows(corpus / "z.jsonl", copies)
    content = scored(home, tmp_path / "out", data=corpus, duplicates=True)
    table = table_of(tmp_path / "out").to_pandas().set_index("id")
    seen: dict[str, str] = {}
    repeats = {}
    for row in [*rows, *copies]:
        key = " ".join(row["text"].casefold().split())
        if seen.setdefault(key, row["id"]) != row["id"]:
            repeats[row["id"]] = seen[key]
    marked = table[table["reason"] == "duplicate"]
    assert content["reasons"] == {"duplicate": len(marked)}
    assert set(marked.index) == set(repeats)
    assert marked.loc[f"copy-{rows[2]['id']}", "duplicate_of"] == "a.jsonl:2"


def test_near_duplicates_are_those_in_memory_and_are_looked_for_once(home, tmp_path, rows, monkeypatch):
    corpus = tmp_path / "corpus"
    shutil.copytree(home / "corpus", corpus)
    likes = [{**row, "id": f"like-{row['id']}", "text": f"{row['text']} {row['text']} now"} for row in rows[:9]]
    likes += [{**likes[3], "id": "copy"}, {**likes[4], "id": "other", "label": rows[4]["label"][::-1]}]
    write_rows(corpus / "z.jsonl", likes)
    content = scored(home, tmp_path / "out", data=corpus, duplicates=True, near=0.7)
    table = table_of(tmp_path / "out").to_pandas().set_index("id")
    every = [*rows, *likes]
    groups = representatives([row["text"] for row in every], [row["label"] for row in every], near=0.7)
    marked = table[table["reason"] == "duplicate"]
    assert set(marked.index) == {every[row]["id"] for row in groups.repeated.tolist()}
    assert marked.loc["like-" + rows[2]["id"], "duplicate_of"] == "a.jsonl:2"
    assert content["reasons"]["duplicate"] > len(representatives([row["text"] for row in every]).repeated)
    monkeypatch.setattr(job, "near_repeated", None)  # what was found is taken over
    shutil.rmtree(tmp_path / "out" / PARTS)
    assert scored(home, tmp_path / "out", data=corpus, duplicates=True, near=0.7)["reasons"] == content["reasons"]
    with pytest.raises(ArgumentError, match="differs in 'near'"):
        scored(home, tmp_path / "out", data=corpus, duplicates=True)
    result = call(
        "select", tmp_path / "out", "--keep", 0.5, "--near", 0.7, "--dedupe", "--output", tmp_path / "a.jsonl"
    )
    assert "--near is not for the scores of a corpus: score with --duplicates --near, and --dedupe" in result.stderr


def test_rows_without_a_value_are_marked_and_never_chosen(home, tmp_path, monkeypatch):
    def lacking(names: list[str], inputs: Any) -> SplitScores:
        made = score_split(names, inputs)
        without = [str(key).endswith("7") for key in inputs.ids]
        return replace(made, values={"length": np.where(without, np.float32("nan"), made.values["length"])})

    monkeypatch.setattr(score_partition, "score_split", lacking)
    content = scored(home, tmp_path / "out")
    table = table_of(tmp_path / "out").to_pandas()
    without = table["id"].str.endswith("7")
    assert content["reasons"] == {"missing length": int(without.sum())}
    assert table[without]["length"].isna().all()
    summary = select_corpus(SelectConfig(keep=0.5, output=tmp_path / "kept.parquet"), tmp_path / "out")
    kept = pq.read_table(tmp_path / "kept.parquet")
    assert summary["kept"] == kept.num_rows == round(0.5 * len(table))
    assert not any(key.endswith("7") for key in kept["id"].to_pylist())


# ---- what cannot be read, or repeats


def test_a_partition_that_cannot_be_read_is_named_and_the_others_go_on(home, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(home / "corpus", corpus)
    (corpus / "deep" / "b.jsonl").write_text('{"id": "x", "text": "fine", "label": "play"}\n{"id": "y", "text": \n')
    words = ["score", corpus, "--task", TASK, "--scores", "length", "--output", tmp_path / "out"]
    result = call(*words)
    assert result.exit_code == 1
    assert "deep/b.jsonl, line 2: not valid JSON" in result.stderr
    assert "was left out" in result.stderr
    assert open_scores(tmp_path / "out").rows == sum(SIZES) - 7
    assert list(open_scores(tmp_path / "out").manifest["unreadable"]) == ["deep/b.jsonl"]
    shutil.copy(home / "corpus" / "deep" / "b.jsonl", corpus / "deep" / "b.jsonl")
    mended = call(*words, "--json")
    assert mended.exit_code == 0
    assert json.loads(mended.stdout)["taken_over"] == 2


def test_ids_that_repeat_across_files_are_named(home, tmp_path, rows):
    corpus = tmp_path / "corpus"
    shutil.copytree(home / "corpus", corpus)
    write_rows(corpus / "z.jsonl", [{"id": "other", "text": "one", "label": "play"}, rows[3]])
    words = ["score", corpus, "--task", TASK, "--scores", "length", "--output", tmp_path / "out"]
    result = call(*words)
    assert result.exit_code == 2
    key = rows[3]["id"]
    assert f"'{key}' stands in a.jsonl, line 4 and in z.jsonl, line 2." in " ".join(result.stderr.split())
    assert call(*words, "--id-column", "", "--force").exit_code == 0
    assert "z.jsonl:1" in table_of(tmp_path / "out")["id"].to_pylist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": "vog,scdp"}, r"the score scdp compares all rows and cannot be computed partition by partition"),
        ({"scores": "aum"}, "the score aum is of the rows that a run was trained on and cannot be computed partition"),
        ({"scores": "vog"}, "the score vog reads every checkpoint of a run and cannot be computed partition"),
        ({"scores": "tracin"}, "the score tracin compares rows with a dev split, which a corpus has none of"),
        ({"scores": "negative_pvi"}, "the score negative_pvi needs models that are trained in folds and cannot"),
        ({"scores": "metadata"}, "the score metadata needs the option column"),
        ({"scores": "metadata(column=stars)"}, r"a.jsonl: there is no column 'stars'; found 'id', 'text', 'label', 's"),
        ({"epochs": 1}, "--epochs is not for a corpus: train first"),
        ({"options": {"train_rows": 5}}, "--train-rows is not for a corpus, of which every row is scored"),
        ({"options": {"gz_limit": 5.0}}, "--gz-limit is not for a corpus, which is read as a stream"),
        ({"scores": "el2n"}, "the score el2n needs a model that is trained"),
        ({"engine": "spark"}, "unknown engine 'spark'.*Allowed: local, ray"),
        ({"ray_address": "here:1"}, "--ray-address has no effect without --engine ray"),
        ({"embeddings": True}, "--embeddings needs a model: give --encoder, or --model"),
        ({"model": Path("nowhere")}, "--model must be a saved model or a run folder"),
        ({"near": 0.8}, "--near has no effect without --duplicates"),
        ({"near": 1.5, "duplicates": True}, r"near must be in \(0, 1\), got 1.5"),
        ({"workers": 0}, "workers must be a whole number, at least 1, got 0"),
        ({"group_column": "topic"}, "there is no column 'topic'"),
        ({"data": "/nowhere"}, "there is no folder '/nowhere': a corpus is a folder of files"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused(home, tmp_path, changes, message):
    with pytest.raises((ArgumentError, DataError), match=message):
        scored(home, tmp_path / "out", **changes)


@pytest.mark.parametrize(
    ("task", "row", "reason"),
    [
        ("multi-label", {"text": "a", "labels": ["x"]}, "which labels there are"),
        ("token-classification", {"tokens": ["a"], "tags": ["O"]}, "by which scheme they are tagged"),
    ],
)
def test_rows_that_are_read_together_are_no_corpus(tmp_path, monkeypatch, task, row, reason):
    (tmp_path / "corpus").mkdir()
    write_rows(tmp_path / "corpus" / "a.jsonl", [row])
    monkeypatch.setattr(job, "find_corpus", None)  # no file is read before
    result = call("score", tmp_path / "corpus", "--task", task, "--scores", "length", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert f"the rows of a {task} set are read together, since they say {reason}: give one file, or the splits" in (
        " ".join(result.stderr.split())
    )
    assert not (tmp_path / "out").exists()


def test_options_of_a_corpus_need_a_folder_as_output(home, tmp_path):
    result = call(
        *("score", home / "whole", "--task", TASK, "--scores", "length", "--duplicates", "--workers", 2),
        *("--output", tmp_path / "a.parquet"),
    )
    assert result.exit_code == 2
    assert "--workers, --duplicates have no effect on a score file: give a folder as --output." in result.stderr


def test_an_output_with_other_files_is_left_alone(home, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="holds other files than scores of a corpus"):
        scored(home, tmp_path / "mine")
    with pytest.raises(ArgumentError, match=r"would be a part of .*, which is read as --data"):
        scored(home, home / "corpus" / "scores")


def test_classes_that_the_model_lacks_are_named(home, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_rows(corpus / "a.jsonl", [{"text": "one", "label": "strange"}])
    content = scored(home, tmp_path / "out", "el2n", data=corpus, model=home / "model")
    assert "the model has no class 'strange' (id 'a.jsonl:0')" in content["unreadable"]["a.jsonl"]


# ---- engines


def test_no_ray_is_one_sentence_with_the_install_line(home, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["score", home / "corpus", "--task", TASK, "--scores", "length", "--engine", "ray"]
    result = call(*words, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "error: the engine ray needs Ray: pip install 'datadiet[ray]'" in result.stderr


def test_an_address_that_does_not_answer_is_one_sentence(home, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # the address is looked at before Ray is asked
    words = ["score", home / "corpus", "--task", TASK, "--scores", "length", "--engine", "ray"]
    result = call(*words, "--ray-address", "127.0.0.1:1", "--ray-timeout", 1, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert (
        "error: --ray-address must be a Ray cluster that answers within 1 s, got '127.0.0.1:1' (Connection refused)."
        in result.stderr
    )


@pytest.mark.soak
def test_ray_gives_the_same_rows_as_the_local_engine(home, tmp_path):
    options = {"model": home / "model", "duplicates": True, "near": 0.6}
    scored(home, tmp_path / "local", "length,el2n", **options)
    ray = scored(home, tmp_path / "ray", "length,el2n", engine="ray", workers=2, **options)
    assert ray["rows"] == sum(SIZES)
    assert ray["cost"]["examples_forward"] == sum(SIZES)
    assert content_of(tmp_path / "ray") == content_of(tmp_path / "local")


@pytest.mark.soak
def test_killed_and_started_again_ends_as_if_left_alone(home, tmp_path):
    """SIGKILL at seeded moments: to a worker, whose partition is done again; to the driver, which is started again."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(12):
        text = f"a text of file {number}"
        write_rows(corpus / f"{number:02}.jsonl", [{"text": f"{text} {row}", "label": "play"} for row in range(200)])
    alone = scored(home, tmp_path / "alone", data=corpus, duplicates=True)
    for victim in ("worker", "driver"):
        folder, rng = tmp_path / victim, random.Random(victim)
        process, parts = _begin(corpus, folder), rng.randrange(1, 10)
        while os.waitpid(process, os.WNOHANG) == (0, 0) and len(list((folder / PARTS).glob("*.parquet"))) < parts:
            time.sleep(0.01)
        os.kill(rng.choice(_workers(process)) if victim == "worker" else process, signal.SIGKILL)
        assert os.waitpid(process, 0)[1] == (0 if victim == "worker" else signal.SIGKILL)
        content = scored(home, folder, data=corpus, duplicates=True)
        assert parts <= content["taken_over"] <= 12
        assert content["rows"] == alone["rows"] == 12 * 200
        assert content_of(folder) == content_of(tmp_path / "alone")


def _begin(corpus: Path, folder: Path) -> int:
    """A driver with two workers, a copy of this process."""
    process = os.fork()
    if not process:
        try:
            scored(Path(), folder, data=corpus, duplicates=True, workers=2)
            os._exit(0)
        finally:
            os._exit(1)
    return process


def _workers(driver: int) -> list[int]:
    """The processes that the fork server of a driver has started."""

    def children(pid: int) -> list[int]:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    return [worker for child in children(driver) for worker in children(child)]


# ---- selection


@pytest.fixture(scope="module")
def folder(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("scores") / "out"
    scored(home, output, "length,el2n", model=home / "model")
    return output


def in_memory(home: Path, folder: Path, rows: list[dict[str, Any]], **options: Any) -> list[str]:
    """The ids that the selection in memory keeps of the same values, in the order of the corpus."""
    tables = [pq.read_table(path) for path in open_scores(folder).paths]
    values = np.concatenate([table["length"].to_numpy() for table in tables])
    ids = [row["id"] for row in rows]
    file = ScoreFile(ids, np.arange(len(ids)), {"length": values}, [row["label"] for row in rows], "f", "d", TASK)
    return [ids[row] for row in select_rows(file, **options).rows.tolist()]


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 0.3},
        {"count": 17, "select": "easiest"},
        {"keep": 0.4, "select": "window(offset=0.1)", "seed": 3},
        {"keep": 0.25, "select": "random", "seed": 5},
        {"keep": 0.25, "select": "proportional", "seed": 5},
        {"keep": 0.3, "select": "balanced"},
        {"keep": 0.1, "floor": 3},
        {"keep": 0.03125},  # of 80: two and a half, which is two
    ],
    ids=str,
)
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet", ""])
def test_the_kept_rows_are_those_in_memory_in_the_users_own_columns(home, folder, tmp_path, rows, options, ending):
    output = tmp_path / f"kept{ending}"
    config = SelectConfig(score="length", data=str(home / "corpus"), output=output, **options)
    summary = select_corpus(config, folder)
    kept: list[dict[str, Any]] = []
    for path in sorted(output.iterdir()) if output.is_dir() else [output]:
        kept += pq.read_table(path).to_pylist() if path.suffix == ".parquet" else pa.json.read_json(path).to_pylist()
    by_id = {row["id"]: row for row in rows}
    assert [row["id"] for row in kept] == in_memory(home, folder, rows, **options)
    assert all(row == by_id[row["id"]] for row in kept)
    assert summary["kept"] == len(kept)
    assert sum(line["kept"] for line in summary["groups"]) == len(kept)


def test_fewer_rows_than_asked_for_are_the_same_error_as_in_memory(home, tmp_path, rows):
    corpus = tmp_path / "corpus"
    shutil.copytree(home / "corpus", corpus)
    rows = [*rows[:41], {**rows[41], "text": rows[40]["text"], "label": rows[40]["label"]}, *rows[42:]]
    write_rows(corpus / "deep" / "b.jsonl", rows[40:47])
    texts = [row["text"] for row in rows]
    scored(home, tmp_path / "out", data=corpus, duplicates=True)
    said = (
        r"80 of 80 rows shall be kept, but only 79 are left without duplicates: keep at most 0\.9875, or give neither"
    )
    with pytest.raises(ArgumentError, match=said):
        select_corpus(SelectConfig(keep=1.0, output=tmp_path / "kept.jsonl"), tmp_path / "out")
    with pytest.raises(ArgumentError, match=said):
        in_memory(home, tmp_path / "out", rows, keep=1.0, dedupe=True, texts=texts)


def test_where_no_row_is_left_the_error_says_what_all_of_them_are():
    with pytest.raises(ArgumentError, match="all of the 3 rows are duplicates and missing values"):
        kept_count(SelectConfig(), 3, 0, ["duplicates", "missing values"])


def test_the_page_tells_how_many_rows_fit_a_budget(home, tmp_path, rows, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text(encoding="utf-8")
    code = next(part.split("```")[0] for part in page.split("```python\n")[1:] if "by-text" in part)
    corpus = tmp_path / "corpus"
    shutil.copytree(home / "corpus", corpus)
    write_rows(corpus / "z.jsonl", [rows[0] | {"id": "copy"}])  # has a reason against it
    write_rows(tmp_path / "queries.jsonl", rows[:6])
    names, own = "dsir,length(unit=characters)", {"queries": str(tmp_path / "queries.jsonl"), "duplicates": True}
    scored(home, tmp_path / "by-text", names, data=corpus, **own)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code.replace("1_000_000", "900"), found)
    sums = []
    for count in (found["count"], found["count"] + 1):
        config = SelectConfig(score="dsir", count=count, output=tmp_path / f"{count}.parquet")
        select_corpus(config, tmp_path / "by-text")
        sums.append(pq.read_table(tmp_path / f"{count}.parquet")["length"].to_numpy().sum())
    assert sums[0] <= 900 < sums[1]


def test_without_the_data_ids_and_scores_are_written(home, folder, tmp_path, rows):
    config = SelectConfig(score="el2n", keep=0.2, output=tmp_path / "kept.parquet")
    select_corpus(config, folder)
    table = pq.read_table(tmp_path / "kept.parquet")
    assert table.column_names == ["id", "row", "group", "length", "el2n"]
    assert table.num_rows == 16


def test_a_score_is_added_and_a_group_column_decides(home, tmp_path, rows):
    scored(home, tmp_path / "out", group_column="source")
    config = SelectConfig(
        data=str(home / "corpus"), count=10, select="balanced", with_score=True, output=tmp_path / "kept.jsonl"
    )
    summary = select_corpus(config, tmp_path / "out")
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert [len(row["text"].split()) for row in kept] == [row["length"] for row in kept]
    assert {line["kept"] for line in summary["groups"]} == {1}
    assert {row["source"] for row in kept} == {row["source"] for row in rows}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": "k_center"}, "needs all rows in memory at once; these stream: hardest, easiest"),
        ({"score": None}, r"has several scores \(length, el2n\): name the one to select by"),
        ({"score": "margin"}, "unknown score 'margin'"),
        ({"count": 1000, "keep": None}, "count must be at most 80, the rows of the corpus, got 1,000"),
        ({"keep": 70}, r"keep must be in \(0, 1\], got 70. Did you mean 0.7"),
        ({"dedupe": True}, "--dedupe needs duplicates that are marked"),
        ({"drop_suspects": 0.1}, "--drop-suspects is not for the scores of a corpus"),
        ({"group_column": "label"}, "--group-column is not for the scores of a corpus: groups are kept with the"),
        ({"output": Path("kept.csv")}, r"--output must be a .jsonl, .jsonl.gz or .parquet file"),
        ({"output": None}, "--output is missing"),
        ({"floor": 3, "select": "random"}, "a floor streams with hardest and easiest"),
    ],
)
def test_a_selection_that_cannot_be_made_is_refused(home, folder, tmp_path, changes, message):
    options = {"score": "length", "keep": 0.5, "output": tmp_path / "kept.jsonl"} | changes
    with pytest.raises((ArgumentError, DataError), match=message):
        select_corpus(SelectConfig(**options), folder)
    assert not (tmp_path / "kept.jsonl").exists()


def test_scores_of_another_corpus_are_refused(home, folder, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(home / "corpus", corpus)
    write_rows(corpus / "a.jsonl", [{"id": "new", "text": "one", "label": "play"}])
    result = call(
        *("select", folder, "--data", corpus, "--score", "length", "--keep", 0.5),
        *("--output", tmp_path / "kept.jsonl"),
    )
    assert result.exit_code == 2
    assert "the scores are of another corpus" in result.stderr
    assert "a.jsonl is another one" in " ".join(result.stderr.split())
    assert not (tmp_path / "kept.jsonl").exists()


def test_a_folder_that_is_no_folder_of_scores_is_refused(home, tmp_path):
    result = call("select", home / "corpus", "--keep", 0.5, "--output", tmp_path / "kept.jsonl")
    assert result.exit_code == 2
    assert "holds no scores of a corpus: corpus.json is missing" in result.stderr


def test_no_input_is_replaced(home, folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    part = next(folder.glob("*/*.parquet"))
    for output, message in (
        (part, "is a part of .*, which is read as the scores"),
        (home / "corpus" / "a.jsonl", "is a part of .*, which is read as --data"),
        (home / "corpus" / "new.jsonl", "would be a part of .*, which is read as --data"),
    ):
        config = SelectConfig(data=str(home / "corpus"), score="length", keep=0.3, output=output, force=True)
        with pytest.raises(ArgumentError, match=message):
            select_corpus(config, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_files_that_tell_of_the_corpus_are_no_documents(home, tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "sub").mkdir(parents=True)
    shutil.copy(home / "corpus" / "a.jsonl", corpus)
    (corpus / "README.txt").write_text("what this is")
    (corpus / "sub" / "licence-CC0.TXT").write_text("free")
    (corpus / "noticeboard.txt").write_text("a document")
    found = find_corpus(corpus)
    assert [part.name for part in found.partitions] == ["a.jsonl", "noticeboard.txt"]
    assert found.notes == ("Files that are not used: 'README.txt', 'sub/licence-CC0.TXT'.",)


def test_force_replaces_no_folder_but_a_selection(home, tmp_path):
    scored(home, tmp_path / "scores")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("mine")
    for output in (mine, tmp_path / "scores", tmp_path):
        config = SelectConfig(data=str(home / "corpus"), keep=0.3, output=output, force=True)
        with pytest.raises(ArgumentError, match="is no selection from a corpus and is not replaced"):
            select_corpus(config, tmp_path / "scores")
    assert (mine / "thesis.tex").read_text() == "mine"
