"""`datadiet methods`: list what there is."""

from __future__ import annotations

from datadiet.catalogue import METHODS
from datadiet.catalogue import as_json as methods_as_json
from datadiet.cli.call import AsJson, Debug
from datadiet.display import methods_table
from datadiet.display.console import answer
from datadiet.display.errors import reported


def methods(as_json: AsJson = False, debug: Debug = False) -> None:
    """Every score, selector, history and rescore mode: formula, needs, cost, paper."""
    with reported(debug):
        answer(as_json, methods_as_json(), methods_table(METHODS))
