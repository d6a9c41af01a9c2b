"""The notebooks of examples/ are committed as they are written: not run, and for a kernel that everybody has."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_there_is_one():
    assert [notebook.name for notebook in NOTEBOOKS] == ["compare_and_report.ipynb"]


@every_notebook
def test_a_notebook_is_committed_without_outputs(notebook):
    for cell in cells(notebook, "code"):
        assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]
        assert cell["metadata"] == {}


@every_notebook
def test_a_notebook_is_valid_and_for_the_usual_kernel(notebook):
    nbformat = pytest.importorskip("nbformat")
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    assert content.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in content.cells}) == len(content.cells)


@every_notebook
def test_a_failure_in_a_notebook_fails_its_run(notebook):
    """`!command` continues after a failure, and so does a process whose exit code is not checked."""
    code = ["".join(cell["source"]) for cell in cells(notebook, "code")]
    plain = "\n".join(line for text in code for line in text.splitlines() if not line.startswith("%"))
    calls = [node for node in ast.walk(ast.parse(plain)) if isinstance(node, ast.Call)]
    runs = [call for call in calls if ast.unparse(call.func) == "subprocess.run"]
    assert plain.count("returncode == 0") + plain.count("check=True") == len(runs) == 2


def test_a_notebook_ends_in_the_report():
    last = ["".join(cell["source"]) for cell in cells(EXAMPLES / "compare_and_report.ipynb", "code")][-3:]
    assert "dd.plot.frontier(" in last[0]
    assert "dd.report(" in last[1]
