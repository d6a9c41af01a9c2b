"""Write the generated parts of the documentation from the declarations: methods, flags, and which test proves what.

    python -m benchmarks.documents            # write them; part of `make index`
    python -m benchmarks.documents --check    # exit 1 if a page differs from what the declarations give

A part stands between `<!-- generated:NAME -->` and `<!-- /generated -->`; the names are those of `PARTS`. Methods and
their options come from `registry.json`, flags from the command line itself, proofs from the mark
`@pytest.mark.proves("el2n", by="golden")` of tests and from tests that are parametrised from the registry.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import typer

import datadiet
from benchmarks.report.markdown import wrapped
from datadiet import config, registry
from datadiet.cli import app
from datadiet.config import OPTIONS, PANELS, flag_name
from datadiet.jobs.predict import PredictConfig
from datadiet.jobs.score_config import ScoreConfig
from datadiet.jobs.select_config import SelectConfig

ROOT = Path(__file__).parent.parent
PAGES = ("docs/methods.md", "docs/cli.md", "docs/proofs.md", "docs/api.md", "docs/examples.md")
MARKED = re.compile(r"(<!-- generated:([\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
# what a test compares with; `planted` has a column of its own
BY = {
    "golden": "published code",
    "hand": "values by hand",
    "definition": "the definition, written out",
    "brute": "brute force",
    "library": "another library",
    "identity": "an identity",
    "planted": "planted data",
}
NO_FLAGS = ("help", "as_json", "debug")


def pipe_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [list(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell or '-' for cell in line)} |" for line in lines)


# ---- methods


def methods_of(kind: str, need: str | None = None, without: str | None = None) -> str:
    """One row per method of a kind; `need` and `without` choose by what a method needs."""
    chosen = [
        method
        for method in registry.methods(kind)
        if (need is None or need in method.needs) and (without is None or without not in method.needs)
    ]
    facts = {
        "formula": lambda method: method.formula,
        "reads": lambda method: method.inputs,
        "costs": lambda method: method.cost,
        "options": lambda method: options_of(method.options.values()),
        "known to lose": lambda method: method.loses,
        "paper": lambda method: method.paper,
    }
    columns = {name: [fact(method) for method in chosen] for name, fact in facts.items()}
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    columns["measured"] = [measured(method.evidence) for method in chosen]
    rows = zip([f"`{method.name}`" for method in chosen], *columns.values(), strict=True)
    return pipe_table(["name", *columns], rows)


def options_of(options: Iterable[Any]) -> str:
    return "; ".join(f"`{_assignment(option)}`{_allowed(option)}" for option in options)


def _assignment(option: Any) -> str:
    if option.required:
        return option.name

    return registry.format_call("", {option.name: option.default})[1:-1]


def _allowed(option: Any) -> str:
    if option.bound is not None:
        return f" ({', or '.join((str(option.bound), *option.choices))})"
    return f" ({', '.join(option.choices)})" if option.choices else " (required)" if option.required else ""


def measured(evidence: str | None) -> str:
    return "not yet measured here" if evidence is None else f"[{evidence}](benchmarks.md#{evidence})"


def score_needs() -> str:
    """Which scores need what, and which flags of `datadiet score` give it."""
    by_needs: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for method in registry.methods("score"):
        by_needs[method.needs].append(f"`{method.name}`")
    rows = (
        ["; and ".join(registry.NEEDS[need] for need in needs), ", ".join(names)] for needs, names in by_needs.items()
    )
    return pipe_table(["needs", "scores"], rows)


def tasks() -> str:
    rows = (
        [f"`{task.name}`", task.formula, f"`{task.facts['metrics'][0]}`", ", ".join(task.facts["metrics"][1:])]
        for task in registry.methods("task")
    )
    return pipe_table(["task", "prediction", "main metric", "other metrics"], rows)


# ---- flags


def flags(command: str) -> str:
    """The flags of a command that are its own, or of `finetune` panel by panel."""
    if command == "finetune":
        return "\n\n".join(f"**{panel}**\n\n{_flag_table(rows)}" for panel, rows in _finetune_flags())
    parameters, declared = _parameters(command), _declared(command)
    own = [item for item in parameters if _is_own(item, command, declared)]
    shared = [flag_name(item.name) for item in parameters if item not in own]
    text = _flag_table([_row(item, declared) for item in own])
    return (
        text if not shared else f"{text}\n\nFlags shared with `finetune`: {', '.join(f'`{flag}`' for flag in shared)}."
    )


def _finetune_flags() -> Iterator[tuple[str, list[list[str]]]]:
    parameters = _parameters("finetune")
    for panel in PANELS:
        yield panel, [_row(item) for item in parameters if getattr(item, "rich_help_panel", None) == panel]


def _flag_table(rows: list[list[str]]) -> str:
    allowed = any(row[2] for row in rows)
    head = ["flag", "default", "allowed", "meaning"]
    return pipe_table(*((head, rows) if allowed else ([*head[:2], head[3]], [[*row[:2], row[3]] for row in rows])))


@cache
def _parameters(command: str) -> list[Any]:
    """The options of a command that `--help` or `--help-all` shows, as click has them."""
    group: Any = typer.main.get_command(app)
    shown = [
        item
        for item in group.commands[command].params
        if not getattr(item, "hidden", False) or getattr(item, "rich_help_panel", "") in PANELS
    ]
    return [item for item in shown if item.param_type_name == "option" and item.name not in NO_FLAGS]


def _declared(command: str) -> Mapping[str, Any]:
    """The options of a command that has a config of its own."""
    configs: dict[str, type] = {"predict": PredictConfig, "score": ScoreConfig, "select": SelectConfig}
    return config.declared(configs[command]) if command in configs else {}


def _is_own(item: Any, command: str, declared: Mapping[str, Any]) -> bool:
    """Whether a flag is not, or not in the same words, a flag of `finetune`."""
    if item.name not in OPTIONS or item.name in declared or command == "predict":
        return True
    return (
        not declared
        and item.help is not None
        and OPTIONS[item.name].help.split(".")[0] not in item.help.replace("\\", "")
    )


def _row(item: Any, declared: Mapping[str, Any] | None = None) -> list[str]:
    option = {**OPTIONS, **(declared or {})}.get(item.name)
    switch = bool(getattr(item, "is_flag", False))
    default = "off" if switch else "" if item.default is None or callable(item.default) else f"`{item.default}`"
    allowed = ""
    if option is not None and not switch:
        names = option.choices() if callable(option.choices) else option.choices
        allowed = ", ".join(f"`{name}`" for name in names) or ("" if option.bound is None else str(option.bound))
        allowed += f", or `{option.word}`" if option.word and item.help == option.help else ""
    return [f"`{item.opts[0]}`", default, allowed, (item.help or "").replace("\\[", "[")]


# ---- proofs


class Proof(NamedTuple):
    """One test and the methods that it proves."""

    test: str
    kind: str
    names: tuple[str, ...]
    by: str


def proofs(kind: str) -> str:
    """Which tests prove each method of a kind, and the batteries that all of them pass."""
    collected = [proof for proof in marked_tests() if proof.kind == kind]
    rows = []
    for name in registry.names(kind):
        own = [proof for proof in collected if name in proof.names]
        matches = "; ".join(
            f"{BY[by]}: {_listed(tests)}"
            for by in BY
            if by != "planted" and (tests := [proof.test for proof in own if proof.by == by])
        )
        rows.append([f"`{name}`", matches, _listed([proof.test for proof in own if proof.by == "planted"])])
    text = pipe_table(["method", "agrees with", "finds planted data"], rows)
    files = batteries().get(kind, {})
    listed = [
        f"`{file}`" + ("" if "" in which else f" ({' or '.join(sorted(which))})") for file, which in files.items()
    ]
    return f"{text}\n\nBatteries over the registry: {', '.join(listed)}." if listed else text


def _listed(tests: Iterable[str]) -> str:
    return ", ".join(f"`{test}`" for test in tests)


@cache
def _test_files() -> tuple[tuple[str, ast.Module], ...]:
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return tuple(
        (path.relative_to(ROOT / "tests").as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths
    )


def marked_tests() -> list[Proof]:
    """The marks `proves` of all tests.

    Raises:
        ValueError: If a mark names a method that does not exist, or one of several kinds without saying which.
    """
    return [
        _proof(mark, f"{file}::{node.name}")
        for file, tree in _test_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.proves"
    ]


def _proof(mark: ast.Call, test: str) -> Proof:
    names = tuple(ast.literal_eval(name) for name in mark.args)
    given = {str(item.arg): ast.literal_eval(item.value) for item in mark.keywords}
    kinds = [kind for kind in registry.KINDS if all(registry.find(kind, name) for name in names)]
    kind, by = given.pop("kind", kinds[0] if len(kinds) == 1 else None), given.pop("by", "hand")
    if not names or kind not in kinds or by not in BY or given:
        raise ValueError(
            f"{test}: the mark `proves` takes names of one kind, kind= if several have them, by= of {[*BY]}"
        )
    return Proof(test, kind, names, by)


def batteries() -> dict[str, dict[str, set[str]]]:
    """Test files with tests parametrised from the registry, by kind, and which methods: `""` for all of the kind."""
    files: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for file, tree in _test_files():
        named: dict[str, set[tuple[str, str]]] = {}  # module-level names that hold methods of the registry
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                named[node.targets[0].id] = _members_in(node.value, named)
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for kind, which in {member for mark in node.decorator_list for member in _members_in(mark, named)}:
                    files[kind][file].add(which)
    return files


def _members_in(tree: ast.AST, named: dict[str, set[tuple[str, str]]]) -> set[tuple[str, str]]:
    members: set[tuple[str, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            members |= named.get(node.id, set())
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("names", "methods"):
            which = ", ".join(f"{item.arg} `{ast.literal_eval(item.value)}`" for item in node.keywords)
            members |= {(str(arg.value), which) for arg in node.args if isinstance(arg, ast.Constant)}
    return members


# ---- pages


def api() -> str:
    """The public API: one entry for each class, function and module of `datadiet`, written by mkdocstrings."""
    parts = []
    for name, where in sorted(datadiet._PUBLIC.items(), key=lambda one: (":" not in one[1], one[0].lower())):
        parts.append(f"## `dd.{name}` {{ #{name.lower()} }}\n\n::: {where.replace(':', '.')}")
    return "\n\n".join(parts)


def examples() -> str:
    """The scripts of `examples/`, each with the first sentence of its docstring and the picture of its page."""
    lines = ["| script | what it shows | its page |", "| --- | --- | --- |"]
    for path in sorted((ROOT / "examples").glob("*.py")):
        title = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
        picture = f"gallery/{path.stem}.webp"
        shown = f"[![The page of {path.stem}]({picture})]({picture})" if (ROOT / "docs" / picture).exists() else "-"
        lines.append(f"| `examples/{path.name}` | {' '.join(title.split())} | {shown} |")
    return "\n".join(lines)


PARTS: dict[str, Callable[[], str]] = {
    "scores": partial(methods_of, "score"),
    "score-needs": score_needs,
    "selectors": partial(methods_of, "select", without="features"),
    "feature-selectors": partial(methods_of, "select", need="features"),
    "tasks": tasks,
    **{name: partial(methods_of, name) for name in ("in_batch", "preset", "combine", "history", "rescore", "offset")},
    **{name: partial(methods_of, name) for name in ("suspects", "dedupe", "race", "tokens")},
    "api": api,
    "examples": examples,
    **{f"flags-{name}": partial(flags, name) for name in ("demo", "init", "finetune", "compare", "report")},
    **{f"flags-{name}": partial(flags, name) for name in ("predict", "score", "select", "push")},
    **{f"proofs-{name}": partial(proofs, name) for name in ("score", "select", "in_batch", "combine", "history")},
    **{
        f"proofs-{name}": partial(proofs, name)
        for name in ("rescore", "offset", "suspects", "dedupe", "race", "tokens")
    },
}


def generate(text: str) -> str:
    """A page with its generated parts written anew.

    Raises:
        ValueError: If a marker has an unknown name or is not closed.
    """
    names = [name for _, name, _ in MARKED.findall(text)]
    if unknown := sorted(set(names) - PARTS.keys()):
        raise ValueError(f"unknown part {', '.join(unknown)}; allowed: {', '.join(PARTS)}")
    if len(names) != text.count("<!-- generated:"):
        raise ValueError("a generated part is opened and not closed by <!-- /generated -->")
    # blank lines: without them Markdown takes a table for a part of the comment
    return MARKED.sub(lambda part: f"{part[1]}\n{wrapped(PARTS[part[2]]())}\n\n{part[3]}", text)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    check = parser.parse_args(arguments).check
    stale = []
    for page in (ROOT / name for name in PAGES):
        text = page.read_text(encoding="utf-8")
        try:
            written = generate(text)
        except ValueError as error:
            sys.exit(f"{page.name}: {error}")
        if written != text:
            stale.append(page.name)
            if not check:
                page.write_text(written, encoding="utf-8")
    print(f"{'out of date' if check else 'changed'}: {', '.join(stale) or 'nothing'}")
    if check and stale:
        sys.exit(1)


if __name__ == "__main__":
    main()
