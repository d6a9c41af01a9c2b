"""Options of scores on the command line, in a config and in a comparison: checked before anything is computed."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import yaml

from datadiet.compare.plan import Cell, Plan, methods_from
from datadiet.config import config_from
from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.jobs.finetune import finetune
from datadiet.jobs.score import score_data
from datadiet.jobs.validate import check_config
from datadiet.scores.dynamics import DYNAMIC_SCORES
from datadiet.scores.embeddings import EMBEDDING_SCORES
from datadiet.scores.text import TEXT_SCORES
from datadiet.scoring import GRADIENT_SCORES
from datadiet.suitable import SCORE_OPTIONS
from toys import Heard, plans_of, toy_config

ROWS = 48


@pytest.mark.parametrize("name", SCORE_OPTIONS)
def test_every_option_is_one_of_the_function(name):
    if name in DYNAMIC_SCORES:
        function = DYNAMIC_SCORES[name].started
    else:
        function = {**TEXT_SCORES, **EMBEDDING_SCORES, **GRADIENT_SCORES}[name]
    known = inspect.signature(function).parameters
    # self_influence hands its options on to grand
    known = {**known, **inspect.signature(GRADIENT_SCORES["grand"]).parameters} if name == "self_influence" else known
    assert set(SCORE_OPTIONS[name]) <= set(known)


def test_a_run_scores_with_them_and_says_so(tmp_path):
    options = {"score": "length", "keep": 0.5, "epochs": 2, "static": True}
    result = finetune(toy_config(tmp_path, score_options="{unit: characters}", **options))
    assert result["diet"]["score_options"] == {"unit": "characters"}
    finetune(toy_config(tmp_path, output=str(tmp_path / "words"), **options))
    kept = [set(plans_of(tmp_path / name)[1]) for name in ("run", "words")]
    assert kept[0] != kept[1]  # the longest by characters are not those by words
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["score_options"] == "{unit: characters}"


def test_training_dynamics_of_the_first_rounds(tmp_path):
    options = {"score": "aum", "keep": 0.5, "epochs": 4, "refresh_every": 1}
    result = finetune(toy_config(tmp_path, score_options="burn_out=1", **options))
    assert result["diet"]["score_options"] == {"burn_out": 1}
    plans = plans_of(tmp_path / "run")
    assert set(plans[1]) == set(plans[2]) == set(plans[3])  # what the first epoch said stands


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "prototypes", "score_options": "cluster=5"}, "unknown option of prototypes 'cluster'; did you mean"),
        ({"score": "prototypes", "score_options": "{clusters: many}"}, "clusters of prototypes must be a whole number"),
        ({"score": "vog", "score_options": "normalise=row"}, "unknown normalise of vog 'row'"),
        ({"score": "el2n", "score_options": "unit=words"}, "score_options has no effect with the score 'el2n'"),
        (
            {"score": "length", "score_options": "unit"},
            "score_options needs name=value with commas between, got 'unit'",
        ),
        (
            {"score": "length", "score_options": "{unit=words}"},
            r"score_options in braces must be \{name: value, \.\.\.\}",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_read(tmp_path, options, message):
    with pytest.raises(ArgumentError, match=message):
        check_config(toy_config(tmp_path, **options))


def test_more_clusters_than_examples_is_told_before_the_model_is_loaded(tmp_path):
    listener = Heard()
    config = toy_config(tmp_path, score="prototypes", score_options="{clusters: 500}", keep=0.5)
    with pytest.raises(ArgumentError) as error:
        finetune(config, listener=listener)
    told = f"clusters of prototypes must be at most the number of training rows, {ROWS}, got 500."
    assert error.value.problems == (told,)
    assert listener.phases == ["reading the data"]
    assert not (tmp_path / "run").exists()


def test_a_scoring_job_gives_each_score_its_own(tmp_path):
    data, task = toy_config(tmp_path).data, "classification"
    file = score_data(data, task, scores=["length", "scdp"], score_options="length.unit=characters")
    plain = score_data(data, task, scores=["length"])
    assert (file.values["length"] > plain.values["length"]).all()
    assert file.made_with["length"]["options"] == {"unit": "characters"}
    assert "options" not in file.made_with["scdp"]
    alone = score_data(data, task, scores=["length"], score_options={"unit": "characters"})
    assert np.array_equal(alone.values["length"], file.values["length"])


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (
            ["length", "scdp"],
            "unit=words",
            "needs the score before an option where several are asked for, as length.unit",
        ),
        (["length"], "scdp.unit=words", "unknown score in score_options 'scdp'"),
        (["length"], "unit=letters", "unknown unit of length 'letters'"),
        (["prototypes"], "clusters=49", "clusters of prototypes must be at most the number of training rows, 48"),
    ],
)
def test_a_scoring_job_refuses_before_it_trains(tmp_path, scores, options, message):
    config = toy_config(tmp_path)
    listener = Heard()
    with pytest.raises(ArgumentError, match=message):
        score_data(
            config.data, "classification", scores=scores, epochs=1, base_model=config.model, score_options=options,
            listener=listener,
        )  # fmt: skip
    assert listener.phases in ([], ["reading the data"])


def test_a_method_of_a_comparison_has_its_own():
    methods = methods_from([{"mine": {"score": "prototypes", "score_options": {"clusters": 5}, "static": True}}])
    plan = Plan({"data": "snips", "task": "intent-slot"}, methods, keeps=[0.5], seeds=[0])
    config = plan.config(Cell("mine", 0.5, 0), "runs/x")
    assert check_config(config, resume=True).score_options == {"clusters": 5}
    assert config_from(yaml.safe_load(config.to_yaml())) == config


def test_a_function_has_no_options_by_name():
    with pytest.raises(ArgumentError, match="score_options are for scores by name"):
        Diet(score=lambda logits, labels, *, mask=None: logits[..., 0], score_options={"clusters": 2})
