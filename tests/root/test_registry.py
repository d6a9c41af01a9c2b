"""The registry: complete, in step with the code, and the one place where options and tasks are checked."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from datadiet import registry
from datadiet.compare.plan import Cell, Plan, methods_from
from datadiet.config import config_from
from datadiet.errors import ArgumentError
from datadiet.jobs.finetune import finetune
from datadiet.jobs.score import score_data
from datadiet.jobs.validate import check_config
from datadiet.registry import KINDS, AtLeast, Bound, find, methods, names, parse_call, problems_of, selector
from datadiet.scores.reduce import FREE
from datadiet.scoring.dataset import family_of
from datadiet.scoring.forward import passes_of
from toys import Heard, plans_of, toy_config

RANKED = ("score", "select", "in_batch", "preset", "history")


# ---- declarations


def test_the_index_is_what_the_code_declares() -> None:
    assert registry.INDEX.read_text(encoding="utf-8") == registry.index_text(), "run: make index"


def test_every_kind_has_a_member_and_a_sentence() -> None:
    assert list(dict.fromkeys(method.kind for method in methods())) == list(KINDS)


@pytest.mark.parametrize("method", methods(), ids=lambda method: f"{method.kind}-{method.name}")
def test_a_declaration_is_whole(method: registry.Method) -> None:
    assert method.formula
    assert not method.formula.endswith(".")
    assert set(method.needs) <= set(registry.NEEDS)
    assert method.tasks in ("", *registry.TASK_TRAITS)
    if method.kind in ("score", "select", "in_batch", "history", "combine", "rescore"):
        assert all((method.paper, method.inputs, method.cost, method.loses)), method
    if method.where:
        assert callable(method.load())


@pytest.mark.parametrize("name", names("score"))
def test_a_score_names_the_family_that_computes_it_and_what_it_reads_of_passes(name: str) -> None:
    assert list(inspect.signature(family_of(name)).parameters)[1:2] == ["inputs"]
    for role, columns in passes_of(name).items():
        assert role in ("model", "teacher", "holdout")
        assert set(columns) <= {"value", "rest", "classes", *FREE}, columns
    assert ("value" in passes_of(name).get("model", ())) == (name in names("score", trait="forward"))


@pytest.mark.parametrize("kind", ["score", "select", "in_batch", "history"])
def test_options_are_parameters_of_the_function(kind: str) -> None:
    for method in methods(kind):
        if method.where:
            parameters = inspect.signature(method.load()).parameters
            varied = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
            assert varied or set(method.options) <= set(parameters), method.name


@pytest.mark.parametrize("kind", RANKED)
def test_evidence_names_a_heading_of_the_benchmarks(kind: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    headings = {line.strip("# ").split(" {")[0].lower() for line in text.splitlines() if line.startswith("#")}
    anchors = {part.split("}")[0].strip(" #") for part in text.split("{ #")[1:]}
    for method in methods(kind):
        assert method.evidence is None or method.evidence in headings | anchors, method.name


def test_json_leaves_out_what_is_empty() -> None:
    line = next(one for one in registry.as_json() if one["name"] == "el2n")
    assert line["evidence"] == "methods"
    assert "tasks" not in line


def test_a_decorated_function_refuses_options_out_of_bounds() -> None:
    @selector(formula="none")
    def own(values: Any, count: int, *, seed: int, epoch: int, size: Annotated[int, AtLeast(1)] = 3) -> int:
        return size

    assert own([1.0], 1, seed=0, epoch=0) == 3
    with pytest.raises(ArgumentError, match=r"size must be a whole number, at least 1, got 0\."):
        own([1.0], 1, seed=0, epoch=0, size=0)


def test_packages_load_their_methods_on_first_use() -> None:
    import datadiet as dd

    assert dd.selectors.ccs is registry.load("select", "ccs")
    assert dd.scores.el2n is registry.load("score", "el2n")
    assert "uncertain" in dd.selectors.__all__
    with pytest.raises(AttributeError, match="no attribute 'hardets'"):
        _ = dd.selectors.hardets


def test_the_readme_counts_them() -> None:
    text = " ".join((Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split())
    words = {"score": "scores", "select": "selectors", "in_batch": "in-batch methods", "history": "histories"}
    assert [word for kind, word in words.items() if f"{len(names(kind))} {word}" not in text] == []


# ---- bounds and calls


@pytest.mark.parametrize(
    ("bound", "allowed", "refused", "text"),
    [
        (Bound(0, 1, open_low=True), (0.5, 1), (0, 1.1, "x", True, float("nan")), "in (0, 1]"),
        (Bound(0, 1, open_high=True), (0, 0.99), (1, -0.1), "in [0, 1)"),
        (Bound(0), (0, 5.5), (-1, float("inf")), "at least 0 and finite"),
        (Bound(0, open_low=True), (1e-9,), (0,), "above 0 and finite"),
        (AtLeast(2), (2, 9), (1, 2.0, True), "a whole number, at least 2"),
        (Bound(0, 9, whole=True), (0, 9), (10,), "a whole number, at least 0 and at most 9"),
    ],
)
def test_bounds(bound: Bound, allowed: tuple[Any, ...], refused: tuple[Any, ...], text: str) -> None:
    assert [bound.problem("x", value) for value in allowed] == [None] * len(allowed)
    assert all(str(bound.problem("x", value)).startswith(f"x must be {text}, got ") for value in refused)


DIRECTED = {"directions": {"rude": "easy"}, "default": "hard"}
QUOTA = {"select": "epsilon(epsilon=0.3)", "shares": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("hardest", "hardest", {}),
        (" ccs ( beta=0.2 , strata=20 ) ", "ccs", {"beta": 0.2, "strata": 20}),
        ("ccs()", "ccs", {}),
        ("directed(directions.rude=easy, default=hard)", "directed", DIRECTED),
        ("length({unit: characters})", "length", {"unit": "characters"}),
        ("quota(select=epsilon(epsilon=0.3), shares={a: 1})", "quota", QUOTA),
        ("moderate(per_group=true)", "moderate", {"per_group": True}),
    ],
)  # fmt: skip
def test_calls(text: str, name: str, options: dict[str, Any]) -> None:
    assert parse_call(text) == (name, options)
    assert parse_call(registry.format_call(name, options)) == (name, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ccs(beta)", r"options of ccs must be name=value with commas between, got 'beta'"),
        ("ccs(beta=0.2", r"a method must be name or name\(option=value, \.\.\.\), got 'ccs\(beta=0.2'"),
        ("length({unit=words})", r"options of length in braces must be \{name: value, \.\.\.\}"),
        ("quota(select=[)", r"a list must be \[value, \.\.\.\], got '\['"),
        ("(hardest)", r"a method must be name or name\(option=value, \.\.\.\), got '\(hardest\)'"),
        ("ccs(beta=1, beta.x=2)", "option 'beta' of ccs has a value and entries"),
    ],
)
def test_text_that_is_no_call(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        parse_call(text)


# ---- checks


def refused(kind: str, task: str, *kinds: str) -> set[str]:
    return {name for name in names(*(kinds or (kind,))) if problems_of(kind, name, task=task)}


def test_scores_by_task() -> None:
    two = {"teacher_el2n", "teacher_divergence", "negative_pvi"}
    answers = {"perplexity", "held_out_perplexity", "ifd", "predictive_strength", "capability_gap"}
    assert refused("score", "classification") == {"absolute_error", *answers}
    assert refused("score", "intent-slot") == {"absolute_error", "negative_pvi", *answers}
    assert (
        refused("score", "multi-label")
        == refused("score", "token-classification")
        == {"absolute_error", *two, *answers}
    )
    dynamics = {"confidence", "variability", "correctness", "threshold_closeness", "forgetting", "aum"}
    assert refused("score", "regression") == {
        *("cross_entropy", "margin", "entropy", "vog"), *dynamics, *two, *answers
    }  # fmt: skip
    assert not refused("score", "causal-lm") & answers


def test_selectors_by_task() -> None:
    quotas = {"balanced", "partly_balanced", "quota", "drop_quota", "directed", "best_of_group", "smart"}
    both = ("select", "in_batch")
    assert refused("select", "regression", *both) == refused("select", "token-classification", *both) == quotas
    assert refused("select", "multi-label", *both) == {"drop_quota"}
    assert refused("select", "classification", *both) == refused("select", "intent-slot", *both) == set()


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        ("score", "el2m", "unknown score 'el2m'; did you mean 'el2n'?"),
        ("select", "hardets", "unknown selector 'hardets'; did you mean 'hardest'?"),
        ("select", "multi", "unknown selector 'multi'"),
        ("history", "average", "unknown history 'average'"),
        ("score", "prototypes(cluster=5)", "unknown option of prototypes 'cluster'; did you mean 'clusters'?"),
        ("score", "prototypes(clusters=many)", "clusters of prototypes must be a whole number, at least 1, got"),
        ("score", "vog(normalise=row)", "unknown normalise of vog 'row'"),
        ("score", "el2n(unit=words)", "the score el2n has no options, got unit."),
        ("select", "ccs(beta=70)", "beta of ccs must be in [0, 1), got 70. Did you mean 0.7?"),
        ("select", "moderate(per_group=1)", "per_group of moderate must be true or false, got 1."),
        ("select", "quota(select=hardets)", "unknown selector 'hardets'"),
        ("select", "quota(select=a b)", "a method must be name or name(option=value, ...), got 'a b'."),
        ("select", "balanced(select=ccs(beta=70))", "beta of ccs must be in [0, 1), got 70. Did you mean 0.7?"),
        ("select", "balanced(select=ccs(betta=0.1))", "unknown option of ccs 'betta'; did you mean 'beta'?"),
        ("select", "balanced(select=window)", "the selector window needs the option offset."),
        ("select", "balanced(select=quota)", "select of balanced must not give the classes their places itself, got"),
        ("select", "balanced(select=ccs(beta=0.1), beta=0.2)", "beta of ccs must be given once, inside its brackets"),
        ("select", "balanced(select=balanced(select=cover))", "select of balanced must not give the classes"),
        ("select", "balanced(select=hardest(select=cover))", "unknown option of hardest 'select'"),
        ("select", "balanced(select=5)", "select of balanced must be a selector by its name, got 5."),
        ("select", "quota(shares=5)", "shares of quota must be a mapping from each class, as in shares.CLASS=..., got"),
        ("history", "ema(alpha=8)", "alpha of ema must be in (0, 1], got 8. Did you mean 0.08?"),
        ("history", "mean(window=0)", "window of mean must be a whole number, at least 1, got 0."),
    ],
)  # fmt: skip
def test_what_does_not_fit(kind: str, call: str, message: str) -> None:
    problem, *more = problems_of(kind, *parse_call(call))
    assert problem.startswith(message)
    assert not more


@pytest.mark.parametrize("kind", ["score", "select", "history"])
def test_every_bound_and_choice_is_checked(kind: str) -> None:
    """No declared option takes a value outside its declaration."""
    for method in methods(kind):
        checked = [name for name, option in method.options.items() if option.bound or option.choices]
        assert all(problems_of(kind, method.name, {name: "!"}) for name in checked), method.name


# ---- options of scores, in runs


ROWS = 48


def test_a_run_scores_with_options_and_records_them(tmp_path) -> None:
    options = {"keep": 0.5, "epochs": 2, "static": True}
    result = finetune(toy_config(tmp_path, score="length({unit: characters})", **options))
    assert result["diet"]["score"] == "length(unit=characters)"
    finetune(toy_config(tmp_path, score="length", output=str(tmp_path / "words"), **options))
    kept = [set(plans_of(tmp_path / name)[1]) for name in ("run", "words")]
    assert kept[0] != kept[1]  # the longest by characters are not those by words


def test_training_dynamics_of_the_first_rounds(tmp_path) -> None:
    options = {"score": "aum(burn_out=1)", "keep": 0.5, "epochs": 4, "refresh_every": 1}
    assert finetune(toy_config(tmp_path, **options))["diet"]["score"] == "aum(burn_out=1)"
    plans = plans_of(tmp_path / "run")
    assert set(plans[1]) == set(plans[2]) == set(plans[3])  # the values of the first epoch stay


def test_more_clusters_than_examples_are_refused_before_the_model_is_loaded(tmp_path) -> None:
    listener = Heard()
    with pytest.raises(ArgumentError) as error:
        finetune(toy_config(tmp_path, score="prototypes(clusters=500)", keep=0.5), listener=listener)
    message = f"clusters of prototypes must be at most the number of training rows, {ROWS}, got 500."
    assert error.value.problems == (message,)
    assert listener.phases == ["reading the data"]
    assert not (tmp_path / "run").exists()


def test_a_scoring_job_gives_each_score_its_own(tmp_path) -> None:
    data, task = toy_config(tmp_path).data, "classification"
    file = score_data(data, task, scores=["length(unit=characters)", "scdp"])
    plain = score_data(data, task, scores=["length"])
    assert (file.values["length"] > plain.values["length"]).all()
    assert file.made_with["length"]["options"] == {"unit": "characters"}
    assert "options" not in file.made_with["scdp"]
    assert np.isfinite(file.values["scdp"]).all()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (["length(unit=letters)"], "unknown unit of length 'letters'"),
        (["prototypes(clusters=49)"], "clusters of prototypes must be at most the number of training rows, 48"),
        (["length(unit)"], "options of length must be name=value"),
    ],
)
def test_a_scoring_job_refuses_before_it_trains(tmp_path, scores, message) -> None:
    config, listener = toy_config(tmp_path), Heard()
    with pytest.raises(ArgumentError, match=message):
        score_data(config.data, "classification", scores=scores, epochs=1, base_model=config.model, listener=listener)
    assert listener.phases in ([], ["reading the data"])


def test_a_method_of_a_comparison_has_its_own() -> None:
    methods_of = methods_from([{"mine": {"score": "prototypes(clusters=5)", "static": True}}])
    plan = Plan({"data": "snips", "task": "intent-slot"}, methods_of, keeps=[0.5], seeds=[0])
    config = plan.config(Cell("mine", 0.5, 0), "runs/x")
    assert check_config(config, resume=True).options.score_options == {"clusters": 5}
    import yaml

    assert config_from(yaml.safe_load(config.to_yaml())) == config


def test_a_task_is_found_by_its_traits() -> None:
    one_class = names("task", trait="one_class")
    assert {"intent-slot", "classification"} <= set(one_class) <= set(names("task")) - {"regression", "multi-label"}
    assert find("task", "regression").facts["metrics"][0] == "spearman"  # type: ignore[union-attr]
