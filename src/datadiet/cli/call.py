"""One call of the command line: what every command takes, and what the process knew before it ran."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Only JSON on standard output; progress goes to standard error.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


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
