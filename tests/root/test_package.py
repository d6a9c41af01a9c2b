from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

import datadiet as dd
from datadiet.errors import ArgumentError, DataError, Problems, percent_hint, quoted, unknown


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_loads_nothing_heavy():
    loaded = run("import sys, datadiet; print(*sorted(m for m in sys.modules if '.' not in m))").split()
    assert not {"torch", "transformers", "numpy", "pandas", "datasets", "pyarrow"} & set(loaded)


@pytest.mark.parametrize("name", sorted(set(dd.__all__) - {"__version__"}))
def test_every_public_name_is_there(name):
    assert getattr(dd, name) is not None


def test_no_module_imports_itself_by_way_of_others():
    """Imports under TYPE_CHECKING count: a circle there hides parts that only work together."""
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("datadiet", cache_dir=None)
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()


def test_unknown_public_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'diat'"):
        _ = dd.diat


def test_using_the_library_draws_nothing_from_global_generators():
    code = """
import random, numpy as np, torch, sklearn.cluster  # whose import draws
from datadiet.diet.diet import Diet
from datadiet import registry
before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
diet = Diet(select="uncertain", warmup_epochs=0); diet.begin(50, epochs=4); diet.plan(0)
for name in registry.names("select"):
    options = {"window": {"offset": 0.1}, "drop_quota": {"recalls": {0: 0.5, 1: 0.9}}}.get(name, {})
    if "features" in registry.find("select", name).needs:
        options["features"] = np.cos(np.arange(150.0)).reshape(50, 3)
    if "entropy" in registry.find("select", name).needs:
        options["entropy"] = np.ones(50)
    values, groups = np.linspace(0, 1, 50, dtype=np.float32), np.arange(50) % 2
    registry.load("select", name)(values, 20, seed=1, epoch=1, groups=groups, **options)
assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
"""
    run(code)


def test_problems_are_collected():
    problems = Problems()
    problems.share("keep", 70)
    problems.whole("epochs", 0, least=1)
    problems.whole("floor", True)
    problems.choice("task", "clasification", ["classification"])
    with pytest.raises(ArgumentError) as caught:
        problems.raise_any()
    assert caught.value.problems == (
        "keep must be in (0, 1], got 70. Did you mean 0.7?",
        "epochs must be a whole number, at least 1, got 0.",
        "floor must be a whole number, at least 0, got True.",
        "unknown task 'clasification'; did you mean 'classification'? Allowed: classification.",
    )
    assert str(caught.value).startswith("- keep")


def test_values_in_messages_are_cut_and_cannot_steer_a_terminal():
    assert quoted("a" * 1000) == "'" + "a" * 199 + " ... (1,000 characters)"
    assert quoted(list(range(1000))).startswith("[0, 1, 2")
    assert len(quoted(list(range(1000)))) < 230
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert quoted(nested) == "a deeply nested list"
    error = DataError("red \x1b[31m, right to left \u202e, half \ud800, é")
    assert str(error) == r"red \x1b[31m, right to left \u202e, half \ud800, é"
    names = [f"c{i}" for i in range(20_000)]
    assert unknown("column", "c1x", names).endswith("and 19,900 more.")
    assert len(unknown("column", "x" * 10**6, names)) < 2500


def test_hints():
    assert percent_hint(0.5) == percent_hint("x") == percent_hint(1000) == ""
    assert "did you mean" not in unknown("score", "zzz", ["el2n"])
