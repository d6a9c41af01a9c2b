"""Peak memory of a diet run against the plain Trainer on the same rows, each in a process of its own.

    python -m benchmarks.memory                                        # 15 minutes on two cores
    python -m benchmarks.memory --cases synthetic --examples 2000 --repeats 1 --output build/memory.json  # a look

Two cases: 4,000 rows of SNIPS with the packaged model, where the model is nearly everything; and 300,000 generated rows
with a model of two tiny layers, where what is kept per example shows. Two epochs, the diet with keep 0.5 after one on
everything; `none` is the default, `all` makes a scoring pass as well. The peak is the process's own high-water mark of
resident memory, imports included; medians. The target: at most 1.05 times the plain Trainer's, plus 64 bytes per
training example.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.cells import listed
from benchmarks.common import (
    Bench,
    add_setting,
    environment,
    keep_figures,
    load_bench,
    parser_of,
    peak_bytes,
    precision_here,
    silence,
    training_arguments,
)

VARIANTS = ("plain", "none", "all")
CASES = ("snips4000", "synthetic")
SHARE, PER_EXAMPLE = 1.05, 64


def synthetic(examples: int) -> Bench:
    """Generated rows of 6 to 12 tokens whose class is that of their second token."""
    import datasets
    import numpy as np
    import pyarrow as pa
    import torch
    from transformers import BertConfig, BertForSequenceClassification, set_seed

    from datadiet.tasks.base import Collator

    generator = np.random.default_rng(0)
    lengths = generator.integers(6, 13, examples)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = generator.integers(5, 1000, ends[-1]).astype(np.int32)
    columns = {"input_ids": pa.ListArray.from_arrays(ends, tokens)}
    columns["attention_mask"] = pa.ListArray.from_arrays(ends, np.ones(len(tokens), np.int8))
    columns |= {"labels": pa.array(tokens[ends[:-1] + 1] % 4, pa.int64()), "length": pa.array(lengths, pa.int32())}

    def new_model() -> Any:
        set_seed(0)
        sizes: dict[str, Any] = {
            "num_labels": 4,
            "pad_token_id": 0,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        return BertForSequenceClassification(BertConfig(vocab_size=1000, **sizes))

    collate = Collator(padding={"input_ids": 0, "attention_mask": 0}, labels={"labels": torch.int64})
    return Bench("synthetic", f"seed 0, {examples} rows", datasets.Dataset(pa.table(columns)), collate, new_model)


def train(bench: Bench, variant: Any, folder: Path, *, batch_size: int, precision: str) -> None:
    """Two epochs with the plain Trainer, or on a diet with that rescore mode."""
    from transformers import Trainer

    import datadiet as dd

    arguments = training_arguments(folder, precision, num_train_epochs=2, per_device_train_batch_size=batch_size)
    shared = bench.trainer_options(arguments)
    if variant == "plain":
        silence(Trainer(**shared)).train()
    else:
        diet = dd.Diet(select="hardest", keep=0.5, warmup_epochs=1, refresh_every=1, rescore=variant)
        silence(dd.DietTrainer(**shared, diet=diet)).train()


def measure_here(options: Any) -> dict[str, Any]:
    """Train in this process; what it held at most, and on what."""
    case, variant = options.measure
    precision = precision_here(options.precision)
    if case == "synthetic":
        bench, batch_size = synthetic(options.examples), 256
    else:
        bench, batch_size = load_bench(case, None, rows=options.rows, model=options.model), 32
    with tempfile.TemporaryDirectory(prefix="datadiet-bench-") as work:
        train(bench, variant, Path(work), batch_size=batch_size, precision=precision)
    return {"peak_bytes": peak_bytes(), "data": bench.described(), "environment": environment(precision)}


def measure_apart(case: str, variant: str, options: Any) -> dict[str, Any]:
    """The same in a process of its own.

    Raises:
        RuntimeError: If it failed, with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.memory", "--measure", case, variant]
    command += ["--examples", str(options.examples), "--model", options.model, "--precision", options.precision]
    command += ["--rows", str(options.rows)] if options.rows else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise RuntimeError(f"{case}, {variant}: {done.stderr.strip()[-500:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def compare(peaks: dict[str, list[int]], examples: int) -> dict[str, Any]:
    """Medians beside what the target allows; extra bytes per example are above the plain Trainer's peak."""
    medians = {variant: int(statistics.median(found)) for variant, found in peaks.items()}
    allowed = SHARE * medians["plain"] + PER_EXAMPLE * examples
    table: dict[str, Any] = {}
    for variant, peak in medians.items():
        table[variant] = {
            "peak_bytes": peak,
            "peaks_bytes": peaks[variant],
            "ratio": round(peak / medians["plain"], 4),
            "extra_bytes_per_example": round((peak - medians["plain"]) / examples, 1),
            "share_of_allowed": round(peak / allowed, 4),
        }
    return {"allowed_bytes": int(allowed), "variants": table}


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "memory")
    add_setting(parser)
    parser.add_argument("--cases", type=listed(*CASES), default=[*CASES], help=f"comma-separated: {', '.join(CASES)}")
    parser.add_argument("--examples", type=int, default=300_000, help="generated rows (default: 300,000)")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind (default: 3)")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "VARIANT"), help="one process's part; prints JSON")
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure_here(options)))
        return
    print(f"{'case':<12}{'variant':<9}{'peak MB':>9}{'x plain':>9}{'extra B/example':>17}{'of allowed':>12}")
    for case in options.cases:
        runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
        for _ in range(options.repeats):
            for variant in VARIANTS:
                runs[variant].append(measure_apart(case, variant, options))
        one = runs["plain"][0]
        found = compare({name: [run["peak_bytes"] for run in some] for name, some in runs.items()}, one["data"]["rows"])
        for variant, row in found["variants"].items():
            figures = f"{row['peak_bytes'] / 1e6:>9.1f}{row['ratio']:>9.3f}{row['extra_bytes_per_example']:>17.1f}"
            print(f"{case:<12}{variant:<9}{figures}{row['share_of_allowed']:>12.3f}", flush=True)
        kept = {"data": one["data"], "repeats": options.repeats, "environment": one["environment"]}
        keep_figures(options.output, case, {**kept, **found})


if __name__ == "__main__":
    main()
