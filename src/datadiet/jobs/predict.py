"""Predict new text with a fine-tuned model, and write the predictions so that a reader never sees half a file."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import yaml

from datadiet.config import FinetuneConfig
from datadiet.data.export import SUFFIXES
from datadiet.data.validation import SEPARATORS
from datadiet.errors import ArgumentError, Problems
from datadiet.files import whole_file
from datadiet.registry import has
from datadiet.types import Listener, Silent

if TYPE_CHECKING:
    from datadiet.data.schema import Examples
    from datadiet.tasks.base import Prediction, Task

STDOUT = "-"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
Line = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What to predict, and with what.

    Attributes:
        model: A saved model, or a run folder that has one in `model/`; required.
        data: A file, or a data set whose test split is predicted; or else `text`.
        text, text_pair: One text (of a pair) instead of data.
        output: A .jsonl, .csv, .tsv or .parquet file, or `-` for standard output.
        force: Replace the output file if there is one.
        columns: Names of columns of the data, by the field of `datadiet.data.schema.Columns`.
        label_separator: Between the labels of a text in multi-label data.
        max_length: Tokens per text; by default what the run trained with, 128 if that is not known.
        batch_size: Texts of `max_length` tokens per forward pass; more of shorter ones.
        precision: `auto` (as training: bf16 where the device is fast at it), `fp32`, `bf16`, `fp16`.
    """

    model: Path | None = None
    data: str | None = None
    text: str | None = None
    text_pair: str | None = None
    output: str = STDOUT
    force: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    max_length: int | None = None
    batch_size: int = 32
    precision: str = "auto"
    label_separator: str = "|"


@dataclass(frozen=True)
class Predicted:
    """What came out.

    Attributes:
        lines: One per example: id, text, (text_pair,) predicted (a list for multi-label models), probability where
            there is one; tokens and slots for joint models, tokens and tags for taggers.
        metrics: By name; None where the data has no labels.
    """

    lines: list[Line]
    metrics: dict[str, float] | None


def check_request(request: Request) -> None:
    """Refuse what cannot be done, before anything heavy is loaded.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    sources = (request.data is not None) + (request.text is not None)
    problems.check(sources > 0, "nothing to predict: give DATA (a file or folder) or --text.")
    problems.check(sources < 2, "both DATA and --text are given: give one of them.")
    problems.check(request.text is None or bool(request.text.strip()), "--text is empty: give a text.")
    problems.check(request.text_pair is None or request.text is not None, "--text-pair needs --text.")
    named = ", ".join(f"--{name.replace('_', '-')}-column" for name in request.columns)
    problems.check(request.text is None or not named, f"{named} has no effect beside --text: leave it out.")
    problems.choice("precision", request.precision, PRECISIONS)
    problems.choice("--label-separator", request.label_separator, SEPARATORS)
    problems.whole("--batch-size", request.batch_size, least=1)
    if request.model is None:
        problems.add("--model is missing: the folder of a fine-tuned model, such as runs/first/model.")
    else:
        problems.check(request.model.is_dir(), f"the model folder {request.model} does not exist.")
    if request.max_length is not None:
        problems.whole("--max-length", request.max_length, least=3)
    _check_output(request, problems)
    problems.raise_any()


def _check_output(request: Request, problems: Problems) -> None:
    if request.output == STDOUT:
        problems.check(not request.force, "--force has no effect without an --output file: leave it out.")
        return
    path = Path(request.output)
    problems.check(
        path.suffix in SUFFIXES, f"--output must end in {', '.join(SUFFIXES)} (or be -), got {request.output}."
    )
    problems.check(not path.is_dir(), f"{path} is a folder: give a file.")
    problems.check(not path.is_file() or request.force, f"{path} exists: --force replaces it.")


def predict(request: Request, listener: Listener = Silent()) -> Predicted:  # noqa: B008  (stateless)
    """Predict every example, in the order of the data, and write the file if one is asked for.

    Args:
        request: See there.
        listener: Hears what is being done.

    Returns:
        The lines, also those that were written, and the metrics.

    Raises:
        ArgumentError: For arguments that are not allowed, together.
        DataError: For what is wrong with the model folder or the data.
    """
    check_request(request)
    listener.phase("importing torch and transformers")
    from datadiet.store.run_folder import saved_model
    from datadiet.tasks import task_of_saved_model

    folder = saved_model(request.model or Path())  # check_request has seen that there is one
    task = task_of_saved_model(folder)
    examples = _examples(request, task.name)
    listener.phase(f"loading {folder}")
    predictions = _predictions(request, folder, task, examples, listener)
    predicted = Predicted(list(lines_of(examples, predictions)), task.metrics(examples, predictions))
    if request.output != STDOUT:
        write_predictions(predicted.lines, Path(request.output))
    return predicted


def trained_max_length(folder: Path) -> int:
    """The length a run has cut its texts to, from the run's `config.yaml` beside the model; else the usual one."""
    try:
        settings = yaml.safe_load((folder.parent / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return FinetuneConfig.max_length
    length = settings.get("max_length") if isinstance(settings, dict) else None
    return length if isinstance(length, int) else FinetuneConfig.max_length


def _examples(request: Request, task: str) -> Examples:
    from datadiet.data.load import read_examples
    from datadiet.data.schema import Columns, Examples

    if request.text is None:
        columns, separator = Columns(**request.columns), request.label_separator
        return read_examples(str(request.data), task, columns=columns, label_separator=separator)
    if request.text_pair is not None and has(task, "words"):
        article = "an" if task[0] in "aeiou" else "a"
        raise ArgumentError(f"--text-pair has no effect with {article} {task} model: leave it out.")
    pairs = None if request.text_pair is None else (request.text_pair,)
    tokens = (tuple(request.text.split()),) if has(task, "words") else None
    return Examples(ids=("0",), texts=(request.text,), text_pairs=pairs, tokens=tokens)


def _predictions(
    request: Request, folder: Path, task: Task, examples: Examples, listener: Listener
) -> Sequence[Prediction]:
    from datadiet.scoring.forward import predict_all
    from datadiet.tasks.loading import load_saved, load_tokenizer
    from datadiet.training.machine import best_device, resolve_precision

    precision = resolve_precision(request.precision, best_device())
    model: Any = load_saved(folder)
    tokenizer = load_tokenizer(str(folder))
    max_length = request.max_length or trained_max_length(folder)
    unlabelled = replace(examples, labels=None, slots=None)  # labels are for the metrics, not for the model
    features = task.features(unlabelled, tokenizer, max_length=max_length)
    return predict_all(
        model.to(best_device()),
        features,
        task.collator(tokenizer),
        _counted(task.decode, len(examples), listener),
        batch_tokens=request.batch_size * max_length,
        precision=precision,
    )


def _counted(
    decode: Callable[..., Sequence[Prediction]], total: int, listener: Listener, every_s: float = 5.0
) -> Callable[..., Sequence[Prediction]]:
    """Decode, and say now and then how far it is."""
    done, spoke = 0, -float("inf")

    def decode_and_tell(outputs: Any, batch: Mapping[str, Any]) -> Sequence[Prediction]:
        nonlocal done, spoke
        predictions = decode(outputs, batch)
        done += len(predictions)
        if time.monotonic() - spoke >= every_s:
            spoke = time.monotonic()
            listener.phase(f"predicting: {done:,} of {total:,}")
        return predictions

    return decode_and_tell


def lines_of(examples: Examples, predictions: Sequence[Prediction]) -> Iterator[Line]:
    """One line per example; what a task does not have is left out.

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
            _write_parquet(lines, part)
        else:
            with part.open("w", encoding="utf-8", newline="") as stream:
                _WRITERS[path.suffix](lines, stream)


def write_jsonl(lines: Sequence[Line], stream: TextIO) -> None:
    """One JSON object a line."""
    stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _write_separated(lines: Sequence[Line], stream: TextIO, delimiter: str) -> None:
    """Tokens and tags as text with spaces between, as the usual slot files have them; labels with `|`."""
    writer = csv.DictWriter(stream, list(lines[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({name: _cell(name, value) for name, value in line.items()})


def _cell(name: str, value: Any) -> Any:
    return ("|" if name == "predicted" else " ").join(value) if isinstance(value, list) else value


def _write_parquet(lines: Sequence[Line], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(lines)), path, compression="zstd")


_WRITERS: dict[str, Callable[[Sequence[Line], TextIO], None]] = {
    ".jsonl": write_jsonl,
    ".csv": lambda lines, stream: _write_separated(lines, stream, ","),
    ".tsv": lambda lines, stream: _write_separated(lines, stream, "\t"),
}
