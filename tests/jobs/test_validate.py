from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datadiet.data.load import load_configured
from datadiet.jobs.validate import check_config, check_with_data
from datadiet.registry import names, problems_of
from toys import TOYS, toy_config

OPTIONS: dict[str, dict[str, Any]] = {"window": {"offset": 0.1}, "top_reducible": {"scores_from": "file"}}


@pytest.mark.parametrize("kind", TOYS)
def test_selectors_that_suit_the_task_and_the_data_are_not_refused(tmp_path: Path, kind: str) -> None:
    data = load_configured(toy_config(tmp_path, kind))
    for select in names("select", "in_batch"):
        if not problems_of("select", select, task=TOYS[kind].task):
            config = toy_config(tmp_path, kind, select=select, **OPTIONS.get(select, {}))
            check_with_data(config, check_config(config, resume=True), data)


def test_data_and_diet_are_left_as_they_are(tmp_path: Path) -> None:
    config = toy_config(tmp_path, select="directed(directions.amber=easy)", floor=0)
    diet = check_config(config)
    check_with_data(config, diet, load_configured(config))
    assert diet.options.select_options == {"directions": {"amber": "easy"}}
