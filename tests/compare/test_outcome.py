from __future__ import annotations

import io
import json
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from datadiet.cli.tables import comparison_table
from datadiet.compare.outcome import outcome
from datadiet.compare.run import CellState, read_comparison, write_comparison
from datadiet.compare.verdict import state_comparison, verdict
from datadiet.errors import DataError
from datadiet.store.run_folder import read_result
from toys import made_up_plan, pretend


def made_up(plan, folder):
    """A plan, its folder and its finished runs."""
    states = []
    for cell in plan.cells():
        config = folder / f"{cell.name}.yaml"
        config.write_text(plan.config(cell, str(folder / "runs" / cell.name), rows=100, steps=40).to_yaml())
        pretend(str(config))
        states.append(CellState(cell, "done", jobs=1, result=read_result(folder / "runs" / cell.name)))
    return plan, folder, states


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Two methods and three seeds."""
    return made_up(made_up_plan("el2n", "easiest"), tmp_path_factory.mktemp("comparison"))


def lines_of(found) -> dict:
    return {line["name"]: line for line in found["methods"]}


def test_each_method_stands_beside_its_baselines(ran):
    found = outcome(*ran)
    lines = lines_of(found)
    assert list(lines) == ["full", "el2n-0.5", "easiest-0.5", "random-0.5", "short-0.5"]
    assert lines["full"]["against"] == {}
    assert set(lines["el2n-0.5"]["against"]) == {"full", "random", "short"}
    assert set(lines["random-0.5"]["against"]) == {"full", "short"}
    assert set(lines["short-0.5"]["against"]) == {"full", "random"}


def test_a_tolerance_is_not_compared_with_rows_drawn_for_a_keep(tmp_path):
    found = outcome(*made_up(made_up_plan("el2n", {"tolerance": {"tolerance": 0.5}}), tmp_path))
    against = {line["name"]: set(line["against"]) for line in found["methods"]}
    assert against["el2n-0.5"] == {"full", "random", "short"}
    assert against["tolerance-0.5"] == {"full", "short"}
    assert against["short_tolerance-0.5"] == {"full"}


def test_figures_are_those_of_the_runs(ran):
    plan, folder, states = ran
    line = lines_of(outcome(plan, folder, states))["el2n-0.5"]
    runs = [read_result(folder / "runs" / f"el2n-0.5-seed{seed}")["metrics"]["test"] for seed in range(3)]
    assert line["metrics"]["accuracy"]["mean"] == pytest.approx(100 * sum(run["accuracy"] for run in runs) / 3)
    assert line["metrics"]["nll"]["mean"] == pytest.approx(0.3)  # no points
    # 100 + seed seconds against 50 + seed: the median is that of seed 1
    assert line["saved"]["finetune_s"]["median"] == pytest.approx(1 - 51 / 101)
    assert line["ceiling"] == 0.5
    assert line["steps"] == 40


def test_pairs_are_of_the_same_rows_whatever_their_order(ran, tmp_path):
    plan, folder, states = ran
    expected = lines_of(outcome(plan, folder, states))["el2n-0.5"]
    path = folder / "runs" / "el2n-0.5-seed0" / "predictions.parquet"
    table = pd.read_parquet(path)
    try:
        table.sample(frac=1, random_state=0).to_parquet(path)
        assert lines_of(outcome(plan, folder, states))["el2n-0.5"] == expected
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
    failed = [replace(states[1], status="failed", result=None, error="no memory"), *states[:1], *states[2:]]
    found = outcome(plan, folder, failed)
    assert found["runs"][0]["error"] == "no memory"
    assert lines_of(found)["el2n-0.5"]["seeds"] == [1, 2]
    nothing = outcome(plan, folder, [replace(state, status="failed", result=None, error="x") for state in states])
    assert nothing["methods"] == []


@pytest.mark.parametrize("jobs", [2, None])
def test_times_are_comparable_where_each_run_had_the_machine_to_itself(ran, jobs):
    plan, folder, states = ran
    shared = [replace(state, jobs=jobs) if state.cell.name == "el2n-0.5-seed1" else state for state in states]
    found = outcome(plan, folder, shared, price_per_hour=3.6)
    assert outcome(*ran)["comparable_times"] is True
    assert found["comparable_times"] is False
    lines = lines_of(found)
    assert {name: line["comparable_times"] for name, line in lines.items()} == {
        "full": True, "el2n-0.5": False, "easiest-0.5": True, "random-0.5": True, "short-0.5": True,
    }  # fmt: skip
    assert lines["el2n-0.5"]["verdict"].startswith("times are not comparable: not every run is known")
    assert lines["easiest-0.5"]["verdict"].startswith("saves 50 %")
    assert lines["el2n-0.5"]["price"] is None
    assert [run["price"] is None for run in found["runs"]] == [state.jobs != 1 for state in shared]
    assert [run["jobs"] for run in found["runs"]] == [state.jobs for state in shared]


def test_nothing_is_comparable_with_a_full_run_that_shared_the_machine(ran):
    plan, folder, states = ran
    shared = [replace(state, jobs=2) if state.cell.method == "full" else state for state in states]
    assert not any(line["comparable_times"] for line in outcome(plan, folder, shared)["methods"])


def test_money_follows_the_price(ran):
    found = outcome(*ran, price_per_hour=3.6)
    runs = {run["name"]: run for run in found["runs"]}
    assert runs["full-seed2"]["price"] == pytest.approx(0.112)  # 100 + 2 + 10 seconds at 0.001
    line = lines_of(found)["el2n-0.5"]
    assert line["price"] == pytest.approx({"mean": 0.061, "saved": 0.05})
    assert "; a run costs 0.0610, 0.0500 less than full; " in line["verdict"]
    again = lines_of(outcome(*ran, price_per_hour=36.0))["el2n-0.5"]
    assert again["price"] == pytest.approx({"mean": 0.61, "saved": 0.5})
    without = outcome(*ran)
    assert without["price_per_hour"] is lines_of(without)["el2n-0.5"]["price"] is without["runs"][0]["price"] is None
    assert "costs" not in lines_of(without)["el2n-0.5"]["verdict"]


def with_energy(states, *, estimated=True, seeds=(0, 1, 2)):
    """Full takes 4 Wh, the others 3."""
    kwh = {state.cell.name: 0.004 if state.cell.method == "full" else 0.003 for state in states}
    return [
        replace(state, result={**state.result, "energy": {"kwh": kwh[state.cell.name], "estimated": estimated}})
        if state.cell.seed in seeds
        else state
        for state in states
    ]


def test_the_table_on_the_screen_has_room_for_money_and_energy(ran):
    plan, folder, states = ran
    found = outcome(plan, folder, with_energy(states), price_per_hour=3.6)
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(comparison_table(found))
    lines = console.file.getvalue().splitlines()
    head = next(line for line in lines if line.startswith("method"))
    assert head.split()[-4:] == ["ceiling", "price", "Wh", "seeds"]
    full = next(line for line in lines if line.startswith("full"))
    assert full.split()[-3:] == ["0.111", "4.00", "3"]
    assert "…" not in console.file.getvalue()


def test_energy_is_that_of_the_runs_that_were_measured(ran):
    plan, folder, states = ran
    found = outcome(plan, folder, with_energy(states, seeds=(0, 2)))
    lines = lines_of(found)
    assert lines["full"]["energy"] == {"mean_kwh": pytest.approx(0.004), "saved": None, "estimated": True}
    assert lines["el2n-0.5"]["energy"]["saved"]["median"] == pytest.approx(0.25)
    assert "; a run takes 0.00300 kWh (estimated), 25 % less than full; " in lines["el2n-0.5"]["verdict"]
    assert [run["energy"] is None for run in found["runs"] if run["method"] == "full"] == [False, True, False]
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


def test_model_cards_state_the_verdict_once(ran):
    plan, folder, states = ran
    found = outcome(plan, folder, states)
    card = folder / "runs" / "el2n-0.5-seed0" / "model" / "README.md"
    card.parent.mkdir(exist_ok=True)
    card.write_text("# A model\n\n| a | b |\n")
    state_comparison(folder, found)
    first = card.read_text()
    assert first.startswith("# A model\n\n| a | b |\n\n## Comparison\n\n`el2n-0.5`, 3 seeds, accuracy ")
    assert "saves 50 % of the fine" in first
    state_comparison(folder, found)
    assert card.read_text() == first


def test_written_and_read(ran, tmp_path):
    found = outcome(*ran)
    write_comparison(tmp_path, found)
    again = read_comparison(tmp_path)
    assert again == json.loads(json.dumps(found))
    old = json.loads(json.dumps(found))
    for entry in old["methods"]:
        del entry["comparable_times"], entry["price"], entry["energy"]
    write_comparison(tmp_path, old)
    assert read_comparison(tmp_path) == again  # what an earlier version has written can be read
    write_comparison(tmp_path, found)
    assert str(ran[1]) not in (tmp_path / "comparison.json").read_text()
    with pytest.raises(DataError, match="holds no comparison"):
        read_comparison(tmp_path / "nowhere")
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_comparison(tmp_path)


def against(mean: float, half: float | None = 0.2, p: float | None = 0.01, needed: int | None = 4) -> dict:
    interval = None if half is None else {"low": mean - half, "high": mean + half}
    return {
        "mean": mean, "interval": interval, "p_not_worse": p, "margin": 0.5, "seeds": [0, 1, 2], "seeds_needed": needed,
    }  # fmt: skip


def line(**changes) -> dict:
    saved = {"finetune_s": {"median": 0.39, "interval": None}}
    usual = {"method": "el2n", "comparable_times": True, "saved": saved, "ceiling": 0.45, "against": {}}
    return {**usual, "p_not_worse_holm": None, **changes}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            line(against={"full": against(-0.1), "short": against(0.1, 0.3)}),
            "saves 39 % of the fine-tuning time (ceiling 45 %); not worse than full by more than 0.5 points "
            "(-0.1 ± 0.2, p = 0.01); against short at the same steps +0.1 ± 0.3: not shown",
        ),
        (
            line(against={"full": against(-0.3, p=0.2, needed=9), "random": against(0.6)}, p_not_worse_holm=0.4),
            "saves 39 % of the fine-tuning time (ceiling 45 %); not shown to be within 0.5 points of full "
            "(-0.3 ± 0.2, p = 0.4): about 9 seeds would do; against random at the same keep +0.6 ± 0.2: better",
        ),
        (
            line(against={"full": against(-2.0, p=0.9, needed=None), "random": against(-0.6)}, ceiling=None),
            "saves 39 % of the fine-tuning time; not shown to be within 0.5 points of full (-2.0 ± 0.2, p = 0.9), and "
            "at this difference no number of seeds would show it; against random at the same keep -0.6 ± 0.2: worse",
        ),
        (line(saved={"finetune_s": {"median": -0.1}}), "takes 10 % more fine-tuning time"),
        (
            line(
                price={"mean": 12.0, "saved": -0.25},
                energy={"mean_kwh": 1.5, "saved": {"median": -0.02}, "estimated": False},
            ),
            "saves 39 % of the fine-tuning time (ceiling 45 %); a run costs 12.0, 0.250 more than full; "
            "a run takes 1.50 kWh, 2 % more than full",
        ),
        (line(saved={"finetune_s": None}, against={"short": against(0.1, None, None)}),
         "against short at the same steps +0.1 in one seed"),
        (line(method="full"), "what the others are compared with"),
    ],
)  # fmt: skip
def test_verdicts(entry, said):
    assert verdict(entry) == said
