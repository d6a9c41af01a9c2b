"""One self-contained page: no network, nothing but text from data that is escaped wherever it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from datadiet.reporting.rows import embedded
from datadiet.types import Json

_TEMPLATES = resources.files("datadiet.reporting") / "templates"


@dataclass(frozen=True)
class Table:
    """A table of the page; cells are text.

    Attributes:
        title, note: What it shows, and what to know of it.
        head, rows: Its cells.
        prose: Columns that hold texts and not numbers: to the left, and broken over lines.
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
        title, caption: What it shows and how to read it.
        svg: From `figures.svg`; text from data in it was escaped by matplotlib.
    """

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """Figures and tables that belong together, with a sentence in front."""

    title: str
    text: str
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Page:
    """What a page shows, in this order.

    Attributes:
        title, subtitle: Of the whole.
        tiles: The few figures that matter, by name.
        notes: What the reader must know first, e.g. that a run failed.
        verdicts: A sentence by method.
        tables, drawings, sections: The rest.
        examples: See `examples.example_table`; None leaves the table out.
        examples_note: What the table of examples shows.
        options: Everything that was set, as text.
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
    examples: dict[str, Any] | None = None
    if page.examples is not None:
        examples = {"note": page.examples_note, "data": Markup(embedded(page.examples))}
    return environment.from_string(_read("page.html.j2")).render(
        title=page.title,
        subtitle=page.subtitle,
        tiles=[{"name": name, "value": value} for name, value in page.tiles.items()],
        notes=page.notes,
        verdicts=[{"name": name, "text": text} for name, text in page.verdicts.items()],
        tables=page.tables,
        figures=_figures(page.drawings),
        sections=[
            {"title": part.title, "text": part.text, "figures": _figures(part.drawings), "tables": part.tables}
            for part in page.sections
        ],
        examples=examples,
        options=page.options,
        footer=page.footer,
        css=Markup(_read("page.css")),
        js=Markup(_read("examples.js")),
    )


def _figures(drawings: Sequence[Drawing]) -> list[dict[str, str]]:
    return [{"title": one.title, "caption": one.caption, "svg": Markup(one.svg)} for one in drawings]


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
