"""Side by side with what a user would write: seconds to reach the quality of a plain Trainer script, less half a point.

    python -m benchmarks.plain_script --data-root DATA                         # a day on two cores, alone
    python -m benchmarks.plain_script --data-root DATA --sets banking77,clinc150 --seeds 1       # whole sets, hours
    python -m benchmarks.plain_script --data-root DATA --model FOLDER --output build/base.json   # another model, a GPU
    python -m benchmarks.plain_script --data-root DATA --sets banking77 --rows 200 --epochs 3 --seeds 1 \\
        --keeps 0.5 --output build/look.json                                                     # a look
    python -m benchmarks.plain_script --print                                  # the table of what is there

DATA holds `banking77` and `clinc150` (train/dev/test.jsonl.gz with `text` and `label`; clinc150 without `oos`), whose
training rows are taken as they are. Of `banking77-traffic` and `clinc150-traffic` 2,500 training rows are drawn with
replacement as traffic repeats itself: the classes with weights 1 / rank, the utterances of a class with rank to the
power -0.7; dev and test stay as they are, balanced. Arms, all with the same epochs, batch size and optimizer, and an
evaluation of dev after every epoch:

    script        a Trainer script as public examples have it: fp32, random order, padding per batch, linear schedule
    script_random the same in bf16
    script_grouped the same in bf16 with the Trainer's own length groups
    short         `datadiet finetune --keep 1` for the steps of a diet, with a complete schedule; one run per keep
    diet          `datadiet finetune --keep K`; one run per keep

Target: the mean dev accuracy of `script` after its last epoch, over the seeds, less 0.5 points. A rung of `short` or
`diet` reaches it if the mean of its runs does, and the cheapest such rung counts, whole: what finding it costs is not
counted. Of a script there are two figures: the whole run, and the time until dev first is at the target inside it,
which a user knows only afterwards (a seed that never gets there counts whole, and the table says so).

Fine-tuning is training, scoring and selecting, without evaluations; the total is everything in a process of its own,
from before the imports to the saved model, start-up, evaluations and the test split included. Arms are interleaved
within a seed, each seed is a repeat, and figures are medians. A cell that has a result is skipped.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402 the clock of a script's process starts before any import
import gzip  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import asdict, dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from tempfile import TemporaryDirectory  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.cells import each_once, finetuned, listed, numbers  # noqa: E402
from benchmarks.common import keep_figures, precision_here  # noqa: E402
from benchmarks.grid import RESULTS  # noqa: E402


@dataclass(frozen=True)
class Source:
    """A set of the table.

    Attributes:
        folder: Of DATA.
        traffic: Training rows that are drawn as traffic repeats itself; 0 for all rows as they are.
    """

    folder: str
    traffic: int = 0


SETS = {
    "banking77": Source("banking77"),
    "clinc150": Source("clinc150"),
    "banking77-traffic": Source("banking77", 2500),
    "clinc150-traffic": Source("clinc150", 2500),
}
SPLITS = ("train", "dev", "test")
SCRIPTS = ("script", "script_random", "script_grouped")
ARMS = (*SCRIPTS, "short", "diet")
KEEPS = (0.1, 0.2, 0.3, 0.5)
OUT_OF_SCOPE = "oos"  # no class of clinc150 but everything else, and a fifth of test
UTTERANCE_POWER, DRAW_SEED = 0.7, 31
# of all arms; the learning rate is the demo's, because a small encoder has to learn many classes in few steps
COMMON: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 32,
    "learning_rate": 5e-4,
    "lr_warmup": 0.06,
    "weight_decay": 0.01,
    "max_length": 128,
}
DIET: dict[str, Any] = {"warmup_epochs": 1, "refresh_every": 2, "checkpoint_every": 0}


@dataclass(frozen=True)
class Cell:
    """One run."""

    set: str
    arm: str
    keep: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.set}-{self.arm}-{self.keep:g}-seed{self.seed}"


def cells(sets: list[str], keeps: list[float], seeds: int, only: Sequence[str] = ARMS) -> list[Cell]:
    """Interleaved within a seed, so that a machine that drifts hits all alike."""
    arms = [*((script, 1.0) for script in SCRIPTS), *((arm, keep) for keep in keeps for arm in ("short", "diet"))]
    return [Cell(name, arm, keep, seed) for seed in range(seeds) for name in sets for arm, keep in arms if arm in only]


def drawn(source: Path, rows: int, folder: Path, *, traffic: bool = False) -> Path:
    """The set as JSON lines, with so many training rows: any of them (0: all), or drawn as traffic repeats them."""
    import numpy as np

    from benchmarks.methods import repeated

    folder.mkdir(parents=True)
    for split in SPLITS:
        with gzip.open(source / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
            read = [row for row in map(json.loads, file) if row["label"] != OUT_OF_SCOPE]
        chosen = list(range(len(read)))
        generator = np.random.default_rng(DRAW_SEED)
        if split == "train" and traffic:
            labels = [str(row["label"]) for row in read]
            chosen, _ = repeated(labels, generator, count=rows, power=UTTERANCE_POWER)
        elif split == "train" and rows:
            chosen = generator.permutation(len(read))[:rows].tolist()
        lines = [
            json.dumps({"id": f"{split}-{place}", "text": read[row]["text"], "label": read[row]["label"]})
            for place, row in enumerate(chosen)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


# ---- the script of a user


def plain_script(settings: dict[str, Any]) -> dict[str, Any]:
    """What public examples show: a tokenizer, a model, `TrainingArguments`, a `Trainer`. Returns times and accuracies.

    Args:
        settings: `data`, `model`, `output` (folders), `seed`, `bf16`, `grouped` (by length), `use_cpu`, and those of
            `COMMON`.
    """
    import datasets
    import numpy as np
    import transformers as hf

    hf.set_seed(settings["seed"])
    files = {split: str(Path(settings["data"]) / f"{split}.jsonl") for split in SPLITS}
    raw = {
        split: datasets.Dataset.from_list([json.loads(line) for line in Path(path).read_text("utf-8").splitlines()])
        for split, path in files.items()
    }
    names = sorted({label for split in raw.values() for label in split["label"]})
    numbers = {name: number for number, name in enumerate(names)}
    tokenizer = hf.AutoTokenizer.from_pretrained(settings["model"])
    model = hf.AutoModelForSequenceClassification.from_pretrained(settings["model"], num_labels=len(names))

    def encoded(rows: dict[str, list[Any]]) -> dict[str, Any]:
        tokens = tokenizer(rows["text"], truncation=True, max_length=settings["max_length"])
        lengths = [len(ids) for ids in tokens["input_ids"]]
        return {**tokens, "labels": [numbers[label] for label in rows["label"]], "length": lengths}

    data = {split: rows.map(encoded, batched=True, remove_columns=rows.column_names) for split, rows in raw.items()}
    grouped = {"train_sampling_strategy": "group_by_length", "length_column_name": "length"}
    arguments = hf.TrainingArguments(
        settings["output"],
        num_train_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=64,
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="linear",
        warmup_steps=settings["lr_warmup"],
        weight_decay=settings["weight_decay"],
        eval_strategy="epoch",
        save_strategy="no",
        bf16=settings["bf16"],
        use_cpu=settings["use_cpu"],
        seed=settings["seed"],
        report_to="none",
        disable_tqdm=True,
        **(grouped if settings["grouped"] else {}),
    )
    evaluating = [0.0]

    class Timed(hf.Trainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            began = time.perf_counter()
            try:
                return super().evaluate(*args, **kwargs)
            finally:
                evaluating[0] += time.perf_counter() - began

    class Epochs(hf.TrainerCallback):
        """Fine-tuning seconds and dev accuracy after each epoch."""

        def __init__(self) -> None:
            self.began, self.ended, self.lines = 0.0, 0.0, []  # type: ignore[var-annotated]

        def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, *_args: Any, **_kwargs: Any) -> None:
            self.ended = time.perf_counter() - self.began - evaluating[0]

        def on_evaluate(self, *_args: Any, metrics: dict[str, float], **_kwargs: Any) -> None:
            if len(self.lines) < settings["epochs"]:
                line = {"finetune_s": self.ended, "total_s": time.perf_counter() - STARTED}
                self.lines.append({**line, "accuracy": metrics["eval_accuracy"]})

    epochs = Epochs()
    trainer = Timed(
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["dev"],
        data_collator=hf.DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: {"accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))},
        callbacks=[epochs],
    )
    trainer.train()
    finetune_s = epochs.ended
    tested = trainer.evaluate(data["test"])
    trainer.save_model()
    return {
        "dev": epochs.lines[-1]["accuracy"],
        "test": tested["eval_accuracy"],
        "epochs": epochs.lines,
        "steps": trainer.state.global_step,
        "finetune_s": finetune_s,
        "total_s": time.perf_counter() - STARTED,
    }


# ---- the runs


def run_script(settings: dict[str, Any], work: Path) -> dict[str, Any]:
    """A script in a process of its own.

    Raises:
        RuntimeError: If it failed, with the end of what it said.
    """
    config, output = work / "script.json", work / "result.json"
    config.write_text(json.dumps({**settings, "output": str(work / "output")}), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.plain_script", "--script", str(config), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:])
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def run_diet(settings: dict[str, Any], work: Path) -> dict[str, Any]:
    """`datadiet finetune`, with the facts that a script's result has."""
    result = finetuned(settings, work)
    cost, metrics = result["cost"], result["metrics"]
    return {
        "dev": metrics["dev"]["accuracy"],
        "test": metrics["test"]["accuracy"],
        "steps": sum(line["steps"] for line in result["epochs"]),
        "finetune_s": cost["finetune_s"],
        "total_s": cost["total_s"],
        "cost": cost,
    }


def run_cell(cell: Cell, options: argparse.Namespace, work: Path) -> str:
    """Run one cell and keep its figures; paths are not kept."""
    from benchmarks.common import environment
    from datadiet.tasks.loading import resolve_model
    from datadiet.training.machine import best_device

    data, source = work / "data" / cell.set, SETS.get(cell.set, Source(cell.set))
    if not data.exists():
        rows = options.rows or source.traffic
        drawn(options.data_root / source.folder, rows, data, traffic=source.traffic > 0)
    rows = (data / "train.jsonl").read_text(encoding="utf-8").count("\n")
    changes = {name: getattr(options, name) for name in ("epochs", "learning_rate", "max_length")}
    common = {**COMMON, **changes, "seed": cell.seed}
    precision = "fp32" if cell.arm == "script" else options.precision
    with TemporaryDirectory(dir=work) as folder:
        if cell.arm in SCRIPTS:
            on = {"bf16": cell.arm != "script", "grouped": cell.arm == "script_grouped"}
            on["use_cpu"] = best_device().type == "cpu"
            settings = {**common, **on, "data": str(data), "model": resolve_model(options.model)}
            found = run_script(settings, Path(folder))
        else:
            settings = diet_settings(cell, common, rows, options.select)
            place = {"data": str(data), "model": options.model, "precision": precision}
            found = run_diet({**settings, **place}, Path(folder))
    settings = {**common, "select": options.select, "model": Path(options.model).name}
    facts = {"cell": asdict(cell), "rows": rows, "settings": settings}
    keep_figures(options.output, cell.name, {**facts, **found, "environment": environment(precision)})
    return f"dev {found['dev']:.4f}  fine-tuning {found['finetune_s']:.0f} s  total {found['total_s']:.0f} s"


def diet_settings(cell: Cell, common: dict[str, Any], rows: int, select: str | None) -> dict[str, Any]:
    """The options of `datadiet finetune`; `short` has as many steps as the diet of its keep."""
    from datadiet.diet.diet import Diet

    phases = {"warmup_epochs": DIET["warmup_epochs"], "refresh_every": DIET["refresh_every"]}
    settings = {**common, **DIET, "task": "classification", "keep": cell.keep}
    if cell.arm == "diet":
        return settings | ({} if select is None else {"select": select})
    planned = Diet(keep=cell.keep, **phases).forecast(rows, epochs=common["epochs"], batch=common["batch_size"])
    return {**settings, "keep": 1.0, "max_steps": planned.steps}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--output", type=Path, default=RESULTS / "plain_script.json")
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated (default: all)")
    parser.add_argument("--keeps", type=numbers(float), default=[*KEEPS], help="the rungs, comma-separated")
    parser.add_argument("--arms", type=listed(*ARMS), default=[*ARMS], help="comma-separated (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm, which are the repeats")
    parser.add_argument("--rows", type=int, default=0, help="of training (default: those of the set)")
    parser.add_argument("--epochs", type=int, default=COMMON["epochs"])
    parser.add_argument("--learning-rate", type=float, default=COMMON["learning_rate"])
    parser.add_argument("--max-length", type=int, default=COMMON["max_length"], help="tokens of a text")
    parser.add_argument("--select", help="the selector of the diet; its default otherwise")
    parser.add_argument("--model", default="minilm", help="a hub name or folder; minilm is packaged")
    parser.add_argument("--precision", default="bf16", choices=("auto", "bf16", "fp32"), help="of all but `script`")
    parser.add_argument("--print", dest="shown", action="store_true", help="show the table and run nothing")
    parser.add_argument("--script", nargs=2, type=Path, help=argparse.SUPPRESS)  # one script, in this process
    options = parser.parse_args(arguments)
    if options.script:
        config, output = options.script
        output.write_text(json.dumps(plain_script(json.loads(config.read_text(encoding="utf-8")))), encoding="utf-8")
        return
    whole = options.shown or _run_all(options)
    from benchmarks.report.costs import plain_script as shown

    print(shown(options.output.parent, options.output.stem))
    sys.exit(0 if whole else 1)


def _run_all(options: argparse.Namespace) -> bool:
    options.precision = precision_here(options.precision)
    wanted = cells(options.sets.split(","), options.keeps, options.seeds, options.arms)
    done = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    with TemporaryDirectory(prefix="datadiet-bench-") as work:
        return each_once(
            wanted,
            options.output.parent,
            lambda cell: run_cell(cell, options, Path(work)),
            lambda cell: cell.name in done,
        )


if __name__ == "__main__":
    main()
