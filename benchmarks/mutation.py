"""How many small faults the tests notice: a mutation count, the same for two trees of the project.

    python -m benchmarks.mutation plan OTHER_TREE plan.json    draws faults in functions that both trees have alike
    python -m benchmarks.mutation run plan.json out.json        puts each fault into this tree and runs its tests
    python -m benchmarks.mutation compare before.json after.json

A fault is one change of one function: a comparison, a number, an operator or a truth value is turned. It is noticed if
the tests of the function's room fail. Each tree is copied before it is changed; nothing of it is touched.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SECONDS = 240  # a fault that makes the tests hang is noticed
# rooms of the source whose faults are drawn, and the tests that have to notice them, in the older and the newer tree
ROOMS = {
    "selectors": ("selectors",),
    "scores": ("scores",),
    "history": ("scores", "test_history.py"),
    "data": ("data",),
    "noise": ("noise", "suspects", "test_noise.py", "test_class_probabilities.py"),
    "suspects": ("noise", "suspects"),
    "diet": ("diet", "test_schedules.py", "test_adaptive.py", "test_tolerance.py", "test_drift.py"),
    "comparison": ("compare", "comparison"),
    "compare": ("compare", "comparison"),
    "store": ("store", "score_file", "test_dynamics_table.py"),
    "tasks": ("tasks", "models", "test_training_loss.py"),
    "gradients": ("scoring", "gradients"),
    "scoring": ("scoring", "gradients", "test_scoring.py", "test_embedding.py"),
}
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def functions(tree: Path) -> dict[tuple[str, str], tuple[Path, ast.FunctionDef]]:
    """Functions at the top of modules, by room and name; names that a room has twice are left out."""
    found: dict[tuple[str, str], list[tuple[Path, ast.FunctionDef]]] = {}
    for path in sorted((tree / "src" / "datadiet").rglob("*.py")):
        parts = path.relative_to(tree / "src" / "datadiet").parts
        room = parts[0] if len(parts) > 1 else path.stem
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                found.setdefault((room, node.name), []).append((path, node))
    return {key: places[0] for key, places in found.items() if len(places) == 1}


def bare(node: ast.FunctionDef) -> str:
    """The body of a function without its docstring, as text that formatting does not change."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return "\n".join(ast.unparse(statement) for statement in body)


def faults(node: ast.FunctionDef) -> Iterator[ast.FunctionDef]:
    """Every function that differs from this one by one fault."""
    count = sum(1 for _ in _sites(node))
    for place in range(count):
        changed = copy.deepcopy(node)
        site, attribute, number = list(_sites(changed))[place]
        _turn(site, attribute, number)
        yield changed


def _sites(node: ast.FunctionDef) -> Iterator[tuple[ast.AST, str, int]]:
    start = 1 if ast.get_docstring(node) is not None else 0
    for statement in node.body[start:]:
        for inner in ast.walk(statement):
            if isinstance(inner, ast.Compare):
                yield from ((inner, "ops", place) for place, one in enumerate(inner.ops) if type(one) in SWAPS)
            elif isinstance(inner, (ast.BinOp, ast.BoolOp)) and type(inner.op) in SWAPS:
                yield inner, "op", 0
            elif isinstance(inner, ast.Constant) and type(inner.value) in (int, float, bool):
                yield inner, "value", 0


def _turn(site: Any, attribute: str, place: int) -> None:
    if attribute == "ops":
        site.ops[place] = SWAPS[type(site.ops[place])]()
    elif attribute == "op":
        site.op = SWAPS[type(site.op)]()
    else:
        site.value = not site.value if isinstance(site.value, bool) else site.value + 1


def plan(other: Path, number: int, seed: int) -> list[dict[str, Any]]:
    """Faults of functions that stand alike in this tree and the other, room by room in turn."""
    here, there = functions(ROOT), functions(other)
    by_name = {(name, bare(node)): (room, path, node) for (room, name), (path, node) in there.items()}
    drawn: list[dict[str, Any]] = []
    generator = random.Random(seed)
    keys = sorted(here)
    generator.shuffle(keys)
    for room, name in keys:
        node = here[room, name][1]
        match = by_name.get((name, bare(node)))
        changes = list(faults(node))
        if room not in ROOMS or match is None or not changes or match[0] not in ROOMS:
            continue
        fault = generator.randrange(len(changes))
        drawn.append({"room": room, "name": name, "fault": fault, "other": match[0]})
    generator.shuffle(drawn)
    return drawn[:number]


def run(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether the tests of its room notice each fault."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".mypy_cache", ".ruff_cache")
        shutil.copytree(ROOT, tree, ignore=ignored)
        places = functions(tree)
        for entry in entries:
            names = ((entry["room"], entry["name"]), (entry["other"], entry["name"]))
            key = next((key for key in names if key in places), None)
            if key is None:
                raise SystemExit(f"{entry['name']} is no longer in this tree: draw the plan anew.")
            path, node = places[key]
            text = path.read_text(encoding="utf-8")
            changed = list(faults(node))[entry["fault"]]
            lines = text.splitlines(keepends=True)
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            body = ast.unparse(ast.fix_missing_locations(changed)) + "\n"
            path.write_text("".join(lines[: first - 1]) + body + "".join(lines[node.end_lineno :]), encoding="utf-8")
            began = os.times().elapsed
            noticed = _fails(tree, ROOMS[key[0]])
            path.write_text(text, encoding="utf-8")
            results.append({**entry, "noticed": noticed})
            print(f"{len(results)}/{len(entries)} {key[0]}:{entry['name']} #{entry['fault']}: "
                  f"{'noticed' if noticed else 'MISSED'} ({os.times().elapsed - began:.0f} s)", flush=True)  # fmt: skip
    return results


def _fails(tree: Path, tests: tuple[str, ...]) -> bool:
    there = [str(tree / "tests" / name) for name in tests if (tree / "tests" / name).exists()]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *there]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in (0, 1, 2):  # such as a usage error; 2 = the fault breaks the collection of a test
        raise SystemExit(done.stdout.decode()[-2000:] + done.stderr.decode()[-2000:])
    return done.returncode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("plan", "run", "compare"))
    parser.add_argument("paths", nargs=2, type=Path)
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    one, two = options.paths
    if options.verb == "plan":
        two.write_text(json.dumps(plan(one.resolve(), options.number, options.seed), indent=1), encoding="utf-8")
    elif options.verb == "run":
        two.write_text(json.dumps(run(json.loads(one.read_text(encoding="utf-8"))), indent=1), encoding="utf-8")
    else:
        before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (one, two))
        for name, entries in (("before", before), ("after", after)):
            print(f"{name}: {sum(entry['noticed'] for entry in entries)} of {len(entries)} faults noticed")
        lost = [old for old, new in zip(before, after, strict=True) if old["noticed"] and not new["noticed"]]
        print(*(f"lost: {entry['room']}:{entry['name']} #{entry['fault']}" for entry in lost), sep="\n")


if __name__ == "__main__":
    main()
