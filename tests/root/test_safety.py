"""No source reads data in a form that runs code: no pickle, no unsafe YAML, no weights that are pickled objects."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import datadiet

SOURCES = sorted(Path(datadiet.__file__).parent.rglob("*.py"))
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "os.system"}


EXCEPTIONS = {"registry.py": "eval"}  # of the annotations of our own functions


def unsafe(source: str) -> Iterator[str]:
    """What may run code that stands in data, as `line: what`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").partition(".")[0]}
        else:
            names = set()
        yield from (f"{node.lineno}: import {name}" for name in sorted(names & UNSAFE_MODULES))
        if not isinstance(node, ast.Call):
            continue
        call, options = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        is_load = call in ("torch.load", "np.load", "numpy.load", "pd.read_pickle")
        safe = options.get("weights_only") == "True" or options.get("allow_pickle") == "False"
        if call in UNSAFE_CALLS or (is_load and not safe) or options.get("trust_remote_code") == "True":
            yield f"{node.lineno}: {call}"
        if options.get("shell") == "True":
            yield f"{node.lineno}: {call}(shell=True)"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_in_data_is_run(path: Path) -> None:
    found = unsafe(path.read_text(encoding="utf-8"))
    assert [what for what in found if what.split(": ")[1] != EXCEPTIONS.get(path.name)] == []


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from joblib import load", "import torch\ntorch.load(path)", "np.load(path)"),
        *("yaml.load(text)", "eval(text)", "subprocess.run(text, shell=True)", "f(name, trust_remote_code=True)"),
        "torch.load(path, weights_only=False)",
    ],
)
def test_what_would_be_found(source: str) -> None:
    assert list(unsafe(source))


def test_the_safe_forms() -> None:
    assert not list(unsafe("np.load(p, allow_pickle=False)\ntorch.load(p, weights_only=True)\nyaml.safe_load(t)"))
