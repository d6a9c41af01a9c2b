"""What the speed and memory benchmarks share: the one setting, the machine, and where figures are kept.

Nothing heavy is imported before a function needs it: `memory.py` and `imports.py` start subprocesses from here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.grid import COMMON, RESULTS, SETS

SEED = 0


@dataclass(frozen=True)
class Bench:
    """A data set made ready to train on, and models for it.

    Attributes:
        name: Of the data, with its fingerprint.
        features: Training rows, with `length`.
        collate: Feature rows to a batch.
        new_model: Makes the same new model at every call.
    """

    name: str
    fingerprint: str
    features: Any
    collate: Callable[[list[Any]], dict[str, Any]]
    new_model: Callable[[], Any]

    def described(self) -> dict[str, Any]:
        """What results say of the data."""
        return {"name": self.name, "fingerprint": self.fingerprint, "rows": len(self.features)}

    def trainer_options(self, arguments: Any) -> dict[str, Any]:
        """What a trainer of this data takes, with a new model."""
        data = {"train_dataset": self.features, "data_collator": self.collate}
        return {"model": self.new_model(), "args": arguments, **data}


def load_bench(set_name: str, root: Path | None, *, rows: int | None = None, model: str = "minilm") -> Bench:
    """The training rows of one set of `grid.SETS`; `rows` takes another share than the set's own."""
    from transformers import set_seed

    from datadiet.data.load import load_data
    from datadiet.tasks import task_for
    from datadiet.tasks.loading import load_tokenizer

    options = SETS[set_name]
    source = options["data"] if options["data"] == "snips" else str((root or Path("data")) / options["data"])
    data = load_data(source, options["task"], train_rows=rows or options.get("train_rows"))
    task, tokenizer = task_for(data), load_tokenizer(model)

    def new_model() -> Any:
        set_seed(SEED)  # of the new heads
        return task.load_model(model)

    features = task.features(data.splits["train"], tokenizer, max_length=128)
    return Bench(data.name, data.fingerprint, features, task.collator(tokenizer), new_model)


def training_arguments(folder: Path, precision: str, **changes: Any) -> Any:
    """The Trainer's arguments of the one setting that all figures share; nothing is evaluated, logged or saved."""
    from transformers import TrainingArguments

    from datadiet.training.machine import best_device

    on_gpu = best_device().type != "cpu"
    settings: dict[str, Any] = {
        "per_device_train_batch_size": COMMON["batch_size"],
        "learning_rate": COMMON["learning_rate"],
        "lr_scheduler_type": "linear",
        "warmup_steps": COMMON["lr_warmup"],
        "weight_decay": COMMON["weight_decay"],
        "max_grad_norm": COMMON["max_grad_norm"],
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "length",
        "remove_unused_columns": False,
        "bf16": precision == "bf16",
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": SEED,
    }
    return TrainingArguments(output_dir=str(folder), **{**settings, **changes})


def silence(trainer: Any) -> Any:
    """A trainer that prints nothing when it is done."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def precision_here(wanted: str) -> str:
    """`auto` as on the command line: bf16 where the machine is fast at it."""
    from datadiet.training.machine import best_device, resolve_precision

    return resolve_precision(wanted, best_device())


def synchronize() -> None:
    """Wait for the accelerator, where there is one: its work is otherwise charged to whoever comes next."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def peak_bytes() -> int:
    """The most resident memory this process has held.

    On Linux not `ru_maxrss`, which a process inherits from the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def environment(precision: str | None = None) -> dict[str, Any]:
    """Machine and versions."""
    from datadiet.training import machine

    found = machine.environment(machine.best_device(), precision or "none")
    return {**found, "cores": os.cpu_count()}


def keep_figures(path: Path, case: str, figures: dict[str, Any]) -> None:
    """Put the figures of one case beside those of the others in a results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept[case] = figures
    part = path.with_suffix(".part")
    part.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


def rounded(values: Sequence[float], digits: int = 5) -> list[float]:
    return [round(value, digits) for value in values]


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile; of one value, that value three times."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


def parser_of(doc: str | None, name: str) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=RESULTS / f"{name}.json", help="JSON file that takes the figures"
    )
    return parser


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Options of the scripts that train."""
    parser.add_argument("--model", default="minilm", help="a hub name or folder; minilm is packaged")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--rows", type=int, help="training rows, for a quick look only")
