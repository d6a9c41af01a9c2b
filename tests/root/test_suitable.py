from __future__ import annotations

import pytest

from datadiet.data.schema import TASKS
from datadiet.diet.options import GIVEN_SCORES
from datadiet.scores import SCORES
from datadiet.scores.dynamics import DYNAMIC_SCORES
from datadiet.selectors import IN_BATCH, SELECTORS
from datadiet.suitable import score_problems, selector_problems

ALL_SCORES = (*SCORES, *DYNAMIC_SCORES, *GIVEN_SCORES)


def unsuitable(task: str) -> set[str]:
    return {score for score in ALL_SCORES if score_problems(score, task)}


def refused(task: str) -> set[str]:
    return {select for select in (*SELECTORS, *IN_BATCH) if selector_problems(select, {}, task)}


def test_scores_by_task() -> None:
    two = {"teacher_el2n", "teacher_divergence", "negative_pvi"}
    assert unsuitable("classification") == {"absolute_error"}
    assert unsuitable("intent-slot") == {"absolute_error", "negative_pvi"}
    assert unsuitable("multi-label") == unsuitable("token-classification") == {"absolute_error", *two}
    dynamics = {"confidence", "variability", "correctness", "threshold_closeness", "forgetting", "aum"}
    assert unsuitable("regression") == {"cross_entropy", "margin", "entropy", "vog", *dynamics, *two}


def test_selectors_by_task() -> None:
    quotas = {"balanced", "partly_balanced", "quota", "drop_quota", "directed"}
    assert refused("regression") == refused("token-classification") == quotas
    assert refused("multi-label") == {"drop_quota"}
    assert refused("classification") == refused("intent-slot") == set()


@pytest.mark.parametrize("task", TASKS)
def test_names_that_do_not_exist_are_for_others_to_tell(task: str) -> None:
    assert score_problems("el2m", task) == selector_problems("hardets", {}, task) == []
