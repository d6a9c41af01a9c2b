"""What `datadiet score` and `dd.score_data` are asked for, each option declared once. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from datadiet.config import COLUMNS, READING_FLAGS, FinetuneConfig, option
from datadiet.errors import UserError
from datadiet.registry import AtLeast, Bound, Positive, format_call, names, parse_call, parse_options, split_calls
from datadiet.types import Json

BASE_MODEL = "minilm"
# scores of models that have not seen the row; the first of them also of models that have seen no text
CROSS_FITTED = tuple(dict.fromkeys((*names("score", need="null"), *names("score", need="holdout"))))
# options of `FinetuneConfig`: of the passes and every training, and of trainings alone
PASSES, TRAINING_FLAGS = ("batch_size", "precision", "seed", "cache"), ("learning_rate",)
RUN_FLAGS = (*READING_FLAGS, *PASSES, *TRAINING_FLAGS)
SCORES, MODELS, OUTPUT, CORPUS = "Scores", "Models", "Output", "Corpus"


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """The options of a scoring job. Paths may be text.

    Attributes:
        data, task: See `datadiet.load_data`.
        scores: Names of scores, with options in brackets: `["el2n", "prototypes(clusters=500)"]`, or as one text with
            commas; by default el2n, and with a run its training dynamics.
        model: A run folder, its model/, or any saved model of the same classes. The score history of a run gives the
            training dynamics; its kept checkpoints give vog, self_influence and tracin.
        epochs: Instead of `model`: train so many epochs on everything first, from `base_model`. With `folds` also how
            long the models of each fold train, beside a `model` or not.
        folds: Train a model on all but each of so many parts, for the scores of `CROSS_FITTED`, and for
            `probabilities`, which are then those of models that have not seen the row.
        run: A folder that keeps the run of that training; without it the run is removed afterwards.
        teacher, holdout: Saved models or run folders.
        queries: Examples of what is wanted, of the same task and columns: one file, or the train split of a data set.
        query_groups: A column of them, whose values are the subtasks.
        output: A score file, .parquet, or .jsonl and .csv for people; None writes nothing. A folder (no ending) is
            for a corpus: `data` is then a folder of many files, scored partition by partition; see `jobs.score_corpus`.
        engine, workers, ray_address, ray_timeout, duplicates, near, embeddings, group_column: Of a corpus only.
        options: Options of `FinetuneConfig`, of `RUN_FLAGS`.
    """

    data: str | None = None
    task: str | None = None
    scores: str | Sequence[str] | None = option(
        None,
        'Comma-separated, such as el2n,"prototypes(clusters=500)"; by default el2n, and a run\'s training dynamics.',
        SCORES,
    )
    probabilities: bool = option(False, "Also keep the class probabilities.", SCORES)
    model: Path | None = option(
        None, "A run folder, RUN/model, or a model saved with its tokenizer, of these classes.", MODELS
    )
    epochs: int | None = option(
        None, "Instead of --model: train so many epochs on everything.", MODELS, bound=AtLeast(1)
    )
    folds: int | None = option(
        None, "For scores of rows a model has not seen: train one for each of so many parts.", MODELS, bound=AtLeast(2)
    )
    base_model: str | None = option(
        None, f"What --epochs starts from: a hub name or folder. {BASE_MODEL} by default.", MODELS
    )
    run: Path | None = option(None, "Keep the run of --epochs in this folder.", MODELS)
    teacher: Path | None = option(None, "Another trained model, for the scores that compare two.", MODELS)
    holdout: Path | None = option(
        None, "A model trained on other data, for reducible_loss and irreducible_loss.", MODELS
    )
    encoder: str | None = option(None, "Embeds the texts; the model at hand by default.", MODELS)
    queries: str | None = option(
        None, "Examples of what is wanted, for scores that compare with them: a file or folder.", SCORES
    )
    query_groups: str | None = option(None, "A column of --queries: the subtask of each.", SCORES)
    max_length: int | None = option(None, "Tokens per text; by default as it was trained.", MODELS, bound=AtLeast(3))
    output: Path | None = option(
        None, "A .parquet file; .jsonl or .csv, for people; or a folder, for a corpus. Required.", OUTPUT
    )
    force: bool = option(False, "Replace the output.", OUTPUT)
    engine: str = option("local", "What runs the partitions: local, or ray.", CORPUS, choices=("local", "ray"))
    workers: int | None = option(
        None, "Partitions at a time: 1 process by default, of Ray all processors.", CORPUS, bound=AtLeast(1)
    )
    ray_address: str | None = option(None, "Of a Ray cluster; one on this machine by default.", CORPUS)
    ray_timeout: float = option(10.0, "Seconds that the cluster has to answer.", CORPUS, bound=Positive)
    duplicates: bool = option(False, "Mark rows whose text another row has, over all files.", CORPUS)
    near: float | None = option(
        None, "With --duplicates: also of nearly the same texts, such as 0.8.", CORPUS, bound=Bound(0, 1, True, True)
    )
    embeddings: bool = option(False, "Also keep a vector per row, of the encoder or the model.", CORPUS)
    group_column: str | None = option(
        None, "What floors and quotas of a selection go by; the class by default.", CORPUS
    )
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("model", "run", "teacher", "holdout", "output"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(path).expanduser())

    def calls(self) -> dict[str, dict[str, Any]]:
        """The requested scores, each with its options; a run's dynamics, which are looked up later, are not among them.

        Raises:
            ArgumentError: For text of another form.

        Examples:
            >>> ScoreConfig(scores="vog, prototypes(clusters=500)").calls()
            {'vog': {}, 'prototypes': {'clusters': 500}}
        """
        scores = "el2n" if self.scores is None else self.scores
        parts = split_calls(scores) if isinstance(scores, str) else scores
        return dict(parse_call(part) for part in parts if part.strip())

    def training(self, run: Path, max_length: int, model: str | None = None) -> FinetuneConfig:
        """The run that trains on everything; also the source of every option of reading and of passes.

        Args:
            run: Its folder.
            max_length: Tokens per text.
            model: What it starts from; `base_model` by default.
        """
        return FinetuneConfig(
            data=self.data or "",
            task=self.task or "",
            output=str(run),
            model=model or self.base_model or BASE_MODEL,
            keep=1.0,
            epochs=1 if self.epochs is None else self.epochs,
            max_length=max_length,
            keep_checkpoints=True,
            **self.options,
        )


OWN_OPTIONS = tuple(item.name for item in fields(ScoreConfig) if "option" in item.metadata)


def score_options_hint(text: object, scores: str | Sequence[str] | None) -> str:
    """What to write instead of the former option `score_options`.

    Examples:
        >>> score_options_hint("prototypes.clusters=500,length.unit=characters", None)
        'prototypes(clusters=500),length(unit=characters)'
        >>> score_options_hint("clusters=500", "prototypes")
        'prototypes(clusters=500)'
    """
    try:
        options = dict(text) if isinstance(text, Mapping) else parse_options(str(text), "score_options")
    except UserError:
        return f"NAME({text})"
    if options and all(isinstance(value, Mapping) for value in options.values()):
        return ",".join(format_call(name, value) for name, value in options.items())
    requested = list(ScoreConfig(scores=scores).calls())
    return format_call(requested[0] if len(requested) == 1 else "NAME", options)


def load_arguments(reading: Mapping[str, Any]) -> Json:
    """Arguments of `load_data` for options of `READING_FLAGS`; `columns` as a mapping, where a column is named.

    Examples:
        >>> load_arguments({"train_rows": 100, "data_seed": 3, "text_column": "body"})
        {'train_rows': 100, 'seed': 3, 'columns': {'text': 'body'}}
    """
    columns = {name.removesuffix("_column"): value for name, value in reading.items() if name in COLUMNS}
    others = {"seed" if name == "data_seed" else name: value for name, value in reading.items() if name not in COLUMNS}
    return others | ({"columns": columns} if columns else {})
