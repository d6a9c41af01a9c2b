"""A finished run and a comparison, shared by the tests of the pages; neither may be changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from datadiet.compare.outcome import outcome
from datadiet.compare.run import write_comparison
from datadiet.jobs.finetune import finetune
from toys import hostile_folder, made_up_plan, pretended_states, tiny_model_folder, toy_config


@pytest.fixture(scope="package")
def run(tmp_path_factory) -> Path:
    """A finished run on a toy task, refreshed twice."""
    config = toy_config(tmp_path_factory.mktemp("run"), epochs=5, keep=0.5, dropout=0.1)
    finetune(config)
    return Path(config.output)


@pytest.fixture(scope="package")
def hostile_run(tmp_path_factory) -> Path:
    """A finished run on hostile texts and labels, without a noise guard."""
    folder = tmp_path_factory.mktemp("hostile")
    data, model = str(hostile_folder(folder)), str(tiny_model_folder(folder))
    config = toy_config(folder, data=data, model=model, epochs=4, offset=0.0)
    finetune(config)
    return Path(config.output)


@pytest.fixture(scope="package")
def comparison(tmp_path_factory) -> Path:
    """Two made-up methods, one run of which failed, with measured energy."""
    folder, plan = tmp_path_factory.mktemp("compare"), made_up_plan("el2n", "easiest")
    states = []
    for state in pretended_states(plan, folder):
        energy = {"kwh": state.result["cost"]["total_s"] / 1e5, "estimated": True}
        states.append(replace(state, result=state.result | {"energy": energy}))
        if state.cell.name == "easiest-0.5-seed2":
            states[-1] = replace(state, status="failed", result=None, error="no <memory>")
    write_comparison(folder, outcome(plan, folder, states))
    return folder
