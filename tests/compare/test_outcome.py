from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from datadiet.compare.outcome import outcome
from datadiet.compare.run import read_comparison, write_comparison
from datadiet.errors import DataError
from datadiet.store.run_folder import read_result
from toys import made_up_plan, pretended_states


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The plan of two methods and three seeds, its folder and its finished runs."""
    plan, folder = made_up_plan("el2n", "easiest"), tmp_path_factory.mktemp("comparison")
    return plan, folder, pretended_states(plan, folder)


def lines_of(comparison) -> dict:
    return {line["name"]: line for line in comparison["methods"]}


def against(comparison) -> dict:
    return {name: set(line["against"]) for name, line in lines_of(comparison).items()}


def with_jobs(states, name: str, jobs):
    """The runs whose names begin so shared the machine."""
    return [replace(state, jobs=jobs) if state.cell.name.startswith(name) else state for state in states]


def test_each_method_stands_beside_its_baselines(ran):
    found = against(outcome(*ran))
    assert list(found) == ["full", "el2n-0.5", "easiest-0.5", "random-0.5", "short-0.5"]
    assert found["full"] == set()
    assert found["el2n-0.5"] == {"full", "random", "short"}
    assert (found["random-0.5"], found["short-0.5"]) == ({"full", "short"}, {"full", "random"})


def test_a_tolerance_is_not_compared_with_rows_drawn_for_a_keep(tmp_path):
    plan = made_up_plan("el2n", {"tolerance": {"tolerance": 0.5}})
    found = against(outcome(plan, tmp_path, pretended_states(plan, tmp_path)))
    assert found["el2n-0.5"] == {"full", "random", "short"}
    assert (found["tolerance-0.5"], found["short_tolerance-0.5"]) == ({"full", "short"}, {"full"})


def test_figures_are_those_of_the_runs(ran):
    line = lines_of(outcome(*ran))["el2n-0.5"]
    runs = [read_result(ran[1] / "runs" / f"el2n-0.5-seed{seed}")["metrics"]["test"] for seed in range(3)]
    assert line["metrics"]["accuracy"]["mean"] == pytest.approx(100 * sum(run["accuracy"] for run in runs) / 3)
    assert line["metrics"]["nll"]["mean"] == pytest.approx(0.3)  # no points
    # 100 + seed seconds against 50 + seed: the median is that of seed 1
    assert line["saved"]["finetune_s"]["median"] == pytest.approx(1 - 51 / 101)
    assert (line["ceiling"], line["steps"]) == (0.5, 40)


def test_pairs_are_of_the_same_rows_whatever_their_order(ran):
    expected = lines_of(outcome(*ran))["el2n-0.5"]
    path = ran[1] / "runs" / "el2n-0.5-seed0" / "predictions.parquet"
    table = pd.read_parquet(path)
    try:
        table.sample(frac=1, random_state=0).to_parquet(path)
        assert lines_of(outcome(*ran))["el2n-0.5"] == expected
    finally:
        table.to_parquet(path)
    assert set(expected["mcnemar"]) == {0, 1, 2}
    assert expected["against"]["full"]["bootstrap"]["low"] < expected["against"]["full"]["mean"]


def test_many_claims_are_adjusted(ran):
    plan, folder, states = ran
    lines = lines_of(outcome(replace(plan, margin=20.0), folder, states))
    claims = {name: line["against"]["full"]["p_not_worse"] for name, line in lines.items() if name != "full"}
    assert all(lines[name]["p_not_worse_holm"] >= p for name, p in claims.items())
    assert lines[min(claims, key=claims.get)]["p_not_worse_holm"] == pytest.approx(4 * min(claims.values()))


def test_one_seed_gives_a_table_and_no_interval(ran):
    plan, folder, states = ran
    first = [state for state in states if state.cell.seed == 0]
    line = lines_of(outcome(replace(plan, seeds=[0]), folder, first))["el2n-0.5"]
    assert line["against"]["full"]["interval"] is None
    assert "in one seed, from which no interval follows: run more seeds" in line["verdict"]


def test_runs_that_failed_stay_in_the_list(ran):
    plan, folder, states = ran
    failed = [replace(state, status="failed", result=None, error="no memory") for state in states]
    comparison = outcome(plan, folder, [failed[1], *states[:1], *states[2:]])
    assert comparison["runs"][0]["error"] == "no memory"
    assert lines_of(comparison)["el2n-0.5"]["seeds"] == [1, 2]
    assert outcome(plan, folder, failed)["methods"] == []


@pytest.mark.parametrize("jobs", [2, None])
def test_times_are_comparable_where_each_run_had_the_machine_to_itself(ran, jobs):
    plan, folder, states = ran
    shared = with_energy(with_jobs(states, "el2n-0.5-seed1", jobs))
    comparison = outcome(plan, folder, shared)
    assert outcome(*ran)["comparable_times"] is True
    assert comparison["comparable_times"] is False
    lines = lines_of(comparison)
    assert [name for name, line in lines.items() if not line["comparable_times"]] == ["el2n-0.5"]
    assert lines["el2n-0.5"]["verdict"].startswith("times are not comparable: not every run is known")
    assert lines["easiest-0.5"]["verdict"].startswith("saves 50 %")
    assert [name for name, line in lines.items() if line["energy"] is None] == ["el2n-0.5"]
    assert [run["jobs"] for run in comparison["runs"]] == [state.jobs for state in shared]


def test_nothing_is_comparable_with_a_full_run_that_shared_the_machine(ran):
    plan, folder, states = ran
    comparison = outcome(plan, folder, with_jobs(states, "full", 2))
    assert not any(line["comparable_times"] for line in comparison["methods"])


def with_energy(states, *, estimated=True, seeds=(0, 1, 2)):
    """Full takes 4 Wh, the others 3."""
    energies = [{"kwh": 0.004 if state.cell.method == "full" else 0.003, "estimated": estimated} for state in states]
    return [
        replace(state, result={**state.result, "energy": energy}) if state.cell.seed in seeds else state
        for state, energy in zip(states, energies, strict=True)
    ]


def test_energy_is_that_of_the_runs_that_were_measured(ran):
    plan, folder, states = ran
    comparison = outcome(plan, folder, with_energy(states, seeds=(0, 2)))
    lines = lines_of(comparison)
    assert lines["full"]["energy"] == {"mean_kwh": pytest.approx(0.004), "saved": None, "estimated": True}
    assert lines["el2n-0.5"]["energy"]["saved"]["median"] == pytest.approx(0.25)
    assert "; a run takes 0.00300 kWh (estimated), 25 % less than full; " in lines["el2n-0.5"]["verdict"]
    assert [run["energy"] is None for run in comparison["runs"] if run["method"] == "full"] == [False, True, False]
    measured = outcome(plan, folder, with_energy(states, estimated=False))
    assert "; a run takes 0.00300 kWh, 25 % less than full; " in lines_of(measured)["el2n-0.5"]["verdict"]
    assert lines_of(outcome(*ran))["el2n-0.5"]["energy"] is None


@pytest.mark.parametrize(("name", "value"), [("task", "regression"), ("data", {"name": "b", "fingerprint": "x"})])
def test_runs_of_different_data_are_not_compared(ran, name, value):
    plan, folder, states = ran
    other = replace(states[1], result={**states[1].result, name: value})
    with pytest.raises(DataError, match=f"runs of different {name} are not compared: "):
        outcome(plan, folder, [states[0], other])


def test_verdicts_are_about_metrics_of_which_more_is_better(ran):
    with pytest.raises(DataError, match=r"no verdict can be about 'nll'\. Allowed: accuracy\."):
        outcome(*ran, metric="nll")


def test_a_written_outcome_is_read_as_it_was_and_holds_no_path(ran, tmp_path):
    comparison = outcome(*ran)
    write_comparison(tmp_path, comparison)
    assert read_comparison(tmp_path) == json.loads(json.dumps(comparison))
    assert str(ran[1]) not in (tmp_path / "comparison.json").read_text()


def converging(state, rising):
    one = {"rising": rising, "points_per_epoch": 4.0 + state.cell.seed, "error": 1.0, "epoch_rows": 50}
    return replace(state, result={**state.result, "convergence": one})


def test_methods_whose_training_had_not_finished_are_named(ran):
    plan, folder, states = ran
    unfinished = {("full", 0), ("full", 2), ("el2n", 1)}
    seen = [converging(state, (state.cell.method, state.cell.seed) in unfinished) for state in states]
    comparison = outcome(plan, folder, seen)
    lines = lines_of(comparison)
    assert comparison["unfinished"] == ["full"]  # el2n in one seed of three only
    expected = {"seeds": [0, 2], "points_per_epoch": 5.0, "error": 1.0, "epoch_rows": 50}
    assert (lines["full"]["unfinished"], lines["el2n-0.5"]["unfinished"]) == (expected, None)
    assert outcome(*ran)["unfinished"] == []  # of older runs it is not known
    seen = [converging(state, True) for state in states]
    assert lines_of(outcome(plan, folder, seen))["el2n-0.5"]["verdict"].endswith("rose by 5.0 points per epoch")


def test_a_rule_that_was_given_up_has_chosen_too(ran):
    plan, folder, states = ran
    races = ({"rule": "cover", "chose": ["hardest", "cover"]}, {"rule": "cover"}, {"rule": "cover", "chose": ["cover"]})
    left = iter(races)
    told = [
        replace(state, result={**state.finished, "race": next(left)}) if state.cell.method == "el2n" else state
        for state in states
    ]
    lines = lines_of(outcome(plan, folder, told))
    assert lines["el2n-0.5"]["rules"] == {"cover": 2, "hardest, then cover": 1}
    assert lines["easiest-0.5"]["rules"] == {}
