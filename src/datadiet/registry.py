"""Every method and task, declared once, beside the function or class that it is.

`@score`, `@selector`, `@race`, `@history`, `@token_rule`, `@ranking` and `@task` attach a `Method` to what they
decorate; `declare` states one that is no function of its own. `make index` imports all packages once and writes
`registry.json`. Everything else is read from there, without torch: choices and help of the command line, the check of
options, presets, `datadiet methods`, the tables of docs/methods.md, citations of model cards.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml

from datadiet.errors import ArgumentError, Problems, percent_hint, quoted, unknown

Declared = TypeVar("Declared", bound=Callable[..., Any])

INDEX = Path(__file__).with_name("registry.json")
# what each kind of method is given to, in the order in which they are listed
KINDS: Mapping[str, str] = {
    "score": "--score, and --scores of datadiet score: how hard an example is; larger = harder, always",
    "select": "--select: which examples an epoch keeps",
    "in_batch": "--select: which examples of each batch get a backward pass, and which a forward pass",
    "race": "--select: which of several rules chooses, decided while training",
    "preset": "--methods of datadiet compare, beside the names of scores and selectors",
    "combine": "--combine: how words and heads become one value (intent-slot, token-classification, causal-lm)",
    "history": "--history: how the values of several rounds become one",
    "rescore": "--rescore: which examples get a forward pass at a refresh",
    "tokens": "--tokens: which tokens of the answers train (causal-lm)",
    "offset": "--offset: what is excluded as suspected label noise",
    "suspects": "--suspects-by of datadiet select, and datadiet.suspects: how likely each label is wrong",
    "dedupe": "--dedupe, with --near of datadiet select and score, and datadiet.duplicates: rows with the same text",
    "task": "--task: what is predicted",
}
# what a method needs, and where it comes from; of scores, fields of `datadiet.scoring.inputs.ScoringInputs`
NEEDS: Mapping[str, str] = {
    "texts": "the texts of the training split",
    "queries": "examples of what is wanted: --queries FILE_OR_FOLDER",
    "columns": "the columns of the training data",
    "encoder": "a model to embed the texts with: --encoder MODEL, or --model RUN",
    "model": "a model that is trained: --model RUN, or --epochs E to train one first",
    "history": "the score history of a run: --model RUN, or --epochs E to train one first",
    "checkpoints": "the checkpoints of a run: --model RUN, trained with --keep-checkpoints, or --epochs E from 2 on",
    "dev": "a dev split",
    "holdout": "a model trained on other data of the same classes: --holdout MODEL, or --folds K --epochs E",
    "null": "models with and without the texts that have not seen the row: --folds K --epochs E",
    "teacher": "another trained model of the same classes: --teacher MODEL",
    "groups": "the class of each example",
    "features": "an array with one line per training row, such as sentence embeddings",
    "recalls": "the recall of each class on the dev split",
    "entropy": "how uncertain the model is of each row, which training records; not of a regression",
    "reference": "another causal language model with the same tokens: reference=",
}


@dataclass(frozen=True)
class Bound:
    """The numbers that an option may have.

    Attributes:
        low, high: The ends; None for no end.
        open_low, open_high: Whether the end itself is excluded.
        whole: Whether only whole numbers are allowed.
    """

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def problem(self, name: str, value: Any, *words: str) -> str | None:
        """The sentence for a value outside; None for one inside. It also names words that may stand for a number.

        Examples:
            >>> Bound(0, 1, open_low=True).problem("keep", 70)
            'keep must be in (0, 1], got 70. Did you mean 0.7?'
            >>> AtLeast(1).problem("epochs", 0)
            'epochs must be a whole number, at least 1, got 0.'
        """
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and (not self.whole or isinstance(value, int)) and self._holds(value):
            return None
        hint = percent_hint(value) if self.high == 1 else ""
        return f"{name} must be {', or '.join((str(self), *words))}, got {quoted(value)}.{hint}"

    def _holds(self, value: float) -> bool:
        above = self.low is None or (value > self.low if self.open_low else value >= self.low)
        below = self.high is None or (value < self.high if self.open_high else value <= self.high)
        return above and below and value == value and abs(value) != float("inf")

    def __str__(self) -> str:
        if self.low is not None and self.high is not None and not self.whole:
            left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
            return f"in {left}{self.low:.10g}, {self.high:.10g}{right}"
        low = "" if self.low is None else f"above {self.low:.10g}" if self.open_low else f"at least {self.low:.10g}"
        high = "" if self.high is None else f"below {self.high:.10g}" if self.open_high else f"at most {self.high:.10g}"
        ends = " and ".join(end for end in (low, high) if end)
        return f"a whole number, {ends}" if self.whole else f"{ends} and finite"


def AtLeast(low: int) -> Bound:
    """Whole numbers from `low` on; capitalised, since it is read in annotations."""
    return Bound(low, whole=True)


Share = Bound(0, 1, open_low=True)
UnitShare = Bound(0, 1)
ShareBelowOne = Bound(0, 1, open_high=True)
Positive = Bound(0, open_low=True)
NotNegative = Bound(0)


@dataclass(frozen=True)
class Rows:
    """Of an option: a whole number of examples, at most `number of training rows - fewer`."""

    fewer: int = 0


@dataclass(frozen=True)
class Option:
    """One option of a method.

    Attributes:
        name: As in Python and in `name(option=value)`.
        default: Used where it is not given; a selector inside another one by its name.
        types: Names of the types that it takes: `int`, `float`, `str`, `bool`, `None`, `mapping`, `selector`, `any`.
        bound: Of numbers.
        choices: The only values allowed, if not empty; beside a bound, words that may stand for a number.
        rows: Where it counts training rows: how many fewer than those it may be at most.
        required: Whether it has no default.
    """

    name: str
    default: Any = None
    types: tuple[str, ...] = ("any",)
    bound: Bound | None = None
    choices: tuple[str, ...] = ()
    rows: int | None = None
    required: bool = False

    def problem(self, value: Any, owner: str = "") -> str | None:
        """The sentence for a value that is not allowed; `owner` names the method in it."""
        name = f"{self.name} of {owner}" if owner else self.name
        if value is None and ("None" in self.types or self.default is None):
            return None
        if self.choices and (value in self.choices or callable(value)):
            return None
        if self.bound is not None:
            return self.bound.problem(name, value, *self.choices)
        if self.choices:
            return unknown(name, value, self.choices)
        if "bool" in self.types and not isinstance(value, bool):
            return f"{name} must be true or false, got {quoted(value)}."
        if {*self.types} <= {"mapping", "None"} and not isinstance(value, Mapping):
            return f"{name} must be a mapping from each class, as in {self.name}.CLASS=..., got {quoted(value)}."
        if self.types == ("selector",) and not isinstance(value, str) and not callable(value):
            return f"{name} must be a selector by its name, got {quoted(value)}."
        return None


@dataclass(frozen=True)
class Method:
    """One method or task: everything that is said of it anywhere.

    Attributes:
        kind: A key of `KINDS`.
        name: What the user types.
        formula: What it computes, in one line.
        paper: Where it comes from.
        inputs: What it reads, in words.
        cost: Time and memory beyond training.
        loses: Where it is known, or expected, to lose to others.
        needs: Keys of `NEEDS`.
        tasks: A trait that a task must have (`classes`, `one_class`, `groups`, `numbers`); empty for every task.
        traits: Of scores `forward` (made of one forward pass), `by_row` (of texts or columns: no other row counts),
            `zero_when_learned`, `suspects` (ranks wrong labels high), `tokens` (can be read off the next tokens of a
            language model), `answers` (of gradients, of language models too), `gaps` (a row without what it compares
            has no value) and `all_rows` (other rows change a value); of selectors `weights`,
            `fills_classes` (gives every class its places), `takes_offset`, `takes_tolerance`, `needs_bounded`,
            `reads_logits`, `takes_turns` (goes by what has trained before); of tasks the keys of `TASK_TRAITS` and
            others.
        options: Its own options by name.
        preset: The options of `datadiet finetune` that `datadiet compare --methods NAME` stands for, beyond those of
            its family; None where the name alone is not enough.
        evidence: The heading of docs/benchmarks.md under which its quality stands beside random; None: not yet
            measured.
        where: `module:name` of what computes it; empty for one that is part of another.
        facts: Further facts of a kind, such as the metrics of a task. Of scores: `computed_by`, the function
            `module:name` that computes a whole split; `passes`, what it needs of the forward pass of each model (see
            `datadiet.scoring.forward.pass_of`); `shares`, what it shares with other scores of that name; `reads`, needs
            that are optional; `by_class`, whether each class is treated by itself. Of selectors: `needs_with`, what an
            option needs that others do not.
    """

    kind: str
    name: str
    formula: str
    paper: str = ""
    inputs: str = ""
    cost: str = ""
    loses: str = ""
    needs: tuple[str, ...] = ()
    tasks: str = ""
    traits: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    preset: Mapping[str, Any] | None = field(default_factory=dict)
    evidence: str | None = None
    where: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Any:
        """The function or class; imports its module."""
        module, _, name = self.where.partition(":")
        return getattr(importlib.import_module(module), name)


# ---- declaring


def _decorator(kind: str) -> Callable[..., Callable[[Declared], Declared]]:
    def decorate(
        *,
        formula: str,
        paper: str = "",
        inputs: str = "",
        cost: str = "",
        loses: str = "",
        needs: Iterable[str] = (),
        tasks: str = "",
        traits: Iterable[str] = (),
        preset: Mapping[str, Any] | None = None,
        named_alone: bool = True,
        evidence: str | None = None,
        name: str | None = None,
        options_of: Callable[..., Any] | None = None,
        **facts: Any,
    ) -> Callable[[Declared], Declared]:
        """Declare a method; see `Method`.

        Args:
            named_alone: False where the name alone is not enough for a comparison.
            options_of: Another method whose options this one passes on.
        """

        def mark(function: Declared) -> Declared:
            method = Method(
                kind,
                name or function.__name__,
                formula,
                paper,
                inputs,
                cost,
                loses,
                tuple(needs),
                tasks,
                tuple(traits),
                options={} if options_of is None else _options_of(options_of, kind),
                preset=(preset or {}) if named_alone else None,
                evidence=evidence,
                where=f"{function.__module__}:{function.__name__}",
                facts=facts,
            )
            plain = inspect.isclass(function) or kind == "suspects" or not _own_options(function, kind)
            checked = function if plain else _checking(function, kind)
            checked.method = method  # type: ignore[attr-defined]
            if kind == "task":
                checked.name, checked.main_metric = method.name, facts["metrics"][0]  # type: ignore[attr-defined]
            return checked

        return mark

    return decorate


score, selector, in_batch, race, history, ranking, task, token_rule = map(
    _decorator, ("score", "select", "in_batch", "race", "history", "suspects", "task", "tokens")
)


# parameters of every selector that are no options of its own
_COMMON = ("seed", "epoch", "groups", "ids", "features", "turns", "entropy", "texts")


def _own_options(function: Callable[..., Any], kind: str) -> tuple[str, ...]:
    """The parameters that are options: of a score those with a constraint, of others all but the common ones."""
    parameters = inspect.signature(function).parameters.values()
    own = [item for item in parameters if item.default is not item.empty or item.kind is item.KEYWORD_ONLY]
    if kind == "score":
        return tuple(item.name for item in own if str(item.annotation).startswith(("Annotated[", "Literal[")))
    return tuple(item.name for item in own if item.name not in _COMMON)


def _checking(function: Declared, kind: str) -> Declared:
    """The same function; it refuses options out of their declared bounds before it starts."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        problems = Problems()
        options = _options_of(function, kind)
        bound = signature.bind_partial(*args, **kwargs).arguments
        given = [(options[name], value) for name, value in bound.items() if name in options]
        problems.found += [problem for option, value in given if (problem := option.problem(value))]
        problems.raise_any()
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


@cache
def _options_of(function: Callable[..., Any], kind: str) -> dict[str, Option]:
    """The options of a function, read off its signature."""
    inner = inspect.unwrap(function)
    parameters = inspect.signature(inner).parameters
    return {name: _option(parameters[name], inner.__globals__) for name in _own_options(inner, kind)}


def _option(parameter: inspect.Parameter, names: Mapping[str, Any]) -> Option:
    kind: Any = eval(str(parameter.annotation), {**names, "Literal": Literal})
    constraint: Any = None
    if hasattr(kind, "__metadata__"):
        constraint, kind = kind.__metadata__[0], get_args(kind)[0]
    members = get_args(kind) if get_origin(kind) is not None and get_origin(kind) is not Literal else (kind,)
    choices = tuple(value for member in members if get_origin(member) is Literal for value in get_args(member))
    choices = constraint if isinstance(constraint, tuple) else choices
    types = tuple(dict.fromkeys(_type_name(member) for member in members))
    default = parameter.default
    required = default is inspect.Parameter.empty
    return Option(
        parameter.name,
        None if required else getattr(default, "__name__", default),
        ("selector",) if parameter.name == "select" else types,
        bound=AtLeast(1) if isinstance(constraint, Rows) else constraint if isinstance(constraint, Bound) else None,
        choices=choices,
        rows=constraint.fewer if isinstance(constraint, Rows) else None,
        required=required,
    )


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "str"
    plain = {int: "int", float: "float", str: "str", bool: "bool", type(None): "None"}
    is_mapping = get_origin(kind) is not None and "Mapping" in str(get_origin(kind))
    return "mapping" if is_mapping else plain.get(kind, "any")


# ---- the index

_DECLARING = ("compare", "data", "diet", "noise", "scores", "scoring", "selectors", "tasks")


def collect() -> list[Method]:
    """Every declaration of the package, in the order of `KINDS` and of the source; imports all of it."""
    methods: dict[tuple[str, str], tuple[tuple[Any, ...], Method]] = {}
    for name in _declaring_modules():
        module = importlib.import_module(name)
        for place, value in enumerate(vars(module).values()):
            for method in _declared(value):
                own = method.where.partition(":")[0] or name
                if own == name and (method.kind, method.name) not in methods:
                    order = (list(KINDS).index(method.kind), method.evidence is None, name, place)
                    methods[method.kind, method.name] = (order, replace(method, options=_signature(value, method)))
    return [method for _, method in sorted(methods.values(), key=lambda entry: entry[0])]


def _declaring_modules() -> Iterator[str]:
    for package in _DECLARING:
        folder = Path(__file__).parent / package
        yield from (f"datadiet.{package}.{info.name}" for info in pkgutil.iter_modules([str(folder)]))


def _declared(value: Any) -> Iterator[Method]:
    if isinstance(value, Method):
        yield value
    elif isinstance(value, tuple) and value and all(isinstance(item, Method) for item in value):
        yield from value
    elif isinstance(getattr(value, "method", None), Method):
        yield value.method


def _signature(value: Any, method: Method) -> Mapping[str, Option]:
    if method.options or method.kind in ("task", "suspects") or not callable(value):
        return method.options
    return _options_of(value.__init__ if inspect.isclass(value) else value, method.kind)


def write_index(path: Path = INDEX) -> None:
    """Write the index anew."""
    path.write_text(index_text(), encoding="utf-8")


def index_text() -> str:
    """The index as it should be: JSON, one object per method."""
    return json.dumps([asdict(method) for method in collect()], indent=1, ensure_ascii=False) + "\n"


@cache
def methods(kind: str | None = None) -> tuple[Method, ...]:
    """The methods of a kind, or all of them, from the index: nothing heavy is imported."""
    if kind is not None:
        return tuple(method for method in methods() if method.kind == kind)
    return tuple(_from_json(entry) for entry in json.loads(INDEX.read_text(encoding="utf-8")))


def as_json() -> list[dict[str, Any]]:
    """The methods for machines: one object per method, without what is empty."""
    return [
        {name: value for name, value in asdict(method).items() if value or name == "evidence"} for method in methods()
    ]


def _from_json(entry: dict[str, Any]) -> Method:
    options = {
        name: Option(**{
            **option,
            "types": tuple(option["types"]),
            "choices": tuple(option["choices"]),
            "bound": option["bound"] and Bound(**option["bound"]),
        })
        for name, option in entry["options"].items()
    }  # fmt: skip
    return Method(
        **{**entry, "options": options, "needs": tuple(entry["needs"]), "traits": tuple(entry["traits"])},
    )


def names(*kinds: str, trait: str | None = None, need: str | None = None) -> tuple[str, ...]:
    """The names of the methods of some kinds, with a trait or a need where one is given.

    Examples:
        >>> names("history")
        ('ema', 'last', 'mean')
    """
    return tuple(
        method.name
        for kind in kinds
        for method in methods(kind)
        if (trait is None or trait in method.traits) and (need is None or need in method.needs)
    )


@cache
def find(kind: str, name: str) -> Method | None:
    """A method by its name; None where there is none."""
    return next((method for method in methods(kind) if method.name == name), None)


@cache
def load(kind: str, name: str) -> Any:
    """The function or class of a method; its module is imported at the first call."""
    method = find(kind, name)
    if method is None:
        raise ArgumentError(unknown(_WORDS.get(kind, kind), name, names(kind)))
    return method.load()


def public(package: str, also: Mapping[str, Iterable[str]]) -> list[str]:
    """The public names of a package: the methods that its modules declare, and others by module."""
    own = (method for method in methods() if method.where.startswith(f"{package}."))
    return sorted(
        {*(method.where.partition(":")[2] for method in own), *(name for part in also.values() for name in part)}
    )


def attribute(package: str, name: str, also: Mapping[str, Iterable[str]]) -> Any:
    """A public name of a package, loaded.

    Raises:
        AttributeError: If the package has none of that name.
    """
    for method in methods():
        module, _, function = method.where.partition(":")
        if function == name and module.startswith(f"{package}."):
            return method.load()
    for part, names_of in also.items():
        if name in names_of:
            return getattr(importlib.import_module(f"{package}.{part}"), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


_WORDS = {
    "select": "selector",
    "in_batch": "selector",
    "race": "selector",
    "suspects": "ranking",
    "preset": "method",
    "tokens": "token rule",
}
# what `--select` takes
SELECT_KINDS = ("select", "in_batch", "race")


# ---- `name(option=value)`


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """A method and its options from `name` or `name(option=value, ...)`.

    Options have commas between them; `option.key=value` gives a mapping. In braces they are read as YAML.

    Raises:
        ArgumentError: For text of another form.

    Examples:
        >>> parse_call("ccs(beta=0.2, strata=20)"), parse_call("hardest")
        (('ccs', {'beta': 0.2, 'strata': 20}), ('hardest', {}))
        >>> parse_call("directed(directions.rude=easy, default=hard)")
        ('directed', {'directions': {'rude': 'easy'}, 'default': 'hard'})
    """
    match = re.fullmatch(r"\s*([^()\s]*)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if match is None or (match[2] and not match[1]):
        raise ArgumentError(f"a method must be name or name(option=value, ...), got {quoted(text.strip())}.")
    name, inside = match[1], match[2]
    return name, {} if inside is None or not inside.strip() else parse_options(inside, name)


def parse_options(text: str, owner: str) -> dict[str, Any]:
    """The options inside the brackets of `name(option=value, ...)`.

    Args:
        text: `name=value` with commas between, `name.key=value` for a mapping; or a YAML mapping in braces.
        owner: Whose they are, for errors.

    Raises:
        ArgumentError: For every part that is none.
    """
    if text.strip().startswith("{"):
        return _from_yaml(text, owner)
    problems = Problems()
    options: dict[str, Any] = {}
    for part in split_calls(text):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            problems.add(f"options of {owner} must be name=value with commas between, got {quoted(part.strip())}.")
            continue
        outer, dot, key = name.partition(".")
        if not dot:
            options[outer] = _value(value)
        elif isinstance(entries := options.setdefault(outer, {}), dict):
            entries[key] = _value(value)
        else:
            problems.add(f"option {quoted(outer)} of {owner} has a value and entries: give one of the two.")
    problems.raise_any()
    return options


def split_calls(text: str) -> list[str]:
    """Parts of a text at its commas, those inside brackets and braces aside.

    Examples:
        >>> split_calls("el2n, prototypes(clusters=5, metric=cosine)")
        ['el2n', ' prototypes(clusters=5, metric=cosine)']
    """
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "({[") - (sign in ")}]")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _from_yaml(text: str, owner: str) -> dict[str, Any]:
    try:
        options = yaml.safe_load(text)
    except yaml.YAMLError:
        options = None
    if not isinstance(options, dict) or None in options.values():  # `{clusters=500}` is a name without a value
        raise ArgumentError(f"options of {owner} in braces must be {{name: value, ...}}, got {quoted(text.strip())}.")
    return {str(name): value for name, value in options.items()}


def _list(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ArgumentError(f"a list must be [value, ...], got {quoted(text)}.") from None


def _value(text: str) -> Any:
    if text.startswith(("{", "[")):
        return _from_yaml(text, "a mapping") if text.startswith("{") else _list(text)
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False, "none": None}.get(text, text)


def format_call(name: str, options: Mapping[str, Any]) -> str:
    """The text that `parse_call` reads.

    Examples:
        >>> format_call("ccs", {"beta": 0.2}), format_call("directed", {"directions": {"rude": "easy"}})
        ('ccs(beta=0.2)', 'directed(directions.rude=easy)')
    """
    return f"{name}({', '.join(_pairs(options))})" if options else name


def _pairs(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{key}={_written(entry)}" for key, entry in value.items())
        else:
            yield f"{name}={_written(value)}"


def _written(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else "none" if value is None else str(value)


# ---- checks


def problems_of(kind: str, name: str, options: Mapping[str, Any] | None = None, task: str | None = None) -> list[str]:
    """Everything that is wrong with a method by name: that it is unknown, its options, or the task.

    Args:
        kind: `score`, `select` (which includes all of `SELECT_KINDS`), `history` or `suspects`.
        name: As the user gives it.
        options: Its options by name.
        task: Of the run, where it is known.

    Examples:
        >>> problems_of("select", "ccs", {"beta": 70})
        ['beta of ccs must be in [0, 1), got 70. Did you mean 0.7?']
        >>> problems_of("score", "aum", task="regression")
        ['the score aum is for classes; a regression has none.']
    """
    kinds = SELECT_KINDS if kind == "select" else (kind,)
    method = next((candidate for one in kinds if (candidate := find(one, name)) is not None), None)
    if method is None:
        return [unknown(_WORDS.get(kind, kind), name, names(*kinds))]
    options = options or {}
    problems = option_problems(method, options)
    if task is not None and find("task", task) is not None:
        problems += task_problems(method, options, task)
    return problems


def option_problems(method: Method, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with the options of a method, those of a selector inside it included."""
    allowed, problems = dict(method.options), Problems()
    if (inner := _inner(method, options)) is not None:
        try:
            name, own = parse_call(inner)
        except ArgumentError as error:
            return list(error.problems)
        within = find("select", name)
        if within is None:
            return [unknown("selector", name, names("select"))]
        if "fills_classes" in within.traits:
            return [f"select of {method.name} must not give the classes their places itself, got {name}."]
        problems.found += option_problems(within, own)
        problems.found += missing_options("select", name, {**dict.fromkeys(within.needs, True), **options, **own})
        twice = [option for option in own if option in options and option not in method.options]
        problems.check(not twice, f"{', '.join(twice)} of {name} must be given once, inside its brackets or beside it.")
        allowed = {**within.options, **allowed}
    if options and not allowed:
        word = _WORDS.get(method.kind, method.kind)
        return [f"the {word} {method.name} has no options, got {', '.join(options)}."]
    for option, value in options.items():
        if option not in allowed:
            problems.add(unknown(f"option of {method.name}", option, allowed))
        elif problem := allowed[option].problem(value, method.name):
            problems.add(problem)
    return problems.found


def _inner(method: Method, options: Mapping[str, Any]) -> str | None:
    """The selector inside a method, as text; None where it takes none, or a function."""
    option = method.options.get("select")
    value = options.get("select", option and option.default)
    return value if option is not None and isinstance(value, str) else None


def selectors_in(select: object, options: Mapping[str, Any]) -> list[tuple[Method, Mapping[str, Any]]]:
    """A selector and the one inside it, each with its options; none for a function, or for what is no selector.

    Examples:
        >>> [(method.name, options) for method, options in selectors_in("balanced", {"select": "ccs(beta=0.2)"})]
        [('balanced', {'select': 'ccs(beta=0.2)'}), ('ccs', {'beta': 0.2})]
    """
    method = find("select", select) if isinstance(select, str) else None
    if method is None:
        return []
    if (inner := _inner(method, options)) is None:
        return [(method, options)]
    try:
        name, own = parse_call(inner)
    except ArgumentError:  # which `option_problems` says
        return [(method, options)]
    passed_on = {option: value for option, value in options.items() if option not in method.options}
    return [(method, options), *selectors_in(name, {**passed_on, **own})]


def missing_options(kind: str, name: str, options: Mapping[str, Any]) -> list[str]:
    """A sentence for each option that a method needs and is not given.

    Examples:
        >>> missing_options("select", "window", {})
        ['the selector window needs the option offset.']
    """
    method = find(kind, name)
    if method is None:
        return []
    needed = {one.name for one in method.options.values() if one.required} | set(method.needs)
    word = _WORDS.get(kind, kind)
    missing = [option for option in method.options if option in needed and options.get(option) is None]
    return [f"the {word} {name} needs the option {option}." for option in missing]


# what a task can have, and what is said of a method that needs it
TASK_TRAITS: Mapping[str, str] = {
    "classes": "is for classes; a {task} has none.",
    "numbers": "is for regression, not for {task}.",
    "whole_text": "is for the classes of whole texts ({with_it}), not for {task}.",
    "one_class": "is for examples with one class each ({with_it}), not for {task}.",
    "groups": "is for examples with a class; for {task} they have none.",
    "words": "is for tasks that tag words ({with_it}), not for {task}.",
    "joint": "is for joint tasks ({with_it}), not for {task}.",
    "heads": "is for examples with several decisions ({with_it}), not for {task}.",
    "label_sets": "is for examples with any number of labels ({with_it}), not for {task}.",
    "answers": "is for language models ({with_it}), not for {task}.",
}


def has(task: str, trait: str) -> bool:
    """Whether a task has a trait; False for a task that does not exist.

    Examples:
        >>> has("intent-slot", "one_class"), has("regression", "classes")
        (True, False)
    """
    method = find("task", task)
    return method is not None and trait in method.traits


def lacks(what: str, trait: str, task: str) -> list[str]:
    """Why something that needs a trait is not for a task; nothing where it is.

    Examples:
        >>> lacks("offset auto", "one_class", "regression")
        ['offset auto is for examples with one class each (intent-slot and classification), not for regression.']
    """
    if has(task, trait):
        return []
    *some, last = names("task", trait=trait)
    with_it = f"{', '.join(some)} and {last}" if some else last
    return [f"{what} {TASK_TRAITS[trait].format(task=task, with_it=with_it)}"]


def task_problems(method: Method, options: Mapping[str, Any], task: str) -> list[str]:
    """Why a method, with its options, is not for a task; nothing where it is."""
    what = f"the {_WORDS.get(method.kind, method.kind)} {method.name}"
    if has(task, "answers") and not _reads_tokens(method):
        scores = ((name, find("score", name)) for name in names("score"))
        with_it = ", ".join(name for name, one in scores if one is not None and _is_of_answers(one))
        return [f"{what} cannot be read off the next tokens of a language model; of the scores these can: {with_it}."]
    by_tokens = has(task, "answers") and "tokens" in method.traits
    problems = lacks(what, method.tasks, task) if method.tasks and not by_tokens else []
    if "groups" in method.needs:
        problems += lacks(what, "groups", task)
    if problems:
        return problems
    if options.get("per_group") and not has(task, "groups"):
        return lacks(f"per_group of {what}", "groups", task)
    # where an example has a set of labels, no recall and no option has an entry for each set
    if "recalls" in method.needs:
        return lacks(what, "one_class", task)
    entries = [name for name, value in options.items() if isinstance(value, Mapping)]
    return [problem for name in entries for problem in lacks(f"the option {name} of {method.name}", "one_class", task)]


def _reads_tokens(method: Method) -> bool:
    """Whether a method works with the signals of next tokens, which have no logits: `datadiet.scores.tokens`."""
    if method.kind != "score":
        return "reads_logits" not in method.traits
    without_logits = set(method.needs) <= {"texts", "encoder", "queries", "columns"} or "holdout" in method.needs
    return _is_of_answers(method) or without_logits


def _is_of_answers(method: Method) -> bool:
    """Whether a score is made of the tokens that a language model answers with."""
    return bool({"tokens", "answers"} & set(method.traits)) or method.tasks == "answers"


def check_rows(kind: str, options: Mapping[str, Mapping[str, Any]], rows: int) -> None:
    """Refuse options that there are too few training rows for.

    Args:
        kind: Of the methods.
        options: By the name of the method.
        rows: Training rows.

    Raises:
        ArgumentError: For all such options.

    Examples:
        >>> check_rows("score", {"prototypes": {"clusters": 500}}, rows=1000)
    """
    problems = Problems()
    for name, given in options.items():
        method = find(kind, name)
        for option in method.options.values() if method else ():
            value = given.get(option.name)
            if option.rows is not None and isinstance(value, int) and value > rows - option.rows:
                most = "the number of training rows" if not option.rows else "one less than the number of training rows"
                problems.add(f"{option.name} of {name} must be at most {most}, {rows - option.rows}, got {value}.")
    problems.raise_any()


if __name__ == "__main__":
    # not the copy of this module that runs as __main__: the decorators belong to the imported one
    importlib.import_module("datadiet.registry").write_index()
