"""Data that tries to break a page: markup, one endless word, right-to-left text, emoji."""

from __future__ import annotations

import json
from pathlib import Path

HOSTILE = {
    "script": "</script><script>document.title='owned'</script><!--",
    "image": "<img src=x onerror=\"document.title='owned'\">",
    "word": "w" * 10_000,
    "arabic": "مرحبا بالعالم \u202e olleh",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 z͑ͫ̓ͪ̂ͫ̽͏̴̙",
    "template": "{{ 7 * 7 }} {% raw %} ${7*7} $x^2$",
}


def hostile_folder(tmp_path: Path) -> Path:
    """A classification folder whose texts and labels are hostile."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    texts = list(HOSTILE.values())
    for split, count in (("train", 24), ("dev", 12), ("test", 12)):
        lines = [
            {
                "id": f"{split}-{row}",
                "text": texts[row] if split == "train" and row < len(texts) else f"{split} text {row}",
                "label": ("<b>bold</b>", "plain $a$")[row % 2],
            }
            for row in range(count)
        ]
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{split}.jsonl").write_text(content, encoding="utf-8")
    return folder
