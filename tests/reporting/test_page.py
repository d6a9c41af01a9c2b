"""The page as HTML, and `dd.report`; test_browser.py opens it."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser

import pytest

import datadiet as dd
from datadiet.errors import ArgumentError, MissingExtraError
from datadiet.reporting import report
from toys import HOSTILE


class Elements(HTMLParser):
    """Every tag of a page, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def test_the_page_needs_nothing_from_elsewhere(run):
    page = report(run).read_text(encoding="utf-8")
    tags = Elements(page).tags
    assert not [tag for tag, _ in tags if tag in ("link", "iframe", "object", "embed")]
    assert not [value for _, attrs in tags for name, value in attrs.items() if name in ("src", "action")]
    urls = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in page


def test_the_same_run_gives_the_same_page(run, tmp_path):
    assert report(run, tmp_path / "a.html").read_bytes() == report(run, tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("name", ["README.html", "README.md"])
def test_no_file_but_an_earlier_report_is_replaced(run, tmp_path, name):
    page = tmp_path / "README.html"
    (tmp_path / name).write_text("the user's own, about datadiet report\n")
    with pytest.raises(ArgumentError, match=rf"{name} exists: --force replaces it"):
        report(run, page)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    report(run, page, force=True)
    assert report(run, page) == page


def test_hostile_text_stays_text(hostile_run):
    page = report(hostile_run).read_text(encoding="utf-8")
    elements = Elements(page)
    assert len([tag for tag, _ in elements.tags if tag == "script"]) == 2
    assert not [name for _, attrs in elements.tags for name in attrs if name.startswith("on")]
    assert "<img" not in page
    table = json.loads(elements.scripts[0])
    assert HOSTILE["script"] in table["text"]
    assert any(text.startswith("w" * 100) for text in table["text"])
    assert "<b>bold</b>" in table["names"]
    assert "&lt;b&gt;bold&lt;/b&gt;" in page  # the class, in a table and in a figure


def test_what_cannot_be_reported(run, tmp_path, monkeypatch):
    assert dd.report is report
    with pytest.raises(ArgumentError, match="neither a run nor a comparison"):
        report(tmp_path)
    with pytest.raises(ArgumentError, match=r"must end in \.html"):
        report(run, tmp_path / "page.pdf")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ArgumentError, match="an unfinished run; go on with it by: datadiet finetune --resume"):
        report(tmp_path)
    for name in [name for name in sys.modules if name.startswith("datadiet.reporting.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'datadiet\[report\]'"):
        report(run)
