"""`datadiet score`: score every training row, and sum up the scores in plain values.

`datadiet select`: choose once what to train on, from a score file or from the folder of a scored corpus.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from datadiet.cli.console import FAILED, answer, quiet_stdout, reported, show_problems, stdout
from datadiet.cli.options import AsJson, Debug, is_given, settings_given, with_flags
from datadiet.cli.progress import display_for
from datadiet.cli.tables import plain_table, scores_table, selection_table
from datadiet.config import DATA_HELP, READING_FLAGS, declared
from datadiet.errors import ArgumentError
from datadiet.formatting import duration, number, percent, shown
from datadiet.jobs.score_config import RUN_FLAGS, ScoreConfig, score_options_hint
from datadiet.jobs.select_config import SelectConfig
from datadiet.types import Json, Listener, Silent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datadiet.store.score_file import ScoreFile

QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


@with_flags(("task", *RUN_FLAGS))
@with_flags(config=ScoreConfig)
def score(
    ctx: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)] = None,
    score_options: Annotated[str | None, typer.Option(hidden=True)] = None,
    as_json: AsJson = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Score every training row, many scores in one go, into a file that select and finetune read."""
    with reported(debug), quiet_stdout(as_json):
        if score_options is not None:
            hint = score_options_hint(score_options, options["scores"])
            raise ArgumentError(f'--score-options is written with the score it belongs to now: --scores "{hint}".')
        own = {name: options[name] for name in declared(ScoreConfig)}
        given = settings_given(options, partial(is_given, ctx), RUN_FLAGS)
        config = ScoreConfig(data=data, task=options["task"], options=given, **own)
        with display_for(stdout(), as_json, title="score") as listener:
            summary = (run_corpus if is_corpus(config) else run_score)(config, listener)
    if is_corpus(config):
        following = f"Choose by it with: {summary['next']}" if summary["next"] else ""
        answer(as_json, summary, corpus_table(summary), commands=following)
        if problems := unreadable_problems(summary):
            show_problems(problems)
            raise typer.Exit(FAILED)
        return
    next_step = f"Choose by it with: {summary['next']}" if summary["next"] else ""
    answer(as_json, summary, scores_table(summary), commands=next_step)


def run_score(config: ScoreConfig, listener: Listener = Silent()) -> Json:  # noqa: B008  (stateless)
    """Score, write the file, and sum it up; torch is imported here.

    Returns:
        Quantiles of every score and how it was made, and the rank correlation of each two. Plain values.

    Raises:
        ArgumentError, DataError: All problems of a step at once; nothing has been written then.
    """
    listener.phase("importing torch and transformers")
    from datadiet.jobs.score import score as run
    from datadiet.jobs.score_checks import check_job

    if config.output is None:
        missing = "--output is missing: a .parquet file; .jsonl or .csv for people; or a folder, for a corpus."
        try:
            check_job(config)
        except ArgumentError as error:
            raise ArgumentError(missing, *error.problems) from None
        raise ArgumentError(missing)
    return summary_of(run(config, listener), config)


def summary_of(file: ScoreFile, config: ScoreConfig) -> Json:
    """A score file in plain values."""
    return {
        "output": str(config.output),
        "data": file.data,
        "fingerprint": file.fingerprint,
        "task": file.task,
        "rows": len(file),
        "probabilities": file.probabilities is not None,
        "probabilities_with": dict(file.probabilities_with),
        "cost": dict(file.cost),
        "scores": {
            name: {**quantiles(values[~file.lacks(name)]), **_missing(file, name), **file.made_with.get(name, {})}
            for name, values in file.values.items()
        },
        "correlations": correlations(_known(file)),
        "next": _next_command(file, config),
    }


def _missing(file: ScoreFile, name: str) -> dict[str, int]:
    return {"missing": int(file.missing[name].sum())} if name in file.missing else {}


def _known(file: ScoreFile) -> dict[str, NDArray[np.float32]]:
    """The values of the rows that have all of them."""
    import numpy as np

    known = ~np.any([file.lacks(name) for name in file.values], axis=0)
    return {name: values[known] for name, values in file.values.items()}


def quantiles(values: NDArray[np.float32]) -> dict[str, float]:
    """Least, 10 %, median, 90 % and largest.

    Examples:
        >>> quantiles([3.0, 1.0, 2.0])
        {'min': 1.0, 'p10': 1.2, 'median': 2.0, 'p90': 2.8, 'max': 3.0}
    """
    import numpy as np

    results = np.quantile(np.asarray(values, np.float64), list(QUANTILES.values()))
    return {name: round(float(value), 6) for name, value in zip(QUANTILES, results, strict=True)}


def correlations(values: Mapping[str, NDArray[np.float32]]) -> dict[str, dict[str, float | None]]:
    """Spearman's rank correlation of each two scores; None where one of them has the same value everywhere.

    Examples:
        >>> correlations({"a": [1, 2, 3], "b": [9, 5, 4]})
        {'a': {'a': 1.0, 'b': -1.0}, 'b': {'a': -1.0, 'b': 1.0}}
    """
    import numpy as np
    from scipy.stats import rankdata

    ranks = {name: rankdata(column) - (len(column) + 1) / 2 for name, column in values.items()}  # their mean is 0
    lengths = {name: float(np.linalg.norm(centred)) for name, centred in ranks.items()}

    def between(one: str, two: str) -> float | None:
        size = lengths[one] * lengths[two]
        return round(float(ranks[one] @ ranks[two]) / size, 4) if size else None

    return {one: {two: between(one, two) for two in ranks} for one in ranks}


def _next_command(file: ScoreFile, config: ScoreConfig) -> str | None:
    """What to type to choose by the first score; the file records how the split was read."""
    if config.output is None or config.output.suffix != ".parquet":
        return None
    name = next(iter(file.values))
    words = ["datadiet select", shlex.quote(str(config.output)), "--data", shlex.quote(str(config.data))]
    return " ".join([*words, "--score", name, "--keep 0.5 --output kept.jsonl"])


# ---- a corpus ----


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


# ---- datadiet select ----


@with_flags(READING_FLAGS)
@with_flags(config=SelectConfig)
def select(
    ctx: typer.Context,
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="A .parquet file, or a folder, of datadiet score.")],
    option: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
    as_json: AsJson = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Choose once what to train on, from a score file: writes the kept rows, and says why, class by class."""
    with reported(debug), quiet_stdout(as_json):
        if option:
            call = f"{options['select']}({', '.join(option)})"
            raise ArgumentError(f'--option is written with the selector now: --select "{call}".')
        reading = settings_given(options, partial(is_given, ctx), READING_FLAGS)
        config = SelectConfig(**{name: options[name] for name in declared(SelectConfig)}, reading=reading)
        if scores.is_dir():
            from datadiet.jobs.select_corpus import checked as checked_folder
            from datadiet.jobs.select_corpus import select_corpus

            checked_folder(config, scores)
            with display_for(stdout(), as_json, title="select") as listener:
                summary = select_corpus(config, scores, listener)
            answer(as_json, summary, selection_lines(summary))
            return
        from datadiet.jobs.select import checked
        from datadiet.jobs.select import select as run_select

        checked(config, scores)  # before the display begins
        with display_for(stdout(), as_json, title="select") as listener:
            summary = run_select(config, scores, listener)
    answer(as_json, summary, selection_table(summary), commands=f"Train on it with: {summary['next']}")


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
