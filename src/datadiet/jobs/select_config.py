"""What `datadiet select` and `dd.select_rows` are asked for, each option declared once. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from datadiet.config import DATA, DATA_HELP, option, option_problems
from datadiet.errors import ArgumentError, Problems, UserError, quoted, unknown
from datadiet.registry import (
    AtLeast,
    Bound,
    Share,
    ShareBelowOne,
    find,
    missing_options,
    names,
    parse_call,
    problems_of,
    selectors_in,
)
from datadiet.types import Selection

Select = str | Callable[..., Selection]
SELECTION, OUTPUT = "Selection", "Output"


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """The options of a static selection. `dd.select_rows` takes those of the panel Selection as keywords.

    First duplicates are dropped, then suspects, then the selector chooses among the other rows.

    Attributes:
        select: A selector by name, with options in brackets: `"ccs(beta=0.2)"`; in Python also a function of the common
            form of `datadiet.selectors`.
        keep: Share of all rows of the file that is kept.
        count: Instead of `keep`. With neither, every row is kept that is no duplicate and no suspect.
        drop_suspects: Share of the remaining rows whose labels are most likely wrong, by the first of `aum`, `el2n`,
            `negative_pvi` and `irreducible_loss` that the file has.
        suspects_by: Another ranking of `datadiet.noise.rankings.BY`.
        dedupe: Keeps one of the rows with the same text, case and spacing aside: the first with the most common label.
        near: Least similarity of near duplicates, which must have the same label; see `datadiet.data.duplicates`.
        group_column: A column of the data whose values are the groups, in place of the classes: for floors and for
            every selector of groups, whatever the task. In Python `select_rows` takes `groups=`.
        reading: Options of `config.READING_FLAGS` that differ from how the split was scored.
    """

    score: str | None = option(None, "A column of SCORES; the only one by default.", SELECTION)
    select: Select = option("hardest", 'A selector of datadiet methods, such as "ccs(beta=0.2)".', SELECTION)
    keep: float | None = option(
        None, "Share of all rows that is kept, rounded, at least one row.", SELECTION, bound=Share
    )
    count: int | None = option(None, "Instead of --keep: how many rows.", SELECTION, bound=AtLeast(1))
    offset: float | None = option(None, "Share of the very hardest excluded as noise.", SELECTION)
    floor: int = option(0, "Keep at least so many of each class; 0 = no floor.", SELECTION, bound=AtLeast(0))
    drop_suspects: float = option(
        0.0, "Share dropped whose label is most likely wrong.", SELECTION, bound=ShareBelowOne
    )
    suspects_by: str | None = option(
        None, "aum, el2n, irreducible, ... of SCORES; aum by default, else el2n.", SELECTION
    )
    dedupe: bool = option(False, "Keep one of the rows with the same text.", SELECTION)
    near: float | None = option(
        None, "With --dedupe: also of nearly the same texts, such as 0.8.", SELECTION, bound=Bound(0, 1, True, True)
    )
    seed: int = option(0, "Of ties and random choices.", SELECTION, bound=AtLeast(0))
    data: str | None = option(None, f"What was scored. {DATA_HELP} Required.", DATA)
    group_column: str | None = option(
        None, "A column whose values are the groups, in place of the classes: a domain, a prompt's id.", DATA
    )
    features: Path | None = option(None, "A .npy file for selectors that cover a space; TF-IDF by default.", DATA)
    output: Path | None = option(
        None, "A .jsonl, .csv, .tsv or .parquet file; or a folder, with all splits. Required.", OUTPUT
    )
    with_score: bool = option(False, "Add the values as a column.", OUTPUT)
    force: bool = option(False, "Replace the output.", OUTPUT)
    reading: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def selector(self) -> tuple[Select, Mapping[str, Any]]:
        """The selector's name, or the function, and its options.

        Raises:
            ArgumentError: If `select` cannot be read, or names the offset a second time.

        Examples:
            >>> SelectConfig(select="ccs(strata=20, beta=0.2)").selector
            ('ccs', {'strata': 20, 'beta': 0.2})
        """
        select, options = parse_call(self.select) if isinstance(self.select, str) else (self.select, {})
        if self.offset is None:
            return select, options
        if "offset" in options:
            raise ArgumentError(f"offset must be given once, got {self.offset} beside select={quoted(self.select)}.")
        return select, {**options, "offset": self.offset}


SELECTION_OPTIONS = tuple(
    item.name
    for item in fields(SelectConfig)
    if "option" in item.metadata and item.metadata["option"].panel == SELECTION
)


def config_problems(config: SelectConfig) -> list[str]:
    """What is wrong with a selection, as far as it shows without the score file.

    Examples:
        >>> config_problems(SelectConfig(keep=70))
        ['keep must be in (0, 1], got 70. Did you mean 0.7?']
    """
    problems = Problems()
    problems.found += option_problems(config)
    problems.check(config.keep is None or config.count is None, "keep and count say the same thing: give one of them.")
    drops = config.drop_suspects or config.dedupe or counts_groups(config)
    if config.keep is None and config.count is None and not drops:
        problems.add("nothing is dropped: give keep (a share) or count, or drop suspects or duplicates.")
    if config.suspects_by is not None and not config.drop_suspects:
        problems.add("suspects_by has no effect without drop_suspects.")
    problems.check(config.near is None or config.dedupe, "near has no effect without dedupe.")
    problems.found += selector_problems(config)
    return problems.found


def kept_count(config: SelectConfig, rows: int, candidates: int, dropped: Sequence[str] = ()) -> int:
    """How many rows a selection keeps, of a file as of a corpus: the count, or the share of all rows.

    A share is `round(keep * rows)`, halves to the even number, and at least 1.

    Args:
        config: Of the selection.
        rows: All rows, those included that cannot be chosen.
        candidates: Rows that may be chosen; all of them are kept where neither keep nor count is given.
        dropped: What the others are, for the error.

    Raises:
        ArgumentError: If there are fewer candidates.

    Examples:
        >>> [kept_count(SelectConfig(keep=0.5), rows, rows) for rows in (1, 5, 7)]
        [1, 2, 4]
    """
    left_out = " and ".join(dropped)
    if config.keep is None and config.count is None:
        if not candidates:
            raise ArgumentError(f"nothing is left to keep: all of the {rows:,} rows are {left_out}.")
        return candidates
    count = config.count if config.count is not None else max(1, round((config.keep or 0.0) * rows))
    if count > candidates:
        raise ArgumentError(
            f"{count:,} of {rows:,} rows shall be kept, but only {candidates:,} are left without "
            f"{left_out}: keep at most {candidates / rows:.4g}, or give neither keep nor count to keep "
            "all of them."
        )
    return count


def counts_groups(config: SelectConfig) -> bool:
    """Whether the selector keeps one row of each group where no count is given."""
    return str(config.select).partition("(")[0] in names("select", trait="one_of_each")


def needs_of_selector(config: SelectConfig) -> dict[str, str]:
    """What the selector cannot do without beside the values, each with the name of the one that needs it.

    Examples:
        >>> needs_of_selector(SelectConfig(select="balanced(select=quadrants)"))
        {'entropy': 'quadrants', 'groups': 'balanced'}
    """
    try:
        found = selectors_in(*config.selector)
    except UserError:  # what is wrong with it is said elsewhere
        return {}
    return {need: method.name for method, _ in reversed(found) for need in method.needs}


def selector_problems(config: SelectConfig) -> list[str]:
    """What is wrong with the name of a selector and its options.

    Examples:
        >>> selector_problems(SelectConfig(select="ccs(betta=0.1)"))
        ["unknown option of ccs 'betta'; did you mean 'beta'? Allowed: beta, edges, strata."]
    """
    try:
        select, options = config.selector
    except UserError as error:
        return list(error.problems)
    if not isinstance(select, str):
        return []
    method = find("select", select)
    if method is None:
        if select.partition("(")[0] in names("race", "in_batch"):
            return [
                f"{select} decides while a model trains: choose once with another selector, such as hardest or cover."
            ]
        return [unknown("selector", select, names("select"))]
    return problems_of("select", select, options) + missing_options("select", select, options)
