"""The house in figures: files, layers, circles, walks, names, docstrings and start-up times, beside their bars.

    python -m benchmarks.house            the table (`make house`)
    python -m benchmarks.house --check    what can be read off the source alone; exit code 1 past a bar
    python -m benchmarks.house --tree     lines per module
    python -m benchmarks.house --write    the tree in docs/architecture.md, a line per module

Nothing is run but the start-up times and the count of layers; everything else is read off the source.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.report.markdown import wrapped

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "datadiet"
REPEATS = 5
PAGE = ROOT / "docs" / "architecture.md"
MARKS = ("<!-- generated:tree -->", "<!-- /generated -->")
# names that say nothing about what they hold, and former modules and classes that only their author could decode
VAGUE = {"found", "known", "held", "wanted", "told", "said"}
CODED = {
    *("lapses", "first_sights", "watching", "whole_set", "material", "wish", "beforehand", "deciding", "choosing"),
    *("measures", "drift", "current_values", "training_values", "near", "same_text", "suitable", "entries", "made"),
    *("Material", "Unseen", "WHERE", "Wish", "Beforehand", "Decider", "Chooser", "Known", "Measure", "Watch"),
}
# a walk: the places that handle a thing or a decision about it, as `module:name`
WALKS = {
    "A. --keep 0.5 to the sampler": (
        "cli.options:with_flags cli.finetune:finetune config:DietConfig jobs.validate:check_config "
        "diet.options:resolve diet.schedule:Schedule diet.diet:Diet selectors.ranked:hardest "
        "training.epochs:BetweenEpochs training.trainer:DietMixin training.sampler:DietSampler",
        12,
    ),
    "B. logits of a batch to kept rows": (
        "training.trainer:DietMixin tasks.base:Task tasks.sequence:ClassificationTask diet.diet:Diet "
        "diet.options:ScoreSpec scores.reduce:example_values scores.logits:el2n diet.values:LatestValues "
        "noise.monitor:NoiseMonitor diet.schedule:Schedule diet.choose:BoundSelector selectors.ranked:hardest "
        "store.tables:RunTables training.epochs:BetweenEpochs training.sampler:DietSampler",
        15,
    ),
    "C. --score el2n to the function": (
        "cli.options:with_flags config:DietConfig diet.options:resolve registry:find scores.logits:el2n",
        6,
    ),
}


@dataclass(frozen=True)
class Line:
    """One line of the table; `bar` is None for a figure without one."""

    name: str
    figure: float
    bar: float | None = None
    unit: str = ""
    structural: bool = False

    @property
    def holds(self) -> bool:
        return self.bar is None or self.figure <= self.bar


def files(folder: Path = SOURCE) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def lines(paths: Iterable[Path]) -> int:
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def imports(*, lazy: bool) -> dict[str, set[str]]:
    """Modules that each module imports: at the top of the file, TYPE_CHECKING ones included, or anywhere."""
    modules = {module_of(path) for path in files()}
    edges: dict[str, set[str]] = {}
    for path in files():
        own = module_of(path)
        targets = {target for node in _nodes(tree_of(path), lazy) for target in _targets(node, modules)}
        edges[own] = targets - {own}
    return edges


def _nodes(tree: ast.Module, lazy: bool) -> Iterator[ast.AST]:
    if lazy:
        yield from ast.walk(tree)
        return
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        yield node
        waiting += list(ast.iter_child_nodes(node))


def _targets(node: ast.AST, modules: set[str]) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.module:
        for name in node.names:
            inner = f"{node.module}.{name.name}"
            if inner in modules or node.module in modules:
                yield inner if inner in modules else node.module
    elif isinstance(node, ast.Import):
        yield from (name.name for name in node.names if name.name in modules)


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected groups of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in sorted(edges.get(module, ())):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            place = stack.index(module)
            group, stack[place:] = stack[place:], []
            if len(group) > 1:
                groups.append(sorted(group))

    for module in sorted(edges):
        if module not in index:
            visit(module)
    return groups


def longest_chain(edges: dict[str, set[str]]) -> list[str]:
    """The longest chain of imports at the top of files; of circles there is none that ends."""
    if circles(edges):
        return []

    @cache
    def chain(module: str) -> tuple[str, ...]:
        return (module, *max((chain(target) for target in edges.get(module, ())), key=len, default=()))

    return list(max((chain(module) for module in edges), key=len))


def own_edges() -> dict[str, set[str]]:
    """Imports at the top of files, without the package itself, which loads its API lazily."""
    edges = imports(lazy=False)
    return {module: targets - {"datadiet"} for module, targets in edges.items() if module != "datadiet"}


def layers() -> int:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return len(settings["tool"]["importlinter"]["contracts"][0]["layers"])


def vague_names() -> list[str]:
    """Uses of the names of `VAGUE` as variables, and definitions of `CODED`."""
    uses = []
    for path in files():
        for node in ast.walk(tree_of(path)):
            name = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else None
            if name in VAGUE:
                uses.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")  # type: ignore[attr-defined]
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name in CODED:
                uses.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
        if path.stem in CODED:
            uses.append(str(path.relative_to(ROOT)))
    return uses


def undocumented() -> list[str]:
    """Public modules, classes, functions and methods without a docstring."""
    missing = []
    for path in files():
        tree = tree_of(path)
        if path.name != "__main__.py" and ast.get_docstring(tree) is None:
            missing.append(str(path.relative_to(ROOT)))
        missing += [f"{path.relative_to(ROOT)}:{name}" for name in _bare(tree.body, "")]
    return missing


def _bare(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            name = f"{prefix}{node.name}"
            overload = any("overload" in ast.unparse(one) for one in node.decorator_list)
            if ast.get_docstring(node) is None and not overload:
                yield name
            if isinstance(node, ast.ClassDef):
                yield from _bare(node.body, f"{name}.")


def wide_lines() -> list[str]:
    """Committed lines of code and prose over 120 characters; addresses and tables are left out."""
    done = subprocess.run(["git", "ls-files", "*.py", "*.md"], capture_output=True, text=True, check=True, cwd=ROOT)
    wide = []
    for name in done.stdout.split():
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
            if len(line) > 120 and "http" not in line and not line.lstrip().startswith("|"):
                wide.append(f"{name}:{number}")
    return wide


def tree() -> str:
    """The modules, room by room, each with the first sentence of its docstring: the part of docs/architecture.md."""
    parts = []
    for folder in [SOURCE, *sorted(path for path in SOURCE.iterdir() if (path / "__init__.py").is_file())]:
        name = "the package itself" if folder == SOURCE else f"`{folder.name}/`"
        inner = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py" or folder == SOURCE]
        room = "" if folder == SOURCE else f": {_summary(folder / '__init__.py')}"
        listed = "\n".join(f"- `{path.name}`: {_summary(path)}" for path in inner)
        parts.append(f"**{name}**{room}\n\n{listed}")
    return "\n\n".join(parts)


def _summary(path: Path) -> str:
    first = (ast.get_docstring(tree_of(path)) or "").split("\n\n")[0]
    return " ".join(first.split())


def documented(text: str) -> str:
    """docs/architecture.md with its tree anew."""
    before, _, rest = text.partition(MARKS[0])
    return f"{before}{MARKS[0]}\n\n{wrapped(tree())}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def walk(steps: str) -> int:
    """The number of files of a walk; every place must exist."""
    for step in steps.split():
        module, _, name = step.partition(":")
        path = SOURCE / (module.replace(".", "/") + ".py")
        names = {getattr(node, "name", None) for node in tree_of(path).body}
        if name not in names:
            raise SystemExit(f"{step} is on a walk and does not exist: write the walk anew in {Path(__file__).name}.")
    return len({step.partition(":")[0] for step in steps.split()})


def seconds(*command: str) -> float:
    """The median wall time of a command in a process of its own."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=True, cwd=ROOT)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def structure() -> list[Line]:
    sources = files()
    inside = own_edges()
    chain = longest_chain(inside)
    return [
        Line("source files", len(sources), 165, structural=True),
        Line("modules in the root package", sum(path.parent == SOURCE for path in sources), 10, structural=True),
        Line("layers", layers(), 12, structural=True),
        Line("longest import chain", len(chain), 10),
        Line("import circles, TYPE_CHECKING included", len(circles(inside)), 0, structural=True),
        Line("source lines", lines(sources), 29_000),
        Line("test lines", lines(files(ROOT / "tests")), 17_000),
        *(Line(f"walk {name}, files", walk(steps), bar) for name, (steps, bar) in WALKS.items()),
        Line("public names without a docstring", len(undocumented()), 0, structural=True),
        Line("vague names left", len(vague_names()), 0),
        Line("lines over 120 characters", len(wide_lines()), 0, structural=True),
    ]  # fmt: skip


def start_up() -> list[Line]:
    return [
        Line("import datadiet", seconds("-c", "import datadiet"), 0.3, " s"),
        Line("datadiet --help", seconds("-m", "datadiet", "--help"), 0.6, " s"),
        Line("datadiet methods", seconds("-m", "datadiet", "methods"), 0.6, " s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--tree", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--list", choices=("names", "docstrings", "wide", "circles", "chain"))
    options = parser.parse_args()
    if options.list:
        edges = own_edges()
        listed = {"names": vague_names, "docstrings": undocumented, "wide": wide_lines}
        chosen = listed.get(options.list)
        print(
            *(chosen() if chosen else circles(edges) if options.list == "circles" else longest_chain(edges)), sep="\n"
        )
        return
    if options.write:
        PAGE.write_text(documented(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    if options.tree:
        print(*(f"{lines([path]):5}  {path.relative_to(SOURCE.parent)}" for path in files()), sep="\n")
        return
    table = [line for line in structure() if line.structural or not options.check]
    table += [] if options.check else start_up()
    for line in table:
        shown = f"{line.figure:.2f}{line.unit}" if line.unit else f"{line.figure:,.0f}"
        bar = "" if line.bar is None else f"<= {line.bar:g}{line.unit}" if line.unit else f"<= {line.bar:,.0f}"
        print(f"{line.name:42} {shown:>10}  {bar:>10}  {'' if line.holds else 'MISSED'}")
    if options.check and not all(line.holds for line in table):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
