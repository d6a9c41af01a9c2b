from __future__ import annotations

import math
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are run from the repository and not installed

from benchmarks import documents  # noqa: E402


@pytest.mark.parametrize("page", documents.PAGES)
def test_generated_parts_are_up_to_date(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert documents.generate(text) == text, f"{page} differs from the declarations: run: make index"


def test_every_part_stands_on_one_page():
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in documents.PAGES)
    assert sorted(name for _, name, _ in documents.MARKED.findall(text)) == sorted(documents.PARTS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<!-- generated:nothing -->\n<!-- /generated -->", "unknown part nothing; allowed: scores"),
        ("<!-- generated:scores -->\n", "opened and not closed"),
    ],
)
def test_bad_markers_are_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        documents.generate(text)


@pytest.mark.parametrize("mark", ['"moderate"', '"no_such_score"', '"el2n", kind="score", by="luck"', ""])
def test_marks_that_name_no_method_are_refused(mark, monkeypatch):
    tree = documents.ast.parse(f"@pytest.mark.proves({mark})\ndef test_it(): ...")
    monkeypatch.setattr(documents, "_test_files", lambda: (("test_made_up.py", tree),))
    with pytest.raises(ValueError, match="takes names of one kind"):
        documents.marked_tests()


def test_batteries_are_the_tests_parametrised_from_the_registry(monkeypatch):
    source = """
ROWS = [registry.load("select", name) for name in registry.names("select", "in_batch")]
battery = pytest.mark.parametrize("row", ROWS)
@battery
def test_all(row): ...
@pytest.mark.parametrize("x", [1])
def test_other(x): ...
@pytest.mark.parametrize("x", names("score", trait="forward"))
def test_some(x): ...
"""
    monkeypatch.setattr(documents, "_test_files", lambda: (("test_made_up.py", documents.ast.parse(source)),))
    everything, some = {"test_made_up.py": {""}}, {"test_made_up.py": {"trait `forward`"}}
    assert documents.batteries() == {"select": everything, "in_batch": everything, "score": some}


def test_snippets_of_extending_run():
    """Each in the module that it is for; the rows and the option, which are parts of something else, are left out."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.DOTALL)
    rooms = {"@score": "datadiet.scores.logits", "@selector": "datadiet.selectors.sampled", "import": None, '"""': None}
    defined = {}
    for block in blocks:
        room = next((room for start, room in rooms.items() if block.startswith(start)), "")
        if room != "":
            names = {"__name__": "extending"} if room is None else dict(vars(import_module(room)))
            exec(block, names)
            defined.setdefault(block.split("\n")[0], names)
    assert defined["import numpy as np"]["coin"]([0.1, 0.9, 0.5], 1, seed=0, epoch=0, chance=0.0).rows.tolist() == [1]
    assert defined["@selector("]["coin"]([0.1, 0.9, 0.5], 1, seed=0, epoch=0, chance=0.0).rows.tolist() == [1]
    logits, labels = torch.tensor([[0.0, 0.0]]), torch.tensor([1])
    for start in ("import torch", "@score("):
        assert defined[start]["focal"](logits, labels).item() == pytest.approx(0.25 * math.log(2))
