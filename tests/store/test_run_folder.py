"""The run folder: what a finished run leaves, and how it is told from an unfinished one."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from datadiet.config import FinetuneConfig, read_config
from datadiet.errors import ArgumentError, DataError
from datadiet.formatting import escaped
from datadiet.jobs.finetune import finetune, resume_run
from datadiet.store import run_folder
from datadiet.store.run_folder import check_new, check_resumable, costs_of, model_card, plain, put_aside, read_result
from datadiet.types import CostLedger, EpochResult
from toys import SECONDS, Heard, Killed, plans_of, predictions_of, scores_of, toy_config

FINISHED = {"config.yaml", "result.json", "scores", "plans", "predictions.parquet", "model"}
FINISHED |= {"noise.json", "suspects.parquet"}  # of the guard, which `hardest` has by default


class Finished:
    """One finished run that several tests look at."""

    def __init__(self, folder: Path, config: FinetuneConfig) -> None:
        self.config, self.listener, self.folder = config, Heard(), folder
        self.result = finetune(config, listener=self.listener)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    home = tmp_path_factory.mktemp("joint")
    return Finished(home / "run", toy_config(home, "intent-slot", rescore="dropped", refresh_every=1))


# ---- what is in it ----


def test_the_folder_holds_what_is_promised_and_nothing_else(run: Finished) -> None:
    assert {entry.name for entry in run.folder.iterdir()} == FINISHED
    files = {file.name for file in (run.folder / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files


def test_no_pickle_and_nothing_half_written(run: Finished) -> None:
    endings = {file.suffix for file in run.folder.rglob("*") if file.is_file()}
    assert endings == {".yaml", ".json", ".parquet", ".safetensors", ".md"}


def test_result_is_what_was_returned(run: Finished) -> None:
    content = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
    assert content.pop("crc32")
    assert content == run.result
    assert read_result(run.folder) == run.result


def test_every_key_of_the_result(run: Finished) -> None:
    result = run.result
    assert set(result) == {
        "schema", "task", "data", "model", "seed", "diet", "epochs", "metrics", "cost", "ceiling", "environment",
        "weights_tested", "energy", "tolerance", "teacher", "reference", "noise", "learning_rate", "convergence",
        "race", "tokens", "files",
    }  # fmt: skip
    assert (result["schema"], result["task"], result["seed"]) == (1, "intent-slot", 0)
    assert result["model"] == "tiny-bert"
    assert result["data"]["name"] == "toy-intent-slot"
    assert result["data"]["rows"] == {"train": 48, "dev": 12, "test": 12}
    assert len(result["data"]["fingerprint"]) == 16
    assert set(result["metrics"]) == {"dev", "test"}
    for found in result["metrics"].values():
        assert set(found) == {"intent_accuracy", "slot_f1", "exact_match", "nll"}
    assert set(result["environment"]) == {"versions", "cpu", "threads", "device", "precision", "from_cache"}
    assert result["environment"]["precision"] == "fp32"
    assert set(result["cost"]) == set(asdict(CostLedger()))
    assert set(result["ceiling"]) == {"examples_saved", "tokens_saved"}
    assert [set(line) for line in result["epochs"]] == [
        {"epoch", "kept", "dropped", "steps", "seconds", "score_s", "tokens", "train_loss", "dev"}
    ] * 4
    assert [set(line["dev"]) for line in result["epochs"]] == [set(result["metrics"]["dev"])] * 4


def test_every_option_of_the_diet_is_in_the_result(run: Finished) -> None:
    assert run.result["diet"] == {
        "score": "el2n", "select": "hardest", "history": "last", "keep": 0.5, "tolerance": None, "combine": "norm",
        "warmup_epochs": 1, "refresh_every": 1, "anneal_epochs": 0, "static": False, "rescore": "dropped",
        "offset": "auto", "floor": 0, "seed": 0, "scores_from": None, "row_weights": False, "tokens": None,
    }  # fmt: skip


def test_no_path_of_this_machine_in_the_result(run: Finished) -> None:
    text = (run.folder / "result.json").read_text(encoding="utf-8")
    assert str(run.folder.parent) not in text
    assert os.sep not in json.dumps({name: run.result[name] for name in ("data", "model", "diet")})


def test_the_accounts_partition_the_total(run: Finished) -> None:
    cost = run.result["cost"]
    assert sum(cost[name] for name in SECONDS) == pytest.approx(cost["total_s"], abs=1e-9)
    assert cost["finetune_s"] == pytest.approx(cost["train_s"] + cost["score_s"] + cost["select_s"])
    assert all(cost[name] > 0 for name in SECONDS)
    assert sum(line["score_s"] for line in run.result["epochs"]) == pytest.approx(cost["score_s"])
    assert sum(line["seconds"] for line in run.result["epochs"]) <= cost["train_s"]


def test_the_forecast_is_what_happened(run: Finished) -> None:
    (planned,) = run.listener.forecasts
    lines, cost = run.result["epochs"], run.result["cost"]
    assert [(line["kept"], line["dropped"], line["steps"]) for line in lines] == [
        (line.kept, line.dropped, line.steps) for line in planned.epochs
    ]
    assert [line["kept"] for line in lines] == [48, 24, 24, 24]
    assert cost["examples_backward"] == planned.examples_backward == 120
    assert cost["examples_forward"] - cost["examples_backward"] == planned.examples_scored == 48
    assert run.result["ceiling"]["examples_saved"] == pytest.approx(planned.examples_saved)
    assert run.listener.steps[-1].step == run.listener.steps[-1].steps == planned.steps


def test_tokens_are_counted_without_padding(run: Finished) -> None:
    lines, cost = run.result["epochs"], run.result["cost"]
    assert sum(line["tokens"] for line in lines) == cost["tokens_backward"]
    everything = lines[0]["tokens"]  # the warm-up trains on all rows
    assert run.result["ceiling"]["tokens_saved"] == pytest.approx(1 - cost["tokens_backward"] / (4 * everything))


def test_the_listener_hears_each_epoch_with_its_metrics(run: Finished) -> None:
    assert [asdict(heard) for heard in run.listener.epochs] == run.result["epochs"]
    assert run.listener.phases == [
        "reading the data", "loading the model", "tokenising", "training", "testing", "saving",
    ]  # fmt: skip


def test_scores_and_plans(run: Finished) -> None:
    scores, plans = scores_of(run.folder), plans_of(run.folder)
    assert list(scores.columns[:5]) == ["row", "id", "epoch", "round", "source"]
    assert {"el2n", "gold_probability", "margin", "loss"} <= set(scores.columns)
    assert {epoch: len(rows) for epoch, rows in plans.items()} == {0: 48, 1: 24, 2: 24, 3: 24}
    assert plans[0] == list(range(48))
    assert (scores["source"] == "train").sum() == 120
    assert (scores["source"] == "pass").sum() == 48
    ids = pd.read_json(Path(run.config.data) / "train.jsonl", lines=True)["id"]
    assert scores["id"].tolist() == ids[scores["row"]].tolist()
    plan = pd.read_parquet(run.folder / "plans" / "part-00001.parquet")
    assert list(plan.columns) == ["epoch", "row", "weight"]
    assert plan["weight"].eq(1).all()


def test_predictions(run: Finished) -> None:
    found = predictions_of(run.folder)
    assert list(found.columns) == [
        "split", "id", "gold", "predicted", "probability", "gold_slots", "predicted_slots",
    ]  # fmt: skip
    assert found["split"].tolist() == ["dev"] * 12 + ["test"] * 12
    test = pd.read_json(Path(run.config.data) / "test.jsonl", lines=True)
    mine = predictions_of(run.folder, "test")
    assert mine["id"].tolist() == test["id"].tolist()
    assert mine["gold"].tolist() == test["intent"].tolist()
    assert [list(tags) for tags in mine["gold_slots"]] == test["slots"].tolist()
    assert [len(tags) for tags in mine["predicted_slots"]] == [len(words) for words in test["tokens"]]
    accuracy = (mine["gold"] == mine["predicted"]).mean()
    assert accuracy == run.result["metrics"]["test"]["intent_accuracy"]


def test_the_config_runs_again_and_gives_the_same(run: Finished, tmp_path: Path) -> None:
    assert read_config(run.folder / "config.yaml") == run.config
    again = finetune(read_config(run.folder / "config.yaml", output=str(tmp_path / "again")))
    assert again["metrics"] == run.result["metrics"]
    assert [line["train_loss"] for line in again["epochs"]] == [line["train_loss"] for line in run.result["epochs"]]
    assert again["data"] == run.result["data"]
    assert plans_of(tmp_path / "again") == plans_of(run.folder)
    assert predictions_of(tmp_path / "again").equals(predictions_of(run.folder))


def test_the_same_seed_gives_the_same_and_another_does_not(tmp_path: Path) -> None:
    same = [finetune(toy_config(tmp_path, output=str(tmp_path / name), dropout=0.1)) for name in ("a", "b")]
    assert same[0]["metrics"] == same[1]["metrics"]
    other = finetune(toy_config(tmp_path, output=str(tmp_path / "c"), dropout=0.1, seed=1))
    assert other["metrics"] != same[0]["metrics"]
    assert other["data"]["fingerprint"] == same[0]["data"]["fingerprint"]


# ---- checkpoints ----


def test_checkpoints_are_kept_where_asked_for(tmp_path: Path) -> None:
    finetune(toy_config(tmp_path, keep_checkpoints=True, checkpoint_every=2))
    kept = {folder.name for folder in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")}
    assert kept == {"checkpoint-9", "checkpoint-15"}  # after epochs 2 and 4: 6 + 3, and 6 more
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == {*FINISHED, "checkpoints"}
    assert not list((tmp_path / "run").rglob("training_args.bin"))
    pickled = [file for file in (tmp_path / "run").rglob("*") if file.suffix in (".pt", ".pth", ".bin", ".pkl")]
    assert all("checkpoints" in file.parts for file in pickled)


def test_no_checkpoint_where_none_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    monkeypatch.setattr(
        run_folder, "remove_checkpoints", lambda folder: saved.extend((folder / "checkpoints").glob("*"))
    )
    finetune(toy_config(tmp_path, checkpoint_every=0))
    assert saved == []


def test_the_result_comes_before_the_checkpoints_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two the other way round, a finished run could neither be used nor resumed."""
    monkeypatch.setattr(run_folder, "write_result", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception, match="killed"):
        finetune(toy_config(tmp_path))
    assert list((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    check_resumable(tmp_path / "run")


# ---- new, unfinished, finished ----


@pytest.mark.parametrize(
    ("name", "new", "resumable"),
    [
        (None, None, r"holds no run to resume: config.yaml is missing"),
        ("result.json", "already holds a finished run", "is finished; there is nothing to resume"),
        ("config.yaml", "unfinished run; go on with it by --resume", None),
        ("thesis.tex", "is not empty", "holds no run to resume"),
    ],
)
def test_new_and_resumable_folders(tmp_path: Path, name: str | None, new: str | None, resumable: str | None) -> None:
    if name is not None:
        (tmp_path / name).write_text('{"schema": 1}')
    for check, message in ((check_new, new), (check_resumable, resumable)):
        with pytest.raises(ArgumentError, match=message) if message else nullcontext():
            check(tmp_path)


def test_a_kill_before_the_config_is_no_dead_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(tmp_path, epochs=2)

    def die(folder: Path, *_: object) -> None:
        (folder / ".datadiet-0123.part").touch()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "begin", die)
        with pytest.raises(Killed):
            finetune(config)
    (tmp_path / "run" / ".lock").write_text("1")
    assert finetune(config)["metrics"]["test"]


def test_two_runs_of_one_folder_are_refused(tmp_path: Path) -> None:
    config = toy_config(tmp_path, epochs=2)
    with run_folder.claimed(tmp_path / "run"):
        with pytest.raises(ArgumentError, match=r"another process writes the run in .*run: wait for it"):
            finetune(config)
        run_folder.begin(tmp_path / "run", config.to_yaml())
        with pytest.raises(ArgumentError, match="another process writes the run in"):
            resume_run(tmp_path / "run")


def test_folders_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_new(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="is not empty"):
        check_new(tmp_path / "file")
    with pytest.raises(ArgumentError, match=r"cannot be made: .*file is a file"):
        check_new(tmp_path / "file" / "run")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ArgumentError, match="may not be written to"):
        check_new(tmp_path / "run")


def test_forgetting_leaves_the_config(tmp_path: Path) -> None:
    run_folder.begin(tmp_path, "data: snips\n")
    for name in ("scores", "plans", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "predictions.parquet").touch()
    run_folder.forget_progress(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


# ---- reading and writing ----


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "result.json is missing"),
        ("{", "is not valid JSON"),
        ("[]", "has schema None"),
        ('{"schema": 2}', "has schema 2; this version reads 1"),
    ],
)
def test_a_result_that_cannot_be_read(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_result(tmp_path)


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    given = {"schema": 1, "loss": float("nan"), "nested": [{"nll": float("inf")}], "keep": {1: 0.5}, "epsilon": None}
    written = run_folder.write_result(tmp_path, given)
    assert written == {"schema": 1, "loss": None, "nested": [{"nll": None}], "keep": {"1": 0.5}, "epsilon": None}
    assert read_result(tmp_path) == written == plain(written)


def test_a_result_that_cannot_be_written_leaves_the_run_unfinished(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        run_folder.write_result(tmp_path, {"bad": object()})
    assert not list(tmp_path.iterdir())


def test_ceiling_by_hand() -> None:
    cost = CostLedger(examples_backward=60, tokens_backward=500)
    line = EpochResult(0, 60, 40, 6, 1.0, 0.0, 500, 0.5, {"accuracy": 0.9})
    costs = costs_of(cost, [line], 100, 1000)
    assert costs["ceiling"] == {"examples_saved": pytest.approx(0.4), "tokens_saved": 0.5}
    assert costs["epochs"][0]["dev"] == {"accuracy": 0.9}
    assert costs_of(cost, [], 100, None)["ceiling"]["tokens_saved"] is None


# ---- the model card ----


def test_the_card_states_the_diet_and_the_metrics(run: Finished) -> None:
    card = (run.folder / "model" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert list(front) == ["library_name", "metrics", "tags", "model-index"]
    assert (front["library_name"], front["tags"]) == ("transformers", ["datadiet", "intent-slot"])
    (found,) = front["model-index"][0]["results"]
    values = {metric["name"]: metric["value"] for metric in found["metrics"]}
    assert values["exact_match"] == run.result["metrics"]["test"]["exact_match"]
    assert "120 examples trained instead of 192" in card
    assert "weights of the last epoch" in card
    for line in ("| score | el2n |", "| keep | 0.5 |", "| refresh_every | 1 |", "| rescore | dropped |"):
        assert line in card
    metrics = run.result["metrics"]
    assert f"| slot_f1 | {metrics['dev']['slot_f1']:.4f} | {metrics['test']['slot_f1']:.4f} |" in card


def toy_result(**changes: Any) -> dict[str, Any]:
    return {
        "task": "classification", "data": {"name": "toy"}, "model": "tiny", "seed": 0, "diet": {"keep": 0.5},
        "cost": {"examples_backward": 50}, "ceiling": {"examples_saved": 0.5}, "weights_tested": "best",
        "metrics": {"dev": {"accuracy": 0.75, "nll": None}, "test": None}, **changes,
    }  # fmt: skip


def test_the_card_without_a_test_split() -> None:
    card = model_card(toy_result())
    assert "| accuracy | 0.7500 | - |" in card
    assert "| nll | - | - |" in card
    assert "weights of the best epoch" in card


def test_the_card_says_that_training_had_not_finished() -> None:
    found = {"rising": True, "advice": "Training had not finished: it rose."}
    assert "Training had not finished: it rose." in model_card(toy_result(convergence=found))


HOSTILE = "a|b\n# big <script>alert(1)</script> [x](http://y) `c` **d** ![i](j)"


def test_text_from_outside_cannot_break_out_of_the_card() -> None:
    card = model_card(toy_result(data={"name": HOSTILE}, model=HOSTILE, diet={"scores_from": HOSTILE}))
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert len(headings) == 1
    row = next(line for line in card.splitlines() if line.startswith("| scores_from"))
    assert row.replace("\\|", "").count("|") == 3
    for broken_out in ("<script>", "](http", "**d**", " `c`", "!["):
        assert broken_out not in card


def test_escaped_text_is_one_line_and_otherwise_unchanged() -> None:
    assert escaped("all-MiniLM 0.5, é\n  x") == "all-MiniLM 0.5, é x"
    assert escaped(None) == "None"


def test_a_hostile_folder_name_in_a_real_run(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    hostile = tmp_path / "<b>|x`"
    Path(config.data).rename(hostile)
    finetune(FinetuneConfig(**{**asdict(config), "data": str(hostile), "epochs": 2}))
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert r"classification on \<b\>\|x\`, on a data diet" in card


def test_the_hub_reads_the_card() -> None:
    tested = {"accuracy": 0.7, "macro_f1": 0.6, "nll": None}
    result = toy_result(metrics={"dev": {"accuracy": 0.75}, "test": tested}, data={"name": "glue/sst2"})
    read = ModelCard(model_card(result, base_model="google-bert/bert-base-uncased", dataset="glue")).data
    assert (read.base_model, read.datasets) == ("google-bert/bert-base-uncased", ["glue"])
    assert (read.library_name, read.pipeline_tag) == ("transformers", "text-classification")
    assert read.metrics == ["accuracy", "f1"]
    assert read.tags == ["datadiet", "classification"]
    assert read.model_name == "tiny-glue/sst2"
    found = [(one.metric_name, one.metric_type, one.metric_value, one.dataset_split) for one in read.eval_results or []]
    assert found == [("accuracy", "accuracy", 0.7, "test"), ("macro_f1", "f1", 0.6, "test")]


def test_the_card_of_own_data_and_a_folder_names_no_hub() -> None:
    card = model_card(toy_result(task="intent-slot", diet={"keep": 0.5, "tolerance": None, "select_options": {}}))
    read = ModelCard(card).data
    assert (read.base_model, read.datasets, read.pipeline_tag) == (None, None, None)
    assert [one.dataset_split for one in read.eval_results or []] == ["dev"]
    assert "| keep | 0.5 |" in card
    for left_out in ("tolerance", "select_options"):
        assert left_out not in card


def test_hostile_names_and_missing_metrics_in_the_front_matter() -> None:
    read = ModelCard(model_card(toy_result(data={"name": HOSTILE}, model="---\nlicense: mit"))).data
    assert (read.license, read.tags) == (None, ["datadiet", "classification"])
    read = ModelCard(model_card(toy_result(metrics={"dev": {}, "test": None}))).data
    assert (read.metrics, read.eval_results) == (None, None)


def test_only_what_a_run_has_recorded_is_put_aside(tmp_path, caplog):
    for name in ("scores", "plans"):
        (tmp_path / name).mkdir()
    (tmp_path / "scores" / "mine.txt").write_text("")
    put_aside(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plans", "scores"]  # no run has written them
    (tmp_path / "plans" / "_manifest.json").write_text("not read")
    (tmp_path / "result.json").write_text("{}")
    put_aside(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plans.1", "result.1.json", "scores"]
    assert "What it recorded is now in result.1.json, plans.1; overwrite=True removes it." in caplog.text
    (tmp_path / "plans.1").rename(tmp_path / "plans")
    put_aside(tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.1.json", "scores"]


def test_checkpoints_of_adapters_count_where_they_are_of_language_models(tmp_path):
    for step, text in ((3, '{"task_type": "CAUSAL_LM"}'), (20, '{"task_type": null}'), (100, "{"), (40, "[]")):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(text)
    whole = tmp_path / "checkpoints" / "checkpoint-12"
    whole.mkdir()
    (whole / "config.json").write_text("{}")
    assert [folder.name for folder in run_folder.checkpoints_of(tmp_path)] == ["checkpoint-3", "checkpoint-12"]
