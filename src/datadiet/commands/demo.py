"""What the demo says at its end."""

from __future__ import annotations

import shlex
from pathlib import Path

CLOSING = (
    "\nBoth runs in one process, one after the other; each counts loading its data and model. One seed is an anecdote: "
    "differences of half a point are noise. Before you believe in a diet, compare it with training on everything for "
    "fewer epochs.\n"
)
NEXT = """Try next:
  datadiet predict --model {output}/diet/model --text "play some jazz by miles davis"
  datadiet finetune YOUR_FOLDER --task classification --keep 0.5 --output runs/first
  datadiet methods"""


def next_commands(output: Path) -> str:
    """What to type next.

    Args:
        output: Of the demo.
    """
    return NEXT.format(output=shlex.quote(str(output)))
