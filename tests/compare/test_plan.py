from __future__ import annotations

import pytest

from datadiet import registry
from datadiet.compare.plan import Cell, Plan, check_plan, methods_from, presets
from datadiet.config import MOST_EPOCHS
from datadiet.diet.schedule import Schedule
from datadiet.errors import ArgumentError
from datadiet.jobs.validate import check_config

OPTIONS = {"data": "snips", "task": "intent-slot", "epochs": 6, "batch_size": 10}
HARDEST = {"select": "hardest"}


def plan(*methods: str, **changes) -> Plan:
    usual = {"options": OPTIONS, "methods": methods_from(methods or ["el2n"]), "keeps": [0.5, 0.2], "seeds": [0, 1]}
    usual["baselines"] = ["full", "random", "short"]
    return Plan(**{**usual, **changes})


def test_methods_are_interleaved_within_a_seed_and_named_as_a_folder_can_be():
    assert Cell("el2n", "1:0.7,4:0.5", 0).name == "el2n-1~0.7+4~0.5-seed0"
    names = [cell.name for cell in plan("el2n", "uncertain", keeps=[0.5]).cells()]
    seed = ["full", "el2n-0.5", "uncertain-0.5", "random-0.5", "short-0.5"]
    assert names == [f"{name}-seed{number}" for number in (0, 1) for name in seed]


@pytest.mark.parametrize(
    ("methods", "changes", "arms"),
    [
        ([], {"baselines": ["short"]}, "el2n-0.5 short-0.5 el2n-0.2 short-0.2"),
        ([], {"baselines": []}, "el2n-0.5 el2n-0.2"),
        (["random"], {"keeps": [0.5]}, "full random-0.5 short-0.5"),  # random is not run twice
        (
            [{"mine": {"keep": 0.3, "select": "hardest"}}],
            {"keeps": [0.5]},
            "full mine-0.3 short-0.3 random-0.5 short-0.5",
        ),
        ([{"mine": {"keep": 0.3}}], {"keeps": [0.5]}, "full mine-0.3 short_mine-0.3 random-0.5 short-0.5"),  # races
        (["el2n"], {"keeps": [0.5], "baselines": ["full", "cover"]}, "full el2n-0.5 cover-0.5"),
        (["cover"], {"keeps": [0.5], "baselines": ["cover", "short"]}, "cover-0.5 short-0.5"),
        (["divbs"], {"keeps": [0.5], "baselines": ["full", "short"]}, "full divbs-0.5"),
    ],
)
def test_arms(methods, changes, arms):
    assert [cell.arm for cell in plan(*methods, seeds=[0], **changes).cells()] == arms.split()


def test_short_has_the_steps_of_the_diet_and_its_own_schedule():
    config = plan().config(Cell("short", 0.5, 1, steps_of="el2n"), "runs/x", rows=100)
    planned = Schedule(num_examples=100, epochs=6, keep=0.5, batch=10)
    assert (config.keep, config.max_steps, config.seed) == (1.0, planned.total_steps, 1)
    assert planned.total_steps == 10 + 5 * 5


def test_a_tolerance_stands_beside_full_and_a_short_with_its_steps():
    made = plan("el2n", {"tolerance": {"tolerance": 0.5}}, keeps=[0.5], seeds=[3])
    cells = {cell.arm: cell for cell in made.cells()}
    assert list(cells) == ["full", "el2n-0.5", "random-0.5", "short-0.5", "tolerance-0.5", "short_tolerance-0.5"]
    found = made.config(cells["tolerance-0.5"], "runs/x", rows=100)
    assert (found.tolerance, found.keep, found.max_steps) == (0.5, 0.5, None)  # keep as it is when nobody gives it
    short = cells["short_tolerance-0.5"]
    assert short.follows == cells["tolerance-0.5"]
    found = made.config(short, "runs/x", rows=100, steps=31)
    assert (found.tolerance, found.keep, found.max_steps) == (None, 1.0, 31)
    with pytest.raises(ValueError, match="needs the steps of the run that it follows"):
        made.config(short, "runs/x", rows=100)
    assert all(cell.follows is None for name, cell in cells.items() if not name.startswith("short_tolerance"))


def test_a_method_with_another_number_of_steps_gets_a_short_of_its_own():
    made = plan("el2n", "static_random", keeps=[0.5], seeds=[0])
    cells = {cell.method: cell for cell in made.cells()}
    assert list(cells) == ["full", "el2n", "static_random", "random", "short", "short_static_random"]
    assert made.config(cells["short_static_random"], "runs/x", rows=100).max_steps == 6 * 5
    assert (made.short_of("el2n", 0.5), made.short_of("static_random", 0.5)) == ("short", "short_static_random")
    assert made.short_of("el2n", None) is None


def test_methods_with_as_many_steps_share_a_short():
    made = plan("el2n", "longest", keeps=[0.5], seeds=[0])  # chosen once, but as many of them in every epoch
    assert [cell.method for cell in made.cells()] == ["full", "el2n", "longest", "random", "short"]
    assert made.short_of("longest", 0.5) == "short"
    stepping = plan("el2n", "longest", keeps=["1:0.7,3:0.3"], seeds=[0])  # chosen once, it does not step down
    assert stepping.short_of("longest", "1:0.7,3:0.3") == "short_longest"


def test_a_method_may_name_its_own_keep():
    assert plan({"mine": {"keep": 0.3}}, keeps=[0.5]).config(Cell("mine", 0.3, 0), "runs/x").keep == 0.3


def test_a_name_of_a_method_is_enough_unless_it_is_declared_otherwise():
    for kind in ("score", "select", "in_batch"):
        for method in registry.methods(kind):
            options = presets().get(method.name)
            assert (options is None) == (method.preset is None), method.name
            assert options is None or method.name in (options.get("score"), options.get("select"))
    alone = {name for kind in ("score", "select", "in_batch") for name in registry.names(kind)} - presets().keys()
    assert alone == {
        *("negative_pvi", "reducible_loss", "irreducible_loss", "teacher_el2n", "teacher_divergence", "top_reducible"),
        *("drop_quota", "directed", "dsir", "classifier", "rds_plus", "less", "metadata", "dealrec"),
        *("perplexity", "held_out_perplexity", "ifd", "predictive_strength", "capability_gap"),
    }
    assert presets()["stratified"] == {"score": "el2n", "select": "stratified"}
    assert presets()["self_influence"]["scores_from"] == "full"


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_accepted_by_the_checks_of_a_run(name, tmp_path):
    task = "regression" if name == "absolute_error" else OPTIONS["task"]  # the one score of numbers
    made = plan(name, options={**OPTIONS, "task": task})
    check_plan(made)
    config = made.config(Cell(name, 0.5, 0), str(tmp_path / "run"))
    assert config.keep == 0.5
    check_config(config, resume=True)


def test_all_problems_at_once():
    bad = plan({"mine": {"keeep": 1}}, keeps=[70, 1.0], seeds=[1, 1], margin=0, options={**OPTIONS, "seed": 3})
    with pytest.raises(ArgumentError) as error:
        check_plan(bad)
    text = str(error.value)
    for said in (
        "seed is set by the comparison", "unknown option of mine 'keeep'; did you mean 'keep'?", "Did you mean 0.7?",
        "keep 1 is full data", "a seed is named twice", "margin must be above 0",
    ):  # fmt: skip
        assert said in text
    assert len(error.value.problems) == 6


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["el2m"], "unknown method 'el2m'; did you mean 'el2n'?"),
        (["el2m"], "Any other combination is written out in YAML"),
        (["ucb", "el2n_ema"], "'ucb' and 'el2n_ema' are the same method under two names"),
        (["longest", "length"], "'longest' and 'length' are the same method under two names"),
        (["diet", "auto"], "'diet' and 'auto' are the same method under two names"),
        ([{"mine": 3}], "the method 'mine' must be a mapping of options, got 3"),
        (["el2n", "el2n"], "the method 'el2n' is named twice"),
    ],
)
def test_methods_that_do_not_exist(names, said):
    with pytest.raises(ArgumentError, match=said):
        methods_from(names)


def test_no_method_is_refused():
    with pytest.raises(ArgumentError, match=r"no method is compared\. Allowed: prototypes, el2n, "):
        check_plan(plan(methods={}))
    with pytest.raises(ArgumentError, match="full is a baseline"):
        check_plan(plan(methods={"full": {}}))


def test_a_method_that_races_has_a_short_that_waits_for_its_steps():
    made = plan("auto", "el2n", keeps=[0.5], seeds=[3])
    cells = {cell.method: cell for cell in made.cells()}
    assert list(cells) == ["full", "auto", "el2n", "random", "short", "short_auto"]
    assert (made.races("auto"), made.races("el2n"), made.races("random")) == (True, False, False)
    assert (made.short_of("auto", 0.5), made.short_of("el2n", 0.5)) == ("short_auto", "short")
    assert cells["short_auto"].follows == cells["auto"]
    assert cells["short"].follows is None
    found = made.config(cells["short_auto"], "runs/x", rows=100, steps=39)
    assert (found.keep, found.max_steps) == (1.0, 39)
    assert made.config(cells["short_auto"], "runs/x", rows=100, steps=99).max_steps == 60  # all there are
    with pytest.raises(ValueError, match="needs the steps of the run that it follows"):
        made.config(cells["short_auto"], "runs/x", rows=100)


def test_cover_is_drawn_for_the_keep_of_the_methods():
    made = Plan(OPTIONS, methods_from(["el2n"]), [0.5], [0])
    cells = {cell.method: cell for cell in made.cells()}
    assert list(cells) == ["full", "el2n", "random", "cover", "short"]
    found = made.config(cells["cover"], "runs/x", rows=100)
    assert (found.select, found.keep) == ("cover", 0.5)


def test_a_method_within_batches_has_no_short():
    made = plan("divbs", "el2n")
    assert (made.short_of("divbs", 0.5), made.short_of("el2n", 0.5)) == (None, "short")


def test_a_method_that_learns_from_the_run_on_everything():
    made = plan("vog", "distilled", options={**OPTIONS, "checkpoint_every": 0}, keeps=[0.5], seeds=[3])
    cells = {cell.method: cell for cell in made.cells()}
    for name, option in (("vog", "scores_from"), ("distilled", "teacher")):
        assert cells[name].follows == cells["full"]
        assert getattr(made.config(cells[name], f"runs/{cells[name].name}"), option) == "runs/full-seed3"
    full = made.config(cells["full"], "runs/full-seed3")
    assert (full.keep_checkpoints, full.checkpoint_every) == (True, 1)
    with pytest.raises(ArgumentError, match="vog learns from the run on everything: leave full among the baselines"):
        check_plan(plan("vog", baselines=["random"]))


def test_where_runs_find_their_epochs_each_method_has_a_short_with_its_steps():
    made = plan("el2n", "uncertain", options={**OPTIONS, "epochs": "auto"}, keeps=[0.5], seeds=[3])
    cells = {cell.arm: cell for cell in made.cells()}
    arms = ["full", "el2n-0.5", "uncertain-0.5", "random-0.5", "short-0.5", "short_uncertain-0.5"]
    assert list(cells) == arms
    assert made.config(cells["el2n-0.5"], "runs/x", rows=100).epochs == "auto"
    assert [cells[name].follows for name in arms[-2:]] == [cells["el2n-0.5"], cells["uncertain-0.5"]]
    short = made.config(cells["short_uncertain-0.5"], "runs/x", rows=100, steps=31)
    assert (short.epochs, short.max_steps, short.keep) == (MOST_EPOCHS, 31, 1.0)
    shorts = [made.short_of(name, 0.5) for name in ("el2n", "uncertain", "random")]
    assert shorts == ["short", "short_uncertain", None]
    with pytest.raises(ValueError, match="needs the steps of the run that it follows"):
        made.config(cells["short-0.5"], "runs/x", rows=100)


def test_epochs_that_are_found_belong_to_the_whole_comparison():
    with pytest.raises(ArgumentError, match="epochs of mine must be a number, got auto"):
        check_plan(plan({"mine": {"epochs": "auto"}}))
    with pytest.raises(ArgumentError, match="tolerance must be left out with epochs auto"):
        check_plan(plan({"tolerance": {"tolerance": 0.5}}, options={**OPTIONS, "epochs": "auto"}))
