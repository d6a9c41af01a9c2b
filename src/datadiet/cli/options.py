"""One call of the command line: what every command takes, and what the process knew before it ran.

The flags of `datadiet finetune`: one line per field of `FinetuneConfig`, from which the command is built.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape

from datadiet.config import (
    DATA_HELP,
    MOVED,
    OPTIONS,
    PANELS,
    FinetuneConfig,
    config_from,
    declared,
    flag_name,
    moved_hint,
    plain_types,
    task_missing,
)
from datadiet.errors import Problems, quoted

AsJson = Annotated[bool, typer.Option("--json", help="Only JSON on standard output; progress goes to standard error.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _show_all(ctx: typer.Context, asked: bool) -> None:
    if asked:
        for parameter in ctx.command.params:
            if getattr(parameter, "rich_help_panel", None) in PANELS:  # what has no panel is never shown
                parameter.hidden = False  # type: ignore[attr-defined]
        typer.echo(ctx.get_help())
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show every option and exit."),
]


@dataclass(frozen=True)
class Call:
    """What the process knows before any command runs: `started` is `time.perf_counter()` before the imports."""

    started: float


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option was given, and not left at its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def started(ctx: typer.Context) -> float:
    """`time.perf_counter()` from where a run's total time counts."""
    call = ctx.find_root().obj
    return call.started if isinstance(call, Call) else time.perf_counter()


Command = TypeVar("Command", bound=Callable[..., Any])

OFF = "no_"


def with_flags(
    chosen: Iterable[str] | None = None, *, config: type = FinetuneConfig, usual: bool = False
) -> Callable[[Command], Command]:
    """Give a command one flag per option of a config; it receives them as keyword arguments.

    Args:
        chosen: Names of options; all by default, and of `FinetuneConfig` the flags that moved into the brackets of a
            method, which are refused with the new form.
        config: The class that declares the options.
        usual: Whether `--help` shows those alone that people use; the command has `HelpAll` then.

    Returns:
        A decorator for a command that has `**options`, in whose place the flags are put.
    """
    requested = None if chosen is None else set(chosen)
    names = [name for name in declared(config) if requested is None or name in requested]
    options = [parameter for name in names for parameter in _parameters(name, config, usual)]
    if chosen is None and config is FinetuneConfig:
        options += [_keyword(name, str | None, typer.Option(flag_name(name), hidden=True), None) for name in MOVED]

    def decorate(command: Command) -> Command:
        given = inspect.signature(command, eval_str=True).parameters.values()
        own = [parameter for parameter in given if parameter.kind is not inspect.Parameter.VAR_KEYWORD]

        @wraps(command)
        def with_options(*args: Any, **kwargs: Any) -> Any:
            return command(*args, **kwargs)

        # typer reads both: the signature for the options, the annotations for their types
        with_options.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *options]}
        return with_options  # type: ignore[return-value]

    return decorate


def _parameters(name: str, config: type, usual: bool) -> list[inspect.Parameter]:
    """The flag of an option; of one that can only be switched on, also the hidden `--no-...` that wins over a file."""
    one, kinds = declared(config)[name], plain_types(name, config)
    default = next(item.default for item in fields(config) if item.name == name)
    kind: Any = str if str in kinds else next(kind for kind in kinds if kind is not type(None))
    names = one.choices() if callable(one.choices) else ()
    help_text = f"{one.help} One of: {', '.join(names)}." if names and name == "task" else one.help
    own: dict[str, Any] = {}
    if one.word:
        kind = int if int in kinds else float
        own = {"parser": number_or(one.word, kind)}
    hidden = usual and not one.usual
    option = typer.Option(flag_name(name), help=escape(help_text), rich_help_panel=one.panel, hidden=hidden, **own)
    if kind is bool:
        off = typer.Option(f"--no-{flag_name(name)[2:]}", hidden=True)
        switched_off = [_keyword(OFF + name, bool, off, False)] if config is FinetuneConfig else []
        return [_keyword(name, bool, option, False), *switched_off]
    if default is None or default is MISSING:  # what has no default is asked for later, all of it at once
        return [_keyword(name, kind | None, option, None)]
    return [_keyword(name, kind, option, default if one.word else kind(default))]


def number_or(word: str, kind: type) -> Callable[[Any], Any]:
    """A reader of a flag that takes a number or one word.

    Args:
        word: What may stand in the place of a number.
        kind: `int` or `float`.

    Examples:
        >>> read = number_or("auto", int)
        >>> read("auto"), read("3")
        ('auto', 3)
    """

    def read(text: Any) -> Any:
        if text == word:
            return text
        try:
            return kind(text)
        except ValueError:
            raise typer.BadParameter(f"{quoted(text)} is not a valid {kind.__name__}_or_{word}") from None

    return read


def _keyword(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def settings_given(
    options: Mapping[str, Any], is_given: Callable[[str], bool], names: Iterable[str] = OPTIONS
) -> dict[str, Any]:
    """The settings that stand on the command line, without those that only have their default.

    Args:
        options: Every option by the name of its parameter.
        is_given: Whether a parameter was given.
        names: Options of `FinetuneConfig` that the command has; all by default.

    Examples:
        >>> options = {"keep": "0.3", "epochs": 5, "no_static": True}
        >>> settings_given(options, {"keep", "no_static"}.__contains__)
        {'keep': 0.3, 'static': False}
    """
    problems = Problems()
    for name in MOVED:
        if is_given(name):
            hint = moved_hint(name, options[name])
            problems.add(f"{flag_name(name)} is written with the method it belongs to now: --{hint}.")
    problems.raise_any()
    given = {name: options[name] for name in names if is_given(name)}
    given |= {name: False for name in names if is_given(OFF + name)}
    for name in ("keep", "offset"):
        if name in given:
            with suppress(ValueError):  # a step-down, or auto; what is neither is refused with the other options
                given[name] = float(given[name])
    return given


def config_of(given: Mapping[str, Any]) -> FinetuneConfig:
    """A config from the flags that were given.

    Raises:
        ArgumentError: If the data, the task or the run folder is missing; names all that are.

    Examples:
        >>> config_of({"data": "snips", "task": "intent-slot", "output": "runs/a", "keep": 0.3}).keep
        0.3
    """
    problems = Problems()
    problems.check("data" in given, f"DATA is missing: {DATA_HELP[0].lower()}{DATA_HELP[1:]}")
    problems.check("task" in given, task_missing())
    problems.check("output" in given, "--output is missing: the run folder, such as runs/first.")
    problems.raise_any()
    return config_from(dict(given))
