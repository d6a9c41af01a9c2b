"""The model of a page and its rendering: one self-contained HTML file in which all text from data is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from datadiet.reporting.plot import svg
from datadiet.reporting.rows import embedded
from datadiet.types import Json

_TEMPLATES = resources.files("datadiet.reporting") / "templates"


@dataclass(frozen=True)
class Table:
    """A table of the page; cells are text.

    Attributes:
        title, note: Its heading, and a remark below it.
        head, rows: Its cells.
        prose: Columns of texts instead of numbers: to the left, and broken over lines.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    prose: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Attributes:
        title, caption: Its heading, and how to read it.
        figure: Of `datadiet.reporting.plot`.
    """

    title: str
    caption: str
    figure: Figure

    @property
    def svg(self) -> Markup:
        """The figure as it stands in the page; matplotlib escapes the text from data in it."""
        return Markup(svg(self.figure))


@dataclass(frozen=True)
class Section:
    """Figures and tables that belong together, with a sentence in front."""

    title: str
    text: str
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Page:
    """The content of a page, from top to bottom.

    Attributes:
        title, subtitle: Of the whole.
        tiles: The few figures that matter, by name.
        notes: Warnings, e.g. that a run failed.
        verdicts: A sentence by method.
        tables, drawings, sections: Results in detail.
        examples: From `rows.example_table`; None for a page without the table.
        examples_note: Which examples the table shows.
        options: Of the run or the comparison, as text.
        footer: Versions and machine.
    """

    title: str
    subtitle: str
    tiles: Mapping[str, str]
    notes: Sequence[str] = ()
    verdicts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    sections: Sequence[Section] = ()
    examples: Json | None = None
    examples_note: str = ""
    options: str = ""
    footer: str = ""


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    examples = None if page.examples is None else Markup(embedded(page.examples))
    return environment.from_string(_read("page.html.j2")).render(
        page=page, examples=examples, css=Markup(_read("page.css")), js=Markup(_read("examples.js"))
    )


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
