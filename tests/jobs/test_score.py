"""`datadiet score`: many scores from few passes, one file that select and finetune read, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import spearmanr
from torch.nn.functional import cross_entropy, one_hot
from typer.testing import CliRunner, Result

from datadiet import registry
from datadiet.cli import app
from datadiet.cli.score import correlations, quantiles
from datadiet.data.load import load_data
from datadiet.errors import ArgumentError, DataError
from datadiet.jobs import score as job
from datadiet.jobs.finetune import finetune
from datadiet.jobs.score import score_data
from datadiet.jobs.score_checks import check_job
from datadiet.jobs.score_config import ScoreConfig
from datadiet.jobs.score_corpus import check_corpus_job
from datadiet.ledger import Ledger
from datadiet.scores.ngrams import dsir
from datadiet.scoring.forward import forward_pass
from datadiet.store.dynamics import dynamics
from datadiet.store.run_folder import read_result
from datadiet.store.score_file import ScoreFile, read_scores
from datadiet.tasks import task_for
from datadiet.tasks.loading import load_saved, load_tokenizer
from toys import (
    TOYS,
    Heard,
    plans_of,
    rewrite,
    tiny_classifier,
    tiny_model_folder,
    tiny_tokenizer,
    toy_config,
    write_rows,
    write_toy_folder,
)

N = 48
TASK = "classification"
LOGITS = ["el2n", "cross_entropy", "margin", "entropy"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run`: trained on everything, with its checkpoints; `holdout`: on other rows; `toy-classification`: the data."""
    root = tmp_path_factory.mktemp("home")
    config = toy_config(root, n=N, keep=1.0, keep_checkpoints=True, epochs=3, output=str(root / "run"))
    finetune(config)
    data = write_toy_folder(root / "other", TASK, N, seed=7)
    finetune(replace(config, data=str(data), output=str(root / "holdout"), keep_checkpoints=False, seed=1))
    return root


def scored(home: Path, scores: list[str] | str | None, **options: Any) -> ScoreFile:
    options = {"model": home / "run", "precision": "fp32", "data": home / "toy-classification"} | options
    return score_data(options.pop("data"), TASK, scores=scores, **options)


def logits_of(folder: Path, home: Path) -> torch.Tensor:
    """Row by row, one at a time."""
    data = load_data(str(home / "toy-classification"), TASK)
    task, tokenizer, model = task_for(data), load_tokenizer(str(folder)), load_saved(folder)
    features = task.features(data.splits["train"], tokenizer, max_length=128)
    logits = torch.empty(N, 2)
    for rows, outputs, _ in forward_pass(model, features, task.collator(tokenizer), batch_tokens=1):
        logits[torch.from_numpy(rows)] = outputs["logits"]
    return logits


# ---- values, and passes that are shared ----


def test_each_model_has_one_forward_pass_for_all_scores(home):
    ledger = Ledger()
    file = scored(home, LOGITS, probabilities=True, ledger=ledger)
    assert ledger.examples_forward == N
    assert set(file.made_with["margin"]["seconds_shared_with"]) == {"el2n", "cross_entropy", "entropy"}
    ledger = Ledger()
    names = [*LOGITS, "teacher_el2n", "teacher_divergence", "reducible_loss", "irreducible_loss"]
    scored(home, names, teacher=home / "holdout", holdout=home / "holdout", ledger=ledger)
    assert ledger.examples_forward == 3 * N


def test_rows_that_a_model_cannot_tell_apart_are_passed_once(home, tmp_path):
    """The same tokens and label; another label, or other letters, is another row."""
    data = write_toy_folder(tmp_path, TASK, N)
    rows = list(map(json.loads, (data / "train.jsonl").read_text().splitlines()))
    other = next(row for row in rows if row["label"] != rows[0]["label"])
    copies = [rows[0] | {"id": f"copy-{number}"} for number in range(5)]
    write_rows(data / "train.jsonl", [*rows, *copies, rows[0] | {"id": "other", "label": other["label"]}])
    ledger = Ledger()
    names = ["el2n", "teacher_el2n"]
    file = scored(home, names, data=data, teacher=home / "holdout", ledger=ledger, probabilities=True)
    assert ledger.examples_forward == 2 * (N + 1)
    values = dict(zip(file.ids, file.values["el2n"].tolist(), strict=True))
    assert {values[f"copy-{number}"] for number in range(5)} == {values[rows[0]["id"]]} != {values["other"]}
    assert_allclose(file.probabilities[-1], file.probabilities[0], atol=1e-6)
    assert_allclose(file.values["el2n"][:N], scored(home, ["el2n"]).values["el2n"], atol=1e-5)
    ledger = Ledger()
    scored(home, ["neighbour_distance"], data=data, ledger=ledger)
    assert ledger.examples_forward == N + 1


def test_values_are_those_of_the_formulas(home):
    names = ["el2n", "reducible_loss", "irreducible_loss", "teacher_el2n"]
    file = scored(home, names, teacher=home / "holdout", holdout=home / "holdout", probabilities=True)
    ours, theirs = logits_of(home / "run" / "model", home), logits_of(home / "holdout" / "model", home)
    data = load_data(str(home / "toy-classification"), TASK)
    labels = torch.tensor([data.label_names.index(str(label)) for label in data.splits["train"].labels or ()])
    losses = [cross_entropy(logits, labels, reduction="none") for logits in (ours, theirs)]
    assert_allclose(file.values["el2n"], (ours.softmax(-1) - one_hot(labels, 2)).norm(dim=-1), atol=1e-5)
    assert_allclose(file.values["irreducible_loss"], losses[1], atol=1e-4)
    assert_allclose(file.values["reducible_loss"], losses[0] - losses[1], atol=1e-4)
    assert_allclose(file.values["teacher_el2n"], (ours.softmax(-1) - theirs.softmax(-1)).norm(dim=-1), atol=1e-5)
    assert_allclose(file.probabilities, ours.softmax(-1), atol=1e-5)


def test_a_teacher_reads_with_its_own_tokenizer(home, tmp_path):
    """One with the same weights and another order of the vocabulary would see other words."""
    model: Any = load_saved(home / "run" / "model")
    order = torch.arange(model.config.vocab_size)
    order[5:] = order[5:].flip(0)
    words = model.get_input_embeddings().weight
    with torch.no_grad():
        words.copy_(words[order].clone())
    model.save_pretrained(tmp_path)
    vocab = {piece: int(order[number]) for piece, number in tiny_tokenizer().get_vocab().items()}
    type(tiny_tokenizer())(vocab=vocab, model_max_length=64).save_pretrained(tmp_path)
    assert_allclose(scored(home, ["teacher_el2n"], teacher=tmp_path).values["teacher_el2n"], np.zeros(N), atol=1e-5)


def test_dynamics_are_those_of_the_run(home):
    file = scored(home, ["aum", "forgetting", "confidence"])
    table = dynamics(home / "run").dynamics
    assert_allclose(file.values["aum"], -table.aum, atol=1e-5)
    assert_allclose(file.values["confidence"], 1 - table.confidence, atol=1e-5)
    assert (file.made_with["aum"]["rounds"], file.made_with["aum"]["model"]) == (3, "run")
    assert list(scored(home, None).values) == ["el2n", *registry.names("score", need="history")]  # by default


def test_checkpoints_texts_and_embeddings(home):
    names = ["vog", "self_influence", "tracin", "grand", "scdp", "length", "prototypes", "moderate"]
    file = scored(home, ",".join(names))
    assert list(file.values) == names
    assert all(np.isfinite(values).all() and len(values) == N for values in file.values.values())
    assert file.made_with["vog"]["checkpoints"] == 3
    assert "model" not in file.made_with["scdp"]


def test_influence_effort_and_dealrec(home, tmp_path):
    """The surrogate is the teacher where one is given, else the model itself."""
    file = scored(home, "influence(damping=0.1),effort,dealrec,grand", output=tmp_path / "scores.parquet")
    assert_allclose(file.values["effort"], file.values["grand"], rtol=1e-4)
    made = file.made_with["influence"]
    assert (made["solver"], made["parameters"]) == ("exact", 34)
    assert made["residual"] < 1e-4
    assert read_scores(tmp_path / "scores.parquet").made_with["dealrec"]["solver"] == "exact"
    own = scored(home, "dealrec(weight=0),influence,dealrec").values
    assert spearmanr(own["dealrec"], file.values["dealrec"]).statistic == pytest.approx(1)
    assert spearmanr(scored(home, "dealrec(weight=0)").values["dealrec"], own["influence"]).statistic > 0.999
    other = scored(home, "dealrec", teacher=home / "holdout")
    assert other.made_with["dealrec"]["teacher"] == "holdout"
    assert not np.allclose(other.values["dealrec"], file.values["dealrec"])
    with pytest.raises(ArgumentError, match=r"damping of influence must be above 0 and finite, got -1"):
        scored(home, "influence(damping=-1)")


def test_less_compares_with_queries_along_the_checkpoints(home, tmp_path):
    """Rows of the class that the queries have come first; Adam's state is in the checkpoints."""
    rows = [json.loads(line) for line in (home / "toy-classification" / "dev.jsonl").read_text().splitlines()]
    write_rows(tmp_path / "wanted.jsonl", [row for row in rows if row["label"] == "amber"])
    write_rows(tmp_path / "both.jsonl", [row | {"kind": row["label"]} for row in rows])
    file = scored(home, "less", queries=str(tmp_path / "wanted.jsonl"))
    made = file.made_with["less"]
    assert (made["direction"], made["checkpoints"], made["subtasks"]) == ("adam", 3, 1)
    assert made["gradients_of"] == "last_layer (34 numbers)"
    of_class = np.array(file.labels) == "amber"
    assert np.median(file.values["less"][of_class]) > np.median(file.values["less"][~of_class])
    options = {"queries": str(tmp_path / "both.jsonl"), "query_groups": "kind"}
    plain = scored(home, "less(direction=plain, parameters=all, dimensions=256)", **options).made_with["less"]
    assert (plain["direction"], plain["subtasks"], plain["dimensions"]) == ("plain", 2, 256)
    with pytest.raises(ArgumentError, match="the score less needs examples of what is wanted: --queries"):
        scored(home, "less")
    with pytest.raises(ArgumentError, match=r"the score less needs the checkpoints of a run: .*--keep-checkpoints"):
        scored(home, "less", model=home / "holdout", queries=str(tmp_path / "wanted.jsonl"))


def test_texts_need_no_model(home):
    file = scored(home, ["length"], model=None)
    texts = load_data(str(home / "toy-classification"), TASK).splits["train"].texts
    assert np.corrcoef(file.values["length"], [len(text.split()) for text in texts])[0, 1] > 0.9


def test_an_encoder_needs_no_head(home):
    encoder = next(home.glob("tiny-*"))
    file = scored(home, ["moderate", "neighbour_distance"], model=None, encoder=str(encoder))
    made = {"encoder": encoder.name, "seconds": 0, "seconds_shared_with": ["neighbour_distance"]}
    assert file.made_with["moderate"] | {"seconds": 0} == made
    own = scored(home, ["neighbour_distance"])
    assert not np.allclose(own.values["neighbour_distance"], file.values["neighbour_distance"])


def test_each_score_has_its_own_options(home):
    file = scored(home, "length(unit=characters),scdp", model=None)
    assert (file.values["length"] > scored(home, ["length"], model=None).values["length"]).all()
    assert file.made_with["length"]["options"] == {"unit": "characters"}
    assert "options" not in file.made_with["scdp"]


@pytest.mark.proves("el2n", "aum", kind="score", by="planted")
def test_mislabelled_rows_are_hard(tmp_path):
    """The purpose of the file: wrong labels have the largest values of el2n and of the dynamics."""
    data = write_toy_folder(tmp_path, TASK, 96)
    flipped = {f"c-0-{row}" for row in range(6)}
    other = {"amber": "birch", "birch": "amber"}
    rewrite(data, "train", lambda row: row | ({"label": other[row["label"]]} if row["id"] in flipped else {}))
    options = {"learning_rate": 5e-3, "batch_size": 8, "precision": "fp32"}
    model = str(tiny_model_folder(tmp_path))
    file = score_data(data, TASK, scores=["el2n", "aum"], epochs=4, base_model=model, **options)
    for values in file.values.values():
        hardest = {file.ids[row] for row in np.argsort(-values)[:12].tolist()}
        assert len(hardest & flipped) >= 5


# ---- training first ----


def trained(home: Path, scores: list[str], **options: Any) -> ScoreFile:
    return scored(home, scores, model=None, base_model=str(next(home.glob("tiny-*"))), batch_size=8, **options)


def test_epochs_train_first_and_leave_nothing(home, tmp_path):
    output, heard = tmp_path / "out" / "scores.parquet", Heard()
    file = trained(home, ["el2n", "aum", "vog"], epochs=2, output=output, listener=heard)
    assert [path.name for path in output.parent.iterdir()] == ["scores.parquet"]
    assert file.made_with["vog"]["checkpoints"] == file.made_with["aum"]["rounds"] == 2
    assert file.made_with["el2n"]["base_model"] == file.made_with["el2n"]["model"] == next(home.glob("tiny-*")).name
    assert "training" in heard.phases
    assert read_scores(output).fingerprint == file.fingerprint


def test_a_run_that_is_named_is_kept(home, tmp_path):
    file = trained(home, ["el2n"], epochs=1, run=tmp_path / "kept")
    assert read_result(tmp_path / "kept")["diet"]["keep"] == 1.0
    assert file.made_with["el2n"]["model"] == "kept"
    assert_allclose(scored(home, ["el2n"], model=tmp_path / "kept").values["el2n"], file.values["el2n"], atol=1e-6)


def test_a_training_that_fails_leaves_nothing(home, tmp_path):
    class Stop(Heard):
        def phase(self, text: str) -> None:
            if text == "testing":
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        trained(home, ["el2n"], epochs=1, output=tmp_path / "scores.parquet", listener=Stop())
    assert not list(tmp_path.iterdir())


# ---- what follows ----


def test_finetune_begins_from_the_file(home, tmp_path):
    path = tmp_path / "scores.parquet"
    file = scored(home, ["vog", "el2n", "irreducible_loss"], holdout=home / "holdout", output=path)
    common = {"data": str(home / "toy-classification"), "scores_from": str(path), "epochs": 2, "keep": 0.5}
    for score in ("vog", "el2n"):
        run = tmp_path / score
        finetune(toy_config(tmp_path, output=str(run), score=score, warmup_epochs=0, refresh_every=2, **common))
        hardest = np.argsort(-file.values[score], kind="stable")[: N // 2].tolist()
        assert set(plans_of(run)[0]) == set(hardest)
    result = finetune(toy_config(tmp_path, output=str(tmp_path / "rho"), select="top_reducible", **common))
    assert result["diet"]["select"] == "top_reducible"


def test_finetune_refuses_a_file_that_cannot_start_it(home, tmp_path):
    scored(home, ["el2n", "aum"], output=tmp_path / "scores.parquet")
    config = toy_config(tmp_path, scores_from=str(tmp_path / "scores.parquet"), warmup_epochs=0)
    with pytest.raises(ArgumentError, match="unknown score 'vog'"):
        finetune(replace(config, score="vog"))
    with pytest.raises(ArgumentError, match="'aum' is made anew while training"):
        finetune(replace(config, score="aum"))
    with pytest.raises(DataError, match="the scores are of other data"):
        finetune(replace(config, data=str(write_toy_folder(tmp_path, TASK, N, seed=3))))


# ---- the command ----


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_select_reads_it(home, tmp_path):
    """Also how the split was read: half of it, by ids of another column."""
    path, kept = tmp_path / "scores.parquet", tmp_path / "kept.jsonl"
    data = home / "toy-classification"
    flags = ("--task", TASK, "--model", home / "run", "--train-rows", 24, "--text-column", "text")
    done = call("score", data, *flags, "--scores", "el2n,scdp", "--output", path, "--json")
    assert done.exit_code == 0, done.output
    file = read_scores(path)
    assert file.read_with == {"train_rows": 24, "columns": {"text": "text"}}
    done = call("select", path, "--data", data, "--score", "el2n", "--keep", 0.5, "--output", kept)
    assert done.exit_code == 0, done.output
    hardest = {file.ids[row] for row in np.argsort(-file.values["el2n"], kind="stable")[:12].tolist()}
    assert {json.loads(line)["id"] for line in kept.read_text().splitlines()} == hardest


def test_the_command_shows_ranges_and_correlations(home, tmp_path):
    arguments = ["score", home / "toy-classification", "--task", TASK, "--model", home / "run", "--output"]
    done = call(*arguments, tmp_path / "a.parquet", "--scores", "el2n,cross_entropy,length", "--probabilities")
    assert done.exit_code == 0, done.output
    for words in ("median", "90 %", "Rank correlation (Spearman)", "with the class probabilities", "datadiet select"):
        assert words in done.output
    assert call(*arguments, tmp_path / "a.parquet").exit_code == 2
    done = call(*arguments, tmp_path / "a.parquet", "--scores", "el2n", "--force", "--json")
    summary = json.loads(done.stdout)
    assert summary["rows"] == N
    assert summary["scores"]["el2n"]["p10"] <= summary["scores"]["el2n"]["median"]
    assert "/" not in json.dumps(summary["scores"])


def test_text_for_people(home, tmp_path):
    flags = ("--task", TASK, "--scores", "length", "--output", tmp_path / "a.csv")
    done = call("score", home / "toy-classification", *flags)
    assert done.exit_code == 0, done.output
    assert "datadiet select" not in done.output
    assert len(pd.read_csv(tmp_path / "a.csv")) == N


def test_quantiles_and_correlations_of_few_values():
    assert quantiles(np.float32([1, 1, 1]))["p90"] == 1.0
    rho = correlations({"a": np.float32([1, 2, 3, 4]), "b": np.float32([1, 4, 9, 16]), "c": np.float32([5, 5, 5, 5])})
    assert (rho["a"]["b"], rho["a"]["c"]) == (1.0, None)
    rng = np.random.default_rng(0)
    one, two = (rng.integers(0, 4, 50).astype(np.float32) for _ in range(2))  # ties share their rank
    assert correlations({"a": one, "b": two})["a"]["b"] == pytest.approx(spearmanr(one, two)[0], abs=1e-4)


# ---- other tasks ----


@pytest.mark.parametrize("kind", [kind for kind in TOYS if kind not in ("classification", "pairs")])
def test_every_task(kind, tmp_path):
    config = toy_config(tmp_path, kind, n=24, keep=1.0, epochs=2)
    finetune(config)
    path = tmp_path / "scores.parquet"
    file = score_data(config.data, config.task, model=tmp_path / "run", output=path, force=True)
    assert "el2n" in file.values
    assert ("aum" in file.values) == registry.has(config.task, "classes")
    assert (file.labels is not None) == registry.has(config.task, "one_class")
    assert read_scores(path).task == config.task


# ---- what is refused ----


def test_every_problem_at_once(tmp_path):
    heard = Heard()
    names = ["el2n", "vog", "tracin", "teacher_el2n", "reducible_loss", "el2m"]
    options = {"run": tmp_path / "kept", "output": tmp_path / "scores.txt", "encoder": "./none", "batch_size": 0}
    with pytest.raises(ArgumentError) as caught:
        score_data(tmp_path / "nowhere", "tagging", scores=names, colour="red", listener=heard, **options)
    for words in (
        "el2n needs a model that is trained: --model RUN, or --epochs E", "vog needs the checkpoints of a run",
        "--keep-checkpoints", "--teacher", "--holdout", "unknown score 'el2m'", "--run has no effect without --epochs",
        "must end in .parquet", "--encoder: the model folder ./none", "batch_size must be", "unknown option 'colour'",
        "unknown task 'tagging'", "nowhere",
    ):  # fmt: skip
        assert words in str(caught.value)
    assert not heard.phases
    assert not list(tmp_path.iterdir())


NO_MODEL = {"model": None, "base_model": "some/model"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": Path("nowhere")}, "--model must be a saved model or a run folder that holds one, got nowhere"),
        ({"epochs": 1}, "--model is trained already and --epochs trains one"),
        ({"learning_rate": 1e-3}, "--learning-rate has no effect without --epochs"),
        ({"queries": "snips"}, "--queries has no effect: no requested score compares with them"),
        ({"query_groups": "kind"}, "--query-groups has no effect without --queries"),
        ({"scores": ["absolute_error"]}, "absolute_error is for regression"),
        ({"scores": []}, "--scores is empty"),
        ({"scores": ["vog"], "epochs": 1, **NO_MODEL}, "vog needs at least two checkpoints"),
        ({"scores": ["length"], "probabilities": True, "model": None}, "--probabilities needs a model that is trained"),
        ({"epochs": 0, **NO_MODEL}, "epochs must be a whole number, at least 1"),
        ({"scores": ["length(unit=letters)"]}, "unknown unit of length 'letters'"),
        ({"scores": ["length(unit"]}, r"a method must be name or name\(option=value"),
        ({"scores": ["prototypes(clusters=49)"]}, "clusters of prototypes must be at most the number of training rows"),
        ({"scores": ["length"], "score_options": "unit=words"}, r'belongs to now: scores="length\(unit=words\)"\.'),
    ],
)
def test_bad_arguments(home, options, message):
    heard = Heard()
    with pytest.raises(ArgumentError, match=message):
        scored(home, **{"scores": ["el2n"], "listener": heard, **options})
    assert heard.phases in ([], ["reading the data"])


def test_a_regression_has_no_dynamics_of_classes(tmp_path):
    data = write_toy_folder(tmp_path, "regression", 24)
    with pytest.raises(ArgumentError, match="the score aum is for classes; a regression has none"):
        score_data(data, "regression", epochs=1, scores=["aum"])


def test_the_old_flag_names_the_new_form(home):
    flags = ("--task", TASK, "--scores", "prototypes", "--score-options", "clusters=500")
    done = call("score", home / "toy-classification", *flags)
    hint = '--score-options is written with the score it belongs to now: --scores "prototypes(clusters=500)".'
    assert (done.exit_code, done.stderr) == (2, f"error: {hint}\n")


def test_a_model_without_a_trained_head_is_refused(home, tmp_path):
    with pytest.raises(ArgumentError, match=r"other labels than this data.*\n.*--epochs E trains one first"):
        scored(home, ["el2n"], model=next(home.glob("tiny-*")))
    stranger: Any = tiny_classifier(2)
    stranger.config.id2label = {0: "no", 1: "yes"}
    stranger.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match=r"the teacher in .* has other labels than this data, e\.g\. 'amber'"):
        scored(home, ["teacher_el2n"], teacher=tmp_path)


@pytest.mark.parametrize(
    ("role", "name"),
    [("model", "el2n"), ("teacher", "teacher_el2n"), ("holdout", "irreducible_loss"), ("encoder", "prototypes")],
)
def test_a_checkpoint_of_a_plain_trainer_lacks_its_tokenizer(home, tmp_path, role, name):
    """Without the files transformers makes an empty tokenizer, by which all words are alike; in a corpus too."""
    bare = tmp_path / "checkpoint-3"
    load_saved(home / "run" / "model").save_pretrained(bare)
    own = {"model": home / "run", role: bare if role != "encoder" else str(bare)}
    lacks = rf"--{role} must be saved with its tokenizer, got .*checkpoint-3 without one\. Save it there too: "
    for output in ("scores.parquet", *(["scores"] if role != "encoder" else [])):
        config = ScoreConfig(data=str(home / "toy-classification"), task=TASK, scores=[name], output=tmp_path / output)
        with pytest.raises(ArgumentError, match=lacks):
            (check_job if "." in output else check_corpus_job)(replace(config, **own))
    with pytest.raises(ArgumentError, match="a model must be saved with its tokenizer"):
        load_tokenizer(str(bare))
    tiny_tokenizer().save_pretrained(bare)
    check_job(replace(config, output=tmp_path / "scores.parquet", **own))


def test_a_head_that_is_missing_from_the_weights_is_refused(home, tmp_path):
    """The labels are those of the data, but only the encoder was saved."""
    model: Any = load_saved(home / "run" / "model")
    model.bert.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((home / "run" / "model" / "config.json").read_text())
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DataError, match="not a fine-tuned model: it has no weights for classifier"):
        scored(home, ["el2n"], model=tmp_path)


def test_the_history_of_other_data_is_refused(home, tmp_path):
    data, heard = write_toy_folder(tmp_path, TASK, N, seed=5), Heard()
    with pytest.raises(DataError, match="was trained on other data"):
        scored(home, ["aum"], data=data)
    assert list(scored(home, None, data=data, listener=heard).values) == ["el2n"]
    assert any("without training dynamics" in note for note in heard.notes)


def test_rows_that_were_never_seen_have_no_dynamics(tmp_path):
    config = toy_config(tmp_path, keep=0.5, static=True, warmup_epochs=0, epochs=1)
    finetune(config)
    with pytest.raises(DataError, match=r"has never seen 24 of 48 training rows.*train it with --keep 1"):
        score_data(config.data, TASK, scores=["aum"], model=tmp_path / "run")


def test_commas_and_spaces():
    assert list(ScoreConfig(scores=" el2n,, vog ").calls()) == ["el2n", "vog"]
    assert list(ScoreConfig().calls()) == ["el2n"]


# ---- queries, and columns of the data


def test_queries_are_read_and_compared_with_every_row(home, tmp_path):
    """By texts alone, whatever the model at hand; the file says what they were compared with."""
    rows = [{"text": f"play song {number}", "kind": "ab"[number % 2]} for number in range(12)]
    write_rows(tmp_path / "wanted.jsonl", rows)
    options = {"model": None, "queries": str(tmp_path / "wanted.jsonl")}
    file = scored(home, ["dsir(smoothing=0.5)", "classifier", "rds_plus"], **options | {"model": home / "run"})
    assert sorted(file.values["rds_plus"].tolist()) == list(range(1, N + 1))
    texts = load_data(str(home / "toy-classification"), TASK).splits["train"].texts
    expected = dsir(texts, queries=[row["text"] for row in rows], smoothing=0.5)
    assert_allclose(file.values["dsir"], expected, rtol=1e-6)
    assert file.made_with["dsir"]["queries"] == {"data": "wanted.jsonl", "rows": 12}
    assert 0.6 <= file.made_with["classifier"]["auc"] <= 1


def test_queries_are_tokenised_for_the_model_and_have_their_subtasks(home, tmp_path):
    write_rows(tmp_path / "wanted.jsonl", [{"text": f"amber {word}", "kind": word} for word in ("b", "a", "b")])
    data = load_data(str(home / "toy-classification"), TASK)
    config = ScoreConfig(data=str(home / "toy-classification"), task=TASK, model=home / "run", scores="rds_plus",
                         queries=str(tmp_path), query_groups="kind")  # fmt: skip
    wanted = job.read_queries(config, job._settings(config, Path("run")))
    found = job._material(config, home / "run", data, task_for(data), wanted, Heard(), Ledger())[1].queries
    assert found.texts == ["amber b", "amber a", "amber b"]
    assert (found.groups.tolist(), list(found.subtasks)) == ([1, 0, 1], ["a", "b"])
    tokens = [list(row["input_ids"]) for row in found.features_for("encoder")]
    assert tokens == [load_tokenizer(str(home / "run" / "model"))(text)["input_ids"] for text in found.texts]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "--queries: .* there are no examples in it"),
        ([{"letters": "play"}], {}, "--queries: .*text"),
        ([{"text": "play", "kind": "a"}, {"text": "stop"}], {"query_groups": "kind"}, "got none in 1 of 2 rows: 1"),
        ([{"text": "play"}], {"query_groups": "kind"}, "--queries: .*unknown --query-groups 'kind'"),
        (None, {}, "--queries: no file or folder"),
    ],
)
def test_queries_that_cannot_be_read(home, tmp_path, rows, options, message):
    path = tmp_path / "wanted.jsonl"
    if rows is not None:
        write_rows(path, rows)
    with pytest.raises(DataError, match=message):
        scored(home, "dsir", model=None, queries=str(path), **options)
    with pytest.raises(ArgumentError, match="the score dsir needs examples of what is wanted: --queries"):
        scored(home, "dsir", model=None)


def test_a_score_may_be_a_column_of_the_data(tmp_path):
    data = write_toy_folder(tmp_path, TASK, 24)
    places = iter(range(24))
    rewrite(data, "train", lambda row: row | {"impact": next(places) / 2})
    assert score_data(data, TASK, scores="metadata(column=impact)").values["metadata"].tolist() == [
        place / 2 for place in range(24)
    ]
    with pytest.raises(ArgumentError, match="the score metadata needs the option column"):
        score_data(data, TASK, scores="metadata")
    with pytest.raises(DataError, match=r"unknown column 'impakt'; did you mean 'impact'"):
        score_data(data, TASK, scores="metadata(column=impakt)")
