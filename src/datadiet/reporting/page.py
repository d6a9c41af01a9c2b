"""The model of a page and its rendering: one self-contained HTML file in which all text from data is escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from datadiet.reporting.plot import svg
from datadiet.reporting.rows import embedded
from datadiet.types import Json

_TEMPLATES = resources.files("datadiet.reporting") / "templates"


@dataclass(frozen=True)
class Card:
    """A question with its answer, at the top of the page.

    Attributes:
        question, answer: As short as they can be.
        detail: What the answer rests on.
        state: Of `datadiet.compare.verdict.STATES`, which colours the card; empty for a neutral one.
    """

    question: str
    answer: str
    detail: str = ""
    state: str = ""

    @classmethod
    def of_advice(cls, question: str, advice: str) -> Card:
        """A card whose answer ends at the first colon or full stop of a text.

        Examples:
            >>> Card.of_advice("What next?", "Train longer: `--epochs auto` finds how long.").answer
            'Train longer'
        """
        head, _, tail = re.sub(r"[:.] ", "\n", advice, count=1).partition("\n")
        return cls(question, head.removesuffix("."), tail[:1].upper() + tail[1:])


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
        finding: What it shows here, in a sentence, for readers who do not see it.
        wide: Whether it takes the whole width of the page.
    """

    title: str
    caption: str
    figure: Figure
    finding: str = ""
    wide: bool = False

    @property
    def svg(self) -> Markup:
        """The figure as it stands in the page; matplotlib escapes the text from data in it."""
        return Markup(svg(self.figure, self.title))


@dataclass(frozen=True)
class Section:
    """Figures and tables that belong together.

    Attributes:
        title, text: Its heading, and a sentence in front.
        drawings, tables: Its content.
        details: Sentences behind a disclosure, by name.
    """

    title: str
    text: str = ""
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        """The heading as a fragment of an address."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """The content of a page, from top to bottom.

    Attributes:
        title, subtitle: Of the whole.
        cards: The answers, the first of them the one that matters most.
        notes: Warnings, e.g. that a run failed.
        picture: The figure that shows the answer.
        sections: Results in detail.
        examples: From `rows.example_table`; None for a page without the table.
        examples_note: Which examples the table shows.
        label_word: The heading of their labels.
        options: Of the run or the comparison, as text.
        footer: Versions and machine.
    """

    title: str
    subtitle: str
    cards: Sequence[Card] = ()
    notes: Sequence[str] = ()
    picture: Drawing | None = None
    sections: Sequence[Section] = ()
    examples: Json | None = None
    examples_note: str = ""
    label_word: str = "label"
    options: str = ""
    footer: str = ""


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["code"] = code
    examples = None if page.examples is None else Markup(embedded(page.examples))
    return environment.from_string(_read("page.html.j2")).render(
        page=page, examples=examples, css=Markup(_read("page.css")), js=Markup(_read("examples.js"))
    )


def code(text: str) -> Markup:
    """Escaped text in which Markdown's backticks mark code.

    Examples:
        >>> code("run `a < b`")
        Markup('run <code>a &lt; b</code>')
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
