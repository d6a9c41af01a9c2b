from __future__ import annotations

import pytest

from datadiet.compare.verdict import (
    answer,
    diets,
    rising_cell,
    state,
    state_comparison,
    table_metrics,
    unfinished_sentence,
    verdict,
)


def against(mean: float, half: float | None = 0.2, p: float | None = 0.01, needed: int | None = 4) -> dict:
    interval = None if half is None else {"low": mean - half, "high": mean + half}
    return {
        "mean": mean, "interval": interval, "p_not_worse": p, "margin": 0.5, "seeds": [0, 1, 2], "seeds_needed": needed,
    }  # fmt: skip


def line(**changes) -> dict:
    usual = {"name": "el2n-0.5", "method": "el2n", "comparable_times": True, "ceiling": 0.45, "energy": None}
    saved = {"finetune_s": {"median": 0.39, "interval": None}}
    return {**usual, "saved": saved, "against": {}, "p_not_worse_holm": None, **changes}


@pytest.mark.parametrize(
    ("entry", "sentence"),
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
            line(energy={"mean_kwh": 1.5, "saved": {"median": -0.02}, "estimated": False}),
            "saves 39 % of the fine-tuning time (ceiling 45 %); a run takes 1.50 kWh, 2 % more than full",
        ),
        (line(saved={"finetune_s": None}, against={"short": against(0.1, None, None)}),
         "against short at the same steps +0.1 in one seed"),
        (
            line(unfinished={"seeds": [0], "points_per_epoch": 4.24, "error": 1.7, "epoch_rows": 300}),
            "saves 39 % of the fine-tuning time (ceiling 45 %); unfinished: on dev it still rose by 4.2 points per "
            "epoch",
        ),
        (line(method="full"), "what the others are compared with"),
    ],
)  # fmt: skip
def test_verdicts(entry, sentence):
    assert verdict(entry) == sentence


def test_small_differences_have_the_decimals_of_their_interval():
    small = against(-0.0123) | {"interval": {"low": -0.0163, "high": -0.0083}}
    assert "(-0.012 ± 0.004, p = 0.01)" in verdict(line(against={"full": small}))
    rising = line(unfinished={"seeds": [0], "points_per_epoch": 0.0168, "error": 0.01, "epoch_rows": 300})
    assert rising_cell(rising) == "+0.02"
    assert verdict(rising).endswith("rose by 0.02 points per epoch")


GOOD, SHORT = {"full": against(-0.1), "short": against(0.1, 0.3)}, line(name="short-0.5", method="short", steps=40)


@pytest.mark.parametrize(
    ("changes", "short", "expected"),
    [
        ({"against": GOOD | {"short": against(1.0, 0.4)}, "p_not_worse_holm": 0.01}, SHORT, "pays"),
        ({"against": GOOD, "p_not_worse_holm": 0.01}, SHORT, "as_short"),  # at most 0.4 over short
        ({"against": GOOD | {"short": against(0.4, 1.0)}, "p_not_worse_holm": 0.01}, SHORT, "unclear"),
        ({"against": GOOD | {"short": against(0.4, 1.0)}, "p_not_worse_holm": 0.01},
         SHORT | {"p_not_worse_holm": 0.02}, "as_short"),
        ({"against": GOOD | {"short": against(-1.0, 0.4)}, "p_not_worse_holm": 0.01}, SHORT, "costs"),
        ({"against": GOOD | {"full": against(-1.0)}, "p_not_worse_holm": 0.6}, SHORT, "costs"),
        ({"against": GOOD, "p_not_worse_holm": 0.3}, SHORT, "unclear"),
        ({"against": {"full": against(-0.1)}, "p_not_worse_holm": 0.01}, None, "unclear"),  # no short
        ({"against": GOOD, "p_not_worse_holm": 0.01, "comparable_times": False}, SHORT, "unclear"),
        ({"against": GOOD, "p_not_worse_holm": 0.01, "saved": {"finetune_s": {"median": -0.1}}}, SHORT, "no_time"),
        ({"against": GOOD | {"short": against(-1.0, 0.4)}, "p_not_worse_holm": 0.01,
          "saved": {"finetune_s": {"median": -0.1}}}, SHORT, "costs"),
        ({"against": {"full": against(-1.0, None, None)}}, None, "unclear"),  # one seed shows nothing
    ],
)  # fmt: skip
def test_states(changes, short, expected):
    assert state(line(**changes), short) == expected


def compared(*lines: dict, baselines=("full", "short", "random")) -> dict:
    methods = {one["method"]: {} for one in lines if one["method"] not in baselines}
    return {"methods": list(lines), "plan": {"methods": methods, "baselines": list(baselines)}, "margin": 0.5}


def test_the_answer_is_that_of_the_best_method():
    usual = {"seeds": [0, 1, 2], "p_not_worse_holm": 0.01}
    pays = line(name="a-0.5", method="a", **usual, against=GOOD | {"short": against(1.0, 0.4)})
    faster = pays | {"name": "b-0.2", "method": "b", "saved": {"finetune_s": {"median": 0.7}}}
    worse = line(name="c-0.5", method="c", seeds=[0, 1, 2], against=GOOD | {"full": against(-2.0)})
    baseline = line(name="random-0.5", method="random", **usual, against=GOOD | {"short": against(2.0, 0.4)})
    everything = compared(worse, pays, faster, baseline, SHORT)
    assert [one["method"] for one in diets(everything)] == ["c", "a", "b"]
    assert answer(everything) | {"next": ""} == {"state": "pays", "method": "b-0.2", "next": ""}
    assert answer(compared(worse, SHORT))["state"] == "costs"
    short = compared(line(**usual, against=GOOD), SHORT)
    assert answer(short)["next"] == "Take fewer epochs: `short-0.5` trains on everything for 40 steps."
    assert answer(compared(baseline)) is None


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"seeds": [0], "against": {"full": against(-0.1, None, None, None)}}, "Run at least 3 seeds"),
        ({"against": GOOD | {"full": against(-0.2, 0.9, 0.2, 7)}}, "Run about 7 seeds."),
        ({"against": GOOD | {"full": against(-0.7, 0.9, 0.6, None)}}, "Keep more: at the measured loss"),
        ({"against": {"full": against(-0.1)}}, "Run the baselines `full` and `short` beside it."),
        ({"against": GOOD, "comparable_times": False}, "Run one job at a time"),
        ({"against": GOOD, "unfinished": {"points_per_epoch": 3.0}}, "Train longer first"),
    ],
)
def test_what_would_settle_it(changes, advice):
    found = answer(compared(line(**{"seeds": [0, 1, 2], **changes}), SHORT))
    assert found["state"] == "unclear"
    assert advice in found["next"]


def test_many_unfinished_methods_are_counted_and_not_named():
    rising = [{"seeds": [0], "points_per_epoch": 1.0 + place, "error": 1.7, "epoch_rows": 300} for place in range(5)]
    lines = [line(name=f"m{place}", unfinished=one) for place, one in enumerate(rising)]
    assert unfinished_sentence({"methods": lines[:1]}).count("1.0 points with m0 (epochs of 300 rows)") == 1
    text = unfinished_sentence({"methods": [*lines, line()]})
    assert "per epoch by 1.0 to 5.0 points with 5 of 6 methods (the table has each)." in text
    assert unfinished_sentence({"methods": [line()]}) == ""


def test_model_cards_state_the_verdict_once(tmp_path):
    card = tmp_path / "runs" / "el2n-0.5-seed0" / "model" / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("# A model\n\n| a | b |\n")
    entry = line(
        seeds=[0, 1, 2], metrics={"accuracy": {"mean": 91.234, "deviation": 0.3}}, verdict="saves 50 %; all <b>"
    )
    comparison = {"metric": "accuracy", "split": "test", "methods": [entry]}
    for _ in range(2):
        state_comparison(tmp_path, comparison)
        assert card.read_text() == (
            "# A model\n\n| a | b |\n\n## Comparison\n\n"
            "`el2n-0.5`, 3 seeds, accuracy 91.23 ± 0.30 on the test split: saves 50 %; all \\<b\\>.\n"
        )


def test_the_verdict_says_which_rule_auto_ended_with() -> None:
    saved = {"finetune_s": {"median": 0.39, "interval": None}}
    line = {"method": "auto", "saved": saved, "ceiling": 0.45, "energy": None, "against": {}, "seeds": [0, 1, 2]}
    said = verdict({**line, "comparable_times": True, "rules": {"cover": 2, "hardest": 1}})
    assert said.endswith("chose cover in 2 runs and hardest in 1 run")


def test_language_models_show_the_nll_that_they_are_judged_by():
    figures = {"mean": 4.4631, "deviation": 0.006}
    metrics = dict.fromkeys(("likelihood", "token_accuracy", "nll", "perplexity"), figures)
    assert table_metrics({"methods": [{"metrics": metrics}]}) == ["likelihood", "token_accuracy", "nll"]
    assert table_metrics({"methods": [{"metrics": {"accuracy": figures, "nll": figures}}]}) == ["accuracy"]
