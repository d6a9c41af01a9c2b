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
from typer.testing import CliRunner, Result

from datadiet.cli import app
from datadiet.cli.score import correlations, quantiles, request_from
from datadiet.data.load import load_data
from datadiet.errors import ArgumentError, DataError
from datadiet.jobs.finetune import finetune
from datadiet.jobs.score import score_data
from datadiet.ledger import Ledger
from datadiet.registry import has, names
from datadiet.scoring.forward import forward_pass
from datadiet.store.dynamics import dynamics
from datadiet.store.run_folder import read_result
from datadiet.store.score_file import ScoreFile, read_scores
from datadiet.tasks import task_for
from datadiet.tasks.loading import load_saved, load_tokenizer
from toys import TOYS, Heard, rewrite, tiny_classifier, tiny_model_folder, tiny_tokenizer, toy_config, write_toy_folder

N = 48
TASK = "classification"
LOGITS = ["el2n", "cross_entropy", "margin", "entropy"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run`: trained on everything, with its checkpoints; `holdout`: on other rows; `toy-classification`: the data."""
    root = tmp_path_factory.mktemp("home")
    config = toy_config(root, n=N, keep=1.0, keep_checkpoints=True, epochs=3, output=str(root / "run"))
    finetune(config)
    other = root / "other"
    other.mkdir()
    data = write_toy_folder(other, TASK, N, seed=7)
    finetune(replace(config, data=str(data), output=str(root / "holdout"), keep_checkpoints=False, seed=1))
    return root


def scored(home: Path, scores: list[str] | None, **options: Any) -> ScoreFile:
    given = {"model": home / "run", "precision": "fp32"} | options
    return score_data(home / "toy-classification", TASK, scores=scores, **given)


def logits_of(folder: Path, home: Path) -> torch.Tensor:
    """Row by row, one at a time."""
    data = load_data(str(home / "toy-classification"), TASK)
    task, tokenizer, model = task_for(data), load_tokenizer(str(folder)), load_saved(folder)
    features = task.features(data.splits["train"], tokenizer, max_length=128)
    found = torch.empty(N, 2)
    for rows, outputs, _ in forward_pass(model, features, task.collator(tokenizer), batch_tokens=1):
        found[torch.from_numpy(rows)] = outputs["logits"]
    return found


def labels_of(home: Path) -> torch.Tensor:
    data = load_data(str(home / "toy-classification"), TASK)
    return torch.tensor([data.label_names.index(str(label)) for label in data.splits["train"].labels or ()])


# ---- values, and passes that are shared ----


def test_many_scores_of_logits_are_one_forward_pass(home: Path) -> None:
    ledger = Ledger()
    found = scored(home, LOGITS, probabilities=True, ledger=ledger)
    assert ledger.examples_forward == N
    assert set(found.made_with["margin"]["seconds_shared_with"]) == {"el2n", "cross_entropy", "entropy"}


def test_the_teacher_and_the_holdout_model_are_one_more_pass_each(home: Path) -> None:
    ledger = Ledger()
    names = [*LOGITS, "teacher_el2n", "teacher_divergence", "reducible_loss", "irreducible_loss"]
    scored(home, names, teacher=home / "holdout", holdout=home / "holdout", ledger=ledger)
    assert ledger.examples_forward == 3 * N


def test_rows_that_a_model_cannot_tell_apart_are_passed_once(home: Path, tmp_path: Path) -> None:
    """The same tokens and label; another label, or other letters, is another row."""
    data = write_toy_folder(tmp_path, TASK, N)
    lines = (data / "train.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    other = next(json.loads(line) for line in lines if json.loads(line)["label"] != first["label"])
    copies = [first | {"id": f"copy-{number}"} for number in range(5)]
    copies += [first | {"id": "other", "label": other["label"]}]
    (data / "train.jsonl").write_text("\n".join([*lines, *map(json.dumps, copies)]) + "\n")
    ledger = Ledger()
    options = {"model": home / "run", "precision": "fp32", "probabilities": True}
    found = score_data(data, TASK, scores=["el2n", "teacher_el2n"], teacher=home / "holdout", ledger=ledger, **options)
    assert ledger.examples_forward == 2 * (N + 1)
    values = dict(zip(found.ids, found.values["el2n"].tolist(), strict=True))
    assert {values[f"copy-{number}"] for number in range(5)} == {values[first["id"]]} != {values["other"]}
    assert_allclose(found.probabilities[-1], found.probabilities[0], atol=1e-6)
    alone = score_data(home / "toy-classification", TASK, scores=["el2n"], model=home / "run", precision="fp32")
    assert_allclose(found.values["el2n"][:N], alone.values["el2n"], atol=1e-5)
    ledger = Ledger()
    score_data(data, TASK, scores=["neighbour_distance"], model=home / "run", precision="fp32", ledger=ledger)
    assert ledger.examples_forward == N + 1


def test_values_are_those_of_the_formulas(home: Path) -> None:
    names = ["el2n", "reducible_loss", "irreducible_loss", "teacher_el2n"]
    found = scored(home, names, teacher=home / "holdout", holdout=home / "holdout", probabilities=True)
    ours, theirs = logits_of(home / "run" / "model", home), logits_of(home / "holdout" / "model", home)
    labels = labels_of(home)
    wanted = (ours.softmax(-1) - torch.nn.functional.one_hot(labels, 2)).norm(dim=-1)
    assert_allclose(found.values["el2n"], wanted, atol=1e-5)
    losses = [torch.nn.functional.cross_entropy(logits, labels, reduction="none") for logits in (ours, theirs)]
    assert_allclose(found.values["irreducible_loss"], losses[1], atol=1e-4)
    assert_allclose(found.values["reducible_loss"], losses[0] - losses[1], atol=1e-4)
    assert_allclose(found.values["teacher_el2n"], (ours.softmax(-1) - theirs.softmax(-1)).norm(dim=-1), atol=1e-5)
    assert_allclose(found.probabilities, ours.softmax(-1), atol=1e-5)


def test_a_teacher_reads_with_its_own_tokenizer(home: Path, tmp_path: Path) -> None:
    """One with the same weights and another order of the vocabulary would see other words."""
    folder = tmp_path / "teacher"
    model: Any = load_saved(home / "run" / "model")
    size = model.config.vocab_size
    order = torch.arange(size)
    order[5:] = order[5:].flip(0)
    words = model.get_input_embeddings().weight
    with torch.no_grad():
        words.copy_(words[order].clone())
    model.save_pretrained(folder)
    vocab = {piece: int(order[number]) for piece, number in tiny_tokenizer().get_vocab().items()}
    type(tiny_tokenizer())(vocab=vocab, model_max_length=64).save_pretrained(folder)
    found = scored(home, ["teacher_el2n"], teacher=folder)
    assert_allclose(found.values["teacher_el2n"], np.zeros(N), atol=1e-5)


def test_dynamics_are_those_of_the_run(home: Path) -> None:
    found = scored(home, ["aum", "forgetting", "confidence"])
    table = dynamics(home / "run").dynamics
    assert_allclose(found.values["aum"], -table.aum, atol=1e-5)
    assert_allclose(found.values["confidence"], 1 - table.confidence, atol=1e-5)
    assert found.made_with["aum"]["rounds"] == 3
    assert found.made_with["aum"]["model"] == "run"


def test_a_run_gives_its_dynamics_by_default(home: Path) -> None:
    assert list(scored(home, None).values) == ["el2n", *names("score", need="history")]


def test_checkpoints_texts_and_embeddings(home: Path) -> None:
    names = ["vog", "self_influence", "tracin", "grand", "scdp", "length", "prototypes", "moderate"]
    found = scored(home, names)
    assert list(found.values) == names
    assert all(np.isfinite(values).all() and len(values) == N for values in found.values.values())
    assert found.made_with["vog"]["checkpoints"] == 3
    assert "model" not in found.made_with["scdp"]


def test_texts_need_no_model(home: Path) -> None:
    found = scored(home, ["length"], model=None)
    texts = load_data(str(home / "toy-classification"), TASK).splits["train"].texts
    assert np.corrcoef(found.values["length"], [len(text.split()) for text in texts])[0, 1] > 0.9


def test_an_encoder_needs_no_head(home: Path) -> None:
    encoder = next(home.glob("tiny-*"))
    found = scored(home, ["moderate", "neighbour_distance"], model=None, encoder=str(encoder))
    assert found.made_with["moderate"] | {"seconds": 0} == {
        "encoder": encoder.name, "seconds": 0, "seconds_shared_with": ["neighbour_distance"],
    }  # fmt: skip
    own = scored(home, ["neighbour_distance"])
    assert not np.allclose(own.values["neighbour_distance"], found.values["neighbour_distance"])


@pytest.mark.proves("el2n", "aum", kind="score", by="planted")
def test_mislabelled_rows_are_hard(home: Path, tmp_path: Path) -> None:
    """What the file is for: wrong labels stand at the top of el2n and of the dynamics."""
    data = write_toy_folder(tmp_path, TASK, 96)
    flipped = {f"c-0-{row}" for row in range(6)}
    other = {"amber": "birch", "birch": "amber"}
    rewrite(data, "train", lambda row: row | ({"label": other[row["label"]]} if row["id"] in flipped else {}))
    model = str(tiny_model_folder(tmp_path))
    options = {"learning_rate": 5e-3, "batch_size": 8, "precision": "fp32"}
    found = score_data(data, TASK, scores=["el2n", "aum"], epochs=4, base_model=model, **options)
    for values in found.values.values():
        hardest = {found.ids[row] for row in np.argsort(-values)[:12].tolist()}
        assert len(hardest & flipped) >= 5


# ---- training first ----


def test_epochs_train_first_and_leave_nothing(home: Path, tmp_path: Path) -> None:
    output, model = tmp_path / "out" / "scores.parquet", str(next(home.glob("tiny-*")))
    heard = Heard()
    file = scored(
        home,
        ["el2n", "aum", "vog"],
        model=None,
        epochs=2,
        base_model=model,
        output=output,
        listener=heard,
        batch_size=8,
    )
    assert [path.name for path in output.parent.iterdir()] == ["scores.parquet"]
    assert file.made_with["vog"]["checkpoints"] == file.made_with["aum"]["rounds"] == 2
    assert file.made_with["el2n"]["base_model"] == file.made_with["el2n"]["model"] == Path(model).name
    assert "training" in heard.phases
    assert read_scores(output).fingerprint == file.fingerprint


def test_a_run_that_is_named_is_kept(home: Path, tmp_path: Path) -> None:
    options = {"base_model": str(next(home.glob("tiny-*"))), "batch_size": 8}
    file = scored(home, ["el2n"], model=None, epochs=1, run=tmp_path / "kept", **options)
    assert read_result(tmp_path / "kept")["diet"]["keep"] == 1.0
    assert file.made_with["el2n"]["model"] == "kept"
    again = scored(home, ["el2n"], model=tmp_path / "kept")
    assert_allclose(again.values["el2n"], file.values["el2n"], atol=1e-6)


def test_a_training_that_fails_leaves_nothing(home: Path, tmp_path: Path) -> None:
    class Stop(Heard):
        def phase(self, text: str) -> None:
            if text == "testing":
                raise RuntimeError("stopped")

    options = {"base_model": str(next(home.glob("tiny-*"))), "batch_size": 8, "listener": Stop()}
    with pytest.raises(RuntimeError, match="stopped"):
        scored(home, ["el2n"], model=None, epochs=1, output=tmp_path / "scores.parquet", **options)
    assert not list(tmp_path.iterdir())


# ---- what follows ----


def test_finetune_begins_from_the_file(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.parquet"
    found = scored(home, ["vog", "el2n", "irreducible_loss"], holdout=home / "holdout", output=file)
    usual = {"data": str(home / "toy-classification"), "scores_from": str(file), "epochs": 2, "keep": 0.5}
    for score in ("vog", "el2n"):
        run = tmp_path / score
        finetune(toy_config(tmp_path, output=str(run), score=score, warmup_epochs=0, refresh_every=2, **usual))
        plans = pd.concat(pd.read_parquet(part) for part in sorted((run / "plans").glob("*.parquet")))
        first = set(plans[plans["epoch"] == 0]["row"])
        assert first == set(np.argsort(-found.values[score], kind="stable")[: N // 2].tolist())
    result = finetune(toy_config(tmp_path, output=str(tmp_path / "rho"), select="top_reducible", **usual))
    assert result["diet"]["select"] == "top_reducible"


def test_finetune_refuses_what_a_file_cannot_start(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.parquet"
    scored(home, ["el2n", "aum"], output=file)
    config = toy_config(tmp_path, scores_from=str(file), warmup_epochs=0)
    with pytest.raises(ArgumentError, match="unknown score 'vog'"):
        finetune(replace(config, score="vog"))
    with pytest.raises(ArgumentError, match="'aum' is made anew while training"):
        finetune(replace(config, score="aum"))
    with pytest.raises(DataError, match="the scores are of other data"):
        finetune(replace(config, data=str(write_toy_folder(tmp_path, TASK, N, seed=3))))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_select_reads_it(home: Path, tmp_path: Path) -> None:
    """Also how the split was read: half of it, by ids of another column."""
    file, kept = tmp_path / "scores.parquet", tmp_path / "kept.jsonl"
    data = home / "toy-classification"
    flags = ("--task", TASK, "--model", home / "run", "--train-rows", 24, "--text-column", "text")
    done = call("score", data, *flags, "--scores", "el2n,scdp", "--output", file, "--json")
    assert done.exit_code == 0, done.output
    assert read_scores(file).read_with == {"train_rows": 24, "columns": {"text": "text"}}
    done = call("select", file, "--data", data, "--score", "el2n", "--keep", 0.5, "--output", kept)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    found = read_scores(file)
    wanted = {found.ids[row] for row in np.argsort(-found.values["el2n"], kind="stable")[:12].tolist()}
    assert {line["id"] for line in lines} == wanted


def test_the_command_shows_ranges_and_correlations(home: Path, tmp_path: Path) -> None:
    arguments = ["score", home / "toy-classification", "--task", TASK, "--model", home / "run", "--output"]
    done = call(*arguments, tmp_path / "a.parquet", "--scores", "el2n,cross_entropy,length", "--probabilities")
    assert done.exit_code == 0, done.output
    for words in ("median", "90 %", "Rank correlation (Spearman)", "with the class probabilities", "datadiet select"):
        assert words in done.output
    assert call(*arguments, tmp_path / "a.parquet").exit_code == 2
    done = call(*arguments, tmp_path / "a.parquet", "--scores", "el2n", "--force", "--json")
    told = json.loads(done.stdout)
    assert told["rows"] == N
    assert told["scores"]["el2n"]["p10"] <= told["scores"]["el2n"]["median"]
    assert "/" not in json.dumps(told["scores"])


def test_text_for_people(home: Path, tmp_path: Path) -> None:
    done = call(
        "score", home / "toy-classification", "--task", TASK, "--scores", "length", "--output", tmp_path / "a.csv"
    )
    assert done.exit_code == 0, done.output
    assert "datadiet select" not in done.output
    assert len(pd.read_csv(tmp_path / "a.csv")) == N


def test_quantiles_and_correlations_of_few_values() -> None:
    assert quantiles(np.float32([1, 1, 1]))["p90"] == 1.0
    found = correlations({"a": np.float32([1, 2, 3, 4]), "b": np.float32([1, 4, 9, 16]), "c": np.float32([5, 5, 5, 5])})
    assert found["a"]["b"] == 1.0
    assert found["a"]["c"] is None


def test_ties_share_their_rank() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    one, two = (rng.integers(0, 4, 50).astype(np.float32) for _ in range(2))
    assert correlations({"a": one, "b": two})["a"]["b"] == pytest.approx(spearmanr(one, two)[0], abs=1e-4)


# ---- other tasks ----


@pytest.mark.parametrize("kind", [kind for kind in TOYS if kind not in ("classification", "pairs")])
def test_every_task(kind: str, tmp_path: Path) -> None:
    config = toy_config(tmp_path, kind, n=24, keep=1.0, epochs=2)
    finetune(config)
    file = tmp_path / "scores.parquet"
    found = score_data(config.data, config.task, model=tmp_path / "run", output=file, force=True)
    assert "el2n" in found.values
    assert ("aum" in found.values) == has(config.task, "classes")
    assert (found.labels is not None) == has(config.task, "one_class")
    assert read_scores(file).task == config.task


def test_a_regression_has_no_dynamics_of_classes(tmp_path: Path) -> None:
    data = write_toy_folder(tmp_path, "regression", 24)
    with pytest.raises(ArgumentError, match="the score aum is for classes; a regression has none"):
        score_data(data, "regression", epochs=1, scores=["aum"])


# ---- what is refused ----


def test_everything_that_is_missing_is_told_at_once(home: Path, tmp_path: Path) -> None:
    heard = Heard()
    with pytest.raises(ArgumentError) as caught:
        score_data(
            tmp_path / "nowhere", "tagging", scores=["el2n", "vog", "tracin", "teacher_el2n", "reducible_loss", "el2m"],
            run=tmp_path / "kept", output=tmp_path / "scores.txt", encoder="./none", batch_size=0, colour="red",
            listener=heard,
        )  # fmt: skip
    told = str(caught.value)
    for words in (
        "el2n needs a model that is trained: --model RUN, or --epochs E", "vog needs the checkpoints of a run",
        "--keep-checkpoints", "--teacher", "--holdout", "unknown score 'el2m'", "--run has no effect without --epochs",
        "must end in .parquet", "--encoder: the model folder ./none", "batch_size must be", "unknown option 'colour'",
        "unknown task 'tagging'", "nowhere",
    ):  # fmt: skip
        assert words in told
    assert not heard.phases
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": Path("nowhere")}, "--model must be a saved model or a run folder that holds one, got nowhere"),
        ({"epochs": 1}, "--model is trained already and --epochs trains one"),
        ({"learning_rate": 1e-3}, "--learning-rate has no effect without --epochs"),
        ({"scores": ["absolute_error"]}, "absolute_error is for regression"),
        ({"scores": []}, "--scores is empty"),
        (
            {"model": None, "epochs": 1, "scores": ["vog"], "base_model": "some/model"},
            "vog needs at least two checkpoints",
        ),
        ({"model": None, "scores": ["length"], "probabilities": True}, "--probabilities needs a model that is trained"),
        ({"epochs": 0, "model": None, "base_model": "some/model"}, "epochs must be a whole number, at least 1"),
    ],
)
def test_bad_arguments(home: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        scored(home, **{"scores": ["el2n"], **options})


def test_the_flag_of_score_options_names_its_new_form(home: Path) -> None:
    done = call(
        "score", "nowhere", "--scores", "prototypes", "--score-options", "clusters=5", "--output", home / "s.parquet"
    )
    assert done.exit_code == 2
    assert '--score-options is written with the score now: --scores "NAME(clusters=5)"' in done.stderr


def test_a_model_without_a_trained_head_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"other labels than this data.*\n.*--epochs E trains one first"):
        scored(home, ["el2n"], model=next(home.glob("tiny-*")))
    stranger: Any = tiny_classifier(2)
    stranger.config.id2label = {0: "no", 1: "yes"}
    stranger.save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match=r"the teacher in .* has other labels than this data, e\.g\. 'amber'"):
        scored(home, ["teacher_el2n"], teacher=tmp_path)


def test_a_head_that_is_missing_from_the_weights_is_refused(home: Path, tmp_path: Path) -> None:
    """The labels are those of the data, but only the encoder was saved."""
    model: Any = load_saved(home / "run" / "model")
    model.bert.save_pretrained(tmp_path)
    config = json.loads((home / "run" / "model" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DataError, match="not a fine-tuned model: it has no weights for classifier"):
        scored(home, ["el2n"], model=tmp_path)


def test_the_history_of_other_data_is_refused(home: Path, tmp_path: Path) -> None:
    data = write_toy_folder(tmp_path, TASK, N, seed=5)
    with pytest.raises(DataError, match="was trained on other data"):
        score_data(data, TASK, scores=["aum"], model=home / "run")
    heard = Heard()
    found = score_data(data, TASK, model=home / "run", listener=heard)
    assert list(found.values) == ["el2n"]
    assert any("without training dynamics" in note for note in heard.notes)


def test_rows_that_were_never_seen_have_no_dynamics(tmp_path: Path) -> None:
    config = toy_config(tmp_path, keep=0.5, static=True, warmup_epochs=0, epochs=1)
    finetune(config)
    with pytest.raises(DataError, match=r"has never seen 24 of 48 training rows.*train it with --keep 1"):
        score_data(config.data, TASK, scores=["aum"], model=tmp_path / "run")


def test_commas_and_spaces() -> None:
    assert request_from(" el2n,, vog ", {}, {"task": TASK, "seed": 3}, None).scores == ("el2n", "vog")
    assert request_from(None, {}, {}, None).scores is None
