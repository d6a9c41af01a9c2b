"""Language models through everything: training by each rule, resuming, predicting, scoring, pages, refusals."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional
from typer.testing import CliRunner

from datadiet.cli import app
from datadiet.compare.statistics import right, row_sums
from datadiet.config import FinetuneConfig, read_config
from datadiet.data.load import load_configured
from datadiet.errors import ArgumentError, DataError, UserError
from datadiet.jobs.finetune import finetune, resume_run
from datadiet.jobs.predict import PredictConfig, predict
from datadiet.jobs.preview import dry_run
from datadiet.jobs.score import score_data
from datadiet.jobs.validate import check_config
from datadiet.reporting import report
from datadiet.reporting.rows import training_texts
from datadiet.selectors.token_rules import ExcessLoss
from datadiet.store.score_file import read_scores
from datadiet.tasks.causal_lm import CausalLMTask
from datadiet.tasks.loading import load_saved
from toys import (
    Heard,
    Killed,
    dialogue_folder,
    dialogues,
    plans_of,
    predictions_of,
    rewrite,
    scores_of,
    tiny_lm_folder,
    write_rows,
)


def lm_config(tmp_path: Path, **changes: Any) -> FinetuneConfig:
    """Batches of 8, 3 epochs, the hardest half of 48 dialogues."""
    if "data" not in changes:
        changes["data"] = str(dialogue_folder(tmp_path))
    if "model" not in changes:
        changes["model"] = str(tiny_lm_folder(tmp_path))
    usual: dict[str, Any] = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"}
    usual |= {"select": "hardest", "max_length": 64, "output": str(tmp_path / "run")}
    return FinetuneConfig(**{"task": "causal-lm", **usual, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    finetune(lm_config(folder, epochs=6))
    return folder / "run"


def result_of(run: Path) -> Any:
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def test_a_run_learns_and_records_what_it_saw(run):
    result, scores = result_of(run), scores_of(run)
    first, last = result["epochs"][0]["dev"], result["epochs"][-1]["dev"]
    assert last["nll"] < first["nll"] < math.log(261)
    assert set(result["metrics"]["test"]) == {"likelihood", "token_accuracy", "exact_match", "nll", "perplexity"}
    assert "excluded" not in result["data"]
    assert result["diet"]["combine"] == "mean"
    assert np.isfinite(scores[["el2n", "gold_probability", "margin", "loss", "correct"]]).all(axis=None)
    assert [len(rows) for rows in plans_of(run).values()] == [48, *[24] * 5]
    assert read_config(run / "config.yaml").max_length == 64


@pytest.mark.parametrize("select", ["random", "cover", "visits", "uncertain", "hardest(offset=0.1)"])
def test_every_rule_trains(select, tmp_path):
    select, offset = ("hardest", 0.1) if "offset" in select else (select, None)
    result = finetune(lm_config(tmp_path, select=select, offset=offset))
    assert [line["kept"] for line in result["epochs"]] == [48, 24, 24]
    assert all(math.isfinite(line["dev"]["nll"]) for line in result["epochs"])


def test_pruned_tokens_are_kept_for_the_page(tmp_path):
    """Prompt and answer stand whole in the parts; the share of the answers that was asked for is pruned."""
    result = finetune(lm_config(tmp_path, keep=1.0, select="cover", tokens="random_tokens(keep=0.5)"))
    table = pd.read_parquet(tmp_path / "run" / "pruned_tokens.parquet")
    train = dialogues(48)
    assert len(table) > 40
    answers = pruned = 0
    for row, pieces, flags in table.itertuples(index=False):
        before = f"<|user|>{train[row]['prompt']}<|assistant|>"
        answer = f"{train[row]['response']}<|end|>"
        assert "".join(pieces) == before + answer
        assert not flags[0]
        assert len(pieces[0]) >= len(before)
        assert not np.any(flags[1:] == flags[:-1])
        answers += len(train[row]["response"]) + 1  # letters, and the end
        gone = "".join(piece for piece, flag in zip(pieces, flags, strict=True) if flag)
        pruned += len(gone.replace("<|end|>", "."))
    assert pruned / answers == pytest.approx(0.5, abs=0.1)
    assert result["tokens"]["share"] == pytest.approx(0.67, abs=0.05)  # the first of three epochs trains whole
    assert report(tmp_path / "run").is_file()


@pytest.mark.parametrize("score", ["cross_entropy", "entropy", "margin", "confidence", "length"])
def test_every_score_of_tokens_trains(score, tmp_path):
    changes = {} if score != "length" else {"scores_from": str(tmp_path / "length.parquet")}
    if changes:
        data = str(dialogue_folder(tmp_path))
        score_data(data, "causal-lm", scores=["length"], output=tmp_path / "length.parquet")
        changes["data"] = data
    finetune(lm_config(tmp_path, score=score, **changes))
    assert len(plans_of(tmp_path / "run")[2]) == 24


def test_a_race_is_judged_by_the_loss_of_dev_rows(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "train.jsonl", dialogues(320))
    write_rows(data / "dev.jsonl", dialogues(64, 1000))
    result = finetune(lm_config(tmp_path, data=str(data), select="auto(share=0.4)", epochs=4))
    duel = result["race"]["races"][0]
    assert duel["champion"] == "cover"
    assert math.isfinite(duel["difference"])


@pytest.mark.cpu
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(run, tmp_path, monkeypatch):
    monkeypatch.setattr("datadiet.jobs.finetune.REPORT_EVERY_S", 0.0)
    config = lm_config(tmp_path, epochs=6, data=str(Path(read_config(run / "config.yaml").data)))
    with pytest.raises(Killed):
        finetune(config, listener=Heard(die_at=17))
    resumed = resume_run(tmp_path / "run")
    assert resumed["metrics"] == result_of(run)["metrics"]


def test_an_adapter_trains_and_is_merged(tmp_path):
    result = finetune(lm_config(tmp_path, lora=2, epochs=2))
    assert math.isfinite(result["metrics"]["test"]["nll"])
    assert predict(PredictConfig(text="amber 1?", model=tmp_path / "run", max_tokens=3)).lines[0]["id"] == "0"


def test_predictions_hold_what_comparisons_need(run):
    table = predictions_of(run)
    tested = table[table["split"] == "test"].reset_index(drop=True)
    metrics = result_of(run)["metrics"]["test"]
    for name in ("likelihood", "token_accuracy", "exact_match"):
        sums = row_sums(name, tested)
        assert sums is not None
        assert float(sums.figure()) == pytest.approx(100 * metrics[name])
    assert right(tested, "exact_match") is None
    assert tested["gold"].isna().all()
    assert np.allclose(tested["probability"], np.exp(-tested["nll"] / tested["tokens"]))


# ---- rows without an answer


def long_prompt(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "prompt": "w" * 70} if row["id"] in ("d3", "d40", "d1002", "d2005") else row


def test_rows_whose_answer_is_cut_away_are_excluded_by_id_everywhere(tmp_path):
    data, heard = dialogue_folder(tmp_path), Heard()
    for split in ("train", "dev", "test"):
        rewrite(data, split, long_prompt)
    result = finetune(lm_config(tmp_path, data=str(data)), listener=heard)
    notes = [note for note in heard.notes if "excluded" in note]
    assert notes == [
        "train: 2 rows were excluded: their answers were cut away, and they have no score: 'd3', 'd40'.",
        "dev: 1 row was excluded: its answer was cut away, and it has no score: 'd1002'.",
    ]
    assert "test: 1 of 16 rows are longer than 64 tokens and were cut." in heard.notes
    assert result["data"]["rows"] == {"train": 46, "dev": 15, "test": 16}
    assert result["data"]["excluded"] == {"train": ["d3", "d40"], "dev": ["d1002"]}
    scores = scores_of(tmp_path / "run")
    assert not {"d3", "d40"} & set(scores["id"])
    texts = training_texts(tmp_path / "run", result, np.arange(46))
    assert texts is not None
    given = [row for row in dialogues(48) if row["id"] not in ("d3", "d40")]
    assert texts == ([row["prompt"] for row in given], [row["response"] for row in given])
    by_row = dict(zip(scores["row"], scores["id"], strict=True))
    assert [by_row[row] for row in range(46)] == [row["id"] for row in given]
    tested = predictions_of(tmp_path / "run")
    assert tested.loc[tested["id"] == "d2005", "tokens"].tolist() == [0]


def test_data_whose_answers_are_all_cut_away_are_refused(tmp_path):
    with pytest.raises(DataError, match="train: every answer is cut away at 5 tokens; give more by --max-length"):
        finetune(lm_config(tmp_path, max_length=5))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_row_that_is_longer_than_the_model_is_refused_before_the_training(split, tmp_path):
    data = dialogue_folder(tmp_path)
    number = {"train": 3, "test": 2003}[split]
    rewrite(data, split, lambda row: {**row, "prompt": "w" * 1100} if row["id"] == f"d{number}" else row)
    config = lm_config(tmp_path, data=str(data), max_length=4096)
    with pytest.raises(DataError, match=rf"{split}: row 4, id 'd{number}': its 1,1\d\d tokens are more than the"):
        finetune(config)
    with pytest.raises(DataError, match="are more than the 1,024 of the model"):
        dry_run(config)
    assert not (tmp_path / "run").exists()


# ---- predicting


def test_answers_are_predicted_and_judged(run, tmp_path):
    data = read_config(run / "config.yaml").data
    predicted = predict(PredictConfig(data=data, model=run, precision="fp32", max_tokens=8))
    tested = result_of(run)["metrics"]["test"]
    assert predicted.metrics == pytest.approx(tested)  # generated here, read off the next tokens there
    first = predicted.lines[0]
    assert first.keys() == {"id", "text", "predicted"}
    assert (first["id"], first["text"]) == ("d2000", "amber 2000?")
    write_rows(tmp_path / "new.jsonl", [{"prompt": "amber 2000?"}, {"prompt": "denim 5?"}])
    new = predict(PredictConfig(data=str(tmp_path / "new.jsonl"), model=run, precision="fp32", max_tokens=8))
    assert new.metrics is None
    assert new.lines[0]["predicted"] == first["predicted"]
    one = predict(PredictConfig(text="amber 2000?", model=run, precision="fp32", max_tokens=8))
    assert one.lines[0]["predicted"] == first["predicted"]
    short = predict(PredictConfig(text="amber 2000?", model=run, precision="fp32", max_tokens=2))
    assert first["predicted"].startswith(short.lines[0]["predicted"])


def test_predict_on_the_command_line(run, tmp_path):
    write_rows(tmp_path / "new.jsonl", [{"prompt": "amber 1?", "response": "amber"}])
    arguments = ["predict", str(tmp_path / "new.jsonl"), "--model", str(run), "--max-tokens", "4", "--json"]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["predictions"][0]["text"] == "amber 1?"
    assert set(json.loads(answer.stdout)["metrics"]) >= {"nll", "perplexity"}


def test_long_prompts_keep_their_end_and_are_told(run, tmp_path):
    heard = Heard()
    write_rows(tmp_path / "new.jsonl", [{"prompt": "w" * 2000 + "amber?"}, {"prompt": "amber?"}])
    config = PredictConfig(data=str(tmp_path / "new.jsonl"), model=run, precision="fp32", max_tokens=4)
    assert len(predict(config, heard).lines) == 2
    assert any(note.startswith("1 prompts fill the 64 tokens") for note in heard.notes)


def test_no_more_tokens_than_the_model_has_positions(run):
    with pytest.raises(ArgumentError, match="--max-tokens must leave room for a prompt in the 1,024 positions"):
        predict(PredictConfig(text="x", model=run, max_tokens=1024))


def test_plain_text_is_continued(tmp_path):
    data = tmp_path / "plain"
    data.mkdir()
    for place, (split, rows) in enumerate((("train", 32), ("dev", 8))):
        write_rows(data / f"{split}.jsonl", [{"text": f"{place}{n} to be or not to be"} for n in range(rows)])
    result = finetune(lm_config(tmp_path, data=str(data), epochs=6))
    assert "exact_match" not in result["metrics"]["dev"]
    write_rows(tmp_path / "new.jsonl", [{"text": "05 to be or n"}])
    predicted = predict(PredictConfig(data=str(tmp_path / "new.jsonl"), model=tmp_path / "run", max_tokens=4))
    assert predicted.metrics is not None
    assert isinstance(predicted.lines[0]["predicted"], str)


# ---- scoring, selecting, pages


def test_scores_of_tokens_and_a_selection_by_them(run, tmp_path):
    data = read_config(run / "config.yaml").data
    names = ["el2n", "cross_entropy", "entropy", "margin", "length", "aum", "confidence"]
    file = score_data(data, "causal-lm", model=run, scores=names, output=tmp_path / "scores.parquet")
    assert all(np.isfinite(file.values[name]).all() for name in names)
    assert file.labels is None
    arguments = [
        "select",
        str(tmp_path / "scores.parquet"),
        "--data",
        data,
        "--score",
        "cross_entropy",
        "--keep",
        "0.25",
    ]
    answer = CliRunner().invoke(app, [*arguments, "--select", "hardest", "--output", str(tmp_path / "kept.jsonl")])
    assert answer.exit_code == 0, answer.output
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert len(kept) == 12
    assert all(row in dialogues(48) for row in kept)


def score_of(data: Path | str, **options: Any) -> Any:
    return score_data(data, "causal-lm", **{"max_length": 64, "precision": "fp32", "batch_size": 8, **options})


def test_scores_of_answers_by_a_run_its_checkpoints_and_a_teacher(tmp_path):
    """Rows whose answer was cut away have no value: named in a note, null in the file, left out by select."""
    data, heard = dialogue_folder(tmp_path), Heard()
    finetune(lm_config(tmp_path, data=str(data), keep=1.0, epochs=2, keep_checkpoints=True))
    rewrite(data, "train", long_prompt)
    names = ["perplexity", "ifd", "capability_gap", "predictive_strength(rank=tau)", "length"]
    options = {"model": tmp_path / "run", "teacher": tmp_path / "run", "output": tmp_path / "s.parquet"}
    score_of(data, scores=names, listener=heard, **options)
    file = read_scores(tmp_path / "s.parquet")
    gone = {"d3", "d40"}
    for name in file.values:
        lacking = {file.ids[row] for row in np.flatnonzero(file.lacks(name)).tolist()}
        assert lacking == (set() if name == "length" else gone)
        assert np.isnan(file.values[name]).sum() == len(lacking)
    assert [note for note in heard.notes if "no value" in note] == [
        "2 of 48 rows have no value of perplexity, ifd, capability_gap, predictive_strength, and select leaves them "
        "out: 'd3', 'd40'. The answer was cut away at --max-length, has nothing that the score compares, or "
        "lies beyond an option such as most."
    ]
    known = ~file.lacks("ifd")
    assert np.abs(file.values["capability_gap"][known]).max() < 1e-6  # of a model and itself
    assert file.made_with["predictive_strength"]["ordered_by"] == "dev metric"
    assert file.made_with["predictive_strength"]["checkpoints"] == 2
    for select in ("hardest", "paser(clusters=3)", "easiest"):
        arguments = ["select", str(tmp_path / "s.parquet"), "--data", str(data), "--score", "perplexity", "--json"]
        output = str(tmp_path / f"{select[:4]}.jsonl")
        answer = CliRunner().invoke(app, [*arguments, "--select", select, "--keep", "0.5", "--output", output])
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.stdout)["reasons"] == {"chosen": 24, "missing": 2, "rest": 22}
        kept = {json.loads(line)["id"] for line in Path(output).read_text().splitlines()}
        assert len(kept) == 24
        assert not kept & gone
    score_of(data, scores=["ifd", "perplexity"], model=tmp_path / "run", output=tmp_path / "s.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines if line["ifd"] is None} == gone


def test_folds_of_a_language_model_have_not_seen_the_row(tmp_path):
    """One training a fold for all scores, kept in the cache; rows without a token that trains are in no training."""
    data, base = dialogue_folder(tmp_path), tiny_lm_folder(tmp_path)
    rewrite(data, "train", long_prompt)
    options = {"folds": 2, "epochs": 6, "base_model": str(base), "learning_rate": 1e-2}
    file = score_of(data, scores=["held_out_perplexity", "irreducible_loss"], cache=str(tmp_path / "cache"), **options)
    assert [file.ids[row] for row in np.flatnonzero(file.lacks("held_out_perplexity"))] == ["d3", "d40"]
    known = ~file.lacks("irreducible_loss")
    held, nats = file.values["held_out_perplexity"][known], file.values["irreducible_loss"][known]
    assert np.allclose(held, nats / math.log(2), rtol=1e-5)  # one byte a token, the end included
    assert held.max() < math.log2(261)
    again = score_of(data, scores=["held_out_perplexity(unit=tokens)"], cache=str(tmp_path / "cache"), **options)
    assert np.allclose(again.values["held_out_perplexity"][known], held, rtol=1e-5)
    assert again.cost["shared_s"] > 0  # no fold was trained again
    model = lm_config(tmp_path, data=str(data), keep=1.0, epochs=6)
    finetune(model)
    seen = score_of(data, scores=["perplexity"], model=tmp_path / "run").values["perplexity"][known]
    assert seen.mean() < held.mean()  # a model of its own rows finds them easier


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"scores": ["capability_gap"]}, "the score capability_gap needs another trained model of the same classes"),
        ({"scores": ["held_out_perplexity"]}, "the score held_out_perplexity needs a model trained on other data"),
        ({"scores": ["ifd(ratio=ppl)"]}, "unknown ratio of ifd 'ppl'"),
        ({"scores": ["ifd(most=0)"]}, "most of ifd must be above 0 and finite, got 0"),
        ({"scores": ["perplexity(unit=words)"]}, "unknown unit of perplexity 'words'"),
        ({"scores": ["predictive_strength"]}, "the score predictive_strength needs the checkpoints of a run"),
        ({"scores": ["capability_gap"], "teacher": "OTHER"}, "--teacher must have the tokens of the model, got "),
        ({"scores": ["ifd(most=0.0001)"]}, "no row has a value of ifd: "),
    ],
)
def test_what_a_score_of_answers_lacks_is_said_in_one_sentence(options, problem, run, tmp_path):
    if "teacher" in options:
        finetune(lm_config(tmp_path, keep=1.0, epochs=1))
        for file in (tmp_path / "run" / "model").glob("tokenizer*.json"):
            file.write_text(file.read_text(encoding="utf-8").replace("<|system|>", "<|other|>"), encoding="utf-8")
        options = {**options, "teacher": tmp_path / "run"}
    with pytest.raises(UserError) as caught:
        score_of(read_config(run / "config.yaml").data, model=run, **options)
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


def test_scores_of_answers_are_for_language_models_alone():
    with pytest.raises(ArgumentError, match="the score ifd is for language models"):
        score_data("snips", "intent-slot", scores=["ifd"], epochs=1, train_rows=10)


def test_plain_texts_have_a_perplexity_and_no_ifd(run, tmp_path):
    write_rows(tmp_path / "train.jsonl", [{"text": f"{n} to be or not to be"} for n in range(12)])
    file = score_of(tmp_path / "train.jsonl", scores=["perplexity"], model=run, output=None)
    assert np.isfinite(file.values["perplexity"]).all()
    with pytest.raises(ArgumentError, match="ifd needs prompts with answers"):
        score_of(tmp_path / "train.jsonl", scores=["ifd"], model=run)


def test_the_page_shows_prompts_and_answers_escaped(tmp_path):
    data = dialogue_folder(tmp_path)
    hostile = "<script>document.title='owned'</script>"
    rewrite(data, "train", lambda row: {**row, "prompt": hostile, "response": "<b>x</b>"} if row["id"] == "d1" else row)
    finetune(lm_config(tmp_path, data=str(data), max_length=128))
    page = report(tmp_path / "run").read_text(encoding="utf-8")
    assert hostile not in page
    assert "<b>x</b>" not in page
    assert "amber 4?" in page
    assert "perplexity" in page
    assert "likelihood" in page
    assert "The training texts are not shown" not in page
    assert "Worst class" not in page


# ---- what is refused before the data are read


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"floor": 2}, "floor is for examples with a class; for causal-lm they have none."),
        ({"class_weights": "balanced"}, "class_weights is for classes; a causal-lm has none."),
        ({"label_smoothing": 0.1}, "label_smoothing is for classes; a causal-lm has none."),
        ({"select": "balanced"}, "the selector balanced is for examples with a class; for causal-lm they have none."),
        (
            {"offset": "auto"},
            "(intent-slot and classification), not for causal-lm. Leave out the hardest tenth with offset 0.1, or what "
            "is hard and uncertain with select quadrants.",
        ),
        ({"select": "divbs"}, "divbs cannot be read off the next tokens of a language model"),
        ({"score": "absolute_error"}, "the score absolute_error cannot be read off the next tokens"),
        ({"alpha": 0.3}, "alpha is for joint tasks (intent-slot), not for causal-lm."),
    ],
)
def test_what_needs_classes_is_refused_in_one_sentence(changes, sentence, tmp_path):
    with pytest.raises(ArgumentError) as caught:
        check_config(lm_config(tmp_path, **changes))
    assert [problem for problem in caught.value.problems if sentence in problem], caught.value.problems
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("name", ["grand", "vog", "negative_pvi", "tracin_self_influence"])
def test_scores_that_need_logits_or_gradients_are_refused(name, run):
    with pytest.raises(ArgumentError, match=f"the score {name} cannot be read off the next tokens of a language model"):
        score_data(read_config(run / "config.yaml").data, "causal-lm", model=run, scores=[name])


def test_influence_and_effort_of_answers(run, tmp_path):
    data = read_config(run / "config.yaml").data
    file = score_data(data, "causal-lm", model=run, scores=["influence", "effort", "dealrec"], teacher=run)
    assert np.isfinite(np.stack(list(file.values.values()))).all()
    assert (file.values["effort"] > 0).all()
    assert file.made_with["influence"]["solver"] == "cg"
    with pytest.raises(DataError, match=r"48 rows have no token of an answer that trains, .*: d0, d1, .*--max-length"):
        score_data(data, "causal-lm", model=run, scores=["effort"], max_length=6)


def test_less_over_the_adapters_of_a_run(run, tmp_path):
    """The base of the adapters is a model that was saved; one without weights cannot be found again."""
    data, model = str(dialogue_folder(tmp_path)), str(run / "model")
    finetune(lm_config(tmp_path, data=data, model=model, lora=2, keep=1.0, select="cover", keep_checkpoints=True))
    asked = [row | {"kind": row["prompt"].split()[0]} for row in dialogues(8, 500)]
    write_rows(tmp_path / "queries.jsonl", asked)
    options = {"queries": str(tmp_path / "queries.jsonl"), "query_groups": "kind", "model": tmp_path / "run"}
    file = score_data(data, "causal-lm", scores=["less(dimensions=128)"], **options)
    made = file.made_with["less"]
    assert (made["direction"], made["subtasks"], made["dimensions"]) == ("adam", 4, 128)
    assert made["gradients_of"].startswith("lora (")
    assert np.isfinite(file.values["less"]).all()
    bare = tmp_path / "bare"
    finetune(lm_config(tmp_path, data=data, output=str(bare), lora=2, keep=1.0, select="cover", keep_checkpoints=True))
    with pytest.raises(DataError, match=r"the adapter in .* belongs to .*, which has no weights of its own"):
        score_data(data, "causal-lm", scores=["less"], **{**options, "model": bare})


def test_an_encoder_is_refused_with_exit_code_2(tmp_path):
    data = str(dialogue_folder(tmp_path, 96))
    arguments = ["finetune", data, "--task", "causal-lm", "--output", str(tmp_path / "run")]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 2
    assert "is no causal language model" in answer.stderr


def test_comparisons_count_nothing_twice():
    table = pd.DataFrame({"tokens": [2, 3], "right": [2, 1], "nll": [0.5, 3.0], "exact": [True, None]})
    assert float(row_sums("exact_match", table).figure()) == 100.0  # type: ignore[union-attr]
    assert float(row_sums("token_accuracy", table).figure()) == 60.0  # type: ignore[union-attr]


@pytest.mark.cpu
def test_accumulated_batches_give_the_step_of_one_large_batch(tmp_path):
    """The loss is a mean over the tokens of the step: short and long answers of two batches weigh by their tokens."""
    data, results = dialogue_folder(tmp_path), []
    rewrite(data, "train", lambda row: {**row, "response": row["response"] * (1 + 5 * (int(row["id"][1:]) % 3 == 0))})
    for size, parts in ((8, 1), (4, 2)):
        config = lm_config(tmp_path, data=str(data), keep=1.0, batch_size=size, gradient_accumulation=parts, epochs=2)
        results.append(finetune(replace(config, output=str(tmp_path / f"run-{parts}"))))
    one, two = ([line["train_loss"] for line in result["epochs"]] for result in results)
    assert two == pytest.approx(one, rel=1e-5)
    nlls = [result["metrics"]["test"]["nll"] for result in results]
    assert nlls[0] == pytest.approx(nlls[1], rel=1e-4)


# ---- a reference for the token rule `excess`


KEPT = ExcessLoss.kept
EXCESS = {"keep": 1.0, "select": "cover", "tokens": "excess(keep=0.5)"}


@pytest.mark.proves("excess", kind="tokens", by="brute")
def test_excess_trains_the_tokens_that_the_reference_finds_easier(run, tmp_path):
    """The choice of the last epoch, by hand: from passes of the reference, and the losses that training recorded."""
    data, seen = read_config(run / "config.yaml").data, []
    config = lm_config(tmp_path, data=data, reference=str(run), cache=str(tmp_path / "cache"), **EXCESS)

    def spy(self: Any, tokens: Any, **given: Any) -> Any:
        seen.append(tokens)
        return KEPT(self, tokens, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datadiet.selectors.token_rules.ExcessLoss.kept", spy)
        first = finetune(config)
    model, tokens = load_saved(run / "model"), seen[-1]
    rows = CausalLMTask().features(
        load_configured(config).splits["train"], CausalLMTask().load_tokenizer(str(run / "model")), max_length=64
    )
    ends = np.cumsum(tokens.counts)[:-1]
    for row, found in enumerate(np.split(tokens.reference, ends)):
        ids, labels = (torch.tensor(rows[row][name]) for name in ("input_ids", "labels"))
        with torch.no_grad():
            losses = functional.cross_entropy(model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none")
        np.testing.assert_allclose(found, losses[labels[1:] != -100].numpy(), rtol=2e-3, atol=2e-3)
    assert first["tokens"]["trained"] == tokens.counts.sum() + 2 * np.ceil(tokens.counts / 2).sum()
    assert first["reference"] == {"model": run.name}
    again = finetune(replace(config, output=str(tmp_path / "again")))  # the same losses, from the cache, and their cost
    assert "reference" in again["environment"]["from_cache"]
    for result in (first, again):
        assert result["cost"]["score_s"] > 0
        assert result["cost"]["examples_forward"] == 48 * (3 + 1)
    assert again["metrics"] == first["metrics"]


@pytest.mark.cpu
def test_a_killed_run_goes_on_with_its_reference(run, tmp_path, monkeypatch):
    monkeypatch.setattr("datadiet.jobs.finetune.REPORT_EVERY_S", 0.0)
    config = lm_config(tmp_path, data=read_config(run / "config.yaml").data, reference=str(run / "model"), **EXCESS)
    whole = finetune(replace(config, output=str(tmp_path / "whole")))
    with pytest.raises(Killed):
        finetune(config, listener=Heard(die_at=15))
    assert resume_run(tmp_path / "run")["metrics"] == whole["metrics"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"reference": None},
            "a reference model: name one with the same tokenizer by --reference MODEL.",
        ),
        ({"tokens": "random_tokens"}, "reference has no effect without a token rule that compares with it"),
        ({"tokens": None}, "reference has no effect without a token rule that compares with it"),
        ({"reference": " "}, "reference must be a model's name, its folder or a run folder, got an empty text."),
        ({"reference": "./nowhere"}, "its folder or a run folder: the model folder ./nowhere does not exist."),
        ({"reference": "MODEL"}, "which holds a config and no weights."),
        ({"model": "RUN", "reference": "RUN"}, "reference must be another model than the one that trains"),
    ],
)
def test_references_that_cannot_be_used_are_refused_before_the_data_are_read(changes, sentence, run, tmp_path):
    named = {"RUN": str(run / "model"), "MODEL": str(tiny_lm_folder(tmp_path))}
    changes = {"reference": str(run), **EXCESS, **changes}
    changes = {name: named.get(str(value), value) for name, value in changes.items()}
    with pytest.raises(ArgumentError) as caught:
        check_config(lm_config(tmp_path, **changes))
    assert len(caught.value.problems) == 1
    assert sentence in caught.value.problems[0]


def test_a_reference_with_other_tokens_is_refused_in_one_sentence(run, tmp_path):
    shutil.copytree(run / "model", tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"  # as many tokens, two of them the other way round
    content = json.loads(file.read_text(encoding="utf-8"))
    words = content["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    file.write_text(json.dumps(content), encoding="utf-8")
    data = read_config(run / "config.yaml").data
    arguments = ["finetune", data, "--task", "causal-lm", "--output", str(tmp_path / "run"), "--keep", "1"]
    arguments += ["--model", str(run / "model"), "--tokens", "excess", "--reference", str(tmp_path / "other")]
    answer = CliRunner().invoke(app, [*arguments, "--max-length", "64"])
    assert answer.exit_code == 2
    told = " ".join(answer.stderr.split())
    assert "reference must have the vocabulary of the model" in told
    assert "'a' is not the same in both" in told
    assert not (tmp_path / "run").exists()


def test_a_reference_without_room_for_the_rows_is_refused(run, tmp_path):
    short = tiny_lm_folder(tmp_path, max_position_embeddings=16)
    small = lm_config(tmp_path, epochs=1, keep=1.0, model=str(short), max_length=16)
    finetune(replace(small, output=str(tmp_path / "small")))
    config = replace(small, model=str(run / "model"), reference=str(tmp_path / "small"), max_length=64)
    config = replace(config, epochs=2, **EXCESS)
    with pytest.raises(ArgumentError, match=r"must have room for rows of \d+ tokens, got .* with 16 positions"):
        finetune(config)
