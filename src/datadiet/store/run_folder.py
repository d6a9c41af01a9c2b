"""The run folder: its layout, its result and predictions, and the model card.

    config.yaml  result.json  scores/  plans/  predictions.parquet  model/  checkpoints/

`result.json` is written last: a folder without it holds an unfinished run, which can be resumed.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from datadiet.errors import ArgumentError, DataError, cut
from datadiet.files import (
    PART,
    damage,
    locked,
    misfit,
    plain,
    read_json,
    seal_of,
    sync,
    unwritable,
    whole_file,
    write_atomically,
    write_json,
)
from datadiet.formatting import escaped, unfinished_text
from datadiet.registry import find
from datadiet.types import CostLedger, EpochResult, Json

if TYPE_CHECKING:
    from datadiet.data.schema import Examples
    from datadiet.tasks.base import Prediction


logger = logging.getLogger(__name__)
CONFIG, RESULT, PREDICTIONS = "config.yaml", "result.json", "predictions.parquet"
MODEL, CHECKPOINTS, SCORES, PLANS = "model", "checkpoints", "scores", "plans"
ADAPTER = "adapter_config.json"  # in a checkpoint of a run with LoRA
# metrics in a unit of their own; all others are shares, shown in points of 100
LOWER_IS_BETTER = ("nll", "mse", "perplexity")
LIKELIHOODS = ("likelihood",)  # exp(-nll): no share of the rows, and small where the loss is large
MANIFEST = "_manifest.json"  # in scores/ and plans/
PRUNED = "pruned_tokens.parquet"  # texts in parts, where tokens were pruned
LOCK = ".lock"  # of the process that writes into the folder
CARD = "README.md"  # the model card, to which a comparison and people add
_SUM_LINE = "# crc32 of the lines above: "


def task_metrics(task: str | None) -> tuple[str, ...]:
    """The metrics of a task that a verdict may be about, larger = better, the main one first."""
    method = find("task", task or "")
    return () if method is None else tuple(method.facts["metrics"])


def main_metric(task: str | None) -> str | None:
    """The metric that a verdict or a heading is about; None without a task."""
    return next(iter(task_metrics(task)), None)


# ---- before a run ----


def check_new(folder: Path) -> None:
    """Refuse a folder that is not empty or cannot be made.

    Raises:
        ArgumentError: Names the content and the next step.
    """
    if reason := unwritable(folder):
        raise ArgumentError(f"the output folder {cut(str(folder))} cannot be made: {reason}; choose another folder.")
    if (folder / RESULT).exists():
        raise ArgumentError(f"the output folder {folder} already holds a finished run; choose another folder.")
    if (folder / CONFIG).exists():
        raise ArgumentError(
            f"the output folder {folder} holds an unfinished run; go on with it by --resume {folder}, "
            "or choose another folder."
        )
    if folder.is_file() or (folder.is_dir() and not all(map(_is_remains, folder.iterdir()))):
        raise ArgumentError(f"the output folder {folder} is not empty; choose another folder.")


def _is_remains(path: Path) -> bool:
    """Whether a file was left by a process that was killed before its run had begun."""
    return path.name == LOCK or path.name.startswith(PART)


def check_resumable(folder: Path) -> None:
    """Refuse a folder without an unfinished run.

    Raises:
        ArgumentError: If it holds no run, or a finished one.
        DataError: If it holds a broken result.
    """
    if (folder / RESULT).exists():
        try:
            read_result(folder)
        except DataError as error:
            raise DataError(f"{error} Or remove the file and resume: the run is made again.") from error
        raise ArgumentError(f"the run in {folder} is finished; there is nothing to resume.")
    if not (folder / CONFIG).is_file():
        raise ArgumentError(f"{folder} holds no run to resume: {CONFIG} is missing.")


# ---- while it runs ----


def claimed(folder: Path) -> AbstractContextManager[None]:
    """Keep every other process from writing into a run folder, which is made.

    Raises:
        ArgumentError: If another one does.
    """
    refusal = f"another process writes the run in {folder}: wait for it, or choose another folder"
    return locked(folder / LOCK, refusal)


def begin(folder: Path, config: str) -> None:
    """Write the options of an unfinished run, with a checksum in the last line."""
    write_atomically(folder / CONFIG, f"{config}{_SUM_LINE}{zlib.crc32(config.encode()):08x}\n")


def config_problem(folder: Path) -> str | None:
    """Why the options of a run may not be those that it began with, in words; None where they are."""
    config, _, told = (folder / CONFIG).read_bytes().rpartition(_SUM_LINE.encode())
    if told.strip() == f"{zlib.crc32(config):08x}".encode():
        return None
    return f"{folder / CONFIG} is damaged or was changed since the run began"


def put_aside(folder: Path, *, overwrite: bool = False) -> None:
    """Make room for the tables of a new run: move or remove those of an earlier one, and its result.

    Args:
        folder: The run folder; only tables that a run has written there are touched.
        overwrite: Remove them.
    """
    tables = [name for name in (SCORES, PLANS) if (folder / name / MANIFEST).is_file()]
    if not tables:
        return
    names = [name for name in (RESULT, *tables) if (folder / name).exists()]
    number = next(n for n in count(1) if not any((folder / _numbered(name, n)).exists() for name in names))
    for name in names:
        if not overwrite:
            (folder / name).rename(folder / _numbered(name, number))
        elif name == RESULT:
            (folder / name).unlink()
        else:
            shutil.rmtree(folder / name)
    if not overwrite:
        moved = ", ".join(_numbered(name, number) for name in names)
        logger.warning(f"{folder} holds an earlier run. What it recorded is now in {moved}; overwrite=True removes it.")


def _numbered(name: str, number: int) -> str:
    """The new name of what an earlier run has recorded, such as `scores.1` or `result.1.json`."""
    path = Path(name)
    return f"{path.stem}.{number}{path.suffix}"


def forget_progress(folder: Path) -> None:
    """Remove everything but the config, of a run that was killed before its first checkpoint."""
    for part in (SCORES, PLANS, CHECKPOINTS, MODEL):
        shutil.rmtree(folder / part, ignore_errors=True)
    for name in (PREDICTIONS, PRUNED):
        (folder / name).unlink(missing_ok=True)


def remove_checkpoints(folder: Path) -> None:
    """Remove the resumable state of a run that is finished."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


# ---- results ----

_NUMBER = (int, float)
_METRICS = (None, {...: (None, int, float)})
_RACE = {"epoch": int, "losses": {...: _NUMBER}, "interval": [_NUMBER], "steps": int, "dev_rows": int, "winner": str}
_RACE |= {"difference": _NUMBER, "champion": str, "challenger": str, "cost": {"steps": int, "seconds": _NUMBER}}
_RETREAT = {"epoch": int, "rule": str} | dict.fromkeys(("best", "value"), (None, int, float))
_RACES = {"rule": str, "chose?": [str], "races": [_RACE], "retreats?": [_RETREAT], "note": (None, str)}
_RACES |= {"fallen_after": (None, int)}
_EPOCH: dict[str, Any] = {"seconds": _NUMBER, "score_s": _NUMBER, "dev": _METRICS}
_EPOCH |= dict.fromkeys(("epoch", "kept", "dropped", "steps"), int)
# of result.json: what its readers rely on
_FORM = {
    "task": (None, str),
    "model": str,
    "data": {"name": (None, str), "fingerprint": (None, str), "rows": {"train": int}},
    "diet": {"score": str},
    "epochs": [_EPOCH],
    "cost": {"finetune_s": _NUMBER, "total_s": _NUMBER, ...: _NUMBER},
    "ceiling": {"examples_saved": _NUMBER, "tokens_saved": (None, int, float)},
    "metrics": {"dev": _METRICS, "test": _METRICS, ...: _METRICS},
    "race?": (None, _RACES),
    "learning_rate?": (None, {"value": _NUMBER, "rule": str, "weights": int}),
    "convergence?": (None, {"advice?": (None, str)}),
    "energy?": (None, {"kwh": _NUMBER, "estimated": bool}),
    "environment": dict,
}


def read_result(folder: Path) -> Json:
    """The result of a finished run.

    Raises:
        DataError: If the folder holds none, a broken one, or one of another schema.
    """
    return read_json(folder / RESULT, "finished run")


def checked_result(folder: Path) -> Json:
    """`read_result` for those who use all of it.

    Raises:
        DataError: See `read_result`; also if a part is missing or has another form.
    """
    result = read_result(folder)
    if problem := misfit(result, _FORM, str(folder / RESULT)):
        raise DataError(f"{problem}: the file is damaged or was changed.")
    return result


def tested_metrics(result: Json) -> dict[str, float]:
    """Metrics of the test split, or of dev where test has no labels; empty where neither has."""
    metrics = result["metrics"]
    return dict(metrics["test"] or metrics["dev"] or {})


def saved_model(given: Path) -> Path:
    """The folder of a saved model: itself, or `model/` of a run folder."""
    inside = given / MODEL
    return inside if not (given / "config.json").is_file() and (inside / "config.json").is_file() else given


# names of files, one of which stands beside a model where its tokenizer was saved too
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "*vocab*", "*.model", "*.tiktoken", "bpe.codes")


def tokenizer_problems(name: str, given: Path) -> list[str]:
    """Why a saved model cannot read texts: it has no tokenizer. Nothing where it has one, or where there is no model.

    Without its files `transformers` may make an empty tokenizer, by which all words are alike.

    Args:
        name: What named it, for the sentence.
        given: A folder with a model, or a run folder.
    """
    folder = saved_model(given)
    there = not (folder / "config.json").is_file() or any(True for kind in _TOKENIZERS for _ in folder.glob(kind))
    return [] if there else [
        f"{name} must be saved with its tokenizer, got {given} without one. Save it there too: "
        f"tokenizer.save_pretrained({str(folder)!r}). A Trainer that has processing_class=tokenizer does so itself."
    ]  # fmt: skip


def write_result(folder: Path, result: Json) -> Json:
    """Write `result.json`, which makes the run a finished one.

    Returns:
        What `read_result` reads: see `plain`.
    """
    written: Json = plain(result)
    write_json(folder / RESULT, written)
    return written


def seals_of(folder: Path) -> dict[str, str]:
    """The checksum of every file of a run but its tables, which have their own; all are on the disk then."""
    files = [file for file in folder.glob("*") if file.suffix in (".parquet", ".json", ".yaml") and file.name != RESULT]
    files += [file for file in (folder / MODEL).rglob("*") if file.is_file() and file.name != CARD]
    for file in files:
        sync(file)
    return {file.relative_to(folder).as_posix(): seal_of(file) for file in sorted(files)}


def check_files(folder: Path, *names: str) -> None:
    """Refuse files of a finished run that are not as it has left them.

    Args:
        folder: A run folder; one without a readable result vouches for nothing.
        names: Files in it, or folders.

    Raises:
        DataError: Names the first file.
    """
    try:
        seals = read_result(folder).get("files", {})
    except DataError:
        return
    if problem := damage(folder, {name: seal for name, seal in seals.items() if name.partition("/")[0] in names}):
        raise DataError(f"{problem}. Restore it, or copy what is there to another folder to use it as it is.")


def costs_of(cost: CostLedger, epochs: Sequence[EpochResult], full_examples: int, full_tokens: int | None) -> Json:
    """The costs in a result: `epochs`, `cost` and `ceiling`.

    The ceiling is the share of examples and of tokens that were not trained on; the share of tokens is about the
    largest share of the training time that can be saved. It ignores padding: see `padding_share`.

    Args:
        cost: The ledger.
        epochs: One result each.
        full_examples, full_tokens: Of the same epochs on all data.
    """
    saved = 1 - cost.tokens_backward / full_tokens if full_tokens else None
    return {
        "epochs": [asdict(epoch) for epoch in epochs],
        "cost": asdict(cost),
        "ceiling": {"examples_saved": 1 - cost.examples_backward / full_examples, "tokens_saved": saved},
    }


def padding_share(cost: Mapping[str, Any]) -> float | None:
    """The share of padding in the batches that trained; None in records that do not count it, or only in part.

    Args:
        cost: Of a result.

    Examples:
        >>> padding_share({"tokens_backward": 90, "tokens_padded": 100}), padding_share({"tokens_backward": 90})
        (0.1, None)
    """
    tokens, padded = cost.get("tokens_backward", 0), cost.get("tokens_padded", 0)
    return (padded - tokens) / padded if padded >= tokens and padded else None


def write_predictions(folder: Path, splits: Mapping[str, tuple[Examples, Sequence[Prediction]]]) -> None:
    """Write `predictions.parquet`: split, id, gold, predicted, probability, and the tags of tagged words.

    Gold and predicted are names, numbers, lists of names (multi-label) or nulls (where only words are tagged, and of
    language models). Of language models there are `tokens` (that train), `right` (of them), `nll` (their sum) and
    `exact` (whether all are right; null where that is not counted).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [] for name in ("split", "id", "gold", "predicted", "probability")}
    slots: dict[str, list[Any]] = {"gold_slots": [], "predicted_slots": []}
    answers: list[tuple[Any, ...]] = []
    for split, (examples, predictions) in splits.items():
        columns["split"] += [split] * len(examples)
        columns["id"] += list(examples.ids)
        columns["gold"] += [None] * len(examples) if examples.labels is None else list(examples.labels)
        columns["predicted"] += [prediction.label for prediction in predictions]
        columns["probability"] += [prediction.probability for prediction in predictions]
        slots["gold_slots"] += [None] * len(examples) if examples.slots is None else [*map(list, examples.slots)]
        slots["predicted_slots"] += [prediction.slots and list(prediction.slots) for prediction in predictions]
        answers += [(None,) * 4 if one.tokens is None else one.tokens.columns() for one in predictions]
    if any(entry is not None for entry in slots["predicted_slots"]):
        columns |= slots
    arrays = {name: _as_array(values) for name, values in columns.items()}
    arrays["probability"] = pa.array(columns["probability"], pa.float64())  # null for regression
    if any(entry[0] is not None for entry in answers):
        kinds = {"tokens": pa.int64(), "right": pa.int64(), "nll": pa.float64(), "exact": pa.bool_()}
        parts = zip(*answers, strict=True)
        arrays |= {name: pa.array(part, kind) for (name, kind), part in zip(kinds.items(), parts, strict=True)}
    table = pa.table(arrays)
    with whole_file(folder / PREDICTIONS) as part:
        pq.write_table(table, part, compression="zstd")


def write_pruned(folder: Path, rows: Iterable[tuple[int, Sequence[str], Sequence[bool]]]) -> None:
    """Write `pruned_tokens.parquet`, for the page; nothing where no token was pruned.

    Args:
        folder: Of the run.
        rows: Training row, its text in parts, and whether each part was pruned by the last choice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = list(rows)
    if not found:
        return
    kinds = {"row": pa.int64(), "pieces": pa.list_(pa.string()), "pruned": pa.list_(pa.bool_())}
    columns = zip(kinds.items(), zip(*found, strict=True), strict=True)
    table = pa.table({name: pa.array(list(column), kind) for (name, kind), column in columns})
    with whole_file(folder / PRUNED) as part:
        pq.write_table(table, part, compression="zstd")


def _as_array(values: Sequence[Any]) -> Any:
    """An Arrow column; of type text for nulls only, and of type list of text for empty lists only."""
    import pyarrow as pa

    if all(value is None for value in values):
        return pa.array(values, pa.string())
    lists = any(isinstance(value, (list, tuple)) for value in values)
    return pa.array(values, pa.list_(pa.string()) if lists else None)


def _pipeline(task: str | None) -> str | None:
    """The hub's name for a task; None for a joint one, which it does not know."""
    method = find("task", task or "")
    return None if method is None else method.facts.get("pipeline")


# ---- the model card ----


# our names -> those of the hub, where they differ
_HUB_METRICS = {
    "macro_f1": "f1",
    "micro_f1": "f1",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "intent_accuracy": "accuracy",
    "slot_f1": "seqeval",
    "span_f1": "seqeval",
}


def model_card(result: Json, *, base_model: str | None = None, dataset: str | None = None) -> str:
    """The model card of a run, with the front matter that the hub reads.

    Args:
        result: The content of `result.json`.
        base_model: The hub name of the initial model; None for a folder.
        dataset: The hub name of the data; None for the user's own data.
    """
    cost, metrics, name = result["cost"], result["metrics"], escaped(result["data"]["name"])
    full = round(cost["examples_backward"] / (1 - result["ceiling"]["examples_saved"]))
    options = {name: value for name, value in result["diet"].items() if value is not None and value not in ("", {}, [])}
    lines = [
        "---",
        yaml.safe_dump(front_matter(result, base_model, dataset), sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {result['task']} on {name}, on a data diet",
        "",
        f"Fine-tuned from {escaped(result['model'])} (seed {result['seed']}) with datadiet: "
        f"{cost['examples_backward']:,} examples trained instead of {full:,}. "
        f"These are the weights of the {result['weights_tested']} epoch.",
        "",
        *([escaped(text), ""] if (text := unfinished_text(result)) else []),
        '    datadiet predict --model FOLDER --text "..."',
        "",
        "| diet | |",
        "|---|---|",
        *(f"| {option} | {escaped(value)} |" for option, value in options.items()),
        "",
        "| metric | dev | test |",
        "|---|---|---|",
        *(f"| {metric} | {_number(value)} | {_tested(metrics, metric)} |" for metric, value in metrics["dev"].items()),
        "",
    ]
    return "\n".join(lines)


def front_matter(result: Json, base_model: str | None, dataset: str | None) -> Json:
    """The metadata of a card, as in `huggingface_hub.ModelCardData`; unknown fields are omitted.

    Args:
        result, base_model, dataset: See `model_card`.
    """
    split, data = ("test" if result["metrics"]["test"] else "dev"), _plain_name(result["data"]["name"])
    metrics = {name: value for name, value in (result["metrics"][split] or {}).items() if value is not None}
    task: dict[str, Any] = {"type": _pipeline(result["task"]) or result["task"]}
    tested = {
        "task": task,
        "dataset": {"type": dataset or data, "name": data, "split": split},
        "metrics": [
            {"type": _HUB_METRICS.get(name, name), "value": value, "name": name} for name, value in metrics.items()
        ],
    }
    named = {
        "library_name": "transformers",
        "pipeline_tag": _pipeline(result["task"]),
        "base_model": base_model,
        "datasets": dataset and [dataset],
        "metrics": list(dict.fromkeys(_HUB_METRICS.get(name, name) for name in metrics)),
        "tags": ["datadiet", result["task"]],
        "model-index": [{"name": f"{_plain_name(result['model'])}-{data}", "results": [tested]}] if metrics else None,
    }
    return {name: value for name, value in named.items() if value}


def _plain_name(name: object) -> str:
    """A name of letters, digits and harmless punctuation.

    Examples:
        >>> _plain_name("glue/sst2"), _plain_name("<b> mine")
        ('glue/sst2', 'b-mine')
    """
    return re.sub(r"[^\w./-]+", "-", str(name)).strip("-") or "unnamed"


def _tested(metrics: Json, name: str) -> str:
    return _number((metrics["test"] or {}).get(name))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _is_causal(config: Path) -> bool:
    """Whether an adapter is of a language model."""
    with suppress(OSError, ValueError):
        kind: Json = json.loads(config.read_text(encoding="utf-8"))
        return isinstance(kind, dict) and kind.get("task_type") == "CAUSAL_LM"
    return False


def checkpoints_of(run: Path) -> list[Path]:
    """The kept checkpoints of a run, in order; empty where it has none. Of adapters, those of language models."""
    folders = [place.parent for place in (run / CHECKPOINTS).glob("checkpoint-*/config.json")]
    adapters = (run / CHECKPOINTS).glob(f"checkpoint-*/{ADAPTER}")
    folders += [place.parent for place in adapters if _is_causal(place)]
    numbered = [folder for folder in folders if folder.name.partition("-")[2].isdecimal()]
    return sorted(numbered, key=lambda folder: int(folder.name.partition("-")[2]))
