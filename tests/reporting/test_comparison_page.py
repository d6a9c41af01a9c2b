from __future__ import annotations

import re

import datadiet as dd
from datadiet.compare.run import read_comparison, write_comparison
from datadiet.reporting import report


def table_of(folder) -> str:
    report(folder)
    return (folder / "report.md").read_text(encoding="utf-8")


def test_the_page_of_a_comparison(comparison):
    page = report(comparison).read_text(encoding="utf-8")
    for title in ("Quality and time", "Time", "Per class"):
        assert f'<h2 id="{title.lower().replace(" ", "-")}">{title}</h2>' in page
    assert page.index("Does a diet pay here?") < page.index("Quality against time") < page.index("Quality and time")
    assert ">padding</th>" in page
    assert "20.0 %" in page  # of the positions of a made-up run
    assert "easiest-0.5-seed2 failed: no &lt;memory&gt;" in page
    assert "el2n-0.5</b> saves 50 % of the fine-tuning time (ceiling 50 %)" in page
    assert "the power of the processor is an estimate, not measured" in page
    assert "Training examples" not in page


def test_the_table_of_a_comparison(comparison):
    text = table_of(comparison)
    head = "fine-tuning saved | total saved | ceiling | kWh of a run | energy saved | seeds |\n"
    assert text.startswith("**Does a diet pay here?** Cannot tell yet")
    assert f"| method | steps | accuracy | {head}" in text
    assert re.search(r"\n\| full \| 40 \| [\d.]+ ± [\d.]+ \|  \|  \|  \| 0.00111 \|  \| 3 \|", text)
    assert re.search(r"\n\| el2n-0.5 \|.*\| 0.000610 \| 45\.0 % \| 3 \|\n", text)
    assert re.search(r"\n- `random-0.5` saves 50 % of the fine-tuning time", text)
    assert "Held equal: epochs" in text


def test_a_comparison_of_unfinished_training_says_so_first(comparison, tmp_path):
    content = read_comparison(comparison)
    content["methods"][0]["unfinished"] = {"seeds": [0], "points_per_epoch": 4.24, "error": 1.7, "epoch_rows": 600}
    write_comparison(tmp_path, content)
    (tmp_path / "runs").symlink_to(comparison / "runs")
    text = table_of(tmp_path)
    assert "ceiling | kWh of a run | energy saved | still rising on dev | seeds |" in text
    assert re.search(r"\n\| full .*\| \\\+4.2 \| 3 \|\n", text)
    assert "**This is a comparison of unfinished training: in the last epochs dev still rose" in text
    page = report(tmp_path).read_text(encoding="utf-8")
    assert page.index('<p class="bad">This is a comparison of unfinished training') < page.index("Quality and time")
    assert "Still rising: points per epoch at the end of training" in page
    assert "unfinished" not in report(comparison).read_text(encoding="utf-8")


def test_times_that_cannot_be_compared_are_left_out(comparison, tmp_path):
    content = read_comparison(comparison)
    for line in content["methods"]:
        if line["method"] == "el2n":
            line |= {"comparable_times": False, "energy": None}
    write_comparison(tmp_path, content)
    (tmp_path / "runs").symlink_to(comparison / "runs")
    names = {text.get_text() for text in dd.plot.frontier(tmp_path).axes[0].texts}
    assert names == {"full", "easiest-0.5", "random-0.5", "short-0.5"}
    row = next(line for line in table_of(tmp_path).splitlines() if "| el2n" in line)
    assert re.search(r"± [\d.]+ \|  \|  \| 50\.0 % \|  \|  \| 3 \|$", row)
