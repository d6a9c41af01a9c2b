from __future__ import annotations

import re

import pytest

import datadiet as dd
from datadiet.errors import ArgumentError, DataError
from datadiet.jobs.finetune import finetune
from datadiet.reporting import plot
from toys import toy_config


def test_figures_for_a_notebook(run, tmp_path):
    assert dd.plot.data_map(run).axes[0].get_ylabel() == "confidence: its mean"
    assert dd.plot.score_distribution(run).axes
    assert dd.plot.turnover(run).axes[0].get_ylim() == (0, 100)
    with pytest.raises(DataError, match="no comparison"):
        dd.plot.frontier(run)
    with pytest.raises(DataError, match="no finished run"):
        dd.plot.turnover(tmp_path)


def test_figures_that_a_run_does_not_have(tmp_path):
    config = toy_config(tmp_path, "regression", epochs=2, keep=1.0)
    finetune(config)
    with pytest.raises(ArgumentError, match="has no gold probabilities: a data map needs classes"):
        dd.plot.data_map(config.output)
    with pytest.raises(ArgumentError, match="has 0 selections: a turnover needs at least two"):
        dd.plot.turnover(config.output)


def test_frontier_has_a_point_for_each_method(comparison):
    names = {text.get_text() for text in dd.plot.frontier(comparison).axes[0].texts}
    assert names == {"full", "el2n-0.5", "easiest-0.5", "random-0.5", "short-0.5"}


def test_svg_takes_the_colours_of_the_page(run):
    text = plot.svg(dd.plot.data_map(run))
    assert text.startswith("<svg viewBox=")
    assert "var(--ink)" in text
    assert plot.INK not in text
    assert text == plot.svg(dd.plot.data_map(run))


def test_a_figure_shortens_its_coordinates_and_not_its_numbers():
    figure, axes = plot.new_axes()
    axes.plot([0.001, 0.002], [1, 2])
    axes.set_xticks([0.0015], ["0.0015"])
    text = plot.svg(figure)
    assert ">0.0015</text>" in text
    assert not re.search(r'd="[^"]*\d\.\d{3}', text)


def test_the_axis_of_a_single_epoch_has_whole_numbers():
    _, axes = plot.new_axes()
    axes.plot([4], [0.5], marker="o")
    plot.epoch_axis(axes, "epoch")
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [4]


def test_a_race_is_drawn_on_the_side_of_its_winner():
    duel = {"epoch": 1, "champion": "cover", "challenger": "hardest", "difference": -0.2, "interval": [-0.3, -0.1]}
    lost = duel | {"epoch": 3, "difference": 0.1, "interval": [0.0, 0.2], "winner": "cover"}
    axes = plot.race_figure([duel | {"winner": "hardest"}, lost]).axes[0]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == [-0.2, 0.1]
    assert points[0].get_color() != points[1].get_color()
    assert axes.get_yticklabels()[0].get_text() == "epoch 2: hardest - cover"


def test_labels_of_the_frontier_keep_apart(comparison):
    figure = dd.plot.frontier(comparison)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not [(a, b) for place, a in enumerate(boxes) for b in boxes[:place] if a.overlaps(b)]


def test_rows_that_were_left_out_first_come_first(run):
    picture = dd.plot.trained(run).axes[0].images[0].get_array()[..., 3]
    first = [int((row == 0).argmax()) if (row == 0).any() else len(row) for row in picture]
    assert first == sorted(first)
    assert 0 < picture.mean() < 1
