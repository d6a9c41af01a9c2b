"""What `datadiet score` and `datadiet select` do with a corpus: the job, what it shows, and the exit code."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from datadiet.cli.tables import plain_table
from datadiet.formatting import duration, number, percent, shown
from datadiet.jobs.score_config import ScoreConfig
from datadiet.types import Json, Listener


def is_corpus(config: ScoreConfig) -> bool:
    """Whether the output of a scoring job is a folder, as that of a corpus is."""
    return config.output is not None and not config.output.suffix


def run_corpus(config: ScoreConfig, listener: Listener) -> Json:
    """Score a corpus, and sum it up; torch is imported here.

    Raises:
        ArgumentError, DataError: All problems of a step at once.
    """
    listener.phase("importing torch and transformers")
    from datadiet.jobs.score_corpus import score_corpus

    content = score_corpus(config, listener)
    words = ["datadiet select", shlex.quote(str(config.output)), "--data", shlex.quote(str(config.data))]
    score = f"--score {content['scores'][0]} " if content["scores"] else ""
    return {
        **{name: content[name] for name in ("data", "fingerprint", "task", "rows", "reasons", "stats", "cost")},
        "output": str(config.output),
        "engine": config.engine,
        "partitions": len(content["parts"]),
        "taken_over": content["taken_over"],
        "unreadable": content["unreadable"],
        "seconds": content["seconds"],
        "next": f"{' '.join(words)} {score}--keep 0.5 --output kept.jsonl" if score else None,
    }


def corpus_table(summary: Json) -> RenderableType:
    """The rows, the range of each score, and what could not be read.

    Args:
        summary: From `run_corpus`.
    """
    before = f", {summary['taken_over']:,} of them done before" if summary["taken_over"] else ""
    head = Text(
        f"{summary['rows']:,} rows of {shown(summary['data'])} in {summary['partitions']:,} partitions{before}, in "
        f"{duration(summary['seconds'])}",
        "bold",
    )
    table = plain_table("score", "rows", "min", "mean", "max")
    for name, line in summary["stats"].items():
        table.add_row(name, f"{line['rows']:,}", *(number(line[part]) for part in ("min", "mean", "max")))
    parts: list[RenderableType] = [Text(""), head, *([table] if summary["stats"] else [])]
    for reason, count in summary["reasons"].items():
        parts.append(Text(f"  {count:,} ({percent(count / summary['rows'])}) {reason}: never chosen"))
    return Group(*parts, Text(""), Text(f"Wrote {shown(summary['output'])}."))


def unreadable_problems(summary: Json) -> list[str]:
    """A sentence per partition that was left out."""
    again = "give the same command again once that is mended: what is done is not done again."
    return [f"{problem} ({shown(name)} was left out; {again})" for name, problem in summary["unreadable"].items()]


def selection_lines(summary: Json) -> RenderableType:
    """What is kept of a corpus, and of each group.

    Args:
        summary: From `datadiet.jobs.select_corpus.select_corpus`.
    """
    rows = summary["rows"]
    head = Text(
        f"Kept {summary['kept']:,} of {rows:,} rows ({percent(summary['kept'] / rows)}) by {summary['select']} on "
        f"{summary['score']}, in {duration(summary['seconds'])}",
        "bold",
    )
    parts: list[RenderableType] = [Text(""), head]
    for reason, count in summary["reasons"].items():
        parts.append(Text(f"  {count:,} ({percent(count / rows)}) {reason}: never chosen"))
    if summary["groups"]:
        table = plain_table("group", "rows", "kept", "share kept")
        for line in summary["groups"][:20]:
            table.add_row(
                shown(line["group"]), f"{line['rows']:,}", f"{line['kept']:,}", percent(line["kept"] / line["rows"])
            )
        parts += [Text(""), table]
    target = Path(summary["output"])
    return Group(*parts, Text(""), Text(f"Wrote {shown(str(target))}."))
