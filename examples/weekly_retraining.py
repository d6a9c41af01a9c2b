"""Retrain on new data, starting from the scores of the last run.

    python examples/weekly_retraining.py

The same from the command line:

    datadiet finetune week1 --task classification --keep 0.5 --output runs/week1
    datadiet finetune week2 --task classification --keep 0.5 --output runs/week2 --scores-from runs/week1 \
        --warmup-epochs 0 --select hardest

Scores are matched by id, so the data needs an id column. With `warmup_epochs=0` last week's values already choose
the first epoch; new examples have no value and are kept first. `hardest` reads the values; `auto`, the default, may
begin with `cover`, which does not. Needs `pip install 'datadiet[demo]'`.
"""

import json
import tempfile
from pathlib import Path

import pandas as pd

import datadiet as dd

OLD, NEW = 256, 64


def write_week(folder: Path, rows: int) -> None:
    """The first rows of the packaged data, and the same dev split every week."""
    folder.mkdir()
    packaged = dd.load_data("snips", "classification", train_rows=OLD + NEW).splits
    dev = packaged["dev"]
    parts = {"train": packaged["train"].take(range(rows)), "dev": dev.take(range(0, len(dev), 7))}
    for split, examples in parts.items():
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
            for key, text, label in zip(examples.ids, examples.texts, examples.labels, strict=True):
                stream.write(json.dumps({"id": key, "text": text, "label": label}) + "\n")


def main() -> None:
    options = {"task": "classification", "keep": 0.5, "batch_size": 16, "learning_rate": 2e-4, "checkpoint_every": 0}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_week(folder / "week1", OLD)
        write_week(folder / "week2", OLD + NEW)
        first = dd.finetune(
            dd.FinetuneConfig(data=str(folder / "week1"), output=str(folder / "run1"), epochs=4, **options)
        )
        second = dd.finetune(
            dd.FinetuneConfig(
                data=str(folder / "week2"),
                output=str(folder / "run2"),
                epochs=3,
                warmup_epochs=0,
                scores_from=str(folder / "run1"),
                select="hardest",
                **options,
            )
        )
        plans = pd.read_parquet(folder / "run2" / "plans")
        chosen = plans.loc[plans["epoch"] == 0, "row"]
        print(f"week 1: dev accuracy {first['metrics']['dev']['accuracy']:.3f}")
        print(f"week 2: dev accuracy {second['metrics']['dev']['accuracy']:.3f}")
        print(
            f"first epoch of week 2: {len(chosen)} of {OLD + NEW} examples, {(chosen >= OLD).sum()} of {NEW} new ones"
        )


if __name__ == "__main__":
    main()
