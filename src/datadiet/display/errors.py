"""Errors as the user sees them: one message on standard error, no traceback, an exit code that says whose mistake."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

from datadiet.checks import UserError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


@contextmanager
def reported(debug: bool, interrupted: Callable[[], str] = lambda: "interrupted") -> Iterator[None]:
    """Turn errors into a message and an exit code: 2 for arguments and data, 1 for a failure, 130 for Ctrl-C.

    Args:
        debug: Show the traceback as well.
        interrupted: What to say after Ctrl-C.

    Raises:
        typer.Exit: Instead of the error.
    """
    try:
        yield
    except UserError as error:
        show_problems(error.problems, debug)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        Console(stderr=True, highlight=False).print(Text(interrupted()), soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise  # not errors of ours
    except Exception as error:
        reason = " ".join(str(error).split()) or "no message"
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
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)
