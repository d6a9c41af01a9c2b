"""Small data folders, written where a test asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from toys import Rows, write_rows


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., str]:
    """Make a data folder: `folder(train=..., dev=...)`, a split being rows, or the text of the file itself."""

    def make(kind: str = "jsonl", name: str = "reviews", **splits: Rows | str) -> str:
        home = tmp_path / name
        home.mkdir(exist_ok=True)
        for split, content in splits.items():
            path = home / f"{split}.{kind}"
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8", newline="")
            else:
                write_rows(path, content)
        return str(home)

    return make
