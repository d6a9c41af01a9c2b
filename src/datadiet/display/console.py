"""The two streams of the command line: what a person reads, and what a machine does."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout

from rich.console import Console, RenderableType
from rich.text import Text


def quiet_stdout(as_json: bool) -> AbstractContextManager[object]:
    """With --json, whatever a library prints goes to standard error: standard output holds JSON and nothing else."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def stdout() -> Console:
    """Standard output."""
    return Console(highlight=False)


def stderr() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


def show(*parts: RenderableType) -> None:
    """Show some parts, one below the other."""
    for part in parts:
        stdout().print(part)


def show_commands(text: str) -> None:
    """Never folded: a command is copied from the screen as it is."""
    stdout().print(Text(text), soft_wrap=True)


def answer(as_json: bool, content: object, *parts: RenderableType, commands: str = "") -> None:
    """What a command has found: for a machine, or for a person.

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
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
