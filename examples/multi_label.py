"""Any number of labels per text: the kinds of things that a request names.

    python examples/multi_label.py

The same from the command line, where DATA is a folder with train.csv and dev.csv (text, labels with | between them):

    datadiet finetune DATA --task multi-label --keep 0.5 --output runs/things

Needs `pip install 'datadiet[demo]'`. The labels are made from the packaged data: the kinds of slots in the request.
"""

import csv
import tempfile
from collections import Counter
from pathlib import Path

import datadiet as dd

LABELS = 8  # the most frequent kinds; a request without any of them has no label


def write_data(folder: Path) -> None:
    """Your data: a text, and its labels with | between them."""
    folder.mkdir()
    packaged = dd.load_data("snips", "intent-slot", train_rows=240).splits["train"]
    kinds = [{tag[2:] for tag in tags if tag != "O"} for tags in packaged.slots or ()]
    wanted = {kind for kind, _ in Counter(kind for found in kinds for kind in found).most_common(LABELS)}
    for split, rows in {"train": range(192), "dev": range(192, 240)}.items():
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["id", "text", "labels"])
            for row in rows:
                writer.writerow([f"{split}-{row}", packaged.texts[row], "|".join(sorted(kinds[row] & wanted))])


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data, run = Path(temporary) / "things", Path(temporary) / "run"
        write_data(data)
        config = dd.FinetuneConfig(
            data=str(data),
            task="multi-label",  # el2n is || sigmoid(z) - y ||_2 over the labels
            output=str(run),
            keep=0.5,
            epochs=5,
            batch_size=16,
            learning_rate=5e-4,
            checkpoint_every=0,
        )
        result = dd.finetune(config)
        print("dev:", {name: round(value, 3) for name, value in result["metrics"]["dev"].items()})
        print(f"not trained: {result['ceiling']['examples_saved']:.0%} of the examples")


if __name__ == "__main__":
    main()
