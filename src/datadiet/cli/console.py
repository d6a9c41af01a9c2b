"""The streams and exit codes of the command line: results on standard output, errors on standard error.

All errors have one form: one message without a traceback, and every problem of a command line in the same message.
"""

from __future__ import annotations

import difflib
import errno
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import Any, NoReturn

import typer
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook
from rich.segment import Segment
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from datadiet.errors import ArgumentError, UserError, cut, quoted, unknown, visible
from datadiet.files import plain
from datadiet.formatting import json_text

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


@contextmanager
def reported(debug: bool, interrupted: Callable[[], str] = lambda: "interrupted") -> Iterator[None]:
    """Turn errors into a message and an exit code: 2 for arguments and data, 1 for a failure, 130 for Ctrl-C.

    Args:
        debug: Show the traceback as well.
        interrupted: Gives the message after Ctrl-C.

    Raises:
        typer.Exit: Instead of the error.
    """
    try:
        yield
    except UserError as error:
        show_problems(error.problems, debug)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        stderr().print(Text(interrupted()), soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise  # not errors of ours
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            show_problems([f"cannot use the name {quoted(error.filename)}: {error.strerror}."], debug)
            raise typer.Exit(BAD_INPUT) from None
        reason = cut(" ".join(str(error).split()), 2000) or "no message"
        show_problems([f"{type(error).__name__}: {reason} (--debug shows the traceback)"], debug)
        raise typer.Exit(FAILED) from None


def show_problems(problems: Sequence[str], debug: bool = False) -> None:
    """Show the problems, and the traceback of the error that is being handled if asked for."""
    if debug:
        traceback.print_exc()
    text = Text.assemble(("error: ", "bold red"))
    if len(problems) == 1:
        text.append(problems[0])
    else:
        text.append(f"{len(problems)} problems:").append("".join(f"\n  - {problem}" for problem in problems))
    stderr().print(text, soft_wrap=True)


_KINDS = {"int": "a whole number", "integer": "a whole number", "float": "a number", "number": "a number"}
_KINDS |= {"int_or_auto": "a whole number or auto", "float_or_auto": "a number or auto"}


class Command(TyperCommand):
    """A command that reports all problems with its options at once."""

    def elsewhere(self, flag: str) -> str:
        """Where an option that this command lacks is written, as a sentence; empty where it is unknown."""
        return ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options.

        Raises:
            ArgumentError: All that are unknown or have a value of another type.
        """
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if not _is_usage(error):
                raise
            ctx.params.clear()
            raise ArgumentError(*(_problems(self, ctx, given) or [_sentence(error)])) from None


class Group(TyperGroup):
    """The commands, with one form for every error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before the command; see `Command.parse_args`."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if not _is_usage(error) or _is_help(error):
                raise
            raise ArgumentError(_sentence(error, self, ctx)) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of a name.

        Raises:
            ArgumentError: If there is none.
        """
        if args and args[0] not in self.commands:
            raise ArgumentError(unknown("command", args[0], self.commands))
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Any = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line.

        Raises:
            SystemExit: Always, where it stands alone.
        """
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except Exception as error:
            _end(error)
        sys.exit(code if isinstance(code, int) else 0)


def _end(error: Exception) -> NoReturn:
    """End the process with the message of an error of usage."""
    if isinstance(error, UserError):
        show_problems(error.problems)
        sys.exit(BAD_INPUT)
    if isinstance(error, typer.Abort):
        sys.exit(FAILED)
    if not _is_usage(error):
        raise error
    if not _is_help(error):  # whose text has been shown already
        show_problems([_sentence(error)])
    sys.exit(BAD_INPUT)


def _problems(command: Command, ctx: Any, args: list[str]) -> list[str]:
    """The problems of some options, one sentence each."""
    sentences, left, parsed = [], args, None
    while parsed is None:
        try:
            parsed = command.make_parser(ctx).parse_args(args=list(left))
        except Exception as error:
            if not _is_usage(error):
                raise
            sentences.append(_sentence(error, command, ctx))
            name = getattr(error, "option_name", None)
            others = [part for part in left if part.partition("=")[0] != name]
            if type(error).__name__ != "NoSuchOption" or len(others) == len(left):
                return sentences
            left = others
    options, extra, _ = parsed
    strangers = bool(sentences)  # the word after an unknown option may be its value instead of an argument
    for parameter in command.get_params(ctx):
        if strangers and parameter.param_type_name == "argument":
            continue
        try:
            _, extra = parameter.handle_parse_result(ctx, options, extra)
        except Exception as error:
            if not _is_usage(error):
                raise
            sentences.append(_sentence(error, value=options.get(parameter.name)))
    return sentences


def _sentence(error: Any, command: Any = None, ctx: Any = None, value: object = None) -> str:
    """A usage error in the words of the other errors."""
    kind, name = type(error).__name__, getattr(error, "option_name", None)
    if kind == "NoSuchOption" and command is not None:
        if isinstance(command, Command) and (place := command.elsewhere(str(name))):
            return place
        flags = [option for parameter in command.get_params(ctx) for option in parameter.opts]
        near = difflib.get_close_matches(str(name), flags, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        return f"unknown option {quoted(name)}{hint} {ctx.command_path} --help lists all."
    flag = getattr(getattr(error, "param", None), "opts", [None])[0]
    if flag is None:
        return f"{error.format_message().rstrip('.')}."
    if kind == "MissingParameter":
        return f"{_named(error.param)} is missing."
    kind_of_value = re.search(r"valid (\w+)", error.message)
    if kind_of_value is None or kind_of_value[1] not in _KINDS or value is None:
        return f"{_named(error.param)}: {error.message.rstrip('.')}."
    return f"{_named(error.param)} must be {_KINDS[kind_of_value[1]]}, got {quoted(value)}."


def _named(parameter: Any) -> str:
    """As it is typed: the flag of an option, the capitals of an argument."""
    if parameter.param_type_name == "option":
        return str(parameter.opts[0])
    return str(parameter.metavar or parameter.name.upper())


def _is_usage(error: Exception) -> bool:
    """Whether it is an error of the parser's; its classes have no public place that all versions share."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _is_help(error: Exception) -> bool:
    return type(error).__name__ == "NoArgsIsHelpError"


def quiet_stdout(as_json: bool) -> AbstractContextManager[object]:
    """With --json, whatever a library prints goes to standard error: standard output holds JSON and nothing else."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


class Visible(RenderHook):
    """Escapes control characters in all that is printed: names and texts of the data could steer the terminal."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """What is printed, wrapped; called by rich."""
        return [Escaped(renderable) for renderable in renderables]


class Escaped:
    """The same on the screen, with control characters escaped."""

    def __init__(self, renderable: RenderableType) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def _console(stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    console.push_render_hook(Visible())
    return console


def stdout() -> Console:
    """Standard output."""
    return _console(stderr=False)


def stderr() -> Console:
    """Standard error."""
    return _console(stderr=True)


def show(*parts: RenderableType) -> None:
    """Show some parts, one below the other."""
    for part in parts:
        stdout().print(part)


def show_commands(text: str) -> None:
    """Never folded: a command is copied from the screen as it is."""
    stdout().print(Text(text), soft_wrap=True)


def answer(as_json: bool, content: object, *parts: RenderableType, commands: str = "") -> None:
    """Show the result of a command: for a machine, or for a person.

    Args:
        as_json: With --json.
        content: For a machine.
        parts: For a person.
        commands: Text below them that is never folded.
    """
    if as_json:
        print_json(content)
        return
    show(*parts)
    if commands:
        show_commands(commands)


def print_json(content: object) -> None:
    """The one JSON value on standard output."""
    sys.stdout.write(json_text(plain(content), indent=2, allow_nan=False) + "\n")
