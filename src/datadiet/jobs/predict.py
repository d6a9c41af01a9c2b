"""Predict new text with a fine-tuned model, and write the predictions so that a reader never sees half a file.

Imports nothing heavy: the command line reads its flags off `PredictConfig`.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import yaml

from datadiet.config import flag_name, option, option_problems, usual_length
from datadiet.data.export import SUFFIXES
from datadiet.data.validation import SEPARATORS
from datadiet.errors import ArgumentError, Problems
from datadiet.files import GZ_LIMIT, input_problems, plain, target_problems, unwritable, whole_file
from datadiet.formatting import json_text
from datadiet.registry import AtLeast, Positive, has, lacks
from datadiet.types import Listener, Silent

if TYPE_CHECKING:
    from datadiet.data.schema import Examples
    from datadiet.tasks.base import Prediction, Task

STDOUT = "-"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
INPUT, MODEL, OUTPUT = "Input", "Model", "Output"
MAX_TOKENS = 256  # of an answer
Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """The options of a prediction.

    Attributes:
        data: A file, or a data set whose test split is predicted; or else `text`.
        columns: Names of columns of the data, by the fields of `datadiet.data.schema.Columns`.
        max_length: By default that of the run, or of the task if it is not known.
        batch_size: Shorter texts make larger batches.
    """

    data: str | None = None
    text: str | None = option(None, "One text instead of DATA.", INPUT)
    text_pair: str | None = option(None, "The second text of a pair.", INPUT)
    label_separator: str = option(
        "|", "Between the labels of a text (multi-label): | , or ;.", INPUT, choices=SEPARATORS
    )
    gz_limit: float = option(GZ_LIMIT, "Largest size in GB that a .gz file may unpack to.", INPUT, bound=Positive)
    columns: Mapping[str, str] = field(default_factory=dict)
    model: Path | None = option(None, "A saved model: RUN/model, or RUN. Required.", MODEL)
    max_length: int | None = option(None, "Tokens per text; by default as it was trained.", MODEL, bound=AtLeast(3))
    batch_size: int = option(32, "Texts of that length per forward pass.", MODEL, bound=AtLeast(1))
    precision: str = option("auto", "auto, fp32, bf16, fp16.", MODEL, choices=PRECISIONS)
    max_tokens: int | None = option(
        None, f"Tokens of an answer at most (causal-lm); by default {MAX_TOKENS}.", MODEL, bound=AtLeast(1)
    )
    output: str = option(STDOUT, "A .jsonl, .csv, .tsv or .parquet file; - is standard output.", OUTPUT)
    force: bool = option(False, "Replace the output file if there is one.", OUTPUT)


@dataclass(frozen=True)
class Predicted:
    """The result.

    Attributes:
        lines: One per example: id, text, (text_pair,) predicted (a list for multi-label models, the answer for language
            models), probability where there is one; tokens and slots for joint models, tokens and tags for taggers.
        metrics: By name; None where the data has no labels.
    """

    lines: list[Line]
    metrics: dict[str, float] | None


def check_config(config: PredictConfig) -> None:
    """Refuse what cannot be done, before anything heavy is loaded.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    sources = (config.data is not None) + (config.text is not None)
    problems.check(sources > 0, "nothing to predict: give DATA (a file or folder) or --text.")
    problems.check(sources < 2, "both DATA and --text are given: give one of them.")
    problems.check(config.text is None or bool(config.text.strip()), "--text is empty: give a text.")
    problems.check(config.text_pair is None or config.text is not None, "--text-pair needs --text.")
    idle = ", ".join(flag_name(f"{name}_column") for name in config.columns)
    problems.check(config.text is None or not idle, f"{idle} has no effect beside --text: leave it out.")
    problems.found += option_problems(config)
    if config.model is None:
        problems.add("--model is missing: the folder of a fine-tuned model, such as runs/first/model.")
    else:
        problems.check(config.model.is_dir(), f"the model folder {config.model} does not exist.")
    _check_output(config, problems)
    problems.raise_any()


def _check_output(config: PredictConfig, problems: Problems) -> None:
    if config.output == STDOUT:
        problems.check(not config.force, "--force has no effect without an --output file: leave it out.")
        return
    path, allowed = Path(config.output), ", ".join(SUFFIXES)
    problems.check(path.suffix in SUFFIXES, f"--output must end in {allowed} (or be -), got {config.output}.")
    problems.found += target_problems(path, force=config.force)
    problems.check(not (reason := unwritable(path)), f"--output cannot be written: {reason}.")
    problems.found += input_problems(path, {"DATA": config.data, "--model": config.model})


def predict(config: PredictConfig, listener: Listener = Silent()) -> Predicted:  # noqa: B008  (stateless)
    """Predict every example, in the order of the data, and write the file if one is requested.

    Returns:
        The lines, also those that were written, and the metrics.

    Raises:
        ArgumentError: For arguments that are not allowed, together.
        DataError: For a model folder or data that cannot be used.
    """
    check_config(config)
    listener.phase("importing torch and transformers")
    from datadiet.store.run_folder import CONFIG, check_files, saved_model
    from datadiet.tasks import task_of_saved_model

    folder = saved_model(config.model or Path())  # check_config has seen that there is one
    check_files(folder.parent, CONFIG)  # which says the length; the model is checked when it is loaded
    task = task_of_saved_model(folder)
    if not has(task.name, "answers") and config.max_tokens is not None:
        raise ArgumentError(*lacks("--max-tokens", "answers", task.name))
    examples = _examples(config, task.name)
    listener.phase(f"loading {folder}")
    make = _answers if has(task.name, "answers") else _predictions
    predictions = make(config, folder, task, examples, listener)
    predicted = Predicted(list(lines_of(examples, predictions)), task.metrics(examples, predictions))
    if config.output != STDOUT:
        write_predictions(predicted.lines, Path(config.output))
    return predicted


def trained_max_length(folder: Path, task: str | None = None) -> int:
    """Tokens per text in the run of a model, from the `config.yaml` beside the model; else the default of the task."""
    try:
        settings = yaml.safe_load((folder.parent / "config.yaml").read_text(encoding="utf-8"))
    except Exception:  # beside its own errors YAML raises whatever Python says of a date or a number
        return usual_length(task)
    length = settings.get("max_length") if isinstance(settings, dict) else None
    return length if isinstance(length, int) else usual_length(task)


def _examples(config: PredictConfig, task: str) -> Examples:
    from datadiet.data.load import read_examples
    from datadiet.data.schema import Columns, Examples

    if config.text is None:
        columns, separator = Columns(**config.columns), config.label_separator
        return read_examples(
            str(config.data), task, columns=columns, label_separator=separator, gz_limit=config.gz_limit
        )
    if config.text_pair is not None and (has(task, "words") or has(task, "answers")):
        article = "an" if task[0] in "aeiou" else "a"
        raise ArgumentError(f"--text-pair has no effect with {article} {task} model: leave it out.")
    if has(task, "answers"):
        return Examples(ids=("0",), texts=(config.text,), turns=((("user", config.text),),))
    pairs = None if config.text_pair is None else (config.text_pair,)
    tokens = (tuple(config.text.split()),) if has(task, "words") else None
    return Examples(ids=("0",), texts=(config.text,), text_pairs=pairs, tokens=tokens)


def _predictions(
    config: PredictConfig, folder: Path, task: Task, examples: Examples, listener: Listener
) -> Sequence[Prediction]:
    from datadiet.scoring.forward import predict_all
    from datadiet.tasks.loading import load_saved, load_tokenizer
    from datadiet.training.machine import best_device, resolve_precision

    precision = resolve_precision(config.precision, best_device())
    model: Any = load_saved(folder)
    tokenizer = load_tokenizer(str(folder))
    max_length = config.max_length or trained_max_length(folder, task.name)
    unlabelled = replace(examples, labels=None, slots=None)  # labels are for the metrics, not for the model
    features = task.features(unlabelled, tokenizer, max_length=max_length)
    return predict_all(
        model.to(best_device()),
        features,
        task.collator(tokenizer),
        _with_progress(task.decode, len(examples), listener),
        batch_tokens=config.batch_size * max_length,
        precision=precision,
    )


def _answers(
    config: PredictConfig, folder: Path, task: Task, examples: Examples, listener: Listener
) -> Sequence[Prediction]:
    """Greedy answers; where there are gold ones, also what the model says of these."""
    from datadiet.scoring.forward import forward_pass, predict_all
    from datadiet.tasks.base import Collator, Prediction, token_padding
    from datadiet.tasks.causal_lm import CausalLMTask
    from datadiet.tasks.loading import load_saved
    from datadiet.training.machine import best_device, resolve_precision

    assert isinstance(task, CausalLMTask)
    precision = resolve_precision(config.precision, best_device())
    model: Any = load_saved(folder)
    model.to(best_device())
    tokenizer = task.load_tokenizer(str(folder))
    most = min(config.max_length or trained_max_length(folder, task.name), int(tokenizer.model_max_length))
    new = MAX_TOKENS if config.max_tokens is None else config.max_tokens
    if new >= tokenizer.model_max_length:
        raise ArgumentError(
            f"--max-tokens must leave room for a prompt in the {tokenizer.model_max_length:,} positions of the model, "
            f"got {new}."
        )
    room = min(most, int(tokenizer.model_max_length) - new)
    prompts = task.prompts(examples, tokenizer, max_length=room)
    if cut := sum(length == room for length in prompts["length"]):
        listener.note(f"{cut:,} prompts fill the {room:,} tokens that they may have: longer ones lose their beginning.")
    batch_tokens = config.batch_size * min(most, max(prompts["length"]))
    collate = Collator(token_padding(tokenizer), {}, left=True)
    texts = [""] * len(examples)
    done = 0
    for rows, answers, _batch in forward_pass(
        model, prompts, collate, batch_tokens=batch_tokens, precision=precision,
        call=lambda batch: task.answers(model, batch, tokenizer, new),
    ):  # fmt: skip
        for row, text in zip(rows.tolist(), answers, strict=True):
            texts[row] = text
        done += len(rows)
        listener.phase(f"predicting: {done:,} of {len(texts):,}")
    if not examples.labelled:
        return [Prediction(text, None, None) for text in texts]
    gold = task.features(examples, tokenizer, max_length=most)
    known = predict_all(
        model, gold, task.collator(tokenizer), task.decode, batch_tokens=batch_tokens, precision=precision
    )
    return [replace(one, label=text, probability=None) for one, text in zip(known, texts, strict=True)]


def _with_progress(
    decode: Callable[..., Sequence[Prediction]], total: int, listener: Listener, every_s: float = 5.0
) -> Callable[..., Sequence[Prediction]]:
    """`decode`, which also reports the number of predictions at most once in `every_s` seconds."""
    done, reported = 0, -float("inf")

    def counted(outputs: Any, batch: Mapping[str, Any]) -> Sequence[Prediction]:
        nonlocal done, reported
        predictions = decode(outputs, batch)
        done += len(predictions)
        if time.monotonic() - reported >= every_s:
            reported = time.monotonic()
            listener.phase(f"predicting: {done:,} of {total:,}")
        return predictions

    return counted


# ---- lines and files


def lines_of(examples: Examples, predictions: Sequence[Prediction]) -> Iterator[Line]:
    """One line per example, without what a task does not have.

    Args:
        examples: In the order of the predictions.
        predictions: One each.
    """
    for row, prediction in enumerate(predictions):
        line: Line = {"id": examples.ids[row], "text": examples.texts[row]}
        if examples.text_pairs is not None:
            line["text_pair"] = examples.text_pairs[row]
        if prediction.label is not None:
            line["predicted"] = list(prediction.label) if isinstance(prediction.label, tuple) else prediction.label
        if prediction.probability is not None:
            line["probability"] = round(prediction.probability, 6)
        if prediction.slots is not None:
            tokens = examples.tokens[row] if examples.tokens is not None else examples.texts[row].split()
            name = "tags" if prediction.label is None else "slots"
            line |= {"tokens": list(tokens), name: list(prediction.slots)}
        yield line


def write_predictions(lines: Sequence[Line], path: Path) -> None:
    """Write .jsonl, .csv, .tsv or .parquet by the suffix; the file appears when it is complete.

    Raises:
        DataError: If the file cannot be written.
    """
    with whole_file(path) as part:
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(list(lines)), part, compression="zstd")
            return
        with part.open("w", encoding="utf-8", newline="") as stream:
            if path.suffix == ".jsonl":
                write_jsonl(lines, stream)
            else:
                _write_separated(lines, stream, "," if path.suffix == ".csv" else "\t")


def write_jsonl(lines: Sequence[Line], stream: TextIO) -> None:
    """One JSON object a line."""
    stream.writelines(json_text(plain(line), allow_nan=False) + "\n" for line in lines)


def _write_separated(lines: Sequence[Line], stream: TextIO, delimiter: str) -> None:
    """Tokens and tags as text with spaces between, as in the usual slot files; labels with `|`."""
    writer = csv.DictWriter(stream, list(lines[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({name: _cell(name, value) for name, value in line.items()})


def _cell(name: str, value: Any) -> Any:
    return ("|" if name == "predicted" else " ").join(value) if isinstance(value, list) else value
