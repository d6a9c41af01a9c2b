"""The catalogue through the whole job: each way to choose trains on what it should, from one config."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datadiet.errors import ArgumentError, DataError
from datadiet.jobs.finetune import finetune
from datadiet.jobs.validate import check_config
from datadiet.store.run_folder import read_result
from datadiet.store.tables import read_table
from toys import toy_config

ROWS = 48


def plans_of(folder: Path):
    return read_table(folder / "plans").to_pandas()


@pytest.mark.parametrize(
    "options",
    [
        {"score": "cross_entropy", "select": "infobatch"},
        {"score": "aum", "select": "ccs(beta=0.1, strata=5)"},
        {"score": "length", "select": "hardest"},
        {"score": "prototypes", "select": "proportional"},
        {"select": "k_center"},
        {"select": "d2_pruning(neighbours=3)"},
        {"select": "balanced(select=uncertain)"},
        {"score": "forgetting", "select": "seta"},
        {"score": "grand_last_layer"},
        {"offset": "auto"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_half_of_the_rows_after_the_warm_up(tmp_path, options):
    result = finetune(toy_config(tmp_path, keep=0.5, epochs=3, refresh_every=1, **options))
    plans = plans_of(tmp_path / "run")
    sizes = plans.groupby("epoch").size()
    assert sizes[0] == ROWS
    assert ROWS // 4 <= sizes[1] <= ROWS // 2
    for name, value in options.items():
        assert str(result["diet"][name]).replace(" ", "") == str(value).replace(" ", "")
    if options.get("select") == "infobatch":
        assert plans[plans["epoch"] == 1]["weight"].sum() == pytest.approx(ROWS, rel=1e-4)
    else:
        assert set(plans["weight"]) == {1.0}


def test_a_teacher_is_asked_once_and_told_in_the_result(tmp_path):
    first = finetune(toy_config(tmp_path, keep=1.0, epochs=2, output=str(tmp_path / "teacher")))
    options = {"select": "random", "keep": 0.5, "epochs": 2, "teacher": str(tmp_path / "teacher")}
    taught = finetune(toy_config(tmp_path, **options))
    assert taught["teacher"] == {"model": "teacher", "seconds": pytest.approx(first["cost"]["finetune_s"])}
    assert taught["cost"]["examples_forward"] == taught["cost"]["examples_backward"] + ROWS
    assert read_result(tmp_path / "run")["teacher"]["model"] == "teacher"
    assert str(tmp_path) not in str(taught["teacher"])


def test_vog_comes_from_the_checkpoints_of_an_earlier_run(tmp_path):
    first = {"keep": 1.0, "epochs": 3, "keep_checkpoints": True, "output": str(tmp_path / "first")}
    finetune(toy_config(tmp_path, **first))
    finetune(toy_config(tmp_path, score="vog", scores_from=str(tmp_path / "first"), keep=0.5, static=True, epochs=2))
    assert plans_of(tmp_path / "run").groupby("epoch").size()[1] <= ROWS // 2
    bare = toy_config(tmp_path, score="vog", scores_from=str(tmp_path / "run"), output=str(tmp_path / "second"))
    with pytest.raises(ArgumentError, match="vog needs at least two checkpoints"):
        finetune(bare)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "nowhere"}, "teacher must be a saved model"),
        ({"teacher_temperature": 3.0}, "teacher_temperature has no effect without a teacher"),
        ({"select": "ccs(beta)"}, "options of ccs must be name=value"),
        ({"select": "ccs(betta=1)"}, "did you mean 'beta'"),
        ({"score": "scdpp"}, "did you mean 'scdp'"),
        ({"offset": "often"}, "offset must be a share or 'auto'"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_read(tmp_path, options, message):
    with pytest.raises(ArgumentError, match=message):
        check_config(toy_config(tmp_path, **options))


def test_a_score_that_nothing_here_can_make_says_where_it_comes_from(tmp_path):
    with pytest.raises((ArgumentError, DataError), match="write it with datadiet score"):
        finetune(toy_config(tmp_path, score="negative_pvi", keep=0.5))
    assert not (tmp_path / "run").exists()


def test_classes_are_named_by_their_names(tmp_path):
    config = toy_config(tmp_path, select="directed(directions.no=easy)", keep=0.5, epochs=2)
    with pytest.raises(ArgumentError, match="unknown class in directions 'no'"):
        finetune(config)
    assert np.all([not path.name.startswith("run") for path in tmp_path.iterdir()])
