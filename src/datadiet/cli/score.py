"""`datadiet score`: from flags to a score file, and what is told of it.

`datadiet score`: score every training row.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datadiet.cli.console import answer, quiet_stdout, reported, stdout
from datadiet.cli.options import AsJson, Debug, is_given, settings_given, with_flags
from datadiet.cli.progress import display_for
from datadiet.cli.tables import scores_table
from datadiet.config import DATA_HELP, flag_name
from datadiet.errors import ArgumentError
from datadiet.jobs.score_config import BASE_MODEL, PASSES, READING, TRAINING, ScoreConfig
from datadiet.registry import split_calls
from datadiet.types import Json, Listener, Silent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datadiet.store.score_file import ScoreFile


QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


def request_from(
    scores: str | None, given: Mapping[str, Any], options: Mapping[str, Any], output: Path | None
) -> ScoreConfig:
    """The config that flags ask for.

    Args:
        scores: Names with commas between.
        given: Fields of `ScoreConfig`.
        options: Those of `FinetuneConfig` that stand on the command line, by field.
        output: Required.

    Example:
        >>> request_from("el2n, vog", {"data": "snips"}, {"task": "intent-slot"}, Path("scores.parquet")).scores
        ('el2n', 'vog')
    """
    named = None if scores is None else tuple(name.strip() for name in split_calls(scores) if name.strip())
    rest = {name: value for name, value in options.items() if name != "task"}
    return ScoreConfig(task=options.get("task"), scores=named, output=output, options=rest, **given)


def run_score(config: ScoreConfig, listener: Listener = Silent()) -> Json:  # noqa: B008  (stateless)
    """Score, write the file, and say what is in it; torch is imported here.

    Args:
        config: See there.
        listener: Hears what is being done.

    Returns:
        Of every score quantiles and what it was made with, and the rank correlation of each two. Plain values.

    Raises:
        ArgumentError, DataError: All problems of a step at once; nothing has been written then.
    """
    listener.phase("importing torch and transformers")
    from datadiet.jobs.score import score as run
    from datadiet.jobs.score_checks import check_job

    if config.output is None:
        missing = "--output is missing: a .parquet file, or .jsonl or .csv for people."
        try:
            check_job(config)
        except ArgumentError as error:
            raise ArgumentError(missing, *error.problems) from None
        raise ArgumentError(missing)
    return told(run(config, listener), config)


def told(file: ScoreFile, config: ScoreConfig) -> Json:
    """What a score file holds, in plain values."""
    return {
        "output": str(config.output),
        "data": file.data,
        "fingerprint": file.fingerprint,
        "task": file.task,
        "rows": len(file),
        "probabilities": file.probabilities is not None,
        "probabilities_with": dict(file.probabilities_with),
        "cost": dict(file.cost),
        "scores": {name: {**quantiles(values), **file.made_with.get(name, {})} for name, values in file.values.items()},
        "correlations": correlations(file.values),
        "next": _next(file, config),
    }


def quantiles(values: NDArray[np.float32]) -> dict[str, float]:
    """Least, 10 %, median, 90 % and largest.

    Example:
        >>> quantiles([3.0, 1.0, 2.0])
        {'min': 1.0, 'p10': 1.2, 'median': 2.0, 'p90': 2.8, 'max': 3.0}
    """
    import numpy as np

    found = np.quantile(np.asarray(values, np.float64), list(QUANTILES.values()))
    return {name: round(float(value), 6) for name, value in zip(QUANTILES, found, strict=True)}


def correlations(values: Mapping[str, NDArray[np.float32]]) -> dict[str, dict[str, float | None]]:
    """Spearman's rank correlation of each two scores; None where one of them has the same value everywhere.

    Example:
        >>> correlations({"a": [1, 2, 3], "b": [9, 5, 4]})
        {'a': {'a': 1.0, 'b': -1.0}, 'b': {'a': -1.0, 'b': 1.0}}
    """
    import numpy as np
    from scipy.stats import rankdata

    ranks = {name: rankdata(held) - (len(held) + 1) / 2 for name, held in values.items()}  # their mean is 0
    lengths = {name: float(np.linalg.norm(held)) for name, held in ranks.items()}

    def between(one: str, two: str) -> float | None:
        size = lengths[one] * lengths[two]
        return round(float(ranks[one] @ ranks[two]) / size, 4) if size else None

    return {one: {two: between(one, two) for two in ranks} for one in ranks}


def _next(file: ScoreFile, config: ScoreConfig) -> str | None:
    """What to type to choose by the first score; how the split was read stands in the file."""
    if config.output is None or config.output.suffix != ".parquet":
        return None
    name = next(iter(file.values))
    words = ["datadiet select", shlex.quote(str(config.output)), flag_name("data"), shlex.quote(str(config.data))]
    return " ".join([*words, "--score", name, "--keep 0.5 --output kept.jsonl"])


@with_flags(("task", *READING, *PASSES, *TRAINING))
def score(
    ctx: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)] = None,
    scores: Annotated[
        str | None,
        typer.Option(
            help='Comma-separated, such as el2n,"prototypes(clusters=500)"; '
            "by default el2n, and a run's training dynamics."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A .parquet file; or .jsonl or .csv, for people. Required.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A run folder, RUN/model, or any saved model that is trained for these classes.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of --model: train so many epochs on everything.")] = None,
    folds: Annotated[
        int | None, typer.Option(help="For scores of rows a model has not seen: train one for each of so many parts.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help=f"What --epochs starts from: a hub name or folder. {BASE_MODEL} by default.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Keep the run of --epochs in this folder.")] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Another trained model, for the scores that compare two.")
    ] = None,
    holdout: Annotated[
        Path | None, typer.Option(help="A model trained on other data, for reducible_loss and irreducible_loss.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Embeds the texts; the model at hand by default.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also keep the class probabilities.")] = False,
    max_length: Annotated[int | None, typer.Option(help="Tokens per text; by default as it was trained.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    score_options: Annotated[str | None, typer.Option(hidden=True)] = None,
    as_json: AsJson = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Score every training row, many scores in one go, into a file that select and finetune read."""
    with reported(debug), quiet_stdout(as_json):
        if score_options is not None:
            call = f"NAME({score_options})"
            raise ArgumentError(f'--score-options is written with the score now: --scores "{call}".')
        given = settings_given(options, lambda name: name in options and is_given(ctx, name))
        named = {"data": data, "model": model, "epochs": epochs, "base_model": base_model, "run": run}
        named |= {"folds": folds, "teacher": teacher, "holdout": holdout, "encoder": encoder}
        named |= {"probabilities": probabilities}
        request = request_from(scores, named | {"max_length": max_length, "force": force}, given, output)
        with display_for(stdout(), as_json, title="score") as listener:
            found = run_score(request, listener)
    choose = f"Choose by it with: {found['next']}" if found["next"] else ""
    answer(as_json, found, scores_table(found), commands=choose)
